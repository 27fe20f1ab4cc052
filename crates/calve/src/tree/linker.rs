//! What filesystems answered, kept from one call to the next.

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, CWD, Mode};
use rustix::io::Errno;

use super::LinkKind;
use super::mounts::Watch;
use super::pool::lock;
use super::sharing::Sharing;
use super::source::Original;
use super::verdicts::Verdicts;
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;

/// How one destination's filesystem answered clones and links.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(super) sharing: Sharing,
    links: Verdicts,
    symlinks: Verdicts,
    copies: FullFiles,
}

/// Files of the source that have as many names as they can have (65,000 on ext4), and the copies of
/// them that were made instead, to which the next links are made. So the source stays as it is, and
/// so does each place that uses it.
#[derive(Debug, Default)]
pub(super) struct FullFiles(Mutex<Vec<FullFile>>);

#[derive(Debug)]
struct FullFile {
    source: Meta,
    /// The copy, and its stat when it was made. A descriptor says that it is that file, whatever
    /// its name is by now.
    copy: Option<(OwnedFd, Meta)>,
}

impl FullFiles {
    /// Each copy keeps a descriptor open, so there are few.
    const MOST: usize = 4;

    /// Whether there is a copy of `source`. `None`: it needs none.
    pub(super) fn has(&self, source: &Meta) -> Option<bool> {
        if source.links == 1 {
            return None;
        }
        let full = lock(&self.0);
        let full = full.iter().find(|full| full.source.id() == source.id())?;
        Some(full.copy.is_some())
    }

    /// Keeps the copy of `source` that has this name. If it cannot be opened, the next link to
    /// `source` becomes a copy, too.
    pub(super) fn keep(&self, source: &Meta, dir: BorrowedFd<'_>, name: &CStr) {
        let Ok(file) = fs::openat(dir, name, SOURCE_FLAGS, Mode::empty()) else { return };
        let Ok(stat) = fs::fstat(&file) else { return };
        let mut full = lock(&self.0);
        if let Some(full) = full.iter_mut().find(|full| full.source.id() == source.id()) {
            full.copy = Some((file, Meta::of(&stat)));
        }
    }

    /// Links to the copy of a file that can have no further names.
    ///
    /// # Errors
    /// `EMLINK`: there is no copy, or it can be used no more. Then the next one will be kept.
    fn link(
        &self,
        original: &Original<'_>,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> rustix::io::Result<()> {
        let source = Meta::at(original.dir, original.name)?;
        let mut full = lock(&self.0);
        let known = full.iter().position(|full| full.source.id() == source.id());
        if let Some(FullFile { source: then, copy: Some((file, made)) }) = known.map(|at| &full[at])
            && source.is_still_but_for_names(then)
            && Meta::of_file(file).is_ok_and(|meta| meta.is_like(made))
        {
            // A process may make a link to any file that it has open: proc_pid_fd(5).
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            match fs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW) {
                // It is full, too; or it was deleted, is on another mount, or there is no /proc.
                Err(Errno::MLINK | Errno::NOENT | Errno::XDEV) => {}
                done => return done,
            }
        }
        if let Some(at) = known {
            full.remove(at);
        } else if full.len() == Self::MOST {
            full.remove(0);
        }
        full.push(FullFile { source, copy: None });
        Err(Errno::MLINK)
    }
}

impl Answers {
    pub(super) fn copies(&self) -> &FullFiles {
        &self.copies
    }

    /// Makes a link to a file of the source, or to the copy that stands in for it.
    pub(super) fn link(
        &self,
        kind: LinkKind,
        original: &Original<'_>,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> rustix::io::Result<()> {
        if kind == LinkKind::Symbolic {
            return fs::symlinkat(&original.absolute, dir, name);
        }
        match fs::linkat(original.dir, original.name, dir, name, AtFlags::empty()) {
            Err(Errno::MLINK) => self.copies.link(original, dir, name),
            made => made,
        }
    }

    /// What is known of links of this kind.
    pub(super) fn links(&self, kind: LinkKind) -> &Verdicts {
        match kind {
            LinkKind::Hard => &self.links,
            LinkKind::Symbolic => &self.symlinks,
        }
    }
}

/// Remembers from call to call which filesystems refuse clones or hard links, and which clones were
/// proven to have their source's content.
///
/// Without it each call asks a filesystem anew, which costs a refused system call, and with
/// [`or_hardlink`](crate::CloneOptions::or_hardlink) three if it is `EPERM`. Give one `Linker` to
/// all calls that install into the same place ([`CloneOptions::linker`](crate::CloneOptions::linker)).
/// Its clones are the same memory, and threads may use it at once.
///
/// It never outlives a change of mounts: once anything is mounted or unmounted in the mount
/// namespace in which it was made, the next call begins with nothing.
///
/// If a file of the source has as many names as its filesystem allows, a copy is made, and the next
/// links are made to that. A `Linker` keeps up to four such copies open for each destination's
/// filesystem, which cannot be unmounted meanwhile. (Linux)
///
/// # Platforms
/// Linux tells of changed mounts through `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`). Where
/// that cannot be opened, and on other systems, nothing is kept.
#[derive(Debug, Clone, Default)]
pub struct Linker(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// `None`: it was not asked for yet.
    watch: Option<Watch>,
    /// By the device of the destination.
    known: Vec<(u64, Arc<Answers>)>,
}

impl Linker {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of the filesystem of the open folder `dest`, and where a call adds what it
    /// learns.
    pub(super) fn answers(&self, dest: &OwnedFd) -> Arc<Answers> {
        let mut remembered = lock(&self.0);
        let Remembered { watch, known } = &mut *remembered;
        let is_same = watch.get_or_insert_with(Watch::new).is_unchanged();
        if !is_same {
            known.clear();
        }
        let (true, Ok(stat)) = (is_same, fs::fstat(dest)) else {
            return Arc::default();
        };
        let dev = Meta::of(&stat).dev;
        if let Some((_, answers)) = known.iter().find(|(known, _)| *known == dev) {
            return Arc::clone(answers);
        }
        let answers = Arc::<Answers>::default();
        known.push((dev, Arc::clone(&answers)));
        answers
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::tree::verdicts::KnownClones;
    use crate::{CloneOptions, clone_tree};

    fn open(folder: &Path) -> OwnedFd {
        File::open(folder).unwrap().into()
    }

    #[test]
    fn what_one_call_learned_is_known_to_the_next_one_and_to_each_thread() {
        let home = tempfile::tempdir().unwrap();
        let (source, dest) = (home.path().join("source"), home.path().join("dest"));
        for folder in [&source, &dest] {
            std::fs::create_dir(folder).unwrap();
        }
        std::fs::write(source.join("file"), "content").unwrap();
        // Another test may mount something in between.
        let learned = (0..20).any(|number: u32| {
            let linker = Linker::new();
            let options = CloneOptions::new().linker(&linker);
            clone_tree(&source, &[dest.join(number.to_string())], &options).unwrap();
            let dev = Meta::of(&rustix::fs::fstat(open(&source)).unwrap()).dev;
            linker.answers(&open(&dest)).sharing.known(dev) != KnownClones::default()
        });
        assert!(learned);
    }

    #[test]
    fn nothing_is_known_any_more_once_anything_was_mounted_or_unmounted() {
        const TEST: &str = "nothing_is_known_any_more_once_anything_was_mounted_or_unmounted";
        let home = tempfile::tempdir().unwrap();
        let (linker, folder) = (Linker::new(), open(home.path()));
        let mut known = linker.answers(&folder);
        assert!((0..20).any(|_| {
            let before = std::mem::replace(&mut known, linker.answers(&folder));
            Arc::ptr_eq(&before, &known)
        }));
        let place = home.path().join("place");
        std::fs::create_dir(&place).unwrap();
        for words in [&["mount", "-t", "tmpfs", "none"][..], &["umount"]] {
            let done = Command::new(words[0]).args(&words[1..]).arg(&place).output();
            if !done.is_ok_and(|output| output.status.success()) {
                let line = format!("NOT RUN: {TEST}: mounting is not allowed\n");
                eprint!("{line}");
                if let Some(log) = std::env::var_os("CALVE_NOT_RUN") {
                    let mut log = File::options().append(true).create(true).open(log).unwrap();
                    log.write_all(line.as_bytes()).unwrap();
                }
                return;
            }
            let before = std::mem::replace(&mut known, linker.answers(&folder));
            assert!(!Arc::ptr_eq(&before, &known), "{words:?}");
        }
    }
}

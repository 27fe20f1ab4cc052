//! What filesystems answered, kept from one call to the next.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use super::mounts::Watch;
use super::pool::lock;
use super::sharing::Sharing;
use super::verdicts::Verdicts;
use crate::reflink::meta::Meta;

/// How one destination's filesystem answered clones and hard links.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    pub(super) sharing: Sharing,
    pub(super) links: Verdicts,
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
        let (true, Ok(stat)) = (is_same, rustix::fs::fstat(dest)) else {
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
    use crate::tree::verdicts::Known;
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
            linker.answers(&open(&dest)).sharing.known(dev) != Known::default()
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

//! Looks at the entries of a directory. A snapshot, a comparison and a bare look share this pass.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::FileType;

use super::super::files::read_plain;
use super::super::format::is_of_calve;
use super::super::layout::{self, GIT_IGNORE, OWN, Within};
use super::super::manifest::{self, os};
use super::super::marker::HIDES_ALL;
use super::super::object::{Entry, Kind};
use super::super::paths::living::{may_be_owned, owner_of};
use super::files::entry_of;
use super::found::{Inode, Listed, What};
use super::{BATCH_FILES, IGNORE_FILE, ScanNode, ScanTask, ScanWorker, Scanner, UNKNOWN, Wanted};
use crate::error::{Context as _, Error, IfThere as _, Operation};
use crate::reflink::meta::Meta;
use crate::report::{SkipReason, Skipped};
use crate::tree::filter::IgnoreChain;
use crate::tree::listing::{Before, Rest};
use crate::tree::pool::{self, Queue};
use crate::tree::read::read_rules;

/// The pass over the names of one directory.
struct Pass<'a> {
    dir: &'a Arc<ScanNode>,
    fd: &'a OwnedFd,
    dev: u64,
    /// The directory in the base.
    base: Option<&'a manifest::Directory>,
    /// The directory's path, if rules hold in it.
    path: Option<PathBuf>,
    /// The first slot of the base whose name does not come before the current one.
    next: usize,
    /// Whether every entry until now is the base's, with the inode that the index has.
    is_known: bool,
    found: Vec<What>,
    files: Vec<Wanted>,
    directories: Vec<(CString, u32, Option<u32>)>,
}

/// What a pass makes of one name.
enum SeenEntry {
    /// An entry of the tree, and whether it is the base's with the inode that the index has.
    Entry(What, bool),
    Skipped(SkipReason),
    /// An ignore rule leaves it out.
    LeftOut,
}

/// An entry of the base that a file seems to be still, and its slot.
type Trusted<'a> = Option<(&'a Entry, u32)>;

impl<'a> Pass<'a> {
    /// The base's slot for a name. The names come in order.
    fn slot_of(&mut self, name: &CStr) -> Option<u32> {
        // Both lists are sorted by name.
        let entries = &self.base?.entries;
        while self.next < entries.len() && *entries[self.next].name < *name.to_bytes() {
            self.next += 1;
        }
        let is_it = entries.get(self.next).is_some_and(|entry| *entry.name == *name.to_bytes());
        is_it.then(|| u32::try_from(self.next).ok()).flatten()
    }

    fn entry(&self, slot: Option<u32>) -> Option<&'a Entry> {
        Some(&self.base?.entries[slot? as usize])
    }

    /// Whether the rules of a directory above leave out the entry.
    fn is_excluded(&self, name: &CStr, kind: FileType) -> bool {
        let rules = self.dir.chain.as_ref().zip(self.path.as_ref());
        rules.is_some_and(|(chain, path)| {
            chain.excludes(&path.join(os(name.to_bytes())), kind == FileType::Directory)
        })
    }
}

impl Scanner<'_> {
    pub(super) fn list(
        &self,
        worker: &mut ScanWorker,
        dir: &OwnedFd,
        before: Before,
        in_root: bool,
        path: impl FnOnce() -> PathBuf,
    ) -> rustix::io::Result<(Vec<(CString, FileType)>, Rest)> {
        let rest = worker.names.list(dir, before, &mut worker.buffer)?;
        let entries = worker.names.iter().map(|(name, _)| name.to_bytes());
        let within = if in_root { Within::root(entries) } else { Within::below(entries) };
        let (mut names, mut has_own) = (Vec::new(), false);
        for (name, kind) in worker.names.iter() {
            match layout::is_content(name.to_bytes(), within) {
                true => names.push((name.to_owned(), kind)),
                false => has_own |= name.to_bytes() == OWN.as_bytes(),
            }
        }
        if has_own && !is_own_folder(dir) {
            worker.skipped.push(Skipped { path: path().join(OWN), reason: SkipReason::OwnName });
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        // Some filesystems list a name twice.
        names.dedup_by(|a, b| a.0 == b.0);
        Ok((names, rest))
    }

    /// The ignore rules that hold in a directory, on top of the rules of the directories above it.
    pub(super) fn rules(
        &self,
        above: Option<Arc<IgnoreChain>>,
        dir: &OwnedFd,
        names: &[(CString, FileType)],
        path: impl FnOnce() -> PathBuf,
    ) -> Result<Option<Arc<IgnoreChain>>, Error> {
        if names.binary_search_by(|(name, _)| name.as_c_str().cmp(IGNORE_FILE)).is_err() {
            return Ok(above);
        }
        let path = path();
        let text = read_rules(dir, &[IGNORE_FILE])
            .context(Operation::Read, || self.full_path(&path).join(os(IGNORE_FILE.to_bytes())))?;
        Ok(match text {
            Some(text) => Some(IgnoreChain::push(above, &path, &text)),
            None => above,
        })
    }

    /// Looks at the entries of a directory, queues its directories, and reads its files.
    pub(super) fn entries(
        &self,
        worker: &mut ScanWorker,
        dir: &Arc<ScanNode>,
        (place, dev): (u32, u64),
        names: Vec<(CString, FileType)>,
        queue: &Queue<ScanTask>,
    ) -> Result<Listed, Error> {
        let handles = self.handles(dir)?;
        let base = dir.base.and_then(|place| self.request.base?.directories.get(place as usize));
        let mut pass = Pass {
            dir,
            fd: &handles.sides[0],
            dev,
            base,
            path: dir.chain.is_some().then(|| dir.path()),
            next: 0,
            is_known: base.is_some_and(|base| self.request.known_stats(base).is_some()),
            found: Vec::with_capacity(names.len()),
            files: Vec::new(),
            directories: Vec::new(),
        };
        for (name, kind) in names {
            if queue.stopped() {
                return Err(pool::cancelled(Operation::Read, self.request.path));
            }
            let slot = pass.slot_of(&name);
            match self.seen(&mut pass, &name, kind, slot)? {
                SeenEntry::Entry(what, is_same) => {
                    pass.is_known &=
                        is_same && slot.is_some_and(|slot| slot as usize == pass.found.len());
                    pass.found.push(self.as_in_base(&pass, what, slot));
                }
                SeenEntry::Skipped(reason) => {
                    worker.skipped.push(Skipped { path: dir.path_of(&name), reason });
                }
                SeenEntry::LeftOut => self.left_out.store(true, Ordering::Relaxed),
            }
        }
        self.hand_out(worker, pass, place, queue)
    }

    /// Looks at one name.
    fn seen(
        &self,
        pass: &mut Pass<'_>,
        name: &CStr,
        mut kind: FileType,
        slot: Option<u32>,
    ) -> Result<SeenEntry, Error> {
        if self.request.only.is_some_and(|only| !only.has(&pass.dir.path_of(name))) {
            return Ok(SeenEntry::LeftOut);
        }
        // A new regular file is opened in any case, and its stat is then taken by descriptor.
        let mut meta = None;
        if kind == FileType::Unknown || (kind != FileType::Directory && slot.is_some()) {
            let Some(now) = self.meta(pass, name)? else {
                return Ok(SeenEntry::Skipped(SkipReason::Vanished));
            };
            kind = now.file_type();
            meta = Some(now);
        }
        if pass.is_excluded(name, kind) {
            return Ok(SeenEntry::LeftOut);
        }
        // A comparison sees the file if the base has it, so that none seems to be deleted.
        if matches!(kind, FileType::RegularFile | FileType::Symlink)
            && (self.request.intake.is_some() || slot.is_none())
            && may_be_owned(name.to_bytes())
            && let Some(pid) = owner_of(self.request.tree(), &pass.dir.path_of(name))
        {
            return Ok(SeenEntry::Skipped(SkipReason::Living(pid)));
        }
        let mut trusted: Trusted<'_> = None;
        if let (Some(meta), Some(base), Some(slot)) = (&meta, pass.base, slot)
            && kind != FileType::Directory
            && let entry = &base.entries[slot as usize]
            && self.trusted(entry, base.first + slot, meta, (pass.dir, name))
        {
            if self.times_tell_all(entry, pass.fd, name, meta) {
                #[cfg(calve_check)]
                if let Kind::File { blob, .. } = entry.kind
                    && self.request.local_at(pass.dir, name).is_none()
                {
                    crate::check::known_file(pass.fd, name, meta, blob);
                }
                let is_same = meta.links == 1 && meta.dev == pass.dev;
                return Ok(SeenEntry::Entry(What::Same(slot, Inode::of(meta)), is_same));
            }
            trusted = Some((entry, slot));
        }
        match kind {
            FileType::Directory => {
                let child = self.places.fetch_add(1, Ordering::Relaxed);
                let known = pass.base.and_then(|base| base.child(slot?));
                pass.directories.push((name.to_owned(), child, known));
                Ok(SeenEntry::Entry(What::Directory(child), known.is_some()))
            }
            FileType::RegularFile => self.regular(pass, name, meta, slot, trusted),
            FileType::Symlink | FileType::Fifo => {
                let special = self.special(pass.dir, pass.fd, name, kind);
                Ok(match special.map_err(|error| self.unread(pass, name, error))? {
                    Some(other) => SeenEntry::Entry(other, false),
                    None => SeenEntry::Skipped(SkipReason::Vanished),
                })
            }
            FileType::Socket => Ok(SeenEntry::Skipped(SkipReason::Socket)),
            FileType::BlockDevice | FileType::CharacterDevice | FileType::Unknown => {
                Ok(SeenEntry::Skipped(SkipReason::Device))
            }
        }
    }

    /// Looks at a regular file that is not known to be the base's. Without an intake, only one that
    /// may be equal to the base is worth to be opened.
    fn regular(
        &self,
        pass: &mut Pass<'_>,
        name: &CStr,
        meta: Option<Meta>,
        slot: Option<u32>,
        trusted: Trusted<'_>,
    ) -> Result<SeenEntry, Error> {
        let request = self.request;
        let is_local = || slot.is_some() && request.local_at(pass.dir, name).is_some();
        if request.intake.is_none() && !is_local() {
            let meta = match meta {
                Some(meta) => Some(meta),
                None => self.meta(pass, name)?,
            };
            let Some(meta) = meta else { return Ok(SeenEntry::Skipped(SkipReason::Vanished)) };
            let on = request.operation.filesystems();
            let differs = match pass.entry(slot).map(|entry| &entry.kind) {
                Some(Kind::File { size, .. }) => {
                    request.looks_only || *size != meta.size && on.of(pass.fd, meta.dev).sizes
                }
                _ => true,
            };
            if differs {
                let kind = Kind::File { size: meta.size, link: 0, blob: UNKNOWN };
                let entry = entry_of(name.to_bytes(), &meta, None, kind);
                return Ok(SeenEntry::Entry(What::Other(Box::new(entry), Inode::of(&meta)), false));
            }
        }
        let known = trusted.and_then(|(entry, slot)| match entry.kind {
            Kind::File { blob, .. } => Some((slot, blob)),
            _ => None,
        });
        // A directory with more entries has no numbers for them.
        let at = u32::try_from(pass.found.len()).unwrap_or(u32::MAX);
        pass.files.push(Wanted { name: name.to_owned(), at, known });
        Ok(SeenEntry::Entry(What::Pending, false))
    }

    /// A bare look compares entries with those of the look before it, whose memory they share.
    fn as_in_base(&self, pass: &Pass<'_>, what: What, slot: Option<u32>) -> What {
        match (&what, slot, pass.entry(slot)) {
            (What::Other(entry, inode), Some(slot), Some(known))
                if self.request.looks_only && *known == **entry =>
            {
                What::Same(slot, *inode)
            }
            _ => what,
        }
    }

    /// Queues the directories and all files but one batch, which this thread reads.
    fn hand_out(
        &self,
        worker: &mut ScanWorker,
        pass: Pass<'_>,
        place: u32,
        queue: &Queue<ScanTask>,
    ) -> Result<Listed, Error> {
        let Pass { dir, base, is_known, mut found, mut files, directories, .. } = pass;
        // Files that must be opened are counted when they have been read.
        let known = found.iter().filter(|it| matches!(it, What::Same(..) | What::Other(..)));
        self.request.operation.files_done(known.count() as u64);
        dir.add_pending(directories.len());
        let known = base.filter(|base| is_known && base.entries.len() == found.len());
        let places = directories.iter().map(|(_, child, _)| *child);
        let known = known.map(|_| Listed::Known(places.collect()));
        // Directories are queued first, because the last task that is queued is done first: while
        // this thread works on the files, the directories wait for the other threads.
        queue.extend(directories.into_iter().map(|(name, place, base)| ScanTask::Directory {
            parent: Some(Arc::clone(dir)),
            name,
            place,
            base,
        }));
        while files.len() > BATCH_FILES {
            let batch = files.split_off(files.len() - BATCH_FILES);
            dir.add_pending(1);
            queue.push(ScanTask::Files { dir: Arc::clone(dir), place, files: batch });
        }
        if let Some(known) = known {
            return Ok(known);
        }
        for (at, what) in self.files(worker, dir, place, files, queue)? {
            found[at as usize] = what;
        }
        Ok(Listed::Each(found))
    }

    /// The stat of an entry. `None` if it is gone.
    fn meta(&self, pass: &Pass<'_>, name: &CStr) -> Result<Option<Meta>, Error> {
        let meta = Meta::at(pass.fd, name).if_there();
        meta.map_err(|errno| self.unread(pass, name, errno.into()))
    }

    fn unread(&self, pass: &Pass<'_>, name: &CStr, error: io::Error) -> Error {
        Error::io(Operation::Read, self.full_path(&pass.dir.path_of(name)), error)
    }
}

/// More than any filesystem adds to the file that hides `.calve` from git.
const HIDING_MOST_BYTES: u64 = 64 << 10;

/// Whether calve made the `.calve` in a directory. calve's own has a file that hides all of it from
/// git. A power cut may leave that file empty or full of zeros, and some filesystems add zeros to it.
fn is_own_folder(dir: &OwnedFd) -> bool {
    let made = read_plain(dir, &Path::new(OWN).join(GIT_IGNORE), HIDING_MOST_BYTES)
        .is_ok_and(|it| it.strip_prefix(HIDES_ALL).unwrap_or(&it).iter().all(|byte| *byte == 0));
    made || is_of_calve(dir, Path::new(OWN)).unwrap_or(true)
}

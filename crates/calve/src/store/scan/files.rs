//! Looks at entries other than directories, by name or by descriptor, and takes them in or only
//! compares them.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{self, FileType};
use rustix::io::{Errno, pread, retry_on_intr};

use super::super::blobs::{Intake, IntakeOutcome, Writers, is_traced};
use super::super::id::BlobId;
use super::super::object::{Attributes, Entry, Kind};
use super::super::paths::MOST_BYTES;
use super::super::paths::spelling::kind_to_learn_from;
use super::databases::may_be_database;
use super::{
    Inode, Looked, Mentions, ScanNode, ScanTask, ScanWorker, Scanner, Wanted, What, mtime_of,
};
use crate::error::{Context as _, Error, IfThere as _, Operation};
use crate::reflink::copy::TRIES;
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::{Attrs, Meta};
use crate::reflink::sys;
use crate::report::{SkipReason, Skipped};
use crate::tree::pool::{self, Queue, lock};
use crate::tree::read::open_unnoted;

/// Why a scan ended that must not read more than so many bytes.
#[derive(Debug)]
pub(crate) struct GivenUp;

impl std::error::Error for GivenUp {}

impl std::fmt::Display for GivenUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is more to read than was wanted")
    }
}

impl GivenUp {
    /// Whether an operation ended because of this.
    pub(crate) fn ended(error: &Error) -> bool {
        let cause = std::error::Error::source(error);
        let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<Self>())
    }
}

impl Scanner<'_> {
    /// Looks at a symbolic link or a FIFO. `None` if it is gone.
    pub(super) fn special(
        &self,
        dir: &ScanNode,
        fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
    ) -> io::Result<Option<What>> {
        let mut target = if kind == FileType::Symlink {
            match fs::readlinkat(fd, name, Vec::new()) {
                Ok(target) => Some(target),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        } else {
            None
        };
        let Some(meta) = Meta::at(fd, name).if_there()? else { return Ok(None) };
        if meta.file_type() != kind {
            return Ok(None);
        }
        let known = self.known(dir, name);
        if let (Some(local), Some(here)) = (self.request.local, &target)
            && known.is_none_or(|known| {
                !matches!(&known.kind, Kind::Symlink { target, .. } if **target == *here.to_bytes())
            })
            && let Some(canonical) =
                local.canonical_target(self.request.tree(), &dir.path_of(name), here.to_bytes())
        {
            target = Some(CString::new(canonical)?);
        }
        let kind = target.map_or(Kind::Fifo { link: 0 }, |target| Kind::Symlink {
            target: target.to_bytes().into(),
            link: 0,
        });
        let mut entry = entry_of(name.to_bytes(), &meta, None, kind);
        self.settle(&mut entry, known);
        Ok(Some(What::Other(Box::new(entry), Inode::of(&meta))))
    }

    /// The entry that the base has under this name.
    fn known(&self, dir: &ScanNode, name: &CStr) -> Option<&Entry> {
        let base = self.request.base?.directories.get(dir.base? as usize)?;
        Some(&base.entries[base.find(name.to_bytes())? as usize])
    }

    /// Gives the entry the base's value for metadata that could not be set here. This also holds
    /// for an entry of a new snapshot.
    pub(super) fn settle(&self, entry: &mut Entry, known: Option<&Entry>) {
        if let Some(known) = known
            && !self.request.looks_only
        {
            self.request.maker.settle(entry, known);
        }
    }

    /// The entry of an open file or directory. Notes which of its attributes may not be read.
    pub(super) fn read_entry(
        &self,
        file: &OwnedFd,
        name: &CStr,
        meta: &Meta,
        kind: Kind,
        path_of: impl Fn() -> PathBuf,
    ) -> io::Result<Entry> {
        let attrs = Attrs::read(file)?;
        let unread = attrs.as_ref().and_then(|attrs| attrs.unread(meta.permissions()));
        let mut entry = entry_of(name.to_bytes(), meta, attributes_in(attrs), kind);
        if let Some((names, permissions)) = unread {
            entry.mode = permissions;
            let reason = SkipReason::Xattrs(names);
            lock(&self.unread).push(Skipped { path: path_of(), reason });
        }
        Ok(entry)
    }

    pub(super) fn files(
        &self,
        worker: &mut ScanWorker,
        dir: &Arc<ScanNode>,
        place: u32,
        files: Vec<Wanted>,
        queue: &Queue<ScanTask>,
    ) -> Result<Vec<Looked>, Error> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let mut looked = Vec::with_capacity(files.len());
        let stop = || queue.stopped();
        let handles = self.handles(dir)?;
        for wanted in files {
            if stop() {
                return Err(pool::cancelled(Operation::Read, self.request.path));
            }
            let what = self
                .file(worker, (dir, place), &handles.sides[0], &wanted, &stop)
                .context(Operation::TakeIn, || self.full_path(&dir.path_of(&wanted.name)))?;
            match what {
                Ok(what) => looked.push((wanted.at, what)),
                Err(reason) => {
                    worker.skipped.push(Skipped { path: dir.path_of(&wanted.name), reason });
                }
            }
        }
        Ok(looked)
    }

    /// Takes in a regular file, or only compares it.
    fn file(
        &self,
        worker: &mut ScanWorker,
        (dir, place): (&Arc<ScanNode>, u32),
        fd: &OwnedFd,
        wanted: &Wanted,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Result<What, SkipReason>> {
        let file = match open_unnoted(fd, &wanted.name, SOURCE_FLAGS) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Err(SkipReason::Vanished)),
            Err(errno) => return Err(errno.into()),
        };
        let meta = Meta::of_file(&file)?;
        if meta.file_type() != FileType::RegularFile {
            return Ok(Err(SkipReason::Vanished));
        }
        if self.request.operation.reads_too_much(meta.size) {
            return Err(io::Error::other(GivenUp));
        }
        let noted = (&mut worker.intake, &mut worker.mentions);
        let (what, writers) = self.content(noted, dir, &file, meta, wanted, stop)?;
        if self.request.intake.is_some() && writers != Writers::None && may_be_database(&file)? {
            self.note_database(worker, dir, place, &wanted.name);
        }
        if what.is_ok() {
            self.request.operation.file_done(meta.size);
        }
        Ok(what)
    }

    /// The content of an open regular file, and who could write to the file.
    pub(super) fn content(
        &self,
        (intake, mentions): (&mut Intake, &mut Mentions),
        dir: &ScanNode,
        file: &OwnedFd,
        meta: Meta,
        wanted: &Wanted,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<(Result<What, SkipReason>, Writers)> {
        let stamp = (self.request.stamp.0, i64::from(self.request.stamp.1));
        if let Some(found) = self.canonical((intake, mentions), dir, file, meta, wanted)? {
            return Ok(found);
        }
        let alike = self.request.alike.filter(|_| self.request.intake.is_some());
        let alike = alike.and_then(|it| it.content(&dir.path_of(&wanted.name), &meta));
        let (kind, meta, traced, writers) = match (self.request.intake, alike) {
            (Some(_), Some(blob)) => {
                let writers = intake.writers(file, meta.dev);
                let traced = is_traced(writers, false, meta.changed, stamp);
                let kind = Kind::File { size: meta.size, link: 0, blob };
                (kind, meta, traced, writers)
            }
            (Some(_), None) => {
                let blobs = self.request.blobs;
                match blobs.take_in(intake, file, meta, stamp, stop)? {
                    IntakeOutcome::Stored { blob, size, meta, traced, writers } => {
                        let text = self.request.local.is_none().then_some((file, size));
                        let path = dir.path_of(&wanted.name);
                        mentions.note(&path, intake.mentions_root, text);
                        let kind = Kind::File { size, link: 0, blob };
                        (kind, meta, traced, writers)
                    }
                    IntakeOutcome::Changing => {
                        return Ok((Err(SkipReason::Changing), Writers::Possible));
                    }
                }
            }
            (None, _) => {
                // Only a file that the index may come to vouch for, in this boot, has to be asked
                // about.
                let mut writers = Writers::Unknown;
                let traced = wanted.known.is_some() && {
                    writers = intake.writers(file, meta.dev);
                    let protected = writers == Writers::Possible && sys::write_back(file);
                    is_traced(writers, protected, meta.changed, stamp)
                };
                let (blob, size) = intake.hash(file, meta.size, stop)?;
                let kind = Kind::File { size, link: 0, blob };
                (kind, meta, traced, writers)
            }
        };
        let inode = if traced { Inode::of(&meta) } else { Inode::untraced(&meta) };
        if let (Some((slot, known)), Kind::File { blob, .. }) = (wanted.known, &kind)
            && known == *blob
        {
            return Ok((Ok(What::Same(slot, inode)), writers));
        }
        let path_of = || dir.path_of(&wanted.name);
        let mut entry = self.read_entry(file, &wanted.name, &meta, kind, path_of)?;
        self.settle(&mut entry, self.known(dir, &wanted.name));
        Ok((Ok(What::Other(Box::new(entry), inode)), writers))
    }
}

impl Scanner<'_> {
    /// The content of a file that is small enough to be translated.
    fn small(&self, file: &OwnedFd, meta: &Meta) -> io::Result<Option<Vec<u8>>> {
        if self.request.operation.filesystems().of(file, meta.dev).sizes {
            return read_small(file, meta.size);
        }
        let found = read_up_to(file, MOST_BYTES + 1)?;
        Ok(Some(found).filter(|bytes| bytes.len() as u64 <= MOST_BYTES))
    }

    /// Looks at a file that names this tree's root, as a snapshot has it. `None` if the file is the
    /// same in a snapshot.
    fn canonical(
        &self,
        (intake, mentions): (&mut Intake, &mut Mentions),
        dir: &ScanNode,
        file: &OwnedFd,
        mut meta: Meta,
        wanted: &Wanted,
    ) -> io::Result<Option<(Result<What, SkipReason>, Writers)>> {
        let Some(local) = self.request.local_at(dir, &wanted.name) else { return Ok(None) };
        let (path, known) = (dir.path_of(&wanted.name), self.known(dir, &wanted.name));
        let known_blob = known.and_then(|known| match known.kind {
            Kind::File { blob, .. } => Some(blob),
            _ => None,
        });
        for _ in 0..TRIES {
            let Some(bytes) = self.small(file, &meta)? else { return Ok(None) };
            // A snapshot may have a file that names this root, or a file that was never translated.
            if known_blob == Some(BlobId::of(&bytes)) {
                return Ok(None);
            }
            let Some(canonical) = local.canonical(self.request.tree(), &path, &bytes)? else {
                return Ok(None);
            };
            // A store into a page that is dirty and mapped changes the file and moves no time.
            let writers = intake.writers(file, meta.dev);
            let protected = writers == Writers::Possible && sys::write_back(file);
            let after = Meta::of_file(file)?;
            let rested = after.has_content_of(&meta);
            // Where the clock is not believed, the times may go on by themselves.
            let counts = rested || !self.request.operation.filesystems().of(file, meta.dev).clock;
            if !counts || self.small(file, &meta)?.as_ref() != Some(&bytes) {
                meta = after;
                continue;
            }
            let (blob, size) = (BlobId::of(&canonical), canonical.len() as u64);
            if self.request.intake.is_some() {
                mentions.paths.push(path.clone());
                if let Some(kind) = kind_to_learn_from(&path) {
                    mentions.spellings.learn(kind, &canonical);
                }
                self.request.blobs.keep(intake, blob, &canonical)?;
            }
            let stamp = (self.request.stamp.0, i64::from(self.request.stamp.1));
            let inode = match rested && is_traced(writers, protected, meta.changed, stamp) {
                true => Inode::of(&meta),
                false => Inode::untraced(&meta),
            };
            if let Some((slot, known)) = wanted.known
                && known == blob
            {
                return Ok(Some((Ok(What::Same(slot, inode)), writers)));
            }
            let kind = Kind::File { size, link: 0, blob };
            let mut entry = self.read_entry(file, &wanted.name, &meta, kind, || path.clone())?;
            self.settle(&mut entry, known);
            if let Some(known) = known
                && known_blob == Some(blob)
                && entry.mtime.1 == known.mtime.1
                && known.mtime.0 - entry.mtime.0 == local.seconds_older(&path)
            {
                entry.mtime = known.mtime;
            }
            return Ok(Some((Ok(What::Other(Box::new(entry), inode)), writers)));
        }
        Ok(Some((Err(SkipReason::Changing), Writers::Possible)))
    }
}

/// The content of a file that is small enough to be translated.
pub(crate) fn read_small(file: &OwnedFd, size: u64) -> io::Result<Option<Vec<u8>>> {
    if size > MOST_BYTES { Ok(None) } else { read_up_to(file, size).map(Some) }
}

fn read_up_to(file: &OwnedFd, size: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut done = 0;
    while done < bytes.len() {
        match retry_on_intr(|| pread(file, &mut bytes[done..], done as u64))? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

pub(crate) fn entry_of(
    name: &[u8],
    meta: &Meta,
    attributes: Option<Box<Attributes>>,
    kind: Kind,
) -> Entry {
    Entry {
        name: name.into(),
        mode: meta.permissions(),
        uid: meta.uid,
        gid: meta.gid,
        mtime: mtime_of(meta),
        attributes,
        kind,
    }
}

pub(crate) fn attributes(file: &OwnedFd) -> io::Result<Option<Box<Attributes>>> {
    Ok(attributes_in(Attrs::read(file)?))
}

fn attributes_in(attrs: Option<Box<Attrs>>) -> Option<Box<Attributes>> {
    attrs.map(|attrs| attrs.to_sorted()).filter(|list| !list.is_empty()).map(Box::new)
}

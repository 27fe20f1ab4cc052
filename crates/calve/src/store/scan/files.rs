//! Looks at entries other than directories, by name or by descriptor, and takes them in or only
//! compares them.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::super::blobs::{Intake, Taken, Writers, is_traced};
use super::super::object::{Attributes, Entry, Kind};
use super::databases::may_be_database;
use super::{Inode, Node, Scanner, Task, Wanted, What, Worker, mtime_of};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::{Attrs, Meta};
use crate::reflink::sys;
use crate::report::{SkipReason, Skipped};
use crate::tree::pool::{self, Queue};

impl Scanner<'_> {
    /// Looks at a symbolic link or a FIFO. `None` if it is gone.
    pub(super) fn special(
        &self,
        dir: &Node,
        fd: &OwnedFd,
        name: &CStr,
        kind: FileType,
    ) -> io::Result<Option<What>> {
        let target = if kind == FileType::Symlink {
            match fs::readlinkat(fd, name, Vec::new()) {
                Ok(target) => Some(target),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        } else {
            None
        };
        let meta = match fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Meta::of(&stat),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if meta.file_type() != kind {
            return Ok(None);
        }
        let kind = target.map_or(Kind::Fifo { link: 0 }, |target| Kind::Symlink {
            target: target.to_bytes().into(),
            link: 0,
        });
        let mut entry = entry_of(name.to_bytes(), &meta, None, kind);
        self.settle(&mut entry, self.known(dir, name));
        Ok(Some(What::Other(Box::new(entry), Inode::of(&meta))))
    }

    /// The entry that the base has under this name.
    fn known(&self, dir: &Node, name: &CStr) -> Option<&Entry> {
        let base = self.request.base?.directories.get(dir.base? as usize)?;
        Some(&base.entries[base.find(name.to_bytes())? as usize])
    }

    /// Gives the entry the base's value for metadata that could not be set here. This also holds
    /// for an entry of a new snapshot.
    pub(super) fn settle(&self, entry: &mut Entry, known: Option<&Entry>) {
        if let Some(known) = known {
            self.request.maker.settle(entry, known);
        }
    }

    pub(super) fn files(
        &self,
        worker: &mut Worker,
        dir: &Arc<Node>,
        place: u32,
        files: Vec<Wanted>,
        queue: &Queue<Task>,
    ) -> Result<(), Error> {
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
                Ok(what) => worker.files.push((place, wanted.at, what)),
                Err(reason) => {
                    worker.skipped.push(Skipped { path: dir.path_of(&wanted.name), reason });
                }
            }
        }
        Ok(())
    }

    /// Takes in a regular file, or only compares it.
    fn file(
        &self,
        worker: &mut Worker,
        (dir, place): (&Arc<Node>, u32),
        fd: &OwnedFd,
        wanted: &Wanted,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Result<What, SkipReason>> {
        let file = match fs::openat(fd, &wanted.name, SOURCE_FLAGS, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Err(SkipReason::Vanished)),
            Err(errno) => return Err(errno.into()),
        };
        let meta = Meta::of(&fs::fstat(&file)?);
        if meta.file_type() != FileType::RegularFile {
            return Ok(Err(SkipReason::Vanished));
        }
        let (what, writers) = self.content(&mut worker.intake, dir, &file, meta, wanted, stop)?;
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
        intake: &mut Intake,
        dir: &Node,
        file: &OwnedFd,
        meta: Meta,
        wanted: &Wanted,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<(Result<What, SkipReason>, Writers)> {
        let name = wanted.name.to_bytes();
        let stamp = (self.request.stamp.0, i64::from(self.request.stamp.1));
        let (kind, meta, attributes, traced, writers) = match self.request.intake {
            Some(_) => {
                let blobs = self.request.blobs;
                match blobs.take_in(intake, file, meta, stamp, stop)? {
                    Taken::Stored { blob, size, meta, traced, writers } => {
                        let kind = Kind::File { size, link: 0, blob };
                        (kind, meta, attributes(file)?, traced, writers)
                    }
                    Taken::Changing => {
                        return Ok((Err(SkipReason::Changing), Writers::Possible));
                    }
                }
            }
            None => {
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
                (kind, meta, attributes(file)?, traced, writers)
            }
        };
        let inode = if traced { Inode::of(&meta) } else { Inode::untraced(&meta) };
        if let (Some((slot, known)), Kind::File { blob, .. }) = (wanted.known, &kind)
            && known == *blob
        {
            return Ok((Ok(What::Same(slot, inode)), writers));
        }
        let mut entry = entry_of(name, &meta, attributes, kind);
        self.settle(&mut entry, self.known(dir, &wanted.name));
        Ok((Ok(What::Other(Box::new(entry), inode)), writers))
    }
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
    Ok(Attrs::read(file)?
        .map(|attrs| attrs.to_sorted())
        .filter(|list| !list.is_empty())
        .map(Box::new))
}

//! What is taken for unchanged without a look at its content; the module [`index`](super::super::index) argues why.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::super::blobs::Mirror;
use super::super::index::{Index, Stat};
use super::super::object::{Entry, Kind};
use super::{Inode, Scanned, Scanner, What, mtime_of, stat_of};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys::{self, Overwrites};

impl Scanner<'_> {
    /// Whether what `meta` is of is the entry, for all that the index knows. Owner and mode are not compared: the change time tells of
    /// each change of them, and some could not be set here ([`metadata`](super::super::metadata)).
    pub(super) fn trusted(&self, entry: &Entry, number: u32, meta: &Meta) -> bool {
        let Some(index) = self.request.index else { return false };
        let Some(known) = index.stats.get(number as usize) else { return false };
        let size_is = match &entry.kind {
            Kind::File { size, .. } => *size == meta.size,
            Kind::Symlink { target, .. } => target.len() as u64 == meta.size,
            Kind::Directory(_) | Kind::Fifo { .. } => true,
        };
        let kind_is = matches!(
            (&entry.kind, meta.file_type()),
            (Kind::File { .. }, FileType::RegularFile)
                | (Kind::Symlink { .. }, FileType::Symlink)
                | (Kind::Directory(_), FileType::Directory)
                | (Kind::Fifo { .. }, FileType::Fifo)
        );
        kind_is
            && size_is
            && *known == stat_of(meta)
            && known.changed < index.stamp
            && mtime_of(meta) == entry.mtime
    }

    /// Whether the times of a file that is trusted tell of every write to it. See [the rule of the boot](super::super::index).
    pub(super) fn times_tell_all(
        &self,
        entry: &Entry,
        dir: &OwnedFd,
        name: &CStr,
        meta: &Meta,
    ) -> bool {
        let Kind::File { size, blob, .. } = entry.kind else { return true };
        if size == 0 || self.request.index.is_none_or(|index| index.boot == self.boot) {
            return true;
        }
        let mirror = || {
            Ok(match self.request.blobs.look(blob, size)? {
                Mirror::Sealed(file, _) => Some(file),
                Mirror::Unsealed(..) | Mirror::Missing => None,
            })
        };
        let look = |file: OwnedFd| -> io::Result<bool> {
            let is_it = stat_of(&Meta::of(&fs::fstat(&file)?)) == stat_of(meta);
            Ok(is_it && old_times_mean_old_content(&file, mirror)?)
        };
        match fs::openat(dir, name, SOURCE_FLAGS, Mode::empty()) {
            // Whatever is in the way of that is in the way of reading it, too.
            Ok(file) => look(file).unwrap_or(false),
            // Nobody who may not read it would find out by reading it.
            Err(Errno::ACCESS | Errno::PERM) => true,
            Err(_) => false,
        }
    }

    /// The index for what was found as it says. What was not is looked at again the next time.
    pub(super) fn what_holds(&self, scanned: &[Option<Scanned>]) -> Option<Index> {
        let (index, base) = (self.request.index?, self.request.base?);
        if self.request.intake.is_some() || index.boot == self.boot {
            return None;
        }
        let mut stats = vec![Stat::default(); index.stats.len()];
        let mut hold = |number: u32, inode: Inode| {
            let number = number as usize;
            if index.stats.get(number) == Some(&inode.stat) && inode.stat.changed < index.stamp {
                stats[number] = inode.stat;
            }
        };
        for directory in scanned.iter().flatten() {
            let Some(place) = directory.base else { continue };
            hold(base.number_of(place), directory.inode);
            let first = base.directories[place as usize].first;
            for found in &directory.found {
                if let What::Same(slot, inode) = found.0 {
                    hold(first + slot, inode);
                }
            }
        }
        Some(Index { boot: self.boot, stats, ..index.clone() })
    }
}

/// Whether a file that has its old times after a crash has its old content, too. `original` opens a clone of that content that nobody
/// ever writes to.
///
/// It has if no overwrite goes in place: the filesystem's log puts new blocks into the file after the new times. On XFS that is so for
/// shared blocks. That they are shared now proves little, since a process may have cloned the file after the crash; that the
/// original has the same blocks proves it.
fn old_times_mean_old_content(
    file: &OwnedFd,
    original: impl FnOnce() -> io::Result<Option<OwnedFd>>,
) -> io::Result<bool> {
    match sys::overwrites(file)? {
        Overwrites::NewBlocks => Ok(true),
        Overwrites::NewBlocksWhereShared => {
            let Some(blocks) = sys::shared_blocks(file)? else { return Ok(false) };
            // Holes, or nothing that was ever written.
            if blocks.is_empty() {
                return Ok(true);
            }
            let Some(original) = original()? else { return Ok(false) };
            Ok(sys::shared_blocks(original)? == Some(blocks))
        }
        Overwrites::MaybeInPlace => Ok(false),
    }
}

//! Decides which entries count as unchanged without a look at their content. The module
//! [`index`](super::super::index) argues why.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::super::blobs::Mirror;
use super::super::index::{Index, Stat};
use super::super::object::{Entry, Kind, Time};
use super::{Inode, Listed, ScanNode, Scanned, Scanner, What, mtime_of};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys::{self, Overwrites};

impl Scanner<'_> {
    /// Whether, as far as the index knows, the entry on disk that `meta` describes is `entry`.
    /// Owner and mode are not compared: the change time shows each change of them, and some of them
    /// could not be set here ([`metadata`](super::super::metadata)).
    pub(super) fn trusted(
        &self,
        entry: &Entry,
        number: u32,
        meta: &Meta,
        (dir, name): (&ScanNode, &CStr),
    ) -> bool {
        if !self.is_as_known(entry, number, meta) {
            return false;
        }
        let size_is = match &entry.kind {
            Kind::File { size, .. } => *size == meta.size,
            Kind::Symlink { target, .. } => target.len() as u64 == meta.size,
            Kind::Directory(_) | Kind::Fifo { .. } => true,
        };
        if size_is && mtime_of(meta) == entry.mtime {
            return true;
        }
        // A file that names this tree's root has another size here, and perhaps an older time. Its
        // change time shows a later change of each.
        let Some(local) = self.request.local else { return false };
        let older = match &entry.kind {
            Kind::File { .. } => {
                let path = dir.path_of(name);
                local.may_differ(&path).then(|| local.seconds_older(&path))
            }
            Kind::Symlink { target, .. } => local.differs_as_target(target).then_some(0),
            Kind::Directory(_) | Kind::Fifo { .. } => None,
        };
        let Time(seconds, nanoseconds) = mtime_of(meta);
        older.is_some_and(|older| Time(seconds.saturating_add(older), nanoseconds) == entry.mtime)
    }

    /// Whether the index has the inode and the change time of `meta` for the entry, and may be
    /// believed.
    pub(super) fn is_as_known(&self, entry: &Entry, number: u32, meta: &Meta) -> bool {
        let Some(index) = self.request.index else { return false };
        let Some(known) = index.stats.get(number as usize) else { return false };
        let kind_is = matches!(
            (&entry.kind, meta.file_type()),
            (Kind::File { .. }, FileType::RegularFile)
                | (Kind::Symlink { .. }, FileType::Symlink)
                | (Kind::Directory(_), FileType::Directory)
                | (Kind::Fifo { .. }, FileType::Fifo)
        );
        // Where the clock is not believed, the change time may stay.
        let rested = || {
            let stamp = (index.stamp.0, i64::from(index.stamp.1));
            meta.modified() < stamp || self.request.operation.filesystems().has_clock(meta.dev)
        };
        kind_is && *known == Stat::of(meta) && known.changed < index.stamp && rested()
    }

    /// Whether the times of a trusted file show every write to it. See [the rule of the
    /// boot](super::super::index).
    pub(super) fn times_tell_all(
        &self,
        entry: &Entry,
        dir: &OwnedFd,
        name: &CStr,
        meta: &Meta,
    ) -> bool {
        let Kind::File { size, blob, .. } = entry.kind else { return true };
        if size != meta.size {
            // It names this tree's root. Its blocks are no clone's, and its size was not compared.
            return self.request.index.is_none_or(|index| index.boot == self.boot);
        }
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
            let is_it = Stat::of(&Meta::of_file(&file)?) == Stat::of(meta);
            Ok(is_it && old_times_mean_old_content(&file, mirror)?)
        };
        match fs::openat(dir, name, SOURCE_FLAGS, Mode::empty()) {
            // After an error here calve tries to read the file, and meets the cause of the error
            // again.
            Ok(file) => look(file).unwrap_or(false),
            // A process that may not read the file cannot learn more by reading it.
            Err(Errno::ACCESS | Errno::PERM) => true,
            Err(_) => false,
        }
    }

    /// An index for this boot, with the entries that the scan found unchanged. The next scan looks
    /// again at all other entries.
    pub(super) fn what_holds(&self, scanned: &[Option<Scanned>]) -> Option<Index> {
        let (index, base) = (self.request.index?, self.request.base?);
        if self.request.intake.is_some() || index.boot == self.boot {
            return None;
        }
        let mut stats = vec![Stat::default(); index.stats.len()];
        let mut hold = |number: u32, inode: Inode| {
            let number = number as usize;
            let stat = inode.stat();
            if index.stats.get(number) == Some(&stat) && stat.changed < index.stamp {
                stats[number] = stat;
            }
        };
        for directory in scanned.iter().flatten() {
            let (Some(place), found) = (directory.base, &directory.found) else { continue };
            hold(base.number_of(place), directory.inode);
            let first = base.directories[place as usize].first;
            for found in directory.found() {
                if let &What::Same(slot, inode) = found {
                    hold(first + slot, inode);
                }
            }
            let directory = &base.directories[place as usize];
            if let (Listed::Known(_), Some(known)) = (found, self.request.known_stats(directory)) {
                for ((number, entry), stat) in (first..).zip(&directory.entries).zip(known) {
                    if !entry.is_directory() {
                        hold(number, Inode::known(stat, 0));
                    }
                }
            }
        }
        Some(Index { boot: self.boot, stats, ..index.clone() })
    }
}

/// Whether a file that has its old times after a crash also has its old content. `original` opens a
/// clone of that content that nobody ever writes to.
///
/// The content is old if no overwrite goes in place: the filesystem's log puts new blocks into the
/// file after the new times. On XFS this holds for shared blocks. That the blocks are shared now
/// proves little, since a process may have cloned the file after the crash. That the original has
/// the same blocks proves it.
fn old_times_mean_old_content(
    file: &OwnedFd,
    original: impl FnOnce() -> io::Result<Option<OwnedFd>>,
) -> io::Result<bool> {
    match sys::overwrites(file)? {
        Overwrites::NewBlocks => Ok(true),
        Overwrites::NewBlocksWhereShared => {
            let Some(blocks) = sys::shared_blocks(file)? else { return Ok(false) };
            // The file consists of holes, or nothing was ever written to it.
            if blocks.is_empty() {
                return Ok(true);
            }
            let Some(original) = original()? else { return Ok(false) };
            Ok(sys::shared_blocks(original)? == Some(blocks))
        }
        Overwrites::MaybeInPlace => Ok(false),
    }
}

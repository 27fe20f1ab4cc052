//! Snapshots of a ready tree that wait to be handed over, on btrfs.
//!
//! A subvolume snapshot takes no time, but the kernel has none of its inodes in memory. The first
//! command that looks at every file, such as `git status`, waits until the kernel has made them;
//! that takes three times as long as the look itself. So a process at the lowest priority makes a
//! snapshot beforehand, `templates/ID.N`, and looks at each entry of it. A start takes the snapshot
//! by a rename, which leaves the inodes and the names in the kernel's cache.
//!
//! # How calve knows that nobody touched the snapshot
//! The seal of the ready tree is the seal of its snapshots, too: a subvolume snapshot begins with
//! the number of the last change of its source, and the first change of its own gives it a higher
//! one. A look at the metadata changes nothing.
//!
//! The number does not tell of a write that waits to be written back. To make a snapshot writes
//! that back. So a start makes a snapshot of the one that it took, and then asks for the number
//! (docs/design/ready.md). The new snapshot waits in the place of the one that was taken. Until the
//! process behind the start has looked at its entries, it is as good as one that is made anew.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::super::Store;
use super::super::at::open_at;
use super::super::id::SnapshotId;
use super::super::manifest::{Manifest, os};
use super::super::object::SnapshotObject;
use super::git_index::{self, ReadyGitIndex};
use super::waiting::{ReadyReport, Target, Waiting};
use super::{Arrived, ArrivedIndex};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::sys;
use crate::report::DestinationReport;
use crate::tree::pool::cancelled;
use crate::tree::running::Running;
use crate::tree::staging::Stage;

/// What the kernel keeps in memory of an entry that calve looked at: 1.1 KB for an inode of btrfs,
/// and 0.2 KB or more for its name.
const ENTRY_MEMORY: u64 = 1536;

/// Snapshots that wait take at most one part in this many of the memory that is available.
const MEMORY_PART: u64 = 4;

impl Store {
    /// Takes a snapshot of the ready tree of `id` that waits: renames it to a stage in `parent`.
    /// `None` if none waits that nobody touched, or if it cannot be renamed there.
    pub(crate) fn take_walked(
        &self,
        id: SnapshotId,
        (parent, parent_path): (&Arc<OwnedFd>, &Path),
    ) -> Option<Stage> {
        let folder = self.layout().ready_trees();
        let dir = fs::open(&folder, DIR_FLAGS, Mode::empty()).ok()?;
        for waiting in self.waiting().into_iter().filter(|it| it.id == id) {
            let take = |into: &OwnedFd, name: &CStr| -> io::Result<()> {
                Ok(fs::renameat(&dir, &waiting.name, into, name)?)
            };
            let taken = match Stage::new(Arc::clone(parent), parent_path, take) {
                Ok(taken) => taken,
                // Another start was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return None,
            };
            if self.is_replaced(&dir, &taken, id) {
                return Some(taken);
            }
            self.trash_waiting(&taken);
        }
        None
    }

    /// Makes a snapshot of a tree that was taken, and then asks whether anybody touched the tree.
    /// If nobody did, the new snapshot waits in its place.
    fn is_replaced(&self, dir: &OwnedFd, taken: &Stage, id: SnapshotId) -> bool {
        let Ok(mut next) = self.snapshot_beside(dir, taken.dir()) else { return false };
        let is_sealed = self.has_seal(taken.dir(), id);
        if !is_sealed || self.publish_waiting(&mut next, id).is_err() {
            self.trash_waiting(&next);
        }
        is_sealed
    }

    fn snapshot_beside(&self, dir: &OwnedFd, of: &OwnedFd) -> io::Result<Stage> {
        let make = |dir: &OwnedFd, name: &CStr| sys::snapshot(of, dir, name);
        Stage::new(dir.try_clone()?, &self.layout().ready_trees(), make)
    }

    /// Takes the snapshot that waits and is nearest to the target, and brings it there. git's index
    /// comes with it, if the nearest ready tree has one that still serves. `None` if none is near,
    /// or if calve cannot vouch for an entry.
    pub(crate) fn bring_walked(
        &self,
        (id, object, target): Target<'_>,
        parent: (&Arc<OwnedFd>, &Path),
        report: DestinationReport,
        operation: &Running,
    ) -> Option<Arrived> {
        let near = self.nearest_waiting(&self.waiting(), object)?.id;
        let base = self.object(near).ok()?;
        let base = self.catalog().manifest_like(near, &base, &[target]).ok()?;
        let old = self.ready_index(near, &base)?;
        let stage = self.take_walked(near, parent)?;
        let (tree, trees) = ((stage.dir(), &*stage.path()), (&base, &old));
        let brought = self.bring_private(tree, trees, (id, target), operation);
        let Ok(Some(index)) = brought else {
            self.trash_waiting(&stage);
            return None;
        };
        let git_index = ReadyGitIndex::of(self, near)
            .and_then(|of_near| of_near.kept())
            .filter(|_| git_index::tells_apart(&base, target));
        let index = ArrivedIndex::Made(index);
        Some(Arrived { stage, report, index, git_index: git_index.into() })
    }

    /// Lets as many snapshots of the ready tree of `id` wait as the store keeps, and looks at each
    /// entry of them. Removes those of other trees.
    pub(super) fn refill_walked(
        &self,
        dir: &OwnedFd,
        (id, object): (SnapshotId, &SnapshotObject),
        operation: &Running,
        report: &mut ReadyReport,
    ) -> Result<(), Error> {
        let folder = self.layout().ready_trees();
        let Some(tree) = self.ready_tree((id, object), None, operation)? else { return Ok(()) };
        report.ready = 1;
        let asked = self.ready_trees_kept();
        let kept = most_walked(asked, object.entries, available_memory());
        report.stopped = kept < asked;
        let (mut ours, mut others): (Vec<Waiting>, Vec<Waiting>) =
            self.waiting().into_iter().partition(|it| it.id == id && self.is_sealed_waiting(it));
        others.extend(ours.drain(usize::try_from(kept).unwrap_or(usize::MAX).min(ours.len())..));
        for waiting in others {
            report.removed += u64::from(self.discard_waiting(dir, &waiting.name));
        }
        let mut waiting = ours.len() as u64;
        while waiting < kept {
            if !self.has_room(dir, object) {
                report.stopped = true;
                break;
            }
            let next = self.snapshot_beside(dir, &tree);
            let mut next = next.context(Operation::MakeReadyTreeIn, || &folder)?;
            if !self.has_seal(next.dir(), id) {
                self.trash_waiting(&next);
                report.stopped = true;
                break;
            }
            self.publish_waiting(&mut next, id).context(Operation::MakeReadyTreeIn, || &folder)?;
            waiting += 1;
            report.made += 1;
        }
        report.ready += waiting;
        if waiting > 0 {
            let manifest = self.catalog().manifest(id, object)?;
            if let Some(of_tree) = ReadyGitIndex::of(self, id)
                && let Some(index) = self.ready_index(id, &manifest)
            {
                of_tree.make(&tree, (id, object, &manifest), &index, operation);
            }
            drop(tree);
            for one in self.waiting().into_iter().filter(|it| it.id == id) {
                self.walk(&one.name, &manifest, operation)?;
            }
        }
        Ok(())
    }

    /// Whether a tree that waits is a snapshot of its ready tree, and nothing that was written back
    /// has changed it.
    fn is_sealed_waiting(&self, waiting: &Waiting) -> bool {
        let path = self.layout().ready_trees().join(os(waiting.name.to_bytes()));
        let tree = fs::open(path, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
        tree.is_ok_and(|tree| self.has_seal(&tree, waiting.id))
    }

    /// Looks at each entry, so that the kernel has its inode and its name. No folder is listed,
    /// since that may set its access time. It goes on in a tree that a start takes meanwhile.
    fn walk(&self, name: &CString, manifest: &Manifest, operation: &Running) -> Result<(), Error> {
        let path = self.layout().ready_trees().join(os(name.to_bytes()));
        // A start may have taken the tree.
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let Ok(tree) = fs::open(&path, flags, Mode::empty()) else { return Ok(()) };
        for (at, directory) in manifest.directories.iter().enumerate() {
            if operation.is_cancelled() {
                return Err(cancelled(Operation::MakeReadyTree, &path));
            }
            let below = manifest.path(u32::try_from(at).unwrap_or(u32::MAX));
            let Ok(dir) = open_at(&tree, &below) else { continue };
            for entry in &directory.entries {
                let _ = fs::statat(&dir, os(&entry.name), AtFlags::SYMLINK_NOFOLLOW);
            }
        }
        Ok(())
    }
}

/// How many of the snapshots that the store keeps may wait. `available` is the memory that is
/// available, in bytes; without it none waits.
fn most_walked(kept: u64, entries: u64, available: Option<u64>) -> u64 {
    let each = entries.saturating_mul(ENTRY_MEMORY).max(1);
    kept.min(available.unwrap_or(0) / MEMORY_PART / each)
}

/// The memory that is available without swapping, in bytes: `MemAvailable` of proc_meminfo(5).
fn available_memory() -> Option<u64> {
    available_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_wait_only_as_far_as_there_is_memory_for_their_inodes() {
        const GB: u64 = 1 << 30;
        for (row, kept, entries, available, expected) in [
            ("none is kept", 0, 10_000, Some(GB), 0),
            ("a large project", 1, 80_000, Some(2 * GB), 1),
            ("a large project and little memory", 1, 80_000, Some(GB / 4), 0),
            ("as many as there is memory for", 64, 80_000, Some(2 * GB), 4),
            ("a million entries", 1, 1_000_000, Some(8 * GB), 1),
            ("a million entries and less memory", 1, 1_000_000, Some(4 * GB), 0),
            ("nobody knows how much memory there is", 1, 10_000, None, 0),
            ("no entry", 2, 0, Some(GB), 2),
            ("more than can be", 1, u64::MAX, Some(u64::MAX), 0),
        ] {
            assert_eq!(most_walked(kept, entries, available), expected, "{row}");
        }
    }

    #[test]
    fn the_available_memory_is_read_from_its_line() {
        for (text, expected) in [
            ("MemTotal: 9 kB\nMemAvailable:   12 kB\nBuffers: 1 kB\n", Some(12 * 1024)),
            ("MemTotal: 9 kB\n", None),
            ("MemAvailable: many kB\n", None),
            ("MemAvailable: 12\n", None),
            ("MemAvailable: 18446744073709551615 kB\n", None),
            ("", None),
        ] {
            assert_eq!(available_in(text), expected, "{text:?}");
        }
    }
}

//! Ready trees on btrfs: each is a subvolume, of which worktrees are snapshots.
//!
//! `templates/ID` is the subvolume. `templates/ID.index` is the index of its tree: inode numbers
//! and times are the same in every subvolume snapshot of it. `templates/ID.seal` has its
//! [seal](super::seal). A ready tree is not read-only, since that would hinder a user who removes
//! the project. If its seal is broken, calve does not use it; it removes the tree and makes a new
//! one.
//!
//! # How a ready tree is made
//! calve makes it under a stage's name, flushes it, renames it to its own name, and seals it. One
//! process makes one at a time; a process that waited finds the tree ready.
//!
//! Most snapshots differ from an earlier one in a few files. So calve looks for the ready tree that
//! is [nearest](super::nearest). It makes a subvolume snapshot of that one and
//! [brings](super::super::bring) it to the new snapshot. What comes out must be equal to a tree
//! that was made anew: if calve cannot vouch for each entry, it throws the tree away and makes it
//! anew.
//!
//! # The first one
//! The first start of a project may clone it before any content is read
//! ([`unnamed`](super::super::unnamed)). The clone is a subvolume, too, of which the worktrees are
//! snapshots. It is `templates/TOKEN.unnamed`, and the record has its seal. Once the contents have
//! names, it is the ready tree of the snapshot, unless its seal is broken.
//!
//! # How many are kept
//! At most [`KEPT_MOST`]; the tree that was not used for the longest time goes first. The time of
//! the seal's file says when the tree was last used.
//!
//! # Snapshots that wait
//! A subvolume snapshot takes no time, but the kernel has none of its inodes in memory. The first
//! command that looks at every file, such as `git status`, waits until the kernel has made them;
//! that takes three times as long as the look itself. So a process at the lowest priority makes a
//! snapshot beforehand, `templates/ID.N`, and looks at each entry of it. A start takes the snapshot
//! by a rename, which leaves the inodes and the names in the kernel's cache.
//!
//! The seal does not tell of a write that waits to be written back. To make a snapshot writes that
//! back. So a start makes a snapshot of the one that it took, and then asks whether the seal holds.
//! The new snapshot waits in the place of the one that was taken. Until the process behind the
//! start has looked at its entries, it is as good as one that is made anew.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};

use super::super::at::open_at;
use super::super::catalog::WorktreeRow;
use super::super::id::SnapshotId;
use super::super::index::{self, Boot, Index};
use super::super::manifest::{Manifest, os};
use super::super::{BlobId, Store, locks, now, read_plain};
use super::git_index::{self, ReadyGitIndex};
use super::{Arrived, ArrivedGitIndex, ArrivedIndex, Deletion, ReadyReport, ReadyTrees, Shelf};
use super::{SnapshotTree, TreePlace, WaitingTree, Which, seal};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, flush_filesystem};

/// How many ready trees a store keeps.
const KEPT_MOST: usize = 8;

/// What the kernel keeps in memory of an entry that calve looked at: 1.1 KB for an inode of btrfs,
/// and 0.2 KB or more for its name.
const ENTRY_MEMORY: u64 = 1536;

/// Snapshots that wait take at most one part in this many of the memory that is available.
const MEMORY_PART: u64 = 4;

/// The ready trees of a store on btrfs.
pub(super) struct Subvolumes<'s> {
    pub(super) store: &'s Store,
    pub(super) trees: ReadyTrees<'s>,
}

/// A tree under a stage's name, and the index of all trees that are snapshots of it.
struct FilledSubvolume {
    stage: Stage,
    index: Index,
    /// Mirrors that must be sealed after a flush.
    unsealed: Vec<BlobId>,
}

impl Shelf for Subvolumes<'_> {
    /// The trees of all places, or none: a single one may be a snapshot of another ready tree that
    /// was brought to this snapshot; else each is a snapshot of the ready tree.
    fn take(
        &self,
        tree: &mut SnapshotTree<'_>,
        _rows: &[WorktreeRow],
        places: &[TreePlace],
        operation: &Running,
    ) -> Result<Vec<Arrived>, Error> {
        if let [place] = places
            && self.trees.count_waiting() > 0
            && self.sealed(tree.id).is_none()
            && let Some(brought) = self.bring_waiting(tree, place, operation)?
        {
            return Ok(vec![brought]);
        }
        // Only making the ready tree needs the manifest. Work after this on btrfs has large trees
        // of its own in memory.
        let known = tree.take();
        let target = SnapshotTree::new(self.store, (tree.id, tree.object), known);
        let Some(ready) = self.ready_tree(target, operation)? else { return Ok(Vec::new()) };
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            operation.check(Operation::StartWorktree, &place.path)?;
            let stage = match self.take_waiting(tree.id, place) {
                Some(stage) => stage,
                None => match place.snapshot_of(&ready) {
                    Ok(stage) => stage,
                    // The place is on another filesystem, or we lack the right. We use the mirrors
                    // then.
                    Err(_) => return Ok(Vec::new()),
                },
            };
            // Since we looked at the seal, another process may have begun to remove the ready tree
            // or to write to it.
            if !self.is_still(&ready, tree.id) {
                return Ok(Vec::new());
            }
            all.push(Arrived {
                stage,
                report: place.snapshot_report(),
                index: ArrivedIndex::OfReadyTree,
                git_index: ArrivedGitIndex::OfReadyTree,
            });
        }
        Ok(all)
    }

    fn keep(&self, tree: SnapshotTree<'_>, operation: &Running) -> Result<bool, Error> {
        Ok(self.ready_tree(tree, operation)?.is_some())
    }

    /// A subvolume has all files at once.
    fn reads_tree(&self, _id: SnapshotId) -> bool {
        false
    }

    /// Lets as many snapshots of the ready tree of `id` wait as the store keeps, and looks at each
    /// entry of them. Removes those of other trees.
    fn refill(
        &self,
        dir: &OwnedFd,
        id: SnapshotId,
        operation: &Running,
        report: &mut ReadyReport,
    ) -> Result<(), Error> {
        let object = self.store.catalog().object(id)?;
        let _guard = self.store.share()?;
        let target = SnapshotTree::new(self.store, (id, &object), None);
        let Some(tree) = self.ready_tree(target, operation)? else { return Ok(()) };
        report.ready = 1;
        let asked = self.trees.kept();
        let kept = most_waiting(asked, object.entries, available_memory());
        report.stopped = kept < asked;
        let (mut ours, mut others): (Vec<WaitingTree>, Vec<WaitingTree>) =
            self.trees.waiting().into_iter().partition(|it| it.id == id && self.is_sealed(it));
        others.extend(ours.drain(usize::try_from(kept).unwrap_or(usize::MAX).min(ours.len())..));
        for other in others {
            let removed = self.trees.discard(Which::At(&self.trees.path(&other)), Deletion::Now);
            report.removed += u64::from(removed);
        }
        let mut waiting = ours.len() as u64;
        let failed = || self.store.layout().ready_trees();
        while waiting < kept {
            if !self.trees.has_room(dir, &object, 1) {
                report.stopped = true;
                break;
            }
            let next = self.snapshot_beside(dir, &tree);
            let mut next = next.context(Operation::MakeReadyTreeIn, failed)?;
            if !self.has_seal(next.dir(), id) {
                self.trees.discard(Which::At(&next.path()), Deletion::Later);
                report.stopped = true;
                break;
            }
            self.trees.publish(&mut next, id).context(Operation::MakeReadyTreeIn, failed)?;
            waiting += 1;
            report.made += 1;
        }
        report.ready += waiting;
        if waiting > 0 {
            let target = SnapshotTree::new(self.store, (id, &object), None);
            if let Some(of_tree) = ReadyGitIndex::of(self.store, id)
                && let Some(index) = self.index(id, target.manifest()?)
            {
                of_tree.make(&tree, &target, &index, operation);
            }
            drop(tree);
            for one in self.trees.waiting().into_iter().filter(|it| it.id == id) {
                self.walk(&one, target.manifest()?, operation)?;
            }
        }
        Ok(())
    }

    /// None: to read one may break its seal.
    fn touched(&self, _operation: &Running) -> Result<Vec<PathBuf>, Error> {
        Ok(Vec::new())
    }

    fn adopt(
        &self,
        (token, seal): (&str, &[u8]),
        (id, index): (SnapshotId, &Index),
    ) -> io::Result<()> {
        let layout = self.store.layout();
        let from = layout.unnamed_tree(token);
        let tree = fs::open(&from, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        if !seal::holds(seal, &tree) || self.sealed(id).is_some() {
            return Ok(());
        }
        self.trees.discard(Which::Of(id), Deletion::Now);
        std::fs::rename(&from, layout.ready_tree(id))?;
        self.write_seal(id, &index.encode()?, seal)?;
        self.evict(id);
        Ok(())
    }
}

impl Subvolumes<'_> {
    /// The ready tree of a snapshot, made now where there is none that is good; `None` where the
    /// filesystem does not let us make one. The snapshot's manifest is freed as soon as it is not
    /// needed.
    ///
    /// # Errors
    /// The tree could not be filled; nothing is left of it.
    fn ready_tree(
        &self,
        target: SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<Option<OwnedFd>, Error> {
        let (store, id) = (self.store, target.id);
        if store.is_read_only() {
            return Ok(None);
        }
        if let Some(tree) = self.sealed(id) {
            self.used_now(id);
            return Ok(Some(tree));
        }
        let _lock = locks::one_by_one(store.path())?;
        if let Some(tree) = self.sealed(id) {
            return Ok(Some(tree));
        }
        if staging::boot().is_none() {
            return Ok(None);
        }
        let dir = self.trees.open()?;
        staging::sweep(&dir);
        self.trees.discard(Which::Of(id), Deletion::Now);
        let filled = match self.bring_nearest(&dir, &target, operation)? {
            Some(filled) => Some(filled),
            None => self.fill(&dir, &target, operation)?,
        };
        let Some(FilledSubvolume { mut stage, index, unsealed }) = filled else { return Ok(None) };
        let publish = |stage: &mut Stage| -> io::Result<()> {
            // Everything that is still on its way must have arrived before the number is read.
            flush_filesystem(stage.dir())?;
            store.blobs().seal(&unsealed, index.stamp)?;
            stage.publish(&CString::new(id.to_string())?)?;
            self.write_seal(id, &index.encode()?, &seal::of(stage.dir())?)
        };
        publish(&mut stage).context(Operation::MakeReadyTreeIn, || store.layout().ready_trees())?;
        self.evict(id);
        Ok(self.sealed(id))
    }

    /// Writes the files of a ready tree. The seal is the last one: with it the tree is ready.
    fn write_seal(&self, id: SnapshotId, index: &[u8], seal: &[u8]) -> io::Result<()> {
        let (layout, stage) = (self.store.layout(), self.store.layout().stage());
        staging::write_whole(&stage, &layout.ready_index(id), index)?;
        staging::write_whole(&stage, &layout.ready_seal(id), seal)
    }

    /// Makes the tree of a snapshot in a new subvolume, by cloning every file. `None` if there can
    /// be no subvolume, or if a part of the tree did not arrive.
    fn fill(
        &self,
        dir: &OwnedFd,
        target: &SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<Option<FilledSubvolume>, Error> {
        let folder = self.store.layout().ready_trees();
        let parent = dir.try_clone().context(Operation::Open, || &folder)?;
        let Ok(stage) = Stage::new(parent, &folder, |dir, name| sys::create_subvolume(dir, name))
        else {
            return Ok(None);
        };
        let mut made = self.trees.fill(std::iter::once(stage.dir()), target, operation)?;
        if made.reports.iter().any(|report| !report.skipped.is_empty()) {
            // An entry that arrived incomplete would be incomplete in every tree that is made of
            // this one, and no report would say so.
            return Ok(None);
        }
        let stats = made.stats.pop().unwrap_or_default();
        let stamp = self.store.clock().past_all(stats.iter())?;
        let index = Index { snapshot: target.id, boot: Boot::this(), stamp, stats };
        Ok(Some(FilledSubvolume { stage, index, unsealed: made.unsealed }))
    }

    /// Brings a snapshot of the nearest ready tree to the target. `None` if no ready tree is near,
    /// or if the result is not certain to be the target's tree.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`], and no room: to make the tree anew would fail, too.
    fn bring_nearest(
        &self,
        dir: &OwnedFd,
        target: &SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<Option<FilledSubvolume>, Error> {
        let Some(other) = self.trees.nearest(&self.trees.latest(), target.object) else {
            return Ok(None);
        };
        let bring = || -> Result<Option<FilledSubvolume>, Error> {
            let folder = self.store.layout().ready_trees();
            let Some(near) = self.sealed(other) else { return Ok(None) };
            let base = self.trees.manifest_near(other, target)?;
            let Some(old) = self.index(other, &base) else { return Ok(None) };
            let parent = dir.try_clone().context(Operation::Open, || &folder)?;
            let Ok(stage) =
                Stage::new(parent, &folder, |dir, name| sys::snapshot(&near, dir, name))
            else {
                return Ok(None);
            };
            // The seal decides after the snapshot, since that writes back what was written before.
            if !self.is_still(&near, other) {
                return Ok(None);
            }
            let tree = (stage.dir(), &*stage.path());
            let index = self.trees.bring(tree, (&base, &old), target, operation)?;
            Ok(index.map(|index| FilledSubvolume { stage, index, unsealed: Vec::new() }))
        };
        match bring() {
            Err(error)
                if !matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::StorageFull) =>
            {
                Ok(None)
            }
            brought => brought,
        }
    }

    /// The index of a ready tree.
    fn index(&self, id: SnapshotId, manifest: &Manifest) -> Option<Index> {
        let (path, count) = (self.store.layout().ready_index(id), manifest.count);
        let bytes = read_plain(fs::CWD, &path, index::most_bytes(count)).ok()?;
        let index = Index::decode(&bytes, count).ok()?;
        let is_it = index.snapshot == id && index.boot == Boot::this();
        is_it.then_some(index)
    }

    /// The ready tree of a snapshot, where there is one and nobody wrote to it.
    fn sealed(&self, id: SnapshotId) -> Option<OwnedFd> {
        let layout = self.store.layout();
        let tree = fs::open(layout.ready_tree(id), DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
        let tree = tree.ok().filter(|_| layout.ready_index(id).is_file())?;
        self.has_seal(&tree, id).then_some(tree)
    }

    /// Whether an open ready tree still is the sealed one of its snapshot.
    fn is_still(&self, ready: &OwnedFd, id: SnapshotId) -> bool {
        let id_of = |tree: &OwnedFd| Meta::of_file(tree).ok().map(|meta| meta.id());
        self.sealed(id).and_then(|now| id_of(&now)) == id_of(ready)
    }

    /// Whether a subvolume has the seal of the ready tree of a snapshot: it is that tree, or a
    /// snapshot of it, and nobody has changed it.
    fn has_seal(&self, tree: &OwnedFd, id: SnapshotId) -> bool {
        let seal = read_plain(fs::CWD, &self.store.layout().ready_seal(id), seal::MOST_BYTES);
        seal::is_subvolume(tree) && seal.is_ok_and(|seal| seal::holds(&seal, tree))
    }

    /// Notes that a ready tree was used now. If that fails, the tree is evicted sooner.
    fn used_now(&self, id: SnapshotId) {
        let (seconds, nanoseconds) = now();
        let now = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: now, last_modification: now };
        let seal = self.store.layout().ready_seal(id);
        let _ = fs::utimensat(fs::CWD, &seal, &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// Removes ready trees until at most [`KEPT_MOST`] are left, and `spared` in any case.
    fn evict(&self, spared: SnapshotId) {
        for id in self.trees.latest().into_iter().skip(KEPT_MOST).filter(|id| *id != spared) {
            self.trees.discard(Which::Of(id), Deletion::AtOnce);
        }
    }

    /// Takes a snapshot of the ready tree of `id` that waits: renames it to a stage beside the
    /// place. `None` if none waits that nobody touched, or if it cannot be renamed there.
    fn take_waiting(&self, id: SnapshotId, place: &TreePlace) -> Option<Stage> {
        let dir = self.trees.open().ok()?;
        for waiting in self.trees.waiting().into_iter().filter(|it| it.id == id) {
            let take = |into: &OwnedFd, name: &CStr| -> io::Result<()> {
                Ok(fs::renameat(&dir, &waiting.name, into, name)?)
            };
            let taken = match place.stage_by(take) {
                Ok(taken) => taken,
                // Another start was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(_) => return None,
            };
            if self.is_replaced(&dir, &taken, id) {
                return Some(taken);
            }
            self.trees.discard(Which::At(&taken.path()), Deletion::Later);
        }
        None
    }

    /// Makes a snapshot of a tree that was taken, and then asks whether anybody touched the tree.
    /// If nobody did, the new snapshot waits in its place.
    fn is_replaced(&self, dir: &OwnedFd, taken: &Stage, id: SnapshotId) -> bool {
        let Ok(mut next) = self.snapshot_beside(dir, taken.dir()) else { return false };
        let is_sealed = self.has_seal(taken.dir(), id);
        if !is_sealed || self.trees.publish(&mut next, id).is_err() {
            self.trees.discard(Which::At(&next.path()), Deletion::Later);
        }
        is_sealed
    }

    fn snapshot_beside(&self, dir: &OwnedFd, of: &OwnedFd) -> io::Result<Stage> {
        let make = |dir: &OwnedFd, name: &CStr| sys::snapshot(of, dir, name);
        Stage::new(dir.try_clone()?, &self.store.layout().ready_trees(), make)
    }

    /// Takes the snapshot that waits and is nearest to the target, and brings it there. git's index
    /// comes with it, if the nearest ready tree has one that still serves. `None` if none is near,
    /// or if calve cannot vouch for an entry.
    ///
    /// # Errors
    /// The target is damaged.
    fn bring_waiting(
        &self,
        target: &SnapshotTree<'_>,
        place: &TreePlace,
        operation: &Running,
    ) -> Result<Option<Arrived>, Error> {
        let manifest = target.manifest()?;
        let bring = || -> Option<Arrived> {
            let near = self.trees.nearest_waiting(&self.trees.waiting(), target.object)?.id;
            let base = self.trees.manifest_near(near, target).ok()?;
            let old = self.index(near, &base)?;
            let stage = self.take_waiting(near, place)?;
            let tree = (stage.dir(), &*stage.path());
            let Ok(Some(index)) = self.trees.bring(tree, (&base, &old), target, operation) else {
                self.trees.discard(Which::At(&stage.path()), Deletion::Later);
                return None;
            };
            let git_index = ReadyGitIndex::of(self.store, near)
                .and_then(|of_near| of_near.kept())
                .filter(|_| git_index::tells_apart(&base, manifest));
            let (report, index) = (place.snapshot_report(), ArrivedIndex::Made(index));
            Some(Arrived { stage, report, index, git_index: git_index.into() })
        };
        Ok(bring())
    }

    /// Whether a tree that waits is a snapshot of its ready tree, and nothing that was written back
    /// has changed it.
    fn is_sealed(&self, waiting: &WaitingTree) -> bool {
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let tree = fs::open(self.trees.path(waiting), flags, Mode::empty());
        tree.is_ok_and(|tree| self.has_seal(&tree, waiting.id))
    }

    /// Looks at each entry, so that the kernel has its inode and its name. No folder is listed,
    /// since that may set its access time. It goes on in a tree that a start takes meanwhile.
    fn walk(
        &self,
        waiting: &WaitingTree,
        manifest: &Manifest,
        operation: &Running,
    ) -> Result<(), Error> {
        let path = self.trees.path(waiting);
        // A start may have taken the tree.
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let Ok(tree) = fs::open(&path, flags, Mode::empty()) else { return Ok(()) };
        for (at, directory) in manifest.directories.iter().enumerate() {
            operation.check(Operation::MakeReadyTree, &path)?;
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
fn most_waiting(kept: u64, entries: u64, available: Option<u64>) -> u64 {
    let each = entries.saturating_mul(ENTRY_MEMORY).max(1);
    kept.min(available.unwrap_or(0) / MEMORY_PART / each)
}

/// The memory that is available without swapping, in bytes: `MemAvailable` of proc_meminfo(5).
fn available_memory() -> Option<u64> {
    available_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    seal::memory_in(meminfo, "MemAvailable:")
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
            assert_eq!(most_waiting(kept, entries, available), expected, "{row}");
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

//! Ready trees on filesystems without subvolumes: folders that wait to be handed over.
//!
//! A start takes such a tree by a rename, and another process makes the next one while nobody
//! waits. `templates/ID.N` is a folder with the tree of snapshot ID, the tree's index (`index`),
//! [git's index](super::git_index) for a linked worktree, and what else is [known](super::tripwire)
//! of the tree (`about`). The folder gets its name when they are complete. A start that renames the
//! folder owns it.
//!
//! # How calve knows that nobody touched the tree
//! If nobody listed its folders, nobody found its files: see [`tripwire`](super::tripwire).
//! Otherwise calve looks at each entry. The index has the inode and the change time of each entry
//! of the tree, folders included. A change time moves with each write, each change of metadata and,
//! for a folder, each name that is added to it, removed from it or renamed in it. No program can
//! set it back. So one look at the metadata of each entry proves that the tree is as it was made.
//! (The rules of the [index](super::super::index) hold: each entry changed before the stamp, the
//! content was flushed or is shared with sealed files, and no other process had a file open.) A
//! tree of another boot is not used: after a crash, times prove nothing.
//!
//! # What is never done
//! The tree of a dropped worktree is never used again. A process that still works in it would write
//! into the next worktree.
//!
//! # Making trees yields to everything
//! One process at a time makes trees; it holds `locks/refill`. It stops when another process wants
//! the store for itself, and when there is little room. If it is killed, the next one sweeps its
//! stage. A start that finds no tree makes its tree itself, as ever.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::super::Store;
use super::super::at::open_at;
use super::super::catalog::WorktreeRow;
use super::super::files::read_plain;
use super::super::id::SnapshotId;
use super::super::index::Stat;
use super::super::index::{self, Boot, Index};
use super::super::layout::READY_INDEX;
use super::super::manifest::{Directory, Manifest, os};
use super::git_index::{self, KeptGitIndex};
use super::tripwire::{self, About};
use super::{Arrived, ArrivedIndex, Deletion, MOST, ReadyReport, ReadyTrees, Shelf, SnapshotTree};
use super::{TreePlace, WaitingTree, Which};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::report::DestinationReport;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage};

/// The ready trees of a store on a filesystem without subvolumes.
pub(super) struct Folders<'s> {
    pub(super) store: &'s Store,
    pub(super) trees: ReadyTrees<'s>,
}

/// Trees that are made together have so many entries at most: the memory holds what calve knows of
/// each.
const AT_ONCE_MOST_ENTRIES: u64 = 1_000_000;

/// What a tree that waits has, if it is of another snapshot than the target.
struct OtherBase<'t> {
    tree: Manifest,
    index: Index,
    target: &'t Manifest,
}

impl Shelf for Folders<'_> {
    fn take(
        &self,
        tree: &mut SnapshotTree<'_>,
        rows: &[WorktreeRow],
        places: &[TreePlace],
        operation: &Running,
    ) -> Result<Vec<Arrived>, Error> {
        let mut arrived = Vec::new();
        for (row, place) in rows.iter().zip(places) {
            let Some(mut taken) = self.hand_over(tree, place, operation)? else { break };
            // At once: until then the folder in which the tree waited stays, and open.
            taken.give_index(&row.token, tree)?;
            arrived.push(taken);
        }
        Ok(arrived)
    }

    /// Nothing is read if a tree of this snapshot waits and nobody listed its folders.
    fn reads_tree(&self, id: SnapshotId) -> bool {
        let open = |waiting| fs::open(self.trees.path(&waiting), DIR_FLAGS, Mode::empty()).ok();
        let mut ours = self.trees.waiting().into_iter().filter(|waiting| waiting.id == id);
        !ours.next().and_then(open).is_some_and(tripwire::was_never_listed)
    }

    fn refill(
        &self,
        dir: &OwnedFd,
        id: SnapshotId,
        operation: &Running,
        report: &mut ReadyReport,
    ) -> Result<(), Error> {
        let folder = self.store.layout().ready_trees();
        // A tree that is made may be taken at once. Somebody who takes all of them is not served
        // for ever.
        for _ in 0..=2 * MOST {
            // Starts that came meanwhile count, too.
            let kept = self.trees.kept();
            let (ours, others): (Vec<WaitingTree>, Vec<WaitingTree>) =
                self.trees.waiting().into_iter().partition(|it| it.id == id);
            report.ready = ours.len() as u64;
            if report.ready >= kept {
                let surplus = ours.into_iter().skip(usize::try_from(kept).unwrap_or(usize::MAX));
                for tree in surplus.chain(others) {
                    if let Some(taken) = self.take_waiting(&tree) {
                        taken.discard().context(Operation::RemoveLeftovers, || &folder)?;
                        report.removed += 1;
                    }
                }
                report.ready = report.ready.min(kept);
                return Ok(());
            }
            let object = self.store.catalog().object(id)?;
            // The next start gets one as soon as can be. The others cost less together.
            let missing = if ours.is_empty() { 1 } else { kept - report.ready };
            let together = missing.min((AT_ONCE_MOST_ENTRIES / object.entries.max(1)).max(1));
            let has_room = |trees: &u64| self.trees.has_room(dir, &object, *trees);
            let Some(count) = (1..=together).rev().find(has_room) else {
                report.stopped = true;
                return Ok(());
            };
            let _guard = self.store.share()?;
            let target = SnapshotTree::new(self.store, (id, &object), None);
            if let Some(near) = self.trees.nearest_waiting(&others, &object)
                && let Some(taken) = self.take_waiting(&near)
            {
                if self.bring_waiting(taken, &near, &target, operation)? {
                    report.brought += 1;
                } else {
                    report.removed += 1;
                }
            } else {
                let made = self.make_waiting(dir, count, &target, operation)?;
                report.made += made;
                if made < count {
                    report.stopped = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn touched(&self, operation: &Running) -> Result<Vec<PathBuf>, Error> {
        let mut touched = Vec::new();
        for waiting in self.trees.waiting() {
            let path = self.trees.path(&waiting);
            let flags = DIR_FLAGS | fs::OFlags::NOFOLLOW;
            // Another process may have taken the tree.
            let Ok(dir) = fs::open(&path, flags, Mode::empty()) else { continue };
            // A damaged snapshot is reported as such.
            let manifest = self.store.catalog().object(waiting.id);
            let manifest = manifest.and_then(|it| self.store.catalog().manifest(waiting.id, &it));
            let Ok(manifest) = manifest else { continue };
            // Another version of calve may have made it. No start uses it then.
            let about = About::read(&dir).if_there();
            let Some(about) = about.transpose().map(Result::ok) else { continue };
            let tree = about.and_then(|it| fs::openat(&dir, it.tree, flags, Mode::empty()).ok());
            let is_good = match (read_index(&dir, &manifest), tree) {
                (Some(index), _) if index.boot != Boot::this() => true,
                (Some(index), Some(tree)) if index.snapshot == waiting.id => {
                    is_untouched(&tree, &manifest, &index, operation.jobs())
                }
                _ => false,
            };
            operation.check(Operation::Verify, &path)?;
            let id = |stat: fs::Stat| Meta::of(&stat).id();
            let still_waits = fs::lstat(&path).ok().map(id) == fs::fstat(&dir).ok().map(id);
            if !is_good && still_waits {
                touched.push(path);
            }
        }
        Ok(touched)
    }
}

impl Folders<'_> {
    /// Takes a tree that waits. The process that renames its folder has it.
    fn take_waiting(&self, waiting: &WaitingTree) -> Option<Stage> {
        let dir = self.trees.open().ok()?;
        let take = |dir: &OwnedFd, name: &std::ffi::CStr| -> io::Result<()> {
            Ok(fs::renameat(dir, &waiting.name, dir, name)?)
        };
        Stage::new(dir, &self.store.layout().ready_trees(), take).ok()
    }

    /// The index of a tree in a folder that was taken, if nobody touched the tree.
    fn untouched(
        (taken, tree): (&Stage, &OwnedFd),
        manifest: &Manifest,
        (id, is_quiet, operation): (SnapshotId, bool, &Running),
    ) -> Option<Index> {
        let index = read_index(taken.dir(), manifest).filter(|index| index.snapshot == id)?;
        if index.boot != Boot::this() || staging::boot().is_none() {
            return None;
        }
        let is_it = is_quiet || is_untouched(tree, manifest, &index, operation.jobs());
        is_it.then_some(index)
    }

    /// Hands a tree of a snapshot over to a start: renames it to a stage beside the place.
    /// `None` if no tree that is good waits, or if it cannot be renamed there.
    ///
    /// # Errors
    /// The snapshot is damaged.
    fn hand_over(
        &self,
        target: &SnapshotTree<'_>,
        place: &TreePlace,
        operation: &Running,
    ) -> Result<Option<Arrived>, Error> {
        let dev = |dir: &OwnedFd| Meta::of_file(dir).map(|meta| meta.dev).ok();
        let mut bad = HashSet::new();
        loop {
            let waiting: Vec<WaitingTree> =
                self.trees.waiting().into_iter().filter(|it| !bad.contains(it)).collect();
            let Some(near) = self.trees.nearest_waiting(&waiting, target.object) else {
                return Ok(None);
            };
            bad.insert(near.clone());
            let Some(mut taken) = self.take_waiting(&near) else { continue };
            if dev(taken.dir()) != dev(&place.dir) {
                // If it does not get its place again, it goes with its stage.
                let _ = taken.publish(&near.name);
                return Ok(None);
            }
            let Some((about, tree)) = known(&taken, near.id) else {
                self.trees.discard(Which::At(&taken.path()), Deletion::Later);
                continue;
            };
            let proof = self.proven(&near, (&taken, &about, &tree), target, operation)?;
            let Some(base) = proof else {
                self.trees.discard(Which::At(&taken.path()), Deletion::Later);
                continue;
            };
            let git_index = KeptGitIndex::in_folder(taken.dir()).filter(|_| {
                base.as_ref().is_none_or(|base| git_index::tells_apart(&base.tree, base.target))
            });
            let moved =
                place.stage_by(|dir, name| Ok(fs::renameat(taken.dir(), &about.tree, dir, name)?));
            let stage = match moved {
                Ok(stage) => stage,
                Err(error) => {
                    // Another quota of the filesystem counts what is in that folder.
                    let errno = Errno::from_io_error(&error);
                    if errno != Some(Errno::XDEV) || taken.publish(&near.name).is_err() {
                        self.trees.discard(Which::At(&taken.path()), Deletion::Later);
                    }
                    return Ok(None);
                }
            };
            let (report, index) = match base {
                None => (about.report(), ArrivedIndex::InFolder(taken)),
                Some(OtherBase { tree, index, target: manifest }) => {
                    let (at, old) = ((stage.dir(), &*stage.path()), (&tree, &index));
                    let Ok(Some(index)) = self.trees.bring(at, old, target, operation) else {
                        self.trees.discard(Which::At(&stage.path()), Deletion::Later);
                        continue;
                    };
                    let counts = tripwire::EntryCounts::of(manifest, about.is_copied());
                    (counts.report(), ArrivedIndex::Made(index))
                }
            };
            let report = DestinationReport { path: place.path.clone(), ..report };
            return Ok(Some(Arrived { stage, report, index, git_index: git_index.into() }));
        }
    }

    /// Proves that nobody touched a tree that was taken. If it is of another snapshot than the
    /// target, the result says what to bring. `None` if the tree cannot be used.
    ///
    /// # Errors
    /// The target is damaged.
    fn proven<'t>(
        &self,
        waiting: &WaitingTree,
        (taken, about, tree): (&Stage, &About, &OwnedFd),
        target: &'t SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<Option<Option<OtherBase<'t>>>, Error> {
        let is_quiet = about.is_quiet(taken.dir(), tree, operation.jobs());
        if is_quiet && waiting.id == target.id {
            // The index becomes the worktree's as it is.
            let count = u32::try_from(target.object.entries).unwrap_or(u32::MAX);
            let most = index::most_bytes(count);
            let bytes = read_plain(taken.dir(), Path::new(READY_INDEX), most);
            return Ok(bytes.is_ok_and(|bytes| Index::is_of(&bytes, target.id)).then_some(None));
        }
        let manifest = target.manifest()?;
        let how = (waiting.id, is_quiet, operation);
        if waiting.id == target.id {
            return Ok(Self::untouched((taken, tree), manifest, how).map(|_| None));
        }
        // Damage of another snapshot does not affect this start.
        let Ok(base) = self.trees.manifest_near(waiting.id, target) else { return Ok(None) };
        let index = Self::untouched((taken, tree), &base, how);
        Ok(index.map(|index| Some(OtherBase { tree: base, index, target: manifest })))
    }

    /// Brings a tree that was taken to another snapshot, and lets it wait again. Returns whether
    /// that was done; if not, the tree is removed.
    fn bring_waiting(
        &self,
        mut taken: Stage,
        from: &WaitingTree,
        target: &SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<bool, Error> {
        let base = self.trees.manifest_near(from.id, target)?;
        let Some((about, tree)) = known(&taken, from.id) else { return Ok(false) };
        let is_quiet = about.is_quiet(taken.dir(), &tree, operation.jobs());
        let how = (from.id, is_quiet, operation);
        let Some(old) = Self::untouched((&taken, &tree), &base, how) else { return Ok(false) };
        let path = taken.path().join(&about.tree);
        let brought = self.trees.bring((&tree, &path), (&base, &old), target, operation);
        let index = match brought {
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::StorageFull) => {
                return Err(error);
            }
            Ok(Some(index)) => index,
            _ => return Ok(false),
        };
        let how = (about.is_copied(), operation);
        self.let_wait((&mut taken, &tree, &about.tree), target, index, how)
            .context(Operation::MakeReadyTreeIn, || self.store.layout().ready_trees())?;
        Ok(true)
    }

    /// Makes some trees, file by file, and lets them wait. Returns how many wait then: not those
    /// of which a part did not arrive, nor those of which only some files could be cloned. The
    /// report of a start could not say which.
    fn make_waiting(
        &self,
        dir: &OwnedFd,
        count: u64,
        target: &SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<u64, Error> {
        let folder = self.store.layout().ready_trees();
        let begin = || -> io::Result<(Stage, OwnedFd, String)> {
            let (stage, name) = (Stage::empty(dir.try_clone()?, &folder)?, About::new_name());
            fs::mkdirat(stage.dir(), &name, Mode::RWXU)?;
            let tree = fs::openat(stage.dir(), &name, DIR_FLAGS, Mode::empty())?;
            Ok((stage, tree, name))
        };
        let failed = || folder.clone();
        let stages = (0..count).map(|_| begin()).collect::<io::Result<Vec<_>>>();
        let stages = stages.context(Operation::MakeReadyTreeIn, failed)?;
        let made = self.trees.fill(stages.iter().map(|(_, tree, _)| tree), target, operation)?;
        let is_copied = |report: &DestinationReport| report.copied_files > 0;
        if !made.unsealed.is_empty() || made.reports.iter().any(is_copied) {
            self.store.contents().flush(&made.unsealed)?;
        }
        let mut waiting = 0;
        for (((mut stage, tree, name), report), stats) in
            stages.into_iter().zip(&made.reports).zip(made.stats)
        {
            let is_mixed = report.reflinked_bytes > 0 && is_copied(report);
            if is_mixed || !report.skipped.is_empty() {
                continue;
            }
            let stamp = self.store.clock().past_all(stats.iter())?;
            let index = Index { snapshot: target.id, boot: Boot::this(), stamp, stats };
            let how = (is_copied(report), operation);
            self.let_wait((&mut stage, &tree, &name), target, index, how)
                .context(Operation::MakeReadyTreeIn, failed)?;
            waiting += 1;
        }
        Ok(waiting)
    }

    /// Sets the tripwires of a tree, writes its indexes, and gives the tree's folder the name under
    /// which it waits. The tree gets another name, which no program can have seen.
    fn let_wait(
        &self,
        (stage, tree, name): (&mut Stage, &OwnedFd, &str),
        target: &SnapshotTree<'_>,
        mut index: Index,
        (is_copied, operation): (bool, &Running),
    ) -> io::Result<()> {
        let manifest = target.manifest().map_err(io::Error::other)?;
        let new_name = About::new_name();
        fs::renameat(stage.dir(), name, stage.dir(), &new_name)?;
        if let Some(stat) = index.stats.first_mut() {
            *stat = Stat::of(&Meta::of_file(tree)?);
        }
        let folders = (stage.dir(), tree);
        let about = About::set(folders, new_name, (manifest, &mut index), is_copied);
        let last = index.stats.iter().map(|stat| stat.changed).max().unwrap_or_default();
        index.stamp = self.store.clock().past(index.stamp.max(last)).map_err(io::Error::other)?;
        let path = stage.path();
        let encoded = index.encode()?;
        staging::write_whole(&path, &path.join(READY_INDEX), &encoded)?;
        git_index::keep_with(self.store, (&path, tree), target, &index, operation);
        about.write(&path, stage.dir())?;
        self.trees.publish(stage, target.id)
    }
}

/// The file `about` in a folder that was taken, and the tree. `None` if the tree is not the one of
/// this snapshot.
fn known(taken: &Stage, id: SnapshotId) -> Option<(About, OwnedFd)> {
    let about = About::read(taken.dir()).ok().filter(|about| about.snapshot == id)?;
    let flags = DIR_FLAGS | fs::OFlags::NOFOLLOW;
    let tree = fs::openat(taken.dir(), &about.tree, flags, Mode::empty()).ok()?;
    Some((about, tree))
}

/// The index in the folder of a tree that waits.
fn read_index(folder: &OwnedFd, manifest: &Manifest) -> Option<Index> {
    let count = manifest.count;
    let bytes = read_plain(folder, Path::new(READY_INDEX), index::most_bytes(count)).ok()?;
    Index::decode(&bytes, count).ok()
}

/// Whether each entry of the tree has the inode and the change time that the index has.
fn is_untouched(tree: &OwnedFd, manifest: &Manifest, index: &Index, jobs: usize) -> bool {
    let Ok(root) = fs::fstat(tree) else { return false };
    let dev = Meta::of(&root).dev;
    let is_it = |meta: &Meta, number: u32| {
        let stat = index.stats.get(number as usize);
        meta.dev == dev && stat.is_some_and(|it| *it == Stat::of(meta) && it.changed < index.stamp)
    };
    if !is_it(&Meta::of(&root), 0) {
        return false;
    }
    let (next, is_other) = (AtomicUsize::new(0), AtomicBool::new(false));
    let look = || {
        // Directories of one parent have numbers in a row, so the parent is opened once.
        let mut above: Option<(u32, OwnedFd)> = None;
        let mut open = |at: usize, directory: &Directory| -> io::Result<OwnedFd> {
            if at == 0 {
                return open_at(tree, Path::new(""));
            }
            let parent = match above.take().filter(|(number, _)| *number == directory.parent) {
                Some((_, parent)) => parent,
                None => open_at(tree, &manifest.path(directory.parent))?,
            };
            let name = os(manifest.name(directory.parent, directory.slot));
            let dir = fs::openat(&parent, name, DIR_FLAGS | fs::OFlags::NOFOLLOW, Mode::empty())?;
            above = Some((directory.parent, parent));
            Ok(dir)
        };
        while !is_other.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(directory) = manifest.directories.get(at) else { return };
            let same = open(at, directory).is_ok_and(|dir| {
                (directory.first..).zip(&directory.entries).all(|(number, entry)| {
                    Meta::at(&dir, os(&entry.name)).is_ok_and(|meta| is_it(&meta, number))
                })
            });
            if !same {
                is_other.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs {
            let _ = std::thread::Builder::new().spawn_scoped(scope, look);
        }
        look();
    });
    !is_other.load(Ordering::Relaxed)
}

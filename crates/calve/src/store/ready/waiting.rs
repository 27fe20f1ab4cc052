//! Ready trees that wait to be handed over. This is about filesystems without subvolumes; on btrfs
//! [snapshots](super::walked) of a ready tree wait.
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
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::super::at::open_at;
use super::super::id::{SnapshotId, from_hex};
use super::super::index::{self, Boot, Index};
use super::super::layout::READY_INDEX;
use super::super::manifest::{Directory, Manifest, os};
use super::super::materialize::{Plan, materialize};
use super::super::object::SnapshotObject;
use super::super::scan::stat_of;
use super::super::{PROJECT, Store, StoreOptions, files, locks, read_plain, room, trash};
use super::git_index::{self, KeptGitIndex};
use super::nearest;
use super::tripwire::{self, About};
use super::{Arrived, ArrivedIndex, SnapshotTree};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::{Filesystem, SharesBlocks};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::report::Cancel;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, stage_name};

/// How often calve looks whether another process wants the store for itself.
const LOOK: Duration = Duration::from_millis(20);

/// A project with at least this many entries has a ready tree unless the store is told otherwise.
/// Below that, a start takes less than a quarter of a second.
const LEAST_ENTRIES: u64 = 10_000;

/// The setting is a number and a newline.
const SETTING_MOST_BYTES: u64 = 64;

/// The most trees that a store keeps waiting.
const MOST: u64 = 64;

/// How many bytes an entry of a tree takes at most, apart from its content.
const ENTRY_BYTES: u64 = 2048;

/// What [`Store::make_ready_trees`] did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ReadyReport {
    /// The project's latest snapshot. `None` if there is none yet.
    pub snapshot: Option<SnapshotId>,
    /// How many ready trees of it there are now. On btrfs these are the subvolume that serves all
    /// starts, and its snapshots that wait.
    pub ready: u64,
    /// Trees that were made, file by file; on btrfs, snapshots.
    pub made: u64,
    /// Trees of other snapshots that were brought to this one.
    pub brought: u64,
    /// Trees that were removed.
    pub removed: u64,
    /// Not all trees were made: another process makes them or needs the store for itself, there is
    /// little room or memory, or only a part of the files could be cloned.
    pub stopped: bool,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// Gives the calling thread, and the threads that it starts from now on, the lowest priority. On
/// Linux it also gets the disk only while nobody else wants it. For programs that call
/// [`Store::make_ready_trees`] in the background. Without the right to do so, it does nothing.
pub fn lowest_priority() {
    sys::lowest_priority();
}

/// Lets the program that `command` runs inherit the three standard streams, and no other
/// descriptor. A process in the background must not keep a pipe of the caller's open, because the
/// caller may read it to its end.
pub fn inherit_streams_only(command: &mut std::process::Command) {
    sys::inherit_streams_only(command);
}

/// Sets SIGCHLD to its default if this process has inherited that it is ignored: then no answer of
/// git arrives. For a program at its start.
pub fn keep_answers_of_children() {
    sys::keep_answers_of_children();
}

/// A tree that waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Waiting {
    pub(super) name: CString,
    pub(super) id: SnapshotId,
}

/// What a tree that waits has, if it is of another snapshot than the target.
struct OtherBase<'t> {
    tree: Manifest,
    index: Index,
    target: &'t Manifest,
}

/// A snapshot, and its tree.
pub(super) type Target<'a> = (SnapshotId, &'a SnapshotObject, &'a Manifest);

impl Store {
    /// How many ready trees the store keeps waiting for the next starts: see
    /// [`Store::keep_ready_trees`].
    #[must_use]
    pub fn ready_trees_kept(&self) -> u64 {
        match self.ready_trees_set() {
            Ok(number) => number,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let filesystem = sys::filesystem_name(self.path());
                let entries = || {
                    let row = self.catalog().worktree(PROJECT).ok()??;
                    self.object(row.snapshot?).ok().map(|object| object.entries)
                };
                kept_unless_told(filesystem.as_deref(), entries().unwrap_or(0))
            }
            Err(_) => 0,
        }
    }

    /// The number that [`Store::keep_ready_trees`] set.
    fn ready_trees_set(&self) -> io::Result<u64> {
        let text = read_plain(fs::CWD, &self.layout().ready_setting(), SETTING_MOST_BYTES)?;
        let number = String::from_utf8(text).ok().and_then(|it| it.trim().parse().ok());
        Ok(number.unwrap_or(0).min(MOST))
    }

    /// Sets how many ready trees of the project's latest snapshot the store keeps, at most 64. A
    /// start takes one of them and returns at once. calve makes them only in
    /// [`Store::make_ready_trees`]. A ready tree takes as much disk as a worktree.
    ///
    /// On btrfs one subvolume serves all starts. The number says how many snapshots of it wait
    /// beside it. They take no disk. calve has looked at each of their entries, so that the first
    /// look at a worktree is as quick as the second one; the inodes take 1.5 KB of the kernel's
    /// memory for each entry. No more snapshots wait than have room in a quarter of the memory that
    /// is available.
    ///
    /// Unless this was called, the number is 1 for a project of at least 10,000 entries on a
    /// filesystem with reflinks, and 0 otherwise.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. The number is what it was.
    pub fn keep_ready_trees(&self, number: u64) -> Result<(), Error> {
        self.must_be_writable(Operation::MakeReadyTree)?;
        let path = self.layout().ready_setting();
        let text = format!("{}\n", number.min(MOST));
        staging::write_flushed(&self.layout().stage(), &path, text.as_bytes())
            .context(Operation::MakeReadyTree, || path)
    }

    /// Makes as many ready trees of the project's latest snapshot as the store keeps. It removes
    /// those of other snapshots, or brings them to this one if they are similar.
    ///
    /// One process makes trees at a time. This returns as soon as another process needs the store
    /// for itself, if there is little room, and if another process makes trees already: see
    /// [`ReadyReport::stopped`]. If the number is set to a lower one meanwhile, it begins again
    /// with that. It also deletes trees that starts could not use. A process that is killed leaves
    /// nothing behind that the next call does not remove.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if content of the snapshot is lost. The trees that were complete
    /// stay.
    pub fn make_ready_trees(&self, options: &StoreOptions) -> Result<ReadyReport, Error> {
        let started = Instant::now();
        self.must_be_writable(Operation::MakeReadyTree)?;
        let mut report = ReadyReport::default();
        let Some(_alone) = locks::refill(self.path())? else {
            // The process that makes trees keeps no more than the number allows, also if the number
            // was changed just now. Trees that wait already need not wait for that process.
            report.stopped = self.ready_trees_kept() > 0;
            if !report.stopped {
                self.discard_all_waiting(&mut report)?;
            }
            report.elapsed = started.elapsed();
            return Ok(report);
        };
        loop {
            let kept = self.ready_trees_kept();
            let are_too_many = || self.ready_trees_set().is_ok_and(|number| number < kept);
            let is_needed = || locks::is_gate_closed(self.path()) || are_too_many();
            let work = |operation: &Running| self.refill(operation, &mut report);
            match self.until_needed(options, is_needed, work) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::StorageFull)
                        && !options.cancel.is_cancelled() =>
                {
                    report.stopped = true;
                }
                result => result?,
            }
            if !are_too_many() {
                break;
            }
            report.stopped = false;
        }
        // Starts put trees there that they could not use. The next process that empties the trash
        // deletes those that cannot be deleted now.
        let _ = trash::empty(self.layout(), self.catalog());
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Calls `work` with an operation that is cancelled as soon as `is_needed` says that another
    /// process needs what this one has.
    pub(crate) fn until_needed<T>(
        &self,
        options: &StoreOptions,
        is_needed: impl Fn() -> bool + Sync,
        work: impl FnOnce(&Running) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let stop = Cancel::default();
        let done = AtomicBool::new(false);
        let stoppable = StoreOptions { cancel: stop.clone(), ..options.clone() };
        std::thread::scope(|scope| {
            let watch = || {
                while !done.load(Ordering::Relaxed) {
                    if options.cancel.is_cancelled() || is_needed() {
                        stop.cancel();
                    }
                    std::thread::park_timeout(LOOK);
                }
            };
            let watcher = std::thread::Builder::new().spawn_scoped(scope, watch);
            let Ok(watcher) = watcher else {
                // The limit of threads is reached: nobody can look whether another process waits.
                return work(&options.operation());
            };
            let result = work(&stoppable.operation());
            done.store(true, Ordering::Relaxed);
            watcher.thread().unpark();
            result
        })
    }

    /// Removes all trees that wait, also while another process makes some.
    fn discard_all_waiting(&self, report: &mut ReadyReport) -> Result<(), Error> {
        let folder = self.layout().ready_trees();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        report.snapshot = self.catalog().worktree(PROJECT)?.and_then(|row| row.snapshot);
        for waiting in self.waiting() {
            report.removed += u64::from(self.discard_waiting(&dir, &waiting.name));
        }
        Ok(())
    }

    fn refill(&self, operation: &Running, report: &mut ReadyReport) -> Result<(), Error> {
        let folder = self.layout().ready_trees();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        staging::sweep(&dir);
        let kept = self.ready_trees_kept();
        let Some(id) = self.catalog().worktree(PROJECT)?.and_then(|row| row.snapshot) else {
            return Ok(());
        };
        report.snapshot = Some(id);
        if room::is_btrfs(self.path()) {
            let object = self.object(id)?;
            let _guard = self.share()?;
            return self.refill_walked(&dir, (id, &object), operation, report);
        }
        // A tree that is made may be taken at once. Somebody who takes all of them is not served
        // for ever.
        for _ in 0..=2 * MOST {
            let (ours, others): (Vec<Waiting>, Vec<Waiting>) =
                self.waiting().into_iter().partition(|it| it.id == id);
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
            let object = self.object(id)?;
            if !self.has_room(&dir, &object) {
                report.stopped = true;
                return Ok(());
            }
            let _guard = self.share()?;
            let manifest = self.catalog().manifest(id, &object)?;
            let target = (id, &object, &manifest);
            if let Some(near) = self.nearest_waiting(&others, &object)
                && let Some(taken) = self.take_waiting(&near)
            {
                if self.bring_waiting(taken, &near, target, operation)? {
                    report.brought += 1;
                } else {
                    report.removed += 1;
                }
            } else if self.make_waiting(&dir, target, operation)? {
                report.made += 1;
            } else {
                report.stopped = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether there is room for a tree, and some more for everybody else.
    pub(super) fn has_room(&self, dir: &OwnedFd, object: &SnapshotObject) -> bool {
        let Ok(room) = fs::fstatvfs(dir) else { return false };
        // Where files cannot be cloned, a tree takes the content as well.
        let content = match Filesystem::of(self.path()).shares {
            SharesBlocks::Usually => 0,
            _ => object.bytes,
        };
        let needed = object.entries.saturating_mul(ENTRY_BYTES).saturating_add(content);
        let (free, all) = (
            room.f_bavail.saturating_mul(room.f_frsize),
            room.f_blocks.saturating_mul(room.f_frsize),
        );
        let has_inodes = room.f_files == 0 || room.f_favail > object.entries.saturating_mul(2);
        has_inodes && free > needed.saturating_mul(2).saturating_add(all / 20)
    }

    /// The trees that wait, the one that waits for the longest time first.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let names = files::listed_at(&self.layout().ready_trees()).unwrap_or_default();
        let waiting = names.into_iter().filter_map(|(name, kind)| {
            let (stem, number) = name.to_str()?.split_once('.')?;
            let is_one = kind == fs::FileType::Directory && number.parse::<u64>().is_ok();
            let id = from_hex(stem).map(SnapshotId::from_bytes).filter(|_| is_one)?;
            Some(Waiting { name: CString::new(name.as_encoded_bytes()).ok()?, id })
        });
        let mut waiting: Vec<Waiting> = waiting.collect();
        // All ids have one length, so this is the order of the numbers.
        waiting
            .sort_by(|a, b| (a.name.count_bytes(), &a.name).cmp(&(b.name.count_bytes(), &b.name)));
        waiting
    }

    /// How many trees wait.
    pub(crate) fn count_waiting(&self) -> u64 {
        self.waiting().len() as u64
    }

    pub(super) fn nearest_waiting(
        &self,
        of: &[Waiting],
        object: &SnapshotObject,
    ) -> Option<Waiting> {
        let most = nearest::most_changes(object.entries);
        let mut candidates = Vec::new();
        for (at, waiting) in of.iter().enumerate() {
            let changes = |old| nearest::changes(self.catalog(), (&old, object), most);
            let changes = self.object(waiting.id).and_then(changes).ok().flatten();
            candidates.push((at, changes));
        }
        nearest::nearest(&candidates, most).map(|at| of[at].clone())
    }

    /// Takes a tree that waits. The process that renames its folder has it.
    fn take_waiting(&self, waiting: &Waiting) -> Option<Stage> {
        let folder = self.layout().ready_trees();
        let dir = fs::open(&folder, DIR_FLAGS, Mode::empty()).ok()?;
        let take = |dir: &OwnedFd, name: &std::ffi::CStr| -> io::Result<()> {
            Ok(fs::renameat(dir, &waiting.name, dir, name)?)
        };
        Stage::new(dir, &folder, take).ok()
    }

    /// Moves a folder that was taken into the trash, where deleting it keeps nobody waiting.
    pub(super) fn trash_waiting(&self, taken: &Stage) {
        let _ = std::fs::rename(taken.path(), self.layout().trash().join(stage_name()));
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

    /// The folders of trees that wait and are not as calve made them. A start would not use them.
    /// Trees of another boot are no damage: nobody can say whether they were touched. Nor are those
    /// on btrfs, where reading one may break its seal.
    pub(in super::super) fn touched_waiting(
        &self,
        operation: &Running,
    ) -> Result<Vec<PathBuf>, Error> {
        let folder = self.layout().ready_trees();
        let mut touched = Vec::new();
        if room::is_btrfs(self.path()) {
            return Ok(touched);
        }
        for waiting in self.waiting() {
            let path = folder.join(os(waiting.name.to_bytes()));
            let flags = DIR_FLAGS | fs::OFlags::NOFOLLOW;
            // Another process may have taken the tree.
            let Ok(dir) = fs::open(&path, flags, Mode::empty()) else { continue };
            // A damaged snapshot is reported as such.
            let manifest = self.object(waiting.id);
            let manifest = manifest.and_then(|it| self.catalog().manifest(waiting.id, &it));
            let Ok(manifest) = manifest else { continue };
            let about = match About::read(&dir) {
                // Another version of calve made it. No start uses it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about.ok(),
            };
            let tree = about.and_then(|it| fs::openat(&dir, it.tree, flags, Mode::empty()).ok());
            let is_good = match (read_index(&dir, &manifest), tree) {
                (Some(index), _) if index.boot != Boot::this() => true,
                (Some(index), Some(tree)) if index.snapshot == waiting.id => {
                    is_untouched(&tree, &manifest, &index, operation.jobs())
                }
                _ => false,
            };
            if operation.is_cancelled() {
                return Err(crate::tree::pool::cancelled(Operation::Verify, &path));
            }
            let id = |stat: fs::Stat| Meta::of(&stat).id();
            let still_waits = fs::lstat(&path).ok().map(id) == fs::fstat(&dir).ok().map(id);
            if !is_good && still_waits {
                touched.push(path);
            }
        }
        Ok(touched)
    }

    /// Moves a tree that waits, in this folder, into the trash.
    pub(in super::super) fn remove_waiting(&self, folder: &Path) -> bool {
        std::fs::rename(folder, self.layout().trash().join(stage_name())).is_ok()
    }

    /// Whether a tree of this snapshot waits of which a start needs to read nothing.
    pub(crate) fn waits_unread(&self, id: SnapshotId) -> bool {
        let open = |waiting: Waiting| {
            let path = self.layout().ready_trees().join(os(waiting.name.to_bytes()));
            fs::open(path, DIR_FLAGS, Mode::empty()).ok()
        };
        let mut ours = self.waiting().into_iter().filter(|waiting| waiting.id == id);
        ours.next().and_then(open).is_some_and(tripwire::was_never_listed)
    }

    /// Hands a tree of a snapshot over to a start: renames it to a stage in `parent`. `None` if no
    /// tree that is good waits, or if it cannot be renamed there.
    ///
    /// # Errors
    /// The snapshot is damaged.
    pub(crate) fn hand_over(
        &self,
        target: &SnapshotTree<'_>,
        (parent, parent_path): (&Arc<OwnedFd>, &Path),
        operation: &Running,
    ) -> Result<Option<Arrived>, Error> {
        if room::is_btrfs(self.path()) {
            return Ok(None);
        }
        let dev = |dir: &OwnedFd| fs::fstat(dir).map(|stat| Meta::of(&stat).dev).ok();
        let mut bad = HashSet::new();
        loop {
            let waiting: Vec<Waiting> =
                self.waiting().into_iter().filter(|it| !bad.contains(it)).collect();
            let Some(near) = self.nearest_waiting(&waiting, target.object) else {
                return Ok(None);
            };
            bad.insert(near.clone());
            let Some(mut taken) = self.take_waiting(&near) else { continue };
            if dev(taken.dir()) != dev(parent) {
                let _ = taken.publish(&near.name);
                return Ok(None);
            }
            let Some((about, tree)) = known(&taken, near.id) else {
                self.trash_waiting(&taken);
                continue;
            };
            let proof = self.proven(&near, (&taken, &about, &tree), target, operation)?;
            let Some(base) = proof else {
                self.trash_waiting(&taken);
                continue;
            };
            let git_index = KeptGitIndex::in_folder(taken.dir()).filter(|_| {
                base.as_ref().is_none_or(|base| git_index::tells_apart(&base.tree, base.target))
            });
            let moved = Stage::new(Arc::clone(parent), parent_path, |dir, name| {
                Ok(fs::renameat(taken.dir(), &about.tree, dir, name)?)
            });
            let stage = match moved {
                Ok(stage) => stage,
                Err(error) => {
                    // Another quota of the filesystem counts what is in that folder.
                    let errno = Errno::from_io_error(&error);
                    if errno != Some(Errno::XDEV) || taken.publish(&near.name).is_err() {
                        self.trash_waiting(&taken);
                    }
                    return Ok(None);
                }
            };
            let (report, index) = match base {
                None => (about.report(), ArrivedIndex::InFolder(taken)),
                Some(OtherBase { tree, index, target: manifest }) => {
                    let (place, old) = ((stage.dir(), &*stage.path()), (&tree, &index));
                    let brought = self.bring_private(place, old, (target.id, manifest), operation);
                    let Ok(Some(index)) = brought else {
                        let aside = self.layout().trash().join(stage_name());
                        let _ = std::fs::rename(stage.path(), aside);
                        continue;
                    };
                    let counts = tripwire::Counts::of(manifest, about.is_copied());
                    (counts.report(), ArrivedIndex::Made(index))
                }
            };
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
        waiting: &Waiting,
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
        let (id, target) = (target.id, target.manifest()?);
        let how = (waiting.id, is_quiet, operation);
        if waiting.id == id {
            return Ok(Self::untouched((taken, tree), target, how).map(|_| None));
        }
        let base = self.object(waiting.id);
        let base = base.and_then(|it| self.catalog().manifest_like(waiting.id, &it, &[target]));
        // Damage of another snapshot does not affect this start.
        let Ok(base) = base else { return Ok(None) };
        let index = Self::untouched((taken, tree), &base, how);
        Ok(index.map(|index| Some(OtherBase { tree: base, index, target })))
    }

    /// Brings a tree that was taken to another snapshot, and lets it wait again. Returns whether
    /// that was done; if not, the tree is removed.
    fn bring_waiting(
        &self,
        mut taken: Stage,
        from: &Waiting,
        target: Target<'_>,
        operation: &Running,
    ) -> Result<bool, Error> {
        let (folder, (id, _, manifest)) = (self.layout().ready_trees(), target);
        let base = self.catalog().manifest_like(from.id, &self.object(from.id)?, &[manifest])?;
        let Some((about, tree)) = known(&taken, from.id) else { return Ok(false) };
        let is_quiet = about.is_quiet(taken.dir(), &tree, operation.jobs());
        let how = (from.id, is_quiet, operation);
        let Some(old) = Self::untouched((&taken, &tree), &base, how) else { return Ok(false) };
        let path = taken.path().join(&about.tree);
        let brought = self.bring_private((&tree, &path), (&base, &old), (id, manifest), operation);
        let index = match brought {
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::StorageFull) => {
                return Err(error);
            }
            Ok(Some(index)) => index,
            _ => return Ok(false),
        };
        let how = (about.is_copied(), operation);
        self.let_wait((&mut taken, &tree, &about.tree), target, index, how)
            .context(Operation::MakeReadyTreeIn, || &folder)?;
        Ok(true)
    }

    /// Makes a tree, file by file, and lets it wait. `false` if a part of it did not arrive, or if
    /// only some of its files could be cloned: the report of a start could not say which.
    fn make_waiting(
        &self,
        dir: &OwnedFd,
        (id, object, manifest): Target<'_>,
        operation: &Running,
    ) -> Result<bool, Error> {
        let folder = self.layout().ready_trees();
        let failed = || folder.clone();
        let dir = dir.try_clone().context(Operation::Open, failed)?;
        let mut stage = Stage::empty(dir, &folder).context(Operation::MakeReadyTreeIn, failed)?;
        let name = About::new_name();
        let make = |stage: &Stage| -> io::Result<OwnedFd> {
            fs::mkdirat(stage.dir(), &name, Mode::RWXU)?;
            Ok(fs::openat(stage.dir(), &name, DIR_FLAGS, Mode::empty())?)
        };
        let tree = make(&stage).context(Operation::MakeReadyTreeIn, failed)?;
        operation.expect(object.files);
        let root = tree.try_clone().context(Operation::MakeReadyTreeIn, failed)?;
        let plan = Plan { store: self, manifest, paths: std::slice::from_ref(&folder), operation };
        let mut made = materialize(&plan, vec![root])?;
        let (reflinked, copied) = made
            .reports
            .iter()
            .fold((0, 0), |(a, b), it| (a + it.reflinked_bytes, b + it.copied_files));
        let is_whole = made.reports.iter().all(|report| report.skipped.is_empty());
        if !is_whole || (reflinked > 0 && copied > 0) {
            return Ok(false);
        }
        if !made.unsealed.is_empty() || copied > 0 {
            self.flush(&made.unsealed)?;
        }
        let stats = made.stats.pop().unwrap_or_default();
        let stamp = self.clock_past_all(stats.iter())?;
        let index = Index { snapshot: id, boot: Boot::this(), stamp, stats };
        let target = (id, object, manifest);
        self.let_wait((&mut stage, &tree, &name), target, index, (copied > 0, operation))
            .context(Operation::MakeReadyTreeIn, failed)?;
        Ok(true)
    }

    /// Sets the tripwires of a tree, writes its indexes, and gives the tree's folder the name under
    /// which it waits. The tree gets another name, which no program can have seen.
    fn let_wait(
        &self,
        (stage, tree, name): (&mut Stage, &OwnedFd, &str),
        target: Target<'_>,
        mut index: Index,
        (is_copied, operation): (bool, &Running),
    ) -> io::Result<()> {
        let (id, _, manifest) = target;
        let new_name = About::new_name();
        fs::renameat(stage.dir(), name, stage.dir(), &new_name)?;
        if let Some(stat) = index.stats.first_mut() {
            *stat = stat_of(&Meta::of(&fs::fstat(tree)?));
        }
        let folders = (stage.dir(), tree);
        let about = About::set(folders, new_name, (manifest, &mut index), is_copied);
        let last = index.stats.iter().map(|stat| stat.changed).max().unwrap_or_default();
        index.stamp = self.clock_past(index.stamp.max(last)).map_err(io::Error::other)?;
        let path = stage.path();
        let encoded = index.encode_stored(manifest)?;
        staging::write_whole(&path, &path.join(READY_INDEX), &encoded)?;
        git_index::keep_with(self, (&path, tree), target, &index, operation);
        about.write(&path, stage.dir())?;
        self.publish_waiting(stage, id)
    }

    /// Gives a tree the name under which it waits, behind those that wait already.
    pub(super) fn publish_waiting(&self, stage: &mut Stage, id: SnapshotId) -> io::Result<()> {
        let number = |waiting: &Waiting| -> Option<u64> {
            waiting.name.to_str().ok()?.split_once('.')?.1.parse().ok()
        };
        let last = self.waiting().iter().filter(|it| it.id == id).filter_map(number).max();
        let first = last.and_then(|last| last.checked_add(1)).unwrap_or(1);
        for number in first..=first.saturating_add(2 * MOST) {
            let name = CString::new(format!("{id}.{number}"))?;
            match stage.publish(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// How many trees a store keeps that was not told a number.
fn kept_unless_told(filesystem: Option<&str>, entries: u64) -> u64 {
    let shares = Filesystem::named(filesystem).shares == SharesBlocks::Usually;
    u64::from(shares && entries >= LEAST_ENTRIES)
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
    let count = manifest.stored_count();
    let bytes = read_plain(folder, Path::new(READY_INDEX), index::most_bytes(count)).ok()?;
    let index = Index::decode(&bytes, count).ok()?;
    Some(Index { stats: manifest.of_stored(index.stats), ..index })
}

/// Whether each entry of the tree has the inode and the change time that the index has.
fn is_untouched(tree: &OwnedFd, manifest: &Manifest, index: &Index, jobs: usize) -> bool {
    let Ok(root) = fs::fstat(tree) else { return false };
    let dev = Meta::of(&root).dev;
    let is_it = |meta: &Meta, number: u32| {
        let stat = index.stats.get(number as usize);
        meta.dev == dev && stat.is_some_and(|it| *it == stat_of(meta) && it.changed < index.stamp)
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
                    fs::statat(&dir, os(&entry.name), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|stat| is_it(&Meta::of(&stat), number))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_a_tree_where_it_shares_its_blocks_and_a_start_would_take_long() {
        for (filesystem, entries, expected) in [
            (Some("xfs"), LEAST_ENTRIES, 1),
            (Some("xfs"), LEAST_ENTRIES - 1, 0),
            (Some("xfs"), 0, 0),
            (Some("bcachefs"), u64::MAX, 1),
            (Some("btrfs"), LEAST_ENTRIES, 1),
            (Some("btrfs"), LEAST_ENTRIES - 1, 0),
            (Some("ext4"), u64::MAX, 0),
            (None, u64::MAX, 0),
        ] {
            assert_eq!(kept_unless_told(filesystem, entries), expected, "{filesystem:?} {entries}");
        }
    }
}

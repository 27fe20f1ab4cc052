//! Ready trees: whole trees of snapshots, which the store keeps so that a worktree comes at once.
//!
//! There are two ways to keep them, and the store's filesystem decides which one a store has. On
//! btrfs a ready tree is a [subvolume](subvolumes), and worktrees are snapshots of it. Elsewhere it
//! is a [folder](folders), and a start takes the tree itself by a rename. [`Shelf`] is what both
//! can do, and [`ReadyTrees`] has what is the same for both.
//!
//! All of them are in one folder of the store, `templates`. `ID` is the subvolume of a snapshot,
//! and `ID.N` a tree that waits: of folders the ready trees themselves, of subvolumes their
//! snapshots. The collector removes the ready trees of snapshots that nobody needs.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs;

use super::bring::Bring;
use super::bring::plan::{Changes, Trees};
use super::id::{SnapshotId, from_hex};
use super::index::{Index, Stat};
use super::manifest::{Manifest, os};
use super::materialize::{Made, Plan, materialize};
use super::metadata::Maker;
use super::object::SnapshotObject;
use super::trash::{self, remove_tree};
use super::{Store, StoreOptions, background, clock, files, locks, read_plain};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::{Filesystem, SharesBlocks};
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, stage_name};

mod arrived;
mod folders;
pub(crate) mod git_index;
mod nearest;
pub(crate) mod seal;
mod shelf;
mod subvolumes;
mod tripwire;
pub(crate) mod vouched;

pub(crate) use arrived::{Arrived, ArrivedGitIndex, ArrivedIndex, SnapshotTree};
pub(crate) use arrived::{TreePlace, places, publish_all, unpublish_all};
pub(crate) use shelf::{Deletion, Shelf, Which};

/// calve keeps a ready tree of a project with at least this many entries, unless the store's
/// setting says how many it keeps.
/// Below that, a start takes less than a quarter of a second.
const LEAST_ENTRIES: u64 = 10_000;

/// The setting is a number and a newline.
const SETTING_MOST_BYTES: u64 = 64;

/// The most trees that a store keeps waiting.
const MOST: u64 = 64;

/// The most trees that a store keeps waiting because of earlier starts.
const LEARNED_MOST: u64 = 8;

/// Starts within so many seconds come faster than trees are made behind them.
const BURST_SECONDS: i64 = 60;

/// So long do earlier starts say how many the next ones will be.
const LEARNED_SECONDS: i64 = 3 * 24 * 3600;

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

/// A tree that waits in the folder of ready trees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WaitingTree {
    name: CString,
    id: SnapshotId,
}

impl Store {
    /// The ready trees of this store.
    pub(crate) fn ready(&self) -> ReadyTrees<'_> {
        ReadyTrees { store: self }
    }

    /// How many ready trees the store keeps waiting for the next starts: see
    /// [`Store::keep_ready_trees`].
    #[must_use]
    pub fn ready_trees_kept(&self) -> u64 {
        self.ready().kept()
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
    /// Unless this was called, the number is 0 without reflinks and for a project of less than
    /// 10,000 entries, and 1 on btrfs. Elsewhere it follows the demand: as many as worktrees were
    /// started within one minute of the last three days, at least 1 and at most 8.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. The number is what it was.
    pub fn keep_ready_trees(&self, number: u64) -> Result<(), Error> {
        self.ready().set_kept(number)
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
        self.ready().make(options)
    }
}

/// Access to the ready trees of a store, for what both implementations of [`Shelf`] share.
#[derive(Clone, Copy)]
pub(crate) struct ReadyTrees<'s> {
    store: &'s Store,
}

impl<'s> ReadyTrees<'s> {
    /// The way in which this store keeps them.
    pub(crate) fn shelf(self) -> Box<dyn Shelf + 's> {
        match self.store.filesystem().has_subvolumes {
            true => Box::new(subvolumes::Subvolumes { store: self.store, trees: self }),
            false => Box::new(folders::Folders { store: self.store, trees: self }),
        }
    }

    /// See [`Store::ready_trees_kept`].
    fn kept(self) -> u64 {
        match self.number_set() {
            Ok(number) => number,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let latest = self.store.catalog().latest().ok().flatten();
                let object = latest.and_then(|id| self.store.catalog().object(id).ok());
                let entries = object.map_or(0, |object| object.entries);
                kept_unless_told(self.store.filesystem(), entries, || self.demand())
            }
            Err(_) => 0,
        }
    }

    /// How many worktrees of the last days were started within a minute, at most.
    fn demand(self) -> u64 {
        let since = clock::now().0.saturating_sub(LEARNED_SECONDS);
        self.store.catalog().starts_since(since).map_or(1, |starts| most_in_a_burst(&starts))
    }

    /// The number that [`Store::keep_ready_trees`] set.
    fn number_set(self) -> io::Result<u64> {
        let path = self.store.layout().ready_setting();
        let text = read_plain(fs::CWD, &path, SETTING_MOST_BYTES)?;
        let number = String::from_utf8(text).ok().and_then(|it| it.trim().parse().ok());
        Ok(number.unwrap_or(0).min(MOST))
    }

    /// See [`Store::keep_ready_trees`].
    fn set_kept(self, number: u64) -> Result<(), Error> {
        self.store.must_be_writable(Operation::MakeReadyTree)?;
        let path = self.store.layout().ready_setting();
        let text = format!("{}\n", number.min(MOST));
        staging::write_flushed(&self.store.layout().stage(), &path, text.as_bytes())
            .context(Operation::MakeReadyTree, || path)
    }

    /// See [`Store::make_ready_trees`].
    fn make(self, options: &StoreOptions) -> Result<ReadyReport, Error> {
        let (store, started) = (self.store, Instant::now());
        store.must_be_writable(Operation::MakeReadyTree)?;
        let mut report = ReadyReport::default();
        let Some(_alone) = locks::refill(store.path())? else {
            // The process that makes trees keeps no more than the number allows, also if the number
            // was changed just now. Trees that wait already need not wait for that process.
            report.stopped = self.kept() > 0;
            if !report.stopped {
                self.discard_all_waiting(&mut report)?;
            }
            report.elapsed = started.elapsed();
            return Ok(report);
        };
        loop {
            let kept = self.kept();
            let are_too_many = || self.number_set().is_ok_and(|number| number < kept);
            let is_needed = || locks::is_gate_closed(store.path()) || are_too_many();
            let work = |operation: &Running| self.refill(operation, &mut report);
            match background::until_needed(options, is_needed, work) {
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
        let _ = trash::empty(store.layout(), store.catalog());
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Opens their folder.
    fn open(self) -> Result<OwnedFd, Error> {
        files::open_dir(&self.store.layout().ready_trees())
    }

    /// The path of a tree that waits.
    fn path(self, waiting: &WaitingTree) -> PathBuf {
        self.store.layout().ready_trees().join(os(waiting.name.to_bytes()))
    }

    /// Removes all trees that wait, also while another process makes some.
    fn discard_all_waiting(self, report: &mut ReadyReport) -> Result<(), Error> {
        report.snapshot = self.store.catalog().latest()?;
        for waiting in self.waiting() {
            let removed = self.discard(Which::At(&self.path(&waiting)), Deletion::Now);
            report.removed += u64::from(removed);
        }
        Ok(())
    }

    fn refill(self, operation: &Running, report: &mut ReadyReport) -> Result<(), Error> {
        let dir = self.open()?;
        staging::sweep(&dir);
        report.snapshot = self.store.catalog().latest()?;
        let Some(id) = report.snapshot else { return Ok(()) };
        self.shelf().refill(&dir, id, operation, report)
    }

    /// Whether there is room for so many trees, and some more for everybody else.
    fn has_room(self, dir: &OwnedFd, object: &SnapshotObject, trees: u64) -> bool {
        let Ok(room) = fs::fstatvfs(dir) else { return false };
        // Where files cannot be cloned, a tree takes the content as well.
        let content = match self.store.filesystem().shares {
            SharesBlocks::Usually => 0,
            _ => object.bytes,
        };
        let needed = object.entries.saturating_mul(ENTRY_BYTES).saturating_add(content);
        let (needed, entries) =
            (needed.saturating_mul(trees), object.entries.saturating_mul(trees));
        let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
        let (free, all) = (bytes(room.f_bavail), bytes(room.f_blocks));
        let has_inodes = room.f_files == 0 || room.f_favail > entries.saturating_mul(2);
        has_inodes && free > needed.saturating_mul(2).saturating_add(all / 20)
    }

    /// The entries of the folder of ready trees. A folder that cannot be read has none that a start
    /// could use: the start makes its tree anew.
    fn names(self) -> Vec<(OsString, fs::FileType)> {
        files::listed_at(&self.store.layout().ready_trees()).unwrap_or_default()
    }

    /// The trees that wait, the one that waits for the longest time first.
    fn waiting(self) -> Vec<WaitingTree> {
        let waiting = self.names().into_iter().filter_map(|(name, kind)| {
            let (stem, number) = name.to_str()?.split_once('.')?;
            let is_one = kind == fs::FileType::Directory && number.parse::<u64>().is_ok();
            let id = from_hex(stem).map(SnapshotId::from_bytes).filter(|_| is_one)?;
            Some(WaitingTree { name: CString::new(name.as_encoded_bytes()).ok()?, id })
        });
        let mut waiting: Vec<WaitingTree> = waiting.collect();
        // All ids have one length, so this is the order of the numbers.
        waiting
            .sort_by(|a, b| (a.name.count_bytes(), &a.name).cmp(&(b.name.count_bytes(), &b.name)));
        waiting
    }

    /// How many trees wait.
    pub(crate) fn count_waiting(self) -> u64 {
        self.waiting().len() as u64
    }

    /// Which of some trees, given by their snapshots, needs the fewest changes for this snapshot.
    /// `None` if none is near.
    fn nearest(self, of: &[SnapshotId], object: &SnapshotObject) -> Option<SnapshotId> {
        let most = nearest::most_changes(object.entries);
        let mut candidates = Vec::new();
        for &id in of {
            let changes = |old| nearest::changes(self.store.catalog(), (&old, object), most);
            candidates.push((id, self.store.catalog().object(id).and_then(changes).ok().flatten()));
        }
        nearest::nearest(&candidates, most)
    }

    fn nearest_waiting(self, of: &[WaitingTree], object: &SnapshotObject) -> Option<WaitingTree> {
        let ids: Vec<SnapshotId> = of.iter().map(|waiting| waiting.id).collect();
        let near = self.nearest(&ids, object)?;
        of.iter().find(|waiting| waiting.id == near).cloned()
    }

    /// The tree of another snapshot, which is brought to the target.
    fn manifest_near(self, id: SnapshotId, target: &SnapshotTree<'_>) -> Result<Manifest, Error> {
        let object = self.store.catalog().object(id)?;
        self.store.catalog().manifest_like(id, &object, &[target.manifest()?])
    }

    /// Makes the tree of a snapshot in each of these empty folders, by cloning every file.
    fn fill<'r>(
        self,
        roots: impl Iterator<Item = &'r OwnedFd>,
        target: &SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<Made, Error> {
        let folder = self.store.layout().ready_trees();
        let roots = roots.map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
        let roots = roots.context(Operation::MakeReadyTreeIn, || &folder)?;
        operation.expect(target.object.files.saturating_mul(roots.len() as u64));
        let paths = vec![folder; roots.len()];
        let (store, manifest) = (self.store, target.manifest()?);
        materialize(&Plan { store, manifest, paths: &paths, operation }, roots)
    }

    /// Gives a tree the name under which it waits, behind those that wait already.
    fn publish(self, stage: &mut Stage, id: SnapshotId) -> io::Result<()> {
        let number = |waiting: &WaitingTree| -> Option<u64> {
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

    /// Brings a tree that no other process knows from one snapshot to another. Returns its index,
    /// or `None` if calve cannot vouch for an entry.
    fn bring(
        &self,
        (root, path): (&OwnedFd, &Path),
        (base, old): (&Manifest, &Index),
        target: &SnapshotTree<'_>,
        operation: &Running,
    ) -> Result<Option<Index>, Error> {
        let (id, target) = (target.id, target.manifest()?);
        let trees = Trees {
            base,
            now: base,
            target,
            interrupted: None,
            maker: Maker::this(),
            in_place: std::collections::HashSet::new(),
            local: None,
            left_to_undo: None,
        };
        let moves = trees.plan(Changes::Respect);
        // The new index gets the stats that these files have then, though nobody reads them. So
        // they must be now what the old index says, also in a tree of which no file was looked at.
        let linked = base.entries().filter(|(_, _, entry)| entry.link() != 0);
        let linked = linked.map(|(place, slot, _)| (place, slot));
        let mended = moves.mend.keys().filter_map(|path| trees.find(base, path));
        if !linked.chain(mended).all(|at| is_as_known(root, (base, old), at)) {
            return Ok(None);
        }
        let bring =
            Bring { store: self.store, root, path, trees: &trees, moves: &moves, is_private: true };
        let staged = bring.stage(operation)?;
        if staged.skipped().next().is_some() {
            return Ok(None);
        }
        let applied = bring.apply(staged)?;
        applied.discarded.context(Operation::RemoveLeftovers, || path)?;
        let index = bring.index(id, &applied.given, Some(old))?;
        // The root gets its last change when it is published.
        let is_known = |stat: &Stat| *stat != Stat::default();
        let is_whole = index.stats.iter().skip(1).all(is_known)
            && super::bring::look_at(root, Path::new(""))
                .context(Operation::Read, || path)?
                .is_some_and(|root| {
                    trees.maker.gave(&root, &target.root) && root.mtime == target.root.mtime
                });
        Ok(is_whole.then_some(index))
    }

    /// The snapshots that have a seal of a ready tree, the one that was used last first.
    fn latest(self) -> Vec<SnapshotId> {
        let used = self.names().into_iter().filter_map(|(name, _)| {
            let (stem, extension) = name.to_str()?.split_once('.')?;
            let id = from_hex(stem).map(SnapshotId::from_bytes)?;
            let seal = self.store.layout().ready_seal(id);
            let stat = (extension == "seal").then(|| fs::lstat(&seal).ok()).flatten()?;
            Some((id, Meta::of(&stat).modified()))
        });
        nearest::latest_first(used.collect())
    }

    /// How many ready trees there are.
    pub(crate) fn count(self) -> u64 {
        self.latest().len() as u64 + self.count_waiting()
    }

    /// Makes the subvolume that unnamed worktrees are snapshots of a ready tree: see
    /// [`Shelf::adopt`]. If that fails, the next start makes the ready tree.
    pub(crate) fn adopt(self, unnamed: (&str, &[u8]), snapshot: (SnapshotId, &Index)) {
        if let Ok(_lock) = locks::one_by_one(self.store.path()) {
            let _ = self.shelf().adopt(unnamed, snapshot);
        }
    }

    /// Removes a ready tree. Returns whether it was there and is gone. It moves into the trash
    /// first, so no start sees a part of it.
    pub(crate) fn discard(self, which: Which<'_>, deletion: Deletion) -> bool {
        let layout = self.store.layout();
        let path = match which {
            Which::Of(id) => {
                for file in [layout.ready_seal(id), layout.ready_index(id)] {
                    let _ = std::fs::remove_file(file);
                }
                layout.ready_tree(id)
            }
            Which::Unnamed(token) => layout.unnamed_tree(token),
            Which::At(path) => path.to_owned(),
        };
        // A sandbox lets no folder go to another one. Under this name it is swept in its own.
        let name = stage_name();
        let aside = |folder: PathBuf| match std::fs::rename(&path, folder.join(&name)) {
            Ok(()) => Some(folder),
            Err(_) => None,
        };
        let Some(folder) = aside(layout.trash()).or_else(|| aside(layout.ready_trees())) else {
            return false;
        };
        // The next process that empties the trash deletes what stays.
        if let (Ok(dir), Ok(name)) = (files::open_dir(&folder), CString::new(name)) {
            let _ = match deletion {
                Deletion::Now => remove_tree(&dir, &name),
                Deletion::AtOnce => sys::delete_subvolume(&dir, &name),
                Deletion::Later => Ok(()),
            };
        }
        true
    }

    /// Removes the ready trees of all snapshots that `keep` does not want. How many there were.
    ///
    /// # Errors
    /// The folder of ready trees could not be read.
    pub(crate) fn sweep(self, keep: impl Fn(SnapshotId) -> bool) -> Result<u64, Error> {
        let _lock = locks::one_by_one(self.store.path())?;
        let (layout, folder) = (self.store.layout(), self.store.layout().ready_trees());
        let dir = self.open()?;
        staging::sweep(&dir);
        let mut dropped = 0;
        for (name, _) in files::listed(&dir).context(Operation::ReadDirectory, || &folder)? {
            let Some(text) = name.to_str() else { continue };
            let (stem, extension) = text.split_once('.').unwrap_or((text, ""));
            if layout.unnamed_tree(stem) == folder.join(&name) {
                if !layout.unnamed(stem).is_file() {
                    self.discard(Which::Unnamed(stem), Deletion::Now);
                    dropped += 1;
                }
                continue;
            }
            let Some(id) = from_hex(stem).map(SnapshotId::from_bytes) else { continue };
            if keep(id) {
                continue;
            }
            if extension.is_empty() {
                dropped += 1;
                self.discard(Which::Of(id), Deletion::Now);
            } else if extension.parse::<u64>().is_ok() {
                let is_gone = self.discard(Which::At(&folder.join(&name)), Deletion::Now);
                dropped += u64::from(is_gone);
            } else {
                let _ = std::fs::remove_file(folder.join(&name));
            }
        }
        Ok(dropped)
    }
}

/// How many trees a store keeps that was not told a number.
fn kept_unless_told(filesystem: &Filesystem, entries: u64, demand: impl FnOnce() -> u64) -> u64 {
    if filesystem.shares != SharesBlocks::Usually || entries < LEAST_ENTRIES {
        return 0;
    }
    // One subvolume serves all starts.
    if filesystem.has_subvolumes { 1 } else { demand().clamp(1, LEARNED_MOST) }
}

/// The most of these starts, in ascending order, that came within [`BURST_SECONDS`].
fn most_in_a_burst(starts: &[i64]) -> u64 {
    let mut most = 0;
    let mut first = 0;
    for (at, start) in starts.iter().enumerate() {
        while start.saturating_sub(starts[first]) >= BURST_SECONDS {
            first += 1;
        }
        most = most.max(at - first + 1);
    }
    most as u64
}

/// Whether an entry of a tree has the inode and the change time that the index has.
fn is_as_known(root: &OwnedFd, (tree, index): (&Manifest, &Index), at: (u32, u32)) -> bool {
    let path = tree.path_of(at.0, at.1);
    let look = || -> io::Result<Stat> {
        let (dir, name) = (super::at::open_parent(root, &path)?, super::at::last(&path)?);
        Ok(Stat::of(&Meta::at(&dir, &name)?))
    };
    let number = tree.directories[at.0 as usize].first + at.1;
    look().is_ok_and(|stat| index.stats.get(number as usize) == Some(&stat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_keeps_a_tree_where_it_shares_its_blocks_and_a_start_would_take_long() {
        for (filesystem, entries, demand, expected) in [
            (Some("xfs"), LEAST_ENTRIES, 0, 1),
            (Some("xfs"), LEAST_ENTRIES, 5, 5),
            (Some("xfs"), LEAST_ENTRIES, 500, LEARNED_MOST),
            (Some("xfs"), LEAST_ENTRIES - 1, 5, 0),
            (Some("xfs"), 0, 0, 0),
            (Some("bcachefs"), u64::MAX, 0, 1),
            (Some("btrfs"), LEAST_ENTRIES, 5, 1),
            (Some("btrfs"), LEAST_ENTRIES - 1, 5, 0),
            (Some("ext4"), u64::MAX, 5, 0),
            (None, u64::MAX, 5, 0),
        ] {
            let found = kept_unless_told(Filesystem::named(filesystem), entries, || demand);
            assert_eq!(found, expected, "{filesystem:?} {entries} {demand}");
        }
    }

    #[test]
    fn the_demand_is_the_most_starts_within_a_minute() {
        for (starts, expected) in [
            (&[][..], 0),
            (&[7], 1),
            (&[7, 7, 7], 3),
            (&[0, 59, 60, 61, 200], 3),
            (&[0, 60, 120, 180], 1),
            (&[-5, 0, 1000, 1001, 1002, 1003, 5000, i64::MAX], 4),
        ] {
            assert_eq!(most_in_a_burst(starts), expected, "{starts:?}");
        }
    }
}

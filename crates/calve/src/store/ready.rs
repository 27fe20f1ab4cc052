//! Ready trees: whole trees of snapshots, which the store keeps so that a worktree comes at once.
//!
//! On btrfs a ready tree is a subvolume. Each worktree of it is a subvolume snapshot, made in
//! constant time. `templates/ID` is the subvolume, and `templates/ID.index` is the index of its
//! tree: inode numbers and times are the same in every subvolume snapshot of it.
//! `templates/ID.seal` has the number by which calve knows whether any process wrote to the
//! subvolume since (docs/design/ready.md).
//!
//! A ready tree is not read-only, since that would hinder a user who removes the project. If its
//! seal is broken, calve does not use it; it removes the tree and makes a new one.
//!
//! So that the first look at a worktree is quick, snapshots of the ready tree [wait](walked) whose
//! inodes are in the kernel's memory already.
//!
//! On other filesystems a ready tree is a folder, which [waits](waiting) to be handed over.
//!
//! # How a ready tree is made
//! calve makes it under a stage's name, flushes it, renames it to its own name, and seals it. One
//! process makes one at a time; a process that waited finds the tree ready.
//!
//! Most snapshots differ from an earlier one in a few files. So calve looks for the ready tree that
//! is [nearest](nearest). It makes a subvolume snapshot of that one and [brings](super::bring) it
//! to the new snapshot. The cost follows the number of changed paths. What comes out must be equal
//! to a tree that was made anew: if calve cannot vouch for each entry, it throws the tree away and
//! makes it anew.
//!
//! # The first one
//! The first start of a project may clone it before any content is read
//! ([`unnamed`](super::unnamed)). The clone is a subvolume, too, of which the worktrees are
//! snapshots. It is `templates/TOKEN.unnamed`, and the record has its seal. Once the contents have
//! names, it is the ready tree of the snapshot, unless its seal is broken.
//!
//! # How many are kept
//! At most [`KEPT_MOST`]; the tree that was not used for the longest time goes first. The time of
//! the seal's file says when the tree was last used. The collector removes the ready trees of
//! snapshots that nobody needs.

use std::cell::OnceCell;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::bring::Bring;
use super::bring::plan::{Changes, Trees};
use super::id::SnapshotId;
use super::index::{self, Boot, Index, Stat};
use super::manifest::Manifest;
use super::materialize::{Plan, materialize};
use super::metadata::Maker;
use super::object::SnapshotObject;
use super::scan::stat_of;
use super::trash::remove_tree;
use super::{Store, locks, now};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::report::DestinationReport;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, flush_filesystem, stage_name};

pub(crate) mod git_index;
mod nearest;
mod tripwire;
pub(crate) mod vouched;
pub(crate) mod waiting;
mod walked;

use git_index::KeptGitIndex;

/// A snapshot and its tree, which is read from the database when it is first needed.
pub(crate) struct SnapshotTree<'a> {
    store: &'a Store,
    pub(crate) id: SnapshotId,
    pub(crate) object: &'a SnapshotObject,
    manifest: OnceCell<Manifest>,
}

impl<'a> SnapshotTree<'a> {
    /// `known` is the tree, if it is in memory already.
    pub(crate) fn new(
        store: &'a Store,
        (id, object): (SnapshotId, &'a SnapshotObject),
        known: Option<Manifest>,
    ) -> Self {
        Self { store, id, object, manifest: known.map(OnceCell::from).unwrap_or_default() }
    }

    pub(crate) fn manifest(&self) -> Result<&Manifest, Error> {
        if let Some(known) = self.manifest.get() {
            return Ok(known);
        }
        let read = self.store.catalog().manifest(self.id, self.object)?;
        Ok(self.manifest.get_or_init(|| read))
    }

    /// The tree, if it is in memory.
    pub(crate) fn known(&self) -> Option<&Manifest> {
        self.manifest.get()
    }

    /// Gives the tree away, if it is in memory. It is read again when it is needed again.
    pub(crate) fn take(&mut self) -> Option<Manifest> {
        self.manifest.take()
    }
}

/// A tree that has arrived under a stage's name, beside the place of its worktree. Every way in
/// which a tree is made ends with one.
pub(crate) struct Arrived {
    pub(crate) stage: Stage,
    pub(crate) report: DestinationReport,
    pub(crate) index: ArrivedIndex,
    pub(crate) git_index: ArrivedGitIndex,
}

impl Arrived {
    /// A tree that has no index yet.
    pub(crate) fn new(stage: Stage, report: DestinationReport) -> Self {
        Self { stage, report, index: ArrivedIndex::None, git_index: ArrivedGitIndex::None }
    }

    /// Gives the worktree that has this token the index of the tree.
    ///
    /// # Errors
    /// The index could not be written. A worktree without one is slower at its first look, but an
    /// index that cannot be written means that the store cannot be written to.
    pub(crate) fn give_index(&mut self, token: &str, tree: &SnapshotTree<'_>) -> Result<(), Error> {
        let registry = tree.store.registry();
        match std::mem::replace(&mut self.index, ArrivedIndex::None) {
            ArrivedIndex::None => Ok(()),
            ArrivedIndex::Made(index) => registry.write_index(token, &index, tree.manifest()?),
            ArrivedIndex::OfReadyTree => {
                let path = || self.report.path.clone();
                registry.link_index(token, tree.id).context(Operation::Mark, path)
            }
            ArrivedIndex::InFolder(folder) => registry.take_index(token, folder.dir()),
        }
    }
}

/// The store's index of a tree that has arrived.
pub(crate) enum ArrivedIndex {
    /// There is none, or the store has it already.
    None,
    /// It is to be written.
    Made(Index),
    /// It is that of the ready tree of which the tree is a subvolume snapshot.
    OfReadyTree,
    /// It is in the folder in which the tree waited.
    InFolder(Stage),
}

/// git's index for a tree that has arrived, if one was kept.
pub(crate) enum ArrivedGitIndex {
    None,
    Kept(KeptGitIndex),
    /// The one that is kept with the ready tree, as soon as there is one.
    OfReadyTree,
}

impl From<Option<KeptGitIndex>> for ArrivedGitIndex {
    fn from(kept: Option<KeptGitIndex>) -> Self {
        kept.map_or(Self::None, Self::Kept)
    }
}

/// How many ready trees a store keeps.
const KEPT_MOST: usize = 8;

/// A tree under a stage's name, and the index of all trees that are snapshots of it.
struct Filled {
    stage: Stage,
    index: Index,
    /// Mirrors that must be sealed after a flush.
    unsealed: Vec<super::BlobId>,
}

impl Store {
    /// The ready tree of a snapshot, made now where there is none that is good; `None` where the
    /// filesystem has no subvolumes, or does not let us make one.
    ///
    /// `known` is the snapshot's tree, if it is in memory. It is freed as soon as it is not needed.
    ///
    /// # Errors
    /// The tree could not be filled; nothing is left of it.
    pub(crate) fn ready_tree(
        &self,
        (id, object): (SnapshotId, &SnapshotObject),
        known: Option<Manifest>,
        operation: &Running,
    ) -> Result<Option<OwnedFd>, Error> {
        if self.is_read_only() || sys::filesystem_name(self.path()).as_deref() != Some("btrfs") {
            return Ok(None);
        }
        if let Some(tree) = self.sealed_ready_tree(id) {
            self.used_now(id);
            return Ok(Some(tree));
        }
        let _lock = locks::one_by_one(self.path())?;
        if let Some(tree) = self.sealed_ready_tree(id) {
            return Ok(Some(tree));
        }
        // Replaying a log after a crash brings changes back without their number: a seal is good
        // for one boot.
        let Some(boot) = staging::boot() else { return Ok(None) };
        let folder = self.layout().ready_trees();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        staging::sweep(&dir);
        let name = CString::new(id.to_string()).map_err(|error| {
            Error::io(Operation::MakeReadyTree, &folder, io::Error::other(error))
        })?;
        self.discard_ready_tree(&dir, id);
        let manifest = known.map_or_else(|| self.catalog().manifest(id, object), Ok)?;
        let brought = self.bring_nearest(&dir, (id, object, &manifest), operation)?;
        let filled = match brought {
            Some(filled) => filled,
            None => match self.fill_ready_tree(&dir, (id, object, &manifest), operation)? {
                Some(filled) => filled,
                None => return Ok(None),
            },
        };
        let Filled { mut stage, index, unsealed } = filled;
        let publish = |stage: &mut Stage| -> io::Result<()> {
            // Everything that is still on its way must have arrived before the number is read.
            flush_filesystem(stage.dir())?;
            self.blobs().seal(&unsealed, index.stamp)?;
            stage.publish(&name)?;
            let seal = settled(stage.dir())?;
            for (path, content) in [
                (self.layout().ready_index(id), index.encode_stored(&manifest)?),
                (self.layout().ready_seal(id), seal_text(seal, &boot)),
            ] {
                staging::write_whole(&self.layout().stage(), &path, &content)?;
            }
            Ok(())
        };
        publish(&mut stage).context(Operation::MakeReadyTreeIn, || &folder)?;
        self.evict(&dir, KEPT_MOST, id);
        Ok(self.sealed_ready_tree(id))
    }

    /// Makes the tree of a snapshot in a new subvolume, by cloning every file. `None` if there can
    /// be no subvolume, or if a part of the tree did not arrive.
    fn fill_ready_tree(
        &self,
        dir: &OwnedFd,
        (id, object, manifest): (SnapshotId, &SnapshotObject, &Manifest),
        operation: &Running,
    ) -> Result<Option<Filled>, Error> {
        let folder = self.layout().ready_trees();
        let parent = dir.try_clone().context(Operation::Open, || &folder)?;
        let Ok(stage) = Stage::new(parent, &folder, |dir, name| sys::create_subvolume(dir, name))
        else {
            return Ok(None);
        };
        operation.expect(object.files);
        let root = stage.dir().try_clone().context(Operation::MakeReadyTreeIn, || &folder)?;
        let plan = Plan { store: self, manifest, paths: std::slice::from_ref(&folder), operation };
        let mut made = materialize(&plan, vec![root])?;
        if made.reports.iter().any(|report| !report.skipped.is_empty()) {
            // An entry that arrived incomplete would be incomplete in every tree that is made of
            // this one, and no report would say so.
            return Ok(None);
        }
        let stats = made.stats.pop().unwrap_or_default();
        let stamp = self.clock_past_all(stats.iter())?;
        let index = Index { snapshot: id, boot: Boot::this(), stamp, stats };
        Ok(Some(Filled { stage, index, unsealed: made.unsealed }))
    }

    /// Brings a snapshot of the nearest ready tree to the snapshot `id`. `None` if no ready tree is
    /// near, or if the result is not certain to be the tree of `id`.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`], and content that is lost: to make the tree anew would fail, too.
    fn bring_nearest(
        &self,
        dir: &OwnedFd,
        (id, object, target): (SnapshotId, &SnapshotObject, &Manifest),
        operation: &Running,
    ) -> Result<Option<Filled>, Error> {
        let most = nearest::most_changes(object.entries);
        let mut candidates = Vec::new();
        for other in self.latest_ready_trees() {
            let changes = match self.object(other) {
                Ok(old) => nearest::changes(self.catalog(), (&old, object), most).ok().flatten(),
                Err(_) => None,
            };
            candidates.push((other, changes));
        }
        let Some(other) = nearest::nearest(&candidates, most) else { return Ok(None) };
        let bring = || -> Result<Option<Filled>, Error> {
            let folder = self.layout().ready_trees();
            let Some(near) = self.sealed_ready_tree(other) else { return Ok(None) };
            let base = self.catalog().manifest_like(other, &self.object(other)?, &[target])?;
            let Some(old) = self.ready_index(other, &base) else { return Ok(None) };
            let parent = dir.try_clone().context(Operation::Open, || &folder)?;
            let Ok(stage) =
                Stage::new(parent, &folder, |dir, name| sys::snapshot(&near, dir, name))
            else {
                return Ok(None);
            };
            // The seal decides after the snapshot, since that writes back what was written before.
            let still = self.sealed_ready_tree(other).and_then(|it| fs::fstat(it).ok());
            let is_still = still.map(|it| Meta::of(&it).id())
                == fs::fstat(&near).ok().map(|it| Meta::of(&it).id());
            if !is_still {
                return Ok(None);
            }
            let index = self.bring_private(
                (stage.dir(), &stage.path()),
                (&base, &old),
                (id, target),
                operation,
            )?;
            Ok(index.map(|index| Filled { stage, index, unsealed: Vec::new() }))
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

    /// Brings a tree that no other process knows from one snapshot to another. Returns its index,
    /// or `None` if calve cannot vouch for an entry.
    fn bring_private(
        &self,
        (root, path): (&OwnedFd, &Path),
        (base, old): (&Manifest, &Index),
        (id, target): (SnapshotId, &Manifest),
        operation: &Running,
    ) -> Result<Option<Index>, Error> {
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
            Bring { store: self, root, path, trees: &trees, moves: &moves, is_private: true };
        let staged = bring.stage(operation)?;
        if !staged.skipped.is_empty() {
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

    /// The index of a ready tree.
    fn ready_index(&self, id: SnapshotId, manifest: &Manifest) -> Option<Index> {
        let (path, count) = (self.layout().ready_index(id), manifest.stored_count());
        let bytes = super::read_plain(fs::CWD, &path, index::most_bytes(count)).ok()?;
        let index = Index::decode(&bytes, count).ok()?;
        let is_it = index.snapshot == id && index.boot == Boot::this();
        is_it.then(|| Index { stats: manifest.of_stored(index.stats), ..index })
    }

    /// The ready tree of a snapshot, where there is one and nobody wrote to it.
    pub(crate) fn sealed_ready_tree(&self, id: SnapshotId) -> Option<OwnedFd> {
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let tree = fs::open(self.layout().ready_tree(id), flags, Mode::empty()).ok()?;
        let good = self.layout().ready_index(id).is_file() && self.has_seal(&tree, id);
        good.then_some(tree)
    }

    /// Whether a subvolume has the seal of the ready tree of a snapshot: it is that tree, or a
    /// snapshot of it, and nobody has changed it.
    fn has_seal(&self, tree: &OwnedFd, id: SnapshotId) -> bool {
        let seal = self.layout().ready_seal(id);
        let seal = super::read_plain(fs::CWD, &seal, SEAL_MOST_BYTES);
        let is_subvolume =
            fs::fstat(tree).is_ok_and(|stat| sys::is_subvolume(tree, Meta::of(&stat).ino));
        is_subvolume && seal.is_ok_and(|seal| Self::is_sealed(tree, &seal))
    }

    /// Notes that a ready tree was used now. If that fails, the tree is evicted sooner.
    fn used_now(&self, id: SnapshotId) {
        let (seconds, nanoseconds) = now();
        let now = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        let times = Timestamps { last_access: now, last_modification: now };
        let seal = self.layout().ready_seal(id);
        let _ = fs::utimensat(fs::CWD, &seal, &times, AtFlags::SYMLINK_NOFOLLOW);
    }

    /// The snapshots that have a seal of a ready tree, the one that was used last first.
    fn latest_ready_trees(&self) -> Vec<SnapshotId> {
        let names = super::files::listed_at(&self.layout().ready_trees()).unwrap_or_default();
        let used = names.iter().filter_map(|(name, _)| {
            let (stem, extension) = name.to_str()?.split_once('.')?;
            let id = super::id::from_hex(stem).map(SnapshotId::from_bytes)?;
            let seal = self.layout().ready_seal(id);
            let stat = (extension == "seal").then(|| fs::lstat(&seal).ok()).flatten()?;
            Some((id, Meta::of(&stat).modified()))
        });
        nearest::latest_first(used.collect())
    }

    /// How many ready trees there are.
    pub(crate) fn count_ready_trees(&self) -> u64 {
        self.latest_ready_trees().len() as u64 + self.count_waiting()
    }

    /// Seals the subvolume of a stage that calve filled. Returns what the seal says; `None` if the
    /// subvolume changes, or if no seal can be made here.
    pub(crate) fn seal_stage(&self, stage: &Stage) -> Option<Vec<u8>> {
        let boot = staging::boot()?;
        settled(stage.dir()).ok().map(|number| seal_text(number, &boot))
    }

    /// Whether nobody has changed a subvolume since it was sealed.
    pub(crate) fn is_sealed(tree: &OwnedFd, seal: &[u8]) -> bool {
        let number = sys::last_change(tree);
        number.is_ok_and(|number| {
            staging::boot().is_some_and(|boot| seal == seal_text(number, &boot))
        })
    }

    /// Makes the subvolume that unnamed worktrees are snapshots of the ready tree of their
    /// snapshot, if nobody touched it. If that fails, the next start makes the ready tree.
    pub(crate) fn adopt_unnamed_tree(
        &self,
        (token, seal): (&str, &[u8]),
        (id, manifest, index): (SnapshotId, &Manifest, &Index),
    ) {
        let adopt = || -> io::Result<()> {
            let from = self.layout().unnamed_tree(token);
            let tree = fs::open(&from, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            if !Self::is_sealed(&tree, seal) || self.sealed_ready_tree(id).is_some() {
                return Ok(());
            }
            let dir = fs::open(self.layout().ready_trees(), DIR_FLAGS, Mode::empty())?;
            self.discard_ready_tree(&dir, id);
            fs::renameat(&dir, from.file_name().unwrap_or_default(), &dir, id.to_string())?;
            let (layout, stage) = (self.layout(), self.layout().stage());
            staging::write_whole(&stage, &layout.ready_index(id), &index.encode_stored(manifest)?)?;
            staging::write_whole(&stage, &layout.ready_seal(id), seal)?;
            self.evict(&dir, KEPT_MOST, id);
            Ok(())
        };
        if let Ok(_lock) = locks::one_by_one(self.path()) {
            let _ = adopt();
        }
    }

    /// Removes the subvolume that unnamed worktrees are snapshots of. A file that cannot be removed
    /// now is trash.
    pub(crate) fn discard_unnamed_tree(&self, token: &str) {
        let tree = self.layout().unnamed_tree(token);
        let discard = || -> io::Result<()> {
            let dir = fs::open(self.layout().ready_trees(), DIR_FLAGS, Mode::empty())?;
            let name = CString::new(tree.file_name().unwrap_or_default().as_encoded_bytes())?;
            self.discard_waiting(&dir, &name);
            Ok(())
        };
        if std::fs::symlink_metadata(&tree).is_ok() {
            let _ = discard();
        }
    }

    /// Removes ready trees until at most `most` are left, and `spared` in any case. A tree that
    /// cannot be deleted at once is left to the trash.
    fn evict(&self, dir: &OwnedFd, most: usize, spared: SnapshotId) {
        for id in self.latest_ready_trees().into_iter().skip(most).filter(|id| *id != spared) {
            if let Some((trash, aside)) = self.put_aside(dir, id) {
                let _ = sys::delete_subvolume(&trash, &aside);
            }
        }
    }

    /// Moves a ready tree into the trash.
    fn put_aside(&self, dir: &OwnedFd, id: SnapshotId) -> Option<(OwnedFd, CString)> {
        for file in [self.layout().ready_seal(id), self.layout().ready_index(id)] {
            let _ = std::fs::remove_file(file);
        }
        let aside = CString::new(stage_name()).ok()?;
        let trash = fs::open(self.layout().trash(), DIR_FLAGS, Mode::empty()).ok()?;
        match fs::renameat(dir, id.to_string(), &trash, &aside) {
            Ok(()) => Some((trash, aside)),
            // A sandbox lets no folder go to another one. Under this name it is swept here.
            Err(Errno::XDEV) => {
                fs::renameat(dir, id.to_string(), dir, &aside).ok()?;
                Some((dir.try_clone().ok()?, aside))
            }
            Err(_) => None,
        }
    }

    /// Removes a tree that waits to be handed over. Files that cannot be removed now are trash.
    fn discard_waiting(&self, dir: &OwnedFd, name: &CString) -> bool {
        let Ok(aside) = CString::new(stage_name()) else { return false };
        let Ok(trash) = fs::open(self.layout().trash(), DIR_FLAGS, Mode::empty()) else {
            return false;
        };
        let (place, renamed) = match fs::renameat(dir, name, &trash, &aside) {
            Err(Errno::XDEV) => (dir, fs::renameat(dir, name, dir, &aside)),
            renamed => (&trash, renamed),
        };
        let _ = remove_tree(place, &aside);
        renamed.is_ok()
    }

    /// Removes a ready tree. Files that cannot be removed now are trash.
    fn discard_ready_tree(&self, dir: &OwnedFd, id: SnapshotId) {
        if let Some((trash, aside)) = self.put_aside(dir, id) {
            let _ = remove_tree(&trash, &aside);
        }
    }

    /// Removes the ready trees of all snapshots that `keep` does not want. How many there were.
    ///
    /// # Errors
    /// The folder of ready trees could not be read.
    pub(crate) fn drop_ready_trees(&self, keep: impl Fn(SnapshotId) -> bool) -> Result<u64, Error> {
        let _lock = locks::one_by_one(self.path())?;
        let folder = self.layout().ready_trees();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        staging::sweep(&dir);
        let mut dropped = 0;
        for (name, _) in super::listed(&dir).context(Operation::ReadDirectory, || &folder)? {
            let Some(text) = name.to_str() else { continue };
            let (stem, extension) = text.split_once('.').unwrap_or((text, ""));
            if self.layout().unnamed_tree(stem) == folder.join(&name) {
                if !self.layout().unnamed(stem).is_file() {
                    self.discard_unnamed_tree(stem);
                    dropped += 1;
                }
                continue;
            }
            let Some(id) = super::id::from_hex(stem).map(SnapshotId::from_bytes) else { continue };
            if keep(id) {
                continue;
            }
            if extension.is_empty() {
                dropped += 1;
                self.discard_ready_tree(&dir, id);
            } else if extension.parse::<u64>().is_ok() {
                let Ok(name) = CString::new(text) else { continue };
                dropped += u64::from(self.discard_waiting(&dir, &name));
            } else {
                let _ = std::fs::remove_file(folder.join(&name));
            }
        }
        Ok(dropped)
    }
}

/// Whether an entry of a tree has the inode and the change time that the index has.
fn is_as_known(root: &OwnedFd, (tree, index): (&Manifest, &Index), at: (u32, u32)) -> bool {
    let path = tree.path_of(at.0, at.1);
    let look = || -> io::Result<Stat> {
        let (dir, name) = (super::at::open_parent(root, &path)?, super::at::last(&path)?);
        Ok(stat_of(&Meta::of(&fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?)))
    };
    let number = tree.directories[at.0 as usize].first + at.1;
    look().is_ok_and(|stat| index.stats.get(number as usize) == Some(&stat))
}

/// What a seal says. Ready trees of the first version had the project's `.git`, and their seals no
/// third word.
fn seal_text(last_change: u64, boot: &str) -> Vec<u8> {
    format!("{last_change} {boot} without-git\n").into_bytes()
}

/// Two numbers and a few characters.
const SEAL_MOST_BYTES: u64 = 4096;

/// How often the number of the last change is read before it is given up.
const SETTLE_TRIES: u32 = 10;

/// The last change of a subvolume, once its transaction is over: then any later one has another
/// number.
fn settled(dir: &OwnedFd) -> io::Result<u64> {
    flush_filesystem(dir)?;
    for _ in 0..SETTLE_TRIES {
        let number = sys::last_change(dir)?;
        flush_filesystem(dir)?;
        if sys::last_change(dir)? == number {
            return Ok(number);
        }
    }
    Err(io::Error::other("somebody writes to it again and again"))
}

//! Collects garbage: removes content that no snapshot needs.
//!
//! # Why no content is lost that a snapshot needs
//! The snapshots in the database need their content. When calve removes a content, no snapshot may
//! have it, and no process may be making a snapshot that has it.
//!
//! 1. *A process that relies on content holds the shared lock* ([`locks`](super::locks)). A process
//!    that takes a snapshot gets the lock before it looks at the first file, and keeps it until the
//!    snapshot is in the database. A process that makes trees, packs or warms holds it all the
//!    while. calve removes content under the exclusive lock only. So at that moment no process is
//!    in between: a snapshot is in the database, or it was not begun.
//! 2. *The marks cover all snapshots.* Marking takes long, so calve marks the snapshots without a
//!    lock first. Under the exclusive lock it marks the snapshots that were added since. Only then
//!    it removes content, and only content that it found before and that has neither mark.
//!    Snapshots never change, so the first marks stay true. No snapshot is added under the lock (by
//!    1).
//! 3. *A content found again.* A process takes a snapshot of a file whose content is in the store,
//!    unreachable and old. If it did so before the lock, the second mark has that snapshot and the
//!    content. If it does so after, the content is gone, and the process stores it again. There is
//!    nothing in between (by 1). The same holds for directories.
//! 4. *Forgotten snapshots* ([`GcOptions::expire`]). calve chooses them again inside the
//!    transaction that forgets them, under the exclusive lock. A snapshot that was named a moment
//!    before, or that a worktree was started from, stays, and the next step marks it. A process
//!    that read such a snapshot before the lock and wants it after gets an error, and nothing is
//!    lost.
//! 5. *A snapshot that cannot be read* may need anything. So may one that has a name or a worktree
//!    and is gone. Then calve removes nothing at all.
//!
//! # A crash at any point
//! References go before the things that they refer to. First calve forgets snapshots, in a
//! transaction of their own, which is on the disk before anything else happens. Then it removes
//! mirrors, which frees space on a full disk for the next steps: the rows of directories, of packed
//! content and of packs. The files of packs go last. A crash leaves content that no snapshot needs,
//! and the next collection finds it; a pack without a row is one example.
//!
//! calve rewrites packs with mostly dead content first, as [`packing`](super::packing) does, and
//! only then gives them up.
//!
//! # Processes without a lock
//! A read-only store has no locks. A process that reads such a store while its owner collects
//! garbage may miss content. It then gets an error that names the content, and never other content.
//! Locks may be worth nothing between machines; so, as a second safeguard, calve removes nothing
//! that is younger than the grace period.
//!
//! # Short exclusion
//! Other processes wait while calve holds the lock. So it releases the lock after some tenths of a
//! second, takes it again, and continues at step 2.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blobs::path_of;
use super::catalog::Catalog;
use super::clock::older_than;
use super::contents::Contents;
use super::freeing::freeing;
use super::id::{BlobId, DirectoryId, SnapshotId};
use super::pack::{Location, OVERHEAD_BYTES};
use super::packing::{Cold, From, write_packs};
use super::reach::Reach;
use super::registry::KEPT;
use super::{Store, StoreOptions, locks, room, trash};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::tree::removal;
use crate::tree::running::Running;

const GRACE: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(30);

/// How long others are kept out at once.
const EXCLUSIVE: Duration = Duration::from_millis(300);

/// What [`Store::gc`] removes, and how long it tries; built by value.
#[derive(Debug, Clone)]
pub struct GcOptions {
    grace: Duration,
    patience: Duration,
    expire: Option<Duration>,
    dropped: Duration,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { grace: GRACE, patience: PATIENCE, expire: None, dropped: KEPT }
    }
}

setters! { GcOptions:
    /// Keeps everything that is younger than ten minutes, and every snapshot.
    pub fn new(),
    /// Keeps content that changed within this time, needed or not.
    pub grace: Duration,
    /// How long calve tries to get the store for itself.
    pub patience: Duration,
    /// Forgets snapshots that are older than this. It keeps those that have a name, the base and
    /// the target of each worktree, those of dropped worktrees that can be brought back, and the
    /// project's latest. A snapshot whose parent is forgotten
    /// still names that parent.
    pub expire: Option<Duration>,
    /// Deletes the trees of worktrees that were dropped by force longer ago than this, and the
    /// references that kept commits of worktrees which cannot be brought back: seven days, unless this says otherwise.
    pub dropped: Duration,
}

/// What [`Store::gc`] removed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Other processes used the store all the time, so some or all of the removal was not done.
    pub busy: bool,
    /// Snapshots that were forgotten.
    pub snapshots: Vec<SnapshotId>,
    /// Mirrors that were removed, and their sizes. This may free less space: a mirror shares blocks
    /// with the file that it was cloned from.
    pub mirrors: u64,
    /// See `mirrors`.
    pub mirror_bytes: u64,
    /// Packed contents that were removed, and what they took in their packs.
    pub packed_blobs: u64,
    /// See `packed_blobs`.
    pub packed_bytes: u64,
    /// Packs that were removed, including those that were rewritten.
    pub packs: u64,
    /// Packs whose needed content was moved to a new pack.
    pub rewritten_packs: u64,
    /// Directory objects that were removed.
    pub directories: u64,
    /// Indexes, kept files and references (`refs/calve/dropped`) of dropped worktrees, and entries
    /// of the trash.
    pub leftovers: u64,
    /// Trees of dropped worktrees that could have been brought back.
    pub dropped: u64,
    /// Ready trees of snapshots that no worktree is based on, that have no name and are not the
    /// project's latest.
    pub templates: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// What was found dead, before the lock.
#[derive(Default)]
struct Dead {
    mirrors: Vec<(BlobId, u64)>,
    directories: Vec<DirectoryId>,
    packed: Vec<(BlobId, Location)>,
}

/// A pack, and what of it is alive.
type HeldPack = (Arc<str>, Vec<(BlobId, Location)>);

/// Collects garbage; see [`Store::gc`].
pub(super) fn collect(
    store: &Store,
    options: &GcOptions,
    common: &StoreOptions,
) -> Result<GcReport, Error> {
    let started = Instant::now();
    let mut report = GcReport::default();
    let operation = &common.operation();
    freeing(store, |store| Collection { store, options, operation, report: &mut report }.run())?;
    room::keep(store.path());
    report.elapsed = started.elapsed();
    Ok(report)
}

/// One attempt to collect. If there is no room for it, the next one goes on with its report.
struct Collection<'a> {
    store: &'a Store,
    options: &'a GcOptions,
    operation: &'a Running,
    report: &'a mut GcReport,
}

impl Collection<'_> {
    fn run(&mut self) -> Result<(), Error> {
        let (options, contents) = (self.options, self.store.contents());
        let Contents { layout, catalog, .. } = contents;
        self.store.must_be_writable(Operation::CollectGarbage)?;
        trash::sweep_stage(self.store.layout());
        // If a tree cannot be deleted, calve reports that error at the end, and collects the rest.
        let collected = self.store.registry().collect_dropped(options.dropped);
        self.report.dropped += collected.as_ref().copied().unwrap_or_default();
        let expired = self.store.registry().expire_references(options.dropped);
        self.report.leftovers += expired.as_ref().copied().unwrap_or_default();
        let collected = collected.and(expired);
        self.report.leftovers += self.store.registry().sweep(options.grace)?;
        // A rename sets the change time, so a sweep would take collected trees for too young.
        match self.report.dropped {
            0 => self.report.leftovers += trash::sweep(layout, catalog, options.grace)?,
            _ => trash::empty(layout, catalog)?,
        }
        self.store.registry().recover()?;
        self.store.registry().sweep_stages()?;
        must_have_roots(contents)?;
        // If calve cannot find out which snapshots are needed, it forgets none.
        let expirable = options.expire.map(|age| self.expirable(age)).transpose();
        let (expired, collected) = match expirable {
            Ok(expired) => (expired.unwrap_or_default(), collected),
            Err(error) => (HashSet::new(), collected.and(Err(error))),
        };
        let snapshots = catalog.snapshot_ids()?;
        let kept = snapshots.into_iter().filter(|id| !expired.contains(id));
        let mut mark = Mark::default();
        for id in kept {
            mark.add(self.store, id, self.operation)?;
        }
        mark.reach.tidy();
        let dead = dead(contents, &mark.reach, options.grace)?;
        let packs = mostly_dead(contents, &mark.reach)?;
        match self.rewrite(&packs) {
            // What is dead goes first, and they the next time.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            rewritten => self.report.rewritten_packs += rewritten?,
        }
        self.sweep(&expired, mark, dead)?;
        // A ready tree is no content: a process that misses one makes it again. So this needs no
        // exclusive lock.
        let wanted = in_use(catalog)?;
        self.report.templates += self.store.ready().sweep(|id| wanted.contains(&id))?;
        collected.map(drop)
    }

    /// Snapshots that may be forgotten now.
    fn expirable(&self, age: Duration) -> Result<HashSet<SnapshotId>, Error> {
        let (catalog, mut ids) = (self.store.catalog(), HashSet::new());
        for id in catalog.snapshot_ids()? {
            // One that cannot be read has no age.
            if let Ok(object) = self.store.catalog().object(id)
                && older_than((object.created.0, object.created.1.into()), age) == Some(true)
            {
                ids.insert(id);
            }
        }
        let (rows, dropped) = (catalog.worktrees()?, catalog.dropped()?);
        let registry = self.store.registry();
        let undone = rows.iter().map(|row| registry.undo_needs(row));
        let dropped = dropped.iter().map(|dropped| registry.dropped_needs(dropped));
        let needed = undone.chain(dropped).collect::<Result<Vec<_>, _>>()?;
        for id in in_use(catalog)?.into_iter().chain(needed.into_iter().flatten()) {
            ids.remove(&id);
        }
        Ok(ids)
    }

    /// Moves the needed content of packs to a new one. Returns how many packs have no needed
    /// content now.
    fn rewrite(&self, packs: &[HeldPack]) -> Result<u64, Error> {
        if packs.is_empty() {
            return Ok(0);
        }
        let _guard = self.store.share()?;
        self.store.contents().close_packs();
        let mut cold = Vec::new();
        for (name, live) in packs {
            for (id, at) in live {
                let from = From::Pack(Arc::clone(name), *at);
                cold.push(Cold { id: *id, size: at.size, from });
            }
        }
        let written = write_packs(self.store.contents(), cold, self.operation)?;
        // What could not be read stays where it is, and so does its pack.
        let stuck: HashSet<BlobId> = written.damaged.into_iter().collect();
        let moved = packs.iter().filter(|(_, live)| live.iter().all(|(id, _)| !stuck.contains(id)));
        Ok(moved.count() as u64)
    }

    /// The removal itself, in rounds.
    fn sweep(
        &mut self,
        expired: &HashSet<SnapshotId>,
        mut mark: Mark,
        mut dead: Dead,
    ) -> Result<(), Error> {
        let mut first = true;
        loop {
            let patience = self.options.patience;
            let guard = locks::exclude(self.store.path(), patience, self.operation)?;
            let Some(_guard) = guard else {
                self.report.busy = true;
                return Ok(());
            };
            let alone = Instant::now();
            if first {
                // Those that still have no name and no worktree.
                let mut forgotten = self.store.catalog().forget_snapshots(expired)?;
                forgotten.sort_unstable();
                self.report.snapshots.extend(forgotten);
            }
            for id in self.store.catalog().snapshot_ids()? {
                mark.add(self.store, id, self.operation)?;
            }
            mark.reach.tidy();
            first = false;
            if self.remove_mirrors(&mut dead.mirrors, &mark.reach, alone)? {
                self.remove_rows(&dead, &mark.reach)?;
                self.remove_packs(&mark.reach)?;
                return self.store.snapshots().drop_found();
            }
        }
    }

    fn remove_rows(&mut self, dead: &Dead, reach: &Reach) -> Result<(), Error> {
        let directories = dead.directories.iter().filter(|id| !reach.directories.contains(id));
        let directories: Vec<DirectoryId> = directories.copied().collect();
        let packed = dead.packed.iter().filter(|(id, _)| !reach.blobs.contains(*id));
        let (packed, places): (Vec<BlobId>, Vec<Location>) = packed.copied().unzip();
        if directories.is_empty() && packed.is_empty() {
            return Ok(());
        }
        self.store.catalog().forget_objects(&directories, &packed)?;
        self.report.directories += directories.len() as u64;
        self.report.packed_blobs += packed.len() as u64;
        self.report.packed_bytes =
            places.iter().fold(self.report.packed_bytes, |sum, at| at.stored.saturating_add(sum));
        Ok(())
    }

    /// Removes mirrors until the time is up; whether all are gone.
    fn remove_mirrors(
        &mut self,
        mirrors: &mut Vec<(BlobId, u64)>,
        reach: &Reach,
        alone: Instant,
    ) -> Result<bool, Error> {
        let blobs = self.store.blobs();
        while let Some((id, size)) = mirrors.pop() {
            if reach.blobs.contains(id) {
                continue;
            }
            // If it is no mirror of ours, something else has its name.
            let removed = blobs.remove(id).or_else(|_| removal::remove(blobs.dir(), &path_of(id)));
            removed.context(Operation::Remove, || blobs.mirror_path(id))?;
            self.report.mirrors += 1;
            self.report.mirror_bytes += size;
            if self.report.mirrors.is_multiple_of(64) && alone.elapsed() >= EXCLUSIVE {
                break;
            }
        }
        Ok(mirrors.is_empty())
    }

    /// Removes packs without needed content: first their rows, then their files.
    fn remove_packs(&mut self, reach: &Reach) -> Result<(), Error> {
        let contents = self.store.contents();
        let empty = contents.catalog.forget_empty_packs()?;
        let unknown = contents.unknown_packs(self.options.grace)?;
        let needless = unknown.into_iter().filter(|name| !is_needed(contents, name, reach));
        let needless: HashSet<String> = empty.into_iter().chain(needless).collect();
        contents.close_packs();
        for name in needless {
            self.report.packs += u64::from(contents.remove_pack(&name)?);
        }
        Ok(())
    }
}

/// Snapshots that have a name, or that a worktree is based on or is being brought to.
fn in_use(catalog: &Catalog) -> Result<HashSet<SnapshotId>, Error> {
    let mut ids: HashSet<SnapshotId> = catalog.names()?.into_iter().map(|(_, id)| id).collect();
    ids.extend(catalog.worktrees()?.iter().flat_map(|row| [row.snapshot, row.target]).flatten());
    Ok(ids)
}

/// Fails if a snapshot that has a name or a worktree is gone: the database lost it, and its
/// content may still be needed.
fn must_have_roots(contents: Contents<'_>) -> Result<(), Error> {
    let Some(name) = contents.catalog.without_snapshot()? else { return Ok(()) };
    let what = format!("the snapshot that {name:?} stands for is missing");
    let cause = io::Error::new(io::ErrorKind::InvalidData, what);
    Err(Error::new(ErrorKind::Damaged, Operation::Read, contents.layout.database(), cause))
}

fn dead(contents: Contents<'_>, reach: &Reach, grace: Duration) -> Result<Dead, Error> {
    let mut dead = Dead::default();
    contents
        .blobs
        .for_each(|id, meta| {
            if !reach.blobs.contains(id) && older_than(meta.changed, grace) == Some(true) {
                dead.mirrors.push((id, meta.size));
            }
        })
        .context(Operation::Read, || contents.layout.blobs())?;
    dead.directories = contents.catalog.directory_ids()?;
    dead.directories.retain(|id| !reach.directories.contains(id));
    contents.catalog.each_packed(|id, _, at| {
        if !reach.blobs.contains(id) {
            dead.packed.push((id, at));
        }
    })?;
    Ok(dead)
}

/// Packs with more dead content than needed content, and their needed content.
fn mostly_dead(contents: Contents<'_>, reach: &Reach) -> Result<Vec<HeldPack>, Error> {
    // With what a pack of these alone would take beside them, or one of tiny contents would
    // never be dense.
    let (each, fixed) = OVERHEAD_BYTES;
    let mut living: Vec<(Arc<str>, u64)> = Vec::new();
    contents.catalog.each_packed(|id, pack, at| {
        if !reach.blobs.contains(id) {
            return;
        }
        if living.last().is_none_or(|(name, _)| name != pack) {
            living.push((Arc::clone(pack), fixed));
        }
        if let Some((_, sum)) = living.last_mut() {
            // What the rows say may be any number.
            *sum = sum.saturating_add(at.stored).saturating_add(each);
        }
    })?;
    living.retain(|(name, living)| {
        let length = std::fs::metadata(contents.layout.pack(name)).map_or(0, |meta| meta.len());
        living.saturating_mul(2) < length
    });
    // Most packs are dense. A list of what they hold would take much memory.
    let mut packs: Vec<HeldPack> = living.into_iter().map(|(name, _)| (name, Vec::new())).collect();
    if packs.is_empty() {
        return Ok(packs);
    }
    contents.catalog.each_packed(|id, pack, at| {
        if let Some((_, live)) = packs.iter_mut().find(|(name, _)| name == pack)
            && reach.blobs.contains(id)
        {
            live.push((id, at));
        }
    })?;
    Ok(packs)
}

/// Whether a pack that the database does not have holds content that nothing else has.
fn is_needed(contents: Contents<'_>, name: &str, reach: &Reach) -> bool {
    let Ok(pack) = contents.open_pack(name) else { return false };
    let Ok(index) = pack.index().or_else(|_| pack.scan()) else { return true };
    index.iter().any(|(id, _)| {
        reach.blobs.get(*id).is_some_and(|size| {
            // In doubt it is.
            !contents.blobs.is_sealed(*id, size).unwrap_or(false)
                && !contents.catalog.packed(*id).is_ok_and(|at| at.is_some())
        })
    })
}

/// What is marked as living, and the snapshots that it was marked for.
#[derive(Default)]
struct Mark {
    reach: Reach,
    snapshots: HashSet<SnapshotId>,
}

impl Mark {
    fn add(&mut self, store: &Store, id: SnapshotId, operation: &Running) -> Result<(), Error> {
        if !self.snapshots.contains(&id) {
            self.reach.must_add(store, id, operation)?;
            self.snapshots.insert(id);
        }
        Ok(())
    }
}

//! Removing what nothing reaches.
//!
//! # Why no content is lost that a snapshot needs
//! Content is needed by the snapshots that the database has. So it must hold that, when a content is removed, no snapshot
//! that has it is there, or is being made by somebody who counts on it.
//!
//! 1. *Who counts on content holds the shared lock* ([`locks`](super::locks)): whoever makes a snapshot takes it before looking at the
//!    first file and keeps it until the snapshot is in the database; whoever makes trees, packs or warms, for as long as that takes. Content
//!    is removed under the exclusive lock only. So at that moment nobody is at it: a snapshot is in the database, or was not begun.
//! 2. *What is marked is enough.* The snapshots are marked without a lock, which takes long. Under the exclusive lock those that
//!    came since are marked, too, and only then something is removed: what was found before and is in neither mark.
//!    Snapshots are never changed, so the first mark does not age; and while the lock is held, none is added (by 1).
//! 3. *A content found again.* Somebody takes a snapshot of a file whose content is in the store already, unreachable and old. If that
//!    was before, the snapshot is in the second mark, and so is the content. If it comes after, the content is gone, and is taken in as
//!    any new one. There is no in-between (by 1). The same goes for directories.
//! 4. *Snapshots that are forgotten* ([`GcOptions::expire`]) are chosen anew inside the transaction that forgets them, under the
//!    exclusive lock: one that was named, or that a worktree was started from, a moment before, stays, and is marked in the next step.
//!    Somebody who read such a snapshot before the lock, and wants it after, finds it missing, or refuses its directories: an
//!    error, and nothing is lost.
//! 5. *A snapshot that cannot be read*, or that has a name or a worktree and is gone, may need anything. Then nothing is removed at all.
//!
//! # A crash at any point
//! First goes what refers, then what is referred to: snapshots, in a transaction of their own, on the disk before anything else happens;
//! then mirrors, which makes room on a full disk for what comes next: the rows of directories, of packed content and of packs; then the
//! files of packs. What a crash leaves is content that nobody needs, to be found by the next collection; a pack without a row is one
//! of these.
//! Packs that are mostly dead are rewritten beforehand, as [`packing`](super::packing) does it, and only then given up.
//!
//! # Who holds no lock
//! A store that cannot be written to has no locks. Who reads such a store while its owner collects may miss content (an error
//! that names it), and never gets another. As a second net, for filesystems whose locks are worth nothing between machines, nothing is
//! removed that is younger than the grace period.
//!
//! # Short exclusion
//! Others wait while the lock is held. So it is let go after some tenths of a second and taken again, beginning at step 2.

use std::collections::HashSet;
use std::io;
use std::time::{Duration, Instant};

use super::blobs::path_of;
use super::clock::older_than;
use super::id::{BlobId, DirectoryId, SnapshotId};
use super::pack::{Location, OVERHEAD_BYTES};
use super::packing::{Cold, From};
use super::reach::Reach;
use super::{Store, StoreOptions, locks, room, trash};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::tree::removal;
use crate::tree::running::Running;

const GRACE: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(30);

/// How long others are kept out at once.
const EXCLUSIVE: Duration = Duration::from_millis(300);

/// How collecting works; built by value.
#[derive(Debug, Clone)]
pub struct GcOptions {
    grace: Duration,
    patience: Duration,
    expire: Option<Duration>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { grace: GRACE, patience: PATIENCE, expire: None }
    }
}

impl GcOptions {
    /// What is younger than ten minutes stays; no snapshot is forgotten.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What changed more lately than this stays, whether somebody needs it or not.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// For how long it is tried to have the store for a moment alone.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether snapshots older than this are forgotten, too, unless they have a name, are a worktree's base or target, or the project's latest.
    /// What was made after a forgotten one still says so.
    #[must_use]
    pub fn expire(mut self, age: Option<Duration>) -> Self {
        self.expire = age;
        self
    }
}

/// What [`Store::gc`] removed.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GcReport {
    /// Others were at the store all the time: what needs a moment alone was not done, or not all of it.
    pub busy: bool,
    /// Snapshots that were forgotten.
    pub snapshots: Vec<SnapshotId>,
    /// Mirrors that were removed, and their sizes. What that frees may be less: they share blocks with the files they were cloned from.
    pub mirrors: u64,
    /// See `mirrors`.
    pub mirror_bytes: u64,
    /// Packed contents that were removed, and what they took in their packs.
    pub packed_blobs: u64,
    /// See `packed_blobs`.
    pub packed_bytes: u64,
    /// Packs that were removed; those whose living content was moved to a new one are among them.
    pub packs: u64,
    /// Packs of which the living content was moved.
    pub rewritten_packs: u64,
    /// Directory objects that were removed.
    pub directories: u64,
    /// Indexes and kept files of worktrees that are gone, and things in the trash.
    pub leftovers: u64,
    /// Ready trees of snapshots that no worktree is of, which are not the project's latest and have no name.
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
type Held = (String, Vec<(BlobId, Location)>);

impl Store {
    /// Removes what no snapshot, name or worktree reaches; the module's documentation argues why nothing else. Others may be
    /// at the store; each of them waits for some tenths of a second at most.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) where a snapshot cannot be read, since it may need anything: no content
    /// was removed. On any other, what was removed until then is gone, and nothing that is needed.
    pub fn gc(&self, options: &GcOptions, common: &StoreOptions) -> Result<GcReport, Error> {
        let started = Instant::now();
        let mut report = GcReport::default();
        let operation = common.operation();
        self.freeing(|store| store.collect(options, &operation, &mut report))?;
        room::keep(self.path());
        report.elapsed = started.elapsed();
        Ok(report)
    }

    fn collect(
        &self,
        options: &GcOptions,
        operation: &Running,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        self.must_be_writable(Operation::CollectGarbage)?;
        self.sweep_stage();
        report.leftovers += self.registry().sweep(options.grace)?;
        report.leftovers += trash::sweep(self.layout(), options.grace)?;
        self.registry().recover()?;
        self.must_have_roots()?;
        let expired = options.expire.map(|age| self.expirable(age)).transpose()?;
        let expired = expired.unwrap_or_default();
        let snapshots = self.catalog().snapshot_ids()?;
        let kept = snapshots.into_iter().filter(|id| !expired.contains(id));
        let mut mark = Mark::default();
        for id in kept {
            mark.add(self, id, operation)?;
        }
        let dead = self.dead(&mark.reach, options.grace)?;
        let packs = self.mostly_dead(&mark.reach)?;
        match self.rewrite(&packs, operation) {
            // What is dead goes first, and they the next time.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            rewritten => report.rewritten_packs += rewritten?,
        }
        self.sweep(options, operation, &expired, mark, dead, report)?;
        report.templates += self.sweep_templates()?;
        Ok(())
    }

    /// A template is no content: who misses one makes it again, so nothing is locked out.
    fn sweep_templates(&self) -> Result<u64, Error> {
        let rows = self.catalog().worktrees()?;
        let used = rows.iter().flat_map(|row| [row.snapshot, row.target]).flatten();
        let names = self.catalog().names()?;
        let wanted: HashSet<SnapshotId> = used.chain(names.iter().map(|(_, id)| *id)).collect();
        self.drop_templates(|id| wanted.contains(&id))
    }

    /// Fails where what has a name, or is under a worktree, is not there: then the database lost it, and its content may still be
    /// needed.
    fn must_have_roots(&self) -> Result<(), Error> {
        let Some(name) = self.catalog().without_snapshot()? else { return Ok(()) };
        let what = format!("the snapshot that {name:?} stands for is missing");
        let cause = io::Error::new(io::ErrorKind::InvalidData, what);
        Err(Error::new(ErrorKind::Damaged, Operation::Read, self.layout().database(), cause))
    }

    /// Snapshots that may be forgotten, as things stand.
    fn expirable(&self, age: Duration) -> Result<HashSet<SnapshotId>, Error> {
        let mut ids = HashSet::new();
        for id in self.catalog().snapshot_ids()? {
            // One that cannot be read has no age.
            if let Ok(object) = self.object(id)
                && older_than((object.created.0, object.created.1.into()), age) == Some(true)
            {
                ids.insert(id);
            }
        }
        let names = self.catalog().names()?;
        let rows = self.catalog().worktrees()?;
        let used = rows.iter().flat_map(|row| [row.snapshot, row.target]).flatten();
        for id in names.iter().map(|(_, id)| *id).chain(used) {
            ids.remove(&id);
        }
        for row in &rows {
            if let Some(id) = self.registry().undo_goes_to(row) {
                ids.remove(&id);
            }
        }
        Ok(ids)
    }

    fn dead(&self, reach: &Reach, grace: Duration) -> Result<Dead, Error> {
        let mut dead = Dead::default();
        self.blobs()
            .for_each(|id, meta| {
                if !reach.blobs.contains_key(&id) && older_than(meta.changed, grace) == Some(true) {
                    dead.mirrors.push((id, meta.size));
                }
            })
            .context(Operation::Read, || self.layout().blobs())?;
        dead.directories = self.catalog().directory_ids()?;
        dead.directories.retain(|id| !reach.directories.contains(id));
        dead.packed = self
            .catalog()
            .all_packed()?
            .into_iter()
            .filter(|(id, ..)| !reach.blobs.contains_key(id))
            .map(|(id, _, at)| (id, at))
            .collect();
        Ok(dead)
    }

    /// Packs of which more than half is dead, with what lives in them.
    fn mostly_dead(&self, reach: &Reach) -> Result<Vec<Held>, Error> {
        let mut packs: Vec<Held> = Vec::new();
        for (id, pack, at) in self.catalog().all_packed()? {
            if packs.last().is_none_or(|(name, _)| *name != pack) {
                packs.push((pack, Vec::new()));
            }
            if reach.blobs.contains_key(&id)
                && let Some((_, live)) = packs.last_mut()
            {
                live.push((id, at));
            }
        }
        packs.retain(|(name, live)| {
            let length = std::fs::metadata(self.layout().pack(name)).map_or(0, |meta| meta.len());
            // With what a pack of these alone would take beside them, or one of tiny contents would never be dense.
            let (each, fixed) = OVERHEAD_BYTES;
            // What the rows say may be any number.
            let living = live
                .iter()
                .fold(fixed, |sum, (_, at)| sum.saturating_add(at.stored).saturating_add(each));
            !live.is_empty() && living.saturating_mul(2) < length
        });
        Ok(packs)
    }

    /// Moves the living content of packs to a new one. How many packs hold nothing that is needed now.
    fn rewrite(&self, packs: &[Held], operation: &Running) -> Result<u64, Error> {
        if packs.is_empty() {
            return Ok(0);
        }
        let _guard = self.share()?;
        self.contents().close_packs();
        let mut cold = Vec::new();
        for (name, live) in packs {
            for (id, at) in live {
                let from = From::Pack(name.clone(), *at);
                cold.push(Cold { id: *id, size: at.size, from });
            }
        }
        let written = self.write_packs(cold, operation)?;
        // What could not be read stays where it is, and so does its pack.
        let stuck: HashSet<BlobId> = written.damaged.into_iter().collect();
        let moved = packs.iter().filter(|(_, live)| live.iter().all(|(id, _)| !stuck.contains(id)));
        Ok(moved.count() as u64)
    }

    /// The removal itself, in rounds.
    fn sweep(
        &self,
        options: &GcOptions,
        operation: &Running,
        expired: &HashSet<SnapshotId>,
        mut mark: Mark,
        mut dead: Dead,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let mut first = true;
        loop {
            let guard = locks::exclude(self.path(), options.patience, operation)?;
            let Some(guard) = guard else {
                report.busy = true;
                return Ok(());
            };
            let alone = Instant::now();
            if first {
                report.snapshots.extend(self.forget_snapshots(expired)?);
            }
            for id in self.catalog().snapshot_ids()? {
                mark.add(self, id, operation)?;
            }
            first = false;
            let done = self.remove_mirrors(&mut dead.mirrors, &mark.reach, alone, report)?;
            if done {
                self.remove_rows(&dead, &mark.reach, report)?;
                self.remove_packs(&mark.reach, options.grace, report)?;
            }
            drop(guard);
            if done {
                return Ok(());
            }
        }
    }

    /// Forgets those of the snapshots that still nobody has a use for.
    fn forget_snapshots(&self, ids: &HashSet<SnapshotId>) -> Result<Vec<SnapshotId>, Error> {
        let mut forgotten = self.catalog().forget_snapshots(ids)?;
        forgotten.sort_unstable();
        Ok(forgotten)
    }

    fn remove_rows(&self, dead: &Dead, reach: &Reach, report: &mut GcReport) -> Result<(), Error> {
        let directories = dead.directories.iter().filter(|id| !reach.directories.contains(id));
        let directories: Vec<DirectoryId> = directories.copied().collect();
        let packed = dead.packed.iter().filter(|(id, _)| !reach.blobs.contains_key(id));
        let (packed, places): (Vec<BlobId>, Vec<Location>) = packed.copied().unzip();
        if directories.is_empty() && packed.is_empty() {
            return Ok(());
        }
        self.catalog().forget_objects(&directories, &packed)?;
        report.directories += directories.len() as u64;
        report.packed_blobs += packed.len() as u64;
        report.packed_bytes =
            places.iter().fold(report.packed_bytes, |sum, at| at.stored.saturating_add(sum));
        Ok(())
    }

    /// Removes mirrors until the time is up; whether all are gone.
    fn remove_mirrors(
        &self,
        mirrors: &mut Vec<(BlobId, u64)>,
        reach: &Reach,
        alone: Instant,
        report: &mut GcReport,
    ) -> Result<bool, Error> {
        while let Some((id, size)) = mirrors.pop() {
            if reach.blobs.contains_key(&id) {
                continue;
            }
            let name = path_of(id);
            let removed = self
                .blobs()
                .remove(id)
                // No mirror of ours: something else has its name.
                .or_else(|_| removal::remove(self.blobs().dir(), &name));
            removed.context(Operation::Remove, || self.blobs().mirror_path(id))?;
            report.mirrors += 1;
            report.mirror_bytes += size;
            if report.mirrors.is_multiple_of(64) && alone.elapsed() >= EXCLUSIVE {
                break;
            }
        }
        Ok(mirrors.is_empty())
    }

    /// Removes packs that have nothing any more: their rows first.
    fn remove_packs(
        &self,
        reach: &Reach,
        grace: Duration,
        report: &mut GcReport,
    ) -> Result<(), Error> {
        let empty = self.catalog().forget_empty_packs()?;
        let unknown = self.unknown_packs(grace)?;
        let needless = unknown.into_iter().filter(|name| !self.is_needed(name, reach));
        let needless: HashSet<String> = empty.into_iter().chain(needless).collect();
        self.contents().close_packs();
        for name in needless {
            report.packs += u64::from(self.contents().remove_pack(&name)?);
        }
        Ok(())
    }

    /// Files among the packs that the database does not speak of.
    pub(crate) fn unknown_packs(&self, grace: Duration) -> Result<Vec<String>, Error> {
        let path = self.layout().packs();
        let files = trash::entries(&path, grace).context(Operation::Read, || &path)?;
        let known: HashSet<String> = self.catalog().pack_names()?.into_iter().collect();
        Ok(files
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !known.contains(name) && !name.starts_with('.'))
            .collect())
    }

    /// Whether a pack that the database does not speak of has what is nowhere else.
    fn is_needed(&self, name: &str, reach: &Reach) -> bool {
        let Ok(pack) = self.contents().open_pack(name) else { return false };
        let Ok(index) = pack.index().or_else(|_| pack.scan()) else { return true };
        index.iter().any(|(id, _)| {
            reach.blobs.get(id).is_some_and(|size| {
                // In doubt it is.
                !self.blobs().is_sealed(*id, *size).unwrap_or(false)
                    && !self.catalog().packed(*id).is_ok_and(|at| at.is_some())
            })
        })
    }
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

//! Removes what nobody needs from a remote.
//!
//! # What stays
//! * Of each name, its newest change and so many older ones as the caller keeps; and each change
//!   until the next one is older than the grace time.
//! * The steps to the newest change ([`steps`]), but not what they need.
//! * A record that one of these changes names, that a pusher has announced, or that is younger than
//!   the grace time: its pusher may not have given it a name yet.
//! * Objects that such a record names, and all objects that are younger than the grace time.
//!
//! # Two steps
//! A key that nobody needs is *condemned*: a list (`condemned/TOKEN`) says since when. It is
//! removed by a collector that finds it still unneeded a grace time later. So who reads an object
//! while it loses its last name has that time to finish. The lists only delay: whether a key is
//! removed is decided anew each time, under an announcement that pushers see ([`super::underway`]).
//!
//! # A full place
//! A collector must write before it may remove: its announcement, and the lists. If there is no
//! room for these, it first removes the object `reserve`, and makes that again when it is done.
//!
//! # A collector that dies
//! It removes changes of names first, then records, then the objects that they named. So whatever
//! is left is whole or still unneeded, and the next collector goes on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::super::StoreOptions;
use super::super::clock;
use super::super::id::{BlobId, SnapshotId, from_hex, is_token};
use super::super::room::is_full;
use super::name;
use super::objects::ListedObject;
use super::record::{ObjectId, Record};
use super::underway::{
    Announced, CLOCK, FOLDER, PUSHER, PUSHING_MOST_BYTES, counts, is_announcement, pushed,
};
use super::{CANARIES, FOLDERS, Remote, steps};
use crate::error::{Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::tree::pool::lock;
use crate::tree::running::Running;

const CONDEMNED: &str = "condemned/";
const CONDEMNED_FIRST_LINE: &str = "calve condemned 1\n";
/// A list has at most so many keys, so that one fits into the reserve; and no list is longer.
const LIST_MOST_KEYS: usize = 10_000;
const LIST_MOST_BYTES: u64 = 32 << 20;
/// How many keys are removed under one announcement, which then fits into the reserve.
const ROUND: usize = 10_000;
/// How many requests are under way at once, unless the caller says otherwise.
const JOBS: usize = 12;
/// The key of the reserve. A collector must write before it may remove anything else. In a full
/// place it removes the reserve first, and so has room to write.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 1 << 20;
/// After so many seconds a write that did not end is dead.
const UNFINISHED_LIFE: i64 = 24 * 3600;
/// The changes of a name that stay beside the newest one, and the grace time, unless the caller
/// says otherwise.
const KEEP: u64 = 10;
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What [`Remote::gc`] does; built by value.
#[derive(Debug, Clone)]
pub struct RemoteGcOptions {
    grace: Duration,
    keep: u64,
    dry_run: bool,
}

impl Default for RemoteGcOptions {
    fn default() -> Self {
        Self { grace: GRACE, keep: KEEP, dry_run: false }
    }
}

setters! { RemoteGcOptions:
    /// A grace time of seven days; of each name the newest change and ten older ones stay.
    pub fn new(),
    /// How old something must be to be condemned, and how long it stays after that. It should be
    /// longer than any push or pull takes; one that takes longer starts over.
    pub grace: Duration,
    /// How many older changes of each name stay, beside the newest one.
    pub keep: u64,
    /// Whether it only says what it would do.
    pub dry_run: bool,
}

/// Things on a remote that nobody needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteGarbage {
    /// Older changes of names.
    pub changes: u64,
    /// Snapshots that no name needs.
    pub snapshots: u64,
    /// Objects with contents or directories, and what dead commands left.
    pub objects: u64,
    /// The size of all of these, in bytes.
    pub bytes: u64,
}

impl RemoteGarbage {
    fn add(&mut self, garbage: &Garbage) {
        match garbage.class {
            Class::Change => self.changes += 1,
            Class::Snapshot => self.snapshots += 1,
            Class::Object => self.objects += 1,
        }
        self.bytes = self.bytes.saturating_add(garbage.size);
    }
}

/// What [`Remote::gc`] did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RemoteGcReport {
    /// What was removed; after a dry run, what would have been.
    pub removed: RemoteGarbage,
    /// What nobody needs and a later collection removes, once the grace time is over.
    pub waiting: RemoteGarbage,
    /// Snapshots that stay.
    pub snapshots: u64,
    /// Snapshots that names mean and that the remote does not have.
    pub missing: Vec<SnapshotId>,
    /// How many requests it took.
    pub requests: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// In the order in which they are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Change,
    Snapshot,
    Object,
}

/// A key that nobody needs.
#[derive(Debug, Clone)]
struct Garbage {
    class: Class,
    key: String,
    size: u64,
}

/// What the decisions depend on; times in seconds by the place's clock.
#[derive(Debug, Clone, Copy)]
struct Policy {
    now: i64,
    grace: i64,
    keep: u64,
}

impl Policy {
    /// Whether something that nobody needs was there for the grace time.
    fn is_old(&self, since: i64) -> bool {
        self.now.saturating_sub(since) >= self.grace
    }

    /// Whether a change of a name stays. `newer` changes of the name count as kept ones, and the
    /// next one was made at `superseded`; the newest change has none.
    fn keeps(&self, newer: u64, superseded: Option<i64>) -> bool {
        superseded.is_none_or(|at| newer <= self.keep || !self.is_old(at))
    }
}

/// The changes of a name with their numbers, the newest first.
type NameChanges = Vec<(u64, ListedObject)>;

/// What a change of a name needs.
#[derive(Debug, Clone, Copy)]
struct ChangeNeeds {
    snapshot: SnapshotId,
    found: Option<ObjectId>,
    /// Whether somebody whom the caller trusts made it.
    counts: bool,
    /// Whether no earlier collection can have removed the snapshot.
    keeps_snapshot: bool,
}

/// What a collector has read. It only grows, so what it knows to be needed stays.
#[derive(Default)]
struct KnownNeeds {
    changes: HashMap<String, ChangeNeeds>,
    announced: HashSet<String>,
    /// Snapshots that are needed.
    live: HashSet<SnapshotId>,
    /// Records that were read, with their times.
    records: HashMap<SnapshotId, i64>,
    /// Keys of objects that are needed.
    needed: HashSet<String>,
}

impl KnownNeeds {
    fn needs(&mut self, record: &Record) {
        self.needed.extend(record.objects().into_iter().map(|(key, _)| key));
    }
}

/// What was found at one time.
struct FoundAtOnce {
    garbage: Vec<Garbage>,
    snapshots: u64,
    missing: Vec<SnapshotId>,
}

impl Remote {
    /// Removes what nobody needs: changes of names that were superseded long ago, snapshots that no
    /// name means, and objects that no snapshot has. Others may push, pull and collect at the same
    /// time, and any of them may be killed.
    ///
    /// Something is removed in two steps: a collection *condemns* what nobody needs and what is
    /// older than the grace time; a collection that finds it still unneeded a grace time later
    /// removes it. The newest change of a name always stays. Some older ones stay without their
    /// snapshots, at most two for each binary digit of the newest one's number: they lead those who
    /// cannot list the remote to the newest one. With configured keys ([`Remote::trusting`]) a
    /// change that none of them signed stays, too, and does not count as one of those that are
    /// kept, if it is newer than they.
    ///
    /// All times are those of the place's own clock. It keeps the keys of all objects in memory:
    /// about 200 bytes for each.
    ///
    /// # Errors
    /// [`RemoteUnfit`](crate::ErrorKind::RemoteUnfit) if the remote is a web server; those of every
    /// operation, see [`Remote`]. [`Damaged`](crate::ErrorKind::Damaged) also if a record or a
    /// change of a name that stays cannot be read: calve removes nothing while it does not know
    /// what that needs. [`StorageFull`](crate::ErrorKind::StorageFull) if the place is full and has
    /// no reserve: about 1 MiB, which [`Remote::init`] and each collection leave there for the next
    /// one. After an error, the objects that were removed stay removed;
    /// nobody needed them.
    pub fn gc(
        &self,
        options: &RemoteGcOptions,
        common: &StoreOptions,
    ) -> Result<RemoteGcReport, Error> {
        let started = Instant::now();
        self.must_be_kept(Operation::CollectRemote)?;
        let before = self.objects().traffic.so_far();
        let running = &common.operation().usually(JOBS);
        let now = self.time(options.dry_run)?;
        let grace = i64::try_from(options.grace.as_secs()).unwrap_or(i64::MAX);
        let policy = Policy { now, grace, keep: options.keep };
        let unfinished = self.remove_unfinished(now, options.dry_run)?;
        let mut known = KnownNeeds::default();
        let found = self.look(&mut known, policy, running)?;
        let mut garbage = found.garbage;
        garbage.extend(self.unneeded_objects(&known, policy)?);
        garbage.sort_unstable_by(|a, b| (a.class, &a.key).cmp(&(b.class, &b.key)));
        let lists = self.condemned()?;
        let since = since(&lists, &garbage, policy);
        let mut report = RemoteGcReport {
            snapshots: found.snapshots,
            missing: found.missing,
            removed: unfinished,
            ..RemoteGcReport::default()
        };
        let (mut ripe, mut waiting) = (Vec::new(), Vec::new());
        for garbage in garbage {
            match since.get(&garbage.key) {
                Some(since) if policy.is_old(*since) => ripe.push(garbage),
                Some(since) => waiting.push((*since, garbage)),
                None => waiting.push((now, garbage)),
            }
        }
        if options.dry_run {
            ripe.iter().for_each(|garbage| report.removed.add(garbage));
        } else {
            for round in ripe.chunks(ROUND) {
                self.remove_round(round, &mut known, policy, running, &mut report)?;
            }
            let lines: Vec<String> =
                waiting.iter().map(|(since, garbage)| format!("{since} {}", garbage.key)).collect();
            self.condemn(&lines, lists)?;
            self.keep_reserve();
        }
        waiting.iter().for_each(|(_, garbage)| report.waiting.add(garbage));
        [report.requests, ..] = self.objects().traffic.since(before);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// The place's time. Also removes what dead commands announced, unless nothing is to be
    /// changed.
    fn time(&self, dry_run: bool) -> Result<i64, Error> {
        if dry_run {
            return Ok(clock::now().0);
        }
        let probe =
            self.with_reserve(|| Announced::make(self, Operation::CollectRemote, CLOCK, b""))?;
        let listed = self.list(FOLDER)?;
        let now = probe.time(&listed).unwrap_or_else(|| clock::now().0);
        let life = self.place.times.life_seconds();
        let is_dead =
            |one: &&ListedObject| is_announcement(&one.key) && !counts(one.modified, now, life);
        for one in listed.iter().filter(is_dead) {
            self.remove(Operation::CollectRemote, &one.key)?;
        }
        Ok(now)
    }

    /// Removes what writers left that were killed before their object was whole.
    fn remove_unfinished(&self, now: i64, dry_run: bool) -> Result<RemoteGarbage, Error> {
        let mut removed = RemoteGarbage::default();
        for folder in FOLDERS {
            let listed = self.objects().unfinished(folder);
            let listed =
                listed.map_err(|error| self.failed(Operation::ReadRemote, folder, error))?;
            for ListedObject { key, size, modified } in listed {
                if now.saturating_sub(modified) >= UNFINISHED_LIFE {
                    if !dry_run {
                        self.remove(Operation::CollectRemote, &key)?;
                    }
                    removed.add(&Garbage { class: Class::Object, key, size });
                }
            }
        }
        Ok(removed)
    }

    /// Makes the reserve, or a larger one in the place of a small one. Where there is little room,
    /// a small one is made; that there is none is no error: it is only needed later.
    pub(super) fn keep_reserve(&self) {
        match self.objects().size(RESERVE) {
            Ok(None) => {}
            Ok(Some(size)) if size < RESERVE_BYTES as u64 => {
                let _ = self.objects().remove(RESERVE);
            }
            _ => return,
        }
        // No filesystem can compress these bytes.
        let mut bytes = vec![0; RESERVE_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let sizes = (0..5).map(|half| RESERVE_BYTES >> half);
        for size in sizes {
            match self.objects().create(RESERVE, &bytes[..size]) {
                Err(error) if is_full(&error) => {}
                _ => return,
            }
        }
    }

    /// Does something that writes; in a full place without the reserve.
    fn with_reserve<T>(&self, write: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        match write() {
            Err(error)
                if error.kind() == ErrorKind::StorageFull
                    && matches!(self.objects().size(RESERVE), Ok(Some(_))) =>
            {
                self.remove(Operation::CollectRemote, RESERVE)?;
                write()
            }
            result => result,
        }
    }

    /// Finds out which changes of names and which records are needed, and what they need.
    ///
    /// The order matters: a pusher writes its announcement, the record and the name, and takes the
    /// announcement away last. Who reads in this order sees one of them.
    fn look(
        &self,
        known: &mut KnownNeeds,
        policy: Policy,
        running: &Running,
    ) -> Result<FoundAtOnce, Error> {
        self.look_at_pushers(known, policy)?;
        let mut garbage = self.look_at_names(known, policy, running)?;
        let (mut unread, mut there) = (Vec::new(), HashSet::new());
        for one in self.list("snapshots/")? {
            let Some(id) = one.key.strip_prefix("snapshots/").and_then(from_hex) else { continue };
            let id = SnapshotId::from_bytes(id);
            if !known.live.contains(&id) && policy.is_old(one.modified) {
                garbage.push(Garbage { class: Class::Snapshot, key: one.key, size: one.size });
                continue;
            }
            there.insert(id);
            // Times are whole seconds: a record this young may be another one than was read.
            let is_read = known.records.get(&id) == Some(&one.modified);
            if !is_read || one.modified >= policy.now.saturating_sub(2) {
                unread.push((id, one.modified));
            }
        }
        let records = Mutex::new(Vec::new());
        let shared = Mutex::new(&mut *known);
        self.each(Operation::CollectRemote, running, unread, |(id, modified)| {
            // Another collector may have removed it.
            if let Some((record, _)) = self.record(id)? {
                lock(&shared).needs(&record);
                lock(&records).push((id, modified));
            }
            Ok(())
        })?;
        known.records.extend(lock(&records).drain(..));
        // A pusher announces a record before it makes it.
        let kept = known.changes.values().filter(|change| change.keeps_snapshot);
        let named: HashSet<SnapshotId> = kept.map(|change| change.snapshot).collect();
        let mut missing: Vec<SnapshotId> = named.difference(&there).copied().collect();
        missing.sort_unstable_by_key(|id| *id.as_bytes());
        Ok(FoundAtOnce { garbage, snapshots: there.len() as u64, missing })
    }

    /// What pushers have announced.
    fn look_at_pushers(&self, known: &mut KnownNeeds, policy: Policy) -> Result<(), Error> {
        let life = self.place.times.life_seconds();
        for one in self.list(FOLDER)? {
            if !one.key.starts_with(PUSHER)
                || !counts(one.modified, policy.now, life)
                || known.announced.contains(&one.key)
            {
                continue;
            }
            // If it is gone, the pusher has given the name.
            let Some(bytes) = self.read(&one.key, PUSHING_MOST_BYTES)? else { continue };
            let (record, found) = pushed(&bytes);
            let record = Record::decode(record)
                .map_err(|error| self.damaged(&one.key, error.to_string()))?;
            known.live.insert(SnapshotId::of(&record.snapshot));
            known.needs(&record);
            known.needed.extend(found.map(super::found_key));
            known.announced.insert(one.key);
        }
        Ok(())
    }

    /// The changes of names that are superseded.
    fn look_at_names(
        &self,
        known: &mut KnownNeeds,
        policy: Policy,
        running: &Running,
    ) -> Result<Vec<Garbage>, Error> {
        let mut names: BTreeMap<String, NameChanges> = BTreeMap::new();
        for one in self.list("names/")? {
            if let Some((name, sequence)) = name::of_key(&one.key) {
                names.entry(name).or_default().push((sequence, one));
            }
        }
        let read = Mutex::new(Vec::new());
        let garbage = Mutex::new(Vec::new());
        let before = &known.changes;
        self.each(
            Operation::CollectRemote,
            running,
            names.into_iter().collect(),
            |(name, mut changes): (String, NameChanges)| {
                changes.sort_unstable_by_key(|(sequence, _)| std::cmp::Reverse(*sequence));
                let lowest = steps::lowest_kept(changes.iter().map(|(sequence, _)| *sequence));
                // The newest change, and the newest that counts: the other one may be taken away.
                let mut ends = Vec::from_iter(changes.first().map(|(sequence, _)| *sequence));
                let (mut newer, mut superseded) = (0, None);
                for (sequence, listed) in changes {
                    let modified = listed.modified;
                    if policy.keeps(newer, superseded) {
                        let change = match before.get(&listed.key) {
                            Some(change) => Some(*change),
                            None => self.needed_by(&name, sequence)?,
                        };
                        if let Some(change) = change {
                            if change.counts && newer == 0 {
                                ends.push(sequence);
                            }
                            newer += u64::from(change.counts);
                            let keeps_snapshot = sequence >= lowest;
                            lock(&read)
                                .push((listed.key, ChangeNeeds { keeps_snapshot, ..change }));
                        }
                    } else if !ends.iter().any(|end| steps::is_step(sequence, *end)) {
                        let ListedObject { key, size, .. } = listed;
                        lock(&garbage).push(Garbage { class: Class::Change, key, size });
                    }
                    superseded = Some(modified);
                }
                Ok(())
            },
        )?;
        for (key, change) in lock(&read).drain(..) {
            known.live.insert(change.snapshot);
            known.needed.extend(change.found.map(super::found_key));
            known.changes.insert(key, change);
        }
        Ok(std::mem::take(&mut *lock(&garbage)))
    }

    fn needed_by(&self, name: &str, sequence: u64) -> Result<Option<ChangeNeeds>, Error> {
        Ok(self.named(name, sequence)?.map(|(named, signers)| ChangeNeeds {
            snapshot: named.snapshot,
            found: named.found,
            counts: self.keys.is_empty() || signers.iter().any(|key| self.keys.contains(key)),
            keeps_snapshot: true,
        }))
    }

    /// Objects that are old and that no known record needs.
    fn unneeded_objects(&self, known: &KnownNeeds, policy: Policy) -> Result<Vec<Garbage>, Error> {
        let mut garbage = Vec::new();
        for folder in ["packs/", "parts/", "found/", CANARIES] {
            for one in self.list(folder)? {
                let rest = one.key.strip_prefix(folder).unwrap_or_default();
                // Other keys are not calve's.
                let is_own = match folder {
                    CANARIES => is_token(rest),
                    _ => from_hex(rest)
                        .map(BlobId::from_bytes)
                        .is_some_and(|id| id.to_string() == rest),
                };
                if is_own && policy.is_old(one.modified) && !known.needed.contains(&one.key) {
                    let ListedObject { key, size, .. } = one;
                    garbage.push(Garbage { class: Class::Object, key, size });
                }
            }
        }
        Ok(garbage)
    }

    /// Removes what is condemned for long enough, unless somebody needs it now.
    fn remove_round(
        &self,
        round: &[Garbage],
        known: &mut KnownNeeds,
        policy: Policy,
        running: &Running,
        report: &mut RemoteGcReport,
    ) -> Result<(), Error> {
        let keys = || round.iter().map(|garbage| garbage.key.as_str());
        let announced = self.with_reserve(|| Announced::collecting(self, keys()))?;
        let found = self.look(known, policy, running)?;
        let unneeded: HashSet<String> = found.garbage.into_iter().map(|one| one.key).collect();
        let removed = Mutex::new(&mut report.removed);
        for class in [Class::Change, Class::Snapshot, Class::Object] {
            let is_garbage = |garbage: &&Garbage| match garbage.class {
                Class::Change | Class::Snapshot => unneeded.contains(&garbage.key),
                Class::Object => !known.needed.contains(&garbage.key),
            };
            let garbage = round.iter().filter(|one| one.class == class).filter(is_garbage);
            self.each(
                Operation::CollectRemote,
                running,
                garbage.collect(),
                |garbage: &Garbage| {
                    // What is left is for the next collection.
                    if announced.holds() {
                        self.remove(Operation::CollectRemote, &garbage.key)?;
                        lock(&removed).add(garbage);
                    }
                    Ok(())
                },
            )?;
        }
        Ok(())
    }

    /// The keys and texts of the lists of condemned keys.
    fn condemned(&self) -> Result<Vec<(String, String)>, Error> {
        let mut lists = Vec::new();
        for listed in self.list(CONDEMNED)? {
            if !listed.key.strip_prefix(CONDEMNED).is_some_and(is_token) {
                continue;
            }
            let Some(text) = self.read(&listed.key, LIST_MOST_BYTES)? else { continue };
            lists.push((listed.key, String::from_utf8(text).unwrap_or_default()));
        }
        Ok(lists)
    }

    /// Writes the lists of what is condemned now, and then removes the former ones.
    fn condemn(&self, lines: &[String], lists: Vec<(String, String)>) -> Result<(), Error> {
        let texts: Vec<String> = lines
            .chunks(LIST_MOST_KEYS)
            .map(|lines| format!("{CONDEMNED_FIRST_LINE}{}\n", lines.join("\n")))
            .collect();
        for text in &texts {
            if !lists.iter().any(|(_, there)| there == text) {
                let key = format!("{CONDEMNED}{}", super::super::id::token());
                self.with_reserve(|| self.create(Operation::CollectRemote, &key, text.as_bytes()))?;
            }
        }
        for (key, text) in lists {
            if !texts.contains(&text) {
                self.remove(Operation::CollectRemote, &key)?;
            }
        }
        Ok(())
    }
}

/// Since when garbage is condemned: by the earliest list that has it, and never in the future.
fn since(lists: &[(String, String)], garbage: &[Garbage], policy: Policy) -> HashMap<String, i64> {
    let keys: HashSet<&str> = garbage.iter().map(|garbage| garbage.key.as_str()).collect();
    let mut since: HashMap<String, i64> = HashMap::new();
    for (at, key) in lists.iter().flat_map(|(_, text)| entries(text)) {
        if keys.contains(key) {
            let earliest = since.entry(key.to_owned()).or_insert(policy.now);
            *earliest = at.min(*earliest);
        }
    }
    since
}

/// The entries of a list of condemned keys. Each user who can write to the remote can write such a
/// list. It decides nothing but how soon a key that nobody needs is removed.
fn entries(list: &str) -> impl Iterator<Item = (i64, &str)> {
    let lines = list.strip_prefix(CONDEMNED_FIRST_LINE).unwrap_or_default().lines();
    lines.filter_map(|line| {
        let (since, key) = line.split_once(' ')?;
        Some((since.parse().ok()?, key))
    })
}

#[cfg(test)]
mod tests;

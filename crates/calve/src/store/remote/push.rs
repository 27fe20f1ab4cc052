//! Sends a snapshot to a remote: what the remote lacks of it, then its record, then the name.
//!
//! # What the remote has
//! The record of a snapshot lists the objects that have *all* of its content. So if this store has
//! a snapshot that the remote has, too, nothing of that snapshot is sent, and nothing need be
//! asked: the new record lists those objects again, and adds its own. If the store
//! does not know the name's last snapshot, the push reads the indexes of its packs.
//!
//! # Beside collectors
//! Before a record is written, or a name is given to one that is there, the push announces it
//! ([`super::underway`]) and asks whether all its objects are there. If some are gone, it goes on
//! as if the records that name them were not there. A record that cannot be read, and an object of
//! this push that has another size, are removed and made again.
//!
//! # A push that dies
//! Before a pack is sent, the store writes down what is in it (`remotes/ID/sent`). The next push
//! asks the remote which of these packs arrived, and uses them. Nobody sees what a dead push left:
//! no record names it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::CWD;

use super::super::blobs::Intake;
use super::super::files::read_plain;
use super::super::id::{BlobId, SnapshotId};
use super::super::object::SnapshotObject;
use super::super::pack::{Location, Pack};
use super::super::paths::found::{FOUND_MOST_BYTES, Found};
use super::super::{Store, StoreOptions, now};
use super::name::{self, Named, PublicKey, SigningKey};
use super::record::{PackRef, PartRef, Parts, RECORD_MOST_BYTES, Record};
use super::underway::{Announced, FOLDER, PUSHER, PUSHING_MOST_BYTES, counts, pushed, pushing};
use super::{Remote, found_key, pack_key, part_key, snapshot_key, steps};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::macros::setters;
use crate::tree::pool::{self, lock};
use crate::tree::running::Running;

mod packs;

use packs::{PACK_BYTES, Pusher, Pushing};

mod lacking;

use lacking::{KnownThere, Lacking, lost};

/// How many threads push at most.
const MOST_JOBS: usize = 4;
/// Contents of more bytes are cut into chunks.
pub(super) const LARGE_BYTES: u64 = 4 << 20;
/// How often a push looks again because objects went away under it.
const PUSH_TRIES: u32 = 5;
/// Up to so many objects are asked for one by one; of more the remote is listed.
const MOST_ASKED: usize = 64;
/// How many threads ask at once, and read indexes of packs, unless the caller says otherwise.
const ASKERS: usize = 12;
/// How often a name is tried that others change at the same time.
const NAME_TRIES: u32 = 100;

/// What a push does; built by value.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    name: Option<String>,
    key: Option<SigningKey>,
}

setters! { PushOptions:
    /// Gives the snapshot no name: it can be pulled by its id.
    pub fn new(),
    /// Gives the snapshot this name on the remote. What the name meant before stays in its log.
    pub name: impl Into<String> = Some(name.into()),
    /// Signs the name with this key.
    pub key: SigningKey = Some(key),
}

/// What [`Remote::push`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PushReport {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// How often the name was given, this time included. `None` without a name.
    pub sequence: Option<u64>,
    /// Whether the name meant this snapshot already, and nothing was written.
    pub unchanged: bool,
    /// Contents that the remote lacked, and their sizes, in bytes.
    pub contents: u64,
    /// See `contents`.
    pub content_bytes: u64,
    /// New packs.
    pub packs: u64,
    /// Packs that an earlier push had sent before it was stopped.
    pub resumed_packs: u64,
    /// What was sent, in bytes, and how many requests it took.
    pub sent_bytes: u64,
    /// See `sent_bytes`.
    pub requests: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// A push: of which snapshot, from where to where.
struct Push<'a> {
    remote: &'a Remote,
    store: &'a Store,
    id: SnapshotId,
    object: &'a SnapshotObject,
    options: &'a PushOptions,
    operation: &'a Running,
}

impl Remote {
    /// Sends a snapshot of `store` to the remote, and gives it a name there. It sends only what the
    /// remote lacks.
    ///
    /// Any number of machines may push at once, also under one name: each push is one step in the
    /// name's log, and the last step is what the name means.
    ///
    /// It takes about 40 MiB of memory for each of at most four threads, beside what the store
    /// needs to know a snapshot's entries.
    ///
    /// # Errors
    /// [`ErrorKind::SnapshotNotFound`]; [`ErrorKind::InvalidName`]; [`ErrorKind::RemoteUnfit`] if
    /// the remote is a web server; [`ErrorKind::Damaged`] also if the store has lost content of the
    /// snapshot; those of every operation, see [`Remote`] and [`Store`]. The remote's names mean
    /// what they meant. Objects that were sent stay there without being used, and the next
    /// push of this store goes on from them.
    pub fn push(
        &self,
        store: &Store,
        snapshot: SnapshotId,
        options: &PushOptions,
        common: &StoreOptions,
    ) -> Result<PushReport, Error> {
        let started = Instant::now();
        let before = self.objects().traffic.so_far();
        options.name.as_deref().map_or(Ok(String::new()), name::encoded)?;
        self.must_be_kept(Operation::Push)?;
        let operation = &common.operation();
        let _guard = store.share()?;
        let object = store.catalog().object(snapshot)?;
        let mut report = PushReport {
            snapshot,
            sequence: None,
            unchanged: false,
            contents: 0,
            content_bytes: 0,
            packs: 0,
            resumed_packs: 0,
            sent_bytes: 0,
            requests: 0,
            elapsed: Duration::ZERO,
        };
        let (object, remote) = (&object, self);
        Push { remote, store, id: snapshot, object, options, operation }.run(&mut report)?;
        [report.requests, report.sent_bytes, _] = self.objects().traffic.since(before);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Whether the list of files that name the root, of this size, is there.
    fn has_list(&self, list: Option<(BlobId, u64)>) -> Result<bool, Error> {
        let Some((id, length)) = list else { return Ok(true) };
        Ok(self.size(Operation::Push, &found_key(id))? == Some(length))
    }

    /// Removes a broken object, so that a push can make it again. It does so
    /// as a collector: who relies on this object at the same time is seen, or sees this. `relies`
    /// says whether the pusher of an announced record does; then the object stays.
    fn remove_broken(
        &self,
        key: &str,
        relies: impl Fn(&[u8]) -> bool,
        is_broken: impl Fn() -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let marker = Announced::collecting(self, std::iter::once(key))?;
        let listed = self.list(FOLDER)?;
        let Some(now) = marker.time(&listed) else { return Ok(()) };
        let life = self.place.times.life_seconds();
        for one in &listed {
            if one.key.starts_with(PUSHER)
                && counts(one.modified, now, life)
                && let Some(announced) = self.read(&one.key, PUSHING_MOST_BYTES)?
                && let (record, found) = pushed(&announced)
                && (relies(record) || found.map(found_key).as_deref() == Some(key))
            {
                return Ok(());
            }
        }
        // A process that makes a better one waits for this announcement before it relies on it.
        if is_broken()? && marker.holds() {
            self.remove(Operation::Push, key)?;
        }
        Ok(())
    }

    /// Makes an object whose key follows from its content. One of another size cannot be what its
    /// key says, so it is replaced.
    fn put(&self, key: &str, content: &[u8]) -> Result<(), Error> {
        let length = content.len() as u64;
        // Asking costs little beside sending what is there.
        let size = || self.size(Operation::Push, key);
        let is_other = |size: Option<u64>| size.is_some_and(|size| size != length);
        let mut there = size()?;
        if is_other(there) {
            let relies = |record: &[u8]| {
                Record::decode(record)
                    .map_or(true, |record| record.objects().iter().any(|(other, _)| other == key))
            };
            self.remove_broken(key, relies, || size().map(is_other))?;
            there = size()?;
        }
        match there {
            Some(size) if size == length => Ok(()),
            Some(size) => {
                let why = format!(
                    "it has {size} bytes, not {length}, and another push relies on it at this moment"
                );
                let cause = io::Error::new(io::ErrorKind::ResourceBusy, why);
                Err(Error::new(ErrorKind::Busy, Operation::Push, self.at(key), cause))
            }
            // Another process that makes it at the same time makes the same bytes.
            None => self.create(Operation::Push, key, content).map(drop),
        }
    }

    fn put_part(
        &self,
        part: io::Result<Option<Vec<u8>>>,
        parts: &mut Vec<PartRef>,
    ) -> Result<(), Error> {
        let part = part.map_err(|error| self.failed(Operation::Push, "parts", error))?;
        let Some(part) = part else { return Ok(()) };
        let id = BlobId::of(&part);
        self.objects().limit.wait();
        self.put(&part_key(id), &part)?;
        parts.push(PartRef { id, length: part.len() as u64 });
        Ok(())
    }

    /// Calls `each` with the entries in the index of a pack, by ascending id. If this fails, what
    /// `each` got may be wrong.
    pub(super) fn index(
        &self,
        pack: PackRef,
        each: impl FnMut(BlobId, Location),
    ) -> Result<(), Error> {
        let key = pack_key(pack.id);
        let start = pack.length.saturating_sub(pack.trailer());
        let mut bytes = Vec::new();
        self.range(&key, start..pack.length, &mut bytes)?;
        Pack::of_part(pack.length, start, &bytes)
            .for_each(each)
            .map_err(|error| self.damaged(&key, error.to_string()))
    }
}

impl Push<'_> {
    /// Sends what the remote lacks. The snapshot gets its name at the remote when everything that its
    /// record names is there, and cannot be collected.
    fn run(&self, report: &mut PushReport) -> Result<(), Error> {
        // Objects that records name and that are gone.
        let mut gone = HashSet::new();
        for _ in 0..PUSH_TRIES {
            if self.attempt(&mut gone, report)? {
                return Ok(());
            }
        }
        let why = "objects that the snapshot needs go away again and again, or the remote answers too slowly";
        let cause = io::Error::new(io::ErrorKind::ResourceBusy, why);
        Err(Error::new(ErrorKind::Busy, Operation::Push, self.remote.url(), cause))
    }

    /// Whether the snapshot is there and has its name. If not, something went away meanwhile.
    fn attempt(&self, gone: &mut HashSet<String>, report: &mut PushReport) -> Result<bool, Error> {
        let Self { remote, store, id, options, operation, .. } = *self;
        // A collector may have removed it since the last attempt.
        let list = match &options.name {
            None => None,
            Some(_) => self.send_found()?,
        };
        let found = list.map(|(id, _)| id);
        let Some(there) = self.record_there()? else { return Ok(false) };
        if let (Some(name), Some(record)) = (&options.name, &there)
            && self.is_named(name, found, report)?
        {
            if self.lacking_objects(&record.objects())?.is_empty() && remote.has_list(list)? {
                return Ok(true);
            }
            report.unchanged = false;
        }
        let is_there = there.is_some();
        let record = match there {
            Some(record) => record,
            None => self.send(gone, report)?,
        };
        let encoded = record.encode();
        // From here on no collector that begins removes what the record names.
        let claim = Announced::make(remote, Operation::Push, PUSHER, &pushing(&encoded, found))?;
        let objects = record.objects();
        let mut keys: HashSet<String> = objects.iter().map(|(key, _)| key.clone()).collect();
        keys.insert(snapshot_key(id));
        keys.extend(found.map(found_key));
        if !remote.wait_for_collectors(&claim, &keys, operation)? {
            return Ok(false);
        }
        // And what one has removed before is seen here.
        let lacking = self.lacking_objects(&objects)?;
        if !lacking.is_empty() {
            if is_there {
                drop(claim);
                let key = snapshot_key(id);
                let is_same = |record: &[u8]| record == encoded;
                remote.remove_broken(&key, is_same, || {
                    let there = remote.read(&key, RECORD_MOST_BYTES)?;
                    Ok(there.is_some_and(|there| is_same(&there))
                        && !self.lacking_objects(&objects)?.is_empty())
                })?;
            }
            gone.extend(lacking);
            return Ok(false);
        }
        if !remote.has_list(list)? {
            return Ok(false);
        }
        let key = snapshot_key(id);
        if is_there {
            if remote.size(Operation::Push, &key)? != Some(encoded.len() as u64) {
                return Ok(false);
            }
        } else {
            operation.check(Operation::Push, store.path())?;
            if !claim.holds() {
                return Ok(false);
            }
            let made = remote.create(Operation::Push, &key, &encoded)?;
            // Somebody who pushed the same snapshot meanwhile may rely on other objects.
            if !made && remote.read(&key, RECORD_MOST_BYTES)?.as_ref() != Some(&encoded) {
                return Ok(false);
            }
            // A record names them now.
            for pack in &record.packs {
                let note = store.layout().remote_sent(&remote.place.id, &pack.id.to_string());
                let _ = std::fs::remove_file(note);
            }
        }
        let Some(name) = &options.name else { return Ok(true) };
        if !claim.holds() {
            return Ok(false);
        }
        self.give_name(name, found, report)?;
        Ok(true)
    }

    /// The record that the remote has of the snapshot, if any. `None`: it had a damaged one.
    fn record_there(&self) -> Result<Option<Option<Record>>, Error> {
        let Self { remote, id, .. } = *self;
        match remote.record(id) {
            Err(error) if is_damage(&error) => {
                let is_of_it = |record: &[u8]| {
                    Record::decode(record)
                        .is_ok_and(|record| SnapshotId::of(&record.snapshot) == id)
                };
                remote.remove_broken(&snapshot_key(id), is_of_it, || match remote.record(id) {
                    Err(error) if is_damage(&error) => Ok(true),
                    record => record.map(|_| false),
                })?;
                Ok(None)
            }
            there => Ok(Some(there?.map(|(record, _)| record))),
        }
    }

    /// Which of these objects are not there, or have another size.
    fn lacking_objects(&self, objects: &[(String, u64)]) -> Result<HashSet<String>, Error> {
        if objects.len() > MOST_ASKED {
            let mut sizes = HashMap::new();
            for folder in ["packs/", "parts/"] {
                sizes.extend(self.remote.list(folder)?.into_iter().map(|one| (one.key, one.size)));
            }
            let is_lacking = |(key, size): &&(String, u64)| sizes.get(key) != Some(size);
            return Ok(objects.iter().filter(is_lacking).map(|(key, _)| key.clone()).collect());
        }
        let lacking = Mutex::new(HashSet::new());
        let asking = self.operation.usually(ASKERS);
        self.remote.each(Operation::Push, &asking, objects.to_vec(), |(key, size)| {
            if self.remote.size(Operation::Push, &key)? != Some(size) {
                lock(&lacking).insert(key);
            }
            Ok(())
        })?;
        Ok(lacking.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends the parts of a snapshot that the remote lacks. Returns what its record will be.
    /// Objects that are `gone` are not on the remote, even if records name them.
    fn send(&self, gone: &HashSet<String>, report: &mut PushReport) -> Result<Record, Error> {
        let Self { remote, store, operation, .. } = *self;
        let mut known = self.known(gone)?;
        let Lacking { directories, contents } = self.lacking(&known)?;
        if contents.iter().any(|(_, size)| *size > LARGE_BYTES) {
            remote.learn_recipes(&mut known)?;
        }
        let mut tasks: Vec<(BlobId, u64)> = contents
            .into_iter()
            .filter(|(id, _)| !known.entries.contains(id) && !known.whole.blobs.contains(*id))
            .collect();
        report.contents = tasks.len() as u64;
        report.content_bytes = tasks.iter().fold(0, |sum, (_, size)| size.saturating_add(sum));
        operation.expect(report.contents);
        operation.expect_bytes(report.content_bytes);
        // Last in, first out.
        tasks.reverse();

        let entries = std::mem::take(&mut known.entries);
        let mut pushing = Pushing {
            push: self,
            known: &entries,
            sent: Vec::new(),
            sent_entries: HashMap::new(),
            claimed: Mutex::default(),
            packs: Mutex::default(),
            recipes: Mutex::default(),
        };
        if !tasks.is_empty() {
            pushing.resume()?;
        }
        let pushing = pushing;
        // Few bytes make one pack, not one for each thread.
        let packs = usize::try_from(report.content_bytes / PACK_BYTES).unwrap_or(usize::MAX);
        let threads = operation.jobs().min(MOST_JOBS).min(packs.saturating_add(1));
        let threads = operation.with_jobs(threads);
        let workers = pool::run(
            &threads,
            (Operation::Push, store.path()),
            tasks,
            |_| Pusher { intake: Intake::new(), open: None, unsent: (0, 0) },
            |pusher, (id, size), queue| {
                pushing.push_one(pusher, id, size, &|| queue.stopped())?;
                pusher.unsent.0 += 1;
                pusher.unsent.1 += size;
                pusher.count(operation);
                Ok(())
            },
        )?;
        for mut pusher in workers {
            pushing.finish(&mut pusher)?;
            pusher.count(operation);
        }
        let new = lock(&pushing.packs).clone();
        report.packs = new.len() as u64;
        known.packs.extend(new);
        for sent in pushing.sent.iter().filter(|sent| sent.used.load(Relaxed)) {
            report.resumed_packs += 1;
            known.packs.push(sent.pack);
        }
        let mut parts = Parts::default();
        for id in directories {
            operation.check(Operation::Push, store.path())?;
            let encoding = store.catalog().encoding(id)?;
            let encoding = encoding.map_err(|why| lost(store, format!("directory {id}: {why}")))?;
            let part = parts.add(&encoding);
            remote.put_part(part, &mut known.directories)?;
        }
        remote.put_part(parts.finish(), &mut known.directories)?;
        for recipe in lock(&pushing.recipes).iter() {
            let part = parts.add(&recipe.encode());
            remote.put_part(part, &mut known.recipes)?;
        }
        remote.put_part(parts.finish(), &mut known.recipes)?;
        let KnownThere { packs, directories, recipes, .. } = known;
        Ok(Record { snapshot: self.object.encode(), packs, directories, recipes })
    }

    /// Whether a name means a snapshot already, with this list of paths and this signature.
    fn is_named(
        &self,
        name: &str,
        found: Option<BlobId>,
        report: &mut PushReport,
    ) -> Result<bool, Error> {
        if let Some(sequence) = self.remote.newest(name, 0)?
            && let Ok(Some((named, signers))) = self.remote.named(name, sequence)
            && named.snapshot == self.id
            && named.found == found
            && self.options.key.as_ref().is_none_or(|key| signers.contains(&key.public()))
        {
            report.sequence = Some(sequence);
            report.unchanged = true;
            self.remember_if_can(&named, &signers)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives a name to a snapshot whose record is there.
    fn give_name(
        &self,
        name: &str,
        found: Option<BlobId>,
        report: &mut PushReport,
    ) -> Result<(), Error> {
        let Self { remote, options, .. } = *self;
        let encoded = name::encoded(name)?;
        for _ in 0..NAME_TRIES {
            let there = remote.sequences(name)?;
            let last = there.iter().max().copied();
            // Should the remote have been set back, those who remember must still believe the next.
            let seen = remote.seen(self.store, &encoded)?.map(|(sequence, _)| sequence);
            let next = last.max(seen).unwrap_or(0).checked_add(1);
            let key = name::key_of(&encoded, next.unwrap_or(u64::MAX));
            let sequence =
                next.ok_or_else(|| remote.damaged(&key, "no number follows this one"))?;
            let made = now().0;
            let named = |sequence| Named {
                remote: remote.place.id.clone(),
                name: name.to_owned(),
                sequence,
                snapshot: self.id,
                made,
                found,
            };
            // All but the last one are there, unless the remote was set back or somebody removed
            // some.
            for step in steps::to(sequence) {
                if step != sequence && !there.contains(&step) {
                    let key = name::key_of(&encoded, step);
                    let text = named(step).encode(options.key.as_ref());
                    remote.create(Operation::Push, &key, text.as_bytes())?;
                }
            }
            let named = named(sequence);
            let text = named.encode(options.key.as_ref());
            let made = remote.create(Operation::Push, &key, text.as_bytes())?;
            // The answer to an attempt that succeeded may have been lost.
            if made
                || remote.read(&key, super::NAME_MOST_BYTES)?.as_deref() == Some(text.as_bytes())
            {
                report.sequence = Some(sequence);
                let signers: Vec<_> = options.key.iter().map(SigningKey::public).collect();
                return self.remember_if_can(&named, &signers);
            }
            if self.is_named(name, found, report)? {
                return Ok(());
            }
        }
        let cause = io::Error::new(
            io::ErrorKind::ResourceBusy,
            "others change this name all the time; push again",
        );
        Err(Error::new(ErrorKind::Busy, Operation::Push, remote.at(&encoded), cause))
    }

    fn remember_if_can(&self, named: &Named, signers: &[PublicKey]) -> Result<(), Error> {
        match self.store.is_read_only() {
            true => Ok(()),
            false => self.remote.remember(self.store, named, signers),
        }
    }

    /// Sends the list of files that name the project's root, if the store has one. Returns its id
    /// and its size.
    fn send_found(&self) -> Result<Option<(BlobId, u64)>, Error> {
        let path = self.store.layout().found(self.id);
        let there = read_plain(CWD, &path, FOUND_MOST_BYTES).if_there();
        let Some(mut bytes) = there.context(Operation::Read, || &path)? else { return Ok(None) };
        if Found::decode(&bytes).is_none() {
            // As for a worktree of this store.
            bytes = self.store.snapshots().found(self.id, self.object)?.encode();
        }
        let id = BlobId::of(&bytes);
        self.remote.put(&found_key(id), &bytes)?;
        Ok(Some((id, bytes.len() as u64)))
    }
}

/// Whether an object of the remote is not what its key says.
fn is_damage(error: &Error) -> bool {
    error.kind() == ErrorKind::Damaged && error.operation() == Operation::ReadRemote
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::ops::Range;
    use std::sync::{Arc, Condvar};

    use super::super::RemotePlace;
    use super::super::folder::RemoteFolder;
    use super::super::objects::{ListedObject, Objects, Patient, Source};
    use super::super::underway::AnnouncementTimes;
    use super::lacking::keep_first;
    use super::*;
    use crate::store::SnapshotOptions;

    #[test]
    fn of_each_content_the_first_one_stays_where_it_is() {
        let content = |number: u8, size| (BlobId::from_bytes([number; 32]), size);
        for (all, expected) in [
            (vec![], vec![]),
            (vec![content(2, 5), content(1, 5)], vec![content(2, 5), content(1, 5)]),
            (
                vec![content(3, 1), content(1, 2), content(3, 9), content(2, 4), content(1, 2)],
                vec![content(3, 1), content(1, 2), content(2, 4)],
            ),
            (vec![content(1, 1); 4], vec![content(1, 1)]),
        ] {
            let mut contents = all;
            keep_first(&mut contents);
            assert_eq!(contents, expected);
        }
    }

    /// How many reads are under way at once, and how many were at most.
    #[derive(Debug, Default)]
    struct Count {
        now: usize,
        most: usize,
    }

    #[derive(Debug, Default)]
    struct Reads {
        count: Mutex<Count>,
        came: Condvar,
    }

    /// A folder where each read of a pack or a part lasts until `wanted` of the kind have been
    /// under way at once.
    #[derive(Debug)]
    struct Slow {
        folder: RemoteFolder,
        wanted: usize,
        packs: Reads,
        parts: Reads,
    }

    impl Slow {
        fn reading<T>(&self, reads: &Reads, read: impl FnOnce() -> T) -> T {
            let mut count = lock(&reads.count);
            count.now += 1;
            count.most = count.most.max(count.now);
            reads.came.notify_all();
            let patience = Duration::from_secs(60);
            let waits = |count: &mut Count| count.most < self.wanted;
            let (count, wait) = reads.came.wait_timeout_while(count, patience, waits).unwrap();
            assert!(!wait.timed_out(), "{count:?} of {}", self.wanted);
            drop(count);
            let result = read();
            lock(&reads.count).now -= 1;
            result
        }
    }

    impl Source for Arc<Slow> {
        fn get_into(&self, key: &str, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
            self.reading(&self.packs, || self.folder.get_into(key, range, into))
        }

        fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>> {
            match key.starts_with("parts/") {
                true => self.reading(&self.parts, || self.folder.read(key, most)),
                false => self.folder.read(key, most),
            }
        }

        fn size(&self, key: &str) -> io::Result<u64> {
            self.folder.size(key)
        }
    }

    impl Objects for Arc<Slow> {
        fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
            self.folder.create(key, content)
        }

        fn list(&self, prefix: &str, each: &mut dyn FnMut(ListedObject)) -> io::Result<()> {
            self.folder.list(prefix, each)
        }

        fn remove(&self, key: &str) -> io::Result<()> {
            self.folder.remove(key)
        }
    }

    fn remote(objects: Patient) -> Remote {
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let place = RemotePlace {
            url: "file:///slow".to_owned(),
            id,
            objects,
            times: AnnouncementTimes::USUAL,
        };
        Remote { place: Arc::new(place), keys: Vec::new() }
    }

    #[test]
    fn a_push_that_does_not_know_the_names_snapshot_reads_many_indexes_at_once() {
        const PUSHES: usize = ASKERS + 2;
        let [place, here, there] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let few = StoreOptions::new().jobs(NonZeroUsize::MIN);
        let stores = [&here, &there].map(|project| Store::init(project.path()).unwrap());
        let snapshot = |store: &Store| store.snapshot(&SnapshotOptions::new(), &few).unwrap().id;
        let named = PushOptions::new().name("ready");
        for number in 0..PUSHES {
            // Each push adds a pack and a part.
            for project in [&here, &there] {
                let folder = project.path().join(format!("{number}"));
                std::fs::create_dir(&folder).unwrap();
                std::fs::write(folder.join("a"), format!("content {number}")).unwrap();
            }
            let folder = RemoteFolder::new(place.path().to_owned());
            let remote = remote(Patient::new(Box::new(folder)));
            remote.push(&stores[0], snapshot(&stores[0]), &named, &few).unwrap();
        }
        for (jobs, wanted) in [(NonZeroUsize::new(3), 3), (None, ASKERS)] {
            std::fs::write(there.path().join("more"), format!("only here, {wanted}")).unwrap();
            let id = snapshot(&stores[1]);
            let slow = Arc::new(Slow {
                folder: RemoteFolder::new(place.path().to_owned()),
                wanted,
                packs: Reads::default(),
                parts: Reads::default(),
            });
            let remote = remote(Patient::new(Box::new(Arc::clone(&slow))));
            let options = StoreOptions::new();
            let options = jobs.map_or(options.clone(), |jobs| options.jobs(jobs));
            // Not under the name: the next row must not know its last snapshot, either.
            let object = stores[1].catalog().object(id).unwrap();
            let operation = &options.operation();
            let (remote, store, object, options) = (&remote, &stores[1], &object, &named);
            let push = Push { remote, store, id, object, options, operation };
            let known = push.known(&HashSet::new()).unwrap();
            assert_eq!(known.packs.len(), PUSHES, "{jobs:?}");
            let Lacking { directories, contents } = push.lacking(&known).unwrap();
            let is_new = |(id, _): &&(BlobId, u64)| !known.entries.contains(id);
            assert_eq!(contents.iter().filter(is_new).count(), 1, "{jobs:?}");
            assert!(!directories.is_empty(), "{jobs:?}");
            for reads in [&slow.packs, &slow.parts] {
                let Count { now, most } = *lock(&reads.count);
                assert_eq!((now, most), (0, wanted), "{jobs:?}");
            }
        }
    }
}

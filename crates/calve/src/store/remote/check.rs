//! Reads a whole remote and says which snapshots can be pulled.
//!
//! The objects that records name are read in ranges and compared with their hashes. From the parts
//! and the indexes of the packs calve then knows where each directory and content is, and follows
//! each snapshot from its root: everything must be in the objects that its own record names, since
//! a pull looks for it there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::StoreOptions;
use super::super::id::{BlobId, DirectoryId, SnapshotId, from_hex};
use super::super::object::{Kind, SnapshotObject, decode_directory};
use super::super::paths::found::FOUND_MOST_BYTES;
use super::push::LARGE_BYTES;
use super::record::{ObjectId, PackRef, PartRef, Recipe};
use super::{Remote, found_key, name, pack_key, part_key, snapshot_key, steps};
use crate::error::{Error, ErrorKind, Operation};
use crate::macros::{named, setters};
use crate::tree::pool::lock;
use crate::tree::running::Running;

/// How many requests are under way at once, unless the caller says otherwise.
const JOBS: usize = 12;
/// So much of a pack is read at once.
const RANGE_BYTES: u64 = 4 << 20;

/// How thoroughly [`Remote::verify`] looks; built by value.
#[derive(Debug, Clone, Default)]
pub struct RemoteVerifyOptions {
    quick: bool,
}

setters! { RemoteVerifyOptions:
    /// It reads everything.
    pub fn new(),
    /// Whether it reads only names and records, and of other objects compares their sizes with a
    /// list of the remote. It finds what is gone or cut off, with a few requests, but neither wrong
    /// bytes nor a record that does not name everything.
    pub quick: bool,
}

named! {
    /// What is wrong with an object of a remote.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum RemoteDamageKind {
        /// It is needed and not there.
        Missing = "missing",
        /// It is not what its name says.
        Damaged = "damaged",
        /// A record does not name everything that its snapshot needs.
        Incomplete = "incomplete",
    }
}

/// Damage on a remote.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteDamage {
    /// What is wrong.
    pub kind: RemoteDamageKind,
    /// The object's URL.
    pub path: PathBuf,
    /// What is wrong, in words.
    pub reason: String,
    /// The snapshots that cannot be pulled because of it.
    pub snapshots: Vec<SnapshotId>,
}

/// A snapshot that cannot be pulled.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteBroken {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The names that mean it now.
    pub names: Vec<String>,
}

/// What [`Remote::verify`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RemoteVerifyReport {
    /// Changes of names that were read.
    pub changes: u64,
    /// Those of which [`Remote::gc`] has left nothing else; see
    /// [`RemoteName::collected`](super::RemoteName::collected).
    pub collected: u64,
    /// Snapshots that can be pulled.
    pub whole: Vec<SnapshotId>,
    /// Snapshots that cannot be pulled.
    pub broken: Vec<RemoteBroken>,
    /// Objects that records name, and their sizes, in bytes.
    pub objects: u64,
    /// See `objects`.
    pub object_bytes: u64,
    /// Objects that no record and no name needs, and their sizes, in bytes. A push that is under
    /// way or died made them, or [`Remote::gc`] will remove them.
    pub unreferenced: u64,
    /// See `unreferenced`.
    pub unreferenced_bytes: u64,
    /// Objects among calve's whose keys are none of calve's.
    pub unknown: Vec<PathBuf>,
    /// All damage.
    pub damage: Vec<RemoteDamage>,
    /// How many requests it took, and how many bytes arrived.
    pub requests: u64,
    /// See `requests`.
    pub received_bytes: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// An object, as a record names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Object {
    Pack(PackRef),
    Directories(PartRef),
    Recipes(PartRef),
}

impl Object {
    fn key(&self) -> String {
        match self {
            Self::Pack(pack) => pack_key(pack.id),
            Self::Directories(part) | Self::Recipes(part) => part_key(part.id),
        }
    }

    fn length(&self) -> u64 {
        match self {
            Self::Pack(pack) => pack.length,
            Self::Directories(part) | Self::Recipes(part) => part.length,
        }
    }
}

/// What a directory has in it, as far as it must be somewhere.
#[derive(Debug, Default)]
struct Children {
    directories: Box<[DirectoryId]>,
    /// Contents that are entries of packs: the number of the first entry. There may be millions.
    entries: Box<[u32]>,
    /// All others, with their sizes: they are in chunks, or nowhere.
    others: Box<[(BlobId, u64)]>,
}

/// An entry of a pack, its size, and the pack's number.
type PackEntry = (BlobId, u64, u32);

/// What the good objects have. The objects have numbers.
#[derive(Default)]
struct GoodObjects {
    numbers: HashMap<Object, u32>,
    directories: HashMap<DirectoryId, (Children, Vec<u32>)>,
    /// Sorted when all are known. There may be millions.
    entries: Vec<PackEntry>,
    recipes: HashMap<BlobId, Vec<(u32, Recipe)>>,
}

/// What a record says.
struct CheckedRecord {
    id: SnapshotId,
    object: SnapshotObject,
    objects: HashSet<Object>,
}

/// A change of a name.
struct CheckedChange {
    name: String,
    sequence: u64,
    snapshot: SnapshotId,
    /// The list of files that name the root.
    found: Option<ObjectId>,
    /// Whether no collector can have removed the snapshot, and left the change as a step.
    keeps_snapshot: bool,
}

/// What is wrong, by key.
type Wrong = BTreeMap<String, (RemoteDamageKind, String, BTreeSet<SnapshotId>)>;

/// Adds damage. The first reason stays.
fn add(
    wrong: &mut Wrong,
    key: String,
    kind: RemoteDamageKind,
    why: String,
    snapshot: Option<SnapshotId>,
) {
    wrong.entry(key).or_insert((kind, why, BTreeSet::new())).2.extend(snapshot);
}

/// The reason, if an error is about the object itself and not about reaching it.
fn reason(error: Error) -> Result<String, Error> {
    match error.kind() {
        ErrorKind::Damaged => Ok(error.io_error().to_string()),
        _ => Err(error),
    }
}

impl GoodObjects {
    /// The number of an object that is read; all of those have one.
    fn number(&self, object: Object) -> u32 {
        self.numbers.get(&object).copied().unwrap_or_default()
    }

    /// Follows a snapshot from its root. The error says what its record does not lead to.
    fn follow(&self, record: &CheckedRecord) -> Result<(), String> {
        let Kind::Directory(root) = record.object.root.kind else {
            return Err("the snapshot's root is no directory".to_owned());
        };
        let mut own = vec![false; self.numbers.len()];
        for number in record.objects.iter().filter_map(|object| self.numbers.get(object)) {
            own[*number as usize] = true;
        }
        let is_own = |number: &u32| own[*number as usize];
        let leads_on = |first: usize| {
            let (id, size, _) = self.entries[first];
            let places = self.entries[first..].iter();
            let mut places = places.take_while(|(other, there, _)| (*other, *there) == (id, size));
            places.any(|(.., object)| is_own(object))
        };
        let has = |id: BlobId, size: u64| first(&self.entries, id, size).is_some_and(leads_on);
        let without = |id: &BlobId| Err(format!("it leads to no object with content {id}"));
        let (mut seen, mut waiting) = (HashSet::from([root]), vec![root]);
        while let Some(id) = waiting.pop() {
            let children = match self.directories.get(&id) {
                Some((children, objects)) if objects.iter().any(is_own) => children,
                _ => return Err(format!("it leads to no object with directory {id}")),
            };
            waiting.extend(children.directories.iter().filter(|id| seen.insert(**id)));
            for number in &children.entries {
                if !leads_on(*number as usize) {
                    return without(&self.entries[*number as usize].0);
                }
            }
            for (id, size) in &children.others {
                let recipes = self.recipes.get(id).map_or(&[][..], Vec::as_slice);
                let leads_there = |(object, recipe): &(u32, Recipe)| {
                    is_own(object)
                        && recipe.size() == *size
                        && recipe.chunks.iter().all(|(id, size)| has(*id, *size))
                };
                let is_there = match *size > LARGE_BYTES {
                    false => has(*id, *size),
                    true => recipes.iter().any(leads_there),
                };
                if !is_there {
                    return without(id);
                }
            }
        }
        Ok(())
    }
}

/// What is wrong with objects, whichever snapshots need them.
type BadObjects = HashMap<Object, (RemoteDamageKind, String)>;

/// The objects that are not there with all their bytes. `listed` are those that are there, with
/// their sizes.
fn missing_or_cut(objects: &HashSet<Object>, listed: &HashMap<String, u64>) -> BadObjects {
    let mut bad = BadObjects::new();
    for object in objects {
        let why = match listed.get(&object.key()) {
            None => (RemoteDamageKind::Missing, "it is gone from the remote".to_owned()),
            Some(size) if *size != object.length() => {
                (RemoteDamageKind::Damaged, format!("it has {size} bytes, not {}", object.length()))
            }
            Some(_) => continue,
        };
        bad.insert(*object, why);
    }
    bad
}

/// Whether a snapshot can be pulled. Adds what is wrong with it.
fn is_whole(
    record: &CheckedRecord,
    bad: &BadObjects,
    index: Option<&GoodObjects>,
    wrong: &mut Wrong,
) -> bool {
    let mut is_whole = true;
    for object in record.objects.iter().filter(|object| bad.contains_key(*object)) {
        let (kind, why) = bad[object].clone();
        add(wrong, object.key(), kind, why, Some(record.id));
        is_whole = false;
    }
    if is_whole && let Some(Err(why)) = index.map(|index| index.follow(record)) {
        let key = snapshot_key(record.id);
        add(wrong, key, RemoteDamageKind::Incomplete, why, Some(record.id));
        return false;
    }
    is_whole
}

impl CheckedChange {
    /// Why it is damage that the remote lacks the snapshot.
    fn is_gone(&self, latest: &BTreeMap<&str, (u64, SnapshotId)>) -> String {
        let Self { name, sequence, .. } = self;
        let means = match latest.get(name.as_str()) {
            Some((last, _)) if last == sequence => format!("the name '{name}' means it"),
            _ => format!("change {sequence} of the name '{name}' gave it that name"),
        };
        format!("the snapshot is gone from the remote; {means}")
    }
}

/// The newest change of each name: its number, and the snapshot that it gave the name.
fn latest(changes: &[CheckedChange]) -> BTreeMap<&str, (u64, SnapshotId)> {
    let mut latest = BTreeMap::new();
    for CheckedChange { name, sequence, snapshot, .. } in changes {
        let last = latest.entry(name.as_str()).or_insert((*sequence, *snapshot));
        *last = (*last).max((*sequence, *snapshot));
    }
    latest
}

/// The number of the first entry with this id and size.
fn first(entries: &[PackEntry], id: BlobId, size: u64) -> Option<usize> {
    let at = entries.partition_point(|(other, there, _)| (*other, *there) < (id, size));
    entries.get(at).is_some_and(|(other, there, _)| (*other, *there) == (id, size)).then_some(at)
}

impl Remote {
    /// Reads everything that the records of the remote name, compares it with its hashes, and says
    /// which snapshots can be pulled. It changes nothing. Others may push, pull and collect
    /// meanwhile.
    ///
    /// The contents inside of a pack are not unpacked: a pack with the right hash has the bytes
    /// that were pushed, and each pull compares each content with its own hash. Signatures are not
    /// checked, either; see [`RemoteName::signers`](super::RemoteName::signers).
    ///
    /// Each of at most twelve threads has 4 MiB of a pack, or one part, in memory; beside that
    /// calve keeps about 60 bytes for each different file, and 200 for each directory, of all
    /// snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`]; [`ErrorKind::RemoteUnfit`] if the remote is a web server; those of
    /// every operation, see [`Remote`], except [`ErrorKind::Damaged`]: the report lists damage.
    pub fn verify(
        &self,
        options: &RemoteVerifyOptions,
        common: &StoreOptions,
    ) -> Result<RemoteVerifyReport, Error> {
        let started = Instant::now();
        self.must_be_kept(Operation::ListRemote)?;
        let before = self.objects().traffic.so_far();
        let running = &common.operation().usually(JOBS);
        let mut report = RemoteVerifyReport::default();
        let mut wrong = Wrong::new();

        // Names before records before objects: what a name or record needs was there before it.
        let changes = self.read_changes(&mut report, &mut wrong, running)?;
        let (records, broken) = self.read_records(&mut report, &mut wrong, running)?;
        let mut broken: BTreeSet<SnapshotId> = broken.into_iter().collect();
        let mut listed = self.list_objects(&mut report)?;
        let objects: HashSet<Object> =
            records.iter().flat_map(|record| record.objects.iter().copied()).collect();
        report.objects = objects.len() as u64;
        report.object_bytes = objects.iter().map(Object::length).sum();
        let mut bad = missing_or_cut(&objects, &listed);
        let index = match options.quick {
            true => None,
            false => Some(self.read_objects(&objects, &mut bad, running)?),
        };
        for record in &records {
            if is_whole(record, &bad, index.as_ref(), &mut wrong) {
                report.whole.push(record.id);
            } else {
                broken.insert(record.id);
            }
        }
        let there: HashSet<SnapshotId> = records.iter().map(|record| record.id).collect();
        let latest = latest(&changes);
        for change in &changes {
            let CheckedChange { snapshot, found, keeps_snapshot, .. } = change;
            if !there.contains(snapshot) && !broken.contains(snapshot) {
                if !keeps_snapshot {
                    report.collected += 1;
                    continue;
                }
                let (key, why) = (snapshot_key(*snapshot), change.is_gone(&latest));
                add(&mut wrong, key, RemoteDamageKind::Missing, why, Some(*snapshot));
            }
            // Another name may need the snapshot, and not this list.
            let is_needed =
                |id: &&ObjectId| *keeps_snapshot || listed.contains_key(&found_key(**id));
            if let Some(found) = found.as_ref().filter(is_needed) {
                self.verify_found(*found, &listed, options, &mut wrong)?;
                listed.remove(&found_key(*found));
            }
        }
        // A collector may have removed a snapshot while it was read.
        self.forget_collected(&changes, &mut wrong, &mut broken)?;
        broken.extend(wrong.values().flat_map(|(.., snapshots)| snapshots));
        for object in &objects {
            listed.remove(&object.key());
        }
        report.unreferenced = listed.len() as u64;
        report.unreferenced_bytes = listed.values().sum();
        report.broken = broken
            .into_iter()
            .map(|snapshot| {
                let is_it = |(_, (_, id)): &(&&str, &(u64, SnapshotId))| *id == snapshot;
                let names = latest.iter().filter(is_it).map(|(name, _)| (*name).to_owned());
                RemoteBroken { snapshot, names: names.collect() }
            })
            .collect();
        report.whole.sort_unstable();
        report.damage = self.damage(wrong);
        [report.requests, _, report.received_bytes] = self.objects().traffic.since(before);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    fn damage(&self, wrong: Wrong) -> Vec<RemoteDamage> {
        let one = |(key, (kind, reason, snapshots)): (String, (_, _, BTreeSet<_>))| RemoteDamage {
            kind,
            path: self.at(&key),
            reason,
            snapshots: snapshots.into_iter().collect(),
        };
        wrong.into_iter().map(one).collect()
    }

    /// The packs, parts and lists that are there, with their sizes.
    fn list_objects(&self, report: &mut RemoteVerifyReport) -> Result<HashMap<String, u64>, Error> {
        let mut listed = HashMap::new();
        for folder in ["packs/", "parts/", "found/"] {
            for one in self.list(folder)? {
                if one.key.strip_prefix(folder).and_then(from_hex).is_some() {
                    listed.insert(one.key, one.size);
                } else {
                    report.unknown.push(self.at(&one.key));
                }
            }
        }
        Ok(listed)
    }

    fn read_changes(
        &self,
        report: &mut RemoteVerifyReport,
        wrong: &mut Wrong,
        running: &Running,
    ) -> Result<Vec<CheckedChange>, Error> {
        let mut tasks = Vec::new();
        for one in self.list("names/")? {
            match name::of_key(&one.key) {
                Some(change) => tasks.push((change, one.key)),
                None => report.unknown.push(self.at(&one.key)),
            }
        }
        report.changes = tasks.len() as u64;
        let mut numbers: HashMap<String, Vec<u64>> = HashMap::new();
        for ((name, sequence), _) in &tasks {
            numbers.entry(name.clone()).or_default().push(*sequence);
        }
        let lowest: HashMap<String, u64> = numbers
            .into_iter()
            .map(|(name, numbers)| (name, steps::lowest_kept(numbers.iter().copied())))
            .collect();
        let (changes, wrong) = (Mutex::new(Vec::new()), Mutex::new(wrong));
        self.each(Operation::ReadRemote, running, tasks, |((name, sequence), key)| {
            match self.named(&name, sequence) {
                Ok(Some((named, _))) => {
                    let (snapshot, found) = (named.snapshot, named.found);
                    let keeps_snapshot = lowest.get(&name).is_none_or(|lowest| sequence >= *lowest);
                    let change = CheckedChange { name, sequence, snapshot, found, keeps_snapshot };
                    lock(&changes).push(change);
                }
                Ok(None) => {}
                Err(error) => {
                    let why = reason(error)?;
                    add(&mut lock(&wrong), key, RemoteDamageKind::Damaged, why, None);
                }
            }
            Ok(())
        })?;
        Ok(changes.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The records that can be read, and the snapshots of the others.
    fn read_records(
        &self,
        report: &mut RemoteVerifyReport,
        wrong: &mut Wrong,
        running: &Running,
    ) -> Result<(Vec<CheckedRecord>, Vec<SnapshotId>), Error> {
        let mut tasks = Vec::new();
        for one in self.list("snapshots/")? {
            match one.key.strip_prefix("snapshots/").and_then(from_hex) {
                Some(id) => tasks.push(SnapshotId::from_bytes(id)),
                None => report.unknown.push(self.at(&one.key)),
            }
        }
        let read = Mutex::new((Vec::new(), Vec::new(), wrong));
        self.each(Operation::ReadRemote, running, tasks, |id| {
            match self.record(id) {
                Ok(Some((record, object))) => {
                    let packs = record.packs.into_iter().map(Object::Pack);
                    let directories = record.directories.into_iter().map(Object::Directories);
                    let recipes = record.recipes.into_iter().map(Object::Recipes);
                    let objects = packs.chain(directories).chain(recipes).collect();
                    lock(&read).0.push(CheckedRecord { id, object, objects });
                }
                Ok(None) => {}
                Err(error) => {
                    let (why, mut read) = (reason(error)?, lock(&read));
                    read.1.push(id);
                    add(read.2, snapshot_key(id), RemoteDamageKind::Damaged, why, Some(id));
                }
            }
            Ok(())
        })?;
        let (records, broken, _) = read.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok((records, broken))
    }

    /// Reads all objects that are not bad yet: the packs first, since what directories have is then
    /// known by numbers of entries.
    fn read_objects(
        &self,
        objects: &HashSet<Object>,
        bad: &mut BadObjects,
        running: &Running,
    ) -> Result<GoodObjects, Error> {
        let tasks = objects.iter().filter(|object| !bad.contains_key(*object)).copied();
        let (packs, parts): (Vec<Object>, Vec<Object>) =
            tasks.partition(|object| matches!(object, Object::Pack(_)));
        running.expect((packs.len() + parts.len()) as u64);
        let numbers = objects.iter().copied().zip(0..).collect();
        let index = Mutex::new(GoodObjects { numbers, ..GoodObjects::default() });
        let bad = Mutex::new(bad);
        for tasks in [packs, parts] {
            self.each(Operation::ReadRemote, running, tasks, |object| {
                let read = match object {
                    Object::Pack(pack) => self.read_pack(pack, running, &index),
                    Object::Directories(part) => self.read_directories(part, &index),
                    Object::Recipes(part) => self.read_recipes(part, &index),
                };
                if let Err(error) = read {
                    let is_gone = error.io_error().kind() == io::ErrorKind::NotFound;
                    let kind = match is_gone {
                        true => RemoteDamageKind::Missing,
                        false => RemoteDamageKind::Damaged,
                    };
                    lock(&bad).insert(object, (kind, reason(error)?));
                }
                running.file_done(object.length());
                Ok(())
            })?;
            // For `first`. After the parts nothing is left to do.
            lock(&index).entries.sort_unstable();
        }
        Ok(index.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_pack(
        &self,
        pack: PackRef,
        running: &Running,
        index: &Mutex<GoodObjects>,
    ) -> Result<(), Error> {
        let key = pack_key(pack.id);
        let (mut hasher, mut at, mut bytes) = (blake3::Hasher::new(), 0, Vec::new());
        while at < pack.length {
            running.check(Operation::ReadRemote, self.url().as_ref())?;
            let end = pack.length.min(at + RANGE_BYTES);
            self.range(&key, at..end, &mut bytes)?;
            hasher.update(&bytes);
            at = end;
        }
        if hasher.finalize().as_bytes() != pack.id.as_bytes() {
            return Err(self.damaged(&key, "it has another hash than its name"));
        }
        drop(bytes);
        let number = lock(index).number(Object::Pack(pack));
        let mut entries = Vec::new();
        self.index(pack, |id, at| entries.push((id, at.size, number)))?;
        lock(index).entries.extend(entries);
        Ok(())
    }

    fn read_directories(&self, part: PartRef, index: &Mutex<GoodObjects>) -> Result<(), Error> {
        let number = lock(index).number(Object::Directories(part));
        self.part(part, |item| {
            let entries = decode_directory(item)?;
            let (id, mut index) = (DirectoryId::of(item), lock(index));
            if let Some((_, objects)) = index.directories.get_mut(&id) {
                objects.push(number);
                return Ok(());
            }
            let (mut directories, mut numbers, mut others) = (Vec::new(), Vec::new(), Vec::new());
            for entry in entries {
                match entry.kind {
                    Kind::Directory(id) => directories.push(id),
                    Kind::File { size: size @ 1.., blob, .. } => {
                        let at = first(&index.entries, blob, size).filter(|_| size <= LARGE_BYTES);
                        match at.and_then(|at| u32::try_from(at).ok()) {
                            Some(at) => numbers.push(at),
                            None => others.push((blob, size)),
                        }
                    }
                    _ => {}
                }
            }
            let children = Children {
                directories: directories.into(),
                entries: numbers.into(),
                others: others.into(),
            };
            index.directories.insert(id, (children, vec![number]));
            Ok(())
        })
    }

    fn read_recipes(&self, part: PartRef, index: &Mutex<GoodObjects>) -> Result<(), Error> {
        let mut recipes = Vec::new();
        self.part(part, |item| {
            recipes.push(Recipe::decode(item)?);
            Ok(())
        })?;
        let mut index = lock(index);
        let number = index.number(Object::Recipes(part));
        for recipe in recipes {
            index.recipes.entry(recipe.content).or_default().push((number, recipe));
        }
        Ok(())
    }

    /// Looks at the list of files that name the root, which belongs to a change of a name. Without
    /// it the snapshot can be pulled all the same.
    fn verify_found(
        &self,
        id: ObjectId,
        listed: &HashMap<String, u64>,
        options: &RemoteVerifyOptions,
        wrong: &mut Wrong,
    ) -> Result<(), Error> {
        let key = found_key(id);
        if options.quick && listed.contains_key(&key) || wrong.contains_key(&key) {
            return Ok(());
        }
        let (kind, why) = match self.read(&key, FOUND_MOST_BYTES) {
            Ok(Some(bytes)) if BlobId::of(&bytes) == id => return Ok(()),
            Ok(Some(_)) => (RemoteDamageKind::Damaged, "it has another hash".to_owned()),
            Ok(None) => (RemoteDamageKind::Missing, "it is gone from the remote".to_owned()),
            Err(error) => (RemoteDamageKind::Damaged, reason(error)?),
        };
        add(wrong, key, kind, why, None);
        Ok(())
    }

    /// Takes those snapshots out of the damage that were removed since they were listed.
    fn forget_collected(
        &self,
        changes: &[CheckedChange],
        wrong: &mut Wrong,
        broken: &mut BTreeSet<SnapshotId>,
    ) -> Result<(), Error> {
        // A link or a pipe in the place of an object means that nobody removed the object.
        let is_there = |key: &str| match self.is_there(key) {
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(true),
            answer => answer,
        };
        let concerned: BTreeSet<SnapshotId> =
            wrong.values().flat_map(|(.., snapshots)| snapshots.iter().copied()).collect();
        for id in concerned {
            let mut is_needed = is_there(&snapshot_key(id))?;
            for change in changes.iter().filter(|one| one.snapshot == id && one.keeps_snapshot) {
                is_needed |=
                    is_there(&name::key_of(&name::encoded(&change.name)?, change.sequence))?;
            }
            if !is_needed {
                broken.remove(&id);
                wrong.retain(|_, (.., snapshots)| {
                    let was = snapshots.remove(&id);
                    !(was && snapshots.is_empty())
                });
            }
        }
        Ok(())
    }
}

//! Brings a snapshot from a remote into a store: first the directories, then the contents that the
//! store lacks, by ranged reads of packs.
//!
//! # What is durable when
//! Every content is compared with its hash as it arrives, and gets its name among the mirrors then.
//! When all are there, they are flushed, sealed, and the snapshot's row is written. So a snapshot
//! that the store knows is whole. After a pull that failed or was killed, the store does not know
//! the snapshot. What arrived stays until the store's next `gc`, and the next pull finds it.
//!
//! A checkout pulls into a store that is still in a stage: there the mirrors are sealed as they
//! arrive, and flushed before the store gets its place.
//!
//! # Where a content is
//! The record names the packs in the order in which they were pushed. What this store lacks is
//! mostly in the last ones, so their indexes are read first, and no more of them than needed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{self, CWD, Mode, OFlags};

use super::super::blobs::{Intake, Noted};
use super::super::catalog::{Based, Origin};
use super::super::freeing::taking_in;
use super::super::id::{BlobId, DirectoryId, SnapshotId, from_hex};
use super::super::object::{Kind, SnapshotObject};
use super::super::pack::Pack;
use super::super::paths::found::{FOUND_MOST_BYTES, Found};
use super::super::snapshot::check_name;
use super::super::snapshot::record::{FoundList, Recording};
use super::super::sparse::SparseWriter;
use super::super::{Store, StoreOptions};
use super::name::{self, PublicKey, VouchedName};
use super::push::LARGE_BYTES;
use super::record::{PackRef, PartRef, Recipe, Record};
use super::{Remote, found_key, pack_key};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::imp::{NEW_FILE_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta;
use crate::tree::pool::{self, Queue, lock};
use crate::tree::running::Running;
use crate::tree::staging::{StagedFile, flush_filesystem};

mod local;

use local::{LocalExtent, LocalWalk};

mod wanted;

use wanted::{Fetch, Large, WantedEntries, number_of, ranges};

/// How many requests are under way at once, unless the caller says otherwise.
const JOBS: usize = 12;
/// How many indexes of packs are fetched at once.
const INDEXES: usize = 16;
/// How often a pull starts over because an object vanished or arrived damaged.
const TRIES: u32 = 3;
/// After each so many bytes, one thread flushes the filesystem.
const FLUSH_BYTES: u64 = 32 << 20;

/// What a pull does; built by value.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    name: Option<String>,
}

setters! { PullOptions:
    /// Gives the snapshot no name in the store.
    pub fn new(),
    /// Gives the snapshot this name in the store; if another snapshot has that name, it moves.
    pub name: impl Into<String> = Some(name.into()),
}

/// What [`Remote::pull`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PullReport {
    /// The snapshot, which the store has now.
    pub snapshot: SnapshotId,
    /// How often the remote's name was given. `None` if the snapshot was asked for by its id.
    pub sequence: Option<u64>,
    /// The configured keys that vouch for the name.
    pub signers: Vec<PublicKey>,
    /// Contents that the snapshot needs.
    pub contents: u64,
    /// Those that the store lacked, and their sizes, in bytes.
    pub fetched: u64,
    /// See `fetched`.
    pub fetched_bytes: u64,
    /// What was received, in bytes, and how many requests it took.
    pub received_bytes: u64,
    /// See `received_bytes`.
    pub requests: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// Flushes while contents arrive, so that the disk does not do all of its work at the end.
struct Flushes {
    written: AtomicU64,
    next: Mutex<u64>,
}

impl Flushes {
    fn new() -> Self {
        Self { written: AtomicU64::new(0), next: Mutex::new(FLUSH_BYTES) }
    }

    /// One thread at a time flushes; the others go on.
    ///
    /// # Errors
    /// The kernel could not write something. It reports that once, so no later flush would fail.
    fn wrote(&self, store: &Store, bytes: u64) -> Result<(), Error> {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Ok(mut next) = self.next.try_lock()
            && written >= *next
        {
            flush_filesystem(store.blobs().dir()).context(Operation::Flush, || store.path())?;
            *next = self.written.load(Ordering::Relaxed) + FLUSH_BYTES;
        }
        Ok(())
    }
}

/// A pull: of what, from where to where.
struct Pull<'a> {
    remote: &'a Remote,
    store: &'a Store,
    what: &'a str,
    options: &'a PullOptions,
    operation: &'a Running,
    noted: &'a Noted,
}

/// What a thread of a pull has: the contents that it takes in, and its buffer.
struct PullWorker {
    intake: Intake,
    bytes: Vec<u8>,
}

impl Remote {
    /// Brings a snapshot into `store`, so that [`Store::start`](crate::Store::start) and the others
    /// can use it. `what` is a name of the remote, or the whole id of a snapshot. It fetches only
    /// what the store lacks.
    ///
    /// If the snapshot's files name the root of the project that it was taken of, the store learns
    /// which ones. So its worktrees have their own path there.
    ///
    /// # Errors
    /// [`ErrorKind::SnapshotNotFound`] if the remote has no such name or snapshot;
    /// [`ErrorKind::InvalidName`]; those of every operation, see [`Remote`] and [`Store`]. The
    /// store does not know the snapshot then, unless it did before. Contents that arrived stay
    /// until [`Store::gc`](crate::Store::gc), and the next pull does not fetch them again. If the
    /// disk is full, calve removes them.
    pub fn pull(
        &self,
        store: &Store,
        what: &str,
        options: &PullOptions,
        common: &StoreOptions,
    ) -> Result<PullReport, Error> {
        let started = Instant::now();
        let before = self.objects().traffic.so_far();
        store.must_be_writable(Operation::Pull)?;
        options.name.as_deref().map_or(Ok(()), check_name)?;
        let operation = &common.operation().usually(JOBS);
        let mut report = PullReport {
            snapshot: SnapshotId::from_bytes([0; 32]),
            sequence: None,
            signers: Vec::new(),
            contents: 0,
            fetched: 0,
            fetched_bytes: 0,
            received_bytes: 0,
            requests: 0,
            elapsed: Duration::ZERO,
        };
        taking_in(store, operation, |noted| {
            let _guard = store.share()?;
            let pull = Pull { remote: self, store, what, options, operation, noted };
            let mut tries = 0;
            loop {
                tries += 1;
                // What arrived in one attempt is there for the next one.
                match pull.once(&mut report) {
                    Err(error)
                        if tries < TRIES
                            && error.kind() == ErrorKind::Damaged
                            && error.operation() == Operation::ReadRemote => {}
                    result => return result,
                }
            }
        })?;
        [report.requests, _, report.received_bytes] = self.objects().traffic.since(before);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// What `what` means now, as far as somebody vouches for it.
    fn resolve(
        &self,
        store: &Store,
        what: &str,
    ) -> Result<(SnapshotId, Option<VouchedName>), Error> {
        if let Some(id) = from_hex(what) {
            return Ok((SnapshotId::from_bytes(id), None));
        }
        let encoded = name::encoded(what)?;
        let seen = self.seen(store, &encoded)?;
        let not_found = || {
            let cause = io::Error::new(io::ErrorKind::NotFound, "the remote has no such name");
            Error::new(ErrorKind::SnapshotNotFound, Operation::FindSnapshot, what, cause)
                .with_other(self.url())
        };
        let last = self.newest(what, seen.map_or(0, |(sequence, _)| sequence))?;
        let key = name::key_of(&encoded, last.unwrap_or_default());
        if let Some((sequence, _)) = seen.filter(|(sequence, _)| last < Some(*sequence)) {
            return Err(self.untrusted(
                &key,
                format!(
                    "this store has seen change {sequence} of the name, and the remote has none after {}: somebody set it back",
                    last.unwrap_or_default()
                ),
            ));
        }
        let last = last.ok_or_else(not_found)?;
        let (named, mut signers) = self.named(what, last)?.ok_or_else(|| self.vanished(&key))?;
        if !self.keys.is_empty() {
            signers.retain(|signer| self.keys.contains(signer));
            if signers.is_empty() {
                return Err(self.untrusted(&key, "none of the configured keys has signed it"));
            }
        }
        if seen.is_some_and(|(sequence, id)| sequence == last && id != named.snapshot) {
            let why = "this store has seen the same change with another snapshot";
            return Err(self.untrusted(&key, why));
        }
        Ok((named.snapshot, Some((named, signers))))
    }

    /// Which files name the project's root. A search here would not find them: it would look for
    /// this project's root.
    fn found(&self, id: BlobId) -> Result<Found, Error> {
        let key = found_key(id);
        let bytes = self.read(&key, FOUND_MOST_BYTES)?.ok_or_else(|| self.vanished(&key))?;
        let found = Some(bytes).filter(|bytes| BlobId::of(bytes) == id);
        found
            .and_then(|bytes| Found::decode(&bytes))
            .ok_or_else(|| self.damaged(&key, "it is no list of files that name the root"))
    }
}

impl Pull<'_> {
    fn once(&self, report: &mut PullReport) -> Result<(), Error> {
        let Self { remote, store, what, operation, .. } = *self;
        let (id, named) = remote.resolve(store, what)?;
        let Some((record, object)) = remote.record(id)? else {
            // Since the name was read, it may have got another snapshot, and this one removed.
            if named.is_some() {
                return Err(remote.vanished(&super::snapshot_key(id)));
            }
            let cause = io::Error::new(io::ErrorKind::NotFound, "the remote has no such snapshot");
            return Err(Error::new(
                ErrorKind::SnapshotNotFound,
                Operation::FindSnapshot,
                what,
                cause,
            )
            .with_other(remote.url()));
        };
        self.fetch_directories(id, &object, &record)?;
        let extent = LocalExtent::of(store, &object, operation)?;
        let extent = extent.map_err(|why| {
            remote.damaged(&super::snapshot_key(id), format!("snapshot {id}: {why}"))
        })?;

        let unsealed = self.fetch_contents(&record, extent.contents, report)?;
        operation.publishes();
        // A store in a stage has sealed its mirrors, but the clones that come next would flush each
        // one.
        let has_arrived = !unsealed.is_empty() || !store.blobs().seals_later();
        let found = named.as_ref().and_then(|(named, _)| named.found);
        let found = found.map(|found| remote.found(found)).transpose()?;
        store.snapshots().record(&Recording {
            encoding: &record.snapshot,
            tree: None,
            arrived: has_arrived.then_some(&unsealed),
            found: found.as_ref().map(FoundList::Told),
            indexes: &[],
            based: Based::None,
            name: self.options.name.as_deref(),
            origin: &Origin::default(),
        })?;
        report.snapshot = id;
        if let Some((named, signers)) = named {
            remote.remember(store, &named, &signers)?;
            report.sequence = Some(named.sequence);
            report.signers = signers;
        }
        Ok(())
    }

    /// Puts the directories of a snapshot that the store lacks into its database.
    fn fetch_directories(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        record: &Record,
    ) -> Result<(), Error> {
        let Self { remote, store, operation, .. } = *self;
        let Kind::Directory(root) = object.root.kind else {
            let why = "the snapshot's root is no directory";
            return Err(remote.damaged(&super::snapshot_key(id), why));
        };
        let mut walk = LocalWalk { waiting: vec![root], ..LocalWalk::default() };
        let damaged = |why| remote.damaged(&super::snapshot_key(id), why);
        walk.go_on(store, &mut HashMap::new(), damaged, operation)?;
        // Mostly what is missing was pushed last. A directory may be in a part before that of its
        // parent's, or after it; so this goes on for as long as it finds something.
        let mut left: Vec<PartRef> = record.directories.iter().rev().copied().collect();
        while !walk.missing.is_empty() {
            let before = walk.found;
            let mut useless = Vec::new();
            for part in left {
                if walk.missing.is_empty() {
                    break;
                }
                let mut encodings = HashMap::new();
                remote.part(part, |item| {
                    encodings.insert(DirectoryId::of(item), item.to_vec());
                    Ok(())
                })?;
                walk.waiting.extend(walk.missing.extract_if(|id| encodings.contains_key(id)));
                let damaged = |why| remote.damaged(&super::part_key(part.id), why);
                walk.go_on(store, &mut encodings, damaged, operation)?;
                useless.push(part);
            }
            left = useless;
            if let Some(missing) = walk.missing.iter().next().filter(|_| walk.found == before) {
                let why = format!("the remote lacks directory {missing} of snapshot {id}");
                return Err(remote.damaged(&super::snapshot_key(id), why));
            }
        }
        walk.keep(store)
    }

    /// Fetches the contents that the store lacks. Returns those that are to be flushed and sealed.
    fn fetch_contents(
        &self,
        record: &Record,
        mut contents: Vec<(BlobId, u64)>,
        report: &mut PullReport,
    ) -> Result<Vec<BlobId>, Error> {
        let Self { store, operation, noted, .. } = *self;
        report.contents = contents.len() as u64;
        let mut unsealed = Vec::new();
        let mut intake = Intake::noting(noted);
        // A new store has neither packs nor mirrors, and to ask for each content costs two locks of
        // the database. What another process adds from now on is fetched again, which does no harm.
        let has_packs = !store.catalog().pack_names()?.is_empty();
        let has_mirrors = store.blobs().has_any().context(Operation::ReadBlob, || store.path())?;
        // The lacking ones move to the front, since a second list would take as much memory.
        let known_to_lack = if has_packs || has_mirrors { 0 } else { contents.len() };
        let mut count = known_to_lack;
        for at in known_to_lack..contents.len() {
            operation.check(Operation::Pull, store.path())?;
            let (id, size) = contents[at];
            let path = || store.blobs().mirror_path(id);
            if store.blobs().is_sealed(id, size).context(Operation::ReadBlob, path)?
                || has_packs && store.catalog().packed(id)?.is_some()
            {
                continue;
            }
            // It may have arrived in a pull that failed.
            let stop = || operation.is_cancelled();
            match store
                .blobs()
                .good(&mut intake, id, size, &stop)
                .context(Operation::ReadBlob, path)?
            {
                Some(_) => unsealed.push(id),
                None => {
                    contents[count] = (id, size);
                    count += 1;
                }
            }
        }
        contents.truncate(count);
        let lacking = contents;
        let lacking_bytes = lacking.iter().fold(0, |sum: u64, (_, size)| size.saturating_add(sum));
        let count = lacking.len() as u64;
        operation.expect(count);
        operation.expect_bytes(lacking_bytes);
        let wanted = self.plan(record, lacking)?;
        let lacks_all = count == report.contents;
        let fetches = self.locate(record, &wanted, lacks_all)?;
        let flushes = Flushes::new();
        // This thread allocates the buffers. glibc keeps freed memory of another thread for threads
        // alone, and what comes after a pull takes much memory in this one.
        let longest = fetches.iter().map(|fetch| fetch.range.end - fetch.range.start).max();
        let longest = usize::try_from(longest.unwrap_or(0)).map_err(io::Error::other);
        let longest = longest.context(Operation::Pull, || store.path())?;
        let buffers = operation.jobs().min(fetches.len());
        let buffers = std::iter::repeat_with(|| Vec::with_capacity(longest)).take(buffers);
        let buffers = Mutex::new(buffers.collect::<Vec<Vec<u8>>>());
        pool::run(
            operation,
            (Operation::Pull, store.path()),
            fetches,
            |_| PullWorker {
                intake: Intake::noting(noted),
                bytes: lock(&buffers).pop().unwrap_or_default(),
            },
            |worker, fetch, queue| {
                let written = self.fetch(worker, &fetch, &wanted, queue)?;
                flushes.wrote(store, written)
            },
        )?;
        report.fetched += count;
        report.fetched_bytes += lacking_bytes;
        if store.blobs().seals_later() {
            unsealed.extend(wanted.large.iter().map(|large| large.id));
            wanted.move_contents(&mut unsealed);
        }
        Ok(unsealed)
    }

    /// Which entries of packs have the contents that are lacking.
    fn plan(
        &self,
        record: &Record,
        mut lacking: Vec<(BlobId, u64)>,
    ) -> Result<WantedEntries, Error> {
        let remote = self.remote;
        let mut sizes: HashMap<BlobId, u64> =
            lacking.extract_if(.., |(_, size)| *size > LARGE_BYTES).collect();
        let mut entries = lacking;
        entries.sort_unstable();
        let mut chunks: HashMap<BlobId, (u64, Vec<(usize, u64)>)> = HashMap::new();
        let mut large = Vec::new();
        for part in record.recipes.iter().rev() {
            if sizes.is_empty() {
                break;
            }
            let mut recipes = Vec::new();
            remote.part(*part, |item| {
                let recipe = Recipe::decode(item)?;
                if sizes.get(&recipe.content) == Some(&recipe.size()) {
                    sizes.remove(&recipe.content);
                    recipes.push(recipe);
                }
                Ok(())
            })?;
            for recipe in recipes {
                let number = large.len();
                let mut offset = 0;
                for (chunk, size) in &recipe.chunks {
                    let (known, places) = chunks.entry(*chunk).or_insert((*size, Vec::new()));
                    let content = number_of(&entries, *chunk).map(|at| entries[at].1);
                    if known != size || content.is_some_and(|content| content != *size) {
                        let why = format!("chunk {chunk} has two sizes");
                        return Err(remote.damaged(&super::part_key(part.id), why));
                    }
                    places.push((number, offset));
                    offset += size;
                }
                large.push(Large {
                    id: recipe.content,
                    size: offset,
                    staged: Mutex::new(StagedFile::in_folder(&self.store.layout().stage())),
                    missing: AtomicUsize::new(recipe.chunks.len()),
                });
            }
        }
        if let Some(id) = sizes.keys().next() {
            return Err(self.lacks(record, *id));
        }
        WantedEntries::new(entries, chunks, large)
            .ok_or_else(|| remote.damaged("parts", "recipes have more chunks than can be"))
    }

    /// The error for a content that none of a record's objects has.
    fn lacks(&self, record: &Record, content: BlobId) -> Error {
        let key = super::snapshot_key(SnapshotId::of(&record.snapshot));
        self.remote.damaged(&key, format!("it leads to no object with content {content}"))
    }

    /// Finds the wanted entries in the record's packs. A store that lacks all contents needs most
    /// of the packs, so it reads many indexes at once from the start.
    fn locate(
        &self,
        record: &Record,
        wanted: &WantedEntries,
        lacks_all: bool,
    ) -> Result<Vec<Fetch>, Error> {
        let mut fetches = Vec::new();
        let mut is_found = vec![false; wanted.entries.len()];
        let mut missing = is_found.len();
        let packs: Vec<PackRef> = record.packs.iter().rev().copied().collect();
        let (mut packs, mut count) = (packs.as_slice(), if lacks_all { INDEXES } else { 1 });
        while missing > 0 && !packs.is_empty() {
            let (group, rest) = packs.split_at(packs.len().min(count));
            // The more there are, the less it matters that one is read in vain.
            (packs, count) = (rest, (count * 2).min(INDEXES));
            let found = Mutex::new(HashMap::new());
            pool::run(
                self.operation,
                (Operation::Pull, self.store.path()),
                group.to_vec(),
                |_| (),
                |(), pack, _| {
                    let mut pieces = Vec::new();
                    self.remote.index(pack, |id, at| {
                        let number = number_of(&wanted.entries, id);
                        let number = number.filter(|number| wanted.entries[*number].1 == at.size);
                        pieces.extend(number.and_then(|number| wanted.piece(number, at)));
                    })?;
                    lock(&found).insert(pack.id, pieces);
                    Ok(())
                },
            )?;
            let mut found = lock(&found);
            for pack in group {
                let mut pieces = found.remove(&pack.id).unwrap_or_default();
                pieces
                    .retain(|piece| !std::mem::replace(&mut is_found[piece.number as usize], true));
                missing -= pieces.len();
                fetches.extend(ranges(*pack, wanted, pieces));
            }
        }
        if let Some(number) = is_found.iter().position(|found| !found) {
            return Err(self.lacks(record, wanted.entries[number].0));
        }
        // Last in, first out: the order of the packs.
        fetches.reverse();
        Ok(fetches)
    }

    /// Fetches some entries and puts them where they belong. Returns how many bytes it wrote.
    fn fetch(
        &self,
        worker: &mut PullWorker,
        fetch: &Fetch,
        wanted: &WantedEntries,
        queue: &Queue<Fetch>,
    ) -> Result<u64, Error> {
        let Self { remote, store, operation, .. } = *self;
        let PullWorker { intake, bytes } = worker;
        let mut written = 0;
        let key = pack_key(fetch.pack.id);
        remote.range(&key, fetch.range.clone(), bytes)?;
        let part = Pack::of_part(fetch.pack.length, fetch.range.start, bytes);
        for piece in &fetch.pieces {
            if queue.stopped() {
                return Err(pool::cancelled(Operation::Pull, store.path()));
            }
            let (id, size) = wanted.entries[piece.number as usize];
            let (at, chunk) = (piece.at(size), wanted.chunks.get(&piece.number));
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::InvalidData => remote.damaged(&key, error.to_string()),
                _ => Error::io(Operation::Put, store.blobs().mirror_path(id), error),
            };
            if chunk.is_none_or(|chunk| chunk.is_content) {
                store.blobs().put(id, |file| part.read_into(id, at, file)).map_err(failed)?;
                intake.note(id);
                operation.file_done(size);
                written += size;
            }
            for &(number, offset) in chunk.map_or(&[][..], |chunk| &chunk.places) {
                let large = &wanted.large[number];
                let path = lock(&large.staged).path.clone();
                put_chunk(&path, large.size, offset, |file| part.read(id, at, file))
                    .map_err(failed)?;
                operation.bytes_done(size);
                written += size;
                if large.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                    self.complete(intake, large, &|| queue.stopped())?;
                    operation.files_done(1);
                }
            }
        }
        Ok(written)
    }

    /// Gives a large content its name, once all its chunks are there.
    fn complete(
        &self,
        intake: &mut Intake,
        large: &Large,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let mut staged = lock(&large.staged);
        let path = staged.path.clone();
        let open = || -> io::Result<OwnedFd> {
            let file = fs::open(&path, SOURCE_FLAGS, Mode::empty())?;
            meta::give_mode(&file, Mode::from_raw_mode(0o444))?;
            Ok(file)
        };
        let file = open().context(Operation::Put, || &path)?;
        let hash = intake.hash(&file, large.size, stop).context(Operation::Put, || &path)?;
        if hash != (large.id, large.size) {
            let why = format!("the recipe of content {} makes another content", large.id);
            return Err(self.remote.damaged("parts", why));
        }
        let blobs = self.store.blobs();
        let name = || blobs.mirror_path(large.id);
        blobs.complete(&file, &mut staged, large.id).context(Operation::Put, name)?;
        intake.note(large.id);
        Ok(())
    }
}

/// Writes a chunk of a large content. The file is made by the first one.
fn put_chunk(
    path: &Path,
    size: u64,
    offset: u64,
    write: impl FnOnce(&mut SparseWriter<'_>) -> io::Result<()>,
) -> io::Result<()> {
    let open = |flags| fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR);
    let file = match open(NEW_FILE_FLAGS) {
        Ok(file) => {
            let file = File::from(file);
            // Should the file grow while its chunks arrive in any order, XFS would set space aside.
            file.set_len(size)?;
            Ok(file)
        }
        Err(rustix::io::Errno::EXIST) => {
            open(OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC)
                .map(File::from)
        }
        Err(errno) => Err(errno),
    };
    write(&mut SparseWriter::at(&file?, size, offset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pack::Location;

    #[test]
    fn entries_that_are_close_are_fetched_together_and_no_range_is_long() {
        let pack = PackRef { id: BlobId::of(b""), length: 64 << 20, entries: 100 };
        let wanted =
            WantedEntries::new(vec![(BlobId::of(b"a"), 1)], HashMap::new(), Vec::new()).unwrap();
        let piece =
            |offset: u64, stored| wanted.piece(0, Location { offset, stored, size: 1 }).unwrap();
        let header = 48;
        let mib = 1 << 20;
        for (row, pieces, expected) in [
            ("none", vec![], vec![]),
            ("one", vec![piece(12, 100)], vec![(12, 112 + header)]),
            ("neighbours", vec![piece(160, 10), piece(12, 100)], vec![(12, 170 + header)]),
            (
                "far apart",
                vec![piece(12, 100), piece(10 * mib, 100)],
                vec![(12, 112 + header), (10 * mib, 10 * mib + 100 + header)],
            ),
            (
                "too long together",
                vec![piece(12, 3 * mib), piece(60 + 3 * mib, 3 * mib)],
                vec![(12, 60 + 3 * mib), (60 + 3 * mib, 108 + 6 * mib)],
            ),
            ("longer than a range", vec![piece(12, 5 * mib)], vec![(12, 60 + 5 * mib)]),
            ("outside of the pack", vec![piece(64 << 20, 100)], vec![]),
        ] {
            let count = pieces.len();
            let fetches = ranges(pack, &wanted, pieces);
            let found: Vec<_> =
                fetches.iter().map(|fetch| (fetch.range.start, fetch.range.end)).collect();
            assert_eq!(found, expected, "{row}");
            let pieces: usize = fetches.iter().map(|fetch| fetch.pieces.len()).sum();
            assert!(pieces == count || row == "outside of the pack", "{row}");
        }
    }

    #[test]
    fn what_is_wanted_is_found_by_its_id_also_if_the_same_bytes_are_a_chunk_and_a_content() {
        let id = |number: u8| BlobId::from_bytes([number; 32]);
        let both = vec![(0, 0), (0, 5), (1, 9)];
        let places = HashMap::from([(id(3), (5, both.clone())), (id(1), (7, vec![(1, 0)]))]);
        let wanted =
            WantedEntries::new(vec![(id(2), 6), (id(3), 5), (id(4), 8)], places, Vec::new())
                .unwrap();
        assert_eq!(wanted.entries, [(id(1), 7), (id(2), 6), (id(3), 5), (id(4), 8)]);
        assert_eq!(wanted.chunks.len(), 2);
        assert!(!wanted.chunks[&0].is_content && wanted.chunks[&2].is_content);
        assert_eq!(wanted.chunks[&2].places, both);
        assert_eq!(number_of(&wanted.entries, id(5)), None);
        let long = Location { offset: 1 << 32, stored: 20, size: 6 };
        assert!(wanted.piece(1, long).is_none());
        let mut contents = vec![id(9)];
        wanted.move_contents(&mut contents);
        assert_eq!(contents, [id(9), id(2), id(3), id(4)]);

        let mut many: Vec<(BlobId, u64)> =
            (0..150_000_u32).map(|number| (BlobId::of(&number.to_le_bytes()), 4)).collect();
        many.sort_unstable();
        let expected: Vec<BlobId> = many.iter().map(|(id, _)| *id).collect();
        let mut contents = Vec::new();
        WantedEntries::new(many, HashMap::new(), Vec::new()).unwrap().move_contents(&mut contents);
        contents.sort_unstable();
        assert_eq!(contents, expected);
    }

    /// Such a directory was said to be damage of the store into which it was pulled.
    #[test]
    fn a_directory_that_cannot_be_is_damage_of_the_remote() {
        use super::super::super::object::{Entry, encode_directory, put_varint};
        use super::super::record::Parts;
        let entry = |name: &[u8], inside: DirectoryId| Entry {
            name: name.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0).into(),
            attributes: None,
            kind: Kind::Directory(inside),
        };
        let empty = encode_directory(&[]);
        let inside = DirectoryId::of(&empty);
        let named = |name: &[u8]| vec![empty.clone(), encode_directory(&[entry(name, inside)])];
        let counted = |count| {
            let mut text = Vec::new();
            put_varint(&mut text, count);
            text.extend_from_slice(&encode_directory(&[entry(b"x", inside)])[1..]);
            vec![empty.clone(), text]
        };
        // Each has the one before twice, so there are 2^34 - 1.
        let mut unfolding = vec![empty.clone()];
        for _ in 0..33 {
            let last = DirectoryId::of(unfolding.last().unwrap());
            unfolding.push(encode_directory(&[entry(b"a", last), entry(b"b", last)]));
        }
        let scratch = tempfile::tempdir().unwrap();
        let url = format!("file://{}/remote", scratch.path().display());
        let remote = Remote::init(&url, &super::super::RemoteSettings::new()).unwrap();
        let store = Store::init(scratch.path()).unwrap();
        for (row, directories, says, why) in [
            ("a right one", named(b"x"), 2, None),
            ("the folder above", named(b".."), 3, Some(("parts/", "a name cannot be"))),
            ("no name", named(b""), 3, Some(("parts/", "a name cannot be"))),
            ("a long name", named(&[b'n'; 5000]), 3, Some(("parts/", "a name is too long"))),
            ("a count of too many", counted(1 << 40), 3, Some(("parts/", "it ends too early"))),
            ("a count of too few", counted(0), 3, Some(("parts/", "something follows it"))),
            ("more than it says", named(b"x"), 1, Some(("snapshots/", "says that they are 1"))),
            ("too many", unfolding, 1 << 40, Some(("snapshots/", "calve takes 4294967295"))),
        ] {
            let mut parts = Parts::default();
            for directory in &directories {
                assert_eq!(parts.add(directory).unwrap(), None);
            }
            let part = parts.finish().unwrap().unwrap();
            let reference = PartRef { id: BlobId::of(&part), length: part.len() as u64 };
            let object = SnapshotObject {
                root: entry(b"", DirectoryId::of(directories.last().unwrap())),
                parent: None,
                created: (0, 0),
                message: row.to_owned(),
                entries: says,
                files: 0,
                bytes: 0,
            };
            let snapshot = object.encode();
            let id = SnapshotId::of(&snapshot);
            let directories = vec![reference];
            let record = Record { snapshot, packs: Vec::new(), directories, recipes: Vec::new() };
            let (part_key, key) =
                (super::super::part_key(reference.id), super::super::snapshot_key(id));
            remote.objects().create(&part_key, &part).unwrap();
            remote.objects().create(&key, &record.encode()).unwrap();
            let options = (PullOptions::new(), StoreOptions::new());
            let pulled = remote.pull(&store, &id.to_string(), &options.0, &options.1);
            let Some((of, why)) = why else {
                pulled.unwrap();
                continue;
            };
            let error = pulled.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{row}: {error}");
            let expected = if of == "parts/" { part_key } else { key };
            assert_eq!(error.path(), remote.at(&expected), "{row}");
            assert!(error.to_string().contains(why), "{row}: {error}");
        }
    }

    #[test]
    fn a_snapshot_needs_each_content_once_and_has_no_more_entries_than_it_says() {
        let project = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a/x", "one"),
            ("b/x", "one"),
            ("b/y", "two"),
            ("c/x", "one"),
            ("c/d/x", ""),
            ("d/d/x", ""),
        ] {
            let path = project.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let store = Store::init(project.path()).unwrap();
        let common = StoreOptions::new();
        let snapshot = store.snapshot(&super::super::super::SnapshotOptions::new(), &common);
        let mut object = store.catalog().object(snapshot.unwrap().id).unwrap();
        let extent = |object: &SnapshotObject| LocalExtent::of(&store, object, &common.operation());
        let all = extent(&object).unwrap().unwrap();
        let mut expected = [(BlobId::of(b"one"), 3), (BlobId::of(b"two"), 3)];
        expected.sort_unstable();
        assert_eq!(all.contents, expected);
        // The root, six folders and six files; both folders c/d and d/d count.
        assert_eq!(object.entries, 13);
        object.entries -= 1;
        let why = extent(&object).unwrap().err().unwrap();
        assert!(why.contains("13 entries"), "{why}");
    }
}

//! Brings a snapshot from a remote into a store: first the directories, then the contents that the
//! store lacks, by ranged reads of packs.
//!
//! # What is durable when
//! Every content is compared with its hash as it arrives, and gets its name among the mirrors then.
//! When all are there, they are flushed, sealed, and the snapshot's row is written. So a snapshot
//! that the store knows is whole. After a pull that failed or was killed, the store does not know
//! the snapshot. What arrived stays until the store's next `gc`, and the next pull finds it.
//!
//! # Where a content is
//! The record names the packs in the order in which they were pushed. What this store lacks is
//! mostly in the last ones, so their indexes are read first, and no more of them than needed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{self, CWD, Mode, OFlags};

use super::super::blobs::{Intake, Noted};
use super::super::format;
use super::super::id::{BlobId, DirectoryId, SnapshotId, from_hex};
use super::super::object::{Kind, SnapshotObject, decode_directory};
use super::super::pack::{Location, Pack};
use super::super::paths::found::Found;
use super::super::reach::Reach;
use super::super::snapshot::check_name;
use super::super::sparse::SparseWriter;
use super::super::{Store, StoreOptions};
use super::name::{self, PublicKey, Vouched};
use super::push::LARGE_BYTES;
use super::record::{PackRef, PartRef, Recipe, Record};
use super::{Remote, found_key, pack_key};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::NEW_FILE_FLAGS;
use crate::tree::pool::{self, Queue, lock};
use crate::tree::running::Running;
use crate::tree::staging::StagedFile;

/// How many requests are under way at once, unless the caller says otherwise.
const JOBS: usize = 12;
/// A range is not made longer than this; one entry may be.
const RANGE_BYTES: u64 = 4 << 20;
/// Two entries that are this close are fetched together, with what is between them.
const GAP_BYTES: u64 = 64 << 10;
/// How many indexes of packs are fetched at once.
const INDEXES: usize = 16;
/// How often a pull starts over because an object vanished or arrived damaged.
const TRIES: u32 = 3;
/// At this many bytes directories are written to the database.
const BATCH_BYTES: usize = 4 << 20;
/// More than a project has to say about its paths.
pub(super) const FOUND_MOST_BYTES: u64 = 16 << 20;

/// What a pull does; built by value.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    name: Option<String>,
}

impl PullOptions {
    /// Gives the snapshot no name in the store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the snapshot this name in the store; if another snapshot has that name, it moves.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
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

/// Where an entry of a pack goes.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// It is a content.
    Content,
    /// It is a chunk of the large content with this number, at this offset.
    Chunk(usize, u64),
}

/// An entry that the store lacks.
#[derive(Debug)]
struct Wanted {
    size: u64,
    targets: Vec<Target>,
}

/// An entry of a pack that is to be fetched.
#[derive(Debug)]
struct Piece {
    id: BlobId,
    at: Location,
    targets: Vec<Target>,
}

/// Pieces that are fetched with one request.
#[derive(Debug)]
struct Fetch {
    pack: PackRef,
    range: Range<u64>,
    pieces: Vec<Piece>,
}

/// A content that arrives in chunks.
struct Large {
    id: BlobId,
    size: u64,
    staged: Mutex<StagedFile<'static>>,
    /// Chunks that have not arrived.
    missing: AtomicUsize,
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
    /// [`ErrorKind::InvalidName`]; those of every operation, see [`Remote`] and [`Store`]. The store
    /// does not know the snapshot then, unless it did before. Contents that arrived stay until
    /// [`Store::gc`](crate::Store::gc), and the next pull does not fetch them again. If the disk is
    /// full, calve removes them.
    pub fn pull(
        &self,
        store: &Store,
        what: &str,
        options: &PullOptions,
        common: &StoreOptions,
    ) -> Result<PullReport, Error> {
        let started = Instant::now();
        let (requests, _, received) = self.objects().traffic.so_far();
        store.must_be_writable(Operation::Pull)?;
        options.name.as_deref().map_or(Ok(()), check_name)?;
        let operation = common.operation();
        let operation = &if common.jobs.is_some() { operation } else { operation.with_jobs(JOBS) };
        let _guard = store.share()?;
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
        let mut tries = 0;
        loop {
            tries += 1;
            // What arrived in one attempt is there for the next one.
            match self.pull_once(store, what, options, operation, &mut report) {
                Ok(()) => break,
                Err(error)
                    if tries < TRIES
                        && error.kind() == ErrorKind::Damaged
                        && error.operation() == Operation::ReadRemote => {}
                Err(error) => return Err(error),
            }
        }
        let (requests_now, _, received_now) = self.objects().traffic.so_far();
        report.requests = requests_now - requests;
        report.received_bytes = received_now - received;
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// What `what` means now, as far as somebody vouches for it.
    fn resolve(&self, store: &Store, what: &str) -> Result<(SnapshotId, Option<Vouched>), Error> {
        if let Some(id) = from_hex(what) {
            return Ok((SnapshotId::from_bytes(id), None));
        }
        let encoded = name::encoded(what)?;
        let seen = self.seen(store, &encoded);
        let not_found = || {
            let cause = io::Error::new(io::ErrorKind::NotFound, "the remote has no such name");
            Error::new(ErrorKind::SnapshotNotFound, Operation::FindSnapshot, what, cause)
                .with_other(self.url())
        };
        let last = self.sequences(what)?.into_iter().max();
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

    fn pull_once(
        &self,
        store: &Store,
        what: &str,
        options: &PullOptions,
        operation: &Running,
        report: &mut PullReport,
    ) -> Result<(), Error> {
        let (id, named) = self.resolve(store, what)?;
        let Some((record, object)) = self.record(id)? else {
            // Since the name was read, it may have got another snapshot, and this one removed.
            if named.is_some() {
                return Err(self.vanished(&super::snapshot_key(id)));
            }
            let cause = io::Error::new(io::ErrorKind::NotFound, "the remote has no such snapshot");
            return Err(Error::new(
                ErrorKind::SnapshotNotFound,
                Operation::FindSnapshot,
                what,
                cause,
            )
            .with_other(self.url()));
        };
        self.fetch_directories(store, id, &object, &record, operation)?;
        let mut reach = Reach::default();
        if let Some((directory, why)) = reach.add(store, &object, operation)?.first() {
            return Err(self.damaged(
                &super::snapshot_key(id),
                format!("directory {directory} of snapshot {id}: {why}"),
            ));
        }
        if let Some(blob) = reach.contradictions.first() {
            let why = format!("snapshot {id} gives two sizes to content {blob}");
            return Err(self.damaged(&super::snapshot_key(id), why));
        }
        // It says whether the tree is as large as the snapshot says.
        let manifest = store.catalog().manifest(id, &object)?;
        let is_linked = manifest.entries().any(|(_, _, entry)| entry.is_linked_special());
        drop(manifest);

        let noted = Noted::of(operation);
        let unsealed = self
            .fetch_contents(store, &record, &reach, operation, &noted, report)
            .inspect_err(|error| store.drop_unpacked(error, &noted))?;
        operation.publishes();
        if !unsealed.is_empty() {
            store.flush(&unsealed)?;
        }
        if is_linked {
            format::require(store.path(), format::LINKED_SPECIAL)?;
        }
        format::require(store.path(), format::WITHOUT_GIT)?;
        store.catalog().take_over(&record.snapshot, options.name.as_deref())?;
        // After the row, or a collector would remove it.
        let found = named.as_ref().and_then(|(named, _)| named.found);
        if let Some(found) = found.and_then(|found| self.found(found)) {
            store.write_found(id, &found);
        }
        report.snapshot = id;
        if let Some((named, signers)) = named {
            self.remember(store, &named)?;
            report.sequence = Some(named.sequence);
            report.signers = signers;
        }
        Ok(())
    }

    /// Which files name the project's root. If it cannot be had, calve looks for them again.
    fn found(&self, id: BlobId) -> Option<Found> {
        let bytes = self.read(&found_key(id), FOUND_MOST_BYTES).ok()??;
        if BlobId::of(&bytes) != id {
            return None;
        }
        Found::decode(&bytes)
    }

    /// Puts the directories of a snapshot that the store lacks into its database.
    fn fetch_directories(
        &self,
        store: &Store,
        id: SnapshotId,
        object: &SnapshotObject,
        record: &Record,
        operation: &Running,
    ) -> Result<(), Error> {
        let Kind::Directory(root) = object.root.kind else {
            let why = "the snapshot's root is no directory";
            return Err(self.damaged(&super::snapshot_key(id), why));
        };
        let mut walk = Walk { waiting: vec![root], ..Walk::default() };
        walk.go_on(store, &mut HashMap::new(), operation)?;
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
                self.part(part, |item| {
                    encodings.insert(DirectoryId::of(item), item.to_vec());
                    Ok(())
                })?;
                walk.waiting.extend(walk.missing.extract_if(|id| encodings.contains_key(id)));
                walk.go_on(store, &mut encodings, operation)?;
                useless.push(part);
            }
            left = useless;
            if let Some(missing) = walk.missing.iter().next().filter(|_| walk.found == before) {
                let why = format!("the remote lacks directory {missing} of snapshot {id}");
                return Err(self.damaged(&super::snapshot_key(id), why));
            }
        }
        walk.keep(store)
    }

    /// Fetches the contents that the store lacks. Returns those that are to be flushed and sealed.
    fn fetch_contents(
        &self,
        store: &Store,
        record: &Record,
        reach: &Reach,
        operation: &Running,
        noted: &Noted,
        report: &mut PullReport,
    ) -> Result<Vec<BlobId>, Error> {
        let mut unsealed = Vec::new();
        let mut lacking: Vec<(BlobId, u64)> = Vec::new();
        let mut intake = Intake::noting(noted);
        for (&id, &size) in &reach.blobs {
            if operation.is_cancelled() {
                return Err(pool::cancelled(Operation::Pull, store.path()));
            }
            let path = || store.blobs().mirror_path(id);
            if store.blobs().is_sealed(id, size).context(Operation::ReadBlob, path)?
                || store.catalog().packed(id)?.is_some()
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
                None => lacking.push((id, size)),
            }
        }
        report.contents = reach.blobs.len() as u64;
        let lacking_bytes = lacking.iter().fold(0, |sum: u64, (_, size)| size.saturating_add(sum));
        operation.expect(lacking.len() as u64);
        operation.expect_bytes(lacking_bytes);
        let (wanted, large) = self.plan(store, record, &lacking)?;
        let fetches = self.locate(store, record, wanted, operation)?;
        let workers = pool::run(
            operation,
            (Operation::Pull, store.path()),
            fetches,
            |_| Intake::noting(noted),
            |intake, fetch, queue| self.fetch(store, intake, &fetch, &large, queue, operation),
        )?;
        report.fetched += lacking.len() as u64;
        report.fetched_bytes += lacking_bytes;
        unsealed.extend(workers.into_iter().flat_map(|intake| intake.unsealed));
        Ok(unsealed)
    }

    /// Which entries of packs have the contents that are lacking.
    fn plan(
        &self,
        store: &Store,
        record: &Record,
        lacking: &[(BlobId, u64)],
    ) -> Result<(HashMap<BlobId, Wanted>, Vec<Large>), Error> {
        let mut wanted: HashMap<BlobId, Wanted> = HashMap::new();
        let mut sizes: HashMap<BlobId, u64> = HashMap::new();
        for &(id, size) in lacking {
            if size > LARGE_BYTES {
                sizes.insert(id, size);
            } else {
                wanted.insert(id, Wanted { size, targets: vec![Target::Content] });
            }
        }
        let mut large = Vec::new();
        for part in record.recipes.iter().rev() {
            if sizes.is_empty() {
                break;
            }
            let mut recipes = Vec::new();
            self.part(*part, |item| {
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
                    let wanted =
                        wanted.entry(*chunk).or_insert(Wanted { size: *size, targets: Vec::new() });
                    if wanted.size != *size {
                        let why = format!("chunk {chunk} has two sizes");
                        return Err(self.damaged(&super::part_key(part.id), why));
                    }
                    wanted.targets.push(Target::Chunk(number, offset));
                    offset += size;
                }
                large.push(Large {
                    id: recipe.content,
                    size: offset,
                    staged: Mutex::new(StagedFile::in_folder(&store.layout().stage())),
                    missing: AtomicUsize::new(recipe.chunks.len()),
                });
            }
        }
        if let Some(id) = sizes.keys().next() {
            return Err(self.damaged("parts", format!("the remote lacks content {id}")));
        }
        Ok((wanted, large))
    }

    /// Finds the wanted entries in the record's packs.
    fn locate(
        &self,
        store: &Store,
        record: &Record,
        mut wanted: HashMap<BlobId, Wanted>,
        operation: &Running,
    ) -> Result<Vec<Fetch>, Error> {
        let mut fetches = Vec::new();
        let packs: Vec<PackRef> = record.packs.iter().rev().copied().collect();
        let (mut packs, mut count) = (packs.as_slice(), 1);
        while !wanted.is_empty() && !packs.is_empty() {
            let (group, rest) = packs.split_at(packs.len().min(count));
            // The more there are, the less it matters that one is read in vain.
            (packs, count) = (rest, (count * 2).min(INDEXES));
            let indexes = Mutex::new(HashMap::new());
            pool::run(
                operation,
                (Operation::Pull, store.path()),
                group.to_vec(),
                |_| (),
                |(), pack, _| {
                    let index = self.index(pack)?;
                    lock(&indexes).insert(pack.id, index);
                    Ok(())
                },
            )?;
            let mut indexes = lock(&indexes);
            for pack in group {
                let mut pieces = Vec::new();
                for (id, at) in indexes.remove(&pack.id).unwrap_or_default() {
                    if wanted.get(&id).is_some_and(|wanted| wanted.size == at.size)
                        && let Some(Wanted { targets, .. }) = wanted.remove(&id)
                    {
                        pieces.push(Piece { id, at, targets });
                    }
                }
                fetches.extend(ranges(*pack, pieces));
            }
        }
        if let Some(id) = wanted.keys().next() {
            return Err(self.damaged("packs", format!("the remote lacks content {id}")));
        }
        // Last in, first out: the order of the packs.
        fetches.reverse();
        Ok(fetches)
    }

    /// Fetches some entries and puts them where they belong.
    fn fetch(
        &self,
        store: &Store,
        intake: &mut Intake,
        fetch: &Fetch,
        large: &[Large],
        queue: &Queue<Fetch>,
        operation: &Running,
    ) -> Result<(), Error> {
        let key = pack_key(fetch.pack.id);
        let bytes = self.objects().get(&key, fetch.range.clone()).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return self.vanished(&key);
            }
            self.failed(Operation::ReadRemote, &key, error)
        })?;
        let part = Pack::of_part(fetch.pack.length, fetch.range.start, bytes);
        for piece in &fetch.pieces {
            if queue.stopped() {
                return Err(pool::cancelled(Operation::Pull, store.path()));
            }
            let (id, at) = (piece.id, piece.at);
            let failed = |error: io::Error| match error.kind() {
                io::ErrorKind::InvalidData => self.damaged(&key, error.to_string()),
                _ => Error::io(Operation::Put, store.blobs().mirror_path(id), error),
            };
            for target in &piece.targets {
                match *target {
                    Target::Content => {
                        store
                            .blobs()
                            .put(id, |file| part.read_into(id, at, file))
                            .map_err(failed)?;
                        intake.unsealed.push(id);
                        intake.note(id);
                        operation.file_done(at.size);
                    }
                    Target::Chunk(number, offset) => {
                        let large = &large[number];
                        let path = lock(&large.staged).path.clone();
                        put_chunk(&path, large.size, offset, |file| part.read(id, at, file))
                            .map_err(failed)?;
                        operation.bytes_done(at.size);
                        if large.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                            self.complete(store, intake, large, &|| queue.stopped())?;
                            operation.files_done(1);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives a large content its name, once all its chunks are there.
    fn complete(
        &self,
        store: &Store,
        intake: &mut Intake,
        large: &Large,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        let mut staged = lock(&large.staged);
        let path = staged.path.clone();
        let open = || -> io::Result<OwnedFd> {
            let file = fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
            Ok(file)
        };
        let file = open().context(Operation::Put, || &path)?;
        let hash = intake.hash(&file, large.size, stop).context(Operation::Put, || &path)?;
        if hash != (large.id, large.size) {
            let why = format!("the recipe of content {} makes another content", large.id);
            return Err(self.damaged("parts", why));
        }
        let name = || store.blobs().mirror_path(large.id);
        store.blobs().place(&mut staged, large.id).context(Operation::Put, name)?;
        intake.unsealed.push(large.id);
        intake.note(large.id);
        Ok(())
    }
}

/// The walk through the directories of a snapshot, as far as the store has them.
#[derive(Default)]
struct Walk {
    waiting: Vec<DirectoryId>,
    seen: HashSet<DirectoryId>,
    missing: HashSet<DirectoryId>,
    /// How many directories were not in the store.
    found: u64,
    batch: Vec<(DirectoryId, Vec<u8>)>,
    batch_bytes: usize,
}

impl Walk {
    /// Goes on with what waits. `encodings` are directories that the store may lack.
    fn go_on(
        &mut self,
        store: &Store,
        encodings: &mut HashMap<DirectoryId, Vec<u8>>,
        operation: &Running,
    ) -> Result<(), Error> {
        while let Some(id) = self.waiting.pop() {
            if self.seen.contains(&id) {
                continue;
            }
            if operation.is_cancelled() {
                return Err(pool::cancelled(Operation::Pull, store.path()));
            }
            let entries = match store.catalog().directory(id)? {
                Ok(entries) => entries,
                Err(_) => {
                    let Some(encoding) = encodings.remove(&id) else {
                        self.missing.insert(id);
                        continue;
                    };
                    // The id is the hash of these bytes, so no other ones would be better.
                    let entries = decode_directory(&encoding).map_err(|error| {
                        let cause = io::Error::from(error);
                        Error::new(ErrorKind::Damaged, Operation::Pull, store.path(), cause)
                    })?;
                    self.found += 1;
                    self.batch_bytes += encoding.len();
                    self.batch.push((id, encoding));
                    entries
                }
            };
            self.seen.insert(id);
            for entry in entries {
                if let Kind::Directory(id) = entry.kind
                    && !self.seen.contains(&id)
                {
                    if encodings.contains_key(&id) {
                        self.missing.remove(&id);
                    }
                    self.waiting.push(id);
                }
            }
            if self.batch_bytes >= BATCH_BYTES {
                self.keep(store)?;
            }
        }
        Ok(())
    }

    /// Puts the directories into the database. No snapshot refers to them yet.
    fn keep(&mut self, store: &Store) -> Result<(), Error> {
        self.batch_bytes = 0;
        store.catalog().add_directories(&std::mem::take(&mut self.batch))
    }
}

/// Divides pieces of one pack into ranges.
fn ranges(pack: PackRef, mut pieces: Vec<Piece>) -> Vec<Fetch> {
    pieces.sort_unstable_by_key(|piece| piece.at.offset);
    let mut fetches: Vec<Fetch> = Vec::new();
    for piece in pieces {
        // The index was checked: every entry ends inside of the pack.
        let Some(end) = piece.at.end(pack.length) else { continue };
        let start = piece.at.offset;
        match fetches.last_mut() {
            Some(last)
                if start.saturating_sub(last.range.end) <= GAP_BYTES
                    && end.saturating_sub(last.range.start) <= RANGE_BYTES =>
            {
                last.range.end = end.max(last.range.end);
                last.pieces.push(piece);
            }
            _ => fetches.push(Fetch { pack, range: start..end, pieces: vec![piece] }),
        }
    }
    fetches
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
            open(OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC).map(File::from)
        }
        Err(errno) => Err(errno),
    };
    write(&mut SparseWriter::at(&file?, size, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_are_close_are_fetched_together_and_no_range_is_long() {
        let pack = PackRef { id: BlobId::of(b""), length: 64 << 20, entries: 100 };
        let piece = |offset: u64, stored: u64| Piece {
            id: BlobId::of(&offset.to_le_bytes()),
            at: Location { offset, stored, size: stored },
            targets: vec![Target::Content],
        };
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
            let fetches = ranges(pack, pieces);
            let found: Vec<_> =
                fetches.iter().map(|fetch| (fetch.range.start, fetch.range.end)).collect();
            assert_eq!(found, expected, "{row}");
            let pieces: usize = fetches.iter().map(|fetch| fetch.pieces.len()).sum();
            assert!(pieces == count || row == "outside of the pack", "{row}");
        }
    }
}

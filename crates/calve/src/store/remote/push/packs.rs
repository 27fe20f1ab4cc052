//! Sends contents in packs: what an earlier push sent is used, and large contents go in chunks.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use fastcdc::v2020::StreamCDC;
use rustix::fs::CWD;

use super::super::super::Store;
use super::super::super::blobs::Intake;
use super::super::super::files::{listed_at, read_plain, unlinked_file};
use super::super::super::id::{BlobId, ID_BYTES, from_hex};
use super::super::super::object::Malformed;
use super::super::super::pack::PackWriter;
use super::super::pack_key;
use super::super::record::{CHUNK_MOST_BYTES, PACK_MOST_BYTES, PackRef, Recipe};
use super::{LARGE_BYTES, Push};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::tree::pool::{self, lock};
use crate::tree::running::Running;
use crate::tree::staging::write_whole;

/// At this many bytes a pack is finished and sent. Each thread has one pack in memory, twice.
pub(super) const PACK_BYTES: u64 = 16 << 20;

/// At this many entries, too. A pack that is being made takes about 100 bytes of memory for each,
/// and small contents that compress well may be a million in 16 MiB.
const PACK_ENTRIES: usize = 1 << 17;

const CHUNK_LEAST_BYTES: usize = 256 << 10;

const CHUNK_BYTES: usize = 1 << 20;

/// zstd's level, as in the store's packs.
const LEVEL: i32 = 3;

/// The store's note about one pack: no pack has more entries.
const NOTE_MOST_BYTES: u64 = PACK_MOST_BYTES;

/// A pack that arrived in an earlier push.
pub(super) struct Sent {
    pub(super) pack: PackRef,
    pub(super) used: AtomicBool,
}

/// What the threads of a push share.
pub(super) struct Pushing<'a> {
    pub(super) push: &'a Push<'a>,
    /// Entries of packs that the remote has.
    pub(super) known: &'a HashSet<BlobId>,
    pub(super) sent: Vec<Sent>,
    /// The number of the pack in `sent` that has an entry.
    pub(super) sent_entries: HashMap<BlobId, usize>,
    /// Chunks that a thread has taken upon itself.
    pub(super) claimed: Mutex<HashSet<BlobId>>,
    pub(super) packs: Mutex<Vec<PackRef>>,
    pub(super) recipes: Mutex<Vec<Recipe>>,
}

/// What a thread of a push has.
pub(super) struct Pusher {
    pub(super) intake: Intake,
    pub(super) open: Option<(PackWriter, u64)>,
    /// How many contents are in the open pack or before it, and their sizes: done when it is sent.
    pub(super) unsent: (u64, u64),
}

impl Pusher {
    /// Counts what was sent.
    pub(super) fn count(&mut self, operation: &Running) {
        if self.open.is_none() {
            let (contents, bytes) = std::mem::take(&mut self.unsent);
            operation.files_done(contents);
            operation.bytes_done(bytes);
        }
    }
}

impl Pushing<'_> {
    /// Whether the remote has an entry; if a pack of an earlier push has it, that one is used.
    pub(super) fn is_there(&self, id: BlobId) -> bool {
        if self.known.contains(&id) {
            return true;
        }
        let Some(at) = self.sent_entries.get(&id) else { return false };
        self.sent[*at].used.store(true, Relaxed);
        true
    }

    /// Finds the packs of an earlier push that arrived.
    pub(super) fn resume(&mut self) -> Result<(), Error> {
        let folder = self.push.store.layout().remote_sent(&self.push.remote.place.id, "");
        for (name, _) in listed_at(&folder).unwrap_or_default() {
            let path = folder.join(&name);
            let note =
                name.to_str().and_then(from_hex).map(BlobId::from_bytes).and_then(|id| {
                    read_note(id, &read_plain(CWD, &path, NOTE_MOST_BYTES).ok()?).ok()
                });
            let Some((pack, entries)) = note else { continue };
            let key = pack_key(pack.id);
            let size = self.push.remote.size(Operation::Push, &key)?;
            // Another process may be sending it now. It stays for a while, and costs one request.
            if size == Some(pack.length) {
                let at = self.sent.len();
                self.sent.push(Sent { pack, used: AtomicBool::new(false) });
                self.sent_entries.extend(entries.into_iter().map(|id| (id, at)));
            }
        }
        Ok(())
    }

    pub(super) fn push_one(
        &self,
        pusher: &mut Pusher,
        id: BlobId,
        size: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), Error> {
        if size <= LARGE_BYTES && self.is_there(id) {
            return Ok(());
        }
        let path = || self.push.store.blobs().mirror_path(id);
        let damaged = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => {
                Error::new(ErrorKind::Damaged, Operation::ReadBlob, path(), error)
            }
            _ => Error::io(Operation::Push, path(), error),
        };
        let mut content = self.content(&mut pusher.intake, id, size, stop)?;
        if size <= LARGE_BYTES {
            self.add(pusher, id, size, &mut content).map_err(damaged)??;
            return Ok(());
        }
        let (mut hasher, mut chunks) = (blake3::Hasher::new(), Vec::new());
        let most = usize::try_from(CHUNK_MOST_BYTES).unwrap_or(usize::MAX);
        for chunk in StreamCDC::new(content, CHUNK_LEAST_BYTES, CHUNK_BYTES, most) {
            if stop() {
                return Err(pool::cancelled(Operation::Push, self.push.store.path()));
            }
            let data = chunk.map_err(io::Error::from).map_err(damaged)?.data;
            hasher.update(&data);
            let (chunk, size) = (BlobId::of(&data), data.len() as u64);
            chunks.push((chunk, size));
            if !self.is_there(chunk) && lock(&self.claimed).insert(chunk) {
                self.add(pusher, chunk, size, &mut data.as_slice()).map_err(damaged)??;
            }
        }
        let recipe = Recipe { content: id, chunks };
        if hasher.finalize().as_bytes() != id.as_bytes() || recipe.size() != size {
            let why = format!("the content is not that of blob {id}");
            return Err(damaged(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        lock(&self.recipes).push(recipe);
        Ok(())
    }

    /// The content of a blob, from its mirror or a pack. No mirror is made.
    pub(super) fn content(
        &self,
        intake: &mut Intake,
        id: BlobId,
        size: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<File, Error> {
        if let Ok(Some((file, _))) = self.push.store.blobs().good(intake, id, size, stop) {
            return Ok(file.into());
        }
        if let Some((pack, at)) = self.push.store.catalog().packed(id)?
            && let Ok(file) = self.push.store.contents().unpacked(id, &pack, at)
        {
            return Ok(file);
        }
        // It says what is wrong, and with which file.
        let (file, _): (OwnedFd, _) = self.push.store.contents().get(intake, id, size, stop)?;
        Ok(file.into())
    }

    /// Adds an entry to the thread's pack. The outer error is that of the content.
    pub(super) fn add(
        &self,
        pusher: &mut Pusher,
        id: BlobId,
        size: u64,
        content: &mut dyn io::Read,
    ) -> io::Result<Result<(), Error>> {
        let (writer, stored) = match &mut pusher.open {
            Some(open) => open,
            none => none.insert((PackWriter::create(unlinked_file()?, LEVEL)?, 0)),
        };
        *stored += writer.add(id, size, content)?.stored;
        let is_full = *stored >= PACK_BYTES || writer.entries() >= PACK_ENTRIES;
        Ok(if is_full { self.finish(pusher) } else { Ok(()) })
    }

    /// Sends the thread's pack.
    pub(super) fn finish(&self, pusher: &mut Pusher) -> Result<(), Error> {
        let Some((writer, _)) = pusher.open.take() else { return Ok(()) };
        let finish = || -> io::Result<(Vec<u8>, Vec<BlobId>)> {
            let (mut file, index) = writer.finish()?;
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok((bytes, index.into_iter().map(|(id, _)| id).collect()))
        };
        let (bytes, entries) =
            finish().context(Operation::WritePackIn, || self.push.store.path())?;
        if entries.is_empty() {
            return Ok(());
        }
        let (id, length) = (BlobId::of(&bytes), bytes.len() as u64);
        let pack = PackRef { id, length, entries: entries.len() as u64 };
        if !self.push.store.is_read_only() {
            // Without this note a push that dies only sends the pack again.
            let _ = write_note(self.push.store, &self.push.remote.place.id, pack, &entries);
        }
        self.push.remote.objects().limit.wait();
        self.push.remote.put(&pack_key(id), &bytes)?;
        lock(&self.packs).push(pack);
        Ok(())
    }
}

/// Writes down what is in a pack that is about to be sent: its length, and the ids of its entries.
fn write_note(store: &Store, remote: &str, pack: PackRef, entries: &[BlobId]) -> io::Result<()> {
    let path = store.layout().remote_sent(remote, &pack.id.to_string());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    let mut note = pack.length.to_le_bytes().to_vec();
    for id in entries {
        note.extend_from_slice(id.as_bytes());
    }
    write_whole(&store.layout().stage(), &path, &note)
}

fn read_note(id: BlobId, note: &[u8]) -> Result<(PackRef, Vec<BlobId>), Malformed> {
    let (length, ids) = note.split_first_chunk::<8>().ok_or(Malformed("it ends too early"))?;
    let (ids, rest) = ids.as_chunks::<ID_BYTES>();
    if !rest.is_empty() {
        return Err(Malformed("it ends too early"));
    }
    let entries: Vec<BlobId> = ids.iter().map(|id| BlobId::from_bytes(*id)).collect();
    let length = u64::from_le_bytes(*length);
    Ok((PackRef { id, length, entries: entries.len() as u64 }, entries))
}

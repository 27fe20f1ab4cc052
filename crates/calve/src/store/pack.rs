//! A pack is one file that holds many cold blobs, compressed.
//!
//! # The format, byte for byte
//! All numbers are little endian. A pack consists of a header, the entries in a row, and the
//! trailer.
//!
//! | part    | bytes | what                                                                  |
//! |---------|-------|-----------------------------------------------------------------------|
//! | header  | 8     | `CALVPACK`                                                            |
//! |         | 4     | version: 1                                                            |
//! | entry   | 32    | the blob's id                                                         |
//! |         | 8     | size: of the blob                                                     |
//! |         | 8     | stored: of the frame that follows                                     |
//! |         | …     | one zstd frame (RFC 8878), no dictionary, its window at most 8 MiB    |
//! | trailer | 8     | `CALVINDX`                                                            |
//! |         | 8     | count: of the entries                                                 |
//! |         | 56 ×  | id (32), offset of the entry (8), stored (8), size (8); ascending ids |
//! |         | 32    | BLAKE3 of the trailer so far, from `CALVINDX` on                      |
//! |         | 8     | length: of the trailer so far, from `CALVINDX` to the checksum's end  |
//! |         | 8     | `CALVDONE`                                                            |
//!
//! So calve reads the index from the end of the file in one go. If the end is lost, the entries
//! still contain everything that the index said: [`Pack::scan`] walks them from the front. The
//! trailer's first bytes are where an entry would have its id; nobody can make a blob whose hash
//! starts with these bytes.
//!
//! # Why nothing wrong is ever served
//! calve does not trust a pack. [`Pack::read`] compares the entry's header with what the caller
//! expects. It lets no frame yield more bytes than the blob's size. It compares the hash of the
//! content with the id. So whatever happened to the file, the answer is the right content or an
//! error. The index's checksum only makes damage known early.
//!
//! No number from the file ever decides how much memory is allocated. Memory is bounded by the
//! buffers, by the window, and (for an index) by the entries that are really there.
//!
//! An entry's header is written after its frame. So an entry that a crash cut off has no header,
//! and a scan ends at it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use zstd::zstd_safe::{
    DCtx, DParameter, InBuffer, OutBuffer, find_frame_compressed_size, get_error_name,
};

use super::id::{BlobId, ID_BYTES};
use super::sparse::SparseWriter;

#[cfg(test)]
mod tests;
mod writer;

pub(crate) use writer::PackWriter;

const HEADER_MAGIC: [u8; 8] = *b"CALVPACK";
const TRAILER_MAGIC: [u8; 8] = *b"CALVINDX";
const CLOSING_MAGIC: [u8; 8] = *b"CALVDONE";
const VERSION: u32 = 1;

const HEADER_BYTES: usize = 12;
const ENTRY_HEADER_BYTES: usize = 48;
const ROW_BYTES: usize = 56;

/// The bytes of a pack beside its frames: for each blob, and for the whole pack.
pub(crate) const OVERHEAD_BYTES: (u64, u64) = (
    (ENTRY_HEADER_BYTES + ROW_BYTES) as u64,
    HEADER_BYTES as u64 + TRAILER_FIXED_BYTES + END_BYTES as u64,
);

/// The trailer's magic, count and checksum. They are there whatever the count is.
const TRAILER_FIXED_BYTES: u64 = 48;
/// The trailer's length and the closing magic.
const END_BYTES: usize = 16;

/// The first bytes of every zstd frame, and the length of the shortest frame.
const FRAME_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const FRAME_MIN_BYTES: u64 = 9;

/// The largest window that a level up to [`LEVEL_MAX`] uses. Readers refuse a larger window: a
/// forged frame may ask for 3 TiB.
const WINDOW_LOG: u32 = 23;
/// Higher levels use windows of up to 128 MiB, which every thread that reads would have to
/// allocate.
const LEVEL_MAX: i32 = 19;

const BUFFER_BYTES: usize = 128 * 1024;

/// The place of a blob in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The offset at which the blob's entry starts.
    pub(crate) offset: u64,
    /// The length of the blob's frame.
    pub(crate) stored: u64,
    /// The length of the blob's content.
    pub(crate) size: u64,
}

impl Location {
    /// The end of the entry. `None` if the end is after `limit`, or if the entry is too short to
    /// hold a frame.
    pub(crate) fn end(self, limit: u64) -> Option<u64> {
        let end = self.offset.checked_add(ENTRY_HEADER_BYTES as u64)?.checked_add(self.stored)?;
        (self.offset >= HEADER_BYTES as u64 && self.stored >= FRAME_MIN_BYTES && end <= limit)
            .then_some(end)
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn zstd_error(what: &str, code: usize) -> io::Error {
    invalid(format!("{what}: {}", get_error_name(code)))
}

/// The `N` bytes of `bytes` that start at `at`, as an array. Callers make sure that they exist; if
/// not, the array is all zeros.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

fn entry_header(id: BlobId, size: u64, stored: u64) -> [u8; ENTRY_HEADER_BYTES] {
    let mut header = [0; ENTRY_HEADER_BYTES];
    header[..ID_BYTES].copy_from_slice(id.as_bytes());
    header[ID_BYTES..ID_BYTES + 8].copy_from_slice(&size.to_le_bytes());
    header[ID_BYTES + 8..].copy_from_slice(&stored.to_le_bytes());
    header
}

/// Bytes of a pack, by their offsets in the pack.
pub(crate) trait ReadAt {
    /// Fills `buffer` with the bytes from `offset` on.
    fn read_whole_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_whole_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// A part of a pack that was fetched from elsewhere.
#[cfg(feature = "remote")]
#[derive(Debug)]
pub(crate) struct Part<'a> {
    start: u64,
    bytes: &'a [u8],
}

#[cfg(feature = "remote")]
impl ReadAt for Part<'_> {
    fn read_whole_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = offset.checked_sub(self.start).and_then(|from| usize::try_from(from).ok());
        let bytes = from.and_then(|from| self.bytes.get(from..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The length of the trailer of a pack with so many entries, with the closing magic.
#[cfg(feature = "remote")]
pub(crate) fn trailer_bytes(entries: u64) -> Option<u64> {
    entries.checked_mul(ROW_BYTES as u64)?.checked_add(TRAILER_FIXED_BYTES + END_BYTES as u64)
}

/// An open pack. Any number of threads can read from it at once.
#[derive(Debug)]
pub(crate) struct Pack<F = File> {
    file: F,
    /// The length of the file when it was opened. A pack never changes.
    length: u64,
}

#[cfg(feature = "remote")]
impl<'a> Pack<Part<'a>> {
    /// What can be read of a pack of `length` bytes by its `bytes` from `start` on.
    pub(crate) fn of_part(length: u64, start: u64, bytes: &'a [u8]) -> Self {
        Self { file: Part { start, bytes }, length }
    }
}

impl Pack {
    /// Opens the pack in `file`.
    ///
    /// # Errors
    /// `InvalidData` if the file is no pack, `Unsupported` if the pack has another version; else
    /// the errors of reading.
    pub(crate) fn open(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let pack = Self { file, length };
        let mut header = [0; HEADER_BYTES];
        pack.read_at(&mut header, 0, "the header")?;
        if header[..8] != HEADER_MAGIC {
            return Err(invalid("not a pack: it does not start with CALVPACK"));
        }
        match u32::from_le_bytes(part(&header, 8)) {
            VERSION => Ok(pack),
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the pack has version {other}; only version {VERSION} is known"),
            )),
        }
    }
}

impl<F: ReadAt> Pack<F> {
    /// Reads the part that `what` names. If the file ends before that part, the pack is damaged;
    /// this is not an error of the system.
    fn read_at(&self, buffer: &mut [u8], offset: u64, what: &str) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(invalid(format!("the pack ends before {what} does")));
        }
        self.file.read_whole_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => invalid(format!("the pack ends before {what} does")),
            _ => error,
        })
    }

    /// The location of each blob, by ascending id, from the trailer.
    ///
    /// # Errors
    /// Those of [`for_each`](Self::for_each).
    pub(crate) fn index(&self) -> io::Result<Vec<(BlobId, Location)>> {
        let mut index = Vec::new();
        self.for_each(|id, location| index.push((id, location)))?;
        Ok(index)
    }

    /// Calls `each` with the location of each blob, by ascending id, from the trailer. If this
    /// fails, the trailer is damaged, and what `each` got may be wrong.
    ///
    /// # Errors
    /// `InvalidData` if the trailer is cut off or damaged; else the errors of reading.
    pub(crate) fn for_each(&self, mut each: impl FnMut(BlobId, Location)) -> io::Result<()> {
        let mut end = [0; END_BYTES];
        let body_end = self.length.saturating_sub(END_BYTES as u64);
        self.read_at(&mut end, body_end, "the trailer")?;
        if end[8..] != CLOSING_MAGIC {
            return Err(invalid("the pack's trailer is missing"));
        }
        let length = number(&end, 0);
        let rows = length
            .checked_sub(TRAILER_FIXED_BYTES)
            .filter(|rows| {
                rows % ROW_BYTES as u64 == 0
                    && length <= body_end.saturating_sub(HEADER_BYTES as u64)
            })
            .ok_or_else(|| invalid("the pack's trailer has an impossible length"))?;
        let start = body_end - length;
        let mut count = [0; 16];
        self.read_at(&mut count, start, "the trailer")?;
        if count[..8] != TRAILER_MAGIC {
            return Err(invalid("the pack's trailer does not start where it says"));
        }
        if number(&count, 8) != rows / ROW_BYTES as u64 {
            return Err(invalid("the pack's trailer has another length than its count says"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&count);
        // Each row is checked as soon as it is read. A forged file can be of any size, since a hole
        // costs nothing; there the second row of zeros ends the loop.
        let mut last = None;
        let mut buffer = vec![0; BUFFER_BYTES / ROW_BYTES * ROW_BYTES];
        let (mut position, checksum_at) = (start + count.len() as u64, start + 16 + rows);
        while position < checksum_at {
            let wanted = usize::try_from(checksum_at - position).unwrap_or(usize::MAX);
            let room = buffer.len().min(wanted);
            let chunk = &mut buffer[..room];
            self.read_at(chunk, position, "the trailer")?;
            hasher.update(chunk);
            for row in chunk.chunks_exact(ROW_BYTES) {
                let id = BlobId::from_bytes(part(row, 0));
                let location = Location {
                    offset: number(row, ID_BYTES),
                    stored: number(row, ID_BYTES + 8),
                    size: number(row, ID_BYTES + 16),
                };
                if last.is_some_and(|last| last >= id) {
                    return Err(invalid("the pack's index is damaged: it is not sorted"));
                }
                if location.end(start).is_none() {
                    return Err(invalid(format!(
                        "the pack's index is damaged: blob {id} is outside the pack"
                    )));
                }
                last = Some(id);
                each(id, location);
            }
            position += room as u64;
        }
        let mut checksum = [0; 32];
        self.read_at(&mut checksum, checksum_at, "the trailer")?;
        if hasher.finalize().as_bytes() != &checksum {
            return Err(invalid("the pack's index is damaged: its checksum is another"));
        }
        Ok(())
    }

    /// The location of each blob, in the order of the file, from the entries. This is for a pack
    /// whose trailer is lost. The scan ends at the first bytes that are no entry. It does not look
    /// at the content, so reading a blob that it returns may still find damage.
    ///
    /// # Errors
    /// The errors of reading. Damage is not an error.
    pub(crate) fn scan(&self) -> io::Result<Vec<(BlobId, Location)>> {
        let mut found = Vec::new();
        let mut offset = HEADER_BYTES as u64;
        let mut start = [0; ENTRY_HEADER_BYTES + FRAME_MAGIC.len()];
        loop {
            match self.read_at(&mut start, offset, "an entry") {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(found),
                Err(error) => return Err(error),
            }
            let location = Location {
                offset,
                size: number(&start, ID_BYTES),
                stored: number(&start, ID_BYTES + 8),
            };
            match location.end(self.length) {
                Some(end)
                    if start[..8] != TRAILER_MAGIC
                        && start[ENTRY_HEADER_BYTES..] == FRAME_MAGIC =>
                {
                    found.push((BlobId::from_bytes(part(&start, 0)), location));
                    offset = end;
                }
                _ => return Ok(found),
            }
        }
    }

    /// Like [`read`](Self::read), but writes into an empty file and leaves holes for blocks of
    /// zeros.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub(crate) fn read_into(&self, id: BlobId, at: Location, file: &File) -> io::Result<()> {
        self.read(id, at, &mut SparseWriter::new(file, at.size))
    }

    /// Writes the content of blob `id`, which is at `at` in the pack, to `out`.
    ///
    /// # Errors
    /// `InvalidData`, with the reason, if the pack does not hold that blob there; else the errors
    /// of reading and writing. The bytes that `out` received by then are incomplete or wrong, and
    /// the caller must discard them.
    pub(crate) fn read(&self, id: BlobId, at: Location, out: &mut dyn Write) -> io::Result<()> {
        let damaged =
            |what: &str| invalid(format!("blob {id} at {} in its pack: {what}", at.offset));
        if at.end(self.length).is_none() {
            return Err(damaged("the pack ends before it does"));
        }
        let mut header = [0; ENTRY_HEADER_BYTES];
        self.read_at(&mut header, at.offset, "the entry")?;
        if header != entry_header(id, at.size, at.stored) {
            return Err(damaged("the entry there is another"));
        }

        if at.stored <= BUFFER_BYTES as u64 && at.size <= BUFFER_BYTES as u64 {
            let mut frame = vec![0; usize::try_from(at.stored).unwrap_or(0)];
            let position = at.offset + ENTRY_HEADER_BYTES as u64;
            self.read_at(&mut frame, position, "the frame")?;
            if let Some(content) = small(id, at.size, &frame) {
                return out.write_all(&content);
            }
            // Something is wrong with it. The slower way below finds out what, and says it.
        }

        let mut context = DCtx::try_create()
            .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "no zstd context"))?;
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG))
            .map_err(|code| zstd_error("zstd window", code))?;
        // Most blobs are small, and need no large buffers.
        let room = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1, BUFFER_BYTES);
        let mut input = vec![0; room(at.stored)];
        let mut output = vec![0; room(at.size)];
        let mut hasher = blake3::Hasher::new();
        let (mut position, mut unread) = (at.offset + ENTRY_HEADER_BYTES as u64, at.stored);
        let mut missing = at.size;
        let rest = 'frame: loop {
            let wanted = input.len().min(usize::try_from(unread).unwrap_or(usize::MAX));
            if wanted == 0 {
                return Err(damaged("the frame is not whole"));
            }
            self.read_at(&mut input[..wanted], position, "the frame")?;
            position += wanted as u64;
            unread -= wanted as u64;
            let mut chunk = InBuffer::around(&input[..wanted]);
            loop {
                let mut yielded = OutBuffer::around(&mut output[..]);
                let hint = context
                    .decompress_stream(&mut yielded, &mut chunk)
                    .map_err(|code| damaged(get_error_name(code)))?;
                let full = yielded.pos() == yielded.capacity();
                let yielded = yielded.as_slice();
                missing = missing
                    .checked_sub(yielded.len() as u64)
                    .ok_or_else(|| damaged("it is longer than its size says"))?;
                hasher.update(yielded);
                out.write_all(yielded)?;
                if hint == 0 {
                    break 'frame unread + (wanted - chunk.pos()) as u64;
                }
                // If the buffer is full, more output may follow. Otherwise zstd has taken all
                // input.
                if !full && chunk.pos() == wanted {
                    break;
                }
            }
        };
        if rest != 0 {
            return Err(damaged("something follows the frame"));
        }
        if missing != 0 {
            return Err(damaged("it is shorter than its size says"));
        }
        if hasher.finalize().as_bytes() != id.as_bytes() {
            return Err(damaged("the content has another hash"));
        }
        Ok(())
    }
}

/// Unpacks blob `id` in one call. `None` unless `frame` is exactly one frame with that content.
///
/// To make a context takes longer than to unpack most contents, so each thread keeps one (some
/// 100 KB). One call unpacks into the content itself and allocates no window, however large a one
/// the frame asks for.
fn small(id: BlobId, size: u64, frame: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static CONTEXT: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
    }
    // Several frames in a row would be unpacked, too.
    if find_frame_compressed_size(frame).ok()? != frame.len() {
        return None;
    }
    let mut content = Vec::with_capacity(usize::try_from(size).ok()?);
    CONTEXT.with_borrow_mut(|context| {
        if context.is_none() {
            *context = DCtx::try_create();
        }
        context.as_mut()?.decompress(&mut content, frame).ok()
    })?;
    let is_it = content.len() as u64 == size && BlobId::of(&content) == id;
    is_it.then_some(content)
}

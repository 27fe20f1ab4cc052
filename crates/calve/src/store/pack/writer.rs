//! Writes packs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use zstd::zstd_safe::{
    CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, zstd_sys::ZSTD_EndDirective,
};

use super::super::id::BlobId;
use super::{
    BUFFER_BYTES, CLOSING_MAGIC, ENTRY_HEADER_BYTES, HEADER_BYTES, HEADER_MAGIC, LEVEL_MAX,
    Location, TRAILER_MAGIC, VERSION, entry_header, invalid, zstd_error,
};

/// Reads from `content` until `buffer` is full or the content ends.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match content.read(rest) {
            Ok(0) => break,
            Ok(read) if read <= rest.len() => filled += read,
            Ok(_) => return Err(invalid("the reader says that it read more than there was room")),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A pack being written. Until it is finished, its file has no trailer.
pub(crate) struct PackWriter {
    pub(super) file: File,
    /// The offset of the next entry. Bytes after it are left from an entry that failed, and mean
    /// nothing.
    end: u64,
    index: BTreeMap<BlobId, Location>,
    /// Kept from blob to blob, because its tables are large.
    context: CCtx<'static>,
    input: Box<[u8]>,
    output: Box<[u8]>,
    /// Bytes of the entry that are not in the file yet.
    pending: Vec<u8>,
}

impl PackWriter {
    /// Starts a pack in `file`, which must be new and empty. Compresses at zstd's `level` (at most
    /// 19).
    ///
    /// # Errors
    /// The file is not empty or cannot be written to.
    pub(crate) fn create(file: File, level: i32) -> io::Result<Self> {
        if file.metadata()?.len() != 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file for a new pack is not empty",
            ));
        }
        let mut context = CCtx::try_create()
            .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "no zstd context"))?;
        context
            .set_parameter(CParameter::CompressionLevel(level.min(LEVEL_MAX)))
            .map_err(|code| zstd_error("zstd level", code))?;
        let mut header = HEADER_MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        file.write_all_at(&header, 0)?;
        Ok(Self {
            file,
            end: HEADER_BYTES as u64,
            index: BTreeMap::new(),
            context,
            input: vec![0; BUFFER_BYTES].into(),
            output: vec![0; BUFFER_BYTES].into(),
            pending: Vec::new(),
        })
    }

    /// How many blobs the pack has.
    #[cfg(feature = "remote")]
    pub(crate) fn entries(&self) -> usize {
        self.index.len()
    }

    /// Appends the blob `id`. `content` yields its `size` bytes. If the pack has the blob already,
    /// `content` is not read.
    ///
    /// # Errors
    /// `InvalidData` if `content` is longer or shorter than `size`, or has another hash; else the
    /// errors of reading and writing. The pack then has the same blobs as before, and takes
    /// the next one.
    pub(crate) fn add(
        &mut self,
        id: BlobId,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<Location> {
        if let Some(location) = self.index.get(&id) {
            return if location.size == size {
                Ok(*location)
            } else {
                Err(invalid(format!("blob {id} has {} bytes, not {size}", location.size)))
            };
        }
        match self.append(id, size, content) {
            Ok(location) => {
                self.end += ENTRY_HEADER_BYTES as u64 + location.stored;
                self.index.insert(id, location);
                Ok(location)
            }
            Err(error) => {
                // This only frees the space early: the next entry overwrites these bytes, and
                // `finish` cuts off the rest. So its error does not matter; the caller needs to
                // hear the cause of the failure.
                let _ = self.file.set_len(self.end);
                Err(error)
            }
        }
    }

    /// Writes an entry at `end`, and leaves `end` as it is.
    fn append(&mut self, id: BlobId, size: u64, content: &mut dyn Read) -> io::Result<Location> {
        self.context
            .reset(ResetDirective::SessionOnly)
            .and_then(|_| self.context.set_pledged_src_size(Some(size)))
            .map_err(|code| zstd_error("zstd", code))?;
        // Leaves room for the header, which is written last.
        self.pending.clear();
        self.pending.resize(ENTRY_HEADER_BYTES, 0);
        let mut flushed = 0;
        let mut hasher = blake3::Hasher::new();
        let mut total = 0u64;
        loop {
            let filled = fill(content, &mut self.input)?;
            let chunk = &self.input[..filled];
            total += filled as u64;
            if total > size {
                return Err(invalid(format!("blob {id} has more than its {size} bytes")));
            }
            let last = filled < self.input.len();
            if last && total < size {
                return Err(invalid(format!("blob {id} ends after {total} of {size} bytes")));
            }
            hasher.update(chunk);
            let directive = if last {
                if hasher.finalize().as_bytes() != id.as_bytes() {
                    return Err(invalid(format!("the content is not that of blob {id}")));
                }
                ZSTD_EndDirective::ZSTD_e_end
            } else {
                ZSTD_EndDirective::ZSTD_e_continue
            };
            let mut chunk = InBuffer::around(chunk);
            loop {
                let mut output = OutBuffer::around(&mut self.output[..]);
                let left = self
                    .context
                    .compress_stream2(&mut output, &mut chunk, directive)
                    .map_err(|code| zstd_error("zstd", code))?;
                self.pending.extend_from_slice(output.as_slice());
                if self.pending.len() >= BUFFER_BYTES {
                    self.file.write_all_at(&self.pending, self.end + flushed)?;
                    flushed += self.pending.len() as u64;
                    self.pending.clear();
                }
                // For the last chunk, `left` is the number of bytes that did not fit into the
                // buffer. Before that, `left` is only a hint.
                if if last { left == 0 } else { chunk.pos() == chunk.src.len() } {
                    break;
                }
            }
            if last {
                break;
            }
        }
        let stored = flushed + self.pending.len() as u64 - ENTRY_HEADER_BYTES as u64;
        let header = entry_header(id, size, stored);
        if flushed == 0 {
            // The entry is small, so one call writes header and frame.
            self.pending[..header.len()].copy_from_slice(&header);
            self.file.write_all_at(&self.pending, self.end)?;
        } else {
            self.file.write_all_at(&self.pending, self.end + flushed)?;
            self.file.write_all_at(&header, self.end)?;
        }
        Ok(Location { offset: self.end, stored, size })
    }

    /// Writes the trailer and flushes the file to the disk. Returns the file and the location of
    /// each blob, by ascending id.
    ///
    /// # Errors
    /// The errors of writing. The file is then no whole pack, but its entries can be
    /// [scanned](super::Pack::scan).
    pub(crate) fn finish(self) -> io::Result<(File, Vec<(BlobId, Location)>)> {
        let Self { file, end, index, .. } = self;
        let mut trailer = TRAILER_MAGIC.to_vec();
        trailer.extend((index.len() as u64).to_le_bytes());
        for (id, location) in &index {
            trailer.extend(id.as_bytes());
            trailer.extend(location.offset.to_le_bytes());
            trailer.extend(location.stored.to_le_bytes());
            trailer.extend(location.size.to_le_bytes());
        }
        trailer.extend(blake3::hash(&trailer).as_bytes());
        trailer.extend((trailer.len() as u64).to_le_bytes());
        trailer.extend(CLOSING_MAGIC);
        // A reader would take bytes that a failed entry left there for the end of the pack.
        file.set_len(end)?;
        file.write_all_at(&trailer, end)?;
        file.sync_all()?;
        Ok((file, index.into_iter().collect()))
    }
}

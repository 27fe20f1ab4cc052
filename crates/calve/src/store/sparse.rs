//! Writes a file in which zeros take no space. So a file that comes out of a pack has holes again,
//! wherever its blocks contain only zeros.
//!
//! A block of zeros that was data becomes a hole, too. A program can only tell by asking for the
//! holes. The store keeps a content only once anyway, with whatever holes its file had.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;

/// The block size of most filesystems, and the smallest size of a hole.
const BLOCK: usize = 4096;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Writes a file from its start. The file must be empty.
pub(crate) struct SparseWriter<'a> {
    file: &'a File,
    size: u64,
    offset: u64,
}

impl<'a> SparseWriter<'a> {
    /// `size` is the size that the file will have.
    pub(crate) fn new(file: &'a File, size: u64) -> Self {
        Self { file, size, offset: 0 }
    }

    /// Writes a file from `offset` on. The file has only zeros there, and its full size.
    #[cfg(feature = "remote")]
    pub(crate) fn at(file: &'a File, size: u64, offset: u64) -> Self {
        Self { file, size, offset }
    }

    /// The end of the piece of `bytes` that begins at `at` and lies in one block, and whether the
    /// piece has any byte other than zero.
    fn piece(&self, at: usize, bytes: &[u8]) -> (usize, bool) {
        let into = usize::try_from((self.offset + at as u64) % BLOCK as u64).unwrap_or(0);
        let length = (BLOCK - into).min(bytes.len() - at);
        let piece = &bytes[at..at + length];
        (at + length, self.size < BLOCK as u64 || *piece != ZEROS[..length])
    }

    /// Whether no block of `bytes`, which come next, becomes a hole.
    fn is_data(&self, bytes: &[u8]) -> bool {
        let mut at = 0;
        while at < bytes.len() {
            let (next, is_data) = self.piece(at, bytes);
            if !is_data {
                return false;
            }
            at = next;
        }
        true
    }
}

impl Write for SparseWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_all = self.offset == 0 && bytes.len() as u64 == self.size;
        if self.offset == 0 && self.size >= BLOCK as u64 && !(is_all && self.is_data(bytes)) {
            // The file gets its full size at once. While XFS sees a file grow, it allocates space
            // ahead, and also in the holes.
            self.file.set_len(self.size)?;
        }
        let mut at = 0;
        while at < bytes.len() {
            let start = at;
            let mut next = self.piece(at, bytes);
            while next.1 {
                at = next.0;
                next = if at < bytes.len() { self.piece(at, bytes) } else { (at, false) };
            }
            if start < at {
                self.file.write_all_at(&bytes[start..at], self.offset + start as u64)?;
            }
            at = next.0;
        }
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_the_content_however_it_is_cut() {
        let mut holes = vec![0; 50_000];
        for at in [0, 1, 4095, 12_288, 20_000, 49_999] {
            holes[at] = 7;
        }
        let data = vec![7; 50_000];
        for (content, cut, size) in [
            (&holes, 1, 9000),
            (&holes, 4095, 50_000),
            (&holes, 4096, 50_000),
            (&holes, 5000, 50_000),
            (&holes, 50_000, 50_000),
            (&data, 4095, 50_000),
            (&data, 50_000, 50_000),
        ] {
            let file = tempfile::tempfile().unwrap();
            let mut writer = SparseWriter::new(&file, size);
            let size = usize::try_from(size).unwrap();
            for piece in content[..size].chunks(cut) {
                writer.write_all(piece).unwrap();
            }
            let mut found = vec![1; size];
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found == content[..size], "cut at {cut}");
            assert_eq!(file.metadata().unwrap().len(), size as u64);
        }
    }
}

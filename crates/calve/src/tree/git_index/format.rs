//! The bytes of a git index: where its entries are, what they record of a file, and its checksum.
//!
//! `gitformat-index(5)` is the definition. An index is a header of 12 bytes, entries that are sorted by path, extensions,
//! and a checksum of all that. An index that this module does not understand to its last byte stays as it is.
//!
//! | part | versions 2 and 3 | version 4 |
//! |---|---|---|
//! | stat fields | 10 numbers of 4 bytes | the same |
//! | object id | 20 bytes (SHA-1) or 32 (SHA-256) | the same |
//! | flags | 2 bytes, and 2 more if the first bit but one is set (not in version 2) | the same |
//! | path | as it is, then 1 to 8 zeros up to a multiple of 8 | how many bytes of the last path go, then what follows, then one zero |

use std::collections::HashSet;
use std::ops::Range;

use sha1_smol::Sha1;

use super::sha256::sha256;

/// What an entry begins with: ten numbers.
const STAT_BYTES: usize = 40;
const HEADER_BYTES: usize = 12;
/// No filesystem has a longer path, and git checks none out.
const PATH_MOST_BYTES: usize = 4096;
/// So many entries are one piece of work.
const CHUNK_ENTRIES: u32 = 512;

/// Flags of an entry: assume-unchanged, extended, stage.
const ASSUME_VALID: u16 = 0x8000;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
const NAME_LENGTH: u16 = 0x0fff;

/// What the checksum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Sha1,
    Sha256,
    /// Zeros (`index.skipHash`), and they stay zeros.
    None,
}

/// Entries that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) bytes: Range<usize>,
    /// Reads the first of them.
    pub(super) cursor: Cursor,
}

/// An index that was understood.
#[derive(Debug)]
pub(super) struct Layout {
    checksum: Checksum,
    id_bytes: usize,
    pub(super) chunks: Vec<Chunk>,
}

/// Reads one entry after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor {
    version: u32,
    id_bytes: usize,
    at: usize,
    /// The path of the entry that was read last.
    pub(super) path: Vec<u8>,
}

/// What an entry says, but its path, which the cursor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where it begins.
    pub(super) at: usize,
    pub(super) recorded: Recorded,
    flags: u16,
    extended: u16,
}

/// What an entry records of its file. Every number is cut to 32 bits, and times are seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Recorded {
    pub(super) changed: (u32, u32),
    pub(super) modified: (u32, u32),
    pub(super) dev: u32,
    pub(super) ino: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u32,
}

impl Recorded {
    fn read(bytes: &[u8; STAT_BYTES]) -> Self {
        let number = |index: usize| {
            let at = index * 4;
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Self {
            changed: (number(0), number(1)),
            modified: (number(2), number(3)),
            dev: number(4),
            ino: number(5),
            mode: number(6),
            uid: number(7),
            gid: number(8),
            size: number(9),
        }
    }

    fn to_bytes(self) -> [u8; STAT_BYTES] {
        let (changed, modified) = (self.changed, self.modified);
        let numbers = [
            changed.0, changed.1, modified.0, modified.1, self.dev, self.ino, self.mode, self.uid,
            self.gid, self.size,
        ];
        let mut bytes = [0; STAT_BYTES];
        for (place, number) in bytes.chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }
}

impl Entry {
    /// Whether git would compare it with a file as it stands: it is not told to believe it or to do without the file
    /// (assume-unchanged, skip-worktree), it has a content (no intent-to-add), and it is no side of a conflict.
    pub(super) fn is_plain(&self) -> bool {
        self.flags & (ASSUME_VALID | STAGE) == 0 && self.extended == 0
    }

    /// Writes other stat fields to the entry, which is in `bytes` at the same place.
    pub(super) fn record(&self, bytes: &mut [u8], recorded: Recorded) {
        if let Some(place) = bytes.get_mut(self.at..self.at + STAT_BYTES) {
            place.copy_from_slice(&recorded.to_bytes());
        }
    }
}

impl Cursor {
    /// The next entry of `bytes`; `None` where there is none, or none that can be understood.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<Entry> {
        let start = self.at;
        let rest = bytes.get(start..)?;
        let recorded = Recorded::read(rest.first_chunk::<STAT_BYTES>()?);
        let mut at = STAT_BYTES + self.id_bytes;
        let flags = number16(rest, at)?;
        at += 2;
        let mut extended = 0;
        if flags & EXTENDED != 0 {
            if self.version < 3 {
                return None;
            }
            extended = number16(rest, at)?;
            at += 2;
        }
        if self.version == 4 {
            let (strip, length) = varint(rest.get(at..)?)?;
            at += length;
            let kept = self.path.len().checked_sub(strip)?;
            let suffix = until_zero(rest.get(at..)?)?;
            self.path.truncate(kept);
            self.path.extend_from_slice(suffix);
            at += suffix.len() + 1;
        } else {
            let path = until_zero(rest.get(at..)?)?;
            self.path.clear();
            self.path.extend_from_slice(path);
            let end = (at + path.len() + 8) & !7;
            if rest.get(at + path.len()..end)?.iter().any(|byte| *byte != 0) {
                return None;
            }
            at = end;
        }
        let length = usize::from(flags & NAME_LENGTH);
        if self.path.is_empty() || self.path.len().min(usize::from(NAME_LENGTH)) != length {
            return None;
        }
        self.at = start + at;
        Some(Entry { at: start, recorded, flags, extended })
    }
}

impl Layout {
    /// Understands an index, or does not.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let ends_with = |sum: &[u8]| bytes.ends_with(sum);
        let without = |length: usize| bytes.get(..bytes.len().checked_sub(length)?);
        let (checksum, id_bytes, chunks) = if ends_with(&[0; 20]) {
            // Whose ids are of which length nothing says: what fits to the last byte is it, and never both.
            match (chunks(bytes, 20), chunks(bytes, 32).filter(|_| ends_with(&[0; 32]))) {
                (Some(chunks), None) => (Checksum::None, 20, chunks),
                (None, Some(chunks)) => (Checksum::None, 32, chunks),
                _ => return None,
            }
        } else if ends_with(&Sha1::from(without(20)?).digest().bytes()) {
            (Checksum::Sha1, 20, chunks(bytes, 20)?)
        } else {
            // Most of what is no index at all ends here, before it is hashed a second time.
            let chunks = chunks(bytes, 32)?;
            if !ends_with(&sha256(without(32)?)) {
                return None;
            }
            (Checksum::Sha256, 32, chunks)
        };
        Some(Self { checksum, id_bytes, chunks })
    }

    /// Whether there is one that says which of two meanings an index has.
    #[cfg(all(feature = "store", any(test, fuzzing)))]
    pub(super) fn has_checksum(&self) -> bool {
        self.checksum != Checksum::None
    }

    /// The paths of the entries, in `bytes`, of which this is the layout.
    pub(super) fn paths(&self, bytes: &[u8]) -> HashSet<Vec<u8>> {
        let mut paths = HashSet::new();
        for chunk in &self.chunks {
            let (mut cursor, bytes) = (chunk.cursor.clone(), &bytes[chunk.bytes.clone()]);
            while cursor.next(bytes).is_some() {
                paths.insert(cursor.path.clone());
            }
        }
        paths
    }

    /// Makes the checksum good again.
    pub(super) fn seal(&self, bytes: &mut [u8]) {
        let Some(end) = bytes.len().checked_sub(self.id_bytes) else { return };
        let (content, sum) = bytes.split_at_mut(end);
        match self.checksum {
            Checksum::Sha1 => sum.copy_from_slice(&Sha1::from(content).digest().bytes()),
            Checksum::Sha256 => sum.copy_from_slice(&sha256(content)),
            Checksum::None => {}
        }
    }
}

/// The entries of an index whose ids have this length, if it is one to its last byte, and no split one: that has
/// its other entries in another file.
fn chunks(bytes: &[u8], id_bytes: usize) -> Option<Vec<Chunk>> {
    let content = bytes.get(..bytes.len().checked_sub(id_bytes)?)?;
    let [magic, version, count] =
        [0, 4, 8].map(|at| Some(u32::from_be_bytes(*content.get(at..)?.first_chunk()?)));
    let (version, count) = (version?, count?);
    if magic? != u32::from_be_bytes(*b"DIRC") || !(2..=4).contains(&version) {
        return None;
    }
    let mut chunks = Vec::new();
    let mut cursor = Cursor { version, id_bytes, at: HEADER_BYTES, path: Vec::new() };
    let mut left = count;
    while left > 0 {
        let (start, path) = (cursor.at, cursor.path.clone());
        let now = left.min(CHUNK_ENTRIES);
        for _ in 0..now {
            cursor.next(content)?;
            if cursor.path.len() > PATH_MOST_BYTES {
                return None;
            }
        }
        let first = Cursor { version, id_bytes, at: 0, path };
        chunks.push(Chunk { bytes: start..cursor.at, cursor: first });
        left -= now;
    }
    let mut at = cursor.at;
    while at < content.len() {
        let name = content.get(at..)?.first_chunk::<4>()?;
        let length = u32::from_be_bytes(*content.get(at + 4..)?.first_chunk()?);
        // Those in lower case must be understood.
        if !name[0].is_ascii_uppercase() && name != b"sdir" {
            return None;
        }
        at = at.checked_add(8)?.checked_add(usize::try_from(length).ok()?)?;
    }
    (at == content.len()).then_some(chunks)
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn until_zero(bytes: &[u8]) -> Option<&[u8]> {
    // A longer one is refused by its length.
    let near = bytes.get(..PATH_MOST_BYTES + 2).unwrap_or(bytes);
    Some(&near[..near.iter().position(|byte| *byte == 0)?])
}

/// A number as git's packs have it, and how many bytes it takes.
fn varint(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        if index > 0 {
            value = value.checked_add(1)?.checked_mul(128)?;
        }
        value = value.checked_add(usize::from(byte & 127))?;
        if byte & 128 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

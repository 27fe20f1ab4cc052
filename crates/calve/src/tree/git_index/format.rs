//! The bytes of a git index: where its entries are, what they record of a file, and its checksum.
//!
//! `gitformat-index(5)` is the definition. An index consists of a header of 12 bytes, entries
//! sorted by path, extensions, and a checksum of all that. If this module does not understand an
//! index to its last byte, the index stays as it is.
//!
//! | part | versions 2 and 3 | version 4 |
//! |---|---|---|
//! | stat fields | 10 numbers of 4 bytes | the same |
//! | object id | 20 bytes (SHA-1) or 32 (SHA-256) | the same |
//! | flags | 2 bytes; 2 more if the second-highest bit is set (not in version 2) | the same |
//! | path | the path, then 1 to 8 zeros up to a multiple of 8 | see below |
//!
//! In version 4 the path is stored as a difference to the previous entry's path: how many bytes to
//! remove from its end, then the bytes to add, then one zero.

use std::ffi::CStr;
use std::ops::Range;

use sha1_smol::Sha1;

use super::sha256::sha256;

/// Each entry begins with ten numbers, its stat.
const STAT_BYTES: usize = 40;
const HEADER_BYTES: usize = 12;
/// No filesystem has a longer path, and git checks none out.
const PATH_MOST_BYTES: usize = 4096;
/// How many entries a thread takes at once.
const CHUNK_ENTRIES: u32 = 512;

/// Flags of an entry: assume-unchanged, extended, stage.
const ASSUME_VALID: u16 = 0x8000;
const EXTENDED: u16 = 0x4000;
const STAGE: u16 = 0x3000;
const NAME_LENGTH: u16 = 0x0fff;
/// An extended flag of an entry: skip-worktree.
const SKIP_WORKTREE: u16 = 0x4000;
/// The type in the mode of an entry that is a submodule's commit.
const SUBMODULE: u32 = 0o160_000;

/// The kind of checksum at the end of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Sha1,
    Sha256,
    /// Zeros (`index.skipHash`), which stay zeros.
    None,
}

/// Consecutive entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) bytes: Range<usize>,
    /// A cursor at the first of the entries.
    pub(super) cursor: Cursor,
}

/// An index that this module understands.
#[derive(Debug)]
pub(super) struct IndexLayout {
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

/// An entry without its path, which the cursor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The entry's position.
    pub(super) at: usize,
    pub(super) recorded: Recorded,
    flags: u16,
    extended: u16,
}

/// The stat that an entry records of its file. Every number is cut to 32 bits; times are seconds
/// and nanoseconds.
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
    /// Whether the entry is a regular file: no link, no submodule, no directory of a sparse index.
    pub(super) fn is_regular(self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }

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

impl IndexEntry {
    /// The id of the content, of an entry of `bytes`, whose layout this is.
    pub(super) fn id<'a>(&self, bytes: &'a [u8], layout: &IndexLayout) -> &'a [u8] {
        let start = self.at + STAT_BYTES;
        bytes.get(start..start + layout.id_bytes).unwrap_or_default()
    }

    /// Whether git would compare the entry with the file. git does not do so if it is told to trust
    /// the entry or to do without the file (assume-unchanged, skip-worktree), if the entry has no
    /// content (intent-to-add), or if it is one side of a conflict.
    pub(super) fn is_plain(&self) -> bool {
        self.flags & (ASSUME_VALID | STAGE) == 0 && self.extended == 0
    }

    pub(super) fn is_submodule(&self) -> bool {
        self.recorded.mode & SUBMODULE == SUBMODULE
    }

    /// Whether git takes the file for unchanged without a look: assume-unchanged, skip-worktree.
    pub(super) fn is_hidden(&self) -> bool {
        self.flags & ASSUME_VALID != 0 || self.is_skipped()
    }

    /// Whether the entry is outside of a sparse checkout.
    pub(super) fn is_skipped(&self) -> bool {
        self.extended & SKIP_WORKTREE != 0
    }

    /// Writes another stat to the entry, which is at the same position in `bytes`.
    pub(super) fn record(&self, bytes: &mut [u8], recorded: Recorded) {
        if let Some(place) = bytes.get_mut(self.at..self.at + STAT_BYTES) {
            place.copy_from_slice(&recorded.to_bytes());
        }
    }
}

impl Cursor {
    /// The next entry of `bytes`. `None` if there is none, or none that this module understands.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<IndexEntry> {
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
        Some(IndexEntry { at: start, recorded, flags, extended })
    }
}

impl IndexLayout {
    /// Parses an index. `None` if this module does not understand it.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let ends_with = |sum: &[u8]| bytes.ends_with(sum);
        let without = |length: usize| bytes.get(..bytes.len().checked_sub(length)?);
        let (checksum, id_bytes, chunks) = if ends_with(&[0; 20]) {
            let (id_bytes, chunks) = by_either_length(|id_bytes| chunks(bytes, id_bytes))?;
            let is_whole = id_bytes == 20 || ends_with(&[0; 32]);
            return is_whole.then_some(Self { checksum: Checksum::None, id_bytes, chunks });
        } else if ends_with(&Sha1::from(without(20)?).digest().bytes()) {
            (Checksum::Sha1, 20, chunks(bytes, 20)?)
        } else {
            // Most files that are no index are rejected here, before calve hashes them a second
            // time.
            let chunks = chunks(bytes, 32)?;
            if !ends_with(&sha256(without(32)?)) {
                return None;
            }
            (Checksum::Sha256, 32, chunks)
        };
        Some(Self { checksum, id_bytes, chunks })
    }

    /// Whether the index has a checksum, which tells the length of its ids.
    #[cfg(all(feature = "store", any(test, fuzzing)))]
    pub(super) fn has_checksum(&self) -> bool {
        self.checksum != Checksum::None
    }

    /// Writes the right checksum.
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

/// Nothing but the checksum says how long the ids of an index are. The length with which the index
/// parses to the last byte is the right one. If both lengths do, calve does not decide.
fn by_either_length<T>(mut parse: impl FnMut(usize) -> Option<T>) -> Option<(usize, T)> {
    match (parse(20), parse(32)) {
        (Some(parsed), None) => Some((20, parsed)),
        (None, Some(parsed)) => Some((32, parsed)),
        _ => None,
    }
}

/// Reads an index once, as git does: without a look at its checksum. `see` gets what was found so
/// far, an entry, and the id of its content. `None` if this module does not understand the index.
pub(super) fn read_once<T: Default>(
    bytes: &[u8],
    mut see: impl FnMut(&mut T, &Cursor, IndexEntry, &[u8]),
) -> Option<T> {
    let read = by_either_length(|id_bytes| {
        let mut found = T::default();
        each_entry(bytes, id_bytes, |cursor, entry| {
            let id = bytes.get(entry.at + STAT_BYTES..).and_then(|rest| rest.get(..id_bytes));
            see(&mut found, cursor, entry, id.unwrap_or_default());
        })?;
        Some(found)
    });
    read.map(|(_, found)| found)
}

/// The entries of an index whose ids have this length. `None` as for [`each_entry`].
fn chunks(bytes: &[u8], id_bytes: usize) -> Option<Vec<Chunk>> {
    let (mut chunks, mut next) = (Vec::<Chunk>::new(), (HEADER_BYTES, Vec::new()));
    let mut entries = 0;
    each_entry(bytes, id_bytes, |cursor, _| {
        if entries % CHUNK_ENTRIES == 0 {
            let (start, path) = std::mem::take(&mut next);
            let first = Cursor { at: 0, path, ..cursor.clone() };
            chunks.push(Chunk { bytes: start..cursor.at, cursor: first });
        }
        entries += 1;
        if let Some(chunk) = chunks.last_mut() {
            chunk.bytes.end = cursor.at;
        }
        if entries % CHUNK_ENTRIES == 0 {
            next = (cursor.at, cursor.path.clone());
        }
    })?;
    Some(chunks)
}

/// Calls `see` for each entry of an index whose ids have this length. `None` if the index does not
/// parse to its last byte, or is a split index, which has its other entries in another file.
fn each_entry(
    bytes: &[u8],
    id_bytes: usize,
    mut see: impl FnMut(&Cursor, IndexEntry),
) -> Option<()> {
    let content = bytes.get(..bytes.len().checked_sub(id_bytes)?)?;
    let [magic, version, count] =
        [0, 4, 8].map(|at| Some(u32::from_be_bytes(*content.get(at..)?.first_chunk()?)));
    let (version, count) = (version?, count?);
    if magic? != u32::from_be_bytes(*b"DIRC") || !(2..=4).contains(&version) {
        return None;
    }
    let mut cursor = Cursor { version, id_bytes, at: HEADER_BYTES, path: Vec::new() };
    for _ in 0..count {
        let entry = cursor.next(content)?;
        if cursor.path.len() > PATH_MOST_BYTES {
            return None;
        }
        see(&cursor, entry);
    }
    let mut at = cursor.at;
    while at < content.len() {
        let name = content.get(at..)?.first_chunk::<4>()?;
        let length = u32::from_be_bytes(*content.get(at + 4..)?.first_chunk()?);
        // git must understand an extension in lower case to read the index.
        if !name[0].is_ascii_uppercase() && name != b"sdir" {
            return None;
        }
        at = at.checked_add(8)?.checked_add(usize::try_from(length).ok()?)?;
    }
    (at == content.len()).then_some(())
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn until_zero(bytes: &[u8]) -> Option<&[u8]> {
    // A path that is longer than this is rejected by its length.
    let near = bytes.get(..PATH_MOST_BYTES + 2).unwrap_or(bytes);
    Some(CStr::from_bytes_until_nul(near).ok()?.to_bytes())
}

/// A number in the encoding of git's packs, and how many bytes it takes.
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

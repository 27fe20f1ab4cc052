//! Directory and snapshot objects, and their encoding.
//!
//! The encoding is canonical: one value has one encoding, and bytes that are not the encoding of a
//! value are refused. So an object's id identifies everything in the object, and two directories
//! are equal if their ids are equal.
//!
//! ```text
//! directory  = varint(number of entries) entry*    entries by name, strictly ascending, bytewise
//! entry      = kind:1 varint(length of name) name meta body
//! kind       = 1 file | 2 directory | 3 symbolic link | 4 FIFO, + 0x10 where there are attributes,
//!              + 0x20 where a symbolic link or a FIFO has a link group
//! meta       = varint(mode & 07777) varint(uid) varint(gid) zigzag(mtime's seconds)
//!              varint(its nanoseconds) [attributes]
//! attributes = varint(number) (varint(length) name varint(length) value)*
//!                                                  by name, strictly ascending
//! body       = file: varint(size) varint(link group, 0: none) id:32
//!            | directory: id:32
//!            | symbolic link: [varint(link group)] varint(length) target
//!            | FIFO: [varint(link group)]
//! snapshot   = entry (the root, a directory with an empty name) parent:1 [id:32]
//!              zigzag(created, seconds) varint(nanoseconds) varint(length) message
//!              varint(entries) varint(files) varint(bytes)
//! varint     = LEB128, the shortest form;  zigzag = varint of (n << 1) ^ (n >> 63)
//! ```
//!
//! A *link group* is a number that all names of one entry share. It is the first eight bytes of the
//! BLAKE3 of the path of the first of these names, so it is the same wherever and whenever the same
//! tree is read. For symbolic links and FIFOs it is written only if it is not 0.

use std::fmt;

use super::id::{BlobId, DirectoryId, ID_BYTES, SnapshotId};
use super::name::Name;

/// The bytes, and their hash after them.
pub(crate) fn with_hash(mut bytes: Vec<u8>) -> Vec<u8> {
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// The bytes before their hash.
pub(crate) fn without_hash(bytes: &[u8]) -> Result<&[u8], Malformed> {
    match bytes.split_last_chunk::<ID_BYTES>() {
        Some((body, hash)) if blake3::hash(body).as_bytes() == hash => Ok(body),
        _ => Err(Malformed("it does not have its own hash")),
    }
}

/// The kind of an entry, with the content of that kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File { size: u64, link: u64, blob: BlobId },
    Directory(DirectoryId),
    Symlink { target: Box<[u8]>, link: u64 },
    Fifo { link: u64 },
}

/// Extended attributes: names (without a terminator) and values, sorted by name.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Seconds and nanoseconds since 1970. It takes 12 bytes, a tuple 16: that is 8 bytes less for each
/// entry in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(Rust, packed(4))]
pub(crate) struct Time(pub(crate) i64, pub(crate) u32);

impl From<(i64, u32)> for Time {
    fn from((seconds, nanoseconds): (i64, u32)) -> Self {
        Self(seconds, nanoseconds)
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    /// Permission bits, including the set-ID and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) attributes: Option<Box<Attributes>>,
    pub(crate) kind: Kind,
}

impl Entry {
    /// Whether mode, owner and attributes are the same. Symbolic links have no mode of their own.
    pub(crate) fn same_metadata(&self, other: &Self) -> bool {
        let is_link = matches!(self.kind, Kind::Symlink { .. });
        (is_link || self.mode == other.mode)
            && (self.uid, self.gid) == (other.uid, other.gid)
            && self.attributes == other.attributes
    }

    /// Whether the kind and the content are the same.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::File { blob: a, size: x, .. }, Kind::File { blob: b, size: y, .. }) => {
                a == b && x == y
            }
            (Kind::Directory(_), Kind::Directory(_)) | (Kind::Fifo { .. }, Kind::Fifo { .. }) => {
                true
            }
            (Kind::Symlink { target: a, .. }, Kind::Symlink { target: b, .. }) => a == b,
            _ => false,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    /// The link group of the entry. 0 if it has only one name; directories never have more.
    pub(crate) fn link(&self) -> u64 {
        match self.kind {
            Kind::File { link, .. } | Kind::Symlink { link, .. } | Kind::Fifo { link } => link,
            Kind::Directory(_) => 0,
        }
    }

    pub(crate) fn set_link(&mut self, group: u64) {
        match &mut self.kind {
            Kind::File { link, .. } | Kind::Symlink { link, .. } | Kind::Fifo { link } => {
                *link = group;
            }
            Kind::Directory(_) => {}
        }
    }

    /// Whether the entry is a symbolic link or a FIFO that has several names.
    fn is_linked_special(&self) -> bool {
        matches!(self.kind, Kind::Symlink { link: 1.., .. } | Kind::Fifo { link: 1.. })
    }
}

/// The content of a snapshot object; the snapshot's id is its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotObject {
    pub(crate) root: Entry,
    pub(crate) parent: Option<SnapshotId>,
    pub(crate) created: (i64, u32),
    pub(crate) message: String,
    /// The number of entries of every kind, including the root. A reader that finds more entries
    /// refuses the snapshot.
    pub(crate) entries: u64,
    pub(crate) files: u64,
    /// The sum of the sizes of all files.
    pub(crate) bytes: u64,
}

/// Why bytes are not an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed object: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for std::io::Error {
    fn from(error: Malformed) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

const ATTRIBUTES: u8 = 0x10;
/// The bit for a link group, on a symbolic link or a FIFO.
const LINKED: u8 = 0x20;
const LINKED_SYMLINK: u8 = 3 | LINKED;
const LINKED_FIFO: u8 = 4 | LINKED;

/// No filesystem has longer names. The limit bounds how much memory a hostile object can take.
const NAME_MOST_BYTES: usize = 1024;

/// An entry is at least this long: a FIFO with a name of one byte, of which each number takes a
/// byte.
const ENTRY_LEAST_BYTES: usize = 8;

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits are left")]
    out.push(value as u8);
}

pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front of a slice. Every length is compared with the bytes that are left.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Malformed("a number is longer than it must be"));
                }
                return Ok(value);
            }
        }
        Err(Malformed("a number is too large"))
    }

    pub(crate) fn zigzag(&mut self) -> Result<i64, Malformed> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.varint()?).map_err(|_| Malformed("a number is too large"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed("too long"))?;
        self.take(length)
    }

    pub(crate) fn id(&mut self) -> Result<[u8; ID_BYTES], Malformed> {
        self.take(ID_BYTES)?.try_into().map_err(|_| Malformed("it ends too early"))
    }

    pub(crate) fn time(&mut self) -> Result<(i64, u32), Malformed> {
        let seconds = self.zigzag()?;
        let nanoseconds = self.u32()?;
        if nanoseconds >= 1_000_000_000 {
            return Err(Malformed("a second has fewer nanoseconds"));
        }
        Ok((seconds, nanoseconds))
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows it")) }
    }
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    let kind = match entry.kind {
        Kind::File { .. } => 1,
        Kind::Directory(_) => 2,
        Kind::Symlink { .. } => 3,
        Kind::Fifo { .. } => 4,
    };
    let linked = entry.is_linked_special();
    let attributes = if entry.attributes.is_some() { ATTRIBUTES } else { 0 };
    out.push(kind | attributes | if linked { LINKED } else { 0 });
    put_bytes(out, &entry.name);
    put_varint(out, entry.mode.into());
    put_varint(out, entry.uid.into());
    put_varint(out, entry.gid.into());
    put_zigzag(out, entry.mtime.0);
    put_varint(out, u64::from(entry.mtime.1));
    if let Some(attributes) = &entry.attributes {
        put_varint(out, attributes.len() as u64);
        for (name, value) in attributes.iter() {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
    if linked {
        put_varint(out, entry.link());
    }
    match &entry.kind {
        Kind::File { size, link, blob } => {
            put_varint(out, *size);
            put_varint(out, *link);
            out.extend_from_slice(blob.as_bytes());
        }
        Kind::Directory(id) => out.extend_from_slice(id.as_bytes()),
        Kind::Symlink { target, .. } => put_bytes(out, target),
        Kind::Fifo { .. } => {}
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, Malformed> {
    let kind = reader.byte()?;
    let name = reader.bytes()?;
    if name.len() > NAME_MOST_BYTES {
        return Err(Malformed("a name is too long"));
    }
    let mode = reader.u32()?;
    if mode > 0o7777 {
        return Err(Malformed("a mode has bits that are no permissions"));
    }
    let (uid, gid) = (reader.u32()?, reader.u32()?);
    let mtime = reader.time().map(Time::from)?;
    let attributes = if kind & ATTRIBUTES != 0 { Some(read_attributes(reader)?) } else { None };
    let link = match kind & LINKED {
        0 => 0,
        _ => match reader.varint()? {
            0 => return Err(Malformed("a link group is announced and there is none")),
            link => link,
        },
    };
    let kind = match kind & !ATTRIBUTES {
        1 => {
            let (size, link) = (reader.varint()?, reader.varint()?);
            if size > i64::MAX.unsigned_abs() {
                return Err(Malformed("a file is larger than files can be"));
            }
            Kind::File { size, link, blob: BlobId::from_bytes(reader.id()?) }
        }
        2 => Kind::Directory(DirectoryId::from_bytes(reader.id()?)),
        3 | LINKED_SYMLINK => {
            let target = reader.bytes()?;
            if target.is_empty() || target.contains(&0) {
                return Err(Malformed("a link's target cannot be"));
            }
            Kind::Symlink { target: target.into(), link }
        }
        4 | LINKED_FIFO => Kind::Fifo { link },
        _ => return Err(Malformed("an entry is of an unknown kind")),
    };
    Ok(Entry { name: name.into(), mode, uid, gid, mtime, attributes, kind })
}

fn read_attributes(reader: &mut Reader<'_>) -> Result<Box<Attributes>, Malformed> {
    let count = reader.varint()?;
    let mut attributes: Attributes = Vec::new();
    for _ in 0..count {
        let (name, value) = (reader.bytes()?, reader.bytes()?);
        if name.is_empty() || name.contains(&0) {
            return Err(Malformed("an attribute's name cannot be"));
        }
        if attributes.last().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err(Malformed("the attributes are out of order"));
        }
        attributes.push((name.into(), value.into()));
    }
    if attributes.is_empty() {
        return Err(Malformed("attributes are announced and there are none"));
    }
    Ok(Box::new(attributes))
}

/// Whether a directory may have an entry of this name. This check keeps a hostile store from
/// writing outside of its destination.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}

/// Encodes a directory. `entries` must be sorted.
pub(crate) fn encode_directory(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * 80 + 2);
    put_varint(&mut out, entries.len() as u64);
    for entry in entries {
        put_entry(&mut out, entry);
    }
    out
}

/// Fails if nobody could read a directory with these entries again.
pub(crate) fn check_directory(entries: &[Entry]) -> Result<(), Malformed> {
    let before = std::iter::once(None).chain(entries.iter().map(Some));
    before.zip(entries).try_for_each(|(last, entry)| may_follow(last, entry))
}

fn may_follow(last: Option<&Entry>, entry: &Entry) -> Result<(), Malformed> {
    if !is_name(&entry.name) {
        return Err(Malformed("a name cannot be"));
    }
    if last.is_some_and(|last| *last.name >= *entry.name) {
        return Err(Malformed("the entries are out of order"));
    }
    Ok(())
}

/// Decodes a directory.
pub(crate) fn decode_directory(bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut reader = Reader(bytes);
    let count = reader.varint()?;
    // No more than there can be in these bytes, whatever the count says. Without spare room,
    // because a snapshot has many directories.
    let most = bytes.len() / ENTRY_LEAST_BYTES;
    let mut entries: Vec<Entry> =
        Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(most));
    for _ in 0..count {
        let entry = read_entry(&mut reader)?;
        may_follow(entries.last(), &entry)?;
        entries.push(entry);
    }
    reader.end()?;
    Ok(entries)
}

impl SnapshotObject {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_entry(&mut out, &self.root);
        match &self.parent {
            None => out.push(0),
            Some(parent) => {
                out.push(1);
                out.extend_from_slice(parent.as_bytes());
            }
        }
        put_zigzag(&mut out, self.created.0);
        put_varint(&mut out, self.created.1.into());
        put_bytes(&mut out, self.message.as_bytes());
        put_varint(&mut out, self.entries);
        put_varint(&mut out, self.files);
        put_varint(&mut out, self.bytes);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let root = read_entry(&mut reader)?;
        if !root.name.is_empty() || !root.is_directory() {
            return Err(Malformed("a snapshot's root is not one"));
        }
        let parent = match reader.byte()? {
            0 => None,
            1 => Some(SnapshotId::from_bytes(reader.id()?)),
            _ => return Err(Malformed("a parent is neither there nor missing")),
        };
        let created = reader.time()?;
        let message = std::str::from_utf8(reader.bytes()?)
            .map_err(|_| Malformed("a message is not UTF-8"))?
            .to_owned();
        let (entries, files, bytes) = (reader.varint()?, reader.varint()?, reader.varint()?);
        reader.end()?;
        Ok(Self { root, parent, created, message, entries, files, bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_link() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), any::<u64>()]
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        let kind = prop_oneof![
            (0..=i64::MAX.unsigned_abs(), any::<u64>(), any::<[u8; 32]>()).prop_map(
                |(size, link, blob)| Kind::File { size, link, blob: BlobId::from_bytes(blob) }
            ),
            any::<[u8; 32]>().prop_map(|id| Kind::Directory(DirectoryId::from_bytes(id))),
            (proptest::collection::vec(1..=255_u8, 1..20), some_link())
                .prop_map(|(target, link)| Kind::Symlink { target: target.into(), link }),
            some_link().prop_map(|link| Kind::Fifo { link }),
        ];
        let attributes = proptest::collection::btree_map(
            proptest::collection::vec(1..=255_u8, 1..9),
            any::<Vec<u8>>(),
            1..3,
        );
        (
            proptest::collection::vec(1..=255_u8, 1..9),
            0..=0o7777_u32,
            any::<(u32, u32)>(),
            (any::<i64>(), 0..1_000_000_000_u32),
            proptest::option::of(attributes),
            kind,
        )
            .prop_filter("a name", |(name, ..)| is_name(name))
            .prop_map(|(name, mode, (uid, gid), mtime, attributes, kind)| Entry {
                name: name.into(),
                mode,
                uid,
                gid,
                mtime: mtime.into(),
                attributes: attributes.map(|map| Box::new(map.into_iter().collect())),
                kind,
            })
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_itself_and_has_no_other_encoding(
            entries in proptest::collection::vec(any_entry(), 0..6),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let mut entries = entries;
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.dedup_by(|a, b| a.name == b.name);
            let mut encoded = encode_directory(&entries);
            let decoded = decode_directory(&encoded);
            prop_assert_eq!(decoded.as_ref(), Ok(&entries));
            for end in 0..encoded.len() {
                prop_assert!(decode_directory(&encoded[..end]).is_err());
            }
            // If other bytes decode, they encode to the same bytes again.
            let at = at.index(encoded.len());
            encoded[at] ^= 1 << bit;
            if let Ok(other) = decode_directory(&encoded) {
                prop_assert_eq!(encode_directory(&other), encoded);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_canonical(bytes in any::<Vec<u8>>()) {
            if let Ok(entries) = decode_directory(&bytes) {
                prop_assert_eq!(encode_directory(&entries), bytes.clone());
            }
            if let Ok(snapshot) = SnapshotObject::decode(&bytes) {
                prop_assert_eq!(snapshot.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            let entry = Entry {
                name: name.into(),
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: Time(0, 0),
                attributes: None,
                kind: Kind::Fifo { link: 0 },
            };
            assert!(check_directory(std::slice::from_ref(&entry)).is_err(), "{name:?}");
            assert!(decode_directory(&encode_directory(&[entry])).is_err(), "{name:?}");
        }
    }

    /// Objects that an earlier version could write keep their bytes and their ids. A link group
    /// that such a version could not write has a bit of its own.
    #[test]
    fn a_link_group_of_a_symbolic_link_or_a_fifo_takes_room_only_where_there_is_one() {
        let of = |kind: Kind| Entry {
            name: b"n"[..].into(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Time(0, 0),
            attributes: None,
            kind,
        };
        let target = || b"t"[..].into();
        for (row, kind, expected) in [
            (
                "link",
                Kind::Symlink { target: target(), link: 0 },
                &b"\x01\x03\x01n\xa4\x03\0\0\0\0\x01t"[..],
            ),
            ("FIFO", Kind::Fifo { link: 0 }, b"\x01\x04\x01n\xa4\x03\0\0\0\0"),
            (
                "linked",
                Kind::Symlink { target: target(), link: 5 },
                b"\x01\x23\x01n\xa4\x03\0\0\0\0\x05\x01t",
            ),
            ("linked FIFO", Kind::Fifo { link: 5 }, b"\x01\x24\x01n\xa4\x03\0\0\0\0\x05"),
        ] {
            let entry = of(kind);
            let encoded = encode_directory(std::slice::from_ref(&entry));
            assert_eq!(encoded, expected, "{row}");
            assert_eq!(decode_directory(&encoded).unwrap(), [entry], "{row}");
        }
        for (row, refused) in [
            ("a link group of nothing", &b"\x01\x24\x01n\xa4\x03\0\0\0\0\0"[..]),
            (
                "a file with the bit",
                &[&b"\x01\x21\x01n\xa4\x03\0\0\0\0\x05\0\0"[..], &[7; 32]].concat(),
            ),
            (
                "a folder with the bit",
                &[&b"\x01\x22\x01n\xa4\x03\0\0\0\0\x05"[..], &[7; 32]].concat(),
            ),
        ] {
            assert!(decode_directory(refused).is_err(), "{row}");
        }
    }
}

//! What a remote says of a snapshot: a record with the snapshot's encoding and the objects that
//! have its content; and parts, which hold encodings of directories or the recipes of large
//! contents.
//!
//! ```text
//! record  = "CALVRSNP" bytes(snapshot) packs parts parts BLAKE3 of all before it:32
//! packs   = varint(number) (id:32 varint(length) varint(entries))*
//! parts   = varint(number) (id:32 varint(length))*          of directories; of recipes
//! part    = "CALVPART" zstd(bytes(item)*)
//! item    = a directory's encoding | a recipe
//! recipe  = content:32 varint(number) (chunk:32 varint(size))*
//! bytes   = varint(length) byte*
//! ```
//! The id of a pack or a part is the BLAKE3 of the object's bytes. The objects of a record are in
//! the order in which they were pushed. A record, and everything in it, comes from someone else:
//! nothing is served unless its hash follows from the snapshot's id.

use std::io::{self, BufRead, BufReader, Read};

use super::super::id::BlobId;
use super::super::object::{Malformed, Reader, put_bytes, put_varint, with_hash, without_hash};
use super::super::pack::trailer_bytes;

pub(crate) const RECORD_MAGIC: &[u8; 8] = b"CALVRSNP";
pub(crate) const PART_MAGIC: &[u8; 8] = b"CALVPART";

/// No record is longer. That is room for a hundred thousand packs and parts.
pub(crate) const RECORD_MOST_BYTES: u64 = 16 << 20;
/// No pack is longer: it is finished at a quarter of this, and no entry is long.
pub(crate) const PACK_MOST_BYTES: u64 = 64 << 20;
/// No part is longer, as it is stored and unpacked. One with a directory of three million entries
/// still fits.
pub(crate) const PART_MOST_BYTES: u64 = 256 << 20;
/// At this length, unpacked, a part is finished and another one begun.
pub(crate) const PART_BYTES: usize = 8 << 20;
/// No chunk is longer.
pub(crate) const CHUNK_MOST_BYTES: u64 = 4 << 20;

/// What zstd's window may be at most, as in packs.
const WINDOW_LOG: u32 = 23;
const LEVEL: i32 = 3;
/// A number takes no more bytes.
const VARINT_MOST_BYTES: usize = 10;

/// The id of an object: the BLAKE3 of its bytes.
pub(crate) type ObjectId = BlobId;

/// A pack, as a record refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PackRef {
    pub(crate) id: ObjectId,
    pub(crate) length: u64,
    pub(crate) entries: u64,
}

impl PackRef {
    /// The length of the pack's trailer.
    pub(crate) fn trailer(&self) -> u64 {
        // A record with an impossible number of entries is refused.
        trailer_bytes(self.entries).unwrap_or(u64::MAX)
    }
}

/// A part, as a record refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PartRef {
    pub(crate) id: ObjectId,
    pub(crate) length: u64,
}

/// What a remote says of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The encoding of the snapshot's object. Its hash is the snapshot's id.
    pub(crate) snapshot: Vec<u8>,
    pub(crate) packs: Vec<PackRef>,
    pub(crate) directories: Vec<PartRef>,
    pub(crate) recipes: Vec<PartRef>,
}

fn put_parts(out: &mut Vec<u8>, parts: &[PartRef]) {
    put_varint(out, parts.len() as u64);
    for part in parts {
        out.extend_from_slice(part.id.as_bytes());
        put_varint(out, part.length);
    }
}

fn read_parts(reader: &mut Reader<'_>) -> Result<Vec<PartRef>, Malformed> {
    let mut parts = Vec::new();
    for _ in 0..reader.varint()? {
        let part = PartRef { id: BlobId::from_bytes(reader.id()?), length: reader.varint()? };
        if part.length > PART_MOST_BYTES {
            return Err(Malformed("a part is longer than it can be"));
        }
        parts.push(part);
    }
    Ok(parts)
}

impl Record {
    /// The keys and sizes of all objects that it names.
    pub(super) fn objects(&self) -> Vec<(String, u64)> {
        let packs = self.packs.iter().map(|pack| (super::pack_key(pack.id), pack.length));
        let parts = self.directories.iter().chain(&self.recipes);
        packs.chain(parts.map(|part| (super::part_key(part.id), part.length))).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = RECORD_MAGIC.to_vec();
        put_bytes(&mut out, &self.snapshot);
        put_varint(&mut out, self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(pack.id.as_bytes());
            put_varint(&mut out, pack.length);
            put_varint(&mut out, pack.entries);
        }
        put_parts(&mut out, &self.directories);
        put_parts(&mut out, &self.recipes);
        with_hash(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let body = without_hash(bytes)?;
        let body = body.strip_prefix(RECORD_MAGIC).ok_or(Malformed("it is no record"))?;
        let mut reader = Reader(body);
        let snapshot = reader.bytes()?.to_vec();
        let mut packs = Vec::new();
        for _ in 0..reader.varint()? {
            let id = BlobId::from_bytes(reader.id()?);
            let pack = PackRef { id, length: reader.varint()?, entries: reader.varint()? };
            let fits = trailer_bytes(pack.entries).is_some_and(|trailer| trailer <= pack.length);
            if pack.length > PACK_MOST_BYTES || !fits {
                return Err(Malformed("a pack has an impossible length"));
            }
            packs.push(pack);
        }
        let (directories, recipes) = (read_parts(&mut reader)?, read_parts(&mut reader)?);
        reader.end()?;
        Ok(Self { snapshot, packs, directories, recipes })
    }
}

/// A large content as a sequence of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) content: BlobId,
    /// Ids and sizes.
    pub(crate) chunks: Vec<(BlobId, u64)>,
}

impl Recipe {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.content.as_bytes().to_vec();
        put_varint(&mut out, self.chunks.len() as u64);
        for (id, size) in &self.chunks {
            out.extend_from_slice(id.as_bytes());
            put_varint(&mut out, *size);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let content = BlobId::from_bytes(reader.id()?);
        let mut chunks = Vec::new();
        for _ in 0..reader.varint()? {
            let (id, size) = (BlobId::from_bytes(reader.id()?), reader.varint()?);
            if size == 0 || size > CHUNK_MOST_BYTES {
                return Err(Malformed("a chunk has an impossible size"));
            }
            chunks.push((id, size));
        }
        reader.end()?;
        Ok(Self { content, chunks })
    }

    /// The size of the content. It cannot overflow: each chunk takes more bytes of memory than the
    /// sum gets digits.
    pub(crate) fn size(&self) -> u64 {
        self.chunks.iter().fold(0, |sum, (_, size)| size.saturating_add(sum))
    }
}

/// Encodes items into parts, each as soon as it is long enough.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    items: Vec<u8>,
}

impl Parts {
    /// Adds an item. Returns a part if one is long enough now.
    pub(crate) fn add(&mut self, item: &[u8]) -> io::Result<Option<Vec<u8>>> {
        put_bytes(&mut self.items, item);
        if self.items.len() < PART_BYTES { Ok(None) } else { self.finish() }
    }

    /// The last part, if there is one.
    pub(crate) fn finish(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.items.is_empty() {
            return Ok(None);
        }
        let items = std::mem::take(&mut self.items);
        if items.len() as u64 > PART_MOST_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a directory has more entries than a remote can take",
            ));
        }
        let mut out = PART_MAGIC.to_vec();
        out.extend(zstd::bulk::compress(&items, LEVEL)?);
        Ok(Some(out))
    }
}

/// The items of a part, whose bytes must have the hash `id`. One item at a time is in memory. If
/// this fails, what `each` got before is of no use.
pub(crate) fn decode_part(
    id: ObjectId,
    bytes: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<(), Malformed>,
) -> io::Result<()> {
    const TOO_LONG: Malformed = Malformed("a part is longer than it can be");
    if BlobId::of(bytes) != id {
        return Err(Malformed("a part has another hash than its name").into());
    }
    let packed = bytes.strip_prefix(PART_MAGIC).ok_or(Malformed("it is no part"))?;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut items = BufReader::new(decoder.take(PART_MOST_BYTES + 1));
    let mut item = Vec::new();
    while let Some(length) = item_length(&mut items)? {
        // No item is empty. Otherwise a few bytes could unfold into very many.
        if length == 0 {
            return Err(Malformed("an item of a part is empty").into());
        }
        if length > PART_MOST_BYTES {
            return Err(TOO_LONG.into());
        }
        item.clear();
        // It grows with what is really there.
        items.by_ref().take(length).read_to_end(&mut item)?;
        if items.get_ref().limit() == 0 {
            return Err(TOO_LONG.into());
        }
        if item.len() as u64 != length {
            return Err(Malformed("it ends too early").into());
        }
        each(&item)?;
    }
    Ok(())
}

/// The length of the next item, if there is one.
fn item_length(items: &mut impl BufRead) -> io::Result<Option<u64>> {
    let mut length = Vec::new();
    for byte in items.bytes().take(VARINT_MOST_BYTES) {
        let byte = byte?;
        length.push(byte);
        if byte & 0x80 == 0 {
            break;
        }
    }
    match length.as_slice() {
        [] => Ok(None),
        length => Ok(Some(Reader(length).varint()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::id::ID_BYTES;

    fn id(number: u8) -> BlobId {
        BlobId::from_bytes([number; ID_BYTES])
    }

    fn some() -> Record {
        Record {
            snapshot: b"a snapshot".to_vec(),
            packs: vec![PackRef { id: id(1), length: 5000, entries: 3 }],
            directories: vec![PartRef { id: id(2), length: 100 }],
            recipes: vec![PartRef { id: id(3), length: 7 }, PartRef { id: id(4), length: 8 }],
        }
    }

    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        body.extend_from_slice(blake3::hash(&body).as_bytes());
        body
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_other_bytes_are() {
        let record = some();
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        for length in 0..bytes.len() {
            Record::decode(&bytes[..length]).unwrap_err();
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            Record::decode(&flipped).unwrap_err();
        }
        let body = &bytes[..bytes.len() - ID_BYTES];
        let with = |change: &dyn Fn(&mut Record)| {
            let mut record = some();
            change(&mut record);
            record.encode()
        };
        for (row, bytes) in [
            ("more follows", sealed([body, b"x"].concat())),
            ("another magic", sealed([b"CALVRSNQ", &body[8..]].concat())),
            ("a count of what is not there", sealed(b"CALVRSNP\0\xff\xff\xff\xff\x0f".to_vec())),
            ("a huge pack", with(&|record| record.packs[0].length = u64::MAX)),
            ("more entries than bytes", with(&|record| record.packs[0].entries = 5000)),
            ("entries beyond all numbers", with(&|record| record.packs[0].entries = u64::MAX)),
            ("a huge part", with(&|record| record.recipes[1].length = PART_MOST_BYTES + 1)),
        ] {
            assert!(Record::decode(&bytes).is_err(), "{row}");
        }
    }

    #[test]
    fn a_recipe_is_read_as_it_was_written_and_its_chunks_have_sizes_that_can_be() {
        let recipe = Recipe { content: id(9), chunks: vec![(id(1), 5), (id(2), 1 << 20)] };
        assert_eq!(Recipe::decode(&recipe.encode()).unwrap(), recipe);
        assert_eq!(recipe.size(), 5 + (1 << 20));
        for size in [0, CHUNK_MOST_BYTES + 1, u64::MAX] {
            let wrong = Recipe { content: id(9), chunks: vec![(id(1), size)] };
            Recipe::decode(&wrong.encode()).unwrap_err();
        }
        Recipe::decode(&[0; 31]).unwrap_err();
    }

    #[test]
    fn the_items_of_parts_are_those_that_were_added_in_their_order() {
        let items: Vec<Vec<u8>> = (0..40_u8).map(|n| vec![n; 500_000]).collect();
        let (mut parts, mut all) = (Parts::default(), Vec::new());
        for item in &items {
            all.extend(parts.add(item).unwrap());
        }
        all.extend(parts.finish().unwrap());
        assert_eq!((all.len(), parts.finish().unwrap()), (3, None));
        let mut found: Vec<Vec<u8>> = Vec::new();
        for part in &all {
            decode_part(BlobId::of(part), part, |item| {
                found.push(item.to_vec());
                Ok(())
            })
            .unwrap();
            decode_part(id(0), part, |_| Ok(())).unwrap_err();
        }
        assert_eq!(found, items);
    }

    #[test]
    fn a_part_that_unfolds_without_end_is_refused() {
        let zeros = |length: u64| io::repeat(0).take(length);
        let varint = |number: u64| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            io::Cursor::new(bytes)
        };
        let half = PART_MOST_BYTES / 2;
        let two = varint(half).chain(zeros(half)).chain(varint(half)).chain(zeros(half));
        let rows: [(Box<dyn Read>, &str); 4] = [
            (Box::new(varint(u64::MAX).chain(zeros(PART_MOST_BYTES + 100))), "longer"),
            (Box::new(varint(PART_MOST_BYTES).chain(zeros(PART_MOST_BYTES + 100))), "longer"),
            (Box::new(two), "longer"),
            (Box::new(zeros(PART_MOST_BYTES + 100)), "empty"),
        ];
        for (items, why) in rows {
            let part = [PART_MAGIC.to_vec(), zstd::encode_all(items, 1).unwrap()].concat();
            assert!(part.len() < 100_000);
            let error = decode_part(BlobId::of(&part), &part, |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        // A frame that asks for a window of 2 GiB, which is memory before any byte is there.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0];
        let part = [&PART_MAGIC[..], &frame].concat();
        let error = decode_part(BlobId::of(&part), &part, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("too much memory"), "{error}");
    }

    #[test]
    fn a_part_that_is_cut_off_or_has_an_impossible_length_is_refused() {
        for (row, items, expected) in [
            ("nothing", vec![], Some(vec![])),
            ("two items", vec![1, 7, 2, 8, 9], Some(vec![vec![7], vec![8, 9]])),
            ("an item ends too early", vec![1, 7, 2, 8], None),
            ("there is only a length", vec![1, 7, 2], None),
            ("a length ends too early", vec![1, 7, 0x80], None),
            ("a length is longer than it must be", vec![0x81, 0, 7], None),
            ("a length is no number", vec![0xff; 20], None),
        ] {
            let packed = zstd::encode_all(items.as_slice(), 1).unwrap();
            let part = [PART_MAGIC.to_vec(), packed].concat();
            let mut found = Vec::new();
            let read = decode_part(BlobId::of(&part), &part, |item| {
                found.push(item.to_vec());
                Ok(())
            });
            assert_eq!(read.is_ok().then_some(found), expected, "{row}");
        }
    }
}

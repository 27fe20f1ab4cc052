//! The index of a worktree: what the worktree's files looked like when their content was last
//! known. Thanks to it `status` reads no file.
//!
//! An index belongs to a snapshot. For each entry of the snapshot, in the order of the entries'
//! numbers, it says which inode stands for the entry and when that inode last changed. An entry
//! counts as unchanged, without a look at its content, if its kind, size and modification time are
//! the snapshot's, and its inode and change time are the index's. The change time also shows each
//! change of mode and owner.
//!
//! # The racy rule
//! A change time says nothing about a second change within the same tick of the clock. So an index
//! has a *stamp*: a time of the same filesystem's clock, taken before the first entry was looked
//! at. A file that changed at the stamp or later is not trusted and is read again. (git has the
//! same rule: Documentation/technical/racy-git.txt.) A start waits until the clock has moved past
//! the last change in the new tree, so the tree is clean from the first look on.
//!
//! # The rule of the writer
//! Times show a later change only if the change has to set them first. Two kinds of change do not.
//! A store through a mapping to a page that is dirty already sets no times. A long write sets the
//! times only when it begins. So the index vouches for a file only if
//! [`is_traced`](super::blobs::is_traced) says so. The entry of any other file has the end of time
//! as its change time, and the file is read again.
//!
//! # The rule of the boot
//! Times show every write only as long as the machine runs. On a filesystem that writes in place,
//! an overwritten block may reach the disk before the inode's new times, which are in the
//! filesystem's log. If the power fails in between, the file has new content and old times. (XFS
//! and ext4 do it: write, flush that block with `sync_file_range(2)`, shut down.)
//!
//! So an index says in which *boot* it was made. In any other boot, calve trusts a regular file
//! only in two cases: if no overwrite of the file could have come apart in this way
//! (`old_times_mean_old_content` in [`scan`](super::scan)), or if calve may not read the file. It
//! reads any other file once more. This rule does not hold on a system that does not name its
//! boots, nor after a filesystem died and was mounted again in the same boot.
//!
//! # Format
//! ```text
//! magic "CALVEIDX" | version u32 = 1 | snapshot id:32 | boot:16
//!   | stamp: i64 seconds, u32 nanoseconds | count u32 | zstd(records) | BLAKE3 of all before it:32
//!                                                                        numbers are little endian
//! record = zigzag(inode - last inode) zigzag(seconds - last seconds) varint(nanoseconds)
//! ```
//! calve writes an index to a temporary file and renames it, so an index is whole or absent. A lost
//! index costs only time.

use std::io::{self, Read as _, Write as _};

use super::id::SnapshotId;
use super::object::{Malformed, Reader, put_varint, put_zigzag, with_hash};
use crate::reflink::meta::Meta;
use crate::tree::staging::boot;

pub(crate) const MAGIC: &[u8; 8] = b"CALVEIDX";
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 32 + 16 + 12 + 4;
const HASH_BYTES: usize = 32;

/// A record takes at most this many bytes.
const RECORD_MOST_BYTES: usize = 25;

/// At most this much of the records is in memory at once.
const PIECE_BYTES: usize = 64 * 1024;

/// The largest window that calve writes. A forged index may ask for 128 MiB of memory.
const WINDOW_LOG: u32 = 23;

/// The inode that stands for an entry, and its change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) ino: u64,
    pub(crate) changed: (i64, u32),
}

impl Stat {
    pub(crate) fn of(meta: &Meta) -> Self {
        let (seconds, nanoseconds) = meta.changed;
        Self { ino: meta.ino, changed: (seconds, u32::try_from(nanoseconds).unwrap_or(0)) }
    }
}

/// Stats of the entries of a directory, in a third of the memory.
#[derive(Debug)]
pub(crate) struct PackedStats {
    records: Box<[u8]>,
    pub(crate) count: usize,
}

impl FromIterator<Stat> for PackedStats {
    fn from_iter<I: IntoIterator<Item = Stat>>(stats: I) -> Self {
        let (mut records, mut last, mut count) = (Vec::new(), Stat::default(), 0);
        for stat in stats {
            put_record(&mut records, &mut last, stat);
            count += 1;
        }
        Self { records: records.into(), count }
    }
}

impl PackedStats {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Stat> + '_ {
        let (mut reader, mut last) = (Reader(&self.records), Stat::default());
        std::iter::repeat_with(move || record(&mut reader, &mut last)).map_while(Result::ok)
    }
}

/// The boot of the machine in which an index was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot(pub(crate) [u8; 16]);

impl Boot {
    /// The current boot. If the system does not name its boots, all boots are the same.
    pub(crate) fn this() -> Self {
        let mut bytes = [0; 16];
        if let Some(name) = boot() {
            bytes.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
        }
        Self(bytes)
    }
}

/// The index of a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) snapshot: SnapshotId,
    /// The boot in which the index was made.
    pub(crate) boot: Boot,
    pub(crate) stamp: (i64, u32),
    /// One for each entry, in the order of the entries' numbers.
    pub(crate) stats: Vec<Stat>,
}

const ANOTHER_NUMBER: Malformed = Malformed("the index has another number of entries");

impl Index {
    /// The bytes of the index as the store keeps them.
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let count = u32::try_from(self.stats.len()).map_err(io::Error::other)?;
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(self.snapshot.as_bytes());
        out.extend_from_slice(&self.boot.0);
        out.extend_from_slice(&self.stamp.0.to_le_bytes());
        out.extend_from_slice(&self.stamp.1.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        let mut encoder = zstd::stream::write::Encoder::new(out, 1)?;
        let (mut records, mut last) = (Vec::with_capacity(PIECE_BYTES), Stat::default());
        for stat in &self.stats {
            put_record(&mut records, &mut last, *stat);
            if records.len() > PIECE_BYTES - RECORD_MOST_BYTES {
                encoder.write_all(&records)?;
                records.clear();
            }
        }
        encoder.write_all(&records)?;
        Ok(with_hash(encoder.finish()?))
    }

    /// Decodes the index of a snapshot that has `entries` entries. An index with another number of
    /// entries is refused before it takes memory.
    pub(crate) fn decode(bytes: &[u8], entries: u32) -> Result<Self, Malformed> {
        let (mut index, count, compressed) = parts(bytes)?;
        if count != entries {
            return Err(ANOTHER_NUMBER);
        }
        index.stats.reserve_exact(entries as usize);
        records(compressed, count, |stat| index.stats.push(stat))?;
        Ok(index)
    }

    /// Whether the bytes are a whole index of this snapshot, of this boot. Nothing is decompressed.
    pub(crate) fn is_of(bytes: &[u8], snapshot: SnapshotId) -> bool {
        parts(bytes)
            .is_ok_and(|(index, ..)| index.snapshot == snapshot && index.boot == Boot::this())
    }

    /// Whether the index could be decoded. Nothing of it stays in memory. `entries` says how many
    /// entries a snapshot has. If the store does not have the snapshot, nobody will decode the
    /// index, so its records are not decompressed.
    pub(crate) fn check(
        bytes: &[u8],
        entries: impl FnOnce(SnapshotId) -> Option<u64>,
    ) -> Result<(), Malformed> {
        let (index, count, compressed) = parts(bytes)?;
        match entries(index.snapshot) {
            None => Ok(()),
            Some(entries) if entries != u64::from(count) => Err(ANOTHER_NUMBER),
            Some(_) => records(compressed, count, drop),
        }
    }
}

/// An index without its records, the number of its records, and the compressed records.
type IndexParts<'a> = (Index, u32, &'a [u8]);

fn parts(bytes: &[u8]) -> Result<IndexParts<'_>, Malformed> {
    let short = Malformed("the index ends too early");
    let (body, hash) =
        bytes.split_at_checked(bytes.len().saturating_sub(HASH_BYTES)).ok_or(short)?;
    let mut rest = body;
    let mut take = |length: usize| {
        let (taken, left) = rest.split_at_checked(length).ok_or(short)?;
        rest = left;
        Ok::<_, Malformed>(taken)
    };
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).map_err(|_| short);
    if take(8)? != MAGIC {
        return Err(Malformed("it is no index"));
    }
    if number(take(4)?)? != VERSION {
        return Err(Malformed("the index is of another version"));
    }
    if blake3::hash(body).as_bytes() != hash {
        return Err(Malformed("the index does not have its own hash"));
    }
    let snapshot = SnapshotId::from_bytes(take(32)?.try_into().map_err(|_| short)?);
    let boot = take(16)?.try_into().map_err(|_| short)?;
    let seconds = i64::from_le_bytes(take(8)?.try_into().map_err(|_| short)?);
    let stamp = (seconds, number(take(4)?)?);
    let index = Index { snapshot, boot: Boot(boot), stamp, stats: Vec::new() };
    let count = number(take(4)?)?;
    Ok((index, count, rest))
}

/// Appends a record. `last` is the stat before it.
pub(super) fn put_record(records: &mut Vec<u8>, last: &mut Stat, stat: Stat) {
    put_zigzag(records, stat.ino.wrapping_sub(last.ino).cast_signed());
    put_zigzag(records, stat.changed.0.wrapping_sub(last.changed.0));
    put_varint(records, stat.changed.1.into());
    *last = stat;
}

/// Reads what [`put_record`] wrote.
pub(super) fn record(reader: &mut Reader<'_>, last: &mut Stat) -> Result<Stat, Malformed> {
    let ino = last.ino.wrapping_add(reader.zigzag()?.cast_unsigned());
    let seconds = last.changed.0.wrapping_add(reader.zigzag()?);
    let nanoseconds =
        u32::try_from(reader.varint()?).map_err(|_| Malformed("a number is too large"))?;
    *last = Stat { ino, changed: (seconds, nanoseconds) };
    Ok(*last)
}

/// Calls `found` with each of the `count` records. A few bytes can decompress to any amount of
/// data, so the records are read piece by piece.
fn records(compressed: &[u8], count: u32, mut found: impl FnMut(Stat)) -> Result<(), Malformed> {
    let cannot = |_| Malformed("the index cannot be decompressed");
    let mut decoder = zstd::stream::read::Decoder::new(compressed).map_err(cannot)?;
    decoder.window_log_max(WINDOW_LOG).map_err(cannot)?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    let mut whole = false;
    let mut last = Stat::default();
    let mut left = count;
    loop {
        if !whole {
            let wanted = PIECE_BYTES - piece.len();
            let read =
                decoder.by_ref().take(wanted as u64).read_to_end(&mut piece).map_err(cannot)?;
            whole = read < wanted;
        }
        let mut reader = Reader(&piece);
        while left > 0 && (whole || reader.0.len() >= RECORD_MOST_BYTES) {
            found(record(&mut reader, &mut last)?);
            left -= 1;
        }
        if left == 0 && (whole || !reader.0.is_empty()) {
            return reader.end();
        }
        let read = piece.len() - reader.0.len();
        piece.drain(..read);
    }
}

/// The largest size of the index of a snapshot with `count` entries.
pub(crate) fn most_bytes(count: u32) -> u64 {
    let records = u64::from(count) * RECORD_MOST_BYTES as u64;
    // Compression makes data that cannot be compressed a little longer.
    (HEADER_BYTES + HASH_BYTES) as u64 + records + records / 128 + 1024
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_itself_and_what_was_damaged_to_nothing(
            stats in proptest::collection::vec((any::<u64>(), any::<i64>(), any::<u32>()), 0..50),
            at in any::<prop::sample::Index>(),
        ) {
            let index = Index {
                snapshot: SnapshotId::from_bytes([7; 32]),
                boot: Boot([8; 16]),
                stamp: (1, 2),
                stats: stats
                    .into_iter()
                    .map(|(ino, seconds, nanoseconds)| Stat { ino, changed: (seconds, nanoseconds) })
                    .collect(),
            };
            let packed: PackedStats = index.stats.iter().copied().collect();
            prop_assert_eq!(packed.count, index.stats.len());
            prop_assert_eq!(&packed.iter().collect::<Vec<_>>(), &index.stats);
            let mut encoded = index.encode().unwrap();
            let entries = u32::try_from(index.stats.len()).unwrap();
            let decoded = Index::decode(&encoded, entries);
            prop_assert_eq!(decoded.as_ref(), Ok(&index));
            let at = at.index(encoded.len());
            prop_assert_eq!(Index::check(&encoded, |_| Some(entries.into())), Ok(()));
            prop_assert!(Index::decode(&encoded, entries + 1).is_err());
            prop_assert!(Index::check(&encoded[..at], |_| Some(entries.into())).is_err());
            encoded[at] ^= 1;
            prop_assert!(Index::check(&encoded, |_| Some(entries.into())).is_err());
        }
    }

    /// An index with this count. `records` are its records, uncompressed.
    fn forged(count: u32, records: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; HEADER_BYTES - 8 - 4 - 4]);
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&zstd::bulk::compress(records, 1).unwrap());
        let hash = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&hash);
        bytes
    }

    #[test]
    fn a_count_that_lies_costs_no_memory() {
        assert!(Index::check(&forged(u32::MAX, &[0; 30]), |_| Some(u32::MAX.into())).is_err());
        assert!(Index::decode(&forged(u32::MAX, &[0; 30]), 10).is_err());
        assert!(Index::decode(&forged(9, &[0; 30]), 9).is_err());
        assert_eq!(Index::decode(&forged(10, &[0; 30]), 10).unwrap().stats, [Stat::default(); 10]);
    }

    /// calve once decompressed all records at once, as many as the index's own count allowed. A
    /// file of one megabyte could become gigabytes of zeros in memory.
    #[test]
    fn records_that_unfold_without_end_are_never_in_memory_as_a_whole() {
        let count = 10_000_000;
        let bytes = forged(count, &vec![0; 3 * count as usize]);
        assert!(bytes.len() < 10_000, "{}", bytes.len());
        let mut found = 0;
        let (_, _, compressed) = parts(&bytes).unwrap();
        records(compressed, count, |stat| found += u32::from(stat == Stat::default())).unwrap();
        assert_eq!(found, count);
        assert!(
            Index::check(&forged(count - 1, &vec![0; 3 * count as usize]), |_| Some(
                (count - 1).into()
            ))
            .is_err()
        );
        assert_eq!(
            Index::decode(&bytes, 7),
            Err(Malformed("the index has another number of entries"))
        );
    }
}

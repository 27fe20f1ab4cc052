//! What a worktree's files looked like when their content was last known: the reason why `status` reads nothing.
//!
//! An index belongs to a snapshot and says, for each of its entries in the order of their numbers, which inode stands for
//! it and when that inode last changed. An entry is the same as in the snapshot, without a look at its content, if its size, mode,
//! owner and modification time are the snapshot's, and its inode and change time are the index's.
//!
//! # The racy rule
//! A change time says nothing about a second change within the same tick of the clock. So an index has a *stamp*, a time of the
//! same filesystem's clock, taken before the first entry was looked at; what changed at the stamp or after is not trusted and
//! is read again. (git has the same rule: Documentation/technical/racy-git.txt.) A tree that was just started waits until
//! the clock has moved past its last change, and is clean from the first look on.
//!
//! # Format
//! ```text
//! magic "CALVEIDX" | version u32 = 1 | snapshot id:32 | stamp: i64 seconds, u32 nanoseconds | count u32 | zstd(records)
//!   | BLAKE3 of all before it:32            numbers are little endian
//! record = zigzag(inode - last inode) zigzag(seconds - last seconds) varint(nanoseconds)
//! ```
//! It is written beside its place and renamed, so that it is whole or not there. Without it nothing is lost but time.

use std::io::{self, Read as _};

use super::id::SnapshotId;
use super::object::{Malformed, Reader, put_varint, put_zigzag};

const MAGIC: &[u8; 8] = b"CALVEIDX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 32 + 12 + 4;
const HASH_BYTES: usize = 32;

/// A record takes at most this much, so that a count says how much there can be at most.
const RECORD_MOST_BYTES: u64 = 25;

/// What stands for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) ino: u64,
    pub(crate) changed: (i64, u32),
}

/// The index of a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    pub(crate) snapshot: SnapshotId,
    pub(crate) stamp: (i64, u32),
    /// By the entries' numbers.
    pub(crate) stats: Vec<Stat>,
}

impl Index {
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let count = u32::try_from(self.stats.len()).map_err(io::Error::other)?;
        let mut records = Vec::with_capacity(self.stats.len() * 8);
        let mut last = Stat::default();
        for stat in &self.stats {
            put_zigzag(&mut records, stat.ino.wrapping_sub(last.ino).cast_signed());
            put_zigzag(&mut records, stat.changed.0.wrapping_sub(last.changed.0));
            put_varint(&mut records, stat.changed.1.into());
            last = *stat;
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + records.len() / 2 + HASH_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(self.snapshot.as_bytes());
        out.extend_from_slice(&self.stamp.0.to_le_bytes());
        out.extend_from_slice(&self.stamp.1.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&zstd::bulk::compress(&records, 1)?);
        let hash = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&hash);
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed("the index ends too early");
        let (body, hash) =
            bytes.split_at_checked(bytes.len().saturating_sub(HASH_BYTES)).ok_or(short)?;
        let (header, compressed) = body.split_at_checked(HEADER_BYTES).ok_or(short)?;
        let mut rest = header;
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
        let seconds = i64::from_le_bytes(take(8)?.try_into().map_err(|_| short)?);
        let stamp = (seconds, number(take(4)?)?);
        let count = number(take(4)?)?;
        let mut records = Vec::new();
        zstd::stream::read::Decoder::new(compressed)
            .and_then(|decoder| {
                decoder.take(u64::from(count) * RECORD_MOST_BYTES + 1).read_to_end(&mut records)
            })
            .map_err(|_| Malformed("the index cannot be decompressed"))?;
        let mut reader = Reader(&records);
        let mut stats = Vec::new();
        let mut last = Stat::default();
        for _ in 0..count {
            let ino = last.ino.wrapping_add(reader.zigzag()?.cast_unsigned());
            let seconds = last.changed.0.wrapping_add(reader.zigzag()?);
            let nanoseconds =
                u32::try_from(reader.varint()?).map_err(|_| Malformed("a number is too large"))?;
            last = Stat { ino, changed: (seconds, nanoseconds) };
            stats.push(last);
        }
        reader.end()?;
        Ok(Self { snapshot, stamp, stats })
    }
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
                stamp: (1, 2),
                stats: stats
                    .into_iter()
                    .map(|(ino, seconds, nanoseconds)| Stat { ino, changed: (seconds, nanoseconds) })
                    .collect(),
            };
            let mut encoded = index.encode().unwrap();
            let decoded = Index::decode(&encoded);
            prop_assert_eq!(decoded.as_ref(), Ok(&index));
            let at = at.index(encoded.len());
            prop_assert!(Index::decode(&encoded[..at]).is_err());
            encoded[at] ^= 1;
            prop_assert!(Index::decode(&encoded).is_err());
        }
    }

    #[test]
    fn a_count_that_lies_costs_no_memory() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 44]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        bytes.extend_from_slice(&zstd::bulk::compress(&[0; 30], 1).unwrap());
        let hash = *blake3::hash(&bytes).as_bytes();
        bytes.extend_from_slice(&hash);
        assert!(Index::decode(&bytes).is_err());
    }
}

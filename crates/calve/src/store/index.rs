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
//! # The rule of the writer
//! Times tell of a later change only if whoever makes it has to set them first. A store through a mapping to a page that is
//! dirty already does not, and a long write set them when it began. So the index vouches for a file only if
//! [`is_traced`](super::blobs::is_traced) says so; the entry of any other has the end of time as its change time, and is read
//! again.
//!
//! # The rule of the boot
//! Times tell of every write only as long as the machine runs. A filesystem that writes in place may have an overwritten block on
//! the disk before the inode's new times, which are in its log; when the power fails in between, the file has new content and old
//! times. (XFS and ext4 do it: write, flush that block with `sync_file_range(2)`, shut down.) So an index says in which *boot* it
//! was made. In any other, calve trusts a regular file only if no overwrite of it could have come apart so
//! (`old_times_mean_old_content` in [`scan`](super::scan)), or if calve may not read it. It reads any other file once more. It does not
//! do so on a system that does not name its boots, nor after a filesystem died and was mounted again in the same boot.
//!
//! # Format
//! ```text
//! magic "CALVEIDX" | version u32 = 3 | snapshot id:32 | boot:16 | stamp: i64 seconds, u32 nanoseconds | count u32
//!   | zstd(records) | BLAKE3 of all before it:32            numbers are little endian
//! record = zigzag(inode - last inode) zigzag(seconds - last seconds) varint(nanoseconds)
//! ```
//! Version 2 is the same, made without the rule of the writer; version 1 has no boot. Both are read as of no known boot.
//!
//! It is written beside its place and renamed, so that it is whole or not there. Without it nothing is lost but time.

use std::io::{self, Read as _};

use super::id::SnapshotId;
use super::manifest::Manifest;
use super::object::{Malformed, Reader, put_varint, put_zigzag};
use crate::tree::staging::boot;

pub(crate) const MAGIC: &[u8; 8] = b"CALVEIDX";
pub(crate) const VERSION: u32 = 3;

/// Whose indexes may vouch for files that changed without a trace: they count as of another boot.
const VERSION_WITHOUT_WRITERS: u32 = 2;

/// Whose indexes have no boot.
const FIRST_VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 8 + 4 + 32 + 16 + 12 + 4;
const HASH_BYTES: usize = 32;

/// A record takes at most this much.
const RECORD_MOST_BYTES: usize = 25;

/// So much of the records is in memory at once.
const PIECE_BYTES: usize = 64 * 1024;

/// No window that is written is larger; a forged one may ask for 128 MiB of memory.
const WINDOW_LOG: u32 = 23;

/// What stands for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) ino: u64,
    pub(crate) changed: (i64, u32),
}

/// A boot of the machine, in an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boot(pub(crate) [u8; 16]);

impl Boot {
    /// This one; all are the same where the system has no name for them.
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
    /// In which it was made.
    pub(crate) boot: Boot,
    pub(crate) stamp: (i64, u32),
    /// By the entries' numbers.
    pub(crate) stats: Vec<Stat>,
}

const ANOTHER_NUMBER: Malformed = Malformed("the index has another number of entries");

impl Index {
    /// As it is stored. `manifest` is the tree of its snapshot.
    pub(crate) fn encode_stored(&self, manifest: &Manifest) -> io::Result<Vec<u8>> {
        self.encode_with(&manifest.stored(&self.stats))
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        self.encode_with(&self.stats)
    }

    fn encode_with(&self, stats: &[Stat]) -> io::Result<Vec<u8>> {
        let count = u32::try_from(stats.len()).map_err(io::Error::other)?;
        let mut records = Vec::with_capacity(stats.len() * 8);
        let mut last = Stat::default();
        for stat in stats {
            put_zigzag(&mut records, stat.ino.wrapping_sub(last.ino).cast_signed());
            put_zigzag(&mut records, stat.changed.0.wrapping_sub(last.changed.0));
            put_varint(&mut records, stat.changed.1.into());
            last = *stat;
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + records.len() / 2 + HASH_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(self.snapshot.as_bytes());
        out.extend_from_slice(&self.boot.0);
        out.extend_from_slice(&self.stamp.0.to_le_bytes());
        out.extend_from_slice(&self.stamp.1.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&zstd::bulk::compress(&records, 1)?);
        let hash = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&hash);
        Ok(out)
    }

    /// Decodes the index of a snapshot that has so many entries; one of any other number is refused before it takes memory.
    pub(crate) fn decode(bytes: &[u8], entries: u32) -> Result<Self, Malformed> {
        let (mut index, count, compressed) = parts(bytes)?;
        if count != entries {
            return Err(ANOTHER_NUMBER);
        }
        index.stats.reserve_exact(entries as usize);
        records(compressed, count, |stat| index.stats.push(stat))?;
        Ok(index)
    }

    /// Whether it could be decoded, keeping nothing of it in memory. `entries` tells how many a snapshot has; of one that is not
    /// there nobody will decode the index, and it is not unfolded.
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

/// An index without its records, their number, and these, compressed.
type Parts<'a> = (Index, u32, &'a [u8]);

fn parts(bytes: &[u8]) -> Result<Parts<'_>, Malformed> {
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
    let version = number(take(4)?)?;
    let boot_bytes = match version {
        VERSION | VERSION_WITHOUT_WRITERS => 16,
        FIRST_VERSION => 0,
        _ => return Err(Malformed("the index is of another version")),
    };
    if blake3::hash(body).as_bytes() != hash {
        return Err(Malformed("the index does not have its own hash"));
    }
    let snapshot = SnapshotId::from_bytes(take(32)?.try_into().map_err(|_| short)?);
    let boot = take(boot_bytes)?;
    let boot = match version {
        VERSION => boot.try_into().map_err(|_| short)?,
        _ => [0; 16],
    };
    let seconds = i64::from_le_bytes(take(8)?.try_into().map_err(|_| short)?);
    let stamp = (seconds, number(take(4)?)?);
    let index = Index { snapshot, boot: Boot(boot), stamp, stats: Vec::new() };
    let count = number(take(4)?)?;
    Ok((index, count, rest))
}

/// Gives each of the `count` records to `found`. A few bytes can unfold without end, so they are read piece by piece.
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
            let ino = last.ino.wrapping_add(reader.zigzag()?.cast_unsigned());
            let seconds = last.changed.0.wrapping_add(reader.zigzag()?);
            let nanoseconds =
                u32::try_from(reader.varint()?).map_err(|_| Malformed("a number is too large"))?;
            last = Stat { ino, changed: (seconds, nanoseconds) };
            found(last);
            left -= 1;
        }
        if left == 0 && (whole || !reader.0.is_empty()) {
            return reader.end();
        }
        let read = piece.len() - reader.0.len();
        piece.drain(..read);
    }
}

/// How long the index of a snapshot of so many entries can be.
pub(crate) fn most_bytes(count: u32) -> u64 {
    let records = u64::from(count) * RECORD_MOST_BYTES as u64;
    // What cannot be compressed is a little longer afterwards.
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

    /// An index of this count whose records are `records`, uncompressed.
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

    /// It was decompressed as a whole, as much as its own count allowed: a megabyte of file, gigabytes of zeros.
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

//! Ranges of a disk, and which trees have files there.
//!
//! [`Ranges`] is sorted by address and free of overlaps, but for compressed pieces (see
//! [`RangeRecord::encoded`]). Records are added in batches: a batch is sorted and merged. So the memory
//! grows with the number of *distinct* ranges. A range that ten trees share is there once, with the
//! number of the set of these trees.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::mem;

/// A number that [`Owners`] gave to a set of trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OwnersId(u32);

/// Sets of trees, each with a number. Few sets occur, however many ranges there are.
#[derive(Debug, Default)]
pub(super) struct Owners {
    sets: Vec<Vec<usize>>,
    numbers: HashMap<Vec<usize>, OwnersId>,
    unions: HashMap<(OwnersId, OwnersId), OwnersId>,
}

impl Owners {
    /// The number of a set. `trees` must be sorted, each once.
    pub(super) fn number(&mut self, trees: Vec<usize>) -> OwnersId {
        if let Some(number) = self.numbers.get(&trees) {
            return *number;
        }
        let number = OwnersId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(trees.clone());
        self.numbers.insert(trees, number);
        number
    }

    pub(super) fn trees(&self, number: OwnersId) -> &[usize] {
        self.sets.get(number.0 as usize).map_or(&[], Vec::as_slice)
    }

    fn union(&mut self, one: OwnersId, other: OwnersId) -> OwnersId {
        if one == other {
            return one;
        }
        let key = (one.min(other), one.max(other));
        if let Some(known) = self.unions.get(&key) {
            return *known;
        }
        let mut trees = [self.trees(one), self.trees(other)].concat();
        trees.sort_unstable();
        trees.dedup();
        let number = self.number(trees);
        self.unions.insert(key, number);
        number
    }
}

/// A range of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RangeRecord {
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) owners: OwnersId,
    /// How many files have it; more than two count as two.
    files: u8,
    /// Whether the filesystem says that two files have it.
    is_shared: bool,
    /// A compressed piece. It begins at `start`. `length` is the uncompressed length, so the piece
    /// takes at most that.
    encoded: bool,
    /// Whether a file of no tree is known to have it.
    elsewhere: bool,
}

impl RangeRecord {
    /// A piece of one file.
    pub(super) fn new(start: u64, length: u64, owners: OwnersId, is_shared: bool) -> Self {
        Self { start, length, owners, files: 1, is_shared, encoded: false, elsewhere: false }
    }

    /// The same piece, if so many trees have a file with it.
    pub(super) fn in_trees(self, trees: usize) -> Self {
        Self { files: if trees > 1 { 2 } else { 1 }, ..self }
    }

    pub(super) fn encoded(self, encoded: bool) -> Self {
        Self { encoded, ..self }
    }

    pub(super) fn elsewhere(self, elsewhere: bool) -> Self {
        Self { elsewhere, ..self }
    }

    fn end(&self) -> u64 {
        if self.encoded { self.start } else { self.start.saturating_add(self.length) }
    }

    /// Two records of one range as one.
    fn and(self, other: &Self, owners: &mut Owners) -> Self {
        Self {
            length: self.length.max(other.length),
            owners: owners.union(self.owners, other.owners),
            files: self.files.saturating_add(other.files).min(2),
            is_shared: self.is_shared || other.is_shared,
            elsewhere: self.elsewhere || other.elsewhere,
            ..self
        }
    }
}

/// How many bytes a set of trees has together, and nothing else that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedBytes {
    /// The numbers of the trees, sorted.
    pub(crate) trees: Vec<usize>,
    /// Whether a file that is in none of the trees has these bytes, too.
    pub(crate) elsewhere: bool,
    /// Whether the filesystem says that several files have these bytes.
    pub(crate) is_shared: bool,
    pub(crate) bytes: u64,
}

/// The ranges that were found so far.
#[derive(Debug, Default)]
pub(super) struct Ranges(Vec<RangeRecord>);

impl Ranges {
    /// Adds records, in any order, and empties the list.
    pub(super) fn add(&mut self, records: &mut Vec<RangeRecord>, owners: &mut Owners) {
        if records.is_empty() {
            return;
        }
        records.sort_unstable();
        let mut out: Vec<RangeRecord> = Vec::with_capacity(self.0.len() + records.len() / 8);
        let mut old = mem::take(&mut self.0).into_iter().peekable();
        let mut new = records.drain(..).peekable();
        // Pieces of split ranges. They come before any range that is still in a list.
        let mut split: BinaryHeap<Reverse<RangeRecord>> = BinaryHeap::new();
        let mut next = |split: &mut BinaryHeap<Reverse<RangeRecord>>| {
            let heads = [old.peek().copied(), new.peek().copied(), split.peek().map(|it| it.0)];
            let least = heads.iter().flatten().min().copied()?;
            match heads.iter().position(|head| *head == Some(least)) {
                Some(0) => old.next(),
                Some(1) => new.next(),
                _ => split.pop().map(|it| it.0),
            }
        };
        while let Some(record) = next(&mut split) {
            let Some(last) = out.last_mut() else {
                out.push(record);
                continue;
            };
            if last.encoded || record.encoded {
                if last.start == record.start && last.encoded == record.encoded {
                    *last = last.and(&record, owners);
                } else {
                    out.push(record);
                }
                continue;
            }
            if last.end() <= record.start || record.length == 0 {
                out.push(record);
                continue;
            }
            // `last` begins first, or at the same place. The part of it before `record` stays.
            let whole = *last;
            let before = record.start - whole.start;
            if before > 0 {
                last.length = before;
            } else {
                out.pop();
            }
            let both = (whole.end().min(record.end())) - record.start;
            let common = RangeRecord { start: record.start, length: both, ..whole };
            let common = common.and(&RangeRecord { length: both, ..record }, owners);
            out.push(common);
            let after = common.end();
            for rest in [whole, record] {
                if rest.end() > after {
                    let length = rest.end() - after;
                    split.push(Reverse(RangeRecord { start: after, length, ..rest }));
                }
            }
        }
        out.shrink_to(out.len() + out.len() / 8);
        self.0 = out;
    }

    /// Whether the filesystem says of a range that it is shared, and all files that are known to
    /// have it are in trees that `asked` says.
    pub(super) fn is_open(&self, owners: &Owners, asked: impl Fn(usize) -> bool) -> bool {
        self.0.iter().any(|range| {
            range.is_shared
                && !range.elsewhere
                && owners.trees(range.owners).iter().all(|tree| asked(*tree))
        })
    }

    /// How much each set of trees has.
    pub(super) fn sums(&self, owners: &Owners) -> Vec<SharedBytes> {
        let mut sums: BTreeMap<(OwnersId, bool, bool), u64> = BTreeMap::new();
        for (at, range) in self.0.iter().enumerate() {
            let length = match self.0.get(at + 1) {
                Some(next) if range.encoded => range.length.min(next.start - range.start),
                _ => range.length,
            };
            // The filesystem says that there is another file, and it was not found.
            let elsewhere = range.elsewhere || range.is_shared && range.files < 2;
            let sum = sums.entry((range.owners, elsewhere, range.is_shared)).or_default();
            *sum = sum.saturating_add(length);
        }
        sums.into_iter()
            .map(|((set, elsewhere, is_shared), bytes)| SharedBytes {
                trees: owners.trees(set).to_vec(),
                elsewhere,
                is_shared,
                bytes,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shared ranges as `(start, length, tree)`, and the expected result: how many bytes which
    /// trees have.
    type Row = (&'static [(u64, u64, usize)], &'static [(&'static [usize], bool, u64)]);

    #[test]
    fn each_byte_counts_once_for_the_trees_that_have_it() {
        let rows: &[Row] = &[
            (&[], &[]),
            // Somebody else has it.
            (&[(0, 8, 1)], &[(&[1], true, 8)]),
            (&[(0, 8, 1), (0, 8, 2)], &[(&[1, 2], false, 8)]),
            (&[(0, 8, 1), (0, 8, 1)], &[(&[1], false, 8)]),
            (&[(0, 8, 1), (8, 8, 1)], &[(&[1], true, 16)]),
            // One range is in the middle of the other.
            (&[(0, 12, 1), (4, 4, 2)], &[(&[1], true, 8), (&[1, 2], false, 4)]),
            // They overlap.
            (&[(0, 8, 1), (4, 8, 2)], &[(&[1], true, 4), (&[2], true, 4), (&[1, 2], false, 4)]),
            // Three from one place.
            (
                &[(0, 4, 1), (0, 8, 2), (0, 12, 3)],
                &[(&[3], true, 4), (&[2, 3], false, 4), (&[1, 2, 3], false, 4)],
            ),
            (&[(4, 4, 2), (0, 12, 1), (4, 4, 3)], &[(&[1], true, 8), (&[1, 2, 3], false, 4)]),
        ];
        for (records, expected) in rows {
            // In one batch, and one by one.
            for batch in [records.len().max(1), 1] {
                let (mut ranges, mut owners) = (Ranges::default(), Owners::default());
                for chunk in records.chunks(batch) {
                    let mut chunk: Vec<RangeRecord> = chunk
                        .iter()
                        .map(|(start, length, tree)| {
                            RangeRecord::new(*start, *length, owners.number(vec![*tree]), true)
                        })
                        .collect();
                    ranges.add(&mut chunk, &mut owners);
                }
                let mut found = ranges.sums(&owners);
                found.sort_by_key(|sum| (sum.trees.len(), sum.trees.clone()));
                let found: Vec<(&[usize], bool, u64)> =
                    found.iter().map(|sum| (&sum.trees[..], sum.elsewhere, sum.bytes)).collect();
                assert_eq!(found, *expected, "{records:?} by {batch}");
            }
        }
    }

    /// Against a disk of 64 bytes, each with the trees that have it.
    #[test]
    fn ranges_at_random_say_the_same_as_byte_by_byte() {
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..500 {
            let (mut ranges, mut owners) = (Ranges::default(), Owners::default());
            let mut disk = vec![Vec::new(); 64];
            for _ in 0..random(4) {
                let mut batch = Vec::new();
                for _ in 0..random(8) {
                    let (start, tree) = (random(48), usize::try_from(random(4)).unwrap());
                    let length = 1 + random(16);
                    batch.push(RangeRecord::new(start, length, owners.number(vec![tree]), true));
                    for byte in start..start + length {
                        disk[usize::try_from(byte).unwrap()].push(tree);
                    }
                }
                ranges.add(&mut batch, &mut owners);
            }
            let mut expected: BTreeMap<(Vec<usize>, bool), u64> = BTreeMap::new();
            for mut trees in disk.into_iter().filter(|trees| !trees.is_empty()) {
                let elsewhere = trees.len() == 1;
                trees.sort_unstable();
                trees.dedup();
                *expected.entry((trees, elsewhere)).or_default() += 1;
            }
            let found = ranges.sums(&owners);
            let found: BTreeMap<(Vec<usize>, bool), u64> =
                found.into_iter().map(|sum| ((sum.trees, sum.elsewhere), sum.bytes)).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_compressed_piece_ends_where_the_next_one_begins() {
        let (mut ranges, mut owners) = (Ranges::default(), Owners::default());
        let [one, two] = [1, 2].map(|tree| owners.number(vec![tree]));
        let encoded =
            |start, length, owners| RangeRecord::new(start, length, owners, true).encoded(true);
        let mut records = vec![
            encoded(0, 128, one),
            encoded(0, 128, two),
            encoded(40, 128, one),
            encoded(40, 64, two),
            RangeRecord::new(50, 10, one, true),
            RangeRecord::new(50, 10, two, true),
            encoded(60, 128, one),
            encoded(60, 128, two),
        ];
        ranges.add(&mut records, &mut owners);
        let sums = ranges.sums(&owners);
        assert_eq!(sums.len(), 1);
        // The last one has no neighbour, so it counts with its greatest possible length.
        assert_eq!((sums[0].bytes, &sums[0].trees[..]), (40 + 10 + 10 + 128, &[1, 2][..]));
    }
}

//! Finds the lines of a file that changed, in bounded time and memory.
//!
//! The histogram algorithm (git's, from imara-diff) finds the lines that a reader would call
//! changed. But files that are made for it, or that are just long and repetitive, make it
//! expensive. Its time grows with the square of the lines: it takes a minute for 300 000 equal
//! lines that lost the first and the last, and this module takes 18 ms. Its recursion is as deep as
//! the square root of their number. So this module gives it at most as many lines as [`BUDGET`]
//! allows:
//! * It cuts off the equal lines at both ends before it counts anything. It keeps some of them, so
//!   that a change can be moved over them to where it reads best.
//! * If the rest is still too much, it splits the rest at lines that both sides have exactly once
//!   and in the same order (the anchors of the patience algorithm). This costs `n log n`.
//! * If a part is too much even then, the whole part counts as changed. That is correct, but longer
//!   than necessary.

pub(super) use imara_diff::Hunk;
use imara_diff::sources::byte_lines;
use imara_diff::{Algorithm, Diff, InternedInput, Token};

/// The limit for the sum, over all parts, of the squared number of lines on both sides together. It
/// allows one part of 32 Ki lines, or many smaller parts.
pub(crate) const BUDGET: u64 = 1 << 30;

/// How many equal lines are kept at each end.
const MARGIN_LINES: usize = 1000;

/// The lines of two files around the changes, and the changes. Line numbers start at the first line
/// that is kept.
pub(super) struct LineDiff<'a> {
    lines: InternedInput<&'a [u8]>,
    lines_ahead: u32,
    hunks: Vec<Hunk>,
}

impl<'a> LineDiff<'a> {
    /// Compares two files of less than 2 GiB each. The limit is there because line numbers have 31
    /// bits.
    pub(super) fn new(old: &'a [u8], new: &'a [u8]) -> Self {
        Self::with(MARGIN_LINES, BUDGET, old, new)
    }

    fn with(margin_lines: usize, budget: u64, old: &'a [u8], new: &'a [u8]) -> Self {
        let (start, end) = common_ends(old, new, margin_lines);
        let (old_end, new_end) = (old.len() - end, new.len() - end);
        let ahead = old[..start].iter().filter(|byte| **byte == b'\n').count();
        let mut lines = InternedInput::default();
        // We do not use `InternedInput::new`: it guesses from the first lines how much to reserve,
        // and the guess may be far off.
        lines.update_before(byte_lines(&old[start..old_end]));
        lines.update_after(byte_lines(&new[start..new_end]));
        let hunks = hunks(&lines, budget);
        Self { lines, lines_ahead: u32::try_from(ahead).unwrap_or(u32::MAX), hunks }
    }

    /// The changes, in order. Between two changes there is at least one unchanged line.
    pub(super) fn hunks(&self) -> &[Hunk] {
        &self.hunks
    }

    /// How many equal lines were cut off before the first line that is kept.
    pub(super) fn lines_ahead(&self) -> u32 {
        self.lines_ahead
    }

    pub(super) fn before_lines(&self) -> u32 {
        length(&self.lines.before)
    }

    pub(super) fn after_lines(&self) -> u32 {
        length(&self.lines.after)
    }

    /// A line of the old file, with its newline if it has one.
    pub(super) fn before(&self, line: u32) -> &'a [u8] {
        self.lines.interner[self.lines.before[line as usize]]
    }

    /// A line of the new file.
    pub(super) fn after(&self, line: u32) -> &'a [u8] {
        self.lines.interner[self.lines.after[line as usize]]
    }

    /// How many lines were added, and how many removed.
    pub(super) fn counts(&self) -> (u64, u64) {
        self.hunks.iter().fold((0, 0), |(added, removed), hunk| {
            (added + hunk.after.len() as u64, removed + hunk.before.len() as u64)
        })
    }
}

fn length(tokens: &[Token]) -> u32 {
    u32::try_from(tokens.len()).unwrap_or(u32::MAX)
}

/// How many bytes at the start and at the end can be cut off. They are whole equal lines, more than
/// a margin away from the first and last difference.
fn common_ends(old: &[u8], new: &[u8], margin_lines: usize) -> (usize, usize) {
    const STEP: usize = 4096;
    let newline = |byte: &u8| *byte == b'\n';

    let steps = old.chunks(STEP).zip(new.chunks(STEP)).take_while(|(old, new)| old == new);
    let coarse = steps.count() * STEP;
    let coarse = coarse.min(old.len()).min(new.len());
    let fine = old[coarse..].iter().zip(&new[coarse..]).take_while(|(old, new)| old == new);
    let mut start = coarse + fine.count();
    // Goes back to the start of the line in which the files differ, and then over the margin.
    for _ in 0..=margin_lines {
        start = old[..start.saturating_sub(1)].iter().rposition(newline).map_or(0, |at| at + 1);
    }

    let (old, new) = (&old[start..], &new[start..]);
    let steps = old.rchunks(STEP).zip(new.rchunks(STEP)).take_while(|(old, new)| old == new);
    let coarse = (steps.count() * STEP).min(old.len()).min(new.len());
    let (old_rest, new_rest) = (&old[..old.len() - coarse], &new[..new.len() - coarse]);
    let fine = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(old, new)| old == new);
    let mut end = coarse + fine.count();
    for _ in 0..=margin_lines {
        end = old[old.len() - end..].iter().position(newline).map_or(0, |at| end - at - 1);
    }
    (start, end)
}

fn hunks(lines: &InternedInput<&[u8]>, mut budget: u64) -> Vec<Hunk> {
    let (before, after) = (&lines.before[..], &lines.after[..]);
    if afford(&mut budget, before, after) {
        return compare(lines);
    }
    let mut found = Vec::new();
    let (mut old, mut new) = (0, 0);
    let end = (before.len(), after.len());
    for (old_end, new_end) in anchors(lines).into_iter().chain([end]) {
        let (before, after) = (&before[old..old_end], &after[new..new_end]);
        let part = LinesPart { before, after, at: (old, new) };
        compare_part(lines, part, &mut budget, &mut found);
        (old, new) = (old_end, new_end);
    }
    found
}

/// Takes the cost of comparing these lines from the budget. Returns false, and takes nothing, if
/// the budget is too small.
fn afford(budget: &mut u64, before: &[Token], after: &[Token]) -> bool {
    let lines = (before.len() + after.len()) as u64;
    match budget.checked_sub(lines.saturating_mul(lines)) {
        Some(left) => {
            *budget = left;
            true
        }
        None => false,
    }
}

fn compare(lines: &InternedInput<&[u8]>) -> Vec<Hunk> {
    let mut diff = Diff::compute(Algorithm::Histogram, lines);
    diff.postprocess_lines(lines);
    diff.hunks().collect()
}

/// A part of both sides, which starts at the lines `at`.
struct LinesPart<'a> {
    before: &'a [Token],
    after: &'a [Token],
    at: (usize, usize),
}

/// Compares one part, and adds the changes to `found`.
fn compare_part(
    lines: &InternedInput<&[u8]>,
    part: LinesPart<'_>,
    budget: &mut u64,
    found: &mut Vec<Hunk>,
) {
    let LinesPart { mut before, mut after, mut at } = part;
    let equal = |pair: &(&Token, &Token)| pair.0 == pair.1;
    let head = before.iter().zip(after).take_while(equal).count();
    (before, after) = (&before[head..], &after[head..]);
    at = (at.0 + head, at.1 + head);
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(equal).count();
    (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);

    let line = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
    let changed = |old: std::ops::Range<usize>, new: std::ops::Range<usize>| Hunk {
        before: line(at.0 + old.start)..line(at.0 + old.end),
        after: line(at.1 + new.start)..line(at.1 + new.end),
    };
    if before.is_empty() && after.is_empty() {
        return;
    }
    if before.is_empty() || after.is_empty() || !afford(budget, before, after) {
        found.push(changed(0..before.len(), 0..after.len()));
        return;
    }
    // We give the lines of the part new numbers, because the algorithm makes tables with a row for
    // each number.
    let mut part = InternedInput::default();
    part.update_before(before.iter().map(|token| lines.interner[*token]));
    part.update_after(after.iter().map(|token| lines.interner[*token]));
    let range = |range: std::ops::Range<u32>| range.start as usize..range.end as usize;
    found.extend(
        compare(&part).into_iter().map(|hunk| changed(range(hunk.before), range(hunk.after))),
    );
}

/// Lines that both sides have exactly once: the longest series of them that has the same order on
/// both sides.
fn anchors(lines: &InternedInput<&[u8]>) -> Vec<(usize, usize)> {
    #[derive(Clone, Copy)]
    enum SeenToken {
        Never,
        Once(usize),
        More,
    }
    let places = |tokens: &[Token]| {
        let mut places = vec![SeenToken::Never; lines.interner.num_tokens() as usize];
        for (line, token) in tokens.iter().enumerate() {
            let place = &mut places[token.0 as usize];
            *place = if matches!(place, SeenToken::Never) {
                SeenToken::Once(line)
            } else {
                SeenToken::More
            };
        }
        places
    };
    let (old_places, new_places) = (places(&lines.before), places(&lines.after));
    let pairs: Vec<(usize, usize)> = lines
        .before
        .iter()
        .filter_map(|token| match (old_places[token.0 as usize], new_places[token.0 as usize]) {
            (SeenToken::Once(old), SeenToken::Once(new)) => Some((old, new)),
            _ => None,
        })
        .collect();

    // Finds the longest increasing sequence. `ends[n]` is the pair with the smallest line that ends
    // a sequence of n + 1 pairs.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous = Vec::with_capacity(pairs.len());
    for (index, (_, new)) in pairs.iter().enumerate() {
        let place = ends.partition_point(|end| pairs[*end].1 < *new);
        previous.push(place.checked_sub(1).map(|place| ends[place]));
        match ends.get_mut(place) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut chosen = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(index) = next {
        chosen.push(pairs[index]);
        next = previous[index];
    }
    chosen.reverse();
    chosen
}

/// Applies the changes to `old`. The result must equal `new`: this is the property that the tests
/// check.
#[cfg(any(test, fuzzing))]
pub(crate) fn apply(margin_lines: usize, budget: u64, old: &[u8], new: &[u8]) -> Vec<u8> {
    let diff = LineDiff::with(margin_lines, budget, old, new);
    let (start, end) = common_ends(old, new, margin_lines);
    assert_eq!(text_lines(&old[..start]), diff.lines_ahead());
    assert_eq!(old[..start], new[..start]);
    let mut result = old[..start].to_vec();
    let mut at = 0;
    for hunk in diff.hunks() {
        assert!(at < hunk.before.start || at == 0, "{:?}", diff.hunks());
        (at..hunk.before.start).for_each(|line| result.extend(diff.before(line)));
        hunk.after.clone().for_each(|line| result.extend(diff.after(line)));
        at = hunk.before.end;
    }
    (at..diff.before_lines()).for_each(|line| result.extend(diff.before(line)));
    result.extend(&old[old.len() - end..]);
    result
}

#[cfg(any(test, fuzzing))]
fn text_lines(text: &[u8]) -> u32 {
    u32::try_from(text.split_inclusive(|byte| *byte == b'\n').count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    /// A pseudo-random number. Every run gets the same numbers.
    fn random(state: &mut u64) -> u64 {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    fn text(lines: impl Iterator<Item = u64>) -> Vec<u8> {
        lines.flat_map(|line| format!("{line}\n").into_bytes()).collect()
    }

    #[test]
    fn long_files_made_to_be_slow_or_deep_are_neither() {
        let mut state = 1;
        let mut few = |kinds: u64, lines: usize| {
            text((0..lines).map(|_| random(&mut state) % kinds).collect::<Vec<_>>().into_iter())
        };
        // Blocks of lines that both texts have, each longer than the block before, separated by
        // lines that differ. The algorithm finds the longest block first, and everything else is to
        // its left.
        let blocks = |differ: u64| {
            text((1..250).flat_map(move |block| {
                (0..block).map(move |line| block * 1000 + line).chain([differ + block])
            }))
        };
        let every_other =
            |count: u64, other: u64| text((0..count).flat_map(move |line| [line, other + line]));
        let repeated = [&b"first\n"[..], &b"again\n".repeat(300_000), b"last\n"].concat();
        let rows = [
            ("two kinds of lines", few(2, 300_000), few(2, 300_000)),
            ("affordable", few(2, 4000), few(2, 4000)),
            ("affordable, more kinds", few(100, 4000), few(100, 4000)),
            ("many kinds", few(5000, 300_000), few(5000, 300_000)),
            ("longer and longer", blocks(1_000_000), blocks(2_000_000)),
            ("every other line", every_other(15_000, 1_000_000), every_other(15_000, 2_000_000)),
            (
                "affordable, every other line",
                every_other(4000, 1_000_000),
                every_other(4000, 2_000_000),
            ),
            ("turned round", text(0..200_000), text((0..200_000).rev())),
            ("the same line", repeated.clone(), b"again\n".repeat(300_001)),
            (
                "only the ends",
                repeated,
                [&b"x\n"[..], &b"again\n".repeat(300_000), b"y\n"].concat(),
            ),
            (
                "empty lines",
                b"\n".repeat(1 << 20),
                [&b"\n".repeat(1 << 19)[..], b"x", &b"\n".repeat(1 << 19)].concat(),
            ),
        ];
        for (row, old, new) in rows {
            let started = Instant::now();
            let result = std::thread::Builder::new()
                .stack_size(1 << 20)
                .spawn(move || (apply(MARGIN_LINES, BUDGET, &old, &new) == new, old, new))
                .unwrap()
                .join()
                .unwrap();
            assert!(result.0, "{row}");
            let took = started.elapsed();
            // The limit is far more than the comparison takes on a busy machine in a build that is
            // not optimised, and far less than it would take without a budget.
            assert!(took < Duration::from_secs(300), "{row} took {took:?}");
        }
    }

    #[test]
    fn a_large_file_with_some_changes_has_only_these() {
        let old: Vec<u64> = (0..200_000).collect();
        let mut new = old.clone();
        new[0] = 1_000_000;
        new.insert(100_000, 1_000_001);
        new.remove(150_000);
        new.push(1_000_002);
        let (old, new) = (text(old.into_iter()), text(new.into_iter()));
        assert_eq!(LineDiff::new(&old, &new).counts(), (3, 2));
        assert!(apply(MARGIN_LINES, BUDGET, &old, &new) == new);
    }

    fn content() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![3 => "[ab]\n", 1 => "[ \t]{0,4}[abc]?\r?\n", 1 => "[0-9]{3}\n"];
        (proptest::collection::vec(line, 0..40), any::<bool>()).prop_map(|(lines, cut)| {
            let mut content = lines.concat().into_bytes();
            content.truncate(content.len() - usize::from(cut && !content.is_empty()));
            content
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn the_changes_make_the_new_file_of_the_old_one_whatever_the_limits(
            (head, old, new, tail) in (content(), content(), content(), content()),
            margin_lines in 0..10usize,
            budget in prop_oneof![Just(BUDGET), 0..4000u64],
        ) {
            let (old, new) = ([&head[..], &old, &tail].concat(), [&head[..], &new, &tail].concat());
            prop_assert_eq!(apply(margin_lines, budget, &old, &new), new);
        }
    }
}

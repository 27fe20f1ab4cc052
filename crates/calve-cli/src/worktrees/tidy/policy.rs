//! What `tidy` does, in which order, and until when. Nothing here looks at a disk.

use std::cmp::Reverse;
use std::time::Duration;

/// The steps, in their order: each gives up more than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Equal content shares its blocks.
    Reshare,
    /// What nothing needs goes from the store, and what is rarely needed is compressed.
    Collect,
    /// Worktrees that are merged, clean and idle are dropped.
    Drop,
    /// What a build gives back goes from idle worktrees.
    Shed,
}

impl Step {
    pub(super) const ALL: [Self; 4] = [Self::Reshare, Self::Collect, Self::Drop, Self::Shed];

    /// The name that the JSON output uses.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Reshare => "reshare",
            Self::Collect => "collect",
            Self::Drop => "drop",
            Self::Shed => "shed",
        }
    }
}

/// The bound, and how much is taken, in bytes. `None`: there is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) taken: u64,
    pub(super) most: u64,
}

impl Bound {
    fn excess(self) -> u64 {
        self.taken.saturating_sub(self.most)
    }
}

/// Whether the next step is done: without a bound each, with one until it holds. No step deletes a
/// dropped worktree before the time until which a drop said that it is kept.
pub(super) fn is_due(bound: Option<Bound>) -> bool {
    bound.is_none_or(|bound| bound.excess() > 0)
}

/// A worktree of which something can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    /// For how long nobody worked in it.
    pub(super) idle: Duration,
    /// What goes, in bytes.
    pub(super) bytes: u64,
}

/// Which of the candidates go, by number: those that are idle for longest first, and with a bound only
/// as many as it needs.
pub(super) fn chosen(candidates: &[Candidate], bound: Option<Bound>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|at| Reverse(candidates[*at].idle));
    let Some(bound) = bound else { return order };
    let mut left = bound.excess();
    order
        .into_iter()
        .take_while(|at| {
            let goes = left > 0;
            left = left.saturating_sub(candidates[*at].bytes);
            goes
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_done_until_the_bound_holds() {
        let bound = |taken, most| Some(Bound { taken, most });
        for (bound, expected) in [
            (None, true),
            (bound(10, 20), false),
            (bound(20, 20), false),
            (bound(21, 20), true),
            (bound(1, 0), true),
        ] {
            assert_eq!(is_due(bound), expected, "{bound:?}");
        }
        assert!(Step::ALL.is_sorted(), "they are in their order");
    }

    #[test]
    fn of_several_those_go_first_in_which_nobody_worked_for_longest() {
        let of = |hours: u64, bytes| Candidate { idle: Duration::from_secs(hours * 3600), bytes };
        let all = [of(3, 100), of(9, 10), of(5, 50)];
        let bound = |excess: u64| Some(Bound { taken: 1000 + excess, most: 1000 });
        for (bound, expected) in [
            (None, &[1, 2, 0][..]),
            (bound(0), &[]),
            (bound(1), &[1]),
            (bound(10), &[1]),
            (bound(11), &[1, 2]),
            (bound(60), &[1, 2]),
            (bound(61), &[1, 2, 0]),
            (bound(5000), &[1, 2, 0]),
        ] {
            assert_eq!(chosen(&all, bound), expected, "{bound:?}");
        }
        assert_eq!(chosen(&[], None), [0; 0]);
    }
}

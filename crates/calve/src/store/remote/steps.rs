//! Which changes of a name stay so that its newest one can be found where keys cannot be listed.
//!
//! A change is a *step* to the newest change N if its number is a power of two, or N with its
//! lowest bits cleared. All steps to the newest change are there: pushers make those that are
//! missing, and collectors leave them. So N is found digit by digit ([`newest`]), with at most two
//! questions for each of its binary digits.
//!
//! # A collector that saw an older newest change
//! It removes no step, either. Let P be a step to N', and P ≤ N ≤ N'. If P is a power of two, it is
//! a step to N. Otherwise P is N' without its lowest j bits, so N' - P < 2^j. Then N - P < 2^j,
//! too, and P is N without its lowest j bits: again a step to N. So a number that is no step to N
//! is no step to a later change, either.

/// Whether the change with this number is a step to the newest one.
pub(super) fn is_step(number: u64, newest: u64) -> bool {
    let lowest_bit = number & number.wrapping_neg();
    number <= newest && (number.is_power_of_two() || newest - number < lowest_bit)
}

/// All steps to a change, itself included, the lowest first.
pub(super) fn to(newest: u64) -> Vec<u64> {
    let bits = 0..u64::BITS - newest.leading_zeros();
    let mut all: Vec<u64> = bits.flat_map(|bit| [1 << bit, newest >> bit << bit]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The number of the newest change, by asking which numbers are there; 0 if there is none. The
/// changes up to `seen` are taken as given: if it returns `seen`, nobody was asked whether that is
/// still there.
///
/// If others push meanwhile, it finds a change that is at least as new as the newest one was when
/// it began, as long as no collector removes steps to that one before it ends.
pub(super) fn newest<E>(
    seen: u64,
    mut is_there: impl FnMut(u64) -> Result<bool, E>,
) -> Result<u64, E> {
    let mut is_there = |number| Ok(number <= seen || is_there(number)?);
    let mut digits = 0;
    while digits < u64::BITS && is_there(1 << digits)? {
        digits += 1;
    }
    let mut found = 0;
    for bit in (0..digits).rev() {
        let next = found | 1 << bit;
        // The first digit is known.
        if found == 0 || is_there(next)? {
            found = next;
        }
    }
    Ok(found)
}

/// The lowest change of a name whose snapshot must be on the remote, if these numbers are there.
///
/// A collector that no longer keeps the snapshot of a change removes the change, unless it is a
/// step; and of older changes it keeps no snapshots, either. So what is below all changes that are
/// no steps may be there as a step only.
pub(super) fn lowest_kept(numbers: impl IntoIterator<Item = u64> + Clone) -> u64 {
    let newest = numbers.clone().into_iter().max().unwrap_or(0);
    let others = numbers.into_iter().filter(|number| !is_step(*number, newest));
    others.min().unwrap_or(newest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_steps_to_a_change_are_the_powers_of_two_and_its_own_leading_digits() {
        for (newest, expected) in [
            (0, vec![]),
            (1, vec![1]),
            (2, vec![1, 2]),
            (3, vec![1, 2, 3]),
            (7, vec![1, 2, 4, 6, 7]),
            (8, vec![1, 2, 4, 8]),
            (13, vec![1, 2, 4, 8, 12, 13]),
            (1000, vec![1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 896, 960, 992, 1000]),
        ] {
            assert_eq!(to(newest), expected, "{newest}");
            let found: Vec<u64> = (0..=newest + 1).filter(|n| is_step(*n, newest)).collect();
            assert_eq!(found, expected, "{newest}");
        }
        assert_eq!(to(u64::MAX).len(), 127);
        assert_eq!(to(1 << 63).len(), 64);
        assert!(is_step(u64::MAX, u64::MAX) && !is_step(0, 0) && !is_step(0, u64::MAX));
    }

    #[test]
    fn what_is_no_step_to_a_change_is_a_step_to_no_later_one() {
        for newest in 1..300 {
            for later in newest..300 {
                for number in (1..=newest).filter(|number| is_step(*number, later)) {
                    assert!(is_step(number, newest), "{number} {newest} {later}");
                }
            }
        }
    }

    #[test]
    fn a_change_must_have_its_snapshot_if_an_older_one_stays_that_is_no_step() {
        for (numbers, expected) in [
            (vec![], 0),
            (vec![1], 1),
            (vec![1, 2, 3], 3),
            (vec![1, 2, 3, 4, 5, 6, 7, 8], 3),
            (vec![1, 2, 4, 8, 12, 13], 13),
            (vec![1, 2, 4, 8, 11, 12, 13], 11),
            // Of a remote from which steps were removed.
            (vec![9, 13], 9),
            (vec![12, 13], 13),
        ] {
            assert_eq!(lowest_kept(numbers.iter().copied()), expected, "{numbers:?}");
        }
    }

    fn found(seen: u64, there: impl Fn(u64) -> bool) -> (u64, u32) {
        let mut questions = 0;
        let is_there = |number| {
            questions += 1;
            Ok::<_, Infallible>(there(number))
        };
        let Ok(found) = newest(seen, is_there);
        (found, questions)
    }

    #[test]
    fn the_newest_change_is_found_with_two_questions_for_each_binary_digit() {
        for newest in (0..2000).chain([u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1]) {
            let digits = u64::BITS - newest.leading_zeros();
            let (number, questions) = found(0, |number| is_step(number, newest));
            assert_eq!(number, newest);
            assert!(questions <= 2 * digits + 1, "{newest}: {questions}");
            for seen in [1, newest / 3, newest / 2, newest.saturating_sub(1), newest] {
                let (number, fewer) = found(seen.min(newest), |number| is_step(number, newest));
                assert!(number == newest && fewer <= questions, "{newest} {seen}: {fewer}");
            }
            if newest > 0 {
                // It was taken away since it was seen.
                assert_eq!(found(newest, |_| false).0, newest);
            }
        }
        // A server that has everything ends the search, too.
        assert_eq!(found(0, |_| true).0, u64::MAX);
    }

    /// What somebody does with a name.
    #[derive(Debug, Clone)]
    enum Deed {
        Push,
        /// A collector lists the changes.
        List,
        /// One of those who listed removes all that is no step to what it saw, but so many.
        Remove(usize, u64),
        /// Somebody who has seen a later change pushes after it.
        PushAfter(u64),
        /// A hand removes a change.
        Lose(usize),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        prop_oneof![
            20 => Just(Deed::Push),
            3 => Just(Deed::List),
            3 => (0..8_usize, 0..4_u64).prop_map(|(who, keep)| Deed::Remove(who, keep)),
            1 => (0..50_u64).prop_map(Deed::PushAfter),
            1 => (0..50_usize).prop_map(Deed::Lose),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_pushed_and_collected_on_stale_lists_the_newest_change_is_found(
            deeds in prop::collection::vec(deed(), 1..200),
        ) {
            let mut there = BTreeSet::new();
            let mut lists: Vec<BTreeSet<u64>> = Vec::new();
            let mut was_lost = false;
            for deed in deeds {
                let newest = there.last().copied().unwrap_or(0);
                let mut push = |next: u64| {
                    there.extend(to(next));
                    was_lost = false;
                };
                match deed {
                    Deed::Push => push(newest + 1),
                    Deed::PushAfter(more) => push(newest + 1 + more),
                    Deed::List => lists.push(there.clone()),
                    Deed::Remove(who, keep) => {
                        let Some(list) = lists.get(who) else { continue };
                        let seen = list.last().copied().unwrap_or(0);
                        let stays = |n: &u64| is_step(*n, seen) || seen - n <= keep;
                        for number in list.iter().filter(|number| !stays(number)) {
                            there.remove(number);
                        }
                    }
                    Deed::Lose(which) => {
                        if let Some(number) = there.iter().nth(which).copied() {
                            there.remove(&number);
                            was_lost = true;
                            // A collector that saw what was newest may take the next for old.
                            if number == newest {
                                lists.clear();
                            }
                        }
                    }
                }
                let newest = there.last().copied().unwrap_or(0);
                if !was_lost {
                    prop_assert_eq!(found(0, |number| there.contains(&number)).0, newest);
                    let seen = there.iter().nth(there.len() / 2).copied().unwrap_or(0);
                    prop_assert_eq!(found(seen, |number| there.contains(&number)).0, newest);
                }
            }
        }
    }
}

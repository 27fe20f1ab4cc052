//! Which known words somebody may have meant by a word that is none of them.

use calve::Store;

/// How [`question`] begins.
pub(crate) const QUESTION: &str = "; did you mean ";

/// The words of `known` that are nearest to `word`: those that begin with it, if they are few, else
/// those that differ in as few letters as a slip of the fingers makes.
pub(crate) fn to<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Vec<&'k str> {
    /// With more, a list of all says more.
    const MOST: usize = 3;
    let small = word.to_lowercase();
    let mut near: Vec<(usize, &str)> = Vec::new();
    for it in known {
        let other = it.to_lowercase();
        let distance = match !small.is_empty() && other.starts_with(&small) {
            true => 0,
            false => strsim::damerau_levenshtein(&small, &other),
        };
        if distance <= (small.chars().count() / 3).max(1) {
            near.push((distance, it));
        }
    }
    let least = near.iter().map(|(distance, _)| *distance).min();
    let mut near: Vec<&str> =
        near.into_iter().filter(|(it, _)| Some(*it) == least).map(|(_, it)| it).collect();
    near.sort_unstable();
    near.dedup();
    if near.len() > MOST { Vec::new() } else { near }
}

/// `; did you mean 'a', 'b' or 'c'?`, to be put behind a statement. `None` without a word.
pub(crate) fn question(words: &[String]) -> Option<String> {
    let quoted = |word: &String| format!("'{}'", crate::text::harmless(word));
    let (last, before) = words.split_last()?;
    let before: Vec<String> = before.iter().map(quoted).collect();
    let or = if before.is_empty() { "" } else { " or " };
    Some(format!("{QUESTION}{}{or}{}?", before.join(", "), quoted(last)))
}

/// The names of worktrees that are like this one. None if the store cannot be asked: the error that
/// they belong to is told already.
pub(crate) fn worktrees(store: &Store, name: &str) -> Vec<String> {
    let known = store.worktrees().unwrap_or_default();
    owned(to(name, known.iter().map(calve::Worktree::name)))
}

/// The names of snapshots that are like this one.
pub(crate) fn snapshots(store: &Store, name: &str) -> Vec<String> {
    let known = store.log().map(|log| log.snapshots).unwrap_or_default();
    owned(to(name, known.iter().flat_map(|it| &it.names).map(String::as_str)))
}

pub(crate) fn owned(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_words_are_those_that_a_slip_of_the_fingers_makes_of_the_word() {
        let known = ["note", "agent-1", "agent-2", "Fix", "feat-x"];
        for (word, expected) in [
            ("nope", &["note"][..]),
            ("agent1", &["agent-1"]),
            ("agent-", &["agent-1", "agent-2"]),
            ("agent", &["agent-1", "agent-2"]),
            ("agetn-1", &["agent-1"]),
            ("agent-9", &["agent-1", "agent-2"]),
            ("fix", &["Fix"]),
            ("main", &[]),
            ("", &[]),
        ] {
            assert_eq!(to(word, known), expected, "{word}");
        }
        assert_eq!(to("a", ["a1", "a2", "a3", "a4"]), [""; 0]);
    }

    #[test]
    fn the_question_names_all_of_them() {
        for (words, expected) in [
            (&[][..], None),
            (&["a"], Some("; did you mean 'a'?")),
            (&["a", "b", "c"], Some("; did you mean 'a', 'b' or 'c'?")),
        ] {
            let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
            assert_eq!(question(&words).as_deref(), expected);
        }
    }
}

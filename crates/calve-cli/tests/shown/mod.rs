//! What a failed assertion prints: the lines that say why, not a whole document.

use std::fmt;

/// More lines, or more of a line, is not read in a log.
const MOST_LINES: usize = 24;
const MOST_CHARACTERS: usize = 200;

/// A text in lines: the first and the last ones, cut where they are long.
pub(crate) struct Lines<'a>(pub(crate) &'a str);

impl fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.lines().collect();
        let left_out = lines.len().saturating_sub(MOST_LINES);
        for (at, line) in lines.iter().enumerate() {
            if at == MOST_LINES / 2 && left_out > 0 {
                write!(f, "\n    … {left_out} lines …")?;
            }
            if at < MOST_LINES / 2 || at >= MOST_LINES / 2 + left_out {
                // Escaped, because a test may be about what a terminal would act on.
                let line = line.escape_debug().to_string();
                let end = line.char_indices().nth(MOST_CHARACTERS);
                let cut = end.map_or(&*line, |(end, _)| &line[..end]);
                let more = if end.is_some() { "…" } else { "" };
                write!(f, "\n    {cut}{more}")?;
            }
        }
        Ok(())
    }
}

/// Fails with the lines that differ if a text is another one.
#[track_caller]
pub(crate) fn assert_lines(found: &str, expected: &str) {
    if found == expected {
        return;
    }
    let (found, expected): (Vec<_>, Vec<_>) =
        (found.split('\n').collect(), expected.split('\n').collect());
    let same = |(a, b): &(&&str, &&str)| a == b;
    let first = found.iter().zip(&expected).take_while(same).count();
    let (found, expected) = (&found[first..], &expected[first..]);
    let last = found.iter().rev().zip(expected.iter().rev()).take_while(same).count();
    let (found, expected) =
        (found[..found.len() - last].join("\n"), expected[..expected.len() - last].join("\n"));
    panic!(
        "from line {} on, it is:{:?}\n  and not:{:?}",
        first + 1,
        Lines(&found),
        Lines(&expected)
    );
}

/// As [`assert_lines`], for JSON.
#[track_caller]
pub(crate) fn assert_document(found: &serde_json::Value, expected: &serde_json::Value) {
    assert_lines(&format!("{found:#}"), &format!("{expected:#}"));
}

#[test]
fn a_failed_assertion_shows_a_few_lines_of_what_differs() {
    let text = |middle: &str| format!("{}{middle}\n{}", "same\n".repeat(500), "same\n".repeat(500));
    let shown = |found: &str, expected: &str| {
        let (found, expected) = (text(found), text(expected));
        let failed = std::panic::catch_unwind(|| assert_lines(&found, &expected)).unwrap_err();
        failed.downcast_ref::<String>().unwrap().clone()
    };
    assert_eq!(shown("a", "b"), "from line 501 on, it is:\n    a\n  and not:\n    b");
    assert!(shown(&"long ".repeat(5000), &"other\n".repeat(5000)).len() < 1000);
    assert_lines(&text("a"), &text("a"));
}

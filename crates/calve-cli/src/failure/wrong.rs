//! What is wrong, in a sentence that begins with it.

use std::path::{Path, PathBuf};

use calve::ErrorKind;

use crate::text::{harmless, shown};

/// A failure, as far as its sentence tells it.
pub(super) struct Told<'a> {
    pub(super) operation: &'static str,
    pub(super) paths: &'a [PathBuf],
    /// The word between the paths.
    pub(super) joint: &'static str,
    /// The kind, if the library has one for it.
    pub(super) kind: Option<ErrorKind>,
    pub(super) cause: &'a str,
}

/// The sentence of a failure, on one line, whatever characters the names contain.
pub(super) fn sentence(failure: &Told<'_>) -> String {
    let cause = harmless(failure.cause);
    let paths = joined(failure);
    if failure.kind == Some(ErrorKind::Cancelled) {
        return format!("cancelled: {}{paths}", failure.operation);
    }
    by_name(failure, &cause)
        .or_else(|| by_subject(failure, &cause))
        .unwrap_or_else(|| format!("cannot {}{paths}: {cause}", failure.operation))
}

/// The paths, with a space before each.
fn joined(failure: &Told<'_>) -> String {
    let mut text = String::new();
    for (index, path) in failure.paths.iter().enumerate() {
        if index > 0 {
            text.push_str(&format!(" {}", failure.joint));
        }
        text.push_str(&format!(" {}", shown(path)));
    }
    text
}

/// What is said of a name: that nothing has it, or that it cannot be one. `{}` stands for the name
/// in quotes, `{at}` for the second path. What follows in the cause follows in the sentence.
const OF_NAMES: [(ErrorKind, &str, &str); 12] = [
    (ErrorKind::WorktreeNotFound, "no worktree has this name", "no worktree is named {}"),
    (
        ErrorKind::WorktreeNotFound,
        "no worktree and no snapshot has this name",
        "no worktree and no snapshot is named {}",
    ),
    (
        ErrorKind::WorktreeExists,
        "a worktree with this name exists, or is being started",
        "there is a worktree named {} already, or it is being started, at {at}",
    ),
    (
        ErrorKind::SnapshotNotFound,
        "no snapshot has this name or id",
        "no snapshot has the name or id {}",
    ),
    (ErrorKind::SnapshotNotFound, "no snapshot has this name, and", "no snapshot is named {}, and"),
    (ErrorKind::SnapshotNotFound, "there is nothing to undo", "there is nothing to undo in {path}"),
    (
        ErrorKind::SnapshotAmbiguous,
        "the ids of several snapshots start with it",
        "the ids of several snapshots start with {}",
    ),
    (
        ErrorKind::CommitNotFound,
        "git has no commit of this name",
        "git has no commit of the name {}",
    ),
    (
        ErrorKind::BranchExists,
        "that working tree has it checked out",
        "the branch {path} is checked out in {at}",
    ),
    (ErrorKind::BranchExists, "it ", "the branch {path} "),
    (ErrorKind::InvalidName, "it has no", "{path} has no"),
    (ErrorKind::InvalidName, "it ", "{} cannot be a name: it "),
];

fn by_name(failure: &Told<'_>, cause: &str) -> Option<String> {
    let kind = failure.kind?;
    let [first, rest @ ..] = failure.paths else { return None };
    let is_of_name = kind != ErrorKind::InvalidName || failure.operation.starts_with("use the");
    let (start, wrong) = OF_NAMES
        .iter()
        .filter(|_| is_of_name)
        .find(|(of, start, wrong)| {
            let has_at = !wrong.contains("{at}") || !rest.is_empty();
            *of == kind && has_at && cause.starts_with(start)
        })
        .map(|(_, start, wrong)| (*start, *wrong))?;
    let at = rest.first().map(|path| shown(path)).unwrap_or_default();
    let name = format!("'{}'", harmless(&first.to_string_lossy()));
    // The names come last: they may contain braces.
    let (before, after) = wrong.split_once("{at}").unwrap_or((wrong, ""));
    let said = before.replace("{}", &name).replace("{path}", &shown(first));
    Some(match wrong.contains("{at}") {
        true => format!("{said}{at}{after}{}", &cause[start.len()..]),
        false => format!("{said}{}", &cause[start.len()..]),
    })
}

/// `it has work …`: what is said of the only path.
fn by_subject(failure: &Told<'_>, cause: &str) -> Option<String> {
    let [path] = failure.paths else { return None };
    let said = match cause.strip_prefix("it ") {
        Some(said) => format!("{} {said}", shown(path)),
        None if cause == "its folder is gone" => format!("the folder {} is gone", shown(path)),
        None => return None,
    };
    (path != Path::new("")).then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_begins_with_what_is_wrong() {
        use ErrorKind as Of;
        for (kind, operation, paths, cause, expected) in [
            (
                Of::WorktreeNotFound,
                "find worktree",
                &["nope"][..],
                "no worktree has this name; did you mean 'note'?",
                "no worktree is named 'nope'; did you mean 'note'?",
            ),
            (
                Of::WorktreeExists,
                "start worktree",
                &["w", "/p/w"],
                "a worktree with this name exists, or is being started",
                "there is a worktree named 'w' already, or it is being started, at /p/w",
            ),
            (
                Of::SnapshotNotFound,
                "find snapshot",
                &["abc"],
                "no snapshot has this name, and a snapshot id needs at least four digits",
                "no snapshot is named 'abc', and a snapshot id needs at least four digits",
            ),
            (
                Of::BranchExists,
                "make the branch",
                &["main", "/p"],
                "that working tree has it checked out",
                "the branch main is checked out in /p",
            ),
            (
                Of::InvalidName,
                "use the name",
                &["a/{at}"],
                "it contains a slash",
                "'a/{at}' cannot be a name: it contains a slash",
            ),
            (
                Of::Changed,
                "drop worktree",
                &["/p/w"],
                "it has work that is not committed",
                "/p/w has work that is not committed",
            ),
            (
                Of::WorktreeMissing,
                "open worktree",
                &["/p/w"],
                "its folder is gone",
                "the folder /p/w is gone",
            ),
            (Of::Io, "copy", &["/a", "/b"], "it ended", "cannot copy /a to /b: it ended"),
            (
                Of::PermissionDenied,
                "open",
                &["/a\nb"],
                "x\u{1b}",
                "cannot open \"/a\\nb\": x\\u{1b}",
            ),
            (Of::Cancelled, "clone", &["a", "b"], "cancelled", "cancelled: clone a to b"),
        ] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            let (kind, joint) = (Some(kind), "to");
            let failure = Told { operation, paths: &paths, joint, kind, cause };
            assert_eq!(sentence(&failure), expected);
        }
    }
}

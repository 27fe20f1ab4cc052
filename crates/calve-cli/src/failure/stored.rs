//! Hints for errors of stores and worktrees: what to do now.

use std::io;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Operation, Worktree};

use super::{CURRENT_IS_GONE, Failure, Kind, told};
use crate::text::shell_word;

mod case;
mod disk;
mod git;
mod remote;
mod store;
#[cfg(test)]
mod tests;
mod worktree;

use case::Case;
pub(crate) use remote::{is_web, no_such_snapshot};
pub(crate) use store::store_flag;

/// An error of the library about a store.
pub(crate) fn store_failure(error: &calve::Error) -> Failure {
    told(error, hint(error, None))
}

/// For errors that are about no worktree.
impl From<calve::Error> for Failure {
    fn from(error: calve::Error) -> Self {
        store_failure(&error)
    }
}

/// An error of the library about this worktree.
pub(crate) fn worktree_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    told(error, hint(error, Some(worktree)))
}

/// The command itself looked for a worktree and found none.
pub(crate) fn no_worktree(path: &Path, cause: &str) -> Failure {
    own(
        Operation::FindWorktree.as_str(),
        path,
        ErrorKind::WorktreeNotFound,
        cause,
        "'calve list' lists the worktrees",
    )
}

/// The folder of this worktree is gone.
pub(crate) fn missing(worktree: &Worktree) -> Failure {
    let (kind, gone) = (ErrorKind::WorktreeMissing, io::Error::from(io::ErrorKind::NotFound));
    let name = argument(worktree);
    let (operation, path) = (Operation::OpenWorktree, worktree.path());
    let case = Case { kind, operation, path, other: None, error: &gone, details: &[], name: &name };
    let hint = way_out(&case).unwrap_or_default();
    own(operation.as_str(), path, kind, "its folder is gone", hint)
}

/// An error that the command itself finds.
pub(crate) fn own(
    operation: &'static str,
    path: &Path,
    kind: ErrorKind,
    cause: &str,
    hint: impl Into<String>,
) -> Failure {
    let failure = Failure::new(operation, [PathBuf::from(path)], Kind::Library(kind), cause);
    failure.hinted(hint)
}

/// The argument that names a worktree in the commands of a hint, with a space before it. The
/// project needs none.
pub(crate) fn argument(worktree: &Worktree) -> String {
    match worktree.is_project() {
        true => String::new(),
        false => format!(" {}", shell_word(Path::new(worktree.name()))),
    }
}

/// The flag that names a worktree for `calve snapshot`, with a space before it.
pub(crate) fn of_argument(worktree: &Worktree) -> String {
    case::of_name(&argument(worktree))
}

fn hint(error: &calve::Error, worktree: Option<&Worktree>) -> Option<String> {
    way_out(&Case {
        kind: error.kind(),
        operation: error.operation(),
        path: error.path(),
        other: error.other_path(),
        error: error.io_error(),
        details: error.details(),
        name: &worktree.map(argument).unwrap_or_default(),
    })
}

/// What to do, in the words of the first group that knows the case. A group that has a word for a
/// kind whatever the operation comes after those that know certain operations.
fn way_out(case: &Case<'_>) -> Option<String> {
    current_is_gone(case)
        .or_else(|| remote::way_out(case))
        .or_else(|| git::way_out(case))
        .or_else(|| store::way_out(case))
        .or_else(|| worktree::way_out(case))
        .or_else(|| disk::way_out(case))
        .or_else(|| super::hint(case.kind, case.path, case.error))
}

/// The user dropped the worktree that the shell is in.
fn current_is_gone(case: &Case<'_>) -> Option<String> {
    let is_current = case.path == Path::new(".");
    (is_current && case.error.kind() == io::ErrorKind::NotFound).then(|| CURRENT_IS_GONE.to_owned())
}

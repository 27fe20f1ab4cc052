//! An error of the library for which somebody looks for a way out.

use std::io;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Operation};

#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) kind: ErrorKind,
    pub(super) operation: Operation,
    pub(super) path: &'a Path,
    pub(super) other: Option<&'a Path>,
    pub(super) error: &'a io::Error,
    /// What the error names beside its paths, such as commits.
    pub(super) details: &'a [PathBuf],
    /// The argument that names the worktree in a command, with a space before it. Empty if the
    /// error is not about a worktree, or is about the project.
    pub(super) name: &'a str,
}

/// The flag that names a worktree for `calve snapshot`, for an argument that names it elsewhere. Both
/// have a space before them, and may be empty.
pub(super) fn of_name(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" --of{name}") }
}

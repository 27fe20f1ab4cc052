//! One opaque error type for the whole library.
//!
//! An *error* means that the operation was not done. Every function's `# Errors` section says what
//! is left behind. How an operation did its work (it copied instead of cloning, and why) is not an
//! error but an outcome, which the [`CloneReport`](crate::CloneReport) counts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::macros::named;

pub use operation::Operation;

mod operation;

named! {
    /// What went wrong, as far as a caller can act on it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum ErrorKind {
        /// The source does not exist.
        SourceNotFound = "source_not_found",
        /// The source is not a directory.
        SourceNotADirectory = "source_not_a_directory",
        /// The destination exists, and [`Existing::Fail`](crate::Existing::Fail) was asked for.
        DestinationExists = "destination_exists",
        /// The folder that is to hold the destination does not exist.
        ParentNotFound = "parent_not_found",
        /// Source and destination are the same, the destination holds the source, or two destinations
        /// are one. Or a worktree holds other worktrees, or a folder is a copy of a worktree.
        Overlap = "overlap",
        /// A merge met a file where the source has a directory, or a directory where it has a file.
        Conflict = "conflict",
        /// [`Reflink::Always`](crate::Reflink::Always) was asked for and a file could not be reflinked.
        ReflinkRefused = "reflink_refused",
        /// There is no store at this path, or in any folder above.
        StoreNotFound = "store_not_found",
        /// A store already exists at this path.
        StoreExists = "store_exists",
        /// A later version of calve made the store, or the store needs a feature that this version does
        /// not have.
        StoreIncompatible = "store_incompatible",
        /// The process sees a worktree at the project's path (`Worktree::show_at_project`), where calve
        /// does not work.
        StoreHidden = "store_hidden",
        /// calve found a store that the caller did not name, and the store belongs to another user, or
        /// to a project at another path.
        StoreUntrusted = "store_untrusted",
        /// Something in the store has changed since calve put it there.
        Damaged = "damaged",
        /// The store cannot be written to.
        ReadOnly = "read_only",
        /// Another process is using it, and did not finish in time.
        Busy = "busy",
        /// No snapshot has this name or id.
        SnapshotNotFound = "snapshot_not_found",
        /// The ids of more than one snapshot start like this.
        SnapshotAmbiguous = "snapshot_ambiguous",
        /// No worktree has this name or is at this path.
        WorktreeNotFound = "worktree_not_found",
        /// A worktree with this name exists, or is being started.
        WorktreeExists = "worktree_exists",
        /// The worktree's folder is gone, or is not the one that was started.
        WorktreeMissing = "worktree_missing",
        /// The worktree was changed by hand, and the operation would lose these changes; see
        /// [`Error::details`].
        Changed = "changed",
        /// The worktree has commits that no branch, tag or other reference holds, and the operation
        /// would lose them; see [`Error::details`].
        CommitsOnlyHere = "commits_only_here",
        /// The branch exists, or another working tree has it checked out.
        BranchExists = "branch_exists",
        /// git has no commit of this name, or the name may mean several.
        CommitNotFound = "commit_not_found",
        /// git is not installed, or refused what calve asked for. The message has git's words.
        Git = "git",
        /// No remote is at this URL.
        RemoteNotFound = "remote_not_found",
        /// A remote is at this URL already.
        RemoteExists = "remote_exists",
        /// The server at this URL cannot do what a remote needs: it accepts a second write under one
        /// key, or cannot send a part of an object. Or it is a web server, which can only be read, and
        /// the operation needs more.
        RemoteUnfit = "remote_unfit",
        /// None of the configured keys vouches for a name of a remote, or the name means something
        /// older than it did before.
        Untrusted = "untrusted",
        /// The system gives the process no mount namespace of its own, or lets it mount nothing there.
        NamespaceRefused = "namespace_refused",
        /// The name is not allowed.
        InvalidName = "invalid_name",
        /// The [`Cancel`](crate::Cancel) token was set.
        Cancelled = "cancelled",
        /// calve does not understand a glob or an ignore file.
        InvalidPattern = "invalid_pattern",
        /// The disk, or the quota, is full.
        StorageFull = "storage_full",
        /// The process lacks a permission.
        PermissionDenied = "permission_denied",
        /// Any other error of the operating system; see [`Error::io_error`].
        Io = "io",
    }
}

/// An operation that was not done: which operation, on which paths, and the cause.
pub struct Error(Box<ErrorInner>);

struct ErrorInner {
    kind: ErrorKind,
    operation: Operation,
    path: PathBuf,
    other: Option<PathBuf>,
    details: Vec<PathBuf>,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(
        kind: ErrorKind,
        operation: Operation,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self(Box::new(ErrorInner {
            kind,
            operation,
            path: path.into(),
            other: None,
            details: Vec::new(),
            source: source.into(),
        }))
    }

    /// An error of the operating system. Its kind follows from the errno.
    pub(crate) fn io(
        operation: Operation,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::StorageFull,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        };
        Self::new(kind, operation, path, source)
    }

    /// The same error, but of the copy that calve tried after a clone.
    pub(crate) fn into_copy(mut self) -> Self {
        self.0.operation = Operation::Copy;
        self
    }

    pub(crate) fn with_other(mut self, other: impl Into<PathBuf>) -> Self {
        self.0.other = Some(other.into());
        self
    }

    /// The same error, but with the path that a file is to have instead of its path in the stage.
    #[cfg(unix)]
    pub(crate) fn with_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.path = path.into();
        self
    }

    #[cfg(unix)]
    pub(crate) fn with_details(mut self, details: Vec<PathBuf>) -> Self {
        self.0.details = details;
        self
    }

    /// What went wrong, as far as a caller can act on it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// The path on which the operation failed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The second path, if the operation has two: the source of a clone, or the other side of a
    /// conflict.
    #[must_use]
    pub fn other_path(&self) -> Option<&Path> {
        self.0.other.as_deref()
    }

    /// The word between the two paths in a message: `clone A to B`, `merge A and B`.
    #[must_use]
    pub fn joint(&self) -> &'static str {
        match self.0.operation {
            Operation::Clone
            | Operation::Reflink
            | Operation::Copy
            | Operation::Link
            | Operation::MergeFile
            | Operation::MergeDirectory => "to",
            Operation::StartWorktree
            | Operation::FindStoreOfProject
            | Operation::FindStoreOfWorktree => "at",
            Operation::UseProject | Operation::UseWorktree => "in place of",
            Operation::MakeBranch => "beside",
            Operation::Compare => "in",
            _ => "and",
        }
    }

    /// Everything that is in the way, if there may be more than one: paths that were changed by
    /// hand, commits that would be lost, or worktrees inside a worktree.
    #[must_use]
    pub fn details(&self) -> &[PathBuf] {
        &self.0.details
    }

    /// The error of the operating system that was the cause.
    #[must_use]
    pub fn io_error(&self) -> &io::Error {
        &self.0.source
    }
}

/// Escapes a path for a message (like `Debug`, without its quotes), so that a hostile name cannot
/// steer a terminal.
fn shown(path: &Path) -> String {
    let quoted = format!("{path:?}");
    let inner = &quoted[1..quoted.len() - 1];
    // `Debug` also escapes harmless characters: quotes and backslashes. A name without any of these
    // is shown as it is.
    if inner.contains('\\') || inner.is_empty() { quoted } else { inner.to_owned() }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorInner { operation, path, other, source, .. } = &*self.0;
        write!(f, "{} {}", operation.as_str(), shown(path))?;
        if let Some(other) = other {
            write!(f, " {} {}", self.joint(), shown(other))?;
        }
        write!(f, ": {source}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ErrorInner { kind, operation, path, other, details, source } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("operation", operation)
            .field("path", path)
            .field("other", other)
            .field("details", details)
            .field("source", source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.source)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.0.source.kind(), error)
    }
}

/// Adds operation and path to an error: `.context(operation, path)?` on every line that does I/O.
pub(crate) trait Context<T> {
    fn context<P: Into<PathBuf>>(
        self,
        operation: Operation,
        path: impl FnOnce() -> P,
    ) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context<P: Into<PathBuf>>(
        self,
        operation: Operation,
        path: impl FnOnce() -> P,
    ) -> Result<T, Error> {
        self.map_err(|source| Error::io(operation, path(), source))
    }
}

/// Lets an error be no error: `read(path).if_there()?` for a file that need not exist.
#[cfg(unix)]
pub(crate) trait IfThere<T, E>: Sized {
    /// `None` instead of an error that is harmless.
    fn but_for(self, is_harmless: impl FnOnce(&E) -> bool) -> Result<Option<T>, E>;

    /// `None` if nothing is there.
    fn if_there(self) -> Result<Option<T>, E>;
}

#[cfg(unix)]
impl<T, E: NotThere> IfThere<T, E> for Result<T, E> {
    fn but_for(self, is_harmless: impl FnOnce(&E) -> bool) -> Result<Option<T>, E> {
        match self {
            Err(error) if is_harmless(&error) => Ok(None),
            result => result.map(Some),
        }
    }

    fn if_there(self) -> Result<Option<T>, E> {
        self.but_for(E::is_not_there)
    }
}

/// An error that may say that nothing is there.
#[cfg(unix)]
pub(crate) trait NotThere {
    fn is_not_there(&self) -> bool;
}

#[cfg(unix)]
impl NotThere for io::Error {
    fn is_not_there(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }
}

#[cfg(unix)]
impl NotThere for rustix::io::Errno {
    fn is_not_there(&self) -> bool {
        *self == Self::NOENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_operation_paths_and_cause_and_escapes_control_characters() {
        let cause = || io::Error::other("cause");
        for (error, expected) in [
            (Error::io(Operation::Open, "/a b", cause()), "open /a b: cause"),
            (
                Error::io(Operation::Clone, "/a", cause()).with_other("/b\u{1b}[2J"),
                r#"clone /a to "/b\u{1b}[2J": cause"#,
            ),
            (Error::io(Operation::Merge, "/a", cause()).with_other("/A"), "merge /a and /A: cause"),
            (Error::io(Operation::Open, "a\nb", cause()), r#"open "a\nb": cause"#),
        ] {
            assert_eq!(error.to_string(), expected);
        }
    }
}

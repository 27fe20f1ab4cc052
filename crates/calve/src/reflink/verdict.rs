//! What an errno of a clone means, and what is remembered of it.
//!
//! The one pure function here, [`classify`], decides for the whole crate; its table is the platform's
//! (`sys::TABLE`), tested row by row beside it. An errno that is not in the table is fatal: a refusal that
//! nobody understood must not be masked by another method.

use std::io;

use super::sys;

/// How the caller must treat a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// This pair of filesystems cannot; remember it for the operation.
    Filesystem,
    /// This one file cannot; copy it and keep trying others.
    File,
    /// Transient: try again, to a deadline.
    Retry,
    /// Surface it: another method would mask a failing or full disk, or a bug of ours.
    Fatal,
}

/// What `error`, as a clone call of this platform gave it, means.
pub(crate) fn classify(error: &io::Error) -> Verdict {
    let Some(errno) = error.raw_os_error() else {
        return if error.kind() == io::ErrorKind::Unsupported {
            Verdict::Filesystem
        } else {
            Verdict::Fatal
        };
    };
    sys::TABLE.iter().find(|(row, _)| *row == errno).map_or(Verdict::Fatal, |(_, verdict)| *verdict)
}

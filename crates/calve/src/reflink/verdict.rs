//! Decides what an errno of a clone call means, and remembers it.
//!
//! [`classify`] is a pure function, and decides for the whole crate. It uses the table of the
//! platform (`sys::TABLE`), whose module tests each row. An errno that is not in the table is
//! fatal: calve does not know what the refusal means, and another method must not hide it.

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

/// The meaning of `error`, which a clone call of this platform returned.
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

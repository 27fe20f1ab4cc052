//! Every exit code of the command, in one place.

use std::process::ExitCode;

/// How the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 1: failed. calve leaves no half-made tree behind.
    Failed,
    /// 2: the command line was not understood, and nothing was begun.
    Usage,
    /// 3: done, with findings: entries that were left out, changes, damage, or a pair of paths that
    /// cannot reflink.
    Findings,
    /// 126 or 127: the program of `calve run` could not be run, or was not found. The codes of a
    /// shell.
    #[cfg(target_os = "linux")]
    NotRun(u8),
    /// 128 + the signal's number (130 for Ctrl-C): a signal stopped calve. What stays is as for 1.
    Signal(u8),
}

impl Exit {
    /// The end of two steps of one command: the first that is not [`Exit::Done`].
    #[cfg(unix)]
    pub(crate) fn and(self, next: Self) -> Self {
        if self == Self::Done { next } else { self }
    }

    /// The number that the parent process sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            #[cfg(target_os = "linux")]
            Self::NotRun(code) => code,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

//! The values that some flags take, and their meaning to the library.

use clap::ValueEnum;

/// See [`calve::Reflink`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reflink {
    /// Reflink where the filesystem can, else copy
    Auto,
    /// Reflink, or fail before anything appears
    Always,
    /// Copy the bytes
    Never,
}

/// Whether a start may copy; see [`calve::StartOptions::reflink`].
#[cfg(unix)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StartReflink {
    /// Reflink where the filesystem can, else copy
    #[default]
    Auto,
    /// Reflink, or refuse before anything is made
    Always,
}

/// See [`calve::CloneMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// As --reflink says; isolated from SRC
    Clone,
    /// Copies that share nothing; isolated from SRC
    Copy,
    /// Hard links: a write to either name changes both
    Hardlink,
    /// Symbolic links to SRC's files: not isolated
    Symlink,
}

/// See [`calve::Existing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Existing {
    /// Fail, and change nothing
    Fail,
    /// Leave that destination as it is
    Skip,
    /// Replace the whole tree, atomically
    Replace,
    /// Merge into it, atomically for each file
    Merge,
    /// Merge into it, but leave what exists as it is
    Keep,
}

/// See [`calve::GitIndex`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GitIndex {
    /// Record the clone's files, so that git need not read them
    Ready,
    /// Copy them byte for byte; the first git status reads every file
    Exact,
}

impl From<Reflink> for calve::Reflink {
    fn from(reflink: Reflink) -> Self {
        match reflink {
            Reflink::Auto => Self::Auto,
            Reflink::Always => Self::Always,
            Reflink::Never => Self::Never,
        }
    }
}

impl From<Mode> for calve::CloneMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Clone => Self::Clone,
            Mode::Copy => Self::Copy,
            Mode::Hardlink => Self::Hardlink,
            Mode::Symlink => Self::Symlink,
        }
    }
}

impl From<Existing> for calve::Existing {
    fn from(existing: Existing) -> Self {
        match existing {
            Existing::Fail => Self::Fail,
            Existing::Skip => Self::Skip,
            Existing::Replace => Self::Replace,
            Existing::Merge => Self::Merge,
            Existing::Keep => Self::Keep,
        }
    }
}

impl From<GitIndex> for calve::GitIndex {
    fn from(git_index: GitIndex) -> Self {
        match git_index {
            GitIndex::Ready => Self::Ready,
            GitIndex::Exact => Self::Exact,
        }
    }
}

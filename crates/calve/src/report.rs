//! What was done: outcomes and findings, counted per destination.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What [`clone_tree`](crate::clone_tree) did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CloneReport {
    /// The source, as it was given.
    pub source: PathBuf,
    /// One entry for each destination, in the order in which they were given.
    pub destinations: Vec<DestinationReport>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// What was done for one destination.
///
/// Where `method` is [`Method::Snapshot`] every count is 0: nothing was walked, so nothing was counted.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DestinationReport {
    /// The destination, as it was given.
    pub path: PathBuf,
    /// Whether it lies inside the source (Unix, [`clone_tree`](crate::clone_tree)). No clone of the operation has it in itself then, nor any other destination
    /// inside the source.
    pub inside_source: bool,
    /// How the files arrived, taken together.
    pub method: Method,
    /// Regular files that arrived: `reflinked_files + copied_files + linked_files`.
    pub files: u64,
    /// Directories that were made, the root included. A merge counts only those that were not there.
    pub directories: u64,
    /// Symbolic links that were made for a symbolic link of the source.
    pub symlinks: u64,
    /// FIFOs that were made anew.
    pub fifos: u64,
    /// Files that share their blocks with the source. Empty files count here unless the filesystem is
    /// known not to clone.
    pub reflinked_files: u64,
    /// Sizes of the reflinked files, summed up, in bytes.
    pub reflinked_bytes: u64,
    /// Files whose bytes were copied.
    pub copied_files: u64,
    /// Sizes of the copied files (apparent: holes count), summed up, in bytes.
    pub copied_bytes: u64,
    /// Files that are a hard link of, or a symbolic link to, the source's file; and further names of a
    /// file that already arrived (hard links inside the source).
    pub linked_files: u64,
    /// Why files were copied and not shared: the counts add up to `copied_files`.
    pub copied_because: CopiedBecause,
    /// In the link modes: why files were cloned or copied and not linked. The counts add up to
    /// `reflinked_files + copied_files` then, and are 0 in the other modes.
    pub unlinked_because: UnlinkedBecause,
    /// Entries that a merge replaced: files, links and FIFOs, and not directories, which it enters.
    pub replaced_entries: u64,
    /// The same by path, relative to the source; only with [`list_existing`](crate::CloneOptions::list_existing).
    pub replaced: Vec<PathBuf>,
    /// Entries of the source that did not arrive since something of that name was there
    /// ([`Existing::Keep`](crate::Existing::Keep)). They are in no other count.
    pub kept_entries: u64,
    /// The same by path, relative to the source; only with [`list_existing`](crate::CloneOptions::list_existing).
    pub kept: Vec<PathBuf>,
    /// Entries of git indexes that record the clone's files now, so that git need not read these
    /// ([`GitIndex::Ready`](crate::GitIndex::Ready)).
    pub ready_index_entries: u64,
    /// What did not arrive, or did not arrive whole.
    pub skipped: Vec<Skipped>,
}

/// Why files were copied, as counts of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopiedBecause {
    /// The caller asked for copies.
    pub disabled: u64,
    /// The pair of filesystems cannot share blocks, or cannot link.
    pub filesystem: u64,
    /// This one file was refused.
    pub file: u64,
    /// There was no file to clone from, and the bytes came from elsewhere: from a pack of a store that cannot be written to.
    pub vanished: u64,
    /// The file must be mutable, and a link would not have been.
    pub mutable: u64,
}

impl CopiedBecause {
    /// All copied files.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.disabled + self.filesystem + self.file + self.vanished + self.mutable
    }

    /// The reasons with their names, as the JSON output spells them.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 5] {
        [
            ("disabled", self.disabled),
            ("filesystem", self.filesystem),
            ("file", self.file),
            ("vanished", self.vanished),
            ("mutable", self.mutable),
        ]
    }
}

/// Why files are no links in the link modes, as counts of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnlinkedBecause {
    /// The pair of filesystems cannot link.
    pub filesystem: u64,
    /// This one file was refused: it has as many names as it can have, or it belongs to another user (`protected_hardlinks`).
    pub file: u64,
    /// The file must be mutable, and a link would not have been.
    pub mutable: u64,
}

impl UnlinkedBecause {
    /// All files that are no links.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.filesystem + self.file + self.mutable
    }

    /// The reasons with their names, as the JSON output spells them.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 3] {
        [("filesystem", self.filesystem), ("file", self.file), ("mutable", self.mutable)]
    }
}

/// How the files of a destination arrived, taken together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// Nothing with content arrived (an empty tree, a skipped destination, a dry run).
    #[default]
    None,
    /// Every file shares its blocks with the source.
    Reflink,
    /// The whole tree is a btrfs subvolume snapshot: constant time, nothing was walked.
    Snapshot,
    /// Every file was copied.
    Copy,
    /// Every file is a hard link to the source's.
    Hardlink,
    /// Every file is a symbolic link to the source's.
    Symlink,
    /// More than one of these.
    Mixed,
}

impl Method {
    /// The name that the JSON output uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Reflink => "reflink",
            Self::Snapshot => "snapshot",
            Self::Copy => "copy",
            Self::Hardlink => "hardlink",
            Self::Symlink => "symlink",
            Self::Mixed => "mixed",
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An entry that did not arrive, or that arrived without a part of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The entry, relative to the source. Empty where it is the destination as a whole.
    pub path: PathBuf,
    /// Why.
    pub reason: SkipReason,
}

/// Why an entry did not arrive whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// A socket: it means nothing without the process that listens on it.
    Socket,
    /// A block or character device; on Windows, a reparse point that is no link and has no content.
    Device,
    /// Gone, or turned into another kind of entry again and again, while it was being read.
    Vanished,
    /// A directory whose names kept changing while they were listed, again and again. What was found of it is there; a name
    /// that others replaced meanwhile may be missing. The path is the directory's, and empty for the root.
    Restless,
    /// It was being written to each time it was read, and nothing of it was kept.
    Changing,
    /// It has the name of a stage, where calve builds trees, and nobody is at work there. It is never cloned: the next
    /// call that looks there may sweep it.
    Stage,
    /// The destination existed and [`Existing::Skip`](crate::Existing::Skip) was asked for.
    Exists,
    /// The file arrived, but its extended attributes or ACLs (named) could not be set there.
    Xattrs(String),
    /// The file arrived, but as a file of its own: the hard link to its other name could not be made.
    HardlinkBroken,
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket => f.write_str("socket"),
            Self::Device => f.write_str("device"),
            Self::Vanished => f.write_str("vanished while it was being cloned"),
            Self::Restless => {
                f.write_str("its names kept changing while they were listed; some may be missing")
            }
            Self::Changing => f.write_str("kept changing while it was being read"),
            Self::Stage => f.write_str("named like a stage of calve's, which is never cloned"),
            Self::Exists => f.write_str("destination exists"),
            Self::Xattrs(names) => write!(f, "arrived without the attributes {names}"),
            Self::HardlinkBroken => f.write_str("arrived as a file of its own, not as a hard link"),
        }
    }
}

/// Counters that another thread may read while [`clone_tree`](crate::clone_tree) works, for a progress bar.
///
/// Over all destinations together; they only grow. What works on a store counts, too: where a tree is compared with its snapshot the
/// files that were looked at, and where the store itself is looked after its contents.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) files: AtomicU64,
    pub(crate) expected: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) publishing: AtomicBool,
}

impl Progress {
    /// Counters that stand at nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Files (not directories) that arrived so far, over all destinations.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// How many files there will be at the least, as far as the operation knows: it may find more. 0 where it does not know, or not
    /// yet.
    #[must_use]
    pub fn expected_files(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// Apparent sizes of those files, in bytes. A file that was only looked at has none.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether everything has arrived and only the renames into place and deletions are left to do.
    #[must_use]
    pub fn is_publishing(&self) -> bool {
        self.publishing.load(Ordering::Relaxed)
    }
}

/// A token by which another thread, or a signal handler, stops an operation.
///
/// Setting it is one atomic store, so it may be done in a signal handler. It is looked at once for each
/// entry; the operation then removes what it staged and fails with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token over a flag that already exists, such as one that a signal handler sets.
    #[must_use]
    pub fn from_flag(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Stops every operation that was given this token.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the token was set.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

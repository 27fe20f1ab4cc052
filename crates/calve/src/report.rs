//! Reports: what an operation did and found, counted for each destination.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::macros::named;

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
/// If `method` is [`Method::Snapshot`], every count is 0: calve did not walk the tree, so it
/// counted nothing.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DestinationReport {
    /// The destination, as it was given.
    pub path: PathBuf,
    /// Whether the destination is inside the source (Unix, [`clone_tree`](crate::clone_tree)). Then
    /// no clone of this operation contains it, nor any other destination inside the source.
    pub inside_source: bool,
    /// How the files arrived, taken together.
    pub method: Method,
    /// Regular files that arrived: `reflinked_files + copied_files + linked_files`.
    pub files: u64,
    /// Directories that were made, with the root. A merge counts only directories that did not
    /// exist before.
    pub directories: u64,
    /// Symbolic links that were made for a symbolic link of the source.
    pub symlinks: u64,
    /// FIFOs that were made.
    pub fifos: u64,
    /// Files that share their blocks with the source. Empty files count here, unless calve knows
    /// that the filesystem cannot clone.
    pub reflinked_files: u64,
    /// The sum of the sizes of the reflinked files, in bytes.
    pub reflinked_bytes: u64,
    /// Files whose bytes were copied.
    pub copied_files: u64,
    /// The bytes of the copied files, holes included.
    pub copied_bytes: u64,
    /// Files that are a hard link of the source's file, or a symbolic link to it. Also further
    /// names of a file that already arrived (hard links inside the source).
    pub linked_files: u64,
    /// Of the linked files, those that are symbolic links to the source's file.
    pub symlinked_files: u64,
    /// Why files were copied and do not share blocks. The counts add up to `copied_files`.
    pub copied_because: CopiedBecause,
    /// In the link modes: why files were cloned or copied, and not linked. Then the counts add up
    /// to `reflinked_files + copied_files`. With
    /// [`or_hardlink`](crate::CloneOptions::or_hardlink) or
    /// [`or_symlink`](crate::CloneOptions::or_symlink), they count the copied files of which a link
    /// was refused. Otherwise they are 0.
    pub unlinked_because: UnlinkedBecause,
    /// With [`or_hardlink`](crate::CloneOptions::or_hardlink) and
    /// [`or_symlink`](crate::CloneOptions::or_symlink): why files are links although clones were
    /// asked for, or symbolic links although hard links were. These files are among `linked_files`.
    pub linked_because: LinkedBecause,
    /// Entries that a merge replaced: files, links and FIFOs. A merge enters directories and does
    /// not replace them.
    pub replaced_entries: u64,
    /// The paths of the replaced entries, relative to the source. Empty without
    /// [`list_existing`](crate::CloneOptions::list_existing).
    pub replaced: Vec<PathBuf>,
    /// Entries of the source that did not arrive, because an entry of that name was there
    /// ([`Existing::Keep`](crate::Existing::Keep)). No other count has them.
    pub kept_entries: u64,
    /// The paths of the kept entries, relative to the source. Empty without
    /// [`list_existing`](crate::CloneOptions::list_existing).
    pub kept: Vec<PathBuf>,
    /// Entries of git indexes that now record the clone's files, so that git need not read these
    /// files ([`GitIndex::Ready`](crate::GitIndex::Ready)).
    pub ready_index_entries: u64,
    /// Entries that did not arrive, or did not arrive whole.
    pub skipped: Vec<Skipped>,
}

/// Why files were copied, as counts of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopiedBecause {
    /// The caller asked for copies.
    pub disabled: u64,
    /// The two filesystems cannot share blocks, or cannot link.
    pub filesystem: u64,
    /// The system refused to clone or link this one file.
    pub file: u64,
    /// There was no file to clone from. The bytes came from a pack of a store that cannot be
    /// written to.
    pub vanished: u64,
    /// The file must be mutable, and a link to the source's file would not be.
    pub mutable: u64,
}

impl CopiedBecause {
    /// The number of all copied files.
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

/// Why files are not links in the link modes, as counts of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnlinkedBecause {
    /// The two filesystems cannot link.
    pub filesystem: u64,
    /// The system refused to link this one file: it has as many names as it can have, or it belongs
    /// to another user (`protected_hardlinks`).
    pub file: u64,
    /// The file must be mutable, and a link to the source's file would not be.
    pub mutable: u64,
}

impl UnlinkedBecause {
    /// The number of all files that are not links.
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

/// Why files are links although clones were asked for, or symbolic links although hard links were,
/// as counts of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkedBecause {
    /// The two filesystems cannot share blocks, or cannot link.
    pub filesystem: u64,
    /// The system refused to clone or link this one file.
    pub file: u64,
}

impl LinkedBecause {
    /// The number of all files that are links for this reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.filesystem + self.file
    }

    /// The reasons with their names, as the JSON output spells them.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 2] {
        [("filesystem", self.filesystem), ("file", self.file)]
    }
}

named! {
    /// How the files of a destination arrived, taken together.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Method {
        /// Nothing with content arrived (an empty tree, a skipped destination, a dry run).
        #[default]
        None = "none",
        /// Every file shares its blocks with the source.
        Reflink = "reflink",
        /// The whole tree is a btrfs subvolume snapshot. This took constant time, and calve did not
        /// walk the tree.
        Snapshot = "snapshot",
        /// Every file was copied.
        Copy = "copy",
        /// Every file is a hard link to the source's file.
        Hardlink = "hardlink",
        /// Every file is a symbolic link to the source's file.
        Symlink = "symlink",
        /// The files arrived in more than one of these ways.
        Mixed = "mixed",
    }
}

/// An entry that did not arrive, or that arrived without a part of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The entry, relative to the source. Empty if it is the destination as a whole.
    pub path: PathBuf,
    /// Why the entry did not arrive whole.
    pub reason: SkipReason,
}

/// Why an entry did not arrive whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// A socket, which means nothing without the process that listens on it.
    Socket,
    /// The file belongs to this process, which runs and works in the tree: a pid file, the note of a
    /// daemon, the lock of a browser's profile. Only operations on a store leave such files out.
    Living(u32),
    /// A block or character device. On Windows, a reparse point that is no link and has no content.
    Device,
    /// The entry was gone while calve read it, or turned into another kind of entry again and
    /// again.
    Vanished,
    /// A directory whose names kept changing while calve listed them, again and again. The entries
    /// that calve found are there. A name that another process replaced meanwhile may be missing.
    /// The path is the directory's; it is empty for the root.
    Restless,
    /// The file was being written to each time calve read it. calve kept none of its content.
    Changing,
    /// The file was being written to each time calve copied it. The last copy arrived, and may be a
    /// mixture of several states of the file. A file that shares its blocks with the source is of
    /// one moment.
    Torn,
    /// The entry has the name of a stage, in which calve builds trees, and no process uses it.
    /// calve never clones it: the next call that looks there may sweep it.
    Stage,
    /// A working tree whose repository is elsewhere: a linked worktree of another repository. In a
    /// copy, its file `.git` would lead git to the same registration, so a commit there would move the
    /// original's branch. Operations on a store leave such trees out.
    OtherRepository,
    /// A store or a remote of calve's. A restore would take back what was stored there since.
    /// Operations on a store leave it out.
    StoreOrRemote,
    /// The entry has the name of calve's own folder in a tree, `.calve`, and is not that folder.
    /// Operations on a store leave it out.
    OwnName,
    /// This file `.git` arrived, and leads git to what is the source's: see
    /// [`SkipReason::OtherRepository`]. Only [`clone_tree`](crate::clone_tree) clones such a file.
    SharedRepository,
    /// The destination existed and [`Existing::Skip`](crate::Existing::Skip) was asked for.
    Exists,
    /// The file arrived, but the extended attributes or ACLs with these names could not be set. The
    /// same holds for `mode`, `owner`, `times`, `set-user-ID` and `set-group-ID`. calve also names
    /// what the filesystem accepted and did not keep, if it was not tested on that filesystem.
    Xattrs(String),
    /// The file arrived as a file of its own, because the hard link to its other name could not be
    /// made.
    HardlinkBroken,
}

impl std::fmt::Display for SkipReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket => f.write_str("socket"),
            Self::Living(pid) => write!(f, "belongs to process {pid}"),
            Self::Device => f.write_str("device"),
            Self::Vanished => f.write_str("vanished while it was being cloned"),
            Self::Restless => {
                f.write_str("its names kept changing while they were listed; some may be missing")
            }
            Self::Changing => f.write_str("kept changing while it was being read"),
            Self::Torn => f.write_str(
                "arrived, but was being written to while it was copied, so it may be a mixture",
            ),
            Self::Stage => f.write_str("named like a stage of calve's, which is never cloned"),
            Self::OtherRepository => f.write_str(
                "it is a working tree of another repository, and a copy would share its branch and its index",
            ),
            Self::StoreOrRemote => f.write_str(
                "it is a store or a remote of calve, and a restore would take back what was stored there since",
            ),
            Self::OwnName => f.write_str("named like calve's own folder in a tree, which it is not"),
            Self::SharedRepository => f.write_str(
                "arrived, and leads git to the source's own branch and index: a commit here moves that branch",
            ),
            Self::Exists => f.write_str("destination exists"),
            Self::Xattrs(names) => write!(f, "arrived without its {names}"),
            Self::HardlinkBroken => f.write_str("arrived as a file of its own, not as a hard link"),
        }
    }
}

/// Counters that another thread may read while [`clone_tree`](crate::clone_tree) works, for a
/// progress bar.
///
/// They count over all destinations together, and never decrease. Operations on a store use them,
/// too. When such an operation compares a tree with its snapshot, it counts the files that it
/// looked at. When it maintains the store itself, it counts the store's contents.
#[derive(Debug, Default)]
pub struct Progress {
    pub(crate) files: AtomicU64,
    pub(crate) expected: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) expected_bytes: AtomicU64,
    pub(crate) publishing: AtomicBool,
}

impl Progress {
    /// Counters that are all 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Files (not directories) that arrived so far, over all destinations.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// The least number of files that there will be, as far as the operation knows; it may find
    /// more. 0 if the operation does not know, or not yet.
    #[must_use]
    pub fn expected_files(&self) -> u64 {
        self.expected.load(Ordering::Relaxed)
    }

    /// The sum of the apparent sizes of those files, in bytes. A file that calve only looked at
    /// adds nothing.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The least sum of those sizes that there will be, as far as the operation knows, in bytes. 0
    /// if the operation does not know, or not yet. Pushes and pulls know it.
    #[must_use]
    pub fn expected_bytes(&self) -> u64 {
        self.expected_bytes.load(Ordering::Relaxed)
    }

    /// Whether everything has arrived, and only renames into place and deletions are left.
    #[must_use]
    pub fn is_publishing(&self) -> bool {
        self.publishing.load(Ordering::Relaxed)
    }
}

/// A token with which another thread, or a signal handler, stops an operation.
///
/// Setting the token is one atomic store, so a signal handler may do it. The operation looks at the
/// token once for each entry. When it is set, the operation removes what it staged and fails with
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A token that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A token for a flag that already exists, such as a flag that a signal handler sets.
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

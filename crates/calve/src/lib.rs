//! Isolated, ready-to-work copies of a directory tree at about one copy's worth of disk.
//!
//! # Nouns
//! * A *reflink* is a file that shares its extents with another until one of the two is written to; the write goes to
//!   new blocks, so neither ever sees the other's. Making one takes no time and no data blocks.
//! * A *tree* is a directory with all that is in it. A *clone* of a tree is a new tree whose files are reflinks of the
//!   files of the first, or, where the filesystem cannot, copies of them.
//! * A *stage* is a tree under construction. It has another name and becomes the destination by one rename.
//! * A *verdict* is what a refusal means: about the pair of filesystems (remembered), about the file (that one is
//!   copied), about the moment (tried again), or none of these (the operation fails; nothing is masked).
//!
//! # One tree, eight times
//! ```no_run
//! use calve::{CloneOptions, clone_tree};
//!
//! let worktrees: Vec<_> = (1..=8).map(|n| format!("../project-{n}")).collect();
//! let report = clone_tree("project", &worktrees, &CloneOptions::new())?;
//! for tree in &report.destinations {
//!     println!("{}: {} of {} files share their blocks", tree.path.display(), tree.reflinked_files, tree.files);
//! }
//! # Ok::<(), calve::Error>(())
//! ```
//!
//! # A cache into an environment
//! ```no_run
//! use calve::{CloneOptions, Existing, Mode, clone_tree};
//!
//! let options = CloneOptions::new()
//!     .existing(Existing::Merge) // others may merge into it at the same time
//!     .mode(Mode::Hardlink) // asked for by name; never a fallback
//!     .mutable("*.pyc"); // these will be written to, so they must not be links
//! clone_tree("cache/numpy-2.1", &["venv/lib/python3.13/site-packages"], &options)?;
//! # Ok::<(), calve::Error>(())
//! ```
//!
//! # One file
//! [`clonefile_or_copy`] replaces a file atomically by a reflink or a copy. [`try_reflink`] says which of four things
//! happened, and leaves the fallback to the caller.
//!
//! # Hazards
//! * A clone costs no data blocks *now*. A later write to a shared block needs a new one, so trees can together be
//!   written fuller than the disk is.
//! * [`Mode::Hardlink`] and [`Mode::Symlink`] are not isolated: that is what they are.
//! * A process that forks while a file is open for writing makes a later `execve` of that file fail with `ETXTBSY` for as
//!   long as the child holds the descriptor. Do not start programs from a tree while it is being cloned.
//! * A tree with absolute paths to itself inside (Python environments, build caches) still means the first tree.
//! * The calls block, and start threads of their own that live no longer than the call. These threads have their own
//!   umask; the process's is neither read nor changed.
//!
//! The library prints nothing and reads no environment.

mod error;
mod reflink;
mod report;
mod tree;

pub use error::{Error, ErrorKind};
pub use reflink::{
    Probe, ReflinkOutcome, clone_range, clonefile_or_copy, filesystem_name,
    filesystem_supports_reflink, probe, probe_between, reflink_file, try_reflink,
};
pub use report::{
    Cancel, CopiedBecause, DestinationReport, Method, Progress, Report, SkipReason, Skipped,
};
#[cfg(unix)]
pub use store::{
    BlobId, Damage, DamageKind, GcOptions, GcReport, PackOptions, PackReport, Place, Snapshot,
    SnapshotId, SnapshotReport, Stats, Store, StoreOptions, VerifyReport, WarmReport,
};
pub use tree::{CloneOptions, Existing, Mode, Reflink, clone_tree};
#[cfg(unix)]
pub use worktree::{
    Change, ChangeKind, Diff, Dropped, FileDiff, Standing, StartOptions, StartReport, Started,
    Status, SwitchReport, Worktree,
};
#[cfg(unix)]
mod store;
#[cfg(doc)]
pub mod store_format;
#[cfg(unix)]
mod worktree;

//! L2: one tree to N destinations.
//!
//! [`run`] goes from the arguments to the report. [`engine`] makes trees from a [`source`]: [`node`] has its directories, [`file`]
//! its files, [`links`] the hard links among them. [`walk`] is a live directory as the source. [`staging`] makes trees whole or absent,
//! [`removal`] removes them. [`filter`] decides what is cloned, and [`verdicts`] remembers what a filesystem refused. [`git_index`]
//! readies a clone for git.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Operation};
use crate::report::{Cancel, CloneReport, Progress};

#[cfg(unix)]
pub(crate) mod budget;
pub(crate) mod cost;
#[cfg(unix)]
pub(crate) mod disk;
#[cfg(unix)]
pub(crate) mod engine;
#[cfg(unix)]
pub(crate) mod file;
pub(crate) mod filter;
#[cfg(unix)]
pub(crate) mod git_index;
#[cfg(unix)]
pub(crate) mod links;
#[cfg(unix)]
pub(crate) mod listing;
#[cfg(unix)]
mod mounts;
#[cfg(unix)]
mod names;
#[cfg(unix)]
pub(crate) mod node;
#[cfg(unix)]
pub(crate) mod op;
#[cfg(unix)]
pub(crate) mod pick;
#[cfg(unix)]
pub(crate) mod pool;
#[cfg(unix)]
pub(crate) mod read;
#[cfg(unix)]
pub(crate) mod removal;
#[cfg(unix)]
mod run;
#[cfg(not(unix))]
#[path = "tree/portable.rs"]
mod run;
#[cfg(unix)]
pub(crate) mod running;
#[cfg(unix)]
pub(crate) mod sharing;
#[cfg(unix)]
pub(crate) mod source;
#[cfg(unix)]
pub(crate) mod special;
#[cfg(unix)]
pub(crate) mod staging;
pub(crate) mod tally;
#[cfg(unix)]
mod targets;
pub(crate) mod verdicts;
#[cfg(unix)]
pub(crate) mod visit;
#[cfg(unix)]
mod walk;

/// The folder that is calve's own, in a project and in a worktree.
pub(crate) const OWN: &str = ".calve";

/// How a regular file arrives at the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloneMode {
    /// A reflink, as [`Reflink`] says; isolated from the source.
    #[default]
    Clone,
    /// A copy of the bytes, never sharing blocks; isolated from the source.
    Copy,
    /// A hard link to the source's file: **a write through one name is seen through the other.** Where
    /// linking is refused, the file is cloned or copied instead. So is what is in a folder `.calve`, here and as symbolic links:
    /// two stores with one database would each damage the other.
    Hardlink,
    /// A symbolic link to the absolute path of the source's file: **not isolated**, and it breaks when
    /// the source goes away.
    Symlink,
}

/// Whether blocks are shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reflink {
    /// Reflink where the filesystem can, else copy, and say so in the report.
    #[default]
    Auto,
    /// Reflink, or fail before anything is published.
    Always,
    /// Copy the bytes by reading and writing them (`copy_file_range` shares blocks on its own on XFS and btrfs).
    Never,
}

/// What to do where the destination exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Existing {
    /// Fail; nothing is changed.
    #[default]
    Fail,
    /// Leave that destination as it is, say so in the report, and make the others.
    Skip,
    /// Replace the whole of it, atomically; what was there is deleted after the new tree stands.
    Replace,
    /// Merge into it. Each file appears whole or not at all and replaces a file of its name atomically;
    /// a file over a directory, or a directory over a file, is an error. So are two entries of the source that the
    /// destination takes for one, because it ignores case. What the source does not have stays.
    ///
    /// A destination that is itself a symbolic link to a directory is merged into where it points; links inside it are never
    /// followed.
    Merge,
    /// Merge into it, but keep what exists: an entry that is there, a file, a link or whatever it is, stays untouched, and only what
    /// is missing arrives; directories are entered. What another process puts there meanwhile stays, too. A directory over what is
    /// none is an error, as in [`Merge`](Self::Merge). The report counts what was kept
    /// ([`kept_entries`](crate::DestinationReport::kept_entries)).
    Keep,
}

impl Existing {
    /// Whether what arrives goes into what is there.
    pub(crate) fn merges(self) -> bool {
        matches!(self, Self::Merge | Self::Keep)
    }
}

/// What calve does with the indexes of git repositories in a clone: the file `index` in each directory `.git`, and those of submodules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GitIndex {
    /// It copies them byte for byte. They record the inode numbers and times of the source's files, so the first
    /// `git status` in the clone reads every file.
    #[default]
    Exact,
    /// It makes each entry of an unchanged file record the clone's file. git then reads only files that it would read in the source,
    /// and its answers are the same. calve does so on Unix, in [`CloneMode::Clone`] and [`CloneMode::Copy`]; a tree that arrives as a
    /// snapshot does not need it, and a split index stays as it is. The report counts the entries
    /// ([`ready_index_entries`](crate::DestinationReport::ready_index_entries)).
    Ready,
}

/// How [`clone_tree`] works; built by value.
#[derive(Debug, Clone)]
pub struct CloneOptions {
    pub(crate) mode: CloneMode,
    pub(crate) reflink: Reflink,
    pub(crate) existing: Existing,
    pub(crate) exclude: Vec<String>,
    pub(crate) include: Vec<String>,
    pub(crate) mutable: Vec<String>,
    pub(crate) gitignore: bool,
    pub(crate) xattrs: bool,
    pub(crate) git_index: GitIndex,
    pub(crate) durable: bool,
    pub(crate) dry_run: bool,
    pub(crate) list_existing: bool,
    pub(crate) jobs: Option<NonZeroUsize>,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Arc<Progress>,
    /// The only entries that arrive, with [`Existing::Keep`] and one destination.
    #[cfg(unix)]
    pub(crate) picked: Option<Arc<pick::Picked>>,
    /// Each new destination is a subvolume.
    #[cfg(unix)]
    pub(crate) subvolumes: bool,
}

impl Default for CloneOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl CloneOptions {
    /// Reflinks where the filesystem can, every entry, all metadata, and no existing destination.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mode: CloneMode::default(),
            reflink: Reflink::default(),
            existing: Existing::default(),
            exclude: Vec::new(),
            include: Vec::new(),
            mutable: Vec::new(),
            gitignore: false,
            xattrs: true,
            git_index: GitIndex::default(),
            durable: false,
            dry_run: false,
            list_existing: false,
            jobs: None,
            cancel: Cancel::default(),
            progress: Arc::default(),
            #[cfg(unix)]
            picked: None,
            #[cfg(unix)]
            subvolumes: false,
        }
    }

    /// How a regular file arrives.
    #[must_use]
    pub fn mode(mut self, mode: CloneMode) -> Self {
        self.mode = mode;
        self
    }

    /// Whether blocks are shared, for the files that are cloned (all of them in [`CloneMode::Clone`], the
    /// mutable ones and those that could not be linked in the link modes).
    #[must_use]
    pub fn reflink(mut self, reflink: Reflink) -> Self {
        self.reflink = reflink;
        self
    }

    /// What to do where the destination exists.
    #[must_use]
    pub fn existing(mut self, existing: Existing) -> Self {
        self.existing = existing;
        self
    }

    /// Leaves out what matches, by gitignore's rules for one pattern: without a slash it matches a name at
    /// any depth, with one a path from the source's root; a slash at the end matches directories only. Braces are letters.
    /// A directory that is left out is not entered.
    #[must_use]
    pub fn exclude(mut self, glob: impl Into<String>) -> Self {
        self.exclude.push(glob.into());
        self
    }

    /// Keeps what matches although an exclude pattern or an ignore file leaves it out. A pattern with a
    /// slash also reaches into directories that are left out.
    #[must_use]
    pub fn include(mut self, glob: impl Into<String>) -> Self {
        self.include.push(glob.into());
        self
    }

    /// In the link modes: what matches is cloned or copied, since it will be written to.
    #[must_use]
    pub fn mutable(mut self, glob: impl Into<String>) -> Self {
        self.mutable.push(glob.into());
        self
    }

    /// Leaves out what the tree's `.gitignore` files (and `.git/info/exclude` of the root) leave out.
    /// Nothing outside the source is read: no ignore file of a parent, none of the user's; and none of more than 1 MiB.
    #[must_use]
    pub fn gitignore(mut self, yes: bool) -> Self {
        self.gitignore = yes;
        self
    }

    /// Whether extended attributes and ACLs are carried over. They are by default.
    #[must_use]
    pub fn xattrs(mut self, yes: bool) -> Self {
        self.xattrs = yes;
        self
    }

    /// What calve does with the indexes of git repositories. By default they arrive unchanged: a clone has the source's bytes, unless
    /// the caller says otherwise. The command `calve clone` does say otherwise.
    #[must_use]
    pub fn git_index(mut self, git_index: GitIndex) -> Self {
        self.git_index = git_index;
        self
    }

    /// Flushes everything to the disk before the destination appears, and its name after.
    #[must_use]
    pub fn durable(mut self, yes: bool) -> Self {
        self.durable = yes;
        self
    }

    /// Lists in the report what a merge replaced or kept ([`DestinationReport::replaced`](crate::DestinationReport::replaced),
    /// [`kept`](crate::DestinationReport::kept)), and does not only count it. The lists take memory for each path.
    #[must_use]
    pub fn list_existing(mut self) -> Self {
        self.list_existing = true;
        self
    }

    /// Walks and counts, and changes nothing. The report says what would arrive; how it would is only known from trying,
    /// see [`probe_between`](crate::probe_between). It does not look at what a merge would replace or keep.
    #[must_use]
    pub fn dry_run(mut self, yes: bool) -> Self {
        self.dry_run = yes;
        self
    }

    /// How many threads work. As many as there are processors, but at most 8, by default.
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// A token by which the operation can be stopped.
    #[must_use]
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Counters that another thread may read meanwhile.
    #[must_use]
    pub fn progress(mut self, progress: &Arc<Progress>) -> Self {
        self.progress = Arc::clone(progress);
        self
    }
}

/// Clones the directory tree at `source` to every one of `destinations`, in one walk.
///
/// What arrives: regular files (with their holes), directories, symbolic links and FIFOs, with mode, times to the
/// nanosecond, extended attributes and POSIX ACLs, the hard links among them, and the owner where that is allowed.
/// Sockets, devices and what vanishes meanwhile are left out and reported. A destination that lies inside the source is
/// no part of it. `source` may be a symbolic link to a directory; links inside it are never followed.
///
/// Each destination is built under another name beside its place and renamed there when all of them are whole. Stages
/// that a killed process left in the same folder are removed first.
///
/// # Errors
/// Of the source: [`SourceNotFound`](crate::ErrorKind::SourceNotFound), [`SourceNotADirectory`](crate::ErrorKind::SourceNotADirectory),
/// [`Overlap`](crate::ErrorKind::Overlap). Of a destination: [`DestinationExists`](crate::ErrorKind::DestinationExists),
/// [`ParentNotFound`](crate::ErrorKind::ParentNotFound), [`Conflict`](crate::ErrorKind::Conflict) (a merge). Of the options:
/// [`InvalidPattern`](crate::ErrorKind::InvalidPattern), [`ReflinkRefused`](crate::ErrorKind::ReflinkRefused),
/// [`Cancelled`](crate::ErrorKind::Cancelled). Of the system: [`StorageFull`](crate::ErrorKind::StorageFull),
/// [`PermissionDenied`](crate::ErrorKind::PermissionDenied), [`Io`](crate::ErrorKind::Io).
///
/// No destination exists that did not before, and none was changed, except in a merge, where the files
/// that were merged before the error stay, each of them whole. If only the deletion of what was replaced fails
/// ([`Existing::Replace`]), the new tree stands and the error names where the rest of the old one is.
/// Nothing else is left behind, unless it cannot be removed either; then the next call in that folder tries again.
///
/// # Platforms
/// Linux: on btrfs a subvolume is cloned as a snapshot, in constant time, where nothing is left out, nothing is nested
/// or mounted inside it and no destination is inside it ([`Method::Snapshot`](crate::Method::Snapshot)); a snapshot also
/// brings sockets, devices and every owner. Windows: neither owners, ACLs
/// and alternate data streams nor special files; a directory junction arrives as a symbolic link.
pub fn clone_tree<S: AsRef<Path>, D: AsRef<Path>>(
    source: S,
    destinations: &[D],
    options: &CloneOptions,
) -> Result<CloneReport, Error> {
    let destinations: Vec<&Path> = destinations.iter().map(AsRef::as_ref).collect();
    #[cfg(unix)]
    return run::clone_tree(source.as_ref(), &destinations, options, &|_, _, _| Ok(()));
    #[cfg(not(unix))]
    run::clone_tree(source.as_ref(), &destinations, options)
}

/// Changes a destination's stage before the stage is published. The arguments are the destination's
/// number, its stage and its path. A merge has no stage.
#[cfg(unix)]
pub(crate) type Dress<'a> = &'a dyn Fn(usize, &staging::Stage, &Path) -> Result<(), Error>;

/// [`clone_tree`]; `dress` is called for each stage when it is whole. If that fails, no destination
/// appears.
#[cfg(all(unix, feature = "store"))]
pub(crate) fn clone_tree_dressed(
    source: &Path,
    destinations: &[&Path],
    options: &CloneOptions,
    dress: Dress<'_>,
) -> Result<CloneReport, Error> {
    run::clone_tree(source, destinations, options, dress)
}

/// The error for two names of the source that the destination takes for one.
fn two_names(path: PathBuf) -> Error {
    Error::new(
        ErrorKind::Conflict,
        Operation::Make,
        path,
        io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another entry of the source has the same name there (does that filesystem ignore case?)",
        ),
    )
}

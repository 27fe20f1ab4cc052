//! L2: clones one tree to N destinations.
//!
//! [`run`] goes from the arguments to the report. [`engine`] makes trees from a [`source`]:
//! [`node`] has its directories, [`file`](mod@file) its files, [`links`] the hard links among
//! them. [`walk`] is a live directory as the source. [`staging`] makes trees appear whole or not at
//! all, and [`removal`] removes them. [`filter`] decides which entries to clone, and [`verdicts`]
//! remembers what a filesystem refused. [`git_index`] readies a clone for git.

use std::io;
use std::path::{Path, PathBuf};

#[cfg(unix)]
pub use list::TreeEntry;
pub use options::CloneOptions;
#[cfg(unix)]
pub use options::FinishedFile;
pub(crate) use options::{Callback, PathTest};

use crate::error::{Error, ErrorKind, Operation};
use crate::report::CloneReport;

#[cfg(unix)]
pub(crate) mod across;
#[cfg(unix)]
mod aside;
#[cfg(unix)]
pub(crate) mod budget;
pub(crate) mod cost;
#[cfg(unix)]
pub(crate) mod disk;
#[cfg(unix)]
pub(crate) mod engine;
#[cfg(unix)]
pub(crate) mod excluded;
#[cfg(unix)]
pub(crate) mod file;
pub(crate) mod filter;
#[cfg(all(unix, feature = "git-index"))]
pub(crate) mod git_index;
#[cfg(unix)]
pub(crate) mod linker;
#[cfg(unix)]
pub(crate) mod links;
#[cfg(unix)]
pub(crate) mod list;
#[cfg(unix)]
pub(crate) mod listing;
#[cfg(unix)]
pub(crate) mod mounts;
#[cfg(unix)]
mod names;
#[cfg(unix)]
pub(crate) mod node;
#[cfg(unix)]
pub(crate) mod op;
mod options;
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

/// The folder that is calve's own in a repository of git.
pub(crate) const IN_GIT: &str = "calve";

/// The part of a path that is inside a folder of calve's own: `.calve`, or `calve` in a repository,
/// which is called `.git` or `NAME.git`.
#[cfg(unix)]
pub(crate) fn inside_own(path: &Path) -> Option<&Path> {
    let (mut parts, mut in_git) = (path.components(), false);
    while let Some(part) = parts.next() {
        let name = part.as_os_str();
        if name == OWN || in_git && name == IN_GIT {
            return Some(parts.as_path());
        }
        in_git = name.as_encoded_bytes().ends_with(b".git");
    }
    None
}

/// How a regular file arrives at the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloneMode {
    /// A reflink, as [`Reflink`] says; isolated from the source.
    #[default]
    Clone,
    /// A copy of the bytes, never sharing blocks; isolated from the source.
    Copy,
    /// A hard link to the source's file: **a write through one name is seen through the other.** If
    /// the filesystem refuses a link, calve clones or copies the file instead. In this mode and in
    /// [`Symlink`](Self::Symlink), calve also clones or copies everything in a folder `.calve`: two
    /// stores with one database would damage each other.
    Hardlink,
    /// A symbolic link to the absolute path of the source's file: **not isolated**, and it breaks
    /// when the source goes away.
    Symlink,
}

/// A kind of link to the source's file.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Hard,
    Symbolic,
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
    /// Copy the bytes by reading and writing them (`copy_file_range` may share blocks on XFS and
    /// btrfs).
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
    /// Replace the whole tree atomically. calve deletes the old one after the new one is in place.
    Replace,
    /// Merge into it. A directory that it lacks appears whole, by one rename. In a directory that
    /// existed, each file appears whole or not at all, and atomically replaces a file of its name. A file over a directory, or a directory over a file, is an error. So are two entries
    /// of the source that have one name at the destination because it ignores case. Entries that
    /// the source does not have stay.
    ///
    /// If the destination itself is a symbolic link to a directory, calve merges into that
    /// directory. It never follows links inside the destination.
    Merge,
    /// Merge into it, but keep everything that exists. An existing entry of any kind stays
    /// untouched, calve enters existing directories, and only missing entries arrive. An entry that
    /// another process puts there in the meantime stays, too. A directory over an entry that is not
    /// a directory is an error, as in [`Merge`](Self::Merge). The report counts the kept entries
    /// ([`kept_entries`](crate::DestinationReport::kept_entries)).
    Keep,
}

impl Existing {
    /// Whether entries arrive in an existing tree.
    pub(crate) fn merges(self) -> bool {
        matches!(self, Self::Merge | Self::Keep)
    }

    /// Fails if this does not allow what is at the destination.
    fn must_allow(self, dest: &Path, is_directory: bool) -> Result<(), Error> {
        let (kind, cause, why) = match self {
            Self::Fail => {
                let kind = ErrorKind::DestinationExists;
                (kind, io::ErrorKind::AlreadyExists, "the destination exists")
            }
            Self::Merge | Self::Keep if !is_directory => {
                let why = "the destination is no directory";
                (ErrorKind::Conflict, io::ErrorKind::NotADirectory, why)
            }
            Self::Skip | Self::Replace | Self::Merge | Self::Keep => return Ok(()),
        };
        Err(Error::new(kind, Operation::CloneTo, dest, io::Error::new(cause, why)))
    }
}

/// How calve treats the indexes of git repositories in a clone: the file `index` in each directory
/// `.git`, and those of submodules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[cfg_attr(not(feature = "git-index"), expect(unreachable_pub, reason = "always `Exact`"))]
pub enum GitIndex {
    /// It copies them byte for byte. They record the inode numbers and times of the source's files,
    /// so the first `git status` in the clone reads every file.
    #[default]
    Exact,
    /// It makes each entry of an unchanged file record the clone's file. git then reads only files
    /// that it would read in the source, and its answers are the same. calve does so on Unix, in
    /// [`CloneMode::Clone`] and [`CloneMode::Copy`]; a tree that arrives as a snapshot does not
    /// need it, and a split index stays as it is. The report counts the entries
    /// ([`ready_index_entries`](crate::DestinationReport::ready_index_entries)).
    Ready,
}

/// Clones the directory tree at `source` to every one of `destinations`, in one walk.
///
/// These entries arrive: regular files (with their holes), directories, symbolic links and FIFOs,
/// with mode, times to the nanosecond, extended attributes, POSIX ACLs, hard links among them, and
/// the owner if that is allowed. calve leaves out sockets, devices and entries that vanish during
/// the call, and reports them. A destination inside the source is no part of the source. `source`
/// may be a symbolic link to a directory; calve never follows links inside it.
///
/// calve builds each destination under another name beside its place, and renames all of them into
/// place when all are whole. First it removes stages that a killed process left in the same folder.
///
/// # Errors
/// Errors of the source: [`SourceNotFound`](crate::ErrorKind::SourceNotFound),
/// [`SourceNotADirectory`](crate::ErrorKind::SourceNotADirectory),
/// [`Overlap`](crate::ErrorKind::Overlap). Errors of a destination:
/// [`DestinationExists`](crate::ErrorKind::DestinationExists),
/// [`ParentNotFound`](crate::ErrorKind::ParentNotFound), [`Conflict`](crate::ErrorKind::Conflict)
/// (a merge). Errors of the options: [`InvalidPattern`](crate::ErrorKind::InvalidPattern),
/// [`ReflinkRefused`](crate::ErrorKind::ReflinkRefused),
/// [`Cancelled`](crate::ErrorKind::Cancelled). Errors of the system:
/// [`StorageFull`](crate::ErrorKind::StorageFull),
/// [`PermissionDenied`](crate::ErrorKind::PermissionDenied), [`Io`](crate::ErrorKind::Io).
///
/// After an error there is no new destination, and none has changed, except in a merge into an
/// existing one: files and directories that were merged before the error stay, each of them whole. If only the deletion of the old tree
/// fails ([`Existing::Replace`]), the new tree is in place, and the error names the path of the
/// rest. Nothing else is left behind, unless calve cannot remove it either; then the next call in
/// that folder tries again.
///
/// # Platforms
/// Linux: on btrfs, calve clones a subvolume as a snapshot, in constant time. The conditions are
/// that nothing is left out, that nothing is nested or mounted inside it, and that no destination
/// is inside it ([`Method::Snapshot`](crate::Method::Snapshot)). A snapshot also brings sockets,
/// devices and every owner. Windows: owners, ACLs, alternate data streams and special files do not
/// arrive; a directory junction arrives as a symbolic link.
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

/// Makes the tree that `entries` list at every one of `destinations`: the packages of a manager
/// whose store has each content in a file of its own.
/// ```
/// use calve::{CloneOptions, TreeEntry, clone_list};
///
/// # let desk = tempfile::tempdir()?;
/// # std::env::set_current_dir(&desk)?;
/// # std::fs::create_dir("store")?;
/// # for name in ["3f", "a9"] {
/// #     std::fs::write(format!("store/{name}"), name)?;
/// # }
/// let package = [
///     TreeEntry::file("index.js", "store/3f"),
///     TreeEntry::file("bin/tool", "store/a9").mode(0o755),
///     TreeEntry::symlink("tool", "bin/tool"),
/// ];
/// let report = clone_list(package, &["node_modules"], &CloneOptions::new())?;
/// assert_eq!(report.destinations[0].files, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
/// Everything that [`clone_tree`] says of destinations, options and reports is true here, but:
/// * Each file is a clone, a copy or a link of its own. Two entries may have one file; they are no
///   hard links of each other, unless [`CloneMode::Hardlink`] makes both links to that file.
/// * A listed file must be a regular one; the last part of its path is not followed as a link.
/// * Directories get the mode of their entry, or 0755, the time of the call, and the process's user
///   and group.
/// * [`CloneOptions::gitignore`] and [`CloneOptions::git_index`] have no effect: the list has what
///   the caller wants.
/// * [`CloneReport::source`] is empty. A message names the file of the list.
///
/// # Errors
/// Those of [`clone_tree`], and before anything is made: an entry leads out of the tree
/// ([`InvalidName`](crate::ErrorKind::InvalidName)); two entries have one path, or one has another
/// one below it and is no directory ([`Conflict`](crate::ErrorKind::Conflict)); a destination that
/// is to be replaced holds a listed file ([`Overlap`](crate::ErrorKind::Overlap)). A directory may
/// be listed twice: the last mode counts. If a listed file is missing, the error is
/// [`SourceNotFound`](crate::ErrorKind::SourceNotFound) and names it. What is left behind is what
/// [`clone_tree`] leaves.
///
/// # Platforms
/// Unix only, so far.
#[cfg(unix)]
pub fn clone_list<D: AsRef<Path>>(
    entries: impl IntoIterator<Item = TreeEntry>,
    destinations: &[D],
    options: &CloneOptions,
) -> Result<CloneReport, Error> {
    let destinations: Vec<&Path> = destinations.iter().map(AsRef::as_ref).collect();
    run::clone_list(entries.into_iter(), &destinations, options)
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

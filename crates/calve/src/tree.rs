//! L2: clones one tree to N destinations.
//!
//! [`run`] goes from the arguments to the report. [`engine`] makes trees from a [`source`]:
//! [`node`] has its directories, [`file`](mod@file) its files, [`links`] the hard links among
//! them. [`walk`] is a live directory as the source. [`staging`] makes trees appear whole or not at
//! all, and [`removal`] removes them. [`filter`] decides which entries to clone, and [`verdicts`]
//! remembers what a filesystem refused. [`git_index`] readies a clone for git.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(unix)]
pub use list::TreeEntry;

use crate::error::{Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::report::{Cancel, CloneReport, Progress};

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

/// A question of a path, relative to the source.
pub(crate) type PathTest = dyn Fn(&Path) -> bool + Send + Sync;

/// Says the permission bits of a file with this path and these bits.
#[cfg(unix)]
pub(crate) type FileMode = dyn Fn(&Path, u32) -> u32 + Send + Sync;

/// Hears of a file.
#[cfg(unix)]
pub(crate) type FileListener = dyn Fn(&FinishedFile<'_>) + Send + Sync;

/// A function of the caller's.
pub(crate) struct Callback<F: ?Sized>(pub(crate) Arc<F>);

impl<F: ?Sized> Clone for Callback<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<F: ?Sized> std::fmt::Debug for Callback<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("function")
    }
}

/// A regular file that has arrived, for [`CloneOptions::on_file`].
#[cfg(unix)]
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct FinishedFile<'a> {
    /// The destination, as it was given.
    pub destination: &'a Path,
    /// The file, relative to the destination.
    pub path: &'a Path,
    /// [`Reflink`](crate::Method::Reflink), [`Copy`](crate::Method::Copy),
    /// [`Hardlink`](crate::Method::Hardlink) (also to a name of the file that arrived before) or
    /// [`Symlink`](crate::Method::Symlink).
    pub method: crate::report::Method,
    /// Why it is a copy, or a link that was not asked for in the first place.
    pub because: Option<tally::Because>,
}

/// How [`clone_tree`] works; built by value.
#[derive(Debug, Clone)]
pub struct CloneOptions {
    pub(crate) mode: CloneMode,
    pub(crate) reflink: Reflink,
    pub(crate) or_hardlink: bool,
    pub(crate) or_symlink: bool,
    pub(crate) existing: Existing,
    pub(crate) exclude: Vec<String>,
    pub(crate) include: Vec<String>,
    pub(crate) mutable: Vec<String>,
    pub(crate) exclude_if: Option<Callback<PathTest>>,
    pub(crate) mutable_if: Option<Callback<PathTest>>,
    #[cfg(unix)]
    pub(crate) file_mode: Option<Callback<FileMode>>,
    #[cfg(unix)]
    pub(crate) on_file: Option<Callback<FileListener>>,
    #[cfg(unix)]
    pub(crate) linker: Option<linker::Linker>,
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
            or_hardlink: false,
            or_symlink: false,
            existing: Existing::default(),
            exclude: Vec::new(),
            include: Vec::new(),
            mutable: Vec::new(),
            exclude_if: None,
            mutable_if: None,
            #[cfg(unix)]
            file_mode: None,
            #[cfg(unix)]
            on_file: None,
            #[cfg(unix)]
            linker: None,
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

    /// In [`CloneMode::Clone`]: a file that cannot be cloned becomes a hard link to the source's
    /// file, and a copy only if that is refused, too. **Such a link is not isolated**, see
    /// [`CloneMode::Hardlink`]. Files that are [`mutable`](Self::mutable), or that need another mode
    /// than the source's file has, are copied. The report says how many files are links
    /// ([`linked_because`](crate::DestinationReport::linked_because)). No effect in the other modes,
    /// with [`Reflink::Always`] or [`Reflink::Never`], and on Windows.
    #[must_use]
    pub fn or_hardlink(mut self) -> Self {
        self.or_hardlink = true;
        self
    }

    /// In [`CloneMode::Clone`] and [`CloneMode::Hardlink`]: a file that cannot be cloned or hard
    /// linked becomes a symbolic link to the absolute path of the source's file, and a copy only if
    /// that is refused, too. **Such a link is not isolated**, see [`CloneMode::Symlink`]. With
    /// [`or_hardlink`](Self::or_hardlink), a hard link is tried first. Everything else that is said
    /// there is true here, and on Windows this has no effect either. The report counts these links
    /// ([`symlinked_files`](crate::DestinationReport::symlinked_files)).
    #[must_use]
    pub fn or_symlink(mut self) -> Self {
        self.or_symlink = true;
        self
    }

    /// The kinds of links to the source's file that a file may become, first those to try first.
    #[cfg(unix)]
    pub(crate) fn links(&self) -> impl Iterator<Item = LinkKind> {
        let (hard, symbolic) = match self.mode {
            CloneMode::Hardlink => (true, self.or_symlink),
            CloneMode::Symlink => (false, true),
            CloneMode::Clone if self.reflink == Reflink::Auto => {
                (self.or_hardlink, self.or_symlink)
            }
            CloneMode::Clone | CloneMode::Copy => (false, false),
        };
        let hard = hard.then_some(LinkKind::Hard);
        hard.into_iter().chain(symbolic.then_some(LinkKind::Symbolic))
    }

    /// Whether files may become hard links to the source's files.
    #[cfg(unix)]
    pub(crate) fn hard_links(&self) -> bool {
        self.links().any(|kind| kind == LinkKind::Hard)
    }

    /// Whether a file that is not cloned may become a link.
    #[cfg(unix)]
    pub(crate) fn links_instead(&self) -> bool {
        self.mode == CloneMode::Clone && self.links().next().is_some()
    }

    /// Leaves out entries that match, by gitignore's rules for one pattern. A pattern without a
    /// slash matches a name at any depth, and one with a slash matches a path from the source's
    /// root. A slash at the end matches only directories. Braces are letters. calve does not enter
    /// a directory that it leaves out.
    #[cfg(feature = "patterns")]
    #[must_use]
    pub fn exclude(mut self, glob: impl Into<String>) -> Self {
        self.exclude.push(glob.into());
        self
    }

    /// Keeps entries that match although an exclude pattern or an ignore file leaves them out. A
    /// pattern with a slash also reaches into directories that are left out.
    #[cfg(feature = "patterns")]
    #[must_use]
    pub fn include(mut self, glob: impl Into<String>) -> Self {
        self.include.push(glob.into());
        self
    }

    /// In the link modes, and with [`or_hardlink`](Self::or_hardlink): what matches is cloned or
    /// copied, since it will be written to.
    #[cfg(feature = "patterns")]
    #[must_use]
    pub fn mutable(mut self, glob: impl Into<String>) -> Self {
        self.mutable.push(glob.into());
        self
    }

    /// Leaves out entries for whose path, relative to the source, `test` returns `true`, besides
    /// those that match a pattern of [`exclude`](Self::exclude). [`include`](Self::include)
    /// overrides it. Several threads may call `test` at once.
    /// ```
    /// use calve::CloneOptions;
    /// use std::path::Path;
    ///
    /// let byte_code = |path: &Path| path.extension().is_some_and(|end| end == "pyc");
    /// let options = CloneOptions::new().exclude_if(byte_code);
    /// ```
    #[must_use]
    pub fn exclude_if(mut self, test: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        self.exclude_if = Some(Callback(Arc::new(test)));
        self
    }

    /// Like [`mutable`](Self::mutable), for files for whose path, relative to the source, `test`
    /// returns `true`. Several threads may call `test` at once.
    #[must_use]
    pub fn mutable_if(mut self, test: impl Fn(&Path) -> bool + Send + Sync + 'static) -> Self {
        self.mutable_if = Some(Callback(Arc::new(test)));
        self
    }

    /// Gives each regular file the permission bits that `mode` returns for its path, relative to the
    /// source, and for the bits that it has there. A file that gets other bits gets no ACL; in the
    /// link modes it is cloned or copied, as if it were [`mutable`](Self::mutable); and it is no hard
    /// link of the source's other names for it. Entries of a list say their mode themselves
    /// ([`TreeEntry::mode`](crate::TreeEntry::mode)). Several threads may call `mode` at once.
    /// ```
    /// use calve::CloneOptions;
    /// use std::path::Path;
    ///
    /// let script = |path: &Path, mode| if path.starts_with("bin") { mode | 0o111 } else { mode };
    /// let options = CloneOptions::new().file_mode(script);
    /// ```
    #[cfg(unix)]
    #[must_use]
    pub fn file_mode(mut self, mode: impl Fn(&Path, u32) -> u32 + Send + Sync + 'static) -> Self {
        self.file_mode = Some(Callback(Arc::new(mode)));
        self
    }

    /// Calls `done` for each regular file that has arrived whole. The file may still be in a stage,
    /// which appears, or not, when everything is done. In a merge that
    /// [keeps](Existing::Keep) what exists, a folder that another process made meanwhile may keep
    /// its own file. There are no calls for a tree that arrives as a btrfs snapshot, nor in a dry
    /// run. Several threads may call `done` at once; while it runs, its thread makes no files.
    #[cfg(unix)]
    #[must_use]
    pub fn on_file(mut self, done: impl Fn(&FinishedFile<'_>) + Send + Sync + 'static) -> Self {
        self.on_file = Some(Callback(Arc::new(done)));
        self
    }

    /// Lists the entries that a merge replaced or kept in the report
    /// ([`DestinationReport::replaced`](crate::DestinationReport::replaced),
    /// [`kept`](crate::DestinationReport::kept)), and does not only count them. The lists take
    /// memory for each path.
    #[must_use]
    pub fn list_existing(mut self) -> Self {
        self.list_existing = true;
        self
    }
}

setters! { CloneOptions:
    /// How a regular file arrives.
    pub mode: CloneMode,
    /// Whether cloned files share blocks: all files in [`CloneMode::Clone`]; in the link modes the
    /// mutable files, and those that the filesystem did not link.
    pub reflink: Reflink,
    /// What to do where the destination exists.
    pub existing: Existing,
    /// Begins with what `linker` remembers of earlier calls, and adds what this one learns: see
    /// [`Linker`](crate::Linker).
    /// ```
    /// use calve::{CloneOptions, Existing, Linker, clone_tree};
    ///
    /// # let desk = tempfile::tempdir()?;
    /// # std::env::set_current_dir(&desk)?;
    /// # for name in ["attrs", "numpy"] {
    /// #     std::fs::create_dir_all(format!("cache/{name}/{name}"))?;
    /// # }
    /// let options = CloneOptions::new().existing(Existing::Merge).linker(&Linker::new());
    /// for package in ["cache/attrs", "cache/numpy"] {
    ///     clone_tree(package, &["site-packages"], &options)?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(unix)]
    pub linker: &linker::Linker = Some(linker.clone()),
    /// Leaves out entries that the tree's `.gitignore` files (and `.git/info/exclude` of the root)
    /// name. calve reads no ignore file outside of the source: neither of a parent folder nor of
    /// the user. It reads no ignore file of more than 1 MiB.
    #[cfg(feature = "patterns")]
    pub gitignore: bool,
    /// Whether extended attributes and ACLs are carried over. They are by default.
    pub xattrs: bool,
    /// How calve treats the indexes of git repositories. By default they arrive unchanged: a clone
    /// has the source's bytes, unless the caller chooses otherwise. The command `calve clone` does
    /// choose otherwise.
    #[cfg(feature = "git-index")]
    pub git_index: GitIndex,
    /// Flushes everything to the disk before the destination appears, and its name after.
    pub durable: bool,
    /// Walks and counts, and changes nothing. The report says what would arrive. Only a real
    /// attempt shows by which method, see [`probe_between`](crate::probe_between). A dry run does
    /// not look for entries that a merge would replace or keep.
    pub dry_run: bool,
    /// The number of threads. By default there are as many as processors, but at most 8.
    pub jobs: NonZeroUsize = Some(jobs),
    /// A token by which the operation can be stopped.
    pub cancel: &Cancel = cancel.clone(),
    /// Counters that another thread may read during the call.
    pub progress: &Arc<Progress> = Arc::clone(progress),
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

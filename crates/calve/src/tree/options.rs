//! The options of a clone.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use super::{CloneMode, Existing, GitIndex, Reflink};
#[cfg(unix)]
use super::{LinkKind, linker, pick, tally};
use crate::macros::setters;
use crate::report::{Cancel, Progress};

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

/// How [`clone_tree`](crate::clone_tree) works; built by value.
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
    /// name. With the feature `git-index`, what git tracks is not ignored, and a submodule or another
    /// repository inside has its own index and rules alone; if calve does not understand git's index, that
    /// is an error. calve reads no ignore file outside of the source: neither of a parent folder nor of
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

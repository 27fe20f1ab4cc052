//! Fills a git worktree that another tool made: `git worktree add`, or an agent's tool.
//!
//! Such a worktree has the tracked files of its commit, and nothing else. calve takes the rest from
//! a working tree of the same repository that is ready for work (*the project* here):
//!
//! 1. **Tracked files with the same content** get the blocks and the times of the project's files.
//!    The content does not change. If the filesystem cannot share blocks, they get only the times.
//! 2. **Files that git ignores** come from the project: dependencies, build output, settings. So do
//!    untracked files, if the caller wants them.
//! 3. **All other tracked files** get a new time, if calve carried or shared anything. The
//!    project's build output was made from the project's files. git may have written the worktree's
//!    files before the project was built, so a build tool that compares times would take this
//!    output as fresh.
//! 4. **Files that name the project** by its absolute path get the worktree's path, if calve knows
//!    their format. So a carried Python environment runs the worktree's code.
//! 5. **git's index** records the files as they are then, so that `git status` need not read them.
//!
//! calve overwrites no existing file except in the first and the fourth step. A second call finds
//! nothing to do. If calve is killed, each file is whole, and the next call does the rest.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs;

use super::open_dir;
use super::relocate::rewrite_paths;
use super::scope::Judge;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::meta::Meta;
use crate::report::{DestinationReport, SkipReason, Skipped};
use crate::store::format::is_of_calve;
use crate::store::git::{self, Failure, Found, Repository};
use crate::store::paths::living::{may_be_owned, owner_of};
use crate::store::paths::local::Tree;
use crate::store::paths::secrets::kind_at;
use crate::store::{PathMention, Secret, StoreOptions, open_plain, path_from};
use crate::tree::cost::CopyCost;
use crate::tree::excluded::Excluded;
use crate::tree::git_index::{self, Comparison, WorkingTree};
use crate::tree::pick::{Picked, is_never_carried};
use crate::tree::pool::lock;
use crate::tree::running::Running;
use crate::tree::{CloneOptions, Existing, clone_tree};

/// git reads files of patterns up to this size.
const PATTERNS_MOST_BYTES: u64 = 100 * 1024 * 1024;

/// How [`fill`] works; built by value.
#[derive(Debug, Clone, Default)]
pub struct FillOptions {
    from: Option<PathBuf>,
    include_from: Option<PathBuf>,
    untracked: bool,
    leave_secrets: bool,
}

impl FillOptions {
    /// Carries no file that looks like a secret.
    #[must_use]
    pub fn leave_secrets(mut self) -> Self {
        self.leave_secrets = true;
        self
    }

    /// Carries untracked files as well: those that git neither tracks nor ignores.
    #[must_use]
    pub fn untracked(mut self) -> Self {
        self.untracked = true;
        self
    }
}

setters! { FillOptions:
    /// From the repository's main working tree, with all files that git ignores, and no untracked
    /// ones.
    pub fn new(),
    /// The root of the working tree that files are taken from. It must be of the same repository.
    pub from: impl Into<PathBuf> = Some(from.into()),
    /// Carries only those ignored files that match the patterns in this file. The file has
    /// gitignore's form, like a `.worktreeinclude`. A relative path starts at the root of the
    /// working tree that files are taken from.
    pub include_from: impl Into<PathBuf> = Some(include_from.into()),
}

/// What [`fill`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FillReport {
    /// The root of the worktree, without links.
    pub path: PathBuf,
    /// The root of the working tree that files were taken from, without links.
    pub from: PathBuf,
    /// How files arrived: those that were carried, and the tracked ones of `shared_files`.
    /// `kept_entries` are those that were there already.
    pub arrived: DestinationReport,
    /// Files that were carried.
    pub carried_files: u64,
    /// Tracked files that got the blocks and the times of the same files in `from`.
    pub shared_files: u64,
    /// Tracked files that got only the times, because the filesystem cannot share their blocks.
    pub timed_files: u64,
    /// Tracked files that differ from those in `from`, or are not there, and got a new time.
    pub renewed_files: u64,
    /// Files that named the root of `from` by its absolute path, and whether they name the worktree
    /// now. Those that did so already are not among them.
    pub mentions: Vec<PathMention>,
    /// The number of entries of git's index that now record their files, so that git need not read
    /// them.
    pub ready_index_entries: u64,
    /// Files that git ignores in `from` but not in the worktree, so calve did not carry them. A
    /// directory stands for everything in it.
    pub not_ignored: Vec<PathBuf>,
    /// Working trees inside `from` that were left out, relative to it.
    pub worktrees: Vec<PathBuf>,
    /// The files that look like secrets and were carried, sorted by path. With
    /// [`FillOptions::leave_secrets`] there is none.
    pub secrets: Vec<Secret>,
    /// The files that were left out because they look like secrets, sorted by path.
    pub left_secrets: Vec<Secret>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Readies a worktree of git that another tool made. The worktree gets the files that the project
/// has beside tracked files, and shares the blocks of tracked files that are the same. It needs no
/// store.
///
/// The worktree may be at another commit than the project, and may have changes. calve changes the
/// content of no existing file, except files of Python environments and absolute links that name
/// the project, see [`rewrite_paths`]. It never carries these folders: `.git`; calve's own `.calve`
/// and jj's `.jj`; and working trees whose repository is elsewhere, such as other worktrees. calve
/// does not read a split git index: then it shares no tracked file.
///
/// # Errors
/// Those of [`FillPlan::new`] and [`FillPlan::run`].
pub fn fill(
    path: impl AsRef<Path>,
    options: &FillOptions,
    common: &StoreOptions,
) -> Result<FillReport, Error> {
    FillPlan::new(path, options, common)?.run(common)
}

/// The plan of a [`fill`]. Nothing has changed yet.
#[derive(Debug)]
pub struct FillPlan {
    tree: Repository,
    from: Repository,
    start: Instant,
    tracked: Tracked,
    carried: Vec<Vec<u8>>,
    not_ignored: Vec<PathBuf>,
    leave_secrets: bool,
}

/// What a fill finds among the files that it carries.
#[derive(Debug, Default)]
struct Sieve {
    secrets: Mutex<Vec<Secret>>,
    living: Mutex<Vec<Skipped>>,
    /// A `.calveignore` that cannot be read. Nothing arrives that it might name.
    failed: Mutex<Option<Error>>,
}

impl Sieve {
    /// Whether the file at `path` in `from` stays there. One that `to` has is not carried.
    fn keeps(&self, (from, root): (&Path, &OwnedFd), to: &Path, path: &Path, leave: bool) -> bool {
        let Some(name) = path.file_name() else { return false };
        if may_be_owned(name.as_bytes())
            && let Some(pid) = owner_of(Tree { path: from, root }, path)
        {
            lock(&self.living)
                .push(Skipped { path: path.to_owned(), reason: SkipReason::Living(pid) });
            return true;
        }
        let Some(kind) = kind_at(from, path) else { return false };
        if std::fs::symlink_metadata(to.join(path)).is_ok() {
            return false;
        }
        lock(&self.secrets).push(Secret { path: path.to_owned(), kind });
        leave
    }
}

impl FillPlan {
    /// Looks at both working trees, and asks git what it ignores.
    ///
    /// # Errors
    /// [`ErrorKind::SourceNotFound`] and [`ErrorKind::SourceNotADirectory`]: there is no folder at
    /// `path`, or at the path to fill it from. [`ErrorKind::Git`]: one of them is not the root of a
    /// working tree, git does not work with it, or git is not installed; or the repository is bare,
    /// and no tree to fill from was given.
    /// [`ErrorKind::Overlap`]: both are the same working tree. [`ErrorKind::Conflict`]: they are of two
    /// repositories. [`ErrorKind::InvalidPattern`]: the file of patterns cannot be read.
    pub fn new(
        path: impl AsRef<Path>,
        options: &FillOptions,
        common: &StoreOptions,
    ) -> Result<Self, Error> {
        let start = Instant::now();
        let operation = common.operation();
        let (tree, from) = trees(path.as_ref(), options.from.as_deref())?;
        let tracked = Tracked::look(&tree, &from, &operation)?;
        let (carried, not_ignored) = to_carry(&tree, &from, options)?;
        let leave_secrets = options.leave_secrets;
        Ok(Self { tree, from, start, tracked, carried, not_ignored, leave_secrets })
    }

    /// The root of the worktree, without links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.tree.root
    }

    /// The root of the working tree that files are taken from, without links.
    #[must_use]
    pub fn from(&self) -> &Path {
        &self.from.root
    }

    /// The files that calve will carry, because the worktree does not have them yet. If the
    /// filesystem cannot share blocks, each of them is a copy ([`must_copy`](crate::must_copy)).
    /// calve looks at 20,000 entries at most.
    #[must_use]
    pub fn cost(&self) -> CopyCost {
        let paths = self.carried.iter().map(|path| Path::new(OsStr::from_bytes(path)));
        CopyCost::of_missing(&self.from.root, &self.tree.root, paths)
    }

    /// Fills the worktree. A file that has changed since the plan was made stays as it is.
    ///
    /// # Errors
    /// Those of [`clone_tree`]: then the files that have arrived stay, each of them whole, and
    /// another call does the rest.
    pub fn run(self, common: &StoreOptions) -> Result<FillReport, Error> {
        let Self { tree, from, start, tracked, carried, not_ignored, leave_secrets } = self;
        let Tracked { mut compared, since } = tracked;
        let operation = common.operation();
        let (root, own) = (open_dir(&tree.root)?, open_dir(&tree.git_dir)?);
        let sieve = Arc::new(Sieve::default());
        let (its, source, from_root, to) =
            (Arc::clone(&sieve), open_dir(&from.root)?, from.root.clone(), tree.root.clone());
        let by_calve = Mutex::new(Judge::of_calve(&from.root)?);
        let leaves = move |path: &Path, is_dir| {
            let is_named = lock(&by_calve).leaves_out(path, is_dir).unwrap_or_else(|error| {
                lock(&its.failed).get_or_insert(error);
                true
            });
            is_named
                || match is_dir {
                    true => is_of_calve(&source, path).unwrap_or(false),
                    false => its.keeps((&from_root, &source), &to, path, leave_secrets),
                }
        };
        let never = other_roots(&from, &root, &operation)?;
        let mut picked = Picked::without(never).leaving(leaves);
        for path in &carried {
            picked.carry(path);
        }
        let mut to_share = 0;
        if let Some(compared) = &compared {
            for (path, twin) in compared.twins.iter().filter(|(_, twin)| !twin.has_its_time()) {
                // Another mode is the user's own, and a clone would have the one of `from`.
                if twin.from.permissions() == twin.there.permissions() {
                    picked.replace(path, twin.from, twin.there);
                }
                to_share += 1;
            }
        }
        let picked = Arc::new(picked);
        let mut arrived = match picked.is_empty() {
            true => DestinationReport { path: tree.root.clone(), ..DestinationReport::default() },
            false => {
                let options = CloneOptions {
                    existing: Existing::Keep,
                    progress: Arc::clone(&common.progress),
                    picked: Some(Arc::clone(&picked)),
                    ..operation.clone_options()
                };
                let report = clone_tree(&from.root, &[&tree.root], &options)?;
                report.destinations.into_iter().next().unwrap_or_default()
            }
        };
        if let Some(error) = lock(&sieve.failed).take() {
            return Err(error);
        }
        let mut secrets = std::mem::take(&mut *lock(&sieve.secrets));
        secrets.sort();
        let left = if leave_secrets { std::mem::take(&mut secrets) } else { Vec::new() };
        arrived.skipped.append(&mut lock(&sieve.living));
        let shared_files = picked.replacements();
        let timed_files = match &compared {
            Some(compared) if shared_files < to_share => compared.give_times(&root),
            _ => 0,
        };
        let carried_files = arrived.files.saturating_sub(shared_files);
        let renewed_files = match &mut compared {
            // A call that was killed may have carried files and not come this far.
            Some(compared) if carried_files + shared_files + timed_files > 0 => {
                compared.renew_others(&root)
            }
            _ => 0,
        };
        let mentions = rewrite_paths(&tree.root, &from.root)?;
        let theirs = WorkingTree { root: &root, git: &own };
        let ready_index_entries = compared.map_or(0, |compared| compared.record(theirs, since));
        Ok(FillReport {
            path: tree.root,
            from: from.root,
            arrived,
            carried_files,
            shared_files,
            timed_files,
            renewed_files,
            mentions,
            ready_index_entries,
            not_ignored,
            worktrees: picked.worktrees(),
            secrets,
            left_secrets: left,
            elapsed: start.elapsed(),
        })
    }
}

/// The tracked files of a worktree, compared with those of the tree that files are taken from.
#[derive(Debug)]
pub(super) struct Tracked {
    /// `None`: calve does not understand one of the indexes.
    compared: Option<Comparison>,
    since: (i64, i64),
}

impl Tracked {
    /// Compares them.
    pub(super) fn look(
        tree: &Repository,
        from: &Repository,
        operation: &Running,
    ) -> Result<Self, Error> {
        let (compared, since) = compared(tree, from, operation)?;
        operation.check(Operation::Fill, &tree.root)?;
        Ok(Self { compared, since })
    }

    /// Gives those that are the same in both trees the times of the other tree, and all others a
    /// new time. Returns how many got each.
    pub(super) fn settle(self, tree: &Repository, root: &OwnedFd) -> Result<(u64, u64), Error> {
        let Some(mut compared) = self.compared else { return Ok((0, 0)) };
        let (timed, renewed) = (compared.give_times(root), compared.renew_others(root));
        let own = open_dir(&tree.git_dir)?;
        compared.record(WorkingTree { root, git: &own }, self.since);
        Ok((timed, renewed))
    }
}

/// Compares the tracked files of `tree` with those of `from`. `None`: calve does not understand one
/// of the indexes. The time is one before the comparison.
pub(super) fn compared(
    tree: &Repository,
    from: &Repository,
    operation: &Running,
) -> Result<(Option<Comparison>, (i64, i64)), Error> {
    let opened = |of: &Repository| Ok((open_dir(&of.root)?, open_dir(&of.git_dir)?));
    let ((root, git), (from_root, from_git)) = (opened(tree)?, opened(from)?);
    let ours = WorkingTree { root: &from_root, git: &from_git };
    let theirs = WorkingTree { root: &root, git: &git };
    let since = git_index::next_tick();
    Ok((git_index::compare(ours, theirs, since, &|| operation.is_cancelled()), since))
}

/// The working tree to fill, and the one to fill it from.
fn trees(path: &Path, from: Option<&Path>) -> Result<(Repository, Repository), Error> {
    let tree = working_tree(path, Operation::Fill)?;
    let refused = |kind, path: &Path, why: &str| {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        Error::new(kind, Operation::Fill, path, cause)
    };
    let from = match from {
        Some(from) => working_tree(from, Operation::FillFrom)?,
        None => {
            if tree.git_dir == tree.common {
                return Err(refused(
                    ErrorKind::Overlap,
                    path,
                    "it is the main working tree of its repository, not a linked worktree",
                ));
            }
            main_tree(&tree)?.ok_or_else(|| {
                refused(
                    ErrorKind::Git,
                    path,
                    "its repository has no main working tree, or none that calve finds",
                )
                .with_other(&tree.common)
            })?
        }
    };
    if same(&tree.root, &from.root) {
        return Err(refused(ErrorKind::Overlap, path, "a worktree cannot be filled from itself"));
    }
    if !same(&tree.common, &from.common) {
        return Err(refused(ErrorKind::Conflict, path, "they belong to two repositories")
            .with_other(&from.root));
    }
    Ok((tree, from))
}

/// The repository whose working tree has its root at `path`.
fn working_tree(path: &Path, operation: Operation) -> Result<Repository, Error> {
    let root = std::fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::SourceNotFound, operation, path, error),
        _ => Error::io(operation, path, error),
    })?;
    if !root.is_dir() {
        let cause = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(Error::new(ErrorKind::SourceNotADirectory, operation, path, cause));
    }
    let refused =
        |why: String| Err(Error::new(ErrorKind::Git, operation, path, io::Error::other(why)));
    match git::find(&root) {
        Found::Repository(repository) => Ok(repository),
        Found::Nothing => refused("it is not the root of a working tree of git".to_owned()),
        Found::NoWorkingTree(why) | Found::Unusable(why) => refused(why.to_string()),
    }
}

/// The main working tree of a linked worktree's repository. `None`: it has none, or its settings say
/// that it is elsewhere.
///
/// # Errors
/// [`ErrorKind::Git`]: git could not be asked.
fn main_tree(tree: &Repository) -> Result<Option<Repository>, Error> {
    // git itself derives the main working tree from the place of the repository.
    let above = tree.common.parent().filter(|_| tree.common.ends_with(".git"));
    let Some(root) = above else { return Ok(None) };
    match git::find(root) {
        Found::Repository(main) => Ok(Some(main).filter(|main| same(&main.git_dir, &tree.common))),
        Found::Nothing | Found::NoWorkingTree(_) => Ok(None),
        Found::Unusable(failure) => {
            Err(Error::new(ErrorKind::Git, Operation::AskGit, root, failure))
        }
    }
}

fn same(one: &Path, other: &Path) -> bool {
    match (std::fs::canonicalize(one), std::fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Directories in `from` that calve never carries: the worktree itself, and the main working tree
/// if that is inside of `from`.
fn other_roots(from: &Repository, root: &OwnedFd, operation: &Running) -> Result<Excluded, Error> {
    let own = fs::fstat(root).context(Operation::Read, || &from.root)?;
    let mut roots = Excluded::default();
    roots.add(root, &Meta::of(&own), operation.filesystems());
    if let Some(main) = main_tree(from)?.filter(|main| main.root != from.root) {
        let root = std::fs::canonicalize(&main.root).context(Operation::Resolve, || &main.root)?;
        roots.add_at((fs::CWD, &root), operation.filesystems());
    }
    Ok(roots)
}

/// The files to carry, and those that stay behind because git does not ignore them in the worktree.
fn to_carry(
    tree: &Repository,
    from: &Repository,
    options: &FillOptions,
) -> Result<(Vec<Vec<u8>>, Vec<PathBuf>), Error> {
    let asked = |root: &Path, failure: Failure| {
        Error::new(ErrorKind::Git, Operation::AskGit, root, io::Error::from(failure))
    };
    let ours = |failure| asked(&from.root, failure);
    let mut found = git::NotTracked::default();
    if options.include_from.is_none() || options.untracked {
        found = git::not_tracked_in(&from.tree()).map_err(ours)?;
    }
    if let Some(file) = &options.include_from {
        let file = from.root.join(file);
        // git would wait for ever for a writer of a pipe, and read a device without end. (The user
        // named the file, so it may be behind a link.)
        let opened = std::fs::canonicalize(&file)
            .and_then(|path| open_plain(fs::CWD, &path, PATTERNS_MOST_BYTES));
        opened.map_err(|error| {
            Error::new(ErrorKind::InvalidPattern, Operation::ReadPatterns, &file, error)
        })?;
        let matched = git::not_tracked_but_matched(from, &file).map_err(ours)?;
        let ignored = git::ignored_of(from, &matched).map_err(ours)?;
        found.ignored = matched.into_iter().filter(|path| ignored.contains(path)).collect();
    }
    found.ignored.retain(|path| !is_never_carried(path));
    // git answers no question about a path that leads through a link.
    found.ignored.retain(|path| has_room(&tree.root, path));
    let there: HashSet<Vec<u8>> =
        git::ignored_of(tree, &found.ignored).map_err(|failure| asked(&tree.root, failure))?;
    let (mut carried, others): (Vec<_>, Vec<_>) =
        found.ignored.into_iter().partition(|path| there.contains(path));
    if options.untracked {
        carried.append(&mut found.others);
    }
    Ok((carried, others.iter().map(|path| path_from(path)).collect()))
}

/// Whether an entry can arrive at a path below `root`: everything above it is a directory, and if
/// the entry is a directory (its path ends in a slash), nothing else is in its place.
pub(super) fn has_room(root: &Path, path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for end in ends {
        match std::fs::symlink_metadata(root.join(path_from(&path[..end]))) {
            Ok(found) if found.is_dir() => {}
            found => return found.is_err(),
        }
    }
    true
}

//! Where the store of a project is.
//!
//! A project with a repository of git has its store there: in the folder `calve` of the folder that
//! all working trees of the repository share (`git rev-parse --git-common-dir`). So a repository has
//! one store, `git clean -ffdx` and `git stash -a` do not reach it, and no tool that walks the tree
//! meets it. Other projects have it in `.calve`, and so has a project whose repository calve cannot
//! use for that ([`NotInGit`]). `docs/design/git.md` argues.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::files::may_write;
use super::git::{self, Registration, Repository};
use super::layout::{self, IN_GIT, Layout};
use crate::reflink::ReflinkOutcome;
use crate::reflink::filesystem::Filesystem;

/// Why the store of a project with a repository is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotInGit {
    /// The repository is on another filesystem than the project. Worktrees would share no blocks
    /// with the store.
    OtherFilesystem,
    /// This process may not write to the repository.
    MayNotWrite,
    /// The project had a store in its tree already, or the store was named.
    Chosen,
}

/// The folder for a new store of the project at `project`, and why it is not in the project's
/// repository. The folder may be a store already.
///
/// # Errors
/// The repository could not be looked at.
pub(super) fn for_new(project: &Path) -> io::Result<(PathBuf, Option<NotInGit>)> {
    let inside = layout::own(project);
    let Some(repository) = repository(project)? else { return Ok((inside, None)) };
    let common = std::fs::canonicalize(&repository.common)?;
    let store = common.join(IN_GIT);
    if Layout(&store).has_store() {
        return Ok((store, None));
    }
    if !is_beside(&common, project)? {
        return Ok((inside, Some(NotInGit::OtherFilesystem)));
    }
    if !may_write(&common)? {
        return Ok((inside, Some(NotInGit::MayNotWrite)));
    }
    Ok((store, None))
}

/// Whether blocks can be shared between two folders, as far as the place decides.
fn is_beside(common: &Path, project: &Path) -> io::Result<bool> {
    if std::fs::metadata(common)?.dev() == std::fs::metadata(project)?.dev() {
        return Ok(true);
    }
    // Each subvolume has a device of its own.
    if !Filesystem::of(common).has_subvolumes || !may_write(common)? {
        return Ok(false);
    }
    Ok(crate::reflink::probe_between(project, common)?.outcome == ReflinkOutcome::Cloned)
}

/// The repository of the working tree at `root`. What git would not take for one is none.
///
/// # Errors
/// The root has a `.git` that cannot be read. It may lead to a repository with a store.
pub(super) fn repository(root: &Path) -> io::Result<Option<Repository>> {
    Ok(git::read(root)?.filter(|found| git::is_repository(&found.common)))
}

/// The folder in which the repository of the working tree at `root` has its store, if it has one.
pub(super) fn store_in_git(root: &Path) -> io::Result<Option<PathBuf>> {
    let store = repository(root)?.map(|found| found.common.join(IN_GIT));
    Ok(store.filter(|store| Layout(store).has_store()))
}

/// The repository of the project of a store: that of the working tree at `root`, or the one that the
/// store is in if that working tree is gone.
///
/// # Errors
/// The root has a `.git` that cannot be read.
pub(crate) fn of_project(store: &Path, root: &Path) -> io::Result<Option<Repository>> {
    let found = git::read(root)?;
    let common = || Some(common_of(store)).filter(|_| is_gone(root) && is_in_git(store));
    Ok(found.or_else(|| common().map(Repository::of_module)))
}

fn is_gone(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| git::is_absent(&error))
}

/// Whether a store is in a repository, where no tree may be made beside it.
pub(crate) fn is_in_git(store: &Path) -> bool {
    store.ends_with(IN_GIT) && store.parent().is_some_and(git::is_repository)
}

/// Whether a working tree is the one that its repository leads back to. A folder with a copy of a
/// worktree's `.git` file is none.
pub(super) fn is_led_back(tree: &Repository) -> bool {
    !tree.is_linked()
        || matches!(Registration::read(tree.git_dir.clone()), Ok(Some(entry)) if entry.is_of(&tree.root))
}

/// Whether a working tree that is led back is more than a `.git` file that names a repository: git has
/// a registration of it, or the repository is in it.
pub(super) fn is_of_its_repository(tree: &Repository) -> bool {
    let is_folder = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    // A bare repository has no tree, so it leads nowhere.
    tree.root != tree.common && (tree.is_linked() || is_folder(&git::git_of(&tree.root)))
}

/// Whether the project at `project` was a linked worktree of the repository that its store is in, and
/// git has removed it. A project on a volume that is not mounted is registered still.
pub(super) fn is_removed(store: &Path, project: &Path) -> io::Result<bool> {
    if !is_gone(project) || !is_in_git(store) {
        return Ok(false);
    }
    Ok(!git::registrations(common_of(store))?.iter().any(|entry| entry.is_of(project)))
}

/// The folder of the repository that a store is in.
fn common_of(store: &Path) -> &Path {
    store.parent().unwrap_or(store)
}

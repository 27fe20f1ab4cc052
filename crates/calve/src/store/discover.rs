//! Finds the store that a folder belongs to, and decides whether calve may use it.
//!
//! # Named and found
//! A user who names a store has chosen it ([`Store::open`]). A store that calve finds by walking up
//! from a folder may belong to anybody who could write to a folder on the way, or who made the
//! archive that the folder is from; and calve acts on what the store says. So calve asks two
//! questions before it uses a store that it found:
//!
//! 1. *Who owns it?* calve asks that before it opens any file of the store. The owner must be the
//!    user who runs calve, or root, who can change everything anyway. Which other users may write
//!    into the store's folder is decided by that folder's mode, as everywhere.
//! 2. *Which project does it name?* The project must be the folder that calve found the store in,
//!    or be inside that folder. So a folder that was brought along speaks for itself alone. (A
//!    worktree may be elsewhere: its marker has the store's token, which nobody else knows.)
//!
//! A marker leads to a store by its path. calve asks for the owner of that store like for any
//! other, and for the owner of the marker ([`ownership`]). A tree that was moved also has a root of
//! the user's, which nobody else may write to: then its row gets the new path, and what calve
//! deletes or writes there is the user's. The marker of a project whose store is elsewhere must have the token of the project's
//! row, and no other folder may have it too: a copy of the project is another tree than the one
//! that the store's indexes and snapshots are of. A folder that has the token, while the folder in
//! the row has it no more, is the project: it was moved.
//!
//! # By git
//! The store of a repository is that of all its working trees ([`home`](super::home)). One of them is
//! the project, whose root the store's row has unless the store is in its `.git`. A worktree of
//! calve has its mark. All others are worktrees of git alone: the store is found from them, and they
//! are neither the project nor a worktree of the store ([`Discovered::is_only_gits`]). A `.git` file
//! may be brought along by anybody, and so may a folder that looks like a bare repository. So git's
//! registration of a linked worktree must lead back to it; the project must lead to the repository
//! of the store, if it is there; and of a repository that is elsewhere, the main working tree must
//! be the folder that the store knows.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::Store;
use super::catalog::{PROJECT, WorktreeRow};
use super::format;
use super::git;
use super::home::{self, NotInGit};
use super::layout::{self, Layout};
use super::marker::{FoundMark, MarkPlace, Marked, Marker};
use super::ownership::{self, Believed, Owned, Role};
use super::registry::no_worktree;
use super::{bytes_of, path_from};
use crate::error::{Context as _, Error, ErrorKind, Operation};

mod search;

use search::{FoundBy, FoundStore, find, must_be_ours};

pub(super) use search::hidden_project;

/// The store that a folder belongs to, and the root that it is in; see [`Store::discover`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Discovered {
    /// The store.
    pub store: Store,
    /// The root of the project or of the worktree that the folder is in.
    pub root: PathBuf,
    /// The token in the root's marker, if the root is a worktree.
    pub(crate) token: Option<String>,
    /// The root is a working tree of the project's repository that the store does not know.
    pub(crate) is_only_gits: bool,
}

impl Store {
    /// Finds the store that `folder` belongs to. The folder is a project or a worktree, or is
    /// inside one.
    ///
    /// If a project whose store is elsewhere was moved, the store knows its new path from now on.
    ///
    /// # Errors
    /// [`ErrorKind::StoreNotFound`] if neither the folder nor a folder above is one, or if the
    /// store of a worktree or project is gone; its filesystem may not be mounted.
    /// [`ErrorKind::StoreUntrusted`] if the store belongs to another user, or names a project
    /// outside the folder that the store is in, or does not know the project that it was found
    /// for; [`Store::open`] opens such a store by its path. The same if the marker of the worktree
    /// or project belongs to another user, or if a project was moved to a folder that other users
    /// may write to. [`ErrorKind::Overlap`] if the folder is
    /// a copy of a project whose store is elsewhere. The errors of [`Store::open`].
    pub fn discover(folder: impl AsRef<Path>) -> Result<Discovered, Error> {
        discover(folder.as_ref())
    }

    /// Fails if the store that `folder` belongs to is hidden from this process, because a program of
    /// `calve run` started it: paths mean something else there. Nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::StoreHidden`] alone.
    pub fn must_be_seen_from(folder: impl AsRef<Path>) -> Result<(), Error> {
        must_be_seen_from(folder.as_ref())
    }

    /// Fails if a tree at `root`, which may be missing, would be inside a store: a collection deletes
    /// each entry of a store that it does not know. [`clone_tree`](crate::clone_tree) knows no stores,
    /// and does not ask.
    ///
    /// # Errors
    /// [`ErrorKind::Overlap`] alone.
    pub fn must_be_outside(root: impl AsRef<Path>) -> Result<(), Error> {
        must_be_outside(root.as_ref())
    }

    /// Whether the project was a linked worktree of the repository that the store is in, and git has
    /// removed it. Then the store serves the repository still, and another working tree can become
    /// the project: [`Discovered::take_project`].
    ///
    /// # Errors
    /// The registrations of git could not be read.
    pub fn is_project_removed(&self) -> Result<bool, Error> {
        home::is_removed(self.path(), &self.project()?).context(Operation::Read, || self.path())
    }

    /// Writes a small file into the project, if the store is elsewhere: then [`Store::discover`]
    /// finds the store from any folder of the project. The file is `.git/calve/project`, or
    /// `.calve/project` where there is no repository, or none that may be written to. Returns
    /// whether the store is found: `false` if the project has another store inside, or is a
    /// worktree of another store.
    ///
    /// [`Store::init_at`] does this if it may write to the project.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] and other errors of writing. The file is written as a whole
    /// or not at all.
    pub fn point_project(&self) -> Result<bool, Error> {
        point_project(self)
    }

    /// The path of the file by which the store of the project at `root` is found, if the store is
    /// elsewhere: see [`point_project`](Self::point_project). The file need not be there.
    #[must_use]
    pub fn pointer_of(root: impl AsRef<Path>) -> PathBuf {
        MarkPlace::of_project(root.as_ref()).path()
    }

    /// Why the store is not in the repository of its project. `None` if it is, or if the project
    /// has no repository.
    ///
    /// # Errors
    /// The repository could not be looked at.
    pub fn why_not_in_git(&self) -> Result<Option<NotInGit>, Error> {
        why_not_in_git(self)
    }

    /// Like [`Store::discover`], for a caller that opened this store by its path and so trusts it.
    /// If `folder` belongs to this store, calve does not ask who owns the store.
    ///
    /// # Errors
    /// As for [`Store::discover`].
    pub fn find(&self, folder: impl AsRef<Path>) -> Result<Discovered, Error> {
        find_for(self, folder.as_ref())
    }

    /// Why calve takes no keys and no settings from a file that it found in the project: the file
    /// belongs to another user than the caller, root and the owner of this store, or everybody may
    /// write to it. `None`: it takes them.
    #[must_use]
    pub fn why_not_trusted(&self, file: &std::fs::Metadata) -> Option<String> {
        self.registry().believed().why_not(Owned::by(file), Role::Keys)
    }
}

/// See [`Store::discover`].
fn discover(folder: &Path) -> Result<Discovered, Error> {
    let mut found = find(folder)?;
    found.follow_moved_store()?;
    must_be_ours(&found.store)?;
    found.must_be_believed(Believed::with_store(&found.store))?;
    let store =
        Store::open(&found.store).map_err(|error| match (found.operation(), error.kind()) {
            // The caller named the tree, or is in it, and did not name the store.
            (Some(operation), ErrorKind::StoreNotFound) => {
                let gone = io::Error::new(io::ErrorKind::NotFound, "no store is there");
                Error::new(error.kind(), operation, &found.root, gone).with_other(&found.store)
            }
            _ => error,
        })?;
    if matches!(found.by, FoundBy::Place) {
        let project = store.project()?;
        // Not by words alone: `..` would be a step out of it.
        let inside = |path: &Path| {
            path.starts_with(&found.root)
                && !path.components().any(|part| part == Component::ParentDir)
        };
        if !inside(&project) {
            let cause = io::Error::other("it says that it belongs to another project");
            return Err(Error::new(
                ErrorKind::StoreUntrusted,
                Operation::UseStore,
                found.store,
                cause,
            )
            .with_other(project));
        }
    }
    follow_project(&store, &found)?;
    follow_repository(&store, &found, false)?;
    found.discovered(store, folder)
}

/// See [`Store::must_be_seen_from`].
fn must_be_seen_from(folder: &Path) -> Result<(), Error> {
    match find(folder).and_then(|found| format::check(&found.store)) {
        Err(error) if error.kind() == ErrorKind::StoreHidden => Err(error),
        _ => Ok(()),
    }
}

/// See [`Store::must_be_outside`].
fn must_be_outside(root: &Path) -> Result<(), Error> {
    if !layout::is_in_store(root) {
        return Ok(());
    }
    let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is in the store");
    Err(Error::new(ErrorKind::Overlap, Operation::MakeFolder, root, cause))
}

/// See [`Store::find`].
fn find_for(store: &Store, folder: &Path) -> Result<Discovered, Error> {
    let found = find(folder)?;
    match std::fs::canonicalize(&found.store) {
        Ok(path) if path == store.path() => {
            found.must_be_believed(store.registry().believed())?;
            follow_project(store, &found)?;
            follow_repository(store, &found, true)?;
            found.discovered(store.clone(), folder)
        }
        _ => discover(folder),
    }
}

/// If a store was found for a project that is elsewhere, this must be that project. If it was
/// moved, this writes its new path into the store.
fn follow_project(store: &Store, found: &FoundStore) -> Result<(), Error> {
    let Some(FoundMark { marker: Marker { token, .. }, .. }) = found.marker(Marked::Project) else {
        return Ok(());
    };
    let row = store.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
    let known = store.registry().root_of(&row);
    // A store inside its project needs no marker.
    if row.token != *token || row.path.is_empty() {
        let cause = io::Error::other("it belongs to another project");
        return Err(Error::new(
            ErrorKind::StoreUntrusted,
            Operation::UseStore,
            store.path(),
            cause,
        )
        .with_other(known));
    }
    if known == found.root {
        return Ok(());
    }
    let believed = store.registry().believed();
    if store.registry().is_project_at(&known, token)? {
        let cause = io::Error::other("this folder is a copy of that project");
        return Err(Error::new(ErrorKind::Overlap, Operation::UseProject, &found.root, cause)
            .with_other(known));
    }
    ownership::must_be_believed_root(believed, &found.root, Operation::UseProject)?;
    set_project(store, row, &found.root)
}

fn set_project(store: &Store, mut row: WorktreeRow, root: &Path) -> Result<(), Error> {
    store.must_be_writable(Operation::UseStore)?;
    row.path = bytes_of(root);
    store.registry().set_path(&row)
}

/// Makes the working tree of git at `root` the project.
fn become_project(store: &Store, root: &Path) -> Result<(), Error> {
    let row = store.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
    ownership::must_be_believed_root(store.registry().believed(), root, Operation::UseProject)?;
    store.registry().forget_tree(&row);
    set_project(store, row, root)?;
    store.point_project().map(drop)
}

/// If a store was found by the repository that it is in, its project must be a working tree of
/// that, or be the main one, at the root that the store knows. If that was moved, this writes its
/// new path into the store. A project that is gone is no working tree of anything, and neither is
/// the folder that a bare repository is: whoever may make that folder may write any path into its
/// store. `is_named`: the user chose the store.
fn follow_repository(store: &Store, found: &FoundStore, is_named: bool) -> Result<(), Error> {
    let FoundBy::Git(repository) = &found.by else { return Ok(()) };
    let row = store.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
    let known = store.registry().root_of(&row);
    if known == found.root {
        return Ok(());
    }
    if let Ok(Some(of_known)) = git::read(&known)
        && git::is_same(&of_known.common, &repository.common)
        && home::is_led_back(&of_known)
    {
        if of_known.is_linked() || repository.is_linked() {
            return Ok(());
        }
        let cause = io::Error::other("this folder is a copy of that project");
        return Err(Error::new(ErrorKind::Overlap, Operation::UseProject, &found.root, cause)
            .with_other(known));
    }
    let is_main = !repository.is_linked();
    if is_main && (is_named || store.registry().is_noted_root(&row, &found.root)) {
        let believed = store.registry().believed();
        ownership::must_be_believed_root(believed, &found.root, Operation::UseProject)?;
        return set_project(store, row, &found.root);
    }
    let is_gone = || {
        let looked = std::fs::symlink_metadata(&known);
        looked.is_err_and(|error| git::is_absent(&error)) && home::is_of_its_repository(repository)
    };
    if is_named || is_gone() {
        return Ok(());
    }
    let why = match is_main {
        true => "it belongs to another project",
        false => "its project is no working tree of this repository",
    };
    let (untrusted, cause) = (ErrorKind::StoreUntrusted, io::Error::other(why));
    Err(Error::new(untrusted, Operation::UseStore, store.path(), cause).with_other(known))
}

/// See [`Store::point_project`].
fn point_project(store: &Store) -> Result<bool, Error> {
    let row = store.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
    if row.path.is_empty() {
        return Ok(true);
    }
    let root = path_from(&row.path);
    let in_git = home::store_in_git(&root).context(Operation::Read, || git::git_of(&root))?;
    let is_this = |path: &Path| std::fs::canonicalize(path).is_ok_and(|it| it == store.path());
    let has_other = in_git.as_deref().is_some_and(|store| !is_this(store));
    if has_other
        || Layout(&layout::own(&root)).has_store()
        || Marker::read(&MarkPlace::of_worktree(&root))?.is_some()
    {
        return Ok(false);
    }
    let is_linked = || matches!(git::read(&root), Ok(Some(tree)) if tree.is_linked());
    if in_git.is_some() && !is_linked() {
        return Ok(true);
    }
    let (marker, place) = (store.registry().marker(&row), MarkPlace::of_project(&root));
    if !matches!(Marker::read(&place), Ok(Some(known)) if known == marker) {
        let believed = store.registry().believed();
        marker.point(&place, believed).context(Operation::Write, || place.path())?;
    }
    Ok(true)
}

/// See [`Store::why_not_in_git`].
fn why_not_in_git(store: &Store) -> Result<Option<NotInGit>, Error> {
    let project = store.project()?;
    let look = || -> io::Result<Option<NotInGit>> {
        if home::is_in_git(store.path()) || home::repository(&project)?.is_none() {
            return Ok(None);
        }
        let chosen = store.path() != layout::own(&project);
        let why = home::for_new(&project)?.1.filter(|_| !chosen);
        Ok(Some(why.unwrap_or(NotInGit::Chosen)))
    };
    look().context(Operation::Read, || git::git_of(&project))
}

/// The project or worktree whose snapshots have the folder `folder` in them. The folder itself may
/// be missing.
pub(super) fn tree_with(folder: &Path) -> Option<PathBuf> {
    let folder = layout::resolved(folder);
    let found =
        discover(folder.ancestors().find(|above| std::fs::metadata(above).is_ok())?).ok()?;
    let root = std::fs::canonicalize(&found.root).unwrap_or_else(|_| found.root.clone());
    let inside = folder.strip_prefix(&root).ok()?;
    let is_left_out = inside.starts_with(layout::GIT)
        || inside.iter().any(|name| name == layout::OWN)
        || folder.starts_with(found.store.path());
    (!is_left_out).then_some(root)
}

impl Discovered {
    /// Makes this working tree the project of the store, if git made it and has
    /// [removed](Store::is_project_removed) the project. Returns the path that the project had.
    ///
    /// The last snapshot of the project stays its base: for calve, its branch was switched.
    ///
    /// # Errors
    /// The store cannot be written to; the errors of [`Store::point_project`].
    pub fn take_project(&self) -> Result<Option<PathBuf>, Error> {
        if !self.is_only_gits || !self.store.is_project_removed()? {
            return Ok(None);
        }
        let was = self.store.project()?;
        become_project(&self.store, &self.root)?;
        Ok(Some(was))
    }
}

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

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs;

use super::Store;
use super::catalog::{PROJECT, WorktreeRow};
use super::format;
use super::git::{self, Repository};
use super::home::{self, NotInGit};
use super::layout::{self, Layout};
use super::marker::{FoundMark, MarkPlace, Marked, Marker};
use super::ownership::{self, Believed, Owned, Role};
use super::registry::no_worktree;
use super::{bytes_of, path_from};
use crate::error::{Context as _, Error, ErrorKind, Operation};

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

/// A store that was found at a folder or above it, and was not opened yet.
struct FoundStore {
    root: PathBuf,
    store: PathBuf,
    by: FoundBy,
}

enum FoundBy {
    /// The kind of the marker, and the marker.
    Mark(Marked, FoundMark),
    /// The store is in the root.
    Place,
    /// The store is in the repository of the root, which is a working tree.
    Git(Repository),
}

impl FoundStore {
    fn marker(&self, of: Marked) -> Option<&FoundMark> {
        match &self.by {
            FoundBy::Mark(kind, seen) if *kind == of => Some(seen),
            _ => None,
        }
    }

    /// The worktree of a row, which has no mark that can be read.
    fn by_row(store: &Store, row: &WorktreeRow) -> Result<Self, Error> {
        let root = path_from(&row.path);
        let owned = Owned::at(&root).map_err(|error| Error::io(Operation::LookAt, &root, error))?;
        let marker = store.registry().marker(row);
        let seen = FoundMark { marker, folder: owned, file: owned };
        let store = store.path().to_owned();
        Ok(Self { root, store, by: FoundBy::Mark(Marked::Worktree, seen) })
    }

    /// If the store that a mark names is gone, and the repository of the tree has one now that knows
    /// the mark's token, the repository was moved, with the store in it.
    fn follow_moved_store(&mut self) -> Result<(), Error> {
        let FoundBy::Mark(of, seen) = &self.by else { return Ok(()) };
        let format = Layout(&self.store).format();
        if !std::fs::symlink_metadata(format).is_err_and(|error| git::is_absent(&error)) {
            return Ok(());
        }
        let Ok(Some(repository)) = git::read(&self.root) else { return Ok(()) };
        let moved = repository.common.join(layout::IN_GIT);
        if !Layout(&moved).has_store() || !home::is_led_back(&repository) {
            return Ok(());
        }
        must_be_ours(&moved)?;
        let rows = Store::open(&moved)?.catalog().worktrees()?;
        let is_project = matches!(of, Marked::Project);
        let is_it = |row: &WorktreeRow| {
            row.token == seen.marker.token && (row.name == PROJECT) == is_project
        };
        if rows.iter().any(is_it) {
            self.store = moved;
        }
        Ok(())
    }

    /// The store was found for `folder`. If that is in a worktree inside the project which has no
    /// mark, the worktree is meant, and not the project around it.
    fn discovered(self, store: Store, folder: &Path) -> Result<Discovered, Error> {
        let token = self.marker(Marked::Worktree).map(|seen| seen.marker.token.clone());
        if token.is_none() {
            let start = std::fs::canonicalize(folder).context(Operation::Open, || folder)?;
            for row in store.catalog().worktrees()?.iter().filter(|row| row.name != PROJECT) {
                let path = path_from(&row.path);
                if path != self.root
                    && path.starts_with(&self.root)
                    && start.starts_with(&path)
                    && store.registry().find_mark(row)?
                {
                    let token = Some(row.token.clone());
                    return Ok(Discovered { store, root: path, token, is_only_gits: false });
                }
            }
        }
        let is_only_gits = matches!(self.by, FoundBy::Git(_)) && store.project()? != self.root;
        Ok(Discovered { store, root: self.root, token, is_only_gits })
    }

    /// Fails if the marker belongs to a user who is not believed.
    fn must_be_believed(&self, believed: Believed) -> Result<(), Error> {
        let FoundBy::Mark(of, seen) = &self.by else { return Ok(()) };
        let Some(why) = seen.why_not(believed) else { return Ok(()) };
        let (operation, place) = match of {
            Marked::Worktree => (Operation::UseWorktree, MarkPlace::of_worktree(&self.root)),
            Marked::Project => (Operation::UseProject, MarkPlace::of_project(&self.root)),
        };
        Err(ownership::not(operation, &self.root, format!("its mark is not yours: {why}"))
            .with_other(place.folder))
    }

    /// The worktree or project whose store is missing.
    fn operation(&self) -> Option<Operation> {
        match &self.by {
            FoundBy::Mark(Marked::Worktree, _) => Some(Operation::FindStoreOfWorktree),
            FoundBy::Mark(Marked::Project, _) => Some(Operation::FindStoreOfProject),
            FoundBy::Place | FoundBy::Git(_) => None,
        }
    }
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

fn find(folder: &Path) -> Result<FoundStore, Error> {
    let start = std::fs::canonicalize(folder).context(Operation::Open, || folder)?;
    for root in start.ancestors() {
        let own = layout::own(root);
        let found = match found_by(Marked::Worktree, root) {
            Err(error) if error.kind() == ErrorKind::Damaged => match found_by_row(root)? {
                Some(found) => return Ok(found),
                None => return Err(error),
            },
            found => found?,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let by_git = found_by_git(root)?;
        if Layout(&own).has_store() {
            return match by_git {
                // Neither may hide the other.
                Some(other) => {
                    let cause =
                        io::Error::other("the project has another store, in its repository");
                    let untrusted = ErrorKind::StoreUntrusted;
                    Err(Error::new(untrusted, Operation::UseStore, own, cause)
                        .with_other(other.store))
                }
                None => Ok(FoundStore { root: root.to_owned(), store: own, by: FoundBy::Place }),
            };
        }
        may_be_seen(&own)?;
        if let Some(found) = found_by(Marked::Project, root)?.or(by_git) {
            return Ok(found);
        }
    }
    for root in start.ancestors() {
        if let Some(found) = found_by_row(root)? {
            return Ok(found);
        }
    }
    let cause = io::Error::new(
        io::ErrorKind::NotFound,
        "neither this folder nor any folder above it is a worktree or has a store",
    );
    Err(Error::new(ErrorKind::StoreNotFound, Operation::FindStore, start, cause))
}

fn found_by(of: Marked, root: &Path) -> Result<Option<FoundStore>, Error> {
    let found = |seen: FoundMark| {
        let store = seen.marker.store.clone();
        FoundStore { root: root.to_owned(), store, by: FoundBy::Mark(of, seen) }
    };
    let place = match of {
        Marked::Worktree => MarkPlace::of_worktree(root),
        Marked::Project => MarkPlace::of_project(root),
    };
    Ok(FoundMark::at(&place)?.map(found))
}

/// The store in the repository of the working tree at `root`, or in the bare repository that `root`
/// is.
fn found_by_git(root: &Path) -> Result<Option<FoundStore>, Error> {
    let is_bare = || !root.ends_with(layout::GIT) && git::is_repository(root);
    let repository = home::repository(root).context(Operation::Read, || git::git_of(root))?;
    let bare = || {
        let (root, git_dir, common) = (root.to_owned(), root.join(layout::GIT), root.to_owned());
        is_bare().then_some(Repository { root, git_dir, common })
    };
    let Some(repository) = repository.filter(home::is_led_back).or_else(bare) else {
        return Ok(None);
    };
    let store = repository.common.join(layout::IN_GIT);
    if !Layout(&store).has_store() {
        return may_be_seen(&store).map(|()| None);
    }
    // A worktree of calve may have lost its mark.
    if repository.is_linked()
        && let Some(found) = found_by_row(root)?
    {
        return Ok(Some(found));
    }
    Ok(Some(FoundStore { root: root.to_owned(), store, by: FoundBy::Git(repository) }))
}

/// The worktree at `root` if it has no mark that can be read: a power cut left the mark empty, or
/// the way to it, the `.git` file, is gone. This looks for the store where git's registration leads,
/// and where the usual places of worktrees belong to. A row of that store for this path must know
/// the tree. If a power cut took the mark, the worktree gets it again.
fn found_by_row(root: &Path) -> Result<Option<FoundStore>, Error> {
    let (mut stores, mut projects) = (Vec::new(), Vec::new());
    // The cut may have taken the `.git` file, too.
    if let Ok(Some(repository)) = git::read(root) {
        stores.push(repository.common.join(layout::IN_GIT));
        projects.extend(repository.common.parent().map(Path::to_owned));
    }
    if let Some(folder) = root.parent() {
        let name = folder.file_name().and_then(OsStr::to_str);
        if let Some(stem) = name.and_then(|name| name.strip_suffix(".worktrees")) {
            projects.push(folder.with_file_name(stem));
            stores.push(folder.with_file_name(format!("{stem}{}", layout::OWN)));
        }
        // Worktrees inside the project, or inside the store.
        stores.extend(folder.parent().map(Path::to_owned));
        projects.extend(folder.parent().and_then(Path::parent).map(Path::to_owned));
    }
    for project in projects {
        stores.push(layout::own(&project));
        stores.extend(home::store_in_git(&project).ok().flatten());
        let marker = Marker::read(&MarkPlace::of_project(&project));
        stores.extend(marker.ok().flatten().map(|marker| marker.store));
    }
    for store in stores {
        if !Layout(&store).has_store() || must_be_ours(&store).is_err() {
            continue;
        }
        let Ok(store) = Store::open(&store) else { continue };
        for mut row in store.catalog().worktrees()? {
            let registry = store.registry();
            registry.follow_store(&mut row)?;
            if path_from(&row.path) == root
                && (registry.heal_mark(&row).context(Operation::Mark, || root)?
                    || registry.find_mark(&row)?)
            {
                return FoundStore::by_row(&store, &row).map(Some);
            }
        }
    }
    Ok(None)
}

/// Fails if nobody can say whether there is a store in this folder, since the user may not look into
/// it. To go on without would call the store lost.
fn may_be_seen(store: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(Layout(store).format()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::io(Operation::UseStore, store, error))
        }
        _ => Ok(()),
    }
}

/// Refuses a store whose folder belongs to another user. If the folder is gone, the caller's
/// attempt to open it says so.
fn must_be_ours(store: &Path) -> Result<(), Error> {
    let Ok(stat) = fs::stat(store) else { return Ok(()) };
    match Believed::user().why_not(Owned::of(&stat), Role::Mark) {
        Some(why) => {
            let why = format!("{why}, and you did not name it");
            Err(ownership::not(Operation::UseStore, store, why))
        }
        None => Ok(()),
    }
}

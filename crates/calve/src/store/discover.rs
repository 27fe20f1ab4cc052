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

use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs;

use super::Store;
use super::catalog::{PROJECT, WorktreeRow};
use super::git;
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
}

/// A store that was found at a folder or above it, and was not opened yet.
struct FoundStore {
    root: PathBuf,
    store: PathBuf,
    /// The kind of the marker, and the marker. `None` if the store is in the root.
    marked: Option<(Marked, FoundMark)>,
}

impl FoundStore {
    fn in_root(&self) -> bool {
        self.marked.is_none()
    }

    /// The worktree of a row, which has no mark that can be read.
    fn by_row(store: &Store, row: &WorktreeRow) -> Result<Self, Error> {
        let root = path_from(&row.path);
        let owned = Owned::at(&root).map_err(|error| Error::io(Operation::LookAt, &root, error))?;
        let marker = store.registry().marker(row);
        let seen = FoundMark { marker, folder: owned, file: owned };
        Ok(Self { root, store: store.path().to_owned(), marked: Some((Marked::Worktree, seen)) })
    }

    /// The store was found for `folder`. If that is in a worktree inside the project which has no
    /// mark, the worktree is meant, and not the project around it.
    fn discovered(self, store: Store, folder: &Path) -> Result<Discovered, Error> {
        let of_worktree = |marked: &(Marked, FoundMark)| marked.0 == Marked::Worktree;
        if !self.marked.as_ref().is_some_and(of_worktree) {
            let start = std::fs::canonicalize(folder).context(Operation::Open, || folder)?;
            for row in store.catalog().worktrees()?.iter().filter(|row| row.name != PROJECT) {
                let path = path_from(&row.path);
                if path != self.root
                    && path.starts_with(&self.root)
                    && start.starts_with(&path)
                    && store.registry().find_mark(row)?
                {
                    let token = Some(row.token.clone());
                    return Ok(Discovered { store, root: path, token });
                }
            }
        }
        let of_worktree = self.marked.filter(of_worktree);
        let token = of_worktree.map(|(_, seen)| seen.marker.token);
        Ok(Discovered { store, root: self.root, token })
    }

    /// Fails if the marker belongs to a user who is not believed.
    fn must_be_believed(&self, believed: Believed) -> Result<(), Error> {
        let Some((of, seen)) = &self.marked else { return Ok(()) };
        let Some(why) = seen.why_not(believed) else { return Ok(()) };
        let operation = match of {
            Marked::Worktree => Operation::UseWorktree,
            Marked::Project => Operation::UseProject,
        };
        Err(ownership::not(operation, &self.root, format!("its mark is not yours: {why}"))
            .with_other(layout::own(&self.root)))
    }

    /// The worktree or project whose store is missing.
    fn operation(&self) -> Option<Operation> {
        self.marked.as_ref().map(|(of, _)| match of {
            Marked::Worktree => Operation::FindStoreOfWorktree,
            Marked::Project => Operation::FindStoreOfProject,
        })
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
        let found = find(folder.as_ref())?;
        must_be_ours(&found.store)?;
        found.must_be_believed(Believed::with_store(&found.store))?;
        let store =
            Self::open(&found.store).map_err(|error| match (found.operation(), error.kind()) {
                // The caller named the tree, or is in it, and did not name the store.
                (Some(operation), ErrorKind::StoreNotFound) => {
                    let gone = io::Error::new(io::ErrorKind::NotFound, "no store is there");
                    Error::new(error.kind(), operation, &found.root, gone).with_other(&found.store)
                }
                _ => error,
            })?;
        if found.in_root() {
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
        store.follow_project(&found)?;
        found.discovered(store, folder.as_ref())
    }

    /// If a store was found for a project that is elsewhere, this must be that project. If it was
    /// moved, this writes its new path into the store.
    fn follow_project(&self, found: &FoundStore) -> Result<(), Error> {
        let Some((Marked::Project, FoundMark { marker: Marker { token, .. }, .. })) = &found.marked
        else {
            return Ok(());
        };
        let row = self.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
        let known = self.registry().root_of(&row);
        // A store inside its project needs no marker.
        if row.token != *token || row.path.is_empty() {
            let cause = io::Error::other("it belongs to another project");
            return Err(Error::new(
                ErrorKind::StoreUntrusted,
                Operation::UseStore,
                self.path(),
                cause,
            )
            .with_other(known));
        }
        if known == found.root {
            return Ok(());
        }
        let believed = self.registry().believed();
        if self.registry().is_project_at(&known, token)? {
            let cause = io::Error::other("this folder is a copy of that project");
            return Err(Error::new(ErrorKind::Overlap, Operation::UseProject, &found.root, cause)
                .with_other(known));
        }
        ownership::must_be_believed_root(believed, &found.root, Operation::UseProject)?;
        self.must_be_writable(Operation::UseStore)?;
        let mut row = row;
        row.path = bytes_of(&found.root);
        self.registry().set_path(&row)
    }

    /// Writes the small file `.calve/project` into the project, if the store is elsewhere: then
    /// [`Store::discover`] finds the store from any folder of the project. Returns whether it does:
    /// `false` if the project has another store inside, or is a worktree of another store.
    ///
    /// [`Store::init_at`] does this if it may write to the project.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] and other errors of writing. The file is written as a whole
    /// or not at all.
    pub fn point_project(&self) -> Result<bool, Error> {
        let row = self.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
        if row.path.is_empty() {
            return Ok(true);
        }
        let root = path_from(&row.path);
        let own = layout::own(&root);
        if Layout(&own).has_store() || Marker::read(&MarkPlace::of_worktree(&root))?.is_some() {
            return Ok(false);
        }
        let marker = self.registry().marker(&row);
        if !matches!(Marker::read(&MarkPlace::of_project(&root)), Ok(Some(known)) if known == marker)
        {
            let believed = self.registry().believed();
            marker.point(&own, believed).context(Operation::Write, || own.join(layout::POINTER))?;
        }
        Ok(true)
    }

    /// Like [`Store::discover`], for a caller that opened this store by its path and so trusts it.
    /// If `folder` belongs to this store, calve does not ask who owns the store.
    ///
    /// # Errors
    /// As for [`Store::discover`].
    pub fn find(&self, folder: impl AsRef<Path>) -> Result<Discovered, Error> {
        let folder = folder.as_ref();
        let found = find(folder)?;
        match std::fs::canonicalize(&found.store) {
            Ok(path) if path == self.path() => {
                found.must_be_believed(self.registry().believed())?;
                self.follow_project(&found)?;
                found.discovered(self.clone(), folder)
            }
            _ => Self::discover(folder),
        }
    }

    /// Why calve takes no keys and no settings from a file that it found in the project: the file
    /// belongs to another user than the caller, root and the owner of this store, or everybody may
    /// write to it. `None`: it takes them.
    #[must_use]
    pub fn why_not_trusted(&self, file: &std::fs::Metadata) -> Option<String> {
        use std::os::unix::fs::MetadataExt as _;
        let owned = Owned { uid: file.uid(), gid: file.gid(), mode: file.mode() & 0o7777 };
        self.registry().believed().why_not(owned, Role::Keys)
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
        if Layout(&own).has_store() {
            return Ok(FoundStore { root: root.to_owned(), store: own, marked: None });
        }
        if let Some(found) = found_by(Marked::Project, root)? {
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
        FoundStore { root: root.to_owned(), store, marked: Some((of, seen)) }
    };
    let place = match of {
        Marked::Worktree => MarkPlace::of_worktree(root),
        Marked::Project => MarkPlace::of_project(root),
    };
    Ok(FoundMark::at(&place)?.map(found))
}

/// The worktree at `root` if it has no mark that can be read: a power cut left the mark empty, or
/// the way to it, the `.git` file, is gone. This looks for the store where git's registration leads,
/// and where the usual places of worktrees belong to. A row of that store for this path must know
/// the tree. If a power cut took the mark, the worktree gets it again.
fn found_by_row(root: &Path) -> Result<Option<FoundStore>, Error> {
    let mut stores = Vec::new();
    // The cut may have taken the `.git` file, too.
    if let Ok(Some(repository)) = git::read(root) {
        stores.extend(repository.common.parent().map(layout::own));
    }
    if let Some(folder) = root.parent() {
        let name = folder.file_name().and_then(OsStr::to_str);
        if let Some(stem) = name.and_then(|name| name.strip_suffix(".worktrees")) {
            stores.push(layout::own(&folder.with_file_name(stem)));
            stores.push(folder.with_file_name(format!("{stem}{}", layout::OWN)));
        }
        stores.extend(folder.parent().map(Path::to_owned));
    }
    for own in stores {
        let store = if Layout(&own).has_store() {
            own
        } else {
            let project = own.parent().unwrap_or(&own);
            match Marker::read(&MarkPlace::of_project(project)) {
                Ok(Some(marker)) => marker.store,
                _ => continue,
            }
        };
        if must_be_ours(&store).is_err() {
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

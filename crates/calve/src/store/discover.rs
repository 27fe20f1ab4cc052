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
//! other. The marker of a project whose store is elsewhere must have the token of the project's
//! row, and no other folder may have it too: a copy of the project is another tree than the one
//! that the store's indexes and snapshots are of. A folder that has the token, while the folder in
//! the row has it no more, is the project: it was moved.

use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs;

use super::Store;
use super::catalog::PROJECT;
use super::layout::{self, Layout};
use super::marker::{Marked, Marker};
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
struct Found {
    root: PathBuf,
    store: PathBuf,
    /// The kind of the marker and its token. `None` if the store is in the root.
    marked: Option<(Marked, String)>,
}

impl Found {
    fn in_root(&self) -> bool {
        self.marked.is_none()
    }

    fn discovered(self, store: Store) -> Discovered {
        let token = self.marked.and_then(|(of, token)| (of == Marked::Worktree).then_some(token));
        Discovered { store, root: self.root, token }
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
    /// for; [`Store::open`] opens such a store by its path. [`ErrorKind::Overlap`] if the folder is
    /// a copy of a project whose store is elsewhere. The errors of [`Store::open`].
    pub fn discover(folder: impl AsRef<Path>) -> Result<Discovered, Error> {
        let found = find(folder.as_ref())?;
        must_be_ours(&found.store)?;
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
        Ok(found.discovered(store))
    }

    /// If a store was found for a project that is elsewhere, this must be that project. If it was
    /// moved, this writes its new path into the store.
    fn follow_project(&self, found: &Found) -> Result<(), Error> {
        let Some((Marked::Project, token)) = &found.marked else { return Ok(()) };
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
        let there = Marker::read_of(&layout::own(&known), Marked::Project).ok().flatten();
        if there.is_some_and(|marker| marker.token == *token) {
            let cause = io::Error::other("this folder is a copy of that project");
            return Err(Error::new(ErrorKind::Overlap, Operation::UseProject, &found.root, cause)
                .with_other(known));
        }
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
        let own = layout::own(&path_from(&row.path));
        if Layout(&own).has_store() || Marker::read(&own)?.is_some() {
            return Ok(false);
        }
        let marker = self.registry().marker(&row);
        if !matches!(Marker::read_of(&own, Marked::Project), Ok(Some(known)) if known == marker) {
            marker.point(&own).context(Operation::Write, || own.join(layout::POINTER))?;
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
                self.follow_project(&found)?;
                Ok(found.discovered(self.clone()))
            }
            _ => Self::discover(folder),
        }
    }
}

fn find(folder: &Path) -> Result<Found, Error> {
    let start = std::fs::canonicalize(folder).context(Operation::Open, || folder)?;
    for root in start.ancestors() {
        let own = layout::own(root);
        if let Some(Marker { token, store }) = Marker::read(&own)? {
            let marked = Some((Marked::Worktree, token));
            return Ok(Found { root: root.to_owned(), store, marked });
        }
        if Layout(&own).has_store() {
            return Ok(Found { root: root.to_owned(), store: own, marked: None });
        }
        if let Some(Marker { token, store }) = Marker::read_of(&own, Marked::Project)? {
            let marked = Some((Marked::Project, token));
            return Ok(Found { root: root.to_owned(), store, marked });
        }
    }
    let cause = io::Error::new(
        io::ErrorKind::NotFound,
        "neither this folder nor any folder above it is a worktree or has a store",
    );
    Err(Error::new(ErrorKind::StoreNotFound, Operation::FindStore, start, cause))
}

/// Refuses a store whose folder belongs to another user. If the folder is gone, the caller's
/// attempt to open it says so.
fn must_be_ours(store: &Path) -> Result<(), Error> {
    let Ok(stat) = fs::stat(store) else { return Ok(()) };
    if may_be_used(stat.st_uid, rustix::process::geteuid().as_raw()) {
        return Ok(());
    }
    let cause = io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("it belongs to another user (uid {}), and you did not name it", stat.st_uid),
    );
    Err(Error::new(ErrorKind::StoreUntrusted, Operation::UseStore, store, cause))
}

fn may_be_used(owner: u32, user: u32) -> bool {
    owner == user || owner == 0
}

#[cfg(test)]
mod tests {
    use super::may_be_used;

    #[test]
    fn a_store_that_was_found_is_ours_or_roots() {
        for (owner, user, expected) in [
            (1000, 1000, true),
            (0, 1000, true),
            (0, 0, true),
            (1001, 1000, false),
            // Root least of all: whatever the store says would be done with all rights.
            (1000, 0, false),
        ] {
            assert_eq!(may_be_used(owner, user), expected, "{owner} {user}");
        }
    }
}

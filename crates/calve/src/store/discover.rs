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
//! other.

use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs;

use super::Store;
use super::layout::{self, Layout};
use super::marker::Marker;
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
    token: Option<String>,
}

impl Store {
    /// Finds the store that `folder` belongs to. The folder is a project or a worktree, or is
    /// inside one.
    ///
    /// # Errors
    /// [`ErrorKind::StoreNotFound`] if neither the folder nor a folder above is one, or if the
    /// store of a worktree is gone. [`ErrorKind::StoreUntrusted`] if the store belongs to another
    /// user, or names a project outside the folder that the store is in; [`Store::open`] opens such
    /// a store by its path. The errors of [`Store::open`]. Nothing is changed.
    pub fn discover(folder: impl AsRef<Path>) -> Result<Discovered, Error> {
        let found = find(folder.as_ref())?;
        must_be_ours(&found.store)?;
        let store =
            Self::open(&found.store).map_err(|error| match (&found.token, error.kind()) {
                // Nobody named it: what was named, or stood in, is the worktree.
                (Some(_), ErrorKind::StoreNotFound) => {
                    let gone = io::Error::new(io::ErrorKind::NotFound, "no store is there");
                    let operation = Operation::FindStoreOfWorktree;
                    Error::new(error.kind(), operation, &found.root, gone).with_other(&found.store)
                }
                _ => error,
            })?;
        if found.token.is_none() {
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
        Ok(Discovered { store, root: found.root, token: found.token })
    }

    /// Like [`Store::discover`], for a caller that opened this store by its path and so trusts it.
    /// If `folder` belongs to this store, calve asks no question.
    ///
    /// # Errors
    /// As for [`Store::discover`].
    pub fn find(&self, folder: impl AsRef<Path>) -> Result<Discovered, Error> {
        let folder = folder.as_ref();
        let found = find(folder)?;
        match std::fs::canonicalize(&found.store) {
            Ok(path) if path == self.path() => {
                Ok(Discovered { store: self.clone(), root: found.root, token: found.token })
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
            return Ok(Found { root: root.to_owned(), store, token: Some(token) });
        }
        if Layout(&own).has_store() {
            return Ok(Found { root: root.to_owned(), store: own, token: None });
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

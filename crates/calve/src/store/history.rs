//! The store's methods about snapshots: taken, found, named.
//!
//! Each hands on: [`snapshot`](super::snapshot) takes one of a tree, [`query`] finds and names
//! them, and [`unnamed`] names contents that nobody has read yet.

use std::io;

use super::manifest::Manifest;
use super::snapshot::{Known, query};
use super::unnamed::{self, name_pending};
use super::{
    NamingReport, PROJECT, Snapshot, SnapshotId, SnapshotLog, SnapshotOptions, SnapshotReport,
    Store, StoreOptions,
};
use crate::error::{Error, ErrorKind, Operation};
use crate::tree::running::Running;

impl Store {
    /// Takes a snapshot of the project as it stands: everything but `.calve`, the `.git` in its
    /// root, and what `.calveignore` files leave out.
    ///
    /// It reads only the files that changed since the last snapshot. If no file changed and
    /// `taking` has no message, the result is the last snapshot. It clones the changed files into
    /// the store if the filesystem can, and otherwise copies them; the report says which.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`]; those of every operation, see [`Store`]. No snapshot was made,
    /// and the name means what it meant. Content that was taken in before the error stays until
    /// [`Store::gc`](crate::Store::gc). If the disk is full, calve removes that content, unless
    /// another process uses the store.
    pub fn snapshot(
        &self,
        taking: &SnapshotOptions,
        options: &StoreOptions,
    ) -> Result<SnapshotReport, Error> {
        of_project(self, taking, None, &options.operation()).map(|(report, _)| report)
    }

    /// All snapshots, the newest first, and those that cannot be read.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn log(&self) -> Result<SnapshotLog, Error> {
        query::log(self.layout(), self.catalog())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::SnapshotNotFound`]. Nothing is changed.
    pub fn show(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        query::show(self.catalog(), id)
    }

    /// The snapshot that `text` means: a name, an id, or the start of one snapshot's id (at least
    /// four digits). If `text` is both a name and the start of an id, the name wins, as with git;
    /// see [`Store::ids_that_start_with`].
    ///
    /// # Errors
    /// [`ErrorKind::SnapshotNotFound`] and [`ErrorKind::SnapshotAmbiguous`].
    pub fn resolve(&self, text: &str) -> Result<SnapshotId, Error> {
        query::resolve(self.catalog(), text)
    }

    /// The snapshots whose ids start with `text`, which has at least four digits. Names do not
    /// count.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn ids_that_start_with(&self, text: &str) -> Result<Vec<SnapshotId>, Error> {
        query::ids_that_start_with(self.catalog(), text)
    }

    /// The snapshot that the project is based on.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn latest(&self) -> Result<Option<SnapshotId>, Error> {
        self.catalog().latest()
    }

    /// Gives a snapshot the name `name`. If another snapshot has that name, it loses it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], [`ErrorKind::SnapshotNotFound`]. Nothing is changed.
    pub fn set_name(&self, name: &str, id: SnapshotId) -> Result<(), Error> {
        query::set_name(self, name, id)
    }

    /// Removes a name; its snapshot stays. Returns whether there was such a name.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. The name stays.
    pub fn remove_name(&self, name: &str) -> Result<bool, Error> {
        self.must_be_writable(Operation::RemoveName).and_then(|()| self.catalog().remove_name(name))
    }

    /// Whether there are trees whose contents have no names yet.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn has_unnamed_contents(&self) -> Result<bool, Error> {
        Ok(!unnamed::all(self.layout())?.is_empty())
    }

    /// Names the contents of worktrees that were started without being read
    /// ([`StartOptions::name_later`](crate::StartOptions::name_later)): reads each content once,
    /// clones it into the store, and makes the worktrees' base snapshot. Until then
    /// [`Worktree::snapshot`](crate::Worktree::snapshot) is `None`.
    ///
    /// Every operation that needs the base snapshot does this first: status, diff, capture, switch,
    /// reset, undo, restore, a drop that looks for work, the next snapshot and the next start. One
    /// process names at a time; the others wait.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. The worktrees are as they were, and the next call
    /// begins again.
    pub fn name_contents(&self, options: &StoreOptions) -> Result<NamingReport, Error> {
        unnamed::name_contents(self, options)
    }

    /// The same for a process in the background. It returns as soon as another process waits for
    /// the names or needs the store for itself, and at once if another process names contents: see
    /// [`NamingReport::stopped`].
    ///
    /// # Errors
    /// See [`Store::name_contents`].
    pub fn name_contents_behind(&self, options: &StoreOptions) -> Result<NamingReport, Error> {
        unnamed::name_contents_behind(self, options)
    }
}

/// Takes a snapshot of the project, as a part of `operation`. First it names contents that have no
/// names yet.
///
/// Returns also the snapshot's manifest, for an operation that goes on with it. Reading it from the
/// database again would take longer than the scan of a small change. `read` is what was known of
/// the project a moment ago, if the operation has read it already.
pub(crate) fn of_project(
    store: &Store,
    taking: &SnapshotOptions,
    read: Option<Known>,
    operation: &Running,
) -> Result<(SnapshotReport, Option<Manifest>), Error> {
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    taking.check()?;
    let project = || {
        store.catalog().worktree(PROJECT)?.ok_or_else(|| {
            let why = "it does not know its project";
            let cause = io::Error::new(io::ErrorKind::InvalidData, why);
            Error::new(ErrorKind::Damaged, Operation::OpenStore, store.path(), cause)
        })
    };
    let mut row = project()?;
    if row.snapshot.is_none() && name_pending(store, operation)? {
        row = project()?;
    }
    let known = read.filter(|read| read.row == row);
    let known = known.map_or_else(|| Known::if_sound(store, row), Ok)?;
    let (report, manifest) = known.record(store, taking, operation)?;
    let manifest = manifest.or(known.base.map(|(_, _, base)| base));
    #[cfg(calve_check)]
    crate::check::manifest(store, report.id, manifest.as_ref());
    Ok((report, manifest))
}

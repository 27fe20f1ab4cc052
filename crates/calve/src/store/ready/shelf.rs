//! What each way to keep ready trees can do.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::super::catalog::WorktreeRow;
use super::super::id::SnapshotId;
use super::super::index::Index;
use super::{Arrived, ReadyReport, SnapshotTree, TreePlace};
use crate::error::Error;
use crate::tree::running::Running;

/// One of the two ways to keep ready trees.
pub(crate) trait Shelf {
    /// Lets ready trees of a snapshot arrive beside the first ones of these places, or beside none
    /// of them. `rows` are their worktrees. The snapshot's manifest is read only if it is needed.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and a snapshot that is damaged. No tree is left.
    fn take(
        &self,
        tree: &mut SnapshotTree<'_>,
        rows: &[WorktreeRow],
        places: &[TreePlace],
        operation: &Running,
    ) -> Result<Vec<Arrived>, Error>;

    /// Makes a ready tree of a snapshot, for the next starts. Returns whether there is one.
    ///
    /// # Errors
    /// The tree could not be filled; nothing is left of it.
    fn keep(&self, _tree: SnapshotTree<'_>, _operation: &Running) -> Result<bool, Error> {
        Ok(false)
    }

    /// Whether a start from this snapshot reads the snapshot's manifest.
    fn reads_tree(&self, id: SnapshotId) -> bool;

    /// Makes ready trees of the project's snapshot `id` until there are as many as the store keeps,
    /// and removes others. `dir` is their folder. After an error, too, `report`
    /// says what was done.
    fn refill(
        &self,
        dir: &OwnedFd,
        id: SnapshotId,
        operation: &Running,
        report: &mut ReadyReport,
    ) -> Result<(), Error>;

    /// The ready trees that are not as calve made them. A start would not use them. Trees of
    /// another boot are no damage: nobody can say whether they were touched.
    fn touched(&self, operation: &Running) -> Result<Vec<PathBuf>, Error>;

    /// Makes the subvolume that unnamed worktrees are snapshots of the ready tree of their
    /// snapshot, if nobody touched it.
    fn adopt(&self, _unnamed: (&str, &[u8]), _snapshot: (SnapshotId, &Index)) -> io::Result<()> {
        Ok(())
    }
}

/// Which ready tree is removed.
#[derive(Clone, Copy)]
pub(crate) enum Which<'a> {
    /// The subvolume of a snapshot, with its index and its seal.
    Of(SnapshotId),
    /// The subvolume that unnamed worktrees are snapshots of, by the token of their record.
    Unnamed(&'a str),
    /// The one at this path: it waits, or a start has taken it.
    At(&'a Path),
}

/// When a ready tree that was removed is deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deletion {
    /// Now. What cannot be deleted is trash.
    Now,
    /// Now, if it is a subvolume that goes at once. Otherwise it is trash.
    AtOnce,
    /// When somebody empties the trash: a start has no time for it.
    Later,
}

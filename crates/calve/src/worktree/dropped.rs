//! Dropped worktrees that can be brought back.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Worktree;
use crate::error::{Context as _, Error, Operation};
use crate::store::catalog::{DroppedRow, WorktreeRow};
use crate::store::id::SnapshotId;
use crate::store::registry::{KEPT, not_dropped};
use crate::store::snapshot::check_name;
use crate::store::{Store, bytes_of, path_from};

/// A worktree that was dropped by force and can be brought back.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeptWorktree {
    /// The name that it had.
    pub name: String,
    /// The path that it had.
    pub path: PathBuf,
    /// Its base snapshot.
    pub snapshot: Option<SnapshotId>,
    /// The branch of git that it was on, if it was a linked worktree.
    pub branch: Option<String>,
    /// The commit that it had checked out, if it was a linked worktree.
    pub commit: Option<String>,
    /// When it was dropped.
    pub dropped: SystemTime,
    /// It is kept until then. After that, the next drop or [`Store::gc`] deletes it.
    pub until: SystemTime,
}

impl KeptWorktree {
    fn new(row: &DroppedRow) -> Self {
        let dropped = Duration::from_nanos(u64::try_from(row.dropped).unwrap_or(0));
        let dropped = UNIX_EPOCH.checked_add(dropped).unwrap_or(UNIX_EPOCH);
        Self {
            name: row.row.name.clone(),
            path: path_from(&row.row.path),
            snapshot: row.row.snapshot,
            branch: row.row.git.as_ref().and_then(|linked| linked.branch.clone()),
            commit: row.row.git.as_ref().map(|linked| linked.commit.clone()),
            dropped,
            until: dropped.checked_add(KEPT).unwrap_or(dropped),
        }
    }
}

impl Store {
    /// The worktrees that were dropped by force and can be brought back, the last dropped first.
    /// Several may have had one name.
    ///
    /// # Errors
    /// The errors of every operation, see [`Store`]. Nothing is changed.
    pub fn dropped_worktrees(&self) -> Result<Vec<KeptWorktree>, Error> {
        self.registry().recover()?;
        Ok(self.catalog().dropped()?.iter().map(KeptWorktree::new).collect())
    }

    /// Brings a dropped worktree back, with all files as they were at the drop: a rename, whatever
    /// its size. `which` is the name that it had, or its absolute path; of several it is the one
    /// that was dropped last. It gets the name `new_name`, which may be the same, and is at its old
    /// path, or beside that under the new name.
    ///
    /// A linked worktree of git has its index and its state again. Its `HEAD` is at its branch if
    /// the branch is where it was and no other working tree has it checked out, else at the commit.
    /// A branch that the drop deleted is made again, with its part of git's configuration, if its
    /// name is free. Of a branch without a commit, it is at a new name beside it then: `BRANCH-2`. If git does not
    /// have the commit any more, it is at the project's, and its index is that commit's.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`](crate::ErrorKind::WorktreeNotFound) if none is kept;
    /// [`ErrorKind::WorktreeExists`](crate::ErrorKind::WorktreeExists),
    /// [`ErrorKind::DestinationExists`](crate::ErrorKind::DestinationExists),
    /// [`ErrorKind::InvalidName`](crate::ErrorKind::InvalidName). The worktree is kept as before.
    /// If files that name the worktree's path cannot be rewritten for a new name, the worktree is
    /// back, and the next command in it tries again.
    pub fn restore_dropped(
        &self,
        which: impl AsRef<Path>,
        new_name: &str,
    ) -> Result<Worktree, Error> {
        let which = which.as_ref();
        self.must_be_writable(Operation::RestoreWorktreeOf)?;
        check_name(new_name)?;
        self.registry().recover()?;
        let rows = self.catalog().dropped()?;
        let is_it = |row: &WorktreeRow| {
            Path::new(&row.name) == which || which.is_absolute() && path_from(&row.path) == which
        };
        let dropped = rows.iter().find(|dropped| is_it(&dropped.row));
        let dropped = dropped.ok_or_else(|| not_dropped(&which.to_string_lossy()))?;
        let mut path = path_from(&dropped.row.path);
        if new_name != dropped.row.name {
            path.set_file_name(new_name);
        }
        let (parent, _) = crate::store::parent_of(&path)?;
        std::fs::create_dir_all(&parent).context(Operation::MakeFolder, || &parent)?;
        let row = self.registry().bring_back(dropped, new_name, bytes_of(&path))?;
        let worktree = Worktree { store: self.clone(), path, row, registered_again: None };
        worktree.follow_move()?;
        Ok(worktree)
    }
}

//! L3: worktrees, stamped out of snapshots and taken back into them.
//!
//! A worktree is a tree of a snapshot somewhere on disk, with a marker inside (`.calve/worktree`: which store it is of, and its
//! token), a row in the store and an index. The project itself is a worktree, too, that nobody started and nobody can drop.
//!
//! # Moved, copied, deleted by hand
//! The token in the marker says which worktree a folder is, whatever its path. One that was moved is found again when a command is
//! run in it; of a copy, the store knows the first; one that is gone is told of as missing, and can be restored or dropped.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Error, ErrorKind, Operation};
use crate::report::{SkipReason, Skipped};
use crate::store::catalog::{State, WorktreeRow};
use crate::store::delta::{self, Counts, Delta};
use crate::store::files::open_dir;
use crate::store::id::SnapshotId;
use crate::store::layout;
use crate::store::manifest::Manifest;
use crate::store::object::Kind;
use crate::store::registry::no_worktree;
use crate::store::snapshot::Known;
use crate::store::{
    Discovered, Marker, PROJECT, SnapshotOptions, SnapshotReport, Store, StoreOptions, bytes_of,
    path_from,
};
use crate::tree::running::Running;

mod at;
mod diff;
mod git;
pub(crate) mod patch;
mod remove;
mod scope;
mod start;
pub(crate) mod switch;

pub use diff::{Diff, FileDiff};
pub use git::GitStatus;
pub use remove::{DropOptions, DroppedWorktree};
pub use scope::ChangeScope;
pub use start::{
    GitMode, GitOutcome, LinkedWorktree, NoRepository, StartBranch, StartOptions, StartReport,
    StartedWorktree,
};
pub use switch::{SwitchOptions, SwitchReport};

/// A worktree of a store; also the project itself.
///
/// Others may work with it, and drop it, meanwhile: then what is done with it here fails with [`ErrorKind::WorktreeNotFound`], or with
/// [`ErrorKind::WorktreeMissing`] where only its folder is gone.
#[derive(Debug, Clone)]
pub struct Worktree {
    store: Store,
    row: WorktreeRow,
    path: PathBuf,
}

/// Whether a worktree's folder is there, and whether calve works on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorktreeState {
    /// The folder is there.
    Ready,
    /// Another process makes the folder.
    Starting,
    /// A switch runs, or was cut short. The same switch, or a reset, completes it.
    Switching,
    /// The worktree's path has nothing, or something else.
    Missing,
}

/// A path at which a worktree differs from its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Change {
    /// From the worktree's root; that of the root itself is `.`.
    pub path: PathBuf,
    /// What is different.
    pub kind: ChangeKind,
}

/// In which way a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It is not in the snapshot.
    Added,
    /// Its content is another; perhaps its mode, its owner and its attributes, too.
    Modified,
    /// It is gone.
    Deleted,
    /// It is another kind of entry.
    Type,
    /// Its content is the same and its mode is another; perhaps its owner and its attributes, too.
    Mode,
    /// Only its owner, its group or its extended attributes (ACLs are among them) are another.
    Metadata,
}

impl ChangeKind {
    /// The letter that `status` prints: A, M, D, T or X.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Modified => 'M',
            Self::Deleted => 'D',
            Self::Type => 'T',
            Self::Mode | Self::Metadata => 'X',
        }
    }
}

/// What [`Worktree::status`] found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorktreeStatus {
    /// The snapshot it was compared with.
    pub snapshot: SnapshotId,
    /// Every path that differs, sorted. A directory is named only where it is empty, or where its mode, owner or attributes differ.
    pub changes: Vec<Change>,
    /// Entries that were looked at.
    pub entries: u64,
    /// Directories of which some entries may not have been looked at: [`SkipReason::Restless`].
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

impl Store {
    /// The worktrees, by name; not the project.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn worktrees(&self) -> Result<Vec<Worktree>, Error> {
        self.registry().recover()?;
        let rows = self.catalog().worktrees()?;
        for row in &rows {
            self.registry().mend_marker(row);
        }
        Ok(rows
            .into_iter()
            .filter(|row| row.name != PROJECT)
            .map(|row| Worktree { store: self.clone(), path: path_from(&row.path), row })
            .collect())
    }

    /// The worktree called `name`.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`]. Nothing is changed.
    pub fn worktree(&self, name: &str) -> Result<Worktree, Error> {
        self.registry().recover()?;
        match self.catalog().worktree(name)?.filter(|row| row.name != PROJECT) {
            Some(row) => {
                self.registry().mend_marker(&row);
                Ok(Worktree { store: self.clone(), path: path_from(&row.path), row })
            }
            None => Err(no_worktree(name)),
        }
    }

    /// The project, as a worktree of its last snapshot. It can be looked at, captured, switched and reset like any other.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn project_worktree(&self) -> Result<Worktree, Error> {
        let row = self.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
        Ok(Worktree { store: self.clone(), path: self.project()?, row })
    }
}

impl Discovered {
    /// Whether the folder is in a worktree; if not, it is in the project.
    #[must_use]
    pub fn is_worktree(&self) -> bool {
        self.token.is_some()
    }

    /// The worktree that the folder is in, or the project. One that was moved is known by its new path from now on.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] where the store has forgotten it, and [`ErrorKind::Overlap`] where this is a copy of a
    /// worktree that still stands.
    pub fn worktree(&self) -> Result<Worktree, Error> {
        let Some(token) = &self.token else { return self.store.project_worktree() };
        self.store.registry().recover()?;
        let rows = self.store.catalog().worktrees()?;
        let Some(mut row) = rows.into_iter().find(|row| row.token == *token) else {
            let cause = io::Error::new(
                io::ErrorKind::NotFound,
                "its store does not know this worktree any more; it is now a plain folder",
            );
            return Err(Error::new(
                ErrorKind::WorktreeNotFound,
                Operation::FindWorktree,
                &self.root,
                cause,
            ));
        };
        let path = path_from(&row.path);
        if path != self.root {
            let there = Marker::read(&layout::own(&path)).ok().flatten();
            if there.is_some_and(|marker| marker.token == *token) {
                let cause = io::Error::other("this folder is a copy of that worktree");
                return Err(Error::new(
                    ErrorKind::Overlap,
                    Operation::UseWorktree,
                    &self.root,
                    cause,
                )
                .with_other(path));
            }
            row.path = bytes_of(&self.root);
            if !self.store.is_read_only() {
                self.store.registry().set_path(&row)?;
            }
        }
        Ok(Worktree { store: self.store.clone(), row, path: self.root.clone() })
    }
}

impl Worktree {
    /// Its name; a dot for the project.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.row.name
    }

    /// Where it is, or was.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store it is of.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The snapshot it is based on; a project without snapshots has none. As of when it was looked up: what is done with it
    /// meanwhile, also by others, is not seen here, but by every operation.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.row.snapshot
    }

    /// When it was started.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        let seconds = u64::try_from(self.row.created).unwrap_or(0);
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Whether it is the project itself.
    #[must_use]
    pub fn is_project(&self) -> bool {
        self.row.name == PROJECT
    }

    /// The same worktree as the store knows it now: captured, switched or moved since it was looked up.
    fn now(&self) -> Result<Self, Error> {
        let row = self.store.catalog().worktree(&self.row.name)?;
        let Some(row) = row.filter(|row| row.token == self.row.token) else {
            return Err(no_worktree(&self.row.name));
        };
        let path = if self.is_project() || self.store.is_read_only() {
            self.path.clone()
        } else {
            path_from(&row.path)
        };
        Ok(Self { store: self.store.clone(), row, path })
    }

    /// Does `work` with it as the store knows it now. Where it is dropped meanwhile, or its folder taken away, the error says so, and
    /// not which file was the first that was not found.
    fn as_now<T>(&self, work: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        let this = self.now()?;
        work(&this).map_err(|error| {
            if !matches!(
                error.kind(),
                ErrorKind::Io | ErrorKind::WorktreeMissing | ErrorKind::Changed
            ) {
                return error;
            }
            match this.now().and_then(|now| now.must_be_there()) {
                Err(gone)
                    if matches!(
                        gone.kind(),
                        ErrorKind::WorktreeNotFound | ErrorKind::WorktreeMissing
                    ) =>
                {
                    gone
                }
                _ => error,
            }
        })
    }

    /// Its state now.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if it was dropped meanwhile; or its folder could not be read.
    pub fn state(&self) -> Result<WorktreeState, Error> {
        self.now()?.state_now()
    }

    fn state_now(&self) -> Result<WorktreeState, Error> {
        if !self.is_project() && !self.is_there()? {
            return Ok(match self.row.state {
                State::Starting => WorktreeState::Starting,
                _ => WorktreeState::Missing,
            });
        }
        Ok(match self.row.state {
            State::Starting => WorktreeState::Starting,
            State::Ready => WorktreeState::Ready,
            State::Switching => WorktreeState::Switching,
        })
    }

    fn is_there(&self) -> Result<bool, Error> {
        match Marker::read(&layout::own(&self.path)) {
            Ok(marker) => Ok(marker.is_some_and(|marker| {
                marker.token == self.row.token && self.store.registry().is_meant_by(&marker)
            })),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fails where the folder is gone or is another.
    fn must_be_there(&self) -> Result<(), Error> {
        if self.is_project() || self.is_there()? {
            return Ok(());
        }
        let why = match Marker::read(&layout::own(&self.path)) {
            _ if std::fs::symlink_metadata(&self.path).is_err() => "its folder is gone",
            Ok(Some(marker)) if marker.token == self.row.token => {
                "it belongs to the store of which this one is a copy"
            }
            _ => "another folder is in its place",
        };
        let cause = io::Error::new(io::ErrorKind::NotFound, why);
        Err(Error::new(ErrorKind::WorktreeMissing, Operation::OpenWorktree, &self.path, cause))
    }

    /// What of it differs from its snapshot, in kind, content, mode, owner or extended attributes. Times are no change, and what could
    /// not be set when the worktree was made is none: a plain user cannot give files away.
    ///
    /// Costs one stat an entry and one listing a directory. Content is read only of files whose size is that of the snapshot
    /// and whose times or inode are not what the index says.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeMissing`]; [`ErrorKind::SnapshotNotFound`] for a project without a snapshot. Nothing is changed.
    pub fn status(&self, options: &StoreOptions) -> Result<WorktreeStatus, Error> {
        self.status_of(&ChangeScope::new(), options)
    }

    /// The same of a part of it. All of it is looked at all the same.
    ///
    /// # Errors
    /// As for [`Worktree::status`]; [`ErrorKind::SourceNotFound`] for a path that leads out of the worktree, and for one
    /// that neither it nor its snapshot has.
    pub fn status_of(
        &self,
        scope: &ChangeScope,
        options: &StoreOptions,
    ) -> Result<WorktreeStatus, Error> {
        self.status_in(scope, &options.operation())
    }

    fn status_in(&self, scope: &ChangeScope, operation: &Running) -> Result<WorktreeStatus, Error> {
        let started = Instant::now();
        self.as_now(|this| this.status_now(scope, started, operation))
    }

    fn status_now(
        &self,
        scope: &ChangeScope,
        started: Instant,
        operation: &Running,
    ) -> Result<WorktreeStatus, Error> {
        let mut judge = scope.at(&self.path, self.store.project().ok().as_deref())?;
        let (base, now, skipped) = self.compare(operation)?;
        judge.must_lead_somewhere(&base, now.as_ref().unwrap_or(&base))?;
        let entries = now.as_ref().unwrap_or(&base).count.into();
        let changes = match &now {
            Some(now) => {
                let deltas = delta::compare(&base, now, Counts::Changes);
                changes(&base, now, &judge.judged(&base, now, deltas)?)
            }
            None => Vec::new(),
        };
        let snapshot = self.based_on()?;
        Ok(WorktreeStatus { snapshot, changes, entries, skipped, elapsed: started.elapsed() })
    }

    fn based_on(&self) -> Result<SnapshotId, Error> {
        self.row.snapshot.ok_or_else(|| {
            let cause = io::Error::new(io::ErrorKind::NotFound, "it has no snapshot yet");
            Error::new(ErrorKind::SnapshotNotFound, Operation::Compare, &self.path, cause)
        })
    }

    /// The tree of the snapshot; the tree as it is, where that is not the same; and directories that kept changing.
    fn compare(
        &self,
        operation: &Running,
    ) -> Result<(Manifest, Option<Manifest>, Vec<Skipped>), Error> {
        self.must_be_there()?;
        self.based_on()?;
        let known = self.known()?;
        let (mut scan, _) = self.store.scan(&known, None, operation)?;
        // A socket is in no snapshot, and what is gone shows as deleted.
        scan.skipped.retain(|skipped| skipped.reason == SkipReason::Restless);
        match known.base {
            Some((_, _, base)) => Ok((base, scan.manifest, scan.skipped)),
            None => Err(no_worktree(self.name())),
        }
    }

    fn known(&self) -> Result<Known, Error> {
        let known = self.store.known(self.row.clone())?;
        Ok(Known { root: self.path.clone(), ..known })
    }

    /// Takes a snapshot of it as it stands; its base, from now on. Reads only what changed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], [`ErrorKind::WorktreeNotFound`], [`ErrorKind::WorktreeMissing`]; those of every operation, see [`Store`]. No snapshot
    /// was made, as for [`Store::snapshot`].
    pub fn capture(
        &self,
        taking: &SnapshotOptions,
        options: &StoreOptions,
    ) -> Result<SnapshotReport, Error> {
        self.store.must_be_writable(Operation::TakeSnapshotWith)?;
        taking.check()?;
        self.as_now(|this| {
            this.must_be_there()?;
            this.store.record(&this.known()?, taking, &options.operation())
        })
    }
}

/// How a path is told of: the root's is a dot.
fn shown(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

/// Differences as they are shown: a directory only for its own sake.
fn changes(old: &Manifest, new: &Manifest, deltas: &[Delta]) -> Vec<Change> {
    let is_empty = |of: &Manifest, (place, slot): delta::At| {
        of.directories
            .get(place as usize)
            .and_then(|directory| directory.child(slot))
            .is_none_or(|child| of.directories[child as usize].entries.is_empty())
    };
    let kind = |delta: &Delta| match (delta.old, delta.new) {
        (None, None) => None,
        (None, Some(at)) => {
            (!new.at(at).is_directory() || is_empty(new, at)).then_some(ChangeKind::Added)
        }
        (Some(at), None) => {
            (!old.at(at).is_directory() || is_empty(old, at)).then_some(ChangeKind::Deleted)
        }
        (Some(a), Some(b)) => {
            let (a, b) = (old.at(a), new.at(b));
            Some(match (&a.kind, &b.kind) {
                // Links have no mode of their own.
                (Kind::Symlink { target: a, .. }, Kind::Symlink { target: b, .. }) if a == b => {
                    ChangeKind::Metadata
                }
                _ if a.same_content(b) && a.mode == b.mode => ChangeKind::Metadata,
                _ if a.same_content(b) => ChangeKind::Mode,
                (Kind::File { .. }, Kind::File { .. })
                | (Kind::Symlink { .. }, Kind::Symlink { .. }) => ChangeKind::Modified,
                _ => ChangeKind::Type,
            })
        }
    };
    deltas
        .iter()
        .filter_map(|delta| Some(Change { path: shown(&delta.path), kind: kind(delta)? }))
        .collect()
}

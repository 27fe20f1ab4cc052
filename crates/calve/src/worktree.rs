//! L4: worktrees, which are made from snapshots and can be captured as new snapshots.
//!
//! A worktree is a tree of a snapshot somewhere on disk. It has a marker inside (`.calve/worktree`,
//! which names the store and has the worktree's token), a row in the store, and an index. The
//! project itself is a worktree, too, but nobody started it and nobody can drop it.
//!
//! # Worktrees that are moved, copied or deleted by hand
//! The token in the marker says which worktree a folder is, whatever its path. If a worktree was
//! moved, calve finds it again when a command runs in it. If it was copied, the store knows only
//! the original. If it was deleted, calve shows it as missing, and it can be restored or dropped.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::named;
use crate::report::{SkipReason, Skipped};
use crate::store::catalog::{State, WorktreeRow};
use crate::store::delta::{self, Counts, Delta};
use crate::store::files::open_dir;
use crate::store::git::is_same;
use crate::store::history::of_project;
use crate::store::id::SnapshotId;
use crate::store::manifest::{At, Manifest};
use crate::store::marker::FoundMark;
use crate::store::object::Kind;
use crate::store::ownership::must_be_believed_root;
use crate::store::paths::living::{may_be_owned, owner_of};
use crate::store::paths::local::Tree;
pub use crate::store::registry::pruned::HeadAgain;
use crate::store::registry::{RowPlace, no_worktree};
use crate::store::scan::Near;
use crate::store::snapshot::{Known, local};
use crate::store::unnamed::name_pending;
use crate::store::{
    Discovered, MarkPlace, PROJECT, SnapshotOptions, SnapshotReport, Store, StoreOptions, bytes_of,
    path_from,
};
use crate::tree::running::Running;

mod adopted;
mod diff;
mod disk;
mod dropped;
mod fill;
mod git;
mod idle;
pub(crate) mod patch;
mod relocate;
mod remove;
mod repository;
mod reshare;
#[cfg(target_os = "linux")]
mod run;
mod scope;
mod shed;
mod start;
mod submodules;
pub(crate) mod switch;
mod update;

pub use adopted::GitWorktree;
pub use diff::{Diff, FileDiff};
pub use disk::{DiskUsage, FreedBytes, TreeUsage};
pub use dropped::KeptWorktree;
pub use fill::{FillOptions, FillPlan, FillReport, fill};
pub use git::{GitStatus, must_lose_no_work};
pub use idle::LastChange;
pub use relocate::{clone_with_own_paths, path_mentions, rewrite_paths};
pub use remove::{
    CheckedWorktree, ChosenWorktree, DropFilter, DropOptions, DroppedWorktree, FilteredWorktrees,
    LivingProcess, StayReason, StayingWorktree,
};
pub use reshare::{NotReshared, ReshareOptions, ReshareReport, reshare_folders};
pub use scope::ChangeScope;
pub use shed::{ShedFolder, ShedKind, ShedReport, Sheddable};
#[cfg(feature = "remote")]
pub use start::{CheckoutOptions, CheckoutReport};
pub use start::{
    FoundBranch, FoundBranches, GitMode, GitOutcome, LinkedWorktree, NoRepository, PathMode,
    StartBranch, StartOptions, StartReport, StartedWorktree,
};
pub use switch::{SwitchOptions, SwitchReport};
pub use update::{StayedPath, StayedReason, UpdateOptions, UpdateReport};

/// A worktree of a store, or the project itself.
///
/// Another process may use the worktree, or drop it, meanwhile. Then the methods here fail with
/// [`ErrorKind::WorktreeNotFound`], or with [`ErrorKind::WorktreeMissing`] if only its folder is
/// gone.
#[derive(Debug, Clone)]
pub struct Worktree {
    store: Store,
    row: WorktreeRow,
    path: PathBuf,
    registered_again: Option<HeadAgain>,
}

named! {
    /// Whether a worktree's folder is there, and whether calve works on it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum WorktreeState {
        /// The folder is there.
        Ready = "ready",
        /// Another process is making the folder.
        Starting = "starting",
        /// A switch is running, or was interrupted. The same switch, or a reset, completes it.
        Restoring = "restoring",
        /// Nothing is at the worktree's path, or something else.
        Missing = "missing",
    }
}

/// A path at which a worktree differs from its snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Change {
    /// The path from the worktree's root. The root itself is `.`.
    pub path: PathBuf,
    /// In which way the path differs.
    pub kind: ChangeKind,
}

named! {
    /// In which way a path differs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum ChangeKind {
        /// The path is not in the snapshot.
        Added = "added",
        /// The content differs. Mode, owner and attributes may differ, too.
        Modified = "modified",
        /// The path is gone.
        Deleted = "deleted",
        /// The path has another kind of entry.
        Type = "type",
        /// The mode differs, and the content is the same. Owner and attributes may differ, too.
        Mode = "mode",
        /// Only the owner, the group or the extended attributes (which include ACLs) differ.
        Metadata = "metadata",
    }
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
    /// The snapshot that the worktree was compared with.
    pub snapshot: SnapshotId,
    /// Every path that differs, sorted. A directory is listed only if it is empty, or if its mode,
    /// owner or attributes differ.
    pub changes: Vec<Change>,
    /// How many entries calve looked at.
    pub entries: u64,
    /// Directories in which calve may have missed some entries: [`SkipReason::Restless`].
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

impl Store {
    /// The worktrees, by name, without the project.
    ///
    /// # Errors
    /// The errors of every operation, see [`Store`]. Nothing is changed.
    pub fn worktrees(&self) -> Result<Vec<Worktree>, Error> {
        self.registry().recover()?;
        let rows = self.catalog().worktrees()?;
        let found = rows.into_iter().filter(|row| row.name != PROJECT).map(|row| self.follow(row));
        let is_forgotten = |error: &Error| error.kind() == ErrorKind::WorktreeNotFound;
        found.filter(|found| !found.as_ref().is_err_and(is_forgotten)).collect()
    }

    /// The worktree with the name `name`.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`]. Nothing is changed.
    pub fn worktree(&self, name: &str) -> Result<Worktree, Error> {
        self.registry().recover()?;
        match self.catalog().worktree(name)?.filter(|row| row.name != PROJECT) {
            Some(row) => self.follow(row),
            None => Err(no_worktree(name)),
        }
    }

    /// The worktree of a row. If its project or its store was moved, with the worktree or without
    /// it, everything that has the old path gets the new one.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if git removed it, and made another one in its place: then its
    /// row is gone.
    fn follow(&self, row: WorktreeRow) -> Result<Worktree, Error> {
        let mut row = self.adopted_whole(row)?;
        let registry = self.registry();
        let was = path_from(&row.path);
        let whereabouts = registry.follow_store(&mut row)?;
        if whereabouts == RowPlace::Taken && self.forget_replaced(&row)? {
            return Err(no_worktree(&row.name));
        }
        self.heal(&row)?;
        let registered_again = registry.mend_git(&row, &was);
        if whereabouts != RowPlace::Marked {
            registry.mend_marker(&row);
        }
        let path = path_from(&row.path);
        let worktree = Worktree { store: self.clone(), path, row, registered_again };
        if whereabouts == RowPlace::Moved {
            // Until all files name the new path, each command in the worktree tries again.
            let _ = worktree.follow_move();
        }
        Ok(worktree)
    }

    /// Gives a worktree again what a power cut took of calve's and git's files in it, and what was
    /// written in a run.
    fn heal(&self, row: &WorktreeRow) -> Result<(), Error> {
        let path = path_from(&row.path);
        if row.state == State::Starting {
            // `recover` does this when the start is given up.
            return Ok(());
        }
        self.registry().heal_git(row);
        self.registry().heal_mark(row).context(Operation::Mark, || &path)?;
        #[cfg(target_os = "linux")]
        run::lead_back_from_run(self, row)?;
        match relocate::heal_paths(self, row, &path) {
            // Its other verbs say so.
            Err(error)
                if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::SnapshotNotFound) =>
            {
                Ok(())
            }
            healed => healed,
        }
    }

    /// The project, as a worktree of its last snapshot. It has status, capture, switch and reset
    /// like any other worktree.
    ///
    /// # Errors
    /// The errors of every operation, see [`Store`]. Nothing is changed.
    pub fn project_worktree(&self) -> Result<Worktree, Error> {
        let row = self.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
        let path = self.project()?;
        Ok(Worktree { store: self.clone(), path, row, registered_again: None })
    }
}

impl Discovered {
    /// Whether the folder is in a worktree of the store. If not, it is in the project, or in a
    /// working tree of [git alone](Self::is_only_gits).
    #[must_use]
    pub fn is_worktree(&self) -> bool {
        self.token.is_some()
    }

    /// Whether the folder is in a working tree of the project's repository, or in that repository,
    /// of which the store knows nothing: git or another tool made it.
    #[must_use]
    pub fn is_only_gits(&self) -> bool {
        self.is_only_gits
    }

    /// The worktree that the folder is in, or the project. If the worktree was moved, the store
    /// knows its new path from now on.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if the store has forgotten the worktree; the errors of
    /// [`Store::adopt`] for one that git made ([`is_only_gits`](Self::is_only_gits)).
    /// [`ErrorKind::Overlap`] if this folder is a copy of a worktree that still exists.
    /// [`ErrorKind::StoreUntrusted`] if the worktree was moved, and this folder belongs to another
    /// user, or other users may write to it.
    pub fn worktree(&self) -> Result<Worktree, Error> {
        if self.is_only_gits {
            return self.store.adopt(&self.root);
        }
        let Some(token) = &self.token else { return self.store.project_worktree() };
        self.store.registry().recover()?;
        let rows = self.store.catalog().worktrees()?;
        let Some(row) = rows.into_iter().find(|row| row.token == *token) else {
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
        let mut row = self.store.adopted_whole(row)?;
        let path = path_from(&row.path);
        // A folder above may be a link now.
        let is_the_same = path != self.root && is_same(&path, &self.root);
        if path != self.root && !is_the_same {
            if self.store.registry().find_mark(&row)? {
                let cause = io::Error::other("this folder is a copy of that worktree");
                return Err(Error::new(
                    ErrorKind::Overlap,
                    Operation::UseWorktree,
                    &self.root,
                    cause,
                )
                .with_other(path));
            }
            let believed = self.store.registry().believed();
            must_be_believed_root(believed, &self.root, Operation::UseWorktree)?;
            row.path = bytes_of(&self.root);
            if !self.store.is_read_only() {
                self.store.registry().set_path(&row)?;
            }
        }
        self.store.heal(&row)?;
        let registered_again = self.store.registry().mend_git(&row, &path);
        let path = if is_the_same { path } else { self.root.clone() };
        let worktree = Worktree { store: self.store.clone(), row, path, registered_again };
        worktree.follow_move()?;
        Ok(worktree)
    }
}

impl Worktree {
    /// The name of the worktree. The project's name is a dot.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.row.name
    }

    /// The path at which the worktree is, or was.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The branch of git that the worktree was started on. It may be on another one by now. `None`
    /// if it was started on none.
    #[must_use]
    pub fn started_on(&self) -> Option<&str> {
        self.row.git.as_ref()?.branch.as_deref()
    }

    /// The commit of git that the worktree was started at. `None` as for
    /// [`started_on`](Self::started_on).
    #[must_use]
    pub fn started_at(&self) -> Option<&str> {
        Some(&self.row.git.as_ref()?.commit)
    }

    /// `Some` if git had pruned the worktree's registration, and calve registered it again when it
    /// was looked up, at the commit where calve had seen it last. What was staged is not known.
    #[must_use]
    pub fn registered_again(&self) -> Option<HeadAgain> {
        self.registered_again
    }

    /// The store of the worktree.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The base snapshot of the worktree. `None` for a project without snapshots, and for a
    /// worktree that was started without being read ([`StartOptions::name_later`]) as long as its
    /// contents have no names. [`Store::name_contents`] and every operation that needs the base
    /// snapshot name them.
    ///
    /// This is the base snapshot at the time when the worktree was looked up. It does not change
    /// here when this or another process captures or switches the worktree, but every operation
    /// uses the current one.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.row.snapshot
    }

    /// When the worktree was started.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        let seconds = u64::try_from(self.row.created).unwrap_or(0);
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The number of the worktree: a small one, from 1 on, that no other worktree of the store has.
    /// It is the lowest that was free at the start, and stays the same until the worktree is
    /// dropped. One that is brought back has the same number again, if that is free. The project
    /// has 0. `None` if the store does not say it.
    #[must_use]
    pub fn slot(&self) -> Option<u32> {
        if self.is_project() { Some(0) } else { self.row.slot }
    }

    /// Whether git or another tool made the worktree, and [`Store::adopt`] took it into the store.
    #[must_use]
    pub fn was_made_by_git(&self) -> bool {
        self.row.git.as_ref().is_some_and(|git| git.is_adopted)
    }

    /// Whether this is the project itself.
    #[must_use]
    pub fn is_project(&self) -> bool {
        self.row.name == PROJECT
    }

    /// The same worktree as the store knows it now. It may have been captured, switched or moved
    /// since it was looked up.
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
        let registered_again = self.registered_again;
        Ok(Self { store: self.store.clone(), row, path, registered_again })
    }

    /// The same worktree as the store knows it now, with its base snapshot. If the contents of the
    /// base have no names yet, this names them.
    fn named(&self, operation: &Running) -> Result<Self, Error> {
        let this = self.now()?;
        if this.row.snapshot.is_some() || this.row.state == State::Starting {
            return Ok(this);
        }
        if this.was_made_by_git() {
            this.make_first_base(operation)?;
            return self.now();
        }
        name_pending(&self.store, operation)?;
        let mut this = self.now()?;
        if this.row.snapshot.is_none() && !this.is_project() && !self.store.is_read_only() {
            // A crash lost the record of its base. Compare all its files with the project's
            // snapshot instead.
            let base = match self.store.catalog().latest()? {
                Some(id) => id,
                None => of_project(&self.store, &SnapshotOptions::new(), None, operation)?.0.id,
            };
            this.row.snapshot = Some(base);
            self.store.registry().set_state(&this.row)?;
        }
        Ok(this)
    }

    /// Calls `work` with the worktree as the store knows it now. If the worktree is dropped
    /// meanwhile, or its folder is removed, the error says so. It does not name the first file that
    /// was not found.
    ///
    /// # A drop that begins again
    /// A drop takes the folder away, looks at it once more, and brings it back if something changed
    /// ([`Worktree::drop`]). `work`, which only reads, may find nothing at the path in between. All
    /// of this is within one transaction of the drop, and the registry's recovery waits for that if
    /// the folder is away. So if the folder is there afterwards, `work` is called again: as often as
    /// a drop may begin again, because each time may meet one. What changes the tree excludes drops
    /// by a lock instead: see `alone`.
    fn as_now<T>(
        &self,
        operation: &Running,
        work: impl Fn(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let this = self.named(operation)?;
        let mut done = work(&this);
        for _ in 0..remove::ATTEMPTS {
            match &done {
                Err(error) if error.io_error().kind() == io::ErrorKind::NotFound => {}
                _ => break,
            }
            done = work(&this.there()?);
        }
        done.map_err(|error| this.gone_or(error))
    }

    /// The same worktree as the store knows it now. Fails if its folder is not there. If a drop has
    /// taken the folder away, this waits until it is gone or back.
    fn there(&self) -> Result<Self, Error> {
        let this = self.now()?;
        match this.must_be_there() {
            Ok(()) => return Ok(this),
            Err(error) if error.kind() != ErrorKind::WorktreeMissing => return Err(error),
            Err(_) => self.store.registry().recover()?,
        }
        let this = self.now()?;
        this.must_be_there()?;
        Ok(this)
    }

    /// The error of an operation in this worktree. If the worktree is gone, that is the error.
    fn gone_or(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::Io | ErrorKind::WorktreeMissing | ErrorKind::Changed)
        {
            return error;
        }
        match self.there() {
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
    }

    /// The state of the worktree now.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if it was dropped meanwhile. Other errors if its folder
    /// could not be read.
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
            State::Restoring => WorktreeState::Restoring,
        })
    }

    /// The store's folder for this tree.
    fn kept(&self) -> PathBuf {
        self.store.layout().tree(&self.row.token)
    }

    fn is_there(&self) -> Result<bool, Error> {
        let registry = self.store.registry();
        match registry.mark_at(&self.path) {
            Ok(Some(marker)) => Ok(marker.token == self.row.token && registry.is_meant_by(&marker)),
            Err(error) if error.kind() != ErrorKind::Damaged => Err(error),
            // A damaged mark says no more than a missing one.
            Ok(None) | Err(_) => Ok(registry.is_noted_root(&self.row, &self.path)),
        }
    }

    /// Fails if the folder is gone or is another one, or is not made yet.
    fn must_be_there(&self) -> Result<(), Error> {
        if self.is_project() || self.is_there()? {
            return Ok(());
        }
        if self.row.state == State::Starting {
            // The folder holds nothing of the user yet. If the machine stopped in the middle, the
            // folder may have no whole marker until calve gives up the row.
            let cause = io::Error::new(io::ErrorKind::WouldBlock, "its start is not finished");
            return Err(Error::new(ErrorKind::Busy, Operation::OpenWorktree, &self.path, cause));
        }
        let believed = self.store.registry().believed();
        let why = match FoundMark::at(&MarkPlace::of_worktree(&self.path)) {
            _ if std::fs::symlink_metadata(&self.path).is_err() => "its folder is gone",
            Ok(Some(seen)) if seen.why_not(believed).is_some() => {
                "the mark in its place belongs to another user"
            }
            Ok(Some(seen)) if seen.marker.token == self.row.token => {
                "it belongs to the store of which this one is a copy"
            }
            _ => "another folder is in its place",
        };
        let cause = io::Error::new(io::ErrorKind::NotFound, why);
        Err(Error::new(ErrorKind::WorktreeMissing, Operation::OpenWorktree, &self.path, cause))
    }

    /// Compares the worktree with its base snapshot, in kind, content, mode, owner and extended
    /// attributes. Times are no change. Metadata that could not be set when the worktree was made
    /// is no change either: a plain user cannot give files away.
    ///
    /// This takes one stat for each entry, and lists each directory once. It reads content only of
    /// files that have the same size as in the snapshot, and other times or another inode than in
    /// the index.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeMissing`]; [`ErrorKind::SnapshotNotFound`] for a project without a
    /// snapshot. Nothing is changed.
    pub fn status(&self, options: &StoreOptions) -> Result<WorktreeStatus, Error> {
        self.status_of(&ChangeScope::new(), options)
    }

    /// Like [`Worktree::status`], but only for a part of the worktree. calve looks at the whole
    /// worktree nevertheless.
    ///
    /// # Errors
    /// The same as for [`Worktree::status`]; [`ErrorKind::SourceNotFound`] for a path that leads
    /// out of the worktree, and for a path that neither the worktree nor its snapshot has.
    pub fn status_of(
        &self,
        scope: &ChangeScope,
        options: &StoreOptions,
    ) -> Result<WorktreeStatus, Error> {
        self.status_in(scope, &options.operation())
    }

    fn status_in(&self, scope: &ChangeScope, operation: &Running) -> Result<WorktreeStatus, Error> {
        let started = Instant::now();
        self.as_now(operation, |this| this.status_now(scope, started, operation))
    }

    fn status_now(
        &self,
        scope: &ChangeScope,
        started: Instant,
        operation: &Running,
    ) -> Result<WorktreeStatus, Error> {
        let mut judge = scope.at(&self.path, self.store.project().ok().as_deref())?;
        let (base, now, skipped) = self.compare(None, operation)?;
        judge.must_lead_somewhere(&base, now.as_ref().unwrap_or(&base))?;
        let entries = now.as_ref().unwrap_or(&base).count.into();
        let changes = match &now {
            Some(now) => {
                let deltas = delta::compare(&base, now, Counts::Changes);
                let deltas = self.without_own_servers(deltas)?;
                changes(&base, now, &judge.judged(&base, now, deltas)?)
            }
            None => Vec::new(),
        };
        let snapshot = self.based_on()?;
        Ok(WorktreeStatus { snapshot, changes, entries, skipped, elapsed: started.elapsed() })
    }

    /// The differences without files into which a process of this worktree wrote its number: a
    /// worktree's own server is no change of the worktree. A new file of this kind no scan has.
    fn without_own_servers(&self, mut deltas: Vec<Delta>) -> Result<Vec<Delta>, Error> {
        let may_be = |delta: &Delta| {
            let name = delta.path.file_name().filter(|_| delta.old.is_some());
            delta.new.is_some() && name.is_some_and(|name| may_be_owned(name.as_bytes()))
        };
        if deltas.iter().any(may_be) {
            let root = open_dir(&self.path)?;
            let tree = Tree { path: &self.path, root: &root };
            deltas.retain(|delta| !may_be(delta) || owner_of(tree, &delta.path).is_none());
        }
        Ok(deltas)
    }

    fn based_on(&self) -> Result<SnapshotId, Error> {
        self.row.snapshot.ok_or_else(|| {
            let cause = io::Error::new(io::ErrorKind::NotFound, "it has no snapshot yet");
            Error::new(ErrorKind::SnapshotNotFound, Operation::Compare, &self.path, cause)
        })
    }

    /// Returns the tree of the base snapshot, the tree as it is now (if the two differ), and the
    /// directories whose names kept changing. With `only`, nothing else is looked at, and the tree as
    /// it is now has nothing else.
    fn compare(
        &self,
        only: Option<Arc<Near>>,
        operation: &Running,
    ) -> Result<(Manifest, Option<Manifest>, Vec<Skipped>), Error> {
        self.must_be_there()?;
        self.based_on()?;
        let known = Known { only, ..self.known()? };
        let (mut scan, _) = known.scan(&self.store, None, operation)?;
        // No snapshot has sockets, and an entry that is gone shows as deleted.
        scan.skipped.retain(|skipped| skipped.reason == SkipReason::Restless);
        match known.base {
            Some((_, _, base)) => Ok((base, scan.manifest, scan.skipped)),
            None => Err(no_worktree(self.name())),
        }
    }

    fn known(&self) -> Result<Known, Error> {
        let known = Known::of(&self.store, self.row.clone())?;
        let local = local(&self.store, &self.row, &self.path);
        Ok(Known { root: self.path.clone(), local, ..known })
    }

    /// Takes a snapshot of the worktree as it is now. It is the worktree's base snapshot from now
    /// on. calve reads only the files that changed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], [`ErrorKind::WorktreeNotFound`], [`ErrorKind::WorktreeMissing`];
    /// the errors of every operation, see [`Store`]. No snapshot was made, as for
    /// [`Store::snapshot`].
    pub fn capture(
        &self,
        taking: &SnapshotOptions,
        options: &StoreOptions,
    ) -> Result<SnapshotReport, Error> {
        self.store.must_be_writable(Operation::TakeSnapshotWith)?;
        taking.check()?;
        let operation = options.operation();
        self.as_now(&operation, |this| {
            this.must_be_there()?;
            this.known()?.record(&this.store, taking, &operation).map(|(report, _)| report)
        })
    }
}

/// A path as reports show it: the root is a dot.
fn shown(path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() }
}

/// The changes that reports show. A directory is among them only if it is empty or its own metadata
/// differs.
fn changes(old: &Manifest, new: &Manifest, deltas: &[Delta]) -> Vec<Change> {
    let is_empty = |of: &Manifest, (place, slot): At| {
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
                // Symbolic links have no mode of their own.
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

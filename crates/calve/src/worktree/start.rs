//! Starting worktrees: one snapshot, N trees.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs;

use super::Worktree;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::ReflinkOutcome;
use crate::reflink::meta::{self, Meta};
use crate::reflink::sys;
use crate::report::{DestinationReport, Method};
use crate::store::catalog::{State, WorktreeRow};
use crate::store::id::SnapshotId;
use crate::store::index::{Boot, Index, Stat};
use crate::store::manifest::Manifest;
use crate::store::materialize::{Made, Plan, materialize};
use crate::store::object::SnapshotObject;
use crate::store::registry::{Claim, name_taken, no_worktree};
use crate::store::snapshot::check_name;
use crate::store::{
    PROJECT, SnapshotOptions, SnapshotReport, Store, StoreOptions, bytes_of, now, path_from, token,
};
use crate::tree::budget::{Budget, must_be_free};
use crate::tree::pool::cancelled;
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, stage_name};

mod dress;
mod git;
mod links;
mod loose;
mod vouched;

use dress::Dressing;
use git::GitPlan;
pub use git::{GitMode, GitOutcome, LinkedWorktree, NoRepository};
pub use links::StartBranch;

/// How many trees are made in one pass, since each takes descriptors; fewer where not so many files may be open.
const PASS_MOST: usize = 32;

/// What is opened beside the stages: locks, the database of a new snapshot, and what one tree takes at least.
const OPEN_BESIDE: usize = 16;

/// What worktrees are started from, and where; built by value.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    from: Option<SnapshotId>,
    at: Option<PathBuf>,
    git: GitMode,
    branch: StartBranch,
}

impl StartOptions {
    /// From the project as it stands, beside it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From this snapshot; the project is not looked at.
    #[must_use]
    pub fn from(mut self, snapshot: SnapshotId) -> Self {
        self.from = Some(snapshot);
        self
    }

    /// With this of the project's git repository. If the project has one, the worktrees are linked to it by default.
    #[must_use]
    pub fn git(mut self, git: GitMode) -> Self {
        self.git = git;
        self
    }

    /// With this as the `HEAD` of linked worktrees. By default each has a branch of its name, made at the commit of the project's `HEAD`.
    /// A branch that exists is taken if it is at that commit, and no other working tree has it checked out.
    #[must_use]
    pub fn branch(mut self, branch: StartBranch) -> Self {
        self.branch = branch;
        self
    }

    /// In this folder, each under its name. Otherwise in `PROJECT.worktrees` beside the project, or, where that would be on
    /// another filesystem or may not be made, in `.calve/worktrees`.
    #[must_use]
    pub fn at(mut self, folder: impl Into<PathBuf>) -> Self {
        self.at = Some(folder.into());
        self
    }
}

/// What [`Store::start`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartReport {
    /// What the trees are of.
    pub snapshot: SnapshotId,
    /// The snapshot that was taken first, where none was given.
    pub taken: Option<SnapshotReport>,
    /// Whether the store knows them. One that cannot be written to does not: they are folders like any other, without status,
    /// capture and switch.
    pub registered: bool,
    /// One entry for each name, in the order in which they were given.
    pub worktrees: Vec<StartedWorktree>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// A worktree that was started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartedWorktree {
    /// Its name.
    pub name: String,
    /// What was made, and how.
    pub report: DestinationReport,
    /// The size of all its files, in bytes; known also where nothing was counted.
    pub bytes: u64,
    /// The number of its files; known also where nothing was counted.
    pub files: u64,
    /// What it has of the project's git repository. That is no part of the counts above.
    pub git: GitOutcome,
    /// Why it is not a linked worktree, although [`GitMode::Best`] was asked for and the project has a repository.
    pub not_linked: Option<String>,
}

impl StartedWorktree {
    fn new(
        name: String,
        object: &SnapshotObject,
        (report, git): (DestinationReport, GitOutcome),
    ) -> Self {
        let (bytes, files) = (object.bytes, object.files);
        Self { name, report, bytes, files, git, not_linked: None }
    }
}

impl Store {
    /// Starts a worktree for each of `names`.
    ///
    /// All of them appear, or none, each where nothing is or an empty folder, which it replaces. Each is whole when it appears: content, modes, times and attributes are those of the
    /// snapshot, by reflink where the filesystem can, else by copy; the report says which. On btrfs, from the second start of a
    /// snapshot on, each is a snapshot of a subvolume that the first start made, in constant time.
    ///
    /// From a store that cannot be written to, trees can be made of a snapshot that is given ([`StartOptions::from`]), in a folder
    /// that is given ([`StartOptions::at`]). It cannot note them: see [`StartReport::registered`].
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeExists`], [`ErrorKind::DestinationExists`], [`ErrorKind::InvalidName`], [`ErrorKind::ReadOnly`];
    /// [`ErrorKind::Damaged`] where content of the snapshot is lost. No worktree was started, and nothing is left but the
    /// snapshot, where one was taken.
    pub fn start<N: AsRef<str>>(
        &self,
        names: &[N],
        options: &StartOptions,
        common: &StoreOptions,
    ) -> Result<StartReport, Error> {
        let started = std::time::Instant::now();
        let operation = common.operation();
        let loose = match (self.is_read_only() && !self.is_full(), options.from, &options.at) {
            (true, Some(id), Some(folder)) => Some((id, folder)),
            _ => None,
        };
        if loose.is_none() {
            self.must_be_writable(Operation::StartWorktreeOf)?;
        }
        let mut seen = HashSet::new();
        for name in names.iter().map(AsRef::as_ref) {
            check_name(name)?;
            if name == PROJECT || !seen.insert(name) {
                let cause = io::Error::new(io::ErrorKind::InvalidInput, "it was given twice");
                return Err(Error::new(ErrorKind::InvalidName, Operation::UseName, name, cause));
            }
        }
        must_be_free(names.len() + OPEN_BESIDE)
            .context(Operation::StartManyWorktrees, || self.path())?;
        let given: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        if let Some((id, folder)) = loose {
            let git = GitPlan::of(options.git, self)?;
            let object = self.object(id)?;
            let folder = self.folder(Some(folder))?;
            let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
            let trees = self.make_loose(id, &object, git, &names, &folder, &operation)?;
            let names = names.into_iter().map(str::to_owned);
            return Ok(StartReport {
                snapshot: id,
                taken: None,
                registered: false,
                worktrees: names
                    .zip(trees)
                    .map(|(name, tree)| StartedWorktree::new(name, &object, tree))
                    .collect(),
                elapsed: started.elapsed(),
            });
        }
        self.registry().recover()?;
        // Before the work of a snapshot; who comes first is decided when the names are claimed.
        for row in self.catalog().worktrees()? {
            if seen.contains(row.name.as_str()) {
                return Err(name_taken(&row.name, &row.path));
            }
        }
        let (mut git, not_linked) = GitPlan::for_new(options.git, &options.branch, &given, self)?;
        let taken = match options.from {
            Some(_) => None,
            None => Some(self.snapshot_in(&SnapshotOptions::new(), &operation)?),
        };
        let id = match (options.from, &taken) {
            (Some(id), _) => id,
            (None, Some(taken)) => taken.id,
            (None, None) => return Err(no_worktree(PROJECT)),
        };
        let object = self.object(id)?;
        let folder = self.folder(options.at.as_deref())?;
        let paths: Vec<PathBuf> = given.iter().map(|name| folder.join(name)).collect();
        let mut links = Vec::new();
        if let GitPlan::Link(planned) = &mut git {
            planned.must_be_free(&paths)?;
            planned.follow_head();
            links = planned.links.iter().map(|link| link.linked.clone()).collect();
        }
        let rows: Vec<WorktreeRow> = given
            .iter()
            .zip(&paths)
            .enumerate()
            .map(|(at, (name, path))| WorktreeRow {
                name: (*name).to_owned(),
                token: token(),
                path: bytes_of(path),
                snapshot: Some(id),
                state: State::Starting,
                target: None,
                maker: stage_name(),
                created: now().0,
                git: links.get(at).cloned(),
            })
            .collect();
        let claim = self.registry().claim(rows)?;
        let trees = self.make(id, &object, git, &operation, claim)?;
        let names = names.iter().map(|name| name.as_ref().to_owned());
        Ok(StartReport {
            snapshot: id,
            taken,
            registered: true,
            worktrees: names
                .zip(trees)
                .map(|(name, tree)| StartedWorktree {
                    not_linked: not_linked.clone(),
                    ..StartedWorktree::new(name, &object, tree)
                })
                .collect(),
            elapsed: started.elapsed(),
        })
    }

    /// The folder in which worktrees are made; it exists afterwards.
    fn folder(&self, at: Option<&Path>) -> Result<PathBuf, Error> {
        if let Some(at) = at {
            std::fs::create_dir_all(at).context(Operation::MakeFolder, || at)?;
            return std::fs::canonicalize(at).context(Operation::Open, || at);
        }
        let project = self.project()?;
        let beside = project.parent().zip(project.file_name()).map(|(parent, name)| {
            let mut name = name.to_owned();
            name.push(".worktrees");
            (parent.to_owned(), parent.join(name))
        });
        if let Some((parent, beside)) = beside
            && self.shares_with(if beside.is_dir() { &beside } else { &parent })?
        {
            match std::fs::create_dir_all(&beside) {
                Ok(()) => return Ok(beside),
                Err(error) if is_refused(&error) => {}
                Err(error) => return Err(error).context(Operation::MakeFolder, || &beside),
            }
        }
        let inside = self.layout().worktrees();
        std::fs::create_dir_all(&inside).context(Operation::MakeFolder, || &inside)?;
        Ok(inside)
    }

    /// Whether trees in `folder` can share what the store has, as far as that depends on where they are.
    fn shares_with(&self, folder: &Path) -> Result<bool, Error> {
        let ours = std::fs::metadata(self.path()).context(Operation::Read, || self.path())?;
        let look = || -> io::Result<bool> {
            // btrfs has a device number for each subvolume, and clones across them.
            if ours.dev() == std::fs::metadata(folder)?.dev() {
                return Ok(true);
            }
            let probe = crate::reflink::probe_between(self.layout().stage(), folder)?;
            Ok(probe.outcome == ReflinkOutcome::Cloned)
        };
        match look() {
            Err(error) if is_refused(&error) => Ok(false),
            result => result.context(Operation::LookAt, || folder),
        }
    }

    /// Makes the trees of rows that were claimed.
    fn make(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        git: GitPlan,
        operation: &Running,
        mut claim: Claim<'_>,
    ) -> Result<Vec<(DestinationReport, GitOutcome)>, Error> {
        // Until its rows are marked, too: whoever cannot see its maker would take that one for dead.
        let _guard = self.share()?;
        // From here on nobody collects what it needs: the rows speak of it. It may have been forgotten just before.
        self.object(id)?;
        let rows = claim.rows();
        let places = places(rows.iter().map(|row| path_from(&row.path)))?;
        let (mut stages, reports) = match self.by_template(id, object, rows, &places, operation)? {
            Some(made) => made,
            None => {
                operation.expect(object.files.saturating_mul(rows.len() as u64));
                self.by_mirrors(id, object, rows, &places, operation)?
            }
        };
        let dressing = Dressing { store: self, id, object, git, operation };
        let outcomes = dressing.dress(Some(rows), &stages, &places)?;
        publish_all(&mut stages, &places)?;
        // Before the rows say so: of a row that is not marked, whoever comes next does this, too.
        let registry = self.registry();
        let unlocked = claim.rows().iter().try_for_each(|row| {
            registry.stands(row).context(Operation::Unlock, || path_from(&row.path))
        });
        if let Err(error) = unlocked.and_then(|()| claim.finish()) {
            unpublish_all(&mut stages, &places);
            claim.rows().iter().for_each(|row| registry.unregister(row));
            return Err(error);
        }
        Ok(reports.into_iter().zip(outcomes).collect())
    }

    /// Clones every file from its mirror.
    fn by_mirrors(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        rows: &[WorktreeRow],
        places: &[Place],
        operation: &Running,
    ) -> Result<Staged, Error> {
        let manifest = self.catalog().manifest(id, object)?;
        let stages = places.iter().map(Place::stage).collect::<Result<Vec<_>, _>>()?;
        let made = self.fill(&manifest, &stages, places, operation)?;
        // The index says of each file what it holds, which must not be on the disk before that is: what was copied is flushed.
        if !made.unsealed.is_empty() || made.reports.iter().any(|report| report.copied_files > 0) {
            self.flush(&made.unsealed)?;
        }
        let (boot, stamp) = (Boot::this(), self.clock_past_all(made.stats.iter().flatten())?);
        for (row, stats) in rows.iter().zip(made.stats) {
            let index = Index { snapshot: id, boot, stamp, stats };
            self.registry().write_index(&row.token, &index, &manifest)?;
        }
        Ok((stages, made.reports))
    }

    /// Makes a snapshot's tree in each of `stages`, in passes of as many as may be open at once.
    fn fill(
        &self,
        manifest: &Manifest,
        stages: &[Stage],
        places: &[Place],
        operation: &Running,
    ) -> Result<Made, Error> {
        let pass = Budget::destinations(operation.jobs(), PASS_MOST);
        let mut all = Made { reports: Vec::new(), stats: Vec::new(), unsealed: Vec::new() };
        for (stages, places) in stages.chunks(pass).zip(places.chunks(pass)) {
            let paths: Vec<PathBuf> = places.iter().map(|place| place.path.clone()).collect();
            let mut roots = Vec::with_capacity(stages.len());
            for (stage, path) in stages.iter().zip(&paths) {
                roots.push(stage.dir().try_clone().context(Operation::Stage, || path)?);
            }
            let plan = Plan { store: self, manifest, paths: &paths, operation };
            let made = materialize(&plan, roots)?;
            all.reports.extend(made.reports);
            all.unsealed.extend(made.unsealed);
            all.stats.extend(made.stats);
        }
        Ok(all)
    }

    /// A time of the clock that is later than every change in `stats`, so that they can be trusted.
    pub(crate) fn clock_past_all<'s>(
        &self,
        stats: impl Iterator<Item = &'s Stat>,
    ) -> Result<(i64, u32), Error> {
        self.clock_past(stats.map(|stat| stat.changed).max().unwrap_or_default())
    }

    /// Takes a snapshot, for each worktree, of the subvolume that has the tree. `None`: there is none, or not for this place.
    fn by_template(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        rows: &[WorktreeRow],
        places: &[Place],
        operation: &Running,
    ) -> Result<Option<Staged>, Error> {
        let Some(template) = self.template(id, object, operation)? else { return Ok(None) };
        let files = object.files.saturating_mul(rows.len() as u64);
        operation.expect(files);
        let mut stages = Vec::with_capacity(rows.len());
        let mut reports = Vec::with_capacity(rows.len());
        for (row, place) in rows.iter().zip(places) {
            if operation.is_cancelled() {
                return Err(cancelled(Operation::StartWorktree, &place.path));
            }
            let stage = Stage::new(Arc::clone(&place.dir), &place.parent, |dir, name| {
                sys::snapshot(&template, dir, name)
            });
            // Another filesystem, or no right to: the mirrors will do.
            let Ok(stage) = stage else { return Ok(None) };
            // Somebody may have begun to remove it, or to write to it, since its seal was looked at.
            let still = self.sealed_template(id).and_then(|now| fs::fstat(now).ok());
            if still.map(|now| Meta::of(&now).id())
                != fs::fstat(&template).ok().map(|was| Meta::of(&was).id())
            {
                return Ok(None);
            }
            #[cfg(calve_check)]
            crate::check::template(self, id, object, stage.dir());
            self.registry().link_index(&row.token, id).context(Operation::Mark, || &place.path)?;
            stages.push(stage);
            reports.push(DestinationReport {
                path: place.path.clone(),
                method: Method::Snapshot,
                ..DestinationReport::default()
            });
        }
        operation.files_done(files);
        Ok(Some((stages, reports)))
    }
}

impl Worktree {
    /// Makes the tree of a worktree that was deleted by hand again, as its snapshot has it, and with `git` of the project's repository. A linked
    /// worktree is linked again by [`GitMode::Best`]: to the branch or the commit that it was at, if git still knows it, else to the branch that it was
    /// started on, if no other working tree has that checked out, else to the commit that it was started at. Commits that were made in a
    /// repository of its own do not come back: no snapshot has a repository.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationExists`] where something other than an empty folder is at its path; [`ErrorKind::Busy`] where another process is making it;
    /// [`ErrorKind::Damaged`] where content of its snapshot is lost. Nothing is left behind, and it is missing as before.
    pub fn restore(&self, git: GitMode, options: &StoreOptions) -> Result<StartedWorktree, Error> {
        self.store.must_be_writable(Operation::RestoreWorktreeOf)?;
        let this = self.now()?;
        if this.row.state == State::Starting {
            // Whoever is second there gives the row up.
            let cause = io::Error::new(io::ErrorKind::WouldBlock, "another process is making it");
            return Err(Error::new(ErrorKind::Busy, Operation::RestoreWorktree, &this.path, cause));
        }
        let id = this.based_on()?;
        let object = this.store.object(id)?;
        let (parent, _) = crate::store::parent_of(&this.path)?;
        std::fs::create_dir_all(&parent).context(Operation::MakeFolder, || &parent)?;
        let name = this.row.name.clone();
        let git = GitPlan::for_again(git, &this.row, &self.store)?;
        let claim = self.store.registry().claim_again(this.row);
        let mut trees = self.store.make(id, &object, git, &options.operation(), claim)?;
        let tree = trees.pop().ok_or_else(|| no_worktree(&name))?;
        Ok(StartedWorktree::new(name, &object, tree))
    }
}

/// The trees that were made, one for each worktree, and how.
type Staged = (Vec<Stage>, Vec<DestinationReport>);

/// Whether a folder is not ours to make, or to make anything in. Any other error is no reason to go elsewhere.
fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | AlreadyExists | NotADirectory)
}

/// Where a worktree shall be.
pub(crate) struct Place {
    path: PathBuf,
    parent: PathBuf,
    /// One descriptor for all places in a folder.
    dir: Arc<OwnedFd>,
    name: CString,
    /// The mode of the empty directory that is there, and is to be replaced.
    empty: Option<fs::Mode>,
}

impl Place {
    /// An empty stage beside it.
    fn stage(&self) -> Result<Stage, Error> {
        Stage::empty(Arc::clone(&self.dir), &self.parent).context(Operation::Stage, || &self.path)
    }
}

/// Opens the folders of places. Nothing may be at any of these yet but an empty directory.
fn places(paths: impl Iterator<Item = PathBuf>) -> Result<Vec<Place>, Error> {
    let mut places: Vec<Place> = Vec::new();
    for path in paths {
        let (parent, name) = crate::store::parent_of(&path)?;
        let mut empty = None;
        if let Ok(found) = std::fs::symlink_metadata(&path) {
            let is_empty = |folder: &Path| {
                std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
            };
            if found.is_dir() && is_empty(&path) {
                empty = Some(meta::mode(found.mode() & 0o7777));
            }
        }
        if empty.is_none() && std::fs::symlink_metadata(&path).is_ok() {
            let cause =
                io::Error::new(io::ErrorKind::AlreadyExists, "something exists there already");
            return Err(Error::new(
                ErrorKind::DestinationExists,
                Operation::StartWorktree,
                path,
                cause,
            ));
        }
        let dir = match places.last() {
            Some(last) if last.parent == parent => Arc::clone(&last.dir),
            _ => {
                let dir = super::open_dir(&parent)?;
                staging::sweep(&dir);
                Arc::new(dir)
            }
        };
        let name = CString::new(name.as_encoded_bytes())
            .map_err(|error| Error::io(Operation::StartWorktree, &path, io::Error::other(error)))?;
        places.push(Place { path, parent, dir, name, empty });
    }
    Ok(places)
}

/// Gives all trees their names, or none.
fn publish_all(stages: &mut [Stage], places: &[Place]) -> Result<(), Error> {
    for (done, place) in places.iter().enumerate() {
        let published = match place.empty {
            Some(_) => stages[done].publish_over_empty(&place.name),
            None => stages[done].publish(&place.name),
        };
        if let Err(error) = published {
            unpublish_all(&mut stages[..done], places);
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            return Err(if exists {
                Error::new(
                    ErrorKind::DestinationExists,
                    Operation::StartWorktree,
                    &place.path,
                    error,
                )
            } else {
                Error::io(Operation::StartWorktree, &place.path, error)
            });
        }
    }
    Ok(())
}

fn unpublish_all(stages: &mut [Stage], places: &[Place]) {
    for (stage, place) in stages.iter_mut().zip(places) {
        stage.unpublish(&place.name);
        if let Some(mode) = place.empty {
            // Where a tree still stands this fails.
            let _ = fs::mkdirat(&place.dir, &place.name, mode);
        }
    }
}

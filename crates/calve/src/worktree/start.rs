//! Starts worktrees: makes one or more trees of one snapshot.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Worktree;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::sys;
use crate::report::DestinationReport;
use crate::store::catalog::{Linked, State, WorktreeRow};
use crate::store::id::SnapshotId;
use crate::store::paths::found::PathMention;
use crate::store::ready::{Arrived, SnapshotTree, TreePlace, places, publish_all, unpublish_all};
use crate::store::registry::{Claim, name_taken, no_worktree};
use crate::store::snapshot::{check_name, modules};
use crate::store::{
    PROJECT, Secret, SnapshotReport, Store, StoreOptions, bytes_of, now, path_from, token,
};
use crate::tree::Reflink;
use crate::tree::budget::must_be_free;
use crate::tree::running::Running;
use crate::tree::staging::stage_name;

mod arrive;
pub(super) mod base;
mod basis;
mod branches;
#[cfg(feature = "remote")]
mod checkout;
mod dress;
mod durable;
mod folder;
mod git;
mod later;
mod links;
mod loose;
mod plan;

use basis::{Basis, ReadAhead};
pub use branches::{FoundBranch, FoundBranches};
#[cfg(feature = "remote")]
pub use checkout::{CheckoutOptions, CheckoutReport};
use dress::{Dressed, Dressing, Origin, Outfit};
use folder::{must_share, worktrees_folder};
pub use git::{GitMode, GitOutcome, LinkedWorktree, NoRepository};
use git::{GitPlan, not_brought, other_settings};
use later::publish_unnamed;
pub use links::StartBranch;
use links::{NewLinks, WantedLinks};
use loose::start_loose;
use plan::{StartFacts, StartPlan};

/// How many files are open beside the stages: locks, the database of a new snapshot, and the least
/// that one tree needs.
const OPEN_BESIDE: usize = 16;

/// How often a tree is looked at because its `HEAD` moved meanwhile.
const LOOKS_MOST: usize = 5;

/// The note of a start whose `HEAD` moved during each look.
const HEAD_MOVED: &str = "HEAD moved each time that the files were read: git shows what was committed \
     meanwhile as changes in the new worktree";

/// From which snapshot worktrees are started, and in which folder; built by value.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    from: Option<SnapshotId>,
    at: Option<PathBuf>,
    git: GitMode,
    branch: StartBranch,
    base: Option<String>,
    found_branches: Option<FoundBranches>,
    fork: Option<String>,
    paths: PathMode,
    reflink: Reflink,
    name_later: Option<u64>,
    leave_secrets: Option<LeaveSecrets>,
}

/// Says of some files whether they stay at home.
type LeavesFiles = dyn Fn(&[Secret]) -> bool + Send + Sync;

/// See [`StartOptions::leave_secrets`].
#[derive(Clone)]
pub(super) struct LeaveSecrets(pub(super) Arc<LeavesFiles>);

impl std::fmt::Debug for LeaveSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaveSecrets")
    }
}

/// What becomes of files that name the project's root by its absolute path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum PathMode {
    /// Each worktree gets them with its own path, where calve knows the format: Python
    /// environments, and absolute symbolic links. git's files stay as they are.
    #[default]
    Own,
    /// All files stay as they are.
    Keep,
}

setters! { StartOptions:
    /// Starts from the project as it is now, in the default folder: see [`StartOptions::at`].
    pub fn new(),
    /// Starts linked worktrees at this commit, which may have any name that git knows: a branch, a
    /// tag, an id, `HEAD~3`.
    ///
    /// Files that git tracks are as the commit has them. Files that git ignores in the project
    /// (dependencies, build output) come along as they stand. Work that is not committed does not:
    /// neither changes, nor what is staged, nor untracked files that are not ignored. Files that
    /// are the same in the project keep its blocks and its modification times. All other files are
    /// newer than what the project had built, so that builds notice them.
    ///
    /// The base snapshot of the worktrees is a new snapshot of this tree, and the project's
    /// snapshot is its parent. If the commit is that of an existing branch, the branch can be used
    /// as in [`StartOptions::branch`]. No upstream is set. [`StartOptions::from`] and this exclude
    /// each other.
    pub base: impl Into<String> = Some(base.into()),
    /// Starts from this worktree as it is now, with its uncommitted work, instead of the project.
    /// calve takes a snapshot of it first. The worktree keeps its own base snapshot.
    ///
    /// Linked worktrees begin at the commit of its `HEAD`, and their index is a copy of its index,
    /// so `git status` says the same in both. If the worktree has a copy of the repository, its
    /// forks have copies of that copy. This, [`StartOptions::from`] and [`StartOptions::base`]
    /// exclude each other, and the contents are read first.
    pub fork: impl Into<String> = Some(fork.into()),
    /// Makes the worktrees in this folder, each under its name. The default is `PROJECT.worktrees`
    /// beside the project. If that folder would be on another filesystem than the store or may not
    /// be made, the default is a folder beside the store (`NAME.worktrees` for a store
    /// `NAME.calve`), or `.calve/worktrees` if the store is inside the project or its repository.
    pub at: impl Into<PathBuf> = Some(at.into()),
    /// Lets a start that would have to read at least this many bytes publish the worktrees
    /// before any content is read, in the time of a clone: the first start of a project, or one
    /// after much changed. By default the contents are read first.
    ///
    /// Such worktrees have no base snapshot ([`StartReport::snapshot`]) until their contents are
    /// named. [`Store::name_contents`] does that, and so does every operation that needs the base;
    /// the library starts no process of its own. The base is what was cloned, whatever happens to
    /// the project and the worktrees meanwhile; but a file that is changed in the project *and* in
    /// every one of the worktrees before its content is read has no base any more. Then the
    /// project's file is the base, or nothing, and the worktrees show a change. No tree loses
    /// anything.
    ///
    /// calve reads first all the same if that is needed for the same result: for a project with
    /// worktrees inside it, files that must be rewritten in each worktree (Python environments),
    /// databases in use, or `.calveignore`; with [`StartOptions::leave_secrets`] if there are
    /// secrets; where not every file can be reflinked; with
    /// [`StartOptions::from`] and [`StartOptions::base`]; and if names come or go in the project
    /// meanwhile. Files that name the project's root in another way are not in
    /// [`StartedWorktree::mentions`] then.
    pub name_later: u64 = Some(name_later),
    /// What [`Store::find_branches`] said of the branches of the worktrees a moment ago. If it found
    /// none of them, the start does not ask git for them again. A branch that appeared since lets
    /// the start fail.
    pub found_branches: FoundBranches = Some(found_branches),
    /// Leaves out the files that look like secrets and that git does not track, if this says so.
    /// calve asks it once, before it makes anything, and only if there are such files. They are
    /// left out of the base snapshot of the worktrees, too: it is a snapshot whose parent is that
    /// of the project. By default the files come along, see [`StartReport::secrets`].
    pub leave_secrets: impl Fn(&[Secret]) -> bool + Send + Sync + 'static =
        Some(LeaveSecrets(Arc::new(leave_secrets))),
    /// Starts from this snapshot. calve does not look at the project then.
    pub from: SnapshotId = Some(from),
    /// What the worktrees get of the project's git repository. By default they are linked to the
    /// repository, if the project has one.
    pub git: GitMode,
    /// The `HEAD` of linked worktrees. By default each worktree has a branch of its own name, made
    /// at the commit of the project's `HEAD`. An existing branch is used if it is at that commit
    /// and no other working tree has it checked out.
    pub branch: StartBranch,
    /// What becomes of files that name the project's root. By default each worktree gets them with
    /// its own path.
    pub paths: PathMode,
    /// Whether copies are allowed. With [`Reflink::Always`] calve tries a clone from the project
    /// into the store, and from the store into the folder of the worktrees. If one of them is
    /// refused, [`Store::start`] fails with [`ErrorKind::ReflinkRefused`] before it makes anything.
    /// A single file that the system refuses later is copied, and the report counts it.
    /// [`Reflink::Never`] means the same as [`Reflink::Auto`].
    pub reflink: Reflink,
}

/// What [`Store::start`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartReport {
    /// The snapshot that the worktrees were made from. `None` if their contents are named later
    /// ([`StartOptions::name_later`]).
    pub snapshot: Option<SnapshotId>,
    /// The snapshot that was taken first, if none was given and the contents are not named later.
    pub taken: Option<SnapshotReport>,
    /// Whether the store knows the worktrees. A store that cannot be written to does not. Then they
    /// are folders like any other, without status, capture and switch.
    pub registered: bool,
    /// How many files of the commit were not in the project as the commit has them, so that git
    /// wrote them. `None` without [`StartOptions::base`].
    pub written_files: Option<u64>,
    /// The files that look like secrets and came along, sorted by path. git did not track them when
    /// the snapshot was taken.
    pub secrets: Vec<Secret>,
    /// The files that were left out, sorted by path: see [`StartOptions::leave_secrets`].
    pub left_secrets: Vec<Secret>,
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
    /// Its number: see [`Worktree::slot`]. `None` if the store does not know the worktree, because
    /// the store cannot be written to.
    pub slot: Option<u32>,
    /// How the files were made, and how many.
    pub report: DestinationReport,
    /// The size of all its files, in bytes. It is known even if calve counted nothing.
    pub bytes: u64,
    /// The number of its files. It is known even if calve counted nothing.
    pub files: u64,
    /// What the worktree has of the project's git repository. The counts above do not include the
    /// repository.
    pub git: GitOutcome,
    /// Why the worktree is not a linked worktree, although [`GitMode::Best`] was asked for and the
    /// project has a repository.
    pub not_linked: Option<String>,
    /// What the user should know about the repository: a state of the project's that did not come
    /// along, or settings that git has in the project and not in a copy.
    pub git_notes: Vec<String>,
    /// The files that name the project's root by its absolute path, sorted by path. If
    /// [`PathMention::kept`] is `None`, the worktree has the file with its own path.
    pub mentions: Vec<PathMention>,
}

impl StartedWorktree {
    fn new(
        name: String,
        (files, bytes): (u64, u64),
        (report, (git, mentions)): (DestinationReport, Dressed),
    ) -> Self {
        Self {
            name,
            slot: None,
            report,
            bytes,
            files,
            git,
            not_linked: None,
            git_notes: Vec::new(),
            mentions,
        }
    }
}

impl Store {
    /// Starts a worktree for each of `names`.
    ///
    /// Either all worktrees appear, or none. At each path there must be nothing, or an empty
    /// folder, which the worktree replaces. A worktree is complete when it appears: content, modes,
    /// times and attributes are those of the snapshot. calve reflinks the files if the filesystem
    /// can, and otherwise copies them; the report says which. On btrfs, the first start of a
    /// snapshot makes a subvolume, or brings a copy of the subvolume of a similar snapshot to this
    /// one. From the second start on, each worktree is a snapshot of that subvolume, which takes
    /// constant time.
    ///
    /// A store that cannot be written to can make trees too, of a given snapshot
    /// ([`StartOptions::from`]) in a given folder ([`StartOptions::at`]). It cannot register them:
    /// see [`StartReport::registered`].
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeExists`], [`ErrorKind::DestinationExists`], [`ErrorKind::InvalidName`],
    /// [`ErrorKind::ReadOnly`]; [`ErrorKind::Damaged`] if content of the snapshot is lost. Then no
    /// worktree was started, and nothing is left but the snapshot, if one was taken.
    pub fn start<N: AsRef<str>>(
        &self,
        names: &[N],
        options: &StartOptions,
        common: &StoreOptions,
    ) -> Result<StartReport, Error> {
        let started = std::time::Instant::now();
        let operation = common.operation();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let plan = StartPlan::of(options, self.facts(options)?)?;
        if !matches!(plan, StartPlan::Loose(..)) {
            self.must_be_writable(Operation::StartWorktreeOf)?;
        }
        check_names(&names)?;
        must_be_free(names.len() + OPEN_BESIDE)
            .context(Operation::StartManyWorktrees, || self.path())?;
        let report = match plan {
            StartPlan::Loose(id, folder) => {
                start_loose(self, (id, folder), &names, options, &operation)?
            }
            plan => start_registered(self, plan, &names, options, &operation)?,
        };
        Ok(StartReport { elapsed: started.elapsed(), ..report })
    }

    /// What a start is planned by. Only a start whose contents may be named later looks at the
    /// project.
    fn facts(&self, options: &StartOptions) -> Result<StartFacts, Error> {
        let is_read_only = self.is_read_only() && !self.is_full();
        if options.name_later.is_none() || is_read_only {
            return Ok(StartFacts { is_read_only, ..StartFacts::default() });
        }
        let row = self.catalog().worktree(PROJECT)?;
        let filesystem = sys::filesystem_name(&self.project()?);
        Ok(StartFacts {
            is_read_only,
            has_snapshot: row.is_some_and(|row| row.snapshot.is_some()),
            can_clone: later::can_clone(filesystem.as_deref()),
        })
    }
}

/// Makes the trees of the claimed rows. The caller shares the store.
fn make(
    store: &Store,
    mut tree: SnapshotTree<'_>,
    how: Outfit<'_>,
    operation: &Running,
    claim: Claim<'_>,
) -> Result<Vec<StartedTree>, Error> {
    // From here on garbage collection keeps what the rows need, because they name the snapshot.
    // But the snapshot may have been forgotten just before.
    store.catalog().object(tree.id)?;
    let roots = claim.rows().iter().map(|row| path_from(&row.path));
    let places = places(roots, Operation::StartWorktree)?;
    let rows = claim.rows();
    // git works while the trees arrive. If the start fails, the claim removes what git made.
    let (arrived, registered) = std::thread::scope(|scope| {
        let register = |links: &NewLinks| links.register(store, rows, operation);
        let spawn =
            |links| std::thread::Builder::new().spawn_scoped(scope, move || register(links)).ok();
        let registering = how.git.links().and_then(spawn);
        let arrived = arrive::arrive(store, &mut tree, rows, &places, operation);
        (arrived, registering.and_then(|it| it.join().ok()).transpose())
    });
    let (arrived, registered) = (arrived?, registered?);
    let origin = Origin::Snapshot(tree.id, tree.object);
    let dressing = Dressing { store, origin, known: tree.known(), how, operation, registered };
    dress_and_publish(store, &dressing, arrived, &places, claim)
}

/// Makes trees that have arrived the worktrees of the claimed rows.
fn dress_and_publish(
    store: &Store,
    dressing: &Dressing<'_>,
    mut arrived: Vec<Arrived>,
    places: &[TreePlace],
    mut claim: Claim<'_>,
) -> Result<Vec<StartedTree>, Error> {
    let outcomes = dressing.dress(Some(claim.rows()), &arrived, places)?;
    let repository = dressing.how.git.repository();
    dressing.prepare_seals(&arrived, &outcomes);
    durable::flush(store.path(), repository, claim.rows(), &arrived, &outcomes)
        .context(Operation::Flush, || &places[0].path)?;
    dressing.seal(claim.rows(), &arrived, &outcomes);
    publish_all(&mut arrived, places)?;
    // All are in one folder.
    let flushed = arrived[0].stage.sync_parent().context(Operation::Flush, || &places[0].path);
    // We unlock before the rows are marked as ready. If the process dies in between, recovery
    // finds the unmarked rows and unlocks their registrations, too.
    let registry = store.registry();
    let unlock = || claim.rows().iter().try_for_each(|row| registry.stands(row));
    if let Err(error) = flushed.and_then(|()| unlock()).and_then(|()| claim.finish()) {
        unpublish_all(&mut arrived, places);
        // The start says why it failed. git prunes the registration of a tree that is gone.
        claim.rows().iter().for_each(|row| drop(registry.unregister(row)));
        return Err(error);
    }
    Ok(started(arrived, outcomes))
}

/// Starts worktrees that the store knows.
fn start_registered(
    store: &Store,
    plan: StartPlan<'_>,
    names: &[&str],
    options: &StartOptions,
    operation: &Running,
) -> Result<StartReport, Error> {
    if options.reflink == Reflink::Always {
        must_share(store, options)?;
    }
    store.registry().recover()?;
    // We check the names before the work of a snapshot. If two processes start the same name,
    // the claim below decides which one gets it.
    must_be_free_names(store, names)?;
    let source = match plan {
        StartPlan::Fork(name) => Some(store.worktree(name)?.forkable()?),
        _ => None,
    };
    let (planned, ahead) = git_planned(store, plan, source.as_ref(), names, options);
    let (mut git, not_linked) = planned?;
    let folder = || worktrees_folder(store, options.at.as_deref());
    let may_clone = |found: &[Secret]| found.is_empty() || options.leave_secrets.is_none();
    let places = || places_in(&folder()?, names);
    let (mut basis, mut head_moved) =
        Basis::at_head(store, &mut git, plan, ahead, (places, may_clone), operation)?;
    let root = source.as_ref().map_or_else(|| store.project(), |it| Ok(it.path.clone()))?;
    let mut left_secrets = basis.secrets_to_leave(store, options, &root)?;
    let written_files = basis.change(store, &mut git, plan, &left_secrets, operation)?;
    // Nothing has the snapshot of a base as its own before the rows are there. We hold the lock
    // until the rows are marked, too: a process that cannot see the maker would take it for
    // dead.
    let _guard = store.share()?;
    let object = basis.id.map(|id| store.catalog().object(id)).transpose()?;
    let paths = basis.paths(folder, names)?;
    let (linked, mut notes) = prepare_links(&mut git, plan, &paths)?;
    let claim = store.registry().claim(new_rows(names, &paths, basis.id, &linked))?;
    let slots: Vec<Option<u32>> = claim.rows().iter().map(|row| row.slot).collect();
    // The repository is copied after the files.
    let copied = git.copied();
    let mut secrets = basis.secrets(store)?;
    if let GitPlan::Link(links) = &git
        && let Some(base) = &links.base
    {
        // What the commit tracks is git's, and no file of the project.
        secrets.retain(|secret| !base.tracks(&secret.path));
        left_secrets.retain(|secret| !base.tracks(&secret.path));
    }
    let how = Outfit { git, paths: options.paths, source: source.as_ref() };
    let (files, trees) = match (basis.cloned, basis.id, &object) {
        (Some((cloned, places)), ..) => {
            (cloned.files(), publish_unnamed(store, cloned, &places, how, operation, claim)?)
        }
        (None, Some(id), Some(object)) => {
            let tree = SnapshotTree::new(store, (id, object), basis.manifest);
            ((object.files, object.bytes), make(store, tree, how, operation, claim)?)
        }
        _ => return Err(no_worktree(PROJECT)),
    };
    if let (Some(path), Some(copied)) = (paths.first(), &copied) {
        notes = other_settings(&root, path);
        head_moved |= plan.looks() && copied.moved()?.is_some();
    }
    notes.extend(head_moved.then(|| HEAD_MOVED.to_owned()));
    let worktree = |((name, tree), slot): ((&&str, StartedTree), _)| StartedWorktree {
        not_linked: not_linked.clone(),
        git_notes: notes.clone(),
        slot,
        ..StartedWorktree::new((*name).to_owned(), files, tree)
    };
    Ok(StartReport {
        snapshot: basis.id,
        taken: basis.taken,
        registered: true,
        written_files,
        secrets,
        left_secrets,
        worktrees: names.iter().zip(trees).zip(slots).map(worktree).collect(),
        elapsed: Duration::ZERO,
    })
}

impl Worktree {
    /// The same worktree, if it can be forked.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeMissing`]; [`ErrorKind::Git`] if it has repositories of submodules: a
    /// fork would have those of the project, which lack the worktree's commits.
    fn forkable(self) -> Result<Self, Error> {
        self.must_be_there()?;
        let modules = modules(&self.store, &self.row, &self.path);
        if modules.is_some_and(|modules| modules.are_in_use()) {
            let cause = io::Error::other(
                "it has repositories of submodules, which calve brings from the project only",
            );
            return Err(Error::new(ErrorKind::Git, Operation::ForkWorktree, &self.path, cause));
        }
        Ok(self)
    }

    /// Makes the tree of a worktree that was deleted by hand again, from its base snapshot, and
    /// with `git` of the project's repository.
    ///
    /// [`GitMode::Best`] links a linked worktree again. If git still knows the worktree, its `HEAD`
    /// is at the same branch or commit as before. Otherwise it is at the commit where calve saw it
    /// last: on its branch, if that is there and no other working tree has it checked out. Commits
    /// that were made in a worktree's own repository do not come back: no snapshot has a repository.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationExists`] if something other than an empty folder is at its path.
    /// [`ErrorKind::Busy`] if another process is making it. [`ErrorKind::Damaged`] if content of
    /// its snapshot is lost. Then nothing is left behind, and the worktree is missing as before.
    pub fn restore(&self, git: GitMode, options: &StoreOptions) -> Result<StartedWorktree, Error> {
        self.store.must_be_writable(Operation::RestoreWorktreeOf)?;
        let this = self.named(&options.operation())?;
        if this.row.state == State::Starting {
            // If two processes made the tree, the slower one would give the row up.
            let cause = io::Error::new(io::ErrorKind::WouldBlock, "another process is making it");
            return Err(Error::new(ErrorKind::Busy, Operation::RestoreWorktree, &this.path, cause));
        }
        let id = this.based_on()?;
        let object = this.store.catalog().object(id)?;
        let (parent, _) = crate::store::parent_of(&this.path)?;
        std::fs::create_dir_all(&parent).context(Operation::MakeFolder, || &parent)?;
        let name = this.row.name.clone();
        let git = GitPlan::for_again(git, &this.row, &self.store)?;
        let paths = match self.store.registry().keeps_paths(&this.row)? {
            true => PathMode::Keep,
            false => PathMode::Own,
        };
        let claim = self.store.registry().claim_again(this.row);
        let _guard = self.store.share()?;
        let tree = SnapshotTree::new(&self.store, (id, &object), None);
        let how = Outfit { git, paths, source: None };
        let mut trees = make(&self.store, tree, how, &options.operation(), claim)?;
        let tree = trees.pop().ok_or_else(|| no_worktree(&name))?;
        Ok(StartedWorktree::new(name, (object.files, object.bytes), tree))
    }
}

/// Fails if a name is none, or was given twice.
fn check_names(names: &[&str]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for name in names {
        check_name(name)?;
        if !seen.insert(name) {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "it was given twice");
            return Err(Error::new(ErrorKind::InvalidName, Operation::UseName, name, cause));
        }
    }
    Ok(())
}

fn places_in(folder: &Path, names: &[&str]) -> Result<Vec<TreePlace>, Error> {
    places(names.iter().map(|name| folder.join(name)), Operation::StartWorktree)
}

/// Fails if a worktree has one of the names.
fn must_be_free_names(store: &Store, names: &[&str]) -> Result<(), Error> {
    let rows = store.catalog().worktrees()?;
    for row in rows.iter().filter(|row| names.contains(&row.name.as_str())) {
        if !store.forget_removed_by_git(row)? {
            return Err(name_taken(&row.name, &row.path));
        }
    }
    Ok(())
}

/// What the worktrees get of git, and what a second thread reads of the store in the meantime: calve
/// asks git several questions, one after the other.
fn git_planned(
    store: &Store,
    plan: StartPlan<'_>,
    source: Option<&Worktree>,
    names: &[&str],
    options: &StartOptions,
) -> (Result<(GitPlan, Option<String>), Error>, ReadAhead) {
    std::thread::scope(|scope| {
        let read = || ReadAhead::of(store, plan);
        let reader = std::thread::Builder::new().spawn_scoped(scope, read).ok();
        let (onto, found) = (&options.branch, options.found_branches.as_ref());
        let wanted = WantedLinks { onto, base: options.base.as_deref(), found };
        let planned = match source {
            Some(worktree) => GitPlan::for_fork(options.git, onto, names, worktree),
            None => GitPlan::for_new(options.git, wanted, names, store),
        };
        (planned, reader.and_then(|reader| reader.join().ok()).unwrap_or_default())
    })
}

/// The rows of new worktrees, which are being made.
fn new_rows(
    names: &[&str],
    paths: &[PathBuf],
    snapshot: Option<SnapshotId>,
    linked: &[Linked],
) -> Vec<WorktreeRow> {
    let row = |(at, (name, path)): (usize, (&&str, &PathBuf))| WorktreeRow {
        name: (*name).to_owned(),
        token: token(),
        path: bytes_of(path),
        snapshot,
        state: State::Starting,
        target: None,
        maker: stage_name(),
        created: now().0,
        git: linked.get(at).cloned(),
        slot: None,
    };
    names.iter().zip(paths).enumerate().map(row).collect()
}

/// Fails if git cannot register worktrees at these paths. Returns what they are linked to, and what
/// the user should know of the repository.
fn prepare_links(
    git: &mut GitPlan,
    plan: StartPlan<'_>,
    paths: &[PathBuf],
) -> Result<(Vec<Linked>, Vec<String>), Error> {
    let GitPlan::Link(links) = git else { return Ok((Vec::new(), Vec::new())) };
    let notes = match plan {
        StartPlan::Fork(name) => not_brought(&links.repository, Some(name)),
        StartPlan::Project | StartPlan::Clone { .. } => not_brought(&links.repository, None),
        _ => Vec::new(),
    };
    links.must_be_free(paths)?;
    Ok((links.links.iter().map(|link| link.linked.clone()).collect(), notes))
}

/// How the files of a published tree were made, and what it was dressed with.
type StartedTree = (DestinationReport, Dressed);

/// What is told of trees that were published.
fn started(arrived: Vec<Arrived>, dressed: Vec<Dressed>) -> Vec<StartedTree> {
    arrived.into_iter().map(|tree| tree.report).zip(dressed).collect()
}

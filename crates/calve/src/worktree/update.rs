//! Brings what git ignores in the project now into a worktree: dependencies, build output, settings.
//!
//! 1. The project is recorded as a snapshot, and the worktree is looked at.
//! 2. The module `decide` compares the worktree's base, the project and the worktree. Files that git tracks
//!    or lists as new are no part of this.
//! 3. If build output arrives, tracked files that are the same in the project get the times that
//!    they have there, and all other files get a new time, as in a [fill](super::fill()): the output
//!    was made of the project's files.
//! 4. The worktree gets a new base: its old base with what is brought as the project has it. What
//!    the worktree changed itself, and work that is not committed, differs from the new base as it
//!    did from the old one. calve records this base as a snapshot, and brings the worktree to it as
//!    a [switch](super::switch) does. So files get the worktree's paths, an update that was killed
//!    goes on when it is called again, and [`Worktree::undo`] takes it back.
//!
//! What a snapshot of the worktree recorded is still the worktree's own. So the base that counts in
//! the second step is the last one that came from the project: the parents of the base lead there.
//!
//! A worktree without a repository has no ignored files. There this is about all files.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType};

use super::Worktree;
use super::fill::Tracked;
use super::remove::LivingProcess;
use super::remove::processes::{Depth, living_in};
use super::switch::Passed;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::{Meta, TIME_NOW, modified_at};
use crate::reflink::sys;
use crate::report::Skipped;
use crate::store::at::{is_gone, last, meta_at, open_parent};
use crate::store::bring::plan::{Trees, learn};
use crate::store::bring::whole::{WholeFolders, has_unseen};
use crate::store::catalog::{Based, Origin, State};
use crate::store::git::{self, Failure, Found as FoundGit, Repository};
use crate::store::history::of_project;
use crate::store::id::SnapshotId;
use crate::store::manifest::{Builder, Manifest, NO_ID};
use crate::store::merged::{Merged, merged};
use crate::store::metadata::Maker;
use crate::store::object::{Entry, Kind};
use crate::store::paths::found::{Found, entry};
use crate::store::paths::local::Tree;
use crate::store::paths::secrets::Secret;
use crate::store::paths::spelling::Spellings;
use crate::store::scan::name_directories;
use crate::store::secrets::{record_without, secrets_of};
use crate::store::snapshot::local;
use crate::store::snapshot::record::{FoundList, Recording};
use crate::store::{PROJECT, SnapshotOptions, StoreOptions, path_from};
use crate::tree::read::open_unnoted;
use crate::tree::running::Running;
use decide::{Sides, UpdateDecision, UpdateScope, decide, is_folder, with_companions};
pub use decide::{StayedPath, StayedReason};

mod decide;

/// What the snapshot of an updated worktree's new base says.
const MESSAGE: &str = "update from the project";

/// How [`Worktree::update`] works; built by value.
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    force: bool,
    dry_run: bool,
    leave_secrets: bool,
}

setters! { UpdateOptions:
    /// A folder in which a process works, and a file that one has open for writing, stays as it is.
    pub fn new(),
    /// Whether calve also replaces folders in which processes work, and files that they write.
    pub force: bool,
    /// Whether calve only says what it would do. The project is recorded nevertheless.
    pub dry_run: bool,
    /// Whether files of the project stay behind that look like secrets and that git does not track.
    /// The worktree keeps those that it has, but for those in folders that are replaced whole.
    pub leave_secrets: bool,
}

/// What [`Worktree::update`] did, or would do.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UpdateReport {
    /// The worktree's base snapshot before.
    pub from: Option<SnapshotId>,
    /// Its base snapshot now. The same as before if nothing was brought, or in a dry run.
    pub to: Option<SnapshotId>,
    /// Paths that are now as in the project, and were not before, without those in `folders`. A
    /// folder is counted beside its entries.
    pub brought: u64,
    /// Folders that were replaced whole, or came back.
    pub folders: Vec<PathBuf>,
    /// What stayed as the worktree has it, although the project has it otherwise.
    pub stayed: Vec<StayedPath>,
    /// Paths that git ignores in one of the two trees only, so calve left them alone.
    pub not_ignored: Vec<PathBuf>,
    /// Files that calve made, how many of them share their blocks with the store, and the bytes of
    /// both kinds.
    pub files: u64,
    /// See `files`.
    pub shared_files: u64,
    /// See `files`.
    pub shared_bytes: u64,
    /// See `files`.
    pub copied_bytes: u64,
    /// Tracked files that got the times that they have in the project.
    pub timed_files: u64,
    /// Files that differ from the project's and got a new time.
    pub renewed_files: u64,
    /// Files of the project that were left out because they look like secrets, sorted by path: see
    /// [`UpdateOptions::leave_secrets`].
    pub left_secrets: Vec<Secret>,
    /// Processes that work in the worktree.
    pub living: Vec<LivingProcess>,
    /// An earlier restore had moved work aside, which [`Worktree::undo`] brings back. It takes back
    /// this update, too.
    pub keeps_earlier: bool,
    /// Entries that arrived without a part of themselves, or that calve may not have seen.
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// The trees that an update compares.
struct UpdateTrees {
    base: Manifest,
    /// What the worktree had from the project last, if that is not its base: a snapshot of it was
    /// taken since, or git made it. Empty if nothing is known.
    had: Option<Manifest>,
    base_found: Found,
    project: Manifest,
    project_found: Found,
    now: Option<Manifest>,
    /// Files in the worktree that git neither tracks nor ignores.
    others: Vec<Vec<u8>>,
}

/// Two snapshots' trees of which a new base is put together, and which of their files name a root.
#[derive(Clone, Copy)]
pub(super) struct TwoTrees<'a> {
    /// The worktree's base.
    pub(super) base: &'a Manifest,
    pub(super) base_found: &'a Found,
    pub(super) other: &'a Manifest,
    pub(super) other_found: &'a Found,
}

impl UpdateTrees {
    fn now(&self) -> &Manifest {
        self.now.as_ref().unwrap_or(&self.base)
    }

    fn had(&self) -> &Manifest {
        self.had.as_ref().unwrap_or(&self.base)
    }
}

impl Worktree {
    /// Brings what git ignores in the project now into the worktree. What the worktree did not
    /// change itself since its base snapshot becomes as it is in the project. What it did change
    /// stays, and the report names it if the project has it otherwise. A folder that a program
    /// keeps whole, such as `node_modules`, an environment of Python, or `target` of cargo, is
    /// replaced whole or not at all; it also arrives where the worktree has nothing.
    ///
    /// [`Worktree::undo`] takes the update back, until the next restore or update.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if something in the way changed while the update was under way, or a
    /// restore of the worktree was interrupted; [`ErrorKind::Git`], [`ErrorKind::Overlap`] for the
    /// project itself, and those of [`Worktree::switch`]. After an error the same call goes on. No
    /// folder that is replaced whole is ever there in part.
    pub fn update(
        &self,
        how: &UpdateOptions,
        options: &StoreOptions,
    ) -> Result<UpdateReport, Error> {
        let started = Instant::now();
        if self.is_project() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "this is the project itself");
            return Err(Error::new(ErrorKind::Overlap, Operation::Update, &self.path, cause));
        }
        self.store.must_be_writable(Operation::Update)?;
        let operation = options.operation();
        let project = of_project(&self.store, &SnapshotOptions::new(), None, &operation)?;
        let (mut id, mut manifest) = (project.0.id, project.1);
        let mut secrets = Vec::new();
        if how.leave_secrets {
            secrets = secrets_of(&self.store, id, &self.store.project()?)?;
        }
        // Nothing has these snapshots as its base before the worktree does.
        let _guard = self.store.share()?;
        if !secrets.is_empty() {
            let made = record_without(&self.store, id, &secrets, &operation)?;
            (id, manifest) = (made.id, Some(made.manifest));
        }
        self.alone(&operation, |this| {
            let mut report = this.update_now((id, manifest), &secrets, how, &operation)?;
            report.left_secrets = secrets;
            report.elapsed = started.elapsed();
            Ok(report)
        })
    }

    fn update_now(
        &self,
        project: (SnapshotId, Option<Manifest>),
        secrets: &[Secret],
        how: &UpdateOptions,
        operation: &Running,
    ) -> Result<UpdateReport, Error> {
        self.must_be_there()?;
        let from = self.based_on()?;
        let unfinished = self.unfinished_update()?;
        let mut report = UpdateReport { from: Some(from), to: Some(from), ..Default::default() };
        let repositories = self.repositories()?;
        let (mut looked, skipped) = self.looked(from, project, operation)?;
        report.skipped = skipped;
        let scope = match &repositories {
            Some(both) => {
                let ignored = Ignored::of(both)?;
                (looked.others, report.not_ignored) = (ignored.others, ignored.alone);
                ignored.scope
            }
            None => UpdateScope::default(),
        };
        report.living = living_in(&self.path, Depth::Thorough);
        let root = super::open_dir(&self.path)?;
        let local = local(&self.store, &self.row, &self.path);
        if let Some(now) = &mut looked.now {
            let tree = Tree { path: &self.path, root: &root };
            let others: Vec<&Manifest> = unfinished.iter().chain([&looked.project]).collect();
            learn(tree, local.as_ref(), now, &others).context(Operation::Read, || &self.path)?;
        }
        let trees = Trees {
            base: &looked.base,
            now: looked.now(),
            target: &looked.base,
            interrupted: unfinished.as_ref(),
            maker: Maker::of(&self.kept()),
            in_place: HashSet::new(),
            local: local.as_ref(),
            left_to_undo: None,
        };
        let is_unfinished = |path: &Path| trees.is_of_the_interrupted(path);
        let sides = Sides {
            base: looked.had(),
            own: looked.had.as_ref().map(|_| &looked.base),
            project: &looked.project,
            worktree: looked.now(),
            is_unfinished: &is_unfinished,
        };
        let kept = secrets.iter().map(|it| (it.path.clone(), StayedReason::Secret)).collect();
        let decision = self.decided(sides, &scope, (how.force, kept), &root)?;
        report.stayed.clone_from(&decision.stayed);
        report.folders = decision.whole.keys().cloned().collect();
        let is_single = |path: &&PathBuf| !report.folders.iter().any(|it| path.starts_with(it));
        report.brought = decision.brought.iter().filter(is_single).count() as u64;
        let has_nothing = decision.brought.is_empty() && decision.whole.is_empty();
        if how.dry_run || has_nothing && unfinished.is_none() {
            return Ok(report);
        }
        if decision.brings_output
            && let Some(both) = &repositories
        {
            let (timed, renewed) = renew(both, &looked, &root, operation)?;
            (report.timed_files, report.renewed_files) = (timed, renewed);
        }
        let to = self.record_base(from, &looked, &decision.brought)?;
        self.take(to, &decision.whole, &mut report, operation)?;
        Ok(report)
    }

    /// Brings the worktree to its new base.
    fn take(
        &self,
        to: SnapshotId,
        whole: &WholeFolders,
        report: &mut UpdateReport,
        operation: &Running,
    ) -> Result<(), Error> {
        let Passed { report: switched, made, .. } = self.advance(to, whole, operation)?;
        report.to = Some(to);
        report.keeps_earlier = switched.keeps_earlier;
        report.skipped = switched.skipped;
        for made in made {
            report.files += made.files;
            report.shared_files += made.reflinked_files;
            report.shared_bytes += made.reflinked_bytes;
            report.copied_bytes += made.copied_bytes;
        }
        Ok(())
    }

    /// The base that an update which was killed was to bring the worktree to.
    fn unfinished_update(&self) -> Result<Option<Manifest>, Error> {
        let (State::Restoring, Some(id)) = (self.row.state, self.row.target) else {
            return Ok(None);
        };
        let object = self.store.catalog().object(id)?;
        if object.message != MESSAGE {
            let why = "a restore of it was interrupted";
            let cause = io::Error::other(why);
            return Err(Error::new(ErrorKind::Changed, Operation::Update, &self.path, cause));
        }
        self.store.catalog().manifest(id, &object).map(Some)
    }

    fn looked(
        &self,
        from: SnapshotId,
        (id, project): (SnapshotId, Option<Manifest>),
        operation: &Running,
    ) -> Result<(UpdateTrees, Vec<Skipped>), Error> {
        let found = |id| self.store.snapshots().found(id, &self.store.catalog().object(id)?);
        let project = match project {
            Some(project) => project,
            None => self.store.catalog().manifest(id, &self.store.catalog().object(id)?)?,
        };
        let (base_found, project_found) = (found(from)?, found(id)?);
        let (base, now, skipped) = self.compare(None, operation)?;
        let (had, others) = (self.had_from_project(from, &base)?, Vec::new());
        Ok((UpdateTrees { base, had, base_found, project, project_found, now, others }, skipped))
    }

    /// What the worktree had from the project last, if that is not its base. A snapshot that was
    /// taken of the worktree is no such thing: it contains the worktree's own changes. The same
    /// holds for each snapshot of a worktree that git made.
    fn had_from_project(
        &self,
        from: SnapshotId,
        base: &Manifest,
    ) -> Result<Option<Manifest>, Error> {
        let (catalog, origins) = (self.store.catalog(), self.store.catalog().origins()?);
        let is_projects = |id: &SnapshotId| {
            origins.get(id).is_some_and(|it| it.worktree.as_deref() == Some(PROJECT))
        };
        let mut next = Some(from);
        while let Some(id) = next {
            let Some(object) = catalog.snapshot(id)? else { break };
            if is_projects(&id) {
                return (id != from).then(|| catalog.manifest(id, &object)).transpose();
            }
            next = object.parent;
        }
        let root = Entry { kind: Kind::Directory(NO_ID), ..base.root.clone() };
        let mut nothing = Builder::new(root);
        // There is room for no entries.
        let _ = nothing.add(Vec::new());
        Ok(Some(nothing.finish()))
    }

    /// The repositories of the worktree and of the project. `None`: the project has none.
    fn repositories(&self) -> Result<Option<[Repository; 2]>, Error> {
        let project = self.store.project()?;
        let find = |root: &Path| match git::find(root) {
            FoundGit::Repository(repository) => Ok(Some(repository)),
            FoundGit::Nothing => Ok(None),
            FoundGit::NoWorkingTree(failure) | FoundGit::Unusable(failure) => {
                Err(Error::new(ErrorKind::Git, Operation::AskGit, root, failure))
            }
        };
        let Some(from) = find(&project)? else { return Ok(None) };
        let tree = find(&self.path)?.ok_or_else(|| {
            let why = "it has no repository, which would say what git ignores in it";
            Error::new(ErrorKind::Git, Operation::Update, &self.path, io::Error::other(why))
        })?;
        Ok(Some([tree, from]))
    }

    /// Decides, and decides again without the folders and files that turn out to be in use.
    fn decided(
        &self,
        sides: Sides<'_>,
        scope: &UpdateScope,
        (force, mut held): (bool, BTreeMap<PathBuf, StayedReason>),
        root: &OwnedFd,
    ) -> Result<UpdateDecision, Error> {
        loop {
            let decision = decide(sides, scope, &held);
            let before = held.len();
            for folder in decision.whole.keys() {
                let unseen = has_unseen(root, folder, sides.worktree);
                if unseen.context(Operation::Read, || self.path.join(folder))? {
                    held.insert(folder.clone(), StayedReason::Unseen);
                } else if !force
                    && entry(sides.worktree, folder).is_some()
                    && !living_in(&self.path.join(folder), Depth::Thorough).is_empty()
                {
                    held.insert(folder.clone(), StayedReason::Used);
                }
            }
            for path in &decision.brought {
                let is_whole = path.ancestors().any(|above| decision.whole.contains_key(above));
                if is_whole {
                    continue;
                }
                let [theirs, ours] =
                    [sides.project, sides.worktree].map(|tree| is_folder(tree, path));
                let gives_way = || -> Result<bool, Error> {
                    let unseen = has_unseen(root, path, sides.worktree);
                    Ok(ours
                        && !theirs
                        && unseen.context(Operation::Read, || self.path.join(path))?)
                };
                if is_hidden(root, path, sides) || gives_way()? {
                    held.insert(path.clone(), StayedReason::Unseen);
                } else if !force && with_companions(path).any(|it| self.is_written(root, &it)) {
                    held.insert(path.clone(), StayedReason::Used);
                }
            }
            if held.len() == before {
                return Ok(decision);
            }
        }
    }

    /// Whether a process has the file open for writing. What it writes after the file was replaced
    /// would be in no folder. Where only `/proc` says it, each process counts that has it open.
    fn is_written(&self, root: &OwnedFd, path: &Path) -> bool {
        let opened = || -> io::Result<OwnedFd> {
            Ok(open_unnoted(&open_parent(root, path)?, &last(path)?, SOURCE_FLAGS)?)
        };
        let asked = || -> io::Result<Option<bool>> {
            let file = opened()?;
            if Meta::of_file(&file)?.file_type() != FileType::RegularFile {
                return Ok(Some(false));
            }
            let nobody = sys::nobody_writes(&file)?;
            Ok((!nobody || sys::writers_are_known(&file)?).then_some(!nobody))
        };
        match asked() {
            Ok(Some(is_written)) => is_written,
            Err(error) if is_gone(&error) => false,
            _ => !living_in(&self.path.join(path), Depth::Thorough).is_empty(),
        }
    }

    /// Records the new base, and before it what the worktree has from the project then, if that is
    /// not the same.
    fn record_base(
        &self,
        from: SnapshotId,
        looked: &UpdateTrees,
        brought: &BTreeSet<PathBuf>,
    ) -> Result<SnapshotId, Error> {
        if brought.is_empty() {
            return Ok(from);
        }
        let projects = || Origin { worktree: Some(PROJECT.to_owned()), branch: None };
        let both = TwoTrees {
            base: &looked.base,
            base_found: &looked.base_found,
            other: &looked.project,
            other_found: &looked.project_found,
        };
        let Some(had) = &looked.had else {
            return self.record_with(&looked.base, both, brought, (from, MESSAGE), &projects());
        };
        let had = self.record_with(had, both, brought, (from, MESSAGE), &projects())?;
        let own = Origin { worktree: Some(self.row.name.clone()), branch: None };
        self.record_with(&looked.base, both, brought, (had, MESSAGE), &own)
    }

    /// Records `tree` with the paths `taken` as the other tree has them.
    pub(super) fn record_with(
        &self,
        tree: &Manifest,
        both: TwoTrees<'_>,
        taken: &BTreeSet<PathBuf>,
        (parent, message): (SnapshotId, &str),
        origin: &Origin,
    ) -> Result<SnapshotId, Error> {
        let TwoTrees { base, base_found, other, other_found } = both;
        let Merged { mut manifest, order } = merged(tree, other, taken).ok_or_else(|| {
            let cause = io::Error::other("more than 4,294,967,295 entries");
            Error::io(Operation::Update, &self.path, cause)
        })?;
        let directories = name_directories(&mut manifest, &order, Some(tree), true);
        let mut spellings = Spellings::fixed(other_found.roots.clone());
        if base_found.roots.first() == other_found.roots.first() {
            spellings.add(&base_found.roots);
        }
        let is_of_base = |path: &&Path| {
            entry(&manifest, path)
                .zip(entry(base, path))
                .is_some_and(|(is, was)| is.same_content(was))
        };
        let of_base = base_found.mentions.iter().map(|mention| mention.path.as_path());
        let read: Vec<PathBuf> = of_base.filter(is_of_base).map(Path::to_owned).collect();
        let known = Some((other_found, other));
        let found = Found::of(&self.store.project()?, spellings, &manifest, read, known);
        self.store.snapshots().record(&Recording {
            encoding: &manifest.object(Some(parent), message.to_owned()).encode(),
            tree: Some((&manifest, &directories)),
            arrived: None,
            found: Some(FoundList::Here(&found)),
            indexes: &[],
            based: Based::None,
            name: None,
            origin,
        })
    }
}

/// Whether the tree has something that the scan did not see at a path that is to be made.
fn is_hidden(root: &OwnedFd, path: &Path, sides: Sides<'_>) -> bool {
    let is_folder = |found: &Meta| found.file_type() == FileType::Directory;
    let wanted = entry(sides.project, path);
    if wanted.is_none() || entry(sides.worktree, path).is_some() {
        return false;
    }
    meta_at(root, path).is_ok_and(|found| {
        !(is_folder(&found) && wanted.is_some_and(|wanted| wanted.is_directory()))
    })
}

/// What git says of the two trees.
struct Ignored {
    /// What it ignores in both.
    scope: UpdateScope,
    /// The files in the worktree that it neither tracks nor ignores.
    others: Vec<Vec<u8>>,
    /// What it ignores in one of the trees alone.
    alone: Vec<PathBuf>,
}

impl Ignored {
    fn of([tree, from]: &[Repository; 2]) -> Result<Self, Error> {
        let asked = |of: &Repository| {
            let root = of.root.clone();
            move |failure: Failure| {
                Error::new(ErrorKind::Git, Operation::AskGit, root, io::Error::from(failure))
            }
        };
        let plain = |path: &[u8]| path_from(path.strip_suffix(b"/").unwrap_or(path));
        let ours = git::not_tracked_in(&tree.tree()).map_err(asked(tree))?;
        let theirs = git::not_tracked_in(&from.tree()).map_err(asked(from))?;
        let (mut roots, mut alone) = (BTreeSet::new(), Vec::new());
        for (found, other) in [(&ours.ignored, from), (&theirs.ignored, tree)] {
            // git answers no question about a path that leads through a link.
            let askable: Vec<Vec<u8>> = found
                .iter()
                .filter(|path| super::fill::has_room(&other.root, path))
                .cloned()
                .collect();
            let ignored = git::ignored_of(other, &askable).map_err(asked(other))?;
            for path in found {
                match ignored.contains(path) {
                    true => drop(roots.insert(plain(path))),
                    false => alone.push(plain(path)),
                }
            }
        }
        alone.sort();
        alone.dedup();
        let mut tracked = BTreeSet::new();
        for repository in [tree, from] {
            let all = git::all_tracked(&repository.tree()).map_err(asked(repository))?;
            let is_in = |path: &&Vec<u8>| path_from(path).ancestors().any(|it| roots.contains(it));
            tracked.extend(all.iter().filter(is_in).cloned());
        }
        Ok(Self { scope: UpdateScope { roots: Some(roots), tracked }, others: ours.others, alone })
    }
}

/// Lets a build of the worktree see which files are not those of which the project's build output
/// was made. Returns how many files got the project's time, and how many a new one.
fn renew(
    [tree, from]: &[Repository; 2],
    looked: &UpdateTrees,
    root: &OwnedFd,
    operation: &Running,
) -> Result<(u64, u64), Error> {
    let tracked = Tracked::look(tree, from, operation)?;
    let (timed, mut renewed) = tracked.settle(tree, root)?;
    let times = modified_at(TIME_NOW);
    for path in looked.others.iter().map(|path| path_from(path)) {
        let (Some(theirs), Some(ours)) =
            (entry(&looked.project, &path), entry(looked.now(), &path))
        else {
            continue;
        };
        if theirs.same_content(ours) || theirs.is_directory() || ours.is_directory() {
            continue;
        }
        let touch = || -> io::Result<()> {
            let dir = open_parent(root, &path)?;
            Ok(fs::utimensat(&dir, &last(&path)?, &times, AtFlags::SYMLINK_NOFOLLOW)?)
        };
        touch().context(Operation::SetMetadata, || tree.root.join(&path))?;
        renewed += 1;
    }
    Ok((timed, renewed))
}

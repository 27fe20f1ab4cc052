//! Dresses a tree: adds what a worktree needs beside the snapshot's files, after the tree is made
//! and before it is published. It does not matter in which way the tree was made.
//!
//! A tree gets its marker, and its part of git. No snapshot has the `.git` in the root of the
//! project, so a tree that was made from one has no repository yet.
//!
//! # A copy of the repository
//! Other processes may work in the project's repository meanwhile. calve copies the files that
//! refer to objects before the objects, because git writes objects before the files that refer to
//! them. A repack moves objects from one file to another: if the folder of packs changed, calve
//! copies the objects again. calve does not copy locks, because they belong to commands that run in
//! the project. It does not copy the folder `worktrees` either. That folder registers trees whose
//! `.git` files lead to the project, so `git worktree remove` in the copy would delete one of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self, AtFlags, Mode};

use super::git::{GitOutcome, GitPlan, LinkedWorktree};
use super::links::Links;
use super::vouched::{Known, Snapshots};
use super::{PathMode, Place};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::report::DestinationReport;
use crate::store::at::{last, open_parent};
use crate::store::catalog::{Linked, State, WorktreeRow};
use crate::store::format;
use crate::store::git::Registration;
use crate::store::id::SnapshotId;
use crate::store::layout::GIT;
use crate::store::materialize::wanted;
use crate::store::object::SnapshotObject;
use crate::store::paths::Relocation;
use crate::store::paths::found::{Found, PathMention, number_at};
use crate::store::paths::local::{Local, Tree};
use crate::store::scan::stat_of;
use crate::store::{Store, bytes_of, path_from};
use crate::tree::git_index::{self, Source, Trees, Vouches};
use crate::tree::pool::{cancelled, lock};
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::Stage;
use crate::tree::{CloneOptions, clone_tree};
use crate::worktree::relocate::{Relocate, Whose, all_kept};

/// Patterns of the files that are not copied from a repository; its objects are copied separately.
/// See above. The sockets of git's own daemon belong to one folder.
const NOT_COPIED: [&str; 9] = [
    "/objects",
    "/worktrees",
    "/*.lock",
    "/refs/**/*.lock",
    "/reftable/*.lock",
    "/modules/**/index.lock",
    "/gc.pid",
    "/fsmonitor--daemon",
    "/fsmonitor--daemon.ipc",
];

/// Patterns of the files in `objects` that are not copied: those that are not complete yet.
const OBJECTS_NOT_COPIED: [&str; 3] = ["*.lock", "tmp_*", "incoming-*"];

/// How often calve copies the objects before it gives up.
const REPACKS_MOST: u32 = 5;

/// What a tree has of the project's repository, and the files in it that name the project's root.
pub(super) type Dressed = (GitOutcome, Vec<PathMention>);

/// What is needed to dress trees.
pub(super) struct Dressing<'a> {
    pub(super) store: &'a Store,
    pub(super) id: SnapshotId,
    pub(super) object: &'a SnapshotObject,
    pub(super) git: GitPlan,
    pub(super) paths: PathMode,
    pub(super) operation: &'a Running,
}

impl Dressing<'_> {
    /// Dresses the tree in each of `stages`. If the store knows the trees, `rows` are their rows.
    pub(super) fn dress(
        &self,
        rows: Option<&[WorktreeRow]>,
        stages: &[Stage],
        places: &[Place],
    ) -> Result<Vec<Dressed>, Error> {
        let path = |at: usize| &places[at].path;
        let mut modes = Vec::with_capacity(stages.len());
        for (at, stage) in stages.iter().enumerate() {
            let mode = open_up(stage).context(Operation::SetMetadata, || path(at))?;
            modes.push(mode);
            if let Some(rows) = rows {
                let registry = self.store.registry();
                registry.mark(&rows[at], stage.dir()).context(Operation::Mark, || path(at))?;
            }
        }
        let mut found = self.store.found(self.id, self.object)?;
        found.keep_tracked(&self.store.project()?);
        let mut mentions = Vec::with_capacity(stages.len());
        for (at, stage) in stages.iter().enumerate() {
            mentions.push(self.relocate(&found, rows.map(|rows| &rows[at]), stage, path(at))?);
        }
        let outcomes: Vec<GitOutcome> = match &self.git {
            GitPlan::Copy(repository) => {
                let reports = self.copy(repository, stages, places)?;
                reports.into_iter().map(|it| GitOutcome::Copied(Box::new(it))).collect()
            }
            GitPlan::Link(links) => {
                let linked = self.link(links, rows.unwrap_or_default(), stages, places)?;
                linked.into_iter().map(GitOutcome::Linked).collect()
            }
            GitPlan::None(why) => vec![GitOutcome::None(*why); stages.len()],
        };
        let times = wanted(&self.object.root).timestamps();
        for (at, (stage, mode)) in stages.iter().zip(modes).enumerate() {
            let close = || -> io::Result<()> {
                if let Some(mode) = mode {
                    fs::fchmod(stage.dir(), mode)?;
                }
                Ok(fs::futimens(stage.dir(), &times)?)
            };
            close().context(Operation::SetMetadata, || path(at))?;
        }
        Ok(outcomes.into_iter().zip(mentions).collect())
    }

    /// Gives the tree files that name its own root, and writes down which root that is.
    fn relocate(
        &self,
        found: &Found,
        row: Option<&WorktreeRow>,
        stage: &Stage,
        path: &Path,
    ) -> Result<Vec<PathMention>, Error> {
        if self.paths == PathMode::Keep {
            return Ok(all_kept(found));
        }
        let roots = Relocation { from: found.root.clone(), to: bytes_of(path) };
        let relocate = Relocate {
            tree: Tree { path: &stage.path(), root: stage.dir() },
            roots: &roots,
            before: None,
            whose: Whose::Staged,
            at: &|path| Some(path.to_owned()),
            others: &|_| None,
        };
        let done = relocate.run(&found.mentions).context(Operation::RewritePaths, || path)?;
        if let Some(row) = row {
            Local(roots).write(stage.dir()).context(Operation::Mark, || path)?;
            let rewritten = done.iter().filter(|mention| mention.kept.is_none());
            let rewritten: Vec<&Path> = rewritten.map(|mention| mention.path.as_path()).collect();
            if !rewritten.is_empty() {
                format::require(self.store.path(), format::OWN_PATHS)?;
                self.mend_index(row, stage, &rewritten).context(Operation::WriteIndex, || path)?;
            }
        }
        Ok(done)
    }

    /// Lets the worktree's index vouch for files that were rewritten.
    fn mend_index(&self, row: &WorktreeRow, stage: &Stage, paths: &[&Path]) -> io::Result<()> {
        let (registry, other) = (self.store.registry(), io::Error::other::<Error>);
        let manifest = self.store.catalog().manifest(self.id, self.object).map_err(other)?;
        let Some(mut index) = registry.index(&row.token, self.id, &manifest) else {
            return Ok(());
        };
        for path in paths.iter().flat_map(|path| path.ancestors().take(2)) {
            if path.as_os_str().is_empty() {
                // The root changes once more.
                continue;
            }
            let stat = fs::statat(
                open_parent(stage.dir(), path)?,
                last(path)?,
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
            if let Some(number) = number_at(&manifest, path) {
                index.stats[number as usize] = stat_of(&Meta::of(&stat));
            }
        }
        index.stamp = self.store.clock_past_all(index.stats.iter()).map_err(other)?;
        registry.write_index(&row.token, &index, &manifest).map_err(other)
    }

    /// Lets git register each tree, and makes its index ready.
    fn link(
        &self,
        links: &Links,
        rows: &[WorktreeRow],
        stages: &[Stage],
        places: &[Place],
    ) -> Result<Vec<LinkedWorktree>, Error> {
        let registered = self.register(links, rows)?;
        let snapshots = match &links.base {
            Some(_) => None,
            None => Snapshots::of(self.store, self.id, self.object)?,
        };
        let mut made = Vec::with_capacity(stages.len());
        let trees = rows.iter().zip(&links.links).zip(stages).zip(places).zip(&registered);
        for ((((row, link), stage), place), registration) in trees {
            let lead = || -> io::Result<u64> {
                Links::lead(registration, stage.dir())?;
                if link.registered.is_some() {
                    return Ok(0);
                }
                if row.state != State::Starting {
                    links.read_index(registration)?;
                    return Ok(0);
                }
                match &links.base {
                    Some(base) => Links::give_index_of(registration, base)?,
                    None => links.give_index(registration)?,
                }
                let known = snapshots.as_ref().map(|them| Known::of(them, self.store, row));
                let source: (&dyn Vouches, _) = match (&links.base, &known) {
                    (Some(base), _) => (&**base, base.stamp()),
                    (None, Some(known)) => (known, known.snapshots.stamp()),
                    (None, None) => return Ok(0),
                };
                let git = fs::open(&registration.folder, DIR_FLAGS, Mode::empty())?;
                let trees = self.trees(source, stage);
                Ok(git_index::make_ready_elsewhere(&trees, &git))
            };
            let ready_index_entries = lead().context(Operation::Link, || &place.path)?;
            let Linked { commit, branch } = link.linked.clone();
            made.push(LinkedWorktree { branch, commit, ready_index_entries });
        }
        Ok(made)
    }

    /// Registers several trees at once, because a thread mostly waits for git.
    fn register(&self, links: &Links, rows: &[WorktreeRow]) -> Result<Vec<Registration>, Error> {
        let next = AtomicUsize::new(0);
        let results: Vec<_> = rows.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let (Some(row), Some(link)) = (rows.get(at), links.links.get(at)) else { return };
                let made = match &link.registered {
                    Some(registered) => Ok(registered.clone()),
                    None if self.operation.is_cancelled() => {
                        Err(cancelled(Operation::RegisterWorktree, &path_from(&row.path)))
                    }
                    None => {
                        let registry = self.store.registry();
                        registry.register(&links.repository, row, &link.linked, link.makes_branch)
                    }
                };
                *lock(&results[at]) = Some(made);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.operation.jobs().min(rows.len()) {
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let inner = |result: Mutex<_>| result.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.into_iter().filter_map(inner).collect()
    }

    fn trees<'t>(
        &'t self,
        (vouches, stamp): (&'t dyn Vouches, (i64, i64)),
        stage: &'t Stage,
    ) -> Trees<'t> {
        Trees {
            source: Source::Snapshot(vouches),
            clone: stage.dir(),
            stage: None,
            before_walk: stamp,
            jobs: self.operation.jobs(),
            stopped: &|| false,
        }
    }

    /// Copies the repository into each stage, and makes its index ready.
    fn copy(
        &self,
        repository: &Path,
        stages: &[Stage],
        places: &[Place],
    ) -> Result<Vec<DestinationReport>, Error> {
        let inside: Vec<PathBuf> = stages.iter().map(|stage| stage.path().join(GIT)).collect();
        let store = self.store.path().strip_prefix(repository).ok();
        let store = store.and_then(Path::to_str).map(|path| format!("/{}", literally(path)));
        let clone = |part: &str, left_out: &[&str]| {
            let options = self.operation.clone_options();
            let left_out = left_out.iter().copied().chain(store.as_deref());
            let options = left_out.fold(options, CloneOptions::exclude);
            let into: Vec<PathBuf> = inside.iter().map(|git| git.join(part)).collect();
            let cloned = clone_tree(repository.join(part), &into, &options);
            cloned.map(|report| report.destinations)
        };
        let mut reports = clone("", &NOT_COPIED)?;
        let packs = || changed(&repository.join("objects/pack"));
        let mut tries = 0;
        let objects = loop {
            let before = packs();
            if before.is_none() && changed(&repository.join("objects")).is_none() {
                break Vec::new();
            }
            let cloned = clone("objects", &OBJECTS_NOT_COPIED)?;
            if packs() == before {
                break cloned;
            }
            tries += 1;
            if tries == REPACKS_MOST {
                let cause =
                    io::Error::new(io::ErrorKind::WouldBlock, "git repacks it all the time");
                return Err(Error::new(
                    ErrorKind::Busy,
                    Operation::CopyRepository,
                    repository,
                    cause,
                ));
            }
            for git in &inside {
                let again = || -> io::Result<()> {
                    removal::remove(&fs::open(git, DIR_FLAGS, Mode::empty())?, c"objects")
                };
                again().context(Operation::RemoveStage, || git)?;
            }
        };
        for (report, objects) in reports.iter_mut().zip(&objects) {
            crate::tree::tally::add(report, objects);
        }
        self.ready(stages, &mut reports)?;
        for (report, place) in reports.iter_mut().zip(places) {
            report.path = place.path.join(GIT);
        }
        Ok(reports)
    }

    /// Makes the indexes of git record the files of their tree.
    fn ready(&self, stages: &[Stage], reports: &mut [DestinationReport]) -> Result<(), Error> {
        let Some(snapshots) = Snapshots::of(self.store, self.id, self.object)? else {
            return Ok(());
        };
        for (stage, report) in stages.iter().zip(reports) {
            let trees = self.trees((&snapshots, snapshots.stamp()), stage);
            report.ready_index_entries = git_index::make_ready(&trees, &[PathBuf::new()]);
        }
        Ok(())
    }
}

/// Opens a tree whose root denies access even to its owner, so that we can make files in it.
/// Returns the mode that the root must have afterwards.
fn open_up(stage: &Stage) -> io::Result<Option<Mode>> {
    let mode = Meta::of(&fs::fstat(stage.dir())?).permissions();
    if mode & 0o700 == 0o700 {
        return Ok(None);
    }
    fs::fchmod(stage.dir(), meta::mode(mode | 0o700))?;
    Ok(Some(meta::mode(mode)))
}

/// When a folder last changed, if there is one.
fn changed(path: &Path) -> Option<(i64, i64)> {
    let stat = fs::statat(fs::CWD, path, AtFlags::empty()).ok()?;
    Some(Meta::of(&stat).changed)
}

/// Returns a pattern that matches only this path.
fn literally(path: &str) -> String {
    let special = |char: char| matches!(char, '*' | '?' | '[' | ']' | '\\' | '!' | '#' | ' ');
    let mut pattern = String::with_capacity(path.len());
    for char in path.chars() {
        if special(char) {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern
}

//! Takes a worktree from one snapshot to another and touches only the paths that differ.
//!
//! # Which paths a switch touches
//! calve compares the two snapshots. It leaves a path alone if the snapshots agree on it, whatever
//! the path holds by now. A path that must change and that was changed by hand is a *conflict*,
//! unless it already is as the target has it. If there are conflicts, calve changes nothing. With
//! `force`, it moves the conflicting entries aside, into the folder `undo` ([`undo`](crate::store::undo)), and
//! [`Worktree::undo`] brings them back. If the target does not have a directory, files that were
//! added to it by hand stay, and so does the directory.
//!
//! # A switch that is interrupted
//! First calve makes all new files in a stage inside the worktree. So it finds a full disk or lost
//! content before it changes anything. Then it writes down what an undo needs, marks the row of the
//! worktree, and changes each path by one rename. If the process dies in between, the tree is
//! partly the old and partly the new snapshot, and the mark says so. The next switch or reset of
//! this worktree finds entries that are as in either snapshot, or gone. It takes them for the work
//! of the interrupted switch, and not for changes by hand. It also keeps what the interrupted
//! switch had moved aside: if a path was changed by hand again since, under another name.
//!
//! # Repositories inside the tree
//! A snapshot has them with their `.git`. One with commits that would be lost stays as it is:
//! [`repositories`].
//!
//! # Hidden files
//! The scan does not see a file that a rule in `.calveignore` hides. Such a file may be where the
//! target has a file. It counts as a conflict: there may be no other copy of its content.
//!
//! # Times
//! Files get the times of the snapshot. But the tree may keep files that no snapshot has: files
//! that `.calveignore` leaves out, or that were added by hand. They may be build output, made from
//! other content. Then each file that gets another content also gets a new time. Otherwise the next
//! build would take the file for one that it has seen.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::geteuid;

use super::{Worktree, shown};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::meta::Meta;
use crate::report::{DestinationReport, SkipReason, Skipped};
use crate::store::at::open_at;
use crate::store::bring::plan::{self, Changes, Moves, Times, Trees};
use crate::store::bring::whole::WholeFolders;
use crate::store::bring::{Applied, Bring, Staged};
use crate::store::catalog::{State, WorktreeRow};
use crate::store::files::ask_to_write;
use crate::store::git;
use crate::store::git::modules::may_be_of_module;
use crate::store::id::SnapshotId;
use crate::store::index::Index;
use crate::store::manifest::Manifest;
use crate::store::metadata::Maker;
use crate::store::object::Entry;
use crate::store::paths::found::Found;
use crate::store::paths::local::{Local, Tree};
use crate::store::paths::record::Digest;
use crate::store::paths::secrets::{Secret, kind_at, tracked_within};
use crate::store::registry::no_worktree;
use crate::store::snapshot::modules;
use crate::store::undo::UndoStep;
use crate::store::{StoreOptions, locks, now};
use crate::tree::mounts;
use crate::tree::pool::cancelled;
use crate::tree::running::Running;
use crate::tree::staging;
use crate::worktree::relocate::{Relocate, Whose};
use crate::worktree::start::LeaveSecrets;
use crate::worktree::submodules::{Submodules, outer_first};
use repositories::leave_repositories;
use undo::Undo;

mod repositories;
pub(crate) mod undo;

/// How [`Worktree::switch`] treats local changes; built by value.
#[derive(Debug, Clone, Default)]
pub struct SwitchOptions {
    force: bool,
    whole: bool,
    leave_secrets: Option<LeaveSecrets>,
}

impl SwitchOptions {
    fn changes(&self) -> Changes {
        match (self.whole, self.force) {
            (true, _) => Changes::Reset,
            (false, true) => Changes::MoveAside,
            (false, false) => Changes::Respect,
        }
    }
}

setters! { SwitchOptions:
    /// A local change that is in the way is an error.
    pub fn new(),
    /// Leaves files alone that look like secrets, that git does not track, and that the snapshot
    /// does not have, if this says so. The snapshot may have been made without secrets, as a
    /// start makes it with [`StartOptions::leave_secrets`](crate::StartOptions::leave_secrets). One
    /// in the way of another entry is moved aside nevertheless.
    pub leave_secrets: impl Fn(&[Secret]) -> bool + Send + Sync + 'static =
        Some(LeaveSecrets(Arc::new(leave_secrets))),
    /// Whether calve moves local changes aside if they are in the way. [`Worktree::undo`] brings
    /// them back.
    pub force: bool,
    /// Whether calve moves *all* local changes aside, so that the tree equals the snapshot
    /// afterwards. [`Worktree::undo`] brings them back.
    pub whole: bool,
}

/// One switch, reset, undo or update.
struct Transit<'a> {
    to: SnapshotId,
    what: Changes,
    undo: Option<&'a Undo>,
    /// The folders that an update lets arrive whole.
    update: Option<&'a WholeFolders>,
    /// See [`SwitchOptions::leave_secrets`].
    leave_secrets: Option<&'a LeaveSecrets>,
    dry_run: bool,
}

impl Transit<'_> {
    /// Whether it notes what an undo needs.
    fn notes_undo(&self) -> bool {
        self.what != Changes::Respect || self.update.is_some()
    }
}

/// What a switch, reset, undo or update did, beside what it reports.
pub(super) struct Passed {
    pub(super) report: SwitchReport,
    pub(super) made: Vec<DestinationReport>,
    times: Times,
}

/// What [`Worktree::switch`], [`Worktree::reset`] or [`Worktree::undo`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SwitchReport {
    /// The snapshot that the worktree was based on before.
    pub from: SnapshotId,
    /// The snapshot that the worktree is based on now.
    pub to: SnapshotId,
    /// Entries that were made, replaced or given other metadata.
    pub changed: u64,
    /// Entries that were removed.
    pub removed: u64,
    /// Paths that were changed by hand and were in the way, from the worktree's root.
    /// [`Worktree::undo`] brings them back. What an interrupted switch had moved aside from one of
    /// these paths comes back as well, as `NAME.earlier-1`. A report of [`Worktree::undo`] has the
    /// paths that it brought back.
    pub kept: Vec<PathBuf>,
    /// Repositories of git inside the tree, from the worktree's root, that stay as they are: they
    /// have commits that neither a remote has nor the snapshot. Their working trees became as the
    /// snapshot has them, and git lists the difference.
    pub left_repositories: Vec<PathBuf>,
    /// An earlier switch had moved work aside, and this one had nothing to move. So that work is
    /// kept, and [`Worktree::undo`] takes back both.
    pub keeps_earlier: bool,
    /// An earlier switch had moved work aside, and so does this one. What was aside is deleted,
    /// because there is one place for it.
    pub discards_earlier: bool,
    /// Files got other content and the times of the snapshot, which has no build output. If that is
    /// outside of the tree, in a shared cache, a build compares times and may take these files for
    /// built.
    pub leaves_newer_output: bool,
    /// Entries that arrived without a part of themselves. Also folders whose names kept changing
    /// while calve listed them ([`SkipReason::Restless`]): calve may not have seen changes by hand
    /// in them.
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

impl Worktree {
    /// Makes the worktree a tree of the snapshot `to`, or of its base snapshot. Touches only the
    /// paths at which `to` and the worktree's base snapshot differ.
    ///
    /// Files get the times of the snapshot. If the tree holds files that no snapshot has, because
    /// `.calveignore` leaves them out or they were added by hand, they may be build output. Then
    /// files that get another content get the time of the call, so that the next build sees that
    /// they changed.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if the switch would touch paths that were changed by hand and
    /// [`SwitchOptions::force`] is not set. Then nothing was done, and [`Error::details`] has the
    /// paths. After later errors the worktree is between the two snapshots
    /// ([`WorktreeState::Restoring`](crate::WorktreeState::Restoring)), but each path is whole; the
    /// same call continues the switch. If only the removal of the stage failed, the error says so,
    /// and everything else is done.
    pub fn switch(
        &self,
        to: impl Into<Option<SnapshotId>>,
        how: &SwitchOptions,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        self.transits(to.into(), how, false, options)
    }

    /// What [`Worktree::switch`] would do. Changes nothing.
    ///
    /// # Errors
    /// The same as for [`Worktree::switch`].
    pub fn would_switch(
        &self,
        to: impl Into<Option<SnapshotId>>,
        how: &SwitchOptions,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        self.transits(to.into(), how, true, options)
    }

    /// Makes the worktree equal to its base snapshot. Files also get the times of the snapshot,
    /// unless `.calveignore` leaves anything out: see [`Worktree::switch`]. [`Worktree::undo`] can
    /// bring back everything that was changed, added or deleted by hand, until the next switch or
    /// reset that moves something aside.
    ///
    /// # Errors
    /// The same as for [`Worktree::switch`].
    pub fn reset(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        self.transits(None, &SwitchOptions::new().whole(true), false, options)
    }

    /// Brings the worktree to `to`, or to its base snapshot.
    fn transits(
        &self,
        to: Option<SnapshotId>,
        how: &SwitchOptions,
        dry_run: bool,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        let operation = options.operation();
        let (what, leave_secrets) = (how.changes(), how.leave_secrets.as_ref());
        self.alone(&operation, |this| {
            let to = to.map_or_else(|| this.based_on(), Ok)?;
            let transit = Transit { to, what, undo: None, update: None, leave_secrets, dry_run };
            Ok(this.transit(&transit, &operation)?.report)
        })
    }

    /// Brings the worktree to its new base, as an update does: the folders in `whole` arrive whole,
    /// and an undo takes it back. The caller keeps other processes from switching the worktree.
    pub(super) fn advance(
        &self,
        to: SnapshotId,
        whole: &WholeFolders,
        operation: &Running,
    ) -> Result<Passed, Error> {
        let what = Changes::Respect;
        let transit = Transit {
            to,
            what,
            undo: None,
            update: Some(whole),
            leave_secrets: None,
            dry_run: false,
        };
        self.transit(&transit, operation)
    }

    /// Calls `work` with the worktree as the store has it now. No other process can switch or drop
    /// the worktree meanwhile.
    pub(super) fn alone<T>(
        &self,
        operation: &Running,
        work: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let this = self.named(operation)?;
        let worked = || {
            let _alone = this.lock(operation)?;
            work(&this.now()?)
        };
        worked().map_err(|error| this.gone_or(error))
    }

    /// Keeps every other process from switching or dropping the worktree.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if another process does so and does not finish in time,
    /// [`ErrorKind::Cancelled`]; the lock's file could not be made.
    pub(super) fn lock_for(
        &self,
        what: Operation,
        operation: &Running,
    ) -> Result<locks::Guard, Error> {
        self.store.registry().lock(&self.row, operation)?.ok_or_else(|| {
            if operation.is_cancelled() {
                return cancelled(what, &self.path);
            }
            let why = "another process restores or drops it";
            let cause = io::Error::new(io::ErrorKind::WouldBlock, why);
            Error::new(ErrorKind::Busy, what, &self.path, cause)
        })
    }

    /// The lock is taken before anything in the tree is looked at: a drop that has it may have taken
    /// the folder away, and may bring it back.
    fn lock(&self, operation: &Running) -> Result<locks::Guard, Error> {
        self.store.must_be_writable(Operation::RestoreWorktreeOf)?;
        let alone = self.lock_for(Operation::RestoreWorktree, operation)?;
        self.must_keep_to_itself()?;
        // A process that was killed while it discarded undo data left that data here. We sweep it
        // now, because the command may have nothing else to do.
        if let Some(home) = self.open_home()? {
            staging::sweep(&home);
        }
        Ok(alone)
    }

    /// Whether work that an earlier switch moved aside makes place for that of this one.
    fn discards_earlier(&self, what: Changes, goes_on: bool, moves: &Moves) -> Result<bool, Error> {
        let moves_aside = what != Changes::Respect && !has_no_changes(moves);
        Ok(moves_aside && !goes_on && self.has_moved_aside()?)
    }

    fn transit(&self, transit: &Transit<'_>, operation: &Running) -> Result<Passed, Error> {
        let Transit { to, what, undo, dry_run, .. } = *transit;
        let started = std::time::Instant::now();
        self.must_be_there()?;
        let from = self.based_on()?;
        let _guard = self.store.share()?;
        let known = self.known()?;
        let (mut scan, _) = known.scan(&self.store, None, operation)?;
        // Only a snapshot needs them, and the new index will take as much memory.
        scan.stats = Vec::new();
        let Some((_, _, base)) = &known.base else { return Err(no_worktree(self.name())) };
        let object = self.store.catalog().object(to)?;
        let mut like = vec![base];
        like.extend(&scan.manifest);
        let target = self.store.catalog().manifest_like(to, &object, &like)?;
        let interrupted = self.interrupted(&[base, &target])?;
        let root = super::open_dir(&self.path)?;
        let tree = Tree { path: &self.path, root: &root };
        if let Some(now) = &mut scan.manifest {
            let others: Vec<&Manifest> =
                [Some(&target), interrupted.as_ref()].into_iter().flatten().collect();
            plan::learn(tree, known.local.as_ref(), now, &others)
                .context(Operation::Read, || &self.path)?;
        }
        let left_to_undo = undo.map(Undo::left);
        let mut trees = Trees {
            base,
            now: scan.manifest.as_ref().unwrap_or(base),
            target: &target,
            interrupted: interrupted.as_ref(),
            maker: Maker::of(&self.kept()),
            in_place: HashSet::new(),
            local: known.local.as_ref(),
            left_to_undo: left_to_undo.as_ref(),
        };
        let moves = plan_moves(&mut trees, tree, transit, scan.left_out)
            .context(Operation::Read, || &self.path)?;
        if what == Changes::Respect && !moves.conflicts.is_empty() {
            return Err(self.in_the_way(&moves));
        }
        let mut report = begun((from, to), &trees, &moves, undo);
        report.discards_earlier = self.discards_earlier(what, interrupted.is_some(), &moves)?;
        if dry_run {
            return Ok(Passed { report, made: Vec::new(), times: moves.times });
        }
        // We read the metadata before the stage changes the root's time.
        let metadata = match transit.notes_undo() {
            true => self.metadata_before(&root, &moves)?,
            false => Vec::new(),
        };
        self.must_cross_no_mount(&root, &moves, undo)?;
        // Everything that can fail for lack of space or content happens before we change anything.
        let bring = Bring {
            store: &self.store,
            root: &root,
            path: &self.path,
            trees: &trees,
            moves: &moves,
            is_private: false,
        };
        self.must_take_changes(&root, &moves, undo)?;
        bring.must_make_way()?;
        let staged = bring.stage(operation)?;
        self.connect_staged(&staged, operation)?;
        if let Some(local) = &known.local {
            self.relocate_staged(tree, local, &staged, self.store.snapshots().found(to, &object)?)
                .context(Operation::RewritePaths, || &self.path)?;
        }
        // The plan does not have a name that the scan missed. The files that a switch must not lose
        // are guarded nevertheless.
        let restless = scan.skipped.iter().filter(|it| it.reason == SkipReason::Restless);
        report.skipped = restless.chain(staged.skipped()).cloned().collect();
        let row = WorktreeRow { state: State::Restoring, target: Some(to), ..self.row.clone() };
        let mut moves_aside = transit.notes_undo();
        if moves_aside && interrupted.is_none() && has_no_changes(&moves) {
            // Work that an earlier switch moved aside is worth more than the way back from a tree
            // without any. And the same switch may be called again when it is done.
            report.keeps_earlier = self.has_moved_aside()?;
            moves_aside = !(report.keeps_earlier || from == to && self.has_undo()?);
        }
        if moves_aside {
            // We write this before we mark the row. After the mark, changes by hand cannot be told
            // from a switch that is half done.
            let going_on = interrupted.is_some();
            self.note_undo(&root, &trees, &moves, UndoStep { from, to }, going_on, metadata)?;
        } else if undo.is_none() {
            self.note_step(UndoStep { from, to })?;
        }
        self.store.registry().set_state(&row)?;
        if moves_aside {
            report.kept.extend(self.move_aside(&root, &trees, &moves)?);
        }
        let made = staged.made.clone();
        let known = scan.index.as_ref().or(known.index.as_ref());
        let (forgotten, stayed) = self.bring_to(to, &bring, staged, known)?;
        report.changed -= forgotten;
        report.removed -= stayed;
        report.elapsed = started.elapsed();
        Ok(Passed { report, made, times: moves.times })
    }

    /// Changes the tree to that of `to`, and notes that it is. Returns how many entries do not count
    /// as changed, and how many not as removed, although the plan has them.
    fn bring_to(
        &self,
        to: SnapshotId,
        bring: &Bring<'_>,
        staged: Staged,
        known: Option<&Index>,
    ) -> Result<(u64, u64), Error> {
        let Applied { forgotten, stayed, discarded, given } = bring.apply(staged)?;
        let index = bring.index(to, &given, known)?;
        self.store.registry().write_index(&self.row.token, &index)?;
        // The row may reach the disk before the renames do. Then a power cut would leave the old
        // tree, or a part of the new one, under a row that says that nothing is left to do.
        staging::flush_filesystem(bring.root).context(Operation::Flush, || &self.path)?;
        let row = WorktreeRow {
            state: State::Ready,
            target: None,
            snapshot: Some(to),
            ..self.row.clone()
        };
        self.store.registry().set_state(&row)?;
        discarded.context(Operation::RemoveLeftovers, || &self.path)?;
        Ok((forgotten, stayed))
    }

    /// The error of a switch that would overwrite local changes.
    fn in_the_way(&self, moves: &Moves) -> Error {
        let cause = io::Error::other("local changes are in the way");
        Error::new(ErrorKind::Changed, Operation::RestoreWorktree, &self.path, cause)
            .with_details(moves.conflicts.iter().map(|path| shown(path)).collect())
    }

    /// The snapshot that a killed switch was to bring the worktree to.
    fn interrupted(&self, like: &[&Manifest]) -> Result<Option<Manifest>, Error> {
        let (State::Restoring, Some(id)) = (self.row.state, self.row.target) else {
            return Ok(None);
        };
        let object = self.store.catalog().object(id)?;
        self.store.catalog().manifest_like(id, &object, like).map(Some)
    }

    /// Fails if a folder whose entries are to change is in a read-only subvolume or mount, is
    /// immutable, or is another user's. If that were met on the way, half a switch would be left.
    fn must_take_changes(
        &self,
        root: &OwnedFd,
        moves: &Moves,
        undo: Option<&Undo>,
    ) -> Result<(), Error> {
        let mended = moves.mend.keys().filter(|path| moves.by_hand.contains(*path));
        let changed = moved(moves, undo).chain(mended);
        let folders: BTreeSet<&Path> = changed.filter_map(|path| path.parent()).collect();
        for folder in folders {
            // If it is not there, it is made; the switch itself meets any other error.
            let Ok(dir) = open_at(root, folder) else { continue };
            let Err(errno) = ask_to_write(&dir, c".") else { continue };
            // calve gives folders of this user another mode for a while.
            let is_other = || Ok::<_, Errno>(Meta::of_file(&dir)?.uid != geteuid().as_raw());
            if matches!(errno, Errno::ROFS | Errno::PERM)
                || errno == Errno::ACCESS && is_other().unwrap_or(true)
            {
                return Err(Error::io(Operation::Write, self.path.join(folder), errno));
            }
        }
        Ok(())
    }

    /// Fails if something is mounted in the tree at a path that is to change: it belongs to a place
    /// outside of the worktree, which nobody wants to change. A link is no mount: a switch never
    /// follows one.
    fn must_cross_no_mount(
        &self,
        root: &OwnedFd,
        moves: &Moves,
        undo: Option<&Undo>,
    ) -> Result<(), Error> {
        let path = std::fs::canonicalize(&self.path).context(Operation::Open, || &self.path)?;
        if !mounts::any_below(&path) {
            return Ok(());
        }
        let changed = moved(moves, undo).chain(moves.mend.keys()).chain(moves.directories.keys());
        // No path twice, and each folder before its entries.
        let paths: BTreeSet<&Path> = changed.flat_map(|path| path.ancestors()).collect();
        for path in paths.into_iter().filter(|path| !path.as_os_str().is_empty()) {
            let here = (root.as_fd(), Path::new("."));
            if mounts::same_mount((root.as_fd(), path), here) == Some(false) {
                let why = "something is mounted there, and a restore changes nothing outside of its worktree: unmount it first";
                let cause = io::Error::new(io::ErrorKind::CrossesDevices, why);
                return Err(Error::io(Operation::Write, self.path.join(path), cause));
            }
        }
        Ok(())
    }

    /// Lets the staged files `.git` of submodules lead to repositories of the worktree.
    fn connect_staged(&self, staged: &Staged, operation: &Running) -> Result<(), Error> {
        let files = staged.places.keys().filter(|path| may_be_of_module(path));
        let mut files: Vec<PathBuf> = files.cloned().collect();
        if files.is_empty() {
            return Ok(());
        }
        outer_first(&mut files);
        let Some(modules) = modules(&self.store, &self.row, &self.path) else { return Ok(()) };
        let registration = git::leads_to(&self.path).context(Operation::Link, || &self.path)?;
        let submodules = Submodules { modules: &modules, registration: &registration, operation };
        let tree = Tree { path: &self.path, root: staged.stage.dir() };
        for path in files {
            submodules.connect(tree, &path, Path::new(&staged.places[&path]))?;
        }
        Ok(())
    }

    /// Gives staged files the worktree's root.
    fn relocate_staged(
        &self,
        tree: Tree<'_>,
        local: &Local,
        staged: &Staged,
        mut found: Found,
    ) -> io::Result<()> {
        let Some(roots) = &local.roots else { return Ok(()) };
        found.keep_tracked(&self.path);
        if found.roots.first() != roots.from().next() {
            // The project was moved between the two snapshots. Files that name a third root stay.
            return Ok(());
        }
        let mut roots = roots.clone();
        if roots.add(&found.roots) {
            // Before any file has such a root: then each command knows what it means.
            roots.write(&self.kept())?;
        }
        let relocate = Relocate {
            tree: Tree { path: &self.path, root: staged.stage.dir() },
            roots: &roots,
            before: None,
            whose: Whose::Staged,
            at: &|path| staged.place_of(path),
            others: &|path| {
                let content = tree.read(path).ok()??;
                let canonical = local.canonical(tree, path, &content).ok()??;
                Some((Digest::of(&canonical), Digest::of(&content)))
            },
        };
        relocate.run(&found.mentions).map(drop)
    }
}

/// The paths that a switch makes, removes or moves aside, and those that an undo brings back.
fn moved<'a>(moves: &'a Moves, undo: Option<&'a Undo>) -> impl Iterator<Item = &'a PathBuf> {
    let back = undo.into_iter().flat_map(|it| it.record.deleted.iter().chain(&it.aside.files));
    let changed = moves.put.keys().chain(&moves.remove).chain(&moves.conflicts);
    changed.chain(&moves.linked).chain(moves.whole.keys()).chain(back)
}

/// Whether a forced switch finds nothing that it would overwrite.
fn has_no_changes(moves: &Moves) -> bool {
    moves.conflicts.is_empty() && !moves.mend.keys().any(|path| moves.by_hand.contains(path))
}

/// The report of a switch or an undo that does as the plan says.
fn begun(
    (from, to): (SnapshotId, SnapshotId),
    trees: &Trees<'_>,
    moves: &Moves,
    undo: Option<&Undo>,
) -> SwitchReport {
    let (also_changed, also_removed) = undo.map_or((0, 0), |undo| undo.counts(trees, moves));
    SwitchReport {
        from,
        to,
        changed: trees.changed(moves) + also_changed,
        removed: moves.remove.iter().filter(|path| moves.goes(path)).count() as u64 + also_removed,
        kept: match undo {
            Some(undo) => undo.aside.files.iter().map(|path| shown(path)).collect(),
            None => undo::kept(trees, moves),
        },
        left_repositories: moves.left.clone(),
        keeps_earlier: false,
        discards_earlier: false,
        leaves_newer_output: trees
            .leaves_newer_output(moves, undo.map_or(&BTreeSet::new(), |it| &it.aside.files)),
        skipped: Vec::new(),
        elapsed: Duration::ZERO,
    }
}

/// What a switch does with each path. `left_out` as in [`Trees::decide_times`].
fn plan_moves(
    trees: &mut Trees<'_>,
    tree: Tree<'_>,
    transit: &Transit<'_>,
    left_out: bool,
) -> io::Result<Moves> {
    let Transit { what, undo, update, .. } = *transit;
    let root = tree.root;
    if what == Changes::Reset {
        trees.find_in_place(root)?;
    }
    let mut moves = trees.plan(what);
    if let Some(leave) = transit.leave_secrets {
        leave_secrets(trees, tree.path, leave, &mut moves);
    }
    match update {
        // The project's times tell its build output what is fresh.
        Some(whole) => moves.take_whole(trees, whole.clone()),
        None => {
            let noted = undo.map(|undo| undo.noted.into());
            trees.decide_times(&mut moves, left_out, noted, now().into());
        }
    }
    trees.find_hidden(root, &mut moves)?;
    if what != Changes::Respect {
        trees.find_linked(root, &mut moves)?;
    }
    if let Some(undo) = undo {
        trees.guard_from_undo(root, undo, &mut moves)?;
    }
    if what != Changes::Respect || undo.is_some() {
        leave_repositories(trees, tree.path, undo, &mut moves);
    }
    Ok(moves)
}

/// Takes files out of the plan that look like secrets, that git does not track, and that the target
/// does not have. If git cannot say it, they stay. The target may have a file in the place of their
/// folder; then they are in its way.
fn leave_secrets(
    trees: &Trees<'_>,
    root: &Path,
    LeaveSecrets(leave): &LeaveSecrets,
    moves: &mut Moves,
) {
    let at = |path: &Path| trees.find(trees.target, path).map(|at| trees.target.at(at));
    let is_lacking = |path: &&PathBuf| {
        let mut above = path.ancestors().skip(1);
        at(path).is_none() && above.all(|above| at(above).is_none_or(Entry::is_directory))
    };
    let secret = |path: &PathBuf| Some(Secret { path: path.clone(), kind: kind_at(root, path)? });
    let mut secrets: Vec<Secret> =
        moves.remove.iter().filter(is_lacking).filter_map(secret).collect();
    if secrets.is_empty() {
        return;
    }
    let has = |path: &Path| trees.find(trees.now, path).is_some();
    let paths = secrets.iter().map(|secret| secret.path.as_path());
    let tracked = tracked_within(root, has, paths).unwrap_or_default();
    secrets.retain(|secret| !tracked.contains(&secret.path));
    if secrets.is_empty() || !leave(&secrets) {
        return;
    }
    for path in secrets.iter().flat_map(|secret| secret.path.ancestors()) {
        // A folder stays with what is in it.
        moves.remove.remove(path);
        moves.conflicts.remove(path);
    }
}

//! Takes a worktree from one snapshot to another and touches only the paths that differ.
//!
//! # Which paths a switch touches
//! calve compares the two snapshots. It leaves a path alone if the snapshots agree on it, whatever
//! the path holds by now. A path that must change and that was changed by hand is a *conflict*,
//! unless it already is as the target has it. If there are conflicts, calve changes nothing. With
//! `force`, it moves the conflicting entries aside, into `.calve/undo` of the worktree, and
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
//! switch had moved aside.
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
//!
//! # No step leaves the tree
//! calve opens every directory step by step from the root, and no step follows a link. So a tree
//! that another process rearranges meanwhile leads calve nowhere else.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, AtFlags};
use rustix::io::Errno;

use super::at::{last, open_at, open_parent, remove_at};
use super::{Worktree, shown};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::meta::{self, Meta};
use crate::report::{SkipReason, Skipped};
use crate::store::catalog::{State, WorktreeRow};
use crate::store::delta::At;
use crate::store::id::SnapshotId;
use crate::store::index::{Boot, Index, Stat};
use crate::store::manifest::{Builder, Manifest, NO_ID};
use crate::store::materialize::{Plan, materialize};
use crate::store::metadata::Maker;
use crate::store::object::{Entry, Kind};
use crate::store::registry::no_worktree;
use crate::store::scan::stat_of;
use crate::store::{StoreOptions, locks, now};
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage};
use plan::{Moves, Times, Trees};
use undo::Undo;

mod plan;
pub(crate) mod undo;

/// How many files go to one directory of the stage. One thread fills each directory.
const STAGED_TOGETHER: usize = 128;

/// How [`Worktree::switch`] treats local changes; built by value.
#[derive(Debug, Clone, Default)]
pub struct SwitchOptions {
    force: bool,
}

impl SwitchOptions {
    /// A local change that is in the way is an error.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether calve moves local changes aside if they are in the way. [`Worktree::undo`] brings
    /// them back.
    #[must_use]
    pub fn force(mut self, yes: bool) -> Self {
        self.force = yes;
        self
    }
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
    /// [`Worktree::undo`] brings them back. A report of [`Worktree::undo`] has the paths that it
    /// brought back.
    pub kept: Vec<PathBuf>,
    /// Entries that arrived without a part of themselves. Also folders whose names kept changing
    /// while calve listed them ([`SkipReason::Restless`]): calve may not have seen changes by hand
    /// in them.
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// How a switch treats changes by hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    /// They stay. If one is in the way, the switch does nothing.
    Respect,
    /// They stay, but those in the way are moved aside.
    MoveAside,
    /// All of them are moved aside.
    Reset,
}

impl Worktree {
    /// Makes the worktree a tree of the snapshot `to`. Touches only the paths at which `to` and the
    /// worktree's base snapshot differ.
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
    /// ([`WorktreeState::Switching`](crate::WorktreeState::Switching)), but each path is whole; the
    /// same call continues the switch. If only the removal of the stage failed, the error says so,
    /// and everything else is done.
    pub fn switch(
        &self,
        to: SnapshotId,
        how: &SwitchOptions,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        let what = if how.force { Changes::MoveAside } else { Changes::Respect };
        self.alone(|this| Ok(this.transit(to, what, None, &options.operation())?.0))
    }

    /// Makes the worktree equal to its base snapshot. Files also get the times of the snapshot,
    /// unless `.calveignore` leaves anything out: see [`Worktree::switch`]. [`Worktree::undo`] can
    /// bring back everything that was changed, added or deleted by hand, until the next forced
    /// switch or reset.
    ///
    /// # Errors
    /// The same as for [`Worktree::switch`].
    pub fn reset(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        self.alone(|this| {
            let to = this.based_on()?;
            Ok(this.transit(to, Changes::Reset, None, &options.operation())?.0)
        })
    }

    /// Calls `work` with the worktree as the store has it now. No other process can switch the
    /// worktree meanwhile.
    fn alone<T>(&self, work: impl FnOnce(&Self) -> Result<T, Error>) -> Result<T, Error> {
        self.as_now(|this| {
            let _alone = this.lock()?;
            work(&this.now()?)
        })
    }

    fn lock(&self) -> Result<locks::Guard, Error> {
        self.store.must_be_writable(Operation::SwitchWorktreeOf)?;
        self.must_keep_to_itself()?;
        let alone = self.store.registry().lock(&self.row)?.ok_or_else(|| {
            let cause =
                io::Error::new(io::ErrorKind::WouldBlock, "another process is switching it");
            Error::new(ErrorKind::Busy, Operation::SwitchWorktree, &self.path, cause)
        })?;
        // A process that was killed while it discarded undo data left that data here. We sweep it
        // now, because the command may have nothing else to do.
        if let Some(own) = self.open_own()? {
            staging::sweep(&own);
        }
        Ok(alone)
    }

    fn transit(
        &self,
        to: SnapshotId,
        what: Changes,
        undo: Option<&Undo>,
        operation: &Running,
    ) -> Result<(SwitchReport, Times), Error> {
        let started = std::time::Instant::now();
        self.must_be_there()?;
        let from = self.based_on()?;
        let _guard = self.store.share()?;
        let known = self.known()?;
        let (mut scan, _) = self.store.scan(&known, None, operation)?;
        let Some((_, _, base)) = &known.base else { return Err(no_worktree(self.name())) };
        let object = self.store.object(to)?;
        let target = self.store.catalog().manifest(to, &object)?;
        let interrupted = match (self.row.state, self.row.target) {
            (State::Switching, Some(id)) => {
                Some(self.store.catalog().manifest(id, &self.store.object(id)?)?)
            }
            _ => None,
        };
        let root = super::open_dir(&self.path)?;
        if let Some(now) = &mut scan.manifest {
            let others: Vec<&Manifest> =
                [Some(&target), interrupted.as_ref()].into_iter().flatten().collect();
            plan::learn(&root, now, &others).context(Operation::Read, || &self.path)?;
        }
        let mut trees = Trees {
            base,
            now: scan.manifest.as_ref().unwrap_or(base),
            target: &target,
            interrupted: interrupted.as_ref(),
            maker: Maker::of(&root),
            in_place: HashSet::new(),
        };
        if what == Changes::Reset {
            trees.find_in_place(&root).context(Operation::Read, || &self.path)?;
        }
        let mut moves = trees.plan(what);
        trees.decide_times(&mut moves, scan.left_out, undo.map(|undo| undo.noted), now());
        trees.find_hidden(&root, &mut moves).context(Operation::Read, || &self.path)?;
        if what != Changes::Respect {
            trees.find_linked(&root, &mut moves).context(Operation::Read, || &self.path)?;
        }
        if let Some(undo) = undo {
            trees.guard_from_undo(undo, &mut moves);
        }
        if what == Changes::Respect && !moves.conflicts.is_empty() {
            let cause = io::Error::other("local changes are in the way");
            return Err(Error::new(
                ErrorKind::Changed,
                Operation::SwitchWorktree,
                &self.path,
                cause,
            )
            .with_details(moves.conflicts.iter().map(|path| shown(path)).collect()));
        }
        let mut report = SwitchReport {
            from,
            to,
            changed: 0,
            removed: 0,
            kept: Vec::new(),
            skipped: Vec::new(),
            elapsed: Duration::ZERO,
        };
        // We read the metadata before the stage changes the root's time.
        let metadata = match what {
            Changes::Respect => Vec::new(),
            _ => self.metadata_before(&root, &moves)?,
        };
        // Everything that can fail for lack of space or content happens before we change anything.
        let staged = self.stage(&root, &trees, &moves, operation)?;
        // The plan does not have a name that the scan missed. The files that a switch must not lose
        // are guarded nevertheless.
        let restless = scan.skipped.iter().filter(|it| it.reason == SkipReason::Restless);
        report.skipped = restless.chain(&staged.skipped).cloned().collect();
        let row = WorktreeRow { state: State::Switching, target: Some(to), ..self.row.clone() };
        // The same forced switch or reset may be called again when it is done. Then it moves
        // nothing aside, and does not replace the undo data of the first call.
        let nothing = interrupted.is_none()
            && from == to
            && moves.conflicts.is_empty()
            && !moves.mend.keys().any(|path| moves.by_hand.contains(path));
        let again = nothing && self.has_undo()?;
        let moves_aside = what != Changes::Respect && !again;
        if moves_aside {
            // We write this before we mark the row. After the mark, changes by hand cannot be told
            // from a switch that is half done.
            let going_on = interrupted.is_some();
            self.note_undo(&root, &trees, &moves, from, going_on, metadata)?;
        }
        self.store.registry().set_state(&row)?;
        if moves_aside {
            report.kept = self.move_aside(&root, &trees, &moves)?;
        }
        let Applied { removed, given } = self.apply(&root, &trees, &moves, staged, &mut report)?;
        let known = scan.index.as_ref().or(known.index.as_ref());
        let index = self.index_of(&root, &trees, &moves, (to, &given), known)?;
        self.store.registry().write_index(&self.row.token, &index, &target)?;
        let row = WorktreeRow {
            state: State::Ready,
            target: None,
            snapshot: Some(to),
            ..self.row.clone()
        };
        self.store.registry().set_state(&row)?;
        removed.context(Operation::RemoveLeftovers, || &self.path)?;
        report.elapsed = started.elapsed();
        Ok((report, moves.times))
    }

    /// Makes all new files in a stage inside the worktree.
    fn stage(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        operation: &Running,
    ) -> Result<Staged, Error> {
        staging::sweep(root);
        let dir = root.try_clone().context(Operation::Open, || &self.path)?;
        let stage = Stage::empty(dir, &self.path).context(Operation::StageIn, || &self.path)?;
        let folder = |name: String| Entry {
            name: name.into_bytes().into(),
            mode: 0o700,
            uid: trees.target.root.uid,
            gid: trees.target.root.gid,
            mtime: (0, 0),
            attributes: None,
            kind: Kind::Directory(NO_ID),
        };
        let puts: Vec<(&PathBuf, At)> = moves.put.iter().map(|(path, at)| (path, *at)).collect();
        let mut builder = Builder::new(folder(String::new()));
        let mut places = HashMap::new();
        let mut folders: Vec<Entry> = Vec::new();
        for number in 0..puts.len().div_ceil(STAGED_TOGETHER) {
            folders.push(folder(format!("{number:08}")));
        }
        let mut fits = builder.add(folders);
        for (number, chunk) in puts.chunks(STAGED_TOGETHER).enumerate() {
            let mut entries = Vec::with_capacity(chunk.len());
            for (at, (path, entry)) in chunk.iter().enumerate() {
                let name = format!("{at:08}");
                places.insert((*path).clone(), format!("{number:08}/{name}"));
                entries.push(Entry {
                    name: name.into_bytes().into(),
                    ..trees.given(moves, path, *entry)
                });
            }
            fits &= builder.add(entries);
        }
        if !fits {
            return Err(Error::io(
                Operation::Switch,
                &self.path,
                io::Error::other("too many files"),
            ));
        }
        let manifest = builder.finish();
        // Reports and errors name the paths that the files will have, not the paths in the stage.
        let told = |staged: &Path| {
            let staged = staged.to_str();
            places.iter().find(|(_, place)| Some(place.as_str()) == staged).map(|(path, _)| path)
        };
        let root = stage.dir().try_clone().context(Operation::StageIn, || &self.path)?;
        let plan = Plan {
            store: &self.store,
            manifest: &manifest,
            paths: std::slice::from_ref(&self.path),
            operation,
        };
        let made = materialize(&plan, vec![root]).map_err(|error| {
            let Ok(staged) = error.path().strip_prefix(&self.path) else { return error };
            let path = told(staged).map_or(self.path.clone(), |path| self.path.join(path));
            error.with_path(path)
        })?;
        // The same as when a worktree is started: copied content is on the disk before the index
        // names it.
        if !made.unsealed.is_empty() || made.reports.iter().any(|report| report.copied_files > 0) {
            self.store.flush(&made.unsealed)?;
        }
        let mut skipped: Vec<Skipped> =
            made.reports.into_iter().flat_map(|report| report.skipped).collect();
        // The stage's own folders are deleted with the stage, so what they lack does not matter.
        skipped.retain_mut(|skipped| match told(&skipped.path) {
            Some(path) => {
                skipped.path.clone_from(path);
                true
            }
            None => false,
        });
        Ok(Staged { stage, places, skipped })
    }

    /// Fails if the entry at `path` changed since the scan, because the switch would lose that
    /// change. The next call of the same switch sees it as a change by hand.
    fn must_be_as_seen(&self, root: &OwnedFd, trees: &Trees<'_>, path: &Path) -> Result<(), Error> {
        let look = || -> io::Result<Option<Meta>> {
            let dir = open_parent(root, path)?;
            Ok(Some(Meta::of(&fs::statat(&dir, &last(path)?, AtFlags::SYMLINK_NOFOLLOW)?)))
        };
        let meta = match look() {
            Ok(Some(meta)) if meta.file_type() != fs::FileType::Directory => meta,
            // Nothing is there, or a directory is there, and the switch removes only empty
            // directories.
            _ => return Ok(()),
        };
        let seen = trees.find(trees.now, path).map(|at| trees.now.at(at)).is_some_and(|entry| {
            let size_is = match &entry.kind {
                Kind::File { size, .. } => *size == meta.size,
                Kind::Symlink { target, .. } => target.len() as u64 == meta.size,
                Kind::Fifo { .. } => true,
                Kind::Directory(_) => false,
            };
            size_is && (entry.mtime.0, i64::from(entry.mtime.1)) == meta.modified()
        });
        if seen {
            return Ok(());
        }
        Err(self.in_the_way(path, "it was changed while the switch was under way"))
    }

    fn in_the_way(&self, path: &Path, why: &'static str) -> Error {
        Error::new(ErrorKind::Changed, Operation::SwitchWorktree, &self.path, io::Error::other(why))
            .with_details(vec![path.to_owned()])
    }

    /// Removes, makes, puts and mends the paths of the plan.
    fn apply(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        staged: Staged,
        report: &mut SwitchReport,
    ) -> Result<Applied, Error> {
        let failed = |path: &Path| self.path.join(path);
        // Entries in a directory go before the directory.
        for path in moves.remove.iter().rev() {
            self.must_be_as_seen(root, trees, path)?;
            if remove_at(root, path).context(Operation::Remove, || failed(path))? {
                report.removed += 1;
            }
        }
        for (path, at) in &moves.directories {
            let entry = trees.target.at(*at);
            let make = || -> io::Result<bool> {
                let dir = open_parent(root, path)?;
                match fs::mkdirat(&dir, &last(path)?, meta::mode(entry.mode & 0o777 | 0o700)) {
                    Ok(()) => Ok(true),
                    Err(Errno::EXIST) => {
                        // The owner must be able to enter the directory while we work in it.
                        let dir = open_at(root, path)?;
                        let mode = Meta::of(&fs::fstat(&dir)?).permissions();
                        if mode & 0o700 != 0o700 {
                            fs::fchmod(&dir, meta::mode(mode | 0o700))?;
                        }
                        Ok(false)
                    }
                    Err(errno) => Err(errno.into()),
                }
            };
            make().context(Operation::MakeDirectory, || failed(path))?;
        }
        let mut given = HashMap::new();
        for path in moves.put.keys() {
            let Some(place) = staged.places.get(path) else { continue };
            self.must_be_as_seen(root, trees, path)?;
            let mut put = || -> io::Result<bool> {
                let dir = open_parent(root, path)?;
                let name = last(path)?;
                if let Some(entry) = undo::look_at(staged.stage.dir(), Path::new(place))? {
                    given.insert(path.clone(), entry);
                }
                match fs::renameat(staged.stage.dir(), place.as_str(), &dir, &name) {
                    Ok(()) => return Ok(true),
                    Err(Errno::ISDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
                // The entries of snapshots in this directory are gone by now. Other entries may be
                // left.
                match fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR) {
                    Ok(()) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
                    Err(errno) => return Err(errno.into()),
                }
                Ok(fs::renameat(staged.stage.dir(), place.as_str(), &dir, &name).map(|()| true)?)
            };
            if !put().context(Operation::Put, || failed(path))? {
                return Err(self.in_the_way(
                    path,
                    "the folder holds what no snapshot has, and a file shall be in its place",
                ));
            }
            report.changed += 1;
        }
        // We check all paths before we change the first: some may be names of one file.
        for path in moves.mend.keys() {
            self.must_be_as_seen(root, trees, path)?;
        }
        for (path, at) in &moves.mend {
            let entry = trees.given(moves, path, *at);
            undo::set_in_place(root, path, &entry)
                .context(Operation::SetMetadata, || failed(path))?;
            given.insert(path.clone(), entry);
            report.changed += 1;
        }
        // Children come before their parents, because a change in a directory changes the
        // directory's time.
        for (path, at) in moves.directories.iter().rev() {
            let mut entry = trees.target.at(*at).clone();
            if moves.by_hand.contains(path)
                && !moves.conflicts.contains(path)
                && let Some(now) = trees.find(trees.now, path).map(|at| trees.now.at(at))
                && now.is_directory()
            {
                // The plan has this directory for its times, or for an entry in it. So its
                // metadata, which was changed by hand, is not in the way and stays.
                entry = Entry { mtime: entry.mtime, ..now.clone() };
            }
            undo::set_in_place(root, path, &entry)
                .context(Operation::SetMetadata, || failed(path))?;
            report.changed += 1;
        }
        let removed = staged.stage.discard();
        let (path, mut entry) = (Path::new(""), trees.target.root.clone());
        if moves.by_hand.contains(path) && !moves.conflicts.contains(path) {
            // The snapshots agree on the root, or the root already has the target's metadata.
            entry = Entry { mtime: entry.mtime, ..trees.now.root.clone() };
        }
        if !entry.same_metadata(&trees.now.root) {
            report.changed += 1;
        }
        undo::set_in_place(root, path, &entry).context(Operation::SetMetadata, || &self.path)?;
        Ok(Applied { removed, given })
    }

    /// Makes the index of the target. Entries that the switch did not touch keep their stat from
    /// the old index.
    fn index_of(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        (to, given): (SnapshotId, &HashMap<PathBuf, Entry>),
        old: Option<&Index>,
    ) -> Result<Index, Error> {
        let mut stats = vec![Stat::default(); trees.target.count as usize];
        let mut touched = Vec::new();
        let mut pairs = vec![(0_u32, Some(0_u32), PathBuf::new())];
        while let Some((place, base_place, path)) = pairs.pop() {
            let directory = &trees.target.directories[place as usize];
            let base = base_place.and_then(|place| trees.base.directories.get(place as usize));
            for (slot, entry) in (0..).zip(&directory.entries) {
                let path = path.join(crate::store::manifest::os(&entry.name));
                let base_slot = base.and_then(|base| base.find(&entry.name));
                let number = (directory.first + slot) as usize;
                if moves.put.contains_key(&path) || moves.mend.contains_key(&path) {
                    touched.push((number, path.clone()));
                } else if !moves.by_hand.contains(&path)
                    && let (Some(base), Some(slot), Some(old)) = (base, base_slot, old)
                    && let Some(stat) = old.stats.get((base.first + slot) as usize)
                    && stat.changed < old.stamp
                    && !entry.is_directory()
                {
                    stats[number] = *stat;
                }
                if let Some(child) = directory.child(slot) {
                    let below = base.and_then(|base| base.child(base_slot?));
                    pairs.push((child, below, path));
                }
            }
        }
        let stat = |path: &Path| -> io::Result<Stat> {
            let dir = open_parent(root, path)?;
            Ok(stat_of(&Meta::of(&fs::statat(&dir, &last(path)?, AtFlags::SYMLINK_NOFOLLOW)?)))
        };
        for (number, path) in &touched {
            stats[*number] = stat(path).unwrap_or_default();
        }
        let stamp = self.store.clock_past_all(stats.iter())?;
        // The index vouches for owner, mode and attributes, too. So an entry that is not what the
        // switch put there gets no stat, and the next scan looks at it. A later change gets a later
        // change time than the one in the index.
        for (number, path) in touched {
            let entry = undo::look_at(root, &path).ok().flatten();
            let is_it = given.get(&path).zip(entry).is_some_and(|(given, entry)| {
                given.same_metadata(&entry)
                    && given.mtime == entry.mtime
                    && same_size(given, &entry)
            });
            if !is_it || stat(&path).ok() != Some(stats[number]) {
                stats[number] = Stat::default();
            }
        }
        Ok(Index { snapshot: to, boot: Boot::this(), stamp, stats })
    }
}

/// What `apply` did.
struct Applied {
    /// Whether the stage could be removed. Everything else is done.
    removed: io::Result<()>,
    /// The metadata and the size that the switch gave to each entry that it put or mended.
    given: HashMap<PathBuf, Entry>,
}

fn same_size(a: &Entry, b: &Entry) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::File { size: a, .. }, Kind::File { size: b, .. }) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// New files, and their paths in the stage.
struct Staged {
    stage: Stage,
    places: HashMap<PathBuf, String>,
    skipped: Vec<Skipped>,
}

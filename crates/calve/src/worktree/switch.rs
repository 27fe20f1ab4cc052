//! Taking a worktree from one snapshot to another, touching only what differs.
//!
//! # What is touched
//! The two snapshots are compared; paths at which they agree are left alone, whatever they hold by now. A path that must change and
//! that was changed by hand is a *conflict*, unless it already holds what it shall. With conflicts nothing is done, or, with
//! `force`, what is in the way is moved aside, into `.calve/undo` of the worktree, from where [`Worktree::undo`] brings it back.
//! What was added by hand in a directory that goes stays, and the directory with it.
//!
//! # Cut short
//! All new files are made first, in a stage inside the worktree, so that a full disk or lost content is found before anything is
//! changed. Then it is noted what undoing takes, the row is marked, and each path changes by one rename. If the process dies in between, the tree is partly the old
//! and partly the new snapshot, and the mark says so. Whoever switches or resets it next takes what is as in either snapshot, or gone, for
//! the work of the one who was cut short, and not for changes by hand; and keeps what that one had moved aside already.
//!
//! # Hidden
//! Where a file shall be put and the scan saw nothing, there may be one all the same, which a rule in `.calveignore` hides. It counts as
//! a change that is in the way: nobody else may have its content.
//!
//! # Times
//! Files get the times that the snapshot says. But if something stays that no snapshot has, which `.calveignore` leaves out or
//! which was added by hand, it may be build output, made of other content. Then each file that gets another content gets a new
//! time, too, or the next build would take it for one that it has seen.
//!
//! # Contained
//! Every directory is opened step by step from the root, and no step follows a link, so a tree that is rearranged meanwhile leads
//! nowhere else.

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

/// How many files go to one directory of the stage, each of which one thread fills.
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

    /// Whether local changes that are in the way are moved aside. [`Worktree::undo`] brings them back.
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
    /// What the worktree was based on.
    pub from: SnapshotId,
    /// What it is based on now.
    pub to: SnapshotId,
    /// Entries that were made, replaced or given other metadata.
    pub changed: u64,
    /// Entries that were removed.
    pub removed: u64,
    /// What was changed by hand and was in the way, from the worktree's root: [`Worktree::undo`] brings it back.
    pub kept: Vec<PathBuf>,
    /// What arrived without a part of itself; and folders whose names kept changing while they were listed
    /// ([`SkipReason::Restless`]), in which changes by hand may not have been seen.
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// What shall become of what was changed by hand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changes {
    /// It stays; where it is in the way, nothing is done.
    Respect,
    /// It stays, but for what is in the way, which is moved aside.
    MoveAside,
    /// All of it is moved aside.
    Reset,
}

impl Worktree {
    /// Makes it a tree of the snapshot `to`; only what differs between that and its own is touched.
    ///
    /// Files get the times that the snapshot says. If the tree holds files that no snapshot has, because `.calveignore` leaves them
    /// out or they were added by hand, they may be build output. Then files that get another content get the time of the call,
    /// so that the next build sees that they changed.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] where that would touch what was changed by hand and [`SwitchOptions::force`] is not set: nothing was
    /// done, and [`Error::details`] has the paths. Later errors leave it between the two snapshots, each path whole:
    /// [`WorktreeState::Switching`](crate::WorktreeState::Switching); the same call goes on. Where only the removal of what was staged
    /// failed, the error says so, and all else is done.
    pub fn switch(
        &self,
        to: SnapshotId,
        how: &SwitchOptions,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        let what = if how.force { Changes::MoveAside } else { Changes::Respect };
        self.alone(|this| Ok(this.transit(to, what, None, &options.operation())?.0))
    }

    /// Makes it what its snapshot is, also in its files' times, unless its rules leave anything out: see [`Worktree::switch`].
    /// Everything that was changed, added or deleted by hand can be brought back by
    /// [`Worktree::undo`], until the next forced switch or reset.
    ///
    /// # Errors
    /// As for [`Worktree::switch`].
    pub fn reset(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        self.alone(|this| {
            let to = this.based_on()?;
            Ok(this.transit(to, Changes::Reset, None, &options.operation())?.0)
        })
    }

    /// Does `work` with it as it is now, and keeps others from switching it at the same time.
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
        // What was killed while it gave up what could be undone left that here, also where nothing else is left to do.
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
        // Before the stage changes the root's time.
        let metadata = match what {
            Changes::Respect => Vec::new(),
            _ => self.metadata_before(&root, &moves)?,
        };
        // All that can fail for want of space or content comes before anything is changed.
        let staged = self.stage(&root, &trees, &moves, operation)?;
        // A name that was missed was not there for the plan; what it must not lose is guarded all the same.
        let restless = scan.skipped.iter().filter(|it| it.reason == SkipReason::Restless);
        report.skipped = restless.chain(&staged.skipped).cloned().collect();
        let row = WorktreeRow { state: State::Switching, target: Some(to), ..self.row.clone() };
        // The same again, once it is done, moves nothing aside, and takes nothing from the undo of the first.
        let nothing = interrupted.is_none()
            && from == to
            && moves.conflicts.is_empty()
            && !moves.mend.keys().any(|path| moves.by_hand.contains(path));
        let again = nothing && self.has_undo()?;
        let moves_aside = what != Changes::Respect && !again;
        if moves_aside {
            // Before the row is marked: from then on what was changed by hand cannot be told from what is half done.
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

    /// Makes every file that is to be put, in a stage inside the worktree.
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
        // What is told is told of the paths that the files shall have.
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
        // As for a tree that is started: what was copied is on the disk before it is in the index.
        if !made.unsealed.is_empty() || made.reports.iter().any(|report| report.copied_files > 0) {
            self.store.flush(&made.unsealed)?;
        }
        let mut skipped: Vec<Skipped> =
            made.reports.into_iter().flat_map(|report| report.skipped).collect();
        // The stage's own folders go with it, whatever they came without.
        skipped.retain_mut(|skipped| match told(&skipped.path) {
            Some(path) => {
                skipped.path.clone_from(path);
                true
            }
            None => false,
        });
        Ok(Staged { stage, places, skipped })
    }

    /// Fails where something was made of a path since the tree was looked at: it would be lost. The same switch, asked for again,
    /// sees it as changed by hand.
    fn must_be_as_seen(&self, root: &OwnedFd, trees: &Trees<'_>, path: &Path) -> Result<(), Error> {
        let look = || -> io::Result<Option<Meta>> {
            let dir = open_parent(root, path)?;
            Ok(Some(Meta::of(&fs::statat(&dir, &last(path)?, AtFlags::SYMLINK_NOFOLLOW)?)))
        };
        let meta = match look() {
            Ok(Some(meta)) if meta.file_type() != fs::FileType::Directory => meta,
            // Nothing there; or a directory, of which only what is empty is ever removed.
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

    /// Changes what is to be changed.
    fn apply(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        staged: Staged,
        report: &mut SwitchReport,
    ) -> Result<Applied, Error> {
        let failed = |path: &Path| self.path.join(path);
        // The deepest first.
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
                        // It must let its owner in for as long as it is worked in.
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
                // What was in it is gone by now, unless it is of nobody's snapshot.
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
        // All of them first: some may be names of one file.
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
        // Children before their parents, whose times would change again.
        for (path, at) in moves.directories.iter().rev() {
            let mut entry = trees.target.at(*at).clone();
            if moves.by_hand.contains(path)
                && !moves.conflicts.contains(path)
                && let Some(now) = trees.find(trees.now, path).map(|at| trees.now.at(at))
                && now.is_directory()
            {
                // It is here for its times, or for what is in it; what was made of it by hand is not in the way.
                entry = Entry { mtime: entry.mtime, ..now.clone() };
            }
            undo::set_in_place(root, path, &entry)
                .context(Operation::SetMetadata, || failed(path))?;
            report.changed += 1;
        }
        let removed = staged.stage.discard();
        let (path, mut entry) = (Path::new(""), trees.target.root.clone());
        if moves.by_hand.contains(path) && !moves.conflicts.contains(path) {
            // The snapshots agree on it, or it is as it shall be.
            entry = Entry { mtime: entry.mtime, ..trees.now.root.clone() };
        }
        if !entry.same_metadata(&trees.now.root) {
            report.changed += 1;
        }
        undo::set_in_place(root, path, &entry).context(Operation::SetMetadata, || &self.path)?;
        Ok(Applied { removed, given })
    }

    /// The index of the target: what was not touched keeps what is known of it.
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
        // The index vouches for owner, mode and attributes, too. So the next scan looks at an entry that is not what the switch
        // put there. A change from now on gets a later change time than the one that was noted.
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

/// What a switch did.
struct Applied {
    /// Whether the stage could be removed: all else is done.
    removed: io::Result<()>,
    /// What it put, and what it mended: the metadata and the size that it gave them.
    given: HashMap<PathBuf, Entry>,
}

fn same_size(a: &Entry, b: &Entry) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::File { size: a, .. }, Kind::File { size: b, .. }) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// New files, and where in the stage they are.
struct Staged {
    stage: Stage,
    places: HashMap<PathBuf, String>,
    skipped: Vec<Skipped>,
}

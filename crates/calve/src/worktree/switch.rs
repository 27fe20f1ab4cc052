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
//! changed. Then the row is marked, and each path changes by one rename. If the process dies in between, the tree is partly the old
//! and partly the new snapshot, and the mark says so: the same switch again finds what was done already to be as it shall be, and does
//! the rest.
//!
//! # Contained
//! Every directory is opened step by step from the root, and no step follows a link, so a tree that is rearranged meanwhile leads
//! nowhere else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::Worktree;
use crate::error::{Context as _, Error, ErrorKind};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Attrs, Meta};
use crate::report::Skipped;
use crate::store::db::{State, WorktreeRow};
use crate::store::delta::{At, Counts, compare};
use crate::store::id::{DirectoryId, SnapshotId};
use crate::store::index::{Index, Stat};
use crate::store::manifest::{Builder, Manifest};
use crate::store::materialize::{Plan, materialize, wanted};
use crate::store::object::{Entry, Kind};
use crate::store::scan::{OWN, stat_of};
use crate::store::snapshot;
use crate::store::{StoreOptions, bytes_of, id, path_from};
use crate::tree::staging::{self, Stage, stage_name};

/// How many files go to one directory of the stage, each of which one thread fills.
const STAGED_TOGETHER: usize = 128;

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
    /// What arrived without a part of itself.
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
    /// # Errors
    /// [`ErrorKind::Changed`] where that would touch what was changed by hand and not `force`: nothing was done, and
    /// [`Error::details`] has the paths. Later errors leave it between the two snapshots, each path whole:
    /// [`Standing::Switching`](crate::Standing::Switching); the same call goes on.
    pub fn switch(
        &self,
        to: SnapshotId,
        force: bool,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        self.transit(to, if force { Changes::MoveAside } else { Changes::Respect }, options)
    }

    /// Makes it what its snapshot is. Everything that was changed, added or deleted by hand can be brought back by
    /// [`Worktree::undo`], until the next forced switch or reset.
    ///
    /// # Errors
    /// As for [`Worktree::switch`].
    pub fn reset(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        self.transit(self.based_on()?, Changes::Reset, options)
    }

    /// Takes the last forced switch, or the last reset, back: the snapshot it was based on then, and what was moved aside.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] where it was changed by hand since, as for [`Worktree::switch`];
    /// [`ErrorKind::SnapshotNotFound`] where there is nothing to take back.
    pub fn undo(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        self.must_be_there()?;
        let undo = self.undo_path();
        let record = match std::fs::read(undo.join("record")) {
            Ok(text) => Record::decode(&text).ok_or_else(|| {
                let cause = io::Error::new(io::ErrorKind::InvalidData, "its record is damaged");
                Error::new(ErrorKind::Damaged, "undo", &undo, cause)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let cause =
                    io::Error::new(io::ErrorKind::NotFound, "there is nothing to take back");
                return Err(Error::new(ErrorKind::SnapshotNotFound, "undo", &self.path, cause));
            }
            Err(error) => return Err(error).context("read", || undo.join("record")),
        };
        let mut report = self.transit(record.from, Changes::Respect, options)?;
        let root = super::open_dir(&self.path)?;
        let back = || -> io::Result<Vec<PathBuf>> {
            let mut back = Vec::new();
            put_back(&root, &undo.join("files"), Path::new(""), &mut back)?;
            for path in record.deleted.iter().rev() {
                remove_at(&root, path)?;
            }
            for (path, mode) in &record.modes {
                let dir = open_at(&root, path)?;
                fs::fchmod(&dir, meta::mode(*mode))?;
            }
            Ok(back)
        };
        report.kept = back().context("bring back what was moved aside in", || &self.path)?;
        self.discard_undo()?;
        Ok(report)
    }

    fn undo_path(&self) -> PathBuf {
        self.path.join(OWN).join("undo")
    }

    /// What an earlier switch moved aside is not wanted any more.
    fn discard_undo(&self) -> Result<(), Error> {
        let own = self.path.join(OWN);
        let dir = super::open_dir(&own)?;
        staging::sweep(&dir);
        let aside = CString::new(stage_name()).context("remove", || &own)?;
        match fs::renameat(&dir, c"undo", &dir, &aside) {
            Ok(()) => staging::remove(&dir, &aside).context("remove", || &own),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("remove", own.join("undo"), errno)),
        }
    }

    fn transit(
        &self,
        to: SnapshotId,
        what: Changes,
        options: &StoreOptions,
    ) -> Result<SwitchReport, Error> {
        let started = std::time::Instant::now();
        self.store.must_be_writable("switch a worktree of")?;
        self.must_be_there()?;
        let from = self.based_on()?;
        let _guard = self.store.share()?;
        let known = self.known()?;
        let (scan, _) = self.store.scan(&known, false, options)?;
        let Some((_, _, base)) = &known.base else { return Err(super::no_worktree(self.name())) };
        let object = self.store.object(to)?;
        let target = self.store.db().manifest(to, &object)?;
        let trees = Trees { base, now: &scan.manifest, target: &target };
        let moves = trees.plan(what);
        if what == Changes::Respect && !moves.conflicts.is_empty() {
            let cause = io::Error::other("what was changed by hand is in the way");
            return Err(Error::new(ErrorKind::Changed, "switch worktree", &self.path, cause)
                .with_details(moves.conflicts.into_iter().collect()));
        }
        let root = super::open_dir(&self.path)?;
        let mut report = SwitchReport {
            from,
            to,
            changed: 0,
            removed: 0,
            kept: Vec::new(),
            skipped: Vec::new(),
            elapsed: Duration::ZERO,
        };
        // All that can fail for want of space or content comes before anything is changed.
        let staged = self.stage(&root, &target, &moves, options)?;
        report.skipped = staged.skipped.clone();
        let row = WorktreeRow { state: State::Switching, target: Some(to), ..self.row.clone() };
        snapshot::put(&self.store, &row)?;
        if what != Changes::Respect {
            self.discard_undo()?;
        }
        if !moves.conflicts.is_empty() {
            report.kept = self.move_aside(&root, &trees, &moves, from)?;
        }
        self.apply(&root, &trees, &moves, staged, &mut report)?;
        let index = self.index_of(&root, &trees, &moves, to, known.index.as_ref())?;
        self.store.write_index(&self.row.token, &index)?;
        let row = WorktreeRow {
            state: State::Ready,
            target: None,
            snapshot: Some(to),
            ..self.row.clone()
        };
        snapshot::put(&self.store, &row)?;
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// Makes every file that is to be put, in a stage inside the worktree.
    fn stage(
        &self,
        root: &OwnedFd,
        target: &Manifest,
        moves: &Moves,
        options: &StoreOptions,
    ) -> Result<Staged, Error> {
        staging::sweep(root);
        let dir = root.try_clone().context("open", || &self.path)?;
        let stage = Stage::empty(dir, &self.path).context("stage in", || &self.path)?;
        let nobody = DirectoryId::from_bytes([0; 32]);
        let folder = |name: String| Entry {
            name: name.into_bytes().into(),
            mode: 0o700,
            uid: target.root.uid,
            gid: target.root.gid,
            mtime: (0, 0),
            attributes: None,
            kind: Kind::Directory(nobody),
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
                entries.push(Entry { name: name.into_bytes().into(), ..target.at(*entry).clone() });
            }
            fits &= builder.add(entries);
        }
        if !fits {
            return Err(Error::io("switch", &self.path, io::Error::other("too many files")));
        }
        let manifest = builder.finish();
        let made = materialize(&Plan {
            store: &self.store,
            manifest: &manifest,
            roots: &[stage.dir().try_clone().context("stage in", || &self.path)?],
            paths: &[self.path.clone()],
            jobs: options.threads(),
            cancel: &options.cancel,
            progress: &options.progress,
        })?;
        if !made.unsealed.is_empty() {
            self.store.flush(&made.unsealed)?;
        }
        let skipped = made.reports.into_iter().flat_map(|report| report.skipped).collect();
        Ok(Staged { stage, places, skipped })
    }

    /// Moves what was changed by hand and is in the way to where `undo` finds it.
    fn move_aside(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        from: SnapshotId,
    ) -> Result<Vec<PathBuf>, Error> {
        let undo = self.undo_path();
        let files = undo.join("files");
        std::fs::create_dir_all(&files).context("make folder", || &files)?;
        let mut record = Record { from, deleted: Vec::new(), modes: Vec::new() };
        let mut aside = Vec::new();
        for path in &moves.conflicts {
            match trees.find(trees.now, path) {
                None => record.deleted.push(path.clone()),
                Some(at) if trees.now.at(at).is_directory() => {
                    if trees
                        .find(trees.target, path)
                        .is_some_and(|at| trees.target.at(at).is_directory())
                    {
                        record.modes.push((path.clone(), trees.now.at(at).mode));
                    }
                    aside.push((path, true));
                }
                Some(_) => aside.push((path, false)),
            }
        }
        // Before anything moves: with the record alone nothing is lost, only nothing is there to bring back.
        std::fs::write(undo.join("record"), record.encode())
            .context("write", || undo.join("record"))?;
        let to = super::open_dir(&files)?;
        for (path, is_dir) in aside {
            let moved = || -> io::Result<()> {
                let to = make_parents(&to, path)?;
                let name = last(path)?;
                if is_dir {
                    return match fs::mkdirat(&to, &name, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => Ok(()),
                        Err(errno) => Err(errno.into()),
                    };
                }
                let dir = open_parent(root, path)?;
                Ok(fs::renameat(&dir, &name, &to, &name)?)
            };
            moved().context("move aside", || self.path.join(path))?;
        }
        Ok(moves.conflicts.iter().cloned().collect())
    }

    /// Changes what is to be changed.
    fn apply(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        staged: Staged,
        report: &mut SwitchReport,
    ) -> Result<(), Error> {
        let failed = |path: &Path| self.path.join(path);
        // The deepest first.
        for path in moves.remove.iter().rev() {
            if remove_at(root, path).context("remove", || failed(path))? {
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
            make().context("make directory", || failed(path))?;
        }
        for path in moves.put.keys() {
            let Some(place) = staged.places.get(path) else { continue };
            let put = || -> io::Result<()> {
                let dir = open_parent(root, path)?;
                let name = last(path)?;
                match fs::renameat(staged.stage.dir(), place.as_str(), &dir, &name) {
                    // A directory that was emptied by hand, or that holds what is ignored.
                    Err(Errno::ISDIR) => {
                        staging::remove(&dir, &name)?;
                        Ok(fs::renameat(staged.stage.dir(), place.as_str(), &dir, &name)?)
                    }
                    result => Ok(result?),
                }
            };
            put().context("put", || failed(path))?;
            report.changed += 1;
        }
        let created = meta::created_by_us(false);
        let give = |entry: &Entry, fd: &OwnedFd| -> io::Result<()> {
            let attrs = entry.attributes.as_ref().map(|pairs| Attrs::from_pairs(pairs));
            let stat = fs::fstat(fd)?;
            let created = meta::Created { owner: (stat.st_uid, stat.st_gid), ..created };
            meta::apply(fd, &wanted(entry), attrs.as_ref(), created, None).map(drop)
        };
        // Children before their parents, whose times would change again.
        for (path, at) in moves.directories.iter().rev() {
            let entry = trees.target.at(*at);
            open_at(root, path)
                .and_then(|dir| give(entry, &dir))
                .context("set metadata of", || failed(path))?;
            report.changed += 1;
        }
        drop(staged);
        give(&trees.target.root, root).context("set metadata of", || &self.path)?;
        Ok(())
    }

    /// The index of the target: what was not touched keeps what is known of it.
    fn index_of(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        to: SnapshotId,
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
                if moves.put.contains_key(&path) {
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
        for (number, path) in touched {
            let stat = || -> io::Result<Stat> {
                let dir = open_parent(root, &path)?;
                Ok(stat_of(&Meta::of(&fs::statat(&dir, &last(&path)?, AtFlags::SYMLINK_NOFOLLOW)?)))
            };
            // Changed again by now: then it is looked at the next time.
            stats[number] = stat().unwrap_or_default();
        }
        let stamp = self.store.clock_past(stats.iter())?;
        Ok(Index { snapshot: to, stamp, stats })
    }
}

/// New files, and where in the stage they are.
struct Staged {
    stage: Stage,
    places: HashMap<PathBuf, String>,
    skipped: Vec<Skipped>,
}

/// The snapshot it was, the tree it is, the snapshot it shall be.
struct Trees<'a> {
    base: &'a Manifest,
    now: &'a Manifest,
    target: &'a Manifest,
}

/// What is to be done; paths in their order, a directory before what is in it.
#[derive(Default)]
struct Moves {
    remove: BTreeSet<PathBuf>,
    /// Directories that are to be there, with metadata that may not be theirs.
    directories: BTreeMap<PathBuf, At>,
    put: BTreeMap<PathBuf, At>,
    /// What was changed by hand, and what of it is in the way.
    by_hand: HashSet<PathBuf>,
    conflicts: BTreeSet<PathBuf>,
}

impl Trees<'_> {
    /// The entry at a path of one of the trees.
    fn find(&self, of: &Manifest, path: &Path) -> Option<At> {
        let mut place = 0_u32;
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            let directory = of.directories.get(place as usize)?;
            let slot = directory.find(name.as_bytes())?;
            if names.peek().is_none() {
                return Some((place, slot));
            }
            place = directory.child(slot)?;
        }
        None
    }

    /// Whether what is there is already what shall be there: content and mode.
    fn is_done(&self, now: Option<At>, target: Option<At>) -> bool {
        match (now, target) {
            (None, None) => true,
            (Some(now), Some(target)) => {
                let (now, target) = (self.now.at(now), self.target.at(target));
                now.same_content(target)
                    && (now.mode == target.mode || matches!(now.kind, Kind::Symlink(_)))
            }
            _ => false,
        }
    }

    fn plan(&self, what: Changes) -> Moves {
        let mut moves = Moves::default();
        let by_hand = compare(self.base, self.now, Counts::Content);
        moves.by_hand = by_hand.iter().map(|delta| delta.path.clone()).collect();
        // What must change, and whether its content or mode must.
        let mut wanted: BTreeMap<PathBuf, bool> = BTreeMap::new();
        for delta in compare(self.base, self.target, Counts::Everything) {
            let differs = match (delta.old, delta.new) {
                (Some(old), Some(new)) => {
                    let (old, new) = (self.base.at(old), self.target.at(new));
                    !old.same_content(new) || old.mode != new.mode
                }
                _ => true,
            };
            wanted.insert(delta.path, differs);
        }
        if what == Changes::Reset {
            wanted.extend(by_hand.iter().map(|delta| (delta.path.clone(), true)));
        }
        self.add_linked(&mut wanted);
        for (path, differs) in &wanted {
            let (now, target) = (self.find(self.now, path), self.find(self.target, path));
            let changed = moves.by_hand.contains(path);
            if changed && !differs {
                // The snapshots agree; what was made of it by hand stays.
                continue;
            }
            if changed && !self.is_done(now, target) {
                let added_below = now.is_some_and(|at| self.now.at(at).is_directory());
                // A directory that was added by hand stays where a directory shall be, or nothing.
                let harmless = added_below
                    && what != Changes::Reset
                    && target.is_none_or(|at| self.target.at(at).is_directory())
                    && self.find(self.base, path).is_none();
                if !harmless {
                    moves.conflicts.insert(path.clone());
                }
            }
            self.way_is_clear(path, target, &mut moves);
            match target.map(|at| (at, self.target.at(at))) {
                None => {
                    if now.is_some() {
                        moves.remove.insert(path.clone());
                    }
                }
                Some((at, entry)) if entry.is_directory() => {
                    if now.is_some_and(|at| !self.now.at(at).is_directory()) {
                        moves.remove.insert(path.clone());
                    }
                    moves.directories.insert(path.clone(), at);
                }
                Some((at, _)) => {
                    if let Some(now) = now
                        && self.now.at(now).is_directory()
                    {
                        self.clear_directory(path, now, &mut moves);
                    }
                    moves.put.insert(path.clone(), at);
                }
            }
        }
        // Whatever is put, or removed, changes the times of its directory.
        let paths: Vec<PathBuf> = moves.put.keys().chain(&moves.remove).cloned().collect();
        for path in paths {
            for above in path.ancestors().skip(1) {
                if above.as_os_str().is_empty() || moves.directories.contains_key(above) {
                    continue;
                }
                if let Some(at) = self.find(self.target, above)
                    && self.target.at(at).is_directory()
                {
                    moves.directories.insert(above.to_owned(), at);
                }
            }
        }
        moves
    }

    /// All names of a file go together, since they must become one file.
    fn add_linked(&self, wanted: &mut BTreeMap<PathBuf, bool>) {
        let link_of = |entry: &Entry| match entry.kind {
            Kind::File { link, .. } => link,
            _ => 0,
        };
        let links: HashSet<u64> = wanted
            .keys()
            .filter_map(|path| self.find(self.target, path))
            .map(|at| link_of(self.target.at(at)))
            .filter(|link| *link != 0)
            .collect();
        if links.is_empty() {
            return;
        }
        for (place, slot, entry) in self.target.entries() {
            if links.contains(&link_of(entry)) {
                wanted.entry(self.target.path_of(place, slot)).or_insert(true);
            }
        }
    }

    /// Where something shall be, every folder above it must be one.
    fn way_is_clear(&self, path: &Path, target: Option<At>, moves: &mut Moves) {
        if target.is_none() {
            return;
        }
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let now = self.find(self.now, above);
            if now.is_some_and(|at| self.now.at(at).is_directory()) {
                continue;
            }
            if moves.by_hand.contains(above) {
                moves.conflicts.insert(above.to_owned());
                if now.is_some() {
                    moves.remove.insert(above.to_owned());
                }
            }
            if let Some(at) = self.find(self.target, above) {
                moves.directories.insert(above.to_owned(), at);
            }
        }
    }

    /// A directory gives way to something else: what was added in it by hand is in the way.
    fn clear_directory(&self, path: &Path, now: At, moves: &mut Moves) {
        let Some(place) = self.now.directories[now.0 as usize].child(now.1) else { return };
        let mut below = vec![(place, path.to_owned())];
        while let Some((place, path)) = below.pop() {
            let directory = &self.now.directories[place as usize];
            for (slot, entry) in (0..).zip(&directory.entries) {
                let path = path.join(crate::store::manifest::os(&entry.name));
                if moves.by_hand.contains(&path) {
                    moves.conflicts.insert(path.clone());
                }
                moves.remove.insert(path.clone());
                if let Some(child) = directory.child(slot) {
                    below.push((child, path));
                }
            }
        }
        moves.remove.insert(path.to_owned());
    }
}

/// What `undo` must know, beside the files that were moved aside.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    from: SnapshotId,
    /// What had been deleted by hand.
    deleted: Vec<PathBuf>,
    /// Modes that directories had been given by hand.
    modes: Vec<(PathBuf, u32)>,
}

impl Record {
    /// Zero bytes end the parts: no path has one.
    fn encode(&self) -> Vec<u8> {
        let mut text = format!("calve undo 1\0{}\0", self.from).into_bytes();
        for path in &self.deleted {
            text.push(b'D');
            text.extend_from_slice(&bytes_of(path));
            text.push(0);
        }
        for (path, mode) in &self.modes {
            text.extend_from_slice(format!("X{mode:04o}").as_bytes());
            text.extend_from_slice(&bytes_of(path));
            text.push(0);
        }
        text
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let mut parts = text.strip_suffix(&[0])?.split(|byte| *byte == 0);
        if parts.next()? != b"calve undo 1" {
            return None;
        }
        let from = id::from_hex(std::str::from_utf8(parts.next()?).ok()?)?;
        let mut record =
            Self { from: SnapshotId::from_bytes(from), deleted: Vec::new(), modes: Vec::new() };
        for part in parts {
            match part.split_first()? {
                (b'D', path) => record.deleted.push(safe(path)?),
                (b'X', rest) => {
                    let (mode, path) = rest.split_at_checked(4)?;
                    let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
                    record.modes.push((safe(path)?, mode & 0o7777));
                }
                _ => return None,
            }
        }
        Some(record)
    }
}

/// A relative path without a step upwards.
fn safe(path: &[u8]) -> Option<PathBuf> {
    let path = path_from(path);
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (plain && path.components().next().is_some()).then_some(path)
}

fn last(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.file_name().unwrap_or_default().as_bytes())?)
}

/// Opens the directory at `path`, step by step; no step follows a link.
fn open_at(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut dir = fs::openat(root, c".", DIR_FLAGS, Mode::empty())?;
    for name in path {
        dir = fs::openat(&dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

fn open_parent(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_at(root, path.parent().unwrap_or(Path::new("")))
}

/// The same, making what is not there.
fn make_parents(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut dir = fs::openat(root, c".", DIR_FLAGS, Mode::empty())?;
    for name in path.parent().unwrap_or(Path::new("")) {
        match fs::mkdirat(&dir, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        dir = fs::openat(&dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

/// Removes a file, a link or an empty directory; whether it was there. A directory that is not empty stays.
fn remove_at(root: &OwnedFd, path: &Path) -> io::Result<bool> {
    let dir = match open_parent(root, path) {
        Ok(dir) => dir,
        Err(error)
            if matches!(
                error.raw_os_error().map(Errno::from_raw_os_error),
                Some(Errno::NOENT | Errno::NOTDIR)
            ) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let name = last(path)?;
    match fs::unlinkat(&dir, &name, AtFlags::empty()) {
        Ok(()) => return Ok(true),
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Moves everything in `from` to where it was.
fn put_back(root: &OwnedFd, from: &Path, below: &Path, back: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut stack = vec![below.to_owned()];
    while let Some(below) = stack.pop() {
        let entries = match std::fs::read_dir(from.join(&below)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let source = fs::open(from.join(&below), DIR_FLAGS, Mode::empty())?;
        for entry in entries {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let dir = make_parents(root, &path)?;
            let name = last(&path)?;
            if entry.file_type()?.is_dir() {
                match fs::mkdirat(
                    &dir,
                    &name,
                    Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH,
                ) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        let stat = fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                        if Meta::of(&stat).file_type() != fs::FileType::Directory {
                            fs::unlinkat(&dir, &name, AtFlags::empty())?;
                            fs::mkdirat(&dir, &name, Mode::RWXU)?;
                        }
                    }
                    Err(errno) => return Err(errno.into()),
                }
                stack.push(path);
                continue;
            }
            match fs::renameat(&source, &name, &dir, &name) {
                Ok(()) => {}
                // What stands there now is of the snapshot.
                Err(Errno::ISDIR) => {
                    staging::remove(&dir, &name)?;
                    fs::renameat(&source, &name, &dir, &name)?;
                }
                Err(errno) => return Err(errno.into()),
            }
            back.push(path);
        }
    }
    back.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_decodes_to_itself_and_never_to_a_path_outside() {
        let record = Record {
            from: SnapshotId::from_bytes([9; 32]),
            deleted: vec!["a/b".into(), "c\nd".into()],
            modes: vec![("e".into(), 0o755)],
        };
        assert_eq!(Record::decode(&record.encode()), Some(record));
        for path in ["../x", "/x", "a/../../x", ""] {
            let record = Record {
                from: SnapshotId::from_bytes([9; 32]),
                deleted: vec![path.into()],
                modes: Vec::new(),
            };
            assert_eq!(Record::decode(&record.encode()), None, "{path:?}");
        }
    }
}

//! Brings a tree from the snapshot that it has to another one, and touches only the paths that
//! differ. This is what a switch of a worktree does, and how a [ready tree](super::ready) follows
//! the project.
//!
//! [`plan`] says what must be done. First calve makes all new files in a stage inside the tree
//! ([`Bring::stage`]). So it finds a full disk or lost content before it changes anything. Then it
//! changes each path by one rename ([`Bring::apply`]), and makes the index of the new snapshot
//! ([`Bring::index`]).
//!
//! No step leaves the tree: calve opens every directory step by step from the root, and no step
//! follows a link. So a tree that another process rearranges meanwhile leads calve nowhere else.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::at::{last, make_at, open_at, open_parent, put_at, remove_at};
use super::id::{BlobId, SnapshotId};
use super::index::{Boot, Index, Stat};
use super::manifest::{self, At, Builder, Manifest, NO_ID, ROOT};
use super::materialize::{Plan, materialize, wanted};
use super::object::{Entry, Kind, Time};
use super::paths::local::{Local, Tree};
use super::scan;
use super::stamps::stamp_of;
use super::{Store, listed};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::{Filesystem, Filesystems};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{self, Attrs, Meta};
use crate::report::{DestinationReport, Skipped};
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage};
use plan::{Moves, Trees};

pub(crate) mod plan;
pub(crate) mod whole;

/// How many files go to one directory of the stage. One thread fills each directory.
const STAGED_TOGETHER: usize = 128;

/// A tree that is brought to another snapshot, as a plan says.
pub(crate) struct Bring<'a> {
    pub(crate) store: &'a Store,
    pub(crate) root: &'a OwnedFd,
    /// The path of the root, for messages.
    pub(crate) path: &'a Path,
    pub(crate) trees: &'a Trees<'a>,
    pub(crate) moves: &'a Moves,
    /// Whether no other process knows the tree. Then calve knows the stat of each entry afterwards,
    /// also of folders and of names whose file has lost another name.
    pub(crate) is_private: bool,
}

impl Bring<'_> {
    /// Makes all new files in a stage inside the worktree.
    pub(crate) fn stage(&self, operation: &Running) -> Result<Staged, Error> {
        let Self { root, trees, moves, .. } = *self;
        staging::sweep(root);
        let dir = root.try_clone().context(Operation::Open, || self.path)?;
        let stage = Stage::empty(dir, self.path).context(Operation::StageIn, || self.path)?;
        let folder = |name: String| Entry {
            name: name.into_bytes().into(),
            mode: 0o700,
            uid: trees.target.root.uid,
            gid: trees.target.root.gid,
            mtime: Time(0, 0),
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
                Operation::RestoreWorktree,
                self.path,
                io::Error::other("too many files"),
            ));
        }
        let mut staged =
            Staged { stage, places, whole: whole::names_in_stage(moves), made: Vec::new() };
        self.fill_stage(&mut staged, &builder.finish(), Path::new(""), operation)?;
        let top = folder(String::new());
        if let Some(manifest) = whole::manifest_of(trees.target, top, &staged.whole) {
            fs::mkdirat(staged.stage.dir(), whole::WHOLE, Mode::RWXU)
                .context(Operation::StageIn, || self.path)?;
            self.fill_stage(&mut staged, &manifest, Path::new(whole::WHOLE), operation)?;
        }
        Ok(staged)
    }

    /// Makes a tree at a path in the stage.
    fn fill_stage(
        &self,
        staged: &mut Staged,
        manifest: &Manifest,
        at: &Path,
        operation: &Running,
    ) -> Result<(), Error> {
        let root = open_at(staged.stage.dir(), at).context(Operation::StageIn, || self.path)?;
        let paths = [self.path.to_owned()];
        let plan = Plan { store: self.store, manifest, paths: &paths, operation };
        // Reports and errors name the paths that the files will have, not the paths in the stage.
        let made = materialize(&plan, vec![root]).map_err(|error| {
            let Ok(place) = error.path().strip_prefix(self.path) else { return error };
            let path = staged.path_of(&at.join(place));
            error.with_path(path.map_or(self.path.to_owned(), |path| self.path.join(path)))
        })?;
        // The same as when a worktree is started: copied content is on the disk before the index
        // names it.
        if !made.unsealed.is_empty() || made.reports.iter().any(|report| report.copied_files > 0) {
            self.store
                .contents()
                .flush_with(&made.unsealed, std::iter::once(staged.stage.dir()))?;
        }
        for mut report in made.reports {
            // The stage's own folders are deleted with the stage, so what they lack does not matter.
            report.skipped.retain_mut(|skipped| match staged.path_of(&at.join(&skipped.path)) {
                Some(path) => {
                    skipped.path = path;
                    true
                }
                None => false,
            });
            staged.made.push(report);
        }
        Ok(())
    }

    /// Fails if the entry at `path` changed since the scan, because the switch would lose that
    /// change. The next call of the same switch sees it as a change by hand.
    fn must_be_as_seen(&self, path: &Path, seen: &Translated) -> Result<(), Error> {
        let root = self.root;
        let look = || -> io::Result<Option<Meta>> {
            let dir = open_parent(root, path)?;
            Ok(Some(Meta::at(&dir, &last(path)?)?))
        };
        let meta = match look() {
            Ok(Some(meta)) if meta.file_type() != fs::FileType::Directory => meta,
            // Nothing is there, or a directory is there, and the switch removes only empty
            // directories.
            _ => return Ok(()),
        };
        if self.is_as_seen(&meta, path, seen) {
            return Ok(());
        }
        Err(self.in_the_way(path, "it was changed while the restore was under way"))
    }

    /// Whether `meta` is that of the file or link that the scan saw at `path`.
    fn is_as_seen(&self, meta: &Meta, path: &Path, seen: &Translated) -> bool {
        let Trees { now, .. } = self.trees;
        self.trees.find(now, path).map(|at| now.at(at)).is_some_and(|entry| {
            let size_is = match &entry.kind {
                Kind::File { size, .. } => *size == meta.size,
                Kind::Symlink { target, .. } => target.len() as u64 == meta.size,
                Kind::Fifo { .. } => true,
                Kind::Directory(_) => false,
            };
            size_is && (entry.mtime.0, i64::from(entry.mtime.1)) == meta.modified()
                || seen.get(path) == Some(&(meta.ino, meta.size, meta.modified()))
        })
    }

    /// The files that name the worktree's root and are what the scan saw, which has them as a
    /// snapshot does. This is asked before the first path changes: a `RECORD` has the hashes of
    /// other files.
    fn translated(&self) -> Translated {
        let Self { root, trees, moves, .. } = *self;
        let Some(local) = trees.local else { return Translated::new() };
        let tree = Tree { path: self.path, root };
        let mut touched: Vec<PathBuf> =
            moves.put.keys().chain(&moves.remove).chain(moves.mend.keys()).cloned().collect();
        if !moves.whole.is_empty() {
            let now = trees.now;
            let paths = now.entries().filter(|(_, _, entry)| !entry.is_directory());
            let paths = paths.map(|(place, slot, _)| now.path_of(place, slot));
            touched.extend(paths.filter(|path| moves.is_in_whole(path)));
        }
        let mut seen = Translated::new();
        for path in &touched {
            let Some(at) = trees.find(trees.now, path) else { continue };
            let stat = || {
                let dir = open_parent(root, path)?;
                Ok::<_, io::Error>(fs::statat(&dir, &last(path)?, AtFlags::SYMLINK_NOFOLLOW)?)
            };
            if let Ok(stat) = stat()
                && is_canonically(tree, local, path, trees.now.at(at))
            {
                let meta = Meta::of(&stat);
                seen.insert(path.clone(), (meta.ino, meta.size, meta.modified()));
            }
        }
        seen
    }

    /// Fails if a folder in whose place a file shall be holds what the plan does not remove: what no
    /// snapshot has. If that were met on the way, half a switch would be left.
    pub(crate) fn must_make_way(&self) -> Result<(), Error> {
        let Self { root, trees, moves, .. } = *self;
        for path in moves.put.keys() {
            let now = trees.find(trees.now, path).map(|at| trees.now.at(at));
            if !now.is_some_and(Entry::is_directory) {
                continue;
            }
            let mut stack = vec![path.clone()];
            while let Some(folder) = stack.pop() {
                let listed = open_at(root, &folder).and_then(listed);
                for (name, kind) in listed.context(Operation::Read, || self.path.join(&folder))? {
                    let inside = folder.join(name);
                    if !moves.remove.contains(&inside) {
                        return Err(self.is_not_empty(path));
                    }
                    stack.extend((kind == fs::FileType::Directory).then_some(inside));
                }
            }
        }
        Ok(())
    }

    fn is_not_empty(&self, path: &Path) -> Error {
        let why = "the folder holds what no snapshot has, and a file shall be in its place";
        self.refused_at(path, io::Error::new(io::ErrorKind::DirectoryNotEmpty, why))
    }

    fn in_the_way(&self, path: &Path, why: &'static str) -> Error {
        self.refused_at(path, io::Error::other(why))
    }

    fn refused_at(&self, path: &Path, cause: io::Error) -> Error {
        Error::new(ErrorKind::Changed, Operation::RestoreWorktree, self.path, cause)
            .with_details(vec![path.to_owned()])
    }

    /// Removes, makes, puts and mends the paths of the plan.
    ///
    /// # Errors
    /// Some of the paths are as in the target already, and each is whole.
    pub(crate) fn apply(&self, staged: Staged) -> Result<Applied, Error> {
        let Self { root, trees, moves, .. } = *self;
        let (mut forgotten, mut stayed) = (0, 0);
        let seen = self.translated();
        let failed = |path: &Path| self.path.join(path);
        // Entries in a directory go before the directory.
        for path in moves.remove.iter().rev() {
            self.must_be_as_seen(path, &seen)?;
            let removed = remove_at(root, path).context(Operation::Remove, || failed(path))?;
            stayed += u64::from(!removed && moves.goes(path) && is_there(root, path));
        }
        for (path, at) in &moves.directories {
            let entry = trees.target.at(*at);
            make_at(root, path, entry.mode).context(Operation::MakeDirectory, || failed(path))?;
        }
        let mut given = HashMap::new();
        for folder in moves.whole.keys() {
            self.put_whole(&staged, folder, &seen, &mut given)?;
        }
        for path in moves.put.keys() {
            let Some(place) = staged.places.get(path) else { continue };
            self.must_be_as_seen(path, &seen)?;
            let mut put = || {
                if let Some(entry) = look_at(staged.stage.dir(), Path::new(place))? {
                    given.insert(path.clone(), entry);
                }
                put_at(staged.stage.dir(), place, root, path)
            };
            if !put().context(Operation::Put, || failed(path))? {
                return Err(self.is_not_empty(path));
            }
        }
        // We check all paths before we change the first: some may be names of one file.
        for path in moves.mend.keys() {
            self.must_be_as_seen(path, &seen)?;
        }
        for (path, at) in &moves.mend {
            let mut entry = trees.given(moves, path, *at);
            entry.mtime.0 -= trees.local.map_or(0, |local| local.seconds_older(path));
            set_in_place(root, path, &entry).context(Operation::SetMetadata, || failed(path))?;
            given.insert(path.clone(), entry);
            forgotten += u64::from(self.is_forgotten(path));
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
            set_in_place(root, path, &entry).context(Operation::SetMetadata, || failed(path))?;
            let counts = trees.changes_directory(moves, path, *at);
            forgotten += u64::from(counts && self.is_forgotten(path));
        }
        let discarded = staged.stage.discard();
        let (path, mut entry) = (Path::new(""), trees.target.root.clone());
        if moves.by_hand.contains(path) && !moves.conflicts.contains(path) {
            // The snapshots agree on the root, or the root already has the target's metadata.
            entry = Entry { mtime: entry.mtime, ..trees.now.root.clone() };
        }
        set_in_place(root, path, &entry).context(Operation::SetMetadata, || self.path)?;
        let counts = trees.changes_directory(moves, path, ROOT);
        forgotten += u64::from(counts && self.is_forgotten(path));
        Ok(Applied { forgotten, stayed, discarded, given })
    }

    /// Whether the filesystem has taken new metadata of an entry and forgotten it. It would count as
    /// changed each time.
    fn is_forgotten(&self, path: &Path) -> bool {
        let Trees { now, .. } = self.trees;
        !Filesystem::of_file(self.root).is_tested
            && self.trees.find(now, path).is_some_and(|at| {
                look_at(self.root, path)
                    .is_ok_and(|found| found.is_some_and(|found| found.same_metadata(now.at(at))))
            })
    }

    /// Makes the index of the target. Entries that the switch did not touch keep their stat from
    /// the old index.
    pub(crate) fn index(
        &self,
        to: SnapshotId,
        given: &HashMap<PathBuf, Entry>,
        old: Option<&Index>,
    ) -> Result<Index, Error> {
        let Self { trees, moves, is_private, .. } = *self;
        let mut stats = vec![Stat::default(); trees.target.count as usize];
        let mut touched = Vec::new();
        // The paths of all entries would cost more than the rest of this, and a switch moves few.
        let moved = moves.put.keys().chain(moves.mend.keys()).chain(moves.directories.keys());
        let moved: HashSet<&Path> =
            moved.chain(&moves.by_hand).filter_map(|path| path.parent()).collect();
        let mut pairs = vec![(0_u32, Some(0_u32), PathBuf::new())];
        while let Some((place, base_place, above)) = pairs.pop() {
            let directory = &trees.target.directories[place as usize];
            let base = base_place.and_then(|place| trees.base.directories.get(place as usize));
            let is_same = base.is_some_and(|base| base.entries.is(&directory.entries));
            let has_moved = moved.contains(&*above);
            let is_whole = moves.is_in_whole(&above);
            for (slot, entry) in (0..).zip(&directory.entries) {
                let base_slot = match is_same {
                    true => Some(slot),
                    false => base.and_then(|base| base.find(&entry.name)),
                };
                let number = (directory.first + slot) as usize;
                let path = || above.join(manifest::os(&entry.name));
                let (mut is_touched, mut is_known) = (is_private && entry.link() != 0, true);
                if has_moved {
                    let path = path();
                    let is_directory = moves.directories.contains_key(&path);
                    is_touched |= moves.put.contains_key(&path)
                        || moves.mend.contains_key(&path)
                        || is_private && is_directory;
                    is_known = !is_directory && !moves.by_hand.contains(&path);
                }
                if is_whole || !moves.whole.is_empty() && moves.whole.contains_key(&path()) {
                    is_touched = !entry.is_directory() && !moves.by_hand.contains(&path());
                    is_known = false;
                }
                if is_touched {
                    touched.push((number, path(), (place, slot)));
                } else if is_known
                    && let (Some(base), Some(slot), Some(old)) = (base, base_slot, old)
                    && let Some(stat) = old.stats.get((base.first + slot) as usize)
                    && stat.changed < old.stamp
                {
                    stats[number] = *stat;
                }
                if let Some(child) = directory.child(slot) {
                    let below = base.and_then(|base| base.child(base_slot?));
                    pairs.push((child, below, path()));
                }
            }
        }
        let stamp = self.stats_of(touched, given, &mut stats)?;
        Ok(Index { snapshot: to, boot: Boot::this(), stamp, stats })
    }

    /// Notes the stats of entries that the switch put in their places. Returns the stamp of the
    /// index.
    fn stats_of(
        &self,
        touched: Vec<(usize, PathBuf, (u32, u32))>,
        given: &HashMap<PathBuf, Entry>,
        stats: &mut [Stat],
    ) -> Result<(i64, u32), Error> {
        let Self { root, trees, is_private, .. } = *self;
        let stat = |path: &Path| -> io::Result<Stat> {
            let dir = open_parent(root, path)?;
            Ok(Stat::of(&Meta::at(&dir, &last(path)?)?))
        };
        for (number, path, _) in &touched {
            stats[*number] = stat(path).unwrap_or_default();
        }
        let stamp = self.store.clock().past_all(stats.iter())?;
        let stamp = stamp_of(root, None, stamp, &Filesystems::default());
        // The index vouches for owner, mode and attributes, too. So an entry that is not what the
        // switch put there gets no stat, and the next scan looks at it. A later change gets a later
        // change time than the one in the index.
        for (number, path, at) in touched {
            let entry = look_at(root, &path).ok().flatten();
            let given = given.get(&path).or(is_private.then(|| trees.target.at(at)));
            let is_it = given.zip(entry).is_some_and(|(given, entry)| {
                (given.same_metadata(&entry) || is_private && trees.maker.gave(&entry, given))
                    && given.mtime == entry.mtime
                    && same_size(given, &entry)
            });
            if !is_it || stat(&path).ok() != Some(stats[number]) {
                stats[number] = Stat::default();
            }
        }
        Ok(stamp)
    }
}

/// Whether the file or link at `path` is what a snapshot has as `entry`, apart from the root that
/// it names.
fn is_canonically(tree: Tree<'_>, local: &Local, path: &Path, entry: &Entry) -> bool {
    match &entry.kind {
        Kind::File { blob, .. } if local.may_differ(path) => {
            let Ok(Some(content)) = tree.read(path) else { return false };
            let canonical = local.canonical(tree, path, &content).ok().flatten();
            canonical.is_some_and(|canonical| BlobId::of(&canonical) == *blob)
        }
        Kind::Symlink { target, .. } => {
            let look = || {
                let dir = open_parent(tree.root, path)?;
                Ok::<_, io::Error>(fs::readlinkat(dir, last(path)?, Vec::new())?)
            };
            look().is_ok_and(|here| {
                local.canonical_target(tree, path, here.to_bytes()).as_deref() == Some(&**target)
            })
        }
        _ => false,
    }
}

/// Inode, size and time of files that a snapshot has with another root.
type Translated = HashMap<PathBuf, (u64, u64, (i64, i64))>;

/// What `apply` did.
pub(crate) struct Applied {
    /// Of the entries that the plan changes: those whose new metadata the filesystem forgot.
    pub(crate) forgotten: u64,
    /// Of the entries that the plan removes: directories that hold what no snapshot has.
    pub(crate) stayed: u64,
    /// Whether the stage could be removed. Everything else is done.
    pub(crate) discarded: io::Result<()>,
    /// The metadata and the size that the switch gave to each entry that it put or mended.
    pub(crate) given: HashMap<PathBuf, Entry>,
}

fn is_there(root: &OwnedFd, path: &Path) -> bool {
    let look = || Ok::<_, io::Error>(Meta::at(&open_parent(root, path)?, &last(path)?)?);
    look().is_ok()
}

fn same_size(a: &Entry, b: &Entry) -> bool {
    match (&a.kind, &b.kind) {
        (Kind::File { size: a, .. }, Kind::File { size: b, .. }) => a == b,
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

/// New files, and their paths in the stage.
pub(crate) struct Staged {
    pub(crate) stage: Stage,
    /// The paths of the files, with their places in the stage.
    pub(crate) places: HashMap<PathBuf, String>,
    /// The names of the folders that arrive whole.
    whole: HashMap<PathBuf, String>,
    /// The reports of the folders that were made in the stage. Their paths are those in the tree.
    pub(crate) made: Vec<DestinationReport>,
}

impl Staged {
    /// What arrived without a part of itself.
    pub(crate) fn skipped(&self) -> impl Iterator<Item = &Skipped> {
        self.made.iter().flat_map(|report| &report.skipped)
    }

    /// The place in the stage of the file that will be at a path.
    pub(crate) fn place_of(&self, path: &Path) -> Option<PathBuf> {
        if let Some(place) = self.places.get(path) {
            return Some(place.into());
        }
        let above = path.ancestors().find(|above| self.whole.contains_key(*above))?;
        let name = Path::new(whole::WHOLE).join(&self.whole[above]);
        Some(name.join(path.strip_prefix(above).ok()?))
    }

    /// The path that an entry of the stage will have. `None`: it is one of the stage's own.
    fn path_of(&self, place: &Path) -> Option<PathBuf> {
        let Ok(below) = place.strip_prefix(whole::WHOLE) else {
            let place = place.to_str();
            return self
                .places
                .iter()
                .find(|it| Some(it.1.as_str()) == place)
                .map(|it| it.0.clone());
        };
        let name = below.iter().next()?;
        let (folder, name) = self.whole.iter().find(|it| name == it.1.as_str())?;
        Some(folder.join(below.strip_prefix(name).ok()?))
    }
}

/// The entry of the file at `path` for [`Record`](super::undo::Record)`::metadata`. `None` if it may
/// not be opened, or is of a kind that no snapshot holds.
pub(crate) fn look_at(root: &OwnedFd, path: &Path) -> io::Result<Option<Entry>> {
    let (stat, attributes) = if path.as_os_str().is_empty() {
        (fs::fstat(root)?, scan::attributes(root)?)
    } else {
        let (dir, name) = (open_parent(root, path)?, last(path)?);
        let stat = fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let flags = match Meta::of(&stat).file_type() {
            fs::FileType::RegularFile => Some(SOURCE_FLAGS),
            fs::FileType::Directory => Some(DIR_FLAGS | OFlags::NOFOLLOW),
            _ => None,
        };
        match flags.map(|flags| fs::openat(&dir, &name, flags, Mode::empty())).transpose() {
            Ok(Some(file)) => (fs::fstat(&file)?, scan::attributes(&file)?),
            Ok(None) => (stat, None),
            Err(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    };
    let meta = Meta::of(&stat);
    let kind = match meta.file_type() {
        fs::FileType::RegularFile => Kind::File { size: meta.size, link: 0, blob: scan::UNKNOWN },
        fs::FileType::Directory => Kind::Directory(NO_ID),
        fs::FileType::Symlink => Kind::Symlink { target: b"-"[..].into(), link: 0 },
        fs::FileType::Fifo => Kind::Fifo { link: 0 },
        _ => return Ok(None),
    };
    Ok(Some(scan::entry_of(b"-", &meta, attributes, kind)))
}

/// Gives the entry at `path` the mode, owner, attributes and time of `entry`, as far as they can be
/// set, and returns the names of the others. Changes nothing if the entry at `path` is of another
/// kind.
pub(crate) fn set_in_place(root: &OwnedFd, path: &Path, entry: &Entry) -> io::Result<Vec<String>> {
    let created = meta::created_by_us(false);
    let wanted = wanted(entry);
    let give = |file: &OwnedFd| -> io::Result<Vec<String>> {
        let meta = Meta::of_file(file)?;
        if meta.file_type() != wanted.file_type() {
            return Ok(Vec::new());
        }
        let attrs = entry.attributes.as_ref().map(|pairs| Attrs::from_pairs(pairs));
        Attrs::remove_others(file, attrs.as_ref())?;
        let created = meta::Created { owner: (meta.uid, meta.gid), ..created };
        meta::apply(file, &wanted, attrs.as_ref(), created, None)
    };
    if path.as_os_str().is_empty() {
        return give(root);
    }
    let (dir, name) = (open_parent(root, path)?, last(path)?);
    let flags = match entry.kind {
        Kind::File { .. } => SOURCE_FLAGS,
        Kind::Directory(_) => DIR_FLAGS | OFlags::NOFOLLOW,
        Kind::Symlink { .. } | Kind::Fifo { .. } => {
            let meta = Meta::at(&dir, &name)?;
            if meta.file_type() != wanted.file_type() {
                return Ok(Vec::new());
            }
            let created = meta::Created { owner: (meta.uid, meta.gid), ..created };
            let mode = matches!(entry.kind, Kind::Fifo { .. }).then(|| meta::mode(entry.mode));
            return meta::apply_at(&dir, &name, &wanted, created, mode);
        }
    };
    give(&fs::openat(&dir, &name, flags, Mode::empty())?)
}

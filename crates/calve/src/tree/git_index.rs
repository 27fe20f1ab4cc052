//! Writes a clone's inode numbers and times into its git indexes, so that git need not read the
//! files.
//!
//! An index records the stat of each file that git knows to be unchanged. A clone has other inode
//! numbers and change times, so git would read every file once: 6 s for the Linux source, 20 s if
//! nothing is cached. In the source git takes 0.2 s.
//!
//! [`format`](mod@format) finds the entries, and [`rule`] decides about each of them. This file
//! looks at the files, with several threads, and replaces the cloned index. If anything is
//! unexpected, the index stays as it was cloned: git is then correct, and only slow. So this module
//! has no errors.
//!
//! # What is not touched
//! calve leaves an index alone if it does not parse to its last byte, or if it is split, locked, or
//! larger than [`INDEX_MOST_BYTES`]. It leaves an index with a second name (a hard link) alone,
//! because a replaced one would no longer be the same file. It also leaves alone an index that was
//! there before a merge.
//!
//! # Order
//! calve rewrites entries after everything below the root has arrived, because a further hard link
//! changes an inode's change time. It does so before it publishes the tree. The new index is newer
//! than each file that it vouches for: all of them rested before the walk began.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use self::format::{Chunk, IndexLayout};
use self::rule::Moments;
use super::across::rename_entry;
use super::listing::{self, Time};
use super::pool::lock;
use super::staging;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{self, Attrs, Created, Meta};

mod config;
mod entries;
mod format;
#[cfg(all(feature = "store", any(test, fuzzing)))]
#[path = "../../tests/fuzzing/git_index.rs"]
mod fuzzed;
mod rule;
mod sha256;
#[cfg(test)]
mod tests;
mod twins;

#[cfg(feature = "store")]
pub(crate) use config::is_silent_on_working_tree;
pub(crate) use config::{resolved, set_working_tree, with_working_tree};
pub(crate) use entries::{
    Sorted, SpecialPaths, UnseenEdits, YoungFiles, sort, special_in, tracked, tracked_among,
};
#[cfg(all(feature = "store", any(test, fuzzing)))]
pub(crate) use fuzzed::{check_any, seeds};
pub(crate) use sha256::sha256;
pub(crate) use twins::{Comparison, WorkingTree, compare};

/// calve reads no larger index into memory. An index of this size has some five million files.
const INDEX_MOST_BYTES: u64 = 512 * 1024 * 1024;
/// git's configuration files are shorter.
pub(crate) const CONFIG_MOST_BYTES: u64 = 1024 * 1024;
/// How many folders calve searches for submodules, and how deep.
const MODULE_FOLDERS_MOST: usize = 10_000;
const MODULES_DEEP: usize = 32;

/// A tree and its clone, which no other process changes yet.
pub(crate) struct TreeAndClone<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) clone: &'a OwnedFd,
    /// Where calve writes the new index before it renames the index into place. `None`: beside the
    /// old one.
    pub(crate) stage: Option<&'a OwnedFd>,
    /// A time of [`listing::now`] before the walk began, of the clone or of the snapshot.
    pub(crate) before_walk: Time,
    /// The time of [`merge_begins`], if the clone was merged into a directory.
    pub(crate) merged_since: Option<Time>,
    pub(crate) jobs: usize,
    pub(crate) stopped: &'a (dyn Fn() -> bool + Sync),
}

/// How calve knows which content a file of the source had when git looked at it.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// The source itself, which was just cloned, and who knows the stats of the clone's files.
    Tree(&'a OwnedFd, Option<&'a dyn Vouches>),
    /// By snapshots of the source. The clone was made of one of them.
    Snapshot(&'a dyn Vouches),
}

/// Knows the stat of the source's files at the time when they had the content that the clone has.
pub(crate) trait Vouches: Sync {
    /// The directory `name` in the directory `above`.
    fn folder(&self, above: Folder, name: &[u8]) -> Option<Folder>;
    /// The file `name` in a directory.
    fn file(&self, folder: Folder, name: &[u8]) -> Option<Vouched>;
    /// Whether `cloned` knows most files. Then it is not worth opening the clone's directories.
    fn knows_clones(&self) -> bool {
        false
    }
    /// The stat of the clone's file `name` in a directory. `None`: look at the file.
    fn cloned(&self, _: Folder, _: &[u8]) -> Option<Meta> {
        None
    }
}

/// Knows nothing, so no entry of an index gets another stat.
pub(crate) struct Nobody;

impl Vouches for Nobody {
    fn folder(&self, _: Folder, _: &[u8]) -> Option<Folder> {
        None
    }

    fn file(&self, _: Folder, _: &[u8]) -> Option<Vouched> {
        None
    }
}

/// A file of the source that is known to have had its clone's content.
pub(crate) struct Vouched {
    /// The stat that the source had with that content.
    pub(crate) source: Meta,
    /// The modification time that the clone got.
    pub(crate) modified: Time,
}

/// A directory in the snapshots of the source and of the clone, by its position in each. The
/// default is the root.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Folder {
    pub(crate) source: u32,
    pub(crate) clone: u32,
}

impl TreeAndClone<'_> {
    /// A file of the clone that changed at this time or later was made by this operation. In a
    /// stage, every file was. A tree made of a snapshot may have files that are older than its
    /// stage.
    fn cloned_since(&self) -> Time {
        match self.source {
            Source::Snapshot(_) => (i64::MIN, 0),
            Source::Tree(..) => self.merged_since.unwrap_or(self.before_walk),
        }
    }
}

/// The time since which files are known to be of a merge that begins now. If the source has a git
/// index, this waits until files get that time (a tick of the clock, 4 to 10 ms). Without this wait
/// the first files would not be ready, and often the index itself is one of them.
pub(crate) fn merge_begins(source: &OwnedFd) -> Time {
    let since = listing::latest();
    let index = Path::new(".git/index");
    if fs::statat(source, index, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return listing::wait_for_tick_after(since);
    }
    since
}

/// A time to which no file belongs that changed before this call (after a tick of the clock). Files
/// that change later have this time or a later one.
pub(crate) fn next_tick() -> Time {
    listing::wait_for_tick_after(listing::latest())
}

/// A file `.git` holds one path, so it is short.
const GIT_FILE_MOST_BYTES: u64 = 8 * 1024;

/// The folder of the repository of the working tree whose root is open. `None` if git has none for
/// it: what a file `.git` leads to may be gone.
pub(crate) fn repository_of(root: &OwnedFd) -> Option<OwnedFd> {
    let open = |path: &OsStr| fs::openat(root, path, DIR_FLAGS, Mode::empty()).ok();
    open(OsStr::new(".git")).or_else(|| {
        let (file, meta) =
            open_regular(root, c".git").filter(|it| it.1.size <= GIT_FILE_MOST_BYTES)?;
        let text = read(&file, meta.size)?;
        open(OsStr::from_bytes(text.strip_prefix(b"gitdir: ")?.trim_ascii_end()))
    })
}

/// A working tree and the directory with its index, as paths from the root.
struct IndexedRepository {
    tree: PathBuf,
    git: PathBuf,
}

/// Rewrites the index of each of the `directories` that has a directory `.git`, and the indexes of
/// its submodules. The directories are paths from the root. Returns the number of rewritten
/// entries.
pub(crate) fn make_ready(trees: &TreeAndClone<'_>, directories: &[PathBuf]) -> u64 {
    let mut rewritten = 0;
    for directory in directories {
        let git = directory.join(".git");
        let mut repositories = submodules(trees.clone, &git);
        repositories.push(IndexedRepository { tree: directory.clone(), git });
        for repository in &repositories {
            rewritten += make_one_ready(trees, repository).unwrap_or(0);
        }
    }
    rewritten
}

/// Like `make_ready`, for an index in the directory `git`, which is outside of the tree. `tree` is
/// the working tree, as a path from the clone's root.
pub(crate) fn make_ready_elsewhere(trees: &TreeAndClone<'_>, git: &OwnedFd, tree: &Path) -> u64 {
    make_ready_in(trees, git, tree).unwrap_or(0)
}

/// `None` if the index stays as it was cloned.
fn make_one_ready(trees: &TreeAndClone<'_>, repository: &IndexedRepository) -> Option<u64> {
    let git = open_below(trees.clone, &repository.git)?;
    make_ready_in(trees, &git, &repository.tree)
}

fn make_ready_in(trees: &TreeAndClone<'_>, git: &OwnedFd, tree: &Path) -> Option<u64> {
    if is_locked(git) {
        return None;
    }
    let (old, meta) = open_regular(git, c"index")?;
    if meta.links != 1 || meta.size > INDEX_MOST_BYTES || meta.changed < trees.cloned_since() {
        return None;
    }
    let mut bytes = read(&old, meta.size)?;
    let rewritten = make_bytes_ready(trees, &mut bytes, meta.modified(), tree)?;
    replace(trees.stage, git, &old, &meta, &bytes).ok()?;
    Some(rewritten)
}

/// Rewrites an index in memory. `written` is the modification time of its file; `tree` is the
/// working tree, as a path from the clone's root. Returns how many entries record the clone's
/// files. `None`: no entry was changed, and the caller must not use the index.
pub(crate) fn make_bytes_ready(
    trees: &TreeAndClone<'_>,
    bytes: &mut [u8],
    written: Time,
    tree: &Path,
) -> Option<u64> {
    let layout = IndexLayout::of(bytes)?;
    let source = IndexedDirectory::root(trees.source)?.below(tree)?;
    let clone = open_below(trees.clone, tree)?;
    let moments = Moments {
        index_written: written,
        before_walk: trees.before_walk,
        cloned_since: trees.cloned_since(),
    };
    let changed = rewrite(trees, &layout, bytes, (&source, &clone), moments);
    if changed == ChangedEntries::default() || (trees.stopped)() {
        return None;
    }
    layout.seal(bytes);
    Some(changed.ready)
}

/// How many entries of an index were changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ChangedEntries {
    /// They record the clone's files.
    ready: u64,
    /// git might have taken the clone's file for the one that they record.
    mistaken: u64,
}

/// Rewrites the entries with several threads, each of which takes one chunk after the other.
fn rewrite(
    trees: &TreeAndClone<'_>,
    layout: &IndexLayout,
    bytes: &mut [u8],
    roots: (&IndexedDirectory<'_>, &OwnedFd),
    moments: Moments,
) -> ChangedEntries {
    let mut parts: Vec<(&Chunk, &mut [u8])> = Vec::with_capacity(layout.chunks.len());
    let (mut rest, mut at) = (bytes, 0);
    for chunk in &layout.chunks {
        let (before, after) = rest.split_at_mut(chunk.bytes.end - at);
        parts.push((chunk, &mut before[chunk.bytes.start - at..]));
        (rest, at) = (after, chunk.bytes.end);
    }
    // Threads take chunks from the end. Reversed, they take them in the index's order: neighbouring
    // chunks have directories in common.
    parts.reverse();
    let threads = trees.jobs.min(parts.len());
    let parts = Mutex::new(parts);
    let (ready, mistaken) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let mut pair = Pair::new(roots);
        loop {
            let part = lock(&parts).pop();
            let Some((chunk, bytes)) = part else { return };
            if (trees.stopped)() {
                return;
            }
            let changed = rewrite_chunk(chunk, bytes, &mut pair, moments);
            ready.fetch_add(changed.ready, Ordering::Relaxed);
            mistaken.fetch_add(changed.mistaken, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // If no more threads can start, this one does all the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    ChangedEntries { ready: ready.into_inner(), mistaken: mistaken.into_inner() }
}

fn rewrite_chunk(
    chunk: &Chunk,
    bytes: &mut [u8],
    pair: &mut Pair<'_>,
    moments: Moments,
) -> ChangedEntries {
    let mut cursor = chunk.cursor.clone();
    let mut changed = ChangedEntries::default();
    while let Some(entry) = cursor.next(bytes) {
        if !entry.is_plain() {
            continue;
        }
        let known = pair.stat(&cursor.path);
        let rewritten = known.as_ref().and_then(|(Vouched { source, modified }, clone)| {
            rule::rewritten(entry.recorded, source, (clone, *modified), moments)
        });
        if let Some(recorded) = rewritten {
            entry.record(bytes, recorded);
            changed.ready += 1;
            continue;
        }
        let clone = known.map(|(_, clone)| clone).or_else(|| pair.second(&cursor.path));
        if let Some(doubted) = rule::doubted(entry.recorded, moments.index_written) {
            entry.record(bytes, doubted);
        } else if let Some(doubted) = clone.and_then(|clone| rule::mistaken(entry.recorded, &clone))
        {
            entry.record(bytes, doubted);
            changed.mistaken += 1;
        }
    }
    changed
}

/// A directory of the source.
enum IndexedDirectory<'a> {
    /// With the place of the clone's directory, if somebody knows its files.
    Open(OwnedFd, Option<(&'a dyn Vouches, Folder)>),
    Known(&'a dyn Vouches, Folder),
}

impl<'a> IndexedDirectory<'a> {
    fn root(source: Source<'a>) -> Option<Self> {
        match source {
            Source::Tree(root, clones) => {
                let clones = clones.map(|clones| (clones, Folder::default()));
                root.try_clone().ok().map(|root| Self::Open(root, clones))
            }
            Source::Snapshot(vouches) => Some(Self::Known(vouches, Folder::default())),
        }
    }

    fn below(&self, path: &Path) -> Option<Self> {
        let folder_below = |vouches: &'a dyn Vouches, folder: Folder| {
            let mut names = path.iter();
            names.try_fold(folder, |folder, name| vouches.folder(folder, name.as_bytes()))
        };
        match self {
            Self::Open(dir, clones) => {
                let clones = clones
                    .and_then(|(clones, folder)| Some((clones, folder_below(clones, folder)?)));
                open_below(dir, path).map(|dir| Self::Open(dir, clones))
            }
            Self::Known(vouches, folder) => {
                Some(Self::Known(*vouches, folder_below(*vouches, *folder)?))
            }
        }
    }

    /// Whether the clone's files are known without a look at them.
    fn knows_clones(&self) -> bool {
        match self {
            Self::Open(_, clones) => clones.is_some_and(|(clones, _)| clones.knows_clones()),
            Self::Known(vouches, _) => vouches.knows_clones(),
        }
    }

    fn clone_stat(&self, name: &CStr) -> Option<Meta> {
        match self {
            Self::Open(_, clones) => {
                clones.and_then(|(clones, folder)| clones.cloned(folder, name.to_bytes()))
            }
            Self::Known(vouches, folder) => vouches.cloned(*folder, name.to_bytes()),
        }
    }

    fn stat(&self, name: &CStr) -> Option<Vouched> {
        match self {
            Self::Open(dir, _) => {
                let source = stat(dir, name)?;
                Some(Vouched { modified: source.modified(), source })
            }
            Self::Known(vouches, folder) => vouches.file(*folder, name.to_bytes()),
        }
    }
}

fn stat(dir: &OwnedFd, name: &CStr) -> Option<Meta> {
    Meta::at(dir, name).ok()
}

/// The same directory in both trees. Some of the directories above stay open, because the next path
/// is often nearby.
struct Pair<'a> {
    roots: (&'a IndexedDirectory<'a>, &'a OwnedFd),
    /// The path of the innermost directory.
    path: Vec<u8>,
    open: VecDeque<Level<'a>>,
}

struct Level<'a> {
    /// The length of the part of the path that leads to this level.
    length: usize,
    /// `None` if this is not a directory in both trees. Then nothing below it is one either. The
    /// clone's is not open if the source knows the clone's files.
    dirs: Option<(IndexedDirectory<'a>, Option<OwnedFd>)>,
}

/// How many levels stay open, innermost first. Paths are sorted, so the next directory is seldom
/// further up. Each thread has two descriptors for a level.
const LEVELS_MOST: usize = 4;

impl<'a> Pair<'a> {
    fn new(roots: (&'a IndexedDirectory<'a>, &'a OwnedFd)) -> Self {
        Self { roots, path: Vec::new(), open: VecDeque::new() }
    }

    /// The stat of a path in both trees. `None` if there is a link on the way.
    fn stat(&mut self, path: &[u8]) -> Option<(Vouched, Meta)> {
        let (directory, name) = split(path)?;
        if self.path != directory {
            self.go_to(directory);
        }
        let (source, clone) = self.dirs()?;
        let vouched = source.stat(&name)?;
        let clone = match (source.clone_stat(&name), clone) {
            (Some(known), _) => known,
            (None, Some(dir)) => stat(dir, &name)?,
            (None, None) => self.second(path)?,
        };
        Some((vouched, clone))
    }

    /// The stat of a path in the second tree.
    fn second(&self, path: &[u8]) -> Option<Meta> {
        let (directory, name) = split(path)?;
        stat(&open_below(self.roots.1, Path::new(OsStr::from_bytes(directory)))?, &name)
    }

    /// The innermost directory of both trees.
    fn dirs(&self) -> Option<(&IndexedDirectory<'a>, Option<&OwnedFd>)> {
        let (source, clone) = self.roots;
        match self.open.back() {
            Some(level) => level.dirs.as_ref().map(|(source, clone)| (source, clone.as_ref())),
            None => Some((source, (!source.knows_clones()).then_some(clone))),
        }
    }

    fn go_to(&mut self, directory: &[u8]) {
        let is_above = |path: &[u8]| {
            directory.strip_prefix(path).is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
        };
        while self.open.back().is_some_and(|level| !is_above(&self.path[..level.length])) {
            self.open.pop_back();
        }
        self.path.clear();
        self.path.extend_from_slice(directory);
        // If the levels above were closed, this begins at the roots.
        let mut at = self.open.back().map_or(0, |level| level.length + 1);
        while at < directory.len() {
            let length = directory[at..].iter().position(|byte| *byte == b'/');
            let length = length.map_or(directory.len(), |length| at + length);
            let name = Path::new(OsStr::from_bytes(&directory[at..length]));
            let dirs = self.dirs().and_then(|(source, clone)| {
                let below = match clone {
                    Some(clone) => Some(open_below(clone, name)?),
                    None => None,
                };
                Some((source.below(name)?, below))
            });
            if self.open.len() == LEVELS_MOST {
                self.open.pop_front();
            }
            self.open.push_back(Level { length, dirs });
            at = length + 1;
        }
    }
}

/// The directory and the name of a path.
fn split(path: &[u8]) -> Option<(&[u8], CString)> {
    let (directory, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    let is_name = !matches!(name, b"" | b"." | b"..");
    is_name.then(|| CString::new(name).ok()).flatten().map(|name| (directory, name))
}

/// Opens a directory below `root`, name by name. It follows no link.
fn open_below(root: &OwnedFd, path: &Path) -> Option<OwnedFd> {
    let mut dir: Option<OwnedFd> = None;
    for part in path.components() {
        let Component::Normal(name) = part else { return None };
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        dir = Some(fs::openat(dir.as_ref().unwrap_or(root), name, flags, Mode::empty()).ok()?);
    }
    dir.map_or_else(|| root.try_clone().ok(), Some)
}

fn open_regular(dir: &OwnedFd, name: &CStr) -> Option<(OwnedFd, Meta)> {
    let file = fs::openat(dir, name, SOURCE_FLAGS, Mode::empty()).ok()?;
    let meta = Meta::of_file(&file).ok()?;
    (meta.file_type() == FileType::RegularFile).then_some((file, meta))
}

/// Reads a file of this size. `None` if it has another size.
fn read(file: &OwnedFd, size: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    let file = std::fs::File::from(file.try_clone().ok()?);
    file.take(size + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == size).then_some(bytes)
}

/// The name by which the process that writes an index keeps all others from it.
const INDEX_LOCK: &CStr = c"index.lock";

/// Whether a process writes the index in the folder `git`. It will replace it.
fn is_locked(git: &OwnedFd) -> bool {
    fs::statat(git, INDEX_LOCK, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// Replaces `index` with a file of these bytes. The new file has all of the old one's metadata but
/// the times, which are now. As for git, the new file is the lock until it is the index. It is whole
/// before it is the lock, so that a kill hardly ever leaves one.
fn replace(
    stage: Option<&OwnedFd>,
    git: &OwnedFd,
    old: &OwnedFd,
    old_meta: &Meta,
    bytes: &[u8],
) -> io::Result<()> {
    let place = stage.unwrap_or(git);
    let before = Meta::of_file(git)?;
    let name = CString::new(staging::stage_name())?;
    let new = fs::openat(place, &name, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
    let put = || {
        std::fs::File::from(new.try_clone()?).write_all(bytes)?;
        let attrs = Attrs::read(old)?;
        Attrs::remove_others(&new, attrs.as_deref())?;
        let stat = fs::fstat(&new)?;
        let created = Created { owner: (stat.st_uid, stat.st_gid), ..meta::created_by_us(false) };
        let refused = meta::apply(&new, old_meta, attrs.as_deref(), created, None)?;
        let now = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
        fs::futimens(&new, &Timestamps { last_access: now, last_modification: now })?;
        if !refused.is_empty() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        match staging::rename_new_or_link(place, &name, git, INDEX_LOCK) {
            // The repository is another subvolume than the stage.
            Err(Errno::XDEV) => {
                rename_entry(place, &name, git, &name)?;
                staging::rename_new_or_link(git, &name, git, INDEX_LOCK).inspect_err(|_| {
                    let _ = fs::unlinkat(git, &name, AtFlags::empty());
                })?;
            }
            renamed => renamed?,
        }
        // Another process may have replaced the index before.
        let is_old = Meta::at(git, c"index")
            .is_ok_and(|it| it.id() == old_meta.id() && it.changed == old_meta.changed);
        let renamed = match is_old {
            true => fs::renameat(git, INDEX_LOCK, git, c"index").map_err(io::Error::from),
            false => Err(io::ErrorKind::Unsupported.into()),
        };
        renamed.inspect_err(|_| {
            let _ = fs::unlinkat(git, INDEX_LOCK, AtFlags::empty());
        })
    };
    let result = put();
    if result.is_err() {
        let _ = fs::unlinkat(place, &name, AtFlags::empty());
    }
    let _ = fs::futimens(git, &before.timestamps());
    result
}

/// The submodules whose repositories are in the directory `modules` of `git`, and their submodules.
fn submodules(root: &OwnedFd, git: &Path) -> Vec<IndexedRepository> {
    let mut found = Vec::new();
    let mut folders = vec![(git.join("modules"), 0)];
    let mut looked_at = 0;
    while let Some((folder, deep)) = folders.pop() {
        looked_at += 1;
        if looked_at > MODULE_FOLDERS_MOST || deep > MODULES_DEEP {
            break;
        }
        let Some(dir) = open_below(root, &folder) else { continue };
        if fs::statat(&dir, c"HEAD", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            if let Some(tree) = working_tree(&dir, &folder) {
                found.push(IndexedRepository { tree, git: folder.clone() });
            }
            folders.push((folder.join("modules"), deep + 1));
            continue;
        }
        // A submodule's name may have slashes in it.
        let Ok(entries) = fs::Dir::read_from(&dir) else { continue };
        for entry in entries.flatten().take(MODULE_FOLDERS_MOST) {
            let name = entry.file_name().to_bytes();
            let kind = entry.file_type();
            if !matches!(name, b"." | b"..")
                && matches!(kind, FileType::Directory | FileType::Unknown)
            {
                folders.push((folder.join(OsStr::from_bytes(name)), deep + 1));
            }
        }
    }
    found
}

/// The working tree of a submodule's repository, which is open as `dir`; `git` is its path.
fn working_tree(dir: &OwnedFd, git: &Path) -> Option<PathBuf> {
    resolved(git, &set_working_tree(dir, c"config")?)
}

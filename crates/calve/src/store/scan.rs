//! Reads a tree. A scan recognizes an entry that has not changed since a snapshot by its stat
//! alone. It looks at the content of every other entry and, if a snapshot is to be made, takes the
//! content into the store.
//!
//! The result is a [`Manifest`], with the inode and change time of each of its entries. Directories
//! are read in parallel. Files that must be opened are handled in batches, so that one large
//! directory is work for every thread.
//!
//! Entries are opened relative to their directory and without following a link. So if the tree is
//! rearranged meanwhile, the scan never leaves it. An entry that is gone when it is opened is left
//! out and reported. So is a file that keeps changing while it is copied.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::blobs::{Blobs, Intake, IntakeCounts, Noted};
use super::format::is_of_calve;
use super::git::OwnFolders;
use super::id::{BlobId, SnapshotId};
use super::index::{Boot, Index, Stat};
use super::layout;
use super::manifest::{self, Manifest, NO_ID};
use super::metadata::Maker;
use super::object::{Entry, Kind, Time};
use super::paths::links::borrows_from_outside;
use super::paths::local::{Local, Tree};
use super::paths::spelling::{Spellings, kind_to_learn_from};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::report::{SkipReason, Skipped};
use crate::tree::budget::Budget;
use crate::tree::excluded::Excluded;
use crate::tree::filter::IgnoreChain;
use crate::tree::listing::{self, Before, Names, Rest};
use crate::tree::node::{self, Handles, OpenDirs};
use crate::tree::pool::{self, Queue, lock};
use crate::tree::read::open_unnoted;
use crate::tree::running::Running;

mod assemble;
pub(crate) mod databases;
mod entries;
pub(crate) mod files;
mod found;
mod trust;

use assemble::Assembly;
pub(crate) use assemble::{group_of, link_again, name_directories};
use files::read_small;
pub(crate) use files::{attributes, entry_of};
use found::{Inode, Listed, Scanned, What};

/// The rules for entries that a snapshot leaves out, in gitignore's syntax.
pub(crate) const IGNORE_FILE: &CStr = c".calveignore";

/// The number of files in a task.
const BATCH_FILES: usize = 64;

/// One for the file that is taken in, one for the mirror that is made of it, and one for the mirror
/// that another process makes.
const FILE_DESCRIPTORS: usize = 3;

/// The content of a file that was not read because nobody asked for its content.
pub(crate) const UNKNOWN: BlobId = BlobId::from_bytes([0; 32]);

/// The tree to scan, and how to scan it.
pub(crate) struct Request<'a> {
    /// The tree's root, for messages.
    pub(crate) path: &'a Path,
    pub(crate) root: &'a OwnedFd,
    /// The snapshot that the tree is compared with.
    pub(crate) base: Option<&'a Manifest>,
    pub(crate) index: Option<&'a Index>,
    /// The contents of the store.
    pub(crate) blobs: &'a Blobs,
    /// If set, the scan takes contents into the store and notes them here. If not, the scan reads
    /// only files that may be equal to the base; other files get the content [`UNKNOWN`].
    pub(crate) intake: Option<&'a Noted>,
    /// Set if nothing is to be read at all. The base, if there is one, is then an earlier look at a
    /// tree that is mostly equal, whose memory the result shares.
    pub(crate) looks_only: bool,
    /// A time of this filesystem's clock, taken before the scan.
    pub(crate) stamp: (i64, u32),
    /// Who made the tree. Metadata that this maker could not set is no difference.
    pub(crate) maker: Maker,
    /// Directories that are inside the tree but not a part of it: other worktrees.
    pub(crate) excluded: &'a Excluded,
    /// The tree's own repository, if working trees of others are no part of the tree either.
    pub(crate) own: Option<&'a OwnFolders>,
    /// The roots to look for in files that are taken in.
    pub(crate) roots: &'a [Vec<u8>],
    /// The spellings of the root that snapshots name; files that are taken in may teach more.
    pub(crate) spellings: &'a Spellings,
    /// Set if the tree's files name another root than the snapshot's.
    pub(crate) local: Option<&'a Local>,
    /// Files whose content is known without a look.
    pub(crate) alike: Option<&'a AlikeFiles>,
    /// If set, everything else is left out.
    pub(crate) only: Option<&'a Near>,
    pub(crate) operation: &'a Running,
}

/// Some paths of a tree, all that is below them, and the folders that lead to them.
pub(crate) struct Near(BTreeSet<PathBuf>);

impl Near {
    pub(crate) fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(paths.into_iter().collect())
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        let mut below = self.0.range::<Path, _>((Bound::Included(path), Bound::Unbounded));
        path.ancestors().any(|above| self.0.contains(above))
            || below.next().is_some_and(|first| first.starts_with(path))
    }
}

/// Files of a tree that have the content of files in a snapshot: git's index says so of both.
pub(crate) struct AlikeFiles {
    pub(crate) of: SnapshotId,
    /// By the path in the tree: what the file was then, and its content.
    pub(crate) files: HashMap<PathBuf, (Meta, BlobId)>,
}

impl AlikeFiles {
    /// The content of the file at `path`, if it is still the one that was looked at.
    fn content(&self, path: &Path, now: &Meta) -> Option<BlobId> {
        let (then, blob) = self.files.get(path)?;
        let key = |meta: &Meta| (meta.dev, meta.ino, meta.size, meta.modified(), meta.changed);
        (key(then) == key(now)).then_some(*blob)
    }
}

impl Request<'_> {
    /// The roots of the tree's files, if the file in `dir` may have another content, size or time
    /// here than in a snapshot.
    fn local_at(&self, dir: &ScanNode, name: &CStr) -> Option<&Local> {
        let local = self.local?;
        local.may_differ(&dir.path_of(name)).then_some(local)
    }

    fn tree(&self) -> Tree<'_> {
        Tree { path: self.path, root: self.root }
    }

    /// What the index has for the entries of a directory of the base.
    fn known_stats(&self, directory: &manifest::Directory) -> Option<&[Stat]> {
        let first = directory.first as usize;
        self.index?.stats.get(first..first + directory.entries.len())
    }
}

/// The result of a scan.
#[derive(Debug)]
pub(crate) struct Scan {
    /// `None`: the tree equals the base. Without an intake, the links may differ.
    pub(crate) manifest: Option<Manifest>,
    /// One for each entry, by number. Empty without a manifest and without an intake.
    pub(crate) stats: Vec<Stat>,
    /// Set if the given index is of another boot: an index for this boot, with those of its entries
    /// that still hold. Never set with an intake.
    pub(crate) index: Option<Index>,
    /// The places of directories that the base does not have. Empty without an intake.
    pub(crate) directories: Vec<u32>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) mentions: Mentions,
    pub(crate) counts: IntakeCounts,
    /// Blobs that must be sealed after a flush.
    pub(crate) unsealed: Vec<BlobId>,
    /// Whether ignore rules of the tree left anything out.
    pub(crate) left_out: bool,
}

/// Files that were taken in and name the tree's root.
#[derive(Debug)]
pub(crate) struct Mentions {
    pub(crate) paths: Vec<PathBuf>,
    /// How they spell the root.
    pub(crate) spellings: Spellings,
}

impl Mentions {
    fn of(request: &Request<'_>) -> Self {
        Self { paths: Vec::new(), spellings: request.spellings.clone() }
    }

    /// Notes the file at `path` if it names the root. `text` is the open file and its size, if it
    /// may tell how the root is spelled.
    pub(crate) fn note(
        &mut self,
        path: &Path,
        mut mentions_root: bool,
        text: Option<(&OwnedFd, u64)>,
    ) {
        if let Some((file, size)) = text
            && let Some(kind) = kind_to_learn_from(path)
            && let Ok(Some(text)) = read_small(file, size)
        {
            mentions_root |= borrows_from_outside(path, &text) || self.spellings.learn(kind, &text);
        }
        if mentions_root {
            self.paths.push(path.to_owned());
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.paths.extend(other.paths);
        self.spellings.add(other.spellings.known());
    }
}

/// A directory that is being read.
type ScanNode = node::Node<Directory>;

struct Directory {
    /// The directory's place in the base.
    base: Option<u32>,
    chain: Option<Arc<IgnoreChain>>,
    progress: Mutex<ScanProgress>,
}

/// What the threads found in a directory until now.
#[derive(Default)]
struct ScanProgress {
    /// The place of the directory, and the directory without the files of batches.
    scanned: Option<(u32, Scanned)>,
    /// The files of batches.
    looked: Vec<Looked>,
}

enum ScanTask {
    Directory { parent: Option<Arc<ScanNode>>, name: CString, place: u32, base: Option<u32> },
    Files { dir: Arc<ScanNode>, place: u32, files: Vec<Wanted> },
}

/// A file that must be opened.
struct Wanted {
    name: CString,
    /// The file's position among the entries that were found in its directory.
    at: u32,
    /// The slot and the content of the file in the base, if the index vouches for the file but is
    /// of another boot.
    known: Option<(u32, BlobId)>,
}

/// The position of a file among the entries that were found in its directory, and the file.
type Looked = (u32, What);

struct ScanWorker {
    intake: Intake,
    buffer: Vec<MaybeUninit<u8>>,
    names: Names,
    scanned: Vec<(u32, Scanned)>,
    skipped: Vec<Skipped>,
    mentions: Mentions,
    databases: Vec<databases::Candidate>,
}

struct Scanner<'a> {
    request: &'a Request<'a>,
    boot: Boot,
    dirs: OpenDirs<Directory>,
    places: AtomicU32,
    /// Directories that turned out to be gone, or not a part of the tree.
    gone: Mutex<HashSet<u32>>,
    left_out: AtomicBool,
    /// Files and folders with attributes that may not be read.
    unread: Mutex<Vec<Skipped>>,
}

/// Scans a tree.
pub(crate) fn scan(request: &Request<'_>) -> Result<Scan, Error> {
    let (boot, places, gone) = (Boot::this(), AtomicU32::new(1), Mutex::default());
    let budget = Budget::new(1, FILE_DESCRIPTORS, request.operation.jobs())
        .context(Operation::Read, || request.path)?;
    let dirs = OpenDirs::new(budget.dirs, 0);
    let left_out = AtomicBool::new(false);
    let unread = Mutex::default();
    let scanner = Scanner { request, boot, dirs, places, gone, left_out, unread };
    let base = request.base.map(|_| 0);
    let first = ScanTask::Directory { parent: None, name: CString::default(), place: 0, base };
    if let Some(base) = request.base {
        let files = u64::from(base.count).saturating_sub(base.directories.len() as u64);
        request.operation.expect(files);
    }
    let workers = pool::run(
        &request.operation.with_jobs(budget.jobs),
        (Operation::Read, request.path),
        vec![first],
        |_| ScanWorker {
            intake: request
                .intake
                .map_or_else(Intake::new, Intake::noting)
                .looking_for(if request.intake.is_some() { request.roots } else { &[] }),
            buffer: vec![MaybeUninit::uninit(); 64 * 1024],
            names: Names::default(),
            scanned: Vec::new(),
            skipped: Vec::new(),
            mentions: Mentions::of(request),
            databases: Vec::new(),
        },
        |worker, task, queue| scanner.work(worker, task, queue),
    )?;
    scanner.assemble(workers)
}

impl Scanner<'_> {
    fn work(
        &self,
        worker: &mut ScanWorker,
        task: ScanTask,
        queue: &Queue<ScanTask>,
    ) -> Result<(), Error> {
        let dir = match task {
            ScanTask::Directory { parent, name, place, base } => {
                match self.directory(worker, parent.as_ref(), name, place, base, queue)? {
                    Some(dir) => Some(dir),
                    None => parent,
                }
            }
            ScanTask::Files { dir, place, files } => {
                let looked = self.files(worker, &dir, place, files, queue)?;
                lock(&dir.progress).looked.extend(looked);
                Some(dir)
            }
        };
        match dir {
            Some(dir) => dir.one_done(&self.dirs, |dir| {
                let ScanProgress { scanned, looked } = std::mem::take(&mut *lock(&dir.progress));
                if let Some((place, mut scanned)) = scanned {
                    scanned.complete(looked, self.request);
                    worker.scanned.push((place, scanned));
                }
                Ok(())
            }),
            None => Ok(()),
        }
    }

    fn full_path(&self, path: &Path) -> PathBuf {
        self.request.path.join(path)
    }

    fn handles(&self, dir: &Arc<ScanNode>) -> Result<Arc<Handles>, Error> {
        dir.handles(&self.dirs).context(Operation::OpenDirectory, || self.full_path(&dir.path()))
    }

    /// Reads a directory. `None` if it is gone or not a part of the tree.
    fn directory(
        &self,
        worker: &mut ScanWorker,
        parent: Option<&Arc<ScanNode>>,
        name: CString,
        place: u32,
        base: Option<u32>,
        queue: &Queue<ScanTask>,
    ) -> Result<Option<Arc<ScanNode>>, Error> {
        let request = self.request;
        let path_of = || parent.map_or_else(PathBuf::new, |parent| parent.path_of(&name));
        let since = listing::now();
        let opened = match parent {
            None => open_unnoted(request.root, c".", DIR_FLAGS),
            Some(parent) => {
                let above = self.handles(parent)?;
                open_unnoted(&above.sides[0], &name, DIR_FLAGS | OFlags::NOFOLLOW)
            }
        };
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) if parent.is_some() => {
                worker.skipped.push(Skipped { path: path_of(), reason: SkipReason::Vanished });
                lock(&self.gone).insert(place);
                return Ok(None);
            }
            Err(errno) => {
                return Err(Error::io(Operation::OpenDirectory, self.full_path(&path_of()), errno));
            }
        };
        let meta = Meta::of_file(&fd).context(Operation::Read, || self.full_path(&path_of()))?;
        let filesystems = request.operation.filesystems();
        // The assembly asks by device alone.
        filesystems.of(&fd, meta.dev);
        if parent.is_some() && request.excluded.has(&fd, &meta, &name, filesystems) {
            lock(&self.gone).insert(place);
            return Ok(None);
        }
        let known = base.and_then(|base| Some((request.base?, base)));
        let own = self
            .own_entry(&fd, &name, &meta, known, path_of)
            .context(Operation::ReadAttributes, || self.full_path(&path_of()))?;
        let before = Before::opened(since, &meta);
        let (names, rest) = match self.list(worker, &fd, before, parent.is_none(), path_of) {
            // The directory was removed after it was opened.
            Err(Errno::NOENT) if parent.is_some() => {
                worker.skipped.push(Skipped { path: path_of(), reason: SkipReason::Vanished });
                lock(&self.gone).insert(place);
                return Ok(None);
            }
            listed => listed.context(Operation::ReadDirectory, || self.full_path(&path_of()))?,
        };
        let reason = parent.and_then(|_| self.why_no_content(&fd, &names, path_of));
        if let Some(reason) = reason {
            worker.skipped.push(Skipped { path: path_of(), reason });
            lock(&self.gone).insert(place);
            return Ok(None);
        }
        if rest == Rest::Restless {
            worker.skipped.push(Skipped { path: path_of(), reason: SkipReason::Restless });
        }
        let above = parent.and_then(|parent| parent.chain.clone());
        let chain = self.rules(above, &fd, &names, path_of)?;
        let data = Directory { base, chain, progress: Mutex::default() };
        let dir = match parent {
            Some(parent) => ScanNode::below(parent, name, data, vec![fd], &self.dirs),
            None => ScanNode::root(data, vec![fd], &self.dirs),
        };
        self.note_databases(worker, &dir, place, &names);
        let found = self.entries(worker, &dir, (place, meta.dev), names, queue)?;
        let scanned = Scanned { own, inode: Inode::of(&meta), base, found, others: Vec::new() };
        lock(&dir.progress).scanned = Some((place, scanned));
        Ok(Some(dir))
    }

    /// Why the directory with these names is no content: it is a store or a remote, or a working
    /// tree whose repository is neither in the tree nor the tree's own.
    fn why_no_content(
        &self,
        dir: &OwnedFd,
        names: &[(CString, FileType)],
        path: impl Fn() -> PathBuf,
    ) -> Option<SkipReason> {
        let has_file = |wanted: &str| {
            let is_it = |(name, kind): &(CString, FileType)| {
                name.as_bytes() == wanted.as_bytes() && *kind != FileType::Directory
            };
            names.iter().any(is_it)
        };
        // If the file cannot be read, the scan of the file itself says so.
        if has_file(layout::FORMAT) && is_of_calve(dir, Path::new("")).unwrap_or(false) {
            return Some(SkipReason::StoreOrRemote);
        }
        let own = self.request.own.filter(|_| has_file(layout::GIT))?;
        own.is_led_out(&self.request.path.join(path())).then_some(SkipReason::OtherRepository)
    }

    /// The entry of an open directory.
    fn own_entry(
        &self,
        fd: &OwnedFd,
        name: &CStr,
        meta: &Meta,
        known: Option<(&Manifest, u32)>,
        path_of: impl Fn() -> PathBuf,
    ) -> io::Result<Entry> {
        if let Some((manifest, place)) = known {
            let entry = manifest.entry_of(place);
            if self.is_as_known(entry, manifest.number_of(place), meta)
                && mtime_of(meta) == entry.mtime
            {
                return Ok(entry.clone());
            }
        }
        let kind = Kind::Directory(NO_ID);
        let mut entry = self.read_entry(fd, name, meta, kind, path_of)?;
        if let Some((manifest, place)) = known {
            self.settle(&mut entry, Some(manifest.entry_of(place)));
        }
        Ok(entry)
    }

    /// Combines the results of the threads.
    fn assemble(&self, workers: Vec<ScanWorker>) -> Result<Scan, Error> {
        let places = self.places.load(Ordering::Relaxed) as usize;
        let mut scanned: Vec<Option<Scanned>> = Vec::with_capacity(places);
        scanned.resize_with(places, || None);
        let (mut counts, mut unsealed, mut skipped) =
            (IntakeCounts::default(), Vec::new(), Vec::new());
        let mut databases = Vec::new();
        let mut mentions = Mentions::of(self.request);
        for worker in workers {
            for (place, directory) in worker.scanned {
                scanned[place as usize] = Some(directory);
            }
            databases.extend(worker.databases);
            skipped.extend(worker.skipped);
            mentions.extend(worker.mentions);
            unsealed.extend(worker.intake.unsealed);
            counts.add(&worker.intake.counts);
        }
        if let Some(intake) = self.databases(databases, &mut scanned, &mut skipped)? {
            unsealed.extend(intake.unsealed);
            counts.add(&intake.counts);
        }
        skipped.append(&mut lock(&self.unread));
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        let left_out = self.left_out.load(Ordering::Relaxed);
        let index = self.what_holds(&scanned);
        let (manifest, stats, directories) = if self.is_the_base(&scanned) {
            let stats = self.request.intake.and(self.request.base);
            let stats = stats
                .map_or_else(Vec::new, |base| stats_of_base(base, self.request.index, &scanned));
            (None, stats, Vec::new())
        } else {
            let (manifest, stats, directories) =
                Assembly { request: self.request, scanned }.run()?;
            (Some(manifest), stats, directories)
        };
        Ok(Scan {
            manifest,
            stats,
            index,
            directories,
            skipped,
            mentions,
            counts,
            unsealed,
            left_out,
        })
    }

    /// Whether the scan found each directory of the base, and in each of them just the entries that
    /// the base has. With an intake, calve leaves trees with hard links to the [`Assembly`], which
    /// compares the groups.
    fn is_the_base(&self, scanned: &[Option<Scanned>]) -> bool {
        let Some(base) = self.request.base.filter(|_| !self.request.looks_only) else {
            return false;
        };
        let takes_in = self.request.intake.is_some();
        let is_linked = || {
            let inodes = scanned.iter().flatten().flat_map(Scanned::found);
            inodes.into_iter().any(|found| matches!(found, What::Same(_, it) if it.has_links))
                || base.entries().any(|(_, _, entry)| entry.link() != 0)
        };
        scanned.len() == base.directories.len()
            // The root of a snapshot that has entries which are no content has no id.
            && !(takes_in && matches!(base.root.kind, Kind::Directory(NO_ID)))
            && scanned.iter().all(|directory| {
                let Some(directory) = directory else { return false };
                let Some(place) = directory.base else { return false };
                let known = |found: &What| matches!(found, What::Same(..) | What::Directory(_));
                let (own, was) = (&directory.own, base.entry_of(place));
                let is_complete = match &directory.found {
                    Listed::Known(_) => true,
                    Listed::Leaf(stats) => {
                        stats.count == 0 && base.directories[place as usize].entries.is_empty()
                    }
                    Listed::Each(found) => {
                        base.directories[place as usize].entries.len() == found.len()
                            && found.iter().all(known)
                    }
                };
                is_complete
                    && own.same_metadata(was)
                    // Entries that snapshots leave out mostly change the time of the root, so that
                    // time is not compared. But a snapshot has it.
                    && (own.mtime == was.mtime || place == 0 && !takes_in)
            })
            && !(takes_in && is_linked())
    }
}

/// The inodes and change times of a tree that equals `base`, by number.
fn stats_of_base(base: &Manifest, index: Option<&Index>, scanned: &[Option<Scanned>]) -> Vec<Stat> {
    // An entry whose directory is as the index knows it keeps what the index has.
    let mut stats = index.map_or_else(Vec::new, |index| index.stats.clone());
    stats.resize(base.count as usize, Stat::default());
    for directory in scanned.iter().flatten() {
        let Some(place) = directory.base else { continue };
        stats[base.number_of(place) as usize] = directory.inode.stat();
        let first = base.directories[place as usize].first;
        for found in directory.found() {
            if let What::Same(slot, inode) = found {
                stats[(first + slot) as usize] = inode.stat();
            }
        }
    }
    stats
}

impl IntakeCounts {
    fn add(&mut self, other: &Self) {
        self.read_files += other.read_files;
        self.read_bytes += other.read_bytes;
        self.cloned_files += other.cloned_files;
        self.copied_files += other.copied_files;
        self.copied_bytes += other.copied_bytes;
    }
}

fn mtime_of(meta: &Meta) -> Time {
    let (seconds, nanoseconds) = meta.modified();
    Time(seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

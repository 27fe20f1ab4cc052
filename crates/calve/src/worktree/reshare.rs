//! Shares blocks again, if a build, an install or a checkout wrote a file with the bytes of a file
//! in another tree.
//!
//! calve looks at a file closely only if the filesystem says that a part of it is in no other file
//! (FIEMAP), and if another file has its size. Then calve hashes the content. The names of the
//! store's mirrors are hashes, so calve need not read the mirrors. Hashes only propose: the kernel
//! compares the bytes itself while nobody can change them (`FIDEDUPERANGE`), and changes nothing
//! else. Inode and times stay, so indexes and builds stay fresh. No content can be lost here,
//! whatever other processes do at the same time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::Worktree;
use crate::error::{Error, ErrorKind, IfThere as _, Operation};
use crate::macros::{named, setters};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::reflink::sys::{self, Place};
use crate::store::blobs::Intake;
use crate::store::id::{BlobId, from_hex};
use crate::store::{Store, StoreOptions, at, layout};
use crate::tree::pool::{self, lock};
use crate::tree::running::Running;
use crate::tree::visit::{Found, Visitor, visit};

/// How much one call compares. btrfs works in pieces of this size, and between calls the operation
/// can be cancelled.
const PIECE_BYTES: u64 = 16 << 20;

/// How [`Store::reshare`] works; built by value.
#[derive(Debug, Clone, Default)]
pub struct ReshareOptions {
    dry_run: bool,
}

setters! { ReshareOptions:
    /// Equal content is shared.
    pub fn new(),
    /// Shares nothing, and only reports what calve would share.
    pub dry_run: bool,
}

named! {
    /// Why a file was not shared.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum NotReshared {
        /// The file's filesystem cannot share blocks between files.
        Filesystem = "filesystem",
        /// The process may not: the file is another user's, or it is immutable.
        Permission = "permission",
        /// The filesystem refuses this file: it is a swap file, or only one of the two files has
        /// checksums (`chattr +C`).
        File = "file",
        /// Another process changed, replaced or removed the file.
        Changed = "changed",
    }
}

impl NotReshared {
    /// `None` for an error that another file would meet, too: a failing or full disk.
    fn of(error: &io::Error) -> Option<Self> {
        match Errno::from_io_error(error)? {
            Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS => Some(Self::Filesystem),
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Some(Self::Permission),
            Errno::INVAL | Errno::TXTBSY | Errno::AGAIN | Errno::INTR => Some(Self::File),
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE => {
                Some(Self::Changed)
            }
            _ => None,
        }
    }
}

/// What [`Store::reshare`] did, or with [`ReshareOptions::dry_run`] would do.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ReshareReport {
    /// How many regular files calve looked at in the worktrees.
    pub files: u64,
    /// How many of them had content that no other file shares, and how much that was.
    pub unshared_files: u64,
    /// See `unshared_files`.
    pub unshared_bytes: u64,
    /// How many files share their content now, and how much space that gave back. On btrfs,
    /// compressed content counts with its uncompressed size.
    pub reshared_files: u64,
    /// See `reshared_files`.
    pub reshared_bytes: u64,
    /// How many files were not shared, and why. Files whose content no other file has are not among
    /// them, but for [`NotReshared::Filesystem`]: there calve reads no content.
    pub refused: BTreeMap<NotReshared, u64>,
    /// How many files and directories of the worktrees calve may not read.
    pub unreadable: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

impl Store {
    /// Lets files in these worktrees share their blocks again with the store, the project and each
    /// other, if they have the same content. Larger files come first. The threads work when nobody
    /// else needs the disk or the processor.
    ///
    /// Content, inode and times of all files stay as they are, so that `git status`, builds and
    /// [`Worktree::status`] read nothing again. Other processes may change, switch or drop the
    /// trees meanwhile. calve keeps about 150 bytes of memory for each file of which a part is
    /// shared with nobody, and for each file of the store and the project that has the size of one
    /// of these.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeMissing`]; a directory could not be read; the disk fails or is full.
    /// The files that were shared until then stay so. That a file cannot be shared is no error: see
    /// [`ReshareReport::refused`].
    ///
    /// # Platforms
    /// Linux: XFS and btrfs. Elsewhere nothing is read or shared, and the report says so:
    /// [`NotReshared::Filesystem`].
    pub fn reshare(
        &self,
        worktrees: &[Worktree],
        how: &ReshareOptions,
        options: &StoreOptions,
    ) -> Result<ReshareReport, Error> {
        let mut trees =
            vec![ReshareTree { path: self.layout().blobs(), role: ReshareRole::Mirrors }];
        // The store's own files in a worktree are small, and calve writes them when it likes.
        let mut apart = vec![self.path().to_owned()];
        for worktree in worktrees {
            let now = worktree.there()?;
            apart.push(layout::own(&now.path));
            trees.push(ReshareTree { path: now.path, role: ReshareRole::Target });
        }
        trees.push(ReshareTree { path: self.project()?, role: ReshareRole::Source });
        apart.extend(self.worktrees()?.into_iter().map(|worktree| worktree.path));
        reshare(trees, &apart, how, &options.operation())
    }
}

/// Lets files in the folders `targets` share their blocks with files in the folder `source`, and
/// with each other, if they have the same content. The folders need no store; see
/// [`Store::reshare`].
///
/// # Errors
/// As for [`Store::reshare`]; [`ErrorKind::SourceNotFound`] if a folder does not exist.
pub fn reshare_folders(
    source: impl AsRef<Path>,
    targets: &[impl AsRef<Path>],
    how: &ReshareOptions,
    options: &StoreOptions,
) -> Result<ReshareReport, Error> {
    let folder = |path: &Path| {
        std::fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::SourceNotFound, Operation::Reshare, path, error)
            }
            _ => Error::io(Operation::Reshare, path, error),
        })
    };
    let mut trees = Vec::new();
    for target in targets {
        trees.push(ReshareTree { path: folder(target.as_ref())?, role: ReshareRole::Target });
    }
    trees.push(ReshareTree { path: folder(source.as_ref())?, role: ReshareRole::Source });
    reshare(trees, &[], how, &options.operation())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReshareRole {
    /// The store's mirrors, whose names are their hashes.
    Mirrors,
    /// Its files are shared, and stay as they are.
    Source,
    Target,
}

struct ReshareTree {
    path: PathBuf,
    role: ReshareRole,
}

/// A file that may be equal to another one.
struct ReshareCandidate {
    tree: usize,
    path: Box<Path>,
    /// The inode, if it has several names.
    linked: Option<(u64, u64)>,
    size: u64,
    /// How much of it is in no other file. For files that stay as they are, nothing.
    unshared: u64,
}

/// The data of a visit, for its threads.
struct ReshareLooker<'a> {
    roles: Vec<ReshareRole>,
    /// The sizes of files that are of interest; `None` if all are.
    sizes: Option<&'a HashSet<u64>>,
    running: &'a Running,
}

#[derive(Default)]
struct ReshareSeen {
    candidates: Vec<ReshareCandidate>,
    files: u64,
    unreadable: u64,
    /// How many files are on a filesystem that cannot share.
    unshareable: u64,
}

impl Visitor<ReshareSeen> for ReshareLooker<'_> {
    fn visit(&self, seen: &mut ReshareSeen, found: &Found<'_>) -> Result<(), Error> {
        let (meta, role) = (&found.meta, self.roles[found.tree]);
        if meta.file_type() != FileType::RegularFile {
            return Ok(());
        }
        let mut unshared = 0;
        if role == ReshareRole::Target {
            seen.files += 1;
            self.running.files_done(1);
        }
        let wanted = self.sizes.is_none_or(|sizes| sizes.contains(&meta.size));
        if meta.size == 0 || meta.blocks == 0 || !wanted {
            return Ok(());
        }
        if role == ReshareRole::Target {
            match fs::openat(found.dir, found.name, SOURCE_FLAGS, Mode::empty()) {
                // A filesystem that does not say who shares what does not share either.
                Ok(file) if sys::never_shares(&file) => seen.unshareable += 1,
                Ok(file) => match unshared_bytes(&file) {
                    Ok(bytes) => unshared = bytes,
                    Err(_) => seen.unshareable += 1,
                },
                Err(Errno::ACCESS | Errno::PERM) => seen.unreadable += 1,
                Err(_) => {}
            }
            if unshared == 0 {
                return Ok(());
            }
        }
        let (tree, path) = (found.tree, found.path().into_boxed_path());
        let linked = (meta.links > 1).then(|| meta.id());
        seen.candidates.push(ReshareCandidate { tree, path, linked, size: meta.size, unshared });
        Ok(())
    }

    fn unreadable(&self, seen: &mut ReshareSeen, tree: usize) {
        seen.unreadable += u64::from(self.roles[tree] == ReshareRole::Target);
    }
}

/// How much of a file's content is on the disk and in no other file.
fn unshared_bytes(file: &OwnedFd) -> io::Result<u64> {
    let mut sum = 0_u64;
    // Content that is not written yet has no place on the disk. The second look flushes it first.
    for flush in [false, true] {
        sum = 0;
        let mut is_everywhere = true;
        sys::extents(file, flush, |extent| {
            match extent.place {
                Place::At(_) | Place::Encoded(_) if !extent.is_shared && !extent.is_unwritten => {
                    sum = sum.saturating_add(extent.length);
                }
                Place::Nowhere => is_everywhere = false,
                _ => {}
            }
            true
        })?;
        if is_everywhere {
            break;
        }
    }
    Ok(sum)
}

struct Reshare<'a> {
    roots: Vec<OwnedFd>,
    trees: &'a [ReshareTree],
    /// For each tree, whether the kernel said that no file shares with the files in it: for a
    /// target, because its filesystem cannot; for another tree, because it is on another
    /// filesystem.
    apart: Vec<AtomicBool>,
    dry_run: bool,
    running: &'a Running,
    done: Mutex<ReshareReport>,
}

/// `trees` may name a tree twice: then its first role is the one that counts.
fn reshare(
    trees: Vec<ReshareTree>,
    apart: &[PathBuf],
    how: &ReshareOptions,
    running: &Running,
) -> Result<ReshareReport, Error> {
    let started = Instant::now();
    let (trees, roots) = open_each(trees)?;
    let id = |path: &Path| fs::stat(path).ok().map(|stat| Meta::of(&stat).id());
    // A tree in another one, such as a store in its project, is looked at for itself alone.
    let excluded: HashSet<(u64, u64)> =
        trees.iter().map(|tree| &tree.path).chain(apart).filter_map(|path| id(path)).collect();
    let of = |is: fn(ReshareRole) -> bool| -> Vec<usize> {
        (0..trees.len()).filter(|tree| is(trees[*tree].role)).collect()
    };
    let look = |numbers: &[usize], sizes: Option<&HashSet<u64>>| -> Result<ReshareSeen, Error> {
        let roles = numbers.iter().map(|tree| trees[*tree].role).collect();
        let paths: Vec<&Path> = numbers.iter().map(|tree| trees[*tree].path.as_path()).collect();
        let start = || {
            sys::lowest_thread_priority();
            ReshareSeen::default()
        };
        let looker = ReshareLooker { roles, sizes, running };
        let (mut all, mut inodes) = (ReshareSeen::default(), HashSet::new());
        for seen in visit(&paths, &excluded, running, Operation::Reshare, start, &looker)? {
            all.candidates.extend(seen.candidates);
            all.files += seen.files;
            all.unreadable += seen.unreadable;
            all.unshareable += seen.unshareable;
        }
        all.candidates.retain(|file| file.linked.is_none_or(|inode| inodes.insert(inode)));
        for candidate in &mut all.candidates {
            candidate.tree = numbers[candidate.tree];
        }
        Ok(all)
    };
    let found = look(&of(|role| role == ReshareRole::Target), None)?;
    let sizes: HashSet<u64> = found.candidates.iter().map(|candidate| candidate.size).collect();
    let sources = look(&of(|role| role != ReshareRole::Target), Some(&sizes))?;
    let mut report = ReshareReport {
        files: found.files,
        unshared_files: found.candidates.len() as u64,
        unshared_bytes: found.candidates.iter().map(|candidate| candidate.unshared).sum(),
        unreadable: found.unreadable,
        ..ReshareReport::default()
    };
    if found.unshareable > 0 {
        report.refused.insert(NotReshared::Filesystem, found.unshareable);
    }
    let mut by_size: BTreeMap<u64, Vec<ReshareCandidate>> = BTreeMap::new();
    for candidate in sources.candidates.into_iter().chain(found.candidates) {
        by_size.entry(candidate.size).or_default().push(candidate);
    }
    by_size.retain(|_, files| files.len() > 1);
    let work = Reshare {
        roots,
        trees: &trees,
        apart: trees.iter().map(|_| AtomicBool::new(false)).collect(),
        dry_run: how.dry_run,
        running,
        done: Mutex::new(report),
    };
    // Threads take tasks from the end: the largest first.
    let tasks: Vec<Vec<ReshareCandidate>> = by_size.into_values().collect();
    let first = trees.iter().find(|tree| tree.role == ReshareRole::Target).or(trees.first());
    let what = (Operation::Reshare, first.map_or(Path::new(""), |tree| &tree.path));
    let start = |_| {
        sys::lowest_thread_priority();
        Intake::new()
    };
    pool::run(running, what, tasks, start, |intake, files, _| work.of_one_size(intake, &files))?;
    let report = work.done.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(ReshareReport { elapsed: started.elapsed(), ..report })
}

/// Opens each of the trees that is there, once.
fn open_each(trees: Vec<ReshareTree>) -> Result<(Vec<ReshareTree>, Vec<OwnedFd>), Error> {
    let (mut paths, mut there, mut roots) = (HashSet::new(), Vec::new(), Vec::new());
    for tree in trees.into_iter().filter(|tree| paths.insert(tree.path.clone())) {
        // Somebody may have dropped it a moment ago.
        let root = fs::open(&tree.path, DIR_FLAGS, Mode::empty()).if_there();
        let root = root.map_err(|errno| Error::io(Operation::OpenDirectory, &tree.path, errno))?;
        let Some(root) = root else { continue };
        roots.push(root);
        there.push(tree);
    }
    Ok((there, roots))
}

impl Reshare<'_> {
    /// Files of one size.
    fn of_one_size(&self, intake: &mut Intake, files: &[ReshareCandidate]) -> Result<(), Error> {
        let of = |role| {
            let is_of = move |file: &&ReshareCandidate| {
                self.trees[file.tree].role == role && !self.apart[file.tree].load(Relaxed)
            };
            files.iter().filter(is_of)
        };
        let mut known: HashMap<BlobId, &ReshareCandidate> = HashMap::new();
        for file in of(ReshareRole::Mirrors) {
            if let Some(hash) = mirror_hash(&file.path) {
                known.insert(hash, file);
            }
        }
        let mut hashes = Vec::new();
        for target in files.iter().filter(|file| self.trees[file.tree].role == ReshareRole::Target)
        {
            if self.apart[target.tree].load(Relaxed) {
                self.count(target, NotReshared::Filesystem);
            } else if let Some(hash) = self.hash(intake, target)? {
                hashes.push((hash, target));
            }
        }
        // A file of the project is read only if the store alone does not have all of it.
        if hashes.iter().any(|(hash, _)| !known.contains_key(hash)) {
            for file in of(ReshareRole::Source) {
                if let Some(hash) = self.hash(intake, file)? {
                    known.entry(hash).or_insert(file);
                }
            }
        }
        for (hash, target) in hashes {
            if self.running.is_cancelled() {
                return Ok(());
            }
            let shares = match known.get(&hash) {
                Some(source) => self.share(source, target)?,
                None => false,
            };
            if !shares {
                // The next file with this content shares with this one.
                known.insert(hash, target);
            }
        }
        Ok(())
    }

    fn path(&self, file: &ReshareCandidate) -> PathBuf {
        self.trees[file.tree].path.join(&file.path)
    }

    /// Fails with `ESTALE` if the file was replaced or has another size by now.
    fn open(&self, file: &ReshareCandidate) -> io::Result<(OwnedFd, Meta)> {
        let dir = at::open_parent(&self.roots[file.tree], &file.path)?;
        let opened = fs::openat(&dir, at::last(&file.path)?, SOURCE_FLAGS, Mode::empty())?;
        let meta = Meta::of_file(&opened)?;
        if meta.file_type() != FileType::RegularFile || meta.size != file.size {
            return Err(Errno::STALE.into());
        }
        Ok((opened, meta))
    }

    /// The hash of a file's content. `None` if the file is gone or cannot be read.
    fn hash(&self, intake: &mut Intake, file: &ReshareCandidate) -> Result<Option<BlobId>, Error> {
        let stop = || self.running.is_cancelled();
        let hashed = self.open(file).and_then(|(open, meta)| intake.hash(&open, meta.size, &stop));
        match hashed {
            Ok((hash, _)) => Ok(Some(hash)),
            Err(error) => self.refuse(file, &error).map(|()| None),
        }
    }

    fn count(&self, target: &ReshareCandidate, why: NotReshared) {
        if self.trees[target.tree].role == ReshareRole::Target {
            *lock(&self.done).refused.entry(why).or_default() += 1;
        }
    }

    /// Counts why a file does not share.
    fn refuse(&self, file: &ReshareCandidate, error: &io::Error) -> Result<(), Error> {
        let Some(why) = NotReshared::of(error) else {
            let error = io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(0));
            return Err(Error::io(Operation::Reshare, self.path(file), error));
        };
        if why == NotReshared::Filesystem {
            self.apart[file.tree].store(true, Relaxed);
        }
        self.count(file, why);
        Ok(())
    }

    /// Returns false if the two are on different filesystems.
    fn share(&self, source: &ReshareCandidate, target: &ReshareCandidate) -> Result<bool, Error> {
        let mut given_back = target.unshared;
        if !self.dry_run {
            let shared = (|| {
                let ((from, from_meta), (to, to_meta)) = (self.open(source)?, self.open(target)?);
                if from_meta.id() == to_meta.id() {
                    return Ok((true, 0));
                }
                let is_whole = self.share_pieces(&from, &to, target.size)?;
                let left = unshared_bytes(&to)?;
                Ok((is_whole, target.unshared.saturating_sub(left)))
            })();
            match shared {
                Err(error) if self.are_on_two_filesystems(source, target, &error) => {
                    let is_target = self.trees[source.tree].role == ReshareRole::Target;
                    self.apart[source.tree].store(!is_target, Relaxed);
                    return Ok(false);
                }
                Err(error) => return self.refuse(target, &error).map(|()| true),
                Ok((is_whole, bytes)) => {
                    given_back = bytes;
                    if !is_whole && !self.running.is_cancelled() {
                        self.count(target, NotReshared::Changed);
                    }
                }
            }
        }
        let mut done = lock(&self.done);
        done.reshared_files += u64::from(given_back > 0);
        done.reshared_bytes = done.reshared_bytes.saturating_add(given_back);
        Ok(true)
    }

    /// Whether that is why the two cannot share. The kernel says `EXDEV` only if the filesystem of
    /// `source` could share.
    fn are_on_two_filesystems(
        &self,
        source: &ReshareCandidate,
        target: &ReshareCandidate,
        error: &io::Error,
    ) -> bool {
        let filesystem =
            |file: &ReshareCandidate| sys::filesystem_name(&self.trees[file.tree].path);
        match Errno::from_io_error(error) {
            Some(Errno::XDEV) => true,
            _ if NotReshared::of(error) == Some(NotReshared::Filesystem) => {
                filesystem(source) != filesystem(target)
            }
            _ => false,
        }
    }

    /// Whether all of it is shared now.
    fn share_pieces(&self, from: &OwnedFd, to: &OwnedFd, size: u64) -> io::Result<bool> {
        let mut offset = 0;
        while offset < size && !self.running.is_cancelled() {
            match sys::dedupe(from, to, offset, PIECE_BYTES.min(size - offset))? {
                0 => return Ok(false),
                done => offset += done,
            }
        }
        Ok(offset >= size)
    }
}

/// The hash in the path of a mirror.
fn mirror_hash(path: &Path) -> Option<BlobId> {
    from_hex(&path.to_str()?.replace('/', "")).map(BlobId::from_bytes)
}

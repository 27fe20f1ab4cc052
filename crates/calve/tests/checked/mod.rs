//! The checking build (`--cfg calve_check`, Linux): after each shortcut calve also does the work
//! that the shortcut avoids, and the two results must agree.
//!
//! calve trusts three things without looking: that a clone has the content of its source, that a
//! sealed file has the content that its name says, and that a file with the inode and times of the
//! index has the content of the snapshot. This build looks. It compares both sides of a clone byte
//! by byte, or entry by entry for a subvolume. It hashes files that are sealed and files that the
//! index vouches for. If they disagree, calve or the filesystem is wrong. The process then ends at
//! once with the path, so that no code can turn this into an error and continue.
//!
//! # A tree that changes is no disagreement
//! Other processes may change the compared files meanwhile. So a difference counts only if the
//! source shows no change. The source must have the same size and times before and after, by the
//! same descriptor. Its last change must be longer ago than a tick of the clock, since a second
//! change in the same tick would leave no mark. (A clone waits for this.)
//!
//! A store through a mapping is no exception. To clone or to snapshot a file is to write it back,
//! and after that the first store to each page sets the times again. A mirror is hashed as soon as
//! it is sealed.
//!
//! Reading a file sets its access time, which breaks the seal of a ready tree. So a file that this
//! build cannot open again for reading without a trace is not checked.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fmt::Arguments;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom};

use crate::StoreOptions;
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::store::Store;
use crate::store::blobs::Intake;
use crate::store::delta::{self, Counts, Delta};
use crate::store::id::{BlobId, SnapshotId};
use crate::store::manifest::Manifest;
use crate::store::metadata::Maker;
use crate::store::object::SnapshotObject;
use crate::store::paths::spelling::Spellings;
use crate::store::scan::{self, Request};

#[cfg(test)]
mod tests;

/// Longer than a tick of any kernel's clock.
const TICK: Duration = Duration::from_millis(11);

const PIECE_BYTES: u64 = 256 * 1024;

/// Ends the process, because a shortcut and its check disagree.
fn disagree(what: Arguments<'_>) -> ! {
    eprintln!("calve_check: {what}");
    std::process::abort()
}

/// Compares the answer that git gave about another worktree with the one that it gives about this
/// one. A worktree that is changed meanwhile may have another one.
pub(crate) fn same_answer<T: PartialEq + std::fmt::Debug>(
    path: &Path,
    own: &T,
    others: &T,
    is_still: bool,
) {
    if is_still && own != others {
        disagree(format_args!("{}: {own:?}, and of one that is alike {others:?}", path.display()));
    }
}

/// Looks for changes in a tree that was taken for untouched. One that came after that shows in
/// `is_still`.
pub(crate) fn untouched(
    path: &Path,
    changed: impl FnOnce() -> io::Result<Vec<PathBuf>>,
    is_still: impl FnOnce() -> bool,
) {
    let changed = changed().unwrap_or_default();
    if !changed.is_empty() && is_still() {
        disagree(format_args!("{}: untouched, and {changed:?} changed", path.display()));
    }
}

fn meta_of(file: impl AsFd) -> io::Result<Meta> {
    Ok(Meta::of(&fs::fstat(file)?))
}

fn path_of(file: impl AsFd) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| link.into())
}

/// Opens the same file again, to read it without setting its access time.
fn again(file: impl AsFd) -> io::Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(fs::open(link, flags, Mode::empty())?)
}

fn same(a: &Meta, b: &Meta) -> bool {
    (a.id(), a.size, a.modified(), a.changed) == (b.id(), b.size, b.modified(), b.changed)
}

/// Checks that the manifest that a snapshot was made from is the one that the database gives for
/// it.
pub(crate) fn manifest(store: &Store, id: SnapshotId, made: Option<&Manifest>) {
    let read = store.catalog().object(id).and_then(|object| store.catalog().manifest(id, &object));
    let (Some(made), Ok(read)) = (made, read) else { return };
    let is_same = (&made.root, made.count, made.directories.len())
        == (&read.root, read.count, read.directories.len())
        && made.directories.iter().zip(&read.directories).all(|(a, b)| {
            (a.parent, a.slot, a.first, &a.entries, &a.children)
                == (b.parent, b.slot, b.first, &b.entries, &b.children)
        });
    if !is_same {
        disagree(format_args!("the manifest of snapshot {id} is not as the database has it"));
    }
}

/// Whether the file's last change was more than a tick before `time`.
fn is_settled(meta: &Meta, time: SystemTime) -> bool {
    let time = (time - TICK).duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    meta.changed < (seconds, time.subsec_nanos().into())
}

/// A file that is about to be cloned.
pub(crate) struct Source(Option<(OwnedFd, Meta)>);

impl Source {
    pub(crate) fn look(source: impl AsFd) -> Self {
        let look = || -> io::Result<Option<(OwnedFd, Meta)>> {
            let file = again(source)?;
            if !is_settled(&meta_of(&file)?, SystemTime::now()) {
                std::thread::sleep(2 * TICK);
            }
            let meta = meta_of(&file)?;
            Ok(is_settled(&meta, SystemTime::now()).then_some((file, meta)))
        };
        Self(look().ok().flatten())
    }

    /// Checks that the source was cloned into `clone`, which no other process writes to.
    pub(crate) fn is_in(self, clone: impl AsFd) {
        let Some((source, before)) = self.0 else { return };
        let Ok(clone) = again(clone) else { return };
        if let Ok(Some(at)) = difference(&source, &clone, before.size)
            && meta_of(&source).is_ok_and(|after| same(&before, &after))
        {
            let (source, clone) = (path_of(&source), path_of(&clone));
            disagree(format_args!("{clone:?} is no clone of {source:?}: byte {at} is another"));
        }
    }
}

/// The offset at which the first `size` bytes differ. If one file ends earlier, its end counts.
fn difference(a: &OwnedFd, b: &OwnedFd, size: u64) -> io::Result<Option<u64>> {
    if meta_of(b)?.size < size {
        return Ok(Some(meta_of(b)?.size));
    }
    let data = |file: &OwnedFd, from: u64| match fs::seek(file, SeekFrom::Data(from)) {
        Err(rustix::io::Errno::NXIO) => Ok(size),
        result => result,
    };
    let files = [File::from(a.try_clone()?), File::from(b.try_clone()?)];
    let mut pieces = [Vec::new(), Vec::new()];
    let mut at = 0;
    loop {
        at = data(a, at)?.min(data(b, at)?);
        if at >= size {
            return Ok(None);
        }
        let length = usize::try_from(PIECE_BYTES.min(size - at)).unwrap_or(0);
        for (file, piece) in files.iter().zip(&mut pieces) {
            piece.resize(length, 0);
            file.read_exact_at(piece, at)?;
        }
        let [first, second] = &pieces;
        if let Some(offset) = first.iter().zip(second).position(|(a, b)| a != b) {
            return Ok(Some(at + offset as u64));
        }
        at += length as u64;
    }
}

/// A subvolume that is about to be snapshotted.
pub(crate) struct Subvolume(SystemTime);

impl Subvolume {
    pub(crate) fn look() -> Self {
        // The wait makes sure that everything written until now is checked.
        std::thread::sleep(2 * TICK);
        Self(SystemTime::now())
    }

    /// Checks that the subvolume `source` was snapshotted as `name` in `parent`.
    pub(crate) fn is_in(&self, source: impl AsFd, parent: impl AsFd, name: &CStr) {
        let flags = DIR_FLAGS | OFlags::NOFOLLOW | OFlags::NOATIME;
        let open = |dir, name: &CStr| fs::openat(dir, name, flags, Mode::empty());
        if let (Ok(source), Ok(copy)) = (open(source.as_fd(), c"."), open(parent.as_fd(), name)) {
            self.compare(&source, &copy);
        }
    }

    /// Compares the entries of a directory with those of its copy. Entries that cannot be read are
    /// not checked.
    fn compare(&self, source: &OwnedFd, copy: &OwnedFd) {
        let (Ok(before), Ok(of)) = (meta_of(source), list(source)) else { return };
        let Ok(in_copy) = list(copy) else { return };
        let still = |meta: &Meta| is_settled(meta, self.0);
        if still(&before)
            && meta_of(source).is_ok_and(|after| same(&before, &after))
            && (!of.keys().eq(in_copy.keys())
                || meta_of(copy).is_ok_and(|meta| differs(&before, &meta)))
        {
            disagree(format_args!("{:?} is no snapshot of {:?}", path_of(copy), path_of(source)));
        }
        for (name, meta) in &of {
            let Some(copied) = in_copy.get(name) else { continue };
            let now = || fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW);
            let unchanged = || now().is_ok_and(|now| same(meta, &Meta::of(&now)));
            // Two directories are compared when they are open. A filesystem that is mounted here is
            // not in the snapshot.
            let is_dir = meta.file_type() == FileType::Directory;
            if is_dir && meta.dev != before.dev {
                continue;
            }
            let differs = || match (meta.file_type(), copied.file_type()) {
                (FileType::Directory, FileType::Directory) => false,
                (FileType::RegularFile, FileType::RegularFile) => {
                    differs(meta, copied) || contents_differ(source, copy, name)
                }
                _ => differs(meta, copied),
            };
            if still(meta) && differs() && unchanged() {
                let path = path_of(source).join(crate::store::manifest::os(name.to_bytes()));
                disagree(format_args!("{path:?} is another in the snapshot {:?}", path_of(copy)));
            }
            let flags = DIR_FLAGS | OFlags::NOFOLLOW | OFlags::NOATIME;
            let open = |dir| fs::openat(dir, name, flags, Mode::empty());
            if is_dir && let (Ok(source), Ok(copy)) = (open(source), open(copy)) {
                self.compare(&source, &copy);
            }
        }
    }
}

fn list(dir: &OwnedFd) -> io::Result<BTreeMap<CString, Meta>> {
    let mut found = BTreeMap::new();
    // This uses the given descriptor, since reading through another one would set the access time.
    let mut entries = fs::Dir::new(dir.try_clone()?)?;
    entries.rewind();
    for entry in entries {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            let stat = fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            found.insert(name, Meta::of(&stat));
        }
    }
    Ok(found)
}

fn differs(a: &Meta, b: &Meta) -> bool {
    let told = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.modified());
    told(a) != told(b) || (a.file_type() != FileType::Directory && a.size != b.size)
}

fn contents_differ(source: &OwnedFd, copy: &OwnedFd, name: &CStr) -> bool {
    let open = |dir| fs::openat(dir, name, SOURCE_FLAGS | OFlags::NOATIME, Mode::empty());
    let (Ok(source), Ok(copy)) = (open(source), open(copy)) else { return false };
    let Ok(size) = meta_of(&source).map(|meta| meta.size) else { return false };
    difference(&source, &copy, size).is_ok_and(|at| at.is_some())
}

/// Checks the mirror of a blob. `meta` says that the mirror is sealed.
pub(crate) fn mirror(file: &OwnedFd, meta: &Meta, id: BlobId) {
    if hashes_otherwise(file, meta, id) {
        disagree(format_args!("{:?} is sealed, and its content is another", path_of(file)));
    }
}

/// Checks a file of a tree that calve takes for the snapshot's, because `meta` shows no difference.
pub(crate) fn known_file(dir: &OwnedFd, name: &CStr, meta: &Meta, id: BlobId) {
    let flags = SOURCE_FLAGS | OFlags::NOATIME;
    let Ok(file) = fs::openat(dir, name, flags, Mode::empty()) else { return };
    if hashes_otherwise(&file, meta, id) {
        disagree(format_args!("{:?} was changed, and the index does not tell", path_of(&file)));
    }
}

fn hashes_otherwise(file: &OwnedFd, meta: &Meta, id: BlobId) -> bool {
    let look = || -> io::Result<bool> {
        let file = again(file)?;
        let found = Intake::new().hash(&file, meta.size, &|| false)?;
        Ok(found != (id, meta.size) && same(meta, &meta_of(&file)?))
    };
    look().unwrap_or(false)
}

/// Checks a tree that was made from a ready tree, and that no other process knows yet: it must be
/// the snapshot's tree.
pub(crate) fn ready_tree(store: &Store, id: SnapshotId, object: &SnapshotObject, root: &OwnedFd) {
    let path = path_of(root);
    let compare = || -> Result<bool, crate::Error> {
        let manifest = store.catalog().manifest(id, object)?;
        let found = scan::scan(&Request {
            path: Path::new(&path),
            root,
            base: Some(&manifest),
            index: None,
            blobs: store.blobs(),
            intake: None,
            looks_only: false,
            stamp: (i64::MIN, 0),
            // This process usually made the ready tree; the tree has no `made-by` yet.
            maker: Maker::this(),
            excluded: &crate::tree::excluded::Excluded::default(),
            own: None,
            roots: &[],
            spellings: &Spellings::fixed(Vec::new()),
            local: None,
            alike: None,
            only: None,
            operation: &StoreOptions::new().jobs(NonZeroUsize::MIN).operation(),
        })?;
        let found = found.manifest.as_ref().unwrap_or(&manifest);
        // A scan that takes nothing in does not find out which names are one file.
        let is_other = |delta: &Delta| match (delta.old, delta.new) {
            (Some(old), Some(new)) => {
                let (old, new) = (manifest.at(old), found.at(new));
                !old.same_content(new) || !old.same_metadata(new) || old.mtime != new.mtime
            }
            _ => true,
        };
        Ok(!delta::compare(&manifest, found, Counts::Everything).iter().any(is_other))
    };
    if compare().is_ok_and(|same| !same) {
        disagree(format_args!("{path:?} is not snapshot {id}, and its ready tree is sealed"));
    }
}

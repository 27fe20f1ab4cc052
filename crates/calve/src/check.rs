//! The checking build (`--cfg calve_check`, Linux): after each shortcut comes what it spares, and the two must agree.
//!
//! calve trusts three things without looking: that a clone has the content of its source, that what is sealed has the
//! content that it is called by, and that what has the inode and times of the index has the content of the snapshot. Here it
//! looks: both sides of a clone are compared, byte by byte, or entry by entry where it is a subvolume; what is sealed, and
//! what the index vouches for, is hashed. Where they disagree calve is wrong, or the filesystem, and the process ends at once
//! with the path, so that nothing can make an error of it and go on.
//!
//! # A tree that changes is no disagreement
//! What is compared may be changed by others meanwhile. So a difference counts only where the source shows no change: before and
//! after it has the same size and times, by the same descriptor, and its last change is longer ago than a tick of the clock, in
//! which a second one would leave no mark (for this a clone waits). A store through a mapping is no exception: to clone, and to
//! snapshot, is to write back, after which the first store to each page sets the times again. A mirror is hashed as soon as it
//! is sealed. What cannot be opened again for reading
//! without a trace, since reading sets access times, which break the seal of a template, is not judged.

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
use crate::store::delta::{self, Counts};
use crate::store::id::{BlobId, SnapshotId};
use crate::store::metadata::Maker;
use crate::store::object::SnapshotObject;
use crate::store::scan::{self, Request};

#[cfg(test)]
mod tests;

/// More than a tick of any kernel's clock.
const TICK: Duration = Duration::from_millis(11);

const PIECE_BYTES: u64 = 256 * 1024;

/// Ends the process.
fn disagree(what: Arguments<'_>) -> ! {
    eprintln!("calve_check: {what}");
    std::process::abort()
}

fn meta_of(file: impl AsFd) -> io::Result<Meta> {
    Ok(Meta::of(&fs::fstat(file)?))
}

fn path_of(file: impl AsFd) -> PathBuf {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    std::fs::read_link(&link).unwrap_or_else(|_| link.into())
}

/// The same file, to be read without setting its access time.
fn again(file: impl AsFd) -> io::Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(fs::open(link, flags, Mode::empty())?)
}

fn same(a: &Meta, b: &Meta) -> bool {
    (a.id(), a.size, a.modified(), a.changed) == (b.id(), b.size, b.modified(), b.changed)
}

/// Whether the last change was before a tick that ended at `time`.
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

    /// It was cloned into `clone`, which nobody else writes to.
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

/// Where the first `size` bytes differ, the one at the end of which one file has none included.
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
        // So that what was written until now is judged.
        std::thread::sleep(2 * TICK);
        Self(SystemTime::now())
    }

    /// The subvolume `source` was snapshotted as `name` in `parent`.
    pub(crate) fn is_in(&self, source: impl AsFd, parent: impl AsFd, name: &CStr) {
        let flags = DIR_FLAGS | OFlags::NOFOLLOW | OFlags::NOATIME;
        let open = |dir, name: &CStr| fs::openat(dir, name, flags, Mode::empty());
        if let (Ok(source), Ok(copy)) = (open(source.as_fd(), c"."), open(parent.as_fd(), name)) {
            self.compare(&source, &copy);
        }
    }

    /// Compares what is in a directory with what is in its copy; what cannot be read is not judged.
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
            // A directory is looked at when it is open; what is mounted there is not in the snapshot.
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
    // By this very descriptor, since another one would set the access time.
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

/// The mirror of a blob, of which `meta` says that it is sealed.
pub(crate) fn mirror(file: &OwnedFd, meta: &Meta, id: BlobId) {
    if hashes_otherwise(file, meta, id) {
        disagree(format_args!("{:?} is sealed, and its content is another", path_of(file)));
    }
}

/// A file of a tree that is taken for what the snapshot has, since `meta` says nothing else.
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

/// A tree that nobody else knows of yet, made of a template: it must be the snapshot's.
pub(crate) fn template(store: &Store, id: SnapshotId, object: &SnapshotObject, root: &OwnedFd) {
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
            stamp: (i64::MIN, 0),
            // Whoever made the template runs this, as a rule; it has no marker yet.
            maker: Maker::this(),
            excluded: &std::collections::HashSet::new(),
            operation: &StoreOptions::new().jobs(NonZeroUsize::MIN).operation(),
        })?;
        let found = found.manifest.as_ref().unwrap_or(&manifest);
        Ok(delta::compare(&manifest, found, Counts::Changes).is_empty())
    };
    if compare().is_ok_and(|same| !same) {
        disagree(format_args!("{path:?} is not snapshot {id}, and its template is sealed"));
    }
}

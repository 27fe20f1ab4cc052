//! Folders that a merge makes aside. Where the destination lacks a folder, calve makes it in the
//! stage, with its files under their final names, and renames it into place when everything below
//! it is done. So the folder appears whole, and a file in it costs no rename.
//!
//! If another process made the folder meanwhile, calve merges the staged one into it, name by name
//! ([`join`]): what is missing there is renamed as a whole, and everything else as a merge does it.
//!
//! # When a folder is not made aside
//! * Nothing can be renamed from the stage into the folder that it belongs to
//!   ([`takes_folders`] tries that): another mount, another project's quota, a sandbox.
//! * Names may be folded there ([`names`](super::names)): a merge names both entries of the source
//!   that have one place.
//! * The caller has picked the entries ([`pick`](super::pick)).
//!
//! Such a folder is made in its place with the mode [`UNFINISHED`](staging::UNFINISHED), and each of
//! its files is staged.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::pool::lock;
use super::staging::{self, os, rename_new, rename_new_or_link, stage_name};
use super::tally::{self, Because, FileLink};
use super::{CloneOptions, Existing};
use crate::error::{Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::reflink::refusal::SystemCall;
use crate::report::DestinationReport;

/// A folder that is made aside, at one destination. The directories below it share this value.
#[derive(Debug, Default)]
pub(crate) struct Aside {
    /// The stage, and the folder's name in it. `None` for a root, which has a stage of its own.
    at: Option<(Arc<OwnedFd>, CString)>,
    placed: AtomicBool,
    /// Whether the folder already waits for all links.
    held: AtomicBool,
    /// With [`Existing::Keep`]: how the files arrived that are no reflinks. A file that another
    /// process made first is no longer counted.
    arrived: Mutex<HashMap<PathBuf, FileArrival>>,
}

/// How a file arrived.
#[derive(Debug, Clone, Copy)]
pub(super) enum FileArrival {
    /// It is a link.
    Linked(FileLink),
    /// It was cloned, or copied for a reason. In the link modes the second value says why it is no
    /// link.
    Filled(Option<Because>, Option<Because>),
}

impl Aside {
    pub(super) fn new(stage: Arc<OwnedFd>, name: CString) -> Self {
        Self { at: Some((stage, name)), ..Self::default() }
    }

    /// Where the folder is until it is in its place.
    pub(super) fn at(&self) -> Option<(&OwnedFd, &CStr)> {
        let (dir, name) = self.at.as_ref().filter(|_| !self.placed.load(Ordering::Acquire))?;
        Some((dir, name))
    }

    /// Whether the folder must be told to wait for all links: another directory may have further
    /// names of its files. Only the first call returns `true`.
    pub(super) fn must_be_held(&self) -> bool {
        self.at.is_some() && !self.held.swap(true, Ordering::Relaxed)
    }

    /// Notes how a file arrived, if the merge keeps what exists.
    pub(super) fn arrived(
        &self,
        options: &CloneOptions,
        path: impl FnOnce() -> PathBuf,
        how: FileArrival,
    ) {
        if options.existing == Existing::Keep && !matches!(how, FileArrival::Filled(None, None)) {
            lock(&self.arrived).insert(path(), how);
        }
    }

    /// Renames the whole folder to its place. `false` if something is there by now: then the folder
    /// stays aside, and must be [joined](join).
    pub(super) fn place(&self, into: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
        let Some((stage, aside)) = self.at() else { return Ok(true) };
        let placed = rename_folder(stage, aside, into, name)?;
        if placed {
            self.placed.store(true, Ordering::Release);
        }
        Ok(placed)
    }

    /// Counts what [`join`] met. `taken_back` gets what does not count as arrived any more.
    pub(super) fn count(
        &self,
        met: &[(PathBuf, Met)],
        options: &CloneOptions,
        tally: &mut DestinationReport,
        taken_back: &mut DestinationReport,
    ) {
        let arrived = lock(&self.arrived);
        for (path, met) in met {
            let meta = match met {
                Met::Directory => {
                    taken_back.directories += 1;
                    continue;
                }
                Met::Replaced => None,
                Met::Kept(meta) => Some(meta),
            };
            tally::count_existing(tally, options.existing, options.list_existing, || path.clone());
            match (meta.map(Meta::file_type), arrived.get(path)) {
                (None, _) => {}
                (Some(FileType::Fifo), _) => taken_back.fifos += 1,
                (Some(_), Some(FileArrival::Linked(linked))) => {
                    tally::count_linked(taken_back, *linked);
                }
                (Some(FileType::Symlink), _) => taken_back.symlinks += 1,
                (Some(_), how) => {
                    let (copied, unlinked) = match how {
                        Some(FileArrival::Filled(copied, unlinked)) => (*copied, *unlinked),
                        _ => (None, None),
                    };
                    tally::count(taken_back, copied, meta.map_or(0, |meta| meta.size));
                    if let Some(because) = unlinked {
                        tally::count_unlinked(taken_back, because);
                    }
                }
            }
        }
    }
}

/// Whether a folder can be renamed from the stage into `dir`. calve tries it with an empty one,
/// `probe` in the stage, since neither a device nor a mount tells for certain.
///
/// # Errors
/// No folder can be made, or one that shows more than that. The empty one may be left in `dir`.
pub(super) fn takes_folders(
    stage: &OwnedFd,
    probe: &CStr,
    dir: &OwnedFd,
) -> rustix::io::Result<bool> {
    let name = stage_name();
    staging::make_folder(stage, os(probe).as_ref(), Mode::RWXU)?;
    let renamed = fs::renameat(stage, probe, dir, &name);
    if SystemCall::RenameFolder.if_available(renamed)?.is_none() {
        return Ok(false);
    }
    fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Renames a folder to a new name. `false` if the name is taken.
fn rename_folder(
    from: &OwnedFd,
    name: &CStr,
    into: &OwnedFd,
    new_name: &CStr,
) -> rustix::io::Result<bool> {
    // If this process dies between the two steps, the next merge takes the empty folder for its own.
    let empty = meta::mode(staging::UNFINISHED);
    match staging::rename_folder(from, name, into, new_name, empty) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// What [`join`] met at the destination.
#[derive(Debug)]
pub(super) enum Met {
    /// The directory was there already.
    Directory,
    /// The entry replaced one.
    Replaced,
    /// An entry was there and stays. The value is the staged entry's.
    Kept(Meta),
}

/// The paths of the source and of the destination, for messages.
pub(super) struct MergeRoots<'a> {
    pub(super) source: &'a Path,
    pub(super) dest: &'a Path,
}

/// A directory that exists in the stage and at the destination.
struct MergedLevel {
    from: OwnedFd,
    into: OwnedFd,
    path: PathBuf,
    names: Vec<CString>,
}

impl MergedLevel {
    fn open(from: OwnedFd, into: OwnedFd, path: PathBuf) -> io::Result<Self> {
        // Its mode may be its source's, which may shut out its owner. It goes away.
        fs::fchmod(&from, Mode::RWXU)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&from)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(Self { from, into, path, names })
    }
}

/// Merges the staged folder `from` into the folder `into`, which is at `path` below the roots: what
/// is missing there is renamed, and what exists is replaced, kept or joined as `options` say.
///
/// # Errors
/// Entries that have been renamed before stay, each of them whole.
pub(super) fn join(
    (from, into, path): (OwnedFd, OwnedFd, PathBuf),
    roots: &MergeRoots<'_>,
    options: &CloneOptions,
) -> Result<Vec<(PathBuf, Met)>, Error> {
    let failed = |path: &Path, error: io::Error| {
        Error::io(Operation::RenameIntoPlace, roots.dest.join(path), error)
    };
    let mut met = vec![(path.clone(), Met::Directory)];
    let open = |from, into, path: PathBuf| {
        MergedLevel::open(from, into, path.clone()).map_err(|error| failed(&path, error))
    };
    // A list, no recursion: a tree may be deeper than the stack.
    let mut levels = vec![open(from, into, path)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        let path = level.path.join(os(&name));
        let below = move_in(level, &name, options).map_err(|refused| match refused {
            Refused::Is(what) => conflict(what, roots, &path),
            Refused::Because(error) => failed(&path, error),
        })?;
        match below {
            Moved::Placed => {}
            Moved::Met(what) => met.push((path, what)),
            Moved::Below(from, into) => {
                met.push((path.clone(), Met::Directory));
                levels.push(open(from, into, path)?);
            }
        }
    }
    Ok(met)
}

/// The error for an entry that cannot be merged over another kind of entry.
pub(super) fn conflict(staged: FileType, roots: &MergeRoots<'_>, path: &Path) -> Error {
    let (operation, kind, what) = match staged {
        FileType::Directory => (
            Operation::MergeDirectory,
            io::ErrorKind::NotADirectory,
            "the destination has something else of that name",
        ),
        _ => (
            Operation::MergeFile,
            io::ErrorKind::IsADirectory,
            "the destination has a directory of that name",
        ),
    };
    let cause = io::Error::new(kind, what);
    Error::new(ErrorKind::Conflict, operation, roots.source.join(path), cause)
        .with_other(roots.dest.join(path))
}

enum Moved {
    Placed,
    Met(Met),
    Below(OwnedFd, OwnedFd),
}

enum Refused {
    /// The staged entry is of this kind, and the other one is not.
    Is(FileType),
    Because(io::Error),
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Self {
        Self::Because(errno.into())
    }
}

/// Moves one entry of the staged folder.
fn move_in(level: &MergedLevel, name: &CStr, options: &CloneOptions) -> Result<Moved, Refused> {
    let MergedLevel { from, into, .. } = level;
    let staged = Meta::at(from, name)?;
    let kind = staged.file_type();
    if kind == FileType::Directory {
        return move_folder_in(level, name, &staged);
    }
    let keeps = options.existing == Existing::Keep;
    let new = match keeps {
        true => rename_new_or_link(from, name, into, name),
        false => rename_new(from, name, into, name),
    };
    let replaces = match new {
        Ok(()) => return Ok(Moved::Placed),
        Err(Errno::EXIST) if keeps => return Ok(Moved::Met(Met::Kept(staged))),
        Err(Errno::EXIST) => true,
        Err(errno) if !keeps && SystemCall::RenameWithFlags.is_unavailable(errno) => {
            fs::statat(into, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        }
        Err(errno) => return Err(errno.into()),
    };
    match fs::renameat(from, name, into, name) {
        Ok(()) => {}
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => return Err(Refused::Is(kind)),
        Err(errno) => return Err(errno.into()),
    }
    // rename(2) does nothing if both names are already the same inode.
    let was_same =
        replaces && options.hard_links() && fs::unlinkat(from, name, AtFlags::empty()).is_ok();
    Ok(if replaces && !was_same { Moved::Met(Met::Replaced) } else { Moved::Placed })
}

fn move_folder_in(
    MergedLevel { from, into, .. }: &MergedLevel,
    name: &CStr,
    staged: &Meta,
) -> Result<Moved, Refused> {
    let open = |dir: &OwnedFd| fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
    let placed = match rename_folder(from, name, into, name) {
        // Only who may write to a folder may give it another parent.
        Err(Errno::ACCESS) if staged.permissions() & 0o200 == 0 => {
            fs::chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
            let folder = open(from)?;
            let placed = rename_folder(from, name, into, name)?;
            fs::fchmod(&folder, meta::mode(staged.permissions()))?;
            placed
        }
        renamed => renamed?,
    };
    if placed {
        return Ok(Moved::Placed);
    }
    match open(into) {
        Ok(there) => {
            if staged.permissions() & 0o700 != 0o700 {
                fs::chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
            }
            Ok(Moved::Below(open(from)?, there))
        }
        Err(Errno::NOTDIR | Errno::LOOP) => Err(Refused::Is(FileType::Directory)),
        Err(errno) => Err(errno.into()),
    }
}

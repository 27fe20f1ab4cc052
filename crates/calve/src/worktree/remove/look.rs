//! Looks at a tree that is being dropped: what in it changed since a moment, and which folders in it
//! have work that neither git nor a snapshot knows of.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::at;
use crate::store::files::listed;
use crate::store::layout::{GIT, JJ, OWN};

/// How many paths an answer has at most.
const PATHS_MOST: usize = 20;
/// git's folder of objects. Objects alone change nothing.
const OBJECTS: &str = "objects";
/// The names of the base of a split index begin so. git marks it as used whenever it reads it.
const SHARED_INDEX: &[u8] = b"sharedindex.";

/// A moment by the clock that inodes have. An inode that changes later has a time that is not
/// before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment((i64, i64));

impl Moment {
    pub(super) fn now() -> Self {
        // The kernel gives inodes the time of its last tick. The precise clock is ahead of that.
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::RealtimeCoarse;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Realtime;
        let now = rustix::time::clock_gettime(clock);
        Self((now.tv_sec, now.tv_nsec as i64))
    }
}

/// Which folders are looked at.
pub(super) enum Scope<'a> {
    All,
    /// Those for which this returns true.
    If(&'a mut dyn FnMut(&Path) -> io::Result<bool>),
}

/// The paths in the tree at `root` that changed at `since` or later. A rename of the root itself is
/// no change. Entries of calve's own folder, and git's objects, do not count. Empty if there is no
/// such folder.
///
/// # Errors
/// A folder could not be read.
pub(super) fn changed_since(
    root: &Path,
    since: Moment,
    mut scope: Scope<'_>,
) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    let top = match fs::open(root, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(changed),
        Err(errno) => return Err(errno.into()),
    };
    let here = Meta::of(&fs::fstat(&top)?);
    if here.modified() >= since.0 {
        changed.push(PathBuf::from("."));
    }
    let (mut steps, mut folders) = (Steps::new(top), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        if changed.len() >= PATHS_MOST {
            break;
        }
        let Some(dir) = steps.open(&folder)? else {
            changed.push(folder);
            continue;
        };
        for (name, _) in listed(dir)? {
            let path = folder.join(&name);
            let is_left_out = name == OBJECTS || name.as_encoded_bytes().starts_with(SHARED_INDEX);
            if folder.as_os_str().is_empty() && name == OWN || is_left_out && is_gits(&path, root) {
                continue;
            }
            let meta = match fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Meta::of(&stat),
                Err(Errno::NOENT) => {
                    changed.push(path);
                    continue;
                }
                Err(errno) => return Err(errno.into()),
            };
            if meta.changed >= since.0 {
                changed.push(path.clone());
            }
            let is_folder = meta.file_type() == FileType::Directory && meta.dev == here.dev;
            if is_folder
                && match &mut scope {
                    Scope::All => true,
                    Scope::If(is_in) => is_in(&path)?,
                }
            {
                folders.push(path);
            }
        }
    }
    Ok(changed)
}

/// Whether the path is in a `.git` folder, or the root is a part of one.
fn is_gits(path: &Path, root: &Path) -> bool {
    root.iter().chain(path).any(|name| name == GIT)
}

/// Opens the folders of a tree one after the other. A tree may be deeper than a path may be long.
struct Steps {
    top: OwnedFd,
    /// The folder that was opened last. Mostly the next one is inside.
    last: Option<(PathBuf, OwnedFd)>,
}

impl Steps {
    fn new(top: OwnedFd) -> Self {
        Self { top, last: None }
    }

    /// The folder at a path from the root. `None` if it is gone.
    fn open(&mut self, folder: &Path) -> io::Result<Option<&OwnedFd>> {
        let opened = match (&self.last, folder.parent(), folder.file_name()) {
            (Some((above, dir)), Some(parent), Some(name)) if above == parent => {
                fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(io::Error::from)
            }
            _ => at::open_at(&self.top, folder),
        };
        match opened {
            Ok(dir) => Ok(Some(&self.last.insert((folder.to_owned(), dir)).1)),
            Err(error) if at::is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What of other tools is in a tree, below its root.
#[derive(Debug, Default)]
pub(super) struct Nested {
    /// The repositories of git, without those that are elsewhere: a path from the root to a folder
    /// `.git`, or to a repository without a working tree.
    pub(super) repositories: Vec<PathBuf>,
    /// Folders `.jj` with a repository inside. In the root, too.
    pub(super) jj: Vec<PathBuf>,
    /// Folders that could not be read.
    pub(super) unreadable: Vec<PathBuf>,
}

/// Looks through the whole tree at `root`, also where git ignores it. Only names are read.
pub(super) fn nested_in(root: &Path) -> Nested {
    let mut found = Nested::default();
    let Ok(top) = fs::open(root, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) else {
        found.unreadable.push(PathBuf::from("."));
        return found;
    };
    let device = fs::fstat(&top).map(|stat| Meta::of(&stat).dev).ok();
    let (mut steps, mut folders) = (Steps::new(top), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        let entries = match steps.open(&folder) {
            Ok(None) => continue,
            Ok(Some(dir)) if fs::fstat(dir).map(|stat| Meta::of(&stat).dev).ok() != device => {
                continue;
            }
            Ok(Some(dir)) => listed(dir).ok(),
            Err(_) => None,
        };
        let Some(entries) = entries else {
            found.unreadable.push(folder);
            continue;
        };
        let has = |wanted: &str, kind: FileType| {
            entries.iter().any(|(name, is)| name == wanted && *is == kind)
        };
        let is_repository = has("HEAD", FileType::RegularFile)
            && has(OBJECTS, FileType::Directory)
            && has("refs", FileType::Directory);
        if is_repository {
            found.repositories.push(folder);
            continue;
        }
        let is_jj = folder.file_name().is_some_and(|name| name == JJ);
        if is_jj && has("repo", FileType::Directory) {
            found.jj.push(folder);
            continue;
        }
        let is_root = folder.as_os_str().is_empty();
        for (name, kind) in &entries {
            if *kind == FileType::Directory && !(is_root && (name == OWN || name == GIT)) {
                folders.push(folder.join(name));
            }
        }
    }
    found
}

//! Opens and changes paths below a root. No step follows a link.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::reflink::refusal::SystemCall;
use crate::tree::across::rename_entry;

pub(crate) fn last(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.file_name().unwrap_or_default().as_bytes())?)
}

/// Whether the error means that nothing is there to open: there is no such name, a link or another
/// kind of entry is in the way, or it is a FIFO.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO))
}

/// Opens the directory at `path`. No step follows a link.
pub(crate) fn open_at(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    match open_at_once(root, path) {
        Ok(dir) => Ok(dir),
        // A path too long for one call, a kernel before 5.6, a sandbox that forbids the call, or a
        // folder that was moved out of the root during it.
        Err(errno) if SystemCall::OpenBelow.is_unavailable(errno) => open_step_by_step(root, path),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets the kernel take all steps in one call. A switch opens some ten folders for each file, and a
/// folder may well be ten steps deep. (Android ends a process that calls this.)
#[cfg(target_os = "linux")]
fn open_at_once(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    use rustix::fs::ResolveFlags;
    if path.as_os_str().is_empty() {
        return fs::openat(root, c".", DIR_FLAGS, Mode::empty());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    fs::openat2(root, path, DIR_FLAGS, Mode::empty(), resolve)
}

#[cfg(not(target_os = "linux"))]
fn open_at_once(_: &OwnedFd, _: &Path) -> Result<OwnedFd, Errno> {
    Err(Errno::NOSYS)
}

fn open_step_by_step(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut dir = fs::openat(root, c".", DIR_FLAGS, Mode::empty())?;
    for name in path {
        dir = fs::openat(&dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

pub(crate) fn open_parent(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_at(root, path.parent().unwrap_or(Path::new("")))
}

/// The metadata of the entry at `path`.
pub(crate) fn meta_at(root: &OwnedFd, path: &Path) -> io::Result<Meta> {
    Ok(Meta::at(open_parent(root, path)?, last(path)?)?)
}

/// Opens the parent directory of `path` and makes the directories that do not exist.
pub(crate) fn make_parents(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
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

/// Removes a file, a link or an empty directory. A directory that is not empty stays. Returns
/// whether something was removed.
pub(crate) fn remove_at(root: &OwnedFd, path: &Path) -> io::Result<bool> {
    let dir = match open_parent(root, path) {
        Ok(dir) => dir,
        Err(error) if is_gone(&error) => return Ok(false),
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

/// Makes a directory. The owner may enter one that is there while calve works in it.
pub(crate) fn make_at(root: &OwnedFd, path: &Path, mode: u32) -> io::Result<()> {
    let dir = open_parent(root, path)?;
    match fs::mkdirat(&dir, &last(path)?, meta::mode(mode & 0o777 | 0o700)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let dir = open_at(root, path)?;
            let mode = Meta::of_file(&dir)?.permissions();
            if mode & 0o700 != 0o700 {
                meta::give_mode(&dir, meta::mode(mode | 0o700))?;
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Moves an entry from the stage to `path`. Returns false if a directory there holds entries of no
/// snapshot.
pub(crate) fn put_at(
    stage: &OwnedFd,
    place: &str,
    root: &OwnedFd,
    path: &Path,
) -> io::Result<bool> {
    let (dir, name) = (open_parent(root, path)?, last(path)?);
    match rename_entry(stage, place, &dir, &name) {
        Ok(()) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(errno.into()),
    }
    // The entries of snapshots in this directory are gone by now. Other entries may be left.
    match fs::unlinkat(&dir, &name, AtFlags::REMOVEDIR) {
        Ok(()) => {}
        Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    rename_entry(stage, place, &dir, &name)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_call_opens_what_many_steps_open_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        // It has more than the 4,096 bytes that one call takes.
        let long: std::path::PathBuf = std::iter::repeat_n("d".repeat(200), 25).collect();
        let root = open_step_by_step(&open(dir.path()), Path::new("")).unwrap();
        make_parents(&root, &long.join("end")).unwrap();
        make_parents(&root, Path::new("a/b/c/end")).unwrap();
        std::fs::write(dir.path().join("a/file"), "").unwrap();
        symlink("b", dir.path().join("a/link")).unwrap();
        symlink(dir.path(), dir.path().join("a/back")).unwrap();
        symlink("/", dir.path().join("a/b/out")).unwrap();
        for (path, is_there) in [
            (Path::new(""), true),
            (Path::new("a"), true),
            (Path::new("a/b/c"), true),
            (&long, true),
            (&long.join("missing"), false),
            (Path::new("missing"), false),
            (Path::new("a/missing/c"), false),
            (Path::new("a/file"), false),
            (Path::new("a/file/c"), false),
            (Path::new("a/link"), false),
            (Path::new("a/link/c"), false),
            (Path::new("a/back/a"), false),
            (Path::new("a/b/out/usr"), false),
        ] {
            let [once, steps] = [open_at, open_step_by_step]
                .map(|open| open(&root, path).map(|dir| Meta::of(&fs::fstat(dir).unwrap()).id()));
            match (once, steps) {
                (Ok(once), Ok(steps)) => assert!(is_there && once == steps, "{path:?}"),
                (Err(once), Err(steps)) => {
                    assert!(!is_there, "{path:?}: {once}");
                    assert!(is_gone(&once) && is_gone(&steps), "{path:?}: {once}, {steps}");
                }
                (once, steps) => panic!("{path:?}: {once:?}, but step by step {steps:?}"),
            }
        }
    }

    fn open(path: &Path) -> OwnedFd {
        fs::open(path, DIR_FLAGS, Mode::empty()).unwrap()
    }
}

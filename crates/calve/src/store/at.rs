//! Opens paths below a root step by step. No step follows a link.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;

pub(crate) fn last(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.file_name().unwrap_or_default().as_bytes())?)
}

/// Whether the error means that nothing is there to open: there is no such name, a link or another
/// kind of entry is in the way, or it is a FIFO.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO))
}

/// Opens the directory at `path` step by step. No step follows a link.
pub(crate) fn open_at(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let mut dir = fs::openat(root, c".", DIR_FLAGS, Mode::empty())?;
    for name in path {
        dir = fs::openat(&dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

pub(crate) fn open_parent(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    open_at(root, path.parent().unwrap_or(Path::new("")))
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

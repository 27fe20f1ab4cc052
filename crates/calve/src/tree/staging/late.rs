//! Entries that this process has just made, and that a filesystem does not show at once (a mount of
//! an object store, a server whose answers are kept for a while).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::DIR_FLAGS;

/// How long calve waits for an entry that it has just made.
const MOST: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until the filesystem shows the entry `name`, which this process has made. Returns whether it
/// does. Where calve tested the filesystem, an entry that is not there is gone: it does not wait.
pub(crate) fn appears(dir: impl AsFd, name: &Path) -> bool {
    let dir = dir.as_fd();
    let folder = match name.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let Ok(folder) = fs::openat(dir, folder, DIR_FLAGS, Mode::empty()) else { return false };
    if Filesystem::of_file(&folder).is_tested {
        return false;
    }
    let until = Instant::now() + MOST;
    loop {
        if fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Makes a folder. A filesystem may make it, look for it, and answer that it is not there.
pub(crate) fn make_folder(dir: impl AsFd, name: &Path, mode: Mode) -> rustix::io::Result<()> {
    match fs::mkdirat(dir.as_fd(), name, mode) {
        Err(Errno::NOENT) if appears(dir, name) => Ok(()),
        made => made,
    }
}

/// Makes a file under a name that nobody else uses, as [`make_folder`] makes a folder.
pub(crate) fn make_file(
    dir: impl AsFd,
    name: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    match fs::openat(dir.as_fd(), name, flags, mode) {
        Err(Errno::NOENT) if appears(dir.as_fd(), name) => {
            fs::openat(dir, name, flags - OFlags::CREATE - OFlags::EXCL, Mode::empty())
        }
        made => made,
    }
}

/// Does something with the entry `name`, which this process has just made, as soon as the filesystem
/// shows it.
///
/// # Errors
/// Those of `act`. If the entry never appears, the error says so.
pub(crate) fn once_shown<T>(
    dir: impl AsFd,
    name: impl AsRef<Path>,
    act: impl Fn() -> io::Result<T>,
) -> io::Result<T> {
    match act() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match appears(dir.as_fd(), name.as_ref()) {
                true => act(),
                // Not "not found": the caller's path is right.
                false => Err(io::Error::other("what calve has just made there is not found")),
            }
        }
        result => result,
    }
}

//! Removes trees. calve follows no link and crosses no mount. Neither the stack nor the number of
//! open descriptors grows with the tree's depth.
//!
//! Others may remove the same tree meanwhile: two processes may empty the trash, or sweep the same
//! stage. An entry that one of them finds gone counts as removed. One of them may bring a directory
//! to the top (see below) when the other thinks that it is done there. The other one sees it in
//! another pass.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Meta};

/// How deep [`remove`] goes before it moves a directory to the top, so that depth costs neither
/// stack nor descriptors.
const FLAT_DEPTH: usize = 32;

/// How often calve accepts that a directory that it emptied is not empty. Others that remove the
/// same tree cannot cause more, as each of them brings one directory of [`FLAT_DEPTH`] levels to
/// the top. If a process goes on making files there, calve gives up.
const REFILLS: u32 = 1000;

/// Removes the entry `name` in `parent`. It never follows a link and never crosses into another
/// mount. After an error the rest of the entry stays at `name`.
pub(crate) fn remove(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    remove_if(parent, name, None)
}

/// Like `remove`. If the entry is a directory that is not empty, removes it only if it is
/// `wanted`.
pub(super) fn remove_if(parent: &OwnedFd, name: &CStr, wanted: Option<&OwnedFd>) -> io::Result<()> {
    once_more(|| remove_once(parent, name, wanted))
}

/// Removes a leftover, and tries once more if that fails. A failure may last only a moment (a
/// signal, no memory, a server), and the leftover would stay until the next sweep.
pub(super) fn once_more(remove: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match remove() {
        Err(error) if error.raw_os_error().is_some() && error.kind() != io::ErrorKind::NotFound => {
            remove()
        }
        result => result,
    }
}

fn remove_once(parent: &OwnedFd, name: &CStr, wanted: Option<&OwnedFd>) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // For a directory POSIX asks for EPERM, and Linux gives EISDIR.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let Some(top) = gone(open_ours(parent, name))? else { return Ok(()) };
    let meta = Meta::of_file(&top)?;
    if let Some(wanted) = wanted
        && Meta::of_file(wanted)?.id() != meta.id()
    {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "somebody put something else in the place of the stage",
        ));
    }
    let mut removal = Removal { top: &top, moved: 0, refills: 0 };
    loop {
        // Directories from below arrive at the top while calve empties it. So it repeats this until
        // a pass finds none.
        while removal.empty(&top, meta.dev, 0)? {}
        if removal.remove_emptied(parent, name)? {
            return Ok(());
        }
    }
}

/// `None` if the entry does not exist: another process has removed it first.
fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Removal<'a> {
    top: &'a OwnedFd,
    /// How many directories this removal moved to the top.
    moved: u64,
    /// How many directories were not empty after this removal had emptied them.
    refills: u32,
}

impl Removal<'_> {
    /// Removes a directory that was emptied. `false` if somebody has put something in it since.
    fn remove_emptied(&mut self, parent: &OwnedFd, name: &CStr) -> io::Result<bool> {
        match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.refills < REFILLS => {
                self.refills += 1;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes everything in `dir`. `true` if another pass is needed, because directories were
    /// moved to the top instead.
    fn empty(&mut self, dir: &OwnedFd, dev: u64, depth: usize) -> io::Result<bool> {
        let mut again = false;
        // calve reads the directory to its end first: a listing of a directory that changes
        // meanwhile may leave entries out.
        let Some(entries) = gone(Dir::read_from(dir).map_err(io::Error::from))? else {
            return Ok(false);
        };
        let entries: Vec<(CString, FileType)> = entries
            .map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())))
            .collect::<Result<_, _>>()?;
        for (name, kind) in entries {
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if kind != FileType::Directory {
                match fs::unlinkat(dir, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    // The entry's type was unknown, or the directory is read-only.
                    Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS) => {
                        meta::give_mode(dir, Mode::RWXU)?;
                        match fs::unlinkat(dir, &name, AtFlags::empty()) {
                            Ok(()) | Err(Errno::NOENT) => continue,
                            Err(Errno::ISDIR) => {}
                            Err(errno) => return Err(errno.into()),
                        }
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
            let mut result = fs::unlinkat(dir, &name, AtFlags::REMOVEDIR);
            if result == Err(Errno::ACCESS) {
                meta::give_mode(dir, Mode::RWXU)?;
                result = fs::unlinkat(dir, &name, AtFlags::REMOVEDIR);
            }
            match result {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let Some(child) = gone(open_ours(dir, &name))? else { continue };
            let meta = Meta::of_file(&child)?;
            if meta.dev != dev && is_mount_root(&child) {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "it holds a mount point, which is never deleted across",
                ));
            }
            let moved = if depth >= FLAT_DEPTH { self.move_to_top(dir, &name)? } else { None };
            again |= match moved {
                Some(again) => again,
                // Both must run, whatever the first returns, so this is no `||`.
                None => {
                    self.empty(&child, meta.dev, depth + 1)? | !self.remove_emptied(dir, &name)?
                }
            };
        }
        Ok(again)
    }

    /// Moves a directory to the top. `false` if it is gone. `None` if directories cannot be moved
    /// here: in a sandbox, or in an overlay's lower layer.
    fn move_to_top(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<Option<bool>> {
        loop {
            self.moved += 1;
            let flat = CString::new(format!(".calve-flat-{}", self.moved))?;
            match fs::renameat(dir, name, self.top, &flat) {
                Ok(()) => return Ok(Some(true)),
                Err(Errno::NOENT) => return Ok(Some(false)),
                Err(Errno::XDEV) => return Ok(None),
                // The name is taken; calve tries the next.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Opens a directory. If it cannot be opened, makes it readable and writable for its owner first.
/// It may be a closed directory that calve removes, or one that was made under a umask that takes
/// rights from the owner, too.
pub(crate) fn open_ours(parent: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    match fs::openat(parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::ACCESS) => make_accessible(parent, name)?,
        Ok(dir) => return Ok(dir),
        Err(errno) => return Err(errno.into()),
    }
    Ok(fs::openat(parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?)
}

/// chmod(2) of a directory that cannot be opened, without following a link. It uses a descriptor
/// that only stands for the path.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn make_accessible(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    use std::os::fd::{AsFd, AsRawFd};
    let dir = fs::openat(
        parent,
        name,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    match fs::chmod(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()), Mode::RWXU) {
        // There is no /proc. The directory exists and stays closed.
        Err(Errno::NOENT) => Err(Errno::ACCESS.into()),
        result => Ok(result?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn make_accessible(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    Ok(fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether another device number means another mount, and not a subvolume of this one. In doubt the
/// answer is yes.
pub(crate) fn is_mount_root(dir: &OwnedFd) -> bool {
    mount_root(dir).unwrap_or(true)
}

/// Whether something is mounted at this directory, also a part of the same filesystem. `None`: the
/// system does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn mount_root(dir: &OwnedFd) -> Option<bool> {
    use rustix::fs::{StatxAttributes, StatxFlags};
    let stat = fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE).ok()?;
    let known = stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    known.then(|| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn mount_root(_: &OwnedFd) -> Option<bool> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_tree_with_closed_directories_is_removed_and_what_links_point_to_stays() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let parent = fs::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
        fs::mkdirat(&parent, "tree", Mode::RWXU).unwrap();
        let mut dir = fs::openat(&parent, "tree", DIR_FLAGS, Mode::empty()).unwrap();
        for level in 0..300 {
            fs::symlinkat(&outside, &dir, "link").unwrap();
            fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            fs::mkdirat(&dir, "side", Mode::RWXU).unwrap();
            let next = fs::openat(&dir, "d", DIR_FLAGS, Mode::empty()).unwrap();
            if level % 7 == 0 {
                fs::fchmod(&dir, Mode::RUSR | Mode::XUSR).unwrap();
            }
            dir = next;
        }
        remove(&parent, c"tree").unwrap();
        assert!(!temp.path().join("tree").try_exists().unwrap());
        assert!(outside.join("kept").try_exists().unwrap());
        remove(&parent, c"tree").expect("what is not there is removed already");
    }

    #[test]
    fn what_several_remove_at_once_is_removed_and_none_of_them_fails() {
        let temp = tempfile::tempdir().unwrap();
        let parent = fs::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
        for round in 0..30 {
            fs::mkdirat(&parent, "tree", Mode::RWXU).unwrap();
            let mut dir = fs::openat(&parent, "tree", DIR_FLAGS, Mode::empty()).unwrap();
            for _ in 0..200 {
                for name in ["d", "e", "side"] {
                    fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
                    let inside = fs::openat(&dir, name, DIR_FLAGS, Mode::empty()).unwrap();
                    fs::symlinkat("nowhere", &inside, "link").unwrap();
                }
                dir = fs::openat(&dir, "d", DIR_FLAGS, Mode::empty()).unwrap();
            }
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        remove(&parent, c"tree").unwrap_or_else(|error| panic!("{round}: {error}"));
                    });
                }
            });
            assert!(!temp.path().join("tree").try_exists().unwrap(), "{round}");
        }
    }
}

//! Removes trees: no link is followed, no mount is crossed, and whatever the depth, neither the stack nor the number of open
//! descriptors grows.
//!
//! Others may remove the same tree meanwhile: two that empty the trash, or sweep one stage. What one of them finds gone is
//! gone, and what one brings to the top (below) while another thinks it is done there is seen in another pass of that one.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;

/// How deep [`remove`] goes before it takes a directory up to the top, so that depth costs neither stack nor descriptors.
const FLAT_DEPTH: usize = 32;

/// How often a directory that was emptied may be found not to be empty: more than others that remove the same tree can bring
/// about, as each of them brings one directory of [`FLAT_DEPTH`] levels to the top, and no hold for somebody who goes on
/// making files in it.
const REFILLS: u32 = 1000;

/// Removes whatever is at `name` in `parent`, never following a link and never crossing into another mount. On an
/// error what is left stays at `name`.
pub(crate) fn remove(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    remove_if(parent, name, None)
}

/// The same; of what is not empty, only if it is `wanted`.
pub(super) fn remove_if(parent: &OwnedFd, name: &CStr, wanted: Option<&OwnedFd>) -> io::Result<()> {
    once_more(|| remove_once(parent, name, wanted))
}

/// Removes what is left over, and once more if that fails: what fails for a moment (a signal, no memory, a server) would leave
/// it until somebody comes by.
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
        // EPERM is what POSIX wants for a directory, EISDIR what Linux gives.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let Some(top) = gone(open_ours(parent, name))? else { return Ok(()) };
    let meta = Meta::of(&fs::fstat(&top)?);
    if let Some(wanted) = wanted
        && Meta::of(&fs::fstat(wanted)?).id() != meta.id()
    {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "somebody put something else in the place of the stage",
        ));
    }
    let mut removal = Removal { top: &top, moved: 0, refills: 0 };
    loop {
        // Directories from the depths arrive at the top while it is emptied: until a pass finds none.
        while removal.empty(&top, meta.dev, 0)? {}
        if removal.remove_emptied(parent, name)? {
            return Ok(());
        }
    }
}

/// Nothing where there is nothing (any more): whoever was faster removed it, too.
fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(there) => Ok(Some(there)),
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Removal<'a> {
    top: &'a OwnedFd,
    /// How many directories were brought to the top.
    moved: u64,
    /// How many were not empty after they had been emptied.
    refills: u32,
}

impl Removal<'_> {
    /// Removes a directory that was emptied; `false` where somebody has put something in it since.
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

    /// Removes everything in `dir`; `true` where another pass is needed: for directories that were moved to the top instead.
    fn empty(&mut self, dir: &OwnedFd, dev: u64, depth: usize) -> io::Result<bool> {
        let mut again = false;
        // As a whole, since what is read of a directory that changes meanwhile may leave something out.
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
                    // The type was not known; or the directory is read-only.
                    Err(Errno::ISDIR | Errno::PERM | Errno::ACCESS) => {
                        fs::fchmod(dir, Mode::RWXU)?;
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
                fs::fchmod(dir, Mode::RWXU)?;
                result = fs::unlinkat(dir, &name, AtFlags::REMOVEDIR);
            }
            match result {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let Some(child) = gone(open_ours(dir, &name))? else { continue };
            let meta = Meta::of(&fs::fstat(&child)?);
            if meta.dev != dev && is_mount_root(&child) {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "it holds a mount point, which is never deleted across",
                ));
            }
            again |= if depth >= FLAT_DEPTH {
                self.move_to_top(dir, &name)?
            } else {
                // Both, whatever the first says.
                self.empty(&child, meta.dev, depth + 1)? | !self.remove_emptied(dir, &name)?
            };
        }
        Ok(again)
    }

    /// Moves a directory to the top; `false` where it is gone.
    fn move_to_top(&mut self, dir: &OwnedFd, name: &CStr) -> io::Result<bool> {
        loop {
            self.moved += 1;
            let flat = CString::new(format!(".calve-flat-{}", self.moved))?;
            match fs::renameat(dir, name, self.top, &flat) {
                Ok(()) => return Ok(true),
                Err(Errno::NOENT) => return Ok(false),
                // A name that is taken there, by whomever, is passed over.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Opens a directory, making it ours to read and write if it cannot be opened: a closed one that is to be removed, or one
/// that was made under a umask that takes from the owner, too.
pub(crate) fn open_ours(parent: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    match fs::openat(parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::ACCESS) => make_accessible(parent, name)?,
        Ok(dir) => return Ok(dir),
        Err(errno) => return Err(errno.into()),
    }
    Ok(fs::openat(parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?)
}

/// chmod(2) of a directory that cannot be opened, without following a link: through a descriptor that only
/// stands for its path.
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
        // There is no /proc: the directory is there, and stays closed.
        Err(Errno::NOENT) => Err(Errno::ACCESS.into()),
        result => Ok(result?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn make_accessible(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    Ok(fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether another device number means another mount, and not a subvolume of this one. In doubt it does.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_mount_root(dir: &OwnedFd) -> bool {
    use rustix::fs::{StatxAttributes, StatxFlags};
    fs::statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE).map_or(true, |stat| {
        !stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_mount_root(_: &OwnedFd) -> bool {
    true
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

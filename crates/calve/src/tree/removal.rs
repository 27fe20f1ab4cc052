//! Removes trees: no link is followed, no mount is crossed, and whatever the depth, neither the stack nor the number of open
//! descriptors grows.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;

/// How deep [`remove`] goes before it takes a directory up to the top, so that depth costs neither stack nor descriptors.
const FLAT_DEPTH: usize = 32;

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
    let top = open_ours(parent, name)?;
    let meta = Meta::of(&fs::fstat(&top)?);
    if let Some(wanted) = wanted
        && Meta::of(&fs::fstat(wanted)?).id() != meta.id()
    {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "somebody put something else in the place of the stage",
        ));
    }
    let dev = meta.dev;
    let mut moved = 0_u64;
    // Directories from the depths arrive at the top while it is emptied: until a pass finds none.
    while empty(&top, &top, dev, 0, &mut moved)? {}
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes everything in `dir`; `true` where directories were moved to the top instead.
fn empty(
    top: &OwnedFd,
    dir: &OwnedFd,
    dev: u64,
    depth: usize,
    moved: &mut u64,
) -> io::Result<bool> {
    let mut any_moved = false;
    let entries: Vec<(CString, FileType)> = Dir::read_from(dir)?
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
        let child = open_ours(dir, &name)?;
        let meta = Meta::of(&fs::fstat(&child)?);
        if meta.dev != dev && is_mount_root(&child) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "it holds a mount point, which is never deleted across",
            ));
        }
        if depth >= FLAT_DEPTH {
            // A name that is taken there, by whomever, is passed over.
            loop {
                *moved += 1;
                let flat = CString::new(format!(".calve-flat-{moved}"))?;
                match fs::renameat(dir, &name, top, &flat) {
                    Ok(()) => break,
                    Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            any_moved = true;
            continue;
        }
        any_moved |= empty(top, &child, meta.dev, depth + 1, moved)?;
        match fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(any_moved)
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
    Ok(fs::chmod(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()), Mode::RWXU)?)
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
}

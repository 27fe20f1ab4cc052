//! Moves entries to another folder where the system refuses to rename them there (`EXDEV`) although
//! both are on one filesystem: in a sandbox (Landlock without "refer"), out of a nested subvolume of
//! btrfs, out of an overlay's lower layer.
//!
//! calve then makes the entry again beside its new place, renames it there, and removes the old
//! one. So the new name has the whole entry or nothing, as with a rename.
//!
//! An entry of another mount stays where it is: what somebody mounted in a tree is not the tree's,
//! and its files are elsewhere, too.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;
use rustix::path::Arg;

use super::mounts::same_mount;
use super::special::make_fifo;
use super::staging::{self, os, stage_name};
use super::{CloneOptions, clone_tree, removal};
use crate::reflink::copy::Copier;
use crate::reflink::filesystem::Filesystems;
use crate::reflink::imp::{DIR_FLAGS, NEW_READABLE_FLAGS, SOURCE_FLAGS, clone_and_look};
use crate::reflink::meta::{self, Attrs, Created, Meta};
use crate::reflink::sys;

/// Renames an entry that is no directory.
///
/// # Errors
/// The entry is where it was.
pub(crate) fn rename_entry(
    from: impl AsFd,
    name: impl Arg,
    to: impl AsFd,
    new_name: impl Arg,
) -> rustix::io::Result<()> {
    let (name, new_name) = (name.into_c_str()?, new_name.into_c_str()?);
    match fs::renameat(&from, &*name, &to, &*new_name) {
        Err(Errno::XDEV) => {
            let (name, new_name) = (Path::new(os(&name)), Path::new(os(&new_name)));
            let (from, to) = (from.as_fd(), to.as_fd());
            let folder = new_name.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            // Where the system does not say, the rename stays refused.
            if same_mount((from, name), (to, folder)) != Some(true) {
                return Err(Errno::XDEV);
            }
            make_again(EntryAt { folder: from, name }, EntryAt { folder: to, name: new_name })
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
        renamed => renamed,
    }
}

/// An entry, as a path below an open folder.
#[derive(Clone, Copy)]
struct EntryAt<'a> {
    folder: BorrowedFd<'a>,
    name: &'a Path,
}

fn make_again(old: EntryAt<'_>, new: EntryAt<'_>) -> io::Result<()> {
    let EntryAt { folder: from, name } = old;
    let EntryAt { folder: to, name: new_name } = new;
    let stat = || Meta::at(from, name);
    let meta = stat()?;
    let beside = new_name.with_file_name(stage_name());
    let made = || -> io::Result<()> {
        make(old, &meta, EntryAt { folder: to, name: &beside })?;
        if !stat()?.is_still(&meta) {
            return Err(Errno::BUSY.into()); // It is being written to.
        }
        Ok(fs::renameat(to, &beside, to, new_name)?)
    };
    made().inspect_err(|_| {
        let _ = fs::unlinkat(to, &beside, AtFlags::empty());
    })?;
    Ok(fs::unlinkat(from, name, AtFlags::empty())?)
}

/// Makes the entry `old` once more, as `new`, on the disk.
fn make(old: EntryAt<'_>, meta: &Meta, new: EntryAt<'_>) -> io::Result<()> {
    let EntryAt { folder: from, name } = old;
    let EntryAt { folder: to, name: beside } = new;
    let by_us = meta::created_by_us(false);
    let beside_name = CString::new(beside.as_os_str().as_bytes())?;
    let made_with = match meta.file_type() {
        FileType::RegularFile => {
            let file = fs::openat(from, name, SOURCE_FLAGS, Mode::empty())?;
            let new = fs::openat(to, beside, NEW_READABLE_FLAGS, Mode::RUSR | Mode::WUSR)?;
            return fill(&file, meta, &new, by_us);
        }
        FileType::Symlink => {
            fs::symlinkat(fs::readlinkat(from, name, Vec::new())?, to, beside)?;
            None
        }
        FileType::Fifo => {
            let mode = meta::mode(meta.permissions());
            make_fifo(to, &beside_name, mode)?;
            Some(mode)
        }
        _ => return Err(Errno::XDEV.into()),
    };
    meta::apply_at(to, &beside_name, meta, by_us, made_with).map(drop)
}

fn fill(file: &OwnedFd, meta: &Meta, new: &OwnedFd, by_us: Created) -> io::Result<()> {
    meta::strip_inherited_acls(new)?;
    if sys::CLONE_MAKES_THE_FILE || clone_and_look(file, new).is_err() {
        let on = Filesystems::default().of(file, meta.dev);
        Copier::new(false).copy(file, new, meta, on, || false)?;
    }
    let attrs = Attrs::read(file)?;
    let own = Meta::of_file(new)?;
    let created = Created { owner: (own.uid, own.gid), ..by_us };
    meta::apply(new, meta, attrs.as_deref(), created, None)?;
    // The old one may have been flushed, and it goes away.
    Ok(fs::fsync(new)?)
}

/// Renames a folder to a path at which there is nothing. Where that is refused, clones it, and
/// removes the old one; the inner error says why that is not gone as a whole.
///
/// # Errors
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if something is there. The folder is where it
/// was.
pub(crate) fn move_tree(from: &Path, to: &Path) -> io::Result<Option<io::Error>> {
    match staging::move_folder(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let cloned = clone_tree(from, &[to], &CloneOptions::new());
            cloned.map_err(|error| io::Error::new(error.io_error().kind(), error.to_string()))?;
            Ok(remove(from).err())
        }
        moved => moved.map(|()| None),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = fs::open(parent, DIR_FLAGS, Mode::empty())?;
    removal::remove(&parent, &CString::new(path.file_name().unwrap_or_default().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn an_entry_that_is_made_again_is_the_same_and_the_old_one_is_gone() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        for folder in ["from", "to", "to/deep"] {
            std::fs::create_dir(path(folder)).unwrap();
        }
        std::fs::write(path("from/file"), "content").unwrap();
        std::fs::set_permissions(path("from/file"), Permissions::from_mode(0o440)).unwrap();
        std::fs::write(path("to/deep/file"), "older").unwrap();
        symlink("nowhere", path("from/link")).unwrap();
        std::fs::create_dir(path("from/folder")).unwrap();
        let [from, to] = ["from", "to"].map(|name| std::fs::File::open(path(name)).unwrap());
        let again = |name: &str, new_name: &str| {
            fn at<'a>(folder: BorrowedFd<'a>, name: &'a str) -> EntryAt<'a> {
                EntryAt { folder, name: Path::new(name) }
            }
            make_again(at(from.as_fd(), name), at(to.as_fd(), new_name))
        };
        let before = std::fs::metadata(path("from/file")).unwrap();
        again("file", "deep/file").unwrap();
        again("link", "link").unwrap();
        assert_eq!(
            again("folder", "folder").unwrap_err().kind(),
            io::ErrorKind::CrossesDevices,
            "a directory is not made again"
        );
        let after = std::fs::metadata(path("to/deep/file")).unwrap();
        assert_eq!(std::fs::read(path("to/deep/file")).unwrap(), b"content");
        assert_eq!(after.permissions(), before.permissions());
        assert_eq!(after.modified().unwrap(), before.modified().unwrap());
        assert_eq!(std::fs::read_link(path("to/link")).unwrap(), Path::new("nowhere"));
        let names = |folder: &str| std::fs::read_dir(path(folder)).unwrap().count();
        assert_eq!((names("from"), names("to"), names("to/deep")), (1, 2, 1));
    }
}

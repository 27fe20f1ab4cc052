//! Directories that are inside a tree but no part of it: destinations, the store, other worktrees.
//!
//! Device and inode number tell them, whatever path leads to them. Where inode numbers are not
//! believed ([`Filesystem`](crate::reflink::filesystem::Filesystem)), other directories may have
//! the same number, and their content would be left out. There the place on the filesystem tells.

use std::collections::HashSet;
use std::ffi::{CStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{self, Mode, OFlags};

use super::mounts::place_of;
use crate::reflink::filesystem::Filesystems;
use crate::reflink::imp::LOOK_FLAGS;
use crate::reflink::meta::Meta;

/// What tells one directory from all others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum DirectoryKey {
    Number(u64, u64),
    /// The device, and the path from the root of its filesystem.
    At(Vec<u8>, PathBuf),
}

impl DirectoryKey {
    /// The key of an open directory. Without /proc it is the number in any case.
    pub(crate) fn of(dir: &OwnedFd, meta: &Meta, filesystems: &Filesystems) -> Self {
        let (dev, ino) = meta.id();
        match filesystems.of(dir, dev).inodes {
            true => Self::Number(dev, ino),
            false => place_of(dir)
                .map_or(Self::Number(dev, ino), |(device, path)| Self::At(device, path)),
        }
    }

    /// The key of the directory `name` in `folder`. `None` if there is none.
    pub(crate) fn at(
        (folder, name): (impl AsFd, impl rustix::path::Arg),
        filesystems: &Filesystems,
    ) -> Option<Self> {
        let flags = LOOK_FLAGS | OFlags::NOFOLLOW;
        let dir = fs::openat(folder, name, flags, Mode::empty()).ok()?;
        let meta = Meta::of_file(&dir).ok()?;
        Some(Self::of(&dir, &meta, filesystems))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Excluded {
    keys: HashSet<DirectoryKey>,
    /// The last names of directories whose numbers are not believed.
    names: HashSet<OsString>,
}

impl Excluded {
    pub(crate) fn add(&mut self, dir: &OwnedFd, meta: &Meta, filesystems: &Filesystems) {
        self.add_key(Some(DirectoryKey::of(dir, meta, filesystems)));
    }

    fn add_key(&mut self, key: Option<DirectoryKey>) {
        if let Some(DirectoryKey::At(_, path)) = &key {
            self.names.extend(path.file_name().map(ToOwned::to_owned));
        }
        self.keys.extend(key);
    }

    /// Adds the directory `name` in `folder`, if there is one.
    pub(crate) fn add_at(
        &mut self,
        at: (impl AsFd, impl rustix::path::Arg),
        filesystems: &Filesystems,
    ) {
        self.add_key(DirectoryKey::at(at, filesystems));
    }

    /// Whether the open directory `name` is one of them.
    pub(crate) fn has(
        &self,
        dir: &OwnedFd,
        meta: &Meta,
        name: &CStr,
        filesystems: &Filesystems,
    ) -> bool {
        let (dev, ino) = meta.id();
        if filesystems.of(dir, dev).inodes {
            return self.keys.contains(&DirectoryKey::Number(dev, ino));
        }
        // To find the place takes longer than all other work on a directory.
        let may_be = self.names.contains(std::ffi::OsStr::from_bytes(name.to_bytes()));
        may_be && self.keys.contains(&DirectoryKey::of(dir, meta, filesystems))
    }
}

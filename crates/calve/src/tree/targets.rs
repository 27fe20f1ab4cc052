//! Looks at the destinations, and refuses impossible ones, before calve makes anything.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode as Permissions};
use rustix::io::Errno;

use super::excluded::DirectoryKey;
use super::{Existing, mounts};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystems;
use crate::reflink::imp::{DIR_FLAGS, LOOK_FLAGS};
use crate::reflink::meta::Meta;

/// A destination as calve found it.
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) parent: OwnedFd,
    pub(super) parent_path: PathBuf,
    pub(super) name: CString,
    /// The entry at the destination. In a merge, if it is a link, the link's target.
    pub(super) existing: Option<Meta>,
    /// In a merge: the directory to which a link at the destination points. calve opens it once, so
    /// a later change of the link has no effect.
    pub(super) followed: Option<OwnedFd>,
}

impl Target {
    /// In a merge: opens the directory to which a link at the destination points.
    fn follow(&mut self) -> Result<(), Error> {
        let failed = |errno: Errno, why: &str| {
            let kind = io::Error::from(errno).kind();
            let cause = io::Error::new(kind, why.to_owned());
            Error::new(ErrorKind::Conflict, Operation::CloneTo, &self.path, cause)
        };
        let root = match fs::openat(&self.parent, &self.name, DIR_FLAGS, Permissions::empty()) {
            Ok(root) => root,
            Err(errno @ Errno::NOENT) => {
                return Err(failed(
                    errno,
                    "the destination is a symbolic link to what is not there",
                ));
            }
            Err(errno @ Errno::NOTDIR) => {
                return Err(failed(errno, "the destination is a symbolic link to no directory"));
            }
            Err(errno @ Errno::LOOP) => {
                return Err(failed(
                    errno,
                    "the destination is a symbolic link that leads to itself",
                ));
            }
            Err(errno) => return Err(Error::io(Operation::OpenDirectory, &self.path, errno)),
        };
        let found = Meta::of_file(&root).context(Operation::Read, || &self.path)?;
        (self.existing, self.followed) = (Some(found), Some(root));
        Ok(())
    }

    /// Whether the entry at the destination is the open directory `dir`, or a directory that
    /// contains it.
    pub(super) fn holds(&self, dir: &OwnedFd, filesystems: &Filesystems) -> Result<bool, Error> {
        let Some(found) = self.existing.filter(|found| found.file_type() == FileType::Directory)
        else {
            return Ok(false);
        };
        let here = Outer { id: found.id(), folder: &self.parent, name: &self.name };
        let is_inside =
            is_inside(dir, &here, filesystems).context(Operation::Replace, || &self.path)?;
        Ok(is_inside || mounts::is_inside(dir, &self.parent, &self.name))
    }
}

/// Opens the destinations' parent folders, and refuses impossible destinations, before calve makes
/// anything.
pub(super) fn look_at(
    dests: &[&Path],
    source: Option<(&OwnedFd, &Meta, &Path)>,
    existing: Existing,
    filesystems: &Filesystems,
) -> Result<Vec<Target>, Error> {
    let source_key = source.map(|(root, meta, _)| DirectoryKey::of(root, meta, filesystems));
    let mut seen = HashSet::new();
    let mut merged = HashSet::new();
    let mut targets = Vec::with_capacity(dests.len());
    for dest in dests {
        let mut target = open_target(dest)?;
        if existing.merges()
            && target.existing.is_some_and(|found| found.file_type() == FileType::Symlink)
        {
            target.follow()?;
        }
        let overlap = |what: &str| {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
            match source {
                Some((_, _, source)) => {
                    let error = Error::new(ErrorKind::Overlap, Operation::Clone, source, cause);
                    error.with_other(&target.path)
                }
                None => Error::new(ErrorKind::Overlap, Operation::CloneTo, &target.path, cause),
            }
        };
        let parent =
            Meta::of_file(&target.parent).context(Operation::Read, || &target.parent_path)?;
        let parent = DirectoryKey::of(&target.parent, &parent, filesystems);
        if !seen.insert((parent, target.name.clone())) {
            return Err(overlap("the same destination is given twice"));
        }
        if let Some(found) = &target.existing {
            // Two destinations are one directory, by a link and by its own name, or by two links.
            let key = match &target.followed {
                Some(dir) => Some(DirectoryKey::of(dir, found, filesystems)),
                None => DirectoryKey::at((&target.parent, &target.name), filesystems),
            };
            if existing.merges() && key.as_ref().is_some_and(|key| merged.contains(key)) {
                return Err(overlap("the same destination is given twice"));
            }
            if key.is_some() && key == source_key {
                return Err(overlap("source and destination are the same"));
            }
            merged.extend(key);
            if existing == Existing::Replace
                && let Some((root, _, _)) = source
                && target.holds(root, filesystems)?
            {
                return Err(overlap("the destination to be replaced holds the source"));
            }
            existing.must_allow(&target.path, found.file_type() == FileType::Directory)?;
        }
        targets.push(target);
    }
    if existing == Existing::Replace {
        no_other_inside(&targets, filesystems)?;
    }
    Ok(targets)
}

/// Fails if one destination is inside another one. Replacing the outer one would remove the inner
/// one.
fn no_other_inside(targets: &[Target], filesystems: &Filesystems) -> Result<(), Error> {
    for outer in targets {
        for inner in targets {
            if !outer.holds(&inner.parent, filesystems)? {
                continue;
            }
            let cause =
                io::Error::new(io::ErrorKind::InvalidInput, "one destination is inside the other");
            return Err(Error::new(ErrorKind::Overlap, Operation::CloneTo, &inner.path, cause)
                .with_other(&outer.path));
        }
    }
    Ok(())
}

fn open_target(dest: &Path) -> Result<Target, Error> {
    // `.`, `a/..` and the like name a directory only by a path to it.
    let resolved = match dest.file_name() {
        Some(_) => dest.to_owned(),
        None if dest.as_os_str().is_empty() => {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "the destination is empty");
            return Err(Error::new(ErrorKind::Io, Operation::CloneTo, dest, cause));
        }
        None => std::fs::canonicalize(dest).context(Operation::Resolve, || dest)?,
    };
    let bad_name = || {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "the root cannot be a destination");
        Error::new(ErrorKind::Overlap, Operation::CloneTo, dest, cause)
    };
    let name = resolved.file_name().ok_or_else(bad_name)?;
    let name = CString::new(name.as_bytes()).context(Operation::CloneTo, || dest)?;
    let parent_path = match resolved.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let parent = fs::open(&parent_path, DIR_FLAGS, Permissions::empty()).map_err(|errno| {
        let kind = match errno {
            Errno::NOENT | Errno::NOTDIR => ErrorKind::ParentNotFound,
            _ => return Error::io(Operation::Open, &parent_path, errno),
        };
        Error::new(kind, Operation::Open, &parent_path, errno)
    })?;
    let existing = match Meta::at(&parent, &name) {
        Ok(meta) => Some(meta),
        Err(Errno::NOENT) => None,
        Err(errno) => return Err(Error::io(Operation::Read, dest, errno)),
    };
    Ok(Target { path: dest.to_owned(), parent, parent_path, name, existing, followed: None })
}

/// The directory `name` in `folder`; the folder itself, if the name is empty.
pub(super) struct Outer<'a> {
    pub(super) id: (u64, u64),
    pub(super) folder: &'a OwnedFd,
    pub(super) name: &'a CStr,
}

/// Whether the open directory `dir` is the directory `outer` or somewhere inside it.
///
/// # Errors
/// A folder above may not even be entered.
pub(super) fn is_inside(
    dir: &OwnedFd,
    outer: &Outer<'_>,
    filesystems: &Filesystems,
) -> rustix::io::Result<bool> {
    let mut dir = fs::openat(dir, c".", LOOK_FLAGS, Permissions::empty())?;
    let mut last = None;
    loop {
        let id = Meta::of_file(&dir)?.id();
        // Where numbers are not believed, the place must agree.
        if id == outer.id
            && (filesystems.of(&dir, id.0).inodes
                || mounts::may_be_inside(&dir, outer.folder, outer.name))
        {
            return Ok(true);
        }
        if last == Some(id) {
            return Ok(false);
        }
        last = Some(id);
        dir = fs::openat(&dir, c"..", LOOK_FLAGS, Permissions::empty())?;
    }
}

//! The trash holds files and trees that wait to be deleted: trees of worktrees that were dropped,
//! and ready trees and mirrors that were discarded.
//!
//! Entries of the trash have names like those of stages, so no two of them have the same name. The
//! process that moves something into the trash deletes it. The next operation that frees space
//! deletes whatever is left.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{self, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::catalog::Catalog;
use super::clock::older_than;
use super::files::{listed, listed_at, open_dir};
use super::layout::Layout;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::tree::{mounts, removal, staging};

/// Deletes everything in the trash, but for worktrees that another process is about to drop.
pub(super) fn empty(layout: Layout<'_>, catalog: &Catalog) -> Result<(), Error> {
    let path = layout.trash();
    let dir = open_dir(&path)?;
    // Where no lock is to be had, only `is_being_emptied` does not know of this process.
    let _ = fs::flock(&dir, FlockOperation::NonBlockingLockShared);
    let mut failure = Ok(());
    let names = listed(&dir).context(Operation::ReadDirectory, || &path)?;
    let mut names: Vec<OsString> = names.into_iter().map(|(name, _)| name).collect();
    forget_those_with_rows(&mut names, catalog)?;
    for name in names {
        let removed = CString::new(name.as_encoded_bytes())
            .map_err(io::Error::other)
            .and_then(|name| remove_tree(&dir, &name));
        failure = failure.and(removed.context(Operation::DeleteDropped, || path.join(&name)));
    }
    failure
}

/// Whether a process is emptying the trash at this moment, as far as locks say.
pub(super) fn is_being_emptied(layout: Layout<'_>) -> Result<bool, Error> {
    let lock = fs::flock(open_dir(&layout.trash())?, FlockOperation::NonBlockingLockExclusive);
    Ok(lock == Err(Errno::WOULDBLOCK))
}

/// Removes what killed processes left in `stage`.
pub(super) fn sweep_stage(layout: Layout<'_>) {
    if let Ok(stage) = open_dir(&layout.stage()) {
        staging::sweep(&stage);
    }
}

/// Deletes entries that have been in the trash for longer than `grace`, and returns their number.
pub(super) fn sweep(layout: Layout<'_>, catalog: &Catalog, grace: Duration) -> Result<u64, Error> {
    let path = layout.trash();
    let mut names = entries(&path, grace).context(Operation::Read, || &path)?;
    if names.is_empty() {
        return Ok(0);
    }
    forget_those_with_rows(&mut names, catalog)?;
    let dir = open_dir(&path)?;
    let names = names.iter().filter_map(|name| CString::new(name.as_encoded_bytes()).ok());
    // The next sweep tries again what this one cannot remove.
    Ok(names.map(|name| u64::from(remove_tree(&dir, &name).is_ok())).sum())
}

/// Leaves out the trees of worktrees that have a row, and git's registrations of them. A drop takes
/// them away before it deletes the row, and brings them back if it fails. The names were listed
/// before the rows are read, so a name whose row is gone will never be needed again.
fn forget_those_with_rows(names: &mut Vec<OsString>, catalog: &Catalog) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let rows = catalog.worktrees()?;
    names.retain(|name| {
        let token = name.to_str().map(|name| name.strip_suffix(".git").unwrap_or(name));
        rows.iter().all(|row| token != Some(row.token.as_str()))
    });
    Ok(())
}

/// The names of a folder's entries whose last change was longer ago than `grace`. Empty if there is
/// no such folder.
pub(super) fn entries(path: &Path, grace: Duration) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for (name, _) in listed_at(path)? {
        match std::fs::symlink_metadata(path.join(&name)) {
            Ok(meta) => {
                if older_than((meta.ctime(), meta.ctime_nsec()), grace) == Some(true) {
                    names.push(name);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// Removes a tree, which may be a subvolume. A subvolume is deleted at once if that is allowed,
/// else entry by entry.
pub(crate) fn remove_tree(dir: &OwnedFd, name: &CString) -> io::Result<()> {
    let flags = DIR_FLAGS | OFlags::NOFOLLOW;
    if let Ok(tree) = fs::openat(dir, name, flags, Mode::empty())
        && let Ok(stat) = fs::fstat(&tree)
        && sys::is_subvolume(&tree, Meta::of(&stat).ino)
    {
        // The system would end all mounts in it. They keep it, as they keep any other tree.
        let place = std::fs::read_link(format!("/proc/self/fd/{}", tree.as_raw_fd()));
        let is_mounted_in = place.is_ok_and(|place| mounts::any_below(&place));
        drop(tree);
        // This fails if the subvolume contains others, or if this process may not delete it. Then
        // calve removes the tree entry by entry. That works, or its error says why not.
        if !is_mounted_in && sys::delete_subvolume(dir, name).is_ok() {
            return Ok(());
        }
    }
    removal::remove(dir, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trash_is_being_emptied_until_the_process_that_does_it_ends() {
        let store = tempfile::tempdir().unwrap();
        let layout = Layout(store.path());
        std::fs::create_dir(layout.trash()).unwrap();
        assert!(!is_being_emptied(layout).unwrap());
        let emptying = open_dir(&layout.trash()).unwrap();
        fs::flock(&emptying, FlockOperation::NonBlockingLockShared).unwrap();
        assert!(is_being_emptied(layout).unwrap() && is_being_emptied(layout).unwrap());
        drop(emptying);
        assert!(!is_being_emptied(layout).unwrap());
    }
}

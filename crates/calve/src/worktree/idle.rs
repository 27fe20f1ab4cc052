//! When something in a worktree changed last.
//!
//! Of a folder, the time counts at which its names changed; of all else, the time of the inode.
//! So the housekeeping of calve does not count: to share blocks leaves all times alone. git's own
//! files of the worktree count, too, because a commit and a rebase change them, but for those that
//! `git gc` rewrites.

use std::collections::HashSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FileType;

use super::{Worktree, shown};
use crate::error::{Error, ErrorKind, Operation};
use crate::store::{StoreOptions, git, layout};
use crate::tree::running::Running;
use crate::tree::visit::{Found, Visitor, visit};

/// What changed last in a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastChange {
    /// When it changed. If nothing changed since the start, when that was.
    pub time: SystemTime,
    /// The path from the worktree's root. `None` if nothing changed since the start.
    pub path: Option<PathBuf>,
}

/// The newest time of each thread, and where it was found.
struct Newest {
    time: (i64, i64),
    path: Option<(usize, PathBuf)>,
    /// Whether there are folders that may not be read.
    is_blind: bool,
}

struct NewestOf;

impl Visitor<Newest> for NewestOf {
    fn visit(&self, newest: &mut Newest, found: &Found<'_>) -> Result<(), Error> {
        let (time, is_folder) = match found.meta.file_type() {
            FileType::Directory => (found.meta.modified(), true),
            _ => (found.meta.changed, false),
        };
        // A new file and its folder often have the same time, and the folder comes first.
        if time < newest.time || is_folder && time == newest.time {
            return Ok(());
        }
        let path = found.path();
        // Each question to git makes a lock there, and removes it.
        let is_folder_of_git = is_folder && (found.tree > 0 || path.starts_with(layout::GIT));
        // A worktree that git made gets its mark when calve first works on it.
        let is_mark = found.tree > 0 && path == Path::new(layout::GIT_MARKER);
        if !is_folder_of_git && !is_mark {
            (newest.time, newest.path) = (time, Some((found.tree, path)));
        }
        Ok(())
    }

    fn unreadable(&self, newest: &mut Newest, _tree: usize) {
        newest.is_blind = true;
    }
}

/// What git's own housekeeping rewrites in its folder of a working tree.
const HOUSEKEPT: [&str; 2] = ["logs", "reftable"];

impl Worktree {
    /// What changed last in the worktree. This takes one stat for each entry.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if it has folders that cannot be read: another user's program
    /// may work in them. [`ErrorKind::WorktreeMissing`], [`ErrorKind::Git`].
    pub fn last_change(&self, options: &StoreOptions) -> Result<LastChange, Error> {
        self.last_change_in(&options.operation())
    }

    pub(super) fn last_change_in(&self, operation: &Running) -> Result<LastChange, Error> {
        self.must_be_there()?;
        let registered = self.store.registry().registered(&self.row)?;
        let folders = registered.iter().map(|entry| entry.folder.as_path());
        let trees: Vec<&Path> = std::iter::once(self.path.as_path()).chain(folders).collect();
        let housekept = trees.iter().skip(1).flat_map(|tree| HOUSEKEPT.map(|name| tree.join(name)));
        let excluded: HashSet<(u64, u64)> =
            housekept.filter_map(|path| git::identity(&path).ok().flatten()).collect();
        let start = || Newest { time: (i64::MIN, 0), path: None, is_blind: false };
        let alone = operation.with_jobs(1);
        let threads = visit(&trees, &excluded, &alone, Operation::Read, start, &NewestOf)?;
        if threads.iter().any(|thread| thread.is_blind) {
            let why = "it has folders that cannot be read, so calve cannot say when they changed";
            let cause = io::Error::new(io::ErrorKind::PermissionDenied, why);
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                Operation::Read,
                &self.path,
                cause,
            ));
        }
        let newest = threads.into_iter().max_by_key(|thread| thread.time);
        let since_start = LastChange { time: self.created(), path: None };
        Ok(match newest {
            Some(Newest { time, path: Some((tree, path)), .. })
                if moment(time) > since_start.time =>
            {
                // A folder's own name is a dot.
                let names = path.components().filter(|it| *it != Component::CurDir);
                let within = if tree == 0 { "" } else { layout::GIT };
                let path: PathBuf = Path::new(within).components().chain(names).collect();
                LastChange { time: moment(time), path: Some(shown(&path)) }
            }
            _ => since_start,
        })
    }
}

/// Seconds and nanoseconds as a time. A time before 1970 is as long ago as one can be.
fn moment((seconds, nanoseconds): (i64, i64)) -> SystemTime {
    let since = u64::try_from(seconds).map(Duration::from_secs).unwrap_or_default();
    UNIX_EPOCH + since + Duration::from_nanos(nanoseconds.unsigned_abs() % 1_000_000_000)
}

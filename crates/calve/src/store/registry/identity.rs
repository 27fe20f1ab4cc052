//! Which folder is the tree of a worktree.
//!
//! The mark says so ([`marker`](super::super::marker)). The mark of a worktree that git knows is in
//! git's folder of that worktree, where no command of git that cleans a tree reaches it. But it goes
//! with that folder: `git worktree prune` deletes a registration whose tree git does not see, and
//! `rm -rf .git` cuts the way to it.
//!
//! So the store also notes which folder a worktree's root is: its inode and when that was made, which
//! a rename keeps. A folder at the path of the worktree's row that is this folder, and has no other
//! worktree's mark, is the worktree. The note also has the inode of the store. Someone else's store,
//! which came in an archive or is a copy of this one, has another inode than its notes say, so its
//! notes say nothing of any folder. And the root must belong to the user, as if the tree was moved.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs;

use super::{Registry, is_gone};
use crate::error::{Error, ErrorKind, Operation};
use crate::store::catalog::WorktreeRow;
use crate::store::files::{is_blank, read_plain};
use crate::store::git::{self, Registration};
use crate::store::marker::{MarkPlace, Marker, give_at};
use crate::store::ownership::must_be_believed_root;
use crate::tree::staging::write_whole;

/// Room for eight numbers.
const NOTE_MOST_BYTES: u64 = 256;

impl Registry<'_> {
    /// Whether the tree at `root` is that of a row.
    ///
    /// # Errors
    /// The tree's mark could not be read. A damaged mark is none.
    pub(crate) fn is_tree_of(self, row: &WorktreeRow, root: &Path) -> Result<bool, Error> {
        match self.mark_at(root) {
            Ok(Some(marker)) => Ok(marker.token == row.token),
            Err(error) if error.kind() != ErrorKind::Damaged => Err(error),
            Ok(None) | Err(_) => Ok(self.is_noted_root(row, root)),
        }
    }

    /// Whether the folder at `root` is the one that was noted as the root of a row's tree. After a
    /// power cut that took the note and the mark, or the way to it, the row's path says so: nobody
    /// else leaves these files empty. The note alone is not enough, because the store may come from
    /// someone else.
    pub(crate) fn is_noted_root(self, row: &WorktreeRow, root: &Path) -> bool {
        let path = self.layout.tree_root(&row.token);
        let noted = read_plain(fs::CWD, &path, NOTE_MOST_BYTES);
        let Ok(now) = self.note_of(root) else { return false };
        let is_empty = |path: &Path| is_blank(path).is_ok_and(|it| it == Some(true));
        let mark = || MarkPlace::of_worktree(root).path();
        let is_torn = || {
            self.may_heal(row)
                && is_empty(&path)
                && (is_empty(&git::git_of(root)) || is_empty(&mark()))
        };
        (noted.is_ok_and(|noted| now.as_bytes() == noted) || is_torn())
            && must_be_believed_root(self.believed(), root, Operation::UseWorktree).is_ok()
    }

    /// Notes that the folder at `root` is the root of a row's tree.
    pub(in crate::store) fn note_root(self, row: &WorktreeRow, root: &Path) -> io::Result<()> {
        let folder = self.tree_folder(row)?;
        let path = self.layout.tree_root(&row.token);
        write_whole(&folder, &path, self.note_of(root)?.as_bytes())?;
        give_at(&path, self.believed());
        Ok(())
    }

    /// The store's folder for the tree of a row ([`Layout::tree`](super::super::layout::Layout::tree)). It
    /// is made if it is missing.
    pub(super) fn tree_folder(self, row: &WorktreeRow) -> io::Result<PathBuf> {
        let folder = self.layout.tree(&row.token);
        match std::fs::create_dir(&folder) {
            Ok(()) => give_at(&folder, self.believed()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(&folder)?;
            }
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
        }
        Ok(folder)
    }

    fn note_of(self, root: &Path) -> io::Result<String> {
        Ok(format!("{} of {}\n", folder_id(root)?, folder_id(self.layout.0)?))
    }

    /// Whether the tree at `root` leads to a registration that was there before the project was moved,
    /// and which is `entry` now.
    pub(super) fn led_before_a_move(self, root: &Path, entry: &Registration) -> bool {
        git::leads_to(root).is_ok_and(|led| is_gone(&led) && led.file_name() == Some(entry.id()))
    }

    /// The mark beside git's registration of a worktree.
    pub(super) fn mark_of(self, entry: &Registration) -> Result<Option<Marker>, Error> {
        Marker::believed(&MarkPlace::of_git(entry.folder.clone()), self.believed())
    }

    /// Whether a registration has the mark of a row.
    pub(super) fn is_registered_as(self, row: &WorktreeRow, entry: &Registration) -> bool {
        self.mark_of(entry).ok().flatten().is_some_and(|marker| marker.token == row.token)
    }

    /// Whether a registration to which the tree of a row leads is not the row's: git pruned that
    /// one, and gave its id to a worktree elsewhere. The mark of the row went with its registration.
    pub(super) fn is_given_away(self, root: &Path, entry: &Registration) -> bool {
        let has_no_mark = || {
            let marks = [self.mark_of(entry), self.mark_at(root)];
            marks.iter().all(|mark| matches!(mark, Ok(None)))
        };
        entry.git_file.is_some() && !entry.is_of(root) && has_no_mark()
    }

    /// The registration that has the mark of a row.
    pub(super) fn registration_of(self, row: &WorktreeRow) -> io::Result<Option<Registration>> {
        if row.git.is_none() {
            return Ok(None);
        }
        let Ok(Some(repository)) = self.repository() else { return Ok(None) };
        let mut entries = repository.registrations()?.into_iter();
        Ok(entries.find(|entry| self.is_registered_as(row, entry)))
    }

    /// Lets the tree of a row lead to its registration again, after its `.git` file was deleted.
    /// Returns whether the row has a registration. If it cannot be led to, git says that it does not
    /// know the tree, as before.
    pub(super) fn lead_again(self, row: &WorktreeRow, root: &Path) -> bool {
        let Ok(registered) = self.registration_of(row) else { return true };
        let Some(entry) = registered else { return false };
        let git_file = git::git_of(root);
        if entry.git_file.as_ref() == Some(&git_file) && self.is_noted_root(row, root) {
            let _ = write_whole(root, &git_file, &entry.git_file_text());
            self.note_head(row, &entry);
        }
        true
    }
}

/// The inode of a folder, and when it was made. Filesystems that do not say when have the inode
/// alone.
fn folder_id(path: &Path) -> io::Result<String> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let made = found.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {}", found.ino(), made.map_or(0, |made| made.as_nanos())))
}

//! Gives a worktree back what a power cut took from it.
//!
//! A start flushes the small files of its worktrees. An older calve did not, and git and a move of
//! the store do not either. After a power cut such a file is empty, or holds zeros, while the tree
//! and its row are there. The row says what the file held.
//!
//! This concerns only rows of another boot, and never a file with content. Missing files count only
//! in a folder that calve made. A folder whose marks
//! would not count (see [`ownership`](super::super::ownership)) is left alone.

use std::io;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

use super::{Registry, is_gone};
use crate::reflink::imp::DIR_FLAGS;
use crate::store::catalog::{Linked, PROJECT, WorktreeRow};
use crate::store::files::{is_blank, path_from};
use crate::store::git::{self, Registration, Repository};
use crate::store::layout::{self, GIT_IGNORE, Layout, MADE_BY, OWN, POINTER};
use crate::store::marker::{HIDES_ALL, MarkPlace, maker_text};
use crate::store::ownership::{Owned, Role};
use crate::tree::staging::{is_of_another_boot, write_whole};

impl Registry<'_> {
    /// Gives the worktree of a row its marker again, if a power cut took it. Returns whether it did.
    ///
    /// # Errors
    /// It could not look, or could not write.
    pub(crate) fn heal_mark(self, row: &WorktreeRow) -> io::Result<bool> {
        let root = path_from(&row.path);
        if !self.may_heal(row) {
            return Ok(false);
        }
        self.heal_notes(row, &root)?;
        let place = MarkPlace::of_worktree(&root);
        let is_torn = match is_blank(&place.path())? {
            Some(blank) => blank,
            None => {
                is_torn(&place.folder)? || self.is_noted_root(row, &root) && !is_gone(&place.folder)
            }
        };
        if !is_torn {
            return Ok(false);
        }
        let believed = self.believed();
        for path in [&root, &place.folder] {
            if believed.why_not(Owned::at(path)?, Role::Mark).is_some() {
                return Ok(false);
            }
        }
        let ignore = layout::own(&root).join(GIT_IGNORE);
        if is_blank(&ignore)? == Some(true) {
            write_whole(&place.folder, &ignore, HIDES_ALL)?;
        }
        self.marker(row).write(&place, believed)?;
        Ok(true)
    }

    /// Writes again which folder the tree of a row is, and who made it.
    fn heal_notes(self, row: &WorktreeRow, root: &Path) -> io::Result<()> {
        if is_blank(&self.layout.tree_root(&row.token))? == Some(true) && self.is_marked(row) {
            self.note_root(row, root)?;
        }
        let kept = self.layout.tree(&row.token);
        let file = kept.join(MADE_BY);
        if is_blank(&file)? != Some(true) {
            return Ok(());
        }
        let root = fs::open(root, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        write_whole(&kept, &file, maker_text(&root)?.as_bytes())
    }

    /// Gives the registration of a linked worktree what a power cut took from it. If that fails,
    /// git says what is wrong, as before.
    pub(crate) fn heal_git(self, row: &WorktreeRow) {
        let Some(linked) = row.git.as_ref().filter(|_| self.may_heal(row)) else { return };
        let Ok(Some(repository)) = self.repository() else { return };
        if self.is_marked(row) {
            let _ = git::torn::heal(&repository, &path_from(&row.path), started(row, linked));
        }
    }

    /// The registration of a worktree that never got its tree. A power cut may have taken the lock
    /// that says whose it is, and git refuses to work beside a registration with empty files.
    pub(super) fn torn_registration(
        self,
        repository: &Repository,
        row: &WorktreeRow,
    ) -> io::Result<Option<Registration>> {
        let root = path_from(&row.path);
        match &row.git {
            Some(linked) if self.may_heal(row) && is_gone(&root) => {
                git::torn::find(repository, &root, started(row, linked))
            }
            _ => Ok(None),
        }
    }

    /// Gives the branch of a worktree the commit that a power cut took. git can neither read nor
    /// delete an empty one.
    pub(super) fn heal_branch(
        self,
        repository: &Repository,
        row: &WorktreeRow,
        (branch, commit): (&str, &str),
    ) -> io::Result<()> {
        if self.may_heal(row) { repository.heal_branch(branch, commit) } else { Ok(()) }
    }

    pub(super) fn may_heal(self, row: &WorktreeRow) -> bool {
        !self.is_read_only && row.name != PROJECT && is_of_another_boot(&row.maker)
    }
}

fn started<'a>(row: &'a WorktreeRow, linked: &'a Linked) -> git::torn::Started<'a> {
    let branch = linked.branch.as_deref();
    git::torn::Started { name: &row.name, branch, commit: &linked.commit }
}

/// Whether a power cut may have taken the marker from calve's own folder of a worktree in its tree.
fn is_torn(own: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(own) {
        Ok(found) if found.is_dir() && own.ends_with(OWN) => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(false),
    }
    Ok(is_blank(&own.join(GIT_IGNORE))?.is_some()
        && is_blank(&own.join(POINTER))?.is_none()
        && !Layout(own).has_store())
}

//! Linked worktrees whose registration git has pruned.
//!
//! `git worktree prune`, which `git gc` runs, too, removes the registration of a worktree that it
//! cannot see: its filesystem is not mounted, or the repository is used in a container without it.
//! With the registration go the worktree's `HEAD` and its index. The tree is as it was. So the
//! store notes each worktree's `HEAD`, and the next command that finds the tree registers it again.
//!
//! A worktree on another mount than its repository is locked, as `git worktree lock` does it. Then
//! git keeps its registration.

use std::io;
use std::path::Path;

use super::{Registry, is_gone};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::store::catalog::{Linked, State, WorktreeRow};
use crate::store::files::path_from;
use crate::store::git::{self, Failure, Registration, Repository};
use crate::tree::mounts;
use crate::tree::staging::write_whole;

impl Registry<'_> {
    /// Notes the `HEAD` of a linked worktree, in case that git forgets it. If that fails, the next
    /// command notes it.
    pub(super) fn note_head(self, row: &WorktreeRow, entry: &Registration) {
        let Some(linked) = &row.git else { return };
        let Some(head) = entry.head().filter(|head| *head != linked.last_head()) else {
            return;
        };
        let linked = Linked { head: Some(head), ..linked.clone() };
        let _ = self.catalog.set_git(&WorktreeRow { git: Some(linked), ..row.clone() });
    }

    /// Registers a linked worktree again whose registration is gone while its tree is there, with
    /// the `HEAD` that it had when calve saw it last. Returns whether it did: `false` if nothing is
    /// amiss, or if another process works on it.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if git refuses. Nothing was made.
    pub(crate) fn register_pruned(self, row: &WorktreeRow) -> Result<bool, Error> {
        let root = path_from(&row.path);
        let (Some(linked), Some(project)) = (&row.git, self.repository()?) else {
            return Ok(false);
        };
        let is_lost = |led: &Path| {
            let id = led.file_name().map(|id| project.registrations_folder().join(id));
            is_gone(led) && id.is_none_or(|id| is_gone(&id))
        };
        if self.is_read_only
            || row.state == State::Starting
            || !match git::leads_to(&root) {
                Ok(led) => is_lost(&led),
                Err(error) => git::is_absent(&error),
            }
            || !self.find_mark(row)?
        {
            return Ok(false);
        }
        let failed = |failure: Failure| {
            Error::new(ErrorKind::Git, Operation::RegisterWorktree, &root, failure)
        };
        let (branch, commit) = self.head_again(&project, linked).map_err(failed)?;
        let linked = Linked { commit, branch, head: None, ..linked.clone() };
        let Some(mut made) = self.add_again(&project, row, &linked)? else { return Ok(false) };
        let lead = || -> io::Result<()> {
            write_whole(&root, &git::git_of(&root), &made.git_file_text())?;
            self.mark(row, &root)?;
            Ok(project.read_index(&made)?)
        };
        if let Err(error) = lead() {
            made.remove(&self.layout.stage()).context(Operation::RegisterWorktree, || &root)?;
            return Err(Error::new(ErrorKind::Git, Operation::RegisterWorktree, &root, error));
        }
        self.release(&mut made, row, &project).context(Operation::Unlock, || &root)?;
        Ok(true)
    }

    /// Lets git make the registration. `None`: another process works on the worktree.
    fn add_again(
        self,
        project: &Repository,
        row: &WorktreeRow,
        linked: &Linked,
    ) -> Result<Option<Registration>, Error> {
        match self.register(project, row, linked, false) {
            Ok(made) => Ok(Some(made)),
            Err(error) if error.io_error().kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => {
                self.unregister_begun(row)?;
                Err(error)
            }
        }
    }

    /// The branch and the commit for a `HEAD` as it was. A branch that another working tree has by
    /// now, or that is gone, leaves the `HEAD` detached.
    fn head_again(
        self,
        project: &Repository,
        linked: &Linked,
    ) -> Result<(Option<String>, String), Failure> {
        let head = linked.last_head();
        let Some(branch) = head.strip_prefix("ref: refs/heads/") else { return Ok((None, head)) };
        let there = project.branches(&[branch])?;
        Ok(match there.into_iter().find(|found| found.name == branch) {
            Some(found) if found.tree.is_none() => (Some(branch.to_owned()), found.commit),
            Some(found) => (None, found.commit),
            None => (None, linked.commit.clone()),
        })
    }

    /// Removes the lock of a registration that calve made, or leaves one that says why git must
    /// keep it.
    pub(super) fn release(
        self,
        entry: &mut Registration,
        row: &WorktreeRow,
        project: &Repository,
    ) -> io::Result<()> {
        let root = path_from(&row.path);
        match mounts::are_on_one_mount(&root, &project.common) {
            Some(false) => entry.lock_as_elsewhere(),
            _ => entry.unlock(&row.token),
        }
    }
}

//! Linked worktrees whose registration git has pruned.
//!
//! `git worktree prune`, which `git gc` runs, too, removes the registration of a worktree that it
//! cannot see: its filesystem is not mounted, or the repository is used in a container without it.
//! With the registration go the worktree's `HEAD` and its index. The tree is as it was. So the
//! store notes each worktree's `HEAD`, and the next command that finds the tree registers it again.
//! For git its branch was free meanwhile, so somebody may have moved it. At the branch's new commit,
//! the next commit of all that differs would undo what others did.
//!
//! A worktree on another mount than its repository is locked, as `git worktree lock` does it. Then
//! git keeps its registration.

use std::io;
use std::path::Path;

use super::{Registry, is_gone};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::named;
use crate::store::catalog::{Linked, State, WorktreeRow};
use crate::store::files::path_from;
use crate::store::git::{self, Branch, Failure, Registration, Repository};
use crate::tree::mounts;
use crate::tree::staging::write_whole;

named! {
    /// The `HEAD` of a worktree that calve registered again.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum HeadAgain {
        /// As calve saw it last: on its branch, or detached.
        AsItWas = "as_it_was",
        /// Detached. The branch that it was on is checked out elsewhere, is at another commit than
        /// the worktree's files, or is gone.
        Detached = "detached",
    }
}

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
    /// the `HEAD` that it had when calve saw it last. `None` if nothing is amiss, or if another
    /// process works on it.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if git refuses. Nothing was made.
    pub(crate) fn register_pruned(self, row: &WorktreeRow) -> Result<Option<HeadAgain>, Error> {
        let root = path_from(&row.path);
        let (Some(linked), Some(project)) = (&row.git, self.repository()?) else {
            return Ok(None);
        };
        let is_lost = |led: &Path| {
            let id = led.file_name().map(|id| project.registrations_folder().join(id));
            let folder = if is_gone(led) { id } else { Some(led.to_owned()) };
            folder.is_none_or(|folder| match Registration::read(folder.clone()) {
                Ok(Some(entry)) => self.is_given_away(&root, &entry),
                Ok(None) => is_gone(&folder),
                Err(_) => false,
            })
        };
        if self.is_read_only
            || row.state == State::Starting
            || !match git::leads_to(&root) {
                Ok(led) => is_lost(&led),
                Err(error) => git::is_absent(&error),
            }
            || !self.find_mark(row)?
        {
            return Ok(None);
        }
        let failed = |failure: Failure| {
            Error::new(ErrorKind::Git, Operation::RegisterWorktree, &root, failure)
        };
        let was = LastHead::of(&project, linked).map_err(failed)?;
        // If the branch has moved, the files tell whether it did with them.
        let free = was.now.as_ref().filter(|it| it.tree.is_none());
        let linked = Linked {
            commit: was.now.as_ref().map_or(&was.commit, |it| &it.commit).clone(),
            branch: free.map(|it| it.name.clone()),
            head: None,
            ..linked.clone()
        };
        let Some(mut made) = self.add_again(&project, row, &linked)? else { return Ok(None) };
        let lead = || -> io::Result<bool> {
            write_whole(&root, &git::git_of(&root), &made.git_file_text())?;
            self.mark(row, &root)?;
            project.read_index(&made)?;
            let stays = was.commit == linked.commit
                || git::has_files_of(&root, [&was.commit, &linked.commit])?;
            if !stays {
                git::detach(&root, &was.commit)?;
                project.read_index(&made)?;
            }
            Ok(stays && linked.branch.is_some() || !was.is_on_branch)
        };
        let is_as_it_was = match lead() {
            Ok(is_as_it_was) => is_as_it_was,
            Err(error) => {
                made.remove(&self.layout.stage()).context(Operation::RegisterWorktree, || &root)?;
                return Err(Error::new(ErrorKind::Git, Operation::RegisterWorktree, &root, error));
            }
        };
        self.release(&mut made, row, &project).context(Operation::Unlock, || &root)?;
        Ok(Some(if is_as_it_was { HeadAgain::AsItWas } else { HeadAgain::Detached }))
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

/// The `HEAD` of a linked worktree when calve last saw it.
pub(crate) struct LastHead {
    pub(crate) is_on_branch: bool,
    /// Its branch as it is now. `None`: it was on none, or the branch is gone.
    pub(crate) now: Option<Branch>,
    /// The commit that it was at; of a branch without a note of it, the one that it is at now. If
    /// git does not have it any more, the one that the worktree was started at.
    pub(crate) commit: String,
}

impl LastHead {
    /// Asks git about it.
    pub(crate) fn of(project: &Repository, linked: &Linked) -> Result<Self, Failure> {
        let head = linked.last_head();
        let Some(branch) = head.strip_prefix("ref: refs/heads/") else {
            return Ok(Self { is_on_branch: false, now: None, commit: head });
        };
        let (branch, at) = branch.split_once(' ').map_or((branch, None), |(it, at)| (it, Some(at)));
        let now = project.branches(&[branch])?.into_iter().find(|found| found.name == branch);
        let at = match (at, &now) {
            (None, Some(now)) => Some(now.commit.as_str()),
            (Some(at), Some(now)) if now.commit == at => Some(at),
            (Some(at), _) => Some(at).filter(|_| project.commit(at).is_ok_and(|it| it.is_ok())),
            (None, None) => None,
        };
        let commit = at.unwrap_or(&linked.commit).to_owned();
        Ok(Self { is_on_branch: true, now, commit })
    }

    /// The branch, if it is where it was and no other working tree has it.
    pub(crate) fn free_branch(&self) -> Option<&Branch> {
        self.now.as_ref().filter(|it| it.tree.is_none() && it.commit == self.commit)
    }
}

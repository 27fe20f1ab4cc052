//! Registrations of linked worktrees in the repository: made, found again and removed.

use std::io;
use std::path::{Path, PathBuf};

use super::super::catalog::{Linked, PROJECT, WorktreeRow};
use super::super::files::path_from;
use super::super::git::{self, Onto, Registration, Repository};
use super::super::home;
use super::{Registry, is_gone};
use crate::error::{Context as _, Error, ErrorKind, Operation};

impl Registry<'_> {
    /// The repository of the project. Its files say which one that is; git is not asked. `None`: it
    /// has none.
    pub(super) fn repository(self) -> Result<Option<Repository>, Error> {
        let Some(project) = self.catalog.worktree(PROJECT)? else { return Ok(None) };
        let root = self.root_of(&project);
        home::of_project(self.layout.0, &root).context(Operation::Read, || git::git_of(&root))
    }

    /// The path at which git makes a worktree, before the tree exists.
    pub(super) fn temporary(self, row: &WorktreeRow) -> PathBuf {
        self.layout.stage().join(&row.maker)
    }

    /// Lets git register a worktree as `linked` says. The registration is locked until
    /// [`Registry::stands`]. `makes_branch`: the branch does not exist yet, and git makes it.
    ///
    /// # Errors
    /// The parts that were made are removed with the row, or by the next [`Registry::recover`].
    pub(crate) fn register(
        self,
        repository: &Repository,
        row: &WorktreeRow,
        linked: &Linked,
        makes_branch: bool,
    ) -> Result<Registration, Error> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Git, Operation::RegisterWorktree, path_from(&row.path), error)
        };
        let lock = self.lock_soon(row)?.ok_or_else(|| failed(io::ErrorKind::WouldBlock.into()))?;
        let onto = match &linked.branch {
            Some(branch) if makes_branch => {
                repository
                    .make_branch(branch, &linked.commit, &row.token, lock.file())
                    .map_err(|failure| failed(failure.into()))?;
                Onto::Branch(branch)
            }
            Some(branch) => Onto::Branch(branch),
            None => Onto::Commit(&linked.commit),
        };
        let temporary = self.temporary(row);
        std::fs::create_dir(&temporary).context(Operation::MakeFolder, || &temporary)?;
        let made = repository.add(
            &temporary.join(git::registration_name(&row.name)),
            onto,
            &row.token,
            lock.file(),
        );
        let _ = std::fs::remove_dir_all(&temporary);
        let mut made = made.map_err(|failure| failed(failure.into()))?;
        made.point_at(&path_from(&row.path)).map_err(failed)?;
        Ok(made)
    }

    /// The registrations of a worktree that git was told to make. They may be incomplete.
    fn begun(self, repository: &Repository, row: &WorktreeRow) -> io::Result<Vec<Registration>> {
        let temporary = self.temporary(row);
        let name = git::registration_name(&row.name);
        let torn = self.torn_registration(repository, row)?.map(|entry| entry.folder);
        let mut found = Vec::new();
        for entry in repository.registrations()? {
            let is_torn = torn.as_ref() == Some(&entry.folder);
            let may_be_new = |entry: &Registration| {
                is_torn && entry.git_file.is_none() || entry.is_hardly_begun(name)
            };
            if entry.is_made_for(&row.token, &temporary) || is_torn && entry.git_file.is_some() {
                found.push(entry);
            } else if may_be_new(&entry) {
                // Another git process may be making this entry right now.
                entry.wait_for_next_step();
                found.extend(Registration::read(entry.folder)?.filter(may_be_new));
            }
        }
        Ok(found)
    }

    /// Removes everything that git was told to make for a worktree whose tree will never be in its
    /// place. A branch that git does not remove stays: it holds no work, and another start takes it.
    ///
    /// # Errors
    /// A registration stays. The row must stay, too, so that [`Registry::recover`] tries again.
    pub(super) fn take_back(self, row: &WorktreeRow) -> Result<(), Error> {
        self.unregister_begun(row)?;
        if let Some(Linked { commit, branch: Some(branch), .. }) = &row.git
            && let Some(repository) = self.repository()?
        {
            let _ = self.heal_branch(&repository, row, (branch, commit));
            let _ = repository.take_back_branch(branch, commit, &row.token);
        }
        Ok(())
    }

    /// Like `take_back`, but keeps the branch.
    pub(crate) fn unregister_begun(self, row: &WorktreeRow) -> Result<(), Error> {
        // git had made an adopted one before.
        if row.git.as_ref().is_none_or(|git| git.is_adopted) {
            return Ok(());
        }
        let Some(repository) = self.repository()? else { return Ok(()) };
        let failed = || path_from(&row.path);
        for entry in self.begun(&repository, row).context(Operation::Unregister, failed)? {
            entry.remove(&self.layout.stage()).context(Operation::Unregister, || &entry.folder)?;
        }
        // What stays in the stage is swept with it.
        let _ = std::fs::remove_dir_all(self.temporary(row));
        Ok(())
    }

    /// Unlocks the registration of a worktree whose tree has its name. From now on git may move or
    /// remove the worktree.
    pub(crate) fn stands(self, row: &WorktreeRow) -> Result<(), Error> {
        if row.git.is_none() {
            return Ok(());
        }
        let Some(repository) = self.repository()? else { return Ok(()) };
        let is_of_row = |it: &Registration| it.is_made_for(&row.token, &self.temporary(row));
        let unlock = || -> io::Result<()> {
            // Mostly the tree leads to it, and those of all others need not be read.
            let own = git::leads_to(&path_from(&row.path)).ok().map(Registration::read);
            let entries = match own.transpose()?.flatten().filter(is_of_row) {
                Some(own) => vec![own],
                None => repository.registrations()?,
            };
            for mut entry in entries.into_iter().filter(is_of_row) {
                self.release(&mut entry, row, &repository)?;
            }
            Ok(())
        };
        unlock().context(Operation::Unlock, || path_from(&row.path))
    }

    /// The registrations of a worktree in the project's repository, whether or not its tree exists.
    ///
    /// # Errors
    /// The repository, the worktree's `.git` or a registration could not be read. That does not
    /// mean that there are none.
    pub(crate) fn registered(self, row: &WorktreeRow) -> Result<Vec<Registration>, Error> {
        let repository = self.repository()?;
        repository.map_or_else(|| Ok(Vec::new()), |it| self.registered_in(&it, row))
    }

    /// The same, if the project's repository is known.
    pub(crate) fn registered_in(
        self,
        repository: &Repository,
        row: &WorktreeRow,
    ) -> Result<Vec<Registration>, Error> {
        let folder = repository.registrations_folder();
        let root = path_from(&row.path);
        let own = git::leads_to(&root);
        let own = match own {
            Err(error) if git::leads_nowhere(&error) => None,
            own => Some(own.context(Operation::Read, || git::git_of(&root))?),
        };
        let is_own = |entry: &Registration, own: &Path| git::is_same(&entry.folder, own);
        let agrees = |entry: &Registration| {
            let is_gone = entry.git_file.as_deref().is_none_or(is_gone);
            entry.is_of(&root) || is_gone && !self.is_given_away(&root, entry)
        };
        // The registrations of all others need not be read, or commands on many worktrees would
        // read each as often as there are worktrees.
        if let Some(own) = &own
            && let Some(id) = own.file_name()
            && let Ok(Some(entry)) = Registration::read(folder.join(id))
            && is_own(&entry, own)
            && self.is_marked(row)
        {
            return Ok(agrees(&entry).then_some(entry).into_iter().collect());
        }
        let mut entries =
            repository.registrations().context(Operation::ReadDirectory, || folder)?;
        // A `.git` file that leads elsewhere says nothing about these entries.
        let own = own.filter(|own| entries.iter().any(|entry| is_own(entry, own)));
        let is_ours = self.is_marked(row);
        let is_of_row = |entry: &Registration| match &own {
            // The tree's `.git` file says which entry is the tree's own. The entry must agree,
            // since the `.git` file may be a copy of another worktree's.
            Some(own) if is_ours => is_own(entry, own) && agrees(entry),
            // Another worktree of git is in this one's place.
            Some(own) => entry.is_of(&root) && !is_own(entry, own),
            None => entry.is_of(&root),
        };
        entries.retain(is_of_row);
        Ok(entries)
    }

    /// Removes git's registrations of a worktree whose tree does not exist.
    ///
    /// # Errors
    /// Some of them stay. `git worktree prune` removes them.
    pub(crate) fn unregister(self, row: &WorktreeRow) -> Result<(), Error> {
        if row.git.is_some() {
            for entry in self.registered(row)? {
                let removed = entry.remove(&self.layout.stage());
                removed.context(Operation::Unregister, || &entry.folder)?;
            }
        }
        Ok(())
    }
}

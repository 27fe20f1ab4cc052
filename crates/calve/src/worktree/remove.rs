//! Drops worktrees. A dropped worktree disappears at once; its files are deleted behind.
//!
//! Where the worktree has a repository, git decides what may not be lost: commits that nothing else holds, and work that is neither
//! committed nor in the base snapshot.
//! Where it has none, or git is not installed, it is every difference from the base snapshot.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs;
use rustix::io::Errno;

use super::git::Loss;
use super::scope::ChangeScope;
use super::{Worktree, shown};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::store::git::{Branch, Work};
use crate::store::trash::remove_tree;
use crate::store::{PROJECT, StoreOptions, parent_of, path_from};
use crate::tree::running::Running;
use crate::tree::staging::{self, stage_name};

/// How [`Worktree::drop`] treats local changes; built by value.
#[derive(Debug, Clone, Default)]
pub struct DropOptions {
    force: bool,
    delete_branch: bool,
}

impl DropOptions {
    /// A local change is an error, and the worktree stays.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a worktree is dropped with its local changes, which are lost. Commits that nothing else holds get a reference
    /// `refs/calve/dropped/NAME` in the project's repository: see [`DroppedWorktree::kept`]. If something else is at its path, the worktree loses
    /// only its name, and the path stays as it is.
    #[must_use]
    pub fn force(mut self, yes: bool) -> Self {
        self.force = yes;
        self
    }

    /// Whether the branch that a linked worktree is on is deleted with it, if another reference holds all its commits. Otherwise the
    /// branch stays.
    #[must_use]
    pub fn delete_branch(mut self, yes: bool) -> Self {
        self.delete_branch = yes;
        self
    }
}

/// A worktree that was dropped: it has no name any more, and its files wait to be deleted.
#[derive(Debug)]
#[must_use = "its files stay until `delete`"]
pub struct DroppedWorktree {
    /// Nothing where it was missing.
    remains: Option<Remains>,
    kept: Vec<String>,
    deleted_branch: Option<String>,
}

#[derive(Debug)]
struct Remains {
    folder: PathBuf,
    name: CString,
    in_trash: bool,
}

impl DroppedWorktree {
    fn new(
        remains: Option<Remains>,
        kept: Vec<String>,
        loss: Option<Loss>,
        branch: Option<Branch>,
    ) -> Self {
        // git refuses to delete one that a worktree has checked out, so it goes last.
        let deleted = |branch: Branch| {
            let is_deleted = loss.is_some_and(|loss| loss.delete_branch(&branch));
            is_deleted.then_some(branch.name)
        };
        Self { remains, kept, deleted_branch: branch.and_then(deleted) }
    }

    /// Whether its files wait in the store's trash, where [`Store::empty_trash`](crate::Store::empty_trash) finds them. What cannot be renamed to there, since it is on
    /// another filesystem or has another project's quota (XFS, ext4), waits where it was for [`DroppedWorktree::delete`], or for whoever starts a
    /// worktree beside it next.
    #[must_use]
    pub fn is_in_trash(&self) -> bool {
        self.remains.as_ref().is_none_or(|remains| remains.in_trash)
    }

    /// Whether there was no folder to drop: only the name is gone. If something stands at the worktree's path, it is not the
    /// worktree, and stays.
    #[must_use]
    pub fn was_missing(&self) -> bool {
        self.remains.is_none()
    }

    /// The references in the project's repository that now hold commits which only the worktree held. `git branch NEW REFERENCE` makes a branch
    /// of one.
    #[must_use]
    pub fn kept(&self) -> &[String] {
        &self.kept
    }

    /// The branch that was deleted with it.
    #[must_use]
    pub fn deleted_branch(&self) -> Option<&str> {
        self.deleted_branch.as_deref()
    }

    /// Deletes its files: never across a mount, never through a link.
    ///
    /// # Errors
    /// What could not be deleted stays; who tries again is said at [`DroppedWorktree::is_in_trash`].
    pub fn delete(self) -> Result<(), Error> {
        let Some(Remains { folder, name, .. }) = self.remains else { return Ok(()) };
        let dir = super::open_dir(&folder)?;
        remove_tree(&dir, &name).context(Operation::DeleteDropped, || folder)
    }
}

impl Worktree {
    /// Drops it: its folder and its name are gone when this returns. Deleting the files, which takes time, is left to
    /// [`DroppedWorktree::delete`] or [`Store::empty_trash`](crate::Store::empty_trash). It works on a full disk, too.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if it has local changes: differences from its base snapshot, of which only those count that `git status`
    /// lists too if it has a repository. [`ErrorKind::CommitsOnlyHere`] if it has commits that no branch, tag or other reference of the project holds.
    /// [`Error::details`] has the paths, or the commits. [`ErrorKind::Git`] if `git worktree lock` has locked it.
    /// [`ErrorKind::WorktreeMissing`] if something else is at its path. [`DropOptions::force`] avoids all these. Nothing was done.
    /// [`ErrorKind::Overlap`] if other worktrees are inside it, also with `force`.
    pub fn drop(self, how: &DropOptions, options: &StoreOptions) -> Result<DroppedWorktree, Error> {
        self.store.freeing(|store| {
            store.must_be_writable(Operation::DropWorktreeOf)?;
            let this = Self { store: store.clone(), ..self.clone() };
            this.now()?.drop_now(how, &options.operation())
        })
    }

    /// Whether a drop without [`DropOptions::force`] would find something that is lost with it.
    ///
    /// # Errors
    /// As for [`Worktree::drop`]: [`ErrorKind::Changed`], [`ErrorKind::CommitsOnlyHere`], [`ErrorKind::Git`]. Nothing is changed.
    pub fn must_lose_nothing(&self, options: &StoreOptions) -> Result<(), Error> {
        self.now()?.must_be_no_loss(self.git_loss(true).as_ref(), &options.operation())
    }

    fn must_be_no_loss(&self, loss: Option<&Loss>, operation: &Running) -> Result<(), Error> {
        match loss {
            Some(loss) => {
                loss.must_be_nothing(self, |work| self.is_in_the_base_snapshot(work, operation))
            }
            None => self.must_be_unchanged(operation),
        }
    }

    fn drop_now(&self, how: &DropOptions, operation: &Running) -> Result<DroppedWorktree, Error> {
        let force = how.force;
        if self.is_project() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is the project itself");
            return Err(Error::new(ErrorKind::InvalidName, Operation::Drop, &self.path, cause));
        }
        if self.is_away(force)? {
            let loss = self.git_loss(false);
            // There is nothing to look at any more, and the commits can be kept.
            let (kept, branch) = self.keep_what_git_has(loss.as_ref(), how)?;
            // Only the name goes; unless somebody is making it, and was faster.
            let forgotten = self
                .store
                .registry()
                .forget(&self.row, || Ok(self.is_away(force)?.then_some(())))?;
            return match forgotten {
                Some(()) => Ok(DroppedWorktree::new(None, kept, loss, branch)),
                None => self.now()?.drop_now(how, operation),
            };
        }
        self.must_be_there()?;
        self.must_hold_no_other()?;
        let loss = self.git_loss(true);
        if !force {
            self.must_be_no_loss(loss.as_ref(), operation)?;
        }
        let (kept, branch) = self.keep_what_git_has(loss.as_ref(), how)?;
        let (parent, name) = parent_of(&self.path)?;
        let from = super::open_dir(&parent)?;
        let name = CString::new(name.as_encoded_bytes()).map_err(|error| {
            Error::io(Operation::DropWorktree, &self.path, io::Error::other(error))
        })?;
        let trash = self.store.layout().trash();
        let to = super::open_dir(&trash)?;
        let aside = CString::new(stage_name()).map_err(|error| {
            Error::io(Operation::DropWorktree, &self.path, io::Error::other(error))
        })?;
        // Where it was moved to, the trash or aside where it was.
        let mut moved_to = None;
        let away = || {
            let in_trash = match fs::renameat(&from, &name, &to, &aside) {
                Ok(()) => true,
                // Another filesystem, or another project's quota: under a name that is swept from there.
                Err(Errno::XDEV) => {
                    fs::renameat(&from, &name, &from, &aside)
                        .context(Operation::DropWorktree, || &self.path)?;
                    false
                }
                Err(errno) => return Err(Error::io(Operation::DropWorktree, &self.path, errno)),
            };
            moved_to = Some(if in_trash { &to } else { &from });
            Ok(Some(in_trash))
        };
        let forgotten = self.store.registry().forget(&self.row, away);
        if forgotten.is_err()
            && let Some(dir) = moved_to
        {
            // It is not dropped then; where somebody emptied the trash meanwhile, it is missing.
            let _ = fs::renameat(dir, &aside, &from, &name);
        }
        let Some(in_trash) = forgotten? else {
            return Ok(DroppedWorktree::new(None, kept, loss, branch));
        };
        if !in_trash {
            // So that whoever makes something there later knows that it may go.
            let _ = staging::mark(&from, &aside);
        }
        let folder = if in_trash { trash } else { parent };
        let remains = Remains { folder, name: aside, in_trash };
        Ok(DroppedWorktree::new(Some(remains), kept, loss, branch))
    }

    /// Makes references for commits that would go with it, and decides whether its branch can go.
    fn keep_what_git_has(
        &self,
        loss: Option<&Loss>,
        how: &DropOptions,
    ) -> Result<(Vec<String>, Option<Branch>), Error> {
        let Some(loss) = loss else { return Ok((Vec::new(), None)) };
        let branch = if how.delete_branch { loss.merged_branch(self)? } else { None };
        Ok((loss.keep(self)?, branch))
    }

    /// Whether all that is not committed is in the base snapshot: it came with the project's, or was captured.
    fn is_in_the_base_snapshot(&self, work: &Work, operation: &Running) -> Result<bool, Error> {
        if work.is_cut || work.only_index_has_it {
            return Ok(false);
        }
        let status = self.status_in(&ChangeScope::new(), operation)?;
        let paths: BTreeSet<&Path> = work.paths.iter().map(PathBuf::as_path).collect();
        let is_work = |changed: &Path| {
            let mut below = paths.range(changed..);
            changed.ancestors().any(|above| paths.contains(above))
                || below.next().is_some_and(|path| path.starts_with(changed))
        };
        Ok(status.skipped.is_empty() && !status.changes.iter().any(|it| is_work(&it.path)))
    }

    fn must_be_unchanged(&self, operation: &Running) -> Result<(), Error> {
        let status = self.status_in(&ChangeScope::new(), operation)?;
        let why = match (status.changes.is_empty(), status.skipped.is_empty()) {
            (true, true) => return Ok(()),
            (false, _) => "it has changes since its base snapshot",
            // Another process works in it, and calve may not have seen all that it made.
            (true, false) => "names in it kept changing while calve listed them",
        };
        let changed = status.changes.into_iter().map(|change| change.path);
        let restless = status.skipped.iter().map(|skipped| shown(&skipped.path));
        let mut paths: Vec<PathBuf> = changed.chain(restless).collect();
        paths.sort();
        paths.dedup();
        let cause = io::Error::other(why);
        Err(Error::new(ErrorKind::Changed, Operation::DropWorktree, &self.path, cause)
            .with_details(paths))
    }

    /// Whether there is nothing of it at its path. With `force` also where something else is, which is not ours to touch.
    fn is_away(&self, force: bool) -> Result<bool, Error> {
        let gone = std::fs::symlink_metadata(&self.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        Ok(gone || force && !self.is_there()?)
    }

    /// Other worktrees inside would go with it, and nobody has looked at what was changed in them.
    fn must_hold_no_other(&self) -> Result<(), Error> {
        let root = std::fs::canonicalize(&self.path).context(Operation::Open, || &self.path)?;
        let inside: Vec<PathBuf> = self
            .store
            .catalog()
            .worktrees()?
            .iter()
            .filter(|row| row.token != self.row.token && row.name != PROJECT)
            .map(|row| path_from(&row.path))
            .filter(|path| std::fs::canonicalize(path).is_ok_and(|path| path.starts_with(&root)))
            .collect();
        if inside.is_empty() {
            return Ok(());
        }
        let cause = io::Error::other("other worktrees are inside it");
        Err(Error::new(ErrorKind::Overlap, Operation::DropWorktree, &self.path, cause)
            .with_details(inside))
    }
}

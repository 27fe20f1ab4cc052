//! Drops worktrees. A dropped worktree disappears at once; its files are deleted later.
//!
//! A drop must not lose work. If the worktree has a repository, git says what would be lost:
//! commits that nothing else holds, and work that is neither committed nor in the base snapshot. If
//! it has none, every difference from the base snapshot would be lost. If git cannot say it, nothing
//! is dropped. A drop by force keeps what would be lost: commits by references, and the tree for a
//! while; where git cannot say what that is, the tree with git's registration.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs;
use rustix::io::Errno;

use super::git::{DoomedBranch, KeptCommits, Loss};
use super::scope::ChangeScope;
use super::{Worktree, shown};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::store::catalog::{Linked, WorktreeRow};
use crate::store::git::{self, Head, Work};
use crate::store::layout;
use crate::store::registry::{KEPT, Taken};
use crate::store::trash::remove_tree;
use crate::store::{PROJECT, StoreOptions, parent_of, path_from};
use crate::tree::across::move_tree;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::{self, stage_name};

/// How [`Worktree::drop`] treats local changes; built by value.
#[derive(Debug, Clone, Default)]
pub struct DropOptions {
    force: bool,
    discard: bool,
    delete_branch: bool,
}

impl DropOptions {
    /// A local change is an error, and the worktree stays.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a worktree is dropped although it has local changes. Then its tree is kept for a
    /// while, and [`Store::restore_dropped`](crate::Store::restore_dropped) brings it back. Commits
    /// that nothing else holds get a reference `refs/calve/dropped/NAME` in the project's
    /// repository: see [`DroppedWorktree::kept`]. If something else is at the worktree's path, the
    /// worktree loses only its name, and the path stays as it is.
    #[must_use]
    pub fn force(mut self, yes: bool) -> Self {
        self.force = yes;
        self
    }

    /// Whether [`DropOptions::force`] keeps no tree: local changes are lost at once. Commits are
    /// kept all the same. If commits are in a submodule of which the project has no repository, the
    /// tree is kept.
    #[must_use]
    pub fn discard(mut self, yes: bool) -> Self {
        self.discard = yes;
        self
    }

    /// Whether the branch of a linked worktree is deleted with the worktree, and its part of git's
    /// configuration. Only a branch that calve made for this worktree is deleted, and none that
    /// another working tree uses; [`DroppedWorktree::problems`] says why a branch stays.
    ///
    /// The branch must be merged: other references hold all its commits, or the commit that the
    /// project or a remote has checked out has the branch's changes, as after a squash or a rebase.
    /// Then a reference keeps its commits: see [`DroppedWorktree::kept`]. If it is not merged, the
    /// drop fails with [`ErrorKind::CommitsOnlyHere`].
    #[must_use]
    pub fn delete_branch(mut self, yes: bool) -> Self {
        self.delete_branch = yes;
        self
    }
}

/// A worktree that was dropped. It has no name any more, and its files wait to be deleted or are
/// kept for a while.
#[derive(Debug)]
#[must_use = "its files stay until `delete`"]
pub struct DroppedWorktree {
    remains: Remains,
    kept: KeptCommits,
    deleted_branch: Option<String>,
    problems: Vec<Error>,
}

/// What became of the files of a worktree.
#[derive(Debug)]
enum Remains {
    /// The worktree was missing.
    Nothing,
    /// The files wait to be deleted.
    Deleted { folder: PathBuf, name: CString, in_trash: bool },
    /// The worktree can be brought back until then.
    Kept { until: SystemTime },
}

impl DroppedWorktree {
    fn new(remains: Remains, kept: KeptCommits, problems: Vec<Error>) -> Self {
        Self { remains, kept, deleted_branch: None, problems }
    }

    /// Whether the files wait in the store's trash, where
    /// [`Store::empty_trash`](crate::Store::empty_trash) finds them. Files on another filesystem,
    /// or under another project's quota (XFS, ext4), cannot be renamed into the trash. They wait
    /// beside the worktree's old path, for [`DroppedWorktree::delete`] or for the next start of a
    /// worktree in the same folder.
    #[must_use]
    pub fn is_in_trash(&self) -> bool {
        !matches!(self.remains, Remains::Deleted { in_trash: false, .. })
    }

    /// Until when [`Store::restore_dropped`](crate::Store::restore_dropped) can bring the worktree
    /// back. After that, the next drop or [`Store::gc`](crate::Store::gc) deletes its files. `None`
    /// if the files are deleted now.
    #[must_use]
    pub fn can_be_restored_until(&self) -> Option<SystemTime> {
        match self.remains {
            Remains::Kept { until } => Some(until),
            _ => None,
        }
    }

    /// Whether there was no folder to drop. Then only the name is gone. If something is at the
    /// worktree's path, it is not the worktree, and stays.
    #[must_use]
    pub fn was_missing(&self) -> bool {
        matches!(self.remains, Remains::Nothing)
    }

    /// The references in the project's repository that now hold commits which only the worktree
    /// held. `git branch NEW REFERENCE` makes a branch from such a reference.
    #[must_use]
    pub fn kept(&self) -> &[String] {
        &self.kept.references
    }

    /// The same for submodules: the repository that the project has of the submodule, and the
    /// reference in it. `git --git-dir=REPOSITORY branch NEW REFERENCE` makes a branch.
    #[must_use]
    pub fn kept_in_submodules(&self) -> &[(PathBuf, String)] {
        &self.kept.in_submodules
    }

    /// The branch that was deleted with the worktree.
    #[must_use]
    pub fn deleted_branch(&self) -> Option<&str> {
        self.deleted_branch.as_deref()
    }

    /// What could not be done any more when the worktree was gone: its branch was not deleted, or
    /// parts of it stay in the store or in git's repository.
    #[must_use]
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// Deletes the files, unless they are kept. It never crosses a mount and never follows a link.
    ///
    /// # Errors
    /// Files that could not be deleted stay. [`DroppedWorktree::is_in_trash`] says what deletes
    /// them later.
    pub fn delete(self) -> Result<(), Error> {
        let Remains::Deleted { folder, name, .. } = self.remains else { return Ok(()) };
        let dir = super::open_dir(&folder)?;
        remove_tree(&dir, &name).context(Operation::DeleteDropped, || folder)
    }
}

/// The room that a drop has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    OfDisk,
    /// The disk is full. To name the contents of a worktree would take the room that the drop
    /// needs.
    OfReserve,
}

impl Worktree {
    /// Drops the worktree: its folder and its name are gone when this returns. Deleting the files
    /// takes time, so it is left to [`DroppedWorktree::delete`] or
    /// [`Store::empty_trash`](crate::Store::empty_trash). A drop works on a full disk, too.
    ///
    /// # Errors
    /// After any of these errors, nothing was done. [`DropOptions::force`] avoids all of them
    /// except [`ErrorKind::Overlap`] and the one of [`DropOptions::delete_branch`].
    /// * [`ErrorKind::Changed`] if the worktree has local changes: differences from its base
    ///   snapshot. If it has a repository, only those count that `git status` lists, too.
    ///   [`Error::details`] has the paths.
    /// * [`ErrorKind::CommitsOnlyHere`] if the worktree has commits that no branch, tag or other
    ///   reference of the project holds. [`Error::details`] has the commits.
    /// * [`ErrorKind::Git`] if `git worktree lock` has locked the worktree, or if git cannot say
    ///   what would be lost.
    /// * [`ErrorKind::WorktreeMissing`] if something else is at its path.
    /// * [`ErrorKind::Overlap`] if other worktrees are inside it.
    pub fn drop(self, how: &DropOptions, options: &StoreOptions) -> Result<DroppedWorktree, Error> {
        let mut room = Room::OfDisk;
        self.store.freeing(|store| {
            let room = std::mem::replace(&mut room, Room::OfReserve);
            store.must_be_writable(Operation::DropWorktreeOf)?;
            let this = Self { store: store.clone(), ..self.clone() };
            this.now()?.drop_now(how, room, &options.operation())
        })
    }

    /// Fails if a drop without [`DropOptions::force`] would lose work.
    ///
    /// # Errors
    /// The same as for [`Worktree::drop`]: [`ErrorKind::Changed`], [`ErrorKind::CommitsOnlyHere`],
    /// [`ErrorKind::Git`]. Nothing is changed.
    pub fn must_lose_nothing(&self, options: &StoreOptions) -> Result<(), Error> {
        self.now()?.must_be_no_loss(self.git_loss(true).as_ref(), &options.operation())
    }

    fn must_be_no_loss(&self, loss: Option<&Loss>, operation: &Running) -> Result<(), Error> {
        match loss {
            None => self.must_be_unchanged(operation),
            Some(loss) => {
                loss.must_be_nothing(self, |work| self.is_in_the_base_snapshot(work, operation))
            }
        }
    }

    fn drop_now(
        &self,
        how: &DropOptions,
        room: Room,
        operation: &Running,
    ) -> Result<DroppedWorktree, Error> {
        let force = how.force;
        if self.is_project() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is the project itself");
            return Err(Error::new(ErrorKind::InvalidName, Operation::Drop, &self.path, cause));
        }
        if self.is_away(force)? {
            let loss = self.git_loss(false);
            // Without a tree, only references can keep commits, and a lock says that the tree is
            // elsewhere for a while.
            if let Some(loss) = loss.as_ref()
                && (!force || loss.cannot_be_kept_by_references())
            {
                loss.must_be_kept_by_references(self)?;
            }
            // There are no files to look at any more, and a reference can keep the commits.
            let (kept, branch) = self.keep_what_git_has(loss.as_ref(), how)?;
            // Only the name goes. But another process may have made the folder again in the
            // meantime.
            let forgotten = self
                .store
                .registry()
                .forget(&self.row, || Ok(self.is_away(force)?.then_some(())))?;
            return match forgotten {
                Some(Taken { problems, .. }) => {
                    let dropped = DroppedWorktree::new(Remains::Nothing, kept, problems);
                    Ok(self.without_branch(dropped, loss.as_ref(), branch))
                }
                None => self.now()?.drop_now(how, room, operation),
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
        let keeps = loss.as_ref().is_some_and(Loss::must_keep_the_tree)
            || force && !how.discard && self.would_lose_work(loss.as_ref(), room, operation)?;
        let (folder, aside, beside) = if keeps {
            let token = &self.row.token;
            (self.store.layout().dropped(), token.clone(), layout::dropped_name(token))
        } else {
            let aside = stage_name();
            (self.store.layout().trash(), aside.clone(), aside)
        };
        if keeps {
            std::fs::create_dir_all(&folder).context(Operation::MakeFolder, || &folder)?;
        }
        let to = super::open_dir(&folder)?;
        let c_string = |name: String| {
            CString::new(name).map_err(|error| {
                Error::io(Operation::DropWorktree, &self.path, io::Error::other(error))
            })
        };
        let (aside, beside) = (c_string(aside)?, c_string(beside)?);
        // The place to which the drop moved the worktree.
        let mut moved_to = None;
        let mut away = || {
            let in_store = match fs::renameat(&from, &name, &to, &aside) {
                Ok(()) => true,
                // The store is on another filesystem, or under another project's quota. So the
                // worktree gets another name beside its old path. If it is to be deleted, that is a
                // stage's name, which a sweep finds.
                Err(Errno::XDEV) => match fs::renameat(&from, &name, &from, &beside) {
                    Ok(()) => false,
                    Err(Errno::XDEV) => {
                        let kept = keeps.then(|| folder.join(&self.row.token));
                        self.go_unrenamed((&from, &name), kept.as_deref())
                            .context(Operation::DropWorktree, || &self.path)?;
                        if !keeps {
                            return Ok(Some(true));
                        }
                        true
                    }
                    Err(errno) => {
                        return Err(Error::io(Operation::DropWorktree, &self.path, errno));
                    }
                },
                Err(errno) => return Err(Error::io(Operation::DropWorktree, &self.path, errno)),
            };
            moved_to = Some(if in_store { (&to, &aside) } else { (&from, &beside) });
            Ok(Some(in_store))
        };
        let registry = self.store.registry();
        let taken = if keeps {
            let row = self.row_to_keep(loss.as_ref());
            let beside = || Ok(away()?.map(|in_store| !in_store));
            let taken = registry.set_aside(&row, beside);
            taken.map(|it| it.map(|it| Taken { done: !it.done, problems: it.problems }))
        } else {
            registry.forget(&self.row, away)
        };
        if taken.is_err()
            && let Some((dir, aside)) = moved_to
        {
            // The worktree is not dropped then. If another process emptied the trash meanwhile, the
            // worktree is missing.
            let _ = fs::renameat(dir, aside, &from, &name);
        }
        let Some(Taken { done: in_store, mut problems }) = taken? else {
            let dropped = DroppedWorktree::new(Remains::Nothing, kept, Vec::new());
            return Ok(self.without_branch(dropped, loss.as_ref(), branch));
        };
        let remains = if keeps {
            Remains::Kept { until: SystemTime::now() + KEPT }
        } else {
            if !in_store {
                // The mark tells the next process that makes a tree in this folder that it may
                // delete the worktree.
                let marked = staging::mark(&from, &beside);
                problems.extend(marked.context(Operation::DeleteDropped, || &parent).err());
            }
            let folder = if in_store { folder } else { parent };
            Remains::Deleted { folder, name: aside, in_trash: in_store }
        };
        let dropped = DroppedWorktree::new(remains, kept, problems);
        Ok(self.without_branch(dropped, loss.as_ref(), branch))
    }

    /// Takes the tree away where no folder can be renamed: in an overlay's lower layer, to which a
    /// container's image belongs. A tree that is `kept` is cloned to that place first.
    ///
    /// # Errors
    /// The worktree is not dropped. Some of its files may be gone: if it is not kept, the same drop
    /// deletes the rest.
    fn go_unrenamed(
        &self,
        (parent, name): (&OwnedFd, &CStr),
        kept: Option<&Path>,
    ) -> io::Result<()> {
        match kept {
            Some(to) => move_tree(&self.path, to)?.map_or(Ok(()), Err),
            None => removal::remove(parent, name),
        }
    }

    /// Deletes the branch of a worktree that is gone. If that fails, it is a problem that
    /// `dropped` names.
    fn without_branch(
        &self,
        mut dropped: DroppedWorktree,
        loss: Option<&Loss>,
        branch: Option<DoomedBranch>,
    ) -> DroppedWorktree {
        if let Some((loss, branch)) = loss.zip(branch) {
            match loss.delete_branch(self, branch) {
                Ok((name, reference)) => {
                    dropped.deleted_branch = Some(name);
                    dropped.kept.references.extend(reference);
                }
                Err(error) => dropped.problems.push(error),
            }
        }
        dropped
    }

    /// Whether the tree has work that nothing else has. If calve cannot find out, it has.
    fn would_lose_work(
        &self,
        loss: Option<&Loss>,
        room: Room,
        operation: &Running,
    ) -> Result<bool, Error> {
        if self.row.snapshot.is_none() && room == Room::OfReserve {
            return Ok(true);
        }
        let known = loss.filter(|loss| loss.failure.is_none());
        let lost = match known.map(|loss| loss.work.as_ref()) {
            Some(Some(work)) if work.paths.is_empty() => Ok(false),
            Some(Some(work)) => self.is_in_the_base_snapshot(work, operation).map(|is| !is),
            Some(None) => Ok(false),
            None => self.must_be_unchanged(operation).map(|()| false),
        };
        match lost {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            lost => Ok(lost.unwrap_or(true)),
        }
    }

    /// The row of a worktree that can be brought back. It records where its `HEAD` is now.
    fn row_to_keep(&self, loss: Option<&Loss>) -> WorktreeRow {
        let mut row = self.row.clone();
        let head = loss.and_then(|loss| loss.work.as_ref()?.head.clone());
        if let (Some(linked), Some(Head { branch, commit: Some(commit) })) = (&mut row.git, head) {
            *linked = Linked { commit, branch, head: None };
        }
        row
    }

    /// Makes references for commits that the drop would lose, and decides whether the branch can be
    /// deleted.
    fn keep_what_git_has(
        &self,
        loss: Option<&Loss>,
        how: &DropOptions,
    ) -> Result<(KeptCommits, Option<DoomedBranch>), Error> {
        let Some(loss) = loss else { return Ok((KeptCommits::default(), None)) };
        let branch = if how.delete_branch { loss.doomed_branch(self)? } else { None };
        Ok((loss.keep(self)?, branch))
    }

    /// Whether the base snapshot has all uncommitted work: it came from the project, or somebody
    /// captured it.
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
            // Another process works in the worktree, and calve may not have seen all files that it
            // made.
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

    /// Whether nothing is at the worktree's path. With `force`, also whether something else is
    /// there, which we must not touch.
    fn is_away(&self, force: bool) -> Result<bool, Error> {
        let gone = std::fs::symlink_metadata(&self.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        Ok(gone || force && !self.is_there()?)
    }

    /// Fails if other worktrees are inside. A drop would delete them too, and nobody checked them
    /// for changes.
    fn must_hold_no_other(&self) -> Result<(), Error> {
        let root = std::fs::canonicalize(&self.path).context(Operation::Open, || &self.path)?;
        let rows = self.store.catalog().worktrees()?;
        let others = rows.iter().filter(|row| row.token != self.row.token && row.name != PROJECT);
        let gits = git::worktrees_inside(&self.path);
        let mut inside: Vec<PathBuf> = others
            .map(|row| path_from(&row.path))
            .filter(|path| std::fs::canonicalize(path).is_ok_and(|path| path.starts_with(&root)))
            .chain(gits.context(Operation::Read, || git::git_of(&self.path))?)
            .collect();
        inside.sort();
        inside.dedup();
        if inside.is_empty() {
            return Ok(());
        }
        let cause = io::Error::other("other worktrees are inside it");
        Err(Error::new(ErrorKind::Overlap, Operation::DropWorktree, &self.path, cause)
            .with_details(inside))
    }
}

//! Drops worktrees. A dropped worktree disappears at once; its files are deleted later.
//!
//! A drop must not lose work. If the worktree has a repository, git says what would be lost:
//! commits that nothing else holds, and work that is neither committed nor in the base snapshot. If
//! it has none, every difference from the base snapshot would be lost. If git cannot say it, nothing
//! is dropped. A drop by force keeps what would be lost: commits by references, and the tree for a
//! while; where git cannot say what that is, the tree with git's registration.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use self::away::Away;
use self::look::{Moment, Scope, changed_by, changed_since};
use self::processes::{Depth, living_in};
use self::seen::{Seen, must_be_one_folder};
use super::Worktree;
use super::git::{DoomedBranch, KeptCommits, Loss};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::meta::Meta;
use crate::store::StoreOptions;
use crate::store::catalog::{Linked, WorktreeRow};
use crate::store::git::{self, EditsSince, Head};
use crate::store::layout;
use crate::store::locks::Guard;
use crate::store::registry::{KEPT, Taken};
use crate::store::scan::Near;
use crate::store::trash::remove_tree;
use crate::tree::across::move_tree;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::stage_name;

mod away;
mod checked;
mod filter;
pub(super) mod look;
mod monitor;
pub(super) mod processes;
pub(super) mod seen;

pub use checked::CheckedWorktree;
pub use filter::{ChosenWorktree, DropFilter, FilteredWorktrees, StayReason, StayingWorktree};
pub use processes::LivingProcess;

/// How [`Worktree::drop`] treats local changes; built by value.
#[derive(Debug, Clone, Default)]
pub struct DropOptions {
    force: bool,
    discard: bool,
    delete_branch: bool,
}

setters! { DropOptions:
    /// A local change is an error, and the worktree stays.
    pub fn new(),
    /// Whether a worktree is dropped although it has local changes. Then its tree is kept for a
    /// while, and [`Store::restore_dropped`](crate::Store::restore_dropped) brings it back. Commits
    /// that nothing else holds get a reference `refs/calve/dropped/NAME` in the project's
    /// repository: see [`DroppedWorktree::kept`]. If something else is at the worktree's path, the
    /// worktree loses only its name, and the path stays as it is.
    pub force: bool,
    /// Whether [`DropOptions::force`] keeps no tree: local changes are lost at once. Commits are
    /// kept all the same. If commits are in a submodule of which the project has no repository, the
    /// tree is kept. Of a worktree whose folder is gone, what is staged is lost if git cannot make a
    /// commit of it; without this, such a drop fails with [`ErrorKind::Git`].
    pub discard: bool,
    /// Whether the branch of a linked worktree is deleted with the worktree, and its part of git's
    /// configuration. Only a branch that calve made for this worktree is deleted, and none that
    /// another working tree uses; [`DroppedWorktree::problems`] says why a branch stays.
    ///
    /// The branch must be merged: other references hold all its commits, or the commit that the
    /// project or a remote has checked out has the branch's changes, as after a squash or a rebase.
    /// Then a reference keeps its commits: see [`DroppedWorktree::kept`]. If it is not merged, the
    /// drop fails with [`ErrorKind::CommitsOnlyHere`].
    pub delete_branch: bool,
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
    living: Vec<LivingProcess>,
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
        Self { remains, kept, deleted_branch: None, problems, living: Vec::new() }
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
    /// parts of it stay in the store or in git's repository. Or its file monitor may still run.
    #[must_use]
    pub fn problems(&self) -> &[Error] {
        &self.problems
    }

    /// The processes that worked in the worktree when it was dropped by force. They go on in a
    /// folder that has another path, or none.
    #[must_use]
    pub fn living(&self) -> &[LivingProcess] {
        &self.living
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

/// One of the attempts to drop a worktree.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    how: &'a DropOptions,
    room: Room,
    is_first: bool,
    is_last: bool,
}

/// Why a drop begins again.
#[derive(Default)]
struct Again {
    /// What changed meanwhile.
    changed: Vec<PathBuf>,
    /// The references that were made before. They stay, and the next attempt finds the commits held.
    kept: KeptCommits,
}

/// Why nobody sees the tree of a worktree whose registration calve has locked for that.
const NOT_MOUNTED: &str = "it was on another filesystem than the repository, and that is not \
    mounted now: mount it again, because work in the worktree may not be committed";

/// How often a drop begins because something changed meanwhile.
pub(super) const ATTEMPTS: u32 = 4;

/// What changed in git's registrations of a worktree.
fn registrations_changed(loss: Option<&Loss>, since: Moment) -> io::Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    for folder in loss.map(Loss::registrations).unwrap_or_default() {
        let found = changed_since(&folder, since, Scope::OfGit)?;
        changed.extend(found.into_iter().map(|path| folder.join(path)));
    }
    Ok(changed)
}

impl Worktree {
    /// Drops the worktree: its folder and its name are gone when this returns. Deleting the files
    /// takes time, so it is left to [`DroppedWorktree::delete`] or
    /// [`Store::empty_trash`](crate::Store::empty_trash). A drop works on a full disk, too. If a
    /// switch or a reset has moved work aside, which [`Worktree::undo`] would bring back, the tree
    /// is kept as it is by [`DropOptions::force`].
    ///
    /// # Errors
    /// After any of these errors, nothing was done. [`DropOptions::force`] avoids all of them
    /// except [`ErrorKind::Overlap`] and the one of [`DropOptions::delete_branch`]. If something
    /// changes while the worktree is dropped, calve looks at it again, and the errors are about
    /// what is there then.
    /// * [`ErrorKind::Changed`] if the worktree has local changes: differences from its base
    ///   snapshot. If it has a repository, only those count that `git status` lists, too.
    ///   [`Error::details`] has the paths.
    ///   Repositories of other tools count unless the base snapshot has them as they are, and so do
    ///   stores and remotes of calve, and folders that cannot be read. Work in a repository of git
    ///   inside the worktree counts, also where git ignores its folder, unless the base snapshot has
    ///   it.
    /// * [`ErrorKind::CommitsOnlyHere`] if the worktree has commits that no branch, tag or other
    ///   reference of the project holds. [`Error::details`] has the commits. Those of repositories
    ///   inside the worktree count, also where git ignores them.
    /// * [`ErrorKind::Busy`] if a process works in it: its current folder, its program or a file
    ///   that it has open or mapped is there. [`Error::details`] has its number and its name. The
    ///   processes that led to this one do not count, and neither does git's file monitor, which the
    ///   drop stops. Also if another process switches the worktree
    ///   and does not finish in time.
    /// * [`ErrorKind::Git`] if `git worktree lock` has locked the worktree, or if git cannot say
    ///   what would be lost.
    /// * [`ErrorKind::WorktreeMissing`] if something else is at its path.
    /// * [`ErrorKind::Overlap`] if other worktrees are inside it, if something is mounted in it, or if
    ///   a repository that goes with it has linked worktrees elsewhere. In the last case a drop by
    ///   force keeps the tree.
    pub fn drop(self, how: &DropOptions, options: &StoreOptions) -> Result<DroppedWorktree, Error> {
        self.drop_seen(how, None, options)
    }

    /// Drops a worktree that may have been looked at already.
    fn drop_seen(
        self,
        how: &DropOptions,
        mut seen: Option<Seen>,
        options: &StoreOptions,
    ) -> Result<DroppedWorktree, Error> {
        let mut room = Room::OfDisk;
        self.store.freeing(|store| {
            let room = std::mem::replace(&mut room, Room::OfReserve);
            store.must_be_writable(Operation::DropWorktreeOf)?;
            let this = Self { store: store.clone(), ..self.clone() };
            let this = this.now()?;
            this.drop_now(how, room, seen.take(), &options.operation())
        })
    }

    /// Drops the worktree. If something in it changes between the questions and the rename, this
    /// begins again.
    fn drop_now(
        &self,
        how: &DropOptions,
        room: Room,
        mut seen: Option<Seen>,
        operation: &Running,
    ) -> Result<DroppedWorktree, Error> {
        if self.is_project() {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, "it is the project itself");
            return Err(Error::new(ErrorKind::InvalidName, Operation::Drop, &self.path, cause));
        }
        let mut again = Again::default();
        for number in 1..=ATTEMPTS {
            let this = self.now()?;
            if !how.force && this.store.registry().is_being_started(&this.row) {
                let cause = io::Error::new(io::ErrorKind::WouldBlock, "its start is not finished");
                return Err(this.not_dropped(ErrorKind::Busy, cause, Vec::new()));
            }
            let attempt = if this.is_away(how.force)? {
                this.forget_missing(how)?
            } else {
                let attempt =
                    Attempt { how, room, is_first: number == 1, is_last: number == ATTEMPTS };
                // Another process may drop it meanwhile, so that files or the folder were missed.
                this.attempt(&attempt, seen.take(), operation)
                    .map_err(|error| this.gone_or(error))?
            };
            match attempt {
                Ok(mut dropped) => {
                    dropped.kept = dropped.kept.after(again.kept);
                    return Ok(dropped);
                }
                Err(Again { changed, kept }) => {
                    again = Again { changed, kept: kept.after(again.kept) };
                }
            }
        }
        let cause = io::Error::other("another process changes it all the time");
        Err(self.not_dropped(ErrorKind::Changed, cause, again.changed))
    }

    /// Forgets a worktree that has no folder. The inner error has what changed meanwhile: then
    /// nothing was done.
    fn forget_missing(&self, how: &DropOptions) -> Result<Result<DroppedWorktree, Again>, Error> {
        let since = Moment::now();
        let mut loss = self.git_loss(false, EditsSince::LookedFor(self.row.created));
        // Without a tree, only references can keep commits, and a lock says that the tree is
        // elsewhere for a while.
        if let Some(loss) = loss.as_mut() {
            if !how.force || loss.cannot_be_kept_by_references() {
                loss.must_be_kept_by_references(self)?;
            }
            // The folder may only be elsewhere for a while.
            if !how.force && loss.is_on_a_mount_that_is_gone(&self.path) {
                let cause = io::Error::new(io::ErrorKind::NotFound, NOT_MOUNTED);
                return Err(self.not_dropped(ErrorKind::WorktreeMissing, cause, Vec::new()));
            }
            let scratch = self.store.layout().stage().join(stage_name());
            match loss.add_staged(&scratch) {
                Ok(others) if !how.force && !others.is_empty() => {
                    let why = "its folder is not there, and git's registration has unfinished work";
                    return Err(self.not_dropped(
                        ErrorKind::Changed,
                        io::Error::other(why),
                        others,
                    ));
                }
                // Without a tree, nothing else would keep what is staged.
                Err(failure) if !(how.force && how.discard) => {
                    let why = format!("git cannot keep what is staged in it: {failure}");
                    let cause = io::Error::other(why);
                    return Err(self.not_dropped(ErrorKind::Git, cause, Vec::new()));
                }
                _ => {}
            }
        }
        // There are no files to look at any more, and a reference can keep the commits.
        let (kept, branch) = self.keep_what_git_has(loss.as_ref(), how)?;
        let mut changed = Vec::new();
        let is_still_away = || {
            changed = registrations_changed(loss.as_ref(), since)
                .context(Operation::DropWorktree, || &self.path)?;
            if !self.is_away(how.force)? {
                // Another process has made the folder again.
                changed.push(PathBuf::from("."));
            }
            Ok(changed.is_empty().then_some(()))
        };
        // Only the name goes.
        let forgotten = self.store.registry().forget(&self.row, is_still_away)?;
        let Some(Taken { problems, .. }) = forgotten else {
            return Ok(Err(Again { changed, kept }));
        };
        let dropped = DroppedWorktree::new(Remains::Nothing, kept, problems);
        Ok(Ok(self.without_branch(dropped, loss.as_ref(), branch)))
    }

    /// Tries to drop a worktree whose folder is there. If it was `checked`, nothing was lost with it
    /// then. The inner error has what changed meanwhile: then the folder is in its place again.
    fn attempt(
        &self,
        attempt: &Attempt<'_>,
        checked: Option<Seen>,
        operation: &Running,
    ) -> Result<Result<DroppedWorktree, Again>, Error> {
        let how = attempt.how;
        self.must_be_there()?;
        self.must_hold_no_other()?;
        must_be_one_folder(&self.path)?;
        // Before the look, which would take its socket's end for a change.
        let monitor = self.stop_file_monitor();
        let seen = self.seen_for(attempt, checked, operation)?;
        let loss = seen.loss.as_ref();
        let (kept, branch) = self.keep_what_git_has(loss, how)?;
        let keeps = self.must_be_kept(&seen, attempt, operation)?;
        let _alone = self.alone_to_drop(how, operation)?;
        // A switch that was waited for has written another base snapshot.
        let this = self.now()?;
        let layout = self.store.layout();
        let folder = if keeps { layout.dropped() } else { layout.trash() };
        if keeps {
            std::fs::create_dir_all(&folder).context(Operation::MakeFolder, || &folder)?;
        }
        let mut away = Away::new(&self.path, folder, &self.row.token)?;
        let mut changed = Vec::new();
        let take = || {
            let Some(in_store) = away.go()? else {
                // It cannot be renamed, so the look is the last thing before it goes.
                changed = self.changed_meanwhile(&self.path, &seen, attempt)?;
                if !changed.is_empty() {
                    return Ok(None);
                }
                let kept = keeps.then(|| layout.dropped_tree(&self.row.token));
                self.go_unrenamed(&mut away, kept.as_deref())
                    .context(Operation::DropWorktree, || &self.path)?;
                return Ok(Some(true));
            };
            let looked = self.changed_meanwhile(&away.place(), &seen, attempt);
            match looked {
                Ok(found) if found.is_empty() => Ok(Some(in_store)),
                looked => {
                    away.back()?;
                    changed = looked?;
                    Ok(None)
                }
            }
        };
        let registry = self.store.registry();
        let taken = if keeps {
            registry.set_aside(&this.row_to_keep(loss), take)
        } else {
            registry.forget(&this.row, take)
        };
        if taken.is_err() {
            away.back()?;
        }
        let Some(Taken { done: in_store, mut problems }) = taken? else {
            return Ok(Err(Again { changed, kept }));
        };
        let remains = if keeps {
            Remains::Kept { until: SystemTime::now() + KEPT }
        } else {
            if !in_store {
                problems.extend(away.leave_to_sweep().err());
            }
            let (folder, name) = away.into_place();
            Remains::Deleted { folder, name, in_trash: in_store }
        };
        problems.extend(monitor.err());
        let mut dropped = DroppedWorktree::new(remains, kept, problems);
        dropped.living.clone_from(&seen.living);
        let could_look =
            processes::can_be_found().context(Operation::LookForProcesses, || Path::new("/proc"));
        dropped.problems.extend(could_look.err());
        Ok(Ok(self.without_branch(dropped, loss, branch)))
    }

    /// Keeps switches away while the folder is: one that found no folder in between would make some
    /// of it anew. What a switch changed before is seen afterwards, as all other changes. `None`: no
    /// lock could be had, and the drop is forced. Then a switch that is at it meets what it meets if
    /// the folder is removed by hand.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`], [`ErrorKind::Cancelled`].
    fn alone_to_drop(
        &self,
        how: &DropOptions,
        operation: &Running,
    ) -> Result<Option<Guard>, Error> {
        match self.lock_for(Operation::DropWorktree, operation) {
            Err(error) if how.force && error.kind() == ErrorKind::Busy => Ok(None),
            // There is no room for the file of a lock that nobody has.
            Err(error) if error.kind() == ErrorKind::StorageFull => Ok(None),
            locked => locked.map(Some),
        }
    }

    /// What changed in a worktree since it was looked at. Its folder is at `place` now.
    fn changed_meanwhile(
        &self,
        place: &Path,
        seen: &Seen,
        attempt: &Attempt<'_>,
    ) -> Result<Vec<PathBuf>, Error> {
        let Attempt { how, is_last, .. } = *attempt;
        let (loss, since) = (seen.loss.as_ref(), seen.since);
        if !how.force {
            // No process finds the tree any more. One that is inside may still change it.
            let living = living_in(place, Depth::Quick);
            if !living.is_empty() {
                return Ok(living.into_iter().map(|it| it.command.into()).collect());
            }
        }
        // A forced drop keeps the files, or was told to lose them.
        let only_git = how.force && (how.discard || is_last);
        let look = || -> io::Result<Vec<PathBuf>> {
            let mut found = registrations_changed(loss, since)?;
            if only_git {
                found.extend(changed_since(&place.join(layout::GIT), since, Scope::OfGit)?);
                return Ok(found);
            }
            if seen.untouched.as_ref().is_some_and(|it| it.is_still_at(place)) {
                #[cfg(calve_check)]
                crate::check::untouched(
                    place,
                    || changed_since(place, since, Scope::All),
                    || seen.untouched.as_ref().is_some_and(|it| it.is_still_at(place)),
                );
                return Ok(found);
            }
            // The kind decides below.
            let failed = |error: Error| io::Error::new(error.io_error().kind(), error);
            let mut judge = seen.work_at(place).map_err(failed)?;
            let nested = seen.nested.repositories.iter().filter_map(|path| path.parent());
            let nested = Near::of(nested.map(Path::to_owned));
            let mut has_work = |folder: &Path| {
                Ok(nested.has(folder) || judge.may_have_work(folder).map_err(failed)?)
            };
            let young = loss.and_then(|loss| loss.work.as_ref()).map(|work| &work.young);
            let is_edited = |file: &Meta| young.is_some_and(|young| young.has_edited(file));
            found.extend(changed_by(place, since, &is_edited, Scope::If(&mut has_work))?);
            Ok(found)
        };
        match look() {
            // A forced drop asks for no permission.
            Err(error) if how.force && error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Vec::new())
            }
            looked => looked.context(Operation::DropWorktree, || &self.path),
        }
    }

    /// Takes the tree away where no folder can be renamed: in an overlay's lower layer, to which a
    /// container's image belongs. A tree that is `kept` is cloned to that place first.
    ///
    /// # Errors
    /// The worktree is not dropped. Some of its files may be gone: if it is not kept, the same drop
    /// deletes the rest.
    fn go_unrenamed(&self, away: &mut Away, kept: Option<&Path>) -> io::Result<()> {
        match kept {
            Some(to) => move_tree(&self.path, to)?.map_or(Ok(()), Err)?,
            None => {
                let (parent, name) = away.origin();
                removal::remove(parent, name)?;
            }
        }
        away.went_unrenamed();
        Ok(())
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
            let registration = self.store.layout().dropped_registration(&self.row.token);
            let kept = matches!(dropped.remains, Remains::Kept { .. }).then_some(&*registration);
            match loss.delete_branch(self, branch, kept) {
                Ok((name, reference)) => {
                    dropped.deleted_branch = Some(name);
                    dropped.kept.references.extend(reference);
                }
                Err(error) => dropped.problems.push(error),
            }
        }
        dropped
    }

    /// The row of a worktree that can be brought back. It records where its `HEAD` is now.
    fn row_to_keep(&self, loss: Option<&Loss>) -> WorktreeRow {
        let mut row = self.row.clone();
        let head = loss.and_then(|loss| loss.work.as_ref()?.head.clone());
        if let (Some(linked), Some(Head { branch, commit })) = (&mut row.git, head) {
            let commit = commit.unwrap_or_else(|| git::NO_COMMIT.to_owned());
            *linked = Linked { commit, branch, head: None, ..*linked };
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

    /// Whether nothing is at the worktree's path. With `force`, also whether something else is
    /// there, which we must not touch.
    fn is_away(&self, force: bool) -> Result<bool, Error> {
        let gone = std::fs::symlink_metadata(&self.path)
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        Ok(gone || force && !self.is_there()?)
    }
}

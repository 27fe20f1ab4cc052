//! Dropped worktrees that can be brought back.
//!
//! A drop by force of a worktree with work that nothing else has sets the worktree aside: its tree
//! goes to `dropped/TOKEN` in the store, git's registration to `dropped/TOKEN.git`, and its row
//! from `worktrees` to `dropped`. Its index stays. If the tree cannot be renamed into the store, it
//! stays beside its old path, under a name that no sweep removes. After [`KEPT`] it is collected.
//!
//! # A crash at any point
//! Tree and row move in one transaction, but only the row is a part of the database. So a crash can
//! leave a tree set aside whose worktree still has its row, or a tree that is back without one. The
//! next command sees that the two disagree ([`Registry::recover_dropped`]). Either way the worktree
//! is then a worktree as before: what began last was not completed, or almost was.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, Mode};

use super::super::catalog::{DroppedRow, PROJECT, WorktreeRow};
use super::super::clock::{nanoseconds, older_than};
use super::super::files::{listed_at, path_from};
use super::super::git::branch::DeletedBranch;
use super::super::git::modules::{Modules, TreeAndGitDir, all_below};
use super::super::git::{self, Failure, Registration, Repository};
use super::super::id::is_token;
use super::super::layout;
use super::super::marker::{MarkPlace, Marker};
use super::super::trash::{self, remove_tree};
use super::{Registry, Taken, is_gone, name_taken};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::across::move_tree;
use crate::tree::staging::{self, stage_name, write_whole};

/// How long a dropped worktree can be brought back. git keeps objects that only its registration
/// refers to for two weeks (`gc.pruneExpire`), so this must be shorter.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// In a registration: its references, if the repository has them in a reftable.
const REFTABLE: &str = "reftable";

/// How many names calve tries for a registration.
const NAMES_MOST: u32 = 1000;

impl Registry<'_> {
    /// Forgets a worktree like [`Registry::forget`], but so that it can be brought back. `row` is
    /// what the store remembers of it. `away` takes the folder away, and returns whether it is in the
    /// store now, and not beside its old path.
    ///
    /// # Errors
    /// The same as for `forget`.
    pub(crate) fn set_aside(
        self,
        row: &WorktreeRow,
        away: impl FnOnce() -> Result<Option<bool>, Error>,
    ) -> Result<Option<Taken<bool>>, Error> {
        let to = |at: usize| match at {
            0 => self.layout.dropped_registration(&row.token),
            _ => self.layout.stage().join(stage_name()),
        };
        let kept = |in_store: &bool| {
            Some(DroppedRow { row: row.clone(), beside: !in_store, dropped: nanoseconds() })
        };
        let taken = self.take_away(row, to, away, kept)?;
        if taken.is_some() {
            // If it stays, the sweep removes it when the worktree is collected.
            let _ = std::fs::remove_file(self.layout.lock(&row.token));
        }
        Ok(taken)
    }

    /// The path of a dropped worktree's tree.
    pub(crate) fn place_of(self, dropped: &DroppedRow) -> PathBuf {
        let token = &dropped.row.token;
        match dropped.beside {
            true => layout::dropped_beside(&path_from(&dropped.row.path), token),
            false => self.layout.dropped_tree(token),
        }
    }

    /// Makes a dropped worktree a worktree again, with this name, at this path. git knows it again;
    /// its `HEAD` is at the branch that it was on if the branch is where it was and no other
    /// working tree has it checked out, else at the commit. A branch that the drop deleted is made
    /// again if its name is free. If the branch had no commit, and has
    /// one now or is checked out elsewhere, `HEAD` is at a new name beside it.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeExists`], [`ErrorKind::DestinationExists`];
    /// [`ErrorKind::WorktreeNotFound`] if another process brought it back or collected it. It is
    /// still a dropped worktree, or what that process made of it.
    pub(crate) fn bring_back(
        self,
        dropped: &DroppedRow,
        name: &str,
        path: Vec<u8>,
    ) -> Result<WorktreeRow, Error> {
        let row =
            WorktreeRow { name: name.to_owned(), path, maker: stage_name(), ..dropped.row.clone() };
        let path = &path_from(&row.path);
        let place = self.place_of(dropped);
        // A crash after the rename leaves a tree without a row. Its path must be known then.
        self.rename(&row)?;
        // The database cannot be asked within the transaction.
        let repository = self.repository()?;
        let head = self.head_of(&dropped.row, repository.as_ref())?;
        let back = || {
            if std::fs::symlink_metadata(path).is_ok() {
                return Err(exists(path));
            }
            let registration = match &repository {
                Some(repository) => {
                    self.register_again(repository, &place, (&dropped.row.path, &row))?
                }
                None => None,
            };
            let led = match (&registration, &repository) {
                (Some(entry), Some(repository)) => head
                    .give((&place, &row.token), repository, entry)
                    .map_err(io::Error::from)
                    // The branch is there again, or its name is another one's. A later drop does not
                    // delete it because this one did.
                    .and_then(|()| DeletedBranch::forget(&entry.folder)),
                _ => Ok(()),
            };
            // What stays there is collected.
            let moved = led.and_then(|()| move_tree(&place, path).map(drop));
            if moved.is_err()
                && let Some(entry) = registration
            {
                // If it stays registered, the next try finds it where the tree's `.git` file leads.
                let _ = entry.put_aside(self.layout.dropped_registration(&row.token));
            }
            match moved {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_gone(&place) => {
                    Err(not_dropped(name))
                }
                moved => moved.context(Operation::RestoreWorktree, || path),
            }
        };
        let mut brought = row.clone();
        let done = self.catalog.bring_back(&mut brought, back);
        let done = done.and_then(|done| done.map_err(|path| name_taken(name, &path)));
        match done {
            Ok(()) => {
                // A tree that was cloned to its place is another folder. It has its mark.
                let _ = self.note_root(&brought, path);
                Ok(brought)
            }
            Err(error) => {
                // Under the new name it can be brought back as well.
                let _ = self.rename(&dropped.row);
                Err(error)
            }
        }
    }

    fn rename(self, row: &WorktreeRow) -> Result<(), Error> {
        match self.catalog.rename_dropped(row)? {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_dropped(&row.name)),
            Err(path) => Err(name_taken(&row.name, &path)),
        }
    }

    /// The `HEAD` that a worktree gets when it is brought back. Its registration is put aside, so
    /// every working tree that git knows on its branch is another one.
    ///
    /// # Errors
    /// git cannot say whether another working tree is on its branch.
    fn head_of(self, row: &WorktreeRow, repository: Option<&Repository>) -> Result<NewHead, Error> {
        let (Some(linked), Some(repository)) = (&row.git, repository) else {
            return Ok(NewHead::AsItIs);
        };
        let kept = self.layout.dropped_registration(&row.token);
        let branch = match std::fs::symlink_metadata(kept.join(REFTABLE)) {
            Ok(_) => linked.branch.clone(),
            Err(_) => git::branch_at(&kept),
        };
        let ask = || -> Result<NewHead, Failure> {
            if !git::is_no_commit(&linked.commit)
                && repository.commit(&linked.commit)?.is_err()
                && let Some(other) = repository.head_commit()?
            {
                return Ok(NewHead::Instead(other));
            }
            let Some(branch) = branch else { return Ok(NewHead::AsItIs) };
            if git::is_no_commit(&linked.commit) {
                let free = free_for_unborn(repository, &branch)?;
                return Ok(if free == branch { NewHead::AsItIs } else { NewHead::Unborn(free) });
            }
            let found = repository.branches(&[&branch])?;
            let is_it = |it: &git::Branch| it.name == branch && it.commit == linked.commit;
            let deleted = DeletedBranch::read(&kept).map_err(Failure::NotRun)?;
            if let Some(deleted) = deleted.filter(|it| it.name == branch)
                && found.iter().all(|it| it.name != branch)
            {
                return Ok(NewHead::MadeAgain(deleted, linked.commit.clone()));
            }
            Ok(match found.iter().any(is_it) && repository.is_unused(&branch)? {
                true => NewHead::AsItIs,
                false => NewHead::Commit(linked.commit.clone()),
            })
        };
        let failed =
            |failure| Error::new(ErrorKind::Git, Operation::AskGit, &repository.root, failure);
        ask().map_err(failed)
    }

    /// Puts the registration of a dropped worktree back, for the path of `row`. The tree is at
    /// `place`. `None` if it had none. A tree in which somebody made a repository of its own keeps it.
    fn register_again(
        self,
        repository: &Repository,
        place: &Path,
        (dropped_from, row): (&[u8], &WorktreeRow),
    ) -> Result<Option<Registration>, Error> {
        let kept = self.layout.dropped_registration(&row.token);
        if std::fs::symlink_metadata(&kept).is_err() {
            return Ok(None);
        }
        let back = || -> io::Result<Registration> {
            let was = git::leads_to(place).ok();
            let gone = || io::Error::from(io::ErrorKind::NotFound);
            let mut entry = Registration::read(kept.clone())?.ok_or_else(gone)?;
            // Before git sees it: a crash must not leave one of which nobody knows whose it is.
            entry.point_at(&path_from(&row.path))?;
            entry.folder = put_registration(&kept, place, repository, &row.name)?;
            let git_file = git::git_of(place);
            if let Some(was) = was
                && entry.has_modules()
            {
                let modules =
                    |folder: &Path, root: &[u8]| Modules::new(repository, &path_from(root), folder);
                let before = modules(&was, dropped_from);
                modules(&entry.folder, &row.path).lead_as(&before, place)?;
            }
            if !leads_to(place, &entry) && !is_folder(&git_file)? {
                write_whole(place, &git_file, &entry.git_file_text())?;
            }
            Ok(entry)
        };
        back().map(Some).context(Operation::RegisterWorktree, || path_from(&row.path))
    }

    /// Makes trees and rows agree again, after a process died that dropped a worktree or brought
    /// one back.
    pub(super) fn recover_dropped(self) -> Result<(), Error> {
        let folder = self.layout.dropped();
        let aside = listed_at(&folder).context(Operation::Read, || &folder)?;
        let (rows, dropped) = (self.catalog.worktrees()?, self.catalog.dropped()?);
        let in_store = |token: &str| aside.iter().any(|(name, _)| *name == *OsStr::new(token));
        let is_aside = |row: &WorktreeRow| {
            let others = [self.layout.trashed_tree(&row.token), self.beside(row)];
            in_store(&row.token) || others.iter().any(|place| !is_gone(place))
        };
        let is_away = |row: &&WorktreeRow| row.name != PROJECT && is_gone(&path_from(&row.path));
        let is_back = |dropped: &&DroppedRow| {
            is_gone(&self.place_of(dropped)) && self.is_marked(&dropped.row)
        };
        // Its registration was put back, and the tree was not.
        let is_registered = |it: &&DroppedRow| {
            it.row.git.is_some()
                && is_gone(&self.layout.dropped_registration(&it.row.token))
                && is_gone(&path_from(&it.row.path))
                && !is_gone(&self.place_of(it))
        };
        if !rows.iter().filter(is_away).any(is_aside)
            && !dropped.iter().any(|it| is_back(&it) || is_registered(&it))
        {
            return Ok(());
        }
        let repository = self.repository()?;
        self.catalog.settle_dropped(|rows, dropped| {
            for row in rows.iter().filter(is_away) {
                self.not_dropped_after_all(row);
            }
            for dropped in dropped.iter().filter(is_registered) {
                self.not_registered_after_all(dropped, repository.as_ref());
            }
            let is_free =
                |dropped: &&DroppedRow| rows.iter().all(|row| row.name != dropped.row.name);
            let back = dropped.iter().filter(is_back).filter(is_free);
            back.map(|dropped| dropped.row.clone()).collect()
        })
    }

    /// Moves a tree back that was set aside although its worktree has a row.
    fn not_dropped_after_all(self, row: &WorktreeRow) {
        let (layout, token) = (self.layout, &row.token);
        for place in [layout.trashed_tree(token), layout.dropped_tree(token), self.beside(row)] {
            if !self.is_aside_at(row, &place) {
                continue;
            }
            // Whatever cannot be moved stays where it is, and the next command tries again.
            for kept in [layout.trashed_registration(token), layout.dropped_registration(token)] {
                if let (Ok(folder), Ok(_)) =
                    (git::leads_to(&place), std::fs::symlink_metadata(&kept))
                {
                    let _ = move_tree(&kept, &folder);
                }
            }
            let _ = move_tree(&place, &path_from(&row.path));
        }
    }

    /// Puts the registration of a dropped worktree aside again. For git it would be one of a tree
    /// that is gone, which its next prune deletes, with the commits that only it holds.
    fn not_registered_after_all(self, dropped: &DroppedRow, repository: Option<&Repository>) {
        let path = path_from(&dropped.row.path);
        let entries = repository.map(Repository::registrations).and_then(Result::ok);
        if let Some(entry) = entries.into_iter().flatten().find(|entry| entry.is_of(&path)) {
            // If it stays, the next command tries again.
            let _ = entry.put_aside(self.layout.dropped_registration(&dropped.row.token));
        }
    }

    /// Whether the tree at `place` is that of a row which was set aside. The mark of a linked worktree
    /// is in its registration, which was set aside, too. A mark that cannot be read counts as none:
    /// the tree stays where it is.
    fn is_aside_at(self, row: &WorktreeRow, place: &Path) -> bool {
        let (layout, token) = (self.layout, &row.token);
        // The database cannot be asked within the transaction, so neither for where the project is.
        let mark = |at: MarkPlace| Marker::believed(&at, self.believed()).ok().flatten();
        if let Some(marker) = mark(MarkPlace::of_worktree(place)) {
            return marker.token == *token;
        }
        let registrations =
            [layout.trashed_registration(token), layout.dropped_registration(token)];
        let mut kept = registrations.into_iter().filter_map(|it| mark(MarkPlace::of_git(it)));
        self.is_noted_root(row, place)
            || git::leads_to(place).is_ok_and(|led| is_gone(&led))
                && kept.any(|marker| marker.token == *token)
    }

    fn beside(self, row: &WorktreeRow) -> PathBuf {
        layout::dropped_beside(&path_from(&row.path), &row.token)
    }

    /// Deletes dropped worktrees that were dropped longer than `age` ago. Returns how many there
    /// were. Trees in the store are in the trash then.
    ///
    /// # Errors
    /// The first failure; all others were tried. A tree that could not be taken away keeps its
    /// row. One that could not be deleted is a leftover beside its old place.
    pub(crate) fn collect_dropped(self, age: Duration) -> Result<u64, Error> {
        let (mut collected, mut failure) = (0, Ok(()));
        for dropped in self.catalog.dropped()? {
            if older_than((0, dropped.dropped), age) != Some(true) {
                continue;
            }
            let token = &dropped.row.token;
            let place = self.place_of(&dropped);
            let aside = self.layout.trash().join(stage_name());
            let mut beside = None;
            let away = || match dropped.beside {
                false => discard(&place, &aside).context(Operation::DeleteDropped, || &place),
                // The database may be somebody else's, so only a tree with the token is removed.
                true if self.is_aside_at(&dropped.row, &place) => {
                    let moved = put_aside_beside(&place);
                    beside = Some(moved.context(Operation::DeleteDropped, || &place)?);
                    Ok(())
                }
                true => Ok(()),
            };
            match self.catalog.forget_dropped(token, away) {
                Ok(true) => collected += 1,
                Ok(false) => continue,
                Err(error) => {
                    failure = failure.and(Err(error));
                    continue;
                }
            }
            // The sweep removes what stays of these.
            let kept = self.layout.dropped_registration(token);
            let _ = discard(&kept, &self.layout.trash().join(stage_name()));
            self.remove_files(token);
            if let Some((dir, name)) = beside {
                let path = place.with_file_name(OsStr::from_bytes(name.as_bytes()));
                let removed = remove_tree(&dir, &name);
                failure = failure.and(removed.context(Operation::DeleteDropped, || path));
            }
        }
        collected += self.collect_strangers(age)?;
        failure.map(|()| collected)
    }

    /// Removes git's references that kept commits of worktrees which nothing brings back any more,
    /// in the project's repository and in those of its submodules. Returns how many there were.
    ///
    /// # Errors
    /// git could not be asked, or could not remove one. All that stay are tried the next time.
    pub(crate) fn expire_references(self, age: Duration) -> Result<u64, Error> {
        let Some(repository) = self.repository()? else { return Ok(0) };
        let dropped = self.catalog.dropped()?;
        let kept: Vec<&str> = dropped.iter().map(|it| it.row.name.as_str()).collect();
        let tree = TreeAndGitDir { root: &repository.root, git_dir: &repository.git_dir };
        let modules = all_below(tree, None).context(Operation::Read, || &repository.root)?;
        let mut removed = 0;
        for repository in modules.into_iter().map(|it| it.repository).chain([repository]) {
            removed += repository.expire_dropped(age, &kept).map_err(|failure| {
                Error::new(ErrorKind::Git, Operation::DeleteDropped, &repository.root, failure)
            })?;
        }
        Ok(removed)
    }

    /// Deletes what a crash left in the folder of dropped worktrees. The files that a worktree
    /// needs went back already, see `recover_dropped`.
    fn collect_strangers(self, age: Duration) -> Result<u64, Error> {
        let path = self.layout.dropped();
        let names = trash::entries(&path, age.max(KEPT)).context(Operation::Read, || &path)?;
        if names.is_empty() {
            return Ok(0);
        }
        let (rows, dropped) = (self.catalog.worktrees()?, self.catalog.dropped()?);
        let rows: Vec<&WorktreeRow> =
            rows.iter().chain(dropped.iter().map(|dropped| &dropped.row)).collect();
        let mut removed = 0;
        for name in names {
            let token = name.to_str().map(|name| name.strip_suffix(".git").unwrap_or(name));
            let of_nobody = |token: &&str| rows.iter().all(|row| row.token != *token);
            if token.filter(|token| is_token(token)).filter(of_nobody).is_some() {
                let aside = self.layout.trash().join(stage_name());
                removed += u64::from(discard(&path.join(&name), &aside).is_ok());
            }
        }
        Ok(removed)
    }
}

/// The new state of a `HEAD`.
enum NewHead {
    AsItIs,
    Commit(String),
    /// The branch that the drop deleted; at the commit if it cannot be made again.
    MadeAgain(DeletedBranch, String),
    /// A branch without a commit, as it was on one. Without a commit, no `HEAD` can be detached.
    Unborn(String),
    /// The commit that the project has checked out. git does not have the worktree's any more: its
    /// branch was deleted since, and the commit collected.
    Instead(String),
}

impl NewHead {
    /// Gives it to the tree at `place`, which has the registration `entry` again.
    fn give(
        &self,
        (place, token): (&Path, &str),
        repository: &Repository,
        entry: &Registration,
    ) -> Result<(), Failure> {
        match self {
            // git would give it to the tree's own repository.
            _ if !leads_to(place, entry) => Ok(()),
            Self::AsItIs => Ok(()),
            Self::Commit(commit) => git::detach(place, commit),
            Self::MadeAgain(branch, commit) => match repository.make_again(branch, token)? {
                true => Ok(()),
                false => git::detach(place, commit),
            },
            Self::Unborn(name) => git::to_unborn(place, name),
            Self::Instead(commit) => {
                git::detach(place, commit)?;
                // git does without the lost commits; only its fsck would complain.
                let _ = git::forget_lost_commits(place);
                // What was staged may be gone as well. The files have it.
                repository.read_index(entry)
            }
        }
    }
}

/// Whether a tree leads git to this registration.
fn leads_to(place: &Path, entry: &Registration) -> bool {
    git::leads_to(place).is_ok_and(|led| git::is_same(&led, &entry.folder))
}

fn is_folder(path: &Path) -> io::Result<bool> {
    Ok(std::fs::symlink_metadata(path).if_there()?.is_some_and(|it| it.is_dir()))
}

/// The first of `branch`, `branch-2`, `branch-3` … that neither exists nor is checked out in a
/// working tree.
fn free_for_unborn(repository: &Repository, branch: &str) -> Result<String, Failure> {
    let numbered = (2..=NAMES_MOST).map(|number| format!("{branch}-{number}"));
    let names: Vec<String> = std::iter::once(branch.to_owned()).chain(numbered).collect();
    let taken = repository.checked_out()?;
    for name in names.into_iter().filter(|name| !taken.contains(name)) {
        if repository.branches(&[&name])?.is_empty() {
            return Ok(name);
        }
    }
    Err(Failure::Refused(format!("{branch}, {branch}-2 and all that follow are taken")))
}

/// Moves a registration back to where the tree at `place` expects it, or to a free name.
fn put_registration(
    kept: &Path,
    place: &Path,
    repository: &Repository,
    name: &str,
) -> io::Result<PathBuf> {
    let folder = repository.registrations_folder();
    // git removes the folder with its last registration.
    std::fs::create_dir_all(&folder)?;
    let was = git::leads_to(place)
        .ok()
        .filter(|was| was.parent().is_some_and(|above| git::is_same(above, &folder)));
    let numbered = (1..NAMES_MOST).map(|number| format!("{name}{number}"));
    let names = std::iter::once(name.to_owned()).chain(numbered).map(|name| folder.join(name));
    for to in was.into_iter().chain(names) {
        match move_tree(kept, &to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // What stays there is collected with the row.
            moved => return moved.map(|_| to),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Renames something that may be gone already.
fn discard(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to).if_there().map(drop)
}

/// Gives a tree that is beside its old path a stage's name, and returns that with the folder. If it
/// is not deleted, the next sweep there does that.
fn put_aside_beside(place: &Path) -> io::Result<(OwnedFd, CString)> {
    let parent = place.parent().unwrap_or(Path::new("/"));
    let dir = fs::open(parent, DIR_FLAGS, Mode::empty())?;
    let (aside, old) = (CString::new(stage_name())?, place.file_name().unwrap_or_default());
    fs::renameat(&dir, old, &dir, &aside)?;
    staging::mark(&dir, &aside)?;
    Ok((dir, aside))
}

fn exists(path: &Path) -> Error {
    let cause = io::Error::new(io::ErrorKind::AlreadyExists, "something exists there already");
    Error::new(ErrorKind::DestinationExists, Operation::RestoreWorktree, path, cause)
}

pub(crate) fn not_dropped(name: &str) -> Error {
    let cause =
        io::Error::new(io::ErrorKind::NotFound, "no dropped worktree with this name is kept");
    Error::new(ErrorKind::WorktreeNotFound, Operation::FindWorktree, name, cause)
}

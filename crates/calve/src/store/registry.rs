//! The registry owns all state of worktrees. It makes the parts of a worktree, removes them and
//! recovers them together.
//!
//! | part | where | made by | removed by |
//! |---|---|---|---|
//! | the row | the catalog | [`claim`] | [`forget`] |
//! | the marker, which repeats the row's token | git's folder of the tree, or the tree ([`MarkPlace`]) | [`mark`] | it goes with that |
//! | which folder the tree is ([`identity`]), who made it, the roots that it names | `trees/TOKEN` | a start | [`forget`] |
//! | the index, or a ready tree's | `indexes/TOKEN` | [`write_index`], [`link_index`] | [`forget`] |
//! | the lock of the process that switches or drops the worktree | `locks/TOKEN` | [`lock`] | [`forget`] |
//! | what can be undone | `trees/TOKEN/undo`, or the tree ([`undo`](super::undo)) | a switch | [`forget`] |
//! | git's registration of a linked worktree | git's repository | [`register`] | [`forget`] |
//! | its branch, if calve made one | the same | [`register`] | stays unless the start fails |
//!
//! [`claim`]: Registry::claim
//! [`forget`]: Registry::forget
//! [`mark`]: Registry::mark
//! [`write_index`]: Registry::write_index
//! [`link_index`]: Registry::link_index
//! [`lock`]: Registry::lock
//! [`register`]: Registry::register
//!
//! # Nothing half-made
//! A start writes the row first ([`Claim`]). So if two starts want one name, the second one gets an
//! error. Then the start makes the tree under a stage's name, with its marker and its index. Then
//! the tree gets its name, and the start marks the row as ready.
//!
//! If the process that makes a worktree dies, the next process finishes the row when the tree got
//! its name, and removes the row when it did not ([`Registry::recover`]). The row's token
//! identifies everything that git was told to make for the row. A git process that was started for
//! a row holds the row's lock, so no process treats the row as abandoned while that git lives
//! ([`git`]). Files whose name is a token that no row has belong to no worktree, and
//! [`Registry::sweep`] removes them.
//!
//! # Gone at once
//! [`Registry::forget`] takes the folder away and deletes the row in one transaction. So a start
//! that finds its row gone takes its tree back. The files that are named after the token are
//! deleted afterwards; a crash leaves them to the sweep.
//!
//! A worktree that is dropped with work in it that nothing else has is set aside instead
//! ([`Registry::set_aside`]), and can be brought back ([`Registry::bring_back`]).

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs;

use super::catalog::{Catalog, DroppedRow, PROJECT, State, WorktreeRow};
use super::clock::now;
use super::files::{bytes_of, open_dir, path_from, read_plain};
use super::git::modules::Modules;
use super::git::{self, Registration};
use super::id::{SnapshotId, is_token};
use super::index::{self, Index};
use super::layout::{GIT, Layout, MADE_BY, READY_INDEX, project_around};
use super::locks;
use super::manifest::Manifest;
use super::marker::{MarkPlace, Marker, maker_text};
use super::ownership::{Believed, Owned, Role, must_be_believed_root};
use super::paths::Relocation;
use super::{trash, undo};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::across::rename_entry;
use crate::tree::running::Running;
use crate::tree::staging::{
    self, flush_filesystem, is_of_another_boot, maker_lives, stage_name, sync_folder, write_whole,
};
use crate::tree::{CloneOptions, clone_tree};

mod registrations;

mod dropped;
mod identity;
mod others;
pub(crate) mod pruned;
mod torn;

pub(crate) use dropped::{KEPT, not_dropped};
use pruned::HeadAgain;

/// If nothing can be known about the process that began a start, the start counts as dead only
/// after this many seconds.
const STRANGER_SECONDS: i64 = 60;

/// For how long a switch waits for a drop, and the other way round. The drop holds the lock while it
/// looks at the tree once more and writes to the database.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// For how long a lock is waited for that only a child just forked may have.
const FORK_PATIENCE: Duration = Duration::from_secs(2);

/// How many levels of folders calve goes up from a store and from a worktree, to find the worktree
/// where it was moved to. It looks at as many places as the square of this.
const MOVED_LEVELS_MOST: usize = 6;

/// The worktrees of a store. The project is one of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Registry<'a> {
    pub(super) layout: Layout<'a>,
    pub(super) catalog: &'a Catalog,
    pub(super) is_read_only: bool,
}

/// Worktrees that are being made. Unless they are [`finished`](Claim::finish), new ones are removed
/// again, with everything that was made for them.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    registry: Registry<'a>,
    rows: Vec<WorktreeRow>,
    goes_again: bool,
    is_finished: bool,
}

/// What [`Registry::follow_store`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowPlace {
    /// It is at its path, and its mark leads to the store.
    Marked,
    /// Its path is the one that was known. It need not be there.
    Known,
    /// The row got another path.
    Moved,
    /// Something else is at its path, and calve does not know where it is.
    Taken,
}

/// What became of a worktree that was taken away.
#[derive(Debug)]
pub(crate) struct Taken<T> {
    /// What took its folder away returned this.
    pub(crate) done: T,
    /// Parts of the worktree that stay although the worktree is gone.
    pub(crate) problems: Vec<Error>,
}

impl<'a> Registry<'a> {
    /// The root of a worktree, or of the project.
    pub(crate) fn root_of(self, row: &WorktreeRow) -> PathBuf {
        if row.name != PROJECT || !row.path.is_empty() {
            return path_from(&row.path);
        }
        // A store inside its project: both can be moved together.
        project_around(self.layout.0).to_owned()
    }

    /// Writes the rows of new worktrees, if all names are free.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeExists`]. Nothing was written.
    pub(crate) fn claim(self, mut rows: Vec<WorktreeRow>) -> Result<Claim<'a>, Error> {
        match self.catalog.claim(&mut rows)? {
            None => Ok(Claim { registry: self, rows, goes_again: true, is_finished: false }),
            Some((name, path)) => Err(name_taken(&name, &path)),
        }
    }

    /// A claim for the tree of a worktree that already has a row. The row stays whatever happens.
    pub(crate) fn claim_again(self, row: WorktreeRow) -> Claim<'a> {
        let row = WorktreeRow { state: State::Ready, target: None, ..row };
        Claim { registry: self, rows: vec![row], goes_again: false, is_finished: false }
    }

    /// The marker of a worktree, or of a project whose store is elsewhere.
    pub(crate) fn marker(self, row: &WorktreeRow) -> Marker {
        Marker { token: row.token.clone(), store: self.layout.0.to_owned() }
    }

    /// Marks the tree of a worktree, which is at `root` now, and notes which folder that is.
    pub(crate) fn mark(self, row: &WorktreeRow, root: &Path) -> io::Result<()> {
        let believed = self.believed();
        let mut place = MarkPlace::of_worktree(root);
        // The copy of another user's repository stays theirs, and a mark in it would not count.
        let folder = Owned::at(&place.folder);
        if folder.is_ok_and(|folder| believed.why_not(folder, Role::Mark).is_some()) {
            place = MarkPlace::in_tree(root);
        }
        self.marker(row).write(&place, believed)?;
        self.note_root(row, root)
    }

    /// Whose marks count for this store.
    pub(crate) fn believed(self) -> Believed {
        Believed::with_store(self.layout.0)
    }

    /// Notes who makes the tree of a worktree that is open, and the roots that its files name.
    pub(crate) fn note_tree(
        self,
        row: &WorktreeRow,
        root: &OwnedFd,
        roots: Option<&Relocation>,
    ) -> io::Result<()> {
        let folder = self.tree_folder(row)?;
        match maker_text(root)? {
            text if text.is_empty() => {}
            text => write_whole(&folder, &folder.join(MADE_BY), text.as_bytes())?,
        }
        roots.map_or(Ok(()), |roots| roots.write(&folder))
    }

    /// Whether the tree at `root` has the mark of a project with this token, of a user who is
    /// believed.
    ///
    /// # Errors
    /// The mark could not be read. A damaged mark is none.
    pub(crate) fn is_project_at(self, root: &Path, token: &str) -> Result<bool, Error> {
        match Marker::believed(&MarkPlace::of_project(root), self.believed()) {
            Ok(marker) => Ok(marker.is_some_and(|marker| marker.token == token)),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The mark of the tree at `root`, of a user who is believed.
    ///
    /// # Errors
    /// The mark could not be read, or is damaged.
    pub(crate) fn mark_at(self, root: &Path) -> Result<Option<Marker>, Error> {
        Marker::believed(&MarkPlace::of_worktree(root), self.believed())
    }

    /// Like [`find_mark`](Self::find_mark), but a marker that cannot be read counts as none.
    fn is_marked(self, row: &WorktreeRow) -> bool {
        self.find_mark(row).unwrap_or(false)
    }

    /// Whether the tree at the path of a row is that worktree: see [`identity`].
    ///
    /// # Errors
    /// The marker could not be read.
    pub(crate) fn find_mark(self, row: &WorktreeRow) -> Result<bool, Error> {
        self.is_tree_of(row, &path_from(&row.path))
    }

    /// Finds a worktree again if git moved it (`git worktree move`), or if it was moved together with
    /// the store, for example because a folder above both got another name. It looks for the
    /// worktree's marker where git says that the worktree is, and where it would be if its path to
    /// the store had stayed the same. If it is there, the row gets that path.
    pub(crate) fn follow_store(self, row: &mut WorktreeRow) -> Result<RowPlace, Error> {
        let known = path_from(&row.path);
        if self.is_read_only || row.name == PROJECT {
            return Ok(RowPlace::Known);
        }
        let is_gone = is_gone(&known);
        match self.mark_at(&known) {
            _ if is_gone => {}
            Ok(Some(marker)) if marker.token == row.token => {
                return Ok(match marker.store == self.layout.0 {
                    true => RowPlace::Marked,
                    false => RowPlace::Known,
                });
            }
            // Something else may have its place. That says only the registration of another tree.
            Ok(_) if row.git.is_some() && row.state != State::Starting => {
                if self.is_noted_root(row, &known) {
                    return Ok(RowPlace::Known);
                }
            }
            _ => return Ok(RowPlace::Known),
        }
        let believed = self.believed();
        // A folder at which calve cannot look is no worktree that it could use. The row stays, and
        // the worktree is missing.
        let entry = self.registration_of(row).ok().flatten();
        let is_it = |path: &PathBuf| {
            let marker = self.mark_at(path).ok().flatten();
            let is_marked =
                marker.is_some_and(|marker| marker.token == row.token && self.is_meant_by(&marker));
            let led = || entry.as_ref().is_some_and(|entry| self.led_before_a_move(path, entry));
            (is_marked || led())
                && must_be_believed_root(believed, path, Operation::UseWorktree).is_ok()
        };
        let by_git = entry.as_ref().and_then(|entry| entry.git_file.as_deref()?.parent());
        let places = by_git.map(Path::to_owned).into_iter();
        let mut places = places.chain(places_after_move(&known, self.layout.0));
        let Some(found) = places.find(is_it) else {
            return Ok(if is_gone { RowPlace::Known } else { RowPlace::Taken });
        };
        row.path = bytes_of(&found);
        self.set_path(row)?;
        Ok(RowPlace::Moved)
    }

    /// After the project or a linked worktree was moved, the worktree's `.git` file or its
    /// registration leads to the old place. This lets the two lead to each other again, and the
    /// worktree's submodules to their repositories. `was` is the path of the worktree when they
    /// last did. If that fails, git says what is wrong, as before. `Some` if git had pruned the
    /// registration and calve made it again.
    pub(crate) fn mend_git(self, row: &WorktreeRow, was: &Path) -> Option<HeadAgain> {
        if self.is_read_only || row.git.is_none() || row.state == State::Starting {
            return None;
        }
        let root = path_from(&row.path);
        let led = match git::leads_to(&root) {
            Ok(led) => led,
            Err(error) if git::is_absent(&error) => {
                return match self.lead_again(row, &root) {
                    true => None,
                    false => self.register_pruned(row).ok().flatten(),
                };
            }
            Err(_) => return None,
        };
        let is_project_moved = is_gone(&led);
        let project = || self.repository().ok().flatten();
        let folder = match is_project_moved {
            true => {
                led.file_name().zip(project()).map(|(id, it)| it.registrations_folder().join(id))
            }
            false => Some(led.clone()),
        };
        let entry = folder.and_then(|folder| Registration::read(folder).ok().flatten());
        let Some(mut entry) = entry.filter(|entry| !self.is_given_away(&root, entry)) else {
            // Whoever asks git about this worktree is told why that failed.
            return self.register_pruned(row).ok().flatten();
        };
        let is_wrong = entry.git_file.as_deref().is_some_and(is_gone)
            || is_project_moved && entry.is_of(&root);
        // Two worktrees took each other's places: what is where it was leads to another registration.
        let is_of_another = |tree: &Path| {
            git::leads_to(tree).is_ok_and(|other| !git::is_same(&other, &entry.folder))
        };
        let is_swapped = !is_wrong
            && !entry.is_of(&root)
            && entry.git_file.as_deref().and_then(Path::parent).is_some_and(is_of_another);
        if !is_wrong && !is_swapped {
            self.note_head(row, &entry);
            return None;
        }
        let is_ours = || self.is_marked(row) || self.is_registered_as(row, &entry);
        let project = project().filter(|_| is_ours())?;
        // git would also let the tree in the old place lead to this registration.
        let is_mended = match is_swapped {
            true => entry.point_at(&root).is_ok(),
            false => project.repair(&root).is_ok(),
        };
        if is_mended {
            self.note_head(row, &entry);
            let before = Modules::new(&project, was, &led);
            // Of a submodule that is not led anew git says what is wrong, as before.
            let _ = Modules::new(&project, &root, &entry.folder).lead_as(&before, &root);
        }
        None
    }

    /// A worktree's marker says where the store is. If the store was moved, and nothing is at the
    /// old place any more, this writes the new place into the marker. If that fails, the worktree
    /// is found by its name, as before.
    pub(crate) fn mend_marker(self, row: &WorktreeRow) {
        if self.is_read_only || row.name == PROJECT {
            return;
        }
        let place = MarkPlace::of_worktree(&path_from(&row.path));
        let believed = self.believed();
        let Ok(Some(marker)) = Marker::believed(&place, believed) else { return };
        let moved = marker.store != self.layout.0
            && std::fs::symlink_metadata(Layout(&marker.store).format())
                .is_err_and(|error| git::is_absent(&error));
        if marker.token != row.token || !moved {
            return;
        }
        let _ = self.marker(row).write(&place, believed);
    }

    /// Whether a marker that bears the token of a worktree of this store means this store, and not
    /// the store that this one is a copy of. A copy of a project with its store also copies the
    /// rows, but the worktrees remain those of the first store.
    pub(crate) fn is_meant_by(self, marker: &Marker) -> bool {
        let id = |store: &Path| {
            std::fs::symlink_metadata(Layout(store).format())
                .map(|found| (found.dev(), found.ino()))
        };
        marker.store == self.layout.0
            || match id(&marker.store) {
                // The marker reaches the store by another path, such as another mount.
                Ok(there) => id(self.layout.0).is_ok_and(|here| here == there),
                // The store was moved since.
                Err(error) => git::is_absent(&error),
            }
    }

    /// The index of a worktree, if the index is whole and belongs to `snapshot`, whose tree is
    /// `manifest`.
    pub(crate) fn index(
        self,
        token: &str,
        snapshot: SnapshotId,
        manifest: &Manifest,
    ) -> Option<Index> {
        let (path, count) = (self.layout.index(token), manifest.count);
        let bytes = read_plain(fs::CWD, &path, index::most_bytes(count)).ok()?;
        Index::decode(&bytes, count).ok().filter(|index| index.snapshot == snapshot)
    }

    pub(crate) fn write_index(self, token: &str, index: &Index) -> Result<(), Error> {
        let path = self.layout.index(token);
        let write = || write_whole(&self.layout.stage(), &path, &index.encode()?);
        write().context(Operation::WriteIndex, || &path)
    }

    /// Gives a worktree the index of the ready tree that its tree is a snapshot of. Without it the
    /// first look takes longer.
    pub(crate) fn link_index(self, token: &str, id: SnapshotId) -> io::Result<()> {
        let index = self.layout.index(token);
        let _ = std::fs::remove_file(&index);
        // The link is safe: an index is never written in place, only replaced.
        let ready = self.layout.ready_index(id);
        match std::fs::hard_link(&ready, &index) {
            // A sandbox lets nobody link from folder to folder.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                write_whole(&self.layout.stage(), &index, &std::fs::read(ready)?)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives a worktree the index that is in the folder in which its tree waited.
    pub(crate) fn take_index(self, token: &str, folder: &OwnedFd) -> Result<(), Error> {
        let path = self.layout.index(token);
        let taken = rename_entry(folder, READY_INDEX, fs::CWD, &path);
        taken.context(Operation::WriteIndex, || &path)
    }

    /// The folder with the undo data of a worktree, or of the project.
    pub(crate) fn undo_home(self, row: &WorktreeRow) -> PathBuf {
        undo::home(&self.root_of(row), self.layout.tree(&row.token))
    }

    /// The snapshots that an undo of a worktree needs.
    ///
    /// # Errors
    /// Those of [`undo::needs`].
    pub(crate) fn undo_needs(self, row: &WorktreeRow) -> Result<Vec<SnapshotId>, Error> {
        let store = (row.name == PROJECT && row.path.is_empty()).then_some(self.layout.0);
        undo::needs(&self.undo_home(row), store)
    }

    /// The snapshots that a dropped worktree needs, and an undo in it once it is back.
    ///
    /// # Errors
    /// Those of [`undo::needs`].
    pub(crate) fn dropped_needs(self, dropped: &DroppedRow) -> Result<Vec<SnapshotId>, Error> {
        let kept = self.layout.tree(&dropped.row.token);
        let mut needed = undo::needs(&undo::home(&self.place_of(dropped), kept), None)?;
        needed.extend(dropped.row.snapshot);
        Ok(needed)
    }

    /// The right to switch a worktree, or to drop it. `None`: another process has it and did not
    /// finish in time, or the operation is cancelled.
    pub(crate) fn lock(
        self,
        row: &WorktreeRow,
        operation: &Running,
    ) -> Result<Option<locks::Guard>, Error> {
        locks::alone(self.layout.0, &row.token, LOCK_PATIENCE, || operation.is_cancelled())
    }

    /// Like [`lock`](Self::lock), but waits only for a child that was just forked.
    fn lock_soon(self, row: &WorktreeRow) -> Result<Option<locks::Guard>, Error> {
        locks::alone(self.layout.0, &row.token, FORK_PATIENCE, || false)
    }

    /// Writes the snapshot that a worktree is based on, and whether the worktree is between that
    /// snapshot and another one.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if another process dropped the worktree meanwhile.
    pub(crate) fn set_state(self, row: &WorktreeRow) -> Result<(), Error> {
        if self.catalog.set_state(row)? { Ok(()) } else { Err(no_worktree(&row.name)) }
    }

    /// Writes the new path of a worktree that was moved.
    pub(crate) fn set_path(self, row: &WorktreeRow) -> Result<(), Error> {
        self.catalog.set_path(row)?;
        // Without it the mark alone says which tree this is.
        let _ = self.note_root(row, &path_from(&row.path));
        Ok(())
    }

    /// Forgets a worktree. `away` takes its folder away. If `away` returns something, this also
    /// removes the files that are named after the worktree's token and git's registration of the
    /// worktree. Its branch stays.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if another process dropped the worktree; the errors of
    /// `away`.
    pub(crate) fn forget<T>(
        self,
        row: &WorktreeRow,
        away: impl FnOnce() -> Result<Option<T>, Error>,
    ) -> Result<Option<Taken<T>>, Error> {
        let to = |at: usize| match at {
            0 => self.layout.trashed_registration(&row.token),
            _ => self.layout.stage().join(stage_name()),
        };
        let taken = self.take_away(row, to, away, |_| None)?;
        if taken.is_some() {
            self.remove_files(&row.token);
        }
        Ok(taken)
    }

    /// Takes a worktree's folder, its registrations and its row away, all or none. The registration
    /// with the number `n` is renamed to `to(n)`; unless that is in the folder of dropped worktrees,
    /// it is removed. If `kept` returns a row, the worktree can be brought back.
    fn take_away<T>(
        self,
        row: &WorktreeRow,
        to: impl Fn(usize) -> PathBuf,
        away: impl FnOnce() -> Result<Option<T>, Error>,
        kept: impl FnOnce(&T) -> Option<DroppedRow>,
    ) -> Result<Option<Taken<T>>, Error> {
        let (stage, dropped) = (self.layout.stage(), self.layout.dropped());
        let (root, registered) = (path_from(&row.path), self.registered(row)?);
        let mut aside = Vec::new();
        let taken = || {
            let done = away()?;
            if done.is_some() {
                // A registration on another filesystem cannot be put aside. It is removed, or
                // copied to its place, when the row is gone.
                let put = |(at, entry): (usize, &Registration)| entry.put_aside(to(at)).ok();
                aside.extend(registered.iter().enumerate().filter_map(put));
                // The row may reach the disk before the renames do. Then a power cut would leave a
                // folder that nobody knows, and that keeps its name.
                let registrations = registered.iter().map(|entry| &*entry.folder);
                for path in std::iter::once(&*root).chain(registrations) {
                    flush_above(path, self.layout.0).context(Operation::Flush, || path)?;
                }
            }
            Ok(done)
        };
        let done = match self.catalog.forget_worktree(&row.token, taken, kept) {
            Ok(Some(Some(done))) => done,
            not_done => {
                for entry in aside {
                    // If it cannot be registered again, that is worse than why it is not dropped.
                    let is = entry.path().to_owned();
                    entry.put_back().context(Operation::RegisterWorktree, || is)?;
                }
                return match not_done? {
                    None => Err(no_worktree(&row.name)),
                    Some(_) => Ok(None),
                };
            }
        };
        let mut problems = Vec::new();
        for entry in aside.into_iter().filter(|entry| !entry.is_in(&dropped)) {
            // git does not know it any more. What stays of it goes with the trash, or the stage.
            let _ = entry.remove();
        }
        for (at, entry) in registered.iter().enumerate() {
            let to = to(at);
            if to.starts_with(&dropped) && is_gone(&to) {
                // Without this copy the worktree comes back without its index and its `HEAD`.
                let copied = clone_tree(&entry.folder, &[&to], &CloneOptions::new());
                if let Err(error) = copied {
                    problems.push(error);
                    continue;
                }
            }
            let removed = entry.remove(&stage);
            problems.extend(removed.context(Operation::Unregister, || &entry.folder).err());
        }
        Ok(Some(Taken { done, problems }))
    }

    /// Forgets worktrees that have no tree. One whose registration cannot be removed keeps its row,
    /// and the next command tries again when the process that made it is dead.
    fn forget_unmade(self, rows: &[WorktreeRow]) -> Result<(), Error> {
        let mut failure = Ok(());
        let mut gone = Vec::with_capacity(rows.len());
        for row in rows {
            match self.take_back(row) {
                Ok(()) => gone.push(row.clone()),
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        self.catalog.forget_worktrees(&gone)?;
        for row in &gone {
            self.remove_files(&row.token);
        }
        failure
    }

    /// Removes the files of a worktree that has no row any more. What stays is swept: see
    /// [`Registry::sweep`].
    fn remove_files(self, token: &str) {
        let _ = std::fs::remove_file(self.layout.index(token));
        let _ = std::fs::remove_file(self.layout.keeps_paths(token));
        let _ = std::fs::remove_dir_all(self.layout.tree(token));
        let _ = std::fs::remove_file(self.layout.lock(token));
    }

    /// Forgets what the store knows of the files at the path of a row, where another tree will be.
    /// What stays is compared with that tree, as after any change.
    pub(crate) fn forget_tree(self, row: &WorktreeRow) {
        let _ = std::fs::remove_file(self.layout.index(&row.token));
    }

    /// Notes that a worktree keeps all paths that name the project.
    pub(crate) fn keep_paths(self, row: &WorktreeRow) -> io::Result<()> {
        match std::fs::create_dir(self.layout.all_keep_paths()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => std::fs::write(self.layout.keeps_paths(&row.token), ""),
        }
    }

    /// # Errors
    /// It could not be read. A guess would rewrite files that the user wants as they are.
    pub(crate) fn keeps_paths(self, row: &WorktreeRow) -> Result<bool, Error> {
        let path = self.layout.keeps_paths(&row.token);
        path.try_exists().context(Operation::Read, || &path)
    }

    /// Finishes or takes back the starts that killed processes left.
    pub(crate) fn recover(self) -> Result<(), Error> {
        if self.is_read_only {
            return Ok(());
        }
        for row in self.catalog.worktrees()? {
            if row.state != State::Starting || !self.is_given_up(&row) {
                continue;
            }
            // A git process that the dead start left may still be working on this worktree.
            let lock = if row.git.is_some() { self.lock_soon(&row)? } else { None };
            if row.git.is_some() && lock.is_none() {
                continue;
            }
            // A marker that cannot be read now says nothing. The next process looks again.
            let Ok(is_made) = self.find_mark(&row) else { continue };
            let Ok(is_healed) = self.heal_mark(&row) else { continue };
            if is_made || is_healed {
                self.heal_git(&row);
                self.stands(&row)?;
                self.catalog.finish_start(&row)?;
            } else {
                self.forget_unmade(std::slice::from_ref(&row))?;
            }
            // What the dead start had made of the tree is beside its place.
            path_from(&row.path).parent().inspect(|place| sweep_in(place));
        }
        self.recover_dropped()
    }

    /// Whether a process of this system is starting the worktree.
    pub(crate) fn is_being_started(self, row: &WorktreeRow) -> bool {
        row.state == State::Starting && maker_lives(&row.maker) == Some(true)
    }

    /// Whether the process that makes a worktree is dead.
    fn is_given_up(self, row: &WorktreeRow) -> bool {
        match maker_lives(&row.maker) {
            Some(lives) => !lives,
            // No process outlives its boot. But another machine may use the store through a server.
            None if is_of_another_boot(&row.maker)
                && Filesystem::of(self.layout.0).shared_memory =>
            {
                true
            }
            // The process cannot be seen from here. A process that works holds the store's lock,
            // except for a moment at its begin and at its end.
            None => {
                now().0.saturating_sub(row.created) > STRANGER_SECONDS
                    && locks::is_idle(self.layout.0)
            }
        }
    }

    /// Removes what dead starts left beside the places of worktrees.
    ///
    /// # Errors
    /// The worktrees could not be read.
    pub(crate) fn sweep_stages(self) -> Result<(), Error> {
        let rows = self.catalog.worktrees()?.into_iter().filter(|row| row.name != PROJECT);
        let places = rows.filter_map(|row| path_from(&row.path).parent().map(Path::to_owned));
        places.collect::<HashSet<_>>().iter().for_each(|place| sweep_in(place));
        Ok(())
    }

    /// Removes the files of worktrees that do not exist any more. Returns how many it removed.
    pub(crate) fn sweep(self, grace: Duration) -> Result<u64, Error> {
        // The files are listed before the rows are read: every row was written before its files.
        let mut found = Vec::new();
        let layout = self.layout;
        for path in [layout.indexes(), layout.locks(), layout.all_keep_paths(), layout.trees()] {
            // It is made for the first worktree that keeps all paths.
            let names =
                trash::entries(&path, grace).if_there().context(Operation::Read, || &path)?;
            let Some(names) = names else { continue };
            found.push((path, names));
        }
        let (rows, dropped) = (self.catalog.worktrees()?, self.catalog.dropped()?);
        let rows = rows.iter().chain(dropped.iter().map(|dropped| &dropped.row));
        let tokens: HashSet<&str> = rows.map(|row| row.token.as_str()).collect();
        let mut removed = 0;
        for (path, names) in found {
            // A file whose name does not look like a worktree's token is something else.
            let of_nobody = |name: &&str| is_token(name) && !tokens.contains(name);
            let of_nobody: Vec<&str> =
                names.iter().filter_map(|name| name.to_str()).filter(of_nobody).collect();
            if of_nobody.is_empty() {
                continue;
            }
            let dir = open_dir(&path)?;
            for name in of_nobody {
                // The next sweep tries again what this one cannot remove.
                let name = CString::new(name).unwrap_or_default();
                removed += u64::from(trash::remove_tree(&dir, &name).is_ok());
            }
        }
        Ok(removed)
    }
}

impl Claim<'_> {
    pub(crate) fn rows(&self) -> &[WorktreeRow] {
        &self.rows
    }

    /// Marks the worktrees as ready, all or none: their trees are there. A worktree that was
    /// dropped meanwhile stays dropped. If another process found a worktree at a path that it had
    /// been moved to, the worktree stays there.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if a worktree was dropped or moved so. None is marked.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        let Some(name) = self.registry.catalog.mark_ready(&self.rows)? else {
            (self.goes_again, self.is_finished) = (false, true);
            return Ok(());
        };
        let cause = io::Error::new(
            io::ErrorKind::NotFound,
            "another process dropped or moved it while it was being made",
        );
        Err(Error::new(ErrorKind::WorktreeNotFound, Operation::StartWorktree, name, cause))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // The start says why it failed. If this fails, too, the rows stay, and the next command
        // tries again: see `Registry::recover`.
        if self.goes_again {
            let _ = self.registry.forget_unmade(&self.rows);
        } else if !self.is_finished {
            self.rows.iter().for_each(|row| drop(self.registry.unregister_begun(row)));
        }
    }
}

/// Flushes the folder that the entry at `path` was in. If it may not be read, this flushes the
/// filesystem of the store.
fn flush_above(path: &Path, store: &Path) -> io::Result<()> {
    match fs::open(path.parent().unwrap_or(Path::new("/")), DIR_FLAGS, fs::Mode::empty()) {
        Ok(folder) => sync_folder(folder),
        Err(_) => flush_filesystem(fs::open(store, DIR_FLAGS, fs::Mode::empty())?),
    }
}

/// Removes what dead processes left in a folder around worktrees. What stays is removed later.
fn sweep_in(place: &Path) {
    let _ = open_dir(place).map(|place| staging::sweep(&place));
}

fn is_gone(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The folders in which a worktree that was at `known` may be, if the worktree was moved together
/// with the store, which is at `store` now. One of the folders above the store is then a folder
/// above the worktree, too, and the worktree's path below that folder is as before.
fn places_after_move<'a>(known: &'a Path, store: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    // The levels count from the project.
    let store = store.parent().filter(|git| git.ends_with(GIT)).unwrap_or(store);
    store.ancestors().skip(1).take(MOVED_LEVELS_MOST).flat_map(move |above| {
        let ends = known.ancestors().skip(1).take(MOVED_LEVELS_MOST);
        ends.filter_map(move |start| known.strip_prefix(start).ok().map(|end| above.join(end)))
    })
}

pub(crate) fn no_worktree(name: &str) -> Error {
    let cause = io::Error::new(io::ErrorKind::NotFound, "no worktree has this name");
    Error::new(ErrorKind::WorktreeNotFound, Operation::FindWorktree, name, cause)
}

pub(crate) fn name_taken(name: &str, path: &[u8]) -> Error {
    let cause = io::Error::new(
        io::ErrorKind::AlreadyExists,
        "a worktree with this name exists, or is being started",
    );
    Error::new(ErrorKind::WorktreeExists, Operation::StartWorktree, name, cause)
        .with_other(path_from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worktree_is_looked_for_where_its_path_to_the_store_would_be_the_same() {
        // Where the worktree was, where the store is now, where the worktree is, and whether calve
        // looks there.
        for (known, store, place, is_found) in [
            ("/a/app.worktrees/w", "/b/app/.calve", "/b/app.worktrees/w", true),
            ("/a/app.worktrees/w", "/b/c/d/app/.calve", "/b/c/d/app.worktrees/w", true),
            ("/a/app.worktrees/w", "/b/app/.git/calve", "/b/app.worktrees/w", true),
            ("/w/w", "/1/2/3/4/5/app/.git/calve", "/1/w", true),
            ("/a/b/c/app.worktrees/w", "/app/.calve", "/app.worktrees/w", true),
            ("/a/trees/w", "/b/code/app/.calve", "/b/trees/w", true),
            ("/a/app/trees/w", "/b/app/.calve", "/b/app/trees/w", true),
            ("/mnt/v/app/w", "/other/v/stores/app", "/other/v/app/w", true),
            ("/a/app.worktrees/w", "/b/app/.calve", "/b/w2", false),
            ("/a/1/2/3/4/5/6/w", "/b/app/.calve", "/b/1/2/3/4/5/6/w", false),
        ] {
            let places: Vec<_> = places_after_move(Path::new(known), Path::new(store)).collect();
            assert_eq!(places.contains(&PathBuf::from(place)), is_found, "{known}: {places:?}");
            assert!(places.len() <= MOVED_LEVELS_MOST * MOVED_LEVELS_MOST, "{known}");
        }
    }
}

//! Looks for the store of a folder, from the folder upwards.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::super::Store;
use super::super::catalog::{PROJECT, WorktreeRow};
use super::super::git::{self, Repository};
use super::super::home;
use super::super::layout::{self, Layout};
use super::super::marker::{FoundMark, MarkPlace, Marked, Marker};
use super::super::ownership::{self, Believed, Owned, Role};
use super::super::path_from;
use super::Discovered;
use crate::error::{Context as _, Error, ErrorKind, Operation};

/// A store that was found at a folder or above it, and was not opened yet.
pub(super) struct FoundStore {
    pub(super) root: PathBuf,
    pub(super) store: PathBuf,
    pub(super) by: FoundBy,
}

pub(super) enum FoundBy {
    /// The kind of the marker, and the marker.
    Mark(Marked, FoundMark),
    /// The store is in the root.
    Place,
    /// The store is in the repository of the root, which is a working tree.
    Git(Repository),
}

impl FoundStore {
    pub(super) fn marker(&self, of: Marked) -> Option<&FoundMark> {
        match &self.by {
            FoundBy::Mark(kind, seen) if *kind == of => Some(seen),
            _ => None,
        }
    }

    /// The worktree of a row, which has no mark that can be read.
    pub(super) fn by_row(store: &Store, row: &WorktreeRow) -> Result<Self, Error> {
        let root = path_from(&row.path);
        let owned = Owned::at(&root).map_err(|error| Error::io(Operation::LookAt, &root, error))?;
        let marker = store.registry().marker(row);
        let seen = FoundMark { marker, folder: owned, file: owned };
        let store = store.path().to_owned();
        Ok(Self { root, store, by: FoundBy::Mark(Marked::Worktree, seen) })
    }

    /// If the store that a mark names is gone, and the repository of the tree has one now that knows
    /// the mark's token, the repository was moved, with the store in it.
    pub(super) fn follow_moved_store(&mut self) -> Result<(), Error> {
        let FoundBy::Mark(of, seen) = &self.by else { return Ok(()) };
        let format = Layout(&self.store).format();
        if !std::fs::symlink_metadata(format).is_err_and(|error| git::is_absent(&error)) {
            return Ok(());
        }
        let Ok(Some(repository)) = git::read(&self.root) else { return Ok(()) };
        let moved = repository.common.join(layout::IN_GIT);
        if !Layout(&moved).has_store() || !home::is_led_back(&repository) {
            return Ok(());
        }
        must_be_ours(&moved)?;
        let rows = Store::open(&moved)?.catalog().worktrees()?;
        let is_project = matches!(of, Marked::Project);
        let is_it = |row: &WorktreeRow| {
            row.token == seen.marker.token && (row.name == PROJECT) == is_project
        };
        if rows.iter().any(is_it) {
            self.store = moved;
        }
        Ok(())
    }

    /// The store was found for `folder`. If that is in a worktree inside the project which has no
    /// mark, the worktree is meant, and not the project around it.
    pub(super) fn discovered(self, store: Store, folder: &Path) -> Result<Discovered, Error> {
        let token = self.marker(Marked::Worktree).map(|seen| seen.marker.token.clone());
        if token.is_none() {
            let start = std::fs::canonicalize(folder).context(Operation::Open, || folder)?;
            for row in store.catalog().worktrees()?.iter().filter(|row| row.name != PROJECT) {
                let path = path_from(&row.path);
                if path != self.root
                    && path.starts_with(&self.root)
                    && start.starts_with(&path)
                    && store.registry().find_mark(row)?
                {
                    let token = Some(row.token.clone());
                    return Ok(Discovered { store, root: path, token, is_only_gits: false });
                }
            }
        }
        let is_only_gits = matches!(self.by, FoundBy::Git(_)) && store.project()? != self.root;
        Ok(Discovered { store, root: self.root, token, is_only_gits })
    }

    /// Fails if the marker belongs to a user who is not believed.
    pub(super) fn must_be_believed(&self, believed: Believed) -> Result<(), Error> {
        let FoundBy::Mark(of, seen) = &self.by else { return Ok(()) };
        let Some(why) = seen.why_not(believed) else { return Ok(()) };
        let (operation, place) = match of {
            Marked::Worktree => (Operation::UseWorktree, MarkPlace::of_worktree(&self.root)),
            Marked::Project => (Operation::UseProject, MarkPlace::of_project(&self.root)),
        };
        Err(ownership::not(operation, &self.root, format!("its mark is not yours: {why}"))
            .with_other(place.folder))
    }

    /// The worktree or project whose store is missing.
    pub(super) fn operation(&self) -> Option<Operation> {
        match &self.by {
            FoundBy::Mark(Marked::Worktree, _) => Some(Operation::FindStoreOfWorktree),
            FoundBy::Mark(Marked::Project, _) => Some(Operation::FindStoreOfProject),
            FoundBy::Place | FoundBy::Git(_) => None,
        }
    }
}

pub(super) fn find(folder: &Path) -> Result<FoundStore, Error> {
    let start = std::fs::canonicalize(folder).context(Operation::Open, || folder)?;
    for root in start.ancestors() {
        let own = layout::own(root);
        let found = match found_by(Marked::Worktree, root) {
            Err(error) if error.kind() == ErrorKind::Damaged => match found_by_row(root)? {
                Some(found) => return Ok(found),
                None => return Err(error),
            },
            found => found?,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        let by_git = found_by_git(root)?;
        if Layout(&own).has_store() {
            return match by_git {
                // Neither may hide the other.
                Some(other) => {
                    let cause =
                        io::Error::other("the project has another store, in its repository");
                    let untrusted = ErrorKind::StoreUntrusted;
                    Err(Error::new(untrusted, Operation::UseStore, own, cause)
                        .with_other(other.store))
                }
                None => Ok(FoundStore { root: root.to_owned(), store: own, by: FoundBy::Place }),
            };
        }
        may_be_seen(&own)?;
        if let Some(found) = found_by(Marked::Project, root)?.or(by_git) {
            return Ok(found);
        }
        // As for git, a store above is not that of this worktree.
        if let Some(hidden) = hidden_project(root) {
            return found_by_row(root)?.ok_or(hidden);
        }
    }
    for root in start.ancestors() {
        if let Some(found) = found_by_row(root)? {
            return Ok(found);
        }
    }
    let cause = io::Error::new(
        io::ErrorKind::NotFound,
        "neither this folder nor any folder above it is a worktree or has a store",
    );
    Err(Error::new(ErrorKind::StoreNotFound, Operation::FindStore, start, cause))
}

/// The error for a worktree of git whose repository is not there: a sandbox may show the worktree and
/// hide its project.
pub(in crate::store) fn hidden_project(root: &Path) -> Option<Error> {
    let registration = git::leads_to(root).ok()?;
    let folder = registration.parent().filter(|folder| folder.ends_with("worktrees"))?;
    let looked = std::fs::symlink_metadata(&registration);
    let repository =
        folder.parent().filter(|_| looked.is_err_and(|error| git::is_absent(&error)))?;
    let why = "it is a worktree of that repository, which cannot be seen from here";
    let cause = io::Error::new(io::ErrorKind::NotFound, why);
    let operation = Operation::FindStoreOfWorktree;
    Some(Error::new(ErrorKind::StoreNotFound, operation, root, cause).with_other(repository))
}

fn found_by(of: Marked, root: &Path) -> Result<Option<FoundStore>, Error> {
    let found = |seen: FoundMark| {
        let store = seen.marker.store.clone();
        FoundStore { root: root.to_owned(), store, by: FoundBy::Mark(of, seen) }
    };
    let place = match of {
        Marked::Worktree => MarkPlace::of_worktree(root),
        Marked::Project => MarkPlace::of_project(root),
    };
    Ok(FoundMark::at(&place)?.map(found))
}

/// The store in the repository of the working tree at `root`, or in the bare repository that `root`
/// is.
fn found_by_git(root: &Path) -> Result<Option<FoundStore>, Error> {
    let is_bare = || !root.ends_with(layout::GIT) && git::is_repository(root);
    let repository = home::repository(root).context(Operation::Read, || git::git_of(root))?;
    let bare = || {
        let (root, git_dir, common) = (root.to_owned(), root.join(layout::GIT), root.to_owned());
        is_bare().then_some(Repository { root, git_dir, common })
    };
    let Some(repository) = repository.filter(home::is_led_back).or_else(bare) else {
        return Ok(None);
    };
    let store = repository.common.join(layout::IN_GIT);
    if !Layout(&store).has_store() {
        return may_be_seen(&store).map(|()| None);
    }
    // A worktree of calve may have lost its mark.
    if repository.is_linked()
        && let Some(found) = found_by_row(root)?
    {
        return Ok(Some(found));
    }
    Ok(Some(FoundStore { root: root.to_owned(), store, by: FoundBy::Git(repository) }))
}

/// The worktree at `root` if it has no mark that can be read: a power cut left the mark empty, or
/// the way to it, the `.git` file, is gone. This looks for the store where git's registration leads,
/// and where the usual places of worktrees belong to. A row of that store for this path must know
/// the tree. If a power cut took the mark, the worktree gets it again.
fn found_by_row(root: &Path) -> Result<Option<FoundStore>, Error> {
    let (mut stores, mut projects) = (Vec::new(), Vec::new());
    // The cut may have taken the `.git` file, too.
    if let Ok(Some(repository)) = git::read(root) {
        stores.push(repository.common.join(layout::IN_GIT));
        projects.extend(repository.common.parent().map(Path::to_owned));
    }
    if let Some(folder) = root.parent() {
        let name = folder.file_name().and_then(OsStr::to_str);
        if let Some(stem) = name.and_then(|name| name.strip_suffix(".worktrees")) {
            projects.push(folder.with_file_name(stem));
            stores.push(folder.with_file_name(format!("{stem}{}", layout::OWN)));
        }
        // Worktrees inside the project, or inside the store.
        stores.extend(folder.parent().map(Path::to_owned));
        projects.extend(folder.parent().and_then(Path::parent).map(Path::to_owned));
    }
    for project in projects {
        stores.push(layout::own(&project));
        stores.extend(home::store_in_git(&project).ok().flatten());
        let marker = Marker::read(&MarkPlace::of_project(&project));
        stores.extend(marker.ok().flatten().map(|marker| marker.store));
    }
    for store in stores {
        if !Layout(&store).has_store() || must_be_ours(&store).is_err() {
            continue;
        }
        let Ok(store) = Store::open(&store) else { continue };
        for mut row in store.catalog().worktrees()? {
            let registry = store.registry();
            registry.follow_store(&mut row)?;
            if path_from(&row.path) == root
                && (registry.heal_mark(&row).context(Operation::Mark, || root)?
                    || registry.find_mark(&row)?)
            {
                return FoundStore::by_row(&store, &row).map(Some);
            }
        }
    }
    Ok(None)
}

/// Fails if nobody can say whether there is a store in this folder, since the user may not look into
/// it. To go on without would call the store lost.
fn may_be_seen(store: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(Layout(store).format()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Error::io(Operation::UseStore, store, error))
        }
        _ => Ok(()),
    }
}

/// Refuses a store whose folder belongs to another user. If the folder is gone, the caller's
/// attempt to open it says so.
pub(super) fn must_be_ours(store: &Path) -> Result<(), Error> {
    let Ok(stat) = fs::stat(store) else { return Ok(()) };
    match Believed::user().why_not(Owned::of(&stat), Role::Mark) {
        Some(why) => {
            let why = format!("{why}, and you did not name it");
            Err(ownership::not(Operation::UseStore, store, why))
        }
        None => Ok(()),
    }
}

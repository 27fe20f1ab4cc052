//! The folder in which worktrees are made, and whether it shares blocks with the store.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::StartOptions;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::ReflinkOutcome;
use crate::store::layout::{self, OWN};
use crate::store::ownership::{Believed, Owned, Role, not};
use crate::store::{Store, home, is_refused, marker};

/// Tries the clones that a start needs.
pub(super) fn must_share(store: &Store, options: &StartOptions) -> Result<(), Error> {
    let (project, stage) = (store.project()?, store.layout().stage());
    // The default folder shares with the store if any can.
    let at = options.at.as_deref().unwrap_or(&stage);
    let is_there = |folder: &&Path| std::fs::metadata(folder).is_ok();
    let at = at.ancestors().find(is_there).unwrap_or(at);
    let taken = options.from.is_none().then_some((&*project, &*stage));
    for (from, to) in taken.into_iter().chain([(&*stage, at)]) {
        let probe = crate::reflink::probe_between(from, to).context(Operation::Reflink, || to)?;
        if probe.outcome != ReflinkOutcome::Cloned {
            let cause = probe.error.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
            let error = Error::new(ErrorKind::ReflinkRefused, Operation::Reflink, from, cause);
            return Err(error.with_other(to));
        }
    }
    Ok(())
}

/// Returns the folder in which worktrees are made, and makes it if it does not exist.
pub(super) fn worktrees_folder(store: &Store, at: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(at) = at {
        Store::must_be_outside(at.join("w")).map_err(|error| error.with_path(at))?;
        std::fs::create_dir_all(at).context(Operation::MakeFolder, || at)?;
        return std::fs::canonicalize(at).context(Operation::Open, || at);
    }
    let project = store.project()?;
    for beside in beside(&project, store.path()) {
        let parent = beside.parent().unwrap_or(&beside);
        if !shares_with(store, if beside.is_dir() { &beside } else { parent })? {
            continue;
        }
        match std::fs::create_dir_all(&beside) {
            Ok(()) => return must_be_ours(store, &project, &beside).map(|()| beside),
            Err(error) if is_refused(&error) => {}
            Err(error) => return Err(error).context(Operation::MakeFolder, || &beside),
        }
    }
    let inside = match home::is_in_git(store.path()) {
        // A working tree in git's own folder is one that many tools leave out.
        true => layout::worktrees_in(&hidden_folder(&project)?),
        false => store.layout().worktrees(),
    };
    std::fs::create_dir_all(&inside).context(Operation::MakeFolder, || &inside)?;
    Ok(inside)
}

/// Fails if another user made the folder of worktrees, or a link in its place: in a folder where
/// everybody may make entries, as `/tmp`, they could replace each worktree by a tree of theirs.
/// What belongs to the project's owner is in the right place.
fn must_be_ours(store: &Store, project: &Path, folder: &Path) -> Result<(), Error> {
    let look = || -> io::Result<Option<String>> {
        let (link, folder) = (Owned::at(folder)?, Owned::by(&std::fs::metadata(folder)?));
        let (believed, owner) = (Believed::with_store(store.path()), Owned::at(project)?.uid);
        let is_other = |entry: &Owned| entry.uid != owner;
        let mut others = [link, folder].into_iter().filter(is_other);
        Ok(others.find_map(|entry| believed.why_not(entry, Role::Mark)))
    };
    match look().context(Operation::LookAt, || folder)? {
        Some(why) => Err(not(Operation::MakeFolder, folder, why)),
        None => Ok(()),
    }
}

/// Whether trees in `folder` can share blocks with the store, as far as the place decides.
fn shares_with(store: &Store, folder: &Path) -> Result<bool, Error> {
    let ours = std::fs::metadata(store.path()).context(Operation::Read, || store.path())?;
    let look = || -> io::Result<bool> {
        // btrfs has a device number for each subvolume, and clones across subvolumes.
        if ours.dev() == std::fs::metadata(folder)?.dev() {
            return Ok(true);
        }
        let probe = crate::reflink::probe_between(store.layout().stage(), folder)?;
        Ok(probe.outcome == ReflinkOutcome::Cloned)
    };
    match look() {
        Err(error) if is_refused(&error) => Ok(false),
        result => result.context(Operation::LookAt, || folder),
    }
}

/// calve's own folder in the tree of the project, which git ignores.
fn hidden_folder(project: &Path) -> Result<PathBuf, Error> {
    let own = layout::own(project);
    std::fs::create_dir_all(&own).context(Operation::MakeFolder, || &own)?;
    marker::hide(&super::super::open_dir(&own)?).context(Operation::MakeFolder, || &own)?;
    Ok(own)
}

/// Folders for worktrees, the best one first: beside the project, and beside a store that is neither
/// inside the project nor inside a repository.
fn beside(project: &Path, store: &Path) -> Vec<PathBuf> {
    let worktrees = |beside: &Path, name: &OsStr| {
        let mut name = name.to_owned();
        name.push(".worktrees");
        beside.with_file_name(name)
    };
    let of_project = project.file_name();
    let mut folders: Vec<PathBuf> =
        of_project.map(|name| worktrees(project, name)).into_iter().collect();
    if !store.starts_with(project)
        && !home::is_in_git(store)
        && let Some(name) = store.file_name()
    {
        let stem = match name.as_bytes().strip_suffix(OWN.as_bytes()) {
            Some(b"") => of_project.unwrap_or(name),
            Some(stem) => OsStr::from_bytes(stem),
            None => name,
        };
        folders.push(worktrees(store, stem));
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worktrees_are_beside_the_project_or_beside_a_store_that_is_elsewhere() {
        for (project, store, expected) in [
            ("/home/app", "/home/app/.calve", &["/home/app.worktrees"][..]),
            ("/home/app", "/home/app/d/store", &["/home/app.worktrees"]),
            ("/home/app", "/vol/app-2.calve", &["/home/app.worktrees", "/vol/app-2.worktrees"]),
            ("/home/app", "/vol/a.b", &["/home/app.worktrees", "/vol/a.b.worktrees"]),
            ("/home/app", "/vol/x/.calve", &["/home/app.worktrees", "/vol/x/app.worktrees"]),
            ("/", "/.calve", &[]),
        ] {
            let got = beside(Path::new(project), Path::new(store));
            let expected: Vec<&Path> = expected.iter().map(Path::new).collect();
            assert_eq!(got, expected, "{project} {store}");
        }
    }
}

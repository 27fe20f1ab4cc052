//! Finds what the words of a command line mean: which store, which worktree, which snapshot.
//!
//! The store is the one of `--store` or `CALVE_STORE`, else the one that the current folder belongs
//! to. If no worktree is named, it is the one that contains the current folder, at any depth. A
//! path names a worktree only if it is the worktree's root: `drop src/` means that folder, and not
//! the tree around it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calve::{
    Discovered, ErrorKind, HeadAgain, Progress, SnapshotId, Store, StoreOptions, Worktree,
};

use crate::common::Common;
use crate::failure::stored::{no_worktree, own, store_failure};
use crate::failure::{Failure, Kind};
use crate::hints;
use crate::output::Output;
use crate::places;
use crate::progress::{self, Total, Watched};
use crate::similar;
use crate::system::Signals;
use crate::text::{harmless, short};

/// One run of a command.
#[derive(Clone, Copy)]
pub(crate) struct Session<'a> {
    pub(crate) common: &'a Common,
    pub(crate) output: Output,
    pub(crate) signals: &'a Signals,
}

impl Session<'_> {
    /// Does `work` with the options of the common flags, and shows a bar if somebody watches.
    pub(crate) fn work<T>(
        &self,
        total: Total<'_>,
        work: impl FnOnce(&StoreOptions) -> Result<T, calve::Error>,
    ) -> Result<T, calve::Error> {
        let cancel = self.signals.cancel();
        let progress = Arc::new(Progress::default());
        let mut options = StoreOptions::new().cancel(&cancel).progress(&progress);
        if let Some(jobs) = self.common.jobs {
            options = options.jobs(jobs);
        }
        if !self.output.wants_bar() {
            return work(&options);
        }
        let watched = Watched { progress: &progress, cancel: &cancel, total };
        progress::shown_while(&watched, || work(&options))
    }

    /// The snapshot that `word` means. If the word may mean two snapshots, says which one calve
    /// takes.
    pub(crate) fn resolve(&self, store: &Store, word: &str) -> Result<SnapshotId, Failure> {
        let id = store.resolve(word).map_err(|error| {
            let failure = store_failure(&error);
            match error.kind() {
                ErrorKind::SnapshotNotFound => failure.meant(&similar::snapshots(store, word)),
                _ => failure,
            }
        })?;
        self.warn_of_namesake(store, word, id);
        Ok(id)
    }

    /// Warns if the name of a snapshot is also the start of another snapshot's id. Never fails.
    pub(crate) fn warn_of_namesake(&self, store: &Store, name: &str, of: SnapshotId) {
        let ids = store.ids_that_start_with(name).unwrap_or_default();
        if let Some(other) = ids.into_iter().find(|id| *id != of) {
            self.output.warning(format_args!(
                "{name} is the name of snapshot {}, and the start of the id {}: calve takes the name; to mean the \
                 id, give more digits",
                short(of),
                short(other)
            ));
        }
    }

    /// A hint is pasted into a shell, for which `-C` and `--store` do not hold. `is_near`: the
    /// store was found from the current folder.
    fn hints_are_about(&self, store: &Store, is_near: bool) {
        let variable_holds = self.common.store.is_none() && self.common.store().is_some();
        let is_found = variable_holds || is_near && self.common.directory.is_none();
        hints::are_about(store, is_found.then_some(true));
    }

    fn current(&self) -> PathBuf {
        self.common.resolve(Path::new("."))
    }

    /// The store.
    pub(crate) fn store(&self) -> Result<Store, Failure> {
        let place = match self.common.store() {
            Some(path) => {
                let store = Store::open(path)?;
                self.know_again(&store);
                self.hints_are_about(&store, false);
                return Ok(store);
            }
            None => Store::discover(self.current())?,
        };
        self.hints_are_about(&place.store, true);
        match know_again(&place) {
            // A name would mean a worktree beside the original.
            Err(error) if error.kind() == ErrorKind::Overlap => Err(store_failure(&error)),
            _ => Ok(place.store),
        }
    }

    /// The store of which a start makes worktrees. If the root of a git repository has none, calve
    /// makes one there.
    pub(crate) fn store_to_start_from(&self) -> Result<Store, Failure> {
        if self.common.store().is_none() {
            let place = match Store::discover(self.current()) {
                // A mark or a pointer that leads nowhere has a story of its own.
                Err(error)
                    if error.kind() == ErrorKind::StoreNotFound && error.other_path().is_none() =>
                {
                    match places::without_store(&self.current()) {
                        Some(root) => return self.new_store(&root),
                        None => {
                            return Err(places::no_store_here(
                                store_failure(&error),
                                &self.current(),
                            ));
                        }
                    }
                }
                place => place?,
            };
            let here = Some(&*place.root).filter(|_| place.is_only_gits());
            places::must_have_project(&place.store, here)?;
            places::must_not_be_in_another_repository(&self.current(), &place)?;
        }
        let store = self.store()?;
        places::must_have_project(&store, None)?;
        Ok(store)
    }

    /// Whether the current folder is in a working tree of git that is no worktree of the store.
    pub(crate) fn is_in_tree_of_git_alone(&self) -> bool {
        Store::discover(self.current()).is_ok_and(|place| place.is_only_gits())
    }

    /// The name and the root of the worktree that git or another tool made, and no command has
    /// worked on yet, at this path or around the current folder. Nothing is changed.
    pub(crate) fn only_gits(&self, word: Option<&Path>) -> Option<(String, PathBuf)> {
        let path = word.map_or_else(|| self.current(), |word| self.common.resolve(word));
        let path = canonical(&path).ok()?;
        let place = match self.common.store() {
            Some(store) => Store::open(store).and_then(|store| store.find(&path)),
            None => Store::discover(&path),
        };
        let place = place.ok().filter(|it| it.is_only_gits())?;
        if word.is_some() && place.root != path {
            return None;
        }
        let is_it = |it: &calve::GitWorktree| canonical(&it.path).is_ok_and(|it| it == place.root);
        let found = place.store.worktrees_of_git().ok()?.into_iter().find(is_it)?;
        Some((found.name, found.path))
    }

    fn new_store(&self, root: &Path) -> Result<Store, Failure> {
        places::must_be_meant(root)?;
        let made = match Store::init(root) {
            // Another start was faster.
            Err(error) if error.kind() == ErrorKind::StoreExists => return self.store(),
            made => made?,
        };
        self.output.summary(format_args!("made a store for {}", crate::text::shown(root)));
        if let Some(line) = places::not_in_git(&made) {
            self.output.summary(line);
        }
        if let Some(warning) = places::on_one_machine(&made) {
            self.output.warning(warning);
        }
        Ok(made)
    }

    /// Finds a worktree that was moved. calve knows its new path as soon as any command runs in it.
    fn know_again(&self, store: &Store) {
        if let Ok(place) = store.find(self.current()) {
            // The store was named, whatever the current folder is.
            let _ = know_again(&place);
        }
    }

    /// The worktree, or the project, that contains the current folder.
    pub(crate) fn here(&self) -> Result<Worktree, Failure> {
        let current = self.current();
        let Some(given) = self.common.store() else {
            let place = Store::discover(&current)?;
            self.hints_are_about(&place.store, true);
            return Ok(place.worktree()?);
        };
        let store = Store::open(given)?;
        self.hints_are_about(&store, false);
        let current = canonical(&current)?;
        let project = store.project()?;
        match store.find(&current) {
            Ok(place) if place.store.path() == store.path() => place.worktree(),
            // The current folder is in another project, which is inside this one.
            Ok(place) if place.root != project && place.root.starts_with(&project) => {
                return Err(not_of_it(&current));
            }
            Err(error) if error.kind() == ErrorKind::StoreUntrusted => {
                return Err(not_of_it(&current));
            }
            // A store elsewhere may leave no trace in its project, which may be read-only.
            _ if current.starts_with(&project) => store.project_worktree(),
            _ => return Err(not_of_it(&current)),
        }
        .map_err(Failure::from)
    }

    /// The store, and the base snapshot of the worktree, or project, that contains the current
    /// folder.
    pub(crate) fn snapshot_here(&self) -> Result<(Store, SnapshotId), Failure> {
        let worktree = match self.here() {
            // If the user names a store, the current folder may be anywhere.
            Err(failure) if failure.kind == Kind::Library(ErrorKind::WorktreeNotFound) => {
                self.store()?.project_worktree()?
            }
            here => here?,
        };
        let id = worktree.snapshot().ok_or_else(|| {
            own(
                "find snapshot of",
                worktree.path(),
                ErrorKind::SnapshotNotFound,
                "it has no snapshot yet",
                "'calve snapshot' takes the first one",
            )
        })?;
        Ok((worktree.store().clone(), id))
    }

    /// The worktree with this name, or else at this path. Without a word, the one that contains the
    /// current folder.
    pub(crate) fn worktree(&self, word: Option<&Path>) -> Result<Worktree, Failure> {
        let worktree = match word.map(|word| (name(word), word)) {
            None => self.here(),
            Some((Some(name), word)) => self.named(name, word),
            Some((None, word)) => self.at(&self.common.resolve(word)),
        }?;
        self.tell_registered_again(&worktree);
        Ok(worktree)
    }

    /// The worktrees with these names or at these paths, each once.
    pub(crate) fn worktrees(&self, words: &[PathBuf]) -> Result<Vec<Worktree>, Failure> {
        let mut worktrees: Vec<Worktree> = Vec::new();
        for word in words {
            let worktree = self.worktree(Some(word))?;
            if worktrees.iter().all(|other| other.path() != worktree.path()) {
                worktrees.push(worktree);
            }
        }
        Ok(worktrees)
    }

    /// Says that git had forgotten a worktree.
    pub(crate) fn tell_registered_again(&self, worktree: &Worktree) {
        let head = match worktree.registered_again() {
            None => return,
            Some(HeadAgain::Detached) => {
                "with its HEAD detached: the branch that it was on is checked out elsewhere, is at another commit or is \
                 gone; 'git switch -c BRANCH' there makes another one"
            }
            Some(_) => "where its HEAD was seen last",
        };
        self.output.summary(format_args!(
            "{}: git had pruned its registration; calve registered it again, {head}",
            harmless(worktree.name())
        ));
    }

    fn named(&self, name: &str, word: &Path) -> Result<Worktree, Failure> {
        let path = self.common.resolve(word);
        let is_folder = path.is_dir();
        let store = match self.store() {
            Ok(store) => store,
            // Outside of any project the word can only be a path.
            Err(_) if is_folder && self.common.store().is_none() => return self.at(&path),
            Err(failure) => return Err(failure),
        };
        match store.worktree(name) {
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => {
                match of_git(&store, name)? {
                    // The store knows it from now on.
                    Some(other) if other.is_dir() => self.at(&other),
                    None if is_folder => self.at(&path),
                    Some(gone) => Ok(store.adopt(&gone)?),
                    None => Err(store_failure(&error).meant(&similar::worktrees(&store, name))),
                }
            }
            found => Ok(found?),
        }
    }

    /// The worktree that `start` made if this path was the word for its branch: `feat-x` for
    /// `feat/x`.
    fn of_branch(&self, path: &Path) -> Option<String> {
        let word = path.strip_prefix(self.common.resolve(Path::new("."))).unwrap_or(path);
        let name = word.to_str()?.replace('/', "-");
        let store = self.store().ok()?;
        store.worktree(&name).is_ok().then(|| harmless(&name).into_owned())
    }

    fn at(&self, path: &Path) -> Result<Worktree, Failure> {
        let root = match canonical(path) {
            // A worktree that was deleted by hand is still known by its path.
            Err(failure) if failure.kind == Kind::Library(ErrorKind::SourceNotFound) => {
                return self.missing(&absolute(path)?).map(|worktree| {
                    worktree.ok_or_else(|| {
                        let found = no_worktree(path, "nothing is there, and no worktree was");
                        match self.of_branch(path) {
                            Some(name) => found.meant(&[name]),
                            None => found,
                        }
                    })
                })?;
            }
            root => root?,
        };
        let given = match self.common.store() {
            Some(store) => Some(Store::open(store)?),
            None => None,
        };
        let is_given = |store: &Store| given.as_ref().is_none_or(|it| it.path() == store.path());
        let found = match &given {
            Some(store) => store.find(&root),
            None => Store::discover(&root),
        };
        match &found {
            Ok(place) if place.root == root && is_given(&place.store) => {
                self.know_again(&place.store);
                self.hints_are_about(&place.store, false);
                return Ok(place.worktree()?);
            }
            _ => {}
        }
        if let Some(store) = &given
            && store.project().is_ok_and(|project| project == root)
        {
            return Ok(store.project_worktree()?);
        }
        // Something else may be at the path of a worktree. Then the worktree is missing, and says
        // so itself.
        if let Ok(Some(worktree)) = self.missing(&root) {
            return Ok(worktree);
        }
        match found {
            // The store that the marker names is missing, or calve found no store.
            Err(error)
                if error.kind() != ErrorKind::StoreNotFound || error.other_path().is_some() =>
            {
                Err(store_failure(&error))
            }
            Ok(place) if is_given(&place.store) => Err(no_worktree(
                path,
                "it is a folder inside a worktree or project, and not its root",
            )
            .hinted(format!("name its root instead: {}", crate::text::shell_word(&place.root)))),
            _ => Err(no_worktree(path, "it is neither a worktree nor a project")),
        }
    }

    /// The worktree that the store knows at `path`, or that git knows there if nothing is there.
    fn missing(&self, path: &Path) -> Result<Option<Worktree>, Failure> {
        let store = self.store()?;
        let known = store.worktrees()?;
        let known = known.into_iter().find(|worktree| worktree.path() == path);
        if known.is_some() || std::fs::symlink_metadata(path).is_ok() {
            return Ok(known);
        }
        let of_git = store.worktrees_of_git()?;
        match of_git.iter().any(|it| it.path == path) {
            true => Ok(Some(store.adopt(path)?)),
            false => Ok(None),
        }
    }
}

/// The worktree of git, which calve did not make, that `list` shows under this name: that of its
/// registration, or the last part of its path if a worktree of calve has that one.
pub(crate) fn of_git(store: &Store, name: &str) -> Result<Option<PathBuf>, Failure> {
    let others = store.worktrees_of_git()?;
    // One of calve's may have the name of its registration.
    let by_folder = |other: &&calve::GitWorktree| {
        other.path.ends_with(name) && store.worktree(&other.name).is_ok()
    };
    let found = others.iter().find(|other| other.name == name);
    Ok(found.or_else(|| others.iter().find(by_folder)).map(|it| it.path.clone()))
}

/// Tells the library that the worktree is at this path now. A copy, or a worktree that its store
/// forgot, is an error.
fn know_again(place: &Discovered) -> Result<(), calve::Error> {
    if place.is_worktree() {
        place.worktree()?;
    }
    Ok(())
}

/// The name that `word` may be. `None` if it can only be a path.
pub(crate) fn name(word: &Path) -> Option<&str> {
    let is_path = |word: &OsStr| {
        let bytes = word.as_encoded_bytes();
        bytes.contains(&b'/') || [&b"."[..], b".."].contains(&bytes)
    };
    word.to_str().filter(|_| !is_path(word.as_os_str()))
}

fn not_of_it(current: &Path) -> Failure {
    no_worktree(current, "this folder does not belong to that store")
        .hinted("name a worktree ('calve list' lists them), or use neither --store nor CALVE_STORE")
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    std::fs::canonicalize(path)
        .map_err(|error| Failure::io("find worktree", vec![path.to_owned()], &error))
}

/// The path by which calve knew a folder that is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let failure = |error: io::Error| Failure::io("find worktree", vec![path.to_owned()], &error);
    let absolute = std::path::absolute(path).map_err(failure)?;
    Ok(match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => match std::fs::canonicalize(parent) {
            Ok(parent) => parent.join(name),
            Err(_) => absolute,
        },
        _ => absolute,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_a_slash_or_of_dots_is_a_path_and_anything_else_may_be_a_name() {
        for (word, expected) in [
            ("fix-1", Some("fix-1")),
            ("...", Some("...")),
            ("größe", Some("größe")),
            (".", None),
            ("..", None),
            ("./fix-1", None),
            ("fix-1/", None),
            ("/fix-1", None),
        ] {
            assert_eq!(name(Path::new(word)), expected, "{word}");
        }
    }
}

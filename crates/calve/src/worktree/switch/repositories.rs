//! Repositories of git inside a tree, in a plan that overwrites changes by hand.
//!
//! A snapshot has such a repository as it was: its files, with its `.git`. If a restore brought an
//! older `.git` back, no reference would lead to commits that were made since. What was moved aside
//! is deleted by the next restore, and nobody would know of the commits any more. So the plan treats
//! such a repository as it treats that of the tree itself: its working tree gets the snapshot's
//! files, and the repository stays as it is. git then lists the difference as uncommitted changes.
//!
//! That is so only if the repository was changed by hand and has commits that no branch of a remote
//! holds, or linked worktrees elsewhere. Every other one becomes as the snapshot has it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::undo::Undo;
use crate::store::bring::plan::{Moves, Trees};
use crate::store::git::{self, Repository};
use crate::store::layout::REPOSITORY;

/// git writes it when it only looks. Without other changes, nothing in a repository is new.
const INDEX: &str = "index";

/// Takes repositories out of the plan that would lose commits. If git cannot say it, they stay, too.
/// One in whose place the target has a file goes as planned, and so does one to which an undo brings
/// files back: there, changes by hand are conflicts.
pub(super) fn leave_repositories(
    trees: &Trees<'_>,
    root: &Path,
    undo: Option<&Undo>,
    moves: &mut Moves,
) {
    for path in changed_repositories(trees, moves) {
        let is_in = |it: &PathBuf| it.starts_with(&path);
        let gives_back = undo.is_some_and(|undo| {
            let back = undo.record.deleted.iter().chain(&undo.aside.files);
            back.chain(&undo.aside.directories).any(is_in)
        });
        let is_in_the_way = path.ancestors().any(|above| moves.put.contains_key(above));
        if !gives_back && !is_in_the_way && would_lose_commits(&root.join(&path)) {
            leave(&path, moves);
        }
    }
}

/// The repositories in which something would be overwritten that was changed by hand. None is inside
/// another one.
fn changed_repositories(trees: &Trees<'_>, moves: &Moves) -> BTreeSet<PathBuf> {
    let has = |path: &Path| trees.find(trees.now, path).is_some();
    let is_repository = |folder: &Path| {
        !folder.as_os_str().is_empty() && REPOSITORY.iter().all(|name| has(&folder.join(name)))
    };
    let mut known: HashMap<&Path, Option<&Path>> = HashMap::new();
    let mut found = BTreeSet::new();
    for path in &moves.by_hand {
        let is_moved = moves.conflicts.contains(path)
            || moves.put.contains_key(path)
            || moves.remove.contains(path)
            || moves.mend.contains_key(path);
        let Some(folder) = path.parent().filter(|_| is_moved) else { continue };
        let repository = *known.entry(folder).or_insert_with(|| {
            // The outermost: a submodule's repository is in the one above it.
            folder.ancestors().filter(|above| is_repository(above)).last()
        });
        let is_index = |it: &&Path| path.parent() == Some(it) && path.ends_with(INDEX);
        found.extend(repository.filter(|it| !is_index(it)).map(Path::to_owned));
    }
    found
}

fn would_lose_commits(git_dir: &Path) -> bool {
    let held = Repository::of_module(git_dir).unheld_but_by(None, None, 1);
    let elsewhere = git::worktrees_outside(git_dir, git_dir, None);
    !(held.is_ok_and(|unheld| unheld.commits.is_empty())
        && elsewhere.is_ok_and(|trees| trees.is_empty()))
}

/// Takes all that is in the folder at `path` out of the plan, and the folders to it.
fn leave(path: &Path, moves: &mut Moves) {
    let is_out = |it: &PathBuf| !it.starts_with(path);
    let given = moves.put.keys().chain(moves.mend.keys()).chain(moves.directories.keys());
    let left: Vec<PathBuf> = given.filter(|it| it.starts_with(path)).cloned().collect();
    // The target's index must not vouch for them.
    moves.by_hand.extend(left);
    moves.put.retain(|it, _| is_out(it));
    moves.mend.retain(|it, _| is_out(it));
    moves.directories.retain(|it, _| is_out(it));
    for paths in [&mut moves.remove, &mut moves.conflicts, &mut moves.hidden, &mut moves.linked] {
        paths.retain(is_out);
    }
    // A folder stays with what is in it.
    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        moves.remove.remove(above);
        moves.conflicts.remove(above);
    }
    moves.left.push(path.to_owned());
}

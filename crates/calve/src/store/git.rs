//! Everything that calve asks of git, through the `git` program. calve leaves to git what belongs
//! to git.
//!
//! git itself finds a project's repository, from the project's root. So git's own rules hold: who
//! may own the repository (`safe.directory`), and what its files mean. Of these files, calve itself
//! reads and writes only those that gitrepository-layout(5) documents for linked worktrees:
//! `worktrees/ID/gitdir` (the path of the worktree's `.git` file), `worktrees/ID/locked` (the
//! reason why the worktree must not be pruned), `commondir`, and the `.git` file. It also reads
//! `HEAD`, to note the branch of a snapshot. It has its own folder `calve` in the repository, with the
//! store.
//!
//! # A linked worktree that is whole or absent
//! `git worktree add` registers a worktree and makes its folder. It makes these parts in this
//! order: `ID`, `locked`, the folder, `gitdir`, `.git`, `HEAD`. calve has git do so at a temporary
//! place ([`Repository::add`]). The last name of that place is the worktree's name, because git
//! names the registration after it. Meanwhile calve makes the tree. Before the tree gets its name,
//! calve puts the `.git` file into it and writes the path that the tree will have into `gitdir`
//! ([`Registration::point_at`]).
//!
//! git's own command for this, `git worktree repair`, works only once the tree is in its place.
//! With that command, the published tree would for a moment not be a worktree of git, and a crash
//! in that moment would leave it so. The lock is removed last, when the tree is in its place
//! ([`Registration::unlock`]).
//!
//! The lock's reason contains the worktree's token, and so does the first reflog entry of a branch
//! that calve makes. So calve recognizes what a killed calve left, and never takes back anything
//! else.

use std::path::{Path, PathBuf};

use super::layout::REPOSITORY;

pub use self::ask::git_under_way;
pub(crate) use self::ask::{Tree, identity, is_absent, is_same, tracked_from_above};
pub(crate) use self::held::{Commit, Tips, staged_in};
pub(crate) use self::registration::{
    COMMONDIR, OwnFolders, Registration, Resolver, folder_of, leads_nowhere, leads_to,
    registration_folders, registrations, worktrees_inside, worktrees_outside,
};
pub(crate) use self::repository::{
    Branch, Found, HeadMark, NO_COMMIT, Onto, Refs, Repository, branch_at, branch_in,
    can_be_a_branch, detach, differ_by_tree, find, forget_lost_commits, has_files_of, head_mark,
    is_no_commit, other_settings, read, settings_in, to_unborn, works_as_a_copy,
};
pub(crate) use self::run::{Failure, Git};
pub use self::run::{GIT_VARIABLES, output_of, why_git_did_not_run};
pub(crate) use self::work::{
    EditsSince, Head, NotTracked, Work, all_tracked, heads_in, ignored_of, not_tracked_but_matched,
    not_tracked_in, whole_work_in, work_beside, work_in,
};

mod ask;
pub(crate) mod branch;
pub(crate) mod checkout;
mod contents;
pub(crate) mod conversions;
mod held;
pub(crate) mod modules;
mod registration;
mod remotes;
mod repository;
mod run;
#[cfg(test)]
mod tests;
pub(crate) mod torn;
mod work;

/// Every path is shorter than this, on every system.
const PATH_MOST_BYTES: u64 = 64 * 1024;

/// The file or folder at the root of a working tree that leads git to its repository.
pub(crate) fn git_of(root: &Path) -> PathBuf {
    root.join(".git")
}

/// Whether a folder is a repository of git, or inside one: a `.git`, or a bare one. A working tree
/// may be there, too, and what is in that is not meant.
pub(crate) fn is_in_repository(folder: &Path) -> bool {
    let mut trees = folder.ancestors().take_while(|above| !is_there(&git_of(above)));
    trees.any(is_repository)
}

/// Whether a folder is that of a repository, by what git itself looks for.
pub(crate) fn is_repository(folder: &Path) -> bool {
    REPOSITORY.iter().all(|name| is_there(&folder.join(name)))
}

fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

/// The only line of git's output.
fn line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end_matches('\n').to_owned()
}

pub(crate) fn branch_ref(name: &str) -> String {
    format!("refs/heads/{name}")
}

/// The name under which git registers a worktree. For git the name `@` has another meaning, and git
/// fails after it has made half of such a registration.
pub(crate) fn registration_name(worktree: &str) -> &str {
    if worktree == "@" { "at" } else { worktree }
}

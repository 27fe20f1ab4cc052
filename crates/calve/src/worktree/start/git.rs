//! What worktrees get of the project's git repository.

use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode};

use super::links::{Links, Refusal, StartBranch};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::report::DestinationReport;
use crate::store::catalog::WorktreeRow;
use crate::store::layout::GIT;
use crate::store::{Store, path_from};
use crate::tree::git_index;

/// What a new worktree gets of the repository in the project's root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GitMode {
    /// [`GitMode::Linked`] if the project allows that, else [`GitMode::Copy`]: [`StartedWorktree::not_linked`](crate::StartedWorktree::not_linked) says why.
    #[default]
    Best,
    /// It is a linked worktree of the project's repository, as `git worktree add` makes them: branches, stashes, settings and hooks are
    /// shared, and each branch can be in one of them.
    Linked,
    /// A repository of its own: a copy of the project's as it is now, with its branches, its stashes, and what is staged. It shares its blocks with the
    /// project's if the filesystem can reflink. Any number of worktrees may be on one branch.
    Copy,
    /// Nothing: files only.
    None,
}

/// What a worktree got of the repository.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GitOutcome {
    /// It is a linked worktree.
    Linked(LinkedWorktree),
    /// A copy of it; how it arrived.
    Copied(Box<DestinationReport>),
    /// Nothing.
    None(NoRepository),
}

/// A linked worktree of git.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkedWorktree {
    /// The branch that it is on. `None` if its `HEAD` is detached.
    pub branch: Option<String>,
    /// The commit that it is at.
    pub commit: String,
    /// How many entries of its index record the worktree's files, so that git need not read them.
    pub ready_index_entries: u64,
}

/// Why a worktree has no repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NoRepository {
    /// [`GitMode::None`] was asked for.
    NotWanted,
    /// The project has none.
    NotThere,
    /// The project's `.git` is a file or a symbolic link: its repository is elsewhere (a linked worktree, a submodule). A copy of the file
    /// would make git in the worktree work on the index and the branch of the project.
    Linked,
    /// The repository's setting `core.worktree` names another folder than the project. git in the worktree would work on that folder.
    WorksElsewhere,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum GitPlan {
    /// Register these.
    Link(Links),
    /// Copy this folder.
    Copy(PathBuf),
    None(NoRepository),
}

impl GitPlan {
    /// What can be done for new worktrees that the store knows, and why they are not linked although that would be best.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if they must be linked and cannot be; those of [`Links::plan`].
    pub(super) fn for_new(
        mode: GitMode,
        onto: &StartBranch,
        names: &[&str],
        store: &Store,
    ) -> Result<(Self, Option<String>), Error> {
        if !matches!(mode, GitMode::Best | GitMode::Linked) {
            return Ok((Self::of(mode, store)?, None));
        }
        let project = store.project()?;
        match Links::plan(&project, names, onto)? {
            Ok(links) => Ok((Self::Link(links), None)),
            Err(why) if mode == GitMode::Linked || *onto != StartBranch::OfItsName => {
                let cause = std::io::Error::other(why.to_string());
                Err(Error::new(ErrorKind::Git, Operation::LinkWorktrees, project, cause))
            }
            Err(Refusal::NotThere) => Ok((Self::of(mode, store)?, None)),
            Err(why) => Ok((Self::of(mode, store)?, Some(why.to_string()))),
        }
    }

    /// What can be done for a worktree whose tree is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if it is a linked one, and git does not work with its repository.
    pub(super) fn for_again(
        mode: GitMode,
        row: &WorktreeRow,
        store: &Store,
    ) -> Result<Self, Error> {
        let (Some(linked), GitMode::Best | GitMode::Linked) = (&row.git, mode) else {
            return match mode {
                GitMode::Best => Self::of(GitMode::Copy, store),
                GitMode::Linked => {
                    let cause = std::io::Error::other("it was not started as a linked worktree");
                    Err(Error::new(ErrorKind::Git, Operation::Link, path_from(&row.path), cause))
                }
                mode => Self::of(mode, store),
            };
        };
        let registry = store.registry();
        // Of a restore that was killed.
        registry.unregister_begun(row);
        let registered = registry.registered(row).into_iter().next();
        let project = store.project()?;
        let plan = Links::again(&project, linked, registered)?;
        plan.map(Self::Link).map_err(|why| {
            let cause = std::io::Error::other(why.to_string());
            Error::new(ErrorKind::Git, Operation::LinkWorktrees, project, cause)
        })
    }

    /// What can be done, of what is asked for.
    pub(super) fn of(mode: GitMode, store: &Store) -> Result<Self, Error> {
        let repository = match mode {
            GitMode::None => return Ok(Self::None(NoRepository::NotWanted)),
            _ => store.project()?.join(GIT),
        };
        let found = match std::fs::symlink_metadata(&repository) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::None(NoRepository::NotThere));
            }
            Err(error) => return Err(error).context(Operation::Read, || &repository),
        };
        if !found.is_dir() {
            return Ok(Self::None(NoRepository::Linked));
        }
        let dir = fs::open(&repository, DIR_FLAGS, Mode::empty())
            .context(Operation::Open, || &repository)?;
        let elsewhere = [c"config", c"config.worktree"].into_iter().any(|name| {
            git_index::set_working_tree(&dir, name).is_some_and(|value| {
                git_index::resolved(Path::new(GIT), &value).as_deref() != Some(Path::new(""))
            })
        });
        Ok(match elsewhere {
            true => Self::None(NoRepository::WorksElsewhere),
            false => Self::Copy(repository),
        })
    }
}

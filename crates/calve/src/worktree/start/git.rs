//! What worktrees get of the project's git repository.

use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode};

use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::report::DestinationReport;
use crate::store::Store;
use crate::store::layout::GIT;
use crate::tree::git_index;

/// What a new worktree gets of the repository in the project's root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GitMode {
    /// A repository of its own: a copy of the project's as it is now, with its branches, its stashes, and what is staged. It shares its blocks with the
    /// project's if the filesystem can reflink. Any number of worktrees may be on one branch.
    #[default]
    Copy,
    /// Nothing: files only.
    None,
}

/// What a worktree got of the repository.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GitOutcome {
    /// A copy of it; how it arrived.
    Copied(Box<DestinationReport>),
    /// Nothing.
    None(NoRepository),
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
    /// Copy this folder.
    Copy(PathBuf),
    None(NoRepository),
}

impl GitPlan {
    /// What can be done, of what is asked for.
    pub(super) fn of(mode: GitMode, store: &Store) -> Result<Self, Error> {
        let repository = match mode {
            GitMode::None => return Ok(Self::None(NoRepository::NotWanted)),
            GitMode::Copy => store.project()?.join(GIT),
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

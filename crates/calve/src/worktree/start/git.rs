//! Decides what worktrees get of the project's git repository.

use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode};

use super::links::{NewLinks, Refusal, StartBranch, WantedLinks};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::macros::named;
use crate::reflink::imp::DIR_FLAGS;
use crate::report::DestinationReport;
use crate::store::catalog::WorktreeRow;
use crate::store::git::{self, HeadMark, Repository};
use crate::store::layout::GIT;
use crate::store::{Store, path_from};
use crate::tree::git_index;
use crate::worktree::Worktree;

/// The repository that a new worktree gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GitMode {
    /// [`GitMode::Linked`] if the project allows linked worktrees, else [`GitMode::Copy`].
    /// [`StartedWorktree::not_linked`](crate::StartedWorktree::not_linked) says why the worktree is
    /// not linked.
    #[default]
    Best,
    /// The worktree is a linked worktree of the project's repository, like those that
    /// `git worktree add` makes. Linked worktrees share branches, stashes, settings and hooks. Each
    /// branch can be checked out in only one of them.
    Linked,
    /// The worktree has a repository of its own: a copy of the project's repository as it is now,
    /// with its branches, its stashes, and what is staged. The copy shares its blocks with the
    /// project's repository if the filesystem can reflink. Any number of worktrees may be on one
    /// branch.
    Copy,
    /// The worktree has files only, and no repository.
    None,
}

/// The repository that a worktree got.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GitOutcome {
    /// The worktree is a linked worktree.
    Linked(LinkedWorktree),
    /// The worktree has a copy of the repository. The report says how the copy arrived.
    Copied(Box<DestinationReport>),
    /// The worktree has no repository.
    None(NoRepository),
}

/// A linked worktree of git.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkedWorktree {
    /// The branch that the worktree is on. `None` if its `HEAD` is detached.
    pub branch: Option<String>,
    /// The commit that the worktree is at.
    pub commit: String,
    /// How many entries of the worktree's index record its files, so that git need not read them.
    pub ready_index_entries: u64,
    /// How many submodules have repositories of their own, which are copies of the project's.
    pub submodules: u64,
}

named! {
    /// Why a worktree has no repository.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum NoRepository {
        /// [`GitMode::None`] was asked for.
        NotWanted = "not_wanted",
        /// The project has no repository.
        NotThere = "not_there",
        /// The project's `.git` is a file or a symbolic link: the repository is elsewhere, because the
        /// project is a linked worktree or a submodule. A copy of the file would make git in the
        /// worktree work on the index and the branch of the project.
        Linked = "linked",
        /// The repository's setting `core.worktree` names a folder other than the project. git in the
        /// worktree would work on that folder.
        WorksElsewhere = "works_elsewhere",
    }
}

/// How a start treats the project's repository.
#[derive(Debug)]
pub(super) enum GitPlan {
    /// Register these linked worktrees.
    Link(NewLinks),
    /// Copy this repository, whose `HEAD` was in this state before the tree was looked at.
    Copy(PathBuf, Option<HeadMark>),
    None(NoRepository),
}

/// Where a tree's `HEAD` is.
#[derive(Debug)]
pub(super) struct HeadNow {
    pub(super) mark: Option<HeadMark>,
    pub(super) commit: String,
}

impl GitPlan {
    /// Plans for new worktrees that the store knows. If they are not linked although
    /// [`GitMode::Best`] was asked for and the project has a repository, the text says why.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if the worktrees must be linked and cannot be; those of [`NewLinks::plan`].
    pub(super) fn for_new(
        mode: GitMode,
        wanted: WantedLinks<'_>,
        names: &[&str],
        store: &Store,
    ) -> Result<(Self, Option<String>), Error> {
        let project = store.project()?;
        let is_told = matches!(wanted.onto, StartBranch::Named(_) | StartBranch::Detached)
            || wanted.base.is_some();
        if !matches!(mode, GitMode::Best | GitMode::Linked) {
            if is_told {
                let why = "only linked worktrees can have another commit or branch";
                let cause = std::io::Error::other(why);
                return Err(Error::new(ErrorKind::Git, Operation::LinkWorktrees, project, cause));
            }
            return Ok((Self::of(mode, store)?, None));
        }
        match NewLinks::plan(&project, names, wanted)? {
            Ok(links) => Ok((Self::Link(links), None)),
            Err(why) if mode == GitMode::Linked || is_told => {
                let cause = std::io::Error::other(why.to_string());
                Err(Error::new(ErrorKind::Git, Operation::LinkWorktrees, project, cause))
            }
            Err(Refusal::NotThere) => Ok((Self::of(mode, store)?, None)),
            Err(why) => {
                let plan = Self::of(mode, store)?;
                if let (Self::Copy(..), Err(failure)) = (&plan, git::works_as_a_copy(&project)) {
                    let cause = std::io::Error::other(format!(
                        "git would not work with a copy of the repository either: {failure}; \
                         '--git none' makes worktrees without a repository"
                    ));
                    return Err(Error::new(
                        ErrorKind::Git,
                        Operation::LinkWorktrees,
                        project,
                        cause,
                    ));
                }
                Ok((plan, Some(why.to_string())))
            }
        }
    }

    /// Plans for new worktrees that are forks of a worktree, and like it: linked, with a copy of
    /// its copy of the repository, or without one.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if `mode` asks for something else; those of [`NewLinks::plan`].
    pub(super) fn for_fork(
        mode: GitMode,
        onto: &StartBranch,
        names: &[&str],
        worktree: &Worktree,
    ) -> Result<(Self, Option<String>), Error> {
        let root = worktree.path();
        let refused = |why: String| {
            let cause = std::io::Error::other(why);
            Err(Error::new(ErrorKind::Git, Operation::ForkWorktree, root, cause))
        };
        if mode == GitMode::None {
            return Ok((Self::None(NoRepository::NotWanted), None));
        }
        if worktree.row.git.is_some() {
            let wanted = WantedLinks { onto, base: None, found: None };
            return match (mode, NewLinks::plan(root, names, wanted)?) {
                (GitMode::Copy, _) => {
                    refused("it is a linked worktree, and so are its forks".into())
                }
                (_, Ok(links)) => Ok((Self::Link(links), None)),
                (_, Err(why)) => refused(why.to_string()),
            };
        }
        let is_told = matches!(onto, StartBranch::Named(_) | StartBranch::Detached);
        match Self::of_root(root)? {
            _ if mode == GitMode::Linked || is_told => {
                refused("it is no linked worktree, and its forks are none".into())
            }
            plan => Ok((plan, None)),
        }
    }

    /// Plans for a worktree that gets its tree again.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if the worktree is linked and git does not work with its repository, or
    /// if it must be linked and was not started as a linked worktree.
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
        // A restore that was killed may have left a registration.
        registry.unregister_begun(row)?;
        let registered = registry.registered(row)?.into_iter().next();
        let project = store.project()?;
        let plan = NewLinks::again(&project, linked, registered)?;
        plan.map(Self::Link).map_err(|why| {
            let cause = std::io::Error::other(why.to_string());
            Error::new(ErrorKind::Git, Operation::LinkWorktrees, project, cause)
        })
    }

    /// The linked worktrees that are to be made, if they are to be linked.
    pub(super) fn links(&self) -> Option<&NewLinks> {
        match self {
            Self::Link(links) => Some(links),
            Self::Copy(..) | Self::None(_) => None,
        }
    }

    /// Where the `HEAD` of the tree is now, if that is not where it was when the start was planned.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if git could not be asked.
    pub(super) fn moved(&self) -> Result<Option<HeadNow>, Error> {
        match self {
            Self::Link(links) => {
                let failed = |failure| {
                    Error::new(ErrorKind::Git, Operation::AskGit, &links.repository.root, failure)
                };
                links.moved().map_err(failed)
            }
            Self::Copy(repository, was) => {
                let mark = git::head_mark(repository, repository);
                Ok((mark != *was).then(|| HeadNow { mark, commit: String::new() }))
            }
            Self::None(_) => Ok(None),
        }
    }

    /// The same plan, if it is to copy a repository.
    pub(super) fn copied(&self) -> Option<Self> {
        let Self::Copy(repository, head) = self else { return None };
        Some(Self::Copy(repository.clone(), head.clone()))
    }

    /// Lets new branches and worktrees without a branch begin there. A branch that exists stays at
    /// the commit where it was found.
    pub(super) fn begin_at(&mut self, head: HeadNow) {
        match self {
            Self::Link(links) => links.begin_at(head),
            Self::Copy(_, was) => *was = head.mark,
            Self::None(_) => {}
        }
    }

    /// The repository in which the worktrees are registered.
    pub(super) fn repository(&self) -> Option<&Repository> {
        self.links().map(|links| &links.repository)
    }

    /// Plans a copy of the repository, or nothing. The worktrees are not linked, whatever `mode`
    /// asks for.
    pub(super) fn of(mode: GitMode, store: &Store) -> Result<Self, Error> {
        match mode {
            GitMode::None => Ok(Self::None(NoRepository::NotWanted)),
            _ => Self::of_root(&store.project()?),
        }
    }

    /// Plans a copy of the repository in the root of a tree.
    fn of_root(root: &Path) -> Result<Self, Error> {
        let repository = root.join(GIT);
        let found = std::fs::symlink_metadata(&repository).if_there();
        let Some(found) = found.context(Operation::Read, || &repository)? else {
            return Ok(Self::None(NoRepository::NotThere));
        };
        if !found.is_dir() {
            return Ok(Self::None(NoRepository::Linked));
        }
        let dir = fs::open(&repository, DIR_FLAGS, Mode::empty())
            .context(Operation::Open, || &repository)?;
        let elsewhere = [c"config", c"config.worktree"].into_iter().any(|name| {
            git_index::set_working_tree(&dir, name).is_some_and(|value| {
                // A copy of the repository gets the copy's path.
                let is_own = name == c"config" && git::is_same(&value, root);
                git_index::resolved(Path::new(GIT), &value).as_deref() != Some(Path::new(""))
                    && !(is_own && value.is_absolute())
            })
        });
        if elsewhere {
            return Ok(Self::None(NoRepository::WorksElsewhere));
        }
        let head = git::head_mark(&repository, &repository);
        Ok(Self::Copy(repository, head))
    }
}

/// What a start tells of the project's state that new worktrees do not get.
pub(super) fn not_brought(source: &git::Repository, fork_of: Option<&str>) -> Vec<String> {
    let of =
        fork_of.map_or_else(|| "the project".to_owned(), |name| format!("the worktree {name}"));
    let states = match source.under_way() {
        Ok(states) if states.is_empty() => return Vec::new(),
        Ok(states) => states.join(" and "),
        Err(failure) => {
            return vec![format!("git cannot say what is under way in {of}: {failure}")];
        }
    };
    vec![format!(
        "{of} is in the middle of {states}, which stays there; \
         the new worktree has its files and its index"
    )]
}

/// What a start tells of the settings that git has in the project and not in a copy at `path`.
pub(super) fn other_settings(project: &Path, path: &Path) -> Vec<String> {
    if let Err(failure) = git::works_as_a_copy(path) {
        return vec![format!("git does not work with the copy of the repository: {failure}")];
    }
    match git::other_settings(project, path) {
        Ok(keys) if keys.is_empty() => Vec::new(),
        Ok(keys) => {
            let is_identity = keys.iter().any(|key| key.starts_with("user."));
            let what =
                if is_identity { "another identity and other settings" } else { "other settings" };
            vec![format!(
                "git has {what} in the copy, because its configuration depends on the place of a \
                 repository (includeIf): {}",
                keys.join(", ")
            )]
        }
        Err(failure) => {
            vec![format!("git cannot say whether its settings hold in the copy: {failure}")]
        }
    }
}

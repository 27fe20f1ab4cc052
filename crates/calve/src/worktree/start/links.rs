//! Plans the linked worktrees of git that a start makes, and gives git's data to each of them.
//!
//! calve checks everything that it can refuse before it makes anything: the branches, their names,
//! and whether git works with the project. Another thread makes the registrations while the trees
//! arrive ([`NewLinks::register`]).
//!
//! # The index
//! The worktree's index is a copy of the project's index at this moment. So entries that are
//! staged, in conflict or only meant to be added are the same in the worktree. The index is made
//! ready like that of a copied repository. A split index consists of two files, and calve copies
//! both.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, Timespec, Timestamps};

use super::base::Base;
use super::branches::{FoundBranches, KnownBranches, is_below};
use super::git::HeadNow;
use crate::error::{Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::imp::NEW_FILE_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::catalog::{Linked, WorktreeRow};
use crate::store::files::{listed_at, read_plain};
use crate::store::git::modules::has_modules;
use crate::store::git::{self, Branch, Failure, Found, HeadMark, Registration, Repository};
use crate::store::ready::git_index::{KeptGitIndex, Sum, has_monitor};
use crate::store::registry::pruned::LastHead;
use crate::store::{Store, path_from};
use crate::tree::pool::cancelled;
use crate::tree::running::Running;
use crate::worktree::git::by_threads;

/// Which `HEAD` a new linked worktree has; built by value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartBranch {
    /// A branch with the worktree's name.
    #[default]
    OfItsName,
    /// This branch.
    Named(String),
    /// For each worktree the branch at its place in this list. Without a repository, none.
    Each(Vec<String>),
    /// The commit of the project's `HEAD`, and no branch.
    Detached,
}

/// What linked worktrees are wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct WantedLinks<'a> {
    pub(super) onto: &'a StartBranch,
    /// The commit at which new branches begin. `None`: the one of the tree's `HEAD`.
    pub(super) base: Option<&'a str>,
    /// What git said of branches a moment ago.
    pub(super) found: Option<&'a FoundBranches>,
}

/// The index of a working tree, in the folder that belongs to it alone.
const INDEX: &str = "index";
/// The files beside a repository's index that belong to its state.
const BESIDE_INDEX: [&str; 3] = ["MERGE_HEAD", "MERGE_MODE", "MERGE_MSG"];
/// The largest file of git that is read whole. An index of five million files is smaller.
const MOST_BYTES: u64 = 512 * 1024 * 1024;

/// The linked worktrees that are to be made.
#[derive(Debug)]
pub(super) struct NewLinks {
    pub(super) repository: Repository,
    /// One link for each worktree.
    pub(super) links: Vec<Link>,
    /// The commit at which new worktrees begin.
    pub(super) commit: String,
    /// The tree of the commit, if that is not the project's `HEAD`.
    pub(super) base: Option<Box<Base>>,
    /// The state of `HEAD` before its commit was asked for.
    head: Option<HeadMark>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) linked: Linked,
    /// Whether the branch must be made.
    pub(super) makes_branch: bool,
    /// The registration, if the worktree has one already, because its tree was deleted by hand.
    pub(super) registered: Option<Registration>,
}

/// Why a project's worktrees cannot be linked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The project has no `.git`.
    NotThere,
    /// The repository has no commit yet.
    Unborn,
    /// git is not installed, or does not work with the repository.
    Git(Failure),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotThere => f.write_str("it has no git repository"),
            Self::Unborn => f.write_str("its repository has no commit yet"),
            Self::Git(failure) => failure.fmt(f),
        }
    }
}

/// The repository of a working tree, or why git cannot link worktrees to it.
fn repository_at(root: &Path) -> Result<Repository, Refusal> {
    match git::find(root) {
        Found::Nothing => Err(Refusal::NotThere),
        Found::NoWorkingTree(failure) | Found::Unusable(failure) => Err(Refusal::Git(failure)),
        Found::Repository(repository) => Ok(repository),
    }
}

impl NewLinks {
    /// Plans a linked worktree again whose tree is gone. If its registration is gone, its branch
    /// may be gone too, at another commit, or checked out elsewhere. Then its `HEAD` is detached.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if git could not be asked.
    pub(super) fn again(
        root: &Path,
        linked: &Linked,
        registered: Option<Registration>,
    ) -> Result<Result<Self, Refusal>, Error> {
        let repository = match repository_at(root) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(repository) => repository,
        };
        let mut linked = linked.clone();
        let commit = linked.commit.clone();
        if registered.is_none() {
            let failed = |failure| Error::new(ErrorKind::Git, Operation::AskGit, root, failure);
            let was = LastHead::of(&repository, &linked).map_err(failed)?;
            linked.branch = was.free_branch().map(|it| it.name.clone());
            linked.commit = was.commit;
        }
        let links = vec![Link { linked, makes_branch: false, registered }];
        Ok(Ok(Self { repository, links, commit, base: None, head: None }))
    }

    /// Plans linked worktrees of the project at `root`, one for each of `names`, at the commit
    /// that is wanted or at the project's. The inner error says why the project can have none.
    ///
    /// # Errors
    /// [`ErrorKind::BranchExists`] and [`ErrorKind::InvalidName`] for a branch;
    /// [`ErrorKind::CommitNotFound`] for the commit; [`ErrorKind::Git`] if git could not be asked.
    pub(super) fn plan(
        root: &Path,
        names: &[&str],
        WantedLinks { onto, base, found }: WantedLinks<'_>,
    ) -> Result<Result<Self, Refusal>, Error> {
        let wanted: Vec<&str> = match onto {
            StartBranch::OfItsName => names.to_vec(),
            StartBranch::Named(branch) => vec![branch],
            StartBranch::Each(branches) => branches.iter().map(String::as_str).collect(),
            StartBranch::Detached => Vec::new(),
        };
        // Between the questions, a pull request may have come.
        let told = found.filter(|_| base.is_none());
        let told = told.and_then(|it| it.none_of(&wanted, root));
        let known =
            told.map_or_else(|| KnownBranches::ask(root, &wanted, &[]), |told| Ok(told.clone()));
        let confirmed = known.as_ref().ok().and_then(|known| known.repository.clone());
        let repository = match confirmed.map_or_else(|| repository_at(root), Ok) {
            Err(refusal) => return Ok(Err(refusal)),
            Ok(repository) => repository,
        };
        let failed = |failure| Error::new(ErrorKind::Git, Operation::AskGit, root, failure);
        if !wanted.is_empty() && wanted.len() != names.len() {
            let cause = io::Error::new(
                io::ErrorKind::InvalidInput,
                "each worktree needs a branch of its own",
            );
            return Err(Error::new(ErrorKind::InvalidName, Operation::UseBranch, wanted[0], cause));
        }
        for branch in &wanted {
            if !git::can_be_a_branch(root, branch).map_err(failed)? {
                let cause =
                    io::Error::new(io::ErrorKind::InvalidInput, "git allows no such branch");
                return Err(Error::new(
                    ErrorKind::InvalidName,
                    Operation::UseBranch,
                    *branch,
                    cause,
                ));
            }
        }
        let KnownBranches { head, refs: found, .. } = known.map_err(failed)?;
        let there = found.branches;
        let commit = match base {
            Some(base) => repository.commit(base).map_err(failed)?.map_err(|why| {
                let cause = io::Error::new(io::ErrorKind::NotFound, why);
                Error::new(ErrorKind::CommitNotFound, Operation::FindCommit, base, cause)
            })?,
            None => match found.head {
                Some(commit) => commit,
                None => return Ok(Err(Refusal::Unborn)),
            },
        };
        let links = names.iter().enumerate().map(|(at, _)| {
            let branch = wanted.get(at).copied();
            let makes_branch = match branch {
                Some(branch) => makes(branch, (base, &commit), &there)?,
                None => false,
            };
            let linked = Linked {
                commit: commit.clone(),
                branch: branch.map(str::to_owned),
                ..Linked::default()
            };
            Ok(Link { linked, makes_branch, registered: None })
        });
        let links = links.collect::<Result<_, Error>>()?;
        Ok(Ok(Self { repository, links, commit, base: None, head }))
    }

    /// See [`GitPlan::moved`](super::git::GitPlan::moved).
    pub(super) fn moved(&self) -> Result<Option<HeadNow>, Failure> {
        let mark = self.repository.head_mark();
        if self.head.is_some() && self.head == mark {
            return Ok(None);
        }
        let commit = self.repository.head_commit()?.filter(|commit| *commit != self.commit);
        Ok(commit.map(|commit| HeadNow { mark, commit }))
    }

    /// See [`GitPlan::begin_at`](super::git::GitPlan::begin_at).
    pub(super) fn begin_at(&mut self, HeadNow { mark, commit }: HeadNow) {
        for link in &mut self.links {
            if link.makes_branch || link.linked.branch.is_none() {
                link.linked.commit.clone_from(&commit);
            }
        }
        (self.head, self.commit) = (mark, commit);
    }

    /// Whether the project's `HEAD` is at the commit of this worktree still, so that the index that
    /// was copied a moment ago is of this commit. git replaces the index before it moves `HEAD`.
    ///
    /// # Errors
    /// git could not be asked.
    pub(super) fn is_at_head(&self, link: &Link) -> Result<bool, Failure> {
        if self.head.is_some() && self.head == self.repository.head_mark() {
            return Ok(self.commit == link.linked.commit);
        }
        Ok(self.repository.head_commit()?.as_ref() == Some(&link.linked.commit))
    }

    /// Fails if git already knows a worktree at one of these paths.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationExists`] if it is there; [`ErrorKind::Busy`] if another process is
    /// making it; [`ErrorKind::Git`], with the command that helps, if its folder is gone.
    pub(super) fn must_be_free(&self, paths: &[PathBuf]) -> Result<(), Error> {
        let unread =
            |error| Error::new(ErrorKind::Git, Operation::AskGit, &self.repository.root, error);
        let entries = self.repository.registrations().map_err(unread)?;
        for path in paths {
            // Nothing is the same as a path where nothing is, but a path that ends alike.
            let is_taken = !matches!(git::identity(path), Ok(None));
            let is_alike = |entry: &Registration| {
                let tree = entry.git_file.as_deref().and_then(Path::parent);
                tree.is_some_and(|tree| tree.file_name() == path.file_name())
            };
            let is_of_it =
                |entry: &&Registration| (is_taken || is_alike(entry)) && entry.is_of(path);
            let Some(entry) = entries.iter().find(is_of_it) else { continue };
            let failed = |kind, cause| Err(Error::new(kind, Operation::StartWorktree, path, cause));
            if std::fs::symlink_metadata(git::git_of(path)).is_ok() {
                let cause = io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "git has a worktree here that this store does not know",
                );
                return failed(ErrorKind::DestinationExists, cause);
            }
            if entry.is_being_made() {
                let cause = "another process is making a worktree here";
                let cause = io::Error::new(io::ErrorKind::WouldBlock, cause);
                return failed(ErrorKind::Busy, cause);
            }
            let gone = "git knows a worktree here whose folder is gone";
            let why = match entry.locked {
                Some(_) => {
                    format!("{gone}, and it is locked: its filesystem may not be mounted")
                }
                // Its registration may have commits and staged files that nothing else has.
                None => format!("{gone}; 'calve drop {}' forgets it", path.display()),
            };
            return failed(ErrorKind::Git, io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(())
    }

    /// Lets git register the worktrees of these rows, several at once, because a thread mostly
    /// waits for git.
    ///
    /// # Errors
    /// The branches and registrations that were made stay. They go when the claim takes back its
    /// rows.
    pub(super) fn register(
        &self,
        store: &Store,
        rows: &[WorktreeRow],
        operation: &Running,
    ) -> Result<Vec<Registration>, Error> {
        let all: Vec<_> = rows.iter().zip(&self.links).collect();
        let made = by_threads(&all, operation.jobs(), |(row, link)| match &link.registered {
            Some(registered) => Ok(registered.clone()),
            None if operation.is_cancelled() => {
                Err(cancelled(Operation::RegisterWorktree, &path_from(&row.path)))
            }
            None => {
                let registry = store.registry();
                registry.register(&self.repository, row, &link.linked, link.makes_branch)
            }
        });
        made.into_iter().collect()
    }

    /// Whether the project, or another linked worktree, has repositories of submodules.
    pub(super) fn have_submodules(&self) -> bool {
        has_modules(&self.repository.git_dir)
            || git::registration_folders(&self.repository.common)
                .is_ok_and(|mut folders| folders.any(|folder| has_modules(&folder)))
    }

    /// Puts the file `.git`, which leads git to the registration, into the staged tree.
    pub(super) fn lead(registration: &Registration, stage: &OwnedFd) -> io::Result<()> {
        let mode = Mode::from_raw_mode(0o644);
        let file = fs::openat(stage, ".git", NEW_FILE_FLAGS, mode)?;
        std::fs::File::from(file).write_all(&registration.git_file_text())
    }

    /// Gives a registration the index of its commit. The project's index is of no use, because the
    /// project may be at another commit by now.
    pub(super) fn read_index(&self, registration: &Registration) -> io::Result<()> {
        Ok(self.repository.read_index(registration)?)
    }

    /// Gives a registration the index of a base.
    pub(super) fn give_index_of(registration: &Registration, base: &Base) -> io::Result<()> {
        let (tv_sec, tv_nsec) = base.stamp();
        let time = Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        write(&registration.folder.join("index"), &base.index, &times)
    }

    /// Gives a registration the project's index, with the same modification time. That time says
    /// which entries of the index git may trust. If an index is kept with the tree in the place of
    /// the project's, the registration gets that one.
    pub(super) fn give_index(
        &self,
        registration: &Registration,
        kept: Option<&KeptGitIndex>,
    ) -> io::Result<GivenIndex> {
        let from = &self.repository.git_dir;
        let mut names: Vec<_> = vec![INDEX.into()];
        if std::fs::symlink_metadata(from.join(BESIDE_INDEX[0])).is_ok() {
            names.extend(BESIDE_INDEX.map(Into::into));
        }
        let shared = listed_at(from)?.into_iter().map(|(name, _)| name);
        names.extend(shared.filter(|name| name.as_encoded_bytes().starts_with(b"sharedindex.")));
        let mut given = GivenIndex::Other;
        for name in names {
            let to = registration.folder.join(&name);
            if name == INDEX
                && let Some(entries) = kept.and_then(|kept| kept.give(&from.join(&name), &to))
            {
                given = GivenIndex::Ready(entries);
                continue;
            }
            let Some(read) = read(&from.join(&name)).if_there()? else { continue };
            write(&to, &read.0, &read.1)?;
            if name == INDEX {
                match has_monitor(&read.0) {
                    true => self.repository.without_monitor(&to)?,
                    false => given = GivenIndex::OfProject(Sum::of(&read.0)),
                }
            }
        }
        Ok(given)
    }
}

/// Which index [`NewLinks::give_index`] gave.
#[derive(Debug)]
pub(super) enum GivenIndex {
    /// A ready index, in which this many entries record the worktree's files.
    Ready(u64),
    /// The project's.
    OfProject(Option<Sum>),
    /// None, or not quite the project's.
    Other,
}

/// Whether a branch must be made, or exists and can be used.
///
/// # Errors
/// [`ErrorKind::BranchExists`]. The kind of the cause says why: `ResourceBusy` if another working
/// tree has it checked out, `NotADirectory` if its name is above or below that of another branch,
/// `AlreadyExists` if it is at another commit.
fn makes(
    branch: &str,
    (base, commit): (Option<&str>, &str),
    there: &[Branch],
) -> Result<bool, Error> {
    let refused = |kind, why: String| {
        let cause = io::Error::new(kind, why);
        Err(Error::new(ErrorKind::BranchExists, Operation::MakeBranch, branch, cause))
    };
    let short = |id: &str| id.get(..10).unwrap_or(id).to_owned();
    for found in there {
        if is_below(&found.name, branch) || is_below(branch, &found.name) {
            let why = format!("git cannot have it beside the branch {}", found.name);
            return refused(io::ErrorKind::NotADirectory, why);
        }
        if found.name != branch {
            continue;
        }
        return match &found.tree {
            Some(tree) => {
                let why = "that working tree has it checked out".to_owned();
                refused(io::ErrorKind::ResourceBusy, why).map_err(|error| error.with_other(tree))
            }
            // `git worktree add` uses such a branch, too.
            None if found.commit == commit => Ok(false),
            None => {
                let (theirs, ours) = (short(&found.commit), short(commit));
                let whose = base.unwrap_or("the project");
                let why = format!("it exists, at {theirs}, and {whose} is at {ours}");
                refused(io::ErrorKind::AlreadyExists, why)
            }
        };
    }
    Ok(true)
}

/// The content of a file of git, and its times.
type Read = (Vec<u8>, Timestamps);

fn read(from: &Path) -> io::Result<Read> {
    let times = Meta::of(&fs::lstat(from)?).timestamps();
    Ok((read_plain(fs::CWD, from, MOST_BYTES)?, times))
}

fn write(to: &Path, bytes: &[u8], times: &Timestamps) -> io::Result<()> {
    // git made this file for the new worktree, which no other process knows yet.
    let _ = std::fs::remove_file(to);
    let file = fs::open(to, NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    Ok(fs::futimens(&file, times)?)
}

/// Copies a file of git, with its times.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (bytes, times) = read(from)?;
    write(to, &bytes, &times)
}

//! The worktrees that the user asks `start` for, and what calve knows of them before it makes any.

use std::path::{Path, PathBuf};

use calve::{
    CopyCost, ErrorKind, PathMode, Reflink, Snapshot, SnapshotId, StartBranch, StartOptions, Store,
    Worktree,
};

use super::words::Asked;
use crate::args::{PROJECT, StartArgs};
use crate::choices::StartReflink;
use crate::failure::{Failure, Kind};
use crate::progress::Total;
use crate::secrets::{SecretPolicy, look_like, named};
use crate::session::Session;
use crate::similar;
use crate::text::shown;

/// calve reads a smaller project in less than a second, so it names the contents before the
/// worktrees appear.
const NAMED_LATER_LEAST_BYTES: u64 = 64 * 1024 * 1024;

/// A start that names contents later clones every file of the project; one that reads first makes
/// only the files that changed. To clone a file takes about as long as to read this many bytes.
const BYTES_READ_PER_CLONE: u64 = 4096;

/// What the user wants to start, and from where.
pub(super) struct Wanted<'a> {
    pub(super) args: &'a StartArgs,
    pub(super) asked: &'a Asked,
    pub(super) source: &'a Source,
    /// The folder for the worktrees, if the user named one.
    pub(super) place: Option<PathBuf>,
    pub(super) store: &'a Store,
    pub(super) project: &'a Path,
    pub(super) session: Session<'a>,
    pub(super) secrets: SecretPolicy,
}

/// What worktrees are made of.
#[derive(Clone)]
pub(super) enum Source {
    /// The project as it is now.
    Project,
    /// A worktree as it is now.
    Worktree(Box<Worktree>),
    Snapshot(SnapshotId),
}

impl Source {
    /// What `--from` means. Without it, the tree that one is in.
    ///
    /// # Errors
    /// The word means nothing, or two things.
    pub(super) fn of(
        word: Option<&str>,
        store: &Store,
        session: Session<'_>,
    ) -> Result<Self, Failure> {
        let Some(word) = word else { return Self::here(store, session) };
        if word == PROJECT {
            return Ok(Self::Project);
        }
        let is_path = word.starts_with(['.', '/', '~']);
        if is_path {
            return Ok(match session.worktree(Some(Path::new(word)))? {
                worktree if worktree.is_project() => Self::Project,
                worktree => Self::Worktree(Box::new(worktree)),
            });
        }
        let worktree = match store.worktree(word) {
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => None,
            worktree => Some(worktree?),
        };
        match (crate::remote::pull::resolve(store, word, session), worktree) {
            (Err(failure), Some(worktree)) if is_none(&failure) => {
                Ok(Self::Worktree(Box::new(worktree)))
            }
            (Err(failure), None) if is_none(&failure) => {
                Err(failure.meant(&similar::worktrees(store, word)))
            }
            (Ok(id), Some(worktree)) => {
                session.output.warning(format_args!(
                    "{word} is a snapshot and a worktree: calve takes the snapshot; the worktree is {}",
                    shown(worktree.path())
                ));
                Ok(Self::Snapshot(id))
            }
            (id, _) => id.map(Self::Snapshot),
        }
    }

    /// `git worktree add`, too, begins at the commit of the tree that one is in.
    fn here(store: &Store, session: Session<'_>) -> Result<Self, Failure> {
        match session.here() {
            Ok(here) if !here.is_project() && here.store().path() == store.path() => {
                Ok(Self::Worktree(Box::new(here)))
            }
            // With --store, the current folder may be anywhere. Of a repository's main working tree
            // that is not the project, calve makes no worktree.
            Err(failure) if failure.kind != Kind::Library(ErrorKind::WorktreeNotFound) => {
                Err(failure)
            }
            Err(_) if session.is_in_tree_of_git_alone() => {
                let project = store.project()?;
                let project = shown(&project);
                session.output.summary(format_args!("this starts from the project {project}"));
                Ok(Self::Project)
            }
            _ => Ok(Self::Project),
        }
    }

    /// The root of the tree.
    fn root<'p>(&'p self, project: &'p Path) -> &'p Path {
        match self {
            Self::Worktree(worktree) => worktree.path(),
            _ => project,
        }
    }
}

fn is_none(failure: &Failure) -> bool {
    failure.kind == Kind::Library(ErrorKind::SnapshotNotFound)
}

/// What calve knows before a start about the tree that it makes.
pub(super) struct Basis {
    /// What the worktrees are made of.
    from: Source,
    /// That snapshot, or the last one of the project. The project has about as many files as its
    /// last snapshot, so nobody has to count them.
    snapshot: Option<Snapshot>,
}

impl Basis {
    pub(super) fn size(&self) -> Option<CopyCost> {
        self.snapshot.as_ref().map(|snapshot| CopyCost::new(snapshot.files, snapshot.bytes))
    }

    /// The worktree of which the new ones are forks.
    pub(super) fn fork(&self) -> Option<&Worktree> {
        match &self.from {
            Source::Worktree(worktree) => Some(worktree),
            _ => None,
        }
    }

    /// The number of files of the project's last snapshot.
    pub(super) fn files_before(&self) -> Option<u64> {
        let snapshot = self.snapshot.as_ref().filter(|_| matches!(self.from, Source::Project));
        snapshot.map(|snapshot| snapshot.files)
    }
}

impl Wanted<'_> {
    pub(super) fn basis(&self) -> Result<Basis, Failure> {
        let from = match &self.asked.base {
            Some(_) => Source::Project,
            None => self.source.clone(),
        };
        let id = match &from {
            Source::Snapshot(id) => Some(*id),
            Source::Worktree(worktree) => worktree.snapshot(),
            Source::Project => self.store.project_worktree()?.snapshot(),
        };
        let snapshot = id.map(|id| self.store.show(id)).transpose()?;
        Ok(Basis { from, snapshot })
    }

    /// What the progress bar counts up to.
    pub(super) fn total(&self, basis: &Basis) -> Total<'_> {
        if calve::Filesystem::of(self.store.path()).has_subvolumes {
            // A snapshot of a subvolume takes no time, however many files it has. Only the library
            // knows how much other work there is.
            return Total::Unknown;
        }
        let times = self.asked.names.len() as u64;
        match &basis.snapshot {
            Some(snapshot) if matches!(basis.from, Source::Snapshot(_)) => {
                Total::Files(snapshot.files.saturating_mul(times))
            }
            // calve looks at each file once, and then makes it once per worktree.
            Some(snapshot) => Total::Files(snapshot.files.saturating_mul(times + 1)),
            None => {
                Total::Tree { root: self.source.root(self.project), times: times + 1, own: true }
            }
        }
    }

    pub(super) fn options(&self, basis: &Basis) -> StartOptions {
        let args = self.args;
        let branch = match args.start_branch() {
            StartBranch::OfItsName => StartBranch::Each(self.asked.branches.clone()),
            branch => branch,
        };
        let mut options = StartOptions::new().git(args.git.mode()).branch(branch);
        match &basis.from {
            Source::Snapshot(id) => options = options.from(*id),
            Source::Worktree(worktree) => options = options.fork(worktree.name()),
            Source::Project => {}
        }
        if let Some(at) = &self.place {
            options = options.at(at);
        }
        if let Some(base) = &self.asked.base {
            options = options.base(base.as_str());
        }
        if let Some(found) = &self.asked.found {
            options = options.found_branches(found.clone());
        }
        if args.keep_paths {
            options = options.paths(PathMode::Keep);
        }
        if args.reflink == StartReflink::Always {
            options = options.reflink(Reflink::Always);
        }
        if let SecretPolicy::Leave | SecretPolicy::Ask = self.secrets {
            let (policy, cancel) = (self.secrets, self.session.signals.cancel());
            options = options.leave_secrets(move |secrets| {
                let what = || format!("{}: {}", look_like(secrets), named(secrets));
                policy.leaves(what, &cancel)
            });
        }
        let worth = basis.files_before().unwrap_or(0).saturating_mul(BYTES_READ_PER_CLONE);
        options.name_later(NAMED_LATER_LEAST_BYTES.max(worth))
    }
}

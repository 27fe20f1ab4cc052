//! Which branch a word means that the user gives to a start.

use std::io;

use crate::error::{Error, ErrorKind, Operation};
use crate::store::Store;
use crate::store::git::{self, Failure, Found};

/// Where git knows a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundBranch {
    /// Nowhere, or the project has no repository that git can work with.
    Nowhere,
    /// In the repository, at the commit of the project's `HEAD`.
    AtHead,
    /// In the repository, at another commit.
    Here,
    /// At these remotes, by what was fetched from them last: full names of references such as
    /// `refs/remotes/origin/feature`. If git's setting `checkout.defaultRemote` names one of the
    /// remotes, only that one.
    Remotes(Vec<String>),
}

impl Store {
    /// Where git knows a branch of this name, in the project's repository.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if git could not be asked. Nothing is changed.
    pub fn find_branch(&self, name: &str) -> Result<FoundBranch, Error> {
        let project = self.project()?;
        let Found::Repository(repository) = git::find(&project) else {
            return Ok(FoundBranch::Nowhere);
        };
        let look = || -> Result<FoundBranch, Failure> {
            let there = repository.branches(&[name])?;
            if let Some(branch) = there.into_iter().find(|branch| branch.name == name) {
                let head = repository.head_commit()?;
                let is_head = head.as_deref() == Some(&branch.commit);
                return Ok(if is_head { FoundBranch::AtHead } else { FoundBranch::Here });
            }
            let remotes = repository.remote_branches(name)?;
            Ok(if remotes.is_empty() {
                FoundBranch::Nowhere
            } else {
                FoundBranch::Remotes(remotes)
            })
        };
        look().map_err(|failure| Error::new(ErrorKind::Git, Operation::AskGit, &project, failure))
    }

    /// Gives a branch of the project's repository an upstream, such as `origin/feature`.
    ///
    /// # Errors
    /// [`ErrorKind::Git`] if git refused. Then the branch is as it was.
    pub fn set_upstream(&self, branch: &str, upstream: &str) -> Result<(), Error> {
        let project = self.project()?;
        let failed = |cause| Error::new(ErrorKind::Git, Operation::AskGit, &project, cause);
        let Found::Repository(repository) = git::find(&project) else {
            let why = "git finds no repository there";
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, why)));
        };
        repository.set_upstream(branch, upstream).map_err(|failure| failed(failure.into()))
    }
}

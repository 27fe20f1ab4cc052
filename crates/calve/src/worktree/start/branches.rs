//! Which branch a word means that the user gives to a start.

use std::io;

use crate::error::{Error, ErrorKind, Operation};
use crate::store::Store;
use crate::store::git::{self, Found};

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
    /// Where git knows branches of these names, in the project's repository: one answer for each.
    /// If git cannot be asked, nowhere: a start says why.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn find_branches<N: AsRef<str>>(&self, names: &[N]) -> Result<Vec<FoundBranch>, Error> {
        let project = self.project()?;
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let asked = || -> Option<Vec<FoundBranch>> {
            let repository = git::read(&project).ok()??;
            let found = repository.branches_and_head(&names, &names).ok()?;
            let of = |name: &&str| {
                let here = found.branches.iter().find(|branch| branch.name == *name);
                Some(match (here, repository.preferred(found.of_remotes(name)).ok()?) {
                    (Some(it), _) if found.head.as_ref() == Some(&it.commit) => FoundBranch::AtHead,
                    (Some(_), _) => FoundBranch::Here,
                    (None, none) if none.is_empty() => FoundBranch::Nowhere,
                    (None, remotes) => FoundBranch::Remotes(remotes),
                })
            };
            names.iter().map(of).collect()
        };
        Ok(asked().unwrap_or_else(|| vec![FoundBranch::Nowhere; names.len()]))
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

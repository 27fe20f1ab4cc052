//! Which branch a word means that the user gives to a start.

use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Operation};
use crate::store::Store;
use crate::store::git::{self, Failure, Found, HeadMark, Refs, Repository};

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
    /// Nowhere, but it is the name under which git has a branch of a remote, such as
    /// `origin/feature`.
    OfRemote {
        /// The name of the remote.
        remote: String,
        /// The name of the branch there.
        branch: String,
    },
    /// Nowhere, but it is the name of a tag, or the id of a commit.
    Commit,
}

/// The answers of [`Store::find_branches`], in the order of the names. A start that is given them
/// ([`StartOptions::found_branches`](crate::StartOptions::found_branches)) need not ask git again.
#[derive(Debug, Clone, Default)]
pub struct FoundBranches {
    answers: Vec<FoundBranch>,
    known: Option<KnownBranches>,
}

impl Deref for FoundBranches {
    type Target = [FoundBranch];

    fn deref(&self) -> &[FoundBranch] {
        &self.answers
    }
}

impl FoundBranches {
    /// What git said, if it was asked about all these branches of the tree at `root`, and each of
    /// them can be made. One that exists may be checked out by now.
    pub(super) fn none_of(&self, names: &[&str], root: &Path) -> Option<&KnownBranches> {
        let known = self.known.as_ref().filter(|known| known.root == root)?;
        let is_free = |name: &&str| {
            known.names.iter().any(|it| it == name)
                && known.refs.branches.iter().all(|there| {
                    there.name != *name
                        && !is_below(&there.name, name)
                        && !is_below(name, &there.name)
                })
        };
        names.iter().all(is_free).then_some(known)
    }
}

/// What git said of the branches with some names.
#[derive(Debug, Clone)]
pub(super) struct KnownBranches {
    root: PathBuf,
    names: Vec<String>,
    /// The repository, if git need not be asked once more whether it is the tree's.
    pub(super) repository: Option<Repository>,
    /// The state of `HEAD` before its commit was asked for.
    pub(super) head: Option<HeadMark>,
    pub(super) refs: Refs,
}

impl KnownBranches {
    /// Asks git in the tree at `root`. A branch can be beside none whose name is one of `names`, or
    /// is above or below it.
    ///
    /// # Errors
    /// git could not be asked, or there is no repository.
    pub(super) fn ask(root: &Path, names: &[&str], at_remotes: &[&str]) -> Result<Self, Failure> {
        let names = with_those_above(names);
        let repository = git::read(root).map_err(Failure::NotRun)?;
        let none = || Failure::NotRun(io::ErrorKind::NotFound.into());
        let repository = repository.ok_or_else(none)?;
        let head = repository.head_mark();
        let refs = repository.branches_and_head(&names, at_remotes)?;
        let names = names.into_iter().map(str::to_owned).collect();
        Ok(Self { root: root.to_owned(), names, repository: repository.confirmed(), head, refs })
    }
}

/// The names of branches, and of those that would be above them.
pub(super) fn with_those_above<'n>(names: &[&'n str]) -> Vec<&'n str> {
    let above = names
        .iter()
        .flat_map(|name| name.match_indices('/').map(|(at, _)| name.get(..at).unwrap_or_default()));
    names.iter().copied().chain(above).collect()
}

/// Whether a word looks like the id of a commit: as short as git prints it, or longer.
fn is_id(word: &str) -> bool {
    word.len() >= 7 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a branch is below another one, so that git cannot have both.
pub(super) fn is_below(one: &str, other: &str) -> bool {
    one.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'))
}

impl Store {
    /// Where git knows branches of these names, in the project's repository: one answer for each.
    /// If git cannot be asked, nowhere: a start says why.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn find_branches<N: AsRef<str>>(&self, names: &[N]) -> Result<FoundBranches, Error> {
        let project = self.project()?;
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let asked = || -> Option<FoundBranches> {
            let repository = git::read(&project).ok()??;
            let known = KnownBranches::ask(&project, &names, &names).ok()?;
            let found = &known.refs;
            let of = |name: &&str| {
                let here = found.branches.iter().find(|branch| branch.name == *name);
                Some(match (here, repository.preferred(found.of_remotes(name)).ok()?) {
                    (Some(it), _) if found.head.as_ref() == Some(&it.commit) => FoundBranch::AtHead,
                    (Some(_), _) => FoundBranch::Here,
                    (None, none) if none.is_empty() => match found.split(name) {
                        Some((remote, branch)) => FoundBranch::OfRemote { remote, branch },
                        None if found.tags.iter().any(|tag| tag == name) => FoundBranch::Commit,
                        None if is_id(name) && repository.commit(name).ok()?.is_ok() => {
                            FoundBranch::Commit
                        }
                        None => FoundBranch::Nowhere,
                    },
                    (None, remotes) => FoundBranch::Remotes(remotes),
                })
            };
            let answers = names.iter().map(of).collect::<Option<_>>()?;
            Some(FoundBranches { answers, known: Some(known) })
        };
        let nowhere = || vec![FoundBranch::Nowhere; names.len()];
        Ok(asked().unwrap_or_else(|| FoundBranches { answers: nowhere(), known: None }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::git::Branch;

    #[test]
    fn git_is_not_asked_again_about_branches_that_it_does_not_have() {
        let branch = |name: &str| Branch { name: name.into(), commit: "1".into(), tree: None };
        let known = |asked: &[&str], there: &[&str]| {
            let names = with_those_above(asked).into_iter().map(str::to_owned).collect();
            let mut refs = Refs::default();
            refs.branches = there.iter().map(|it| branch(it)).collect();
            KnownBranches { root: "/p".into(), names, repository: None, head: None, refs }
        };
        for (asked, there, wanted, root, expected) in [
            (&["a"][..], &[][..], &["a"][..], "/p", true),
            (&["a", "b"], &[], &["b", "a"], "/p", true),
            (&["a"], &[], &["b"], "/p", false),
            (&["a"], &[], &["a"], "/p.worktrees/w", false),
            (&["a"], &["a"], &["a"], "/p", false),
            (&["a"], &["a/b"], &["a"], "/p", false),
            (&["a/b/c"], &["a/b"], &["a/b/c"], "/p", false),
            (&["a/b"], &["a/c", "a/bc"], &["a/b"], "/p", true),
            (&[], &[], &[], "/p", true),
        ] {
            let found = FoundBranches { answers: Vec::new(), known: Some(known(asked, there)) };
            let told = found.none_of(wanted, Path::new(root));
            assert_eq!(told.is_some(), expected, "{asked:?} {there:?} {wanted:?} {root}");
        }
    }
}

//! Decides whether the branch of a dropped worktree is deleted with it, and deletes it.

use std::path::Path;

use super::{COMMITS_MOST, Loss, unheld};
use crate::error::{Error, ErrorKind, Operation};
use crate::store::git::branch::Squashed;
use crate::store::git::{self, Failure, Head};
use crate::worktree::Worktree;

/// What is known about the branch of a worktree.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    is_made_for_it: bool,
    /// Another reference holds all commits of the branch.
    is_held: bool,
    squashed: Squashed,
}

/// What becomes of the branch of a dropped worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// calve did not make it for this worktree, so it stays.
    Stays,
    Deleted,
    /// The branch is merged, but no other branch has its commits. A reference of calve's keeps
    /// them.
    KeptElsewhere,
    /// The worktree stays, too: the branch is not merged.
    Refused,
}

impl Facts {
    fn fate(self) -> Fate {
        match (self.is_made_for_it, self.is_held, self.squashed.is_merged()) {
            (false, ..) => Fate::Stays,
            (true, true, _) => Fate::Deleted,
            (true, false, true) => Fate::KeptElsewhere,
            (true, false, false) => Fate::Refused,
        }
    }
}

/// The branch of a worktree that is dropped with its branch.
#[derive(Debug)]
pub(in crate::worktree) struct DoomedBranch {
    name: String,
    commit: String,
    fate: Fate,
}

impl Loss {
    /// The branch that is to be deleted with the worktree. `None` if the worktree is on no branch,
    /// or its branch is gone, or the worktree is not linked.
    ///
    /// # Errors
    /// [`ErrorKind::CommitsOnlyHere`] if the branch is not merged. [`ErrorKind::Git`].
    pub(in crate::worktree) fn doomed_branch(
        &self,
        worktree: &Worktree,
    ) -> Result<Option<DoomedBranch>, Error> {
        let head = match &self.work {
            Some(work) => work.head.clone(),
            None => worktree
                .row
                .git
                .as_ref()
                .map(|linked| Head { branch: linked.branch.clone(), commit: None }),
        };
        let Some((branch, commit)) = head.and_then(|it| Some((it.branch?, it.commit))) else {
            return Ok(None);
        };
        let Some(project) = &self.project else { return Ok(None) };
        if self.own.copy.is_some() {
            return Ok(None);
        }
        let failed = |failure| worktree.git_failed(failure);
        let (name, commit) = match commit {
            // The look has told it. If the branch is elsewhere by now, it is not deleted.
            Some(commit) if !branch.contains(char::REPLACEMENT_CHARACTER) => (branch, commit),
            _ => {
                let found = project.branches(&[&branch]).map_err(failed)?;
                match found.into_iter().find(|found| found.name == branch) {
                    Some(found) => (found.name, found.commit),
                    None => return Ok(None),
                }
            }
        };
        let mut facts = Facts::default();
        let mut commits = Vec::new();
        let token = &worktree.row.token;
        facts.is_made_for_it = project.is_branch_made_for(&name, token).map_err(failed)?;
        if facts.is_made_for_it {
            let reference = git::branch_ref(&name);
            let tips = std::slice::from_ref(&commit);
            commits = project.unheld(tips, COMMITS_MOST, Some(&reference), None).map_err(failed)?;
            facts.is_held = commits.is_empty();
        }
        if facts.is_made_for_it && !facts.is_held {
            facts.squashed = project.squashed(&commit).map_err(failed)?;
        }
        match facts.fate() {
            Fate::Refused => {
                let why = "its branch has commits that no other reference holds";
                Err(unheld(worktree.path(), Operation::DeleteBranch, why, &commits))
            }
            fate => Ok(Some(DoomedBranch { name, commit, fate })),
        }
    }

    /// Fails as a drop does that is to delete the branch.
    ///
    /// # Errors
    /// Those of [`Loss::doomed_branch`]; [`ErrorKind::Git`] of [`Operation::DeleteBranch`] if the
    /// branch would stay.
    pub(in crate::worktree) fn must_delete_branch(&self, worktree: &Worktree) -> Result<(), Error> {
        match self.doomed_branch(worktree)? {
            Some(DoomedBranch { name, fate: Fate::Stays, .. }) => {
                Err(not_deleted(name, Failure::Refused(STAYS.to_owned())))
            }
            _ => Ok(()),
        }
    }

    /// Deletes the branch after the worktree is gone, because git refuses to delete a branch that a
    /// worktree has checked out. Returns the branch's name, and the reference that holds its commits
    /// from now on if no other branch does. If the worktree can be brought back, its registration is
    /// `kept`, and says then how to make the branch again.
    ///
    /// # Errors
    /// [`ErrorKind::Git`]. The branch stays, unless the error says otherwise.
    pub(in crate::worktree) fn delete_branch(
        &self,
        worktree: &Worktree,
        doomed: DoomedBranch,
        kept: Option<&Path>,
    ) -> Result<(String, Option<String>), Error> {
        let DoomedBranch { name, commit, fate } = doomed;
        let delete = || -> Result<Option<String>, Failure> {
            let gone = || Failure::Refused("the project has no repository any more".to_owned());
            let project = self.project.as_ref().ok_or_else(gone)?;
            let keep = || project.keep_dropped(worktree.name(), &commit, None).map(Some);
            let held_by = match fate {
                Fate::Deleted => None,
                Fate::KeptElsewhere => keep()?,
                Fate::Stays | Fate::Refused => return Err(Failure::Refused(STAYS.to_owned())),
            };
            let branch = project.to_delete(&name, &commit)?;
            if let Some(registration) = kept {
                branch.write(registration).map_err(Failure::NotRun)?;
            }
            project.delete_unused_branch(&branch)?;
            // Another drop may have deleted the branch that held the commits, because this one did.
            let tips = std::slice::from_ref(&commit);
            match held_by {
                None if !project.unheld(tips, 1, None, None)?.is_empty() => keep(),
                held_by => Ok(held_by),
            }
        };
        match delete() {
            Ok(kept) => Ok((name, kept)),
            Err(failure) => Err(not_deleted(name, failure)),
        }
    }
}

const STAYS: &str = "calve did not make this branch for the worktree, so it stays";

fn not_deleted(branch: String, failure: Failure) -> Error {
    Error::new(ErrorKind::Git, Operation::DeleteBranch, branch, failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_branch_that_calve_made_and_that_is_merged_is_deleted() {
        let not = Squashed::default();
        let rows = [
            // Made for the worktree, held by another reference, squashed, and what becomes of it.
            (false, false, not, Fate::Stays),
            (false, true, not, Fate::Stays),
            (false, true, Squashed { has_same_tree: true, ..not }, Fate::Stays),
            (true, true, not, Fate::Deleted),
            (true, true, Squashed { would_change_nothing: true, ..not }, Fate::Deleted),
            (true, false, Squashed { has_same_tree: true, ..not }, Fate::KeptElsewhere),
            (true, false, Squashed { would_change_nothing: true, ..not }, Fate::KeptElsewhere),
            (true, false, Squashed { has_each_change: true, ..not }, Fate::KeptElsewhere),
            (true, false, Squashed { has_whole_change: true, ..not }, Fate::KeptElsewhere),
            (true, false, not, Fate::Refused),
        ];
        for (is_made_for_it, is_held, squashed, expected) in rows {
            let facts = Facts { is_made_for_it, is_held, squashed };
            assert_eq!(facts.fate(), expected, "{facts:?}");
        }
    }
}

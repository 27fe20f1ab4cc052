//! Asks git whether the commits of a worktree are merged.

use crate::error::Error;
use crate::store::git::branch::{Mainline, MergedBy};
use crate::store::git::{self, Failure};
use crate::worktree::Worktree;

/// What git says of a worktree's commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worktree) enum MergeState {
    /// It has no repository, or one of its own.
    NoRepository,
    /// Nothing was committed in it: `HEAD` is where calve put it.
    NothingCommitted,
    NotMerged,
    Merged {
        /// The name of the mainline.
        into: String,
        by: MergedBy,
    },
}

impl Worktree {
    /// Whether the commit that the worktree has checked out is merged into one of `mainlines`.
    ///
    /// # Errors
    /// [`ErrorKind::Git`](crate::ErrorKind::Git).
    pub(in crate::worktree) fn merge_state(
        &self,
        mainlines: &[Mainline],
    ) -> Result<MergeState, Error> {
        self.ask_merge_state(mainlines).map_err(|failure| self.git_failed(failure))
    }

    fn ask_merge_state(&self, mainlines: &[Mainline]) -> Result<MergeState, Failure> {
        let own = self.own_repository(true)?;
        let (Some(tree), None, Some(project), Some(linked)) =
            (&own.tree, &own.copy, self.store.repository()?, &self.row.git)
        else {
            return Ok(MergeState::NoRepository);
        };
        let Some(commit) = tree.head_commit()? else { return Ok(MergeState::NothingCommitted) };
        let merged = project.merged(&commit, mainlines)?;
        if commit == linked.commit && !matches!(merged, Some((_, MergedBy::Changes))) {
            // A branch that was there before the worktree may have been merged by now. One that
            // calve made has no more than it began with, and so has no branch at all.
            let is_new = match git::branch_at(&tree.git_dir) {
                Some(branch) if linked.is_adopted => project.is_branch_as_made(&branch)?,
                Some(branch) => project.is_branch_made_for(&branch, &self.row.token)?,
                None => true,
            };
            if is_new {
                return Ok(MergeState::NothingCommitted);
            }
        }
        Ok(match merged {
            Some((mainline, by)) => MergeState::Merged { into: mainline.name.clone(), by },
            None => MergeState::NotMerged,
        })
    }
}

//! Asks git whether the commits of a worktree are merged.

use std::path::Path;

use rustix::fs;

use super::HEAD_LOG;
use crate::error::Error;
use crate::store::files::read_plain;
use crate::store::git::branch::{Mainline, MergedBy};
use crate::store::git::{self, Failure, Repository};
use crate::worktree::Worktree;

/// What git says of a worktree's commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::worktree) enum MergeState {
    /// It has no repository, or one of its own.
    NoRepository,
    /// git is in the middle of something, such as a rebase: its `HEAD` says nothing.
    UnderWay,
    /// Nothing was committed in it: `HEAD` is where calve put it.
    NothingCommitted,
    NotMerged,
    Merged {
        /// The name of the mainline.
        into: String,
        by: MergedBy,
    },
}

/// The largest reflog that is read.
const LOG_MOST_BYTES: u64 = 16 << 20;

/// Whether a commit was made in a working tree, as far as the reflog of its `HEAD` says. A `HEAD`
/// that only went to another commit (`git checkout`, a pull that is a fast-forward) made none.
pub(super) fn may_have_committed(git_dir: &Path) -> bool {
    read_plain(fs::CWD, &git_dir.join(HEAD_LOG), LOG_MOST_BYTES)
        .map_or(true, |log| log.split(|byte| *byte == b'\n').any(is_of_a_commit))
}

/// Whether a line of a reflog is about a new commit: the words of git behind the tab.
fn is_of_a_commit(line: &[u8]) -> bool {
    const MAKERS: [&str; 7] = ["commit", "cherry-pick", "revert", "am", "rebase", "merge", "pull"];
    let line = String::from_utf8_lossy(line);
    let Some((_, words)) = line.split_once('\t') else { return false };
    let verb = words.split([' ', ':']).next().unwrap_or_default();
    // Where a rebase begins and ends, it makes none.
    let step = words.split(':').next().unwrap_or_default();
    let is_move = ["(start)", "(finish)", "(abort)"].iter().any(|it| step.ends_with(it));
    MAKERS.contains(&verb) && !is_move && !words.trim_end().ends_with("Fast-forward")
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
        let own = self.own_repository(true, None)?;
        let (Some(tree), None, Some(project), Some(linked)) =
            (&own.tree, &own.copy, self.store.repository()?, &self.row.git)
        else {
            return Ok(MergeState::NoRepository);
        };
        if !tree.under_way()?.is_empty() {
            return Ok(MergeState::UnderWay);
        }
        let branch = git::branch_at(&tree.git_dir);
        if self.left_unmerged(&project, branch.as_deref(), mainlines)? {
            return Ok(MergeState::NotMerged);
        }
        let Some(commit) = tree.head_commit()? else { return Ok(MergeState::NothingCommitted) };
        let merged = project.merged(&commit, mainlines)?;
        if commit == linked.commit && !matches!(merged, Some((_, MergedBy::Changes))) {
            // On a branch that was there before the worktree something may have been committed, and
            // merged by now. One that calve made, or that is where it was made, has no more than it
            // began with, and so has no branch at all.
            let is_new = match branch {
                Some(branch) => {
                    project.is_branch_as_made(&branch)?
                        || project.is_branch_made_for(&branch, &self.row.token)?
                }
                None => true,
            };
            if is_new {
                return Ok(MergeState::NothingCommitted);
            }
        }
        if commit != linked.commit && !may_have_committed(&tree.git_dir) {
            return Ok(MergeState::NothingCommitted);
        }
        Ok(match merged {
            Some((mainline, by)) => MergeState::Merged { into: mainline.name.clone(), by },
            None => MergeState::NotMerged,
        })
    }

    /// Whether the worktree's own branch has commits that no mainline has, and its `HEAD` is not
    /// `on` it: another commit or branch is checked out for a while.
    ///
    /// # Errors
    /// git could not be asked.
    pub(super) fn left_unmerged(
        &self,
        project: &Repository,
        on: Option<&str>,
        mainlines: &[Mainline],
    ) -> Result<bool, Failure> {
        let Some(linked) = &self.row.git else { return Ok(false) };
        let Some(own) = linked.branch.as_deref().filter(|own| Some(*own) != on) else {
            return Ok(false);
        };
        let found = project.branches(&[own])?.into_iter().find(|found| found.name == own);
        match found.filter(|found| found.commit != linked.commit) {
            Some(found) => Ok(project.merged(&found.commit, mainlines)?.is_none()),
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reflog_tells_new_commits_from_moves() {
        const IDS: &str = "0000 1111 A U Thor <a@example.org> 1700000000 +0000";
        for (words, expected) in [
            ("commit: work", true),
            ("commit (initial): work", true),
            ("commit (amend): work", true),
            ("cherry-pick: work", true),
            ("rebase (pick): work", true),
            ("rebase (start): checkout main", false),
            ("rebase (finish): returning to refs/heads/w", false),
            ("rebase (abort): returning to refs/heads/w", false),
            ("pull --rebase (start): checkout 1111", false),
            ("commit: how (start): works", true),
            ("am: work", true),
            ("merge main: Merge made by the 'ort' strategy.", true),
            ("merge main: Fast-forward", false),
            ("pull: Fast-forward", false),
            ("pull --rebase (pick): work", true),
            ("checkout: moving from main to v1", false),
            ("reset: moving to HEAD~1", false),
            ("commitment: nobody's word", false),
            ("", false),
        ] {
            assert_eq!(is_of_a_commit(format!("{IDS}\t{words}").as_bytes()), expected, "{words}");
        }
        assert!(!is_of_a_commit(IDS.as_bytes()));
    }
}

//! Chooses the worktrees that a drop of many takes: those that are merged, clean, and idle.
//!
//! Each look is dearer than the one before, and a worktree that stays is not looked at further:
//! first whether it is there, then what git says of its commits, then when anything in it changed,
//! and last whether a drop would lose something. [`decide`] is asked after each look.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::super::git::{MergeState, by_threads};
use super::super::idle::LastChange;
use super::super::{Worktree, WorktreeState};
use super::CheckedWorktree;
use crate::error::{Error, ErrorKind, Operation};
use crate::macros::{named, setters};
use crate::store::git::Failure;
use crate::store::git::branch::{Mainline, MergedBy};
use crate::store::{Store, StoreOptions};
use crate::tree::pool::cancelled;
use crate::tree::running::Running;

/// Which worktrees [`Store::filter_worktrees`] chooses; built by value. Whatever it says, it never
/// chooses one with which a drop would lose something, nor one in which a process works.
#[derive(Debug, Clone, Default)]
pub struct DropFilter {
    merged: bool,
    idle: Option<Duration>,
    not_around: Option<PathBuf>,
    only_calves: bool,
}

setters! { DropFilter:
    /// All worktrees with which a drop loses nothing.
    pub fn new(),
    /// The folder in which the caller stands. The worktree around it is not chosen.
    pub not_around: impl Into<PathBuf> = Some(not_around.into()),
    /// Whether only worktrees are chosen in which something was committed and whose commit is
    /// merged: the commit that the project has checked out, or the branch that a remote has checked
    /// out, has it as an ancestor, or has its changes, as after a squash or a rebase.
    pub merged: bool,
    /// Only worktrees are chosen in which nothing changed for so long: see
    /// [`Worktree::last_change`].
    pub idle: Duration = Some(idle),
    /// Whether worktrees that git or another tool made are not chosen, although a command has worked
    /// on them: nobody asked calve to look after them.
    pub only_calves: bool,
}

named! {
    /// Why a worktree is not chosen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum StayReason {
        /// The caller stands in it.
        Current = "current",
        /// Its folder is gone.
        Missing = "missing",
        /// Another process is starting it.
        Starting = "starting",
        /// git or another tool made it.
        MadeByGit = "made_by_git",
        /// git is in the middle of something in it, such as a rebase or a merge.
        UnderWay = "under_way",
        /// Nothing was committed in it, so nothing is merged.
        NothingCommitted = "nothing_committed",
        /// Its commits are not merged.
        NotMerged = "not_merged",
        /// It has no repository, or one of its own, so calve cannot say what is merged.
        NoRepository = "no_repository",
        /// Something in it changed not long ago.
        NotIdle = "not_idle",
        /// [`StayingWorktree::error`] says why. JSON documents have that error's kind.
        Refused = "refused",
    }
}

/// A worktree that is not chosen.
#[derive(Debug)]
#[non_exhaustive]
pub struct StayingWorktree {
    /// The worktree.
    pub worktree: Worktree,
    /// The first reason that was found.
    pub reason: StayReason,
    /// For [`StayReason::Refused`]: what a drop of it would say, or why calve could not look.
    pub error: Option<Error>,
    /// For [`StayReason::NotIdle`]: what changed last.
    pub last_change: Option<LastChange>,
}

/// A worktree that is chosen.
#[derive(Debug)]
#[non_exhaustive]
pub struct ChosenWorktree {
    /// The worktree, looked at.
    pub checked: CheckedWorktree,
    /// The branch that has its commits or their changes, if the filter asked: `main`, `origin/main`.
    pub merged_into: Option<String>,
    /// Whether only the changes are merged, as after a squash, and not the commits themselves.
    pub only_changes_merged: bool,
    /// What changed last in it, if the filter asked.
    pub last_change: Option<LastChange>,
}

/// What [`Store::filter_worktrees`] found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct FilteredWorktrees {
    /// Those that can be dropped, in the order in which they were given.
    pub chosen: Vec<ChosenWorktree>,
    /// All others, in the same order.
    pub staying: Vec<StayingWorktree>,
    /// The branches that the commits could be merged into, by name.
    pub mainlines: Vec<String>,
}

/// Where a worktree is, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Whereabouts {
    #[default]
    There,
    AroundTheCaller,
    /// git or another tool made it.
    OfGit,
    Missing,
    Starting,
}

/// What is known about a worktree. `None`: not looked at, or not yet.
#[derive(Debug, Clone, Default)]
struct DropFacts {
    whereabouts: Whereabouts,
    commits: Option<MergeState>,
    idle: Option<Duration>,
    is_refused: bool,
}

/// Why a worktree stays. `None`: nothing that is known keeps it.
fn decide(filter: &DropFilter, facts: &DropFacts) -> Option<StayReason> {
    match facts.whereabouts {
        Whereabouts::Missing => return Some(StayReason::Missing),
        Whereabouts::Starting => return Some(StayReason::Starting),
        Whereabouts::AroundTheCaller => return Some(StayReason::Current),
        Whereabouts::OfGit if filter.only_calves => return Some(StayReason::MadeByGit),
        Whereabouts::OfGit => {}
        Whereabouts::There => {}
    }
    match &facts.commits {
        Some(MergeState::NoRepository) if filter.merged => return Some(StayReason::NoRepository),
        Some(MergeState::UnderWay) if filter.merged => return Some(StayReason::UnderWay),
        Some(MergeState::NothingCommitted) if filter.merged => {
            return Some(StayReason::NothingCommitted);
        }
        Some(MergeState::NotMerged) if filter.merged => return Some(StayReason::NotMerged),
        _ => {}
    }
    match (filter.idle, facts.idle) {
        (Some(wanted), Some(is)) if is < wanted => return Some(StayReason::NotIdle),
        _ => {}
    }
    facts.is_refused.then_some(StayReason::Refused)
}

/// A worktree and what the cheap looks told.
struct DropLook {
    worktree: Worktree,
    facts: DropFacts,
    last_change: Option<LastChange>,
    error: Option<Error>,
}

impl Store {
    /// Chooses those of `worktrees`, which are this store's, that `filter` takes, and says of each
    /// other one why it stays. Nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`]; [`ErrorKind::Git`] if git could not say what the project has
    /// checked out. What concerns one worktree only is its reason to stay.
    pub fn filter_worktrees(
        &self,
        worktrees: &[Worktree],
        filter: &DropFilter,
        options: &StoreOptions,
    ) -> Result<FilteredWorktrees, Error> {
        let operation = options.operation();
        let mainlines = match self.repository() {
            Ok(Some(project)) if filter.merged => project.mainlines(),
            Err(failure) if filter.merged => Err(failure),
            _ => Ok(Vec::new()),
        };
        let failed = |failure: Failure| {
            let project = self.project().unwrap_or_else(|_| self.path().to_owned());
            Error::new(ErrorKind::Git, Operation::AskGit, project, failure)
        };
        let mainlines = mainlines.map_err(failed)?;
        let looked = by_threads(worktrees, operation.jobs(), |worktree: &Worktree| match operation
            .is_cancelled()
        {
            true => Err(cancelled(Operation::DropWorktree, worktree.path())),
            false => Ok(worktree.look_to_drop(filter, &mainlines, &operation)),
        });
        let mut looked = looked.into_iter().collect::<Result<Vec<_>, _>>()?;
        let left = |it: &&mut DropLook| decide(filter, &it.facts).is_none();
        let mut left: Vec<&mut DropLook> = looked.iter_mut().filter(left).collect();
        let those: Vec<Worktree> = left.iter().map(|it| it.worktree.clone()).collect();
        let mut checked = Vec::new();
        for (it, result) in left.iter_mut().zip(CheckedWorktree::all(&those, options)) {
            match result {
                Ok(it) => checked.push(it),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => it.refuse(error),
            }
        }
        let mut checked = checked.into_iter();
        let mut found = FilteredWorktrees {
            mainlines: mainlines.into_iter().map(|it| it.name).collect(),
            ..FilteredWorktrees::default()
        };
        for DropLook { worktree, facts, last_change, error } in looked {
            let reason = decide(filter, &facts);
            match reason.map_or_else(|| checked.next().ok_or(StayReason::Refused), Err) {
                Ok(checked) => {
                    let merged = match facts.commits {
                        Some(MergeState::Merged { into, by }) => Some((into, by)),
                        _ => None,
                    };
                    found.chosen.push(ChosenWorktree {
                        checked,
                        only_changes_merged: matches!(merged, Some((_, MergedBy::Changes))),
                        merged_into: merged.map(|(into, _)| into),
                        last_change,
                    });
                }
                Err(reason) => {
                    found.staying.push(StayingWorktree { worktree, reason, error, last_change });
                }
            }
        }
        Ok(found)
    }
}

impl DropLook {
    fn refuse(&mut self, error: Error) {
        self.facts.is_refused = true;
        self.error = Some(error);
    }
}

impl Worktree {
    /// The looks that need no look at the whole tree, or only one at its times. They end with the
    /// first reason to stay.
    fn look_to_drop(
        &self,
        filter: &DropFilter,
        mainlines: &[Mainline],
        operation: &Running,
    ) -> DropLook {
        let mut looked = DropLook {
            worktree: self.clone(),
            facts: DropFacts::default(),
            last_change: None,
            error: None,
        };
        if let Err(error) = self.look_until_it_stays(&mut looked, filter, mainlines, operation) {
            looked.refuse(error);
        }
        looked
    }

    fn look_until_it_stays(
        &self,
        looked: &mut DropLook,
        filter: &DropFilter,
        mainlines: &[Mainline],
        operation: &Running,
    ) -> Result<(), Error> {
        let facts = &mut looked.facts;
        facts.whereabouts = match self.state()? {
            WorktreeState::Missing => Whereabouts::Missing,
            WorktreeState::Starting => Whereabouts::Starting,
            _ if is_around(&self.path, filter.not_around.as_deref()) => {
                Whereabouts::AroundTheCaller
            }
            _ if self.was_made_by_git() => Whereabouts::OfGit,
            _ => Whereabouts::There,
        };
        if filter.merged && decide(filter, facts).is_none() {
            facts.commits = Some(self.merge_state(mainlines)?);
        }
        if filter.idle.is_some() && decide(filter, facts).is_none() {
            let last = self.last_change_in(operation)?;
            facts.idle = Some(SystemTime::now().duration_since(last.time).unwrap_or_default());
            looked.last_change = Some(last);
        }
        Ok(())
    }
}

/// Whether a folder is the tree at `root`, or in it.
fn is_around(root: &Path, folder: Option<&Path>) -> bool {
    let Some(folder) = folder else { return false };
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    canonical(folder).starts_with(canonical(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worktree_goes_only_if_all_that_was_asked_for_holds() {
        use Whereabouts::{AroundTheCaller, Missing, OfGit, Starting, There};
        let merged = |by| Some(MergeState::Merged { into: "main".to_owned(), by });
        let (yes, squashed) = (merged(MergedBy::Commits), merged(MergedBy::Changes));
        let (not, none, no) = (
            Some(MergeState::NotMerged),
            Some(MergeState::NothingCommitted),
            Some(MergeState::NoRepository),
        );
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        // Whether merged ones are wanted, and for how long idle; where it is, its commits, for how
        // long it is idle, whether a drop refuses it; why it stays.
        let rows = [
            (false, None, There, None, None, false, None),
            (false, None, There, None, None, true, Some(StayReason::Refused)),
            (false, None, Missing, None, None, false, Some(StayReason::Missing)),
            (false, None, Starting, None, None, false, Some(StayReason::Starting)),
            (false, None, AroundTheCaller, None, None, false, Some(StayReason::Current)),
            (true, None, Missing, yes.clone(), hours(9), false, Some(StayReason::Missing)),
            (true, None, There, yes.clone(), None, false, None),
            (true, None, There, squashed.clone(), None, false, None),
            (true, None, There, squashed, None, true, Some(StayReason::Refused)),
            (true, None, There, not.clone(), None, false, Some(StayReason::NotMerged)),
            (true, None, There, not.clone(), None, true, Some(StayReason::NotMerged)),
            (true, None, There, none.clone(), None, false, Some(StayReason::NothingCommitted)),
            (
                true,
                None,
                There,
                Some(MergeState::UnderWay),
                None,
                false,
                Some(StayReason::UnderWay),
            ),
            (true, None, There, no.clone(), None, false, Some(StayReason::NoRepository)),
            // A filter that was not asked for keeps no worktree.
            (false, None, There, not, hours(0), false, None),
            (false, None, There, none, hours(0), false, None),
            (false, None, There, no, hours(0), false, None),
            (false, hours(2), There, None, hours(1), false, Some(StayReason::NotIdle)),
            (false, hours(2), There, None, hours(2), false, None),
            (false, hours(2), There, None, hours(3), true, Some(StayReason::Refused)),
            (true, hours(2), There, yes.clone(), hours(1), false, Some(StayReason::NotIdle)),
            (true, hours(2), There, yes, hours(3), false, None),
        ];
        for (merged, idle, whereabouts, commits, is_idle, is_refused, expected) in rows {
            let filter = DropFilter { merged, idle, ..DropFilter::default() };
            let facts = DropFacts { whereabouts, commits, idle: is_idle, is_refused };
            assert_eq!(decide(&filter, &facts), expected, "{filter:?} {facts:?}");
            let of_git = DropFacts { whereabouts: OfGit, ..facts };
            let filter = filter.only_calves(true);
            assert_eq!(decide(&filter, &of_git), Some(StayReason::MadeByGit), "{filter:?}");
        }
    }

    #[test]
    fn the_caller_stands_in_a_tree_at_any_depth() {
        for (folder, expected) in [
            (Some("/t/w"), true),
            (Some("/t/w/a/b"), true),
            (Some("/t/wide"), false),
            (Some("/t"), false),
            (None, false),
        ] {
            assert_eq!(is_around(Path::new("/t/w"), folder.map(Path::new)), expected, "{folder:?}");
        }
    }
}

//! Drops several worktrees with one look at each, and none at those that nobody touched.
//!
//! If one of several worktrees cannot be dropped, none is. So all are looked at before the first is
//! dropped. The drop then looks only for what changed since, after its rename, as every drop does.
//!
//! On btrfs calve knows which worktrees nobody touched since their start, and which of those are
//! alike ([`alike`]). If one of them has no work, the others have none. What a worktree has beside
//! its tree is asked of each: commits, references, states under way, patches that wait, locks, and
//! processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::super::Worktree;
use super::super::git::{alike, by_threads};
use super::look::Moment;
use super::{DropOptions, DroppedWorktree, Seen};
use crate::error::{Error, Operation};
use crate::store::StoreOptions;
use crate::tree::pool::cancelled;
use crate::tree::running::Running;

/// A worktree with which a drop loses nothing, as far as a look told.
pub struct CheckedWorktree {
    worktree: Worktree,
    seen: Seen,
    references: References,
}

/// The project's references before the look. `None`: git did not say, or there is no repository.
type References = Option<Arc<BTreeSet<Vec<u8>>>>;

impl fmt::Debug for CheckedWorktree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedWorktree").field("worktree", &self.worktree).finish_non_exhaustive()
    }
}

impl CheckedWorktree {
    /// Looks at worktrees, several at a time. The results are in the order of the worktrees.
    ///
    /// # Errors
    /// For each worktree, those of [`Worktree::must_lose_nothing`]. Nothing is changed.
    pub fn all(worktrees: &[Worktree], options: &StoreOptions) -> Vec<Result<Self, Error>> {
        let since = Moment::now();
        let operation = options.operation();
        let (mut groups, mut references) = (Vec::new(), None);
        if let Some(first) = worktrees.first()
            && worktrees.iter().all(|it| it.store.path() == first.store.path())
            && let Ok(Some(project)) = first.store.repository()
        {
            references = project.references().map(Arc::new).ok();
            groups = alike::untouched(&project, worktrees);
        }
        let look = |at: &usize| {
            let worktree = &worktrees[*at];
            if options.cancel.is_cancelled() {
                return Err(cancelled(Operation::DropWorktree, &worktree.path));
            }
            Self::check(worktree, &operation, &references, |now| now.seen_since(since))
        };
        let look_at = |all: Vec<usize>| {
            let looked = by_threads(&all, operation.jobs(), look);
            all.into_iter().zip(looked)
        };
        let first = alike::without_others(&groups, worktrees.len());
        let mut checked: BTreeMap<usize, Result<Self, Error>> = look_at(first).collect();
        let mut left = Vec::new();
        for group in groups {
            let first = checked.get_mut(&group.first.at).and_then(|first| first.as_mut().ok());
            let commit = first.as_ref().and_then(|first| first.seen.commit_if_nothing_is_in_it());
            if commit.is_none() || !group.may_follow(worktrees, commit, since) {
                left.extend(group.others.iter().map(|it| it.at));
                continue;
            }
            if let Some(first) = first {
                first.seen.untouched = Some(group.first);
            }
            for other in group.others {
                let (at, see) = (other.at, |now: &Worktree| now.seen_untouched(since, other));
                checked.insert(at, Self::check(&worktrees[at], &operation, &references, see));
            }
        }
        checked.extend(look_at(left));
        checked.into_values().collect()
    }

    fn check(
        worktree: &Worktree,
        operation: &Running,
        references: &References,
        see: impl FnOnce(&Worktree) -> Result<Seen, Error>,
    ) -> Result<Self, Error> {
        let worktree = worktree.now()?;
        let seen = see(&worktree)?;
        worktree.must_be_no_loss(&seen, operation)?;
        Ok(Self { worktree, seen, references: references.clone() })
    }

    /// The worktree.
    #[must_use]
    pub fn worktree(&self) -> &Worktree {
        &self.worktree
    }

    /// Drops the worktree as [`Worktree::drop`] does, without a second look at what did not change
    /// since the first one. If a reference of the project is gone or names something else since,
    /// commits may be in this worktree alone now, and it is looked at again.
    ///
    /// # Errors
    /// Those of [`Worktree::drop`].
    pub fn drop(self, how: &DropOptions, options: &StoreOptions) -> Result<DroppedWorktree, Error> {
        let is_still_held = match (&self.references, self.worktree.store.repository()) {
            (None, _) => self.seen.loss.is_none(),
            (Some(before), Ok(Some(project))) => project
                .references()
                .is_ok_and(|now| before.iter().all(|reference| now.contains(reference))),
            (Some(_), _) => false,
        };
        let seen = is_still_held.then_some(self.seen);
        self.worktree.drop_seen(how, seen, options)
    }
}

impl Seen {
    /// Where `HEAD` is in a worktree that has no uncommitted work of any kind, and nothing of other
    /// tools. Its base snapshot does not count.
    fn commit_if_nothing_is_in_it(&self) -> Option<&str> {
        let loss = self.loss.as_ref().filter(|loss| loss.failure.is_none())?;
        let work = loss.work.as_ref()?;
        let is_nothing = work.paths.is_empty()
            && !work.is_cut
            && !work.no_snapshot_has_it
            && self.nested.is_empty();
        is_nothing.then(|| work.head.as_ref()?.commit.as_deref())?
    }
}

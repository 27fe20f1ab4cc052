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
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::super::Worktree;
use super::super::git::{alike, by_threads};
use super::look::{Moment, Scope, changed_since};
use super::{DropOptions, DroppedWorktree, Seen};
use crate::error::{Error, Operation};
use crate::store::StoreOptions;
use crate::store::git::{self, EditsSince, Failure, Repository};
use crate::tree::pool::{cancelled, lock};
use crate::tree::running::Running;

/// A worktree with which a drop loses nothing, as far as a look told.
pub struct CheckedWorktree {
    worktree: Worktree,
    seen: Seen,
    references: References,
}

/// The project's references before the look. `None`: git did not say, or there is no repository.
type References = Option<Arc<KnownReferences>>;

/// References of a repository.
struct KnownReferences {
    all: BTreeSet<Vec<u8>>,
    /// They were all there after this moment.
    seen: Mutex<(Moment, Packed)>,
}

/// When the file of packed references was last changed. The inner `None`: there is none. `None`:
/// nobody knows.
type Packed = Option<Option<(i64, i64)>>;

impl KnownReferences {
    fn of(project: &Repository) -> Option<Self> {
        let seen = Mutex::new((Moment::now(), project.packed_references()));
        Some(Self { all: project.references().ok()?, seen })
    }

    /// Whether all of them are still there, and name the same. If not, those that are there now.
    /// git is asked only if a file or a folder in which the repository has its references was
    /// changed.
    ///
    /// # Errors
    /// git could not be asked.
    fn still_hold(&self, project: &Repository) -> Result<Option<BTreeSet<Vec<u8>>>, Failure> {
        let mut seen = lock(&self.seen);
        let (since, packed) = *seen;
        let now = (Moment::now(), project.packed_references());
        let is_packed_as_before = packed.is_some()
            && packed == now.1
            && packed.flatten().is_none_or(|changed| since.is_after(changed));
        if is_packed_as_before && project.folders_of_references().iter().all(|it| is_as(it, since))
        {
            return Ok(None);
        }
        let all = project.references()?;
        if !self.all.is_subset(&all) {
            return Ok(Some(all));
        }
        *seen = now;
        Ok(None)
    }
}

/// Whether nothing in a folder was changed since a moment, or there is no such folder.
fn is_as(folder: &Path, since: Moment) -> bool {
    match std::fs::canonicalize(folder) {
        Ok(folder) => {
            changed_since(&folder, since, Scope::All).is_ok_and(|changed| changed.is_empty())
        }
        Err(error) => git::is_absent(&error),
    }
}

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
            references = KnownReferences::of(&project).map(Arc::new);
            groups = alike::untouched(&project, worktrees);
        }
        let look = |at: &usize| {
            let worktree = &worktrees[*at];
            if options.cancel.is_cancelled() {
                return Err(cancelled(Operation::DropWorktree, &worktree.path));
            }
            Self::check(worktree, &operation, &references, |now| {
                now.seen_since(since, EditsSince::LookedFor)
            })
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
        super::must_be_one_folder(worktree.path())?;
        worktree.must_be_no_loss(&seen, operation)?;
        Ok(Self { worktree, seen, references: references.clone() })
    }

    /// The worktree.
    #[must_use]
    pub fn worktree(&self) -> &Worktree {
        &self.worktree
    }

    /// Fails as a drop with [`DropOptions::delete_branch`] does because of the branch. Nothing is
    /// changed.
    ///
    /// # Errors
    /// [`ErrorKind::CommitsOnlyHere`] if nothing would be dropped, because nothing else has the
    /// branch's commits. [`ErrorKind::Git`] of [`Operation::DeleteBranch`] if the worktree would be
    /// dropped and its branch would stay.
    ///
    /// [`ErrorKind::CommitsOnlyHere`]: crate::ErrorKind::CommitsOnlyHere
    /// [`ErrorKind::Git`]: crate::ErrorKind::Git
    pub fn must_delete_branch(&self) -> Result<(), Error> {
        self.seen.loss.as_ref().map_or(Ok(()), |loss| loss.must_delete_branch(&self.worktree))
    }

    /// Drops the worktree as [`Worktree::drop`] does, without a second look at what did not change
    /// since the first one. If a reference of the project is gone or names something else since,
    /// commits may be in this worktree alone now, and what holds them is asked again.
    ///
    /// # Errors
    /// Those of [`Worktree::drop`].
    pub fn drop(self, how: &DropOptions, options: &StoreOptions) -> Result<DroppedWorktree, Error> {
        let still_hold = match (&self.references, self.worktree.store.repository()) {
            (Some(before), Ok(Some(project))) => before.still_hold(&project).ok(),
            (None, _) => self.seen.loss.is_none().then_some(None),
            (Some(_), _) => None,
        };
        let seen = match still_hold {
            Some(None) => Some(self.seen),
            Some(Some(all)) => self.worktree.seen_with(self.seen, &all, &options.operation()),
            None => None,
        };
        self.worktree.drop_seen(how, seen, options)
    }
}

impl Worktree {
    /// What was seen, with what holds the commits now that the project has these references. The
    /// tree is not looked at: what changed in it, and in its registration, shows after the rename.
    /// `None` if a look must tell: its branch was moved, it has repositories inside, or a drop would
    /// lose something.
    fn seen_with(
        &self,
        seen: Seen,
        references: &BTreeSet<Vec<u8>>,
        operation: &Running,
    ) -> Option<Seen> {
        let loss = seen.loss.as_ref().filter(|loss| loss.is_of_tree_alone())?;
        let work = loss.work.clone().filter(|_| seen.nested.is_empty())?;
        let head = work.head.as_ref()?;
        let is_where_it_was = match (&head.branch, &head.commit) {
            (Some(branch), Some(commit)) => {
                let its = format!("{commit} {}", git::branch_ref(branch));
                references.contains(its.as_bytes())
            }
            // `HEAD` is in the registration.
            (None, Some(_)) => true,
            (_, None) => false,
        };
        #[cfg(calve_check)]
        self.check_work(&seen, &work);
        let loss = is_where_it_was.then(|| self.git_loss_with(work))?;
        let seen = Seen { loss, ..seen };
        self.must_be_no_loss(&seen, operation).is_ok().then_some(seen)
    }
}

#[cfg(calve_check)]
impl Worktree {
    /// The checking build looks again.
    fn check_work(&self, seen: &Seen, work: &git::Work) {
        let now =
            self.git_loss(true, EditsSince::LookedFor(self.row.created)).and_then(|loss| loss.work);
        let is_still = changed_since(&self.path, seen.since, Scope::All)
            .is_ok_and(|changed| changed.is_empty())
            && super::registrations_changed(seen.loss.as_ref(), seen.since)
                .is_ok_and(|changed| changed.is_empty());
        crate::check::same_answer(&self.path, &now.as_ref(), &Some(work), is_still);
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

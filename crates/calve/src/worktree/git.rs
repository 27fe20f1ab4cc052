//! Asks git about worktrees: which branch they are on, which work in them is not committed, and
//! which commits a drop would lose.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Worktree;
use crate::error::{Error, ErrorKind, Operation};
use crate::store::git::modules::{self, Held, Unheld};
use crate::store::git::{self, Commit, Failure, Registration, Repository, Work};
use crate::store::{Store, StoreOptions};
use crate::tree::pool::lock;

mod branch;

pub(super) use branch::DoomedBranch;

/// The largest number of lost commits that an error names.
const COMMITS_MOST: usize = 20;

/// The answer of git about a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GitStatus {
    /// Whether the worktree is a linked worktree of the project's repository. If not, it has a
    /// repository of its own.
    pub is_linked: bool,
    /// The branch that the worktree is on. `None` if its `HEAD` is detached.
    pub branch: Option<String>,
    /// The commit that the worktree is at. `None` if there is no commit yet.
    pub commit: Option<String>,
    /// How many commits the worktree's `HEAD` has and the project's `HEAD` does not have. `None` if
    /// git cannot compare the two.
    pub ahead: Option<u64>,
    /// How many commits the project's `HEAD` has and the worktree's `HEAD` does not have. `None` if
    /// git cannot compare the two.
    pub behind: Option<u64>,
    /// How many paths are changed, staged, in conflict, or untracked and not ignored. git counts an
    /// untracked folder as one.
    pub changes: u64,
    /// Whether there are more changes than `changes` counts: git listed more than calve reads.
    pub has_more_changes: bool,
}

/// The repository that a worktree has.
pub(super) enum Own {
    /// The project's repository, which has these registrations of the worktree.
    Linked(Vec<Registration>),
    /// A repository of its own.
    Copy,
}

/// The work that a drop of the worktree would lose, according to git.
pub(super) struct Loss {
    own: Own,
    project: Option<Repository>,
    /// The work that is not committed. `None` if the tree is gone.
    pub(super) work: Option<Work>,
    tips: Vec<String>,
    /// Annotated tags that the project does not have.
    tags: Vec<Commit>,
    /// The commits that nothing else holds, the newest first and at most `COMMITS_MOST`, then
    /// `tags`, and then those of submodules.
    pub(super) commits: Vec<Commit>,
    submodules: Vec<LostModule>,
    /// Why git could not tell what a drop of the worktree would lose. Then the fields above are
    /// empty.
    pub(super) failure: Option<Failure>,
}

/// The commits and the work that a drop would lose in one submodule.
struct LostModule {
    held: Held,
    unheld: Result<Unheld, Failure>,
}

/// References that hold commits of a dropped worktree.
#[derive(Debug, Default)]
pub(super) struct KeptCommits {
    pub(super) references: Vec<String>,
    pub(super) in_submodules: Vec<(PathBuf, String)>,
}

impl Store {
    /// The answer of git about each of `worktrees`, in their order. `None` for a worktree without a
    /// repository. Several threads ask at once. git changes nothing, not even its indexes.
    pub fn git_status(
        &self,
        worktrees: &[Worktree],
        options: &StoreOptions,
    ) -> Vec<Result<Option<GitStatus>, Error>> {
        let project = self.repository();
        let head = project.as_ref().and_then(|project| project.head_commit().ok()?);
        let results: Vec<_> = worktrees.iter().map(|_| Mutex::new(Ok(None))).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((result, worktree)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                results.get(at).zip(worktrees.get(at))
            } {
                if options.cancel.is_cancelled() {
                    return;
                }
                *lock(result) = worktree.git_status_beside(project.as_ref(), head.as_deref());
            }
        };
        std::thread::scope(|scope| {
            // A thread spends half of its time waiting for git to start.
            for _ in 1..(options.operation().jobs() * 2).min(worktrees.len()) {
                let _ = std::thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let inner = |result: Mutex<_>| {
            result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        results.into_iter().map(inner).collect()
    }

    /// The project's repository, if it has one.
    fn repository(&self) -> Option<Repository> {
        git::read(&self.project().ok()?)
    }
}

impl Worktree {
    fn git_failed(&self, failure: Failure) -> Error {
        Error::new(ErrorKind::Git, Operation::AskGit, &self.path, failure)
    }

    fn git_status_beside(
        &self,
        project: Option<&Repository>,
        head: Option<&str>,
    ) -> Result<Option<GitStatus>, Error> {
        let is_linked = match self.own_repository()? {
            None => return Ok(None),
            Some(Own::Linked(_)) => true,
            Some(Own::Copy) => false,
        };
        let work = git::work_in(&self.path).map_err(|failure| self.git_failed(failure))?;
        let (branch, commit) = work.head.map_or((None, None), |head| (head.branch, head.commit));
        let objects = (!is_linked).then(|| objects_of(&self.path));
        let counts = match (project, head, commit.as_deref()) {
            (Some(project), Some(head), Some(commit)) => {
                project.ahead_and_behind(commit, head, objects.as_deref()).ok()
            }
            _ => None,
        };
        Ok(Some(GitStatus {
            is_linked,
            branch,
            commit,
            ahead: counts.map(|(ahead, _)| ahead),
            behind: counts.map(|(_, behind)| behind),
            changes: work.paths.len() as u64,
            has_more_changes: work.is_cut,
        }))
    }

    /// The repository that the worktree has. A linked worktree has one even if its tree is gone.
    fn own_repository(&self) -> Result<Option<Own>, Error> {
        let own = std::fs::symlink_metadata(git::git_of(&self.path));
        if own.is_ok_and(|own| own.is_dir()) {
            return Ok(Some(Own::Copy));
        }
        let registered = self.store.registry().registered(&self.row)?;
        Ok((!registered.is_empty()).then_some(Own::Linked(registered)))
    }

    /// What git would lose with the worktree. `None` if the worktree has no repository, or if git
    /// cannot be asked and there are no submodules. Then calve looks for changes itself.
    ///
    /// # Errors
    /// calve cannot find out whether it has one.
    pub(super) fn git_loss(&self, is_there: bool) -> Result<Option<Loss>, Error> {
        let project = self.store.repository();
        let Some(own) = self.own_repository()? else { return Ok(None) };
        let ask = || -> Result<_, Failure> {
            let work = if is_there { Some(git::whole_work_in(&self.path)?) } else { None };
            let (mut tips, mut objects) = (Vec::new(), None);
            match (&own, &project) {
                (Own::Linked(registered), Some(project)) => {
                    for registration in registered {
                        tips.extend(project.tips_of(registration)?);
                    }
                }
                _ => {
                    tips = git::tips_of_copy(&self.path)?;
                    objects = Some(objects_of(&self.path));
                }
            }
            let mut commits = match &project {
                Some(project) => project.unheld(&tips, COMMITS_MOST, None, objects.as_deref())?,
                None => tips.iter().map(|tip| Commit::unknown(tip)).collect(),
            };
            let mut tags = Vec::new();
            if let (Own::Copy, Some(project)) = (&own, &project) {
                let theirs = git::tags(&project.root)?;
                tags = git::tags(&self.path)?;
                tags.retain(|tag| theirs.iter().all(|their| their.id != tag.id));
                commits.extend_from_slice(&tags);
            }
            Ok((work, tips, tags, commits))
        };
        let (asked, submodules) = (ask(), self.lost_modules(&own, project.as_ref(), is_there));
        let (loss, failure) = match asked {
            Ok(loss) => (loss, None),
            Err(_) if submodules.is_empty() => return Ok(None),
            Err(failure) => ((None, Vec::new(), Vec::new(), Vec::new()), Some(failure)),
        };
        let (work, tips, tags, mut commits) = loss;
        for lost in &submodules {
            let of = lost.held.name();
            let Ok(unheld) = &lost.unheld else { continue };
            commits.extend(unheld.commits.iter().map(|commit| Commit {
                subject: format!("{} (in {of})", commit.subject),
                ..commit.clone()
            }));
        }
        Ok(Some(Loss { own, project, work, tips, tags, commits, submodules, failure }))
    }

    /// The work that a drop would lose in the worktree's submodules.
    fn lost_modules(
        &self,
        own: &Own,
        project: Option<&Repository>,
        is_there: bool,
    ) -> Vec<LostModule> {
        let git_dirs: Vec<PathBuf> = match own {
            Own::Linked(registered) => registered.iter().map(|it| it.folder.clone()).collect(),
            Own::Copy => vec![git::git_of(&self.path)],
        };
        // Nothing is at this path.
        let nowhere = git::git_of(&git::git_of(&self.path));
        let root = if is_there { self.path.as_path() } else { &nowhere };
        let project = project.map(|project| (project.git_dir.as_path(), project.root.as_path()));
        let mut lost = Vec::new();
        for git_dir in git_dirs {
            match modules::all_below((&git_dir, root), project) {
                Ok(found) => lost.extend(found.into_iter().map(|held| {
                    let other = held.in_project.as_ref();
                    let unheld = held.repository.unheld_but_by(other, COMMITS_MOST);
                    LostModule { held, unheld }
                })),
                Err(error) => lost.push(LostModule {
                    held: Held { repository: Repository::of_module(&git_dir), in_project: None },
                    unheld: Err(Failure::NotRun(error)),
                }),
            }
        }
        lost
    }
}

impl Loss {
    /// Makes references for the commits that nothing else holds: in the project's repository, and
    /// in its repositories of submodules.
    ///
    /// # Errors
    /// [`ErrorKind::Git`]. Some references may have been made.
    pub(super) fn keep(&self, worktree: &Worktree) -> Result<KeptCommits, Error> {
        let mut kept = KeptCommits::default();
        if self.commits.is_empty() {
            return Ok(kept);
        }
        let mut keep = || -> Result<(), Failure> {
            for LostModule { held, unheld } in &self.submodules {
                let (Ok(unheld), Some(project)) = (unheld, &held.in_project) else { continue };
                let from = Some(held.repository.git_dir.as_path());
                for tip in &unheld.tips {
                    let reference = project.keep_dropped(worktree.name(), tip, from)?;
                    kept.in_submodules.push((project.git_dir.clone(), reference));
                }
            }
            let Some(project) = &self.project else { return Ok(()) };
            let (from, objects) = match self.own {
                Own::Linked(_) => (None, None),
                Own::Copy => (Some(worktree.path()), Some(objects_of(worktree.path()))),
            };
            for tip in &self.tips {
                // A reference from an earlier round may hold this tip already.
                let tips = std::slice::from_ref(tip);
                let objects = objects.as_deref();
                if !project.unheld(tips, 1, None, objects)?.is_empty() {
                    kept.references.push(project.keep_dropped(worktree.name(), tip, from)?);
                }
            }
            for tag in &self.tags {
                kept.references.push(project.keep_dropped(worktree.name(), &tag.id, from)?);
            }
            Ok(())
        };
        keep().map_err(|failure| worktree.git_failed(failure))?;
        Ok(kept)
    }

    /// Whether a submodule has commits that no reference of the project can keep, because the
    /// project has no repository of this submodule.
    pub(super) fn has_commits_that_no_reference_keeps(&self) -> bool {
        self.submodules.iter().any(|lost| {
            let has_some = lost.unheld.as_ref().is_ok_and(|unheld| !unheld.tips.is_empty());
            has_some && lost.held.in_project.is_none()
        })
    }

    /// Whether a submodule has, or may have, such commits.
    pub(super) fn must_keep_a_submodule(&self) -> bool {
        self.has_commits_that_no_reference_keeps()
            || self.submodules.iter().any(|lost| lost.unheld.is_err())
    }

    /// Fails if a drop would lose something. Uncommitted work is not lost if `is_kept` says so.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`], [`ErrorKind::CommitsOnlyHere`]; [`ErrorKind::Git`] if
    /// `git worktree lock` has locked the worktree; the errors of `is_kept`.
    pub(super) fn must_be_nothing(
        &self,
        worktree: &Worktree,
        is_kept: impl FnOnce(&Work) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let refused = |kind, why: String| {
            Error::new(kind, Operation::DropWorktree, worktree.path(), std::io::Error::other(why))
        };
        if let Own::Linked(registered) = &self.own
            && let Some(reason) = registered.iter().find_map(|entry| entry.locked.as_deref())
        {
            let reason = String::from_utf8_lossy(reason);
            let why = match reason.trim() {
                "" => "it is locked; 'git worktree unlock' unlocks it".to_owned(),
                reason => format!("it is locked ({reason}); 'git worktree unlock' unlocks it"),
            };
            return Err(refused(ErrorKind::Git, why));
        }
        if let Some(work) = self.work.as_ref().filter(|work| !work.paths.is_empty())
            && !is_kept(work)?
        {
            let more = if work.is_cut { ", more than these paths" } else { "" };
            let why = format!("it has work that is not committed{more}");
            return Err(refused(ErrorKind::Changed, why).with_details(work.paths.clone()));
        }
        let unknown =
            self.submodules.iter().find_map(|lost| Some((lost, lost.unheld.as_ref().err()?)));
        if let Some((lost, failure)) = unknown {
            let of = lost.held.name();
            let why = format!("git cannot say which commits of {of} would be lost: {failure}");
            return Err(refused(ErrorKind::Git, why));
        }
        if self.commits.is_empty() {
            return Ok(());
        }
        Err(unheld(
            worktree,
            "it has commits that no branch or other reference holds",
            &self.commits,
        ))
    }
}

/// The error of a drop that would lose commits.
fn unheld(worktree: &Worktree, why: &str, commits: &[Commit]) -> Error {
    let cause = std::io::Error::other(why.to_owned());
    let lines = commits.iter().map(|commit| {
        let id = commit.id.get(..12).unwrap_or(&commit.id);
        PathBuf::from(format!("{id} {}", commit.subject).trim_end())
    });
    Error::new(ErrorKind::CommitsOnlyHere, Operation::DropWorktree, worktree.path(), cause)
        .with_details(lines.collect())
}

fn objects_of(root: &Path) -> PathBuf {
    git::git_of(root).join("objects")
}

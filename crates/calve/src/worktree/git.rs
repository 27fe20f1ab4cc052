//! Asks git about worktrees: which branch they are on, which work in them is not committed, and
//! which commits a drop would lose.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use super::Worktree;
use super::remove::look::Moment;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::store::git::branch::Mainline;
use crate::store::git::modules::{self, Held, TreeAndGitDir, Unheld};
use crate::store::git::{
    self, Commit, EditsSince, Failure, Head, Registration, Repository, Tips, Tree, Work,
};
use crate::store::{Store, StoreOptions, home};
use crate::tree::mounts;
use crate::tree::pool::lock;
use crate::tree::staging;

pub(super) mod alike;
mod branch;
mod merged;
mod nested;

pub(super) use branch::DoomedBranch;
pub(super) use merged::MergeState;
pub use nested::must_lose_no_work;
pub(super) use nested::nested_work_in;

/// git writes each move of `HEAD` there.
const HEAD_LOG: &str = "logs/HEAD";

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
    /// Whether something was committed in the worktree and the project's `HEAD` has all of it. A
    /// merge that made other commits of it, such as a squash, is not seen; [`DropFilter::merged`]
    /// finds it. `false` for a worktree on a branch that is where the worktree was started.
    ///
    /// [`DropFilter::merged`]: crate::DropFilter::merged
    pub is_merged: bool,
    /// When the worktree was last worked in, as far as git tells without a look at each file: its
    /// `HEAD` moved, or a path that is not committed changed. `None` if neither is known.
    /// [`Worktree::last_change`] looks at all files.
    pub last_work: Option<SystemTime>,
    /// How many paths are changed, staged, in conflict, or untracked and not ignored. git counts an
    /// untracked folder as one.
    pub changes: u64,
    /// Whether there are more changes than `changes` counts: git listed more than calve reads.
    pub has_more_changes: bool,
}

/// What git knows of a worktree.
#[derive(Default)]
pub(super) struct Own {
    /// The registrations of the worktree in the project's repository.
    registered: Vec<Registration>,
    /// The working tree, to ask git about it. `None`: the tree is gone.
    tree: Option<Tree>,
    /// A repository of its own, in the tree.
    copy: Option<Repository>,
}

/// The work that a drop of the worktree would lose, according to git.
#[derive(Default)]
pub(super) struct Loss {
    own: Own,
    project: Option<Repository>,
    /// The work that is not committed. `None` if the tree is gone.
    pub(super) work: Option<Work>,
    tips: Vec<String>,
    /// Annotated tags, and objects of other kinds, that the project does not have.
    objects: Vec<Commit>,
    /// The commits that nothing else holds, the newest first and at most `COMMITS_MOST`, then
    /// `objects`, and then those of submodules.
    pub(super) commits: Vec<Commit>,
    /// Commits that the worktree has left, such as amended ones, and that nothing else holds. A drop
    /// does not refuse because of them: a reference keeps them.
    left: Vec<String>,
    submodules: Vec<LostModule>,
    /// Linked worktrees, elsewhere, of the repositories that go with the worktree.
    elsewhere: Vec<PathBuf>,
    /// Repositories that go with the worktree and have contents of git-annex. The project has no
    /// repository at the same place.
    annexed: Vec<PathBuf>,
    /// Why git could not tell all that a drop of the worktree would lose. What git did tell is in
    /// the fields above.
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

impl KeptCommits {
    /// These, and those that were made before.
    pub(super) fn after(self, mut earlier: Self) -> Self {
        earlier.references.extend(self.references);
        earlier.references.dedup();
        earlier.in_submodules.extend(self.in_submodules);
        earlier.in_submodules.dedup();
        earlier
    }
}

impl Store {
    /// The answer of git about each of `worktrees`, in their order. `None` for a worktree without a
    /// repository. Several threads ask at once. git changes nothing, not even its indexes.
    ///
    /// On btrfs calve knows without a look which worktrees nobody touched since their start. Of
    /// those that are alike, git looks at one. To know it, calve may have the filesystem write what
    /// it has in memory, if that takes less time than the looks.
    pub fn git_status(
        &self,
        worktrees: &[Worktree],
        options: &StoreOptions,
    ) -> Vec<Result<Option<GitStatus>, Error>> {
        let project = self.repository().ok().flatten();
        let head = project.as_ref().and_then(|project| project.head_commit().ok()?);
        let jobs = options.operation().jobs();
        let ask = |asked: &[usize]| {
            by_threads(asked, jobs, |at: &usize| match options.cancel.is_cancelled() {
                true => Ok(None),
                false => worktrees[*at].git_status_beside(project.as_ref(), head.as_deref()),
            })
        };
        let since = Moment::now();
        let alike = project.as_ref().map(|project| alike::untouched(project, worktrees));
        let alike = alike.unwrap_or_default();
        let mut answers: Vec<_> = worktrees.iter().map(|_| Ok(None)).collect();
        let first = alike::without_others(&alike, worktrees.len());
        for (at, answer) in first.iter().zip(ask(&first)) {
            answers[*at] = answer;
        }
        let mut left = Vec::new();
        for group in &alike {
            let others = group.others.iter().map(|it| it.at);
            let Ok(Some(status)) = &answers[group.first.at] else {
                left.extend(others);
                continue;
            };
            let (status, is_linked) = (status.clone(), status.is_linked);
            if !is_linked || !group.may_follow(worktrees, status.commit.as_deref(), since) {
                left.extend(others);
                continue;
            }
            #[cfg(calve_check)]
            group.check(worktrees, &status);
            for it in &group.others {
                let (branch, worktree) = (it.head.branch.clone(), &worktrees[it.at]);
                // Nobody worked in it since its start.
                let last_work = git::leads_to(&worktree.path).ok();
                let last_work = last_work.and_then(|own| worktree.last_work(&own, &[]));
                answers[it.at] = Ok(Some(GitStatus { branch, last_work, ..status.clone() }));
            }
        }
        for (at, answer) in left.iter().zip(ask(&left)) {
            answers[*at] = answer;
        }
        answers
    }

    /// The project's repository, if it has one.
    pub(super) fn repository(&self) -> Result<Option<Repository>, Failure> {
        let project = self.project().map_err(|error| Failure::Refused(error.to_string()))?;
        home::of_project(self.path(), &project)
            .map_err(|error| unread(&git::git_of(&project), &error))
    }
}

/// Does `work` for each of `items` with several threads. The results are in the order of the items.
pub(super) fn by_threads<I: Sync, T: Send>(
    items: &[I],
    jobs: usize,
    work: impl Fn(&I) -> T + Sync,
) -> Vec<T> {
    let results: Vec<Mutex<Option<T>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some((result, item)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            results.get(at).zip(items.get(at))
        } {
            *lock(result) = Some(work(item));
        }
    };
    std::thread::scope(|scope| {
        // A thread spends half of its time waiting for git to start.
        for _ in 1..(jobs * 2).min(items.len()) {
            let _ = std::thread::Builder::new().spawn_scoped(scope, worker);
        }
        worker();
    });
    let inner =
        |result: Mutex<_>| result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.into_iter().filter_map(inner).collect()
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
        let failed = |failure| self.git_failed(failure);
        let own = self.own_repository(true, project).map_err(failed)?;
        let Some(tree) = own.tree else { return Ok(None) };
        let is_linked = own.copy.is_none();
        let mut work = git::work_in(&tree).map_err(failed)?;
        self.sweep_stages(&mut work);
        let last_work = self.last_work(&tree.git_dir, &work.paths);
        let (branch, commit) = work.head.map_or((None, None), |head| (head.branch, head.commit));
        let objects = (!is_linked).then(|| objects_of(&self.path));
        let counts = match (project, head, commit.as_deref()) {
            (Some(project), Some(head), Some(commit)) => {
                project.ahead_and_behind(commit, head, objects.as_deref()).ok()
            }
            _ => None,
        };
        let is_where_it_began = self.row.git.as_ref().map(|it| &it.commit) == commit.as_ref();
        let is_held = counts.is_some_and(|(ahead, _)| ahead == 0);
        let mut is_merged = is_linked
            && is_held
            && !is_where_it_began
            && merged::may_have_committed(&tree.git_dir)
            && tree.under_way().map_err(failed)?.is_empty();
        if let (true, Some(project), Some(head)) = (is_merged, project, head) {
            let mainline = Mainline { name: String::new(), commit: head.to_owned() };
            let left = self.left_unmerged(project, branch.as_deref(), &[mainline]);
            is_merged = !left.map_err(failed)?;
        }
        Ok(Some(GitStatus {
            is_linked,
            is_merged,
            branch,
            commit,
            last_work,
            ahead: counts.map(|(ahead, _)| ahead),
            behind: counts.map(|(_, behind)| behind),
            changes: work.paths.len() as u64,
            has_more_changes: work.is_cut,
        }))
    }

    /// Removes what a killed restore left in the root, and from `work` what a living one has there.
    fn sweep_stages(&self, work: &mut Work) {
        let is_stage = |path: &PathBuf| {
            let name = path.as_os_str().as_encoded_bytes();
            name.starts_with(staging::PREFIX.as_bytes())
        };
        if work.paths.iter().any(is_stage)
            && let Ok(root) = super::open_dir(&self.path)
        {
            staging::sweep(&root);
            work.paths.retain(|path| !is_stage(path));
        }
    }

    /// The latest time at which `HEAD` moved or one of these paths changed.
    fn last_work(&self, git_dir: &Path, paths: &[PathBuf]) -> Option<SystemTime> {
        let changed = |path: PathBuf| std::fs::symlink_metadata(path)?.modified();
        let paths = paths.iter().map(|path| self.path.join(path));
        paths.chain([git_dir.join(HEAD_LOG)]).filter_map(|path| changed(path).ok()).max()
    }

    /// What git knows of the worktree. A linked worktree is registered even if its tree is gone.
    /// `project` is the project's repository, if that is known.
    ///
    /// # Errors
    /// A file of git could not be read, or the tree's `.git` leads to something else.
    fn own_repository(&self, is_there: bool, project: Option<&Repository>) -> Result<Own, Failure> {
        let registry = self.store.registry();
        let registered = || -> Result<_, Error> {
            let known = match project {
                Some(project) => registry.registered_in(project, &self.row)?,
                None => registry.registered(&self.row)?,
            };
            let is_again = known.is_empty() && registry.register_pruned(&self.row)?.is_some();
            if is_again { registry.registered(&self.row) } else { Ok(known) }
        };
        let registered = registered().map_err(|error| Failure::Refused(error.to_string()))?;
        let mut own = Own { registered, tree: None, copy: None };
        // Nothing is left of a repository that was in the tree.
        if !is_there {
            return Ok(own);
        }
        let git_file = git::git_of(&self.path);
        own.tree = match std::fs::metadata(&git_file) {
            Ok(found) if found.is_dir() => Tree::at(&self.path)?,
            Ok(_) => match git::leads_to(&self.path) {
                // Its registration was pruned.
                Ok(folder) if std::fs::symlink_metadata(&folder).is_err_and(is_absent) => None,
                Err(error) if git::leads_nowhere(&error) => None,
                _ => Tree::at(&self.path)?,
            },
            Err(error) if git::is_absent(&error) => Tree::at(&self.path)?,
            Err(error) => return Err(unread(&git_file, &error)),
        };
        let is_copy = own.tree.as_ref().is_some_and(|tree| tree.git_dir == git_file);
        if is_copy {
            own.copy = git::read(&self.path).map_err(|error| unread(&git_file, &error))?;
        } else if own.tree.is_none() {
            own.tree = own.registered.first().map(|entry| Tree::of(entry, &self.path));
        } else if let Some(tree) = &own.tree
            && !own.registered.iter().any(|entry| git::is_same(&entry.folder, &tree.git_dir))
        {
            let why = format!("it leads to {}, which is not the project's", tree.git_dir.display());
            return Err(Failure::Refused(format!("{}: {why}", git_file.display())));
        }
        Ok(own)
    }

    /// What git would lose with the worktree. `None` if the worktree has no repository. Then calve
    /// looks for changes itself. Whatever git cannot say is not known: see [`Loss::failure`].
    pub(super) fn git_loss(&self, is_there: bool, edits: EditsSince) -> Option<Loss> {
        self.git_loss_by(is_there, |tree| git::whole_work_in(tree, edits))
    }

    /// The same for a worktree that nobody touched, and of which one that is alike has no work.
    pub(super) fn git_loss_untouched(&self, head: &Head) -> Option<Loss> {
        self.git_loss_by(true, |tree| git::work_beside(tree, head))
    }

    /// The same for a worktree whose work is known.
    pub(super) fn git_loss_with(&self, work: Work) -> Option<Loss> {
        self.git_loss_by(true, |_| Ok(work))
    }

    fn git_loss_by(
        &self,
        is_there: bool,
        work_in: impl FnOnce(&Tree) -> Result<Work, Failure>,
    ) -> Option<Loss> {
        let mut loss = Loss::default();
        let project = self.store.repository();
        let known = project.as_ref().ok().and_then(Option::as_ref);
        let own = loss.known(self.own_repository(is_there, known));
        loss.project = loss.known(project).flatten();
        loss.own = own.unwrap_or_default();
        if loss.own.is_nothing() {
            return loss.failure.is_some().then_some(loss);
        }
        if let Some(tree) = &loss.own.tree {
            let work = work_in(tree);
            loss.work = loss.known(work);
        }
        let tips = loss.own.tips(loss.project.as_ref());
        let tips = loss.known(tips).unwrap_or_default();
        let objects = loss.own.copy.as_ref().map(|copy| copy.common.join("objects"));
        if let Some(project) = &loss.project {
            let commits = project.unheld(&tips.commits, COMMITS_MOST, None, objects.as_deref());
            let not_named = project.not_named(tips.objects);
            loss.commits = loss.known(commits).unwrap_or_default();
            loss.objects = loss.known(not_named).unwrap_or_default();
        } else {
            loss.commits = tips.commits.iter().map(|tip| Commit::unknown(tip)).collect();
            loss.objects = tips.objects;
        }
        let left = loss.commits_left(&tips.commits);
        loss.left = loss.known(left).unwrap_or_default();
        loss.tips = tips.commits;
        loss.commits.extend_from_slice(&loss.objects);
        loss.submodules = self.lost_modules(&loss.own, loss.project.as_ref(), is_there);
        let gone: Vec<Held> = loss.submodules.iter().map(|lost| lost.held.clone()).collect();
        let copy = loss.own.copy.clone().map(|repository| Held {
            repository,
            in_project: loss.project.clone(),
            is_submodule: false,
        });
        for held in copy.iter().chain(&gone) {
            loss.add_beside_commits(&self.path, held);
        }
        for lost in &loss.submodules {
            let of = lost.held.name();
            let Ok(unheld) = &lost.unheld else { continue };
            loss.commits.extend(unheld.commits.iter().map(|commit| Commit {
                subject: format!("{} (in {of})", commit.subject),
                ..commit.clone()
            }));
        }
        Some(loss)
    }

    /// The work that a drop would lose in the worktree's submodules.
    fn lost_modules(
        &self,
        own: &Own,
        project: Option<&Repository>,
        is_there: bool,
    ) -> Vec<LostModule> {
        let registered = own.registered.iter().map(|it| it.folder.clone());
        let copied = own.copy.iter().map(|copy| copy.git_dir.clone());
        let git_dirs: Vec<PathBuf> = registered.chain(copied).collect();
        // Nothing is at this path.
        let nowhere = git::git_of(&git::git_of(&self.path));
        let root = if is_there { self.path.as_path() } else { &nowhere };
        let project = project.map(|it| TreeAndGitDir { root: &it.root, git_dir: &it.git_dir });
        let mut lost = Vec::new();
        for git_dir in git_dirs {
            match modules::all_below(TreeAndGitDir { root, git_dir: &git_dir }, project) {
                Ok(found) => lost.extend(found.into_iter().map(|held| {
                    let other = held.in_project.as_ref();
                    let unheld = held.repository.unheld_but_by(other, Some(root), COMMITS_MOST);
                    LostModule { held, unheld }
                })),
                Err(error) => lost.push(LostModule {
                    held: Held {
                        repository: Repository::of_module(&git_dir),
                        in_project: None,
                        is_submodule: true,
                    },
                    unheld: Err(Failure::NotRun(error)),
                }),
            }
        }
        lost
    }
}

impl Own {
    fn is_nothing(&self) -> bool {
        self.registered.is_empty() && self.tree.is_none() && self.copy.is_none()
    }

    /// What nothing but the worktree may hold.
    fn tips(&self, project: Option<&Repository>) -> Result<Tips, Failure> {
        let mut tips = self.copy.as_ref().map_or(Ok(Tips::default()), Repository::tips_of_copy)?;
        for registration in &self.registered {
            let Some(project) = project else { continue };
            let own = project.tips_of(registration)?;
            tips.commits.extend(own.commits);
            tips.objects.extend(own.objects);
        }
        Ok(tips)
    }
}

impl Loss {
    /// The answer to a question. Without one, the loss is not known.
    fn known<T>(&mut self, answer: Result<T, Failure>) -> Option<T> {
        match answer {
            Ok(answer) => Some(answer),
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// Whether all that goes with the worktree is in its working tree and in the project's
    /// repository, as far as git told all of it.
    pub(super) fn is_of_tree_alone(&self) -> bool {
        self.failure.is_none()
            && self.own.copy.is_none()
            && self.submodules.is_empty()
            && self.elsewhere.is_empty()
            && self.annexed.is_empty()
    }

    /// Adds what is lost beside commits if this repository goes with the tree at `root`: linked
    /// worktrees elsewhere would be without one, and contents of git-annex may be nowhere else.
    fn add_beside_commits(&mut self, root: &Path, held: &Held) {
        let other = held.in_project.as_ref().map(|other| other.common.as_path());
        let common = &held.repository.common;
        let found = git::worktrees_outside(root, common, other);
        let found = self.known(found.map_err(|error| unread(common, &error)));
        self.elsewhere.extend(found.unwrap_or_default());
        if other.is_none() {
            let annexed = held.repository.has_annexed().map_err(|error| unread(common, &error));
            if self.known(annexed) == Some(true) {
                self.annexed.push(common.clone());
            }
        }
    }

    /// Gives the project's repositories the contents of git-lfs and git-annex that go with the
    /// worktree. Commits that were fetched from there have only their names.
    fn keep_contents(&self) -> Result<(), Error> {
        let modules = self.submodules.iter().map(|lost| &lost.held);
        let modules = modules.map(|held| (&held.repository, held.in_project.as_ref()));
        let copy = self.own.copy.iter().map(|copy| (copy, self.project.as_ref()));
        for (from, to) in modules.chain(copy) {
            if let Some(to) = to {
                to.take_contents(from).context(Operation::CopyRepository, || &from.common)?;
            }
        }
        Ok(())
    }

    /// The commits that the worktree has left and that nothing else holds, without those that are
    /// held by `tips`.
    fn commits_left(&self, tips: &[String]) -> Result<Vec<String>, Failure> {
        let Some(project) = &self.project else { return Ok(Vec::new()) };
        let head = self.work.as_ref().and_then(|work| work.head.as_ref()?.commit.as_deref());
        let copy = self.own.copy.as_ref();
        let mut left = Vec::new();
        let registered = self.own.registered.iter().map(|it| &it.folder);
        for git_dir in registered.chain(copy.map(|copy| &copy.git_dir)) {
            left.extend(Repository::left_by(git_dir, head)?);
        }
        project.unheld_heads(&left, tips, copy)
    }

    /// Makes references for the commits that nothing else holds: in the project's repository, and
    /// in its repositories of submodules. Also gives them the contents of git-lfs and git-annex.
    ///
    /// # Errors
    /// [`ErrorKind::Git`]; contents could not be read or given. Some references may have been made.
    pub(super) fn keep(&self, worktree: &Worktree) -> Result<KeptCommits, Error> {
        self.keep_contents()?;
        let mut kept = KeptCommits::default();
        if self.commits.is_empty() && self.left.is_empty() && self.failure.is_none() {
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
            let copy = self.own.copy.as_ref();
            let from = copy.map(|_| worktree.path());
            let objects = copy.map(|copy| copy.common.join("objects"));
            for tip in &self.tips {
                // A reference from an earlier round may hold this tip already.
                let tips = std::slice::from_ref(tip);
                let objects = objects.as_deref();
                if !project.unheld(tips, 1, None, objects)?.is_empty() {
                    kept.references.push(project.keep_dropped(worktree.name(), tip, from)?);
                }
            }
            if let Some(holder) = copy.unwrap_or(project).holder_of(&self.left)? {
                kept.references.push(project.keep_dropped(worktree.name(), &holder, from)?);
            }
            for object in &self.objects {
                kept.references.push(project.keep_dropped(worktree.name(), &object.id, from)?);
            }
            Ok(())
        };
        match keep() {
            // The tree is kept with its registration: see `must_keep_the_tree`. A reference also
            // keeps its commits from `git gc --prune=now`.
            Err(_) if self.failure.is_some() => {
                if let (Some(project), None) = (&self.project, &self.own.copy) {
                    for tip in &self.tips {
                        let reference = project.keep_dropped_unasked(worktree.name(), tip);
                        let reference = reference.map_err(|error| {
                            worktree.git_failed(unread(&project.common, &error))
                        })?;
                        kept.references.extend(reference);
                    }
                }
                Ok(kept)
            }
            kept_all => kept_all.map(|()| kept).map_err(|failure| worktree.git_failed(failure)),
        }
    }

    /// Whether a submodule has commits that no reference of the project can keep, because the
    /// project has no repository of this submodule.
    fn has_commits_that_no_reference_keeps(&self) -> bool {
        self.submodules.iter().any(|lost| {
            let has_some = lost.unheld.as_ref().is_ok_and(|unheld| !unheld.tips.is_empty());
            has_some && lost.held.in_project.is_none()
        })
    }

    /// Makes a commit of what is staged. The caller gives it a reference, as it does for the other
    /// commits. Otherwise git would delete the staged contents once the registration with its index
    /// is gone. Returns what no commit can hold. `scratch` is a path for a file.
    ///
    /// # Errors
    /// git could not be asked.
    pub(super) fn add_staged(&mut self, scratch: &Path) -> Result<Vec<PathBuf>, Failure> {
        let mut others = Vec::new();
        for entry in &self.own.registered {
            let staged = git::staged_in(&entry.folder, scratch)?;
            others.extend(staged.others);
            if let Some(commit) = staged.commit {
                self.commits.push(Commit::unknown(&commit));
                self.tips.push(commit);
            }
        }
        Ok(others)
    }

    /// The same before a tree is kept. If git cannot make the commit, the registration is kept, too.
    pub(super) fn add_staged_of_kept(&mut self, scratch: &Path) {
        let is_work = |work: &Work| work.is_cut || !work.paths.is_empty();
        if self.failure.is_none() && self.work.as_ref().is_some_and(is_work) {
            let added = self.add_staged(scratch);
            self.known(added);
        }
    }

    /// Whether the tree, which is not at `path`, may be on a mount that is not there now: it was on
    /// another one than the repository, and its place is on the same one.
    pub(super) fn is_on_a_mount_that_is_gone(&self, path: &Path) -> bool {
        let place = path.ancestors().find(|place| std::fs::symlink_metadata(place).is_ok());
        self.own.registered.iter().any(|entry| {
            let is_here = |place| mounts::are_on_one_mount(place, &entry.folder) == Some(true);
            entry.is_elsewhere() && place.is_some_and(is_here)
        })
    }

    /// Whether references may not be enough to keep what would be lost with a tree that is gone.
    pub(super) fn cannot_be_kept_by_references(&self) -> bool {
        self.failure.is_some()
            || !self.elsewhere.is_empty()
            || !self.annexed.is_empty()
            || self.has_commits_that_no_reference_keeps()
    }

    /// Whether the tree must be kept, with its registration, although it is dropped by force: a
    /// submodule has, or may have, such commits, worktrees elsewhere need a repository in it, or git
    /// could not tell what would be lost.
    pub(super) fn must_keep_the_tree(&self) -> bool {
        self.has_commits_that_no_reference_keeps()
            || !self.elsewhere.is_empty()
            || !self.annexed.is_empty()
            || self.failure.is_some()
            || self.submodules.iter().any(|lost| lost.unheld.is_err())
    }

    /// Fails if the worktree is locked, if linked worktrees elsewhere need a repository that goes
    /// with it, or if git could not say what a drop would lose.
    ///
    /// # Errors
    /// [`ErrorKind::Git`], [`ErrorKind::Overlap`].
    fn must_be_known(&self, worktree: &Worktree) -> Result<(), Error> {
        let refused = |why| {
            let cause = std::io::Error::other(why);
            Error::new(ErrorKind::Git, Operation::DropWorktree, worktree.path(), cause)
        };
        let mut registered = self.own.registered.iter();
        if let Some(reason) = registered.find_map(|entry| entry.locked_by_others()) {
            let reason = String::from_utf8_lossy(reason);
            return Err(refused(match reason.trim() {
                "" => "it is locked; 'git worktree unlock' unlocks it".to_owned(),
                reason => format!("it is locked ({reason}); 'git worktree unlock' unlocks it"),
            }));
        }
        if !self.elsewhere.is_empty() {
            let why = "repositories in it have linked worktrees elsewhere";
            let cause = std::io::Error::new(std::io::ErrorKind::ResourceBusy, why);
            let path = worktree.path();
            return Err(Error::new(ErrorKind::Overlap, Operation::DropWorktree, path, cause)
                .with_details(self.elsewhere.clone()));
        }
        if !self.annexed.is_empty() {
            let why = "repositories in it have contents of git-annex that no other has, as far as calve knows";
            let cause = std::io::Error::new(std::io::ErrorKind::Unsupported, why);
            let path = worktree.path();
            return Err(Error::new(ErrorKind::Changed, Operation::DropWorktree, path, cause)
                .with_details(self.annexed.clone()));
        }
        if let Some(failure) = &self.failure {
            return Err(refused(format!("git cannot say what would be lost: {failure}")));
        }
        let unknown =
            self.submodules.iter().find_map(|lost| Some((lost, lost.unheld.as_ref().err()?)));
        if let Some((lost, failure)) = unknown {
            let of = lost.held.name();
            let why = format!("git cannot say which commits of {of} would be lost: {failure}");
            return Err(refused(why));
        }
        Ok(())
    }

    /// Fails if references cannot keep the commits of a worktree whose tree is gone.
    ///
    /// # Errors
    /// [`ErrorKind::CommitsOnlyHere`]; [`ErrorKind::Overlap`] if linked worktrees elsewhere need a
    /// repository in it; [`ErrorKind::Git`] if the worktree is locked, or if git could not say what
    /// would be lost.
    pub(super) fn must_be_kept_by_references(&self, worktree: &Worktree) -> Result<(), Error> {
        self.must_be_known(worktree)?;
        match self.has_commits_that_no_reference_keeps() {
            true => Err(self.unheld(worktree)),
            false => Ok(()),
        }
    }

    /// Fails if a drop would lose something. Uncommitted work is not lost if `is_kept` says so.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`], [`ErrorKind::CommitsOnlyHere`]; [`ErrorKind::Overlap`] if linked
    /// worktrees elsewhere need a repository in it; [`ErrorKind::Git`] if
    /// `git worktree lock` has locked the worktree, or if git could not say what would be lost; the
    /// errors of `is_kept`.
    pub(super) fn must_be_nothing(
        &self,
        worktree: &Worktree,
        is_kept: impl FnOnce(&Work) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        self.must_be_known(worktree)?;
        if let Some(work) = self.work.as_ref().filter(|work| !work.paths.is_empty())
            && !is_kept(work)?
        {
            let more = if work.is_cut { ", more than these paths" } else { "" };
            let cause = std::io::Error::other(format!("it has work that is not committed{more}"));
            let path = worktree.path();
            return Err(Error::new(ErrorKind::Changed, Operation::DropWorktree, path, cause)
                .with_details(work.paths.clone()));
        }
        if self.commits.is_empty() { Ok(()) } else { Err(self.unheld(worktree)) }
    }

    fn unheld(&self, worktree: &Worktree) -> Error {
        let why = "it has commits that no branch or other reference holds";
        unheld(worktree.path(), Operation::DropWorktree, why, &self.commits)
    }
}

/// The error of a drop that would lose commits.
fn unheld(path: &Path, operation: Operation, why: &str, commits: &[Commit]) -> Error {
    let cause = std::io::Error::other(why.to_owned());
    let lines = commits.iter().map(|commit| {
        let id = commit.id.get(..12).unwrap_or(&commit.id);
        PathBuf::from(format!("{id} {}", commit.subject).trim_end())
    });
    Error::new(ErrorKind::CommitsOnlyHere, operation, path, cause).with_details(lines.collect())
}

fn objects_of(root: &Path) -> PathBuf {
    git::git_of(root).join("objects")
}

fn is_absent(error: std::io::Error) -> bool {
    git::is_absent(&error)
}

/// The failure of a look at git's own files.
fn unread(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Refused(format!("{}: {error}", path.display()))
}

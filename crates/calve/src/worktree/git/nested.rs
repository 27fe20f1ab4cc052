//! What a drop would lose in repositories inside the worktree that are no submodules.

use std::io;
use std::path::{Path, PathBuf};

use super::super::remove::look::{Nested, nested_in};
use super::super::remove::seen::must_hold_no_mount;
use super::{COMMITS_MOST, Loss, LostModule, unheld, unread};
use crate::error::{Error, ErrorKind, Operation};
use crate::store::git::modules::{Held, MODULES, Unheld, repositories_in};
use crate::store::git::{
    self, Commit, EditsSince, Failure, Registration, Repository, Tree, whole_work_in,
};
use crate::store::layout::GIT;

/// The uncommitted work in the repositories inside the tree at `root`: paths from there. Of one
/// about which git cannot say it all, that is its whole working tree. `made` is the second in which
/// the tree was made.
pub(in crate::worktree) fn nested_work_in((root, made): (&Path, i64)) -> Vec<PathBuf> {
    let mut work = Vec::new();
    for repository in nested_in(root).repositories {
        let Some(at) = repository.parent().filter(|_| repository.ends_with(GIT)) else { continue };
        let found = Tree::at(&root.join(at)).and_then(|tree| {
            tree.map(|tree| whole_work_in(&tree, EditsSince::LookedFor(made))).transpose()
        });
        match found {
            Ok(Some(found)) if !found.is_cut => {
                work.extend(found.paths.into_iter().map(|path| at.join(path)));
            }
            Ok(None) => {}
            _ => work.push(at.to_owned()),
        }
    }
    work
}

/// Fails if the linked worktree at `root` has commits or work that nothing else has, also in
/// repositories inside that git ignores, or if something is mounted in it. It needs no store: `git
/// worktree remove` deletes much of this without a question. Submodules are not looked at.
///
/// # Errors
/// [`ErrorKind::Changed`], [`ErrorKind::CommitsOnlyHere`], [`ErrorKind::Overlap`], with what there is
/// in [`Error::details`]; [`ErrorKind::Git`] if git could not say what they have.
pub fn must_lose_no_work(root: impl AsRef<Path>) -> Result<(), Error> {
    let root = root.as_ref();
    must_hold_no_mount(root)?;
    let refused = |kind, cause| Error::new(kind, Operation::DropWorktree, root, cause);
    let nested = nested_in(root);
    let mut loss = Loss::default().with_nested((root, 0), &nested.repositories);
    let (own, commits) = loss.known(work_and_commits_of(root)).unwrap_or_default();
    loss.commits.extend(commits);
    if let Some(failure) = loss.failure {
        return Err(refused(ErrorKind::Git, failure.into()));
    }
    let work = loss.work.map(|work| work.paths).unwrap_or_default();
    let Nested { foreign, stores, strays, .. } = nested;
    let work = [own, work, foreign, stores, strays, loss.elsewhere, loss.annexed].concat();
    if !work.is_empty() {
        let cause = io::Error::other("it has work that is not committed");
        return Err(refused(ErrorKind::Changed, cause).with_details(work));
    }
    match loss.commits.is_empty() {
        true => Ok(()),
        false => {
            let why = "it has commits that no branch or other reference holds";
            Err(unheld(root, Operation::DropWorktree, why, &loss.commits))
        }
    }
}

/// The paths with uncommitted work of the linked worktree at `root`, and the commits that only it
/// holds.
fn work_and_commits_of(root: &Path) -> Result<(Vec<PathBuf>, Vec<Commit>), Failure> {
    let read = |error: io::Error| unread(root, &error);
    let (Some(tree), Some(repository)) = (Tree::at(root)?, git::read(root).map_err(read)?) else {
        return Ok(Default::default());
    };
    let work = whole_work_in(&tree, EditsSince::LookedFor(0))?;
    let Some(registration) = Registration::read(tree.git_dir).map_err(read)? else {
        return Ok((work.paths, Vec::new()));
    };
    let tips = repository.tips_of(&registration)?.commits;
    Ok((work.paths, repository.unheld(&tips, COMMITS_MOST, None, None)?))
}

impl Loss {
    /// Adds the commits of the repositories at these paths in the tree at `root`, and the work in
    /// their working trees. git does not list it for the tree at `root` if that ignores the folder.
    /// `made` is the second in which the tree was made.
    pub(in crate::worktree) fn with_nested(
        mut self,
        (root, made): (&Path, i64),
        repositories: &[PathBuf],
    ) -> Self {
        for path in repositories {
            let git_dir = root.join(path);
            if git_dir.is_symlink() && git_dir.is_dir() {
                // The repository is elsewhere, and stays.
                self.add_work_of((root, made), path);
                continue;
            }
            if git_dir.is_file() {
                self.add_commits_of_linked(&git_dir);
                self.add_work_of((root, made), path);
                continue;
            }
            if self.submodules.iter().any(|lost| lost.held.repository.git_dir == git_dir) {
                continue;
            }
            // A repository that is cloned with its submodules has theirs in it.
            let modules = path.join(MODULES);
            let below = repositories_in(&root.join(&modules));
            let below = self.known(below.map_err(|error| unread(&root.join(&modules), &error)));
            let below = below.unwrap_or_default().into_iter().map(|name| modules.join(name));
            for path in std::iter::once(path.clone()).chain(below) {
                let in_project = self.project.as_ref().map(|project| project.root.join(&path));
                let is_submodule = path.starts_with(&modules);
                self.add_repository(root, &root.join(&path), in_project, is_submodule);
            }
            self.add_work_of((root, made), path);
        }
        self
    }

    /// Adds what is lost with the repository in the folder `git_dir`. `in_project` is where the
    /// project may have the same one.
    fn add_repository(
        &mut self,
        root: &Path,
        git_dir: &Path,
        in_project: Option<PathBuf>,
        is_submodule: bool,
    ) {
        let is_one = |path: &PathBuf| std::fs::symlink_metadata(path.join("HEAD")).is_ok();
        let held = Held {
            repository: Repository::of_module(git_dir),
            in_project: in_project.filter(is_one).map(|path| Repository::of_module(&path)),
            is_submodule,
        };
        self.add_beside_commits(root, &held);
        let other = held.in_project.as_ref();
        let unheld = held.repository.unheld_but_by(other, Some(root), COMMITS_MOST);
        self.push_nested(held, unheld);
    }

    /// Adds the commits that a linked worktree of another repository alone has: without its tree, git
    /// forgets its registration.
    fn add_commits_of_linked(&mut self, git_file: &Path) {
        let Some(root) = git_file.parent() else { return };
        let Some(repository) = self.known(git::read(root).map_err(Failure::NotRun)).flatten()
        else {
            return;
        };
        let Some(registration) =
            self.known(Registration::read(repository.git_dir.clone()).map_err(Failure::NotRun))
        else {
            return;
        };
        // The repository itself stays, and so does the registration of another tree.
        let Some(registration) = registration.filter(|it| it.is_of(root)) else { return };
        let unheld = || -> Result<Unheld, Failure> {
            let tips = repository.tips_of(&registration)?.commits;
            let commits = repository.unheld(&tips, COMMITS_MOST, None, None)?;
            let tips = if commits.is_empty() { Vec::new() } else { tips };
            Ok(Unheld { commits, tips })
        };
        let held = Held {
            repository: Repository::of_module(git_file),
            in_project: None,
            is_submodule: false,
        };
        self.push_nested(held, unheld());
        // git deletes them with the registration.
        let modules = registration.folder.join(MODULES);
        let below = self.known(repositories_in(&modules).map_err(|error| unread(&modules, &error)));
        for name in below.unwrap_or_default() {
            self.add_repository(root, &modules.join(name), None, true);
        }
    }

    fn push_nested(&mut self, held: Held, unheld: Result<Unheld, Failure>) {
        if let Ok(unheld) = &unheld {
            let of = held.name();
            self.commits.extend(unheld.commits.iter().map(|commit| Commit {
                subject: format!("{} (in {of})", commit.subject),
                ..commit.clone()
            }));
        }
        self.submodules.push(LostModule { held, unheld });
    }

    fn add_work_of(&mut self, (root, made): (&Path, i64), repository: &Path) {
        let Some(at) = repository.parent().filter(|_| repository.ends_with(GIT)) else { return };
        let work_in = |tree: Option<Tree>| {
            tree.map(|tree| whole_work_in(&tree, EditsSince::LookedFor(made))).transpose()
        };
        let found = Tree::at(&root.join(at)).and_then(work_in);
        let Some(found) = self.known(found).flatten() else { return };
        let work = self.work.get_or_insert_default();
        work.is_cut |= found.is_cut;
        if found.no_snapshot_has_it {
            // A snapshot does have this repository.
            work.paths.push(repository.to_owned());
        }
        work.paths.extend(found.paths.into_iter().map(|path| at.join(path)));
    }

    /// The folders of git's registrations of the worktree.
    pub(in crate::worktree) fn registrations(&self) -> Vec<PathBuf> {
        self.own.registered.iter().map(|it| it.folder.clone()).collect()
    }
}

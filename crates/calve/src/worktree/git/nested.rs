//! What a drop would lose in repositories inside the worktree that are no submodules.

use std::path::{Path, PathBuf};

use super::{COMMITS_MOST, Loss, LostModule};
use crate::store::git::modules::Held;
use crate::store::git::{Commit, Repository, Tree, whole_work_in};
use crate::store::layout::GIT;

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
            if self.submodules.iter().any(|lost| lost.held.repository.git_dir == git_dir) {
                continue;
            }
            let in_project = self.project.as_ref().map(|project| project.root.join(path));
            let is_one = |path: &PathBuf| std::fs::symlink_metadata(path.join("HEAD")).is_ok();
            let held = Held {
                repository: Repository::of_module(&git_dir),
                in_project: in_project.filter(is_one).map(|path| Repository::of_module(&path)),
                is_submodule: false,
            };
            let unheld = held.repository.unheld_but_by(held.in_project.as_ref(), COMMITS_MOST);
            if let Ok(unheld) = &unheld {
                let of = held.name();
                self.commits.extend(unheld.commits.iter().map(|commit| Commit {
                    subject: format!("{} (in {of})", commit.subject),
                    ..commit.clone()
                }));
            }
            self.submodules.push(LostModule { held, unheld });
            self.add_work_of((root, made), path);
        }
        self
    }

    fn add_work_of(&mut self, (root, made): (&Path, i64), repository: &Path) {
        let Some(at) = repository.parent().filter(|_| repository.ends_with(GIT)) else { return };
        let work_in = |tree: Option<Tree>| tree.map(|tree| whole_work_in(&tree, made)).transpose();
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

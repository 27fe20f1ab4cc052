//! What a drop would lose in repositories inside the worktree that are no submodules.

use std::path::{Path, PathBuf};

use super::{COMMITS_MOST, Loss, LostModule};
use crate::store::git::modules::Held;
use crate::store::git::{Commit, Repository};

impl Loss {
    /// Adds the commits of the repositories at these paths in the tree at `root`.
    pub(in crate::worktree) fn with_nested(
        mut self,
        root: &Path,
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
        }
        self
    }

    /// The folders of git's registrations of the worktree.
    pub(in crate::worktree) fn registrations(&self) -> Vec<PathBuf> {
        self.own.registered.iter().map(|it| it.folder.clone()).collect()
    }
}

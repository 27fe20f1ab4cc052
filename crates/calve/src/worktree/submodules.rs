//! Gives linked worktrees repositories of their own for their submodules.

use std::io;
use std::path::{Path, PathBuf};

use super::relocate::{Relocate, Whose};
use super::{open_dir, repository};
use crate::error::{Context as _, Error, Operation};
use crate::store::git::modules::{Module, Modules};
use crate::store::paths::local::Tree;
use crate::store::paths::{PathKind, Relocation};
use crate::tree::running::Running;
use crate::tree::staging::{self, Stage, move_folder};

/// The repositories of submodules that one worktree gets.
pub(super) struct Submodules<'a> {
    pub(super) modules: &'a Modules,
    /// The worktree's `worktrees/ID`, in which repositories are staged.
    pub(super) registration: &'a Path,
    pub(super) operation: &'a Running,
}

/// The repository that a file `.git` names.
pub(super) enum Connected {
    /// Something that is not of calve's making.
    NotOne,
    /// Nothing: no working tree has a repository of this submodule.
    NoRepository,
    To {
        module: Module,
        /// Whether the repository was made now.
        is_new: bool,
    },
}

/// Sorts files `.git` so that a submodule comes before those inside of it.
pub(super) fn outer_first(files: &mut [PathBuf]) {
    files.sort_by_key(|path| (path.components().count(), path.clone()));
}

impl Submodules<'_> {
    /// Lets the file `.git` at `path` lead to a repository of the worktree, which is a copy of the
    /// project's if there is none yet. `at` is where the file is in the staged `tree`. A
    /// submodule comes before those inside of it. Nothing is done with a file that leads elsewhere.
    ///
    /// # Errors
    /// The repository was not made, or is whole and the file leads elsewhere.
    pub(super) fn connect(
        &self,
        tree: Tree<'_>,
        path: &Path,
        at: &Path,
    ) -> Result<Connected, Error> {
        let bytes = tree.read(at).context(Operation::Read, || path)?;
        let Some(module) = bytes.and_then(|bytes| self.modules.module(path, &bytes)) else {
            return Ok(Connected::NotOne);
        };
        let is_new = std::fs::symlink_metadata(&module.repository).is_err();
        if is_new && !self.make(&module)? {
            return Ok(Connected::NoRepository);
        }
        let lead = || -> io::Result<bool> {
            self.modules.lead_back(&module.repository, &module)?;
            let roots = Relocation::new(Vec::new(), Vec::new());
            let (roots, whose, none) = (&roots, Whose::Staged, |_: &Path| None);
            let relocate =
                Relocate { tree, roots, whose, before: None, at: &none, others: &|_| None };
            let led = relocate
                .content(PathKind::Other, at, |bytes| self.modules.localize(path, bytes))?;
            Ok(led.is_some())
        };
        match lead().context(Operation::Link, || path)? {
            true => Ok(Connected::To { module, is_new }),
            false => Ok(Connected::NotOne),
        }
    }

    /// Copies the repository of a submodule. Returns whether there was one.
    fn make(&self, module: &Module) -> Result<bool, Error> {
        let Some(source) = self.modules.source_of(module) else { return Ok(false) };
        let failed = |error: io::Error| Error::io(Operation::CopyRepository, &source, error);
        let dir = open_dir(self.registration)?;
        staging::sweep(&dir);
        let stage = Stage::empty(dir, self.registration).map_err(failed)?;
        let staged = stage.path().join("repository");
        repository::copy_one(&source, std::slice::from_ref(&staged), None, self.operation)?;
        let publish = || -> io::Result<()> {
            self.modules.lead_back(&staged, module)?;
            if let Some(above) = module.repository.parent() {
                std::fs::create_dir_all(above)?;
            }
            move_folder(&staged, &module.repository)
        };
        publish().map_err(failed)?;
        Ok(true)
    }
}

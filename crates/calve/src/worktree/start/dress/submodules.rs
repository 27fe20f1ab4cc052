//! Lets submodules lead to repositories of the worktree.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};

use super::super::links::NewLinks;
use super::{Dressing, Origin};
use crate::error::{Context as _, Error, Operation};
use crate::store::at::{last, open_parent};
use crate::store::catalog::WorktreeRow;
use crate::store::git::modules::{MODULES, Module, Modules, lead_copy};
use crate::store::git::{self, Registration};
use crate::store::layout::GIT;
use crate::store::object::{Entry, Kind};
use crate::store::paths::local::Tree;
use crate::tree::staging::Stage;
use crate::worktree::submodules::{Connected, Submodules, outer_first};

impl Dressing<'_> {
    /// The files `.git` in the snapshot, if the project has submodules.
    pub(super) fn files_of_submodules(&self, links: &NewLinks) -> Result<Vec<PathBuf>, Error> {
        if !links.have_submodules() {
            return Ok(Vec::new());
        }
        // The contents of a project with submodules are named first.
        let Origin::Snapshot(id, object) = self.origin else { return Ok(Vec::new()) };
        let manifest = self.manifest(id, object)?;
        let git = |entry: &Entry| {
            *entry.name == *GIT.as_bytes() && matches!(entry.kind, Kind::File { .. })
        };
        let files = manifest.entries().filter(|(_, _, entry)| git(entry));
        let mut files: Vec<PathBuf> =
            files.map(|(place, slot, _)| manifest.path_of(place, slot)).collect();
        outer_first(&mut files);
        Ok(files)
    }

    /// Lets the files `.git` of submodules lead to repositories of the worktree. Returns the
    /// submodules whose repositories are new, and the files.
    pub(super) fn connect(
        &self,
        links: &NewLinks,
        row: &WorktreeRow,
        (stage, path): (&Stage, &Path),
        registration: &Registration,
        files: &[PathBuf],
    ) -> Result<(Vec<Module>, Vec<PathBuf>), Error> {
        if files.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let modules = Modules::new(&links.repository, path, &registration.folder);
        let submodules = Submodules {
            modules: &modules,
            registration: &registration.folder,
            operation: self.operation,
        };
        let tree = Tree { path: &stage.path(), root: stage.dir() };
        let (mut new, mut led) = (Vec::new(), Vec::new());
        for file in files {
            match submodules.connect(tree, file, file)? {
                Connected::NotOne => {}
                // With a file that leads nowhere, git fails in the whole worktree.
                Connected::NoRepository => {
                    let remove = || -> io::Result<()> {
                        let dir = open_parent(stage.dir(), file)?;
                        Ok(fs::unlinkat(&dir, last(file)?, AtFlags::empty())?)
                    };
                    remove().context(Operation::Remove, || path.join(file))?;
                }
                Connected::To { module, is_new } => {
                    led.push(file.as_path());
                    new.extend(is_new.then_some(module));
                }
            }
        }
        if !led.is_empty() {
            self.mend_index(row, stage, &led).context(Operation::WriteIndex, || path)?;
        }
        Ok((new, led.into_iter().map(Path::to_owned).collect()))
    }

    /// Lets a copied repository and its submodules lead to the copy, where they name the project by
    /// its absolute path. Returns the files `.git` that were written.
    pub(super) fn lead_copies(
        &self,
        row: Option<&WorktreeRow>,
        stage: &Stage,
        path: &Path,
    ) -> Result<Vec<PathBuf>, Error> {
        let tree = stage.path();
        lead_copy(&tree.join(GIT)).context(Operation::Link, || path)?;
        let root = self.source_root()?;
        let project = git::read(&root).context(Operation::Read, || git::git_of(&root))?;
        let Some(project) = project else { return Ok(Vec::new()) };
        let Some(modules) = Modules::of_copy(&project, path) else { return Ok(Vec::new()) };
        let repositories = tree.join(GIT).join(MODULES);
        let led = modules
            .lead_in(&Modules::of_project(&project), &tree, &repositories)
            .context(Operation::Link, || path)?;
        if let (Some(row), false) = (row, led.is_empty()) {
            let paths: Vec<&Path> = led.iter().map(PathBuf::as_path).collect();
            self.mend_index(row, stage, &paths).context(Operation::WriteIndex, || path)?;
        }
        Ok(led)
    }
}

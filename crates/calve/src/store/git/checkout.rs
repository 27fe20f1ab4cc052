//! Brings a copy of a project's index to a commit, and writes those files that the commit has
//! otherwise than a tree of the project. The project's own index and files are only read.
//!
//! git writes into an empty folder, so what it writes lies apart from everything else. The copy of
//! the index keeps the stats of all entries that are the same in the commit.
//!
//! git's filters run as in `git switch` (line ends, LFS), and its rules for sparse checkouts hold.
//! No hook runs.

use std::path::{Path, PathBuf};

use super::work::records;
use super::{Failure, Git, Repository};

/// Settings for the copy of the index: it is one file with every entry, and of no use to the
/// project.
const SETTINGS: [&str; 3] =
    ["core.splitIndex=false", "core.untrackedCache=false", "index.sparse=false"];

/// A folder with a copy of the project's index, and with the files that were written.
#[derive(Debug)]
pub(crate) struct Checkout<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) folder: &'a Path,
}

impl Checkout<'_> {
    pub(crate) fn index(&self) -> PathBuf {
        self.folder.join("index")
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn set(&self, git: Git) -> Git {
        git.args(SETTINGS.iter().flat_map(|setting| ["-c", setting])).with_index(&self.index())
    }

    /// git in the project, with the copy of the index.
    pub(super) fn git(&self) -> Git {
        self.set(self.repository.git())
    }

    /// Lets the copy of the index record the stat of all files of the project that are as the index
    /// has them.
    ///
    /// # Errors
    /// git could not be run.
    pub(crate) fn refresh(&self) -> Result<(), Failure> {
        match self.git().args(["update-index", "-q", "--unmerged", "--refresh"]).run() {
            // git says so if a file differs from the index, or if a filter fails for it. Then git
            // writes that file anew.
            Ok(_) | Err(Failure::Refused(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// The paths that git tracks.
    ///
    /// # Errors
    /// git could not be asked, or the project has too many paths.
    pub(crate) fn tracked(&self) -> Result<Vec<Vec<u8>>, Failure> {
        self.paths(&["ls-files", "-z"])
    }

    /// The paths of the project's files that git neither tracks nor ignores, and of the
    /// repositories among them.
    ///
    /// # Errors
    /// The same as for [`Checkout::tracked`].
    pub(crate) fn untracked(&self) -> Result<Vec<Vec<u8>>, Failure> {
        self.paths(&["ls-files", "-z", "--others", "--exclude-standard"])
    }

    fn paths(&self, asked: &[&str]) -> Result<Vec<Vec<u8>>, Failure> {
        let output = self.git().args(asked).list()?;
        // A repository is listed with a slash.
        let plain = |path: &[u8]| path.strip_suffix(b"/").unwrap_or(path).to_vec();
        Ok(records(&output).map(plain).collect())
    }

    /// Lets the copy of the index have the entries of `commit`. Entries that stay the same keep
    /// their stats.
    ///
    /// # Errors
    /// git could not do it.
    pub(crate) fn go_to(&self, commit: &str) -> Result<(), Failure> {
        self.git().args(["read-tree", "--reset", commit]).run().map(drop)
    }

    /// Writes these files of the commit into the empty tree, and their stats into the index.
    ///
    /// # Errors
    /// git or one of its filters could not do it. Some files may have been written.
    pub(crate) fn write<'p>(
        &self,
        commit: &str,
        paths: impl Iterator<Item = &'p [u8]>,
    ) -> Result<(), Failure> {
        // git writes the files that the index does not have.
        self.git()
            .args(["update-index", "-z", "--force-remove", "--stdin"])
            .with_paths(paths)
            .run()?;
        let tree = self.tree();
        self.set(Git::new(&tree))
            .in_tree(&self.repository.git_dir, &tree)
            .args(["read-tree", "-m", "-u", commit])
            .run()
            .map(drop)
    }
}

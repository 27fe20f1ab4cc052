//! Contents that git-lfs and git-annex keep in a repository, beside git's objects.
//!
//! Commits have only the names of such contents, so whoever fetches commits has no contents yet.
//! Both tools name a file by a hash of its content, in folders that are the same in every
//! repository. So a file can be given to another repository, which then has the content.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode};

use super::ask::identity;
use super::repository::Repository;
use crate::reflink::imp::DIR_FLAGS;
use crate::store::files::listed_at;
use crate::tree::staging::{flush_filesystem, stage_name};

/// In the folder of a repository.
const LFS: &str = "lfs/objects";
/// The same for git-annex.
const ANNEX: &str = "annex/objects";

impl Repository {
    /// Gives this repository the contents that only `from` has. They become hard links if
    /// the filesystem can do that, and copies otherwise. They are flushed to the disk.
    ///
    /// # Errors
    /// A file could not be read or given. Others may have been given.
    pub(crate) fn take_contents(&self, from: &Self) -> io::Result<()> {
        let mut is_given = false;
        for file in [LFS, ANNEX].map(|folder| files_in(&from.common, folder)) {
            for file in file? {
                let to = self.common.join(&file);
                if identity(&to)?.is_none() {
                    std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
                    give(&from.common.join(&file), &to)?;
                    is_given = true;
                }
            }
        }
        match is_given {
            true => flush_filesystem(&fs::open(&self.common, DIR_FLAGS, Mode::empty())?),
            false => Ok(()),
        }
    }

    /// Whether the repository has contents of git-annex, which a push of commits does not send.
    /// (With git-lfs it does.)
    ///
    /// # Errors
    /// A folder could not be listed.
    pub(crate) fn has_annexed(&self) -> io::Result<bool> {
        Ok(!files_in(&self.common, ANNEX)?.is_empty())
    }
}

/// The files in a folder of a repository and below, as paths from the repository.
fn files_in(repository: &Path, folder: &str) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for (name, kind) in listed_at(&repository.join(&folder))? {
            match kind {
                FileType::Directory => folders.push(folder.join(name)),
                FileType::RegularFile => files.push(folder.join(name)),
                _ => {}
            }
        }
    }
    Ok(files)
}

fn give(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        // Another process has given it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Another filesystem or quota; one that has no links, or no more of this file; a file of
        // another user.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::CrossesDevices
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::TooManyLinks
                    | io::ErrorKind::PermissionDenied
            ) =>
        {
            let staged = to.with_file_name(stage_name());
            let copy = || -> io::Result<()> {
                let mut new = std::fs::File::create_new(&staged)?;
                io::copy(&mut std::fs::File::open(from)?, &mut new)?;
                std::fs::rename(&staged, to)
            };
            let copied = copy();
            if copied.is_err() {
                // It is not there, or is a file of git's tools that no name leads to.
                let _ = std::fs::remove_file(&staged);
            }
            copied
        }
        linked => linked,
    }
}

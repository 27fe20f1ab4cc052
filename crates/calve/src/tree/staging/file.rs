//! Single files under a temporary name.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;
use rustix::path::Arg;

use super::{appears, stage_name, sync_folder};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::across::rename_entry;
use crate::tree::removal::once_more;

/// A single file under a [`stage_name`]. Dropping this value removes the file, unless it was
/// renamed into place.
#[derive(Debug)]
pub(crate) struct StagedFile<'d> {
    dir: BorrowedFd<'d>,
    pub(crate) path: PathBuf,
    kept: bool,
}

impl<'d> StagedFile<'d> {
    /// A name in `dir`. The file is not made yet.
    pub(crate) fn new(dir: &'d OwnedFd) -> Self {
        Self { dir: dir.as_fd(), path: stage_name().into(), kept: false }
    }

    /// A name in the folder at a path. The file is not made yet.
    pub(crate) fn in_folder(folder: &Path) -> StagedFile<'static> {
        StagedFile { dir: fs::CWD, path: folder.join(stage_name()), kept: false }
    }

    /// Renames the file into place.
    pub(crate) fn place(&mut self, dir: impl AsFd, path: impl Arg) -> rustix::io::Result<()> {
        let path = path.into_c_str()?;
        let rename = || rename_entry(self.dir, &self.path, &dir, &*path);
        match rename() {
            Err(Errno::NOENT) if appears(self.dir, &self.path) => rename()?,
            renamed => renamed?,
        }
        self.kept = true;
        Ok(())
    }
}

impl Drop for StagedFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let remove = || once_more(|| Ok(fs::unlinkat(self.dir, &self.path, AtFlags::empty())?));
            if remove().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
                && appears(self.dir, &self.path)
            {
                let _ = remove();
            }
        }
    }
}

/// Writes a file that appears at `path` complete. calve writes it in `folder` first, which is on
/// the same filesystem.
pub(crate) fn write_whole(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    write_whole_by(folder, path, |file| file.write_all(content))
}

/// Like [`write_whole`], for content that is never in memory as a whole.
pub(crate) fn write_whole_by(
    folder: &Path,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    Ok(written(folder, write)?.0.place(fs::CWD, path)?)
}

/// A new file in `folder` with this content, and its name, which is not yet the final one.
fn written(
    folder: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<(StagedFile<'static>, File)> {
    let staged = StagedFile::in_folder(folder);
    let mut file = BufWriter::new(File::create(&staged.path)?);
    write(&mut file)?;
    Ok((staged, file.into_inner()?))
}

/// Like [`write_whole`], for what the user was told of: it is on the disk when this returns. So are
/// the name and the name of the folder, which may have been made for this file.
///
/// # Errors
/// After one of a flush the file may be at `path`.
pub(crate) fn write_flushed(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let (mut staged, file) = written(folder, |file| file.write_all(content))?;
    file.sync_all()?;
    staged.place(fs::CWD, path)?;
    for folder in path.ancestors().skip(1).take(2) {
        sync_folder(fs::openat(fs::CWD, folder, DIR_FLAGS, Mode::empty())?)?;
    }
    Ok(())
}

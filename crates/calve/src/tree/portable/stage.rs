//! A tree appears at its destination complete or not at all: calve builds it in a folder beside the
//! destination and renames it into place.
//!
//! A stage is a folder `.calve-stage-PID-RANDOM` with
//!
//! * `lock`, a file that the maker has open without sharing it. So another process can open the
//!   file only when the maker is gone;
//! * `tree`, the tree under construction. It is in a folder of its own because Windows does not
//!   rename a folder in which a file is open;
//! * `old/NAME`, the tree that a replacement put aside. A replacement takes two renames. A process
//!   that dies between them leaves no tree at the destination and the old one here. The process
//!   that sweeps the stage puts it back.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem::FILE_SHARE_DELETE;

use crate::reflink::{imp, sys};

/// The prefix of every stage's name. calve never clones entries of the source with such a name. It
/// reports one whose maker is not at work, because it may be no stage.
pub(super) const PREFIX: &str = ".calve-stage-";

/// How long a stage without a lock is left alone. Its maker is about to create the lock, or died
/// before it did.
const UNLOCKED_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A tree under construction. Dropping it removes the stage, unless the stage has the old tree,
/// which could not be put back.
#[derive(Debug)]
pub(super) struct Stage {
    path: PathBuf,
    lock: Option<File>,
    /// The path of the old tree, which was put aside.
    old: Option<PathBuf>,
}

impl Stage {
    /// Makes a stage in the folder `parent`, with a lock in it and nothing else.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        use std::hash::{BuildHasher, Hasher, RandomState};
        loop {
            let random = RandomState::new().build_hasher().finish();
            let path = parent.join(format!("{PREFIX}{}-{random:016x}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let mut stage = Self { path, lock: None, old: None };
            stage.lock =
                Some(lock_options().write(true).create_new(true).open(stage.path.join("lock"))?);
            return Ok(stage);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where calve builds the tree.
    pub(super) fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    /// Renames the tree to `place`, which must not exist. If that fails and an old tree was put
    /// aside, puts the old tree back.
    pub(super) fn publish(&mut self, place: &Path) -> io::Result<()> {
        let result = rename(&self.tree(), place);
        if result.is_err() {
            self.put_back(place);
        }
        result
    }

    /// Moves the tree at `place` to the stage.
    pub(super) fn put_aside(&mut self, place: &Path, name: &OsStr) -> io::Result<()> {
        let aside = self.path.join("old");
        match fs::create_dir(&aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let old = aside.join(name);
        rename(place, &old)?;
        self.old = Some(old);
        Ok(())
    }

    /// Takes a published tree back, and puts back the tree that it replaced.
    pub(super) fn take_back(&mut self, place: &Path) {
        if rename(place, &self.tree()).is_ok() {
            self.put_back(place);
        }
    }

    fn put_back(&mut self, place: &Path) {
        self.old.take_if(|old| rename(old, place).is_ok());
    }

    /// Removes the stage, and the old tree in it.
    pub(super) fn discard(mut self) -> io::Result<()> {
        self.old = None;
        self.remove()
    }

    fn remove(&mut self) -> io::Result<()> {
        // The folder cannot be removed while the lock is open.
        self.lock = None;
        remove(&self.path)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.old.is_none() {
            let _ = self.remove();
        }
    }
}

/// Whether the process that made the stage at `path` is at work on it.
pub(super) fn is_at_work(path: &Path) -> bool {
    let opened = lock_options().read(true).open(path.join("lock"));
    opened.is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
}

/// Nobody else can open the file, but anybody can remove it.
fn lock_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.share_mode(FILE_SHARE_DELETE);
    options
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    imp::patiently(|| match sys::rename_new(from, to) {
        // Windows returns this error, too, if a directory has the name.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_there(to) => {
            Err(io::ErrorKind::AlreadyExists.into())
        }
        result => result,
    })
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Removes the stages in `parent` whose makers are dead. A stage that cannot be removed stays for
/// the next time.
pub(super) fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            let _ = sweep_one(parent, &entry.path());
        }
    }
}

fn sweep_one(parent: &Path, stage: &Path) -> io::Result<()> {
    // calve holds the lock until everything else is removed, to keep other processes from sweeping
    // the stage, too.
    let lock = match lock_options().read(true).open(stage.join("lock")) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let age = fs::symlink_metadata(stage)?.modified()?.elapsed().unwrap_or_default();
            if age < UNLOCKED_AGE {
                return Ok(());
            }
            None
        }
        Err(error) => return Err(error),
    };
    for old in fs::read_dir(stage.join("old")).into_iter().flatten().flatten() {
        // If the new tree is in place, this fails, and the old one is removed.
        let place = parent.join(old.file_name());
        if let Err(error) = rename(&old.path(), &place)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
    }
    let _ = remove(&stage.join("tree"));
    drop(lock);
    remove(stage)
}

/// Removes a folder and everything in it. It never follows a link. `Ok` if there is nothing.
fn remove(path: &Path) -> io::Result<()> {
    imp::patiently(|| {
        let result = match fs::remove_dir_all(path) {
            // Some filesystems cannot remove read-only files in this way.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => remove_by_name(path),
            result => result,
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    })
}

fn remove_by_name(path: &Path) -> io::Result<()> {
    use std::os::windows::fs::FileTypeExt;
    let mut folders = vec![path.to_owned()];
    let mut next = 0;
    while let Some(folder) = folders.get(next).cloned() {
        next += 1;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink_dir() {
                fs::remove_dir(entry.path())?;
            } else {
                imp::remove_file(&entry.path())?;
            }
        }
    }
    for folder in folders.iter().rev() {
        let meta = fs::symlink_metadata(folder)?;
        if meta.permissions().readonly() {
            fs::set_permissions(folder, imp::writable(&meta))?;
        }
        fs::remove_dir(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stage_whose_maker_is_gone_is_swept_and_what_it_put_aside_returns() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        for (put_aside, published, expected) in [
            (false, false, "nothing"),
            (true, false, "old"),
            (true, true, "new"),
            (false, true, "new"),
        ] {
            if put_aside {
                fs::create_dir(&place).unwrap();
                fs::write(place.join("old"), "").unwrap();
            }
            let mut stage = Stage::new(folder.path()).unwrap();
            fs::create_dir(stage.tree()).unwrap();
            fs::write(stage.tree().join("new"), "").unwrap();
            if put_aside {
                stage.put_aside(&place, OsStr::new("place")).unwrap();
            }
            if published {
                stage.publish(&place).unwrap();
            }
            let path = stage.path.clone();
            sweep(folder.path());
            assert!(path.try_exists().unwrap(), "its maker lives");
            assert!(is_at_work(&path));
            // The maker dies.
            stage.lock = None;
            std::mem::forget(stage);
            assert!(!is_at_work(&path));
            sweep(folder.path());
            assert!(!path.try_exists().unwrap());
            if expected == "nothing" {
                assert!(!place.try_exists().unwrap());
            } else {
                assert!(place.join(expected).try_exists().unwrap());
                fs::remove_dir_all(&place).unwrap();
            }
        }
    }

    #[test]
    fn a_stage_that_is_dropped_leaves_nothing_read_only_files_included() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(folder.path()).unwrap();
        fs::create_dir_all(stage.tree().join("a/b")).unwrap();
        for path in ["f", "a/f", "a/b/f"] {
            let path = stage.tree().join(path);
            fs::write(&path, "").unwrap();
            let mut permissions = fs::metadata(&path).unwrap().permissions();
            permissions.set_readonly(true);
            fs::set_permissions(&path, permissions).unwrap();
        }
        drop(stage);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

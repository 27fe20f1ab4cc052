//! A folder as a place for objects, on this machine or on a network filesystem.
//!
//! An object is written under a name of its own, flushed, and linked to its key. The link fails if
//! the key exists. So an object is whole or absent, whoever writes beside it, and stays in a crash.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::super::id::token;
use super::objects::{Listed, Objects};

/// What the names of files start with that are being written. No key has such a part.
const UNFINISHED: &str = ".calve-new-";

#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// The file of an object. Somebody else may have put something else there.
    fn open(&self, key: &str) -> io::Result<(File, u64)> {
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(self.path(key))?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
        }
        Ok((file, meta.len()))
    }

    fn list_folder(
        &self,
        folder: &Path,
        prefix: &str,
        each: &mut dyn FnMut(Listed),
    ) -> io::Result<()> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let meta = match std::fs::symlink_metadata(entry.path()) {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if meta.is_dir() {
                self.list_folder(&entry.path(), &format!("{prefix}{name}/"), each)?;
            } else if meta.is_file() {
                let (size, modified) = (meta.len(), meta.mtime());
                each(Listed { key: format!("{prefix}{name}"), size, modified });
            }
        }
        Ok(())
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Makes a folder, and those above it, durably. The root itself must exist.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let Some(parent) = folder.parent().filter(|parent| parent.starts_with(root)) else {
        return Ok(());
    };
    make_folders(root, parent)?;
    match std::fs::create_dir(folder) {
        Ok(()) => sync_folder(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

impl Objects for Folder {
    fn get(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let (file, size) = self.open(key)?;
        let end = range.end.min(size);
        let length = usize::try_from(end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>> {
        let (file, size) = self.open(key)?;
        if size > most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than it can be"));
        }
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn size(&self, key: &str) -> io::Result<u64> {
        Ok(self.open(key)?.1)
    }

    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        make_folders(&self.root, folder)?;
        let unfinished = folder.join(format!("{UNFINISHED}{}", token()));
        let write = || -> io::Result<bool> {
            let mut file = File::create_new(&unfinished)?;
            file.write_all(content)?;
            file.sync_all()?;
            match std::fs::hard_link(&unfinished, &path) {
                Ok(()) => sync_folder(folder).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        };
        let written = write();
        let _ = std::fs::remove_file(&unfinished);
        written
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> io::Result<()> {
        self.list_folder(&self.path(prefix), prefix, each)
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_made_once_and_nothing_unfinished_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned());
        assert!(folder.create("a/b/c", b"first").unwrap());
        assert!(!folder.create("a/b/c", b"second").unwrap());
        std::fs::write(dir.path().join("a/b").join(format!("{UNFINISHED}x")), "").unwrap();
        let mut keys = Vec::new();
        folder.list("a/", &mut |one| keys.push((one.key, one.size))).unwrap();
        assert_eq!(keys, [("a/b/c".to_owned(), 5)]);
        assert_eq!(folder.read("a/b/c", 5).unwrap(), b"first");
        assert_eq!(folder.get("a/b/c", 1..3).unwrap(), b"ir");
        assert_eq!(folder.get("a/b/c", 3..30).unwrap(), b"st", "what is there of it");
        assert_eq!(folder.size("a/b/c").unwrap(), 5);
        folder.read("a/b/c", 4).unwrap_err();
        folder.remove("a/b/c").unwrap();
        folder.remove("a/b/c").unwrap();
        assert_eq!(folder.size("a/b/c").unwrap_err().kind(), io::ErrorKind::NotFound);
        folder.list("none/", &mut |_| panic!("nothing is there")).unwrap();
    }

    #[test]
    fn of_many_who_make_one_object_at_once_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_owned());
        let made = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16_u8)
                .map(|n| {
                    let folder = &folder;
                    scope.spawn(move || folder.create("names/a/1", &[n; 100]).unwrap())
                })
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).filter(|made| *made).count()
        });
        assert_eq!(made, 1);
        let content = folder.read("names/a/1", 100).unwrap();
        assert!(content.len() == 100 && content.iter().all(|byte| *byte == content[0]));
    }

    #[test]
    fn a_link_or_a_pipe_in_the_folder_is_no_object() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("secret", dir.path().join("link")).unwrap();
        let folder = Folder::new(dir.path().to_owned());
        folder.read("link", 100).unwrap_err();
        assert!(!folder.create("link", b"new").unwrap());
        let mut keys = Vec::new();
        folder.list("", &mut |one| keys.push(one.key)).unwrap();
        assert_eq!(keys, ["secret"]);
    }
}

//! A folder as a place for objects, on this machine or on a network filesystem.
//!
//! An object is written under a name of its own, flushed, and linked to its key. The link fails if
//! the key exists. So an object is whole or absent, even if others write beside it, and a crash
//! does not lose it.
//!
//! The mode of the remote's own folder says who may use the remote: objects and folders get the
//! mode of that folder, whatever the umask of the user who writes them.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::id::{is_token, token};
use super::objects::{Listed, Objects, Source};

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
            .open(self.path(key));
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "it is no regular file");
        let file = file.map_err(|error| match Errno::from_io_error(&error) {
            // A symbolic link.
            Some(Errno::LOOP) => odd(),
            _ => error,
        })?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(odd());
        }
        Ok((file, meta.len()))
    }

    /// Lists the files whose names are `wanted`, and those in folders that are not hidden. A link
    /// or a pipe is listed, too: an attempt to read it says that it is no object.
    fn list_folder(
        &self,
        folder: &Path,
        prefix: &str,
        wanted: fn(&str) -> bool,
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
            let Some(name) = name.to_str().filter(|name| is_shown(name) || wanted(name)) else {
                continue;
            };
            let meta = match std::fs::symlink_metadata(entry.path()) {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if meta.is_dir() && is_shown(name) {
                self.list_folder(&entry.path(), &format!("{prefix}{name}/"), wanted, each)?;
            } else if !meta.is_dir() && wanted(name) {
                let (size, modified) = (meta.len(), meta.mtime());
                each(Listed { key: format!("{prefix}{name}"), size, modified });
            }
        }
        Ok(())
    }
}

fn is_shown(name: &str) -> bool {
    !name.starts_with('.')
}

fn is_unfinished(name: &str) -> bool {
    name.strip_prefix(UNFINISHED).is_some_and(is_token)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Gives a file or a folder of ours a mode, where files have one.
fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    match file.set_permissions(Permissions::from_mode(mode & 0o7777)) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Makes a folder, and those above it, durably, each with the root's mode. The root itself must
/// exist.
fn make_folders(root: &Path, mode: u32, folder: &Path) -> io::Result<()> {
    if folder == root || folder.is_dir() {
        return Ok(());
    }
    let Some(parent) = folder.parent().filter(|parent| parent.starts_with(root)) else {
        return Ok(());
    };
    make_folders(root, mode, parent)?;
    match std::fs::create_dir(folder) {
        Ok(()) => {
            set_mode(&File::open(folder)?, mode)?;
            sync_folder(parent)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

impl Source for Folder {
    fn get_into(&self, key: &str, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        let (file, size) = self.open(key)?;
        // Objects are whole or absent, so it does not grow.
        if size < range.end {
            let why = format!("it ends at byte {size}, and should go on to {}", range.end);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let length = range.end.saturating_sub(range.start);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        into.clear();
        into.reserve_exact(length);
        into.resize(length, 0);
        file.read_exact_at(into, range.start)
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
}

impl Objects for Folder {
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.root);
        let mode = std::fs::metadata(&self.root)?.mode();
        make_folders(&self.root, mode, folder)?;
        let unfinished = folder.join(format!("{UNFINISHED}{}", token()));
        let write = || -> io::Result<bool> {
            let mut file = File::create_new(&unfinished)?;
            file.write_all(content)?;
            set_mode(&file, mode & 0o666)?;
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
        self.list_folder(&self.path(prefix), prefix, is_shown, each)
    }

    fn unfinished(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> io::Result<()> {
        self.list_folder(&self.path(prefix), prefix, is_unfinished, each)
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
        let unfinished = format!("{UNFINISHED}{}", token());
        for name in [&unfinished, &format!("{UNFINISHED}x"), ".hidden/file"] {
            let path = dir.path().join("a/b").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut keys = Vec::new();
        folder.unfinished("a/", &mut |one| keys.push(one.key)).unwrap();
        assert_eq!(keys, [format!("a/b/{unfinished}")]);
        let mut keys = Vec::new();
        folder.list("a/", &mut |one| keys.push((one.key, one.size))).unwrap();
        assert_eq!(keys, [("a/b/c".to_owned(), 5)]);
        assert_eq!(folder.read("a/b/c", 5).unwrap(), b"first");
        assert_eq!(folder.get("a/b/c", 1..3).unwrap(), b"ir");
        let error = folder.get("a/b/c", 3..30).unwrap_err();
        assert_eq!(error.to_string(), "it ends at byte 5, and should go on to 30");
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
    fn objects_and_folders_have_the_mode_of_the_remotes_own_folder_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        for (mode, expected) in
            [(0o700, 0o600), (0o755, 0o644), (0o2775, 0o664), (0o2770, 0o660), (0o3777, 0o666)]
        {
            let root = dir.path().join(format!("{mode:o}"));
            std::fs::create_dir(&root).unwrap();
            std::fs::set_permissions(&root, Permissions::from_mode(mode)).unwrap();
            let folder = Folder::new(root.clone());
            assert!(folder.create("names/a/1", b"first").unwrap());
            let got = |path: &str| std::fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
            assert_eq!(
                (got("names"), got("names/a"), got("names/a/1")),
                (mode, mode, expected),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn a_link_in_the_place_of_an_object_is_listed_and_is_an_error_to_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::os::unix::fs::symlink("secret", dir.path().join("link")).unwrap();
        let folder = Folder::new(dir.path().to_owned());
        let error = folder.read("link", 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(!folder.create("link", b"new").unwrap());
        let mut keys = Vec::new();
        folder.list("", &mut |one| keys.push(one.key)).unwrap();
        keys.sort_unstable();
        assert_eq!(keys, ["link", "secret"]);
    }
}

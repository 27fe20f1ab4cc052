//! A folder as a place for objects, on this machine or on a network filesystem.
//!
//! An object is written under a name of its own, flushed, and linked to its key. The link fails if
//! the key exists. So an object is whole or absent, even if others write beside it, and a crash
//! does not lose it.
//!
//! The mode of the remote's own folder says who may use the remote: objects and folders get the
//! mode of that folder, whatever the umask of the user who writes them. Set-user-ID is never
//! passed on.
//!
//! Others may write there, too. So calve opens the remote's own folder once, goes on from its
//! descriptor, and follows no link: nothing leads out of the folder, also not a link that somebody
//! puts there at the wrong moment.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::super::at::{last, open_at, open_parent};
use super::super::files::{listed, open_plain, read_open};
use super::super::id::{is_token, token};
use super::objects::{ListedObject, Objects, Source};
use crate::error::IfThere as _;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::{self, Meta};

/// What the names of files start with that are being written. No key has such a part.
const UNFINISHED: &str = ".calve-new-";
/// No key has so many folders.
const DEEPEST: usize = 8;
/// The bits of a folder's mode that the folders in it get. In a folder, set-group-ID only says
/// which group new files get.
const PASSED_ON: u32 = 0o3777;

#[derive(Debug)]
pub(crate) struct RemoteFolder {
    path: PathBuf,
    root: OnceLock<OwnedFd>,
}

/// A place in the way that is a link or no folder is not "nothing is there".
fn odd(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::NOTDIR) => io::Error::new(
            io::ErrorKind::InvalidData,
            "a link, or something that is no folder, is in the place of a part of its path",
        ),
        _ => error,
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

impl RemoteFolder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, root: OnceLock::new() }
    }

    /// The remote's own folder. The user named it, so links on the way to it are followed.
    fn root(&self) -> io::Result<&OwnedFd> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = fs::open(&self.path, DIR_FLAGS, Mode::empty())?;
        Ok(self.root.get_or_init(|| root))
    }

    /// The folder in which the object is.
    fn parent(&self, key: &str) -> io::Result<OwnedFd> {
        open_parent(self.root()?, Path::new(key)).map_err(odd)
    }

    /// The file of an object. Somebody else may have put something else there.
    fn open(&self, key: &str) -> io::Result<(File, u64)> {
        let name = Path::new(key).file_name().unwrap_or_default();
        open_plain(self.parent(key)?, name.as_ref(), u64::MAX).map_err(|error| {
            match Errno::from_io_error(&error) {
                // A link, or a socket.
                Some(Errno::LOOP | Errno::NXIO) => {
                    io::Error::new(io::ErrorKind::InvalidData, "it is no regular file")
                }
                _ => error,
            }
        })
    }

    /// Lists the files whose names are `wanted`, and those in folders that are not hidden. A link
    /// or a pipe is listed, too: an attempt to read it says that it is no object.
    fn list_all(
        &self,
        prefix: &str,
        wanted: fn(&str) -> bool,
        each: &mut dyn FnMut(ListedObject),
    ) -> io::Result<()> {
        match open_at(self.root()?, Path::new(prefix)) {
            Ok(folder) => list_folder(&folder, prefix, wanted, each),
            Err(error) if is_missing(&error) => Ok(()),
            Err(error) => Err(odd(error)),
        }
    }

    /// Opens the folder in which an object will be. Makes it, and those above it, durably, each
    /// with the root's mode. The root itself must exist.
    fn made_parent(&self, key: &str, mode: u32) -> io::Result<OwnedFd> {
        let mut folder = fs::openat(self.root()?, c".", DIR_FLAGS, Mode::empty())?;
        for name in Path::new(key).parent().unwrap_or(Path::new("")) {
            let open = || fs::openat(&folder, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
            let inside = match open() {
                Err(Errno::NOENT) => {
                    let is_made = match fs::mkdirat(&folder, name, meta::mode(mode & 0o777)) {
                        Ok(()) => true,
                        Err(Errno::EXIST) => false,
                        Err(errno) => return Err(errno.into()),
                    };
                    let inside = open().map_err(io::Error::from).map_err(odd)?;
                    if is_made {
                        self.pass_on_mode(&inside, mode)?;
                        fs::fsync(&folder)?;
                    }
                    inside
                }
                inside => inside.map_err(io::Error::from).map_err(odd)?,
            };
            folder = inside;
        }
        Ok(folder)
    }

    /// Gives a folder that we made the root's mode. Somebody may have put another one in its place:
    /// the one that we made is ours, and empty. (The owner may be the root's instead, where a
    /// server decides who we are.)
    fn pass_on_mode(&self, folder: &OwnedFd, mode: u32) -> io::Result<()> {
        let (meta, root) = (Meta::of_file(folder)?, Meta::of_file(self.root()?)?);
        let is_ours = meta.uid == rustix::process::geteuid().as_raw() || meta.uid == root.uid;
        match is_ours && listed(folder)?.is_empty() {
            true => set_mode(folder, mode & PASSED_ON),
            false => Ok(()),
        }
    }
}

fn list_folder(
    folder: &OwnedFd,
    prefix: &str,
    wanted: fn(&str) -> bool,
    each: &mut dyn FnMut(ListedObject),
) -> io::Result<()> {
    if prefix.matches('/').count() > DEEPEST {
        let why = "it has more folders in folders than a remote";
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    for (name, _) in listed(folder)? {
        let Some(name) = name.to_str().filter(|name| is_shown(name) || wanted(name)) else {
            continue;
        };
        let Some(meta) = Meta::at(folder, name).if_there()? else { continue };
        let is_folder = meta.file_type() == fs::FileType::Directory;
        if is_folder && is_shown(name) {
            match fs::openat(folder, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(inside) => list_folder(&inside, &format!("{prefix}{name}/"), wanted, each)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(odd(errno.into())),
            }
        } else if !is_folder && wanted(name) {
            let (size, modified) = (meta.size, meta.modified().0);
            each(ListedObject { key: format!("{prefix}{name}"), size, modified });
        }
    }
    Ok(())
}

fn is_shown(name: &str) -> bool {
    !name.starts_with('.')
}

fn is_unfinished(name: &str) -> bool {
    name.strip_prefix(UNFINISHED).is_some_and(is_token)
}

/// Gives a file or a folder of ours a mode, where files have one.
fn set_mode(file: &OwnedFd, mode: u32) -> io::Result<()> {
    match fs::fchmod(file, meta::mode(mode)).map_err(io::Error::from) {
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

impl Source for RemoteFolder {
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
        read_open(file, size, most)
    }

    fn size(&self, key: &str) -> io::Result<u64> {
        Ok(self.open(key)?.1)
    }
}

impl Objects for RemoteFolder {
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let mode = Meta::of_file(self.root()?)?.permissions();
        let folder = self.made_parent(key, mode)?;
        let unfinished = format!("{UNFINISHED}{}", token());
        let write = || -> io::Result<bool> {
            let mode = mode & 0o666;
            let file = fs::openat(&folder, &unfinished, NEW_FILE_FLAGS, meta::mode(mode))?;
            set_mode(&file, mode)?;
            let mut file = File::from(file);
            file.write_all(content)?;
            file.sync_all()?;
            let name = last(Path::new(key))?;
            match fs::linkat(&folder, &unfinished, &folder, &name, AtFlags::empty()) {
                Ok(()) => Ok(fs::fsync(&folder).map(|()| true)?),
                Err(Errno::EXIST) => Ok(false),
                Err(errno) => Err(errno.into()),
            }
        };
        let written = write();
        // A collector removes later what stays here.
        let _ = fs::unlinkat(&folder, &unfinished, AtFlags::empty());
        written
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ListedObject)) -> io::Result<()> {
        self.list_all(prefix, is_shown, each)
    }

    fn unfinished(&self, prefix: &str, each: &mut dyn FnMut(ListedObject)) -> io::Result<()> {
        self.list_all(prefix, is_unfinished, each)
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        let removed = self
            .parent(key)
            .and_then(|parent| Ok(fs::unlinkat(parent, last(Path::new(key))?, AtFlags::empty())?));
        match removed {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn an_object_is_made_once_and_nothing_unfinished_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RemoteFolder::new(dir.path().to_owned());
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
        let folder = RemoteFolder::new(dir.path().to_owned());
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
        for (mode, expected) in [
            (0o700, 0o600),
            (0o755, 0o644),
            (0o2775, 0o664),
            (0o2770, 0o660),
            (0o3777, 0o666),
            (0o6755, 0o644),
        ] {
            let root = dir.path().join(format!("{mode:o}"));
            std::fs::create_dir(&root).unwrap();
            std::fs::set_permissions(&root, Permissions::from_mode(mode)).unwrap();
            let folder = RemoteFolder::new(root.clone());
            assert!(folder.create("names/a/1", b"first").unwrap());
            let got = |path: &str| std::fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
            assert_eq!(
                (got("names"), got("names/a"), got("names/a/1")),
                (mode & 0o3777, mode & 0o3777, expected),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn a_link_in_the_place_of_an_object_is_listed_and_is_an_error_to_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        symlink("secret", dir.path().join("link")).unwrap();
        let folder = RemoteFolder::new(dir.path().to_owned());
        let error = folder.read("link", 100).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert!(!folder.create("link", b"new").unwrap());
        let mut keys = Vec::new();
        folder.list("", &mut |one| keys.push(one.key)).unwrap();
        keys.sort_unstable();
        assert_eq!(keys, ["link", "secret"]);
    }

    /// The story: `packs` was a link that somebody had put into the remote. `push` wrote through
    /// it, and `remote gc` deleted files behind it.
    #[test]
    fn a_link_in_the_place_of_a_folder_leads_nowhere() {
        for key in ["packs/a", "names/b/1", "names/c/1"] {
            let dir = tempfile::tempdir().unwrap();
            let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
            std::fs::create_dir_all(root.join("names")).unwrap();
            std::fs::create_dir_all(outside.join("c")).unwrap();
            for name in ["a", "1", "c/1"] {
                std::fs::write(outside.join(name), "precious").unwrap();
            }
            symlink("../outside", root.join("packs")).unwrap();
            symlink(&outside, root.join("names/b")).unwrap();
            let folder = RemoteFolder::new(root.clone());
            if key == "names/c/1" {
                // It is swapped after the root was opened.
                folder.list("names/", &mut |_| ()).unwrap();
                std::fs::remove_dir_all(root.join("names")).unwrap();
                symlink(&outside, root.join("names")).unwrap();
            }
            let (prefix, _) = key.rsplit_once('/').unwrap();
            let prefix = format!("{prefix}/");
            for error in [
                folder.create(key, b"new").unwrap_err(),
                folder.create(&format!("{prefix}new"), b"new").unwrap_err(),
                folder.read(key, 100).unwrap_err(),
                folder.size(key).unwrap_err(),
                folder.get(key, 0..1).unwrap_err(),
                folder.remove(key).unwrap_err(),
                folder.list(&prefix, &mut |one| panic!("{one:?}")).unwrap_err(),
                folder.unfinished(&prefix, &mut |one| panic!("{one:?}")).unwrap_err(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{key}: {error}");
            }
            for name in ["a", "1", "c/1"] {
                assert_eq!(std::fs::read(outside.join(name)).unwrap(), b"precious", "{key}");
            }
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 3, "{key}");
        }
    }

    /// The story: somebody swapped a folder that `push` had just made for a link to a file of the
    /// pusher, and the file got the mode of the remote's folder, with set-user-ID.
    #[test]
    fn only_a_folder_that_is_ours_and_empty_gets_the_roots_mode() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RemoteFolder::new(dir.path().to_owned());
        let full = dir.path().join("full");
        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("file"), "").unwrap();
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for (path, expected) in [(&full, 0o700), (&empty, 0o3777)] {
            std::fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            let opened = fs::open(path, DIR_FLAGS, Mode::empty()).unwrap();
            folder.pass_on_mode(&opened, 0o7777).unwrap();
            assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, expected, "{path:?}");
        }
    }

    #[test]
    fn folders_in_folders_without_end_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", 200).collect();
        std::fs::create_dir_all(dir.path().join("names").join(deep)).unwrap();
        let folder = RemoteFolder::new(dir.path().to_owned());
        let error = folder.list("names/", &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }
}

//! The file `format` says which version a store has, and which features a calve that opens it must
//! know.
//!
//! ```text
//! calve store 1
//! incompatible NAME      a calve that does not know NAME must not open the store
//! compatible NAME        a calve that does not know NAME may open the store
//! ```
//! The lines after the first come in any order. A new store on a local disk has no flags. A later
//! version that writes what this one would misread adds a flag before it does so. Then this version
//! refuses the store, naming the flag.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

use super::files::{listed_at, read_plain};
use super::layout::{self, Layout};
use super::locks;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystem;

const FIRST_LINE: &str = "calve store 1";

/// The content of `format` in a new store.
pub(crate) const NEW: &str = "calve store 1\n";

/// The store was made through a filesystem whose memory is not shared, and its database has no log
/// ([`Filesystem::shared_memory`]). A version that does not know this flag would give it one.
const MEMORY_NOT_SHARED: &str = "memory-not-shared";

/// The content of `format` in the folder that hides the store from the programs of a worktree that
/// sees itself at the project's path: calve would take the worktree for the project there.
pub(crate) const HIDDEN: &str = "calve store 1\nincompatible hidden-in-run\n";

/// The incompatible flags that this version knows.
const KNOWN: [&str; 1] = [MEMORY_NOT_SHARED];

/// In every version this file is at most this long.
const MOST_BYTES: u64 = 64 * 1024;

/// Refuses a store that this version would misread.
pub(crate) fn check(store: &Path) -> Result<(), Error> {
    read(store).map(drop)
}

/// Whether the folder `below` an open one is a store or a remote of calve's, of any version.
///
/// # Errors
/// Its file `format` cannot be read, so it may be one.
pub(crate) fn is_of_calve(dir: impl AsFd, below: &Path) -> io::Result<bool> {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
    match read_plain(dir, &Layout(below).format(), MOST_BYTES) {
        Ok(text) => Ok(text.starts_with(b"calve ")),
        // It is no regular file, or too large.
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | InvalidData) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The content of `format` in a new store in this folder.
pub(crate) fn new(folder: &Path) -> String {
    match Filesystem::of(folder).shared_memory {
        true => NEW.to_owned(),
        false => format!("{NEW}incompatible {MEMORY_NOT_SHARED}\n"),
    }
}

/// Refuses a store that others may use through a second view of its folder: a host and a machine
/// that mounts a folder of it, or a FUSE filesystem and the folder that it shows. The two views
/// share no memory, so the database's log would be damaged without a word; and each has locks of its
/// own, so no other journal would help. A store belongs to the side that made it.
pub(crate) fn must_be_of_this_side(store: &Path) -> Result<(), Error> {
    let filesystem = Filesystem::of(store);
    let is_shared = !has(&read(store)?, MEMORY_NOT_SHARED);
    let is_only_mount = || locks::is_only_mount(store).context(Operation::Lock, || store);
    let why = match (is_shared, filesystem.shared_memory) {
        (true, true) => return Ok(()),
        (false, false) if is_only_mount()? => return Ok(()),
        (false, false) => {
            "it was used last through another mount, which is still there, and the two may share no locks".to_owned()
        }
        (true, false) => format!(
            "it was made on a local disk and is seen through another filesystem here ({}), which does not share the \
             memory of the store's database",
            filesystem.name
        ),
        (false, true) => "it was made through a filesystem that does not share memory with this one (FUSE, 9p, NFS, \
                          SMB), and may be in use there"
            .to_owned(),
    };
    let cause = io::Error::new(io::ErrorKind::Unsupported, why);
    Err(Error::new(ErrorKind::StoreIncompatible, Operation::OpenStore, store, cause))
}

fn has(text: &[u8], name: &str) -> bool {
    let line = format!("incompatible {name}");
    text.split(|byte| *byte == b'\n').any(|it| it == line.as_bytes())
}

/// The content of the file, if this version knows everything in it.
fn read(store: &Path) -> Result<Vec<u8>, Error> {
    let path = Layout(store).format();
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        // The path may be a pipe; opening it must not wait for a writer.
        let file =
            fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        let file = std::fs::File::from(file);
        io::Read::read_to_end(&mut io::Read::take(file, MOST_BYTES + 1), &mut text)?;
        Ok(text)
    };
    let text = match read() {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::StoreNotFound, Operation::OpenStore, store, error));
        }
        Err(error) => return Err(error).context(Operation::Read, || &path),
    };
    if text == HIDDEN.as_bytes() {
        let why = io::Error::other("it is hidden from programs that 'calve run' started");
        return Err(Error::new(ErrorKind::StoreHidden, Operation::OpenStore, store, why));
    }
    parse(&text).map_err(|why| {
        Error::new(ErrorKind::StoreIncompatible, Operation::OpenStore, store, io::Error::other(why))
    })?;
    Ok(text)
}

/// Refuses a store if a part of it leads elsewhere, or is not of the kind that its name says. calve
/// must not write to or remove files at the place that such a part leads to.
pub(crate) fn must_be_in_one_place(store: &Path) -> Result<(), Error> {
    let refuse = |path: std::path::PathBuf, why: &str| {
        Err(Error::new(
            ErrorKind::Damaged,
            Operation::OpenStore,
            path,
            io::Error::other(why.to_owned()),
        ))
    };
    let kind = |path: &Path| std::fs::symlink_metadata(path).ok().map(|meta| meta.file_type());
    for name in layout::ALL_FOLDERS {
        let path = store.join(name);
        match kind(&path) {
            Some(kind) if kind.is_symlink() => return refuse(path, LINK),
            Some(kind) if !kind.is_dir() => return refuse(path, "it is no folder"),
            _ => {}
        }
    }
    for name in layout::FILES {
        let path = store.join(name);
        match kind(&path) {
            Some(kind) if kind.is_symlink() => return refuse(path, LINK),
            Some(kind) if !kind.is_file() => return refuse(path, "it is no regular file"),
            _ => {}
        }
    }
    // calve opens a mirror by a name with two folders in it, so it follows these entries.
    let blobs = Layout(store).blobs();
    for (name, kind) in listed_at(&blobs).unwrap_or_default() {
        if kind == rustix::fs::FileType::Symlink {
            return refuse(blobs.join(name), LINK);
        }
    }
    Ok(())
}

const LINK: &str = "it is a link, and everything of a store must be in the store's folder";

pub(crate) fn parse(text: &[u8]) -> Result<(), String> {
    // The rest, which was not read, could name a feature that calve must know.
    if text.len() as u64 > MOST_BYTES {
        return Err("its format file is longer than any".to_owned());
    }
    let text = std::str::from_utf8(text).map_err(|_| "its format file is not text".to_owned())?;
    let mut lines = text.lines();
    match lines.next() {
        Some(FIRST_LINE) => {}
        Some(line) if line.starts_with("calve store ") => {
            let version: String = line[12..].chars().take(20).collect();
            return Err(format!("it is of version {version:?}, and this calve knows version 1"));
        }
        _ => return Err("its format file is not one".to_owned()),
    }
    for line in lines {
        match line.split_once(' ') {
            Some(("compatible", _)) => {}
            Some(("incompatible", name)) if KNOWN.contains(&name) => {}
            Some(("incompatible", name)) => {
                let name: String = name.chars().take(80).collect();
                return Err(format!(
                    "it needs the feature {name:?}, which this calve does not have"
                ));
            }
            _ => return Err("its format file has a line that this calve does not know".to_owned()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::layout::{ALL_FOLDERS, FILES};
    use super::{check, must_be_in_one_place, parse};

    #[test]
    fn a_store_with_an_unknown_incompatible_flag_is_refused_by_its_name() {
        for (text, expected) in [
            ("calve store 1\n", None),
            ("calve store 1", None),
            ("calve store 1\ncompatible sparkle\n", None),
            ("calve store 1\nincompatible sha4\n", Some("\"sha4\"")),
            ("calve store 1\nincompatible memory-not-shared\ncompatible a\n", None),
            ("calve store 1\nincompatible memory-not-shared 2\n", Some("\"memory-not-shared 2\"")),
            ("calve store 1\ncompatible a\nincompatible b\n", Some("\"b\"")),
            (super::HIDDEN, Some("\"hidden-in-run\"")),
            ("calve store 2\n", Some("\"2\"")),
            ("calve store 1\nmystery\n", Some("does not know")),
            ("", Some("not one")),
            ("\u{0}", Some("not one")),
        ] {
            match (parse(text.as_bytes()), expected) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{text:?}: {why}"),
                (result, expected) => panic!("{text:?}: {result:?}, not {expected:?}"),
            }
        }
        assert!(parse(b"\xff").is_err());
    }

    /// The rest could name a feature that calve must know.
    #[test]
    fn a_format_file_that_is_too_long_to_be_read_as_a_whole_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let long = "compatible sparkle\n".repeat(4000);
        for (text, sound) in [
            (format!("calve store 1\n{}", &long[..20_000 / 19 * 19]), true),
            (format!("calve store 1\n{long}"), false),
            (format!("calve store 1\n{long}incompatible sha4\n"), false),
        ] {
            std::fs::write(dir.path().join("format"), &text).unwrap();
            assert_eq!(check(dir.path()).is_ok(), sound, "{} bytes", text.len());
        }
    }

    #[test]
    fn a_store_of_which_a_part_leads_elsewhere_is_refused_by_its_path() {
        let outside = tempfile::tempdir().unwrap();
        for name in ALL_FOLDERS.iter().chain(&FILES).chain(&["blobs/ab"]) {
            let dir = tempfile::tempdir().unwrap();
            must_be_in_one_place(dir.path()).unwrap();
            if let Some((folder, _)) = name.split_once('/') {
                std::fs::create_dir(dir.path().join(folder)).unwrap();
            }
            std::os::unix::fs::symlink(outside.path(), dir.path().join(name)).unwrap();
            let error = must_be_in_one_place(dir.path()).unwrap_err();
            assert_eq!(error.path(), dir.path().join(name));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_pipe_that_is_called_format_is_refused_and_not_waited_for() {
        use super::NEW;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("format");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        check(dir.path()).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, NEW).unwrap();
        check(dir.path()).unwrap();
    }
}

//! Markers say which store a tree belongs to.
//!
//! A worktree has `.calve/worktree`: which worktree of which store it is. A project whose store is
//! elsewhere has `.calve/project`. Both have the token of their row, which nobody knows who has
//! not read the store. So a marker that somebody wrote by hand leads to no store but their own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::files::{bytes_of, path_from, read_plain};
use super::layout::{GIT_IGNORE, MADE_BY, MARKER, OWN, POINTER};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::tree::staging::write_whole;

/// Every path is shorter than this, on every system.
const MOST_BYTES: u64 = 64 * 1024;

/// The kind of tree that a marker is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marked {
    Worktree,
    /// A project whose store is elsewhere.
    Project,
}

impl Marked {
    fn file(self) -> &'static str {
        match self {
            Self::Worktree => MARKER,
            Self::Project => POINTER,
        }
    }

    fn first_line(self) -> &'static str {
        match self {
            Self::Worktree => "calve worktree 1",
            Self::Project => "calve project 1",
        }
    }
}

/// The content of a worktree's `.calve/worktree`, or of a project's `.calve/project`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) token: String,
    pub(crate) store: PathBuf,
}

impl Marker {
    /// The path of the store comes last, since it may contain every byte except zero.
    pub(crate) fn encode(&self, of: Marked) -> Vec<u8> {
        let mut text = format!("{}\ntoken {}\nstore ", of.first_line(), self.token).into_bytes();
        text.extend_from_slice(&bytes_of(&self.store));
        text.push(b'\n');
        text
    }

    pub(crate) fn decode(text: &[u8], of: Marked) -> Option<Self> {
        let rest = text.strip_prefix(of.first_line().as_bytes())?.strip_prefix(b"\ntoken ")?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let token = std::str::from_utf8(&rest[..end]).ok()?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let store = rest[end..].strip_prefix(b"\nstore ")?.strip_suffix(b"\n")?;
        let store = path_from(store);
        store.is_absolute().then(|| Self { token: token.to_owned(), store })
    }

    /// A worktree's marker in the folder `own` of a tree. `None` if there is no marker. If `own` is
    /// a link to a folder with a marker, that does not count.
    pub(crate) fn read(own: &Path) -> Result<Option<Self>, Error> {
        Self::read_of(own, Marked::Worktree)
    }

    /// The marker of a worktree or a project, as [`read`](Self::read) says.
    pub(crate) fn read_of(own: &Path, of: Marked) -> Result<Option<Self>, Error> {
        let read = || -> io::Result<Vec<u8>> {
            let dir = fs::open(own, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            read_plain(dir, Path::new(of.file()), MOST_BYTES)
        };
        let path = || own.join(of.file());
        let damaged = |why| Error::new(ErrorKind::Damaged, Operation::Read, path(), why);
        match read() {
            Ok(text) => Self::decode(&text, of).map(Some).ok_or_else(|| {
                let why = match of {
                    Marked::Worktree => "it is no worktree's marker",
                    Marked::Project => "it does not say where a project's store is",
                };
                damaged(io::Error::new(io::ErrorKind::InvalidData, why))
            }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged(error)),
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context(Operation::Read, path),
        }
    }

    /// Puts the marker of a project whose store is elsewhere into the folder `own` of the project,
    /// and makes this folder if it is missing. An older marker is replaced as a whole.
    pub(crate) fn point(&self, own: &Path) -> io::Result<()> {
        match fs::mkdir(own, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        // The name may be a link's.
        let dir = fs::open(own, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        let mode = Mode::from_raw_mode(0o644);
        match fs::openat(&dir, GIT_IGNORE, NEW_FILE_FLAGS, mode) {
            Ok(file) => io::Write::write_all(&mut std::fs::File::from(file), b"*\n")?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        write_whole(own, &own.join(POINTER), &self.encode(Marked::Project))?;
        Ok(fs::fsync(dir)?)
    }

    /// Puts the marker into a tree that is being made.
    pub(crate) fn write(&self, root: &OwnedFd) -> io::Result<()> {
        fs::mkdirat(root, OWN, Mode::from_raw_mode(0o755))?;
        let own = fs::openat(root, OWN, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        write_new(&own, MARKER, &self.encode(Marked::Worktree))?;
        write_new(&own, GIT_IGNORE, b"*\n")?;
        write_maker(&own)
    }
}

/// Notes in calve's own folder of a tree whose files calve makes who that is, unless it is root:
/// see [`Maker`](super::metadata::Maker).
pub(crate) fn write_maker(own: &OwnedFd) -> io::Result<()> {
    let stat = fs::fstat(own)?;
    if stat.st_uid == 0 {
        return Ok(());
    }
    write_new(own, MADE_BY, format!("{} {}\n", stat.st_uid, stat.st_gid).as_bytes())
}

fn write_new(own: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let file = fs::openat(own, name, NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut std::fs::File::from(file), text)
}

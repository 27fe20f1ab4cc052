//! The marker of a worktree, `.calve/worktree` in its tree, says which worktree of which store this
//! is.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::files::{bytes_of, path_from, read_plain};
use super::layout::{GIT_IGNORE, MADE_BY, MARKER, OWN};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};

/// Every path is shorter than this, on every system.
const MOST_BYTES: u64 = 64 * 1024;

/// The content of a worktree's `.calve/worktree`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) token: String,
    pub(crate) store: PathBuf,
}

impl Marker {
    /// The path of the store comes last, since it may contain every byte except zero.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = format!("calve worktree 1\ntoken {}\nstore ", self.token).into_bytes();
        text.extend_from_slice(&bytes_of(&self.store));
        text.push(b'\n');
        text
    }

    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(b"calve worktree 1\ntoken ")?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let token = std::str::from_utf8(&rest[..end]).ok()?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let store = rest[end..].strip_prefix(b"\nstore ")?.strip_suffix(b"\n")?;
        let store = path_from(store);
        store.is_absolute().then(|| Self { token: token.to_owned(), store })
    }

    /// The marker in the folder `own` of a tree. `None` if there is no marker. If `own` is a link
    /// to a folder with a marker, that does not count.
    pub(crate) fn read(own: &Path) -> Result<Option<Self>, Error> {
        let read = || -> io::Result<Vec<u8>> {
            let dir = fs::open(own, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            read_plain(dir, Path::new(MARKER), MOST_BYTES)
        };
        let damaged = |why| Error::new(ErrorKind::Damaged, Operation::Read, own.join(MARKER), why);
        match read() {
            Ok(text) => Self::decode(&text).map(Some).ok_or_else(|| {
                let why = "it is no worktree's marker";
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
            Err(error) => Err(error).context(Operation::Read, || own.join(MARKER)),
        }
    }

    /// Puts the marker into a tree that is being made.
    pub(crate) fn write(&self, root: &OwnedFd) -> io::Result<()> {
        fs::mkdirat(root, OWN, Mode::from_raw_mode(0o755))?;
        let own = fs::openat(root, OWN, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        let mut files = vec![(MARKER, self.encode()), (GIT_IGNORE, b"*\n".to_vec())];
        let stat = fs::fstat(&own)?;
        if stat.st_uid != 0 {
            files.push((MADE_BY, format!("{} {}\n", stat.st_uid, stat.st_gid).into_bytes()));
        }
        for (name, text) in files {
            let file = fs::openat(&own, name, NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
            io::Write::write_all(&mut std::fs::File::from(file), &text)?;
        }
        Ok(())
    }
}

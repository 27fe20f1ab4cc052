//! Markers say which store a tree belongs to.
//!
//! A worktree has `.calve/worktree`: which worktree of which store it is. A project whose store is
//! elsewhere has `.calve/project`. Both have the token of their row. Only the owner may read a
//! marker, so nobody else learns the token. But that is not enough: whoever learned it on another
//! way could write a marker by hand. So a marker counts only by its owner, too
//! ([`Marker::believed`]).

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::files::{bytes_of, open_plain, path_from};
use super::git;
use super::layout::{GIT_IGNORE, GIT_MARKER, MADE_BY, MARKER, NO_MODES, OWN, POINTER};
use super::ownership::{self, Believed, Owned, Role};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::{meta, rights};
use crate::tree::staging::{appears, make_file, make_folder, once_shown, stage_name, sync_folder};

/// Every path is shorter than this, on every system.
const MOST_BYTES: u64 = 64 * 1024;

/// The content of a [`GIT_IGNORE`].
pub(crate) const HIDES_ALL: &[u8] = b"*\n";

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

    /// A worktree's marker in the folder `own` of a tree, whoever owns it. `None` if there is no
    /// marker. If `own` is a link to a folder with a marker, that does not count.
    pub(crate) fn read(own: &Path) -> Result<Option<Self>, Error> {
        Self::read_of(own, Marked::Worktree)
    }

    /// The marker of a worktree or a project, as [`read`](Self::read) says.
    pub(crate) fn read_of(own: &Path, of: Marked) -> Result<Option<Self>, Error> {
        Ok(FoundMark::at(own, of)?.map(|seen| seen.marker))
    }

    /// Like [`read_of`](Self::read_of), but the marker of a user who is not believed is none: it
    /// says nothing about the tree that the caller looks for.
    pub(crate) fn believed(
        own: &Path,
        of: Marked,
        believed: Believed,
    ) -> Result<Option<Self>, Error> {
        match FoundMark::at(own, of) {
            Ok(Some(seen)) if seen.why_not(believed).is_some() => Ok(None),
            Ok(seen) => Ok(seen.map(|seen| seen.marker)),
            Err(error) if error.kind() == ErrorKind::StoreUntrusted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts the marker of a project whose store is elsewhere into the folder `own` of the project,
    /// and makes this folder if it is missing. An older marker is replaced as a whole.
    pub(crate) fn point(&self, own: &Path, believed: Believed) -> io::Result<()> {
        let made = match make_folder(fs::CWD, own, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        self.point_in(own, believed).inspect_err(|_| {
            if made {
                // An empty folder would be taken for a store. The first error says what is wrong.
                appears(fs::CWD, own);
                appears(fs::CWD, &own.join(GIT_IGNORE));
                let _ = std::fs::remove_file(own.join(GIT_IGNORE));
                let _ = std::fs::remove_dir(own);
            }
        })
    }

    fn point_in(&self, own: &Path, believed: Believed) -> io::Result<()> {
        // The name may be a link's.
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let dir = once_shown(fs::CWD, own, || Ok(fs::open(own, flags, Mode::empty())?))?;
        let mode = Mode::from_raw_mode(0o644);
        match make_file(&dir, GIT_IGNORE.as_ref(), NEW_FILE_FLAGS, mode) {
            Ok(file) => io::Write::write_all(&mut std::fs::File::from(file), HIDES_ALL)?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.replace(&dir, Marked::Project, believed)?;
        sync_folder(dir)
    }

    /// Replaces the marker in calve's own folder, as a whole.
    pub(crate) fn replace(&self, own: &OwnedFd, of: Marked, believed: Believed) -> io::Result<()> {
        self.replace_at(own, of.file(), of, believed)
    }

    /// Has git keep the marker of a worktree, too, in the folder that belongs to this one tree.
    pub(crate) fn keep_in(&self, folder: &OwnedFd, believed: Believed) -> io::Result<()> {
        self.replace_at(folder, GIT_MARKER, Marked::Worktree, believed)
    }

    fn replace_at(
        &self,
        own: &OwnedFd,
        name: &str,
        of: Marked,
        believed: Believed,
    ) -> io::Result<()> {
        let new = stage_name();
        let replace = || -> io::Result<()> {
            write_mark(own, &new, &self.encode(of), believed)?;
            once_shown(own, &new, || Ok(fs::renameat(own, &new, own, name)?))
        };
        replace().inspect_err(|_| {
            // The first error says what is wrong.
            let _ = fs::unlinkat(own, &new, AtFlags::empty());
        })
    }

    /// Puts the marker into a tree that is being made.
    pub(crate) fn write(&self, root: &OwnedFd, believed: Believed) -> io::Result<()> {
        make_folder(root, OWN.as_ref(), Mode::from_raw_mode(0o755))?;
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let own = once_shown(root, OWN, || Ok(fs::openat(root, OWN, flags, Mode::empty())?))?;
        write_mark(&own, MARKER, &self.encode(Marked::Worktree), believed)?;
        write_new(&own, GIT_IGNORE, HIDES_ALL)?;
        write_maker(&own)?;
        give(&own, believed);
        Ok(())
    }
}

/// A marker, and who owns it and the folder that it is in.
#[derive(Debug)]
pub(crate) struct FoundMark {
    pub(crate) marker: Marker,
    folder: Owned,
    file: Owned,
}

impl FoundMark {
    /// The marker in the folder `own` of a tree, as [`Marker::read`] says. If a worktree has none
    /// there, because `git clean -x` deleted it, the one that git keeps counts.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUntrusted`] if it cannot be read, and belongs to another user.
    pub(crate) fn at(own: &Path, of: Marked) -> Result<Option<Self>, Error> {
        let found = Self::in_folder(own, of.file(), of)?;
        if found.is_some() || of != Marked::Worktree {
            return Ok(found);
        }
        match own.parent().and_then(git::folder_of) {
            Some(kept) => Self::in_folder(&kept, GIT_MARKER, of),
            None => Ok(None),
        }
    }

    fn in_folder(own: &Path, name: &str, of: Marked) -> Result<Option<Self>, Error> {
        let path = || own.join(name);
        let read = || -> io::Result<(Vec<u8>, Owned, Owned)> {
            let dir = fs::open(own, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            let file = open_plain(&dir, Path::new(name), MOST_BYTES)?.0;
            let (folder, owner) = (Owned::of(&fs::fstat(&dir)?), Owned::of(&fs::fstat(&file)?));
            let mut text = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, MOST_BYTES), &mut text)?;
            Ok((text, folder, owner))
        };
        let damaged = |why| Error::new(ErrorKind::Damaged, Operation::Read, path(), why);
        match read() {
            Ok((text, folder, file)) => match Marker::decode(&text, of) {
                Some(marker) => Ok(Some(Self { marker, folder, file })),
                None => {
                    let why = match of {
                        Marked::Worktree => "it is no worktree's marker",
                        Marked::Project => "it does not say where a project's store is",
                    };
                    Err(damaged(io::Error::new(io::ErrorKind::InvalidData, why)))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged(error)),
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                ) =>
            {
                Ok(None)
            }
            Err(error) => {
                // It says whose the mark is, if it can be seen.
                let parts = [own.to_owned(), path()];
                let mut owners = parts.iter().filter_map(|part| Owned::at(part).ok());
                match owners.find_map(|owner| Believed::user().why_not(owner, Role::Mark)) {
                    Some(why) => Err(ownership::not(Operation::Read, &path(), why)),
                    None => Err(error).context(Operation::Read, path),
                }
            }
        }
    }

    /// Why the marker does not count. `None`: it does.
    pub(crate) fn why_not(&self, believed: Believed) -> Option<String> {
        let mut parts = [self.folder, self.file].into_iter();
        parts.find_map(|part| believed.why_not(part, Role::Mark))
    }
}

/// Writes a new marker, which nobody may read but its owner, and the group of a shared store.
fn write_mark(own: &OwnedFd, name: &str, text: &[u8], believed: Believed) -> io::Result<()> {
    let file = make_file(own, name.as_ref(), NEW_FILE_FLAGS, Mode::from_raw_mode(0o600))?;
    if give(&file, believed) && believed.keeps_marks().1.is_some() {
        fs::fchmod(&file, Mode::from_raw_mode(0o640))?;
    }
    io::Write::write_all(&mut std::fs::File::from(file), text)
}

/// Gives a file to whom the store belongs. Returns whether it is theirs. If it stays ours, the
/// mark serves us and root, and the other user is told that it is not theirs.
fn give(file: &OwnedFd, believed: Believed) -> bool {
    let (owner, group) = believed.keeps_marks();
    (owner.is_none() && group.is_none()) || fs::fchown(file, owner, group).is_ok()
}

/// Notes in calve's own folder of a tree whose files calve makes who that is, unless it can make
/// files of all users, and whether no modes can be set there: see
/// [`Maker`](super::metadata::Maker).
pub(crate) fn write_maker(own: &OwnedFd) -> io::Result<()> {
    let owner = match rights::can_give_to_all() {
        true => None,
        false => Some(fs::fstat(own)?),
    };
    match maker_text(owner.as_ref(), keeps_modes(own)?) {
        text if text.is_empty() => Ok(()),
        text => write_new(own, MADE_BY, text.as_bytes()),
    }
}

/// The content of a [`MADE_BY`].
pub(crate) fn maker_text(owner: Option<&fs::Stat>, keeps_modes: bool) -> String {
    let mut text = String::new();
    if let Some(owner) = owner {
        text += &format!("{} {}\n", owner.st_uid, owner.st_gid);
    }
    if !keeps_modes {
        text += NO_MODES;
        text.push('\n');
    }
    text
}

/// Whether a mode can be set in this folder. Filesystems that were not tested may refuse it, or
/// accept it and keep another one.
pub(crate) fn keeps_modes(own: &OwnedFd) -> io::Result<bool> {
    if Filesystem::of_file(own).is_tested {
        return Ok(true);
    }
    let name = stage_name();
    let file = make_file(own, name.as_ref(), NEW_FILE_FLAGS, Mode::from_raw_mode(0o600))?;
    let wanted = Mode::from_raw_mode(0o640);
    let set = meta::give_mode(&file, wanted).and_then(|()| fs::fstat(&file));
    fs::unlinkat(own, &name, AtFlags::empty())?;
    Ok(Mode::from_raw_mode(set?.st_mode) == wanted)
}

fn write_new(own: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let file = make_file(own, name.as_ref(), NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut std::fs::File::from(file), text)
}

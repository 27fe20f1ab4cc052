//! Markers say which store a tree belongs to.
//!
//! A worktree has a mark, which says which worktree of which store it is ([`MarkPlace`]). A project
//! whose store is elsewhere has a pointer, which says where. Both have the token of their row. Only the owner
//! may read a marker, so nobody else learns the token. But that is not enough: whoever learned it on
//! another way could write a marker by hand. So a marker counts only by its owner, too
//! ([`Marker::believed`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::files::{bytes_of, may_write, open_plain, path_from, read_open};
use super::git;
use super::home;
use super::layout::{self, GIT_IGNORE, GIT_MARKER, IN_GIT, MARKER, NO_MODES, OWN, POINTER};
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
    fn first_line(self) -> &'static str {
        match self {
            Self::Worktree => "calve worktree 1",
            Self::Project => "calve project 1",
        }
    }
}

/// Where the mark of a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MarkPlace {
    pub(crate) folder: PathBuf,
    name: &'static str,
}

impl MarkPlace {
    /// A worktree that git knows has its mark where git keeps what belongs to that tree alone, so
    /// no command that cleans the tree deletes it. Other worktrees have `.calve/worktree`.
    pub(crate) fn of_worktree(root: &Path) -> Self {
        let inside = Self::in_tree(root);
        if std::fs::symlink_metadata(inside.path()).is_ok() {
            // git came later, or its folder is another user's.
            return inside;
        }
        git::folder_of(root).map_or(inside, Self::of_git)
    }

    /// The file `.calve/worktree`.
    pub(crate) fn in_tree(root: &Path) -> Self {
        Self { folder: layout::own(root), name: MARKER }
    }

    /// In the registration of a linked worktree, or in the repository of a copy.
    pub(crate) fn of_git(folder: PathBuf) -> Self {
        Self { folder, name: GIT_MARKER }
    }

    /// A project whose store is elsewhere has `.git/calve/project`, in the folder in which git keeps
    /// what belongs to that tree alone, or `.calve/project` if it has no repository or may not write
    /// to it.
    pub(crate) fn of_project(root: &Path) -> Self {
        let inside = Self { folder: layout::own(root), name: POINTER };
        if std::fs::symlink_metadata(inside.path()).is_ok() {
            return inside;
        }
        let Ok(Some(repository)) = home::repository(root) else { return inside };
        let in_git = Self { folder: repository.git_dir.join(IN_GIT), name: POINTER };
        let is_there = std::fs::symlink_metadata(in_git.path()).is_ok();
        match is_there || may_write(&repository.git_dir).is_ok_and(|may| may) {
            true => in_git,
            false => inside,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    fn is_in_tree(&self) -> bool {
        self.folder.ends_with(OWN)
    }

    fn of(&self) -> Marked {
        if self.name == POINTER { Marked::Project } else { Marked::Worktree }
    }
}

/// The content of a mark.
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

    /// The marker at this place, whoever owns it. `None` if there is none. If the folder of the
    /// marker is a link to one, that does not count.
    pub(crate) fn read(place: &MarkPlace) -> Result<Option<Self>, Error> {
        Ok(FoundMark::at(place)?.map(|seen| seen.marker))
    }

    /// Like [`read`](Self::read), but the marker of a user who is not believed is none: it says
    /// nothing about the tree that the caller looks for.
    pub(crate) fn believed(place: &MarkPlace, believed: Believed) -> Result<Option<Self>, Error> {
        match FoundMark::at(place) {
            Ok(Some(seen)) if seen.why_not(believed).is_some() => Ok(None),
            Ok(seen) => Ok(seen.map(|seen| seen.marker)),
            Err(error) if error.kind() == ErrorKind::StoreUntrusted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts the marker of a project whose store is elsewhere to its place, and makes the folder if it
    /// is missing. An older marker is replaced as a whole.
    pub(crate) fn point(&self, place: &MarkPlace, believed: Believed) -> io::Result<()> {
        let own = &*place.folder;
        let made = match make_folder(fs::CWD, own, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(errno.into()),
        };
        self.point_in(place, believed).inspect_err(|_| {
            if made {
                // An empty folder would be taken for a store. The first error says what is wrong.
                appears(fs::CWD, own);
                appears(fs::CWD, &own.join(GIT_IGNORE));
                let _ = std::fs::remove_file(own.join(GIT_IGNORE));
                let _ = std::fs::remove_dir(own);
            }
        })
    }

    fn point_in(&self, place: &MarkPlace, believed: Believed) -> io::Result<()> {
        // The name may be a link's.
        let (own, flags) = (&place.folder, DIR_FLAGS | OFlags::NOFOLLOW);
        let dir = once_shown(fs::CWD, own, || Ok(fs::open(own, flags, Mode::empty())?))?;
        if place.is_in_tree() {
            hide(&dir)?;
        }
        self.replace(&dir, POINTER, believed)?;
        sync_folder(dir)
    }

    fn replace(&self, own: &OwnedFd, name: &'static str, believed: Believed) -> io::Result<()> {
        let new = stage_name();
        let of = if name == POINTER { Marked::Project } else { Marked::Worktree };
        let replace = || -> io::Result<()> {
            write_mark(own, &new, &self.encode(of), believed)?;
            once_shown(own, &new, || Ok(fs::renameat(own, &new, own, name)?))
        };
        replace().inspect_err(|_| {
            // The first error says what is wrong.
            let _ = fs::unlinkat(own, &new, AtFlags::empty());
        })
    }

    /// Writes the marker of a worktree, or replaces it, as a whole. In the tree it makes the folder.
    pub(crate) fn write(&self, place: &MarkPlace, believed: Believed) -> io::Result<()> {
        let own = &place.folder;
        let made = match place.is_in_tree() {
            true => make_folder(fs::CWD, own, Mode::from_raw_mode(0o755)),
            false => Err(Errno::EXIST),
        };
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        let dir = once_shown(fs::CWD, own, || Ok(fs::open(own, flags, Mode::empty())?))?;
        match made {
            Ok(()) => {
                write_new(&dir, GIT_IGNORE, HIDES_ALL)?;
                give(&dir, believed);
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.replace(&dir, place.name, believed)
    }
}

/// A marker, and who owns it and the folder that it is in.
#[derive(Debug)]
pub(crate) struct FoundMark {
    pub(crate) marker: Marker,
    pub(crate) folder: Owned,
    pub(crate) file: Owned,
}

impl FoundMark {
    /// The marker at this place, as [`Marker::read`] says.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUntrusted`] if it cannot be read, and belongs to another user.
    pub(crate) fn at(place: &MarkPlace) -> Result<Option<Self>, Error> {
        let (own, of) = (&place.folder, place.of());
        let path = || place.path();
        let read = || -> io::Result<(Vec<u8>, Owned, Owned)> {
            let dir = fs::open(own, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            let (file, size) = open_plain(&dir, Path::new(place.name), MOST_BYTES)?;
            let (folder, owner) = (Owned::of(&fs::fstat(&dir)?), Owned::of(&fs::fstat(&file)?));
            Ok((read_open(file, size, MOST_BYTES)?, folder, owner))
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

/// Gives a file to whom the store belongs. Returns whether it is theirs. If it stays ours, a mark
/// serves us and root, and the other user is told that it is not theirs.
pub(crate) fn give(file: impl AsFd, believed: Believed) -> bool {
    let (owner, group) = believed.keeps_marks();
    (owner.is_none() && group.is_none()) || fs::fchown(file, owner, group).is_ok()
}

/// Gives what was made beside a mark to whom the store belongs. What cannot be given stays ours.
pub(crate) fn give_at(path: &Path, believed: Believed) {
    if believed.keeps_marks() != (None, None)
        && let Ok(made) = fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
    {
        give(&made, believed);
    }
}

/// What is noted of a tree whose files calve makes, whose root is open: who makes them, unless calve
/// can make files of all users, and whether no modes can be set there. Empty if nothing is. See
/// [`Maker`](super::metadata::Maker).
pub(crate) fn maker_text(root: &OwnedFd) -> io::Result<String> {
    let (gives_all, is_tested) = (rights::can_give_to_all(), Filesystem::of_file(root).is_tested);
    let mut text = String::new();
    if gives_all && is_tested {
        return Ok(text);
    }
    // Whose new files are, the filesystem says.
    let name = stage_name();
    let file = make_file(root, name.as_ref(), NEW_FILE_FLAGS, Mode::from_raw_mode(0o600))?;
    let made = fs::fstat(&file);
    let keeps_modes = if is_tested { Ok(true) } else { keeps_modes(&file) };
    fs::unlinkat(root, &name, AtFlags::empty())?;
    let (made, keeps_modes) = (made?, keeps_modes?);
    if !gives_all {
        text += &format!("{} {}\n", made.st_uid, made.st_gid);
    }
    if !keeps_modes {
        text += NO_MODES;
        text.push('\n');
    }
    Ok(text)
}

/// Whether a mode can be given to this file. Filesystems that were not tested may refuse it, or
/// accept it and keep another one.
fn keeps_modes(file: &OwnedFd) -> io::Result<bool> {
    let wanted = Mode::from_raw_mode(0o640);
    let set = meta::give_mode(file, wanted).and_then(|()| fs::fstat(file))?;
    Ok(Mode::from_raw_mode(set.st_mode) == wanted)
}

/// Hides calve's own folder of a tree, which is open, from git.
pub(crate) fn hide(own: &OwnedFd) -> io::Result<()> {
    match write_new(own, GIT_IGNORE, HIDES_ALL) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        hidden => hidden,
    }
}

fn write_new(own: &OwnedFd, name: &str, text: &[u8]) -> io::Result<()> {
    let file = make_file(own, name.as_ref(), NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut std::fs::File::from(file), text)
}

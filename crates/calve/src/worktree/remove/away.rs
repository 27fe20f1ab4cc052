//! Takes the folder of a worktree away, and brings it back.
//!
//! The folder goes to a place that is named after the worktree's token. As long as the worktree has
//! a row, nobody deletes it there, and if the process dies, the next command brings it back
//! ([`Registry::recover`](crate::store::registry::Registry::recover)).

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::meta::Meta;
use crate::store::layout;
use crate::store::parent_of;
use crate::tree::staging::{self, stage_name};

pub(super) struct Away {
    path: PathBuf,
    parent: PathBuf,
    from: OwnedFd,
    name: CString,
    folder: PathBuf,
    to: OwnedFd,
    token: CString,
    /// The name beside the old path, if the store is on another filesystem.
    beside: CString,
    id: (u64, u64),
    /// Whether it is in the store. `None`: it is in its place.
    gone: Option<bool>,
}

/// The error for a folder that cannot be taken away. Another process may have dropped it meanwhile.
fn not_taken(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::WorktreeMissing, Operation::DropWorktree, path, error)
        }
        _ => Error::io(Operation::DropWorktree, path, error),
    }
}

impl Away {
    /// `folder` is the folder of the store that takes the worktree at `path`.
    pub(super) fn new(path: &Path, folder: PathBuf, token: &str) -> Result<Self, Error> {
        let failed = |error: io::Error| not_taken(path, error);
        let c_string =
            |bytes: &[u8]| CString::new(bytes).map_err(|error| failed(io::Error::other(error)));
        let (parent, name) = parent_of(path)?;
        let (from, to) = (super::super::open_dir(&parent)?, super::super::open_dir(&folder)?);
        let name = c_string(name.as_encoded_bytes())?;
        let stat = fs::statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW);
        let id = Meta::of(&stat.map_err(|errno| failed(errno.into()))?).id();
        Ok(Self {
            path: path.to_owned(),
            token: c_string(token.as_bytes())?,
            beside: c_string(layout::dropped_name(token).as_bytes())?,
            parent,
            from,
            name,
            folder,
            to,
            id,
            gone: None,
        })
    }

    /// Takes the folder away. Returns whether it is in the store. `None` if it cannot be renamed.
    ///
    /// # Errors
    /// It is in its place. Or something else is there by now.
    pub(super) fn go(&mut self) -> Result<Option<bool>, Error> {
        let failed = |error: io::Error| not_taken(&self.path, error);
        let in_store = match fs::renameat(&self.from, &self.name, &self.to, &self.token) {
            Ok(()) => true,
            // The store is on another filesystem, or under another project's quota.
            Err(Errno::XDEV) => {
                match fs::renameat(&self.from, &self.name, &self.from, &self.beside) {
                    Ok(()) => false,
                    Err(Errno::XDEV) => return Ok(None),
                    Err(errno) => return Err(failed(errno.into())),
                }
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        self.gone = Some(in_store);
        let (dir, name) = self.at();
        let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        match stat.map(|stat| Meta::of(&stat).id()) {
            Ok(id) if id == self.id => Ok(Some(in_store)),
            // What is deleted is what was looked at.
            _ => {
                self.back()?;
                let cause = io::Error::other("another folder took its place meanwhile");
                Err(Error::new(
                    ErrorKind::WorktreeMissing,
                    Operation::DropWorktree,
                    &self.path,
                    cause,
                ))
            }
        }
    }

    fn at(&self) -> (&OwnedFd, &CString) {
        match self.gone {
            None => (&self.from, &self.name),
            Some(true) => (&self.to, &self.token),
            Some(false) => (&self.from, &self.beside),
        }
    }

    /// The folder that the worktree's folder was in, and its name there.
    pub(super) fn origin(&self) -> (&OwnedFd, &CString) {
        (&self.from, &self.name)
    }

    /// The folder went into the store, or is deleted.
    pub(super) fn went_unrenamed(&mut self) {
        self.gone = Some(true);
    }

    /// The path at which the folder is now.
    pub(super) fn place(&self) -> PathBuf {
        let (folder, name) = match self.gone {
            None => return self.path.clone(),
            Some(true) => (&self.folder, &self.token),
            Some(false) => (&self.parent, &self.beside),
        };
        folder.join(&*name.to_string_lossy())
    }

    /// Brings the folder back, unless it is in its place.
    ///
    /// # Errors
    /// It is where [`Away::place`] says. The next command brings it back if its path is free then.
    pub(super) fn back(&mut self) -> Result<(), Error> {
        if self.gone.is_none() {
            return Ok(());
        }
        let (dir, name) = self.at();
        match staging::rename_folder(dir, &**name, &self.from, &*self.name, Mode::RWXU) {
            // The command of another process brought it back.
            Err(Errno::NOENT) => {}
            renamed => renamed.context(Operation::BringBack, || self.place())?,
        }
        self.gone = None;
        Ok(())
    }

    /// Gives a folder beside its old path a name and a mark by which the next process that makes a
    /// tree there knows that it may delete it.
    ///
    /// # Errors
    /// Nobody deletes the folder.
    pub(super) fn leave_to_sweep(&mut self) -> Result<(), Error> {
        let leave = || -> io::Result<CString> {
            let name = CString::new(stage_name())?;
            fs::renameat(&self.from, &self.beside, &self.from, &name)?;
            Ok(name)
        };
        self.beside = leave().context(Operation::DeleteDropped, || self.place())?;
        staging::mark(&self.from, &self.beside).context(Operation::DeleteDropped, || self.place())
    }

    /// The folder that the worktree's folder is in now, and its name there.
    pub(super) fn into_place(self) -> (PathBuf, CString) {
        match self.gone {
            None => (self.parent, self.name),
            Some(true) => (self.folder, self.token),
            Some(false) => (self.parent, self.beside),
        }
    }
}

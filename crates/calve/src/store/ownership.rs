//! Decides whose stores, marks and key files calve believes.
//!
//! Anybody who may write to a folder can put a mark there, and calve deletes, moves and writes
//! where a mark says. So a mark counts only if the user who runs calve, or root, owns it and the
//! folder that it is in. If the user named a store of another user ([`Store::open`]), that user is
//! believed about this store, too. (git asks the same question, see its `safe.directory`.)
//!
//! A store whose folder is writable for a group is the group's. Then files of that group count
//! where the store expects them. They move nothing: in a folder that gives its group to all files,
//! anybody can make such files.
//!
//! [`Store::open`]: super::Store::open

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, Gid, Stat, Uid};

use crate::error::{Error, ErrorKind, Operation};
use crate::reflink::meta::Meta;

/// The bit of a mode that lets everybody write.
const OTHERS_WRITE: u32 = 0o002;
/// The bit of a mode that lets everybody add entries, and only owners remove them.
const STICKY: u32 = 0o1000;
/// The bit of a mode that lets the group write.
const GROUP_WRITES: u32 = 0o020;

/// Who owns an entry, and who may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

impl Owned {
    pub(crate) fn of(stat: &Stat) -> Self {
        let meta = Meta::of(stat);
        Self { uid: meta.uid, gid: meta.gid, mode: meta.permissions() }
    }

    pub(crate) fn by(file: &std::fs::Metadata) -> Self {
        Self { uid: file.uid(), gid: file.gid(), mode: file.mode() & 0o7777 }
    }

    /// What is at `path`. A link is not followed.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::statat(fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)?))
    }
}

/// What an entry is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A mark, or the folder that it is in.
    Mark,
    /// The root of a tree that was moved: its row gets the root's path.
    MovedRoot,
    /// The file with a project's keys.
    Keys,
}

/// Whom calve believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Believed {
    user: u32,
    /// The owner of the store that the user named, or that is the user's or root's.
    store: Option<u32>,
    /// The group that controls the store.
    group: Option<u32>,
}

impl Believed {
    /// The user who runs calve, and root.
    pub(crate) fn user() -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self { user, store: None, group: None }
    }

    /// Those, and the owner of a store that is in use.
    pub(crate) fn with_store(store: &Path) -> Self {
        Self::with(fs::stat(store))
    }

    /// The same for a store of which a folder is open.
    pub(crate) fn with_folder(folder: impl AsFd) -> Self {
        Self::with(fs::fstat(folder))
    }

    fn with(store: rustix::io::Result<Stat>) -> Self {
        match store {
            Ok(stat) => Self::user().and(Owned::of(&stat)),
            // It is gone. So nobody speaks for it.
            Err(_) => Self::user(),
        }
    }

    fn and(self, store: Owned) -> Self {
        let group = (store.mode & GROUP_WRITES != 0).then_some(store.gid);
        Self { store: Some(store.uid), group, ..self }
    }

    fn knows(self, owner: u32) -> bool {
        owner == self.user || owner == 0 || self.store == Some(owner)
    }

    /// Why an entry does not count. `None`: it does.
    pub(crate) fn why_not(self, entry: Owned, role: Role) -> Option<String> {
        let is_of_group = role == Role::Mark && self.group == Some(entry.gid);
        if !self.knows(entry.uid) && !is_of_group {
            return Some(format!("it belongs to another user (uid {})", entry.uid));
        }
        let is_open = match role {
            // Another user who replaces the mark owns the new one, and that does not count.
            Role::Mark => false,
            Role::MovedRoot => entry.mode & (OTHERS_WRITE | STICKY) != 0,
            Role::Keys => entry.mode & OTHERS_WRITE != 0,
        };
        is_open.then(|| format!("other users may write to it (mode {:o})", entry.mode))
    }

    /// The owner and group that marks, locks and folders of the store get. Root gives them to the
    /// owner of the store, who could not use them otherwise.
    pub(crate) fn keeps_marks(self) -> (Option<Uid>, Option<Gid>) {
        let owner = self.store.filter(|store| self.user == 0 && *store != 0);
        (owner.map(Uid::from_raw), self.group.map(Gid::from_raw))
    }
}

/// Fails with [`ErrorKind::StoreUntrusted`] if the root of a moved tree does not count.
pub(crate) fn must_be_believed_root(
    believed: Believed,
    root: &Path,
    operation: Operation,
) -> Result<(), Error> {
    let owned = Owned::at(root).map_err(|error| Error::io(Operation::LookAt, root, error))?;
    believed.why_not(owned, Role::MovedRoot).map_or(Ok(()), |why| Err(not(operation, root, why)))
}

/// The error for an entry that does not count.
pub(crate) fn not(operation: Operation, path: &Path, why: String) -> Error {
    let cause = io::Error::new(io::ErrorKind::PermissionDenied, why);
    Error::new(ErrorKind::StoreUntrusted, operation, path, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_a_root_and_a_key_file_count_by_owner_and_mode() {
        let owned = |uid, gid, mode| Owned { uid, gid, mode };
        let alone = |user| Believed { user, store: None, group: None };
        let (ours, roots) = (alone(1000), alone(0));
        // A store of user 1000 that root named; one that user 1000 shares with group 50.
        let named = roots.and(owned(1000, 1000, 0o700));
        let shared = ours.and(owned(1000, 50, 0o2770));
        let (no, open) = ("another user", "may write to it");
        for (who, uid, gid, mode, [mark, root, keys]) in [
            (ours, 1000, 1000, 0o700, ["", "", ""]),
            (ours, 1000, 1000, 0o775, ["", "", ""]),
            (ours, 0, 0, 0o755, ["", "", ""]),
            (ours, 1000, 1000, 0o777, ["", open, open]),
            (ours, 0, 0, 0o1777, ["", open, open]),
            (ours, 1000, 1000, 0o1755, ["", open, ""]),
            (ours, 1001, 1000, 0o755, [no, no, no]),
            // The user that a container does not know.
            (ours, 65534, 65534, 0o755, [no, no, no]),
            (roots, 0, 0, 0o755, ["", "", ""]),
            // Root least of all: whatever the mark says would be done with all rights.
            (roots, 1000, 1000, 0o755, [no, no, no]),
            (named, 1000, 1000, 0o755, ["", "", ""]),
            (named, 1001, 1000, 0o755, [no, no, no]),
            (shared, 1001, 50, 0o640, ["", no, no]),
            (shared, 1001, 1001, 0o640, [no, no, no]),
        ] {
            let roles =
                [Role::Mark, Role::MovedRoot, Role::Keys].into_iter().zip([mark, root, keys]);
            for (role, expected) in roles {
                let found = who.why_not(owned(uid, gid, mode), role).unwrap_or_default();
                let row = format!("{who:?} {uid}:{gid} {mode:o} {role:?}: {found:?}");
                assert_eq!(found.is_empty(), expected.is_empty(), "{row}");
                assert!(found.contains(expected), "{row}");
            }
        }
        assert_eq!(named.keeps_marks(), (Some(Uid::from_raw(1000)), None));
        assert_eq!(ours.keeps_marks(), (None, None));
        assert_eq!(shared.keeps_marks(), (None, Some(Gid::from_raw(50))));
    }
}

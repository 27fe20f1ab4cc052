//! The name of every path inside a store, and inside calve's own folder of a worktree. No other file of the library spells one.
//!
//! The documentation of [`store_format`](crate::store_format) says what each of them holds. All of a store is below its folder, and nothing
//! else writes there; [`format`](super::format) refuses a store of which a part leads elsewhere.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use super::id::SnapshotId;

pub(crate) use crate::tree::OWN;
use crate::tree::staging::PREFIX;

/// The folders that a new store has.
pub(crate) const FOLDERS: [&str; 7] = [BLOBS, PACKS, TEMPLATES, STAGE, TRASH, LOCKS, INDEXES];

/// The folders that may be in a store, to which calve adds and from which it removes on its own.
pub(crate) const ALL_FOLDERS: [&str; 9] =
    [BLOBS, INDEXES, LOCKS, PACKS, STAGE, TEMPLATES, TRASH, UNDO, WORKTREES];

/// The files that libraries write, which open whatever has the name.
pub(crate) const FILES: [&str; 5] =
    [FORMAT, DATABASE, DATABASE_LOG, "index.db-shm", "index.db-journal"];

const BLOBS: &str = "blobs";
const PACKS: &str = "packs";
const TEMPLATES: &str = "templates";
const STAGE: &str = "stage";
const TRASH: &str = "trash";
const LOCKS: &str = "locks";
const INDEXES: &str = "indexes";
const WORKTREES: &str = "worktrees";
const FORMAT: &str = "format";
const DATABASE: &str = "index.db";
const DATABASE_LOG: &str = "index.db-wal";

/// In calve's own folder of a worktree, and in a store: git need not know of either.
pub(crate) const GIT_IGNORE: &str = ".gitignore";
/// In calve's own folder of a worktree: which worktree of which store it is.
pub(crate) const MARKER: &str = "worktree";
/// In calve's own folder of a worktree that root did not make: who did. See [`metadata`](super::metadata).
pub(crate) const MADE_BY: &str = "made-by";
/// In calve's own folder of a worktree, which for a project may be its store: what `undo` takes back.
pub(crate) const UNDO: &str = "undo";
/// The same for the system.
pub(crate) const UNDO_C: &CStr = c"undo";
/// In that: what must be known to take it back.
pub(crate) const UNDO_RECORD: &str = "record";
/// The same for the system.
pub(crate) const UNDO_RECORD_C: &CStr = c"record";
/// In that: the files that were moved aside, each at the path that it had.
pub(crate) const UNDO_FILES: &str = "files";

/// The locks of a store, beside those of its worktrees, which are called by the worktree's token.
pub(crate) mod lock {
    pub(crate) const GATE: &str = "gate";
    pub(crate) const CONTENT: &str = "content";
    pub(crate) const TEMPLATES: &str = "templates";
    pub(crate) const DATABASE: &str = "database";
    pub(crate) const FORMAT: &str = "format";
}

/// A repository of git, if it is in the root of a tree: a folder, or a file that leads to one.
pub(crate) const GIT: &str = ".git";
/// From the root, if that is a folder: what git knows of linked worktrees.
pub(crate) const GIT_REGISTRATIONS: &str = ".git/worktrees";

/// Whether an entry of a tree is content, of which snapshots are made: not calve's own, in any folder, and not git's, in the root. A
/// repository further down is content.
pub(crate) fn is_content(name: &[u8], in_root: bool) -> bool {
    let own = name == OWN.as_bytes() || name.starts_with(PREFIX.as_bytes());
    let git = in_root && name == GIT.as_bytes();
    !own && !git
}

/// calve's own folder of the tree at `root`.
pub(crate) fn own(root: &Path) -> PathBuf {
    root.join(OWN)
}

/// The paths of the store in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a>(pub(crate) &'a Path);

impl Layout<'_> {
    /// Whether there is a store in this folder, whatever it is like.
    pub(crate) fn has_store(self) -> bool {
        std::fs::symlink_metadata(self.format()).is_ok()
    }

    pub(crate) fn format(self) -> PathBuf {
        self.0.join(FORMAT)
    }

    pub(crate) fn database(self) -> PathBuf {
        self.0.join(DATABASE)
    }

    /// What the database's writers wrote last.
    pub(crate) fn database_log(self) -> PathBuf {
        self.0.join(DATABASE_LOG)
    }

    /// Mirrors. [`blobs`](super::blobs) names those.
    pub(crate) fn blobs(self) -> PathBuf {
        self.0.join(BLOBS)
    }

    pub(crate) fn packs(self) -> PathBuf {
        self.0.join(PACKS)
    }

    pub(crate) fn pack(self, name: &str) -> PathBuf {
        self.packs().join(name)
    }

    pub(crate) fn indexes(self) -> PathBuf {
        self.0.join(INDEXES)
    }

    /// The index of a worktree.
    pub(crate) fn index(self, token: &str) -> PathBuf {
        self.indexes().join(token)
    }

    pub(crate) fn templates(self) -> PathBuf {
        self.0.join(TEMPLATES)
    }

    pub(crate) fn template(self, id: SnapshotId) -> PathBuf {
        self.templates().join(id.to_string())
    }

    pub(crate) fn template_index(self, id: SnapshotId) -> PathBuf {
        self.template(id).with_extension("index")
    }

    pub(crate) fn template_seal(self, id: SnapshotId) -> PathBuf {
        self.template(id).with_extension("seal")
    }

    /// Files and packs that are being made.
    pub(crate) fn stage(self) -> PathBuf {
        self.0.join(STAGE)
    }

    /// What waits to be deleted.
    pub(crate) fn trash(self) -> PathBuf {
        self.0.join(TRASH)
    }

    pub(crate) fn locks(self) -> PathBuf {
        self.0.join(LOCKS)
    }

    /// A lock of the store, or of the worktree that has this token.
    pub(crate) fn lock(self, name: &str) -> PathBuf {
        self.locks().join(name)
    }

    /// Worktrees that may not be beside the project.
    pub(crate) fn worktrees(self) -> PathBuf {
        self.0.join(WORKTREES)
    }

    /// Room for what frees space on a full disk.
    pub(crate) fn reserve(self) -> PathBuf {
        self.0.join("reserve")
    }

    /// The places of files that are held in reserve.
    pub(crate) fn reserved_file(self, number: u32) -> PathBuf {
        self.0.join(format!("reserve.{number}"))
    }

    pub(crate) fn git_ignore(self) -> PathBuf {
        self.0.join(GIT_IGNORE)
    }
}

/// Whether a pack can be called so. Names are from the database, which may be someone else's, and must lead nowhere else.
pub(crate) fn is_pack_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.')
}

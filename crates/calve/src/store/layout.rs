//! The name of every path inside a store, and inside calve's own folder of a worktree. No other
//! file of the library contains such a name.
//!
//! The documentation of [`store_format`](crate::store_format) says what each path holds. All of a
//! store is below its folder, and no other program writes there. [`format`](super::format) refuses
//! a store if a part of it leads elsewhere.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use super::id::SnapshotId;

use crate::tree::staging::PREFIX;
pub(crate) use crate::tree::{IN_GIT, OWN};

/// The folders that a new store has.
pub(crate) const FOLDERS: [&str; 9] =
    [BLOBS, PACKS, TEMPLATES, STAGE, TRASH, DROPPED, LOCKS, INDEXES, TREES];

/// The folders that a store may have, and in which calve adds and removes files on its own.
pub(crate) const ALL_FOLDERS: [&str; 15] = [
    BLOBS, DROPPED, FOUND, INDEXES, KEEP_PATHS, LOCKS, PACKS, REMOTES, STAGE, TEMPLATES, TRASH,
    TREES, UNDO, UNNAMED, WORKTREES,
];

/// Files that libraries write. The libraries open whatever has the name.
pub(crate) const FILES: [&str; 5] =
    [FORMAT, DATABASE, DATABASE_LOG, "index.db-shm", "index.db-journal"];

const BLOBS: &str = "blobs";
const PACKS: &str = "packs";
const TEMPLATES: &str = "templates";
const STAGE: &str = "stage";
const TRASH: &str = "trash";
const DROPPED: &str = "dropped";
const LOCKS: &str = "locks";
const INDEXES: &str = "indexes";
const TREES: &str = "trees";
const KEEP_PATHS: &str = "keep-paths";
const FOUND: &str = "found";
const WORKTREES: &str = "worktrees";
const UNNAMED: &str = "unnamed";
const REMOTES: &str = "remotes";
pub(crate) const FORMAT: &str = "format";
const DATABASE: &str = "index.db";
const DATABASE_LOG: &str = "index.db-wal";

/// In the folder of a ready tree that waits to be handed over, beside the tree: its index, git's
/// index for a linked worktree, and what else is known of it, the tree's name for one.
pub(crate) const READY_INDEX: &str = "index";
/// See [`READY_INDEX`].
pub(crate) const READY_GIT_INDEX: &str = "git-index";
/// See [`READY_INDEX`].
pub(crate) const READY_ABOUT: &str = "about";

/// In calve's own folder of a worktree, and in a store: hides the folder from git.
pub(crate) const GIT_IGNORE: &str = ".gitignore";
/// In calve's own folder of a worktree: says which worktree of which store this is.
pub(crate) const MARKER: &str = "worktree";
/// The same as `MARKER` for a worktree that git knows, in the folder in which git keeps what belongs
/// to this one tree: the registration of a linked worktree, or the repository of a copy.
pub(crate) const GIT_MARKER: &str = "calve-worktree";
/// In the registration of a linked worktree: by what calve knows that nobody touched the tree. See
/// [`seal`](super::ready::seal).
pub(crate) const GIT_SEAL: &str = "calve-seal";
/// This file in calve's own folder of a project says where the store is, if the store is elsewhere.
pub(crate) const POINTER: &str = "project";
/// In the store's folder of a worktree's tree that root did not make: says who made it. See
/// [`metadata`](super::metadata).
pub(crate) const MADE_BY: &str = "made-by";

/// The line of a [`MADE_BY`] which says that no modes can be set in that tree.
pub(crate) const NO_MODES: &str = "no-modes";
/// In the store's folder of a worktree's tree: the roots that its files name. See
/// [`paths`](super::paths).
pub(crate) const PATHS: &str = "paths";
/// In calve's own folder of a worktree (for a project, this may be its store): the folder with
/// everything that `undo` needs.
pub(crate) const UNDO: &str = "undo";
/// `UNDO` for system calls.
pub(crate) const UNDO_C: &CStr = c"undo";
/// In the folder `UNDO`: the record of what a switch changed.
pub(crate) const UNDO_RECORD: &str = "record";
/// `UNDO_RECORD` for system calls.
pub(crate) const UNDO_RECORD_C: &CStr = c"record";
/// In the folder `UNDO`: the files that were moved aside, each at the path that it had.
pub(crate) const UNDO_FILES: &str = "files";

/// The locks of a store. The locks of its worktrees are beside them, each named after the
/// worktree's token.
pub(crate) mod lock {
    pub(crate) const GATE: &str = "gate";
    pub(crate) const CONTENT: &str = "content";
    pub(crate) const TEMPLATES: &str = "templates";
    pub(crate) const REFILL: &str = "refill";
    pub(crate) const NAMING: &str = "naming";
    pub(crate) const NAMING_WANTED: &str = "naming-wanted";
    pub(crate) const DATABASE: &str = "database";
    #[cfg(feature = "remote")]
    pub(crate) const REMOTES: &str = "remotes";
}

/// A repository of git, if it is in the root of a tree: a folder, or a file that leads to a folder.
pub(crate) const GIT: &str = ".git";
/// If `GIT` is a folder: git's registrations of linked worktrees, relative to the root.
pub(crate) const GIT_REGISTRATIONS: &str = ".git/worktrees";

/// The names of dropped worktrees that are kept outside of the store start with this.
const DROPPED_PREFIX: &str = ".calve-dropped-";

/// The entries by which git itself knows the folder of a repository.
pub(crate) const REPOSITORY: [&str; 3] = ["HEAD", "objects", "refs"];

/// What jj knows of a tree, if it is in the root. Beside `GIT` it leads to that repository, and
/// says what jj has checked out in this one tree.
pub(crate) const JJ: &str = ".jj";

/// In a registration of git: the path of the worktree's `.git` file.
pub(crate) const GITDIR: &str = "gitdir";

/// Beside projects: an empty folder, in which programs that see a worktree at the project's path
/// see the project. See [`run`](crate::worktree).
#[cfg(target_os = "linux")]
pub(crate) const RUN: &str = ".calve-run";

/// Where in a tree an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Within {
    /// In the root, which has a repository of git.
    RootOfRepository,
    Root,
    /// In the folder of a repository, which has a folder of calve's own.
    Repository,
    Below,
}

impl Within {
    /// The root with entries of these names.
    pub(crate) fn root<'n>(mut names: impl Iterator<Item = &'n [u8]>) -> Self {
        match names.any(|name| name == GIT.as_bytes()) {
            true => Self::RootOfRepository,
            false => Self::Root,
        }
    }

    /// Another folder of a tree than its root, with entries of these names.
    pub(crate) fn below<'n>(names: impl Iterator<Item = &'n [u8]> + Clone) -> Self {
        let has = |wanted: &str| names.clone().any(|name| name == wanted.as_bytes());
        match has(IN_GIT) && REPOSITORY.iter().all(|name| has(name)) {
            true => Self::Repository,
            false => Self::Below,
        }
    }
}

/// Whether an entry of a tree is content, which snapshots are made of. calve's own entries are not
/// content in any folder, and git's are not in the root, nor jj's beside them. A repository further
/// down is content, without its store.
pub(crate) fn is_content(name: &[u8], within: Within) -> bool {
    let own = name == OWN.as_bytes()
        || [PREFIX, DROPPED_PREFIX].iter().any(|prefix| name.starts_with(prefix.as_bytes()));
    let is_root = matches!(within, Within::Root | Within::RootOfRepository);
    let git = is_root && name == GIT.as_bytes();
    let jj = within == Within::RootOfRepository && name == JJ.as_bytes();
    let store = within == Within::Repository && name == IN_GIT.as_bytes();
    !own && !git && !jj && !store
}

/// The name of an entry that would take the place of calve's own folder or of a repository if it
/// came from a remote into the root of a tree: then git would run the commands of whoever put it
/// there. Filesystems of other systems take more than one spelling for the same name. As git does
/// (`core.protectHFS`, `core.protectNTFS`), calve compares without letter case and code points that
/// HFS+ ignores, without spaces and dots at the end and what follows a colon or backslash, and knows
/// the short names of NTFS.
#[cfg(feature = "remote")]
pub(crate) fn of_calve_or_git(name: &[u8]) -> Option<&'static str> {
    let is_ignored = |char: &char| matches!(char, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let text: String = String::from_utf8_lossy(name).chars().filter(|it| !is_ignored(it)).collect();
    let text = text.split([':', '\\']).next().unwrap_or_default().trim_end_matches([' ', '.']);
    let spellings = [(OWN, OWN), ("calve~1", OWN), (GIT, GIT), ("git~1", GIT)];
    spellings
        .iter()
        .find(|(spelling, _)| text.eq_ignore_ascii_case(spelling))
        .map(|(_, name)| *name)
}

/// Where the tree of a dropped worktree is kept if it cannot be renamed into the store: beside its
/// old path.
pub(crate) fn dropped_beside(path: &Path, token: &str) -> PathBuf {
    path.with_file_name(dropped_name(token))
}

/// The last part of `dropped_beside`.
pub(crate) fn dropped_name(token: &str) -> String {
    format!("{DROPPED_PREFIX}{token}")
}

/// calve's own folder of the tree at `root`.
pub(crate) fn own(root: &Path) -> PathBuf {
    root.join(OWN)
}

/// The folder of worktrees in calve's own folder of a project.
pub(crate) fn worktrees_in(own: &Path) -> PathBuf {
    own.join(WORKTREES)
}

/// The root of the project around a store: the store is its `.calve`, or in its `.git`.
pub(crate) fn project_around(store: &Path) -> &Path {
    let folder = store.parent().unwrap_or(store);
    match folder.parent() {
        Some(root) if store.ends_with(IN_GIT) && folder.ends_with(GIT) => root,
        _ => folder,
    }
}

/// Defines methods of [`Layout`]: each gives a path below the store, or in another path of it.
macro_rules! paths {
    (@ $layout:ident) => {
        $layout.0
    };
    (@ $layout:ident $above:ident) => {
        $layout.$above()
    };
    ($($(#[$meta:meta])* $name:ident $(($of:ident: $type:ty))? $(in $above:ident)? = $end:expr,)+) => {
        impl Layout<'_> {
            $(
                $(#[$meta])*
                pub(crate) fn $name(self $(, $of: $type)?) -> PathBuf {
                    paths!(@ self $($above)?).join($end)
                }
            )+
        }
    };
}

/// The paths of a store in this folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout<'a>(pub(crate) &'a Path);

/// The path without links, as far as its folders are there.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = |above: &Path| Some((above.to_owned(), std::fs::canonicalize(above).ok()?));
    match path.ancestors().find_map(there) {
        // Not by `join` with an empty path, which adds a slash.
        Some((above, real)) if above == path => real,
        Some((above, real)) => real.join(path.strip_prefix(above).unwrap_or(Path::new(""))),
        None => path,
    }
}

/// Whether a tree at `root`, which may be missing, would be inside a store.
pub(crate) fn is_in_store(root: &Path) -> bool {
    let root = resolved(root);
    root.ancestors().any(|above| Layout(above).holds_tree(&root))
}

impl Layout<'_> {
    /// Whether there is a store in this folder, in whatever state.
    pub(crate) fn has_store(self) -> bool {
        std::fs::symlink_metadata(self.format()).is_ok()
    }

    /// Whether this folder is a store in which no tree may be at `root`, a path below it. Worktrees may
    /// be in the store's folder for them.
    fn holds_tree(self, root: &Path) -> bool {
        // A project may have a file of the first name.
        self.has_store()
            && std::fs::symlink_metadata(self.database()).is_ok()
            && !root.parent().is_some_and(|above| above.starts_with(self.worktrees()))
    }

    /// Says which folder the root of a worktree is.
    pub(crate) fn tree_root(self, token: &str) -> PathBuf {
        self.tree(token).join("root")
    }

    /// What the store has seen of a name of the remote with this id.
    #[cfg(feature = "remote")]
    pub(crate) fn remote_name(self, remote: &str, encoded: &str) -> PathBuf {
        self.0.join(REMOTES).join(remote).join("names").join(encoded)
    }

    /// The folder of the remotes that the store knows by names.
    #[cfg(feature = "remote")]
    pub(crate) fn known_remotes(self) -> PathBuf {
        self.0.join(REMOTES).join("known")
    }

    /// What is in a pack that was sent to a remote, or the folder of these files.
    #[cfg(feature = "remote")]
    pub(crate) fn remote_sent(self, remote: &str, pack: &str) -> PathBuf {
        self.0.join(REMOTES).join(remote).join("sent").join(pack)
    }

    /// The subvolume that the worktrees of the record with this token are snapshots of.
    pub(crate) fn unnamed_tree(self, token: &str) -> PathBuf {
        self.ready_trees().join(token).with_extension(UNNAMED)
    }

    pub(crate) fn ready_index(self, id: SnapshotId) -> PathBuf {
        self.ready_tree(id).with_extension("index")
    }

    /// git's index for worktrees of a ready tree.
    pub(crate) fn ready_git_index(self, id: SnapshotId) -> PathBuf {
        self.ready_tree(id).with_extension("git-index")
    }

    pub(crate) fn ready_seal(self, id: SnapshotId) -> PathBuf {
        self.ready_tree(id).with_extension("seal")
    }

    /// git's registration of a worktree that is being dropped, or was.
    pub(crate) fn trashed_registration(self, token: &str) -> PathBuf {
        self.trashed_tree(token).with_extension("git")
    }

    /// git's registration of a dropped worktree.
    pub(crate) fn dropped_registration(self, token: &str) -> PathBuf {
        self.dropped_tree(token).with_extension("git")
    }

    /// The folder of worktrees that cannot be beside the project.
    pub(crate) fn worktrees(self) -> PathBuf {
        worktrees_in(self.0)
    }
}

paths! {
    format = FORMAT,
    database = DATABASE,
    /// The database's log, with the latest changes.
    database_log = DATABASE_LOG,
    /// The folder of the mirrors. [`blobs`](super::blobs) names the files in it.
    blobs = BLOBS,
    packs = PACKS,
    pack(name: &str) in packs = name,
    indexes = INDEXES,
    /// The index of a worktree.
    index(token: &str) in indexes = token,
    /// The store has a folder for each worktree's tree here.
    trees = TREES,
    /// What the store keeps of a worktree's tree: which folder it is, who made it, the roots that
    /// its files name, and what `undo` needs.
    tree(token: &str) in trees = token,
    /// The files of worktrees that keep all paths.
    all_keep_paths = KEEP_PATHS,
    /// It exists if a worktree keeps all paths, and has them again when it is restored.
    keeps_paths(token: &str) in all_keep_paths = token,
    /// The folder with a file for each snapshot that was searched for paths of the project.
    all_found = FOUND,
    /// Which files of a snapshot name the project's root.
    found(id: SnapshotId) in all_found = id.to_string(),
    /// The folder of records of trees whose contents have no names yet. It is made when it is
    /// needed.
    all_unnamed = UNNAMED,
    /// The record of the trees of one start, of which the first has this token.
    unnamed(token: &str) in all_unnamed = token,
    ready_trees = TEMPLATES,
    ready_tree(id: SnapshotId) in ready_trees = id.to_string(),
    /// The file that says how many ready trees wait to be handed over.
    ready_setting = "ready-trees",
    /// The folder of files and packs that are being made.
    stage = STAGE,
    /// The folder of files and trees that wait to be deleted.
    trash = TRASH,
    /// The tree of a worktree that is being dropped, or was.
    trashed_tree(token: &str) in trash = token,
    /// The folder of dropped worktrees that can be brought back. It is made when it is needed.
    dropped = DROPPED,
    /// The tree of a dropped worktree.
    dropped_tree(token: &str) in dropped = token,
    locks = LOCKS,
    /// A lock of the store, or of the worktree that has this token.
    lock(name: &str) in locks = name,
    /// The file that reserves room for an operation that frees space on a full disk.
    reserve = "reserve",
    /// The paths of files that are held in reserve.
    reserved_file(number: u32) = format!("reserve.{number}"),
    git_ignore = GIT_IGNORE,
}

/// Whether a pack can have this name. Names come from the database, which someone else may have
/// made, and must not lead to other paths.
pub(crate) fn is_pack_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "remote")]
    #[test]
    fn the_names_of_the_store_and_of_git_are_refused_in_each_spelling_and_no_others() {
        for (name, expected) in [
            (&b".calve"[..], Some(".calve")),
            (b".Calve", Some(".calve")),
            (b".calve.", Some(".calve")),
            (b"CALVE~1", Some(".calve")),
            (b".git", Some(".git")),
            (b".GIT", Some(".git")),
            (b".git ", Some(".git")),
            (b".git. .", Some(".git")),
            (b"git~1", Some(".git")),
            (b"GIT~1 ", Some(".git")),
            (b".git::$INDEX_ALLOCATION", Some(".git")),
            (b".git:a", Some(".git")),
            (b".git\\a", Some(".git")),
            (".g\u{200c}it".as_bytes(), Some(".git")),
            ("\u{feff}.Git\u{206f}".as_bytes(), Some(".git")),
            (".ca\u{202e}lve".as_bytes(), Some(".calve")),
            (b".gitignore", None),
            (b".calveignore", None),
            (b".git2", None),
            (b"git", None),
            (b"git~2", None),
            (b" .git", None),
            (b".git\xff", None),
            (b"a:.git", None),
            (b"", None),
        ] {
            assert_eq!(super::of_calve_or_git(name), expected, "{}", name.escape_ascii());
        }
    }
}

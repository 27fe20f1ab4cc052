//! The entries of a live directory that a merge takes, when the caller has picked them by their
//! paths. A worktree that another tool made is filled so.
//!
//! Some entries are *carried*: they arrive where nothing is yet, as with
//! [`Existing::Keep`](super::Existing::Keep). Tracked files that have the same content in both
//! trees are *replaced*, each of them atomically, unless somebody changes it meanwhile.
//!
//! calve never carries directories that mean another tree, at any depth. calve's own
//! folder and that of jj mean the tree in which they are. A working tree whose repository is
//! elsewhere has a `.git` that is a file, and a copy of this file would mean the first tree. A
//! worktree with a repository of its own has calve's mark in it.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FileType;

use super::excluded::Excluded;
use super::filter::Decision;
use super::pool::lock;
use super::{OWN, inside_own};
use crate::reflink::filesystem::Filesystems;
use crate::reflink::meta::Meta;

/// The folder in which jj keeps a working copy's state.
const JJ: &str = ".jj";

/// The picked entries, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    /// Files that are carried, and directories that are carried with all that is in them.
    carried: HashSet<Vec<u8>>,
    /// The directories above them, and above the replaced files.
    above: HashSet<Vec<u8>>,
    /// Files that are replaced, with the stats of the source's and the destination's file.
    replaced: HashMap<Vec<u8>, [Meta; 2]>,
    /// Directories of the source that are no part of it.
    never: Excluded,
    /// Says of a carried entry whether it is left out.
    left: LeftEntries,
    replacements: AtomicU64,
    worktrees: Mutex<Vec<PathBuf>>,
}

/// Says of an entry whether it is left out; the second value says whether it is a directory.
type LeavesEntry = dyn Fn(&Path, bool) -> bool + Send + Sync;

/// See [`Picked::leaving`].
#[derive(Default)]
struct LeftEntries(Option<Box<LeavesEntry>>);

impl std::fmt::Debug for LeftEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeftEntries")
    }
}

/// Whether a directory of this name means the tree in which it is.
fn is_of_its_tree(name: &[u8]) -> bool {
    name == OWN.as_bytes() || name == JJ.as_bytes()
}

/// Whether a path is in a directory that is never carried, or is one.
pub(crate) fn is_never_carried(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(is_of_its_tree)
}

impl Picked {
    /// Nothing is picked yet. The directories `never` are left out wherever they are.
    pub(crate) fn without(never: Excluded) -> Self {
        Self { never, ..Self::default() }
    }

    /// Leaves out the carried entries for which `leaves` says so. It is asked once about each.
    pub(crate) fn leaving(
        self,
        leaves: impl Fn(&Path, bool) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self { left: LeftEntries(Some(Box::new(leaves))), ..self }
    }

    /// Picks a path to be carried. A directory is carried whole.
    pub(crate) fn carry(&mut self, path: &[u8]) {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        self.pick_above(path);
        self.carried.insert(path.to_owned());
    }

    /// Picks a file that must replace the destination's file, which has the same content.
    pub(crate) fn replace(&mut self, path: &[u8], source: Meta, there: Meta) {
        self.pick_above(path);
        self.replaced.insert(path.to_owned(), [source, there]);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.carried.is_empty() && self.replaced.is_empty()
    }

    /// How many files were replaced.
    pub(crate) fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::Relaxed)
    }

    /// The working trees that were left out, as paths from the root.
    pub(crate) fn worktrees(&self) -> Vec<PathBuf> {
        let mut worktrees = lock(&self.worktrees).clone();
        worktrees.sort();
        worktrees
    }

    fn pick_above(&mut self, path: &[u8]) {
        let mut end = path.len();
        while let Some(slash) = path[..end].iter().rposition(|byte| *byte == b'/') {
            if !self.above.insert(path[..slash].to_owned()) {
                return;
            }
            end = slash;
        }
    }

    /// Decides on an entry. `inside` says that its directory is not carried whole.
    pub(super) fn decide(&self, path: &Path, is_dir: bool, inside: bool) -> Decision {
        let is_store = || inside_own(path).is_some();
        if is_dir
            && (path.file_name().is_some_and(|name| is_of_its_tree(name.as_bytes())) || is_store())
        {
            return Decision::Leave;
        }
        let bytes = path.as_os_str().as_bytes();
        if self.replaced.contains_key(bytes) {
            Decision::Keep
        } else if !inside || self.carried.contains(bytes) {
            let is_left = self.left.0.as_ref().is_some_and(|leaves| leaves(path, is_dir));
            if is_left { Decision::Leave } else { Decision::Keep }
        } else if is_dir && self.above.contains(bytes) {
            Decision::Enter
        } else {
            Decision::Leave
        }
    }

    /// The stats of a file that must replace the destination's file, in the source and in the
    /// destination.
    pub(super) fn replaces(&self, path: &Path) -> Option<&[Meta; 2]> {
        self.replaced.get(path.as_os_str().as_bytes())
    }

    pub(super) fn count_replacement(&self) {
        self.replacements.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether an open directory of the source is left out, although its path is picked.
    pub(super) fn leaves_out(
        &self,
        dir: &OwnedFd,
        meta: &Meta,
        name: &CStr,
        filesystems: &Filesystems,
        path: impl Fn() -> PathBuf,
    ) -> bool {
        const GIT: &CStr = c".git";
        const GIT_MARK: &CStr = c".git/calve-worktree";
        if self.never.has(dir, meta, name, filesystems) {
            return true;
        }
        // calve's mark in a worktree that has its repository in itself.
        let is_elsewhere = Meta::at(dir, GIT)
            .is_ok_and(|meta| meta.file_type() != FileType::Directory)
            || Meta::at(dir, GIT_MARK).is_ok();
        if is_elsewhere {
            lock(&self.worktrees).push(path());
        }
        is_elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_picked_is_taken_whole_and_the_way_to_it_is_entered() {
        use Decision::{Enter, Keep, Leave};
        let mut picked = Picked::default();
        for path in [&b"target/"[..], b"deep/er/build/", b".env"] {
            picked.carry(path);
        }
        for (path, is_dir, inside, expected) in [
            ("target", true, true, Keep),
            ("target/debug", true, false, Keep),
            ("target/.calve", true, false, Leave),
            ("target/.jj", true, false, Leave),
            ("target/.jj", false, false, Keep),
            ("deep", true, true, Enter),
            ("deep/er", true, true, Enter),
            ("deep/er/build", true, true, Keep),
            ("deep/er/a", false, true, Leave),
            ("deep", false, true, Leave),
            (".env", false, true, Keep),
            ("a/.env", false, true, Leave),
            (".calve", true, true, Leave),
            ("targets", true, true, Leave),
        ] {
            assert_eq!(picked.decide(Path::new(path), is_dir, inside), expected, "{path}");
        }
    }
}

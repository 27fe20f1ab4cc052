//! What is in a volume.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Store};

use crate::failure::Failure;
use crate::failure::stored::own;
use crate::text::{counted, shell_word};

/// Fails if something is in the volume that is mounted at a folder.
pub(super) fn must_be_empty(at: &Path) -> Result<(), Failure> {
    let inside = Inside::of(at)?;
    if inside.is_empty() {
        return Ok(());
    }
    let word = shell_word(at);
    let first = |paths: &[PathBuf]| paths.first().map(|path| shell_word(path));
    let worktree = first(&inside.worktrees)
        .map(|path| format!("'calve drop {path}' removes a worktree; "))
        .unwrap_or_default();
    let store = first(&inside.stores)
        .map(|path| format!("'rm -rf {path}' removes a store and its snapshots; "))
        .unwrap_or_default();
    let hint =
        format!("{worktree}{store}'calve volume remove --force {word}' deletes everything in it");
    let why = inside.text();
    Err(Failure {
        details: inside.paths().into(),
        ..own("remove volume", at, ErrorKind::Overlap, &why, hint)
    })
}

/// The contents of a volume that a removal would lose.
#[derive(Default)]
struct Inside {
    worktrees: Vec<PathBuf>,
    stores: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

impl Inside {
    fn of(at: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io("look at", vec![at.to_owned()], &error);
        let mut inside = Self::default();
        let mut explained = Vec::new();
        let mut paths = Vec::new();
        for entry in fs::read_dir(at).map_err(failed)? {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        for path in &paths {
            // calve does not open a store that belongs to another user.
            let is_own = fs::symlink_metadata(path).is_ok_and(|meta| {
                meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw()
            });
            let Some(store) = is_own.then(|| Store::open(path).ok()).flatten() else { continue };
            // A store that does not say what it has is one of the other things there.
            let Ok(worktrees) = store.worktrees() else { continue };
            explained.push(path.clone());
            inside.stores.push(path.clone());
            for worktree in worktrees {
                if worktree.path().starts_with(at) && fs::symlink_metadata(worktree.path()).is_ok()
                {
                    explained.extend(worktree.path().parent().map(Path::to_owned));
                    inside.worktrees.push(worktree.path().to_owned());
                }
            }
        }
        // Dropped worktrees leave an empty folder, which is no loss. What a repair saved is in
        // `lost+found`.
        let is_empty =
            |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
        let is_other = |path: &PathBuf| !explained.contains(path) && !is_empty(path);
        inside.others = paths.into_iter().filter(is_other).collect();
        Ok(inside)
    }

    fn is_empty(&self) -> bool {
        self.worktrees.is_empty() && self.stores.is_empty() && self.others.is_empty()
    }

    fn text(&self) -> String {
        let all = [
            (self.worktrees.len(), "worktree"),
            (self.stores.len(), "store"),
            (self.others.len(), "other file or folder"),
        ];
        let parts: Vec<String> = all
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, what)| match (number, *what) {
                (2.., "other file or folder") => format!("{number} other files and folders"),
                _ => counted(*number as u64, what),
            })
            .collect();
        format!("in it: {}", parts.join(", "))
    }

    fn paths(self) -> Vec<PathBuf> {
        [self.worktrees, self.stores, self.others].concat()
    }
}

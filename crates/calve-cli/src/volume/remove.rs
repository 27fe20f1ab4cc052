//! `calve volume remove`, and what a removal would lose.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Store};

use super::facts::{mount_at, why_away};
use super::found::{Found, is_there, place, unmounting};
use super::machine::owner;
use super::plan::{self, RootAction};
use super::root::by_root;
use crate::args::RemoveArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::mounts::mounted;
use crate::output::PathFields;
use crate::session::Session;
use crate::text::{counted, shell_word, shown};

pub(super) fn run(args: &RemoveArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let at = place(&args.at, session)?;
    let (new, old) = (plan::new_image_of(&at), plan::old_image_of(&at));
    let output = session.output;
    // A killed `create` left it, and nobody can have used it.
    let _ = fs::remove_file(plan::protofile_of(&at));
    let had_new = is_there(&new)?;
    if had_new {
        fs::remove_file(&new).map_err(|error| Failure::io("remove", vec![new], &error))?;
    }
    let found = match unmounting(&at) {
        Err(_) if had_new => return removed(&at, session),
        found => found?,
    };
    let goes_on = is_there(&old)?;
    let image = plan::image_of(&at);
    let must_be_kept = !goes_on && !args.force;
    if must_be_kept {
        may_be_removed(&found)?;
    }
    let action = match must_be_kept && !args.no_sudo {
        true => RootAction::UnmountEmpty,
        false => RootAction::Unmount,
    };
    let is_mounted = found.mount.is_some();
    let steps = plan::steps_to_unmount(&found.volume, found.record.as_ref(), is_mounted, action);
    if args.no_sudo {
        by_root(action, &at, owner(), &steps, true, session)?;
        let file = if goes_on { &old } else { &image };
        let lines = format!("rm {}\nrmdir {}\n", shell_word(file), shell_word(&at));
        return output.results(lines.as_bytes()).map(|()| Exit::Done);
    }
    let failed = |error: io::Error| Failure::writing("remove volume", &at, &error);
    if !goes_on && is_there(&image)? {
        fs::rename(&image, &old).map_err(failed)?;
    }
    if !steps.is_empty() {
        let by_hand = by_root(action, &at, owner(), &steps, false, session);
        if !matches!(by_hand, Ok(None)) {
            // The mount point must not get another name.
            if !goes_on && mount_at(&mounted(), &at).is_some() {
                // If that fails, the next `remove` finds the image under the other name.
                let _ = fs::rename(&old, &image);
                if must_be_kept {
                    must_be_empty(&at)?;
                }
            }
            let by_hand = by_hand.map(|exit| exit.unwrap_or(Exit::Findings));
            return by_hand.map_err(|failure| {
                failure.hinted(format!(
                    "if a program or a shell still uses the volume, end it ('fuser -vm {}' names \
                     them), and try again",
                    shell_word(&at)
                ))
            });
        }
    }
    match fs::remove_file(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Failure::io("remove", vec![old], &error));
        }
        _ => {}
    }
    removed(&at, session)
}

fn removed(at: &Path, session: Session<'_>) -> Result<Exit, Failure> {
    // The folder is empty, unless somebody used it while nothing was mounted.
    let _ = fs::remove_dir(at);
    let output = session.output;
    output.summary(format_args!("removed the volume {}", shown(at)));
    if output.json {
        output.document(&PathFields::new(at))?;
    }
    Ok(Exit::Done)
}

/// Fails if the removal would lose something.
fn may_be_removed(found: &Found) -> Result<(), Failure> {
    let at = &found.volume.at;
    let word = shell_word(at);
    if found.mount.is_none() {
        let how = found.record.as_ref().map_or_else(
            || format!("'calve volume create {word}' mounts it"),
            |record| why_away(&found.volume, record),
        );
        let is_gone = !is_there(&found.volume.image)?;
        let hint = if is_gone { how } else { format!("{how}; --force removes it anyway") };
        let why = "it is not mounted, so calve cannot see what is in it";
        return Err(own("remove volume", at, ErrorKind::Overlap, why, hint));
    }
    must_be_empty(at)
}

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

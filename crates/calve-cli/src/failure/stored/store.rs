//! What to do about a store, or a snapshot in it.

use std::io;
use std::path::Path;

use calve::{ErrorKind, Operation, Store};

use super::case::Case;
use crate::text::{shell_word, shown};

pub(super) fn way_out(case: &Case<'_>) -> Option<String> {
    none_found(case)
        .or_else(|| not_made(case))
        .or_else(|| unfit(case))
        .or_else(|| of_snapshot(case))
}

/// calve found no store.
fn none_found(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, other, .. } = *case;
    let hint = match kind {
        ErrorKind::StoreNotFound
            if operation == Operation::FindStore
                && let Some(bare) = path.ancestors().find(|it| is_gits_own(it)) =>
        {
            let bare = shell_word(bare);
            format!(
                "{bare} is git's own folder, without files to work on: 'git -C {bare} worktree add DIR BRANCH' makes a \
                 working tree, and 'calve init DIR' a store for it"
            )
        }
        ErrorKind::StoreNotFound if operation == Operation::FindStore => {
            "the first 'calve start NAME' in a git project makes a store, and 'calve init' makes one anywhere; if it is \
             elsewhere, name it with --store DIR or CALVE_STORE"
                .to_owned()
        }
        ErrorKind::StoreNotFound if operation == Operation::FindStoreOfProject => {
            let pointer = shell_word(&Store::pointer_of(path));
            let mount = match other.and_then(volume_away) {
                Some(why) => format!("it is on a volume: {why}"),
                None => "if its disk is not mounted, mount it".to_owned(),
            };
            format!(
                "{mount}; if the store was moved or is lost, run 'calve init --store DIR' with its new place after rm {pointer}"
            )
        }
        ErrorKind::StoreNotFound if operation == Operation::FindStoreOfWorktree => {
            "if a sandbox hides the project, let it show that (read-only is enough), or use calve outside; if the \
             project was moved, run 'calve list' in there, and calve finds the store again; if the project was \
             deleted, this is now a plain folder"
                .to_owned()
        }
        ErrorKind::StoreNotFound => {
            "name the store's own folder with --store or CALVE_STORE, such as PROJECT/.git/calve; \
             'calve init' makes a store"
                .to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// Whether a folder is a repository of git, and not the `.git` of a working tree.
fn is_gits_own(folder: &Path) -> bool {
    !folder.ends_with(".git")
        && ["HEAD", "objects", "refs"]
            .iter()
            .all(|it| folder.join(it).try_exists().is_ok_and(|it| it))
}

/// No store can be made there.
fn not_made(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, error, .. } = *case;
    let hint = match kind {
        ErrorKind::StoreExists => {
            let named = store_flag(path, project_of(path).is_some());
            format!(
                "a project has one store, and a store one project: choose another --store, or use this one: 'calve{named} \
                 start NAME'"
            )
        }
        // `git clean` keeps repositories that are inside the folders that it deletes. Ready trees
        // contain those that are inside the project.
        ErrorKind::DestinationExists
            if operation == Operation::MakeStore && path.join("templates").is_dir() =>
        {
            format!(
                "'git clean', for example, deleted most of this store, but left copies of the project in {}: save what you \
                 need of them, then remove the rest and try again: rm -rf {}",
                shell_word(&path.join("templates")),
                shell_word(path)
            )
        }
        ErrorKind::DestinationExists if operation == Operation::MakeStore => {
            format!(
                "if you need nothing in it, remove it and try again: rm -r {}",
                shell_word(path)
            )
        }
        // The filesystem has no locks, or no shared memory, for a database.
        ErrorKind::Io
            if operation == Operation::MakeStoreIn
                && error.kind() == io::ErrorKind::Unsupported =>
        {
            "make the store in a new folder on a local disk: calve init --store DIR".to_owned()
        }
        ErrorKind::Overlap if operation == Operation::MakeStore => {
            "choose a folder outside of it, such as one beside the project".to_owned()
        }
        ErrorKind::Overlap
            if operation == Operation::MakeStoreFor
                && error.kind() == io::ErrorKind::Unsupported =>
        {
            let git = path.ancestors().find(|above| above.ends_with(".git"));
            let tree = git.and_then(Path::parent).unwrap_or(Path::new("DIR"));
            format!("name the root of a working tree: 'calve init {}'", shell_word(tree))
        }
        ErrorKind::Overlap if operation == Operation::MakeStoreFor => {
            "it needs no store of its own: 'calve status' and the other commands work there"
                .to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// A store cannot be used as it is.
fn unfit(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, other, error, .. } = *case;
    let hint = match kind {
        ErrorKind::StoreIncompatible if error.kind() == io::ErrorKind::Unsupported => {
            let project = project_of(path);
            let project = project.map_or_else(|| "PROJECT".to_owned(), shell_word);
            let mut hint = format!(
                "use this store only on the side that made it; on this side, work in a copy with a store on a local disk: \
                 calve clone {project} COPY && calve init --store DIR COPY"
            );
            let why = error.to_string();
            if why.starts_with("it was used last") {
                let view = shell_word(&path.join("locks/database"));
                hint += &format!("; if the store was copied here: rm {view}");
            }
            if why.starts_with("it was made through") {
                let format = shell_word(&path.join("format"));
                hint += &format!("; if the store was copied here: sed -i /memory-not-shared/d {format}");
            }
            hint
        }
        ErrorKind::StoreHidden => {
            "use calve in another shell; 'exit' ends a shell of 'calve run'".to_owned()
        }
        ErrorKind::StoreIncompatible => {
            "use the version of calve that wrote to the store last, or a later one".to_owned()
        }
        ErrorKind::StoreUntrusted if operation == Operation::MakeFolder => {
            "'--at DIR', or 'git config calve.worktrees DIR', makes worktrees in a folder of yours"
                .to_owned()
        }
        ErrorKind::StoreUntrusted if operation != Operation::UseStore => {
            let what = other.unwrap_or(path);
            format!(
                "if it is not yours, leave this folder; if it is: chown -R \"$(id -u)\" {what} && chmod o-w,-t {what}",
                what = shell_word(what)
            )
        }
        ErrorKind::StoreUntrusted => format!(
            "if you trust it, name it: --store {}; if not, leave this folder, or delete the store",
            shell_word(path)
        ),
        ErrorKind::Damaged if operation == Operation::Undo => {
            let folder = path.parent().unwrap_or(path);
            format!(
                "what the restore moved aside is in {}; take from it what you need, and then: rm -r {}",
                shown(&folder.join("files")),
                shell_word(folder)
            )
        }
        ErrorKind::Damaged => {
            "'calve store verify --repair' lists all damage, and mends what it can".to_owned()
        }
        ErrorKind::Busy if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            "try again when the other process has finished; if none is at work, run 'calve list' where the store can be \
             written to: it takes over what a killed one left"
                .to_owned()
        }
        ErrorKind::ReadOnly if operation == Operation::StartWorktreeOf => {
            "with --from SNAPSHOT and --at DIR calve can still make the trees, but the store will not know them"
                .to_owned()
        }
        ErrorKind::ReadOnly => format!(
            "commands that only read still work; to change something, make {} writable",
            shell_word(path)
        ),
        _ => return None,
    };
    Some(hint)
}

/// A snapshot, or a path in one, is not there.
fn of_snapshot(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, .. } = *case;
    let hint = match kind {
        ErrorKind::SourceNotFound if operation == Operation::Compare => {
            "paths after -- start at the worktree's root, as 'calve status' prints them".to_owned()
        }
        ErrorKind::SnapshotNotFound if operation == Operation::Compare => {
            "'calve snapshot' takes the first one".to_owned()
        }
        ErrorKind::SnapshotNotFound => "'calve log' lists the snapshots".to_owned(),
        ErrorKind::SnapshotAmbiguous => {
            "give more digits of the id; 'calve log -v' prints whole ids".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// The project of a store that is inside it.
fn project_of(store: &Path) -> Option<&Path> {
    match (store.ends_with(".calve"), store.ends_with(".git/calve")) {
        (true, _) => store.parent(),
        (_, true) => store.ancestors().nth(2),
        _ => None,
    }
}

/// How the commands of a hint name a store, if commands in the project do not find it by
/// themselves.
pub(crate) fn store_flag(store: &Path, is_found: bool) -> String {
    if is_found { String::new() } else { format!(" --store {}", shell_word(store)) }
}

#[cfg(target_os = "linux")]
use crate::volume::facts::volume_away;

#[cfg(not(target_os = "linux"))]
fn volume_away(_: &Path) -> Option<String> {
    None
}

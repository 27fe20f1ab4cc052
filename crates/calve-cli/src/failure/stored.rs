//! The ways out of what stores and worktrees cannot do.

use std::io;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Worktree};

use super::{CURRENT_IS_GONE, Failure, df, kind_name, told};
use crate::text::shell_word;

/// What the library could not do with a store.
pub(crate) fn store_failure(error: &calve::Error) -> Failure {
    told(error, hint(error, None))
}

/// What it could not do with this worktree.
pub(crate) fn worktree_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    told(error, hint(error, Some(worktree)))
}

/// A worktree that the command itself looked for.
pub(crate) fn no_worktree(path: &Path, cause: &str) -> Failure {
    own(
        "find worktree",
        path,
        ErrorKind::WorktreeNotFound,
        cause,
        "'calve list' lists the worktrees",
    )
}

/// A worktree whose folder is gone.
pub(crate) fn missing(worktree: &Worktree) -> Failure {
    let (kind, gone) = (ErrorKind::WorktreeMissing, io::Error::from(io::ErrorKind::NotFound));
    let hint = way_out(kind, "open worktree", worktree.path(), &gone, &argument(worktree));
    own("open worktree", worktree.path(), kind, "it is gone", hint.unwrap_or_default())
}

/// What the command itself does not do.
pub(crate) fn own(
    operation: &str,
    path: &Path,
    kind: ErrorKind,
    cause: &str,
    hint: impl Into<String>,
) -> Failure {
    Failure {
        operation: operation.into(),
        paths: [PathBuf::from(path)].into(),
        joint: "and",
        details: Box::default(),
        kind: kind_name(kind),
        cause: cause.into(),
        hint: Some(hint.into()),
    }
}

/// How the commands of a hint name a store: one that is elsewhere than in its project is found only where it is named.
pub(crate) fn store_flag(store: &Path, is_in_its_project: bool) -> String {
    if is_in_its_project { String::new() } else { format!(" --store {}", shell_word(store)) }
}

/// How the commands of a hint name a worktree: with a space before it; the project goes without.
pub(crate) fn argument(worktree: &Worktree) -> String {
    match worktree.is_project() {
        true => String::new(),
        false => format!(" {}", shell_word(Path::new(worktree.name()))),
    }
}

fn hint(error: &calve::Error, worktree: Option<&Worktree>) -> Option<String> {
    let name = worktree.map(argument).unwrap_or_default();
    way_out(error.kind(), error.operation(), error.path(), error.io_error(), &name)
}

fn way_out(
    kind: ErrorKind,
    operation: &str,
    path: &Path,
    error: &io::Error,
    name: &str,
) -> Option<String> {
    let hint = match kind {
        // Whoever dropped the worktree that the shell stands in.
        _ if path == Path::new(".") && error.kind() == io::ErrorKind::NotFound => {
            CURRENT_IS_GONE.to_owned()
        }
        ErrorKind::SourceNotFound if operation == "compare" => {
            "paths after -- start at the worktree's root, as 'calve status' prints them".to_owned()
        }
        ErrorKind::StoreNotFound if operation == "find the store of" => {
            "'calve init' in the project's root makes one; --store DIR or CALVE_STORE names one that is elsewhere"
                .to_owned()
        }
        ErrorKind::StoreNotFound if operation == "find the store of worktree" => {
            "where its project was moved, 'calve list' in there is enough, and it is known again; where that was \
             deleted, this is a folder like any other"
                .to_owned()
        }
        ErrorKind::StoreNotFound => {
            "--store and CALVE_STORE take the store's own folder, PROJECT/.calve for instance; \
             'calve init' makes one"
                .to_owned()
        }
        ErrorKind::StoreExists => {
            let named = store_flag(path, path.file_name().is_some_and(|name| name == ".calve"));
            format!("it is another project's: give another --store; in that one 'calve{named} start NAME' makes a worktree")
        }
        // git leaves repositories inside of what it cleans, and ready trees hold the project's.
        ErrorKind::DestinationExists
            if operation == "make store" && path.join("templates").is_dir() =>
        {
            format!(
                "it is the rest of a store that was deleted, by 'git clean' for instance: copies of the project in {}. \
                 Take out of them what you need, then remove it (rm -rf {}); then again",
                shell_word(&path.join("templates")),
                shell_word(path)
            )
        }
        ErrorKind::DestinationExists if operation == "make store" => {
            format!("if nothing in it is wanted, remove it (rm -r {}); then again", shell_word(path))
        }
        ErrorKind::StoreIncompatible => {
            "use the version of calve that wrote it last, or a later one".to_owned()
        }
        ErrorKind::StoreUntrusted => format!(
            "if you trust it, name it: --store {}; else leave the folder, or delete it",
            shell_word(path)
        ),
        ErrorKind::Damaged => {
            "'calve store verify --repair' names all that is damaged, and mends what it can".to_owned()
        }
        ErrorKind::ReadOnly if operation.starts_with("start") => {
            "with --from SNAPSHOT and --at DIR trees can be started all the same; the store will not know them"
                .to_owned()
        }
        ErrorKind::ReadOnly => format!(
            "what only reads still works; to change something, make {} writable",
            shell_word(path)
        ),
        ErrorKind::Busy => "try again when the other calve is done".to_owned(),
        ErrorKind::SnapshotNotFound if operation == "compare" => {
            "'calve snapshot' takes its first one".to_owned()
        }
        ErrorKind::SnapshotNotFound => "'calve log' lists the snapshots".to_owned(),
        ErrorKind::SnapshotAmbiguous => {
            "give more digits of it; 'calve log -v' has whole ids".to_owned()
        }
        ErrorKind::WorktreeNotFound => "'calve list' lists the worktrees".to_owned(),
        ErrorKind::WorktreeExists => format!(
            "choose another name, or 'calve drop {}' first",
            shell_word(path)
        ),
        ErrorKind::WorktreeMissing if path.is_dir() => format!(
            "if it is the worktree, but without its folder .calve ('git clean -x' removes it): move it away, \
             'calve restore{name}', and copy what was changed into it; 'calve drop --force{name}' forgets it and leaves the folder"
        ),
        ErrorKind::WorktreeMissing => format!(
            "'calve restore{name}' makes it again from its snapshot, 'calve drop --force{name}' forgets it; if it was \
             moved, run calve once inside of it"
        ),
        ErrorKind::Changed if operation.starts_with("drop") => format!(
            "'calve capture{name}' keeps the changes in a snapshot; 'calve drop --force{name}' drops them"
        ),
        ErrorKind::Changed => format!(
            "'calve capture{name}' keeps the changes in a snapshot; --force replaces them, and \
             'calve switch{name} --undo' brings them back"
        ),
        ErrorKind::InvalidName => {
            "a name has at most 200 bytes, no slash, space or control character, starts with neither dash nor \
             dot, is no whole id, and is given once"
                .to_owned()
        }
        ErrorKind::Overlap if operation.starts_with("drop") => {
            "drop those inside of it first: 'calve list' tells where each is".to_owned()
        }
        ErrorKind::Overlap if operation.starts_with("make store") => {
            "'calve status' and the other commands work there as they are".to_owned()
        }
        ErrorKind::Overlap => {
            "a copy made by hand is no worktree of its own: 'calve start NAME' makes one; without its folder \
             .calve it is a folder like any other"
                .to_owned()
        }
        ErrorKind::DestinationExists => {
            "move it away, or choose another name, or another folder with --at".to_owned()
        }
        ErrorKind::StorageFull => format!(
            "'calve drop NAME' and 'calve store gc --expire 30d' free space, also where there is none; {}",
            df(path.parent().unwrap_or(path), error)
        ),
        // Of the tree: a file, or a folder of it.
        ErrorKind::PermissionDenied if matches!(operation, "take in" | "open directory" | "read directory") => {
            let name = path.file_name().map_or(path, Path::new);
            let looks = super::hint(kind, path, error).unwrap_or_default();
            format!("a line {} in .calveignore leaves it out; {looks}", shell_word(name))
        }
        kind => return super::hint(kind, path, error),
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_a_store_knows_has_a_way_out() {
        for (kind, operation, expected) in [
            (ErrorKind::SourceNotFound, "compare", "root"),
            (ErrorKind::StoreNotFound, "find the store of", "calve init"),
            (ErrorKind::StoreNotFound, "open store", "--store"),
            (ErrorKind::StoreExists, "make store", "'calve --store '/a b/c' start NAME'"),
            (ErrorKind::DestinationExists, "make store", "rm -r '/a b/c'"),
            (ErrorKind::StoreIncompatible, "open store", "version"),
            (ErrorKind::StoreUntrusted, "use the store", "--store '/a b/c'"),
            (ErrorKind::Damaged, "read blob", "calve store verify --repair"),
            (ErrorKind::ReadOnly, "start a worktree of", "--at DIR"),
            (ErrorKind::ReadOnly, "drop a worktree of", "make '/a b/c' writable"),
            (ErrorKind::Busy, "write", "try again"),
            (ErrorKind::SnapshotNotFound, "find snapshot", "calve log"),
            (ErrorKind::SnapshotNotFound, "compare", "calve snapshot"),
            (ErrorKind::SnapshotAmbiguous, "find snapshot", "calve log -v"),
            (ErrorKind::WorktreeNotFound, "find worktree", "calve list"),
            (ErrorKind::WorktreeExists, "start worktree", "calve drop"),
            (ErrorKind::WorktreeMissing, "open worktree", "'calve restore w'"),
            (ErrorKind::WorktreeMissing, "open worktree", "'calve drop --force w'"),
            (ErrorKind::Changed, "drop worktree", "'calve drop --force w'"),
            (ErrorKind::Changed, "switch worktree", "'calve capture w'"),
            (ErrorKind::Changed, "switch worktree", "'calve switch w --undo'"),
            (ErrorKind::InvalidName, "use the name", "no slash"),
            (ErrorKind::Overlap, "use worktree", "calve start"),
            (ErrorKind::Overlap, "drop worktree", "calve list"),
            (ErrorKind::Overlap, "make store for", "calve status"),
            (ErrorKind::DestinationExists, "start worktree", "--at"),
            (ErrorKind::StoreNotFound, "find the store of worktree", "'calve list'"),
            (ErrorKind::ParentNotFound, "open", "mkdir -p"),
            (ErrorKind::StorageFull, "write", "df -h '/a b'"),
            (ErrorKind::StorageFull, "write", "calve drop"),
            (ErrorKind::PermissionDenied, "open", "ls -ld"),
        ] {
            let error = io::Error::other("cause");
            let got = way_out(kind, operation, Path::new("/a b/c"), &error, " w");
            assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{kind:?}: {got:?}");
        }
    }

    #[test]
    fn a_current_folder_that_is_gone_has_a_way_out() {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let got = way_out(ErrorKind::Io, "open", Path::new("."), &gone, "");
        assert!(got.is_some_and(|got| got.contains("'cd'")));
    }
}

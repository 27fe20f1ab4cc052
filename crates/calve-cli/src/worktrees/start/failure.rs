//! What to do after a start that failed.

use std::io;
use std::path::Path;

use calve::{ErrorKind, FoundBranch, Operation, StartBranch};

use super::wanted::{Source, Wanted};
use super::words::branches_like;
use crate::args::StartArgs;
use crate::failure::Failure;
use crate::failure::stored::{store_failure, worktree_failure};
use crate::settings::BASE;
use crate::text::shell_word;

pub(super) fn start_failure(error: &calve::Error, wanted: &Wanted<'_>) -> Failure {
    let failure = match wanted.source {
        Source::Worktree(worktree) => worktree_failure(error, worktree),
        _ => store_failure(error),
    };
    let path = error.path();
    let hint = match (error.kind(), path.parent(), path.file_name()) {
        // The user gave a path instead of a name.
        (ErrorKind::InvalidName, Some(folder), Some(name)) if folder != Path::new("") => {
            let name = shell_word(Path::new(name));
            match shell_word(folder).as_str() {
                "." => format!("'calve start {name}' makes a worktree named {name}"),
                folder => format!(
                    "'calve start --at {folder} {name}' puts a worktree named {name} into that folder"
                ),
            }
        }
        (ErrorKind::Git, ..) if error.operation() == Operation::ForkWorktree => {
            let names = wanted.asked.names.iter().map(|it| shell_word(Path::new(it)));
            let names: Vec<String> = names.collect();
            format!("'calve start --from project {}' starts from the project", names.join(" "))
        }
        (ErrorKind::CommitNotFound, ..) => {
            let word = path.to_string_lossy();
            // The user may have set it long ago.
            if wanted.args.default_base.as_deref() == Some(&*word) {
                let hint = format!(
                    "it is git's setting {BASE}: 'git config --show-origin --get-all {BASE}' shows where it is set; \
                     --base REF begins elsewhere"
                );
                return failure.hinted(hint);
            }
            return failure.meant(&branches_like(&word, wanted.project));
        }
        (ErrorKind::WorktreeExists | ErrorKind::DestinationExists, _, Some(name))
            if !path.join(".git").is_file()
                && name.to_str().is_some_and(|it| wanted.asked.other_branch(it).is_some()) =>
        {
            other_folder(&name.to_string_lossy(), error.other_path().unwrap_or(path), wanted)
        }
        (ErrorKind::WorktreeExists, _, Some(_)) => {
            let name = path.to_string_lossy();
            let free = shell_word(Path::new(&free_name(
                &name,
                error.other_path().unwrap_or(path),
                wanted,
            )));
            format!(
                "'calve start {free}' makes another one; 'calve status {}' looks at it",
                shell_word(path)
            )
        }
        (ErrorKind::BranchExists, ..) => {
            let hint = taken_branch(error, wanted.args, &wanted.asked.names);
            match error.other_path().filter(|tree| is_of_nobody(tree, wanted.store)) {
                Some(tree) => format!(
                    "{hint}; 'git worktree remove {}' removes the other one",
                    shell_word(tree)
                ),
                None => hint,
            }
        }
        (ErrorKind::DestinationExists | ErrorKind::Git, ..)
            if error.operation() == Operation::StartWorktree && error.other_path().is_none() =>
        {
            match (error.kind(), error.io_error().kind()) {
                (ErrorKind::DestinationExists, _) if path.join(".git").is_file() => format!(
                    "'calve fill {}' completes a worktree that git made; or choose another name",
                    shell_word(path)
                ),
                (ErrorKind::Git, io::ErrorKind::NotFound) => forget_registration(path),
                _ => return failure,
            }
        }
        _ => return failure,
    };
    failure.hinted(hint)
}

/// What to do if a folder's name was made from a branch and is taken.
fn other_folder(name: &str, path: &Path, wanted: &Wanted<'_>) -> String {
    let word = |text: &str| shell_word(Path::new(text));
    let branch = wanted.asked.other_branch(name);
    if wanted.store.worktree(name).is_ok_and(|it| it.started_on() == branch) {
        let name = word(name);
        return format!("'calve path {name}' prints where it is, and 'calve cd {name}' goes there");
    }
    let base = wanted.asked.base_in_words().map(|base| format!(" --base {}", word(base)));
    format!(
        "'calve start{} -b {} {}' puts it into another folder",
        base.unwrap_or_default(),
        word(branch.unwrap_or(name)),
        word(&free_name(name, path, wanted))
    )
}

/// A name that neither a worktree nor what is in its folder has.
fn free_name(name: &str, path: &Path, wanted: &Wanted<'_>) -> String {
    let is_taken = |name: &String| {
        let found = wanted.store.find_branches(&[name]);
        let is_branch = !found.is_ok_and(|found| *found == [FoundBranch::Nowhere]);
        let is_there = path.with_file_name(name).symlink_metadata().is_ok();
        is_branch || is_there || wanted.store.worktree(name).is_ok()
    };
    let free = (2..).map(|number| format!("{name}-{number}")).find(|name| !is_taken(name));
    free.unwrap_or_default()
}

/// Whether a working tree is neither the project nor a worktree that the store knows.
fn is_of_nobody(tree: &Path, store: &calve::Store) -> bool {
    // A store that cannot list its worktrees may know this one.
    store.project().is_ok_and(|project| project != tree)
        && store.worktrees().is_ok_and(|known| known.iter().all(|it| it.path() != tree))
}

/// How to make git forget a worktree whose folder is gone.
fn forget_registration(path: &Path) -> String {
    let path = shell_word(path);
    format!(
        "if you do not need it any more, 'git worktree remove -f -f {path}' makes git forget it; or choose another name"
    )
}

/// What to do if a start cannot have its branch.
fn taken_branch(error: &calve::Error, args: &StartArgs, names: &[String]) -> String {
    let branch = error.path().to_string_lossy();
    // The worktree that wanted it. Without -b, the branch has the worktree's name.
    let name = match args.start_branch() {
        StartBranch::Named(_) => names.first().map_or(&*branch, String::as_str),
        _ => &*branch,
    };
    let word = |text: &str| shell_word(Path::new(text));
    let free = match branch.replace('/', "-") {
        same if same == branch => format!("{branch}-2"),
        free => free,
    };
    let base =
        args.base.as_deref().map(|base| format!(" --base {}", word(base))).unwrap_or_default();
    let other =
        format!("'calve start{base} -b {} {}' makes another branch", word(&free), word(name));
    match error.io_error().kind() {
        io::ErrorKind::ResourceBusy => {
            let new = if *name == *branch { word(&format!("{branch}-2")) } else { word(name) };
            format!(
                "'calve start --base {} {new}' makes a worktree and a branch {new} at its commit",
                word(&branch)
            )
        }
        io::ErrorKind::NotADirectory => format!("{other}; --detach makes none"),
        _ => {
            let onto =
                if *name == *branch { String::new() } else { format!(" -b {}", word(&branch)) };
            format!(
                "to work on it: 'calve start --base {}{onto} {}'; {other}",
                word(&branch),
                word(name)
            )
        }
    }
}

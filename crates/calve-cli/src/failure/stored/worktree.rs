//! What to do about a worktree.

use std::io;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Operation};

use super::case::{Case, of_name};
use crate::text::shell_word;

/// What to do about a worktree as such: its name, its folder, its changes.
pub(super) fn way_out(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, other, error, name, .. } = *case;
    if operation == Operation::DropWorktree
        && let Some(hint) = of_drop(case)
    {
        return Some(hint);
    }
    let hint = match kind {
        ErrorKind::WorktreeNotFound if error.kind() == io::ErrorKind::Unsupported => format!(
            "git's commands work in it: 'git -C {path} status', 'git worktree remove {path}'; 'calve fill {path}' \
             gives it the project's dependencies and build output",
            path = shell_word(path)
        ),
        ErrorKind::Overlap if operation == Operation::ShowAtProject => format!(
            "'calve start --from{name} --at DIR NAME' makes a fork of it elsewhere; 'git config calve.worktrees \
             ../{{project}}.worktrees' puts new worktrees beside the project"
        ),
        ErrorKind::WorktreeNotFound => "'calve list' lists the worktrees".to_owned(),
        ErrorKind::WorktreeExists | ErrorKind::InvalidName
            if operation == Operation::UseWorktree =>
        {
            format!(
                "git made it, and calve would call it by its folder: 'git worktree move {} PATH' gives it another one",
                shell_word(path)
            )
        }
        ErrorKind::WorktreeExists => {
            "choose another name; 'calve list' lists those that are taken".to_owned()
        }
        ErrorKind::WorktreeMissing if path.is_dir() => format!(
            "if this is a copy of its folder (from a backup, say), move that away, run 'calve restore{name}', and copy \
             your changes back; 'calve drop --force{name}' forgets the worktree and leaves the folder"
        ),
        ErrorKind::WorktreeMissing => format!(
            "'calve restore{name}' brings it back, as its base snapshot has it; 'calve drop --force{name}' forgets it; if \
             you moved it, run 'calve status' once inside it"
        ),
        ErrorKind::Changed if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            "move what is in that folder elsewhere (a .calveignore keeps it out of each snapshot), and run the same again"
                .to_owned()
        }
        ErrorKind::Changed => {
            format!("'calve snapshot{}' keeps the changes in a snapshot", of_name(name))
        }
        ErrorKind::CommitsOnlyHere if operation == Operation::DeleteBranch => {
            format!("merge the branch first; 'calve drop{name}' drops the worktree and leaves the branch")
        }
        ErrorKind::CommitsOnlyHere => {
            let (repository, commit) = of_first_commit(case);
            // A branch in a repository that goes with the worktree keeps nothing.
            if repository != path || path.join(".git").is_dir() {
                return Some(format!(
                    "'calve drop --force{name}' keeps them, and says where; or push them to a repository that stays: \
                     'git -C {} push REMOTE {commit}:refs/heads/NEW'",
                    shell_word(repository)
                ));
            }
            format!(
                "'git -C {} branch NEW {commit}' keeps a commit, and those before it, on a branch; \
                 'calve drop --force{name}' keeps all of them as refs/calve/dropped/NAME",
                shell_word(repository)
            )
        }
        ErrorKind::Busy if let Some(pid) = stopped_in(error) => {
            format!("'kill -CONT {pid}' lets it go on, and 'kill -KILL {pid}' ends it")
        }
        ErrorKind::Busy if operation != Operation::DropWorktree || error.kind() == io::ErrorKind::WouldBlock => {
            "try again when the other process has finished".to_owned()
        }
        ErrorKind::Busy => format!(
            "end these processes, or let them leave the folder; 'calve drop --force{name}' drops the worktree under them"
        ),
        ErrorKind::InvalidName => {
            "choose a name of at most 200 bytes with no slash, space or control character; it must not start with \
             a dash or a dot, look like a whole id, or be given twice"
                .to_owned()
        }
        ErrorKind::Overlap if operation == Operation::MakeFolder => {
            "choose a folder outside of the store, such as one beside the project".to_owned()
        }
        ErrorKind::Overlap => format!(
            "work in {}, or delete {} to make this a plain folder; 'calve start NAME' makes another worktree",
            shell_word(other.unwrap_or(Path::new("the worktree"))),
            shell_word(&path.join(own_folder(path)))
        ),
        _ => return None,
    };
    Some(hint)
}

/// The first commit that the error names, and the repository that it is in.
fn of_first_commit<'a>(case: &Case<'a>) -> (&'a Path, &'a str) {
    let line = case.details.first().and_then(|line| line.to_str()).unwrap_or("COMMIT");
    let (commit, subject) = line.split_once(' ').unwrap_or((line, ""));
    let inner = subject.strip_suffix(')').and_then(|subject| {
        let (_, kind_and_path) = subject.rsplit_once(" (in the ")?;
        kind_and_path.strip_prefix("repository ").or(kind_and_path.strip_prefix("submodule "))
    });
    (inner.map_or(case.path, Path::new), commit)
}

/// For work that a drop would lose.
fn of_drop(case: &Case<'_>) -> Option<String> {
    let Case { kind, path, other, details, error, name, .. } = *case;
    let hint = match kind {
        ErrorKind::Changed if error.kind() == io::ErrorKind::PermissionDenied =>
        {
            format!(
                "run 'calve drop{name}' as a user who may read them, or change their mode; 'calve drop --force{name}' \
                 drops the worktree, and 'calve undo{name}' brings it back for seven days"
            )
        }
        ErrorKind::Changed if error.kind() == io::ErrorKind::Unsupported =>
        {
            format!(
                "move them out of the worktree, or delete them; 'calve drop --force{name}' drops the worktree with \
                 them, and 'calve undo{name}' brings it back for seven days"
            )
        }
        // A snapshot cannot be taken of a folder that is gone.
        ErrorKind::Changed if is_gone(path) => format!(
            "'calve restore{name}' brings its folder back, with what is staged; 'calve drop --force{name}' drops the \
             worktree, and 'calve undo{name}' brings it back for seven days"
        ),
        ErrorKind::Changed => format!(
            "commit it, or keep it in a snapshot with 'calve snapshot{}'; 'calve drop --force{name}' drops the \
             worktree, and 'calve undo{name}' brings it back for seven days; what is only staged is in no snapshot",
            of_name(name)
        ),
        ErrorKind::Overlap if error.kind() == io::ErrorKind::ResourceBusy =>
        {
            let removed = "keep their work, and remove them with 'git -C PATH worktree remove PATH'";
            match is_gone(path) {
                true => removed.to_owned(),
                false => format!(
                    "{removed}; 'calve drop --force{name}' drops the worktree with these repositories, and 'calve \
                     undo{name}' brings both back for seven days"
                ),
            }
        }
        ErrorKind::Overlap if error.kind() == io::ErrorKind::CrossesDevices => {
            let point = shell_word(details.first().map_or(path, PathBuf::as_path));
            format!("'umount {point}' ends the mount; 'findmnt {point}' says what it is")
        }
        ErrorKind::Overlap if error.kind() == io::ErrorKind::NotADirectory => {
            let (link, folder) = (shell_word(path), shell_word(other.unwrap_or(path)));
            format!("'rm {link} && mv {folder} {link}' puts the folder back")
        }
        ErrorKind::Overlap => {
            "drop the worktrees inside it first: 'calve drop NAME', or 'git worktree remove PATH' for those that calve did not make".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

fn is_gone(path: &Path) -> bool {
    let is_there = path.symlink_metadata();
    is_there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && path.is_absolute()
}

/// What makes the copy of a worktree, or of a project whose store is elsewhere, more than a folder.
fn own_folder(root: &Path) -> &'static str {
    let folders = [".calve", ".git/calve"];
    folders.into_iter().find(|folder| root.join(folder).is_dir()).unwrap_or(".git")
}

/// The number of the stopped process that holds a lock. The library's error names that process.
fn stopped_in(error: &io::Error) -> Option<String> {
    let text = error.to_string();
    let (before, _) = text.split_once(", stopped)")?;
    let (_, process) = before.rsplit_once("process ")?;
    Some(process.split_once(" (")?.0.to_owned())
}

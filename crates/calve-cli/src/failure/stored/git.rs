//! What to do if git refuses, or about branches, commits and working trees of git.

use calve::{ErrorKind, Operation};

use super::case::Case;
use crate::text::shell_word;

/// What to do about branches, commits and working trees of git.
pub(super) fn way_out(case: &Case<'_>) -> Option<String> {
    let Case { kind, operation, path, other, name, .. } = *case;
    let hint = match kind {
        ErrorKind::BranchExists => {
            "-b BRANCH names another branch, --detach makes none".to_owned()
        }
        ErrorKind::CommitNotFound => {
            "'git log --oneline --all' lists commits; 'git fetch' brings those of others".to_owned()
        }
        ErrorKind::Git if operation == Operation::CheckOut => format!(
            "'git worktree add DIR {}' shows whether git alone can do it; without --base git writes nothing",
            shell_word(path)
        ),
        // By force alone it drops no worktree of which nothing could keep what is staged.
        ErrorKind::Git if operation == Operation::DropWorktree && !path.is_dir() => {
            format!("'calve drop --force --discard{name}' gives up what is staged")
        }
        ErrorKind::Git if operation == Operation::DropWorktree => {
            format!("'calve drop --force{name}' drops it anyway")
        }
        ErrorKind::Git if matches!(operation, Operation::Fill | Operation::FillFrom) => match other {
            Some(_) => "--from DIR names another working tree of that repository".to_owned(),
            None => "'git worktree list' lists the working trees of a repository".to_owned(),
        },
        ErrorKind::Overlap | ErrorKind::Conflict if operation == Operation::Fill => {
            "'git worktree list' lists the working trees of a repository; --from DIR names the one to take files from"
                .to_owned()
        }
        ErrorKind::InvalidPattern if operation == Operation::ReadPatterns => {
            "a relative path starts at the root of the working tree that files are taken from".to_owned()
        }
        // Only a start and a restore do these, and both have the option.
        ErrorKind::Git
            if matches!(operation, Operation::LinkWorktrees | Operation::RegisterWorktree) =>
        {
            "--git copy gives each worktree a repository of its own, --git none only files".to_owned()
        }
        ErrorKind::Git if path.is_dir() => {
            format!("'git -C {} status' shows whether git works there", shell_word(path))
        }
        ErrorKind::InvalidName if operation == Operation::UseBranch => {
            "-b BRANCH names another branch, one for each worktree; --detach makes none".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

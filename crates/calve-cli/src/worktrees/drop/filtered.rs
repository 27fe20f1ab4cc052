//! `calve drop --merged --clean --idle`: drops each worktree that it may, and says of each other one
//! why it stays.

use std::cmp::Reverse;

use calve::{ChosenWorktree, DropFilter, DropOptions, ErrorKind, Worktree};

use super::left::{self, LeftDocument, ago};
use super::told::Done;
use super::would::would_drop;
use crate::args::DropArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::worktree_failure;
use crate::progress::Total;
use crate::session::Session;
use crate::text;

pub(super) fn run(args: &DropArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let (output, current) = (session.output, std::env::current_dir());
    let mut filter = DropFilter::new().merged(args.merged).only_calves(args.worktrees.is_empty());
    if let Some(time) = args.idle {
        filter = filter.idle(time);
    }
    if let Ok(current) = &current {
        filter = filter.not_around(current);
    }
    let store = session.store()?;
    let mut worktrees = left::named(args, session)?;
    if let Some(other) = worktrees.iter().find(|it| it.store().path() != store.path()) {
        return Err(not_of_this_project(other));
    }
    if args.worktrees.is_empty() {
        worktrees = store.worktrees()?;
    }
    let look = |options: &_| store.filter_worktrees(&worktrees, &filter, options);
    let found = session.work(Total::Unknown, look)?;
    let into = found.mainlines.join(" or ");
    let mut left: Vec<LeftDocument> =
        found.staying.into_iter().map(|it| LeftDocument::new(&it, &into)).collect();
    let mut chosen = found.chosen;
    if args.dry_run {
        if args.delete_branch {
            chosen.retain(|it| {
                let branch = it.checked.must_delete_branch().err();
                let refused = branch.filter(|why| why.kind() == ErrorKind::CommitsOnlyHere);
                let worktree = it.checked.worktree();
                left.extend(refused.iter().map(|why| LeftDocument::refused(worktree, why)));
                refused.is_none()
            });
        }
        let those: Vec<Worktree> = chosen.iter().map(|it| it.checked.worktree().clone()).collect();
        return would_drop(args, &those, left, session);
    }
    // A worktree inside another one comes before it.
    chosen.sort_by_key(|it| Reverse(it.checked.worktree().path().components().count()));
    let how = DropOptions::new().delete_branch(args.delete_branch);
    let (mut done, mut is_stopped) = (Done::default(), None);
    for it in chosen {
        let (worktree, name) = (it.checked.worktree().clone(), named(&it));
        match session.work(Total::Unknown, |options| it.checked.drop(&how, options)) {
            Ok(dropped) => done.add(&worktree, name, dropped),
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                is_stopped = Some(worktree_failure(&error, &worktree));
                break;
            }
            Err(error) => left.push(LeftDocument::refused(&worktree, &error)),
        }
    }
    done.empty_trash(output);
    if let Some(failure) = is_stopped {
        let dropped = match &*done.names {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        return Err(failure.remarked(&format!("dropped by then: {dropped}")));
    }
    if done.names.is_empty() {
        output.summary("nothing to drop");
    }
    left.sort_by(|one, other| one.name.cmp(&other.name));
    done.left = left;
    done.tell(output)
}

/// A worktree that is dropped, with what speaks for that.
fn named(chosen: &ChosenWorktree) -> String {
    let merged = chosen.merged_into.as_ref().map(|into| match chosen.only_changes_merged {
        true => format!("its changes are in {into}"),
        false => format!("merged into {into}"),
    });
    let idle = chosen.last_change.as_ref().map(|last| format!("last changed {}", ago(last)));
    let why: Vec<String> = merged.into_iter().chain(idle).collect();
    let name = chosen.checked.worktree().name();
    if why.is_empty() { name.to_owned() } else { format!("{name} ({})", why.join(", ")) }
}

fn not_of_this_project(worktree: &Worktree) -> Failure {
    crate::failure::stored::own(
        "drop",
        worktree.path(),
        ErrorKind::WorktreeNotFound,
        "it belongs to another project",
        format!("run the command there: calve -C {}", text::shell_word(worktree.path())),
    )
}

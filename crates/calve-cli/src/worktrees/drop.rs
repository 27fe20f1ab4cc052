//! `calve drop`.

use std::cmp::Reverse;
use std::path::PathBuf;

use calve::{CheckedWorktree, DropOptions, ErrorKind, StoreOptions, Worktree, WorktreeState};

use crate::args::DropArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{own, store_failure, worktree_failure};
use crate::progress::Total;
use crate::session::Session;

mod filtered;
mod left;
mod told;
mod would;

use left::named;
use told::{Done, by_then};
use would::would_drop;

pub(crate) fn run(args: &DropArgs, session: Session<'_>) -> Result<Exit, Failure> {
    if args.is_filtered() {
        return filtered::run(args, session);
    }
    let current = std::env::current_dir();
    // If one of several worktrees cannot be dropped, calve drops none of them.
    let Droppable { worktrees, checked, branches_that_stay } =
        droppable(args, session).map_err(|failure| match args.worktrees.len() {
            1 => failure,
            _ => failure.remarked("nothing was dropped"),
        })?;
    if args.dry_run {
        let exit = would_drop(args, &worktrees, Vec::new(), session)?;
        for error in &branches_that_stay {
            session.output.warning(store_failure(error).message());
        }
        return Ok(if branches_that_stay.is_empty() { exit } else { Exit::Findings });
    }
    let how = DropOptions::new()
        .force(args.force)
        .discard(args.discard)
        .delete_branch(args.delete_branch);
    let names: Vec<String> = worktrees.iter().map(|worktree| worktree.name().to_owned()).collect();
    let (mut done, mut failure) = (Done::default(), None);
    for (worktree, checked) in worktrees.into_iter().zip(checked) {
        let again = worktree.clone();
        let drop = |options: &StoreOptions| match checked {
            Some(checked) => checked.drop(&how, options),
            None => worktree.drop(&how, options),
        };
        match session.work(Total::Unknown, drop) {
            Ok(dropped) => done.add(&again, again.name().to_owned(), dropped),
            Err(error) => {
                failure = Some(worktree_failure(&error, &again));
                break;
            }
        }
        if current.as_ref().is_ok_and(|current| current.starts_with(again.path())) {
            done.stood_in = again.store().project().ok();
        }
    }
    done.empty_trash(session.output);
    match failure {
        Some(failure) => Err(by_then(failure, &done.names, &names[done.names.len()..])),
        None => done.tell(session.output),
    }
}

/// What may be dropped.
struct Droppable {
    worktrees: Vec<Worktree>,
    /// Those of them that were looked at.
    checked: Vec<Option<CheckedWorktree>>,
    /// Why branches would stay that are to be deleted.
    branches_that_stay: Vec<calve::Error>,
}

/// The worktrees to drop, each once. Fails if one of them cannot be dropped. A worktree inside
/// another one comes before it.
fn droppable(args: &DropArgs, session: Session<'_>) -> Result<Droppable, Failure> {
    let mut worktrees = named(args, session)?;
    if worktrees.len() == 1 && !args.dry_run {
        // A single drop reports by itself why the worktree stays.
        return Ok(Droppable { worktrees, checked: vec![None], branches_that_stay: Vec::new() });
    }
    worktrees.sort_by_key(|worktree| Reverse(worktree.path().components().count()));
    let (mut checked, mut asked) = (Vec::new(), Vec::new());
    let mut branches_that_stay = Vec::new();
    checked.resize_with(worktrees.len(), || None);
    for (at, worktree) in worktrees.iter().enumerate() {
        let state = worktree.state().map_err(|error| worktree_failure(&error, worktree))?;
        if state == WorktreeState::Missing {
            continue;
        }
        let others = worktree.store().worktrees()?;
        let inside: Vec<PathBuf> = others
            .iter()
            .filter(|other| other.path().starts_with(worktree.path()))
            .filter(|other| worktrees.iter().all(|known| known.path() != other.path()))
            .map(|other| other.path().to_owned())
            .collect();
        if !inside.is_empty() {
            return Err(holding(worktree, inside));
        }
        if !args.force {
            asked.push(at);
        }
    }
    let of = |at: &usize| worktrees[*at].clone();
    let those: Vec<Worktree> = asked.iter().map(of).collect();
    let looked = session.work(Total::Unknown, |options| Ok(CheckedWorktree::all(&those, options)));
    for (at, result) in asked.into_iter().zip(looked.unwrap_or_default()) {
        let worktree = &worktrees[at];
        let looked = result.map_err(|error| worktree_failure(&error, worktree))?;
        let branch = if args.delete_branch { looked.must_delete_branch() } else { Ok(()) };
        match branch {
            Err(error) if error.kind() == ErrorKind::CommitsOnlyHere => {
                return Err(worktree_failure(&error, worktree));
            }
            branch => branches_that_stay.extend(branch.err()),
        }
        checked[at] = Some(looked);
    }
    Ok(Droppable { worktrees, checked, branches_that_stay })
}

fn holding(worktree: &Worktree, inside: Vec<PathBuf>) -> Failure {
    Failure {
        details: inside.into(),
        ..own(
            "drop worktree",
            worktree.path(),
            ErrorKind::Overlap,
            "other worktrees are inside it",
            "drop the worktrees inside it, too, or first: 'calve drop NAME', or 'git worktree remove PATH' for those that calve did not make",
        )
    }
}

//! `calve restore`.

use std::path::Path;
use std::time::Instant;

use calve::{ErrorKind, Worktree, WorktreeState};

use super::WorktreeFields;
use super::start::document::StartedDocument;
use super::start::tell::{tell_git, tell_trees};
use crate::args::RestoreArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{own, store_failure, worktree_failure};
use crate::progress::Total;
use crate::session::Session;
use crate::text::{harmless, shell_word};

pub(crate) fn run(args: &RestoreArgs, session: Session<'_>) -> Result<Exit, Failure> {
    if args.dropped {
        return restore_dropped(args, session);
    }
    let worktree = session.worktree(Some(&args.worktree))?;
    if worktree.is_project() {
        return Err(own(
            "restore",
            worktree.path(),
            ErrorKind::InvalidName,
            "it is the project itself",
            "'calve reset --force' makes the project match its base snapshot",
        ));
    }
    let started = Instant::now();
    let files = match worktree.snapshot() {
        Some(id) => worktree.store().show(id).map_err(|error| store_failure(&error))?.files,
        None => 0,
    };
    let restored = session
        .work(Total::Files(files), |options| worktree.restore(args.git.mode(), options))
        .map_err(|error| restore_failure(&error, &worktree))?;
    let trees = [restored.report.clone()];
    let mut exit = tell_trees(&trees, started.elapsed(), worktree.store(), session);
    if tell_git(std::slice::from_ref(&restored), session) == Exit::Findings {
        exit = Exit::Findings;
    }
    let output = session.output;
    let told = if output.json {
        output.document(&StartedDocument::new(&restored, None))
    } else {
        output.results(&output.path_lines([worktree.path()]))
    };
    told.map_err(|failure| failure.but_stands("the worktree", &trees))?;
    Ok(exit)
}

fn restore_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    let failure = worktree_failure(error, worktree);
    if error.kind() != ErrorKind::DestinationExists {
        return failure;
    }
    let name = shell_word(Path::new(worktree.name()));
    let hint = match worktree.state() {
        Ok(WorktreeState::Missing) => format!(
            "the folder there is not this worktree (it may be another project's): move it away and try again, or run \
             'calve drop --force {name}', which forgets the worktree and leaves that folder"
        ),
        _ => format!("'calve reset {name}' makes it match its base snapshot"),
    };
    Failure { hint: Some(hint), ..failure }
}

/// Brings back a worktree that `drop --force` removed.
fn restore_dropped(args: &RestoreArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    let name = args.worktree.to_string_lossy();
    let new_name = args.new_name.as_deref().unwrap_or(&name);
    let worktree = store.restore_dropped(&name, new_name).map_err(|error| {
        let failure = store_failure(&error);
        let hint = match error.kind() {
            ErrorKind::WorktreeNotFound => {
                "'calve list --dropped' lists the worktrees that are kept".to_owned()
            }
            ErrorKind::WorktreeExists | ErrorKind::DestinationExists => {
                let word = shell_word(Path::new(&*name));
                format!("'calve restore --dropped {word} --as NAME' gives it another name")
            }
            _ => return failure,
        };
        Failure { hint: Some(hint), ..failure }
    })?;
    let output = session.output;
    output.summary(format_args!("{} is back, as it was dropped", harmless(worktree.name())));
    if output.json {
        output.document(&WorktreeFields::new(&worktree))?;
    } else {
        output.results(&output.path_lines([worktree.path()]))?;
    }
    Ok(Exit::Done)
}

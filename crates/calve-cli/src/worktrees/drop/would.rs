//! `calve drop --dry-run`.

use calve::{ErrorKind, Store, Worktree};
use serde::Serialize;

use super::left::LeftDocument;
use super::told::{DroppedDocument, add_store, listed};
use crate::args::DropArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::worktree_failure;
use crate::output::PathFields;
use crate::progress::Total;
use crate::session::Session;
use crate::text::harmless;
use crate::worktrees::WorktreeFields;
use crate::worktrees::du::{self, FreesDocument};

/// Says what a drop of these worktrees would free.
pub(super) fn would_drop(
    args: &DropArgs,
    worktrees: &[Worktree],
    left: Vec<LeftDocument>,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let output = session.output;
    let mut stores: Vec<Store> = Vec::new();
    for worktree in worktrees {
        add_store(&mut stores, worktree.store());
    }
    let mut documents = Vec::new();
    let mut exit = Exit::Done;
    for store in stores {
        let of_it = worktrees.iter().filter(|it| it.store().path() == store.path());
        // A missing worktree takes no space that a drop could free.
        let there: Vec<Worktree> = of_it.filter(|it| du::is_there(it)).cloned().collect();
        let mut kept = Vec::new();
        for worktree in &there {
            kept.push(args.force && !args.discard && would_be_kept(worktree, session)?);
        }
        let of = |is_kept: bool| -> Vec<Worktree> {
            let those = there.iter().zip(&kept).filter(|(_, kept)| **kept == is_kept);
            those.map(|(worktree, _)| worktree.clone()).collect()
        };
        let mut frees = Vec::new();
        for (those, how) in [(of(false), ""), (of(true), " when it is not kept any more")] {
            let usage = du::measured(&store, &those, session)?;
            if du::warn_of_unreadable(&usage, output) {
                exit = Exit::Findings;
            }
            frees.push(usage.frees);
            let names: Vec<String> = those.iter().map(|it| it.name().to_owned()).collect();
            if names.is_empty() {
                continue;
            }
            let (names, freed) = (listed(&names), du::freed(usage.frees, output));
            output.summary(format_args!("would drop {names}, which frees {freed}{how}"));
            if !how.is_empty() {
                output.summary("worktrees with changes are kept for seven days; --discard frees their space now");
            }
        }
        let named = there.iter().zip(&kept).map(|(worktree, kept)| WouldDropDocument {
            worktree: WorktreeFields::new(worktree),
            kept: *kept,
        });
        let mut frees = frees.into_iter().map(FreesDocument::new);
        documents.push(WouldFreeDocument {
            store: PathFields::new(store.path()),
            worktrees: named.collect(),
            frees: frees.next(),
            frees_later: frees.next(),
        });
    }
    for worktree in worktrees.iter().filter(|it| !du::is_there(it)) {
        output.summary(format_args!("would forget {}", harmless(worktree.name())));
    }
    if args.is_filtered() && worktrees.is_empty() {
        output.summary("nothing to drop");
    }
    for left in &left {
        output.summary(left.line());
    }
    if output.json {
        output.document(&DryDropDocument { dropped: [], would_drop: documents, left })?;
    }
    Ok(exit)
}

/// Whether a forced drop would keep a worktree's files for a while.
fn would_be_kept(worktree: &Worktree, session: Session<'_>) -> Result<bool, Failure> {
    match session.work(Total::Unknown, |options| worktree.must_lose_nothing(options)) {
        Ok(()) => Ok(false),
        // Force does not help against a mount.
        Err(error)
            if error.kind() == ErrorKind::Cancelled
                || error.io_error().kind() == std::io::ErrorKind::CrossesDevices =>
        {
            Err(worktree_failure(&error, worktree))
        }
        // A process in it is no reason to keep its files.
        Err(error) => Ok(error.kind() != ErrorKind::Busy),
    }
}

/// The JSON document of `drop --dry-run`: what would be dropped, by store.
#[derive(Serialize)]
struct DryDropDocument {
    dropped: [DroppedDocument; 0],
    would_drop: Vec<WouldFreeDocument>,
    left: Vec<LeftDocument>,
}

#[derive(Serialize)]
struct WouldFreeDocument {
    store: PathFields,
    worktrees: Vec<WouldDropDocument>,
    frees: Option<FreesDocument>,
    frees_later: Option<FreesDocument>,
}

#[derive(Serialize)]
struct WouldDropDocument {
    #[serde(flatten)]
    worktree: WorktreeFields,
    kept: bool,
}

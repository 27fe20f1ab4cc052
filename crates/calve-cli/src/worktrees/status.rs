//! `calve status`.

use calve::{Change, ChangeKind, Worktree, WorktreeStatus};
use clap::builder::styling::Style;

use super::WorktreeFields;
use crate::args::StatusArgs;
use crate::clone::SkippedDocument;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::worktree_failure;
use crate::output::{BAD, CAUTION, GOOD, PathFields, document};
use crate::progress::Total;
use crate::session::Session;
use crate::snapshots::tell_skipped;
use crate::text::{self, counted, short};

pub(crate) fn run(args: &StatusArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let worktree = session.worktree(args.worktree.as_deref())?;
    let scope = args.scope.scope();
    let status = session
        .work(Total::Unknown, |options| worktree.status_of(&scope, options))
        .map_err(|error| worktree_failure(&error, &worktree))?;
    let output = session.output;
    let exit = tell_skipped(&status.skipped, session);
    let changes = status.changes.len() as u64;
    let what = if changes == 0 { "clean".to_owned() } else { counted(changes, "change") };
    let (looked_at, took) = (counted(status.entries, "entry"), text::duration(status.elapsed));
    let (since, limits) = (short(status.snapshot), args.scope.limits());
    output.summary(format_args!("{what} since snapshot {since}{limits}: {looked_at}, {took}"));
    if output.json {
        output.document(&StatusDocument::new(&worktree, &status))?;
    } else {
        let mut lines = Vec::new();
        for change in &status.changes {
            let style = if output.has_colors() { change_style(change.kind) } else { Style::new() };
            lines.extend(format!("{style}{}{style:#} ", change.kind.letter()).bytes());
            lines.extend(output.path(&change.path));
            lines.push(b'\n');
        }
        output.results(&lines)?;
    }
    Ok(if changes == 0 { exit } else { Exit::Findings })
}

document! {
    struct StatusDocument(worktree: &Worktree, status: &WorktreeStatus) {
        #[serde(flatten)]
        worktree: WorktreeFields = WorktreeFields::new(worktree),
        snapshot: String = status.snapshot.to_string(),
        clean: bool = status.changes.is_empty(),
        changes: Vec<ChangeDocument> = status.changes.iter().map(ChangeDocument::new).collect(),
        entries: u64 = status.entries,
        skipped: Vec<SkippedDocument> = status.skipped.iter().map(SkippedDocument::new).collect(),
        elapsed_seconds: f64 = status.elapsed.as_secs_f64(),
    }
}

document! {
    struct ChangeDocument(change: &Change) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&change.path),
        change: &'static str = change.kind.as_str(),
    }
}

/// The style of the letter of a change.
pub(crate) fn change_style(kind: ChangeKind) -> Style {
    match kind {
        ChangeKind::Added => GOOD,
        ChangeKind::Deleted => BAD,
        _ => CAUTION,
    }
}

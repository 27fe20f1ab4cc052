//! `calve status`.

use calve::{Change, ChangeKind, Worktree, WorktreeStatus};
use clap::builder::styling::Style;
use serde::Serialize;

use super::WorktreeFields;
use crate::args::StatusArgs;
use crate::clone::SkippedDocument;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::worktree_failure;
use crate::output::{BAD, CAUTION, GOOD, PathFields};
use crate::progress::Total;
use crate::session::Session;
use crate::snapshots::{entries, tell_skipped};
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
    let (looked_at, took) = (entries(status.entries), text::duration(status.elapsed));
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

#[derive(Serialize)]
struct StatusDocument {
    #[serde(flatten)]
    worktree: WorktreeFields,
    snapshot: String,
    clean: bool,
    changes: Vec<ChangeDocument>,
    entries: u64,
    skipped: Vec<SkippedDocument>,
    elapsed_seconds: f64,
}

impl StatusDocument {
    fn new(worktree: &Worktree, status: &WorktreeStatus) -> Self {
        Self {
            worktree: WorktreeFields::new(worktree),
            snapshot: status.snapshot.to_string(),
            clean: status.changes.is_empty(),
            changes: status.changes.iter().map(ChangeDocument::new).collect(),
            entries: status.entries,
            skipped: status.skipped.iter().map(SkippedDocument::new).collect(),
            elapsed_seconds: status.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct ChangeDocument {
    #[serde(flatten)]
    path: PathFields,
    change: &'static str,
}

impl ChangeDocument {
    fn new(change: &Change) -> Self {
        Self { path: PathFields::new(&change.path), change: change_name(change.kind) }
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

/// The name that the JSON output uses.
pub(crate) fn change_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Modified => "modified",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Type => "type",
        ChangeKind::Mode => "mode",
        ChangeKind::Metadata => "metadata",
        _ => "other",
    }
}

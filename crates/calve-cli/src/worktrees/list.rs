//! `calve list`.

use std::time::{SystemTime, UNIX_EPOCH};

use calve::{ErrorKind, GitStatus, GitWorktree, Store, TreeUsage, Worktree, WorktreeState};
use clap::builder::styling::Style;
use serde::Serialize;

use super::du::{self, BytesDocument};
use crate::args::ListArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::worktree_failure;
use crate::output::{BAD, CAUTION, Output, PathFields, STRONG, document};
use crate::progress::Total;
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{self, harmless, shell_word, shown};

mod dropped;

use dropped::list_dropped;

/// A row of `list`.
struct Listed {
    worktree: Worktree,
    /// `None` if calve could not look at its folder.
    state: Option<WorktreeState>,
    /// The number of changes, if the user asked for it and calve could count them.
    changes: Option<u64>,
    /// The answer of git, if the worktree has a repository.
    git: Option<GitStatus>,
    /// Its disk usage, if the user asked for it.
    disk: Option<TreeUsage>,
}

impl Listed {
    /// When it was last worked in, as far as `list` sees, or was started.
    fn last_work(&self) -> SystemTime {
        let last = self.git.as_ref().and_then(|git| git.last_work);
        last.unwrap_or(UNIX_EPOCH).max(self.worktree.created())
    }

    fn is_there(&self) -> bool {
        matches!(self.state, Some(WorktreeState::Ready | WorktreeState::Restoring))
    }

    fn look(&mut self, status: bool, session: Session<'_>) -> Result<(), calve::Error> {
        self.state = Some(self.worktree.state()?);
        if status && self.is_there() {
            let status = session.work(Total::Unknown, |options| self.worktree.status(options));
            // A drop renames the folder and forgets the worktree before it deletes files. So files
            // that a drop deletes are no changes: the state says that the worktree is missing.
            self.state = Some(self.worktree.state()?);
            if self.state != Some(WorktreeState::Missing) {
                self.changes = Some(status?.changes.len() as u64);
            }
        }
        Ok(())
    }
}

pub(crate) fn run(args: &ListArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    let store = session.store()?;
    if args.dropped {
        return list_dropped(&store, output);
    }
    let (mut rows, mut exit) = rows(&store, args.status, session)?;
    if !args.no_status {
        exit = exit.and(ask_git(&store, &mut rows, session));
    }
    let others = store.worktrees_of_git()?;
    if let Some(warning) = lost_store(&others) {
        output.warning(warning);
        exit = Exit::Findings;
    }
    if args.disk && measure(&store, &mut rows, session)? {
        exit = Exit::Findings;
    }
    if output.json {
        let worktrees = rows.iter().map(ListedDocument::new).collect();
        let git_worktrees = others.iter().map(OtherDocument::new).collect();
        output.document(&ListDocument { worktrees, git_worktrees })?;
        return Ok(exit);
    }
    let table = table(&rows, &others, args, output);
    if rows.is_empty() && others.is_empty() {
        output.summary("no worktrees: 'calve start NAME' makes one");
    }
    output.table(&table)?;
    Ok(exit)
}

/// Looks at each worktree of a store.
fn rows(store: &Store, status: bool, session: Session<'_>) -> Result<(Vec<Listed>, Exit), Failure> {
    let worktrees = store.worktrees()?;
    let mut exit = Exit::Done;
    let mut rows = Vec::new();
    for worktree in worktrees {
        let mut listed = Listed { worktree, state: None, changes: None, git: None, disk: None };
        match listed.look(status, session) {
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                return Err(worktree_failure(&error, &listed.worktree));
            }
            // Another process dropped it in the meantime.
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => continue,
            // If calve cannot look at one worktree, it still lists the others.
            Err(error) => {
                let failure = worktree_failure(&error, &listed.worktree);
                let name = listed.worktree.name();
                session.output.warning(format_args!("{name}: {}", failure.message()));
                exit = Exit::Findings;
            }
            Ok(()) => {}
        }
        session.tell_registered_again(&listed.worktree);
        rows.push(listed);
    }
    Ok((rows, exit))
}

/// In the order of use: what is finished, since when nobody works in it, what it takes, and then
/// where it is.
fn table(rows: &[Listed], others: &[GitWorktree], args: &ListArgs, output: Output) -> Table {
    let mut columns = vec![Column::Name, Column::Left];
    columns.extend((!args.no_status).then_some(Column::Left));
    columns.extend(args.disk.then_some(Column::Left));
    columns.extend(args.status.then_some(Column::Left));
    let has_git =
        !args.no_status && (!others.is_empty() || rows.iter().any(|row| row.git.is_some()));
    // A branch mostly has its worktree's name.
    columns.extend(has_git.then_some(Column::Path));
    columns.push(Column::Path);
    let mut table = Table::new(columns);
    if output.width().is_some() && !output.quiet && !(rows.is_empty() && others.is_empty()) {
        table.row(header(args, has_git));
    }
    for row in rows {
        let mut cells = vec![harmless(row.worktree.name()).into_owned().into(), state_cell(row)];
        let idle = || text::age(row.last_work().elapsed().unwrap_or_default()).into();
        cells.extend((!args.no_status).then(idle));
        cells.extend(args.disk.then(|| match &row.disk {
            Some(disk) => {
                let (frees, all) = (disk.frees.expected, disk.apparent_bytes);
                Cell::from(format!("frees {} of {}", output.size(frees), output.size(all)))
            }
            None => Cell::from("-"),
        }));
        cells.extend(args.status.then(|| base_cell(row)));
        cells.extend(has_git.then(|| Cell::from(branch(row.git.as_ref()))));
        cells.push(output.path(row.worktree.path()).into());
        table.row(cells);
    }
    for other in others {
        let mut cells = vec![harmless(&other.name).into_owned().into()];
        cells.push(match other_state(other) {
            "git" => "made by git".into(),
            missing => Cell::from(missing).styled(BAD),
        });
        cells.extend((!args.no_status).then(|| "-".into()));
        cells.extend(args.disk.then(|| "-".into()));
        cells.extend(args.status.then(|| "-".into()));
        let branch = || other.branch.as_deref().map_or("-".into(), harmless).into_owned().into();
        cells.extend(has_git.then(branch));
        cells.push(output.path(&other.path).into());
        table.row(cells);
    }
    table
}

/// The state of a worktree of git that calve did not make.
fn other_state(other: &GitWorktree) -> &'static str {
    if other.path.is_dir() { "git" } else { "missing" }
}

/// The names of the columns, for people: programs that read a pipe know them.
fn header(args: &ListArgs, has_git: bool) -> Vec<Cell> {
    let mut names = vec!["WORKTREE", "STATE"];
    names.extend((!args.no_status).then_some("IDLE"));
    names.extend(args.disk.then_some("DISK"));
    names.extend(args.status.then_some("BASE"));
    names.extend(has_git.then_some("BRANCH"));
    names.push("PATH");
    names.into_iter().map(|name| Cell::from(name).styled(STRONG)).collect()
}

/// The rows of worktrees that are there, and those worktrees.
fn there(rows: &mut [Listed]) -> (Vec<&mut Listed>, Vec<Worktree>) {
    let rows: Vec<&mut Listed> = rows.iter_mut().filter(|row| row.is_there()).collect();
    let worktrees = rows.iter().map(|row| row.worktree.clone()).collect();
    (rows, worktrees)
}

/// The warning about worktrees of an earlier store.
fn lost_store(others: &[GitWorktree]) -> Option<String> {
    let mut orphans: Vec<_> = others.iter().filter(|other| other.is_of_lost_store).collect();
    orphans.sort_by(|a, b| a.path.cmp(&b.path));
    let first = shell_word(&orphans.first()?.path);
    let all: Vec<String> = orphans.iter().map(|other| shown(&other.path)).collect();
    let (are, those) =
        if orphans.len() == 1 { ("is a worktree", "it") } else { ("are worktrees", "each") };
    Some(format!(
        "{} {are} of an earlier store of this project, which is gone: git still works in {those}; \
         'git worktree remove {first}' removes it, unless it has work that is not committed",
        all.join(", ")
    ))
}

/// Measures the worktrees that are there. Returns whether calve could not look at some files.
fn measure(store: &Store, rows: &mut [Listed], session: Session<'_>) -> Result<bool, Failure> {
    let (mut rows, worktrees) = there(rows);
    let usage = du::measured(store, &worktrees, session)?;
    let found = du::warn_of_unreadable(&usage, session.output);
    for (row, tree) in rows.iter_mut().zip(usage.worktrees) {
        row.disk = Some(tree);
    }
    Ok(found)
}

/// Asks git about the worktrees that are there. If git fails for one, calve still lists the others.
fn ask_git(store: &Store, rows: &mut [Listed], session: Session<'_>) -> Exit {
    let (mut rows, worktrees) = there(rows);
    let mut exit = Exit::Done;
    let told = session.work(Total::Unknown, |options| Ok(store.git_status(&worktrees, options)));
    for (row, status) in rows.iter_mut().zip(told.unwrap_or_default()) {
        match status {
            Ok(status) => row.git = status,
            Err(error) => {
                let failure = worktree_failure(&error, &row.worktree);
                let name = row.worktree.name();
                session.output.warning(format_args!("{name}: {}", failure.message()));
                exit = Exit::Findings;
            }
        }
    }
    exit
}

/// How far the work in a worktree is, if git knows; else whether it is there.
fn state_cell(row: &Listed) -> Cell {
    let style = match row.state {
        Some(WorktreeState::Ready) => Style::new(),
        Some(WorktreeState::Starting | WorktreeState::Restoring) => CAUTION,
        _ => BAD,
    };
    let Some(git) = row.git.as_ref().filter(|_| row.state == Some(WorktreeState::Ready)) else {
        return Cell::from(state_name(row.state)).styled(style);
    };
    let numbers = [
        (git.ahead.unwrap_or(0), "", "ahead"),
        (git.behind.unwrap_or(0), "", "behind"),
        (git.changes, if git.has_more_changes { "+" } else { "" }, "uncommitted"),
    ];
    let numbers = numbers
        .iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, more, word)| format!("{}{more} {word}", text::count(*number)));
    let merged = git.is_merged.then(|| "merged".to_owned());
    let words: Vec<String> = merged.into_iter().chain(numbers).collect();
    let style = if git.changes > 0 { CAUTION } else { Style::new() };
    let words = if words.is_empty() { "clean".to_owned() } else { words.join(", ") };
    Cell::from(words).styled(style)
}

/// Whether a worktree changed since its base snapshot: with *uncommitted*, the column before says
/// what git means.
fn base_cell(row: &Listed) -> Cell {
    match row.changes {
        Some(0) => Cell::from("same"),
        Some(_) => Cell::from("changed").styled(CAUTION),
        None => Cell::from("-"),
    }
}

fn branch(git: Option<&GitStatus>) -> String {
    match git.map(|git| (&git.branch, &git.commit)) {
        Some((Some(branch), _)) => harmless(branch).into_owned(),
        Some((None, Some(commit))) => format!("({})", commit.get(..10).unwrap_or(commit)),
        _ => "-".to_owned(),
    }
}

fn state_name(state: Option<WorktreeState>) -> &'static str {
    state.map_or("unknown", WorktreeState::as_str)
}

#[derive(Serialize)]
struct ListDocument {
    worktrees: Vec<ListedDocument>,
    git_worktrees: Vec<OtherDocument>,
}

document! {
    /// A worktree of git that calve did not make.
    struct OtherDocument(other: &GitWorktree) {
        name: String = other.name.clone(),
        #[serde(flatten)]
        path: PathFields = PathFields::new(&other.path),
        state: &'static str = other_state(other),
        branch: Option<String> = other.branch.clone(),
    }
}

document! {
    struct ListedDocument(row: &Listed) {
        name: String = row.worktree.name().to_owned(),
        #[serde(flatten)]
        path: PathFields = PathFields::new(row.worktree.path()),
        snapshot: Option<String> = row.worktree.snapshot().map(|id| id.to_string()),
        state: &'static str = state_name(row.state),
        changes: Option<u64> = row.changes,
        created: String = text::utc(row.worktree.created()),
        last_work: String = text::utc(row.last_work()),
        git: Option<GitDocument> = row.git.as_ref().map(GitDocument::new),
        disk: Option<BytesDocument> = row.disk.as_ref().map(BytesDocument::new),
    }
}

document! {
    /// The answer of git about a worktree.
    struct GitDocument(status: &GitStatus) {
        linked: bool = status.is_linked,
        branch: Option<String> = status.branch.clone(),
        commit: Option<String> = status.commit.clone(),
        merged: bool = status.is_merged,
        ahead: Option<u64> = status.ahead,
        behind: Option<u64> = status.behind,
        uncommitted: u64 = status.changes,
        has_more_uncommitted: bool = status.has_more_changes,
    }
}

//! `calve start`, `list`, `status`, `drop`, `restore`.

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use calve::{
    Change, ChangeKind, CopyCost, DestinationReport, DropOptions, DroppedWorktree, ErrorKind,
    GitOutcome, GitStatus, KeptWorktree, NoRepository, Operation, PathMode, Reflink, StartBranch,
    StartOptions, StartReport, StartedWorktree, TreeUsage, Worktree, WorktreeState, WorktreeStatus,
};
use clap::builder::styling::Style;
use serde::Serialize;

use crate::after_start;
use crate::args::{DropArgs, ListArgs, PathArgs, RestoreArgs, StartArgs, StatusArgs};
use crate::choices::StartReflink;
use crate::clone::{DestinationDocument, SkippedDocument, findings, why_not_shared};
use crate::du::{self, BytesDocument, FreesDocument};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{missing, own, store_failure, worktree_failure};
use crate::filesystems::{self, CostDocument, Taker};
use crate::output::{BAD, CAUTION, GOOD, Output, PathFields};
use crate::paths::{self, MentionDocument};
use crate::places;
use crate::progress::Total;
use crate::refill::{name_behind, refill_behind};
use crate::session::Session;
use crate::snapshots::{SnapshotDocument, entries, taken, tell_skipped};
use crate::summary::Summary;
use crate::table::{Cell, Column, Table};
use crate::text::{self, counted, harmless, shell_word, short, shown};
use crate::trash;

/// calve reads a smaller project in less than a second, so it names the contents before the
/// worktrees appear.
const NAMED_LATER_LEAST_BYTES: u64 = 64 * 1024 * 1024;

/// A start that names contents later clones every file of the project; one that reads first makes
/// only the files that changed. To clone a file takes about as long as to read this many bytes.
const BYTES_READ_PER_CLONE: u64 = 4096;

pub(crate) fn start(
    args: &StartArgs,
    names: &[String],
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let failed = |error: calve::Error| store_failure(&error);
    let store = session.store_to_start_from()?;
    let project = store.project().map_err(failed)?;
    #[cfg(target_os = "linux")]
    crate::volume::must_have_room(store.path(), session.output)?;
    let mut options = StartOptions::new().git(args.git.mode()).branch(args.start_branch());
    let times = names.len() as u64;
    let mut total = Total::Tree { root: &project, times: times + 1, own: true };
    let mut known = None;
    let mut files_before = None;
    if let Some(from) = &args.from {
        let id = crate::remote::resolve(&store, from, session)?;
        let snapshot = store.show(id).map_err(failed)?;
        let files = snapshot.files;
        known = Some(CopyCost::new(files, snapshot.bytes));
        total = Total::Files(files.saturating_mul(times));
        options = options.from(id);
    } else if let Some(id) = store.project_worktree().map_err(failed)?.snapshot() {
        // The project has about as many files as its last snapshot, so nobody has to count them.
        // calve looks at each file once, and then makes it once per worktree.
        let snapshot = store.show(id).map_err(failed)?;
        let files = snapshot.files;
        files_before = Some(files);
        known = Some(CopyCost::new(files, snapshot.bytes));
        total = Total::Files(files.saturating_mul(times + 1));
    }
    if calve::filesystem_name(store.path()).as_deref() == Some("btrfs") {
        // A snapshot of a subvolume takes no time, however many files it has. Only the library
        // knows how much other work there is.
        total = Total::Unknown;
    }
    if let Some(at) = &args.at {
        options = options.at(session.common.resolve(at));
    }
    if let Some(base) = &args.base {
        options = options.base(base.as_str());
    }
    if args.keep_paths {
        options = options.paths(PathMode::Keep);
    }
    if args.reflink == StartReflink::Always {
        options = options.reflink(Reflink::Always);
    }
    let price = match args.reflink {
        StartReflink::Auto => price(&store, &project, args.at.as_deref(), (times, known), session),
        StartReflink::Always => None,
    };
    let worth = files_before.unwrap_or(0).saturating_mul(BYTES_READ_PER_CLONE);
    options = options.name_later(NAMED_LATER_LEAST_BYTES.max(worth));
    let report = session
        .work(total, |common| store.start(names, &options, common))
        .map_err(|error| start_failure(&error, (args, names), &store))?;

    let output = session.output;
    let mut exit = Exit::Done;
    if let Some(snapshot) = &report.taken {
        exit = tell_skipped(&snapshot.skipped, session);
        output.summary(taken(snapshot, &project, store.path(), output));
    }
    if let (Some(base), Some(written)) = (&args.base, report.written_files) {
        output.summary(format!(
            "git wrote {} of {}; all other files are the project's",
            counted(written, "file"),
            harmless(base)
        ));
    }
    let trees: Vec<DestinationReport> =
        report.worktrees.iter().map(|started| started.report.clone()).collect();
    // The summary of the snapshot and that of the trees each have their own time.
    let before = report.taken.as_ref().map_or(Duration::ZERO, |snapshot| snapshot.elapsed);
    let elapsed = report.elapsed.saturating_sub(before);
    if tell_trees(&trees, elapsed, &store, session) == Exit::Findings {
        exit = Exit::Findings;
    }
    let is_named_later = report.registered && report.snapshot.is_none();
    if is_named_later {
        let bytes = report.worktrees.first().map_or(0, |started| started.bytes);
        let what = match files_before {
            None => output.size(bytes),
            Some(_) => "the changed files".to_owned(),
        };
        output.summary(format_args!(
            "{what} are read in the background, for the snapshot that these worktrees started from"
        ));
    }
    if tell_git(&report.worktrees, session) == Exit::Findings {
        exit = Exit::Findings;
    }
    tell_paths(&report.worktrees, &project, session);
    let first = trees.first().filter(|_| args.at.is_none());
    if let Some(remark) = first.and_then(|tree| places::inside_project(&tree.path, &project)) {
        output.summary(remark);
    }
    if !report.registered {
        output.warning(
            "calve cannot write to the store, so it does not know these trees: they are plain folders",
        );
        exit = Exit::Findings;
    }
    let is_there = |name: &str| project.join(name).symlink_metadata().is_ok();
    let is_of_project = report.taken.is_some() || is_named_later;
    if is_of_project && is_there(".git") && is_there(".jj") {
        output.summary(
            ".jj stays in the project, since it is about that one tree: in the worktrees work with git",
        );
    }
    let after = match after_start::command(&project) {
        _ if args.no_after_start => Vec::new(),
        Ok(None) => Vec::new(),
        Ok(Some(command)) => after_start::run(&command, &project, &report, session),
        Err(why) => {
            output.warning(format_args!(
                "no command ran in the new worktrees, because git cannot say whether calve.afterStart is set: {}",
                harmless(&why)
            ));
            exit = Exit::Findings;
            Vec::new()
        }
    };
    if after.iter().any(|code| *code != Some(0)) {
        exit = if session.signals.cancel().is_cancelled() {
            session.signals.exit()
        } else {
            Exit::Findings
        };
    }
    if report.registered {
        refill_behind(&store);
    }
    let told = if output.json {
        output.document(&StartDocument::new(&report, &after, price))
    } else {
        output.results(&output.path_lines(trees.iter().map(|tree| tree.path.as_path())))
    };
    let what = if trees.len() == 1 { "the worktree" } else { "the worktrees" };
    if is_named_later {
        // The caller has the paths now.
        name_behind(&store);
    }
    told.map_err(|failure| failure.but_stands(what, &trees))?;
    Ok(exit)
}

/// Says what the copies of a start will cost, if blocks cannot be shared. `known` is the size of
/// the last snapshot. Without one, the store takes a copy, too.
fn price(
    store: &calve::Store,
    project: &Path,
    at: Option<&Path>,
    (times, known): (u64, Option<CopyCost>),
    session: Session<'_>,
) -> Option<CopyCost> {
    // The default folder is on the store's filesystem.
    let folder = at.map_or_else(|| store.path().to_owned(), |at| session.common.resolve(at));
    let takes_in = known.is_none() && calve::must_copy(project, store.path());
    let cost = || known.unwrap_or_else(|| CopyCost::of_tree(project));
    let one = times == 1;
    let (copies, taker) = match (takes_in, calve::must_copy(store.path(), &folder)) {
        (true, true) if one => (times + 1, Taker::Copies("the store and the worktree will take")),
        (true, true) => (times + 1, Taker::Copies("the store and the worktrees will take")),
        (true, false) => (1, Taker::StoreOnce),
        (false, _) if one => (times, Taker::Copies("the worktree will take")),
        (false, _) => (times, Taker::Copies("the worktrees will take")),
    };
    let (from, to) = match (takes_in, calve::must_copy(store.path(), &folder)) {
        (true, false) => (project, store.path()),
        _ => (store.path(), &*folder),
    };
    let (line, cost) = filesystems::price((from, to), copies, taker, cost)?;
    session.output.warning(line);
    Some(cost)
}

fn start_failure(
    error: &calve::Error,
    (args, names): (&StartArgs, &[String]),
    store: &calve::Store,
) -> Failure {
    let failure = store_failure(error);
    let path = error.path();
    let hint = match (error.kind(), path.parent(), path.file_name()) {
        // The user gave a path instead of a name.
        (ErrorKind::InvalidName, Some(folder), Some(name)) if folder != Path::new("") => {
            let (folder, name) = (shell_word(folder), shell_word(Path::new(name)));
            let branch = shell_word(path);
            format!(
                "NAME cannot be a path; 'calve start -b {branch} {name}' gives the worktree a branch of this name, \
                 'calve start --at {folder} {name}' puts it into that folder"
            )
        }
        (ErrorKind::BranchExists, ..) => {
            let hint = taken_branch(error, args, names);
            match error.other_path().filter(|tree| is_of_nobody(tree, store)) {
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
    Failure { hint: Some(hint), ..failure }
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

/// Prints the findings and the summary of trees that calve made from the store.
fn tell_trees(
    trees: &[DestinationReport],
    elapsed: Duration,
    store: &calve::Store,
    session: Session<'_>,
) -> Exit {
    let findings = findings(trees, |_| false);
    session.output.warnings(&findings);
    session.output.summary(
        Summary {
            destinations: trees,
            elapsed,
            dry_run: false,
            verbose: session.output.verbose,
            filesystem: why_not_shared(store.path(), trees),
        }
        .text(),
    );
    if findings.is_empty() { Exit::Done } else { Exit::Findings }
}

/// Warns about files of new worktrees that still name the project.
fn tell_paths(worktrees: &[StartedWorktree], project: &Path, session: Session<'_>) {
    let first = worktrees.first().map_or(&[][..], |started| &started.mentions);
    session.output.warnings(&paths::warnings(first, project));
    let first = worktrees.first();
    if let Some(warning) =
        first.and_then(|started| paths::pnpm::warning(project, &started.report.path))
    {
        session.output.warning(warning);
    }
}

/// Prints what the user should know about the repositories of new worktrees.
fn tell_git(worktrees: &[StartedWorktree], session: Session<'_>) -> Exit {
    let output = session.output;
    let why = worktrees.iter().find_map(|started| match &started.git {
        GitOutcome::None(NoRepository::Linked) => Some(
            "the project's .git is a file or a link that leads to a repository elsewhere, and a copy of it would \
             change the project's index and branch",
        ),
        GitOutcome::None(NoRepository::WorksElsewhere) => {
            Some("core.worktree in the project's .git/config names another folder")
        }
        _ => None,
    });
    let not_linked = worktrees.iter().find_map(|started| started.not_linked.as_deref());
    let one = worktrees.len() == 1;
    match (why, not_linked) {
        (Some(why), _) => {
            let what = if one { "the worktree has" } else { "the worktrees have" };
            output.warning(format_args!("{what} no git repository: {why}"));
        }
        (None, Some(why)) => {
            let what = if one {
                "the worktree has a copy of the git repository and is not linked to it"
            } else {
                "the worktrees have copies of the git repository and are not linked to it"
            };
            output.warning(format_args!("{what}: {}", harmless(why)));
        }
        (None, None) => {}
    }
    for note in worktrees.first().map_or(&[][..], |started| &started.git_notes) {
        output.warning(harmless(note));
    }
    let copies = |started: &StartedWorktree| match &started.git {
        GitOutcome::Copied(report) => Some((**report).clone()),
        _ => None,
    };
    let copies: Vec<DestinationReport> = worktrees.iter().filter_map(copies).collect();
    let findings: Vec<String> =
        findings(&copies, |_| false).into_iter().map(|line| format!("in .git: {line}")).collect();
    output.warnings(&findings);
    if findings.is_empty() { Exit::Done } else { Exit::Findings }
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

pub(crate) fn restore(args: &RestoreArgs, session: Session<'_>) -> Result<Exit, Failure> {
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

pub(crate) fn path(args: &PathArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let failed = |error: calve::Error| store_failure(&error);
    let worktree = match args.project {
        true => session.store()?.project_worktree().map_err(failed)?,
        false => session.worktree(args.worktree.as_deref())?,
    };
    let state = worktree.state().map_err(|error| worktree_failure(&error, &worktree))?;
    if state == WorktreeState::Missing {
        return Err(missing(&worktree));
    }
    let output = session.output;
    if output.json {
        output.document(&WorktreeFields::new(&worktree))?;
    } else {
        output.results(&output.path_lines([worktree.path()]))?;
    }
    Ok(Exit::Done)
}

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
    fn look(&mut self, status: bool, session: Session<'_>) -> Result<(), calve::Error> {
        self.state = Some(self.worktree.state()?);
        if status && matches!(self.state, Some(WorktreeState::Ready | WorktreeState::Switching)) {
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

fn list_dropped(store: &calve::Store, output: Output) -> Result<Exit, Failure> {
    let dropped = store.dropped_worktrees().map_err(|error| store_failure(&error))?;
    if output.json {
        let dropped = dropped.iter().map(KeptDocument::new).collect();
        output.document(&ListDroppedDocument { dropped })?;
        return Ok(Exit::Done);
    }
    if dropped.is_empty() {
        output.summary("no dropped worktrees are kept");
    }
    let mut table =
        Table::new([Column::Name, Column::Left, Column::Left, Column::Left, Column::Path]);
    for kept in &dropped {
        table.row([
            Cell::from(harmless(&kept.name).into_owned()),
            text::age(kept.dropped.elapsed().unwrap_or_default()).into(),
            format!("until {}", text::utc(kept.until)).into(),
            kept.branch.as_deref().map_or_else(|| "-".into(), harmless).into_owned().into(),
            output.path(&kept.path).into(),
        ]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

pub(crate) fn list(args: &ListArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    let store = session.store()?;
    if args.dropped {
        return list_dropped(&store, output);
    }
    let worktrees = store.worktrees().map_err(|error| store_failure(&error))?;
    let mut exit = Exit::Done;
    let mut rows = Vec::new();
    for worktree in worktrees {
        let mut listed = Listed { worktree, state: None, changes: None, git: None, disk: None };
        match listed.look(args.status, session) {
            Err(error) if error.kind() == ErrorKind::Cancelled => {
                return Err(worktree_failure(&error, &listed.worktree));
            }
            // Another process dropped it in the meantime.
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => continue,
            // If calve cannot look at one worktree, it still lists the others.
            Err(error) => {
                let failure = worktree_failure(&error, &listed.worktree);
                let name = listed.worktree.name();
                output.warning(format_args!("{name}: {}", failure.message()));
                exit = Exit::Findings;
            }
            Ok(()) => {}
        }
        session.tell_registered_again(&listed.worktree);
        rows.push(listed);
    }
    exit = ask_git(&store, &mut rows, session, exit);
    if let Some(warning) = lost_store(&store)? {
        output.warning(warning);
        exit = Exit::Findings;
    }
    if args.disk && measure(&store, &mut rows, session)? {
        exit = Exit::Findings;
    }
    if output.json {
        let worktrees = rows.iter().map(ListedDocument::new).collect();
        output.document(&ListDocument { worktrees })?;
        return Ok(exit);
    }
    let mut columns = vec![Column::Name, Column::Left, Column::Left, Column::Left];
    columns.extend(args.status.then_some(Column::Left));
    columns.extend(args.disk.then_some(Column::Left));
    let has_git = rows.iter().any(|row| row.git.is_some());
    columns.extend(has_git.then_some([Column::Left; 2]).into_iter().flatten());
    columns.push(Column::Path);
    let mut table = Table::new(columns);
    for row in &rows {
        let id = row.worktree.snapshot().map_or_else(|| "-".to_owned(), short);
        let style = match row.state {
            Some(WorktreeState::Ready) => Style::new(),
            Some(WorktreeState::Starting | WorktreeState::Switching) => CAUTION,
            _ => BAD,
        };
        let mut cells = vec![
            harmless(row.worktree.name()).into_owned().into(),
            id.into(),
            text::age(row.worktree.created().elapsed().unwrap_or_default()).into(),
            Cell::from(state_name(row.state)).styled(style),
        ];
        cells.extend(args.status.then(|| match row.changes {
            Some(0) => Cell::from("clean"),
            Some(_) => Cell::from("changed").styled(CAUTION),
            None => Cell::from("-"),
        }));
        cells.extend(args.disk.then(|| match &row.disk {
            Some(disk) => {
                let (frees, all) = (disk.frees.expected, disk.apparent_bytes);
                Cell::from(format!("frees {} of {}", output.size(frees), output.size(all)))
            }
            None => Cell::from("-"),
        }));
        if has_git {
            cells.extend(git_cells(row.git.as_ref()));
        }
        cells.push(output.path(row.worktree.path()).into());
        table.row(cells);
    }
    if rows.is_empty() {
        output.summary("no worktrees: 'calve start NAME' makes one");
    }
    output.table(&table)?;
    Ok(exit)
}

/// The warning about worktrees of an earlier store.
fn lost_store(store: &calve::Store) -> Result<Option<String>, Failure> {
    let orphans = store.worktrees_of_lost_store().map_err(|error| store_failure(&error))?;
    let Some(first) = orphans.first().map(|path| shell_word(path)) else { return Ok(None) };
    let all: Vec<String> = orphans.iter().map(|path| shown(path)).collect();
    let (are, those) =
        if orphans.len() == 1 { ("is a worktree", "it") } else { ("are worktrees", "each") };
    Ok(Some(format!(
        "{} {are} of an earlier store of this project, which is gone: git still works in {those}; \
         'git worktree remove {first}' removes it, unless it has work that is not committed",
        all.join(", ")
    )))
}

/// Measures the worktrees that are there. Returns whether calve could not look at some files.
fn measure(
    store: &calve::Store,
    rows: &mut [Listed],
    session: Session<'_>,
) -> Result<bool, Failure> {
    let is_there = |row: &&mut Listed| {
        matches!(row.state, Some(WorktreeState::Ready | WorktreeState::Switching))
    };
    let mut rows: Vec<&mut Listed> = rows.iter_mut().filter(is_there).collect();
    let worktrees: Vec<Worktree> = rows.iter().map(|row| row.worktree.clone()).collect();
    let usage = du::measured(store, &worktrees, session)?;
    let found = du::warn_of_unreadable(&usage, session.output);
    for (row, tree) in rows.iter_mut().zip(usage.worktrees) {
        row.disk = Some(tree);
    }
    Ok(found)
}

/// Asks git about the worktrees that are there. If git fails for one, calve still lists the others.
fn ask_git(
    store: &calve::Store,
    rows: &mut [Listed],
    session: Session<'_>,
    mut exit: Exit,
) -> Exit {
    let is_there = |row: &&mut Listed| {
        matches!(row.state, Some(WorktreeState::Ready | WorktreeState::Switching))
    };
    let mut rows: Vec<&mut Listed> = rows.iter_mut().filter(is_there).collect();
    let worktrees: Vec<Worktree> = rows.iter().map(|row| row.worktree.clone()).collect();
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

/// The branch, and the differences from the project and from the last commit.
fn git_cells(git: Option<&GitStatus>) -> [Cell; 2] {
    let Some(git) = git else { return ["-".into(), "-".into()] };
    let branch = match (&git.branch, &git.commit) {
        (Some(branch), _) => harmless(branch).into_owned(),
        (None, Some(commit)) => format!("({})", commit.get(..10).unwrap_or(commit)),
        (None, None) => "-".to_owned(),
    };
    let numbers = [
        (git.ahead.unwrap_or(0), "", "ahead"),
        (git.behind.unwrap_or(0), "", "behind"),
        (git.changes, if git.has_more_changes { "+" } else { "" }, "changed"),
    ];
    let words: Vec<String> = numbers
        .iter()
        .filter(|(number, ..)| *number > 0)
        .map(|(number, more, word)| format!("{}{more} {word}", text::count(*number)))
        .collect();
    let style = if git.changes > 0 { CAUTION } else { Style::new() };
    let words = if words.is_empty() { "clean".to_owned() } else { words.join(", ") };
    [branch.into(), Cell::from(words).styled(style)]
}

fn state_name(state: Option<WorktreeState>) -> &'static str {
    match state {
        Some(WorktreeState::Ready) => "ready",
        Some(WorktreeState::Starting) => "starting",
        Some(WorktreeState::Switching) => "switching",
        Some(WorktreeState::Missing) => "missing",
        _ => "unknown",
    }
}

pub(crate) fn status(args: &StatusArgs, session: Session<'_>) -> Result<Exit, Failure> {
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

pub(crate) fn drop(args: &DropArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let current = std::env::current_dir();
    // If one of several worktrees cannot be dropped, calve drops none of them.
    let worktrees = droppable(args, session).map_err(|failure| match args.worktrees.len() {
        1 => failure,
        _ => failure.remarked("nothing was dropped"),
    })?;
    if args.dry_run {
        return would_drop(args, &worktrees, session);
    }
    let how = DropOptions::new()
        .force(args.force)
        .discard(args.discard)
        .delete_branch(args.delete_branch);
    let mut notes = Vec::new();
    let (mut told, mut problems) = (Vec::new(), Vec::new());
    let mut documents = Vec::new();
    let mut remains = Vec::new();
    let mut missing: Vec<Worktree> = Vec::new();
    let mut stores: Vec<calve::Store> = Vec::new();
    let mut failure = None;
    let mut names: Vec<String> =
        worktrees.iter().map(|worktree| worktree.name().to_owned()).collect();
    let mut stood_in = None;
    for worktree in worktrees {
        let (again, store) = (worktree.clone(), worktree.store().clone());
        match session.work(Total::Unknown, |options| worktree.drop(&how, options)) {
            Ok(dropped) => {
                documents.push(DroppedDocument::new(&again, &dropped));
                notes.extend(dropped_notes(&again, &dropped));
                told.extend(dropped.living().iter().map(|process| {
                    let (pid, command) = (process.pid, &process.command);
                    format!("process {pid} ({command}) works in {}, which is dropped", again.name())
                }));
                problems
                    .extend(dropped.problems().iter().map(|error| store_failure(error).message()));
                if dropped.was_missing() {
                    missing.push(again.clone());
                } else {
                    remains.push(dropped);
                }
            }
            Err(error) => {
                failure = Some(worktree_failure(&error, &again));
                break;
            }
        }
        if current.as_ref().is_ok_and(|current| current.starts_with(again.path())) {
            stood_in = store.project().ok();
        }
        if stores.iter().all(|other| other.path() != store.path()) {
            stores.push(store);
        }
    }
    trash::empty_behind(&stores, remains, session.output);
    for line in told.iter().chain(&problems) {
        session.output.warning(line);
    }
    let left = names.split_off(documents.len());
    let listed = |names: &[String]| harmless(&names.join(", ")).into_owned();
    let output = session.output;
    if let Some(failure) = failure {
        return Err(match (names.as_slice(), left.as_slice()) {
            ([], [_]) => failure,
            ([], _) => failure.remarked("nothing was dropped"),
            (dropped, left) => {
                let (dropped, left) = (listed(dropped), listed(left));
                failure.remarked(&format!("dropped by then: {dropped}; not dropped: {left}"))
            }
        });
    }
    names.retain(|name| missing.iter().all(|worktree| worktree.name() != name));
    if !names.is_empty() {
        output.summary(format_args!("dropped {}", listed(&names)));
    }
    for worktree in &missing {
        output.summary(forgot(worktree));
    }
    for note in notes {
        output.summary(note);
    }
    if let Some(project) = stood_in {
        output.summary(format_args!(
            "the current folder was dropped, too: cd {}",
            shell_word(&project)
        ));
    }
    if output.json {
        output.document(&DropDocument { dropped: documents })?;
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Findings })
}

/// Says what a drop of these worktrees would free.
fn would_drop(
    args: &DropArgs,
    worktrees: &[Worktree],
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let output = session.output;
    let mut stores: Vec<calve::Store> = Vec::new();
    for worktree in worktrees {
        if stores.iter().all(|store| store.path() != worktree.store().path()) {
            stores.push(worktree.store().clone());
        }
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
            let names: Vec<&str> = those.iter().map(Worktree::name).collect();
            let (names, freed) = (harmless(&names.join(", ")).into_owned(), usage.frees);
            if !names.is_empty() {
                let freed = du::freed(freed, output);
                output.summary(format_args!("would drop {names}, which frees {freed}{how}"));
            }
            if !names.is_empty() && !how.is_empty() {
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
    if output.json {
        output.document(&DryDropDocument { dropped: [], would_drop: documents })?;
    }
    Ok(exit)
}

/// Whether a forced drop would keep a worktree's files for a while.
fn would_be_kept(worktree: &Worktree, session: Session<'_>) -> Result<bool, Failure> {
    match session.work(Total::Unknown, |options| worktree.must_lose_nothing(options)) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::Cancelled => {
            Err(worktree_failure(&error, worktree))
        }
        // A process in it is no reason to keep its files.
        Err(error) => Ok(error.kind() != ErrorKind::Busy),
    }
}

/// What became of the commits and the branch of a dropped worktree.
fn dropped_notes(worktree: &Worktree, dropped: &DroppedWorktree) -> Vec<String> {
    let name = harmless(worktree.name());
    let until = dropped.can_be_restored_until().map(|until| {
        let word = harmless(&shell_word(Path::new(worktree.name()))).into_owned();
        format!(
            "the changes of {name} are kept until {}: 'calve restore --dropped {word}' brings it back",
            text::utc(until)
        )
    });
    let kept = dropped.kept().iter().map(|reference| {
        format!(
            "the commits of {name} are kept: 'git branch NEW {reference}' makes a branch of them"
        )
    });
    let in_submodules = dropped.kept_in_submodules().iter().map(|(repository, reference)| {
        let repository = shell_word(repository);
        format!(
            "commits in a submodule of {name} are kept: 'git --git-dir={repository} branch NEW {reference}' makes a branch of them"
        )
    });
    let branch = dropped.deleted_branch().map(|branch| {
        let branch = harmless(branch);
        format!("deleted the branch {branch}")
    });
    until.into_iter().chain(kept).chain(in_submodules).chain(branch).collect()
}

/// The message about a worktree that was missing: calve forgot it, and deleted no files.
fn forgot(worktree: &Worktree) -> String {
    let (name, path) = (harmless(worktree.name()), shown(worktree.path()));
    match worktree.path().symlink_metadata() {
        Ok(_) => format!("forgot {name}: {path} is not this worktree, so calve left it there"),
        Err(_) => format!("forgot {name}: nothing is at {path}, so calve deleted no files"),
    }
}

/// The worktrees to drop, each once. Fails if one of them cannot be dropped. A worktree inside
/// another one comes before it.
fn droppable(args: &DropArgs, session: Session<'_>) -> Result<Vec<Worktree>, Failure> {
    let mut worktrees: Vec<Worktree> = Vec::new();
    for word in &args.worktrees {
        let worktree = session.worktree(Some(word))?;
        if worktree.is_project() {
            let store = shell_word(worktree.store().path());
            return Err(own(
                "drop",
                worktree.path(),
                ErrorKind::InvalidName,
                "it is the project itself",
                format!("to delete all its snapshots, run: rm -r {store}"),
            ));
        }
        if worktrees.iter().all(|other| other.path() != worktree.path()) {
            worktrees.push(worktree);
        }
    }
    if worktrees.len() == 1 && !args.dry_run {
        // A single drop reports by itself why the worktree stays.
        return Ok(worktrees);
    }
    worktrees.sort_by_key(|worktree| Reverse(worktree.path().components().count()));
    for worktree in &worktrees {
        let state = worktree.state().map_err(|error| worktree_failure(&error, worktree))?;
        if state == WorktreeState::Missing {
            continue;
        }
        let others = worktree.store().worktrees().map_err(|error| store_failure(&error))?;
        let inside: Vec<PathBuf> = others
            .iter()
            .filter(|other| other.path().starts_with(worktree.path()))
            .filter(|other| worktrees.iter().all(|known| known.path() != other.path()))
            .map(|other| other.path().to_owned())
            .collect();
        if !inside.is_empty() {
            return Err(holding(worktree, inside));
        }
        if args.force {
            continue;
        }
        session
            .work(Total::Unknown, |options| worktree.must_lose_nothing(options))
            .map_err(|error| worktree_failure(&error, worktree))?;
    }
    Ok(worktrees)
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

/// The JSON document of `start`; docs/json.md says what each field of these means.
#[derive(Serialize)]
struct StartDocument<'a> {
    snapshot: Option<String>,
    files: u64,
    bytes: u64,
    taken: Option<SnapshotDocument>,
    registered: bool,
    written_files: Option<u64>,
    expected_copies: Option<CostDocument>,
    worktrees: Vec<StartedDocument<'a>>,
    elapsed_seconds: f64,
}

/// One worktree that was made; also the JSON document of `restore`.
#[derive(Serialize)]
struct StartedDocument<'a> {
    name: &'a str,
    #[serde(flatten)]
    tree: DestinationDocument,
    git: &'static str,
    no_git_because: Option<&'static str>,
    not_linked_because: Option<&'a str>,
    git_notes: &'a [String],
    branch: Option<&'a str>,
    commit: Option<&'a str>,
    repository: Option<DestinationDocument>,
    after_start: Option<i32>,
    mentions: Vec<MentionDocument>,
}

impl<'a> StartedDocument<'a> {
    fn new(started: &'a StartedWorktree, after_start: Option<i32>) -> Self {
        let (git, no_git_because, repository) = match &started.git {
            GitOutcome::Linked(_) => ("linked", None, None),
            GitOutcome::Copied(report) => ("copy", None, Some(DestinationDocument::new(report))),
            GitOutcome::None(why) => ("none", Some(no_git_because(*why)), None),
            _ => ("other", None, None),
        };
        let (branch, commit) = match &started.git {
            GitOutcome::Linked(linked) => (linked.branch.as_deref(), Some(linked.commit.as_str())),
            _ => (None, None),
        };
        Self {
            name: &started.name,
            tree: DestinationDocument::new(&started.report),
            git,
            no_git_because,
            not_linked_because: started.not_linked.as_deref(),
            git_notes: &started.git_notes,
            branch,
            commit,
            repository,
            after_start,
            mentions: MentionDocument::all(&started.mentions),
        }
    }
}

/// The name that the JSON output uses.
fn no_git_because(why: NoRepository) -> &'static str {
    match why {
        NoRepository::NotWanted => "not_wanted",
        NoRepository::NotThere => "not_there",
        NoRepository::Linked => "linked",
        NoRepository::WorksElsewhere => "works_elsewhere",
        _ => "other",
    }
}

impl<'a> StartDocument<'a> {
    /// `after` has the exit codes of the command that ran in each worktree, if there is such a
    /// command.
    fn new(report: &'a StartReport, after: &[Option<i32>], price: Option<CopyCost>) -> Self {
        let codes = after.iter().copied().chain(std::iter::repeat(None));
        let documents = report.worktrees.iter().zip(codes);
        let first = report.worktrees.first();
        Self {
            snapshot: report.snapshot.map(|id| id.to_string()),
            files: first.map_or(0, |started| started.files),
            bytes: first.map_or(0, |started| started.bytes),
            taken: report.taken.as_ref().map(SnapshotDocument::new),
            registered: report.registered,
            written_files: report.written_files,
            expected_copies: price.map(CostDocument::new),
            worktrees: documents.map(|(it, code)| StartedDocument::new(it, code)).collect(),
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct ListDocument {
    worktrees: Vec<ListedDocument>,
}

#[derive(Serialize)]
struct ListedDocument {
    name: String,
    #[serde(flatten)]
    path: PathFields,
    snapshot: Option<String>,
    state: &'static str,
    changes: Option<u64>,
    created: String,
    git: Option<GitDocument>,
    disk: Option<BytesDocument>,
}

/// The answer of git about a worktree.
#[derive(Serialize)]
struct GitDocument {
    linked: bool,
    branch: Option<String>,
    commit: Option<String>,
    ahead: Option<u64>,
    behind: Option<u64>,
    changes: u64,
    has_more_changes: bool,
}

impl GitDocument {
    fn new(status: &GitStatus) -> Self {
        Self {
            linked: status.is_linked,
            branch: status.branch.clone(),
            commit: status.commit.clone(),
            ahead: status.ahead,
            behind: status.behind,
            changes: status.changes,
            has_more_changes: status.has_more_changes,
        }
    }
}

impl ListedDocument {
    fn new(row: &Listed) -> Self {
        Self {
            name: row.worktree.name().to_owned(),
            path: PathFields::new(row.worktree.path()),
            snapshot: row.worktree.snapshot().map(|id| id.to_string()),
            state: state_name(row.state),
            changes: row.changes,
            created: text::utc(row.worktree.created()),
            git: row.git.as_ref().map(GitDocument::new),
            disk: row.disk.as_ref().map(BytesDocument::new),
        }
    }
}

/// The worktree that a document is about.
#[derive(Serialize)]
pub(crate) struct WorktreeFields {
    /// `None` for the project.
    name: Option<String>,
    #[serde(flatten)]
    path: PathFields,
}

impl WorktreeFields {
    pub(crate) fn new(worktree: &Worktree) -> Self {
        let name = (!worktree.is_project()).then(|| worktree.name().to_owned());
        Self { name, path: PathFields::new(worktree.path()) }
    }
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

#[derive(Serialize)]
struct DropDocument {
    dropped: Vec<DroppedDocument>,
}

/// The JSON document of `drop --dry-run`: what would be dropped, by store.
#[derive(Serialize)]
struct DryDropDocument {
    dropped: [DroppedDocument; 0],
    would_drop: Vec<WouldFreeDocument>,
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

#[derive(Serialize)]
struct DroppedDocument {
    name: String,
    #[serde(flatten)]
    path: PathFields,
    missing: bool,
    kept_until: Option<String>,
    kept: Vec<String>,
    kept_in_submodules: Vec<KeptInSubmodule>,
    deleted_branch: Option<String>,
    problems: Vec<String>,
    living: Vec<LivingDocument>,
}

#[derive(Serialize)]
struct LivingDocument {
    pid: u32,
    command: String,
}

#[derive(Serialize)]
struct KeptInSubmodule {
    #[serde(flatten)]
    repository: PathFields,
    reference: String,
}

/// The JSON document of `list --dropped`.
#[derive(Serialize)]
struct ListDroppedDocument {
    dropped: Vec<KeptDocument>,
}

#[derive(Serialize)]
struct KeptDocument {
    name: String,
    #[serde(flatten)]
    path: PathFields,
    snapshot: Option<String>,
    branch: Option<String>,
    dropped: String,
    until: String,
}

impl KeptDocument {
    fn new(kept: &KeptWorktree) -> Self {
        Self {
            name: kept.name.clone(),
            path: PathFields::new(&kept.path),
            snapshot: kept.snapshot.map(|id| id.to_string()),
            branch: kept.branch.clone(),
            dropped: text::utc(kept.dropped),
            until: text::utc(kept.until),
        }
    }
}

impl DroppedDocument {
    fn new(worktree: &Worktree, dropped: &DroppedWorktree) -> Self {
        Self {
            name: worktree.name().to_owned(),
            path: PathFields::new(worktree.path()),
            missing: dropped.was_missing(),
            kept_until: dropped.can_be_restored_until().map(text::utc),
            kept: dropped.kept().to_vec(),
            kept_in_submodules: dropped
                .kept_in_submodules()
                .iter()
                .map(|(repository, reference)| KeptInSubmodule {
                    repository: PathFields::new(repository),
                    reference: reference.clone(),
                })
                .collect(),
            deleted_branch: dropped.deleted_branch().map(str::to_owned),
            problems: dropped.problems().iter().map(|it| store_failure(it).message()).collect(),
            living: dropped
                .living()
                .iter()
                .map(|it| LivingDocument { pid: it.pid, command: it.command.clone() })
                .collect(),
        }
    }
}

//! `calve init`, `snapshot`, `log`, `show`, `name`.

use std::path::{Path, PathBuf};

use calve::{
    CopyCost, ErrorKind, SkipReason, Skipped, Snapshot, SnapshotId, SnapshotLog, SnapshotOptions,
    SnapshotReport, Store, Worktree,
};
use serde::Serialize;

use crate::args::{InitArgs, LogArgs, Naming, ShowArgs, SnapshotArgs};
use crate::clone::{SkippedDocument, finding};
use crate::exit::Exit;
use crate::failure::stored::{own, store_failure, store_flag, worktree_failure};
use crate::failure::{Failure, Kind};
use crate::filesystems::{self, Copies, CostDocument, Taker};
use crate::output::{Output, PathFields, document};
use crate::paths::tell_living;
use crate::places;
use crate::progress::Total;
use crate::session::Session;
use crate::store::DamageDocument;
use crate::table::{Cell, Column, Table};
use crate::text::{self, count, counted, harmless, short, shown};

pub(crate) fn init(args: &InitArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let project = session.common.resolve(args.root.as_deref().unwrap_or(Path::new(".")));
    if !args.force {
        places::must_be_meant(&project)?;
    }
    let at = match on_volume(args, &project, session)? {
        Some(at) => Some(at),
        None => session.common.store(),
    };
    let made = match &at {
        Some(at) => Store::init_at(&project, at),
        None => Store::init(&project),
    };
    let is_new = made.is_ok();
    let (store, what) = match made {
        Ok(store) => (store, "made a store for".to_owned()),
        // A second `init` is no error: there is nothing left to do.
        Err(error) if error.kind() == ErrorKind::StoreExists => {
            // A file in the project says where the store is. If calve may not write it,
            // `point_project` fails.
            let (store, was) = match &at {
                None => Store::discover(&project)
                    .and_then(|found| Ok((found.take_project()?, found.store)))
                    .map(|(was, store)| (store, was)),
                Some(_) => Store::open(error.path()).map(|store| (store, None)),
            }?;
            let of = store.project()?;
            let is_named = at.as_deref().is_none_or(|at| is_same(at, store.path()));
            if std::fs::canonicalize(&project).ok() != Some(of) || !is_named {
                return Err(store_failure(&error));
            }
            store.point_project()?;
            let what = match was {
                Some(was) => format!("{} is gone, and its store is now that of", shown(&was)),
                None => "nothing to do: there is already a store for".to_owned(),
            };
            (store, what)
        }
        Err(error) => return Err(error.into()),
    };
    let project = store.project()?;
    let output = session.output;
    let is_found = Store::discover(&project).is_ok_and(|found| found.store.path() == store.path());
    let named = store_flag(store.path(), is_found);
    output.summary(format_args!(
        "{what} {}: 'calve{named} start NAME' makes a worktree",
        shown(&project)
    ));
    if is_new && let Some(line) = places::not_in_git(&store) {
        output.summary(line);
    }
    if is_new && let Some(warning) = places::on_one_machine(&store) {
        output.warning(warning);
    }
    if let Some(warning) = places::inside_repository(&project) {
        output.warning(warning);
    }
    let price = match is_new {
        true => price(&project, &store, output),
        false => None,
    };
    if output.json {
        output.document(&InitDocument::new(store.path(), &project, price))?;
    } else {
        output.results(&output.path_lines([store.path()]))?;
    }
    Ok(Exit::Done)
}

/// The folder of the store if the store goes to a volume.
#[cfg(target_os = "linux")]
fn on_volume(
    args: &InitArgs,
    project: &Path,
    session: Session<'_>,
) -> Result<Option<PathBuf>, Failure> {
    let Some(volume) = &args.volume else {
        if let Some(store) = session.common.store() {
            crate::volume::store::must_be_mounted("make store", &store)?;
        }
        return Ok(None);
    };
    let inside = [".calve", ".git/calve"].map(|folder| project.join(folder));
    if let Some(own_store) = inside.iter().find(|store| Store::open(store).is_ok()) {
        let why = "the project has a store inside already";
        let hint = format!(
            "drop its worktrees, and remove it with all its snapshots: rm -rf {}",
            text::shell_word(own_store)
        );
        return Err(own("make store for", project, ErrorKind::StoreExists, why, hint));
    }
    crate::volume::store::store_on(&session.common.resolve(volume), project).map(Some)
}

#[cfg(not(target_os = "linux"))]
fn on_volume(_: &InitArgs, _: &Path, _: Session<'_>) -> Result<Option<PathBuf>, Failure> {
    Ok(None)
}

/// Says what the first start will copy, if blocks cannot be shared.
fn price(project: &Path, store: &Store, output: Output) -> Option<CopyCost> {
    let taker = match calve::must_copy(store.path(), store.path()) {
        true => Taker::Copies("the store, and each worktree, will take"),
        false => Taker::StoreOnce,
    };
    let cost = || CopyCost::of_tree(project);
    let (line, cost) = Copies { from: project, to: store.path(), number: 1, taker }.price(cost)?;
    output.warning(line);
    Some(cost)
}

fn is_same(one: &Path, other: &Path) -> bool {
    std::fs::canonicalize(one).is_ok_and(|one| one == other)
}

pub(crate) fn snapshot(args: &SnapshotArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let worktree = &session.worktree(args.of.as_deref())?;
    // The next snapshot has about as many files as the last one, so nobody has to count them.
    let total = match worktree.snapshot() {
        Some(_) => Total::Unknown,
        None => Total::Tree { root: worktree.path(), times: 1, own: true },
    };
    let mut taking = SnapshotOptions::new();
    if let Some(message) = &args.message {
        taking = taking.message(message);
    }
    if let Some(name) = &args.name {
        taking = taking.name(name);
    }
    let had_name = args.name.as_deref().and_then(|name| named(worktree.store(), name));
    let report = session
        .work(total, |options| worktree.capture(&taking, options))
        .map_err(|error| worktree_failure(&error, worktree))?;
    let output = session.output;
    let exit = tell_skipped(&report.skipped, session);
    if let Some(name) = &args.name {
        session.warn_of_namesake(worktree.store(), name, report.id);
        warn_of_worktree(worktree, name, output);
        tell_unnamed(name, had_name, report.id, output);
    }
    output.summary(taken(&report, worktree.path(), worktree.store().path(), output));
    let told = if output.json {
        output.document(&SnapshotDocument::new(&report))
    } else {
        output.results(format!("{}\n", report.id).as_bytes())
    };
    told.map_err(|failure| match failure.kind {
        Kind::Output => failure.hinted(format!("the snapshot was taken and stays: {}", report.id)),
        _ => failure,
    })?;
    Ok(exit)
}

/// Warns if the snapshot got the name of another worktree, which the user may have meant.
fn warn_of_worktree(worktree: &Worktree, name: &str, output: Output) {
    if worktree.name() != name && worktree.store().worktree(name).is_ok() {
        let tree = if worktree.is_project() { "the project" } else { worktree.name() };
        let (name, word) = (harmless(name), text::shell_word(Path::new(name)));
        output.warning(format_args!(
            "this is a snapshot of {}, and {name} is a worktree as well: 'calve snapshot --of {}' records the worktree",
            harmless(tree),
            harmless(&word)
        ));
    }
}

/// The snapshot that has a name. An id is no name.
fn named(store: &Store, name: &str) -> Option<SnapshotId> {
    let id = store.resolve(name).ok()?;
    let is_id = store.ids_that_start_with(name).is_ok_and(|ids| ids.contains(&id));
    (!is_id).then_some(id)
}

/// Says which snapshot lost its name to another one: `store gc --expire` deletes it one day.
fn tell_unnamed(name: &str, was: Option<SnapshotId>, now: SnapshotId, output: Output) {
    if let Some(was) = was.filter(|was| *was != now) {
        output.summary(format_args!(
            "{} was the name of snapshot {was} until now: 'calve name {} OTHER' gives that one another name",
            harmless(name),
            short(was)
        ));
    }
}

/// Prints what a snapshot or a comparison leaves out, as findings.
pub(crate) fn tell_skipped(skipped: &[Skipped], session: Session<'_>) -> Exit {
    tell_living(skipped, session.output);
    let stays = |skipped: &&Skipped| matches!(skipped.reason, SkipReason::Living(_));
    let others = skipped.iter().filter(|skipped| !stays(skipped));
    let lines: Vec<String> =
        others.map(|skipped| finding(&skipped.path, &skipped.reason)).collect();
    session.output.warnings(&lines)
}

/// The summary of a snapshot, in one line.
pub(crate) fn taken(report: &SnapshotReport, tree: &Path, store: &Path, output: Output) -> String {
    let size = |bytes| output.size(bytes);
    let files = counted(report.files, "file");
    let mut line = if report.new {
        format!("snapshot {}: {files} ({})", short(report.id), size(report.bytes))
    } else {
        format!("unchanged since snapshot {}: {files} ({})", short(report.id), size(report.bytes))
    };
    line.push_str(&format!(", {} read ({})", count(report.read_files), size(report.read_bytes)));
    if report.cloned_files > 0 {
        line.push_str(&format!(", {} reflinked", counted(report.cloned_files, "new content")));
    }
    if report.copied_files > 0 {
        line.push_str(&format!(
            ", {} copied ({})",
            counted(report.copied_files, "new content"),
            size(report.copied_bytes)
        ));
    }
    line.push_str(&format!(", {}", text::duration(report.elapsed)));
    if report.copied_files > report.cloned_files
        && let Some(why) = filesystems::why_not_between(tree, store)
    {
        // If the store is elsewhere, the user put it there because of the copies.
        if store.starts_with(tree) {
            line.push_str(&format!(": {why}; 'calve doctor' says how to change that"));
        } else {
            line.push_str(&format!(": {why}, so the store has a copy of each content"));
        }
    }
    line
}

pub(crate) fn log(args: &LogArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let mut log = session.store()?.log()?;
    log.snapshots.truncate(args.count.unwrap_or(usize::MAX));
    let output = session.output;
    let exit = tell_damage(&log, session);
    if output.json {
        let snapshots = log.snapshots.iter().map(SnapshotFields::new).collect();
        let damage = log.damage.iter().map(DamageDocument::new).collect();
        output.document(&LogDocument { snapshots, damage })?;
    } else {
        if log.snapshots.is_empty() {
            output.summary("no snapshots: 'calve snapshot' takes one");
        }
        let origins: Vec<String> = log.snapshots.iter().map(origin).collect();
        let has_origins = origins.iter().any(|origin| !origin.is_empty());
        let mut columns = vec![Column::Left, Column::Left, Column::Right];
        columns.extend(has_origins.then_some(Column::Left));
        columns.push(Column::Text);
        let mut table = Table::new(columns);
        for (snapshot, origin) in log.snapshots.iter().zip(origins) {
            let mut cells = cells(snapshot, output).map(Cell::from).to_vec();
            if has_origins {
                cells.insert(3, origin.into());
            }
            table.row(cells);
        }
        output.table(&table)?;
    }
    Ok(exit)
}

/// Prints the snapshots that cannot be read, as findings. The readable ones are still listed.
fn tell_damage(log: &SnapshotLog, session: Session<'_>) -> Exit {
    let lines: Vec<String> =
        log.damage.iter().map(|damage| harmless(&damage.reason).into_owned()).collect();
    session.output.warnings(&lines)
}

/// The tree that the snapshot was taken of: the worktree, with its branch if the branch has another
/// name. For the project, the branch.
fn origin(snapshot: &Snapshot) -> String {
    let origin = match (&snapshot.worktree, &snapshot.branch) {
        (Some(worktree), Some(branch)) if worktree != branch => format!("{worktree} ({branch})"),
        (Some(worktree), _) => worktree.clone(),
        (None, Some(branch)) => format!("({branch})"),
        (None, None) => String::new(),
    };
    harmless(&origin).into_owned()
}

fn cells(snapshot: &Snapshot, output: Output) -> [String; 4] {
    let id = if output.verbose { snapshot.id.to_string() } else { short(snapshot.id) };
    let size = format!("{} ({})", counted(snapshot.files, "file"), output.size(snapshot.bytes));
    let names = match snapshot.names.is_empty() {
        true => String::new(),
        false => format!("[{}]  ", harmless(&snapshot.names.join(", "))),
    };
    let message = harmless(snapshot.message.lines().next().unwrap_or_default());
    let told = format!("{names}{message}").trim_end().to_owned();
    [id, text::utc(snapshot.created), size, told]
}

pub(crate) fn show(args: &ShowArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let (store, id) = match &args.snapshot {
        Some(word) => {
            let store = session.store()?;
            let id = session.resolve(&store, word)?;
            (store, id)
        }
        None => session.snapshot_here()?,
    };
    let snapshot = store.show(id)?;
    let output = session.output;
    if output.json {
        output.document(&SnapshotFields::new(&snapshot))?;
    } else {
        output.results(shown_whole(&snapshot).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn shown_whole(snapshot: &Snapshot) -> String {
    let mut text = format!("snapshot  {}\n", snapshot.id);
    if let Some(parent) = snapshot.parent {
        text.push_str(&format!("parent    {parent}\n"));
    }
    if !snapshot.names.is_empty() {
        text.push_str(&format!("names     {}\n", harmless(&snapshot.names.join(", "))));
    }
    text.push_str(&format!("created   {}\n", text::utc(snapshot.created)));
    if let Some(worktree) = &snapshot.worktree {
        text.push_str(&format!("worktree  {}\n", harmless(worktree)));
    }
    if let Some(branch) = &snapshot.branch {
        text.push_str(&format!("branch    {}\n", harmless(branch)));
    }
    text.push_str(&format!(
        "holds     {} ({}) among {}\n",
        counted(snapshot.files, "file"),
        text::exact_bytes(snapshot.bytes),
        counted(snapshot.entries, "entry")
    ));
    for (index, line) in snapshot.message.lines().enumerate() {
        let head = if index == 0 { "message   " } else { "          " };
        text.push_str(&format!("{head}{}\n", harmless(line)));
    }
    text
}

pub(crate) fn name(naming: Naming<'_>, session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    let output = session.output;
    match naming {
        Naming::Set { snapshot, name } => {
            let id = session.resolve(&store, snapshot)?;
            let had_name = named(&store, name);
            store.set_name(name, id)?;
            tell_unnamed(name, had_name, id, output);
            session.warn_of_namesake(&store, name, id);
            output.summary(format_args!(
                "{} is now the name of snapshot {}",
                harmless(name),
                short(id)
            ));
            if output.json {
                output.document(&NameDocument { name, snapshot: Some(id.to_string()) })?;
            }
        }
        Naming::Delete(name) => {
            if !store.remove_name(name)? {
                return Err(own(
                    "delete name",
                    Path::new(name),
                    calve::ErrorKind::SnapshotNotFound,
                    "no snapshot has this name",
                    "'calve name' lists the names",
                ));
            }
            output.summary(format_args!("deleted the name {}; its snapshot stays", harmless(name)));
            if output.json {
                output.document(&NameDocument { name, snapshot: None })?;
            }
        }
        Naming::List => {
            let log = store.log()?;
            let exit = tell_damage(&log, session);
            let mut names: Vec<(&str, String)> = log
                .snapshots
                .iter()
                .flat_map(|snapshot| {
                    snapshot.names.iter().map(|name| (name.as_str(), snapshot.id.to_string()))
                })
                .collect();
            names.sort_unstable();
            if output.json {
                let names: Vec<NameDocument<'_>> = names
                    .into_iter()
                    .map(|(name, id)| NameDocument { name, snapshot: Some(id) })
                    .collect();
                output.document_of("names", &names)?;
            } else {
                if names.is_empty() {
                    output.summary("no names: 'calve name SNAPSHOT NAME' gives one");
                }
                let mut table = Table::new([Column::Name, Column::Left]);
                for (name, id) in names {
                    table.row([harmless(name).into_owned().into(), id.into()]);
                }
                output.table(&table)?;
            }
            return Ok(exit);
        }
    }
    Ok(Exit::Done)
}

document! {
    /// The JSON document of `init`; docs/json.md says what each field of these means.
    struct InitDocument(store: &Path, project: &Path, price: Option<CopyCost>) {
        #[serde(flatten)]
        store: PathFields = PathFields::named("store", store),
        #[serde(flatten)]
        project: PathFields = PathFields::named("project", project),
        expected_copies: Option<CostDocument> = price.map(CostDocument::new),
    }
}

document! {
    /// The JSON document of `snapshot`.
    pub(crate) struct SnapshotDocument(report: &SnapshotReport) {
        snapshot: String = report.id.to_string(),
        new: bool = report.new,
        files: u64 = report.files,
        bytes: u64 = report.bytes,
        read_files: u64 = report.read_files,
        read_bytes: u64 = report.read_bytes,
        reflinked_files: u64 = report.cloned_files,
        copied_files: u64 = report.copied_files,
        copied_bytes: u64 = report.copied_bytes,
        skipped: Vec<SkippedDocument> = report.skipped.iter().map(SkippedDocument::new).collect(),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

#[derive(Serialize)]
struct LogDocument {
    snapshots: Vec<SnapshotFields>,
    damage: Vec<DamageDocument>,
}

document! {
    /// One snapshot, and the JSON document of `show`.
    struct SnapshotFields(snapshot: &Snapshot) {
        snapshot: String = snapshot.id.to_string(),
        parent: Option<String> = snapshot.parent.map(|id| id.to_string()),
        names: Vec<String> = snapshot.names.clone(),
        created: String = text::utc(snapshot.created),
        message: String = snapshot.message.clone(),
        worktree: Option<String> = snapshot.worktree.clone(),
        branch: Option<String> = snapshot.branch.clone(),
        entries: u64 = snapshot.entries,
        files: u64 = snapshot.files,
        bytes: u64 = snapshot.bytes,
    }
}

#[derive(Serialize)]
struct NameDocument<'a> {
    name: &'a str,
    snapshot: Option<String>,
}

//! `calve du`, and the disk usage in `list --disk` and `drop --dry-run`.

use std::path::PathBuf;

use calve::{DiskUsage, ErrorKind, FreedBytes, Store, TreeUsage, Worktree, WorktreeState};

use crate::args::DuArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{store_failure, worktree_failure};
use crate::output::{Output, PathFields, document};
use crate::progress::Total;
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{count, counted, duration, harmless};

pub(crate) fn run(args: &DuArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    let all = args.worktrees.is_empty();
    let (store, mut worktrees) = named_or_all(&args.worktrees, session)?;
    let with_project = all || worktrees.iter().any(Worktree::is_project);
    worktrees.retain(|worktree| !worktree.is_project());
    let usage = measured(&store, &worktrees, session)?;
    let exit = match warn_of_unreadable(&usage, output) {
        true => Exit::Findings,
        false => Exit::Done,
    };
    if output.json {
        output.document(&Document::new(&worktrees, &usage))?;
        return Ok(exit);
    }
    let mut rows: Vec<(String, &TreeUsage)> = worktrees
        .iter()
        .zip(&usage.worktrees)
        .map(|(worktree, usage)| (harmless(worktree.name()).into_owned(), usage))
        .collect();
    rows.extend(with_project.then(|| ("(project)".to_owned(), &usage.project)));
    rows.extend(all.then(|| ("(store)".to_owned(), &usage.store)));
    output.table(&table(&rows, output))?;
    if !worktrees.is_empty() {
        let what = match worktrees.as_slice() {
            [_] => "a drop of it".to_owned(),
            several => {
                format!("a drop of these {} together", counted(several.len() as u64, "worktree"))
            }
        };
        let took = duration(usage.elapsed);
        output.summary(format_args!("{what} would free {}, {took}", freed(usage.frees, output)));
    }
    Ok(exit)
}

/// The trees that the words name, each once, and the store of the first. Without words: the
/// worktrees of the store that are there.
pub(super) fn named_or_all(
    words: &[PathBuf],
    session: Session<'_>,
) -> Result<(Store, Vec<Worktree>), Failure> {
    if words.is_empty() {
        let store = session.store()?;
        let mut worktrees = store.worktrees()?;
        worktrees.retain(is_there);
        return Ok((store, worktrees));
    }
    let worktrees = session.worktrees(words)?;
    Ok((worktrees[0].store().clone(), worktrees))
}

/// A worktree without a folder takes no space.
pub(crate) fn is_there(worktree: &Worktree) -> bool {
    matches!(worktree.state(), Ok(WorktreeState::Ready | WorktreeState::Restoring))
}

/// Measures worktrees of one store.
pub(crate) fn measured(
    store: &Store,
    worktrees: &[Worktree],
    session: Session<'_>,
) -> Result<DiskUsage, Failure> {
    session.work(Total::Unknown, |options| store.disk_usage(worktrees, options)).map_err(|error| {
        let missing = |worktree: &&Worktree| worktree.path() == error.path();
        match worktrees.iter().find(missing) {
            Some(worktree) if error.kind() == ErrorKind::WorktreeMissing => {
                worktree_failure(&error, worktree)
            }
            _ => store_failure(&error),
        }
    })
}

fn trees(usage: &DiskUsage) -> impl Iterator<Item = &TreeUsage> {
    usage.worktrees.iter().chain([&usage.project, &usage.store])
}

/// Warns if calve could not read some files. Returns whether it could not.
pub(crate) fn warn_of_unreadable(usage: &DiskUsage, output: Output) -> bool {
    let unreadable: u64 = trees(usage).map(|tree| tree.unreadable).sum();
    if unreadable > 0 {
        let entries = if unreadable == 1 { "entry" } else { "entries" };
        let number = count(unreadable);
        output.warning(format_args!(
            "calve may not read {number} {entries}: it counts such a file as unique, and leaves such a folder out"
        ));
    }
    unreadable > 0
}

/// `about 1.2 GB`, `about 1.2 GB, at least 1.0 GB`.
pub(crate) fn freed(frees: FreedBytes, output: Output) -> String {
    let expected = output.size(frees.expected);
    // A difference below a tenth is noise: the filesystem's own structures vary that much.
    if frees.expected - frees.least.min(frees.expected) <= frees.expected / 10 && !output.verbose {
        return format!("about {expected}");
    }
    format!("about {expected}, at least {}", output.size(frees.least))
}

fn table(rows: &[(String, &TreeUsage)], output: Output) -> Table {
    type Bytes = fn(&TreeUsage) -> u64;
    const COLUMNS: [(&str, bool, Bytes); 8] = [
        ("size", true, |tree| tree.apparent_bytes),
        ("unique", true, |tree| tree.unique_bytes),
        ("project", true, |tree| tree.shared_with_project_bytes),
        ("store", true, |tree| tree.shared_with_store_bytes),
        ("worktrees", false, |tree| tree.shared_with_worktrees_bytes),
        ("elsewhere", false, |tree| tree.shared_elsewhere_bytes),
        ("metadata", true, |tree| tree.metadata_bytes),
        ("frees", true, |tree| tree.frees.expected),
    ];
    // Leaves out the optional columns in which every number is zero.
    let columns: Vec<_> = COLUMNS
        .iter()
        .filter(|(_, always, bytes)| *always || rows.iter().any(|(_, tree)| bytes(tree) > 0))
        .collect();
    let mut kinds = vec![Column::Name];
    kinds.resize(columns.len() + 1, Column::Right);
    let mut table = Table::new(kinds);
    let mut heads = vec![Cell::from("name").styled(crate::output::STRONG)];
    heads.extend(columns.iter().map(|(head, ..)| Cell::from(*head).styled(crate::output::STRONG)));
    table.row(heads);
    for (name, tree) in rows {
        let mut cells = vec![Cell::from(name.clone())];
        cells.extend(columns.iter().map(|(.., bytes)| Cell::from(output.size(bytes(tree)))));
        table.row(cells);
    }
    table
}

document! {
    /// The JSON document of `du`; docs/json.md says what each field of these means.
    struct Document(worktrees: &[Worktree], usage: &DiskUsage) {
        worktrees: Vec<NamedDocument> =
            worktrees.iter().zip(&usage.worktrees).map(|(it, tree)| NamedDocument::new(it, tree)).collect(),
        project: UsageDocument = UsageDocument::new(&usage.project),
        store: UsageDocument = UsageDocument::new(&usage.store),
        frees: FreesDocument = FreesDocument::new(usage.frees),
        elapsed_seconds: f64 = usage.elapsed.as_secs_f64(),
    }
}

document! {
    struct NamedDocument(worktree: &Worktree, tree: &TreeUsage) {
        name: String = worktree.name().to_owned(),
        #[serde(flatten)]
        usage: UsageDocument = UsageDocument::new(tree),
    }
}

document! {
    /// The disk usage of one tree.
    pub(crate) struct UsageDocument(tree: &TreeUsage) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&tree.path),
        #[serde(flatten)]
        bytes: BytesDocument = BytesDocument::new(tree),
    }
}

document! {
    pub(crate) struct BytesDocument(tree: &TreeUsage) {
        files: u64 = tree.files,
        apparent_bytes: u64 = tree.apparent_bytes,
        allocated_bytes: u64 = tree.allocated_bytes,
        unique_bytes: u64 = tree.unique_bytes,
        shared_with_project_bytes: u64 = tree.shared_with_project_bytes,
        shared_with_store_bytes: u64 = tree.shared_with_store_bytes,
        shared_with_worktrees_bytes: u64 = tree.shared_with_worktrees_bytes,
        shared_elsewhere_bytes: u64 = tree.shared_elsewhere_bytes,
        metadata_bytes: u64 = tree.metadata_bytes,
        unreadable: u64 = tree.unreadable,
        frees: FreesDocument = FreesDocument::new(tree.frees),
    }
}

document! {
    /// The space that a drop would free.
    pub(crate) struct FreesDocument(frees: FreedBytes) {
        expected_bytes: u64 = frees.expected,
        least_bytes: u64 = frees.least,
    }
}

//! Trees whose contents have no names yet.
//!
//! A start that would have to read much clones the project's files and publishes the worktrees
//! without reading a file. What it saw by `lstat` is an *unnamed snapshot*: every entry, but no
//! hash of a content that the project's snapshot does not have. It is a file in `unnamed/`, named
//! after the first worktree's token. The worktrees' rows have no base snapshot as long as that file
//! is there. *Naming* reads each content once, makes the snapshot, and writes its id into the rows.
//! docs/design/naming.md has the reasons.
//!
//! # Whose content is read
//! The content of a file is what was cloned. Two kinds of file still have it for certain:
//!
//! * The project's file, if its inode, size and times are those that it had *before* the clone, and
//!   no process that had it open for writing can have changed it without a trace.
//! * A worktree's file, if its inode, size and times are those that it was made with. No other
//!   process had it before.
//!
//! Both are compared again after the content was cloned into the store. If all of them were changed
//! before the content was read, nobody has it any more. Then the base snapshot has for this path
//! what the project has now, or nothing, and the worktrees show it as a change. No tree is touched.
//!
//! # What is durable when
//! The unnamed snapshot is written before the worktrees have their names. The base snapshot, the
//! rows that refer to it and the project's row change in one transaction. The file in `unnamed/` is
//! removed after that. So a process that dies while it names leaves the file, and the next one
//! begins again; content that was taken in by then is there already, or is garbage. Should a crash
//! of the machine take the file away, the worktrees' base is the project's next snapshot, and calve
//! reads their files to compare them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, Mode};

use super::blobs::Noted;
use super::catalog::{Based, DroppedRow, Origin, State, WorktreeRow};
use super::files::listed_at;
use super::freeing::taking_in;
use super::git::OwnFolders;
use super::id::{BlobId, SnapshotId};
use super::index::Index;
use super::layout::{self, Layout};
use super::manifest::Manifest;
use super::metadata::Maker;
use super::paths::spelling::Spellings;
use super::ready::{Deletion, Which};
use super::registry::Registry;
use super::scan::{self, Mentions, Request, Scan, name_directories};
use super::snapshot::record::{FoundList, NewIndex, Recording};
use super::snapshot::{Known, other_roots};
use super::{PROJECT, Store, StoreOptions, background, git, locks, path_from};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::pool::cancelled;
use crate::tree::running::Running;
use naming::{By, Holder, read_contents, settle, witness};
use record::OpenedUnnamed;

mod naming;
mod record;

#[cfg(any(test, fuzzing))]
pub(crate) use record::{MAGIC, seed};
pub(crate) use record::{UNTRACED, Unnamed};

/// What [`Store::name_contents`] did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct NamingReport {
    /// The base snapshots that were made, one for each start whose contents had no names yet.
    pub snapshots: Vec<SnapshotId>,
    /// Files that were changed in the project and in all worktrees before their content was read.
    /// Their base is what the project had instead.
    pub changed_files: u64,
    /// Not everything was named: another process needed the store, or names contents itself. Only
    /// after [`Store::name_contents_behind`].
    pub stopped: bool,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// Looks at every entry of a tree, and reads none. `like` is an earlier look at this tree or at
/// a clone of it.
pub(crate) fn look_at_all(
    store: &Store,
    path: &Path,
    like: Option<&Manifest>,
    stamp: (i64, u32),
    operation: &Running,
) -> Result<Scan, Error> {
    let root = fs::open(path, DIR_FLAGS, Mode::empty()).context(Operation::Open, || path)?;
    let excluded = other_roots(store, PROJECT, path, operation)?;
    let project = store.catalog().worktree(PROJECT)?;
    let project = project.filter(|row| store.registry().root_of(row) == path);
    let maker_of = |row: WorktreeRow| Maker::of(&store.layout().tree(&row.token));
    scan::scan(&Request {
        path,
        root: &root,
        base: like,
        index: None,
        blobs: store.blobs(),
        intake: None,
        looks_only: true,
        stamp,
        maker: project.map_or_else(Maker::privileged, maker_of),
        excluded: &excluded,
        own: Some(&OwnFolders::of(path)),
        roots: &[],
        spellings: &Spellings::fixed(Vec::new()),
        local: None,
        alike: None,
        only: None,
        operation,
    })
}

/// Removes the unnamed snapshot of worktrees that were not made.
pub(crate) fn remove(store: &Store, token: &str) {
    store.ready().discard(Which::Unnamed(token), Deletion::Now);
    let _ = std::fs::remove_file(store.layout().unnamed(token));
}

/// The files of all unnamed snapshots.
pub(super) fn all(layout: Layout<'_>) -> Result<Vec<PathBuf>, Error> {
    let folder = layout.all_unnamed();
    let mut names = listed_at(&folder).context(Operation::ReadDirectory, || &folder)?;
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names.into_iter().map(|(name, _)| folder.join(name)).collect())
}

/// See [`Store::name_contents`].
pub(super) fn name_contents(store: &Store, options: &StoreOptions) -> Result<NamingReport, Error> {
    let started = Instant::now();
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    let operation = options.operation();
    let _alone = naming_lock(store, &operation)?;
    let mut report = NamingReport::default();
    name_all(store, &mut report, &operation)?;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// See [`Store::name_contents_behind`].
pub(super) fn name_contents_behind(
    store: &Store,
    options: &StoreOptions,
) -> Result<NamingReport, Error> {
    let started = Instant::now();
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    let mut report = NamingReport::default();
    let Some(_alone) = locks::naming_now(store.path())? else {
        return Ok(NamingReport { stopped: true, ..report });
    };
    let is_needed = || locks::is_gate_closed(store.path()) || locks::is_naming_wanted(store.path());
    let work = |operation: &Running| name_all(store, &mut report, operation);
    match background::until_needed(options, is_needed, work) {
        Err(error) if error.kind() == ErrorKind::Cancelled && !options.cancel.is_cancelled() => {
            report.stopped = true;
        }
        result => result?,
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

fn naming_lock(store: &Store, operation: &Running) -> Result<locks::Guard, Error> {
    locks::naming(store.path(), || operation.is_cancelled())?
        .ok_or_else(|| cancelled(Operation::TakeSnapshot, store.path()))
}

/// Names the contents that have no name yet, as a part of `operation`. Returns whether there
/// were some. calve does not change a store that it cannot write to. If that is because the
/// disk is full, the error says so, and what to do.
pub(crate) fn name_pending(store: &Store, operation: &Running) -> Result<bool, Error> {
    if store.is_read_only() && !store.is_full() || all(store.layout())?.is_empty() {
        return Ok(false);
    }
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    let _alone = naming_lock(store, operation)?;
    name_all(store, &mut NamingReport::default(), operation)?;
    Ok(true)
}

/// Names everything. The caller holds the lock.
fn name_all(store: &Store, report: &mut NamingReport, operation: &Running) -> Result<(), Error> {
    let records = all(store.layout())?;
    if records.is_empty() {
        return Ok(());
    }
    store.registry().recover()?;
    for path in records {
        taking_in(store, operation, |noted| name_one(store, &path, report, noted, operation))?;
    }
    Ok(())
}

fn name_one(
    store: &Store,
    path: &Path,
    report: &mut NamingReport,
    noted: &Noted,
    operation: &Running,
) -> Result<(), Error> {
    let token = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let remove = || {
        store.ready().discard(Which::Unnamed(token), Deletion::Now);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(Operation::RemoveLeftovers, || path)
            }
            _ => Ok(()),
        }
    };
    let _guard = store.share()?;
    let mut unnamed = match Unnamed::open(path).context(Operation::Read, || path)? {
        OpenedUnnamed::Gone => return Ok(()),
        // It says nothing: the worktrees are compared with the project's next snapshot.
        OpenedUnnamed::Damaged => return remove(),
        OpenedUnnamed::Whole(unnamed) => unnamed,
    };
    let is_one = |row: &&WorktreeRow| {
        row.snapshot.is_none() && unnamed.tokens().any(|token| *token == row.token)
    };
    let (rows, dropped) = (store.catalog().worktrees()?, store.catalog().dropped()?);
    let of_trees: Vec<&WorktreeRow> = rows.iter().filter(is_one).collect();
    if of_trees.iter().any(|row| row.state == State::Starting) {
        // Their start is still at work.
        return Ok(());
    }
    let of_dropped: Vec<_> = dropped.iter().filter(|kept| is_one(&&kept.row)).collect();
    if of_trees.is_empty() && of_dropped.is_empty() {
        return remove();
    }
    let Some(project_row) = rows.iter().find(|row| row.name == PROJECT) else { return Ok(()) };
    let project = store.registry().root_of(project_row);
    let rows = RowsOf { trees: of_trees, dropped: of_dropped };
    let holders =
        holders(store.registry(), (&project, &unnamed.project), &unnamed.trees, &rows, token)?;
    let (manifest, base) = (&mut unnamed.manifest, unnamed.base);
    let read = read_contents(store, (manifest, base), &holders, &project, noted, operation)?;
    let (exceptions, unsealed, mentions) = read;
    drop(holders);
    let changed = settle(&mut unnamed, &exceptions);
    let id =
        record_named(store, &mut unnamed, (project_row, &project), changed, (&unsealed, mentions))?;
    report.snapshots.push(id);
    report.changed_files += changed;
    if changed == 0
        && let Some((_, index)) = unnamed.trees.first()
    {
        store.ready().adopt((token, &unnamed.seal), (id, index));
    }
    remove()
}

/// The trees that may still have the contents of the record that is named after `token`.
///
/// # Errors
/// calve failed to look at one. To name without it could lose the base.
fn holders<'a>(
    registry: Registry<'_>,
    (project, seen): (&Path, &'a Index),
    trees: &'a [(Vec<String>, Index)],
    rows: &RowsOf<'_>,
    token: &str,
) -> Result<Vec<Holder<'a>>, Error> {
    let open = |path: &Path| {
        witness(fs::open(path, DIR_FLAGS, Mode::empty())).context(Operation::Open, || path)
    };
    let mut holders = Vec::new();
    if let Some(root) = open(project)? {
        holders.push(Holder { root, index: seen, by: By::Project });
    }
    for (tree, (tokens, index)) in trees.iter().enumerate() {
        for token in tokens {
            let row = rows.trees.iter().find(|row| row.token == *token);
            let kept = rows.dropped.iter().find(|kept| kept.row.token == *token);
            let at = match (row, kept) {
                (Some(row), _) if registry.find_mark(row)? => path_from(&row.path),
                (_, Some(kept)) if kept.beside => {
                    layout::dropped_beside(&path_from(&kept.row.path), token)
                }
                (_, Some(_)) => registry.layout.dropped_tree(token),
                _ => continue,
            };
            if let Some(root) = open(&at)? {
                holders.push(Holder { root, index, by: By::Tree(tree) });
            }
        }
    }
    // Nobody works in this one. It is asked last, since the pages of the others are in memory.
    if let Some((_, index)) = trees.first()
        && let Some(root) = open(&registry.layout.unnamed_tree(token))?
    {
        holders.push(Holder { root, index, by: By::Tree(0) });
    }
    Ok(holders)
}

/// Records the snapshot of a tree whose contents have their names. `changed` is how many files
/// nobody had any more.
fn record_named(
    store: &Store,
    unnamed: &mut Unnamed,
    (project_row, project): (&WorktreeRow, &Path),
    changed: u64,
    (unsealed, mentions): (&[BlobId], Mentions),
) -> Result<SnapshotId, Error> {
    let order = vec![None; unnamed.manifest.directories.len()];
    let directories = name_directories(&mut unnamed.manifest, &order, None, true);
    let manifest = &unnamed.manifest;
    let message = match changed {
        0 => String::new(),
        changed => format!(
            "{changed} files were changed before they were read; they are as in the project"
        ),
    };
    let encoding = manifest.object(unnamed.base, message).encode();
    let id = SnapshotId::of(&encoding);
    unnamed.trees.iter_mut().for_each(|(_, index)| index.snapshot = id);
    unnamed.project.snapshot = id;
    let mut indexes = Vec::new();
    for (tokens, index) in &unnamed.trees {
        let of_tree = |token| NewIndex { token, index, has_base: false };
        indexes.extend(tokens.iter().map(|token| of_tree(token)));
    }
    if project_row.snapshot == unnamed.base {
        let (token, index) = (&*project_row.token, &unnamed.project);
        indexes.push(NewIndex { token, index, has_base: unnamed.base.is_some() });
    }
    let known = Known::on(store, project_row.clone(), None);
    let tokens: Vec<String> = unnamed.tokens().map(str::to_owned).collect();
    store.snapshots().record(&Recording {
        encoding: &encoding,
        tree: Some((manifest, &directories)),
        arrived: Some(unsealed),
        found: Some(FoundList::Here(&known.found_in(store, manifest, mentions))),
        indexes: &indexes,
        based: Based::Unnamed { tokens: &tokens, project: &project_row.token, was: unnamed.base },
        name: None,
        origin: &Origin { worktree: Some(PROJECT.to_owned()), branch: git::branch_in(project) },
    })
}

/// The rows of the worktrees that a record is about.
struct RowsOf<'a> {
    trees: Vec<&'a WorktreeRow>,
    dropped: Vec<&'a DroppedRow>,
}

//! Lets the trees of a start arrive: under a stage's name, beside the place of each worktree.
//!
//! A tree comes from the store's [ready trees](crate::store::ready::Shelf), or each of its files is
//! cloned from its mirror. Whichever way it is, what comes is an [`Arrived`].

use std::path::PathBuf;

use crate::error::{Context as _, Error, Operation};
use crate::report::DestinationReport;
use crate::store::Store;
use crate::store::catalog::WorktreeRow;
use crate::store::id::BlobId;
use crate::store::index::{Boot, Index, Stat};
use crate::store::manifest::Manifest;
use crate::store::materialize::{Plan, materialize};
use crate::store::ready::{Arrived, ArrivedIndex, SnapshotTree, TreePlace};
use crate::store::stamps::stamp_of;
use crate::tree::budget::Budget;
use crate::tree::running::Running;
use crate::tree::staging::Stage;

/// How many trees are made in one pass, because each needs descriptors. A pass has fewer if the
/// open file limit is low.
const PASS_MOST: usize = 32;

/// What filled stages have.
pub(super) struct FilledTrees {
    /// For each its report, and the inode and change time of each entry.
    pub(super) trees: Vec<(DestinationReport, Vec<Stat>)>,
    /// Mirrors that were made on the way. They are sealed after a flush.
    pub(super) unsealed: Vec<BlobId>,
}

/// Makes the snapshot's tree beside each of the places, and gives the rows the indexes. The
/// tree's manifest is read only if a way needs it.
///
/// # Errors
/// Content of the snapshot is lost; those of every operation, see [`Store`]. No tree is left.
pub(super) fn arrive(
    store: &Store,
    tree: &mut SnapshotTree<'_>,
    rows: &[WorktreeRow],
    places: &[TreePlace],
    operation: &Running,
) -> Result<Vec<Arrived>, Error> {
    let mut arrived = store.ready().shelf().take(tree, rows, places, operation)?;
    let files = |trees: usize| tree.object.files.saturating_mul(trees as u64);
    operation.expect(files(places.len()));
    operation.files_done(files(arrived.len()));
    #[cfg(calve_check)]
    for taken in &arrived {
        crate::check::ready_tree(store, tree.id, tree.object, taken.stage.dir());
    }
    let rest = &places[arrived.len()..];
    if !rest.is_empty() {
        arrived.extend(cloned(store, tree, rest, operation)?);
    }
    for (row, arrived) in rows.iter().zip(&mut arrived) {
        arrived.give_index(&row.token, tree)?;
    }
    Ok(arrived)
}

/// Makes the trees by cloning every file from its mirror.
fn cloned(
    store: &Store,
    tree: &SnapshotTree<'_>,
    places: &[TreePlace],
    operation: &Running,
) -> Result<Vec<Arrived>, Error> {
    let stages = places.iter().map(TreePlace::stage).collect::<Result<Vec<_>, _>>()?;
    let filled = fill(store, tree.manifest()?, &stages, places, operation)?;
    // The index names the content of each file, so the content must be on the disk first.
    // Therefore we flush copied files.
    let FilledTrees { trees, unsealed } = filled;
    if !unsealed.is_empty() || trees.iter().any(|(report, _)| report.copied_files > 0) {
        store.contents().flush_with(&unsealed, stages.iter().map(Stage::dir))?;
    }
    let stats = trees.iter().flat_map(|(_, stats)| stats);
    let (boot, stamp) = (Boot::this(), store.clock().past_all(stats)?);
    let with_index = |(stage, (report, stats)): (Stage, (DestinationReport, Vec<Stat>))| {
        let (dir, parent) = (stage.dir(), stage.parent());
        let stamp = stamp_of(dir, Some(parent), stamp, operation.filesystems());
        let index = ArrivedIndex::Made(Index { snapshot: tree.id, boot, stamp, stats });
        Arrived { index, ..Arrived::new(stage, report) }
    };
    Ok(stages.into_iter().zip(trees).map(with_index).collect())
}

/// Makes the snapshot's tree in each of the stages, in passes. A pass has as many trees as the
/// open file limit allows.
pub(super) fn fill(
    store: &Store,
    manifest: &Manifest,
    stages: &[Stage],
    places: &[TreePlace],
    operation: &Running,
) -> Result<FilledTrees, Error> {
    let pass = Budget::destinations(operation.jobs(), PASS_MOST);
    let mut all = FilledTrees { trees: Vec::with_capacity(stages.len()), unsealed: Vec::new() };
    for (stages, places) in stages.chunks(pass).zip(places.chunks(pass)) {
        let paths: Vec<PathBuf> = places.iter().map(|place| place.path.clone()).collect();
        let mut roots = Vec::with_capacity(stages.len());
        for (stage, path) in stages.iter().zip(&paths) {
            roots.push(stage.dir().try_clone().context(Operation::Stage, || path)?);
        }
        let plan = Plan { store, manifest, paths: &paths, operation };
        let made = materialize(&plan, roots)?;
        all.trees.extend(made.reports.into_iter().zip(made.stats));
        all.unsealed.extend(made.unsealed);
    }
    Ok(all)
}

//! Lets the trees of a start arrive: under a stage's name, beside the place of each worktree.
//!
//! There are four ways, the quickest first. A ready tree of a similar snapshot is brought to this
//! one (btrfs, a single worktree); each tree is a subvolume snapshot of the ready tree (btrfs); a
//! ready tree is taken by a rename (elsewhere); each file is cloned from its mirror. Whichever way
//! it is, what comes is an [`Arrived`].

use std::path::PathBuf;

use rustix::fs;

use super::Place;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::meta::Meta;
use crate::report::DestinationReport;
use crate::store::Store;
use crate::store::catalog::WorktreeRow;
use crate::store::id::BlobId;
use crate::store::index::{Boot, Index, Stat};
use crate::store::manifest::Manifest;
use crate::store::materialize::{Plan, materialize};
use crate::store::ready::{Arrived, ArrivedGitIndex, ArrivedIndex, SnapshotTree};
use crate::store::room::is_btrfs;
use crate::tree::budget::Budget;
use crate::tree::pool::cancelled;
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

impl Store {
    /// Makes the snapshot's tree beside each of the places, and gives the rows the indexes. The
    /// tree's manifest is read only if a way needs it.
    ///
    /// # Errors
    /// Content of the snapshot is lost; those of every operation, see [`Store`]. No tree is left.
    pub(super) fn arrive(
        &self,
        tree: &mut SnapshotTree<'_>,
        rows: &[WorktreeRow],
        places: &[Place],
        operation: &Running,
    ) -> Result<Vec<Arrived>, Error> {
        let mut arrived = Vec::with_capacity(places.len());
        if let Some(brought) = self.brought(tree, places, operation)? {
            arrived.push(brought);
        } else if let Some(snapshots) = self.snapshots_of_ready_tree(tree, places, operation)? {
            arrived = snapshots;
        } else {
            operation.expect(tree.object.files.saturating_mul(places.len() as u64));
            for (row, place) in rows.iter().zip(places) {
                let Some(mut taken) = self.handed_over(tree, place, operation)? else { break };
                // At once: until then the folder in which the tree waited stays, and open.
                taken.give_index(&row.token, tree)?;
                arrived.push(taken);
            }
            let rest = &places[arrived.len()..];
            if !rest.is_empty() {
                arrived.extend(self.cloned(tree, rest, operation)?);
            }
        }
        for (row, arrived) in rows.iter().zip(&mut arrived) {
            arrived.give_index(&row.token, tree)?;
        }
        Ok(arrived)
    }

    /// Takes a snapshot of another ready tree that waits, and brings it to this snapshot. `None` if
    /// there is a ready tree of this snapshot, if there must be one for several worktrees, or if no
    /// snapshot that waits is near.
    fn brought(
        &self,
        tree: &SnapshotTree<'_>,
        places: &[Place],
        operation: &Running,
    ) -> Result<Option<Arrived>, Error> {
        let [place] = places else { return Ok(None) };
        if !is_btrfs(self.path())
            || self.count_waiting() == 0
            || self.sealed_ready_tree(tree.id).is_some()
        {
            return Ok(None);
        }
        operation.expect(tree.object.files);
        let target = (tree.id, tree.object, tree.manifest()?);
        let (parent, report) = ((&place.dir, &*place.parent), place.snapshot_report());
        let brought = self.bring_walked(target, parent, report, operation);
        #[cfg(calve_check)]
        if let Some(brought) = &brought {
            crate::check::ready_tree(self, tree.id, tree.object, brought.stage.dir());
        }
        if brought.is_some() {
            operation.files_done(tree.object.files);
        }
        Ok(brought)
    }

    /// Makes each tree as a snapshot of the ready tree, which is a subvolume with the tree. `None`
    /// if there is no ready tree, or if it cannot be used for one of the places.
    fn snapshots_of_ready_tree(
        &self,
        tree: &mut SnapshotTree<'_>,
        places: &[Place],
        operation: &Running,
    ) -> Result<Option<Vec<Arrived>>, Error> {
        // Only making the ready tree needs the manifest. Work after this on btrfs has large trees
        // of its own in memory.
        let known = if is_btrfs(self.path()) { tree.take() } else { None };
        let (id, object) = (tree.id, tree.object);
        let Some(ready) = self.ready_tree((id, object), known, operation)? else {
            return Ok(None);
        };
        let files = object.files.saturating_mul(places.len() as u64);
        operation.expect(files);
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            if operation.is_cancelled() {
                return Err(cancelled(Operation::StartWorktree, &place.path));
            }
            let stage = match self.take_walked(id, (&place.dir, &place.parent)) {
                Some(stage) => stage,
                None => match place.snapshot_of(&ready) {
                    Ok(stage) => stage,
                    // The place is on another filesystem, or we lack the right. We use the mirrors
                    // then.
                    Err(_) => return Ok(None),
                },
            };
            // Since we looked at the seal, another process may have begun to remove the ready tree
            // or to write to it.
            let still = self.sealed_ready_tree(id).and_then(|now| fs::fstat(now).ok());
            if still.map(|now| Meta::of(&now).id())
                != fs::fstat(&ready).ok().map(|was| Meta::of(&was).id())
            {
                return Ok(None);
            }
            #[cfg(calve_check)]
            crate::check::ready_tree(self, id, object, stage.dir());
            all.push(Arrived {
                stage,
                report: place.snapshot_report(),
                index: ArrivedIndex::OfReadyTree,
                git_index: ArrivedGitIndex::OfReadyTree,
            });
        }
        operation.files_done(files);
        Ok(Some(all))
    }

    /// Takes a ready tree that waits. `None` if none does that can be used here.
    fn handed_over(
        &self,
        tree: &SnapshotTree<'_>,
        place: &Place,
        operation: &Running,
    ) -> Result<Option<Arrived>, Error> {
        if self.count_waiting() == 0 {
            return Ok(None);
        }
        let taken = self.hand_over(tree, (&place.dir, &place.parent), operation)?;
        Ok(taken.map(|taken| {
            #[cfg(calve_check)]
            crate::check::ready_tree(self, tree.id, tree.object, taken.stage.dir());
            operation.files_done(tree.object.files);
            let report = DestinationReport { path: place.path.clone(), ..taken.report };
            Arrived { report, ..taken }
        }))
    }

    /// Makes the trees by cloning every file from its mirror.
    fn cloned(
        &self,
        tree: &SnapshotTree<'_>,
        places: &[Place],
        operation: &Running,
    ) -> Result<Vec<Arrived>, Error> {
        let stages = places.iter().map(Place::stage).collect::<Result<Vec<_>, _>>()?;
        let filled = self.fill(tree.manifest()?, &stages, places, operation)?;
        // The index names the content of each file, so the content must be on the disk first.
        // Therefore we flush copied files.
        let FilledTrees { trees, unsealed } = filled;
        if !unsealed.is_empty() || trees.iter().any(|(report, _)| report.copied_files > 0) {
            self.flush_with(&unsealed, stages.iter().map(Stage::dir))?;
        }
        let stats = trees.iter().flat_map(|(_, stats)| stats);
        let (boot, stamp) = (Boot::this(), self.clock_past_all(stats)?);
        let with_index = |(stage, (report, stats)): (Stage, (DestinationReport, Vec<Stat>))| {
            let (dir, parent) = (stage.dir(), stage.parent());
            let stamp = Self::stamp_of(dir, Some(parent), stamp, operation.filesystems());
            let index = ArrivedIndex::Made(Index { snapshot: tree.id, boot, stamp, stats });
            Arrived { index, ..Arrived::new(stage, report) }
        };
        Ok(stages.into_iter().zip(trees).map(with_index).collect())
    }

    /// Makes the snapshot's tree in each of the stages, in passes. A pass has as many trees as the
    /// open file limit allows.
    pub(super) fn fill(
        &self,
        manifest: &Manifest,
        stages: &[Stage],
        places: &[Place],
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
            let plan = Plan { store: self, manifest, paths: &paths, operation };
            let made = materialize(&plan, roots)?;
            all.trees.extend(made.reports.into_iter().zip(made.stats));
            all.unsealed.extend(made.unsealed);
        }
        Ok(all)
    }
}

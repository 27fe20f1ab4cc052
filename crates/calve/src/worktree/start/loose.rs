//! Starts from a store that cannot be written to. Such a store cannot register worktrees, so the
//! trees are folders like any other.

use std::path::Path;

use super::dress::{Dressing, Origin};
use super::git::GitPlan;
use super::{PathMode, Started, started};
use crate::error::{Error, Operation};
use crate::store::Store;
use crate::store::id::SnapshotId;
use crate::store::object::SnapshotObject;
use crate::store::ready::{Arrived, TreePlace, places, publish_all};
use crate::tree::running::Running;

impl Store {
    /// Makes trees of a snapshot in `folder`, without marker, row and index.
    pub(super) fn make_loose(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        (git, paths): (GitPlan, PathMode),
        names: &[&str],
        folder: &Path,
        operation: &Running,
    ) -> Result<Vec<Started>, Error> {
        let roots = names.iter().map(|name| folder.join(name));
        let places = places(roots, Operation::StartWorktree)?;
        operation.expect(object.files.saturating_mul(names.len() as u64));
        let manifest = self.catalog().manifest(id, object)?;
        let stages = places.iter().map(TreePlace::stage).collect::<Result<Vec<_>, _>>()?;
        let filled = self.fill(&manifest, &stages, &places, operation)?;
        let reports = filled.trees.into_iter().map(|(report, _)| report);
        let arrived = stages.into_iter().zip(reports);
        let mut arrived: Vec<_> =
            arrived.map(|(stage, report)| Arrived::new(stage, report)).collect();
        let (origin, known) = (Origin::Snapshot(id, object), Some(&manifest));
        let dressing = Dressing { store: self, origin, known, git, paths, operation };
        let outcomes = dressing.dress(None, &arrived, &places)?;
        publish_all(&mut arrived, &places)?;
        Ok(started(arrived, outcomes))
    }
}

//! Starts from a store that cannot be written to. Such a store cannot register worktrees, so the
//! trees are folders like any other.

use std::path::Path;

use super::dress::{Dressed, Dressing, KeptIndexes, Origin};
use super::git::GitPlan;
use super::{PathMode, places, publish_all};
use crate::error::{Error, Operation};
use crate::report::DestinationReport;
use crate::store::Store;
use crate::store::id::SnapshotId;
use crate::store::object::SnapshotObject;
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
    ) -> Result<Vec<(DestinationReport, Dressed)>, Error> {
        let roots = names.iter().map(|name| folder.join(name));
        let places = places(roots, Operation::StartWorktree)?;
        operation.expect(object.files.saturating_mul(names.len() as u64));
        let manifest = self.catalog().manifest(id, object)?;
        let mut stages = Vec::with_capacity(places.len());
        for place in &places {
            stages.push(place.stage()?);
        }
        let made = self.fill(&manifest, &stages, &places, operation)?;
        let dressing = Dressing {
            store: self,
            origin: Origin::Snapshot(id, object),
            known: Some(&manifest),
            git,
            paths,
            kept: KeptIndexes::None,
            operation,
        };
        let outcomes = dressing.dress(None, &stages, &places)?;
        publish_all(&mut stages, &places)?;
        Ok(made.reports.into_iter().zip(outcomes).collect())
    }
}

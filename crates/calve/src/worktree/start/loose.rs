//! Starts from a store that cannot be written to. Such a store cannot register worktrees, so the
//! trees are folders like any other.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::arrive::fill;
use super::dress::{Dressing, Origin, Outfit};
use super::folder::worktrees_folder;
use super::git::GitPlan;
use super::{StartOptions, StartReport, StartedWorktree, places_in, started};
use crate::error::{Error, ErrorKind, Operation};
use crate::store::Store;
use crate::store::id::SnapshotId;
use crate::store::ready::{Arrived, TreePlace, publish_all};
use crate::tree::running::Running;

/// Makes trees of a snapshot in `folder`, without marker, row and index.
pub(super) fn start_loose(
    store: &Store,
    (id, folder): (SnapshotId, &Path),
    names: &[&str],
    options: &StartOptions,
    operation: &Running,
) -> Result<StartReport, Error> {
    let git = GitPlan::of(options.git, store)?;
    let object = &store.catalog().object(id)?;
    let found = store.snapshots().found(id, object)?.secrets;
    if let (Some(leave), false) = (&options.leave_secrets, found.is_empty())
        && (leave.0)(&found)
    {
        let cause = io::Error::other("a tree without secrets needs a snapshot of its own");
        return Err(Error::new(
            ErrorKind::ReadOnly,
            Operation::StartWorktreeOf,
            store.path(),
            cause,
        ));
    }
    let places = places_in(&worktrees_folder(store, Some(folder))?, names)?;
    operation.expect(object.files.saturating_mul(names.len() as u64));
    let manifest = store.catalog().manifest(id, object)?;
    let stages = places.iter().map(TreePlace::stage).collect::<Result<Vec<_>, _>>()?;
    let filled = fill(store, &manifest, &stages, &places, operation)?;
    let reports = filled.trees.into_iter().map(|(report, _)| report);
    let mut arrived: Vec<_> =
        stages.into_iter().zip(reports).map(|(it, report)| Arrived::new(it, report)).collect();
    let (origin, known) = (Origin::Snapshot(id, object), Some(&manifest));
    let paths = options.paths;
    let dressing = Dressing {
        store,
        origin,
        known,
        how: Outfit { git, paths, source: None },
        operation,
        registered: None,
    };
    let outcomes = dressing.dress(None, &arrived, &places)?;
    publish_all(&mut arrived, &places)?;
    let files = (object.files, object.bytes);
    let trees = names.iter().zip(started(arrived, outcomes));
    Ok(StartReport {
        snapshot: Some(id),
        taken: None,
        registered: false,
        written_files: None,
        secrets: found,
        left_secrets: Vec::new(),
        worktrees: trees
            .map(|(name, tree)| StartedWorktree::new((*name).to_owned(), files, tree))
            .collect(),
        elapsed: Duration::ZERO,
    })
}

//! Starting from a store that cannot be written to: it can note nothing, so what is made are folders like any other.

use std::path::{Path, PathBuf};

use super::{PASS, Place, publish_all};
use crate::error::{Context as _, Error};
use crate::report::DestinationReport;
use crate::store::id::SnapshotId;
use crate::store::materialize::{Plan, materialize};
use crate::store::object::SnapshotObject;
use crate::store::{Store, StoreOptions};
use crate::tree::staging::Stage;

impl Store {
    /// Makes trees of a snapshot in `folder`, without marker, row and index.
    pub(super) fn make_loose(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        names: &[&str],
        folder: &Path,
        options: &StoreOptions,
    ) -> Result<Vec<DestinationReport>, Error> {
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            places.push(Place::new(folder.join(name))?);
        }
        super::expect(object.files.saturating_mul(names.len() as u64), options);
        let manifest = self.catalog().manifest(id, object)?;
        let paths: Vec<PathBuf> = places.iter().map(|place| place.path.clone()).collect();
        let mut stages = Vec::with_capacity(places.len());
        let mut roots = Vec::with_capacity(places.len());
        for place in &places {
            let dir = place.dir.try_clone().context("open", || &place.parent)?;
            let stage = Stage::empty(dir, &place.parent).context("stage", || &place.path)?;
            roots.push(stage.dir().try_clone().context("stage", || &place.path)?);
            stages.push(stage);
        }
        let mut reports = Vec::with_capacity(places.len());
        for (roots, paths) in roots.chunks(PASS).zip(paths.chunks(PASS)) {
            let made = materialize(&Plan {
                store: self,
                manifest: &manifest,
                roots,
                paths,
                jobs: options.threads(),
                cancel: &options.cancel,
                progress: &options.progress,
            })?;
            reports.extend(made.reports);
        }
        publish_all(&mut stages, &places)?;
        Ok(reports)
    }
}

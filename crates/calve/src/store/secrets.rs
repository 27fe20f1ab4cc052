//! The files of a snapshot that look like secrets, and the same snapshot without them. Which files
//! these are, [`paths::secrets`](super::paths::secrets) says.

use std::collections::HashSet;
use std::path::Path;

use rustix::fs::{self, Mode};

use super::Store;
use super::blobs::Intake;
use super::files::bytes_of;
use super::id::SnapshotId;
use super::overlay::{Overlaid, record_over};
use super::paths::secrets::{Secret, candidates, tracked_within};
use super::scan::files::read_small;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::running::Running;
use crate::tree::staging::Stage;

/// The files of a snapshot that look like secrets and that git does not track in the project, sorted
/// by path. Most names say enough; for some, calve looks at the content. If git
/// cannot be asked, calve takes all of them for untracked.
///
/// # Errors
/// Those of every operation, see [`Store`]. Nothing is changed.
pub fn secrets_in(store: &Store, id: SnapshotId) -> Result<Vec<Secret>, Error> {
    secrets_of(store, id, &store.project()?)
}

/// The same for a snapshot of the tree at `root`.
pub(crate) fn secrets_of(store: &Store, id: SnapshotId, root: &Path) -> Result<Vec<Secret>, Error> {
    let manifest = store.catalog().manifest(id, &store.catalog().object(id)?)?;
    let mut found = Vec::new();
    for candidate in candidates(&manifest) {
        let read = || {
            let (size, never) = (candidate.size, || false);
            let (file, _) =
                store.contents().get(&mut Intake::new(), candidate.blob, size, &never)?;
            read_small(&file, size).context(Operation::Read, || &candidate.secret.path)
        };
        if candidate.is_secret(read)? {
            found.push(candidate.secret);
        }
    }
    let paths = found.iter().map(|secret| secret.path.as_path());
    let tracked = tracked_within(root, |path| manifest.has(path), paths).unwrap_or_default();
    found.retain(|secret| !tracked.contains(&secret.path));
    found.sort();
    Ok(found)
}

/// The tree of a snapshot without these files, as another snapshot.
///
/// # Errors
/// Those of every operation, see [`Store`]. No snapshot was made.
pub(crate) fn record_without(
    store: &Store,
    id: SnapshotId,
    secrets: &[Secret],
    operation: &Running,
) -> Result<Overlaid, Error> {
    let folder = store.layout().stage();
    let dir = fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
    let nothing = Stage::empty(dir, &folder).context(Operation::Stage, || &folder)?;
    let gone: HashSet<Vec<u8>> = secrets.iter().map(|secret| bytes_of(&secret.path)).collect();
    let origin = store.catalog().origins()?.remove(&id).unwrap_or_default();
    record_over(store, id, &gone, &nothing.path(), ("without secrets", &origin), operation)
}

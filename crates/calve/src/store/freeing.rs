//! Runs work that frees space on a full disk, and cleans up after work that found no space.
//!
//! [`room`](super::room) keeps the reserve, and says why there is one.

use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{self, Mode};

use super::blobs::Noted;
use super::layout::Layout;
use super::reach::Reach;
use super::registry::KEPT;
use super::room::{PAUSES_MS, give_up, keep, keep_bytes};
use super::{Store, locks, trash};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::running::Running;
use crate::tree::staging::sync_filesystem;

/// A tree that has been in the trash for so long is hardly being deleted.
const LEFT: Duration = Duration::from_secs(60);

/// Runs work that frees space. If there is no room for the work, it runs again, in the room of
/// the reserve and of the emptied trash.
pub(super) fn freeing<T>(
    store: &Store,
    mut work: impl FnMut(&Store) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut result = work(store);
    let mut gave_up = false;
    for pause in PAUSES_MS {
        match &result {
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            _ => break,
        }
        gave_up |= give_up(store.path());
        // What cannot be deleted frees nothing, and the work says that the disk is full.
        let _ = trash::empty(store.layout(), store.catalog());
        // Some filesystems give freed space back only at a flush, and another process may not
        // be done with the trash. The flush uses a new descriptor: the kernel reports a failed
        // write once to each descriptor, and the store's own descriptor must report it to the
        // process that wrote.
        let _ = fs::open(store.path(), DIR_FLAGS, Mode::empty()).and_then(sync_filesystem);
        std::thread::sleep(Duration::from_millis(pause));
        result = if store.is_full() {
            // It can only be read.
            Store::open_in_reserve(store.path()).and_then(|again| work(&again))
        } else {
            store.catalog().be_in_reserve();
            work(store)
        };
    }
    if gave_up {
        // Now, and not only when the trash is empty: work that frees nothing, such as a drop of
        // a tree that is kept, would leave the reserve's room to other processes.
        keep_bytes(store.path());
    }
    result
}

/// Runs work that adds contents to the store, and notes which mirrors it made. If the disk is
/// full, calve removes these mirrors again. The caller holds no lock; the work takes one.
pub(super) fn taking_in<T>(
    store: &Store,
    operation: &Running,
    work: impl FnOnce(&Noted) -> Result<T, Error>,
) -> Result<T, Error> {
    let noted = Noted::of(operation);
    let done = work(&noted);
    if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) {
        give_back(store, &noted, operation);
    }
    done
}

/// Removes the mirrors of work that failed for want of room, if no snapshot needs them and no
/// other process uses the store: one may have found them, and taken a snapshot that needs them.
/// Mirrors that stay are garbage, which [`Store::gc`] removes.
fn give_back(store: &Store, noted: &Noted, operation: &Running) {
    let Ok(Some(_alone)) = locks::exclude(store.path(), Duration::ZERO, operation) else {
        return;
    };
    // The disk is as full as can be now, which the database would not survive everywhere.
    give_up(store.path());
    // Like the collector: if a needed object cannot be read, calve removes nothing.
    let reach = store.catalog().snapshot_ids().and_then(|ids| Reach::of(store, ids, operation));
    if let Ok(reach) = reach {
        store.blobs().remove_made(noted, |id| !reach.blobs.contains(id));
    }
    keep(store.path());
}

/// See [`Store::left_in_trash`].
pub(super) fn left_in_trash(layout: Layout<'_>) -> Result<Vec<PathBuf>, Error> {
    let path = layout.trash();
    let left = trash::entries(&path, LEFT).context(Operation::Read, || &path)?;
    // On a busy machine it takes its time, at the lowest priority.
    if left.is_empty() || trash::is_being_emptied(layout)? {
        return Ok(Vec::new());
    }
    Ok(left.into_iter().map(|name| path.join(name)).collect())
}

/// See [`Store::empty_trash`].
pub(super) fn empty_trash(store: &Store) -> Result<(), Error> {
    let mut collected = Ok(0);
    if !store.is_full() {
        store.must_be_writable(Operation::EmptyTrash)?;
        collected = store.registry().collect_dropped(KEPT);
    }
    trash::empty(store.layout(), store.catalog())?;
    keep(store.path());
    collected.map(drop)
}

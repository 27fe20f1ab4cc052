//! Work that frees space, and what becomes of work that found none.
//!
//! [`room`](super::room) has the reserve, and says why there is one.

use std::path::Path;
use std::time::Duration;

use super::blobs::Noted;
use super::catalog::Catalog;
use super::layout::Layout;
use super::reach::Reach;
use super::room::{give_up, keep, settle};
use super::{Store, locks, trash};
use crate::error::{Error, ErrorKind, Operation};
use crate::tree::running::Running;
use crate::tree::staging::flush_filesystem;

/// How long it is waited for what was freed. Who empties the trash meanwhile has some of btrfs' quota set aside.
const PAUSES_MS: [u64; 6] = [0, 50, 200, 500, 1000, 2000];

impl Store {
    /// Does what frees space. Where there is none to do it in, it is done once more, in what was held in reserve and what the
    /// trash took.
    pub(crate) fn freeing<T>(
        &self,
        mut work: impl FnMut(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut result = work(self);
        for pause in PAUSES_MS {
            match &result {
                Err(error) if error.kind() == ErrorKind::StorageFull => {}
                _ => break,
            }
            give_up(self.path());
            let _ = trash::empty(self.layout());
            // Some filesystems have what was freed only then, and others at the trash may not be done.
            let _ = flush_filesystem(self.blobs().dir());
            std::thread::sleep(Duration::from_millis(pause));
            result = if self.is_full() {
                // It can only be read.
                Self::open_in_reserve(self.path()).and_then(|again| work(&again))
            } else {
                self.catalog().be_in_reserve();
                work(self)
            };
        }
        result
    }

    /// Removes the mirrors that a snapshot made which failed for want of room, where no other needs them and nobody is at the store.
    /// What stays is garbage, for [`Store::gc`].
    pub(super) fn give_back(&self, noted: &Noted, operation: &Running) {
        let Ok(Some(_alone)) = locks::exclude(self.path(), Duration::ZERO, operation) else {
            return;
        };
        // The disk is as full as can be now, which the database would not survive everywhere.
        give_up(self.path());
        // As for the collector: whoever cannot read all of what is needed removes nothing.
        let reach = self.catalog().snapshot_ids().and_then(|ids| Reach::of(self, ids, operation));
        if let Ok(reach) = reach {
            for id in noted.made().iter().filter(|id| !reach.blobs.contains_key(id)) {
                let _ = self.blobs().remove(*id);
            }
        }
        keep(self.path());
    }

    /// Removes the mirrors that were made of packs for something that failed for want of room, as packing would. The store has been
    /// locked since they were made, shared at least.
    pub(super) fn drop_unpacked(&self, error: &Error, noted: &Noted) {
        if error.kind() != ErrorKind::StorageFull {
            return;
        }
        for id in noted.made().iter() {
            let _ = self.blobs().remove(*id);
        }
    }

    /// Opens the database of a full store: to be read, or in the reserve where not even that can be.
    pub(super) fn open_full(path: &Path, full: Error) -> Result<(Catalog, Option<i32>), Error> {
        let database = Layout(path).database();
        let errno = full.io_error().raw_os_error().unwrap_or_default();
        for (tried, pause) in PAUSES_MS.into_iter().enumerate() {
            if let Ok(catalog) = Catalog::open_read_only(&database) {
                return Ok((catalog, Some(errno)));
            }
            // Its last writer is at work and holds all that it needs, or was killed.
            std::thread::sleep(Duration::from_millis(pause));
            if tried > 1 {
                give_up(path);
                settle(path);
                if let Ok(catalog) = Catalog::open_in_reserve(&database) {
                    return Ok((catalog, None));
                }
            }
        }
        Err(full)
    }

    /// Deletes what was dropped and not deleted yet.
    ///
    /// # Errors
    /// The first that could not be deleted; the others were tried all the same.
    pub fn empty_trash(&self) -> Result<(), Error> {
        if !self.is_full() {
            self.must_be_writable(Operation::EmptyTrash)?;
        }
        trash::empty(self.layout())?;
        keep(self.path());
        Ok(())
    }
}

//! Runs work that frees space on a full disk, and cleans up after work that found no space.
//!
//! [`room`](super::room) keeps the reserve, and says why there is one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{self, Mode};

use super::blobs::Noted;
use super::catalog::Catalog;
use super::id::BlobId;
use super::layout::Layout;
use super::reach::Reach;
use super::registry::KEPT;
use super::room::{give_up, keep, keep_bytes, settle};
use super::{Store, locks, trash};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::running::Running;
use crate::tree::staging::sync_filesystem;

/// How long it is waited for what was freed. Who empties the trash meanwhile has some of btrfs'
/// quota set aside.
const PAUSES_MS: [u64; 6] = [0, 50, 200, 500, 1000, 2000];

/// A tree that has been in the trash for so long is hardly being deleted.
const LEFT: Duration = Duration::from_secs(60);

impl Store {
    /// Runs work that frees space. If there is no room for the work, it runs again, in the room of
    /// the reserve and of the emptied trash.
    pub(crate) fn freeing<T>(
        &self,
        mut work: impl FnMut(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut result = work(self);
        let mut gave_up = false;
        for pause in PAUSES_MS {
            match &result {
                Err(error) if error.kind() == ErrorKind::StorageFull => {}
                _ => break,
            }
            gave_up |= give_up(self.path());
            // What cannot be deleted frees nothing, and the work says that the disk is full.
            let _ = trash::empty(self.layout(), self.catalog());
            // Some filesystems give freed space back only at a flush, and another process may not
            // be done with the trash. The flush uses a new descriptor: the kernel reports a failed
            // write once to each descriptor, and the store's own descriptor must report it to the
            // process that wrote.
            let _ = fs::open(self.path(), DIR_FLAGS, Mode::empty()).and_then(sync_filesystem);
            std::thread::sleep(Duration::from_millis(pause));
            result = if self.is_full() {
                // It can only be read.
                Self::open_in_reserve(self.path()).and_then(|again| work(&again))
            } else {
                self.catalog().be_in_reserve();
                work(self)
            };
        }
        if gave_up {
            // Now, and not only when the trash is empty: work that frees nothing, such as a drop of
            // a tree that is kept, would leave the reserve's room to other processes.
            keep_bytes(self.path());
        }
        result
    }

    /// Runs work that adds contents to the store, and notes which mirrors it made. If the disk is
    /// full, calve removes these mirrors again. The caller holds no lock; the work takes one.
    pub(super) fn taking_in<T>(
        &self,
        operation: &Running,
        work: impl FnOnce(&Noted) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let noted = Noted::of(operation);
        let done = work(&noted);
        if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) {
            self.give_back(&noted, operation);
        }
        done
    }

    /// Removes the mirrors of work that failed for want of room, if no snapshot needs them and no
    /// other process uses the store: one may have found them, and taken a snapshot that needs them.
    /// Mirrors that stay are garbage, which [`Store::gc`] removes.
    fn give_back(&self, noted: &Noted, operation: &Running) {
        let Ok(Some(_alone)) = locks::exclude(self.path(), Duration::ZERO, operation) else {
            return;
        };
        // The disk is as full as can be now, which the database would not survive everywhere.
        give_up(self.path());
        // Like the collector: if a needed object cannot be read, calve removes nothing.
        let reach = self.catalog().snapshot_ids().and_then(|ids| Reach::of(self, ids, operation));
        if let Ok(reach) = reach {
            self.remove_made(noted, |id| !reach.blobs.contains(id));
        }
        keep(self.path());
    }

    /// Removes the mirrors that were unpacked for an operation that failed for want of room, as
    /// packing would. The caller has held the store's lock, shared or exclusive, since they were
    /// made.
    pub(super) fn drop_unpacked(&self, error: &Error, noted: &Noted) {
        if error.kind() != ErrorKind::StorageFull {
            return;
        }
        self.remove_made(noted, |id| matches!(self.catalog().packed(id), Ok(Some(_))));
    }

    /// Removes the mirrors that an operation made and that nobody needs. A mirror that stays is
    /// garbage.
    fn remove_made(&self, noted: &Noted, is_needless: impl Fn(BlobId) -> bool) {
        let (made, mut needless) = (noted.made(), Vec::new());
        let _ = self.blobs().for_each(|id, _| {
            if made.may_have(id) && is_needless(id) {
                needless.push(id);
            }
        });
        for id in needless {
            let _ = self.blobs().remove(id);
        }
    }

    /// Opens the database of a full store to read it. If there is no room even for that, it uses
    /// the reserve.
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
                let opened = Catalog::open_in_reserve(&database);
                // Except on btrfs, the database stays open and has its files. The rest of the room
                // belongs to work that frees space: a command that only came to look, or that names
                // contents, would use it up.
                if !Filesystem::of(path).mapped_needs_room {
                    keep_bytes(path);
                }
                if let Ok(catalog) = opened {
                    return Ok((catalog, None));
                }
            }
        }
        Err(full)
    }

    /// Trees of dropped worktrees that are still not deleted, a minute after the drop. Something in
    /// them may belong to another user, or be immutable: [`Store::empty_trash`] says why.
    ///
    /// # Errors
    /// The trash cannot be read.
    pub fn left_in_trash(&self) -> Result<Vec<PathBuf>, Error> {
        let path = self.layout().trash();
        let left = trash::entries(&path, LEFT).context(Operation::Read, || &path)?;
        Ok(left.into_iter().map(|name| path.join(name)).collect())
    }

    /// Deletes the files of dropped worktrees that are not deleted yet. Those that can be brought
    /// back stay for seven days.
    ///
    /// # Errors
    /// The error of the first tree that could not be deleted. All others were tried.
    pub fn empty_trash(&self) -> Result<(), Error> {
        if !self.is_full() {
            self.must_be_writable(Operation::EmptyTrash)?;
        }
        let collected = match self.is_full() {
            true => Ok(0),
            false => self.registry().collect_dropped(KEPT),
        };
        trash::empty(self.layout(), self.catalog())?;
        keep(self.path());
        collected.map(drop)
    }
}

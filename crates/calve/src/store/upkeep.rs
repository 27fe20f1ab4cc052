//! The store's methods that keep it in order: garbage, packs, a full disk, damage, numbers.
//!
//! Each hands on to its own file: [`gc`], [`packing`], [`freeing`], [`stats`], and [`repair`],
//! which mends what [`verify`](super::verify) finds.

use std::path::PathBuf;

use super::{
    GcOptions, GcReport, PackOptions, PackReport, SnapshotId, Store, StoreOptions, StoreStats,
    VerifyOptions, VerifyReport, WarmReport, freeing, gc, packing, repair, stats,
};
use crate::error::Error;

impl Store {
    /// Counts what the store holds. This looks at every mirror's metadata, and reads no content.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn stats(&self) -> Result<StoreStats, Error> {
        stats::count(self)
    }

    /// Reads everything, compares it with its hash, and lists damaged and missing content with the
    /// paths of the files that have it.
    ///
    /// # Errors
    /// Damage is not an error. The errors are those of every operation, see [`Store`]. Objects
    /// that were repaired before the error stay repaired.
    pub fn verify(
        &self,
        options: &VerifyOptions,
        common: &StoreOptions,
    ) -> Result<VerifyReport, Error> {
        repair::verify(self, options, common)
    }

    /// Removes content that no snapshot, name or worktree reaches, and nothing else. Other
    /// processes may use the store meanwhile; each waits for some tenths of a second at most.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) if calve cannot read a snapshot, which may
    /// need anything: no content was removed. After any other error some content may be gone, but
    /// none that is needed.
    pub fn gc(&self, options: &GcOptions, common: &StoreOptions) -> Result<GcReport, Error> {
        gc::collect(self, options, common)
    }

    /// Compresses cold content into packs and drops its mirrors. A mirror takes space of its own
    /// once the file that it was cloned from changes. calve unpacks content again when it is
    /// needed.
    ///
    /// Other processes may start worktrees of the same snapshots meanwhile.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. No mirror was dropped. If dropping itself failed,
    /// some mirrors were dropped, and the others stay beside their packs.
    pub fn pack(&self, options: &PackOptions, common: &StoreOptions) -> Result<PackReport, Error> {
        packing::pack(self, options, common)
    }

    /// Makes the mirrors of all content that `snapshots` need, so that a start from them unpacks
    /// nothing. If `snapshots` is empty, it takes the project's latest.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) if content is lost. The mirrors that were
    /// made stay and are useful. If the disk is full, calve removes them.
    pub fn warm(
        &self,
        snapshots: &[SnapshotId],
        common: &StoreOptions,
    ) -> Result<WarmReport, Error> {
        packing::warm(self, snapshots, common)
    }

    /// Trees of dropped worktrees that are still not deleted, a minute after the drop, and that no
    /// process is deleting. Something in them may belong to another user, or be immutable:
    /// [`Store::empty_trash`] says why.
    ///
    /// # Errors
    /// The trash cannot be read.
    pub fn left_in_trash(&self) -> Result<Vec<PathBuf>, Error> {
        freeing::left_in_trash(self.layout())
    }

    /// Deletes the files of dropped worktrees that are not deleted yet. Those that can be brought
    /// back stay for seven days.
    ///
    /// # Errors
    /// The error of the first tree that could not be deleted. All others were tried.
    pub fn empty_trash(&self) -> Result<(), Error> {
        freeing::empty_trash(self)
    }

    /// Runs work that frees space; see [`freeing`].
    pub(crate) fn freeing<T>(
        &self,
        work: impl FnMut(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        freeing::freeing(self, work)
    }
}

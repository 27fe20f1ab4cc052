//! A running operation: how to stop it, its progress, how many threads it may have, and how long it
//! has waited.
//!
//! calve makes it from the caller's options, and drops it when the call ends. So nothing that one
//! operation learns changes the next one. The state of its destinations
//! ([`Sharing`](super::sharing::Sharing)) ends with the operation, too.

use std::num::NonZeroUsize;
#[cfg(all(feature = "store", unix))]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[cfg(feature = "store")]
use super::CloneOptions;
#[cfg(all(feature = "store", unix))]
use crate::error::{Error, Operation};
use crate::reflink::Patience;
#[cfg(unix)]
use crate::reflink::filesystem::Filesystems;
use crate::report::{Cancel, Progress};

/// How long one operation waits for transient refusals if it may copy instead. A ZFS transaction
/// group takes 5 s to close, and no operation waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// A running operation. See the module. A clone of this value stands for the same operation.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    jobs: Option<NonZeroUsize>,
    cancel: Cancel,
    progress: Arc<Progress>,
    patience: Arc<Patience>,
    #[cfg(unix)]
    filesystems: Arc<Filesystems>,
    /// How many bytes the operation may still read of files whose content it does not know.
    #[cfg(feature = "store")]
    may_read: Option<Arc<AtomicU64>>,
}

#[cfg(test)]
impl Default for Running {
    fn default() -> Self {
        Self::new(None, &Cancel::default(), &Arc::default())
    }
}

impl Running {
    /// An operation with `jobs` threads. If the caller does not say how many: one for each
    /// processor, but at most 8.
    pub(crate) fn new(
        jobs: Option<NonZeroUsize>,
        cancel: &Cancel,
        progress: &Arc<Progress>,
    ) -> Self {
        Self {
            jobs,
            cancel: cancel.clone(),
            progress: Arc::clone(progress),
            patience: Arc::new(Patience::new(PATIENCE)),
            #[cfg(unix)]
            filesystems: Arc::default(),
            #[cfg(feature = "store")]
            may_read: None,
        }
    }

    /// Sets how long the operation waits for transient refusals.
    pub(crate) fn with_patience(self, most: Duration) -> Self {
        Self { patience: Arc::new(Patience::new(most)), ..self }
    }

    /// This operation, but it gives up before it reads more than `bytes` bytes.
    #[cfg(feature = "store")]
    pub(crate) fn reading_at_most(&self, bytes: u64) -> Self {
        Self { may_read: Some(Arc::new(AtomicU64::new(bytes))), ..self.clone() }
    }

    /// Counts bytes that are about to be read. Returns whether the operation must give up.
    #[cfg(feature = "store")]
    pub(crate) fn reads_too_much(&self, bytes: u64) -> bool {
        let Some(left) = &self.may_read else { return false };
        let less = |left: u64| left.checked_sub(bytes);
        let enough = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if !enough {
            // So that the other threads give up, too.
            left.store(0, Ordering::Relaxed);
        }
        !enough
    }

    /// This operation with another number of threads.
    pub(crate) fn with_jobs(&self, jobs: usize) -> Self {
        Self { jobs: NonZeroUsize::new(jobs), ..self.clone() }
    }

    /// This operation with this number of threads, unless the caller set a number. For threads that
    /// mostly wait for answers.
    #[cfg(feature = "remote")]
    pub(crate) fn usually(&self, jobs: usize) -> Self {
        if self.jobs.is_some() { self.clone() } else { self.with_jobs(jobs) }
    }

    /// How many threads the operation may have; at least one.
    pub(crate) fn jobs(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from).min(8);
        self.jobs.map_or_else(processors, usize::from)
    }

    /// Whether the caller has cancelled the operation.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// # Errors
    /// The caller has cancelled the operation.
    #[cfg(all(feature = "store", unix))]
    pub(crate) fn check(&self, operation: Operation, path: &Path) -> Result<(), Error> {
        match self.is_cancelled() {
            true => Err(super::pool::cancelled(operation, path)),
            false => Ok(()),
        }
    }

    /// Options for a clone that is a part of this operation. The files of that clone are not
    /// counted.
    #[cfg(feature = "store")]
    pub(crate) fn clone_options(&self) -> CloneOptions {
        CloneOptions { jobs: self.jobs, cancel: self.cancel.clone(), ..CloneOptions::new() }
    }

    /// This operation, but progress does not count its work.
    #[cfg(feature = "store")]
    pub(crate) fn uncounted(&self) -> Self {
        Self { progress: Arc::default(), ..self.clone() }
    }

    /// Options for a clone that is a part of this operation, and whose files are counted.
    #[cfg(feature = "store")]
    pub(crate) fn counted_clone_options(&self) -> CloneOptions {
        CloneOptions { progress: Arc::clone(&self.progress), ..self.clone_options() }
    }

    /// How long the operation still waits for transient refusals.
    pub(crate) fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }

    /// The filesystems that the operation met.
    #[cfg(unix)]
    pub(crate) fn filesystems(&self) -> &Arc<Filesystems> {
        &self.filesystems
    }

    /// Adds files to the number that are to be done.
    pub(crate) fn expect(&self, files: u64) {
        self.progress.expected.fetch_add(files, Ordering::Relaxed);
    }

    /// Adds files to the number that are done.
    pub(crate) fn files_done(&self, files: u64) {
        self.progress.files.fetch_add(files, Ordering::Relaxed);
    }

    /// Counts a file of this size as done.
    pub(crate) fn file_done(&self, bytes: u64) {
        self.files_done(1);
        self.bytes_done(bytes);
    }

    /// Adds bytes to those that are to be done.
    #[cfg(feature = "remote")]
    pub(crate) fn expect_bytes(&self, bytes: u64) {
        self.progress.expected_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes to those that are done.
    pub(crate) fn bytes_done(&self, bytes: u64) {
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Tells the caller that only renames into place and deletions are left.
    pub(crate) fn publishes(&self) {
        self.progress.publishing.store(true, Ordering::Relaxed);
    }
}

//! An operation while it runs: how it is stopped, what it tells, how many threads it may have, and how long it has waited.
//!
//! It is made where the caller's options come in, and ends with the call, so nothing that one operation learns changes the
//! next. The destinations that an operation works on have their own state ([`Sharing`](super::sharing::Sharing)), and end with it, too.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[cfg(feature = "store")]
use super::CloneOptions;
use crate::reflink::Patience;
use crate::report::{Cancel, Progress};

/// How long transient refusals are waited for in one operation, where a copy will do: a ZFS transaction group takes 5 s to close, and
/// nobody waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// See the module. Clones are the same operation.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    jobs: Option<NonZeroUsize>,
    cancel: Cancel,
    progress: Arc<Progress>,
    patience: Arc<Patience>,
}

#[cfg(test)]
impl Default for Running {
    fn default() -> Self {
        Self::new(None, &Cancel::default(), &Arc::default())
    }
}

impl Running {
    /// With so many threads; as many as there are processors, but at most 8, where the caller does not say.
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
        }
    }

    /// It waits so long for transient refusals.
    pub(crate) fn with_patience(self, most: Duration) -> Self {
        Self { patience: Arc::new(Patience::new(most)), ..self }
    }

    /// The same operation, with so many threads.
    pub(crate) fn with_jobs(&self, jobs: usize) -> Self {
        Self { jobs: NonZeroUsize::new(jobs), ..self.clone() }
    }

    /// How many threads it may have; at least one.
    pub(crate) fn jobs(&self) -> usize {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from).min(8);
        self.jobs.map_or_else(processors, usize::from)
    }

    /// Whether the caller wants no result any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// For a clone that is a part of it. Nobody counts its files.
    #[cfg(feature = "store")]
    pub(crate) fn clone_options(&self) -> CloneOptions {
        CloneOptions { jobs: self.jobs, cancel: self.cancel.clone(), ..CloneOptions::new() }
    }

    /// How long it still waits for transient refusals.
    pub(crate) fn patience(&self) -> &Arc<Patience> {
        &self.patience
    }

    /// So many files more are to be done.
    pub(crate) fn expect(&self, files: u64) {
        self.progress.expected.fetch_add(files, Ordering::Relaxed);
    }

    /// So many files are done.
    pub(crate) fn files_done(&self, files: u64) {
        self.progress.files.fetch_add(files, Ordering::Relaxed);
    }

    /// A file of this size is done.
    pub(crate) fn file_done(&self, bytes: u64) {
        self.files_done(1);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Only the renames into place and deletions are left.
    pub(crate) fn publishes(&self) {
        self.progress.publishing.store(true, Ordering::Relaxed);
    }
}

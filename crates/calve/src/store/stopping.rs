//! Whether the program is to stop, for waits that know of no operation: for a git, or for the lock
//! of another process.

use std::sync::OnceLock;
use std::time::Duration;

use crate::report::Cancel;

/// A wait that has taken this long ends if the program is to stop. Whatever a rollback waits for
/// takes less.
pub(crate) const STOPPED_MOST: Duration = Duration::from_secs(3);

static STOPPED: OnceLock<Cancel> = OnceLock::new();

/// Ends what this process waits for without a look at the token of an operation (a git, which gets
/// SIGTERM, or a lock of another process), once `cancel` is set and the wait has taken three
/// seconds. What waited fails.
///
/// Only the first call in a process counts.
pub fn end_waits_with(cancel: &Cancel) {
    STOPPED.get_or_init(|| cancel.clone());
}

/// Whether the program is to stop.
pub(crate) fn is_stopping() -> bool {
    STOPPED.get().is_some_and(Cancel::is_cancelled)
}

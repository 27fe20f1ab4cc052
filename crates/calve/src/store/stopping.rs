//! Some waits know of no operation: those for a git, and those for the lock of another process. Here
//! they learn whether the program is to stop, and here they tell that they take long.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::report::Cancel;

/// A wait that has taken this long ends if the program is to stop. Whatever a rollback waits for
/// takes less.
pub(crate) const STOPPED_MOST: Duration = Duration::from_secs(3);

/// After so long, the user is told that calve waits for the lock of another process.
pub(crate) const TELL: Duration = Duration::from_secs(5);

/// A wait for the lock of a stopped process fails once it has taken this long.
pub(crate) const STOPPED_HOLDER: Duration = Duration::from_secs(20);

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

type Tell = dyn Fn(&Path, &str) + Send + Sync;

static TOLD: OnceLock<Box<Tell>> = OnceLock::new();

/// Calls `tell` when calve has waited five seconds for the lock of another process, once for each
/// wait. `tell` gets the path of the locked file, and the process that holds it, for a message:
/// `process 4711 (calve, stopped)`, or `another process` if the system does not say which. The wait
/// goes on. It fails after half an hour, or after twenty seconds if that process is stopped.
///
/// Only the first call in a process counts.
pub fn tell_of_waits_with(tell: impl Fn(&Path, &str) + Send + Sync + 'static) {
    TOLD.get_or_init(|| Box::new(tell));
}

pub(crate) fn tell_of_wait(lock: &Path, holder: &str) {
    if let Some(tell) = TOLD.get() {
        tell(lock, holder);
    }
}

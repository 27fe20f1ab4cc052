//! Work that a process does in the background, which yields to everybody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::StoreOptions;
use crate::error::Error;
use crate::reflink::sys;
use crate::report::Cancel;
use crate::tree::running::Running;

/// How often calve looks whether another process wants the store for itself.
const LOOK: Duration = Duration::from_millis(20);

/// Gives the calling thread, and the threads that it starts from now on, the lowest priority. On
/// Linux it also gets the disk only while nobody else wants it. For programs that call
/// [`Store::make_ready_trees`](crate::Store::make_ready_trees) in the background. Without the right
/// to do so, it does nothing.
pub fn lowest_priority() {
    sys::lowest_priority();
}

/// Lets the program that `command` runs inherit the three standard streams, and no other
/// descriptor. A process in the background must not keep a pipe of the caller's open, because the
/// caller may read it to its end.
pub fn inherit_streams_only(command: &mut std::process::Command) {
    sys::inherit_streams_only(command);
}

/// Sets SIGCHLD to its default if this process has inherited that it is ignored: then no answer of
/// git arrives. For a program at its start.
pub fn keep_answers_of_children() {
    sys::keep_answers_of_children();
}

/// Calls `work` with an operation that is cancelled as soon as `is_needed` says that another
/// process needs what this one has.
pub(crate) fn until_needed<T>(
    options: &StoreOptions,
    is_needed: impl Fn() -> bool + Sync,
    work: impl FnOnce(&Running) -> Result<T, Error>,
) -> Result<T, Error> {
    let stop = Cancel::default();
    let done = AtomicBool::new(false);
    let stoppable = StoreOptions { cancel: stop.clone(), ..options.clone() };
    std::thread::scope(|scope| {
        let watch = || {
            while !done.load(Ordering::Relaxed) {
                if options.cancel.is_cancelled() || is_needed() {
                    stop.cancel();
                }
                std::thread::park_timeout(LOOK);
            }
        };
        let watcher = std::thread::Builder::new().spawn_scoped(scope, watch);
        let Ok(watcher) = watcher else {
            // The limit of threads is reached: nobody can look whether another process waits.
            return work(&options.operation());
        };
        let result = work(&stoppable.operation());
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    })
}

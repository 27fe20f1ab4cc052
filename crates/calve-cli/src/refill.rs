//! Background work after a start: a separate process makes the ready tree that the next start
//! takes, or names the contents of worktrees that were made without reading them.

use calve::{Store, StoreOptions};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::trash;

/// Starts the process that makes the missing ready trees, if the store keeps any. If it cannot be
/// started, nothing fails: the next start makes its tree itself.
pub(crate) fn refill_behind(store: &Store) {
    if store.ready_trees_kept() > 0 {
        let _ = trash::detach(store, "refill");
    }
}

/// Starts the process that names the contents of worktrees that were made without reading them. If
/// it cannot be started, nothing fails: the next command that needs the names makes them.
pub(crate) fn name_behind(store: &Store) {
    let _ = trash::detach(store, "name");
}

/// The work of the process that names contents.
pub(crate) fn name(store: &Store) -> Result<Exit, Failure> {
    in_the_background();
    let report = store.name_contents_behind(&StoreOptions::new())?;
    // The start could not know yet whether the store keeps a ready tree of this snapshot.
    if !report.stopped && store.ready_trees_kept() > 0 {
        return make(store);
    }
    Ok(Exit::Done)
}

fn in_the_background() {
    if trash::begin_session() {
        // Where the scheduler groups processes by session, `nice` only counts inside a group, and
        // no other process is in this group. So we lower the group, too.
        #[cfg(target_os = "linux")]
        let _ = std::fs::write("/proc/self/autogroup", "19");
    }
    calve::lowest_priority();
}

/// The work of the process that makes ready trees.
pub(crate) fn refill(store: &Store) -> Result<Exit, Failure> {
    in_the_background();
    make(store)
}

fn make(store: &Store) -> Result<Exit, Failure> {
    store.make_ready_trees(&StoreOptions::new())?;
    Ok(Exit::Done)
}

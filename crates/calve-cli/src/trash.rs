//! Deleting behind: what was dropped is renamed into the store's trash, and a process of its own deletes it from there.

use std::io;
use std::process::{Command, Stdio};

use calve::{DroppedWorktree, Store};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::store_failure;
use crate::output::Output;

/// Has the trash of `stores` emptied by other processes; where none can be had, by this one. That something could not be
/// deleted is told and fails nothing: it is dropped, and the next to empty the trash tries again.
pub(crate) fn empty_behind(stores: &[Store], remains: Vec<DroppedWorktree>, output: Output) {
    let detached = stores.iter().all(|store| detach(store, "empty-trash").is_ok());
    for dropped in remains {
        if !(detached && dropped.is_in_trash())
            && let Err(error) = dropped.delete()
        {
            output.warning(store_failure(&error).message());
        }
    }
}

/// Starts `calve store VERB`, with no stream, folder or (see [`empty`]) terminal of ours.
pub(crate) fn detach(store: &Store, verb: &str) -> io::Result<()> {
    let null = Stdio::null;
    Command::new(std::env::current_exe()?)
        .arg("--store")
        .arg(store.path())
        .args(["store", verb])
        .current_dir("/")
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()
        // It is not waited for: it outlives us.
        .map(drop)
}

/// What the other process does.
pub(crate) fn empty(store: &Store) -> Result<Exit, Failure> {
    // A terminal that is closed, or a Ctrl-C in it, is nothing to a session of its own. Whoever called this by hand
    // may lead a group already, and then stays where he is.
    let _ = rustix::process::setsid();
    store.empty_trash().map_err(|error| store_failure(&error))?;
    Ok(Exit::Done)
}

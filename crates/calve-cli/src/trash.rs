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

/// Starts `calve store VERB`, with no stream, folder or (see [`begin_session`]) terminal of ours.
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

/// Begins a session, so that neither a closed terminal nor a Ctrl-C in it ends this process. Returns whether it did: a command
/// that was typed into a terminal may lead a process group, and then it stays in its session.
pub(crate) fn begin_session() -> bool {
    rustix::process::setsid().is_ok()
}

/// What the other process does.
pub(crate) fn empty(store: &Store) -> Result<Exit, Failure> {
    begin_session();
    store.empty_trash().map_err(|error| store_failure(&error))?;
    Ok(Exit::Done)
}

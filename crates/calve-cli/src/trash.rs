//! Deletes dropped worktrees in the background. A drop renames a worktree into the store's trash,
//! and another process deletes it from there.

use std::io;
use std::process::{Command, Stdio};

use calve::{DroppedWorktree, Store};

use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::store_failure;
use crate::output::Output;
use crate::text::shown;

/// Empties the trash of `stores` in other processes. This process itself deletes those of `remains`
/// that are in no trash; if it cannot start the other processes, it deletes all. A file that cannot
/// be deleted is a warning and no failure: the worktree is dropped, and the next process that
/// empties the trash tries again.
pub(crate) fn empty_behind(stores: &[Store], remains: Vec<DroppedWorktree>, output: Output) {
    for store in stores {
        match store.left_in_trash() {
            Ok(left) => left.iter().for_each(|path| {
                let path = shown(path);
                output.warning(format_args!(
                    "{path} of an earlier drop is still not deleted: 'calve store gc' says why"
                ));
            }),
            Err(error) => output.warning(store_failure(&error).message()),
        }
    }
    let detached = stores.iter().all(|store| detach(store, "empty-trash").is_ok());
    for dropped in remains {
        if !(detached && dropped.is_in_trash())
            && let Err(error) = dropped.delete()
        {
            output.warning(store_failure(&error).message());
        }
    }
}

/// Starts `calve store VERB` with no stream, other descriptor or folder of ours, and (see [`begin_session`]) without
/// our terminal.
pub(crate) fn detach(store: &Store, verb: &str) -> io::Result<()> {
    let null = Stdio::null;
    let mut command = Command::new(std::env::current_exe()?);
    calve::inherit_streams_only(&mut command);
    command
        .arg("--store")
        .arg(store.path())
        .args(["store", verb])
        .current_dir("/")
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn()
        // We do not wait for the child: it outlives us.
        .map(drop)
}

/// Begins a session, so that neither a closed terminal nor Ctrl-C in it ends this process. Returns
/// whether it did. A command that was typed into a terminal may lead a process group; then it stays
/// in its session.
pub(crate) fn begin_session() -> bool {
    rustix::process::setsid().is_ok()
}

/// The work of the process that empties the trash.
pub(crate) fn empty(store: &Store) -> Result<Exit, Failure> {
    begin_session();
    store.empty_trash()?;
    Ok(Exit::Done)
}

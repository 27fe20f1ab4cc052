//! git's file monitor (`git fsmonitor--daemon`): one process for each working tree in which
//! `core.fsmonitor` is on. git starts it with the first command that asks for changes, and it stays
//! until its tree is gone, or for ever if it does not notice that.
//!
//! It is no process that works in the tree: it reads, and git starts another one when it is needed.
//! So it is no reason against a drop, and the drop stops it. The monitor of a repository inside the
//! worktree is left to notice that its tree is gone.

use std::io;
use std::path::Path;

use super::Worktree;
use crate::error::{Context as _, Error, Operation};
use crate::store::git::{self, Git};

/// Its socket, in the folder of the working tree's own repository. Where a socket cannot be there
/// (a network filesystem), git has it in the home folder under another name, and calve does not
/// find it.
const SOCKET: &str = "fsmonitor--daemon.ipc";

/// The argument that makes a git a file monitor.
const MONITOR: &[u8] = b"fsmonitor--daemon";

/// Whether a process with this name and this command line (`/proc/PID/cmdline`) is a file monitor.
pub(super) fn is_file_monitor(name: &[u8], command_line: &[u8]) -> bool {
    name.starts_with(b"git") && command_line.split(|byte| *byte == 0).any(|word| word == MONITOR)
}

impl Worktree {
    /// Stops the worktree's file monitor, and waits until it has ended. If the drop refuses later,
    /// git starts another one.
    ///
    /// # Errors
    /// The monitor may still run.
    pub(super) fn stop_file_monitor(&self) -> Result<(), Error> {
        let path = &self.path;
        // What is wrong with the repository is said by those who need it.
        let Ok(Some(repository)) = git::read(path) else { return Ok(()) };
        if std::fs::symlink_metadata(repository.git_dir.join(SOCKET)).is_err() {
            return Ok(());
        }
        match Git::new(path).args([Path::new("fsmonitor--daemon"), Path::new("stop")]).run() {
            // A monitor that was killed leaves its socket.
            Err(failure) if failure.to_string().contains("is not running") => Ok(()),
            stopped => stopped
                .map(drop)
                .map_err(|failure| io::Error::other(format!("its file monitor: {failure}")))
                .context(Operation::DropWorktree, || path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_file_monitor;

    #[test]
    fn only_a_git_that_was_started_as_one_is_a_file_monitor() {
        for (name, command_line, expected) in [
            ("git", "git\0fsmonitor--daemon\0run\0--detach\0--ipc-threads=8\0", true),
            ("git", "/usr/lib/git-core/git\0-C\0/a\0fsmonitor--daemon\0run\0", true),
            ("git", "git\0log\0--grep=fsmonitor--daemon\0", false),
            ("vim", "vim\0fsmonitor--daemon\0", false),
            ("git", "", false),
        ] {
            let is = is_file_monitor(name.as_bytes(), command_line.as_bytes());
            assert_eq!(is, expected, "{name} {command_line:?}");
        }
    }
}

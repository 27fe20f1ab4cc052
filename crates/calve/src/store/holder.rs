//! Finds the process that holds a lock, by what `/proc` says of the files that processes have open
//! (`proc_pid_fdinfo(5)`). Only Linux says it, and only of processes that this one may look into.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockHolder {
    pid: u32,
    /// The name of its program, as the kernel has it: at most 15 bytes.
    command: String,
    /// It got SIGSTOP or the like, and does nothing.
    pub(crate) is_stopped: bool,
}

impl LockHolder {
    /// Another process that holds a lock of any of these `modes` (`READ`, `WRITE`) on one of the
    /// files.
    pub(crate) fn of(files: &[&Path], modes: &[&str]) -> Option<Self> {
        let files = files.iter().flat_map(fs::metadata);
        let files: Vec<(u64, u64)> = files.map(|found| (found.dev(), found.ino())).collect();
        let is_one = |found: fs::Metadata| files.contains(&(found.dev(), found.ino()));
        // `lock:`, number, kind, ADVISORY, mode, process, device:inode, range. The process may have
        // ended, and have left the lock to those that inherited the open file. The device is that
        // of the superblock, which on btrfs no file has, so the file decides. A look at the file of
        // a server that is away may take for ever: only files with this inode number are looked at.
        let is_lock = |line: &str| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let ["lock:", _, _, _, mode, _, place, ..] = fields[..] else { return false };
            let inode = place.rsplit(':').next().and_then(|inode| inode.parse().ok());
            modes.contains(&mode) && files.iter().any(|file| Some(file.1) == inode)
        };
        fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
            let pid: u32 = process.file_name().to_str()?.parse().ok()?;
            let of_it = process.path();
            let mut open = fs::read_dir(of_it.join("fdinfo")).ok()?.flatten();
            let holds = open.any(|open| {
                fs::read_to_string(open.path()).is_ok_and(|info| info.lines().any(is_lock))
                    && fs::metadata(of_it.join("fd").join(open.file_name())).is_ok_and(is_one)
            });
            if !holds || pid == std::process::id() {
                return None;
            }
            // The command is in brackets, and may hold some.
            let stat = String::from_utf8_lossy(&fs::read(of_it.join("stat")).ok()?).into_owned();
            let (start, state) = stat.rsplit_once(") ")?;
            let (_, command) = start.split_once(" (")?;
            let is_stopped = state.starts_with(['T', 't']);
            Some(Self { pid, command: command.to_owned(), is_stopped })
        })
    }

    /// The process, as messages name it.
    pub(crate) fn named(holder: Option<Self>) -> String {
        match holder {
            Some(Self { pid, command, is_stopped: false }) => format!("process {pid} ({command})"),
            Some(Self { pid, command, .. }) => format!("process {pid} ({command}, stopped)"),
            None => "another process".to_owned(),
        }
    }
}

//! Calls that all Unix systems have.

#![expect(unsafe_code, reason = "close(2), getrlimit(2), signal(3), and what a child inherits")]

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::Errno;

/// A limit of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    OpenFiles,
    FileBytes,
}

/// The limit that is in force now (the soft one). `None` if there is none.
///
/// # Errors
/// A sandbox refuses the question. rustix has no error for that.
#[allow(
    clippy::allow_attributes,
    clippy::unnecessary_cast,
    reason = "the type differs from platform to platform"
)]
pub(crate) fn soft_limit(limit: Limit) -> io::Result<Option<u64>> {
    let resource = match limit {
        Limit::OpenFiles => libc::RLIMIT_NOFILE,
        Limit::FileBytes => libc::RLIMIT_FSIZE,
    };
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) writes one `rlimit`.
    match unsafe { libc::getrlimit(resource, &raw mut limits) } {
        0 => Ok((limits.rlim_cur != libc::RLIM_INFINITY).then_some(limits.rlim_cur as u64)),
        _ => Err(io::Error::from(io::ErrorKind::PermissionDenied)),
    }
}

/// Closes a file after writing to it. NFS and quotas report lost bytes only now, see close(2).
pub(crate) fn close_written(file: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is ours alone, and is given up to the call whether it fails or not.
    match unsafe { rustix::io::try_close(file.into_raw_fd()) } {
        // The file is closed in this case, too.
        Ok(()) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets SIGCHLD to its default if this process has inherited that it is ignored. The system keeps
/// no exit status of a child while it is ignored.
pub(crate) fn keep_answers_of_children() {
    // SAFETY: SIG_DFL runs no code of ours.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if before != libc::SIG_IGN && before != libc::SIG_ERR {
        // SAFETY: this is the handler that the process had.
        unsafe { libc::signal(libc::SIGCHLD, before) };
    }
}

/// The descriptors that are taken for open where the system does not list them.
const MAYBE_OPEN: std::ops::Range<RawFd> = 3..256;

/// Lets the program that `command` runs inherit the three standard streams, and no other
/// descriptor.
pub(crate) fn inherit_streams_only(command: &mut Command) {
    let listed = std::fs::read_dir("/dev/fd").map(|entries| {
        let number = |entry: io::Result<std::fs::DirEntry>| {
            entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok()
        };
        entries.filter_map(number).filter(|&number| number > 2).collect::<Vec<_>>()
    });
    let open = listed.unwrap_or_else(|_| MAYBE_OPEN.collect());
    let mark = move || {
        if !super::mark_all_close_on_exec() {
            for &descriptor in &open {
                // It fails for a descriptor that is closed by now.
                // SAFETY: fcntl(2) touches no memory of ours.
                unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, `mark` makes system calls only: it allocates nothing and takes
    // no lock.
    unsafe { command.pre_exec(mark) };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_program_inherits_the_streams_and_nothing_else() {
        // Unlike everything that calve opens, a duplicate is not closed on exec.
        let kept = rustix::io::dup(std::fs::File::open("/").unwrap()).unwrap();
        let look = format!("[ -e /dev/fd/{} ]", kept.as_raw_fd());
        for (is_closed, expected) in [(false, true), (true, false)] {
            let mut command = Command::new("sh");
            command.args(["-c", &look]);
            if is_closed {
                inherit_streams_only(&mut command);
            }
            assert_eq!(command.status().unwrap().success(), expected);
        }
    }
}

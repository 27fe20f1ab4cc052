//! Calls that all Unix systems have.

#![expect(unsafe_code, reason = "close(2) and getrlimit(2), whose errors matter")]

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

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

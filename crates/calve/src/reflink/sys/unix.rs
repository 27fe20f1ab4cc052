//! Calls that all Unix systems have.

#![expect(unsafe_code, reason = "close(2) of a descriptor whose errors matter")]

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};

use rustix::io::Errno;

/// Closes a file after writing to it. NFS and quotas report lost bytes only now, see close(2).
pub(crate) fn close_written(file: OwnedFd) -> io::Result<()> {
    // SAFETY: the descriptor is ours alone, and is given up to the call whether it fails or not.
    match unsafe { rustix::io::try_close(file.into_raw_fd()) } {
        // The file is closed in this case, too.
        Ok(()) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

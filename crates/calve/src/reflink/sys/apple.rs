//! macOS, iOS and their relatives: `fclonefileat` (clonefile(2)), which creates the clone's file
//! itself.
//!
//! No call clones into an open file, and none clones a part of a file. The functions for these fail
//! with `ENOTSUP`.

#![expect(unsafe_code, reason = "mkfifoat, which rustix does not have here")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{self, CloneFlags, Mode};
use rustix::io::Errno;

use super::super::verdict::Verdict;

/// Cloning makes the file itself, by [`clone_at`].
pub(crate) const CLONE_MAKES_THE_FILE: bool = true;

/// errno → verdict, for `fclonefileat` and for `link(2)`. The causes are from clonefile(2) and
/// link(2), unless another source is named.
///
/// `EINVAL` means that the source is not a kind of file that can be cloned (moby's `copy_darwin.go`
/// copies then, too). `EEXIST` is for the caller who chose the name; calve never writes to the
/// existing file.
pub(crate) const TABLE: &[(i32, Verdict)] = &[
    (libc::ENOTSUP, Verdict::Filesystem),
    // Another number than ENOTSUP here; network filesystems pass it on.
    (libc::EOPNOTSUPP, Verdict::Filesystem),
    (libc::ENOSYS, Verdict::Filesystem),
    (libc::EXDEV, Verdict::Filesystem),
    (libc::EPERM, Verdict::File),
    (libc::EACCES, Verdict::File),
    (libc::EDEADLK, Verdict::File),
    (libc::EINVAL, Verdict::File),
    (libc::EMLINK, Verdict::File),
    (libc::EAGAIN, Verdict::Retry),
    (libc::EINTR, Verdict::Retry),
    (libc::EEXIST, Verdict::Fatal),
    (libc::EIO, Verdict::Fatal),
    (libc::ENOSPC, Verdict::Fatal),
    (libc::EDQUOT, Verdict::Fatal),
    (libc::ENOMEM, Verdict::Fatal),
    (libc::EROFS, Verdict::Fatal),
    (libc::EBADF, Verdict::Fatal),
    (libc::ELOOP, Verdict::Fatal),
    (libc::ENAMETOOLONG, Verdict::Fatal),
];

/// Clones the open file `source` to the new file `name` in `dest_dir`, as a whole or not at all. If
/// anything has this name already, even a symbolic link, the call fails with `EEXIST`.
///
/// The clone has the source's mode (without setuid and setgid), times, flags and extended
/// attributes, including `com.apple.quarantine`; for a privileged caller also the owner. ACLs come
/// from the directory and not from the source: that would need `CLONE_ACL`. All this is in
/// clonefile(2).
///
/// The flag `CLONE_NOFOLLOW` is needed because without flags the call follows symbolic links. The
/// flag is meant for the source, which is open here; coreutils found that it also covers the
/// destination's name.
pub(crate) fn clone_at(source: impl AsFd, dest_dir: impl AsFd, name: &CStr) -> io::Result<()> {
    Ok(fs::fclonefileat(source, dest_dir, name, CloneFlags::NOFOLLOW)?)
}

/// Not possible here: see [`clone_at`].
pub(crate) fn clone_file(_source: impl AsFd, _dest: impl AsFd) -> io::Result<()> {
    Err(Errno::NOTSUP.into())
}

/// Not possible here: APFS clones whole files only.
pub(crate) fn clone_range(
    _source: impl AsFd,
    _source_offset: u64,
    _length: u64,
    _dest: impl AsFd,
    _dest_offset: u64,
) -> io::Result<()> {
    Err(Errno::NOTSUP.into())
}

/// Makes the FIFO `name` in `dir` with mkfifoat(2), which macOS has since version 13. calve looks
/// the function up at run time, because a program that links to it does not start on an older
/// system. There this fails with `ENOSYS`.
pub(crate) fn make_fifo(dir: impl AsFd, name: &CStr, mode: Mode) -> rustix::io::Result<()> {
    type Mkfifoat = unsafe extern "C" fn(c_int, *const c_char, libc::mode_t) -> c_int;
    // SAFETY: the name is terminated; the handle is the one that stands for every loaded image.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mkfifoat".as_ptr()) };
    if symbol.is_null() {
        return Err(Errno::NOSYS);
    }
    // SAFETY: the only symbol with this name is the function of <sys/stat.h>, which has this type.
    let mkfifoat = unsafe { mem::transmute::<*mut c_void, Mkfifoat>(symbol) };
    // SAFETY: the descriptor is borrowed for the length of the call, and the name is terminated.
    if unsafe { mkfifoat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode.as_raw_mode()) } == 0 {
        return Ok(());
    }
    // SAFETY: it gives the thread's own errno, which is valid as long as the thread is.
    Err(Errno::from_raw_os_error(unsafe { *libc::__error() }))
}

/// The name of the filesystem of `path` (`apfs`, `hfs`, `smbfs`, …): `f_fstypename` of statfs(2).
pub(crate) fn filesystem_name(path: &Path) -> Option<String> {
    name_from(&fs::statfs(path).ok()?.f_fstypename)
}

/// The name of the filesystem of an open file.
pub(crate) fn filesystem_name_of(file: impl AsFd) -> Option<String> {
    name_from(&fs::fstatfs(file).ok()?.f_fstypename)
}

/// The characters up to the first NUL.
fn name_from(field: &[c_char]) -> Option<String> {
    let bytes: Vec<u8> =
        field.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|&byte| byte != 0).collect();
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::super::verdict::classify;
    use super::*;

    #[test]
    fn each_errno_of_a_clone_has_the_verdict_of_its_known_causes() {
        for (cause, errno, expected) in [
            ("HFS+, exFAT, SMB", libc::ENOTSUP, Verdict::Filesystem),
            ("a network filesystem's other number for it", libc::EOPNOTSUPP, Verdict::Filesystem),
            ("a kernel before macOS 10.12", libc::ENOSYS, Verdict::Filesystem),
            ("another volume", libc::EXDEV, Verdict::Filesystem),
            ("a sandbox, another owner's file, an immutable folder", libc::EPERM, Verdict::File),
            ("no right to read the source", libc::EACCES, Verdict::File),
            ("iCloud: the source's content is not on this machine", libc::EDEADLK, Verdict::File),
            ("neither a file nor a link nor a folder", libc::EINVAL, Verdict::File),
            ("the link count is exhausted", libc::EMLINK, Verdict::File),
            ("something is short for a moment", libc::EAGAIN, Verdict::Retry),
            ("a signal", libc::EINTR, Verdict::Retry),
            ("the name is taken", libc::EEXIST, Verdict::Fatal),
            ("a failing disk", libc::EIO, Verdict::Fatal),
            ("the disk is full", libc::ENOSPC, Verdict::Fatal),
            ("the quota is full", libc::EDQUOT, Verdict::Fatal),
            ("a read-only volume", libc::EROFS, Verdict::Fatal),
            ("a file descriptor of the wrong kind: our own bug", libc::EBADF, Verdict::Fatal),
            ("an errno nobody has seen here", libc::ENOTRECOVERABLE, Verdict::Fatal),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(errno)), expected, "{cause}");
        }
    }

    #[test]
    fn a_filesystem_name_ends_at_the_first_nul() {
        let field =
            |text: &[u8]| text.iter().map(|&byte| byte.cast_signed()).collect::<Vec<c_char>>();
        for (stored, expected) in [
            (&b"apfs\0\0\0"[..], Some("apfs")),
            (b"apfs\0old", Some("apfs")),
            (b"sixteen-bytes-ab", Some("sixteen-bytes-ab")),
            (b"\0", None),
            (b"", None),
            (b"\xff\0", None),
        ] {
            assert_eq!(name_from(&field(stored)).as_deref(), expected);
        }
    }
}

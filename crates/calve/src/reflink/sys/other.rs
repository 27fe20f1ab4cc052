//! Other Unix systems, on which calve cannot clone: each call fails with `EOPNOTSUPP`, and the
//! caller copies.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

use super::super::verdict::Verdict;

/// A clone would fill a file that the caller made.
pub(crate) const CLONE_MAKES_THE_FILE: bool = false;

/// errno → verdict, for the calls below and for link(2), by POSIX.
pub(crate) const TABLE: &[(i32, Verdict)] = &[
    (libc::EOPNOTSUPP, Verdict::Filesystem),
    // ENOTSUP is the same number as EOPNOTSUPP on most of these systems, but not on all.
    (libc::ENOTSUP, Verdict::Filesystem),
    (libc::ENOSYS, Verdict::Filesystem),
    (libc::EXDEV, Verdict::Filesystem),
    (libc::EPERM, Verdict::File),
    (libc::EACCES, Verdict::File),
    (libc::EMLINK, Verdict::File),
    (libc::EAGAIN, Verdict::Retry),
    (libc::EINTR, Verdict::Retry),
    (libc::EEXIST, Verdict::Fatal),
    (libc::EIO, Verdict::Fatal),
    (libc::ENOSPC, Verdict::Fatal),
    (libc::EDQUOT, Verdict::Fatal),
    (libc::EROFS, Verdict::Fatal),
];

/// Not possible here.
pub(crate) fn clone_at(_source: impl AsFd, _dir: impl AsFd, _name: &CStr) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// Not possible here.
pub(crate) fn clone_file(_source: impl AsFd, _dest: impl AsFd) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// Not possible here.
pub(crate) fn clone_range(
    _source: impl AsFd,
    _source_offset: u64,
    _length: u64,
    _dest: impl AsFd,
    _dest_offset: u64,
) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// The name of the filesystem `path` is on (`zfs`, `ufs`, …): `f_fstypename` of FreeBSD's
/// statfs(2).
#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
pub(crate) fn filesystem_name(path: &Path) -> Option<String> {
    name_of(&rustix::fs::statfs(path).ok()?)
}

/// The name of the filesystem of an open file.
#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
pub(crate) fn filesystem_name_of(file: impl AsFd) -> Option<String> {
    name_of(&rustix::fs::fstatfs(file).ok()?)
}

#[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
fn name_of(found: &rustix::fs::StatFs) -> Option<String> {
    let field = found.f_fstypename;
    let bytes: Vec<u8> =
        field.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|&byte| byte != 0).collect();
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

/// calve does not ask: each system keeps the name in another place.
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly")))]
pub(crate) fn filesystem_name(_path: &Path) -> Option<String> {
    None
}

/// See [`filesystem_name`].
#[cfg(not(any(target_os = "freebsd", target_os = "dragonfly")))]
pub(crate) fn filesystem_name_of(_file: impl AsFd) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::super::super::verdict::classify;
    use super::*;

    #[test]
    fn each_errno_has_the_verdict_of_its_known_causes() {
        for (cause, errno, expected) in [
            ("nothing is cloned here", libc::EOPNOTSUPP, Verdict::Filesystem),
            ("the same, by its other number", libc::ENOTSUP, Verdict::Filesystem),
            ("another filesystem", libc::EXDEV, Verdict::Filesystem),
            ("another owner's file, or no hard links", libc::EPERM, Verdict::File),
            ("no right to it", libc::EACCES, Verdict::File),
            ("the link count is exhausted", libc::EMLINK, Verdict::File),
            ("a signal", libc::EINTR, Verdict::Retry),
            ("the name is taken", libc::EEXIST, Verdict::Fatal),
            ("a failing disk", libc::EIO, Verdict::Fatal),
            ("the disk is full", libc::ENOSPC, Verdict::Fatal),
            ("an errno nobody has seen here", libc::ECONNABORTED, Verdict::Fatal),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(errno)), expected, "{cause}");
        }
    }

    #[test]
    fn cloning_says_that_this_system_cannot() {
        let file = tempfile::tempfile().unwrap();
        for refused in [clone_file(&file, &file), clone_range(&file, 0, 4096, &file, 4096)] {
            assert_eq!(classify(&refused.unwrap_err()), Verdict::Filesystem);
        }
    }
}

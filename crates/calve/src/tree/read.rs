//! Opens what is only read, and reads ignore files in an open directory: for the walk and for the
//! store's scan.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;

/// calve takes no larger file for an ignore file. git reads a hundred times as much. But a compiled
/// pattern takes up to three hundred times its length, and the tree may be somebody else's.
const RULES_MOST_BYTES: u64 = 1024 * 1024;

/// Opens a directory or a file so that reading it does not set when it was last read. Each new time
/// costs the filesystem a change of metadata: a transaction of XFS, and in a new snapshot of btrfs
/// a block of its own. The kernel lets only the owner read without a trace, so other people's
/// entries are opened as usual.
pub(crate) fn open_unnoted(
    parent: &OwnedFd,
    name: &CStr,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    match fs::openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        // It is another user's.
        Err(Errno::PERM) => {}
        opened => return opened,
    }
    fs::openat(parent, name, flags, Mode::empty())
}

/// The content of an ignore file. Its path is `names`: calve opens each name in the one before.
/// `None` if one of them is missing or is a link, which may lead out of the source. Also `None` if
/// the last one is no regular file, or is too large.
pub(crate) fn read_rules(dir: &OwnedFd, names: &[&CStr]) -> io::Result<Option<Vec<u8>>> {
    let mut opened: Option<OwnedFd> = None;
    for (index, name) in names.iter().enumerate() {
        let flags = if index + 1 < names.len() {
            DIR_FLAGS | OFlags::NOFOLLOW
        } else {
            crate::reflink::imp::SOURCE_FLAGS
        };
        match fs::openat(opened.as_ref().unwrap_or(dir), *name, flags, Mode::empty()) {
            Ok(fd) => opened = Some(fd),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
    let Some(file) = opened else { return Ok(None) };
    let meta = Meta::of_file(&file)?;
    if meta.file_type() != FileType::RegularFile || meta.size > RULES_MOST_BYTES {
        return Ok(None);
    }
    let mut text = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(file), meta.size), &mut text)?;
    Ok(Some(text))
}

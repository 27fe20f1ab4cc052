//! Detects two names that a destination takes for one.
//!
//! Some filesystems ignore case (NTFS, APFS by default, a folder of ext4 with `chattr +F`) or how
//! an accent is written. So two entries of the source may have one place. In a fresh tree `O_EXCL`
//! detects that. A merge replaces existing entries, and could replace one that it has made itself.
//! So where names may be folded, the merge notes the inodes of its entries, and looks which inode
//! has a name before it takes that name. Only the filesystem knows which names it folds, but inodes
//! tell.
//!
//! Everywhere else this costs four calls for each merge, and one for each directory that was there
//! already.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::pool::lock;
use crate::reflink::meta::Meta;

/// Whether names may be folded in `dir`, which is ours. In doubt the answer is yes.
///
/// # Errors
/// No directory can be made there.
pub(super) fn may_be_one(dir: &OwnedFd) -> rustix::io::Result<bool> {
    const MADE: &str = "calve-\u{e9}";
    const OTHER_CASE: &str = "CALVE-\u{e9}";
    const OTHER_FORM: &str = "calve-e\u{301}";
    match fs::mkdirat(dir, MADE, Mode::RWXU) {
        Ok(()) => {}
        // It takes no such name, or does not show it at once.
        Err(Errno::INVAL | Errno::ILSEQ | Errno::NAMETOOLONG | Errno::NOENT | Errno::EXIST) => {
            return Ok(true);
        }
        Err(errno) => return Err(errno),
    }
    let is_there = |name| fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    let found = is_there(OTHER_CASE) || is_there(OTHER_FORM);
    Ok(fs::unlinkat(dir, MADE, AtFlags::REMOVEDIR).is_err() || found)
}

/// The entries that this operation has put into a directory, at each destination: their inodes and
/// names.
#[derive(Debug, Default)]
pub(super) struct Placed(Mutex<BTreeMap<AtDestination, CString>>);

/// A destination, and an inode at it.
type AtDestination = (usize, (u64, u64));

impl Placed {
    /// Puts an entry at `name` in `dir`, the directory at the destination `dest`. If this operation
    /// put the inode that is there under another name, returns that name as the error.
    pub(super) fn put<T, E>(
        &self,
        dest: usize,
        dir: &OwnedFd,
        name: &CStr,
        put: impl FnOnce() -> Result<T, E>,
    ) -> Result<Result<T, E>, CString> {
        let look = || Meta::at(dir, name);
        // The lock is held from the look to the note. Otherwise two threads could each find the
        // name free.
        let mut placed = lock(&self.0);
        if let Ok(found) = look()
            && let Some(first) = placed.get(&(dest, found.id()))
            && first.as_c_str() != name
            && !(has_names(&found) && differ(first, name))
        {
            return Err(first.clone());
        }
        let result = put();
        if result.is_ok()
            && let Ok(found) = look()
        {
            placed.insert((dest, found.id()), name.to_owned());
        }
        Ok(result)
    }
}

/// Whether the inode may have other names that are really other entries.
fn has_names(meta: &Meta) -> bool {
    meta.links > 1 && meta.file_type() != FileType::Directory
}

/// Whether two names are certainly different. Only asked for hard links.
fn differ(one: &CStr, other: &CStr) -> bool {
    let (one, other) = (one.to_bytes(), other.to_bytes());
    one.is_ascii() && other.is_ascii() && !one.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reflink::imp::DIR_FLAGS;

    #[test]
    fn what_was_put_is_not_replaced_under_another_name_that_leads_to_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let dir = fs::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let placed = Placed::default();
        std::fs::write(path("before"), "").unwrap();
        let put = |dest, name: &CStr| {
            let write = || std::fs::write(path(name.to_str().unwrap()), "");
            placed.put(dest, &dir, name, write).map(Result::unwrap)
        };
        assert_eq!(put(0, c"before"), Ok(()), "it was there before");
        assert_eq!(put(0, c"File"), Ok(()));
        assert_eq!(put(0, c"File"), Ok(()), "a folder that is being renamed in is read twice");
        // This imitates a filesystem that ignores case.
        std::fs::rename(path("File"), path("file")).unwrap();
        assert_eq!(put(0, c"file"), Err(c"File".to_owned()));
        assert_eq!(put(1, c"file"), Ok(()), "another destination");
        // A hard link under a clearly different name is another entry. Under a similar name it may
        // be the same.
        std::fs::hard_link(path("file"), path("other")).unwrap();
        assert_eq!(put(0, c"other"), Ok(()));
        std::fs::hard_link(path("file"), path("OTHER")).unwrap();
        assert_eq!(put(0, c"OTHER"), Err(c"other".to_owned()));
    }
}

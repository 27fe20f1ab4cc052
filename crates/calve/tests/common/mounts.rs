//! Filesystems of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem that is unmounted however the test ends.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// Kinds of filesystems that ignore the case of names.
pub(crate) const IGNORING_CASE: [&str; 2] = ["ext4 with casefold", "ntfs"];

/// A filesystem that ignores case, in `dir`. Its folder `root` does. `None` if this system has no
/// such filesystem.
pub(crate) fn ignoring_case(dir: &Path, kind: &str) -> Option<Mounted> {
    let lines = match kind {
        "ntfs" => {
            "truncate -s 200M image; mkfs.ntfs -F -f -q image
             lowntfs-3g -o ignore_case,permissions image mounted; mkdir mounted/root"
        }
        _ => {
            "truncate -s 200M image; mkfs.ext4 -q -F -O casefold image; mount -o loop image mounted
             mkdir mounted/root; chattr +F mounted/root"
        }
    };
    fs::create_dir_all(dir.join("mounted")).unwrap();
    let made = Command::new("sh").args(["-e", "-c", lines]).current_dir(dir).output().unwrap();
    let mounted = Mounted(dir.join("mounted"));
    let probe = mounted.0.join("root/Probe");
    let ignores = made.status.success()
        && fs::write(&probe, "").is_ok()
        && fs::remove_file(mounted.0.join("root/pROBE")).is_ok();
    ignores.then_some(mounted)
}

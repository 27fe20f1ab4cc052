//! Processes that files of a tree name, and that run: a server's pid file, the note of a daemon. In
//! a copy of the tree such a file is untrue. A second server does not start because of it, or a
//! script stops the project's.
//!
//! If it is certain that the process is one of the tree, a snapshot leaves the file out, as it
//! leaves out sockets. Otherwise the number may be a later process's, or the file something else. A
//! file that git tracks is git's: a tree without it would have a deletion.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use super::kinds::may_name_process;
use super::local::Tree;
use super::secrets::tracked_within;

/// Larger files are no notes of a process.
const MOST_BYTES: u64 = 4096;
/// What a file calls the number of a process.
const NAMES: [&str; 4] = ["pid", "processid", "process_id", "serverpid"];

/// The links by which Chromium and Firefox lock a profile.
const PROFILE_LOCKS: [&[u8]; 2] = [b"SingletonLock", b"lock"];

/// Whether an entry of this name may belong to a process.
pub(crate) fn may_be_owned(name: &[u8]) -> bool {
    may_name_process(name) || PROFILE_LOCKS.contains(&name)
}

/// The process to which the entry at `path` certainly belongs: it runs, and it works in the tree or
/// on a profile in the tree. `path` is one of those that [may be owned](may_be_owned). A file that
/// git tracks belongs to none.
pub(crate) fn owner_of(tree: Tree<'_>, path: &Path) -> Option<u32> {
    owner_by_its_note(tree, path).filter(|_| {
        let has = |path: &Path| std::fs::symlink_metadata(tree.path.join(path)).is_ok();
        !tracked_within(tree.path, has, [path].into_iter()).is_some_and(|it| it.contains(path))
    })
}

fn owner_by_its_note(tree: Tree<'_>, path: &Path) -> Option<u32> {
    let name = path.file_name()?.as_bytes();
    if PROFILE_LOCKS.contains(&name) {
        // What cannot be read is no sure sign.
        let target = std::fs::read_link(tree.path.join(path)).ok()?;
        let machine = rustix::system::uname();
        return locked_by(target.as_os_str().as_bytes(), machine.nodename().to_bytes())
            .filter(|pid| lives(*pid));
    }
    process_of(tree, path).ok().flatten().filter(|pid| works_in(*pid, tree.path))
}

/// The process that a lock of a profile names: `MACHINE-PID` (Chromium), or `ADDRESS:+PID`
/// (Firefox).
fn locked_by(target: &[u8], machine: &[u8]) -> Option<u32> {
    let pid = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok().filter(|pid| *pid > 1);
    if let Some(rest) = target.strip_prefix(machine).and_then(|it| it.strip_prefix(b"-")) {
        return pid(rest);
    }
    let at = target.iter().position(|byte| *byte == b':')?;
    let is_address = target[..at].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.');
    let rest = &target[at + 1..];
    pid(rest.strip_prefix(b"+").unwrap_or(rest)).filter(|_| is_address && at > 0)
}

/// Whether a process works in a folder of the tree, as far as /proc says it. There is none on macOS.
///
/// In another mount namespace, as `calve run` makes one, a path may mean another folder than here.
fn works_in(pid: u32, root: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/mnt")).ok();
    if namespace(&process) == namespace(Path::new("/proc/self")) {
        return std::fs::read_link(process.join("cwd"))
            .is_ok_and(|folder| folder.starts_with(root));
    }
    identity(root).is_some_and(|root| is_below(process.join("cwd"), root))
}

/// Device and inode of what a path leads to.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Whether the folder `at` is the one with this device and inode, or below it. From the current
/// folder that `/proc` has for a process, this goes up through the mounts of that process.
pub(crate) fn is_below(mut at: PathBuf, root: (u64, u64)) -> bool {
    let mut last = None;
    while let Some(here) = identity(&at) {
        if here == root {
            return true;
        }
        // The folder above the topmost one is that folder itself.
        if last == Some(here) {
            break;
        }
        at.push("..");
        last = Some(here);
    }
    false
}

/// The process that a file of the tree names, if it runs.
pub(super) fn process_of(tree: Tree<'_>, path: &Path) -> io::Result<Option<u32>> {
    let text = match tree.read_up_to(path, MOST_BYTES) {
        // Who may not read it does not learn the process from it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        text => text?,
    };
    let pid = text.and_then(|text| named_in(&String::from_utf8_lossy(&text)));
    Ok(pid.filter(|pid| lives(*pid)))
}

/// The number of a process that a text gives: as its first word, or after a name that says so.
fn named_in(text: &str) -> Option<u32> {
    let number = |text: &str| {
        let digits = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
        text[..digits].parse().ok().filter(|pid| *pid > 1)
    };
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit()) {
        return number(first);
    }
    let lower = text.to_ascii_lowercase();
    let mut words = lower.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_'));
    while let Some(word) = words.next() {
        if NAMES.contains(&word) {
            let value = words.by_ref().find(|word| !word.is_empty());
            if let Some(pid) = value.and_then(number) {
                return Some(pid);
            }
        }
    }
    None
}

/// Whether a process runs. One of another user counts: it may only not be sent a signal.
fn lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_process_is_read_in_each_form() {
        for (text, expected) in [
            ("4321\n", Some(4321)),
            ("4321\n/srv/data\n1700000000\n5432\n", Some(4321)),
            (r#"{"processId": 4321, "socketPath": "/tmp/x"}"#, Some(4321)),
            (r#"{"pid":4321,"connection_name":"/tmp/dmypy.sock"}"#, Some(4321)),
            ("---\npid: 4321\ncontrol_url: unix:///x\n", Some(4321)),
            ("1\n", None),
            ("0", None),
            ("", None),
            ("-5", None),
            ("99999999999999999999", None),
            ("rapid: 7", None),
            ("a text without one", None),
        ] {
            assert_eq!(named_in(text), expected, "{text:?}");
        }
        for (target, expected) in [
            ("box-4321", Some(4321)),
            ("127.0.1.1:+4321", Some(4321)),
            ("127.0.1.1:4321", Some(4321)),
            ("other-4321", None),
            ("box-1", None),
            (":4321", None),
            ("../lock", None),
            ("a:4321", None),
        ] {
            assert_eq!(locked_by(target.as_bytes(), b"box"), expected, "{target}");
        }
        assert!(may_be_owned(b"server.pid") && !may_be_owned(b"main.rs"));
        assert!(lives(std::process::id()));
        assert!(!lives(u32::MAX));
    }
}

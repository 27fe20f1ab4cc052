//! The mounts of this system, as proc_pid_mountinfo(5) describes them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
    pub(crate) filesystem: String,
    pub(crate) source: String,
}

/// All mounts that this process sees. None, where `/proc` is not mounted.
pub(crate) fn mounted() -> Vec<Mount> {
    mounts(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// The mounts in the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)), in the order in which
/// they were made.
pub(crate) fn mounts(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (fixed, rest) = line.split_once(" - ")?;
        let at = fixed.split(' ').nth(4)?;
        let mut words = rest.split(' ');
        let (filesystem, source) = (words.next()?, words.next()?);
        let source = unescaped(source).to_str()?.to_owned();
        Some(Mount { at: unescaped(at), filesystem: filesystem.to_owned(), source })
    };
    text.lines().filter_map(mount).collect()
}

/// The mount of a path. Later mounts hide earlier ones at the same place.
pub(crate) fn mount_of<'m>(mounts: &'m [Mount], path: &Path) -> Option<&'m Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.as_os_str().len())
        .and_then(|deepest| mounts.iter().rev().find(|mount| mount.at == deepest.at))
}

/// Decodes `\040` and the like, which mount tables use for blanks.
pub(crate) fn unescaped(word: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = word.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 4).filter(|_| byte == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                plain.push(code);
                at += 4;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_on_the_deepest_mount_and_on_the_last_one_there() {
        let text = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 7:0 / /home/a\\040b rw shared:1 - xfs /dev/loop3 rw
31 22 0:50 / /home/a\\040b rw - btrfs /dev/loop4 rw
32 22 0:51 / /home/a\\040b/c rw master:2 propagate_from:1 - tmpfs tmpfs rw
malformed
";
        let mounts = mounts(text);
        assert_eq!(mounts.len(), 4);
        for (path, expected) in [
            ("/home/a b/d", "/dev/loop4"),
            ("/home/a b", "/dev/loop4"),
            ("/home/a b/c/d", "tmpfs"),
            ("/home/a", "/dev/vda"),
        ] {
            let found = mount_of(&mounts, Path::new(path)).map(|mount| mount.source.as_str());
            assert_eq!(found, Some(expected), "{path}");
        }
    }
}

//! The seal of a subvolume: how calve knows that no process has changed it.
//!
//! btrfs gives each subvolume the number of its last change. A subvolume snapshot begins with the
//! number of its source, and its first change gives it a higher one. So the seal of a ready tree is
//! that of its snapshots, too. A look at the metadata changes nothing (docs/design/ready.md).
//!
//! A worktree that is such a snapshot gets a seal of its own when it is published, after it was
//! dressed and flushed ([`WorktreeSeal`]; docs/design/seals.md).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs;

use super::super::at::open_at;
use super::super::files::{listed, open_dir, read_plain};
use super::super::layout::GIT_SEAL;
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys::{self, SubvolumeState};
use crate::tree::staging::{boot, flush_filesystem, write_whole};

/// Two numbers and a few characters.
pub(super) const MOST_BYTES: u64 = 4096;

/// How often the number of the last change is read before it is given up.
const SETTLE_TRIES: u32 = 10;

/// Seals a subvolume that calve filled, and that no other process knows. Returns what the seal
/// says.
///
/// # Errors
/// The subvolume changes, or no seal can be made here.
pub(crate) fn of(tree: &OwnedFd) -> io::Result<Vec<u8>> {
    // Replaying a log after a crash brings changes back without their number: a seal is good for
    // one boot.
    let boot = boot().ok_or(io::ErrorKind::Unsupported)?;
    read_as_git_does(tree);
    Ok(text(settled(tree)?, &boot))
}

/// Lists each folder of a tree once, and reads what git reads for its status. The kernel notes the
/// first reading of a file or folder, which changes the subvolume, and no further one for a day
/// (`relatime`). Snapshots begin with the same times. So on that day a `git status` in a worktree
/// does not break the worktree's seal. What cannot be read here is nothing that others read.
fn read_as_git_does(tree: &OwnedFd) {
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let Ok(dir) = open_at(tree, &folder) else { continue };
        for (name, kind) in listed(&dir).unwrap_or_default() {
            if kind == fs::FileType::Directory {
                folders.push(folder.join(name));
            } else if kind == fs::FileType::RegularFile
                && name.as_encoded_bytes().starts_with(b".git")
                && let Ok(file) = fs::openat(&dir, &name, SOURCE_FLAGS, fs::Mode::empty())
            {
                // Only the time matters.
                let _ = rustix::io::read(&file, &mut [0; 1]);
            }
        }
    }
}

/// Whether nobody has changed a subvolume since it, or the one that it is a snapshot of, was sealed.
pub(crate) fn holds(seal: &[u8], tree: &OwnedFd) -> bool {
    sys::last_change(tree)
        .is_ok_and(|number| boot().is_some_and(|boot| seal == text(number, &boot)))
}

/// Whether an open folder is the root of a subvolume.
pub(crate) fn is_subvolume(dir: &OwnedFd) -> bool {
    Meta::of_file(dir).is_ok_and(|meta| sys::is_subvolume(dir, meta.ino))
}

/// What a seal says.
fn text(last_change: u64, boot: &str) -> Vec<u8> {
    format!("{last_change} {boot}\n").into_bytes()
}

/// The last change of a subvolume, once its transaction is over: then any later one has another
/// number.
fn settled(dir: &OwnedFd) -> io::Result<u64> {
    flush_filesystem(dir)?;
    for _ in 0..SETTLE_TRIES {
        let number = sys::last_change(dir)?;
        flush_filesystem(dir)?;
        if sys::last_change(dir)? == number {
            return Ok(number);
        }
    }
    Err(io::Error::other("somebody writes to it again and again"))
}

/// The seal of a worktree: its subvolume, the subvolume's state before the worktree was published,
/// and the boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorktreeSeal {
    /// What the worktree was published with. Two sealed worktrees with the same word had the same
    /// files, but for those that name their tree's root, which git does not track.
    pub(crate) content: String,
    state: SubvolumeState,
    boot: String,
}

impl WorktreeSeal {
    /// The seal of a tree that was dressed and flushed, and that no other process knows. `None` if the tree is no subvolume, or if
    /// the transaction of its last change is not over: then a further change would not show.
    pub(crate) fn of(tree: &OwnedFd, content: &str) -> Option<Self> {
        let state = is_subvolume(tree).then(|| sys::subvolume_state(tree).ok())??;
        let is_over = state.last_change <= state.committed;
        is_over.then_some(Self { content: content.to_owned(), state, boot: boot()? })
    }

    /// Writes the seal into git's registration of the worktree.
    pub(crate) fn write(&self, registration: &Path) -> io::Result<()> {
        write_whole(registration, &registration.join(GIT_SEAL), self.text().as_bytes())
    }

    /// Reads the seal of a worktree. `None`: it has none that can be read.
    pub(crate) fn read(registration: &Path) -> Option<Self> {
        let bytes = read_plain(fs::CWD, &registration.join(GIT_SEAL), MOST_BYTES).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[content, id, last_change, committed, boot] = words.as_slice() else { return None };
        let number = |word: &str| word.parse().ok();
        let (id, last_change) = (number(id)?, number(last_change)?);
        let state = SubvolumeState { id, last_change, committed: number(committed)? };
        let seal = Self { content: content.to_owned(), state, boot: boot.to_owned() };
        (seal.text() == text).then_some(seal)
    }

    fn text(&self) -> String {
        let SubvolumeState { id, last_change, committed } = self.state;
        format!("{} {id} {last_change} {committed} {}\n", self.content, self.boot)
    }

    /// Whether the tree at `root` is the sealed one and nobody has changed it. Bytes of `write(2)`
    /// show only after a flush of the filesystem.
    pub(crate) fn holds(&self, root: &Path) -> bool {
        boot().is_some_and(|boot| boot == self.boot)
            && open_dir(root)
                .is_ok_and(|tree| sys::subvolume_state(tree.as_fd()).ok() == Some(self.state))
    }
}

/// The bytes in memory that are not on a disk yet, of all filesystems: `Dirty` and `Writeback` of
/// proc_meminfo(5). A flush of a filesystem writes at most these.
pub(crate) fn unwritten_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    memory_in(&meminfo, "Dirty:")?.checked_add(memory_in(&meminfo, "Writeback:")?)
}

/// A number of proc_meminfo(5), in bytes.
pub(super) fn memory_in(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_of_a_worktree_reads_as_it_was_written_and_no_other_text_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let state = SubvolumeState { id: 300, last_change: 7, committed: 9 };
        let seal = WorktreeSeal { content: "abc".to_owned(), state, boot: "boot".to_owned() };
        assert_eq!(WorktreeSeal::read(folder.path()), None);
        seal.write(folder.path()).unwrap();
        assert_eq!(WorktreeSeal::read(folder.path()), Some(seal.clone()));
        assert!(!seal.holds(folder.path()), "no subvolume, and another boot");
        for text in
            ["", "abc 300 7 9 boot", "abc 300 7 9\n", "abc 300 -7 9 boot\n", "a b 300 7 9 b\n"]
        {
            std::fs::write(folder.path().join(GIT_SEAL), text).unwrap();
            assert_eq!(WorktreeSeal::read(folder.path()), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_of_the_memory_are_in_bytes() {
        for (meminfo, expected) in [
            ("MemFree: 1 kB\nDirty:               12 kB\nWriteback: 3 kB\n", Some(12 << 10)),
            ("Dirty: many kB\n", None),
            ("Dirty: 12\n", None),
            ("", None),
        ] {
            assert_eq!(memory_in(meminfo, "Dirty:"), expected, "{meminfo}");
        }
    }
}

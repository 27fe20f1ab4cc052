//! Finds the processes that work in a tree, by what `/proc` says of them: their current folder,
//! their program, and the files that they have open or mapped.
//!
//! Some do not count: this process, those that it started, and those that it was started by. Whoever
//! runs `drop` in a shell inside the tree knows where the shell is. Other processes of this program
//! do not count either, with the git that they run: what they do to worktrees is ordered by the
//! store's locks. A process that ends at once, such as the git of a shell's prompt, does not count.
//!
//! Where there is no `/proc`, and for processes of other users that may not be read, nothing is
//! found. That is no reason to refuse: the drop looks for changes once more, after the tree is
//! where no process finds it.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A process that works in a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LivingProcess {
    /// Its number.
    pub pid: u32,
    /// The name of its program, as the kernel has it: at most 15 bytes.
    pub command: String,
}

/// How long a process must work in a tree to count.
const STAYS: Duration = Duration::from_millis(150);
/// More than any chain of parents.
const ANCESTORS_MOST: usize = 1000;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All, and only processes that stay.
    Thorough,
    /// Folders, programs and open files.
    Quick,
}

/// The processes that work in the tree at `root`.
pub(super) fn living_in(root: &Path, depth: Depth) -> Vec<LivingProcess> {
    let found = found_in(root, depth);
    if found.is_empty() || depth == Depth::Quick {
        return found;
    }
    std::thread::sleep(STAYS);
    let again = found_in(root, depth);
    found.into_iter().filter(|it| again.contains(it)).collect()
}

fn found_in(root: &Path, depth: Depth) -> Vec<LivingProcess> {
    // The kernel shows paths without links.
    let Ok(root) = std::fs::canonicalize(root) else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id();
    let above: HashSet<u32> = ancestors(own).collect();
    let program = program_of(own);
    let is_ours = |pid: u32| {
        above.contains(&pid)
            || ancestors(pid).any(|pid| pid == own)
            || program.is_some()
                && [Some(pid), parent_of(pid)]
                    .into_iter()
                    .flatten()
                    .any(|it| program_of(it) == program)
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if works_in(&entry.path(), &root, depth) && !is_ours(pid) {
            let command = std::fs::read(entry.path().join("comm")).unwrap_or_default();
            let command = String::from_utf8_lossy(command.trim_ascii_end()).into_owned();
            found.push(LivingProcess { pid, command });
        }
    }
    found
}

/// Whether the process whose folder in `/proc` this is works in the tree.
fn works_in(process: &Path, root: &Path, depth: Depth) -> bool {
    let leads_in = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(root));
    if leads_in(process.join("cwd")) || leads_in(process.join("exe")) {
        return true;
    }
    // In a container, the tree may be mounted at another path.
    if is_below(process.join("cwd"), root) {
        return true;
    }
    let open = std::fs::read_dir(process.join("fd"));
    if open.is_ok_and(|open| open.flatten().any(|file| leads_in(file.path()))) {
        return true;
    }
    depth == Depth::Thorough
        && std::fs::read(process.join("maps")).is_ok_and(|maps| maps_a_file_in(&maps, root))
}

/// Whether a process in another mount namespace is in the tree: one of the folders above its
/// current one is the tree's root.
fn is_below(folder: PathBuf, root: &Path) -> bool {
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/mnt")).ok();
    let process = folder.parent().unwrap_or(Path::new("/"));
    match (namespace(process), namespace(Path::new("/proc/self"))) {
        (Some(its), Some(ours)) if its != ours => {}
        _ => return false,
    }
    let id = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let Some(wanted) = id(root) else { return false };
    let (mut at, mut last) = (folder, None);
    while let Some(here) = id(&at) {
        if here == wanted {
            return true;
        }
        // The folder above the topmost one is that folder itself.
        if last == Some(here) {
            break;
        }
        (at, last) = (at.join(".."), Some(here));
    }
    false
}

/// Whether a list of mappings (proc_pid_maps(5)) has a file below `root`.
fn maps_a_file_in(maps: &[u8], root: &Path) -> bool {
    let mut wanted = root.as_os_str().as_bytes().to_vec();
    wanted.push(b'/');
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/').map(|at| &line[at..]);
        path.is_some_and(|path| path.starts_with(&wanted))
    })
}

/// The processes above this one, and itself.
fn ancestors(pid: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(pid), |pid| parent_of(*pid).filter(|pid| *pid != 0))
        .take(ANCESTORS_MOST)
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parent_in(&stat)
}

/// The parent in a line of `/proc/PID/stat`. A program's name may have spaces and parentheses.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn program_of(pid: u32) -> Option<(u64, u64)> {
    let found = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_whatever_the_program_is_called() {
        for (stat, expected) in [
            ("12 (sh) S 7 12 12 0", Some(7)),
            ("12 (a) b (c) R 9 1 1", Some(9)),
            ("12 (() S 3 1", Some(3)),
            ("12 sh S 7", None),
            ("", None),
        ] {
            assert_eq!(parent_in(stat), expected, "{stat}");
        }
    }

    #[test]
    fn only_files_below_the_root_count_as_mapped() {
        for (maps, expected) in [
            ("7f00-7f01 r--s 00000000 08:01 7   /t/w/lib.so\n", true),
            ("7f00-7f01 rw-s 00000000 08:01 7   /t/w/a b (deleted)\n", true),
            ("7f00-7f01 r--s 00000000 08:01 7   /t/wide/lib.so\n", false),
            ("7f00-7f01 r--p 00000000 08:01 7   /other/t/w/lib.so\n", false),
            ("7f00-7f01 rw-p 00000000 00:00 0   [heap]\n", false),
            ("", false),
        ] {
            assert_eq!(maps_a_file_in(maps.as_bytes(), Path::new("/t/w")), expected, "{maps}");
        }
    }
}

//! Finds the processes that work in a tree, by what `/proc` says of them: their current folder,
//! their program, and the files that they have open or mapped.
//!
//! Some do not count: this process, those that it started, and those that it was started by. Whoever
//! runs `drop` in a shell inside the tree knows where the shell is. Other processes of this program
//! do not count either, with the git that they run: what they do to worktrees is ordered by the
//! store's locks. What they run for the user in a new worktree does count. A process that ends at
//! once, such as the git of a shell's prompt, does not count, and neither does git's file monitor.
//!
//! A process in another mount namespace, as a container has, sees the tree at other paths, which its
//! own list of mounts tells. If the tree or a folder in it is mounted there, and not here as well,
//! each process there counts: what is mounted is there to be used.
//!
//! Where there is no `/proc` ([`can_be_found`]), and for processes of other users that may not be
//! read, nothing is found. That is no reason to refuse: the drop looks for changes once more, after
//! the tree is where no process finds it. What a process writes later is lost, so it is said.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::monitor::is_file_monitor;
use crate::reflink::imp::DIR_FLAGS;
use crate::store::files::listed;
use crate::store::paths::living::is_below;
use crate::tree::mounts::{Mount, mounts_in, place_of};

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
pub(in crate::worktree) enum Depth {
    /// All, and only processes that stay.
    Thorough,
    /// Folders, programs and open files.
    Quick,
}

/// The processes that work in the tree at `root`.
pub(in crate::worktree) fn living_in(root: &Path, depth: Depth) -> Vec<LivingProcess> {
    let found = found_in(root, depth);
    if found.is_empty() || depth == Depth::Quick {
        return found;
    }
    std::thread::sleep(STAYS);
    let again = found_in(root, depth);
    found.into_iter().filter(|it| again.contains(it)).collect()
}

/// Fails if nobody can say which processes work in a tree.
#[cfg(target_os = "linux")]
pub(in crate::worktree) fn can_be_found() -> std::io::Result<()> {
    identity_of(Path::new("/proc/self/cwd")).map(drop)
}

/// Only Linux has `/proc`.
#[cfg(not(target_os = "linux"))]
pub(in crate::worktree) fn can_be_found() -> std::io::Result<()> {
    Ok(())
}

fn found_in(root: &Path, depth: Depth) -> Vec<LivingProcess> {
    let Some(mut tree) = TreeInProc::at(root, depth) else { return Vec::new() };
    let Ok(processes) = listed(&tree.proc) else { return Vec::new() };
    let own = std::process::id();
    let above: HashSet<u32> = ancestors(own).collect();
    let program = program_of(own);
    let is_program = |pid: u32| program.is_some() && program_of(pid) == program;
    let is_ours = |pid: u32| {
        above.contains(&pid)
            || ancestors(pid).any(|pid| pid == own)
            || is_program(pid)
            || name_of(pid).starts_with(b"git") && parent_of(pid).is_some_and(is_program)
    };
    let is_monitor = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"));
        line.is_ok_and(|line| is_file_monitor(&name_of(pid), &line))
    };
    let mut found = Vec::new();
    let mut maps = Vec::new();
    for (name, _) in processes {
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if tree.has(&name, &mut maps) && !is_ours(pid) && !is_monitor(pid) {
            let command = String::from_utf8_lossy(&name_of(pid)).into_owned();
            found.push(LivingProcess { pid, command });
        }
    }
    found
}

/// No link in `/proc` is longer.
const LINK_MOST_BYTES: usize = 4096;

/// A tree, as the links in `/proc` name it.
struct TreeInProc {
    proc: OwnedFd,
    /// The path of its root, and the same with a slash. The kernel shows paths without links.
    root: Vec<u8>,
    inside: Vec<u8>,
    id: Option<(u64, u64)>,
    /// This process's mount namespace.
    namespace: Option<Vec<u8>>,
    /// The filesystem, and the path of the root from that one's root.
    place: Option<(Vec<u8>, PathBuf)>,
    /// The list of mounts in this process's namespace, once it was needed.
    mounts: Option<Vec<u8>>,
    /// How processes in other mount namespaces see the tree, by namespace.
    views: HashMap<Vec<u8>, Rc<View>>,
    depth: Depth,
}

/// How processes in another mount namespace see a tree.
#[derive(Debug, Default, PartialEq, Eq)]
struct View {
    /// It, or a folder in it, is mounted there and not here.
    is_mounted: bool,
    /// The paths of its root.
    roots: Vec<PathBuf>,
}

impl View {
    /// By a list of mounts there, and one of those here. `place` is where the tree is.
    fn of(there: &[u8], here: &[u8], place: &(Vec<u8>, PathBuf)) -> Self {
        let (device, tree) = place;
        let mut view = Self::default();
        let here: Vec<Mount> = mounts_in(here).map(|(_, mount)| mount).collect();
        for (_, mount) in mounts_in(there).filter(|(_, mount)| mount.device == *device) {
            if let Ok(below) = tree.strip_prefix(&mount.root) {
                view.roots.push(mount.at.join(below));
            }
            view.is_mounted |= mount.root.starts_with(tree) && !here.contains(&mount);
        }
        view
    }

    fn has(&self, target: &[u8]) -> bool {
        let target = Path::new(OsStr::from_bytes(target));
        self.roots.iter().any(|root| target.starts_with(root))
    }
}

/// What `read` makes of the target of a link.
fn link<T>(
    dir: impl AsFd,
    path: impl AsRef<Path>,
    read: impl FnOnce(&[u8]) -> T,
) -> Result<T, Errno> {
    let mut buffer = [MaybeUninit::uninit(); LINK_MOST_BYTES];
    fs::readlinkat_raw(dir, path.as_ref(), &mut buffer).map(|(target, _)| read(target))
}

impl TreeInProc {
    fn at(root: &Path, depth: Depth) -> Option<Self> {
        let path = std::fs::canonicalize(root).ok()?;
        let proc = fs::open("/proc", DIR_FLAGS, Mode::empty()).ok()?;
        let root = path.as_os_str().as_bytes().to_vec();
        let mut tree = Self {
            proc,
            inside: [&*root, b"/"].concat(),
            root,
            id: identity(&path),
            namespace: None,
            place: fs::open(&path, DIR_FLAGS, Mode::empty()).ok().as_ref().and_then(place_of),
            mounts: None,
            views: HashMap::new(),
            depth,
        };
        tree.namespace = link(&tree.proc, "self/ns/mnt", <[u8]>::to_vec).ok();
        Some(tree)
    }

    fn is_inside(&self, target: &[u8]) -> bool {
        target == self.root || target.starts_with(&self.inside)
    }

    /// How a process in another mount namespace sees the tree; empty if the system does not say.
    /// `None` for a process in ours.
    fn view_of(&mut self, process: &Path) -> Option<Rc<View>> {
        let theirs = link(&self.proc, process.join("ns/mnt"), <[u8]>::to_vec).ok()?;
        if theirs == *self.namespace.as_ref()? {
            return None;
        }
        if let Some(view) = self.views.get(&theirs) {
            return Some(Rc::clone(view));
        }
        let list = |of: &Path| std::fs::read(Path::new("/proc").join(of).join("mountinfo"));
        // The process may end meanwhile. Another one there is asked then.
        let (Some(place), Ok(there)) = (&self.place, list(process)) else {
            return Some(Rc::default());
        };
        if self.mounts.is_none() {
            self.mounts = list(Path::new("self")).ok();
        }
        let Some(here) = &self.mounts else { return Some(Rc::default()) };
        let view = Rc::new(View::of(&there, here, place));
        self.views.insert(theirs, Rc::clone(&view));
        Some(view)
    }

    /// Whether the process with this number works in the tree. `maps` is room for its mappings.
    fn has(&mut self, process: &OsStr, maps: &mut Vec<u8>) -> bool {
        let process = Path::new(process);
        let program = link(&self.proc, process.join("exe"), <[u8]>::to_vec);
        // A thread of the kernel, or a process that has ended, has no program and no files. If this
        // process may not read one of the links, it may read none.
        if matches!(program, Err(Errno::NOENT | Errno::SRCH | Errno::ACCESS)) {
            return false;
        }
        let view = self.view_of(process);
        let is_elsewhere = view.is_some();
        let view = view.unwrap_or_default();
        let is_inside = |target: &[u8]| self.is_inside(target) || view.has(target);
        if view.is_mounted
            || program.is_ok_and(|program| is_inside(&program))
            || link(&self.proc, process.join("cwd"), is_inside) == Ok(true)
            || is_elsewhere && self.is_above(process)
        {
            return true;
        }
        if let Ok(open) = fs::openat(&self.proc, process.join("fd"), DIR_FLAGS, Mode::empty()) {
            let files = listed(&open).unwrap_or_default();
            let leads_in = |file: &OsStr| link(&open, file, is_inside);
            if files.iter().any(|(file, _)| leads_in(file) == Ok(true)) {
                return true;
            }
        }
        self.depth == Depth::Thorough && {
            maps.clear();
            let read = File::open(Path::new("/proc").join(process).join("maps"))
                .and_then(|mut file| file.read_to_end(maps));
            let roots = view.roots.iter().map(|root| [root.as_os_str().as_bytes(), b"/"].concat());
            let mut all = std::iter::once(self.inside.clone()).chain(roots);
            read.is_ok() && all.any(|inside| maps_a_file_in(maps, &inside))
        }
    }

    /// Whether the current folder of a process is in the tree although its path says something
    /// else: in another mount namespace, as a container has, the tree may be at another path.
    fn is_above(&self, process: &Path) -> bool {
        self.id.is_some_and(|root| is_below(Path::new("/proc").join(process).join("cwd"), root))
    }
}

/// Whether a list of mappings (proc_pid_maps(5)) has a file below the folder `inside`, which ends in
/// a slash.
fn maps_a_file_in(maps: &[u8], inside: &[u8]) -> bool {
    maps.split(|byte| *byte == b'\n').any(|line| {
        let path = line.iter().position(|byte| *byte == b'/').map(|at| &line[at..]);
        path.is_some_and(|path| path.starts_with(inside))
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

/// The name of its program, as the kernel has it.
fn name_of(pid: u32) -> Vec<u8> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_ascii_end().to_vec()
}

fn program_of(pid: u32) -> Option<(u64, u64)> {
    identity(Path::new(&format!("/proc/{pid}/exe")))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    identity_of(path).ok()
}

fn identity_of(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|found| (found.dev(), found.ino()))
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
    fn a_tree_is_seen_elsewhere_through_each_mount_of_it_or_of_a_folder_above() {
        let here =
            "22 1 0:30 / /disk rw - btrfs x rw\n23 1 0:30 /t/w/own /disk/own rw - btrfs x rw\n";
        // A mount in the other namespace: its device, the folder that is mounted, the mount point.
        // Whether each process there counts, and the path of the tree's root.
        for (mount, is_mounted, root) in [
            ("0:30 / /disk", false, Some("/disk/t/w")),
            ("0:30 /t /mnt", false, Some("/mnt/w")),
            ("0:30 /t/w /work", true, Some("/work")),
            ("0:30 /t/w/data /var/lib/x", true, None),
            ("0:30 /t/w/own /disk/own", false, None),
            ("0:30 /t/wide /wide", false, None),
            ("0:31 /t/w /other", false, None),
            ("0:30 /t\\040w /odd", false, None),
        ] {
            let there = format!("40 1 {mount} rw shared:1 - btrfs x rw\n");
            let place = (b"0:30".to_vec(), PathBuf::from("/t/w"));
            let view = View::of(there.as_bytes(), here.as_bytes(), &place);
            let roots = root.into_iter().map(PathBuf::from).collect();
            assert_eq!(view, View { is_mounted, roots }, "{mount}");
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
            assert_eq!(maps_a_file_in(maps.as_bytes(), b"/t/w/"), expected, "{maps}");
        }
    }
}

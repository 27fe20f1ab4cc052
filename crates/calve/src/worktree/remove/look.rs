//! Looks at a tree that is being dropped: what in it changed since a moment, and which folders in it
//! have work that neither git nor a snapshot knows of.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::at;
use crate::store::files::each_entry;
use crate::store::format::is_of_calve;
use crate::store::git::{self, OwnFolders, Registration};
use crate::store::layout::{FORMAT, GIT, IN_GIT, JJ, OWN};
use crate::tree::removal::is_mount_root;
use crate::worktree::shed::is_foreign_repository;

/// How many paths an answer has at most.
const PATHS_MOST: usize = 20;
/// git's folder of objects. Objects alone change nothing.
const OBJECTS: &str = "objects";
/// git's folders of references.
const REFS: &str = "refs";
const LOGS: &str = "logs";
/// The names of the base of a split index begin so. git marks it as used whenever it reads it.
const SHARED_INDEX: &[u8] = b"sharedindex.";

/// A moment by the clock that inodes have. An inode that changes later has a time that is not
/// before it.
#[derive(Debug, Clone, Copy)]
pub(in crate::worktree) struct Moment((i64, i64));

impl Moment {
    pub(in crate::worktree) fn now() -> Self {
        // The kernel gives inodes the time of its last tick. The precise clock is ahead of that.
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::RealtimeCoarse;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Realtime;
        let now = rustix::time::clock_gettime(clock);
        Self((now.tv_sec, now.tv_nsec as i64))
    }

    /// Whether an inode whose last change was at this time was not changed since.
    pub(in crate::worktree) fn is_after(self, changed: (i64, i64)) -> bool {
        changed < self.0
    }
}

/// Which folders are looked at.
pub(in crate::worktree) enum Scope<'a> {
    All,
    /// All of a folder of git, a repository or a registration.
    OfGit,
    /// Those for which this returns true.
    If(&'a mut dyn FnMut(&Path) -> io::Result<bool>),
}

/// The paths in the tree at `root` that changed at `since` or later. A rename of the root itself is
/// no change. Entries of calve's own folder, and git's objects, do not count. Empty if there is no
/// such folder.
///
/// # Errors
/// A folder could not be read.
pub(in crate::worktree) fn changed_since(
    root: &Path,
    since: Moment,
    scope: Scope<'_>,
) -> io::Result<Vec<PathBuf>> {
    changed_by(root, since, &|_| false, scope)
}

/// The same, and the paths of other entries that `is_changed`.
pub(super) fn changed_by(
    root: &Path,
    since: Moment,
    is_changed: &(dyn Fn(&Meta) -> bool + Sync),
    mut scope: Scope<'_>,
) -> io::Result<Vec<PathBuf>> {
    let top = match fs::open(root, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    };
    let here = Meta::of_file(&top)?;
    let is_of_git = matches!(scope, Scope::OfGit);
    let mut changed = Vec::new();
    if here.modified() >= since.0 {
        changed.push(PathBuf::from("."));
    }
    std::thread::scope(|threads| {
        let mut helper = None;
        let (mut steps, mut folders, mut looked) = (Steps::new(top), vec![PathBuf::new()], 0);
        let mut batch = Vec::new();
        while let Some(folder) = folders.pop() {
            if changed.len() >= PATHS_MOST {
                break;
            }
            let Some(dir) = steps.open(&folder)? else {
                changed.push(folder);
                continue;
            };
            // A subvolume goes with the tree, and has a device number of its own.
            if Meta::of_file(&dir)?.dev != here.dev && is_mount_root(&dir) {
                continue;
            }
            let is_root = folder.as_os_str().is_empty();
            let mut names = Vec::new();
            each_entry(&dir, |name, kind| {
                let named = OsStr::from_bytes(name.to_bytes());
                let is_cache = named == OBJECTS || name.to_bytes().starts_with(SHARED_INDEX);
                if is_root && named == OWN || is_cache && has_caches(&folder, is_of_git) {
                    return Ok(());
                }
                if kind == FileType::Directory {
                    let path = folder.join(named);
                    let is_in = match &mut scope {
                        Scope::All | Scope::OfGit => true,
                        Scope::If(is_in) => is_in(&path)?,
                    };
                    if is_in {
                        folders.push(path);
                    }
                }
                names.extend_from_slice(name.to_bytes_with_nul());
                Ok(())
            })?;
            looked += 1;
            if looked == ALONE {
                let (send, batches) = mpsc::sync_channel::<Vec<FolderEntries>>(WAITING_MOST);
                let look = move || {
                    let looked = batches.iter().flatten().map(|it| it.changed(since, is_changed));
                    looked.collect::<io::Result<Vec<_>>>()
                };
                let thread = std::thread::Builder::new().spawn_scoped(threads, look);
                helper = thread.ok().map(|thread| (send, thread));
            }
            batch.push(FolderEntries { dir, folder, names });
            if batch.len() < TOGETHER {
                continue;
            }
            let send = helper.as_ref().map(|(send, _)| send);
            for it in left_by(send, std::mem::take(&mut batch)) {
                changed.extend(it.changed(since, is_changed)?);
            }
        }
        for it in batch {
            changed.extend(it.changed(since, is_changed)?);
        }
        if let Some((send, thread)) = helper {
            drop(send);
            let panicked = |_| io::Error::other("a thread panicked");
            changed.extend(thread.join().map_err(panicked)??.into_iter().flatten());
        }
        Ok(changed)
    })
}

/// What of a batch another thread does not take now.
fn left_by(
    other: Option<&SyncSender<Vec<FolderEntries>>>,
    batch: Vec<FolderEntries>,
) -> Vec<FolderEntries> {
    let Some(other) = other else { return batch };
    match other.try_send(batch) {
        Ok(()) => Vec::new(),
        Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => batch,
    }
}

/// After so many folders, a second thread helps.
const ALONE: usize = 8;
/// So many folders go to the other thread together: waking it takes as long as some looks.
const TOGETHER: usize = 8;
/// How many batches wait. Each of their folders is open.
const WAITING_MOST: usize = 1;

/// Entries of a folder.
struct FolderEntries {
    dir: Arc<OwnedFd>,
    folder: PathBuf,
    /// Each ends in a zero byte.
    names: Vec<u8>,
}

impl FolderEntries {
    /// The paths of those that changed at `since` or later, that `is_changed`, or that are gone.
    fn changed(
        self,
        since: Moment,
        is_changed: &(dyn Fn(&Meta) -> bool + Sync),
    ) -> io::Result<Vec<PathBuf>> {
        let mut changed = Vec::new();
        for name in self.names.split_inclusive(|byte| *byte == 0) {
            let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
            match fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).map(|it| Meta::of(&it)) {
                Ok(meta) if since.is_after(meta.changed) && !is_changed(&meta) => {}
                Ok(_) | Err(Errno::NOENT) => {
                    changed.push(self.folder.join(OsStr::from_bytes(name.to_bytes())));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(changed)
    }
}

/// Whether git may have caches in the folder at this path in a tree, or `of_git` in a folder of its
/// own. References may have any name. What a path above the tree is called says nothing: a dropped
/// tree is in the project's `.git`.
fn has_caches(folder: &Path, of_git: bool) -> bool {
    let names: Vec<&OsStr> = folder.iter().collect();
    let in_git = names.iter().position(|name| *name == GIT).map(|at| &names[at..]);
    let in_git = if of_git { Some(&names[..]) } else { in_git };
    in_git.is_some_and(|names| names.iter().all(|name| *name != REFS && *name != LOGS))
}

/// Opens the folders of a tree one after the other. A tree may be deeper than a path may be long.
struct Steps {
    top: OwnedFd,
    /// The folder that was opened last, and folders above it. Mostly the next one is in one of them.
    near: Vec<(PathBuf, Arc<OwnedFd>)>,
}

/// How many folders stay open for those inside.
const NEAR_MOST: usize = 8;

impl Steps {
    fn new(top: OwnedFd) -> Self {
        Self { top, near: Vec::new() }
    }

    /// The folder at a path from the root. `None` if it is gone.
    fn open(&mut self, folder: &Path) -> io::Result<Option<Arc<OwnedFd>>> {
        while self.near.pop_if(|(above, _)| !folder.starts_with(above)).is_some() {}
        let opened = match (self.near.last(), folder.parent(), folder.file_name()) {
            (Some((above, dir)), Some(parent), Some(name)) if above == parent => {
                fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(io::Error::from)
            }
            _ => at::open_at(&self.top, folder),
        };
        match opened {
            Ok(dir) => {
                let dir = Arc::new(dir);
                if self.near.len() == NEAR_MOST {
                    self.near.remove(0);
                }
                self.near.push((folder.to_owned(), Arc::clone(&dir)));
                Ok(Some(dir))
            }
            Err(error) if at::is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What of other tools is in a tree, below its root.
#[derive(Debug, Default)]
pub(in crate::worktree) struct Nested {
    /// The repositories of git: a path from the root to a folder `.git`, or to a repository without a
    /// working tree. Also to a file or link `.git` that leads to a repository elsewhere. That of the
    /// tree itself is none: git lists the work in submodules.
    pub(in crate::worktree) repositories: Vec<PathBuf>,
    /// Repositories of other tools than git, such as `.hg` and `.jj`. In the root, too. And files and
    /// links `.git` that lead nowhere, perhaps just now: what git would list there, nobody knows.
    pub(in crate::worktree) foreign: Vec<PathBuf>,
    /// Stores of calve, and folders that are remotes of calve. If a file `format` cannot be read, its
    /// folder may be one of these; then the path of that file is here.
    pub(in crate::worktree) stores: Vec<PathBuf>,
    /// Folders `.git` that are no repositories. git does not look into them, and lists none.
    pub(in crate::worktree) strays: Vec<PathBuf>,
    /// Folders that could not be read.
    pub(super) unreadable: Vec<PathBuf>,
}

impl Nested {
    /// Adds the folder `below` the open `folder` if it is a store, or may be one: then with its
    /// file that cannot be read.
    fn add_store(&mut self, dir: &OwnedFd, folder: &Path, below: &Path) -> bool {
        let store = match is_of_calve(dir, below) {
            Ok(false) => return false,
            Ok(true) => folder.join(below),
            Err(_) => folder.join(below).join(FORMAT),
        };
        self.stores.push(store);
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { repositories, foreign, stores, strays, unreadable } = self;
        [repositories, foreign, stores, strays, unreadable].iter().all(|paths| paths.is_empty())
    }
}

/// Looks through the whole tree at `root`, also where git ignores it. Only names are read, and files
/// that have the name of a store's first file.
pub(in crate::worktree) fn nested_in(root: &Path) -> Nested {
    let mut found = Nested::default();
    let Ok(top) = fs::open(root, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) else {
        found.unreadable.push(PathBuf::from("."));
        return found;
    };
    let device_of = |dir: &OwnedFd| Meta::of_file(dir).map(|meta| meta.dev).ok();
    let device = device_of(&top);
    found.add_store(&top, Path::new(""), &Path::new(GIT).join(IN_GIT));
    let (mut steps, mut folders) = (Steps::new(top), vec![PathBuf::new()]);
    let mut own = None;
    while let Some(folder) = folders.pop() {
        let opened = match steps.open(&folder) {
            Ok(None) => continue,
            Ok(Some(dir)) if device_of(&dir) != device && is_mount_root(&dir) => continue,
            Ok(Some(dir)) => telling_in(&dir, &folder).map(|entries| (dir, entries)),
            Err(error) => Err(error),
        };
        let Ok((dir, entries)) = opened else {
            found.unreadable.push(folder);
            continue;
        };
        let has = |wanted: &str, kind: FileType| {
            entries.iter().any(|(name, is)| name.as_bytes() == wanted.as_bytes() && *is == kind)
        };
        let is_gits = folder.file_name().is_some_and(|name| name == GIT);
        // git takes links for these, too.
        let has_folder =
            |wanted: &str| has(wanted, FileType::Directory) || has(wanted, FileType::Symlink);
        let has_head = has("HEAD", FileType::RegularFile) || has("HEAD", FileType::Symlink);
        let has_refs = has_folder("refs");
        // Of a damaged repository git itself says that it cannot answer.
        let is_repository = has_head && has_refs || is_gits && (has_head || has_refs);
        if is_repository && has_folder(OBJECTS) {
            found.add_store(&dir, &folder, Path::new(IN_GIT));
            found.repositories.push(folder);
            continue;
        }
        let is_root = folder.as_os_str().is_empty();
        if !is_root
            && has(FORMAT, FileType::RegularFile)
            && found.add_store(&dir, &folder, Path::new(""))
        {
            continue;
        }
        if is_gits && !entries.is_empty() {
            found.strays.push(folder.clone());
        }
        if folder.file_name().is_some_and(is_foreign_repository) && !entries.is_empty() {
            // calve's own file hides the `.jj` of a project.
            let has_repo = has_folder("repo") || has("repo", FileType::RegularFile);
            if folder.file_name() != Some(OsStr::new(JJ)) || has_repo {
                found.foreign.push(folder);
                continue;
            }
        }
        let files = entries.iter().filter(|(_, is)| *is == FileType::RegularFile);
        let files = files.map(|(name, _)| OsStr::from_bytes(name.as_bytes()));
        let files = files.filter(|name| is_foreign_repository(name));
        found.foreign.extend(files.map(|name| folder.join(name)));
        if !is_root && (has(GIT, FileType::RegularFile) || has(GIT, FileType::Symlink)) {
            let own = own.get_or_insert_with(|| OwnFolders::of(root));
            match led_from(&root.join(&folder), own) {
                Led::Elsewhere => found.repositories.push(folder.join(GIT)),
                Led::Nowhere => found.foreign.push(folder.join(GIT)),
                Led::Home => {}
            }
        }
        for (name, kind) in &entries {
            let name = OsStr::from_bytes(name.as_bytes());
            if *kind == FileType::Directory && !(is_root && (name == OWN || name == GIT)) {
                folders.push(folder.join(name));
            }
        }
    }
    found
}

/// The files by which a folder is known as a repository, or as a store of calve.
const TELLING: [&str; 3] = ["HEAD", FORMAT, GIT];

/// The entries of a folder, without most of the files that tell nothing.
fn telling_in(dir: &OwnedFd, folder: &Path) -> io::Result<Vec<(CString, FileType)>> {
    let name = folder.file_name().unwrap_or_default();
    // Here even a name tells something.
    let all = name == GIT || is_foreign_repository(name);
    let mut found = Vec::new();
    each_entry(dir, |name, kind| {
        let named = OsStr::from_bytes(name.to_bytes());
        let tells = || TELLING.iter().any(|it| named == *it) || is_foreign_repository(named);
        if all || kind != FileType::RegularFile || tells() {
            found.push((name.to_owned(), kind));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Where a file or a link `.git` leads to.
enum Led {
    /// To the tree's own repository, to one of its submodules, or to the registration of another
    /// tree, of which this one is a copy. Or it is a file like others.
    Home,
    /// To a repository other than these.
    Elsewhere,
    /// Nothing is there, or it cannot be opened.
    Nowhere,
}

/// Where the `.git` of the working tree at `tree` leads to, which is no folder.
fn led_from(tree: &Path, own: &OwnFolders) -> Led {
    let git = git::git_of(tree);
    if git.is_symlink() && !git.is_file() {
        return if git.is_dir() { Led::Elsewhere } else { Led::Nowhere };
    }
    let folder = match git::leads_to(tree) {
        Ok(path) => std::fs::canonicalize(path),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Led::Home,
        Err(error) => Err(error),
    };
    let Ok(folder) = folder else { return Led::Nowhere };
    // Without a repository, nothing but the file tells of the tree's work.
    if own.common.is_none() && own.is_led_out(tree) {
        return Led::Elsewhere;
    }
    let is_in = |own: &Option<PathBuf>| own.as_ref().is_some_and(|own| folder.starts_with(own));
    if is_in(&own.common) {
        return Led::Home;
    }
    let is_in_root = is_in(&own.root);
    let registration = Registration::read(folder).ok().flatten();
    let is_home = if is_in_root {
        // That repository is one of those inside, and so are its submodules.
        !registration.is_some_and(|it| it.is_of(tree))
    } else {
        registration.is_some_and(|it| {
            let is_there = |file: PathBuf| std::fs::symlink_metadata(file).is_ok();
            !it.is_of(tree) && it.git_file.is_some_and(is_there)
        })
    };
    if is_home { Led::Home } else { Led::Elsewhere }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More folders than one thread looks at alone.
    #[test]
    fn git_has_caches_only_in_its_own_folders_and_not_among_references() {
        for (folder, of_git, expected) in [
            ("", false, false),
            ("", true, true),
            ("src", false, false),
            (".git", false, true),
            (".git/refs/heads", false, false),
            ("lib/.git/modules/m", false, true),
            ("refs/remotes", true, false),
            ("modules/m", true, true),
            ("modules/m/logs/refs/heads", true, false),
        ] {
            assert_eq!(has_caches(Path::new(folder), of_git), expected, "{folder} {of_git}");
        }
    }

    #[test]
    fn whatever_changes_is_found_in_whichever_folder_it_is() {
        const FOLDERS: usize = 3 * ALONE;
        // As a dropped tree is, in the project's repository.
        let above = tempfile::tempdir().unwrap();
        let tree = above.path().join(GIT).join("tree");
        let name = |at: usize| if at == 0 { OBJECTS.to_owned() } else { format!("d{at}") };
        let folder = |at: usize| tree.join(name(at));
        for at in 0..FOLDERS {
            std::fs::create_dir_all(folder(at).join("inner")).unwrap();
            std::fs::write(folder(at).join("a"), "a").unwrap();
            std::fs::write(folder(at).join("inner/b"), "b").unwrap();
        }
        for at in 0..FOLDERS {
            // No later time is the same.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let since = Moment::now();
            let changed = |scope: Scope<'_>| changed_since(&tree, since, scope).unwrap();
            assert_eq!(changed(Scope::All), Vec::<PathBuf>::new());
            std::fs::write(folder(at).join("inner/b"), "c").unwrap();
            let expected = [PathBuf::from(name(at)).join("inner/b")];
            assert_eq!(changed(Scope::All), expected);
            assert_eq!(
                changed(Scope::If(&mut |it| Ok(!it.ends_with("inner")))),
                Vec::<PathBuf>::new()
            );
        }
        let since = Moment::now();
        for at in 0..FOLDERS {
            std::fs::remove_file(folder(at).join("a")).unwrap();
        }
        let changed = changed_since(&tree, since, Scope::All).unwrap();
        assert!(changed.len() >= PATHS_MOST.min(FOLDERS), "{changed:?}");
    }

    /// A path has at most 4096 bytes, so such a store was none for a drop.
    #[test]
    fn a_store_is_found_however_deep_it_is_and_so_is_what_may_be_one() {
        let tree = tempfile::tempdir().unwrap();
        let top = fs::open(tree.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let made = |dir: OwnedFd, name: &str| {
            fs::mkdirat(&dir, name, Mode::RWXU).unwrap();
            fs::openat(&dir, name, DIR_FLAGS, Mode::empty()).unwrap()
        };
        let name = "d".repeat(250);
        let deep = (0..20).fold(made(top, "deep"), |dir, _| made(dir, &name));
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = fs::openat(&deep, FORMAT, flags, Mode::RUSR).unwrap();
        rustix::io::write(file, b"calve store 1\n").unwrap();
        let hidden = tree.path().join(GIT).join(IN_GIT);
        std::fs::create_dir_all(&hidden).unwrap();
        std::os::unix::fs::symlink(FORMAT, hidden.join(FORMAT)).unwrap();
        let stores = nested_in(tree.path()).stores;
        assert_eq!(stores.len(), 2, "{stores:?}");
        // Nobody can read a link to itself.
        assert_eq!(stores[0], Path::new(GIT).join(IN_GIT).join(FORMAT));
        assert_eq!(stores[1].iter().count(), 21);
    }
}

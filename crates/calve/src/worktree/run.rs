//! Shows a worktree at the project's path, to this process and the programs that it starts.
//!
//! In a mount namespace of its own the worktree is mounted on the project, so that every absolute
//! path that names the project (in a build folder, in a compiler's cache, in debug information)
//! leads to the worktree. The project itself is mounted in [`RUN`] beside the project. No other
//! process sees these mounts, and they end with the last process in the namespace.
//!
//! # The project is out of reach
//! What a program does there by mistake must not reach the project. So its files are mounted for
//! reading only, except its repository, to which git in the worktree writes; and they are not in the
//! folder of the worktrees, which a program may remove as a whole.
//!
//! # git
//! A linked worktree's `.git` file and its registration name each other by absolute paths, and the
//! repository is mostly in the project, so it is at another path now. Over each file that names
//! what is elsewhere now, a file of a tmpfs with the right path is mounted ([`PathsInRun`]). Without
//! that, git would find no repository; `git worktree prune` would delete the registrations of
//! worktrees that it cannot see; and git would write the path of the mount into the worktree's
//! registration, which it does when that is a day old, or on `git worktree repair`. The mounted
//! files take these writes.
//!
//! `git worktree remove` and `move` would delete, or move, the tree of another worktree, and then
//! fail at the mounted files. They refuse before that if the tree's `.git` file does not lead back to
//! the registration. So the `.git` files of the others lead to it through a second mount of the same
//! repository: git works there as before, and these two refuse.
//!
//! # The store
//! calve must not work here: it would take the worktree for the project, and write the paths of
//! these mounts into the store. A folder with a `format` that no version opens is mounted over the
//! store, and the mark of the worktree leads there.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::mount::{mount, mount_bind_recursive, mount_change, mount_remount};

use super::{MarkPlace, Worktree};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::sys::unshare_mounts;
use crate::store::catalog::WorktreeRow;
use crate::store::files::path_from;
use crate::store::git::modules::{MODULES, ModuleConfig, has_modules, repositories_in};
use crate::store::git::{self, Registration};
use crate::store::layout::{GIT, GITDIR, Layout, RUN};
use crate::store::marker::{Marked, Marker};
use crate::store::snapshot::modules;
use crate::store::{Store, format};

impl Worktree {
    /// From here on, this process and the programs that it starts see the worktree at the project's
    /// path, and at its own. Returns the path of the project itself, whose files can only be read
    /// there, except its repository. The process also gets a user
    /// namespace, with its own user and group alone, if it may not mount otherwise. Its current
    /// folder is where it was: change to one by its path.
    ///
    /// calve itself does not work with the store any more. Call this in a process with one thread,
    /// before `exec`.
    ///
    /// # Errors
    /// [`ErrorKind::NamespaceRefused`]; [`ErrorKind::Overlap`] if one of the two trees is inside the
    /// other. The process may be in the namespace already, with some of the mounts. The only thing
    /// left behind is an empty folder `.calve-run` beside the project, or beside the worktree if this
    /// user can make none there.
    pub fn show_at_project(&self) -> Result<PathBuf, Error> {
        self.must_be_there()?;
        let project = self.store.project()?;
        let root = &self.path;
        let failed = |kind, why: &str| {
            let cause = io::Error::other(why.to_owned());
            Err(Error::new(kind, Operation::ShowAtProject, root, cause))
        };
        if self.is_project() {
            return failed(ErrorKind::Overlap, "it is the project, and at its path already");
        }
        if root.starts_with(&project) || project.starts_with(root) {
            return failed(
                ErrorKind::Overlap,
                "it is inside the project, or around it, and each would hide the other",
            );
        }
        let folder = mount_point(&project, root)?;
        let name = project.file_name().unwrap_or_default();
        let mut own = name.to_owned();
        own.push(".files");
        let own = folder.join(own);
        let paths = PathsInRun { root, shown: folder.join(name), own: &own, project: &project };
        let (covers, repositories) = self.covers(&paths)?;
        own_mounts().map_err(|error| {
            Error::new(ErrorKind::NamespaceRefused, Operation::ShowAtProject, root, error)
        })?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("calve-run", &folder, "tmpfs", flags, c"mode=0755")
            .or_else(|errno| mounted(errno, &folder))?;
        std::fs::create_dir(&paths.shown).context(Operation::MakeFolder, || &paths.shown)?;
        bind(&project, &paths.shown)?;
        for common in repositories.iter().filter(|common| common.starts_with(&project)) {
            bind(common, &paths.of(common))?;
        }
        only_for_reading(&paths.shown)?;
        bind(root, &project)?;
        std::fs::create_dir(&own).context(Operation::MakeFolder, || &own)?;
        for (number, (path, cover)) in covers.into_iter().enumerate() {
            let made = own.join(number.to_string());
            let text = match &cover {
                Cover::File(text) => std::fs::write(&made, text),
                Cover::Store => std::fs::create_dir(&made)
                    .and_then(|()| std::fs::write(Layout(&made).format(), format::HIDDEN)),
            };
            text.context(Operation::Write, || &made)?;
            for at in paths.all_of(&path) {
                match bind(&made, &at) {
                    // It is gone since the look.
                    Err(error) if git::is_absent(error.io_error()) => {}
                    bound => bound?,
                }
            }
        }
        // With all that is mounted in them.
        for (number, common) in repositories.iter().enumerate() {
            let second = paths.second_of(number);
            std::fs::create_dir(&second).context(Operation::MakeFolder, || &second)?;
            bind(&paths.of(common), &second)?;
        }
        Ok(paths.shown)
    }

    /// What must be mounted over, by the paths outside of the namespace; and the repositories that
    /// need a second mount.
    fn covers(&self, paths: &PathsInRun<'_>) -> Result<(Covers, Vec<PathBuf>), Error> {
        let mut covers = vec![(self.store.path().to_owned(), Cover::Store)];
        let mut marks = vec![MarkPlace::of_worktree(paths.root)];
        let read = |folder: &Path| git::read(folder).context(Operation::Read, || folder);
        let repositories = [read(paths.project)?, read(paths.root)?];
        let mut folders: Vec<&Path> =
            repositories.iter().flatten().map(|found| found.common.as_path()).collect();
        folders.dedup_by(|one, other| git::is_same(one, other));
        for (number, common) in folders.iter().enumerate() {
            let again = SecondMount { common, at: paths.second_of(number) };
            // The repository of a worktree that has a copy moves with it, and has none.
            let mut known = git::registrations(common).context(Operation::Read, || common)?;
            // A submodule of the project may have worktrees, too.
            let modules = common.join(MODULES);
            for name in repositories_in(&modules).context(Operation::Read, || &modules)? {
                let module = modules.join(name);
                known.extend(git::registrations(&module).context(Operation::Read, || &module)?);
            }
            for registration in known {
                paths.cover_registration(&registration, &again, &mut covers)?;
                marks.push(MarkPlace::of_git(registration.folder));
            }
        }
        let folders = folders.into_iter().map(Path::to_owned).collect();
        for mark in marks {
            if let Some(marker) = Marker::read(&mark)?
                && paths.of(&marker.store) != marker.store
            {
                let marker = Marker { store: paths.of(&marker.store), ..marker };
                covers.push((mark.path(), Cover::File(marker.encode(Marked::Worktree))));
            }
        }
        Ok((covers, folders))
    }
}

/// Lets submodules that were added in a run lead to their repositories: git noted the paths that
/// hold there. As long as the run goes on, it needs these.
///
/// # Errors
/// It could not look, or could not write.
pub(super) fn lead_back_from_run(store: &Store, row: &WorktreeRow) -> Result<(), Error> {
    let (root, Ok(project)) = (path_from(&row.path), store.project()) else { return Ok(()) };
    // Where nothing ever ran, this costs no look at the worktree.
    let folders = [&project, &root].map(|beside| mount_folder(beside));
    let used: Vec<&PathBuf> = folders.iter().filter(|it| it.is_dir()).collect();
    if store.is_read_only() || used.is_empty() {
        return Ok(());
    }
    let registration = git::leads_to(&root).ok().filter(|it| has_modules(it));
    let Some(registration) = registration.filter(|_| !is_in_run(&project, &root)) else {
        return Ok(());
    };
    let (Some(here), Ok(below)) = (modules(store, row, &root), registration.strip_prefix(&project))
    else {
        return Ok(());
    };
    for folder in used {
        let shown = folder.join(project.file_name().unwrap_or_default());
        let there = here.seen_at(&project, &shown.join(below));
        here.lead_as(&there, &root).context(Operation::Link, || &root)?;
    }
    Ok(())
}

/// Whether a process sees the worktree at `root` at the project's path.
fn is_in_run(project: &Path, root: &Path) -> bool {
    let below = project.strip_prefix("/").unwrap_or(project);
    let mut processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.any(|process| git::is_same(&process.path().join("root").join(below), root))
}

/// A second mount of a repository.
struct SecondMount<'a> {
    common: &'a Path,
    at: PathBuf,
}

/// Where the trees are outside of the namespace, and where the project is inside.
struct PathsInRun<'a> {
    project: &'a Path,
    root: &'a Path,
    shown: PathBuf,
    /// The folder for what is mounted over files, and for second mounts.
    own: &'a Path,
}

/// What is mounted over which path.
type Covers = Vec<(PathBuf, Cover)>;

/// What is mounted over a path.
enum Cover {
    /// A file with this content.
    File(Vec<u8>),
    /// A store that no version of calve opens.
    Store,
}

impl PathsInRun<'_> {
    /// The path in the namespace of what has the path `path` outside.
    fn of(&self, path: &Path) -> PathBuf {
        if let Ok(below) = path.strip_prefix(self.root) {
            return self.project.join(below);
        }
        match path.strip_prefix(self.project) {
            Ok(below) => self.shown.join(below),
            Err(_) => path.to_owned(),
        }
    }

    /// The second mount of the repository with this number.
    fn second_of(&self, repository: usize) -> PathBuf {
        self.own.join(format!("git{repository}"))
    }

    /// All paths there: a worktree has its own, too.
    fn all_of(&self, path: &Path) -> Vec<PathBuf> {
        let also = path.starts_with(self.root).then(|| path.to_owned());
        std::iter::once(self.of(path)).chain(also).collect()
    }

    /// Lets a working tree and its registration name each other by the paths that they have in the
    /// namespace.
    fn cover_registration(
        &self,
        registration: &Registration,
        again: &SecondMount<'_>,
        covers: &mut Covers,
    ) -> Result<(), Error> {
        let folder = &registration.folder;
        let Some(registered) = &registration.git_file else { return Ok(()) };
        let is_own = registration.is_of(self.root);
        // The registration may have another path of the same tree, which leads elsewhere in the
        // namespace.
        let tree = registered.parent().and_then(|tree| std::fs::canonicalize(tree).ok());
        let git_file = match tree {
            _ if is_own => git::git_of(self.root),
            Some(tree) => tree.join(registered.file_name().unwrap_or(GIT.as_ref())),
            None => registered.clone(),
        };
        if self.of(&git_file) == *registered && self.of(folder) == *folder {
            return Ok(());
        }
        let file = |start: &[u8], path: &Path| {
            Cover::File([start, path.as_os_str().as_bytes(), b"\n"].concat())
        };
        let line = |start: &[u8], path: &Path| file(start, &self.of(path));
        covers.push((folder.join(GITDIR), line(b"", &git_file)));
        if std::fs::symlink_metadata(&git_file).is_ok_and(|found| found.is_file()) {
            let leads = match folder.strip_prefix(again.common) {
                Ok(below) if !is_own => file(b"gitdir: ", &again.at.join(below)),
                _ => line(b"gitdir: ", folder),
            };
            covers.push((git_file, leads));
        }
        if !is_own {
            return Ok(());
        }
        for module in ModuleConfig::all_of(folder).context(Operation::Read, || folder)? {
            let tree = self.of(&module.tree);
            if let Some(config) = module.with_tree(&tree) {
                covers.push((module.repository.join("config"), Cover::File(config)));
                covers.push((module.tree.join(GIT), line(b"gitdir: ", &module.repository)));
            }
        }
        Ok(())
    }
}

fn mount_folder(beside: &Path) -> PathBuf {
    beside.parent().unwrap_or(beside).join(RUN)
}

/// An empty folder for mounts. What cleans the folder of the worktrees must not find it.
fn mount_point(project: &Path, root: &Path) -> Result<PathBuf, Error> {
    let made = |beside: &Path| {
        let folder = mount_folder(beside);
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !folder.is_symlink() => {}
            made => made.context(Operation::MakeFolder, || &folder)?,
        }
        Ok(folder)
    };
    // This user may not write beside the project.
    made(project).or_else(|_| made(root))
}

/// Lets nothing be written through a mount; mounts in it stay as they are.
fn only_for_reading(at: &Path) -> Result<(), Error> {
    let found = statvfs(at).map_err(|errno| Error::io(Operation::Mount, at, errno))?.f_flag;
    // In a user namespace these may not be taken off.
    let kept = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ];
    let kept = kept.iter().filter(|(it, _)| found.contains(*it)).map(|(_, flag)| *flag);
    let flags = kept.fold(MountFlags::BIND | MountFlags::RDONLY, |flags, flag| flags | flag);
    mount_remount(at, flags, c"").or_else(|errno| mounted(errno, at))
}

/// Gives the process mounts of its own.
fn own_mounts() -> io::Result<()> {
    match unshare_mounts(false) {
        Err(Errno::PERM) => {
            let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
            unshare_mounts(true)?;
            let map = |id: u32| format!("{id} {id} 1\n");
            // Without privileges, a group can be mapped only if groups can be set no more.
            std::fs::write("/proc/self/setgroups", "deny")?;
            std::fs::write("/proc/self/uid_map", map(user.as_raw()))?;
            std::fs::write("/proc/self/gid_map", map(group.as_raw()))?;
        }
        unshared => unshared?,
    }
    // What is mounted outside later appears here, and nothing of this appears outside.
    let from_outside = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    Ok(mount_change("/", from_outside)?)
}

fn bind(what: &Path, over: &Path) -> Result<(), Error> {
    // Without what is mounted below it, the kernel would refuse it in a user namespace.
    mount_bind_recursive(what, over).or_else(|errno| mounted(errno, over))
}

fn mounted(errno: Errno, at: &Path) -> Result<(), Error> {
    match errno {
        Errno::PERM | Errno::ACCESS => {
            Err(Error::new(ErrorKind::NamespaceRefused, Operation::Mount, at, errno))
        }
        errno => Err(Error::io(Operation::Mount, at, errno)),
    }
}

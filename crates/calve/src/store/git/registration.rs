//! The registrations of linked worktrees.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs;
use rustix::io::Errno;

use super::ask::{head_in, identity, is_absent, is_same};
use super::modules::{MODULES, repositories_in};
use super::repository::read;
use super::torn::last_commit;
use super::{PATH_MOST_BYTES, git_of};
use crate::error::IfThere as _;
use crate::reflink::imp::DIR_FLAGS;
use crate::store::clock::older_than;
use crate::store::files::{listed_at, path_from, read_plain};
use crate::tree::across::move_tree;
use crate::tree::removal;
use crate::tree::staging::{stage_name, write_whole};

/// The folder of a repository that has a folder for each linked worktree.
pub(super) const REGISTRATIONS: &str = "worktrees";
pub(super) use crate::store::layout::GITDIR;
/// In `worktrees/ID`: the path of the folder that all working trees share.
pub(crate) const COMMONDIR: &str = "commondir";
/// In `worktrees/ID`: the reason why the worktree must not be pruned.
pub(super) const LOCKED: &str = "locked";
/// One git process never pauses this long between two steps.
const STEP_MOST: Duration = Duration::from_secs(1);

/// A linked worktree as its repository registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registration {
    /// `worktrees/ID` in the repository.
    pub(crate) folder: PathBuf,
    /// The path of the worktree's `.git` file. `None`: the git that makes the worktree has not
    /// written it yet, or was killed before it did.
    pub(crate) git_file: Option<PathBuf>,
    /// The reason why the worktree is locked, if it is locked.
    pub(crate) locked: Option<Vec<u8>>,
}

/// The linked worktrees that are registered in the repository whose shared folder is `common`.
pub(crate) fn registrations(common: &Path) -> io::Result<Vec<Registration>> {
    registration_folders(common)?.filter_map(|it| Registration::read_in(it).transpose()).collect()
}

/// The folders of these registrations.
pub(crate) fn registration_folders(common: &Path) -> io::Result<impl Iterator<Item = PathBuf>> {
    let folder = common.join(REGISTRATIONS);
    let listed = listed_at(&folder)?.into_iter();
    let folders = listed.filter(|(_, kind)| *kind == fs::FileType::Directory);
    Ok(folders.map(move |(name, _)| folder.join(name)))
}

/// The roots of the linked worktrees that are inside the working tree at `root` and belong to its
/// repository, or to that of one of its submodules, without links.
///
/// # Errors
/// The repository could not be read.
pub(crate) fn worktrees_inside(root: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(repository) = read(root)? else { return Ok(Vec::new()) };
    let root = std::fs::canonicalize(root)?;
    let modules = repository.git_dir.join(MODULES);
    let modules = repositories_in(&modules)?.into_iter().map(|name| modules.join(name));
    let (mut found, mut resolver) = (Vec::new(), Resolver::default());
    for common in std::iter::once(repository.common).chain(modules) {
        for folder in registration_folders(&common)? {
            let Some(git_file) = git_file_in(&folder)? else { continue };
            // Most of them are elsewhere, whatever they lead to.
            match resolver.resolve(git_file.parent().unwrap_or(&git_file)) {
                Ok(tree) if tree == root || !tree.starts_with(&root) => {}
                Ok(tree) => found.extend(leads_back_to(&folder, &tree)?.then_some(tree)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// Finds the paths of folders without links. Most worktrees are beside each other, so the folder
/// around them is resolved once.
#[derive(Default)]
pub(crate) struct Resolver(HashMap<PathBuf, PathBuf>);

impl Resolver {
    /// The path of what is at `path`.
    ///
    /// # Errors
    /// Nothing is there, or it could not be looked at.
    pub(crate) fn resolve(&mut self, path: &Path) -> io::Result<PathBuf> {
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return std::fs::canonicalize(path);
        };
        let above = match self.0.get(above) {
            Some(above) => above,
            None => self.0.entry(above.to_owned()).or_insert(std::fs::canonicalize(above)?),
        };
        let resolved = above.join(name);
        match std::fs::symlink_metadata(&resolved)?.is_symlink() {
            true => std::fs::canonicalize(path),
            false => Ok(resolved),
        }
    }
}

/// The roots of the linked worktrees of the repository at `git_dir` that are not in the tree at
/// `root`. One that is locked counts although its folder is gone: it may be on a volume that is
/// not mounted. It does not count if `other`, a copy of the repository, has it as well.
///
/// # Errors
/// The repository could not be read.
pub(crate) fn worktrees_outside(
    root: &Path,
    git_dir: &Path,
    other: Option<&Path>,
) -> io::Result<Vec<PathBuf>> {
    let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let others = other.map_or_else(|| Ok(Vec::new()), registrations)?;
    let mut found = Vec::new();
    for registration in registrations(git_dir)? {
        let mut tree = registration.tree()?;
        if tree.is_none() && registration.locked_by_others().is_some() {
            let file = registration.git_file.as_ref();
            let is_gone = |path: &&Path| identity(path).is_ok_and(|it| it.is_none());
            let is_in_other = others.iter().any(|it| it.git_file.as_ref() == file);
            let named = file.and_then(|file| file.parent()).filter(is_gone);
            tree = named.filter(|_| !is_in_other).map(Path::to_owned);
        }
        found.extend(tree.filter(|tree| !tree.starts_with(&root)));
    }
    Ok(found)
}

/// Whether an error says that a `.git` file leads to nothing.
pub(crate) fn leads_nowhere(error: &io::Error) -> bool {
    is_absent(error) || error.kind() == io::ErrorKind::InvalidData
}

/// The folder in which git keeps what belongs to the working tree at `root` alone: its repository,
/// or its registration. `None`: git does not know the tree.
///
/// A copy of a linked worktree leads to the registration of that worktree, as for git.
pub(crate) fn folder_of(root: &Path) -> Option<PathBuf> {
    let own = git_of(root);
    match std::fs::symlink_metadata(&own).ok()?.is_dir() {
        true => Some(own),
        false => leads_to(root).ok(),
    }
}

/// The path in the `.git` file of a folder.
///
/// # Errors
/// There is no `.git` file, or it has other content ([`leads_nowhere`]).
pub(crate) fn leads_to(root: &Path) -> io::Result<PathBuf> {
    Ok(absolute(root, path_in(root)?.as_os_str().as_bytes()))
}

/// The same path as it is written there.
fn path_in(root: &Path) -> io::Result<PathBuf> {
    let file = git_of(root);
    let text = match read_plain(fs::CWD, &file, PATH_MOST_BYTES) {
        // The file may be a link.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            read_plain(fs::CWD, &std::fs::canonicalize(&file)?, PATH_MOST_BYTES)?
        }
        read => read?,
    };
    let text = text.strip_prefix(b"gitdir: ").ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "its .git file does not lead to a repository")
    })?;
    Ok(path_from(text.trim_ascii_end()))
}

/// A tree, and the shared folder of its repository, without links.
#[derive(Debug, Default)]
pub(crate) struct OwnFolders {
    pub(crate) root: Option<PathBuf>,
    pub(crate) common: Option<PathBuf>,
}

impl OwnFolders {
    /// Those of the tree at `root`.
    pub(crate) fn of(root: &Path) -> Self {
        let common = read(root).ok().flatten().map(|repository| repository.common);
        let without_links = |path: &Path| std::fs::canonicalize(path).ok();
        Self { root: without_links(root), common: common.as_deref().and_then(without_links) }
    }

    /// Whether the `.git` file of the folder at `inside`, in this tree, would lead git from a copy of
    /// the tree to what is the original's: to a registration, or by its whole path. Then a commit
    /// in the one would move the branch of the other. The file of one of the tree's own submodules
    /// is no such file, and neither is one that leads nowhere.
    pub(crate) fn is_led_out(&self, inside: &Path) -> bool {
        let Ok(path) = path_in(inside) else { return false };
        let to = absolute(inside, path.as_os_str().as_bytes());
        let Ok(to) = std::fs::canonicalize(to) else { return false };
        let below = |of: &Option<PathBuf>| Some(to.strip_prefix(of.as_ref()?).ok()?.to_owned());
        if let Some(to) = below(&self.common) {
            let modules = |at: usize| to.iter().nth(at).is_some_and(|name| name == MODULES);
            return !modules(0) && !modules(2);
        }
        path.is_absolute()
            || below(&self.root).is_none() && std::fs::symlink_metadata(to.join(COMMONDIR)).is_ok()
    }
}

/// The path of the `.git` file of the worktree that is registered in `folder`.
fn git_file_in(folder: &Path) -> io::Result<Option<PathBuf>> {
    // A power cut may leave zeros.
    let text = read_if_there(&folder.join(GITDIR))?;
    let text = text.filter(|text| text.iter().any(|byte| *byte != 0));
    Ok(text.map(|text| absolute(folder, &text)))
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    read_plain(fs::CWD, path, PATH_MOST_BYTES).but_for(is_absent)
}

/// Whether the tree at `tree` leads to the registration in `folder`.
fn leads_back_to(folder: &Path, tree: &Path) -> io::Result<bool> {
    let Ok(led) = leads_to(tree) else { return Ok(false) };
    let led = identity(&led)?;
    Ok(led.is_some() && led == identity(folder)?)
}

/// The path in a line of one of git's files. A relative path starts at `folder`, the folder of the
/// file.
pub(super) fn absolute(folder: &Path, line: &[u8]) -> PathBuf {
    let path = path_from(line.trim_ascii_end());
    if path.is_absolute() {
        return path;
    }
    let mut whole = folder.to_owned();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            _ => {}
        }
    }
    whole
}

/// The reason of the lock that keeps git from pruning a worktree that it may not see.
const ELSEWHERE: &str =
    "calve: it is on another filesystem than the repository, which may not be mounted";

/// How the reason of the lock begins that a registration has while calve makes the worktree.
const MAKING: &str = "calve is making it";

/// The reason of that lock.
pub(super) fn making(token: &str) -> String {
    format!("{MAKING} ({token})")
}

impl Registration {
    /// The registration in a folder, if one is there.
    ///
    /// # Errors
    /// A file of it could not be read.
    pub(crate) fn read(folder: PathBuf) -> io::Result<Option<Self>> {
        match std::fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(None),
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        Self::read_in(folder)
    }

    /// The registration in a folder that was there.
    fn read_in(folder: PathBuf) -> io::Result<Option<Self>> {
        let (git_file, locked) = (git_file_in(&folder)?, read_if_there(&folder.join(LOCKED))?);
        // git may have removed it a moment ago.
        let is_there =
            git_file.is_some() || locked.is_some() || std::fs::symlink_metadata(&folder).is_ok();
        Ok(is_there.then_some(Self { folder, git_file, locked }))
    }

    /// The id that git gave this registration.
    pub(crate) fn id(&self) -> &OsStr {
        self.folder.file_name().unwrap_or_default()
    }

    /// The content of a `.git` file that leads to this registration.
    pub(crate) fn git_file_text(&self) -> Vec<u8> {
        [b"gitdir: ", self.folder.as_os_str().as_bytes(), b"\n"].concat()
    }

    /// The root of the worktree, without links. `None`: its folder is gone, or does not lead back
    /// here. Somebody may have deleted the worktree, and made another folder in its place.
    ///
    /// # Errors
    /// git's files could not be read.
    fn tree(&self) -> io::Result<Option<PathBuf>> {
        let Some(tree) = self.git_file.as_deref().and_then(Path::parent) else { return Ok(None) };
        let tree = std::fs::canonicalize(tree).but_for(is_absent)?;
        let Some(tree) = tree else { return Ok(None) };
        Ok(leads_back_to(&self.folder, &tree)?.then_some(tree))
    }

    /// Whether this registration names the tree at `root` as its worktree.
    pub(crate) fn is_of(&self, root: &Path) -> bool {
        let tree = self.git_file.as_deref().filter(|path| path.ends_with(".git"));
        tree.and_then(Path::parent).is_some_and(|tree| is_same(tree, root))
    }

    /// Whether calve was making this registration for the worktree with this token. `temporary` is
    /// the place where git was told to make the worktree.
    pub(crate) fn is_made_for(&self, token: &str, temporary: &Path) -> bool {
        let is_locked = self
            .locked
            .as_deref()
            .is_some_and(|reason| reason.trim_ascii_end() == making(token).as_bytes());
        is_locked || self.git_file.as_ref().is_some_and(|path| path.starts_with(temporary))
    }

    /// Whether a git died just after it had begun this registration, which is called `name`, or
    /// `name` and a number. Such a registration does not say whose it is, and removing it loses
    /// nothing.
    pub(crate) fn is_hardly_begun(&self, name: &str) -> bool {
        let Some(number) = self.id().to_str().and_then(|id| id.strip_prefix(name)) else {
            return false;
        };
        number.bytes().all(|byte| byte.is_ascii_digit())
            && self.git_file.is_none()
            && self.locked.as_ref().is_none_or(Vec::is_empty)
            && listed_at(&self.folder).is_ok_and(|names| {
                names.iter().all(|(name, _)| [GITDIR, LOCKED].map(OsStr::new).contains(&&**name))
            })
    }

    /// Waits until a git that works on this registration would have taken its next step.
    pub(crate) fn wait_for_next_step(&self) {
        wait_for_next_step(&self.folder);
    }

    /// Makes this the registration of the tree that will be at `root`.
    ///
    /// # Errors
    /// The registration is unchanged.
    pub(crate) fn point_at(&mut self, root: &Path) -> io::Result<()> {
        let git_file = git_of(root);
        let mut text = git_file.clone().into_os_string().into_vec();
        text.push(b'\n');
        write_whole(&self.folder, &self.folder.join(GITDIR), &text)?;
        self.git_file = Some(git_file);
        Ok(())
    }

    /// Whether another process of calve is making the worktree, or was killed in the middle.
    pub(crate) fn is_being_made(&self) -> bool {
        self.locked.as_deref().is_some_and(|reason| reason.starts_with(MAKING.as_bytes()))
    }

    /// The reason of a lock that somebody else made than calve.
    pub(crate) fn locked_by_others(&self) -> Option<&[u8]> {
        self.locked.as_deref().filter(|_| !self.is_elsewhere())
    }

    /// Whether calve locked it because the worktree is on another filesystem.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let reason = self.locked.as_deref().map(<[u8]>::trim_ascii_end);
        reason == Some(ELSEWHERE.as_bytes())
    }

    /// The content of the worktree's `HEAD`. `None` if it cannot be read, or if the repository
    /// keeps it elsewhere (reftable).
    pub(crate) fn head(&self) -> Option<String> {
        let text = head_in(&self.folder).ok()?;
        let head = std::str::from_utf8(text.trim_ascii_end()).ok()?;
        let is_real = !head.is_empty() && head != "ref: refs/heads/.invalid";
        let is_whole = is_real && !head.contains(char::is_control);
        is_whole.then(|| match last_commit(&self.folder.join("logs/HEAD")) {
            Some(commit) if head.starts_with("ref: ") => format!("{head} {commit}"),
            _ => head.to_owned(),
        })
    }

    /// Lets git keep the registration while the worktree cannot be seen.
    ///
    /// # Errors
    /// The registration is locked as before.
    pub(crate) fn lock_as_elsewhere(&mut self) -> io::Result<()> {
        write_whole(&self.folder, &self.folder.join(LOCKED), format!("{ELSEWHERE}\n").as_bytes())?;
        self.locked = Some(ELSEWHERE.into());
        Ok(())
    }

    /// Removes the lock, if calve made it for the worktree with this token.
    ///
    /// # Errors
    /// The registration is locked as before.
    pub(crate) fn unlock(&mut self, token: &str) -> io::Result<()> {
        let path = self.folder.join(LOCKED);
        let now = read_plain(fs::CWD, &path, PATH_MOST_BYTES).unwrap_or_default();
        if now.trim_ascii_end() == making(token).as_bytes() {
            std::fs::remove_file(&path)?;
            self.locked = None;
        }
        Ok(())
    }

    /// Removes the registration, as `git worktree remove` does for a worktree whose tree is gone. A
    /// git that meets a registration with a missing part dies, so the registration must disappear
    /// at once: it is renamed into `stage` first. If `stage` is on another filesystem, the parts
    /// are removed one by one, and the file that says whose registration it is comes last.
    ///
    /// # Errors
    /// A part of the registration may be gone.
    pub(crate) fn remove(&self, stage: &Path) -> io::Result<()> {
        match self.put_aside(stage.join(stage_name())) {
            Ok(mut aside) => {
                let stays = aside.stays.take();
                aside.remove()?;
                stays.map_or(Ok(()), Err)
            }
            // Another process removed it first.
            Err(_) if std::fs::symlink_metadata(&self.folder).is_err() => Ok(()),
            Err(_) => {
                for (name, _) in listed_at(&self.folder)? {
                    if name != GITDIR {
                        remove_at(&self.folder, &name)?;
                    }
                }
                remove_at(&self.folder, OsStr::new(GITDIR))?;
                remove_at(self.folder.parent().unwrap_or(Path::new("/")), self.id())
            }
        }
    }

    /// Renames the folder of the registration to `is`. It is not registered any more.
    ///
    /// # Errors
    /// The registration is unchanged: it was gone already, or `is` is on another filesystem.
    pub(crate) fn put_aside(&self, is: PathBuf) -> io::Result<Aside> {
        let was = self.folder.clone();
        let stays = move_tree(&was, &is)?;
        Ok(Aside { was, is, stays })
    }
}

/// A registration that was put aside.
#[derive(Debug)]
pub(crate) struct Aside {
    was: PathBuf,
    is: PathBuf,
    /// Why it is still where it was, too: git's folder is a mount of its own, and read-only.
    stays: Option<io::Error>,
}

impl Aside {
    /// Whether it was put into this folder.
    pub(crate) fn is_in(&self, folder: &Path) -> bool {
        self.is.starts_with(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.is
    }

    pub(crate) fn remove(self) -> io::Result<()> {
        let parent = self.is.parent().unwrap_or(Path::new("/"));
        remove_at(parent, self.is.file_name().unwrap_or_default())
    }

    /// Registers it again.
    pub(crate) fn put_back(self) -> io::Result<()> {
        match self.stays {
            Some(_) => self.remove(),
            None => move_tree(&self.is, &self.was).map(drop),
        }
    }
}

/// Waits until a git that made a file or a folder would have continued with it, or removed it.
pub(super) fn wait_for_next_step(path: &Path) {
    let rested = || {
        std::fs::symlink_metadata(path).map_or(true, |meta| {
            older_than((meta.ctime(), meta.ctime_nsec()), STEP_MOST) != Some(false)
        })
    };
    for _ in 0..24 {
        if rested() {
            return;
        }
        std::thread::sleep(STEP_MOST / 20);
    }
}

fn remove_at(folder: &Path, name: &OsStr) -> io::Result<()> {
    let dir = fs::open(folder, DIR_FLAGS, fs::Mode::empty()).if_there()?;
    let Some(dir) = dir else { return Ok(()) };
    removal::remove(&dir, &CString::new(name.as_bytes())?)
}

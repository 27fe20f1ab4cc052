//! The repositories of submodules, and the two paths by which a submodule's folder and its
//! repository lead to each other.
//!
//! A submodule's folder has a file `.git` that leads to its repository: `modules/NAME` in the
//! folder of the working tree's own repository. A linked worktree has repositories of its own for
//! its submodules, in `worktrees/ID/modules`, where git itself makes them. The repository's setting
//! `core.worktree` leads back to the folder.
//!
//! # One form in every snapshot
//! A snapshot has such a file `.git` as the project has it, and each linked worktree has it with a
//! path to its own repository. [`Modules`] translates in both directions. The file's path and its
//! bytes decide alone, so no list is kept that could be wrong after a crash.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode};

use super::ask::{Tree, identity};
use super::registration::{COMMONDIR, absolute};
use super::run::{Failure, Git};
use super::{Commit, Registration, Repository};
use crate::error::IfThere as _;
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::files::{bytes_of, listed_at, read_plain};
use crate::store::layout::GIT;
use crate::tree::git_index::{self, UnseenEdits};
use crate::tree::staging::write_whole;

/// In the folder of a working tree's repository: the repositories of its submodules.
pub(crate) const MODULES: &str = "modules";
/// A `.git` file begins with this.
const LEADS_TO: &[u8] = b"gitdir: ";
/// git's configuration files are shorter.
const CONFIG_MOST_BYTES: u64 = 1024 * 1024;
/// How many folders calve searches for repositories of submodules, and how deep.
const FOLDERS_MOST: usize = 10_000;
const DEEP_MOST: usize = 32;

/// The root of a working tree, and the folder with the repositories of its submodules.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ModuleSide {
    root: PathBuf,
    modules: PathBuf,
}

/// The submodules of the project and of one linked worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Modules {
    project: ModuleSide,
    own: ModuleSide,
}

impl Modules {
    /// `root` is the worktree's root, and `registration` is its `worktrees/ID`.
    pub(crate) fn new(project: &Repository, root: &Path, registration: &Path) -> Self {
        let side = |root: &Path, folder: &Path| ModuleSide {
            root: root.to_owned(),
            modules: folder.join(MODULES),
        };
        Self { project: side(&project.root, &project.git_dir), own: side(root, registration) }
    }

    /// The submodules of the same worktree at another place.
    pub(crate) fn at(&self, root: &Path) -> Self {
        // The repositories of a worktree that has a copy of the project's repository move with it.
        let modules = match self.own.modules.strip_prefix(&self.own.root) {
            Ok(inside) => root.join(inside),
            Err(_) => self.own.modules.clone(),
        };
        Self { own: ModuleSide { root: root.to_owned(), modules }, ..self.clone() }
    }

    /// The same submodules where the worktree and its registration have other paths.
    #[cfg(target_os = "linux")]
    pub(crate) fn seen_at(&self, root: &Path, registration: &Path) -> Self {
        let own = ModuleSide { root: root.to_owned(), modules: registration.join(MODULES) };
        Self { own, ..self.clone() }
    }

    /// The submodules of a worktree with its root at `root` that has a copy of the project's
    /// repository. `None` if the project's repository is not in its root: then there is no copy.
    pub(crate) fn of_copy(project: &Repository, root: &Path) -> Option<Self> {
        let is_inside = project.git_dir == super::git_of(&project.root);
        is_inside.then(|| Self::new(project, root, &super::git_of(root)))
    }

    /// The submodules of the project itself.
    pub(crate) fn of_project(project: &Repository) -> Self {
        Self::new(project, &project.root, &project.git_dir)
    }

    /// Whether the worktree has repositories of submodules.
    pub(crate) fn are_in_use(&self) -> bool {
        listed_at(&self.own.modules).is_ok_and(|names| !names.is_empty())
    }

    /// The content that the file at `path` has in a snapshot, if it has `bytes` in the worktree.
    /// `None` if it is the same.
    pub(crate) fn canonical(&self, path: &Path, bytes: &[u8]) -> Option<Vec<u8>> {
        translate(path, bytes, &self.own, &self.project)
    }

    /// The content that the file at `path` has in the worktree, if it has `bytes` in a snapshot.
    /// `None` if it is the same, or if the way back would not give the same bytes.
    pub(crate) fn localize(&self, path: &Path, bytes: &[u8]) -> Option<Vec<u8>> {
        let local = translate(path, bytes, &self.project, &self.own)?;
        (self.canonical(path, &local)? == bytes).then_some(local)
    }

    /// The submodule whose file `.git` is at `path` and has `bytes` in a snapshot.
    pub(crate) fn module(&self, path: &Path, bytes: &[u8]) -> Option<Module> {
        self.localize(path, bytes)?;
        let name = name_of(path, bytes, &self.project)?;
        Some(Module {
            folder: path.parent()?.to_owned(),
            source: self.project.modules.join(&name),
            repository: self.own.modules.join(&name),
            name,
        })
    }

    /// The repository that a worktree's repository of a submodule is copied from: the project's, or
    /// that of another linked worktree, in which the submodule was added.
    pub(crate) fn source_of(&self, module: &Module) -> Option<PathBuf> {
        let is_there = |path: PathBuf| std::fs::symlink_metadata(path).is_ok();
        // The registration of a linked worktree of a submodule is no repository.
        let is_one =
            |path: &PathBuf| is_there(path.join("HEAD")) && !is_there(path.join(COMMONDIR));
        let worktrees = self.own.modules.parent()?.parent()?;
        let others = listed_at(worktrees).unwrap_or_default().into_iter();
        let others = others.map(|(id, _)| worktrees.join(id).join(MODULES).join(&module.name));
        std::iter::once(module.source.clone()).chain(others).find(is_one)
    }

    /// Lets the repository of a submodule name the submodule's folder in the worktree.
    ///
    /// # Errors
    /// It names the folder that it named before.
    pub(crate) fn lead_back(&self, repository: &Path, module: &Module) -> io::Result<()> {
        let to = relative(&module.repository, &self.own.root.join(&module.folder));
        match working_tree(repository) {
            Some(there) if there == to => Ok(()),
            _ => set_working_tree(repository, &to),
        }
    }

    /// Lets the submodules of a worktree that was moved, or registered under another name, lead to
    /// their repositories again. `before` are its submodules as they were; `tree` is where its tree
    /// is now. Whatever does not lead as `before` says stays.
    ///
    /// # Errors
    /// A file could not be written. The next call goes on.
    pub(crate) fn lead_as(&self, before: &Self, tree: &Path) -> io::Result<()> {
        self.lead_in(before, tree, &self.own.modules).map(drop)
    }

    /// The same while the folder `modules` is still at `repositories`. Returns the files `.git`
    /// that were written, as paths from the root.
    pub(crate) fn lead_in(
        &self,
        before: &Self,
        tree: &Path,
        repositories: &Path,
    ) -> io::Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        for name in repositories_in(repositories)? {
            let repository = repositories.join(&name);
            let Some(value) = working_tree(&repository) else { continue };
            let absolute = |side: &ModuleSide| {
                let path = absolute(&side.modules.join(&name), value.as_os_str().as_bytes());
                path.strip_prefix(&side.root).map(Path::to_owned).ok()
            };
            let Some(folder) = absolute(&before.own).or_else(|| absolute(&self.own)) else {
                continue;
            };
            let git_file = folder.join(GIT);
            let at = tree.join(&git_file);
            let Ok(bytes) = read_plain(fs::CWD, &at, super::PATH_MOST_BYTES) else { continue };
            if let Some(bytes) = translate(&git_file, &bytes, &before.own, &self.own) {
                let parent = tree.join(&folder);
                let times =
                    [&at, &parent].map(|path| Ok::<_, io::Error>(Meta::of(&fs::lstat(path)?)));
                write_whole(&parent, &at, &bytes)?;
                for (path, meta) in [&at, &parent].into_iter().zip(times) {
                    let times = meta?.timestamps();
                    fs::utimensat(fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                }
                written.push(git_file);
            }
            let own = self.own.modules.join(&name);
            let module = Module { folder, source: PathBuf::new(), repository: own, name };
            self.lead_back(&repository, &module)?;
        }
        Ok(written)
    }
}

/// A submodule of a linked worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its folder, from the worktree's root.
    pub(crate) folder: PathBuf,
    /// The place of its repository below a folder `modules`.
    pub(crate) name: PathBuf,
    /// The project's repository of it.
    pub(crate) source: PathBuf,
    /// The worktree's repository of it.
    pub(crate) repository: PathBuf,
}

impl Registration {
    /// Whether the worktree has repositories of submodules.
    pub(crate) fn has_modules(&self) -> bool {
        has_modules(&self.folder)
    }
}

/// Whether a working tree has repositories of submodules. `git_dir` is the folder that belongs to
/// it alone.
pub(crate) fn has_modules(git_dir: &Path) -> bool {
    listed_at(&git_dir.join(MODULES)).is_ok_and(|names| !names.is_empty())
}

/// Whether a path may be that of a submodule's file `.git`.
pub(crate) fn may_be_of_module(path: &Path) -> bool {
    path.file_name() == Some(OsStr::new(GIT))
        && path.parent().is_some_and(|folder| !folder.as_os_str().is_empty())
}

/// The name of the submodule to which the file `.git` at `path` leads.
fn name_of(path: &Path, bytes: &[u8], side: &ModuleSide) -> Option<PathBuf> {
    if !may_be_of_module(path) {
        return None;
    }
    let target = bytes.strip_prefix(LEADS_TO)?.strip_suffix(b"\n")?;
    if target.is_empty() || target.contains(&b'\n') || target.contains(&0) {
        return None;
    }
    let target = absolute(&side.root.join(path.parent()?), target);
    let name = target.strip_prefix(&side.modules).ok()?;
    (!name.as_os_str().is_empty()
        && name.components().all(|part| matches!(part, Component::Normal(_))))
    .then(|| name.to_owned())
}

fn translate(path: &Path, bytes: &[u8], from: &ModuleSide, to: &ModuleSide) -> Option<Vec<u8>> {
    let name = name_of(path, bytes, from)?;
    let target = to.modules.join(name);
    let target = match bytes.get(LEADS_TO.len()) {
        Some(b'/') => target,
        _ => relative(&to.root.join(path.parent()?), &target),
    };
    let made = [LEADS_TO, &bytes_of(&target), b"\n"].concat();
    (made != bytes).then_some(made)
}

/// The path that leads from the folder `from` to `to`. Both are absolute and have no `..`.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = from[common..].iter().map(|_| Component::ParentDir);
    up.chain(to[common..].iter().copied()).collect()
}

/// The repositories in a folder `modules`, as paths from there. A repository comes before those of
/// its own submodules.
///
/// # Errors
/// A folder could not be listed.
pub(crate) fn repositories_in(modules: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![(PathBuf::new(), 0)]);
    let mut looked_at = 0;
    while let Some((folder, deep)) = folders.pop() {
        looked_at += 1;
        if looked_at > FOLDERS_MOST || deep > DEEP_MOST {
            return Err(io::Error::other("it has too many folders of submodules"));
        }
        let at = modules.join(&folder);
        if std::fs::symlink_metadata(at.join("HEAD")).is_ok() {
            folders.push((folder.join(MODULES), deep + 1));
            found.push(folder);
            continue;
        }
        // A submodule's name may have slashes in it.
        for (name, kind) in listed_at(&at)? {
            if kind == fs::FileType::Directory {
                folders.push((folder.join(name), deep + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A repository of a submodule of a linked worktree, and the submodule's working tree.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct ModuleConfig {
    pub(crate) repository: PathBuf,
    pub(crate) tree: PathBuf,
    config: Vec<u8>,
}

#[cfg(target_os = "linux")]
impl ModuleConfig {
    /// Those in a registration.
    ///
    /// # Errors
    /// A folder could not be listed, or a configuration could not be read.
    pub(crate) fn all_of(registration: &Path) -> io::Result<Vec<Self>> {
        let modules = registration.join(MODULES);
        let mut found = Vec::new();
        for name in repositories_in(&modules)? {
            let repository = modules.join(name);
            let Some(tree) = working_tree(&repository) else { continue };
            let tree = absolute(&repository, tree.as_os_str().as_bytes());
            let config = read_plain(fs::CWD, &repository.join("config"), CONFIG_MOST_BYTES)?;
            found.push(Self { repository, tree, config });
        }
        Ok(found)
    }

    /// The configuration with another working tree. `None` if calve does not understand it.
    pub(crate) fn with_tree(&self, tree: &Path) -> Option<Vec<u8>> {
        git_index::with_working_tree(&self.config, tree.as_os_str().as_bytes())
    }
}

/// The setting `core.worktree` of a repository.
fn working_tree(repository: &Path) -> Option<PathBuf> {
    let dir = fs::open(repository, DIR_FLAGS, Mode::empty()).ok()?;
    git_index::set_working_tree(&dir, c"config")
}

fn set_working_tree(repository: &Path, to: &Path) -> io::Result<()> {
    let path = repository.join("config");
    let text = read_plain(fs::CWD, &path, CONFIG_MOST_BYTES)?;
    if let Some(made) = git_index::with_working_tree(&text, to.as_os_str().as_bytes()) {
        return write_whole(repository, &path, &made);
    }
    let git = Git::new(repository).in_tree(repository, repository);
    git.args(["config", "core.worktree"]).arg(to).run()?;
    Ok(())
}

/// Lets the copy of a repository that names its own working tree by an absolute path name the
/// working tree of the copy.
///
/// # Errors
/// It names the other one.
pub(crate) fn lead_copy(repository: &Path) -> io::Result<()> {
    match working_tree(repository).filter(|tree| tree.is_absolute()) {
        Some(_) => set_working_tree(repository, Path::new("..")),
        None => Ok(()),
    }
}

/// Lets a repository find the objects that it borrows from another one, after its folder was copied
/// from `source`: a path in `objects/info/alternates` may be relative.
///
/// # Errors
/// The file is unchanged.
pub(crate) fn settle_alternates(repository: &Path, source: &Path) -> io::Result<()> {
    let path = repository.join("objects/info/alternates");
    let text = read_plain(fs::CWD, &path, CONFIG_MOST_BYTES).if_there()?;
    let Some(text) = text else { return Ok(()) };
    let mut made = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let is_path = !line.starts_with(b"/") && !line.starts_with(b"#") && line != b"\n";
        if is_path {
            let target = absolute(&source.join("objects"), line);
            made.extend_from_slice(&target.into_os_string().into_vec());
            made.push(b'\n');
        } else {
            made.extend_from_slice(line);
        }
    }
    if made == text { Ok(()) } else { write_whole(repository, &path, &made) }
}

/// The repository of a submodule in a worktree.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) repository: Repository,
    /// The project's repository of the same submodule.
    pub(crate) in_project: Option<Repository>,
    pub(crate) is_submodule: bool,
}

impl Held {
    /// The name of the submodule in messages.
    pub(crate) fn name(&self) -> String {
        let path = &self.repository.git_dir;
        let folder = if path.ends_with(GIT) { path.parent().unwrap_or(path) } else { path };
        let kind = if self.is_submodule { "submodule" } else { "repository" };
        format!("the {kind} {}", folder.display())
    }
}

/// A working tree's root, and the folder of a repository that belongs to this tree alone.
#[derive(Clone, Copy)]
pub(crate) struct TreeAndGitDir<'a> {
    pub(crate) root: &'a Path,
    pub(crate) git_dir: &'a Path,
}

/// The repositories of all submodules of a working tree, and of their submodules.
///
/// # Errors
/// A folder could not be listed.
pub(crate) fn all_below(
    tree: TreeAndGitDir<'_>,
    project: Option<TreeAndGitDir<'_>>,
) -> io::Result<Vec<Held>> {
    let TreeAndGitDir { root, git_dir } = tree;
    let is_one = |path: &PathBuf| std::fs::symlink_metadata(path.join("HEAD")).is_ok();
    let held = |own: &Path, in_project: Option<PathBuf>| Held {
        repository: Repository::of_module(own),
        in_project: in_project.filter(is_one).map(|path| Repository::of_module(&path)),
        is_submodule: true,
    };
    let mut found = Vec::new();
    let mut trees = vec![(git_dir.to_owned(), PathBuf::new())];
    let mut looked_at = 0;
    while let Some((git_dir, folder)) = trees.pop() {
        looked_at += 1;
        if looked_at > FOLDERS_MOST {
            return Err(io::Error::other("it has too many submodules"));
        }
        let in_project = match project {
            Some(TreeAndGitDir { git_dir, .. }) if folder.as_os_str().is_empty() => {
                Some(git_dir.to_owned())
            }
            Some(TreeAndGitDir { root, .. }) => {
                super::read(&root.join(&folder))?.map(|it| it.git_dir)
            }
            None => None,
        };
        // A repository that is inside the repository of another working tree was found with that.
        if !found
            .iter()
            .any(|it: &Held| git_dir == it.repository.git_dir && !git_dir.ends_with(GIT))
        {
            for name in repositories_in(&git_dir.join(MODULES))? {
                let name = Path::new(MODULES).join(name);
                found.push(held(
                    &git_dir.join(&name),
                    in_project.as_ref().map(|git_dir| git_dir.join(&name)),
                ));
            }
        }
        // Nothing is in a tree that is gone.
        let tree = Tree { root: root.join(&folder), git_dir };
        let submodules = match identity(&tree.root)? {
            Some(_) => tree.special(UnseenEdits::NotAsked)?.submodules,
            None => Vec::new(),
        };
        for path in submodules {
            let path = folder.join(path);
            let Some(inner) = super::read(&root.join(&path))? else { continue };
            // A repository that is a folder in the tree is not in any folder `modules`.
            if inner.git_dir == super::git_of(&root.join(&path)) {
                let in_project = match project {
                    Some(TreeAndGitDir { root, .. }) => super::read(&root.join(&path))?,
                    None => None,
                };
                found.push(held(&inner.git_dir, in_project.map(|it| it.git_dir)));
            }
            trees.push((inner.git_dir, path));
        }
    }
    Ok(found)
}

/// Work in a repository of a submodule that nothing else holds.
#[derive(Debug, Default)]
pub(crate) struct Unheld {
    pub(crate) commits: Vec<Commit>,
    /// The commits that references point to, and that nothing else holds.
    pub(crate) tips: Vec<String>,
}

impl Repository {
    /// The repository of a submodule, for questions that need no working tree.
    pub(crate) fn of_module(git_dir: &Path) -> Self {
        Self { root: git_dir.to_owned(), git_dir: git_dir.to_owned(), common: git_dir.to_owned() }
    }

    /// The commits, at most `most`, that are lost if this repository of a submodule is deleted:
    /// neither a branch of a remote holds them, nor a reference of `other`, the repository that the
    /// project has of the same submodule. A remote in the tree at `goes` is deleted with it.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn unheld_but_by(
        &self,
        other: Option<&Self>,
        goes: Option<&Path>,
        most: usize,
    ) -> Result<Unheld, Failure> {
        let mut found = Unheld::default();
        let mut not: Vec<String> = Vec::new();
        if let Some(other) = other {
            for tip in other.all_tips(None)?.commits {
                not.push(format!("^{tip}"));
            }
        }
        let tips = self.all_tips(Some("refs/remotes/"))?.commits;
        if tips.is_empty() {
            return Ok(found);
        }
        let remotes = self.branches_of_remotes(goes)?;
        let git = |tips: &[String], most: usize| {
            let lines: Vec<&str> = tips.iter().chain(&not).map(String::as_str).collect();
            let git = self
                .git()
                .args(["rev-list", "--topo-order", "--ignore-missing"])
                .args([&format!("--max-count={most}")])
                .args(["--no-commit-header", "--format=%H %s", "--stdin", "--not"])
                .args(&remotes)
                .with_input((lines.join("\n") + "\n").into_bytes());
            let objects = other.map(|other| other.common.join("objects"));
            let git = git.with_objects_of(objects.as_deref());
            let output = git.run()?;
            let commits = String::from_utf8_lossy(&output.bytes);
            Ok::<Vec<Commit>, Failure>(commits.lines().filter_map(Commit::parse).collect())
        };
        found.commits = git(&tips, most)?;
        if found.commits.is_empty() {
            return Ok(found);
        }
        for tip in tips {
            if !git(std::slice::from_ref(&tip), 1)?.is_empty() {
                found.tips.push(tip);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        let project = Repository {
            root: PathBuf::from("/home/me/app"),
            git_dir: PathBuf::from("/home/me/app/.git"),
            common: PathBuf::from("/home/me/app/.git"),
        };
        let folder = Path::new("/home/me/app/.git/worktrees/fix");
        Modules::new(&project, Path::new("/home/me/app.worktrees/fix"), folder)
    }

    #[test]
    fn a_submodules_file_leads_to_the_repository_of_its_own_tree_and_back() {
        for (path, snapshot, worktree) in [
            (
                "sub/.git",
                "gitdir: ../.git/modules/sub\n",
                Some("gitdir: ../../../app/.git/worktrees/fix/modules/sub\n"),
            ),
            (
                "deep/sub/.git",
                "gitdir: ../../.git/modules/with/slash\n",
                Some("gitdir: ../../../../app/.git/worktrees/fix/modules/with/slash\n"),
            ),
            (
                "sub/in/.git",
                "gitdir: ../../.git/modules/sub/modules/in\n",
                Some("gitdir: ../../../../app/.git/worktrees/fix/modules/sub/modules/in\n"),
            ),
            (
                "sub/.git",
                "gitdir: /home/me/app/.git/modules/sub\n",
                Some("gitdir: /home/me/app/.git/worktrees/fix/modules/sub\n"),
            ),
            // Another worktree of git, another repository, and what is no such file.
            ("sub/.git", "gitdir: /home/me/other/.git/worktrees/sub\n", None),
            ("sub/.git", "gitdir: ../.git/worktrees/sub\n", None),
            ("sub/.git", "gitdir: ../../.git/modules/sub\n", None),
            ("sub/.git", "gitdir: ../.git/modules\n", None),
            ("sub/.git", "gitdir: ../.git/modules/../../x\n", None),
            ("sub/.git", "gitdir: ../.git/modules/sub", None),
            ("sub/.git", "gitdir: ../.git/modules/a\nb\n", None),
            ("sub/.git", "gitdir: ../.git/./modules/sub\n", None),
            ("sub/.git", "", None),
            (".git", "gitdir: .git/modules/sub\n", None),
            ("sub/git", "gitdir: ../.git/modules/sub\n", None),
        ] {
            let (modules, path) = (modules(), Path::new(path));
            let local = modules.localize(path, snapshot.as_bytes());
            assert_eq!(local.as_deref(), worktree.map(str::as_bytes), "{snapshot}");
            if let Some(local) = local {
                let back = modules.canonical(path, &local);
                assert_eq!(back.as_deref(), Some(snapshot.as_bytes()));
                // A file that has the form of the snapshot, or of this place, already is not
                // translated.
                assert_eq!(modules.canonical(path, snapshot.as_bytes()), None);
                assert_eq!(modules.localize(path, &local), None);
            }
        }
    }
}

//! Chooses the differences that status and diff report: those below some paths, and those that git
//! would report.
//!
//! Like git, calve reports a file that git tracks even if an ignore rule names it.
//!
//! Like git, calve uses the ignore files of the worktree as they are now. If an entry was deleted
//! together with its folder, the ignore files of the folders above decide. calve opens ignore files
//! step by step and follows no link, like everything in a worktree.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::diff::is_gits_own;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::store::at::{is_gone, open_at};
use crate::store::delta::Delta;
use crate::store::files::read_plain;
use crate::store::git::is_same;
use crate::store::layout::{GIT, GIT_REGISTRATIONS};
use crate::store::manifest::Manifest;
use crate::store::object::Entry;
use crate::store::scan::IGNORE_FILE;
use crate::tree::filter::{IgnoreChain, any_starts_with};
use crate::tree::git_index;
use crate::tree::read::read_rules;

/// The differences that [`Worktree::status_of`](super::Worktree::status_of) and
/// [`Worktree::diff_of`](super::Worktree::diff_of) report; built by value. By default they report
/// all.
#[derive(Debug, Clone, Default)]
pub struct ChangeScope {
    gitignore: bool,
    paths: Vec<PathBuf>,
}

impl ChangeScope {
    /// Only `path` and everything below it. `path` is relative to the worktree's root, or absolute.
    /// After several calls: everything below any of the paths.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.paths.push(path.into());
        self
    }

    /// Prepares the scope for the worktree at `root` of a project.
    pub(super) fn at(&self, root: &Path, project: Option<&Path>) -> Result<Judge, Error> {
        let below = |path: &PathBuf| {
            inside(path.strip_prefix(root).unwrap_or(path)).ok_or_else(|| {
                let cause = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "this path leads out of the worktree",
                );
                Error::new(ErrorKind::SourceNotFound, Operation::Compare, path, cause)
                    .with_other(root)
            })
        };
        Ok(Judge {
            root: root.to_owned(),
            paths: self.paths.iter().map(below).collect::<Result<_, _>>()?,
            opened: self.gitignore.then(|| super::open_dir(root)).transpose()?,
            ignore_file: c".gitignore",
            folders: HashMap::new(),
            registrations: project.map(|project| project.join(GIT_REGISTRATIONS)),
            tracked: OnceCell::new(),
        })
    }
}

setters! { ChangeScope:
    /// All differences.
    pub fn new(),
    /// Leaves out files that the worktree's `.gitignore` files (or `.git/info/exclude` of the root)
    /// name, unless git tracks them, and everything in a folder called `.git`. The repository in
    /// the root says which files git tracks. If calve does not understand its index (it may be
    /// split), the ignore files decide alone.
    pub gitignore: bool,
}

/// A `.git` file holds one path, so it is short.
const GIT_FILE_MOST_BYTES: u64 = 8 * 1024;

/// The path without `.` and `..`. `None` if it leads out of the worktree.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir if inside.pop() => {}
            _ => return None,
        }
    }
    Some(inside)
}

/// A scope together with what it has read of the worktree's ignore files.
pub(super) struct Judge {
    root: PathBuf,
    paths: Vec<PathBuf>,
    /// The root, if ignore files decide.
    opened: Option<OwnedFd>,
    /// The ignore files of each folder.
    ignore_file: &'static CStr,
    folders: HashMap<PathBuf, ScopeFolder>,
    /// The folder in which git has the indexes of the project's linked worktrees.
    registrations: Option<PathBuf>,
    /// The files that git tracks, read when they are first needed.
    /// `None` inside: calve cannot read which these are.
    tracked: OnceCell<Option<BTreeSet<Vec<u8>>>>,
}

#[derive(Clone)]
enum ScopeFolder {
    Ignored,
    Ruled(Option<Arc<IgnoreChain>>),
}

impl Judge {
    /// What the `.calveignore` files of the tree at `root` leave out.
    pub(super) fn of_calve(root: &Path) -> Result<Self, Error> {
        let judge = ChangeScope::new().gitignore(true).at(root, None)?;
        Ok(Self { ignore_file: IGNORE_FILE, ..judge })
    }

    /// Whether an ignore file names the entry at `path`, or a folder above it.
    pub(super) fn leaves_out(&mut self, path: &Path, is_dir: bool) -> Result<bool, Error> {
        Ok(self.folder(path.parent().unwrap_or(Path::new("")))?.ignores(path, is_dir))
    }

    /// Refuses a path that neither tree has: a typing error would look like a path without changes.
    /// A path that exists but that no snapshot takes is allowed.
    pub(super) fn must_lead_somewhere(&self, old: &Manifest, new: &Manifest) -> Result<(), Error> {
        let leads = |path: &Path| {
            old.has(path) || new.has(path) || self.root.join(path).symlink_metadata().is_ok()
        };
        match self.paths.iter().find(|path| !leads(path)) {
            None => Ok(()),
            Some(path) => {
                let cause = io::Error::new(
                    io::ErrorKind::NotFound,
                    "neither the worktree nor its base snapshot has this path",
                );
                Err(Error::new(ErrorKind::SourceNotFound, Operation::Compare, path, cause)
                    .with_other(&self.root))
            }
        }
    }

    /// The differences of `deltas` that are in the scope.
    pub(super) fn judged(
        &mut self,
        old: &Manifest,
        new: &Manifest,
        deltas: Vec<Delta>,
    ) -> Result<Vec<Delta>, Error> {
        let mut judged = Vec::with_capacity(deltas.len());
        for delta in deltas {
            let now = delta.new.map(|at| new.at(at)).or(delta.old.map(|at| old.at(at)));
            if self.admits(&delta.path, now.is_some_and(Entry::is_directory))? {
                judged.push(delta);
            }
        }
        Ok(judged)
    }

    /// Whether the entry at `path` is in the scope.
    fn admits(&mut self, path: &Path, is_dir: bool) -> Result<bool, Error> {
        if !self.paths.is_empty() && !self.paths.iter().any(|above| path.starts_with(above)) {
            return Ok(false);
        }
        if self.opened.is_none() {
            return Ok(true);
        }
        if is_gits_own(path) {
            return Ok(false);
        }
        Ok(!self.leaves_out(path, is_dir)? || !is_dir && self.is_tracked(path))
    }

    /// Whether git tracks the file at `path`.
    fn is_tracked(&self, path: &Path) -> bool {
        self.tracked().is_some_and(|tracked| tracked.contains(path.as_os_str().as_bytes()))
    }

    fn tracked(&self) -> Option<&BTreeSet<Vec<u8>>> {
        let read = || self.repository().and_then(|git| git_index::tracked(&git));
        self.tracked.get_or_init(read).as_ref()
    }

    /// Whether git may list something in the folder at `path`: git does not ignore it, or tracks a
    /// file in it.
    pub(super) fn may_have_work(&mut self, path: &Path) -> Result<bool, Error> {
        if self.opened.is_none() || is_gits_own(path) {
            return Ok(true);
        }
        // What its own ignore file says, says nothing of the folder itself.
        let above = path.parent().map(|above| self.folder(above));
        match above.unwrap_or(Ok(ScopeFolder::Ruled(None))) {
            Ok(above) if above.ignores(path, true) => {}
            Ok(_) => return Ok(true),
            // It is in no ignored folder, and nobody can look into it.
            Err(error) if error.io_error().kind() == io::ErrorKind::PermissionDenied => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let within = [path.as_os_str().as_bytes(), b"/"].concat();
        Ok(self.tracked().is_none_or(|tracked| {
            any_starts_with(tracked, &within)
                // It is a submodule, or in one.
                || path.ancestors().any(|it| tracked.contains(it.as_os_str().as_bytes()))
        }))
    }

    /// Opens the folder that has the tree's index: `.git`, or the project's folder for this linked
    /// worktree. A `.git` file may name other folders, but calve does not read those.
    fn repository(&self) -> Option<OwnedFd> {
        let root = self.opened.as_ref()?;
        if let Ok(dir) = open_at(root, Path::new(GIT)) {
            return Some(dir);
        }
        let text = read_plain(root, Path::new(GIT), GIT_FILE_MOST_BYTES).ok()?;
        let folder = Path::new(OsStr::from_bytes(text.strip_prefix(b"gitdir: ")?.trim_ascii_end()));
        let (above, registrations) = (folder.parent()?, self.registrations.as_deref()?);
        if !is_same(above, registrations) {
            return None;
        }
        let dir = super::open_dir(above).ok()?;
        open_at(&dir, Path::new(folder.file_name()?)).ok()
    }

    fn folder(&mut self, path: &Path) -> Result<ScopeFolder, Error> {
        if let Some(known) = self.folders.get(path) {
            return Ok(known.clone());
        }
        // We go from the root down: everything in an ignored folder is ignored, whatever rules say
        // further down.
        let mut above = ScopeFolder::Ruled(None);
        let mut folders: Vec<&Path> = path.ancestors().collect();
        folders.reverse();
        for folder in folders {
            above = match self.folders.get(folder) {
                Some(known) => known.clone(),
                None => {
                    let judged = match &above {
                        _ if above.ignores(folder, true) => ScopeFolder::Ignored,
                        ScopeFolder::Ignored => ScopeFolder::Ignored,
                        ScopeFolder::Ruled(chain) => {
                            ScopeFolder::Ruled(self.rules(folder, chain.clone())?)
                        }
                    };
                    self.folders.insert(folder.to_owned(), judged.clone());
                    judged
                }
            };
        }
        Ok(above)
    }

    fn rules(
        &self,
        folder: &Path,
        mut chain: Option<Arc<IgnoreChain>>,
    ) -> Result<Option<Arc<IgnoreChain>>, Error> {
        let Some(root) = &self.opened else { return Ok(chain) };
        let dir = match open_at(root, folder) {
            Ok(dir) => dir,
            // The folder was deleted, or another kind of entry is there by now.
            Err(error) if is_gone(&error) => return Ok(chain),
            Err(error) => {
                return Err(error).context(Operation::OpenDirectory, || self.root.join(folder));
            }
        };
        let in_root: [&[&CStr]; 2] = [&[c".git", c"info", c"exclude"], &[self.ignore_file]];
        let is_gits = folder == Path::new("") && self.ignore_file != IGNORE_FILE;
        let files = if is_gits { &in_root[..] } else { &in_root[1..] };
        for names in files {
            let text = read_rules(&dir, names)
                .context(Operation::ReadIgnoreFile, || self.root.join(folder))?;
            if let Some(text) = text {
                chain = Some(IgnoreChain::push(chain, folder, &text));
            }
        }
        Ok(chain)
    }
}

impl ScopeFolder {
    fn ignores(&self, path: &Path, is_dir: bool) -> bool {
        match self {
            Self::Ignored => true,
            Self::Ruled(None) => false,
            // No rule can be about the root itself.
            Self::Ruled(Some(_)) if path == Path::new("") => false,
            Self::Ruled(Some(chain)) => chain.excludes(path, is_dir),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submodule_may_have_work_also_in_a_folder_that_git_ignores() {
        let tree = tempfile::tempdir().unwrap();
        let script = "git init -q; echo built/ >.gitignore; mkdir -p built/sub/src built/out
            git update-index --add --cacheinfo 160000,$(git hash-object .gitignore),built/sub";
        let mut shell = std::process::Command::new("sh");
        assert!(shell.args(["-c", script]).current_dir(tree.path()).status().unwrap().success());
        let mut judge = ChangeScope::new().gitignore(true).at(tree.path(), None).unwrap();
        for (folder, expected) in
            [("built", true), ("built/sub", true), ("built/sub/src", true), ("built/out", false)]
        {
            assert_eq!(judge.may_have_work(Path::new(folder)).unwrap(), expected, "{folder}");
        }
    }

    #[test]
    fn a_path_is_below_the_root_or_leads_out() {
        for (path, expected) in [
            ("", Some("")),
            (".", Some("")),
            ("a", Some("a")),
            ("./a//b/", Some("a/b")),
            ("a/../b", Some("b")),
            ("..", None),
            ("a/../../b", None),
            ("/a", None),
        ] {
            assert_eq!(inside(Path::new(path)).as_deref(), expected.map(Path::new), "{path}");
        }
    }
}

//! The one door through which git is asked about a working tree.
//!
//! git would look for a repository by itself, in the folders above too, and would let settings name
//! another working tree. So every question names the tree's root and the folder that belongs to
//! this tree alone, and the two must lead to each other. What leads where is compared by device and
//! inode, because one folder may have several paths.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::registration::{COMMONDIR, GITDIR, Registration, absolute, leads_to};
use super::repository::head_commit;
use super::run::{Failure, Git, Output};
use super::work::records;
use super::{PATH_MOST_BYTES, git_of};
use crate::error::{Error, ErrorKind, IfThere as _, Operation};
use crate::store::files::{path_from, read_plain};
use crate::tree::git_index::{self, SpecialPaths, UnseenEdits, tracked_among};

/// A working tree, and the folder of a repository that belongs to it alone.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(super) root: PathBuf,
    pub(crate) git_dir: PathBuf,
}

/// A state of [`Tree::under_way`].
pub(super) const A_MERGE: &str = "a merge";

const TRACKED: [&str; 4] = ["--literal-pathspecs", "ls-files", "-z", "--"];

/// The text of the `HEAD` of a repository or a registration. An old git, and one with
/// `core.preferSymlinkRefs`, makes it a symbolic link to the branch.
pub(super) fn head_in(git_dir: &Path) -> io::Result<Vec<u8>> {
    let head = git_dir.join("HEAD");
    match std::fs::read_link(&head) {
        Ok(branch) if branch.starts_with("refs") => {
            Ok([b"ref: ", branch.as_os_str().as_bytes()].concat())
        }
        _ => read_plain(fs::CWD, &head, PATH_MOST_BYTES),
    }
}

/// Like [`Tree::tracked`] for a folder without a `.git`, which may be in a working tree.
///
/// # Errors
/// git could not be asked, or the folder is in no working tree.
pub(crate) fn tracked_from_above(folder: &Path, paths: &[&Path]) -> Result<Output, Failure> {
    Git::new(folder).args(TRACKED).args(paths).run()
}

/// What git is in the middle of in the working tree at `root`: `a merge`, `a rebase` and the like.
/// Empty if there is no repository.
///
/// # Errors
/// [`ErrorKind::Git`](crate::ErrorKind::Git) if its `.git` leads to nothing, or to the folder of
/// another working tree, or if git could not be asked.
pub fn git_under_way(root: &Path) -> Result<Vec<&'static str>, Error> {
    let found = Tree::at(root).and_then(|tree| tree.map_or(Ok(Vec::new()), |it| it.under_way()));
    found.map_err(|failure| Error::new(ErrorKind::Git, Operation::AskGit, root, failure))
}

/// The device and the inode at a path, links followed. `None`: nothing is there.
///
/// # Errors
/// The path could not be looked at.
pub(crate) fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    Ok(std::fs::metadata(path).but_for(is_absent)?.map(|found| (found.dev(), found.ino())))
}

/// Whether an error says that nothing is at a path.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether two paths lead to one file or folder. If nothing is there, the folders above decide.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    match (identity(one), identity(other)) {
        (Ok(Some(one)), Ok(Some(other))) => one == other,
        (Ok(None), Ok(None)) => match (one.parent(), other.parent()) {
            (Some(above), Some(above_other)) => {
                one.file_name() == other.file_name() && is_same(above, above_other)
            }
            _ => false,
        },
        _ => false,
    }
}

impl Tree {
    /// The working tree at `root`, as its `.git` says. `None`: it has no `.git`.
    ///
    /// # Errors
    /// Its `.git` leads to nothing, or to the folder of another working tree.
    pub(crate) fn at(root: &Path) -> Result<Option<Self>, Failure> {
        let own = git_of(root);
        let found = match std::fs::metadata(&own) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match std::fs::symlink_metadata(&own) {
                    Ok(_) => Err(refused(root, "its .git is a link that leads nowhere")),
                    Err(_) => Ok(None),
                };
            }
            Err(error) => return Err(Failure::NotRun(error)),
        };
        if found.is_dir() {
            return Ok(Some(Self { root: root.to_owned(), git_dir: own }));
        }
        let git_dir = leads_to(root).map_err(Failure::NotRun)?;
        match leads_back(&git_dir).map_err(Failure::NotRun)? {
            // The tree was moved, and git follows its `.git` file alone.
            Some(back) if identity(&back).map_err(Failure::NotRun)?.is_none() => {}
            Some(back) if !is_same(&back, &own) => {
                let what = format!("its .git leads to {}", git_dir.display());
                let other = back.parent().unwrap_or(&back).display();
                let why = format!(
                    "{what}, which belongs to {other}; if both were moved: git worktree repair '{}' '{other}'",
                    root.display()
                );
                return Err(refused(root, &why));
            }
            _ => {}
        }
        Ok(Some(Self { root: root.to_owned(), git_dir }))
    }

    /// The working tree at `root` of a linked worktree. Its `.git` may be gone.
    pub(crate) fn of(registration: &Registration, root: &Path) -> Self {
        Self { root: root.to_owned(), git_dir: registration.folder.clone() }
    }

    /// What the working tree is in the middle of, by files of git in its folder.
    ///
    /// # Errors
    /// The folder could not be looked at, or git, which has some of this in its tables, could not
    /// be asked.
    pub(crate) fn under_way(&self) -> Result<Vec<&'static str>, Failure> {
        let is_file = |name: &str| {
            let found = std::fs::symlink_metadata(self.git_dir.join(name)).but_for(is_absent);
            Ok(found.map_err(Failure::NotRun)?.is_some())
        };
        // There the heads are references like others.
        let has_tables = is_file("reftable")?;
        let is_there = |name: &str| -> Result<bool, Failure> {
            let is_head = has_tables && name.ends_with("_HEAD");
            if is_file(name)? {
                return Ok(true);
            }
            if !is_head {
                return Ok(false);
            }
            let asked = self.git().args(["rev-parse", "-q", "--verify", name]);
            Ok(asked.may_end_with(1).run()?.code == 0)
        };
        let states: [(&str, &[&str]); 5] = [
            (A_MERGE, &["MERGE_HEAD"]),
            ("a rebase", &["rebase-merge", "rebase-apply"]),
            ("a cherry-pick", &["CHERRY_PICK_HEAD"]),
            ("a revert", &["REVERT_HEAD"]),
            ("a bisection", &["BISECT_LOG"]),
        ];
        let mut found = Vec::new();
        for (state, names) in states {
            for name in names {
                if !found.contains(&state) && is_there(name)? {
                    found.push(state);
                }
            }
        }
        Ok(found)
    }

    /// The commit that the tree has checked out. `None` before the first commit.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn head_commit(&self) -> Result<Option<String>, Failure> {
        head_commit(self.git())
    }

    /// The submodules of the tree, and the files that git takes for unchanged without a look. And
    /// those that it takes for unchanged since it compares whole seconds, if they are asked for. If
    /// calve does not understand the index, these are all that changed since.
    ///
    /// # Errors
    /// git could not be asked.
    pub(super) fn special(&self, edits: UnseenEdits<'_>) -> Result<SpecialPaths, Failure> {
        if let Some(special) = git_index::special_in(&self.git_dir, edits) {
            return Ok(special);
        }
        let output = self.git().args(["ls-files", "-z", "-v", "--stage"]).list()?;
        let mut special = SpecialPaths::default();
        let is_since = |path: &Path| match edits {
            UnseenEdits::NotAsked => false,
            UnseenEdits::In(_, since) | UnseenEdits::Later(since) => {
                std::fs::symlink_metadata(self.root.join(path)).is_ok_and(|it| it.ctime() >= since)
            }
        };
        for record in records(&output) {
            // A letter, the mode, the id and the stage, and a tab before the path.
            let tab = record.iter().position(|byte| *byte == b'\t').unwrap_or(record.len());
            let (about, path) = record.split_at(tab);
            let path = path_from(path.get(1..).unwrap_or_default());
            let id = about.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
            if about.get(2..).is_some_and(|mode| mode.starts_with(b"160000 ")) {
                special.submodules.push(path);
            } else if about.first().is_some_and(|tag| tag.is_ascii_lowercase() || *tag == b'S') {
                special.hidden.push(path);
            } else if is_since(&path) {
                special.of_that_second.push((path, String::from_utf8_lossy(id).into_owned()));
            }
        }
        Ok(special)
    }

    /// Those of the files whose content is not the one with this id. Links count.
    ///
    /// # Errors
    /// git does not work with this tree.
    pub(super) fn with_other_content(
        &self,
        files: Vec<(PathBuf, String)>,
    ) -> Result<Vec<PathBuf>, Failure> {
        let is_asked = |path: &Path| {
            std::fs::symlink_metadata(self.root.join(path)).is_ok_and(|it| it.is_file())
        };
        let (asked, mut other): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(path, _)| is_asked(path));
        if !asked.is_empty() {
            let question = asked.iter().flat_map(|(path, _)| quoted_line(path)).collect();
            let output =
                self.git().args(["hash-object", "--stdin-paths"]).with_input(question).list()?;
            let answer = String::from_utf8_lossy(&output).into_owned();
            let mut ids = answer.lines();
            other.extend(asked.into_iter().filter(|(_, id)| ids.next() != Some(id)));
        }
        Ok(other.into_iter().map(|(path, _)| path).collect())
    }

    /// Lists those of the paths that git tracks, with zero bytes between them.
    ///
    /// # Errors
    /// git does not work with this tree.
    pub(crate) fn tracked(&self, paths: &[&Path]) -> Result<Output, Failure> {
        self.git().args(TRACKED).args(paths).run()
    }

    /// Those of the paths that git tracks, without a run of git. `None`: only git can say it.
    pub(crate) fn tracked_by_index(&self, paths: &[&Path]) -> Option<HashSet<PathBuf>> {
        self.is_users_own().then(|| tracked_among(&self.git_dir, paths))?
    }

    /// A run of git for this working tree, in its root.
    pub(super) fn git(&self) -> Git {
        let git = Git::new(&self.root);
        // git works with another user's repository only if `safe.directory` allows it, and only if
        // git has found the repository itself.
        match self.is_users_own() {
            true => git.in_tree(&self.git_dir, &self.root),
            false => git.found_in(&self.root),
        }
    }

    /// Whether git would take the repository for the user's own.
    fn is_users_own(&self) -> bool {
        let user = rustix::process::geteuid().as_raw();
        let is_own = |path: &Path| match std::fs::symlink_metadata(path) {
            Ok(found) => found.uid() == user,
            // git itself says what is wrong.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        is_own(&self.root) && is_own(&git_of(&self.root)) && is_own(&self.git_dir)
    }
}

fn refused(root: &Path, why: &str) -> Failure {
    Failure::Refused(format!("{}: {why}", root.display()))
}

/// The `.git` file of the working tree to which a folder of a repository belongs, if the folder says
/// it.
fn leads_back(git_dir: &Path) -> io::Result<Option<PathBuf>> {
    let read =
        |name: &str| read_plain(fs::CWD, &git_dir.join(name), PATH_MOST_BYTES).but_for(is_absent);
    if read(COMMONDIR)?.is_some() {
        return Ok(read(GITDIR)?.map(|text| absolute(git_dir, &text)));
    }
    // A submodule's repository.
    let dir = fs::open(git_dir, crate::reflink::imp::DIR_FLAGS, fs::Mode::empty());
    let Some(dir) = dir.but_for(|errno| is_absent(&(*errno).into()))? else { return Ok(None) };
    Ok(git_index::set_working_tree(&dir, c"config").map(|value| git_of(&git_dir.join(value))))
}

/// A path as a line of a question. In quotes it may have any byte. Without, git would take one that
/// begins with a quote for quoted, and leave out a carriage return at its end.
fn quoted_line(path: &Path) -> Vec<u8> {
    let mut line = vec![b'"'];
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'"' | b'\\' => line.extend([b'\\', *byte]),
            0..0x20 => line.extend(format!("\\{byte:03o}").bytes()),
            _ => line.push(*byte),
        }
    }
    line.extend(b"\"\n");
    line
}

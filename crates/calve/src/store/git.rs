//! What calve asks of git, by the `git` program: what is git's own, git does.
//!
//! A project's repository is where git finds it from the project's root, so git's own rules hold: of who may own it (`safe.directory`), and
//! of what its files mean. Of those, calve itself reads and writes only what gitrepository-layout(5) documents of linked worktrees:
//! `worktrees/ID/gitdir` (where the worktree's `.git` file is), `worktrees/ID/locked` (why nobody may prune it), `commondir`, and the `.git` file.
//!
//! # A linked worktree that is whole or absent
//! `git worktree add` registers a worktree and makes its folder, in this order: `ID`, `locked`, the folder, `gitdir`, `.git`, `HEAD`. calve lets it do so
//! at a temporary place whose last name is the worktree's ([`Repository::add`]), so that git calls the registration by it. The tree that calve makes
//! meanwhile gets the `.git` file, and `gitdir` gets the path that the tree will have ([`Registration::point_at`]), both before the tree
//! has its name. The command for that, `git worktree repair`, works only afterwards: a tree that was published would for a moment be no worktree
//! of git, and a death in between would leave it so. The lock goes last, when the tree stands ([`Registration::unlock`]).
//!
//! The lock's reason has the worktree's token, and a branch that calve makes has it in its first reflog entry. So what a killed calve left
//! is known to be its own, and nothing else is ever taken back.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs;
use rustix::io::Errno;

use super::clock::older_than;
use super::files::{listed_at, path_from, read_plain};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::removal;
use crate::tree::staging::{stage_name, write_whole};

pub(crate) use self::run::{Failure, Git};

mod run;
#[cfg(test)]
mod tests;

/// The folder of a repository that has a folder for each linked worktree.
const REGISTRATIONS: &str = "worktrees";
/// In that: the path of the worktree's `.git` file.
const GITDIR: &str = "gitdir";
/// In that: the path of the folder that all working trees share.
const COMMONDIR: &str = "commondir";
/// In that: why it must not be pruned.
const LOCKED: &str = "locked";
/// A path is shorter, on every system.
const PATH_MOST_BYTES: u64 = 64 * 1024;
/// Between two steps of one git there is no such pause.
const STEP_MOST: Duration = Duration::from_secs(1);

/// What a project's root is for git.
#[derive(Debug)]
pub(crate) enum Found {
    /// It has no `.git`.
    Nothing,
    Repository(Repository),
    /// It has one, and git does not work with it, or is not there.
    Unusable(Failure),
}

/// The repository whose working tree a project's root is.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) root: PathBuf,
    /// What is the working tree's own: its `HEAD` and its index.
    pub(crate) git_dir: PathBuf,
    /// What all working trees share: branches, objects, registrations.
    pub(crate) common: PathBuf,
}

/// What a working tree's `HEAD` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Without `refs/heads/`; `None` where it is detached.
    pub(crate) branch: Option<String>,
    /// `None` before the first commit.
    pub(crate) commit: Option<String>,
}

/// A branch that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Without `refs/heads/`.
    pub(crate) name: String,
    pub(crate) commit: String,
    /// The working tree that has it checked out.
    pub(crate) tree: Option<PathBuf>,
}

/// A commit, and what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) subject: String,
}

impl Commit {
    fn parse(line: &str) -> Option<Self> {
        let (id, subject) = line.split_once(' ')?;
        Some(Self { id: id.to_owned(), subject: subject.to_owned() })
    }

    /// One of which only the id is known.
    pub(crate) fn unknown(id: &str) -> Self {
        Self { id: id.to_owned(), subject: String::new() }
    }
}

/// What a new linked worktree shall have as its `HEAD`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Onto<'a> {
    Branch(&'a str),
    Commit(&'a str),
}

/// A linked worktree, as its repository knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registration {
    /// `worktrees/ID` in the repository.
    pub(crate) folder: PathBuf,
    /// The path of the worktree's `.git` file. `None` where a git that makes it, or was killed, has not written it.
    pub(crate) git_file: Option<PathBuf>,
    /// Why it is locked, if it is.
    pub(crate) locked: Option<Vec<u8>>,
}

/// What is in a working tree that no commit has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) head: Option<Head>,
    /// Paths that are changed, staged, in conflict, or untracked and not ignored; untracked folders are named as one.
    pub(crate) paths: Vec<PathBuf>,
    /// There are more.
    pub(crate) is_cut: bool,
    /// The index has content of a path that neither its file nor `HEAD` has.
    pub(crate) only_index_has_it: bool,
}

/// The file or folder at the root of a working tree that leads git to its repository.
pub(crate) fn git_of(root: &Path) -> PathBuf {
    root.join(".git")
}

/// What git says of the folder `root`.
pub(crate) fn find(root: &Path) -> Found {
    if std::fs::symlink_metadata(git_of(root)).is_err() {
        return Found::Nothing;
    }
    let asked = Git::new(root).args([
        "rev-parse",
        "--path-format=absolute",
        "--show-toplevel",
        "--git-dir",
        "--git-common-dir",
    ]);
    let output = match asked.run() {
        Ok(output) => output.bytes,
        Err(failure) => return Found::Unusable(failure),
    };
    let refused = |words: &str| Found::Unusable(Failure::Refused(words.to_owned()));
    let lines: Vec<&[u8]> =
        output.strip_suffix(b"\n").unwrap_or(&output).split(|byte| *byte == b'\n').collect();
    let [top, git_dir, common] = lines.as_slice() else {
        return refused("the path of the repository has a line break");
    };
    let id = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    if id(&path_from(top)) != id(root) || id(root).is_none() {
        // Not a repository: git went on to a folder above.
        return refused("its .git is not a repository");
    }
    Found::Repository(Repository {
        root: root.to_owned(),
        git_dir: path_from(git_dir),
        common: path_from(common),
    })
}

/// The repository of a project's root, as its files say, without git. `None` where it has none.
pub(crate) fn read(root: &Path) -> Option<Repository> {
    let own = git_of(root);
    let git_dir = match std::fs::metadata(&own).ok()?.is_dir() {
        true => own,
        false => leads_to(root).ok()?,
    };
    let common = match read_plain(fs::CWD, &git_dir.join(COMMONDIR), PATH_MOST_BYTES) {
        Ok(text) => absolute(&git_dir, &text),
        Err(_) => git_dir.clone(),
    };
    Some(Repository { root: root.to_owned(), git_dir, common })
}

/// The commits that the references of a whole repository, a copy of another, hold: its `HEAD`, its branches, its tags and its stashes.
///
/// # Errors
/// git could not be asked.
pub(crate) fn tips_of_copy(root: &Path) -> Result<Vec<String>, Failure> {
    let mut tips = Vec::new();
    for asked in [
        &["rev-list", "--no-walk", "--ignore-missing", "--all", "HEAD", "--"][..],
        // All stashes, not the last alone.
        &["stash", "list", "--no-show-signature", "--format=%H"][..],
    ] {
        match Git::new(root).args(asked).run() {
            Ok(output) => {
                tips.extend(String::from_utf8_lossy(&output.bytes).lines().map(str::to_owned));
            }
            // Before the first commit.
            Err(Failure::Refused(words)) if words.contains("bad revision 'HEAD'") => {}
            Err(failure) => return Err(failure),
        }
    }
    tips.sort();
    tips.dedup();
    Ok(tips)
}

/// The annotated tags of a repository: objects of their own, which no commit leads to.
///
/// # Errors
/// git could not be asked.
pub(crate) fn tags(root: &Path) -> Result<Vec<Commit>, Failure> {
    let output = Git::new(root)
        .args([
            "for-each-ref",
            "--format=%(objecttype) %(objectname) %(refname:short)",
            "refs/tags",
        ])
        .run()?;
    let text = String::from_utf8_lossy(&output.bytes);
    Ok(text.lines().filter_map(|line| Commit::parse(line.strip_prefix("tag ")?)).collect())
}

/// The only line of an answer.
fn line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end_matches('\n').to_owned()
}

/// Whether git can have a branch of this name.
///
/// # Errors
/// git could not be asked.
pub(crate) fn can_be_a_branch(root: &Path, name: &str) -> Result<bool, Failure> {
    // What git takes for something else, or would not let anybody make.
    if name.is_empty() || name == "HEAD" || name.starts_with('-') {
        return Ok(false);
    }
    match Git::new(root).arg("check-ref-format").arg(branch_ref(name)).run() {
        Ok(_) => Ok(true),
        Err(Failure::Refused(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

pub(crate) fn branch_ref(name: &str) -> String {
    format!("refs/heads/{name}")
}

/// What the reflog says of a branch that was made for the worktree with this token.
fn first_entry(token: &str) -> String {
    format!("branch: Created by calve start ({token})")
}

/// Why the registration of a worktree is locked while calve makes it.
fn making(token: &str) -> String {
    format!("calve is making it ({token})")
}

/// What is uncommitted in the working tree at `root`. Nothing is written.
///
/// # Errors
/// git does not work with it.
pub(crate) fn work_in(root: &Path) -> Result<Work, Failure> {
    let output = Git::new(root)
        .args(["status", "--porcelain=v2", "--branch", "-z", "--no-renames", "--no-ahead-behind"])
        .args(["--untracked-files=normal", "--ignore-submodules=none"])
        .run()?;
    Ok(Work { is_cut: output.is_cut, ..parse_status(&output.bytes) })
}

/// `git status --porcelain=v2 --branch -z` without renames.
fn parse_status(output: &[u8]) -> Work {
    let mut work = Work::default();
    let (mut commit, mut branch) = (None, None);
    let mut records: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    // What is behind the last zero is nothing, or was cut off.
    records.pop();
    for record in records {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(id) = record.strip_prefix(b"# branch.oid ") {
            commit = (id != b"(initial)").then(|| text(id));
        } else if let Some(name) = record.strip_prefix(b"# branch.head ") {
            branch = (name != b"(detached)").then(|| text(name));
        } else {
            // How many fields are before the path: git-status(1).
            let before = match record.first() {
                Some(b'1') => 8,
                Some(b'u') => 10,
                Some(b'?') => 1,
                _ => continue,
            };
            // Two letters: how the index differs from HEAD, and the file from the index.
            let differ = |at: usize| record.get(at).is_some_and(|letter| *letter != b'.');
            work.only_index_has_it |= match record.first() {
                Some(b'1') => differ(2) && differ(3),
                other => other == Some(&b'u'),
            };
            let path = record.splitn(before + 1, |byte| *byte == b' ').nth(before);
            work.paths.extend(path.map(path_from));
        }
    }
    work.head = Some(Head { branch, commit });
    work
}

impl Repository {
    fn git(&self) -> Git {
        Git::new(&self.root)
    }

    /// The branch and the commit that the project is at.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn head(&self) -> Result<Head, Failure> {
        let answer = |git: Git| match git.run() {
            Ok(output) => Ok(Some(line(&output.bytes))),
            Err(Failure::Refused(_)) => Ok(None),
            Err(failure) => Err(failure),
        };
        let branch = answer(self.git().args(["symbolic-ref", "-q", "HEAD"]))?;
        let commit = answer(self.git().args(["rev-parse", "-q", "--verify", "HEAD^{commit}"]))?;
        let branch = branch.map(|name| match name.strip_prefix("refs/heads/") {
            Some(short) => short.to_owned(),
            None => name,
        });
        Ok(Head { branch, commit })
    }

    /// The branches that are called by one of `names`, or by one and a slash.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn branches(&self, names: &[&str]) -> Result<Vec<Branch>, Failure> {
        let output = self
            .git()
            .args(["for-each-ref", "--format=%(objectname)%00%(refname)%00%(worktreepath)%00"])
            .args(names.iter().map(|name| branch_ref(name)))
            .run()?;
        let fields: Vec<&[u8]> = output.bytes.split(|byte| *byte == 0).collect();
        Ok(fields
            .chunks_exact(3)
            .map(|fields| {
                let name = String::from_utf8_lossy(fields[1]);
                let commit = String::from_utf8_lossy(fields[0]);
                Branch {
                    name: name.strip_prefix("refs/heads/").unwrap_or(&name).to_owned(),
                    // Between two entries there is a line break.
                    commit: commit.trim_start().to_owned(),
                    tree: (!fields[2].is_empty()).then(|| path_from(fields[2])),
                }
            })
            .collect())
    }

    /// Makes a branch for the worktree with this token.
    ///
    /// # Errors
    /// There is one already, or git could not make it. Nothing was made.
    pub(crate) fn make_branch(
        &self,
        name: &str,
        commit: &str,
        token: &str,
        lock: &File,
    ) -> Result<(), Failure> {
        self.git()
            .args(["update-ref", "--create-reflog", "-m", &first_entry(token)])
            // The empty string: it must not exist.
            .args([&branch_ref(name), commit, ""])
            .holding(lock)
            .map_err(Failure::NotRun)?
            .run()
            .map(drop)
    }

    /// Removes the branch that was made for the worktree with this token, if nothing has happened to it since.
    ///
    /// # Errors
    /// git could not be asked, or could not remove it.
    pub(crate) fn take_back_branch(
        &self,
        name: &str,
        commit: &str,
        token: &str,
    ) -> Result<(), Failure> {
        let reference = branch_ref(name);
        self.break_lock(&reference, commit);
        let reflog = self
            .git()
            .args(["log", "-g", "--no-show-signature", "--format=%H %gs", "-n", "1", &reference])
            .arg("--")
            .run();
        let reflog = match reflog {
            Ok(output) => line(&output.bytes),
            // No such branch.
            Err(Failure::Refused(_)) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        match reflog.split_once(' ') {
            Some((commit, entry)) if entry == first_entry(token) => {
                self.delete_branch(name, commit)
            }
            _ => Ok(()),
        }
    }

    /// Removes the lock of a reference that a git left which died while it made the reference for us. One that is alive holds it for moments.
    fn break_lock(&self, reference: &str, commit: &str) {
        let path = self.common.join(format!("{reference}.lock"));
        let is_left = || {
            read_plain(fs::CWD, &path, PATH_MOST_BYTES).is_ok_and(|text| {
                let text = text.trim_ascii_end();
                text.is_empty() || text == commit.as_bytes()
            })
        };
        if is_left() {
            wait_for_next_step(&path);
            if is_left() {
                let _ = std::fs::remove_file(&path);
            }
        }
    }

    /// Removes a branch that is at `commit`.
    ///
    /// # Errors
    /// It is elsewhere by now, or git could not remove it.
    pub(crate) fn delete_branch(&self, name: &str, commit: &str) -> Result<(), Failure> {
        self.git().args(["update-ref", "-d", &branch_ref(name), commit]).run().map(drop)
    }

    /// Registers a linked worktree, of which nothing is checked out and no hook is run. It is locked for the worktree with this token. `at`, in which
    /// its `.git` file is afterwards, must not exist; git calls the registration by its last name, if no other has that.
    ///
    /// # Errors
    /// git could not do it; what is left of it is found by the token.
    pub(crate) fn add(
        &self,
        at: &Path,
        onto: Onto<'_>,
        token: &str,
        lock: &File,
    ) -> Result<Registration, Failure> {
        let git = self
            .git()
            // A setting that is written to the repository's own would shut out other programs.
            .args(["-c", "worktree.useRelativePaths=false"])
            .args(["worktree", "add", "-q", "--no-checkout", "--no-guess-remote"])
            .args(["--lock", "--reason", &making(token)]);
        let git = match onto {
            Onto::Branch(name) => git.arg("--").arg(at).arg(name),
            Onto::Commit(commit) => git.args(["--detach", "--"]).arg(at).arg(commit),
        };
        git.holding(lock).map_err(Failure::NotRun)?.run()?;
        let folder = leads_to(at).map_err(Failure::NotRun)?;
        Registration::read(folder.clone()).ok_or_else(|| {
            let words = format!("git registered it at {}, which is not there", folder.display());
            Failure::Refused(words)
        })
    }

    /// The commits at `tips`, and before them, that go when a worktree goes: no branch, tag, stash or other shared reference holds them, `but`
    /// this one. The newest first, at most `most`. `objects` has them, if the repository has not.
    ///
    /// # Errors
    /// git could not be asked, or does not know a commit.
    pub(crate) fn unheld(
        &self,
        tips: &[String],
        most: usize,
        but: Option<&str>,
        objects: Option<&Path>,
    ) -> Result<Vec<Commit>, Failure> {
        if tips.is_empty() {
            return Ok(Vec::new());
        }
        let git = self
            .git()
            .args(["rev-list", "--topo-order", &format!("--max-count={most}")])
            .args(["--no-commit-header", "--format=%H %s"])
            .args(tips)
            .arg("--not")
            // A working tree's own.
            .args(["bisect", "rewritten", "worktree"].map(|own| format!("--exclude=refs/{own}/*")))
            .args(but.map(|reference| format!("--exclude={reference}")))
            .args(["--glob=refs/*", "--"]);
        let git = match objects {
            Some(objects) => git.with_objects_of(objects),
            None => git,
        };
        let output = git.run()?;
        let commits = String::from_utf8_lossy(&output.bytes);
        Ok(commits.lines().filter_map(Commit::parse).collect())
    }

    /// The commits of a linked worktree, there or not, that may be held by nothing else: its `HEAD`, its own references, and what a merge or a
    /// rebase put aside.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn tips_of(&self, registration: &Registration) -> Result<Vec<String>, Failure> {
        let own = format!("worktrees/{}", registration.id().to_string_lossy());
        let mut tips = Vec::new();
        let names = ["HEAD", "refs/bisect/bad"].map(|name| format!("{own}/{name}"));
        for name in names {
            let asked = ["rev-parse", "-q", "--verify", &format!("{name}^{{commit}}")];
            match self.git().args(asked).run() {
                Ok(output) => tips.push(line(&output.bytes)),
                Err(Failure::Refused(_)) => {}
                Err(failure) => return Err(failure),
            }
        }
        for aside in ["rebase-merge/autostash", "rebase-apply/autostash", "MERGE_AUTOSTASH"] {
            let path = registration.folder.join(aside);
            if let Ok(text) = read_plain(fs::CWD, &path, PATH_MOST_BYTES) {
                let id = line(&text);
                tips.extend(id.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(id));
            }
        }
        Ok(tips)
    }

    /// How many commits one has that the other has not.
    ///
    /// # Errors
    /// git could not be asked, or does not know a commit.
    pub(crate) fn ahead_and_behind(
        &self,
        commit: &str,
        of: &str,
        objects: Option<&Path>,
    ) -> Result<(u64, u64), Failure> {
        if commit == of {
            return Ok((0, 0));
        }
        let range = format!("{commit}...{of}");
        let git = self.git().args(["rev-list", "--left-right", "--count", &range, "--"]);
        let git = match objects {
            Some(objects) => git.with_objects_of(objects),
            None => git,
        };
        let counts = line(&git.run()?.bytes);
        let mut counts = counts.split_whitespace().map(str::parse);
        match (counts.next(), counts.next()) {
            (Some(Ok(ahead)), Some(Ok(behind))) => Ok((ahead, behind)),
            _ => Err(Failure::Refused(format!("git did not count the commits of {range}"))),
        }
    }

    /// Keeps a commit by a reference of calve's, called by the worktree that it is from; a number follows where that is taken. Gives its name.
    /// `from` is a repository that has the commit, if this one has not.
    ///
    /// # Errors
    /// git could not do it. There is no such reference.
    pub(crate) fn keep_dropped(
        &self,
        name: &str,
        commit: &str,
        from: Option<&Path>,
    ) -> Result<String, Failure> {
        if let Some(from) = from {
            // By its id, and into no reference yet.
            self.git()
                // In which any commit may be asked for.
                .args(["-c", "protocol.version=2"])
                .args([
                    "fetch",
                    "-q",
                    "--no-tags",
                    "--no-write-fetch-head",
                    "--no-recurse-submodules",
                ])
                .arg("--no-auto-maintenance")
                .arg("--")
                .arg(from)
                .arg(commit)
                .run()?;
        }
        let base = format!("refs/calve/dropped/{}", as_reference(name));
        let mut number = 1;
        loop {
            let reference = if number == 1 { base.clone() } else { format!("{base}-{number}") };
            let made = self
                .git()
                .args(["update-ref", "--create-reflog", "-m", "calve drop"])
                .args([&reference, commit, ""])
                .run();
            match made {
                Err(Failure::Refused(words)) if words.contains("already exists") => {
                    let there =
                        self.git().args(["rev-parse", "-q", "--verify", &reference]).run()?;
                    if line(&there.bytes) == commit {
                        return Ok(reference);
                    }
                    number += 1;
                }
                made => return made.map(|_| reference),
            }
        }
    }

    /// Makes the index of a linked worktree that of its `HEAD`, without a look at its files.
    ///
    /// # Errors
    /// git could not do it.
    pub(crate) fn read_index(&self, registration: &Registration) -> Result<(), Failure> {
        let index = registration.folder.join("index");
        let head = format!("worktrees/{}/HEAD", registration.id().to_string_lossy());
        self.git().with_index(&index).args(["read-tree", &head]).run().map(drop)
    }

    /// What is registered.
    ///
    /// # Errors
    /// The folder could not be listed.
    pub(crate) fn registrations(&self) -> io::Result<Vec<Registration>> {
        registrations(&self.common)
    }
}

/// A worktree's name as a part of a reference's: what git does not allow there is a line.
fn as_reference(name: &str) -> String {
    let fits =
        |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '+' | '=' | ',' | '%');
    let mut text: String =
        name.chars().map(|char| if fits(char) || char == '.' { char } else { '_' }).collect();
    while text.contains("..") {
        text = text.replace("..", "._");
    }
    if text.ends_with('.') || text.to_ascii_lowercase().ends_with(".lock") {
        text.push('_');
    }
    text
}

/// What is registered in the repository whose shared folder is `common`.
pub(crate) fn registrations(common: &Path) -> io::Result<Vec<Registration>> {
    let folder = common.join(REGISTRATIONS);
    let mut found = Vec::new();
    for (name, kind) in listed_at(&folder)? {
        if kind == fs::FileType::Directory {
            found.extend(Registration::read(folder.join(name)));
        }
    }
    Ok(found)
}

/// Where the `.git` file in a folder leads.
///
/// # Errors
/// There is none, or it is something else.
pub(crate) fn leads_to(root: &Path) -> io::Result<PathBuf> {
    let text = read_plain(fs::CWD, &git_of(root), PATH_MOST_BYTES)?;
    let text = text.strip_prefix(b"gitdir: ").ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "its .git file does not lead to a repository")
    })?;
    Ok(absolute(root, text))
}

/// A path that a file of git has, which may be relative to the folder of the file, and ends with the line.
fn absolute(folder: &Path, line: &[u8]) -> PathBuf {
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

impl Registration {
    /// The registration in a folder, if one is there.
    pub(crate) fn read(folder: PathBuf) -> Option<Self> {
        if !std::fs::symlink_metadata(&folder).ok()?.is_dir() {
            return None;
        }
        let read = |name: &str| read_plain(fs::CWD, &folder.join(name), PATH_MOST_BYTES).ok();
        let git_file = read(GITDIR).filter(|text| !text.is_empty());
        let git_file = git_file.map(|text| absolute(&folder, &text));
        let locked = read(LOCKED);
        Some(Self { folder, git_file, locked })
    }

    /// What git calls it.
    pub(crate) fn id(&self) -> &OsStr {
        self.folder.file_name().unwrap_or_default()
    }

    /// What a `.git` file must hold that leads to it.
    pub(crate) fn git_file_text(&self) -> Vec<u8> {
        [b"gitdir: ", self.folder.as_os_str().as_bytes(), b"\n"].concat()
    }

    /// Whether it is of the tree at `root`, as far as it says.
    pub(crate) fn is_of(&self, root: &Path) -> bool {
        self.git_file.as_deref() == Some(&git_of(root))
    }

    /// Whether calve was making it for the worktree with this token. `temporary` is where git was told to make it.
    pub(crate) fn is_made_for(&self, token: &str, temporary: &Path) -> bool {
        let is_locked = self
            .locked
            .as_deref()
            .is_some_and(|reason| reason.trim_ascii_end() == making(token).as_bytes());
        is_locked || self.git_file.as_ref().is_some_and(|path| path.starts_with(temporary))
    }

    /// Whether a git that died had just begun with it, under the name `name` or that and a number: nothing in it says whose it is, and
    /// nothing would be lost with it.
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

    /// Waits until a git that is at it would have taken its next step.
    pub(crate) fn wait_for_next_step(&self) {
        wait_for_next_step(&self.folder);
    }

    /// Makes it one of the tree that will be at `root`.
    ///
    /// # Errors
    /// It is as it was.
    pub(crate) fn point_at(&mut self, root: &Path) -> io::Result<()> {
        let git_file = git_of(root);
        let mut text = git_file.clone().into_os_string().into_vec();
        text.push(b'\n');
        write_whole(&self.folder, &self.folder.join(GITDIR), &text)?;
        self.git_file = Some(git_file);
        Ok(())
    }

    /// Takes the lock away, if it is calve's own for the worktree with this token.
    ///
    /// # Errors
    /// It is locked as before.
    pub(crate) fn unlock(&mut self, token: &str) -> io::Result<()> {
        let path = self.folder.join(LOCKED);
        let now = read_plain(fs::CWD, &path, PATH_MOST_BYTES).unwrap_or_default();
        if now.trim_ascii_end() == making(token).as_bytes() {
            std::fs::remove_file(&path)?;
            self.locked = None;
        }
        Ok(())
    }

    /// Removes it, as `git worktree remove` does of a worktree that is gone. It disappears at once, since a git that meets one of which a part is
    /// missing dies: it is renamed into `stage` first. Where that is on another filesystem, it goes piece by piece, and what says whose it is
    /// goes last.
    ///
    /// # Errors
    /// A part of it may be gone.
    pub(crate) fn remove(&self, stage: &Path) -> io::Result<()> {
        match self.put_aside(stage) {
            Ok(aside) => aside.remove(),
            // Somebody else was faster.
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

    /// Renames it into `stage`: it is not registered any more.
    ///
    /// # Errors
    /// It is as it was: gone, or `stage` is on another filesystem.
    pub(crate) fn put_aside(&self, stage: &Path) -> io::Result<Aside> {
        let (was, is) = (self.folder.clone(), stage.join(stage_name()));
        std::fs::rename(&was, &is)?;
        Ok(Aside { was, is })
    }
}

/// A registration that was put aside.
#[derive(Debug)]
pub(crate) struct Aside {
    was: PathBuf,
    is: PathBuf,
}

impl Aside {
    pub(crate) fn remove(self) -> io::Result<()> {
        let parent = self.is.parent().unwrap_or(Path::new("/"));
        remove_at(parent, self.is.file_name().unwrap_or_default())
    }

    /// Registers it again.
    pub(crate) fn put_back(self) -> io::Result<()> {
        std::fs::rename(self.is, self.was)
    }
}

/// Waits until a git that made a file or a folder would have gone on with it, or removed it.
fn wait_for_next_step(path: &Path) {
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
    let dir = match fs::open(folder, DIR_FLAGS, fs::Mode::empty()) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    removal::remove(&dir, &CString::new(name.as_bytes())?)
}

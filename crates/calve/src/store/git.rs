//! Everything that calve asks of git, through the `git` program. calve leaves to git what belongs
//! to git.
//!
//! git itself finds a project's repository, from the project's root. So git's own rules hold: who
//! may own the repository (`safe.directory`), and what its files mean. Of these files, calve itself
//! reads and writes only those that gitrepository-layout(5) documents for linked worktrees:
//! `worktrees/ID/gitdir` (the path of the worktree's `.git` file), `worktrees/ID/locked` (the
//! reason why the worktree must not be pruned), `commondir`, and the `.git` file. It also reads
//! `HEAD`, to note the branch of a snapshot.
//!
//! # A linked worktree that is whole or absent
//! `git worktree add` registers a worktree and makes its folder. It makes these parts in this
//! order: `ID`, `locked`, the folder, `gitdir`, `.git`, `HEAD`. calve has git do so at a temporary
//! place ([`Repository::add`]). The last name of that place is the worktree's name, because git
//! names the registration after it. Meanwhile calve makes the tree. Before the tree gets its name,
//! calve puts the `.git` file into it and writes the path that the tree will have into `gitdir`
//! ([`Registration::point_at`]).
//!
//! git's own command for this, `git worktree repair`, works only once the tree is in its place.
//! With that command, the published tree would for a moment not be a worktree of git, and a crash
//! in that moment would leave it so. The lock is removed last, when the tree is in its place
//! ([`Registration::unlock`]).
//!
//! The lock's reason contains the worktree's token, and so does the first reflog entry of a branch
//! that calve makes. So calve recognizes what a killed calve left, and never takes back anything
//! else.

use std::collections::{HashSet, VecDeque};
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

pub(crate) mod checkout;
pub(crate) mod modules;
mod run;
#[cfg(test)]
mod tests;

/// The folder of a repository that has a folder for each linked worktree.
const REGISTRATIONS: &str = "worktrees";
/// In `worktrees/ID`: the path of the worktree's `.git` file.
const GITDIR: &str = "gitdir";
/// In `worktrees/ID`: the path of the folder that all working trees share.
const COMMONDIR: &str = "commondir";
/// In `worktrees/ID`: the reason why the worktree must not be pruned.
const LOCKED: &str = "locked";
/// Every path is shorter than this, on every system.
const PATH_MOST_BYTES: u64 = 64 * 1024;
/// How many changed submodules calve asks for their work.
const SUBMODULES_MOST: usize = 1000;
/// One git process never pauses this long between two steps.
const STEP_MOST: Duration = Duration::from_secs(1);

/// The repository that git finds at a project's root.
#[derive(Debug)]
pub(crate) enum Found {
    /// The root has no `.git`.
    Nothing,
    Repository(Repository),
    /// The root has a `.git`, but git does not work with it, or git is not installed.
    Unusable(Failure),
}

/// The repository whose working tree a project's root is.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) root: PathBuf,
    /// The folder that belongs to this working tree alone, with its `HEAD` and its index.
    pub(crate) git_dir: PathBuf,
    /// The folder that all working trees share, with branches, objects and registrations.
    pub(crate) common: PathBuf,
}

/// The target of a working tree's `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The branch's name without `refs/heads/`. `None`: `HEAD` is detached.
    pub(crate) branch: Option<String>,
    /// `None` before the first commit.
    pub(crate) commit: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Branch {
    /// The branch's name without `refs/heads/`.
    pub(crate) name: String,
    pub(crate) commit: String,
    /// The working tree that has the branch checked out.
    pub(crate) tree: Option<PathBuf>,
}

/// A commit with its subject, or an annotated tag with its name.
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

    /// A commit of which only the id is known.
    pub(crate) fn unknown(id: &str) -> Self {
        Self { id: id.to_owned(), subject: String::new() }
    }
}

/// What the `HEAD` of a new linked worktree points to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Onto<'a> {
    Branch(&'a str),
    Commit(&'a str),
}

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

/// The work in a working tree that no commit has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) head: Option<Head>,
    /// Paths that are changed, staged, in conflict, or untracked and not ignored. An untracked
    /// folder counts as one path.
    pub(crate) paths: Vec<PathBuf>,
    /// Whether there are more paths than these.
    pub(crate) is_cut: bool,
    /// The index has content of a path that neither its file nor `HEAD` has.
    pub(crate) only_index_has_it: bool,
    /// Those of the paths that are submodules.
    pub(crate) submodules: Vec<Submodule>,
}

/// A changed submodule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submodule {
    pub(crate) path: PathBuf,
    /// Its `HEAD` is not at the commit that the index records.
    pub(crate) is_at_another_commit: bool,
}

/// The file or folder at the root of a working tree that leads git to its repository.
pub(crate) fn git_of(root: &Path) -> PathBuf {
    root.join(".git")
}

/// Asks git what the folder `root` is.
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
        // This `.git` is not a repository, so git went on to a folder above.
        return refused("its .git is not a repository");
    }
    Found::Repository(Repository {
        root: root.to_owned(),
        git_dir: path_from(git_dir),
        common: path_from(common),
    })
}

/// The repository of a project's root, read from its files without asking git. `None`: the root has
/// no repository.
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

/// The branch that the working tree at `root` is on, read from its files without asking git. `None`
/// if it is on none, or has no repository, or if the repository keeps its `HEAD` elsewhere
/// (reftable).
pub(crate) fn branch_in(root: &Path) -> Option<String> {
    branch_at(&read(root)?.git_dir)
}

/// The same for the folder of a repository, or of a registration.
pub(crate) fn branch_at(git_dir: &Path) -> Option<String> {
    let text = read_plain(fs::CWD, &git_dir.join("HEAD"), PATH_MOST_BYTES).ok()?;
    let name = text.trim_ascii_end().strip_prefix(b"ref: refs/heads/")?;
    // Where references are in a reftable, `HEAD` has this name for git of before.
    let name = std::str::from_utf8(name).ok().filter(|name| *name != ".invalid")?;
    Some(name.to_owned())
}

/// The commits that the references of `root` hold: its `HEAD`, its branches, its tags and its
/// stashes. `root` is a whole repository that is a copy of another.
///
/// # Errors
/// git could not be asked.
pub(crate) fn tips_of_copy(root: &Path) -> Result<Vec<String>, Failure> {
    tips(|| Git::new(root), &[])
}

/// The same for the repository that `git` runs in, but for the references that `but` excludes.
fn tips(git: impl Fn() -> Git, but: &[&str]) -> Result<Vec<String>, Failure> {
    let mut tips = Vec::new();
    let all = ["rev-list", "--no-walk", "--ignore-missing"];
    for asked in [
        git().args(all).args(but).args(["--all", "HEAD", "--"]),
        // `--all` covers only the last stash; this lists all of them.
        git().args(["stash", "list", "--no-show-signature", "--format=%H"]),
    ] {
        match asked.run() {
            Ok(output) => {
                tips.extend(String::from_utf8_lossy(&output.bytes).lines().map(str::to_owned));
            }
            // The repository has no commit yet.
            Err(Failure::Refused(words)) if words.contains("bad revision 'HEAD'") => {}
            Err(failure) => return Err(failure),
        }
    }
    tips.sort();
    tips.dedup();
    Ok(tips)
}

/// The annotated tags of a repository. They are objects of their own that no commit leads to.
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

/// The only line of git's output.
fn line(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end_matches('\n').to_owned()
}

/// Whether git can have a branch of this name.
///
/// # Errors
/// git could not be asked.
pub(crate) fn can_be_a_branch(root: &Path, name: &str) -> Result<bool, Failure> {
    // git gives these names another meaning, or refuses to make such a branch.
    if matches!(name, "" | "HEAD" | "@") || name.starts_with('-') {
        return Ok(false);
    }
    // git allows each of these, and a process less is a start that is sooner done.
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
        return Ok(true);
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

/// The name under which git registers a worktree. For git the name `@` has another meaning, and git
/// fails after it has made half of such a registration.
pub(crate) fn registration_name(worktree: &str) -> &str {
    if worktree == "@" { "at" } else { worktree }
}

/// The first reflog entry of a branch that was made for the worktree with this token.
fn first_entry(token: &str) -> String {
    format!("branch: Created by calve start ({token})")
}

/// The reason of the lock that a worktree's registration has while calve makes the worktree.
fn making(token: &str) -> String {
    format!("calve is making it ({token})")
}

/// The uncommitted work in the working tree at `root`. Nothing is written.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn work_in(root: &Path) -> Result<Work, Failure> {
    let output = Git::new(root)
        .args(["status", "--porcelain=v2", "--branch", "-z", "--no-renames", "--no-ahead-behind"])
        .args(["--untracked-files=normal", "--ignore-submodules=none"])
        .run()?;
    Ok(Work { is_cut: output.is_cut, ..parse_status(&output.bytes) })
}

/// Like [`work_in`], but with the work inside of submodules: a submodule whose commit is the
/// recorded one counts as the paths in it.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn whole_work_in(root: &Path) -> Result<Work, Failure> {
    let mut work = work_in(root)?;
    let mut asked: VecDeque<Submodule> = std::mem::take(&mut work.submodules).into();
    for _ in 0..SUBMODULES_MOST {
        let Some(submodule) = asked.pop_front() else { return Ok(work) };
        // A broken submodule counts as changed.
        let Ok(inner) = work_in(&root.join(&submodule.path)) else { continue };
        let below = |path: PathBuf| submodule.path.join(path);
        work.only_index_has_it |= inner.only_index_has_it;
        work.is_cut |= inner.is_cut;
        if !submodule.is_at_another_commit {
            work.paths.retain(|path| *path != submodule.path);
            work.paths.extend(inner.paths.into_iter().map(below));
        }
        asked.extend(
            inner.submodules.into_iter().map(|it| Submodule { path: below(it.path), ..it }),
        );
    }
    work.is_cut = true;
    Ok(work)
}

/// Parses the output of `git status --porcelain=v2 --branch -z` without renames.
fn parse_status(output: &[u8]) -> Work {
    let mut work = Work::default();
    let (mut commit, mut branch) = (None, None);
    let mut records: Vec<&[u8]> = output.split(|byte| *byte == 0).collect();
    // The part after the last zero byte is empty, or was cut off.
    records.pop();
    for record in records {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(id) = record.strip_prefix(b"# branch.oid ") {
            commit = (id != b"(initial)").then(|| text(id));
        } else if let Some(name) = record.strip_prefix(b"# branch.head ") {
            branch = (name != b"(detached)").then(|| text(name));
        } else {
            // The number of fields before the path, from git-status(1).
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
            let mut fields = record.splitn(before + 1, |byte| *byte == b' ');
            let submodule = match record.first() {
                Some(b'?') => None,
                // The letters of a submodule say: another commit, changes, untracked files.
                _ => fields.nth(2).filter(|letters| letters.first() == Some(&b'S')),
            };
            let Some(path) = fields.last().map(path_from) else { continue };
            if let Some(letters) = submodule {
                work.submodules.push(Submodule {
                    path: path.clone(),
                    is_at_another_commit: letters.get(1) != Some(&b'.'),
                });
            }
            work.paths.push(path);
        }
    }
    work.head = Some(Head { branch, commit });
    work
}

/// The paths in a working tree that git does not track, relative to its root. A directory ends in a
/// slash, and means everything in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NotTracked {
    pub(crate) ignored: Vec<Vec<u8>>,
    pub(crate) others: Vec<Vec<u8>>,
}

/// The entries of the working tree at `root` that git does not track. Writes nothing.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn not_tracked_in(root: &Path) -> Result<NotTracked, Failure> {
    let output = Git::new(root)
        .args(["status", "--porcelain", "-z", "--no-renames", "--ignore-submodules=all"])
        .args(["--untracked-files=all", "--ignored=matching"])
        .whole()
        .run()?;
    let mut found = NotTracked::default();
    for record in records(&whole(output)?) {
        if let Some(path) = record.strip_prefix(b"!! ") {
            found.ignored.push(path.to_owned());
        } else if let Some(path) = record.strip_prefix(b"?? ") {
            found.others.push(path.to_owned());
        }
    }
    Ok(found)
}

/// The files in the working tree at `root` that git does not track, and that the patterns in `file`
/// match. The patterns have gitignore's form. A repository is one path, which ends in a slash.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn not_tracked_but_matched(root: &Path, file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let from = [OsStr::new("--exclude-from"), file.as_os_str()];
    let output = Git::new(root)
        .args(["ls-files", "-z", "--others", "--ignored"])
        .args(from)
        .whole()
        .run()?;
    Ok(records(&whole(output)?).map(<[u8]>::to_owned).collect())
}

/// Those of the `paths` that git ignores in the working tree at `root`. They need not exist there.
/// A path that ends in a slash is a directory.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn ignored_of(root: &Path, paths: &[Vec<u8>]) -> Result<HashSet<Vec<u8>>, Failure> {
    if paths.is_empty() {
        return Ok(HashSet::new());
    }
    let mut input = Vec::new();
    for path in paths {
        input.extend_from_slice(path);
        input.push(0);
    }
    let output = Git::new(root)
        .args(["check-ignore", "-z", "--stdin"])
        .with_input(input)
        // git ignores none of them.
        .may_end_with(1)
        .whole()
        .run()?;
    Ok(records(&whole(output)?).map(<[u8]>::to_owned).collect())
}

fn records(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|byte| *byte == 0).filter(|record| !record.is_empty())
}

/// A list that must not be cut.
fn whole(output: run::Output) -> Result<Vec<u8>, Failure> {
    match output.is_cut {
        true => Err(Failure::Refused("git lists more paths than calve reads".to_owned())),
        false => Ok(output.bytes),
    }
}

impl Repository {
    fn git(&self) -> Git {
        let git = Git::new(&self.root);
        // In a repository's own folder, git would look for the working tree that the repository
        // names, and that may be gone.
        if self.root == self.git_dir { git.in_tree(&self.git_dir, &self.git_dir) } else { git }
    }

    /// The commit that the project has checked out. `None` before the first commit.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn head_commit(&self) -> Result<Option<String>, Failure> {
        match self.git().args(["rev-parse", "-q", "--verify", "HEAD^{commit}"]).run() {
            Ok(output) => Ok(Some(line(&output.bytes))),
            Err(Failure::Refused(_)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The commit that a name means, in any of git's ways to name one. The inner error says why it
    /// means none.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn commit(&self, name: &str) -> Result<Result<String, String>, Failure> {
        let none = |why: &str| Ok(Err(why.to_owned()));
        // git reads these as options.
        if name.is_empty() || name.starts_with('-') {
            return none("git has no commit of this name");
        }
        // git takes the first of these with a warning, which nobody reads in time.
        let kinds = ["tags", "heads", "remotes"].map(|kind| format!("refs/{kind}/{name}"));
        let same = self.git().args(["for-each-ref", "--format=%(refname)"]).args(&kinds).run()?;
        let same = String::from_utf8_lossy(&same.bytes).into_owned();
        let same: Vec<&str> =
            same.lines().filter(|line| kinds.iter().any(|kind| kind == line)).collect();
        if same.len() > 1 {
            return none(&format!("it may mean {}: give one of these names", same.join(" or ")));
        }
        let asked = self.git().args(["rev-parse", "--verify", "--end-of-options"]);
        match asked.arg(format!("{name}^{{commit}}")).run() {
            Ok(output) => Ok(Ok(line(&output.bytes))),
            Err(Failure::Refused(words)) if words.contains("is ambiguous") => {
                none("several objects have ids that start like this")
            }
            Err(Failure::Refused(words)) if words.contains("expected commit type") => {
                none("it names a tree or a file, not a commit")
            }
            Err(Failure::Refused(_)) => none("git has no commit of this name"),
            Err(failure) => Err(failure),
        }
    }

    /// The branches whose name is one of `names`, or starts with one of them and a slash.
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
                    // git prints a line break between two entries.
                    commit: commit.trim_start().to_owned(),
                    tree: (!fields[2].is_empty()).then(|| path_from(fields[2])),
                }
            })
            .collect())
    }

    /// Makes a branch for the worktree with this token.
    ///
    /// # Errors
    /// The branch exists already, or git could not make it. Nothing was made.
    pub(crate) fn make_branch(
        &self,
        name: &str,
        commit: &str,
        token: &str,
        lock: &File,
    ) -> Result<(), Failure> {
        self.git()
            .args(["update-ref", "--create-reflog", "-m", &first_entry(token)])
            // An empty old value means that the branch must not exist.
            .args([&branch_ref(name), commit, ""])
            .holding(lock)
            .map_err(Failure::NotRun)?
            .run()
            .map(drop)
    }

    /// Removes the branch that was made for the worktree with this token, unless the branch has
    /// changed since.
    ///
    /// # Errors
    /// git could not be asked, or could not remove the branch.
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
            // The branch does not exist.
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

    /// Removes the lock of a reference, if a git that was making the reference for calve died and
    /// left it. A git that is alive holds such a lock only for moments.
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

    /// Removes a branch that points to `commit`.
    ///
    /// # Errors
    /// The branch points to another commit by now, or git could not remove it.
    pub(crate) fn delete_branch(&self, name: &str, commit: &str) -> Result<(), Failure> {
        self.git().args(["update-ref", "-d", &branch_ref(name), commit]).run().map(drop)
    }

    /// Registers a linked worktree. Nothing is checked out, and no hook runs. The registration is
    /// locked for the worktree with this token. `at` must not exist; git makes this folder and puts
    /// the `.git` file into it. git names the registration after the last part of `at`, unless
    /// another registration has that name.
    ///
    /// # Errors
    /// git could not do it. The token identifies what git left.
    pub(crate) fn add(
        &self,
        at: &Path,
        onto: Onto<'_>,
        token: &str,
        lock: &File,
    ) -> Result<Registration, Failure> {
        let git = self
            .git()
            // With relative paths, git would write an extension into the repository's own
            // configuration, and programs that do not know the extension refuse the repository.
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

    /// Lets the linked worktree at `root` and its registration lead to each other again, after the
    /// worktree or the project was moved.
    ///
    /// # Errors
    /// git could not do it.
    pub(crate) fn repair(&self, root: &Path) -> Result<(), Failure> {
        self.git().args(["worktree", "repair", "--"]).arg(root).run().map(drop)
    }

    /// The commits at `tips`, and their ancestors, that are lost when a worktree is removed: no
    /// branch, tag, stash or other shared reference holds them. The reference `but` does not count
    /// as holding them. The newest come first, at most `most` of them. If the repository does not
    /// have the commits, they are in `objects`.
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
            // These references belong to one working tree alone.
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

    /// The commits of a linked worktree that nothing else may hold: its `HEAD`, its own references,
    /// and the changes that a merge or a rebase put aside. The worktree's tree may be gone.
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

    /// How many commits `commit` has that `of` does not have, and the other way round.
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

    /// Keeps a commit with a reference of calve's, and returns the reference's name. The reference
    /// has the name of the worktree that the commit is from, with a number if that name is taken.
    /// If this repository does not have the commit, `from` is one that does.
    ///
    /// # Errors
    /// git could not do it. The reference was not made.
    pub(crate) fn keep_dropped(
        &self,
        name: &str,
        commit: &str,
        from: Option<&Path>,
    ) -> Result<String, Failure> {
        if let Some(from) = from {
            // This fetches the commit by its id and stores it under no reference yet.
            self.git()
                // In this version of the protocol git may ask for any commit.
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

    /// Removes what a file monitor told about the files of an index. It watches the project's
    /// files, and must not vouch for those of another tree.
    ///
    /// # Errors
    /// git could not do it.
    pub(crate) fn without_monitor(&self, index: &Path) -> Result<(), Failure> {
        self.git()
            .args(["-c", "core.hooksPath=/dev/null", "-c", "core.splitIndex=false"])
            .with_index(index)
            .args(["update-index", "--no-fsmonitor"])
            .run()
            .map(drop)
    }

    /// Fills the index of a linked worktree from its `HEAD`, without looking at its files.
    ///
    /// # Errors
    /// git could not do it.
    pub(crate) fn read_index(&self, registration: &Registration) -> Result<(), Failure> {
        let index = registration.folder.join("index");
        let head = format!("worktrees/{}/HEAD", registration.id().to_string_lossy());
        self.git().with_index(&index).args(["read-tree", &head]).run().map(drop)
    }

    /// The folder that has a folder for each linked worktree.
    pub(crate) fn registrations_folder(&self) -> PathBuf {
        self.common.join(REGISTRATIONS)
    }

    /// All linked worktrees that are registered.
    ///
    /// # Errors
    /// The folder could not be listed.
    pub(crate) fn registrations(&self) -> io::Result<Vec<Registration>> {
        registrations(&self.common)
    }
}

/// A worktree's name as a part of a reference's name. Characters that git does not allow there
/// become underscores.
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

/// The linked worktrees that are registered in the repository whose shared folder is `common`.
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

/// The roots of the linked worktrees that are inside the working tree at `root` and belong to its
/// repository, without links. Empty if the repository cannot be read.
pub(crate) fn worktrees_inside(root: &Path) -> Vec<PathBuf> {
    let Some(repository) = read(root) else { return Vec::new() };
    let Ok(root) = std::fs::canonicalize(root) else { return Vec::new() };
    let id = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let inside = |registration: &Registration| {
        let tree = std::fs::canonicalize(registration.git_file.as_ref()?.parent()?).ok()?;
        // Somebody may have deleted the worktree, and made another folder in its place.
        let leads_back = leads_to(&tree).ok().and_then(|folder| id(&folder));
        let is_inside = tree != root && tree.starts_with(&root);
        (is_inside && leads_back == id(&registration.folder)).then_some(tree)
    };
    repository.registrations().unwrap_or_default().iter().filter_map(inside).collect()
}

/// The path in the `.git` file of a folder.
///
/// # Errors
/// There is no `.git` file, or it has other content.
pub(crate) fn leads_to(root: &Path) -> io::Result<PathBuf> {
    let text = read_plain(fs::CWD, &git_of(root), PATH_MOST_BYTES)?;
    let text = text.strip_prefix(b"gitdir: ").ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "its .git file does not lead to a repository")
    })?;
    Ok(absolute(root, text))
}

/// The path in a line of one of git's files. A relative path starts at `folder`, the folder of the
/// file.
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

    /// The id that git gave this registration.
    pub(crate) fn id(&self) -> &OsStr {
        self.folder.file_name().unwrap_or_default()
    }

    /// The content of a `.git` file that leads to this registration.
    pub(crate) fn git_file_text(&self) -> Vec<u8> {
        [b"gitdir: ", self.folder.as_os_str().as_bytes(), b"\n"].concat()
    }

    /// Whether this registration names the tree at `root` as its worktree.
    pub(crate) fn is_of(&self, root: &Path) -> bool {
        self.git_file.as_deref() == Some(&git_of(root))
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
            Ok(aside) => aside.remove(),
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
        std::fs::rename(&was, &is)?;
        Ok(Aside { was, is })
    }
}

/// Lets the `HEAD` of the working tree at `root` point to a commit, and to no branch. The files and
/// the index stay as they are.
///
/// # Errors
/// git could not do it, or does not have the commit. `HEAD` is as it was.
pub(crate) fn detach(root: &Path, commit: &str) -> Result<(), Failure> {
    Git::new(root)
        .args(["update-ref", "--no-deref", "-m", "calve restore", "HEAD", commit])
        .run()
        .map(drop)
}

/// A registration that was put aside.
#[derive(Debug)]
pub(crate) struct Aside {
    was: PathBuf,
    is: PathBuf,
}

impl Aside {
    /// Whether it was put into this folder.
    pub(crate) fn is_in(&self, folder: &Path) -> bool {
        self.is.starts_with(folder)
    }

    pub(crate) fn remove(self) -> io::Result<()> {
        let parent = self.is.parent().unwrap_or(Path::new("/"));
        remove_at(parent, self.is.file_name().unwrap_or_default())
    }

    /// Registers it again.
    pub(crate) fn put_back(self) -> io::Result<()> {
        std::fs::rename(self.is, self.was)
    }
}

/// Waits until a git that made a file or a folder would have continued with it, or removed it.
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

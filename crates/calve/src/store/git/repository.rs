//! A repository: finding it, its branches, and its linked worktrees.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::registration::{
    COMMONDIR, REGISTRATIONS, Registration, absolute, leads_to, making, registrations,
    wait_for_next_step,
};
use super::run::{Failure, Git};
use super::{PATH_MOST_BYTES, branch_ref, git_of, line};
use crate::store::files::{path_from, read_plain};

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Branch {
    /// The branch's name without `refs/heads/`.
    pub(crate) name: String,
    pub(crate) commit: String,
    /// The working tree that has the branch checked out.
    pub(crate) tree: Option<PathBuf>,
}

/// What the `HEAD` of a new linked worktree points to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Onto<'a> {
    Branch(&'a str),
    Commit(&'a str),
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

impl Repository {
    pub(super) fn git(&self) -> Git {
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

/// The first reflog entry of a branch that was made for the worktree with this token.
pub(super) fn first_entry(token: &str) -> String {
    format!("branch: Created by calve start ({token})")
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

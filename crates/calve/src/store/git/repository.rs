//! A repository: finding it, its branches, and its linked worktrees.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::ask::{A_MERGE, Tree, head_in, identity, is_absent};
use super::registration::{
    COMMONDIR, REGISTRATIONS, Registration, absolute, leads_nowhere, leads_to, making,
    registrations, wait_for_next_step,
};
use super::run::{Failure, Git, Output};
use super::work::records;
use super::{PATH_MOST_BYTES, branch_ref, git_of, line};
use crate::error::IfThere as _;
use crate::store::files::{path_from, read_plain};
use crate::tree::git_index::{self, CONFIG_MOST_BYTES};

/// The folder of tags.
const TAGS: &str = "refs/tags/";

/// The repository that git finds at a project's root.
#[derive(Debug)]
pub(crate) enum Found {
    /// The root has no `.git`.
    Nothing,
    Repository(Repository),
    /// The root has a `.git`, but git says that it is no root of a working tree, and why.
    NoWorkingTree(Failure),
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

/// References that one run of git told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refs {
    pub(crate) branches: Vec<Branch>,
    /// The references at remotes with one of the names, by what was fetched last.
    remotes: Vec<String>,
    /// The tags with one of the names, or below one.
    pub(crate) tags: Vec<String>,
    /// The names of all remotes, if a reference may be of one with a slash in its name.
    names_of_remotes: Vec<String>,
    /// The commit of `HEAD`. `None` before the first commit.
    pub(crate) head: Option<String>,
}

impl Refs {
    /// The references at remotes that hold a branch of this name.
    pub(crate) fn of_remotes(&self, name: &str) -> Vec<String> {
        let is_it = |reference: &&String| {
            let remote = below_remotes(reference).strip_suffix(name);
            let remote = remote.and_then(|it| it.strip_suffix('/'));
            remote.is_some_and(|remote| self.remote_of(reference) == remote)
        };
        self.remotes.iter().filter(is_it).cloned().collect()
    }

    /// The remote and its branch of which this is the name.
    pub(crate) fn split(&self, name: &str) -> Option<(String, String)> {
        let remote = self.remote_of(self.remotes.iter().find(|it| below_remotes(it) == name)?);
        let branch = name.strip_prefix(remote)?.strip_prefix('/')?;
        Some((remote.to_owned(), branch.to_owned()))
    }

    /// The name of the remote that a reference is of.
    fn remote_of<'r>(&'r self, reference: &'r str) -> &'r str {
        let below = below_remotes(reference);
        let is_of = |it: &&str| below.strip_prefix(it).is_some_and(|it| it.starts_with('/'));
        let known = self.names_of_remotes.iter().map(String::as_str).filter(is_of);
        let first = below.split('/').next().unwrap_or_default();
        known.max_by_key(|it| it.len()).unwrap_or(first)
    }
}

/// The name of a reference at a remote: the remote's, and the branch's there.
fn below_remotes(reference: &str) -> &str {
    reference.strip_prefix("refs/remotes/").unwrap_or_default()
}

/// What the files say of which `HEAD` and its branch consist. git replaces each file that it
/// changes, so while these are the same `HEAD` leads to the same commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadMark(Vec<Option<[i64; 5]>>);

/// What the `HEAD` of a new linked worktree points to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Onto<'a> {
    Branch(&'a str),
    Commit(&'a str),
}

/// Why git works with no tree of a repository that has this setting, and with no tree of a copy.
const BARE: &str = "its setting core.bare is true, so git gives it no working tree; \
    'git config core.bare false' in the project mends that";

/// Fails if git would not work with a copy of the repository in the folder `.git` of `root` either.
/// Who owns the repository does not count, since a copy belongs to its user, nor do settings of the
/// user that cannot be read now.
///
/// # Errors
/// git refuses the repository, in these words, or there is a git and it cannot be run. If there is
/// none, this is no failure.
pub(crate) fn works_as_a_copy(root: &Path) -> Result<(), Failure> {
    let git_dir = git_of(root);
    // Without a name for the working tree, git says whether the repository has one.
    let asked = Git::new(root).of_repository(&git_dir).without_users_settings();
    match asked.args(["rev-parse", "--is-bare-repository"]).run() {
        Ok(output) if line(&output.bytes) == "true" => Err(Failure::Refused(BARE.to_owned())),
        Ok(_) | Err(Failure::NotInstalled) => Ok(()),
        // What is no repository for git is copied like any folder.
        Err(Failure::Refused(words)) if words.contains("not a git repository") => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// The settings of git that have another value in the working tree at `copy` than in the one at
/// `root`, although the repository of the one is a copy of the other's. git includes files of
/// configuration by the place of a repository (`includeIf`).
///
/// # Errors
/// git could not be asked.
pub(crate) fn other_settings(root: &Path, copy: &Path) -> Result<Vec<String>, Failure> {
    let list = |root: &Path| -> Result<BTreeMap<String, String>, Failure> {
        let Some(tree) = Tree::at(root)? else { return Ok(BTreeMap::new()) };
        let text = String::from_utf8_lossy(&settings_in(&tree)?).into_owned();
        let lines = text.split('\0').filter(|line| !line.is_empty());
        // The last value of a setting holds.
        Ok(lines
            .map(|line| line.split_once('\n').unwrap_or((line, "")))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect())
    };
    let (ours, theirs) = (list(root)?, list(copy)?);
    let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differs = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
    Ok(differs.cloned().collect())
}

/// All settings that hold in a working tree, each with its value and a zero byte.
///
/// # Errors
/// git could not be asked.
pub(crate) fn settings_in(tree: &Tree) -> Result<Vec<u8>, Failure> {
    tree.git().args(["config", "--list", "--includes", "-z"]).list()
}

/// Whether another working tree of the same repository may have other settings than these.
pub(crate) fn differ_by_tree(settings: &[u8]) -> bool {
    const BY_TREE: [&[u8]; 2] = [b"includeif.", b"extensions.worktreeconfig"];
    settings
        .split(|byte| *byte == 0)
        .any(|setting| BY_TREE.iter().any(|start| setting.starts_with(start)))
}

/// Asks git what the folder `root` is.
pub(crate) fn find(root: &Path) -> Found {
    match std::fs::symlink_metadata(git_of(root)) {
        Ok(_) => {}
        Err(error) if is_absent(&error) => return Found::Nothing,
        Err(error) => return Found::Unusable(Failure::NotRun(error)),
    }
    let asked = Git::new(root).not_above(root).args([
        "rev-parse",
        "--path-format=absolute",
        "--show-toplevel",
        "--git-dir",
        "--git-common-dir",
    ]);
    let output = match asked.run() {
        Ok(output) => output.bytes,
        Err(Failure::Refused(words)) if words.contains("must be run in a work tree") => {
            return Found::NoWorkingTree(Failure::Refused(BARE.to_owned()));
        }
        Err(failure) => return Found::Unusable(failure),
    };
    let lines: Vec<&[u8]> =
        output.strip_suffix(b"\n").unwrap_or(&output).split(|byte| *byte == b'\n').collect();
    let [top, git_dir, common] = lines.as_slice() else {
        let why = "the path of the repository has a line break";
        return Found::Unusable(Failure::Refused(why.to_owned()));
    };
    match (identity(&path_from(top)), identity(root)) {
        (Ok(Some(top)), Ok(Some(root))) if top == root => {}
        (Err(error), _) | (_, Err(error)) => return Found::Unusable(Failure::NotRun(error)),
        _ => {
            let top = String::from_utf8_lossy(top);
            let why = format!("its setting core.worktree names another folder: {top}");
            return Found::NoWorkingTree(Failure::Refused(why));
        }
    }
    Found::Repository(Repository {
        root: root.to_owned(),
        git_dir: path_from(git_dir),
        common: path_from(common),
    })
}

/// The repository of a project's root, read from its files without asking git. `None`: the root has
/// no repository.
///
/// # Errors
/// The root has a `.git` that cannot be read.
pub(crate) fn read(root: &Path) -> io::Result<Option<Repository>> {
    let own = git_of(root);
    let git_dir = match std::fs::metadata(&own) {
        Ok(found) if found.is_dir() => own,
        Ok(_) => match leads_to(root) {
            Err(error) if leads_nowhere(&error) => return Ok(None),
            led => led?,
        },
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let common =
        read_plain(fs::CWD, &git_dir.join(COMMONDIR), PATH_MOST_BYTES).but_for(is_absent)?;
    let common = common.map_or_else(|| git_dir.clone(), |text| absolute(&git_dir, &text));
    Ok(Some(Repository { root: root.to_owned(), git_dir, common }))
}

/// The branch that the working tree at `root` is on, read from its files without asking git. `None`
/// if it is on none, or has no repository, or if the repository keeps its `HEAD` elsewhere
/// (reftable).
pub(crate) fn branch_in(root: &Path) -> Option<String> {
    branch_at(&read(root).ok()??.git_dir)
}

/// The same for the folder of a repository, or of a registration.
pub(crate) fn branch_at(git_dir: &Path) -> Option<String> {
    let text = head_in(git_dir).ok()?;
    let name = text.trim_ascii_end().strip_prefix(b"ref: refs/heads/")?;
    // Where references are in a reftable, `HEAD` has this name for git of before.
    let name = std::str::from_utf8(name).ok().filter(|name| *name != ".invalid")?;
    Some(name.to_owned())
}

/// What says whether `HEAD` still leads to the same commit. `None` if only git can tell.
pub(crate) fn head_mark(git_dir: &Path, common: &Path) -> Option<HeadMark> {
    let branch = branch_at(git_dir)?;
    let state = |path: PathBuf| -> io::Result<_> {
        let it = std::fs::symlink_metadata(path).but_for(is_absent)?;
        Ok(it.map(|it| {
            let number = i64::try_from(it.ino()).unwrap_or(i64::MAX);
            [number, it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()]
        }))
    };
    let (head, of_branch) = (git_dir.join("HEAD"), common.join(branch_ref(&branch)));
    // A branch may be another name of a branch.
    if read_plain(fs::CWD, &of_branch, PATH_MOST_BYTES).is_ok_and(|it| it.starts_with(b"ref:")) {
        return None;
    }
    let files = [head, of_branch, common.join("packed-refs")];
    Some(HeadMark(files.into_iter().map(state).collect::<io::Result<_>>().ok()?))
}

impl Repository {
    /// What [`find`] would say of a root, of which [`read`] said this and git has just answered a
    /// question in this repository. `None`: only git can say it, because the repository may name
    /// another working tree, or have none. git itself reads that from this file alone, without
    /// the files that it includes.
    pub(crate) fn confirmed(&self) -> Option<Self> {
        let config = self.common.join("config");
        let config = read_plain(fs::CWD, &config, CONFIG_MOST_BYTES).ok()?;
        let whole = |folder: &Path| std::fs::canonicalize(folder).ok();
        let (git_dir, common) = (whole(&self.git_dir)?, whole(&self.common)?);
        let root = self.root.clone();
        git_index::is_silent_on_working_tree(&config).then_some(Self { root, git_dir, common })
    }

    /// A run of git for this working tree. Of a submodule's repository, the folder is both.
    pub(super) fn git(&self) -> Git {
        match self.root == self.git_dir {
            true => Git::new(&self.root).in_tree(&self.git_dir, &self.git_dir),
            false => self.tree().git(),
        }
    }

    /// What the working tree is in the middle of, beside a merge: files of git, in its folder, that
    /// a new worktree does not get.
    ///
    /// # Errors
    /// Those of [`Tree::under_way`].
    pub(crate) fn under_way(&self) -> Result<Vec<&'static str>, Failure> {
        let mut found = self.tree().under_way()?;
        found.retain(|state| *state != A_MERGE);
        Ok(found)
    }

    /// Whether the working tree is a linked worktree.
    pub(crate) fn is_linked(&self) -> bool {
        self.git_dir != self.common
    }

    /// The working tree, to ask git about it.
    pub(crate) fn tree(&self) -> Tree {
        Tree { root: self.root.clone(), git_dir: self.git_dir.clone() }
    }

    /// The commit that the project has checked out. `None` before the first commit.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn head_commit(&self) -> Result<Option<String>, Failure> {
        head_commit(self.git())
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
        let asked = self.git().args(["-c", "core.warnAmbiguousRefs=true", "rev-parse", "--verify"]);
        let told = asked.arg("--end-of-options").arg(format!("{name}^{{commit}}")).run();
        if let Ok(Output { words, .. }) | Err(Failure::Refused(words)) = &told
            && words.contains("refname")
        {
            // git takes the first of these with a warning, which nobody reads in time.
            let kinds = ["tags", "heads", "remotes"].map(|kind| format!("refs/{kind}/{name}"));
            let same =
                self.git().args(["for-each-ref", "--format=%(refname)"]).args(&kinds).run()?;
            let same = String::from_utf8_lossy(&same.bytes).into_owned();
            let same: Vec<&str> =
                same.lines().filter(|line| kinds.iter().any(|kind| kind == line)).collect();
            if same.len() > 1 {
                return none(&format!(
                    "it may mean {}: give one of these names",
                    same.join(" or ")
                ));
            }
        }
        match told {
            Ok(output) => Ok(Ok(line(&output.bytes))),
            Err(Failure::Refused(words)) if words.contains("expected commit type") => {
                none("it names a tree or a file, not a commit")
            }
            Err(Failure::Refused(words)) if words.contains("is ambiguous") => {
                none("several objects have ids that start like this")
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
        let patterns = names.iter().map(|name| branch_ref(name));
        Ok(self.references_like(patterns)?.branches)
    }

    /// The same, with the branches of these names at remotes, and the commit of `HEAD`.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn branches_and_head(
        &self,
        names: &[&str],
        at_remotes: &[&str],
    ) -> Result<Refs, Failure> {
        let head = branch_at(&self.git_dir);
        // A remote's name may have slashes, too. Of `origin` alone git would list all branches.
        let branches = at_remotes.iter().filter(|name| name.contains('/'));
        let remotes = at_remotes.iter().map(|name| format!("refs/remotes/**/{name}"));
        let remotes = remotes.chain(branches.map(|name| format!("refs/remotes/{name}")));
        let tags = at_remotes.iter().map(|name| format!("{TAGS}{name}"));
        let all = names.iter().copied().chain(head.as_deref()).map(branch_ref);
        let all = all.chain(remotes).chain(tags);
        let mut found = self.references_like(all)?;
        if found.remotes.iter().any(|it| below_remotes(it).matches('/').count() > 1) {
            let names = self.git().arg("remote").run()?;
            let names = String::from_utf8_lossy(&names.bytes).into_owned();
            found.names_of_remotes = names.lines().map(str::to_owned).collect();
        }
        found.head = match &head {
            // It may be detached, or be in a reftable.
            None => self.head_commit()?,
            Some(head) => {
                let it = found.branches.iter().find(|branch| branch.name == *head);
                it.map(|branch| branch.commit.clone())
            }
        };
        let is_asked = |branch: &Branch| {
            let rest = |name| branch.name.strip_prefix(name);
            names.iter().filter_map(rest).any(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        found.branches.retain(is_asked);
        Ok(found)
    }

    fn references_like(&self, patterns: impl Iterator<Item = String>) -> Result<Refs, Failure> {
        let mut patterns = patterns.peekable();
        // Without a pattern, git tells all of them.
        if patterns.peek().is_none() {
            return Ok(Refs::default());
        }
        let output = self
            .git()
            .args(["for-each-ref", "--format=%(objectname)%00%(refname)%00%(worktreepath)%00"])
            .args(patterns)
            .run()?;
        let mut found = Refs::default();
        let fields: Vec<&[u8]> = output.bytes.split(|byte| *byte == 0).collect();
        for fields in fields.chunks_exact(3) {
            let name = String::from_utf8_lossy(fields[1]).into_owned();
            let Some(branch) = name.strip_prefix("refs/heads/") else {
                match name.strip_prefix(TAGS) {
                    Some(tag) => found.tags.push(tag.to_owned()),
                    None => found.remotes.push(name),
                }
                continue;
            };
            found.branches.push(Branch {
                name: branch.to_owned(),
                // git prints a line break between two entries.
                commit: String::from_utf8_lossy(fields[0]).trim_start().to_owned(),
                tree: (!fields[2].is_empty()).then(|| path_from(fields[2])),
            });
        }
        Ok(found)
    }

    /// Of several references at remotes, the one of the remote that git's setting
    /// `checkout.defaultRemote` names, if it does.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn preferred(&self, found: Vec<String>) -> Result<Vec<String>, Failure> {
        if found.len() < 2 {
            return Ok(found);
        }
        let default = self.git().args(["config", "--get", "checkout.defaultRemote"]);
        let default = format!("refs/remotes/{}/", default.may_end_with(1).line()?);
        let preferred = found.iter().find(|it| it.starts_with(&default)).cloned();
        Ok(preferred.map_or(found, |it| vec![it]))
    }

    /// See [`head_mark`].
    pub(crate) fn head_mark(&self) -> Option<HeadMark> {
        head_mark(&self.git_dir, &self.common)
    }

    /// Gives a branch an upstream.
    ///
    /// # Errors
    /// git refused, or could not be asked.
    pub(crate) fn set_upstream(&self, branch: &str, upstream: &str) -> Result<(), Failure> {
        let upstream = format!("--set-upstream-to={upstream}");
        self.git().args(["branch", "-q", &upstream, branch]).run().map(drop)
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
            Err(Failure::Refused(words)) if words.contains("bad revision") => return Ok(()),
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
        Registration::read(folder.clone()).map_err(Failure::NotRun)?.ok_or_else(|| {
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
        let counts = git.with_objects_of(objects).line()?;
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
            .args(["-c", "core.splitIndex=false"])
            .with_index(index)
            .args(["update-index", "--no-fsmonitor"])
            .run()
            .map(drop)
    }

    /// The commit that a linked worktree has checked out, whose tree may be gone. `None` before the
    /// first commit.
    ///
    /// # Errors
    /// git could not be asked.
    pub(crate) fn head_commit_of(&self, it: &Registration) -> Result<Option<String>, Failure> {
        let head = format!("worktrees/{}/HEAD^{{commit}}", it.id().to_string_lossy());
        commit_called(self.git(), &head)
    }

    /// Fills the index of a linked worktree from its `HEAD`, without looking at its files. What git
    /// does without in the project, or takes for unchanged there, it does here, too: a start had
    /// given the worktree the project's index.
    ///
    /// # Errors
    /// git could not do it.
    pub(crate) fn read_index(&self, registration: &Registration) -> Result<(), Failure> {
        let index = registration.folder.join("index");
        let head = format!("worktrees/{}/HEAD", registration.id().to_string_lossy());
        let git = || self.git().with_index(&index);
        git().args(["read-tree", &head]).run()?;
        let marked = self.git().args(["ls-files", "-v", "-z"]).list()?;
        let of = |is: fn(u8) -> bool| {
            let of_it = move |record: &&[u8]| record.first().is_some_and(|tag| is(*tag));
            records(&marked).filter(of_it).filter_map(|record| record.get(2..))
        };
        // `S` is a file that git does without; a small letter, one that it takes for unchanged.
        let (lacking, unchanged): (Vec<_>, Vec<_>) = (
            of(|tag| tag.eq_ignore_ascii_case(&b'S')).collect(),
            of(|tag| tag.is_ascii_lowercase()).collect(),
        );
        if lacking.is_empty() && unchanged.is_empty() {
            return Ok(());
        }
        let there = git().args(["ls-files", "-z"]).list()?;
        let there: HashSet<&[u8]> = records(&there).collect();
        for (flag, mut paths) in [("--skip-worktree", lacking), ("--assume-unchanged", unchanged)] {
            paths.retain(|path| there.contains(path));
            git().args(["update-index", flag, "-z", "--stdin"]).with_paths(paths).run()?;
        }
        Ok(())
    }

    /// What may say where a branch is and where it was: two files, or a folder (reftable).
    pub(crate) fn files_of_branch(&self, name: &str) -> [PathBuf; 3] {
        let file = branch_ref(name);
        let paths = [Path::new(&file), &Path::new("logs").join(&file), Path::new("reftable")];
        paths.map(|path| self.common.join(path))
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

/// The commit that `HEAD` points to, for a run of git in a working tree.
pub(super) fn head_commit(git: Git) -> Result<Option<String>, Failure> {
    commit_called(git, "HEAD^{commit}")
}

fn commit_called(git: Git, name: &str) -> Result<Option<String>, Failure> {
    let asked = git.args(["rev-parse", "-q", "--verify", name]);
    // git says nothing and ends so where there is no commit.
    let output = asked.may_end_with(1).run()?;
    Ok((output.code == 0).then(|| line(&output.bytes)))
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
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if name.split('/').all(|part| !part.is_empty() && part.bytes().all(is_plain)) {
        return Ok(true);
    }
    let asked = Git::new(root).arg("check-ref-format").arg(branch_ref(name));
    Ok(asked.may_end_with(1).run()?.code == 0)
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
    set_head(root, &["update-ref", "--no-deref", "-m", "calve restore", "HEAD", commit])
}

/// Whether the files of the working tree at `root` are those of the second commit, which its index
/// has, where that differs from the first one.
///
/// # Errors
/// git could not be asked.
pub(crate) fn has_files_of(root: &Path, commits: [&str; 2]) -> Result<bool, Failure> {
    let none = || Failure::Refused("it has no .git".to_owned());
    let tree = Tree::at(root)?.ok_or_else(none)?;
    let git = || tree.git().args(["diff", "--no-ext-diff", "--no-renames", "-z", "--name-status"]);
    let (between, changed) = (git().args(commits).list()?, git().list()?);
    let changed: HashSet<&[u8]> = records(&changed).skip(1).step_by(2).collect();
    let (kinds, paths) = (records(&between).step_by(2), records(&between).skip(1).step_by(2));
    Ok(kinds.zip(paths).all(|(kind, path)| match kind {
        b"D" => std::fs::symlink_metadata(root.join(path_from(path))).is_err(),
        _ => !changed.contains(path),
    }))
}

/// Removes the entries of the reflog of `HEAD` that name commits which git does not have.
///
/// # Errors
/// git could not do it.
pub(crate) fn forget_lost_commits(root: &Path) -> Result<(), Failure> {
    let never = ["--expire=never", "--expire-unreachable=never"];
    set_head(root, &["reflog", "expire", "--stale-fix", never[0], never[1], "HEAD"])
}

/// Lets the `HEAD` of the working tree at `root` point to a branch that does not exist yet. The files
/// and the index stay as they are.
///
/// # Errors
/// git could not do it. `HEAD` is as it was.
pub(crate) fn to_unborn(root: &Path, branch: &str) -> Result<(), Failure> {
    set_head(root, &["symbolic-ref", "HEAD", &branch_ref(branch)])
}

fn set_head(root: &Path, words: &[&str]) -> Result<(), Failure> {
    let none = || Failure::Refused("it has no .git".to_owned());
    Tree::at(root)?.ok_or_else(none)?.git().args(words).run().map(drop)
}

/// The commit of a worktree before its first one.
pub(crate) const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// Whether `commit` is that of a worktree before its first one.
pub(crate) fn is_no_commit(commit: &str) -> bool {
    commit.bytes().all(|digit| digit == b'0')
}

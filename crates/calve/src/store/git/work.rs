//! The uncommitted work in a working tree.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::PATH_MOST_BYTES;
use super::ask::{Tree, identity, is_absent};
use super::repository::Repository;
use super::run::Failure;
use crate::error::IfThere as _;
use crate::reflink::filesystem::Filesystem;
use crate::store::files::{listed_at, path_from, read_plain};
use crate::tree::git_index::{UnseenEdits, YoungFiles};
use crate::tree::pool::both;

/// How many submodules calve asks for their work.
const SUBMODULES_MOST: usize = 1000;

/// The target of a working tree's `HEAD`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The branch's name without `refs/heads/`. `None`: `HEAD` is detached.
    pub(crate) branch: Option<String>,
    /// `None` before the first commit.
    pub(crate) commit: Option<String>,
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
    /// No snapshot can have it: the index has content of a path that neither its file nor `HEAD`
    /// has, a patch waits in git's folder, or git could not look into a folder.
    pub(crate) no_snapshot_has_it: bool,
    /// Those of the paths of which the index has other content than `HEAD`.
    pub(crate) staged: Vec<PathBuf>,
    /// Those of the paths that are submodules.
    pub(crate) submodules: Vec<Submodule>,
    /// Edits of these files that git does not see are still to be looked for: see
    /// [`EditsSince::LookedForLater`].
    pub(crate) young: YoungFiles,
}

/// Edits that git does not see: in the second in which its index recorded the file, with the size
/// kept and the time restored. Each has the second (since 1970) in which the tree was made: nobody
/// edited a file there before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EditsSince {
    /// Each file is looked at.
    LookedFor(i64),
    /// Files are looked at in submodules. Those of the tree itself are left to [`Work::young`], because
    /// all of them are looked at later in any case.
    LookedForLater(i64),
}

/// A changed submodule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submodule {
    pub(crate) path: PathBuf,
    /// Its `HEAD` is not at the commit that the index records.
    pub(crate) is_at_another_commit: bool,
}

/// The paths in a working tree that git does not track, relative to its root. A directory ends in a
/// slash, and means everything in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NotTracked {
    pub(crate) ignored: Vec<Vec<u8>>,
    pub(crate) others: Vec<Vec<u8>>,
}

/// Settings of the user, of the repository, or of a submodule, that let `git status` leave changes
/// out. The options of the command do not reach the status of submodules, and settings do.
///
/// With `core.ignoreCase`, as in a repository that came from macOS, git takes a new name for a
/// tracked one that differs in case. (Where a filesystem does not tell the two apart, git lists it
/// as a change.)
const SHOW_ALL: [&str; 4] =
    ["-c", "status.showUntrackedFiles=normal", "-c", "core.ignoreCase=false"];
/// Settings with which git compares less of a file than it knows of it, or believes a cache of
/// folders.
const COMPARE_ALL: [&str; 6] = [
    "-c",
    "core.checkStat=default",
    "-c",
    "core.trustctime=true",
    "-c",
    "core.untrackedCache=false",
];

/// A filesystem that a server holds has a clock of its own. On others, a time may be a tick late.
const CLOCKS_APART_SECONDS: i64 = 60;

impl EditsSince {
    fn looked_for(self) -> Self {
        match self {
            Self::LookedFor(second) | Self::LookedForLater(second) => Self::LookedFor(second),
        }
    }

    fn unseen_in(self, root: &Path) -> UnseenEdits<'_> {
        let filesystem = Filesystem::of(root);
        let apart = if filesystem.clock { 1 } else { CLOCKS_APART_SECONDS };
        match self {
            // The later look knows a file by its inode's number.
            Self::LookedForLater(second) if filesystem.inodes => {
                UnseenEdits::Later(second.saturating_sub(apart))
            }
            Self::LookedFor(second) | Self::LookedForLater(second) => {
                UnseenEdits::In(root, second.saturating_sub(apart))
            }
        }
    }
}

/// The uncommitted work in a working tree. Nothing is written.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn work_in(tree: &Tree) -> Result<Work, Failure> {
    work(tree, &[])
}

fn work(tree: &Tree, settings: &[&str]) -> Result<Work, Failure> {
    let output = tree
        .git()
        .args(SHOW_ALL)
        .args(settings)
        .args(["status", "--porcelain=v2", "--branch", "-z", "--no-renames", "--no-ahead-behind"])
        .args(["--untracked-files=normal", "--ignore-submodules=none"])
        .run()?;
    let mut work = parse_status(&output.bytes);
    work.is_cut = output.is_cut;
    // git leaves out a folder that it may not read, or whose path is too long, and says so beside.
    for folder in output.words.lines().filter_map(unopened) {
        work.paths.push(folder.into());
        work.no_snapshot_has_it = true;
    }
    Ok(work)
}

/// The folder of which git says that it could not look into it.
fn unopened(words: &str) -> Option<&str> {
    let (_, after) = words.split_once("could not open directory '")?;
    Some(after.rsplit_once("': ").map_or(after, |(folder, _)| folder))
}

/// Like [`work_in`], but with the work inside of all submodules, and with all files that git takes
/// for unchanged without a look. A submodule whose commit is the recorded one counts as the paths
/// in it.
///
/// Each submodule is asked by itself. `git status` asks a submodule with that one's own settings, by
/// which it may leave out submodules further down, and says nothing of files that an index there
/// marks as unchanged.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn whole_work_in(tree: &Tree, edits: EditsSince) -> Result<Work, Failure> {
    let (mut whole, submodules) = work_but_of_submodules(tree, edits)?;
    let mut asked: VecDeque<Submodule> = submodules.into();
    for _ in 0..SUBMODULES_MOST {
        let Some(submodule) = asked.pop_front() else { return Ok(whole) };
        let asked_inner = match Tree::at(&tree.root.join(&submodule.path)) {
            // Its folder is empty, or gone.
            Ok(None) => continue,
            Ok(Some(inner)) => work_but_of_submodules(&inner, edits.looked_for()),
            Err(failure) => Err(failure),
        };
        let Ok((inner, further)) = asked_inner else {
            // Nobody knows what is in it.
            whole.paths.push(submodule.path);
            continue;
        };
        let below = |path: PathBuf| submodule.path.join(path);
        whole.no_snapshot_has_it |= inner.no_snapshot_has_it;
        whole.is_cut |= inner.is_cut;
        if !submodule.is_at_another_commit {
            whole.paths.retain(|path| *path != submodule.path);
            whole.paths.extend(inner.paths.into_iter().map(below));
        }
        asked.extend(further.into_iter().map(|it| Submodule { path: below(it.path), ..it }));
    }
    whole.is_cut |= !asked.is_empty();
    Ok(whole)
}

/// The work of a working tree that is beside the tree: nobody touched the tree itself, and it has no
/// work of its own. `head` is where its `HEAD` is.
///
/// # Errors
/// git's folder of the tree could not be read.
pub(crate) fn work_beside(tree: &Tree, head: &Head) -> Result<Work, Failure> {
    let paths = patches_in(&tree.git_dir).map_err(Failure::NotRun)?;
    let no_snapshot_has_it = !paths.is_empty();
    Ok(Work { head: Some(head.clone()), paths, no_snapshot_has_it, ..Work::default() })
}

/// The work in one working tree, with the files that git takes for unchanged, and all its
/// submodules, whether or not they are changed.
fn work_but_of_submodules(
    tree: &Tree,
    edits: EditsSince,
) -> Result<(Work, Vec<Submodule>), Failure> {
    let special = || tree.special(edits.unseen_in(&tree.root));
    let (found, special) = both(|| work(tree, &COMPARE_ALL), special);
    let (mut found, special) = (found?, special?);
    found.paths.extend(tree.with_other_content(special.of_that_second)?);
    // git says nothing about these, whatever they have become.
    let is_there = |path: &PathBuf| std::fs::symlink_metadata(tree.root.join(path)).is_ok();
    // If such a file differs from what is staged, or is missing, git says nothing about that either.
    let hidden: HashSet<&PathBuf> = special.hidden.iter().collect();
    found.no_snapshot_has_it |= found.staged.iter().any(|path| hidden.contains(path));
    found.paths.extend(special.hidden.into_iter().filter(is_there));
    let patches = patches_in(&tree.git_dir).map_err(Failure::NotRun)?;
    found.no_snapshot_has_it |= !patches.is_empty();
    found.paths.extend(patches);
    found.paths.sort();
    found.paths.dedup();
    found.young = special.young;
    let mut submodules = std::mem::take(&mut found.submodules);
    let changed: HashSet<PathBuf> = submodules.iter().map(|it| it.path.clone()).collect();
    let others = special.submodules.into_iter().filter(|path| !changed.contains(path));
    submodules.extend(others.map(|path| Submodule { path, is_at_another_commit: false }));
    Ok((found, submodules))
}

/// The patches that `git am` has still to apply, as files in git's folder of a working tree. They
/// may have come from a pipe. (Those of a rebase are made from commits.)
pub(super) fn patches_in(git_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = git_dir.join("rebase-apply");
    if identity(&folder.join("applying"))?.is_none() {
        return Ok(Vec::new());
    }
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let next = read_plain(fs::CWD, &folder.join("next"), PATH_MOST_BYTES).but_for(is_absent)?;
    let next = next.and_then(|text| number(&String::from_utf8_lossy(&text)));
    let names = listed_at(&folder)?;
    let waits = |name: &str| number(name).is_some_and(|number| number >= next.unwrap_or(0));
    let waiting = names.iter().filter(|(name, _)| name.to_str().is_some_and(waits));
    Ok(waiting.map(|(name, _)| folder.join(name)).collect())
}

/// Parses the output of `git status --porcelain=v2 --branch -z` without renames.
pub(super) fn parse_status(output: &[u8]) -> Work {
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
            work.no_snapshot_has_it |= match record.first() {
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
            // Of a staged deletion, `HEAD` has the content.
            if record.first() == Some(&b'1') && !matches!(record.get(2), Some(b'.' | b'D')) {
                work.staged.push(path.clone());
            }
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

/// Where `HEAD` is in each linked worktree of a repository that has a commit, by the worktree's
/// root. One process tells it of all.
///
/// # Errors
/// git could not be asked. Before 2.36 it cannot answer.
pub(crate) fn heads_in(repository: &Repository) -> Result<HashMap<PathBuf, Head>, Failure> {
    let output = repository.git().args(["worktree", "list", "--porcelain", "-z"]).list()?;
    Ok(parse_heads(&output))
}

/// Parses the output of `git worktree list --porcelain -z`: each fact of a worktree ends in a zero
/// byte, and each worktree in one more.
pub(super) fn parse_heads(output: &[u8]) -> HashMap<PathBuf, Head> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (mut found, mut root) = (HashMap::new(), None);
    for fact in output.split(|byte| *byte == 0) {
        if let Some(path) = fact.strip_prefix(b"worktree ") {
            root = Some(path_from(path));
        } else if let Some(id) = fact.strip_prefix(b"HEAD ")
            && let Some(root) = &root
            && id.iter().any(|digit| *digit != b'0')
        {
            found.insert(root.clone(), Head { branch: None, commit: Some(text(id)) });
        } else if let Some(name) = fact.strip_prefix(b"branch refs/heads/")
            && let Some(head) = root.as_ref().and_then(|root| found.get_mut(root))
        {
            head.branch = Some(text(name));
        }
    }
    found
}

/// The entries of a working tree that git does not track. Writes nothing.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn not_tracked_in(tree: &Tree) -> Result<NotTracked, Failure> {
    let output = tree
        .git()
        .args(["status", "--porcelain", "-z", "--no-renames", "--ignore-submodules=all"])
        .args(["--untracked-files=all", "--ignored=matching"])
        .list()?;
    let mut found = NotTracked::default();
    for record in records(&output) {
        if let Some(path) = record.strip_prefix(b"!! ") {
            found.ignored.push(path.to_owned());
        } else if let Some(path) = record.strip_prefix(b"?? ") {
            found.others.push(path.to_owned());
        }
    }
    Ok(found)
}

/// All paths that git tracks in a working tree.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn all_tracked(tree: &Tree) -> Result<Vec<Vec<u8>>, Failure> {
    tree.git().args(["ls-files", "-z"]).paths()
}

/// The files in a working tree that git does not track, and that the patterns in `file`
/// match. The patterns have gitignore's form. A repository is one path, which ends in a slash.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn not_tracked_but_matched(
    repository: &Repository,
    file: &Path,
) -> Result<Vec<Vec<u8>>, Failure> {
    let from = [OsStr::new("--exclude-from"), file.as_os_str()];
    repository.git().args(["ls-files", "-z", "--others", "--ignored"]).args(from).paths()
}

/// Those of the `paths` that git ignores in a working tree. They need not exist there.
/// A path that ends in a slash is a directory.
///
/// # Errors
/// git does not work with this tree.
pub(crate) fn ignored_of(
    repository: &Repository,
    paths: &[Vec<u8>],
) -> Result<HashSet<Vec<u8>>, Failure> {
    if paths.is_empty() {
        return Ok(HashSet::new());
    }
    repository
        .git()
        .args(["check-ignore", "-z", "--stdin"])
        .with_paths(paths)
        // git ignores none of them.
        .may_end_with(1)
        .paths()
}

pub(super) fn records(output: &[u8]) -> impl Iterator<Item = &[u8]> {
    output.split(|byte| *byte == 0).filter(|record| !record.is_empty())
}

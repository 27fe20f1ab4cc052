//! Which worktrees git need not look at, because it looked at one that is alike.
//!
//! What `git status` says of a linked worktree depends on the files in its tree, its index, the
//! commit of its `HEAD`, and git's settings. Two worktrees that were published with the same
//! content, that nobody touched since ([`WorktreeSeal`]), and whose index, commit and settings are
//! equal have the same answer. So of a hundred worktrees that one start made, git looks at one.
//!
//! docs/design/seals.md says why a tree with a good seal is untouched. Here is what else must be
//! equal, and how calve knows it:
//!
//! * *The index.* It ends in the hash of all that it says. If git was told to leave that out
//!   (`index.skipHash`), no worktree is alike.
//! * *The commit and the branch* of each worktree: one `git worktree list` tells all of them.
//! * *The settings*: one `git config --list`; one for each worktree where they may differ.
//! * *What is outside of the tree*: worktrees with repositories of submodules, or with something
//!   mounted below, are not alike.
//!
//! The worktree that git looks at may be changed between the flush and the end of git's look. Then
//! the answer is that worktree's alone ([`Alike::may_follow`]).

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::GitStatus;
use crate::store::files::open_dir;
use crate::store::git::modules::MODULES;
use crate::store::git::{self, Head, Repository, Tree};
use crate::store::ready::seal::{WorktreeSeal, unwritten_bytes};
use crate::tree::mounts;
use crate::tree::staging::sync_filesystem;
use crate::worktree::Worktree;
use crate::worktree::remove::look::{Moment, Scope, changed_since};

/// An entry of git's index has about this many bytes.
const INDEX_ENTRY_BYTES: u64 = 100;
/// git's look at one entry takes about this long, if the kernel has some of the inodes in memory.
const LOOK_NANOSECONDS: u64 = 3_000;
/// A flush takes as long as this if there is little to write: a commit of a filesystem on a slow
/// disk.
const COMMIT_NANOSECONDS: u64 = 50_000_000;
/// A slow disk takes as long as this for a byte.
const BYTE_NANOSECONDS: u64 = 10;
/// How many bytes at the end of an index are compared: the shorter one of git's hashes.
const HASH_BYTES: usize = 20;

/// An untouched worktree, and all that git's answer depends on.
struct Untouched {
    at: usize,
    seal: WorktreeSeal,
    head: Head,
    likeness: Likeness,
}

/// Worktrees for which this is equal are alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Likeness {
    content: String,
    commit: Option<String>,
    index: IndexMark,
    settings: Vec<u8>,
}

/// What says that two indexes say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct IndexMark {
    bytes: u64,
    hash: [u8; HASH_BYTES],
}

/// Worktrees that are alike, by their places in the list that was asked about.
pub(super) struct Alike {
    /// The one that git looks at.
    pub(super) first: usize,
    pub(super) others: Vec<(usize, Head)>,
    registration: PathBuf,
    likeness: Likeness,
}

/// The groups of worktrees that are alike and that nobody touched. If calve cannot know it, there
/// are none, and git is asked about each worktree.
pub(super) fn untouched(project: &Repository, worktrees: &[Worktree]) -> Vec<Alike> {
    let Some(found) = sealed(project, worktrees) else { return Vec::new() };
    let looks_saved = |groups: &BTreeMap<&Likeness, Vec<&Untouched>>| -> u64 {
        let entries = |of: &Likeness| of.index.bytes / INDEX_ENTRY_BYTES;
        groups.iter().map(|(of, all)| (all.len() as u64 - 1) * entries(of)).sum()
    };
    // What somebody wrote shows in the seal when it was written back.
    let entries = looks_saved(&by_likeness(found.iter()));
    let paths = found.iter().map(|it| worktrees[it.at].path.as_path());
    if !unwritten_bytes().is_some_and(|bytes| flush_pays(bytes, entries)) || !flush(paths) {
        return Vec::new();
    }
    let holds = |it: &&Untouched| it.seal.holds(&worktrees[it.at].path);
    let groups = by_likeness(found.iter().filter(holds));
    let group = |(likeness, all): (&Likeness, Vec<&Untouched>)| {
        let (first, others) = all.split_first().filter(|(_, others)| !others.is_empty())?;
        Some(Alike {
            first: first.at,
            others: others.iter().map(|it| (it.at, it.head.clone())).collect(),
            registration: git::leads_to(&worktrees[first.at].path).ok()?,
            likeness: likeness.clone(),
        })
    };
    groups.into_iter().filter_map(group).collect()
}

fn by_likeness<'u>(
    all: impl Iterator<Item = &'u Untouched>,
) -> BTreeMap<&'u Likeness, Vec<&'u Untouched>> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    all.for_each(|it| groups.entry(&it.likeness).or_default().push(it));
    groups
}

/// The worktrees whose seals are good as far as a look without a flush tells. `None` if there are
/// not two of them, or if git could not be asked.
fn sealed(project: &Repository, worktrees: &[Worktree]) -> Option<Vec<Untouched>> {
    let registrations = project.registrations_folder();
    let sealed: Vec<(usize, Tree, WorktreeSeal)> = (0..)
        .zip(worktrees)
        .filter_map(|(at, worktree)| {
            let tree = Tree::at(&worktree.path).ok()??;
            let seal = WorktreeSeal::read(&tree.git_dir)?;
            let is_linked =
                tree.git_dir.parent().is_some_and(|it| git::is_same(it, &registrations));
            let is_alone = std::fs::symlink_metadata(tree.git_dir.join(MODULES)).is_err()
                && !mounts::any_below(&std::fs::canonicalize(&worktree.path).ok()?);
            (is_linked && is_alone && seal.holds(&worktree.path)).then_some((at, tree, seal))
        })
        .collect();
    if sealed.len() < 2 {
        return None;
    }
    let heads = git::heads_in(project).ok()?;
    let all_settings = git::settings_in(&project.tree()).ok()?;
    let differ = git::differ_by_tree(&all_settings);
    let found = sealed.into_iter().filter_map(|(at, tree, seal)| {
        let settings = match differ {
            true => git::settings_in(&tree).ok()?,
            false => Vec::new(),
        };
        let head = heads.get(&worktrees[at].path)?.clone();
        let index = IndexMark::of(&tree.git_dir)?;
        let (content, commit) = (seal.content.clone(), head.commit.clone());
        Some(Untouched { at, seal, head, likeness: Likeness { content, commit, index, settings } })
    });
    Some(found.collect())
}

/// Whether a flush takes less time than git's looks at so many entries.
fn flush_pays(unwritten_bytes: u64, entries: u64) -> bool {
    let flush = unwritten_bytes.saturating_mul(BYTE_NANOSECONDS).saturating_add(COMMIT_NANOSECONDS);
    flush < entries.saturating_mul(LOOK_NANOSECONDS)
}

/// Flushes the filesystems of trees at these paths.
fn flush<'p>(paths: impl Iterator<Item = &'p Path>) -> bool {
    // Each subvolume has a device of its own, and the folders around them have few.
    let mut folders = HashMap::new();
    for folder in paths.filter_map(Path::parent) {
        let Ok(device) = std::fs::metadata(folder).map(|found| found.dev()) else { return false };
        folders.entry(device).or_insert(folder);
    }
    folders.values().all(|folder| open_dir(folder).is_ok_and(|dir| sync_filesystem(dir).is_ok()))
}

impl IndexMark {
    /// The mark of the index in this folder of a working tree. `None` if it has none.
    fn of(git_dir: &Path) -> Option<Self> {
        let file = File::open(git_dir.join("index")).ok()?;
        let bytes = file.metadata().ok()?.len();
        let mut hash = [0; HASH_BYTES];
        file.read_exact_at(&mut hash, bytes.checked_sub(HASH_BYTES as u64)?).ok()?;
        (hash != [0; HASH_BYTES]).then_some(Self { bytes, hash })
    }
}

impl Alike {
    /// Whether git's answer about the first worktree is that of the others, too: nothing of it
    /// changed since a moment before the flush.
    pub(super) fn may_follow(&self, first: &Worktree, status: &GitStatus, since: Moment) -> bool {
        status.is_linked
            && status.commit == self.likeness.commit
            && IndexMark::of(&self.registration) == Some(self.likeness.index)
            && changed_since(&first.path, since, Scope::All).is_ok_and(|found| found.is_empty())
    }

    /// The checking build asks git about the others, too.
    #[cfg(calve_check)]
    pub(super) fn check(
        &self,
        worktrees: &[Worktree],
        status: &GitStatus,
        project: Option<&Repository>,
    ) {
        for (at, head) in &self.others {
            let expected = GitStatus { branch: head.branch.clone(), ..status.clone() };
            let since = Moment::now();
            let worktree = &worktrees[*at];
            let Ok(Some(own)) = worktree.git_status_beside(project, None) else { continue };
            let is_still =
                changed_since(&worktree.path, since, Scope::All).is_ok_and(|it| it.is_empty());
            let (ahead, behind) = (expected.ahead, expected.behind);
            crate::check::same_answer(
                &worktree.path,
                &GitStatus { ahead, behind, ..own },
                &expected,
                is_still,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_pays_if_it_saves_more_looks_than_there_is_to_write() {
        const MB: u64 = 1 << 20;
        for (row, unwritten, entries, expected) in [
            ("a hundred large worktrees on a quiet machine", 0, 99 * 78_000, true),
            ("the same beside a build", 1_000 * MB, 99 * 78_000, true),
            ("the same beside a restore of a backup", 8_000 * MB, 99 * 78_000, false),
            ("some of a middle size", 50 * MB, 23 * 20_000, true),
            ("the same beside a build", 500 * MB, 23 * 20_000, false),
            ("two large ones", MB, 78_000, true),
            ("small ones", 0, 23 * 300, false),
            ("none", 0, 0, false),
            ("numbers that are none", u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(flush_pays(unwritten, entries), expected, "{row}");
        }
    }
}

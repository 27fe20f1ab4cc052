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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::reflink::sys;
use crate::store::Store;
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
#[derive(Debug)]
pub(in crate::worktree) struct Untouched {
    /// Its place in the list that was asked about.
    pub(in crate::worktree) at: usize,
    pub(in crate::worktree) seal: WorktreeSeal,
    pub(in crate::worktree) head: Head,
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

/// Worktrees that are alike.
pub(in crate::worktree) struct Alike {
    /// The one that is looked at.
    pub(in crate::worktree) first: Untouched,
    pub(in crate::worktree) others: Vec<Untouched>,
}

/// The groups of worktrees that are alike and that nobody touched. If calve cannot know it, there
/// are none, and each worktree is looked at.
pub(in crate::worktree) fn untouched(project: &Repository, worktrees: &[Worktree]) -> Vec<Alike> {
    let Some(found) = sealed(project, worktrees) else { return Vec::new() };
    // What somebody wrote shows in the seal when it was written back.
    let groups = by_likeness(found);
    let saved = groups.iter().map(|group| group.others.len() as u64 * group.first.entries()).sum();
    let all = groups.iter().flat_map(|group| [&group.first].into_iter().chain(&group.others));
    if !flush_pays(saved) || !flush(all.map(|it| worktrees[it.at].path.as_path())) {
        return Vec::new();
    }
    let all = groups.into_iter().flat_map(|group| [group.first].into_iter().chain(group.others));
    by_likeness(all.filter(|it| it.seal.holds(&worktrees[it.at].path)))
}

/// For each worktree, the place of the first one before it that shares all its blocks, because both
/// are snapshots of one subvolume that nobody touched since. `None` if there is none, or if calve
/// cannot know it.
pub(in crate::worktree) fn twins(store: &Store, worktrees: &[&Worktree]) -> Vec<Option<usize>> {
    let mut twins = vec![None; worktrees.len()];
    let Some(project) = store.project().ok().and_then(|root| git::read(&root).ok()?) else {
        return twins;
    };
    let Some(points) = mounts::points() else { return twins };
    let mut alike = BTreeMap::<_, Vec<(usize, WorktreeSeal)>>::new();
    let mut entries = 0;
    for (at, worktree) in worktrees.iter().enumerate() {
        if !may_have_own_files(store, worktree)
            && let Some((tree, seal)) = sealed_tree(&project, worktree, &points)
            && let Ok(root) = open_dir(&worktree.path)
            && let Ok(Some(source)) = sys::snapshot_source(root)
        {
            let of_index = IndexMark::of(&tree.git_dir).map_or(0, |it| it.entries());
            let group = alike.entry((seal.content.clone(), source)).or_default();
            entries += if group.is_empty() { 0 } else { of_index };
            group.push((at, seal));
        }
    }
    let all = alike.values().filter(|group| group.len() > 1).flatten();
    let paths = all.map(|(at, _)| worktrees[*at].path.as_path());
    if !flush_pays(entries) || !flush(paths) {
        return twins;
    }
    for group in alike.into_values() {
        let mut still = group.into_iter().filter(|(at, seal)| seal.holds(&worktrees[*at].path));
        let Some((first, _)) = still.next() else { continue };
        still.for_each(|(at, _)| twins[at] = Some(first));
    }
    twins
}

/// Whether a start may have rewritten files of the worktree, with its own path. They have blocks of
/// their own. A start that names the contents later rewrites none.
fn may_have_own_files(store: &Store, worktree: &Worktree) -> bool {
    let Some(id) = worktree.row.snapshot else { return false };
    let found = store.snapshots().noted_found(id);
    !found.is_ok_and(|it| it.is_some_and(|it| it.mentions.iter().all(|it| it.kept.is_some())))
}

/// The places of the worktrees that must be looked at in any case, of a list of so many.
pub(in crate::worktree) fn without_others(groups: &[Alike], count: usize) -> Vec<usize> {
    let others: HashSet<usize> =
        groups.iter().flat_map(|group| group.others.iter().map(|it| it.at)).collect();
    (0..count).filter(|at| !others.contains(at)).collect()
}

fn by_likeness(all: impl IntoIterator<Item = Untouched>) -> Vec<Alike> {
    let mut groups = BTreeMap::<_, Vec<_>>::new();
    all.into_iter().for_each(|it| groups.entry(it.likeness.clone()).or_default().push(it));
    let group = |mut all: Vec<Untouched>| {
        let others = all.split_off(1);
        let first = all.pop()?;
        (!others.is_empty()).then_some(Alike { first, others })
    };
    groups.into_values().filter_map(group).collect()
}

/// The worktrees whose seals are good as far as a look without a flush tells. `None` if there are
/// not two of them, or if git could not be asked.
fn sealed(project: &Repository, worktrees: &[Worktree]) -> Option<Vec<Untouched>> {
    // Read once for all: it may be long.
    let points = mounts::points()?;
    let sealed = worktrees.iter().enumerate().filter_map(|(at, worktree)| {
        sealed_tree(project, worktree, &points).map(|(tree, seal)| (at, tree, seal))
    });
    let sealed: Vec<_> = sealed.collect();
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

/// A linked worktree and its seal, if that is good as far as a look without a flush tells. `points`
/// are all mount points.
fn sealed_tree(
    project: &Repository,
    worktree: &Worktree,
    points: &[PathBuf],
) -> Option<(Tree, WorktreeSeal)> {
    // Most filesystems know no seals, so the tree is asked for more only if it has one.
    let seal = WorktreeSeal::read(&git::leads_to(&worktree.path).ok()?)?;
    let tree = Tree::at(&worktree.path).ok()??;
    let is_linked =
        tree.git_dir.parent().is_some_and(|it| git::is_same(it, &project.registrations_folder()));
    let is_alone = std::fs::symlink_metadata(tree.git_dir.join(MODULES)).is_err()
        && !mounts::is_any_below(points, &std::fs::canonicalize(&worktree.path).ok()?);
    (is_linked && is_alone && seal.holds(&worktree.path)).then_some((tree, seal))
}

/// Whether a flush takes less time than looks at so many entries.
fn flush_pays(entries: u64) -> bool {
    unwritten_bytes().is_some_and(|bytes| is_less_than_looks(bytes, entries))
}

fn is_less_than_looks(unwritten_bytes: u64, entries: u64) -> bool {
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

impl Untouched {
    /// How many entries git looks at, about.
    fn entries(&self) -> u64 {
        self.likeness.index.entries()
    }

    /// Whether nobody touched the tree until now, where it is at `place`. `false` if only a look
    /// can tell, or tells it sooner.
    pub(in crate::worktree) fn is_still_at(&self, place: &Path) -> bool {
        flush_pays(self.entries()) && flush([place].into_iter()) && self.seal.holds(place)
    }
}

impl IndexMark {
    fn entries(self) -> u64 {
        self.bytes / INDEX_ENTRY_BYTES
    }

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
    /// Whether an answer about the first worktree is that of the others, too: nothing of it changed
    /// since a moment before the flush. `commit` is where its `HEAD` was then.
    pub(in crate::worktree) fn may_follow(
        &self,
        worktrees: &[Worktree],
        commit: Option<&str>,
        since: Moment,
    ) -> bool {
        let (first, path) = (&self.first.likeness, &worktrees[self.first.at].path);
        commit == first.commit.as_deref()
            && git::leads_to(path).is_ok_and(|it| IndexMark::of(&it) == Some(first.index))
            && changed_since(path, since, Scope::All).is_ok_and(|found| found.is_empty())
    }

    /// The checking build asks git about the others, too.
    #[cfg(calve_check)]
    pub(super) fn check(&self, worktrees: &[Worktree], status: &super::GitStatus) {
        for it in &self.others {
            let (worktree, since) = (&worktrees[it.at], Moment::now());
            let Ok(Some(own)) = worktree.git_status_beside(None, None) else { continue };
            let changed = changed_since(&worktree.path, since, Scope::All);
            let is_still = changed.is_ok_and(|found| found.is_empty());
            let expected = super::GitStatus { branch: it.head.branch.clone(), ..status.clone() };
            let own = super::GitStatus { ahead: status.ahead, behind: status.behind, ..own };
            crate::check::same_answer(&worktree.path, &own, &expected, is_still);
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
            assert_eq!(is_less_than_looks(unwritten, entries), expected, "{row}");
        }
    }
}

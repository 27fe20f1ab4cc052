//! Measures how much disk worktrees take, with whom they share it, and how much a drop frees.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Worktree;
use super::git::alike;
use crate::error::Error;
use crate::store::{Store, StoreOptions};
use crate::tree::disk::{Census, Survey};

/// The disk usage of some trees; from [`Store::disk_usage`].
///
/// # What is certain
/// calve asks the filesystem where each file has its content (FIEMAP, on Linux). So it knows which
/// trees of the store share which blocks. It does not know how many files *outside* of the store's
/// trees share a block. Each [`FreedBytes`] therefore has two numbers, and the truth is between
/// them. They are equal if no two files of the dropped trees share blocks only with each other.
///
/// Two things are estimates: the filesystem's own structures ([`TreeUsage::metadata_bytes`]), and
/// compressed content on btrfs, because the filesystem says only where it begins. On btrfs a file
/// that was overwritten in part may also keep the old blocks, until all of the old content is gone.
/// `docs/filesystems.md` has the bounds.
///
/// Some filesystems share blocks and do not say which (ZFS, APFS). There all content counts as the
/// tree's own, and [`FreedBytes::least`] does not include it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiskUsage {
    /// The worktrees that were asked for, in their order.
    pub worktrees: Vec<TreeUsage>,
    /// The project, without its store.
    pub project: TreeUsage,
    /// The store.
    pub store: TreeUsage,
    /// The space that a drop of all these worktrees together frees. This may be more than the sum
    /// of their [`TreeUsage::frees`]: worktrees may share blocks with each other.
    pub frees: FreedBytes,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// The disk usage of one tree, in bytes. See [`DiskUsage`].
///
/// Each byte of content counts in one of the fields `unique_bytes` and `shared_with_…`, the first
/// of them that holds, and once if several files of the tree share it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeUsage {
    /// Where the tree is.
    pub path: PathBuf,
    /// The number of regular files. A file with several names counts once.
    pub files: u64,
    /// The sum of the files' sizes, which is what `ls` says.
    pub apparent_bytes: u64,
    /// What all entries take according to the filesystem, which is what `du` says. It counts shared
    /// blocks for every tree that has them.
    pub allocated_bytes: u64,
    /// Content that no other tree and no other file has.
    pub unique_bytes: u64,
    /// Content that the project has, too.
    pub shared_with_project_bytes: u64,
    /// Content that the store has, too.
    pub shared_with_store_bytes: u64,
    /// Content that other worktrees of the store have, too.
    pub shared_with_worktrees_bytes: u64,
    /// Content that files have which are in none of the store's trees.
    pub shared_elsewhere_bytes: u64,
    /// An estimate of the space that the tree's entries take in the filesystem's own structures.
    pub metadata_bytes: u64,
    /// The number of files and directories that this process may not read. The content of these
    /// files counts as unique.
    pub unreadable: u64,
    /// The bytes that a removal of this tree alone frees.
    pub frees: FreedBytes,
}

/// The space that is free when trees are gone, in bytes: at least `least`, and `expected` if no
/// file outside of the store's trees shares blocks with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FreedBytes {
    /// Without everything that a file elsewhere might share.
    pub least: u64,
    /// With the estimate for the filesystem's own structures.
    pub expected: u64,
}

impl Store {
    /// Measures how much disk the worktrees, the project and the store take, and how much a drop of
    /// these worktrees frees.
    ///
    /// This takes one stat for each entry, and one open and one FIEMAP for each file, in parallel.
    /// It looks at the other worktrees of the store only if these worktrees share blocks that
    /// neither the project nor the store has. Of linked worktrees on btrfs that nobody touched since
    /// they were started it looks at one, which tells the others. calve reads no content. It needs about 64 bytes of
    /// memory for each range that files share, however many trees share it.
    ///
    /// The numbers are those of the moment when calve looks. If some content was not yet written to
    /// the disk, calve first has it written.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeMissing`](crate::ErrorKind::WorktreeMissing); a directory could not be
    /// read. Nothing is changed.
    ///
    /// # Platforms
    /// Linux. Elsewhere no filesystem says which blocks files share: see [`DiskUsage`].
    pub fn disk_usage(
        &self,
        worktrees: &[Worktree],
        options: &StoreOptions,
    ) -> Result<DiskUsage, Error> {
        let started = Instant::now();
        let operation = options.operation();
        let mut asked = Vec::new();
        for worktree in worktrees.iter().filter(|worktree| !worktree.is_project()) {
            asked.push(worktree.there()?);
        }
        let (project, store) = (self.project()?, self.path());
        let mut others = self.worktrees()?;
        others.retain(|other| asked.iter().all(|one| one.row.token != other.row.token));
        let all: Vec<&Worktree> = asked.iter().chain(&others).collect();
        let count = asked.len();
        // The project and the store are behind those that were asked for.
        let place = |at: usize| if at < count { at } else { at + 2 };
        let mut twins = vec![None; all.len() + 2];
        for (at, twin) in alike::twins(self, &all).into_iter().enumerate() {
            twins[place(at)] = twin.map(place);
        }
        let mut paths: Vec<&Path> = all.iter().map(|worktree| worktree.path.as_path()).collect();
        paths.splice(count..count, [project.as_path(), store]);
        let mut survey = Survey::new(&paths, &twins, &operation);
        survey.look(0, count + 2)?;
        if survey.is_open(count) {
            survey.look(count + 2, paths.len())?;
        }
        let census = survey.census();
        let group = |tree: usize| match tree.checked_sub(count) {
            Some(0) => 0,
            Some(1) => 1,
            _ => 2,
        };
        let usage = |tree: usize| tree_usage(&census, tree, paths[tree], group);
        let asked: Vec<usize> = (0..count).collect();
        Ok(DiskUsage {
            worktrees: asked.iter().map(|tree| usage(*tree)).collect(),
            project: usage(count),
            store: usage(count + 1),
            frees: freed(&census, &asked),
            elapsed: started.elapsed(),
        })
    }
}

fn tree_usage(
    census: &Census,
    tree: usize,
    path: &Path,
    group: impl Fn(usize) -> usize,
) -> TreeUsage {
    let (bytes, sharing) = (&census.trees[tree], census.sharing(tree, group));
    TreeUsage {
        path: path.to_owned(),
        files: bytes.files,
        apparent_bytes: bytes.apparent,
        allocated_bytes: bytes.allocated,
        unique_bytes: sharing.own,
        shared_with_project_bytes: sharing.groups[0],
        shared_with_store_bytes: sharing.groups[1],
        shared_with_worktrees_bytes: sharing.groups[2],
        shared_elsewhere_bytes: sharing.elsewhere,
        metadata_bytes: bytes.metadata,
        unreadable: bytes.unreadable,
        frees: freed(census, &[tree]),
    }
}

fn freed(census: &Census, trees: &[usize]) -> FreedBytes {
    let freed = census.frees(trees);
    FreedBytes { least: freed.least, expected: freed.most }
}

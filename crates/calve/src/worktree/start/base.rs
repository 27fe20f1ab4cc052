//! Makes a snapshot of the project as it would be at another commit, for `--base`.
//!
//! The snapshot has tracked files as the commit has them, and files that git ignores as the project
//! has them. It has no uncommitted work. calve makes it from the project's snapshot and the files
//! that differ; git writes those into a folder of the store. So the cost of a start depends on the
//! files that differ, and the other files keep their blocks and their times.
//!
//! The snapshot is the base snapshot of the worktrees, so a fresh worktree is clean for calve, too.
//!
//! # Which files are the same
//! calve brings a copy of the project's index to the commit. Entries that stay the same keep the
//! stat of the project's file. If the store took in the content of a file with that stat, the
//! project's snapshot has the content that the entry names
//! ([`vouched`](crate::store::ready::vouched)). Of these, git writes those again that it would
//! convert otherwise ([`conversions`](crate::store::git::conversions)), and it writes all other
//! files. If such a file turns out to have the bytes that it has in the project, it keeps the
//! project's time as well.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, Mode};

use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::catalog::Origin;
use crate::store::git::Repository;
use crate::store::git::checkout::Checkout;
use crate::store::git::conversions::has_attributes;
use crate::store::id::SnapshotId;
use crate::store::manifest::Manifest;
use crate::store::materialize::wanted;
use crate::store::object::Entry;
use crate::store::overlay::record_over;
use crate::store::ready::vouched::{Snapshots, length};
use crate::store::{PROJECT, Secret, Store, bytes_of};
use crate::tree::git_index::{self, Folder, Sorted, Vouched, Vouches};
use crate::tree::running::Running;
use crate::tree::staging::Stage;

/// The project's tree at another commit.
#[derive(Debug)]
pub(in crate::worktree) struct Base {
    /// The snapshot of the tree.
    pub(in crate::worktree) id: SnapshotId,
    /// The index of git for such a tree.
    pub(super) index: Vec<u8>,
    /// How many files git wrote.
    pub(super) written: u64,
    manifest: Manifest,
    /// The stats that the index records of files, by the numbers of the entries.
    recorded: HashMap<u32, Meta>,
    /// A time after all these files changed.
    stamp: (i64, u32),
}

/// Makes the tree of the project at `commit`. `id` is the project's snapshot, taken just now,
/// and `left` are files of it that stay behind; `name` is how the user called the commit.
///
/// # Errors
/// [`ErrorKind::Git`] if git could not write a file; those of every operation, see [`Store`].
/// Nothing is left behind.
pub(in crate::worktree) fn at_commit(
    store: &Store,
    repository: &Repository,
    (name, commit): (&str, &str),
    (id, left): (SnapshotId, &[Secret]),
    operation: &Running,
) -> Result<Base, Error> {
    let folder = store.layout().stage();
    let dir = fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
    let stage = Stage::empty(dir, &folder).context(Operation::Stage, || &folder)?;
    let folder = stage.path();
    let checkout = Checkout { repository, folder: &folder };
    std::fs::create_dir(checkout.tree()).context(Operation::MakeFolder, || &folder)?;
    let index = repository.git_dir.join("index");
    match super::links::copy(&index, &checkout.index()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        result => drop(result.context(Operation::Read, || &index)?),
    }
    let failed = |failure| Error::new(ErrorKind::Git, Operation::CheckOut, name, failure);
    checkout.refresh().map_err(failed)?;
    let mut gone = checkout.untracked().map_err(failed)?;
    let tracked = checkout.tracked().map_err(failed)?;
    checkout.go_to(commit).map_err(failed)?;
    let snapshots =
        Snapshots::of(crate::store::PROJECT, store, (id, &store.catalog().object(id)?), &[])?;
    let mut sorted = sort(&stage, snapshots.as_ref()).ok_or_else(|| {
        let cause = std::io::Error::other("calve does not understand git's index");
        Error::new(ErrorKind::Git, Operation::CheckOut, name, cause)
    })?;
    // A repository that is untracked in the project may be a submodule of the commit.
    sorted.other.extend(gone.iter().filter(|path| sorted.no_file.remove(*path)).cloned());
    let is_same = |path: &Vec<u8>| sorted.same.contains_key(path);
    let attributes_differ = sorted.other.iter().chain(&gone).any(|it| has_attributes(it))
        || tracked.iter().any(|path| has_attributes(path) && !is_same(path));
    let same: Vec<(&[u8], u64)> =
        sorted.same.iter().map(|(path, meta)| (path.as_slice(), meta.size)).collect();
    let converted = checkout.converted(&same, attributes_differ).map_err(failed)?;
    for path in converted.into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>() {
        sorted.same.remove(&path);
        sorted.other.insert(path);
    }
    if !sorted.other.is_empty() {
        checkout.write(commit, sorted.other.iter().map(Vec::as_slice)).map_err(failed)?;
    }
    let stays = |path: &Vec<u8>| sorted.same.contains_key(path) || sorted.no_file.contains(path);
    gone.extend(tracked.into_iter().filter(|path| !stays(path)));
    gone.extend(left.iter().map(|secret| bytes_of(&secret.path)));
    let gone: HashSet<Vec<u8>> = gone.into_iter().collect();
    let message = format!("the project at {}", commit.get(..12).unwrap_or(commit));
    // What git ignores in it is the project's.
    let origin = Origin { worktree: Some(PROJECT.to_owned()), branch: None };
    let made = record_over(store, id, &gone, &checkout.tree(), (&message, &origin), operation)?;
    let index = std::fs::read(checkout.index()).context(Operation::Read, || &folder)?;
    let mut recorded = HashMap::with_capacity(made.manifest.count as usize);
    for (number, path, entry) in made.manifest.paths() {
        if let Some(meta) = sorted.same.get(path.as_os_str().as_bytes()) {
            recorded.insert(number, *meta);
        } else if let Some((mtime, stat)) = made.brought.get(&number) {
            // git saw the file with the time at which it wrote it.
            let mut meta = wanted(&Entry { mtime: *mtime, ..entry.clone() });
            (meta.size, meta.ino) = (length(entry).unwrap_or(0), stat.ino);
            meta.changed = (stat.changed.0, stat.changed.1.into());
            recorded.insert(number, meta);
        }
    }
    Ok(Base {
        id: made.id,
        index,
        written: made.files,
        manifest: made.manifest,
        recorded,
        stamp: made.stamp,
    })
}

/// Sorts the entries of the index in the stage.
fn sort(stage: &Stage, snapshots: Option<&Snapshots>) -> Option<Sorted> {
    let vouches = snapshots.map(|snapshots| -> &dyn Vouches { snapshots });
    let before = snapshots.map_or((i64::MIN, 0), Snapshots::stamp);
    git_index::sort(stage.dir(), vouches, before)
}

impl Base {
    /// A file that changed at this time or later is not vouched for. The index is as old as this.
    pub(super) fn stamp(&self) -> (i64, i64) {
        (self.stamp.0, self.stamp.1.into())
    }

    /// Whether git tracks the file at `path` in the commit.
    pub(in crate::worktree) fn tracks(&self, path: &Path) -> bool {
        let mut above = path.parent().into_iter().flat_map(Path::iter);
        let root = Folder { source: 0, clone: 0 };
        let folder = above.try_fold(root, |folder, name| self.folder(folder, name.as_bytes()));
        let name = path.file_name().map(|name| name.as_bytes());
        folder.zip(name).is_some_and(|(folder, name)| self.file(folder, name).is_some())
    }
}

impl Vouches for Base {
    fn folder(&self, above: Folder, name: &[u8]) -> Option<Folder> {
        let place = self.manifest.child_of(above.source, name)?;
        Some(Folder { source: place, clone: place })
    }

    fn file(&self, folder: Folder, name: &[u8]) -> Option<Vouched> {
        let directory = self.manifest.directories.get(folder.source as usize)?;
        let slot = directory.find(name)?;
        let source = *self.recorded.get(&(directory.first + slot))?;
        let modified = wanted(&directory.entries[slot as usize]).modified();
        Some(Vouched { source, modified })
    }
}

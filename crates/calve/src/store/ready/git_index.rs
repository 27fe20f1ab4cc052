//! git's index for a linked worktree, which the store keeps with a ready tree. It records the ready
//! tree's files, so calve need not look up each entry when a worktree is started.
//!
//! * All subvolume snapshots of a ready tree (btrfs) have the same inode numbers and times. So one
//!   index is right for all worktrees of it. The store keeps that index beside the ready tree: the
//!   one that the first linked worktree got, or one that was made in the background. It keeps the
//!   indexes of the latest two trees; the collector removes those of snapshots that nobody needs.
//!   An index records the hash of its tree's seal, so it does not serve for a tree that was made
//!   anew.
//! * A tree that [waits](super::folders) elsewhere has inodes of its own. Its index is made with
//!   it, and is in its folder.
//!
//! If a tree is brought to another snapshot when it is handed over, its index still serves: the
//! files that are replaced have other inodes and change times. It does not serve if one of them has
//! the same size and the same second as before, because some users let git compare nothing else.
//!
//! Each is of use as long as the project's index is the one of which it was made. Even a wrong one
//! would do no harm: git reads a file of which the index records another stat.
//!
//! An index ends with the checksum of all its bytes. So calve need not read the project's index to
//! know whether it is the same. The kept one is compared with its hash, and a worktree's index
//! shares its blocks.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem;
use rustix::fs::{self, Mode};

use super::super::Store;
use super::super::files::{listed_at, open_plain, read_plain};
use super::super::git;
use super::super::id::SnapshotId;
use super::super::index::Index;
use super::super::layout::READY_GIT_INDEX;
use super::super::manifest::{Manifest, NO_ID};
use super::super::object::{Entry, Kind};
use super::vouched::{KnownWorktree, Snapshots, length};
use super::{SnapshotTree, seal};
use crate::reflink::imp::NEW_FILE_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::tree::git_index::{TreeAndClone, make_bytes_ready};
use crate::tree::running::Running;
use crate::tree::staging::write_whole;

/// The first bytes of a file.
const MAGIC: &[u8; 16] = b"calve git index\n";
const HASH_BYTES: usize = 32;
/// The magic, what the tree is known by, what identifies the project's index, the hash of the
/// index, and the number of entries.
const HEADER_BYTES: usize = MAGIC.len() + HASH_BYTES + SUM_BYTES + HASH_BYTES + 8;
/// The index begins here, since only whole blocks can be cloned. If a filesystem has larger blocks,
/// the index is copied.
const FRONT_BYTES: usize = 4096;
const INDEX_AT: u64 = FRONT_BYTES as u64;
/// The size of an index and the last bytes of its checksum.
const SUM_BYTES: usize = 8 + CHECKSUM_BYTES;
/// A SHA-1; of a SHA-256 the second part.
const CHECKSUM_BYTES: usize = 20;
/// The largest index that is kept.
const MOST_BYTES: u64 = 512 * 1024 * 1024;
/// How many indexes of other ready trees the store keeps beside the one that it made last: one, for
/// starts from two snapshots in turns. Each takes the disk space of git's index, about 100 bytes
/// for each tracked file.
const OTHERS_MOST: usize = 1;
/// How much of a kept index is in memory at a time.
const PART_BYTES: usize = 1024 * 1024;

/// What identifies an index of git without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sum([u8; SUM_BYTES]);

impl Sum {
    /// `None` if the index has no checksum (`index.skipHash`).
    pub(crate) fn of(index: &[u8]) -> Option<Self> {
        let checksum = index.get(index.len().checked_sub(CHECKSUM_BYTES)?..)?;
        Self::new(index.len() as u64, checksum)
    }

    /// The same for a file.
    fn of_file(path: &Path) -> io::Result<Option<Self>> {
        let (file, length) = open_plain(fs::CWD, path, MOST_BYTES)?;
        let Some(before) = length.checked_sub(CHECKSUM_BYTES as u64) else { return Ok(None) };
        let mut checksum = [0; CHECKSUM_BYTES];
        file.read_exact_at(&mut checksum, before)?;
        Ok(Self::new(length, &checksum))
    }

    fn new(length: u64, checksum: &[u8]) -> Option<Self> {
        let mut sum = [0; SUM_BYTES];
        sum[..8].copy_from_slice(&length.to_le_bytes());
        sum[8..].copy_from_slice(checksum);
        checksum.iter().any(|byte| *byte != 0).then_some(Self(sum))
    }
}

/// Whether an index may have the extension of a file monitor, which was told about the project's
/// files.
pub(crate) fn has_monitor(index: &[u8]) -> bool {
    memmem::find(index, b"FSMN").is_some()
}

/// git's index that is kept with a ready tree.
pub(crate) struct KeptGitIndex {
    file: File,
    tree: [u8; HASH_BYTES],
}

impl KeptGitIndex {
    /// The index in the folder of a tree that waited.
    pub(super) fn in_folder(folder: &OwnedFd) -> Option<Self> {
        Self::open(folder, Path::new(READY_GIT_INDEX), WAITED)
    }

    fn open(dir: impl AsFd, path: &Path, tree: [u8; HASH_BYTES]) -> Option<Self> {
        let most = MOST_BYTES + INDEX_AT;
        open_plain(dir, path, most).ok().map(|(file, _)| Self { file, tree })
    }

    /// Gives a new worktree its index, at `to`, if the project's index is the one that this one was
    /// made of. Returns how many entries record files of the worktree. `None`: nothing was given.
    pub(crate) fn give(&self, of_project: &Path, to: &Path) -> Option<u64> {
        let give = || -> io::Result<Option<u64>> {
            let Some(of_project) = Sum::of_file(of_project)? else { return Ok(None) };
            // This recognizes most stale indexes without reading them.
            let Some((hash, entries)) = self.is_of(&of_project)? else { return Ok(None) };
            if *self.hash()?.as_bytes() != hash {
                return Ok(None);
            }
            let _ = std::fs::remove_file(to);
            // It is newer than all files that it records.
            let new = fs::open(to, NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
            if sys::clone_range(&self.file, INDEX_AT, 0, &new, 0).is_err() {
                let mut new = File::from(new);
                self.each_part(|part| io::Write::write_all(&mut new, part))?;
            }
            Ok(Some(entries))
        };
        give().ok().flatten()
    }

    /// The hash that the index must have, and the number of its entries, if it is of that tree and
    /// of this index of the project.
    fn is_of(&self, of_project: &Sum) -> io::Result<Option<([u8; HASH_BYTES], u64)>> {
        let mut found = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut found, 0)?;
        let made_of = [MAGIC.as_slice(), &self.tree, &of_project.0].concat();
        let rest = found.strip_prefix(made_of.as_slice());
        Ok(rest.and_then(|rest| {
            let (hash, entries) = rest.split_first_chunk()?;
            Some((*hash, u64::from_le_bytes(*entries.first_chunk()?)))
        }))
    }

    fn hash(&self) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        self.each_part(|part| {
            hasher.update(part);
            Ok(())
        })?;
        Ok(hasher.finalize())
    }

    fn each_part(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let (mut part, mut at) = (vec![0; PART_BYTES], INDEX_AT);
        loop {
            match self.file.read_at(&mut part, at) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    each(&part[..read])?;
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Where git's index for worktrees of a ready tree is kept, on btrfs.
pub(crate) struct ReadyGitIndex<'a> {
    store: &'a Store,
    id: SnapshotId,
    seal: blake3::Hash,
}

impl<'a> ReadyGitIndex<'a> {
    /// `None` if there is no ready tree. The caller has just made a worktree of it.
    pub(crate) fn of(store: &'a Store, id: SnapshotId) -> Option<Self> {
        let seal = read_plain(fs::CWD, &store.layout().ready_seal(id), seal::MOST_BYTES).ok()?;
        Some(Self { store, id, seal: blake3::hash(&seal) })
    }

    /// The index that is kept now.
    pub(crate) fn kept(&self) -> Option<KeptGitIndex> {
        let path = self.store.layout().ready_git_index(self.id);
        KeptGitIndex::open(fs::CWD, &path, *self.seal.as_bytes())
    }

    /// Keeps the index that a new worktree got in the place of the project's. If that fails, the
    /// next worktree gets its index as this one did.
    pub(crate) fn keep(&self, of_project: &Sum, made: &Path, ready_entries: u64) {
        let keep = || -> io::Result<()> {
            let mut bytes = with_front(made)?;
            finish(&mut bytes, self.seal.as_bytes(), of_project, ready_entries);
            self.write(&bytes)
        };
        let _ = keep();
    }

    /// Makes the index of the ready tree, unless the one that is kept is of the project's index as
    /// it is now. If that fails, a worktree gets its index at its start. `index` is calve's index
    /// of the tree.
    pub(super) fn make(
        &self,
        tree: &OwnedFd,
        target: &SnapshotTree<'_>,
        index: &Index,
        operation: &Running,
    ) {
        let make = || -> Option<()> {
            let sum = Sum::of_file(&of_project(self.store)?).ok()??;
            if self.kept().is_some_and(|kept| kept.is_of(&sum).is_ok_and(|it| it.is_some())) {
                return None;
            }
            let known_by = *self.seal.as_bytes();
            let bytes = for_tree(self.store, (tree, known_by), target, index, operation)?;
            self.write(&bytes).ok()
        };
        let _ = make();
    }

    /// Writes the index, and removes those of other trees: of trees that are gone, and all but the
    /// latest of the rest. Another process may remove them at the same time.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let layout = self.store.layout();
        let path = layout.ready_git_index(self.id);
        write_whole(&layout.stage(), &path, bytes)?;
        let mut others = Vec::new();
        for (name, _) in listed_at(&layout.ready_trees())? {
            let other = layout.ready_trees().join(name);
            if other.extension() != path.extension() || other == path {
                continue;
            }
            let Ok(written) = std::fs::symlink_metadata(&other).and_then(|it| it.modified()) else {
                continue;
            };
            let has_tree = std::fs::symlink_metadata(other.with_extension("seal")).is_ok();
            others.push((has_tree.then_some(written), other));
        }
        others.sort_unstable_by(|a, b| b.cmp(a));
        let kept = others.iter().take_while(|(written, _)| written.is_some());
        let kept = kept.count().min(OTHERS_MOST);
        for (_, other) in others.drain(kept..) {
            let _ = std::fs::remove_file(other);
        }
        Ok(())
    }
}

/// A tree that waits and its index have one folder, so neither is known by anything else.
const WAITED: [u8; HASH_BYTES] = [0; HASH_BYTES];

/// Keeps git's index for a tree that will wait, in its folder. If that fails, a start makes its
/// index itself. `index` is calve's index of the tree.
pub(super) fn keep_with(
    store: &Store,
    (folder, tree): (&Path, &OwnedFd),
    target: &SnapshotTree<'_>,
    index: &Index,
    operation: &Running,
) {
    if let Some(bytes) = for_tree(store, (tree, WAITED), target, index, operation) {
        let _ = write_whole(folder, &folder.join(READY_GIT_INDEX), &bytes);
    }
}

/// The path of the project's own index.
fn of_project(store: &Store) -> Option<PathBuf> {
    Some(git::read(&store.project().ok()?).ok()??.git_dir.join("index"))
}

/// git's index for a tree, with its header. `known_by` identifies the tree. `None` if the project
/// has no index that calve understands, or one with the notes of a file monitor, which only git
/// removes.
fn for_tree(
    store: &Store,
    (tree, known_by): (&OwnedFd, [u8; HASH_BYTES]),
    target: &SnapshotTree<'_>,
    index: &Index,
    operation: &Running,
) -> Option<Vec<u8>> {
    let of_project = of_project(store)?;
    // Before the content: an entry that is not older than its index is not trusted.
    let written = Meta::of(&fs::lstat(&of_project).ok()?).modified();
    let mut bytes = with_front(&of_project).ok()?;
    let made = &mut bytes[FRONT_BYTES..];
    let sum = Sum::of(made).filter(|_| !has_monitor(made))?;
    let snapshots = Snapshots::of(
        crate::store::PROJECT,
        store,
        (target.id, target.object),
        &[target.manifest().ok()?],
    )
    .ok()??;
    let known = KnownWorktree::with(&snapshots, index);
    let (source, before_walk) = known.source();
    let trees = TreeAndClone {
        source,
        clone: tree,
        stage: None,
        before_walk,
        merged_since: None,
        jobs: operation.jobs(),
        stopped: &|| operation.is_cancelled(),
    };
    // An index without such an entry is of no use, and would keep others from being made.
    let entries =
        make_bytes_ready(&trees, made, written, Path::new("")).filter(|entries| *entries > 0)?;
    finish(&mut bytes, &known_by, &sum, entries);
    Some(bytes)
}

/// Whether git tells the files of two trees apart by size and time, where their contents differ:
/// with `core.checkStat=minimal` it looks at nothing else. An index that was made for a tree that
/// has been brought to another one must not call a file unchanged that has another content.
pub(super) fn tells_apart(from: &Manifest, to: &Manifest) -> bool {
    let is_alike = |from: &Entry, to: &Entry| {
        !from.same_content(to) && from.mtime.0 == to.mtime.0 && length(from) == length(to)
    };
    let mut folders = vec![(0, 0)];
    while let Some((a, b)) = folders.pop() {
        let (a, b) = (&from.directories[a as usize], &to.directories[b as usize]);
        for (slot, entry) in (0..).zip(&b.entries) {
            let Some(other) = a.find(&entry.name) else { continue };
            let from = &a.entries[other as usize];
            if is_alike(from, entry) {
                return false;
            }
            // Most folders have nothing new in them.
            if !matches!(entry.kind, Kind::Directory(id) if id != NO_ID && from.kind == entry.kind)
            {
                folders.extend(a.child(other).zip(b.child(slot)));
            }
        }
    }
    true
}

/// An index of git behind room for the header.
fn with_front(index: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; FRONT_BYTES];
    bytes.append(&mut read_plain(fs::CWD, index, MOST_BYTES)?);
    Ok(bytes)
}

/// Writes the header of the index that is behind it.
fn finish(bytes: &mut [u8], tree: &[u8; HASH_BYTES], of_project: &Sum, ready_entries: u64) {
    let (front, index) = bytes.split_at_mut(FRONT_BYTES);
    let hash = blake3::hash(index);
    let entries = ready_entries.to_le_bytes();
    let header = [MAGIC.as_slice(), tree, &of_project.0, hash.as_bytes(), &entries].concat();
    front[..HEADER_BYTES].copy_from_slice(&header);
}

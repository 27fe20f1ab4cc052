//! git's index of a ready tree, which records the ready tree's files.
//!
//! All subvolume snapshots of a ready tree have the same inode numbers and times. So what the first
//! linked worktree gets as its index is right for all later ones, as long as the project's index is
//! the same. calve need not look at the entries again.
//!
//! The index is in the store beside the ready tree. It goes with it: whoever keeps another one removes
//! those without a tree, and the collector those of snapshots that nobody needs.
//!
//! The file says of which index it was made. It also has the seal of its tree, so the index of a tree that
//! was made anew is never that of the tree before. Even that one would do no harm: git reads a file
//! of which the index records another stat.

use std::io;
use std::path::Path;

use rustix::fs;

use crate::store::Store;
use crate::store::files::{listed_at, read_plain};
use crate::store::id::SnapshotId;
use crate::tree::staging::write_whole;

/// What a file begins with.
const MAGIC: &[u8; 16] = b"calve git index\n";
const HASH_BYTES: usize = 32;
/// The magic, two hashes, and the number of entries.
const HEADER_BYTES: usize = MAGIC.len() + 2 * HASH_BYTES + 8;
/// A seal has two numbers and a few characters.
const SEAL_MOST_BYTES: u64 = 4096;
/// The largest file that is read.
const MOST_BYTES: u64 = 512 * 1024 * 1024;

/// Where git's index for worktrees of a ready tree is kept.
pub(super) struct ReadyGitIndex<'a> {
    store: &'a Store,
    id: SnapshotId,
    seal: Vec<u8>,
}

/// An index for a new worktree.
pub(super) struct KeptIndex {
    pub(super) bytes: Vec<u8>,
    /// How many of its entries record files of the worktree.
    pub(super) ready_entries: u64,
}

impl<'a> ReadyGitIndex<'a> {
    /// `None` if there is no ready tree. The caller has just made a worktree of it.
    pub(super) fn of(store: &'a Store, id: SnapshotId) -> Option<Self> {
        let seal = read_plain(fs::CWD, &store.layout().ready_seal(id), SEAL_MOST_BYTES).ok()?;
        Some(Self { store, id, seal })
    }

    /// What a worktree gets in the place of the project's index.
    pub(super) fn get(&self, of_project: &[u8]) -> Option<KeptIndex> {
        let path = self.store.layout().ready_git_index(self.id);
        let mut bytes = read_plain(fs::CWD, &path, MOST_BYTES).ok()?;
        let (header, index) = bytes.split_at_checked(HEADER_BYTES)?;
        let ready_entries = u64::from_le_bytes(header[HEADER_BYTES - 8..].try_into().ok()?);
        if header != self.header(of_project, index, ready_entries) {
            return None;
        }
        bytes.drain(..HEADER_BYTES);
        Some(KeptIndex { bytes, ready_entries })
    }

    /// Keeps the index that a new worktree got in the place of the project's. If that fails, the
    /// next worktree gets its index as this one did.
    pub(super) fn keep(&self, of_project: &[u8], made: &Path, ready_entries: u64) {
        let keep = || -> io::Result<()> {
            let made = read_plain(fs::CWD, made, MOST_BYTES)?;
            let mut bytes = self.header(of_project, &made, ready_entries);
            bytes.extend_from_slice(&made);
            let layout = self.store.layout();
            let path = layout.ready_git_index(self.id);
            for (name, _) in listed_at(&layout.ready_trees())? {
                let other = layout.ready_trees().join(name);
                if other.extension() == path.extension()
                    && std::fs::symlink_metadata(other.with_extension("seal")).is_err()
                {
                    std::fs::remove_file(other)?;
                }
            }
            write_whole(&layout.stage(), &path, &bytes)
        };
        let _ = keep();
    }

    fn header(&self, of_project: &[u8], made: &[u8], ready_entries: u64) -> Vec<u8> {
        let mut source = blake3::Hasher::new();
        source.update(&(self.seal.len() as u64).to_le_bytes()).update(&self.seal);
        source.update(of_project);
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(source.finalize().as_bytes());
        header.extend_from_slice(blake3::hash(made).as_bytes());
        header.extend_from_slice(&ready_entries.to_le_bytes());
        header
    }
}

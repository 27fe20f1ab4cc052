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
//!
//! An index ends with the checksum of all its bytes. So calve need not read the project's index to know
//! whether it is the same. The kept one is compared with its hash, and a worktree's index shares its blocks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};

use crate::reflink::imp::NEW_FILE_FLAGS;
use crate::reflink::sys;
use crate::store::Store;
use crate::store::files::{listed_at, read_plain};
use crate::store::id::SnapshotId;
use crate::tree::staging::write_whole;

/// What a file begins with.
const MAGIC: &[u8; 16] = b"calve git index\n";
const HASH_BYTES: usize = 32;
/// The magic, the hash of the seal, what identifies the project's index, the hash of the index, and the
/// number of entries.
const HEADER_BYTES: usize = MAGIC.len() + HASH_BYTES + SUM_BYTES + HASH_BYTES + 8;
/// The index begins here, since only whole blocks can be cloned. If a filesystem has larger blocks, the
/// index is copied.
const FRONT_BYTES: usize = 4096;
const INDEX_AT: u64 = FRONT_BYTES as u64;
/// The size of an index and the last bytes of its checksum.
const SUM_BYTES: usize = 8 + CHECKSUM_BYTES;
/// A SHA-1; of a SHA-256 the second part.
const CHECKSUM_BYTES: usize = 20;
/// A seal has two numbers and a few characters.
const SEAL_MOST_BYTES: u64 = 4096;
/// The largest index that is kept.
const MOST_BYTES: u64 = 512 * 1024 * 1024;

/// What identifies an index of git without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum([u8; SUM_BYTES]);

impl Sum {
    /// `None` if the index has no checksum (`index.skipHash`).
    pub(super) fn of(index: &[u8]) -> Option<Self> {
        let checksum = index.get(index.len().checked_sub(CHECKSUM_BYTES)?..)?;
        Self::new(index.len() as u64, checksum)
    }

    /// The same for a file.
    fn of_file(file: &File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
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

/// Where git's index for worktrees of a ready tree is kept.
pub(super) struct ReadyGitIndex<'a> {
    store: &'a Store,
    id: SnapshotId,
    seal: Vec<u8>,
}

impl<'a> ReadyGitIndex<'a> {
    /// `None` if there is no ready tree. The caller has just made a worktree of it.
    pub(super) fn of(store: &'a Store, id: SnapshotId) -> Option<Self> {
        let seal = read_plain(fs::CWD, &store.layout().ready_seal(id), SEAL_MOST_BYTES).ok()?;
        Some(Self { store, id, seal })
    }

    /// Gives a new worktree its index, at `to`, if the project's index is the one that the kept one was
    /// made of. Returns how many entries record files of the worktree. `None`: nothing was given.
    pub(super) fn give(&self, of_project: &Path, to: &Path) -> Option<u64> {
        let give = || -> io::Result<Option<u64>> {
            let Some(of_project) = Sum::of_file(&open(of_project)?)? else { return Ok(None) };
            let path = self.store.layout().ready_git_index(self.id);
            let kept = open(&path)?;
            let length = kept.metadata()?.len();
            if !(INDEX_AT..=MOST_BYTES).contains(&length) {
                return Ok(None);
            }
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            kept.read_exact_at(&mut bytes, 0)?;
            let (front, index) = bytes.split_at(FRONT_BYTES);
            let header = &front[..HEADER_BYTES];
            let entries = header.last_chunk().copied().map_or(0, u64::from_le_bytes);
            if header != self.header(&of_project, index, entries) {
                return Ok(None);
            }
            let _ = std::fs::remove_file(to);
            // It is newer than all files that it records.
            let file = fs::open(to, NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
            if sys::clone_range(&kept, INDEX_AT, 0, &file, 0).is_err() {
                File::from(file).write_all_at(index, 0)?;
            }
            Ok(Some(entries))
        };
        give().ok().flatten()
    }

    /// Keeps the index that a new worktree got in the place of the project's. If that fails, the
    /// next worktree gets its index as this one did.
    pub(super) fn keep(&self, of_project: &Sum, made: &Path, ready_entries: u64) {
        let keep = || -> io::Result<()> {
            let made = read_plain(fs::CWD, made, MOST_BYTES)?;
            let mut bytes = self.header(of_project, &made, ready_entries);
            bytes.resize(FRONT_BYTES, 0);
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

    fn header(&self, of_project: &Sum, made: &[u8], ready_entries: u64) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(blake3::hash(&self.seal).as_bytes());
        header.extend_from_slice(&of_project.0);
        header.extend_from_slice(blake3::hash(made).as_bytes());
        header.extend_from_slice(&ready_entries.to_le_bytes());
        header
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(fs::open(path, flags, Mode::empty())?.into())
}

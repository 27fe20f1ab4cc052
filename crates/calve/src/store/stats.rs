//! Counts what a store holds.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use super::Store;
use super::files::listed_at;
use crate::error::{Context as _, Error, Operation};

/// The counts of [`Store::stats`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Number of snapshots, and of names that were given to them.
    pub snapshots: u64,
    /// See `snapshots`.
    pub names: u64,
    /// Number of worktrees. The project is not counted.
    pub worktrees: u64,
    /// Number of contents, and the sum of their sizes. A content counts once, whether it has a
    /// mirror, is packed, or both.
    pub blobs: u64,
    /// See `blobs`.
    pub blob_bytes: u64,
    /// Number of contents that have a mirror to clone from, and the sum of their sizes. Mirrors may
    /// take less space than this, because they share blocks with the files that they were cloned
    /// from.
    pub mirrors: u64,
    /// See `mirrors`.
    pub mirror_bytes: u64,
    /// Number of packed contents, and the sum of their sizes before compression.
    pub packed_blobs: u64,
    /// See `packed_blobs`.
    pub packed_bytes: u64,
    /// Number of packs, and the sum of their sizes.
    pub packs: u64,
    /// See `packs`.
    pub pack_bytes: u64,
    /// Number of directory objects.
    pub directories: u64,
    /// Size of the database, including its log.
    pub database_bytes: u64,
    /// Size of the worktrees' indexes.
    pub index_bytes: u64,
    /// Number of ready trees. On btrfs they share their blocks with the worktrees. Elsewhere each
    /// takes as much as a worktree.
    pub ready_trees: u64,
    /// Number of entries in the trash, which wait to be deleted.
    pub trash_entries: u64,
}

/// See [`Store::stats`].
pub(super) fn count(store: &Store) -> Result<StoreStats, Error> {
    let counts = store.catalog().counts()?;
    let mut stats = StoreStats {
        snapshots: counts.snapshots,
        names: counts.names,
        worktrees: counts.worktrees,
        directories: counts.directories,
        packs: counts.packs,
        ..StoreStats::default()
    };
    let mut packed = HashSet::new();
    store.catalog().each_packed(|id, _, at| {
        packed.insert(id);
        stats.packed_bytes = stats.packed_bytes.saturating_add(at.size);
    })?;
    stats.packed_blobs = packed.len() as u64;
    (stats.blobs, stats.blob_bytes) = (stats.packed_blobs, stats.packed_bytes);
    store
        .blobs()
        .for_each(|id, meta| {
            stats.mirrors += 1;
            stats.mirror_bytes = stats.mirror_bytes.saturating_add(meta.size);
            if !packed.contains(&id) {
                stats.blobs += 1;
                stats.blob_bytes = stats.blob_bytes.saturating_add(meta.size);
            }
        })
        .context(Operation::Read, || store.layout().blobs())?;
    for path in [store.layout().database(), store.layout().database_log()] {
        stats.database_bytes += std::fs::metadata(path).map_or(0, |meta| meta.len());
    }
    let folder = |path: PathBuf| sizes(&path).context(Operation::Read, || path);
    (_, stats.pack_bytes) = folder(store.layout().packs())?;
    (_, stats.index_bytes) = folder(store.layout().indexes())?;
    stats.ready_trees = store.ready().count();
    (stats.trash_entries, _) = folder(store.layout().trash())?;
    Ok(stats)
}

/// The number of entries in a folder, and the sum of their sizes.
fn sizes(path: &Path) -> io::Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0_u64);
    for (name, _) in listed_at(path)? {
        match std::fs::symlink_metadata(path.join(name)) {
            Ok(meta) => {
                count += 1;
                bytes = bytes.saturating_add(meta.len());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((count, bytes))
}

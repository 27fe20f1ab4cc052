//! Adds a snapshot to the store. No other code does, wherever the tree came from: a scan, a clone
//! that was named later, a small tree over another one, a remote.
//!
//! # In which order
//! A snapshot is there once it has its row. Whatever the row promises is in its place before, and
//! what must survive a crash is on the disk:
//!
//! 1. The contents: one flush of the filesystem for all of them, then the seals of the mirrors that
//!    were copied.
//! 2. The features of the format. A calve that does not know one must not see the row.
//! 3. The list of files that name the project's root. A start looks for it as soon as there is the
//!    row. Without the list it searches for the root of *this* project, and finds nothing in a
//!    snapshot of another machine. The [collector](super::super::gc) removes lists without a row
//!    only while no other process shares the store, so the list stays until the row is there.
//! 4. The indexes of worktrees that have no base snapshot yet. They have no other index that would
//!    be lost, and whoever sees the row may look at the worktree at once.
//! 5. The row, the directories, the name, and the worktrees' new base: one transaction. It is on
//!    the disk when it returns.
//! 6. The indexes of worktrees that had a base. Until the row is there, the old ones serve.
//!
//! If the process dies or fails before 5, there is no snapshot. Contents and a list without a row
//! are left, which the collector removes, and indexes that name no snapshot, which nobody uses. If
//! the process dies after 5, an index may be missing. Then the next look at that worktree reads
//! more.

use std::collections::HashSet;

use super::super::Store;
use super::super::catalog::{Based, NewSnapshot, Origin};
use super::super::files::{listed_at, make_folder};
use super::super::id::{BlobId, SnapshotId, from_hex};
use super::super::index::Index;
use super::super::manifest::Manifest;
use super::super::paths::found::Found;
use crate::error::{Context as _, Error, Operation};
use crate::tree::staging::write_whole;

/// The snapshots of a store, as far as they are added and forgotten.
pub(crate) struct RecordedSnapshots<'a> {
    pub(in super::super) store: &'a Store,
}

/// A snapshot that is to be added.
pub(crate) struct Recording<'a> {
    /// The encoding of its object.
    pub(crate) encoding: &'a [u8],
    /// Its tree, and the places in it of the directories that the database may not have yet.
    /// `None`: the database has them all.
    pub(crate) tree: Option<(&'a Manifest, &'a [u32])>,
    /// The mirrors that are to be sealed, after a flush of all contents. `None`: no content is new.
    pub(crate) arrived: Option<&'a [BlobId]>,
    /// `None`: nobody knows which files name the project's root.
    pub(crate) found: Option<FoundList<'a>>,
    /// The indexes of worktrees that are based on the snapshot from now on. They name it.
    pub(crate) indexes: &'a [NewIndex<'a>],
    pub(crate) based: Based<'a>,
    /// The name that the snapshot gets. If another snapshot has that name, it loses it.
    pub(crate) name: Option<&'a str>,
    pub(crate) origin: &'a Origin,
}

/// The files of a snapshot that name the project's root.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FoundList<'a> {
    /// They name the root of this project. If the list cannot be written, calve looks again for the
    /// next worktree.
    Here(&'a Found),
    /// They name a root of another machine, which nobody can find here. Without the list the
    /// snapshot is not recorded.
    #[cfg(feature = "remote")]
    Told(&'a Found),
}

/// The index of a worktree that is based on a new snapshot.
pub(crate) struct NewIndex<'a> {
    /// The worktree's token.
    pub(crate) token: &'a str,
    pub(crate) index: &'a Index,
    /// Whether the worktree has a base snapshot, and so an index of that.
    pub(crate) has_base: bool,
}

impl Store {
    /// Adds and forgets snapshots.
    pub(crate) fn snapshots(&self) -> RecordedSnapshots<'_> {
        RecordedSnapshots { store: self }
    }
}

impl RecordedSnapshots<'_> {
    /// Adds a snapshot, and returns its id. The caller has shared the store since before its first
    /// content was taken in.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. There is no such snapshot then, and what the module
    /// names is left.
    pub(crate) fn record(&self, new: &Recording<'_>) -> Result<SnapshotId, Error> {
        let store = self.store;
        let id = SnapshotId::of(new.encoding);
        if let Some(unsealed) = new.arrived {
            store.contents().flush(unsealed)?;
        }
        match new.found {
            None => {}
            Some(FoundList::Here(found)) => self.keep_found(id, found),
            #[cfg(feature = "remote")]
            Some(FoundList::Told(found)) => self.write_found(id, found)?,
        }
        self.write_indexes(new, false);
        let Recording { encoding, tree, based, name, origin, .. } = *new;
        store.catalog().add_snapshot(&NewSnapshot { encoding, tree, based, name, origin })?;
        self.write_indexes(new, true);
        Ok(id)
    }

    /// Writes the indexes of the worktrees that had a base, or of those that had none. Without one
    /// the next look at the worktree reads everything.
    fn write_indexes(&self, new: &Recording<'_>, have_base: bool) {
        for one in new.indexes.iter().filter(|one| one.has_base == have_base) {
            let _ = self.store.registry().write_index(one.token, one.index);
        }
    }

    fn write_found(&self, id: SnapshotId, found: &Found) -> Result<(), Error> {
        let layout = self.store.layout();
        let (folder, path) = (layout.all_found(), layout.found(id));
        make_folder(&folder).context(Operation::MakeFolder, || &folder)?;
        let written = write_whole(&layout.stage(), &path, &found.encode());
        written.context(Operation::Write, || path)
    }

    /// Writes down what calve found in this project. If this fails, calve looks again for the next
    /// worktree.
    pub(crate) fn keep_found(&self, id: SnapshotId, found: &Found) {
        let _ = self.write_found(id, found);
    }

    /// Removes the lists of files that name the project, of snapshots that the store has forgotten.
    /// The caller has the store for itself: a list is written before its row.
    pub(crate) fn drop_found(&self) -> Result<(), Error> {
        let folder = self.store.layout().all_found();
        let names = listed_at(&folder).context(Operation::ReadDirectory, || &folder)?;
        let ids: HashSet<SnapshotId> = self.store.catalog().snapshot_ids()?.into_iter().collect();
        for (name, _) in names {
            let id = name.to_str().and_then(from_hex).map(SnapshotId::from_bytes);
            if id.is_some_and(|id| !ids.contains(&id)) {
                let _ = std::fs::remove_file(folder.join(&name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {

    use super::super::super::{PROJECT, SnapshotOptions, Store, StoreOptions};

    /// What a crash or an error between the steps leaves: the database refuses the row.
    #[test]
    fn a_snapshot_whose_row_is_refused_is_not_there_and_the_base_keeps_its_index() {
        let project = tempfile::tempdir().unwrap();
        std::fs::write(project.path().join("file"), "content").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let store = Store::init(project.path()).unwrap();
        let take = || store.snapshot(&SnapshotOptions::new(), &StoreOptions::new());
        let first = take().unwrap().id;
        let index = |store: &Store| {
            let row = store.catalog().worktree(PROJECT).unwrap().unwrap();
            let manifest =
                store.catalog().manifest(first, &store.catalog().object(first).unwrap()).unwrap();
            store.registry().index(&row.token, first, &manifest)
        };
        let (before, lists) = (index(&store).unwrap(), store.layout().all_found());
        let count = |folder: &std::path::Path| std::fs::read_dir(folder).map_or(0, Iterator::count);
        let had = count(&lists);
        let database = rusqlite::Connection::open(store.layout().database()).unwrap();
        let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON snapshots
            BEGIN SELECT RAISE(ABORT, 'refused'); END";
        database.execute_batch(refuse).unwrap();
        std::fs::write(project.path().join("other"), "more").unwrap();
        take().unwrap_err();
        assert_eq!(store.latest().unwrap(), Some(first));
        assert_eq!(index(&store), Some(before));
        assert_eq!(count(&lists), had + 1, "the list is in its place before the row");
        store.snapshots().drop_found().unwrap();
        assert_eq!(count(&lists), had, "the collector removes the list of no snapshot");
        database.execute_batch("DROP TRIGGER refuse").unwrap();
        let second = take().unwrap();
        assert!(second.new && second.files == 2);
    }
}

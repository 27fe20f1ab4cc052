//! Says which files of the project have the content of a worktree's file, as far as the store knows
//! without looking at the files.
//!
//! An index of git records the stat of each file whose content it names. The store's index of the
//! project records inode number and change time of each file whose content it names. No program can
//! set a change time. So if both indexes record the same values, both mean the same content,
//! whatever happened to the file since. If the worktree's snapshot has this content at the path,
//! git's entry may record the worktree's file.
//!
//! The store's index has rules of its own (its *stamp*, its boot); see
//! [`index`](super::super::index).

use std::borrow::Cow;

use super::super::Store;
use super::super::catalog::WorktreeRow;
use super::super::id::SnapshotId;
use super::super::index::{Boot, Index, Stat};
use super::super::manifest::Manifest;
use super::super::materialize::wanted;
use super::super::metadata::only_owner;
use super::super::object::{Entry, Kind, SnapshotObject};
use crate::error::Error;
use crate::reflink::meta::Meta;
use crate::tree::git_index::{Folder, Source, Vouched, Vouches};

/// The worktree's snapshot and the project's last snapshot.
pub(crate) struct Snapshots {
    /// The worktree's snapshot. `None` if it is the project's.
    made: Option<Manifest>,
    project: Manifest,
    index: Index,
}

impl Snapshots {
    /// `None` if the store knows nothing about the project's files. `like` are manifests in memory
    /// that may have much in common with these two. For a fork of a worktree, `source` names it in
    /// the place of the project.
    pub(crate) fn of(
        source: &str,
        store: &Store,
        (id, object): (SnapshotId, &SnapshotObject),
        like: &[&Manifest],
    ) -> Result<Option<Self>, Error> {
        let Some(row) = store.catalog().worktree(source)? else { return Ok(None) };
        let Some(project_id) = row.snapshot else { return Ok(None) };
        // Damage of the project's base snapshot does not affect the worktrees.
        let project = store
            .catalog()
            .object(project_id)
            .and_then(|object| store.catalog().manifest_like(project_id, &object, like));
        let Ok(project) = project else { return Ok(None) };
        let index = store.registry().index(&row.token, project_id, &project);
        let Some(index) = index.filter(|index| index.boot == Boot::this()) else { return Ok(None) };
        let made = match project_id == id {
            true => None,
            false => Some(store.catalog().manifest_like(id, object, like)?),
        };
        Ok(Some(Self { made, project, index }))
    }

    /// A file of the project that changed at this time or later is not vouched for.
    pub(crate) fn stamp(&self) -> (i64, i64) {
        (self.index.stamp.0, self.index.stamp.1.into())
    }

    fn made(&self) -> &Manifest {
        self.made.as_ref().unwrap_or(&self.project)
    }
}

impl Vouches for Snapshots {
    fn folder(&self, above: Folder, name: &[u8]) -> Option<Folder> {
        let source = self.project.child_of(above.source, name)?;
        Some(Folder { source, clone: self.made().child_of(above.clone, name)? })
    }

    fn file(&self, folder: Folder, name: &[u8]) -> Option<Vouched> {
        let in_project = self.project.directories.get(folder.source as usize)?;
        let in_made = self.made().directories.get(folder.clone as usize)?;
        let (slot, made) = (in_project.find(name)?, in_made.find(name)?);
        let stat = *self.index.stats.get((in_project.first + slot) as usize)?;
        let (project, made) = (&in_project.entries[slot as usize], &in_made.entries[made as usize]);
        let source = vouched(made, project, stat, self.index.stamp)?;
        Some(Vouched { modified: source.modified(), source })
    }
}

/// The same for one worktree whose tree has just been made: the store's index of it has the stats
/// of its files. On btrfs a look at each file of a new snapshot would read every inode from the
/// disk.
pub(crate) struct KnownWorktree<'a> {
    snapshots: &'a Snapshots,
    /// `None` if the store has no index of the worktree.
    index: Option<Cow<'a, Index>>,
    /// The owner and the group of the files that this process makes, if it cannot give them away.
    maker: Option<(u32, u32)>,
}

impl<'a> KnownWorktree<'a> {
    pub(crate) fn of(snapshots: &'a Snapshots, store: &Store, row: &WorktreeRow) -> Self {
        let id = row.snapshot.unwrap_or(snapshots.index.snapshot);
        let index = store.registry().index(&row.token, id, snapshots.made());
        Self::by(snapshots, index.map(Cow::Owned))
    }

    /// The same for a tree of which this is the index.
    pub(super) fn with(snapshots: &'a Snapshots, index: &'a Index) -> Self {
        Self::by(snapshots, Some(Cow::Borrowed(index)))
    }

    fn by(snapshots: &'a Snapshots, index: Option<Cow<'a, Index>>) -> Self {
        let index = index.filter(|index| index.boot == Boot::this());
        Self { snapshots, index, maker: only_owner() }
    }

    /// A source of entries for git's index, and the time before which they changed.
    pub(crate) fn source(&self) -> (Source<'_>, (i64, i64)) {
        (Source::Snapshot(self), self.snapshots.stamp())
    }
}

impl Vouches for KnownWorktree<'_> {
    fn folder(&self, above: Folder, name: &[u8]) -> Option<Folder> {
        self.snapshots.folder(above, name)
    }

    fn file(&self, folder: Folder, name: &[u8]) -> Option<Vouched> {
        self.snapshots.file(folder, name)
    }

    fn knows_clones(&self) -> bool {
        self.index.is_some()
    }

    /// If this were wrong, the entry of git's index would record another stat than the file has,
    /// and git would read the file.
    fn cloned(&self, folder: Folder, name: &[u8]) -> Option<Meta> {
        let (_, meta) = known_of((self.snapshots.made(), self.index.as_ref()?), folder, name)?;
        let is_as_wanted = self.maker.is_none_or(|maker| (meta.uid, meta.gid) == maker);
        is_as_wanted.then_some(meta)
    }
}

/// The stats of the files of a tree that was just cloned, and whose contents have no names yet. On
/// btrfs a look at each file of a new snapshot would read every inode from the disk.
pub(crate) struct Clones<'a> {
    /// Every entry, as it is in the tree.
    pub(crate) manifest: &'a Manifest,
    pub(crate) index: &'a Index,
}

impl Vouches for Clones<'_> {
    fn folder(&self, above: Folder, name: &[u8]) -> Option<Folder> {
        let clone = self.manifest.child_of(above.clone, name)?;
        Some(Folder { clone, ..above })
    }

    /// The source itself is looked at.
    fn file(&self, _: Folder, _: &[u8]) -> Option<Vouched> {
        None
    }

    fn knows_clones(&self) -> bool {
        true
    }

    /// If this were wrong, git would read the file, as with [`KnownWorktree`].
    fn cloned(&self, folder: Folder, name: &[u8]) -> Option<Meta> {
        let (stat, meta) = known_of((self.manifest, self.index), folder, name)?;
        (stat.changed < self.index.stamp).then_some(meta)
    }
}

/// What an index knows of the file of this name in a folder of the worktree.
fn known_of(
    (manifest, index): (&Manifest, &Index),
    folder: Folder,
    name: &[u8],
) -> Option<(Stat, Meta)> {
    let directory = manifest.directories.get(folder.clone as usize)?;
    let slot = directory.find(name)?;
    let stat = *index.stats.get((directory.first + slot) as usize)?;
    (stat.ino != 0).then_some((stat, with_stat(&directory.entries[slot as usize], stat)?))
}

/// The metadata of an entry's file, of which the store's index has the stat.
fn with_stat(entry: &Entry, stat: Stat) -> Option<Meta> {
    let mut meta = wanted(entry);
    (meta.size, meta.ino) = (length(entry)?, stat.ino);
    meta.changed = (stat.changed.0, stat.changed.1.into());
    Some(meta)
}

/// The metadata that the project's file had when it had the content of `made`, the worktree's
/// entry. `project` is the entry of the project's last snapshot; `stat` and `stamp` are from its
/// index.
fn vouched(made: &Entry, project: &Entry, stat: Stat, stamp: (i64, u32)) -> Option<Meta> {
    let vouches = made.same_content(project) && stat.changed < stamp;
    vouches.then(|| with_stat(project, stat)).flatten()
}

/// The size that a stat tells of a file or a symbolic link. `None` for anything else.
pub(crate) fn length(entry: &Entry) -> Option<u64> {
    match &entry.kind {
        Kind::File { size, .. } => Some(*size),
        Kind::Symlink { target, .. } => Some(target.len() as u64),
        Kind::Directory(_) | Kind::Fifo { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::id::BlobId;
    use super::super::super::manifest::NO_ID;
    use super::*;

    fn entry(kind: Kind) -> Entry {
        Entry {
            name: b"name"[..].into(),
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: (50, 6).into(),
            attributes: None,
            kind,
        }
    }

    fn file(content: &[u8]) -> Entry {
        entry(Kind::File { size: content.len() as u64, link: 0, blob: BlobId::of(content) })
    }

    fn link(target: &[u8]) -> Entry {
        entry(Kind::Symlink { target: target.into(), link: 0 })
    }

    #[test]
    fn a_file_is_vouched_for_if_it_had_the_content_when_it_had_that_change_time() {
        let stat = |seconds| Stat { ino: 7, changed: (seconds, 8) };
        let never = Stat { ino: 7, changed: (i64::MAX, 0) };
        let other_mode = Entry { mode: 0o755, mtime: (1, 1).into(), uid: 9, ..file(b"content") };
        for (what, made, project, stat, expected) in [
            ("the same", file(b"content"), file(b"content"), stat(60), true),
            ("a link", link(b"to"), link(b"to"), stat(60), true),
            ("empty", file(b""), file(b""), stat(60), true),
            // The metadata of the worktree's file is read from that file.
            ("other metadata", other_mode, file(b"content"), stat(60), true),
            (
                "another content of the same size",
                file(b"CONTENT"),
                file(b"content"),
                stat(60),
                false,
            ),
            ("another content", file(b"more content"), file(b"content"), stat(60), false),
            ("a link elsewhere", link(b"no"), link(b"to"), stat(60), false),
            ("a link that was a file", link(b"to"), file(b"to"), stat(60), false),
            ("a file that was a link", file(b"to"), link(b"to"), stat(60), false),
            (
                "a folder",
                entry(Kind::Directory(NO_ID)),
                entry(Kind::Directory(NO_ID)),
                stat(60),
                false,
            ),
            (
                "a FIFO",
                entry(Kind::Fifo { link: 0 }),
                entry(Kind::Fifo { link: 0 }),
                stat(60),
                false,
            ),
            (
                "it changed when the snapshot began",
                file(b"content"),
                file(b"content"),
                stat(100),
                false,
            ),
            ("it changed after that", file(b"content"), file(b"content"), stat(101), false),
            ("it may change without a trace", file(b"content"), file(b"content"), never, false),
        ] {
            let found = vouched(&made, &project, stat, (100, 8));
            assert_eq!(found.is_some(), expected, "{what}");
            if let Some(found) = found {
                assert_eq!((found.ino, found.changed, found.modified()), (7, (60, 8), (50, 6)));
                assert_eq!((found.uid, found.gid, found.permissions()), (1, 2, 0o644), "{what}");
            }
        }
    }
}

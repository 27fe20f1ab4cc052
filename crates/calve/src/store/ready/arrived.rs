//! Trees that arrive at a start, and the places beside which they do.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs;

use super::super::Store;
use super::super::files::{open_dir, parent_of};
use super::super::id::SnapshotId;
use super::super::index::Index;
use super::super::manifest::Manifest;
use super::super::object::SnapshotObject;
use super::git_index::KeptGitIndex;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::meta::{self, Meta};
use crate::reflink::sys;
use crate::report::{DestinationReport, Method};
use crate::tree::removal;
use crate::tree::staging::{self, Stage};

/// A snapshot and its tree, which is read from the database when it is first needed.
pub(crate) struct SnapshotTree<'a> {
    store: &'a Store,
    pub(crate) id: SnapshotId,
    pub(crate) object: &'a SnapshotObject,
    manifest: OnceCell<Manifest>,
}

impl<'a> SnapshotTree<'a> {
    /// `known` is the tree, if it is in memory already.
    pub(crate) fn new(
        store: &'a Store,
        (id, object): (SnapshotId, &'a SnapshotObject),
        known: Option<Manifest>,
    ) -> Self {
        Self { store, id, object, manifest: known.map(OnceCell::from).unwrap_or_default() }
    }

    pub(crate) fn manifest(&self) -> Result<&Manifest, Error> {
        if let Some(known) = self.manifest.get() {
            return Ok(known);
        }
        let read = self.store.catalog().manifest(self.id, self.object)?;
        Ok(self.manifest.get_or_init(|| read))
    }

    /// The tree, if it is in memory.
    pub(crate) fn known(&self) -> Option<&Manifest> {
        self.manifest.get()
    }

    /// Gives the tree away, if it is in memory. It is read again when it is needed again.
    pub(crate) fn take(&mut self) -> Option<Manifest> {
        self.manifest.take()
    }
}

/// A tree that has arrived under a stage's name, beside the place of its worktree. Every way in
/// which a tree is made ends with one.
pub(crate) struct Arrived {
    pub(crate) stage: Stage,
    pub(crate) report: DestinationReport,
    pub(crate) index: ArrivedIndex,
    pub(crate) git_index: ArrivedGitIndex,
}

impl Arrived {
    /// A tree that has no index yet.
    pub(crate) fn new(stage: Stage, report: DestinationReport) -> Self {
        Self { stage, report, index: ArrivedIndex::None, git_index: ArrivedGitIndex::None }
    }

    /// Gives the worktree that has this token the index of the tree.
    ///
    /// # Errors
    /// The index could not be written. A worktree without one is slower at its first look, but an
    /// index that cannot be written means that the store cannot be written to.
    pub(crate) fn give_index(&mut self, token: &str, tree: &SnapshotTree<'_>) -> Result<(), Error> {
        let registry = tree.store.registry();
        match std::mem::replace(&mut self.index, ArrivedIndex::None) {
            ArrivedIndex::None => Ok(()),
            ArrivedIndex::Made(index) => registry.write_index(token, &index),
            ArrivedIndex::OfReadyTree => {
                let path = || self.report.path.clone();
                registry.link_index(token, tree.id).context(Operation::Mark, path)
            }
            ArrivedIndex::InFolder(folder) => registry.take_index(token, folder.dir()),
        }
    }
}

/// The store's index of a tree that has arrived.
pub(crate) enum ArrivedIndex {
    /// There is none, or the store has it already.
    None,
    /// It is to be written.
    Made(Index),
    /// It is that of the ready tree of which the tree is a subvolume snapshot.
    OfReadyTree,
    /// It is in the folder in which the tree waited.
    InFolder(Stage),
}

/// git's index for a tree that has arrived, if one was kept.
pub(crate) enum ArrivedGitIndex {
    None,
    Kept(KeptGitIndex),
    /// The one that is kept with the ready tree, as soon as there is one.
    OfReadyTree,
}

impl From<Option<KeptGitIndex>> for ArrivedGitIndex {
    fn from(kept: Option<KeptGitIndex>) -> Self {
        kept.map_or(Self::None, Self::Kept)
    }
}

/// The path at which a worktree is made.
pub(crate) struct TreePlace {
    pub(crate) path: PathBuf,
    pub(crate) parent: PathBuf,
    /// All places in one folder share this descriptor.
    pub(crate) dir: Arc<OwnedFd>,
    name: CString,
    /// The mode of the empty directory that is at the path and will be replaced.
    pub(crate) empty: Option<fs::Mode>,
    /// The operation, for messages.
    operation: Operation,
}

impl TreePlace {
    /// Makes an empty stage beside the path.
    pub(crate) fn stage(&self) -> Result<Stage, Error> {
        Stage::empty(Arc::clone(&self.dir), &self.parent).context(Operation::Stage, || &self.path)
    }

    /// The report of a tree that is a subvolume snapshot.
    pub(crate) fn snapshot_report(&self) -> DestinationReport {
        let path = self.path.clone();
        DestinationReport { path, method: Method::Snapshot, ..DestinationReport::default() }
    }

    /// Makes a stage beside the path with `make`, which gets the folder and the stage's name.
    pub(crate) fn stage_by(
        &self,
        make: impl FnMut(&OwnedFd, &CStr) -> io::Result<()>,
    ) -> io::Result<Stage> {
        Stage::new(Arc::clone(&self.dir), &self.parent, make)
    }

    /// Makes a stage beside the path that is a snapshot of a subvolume.
    pub(crate) fn snapshot_of(&self, subvolume: &OwnedFd) -> io::Result<Stage> {
        self.stage_by(|dir, name| sys::snapshot(subvolume, dir, name))
    }
}

/// Opens the parent folders of the paths. At each path there must be nothing, or an empty
/// directory that another one can replace.
pub(crate) fn places(
    paths: impl Iterator<Item = PathBuf>,
    operation: Operation,
) -> Result<Vec<TreePlace>, Error> {
    let mut places: Vec<TreePlace> = Vec::new();
    for path in paths {
        let (parent, name) = parent_of(&path)?;
        let mut empty = None;
        if let Ok(found) = std::fs::symlink_metadata(&path) {
            let is_empty = |folder: &Path| {
                std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
            };
            if found.is_dir() && is_empty(&path) {
                check_replaceable(&path, &parent, operation)?;
                empty = Some(meta::mode(found.mode() & 0o7777));
            }
        }
        if empty.is_none() && std::fs::symlink_metadata(&path).is_ok() {
            let cause =
                io::Error::new(io::ErrorKind::AlreadyExists, "something exists there already");
            return Err(Error::new(ErrorKind::DestinationExists, operation, path, cause));
        }
        let dir = match places.last() {
            Some(last) if last.parent == parent => Arc::clone(&last.dir),
            _ => {
                let dir = open_dir(&parent)?;
                staging::sweep(&dir);
                Arc::new(dir)
            }
        };
        let name = CString::new(name.as_encoded_bytes())
            .map_err(|error| Error::io(operation, &path, io::Error::other(error)))?;
        places.push(TreePlace { path, parent, dir, name, empty, operation });
    }
    Ok(places)
}

/// Fails if a rename cannot put another directory in the place of this empty one: if something is
/// mounted there, or if it is a subvolume.
fn check_replaceable(path: &Path, parent: &Path, operation: Operation) -> Result<(), Error> {
    let failed = |error: io::Error| Error::io(operation, path, error);
    let dir = open_dir(path)?;
    let device = |fd: &OwnedFd| Ok(Meta::of_file(fd)?.dev);
    let why = if removal::mount_root(&dir) == Some(true) {
        "something is mounted there, so no other folder can take its place"
    } else if device(&dir).map_err(failed)? != device(&open_dir(parent)?).map_err(failed)? {
        "it is a mount point or a subvolume, so no other folder can take its place"
    } else {
        return Ok(());
    };
    let cause = io::Error::new(io::ErrorKind::ResourceBusy, why);
    Err(Error::new(ErrorKind::DestinationExists, operation, path, cause))
}

/// Renames all trees to their final names, or none.
pub(crate) fn publish_all(trees: &mut [Arrived], places: &[TreePlace]) -> Result<(), Error> {
    for (done, place) in places.iter().enumerate() {
        let published = match place.empty {
            Some(_) => trees[done].stage.publish_over_empty(&place.name),
            None => trees[done].stage.publish(&place.name),
        };
        if let Err(error) = published {
            unpublish_all(&mut trees[..done], places);
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            return Err(if exists {
                Error::new(ErrorKind::DestinationExists, place.operation, &place.path, error)
            } else {
                Error::io(place.operation, &place.path, error)
            });
        }
    }
    Ok(())
}

pub(crate) fn unpublish_all(trees: &mut [Arrived], places: &[TreePlace]) {
    for (tree, place) in trees.iter_mut().zip(places) {
        tree.stage.unpublish(&place.name);
        if let Some(mode) = place.empty {
            // This fails if a tree is still there.
            let _ = fs::mkdirat(&place.dir, &place.name, mode);
        }
    }
}

//! The blobs and directories that snapshots need, each counted once, however many snapshots share
//! it.
//!
//! A caller that removes content must know everything that is needed, and stops if an object cannot
//! be read ([`Reach::of`]). A caller that only looks records the damage and goes on
//! ([`Reach::add`]).

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use super::Store;
use super::id::{BlobId, DirectoryId, SnapshotId};
use super::manifest::os;
use super::object::{Entry, Kind, SnapshotObject};
use crate::error::{Error, ErrorKind, Operation};
use crate::tree::pool;
use crate::tree::running::Running;

/// How many paths one verification lists at most. Two directories may share their content, so a few
/// bytes can unfold without end.
const MOST_PLACES: usize = 100_000;

/// A directory that cannot be read, and why.
pub(crate) type Broken = (DirectoryId, String);

/// The content that some snapshots need.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Contents with their sizes. Empty files have none.
    pub(crate) blobs: HashMap<BlobId, u64>,
    pub(crate) directories: HashSet<DirectoryId>,
    /// Contents to which two entries give different sizes.
    pub(crate) contradictions: Vec<BlobId>,
}

fn root_of(object: &SnapshotObject) -> Option<DirectoryId> {
    match object.root.kind {
        Kind::Directory(id) => Some(id),
        _ => None,
    }
}

impl Reach {
    /// Adds the content of a snapshot. Returns the new objects that cannot be read.
    pub(crate) fn add(
        &mut self,
        store: &Store,
        object: &SnapshotObject,
        operation: &Running,
    ) -> Result<Vec<Broken>, Error> {
        let mut broken = Vec::new();
        let mut waiting: Vec<DirectoryId> = root_of(object).into_iter().collect();
        while let Some(id) = waiting.pop() {
            if !self.directories.insert(id) {
                continue;
            }
            if operation.is_cancelled() {
                return Err(pool::cancelled(Operation::Read, store.path()));
            }
            let entries = match store.catalog().directory(id)? {
                Ok(entries) => entries,
                Err(why) => {
                    broken.push((id, why));
                    continue;
                }
            };
            for entry in entries {
                match entry.kind {
                    Kind::Directory(id) => waiting.push(id),
                    Kind::File { size, blob, .. } if size > 0 => {
                        let known = *self.blobs.entry(blob).or_insert(size);
                        if known != size {
                            self.contradictions.push(blob);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(broken)
    }

    /// Like [`add`](Self::add), but an object that cannot be read is an error.
    pub(crate) fn must_add(
        &mut self,
        store: &Store,
        id: SnapshotId,
        operation: &Running,
    ) -> Result<(), Error> {
        let object = store.object(id)?;
        match self.add(store, &object, operation)?.first() {
            None => Ok(()),
            Some((directory, why)) => {
                let what = format!("directory {directory} of snapshot {id}: {why}");
                let cause = io::Error::new(io::ErrorKind::InvalidData, what);
                Err(Error::new(
                    ErrorKind::Damaged,
                    Operation::Read,
                    store.layout().database(),
                    cause,
                ))
            }
        }
    }

    /// All content that the snapshots need.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if an object cannot be read.
    pub(crate) fn of(
        store: &Store,
        snapshots: impl IntoIterator<Item = SnapshotId>,
        operation: &Running,
    ) -> Result<Self, Error> {
        let mut reach = Self::default();
        for id in snapshots {
            reach.must_add(store, id, operation)?;
        }
        Ok(reach)
    }

    /// The content that the snapshots need, as far as its objects can be read.
    pub(crate) fn of_readable(
        store: &Store,
        snapshots: impl IntoIterator<Item = SnapshotId>,
        operation: &Running,
    ) -> Result<Self, Error> {
        let mut reach = Self::default();
        for id in snapshots {
            match store.object(id) {
                Ok(object) => reach.add(store, &object, operation).map(drop)?,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::SnapshotNotFound) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(reach)
    }
}

/// What a path can stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Thing {
    Blob(BlobId),
    Directory(DirectoryId),
}

impl Thing {
    fn of(entry: &Entry) -> Option<Self> {
        match entry.kind {
            Kind::File { blob, .. } => Some(Self::Blob(blob)),
            Kind::Directory(id) => Some(Self::Directory(id)),
            _ => None,
        }
    }
}

/// Where the wanted things are: in which snapshots, at which paths.
pub(crate) fn places(
    store: &Store,
    snapshots: &[(SnapshotId, SnapshotObject)],
    reach: &Reach,
    wanted: &HashSet<Thing>,
) -> Result<HashMap<Thing, Vec<(SnapshotId, PathBuf)>>, Error> {
    let mut found: HashMap<Thing, Vec<(SnapshotId, PathBuf)>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(found);
    }
    // Only those directories are walked that have a wanted thing somewhere below.
    let mut parents: HashMap<DirectoryId, Vec<DirectoryId>> = HashMap::new();
    let mut waiting = Vec::new();
    for &id in &reach.directories {
        if wanted.contains(&Thing::Directory(id)) {
            waiting.push(id);
        }
        for entry in store.catalog().directory(id)?.unwrap_or_default() {
            if let Kind::Directory(child) = entry.kind {
                parents.entry(child).or_default().push(id);
            }
            if Thing::of(&entry).is_some_and(|thing| wanted.contains(&thing)) {
                waiting.push(id);
            }
        }
    }
    let mut on_the_way = HashSet::new();
    while let Some(id) = waiting.pop() {
        if on_the_way.insert(id) {
            waiting.extend(parents.get(&id).into_iter().flatten());
        }
    }
    let mut count = 0;
    for (snapshot, object) in snapshots {
        let mut walk: Vec<(PathBuf, DirectoryId)> =
            root_of(object).into_iter().map(|id| (PathBuf::new(), id)).collect();
        while let Some((path, id)) = walk.pop() {
            if !on_the_way.contains(&id) {
                continue;
            }
            let mut hit = |thing: Thing, path: PathBuf| {
                if wanted.contains(&thing) && count < MOST_PLACES {
                    count += 1;
                    found.entry(thing).or_default().push((*snapshot, path));
                }
            };
            hit(Thing::Directory(id), path.clone());
            for entry in store.catalog().directory(id)?.unwrap_or_default() {
                let path = path.join(os(&entry.name));
                match entry.kind {
                    Kind::File { blob, .. } => hit(Thing::Blob(blob), path),
                    Kind::Directory(id) => walk.push((path, id)),
                    _ => {}
                }
            }
            if count >= MOST_PLACES {
                return Ok(found);
            }
        }
    }
    for places in found.values_mut() {
        places.sort();
    }
    Ok(found)
}

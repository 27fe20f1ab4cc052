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
use crate::tree::running::Running;

/// How many paths one verification lists at most. Two directories may share their content, so a few
/// bytes can unfold without end.
const MOST_PLACES: usize = 100_000;

/// A directory that cannot be read, and why.
pub(crate) type Broken = (DirectoryId, String);

/// The content that some snapshots need.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Empty files have no content.
    pub(crate) blobs: Sizes,
    pub(crate) directories: HashSet<DirectoryId>,
    /// Contents to which two entries give different sizes.
    pub(crate) contradictions: Vec<BlobId>,
}

/// Contents with their sizes, as a sorted list: for a million contents a map takes twice as much
/// memory, and while it grows, three times.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    all: Vec<(BlobId, u64)>,
    /// How many of them are sorted, and have one size each.
    sorted: usize,
    /// Where the ids begin that have these first two bytes, and where the last ones end. Ids are
    /// hashes, so each part is short.
    starts: Vec<u32>,
}

impl Sizes {
    /// From this many on, contents that are there twice go before all are there.
    const LEAST: usize = 1 << 16;

    /// Adds a content. It is found after the next [`tidy`](Self::tidy).
    fn add(&mut self, id: BlobId, size: u64, contradictions: &mut Vec<BlobId>) {
        if self.all.len() >= Self::LEAST.max(self.sorted.saturating_mul(2)) {
            self.tidy(contradictions);
        }
        self.all.push((id, size));
    }

    /// Sorts what was added. If a content has two sizes, one of them stays.
    fn tidy(&mut self, contradictions: &mut Vec<BlobId>) {
        if self.sorted == self.all.len() {
            return;
        }
        self.all.sort_unstable();
        self.all.dedup_by(|next, kept| {
            if next.0 == kept.0 && next.1 != kept.1 {
                contradictions.push(kept.0);
            }
            next.0 == kept.0
        });
        self.sorted = self.all.len();
        self.starts = vec![0; PARTS + 1];
        for (id, _) in &self.all {
            self.starts[part_of(*id) + 1] += 1;
        }
        for part in 0..PARTS {
            self.starts[part + 1] += self.starts[part];
        }
    }

    pub(crate) fn get(&self, id: BlobId) -> Option<u64> {
        debug_assert_eq!(self.sorted, self.all.len(), "it was not tidied");
        let part = part_of(id);
        let [start, end] = *self.starts.get(part..)?.first_chunk()?;
        let part = &self.all[start as usize..end as usize];
        let at = part.binary_search_by(|(other, _)| other.cmp(&id)).ok()?;
        Some(part[at].1)
    }

    pub(crate) fn contains(&self, id: BlobId) -> bool {
        self.get(id).is_some()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (BlobId, u64)> + '_ {
        self.all.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }
}

/// The number of different first two bytes.
const PARTS: usize = 1 << 16;

fn part_of(id: BlobId) -> usize {
    usize::from(id.as_bytes()[0]) << 8 | usize::from(id.as_bytes()[1])
}

fn root_of(object: &SnapshotObject) -> Option<DirectoryId> {
    match object.root.kind {
        Kind::Directory(id) => Some(id),
        _ => None,
    }
}

impl Reach {
    /// Adds the content of a snapshot. Returns the new objects that cannot be read. The contents
    /// are found after [`tidy`](Self::tidy).
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
            operation.check(Operation::Read, store.path())?;
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
                        self.blobs.add(blob, size, &mut self.contradictions);
                    }
                    _ => {}
                }
            }
        }
        Ok(broken)
    }

    /// Lets the contents of the snapshots that were added be found.
    pub(crate) fn tidy(&mut self) {
        self.blobs.tidy(&mut self.contradictions);
    }

    /// Adds what another has.
    #[cfg(feature = "remote")]
    pub(crate) fn extend(&mut self, other: Self) {
        self.directories.extend(other.directories);
        for (id, size) in other.blobs.all {
            self.blobs.add(id, size, &mut self.contradictions);
        }
        self.tidy();
    }

    /// Like [`add`](Self::add), but an object that cannot be read is an error.
    pub(crate) fn must_add(
        &mut self,
        store: &Store,
        id: SnapshotId,
        operation: &Running,
    ) -> Result<(), Error> {
        let object = store.catalog().object(id)?;
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
        reach.tidy();
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
            match store.catalog().object(id) {
                Ok(object) => reach.add(store, &object, operation).map(drop)?,
                Err(error)
                    if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::SnapshotNotFound) => {
                }
                Err(error) => return Err(error),
            }
        }
        reach.tidy();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_content_is_found_once_with_its_size_and_two_sizes_are_a_contradiction() {
        let id = |number: u32| BlobId::of(&number.to_le_bytes());
        let (mut sizes, mut contradictions) = (Sizes::default(), Vec::new());
        assert_eq!((sizes.len(), sizes.get(id(0))), (0, None));
        let count = 3 * u32::try_from(Sizes::LEAST).unwrap();
        for number in (0..count).chain(0..count / 2) {
            sizes.add(id(number), number.into(), &mut contradictions);
        }
        sizes.tidy(&mut contradictions);
        assert_eq!((sizes.len(), contradictions.len()), (count as usize, 0));
        assert!((0..count).all(|number| sizes.get(id(number)) == Some(number.into())));
        assert!((count..count + 1000).all(|number| !sizes.contains(id(number))));
        assert!(sizes.iter().is_sorted());
        for (number, size) in [(7, 8), (count, 1), (9, 9)] {
            sizes.add(id(number), size, &mut contradictions);
        }
        sizes.tidy(&mut contradictions);
        assert_eq!((sizes.len(), contradictions), (count as usize + 1, vec![id(7)]));
        assert!(matches!(sizes.get(id(7)), Some(7 | 8)) && sizes.get(id(count)) == Some(1));
    }
}

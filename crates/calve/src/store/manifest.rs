//! The manifest is a whole snapshot in memory, with its directories numbered.
//!
//! Directories are numbered breadth first, and the entries of each directory by name. So a snapshot
//! has the same numbers wherever it is read. An [index](crate::worktree) is a list of facts in this
//! order, without any names.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::clock::now;
use super::id::{DirectoryId, SnapshotId};
use super::layout::{self, Within};
use super::object::{Entry, Kind, SnapshotObject};

/// The position of an entry: its directory and its slot there.
pub(crate) type At = (u32, u32);

/// The position of the root, which is in no directory.
pub(crate) const ROOT: At = (u32::MAX, u32::MAX);

/// The number of an entry. The root has 0.
pub(crate) type Number = u32;

/// The entries of a directory, by name.
///
/// The manifests that one operation needs are mostly equal: the base snapshot, the tree as it is,
/// the snapshot that a switch goes to. Equal directories share one list in memory, and a change of
/// the list copies it first.
#[derive(Debug, Clone, Eq)]
pub(crate) struct Entries(Arc<Vec<Entry>>);

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Self {
        Self(Arc::new(entries))
    }
}

impl Entries {
    /// Whether both are one list in memory.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0 == other.0
    }
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.0
    }
}

impl DerefMut for Entries {
    fn deref_mut(&mut self) -> &mut [Entry] {
        Arc::make_mut(&mut self.0).as_mut_slice()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A directory of the manifest.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The parent's place in [`Manifest::directories`], and this directory's slot among the
    /// parent's entries. The root is its own parent.
    pub(crate) parent: u32,
    pub(crate) slot: u32,
    /// The number of the directory's first entry.
    pub(crate) first: Number,
    pub(crate) entries: Entries,
    /// The entries that are directories: their slots, ascending, and their places in
    /// [`Manifest::directories`].
    pub(crate) children: Vec<(u32, u32)>,
}

/// A snapshot's tree.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) root: Entry,
    pub(crate) directories: Vec<Directory>,
    /// The number of entries, including the root.
    pub(crate) count: Number,
}

impl Directory {
    /// The slot of the entry with this name.
    pub(crate) fn find(&self, name: &[u8]) -> Option<u32> {
        self.entries
            .binary_search_by(|entry| (*entry.name).cmp(name))
            .ok()
            .and_then(|slot| u32::try_from(slot).ok())
    }

    /// The place of the directory in `slot`.
    pub(crate) fn child(&self, slot: u32) -> Option<u32> {
        let at = self.children.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        Some(self.children[at].1)
    }
}

/// Puts a manifest together, breadth first.
#[derive(Debug)]
pub(crate) struct Builder {
    manifest: Manifest,
    /// Directories whose entries are still missing, in order.
    expected: std::collections::VecDeque<(u32, u32)>,
}

impl Builder {
    pub(crate) fn new(root: Entry) -> Self {
        Self {
            manifest: Manifest { root, directories: Vec::new(), count: 1 },
            expected: std::collections::VecDeque::from([(0, 0)]),
        }
    }

    /// The directory whose entries come next. `None` if no directory is missing.
    pub(crate) fn next(&self) -> Option<&Entry> {
        let (parent, slot) = *self.expected.front()?;
        if self.manifest.directories.is_empty() {
            return Some(&self.manifest.root);
        }
        self.manifest.directories.get(parent as usize)?.entries.get(slot as usize)
    }

    /// Adds the entries of the directory that comes next. They must be sorted. Returns `false` if
    /// there are more entries than a number can count.
    #[must_use]
    pub(crate) fn add(&mut self, entries: impl Into<Entries>) -> bool {
        let entries = entries.into();
        let Some((parent, slot)) = self.expected.pop_front() else { return false };
        let (Ok(place), Ok(length)) =
            (u32::try_from(self.manifest.directories.len()), u32::try_from(entries.len()))
        else {
            return false;
        };
        let first = self.manifest.count;
        let Some(count) = first.checked_add(length) else { return false };
        self.manifest.count = count;
        for (slot, entry) in (0..length).zip(&entries) {
            if entry.is_directory() {
                self.expected.push_back((place, slot));
            }
        }
        if place > 0 {
            self.manifest.directories[parent as usize].children.push((slot, place));
        }
        self.manifest.directories.push(Directory {
            parent,
            slot,
            first,
            entries,
            children: Vec::new(),
        });
        true
    }

    pub(crate) fn finish(self) -> Manifest {
        debug_assert!(self.expected.is_empty());
        self.manifest
    }
}

impl Manifest {
    /// The name of an entry in the root that no snapshot has: calve would take it for its own, or
    /// git for a repository.
    pub(crate) fn foreign(&self) -> Option<&[u8]> {
        let in_root = self.directories.first().map_or(&[][..], |root| &root.entries);
        let within = Within::root(in_root.iter().map(|entry| &*entry.name));
        in_root.iter().map(|entry| &*entry.name).find(|name| !layout::is_content(name, within))
    }

    /// The path of a directory, from the root.
    pub(crate) fn path(&self, mut place: u32) -> PathBuf {
        let mut names = Vec::new();
        while place != 0 {
            let directory = &self.directories[place as usize];
            names.push(self.name(directory.parent, directory.slot));
            place = directory.parent;
        }
        names.iter().rev().map(|name| os(name)).collect()
    }

    /// The path of an entry, from the root.
    pub(crate) fn path_of(&self, place: u32, slot: u32) -> PathBuf {
        self.path(place).join(os(self.name(place, slot)))
    }

    /// The place of the directory with this name in another directory.
    pub(crate) fn child_of(&self, place: u32, name: &[u8]) -> Option<u32> {
        let directory = self.directories.get(place as usize)?;
        directory.child(directory.find(name)?)
    }

    /// Whether there is an entry at `path`, which must not contain `.` or `..`.
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }

    /// The position of the entry at `path`, as in [`has`](Self::has). The root's path is empty.
    pub(crate) fn find(&self, path: &Path) -> Option<At> {
        if path.as_os_str().is_empty() {
            return Some(ROOT);
        }
        let name = path.file_name()?;
        let place = path
            .parent()?
            .iter()
            .try_fold(0, |place, name| self.child_of(place, name.as_encoded_bytes()))?;
        let directory = self.directories.get(place as usize)?;
        Some((place, directory.find(name.as_encoded_bytes())?))
    }

    /// The entry at a position.
    pub(crate) fn at(&self, (place, slot): At) -> &Entry {
        if (place, slot) == ROOT {
            return &self.root;
        }
        &self.directories[place as usize].entries[slot as usize]
    }

    pub(crate) fn name(&self, place: u32, slot: u32) -> &[u8] {
        &self.directories[place as usize].entries[slot as usize].name
    }

    /// The entry of a directory.
    pub(crate) fn entry_of(&self, place: u32) -> &Entry {
        if place == 0 {
            return &self.root;
        }
        let directory = &self.directories[place as usize];
        &self.directories[directory.parent as usize].entries[directory.slot as usize]
    }

    /// The lists of entries by the ids of their directories, where these are known.
    pub(crate) fn lists(&self) -> impl Iterator<Item = (DirectoryId, &Entries)> {
        (0..).zip(&self.directories).filter_map(|(place, directory)| {
            match self.entry_of(place).kind {
                Kind::Directory(id) if id != NO_ID => Some((id, &directory.entries)),
                _ => None,
            }
        })
    }

    /// The number of a directory's own entry.
    pub(crate) fn number_of(&self, place: u32) -> Number {
        if place == 0 {
            return 0;
        }
        let directory = &self.directories[place as usize];
        self.directories[directory.parent as usize].first + directory.slot
    }

    /// Every entry except the root, with the place of its directory and its slot there.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, u32, &Entry)> {
        (0..).zip(&self.directories).flat_map(|(place, directory)| {
            (0..).zip(&directory.entries).map(move |(slot, entry)| (place, slot, entry))
        })
    }

    /// Every entry except the root, with its number and its path.
    pub(crate) fn paths(&self) -> impl Iterator<Item = (Number, PathBuf, &Entry)> {
        (0..).zip(&self.directories).flat_map(|(place, directory)| {
            let folder = self.path(place);
            (directory.first..)
                .zip(&directory.entries)
                .map(move |(number, entry)| (number, folder.join(os(&entry.name)), entry))
        })
    }

    /// The number of files, and the sum of their sizes.
    pub(crate) fn files(&self) -> (u64, u64) {
        self.entries().fold((0, 0), |(files, bytes), (_, _, entry)| match entry.kind {
            Kind::File { size, .. } => (files + 1, bytes.saturating_add(size)),
            _ => (files, bytes),
        })
    }

    /// The object of a snapshot of this tree that is taken now.
    pub(crate) fn object(&self, parent: Option<SnapshotId>, message: String) -> SnapshotObject {
        let (files, bytes) = self.files();
        SnapshotObject {
            root: self.root.clone(),
            parent,
            created: now(),
            message,
            entries: self.count.into(),
            files,
            bytes,
        }
    }
}

/// The id of a directory that the store does not have, or may not have.
pub(crate) const NO_ID: DirectoryId = DirectoryId::from_bytes([0; 32]);

/// A name as an `OsStr`.
pub(crate) fn os(name: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name)
}

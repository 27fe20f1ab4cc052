//! A whole snapshot in memory: its directories, numbered.
//!
//! Directories are numbered breadth first and the entries of each by name, so the same snapshot has the same numbers wherever
//! it is read: an [index](crate::worktree) is a list of facts in this order, without a name.

use std::path::{Path, PathBuf};

use super::object::{Entry, Kind};

/// The number of an entry; that of the root is 0.
pub(crate) type Number = u32;

/// A directory of the manifest.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Its parent's place in [`Manifest::directories`], and its place among the parent's entries. The root is its own.
    pub(crate) parent: u32,
    pub(crate) slot: u32,
    /// The number of its first entry.
    pub(crate) first: Number,
    pub(crate) entries: Vec<Entry>,
    /// Which entries are directories: their slots, ascending, and their places in [`Manifest::directories`].
    pub(crate) children: Vec<(u32, u32)>,
}

/// A snapshot's tree.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) root: Entry,
    pub(crate) directories: Vec<Directory>,
    /// How many entries there are, the root included.
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

    /// The place of the directory that the entry in `slot` is.
    pub(crate) fn child(&self, slot: u32) -> Option<u32> {
        let at = self.children.binary_search_by_key(&slot, |(slot, _)| *slot).ok()?;
        Some(self.children[at].1)
    }
}

/// Puts a manifest together, breadth first.
#[derive(Debug)]
pub(crate) struct Builder {
    manifest: Manifest,
    /// Directories whose entries are still to come, in order.
    expected: std::collections::VecDeque<(u32, u32)>,
}

impl Builder {
    pub(crate) fn new(root: Entry) -> Self {
        Self {
            manifest: Manifest { root, directories: Vec::new(), count: 1 },
            expected: std::collections::VecDeque::from([(0, 0)]),
        }
    }

    /// The entry of the directory whose entries come next; `None` where all are there.
    pub(crate) fn next(&self) -> Option<&Entry> {
        let (parent, slot) = *self.expected.front()?;
        if self.manifest.directories.is_empty() {
            return Some(&self.manifest.root);
        }
        self.manifest.directories.get(parent as usize)?.entries.get(slot as usize)
    }

    /// Adds the entries, sorted, of the directory that comes next. `false` where there are more than can be counted.
    #[must_use]
    pub(crate) fn add(&mut self, entries: Vec<Entry>) -> bool {
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

    /// Whether there is an entry at `path`, which has no dots in it.
    pub(crate) fn has(&self, path: &Path) -> bool {
        let mut place = Some(0);
        path.iter().all(|name| {
            let Some(directory) = place.and_then(|place| self.directories.get(place as usize))
            else {
                return false;
            };
            let slot = directory.find(name.as_encoded_bytes());
            place = slot.and_then(|slot| directory.child(slot));
            slot.is_some()
        })
    }

    fn name(&self, place: u32, slot: u32) -> &[u8] {
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

    /// The number of the entry that a directory is.
    pub(crate) fn number_of(&self, place: u32) -> Number {
        if place == 0 {
            return 0;
        }
        let directory = &self.directories[place as usize];
        self.directories[directory.parent as usize].first + directory.slot
    }

    /// Every entry but the root, with the place of its directory and its slot there.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, u32, &Entry)> {
        (0..).zip(&self.directories).flat_map(|(place, directory)| {
            (0..).zip(&directory.entries).map(move |(slot, entry)| (place, slot, entry))
        })
    }

    /// How many files there are, and their sizes summed up.
    pub(crate) fn files(&self) -> (u64, u64) {
        self.entries().fold((0, 0), |(files, bytes), (_, _, entry)| match entry.kind {
            Kind::File { size, .. } => (files + 1, bytes.saturating_add(size)),
            _ => (files, bytes),
        })
    }
}

/// A name as the system's type.
pub(crate) fn os(name: &[u8]) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name)
}

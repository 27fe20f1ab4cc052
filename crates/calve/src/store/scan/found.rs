//! What a scan found in a directory.

use super::super::index::{PackedStats, Stat};
use super::super::object::Entry;
use super::{Looked, Request};
use crate::reflink::meta::Meta;

/// The entries that were found in a directory, by name.
pub(super) enum Listed {
    /// They are those of the base, with the inodes that the index has, and none of them has another
    /// name. So a tree in which little has changed takes no memory for each of its files. Here are
    /// the places of those that are directories.
    Known(Vec<u32>),
    /// None of them is a directory or has another name, and all are on the directory's device. They
    /// are all in [`Scanned::others`]; or that is empty, and they are those of the base, which only
    /// a look finds. Here are their inodes and change times.
    Leaf(PackedStats),
    Each(Vec<What>),
}

/// An entry that was found in a directory.
pub(super) enum What {
    /// The entry equals the one in this slot of the base.
    Same(u32, Inode),
    Other(Box<Entry>, Inode),
    /// The same, with the entry's position in [`Scanned::others`].
    Kept(u32, Inode),
    /// A directory, by its place among the scanned directories.
    Directory(u32),
    /// A batch fills this in. It stays if the batch could not get the file.
    Pending,
}

/// The identity of an entry on disk: its device, its inode and its link count. A scan holds one for
/// each entry, so the fields are in an order that leaves no gaps.
#[derive(Clone, Copy)]
pub(super) struct Inode {
    pub(super) ino: u64,
    pub(super) dev: u64,
    pub(super) changed_seconds: i64,
    pub(super) changed_nanoseconds: u32,
    /// Whether the entry has more than one name.
    pub(super) has_links: bool,
}

impl Inode {
    pub(super) fn of(meta: &Meta) -> Self {
        let Stat { ino, changed: (changed_seconds, changed_nanoseconds) } = Stat::of(meta);
        let has_links = meta.links > 1 && meta.ino != 0;
        Self { ino, dev: meta.dev, changed_seconds, changed_nanoseconds, has_links }
    }

    /// The inode of a file that may change, or has changed, without a trace. No index vouches for a
    /// file that changed at the end of time.
    pub(super) fn untraced(meta: &Meta) -> Self {
        Self { changed_seconds: i64::MAX, changed_nanoseconds: 0, ..Self::of(meta) }
    }

    /// The inode of an entry with one name, by what an index has.
    pub(super) fn known(stat: &Stat, dev: u64) -> Self {
        let (changed_seconds, changed_nanoseconds) = stat.changed;
        Self { ino: stat.ino, dev, changed_seconds, changed_nanoseconds, has_links: false }
    }

    pub(super) fn stat(&self) -> Stat {
        Stat { ino: self.ino, changed: (self.changed_seconds, self.changed_nanoseconds) }
    }
}

/// A directory that was read.
pub(super) struct Scanned {
    pub(super) own: Entry,
    pub(super) inode: Inode,
    pub(super) base: Option<u32>,
    pub(super) found: Listed,
    /// Entries that are not as in the base.
    pub(super) others: Vec<Entry>,
}

impl Scanned {
    /// The entries, where they are listed one by one.
    pub(super) fn found(&self) -> &[What] {
        match &self.found {
            Listed::Known(_) | Listed::Leaf(_) => &[],
            Listed::Each(found) => found,
        }
    }

    /// Lists the entries one by one.
    pub(super) fn expand(&mut self, request: &Request<'_>) {
        let places = match &self.found {
            Listed::Known(places) => places,
            Listed::Leaf(stats) => {
                let is_other = self.others.len() == stats.count;
                let found = (0..).zip(stats.iter()).map(|(at, stat)| {
                    let inode = Inode::known(&stat, self.inode.dev);
                    if is_other { What::Kept(at, inode) } else { What::Same(at, inode) }
                });
                self.found = Listed::Each(found.collect());
                return;
            }
            Listed::Each(_) => return,
        };
        let base = self.base.and_then(|place| request.base?.directories.get(place as usize));
        let stats = base.and_then(|base| request.known_stats(base)).unwrap_or_default();
        let mut places = places.iter();
        let entries = base.map_or(&[][..], |base| &base.entries);
        let found = (0..).zip(entries).zip(stats).filter_map(|((slot, entry), stat)| {
            Some(match entry.is_directory() {
                true => What::Directory(*places.next()?),
                false => What::Same(slot, Inode::known(stat, self.inode.dev)),
            })
        });
        self.found = Listed::Each(found.collect());
    }

    /// Adds the files of all batches, and moves the entries that were found into one piece of
    /// memory, which the manifest takes over. Each entry in memory of its own, and then once more
    /// in the manifest, would take twice as much.
    pub(super) fn complete(&mut self, looked: Vec<Looked>, request: &Request<'_>) {
        let Listed::Each(all) = &mut self.found else { return };
        for (at, what) in looked {
            all[at as usize] = what;
        }
        let is_other = |found: &&What| matches!(found, What::Other(..));
        self.others.reserve_exact(all.iter().filter(is_other).count());
        for found in &mut *all {
            *found = match std::mem::replace(found, What::Pending) {
                What::Other(entry, inode) => match u32::try_from(self.others.len()) {
                    Ok(at) => {
                        self.others.push(*entry);
                        What::Kept(at, inode)
                    }
                    Err(_) => What::Other(entry, inode),
                },
                what => what,
            };
        }
        let base = self.base.filter(|_| request.looks_only);
        let base = base.and_then(|place| request.base?.directories.get(place as usize));
        let is_base = base.is_some_and(|base| base.entries.len() == all.len());
        let stats: Option<PackedStats> = (0..)
            .zip(&*all)
            .map(|(at, found)| match found {
                What::Kept(slot, inode) if *slot == at => Some(inode),
                What::Same(slot, inode) if *slot == at && is_base && self.others.is_empty() => {
                    Some(inode)
                }
                _ => None,
            })
            .map(|inode| {
                inode
                    .filter(|inode| !inode.has_links && inode.dev == self.inode.dev)
                    .map(Inode::stat)
            })
            .collect();
        if let Some(stats) = stats {
            self.found = Listed::Leaf(stats);
        }
    }
}

//! Combines the results of a scan's threads. Directories are numbered breadth first, as in every
//! manifest, and get their ids from the leaves to the root.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use super::super::at::meta_at;
use super::super::id::DirectoryId;
use super::super::index::Stat;
use super::super::manifest::{self, Builder, Manifest, NO_ID};
use super::super::object::{Entry, Kind, encode_directory};
use super::{Inode, Listed, Request, Scanned, What};
use crate::error::{Error, Operation};
use crate::tree::pool;

pub(super) type Assembled = (Manifest, Vec<Stat>, Vec<u32>);

pub(super) struct Assembly<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) scanned: Vec<Option<Scanned>>,
}

impl Assembly<'_> {
    pub(super) fn run(mut self) -> Result<Assembled, Error> {
        let path = self.request.path;
        let too_many = || {
            let cause = io::Error::other("more than 4,294,967,295 entries");
            Error::io(Operation::Read, path, cause)
        };
        let root = self.scanned.first_mut().and_then(Option::take);
        let Some(root) = root else {
            return Err(pool::cancelled(Operation::Read, self.request.path));
        };
        let mut stats = vec![root.inode.stat()];
        // The devices of entries with more than one name, by the numbers of the entries.
        let mut linked: HashMap<u32, u64> = HashMap::new();
        let mut builder = Builder::new(root.own.clone());
        // The directories, breadth first, as the manifest numbers them. Each comes with its place
        // in the base.
        let mut order: Vec<Option<u32>> = Vec::new();
        let mut queue = std::collections::VecDeque::from([root]);
        while let Some(mut directory) = queue.pop_front() {
            let base =
                directory.base.and_then(|place| self.request.base?.directories.get(place as usize));
            // A directory without others in it is taken as a whole, if it is all new or all old.
            let before = stats.len();
            if self.extend_whole(&mut stats, &directory, base) {
                let count = stats.len() - before;
                order.push(directory.base);
                let entries = match base {
                    Some(base) if directory.others.len() < count => base.entries.clone(),
                    _ => directory.others.into(),
                };
                if !builder.add(entries) {
                    return Err(too_many());
                }
                continue;
            }
            directory.expand(self.request);
            let all = directory.found().len();
            let are_kept = (0..)
                .zip(directory.found())
                .all(|(number, found)| matches!(found, What::Kept(at, _) if *at == number));
            // If a directory has no other entries, its entries stay where they are in memory.
            let (mut entries, others) = match are_kept && directory.others.len() == all {
                true => (directory.others, Vec::new()),
                false => (Vec::with_capacity(all), directory.others),
            };
            let Listed::Each(found) = directory.found else { continue };
            for found in found {
                let (entry, inode) = match found {
                    What::Same(slot, inode) => {
                        let Some(base) = base else { continue };
                        (base.entries[slot as usize].clone(), inode)
                    }
                    What::Other(entry, inode) => (*entry, inode),
                    What::Kept(at, inode) => match others.get(at as usize) {
                        Some(entry) => (entry.clone(), inode),
                        None => {
                            note(&mut linked, &mut stats, inode);
                            continue;
                        }
                    },
                    What::Directory(place) => {
                        let Some(child) = self.scanned[place as usize].take() else { continue };
                        let pair = (child.own.clone(), child.inode);
                        queue.push_back(child);
                        pair
                    }
                    What::Pending => continue,
                };
                note(&mut linked, &mut stats, inode);
                entries.push(entry);
            }
            order.push(directory.base);
            let entries = match base.filter(|base| *base.entries == *entries) {
                Some(base) => base.entries.clone(),
                None => entries.into(),
            };
            if !builder.add(entries) {
                return Err(too_many());
            }
        }
        Ok(self.finish((builder.finish(), stats, order), &linked))
    }

    /// Joins the names of hard links, and names the directories.
    fn finish(
        &self,
        (mut manifest, mut stats, order): (Manifest, Vec<Stat>, Vec<Option<u32>>),
        linked: &HashMap<u32, u64>,
    ) -> Assembled {
        if self.request.intake.is_some() {
            let filesystems = self.request.operation.filesystems();
            let believed = |dev| filesystems.known(dev).is_some_and(|found| found.inodes);
            let is_still = |path: &Path, id: (u64, u64)| {
                meta_at(self.request.root, path).is_ok_and(|now| now.id() == id)
            };
            link_groups(&mut manifest, linked, &mut stats, (believed, is_still));
        }
        let is_stored = self.request.intake.is_some();
        let directories = name_directories(&mut manifest, &order, self.request.base, is_stored);
        (manifest, stats, directories)
    }

    /// Adds the stats of all entries of a directory, if they are known together.
    fn extend_whole(
        &self,
        stats: &mut Vec<Stat>,
        directory: &Scanned,
        base: Option<&manifest::Directory>,
    ) -> bool {
        match &directory.found {
            Listed::Known(places) if places.is_empty() => {
                let known = base.and_then(|base| self.request.known_stats(base));
                stats.extend_from_slice(known.unwrap_or_default());
                known.is_some()
            }
            Listed::Leaf(packed) => {
                stats.extend(packed.iter());
                true
            }
            _ => false,
        }
    }
}

/// Notes the inode of the entry that has the next number.
fn note(linked: &mut HashMap<u32, u64>, stats: &mut Vec<Stat>, inode: Inode) {
    if inode.has_links
        && let Ok(number) = u32::try_from(stats.len())
    {
        linked.insert(number, inode.dev);
    }
    stats.push(inode.stat());
}

/// Gives every directory its id, from the leaves to the root. `order` has the place of each
/// directory in the base. Returns the places of the directories that the base does not have, if
/// `is_stored`. If not, the ids of these directories stay unknown.
pub(crate) fn name_directories(
    manifest: &mut Manifest,
    order: &[Option<u32>],
    base: Option<&Manifest>,
    is_stored: bool,
) -> Vec<u32> {
    let mut new = Vec::new();
    for number in (0..u32::try_from(manifest.directories.len()).unwrap_or(u32::MAX)).rev() {
        let place = number as usize;
        let directory = &manifest.directories[place];
        let base = order[place].and_then(|place| {
            let base = base?;
            Some((base.directories.get(place as usize)?, base.entry_of(place)))
        });
        // The children already have their ids, so equal entries mean that nothing below has
        // changed.
        let known = base.filter(|(base, _)| base.entries == directory.entries);
        let id = match known {
            Some((base, Entry { kind: Kind::Directory(id), .. })) if *id != NO_ID => {
                manifest.directories[place].entries = base.entries.clone();
                *id
            }
            _ if !is_stored => NO_ID,
            _ => {
                new.push(number);
                DirectoryId::of(&encode_directory(&directory.entries))
            }
        };
        let directory = &manifest.directories[place];
        let (parent, slot) = (directory.parent as usize, directory.slot as usize);
        if place == 0 {
            manifest.root.kind = Kind::Directory(id);
        } else if manifest.directories[parent].entries[slot].kind != Kind::Directory(id) {
            manifest.directories[parent].entries[slot].kind = Kind::Directory(id);
        }
    }
    new
}

/// Marks the names of a file, a symbolic link or a FIFO that has more than one name in the tree. It
/// may have changed between the looks at two of its names. Since it is one file, the state with the
/// latest change time holds under every name. But a file may also be gone with all its names, and
/// another one have its number. So names that were not seen in one state count as names of one file
/// if each of them still has the number.
///
/// Where inode numbers are not believed, names belong together only if all is the same that is
/// known of them, with the bytes.
fn link_groups(
    manifest: &mut Manifest,
    linked: &HashMap<u32, u64>,
    stats: &mut [Stat],
    (believed, is_still): (impl Fn(u64) -> bool, impl Fn(&Path, (u64, u64)) -> bool),
) {
    // The kind is part of the key: another entry may have got the inode number between two looks.
    let mut groups: HashMap<_, Vec<(u32, u32)>> = HashMap::new();
    let mut single = Vec::new();
    let number_of = |manifest: &Manifest, (place, slot): (u32, u32)| {
        manifest.directories[place as usize].first + slot
    };
    for (place, slot, entry) in manifest.entries() {
        if entry.is_directory() {
            continue;
        }
        let number = number_of(manifest, (place, slot));
        // The link count, too, may have changed between two looks.
        if let Some(dev) = linked.get(&number) {
            let ino = stats[number as usize].ino;
            let all = (!believed(*dev)).then(|| {
                let mut entry = Entry { name: (&b""[..]).into(), ..entry.clone() };
                entry.set_link(0);
                (encode_directory(&[entry]), stats[number as usize].changed)
            });
            let inode = (*dev, ino, std::mem::discriminant(&entry.kind), all);
            groups.entry(inode).or_default().push((place, slot));
        } else if entry.link() != 0 {
            single.push((place, slot));
        }
    }
    for (place, slot) in single {
        manifest.directories[place as usize].entries[slot as usize].set_link(0);
    }
    for ((dev, ino, ..), mut names) in groups {
        let changed = |manifest: &Manifest, at| stats[number_of(manifest, at) as usize].changed;
        let is_one_state =
            names.iter().all(|at| changed(manifest, *at) == changed(manifest, names[0]));
        if !is_one_state {
            names.retain(|at| {
                let is_it = is_still(&manifest.path_of(at.0, at.1), (dev, ino));
                if !is_it {
                    manifest.directories[at.0 as usize].entries[at.1 as usize].set_link(0);
                }
                is_it
            });
        }
        let last = names.iter().max_by_key(|at| stats[number_of(manifest, **at) as usize].changed);
        let Some(&last) = last else { continue };
        let stat = stats[number_of(manifest, last) as usize];
        let mut seen = manifest.at(last).clone();
        seen.set_link(if names.len() > 1 { group_of(manifest, &names) } else { 0 });
        for at in names {
            stats[number_of(manifest, at) as usize] = stat;
            let entry = &mut manifest.directories[at.0 as usize].entries[at.1 as usize];
            *entry = Entry { name: std::mem::take(&mut entry.name), ..seen.clone() };
        }
    }
}

/// Gives the groups of hard links the numbers that belong to the names that they have left.
pub(crate) fn link_again(manifest: &mut Manifest) {
    let mut groups: HashMap<u64, Vec<(u32, u32)>> = HashMap::new();
    for (place, slot, entry) in manifest.entries() {
        if entry.link() != 0 {
            groups.entry(entry.link()).or_default().push((place, slot));
        }
    }
    for names in groups.into_values() {
        let group = if names.len() > 1 { group_of(manifest, &names) } else { 0 };
        for (place, slot) in names {
            manifest.directories[place as usize].entries[slot as usize].set_link(group);
        }
    }
}

/// A number for a file with these names. It stays the same as long as the first of the names does.
pub(crate) fn group_of(manifest: &Manifest, names: &[(u32, u32)]) -> u64 {
    let first = names.iter().map(|(place, slot)| manifest.path_of(*place, *slot)).min();
    let path = first.unwrap_or_default();
    let hash = blake3::hash(path.as_os_str().as_encoded_bytes());
    let mut number = [0; 8];
    number.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(number).max(1)
}

#[cfg(test)]
mod tests {
    use super::super::super::id::BlobId;
    use super::*;

    fn entry(name: &str, kind: Kind) -> Entry {
        let name = name.as_bytes().into();
        let (mode, mtime) = (0o644, Default::default());
        Entry { name, mode, uid: 0, gid: 0, mtime, attributes: None, kind }
    }

    #[test]
    fn names_seen_in_two_states_are_those_of_one_file_if_all_of_them_still_have_its_number() {
        // When `a` and `b` were seen to change, whether they still have the number, and what each
        // then holds; `linked` if both are names of one file.
        for (seen, still, holds, linked) in [
            ([1, 1], [false, false], [1, 2], true),
            ([1, 2], [true, true], [2, 2], true),
            ([2, 1], [true, true], [1, 1], true),
            ([1, 2], [false, true], [1, 2], false),
            ([2, 1], [true, false], [1, 2], false),
            ([1, 2], [false, false], [1, 2], false),
        ] {
            let blob = |content| BlobId::from_bytes([content; 32]);
            let file = |content| Kind::File { size: 1, link: 0, blob: blob(content) };
            let mut builder = Builder::new(entry("", Kind::Directory(NO_ID)));
            assert!(builder.add(vec![entry("a", file(1)), entry("b", file(2))]));
            let mut manifest = builder.finish();
            let stat = |ino, changed| Stat { ino, changed: (changed, 0) };
            let mut stats = [stat(1, 0), stat(7, seen[0]), stat(7, seen[1])];
            let is_still = |path: &Path, _| still[usize::from(path == Path::new("b"))];
            let numbers = HashMap::from([(1, 5), (2, 5)]);
            link_groups(&mut manifest, &numbers, &mut stats, (|_| true, is_still));
            let entries = &manifest.directories[0].entries;
            assert_eq!(entries.iter().all(|it| it.link() != 0), linked, "{seen:?} {still:?}");
            if seen[0] != seen[1] {
                let held = entries.iter().map(|it| it.kind.clone());
                let expected = holds.map(|content| match entries[0].link() {
                    link if linked => Kind::File { size: 1, link, blob: blob(content) },
                    _ => file(content),
                });
                assert!(held.eq(expected), "{seen:?} {still:?}: {entries:?}");
            }
        }
    }
}

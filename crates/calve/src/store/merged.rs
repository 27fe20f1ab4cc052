//! The tree of a snapshot with some paths as another tree has them.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use super::manifest::{Builder, Manifest, os};
use super::object::Entry;
use super::scan::link_again;

/// A tree that was put together of two others.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The ids of its directories are not known.
    pub(crate) manifest: Manifest,
    /// For each directory, its place in the base.
    pub(crate) order: Vec<Option<u32>>,
}

/// The hard links of the two trees have numbers of their own, until those of the new tree are made.
const OF_OTHER: u64 = 0x5851_f42d_4c95_7f2d;

/// The folders that a merge must look into, and those that it needs.
struct Ways {
    /// Above a path that is taken.
    into: HashSet<PathBuf>,
    /// Above an entry that is taken, so the other tree's folder is there.
    needed: HashSet<PathBuf>,
    /// Above an entry of the base that stays although the other tree does not have it.
    kept: HashSet<PathBuf>,
}

impl Ways {
    fn of(base: &Manifest, other: &Manifest, taken: &BTreeSet<PathBuf>) -> Self {
        let mut ways = Self { into: HashSet::new(), needed: HashSet::new(), kept: HashSet::new() };
        let above = |set: &mut HashSet<PathBuf>, path: &Path| {
            for folder in path.ancestors().skip(1) {
                if !set.insert(folder.to_owned()) {
                    break;
                }
            }
        };
        for path in taken {
            above(&mut ways.into, path);
            if other.has(path) {
                above(&mut ways.needed, path);
            }
        }
        // A folder that goes keeps what in it does not.
        for path in taken.iter().filter(|path| base.has(path) && !other.has(path)) {
            let Some(place) = place_of(base, path) else { continue };
            let mut below = vec![(place, path.clone())];
            while let Some((place, folder)) = below.pop() {
                let directory = &base.directories[place as usize];
                for (slot, entry) in (0..).zip(&directory.entries) {
                    let path = folder.join(os(&entry.name));
                    match directory.child(slot) {
                        Some(child) if taken.contains(&path) => below.push((child, path)),
                        _ if taken.contains(&path) => {}
                        _ => above(&mut ways.kept, &path),
                    }
                }
            }
        }
        ways
    }
}

/// The place of the directory at a path.
fn place_of(tree: &Manifest, path: &Path) -> Option<u32> {
    path.iter().try_fold(0, |place, name| tree.child_of(place, name.as_encoded_bytes()))
}

/// The tree `base` with the entries of `other` at the paths `taken`. Where `other` has none, there
/// is none. A folder that the base has stays as long as something of the base is in it, and one
/// that only `other` has comes with what is taken of it. `None`: there are more entries than a
/// number can count.
pub(crate) fn merged(
    base: &Manifest,
    other: &Manifest,
    taken: &BTreeSet<PathBuf>,
) -> Option<Merged> {
    let ways = Ways::of(base, other, taken);
    let mut builder = Builder::new(base.root.clone());
    let mut order = Vec::new();
    // The place in the base, that in the other tree, and the path where it matters.
    let mut queue = VecDeque::from([(Some(0_u32), Some(0_u32), Some(PathBuf::new()))]);
    while let Some((below, above, path)) = queue.pop_front() {
        let directory = |tree: &'_ Manifest, place: Option<u32>| {
            place.map(|place| place as usize).filter(|it| *it < tree.directories.len())
        };
        let ours = directory(base, below).map(|place| &base.directories[place]);
        let theirs = directory(other, above).map(|place| &other.directories[place]);
        order.push(below.filter(|_| ours.is_some()));
        let Some(path) = path else {
            // Nothing below is taken, so all is as in the base.
            let entries = ours.map(|it| it.entries.clone())?;
            for (slot, _) in (0..).zip(&entries).filter(|(_, entry)| entry.is_directory()) {
                queue.push_back((ours.and_then(|it| it.child(slot)), None, None));
            }
            if !builder.add(entries) {
                return None;
            }
            continue;
        };
        let mut names: BTreeMap<&[u8], [Option<u32>; 2]> = BTreeMap::new();
        for (which, directory) in [ours, theirs].into_iter().enumerate() {
            for (slot, entry) in (0..).zip(directory.into_iter().flat_map(|it| &it.entries)) {
                names.entry(&entry.name).or_default()[which] = Some(slot);
            }
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(names.len());
        for (name, [our_slot, their_slot]) in names {
            let at = path.join(os(name));
            let our =
                ours.zip(our_slot).map(|(it, slot)| (&it.entries[slot as usize], it.child(slot)));
            let their = theirs
                .zip(their_slot)
                .map(|(it, slot)| (&it.entries[slot as usize], it.child(slot)));
            let is_folder =
                |of: Option<(&Entry, Option<u32>)>| of.is_some_and(|it| it.0.is_directory());
            let takes = match taken.contains(&at) {
                true => is_folder(their) || !(is_folder(our) && ways.kept.contains(&at)),
                false => !is_folder(our) && is_folder(their) && ways.needed.contains(&at),
            };
            let Some((chosen, _)) = (if takes { their } else { our }) else { continue };
            let mut chosen = chosen.clone();
            if takes && chosen.link() != 0 {
                chosen.set_link((chosen.link() ^ OF_OTHER).max(1));
            }
            if chosen.is_directory() {
                let of = |it: Option<(&Entry, Option<u32>)>| it.and_then(|it| it.1);
                let inside = ways.into.contains(&at) || of(our).is_none();
                queue.push_back((of(our), of(their), inside.then_some(at)));
            }
            entries.push(chosen);
        }
        if !builder.add(entries) {
            return None;
        }
    }
    let mut manifest = builder.finish();
    link_again(&mut manifest);
    Some(Merged { manifest, order })
}

//! Finds the differences between two trees without looking at equal directories: these have equal
//! ids.

use std::path::{Path, PathBuf};

use super::id::DirectoryId;
use super::manifest::{At, Manifest, NO_ID, ROOT, os};
use super::object::{Entry, Kind};

/// A path at which two trees differ. The path of the root is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) path: PathBuf,
    pub(crate) old: Option<At>,
    pub(crate) new: Option<At>,
}

/// What counts as a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counts {
    /// Kind, content, mode, owner and attributes: what `status` calls a change.
    Changes,
    /// Everything in `Changes`, and times and links.
    Everything,
}

/// Every path at which the trees differ, including directories. A directory comes before the
/// entries in it. The time of the root is not compared, because making something in the root that
/// is not a part of the tree changes that time.
pub(crate) fn compare(old: &Manifest, new: &Manifest, counts: Counts) -> Vec<Delta> {
    compare_where(old, new, counts, |_| true)
}

/// Compares as [`compare`] does, but only the paths for which `is_in` is true. If it is false for a
/// folder, nothing in that folder is compared.
pub(crate) fn compare_where(
    old: &Manifest,
    new: &Manifest,
    counts: Counts,
    is_in: impl Fn(&Path) -> bool,
) -> Vec<Delta> {
    let mut deltas = Vec::new();
    if !old.root.same_metadata(&new.root) && is_in(Path::new("")) {
        deltas.push(Delta { path: PathBuf::new(), old: Some(ROOT), new: Some(ROOT) });
    }
    let mut pairs = vec![(PathBuf::new(), Some(0_u32), Some(0_u32))];
    if directory_id(&old.root) == directory_id(&new.root) && directory_id(&old.root) != NO_ID {
        pairs.clear();
    }
    while let Some((path, old_place, new_place)) = pairs.pop() {
        let (old_dir, new_dir) = (
            old_place.and_then(|place| old.directories.get(place as usize)),
            new_place.and_then(|place| new.directories.get(place as usize)),
        );
        let (old_entries, new_entries): (&[Entry], &[Entry]) =
            (old_dir.map_or(&[], |dir| &dir.entries), new_dir.map_or(&[], |dir| &dir.entries));
        let (mut left, mut right) = (0, 0);
        loop {
            let order = match (old_entries.get(left), new_entries.get(right)) {
                (None, None) => break,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) => a.name.cmp(&b.name),
            };
            let (a, b) = (
                order.is_le().then(|| &old_entries[left]),
                order.is_ge().then(|| &new_entries[right]),
            );
            let slot = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
            let old_at = a.and(old_place).map(|place| (place, slot(left)));
            let new_at = b.and(new_place).map(|place| (place, slot(right)));
            left += usize::from(a.is_some());
            right += usize::from(b.is_some());
            let Some(name) = a.or(b).map(|entry| &entry.name) else { break };
            let below = |a: Option<&Entry>| a.is_some_and(Entry::is_directory);
            let same_directory = match (a, b) {
                (Some(a), Some(b)) => {
                    below(Some(a)) && directory_id(a) == directory_id(b) && directory_id(a) != NO_ID
                }
                _ => false,
            };
            let path = path.join(os(name));
            if !is_in(&path) {
                continue;
            }
            if (below(a) || below(b)) && !same_directory {
                let inside = |at: Option<At>, of: &Manifest| {
                    let (place, slot) = at?;
                    of.directories.get(place as usize)?.child(slot)
                };
                pairs.push((path.clone(), inside(old_at, old), inside(new_at, new)));
            }
            if !same(a, b, counts) {
                deltas.push(Delta { path, old: old_at, new: new_at });
            }
        }
    }
    deltas.sort_by(|a, b| a.path.cmp(&b.path));
    deltas
}

fn directory_id(entry: &Entry) -> DirectoryId {
    match entry.kind {
        Kind::Directory(id) => id,
        _ => NO_ID,
    }
}

fn same(a: Option<&Entry>, b: Option<&Entry>, counts: Counts) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return false };
    if !a.same_content(b) || !a.same_metadata(b) {
        return false;
    }
    counts == Counts::Changes || (a.mtime == b.mtime && a.link() == b.link())
}

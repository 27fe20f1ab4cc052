//! Which ready tree is brought to a snapshot.

use super::super::catalog::Catalog;
use super::super::id::{DirectoryId, SnapshotId};
use super::super::manifest::NO_ID;
use super::super::object::{Entry, Kind, SnapshotObject};
use crate::error::Error;

/// A tree is made anew if more than one of this many entries must be changed: to change an entry
/// takes about that many times as long as to make one.
const CHANGE_COSTS: u64 = 3;

/// The greatest number of entries that calve changes to get a tree of `entries` entries. If more
/// must change, it is quicker to make a new tree.
pub(super) fn most_changes(entries: u64) -> u64 {
    entries / CHANGE_COSTS
}

/// The candidate with the fewest changes. Of several, the first. `None` if none has at most `most`
/// changes. The changes of a candidate are not known if there are more than that.
pub(super) fn nearest<T: Copy>(candidates: &[(T, Option<u64>)], most: u64) -> Option<T> {
    let known = candidates.iter().filter_map(|(id, changes)| Some((*id, (*changes)?)));
    let near = known.filter(|(_, changes)| *changes <= most);
    near.min_by_key(|(_, changes)| *changes).map(|(id, _)| id)
}

/// The number of entries at which two snapshots differ, times and links included. `None` if there
/// are more than `most`. Directories that both snapshots have are not read.
///
/// # Errors
/// A directory could not be read.
pub(super) fn changes(
    catalog: &Catalog,
    (old, new): (&SnapshotObject, &SnapshotObject),
    most: u64,
) -> Result<Option<u64>, Error> {
    let directory = |entry: Option<&Entry>| match entry.map(|entry| &entry.kind) {
        Some(Kind::Directory(id)) => Some(*id),
        _ => None,
    };
    let read = |id: Option<DirectoryId>| match id {
        Some(id) => catalog.directory(id),
        None => Ok(Ok(Vec::new())),
    };
    let mut pairs = vec![(directory(Some(&old.root)), directory(Some(&new.root)))];
    let mut found = 0;
    while let Some((old, new)) = pairs.pop() {
        if old == new && old != Some(NO_ID) {
            continue;
        }
        let (Ok(old), Ok(new)) = (read(old)?, read(new)?) else { return Ok(None) };
        let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let (a, b) = match (left.peek(), right.peek()) {
                (None, None) => break,
                (Some(_), None) => (left.next(), None),
                (None, Some(_)) => (None, right.next()),
                (Some(a), Some(b)) => match a.name.cmp(&b.name) {
                    std::cmp::Ordering::Less => (left.next(), None),
                    std::cmp::Ordering::Greater => (None, right.next()),
                    std::cmp::Ordering::Equal => (left.next(), right.next()),
                },
            };
            if a == b {
                continue;
            }
            found += 1;
            if found > most {
                return Ok(None);
            }
            if let below @ ((Some(_), _) | (_, Some(_))) = (directory(a), directory(b)) {
                pairs.push(below);
            }
        }
    }
    Ok(Some(found))
}

/// Snapshots in the order in which their ready trees were last used, the latest first.
pub(super) fn latest_first(mut used: Vec<(SnapshotId, (i64, i64))>) -> Vec<SnapshotId> {
    used.sort_by(|(a, a_used), (b, b_used)| b_used.cmp(a_used).then_with(|| a.cmp(b)));
    used.into_iter().map(|(id, _)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_with_the_fewest_changes_is_brought_and_none_if_making_one_is_quicker() {
        for (row, entries, candidates, expected) in [
            ("none", 100, &[][..], None),
            ("one that is near", 100, &[('a', Some(5))], Some('a')),
            ("the nearer of two", 100, &[('a', Some(5)), ('b', Some(2))], Some('b')),
            ("two as near: the first", 100, &[('a', Some(2)), ('b', Some(2))], Some('a')),
            ("equal content under another id", 100, &[('a', Some(7)), ('b', Some(0))], Some('b')),
            ("just near enough", 100, &[('a', Some(33))], Some('a')),
            ("just too far", 100, &[('a', Some(34))], None),
            ("so far that nobody counted", 100, &[('a', None)], None),
            ("far and near", 100, &[('a', None), ('b', Some(9))], Some('b')),
            ("a tree of two entries", 2, &[('a', Some(1))], None),
            ("an empty tree that is the same", 0, &[('a', Some(0))], Some('a')),
        ] {
            assert_eq!(nearest(candidates, most_changes(entries)), expected, "{row}");
        }
    }
}

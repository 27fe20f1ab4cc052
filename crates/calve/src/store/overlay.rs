//! Makes a snapshot of another snapshot's tree and a small tree that lies over it. Nothing is read
//! but the small tree, however large the other one is.
//!
//! All that the small tree brings gets one modification time, and so do the directories whose
//! entries it changes. A build that ran in the tree below must notice the files that are new to it,
//! so this time must be later than each time in the tree below. The time at which the snapshot of
//! the tree below was recorded is. It does not depend on when the small tree was made: the same two
//! trees always make the same snapshot, and a tree that was made ready for the first one serves the
//! next one, too.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::Store;
use super::at::open_parent;
use super::blobs::{Intake, Noted};
use super::catalog::{Based, Origin};
use super::contents::Contents;
use super::freeing::taking_in;
use super::id::SnapshotId;
use super::index::Stat;
use super::manifest::{Builder, Manifest};
use super::metadata::Maker;
use super::object::{Entry, Kind, SnapshotObject, Time};
use super::paths::found::{Found, PathKept};
use super::paths::spelling::Spellings;
use super::scan::{self, IGNORE_FILE, Request, link_again, name_directories};
use super::snapshot::record::{FoundList, Recording};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta;
use crate::tree::excluded::Excluded;
use crate::tree::pool::cancelled;
use crate::tree::running::Running;

/// A snapshot that was made in this way.
pub(crate) struct Overlaid {
    pub(crate) id: SnapshotId,
    pub(crate) manifest: Manifest,
    /// For each entry that the small tree brought: its modification time there, and its stat. By
    /// the entries' numbers.
    pub(crate) brought: HashMap<u32, (Time, Stat)>,
    /// A time after the small tree was made, and before it was read.
    pub(crate) stamp: (i64, u32),
    /// How many files the small tree brought.
    pub(crate) files: u64,
}

/// The tree of both, without ids for the directories.
struct Both {
    manifest: Manifest,
    /// For each directory, its place in the tree below.
    order: Vec<Option<u32>>,
    /// The numbers of entries, here and in the small tree.
    brought: Vec<(u32, u32)>,
}

/// Records the tree of the snapshot `below` without the paths in `gone`, and with the tree in
/// the folder `over`, which no other process knows. The new snapshot is not the base of any
/// worktree yet. If there is such a snapshot already, the result is that one.
///
/// # Errors
/// Those of every operation, see [`Store`]. No snapshot was made.
pub(crate) fn record_over(
    store: &Store,
    below: SnapshotId,
    gone: &HashSet<Vec<u8>>,
    over: &Path,
    (message, origin): (&str, &Origin),
    operation: &Running,
) -> Result<Overlaid, Error> {
    taking_in(store, operation, |noted| {
        let _guard = store.share()?;
        let object = store.catalog().object(below)?;
        let base = store.catalog().manifest(below, &object)?;
        let root = fs::open(over, DIR_FLAGS, Mode::empty()).context(Operation::Open, || over)?;
        let lent = lend_rules(store.contents(), &base, gone, over, &root, noted)?;
        // Later than all that was made in the small tree, so that its stats can be trusted.
        let stamp = store.clock().past(store.clock().now()?)?;
        let found = store.snapshots().found(below, &object)?;
        let request = Request {
            path: over,
            root: &root,
            base: None,
            index: None,
            blobs: store.blobs(),
            intake: Some(noted),
            looks_only: false,
            stamp,
            maker: Maker::privileged(),
            excluded: &Excluded::default(),
            own: None,
            roots: &found.roots,
            spellings: &Spellings::fixed(found.roots.clone()),
            local: None,
            alike: None,
            only: None,
            operation,
        };
        let scan = scan::scan(&request)?;
        let Some(small) = &scan.manifest else {
            return Err(cancelled(Operation::TakeSnapshot, over));
        };
        let both = overlay(&base, gone, small, object.created).ok_or_else(|| {
            let cause = io::Error::other("more than 4,294,967,295 entries");
            Error::io(Operation::TakeSnapshot, over, cause)
        })?;
        let Both { mut manifest, order, brought } = both;
        let directories = name_directories(&mut manifest, &order, Some(&base), true);
        let same = |(_, other): &(SnapshotId, SnapshotObject)| {
            other.root == manifest.root && other.parent == Some(below) && other.message == message
        };
        let snapshots = store.catalog().snapshots()?;
        let id = match snapshots.into_iter().flatten().find(same) {
            Some((id, _)) => {
                store.contents().flush(&scan.unsealed)?;
                id
            }
            None => {
                let spellings = Spellings::fixed(found.roots.clone());
                let (project, known) = (store.project()?, Some((&found, &base)));
                let mentions = scan.mentions.paths;
                let mut found = Found::of(&project, spellings, &manifest, mentions, known);
                // git wrote the small tree, so git tracks all that it brings.
                found.keep(PathKept::Tracked, |path| small.has(path));
                store.snapshots().record(&Recording {
                    encoding: &manifest.object(Some(below), message.to_owned()).encode(),
                    tree: Some((&manifest, &directories)),
                    arrived: Some(&scan.unsealed),
                    // The snapshot below has the same needs, and git writes no special files.
                    found: Some(FoundList::Here(&found)),
                    indexes: &[],
                    based: Based::None,
                    name: None,
                    // The message says which commit it is of.
                    origin,
                })?
            }
        };
        let brought = stats_of(&brought, small, &scan.stats);
        let files = (brought.len() as u64).saturating_sub(lent);
        Ok(Overlaid { id, manifest, brought, stamp, files })
    })
}

/// The times and stats of entries that are brought, by their numbers in the tree of both.
fn stats_of(
    brought: &[(u32, u32)],
    small: &Manifest,
    stats: &[Stat],
) -> HashMap<u32, (Time, Stat)> {
    let numbers: HashMap<u32, u32> = brought.iter().map(|(here, there)| (*there, *here)).collect();
    let entries = small.entries().filter_map(|(place, slot, entry)| {
        let number = small.directories[place as usize].first + slot;
        Some((*numbers.get(&number)?, (entry.mtime, stats[number as usize])))
    });
    entries.collect()
}

/// Gives the small tree the ignore files of the tree below, where it has the directory and no
/// such file. So it is read by the rules that hold in the tree of both. Returns how many files
/// those are.
fn lend_rules(
    contents: Contents<'_>,
    base: &Manifest,
    gone: &HashSet<Vec<u8>>,
    over: &Path,
    root: &OwnedFd,
    noted: &Noted,
) -> Result<u64, Error> {
    let mut lent = 0;
    for (place, slot, entry) in base.entries() {
        let Kind::File { size, blob, .. } = entry.kind else { continue };
        let path = base.path_of(place, slot);
        if *entry.name != *IGNORE_FILE.to_bytes()
            || gone.contains(path.as_os_str().as_encoded_bytes())
        {
            continue;
        }
        let Ok(parent) = open_parent(root, &path) else { continue };
        let mode = meta::mode(entry.mode | 0o400);
        let lend = |new: OwnedFd| -> Result<(), Error> {
            if size > 0 {
                let mut intake = Intake::noting(noted);
                let (from, _) = contents.get(&mut intake, blob, size, &|| false)?;
                let copy = || -> io::Result<()> {
                    let mut from = File::from(from);
                    from.seek(io::SeekFrom::Start(0))?;
                    io::copy(&mut from, &mut File::from(new.try_clone()?))?;
                    Ok(())
                };
                copy().context(Operation::Copy, || over.join(&path))?;
            }
            meta::give_mode(&new, mode).context(Operation::SetMetadata, || over.join(&path))
        };
        match fs::openat(&parent, IGNORE_FILE, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR) {
            Ok(new) => lend(new)?,
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(Error::io(Operation::Copy, over.join(&path), errno)),
        }
        lent += 1;
    }
    Ok(lent)
}

/// What stays of the tree below.
struct Remainder {
    /// For each directory: whether it is gone with all that is in it.
    gone: Vec<bool>,
    /// For each directory: whether it stays if nothing is put into it. A directory does not stay if
    /// everything that was in it is gone.
    stays: Vec<bool>,
    /// For each directory: whether it has lost an entry.
    has_lost: Vec<bool>,
}

/// Which entries of a directory are gone, by their slots.
fn lost(base: &Manifest, place: u32, paths: &[Vec<u8>], gone: &HashSet<Vec<u8>>) -> Vec<bool> {
    let directory = &base.directories[place as usize];
    let mut path = paths[place as usize].clone();
    let length = path.len();
    let is_gone = |entry: &Entry| {
        path.truncate(length);
        path.extend_from_slice(&entry.name);
        gone.contains(&path)
    };
    directory.entries.iter().map(is_gone).collect()
}

impl Remainder {
    fn of(base: &Manifest, gone_paths: &HashSet<Vec<u8>>) -> (Self, Vec<Vec<bool>>) {
        let count = base.directories.len();
        // A directory comes after the one that it is in.
        let mut paths: Vec<Vec<u8>> = Vec::with_capacity(count);
        for (place, directory) in base.directories.iter().enumerate() {
            if place == 0 {
                paths.push(Vec::new());
                continue;
            }
            let above = &base.directories[directory.parent as usize];
            let name = &above.entries[directory.slot as usize].name;
            paths.push([&paths[directory.parent as usize], &**name, b"/"].concat());
        }
        let lost: Vec<Vec<bool>> =
            (0..).take(count).map(|place| lost(base, place, &paths, gone_paths)).collect();
        let mut rest = Self {
            gone: vec![false; count],
            stays: vec![true; count],
            has_lost: vec![false; count],
        };
        for (place, directory) in base.directories.iter().enumerate().skip(1) {
            let (above, slot) = (directory.parent as usize, directory.slot as usize);
            rest.gone[place] = rest.gone[above] || lost[above][slot];
        }
        for (place, directory) in base.directories.iter().enumerate().rev() {
            let left = |(slot, entry): (u32, &Entry)| {
                !lost[place][slot as usize]
                    && (!entry.is_directory()
                        || directory.child(slot).is_none_or(|child| rest.stays[child as usize]))
            };
            let left = (0..).zip(&directory.entries).filter(|it| left(*it)).count();
            rest.has_lost[place] = left < directory.entries.len();
            rest.stays[place] = place == 0 || left > 0 || directory.entries.is_empty();
        }
        (rest, lost)
    }
}

/// Puts the tree `over` over the tree `base`. What `over` brings gets the modification time `time`.
/// `None`: there are more entries than a number can count.
fn overlay(
    base: &Manifest,
    gone: &HashSet<Vec<u8>>,
    over: &Manifest,
    time: (i64, u32),
) -> Option<Both> {
    let (rest, lost) = Remainder::of(base, gone);
    let changes = |below: u32, above: Option<u32>| {
        let brings = above.is_some_and(|above| {
            let below = &base.directories[below as usize];
            over.directories[above as usize].entries.iter().any(|entry| {
                let old = below.find(&entry.name).map(|slot| &below.entries[slot as usize]);
                old.is_none_or(|old| !entry.is_directory() && !is_same(old, entry))
            })
        });
        brings || rest.has_lost[below as usize]
    };
    let at = |entry: &Entry, changes: bool| Entry {
        mtime: if changes { time.into() } else { entry.mtime },
        ..entry.clone()
    };
    let mut builder = Builder::new(at(&base.root, changes(0, Some(0))));
    let (mut order, mut brought, mut count) = (Vec::new(), Vec::new(), 1_u32);
    let mut queue = VecDeque::from([(Some(0), Some(0))]);
    while let Some((below, above)) = queue.pop_front() {
        let names = slots_in_both((base, below), &lost, (over, above));
        let mut entries = Vec::with_capacity(names.len());
        for (below_slot, above_slot) in names.into_values() {
            let old = below.zip(below_slot).map(|at| {
                let directory = &base.directories[at.0 as usize];
                (&directory.entries[at.1 as usize], directory.child(at.1))
            });
            let new = above.zip(above_slot).map(|at| {
                let directory = &over.directories[at.0 as usize];
                let number = directory.first + at.1;
                (&directory.entries[at.1 as usize], directory.child(at.1), number)
            });
            let entry = match (old, new) {
                (Some((old, Some(below))), Some((_, Some(above), _))) => {
                    queue.push_back((Some(below), Some(above)));
                    at(old, changes(below, Some(above)))
                }
                (_, Some((new, child, number))) => {
                    match child {
                        Some(child) => queue.push_back((None, Some(child))),
                        None => brought
                            .push((count.checked_add(u32::try_from(entries.len()).ok()?)?, number)),
                    }
                    match old {
                        // A build has seen this content.
                        Some((old, None)) if is_same(old, new) => old.clone(),
                        _ => at(new, true),
                    }
                }
                (Some((old, Some(child))), None) => {
                    if !rest.stays[child as usize] {
                        continue;
                    }
                    queue.push_back((Some(child), None));
                    at(old, changes(child, None))
                }
                (Some((old, None)), None) => old.clone(),
                (None, None) => continue,
            };
            entries.push(entry);
        }
        order.push(below);
        count = count.checked_add(u32::try_from(entries.len()).ok()?)?;
        if !builder.add(entries) {
            return None;
        }
    }
    let mut manifest = builder.finish();
    link_again(&mut manifest);
    Some(Both { manifest, order, brought })
}

/// By name, the slots of each entry in a directory of the tree below and in the same one of the
/// small tree, without entries that are lost.
fn slots_in_both<'a>(
    (base, below): (&'a Manifest, Option<u32>),
    lost: &[Vec<bool>],
    (over, above): (&'a Manifest, Option<u32>),
) -> BTreeMap<&'a [u8], (Option<u32>, Option<u32>)> {
    let mut names: BTreeMap<&[u8], (Option<u32>, Option<u32>)> = BTreeMap::new();
    if let Some(place) = below {
        for (slot, entry) in (0..).zip(&base.directories[place as usize].entries) {
            if !lost[place as usize][slot as usize] {
                names.insert(&entry.name, (Some(slot), None));
            }
        }
    }
    if let Some(place) = above {
        for (slot, entry) in (0..).zip(&over.directories[place as usize].entries) {
            names.entry(&entry.name).or_default().1 = Some(slot);
        }
    }
    names
}

/// Whether a file or a symbolic link that is brought is as it was.
fn is_same(old: &Entry, new: &Entry) -> bool {
    !old.is_directory() && old.same_content(new) && old.mode == new.mode
}

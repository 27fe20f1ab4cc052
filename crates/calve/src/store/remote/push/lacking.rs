//! Finds which contents of a snapshot a remote has, and which it lacks.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use super::super::super::Store;
use super::super::super::id::{BlobId, DirectoryId, SnapshotId};
use super::super::super::object::{Kind, decode_directory};
use super::super::super::reach::Reach;
use super::super::Remote;
use super::super::record::{PackRef, PartRef, Recipe, Record};
use super::{ASKERS, Push};
use crate::error::{Error, ErrorKind, Operation};
use crate::tree::pool::lock;

/// A record with more packs and parts is no base for others: everything is sent again, in few.
const MOST_OBJECTS: usize = 512;

/// How many ancestors of a snapshot are looked for on the remote.
const MOST_ANCESTORS: usize = 1000;

/// What the remote has.
#[derive(Default)]
pub(super) struct KnownThere {
    /// The objects that have it.
    pub(super) packs: Vec<PackRef>,
    pub(super) directories: Vec<PartRef>,
    pub(super) recipes: Vec<PartRef>,
    /// What snapshots of this store need that the remote has, too.
    pub(super) whole: Reach,
    /// Directories, and entries of packs, of other snapshots.
    pub(super) there: HashSet<DirectoryId>,
    pub(super) entries: HashSet<BlobId>,
}

impl KnownThere {
    pub(super) fn add(&mut self, record: &Record) {
        fn join<T: Copy + PartialEq>(into: &mut Vec<T>, from: &[T]) {
            for one in from {
                if !into.contains(one) {
                    into.push(*one);
                }
            }
        }
        join(&mut self.packs, &record.packs);
        join(&mut self.directories, &record.directories);
        join(&mut self.recipes, &record.recipes);
    }

    fn has_room_for(&self, record: &Record) -> bool {
        let count =
            |packs: usize, directories: usize, recipes: usize| packs + directories + recipes;
        count(self.packs.len(), self.directories.len(), self.recipes.len())
            + count(record.packs.len(), record.directories.len(), record.recipes.len())
            <= MOST_OBJECTS
    }
}

impl Remote {
    /// Learns which chunks the remote has, from the recipes of contents that it has.
    pub(super) fn learn_recipes(&self, known: &mut KnownThere) -> Result<(), Error> {
        let mut recipes = Vec::new();
        for part in &known.recipes {
            let read = self.part(*part, |item| {
                recipes.push(Recipe::decode(item)?);
                Ok(())
            });
            match read {
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                _ => {}
            }
        }
        for recipe in recipes {
            let has_all = recipe.chunks.iter().all(|(id, _)| known.entries.contains(id));
            if has_all || known.whole.blobs.contains(recipe.content) {
                known.entries.insert(recipe.content);
                known.entries.extend(recipe.chunks.into_iter().map(|(id, _)| id));
            }
        }
        Ok(())
    }
}

impl Push<'_> {
    /// What the remote has, as far as it matters for a snapshot like `object`.
    pub(super) fn known(&self, gone: &HashSet<String>) -> Result<KnownThere, Error> {
        let Self { remote, store, operation, .. } = *self;
        let mut known = KnownThere::default();
        let there: HashSet<SnapshotId> = remote
            .list("snapshots/")?
            .iter()
            .filter_map(|one| one.key.strip_prefix("snapshots/")?.parse().ok())
            .collect();
        if there.is_empty() {
            return Ok(known);
        }
        let of_name = match &self.options.name {
            None => None,
            Some(name) => match remote.newest(name, 0)? {
                None => None,
                // A name that cannot be read is no base, and no reason not to push.
                Some(last) => {
                    remote.named(name, last).ok().flatten().map(|(named, _)| named.snapshot)
                }
            },
        };
        let mut ancestor = self.object.parent;
        for _ in 0..MOST_ANCESTORS {
            let Some(id) = ancestor.filter(|id| !there.contains(id)) else { break };
            ancestor = store.catalog().snapshot(id).ok().flatten().and_then(|one| one.parent);
        }
        let newest = store.catalog().snapshot_ids()?.into_iter().find(|id| there.contains(id));
        let mut tried = Vec::new();
        for id in [of_name, ancestor, newest].into_iter().flatten() {
            if !there.contains(&id) || tried.contains(&id) {
                continue;
            }
            tried.push(id);
            // If a record cannot be read, its objects are sent again.
            let Ok(Some((record, _))) = remote.record(id) else { continue };
            if !known.has_room_for(&record)
                || record.objects().iter().any(|(key, _)| gone.contains(key))
            {
                continue;
            }
            match Reach::of(store, [id], operation) {
                Ok(reach) => {
                    known.add(&record);
                    // Of a large snapshot a second copy would take much memory.
                    if known.whole.directories.is_empty() {
                        known.whole = reach;
                    } else {
                        known.whole.extend(reach);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(_) if Some(id) == of_name => self.learn(&mut known, &record)?,
                Err(_) => {}
            }
        }
        Ok(known)
    }

    /// Learns from the remote itself what the objects of a record have. A record may name hundreds
    /// of packs, so their indexes are read at once; each thread has one of them in memory.
    fn learn(&self, known: &mut KnownThere, record: &Record) -> Result<(), Error> {
        let remote = self.remote;
        let learned = Mutex::new(KnownThere::default());
        let asking = self.operation.usually(ASKERS);
        let read_packs = remote.each(Operation::Push, &asking, record.packs.clone(), |pack| {
            let mut entries = Vec::new();
            remote.index(pack, |id, _| entries.push(id))?;
            lock(&learned).entries.extend(entries);
            Ok(())
        });
        let read_parts = read_packs.and_then(|()| {
            remote.each(Operation::Push, &asking, record.directories.clone(), |part| {
                let mut directories = Vec::new();
                remote.part(part, |item| {
                    directories.push(DirectoryId::of(item));
                    Ok(())
                })?;
                lock(&learned).there.extend(directories);
                Ok(())
            })
        });
        match read_parts {
            Ok(()) => {
                let learned = learned.into_inner().unwrap_or_else(PoisonError::into_inner);
                known.add(record);
                // Nothing else is learned in this way, so nothing is there before.
                known.there = learned.there;
                known.entries = learned.entries;
                Ok(())
            }
            // It is as if the record were not there.
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Compares the snapshot with what the remote has.
    pub(super) fn lacking(&self, known: &KnownThere) -> Result<Lacking, Error> {
        let store = self.store;
        let Lacking { mut directories, mut contents } = Lacking::default();
        let Kind::Directory(root) = self.object.root.kind else { return Ok(Lacking::default()) };
        let mut seen = HashSet::new();
        // At this many contents those that are there twice go.
        let mut most = 1 << 16;
        let mut waiting = vec![root];
        while let Some(id) = waiting.pop() {
            // Below such a directory the remote has everything.
            if known.whole.directories.contains(&id) || !seen.insert(id) {
                continue;
            }
            self.operation.check(Operation::Push, store.path())?;
            let encoding = store.catalog().encoding(id)?;
            let entries = encoding
                .and_then(|encoding| decode_directory(&encoding).map_err(|error| error.to_string()))
                .map_err(|why| lost(store, format!("directory {id}: {why}")))?;
            if !known.there.contains(&id) {
                directories.push(id);
            }
            for entry in entries.iter().rev() {
                if let Kind::Directory(id) = entry.kind {
                    waiting.push(id);
                }
            }
            for entry in entries {
                if let Kind::File { size: size @ 1.., blob, .. } = entry.kind {
                    contents.push((blob, size));
                }
            }
            if contents.len() >= most {
                keep_first(&mut contents);
                most = contents.len().saturating_mul(2).max(most);
            }
        }
        keep_first(&mut contents);
        Ok(Lacking { directories, contents })
    }
}

/// What the remote lacks of a snapshot, in the order of the tree.
#[derive(Default)]
pub(super) struct Lacking {
    pub(super) directories: Vec<DirectoryId>,
    /// With their sizes. The remote may have some of them all the same.
    pub(super) contents: Vec<(BlobId, u64)>,
}

/// Keeps the first of the contents with each id, in their order. A set of the ids would take twice
/// as much memory as the list.
pub(super) fn keep_first(contents: &mut Vec<(BlobId, u64)>) {
    // No snapshot has more entries than this can count.
    let mut order: Vec<u32> = (0..).take(contents.len()).collect();
    order.sort_unstable_by_key(|at| (contents[*at as usize].0, *at));
    order.dedup_by_key(|at| contents[*at as usize].0);
    order.sort_unstable();
    let mut kept = order.into_iter().peekable();
    let mut at = 0;
    contents.retain(|_| {
        let is_kept = kept.next_if_eq(&at).is_some();
        at += 1;
        is_kept
    });
}

pub(super) fn lost(store: &Store, why: String) -> Error {
    let cause = io::Error::new(io::ErrorKind::InvalidData, why);
    Error::new(ErrorKind::Damaged, Operation::Read, store.layout().database(), cause)
}

//! Hard links inside a tree stay hard links among themselves.
//!
//! The first name of an inode is made like any file. Its further names are noted, directory by directory, and linked when all
//! else stands; only then is every first name whole, at its place, and no longer anybody's work. A directory that waits for names
//! is finished after them, since they change its times. So is a directory whose mode shuts out its owner: a first name in it could
//! not be reached any more.
//!
//! This is done for the walk, and for the trees of a snapshot, whose nodes have other data (`D`). Only inodes with several names are kept here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::FileType;

use super::node::Node;
use super::pool::lock;
use super::source::Named;
use super::tally::Because;
use crate::reflink::meta::Meta;

const SHARDS: usize = 64;

/// What the owner needs to open a directory again and to reach what is in it.
const OWNER_MAY_REACH: u32 = 0o500;

/// Files with several names.
#[derive(Debug)]
pub(crate) struct Links<D> {
    shards: Vec<Mutex<HashMap<Inode, Known<D>>>>,
    further: Mutex<Vec<Further<D>>>,
}

/// What tells one file of the source from another.
type Inode = (u64, u64);

#[derive(Debug)]
struct Known<D> {
    first: Arc<First<D>>,
    /// How many names are still to come.
    missing: u64,
}

/// The first name of a file.
#[derive(Debug)]
pub(crate) struct First<D> {
    pub(crate) dir: Arc<Node<D>>,
    pub(crate) name: CString,
    /// Its number, where entries have numbers.
    pub(crate) number: u32,
    /// What was put there at each destination, where others may put something, too.
    put: OnceLock<Vec<OnceLock<Inode>>>,
}

/// Names of one directory that are linked later. None: it only waits for the others.
#[derive(Debug)]
pub(crate) struct Further<D> {
    pub(crate) dir: Arc<Node<D>>,
    pub(crate) names: Vec<Name<D>>,
}

/// A further name of a file.
#[derive(Debug)]
pub(crate) struct Name<D> {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
    pub(crate) number: u32,
    pub(crate) first: Arc<First<D>>,
    /// In the link modes: why it is no link to the source, at each destination.
    pub(crate) unlinked: Option<Vec<Option<Because>>>,
}

impl<D> Name<D> {
    pub(crate) fn named(&self) -> Named<'_> {
        Named { name: &self.name, kind: self.kind, number: self.number }
    }
}

/// Whether a name is the first of its file.
pub(crate) enum Seen<D> {
    First(Arc<First<D>>),
    Before(Arc<First<D>>),
}

impl<D> First<D> {
    /// Notes what was put at its place at one of so many destinations.
    pub(crate) fn was_put(&self, dest: usize, dests: usize, file: &Meta) {
        let put = self.put.get_or_init(|| (0..dests).map(|_| OnceLock::new()).collect());
        let _ = put[dest].set(file.id());
    }

    /// Whether this is what was put at a destination.
    pub(crate) fn is(&self, dest: usize, found: &Meta) -> bool {
        self.put.get().and_then(|put| put[dest].get()) == Some(&found.id())
    }
}

impl<D> Links<D> {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, further: Mutex::default() }
    }

    /// Whether `name` in `dir` is the first of a file that has so many `names`. What the directory is has to be remembered by then.
    pub(crate) fn see(
        &self,
        inode: Inode,
        names: u64,
        dir: &Arc<Node<D>>,
        name: &CStr,
        number: u32,
    ) -> Seen<D> {
        let shard = usize::try_from(inode.1 % SHARDS as u64).unwrap_or(0);
        let mut shard = lock(&self.shards[shard]);
        match shard.entry(inode) {
            Entry::Vacant(vacant) => {
                let (dir, name) = (Arc::clone(dir), name.to_owned());
                let first = Arc::new(First { dir, name, number, put: OnceLock::new() });
                let missing = names.saturating_sub(1);
                vacant.insert(Known { first: Arc::clone(&first), missing });
                Seen::First(first)
            }
            Entry::Occupied(mut occupied) => {
                let known = occupied.get_mut();
                known.missing = known.missing.saturating_sub(1);
                let first = Arc::clone(&known.first);
                if known.missing == 0 {
                    occupied.remove();
                }
                Seen::Before(first)
            }
        }
    }

    /// Notes names that are linked later; their directory waits for that.
    pub(crate) fn link_later(&self, dir: &Arc<Node<D>>, names: Vec<Name<D>>) {
        if !names.is_empty() {
            self.wait(dir, names);
        }
    }

    /// Lets a directory wait for all links where its `mode` will shut out its owner.
    pub(crate) fn hold_if_shut(&self, dir: &Arc<Node<D>>, mode: u32) {
        if mode & OWNER_MAY_REACH != OWNER_MAY_REACH {
            self.wait(dir, Vec::new());
        }
    }

    fn wait(&self, dir: &Arc<Node<D>>, names: Vec<Name<D>>) {
        dir.add_pending(1);
        lock(&self.further).push(Further { dir: Arc::clone(dir), names });
    }

    /// What waits. Who takes it links the names, and then is done with each directory.
    pub(crate) fn take(&self) -> Vec<Further<D>> {
        std::mem::take(&mut lock(&self.further))
    }
}

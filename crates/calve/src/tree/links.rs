//! Hard links inside the source stay hard links among themselves.
//!
//! The first name of an inode that the walk meets is made under a lock, so that whoever meets the second finds it made;
//! its content may come later, for it is the inode's. Only inodes with several names are kept here, and only while names
//! are missing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex};

use super::op::Node;
use super::pool::lock;
use crate::error::Error;
use crate::reflink::meta::Meta;

const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct Links {
    shards: Vec<Mutex<HashMap<(u64, u64), First>>>,
}

/// The first name of an inode.
#[derive(Debug, Clone)]
pub(super) struct First {
    pub(super) dir: Arc<Node>,
    pub(super) name: CString,
    /// What was made for it at each destination; `None` where what was there was kept.
    pub(super) ids: Vec<Option<(u64, u64)>>,
    /// How many names are still to come.
    missing: u64,
}

/// Whether a name is the first of its inode.
pub(super) enum Seen<T> {
    Never(T),
    Before(First),
}

impl Links {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    /// Makes the first name of the inode with `make`, which also says what inodes it made, or says what the first was.
    pub(super) fn first_or<T>(
        &self,
        meta: &Meta,
        dir: &Arc<Node>,
        name: &CStr,
        make: impl FnOnce() -> Result<(T, Vec<Option<(u64, u64)>>), Error>,
    ) -> Result<Seen<T>, Error> {
        let shard = usize::try_from(meta.ino % SHARDS as u64).unwrap_or(0);
        let mut shard = lock(&self.shards[shard]);
        match shard.entry(meta.id()) {
            Entry::Vacant(vacant) => {
                let (made, ids) = make()?;
                vacant.insert(First {
                    dir: Arc::clone(dir),
                    name: name.to_owned(),
                    ids,
                    missing: meta.links.saturating_sub(1),
                });
                Ok(Seen::Never(made))
            }
            Entry::Occupied(mut occupied) => {
                let first = occupied.get_mut();
                first.missing = first.missing.saturating_sub(1);
                let found = first.clone();
                if first.missing == 0 {
                    occupied.remove();
                }
                Ok(Seen::Before(found))
            }
        }
    }
}

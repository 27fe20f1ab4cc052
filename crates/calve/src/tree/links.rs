//! Hard links inside the source become hard links inside the clone.
//!
//! calve makes the first name of an inode like any file. It notes the further names, directory by
//! directory, and links them when everything else is in place. Only then is every first name
//! complete and in its place, and no thread works on it any more. A directory that waits for
//! further names is finished after them, because they change its times. A directory whose mode
//! shuts out its owner is finished after all links, too: calve could not reach a first name in it
//! any more.
//!
//! The walk and the trees of a snapshot both use this module. Their nodes have different data
//! (`D`). Only inodes with several names are kept here.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::FileType;

use super::node::Node;
use super::pool::lock;
use super::source::NamedEntry;
use super::tally::Because;
use crate::reflink::meta::Meta;

const SHARDS: usize = 64;

/// The rights that the owner needs to open a directory again and to reach its entries.
const OWNER_MAY_REACH: u32 = 0o500;

/// The files with several names that calve has seen so far.
#[derive(Debug)]
pub(crate) struct Links<D> {
    shards: Vec<Mutex<HashMap<FileKey, KnownFile<D>>>>,
    further: Mutex<Vec<Further<D>>>,
}

/// Two numbers that identify a file: in a live directory, its device and inode.
type FileNumbers = (u64, u64);

/// What identifies a file of the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FileKey {
    inode: FileNumbers,
    /// The size and the time of the content. If the file is removed with all its names while calve
    /// works, the next new file may have its inode number.
    content: (u64, (i64, i64)),
    /// Where inode numbers are not believed: the rest of its stat, and the target of a symbolic
    /// link. Then the bytes must be the same, too.
    also: Option<Also>,
}

/// The mode, the time of the last change, and the target.
type Also = (u32, (i64, i64), Option<CString>);

impl FileKey {
    /// Two numbers that no two files have.
    pub(crate) fn certain(inode: FileNumbers) -> Self {
        Self { inode, content: Default::default(), also: None }
    }

    /// The file with this stat, and, for a symbolic link, this target. `None` if it has one name
    /// only, or no number. `believed`: no two files of its filesystem have one number.
    pub(crate) fn of(meta: &Meta, target: Option<&CStr>, believed: bool) -> Option<Self> {
        if meta.links < 2 || meta.ino == 0 {
            return None;
        }
        let content = (meta.size, meta.modified());
        let also = || (meta.mode, meta.changed, target.map(CStr::to_owned));
        Some(Self { inode: meta.id(), content, also: (!believed).then(also) })
    }

    fn is_certain(&self) -> bool {
        self.also.is_none()
    }
}

#[derive(Debug)]
struct KnownFile<D> {
    first: Arc<First<D>>,
    /// How many names calve has not seen yet.
    missing: u64,
}

/// The first name of a file.
#[derive(Debug)]
pub(crate) struct First<D> {
    pub(crate) dir: Arc<Node<D>>,
    pub(crate) name: CString,
    /// The entry's number, where entries have numbers.
    pub(crate) number: u32,
    /// In a merge, for each destination: the inode that calve put there. Another process may put
    /// another one in its place.
    put: OnceLock<Vec<OnceLock<FileNumbers>>>,
}

/// The further names of one directory. If there are none, the directory only waits for all links.
#[derive(Debug)]
pub(crate) struct Further<D> {
    pub(crate) dir: Arc<Node<D>>,
    pub(crate) names: Vec<LaterName<D>>,
}

/// A further name of a file.
#[derive(Debug)]
pub(crate) struct LaterName<D> {
    pub(crate) name: CString,
    pub(crate) kind: FileType,
    pub(crate) number: u32,
    pub(crate) first: Arc<First<D>>,
    /// Whether it certainly is a name of the same file. If not, the bytes tell.
    pub(crate) is_certain: bool,
    /// In the link modes, for each destination: why the file is no link to the source.
    pub(crate) unlinked: Option<Vec<Option<Because>>>,
}

impl<D> LaterName<D> {
    /// Whether it is in its place at a destination already, in a link mode.
    pub(crate) fn is_link_to_source(&self, dest: usize) -> bool {
        self.unlinked.as_ref().is_some_and(|unlinked| unlinked[dest].is_none())
    }

    pub(crate) fn named(&self) -> NamedEntry<'_> {
        NamedEntry { name: &self.name, kind: self.kind, number: self.number }
    }
}

/// Whether a name is the first of its file, or the file had a name before.
pub(crate) enum FirstOrLater<D> {
    First(Arc<First<D>>),
    /// The value says whether that is certain.
    Before(Arc<First<D>>, bool),
}

impl<D> First<D> {
    /// Notes the inode that calve put at the first name at one destination. There are `dests`
    /// destinations.
    pub(crate) fn was_put(&self, dest: usize, dests: usize, file: &Meta) {
        let put = self.put.get_or_init(|| (0..dests).map(|_| OnceLock::new()).collect());
        let _ = put[dest].set(file.id());
    }

    /// Whether `found` is the inode that calve put at a destination.
    pub(crate) fn is(&self, dest: usize, found: &Meta) -> bool {
        self.put.get().and_then(|put| put[dest].get()) == Some(&found.id())
    }
}

impl<D> Links<D> {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, further: Mutex::default() }
    }

    /// Whether `name` in `dir` is the first name of a file that has `names` names. The caller must
    /// have called `Node::remember` for the directory.
    pub(crate) fn see(
        &self,
        file: FileKey,
        names: u64,
        dir: &Arc<Node<D>>,
        name: &CStr,
        number: u32,
    ) -> FirstOrLater<D> {
        let shard = usize::try_from(file.inode.1 % SHARDS as u64).unwrap_or(0);
        let mut shard = lock(&self.shards[shard]);
        let is_certain = file.is_certain();
        match shard.entry(file) {
            Entry::Vacant(vacant) => {
                let (dir, name) = (Arc::clone(dir), name.to_owned());
                let first = Arc::new(First { dir, name, number, put: OnceLock::new() });
                let missing = names.saturating_sub(1);
                vacant.insert(KnownFile { first: Arc::clone(&first), missing });
                FirstOrLater::First(first)
            }
            Entry::Occupied(mut occupied) => {
                let known = occupied.get_mut();
                known.missing = known.missing.saturating_sub(1);
                let first = Arc::clone(&known.first);
                if known.missing == 0 {
                    occupied.remove();
                }
                FirstOrLater::Before(first, is_certain)
            }
        }
    }

    /// Notes names to link later. Their directory waits for them.
    pub(crate) fn link_later(&self, dir: &Arc<Node<D>>, names: Vec<LaterName<D>>) {
        if !names.is_empty() {
            self.wait(dir, names);
        }
    }

    /// Lets a directory wait for all links if its `mode` will shut out its owner.
    pub(crate) fn hold_if_shut(&self, dir: &Arc<Node<D>>, mode: u32) {
        if mode & OWNER_MAY_REACH != OWNER_MAY_REACH {
            self.hold(dir);
        }
    }

    /// Lets a directory wait for all links.
    pub(crate) fn hold(&self, dir: &Arc<Node<D>>) {
        self.wait(dir, Vec::new());
    }

    fn wait(&self, dir: &Arc<Node<D>>, names: Vec<LaterName<D>>) {
        dir.add_pending(1);
        lock(&self.further).push(Further { dir: Arc::clone(dir), names });
    }

    /// Takes everything that waits. The caller links the names, and then finishes each directory.
    pub(crate) fn take(&self) -> Vec<Further<D>> {
        std::mem::take(&mut lock(&self.further))
    }
}

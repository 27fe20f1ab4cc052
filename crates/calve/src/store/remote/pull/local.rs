//! What the store has of a snapshot that is pulled: its directories, and the contents they name.

use std::collections::{HashMap, HashSet};

use super::super::super::id::{BlobId, DirectoryId};
use super::super::super::object::{Kind, SnapshotObject, decode_directory};
use super::super::super::{Store, layout};
use crate::error::{Error, Operation};
use crate::tree::running::Running;

/// At this many bytes directories are written to the database.
const BATCH_BYTES: usize = 4 << 20;

/// What a snapshot needs, as its directories say, which the store has.
pub(super) struct LocalExtent {
    /// Contents with their sizes, sorted. Empty files have none.
    pub(super) contents: Vec<(BlobId, u64)>,
}

/// A directory whose entries are being counted.
struct Counted {
    pub(super) id: DirectoryId,
    pub(super) children: Vec<DirectoryId>,
    pub(super) entries: u64,
}

impl LocalExtent {
    /// Each directory is read once. A manifest of the tree, or a table of its contents, would take
    /// several times the memory. The inner error says what is wrong with the snapshot.
    pub(super) fn of(
        store: &Store,
        object: &SnapshotObject,
        operation: &Running,
    ) -> Result<Result<Self, String>, Error> {
        let Kind::Directory(root) = object.root.kind else {
            return Ok(Err("its root is no directory".to_owned()));
        };
        let mut extent = Self { contents: Vec::new() };
        // At this many contents those that are there twice go.
        let mut most = 1 << 16;
        // How many entries there are below a directory. Two entries may refer to one directory, and
        // the entries there again, and so on. So a few bytes could unfold without end.
        let mut counts: HashMap<DirectoryId, u64> = HashMap::new();
        let read = |extent: &mut Self, id: DirectoryId| -> Result<Result<Counted, String>, Error> {
            let entries = match store.catalog().directory(id)? {
                Ok(entries) => entries,
                Err(why) => return Ok(Err(format!("directory {id}: {why}"))),
            };
            let mut counted = Counted { id, children: Vec::new(), entries: entries.len() as u64 };
            for entry in entries {
                match entry.kind {
                    Kind::Directory(id) => counted.children.push(id),
                    Kind::File { size: size @ 1.., blob, .. } => extent.contents.push((blob, size)),
                    _ => {}
                }
            }
            Ok(Ok(counted))
        };
        let mut open = match read(&mut extent, root)? {
            Ok(root) => vec![root],
            Err(why) => return Ok(Err(why)),
        };
        let in_root = store.catalog().directory(root)?.unwrap_or_default();
        if let Some(name) = in_root.iter().find_map(|entry| layout::of_calve_or_git(&entry.name)) {
            let why = format!("it has {name} in its root, which no snapshot of a project has");
            return Ok(Err(why));
        }
        let mut total = 0_u64;
        while let Some(last) = open.last_mut() {
            operation.check(Operation::Pull, store.path())?;
            if let Some(child) = last.children.pop() {
                if let Some(count) = counts.get(&child) {
                    last.entries = last.entries.saturating_add(*count);
                    continue;
                }
                match read(&mut extent, child)? {
                    Ok(child) => open.push(child),
                    Err(why) => return Ok(Err(why)),
                }
                if extent.contents.len() >= most {
                    extent.tidy();
                    most = extent.contents.len().saturating_mul(2).max(most);
                }
                continue;
            }
            let (id, entries) = (last.id, last.entries);
            open.pop();
            counts.insert(id, entries);
            match open.last_mut() {
                Some(parent) => parent.entries = parent.entries.saturating_add(entries),
                // The root is an entry, too.
                None => total = entries.saturating_add(1),
            }
        }
        if total > object.entries {
            let said = object.entries;
            return Ok(Err(format!("it has {total} entries, and says that they are {said}")));
        }
        if u32::try_from(total).is_err() {
            return Ok(Err(format!("it has {total} entries, and calve takes {}", u32::MAX)));
        }
        extent.tidy();
        let mut pairs = extent.contents.windows(2);
        if let Some(pair) = pairs.find(|pair| pair[0].0 == pair[1].0) {
            return Ok(Err(format!("it gives two sizes to content {}", pair[0].0)));
        }
        Ok(Ok(extent))
    }

    fn tidy(&mut self) {
        self.contents.sort_unstable();
        self.contents.dedup();
    }
}

/// The walk through the directories of a snapshot, as far as the store has them.
#[derive(Default)]
pub(super) struct LocalWalk {
    pub(super) waiting: Vec<DirectoryId>,
    pub(super) seen: HashSet<DirectoryId>,
    pub(super) missing: HashSet<DirectoryId>,
    /// How many directories were not in the store.
    pub(super) found: u64,
    pub(super) batch: Vec<(DirectoryId, Vec<u8>)>,
    pub(super) batch_bytes: usize,
}

impl LocalWalk {
    /// Goes on with what waits. `encodings` are directories that the store may lack. If one of them
    /// is wrong, `damaged` makes the error from the reason.
    pub(super) fn go_on(
        &mut self,
        store: &Store,
        encodings: &mut HashMap<DirectoryId, Vec<u8>>,
        damaged: impl Fn(String) -> Error,
        operation: &Running,
    ) -> Result<(), Error> {
        while let Some(id) = self.waiting.pop() {
            if self.seen.contains(&id) {
                continue;
            }
            operation.check(Operation::Pull, store.path())?;
            let entries = match store.catalog().directory(id)? {
                Ok(entries) => entries,
                Err(_) => {
                    let Some(encoding) = encodings.remove(&id) else {
                        self.missing.insert(id);
                        continue;
                    };
                    // The id is the hash of these bytes, so no other ones would be better.
                    let entries = decode_directory(&encoding)
                        .map_err(|why| damaged(format!("directory {id}: {why}")))?;
                    self.found += 1;
                    self.batch_bytes += encoding.len();
                    self.batch.push((id, encoding));
                    entries
                }
            };
            self.seen.insert(id);
            for entry in entries {
                if let Kind::Directory(id) = entry.kind
                    && !self.seen.contains(&id)
                {
                    if encodings.contains_key(&id) {
                        self.missing.remove(&id);
                    }
                    self.waiting.push(id);
                }
            }
            if self.batch_bytes >= BATCH_BYTES {
                self.keep(store)?;
            }
        }
        Ok(())
    }

    /// Puts the directories into the database. No snapshot refers to them yet.
    pub(super) fn keep(&mut self, store: &Store) -> Result<(), Error> {
        self.batch_bytes = 0;
        store.catalog().add_directories(&std::mem::take(&mut self.batch))
    }
}

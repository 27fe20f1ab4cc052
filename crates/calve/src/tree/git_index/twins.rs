//! Finds the tracked files that have the same content in two working trees, and records in the
//! second tree's index what those files have become.
//!
//! Both indexes name the content of each file by its id. If the ids are equal, and each index
//! vouches for its file (see [`rule`](super::rule)), the files are twins, and calve reads neither.
//! If one of the indexes does not vouch, calve compares the bytes. So it does, too, if the two
//! trees have different `.gitattributes` files: then one blob may be checked out in two ways.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs;

use super::entries::OpenIndex;
use super::format::IndexEntry;
use super::rule;
use super::{
    IndexedDirectory, Pair, Source, Vouched, is_locked, open_below, open_regular, replace, stat,
};
use crate::reflink::meta::{Meta, TIME_NOW, modified_at};
use crate::tree::listing::Time;

/// A working tree and the folder with its index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkingTree<'a> {
    pub(crate) root: &'a OwnedFd,
    pub(crate) git: &'a OwnedFd,
}

/// A file that has the same content in both trees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Twin {
    /// The file in the first tree.
    pub(crate) from: Meta,
    /// The file in the second tree.
    pub(crate) there: Meta,
    /// Both have the content that the second tree's index names.
    vouched: bool,
}

/// The tracked regular files of the second of two trees, and its index.
#[derive(Debug)]
pub(crate) struct Comparison {
    index: OpenIndex,
    /// Those that the first tree has as well, by their paths.
    pub(crate) twins: HashMap<Vec<u8>, Twin>,
    /// Those that the first tree lacks, or has with another content.
    others: HashMap<Vec<u8>, Other>,
}

/// A file that has no twin.
#[derive(Debug)]
struct Other {
    /// The file, if the second tree's index vouches for it.
    vouched: Option<Meta>,
    /// The file with its new time.
    renewed: Option<Meta>,
}

impl Twin {
    /// Whether the file in the second tree already has the time that it has in the first.
    pub(crate) fn has_its_time(&self) -> bool {
        self.from.modified() == self.there.modified()
    }
}

impl OpenIndex {
    /// Whether it has just these files with attributes, by path and id.
    fn has_attributes(&self, attributes: &HashMap<Vec<u8>, &[u8]>) -> bool {
        let (mut same, mut others) = (0, 0);
        self.each(|cursor, _, id| {
            if is_attributes(&cursor.path) {
                match attributes.get(&cursor.path) == Some(&id) {
                    true => same += 1,
                    false => others += 1,
                }
            }
        });
        others == 0 && same == attributes.len()
    }
}

/// The entry of a file in the first tree's index.
struct TwinEntry<'a> {
    entry: IndexEntry,
    id: &'a [u8],
}

/// Compares the tracked files of two trees of one repository. `before` is a time of
/// [`listing::now`](crate::tree::listing::now): files that changed at that time or later are not
/// twins. `None` if calve does not understand one of the indexes, or was stopped.
pub(crate) fn compare(
    first: WorkingTree<'_>,
    second: WorkingTree<'_>,
    before: Time,
    stopped: &dyn Fn() -> bool,
) -> Option<Comparison> {
    let ours = OpenIndex::read(first.git)?;
    let theirs = OpenIndex::read(second.git)?;
    let mut known = HashMap::new();
    let mut attributes = HashMap::new();
    ours.each(|cursor, entry, id| {
        if is_attributes(&cursor.path) {
            attributes.insert(cursor.path.clone(), id);
        }
        if entry.is_plain() && entry.recorded.is_regular() {
            known.insert(cursor.path.clone(), TwinEntry { entry, id });
        }
    });
    let root = IndexedDirectory::root(Source::Tree(first.root, None))?;
    let mut pair = Pair::new((&root, second.root));
    // A file with attributes that was edited has another content than its index says.
    let other_attributes = !theirs.has_attributes(&attributes)
        || attributes.keys().any(|path| {
            let from = pair.stat(path).map(|(both, _)| both.source);
            let is_clean = known.get(path).zip(from).is_some_and(|(known, from)| {
                rule::is_clean(known.entry.recorded, &from, ours.meta.modified())
            });
            !is_clean && !has_same_bytes(&pair, path)
        });
    let (mut twins, mut others) = (HashMap::new(), HashMap::new());
    let mut halted = false;
    theirs.each(|cursor, entry, id| {
        halted = halted || stopped();
        if halted || !entry.recorded.is_regular() {
            return;
        }
        let both = pair.stat(&cursor.path);
        let there = both.as_ref().map(|(_, there)| *there).or_else(|| pair.second(&cursor.path));
        let rests = |file: &Meta| rule::has_rested(file, before);
        let vouches = |index: &OpenIndex, recorded, file: &Meta| {
            rests(file) && rule::is_clean(recorded, file, index.meta.modified())
        };
        let vouched =
            there.filter(|there| entry.is_plain() && vouches(&theirs, entry.recorded, there));
        let known = known.get(&cursor.path).filter(|known| {
            entry.is_plain() && known.id == id && known.entry.recorded.mode == entry.recorded.mode
        });
        let twin = known.and_then(|known| {
            let (Vouched { source: from, .. }, there) = both?;
            let is_its = |file| rule::is_of_that_kind(entry.recorded.mode, file);
            if !is_its(&from)
                || !is_its(&there)
                || from.size != there.size
                || from.links != 1
                || there.links != 1
                || !rests(&from)
                || !rests(&there)
            {
                return None;
            }
            let from_vouched = !other_attributes && vouches(&ours, known.entry.recorded, &from);
            let known_by_indexes = from_vouched && vouched.is_some();
            let is_twin = known_by_indexes || has_same_bytes(&pair, &cursor.path);
            // The ids and the bytes are equal, so one index vouches for both files.
            let vouched = from_vouched || vouched.is_some();
            is_twin.then_some(Twin { from, there, vouched })
        });
        match twin {
            Some(twin) => drop(twins.insert(cursor.path.clone(), twin)),
            None => drop(others.insert(cursor.path.clone(), Other { vouched, renewed: None })),
        }
    });
    (!halted).then_some(Comparison { index: theirs, twins, others })
}

fn is_attributes(path: &[u8]) -> bool {
    path.strip_suffix(b".gitattributes").is_some_and(|rest| matches!(rest, [] | [.., b'/']))
}

/// Whether a file has the same bytes in both trees. The pair has its directory open.
fn has_same_bytes(pair: &Pair<'_>, path: &[u8]) -> bool {
    let Some((IndexedDirectory::Open(first, _), Some(second))) = pair.dirs() else { return false };
    let Ok(name) = CString::new(name_of(path)) else { return false };
    let (Some((first, _)), Some((second, _))) =
        (open_regular(first, &name), open_regular(second, &name))
    else {
        return false;
    };
    let mut files = [first, second].map(std::fs::File::from);
    let mut buffers = [vec![0; 64 * 1024], vec![0; 64 * 1024]];
    loop {
        let Ok(length) = files[0].read(&mut buffers[0]) else { return false };
        if length == 0 {
            return matches!(files[1].read(&mut buffers[1]), Ok(0));
        }
        if files[1].read_exact(&mut buffers[1][..length]).is_err()
            || buffers[0][..length] != buffers[1][..length]
        {
            return false;
        }
    }
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Opens the directory of a path below `root`. It follows no link.
fn directory_of(root: &OwnedFd, path: &[u8]) -> Option<OwnedFd> {
    let above = Path::new(OsStr::from_bytes(path)).parent()?;
    open_below(root, above)
}

/// Looks at files below a root. The directory of the last one stays open, because the next path is
/// often in it.
struct TwinFiles<'a> {
    root: &'a OwnedFd,
    directory: Vec<u8>,
    open: Option<OwnedFd>,
}

impl TwinFiles<'_> {
    fn stat(&mut self, path: &[u8]) -> Option<Meta> {
        let name = name_of(path);
        let directory = &path[..path.len() - name.len()];
        if self.open.is_none() || self.directory != directory {
            self.open = directory_of(self.root, path);
            self.directory = directory.to_owned();
        }
        stat(self.open.as_ref()?, &CString::new(name).ok()?)
    }
}

/// Sets the modification time of a regular file below `root`, if the file is as `expected` says.
/// `None` as the time means now. Returns the file as it is then.
fn set_time(
    root: &OwnedFd,
    path: &[u8],
    time: Option<&Meta>,
    expected: impl Fn(&Meta) -> bool,
) -> Option<Meta> {
    let directory = directory_of(root, path)?;
    let (file, found) = open_regular(&directory, &CString::new(name_of(path)).ok()?)?;
    if !expected(&found) {
        return None;
    }
    let time = time.map_or(TIME_NOW, |meta| meta.timestamps().last_modification);
    fs::futimens(&file, &modified_at(time)).ok()?;
    Meta::of_file(&file).ok()
}

impl Comparison {
    /// Gives each twin that is still the same file the time that it has in the first tree. Returns
    /// how many had another time.
    pub(crate) fn give_times(&self, root: &OwnedFd) -> u64 {
        let mut count = 0;
        for (path, twin) in &self.twins {
            let as_seen = |found: &Meta| found.is_still(&twin.there);
            if !twin.has_its_time() && set_time(root, path, Some(&twin.from), as_seen).is_some() {
                count += 1;
            }
        }
        count
    }

    /// Gives each of the other files a new time. Returns how many got one.
    pub(crate) fn renew_others(&mut self, root: &OwnedFd) -> u64 {
        let mut count = 0;
        for (path, other) in &mut self.others {
            if let Some(vouched) = other.vouched {
                other.renewed = set_time(root, path, None, |found| found.is_still(&vouched));
            }
            // The file may have changed since. The build output does not know of the change in
            // either case.
            if other.renewed.is_some() || set_time(root, path, None, |_| true).is_some() {
                count += 1;
            }
        }
        count
    }

    /// The stat that a file has by now, but for its inode, if its content is the one that the
    /// second tree's index names, and its entry does not record that stat.
    fn like(&self, path: &[u8]) -> Option<&Meta> {
        let twin = self.twins.get(path).filter(|twin| twin.vouched && !twin.has_its_time());
        let renewed = || self.others.get(path)?.renewed.as_ref();
        twin.map(|twin| &twin.from).or_else(renewed)
    }

    /// Writes to the second tree's index what its twins are by now. The first tree's content was
    /// put in their places, or its times, at `since` or later. Returns the number of rewritten
    /// entries. If anything is unexpected, the index stays as it is, and git reads these files
    /// once.
    pub(crate) fn record(mut self, tree: WorkingTree<'_>, since: Time) -> u64 {
        if is_locked(tree.git) {
            return 0;
        }
        let mut bytes = std::mem::take(&mut self.index.bytes);
        let index_written = self.index.meta.modified();
        let mut files = TwinFiles { root: tree.root, directory: Vec::new(), open: None };
        let mut count = 0;
        for chunk in &self.index.layout.chunks {
            let (mut cursor, bytes) = (chunk.cursor.clone(), &mut bytes[chunk.bytes.clone()]);
            while let Some(entry) = cursor.next(bytes) {
                if !entry.is_plain() {
                    continue;
                }
                let like = self.like(&cursor.path);
                let recorded = like.and_then(|like| {
                    rule::moved(entry.recorded, like, &files.stat(&cursor.path)?, since)
                });
                if let Some(recorded) = recorded {
                    entry.record(bytes, recorded);
                    count += 1;
                } else if let Some(doubted) = rule::doubted(entry.recorded, index_written) {
                    let is_clean = |now: Meta| {
                        now.changed < since && rule::is_clean(entry.recorded, &now, index_written)
                    };
                    if !files.stat(&cursor.path).is_some_and(is_clean) {
                        entry.record(bytes, doubted);
                    }
                }
            }
        }
        if count == 0 {
            return 0;
        }
        self.index.layout.seal(&mut bytes);
        match replace(None, tree.git, &self.index.file, &self.index.meta, &bytes) {
            Ok(()) => count,
            Err(_) => 0,
        }
    }
}

//! What an index says of paths.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::super::listing::Time;
use super::format::{Cursor, IndexEntry, IndexLayout, Recorded, read_once};
use super::{Folder, INDEX_MOST_BYTES, IndexedDirectory, Vouches, open_regular, read, rule, split};
use crate::reflink::imp::{DIR_FLAGS, LOOK_FLAGS};
use crate::reflink::meta::Meta;

/// An index that was read and understood.
#[derive(Debug)]
pub(super) struct OpenIndex {
    pub(super) file: OwnedFd,
    pub(super) meta: Meta,
    pub(super) bytes: Vec<u8>,
    pub(super) layout: IndexLayout,
}

impl OpenIndex {
    /// `None` if there is no index, or none that calve understands.
    pub(super) fn read(git: &OwnedFd) -> Option<Self> {
        let (file, meta, bytes) = bytes_in(git)?;
        let layout = IndexLayout::of(&bytes)?;
        Some(Self { file, meta, bytes, layout })
    }

    pub(super) fn each<'a>(&'a self, mut see: impl FnMut(&Cursor, IndexEntry, &'a [u8])) {
        for chunk in &self.layout.chunks {
            let (mut cursor, bytes) = (chunk.cursor.clone(), &self.bytes[chunk.bytes.clone()]);
            while let Some(entry) = cursor.next(bytes) {
                see(&cursor, entry, entry.id(bytes, &self.layout));
            }
        }
    }
}

/// The index in the directory `git`. `None` if there is none, or if it is too large.
fn bytes_in(git: &OwnedFd) -> Option<(OwnedFd, Meta, Vec<u8>)> {
    let (file, meta) = open_regular(git, c"index")?;
    if meta.size > INDEX_MOST_BYTES {
        return None;
    }
    let bytes = read(&file, meta.size)?;
    Some((file, meta, bytes))
}

/// What an index says of paths, beside their content.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecialPaths {
    pub(crate) submodules: Vec<PathBuf>,
    /// The files that git takes for unchanged without a look, and those outside of a sparse
    /// checkout.
    pub(crate) hidden: Vec<PathBuf>,
    /// Files that git takes for unchanged, since it compares whole seconds, and that changed in the
    /// second that the index records; with the id of the content that it records.
    pub(crate) of_that_second: Vec<(PathBuf, String)>,
    /// The files that were still to be looked at for that.
    pub(crate) young: YoungFiles,
}

/// Who looks for edits that git does not see: those in the second that the index records.
#[derive(Debug, Clone, Copy)]
pub(crate) enum UnseenEdits<'a> {
    /// Nobody.
    NotAsked,
    /// The files in this working tree are looked at, in which nobody edited a file before that
    /// second (since 1970).
    In(&'a Path, i64),
    /// Somebody else, by [`SpecialPaths::young`].
    Later(i64),
}

/// What an index records of files that changed in some second or later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct YoungFiles {
    /// In the order of the inodes' numbers, which git has compared.
    recorded: Vec<Recorded>,
}

impl YoungFiles {
    /// Whether one of them may have been edited although git sees no difference, as far as the
    /// metadata `file` of an entry in the tree says.
    pub(crate) fn has_edited(&self, file: &Meta) -> bool {
        let ino = rule::cut(file.ino);
        let first = self.recorded.partition_point(|it| it.ino < ino);
        let mut of_it = self.recorded[first..].iter().take_while(|it| it.ino == ino);
        of_it.any(|recorded| rule::is_of_that_second(*recorded, file))
    }
}

/// The entries of an index, sorted by their state in a tree.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// Files that have the content that the index names, with the stat of the source's file.
    pub(crate) same: HashMap<Vec<u8>, Meta>,
    /// All other files, and submodules whose folder the tree does not have.
    pub(crate) other: HashSet<Vec<u8>>,
    /// Entries that have no file in the working tree: submodules whose folder the tree has, and
    /// files that a sparse checkout leaves out.
    pub(crate) no_file: HashSet<Vec<u8>>,
}

/// The paths that git tracks, from the index of the repository `git`. `None` if calve does not
/// understand the index.
pub(crate) fn tracked(git: &OwnedFd) -> Option<BTreeSet<Vec<u8>>> {
    if matches!(fs::statat(git, c"index", AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT)) {
        return Some(BTreeSet::new());
    }
    let (_, _, bytes) = bytes_in(git)?;
    let add = |paths: &mut Vec<Vec<u8>>, cursor: &Cursor, _, _: &[u8]| {
        paths.push(cursor.path.clone());
    };
    // In one pass, since an index is sorted.
    Some(read_once(&bytes, add)?.into_iter().collect())
}

/// Those of the paths that the index of the repository `git` has. `None` if calve does not understand
/// the index, or if this is sparse; only git can be asked then.
pub(crate) fn tracked_among(git: &Path, paths: &[&Path]) -> Option<HashSet<PathBuf>> {
    let (_, _, bytes) = bytes_in(&fs::open(git, DIR_FLAGS, Mode::empty()).ok()?)?;
    let mut asked: Vec<&[u8]> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
    asked.sort_unstable();
    let look = |found: &mut (HashSet<PathBuf>, bool), cursor: &Cursor, _, _: &[u8]| {
        // A folder of a sparse index stands for the files in it.
        found.1 |= cursor.path.ends_with(b"/");
        if asked.binary_search(&&*cursor.path).is_ok() {
            found.0.insert(PathBuf::from(OsStr::from_bytes(&cursor.path)));
        }
    };
    let (tracked, is_sparse) = read_once(&bytes, look)?;
    (!is_sparse).then_some(tracked)
}

/// The special paths in the index of the repository `git`. `None` if calve does not understand the
/// index; only git can be asked then.
pub(crate) fn special_in(git: &Path, edits: UnseenEdits<'_>) -> Option<SpecialPaths> {
    if std::fs::symlink_metadata(git.join("index"))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        return Some(SpecialPaths::default());
    }
    let (_, _, bytes) = bytes_in(&fs::open(git, DIR_FLAGS, Mode::empty()).ok()?)?;
    // Neighbouring entries are in the same directory.
    let mut near: Option<(Vec<u8>, Option<OwnedFd>)> = None;
    let mut file = |root: &Path, path: &[u8]| {
        let (directory, name) = split(path)?;
        if near.as_ref().is_none_or(|(of, _)| of != directory) {
            let path = root.join(OsStr::from_bytes(directory));
            near = Some((directory.to_vec(), fs::open(path, LOOK_FLAGS, Mode::empty()).ok()));
        }
        Meta::at(near.as_ref()?.1.as_ref()?, &name).ok()
    };
    let add = |special: &mut SpecialPaths, cursor: &Cursor, entry: IndexEntry, id: &[u8]| {
        let path = || PathBuf::from(OsString::from_vec(cursor.path.clone()));
        if entry.is_submodule() {
            special.submodules.push(path());
        } else if entry.is_hidden() {
            special.hidden.push(path());
        } else {
            match edits {
                UnseenEdits::In(root, since)
                    if rule::is_since(entry.recorded, since)
                        && file(root, &cursor.path)
                            .is_some_and(|file| rule::is_of_that_second(entry.recorded, &file)) =>
                {
                    let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
                    special.of_that_second.push((path(), id));
                }
                UnseenEdits::Later(since) if rule::is_since(entry.recorded, since) => {
                    special.young.recorded.push(entry.recorded);
                }
                _ => {}
            }
        }
    };
    let mut special = read_once(&bytes, add)?;
    special.young.recorded.sort_unstable_by_key(|it| it.ino);
    Some(special)
}

/// Sorts the entries of the index in the directory `git`. `vouches` knows the tree. `before` is a
/// time before calve looked at the source. `None` if there is no index, or none that calve
/// understands.
pub(crate) fn sort(git: &OwnedFd, vouches: Option<&dyn Vouches>, before: Time) -> Option<Sorted> {
    let index = OpenIndex::read(git)?;
    let written = index.meta.modified();
    let root = vouches.map(|vouches| IndexedDirectory::Known(vouches, Folder::default()));
    // Neighbouring entries are in the same directory.
    let mut near: (Vec<u8>, Option<IndexedDirectory<'_>>) = (Vec::new(), None);
    let mut sorted = Sorted::default();
    index.each(|cursor, entry, _| {
        let path = cursor.path.clone();
        let below = |path: &[u8]| root.as_ref()?.below(Path::new(OsStr::from_bytes(path)));
        if entry.is_submodule() {
            let is_there = below(&path).is_some();
            if is_there { &mut sorted.no_file } else { &mut sorted.other }.insert(path);
            return;
        }
        if entry.is_skipped() {
            sorted.no_file.insert(path);
            return;
        }
        let mut source = || {
            let (directory, name) = split(&path)?;
            if near.1.is_none() || near.0 != directory {
                near = (directory.to_vec(), below(directory));
            }
            Some(near.1.as_ref()?.stat(&name)?.source)
        };
        let is_same = |source: &Meta| {
            entry.is_plain()
                && rule::is_clean(entry.recorded, source, written)
                && rule::has_rested(source, before)
        };
        match source().filter(is_same) {
            Some(source) => drop(sorted.same.insert(path, source)),
            None => drop(sorted.other.insert(path)),
        }
    });
    Some(sorted)
}

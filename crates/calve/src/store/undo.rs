//! The record that a switch writes so that it can be undone: `undo/record` in the folder [`home`].
//!
//! # Where
//! `git clean -x` deletes what stands in a tree. So what was moved aside from a worktree is in the
//! store. It is moved by a rename, which keeps hard links, and is as quick for a large file as for a
//! small one. Where no rename leads from the tree into the store (a worktree that is a subvolume of
//! btrfs, or on another filesystem), it is in `.calve` in the tree, as long as there is something to
//! undo.
//!
//! Beside the record are the files that were moved aside. [`switch`](crate::Worktree::switch)
//! writes the record, and [`undo`](crate::Worktree::undo) brings back the files. This module
//! defines the form of the record, and says which snapshot it needs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Mode, OFlags};

use super::files::{bytes_of, path_from, read_plain};
use super::id::{self, SnapshotId};
use super::layout::{self, UNDO, UNDO_RECORD};
use super::object::{Entry, decode_directory, encode_directory};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::tree::mounts::are_on_one_mount;

/// Room for tens of millions of paths.
const RECORD_MOST_BYTES: u64 = 1 << 30;

/// The facts that `undo` needs, beside the files that were moved aside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) from: SnapshotId,
    /// The snapshots between which the tree went since then. A snapshot that was taken of the tree is
    /// between two steps, or behind the last one.
    pub(crate) steps: Vec<UndoStep>,
    /// Paths that had been deleted by hand.
    pub(crate) deleted: Vec<PathBuf>,
    /// Entries that got other metadata or another time and were not moved, as they were before, by
    /// path. Only the mode, owner, time, attributes and kind of these entries mean something.
    pub(crate) metadata: Vec<(PathBuf, Entry)>,
}

/// One change of a tree's base snapshot that an undo takes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UndoStep {
    pub(crate) from: SnapshotId,
    pub(crate) to: SnapshotId,
}

/// The folder with the undo data of the tree at `path`. `kept` is what the store keeps of that tree
/// ([`Layout::tree`](layout::Layout::tree)).
pub(crate) fn home(path: &Path, kept: PathBuf) -> PathBuf {
    let inside = layout::own(path);
    let has_undo = |folder: &Path| std::fs::symlink_metadata(folder.join(UNDO)).is_ok();
    match has_undo(&kept) || !has_undo(&inside) && is_beside(path, kept.parent().unwrap_or(&kept)) {
        true => kept,
        false => inside,
    }
}

/// Whether a file can be renamed from one folder to the other.
fn is_beside(path: &Path, kept: &Path) -> bool {
    let device = |path: &Path| fs::stat(path).map(|stat| Meta::of(&stat).dev);
    matches!((device(path), device(kept)), (Ok(one), Ok(other)) if one == other)
        && are_on_one_mount(path, kept) != Some(false)
}

/// The snapshots that an undo with the data in the folder `home` needs. For a project, `store` is
/// its store.
///
/// # Errors
/// There is a record that cannot be read, so it may need any snapshot.
pub(crate) fn needs(home: &Path, store: Option<&Path>) -> Result<Vec<SnapshotId>, Error> {
    let read = || -> io::Result<Option<Record>> {
        let own = open_home(home, store)?;
        let undo = fs::openat(own, UNDO, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        Record::read(&undo)
    };
    let path = || home.join(UNDO).join(UNDO_RECORD);
    match read() {
        Ok(Some(record)) => {
            let steps = record.steps.into_iter().flat_map(|step| [step.from, step.to]);
            Ok(std::iter::once(record.from).chain(steps).collect())
        }
        Ok(None) => Err(Error::new(ErrorKind::Damaged, Operation::Undo, path(), damaged())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(Operation::Read, path),
    }
}

/// Why an undo cannot go by its record.
pub(crate) fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of the last restore is damaged")
}

/// Opens the folder with a tree's undo data. Links are not followed, with one exception: the folder
/// of a project may be a link to its store.
pub(crate) fn open_home(home: &Path, store: Option<&Path>) -> io::Result<OwnedFd> {
    if let Some(store) = store
        && std::fs::canonicalize(home).is_ok_and(|own| own == store)
    {
        return Ok(fs::open(store, DIR_FLAGS, Mode::empty())?);
    }
    Ok(fs::open(home, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?)
}

impl Record {
    pub(crate) fn new(from: SnapshotId) -> Self {
        Self { from, steps: Vec::new(), deleted: Vec::new(), metadata: Vec::new() }
    }

    /// Adds a step. One that was interrupted has the same start, and ends elsewhere now.
    pub(crate) fn add_step(&mut self, new: UndoStep) {
        self.steps.pop_if(|step| step.from == new.from);
        self.steps.push(new);
    }

    /// Reads the record in the folder `undo`. `None` if the file there is no record.
    pub(crate) fn read(undo: &OwnedFd) -> io::Result<Option<Self>> {
        Ok(Self::decode(&read_plain(undo, Path::new(UNDO_RECORD), RECORD_MOST_BYTES)?))
    }

    /// A zero byte ends each part, since no path contains one. Metadata is an entry of a directory
    /// object, in hexadecimal digits.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text = format!("calve undo 1\0{}\0", self.from).into_bytes();
        for UndoStep { from, to } in &self.steps {
            text.extend_from_slice(format!("S{from}:{to}\0").as_bytes());
        }
        for path in &self.deleted {
            text.push(b'D');
            text.extend_from_slice(&bytes_of(path));
            text.push(0);
        }
        for (path, entry) in &self.metadata {
            text.push(b'M');
            for byte in encode_directory(std::slice::from_ref(entry)) {
                text.extend_from_slice(format!("{byte:02x}").as_bytes());
            }
            text.push(b':');
            text.extend_from_slice(&bytes_of(path));
            text.push(0);
        }
        text
    }

    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let mut parts = text.strip_suffix(&[0])?.split(|byte| *byte == 0);
        if parts.next()? != b"calve undo 1" {
            return None;
        }
        let id = |digits: &str| Some(SnapshotId::from_bytes(id::from_hex(digits)?));
        let mut record = Self::new(id(std::str::from_utf8(parts.next()?).ok()?)?);
        for part in parts {
            match part.split_first()? {
                (b'S', ids) => {
                    let (from, to) = std::str::from_utf8(ids).ok()?.split_once(':')?;
                    record.steps.push(UndoStep { from: id(from)?, to: id(to)? });
                }
                (b'D', path) => record.deleted.push(safe(path)?),
                (b'M', rest) => {
                    let end = rest.iter().position(|byte| *byte == b':')?;
                    let entry = bytes_from_hex(&rest[..end])?;
                    let [entry] = <[Entry; 1]>::try_from(decode_directory(&entry).ok()?).ok()?;
                    // The root has an empty path.
                    let path = match &rest[end + 1..] {
                        [] => PathBuf::new(),
                        path => safe(path)?,
                    };
                    record.metadata.push((path, entry));
                }
                _ => return None,
            }
        }
        Some(record)
    }
}

fn bytes_from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.is_ascii())?;
    let pairs = (0..digits.len()).step_by(2).map(|at| digits.get(at..at + 2));
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}

/// Parses a relative path. `None` if the path leads upwards, or is empty or absolute.
fn safe(path: &[u8]) -> Option<PathBuf> {
    let path = path_from(path);
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    (plain && path.components().next().is_some()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::super::id::DirectoryId;
    use super::super::object::Kind;
    use super::*;

    #[test]
    fn a_record_decodes_to_itself_and_never_to_a_path_outside() {
        let entry = |kind| Entry {
            name: b"-"[..].into(),
            mode: 0o1751,
            uid: 12,
            gid: 34,
            mtime: (-5, 7).into(),
            attributes: Some(Box::new(vec![(b"user.a".to_vec(), b"\0:1".to_vec())])),
            kind,
        };
        let folder = Kind::Directory(DirectoryId::from_bytes([0; 32]));
        let record = Record {
            from: SnapshotId::from_bytes([9; 32]),
            steps: vec![UndoStep {
                from: SnapshotId::from_bytes([9; 32]),
                to: SnapshotId::from_bytes([8; 32]),
            }],
            deleted: vec!["a/b".into(), "c\nd".into()],
            metadata: vec![
                (PathBuf::new(), entry(Kind::Fifo { link: 0 })),
                ("f:\n".into(), entry(folder)),
            ],
        };
        assert_eq!(Record::decode(&record.encode()), Some(record));
        for path in ["../x", "/x", "a/../../x", ""] {
            let record = Record {
                deleted: vec![path.into()],
                ..Record::new(SnapshotId::from_bytes([9; 32]))
            };
            assert_eq!(Record::decode(&record.encode()), None, "{path:?}");
            let record = Record {
                metadata: vec![(path.into(), entry(Kind::Fifo { link: 0 }))],
                ..Record::new(SnapshotId::from_bytes([9; 32]))
            };
            assert_eq!(Record::decode(&record.encode()).is_some(), path.is_empty(), "{path:?}");
        }
    }
}

//! The record of an unnamed snapshot: a file in `unnamed/`.

use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs;

use super::super::files::{make_folder, open_plain};
use super::super::id::SnapshotId;
use super::super::index::{self, Index, Stat};
use super::super::layout::Layout;
use super::super::manifest::{Builder, Manifest};
use super::super::object::{
    Malformed, Reader, SnapshotObject, decode_directory, encode_directory, put_varint,
};
use crate::error::{Context as _, Error, IfThere as _, Operation};
use crate::tree::staging::write_whole_by;

#[cfg(any(test, fuzzing))]
#[path = "../../../tests/fuzzing/unnamed.rs"]
mod fuzzed;

#[cfg(test)]
pub(crate) use fuzzed::record;
#[cfg(any(test, fuzzing))]
pub(crate) use fuzzed::seed;

pub(crate) const MAGIC: &[u8; 8] = b"CALVEUNN";

/// More than the record of any project has.
const MOST_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The id in the indexes of an unnamed snapshot.
const NO_SNAPSHOT: SnapshotId = SnapshotId::from_bytes([0; 32]);

/// The stat of a file that no index vouches for.
pub(crate) const UNTRACED: Stat = Stat { ino: 0, changed: (i64::MAX, 0) };

/// A snapshot whose contents have no names yet.
#[derive(Debug)]
pub(crate) struct Unnamed {
    /// Every entry. Files have the content [`UNKNOWN`](super::super::scan::UNKNOWN) and no attributes, but for those that
    /// were as in `base` before the clone.
    pub(crate) manifest: Manifest,
    /// The project's snapshot at the start.
    pub(crate) base: Option<SnapshotId>,
    /// What stood for the entries in the project before the clone was made. An entry that differed
    /// in anything afterwards has [`UNTRACED`].
    pub(crate) project: Index,
    /// The worktrees by their tokens, and what they were made with. On btrfs all are snapshots of
    /// one subvolume, so they have one index.
    pub(crate) trees: Vec<(Vec<String>, Index)>,
    /// The seal of the subvolume that the worktrees are snapshots of. Empty: there is none.
    pub(crate) seal: Vec<u8>,
}

impl Unnamed {
    /// An index of this snapshot. It belongs to no snapshot of the store.
    pub(crate) fn index(boot: index::Boot, stamp: (i64, u32), stats: Vec<Stat>) -> Index {
        Index { snapshot: NO_SNAPSHOT, boot, stamp, stats }
    }

    /// The token of the first worktree, after which the record is named.
    pub(crate) fn token(&self) -> &str {
        self.tokens().next().unwrap_or_default()
    }

    pub(super) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.trees.iter().flat_map(|(tokens, _)| tokens.iter().map(String::as_str))
    }

    /// Writes the bytes of the record.
    fn write(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let object = self.manifest.object(self.base, String::new());
        let mut hasher = blake3::Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            to.write_all(bytes)
        };
        put(MAGIC)?;
        let mut put = |bytes: &[u8]| {
            let mut length = Vec::new();
            put_varint(&mut length, bytes.len() as u64);
            put(&length)?;
            put(bytes)
        };
        put(&object.encode())?;
        for directory in &self.manifest.directories {
            put(&encode_directory(&directory.entries))?;
        }
        put(&self.project.encode()?)?;
        put(&self.seal)?;
        for (tokens, index) in &self.trees {
            put(tokens.join(" ").as_bytes())?;
            put(&index.encode()?)?;
        }
        to.write_all(hasher.finalize().as_bytes())
    }

    /// Writes it down, for worktrees that are being made.
    pub(crate) fn keep(&self, layout: Layout<'_>) -> Result<(), Error> {
        let folder = layout.all_unnamed();
        let write = || -> io::Result<()> {
            make_folder(&folder)?;
            let path = layout.unnamed(self.token());
            write_whole_by(&layout.stage(), &path, |file| self.write(file))
        };
        write().context(Operation::Mark, || &folder)
    }

    /// Reads the record at `path`.
    pub(super) fn open(path: &Path) -> io::Result<OpenedUnnamed> {
        let opened = open_plain(fs::CWD, path, MOST_BYTES).if_there()?;
        let Some((file, length)) = opened else { return Ok(OpenedUnnamed::Gone) };
        match Self::read(io::BufReader::new(file), length) {
            Err(error)
                if error.get_ref().is_some_and(|cause| cause.is::<Malformed>())
                    || error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Ok(OpenedUnnamed::Damaged)
            }
            read => read.map(|unnamed| OpenedUnnamed::Whole(Box::new(unnamed))),
        }
    }

    /// Reads a record of `length` bytes. The bytes are about as many as its manifest takes in
    /// memory, so they are never there as a whole.
    ///
    /// # Errors
    /// [`Malformed`], and those of reading.
    fn read(from: impl io::Read, length: u64) -> io::Result<Self> {
        let left = length.checked_sub(HASH_BYTES as u64);
        let left = left.ok_or(Malformed("the record ends too early"))?;
        let mut pieces = Pieces { from, left, hasher: blake3::Hasher::new() };
        if pieces.take(MAGIC.len() as u64)? != MAGIC {
            return Err(Malformed("it is no record").into());
        }
        let object = SnapshotObject::decode(&pieces.next()?)?;
        let base = object.parent;
        let mut builder = Builder::new(object.root);
        while builder.next().is_some() {
            if !builder.add(decode_directory(&pieces.next()?)?) {
                return Err(Malformed("the record has too many entries").into());
            }
        }
        let manifest = builder.finish();
        let count = manifest.count;
        if manifest.foreign().is_some() {
            return Err(Malformed("the record has entries that no snapshot has").into());
        }
        let project = Index::decode(&pieces.next()?, count)?;
        let seal = pieces.next()?;
        let mut trees = Vec::new();
        while pieces.left > 0 {
            let tokens = pieces.next()?;
            let tokens =
                std::str::from_utf8(&tokens).map_err(|_| Malformed("a token is not UTF-8"))?;
            let tokens = tokens.split(' ').map(str::to_owned).collect();
            trees.push((tokens, Index::decode(&pieces.next()?, count)?));
        }
        if trees.is_empty() {
            return Err(Malformed("the record has no worktree").into());
        }
        pieces.end()?;
        Ok(Self { manifest, base, project, trees, seal })
    }
}

const HASH_BYTES: usize = 32;

/// Reads a record piece by piece.
struct Pieces<R> {
    from: R,
    /// How many bytes are left before the hash.
    left: u64,
    hasher: blake3::Hasher,
}

impl<R: io::Read> Pieces<R> {
    fn take(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let short = Malformed("the record ends too early");
        self.left = self.left.checked_sub(length).ok_or(short)?;
        let mut bytes = Vec::new();
        io::Read::take(&mut self.from, length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(short.into());
        }
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    /// The next piece, which comes after its length.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut length = Vec::new();
        while length.last().is_none_or(|byte| byte & 0x80 != 0) {
            length.append(&mut self.take(1)?);
            if length.len() > VARINT_MOST_BYTES {
                return Err(Malformed("a number is too large").into());
            }
        }
        let length = Reader(&length).varint()?;
        self.take(length)
    }

    fn end(mut self) -> io::Result<()> {
        let mut hash = [0; HASH_BYTES];
        self.from.read_exact(&mut hash)?;
        if *self.hasher.finalize().as_bytes() != hash {
            return Err(Malformed("the record does not have its own hash").into());
        }
        Ok(())
    }
}

/// A number of 64 bits takes at most this many bytes.
const VARINT_MOST_BYTES: usize = 10;

/// The file of an unnamed snapshot.
pub(super) enum OpenedUnnamed {
    Gone,
    Damaged,
    Whole(Box<Unnamed>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_decodes_to_itself_and_a_damaged_one_to_nothing() {
        let record = record();
        let bytes = record.encode().unwrap();
        let decoded = Unnamed::decode(&bytes).unwrap();
        assert!(decoded.is(&record) && decoded.token() == "one");
        for at in 0..bytes.len() {
            assert!(Unnamed::decode(&bytes[..at]).is_err());
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Unnamed::decode(&damaged).is_err(), "{at}");
            // The process that made the record also made its hash, so the record may say anything.
            // It must cause no panic.
            let body = damaged.len() - 32;
            let hash = *blake3::hash(&damaged[..body]).as_bytes();
            damaged[body..].copy_from_slice(&hash);
            let _ = Unnamed::decode(&damaged);
        }
    }
}

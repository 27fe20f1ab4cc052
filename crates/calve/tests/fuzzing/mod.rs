//! The functions that the fuzzers in `fuzz/` call, and that a test calls with the fuzzers' seeds.
//!
//! Each function takes any bytes, gives them to one kind of decoder, and panics if a promise does
//! not hold. The promises: a decoder refuses the bytes with an error, or they mean something that
//! encodes to the same bytes; no name leads outside; a read returns the content that was asked for.
//! A checksum would stop every fuzzer, so where the format has one, the functions put the right
//! checksum into the input.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};
use std::sync::{Mutex, OnceLock};

use crate::store::catalog::Catalog;
use crate::store::delta::{self, Counts};
use crate::store::files::unlinked_file;
use crate::store::id::{BlobId, DirectoryId, SnapshotId, from_hex};
use crate::store::index::{self, Index};
use crate::store::manifest::{Manifest, ROOT, os};
use crate::store::marker::Marked;
use crate::store::object::{self, Kind, SnapshotObject, decode_directory, encode_directory};
use crate::store::pack::{Location, Pack};
use crate::store::undo::Record;
use crate::store::unnamed::{self, Unnamed};
use crate::store::{Marker, format, path_from};
use crate::tree::CloneOptions;
use crate::tree::filter::{Decision, Filter, IgnoreChain};
use crate::worktree::patch::{self, PathChange, Side, lines};

mod database;
#[cfg(feature = "remote")]
mod remote;
pub mod seeds;
#[cfg(test)]
mod tests;

pub use database::database;
#[cfg(feature = "remote")]
pub use remote::remote;

/// A function that is fuzzed.
pub type Target = fn(&[u8]);

/// Every function that is fuzzed, by the name of its fuzzer.
pub const TARGETS: &[(&str, Target)] = &[
    ("objects", objects),
    ("manifest", manifest),
    ("pack", pack),
    ("index", index),
    ("unnamed", unnamed),
    ("git_index", git_index),
    ("texts", texts),
    ("database", database),
    ("patterns", patterns),
    ("lines", lines),
    #[cfg(feature = "remote")]
    ("remote", remote),
];

/// Takes an input apart. After its end come zeros, and empty parts.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A part of the input. Two bytes before it are its length.
    fn part(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) + usize::from(self.byte()) * 256;
        let (part, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        part
    }
}

fn is_inside(path: &Path) -> bool {
    path.components().next().is_some()
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Directory and snapshot objects: each has one encoding only.
pub fn objects(data: &[u8]) {
    if let Ok(entries) = decode_directory(data) {
        assert_eq!(encode_directory(&entries), data);
        assert!(entries.iter().all(|entry| is_inside(Path::new(os(&entry.name)))));
    }
    if let Ok(snapshot) = SnapshotObject::decode(data) {
        assert_eq!(snapshot.encode(), data);
    }
}

/// The most entries that a snapshot may claim to have here, because the entries take memory.
const MOST_ENTRIES: u64 = 600;

/// Snapshots whose directories may each be in many others, read from a database. The input consists
/// of encodings, in parts; the first is that of a snapshot. A fuzzer cannot guess a hash, so an
/// entry names a directory by the number of an earlier part.
pub fn manifest(data: &[u8]) {
    static DB: OnceLock<Mutex<Catalog>> = OnceLock::new();
    let mut input = Input(data);
    let Ok(mut snapshot) = SnapshotObject::decode(input.part()) else { return };
    snapshot.entries %= MOST_ENTRIES;
    let mut known: Vec<(DirectoryId, Vec<u8>)> = Vec::new();
    while !input.0.is_empty() && known.len() < 64 {
        let part = input.part();
        let encoding = match decode_directory(part) {
            Ok(mut entries) => {
                for entry in &mut entries {
                    if let Kind::Directory(id) = &mut entry.kind {
                        let number = usize::from(id.as_bytes()[0]);
                        if let Some((other, _)) = known.get(number) {
                            *id = *other;
                        }
                    }
                }
                encode_directory(&entries)
            }
            Err(_) => part.to_vec(),
        };
        known.push((DirectoryId::of(&encoding), encoding));
    }
    let db =
        DB.get_or_init(|| Mutex::new(Catalog::create(Path::new(":memory:")).expect("a database")));
    let db = crate::tree::pool::lock(db);
    let earlier = db.directory_ids().expect("a database in memory");
    db.forget_objects(&earlier, &[]).expect("a database in memory");
    db.add_directories(&known).expect("a database in memory");
    let read: Vec<Manifest> = known
        .iter()
        .rev()
        .take(2)
        .filter_map(|(id, _)| {
            snapshot.root.kind = Kind::Directory(*id);
            let encoding = snapshot.encode();
            let manifest = db.manifest(SnapshotId::of(&encoding), &snapshot).ok()?;
            check_manifest(&manifest, &snapshot);
            Some(manifest)
        })
        .collect();
    if let [new, old] = read.as_slice() {
        for counts in [Counts::Changes, Counts::Everything] {
            let deltas = delta::compare(old, new, counts);
            let is_root = |delta: &delta::Delta| delta.old == Some(ROOT);
            assert!(deltas.iter().all(|delta| is_root(delta) || is_inside(&delta.path)));
            assert!(deltas.windows(2).all(|pair| pair[0].path < pair[1].path));
        }
    }
}

fn check_manifest(manifest: &Manifest, snapshot: &SnapshotObject) {
    assert!(u64::from(manifest.count) <= snapshot.entries);
    let mut number = 1;
    for (place, slot, entry) in manifest.entries() {
        let directory = &manifest.directories[place as usize];
        assert_eq!(directory.first + slot, number);
        number += 1;
        assert_eq!(directory.find(&entry.name), Some(slot));
        assert!(is_inside(&manifest.path_of(place, slot)));
        assert_eq!(entry.is_directory(), directory.child(slot).is_some());
        if let Some(child) = directory.child(slot) {
            let below = &manifest.directories[child as usize];
            assert_eq!((below.parent, below.slot), (place, slot));
            let id = DirectoryId::of(&encode_directory(&below.entries));
            assert_eq!(entry.kind, Kind::Directory(id));
        }
    }
    assert_eq!(number, manifest.count);
}

/// A writer that takes at most 1 MiB.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > 1 << 20 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Packs, with their own checksums and with right ones. The right ones are the index's checksum,
/// and each content's hash as its id.
pub fn pack(data: &[u8]) {
    read_pack(data);
    let mut sealed = data.to_vec();
    let end = sealed.len();
    if let Some(length) = end.checked_sub(16).and_then(|at| sealed[at..].first_chunk())
        && let Ok(length) = usize::try_from(u64::from_le_bytes(*length))
        && let Some(start) = (end - 16).checked_sub(length)
        && length >= 32
    {
        let hash = *blake3::hash(&sealed[start..end - 48]).as_bytes();
        sealed[end - 48..end - 16].copy_from_slice(&hash);
        read_pack(&sealed);
    }
}

fn read_pack(bytes: &[u8]) {
    let file_of = |bytes: &[u8]| -> io::Result<File> {
        let file = unlinked_file()?;
        file.write_all_at(bytes, 0).map(|()| file)
    };
    let open = |bytes: &[u8]| Pack::open(file_of(bytes).expect("a file in memory"));
    let Ok(pack) = open(bytes) else { return };
    let length = bytes.len() as u64;
    let indexed = pack.index().unwrap_or_default();
    assert!(indexed.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let scanned = pack.scan().expect("damage is no error");
    assert!(scanned.windows(2).all(|pair| pair[0].1.offset < pair[1].1.offset));
    let all: BTreeMap<BlobId, Location> = indexed.into_iter().chain(scanned).collect();
    for (id, at) in all.into_iter().take(16) {
        assert!(at.offset < length && at.stored < length);
        let mut content = Limited(Vec::new());
        let read = pack.read(id, at, &mut content);
        // Reading into a file gives the same result, whatever size the entry announces. Only
        // `content` is limited to 1 MiB.
        let file = unlinked_file().expect("a file in memory");
        let into = pack.read_into(id, at, &file);
        assert!(into.is_ok() == read.is_ok() || at.size > 1 << 20);
        if content.0.len() as u64 != at.size {
            assert!(read.is_err());
            continue;
        }
        // The content that was read becomes a blob with its own hash as the id. Then the pack holds
        // this blob, unless the frame has another fault.
        let true_id = BlobId::from_bytes(*blake3::hash(&content.0).as_bytes());
        let start = usize::try_from(at.offset).expect("it is in the pack");
        let mut named = bytes.to_vec();
        named[start..start + 32].copy_from_slice(true_id.as_bytes());
        let Ok(pack) = open(&named) else { continue };
        let mut again = Limited(Vec::new());
        if pack.read(true_id, at, &mut again).is_ok() {
            assert_eq!(again.0, content.0);
        }
        if read.is_ok() {
            assert_eq!(true_id, id);
            let mut stored = vec![0; content.0.len()];
            file.read_exact_at(&mut stored, 0).expect("it was written");
            assert_eq!(stored, content.0);
        }
    }
}

/// Indexes of worktrees: with their own hash, with the right hash, and built from the input as
/// records.
pub fn index(data: &[u8]) {
    read_index(data);
    let mut sealed = [&index::MAGIC[..], &index::VERSION.to_le_bytes(), data].concat();
    let mut made = sealed[..sealed.len().min(index::HEADER_BYTES)].to_vec();
    seal_index(&mut sealed);
    if let Some((_, records)) = data.split_at_checked(index::HEADER_BYTES - 12)
        && let Ok(compressed) = zstd::bulk::compress(records, 1)
    {
        made.extend_from_slice(&compressed);
        seal_index(&mut made);
    }
}

fn seal_index(bytes: &mut Vec<u8>) {
    let hash = *blake3::hash(bytes).as_bytes();
    bytes.extend_from_slice(&hash);
    read_index(bytes);
}

fn read_index(bytes: &[u8]) {
    // The count is the last field of the header.
    let end = index::HEADER_BYTES;
    let count = bytes.get(end - 4..end).and_then(|count| count.try_into().ok());
    let count = count.map(u32::from_le_bytes);
    let Some(count) = count.filter(|count| *count < 100_000) else { return };
    let checked = Index::check(bytes, |_| Some(count.into()));
    let decoded = Index::decode(bytes, count);
    assert_eq!(decoded.as_ref().map(drop), checked.as_ref().map(|&()| ()));
    if let Ok(index) = decoded {
        let encoded = index.encode().expect("it was decoded");
        assert_eq!(Index::decode(&encoded, count), Ok(index));
        assert!(Index::decode(&encoded, count + 1).is_err());
    }
}

/// Records of trees whose contents have no names, with their own hash and with the right one.
pub fn unnamed(data: &[u8]) {
    read_unnamed(data);
    let mut sealed = [&unnamed::MAGIC[..], data].concat();
    let hash = blake3::hash(&sealed);
    sealed.extend(hash.as_bytes());
    read_unnamed(&sealed);
}

fn read_unnamed(bytes: &[u8]) {
    let Ok(record) = Unnamed::decode(bytes) else { return };
    let mut entries = record.manifest.entries();
    assert!(entries.all(|(_, _, entry)| is_inside(Path::new(os(&entry.name)))));
    let again = record.encode().expect("it was decoded");
    let again = Unnamed::decode(&again).expect("it was encoded");
    assert!(record.is(&again));
}

/// git's index, with its own checksum and with the right one. If calve understands the index and
/// makes each entry record another file, the index keeps its length, its paths and its ids, and
/// gets a checksum of its kind.
pub fn git_index(data: &[u8]) {
    crate::tree::git_index::check_any(data);
}

/// The small text files: `format`, the marker of a worktree, the record of an undo. Also names of
/// stages, and ids.
pub fn texts(data: &[u8]) {
    if format::parse(data).is_ok() {
        let text = std::str::from_utf8(data).expect("format is text");
        assert!(text.lines().skip(1).all(|line| {
            line.starts_with("compatible ") || line == "incompatible memory-not-shared"
        }));
    }
    for of in [Marked::Worktree, Marked::Project] {
        if let Some(marker) = Marker::decode(data, of) {
            assert_eq!(marker.encode(of), data);
            assert!(marker.store.is_absolute());
            assert!(marker.token.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }
    if let Some(record) = Record::decode(data) {
        assert!(record.deleted.iter().all(|path| is_inside(path)));
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        crate::tree::staging::maker_lives(text);
        if let Some(bytes) = from_hex(text) {
            assert_eq!(BlobId::from_bytes(bytes).to_string(), text.to_ascii_lowercase());
        }
    }
    assert_eq!(object::is_name(data), is_one_name(data));
}

/// Checks the same as `is_name`, with the system's idea of a name.
fn is_one_name(data: &[u8]) -> bool {
    let path = path_from(data);
    path.file_name() == Some(path.as_os_str()) && !data.contains(&0)
}

/// Patterns and ignore files. The input consists of excluded, included and mutable patterns, the
/// texts of two ignore files, and a path.
pub fn patterns(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let mut options = CloneOptions::new().gitignore(true);
    for (count, text) in [part(), part(), part()].into_iter().enumerate() {
        for line in String::from_utf8_lossy(text).lines() {
            options = match count {
                0 => options.exclude(line),
                1 => options.include(line),
                _ => options.mutable(line),
            };
        }
    }
    let (top, below) = (part(), part());
    let path = path_from(parts.next().unwrap_or_default());
    let top = IgnoreChain::push(None, Path::new(""), top);
    let first: std::path::PathBuf = path.components().take(1).collect();
    let deep = IgnoreChain::push(Some(std::sync::Arc::clone(&top)), &first, below);
    if !is_inside(&path) {
        return;
    }
    for is_dir in [false, true] {
        top.excludes(&path, is_dir);
        deep.excludes(&path, is_dir);
    }
    let Ok(filter) = Filter::new(&options) else { return };
    filter.is_mutable(&path);
    for chain in [None, Some(&top), Some(&deep)] {
        assert_ne!(filter.decide(&path, false, false, chain), Decision::Enter);
        if filter.decide(&path, true, false, chain) == Decision::Leave {
            assert_eq!(filter.decide(&path, true, true, chain), Decision::Leave);
        }
    }
}

/// The changed lines of two files, and the patch: both must make the new file from the old one. The
/// input consists of limits, a mode, and the two files, separated by a byte that UTF-8 does not
/// use.
pub fn lines(data: &[u8]) {
    let mut input = Input(data);
    let (margin, budget, mode) = (input.byte(), input.byte(), input.byte());
    let mut files = input.0.splitn(2, |byte| *byte == 0xff);
    let (old, new) = (files.next().unwrap_or_default(), files.next().unwrap_or_default());
    for budget in [lines::BUDGET, u64::from(budget) * 16] {
        assert_eq!(lines::apply(usize::from(margin), budget, old, new), new);
    }
    let mut out = Vec::new();
    let modes = [0o100_644, 0o100_755, 0o120_777];
    let side = |content, mode: u8| Side { mode: modes[usize::from(mode) % 3], content };
    let change = PathChange::Modified { old: side(old, mode), new: side(new, mode) };
    patch::write(&mut out, b"a file", &change);
    let text = old != new && patch::stat_counts(old, new).is_some();
    if text {
        assert_eq!(apply(&out, old), new);
    }
    for change in [
        PathChange::Added(side(new, mode)),
        PathChange::Deleted(side(old, mode)),
        PathChange::Modified { old: side(old, mode), new: side(new, mode / 3) },
        PathChange::Renamed { from: old, old_mode: modes[0], new: side(new, mode) },
    ] {
        patch::write(&mut out, new, &change);
    }
}

/// Applies the first patch in `text` to `old`.
fn apply(text: &[u8], old: &[u8]) -> Vec<u8> {
    let mut new = Vec::new();
    let mut old = old.split_inclusive(|byte| *byte == b'\n');
    let mut at = 0;
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').peekable();
    while lines.next_if(|line| !line.starts_with(b"@@ ")).is_some() {}
    while let Some(line) = lines.next() {
        if let Some(range) = line.strip_prefix(b"@@ -") {
            let range = std::str::from_utf8(range).expect("a range is text");
            let range = &range[..range.find(' ').expect("a range ends")];
            let (start, count) = range.split_once(',').unwrap_or((range, "1"));
            let start: usize = start.parse().expect("a number");
            // A hunk without old lines names the line before it.
            let start = if count == "0" { start } else { start - 1 };
            while at < start {
                new.extend_from_slice(old.next().expect("a line before the hunk"));
                at += 1;
            }
            continue;
        }
        let (sign, line) = line.split_first().expect("a line is not empty");
        let cut = lines.next_if(|next| next.starts_with(b"\\")).is_some();
        let line = if cut { line.strip_suffix(b"\n").expect("it was added") } else { line };
        if matches!(sign, b' ' | b'-') {
            assert_eq!(old.next(), Some(line));
            at += 1;
        }
        if matches!(sign, b' ' | b'+') {
            new.extend_from_slice(line);
        }
    }
    old.for_each(|line| new.extend_from_slice(line));
    new
}

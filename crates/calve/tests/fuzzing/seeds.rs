//! What a fuzzer begins with: real encodings, of values that have a bit of everything.
//! `fuzz/README.md` tells how they are written.

use std::io;

use crate::store::files::unlinked_file;
use crate::store::id::{BlobId, DirectoryId, SnapshotId};
use crate::store::index::{Boot, Index, Stat};
use crate::store::marker::Marked;
use crate::store::object::{Entry, Kind, SnapshotObject, encode_directory};
use crate::store::pack::PackWriter;
use crate::store::undo::Record;
use crate::store::{Marker, format};

/// A seed: its fuzzer, its name, its bytes.
pub type Seed = (&'static str, &'static str, Vec<u8>);

fn entry(name: &str, kind: Kind) -> Entry {
    Entry {
        name: name.as_bytes().into(),
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: (1_700_000_000, 123_456_789).into(),
        attributes: None,
        kind,
    }
}

fn file(name: &str, size: u64, link: u64) -> Entry {
    entry(name, Kind::File { size, link, blob: BlobId::from_bytes([7; 32]) })
}

/// In a manifest's input, a directory's number stands for its id.
fn directory(name: &str, number: u8) -> Entry {
    entry(name, Kind::Directory(DirectoryId::from_bytes([number; 32])))
}

fn symlink(link: u64) -> Kind {
    Kind::Symlink { target: (*b"../elsewhere").into(), link }
}

fn small() -> Vec<u8> {
    let attributes = vec![(b"user.a".to_vec(), b"1".to_vec()), (b"user.b".to_vec(), Vec::new())];
    let program = Entry { mode: 0o755, attributes: Some(attributes.into()), ..file("run", 0, 0) };
    let old =
        Entry { mtime: (-1, 0).into(), mode: 0o4711, ..entry("pipe", Kind::Fifo { link: 0 }) };
    let link = entry("link", symlink(0));
    encode_directory(&[file("a", 1 << 40, 1), link, old, program, file("z", 5, 1)])
}

fn snapshot(root: DirectoryId, parent: Option<SnapshotId>) -> SnapshotObject {
    SnapshotObject {
        root: entry("", Kind::Directory(root)),
        parent,
        created: (1_700_000_001, 5),
        message: "what it is".to_owned(),
        entries: 599,
        files: 6,
        bytes: 1 << 41,
    }
}

fn part(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_le_bytes(), bytes].concat()
}

fn pack_of(blobs: &[&[u8]]) -> io::Result<Vec<u8>> {
    let mut writer = PackWriter::create(unlinked_file()?, 3)?;
    for &(mut blob) in blobs {
        let id = BlobId::from_bytes(*blake3::hash(blob).as_bytes());
        writer.add(id, blob.len() as u64, &mut blob)?;
    }
    let (file, _) = writer.finish()?;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0)?;
    Ok(bytes)
}

/// All of them.
///
/// # Errors
/// Memory is not to be had.
#[expect(clippy::too_many_lines, reason = "a list: one entry for each format that is fuzzed")]
pub fn all() -> io::Result<Vec<Seed>> {
    let id = SnapshotId::from_bytes([9; 32]);
    let small = small();
    let some = snapshot(DirectoryId::of(&small), Some(id)).encode();
    let linked = [
        entry("link", symlink(7)),
        entry("link-too", symlink(7)),
        entry("pipe", Kind::Fifo { link: 300 }),
    ];
    let mut seeds: Vec<Seed> = vec![
        ("objects", "directory", small.clone()),
        ("objects", "empty", encode_directory(&[])),
        ("objects", "linked", encode_directory(&linked)),
        ("objects", "snapshot", some.clone()),
        ("objects", "first-snapshot", snapshot(DirectoryId::of(&small), None).encode()),
    ];

    let nested = encode_directory(&[directory("below", 0), file("other", 3, 0)]);
    seeds.push(("manifest", "nested", [&some, &small, &nested].map(|bytes| part(bytes)).concat()));
    // Each has the one before twice: it doubles with every one.
    let mut doubling = part(&some);
    doubling.extend(part(&small));
    for number in 0..5 {
        doubling.extend(part(&encode_directory(&[directory("a", number), directory("b", number)])));
    }
    seeds.push(("manifest", "doubling", doubling));

    let noise: Vec<u8> = (0..40_u8).flat_map(|seed| *blake3::hash(&[seed]).as_bytes()).collect();
    let zeros = vec![0; 20_000];
    seeds.extend([
        ("pack", "three", pack_of(&[b"a line\na line\na line\n", &noise, &zeros])?),
        ("pack", "one", pack_of(&[b"x"])?),
        ("pack", "none", pack_of(&[])?),
    ]);

    let stats = (0..30).map(|number| Stat {
        ino: 1000 + number * number,
        changed: (1_700_000_000 - i64::try_from(number).unwrap_or(0), 999_999_999),
    });
    let index = Index {
        snapshot: id,
        boot: Boot([5; 16]),
        stamp: (1_700_000_100, 7),
        stats: stats.collect(),
    };
    let encoded = index.encode()?;
    let empty = Index { stats: Vec::new(), ..index };
    // The last two are inputs of which the index is made: what follows the version, and the records
    // themselves.
    let records = [&[9; 32][..], &[0; 28], &10_u32.to_le_bytes(), &[0; 30]].concat();
    seeds.extend([
        ("index", "whole", encoded.clone()),
        ("index", "empty", empty.encode()?),
        ("index", "unsealed", encoded[12..encoded.len() - 32].to_vec()),
        ("index", "records", records),
    ]);

    // The second is what such an input is made of: what stands between the magic number and the
    // hash.
    let record = crate::store::unnamed::seed()?;
    seeds.extend([
        ("unnamed", "whole", record.clone()),
        ("unnamed", "unsealed", record[8..record.len() - 32].to_vec()),
    ]);

    for (name, bytes) in crate::tree::git_index::seeds() {
        seeds.push(("git_index", name, bytes));
    }

    let token = "0123456789abcdef".repeat(2);
    let marker = Marker { token, store: "/home/me/a project/.calve".into() };
    let record = Record { deleted: vec!["a/b".into(), "c\nd".into()], ..Record::new(id) };
    seeds.extend([
        ("texts", "format", format::NEW.as_bytes().to_vec()),
        (
            "texts",
            "features",
            b"calve store 1\ncompatible a\nincompatible memory-not-shared\nincompatible b\n"
                .to_vec(),
        ),
        ("texts", "marker", marker.encode(Marked::Worktree)),
        ("texts", "pointer", marker.encode(Marked::Project)),
        ("texts", "undo", record.encode()),
        ("texts", "maker", crate::tree::staging::stage_name().into_bytes()),
        ("texts", "id", id.to_string().into_bytes()),
    ]);

    // Operations, that rows are edited, then table, row, column, action and its value.
    let (everything, repair, collect) = (0xff, 0x08, 0x04);
    for (name, operations, edits) in [
        ("nothing", everything, &[][..]),
        ("pack-elsewhere", everything, &[4, 0, 1, 0x85, 6]),
        ("pack-elsewhere-repaired", repair, &[4, 0, 1, 0x85, 6]),
        ("pack-elsewhere-collected", collect, &[4, 0, 1, 0x85, 6]),
        ("pack-renamed", everything, &[4, 0, 1, 5, 6]),
        ("pack-renamed-repaired", repair, &[4, 0, 1, 5, 6]),
        ("huge-stored", everything, &[5, 0, 3, 9]),
        ("size-below-zero", everything, &[5, 1, 4, 8, 0xff]),
        ("worktree-elsewhere", everything, &[3, 1, 2, 6, 9]),
        ("token-elsewhere", everything, &[3, 1, 1, 5, 5]),
        ("name-of-nothing", everything, &[2, 0, 1, 7, 3, 0xff]),
        ("directory-flipped", everything, &[1, 0, 1, 0x47, 9, 1]),
        ("snapshot-flipped", everything, &[0, 0, 2, 0xc7, 70, 1]),
    ] {
        seeds.push(("database", name, [&[operations, 1], edits].concat()));
    }
    seeds.push(("database", "bytes", vec![everything, 0, 0x20, 0, 0xff, 0x30, 1, 0]));

    seeds.extend([
        (
            "patterns",
            "some",
            b"target/\n*.log\n/a[!x-z]b\0keep/*.log\n\0*.pyc\0*.o\n!keep.o\n\0/build\n\\#x \n**/y\0keep/build/a.o"
                .to_vec(),
        ),
        ("patterns", "classes", b"[[:alpha:][:digit:]]\n[]-a]\n[!]]\n[a\\]]\0\0\0[^/]{a,b}\n\0\0a/[x]".to_vec()),
        ("lines", "text", b"\x03\x10\x00one\ntwo\nthree\nfour\n\xffone\n2\nthree\nfour\nfive".to_vec()),
        ("lines", "repeats", [&b"\x00\x00\x01"[..], &b"a\n".repeat(40), b"\xff", &b"a\n".repeat(37), b"b"].concat()),
        ("lines", "binary", b"\x01\x01\x04a\0b\xffa\0c".to_vec()),
    ]);
    #[cfg(feature = "remote")]
    seeds.extend(of_remotes()?);
    Ok(seeds)
}

/// The first byte of each is that of its decoder.
#[cfg(feature = "remote")]
fn of_remotes() -> io::Result<Vec<Seed>> {
    use crate::store::remote::SigningKey;
    use crate::store::remote::name::Named;
    use crate::store::remote::record::{PackRef, PartRef, Parts, Recipe, Record};

    let id = |number| BlobId::from_bytes([number; 32]);
    let root = DirectoryId::of(&small());
    let record = Record {
        snapshot: snapshot(root, None).encode(),
        packs: vec![PackRef { id: id(1), length: 5000, entries: 3 }],
        directories: vec![PartRef { id: id(2), length: 100 }],
        recipes: vec![PartRef { id: id(3), length: 7 }, PartRef { id: id(4), length: 8 }],
    };
    let record = record.encode();
    let recipe = Recipe { content: id(9), chunks: vec![(id(1), 5), (id(2), 1 << 20)] }.encode();
    let mut parts = Parts::default();
    parts.add(&small())?;
    parts.add(&recipe)?;
    let part = parts.finish()?.unwrap_or_default();
    let items = zstd::decode_all(&part[8..])?;
    let remote = "0123456789abcdef0123456789abcdef";
    let named = Named {
        remote: remote.to_owned(),
        name: "main build".to_owned(),
        sequence: 12,
        snapshot: SnapshotId::from_bytes([6; 32]),
        made: 1_700_000_000,
        found: Some(id(5)),
    };
    let key = SigningKey::from_bytes(&[1; 32]);
    let known = format!(
        "calve known remote 1\nname team\nid {remote}\nurl file:///srv/a b\nkey {}\n",
        key.public()
    );
    let seed = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    Ok(vec![
        ("remote", "record", seed(0, &record)),
        ("remote", "record-unsealed", seed(1, &record[8..record.len() - 32])),
        ("remote", "recipe", seed(2, &recipe)),
        ("remote", "part", seed(3, &part[8..])),
        ("remote", "part-items", seed(4, &items)),
        ("remote", "name", seed(5, named.encode(Some(&key)).as_bytes())),
        ("remote", "name-key", seed(6, b"names/main%20build/00000000000000000012")),
        ("remote", "known", seed(6, known.as_bytes())),
    ])
}

//! The assertions of the fuzzer for git's index, and its seeds.

use sha1_smol::Sha1;

use super::format::{IndexLayout, Recorded, read_once};
use super::sha256::sha256;

/// Checks the bytes as they are, and with each kind of checksum after them.
pub(crate) fn check_any(data: &[u8]) {
    check(data);
    check(&[data, &Sha1::from(data).digest().bytes()].concat());
    check(&[data, &sha256(data)].concat());
    check(&[data, &[0; 20]].concat());
    check(&[data, &[0; 32]].concat());
}

fn check(bytes: &[u8]) {
    let Some(layout) = IndexLayout::of(bytes) else { return };
    let paths = self::paths(&layout, bytes);
    // Without its checksum, an index may parse with the other length of ids, too.
    if let Some(once) = read_once(bytes, |paths: &mut Vec<_>, cursor, _, _| {
        paths.push(cursor.path.clone());
    }) {
        assert_eq!(once, paths);
    }
    let other = Recorded { ino: 0x1234_5678, size: 7, ..Recorded::default() };
    let (mut written, mut entries) = (bytes.to_vec(), 0);
    for chunk in &layout.chunks {
        let (mut cursor, bytes) = (chunk.cursor.clone(), &mut written[chunk.bytes.clone()]);
        while let Some(entry) = cursor.next(bytes) {
            entry.record(bytes, other);
            entries += 1;
        }
    }
    layout.seal(&mut written);
    assert_eq!(written.len(), bytes.len());
    assert_eq!(paths.len(), entries);
    if !layout.has_checksum() {
        // Without a checksum, other stat fields may make the index parse with the other length of
        // ids, too.
        return;
    }
    let Some(again) = IndexLayout::of(&written) else { panic!("it was understood before") };
    assert_eq!(self::paths(&again, &written), paths);
    for chunk in &again.chunks {
        let mut cursor = chunk.cursor.clone();
        while let Some(entry) = cursor.next(&written[chunk.bytes.clone()]) {
            assert_eq!(entry.recorded, other);
        }
    }
}

fn paths(layout: &IndexLayout, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for chunk in &layout.chunks {
        let mut cursor = chunk.cursor.clone();
        while cursor.next(&bytes[chunk.bytes.clone()]).is_some() {
            paths.push(cursor.path.clone());
        }
    }
    paths
}

/// Real encodings with their names: one of each version, one without a checksum, one with an
/// extension.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let index = |version: u32, id_bytes: usize, entries: &[(u16, &[u8], &str)]| {
        let mut bytes = b"DIRC".to_vec();
        bytes.extend(version.to_be_bytes());
        bytes.extend(u32::try_from(entries.len()).unwrap_or(0).to_be_bytes());
        for (flags, before_path, path) in entries {
            let start = bytes.len();
            bytes.extend((1..=10_u32).flat_map(u32::to_be_bytes));
            bytes.extend(vec![0xab; id_bytes]);
            bytes.extend(flags.to_be_bytes());
            bytes.extend(*before_path);
            bytes.extend(path.bytes());
            bytes.push(0);
            while version < 4 && !(bytes.len() - start).is_multiple_of(8) {
                bytes.push(0);
            }
        }
        bytes
    };
    let two = index(2, 20, &[(1, &[], "a"), (5, &[], "dir/b")]);
    // The second entry has extended flags. In version 4 each path begins with the number of bytes
    // to remove from the previous one.
    let three = index(3, 20, &[(1, &[], "a"), (0x4005, &[0x20, 0], "dir/b")]);
    let four = index(4, 32, &[(5, &[0], "dir/b"), (6, &[1], "cd")]);
    let extended = [&two[..], b"TREE", &6_u32.to_be_bytes(), b"\x00-1 0\n"].concat();
    vec![
        ("version-2", [&two[..], &Sha1::from(&two).digest().bytes()].concat()),
        ("version-3", three),
        ("version-4", four),
        ("extension", extended),
        ("none", index(2, 20, &[])),
    ]
}

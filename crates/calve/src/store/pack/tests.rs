use std::collections::HashMap;
use std::io::Read;

use proptest::prelude::*;

use super::*;

fn new_file() -> File {
    tempfile::tempfile().unwrap()
}

fn file_of(bytes: &[u8]) -> File {
    let file = new_file();
    file.write_all_at(bytes, 0).unwrap();
    file
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Bytes that zstd cannot make smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn packed(blobs: &[Vec<u8>]) -> (File, Vec<(BlobId, Location)>) {
    let mut writer = PackWriter::create(new_file(), 3).unwrap();
    for blob in blobs {
        writer.add(BlobId::of(blob), blob.len() as u64, &mut &blob[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn read(pack: &Pack, id: BlobId, at: Location) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    pack.read(id, at, &mut content).map(|()| content)
}

/// A reader that hands out a few bytes at a time, and is interrupted in between.
struct Slow<'a>(&'a [u8], bool);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let take = self.0.len().min(buffer.len()).min(1000);
        buffer[..take].copy_from_slice(&self.0[..take]);
        self.0 = &self.0[take..];
        Ok(take)
    }
}

#[test]
fn what_goes_into_a_pack_comes_out_again() {
    let text = b"a line that comes again and again\n";
    let blobs = [
        vec![],
        b"x".to_vec(),
        text.to_vec(),
        noise(100_000),
        text.iter().copied().cycle().take(5 * 1024 * 1024).collect(),
        noise(5 * 1024 * 1024),
        // Lengths around the size of the buffers.
        vec![1; BUFFER_BYTES - 1],
        vec![1; BUFFER_BYTES],
        vec![1; BUFFER_BYTES + 1],
        noise(2 * BUFFER_BYTES),
        // A content that is larger than the window.
        [noise(9 << 20), noise(9 << 20)].concat(),
    ];
    for level in [-5, 1, 3, 19, 1000] {
        let blobs = if level == 3 { &blobs[..] } else { &blobs[..4] };
        let mut writer = PackWriter::create(new_file(), level).unwrap();
        let mut told = HashMap::new();
        for blob in blobs {
            let (id, size) = (BlobId::of(blob), blob.len() as u64);
            told.insert(id, writer.add(id, size, &mut Slow(blob, false)).unwrap());
            let again = writer.add(id, size, &mut io::empty()).unwrap();
            assert_eq!(again, told[&id], "a blob that is there already is not read again");
            writer.add(id, size + 1, &mut io::empty()).unwrap_err();
        }
        let (file, list) = writer.finish().unwrap();
        assert!(list.is_sorted_by(|(a, _), (b, _)| a < b));
        assert_eq!(list.iter().copied().collect::<HashMap<_, _>>(), told);

        let pack = Pack::open(file).unwrap();
        assert_eq!(pack.index().unwrap(), list);
        let mut scanned = pack.scan().unwrap();
        assert!(scanned.is_sorted_by_key(|(_, location)| location.offset));
        scanned.sort_by_key(|(id, _)| *id);
        assert_eq!(scanned, list);
        std::thread::scope(|scope| {
            for blob in blobs {
                let (pack, at) = (&pack, told[&BlobId::of(blob)]);
                scope.spawn(move || {
                    let content = read(pack, BlobId::of(blob), at).unwrap();
                    assert!(content == *blob, "{} bytes, level {level}", blob.len());
                });
            }
        });
    }
}

#[test]
fn an_empty_pack_is_a_pack() {
    let (file, list) = packed(&[]);
    let pack = Pack::open(file).unwrap();
    assert_eq!((pack.index().unwrap(), pack.scan().unwrap(), list), (vec![], vec![], vec![]));
}

#[test]
fn the_format_is_the_one_described() {
    let (file, list) = packed(&[b"content".to_vec()]);
    let (bytes, at) = (bytes_of(&file), list[0].1);
    let frame = &bytes[60..bytes.len() - 120];
    let id = *BlobId::of(b"content").as_bytes();
    let number = |number: u64| number.to_le_bytes();
    let stored = number(frame.len() as u64);
    let offset = number(12);
    let trailer = [b"CALVINDX", &number(1)[..], &id, &offset, &stored, &number(7)].concat();
    let sum = *blake3::hash(&trailer).as_bytes();
    let parts: [&[u8]; 10] = [
        b"CALVPACK",
        &1u32.to_le_bytes(),
        &id,
        &number(7),
        &stored,
        frame,
        &trailer,
        &sum,
        &number(48 + 56),
        b"CALVDONE",
    ];
    assert_eq!(bytes, parts.concat());
    assert_eq!(at, Location { offset: 12, stored: frame.len() as u64, size: 7 });
    assert_eq!(zstd::decode_all(frame).unwrap(), b"content");
}

#[test]
fn content_that_is_not_the_blob_leaves_the_pack_as_it_was() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("broken"))?;
            buffer.fill(7);
            Ok(buffer.len())
        }
    }
    struct Lying;
    impl Read for Lying {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len() + 1)
        }
    }
    let big = noise(1_000_000);
    let mut other = big.clone();
    other[999_999] ^= 1;
    let invalid = io::ErrorKind::InvalidData;
    type Row<'a> = (&'a str, &'a [u8], u64, &'a mut dyn Read, io::ErrorKind);
    let rows: &mut [Row<'_>] = &mut [
        ("short", b"abc", 3, &mut &b"ab"[..], invalid),
        ("nothing", b"abc", 3, &mut io::empty(), invalid),
        ("long", b"abc", 3, &mut &b"abcd"[..], invalid),
        ("endless", b"abc", 3, &mut io::repeat(0), invalid),
        ("another", b"abc", 3, &mut &b"abd"[..], invalid),
        ("another size", b"abc", u64::MAX, &mut &b"abc"[..], invalid),
        ("and its neighbour", b"abc", u64::MAX - 1, &mut &b"abc"[..], invalid),
        ("big and short", &big, 1_000_000, &mut &big[..999_999], invalid),
        ("big and another", &big, 1_000_000, &mut &other[..], invalid),
        ("broken", &big, 1_000_000, &mut Failing(5), io::ErrorKind::Other),
        ("lying", &big, 1_000_000, &mut Lying, invalid),
    ];
    let mut writer = PackWriter::create(new_file(), 3).unwrap();
    writer.add(BlobId::of(b"first"), 5, &mut &b"first"[..]).unwrap();
    let length = writer.file.metadata().unwrap().len();
    for (row, blob, size, content, kind) in rows {
        let error = writer.add(BlobId::of(blob), *size, *content).unwrap_err();
        assert_eq!(error.kind(), *kind, "{row}: {error}");
        assert_eq!(writer.file.metadata().unwrap().len(), length, "{row}");
    }
    writer.add(BlobId::of(b"last"), 4, &mut &b"last"[..]).unwrap();
    let (file, list) = writer.finish().unwrap();
    assert_eq!(bytes_of(&file), bytes_of(&packed(&[b"first".to_vec(), b"last".to_vec()]).0));
    assert_eq!(list.len(), 2);
}

#[test]
fn a_file_that_holds_something_is_not_made_a_pack() {
    let error = PackWriter::create(file_of(b"x"), 3).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

/// Whatever a reader does with these bytes, the result is an error or the right content.
fn assert_never_wrong(bytes: &[u8], blobs: &[Vec<u8>], known: &[(BlobId, Location)], row: &str) {
    let Ok(pack) = Pack::open(file_of(bytes)) else { return };
    let index = pack.index().unwrap_or_default();
    let scanned = pack.scan().unwrap();
    for (id, at) in index.iter().chain(&scanned).chain(known) {
        if let Ok(content) = read(&pack, *id, *at) {
            assert_eq!(BlobId::of(&content), *id, "{row}");
            assert!(blobs.contains(&content), "{row}");
        }
    }
}

fn few() -> Vec<Vec<u8>> {
    vec![vec![], b"one".to_vec(), b"two ".repeat(50), noise(90)]
}

#[test]
fn damage_to_any_byte_never_gives_wrong_content() {
    let blobs = few();
    let (file, list) = packed(&blobs);
    let bytes = bytes_of(&file);
    for at in 0..bytes.len() {
        for mask in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            let row = format!("byte {at} ^ {mask:#x}");
            assert_never_wrong(&damaged, &blobs, &list, &row);
            if let Ok(pack) = Pack::open(file_of(&damaged))
                && let Ok(index) = pack.index()
            {
                assert_eq!(index, list, "{row}: an index that is accepted is the right one");
            }
        }
    }
}

#[test]
fn a_pack_cut_at_any_length_loses_only_what_was_cut() {
    let blobs = few();
    let (file, list) = packed(&blobs);
    let bytes = bytes_of(&file);
    for length in 0..bytes.len() {
        let row = format!("cut to {length}");
        assert_never_wrong(&bytes[..length], &blobs, &list, &row);
        match Pack::open(file_of(&bytes[..length])) {
            Err(error) => {
                assert!(length < HEADER_BYTES, "{row}: {error}");
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{row}");
            }
            Ok(pack) => {
                let error = pack.index().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{row}: {error}");
                let mut scanned = pack.scan().unwrap();
                scanned.sort_by_key(|(id, _)| *id);
                let whole: Vec<_> = list
                    .iter()
                    .copied()
                    .filter(|(_, at)| at.end(length as u64).is_some())
                    .collect();
                assert_eq!(scanned, whole, "{row}");
                for (id, at) in scanned {
                    read(&pack, id, at).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_scan_ends_at_what_is_no_entry() {
    let blobs = few();
    let (file, list) = packed(&blobs);
    let bytes = bytes_of(&file);
    let entries = list.iter().filter_map(|(_, at)| at.end(u64::MAX)).max().unwrap();
    let entries = &bytes[..usize::try_from(entries).unwrap()];
    let rows: &[(&str, &[u8])] = &[
        ("a hole where a header should come", &[0; 500]),
        ("noise", &noise(500)),
        ("text", &b"no entry ".repeat(50)),
        ("nothing", b""),
    ];
    for (row, tail) in rows {
        let pack = Pack::open(file_of(&[entries, tail].concat())).unwrap();
        assert_eq!(pack.scan().unwrap().len(), blobs.len(), "{row}");
        assert_eq!(pack.index().unwrap_err().kind(), io::ErrorKind::InvalidData, "{row}");
    }
}

#[test]
fn numbers_that_lie_cost_no_memory() {
    // Allocating as much memory as one of these numbers says would abort or panic.
    let lies = [u64::MAX, u64::MAX / 2, 1 << 63, 1 << 48, 0];
    let blob = b"content ".repeat(40);
    let (file, list) = packed(std::slice::from_ref(&blob));
    let (bytes, (id, at)) = (bytes_of(&file), list[0]);
    let refused = |bytes: &[u8], at: Location| {
        let pack = Pack::open(file_of(bytes)).unwrap();
        let error = read(&pack, id, at).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{at:?}: {error}");
        if let Ok(index) = pack.index() {
            assert_eq!(index, list);
        }
        pack.scan().unwrap();
    };
    for lie in lies {
        for wrong in [
            Location { offset: lie, ..at },
            Location { stored: lie, ..at },
            Location { size: lie, ..at },
        ] {
            // First only the caller is wrong; then header and caller agree on the wrong number.
            refused(&bytes, wrong);
            let mut forged = bytes.clone();
            forged[12..60].copy_from_slice(&entry_header(id, wrong.size, wrong.stored));
            refused(&forged, wrong);
        }
        // These are the trailer's count (with the right checksum), a row, and the trailer's length.
        let trailer = bytes.len() - 120;
        for place in [8, 48, 56, 64] {
            let mut forged = bytes.clone();
            forged[trailer + place..][..8].copy_from_slice(&lie.to_le_bytes());
            let sum = *blake3::hash(&forged[trailer..trailer + 72]).as_bytes();
            forged[trailer + 72..][..32].copy_from_slice(&sum);
            let index = Pack::open(file_of(&forged)).unwrap().index();
            // The size here may be any number: the frame decides.
            assert!(index.is_err() || place == 64, "{place}: {lie}");
        }
        let mut forged = bytes.clone();
        forged[bytes.len() - 16..][..8].copy_from_slice(&lie.to_le_bytes());
        Pack::open(file_of(&forged)).unwrap().index().unwrap_err();
    }
    // The rows of this trailer are a huge hole.
    let hole = file_of(&bytes[..12]);
    let rows = (1 << 40) / ROW_BYTES as u64;
    let trailer = TRAILER_FIXED_BYTES + rows * ROW_BYTES as u64;
    let start = [TRAILER_MAGIC, rows.to_le_bytes()].concat();
    hole.write_all_at(&start, 12).unwrap();
    hole.write_all_at(&[trailer.to_le_bytes(), CLOSING_MAGIC].concat(), 12 + trailer).unwrap();
    Pack::open(hole).unwrap().index().unwrap_err();
}

#[test]
fn a_frame_that_swells_is_stopped_at_the_size() {
    let bomb = zstd::encode_all(io::repeat(0).take(256 << 20), 1).unwrap();
    // These frames ask for windows of 2 GiB and of 16 MiB.
    let wide = |exponent: u8| [&FRAME_MAGIC[..], &[0, exponent << 3], &[1, 0, 0], b"rest"].concat();
    let frame = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
    let short = frame(b"abc");
    let id = BlobId::of(b"abc");
    for (row, frame, size) in [
        ("a bomb", bomb, 3),
        ("a window of 2 GiB", wide(21), 3),
        ("a window of 16 MiB", wide(14), 3),
        ("shorter than it says", short.clone(), 4),
        ("longer than it says", short.clone(), 2),
        ("longer than nothing", short.clone(), 0),
        ("two frames", [&short[..], &short].concat(), 6),
        ("its content in two frames", [frame(b"a"), frame(b"bc")].concat(), 3),
        ("a frame to skip before it", [b"\x50\x2a\x4d\x18\0\0\0\0", &short[..]].concat(), 3),
        ("something behind it", [&short[..], b"x"].concat(), 3),
        ("cut off", short[..short.len() - 1].to_vec(), 3),
        ("another content", frame(b"abd"), 3),
        ("no frame", b"not a frame".to_vec(), 3),
    ] {
        let at = Location { offset: 12, stored: frame.len() as u64, size };
        let header = [&HEADER_MAGIC[..], &VERSION.to_le_bytes()].concat();
        let file = [&header[..], &entry_header(id, size, at.stored), &frame].concat();
        let mut content = Vec::new();
        let error = Pack::open(file_of(&file)).unwrap().read(id, at, &mut content).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{row}: {error}");
        assert!(content.len() as u64 <= size, "{row}: {} bytes came", content.len());
    }
}

#[test]
fn what_is_no_pack_is_not_opened() {
    let newer = [&HEADER_MAGIC[..], &2u32.to_le_bytes(), &[0; 100]].concat();
    for (row, bytes, kind) in [
        ("nothing", &b""[..], io::ErrorKind::InvalidData),
        ("too short", b"CALVPACK", io::ErrorKind::InvalidData),
        ("another file", b"#!/bin/sh\nexit 0\n", io::ErrorKind::InvalidData),
        ("a newer one", &newer, io::ErrorKind::Unsupported),
    ] {
        assert_eq!(Pack::open(file_of(bytes)).unwrap_err().kind(), kind, "{row}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn random_blobs_come_back_and_random_damage_is_never_served(
        blobs in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..2000), 0..8),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (file, list) = packed(&blobs);
        let bytes = bytes_of(&file);
        let pack = Pack::open(file).unwrap();
        prop_assert_eq!(&pack.index().unwrap(), &list);
        for blob in &blobs {
            let id = BlobId::of(blob);
            let at = list.iter().find(|(other, _)| *other == id).unwrap().1;
            prop_assert_eq!(&read(&pack, id, at).unwrap(), blob);
        }
        let mut damaged = bytes;
        for (at, byte) in damage {
            *at.get_mut(&mut damaged) = byte;
        }
        assert_never_wrong(&damaged, &blobs, &list, "random damage");
    }
}

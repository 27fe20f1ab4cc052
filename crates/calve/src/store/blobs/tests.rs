use super::intake::BUFFER_BYTES;
use super::*;

#[test]
fn a_seal_is_long_past_and_differs_from_blob_to_blob() {
    let mut seen = std::collections::HashSet::new();
    for number in 0..1000_u32 {
        let (seconds, nanoseconds) = seal_of(BlobId::of(&number.to_le_bytes()));
        assert!((536_870_912..1_073_741_824).contains(&seconds));
        assert!((0..1_000_000_000).contains(&nanoseconds));
        assert!(seen.insert((seconds, nanoseconds)));
    }
    // As the format has it: what another version sealed is sealed.
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(seal_of(BlobId::from_bytes(bytes)), (0x2403_0201, 0x0807_0605));
    let most = BlobId::from_bytes([0xff; 32]);
    assert_eq!(seal_of(most), (0x3fff_ffff, 0xffff_ffff % 1_000_000_000));
}

/// On the filesystem under test, which clones or does not.
fn scratch() -> tempfile::TempDir {
    match std::env::var_os("CALVE_TEST_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

/// A store's folders, and a file beside them, open for reading.
fn a_store(content: &[u8]) -> (tempfile::TempDir, OwnedFd) {
    let dir = scratch();
    for name in ["stage", "blobs"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("file"), content).unwrap();
    let file = File::open(dir.path().join("file")).unwrap().into();
    (dir, file)
}

/// The file, open for writing.
fn writer(dir: &tempfile::TempDir) -> File {
    File::options().write(true).open(dir.path().join("file")).unwrap()
}

/// If a file changes again within the tick, its time stays the same, and a process that has the
/// file open may store to it without moving a time. Then only a clone, which nobody writes to, is
/// sure to have the hash of the content that was read.
#[test]
fn what_may_change_without_a_trace_is_cloned_before_it_is_read() {
    let (dir, file) = a_store(b"content");
    let stage = Layout(dir.path()).stage();
    let meta = Meta::of(&fs::fstat(&file).unwrap());
    let (seconds, nanoseconds) = meta.changed;
    let known = sys::writers_are_known(&file).unwrap();
    let rows = [
        ("before the stamp", (seconds, nanoseconds + 1), false, usize::from(!known)),
        ("at the stamp", (seconds, nanoseconds), false, 1),
        ("after the stamp", (seconds, nanoseconds - 1), false, 1),
        ("long before the stamp, and open for writing", (seconds + 100, 0), true, 1),
    ];
    let clones_of_the_first = std::cell::OnceCell::new();
    for (row, stamp, is_open, expected) in rows {
        let blobs = Blobs::open(dir.path()).unwrap();
        let _writer = is_open.then(|| writer(&dir));
        let clones_as_it_is_read = std::cell::OnceCell::new();
        let stop = || {
            clones_as_it_is_read.get_or_init(|| std::fs::read_dir(&stage).unwrap().count());
            false
        };
        let mut intake = Intake::new();
        let taken = blobs.take_in(&mut intake, &file, meta, stamp, &stop).unwrap();
        let IntakeOutcome::Stored { blob, .. } = taken else { panic!("{row}: {taken:?}") };
        assert_eq!(blob, BlobId::of(b"content"), "{row}");
        assert_eq!(clones_as_it_is_read.get(), Some(&expected), "{row}");
        assert_eq!(std::fs::read(blobs.mirror_path(blob)).unwrap(), b"content", "{row}");
        assert_eq!(std::fs::read_dir(&stage).unwrap().count(), 0, "{row}");
        // Where the filesystem can clone, it does so either way.
        let IntakeCounts { cloned_files: cloned, copied_files, copied_bytes, .. } = intake.counts;
        assert_eq!((cloned + copied_files, copied_bytes), (1, 7 * copied_files), "{row}");
        assert_eq!(cloned, *clones_of_the_first.get_or_init(|| cloned), "{row}");
        blobs.remove(blob).unwrap();
    }
}

#[test]
fn the_index_vouches_for_a_file_only_if_a_later_change_must_show_in_its_times() {
    use Writers::{None, Possible, Unknown};
    let stamp = (1000, 500);
    for (writers, protected, changed, expected) in [
        // Who writes to it has to open it first.
        (None, false, (999, 0), true),
        (None, true, (1000, 499), true),
        // A dirty page may take stores.
        (Possible, false, (1, 0), false),
        // It was written back; but what had set the times just before may still have to store.
        (Possible, true, (1000, 499), false),
        (Possible, true, (990, 500), false),
        (Possible, true, (990, 499), true),
        (Possible, true, (1, 0), true),
        (Possible, true, (i64::MAX, 0), false),
        // There is nothing but the times to go by.
        (Unknown, false, (999, 0), true),
    ] {
        let row = format!("{writers:?}, protected: {protected}, changed: {changed:?}");
        assert_eq!(is_traced(writers, protected, changed, stamp), expected, "{row}");
    }
}

/// A read lease tells it, of whatever opened the file, and of nobody else.
#[test]
fn who_has_a_file_open_for_writing_is_a_possible_writer() {
    let (dir, file) = a_store(b"content");
    let meta = Meta::of(&fs::fstat(&file).unwrap());
    let mut intake = Intake::new();
    let nobody = match sys::writers_are_known(&file).unwrap() {
        true => Writers::None,
        false => Writers::Unknown,
    };
    let some = if nobody == Writers::None { Writers::Possible } else { Writers::Unknown };
    assert_eq!(intake.writers(&file, meta.dev), nobody);
    let reader = File::open(dir.path().join("file")).unwrap();
    assert_eq!(intake.writers(&file, meta.dev), nobody, "beside a reader");
    let write = writer(&dir);
    assert_eq!(intake.writers(&file, meta.dev), some, "beside a writer");
    drop(write);
    assert_eq!(intake.writers(&file, meta.dev), nobody, "after the writer");
    drop(reader);
}

#[test]
fn a_file_that_changes_as_it_is_taken_in_is_stored_as_it_was_at_one_moment() {
    use std::os::unix::fs::FileExt as _;
    // Two pieces are read of it; it changes before the look (0), before the first (1), between them
    // (2).
    let content = vec![7; BUFFER_BYTES + 1000];
    for (stamp, when) in [i64::MIN, i64::MAX].into_iter().flat_map(|at| [0, 1, 2].map(|n| (at, n)))
    {
        for longer in [false, true] {
            let row = format!("stamp {stamp}, changed at {when}, longer: {longer}");
            let (dir, file) = a_store(&content);
            let blobs = Blobs::open(dir.path()).unwrap();
            let meta = Meta::of(&fs::fstat(&file).unwrap());
            let change = || {
                listing::wait_for_tick_after(meta.changed);
                let write = writer(&dir);
                write.write_all_at(&[8], 10).unwrap();
                if longer {
                    write.write_all_at(&[9; 10], content.len() as u64).unwrap();
                }
            };
            let calls = std::cell::Cell::new(0);
            let stop = || {
                calls.set(calls.get() + 1);
                if calls.get() == when {
                    change();
                }
                false
            };
            if when == 0 {
                change();
            }
            let taken = blobs.take_in(&mut Intake::new(), &file, meta, (stamp, 0), &stop).unwrap();
            let IntakeOutcome::Stored { blob, meta, traced, .. } = taken else {
                panic!("{row}: {taken:?}")
            };
            let stored = std::fs::read(blobs.mirror_path(blob)).unwrap();
            assert!(BlobId::of(&stored) == blob, "{row}: something else has its name");
            assert_eq!(stored.len() as u64, meta.size, "{row}");
            // What the index will know it by.
            let changed = Meta::of(&fs::fstat(&file).unwrap()).changed;
            let now = std::fs::read(dir.path().join("file")).unwrap();
            assert!(
                stored == now || !traced || meta.changed != changed,
                "{row}: taken for what it is now"
            );
        }
    }
}

/// Somebody may put a file of the same name in the place of ours between our flush and our seal,
/// and it has not been flushed.
#[test]
fn what_came_after_the_flush_began_is_not_sealed() {
    let dir = scratch();
    for name in ["blobs", "stage"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let blobs = Blobs::open(dir.path()).unwrap();
    let id = BlobId::of(b"content");
    blobs.put(id, |file| io::Write::write_all(file, b"content")).unwrap();
    for (flushed, sealed) in [((0, 0), false), ((i64::MAX, 0), true)] {
        blobs.seal(&[id], flushed).unwrap();
        assert_eq!(blobs.is_sealed(id, 7).unwrap(), sealed, "{flushed:?}");
    }
}

#[cfg(feature = "remote")]
#[test]
fn in_a_store_in_a_stage_what_is_put_is_sealed_at_once_and_what_failed_never() {
    let id = BlobId::of(b"content");
    for row in ["nothing there", "an attempt that failed", "the same content"] {
        let (dir, ..) = a_store(b"");
        let mut blobs = Blobs::open(dir.path()).unwrap();
        blobs.in_stage();
        assert!(!blobs.has_any().unwrap(), "{row}");
        match row {
            "an attempt that failed" => {
                let failed = blobs.put(id, |file| {
                    io::Write::write_all(file, b"cont")?;
                    Err(io::ErrorKind::InvalidData.into())
                });
                assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::InvalidData);
                assert!(!blobs.is_sealed(id, 7).unwrap() && !blobs.is_sealed(id, 4).unwrap());
                assert!(blobs.good(&mut Intake::new(), id, 7, &|| false).unwrap().is_none());
            }
            "the same content" => {
                drop(blobs.put(id, |file| io::Write::write_all(file, b"content")).unwrap());
            }
            _ => {}
        }
        let file = blobs.put(id, |file| io::Write::write_all(file, b"content")).unwrap();
        assert!(blobs.is_sealed(id, 7).unwrap() && blobs.has_any().unwrap(), "{row}");
        let mut read = [0; 8];
        assert_eq!(
            rustix::io::pread(&file, &mut read, 0).unwrap(),
            7,
            "{row}: it can be cloned from"
        );
        assert_eq!(std::fs::read(blobs.mirror_path(id)).unwrap(), b"content", "{row}");
        assert_eq!(std::fs::read_dir(dir.path().join("stage")).unwrap().count(), 0, "{row}");
    }
}

#[test]
fn what_is_at_a_name_is_served_only_if_it_is_the_content_of_that_name() {
    let id = BlobId::of(b"content");
    let long_past = seal_of(id);
    // What is there, whether it bears the seal, whether that holds, and whether it is served.
    for (row, there, bears_it, sealed, good) in [
        ("sealed", &b"content"[..], true, true, true),
        ("not sealed yet", b"content", false, false, true),
        ("another of its size", b"CONTENT", false, false, false),
        ("cut short", b"cont", true, false, false),
        ("cut short and not sealed", b"cont", false, false, false),
        ("longer", b"content and more", true, false, false),
    ] {
        let (dir, ..) = a_store(b"");
        let blobs = Blobs::open(dir.path()).unwrap();
        let file = blobs.put(id, |file| io::Write::write_all(file, there)).unwrap();
        if bears_it {
            fs::futimens(&file, &timestamps(long_past)).unwrap();
        }
        assert_eq!(blobs.is_sealed(id, 7).unwrap(), sealed, "{row}");
        let looked = blobs.look(id, 7).unwrap();
        assert_eq!(matches!(looked, Mirror::Sealed(..)), sealed, "{row}: {looked:?}");
        let served = blobs.good(&mut Intake::new(), id, 7, &|| false).unwrap();
        assert_eq!(served.is_some(), good, "{row}");
        assert_eq!(blobs.is_sealed(id, 7).unwrap(), good, "{row}: sealed if it was found good");
    }
}

#[test]
fn what_is_damaged_at_the_name_of_a_content_is_replaced_as_that_is_taken_in() {
    for (row, there) in [("of its size", &b"CONTENT"[..]), ("cut short", b"cont"), ("empty", b"")] {
        for stamp in [i64::MIN, i64::MAX] {
            let (dir, file) = a_store(b"content");
            let blobs = Blobs::open(dir.path()).unwrap();
            let id = BlobId::of(b"content");
            drop(blobs.put(id, |file| io::Write::write_all(file, there)).unwrap());
            let meta = Meta::of(&fs::fstat(&file).unwrap());
            let taken =
                blobs.take_in(&mut Intake::new(), &file, meta, (stamp, 0), &|| false).unwrap();
            assert!(
                matches!(taken, IntakeOutcome::Stored { blob, size: 7, .. } if blob == id),
                "{row}"
            );
            let mirror = std::fs::read(blobs.mirror_path(id)).unwrap();
            assert_eq!(mirror, b"content", "{row}, stamp {stamp}");
        }
    }
}

#[test]
fn a_file_is_unchanged_only_if_its_size_and_both_its_times_are() {
    use std::os::unix::fs::FileExt as _;
    type Change = fn(&File, &Meta);
    let rows: [(&str, bool, Change); 4] = [
        ("read", true, |_, _| ()),
        ("written to", false, |file, _| file.write_all_at(b"C", 0).unwrap()),
        ("written to, and given its time again", false, |file, meta| {
            file.write_all_at(b"C", 0).unwrap();
            fs::futimens(file, &timestamps(meta.modified())).unwrap();
        }),
        ("cut short, and given its time again", false, |file, meta| {
            file.set_len(3).unwrap();
            fs::futimens(file, &timestamps(meta.modified())).unwrap();
        }),
    ];
    for (row, expected, change) in rows {
        let (dir, file) = a_store(b"content");
        let meta = Meta::of(&fs::fstat(&file).unwrap());
        listing::wait_for_tick_after(meta.changed);
        change(&writer(&dir), &meta);
        assert_eq!(unchanged(&file, &meta).unwrap(), expected, "{row}");
    }
}

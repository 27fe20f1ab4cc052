//! Promise: a store loses nothing and serves nothing wrong, whatever is packed, warmed and
//! collected, and whoever else uses the store at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::snapshot::{Snapshot, assert_same};
use crate::common::{
    Scratch, as_nobody, bytes, expects_reflink, filesystem, is_root, names, not_run, odd,
    plain_tree,
};
use crate::maintained::{Project, at_once, common, few, tree};
use crate::stores::{Desk, assert_sound, options, put, stamp, status};
use calve::{
    Cancel, DropOptions, ErrorKind, GcOptions, NotReshared, PackOptions, ReshareOptions,
    SnapshotId, SnapshotOptions, StartOptions, Store, VerifyOptions,
};

#[test]
fn what_was_packed_starts_the_same_tree_and_its_mirrors_are_made_again() {
    let project = Project::new(odd::build);
    let id = project.snapshot();
    let expected = tree(&project.path);
    assert_same(&expected, &project.start(id).unwrap(), "before");
    let before = project.store.stats().unwrap();
    assert!(before.mirrors > 10 && before.packed_blobs == 0, "{before:?}");
    let report = project.pack_all();
    assert_eq!(report.packed_blobs, before.mirrors, "{report:?}");
    assert_eq!(report.packed_bytes, before.mirror_bytes, "{report:?}");
    assert_eq!(report.dropped_mirrors, before.mirrors, "{report:?}");
    assert!(report.damaged.is_empty() && report.stored_bytes < report.packed_bytes, "{report:?}");
    let packed = project.store.stats().unwrap();
    assert_eq!((packed.mirrors, packed.packed_blobs), (0, before.mirrors), "{packed:?}");
    assert_eq!((packed.blobs, packed.blob_bytes), (before.blobs, before.blob_bytes));
    project.assert_sound();

    project.break_templates();
    assert_same(&expected, &project.start(id).unwrap(), "packed");
    let promoted = project.store.stats().unwrap();
    assert_eq!(promoted.mirrors, before.mirrors);
    project.assert_sound();
    assert_eq!(project.verify().unsealed_mirrors, 0, "what was unpacked is sealed");

    // Packed content only loses its mirror.
    let report = project.pack_all();
    assert_eq!((report.packs, report.packed_blobs), (0, 0), "{report:?}");
    assert_eq!(report.dropped_mirrors, before.mirrors, "{report:?}");
    project.break_templates();
    assert_same(&expected, &project.start(id).unwrap(), "packed again");

    // And a snapshot of the same tree takes in nothing twice.
    let again =
        project.store.snapshot(&SnapshotOptions::new().message("again"), &common()).unwrap();
    assert_eq!(again.read_files, 0, "{again:?}");
    assert_same(&expected, &project.start(again.id).unwrap(), "again");
    assert!(names(&project.file("stage")).is_empty());
}

#[test]
fn only_what_is_cold_is_packed_and_warm_makes_its_mirrors_again() {
    let project = Project::new(few);
    let old = bytes(0, 5000);
    let first = project.snapshot();
    let before = tree(&project.path);
    fs::write(project.path.join("d0/f0"), "new").unwrap();
    let second = project.snapshot();
    let now = tree(&project.path);

    let report = project.store.pack(&PackOptions::new(), &common()).unwrap();
    assert_eq!((report.packed_blobs, report.dropped_mirrors), (1, 1), "{report:?}");
    assert!(!project.mirror(&old).try_exists().unwrap());
    assert!(project.mirror(b"new").try_exists().unwrap());

    // A worktree keeps its base warm.
    let report = project.store.warm(&[first], &common()).unwrap();
    assert_eq!((report.made_mirrors, report.made_bytes), (1, 5000), "{report:?}");
    assert_eq!(report.blobs, 12);
    let at = project.scratch.join("kept");
    project.store.start(&["kept"], &StartOptions::new().from(first).at(&at), &common()).unwrap();
    let report = project.store.pack(&PackOptions::new(), &common()).unwrap();
    assert_eq!((report.packed_blobs, report.dropped_mirrors), (0, 0), "{report:?}");
    project
        .store
        .worktree("kept")
        .unwrap()
        .drop(&DropOptions::new(), &common())
        .unwrap()
        .delete()
        .unwrap();
    let report = project.store.pack(&PackOptions::new(), &common()).unwrap();
    assert_eq!((report.packed_blobs, report.dropped_mirrors), (0, 1), "{report:?}");

    project.pack_all();
    assert_eq!(project.store.stats().unwrap().mirrors, 0);
    let report = project.store.warm(&[], &common()).unwrap();
    assert_eq!(report.snapshots, [second]);
    assert_eq!((report.blobs, report.made_mirrors), (12, 12), "{report:?}");
    let report = project.store.warm(&[second], &common()).unwrap();
    assert_eq!((report.blobs, report.made_mirrors), (12, 0), "{report:?}");
    for file in [bytes(3, 5000), b"new".to_vec()] {
        let sealed = fs::metadata(project.mirror(&file)).unwrap().mtime();
        assert!(sealed < 0x4000_0000, "it is sealed");
    }
    assert_same(&before, &project.start(first).unwrap(), "first");
    assert_same(&now, &project.start(second).unwrap(), "second");
    project.assert_sound();
}

#[test]
fn mirrors_are_dropped_again_and_again_while_others_start_from_them() {
    let project = Project::new(|root| plain_tree(root, 10, 20, 20_000));
    let id = project.snapshot();
    let expected = tree(&project.path);
    let done = AtomicBool::new(false);
    let dropped = thread::scope(|scope| {
        let dropper = scope.spawn(|| {
            let mut dropped = 0;
            while !done.load(Ordering::Relaxed) {
                dropped += project.pack_all().dropped_mirrors;
            }
            dropped
        });
        let starters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    // Like another process.
                    let store = Store::open(project.store.path()).unwrap();
                    for round in 0..10 {
                        let found = project.start_in(&store, id).unwrap();
                        assert_same(&expected, &found, &format!("round {round}"));
                    }
                })
            })
            .collect();
        let results: Vec<_> = starters.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        let dropped = dropper.join().unwrap();
        for result in results {
            result.unwrap();
        }
        dropped
    });
    // With a template there is nothing to unpack but for the first.
    let least = if names(&project.file("templates")).is_empty() { 400 } else { 199 };
    assert!(dropped > least, "only {dropped} mirrors were dropped meanwhile");
    project.assert_sound();
}

#[test]
fn collecting_removes_what_nothing_reaches_and_keeps_the_rest() {
    for packed in [false, true] {
        let project = Project::new(few);
        let first = project.snapshot();
        fs::remove_dir_all(project.path.join("d0")).unwrap();
        fs::write(project.path.join("named"), "named").unwrap();
        let named =
            project.store.snapshot(&SnapshotOptions::new().name("kept"), &common()).unwrap().id;
        let named_tree = tree(&project.path);
        fs::write(project.path.join("named"), "based on").unwrap();
        let based = project.snapshot();
        let based_tree = tree(&project.path);
        let at = project.scratch.join("based");
        project
            .store
            .start(&["based"], &StartOptions::new().from(based).at(&at), &common())
            .unwrap();
        fs::write(project.path.join("named"), "latest").unwrap();
        let latest = project.snapshot();
        let latest_tree = tree(&project.path);
        if packed {
            project.pack_all();
        }
        project.assert_sound();

        // All are snapshots, so all is reached.
        let report = project.gc();
        assert!(!report.busy && report.mirrors == 0 && report.packed_blobs == 0, "{report:?}");
        assert_eq!((report.directories, report.packs), (0, 0), "{report:?}");
        let untouched =
            project.store.gc(&at_once().expire(Some(Duration::from_secs(3600))), &common());
        assert!(untouched.unwrap().snapshots.is_empty());

        // Young content stays. This only concerns files: rows have no age.
        let options = GcOptions::new().expire(Some(Duration::ZERO));
        let report = project.store.gc(&options, &common()).unwrap();
        assert_eq!(report.snapshots, [first], "packed: {packed}");
        assert_eq!(report.mirrors, 0, "{report:?}");
        // The folder that is gone, and the tree's root.
        assert_eq!(report.directories, 2, "{report:?}");
        assert_eq!(packed, report.packed_bytes > 0, "{report:?}");
        let report = project.gc();
        let blobs = if packed { report.packed_blobs } else { report.mirrors };
        assert_eq!(if packed { 0 } else { 4 }, report.mirrors, "{report:?}");
        assert_eq!(if packed { 0 } else { 4 * 5000 }, report.mirror_bytes, "{report:?}");
        assert_eq!(report.directories, 0, "{report:?}");
        assert!(packed || blobs == 4, "{report:?}");
        let stats = project.store.stats().unwrap();
        assert_eq!((stats.snapshots, stats.blobs), (3, 8 + 3), "packed: {packed}, {stats:?}");
        assert!(!project.mirror(&bytes(0, 5000)).try_exists().unwrap());
        assert_eq!(project.store.show(first).unwrap_err().kind(), ErrorKind::SnapshotNotFound);
        project.store.log().unwrap();

        project.assert_sound();
        assert_same(&named_tree, &project.start(named).unwrap(), "named");
        assert_same(&based_tree, &project.start(based).unwrap(), "based on");
        assert_same(&latest_tree, &project.start(latest).unwrap(), "latest");
        assert_eq!(project.start(first).unwrap_err().kind(), ErrorKind::SnapshotNotFound);

        // The worktree lost its ground when it is dropped, the name when it is removed.
        project
            .store
            .worktree("based")
            .unwrap()
            .drop(&DropOptions::new(), &common())
            .unwrap()
            .delete()
            .unwrap();
        project.store.remove_name("kept").unwrap();
        let report = project.store.gc(&at_once().expire(Some(Duration::ZERO)), &common()).unwrap();
        assert_eq!(report.snapshots.len(), 2, "{report:?}");
        assert_eq!(project.store.stats().unwrap().blobs, 8 + 1);
        assert_same(&latest_tree, &project.start(latest).unwrap(), "latest");
        project.assert_sound();
    }
}

#[test]
fn a_pack_that_is_mostly_dead_is_rewritten_and_one_that_is_all_dead_removed() {
    let project = Project::new(|root| plain_tree(root, 2, 10, 20_000));
    project.snapshot();
    project.pack_all();
    // 18 of 20 are not needed any more.
    for file in 1..10 {
        fs::remove_file(project.path.join(format!("d0/f{file}"))).unwrap();
        fs::remove_file(project.path.join(format!("d1/f{file}"))).unwrap();
    }
    let latest = project.snapshot();
    let expected = tree(&project.path);
    let before = project.store.stats().unwrap();
    let report = project.store.gc(&at_once().expire(Some(Duration::ZERO)), &common()).unwrap();
    assert!(report.rewritten_packs > 0 && report.packs > 0, "{report:?}");
    assert_eq!(report.packed_blobs, 18, "{report:?}");
    let after = project.store.stats().unwrap();
    assert_eq!(after.packed_blobs, 2, "{after:?}");
    assert!(after.pack_bytes * 5 < before.pack_bytes, "{before:?} {after:?}");
    assert_eq!(after.packs, names(&project.file("packs")).len() as u64, "{after:?}");
    assert_same(&expected, &project.start(latest).unwrap(), "rewritten");
    project.assert_sound();

    fs::remove_dir_all(project.path.join("d0")).unwrap();
    fs::remove_dir_all(project.path.join("d1")).unwrap();
    project.snapshot();
    project.store.gc(&at_once().expire(Some(Duration::ZERO)), &common()).unwrap();
    let stats = project.store.stats().unwrap();
    assert_eq!((stats.blobs, stats.packs, stats.pack_bytes), (0, 0, 0), "{stats:?}");
    assert!(names(&project.file("packs")).is_empty());
}

#[test]
fn collecting_tidies_what_others_left() {
    let project = Project::new(few);
    project.snapshot();
    let token = "0123456789abcdef0123456789abcdef";
    let junk = project.mirror(b"never finished");
    fs::create_dir_all(junk.parent().unwrap()).unwrap();
    fs::write(&junk, "never").unwrap();
    fs::write(project.file("indexes").join(token), "of nobody").unwrap();
    fs::create_dir_all(project.file("undo/files")).unwrap();
    fs::write(project.file("undo/record"), "the project's own").unwrap();
    fs::create_dir_all(project.file("trash/thing/deep")).unwrap();
    fs::write(project.file("packs/unknown.pack"), "no pack").unwrap();
    // Not called like anything of a worktree.
    for name in ["0123456789abcdef", "not0a0number0of0sixteen0digits00"] {
        fs::write(project.file("indexes").join(name), "somebody's").unwrap();
    }
    let indexes = names(&project.file("indexes"));

    let report = project.store.gc(&GcOptions::new(), &common()).unwrap();
    assert_eq!((report.mirrors, report.packs, report.leftovers), (0, 0, 0), "young: {report:?}");
    let report = project.gc();
    assert_eq!((report.mirrors, report.packs, report.leftovers), (1, 1, 2), "{report:?}");
    assert!(!junk.try_exists().unwrap());
    assert_eq!(names(&project.file("indexes")).len(), indexes.len() - 1);
    assert_eq!(names(&project.file("undo")), ["files", "record"]);
    for name in ["packs", "trash", "stage"] {
        assert!(names(&project.file(name)).is_empty(), "{name}");
    }
    project.assert_sound();
}

#[test]
fn collecting_while_others_are_at_it_removes_nothing_and_says_so() {
    let project = Project::new(few);
    project.snapshot();
    let junk = project.mirror(b"junk");
    fs::create_dir_all(junk.parent().unwrap()).unwrap();
    fs::write(&junk, "junk").unwrap();
    let lock = fs::File::open(project.file("locks/content")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let options = at_once().patience(Duration::ZERO);
    let report = project.store.gc(&options, &common()).unwrap();
    assert!(report.busy && report.mirrors == 0, "{report:?}");
    assert!(junk.try_exists().unwrap());
    drop(lock);
    let report = project.store.gc(&options, &common()).unwrap();
    assert!(!report.busy && report.mirrors == 1, "{report:?}");
}

/// calve chose the snapshots to forget before it had the store alone, which takes as long as others
/// use the store.
#[test]
fn a_snapshot_that_gets_a_name_while_a_collection_waits_for_others_stays_with_all_it_has() {
    let project = Project::new(few);
    let mut old = Vec::new();
    for round in 0..2_u8 {
        fs::write(project.path.join("d0/f0"), [round; 5000]).unwrap();
        old.push((project.snapshot(), tree(&project.path)));
    }
    fs::write(project.path.join("d0/f0"), "latest").unwrap();
    project.snapshot();
    // Somebody is at the store, until the collection wants it for itself.
    let lock = fs::File::open(project.file("locks/content")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    let gate = fs::File::open(project.file("locks/gate")).unwrap();
    let report = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            project.store.gc(&at_once().expire(Some(Duration::ZERO)), &common()).unwrap()
        });
        let look = rustix::fs::FlockOperation::NonBlockingLockShared;
        while rustix::fs::flock(&gate, look).is_ok() {
            rustix::fs::flock(&gate, rustix::fs::FlockOperation::Unlock).unwrap();
            assert!(!collector.is_finished(), "it did not wait");
            thread::yield_now();
        }
        project.store.set_name("kept", old[0].0).unwrap();
        drop(lock);
        collector.join().unwrap()
    });
    assert_eq!(report.snapshots, [old[1].0], "{report:?}");
    assert_same(&old[0].1, &project.start(old[0].0).unwrap(), "named");
    assert_eq!(project.start(old[1].0).unwrap_err().kind(), ErrorKind::SnapshotNotFound);
    assert_eq!(project.store.stats().unwrap().snapshots, 2);
    project.assert_sound();
}

/// Contents come, are forgotten, are collected, and come back in the last moment: the case in which
/// a snapshot relies on content that nobody else needs.
#[test]
fn snapshots_lose_nothing_while_all_that_is_old_is_collected_all_the_time() {
    let project = Project::apart(|root| plain_tree(root, 4, 10, 3000));
    project.snapshot();
    let done = AtomicBool::new(false);
    let collected = thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let store = Store::open(project.store.path()).unwrap();
            let mut collected = 0;
            let options = at_once().expire(Some(Duration::ZERO));
            while !done.load(Ordering::Relaxed) {
                let report = store.gc(&options, &common()).unwrap();
                collected += report.mirrors + report.packed_blobs;
                if collected % 3 == 0 {
                    store.pack(&PackOptions::new(), &common()).unwrap();
                }
            }
            collected
        });
        let work = scope.spawn(|| {
            for round in 0..60_u64 {
                // Three sets of contents in turn.
                for file in 0..10 {
                    let seed = 1000 + round % 3 * 100 + file;
                    fs::write(project.path.join(format!("d0/f{file}")), bytes(seed, 3000)).unwrap();
                }
                let id = project.snapshot();
                let expected = tree(&project.path);
                let found = project.start(id).unwrap();
                assert_same(&expected, &found, &format!("round {round}"));
            }
        });
        let result = work.join();
        done.store(true, Ordering::Relaxed);
        let collected = collector.join().unwrap();
        result.unwrap();
        collected
    });
    assert!(collected > 20, "only {collected} contents were collected meanwhile");
    project.assert_sound();
}

#[test]
fn a_sparse_file_is_sparse_again_when_it_comes_out_of_a_pack() {
    let project = Project::new(|root| {
        fs::create_dir(root).unwrap();
        let file = fs::File::create_new(root.join("sparse")).unwrap();
        file.set_len(64 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 32 << 20).unwrap();
    });
    let id = project.snapshot();
    project.pack_all();
    assert!(project.store.stats().unwrap().pack_bytes < 1 << 20);
    let at = project.scratch.join("at");
    project.store.start(&["w"], &StartOptions::new().from(id).at(&at), &common()).unwrap();
    let meta = fs::metadata(at.join("w/sparse")).unwrap();
    assert_eq!(meta.len(), 64 << 20);
    assert!(meta.blocks() * 512 < 1 << 20, "it takes {} bytes", meta.blocks() * 512);
    assert_eq!(fs::read(at.join("w/sparse")).unwrap()[32 << 20..][..5], *b"data\0");
}

/// Contents that are random, files that come and go, names, packs, warmth and collections in any
/// order: each snapshot that was not forgotten starts as it was.
#[test]
fn whatever_is_done_in_whatever_order_each_snapshot_starts_as_it_was() {
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let project = Project::new(|root| plain_tree(root, 2, 4, 3000));
    let mut known: Vec<(SnapshotId, Snapshot)> = Vec::new();
    for step in 0..120 {
        match random(8) {
            0..=2 => {
                for _ in 0..=random(4) {
                    let path = project.path.join(format!("d{}/f{}", random(2), random(6)));
                    if random(3) == 0 {
                        let _ = fs::remove_file(path);
                    } else {
                        let length = usize::try_from(random(9000)).unwrap();
                        fs::write(path, bytes(random(12), length)).unwrap();
                    }
                }
                let mut taking = SnapshotOptions::new();
                if random(2) == 0 {
                    taking = taking.name(format!("n{step}"));
                }
                let taken = project.store.snapshot(&taking, &common()).unwrap();
                known.push((taken.id, tree(&project.path)));
            }
            3 => drop(project.pack_all()),
            4 => drop(project.store.pack(&PackOptions::new(), &common()).unwrap()),
            5 => drop(project.store.warm(&[], &common()).unwrap()),
            6 => {
                let report =
                    project.store.gc(&at_once().expire(Some(Duration::ZERO)), &common()).unwrap();
                known.retain(|(id, _)| !report.snapshots.contains(id));
            }
            _ => {
                if random(2) == 0
                    && let Some((id, _)) = known.first()
                    && let Some(name) = project.store.show(*id).unwrap().names.first()
                {
                    project.store.remove_name(name).unwrap();
                }
                if !known.is_empty() {
                    let (id, expected) =
                        &known[usize::try_from(random(known.len() as u64)).unwrap()];
                    assert_same(expected, &project.start(*id).unwrap(), &format!("step {step}"));
                }
            }
        }
    }
    assert!(known.len() > 3, "{}", known.len());
    project.assert_sound();
    for (id, expected) in &known {
        assert_same(expected, &project.start(*id).unwrap(), "at the end");
    }
}

#[test]
fn a_pack_of_tiny_contents_is_not_taken_for_mostly_dead() {
    let project = Project::new(|root| {
        fs::create_dir(root).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(root.join(name), name).unwrap();
        }
    });
    project.snapshot();
    project.pack_all();
    let report = project.gc();
    assert_eq!((report.rewritten_packs, report.packs), (0, 0), "{report:?}");
}

#[test]
fn a_ready_tree_goes_when_no_worktree_and_no_name_is_of_its_snapshot() {
    let project = Project::new(few);
    if filesystem(&project.path) != "btrfs" {
        let test = "a_ready_tree_goes_when_no_worktree_and_no_name_is_of_its_snapshot";
        return not_run(test, "subvolumes are btrfs' own");
    }
    let first = project.store.snapshot(&SnapshotOptions::new().name("kept"), &common()).unwrap().id;
    fs::write(project.path.join("d0/f0"), "second").unwrap();
    let second = project.snapshot();
    for id in [first, second] {
        project.start(id).unwrap();
    }
    let of = |id: SnapshotId| {
        let all = names(&project.file("templates"));
        all.iter().filter(|name| name.starts_with(&id.to_string())).count()
    };
    assert!(of(first) > 0 && of(second) > 0, "{:?}", names(&project.file("templates")));
    assert_eq!(project.gc().templates, 0, "one has a name, one is the project's latest");
    fs::write(project.path.join("d0/f0"), "third").unwrap();
    project.snapshot();
    assert_eq!(project.gc().templates, 1);
    assert!(of(first) > 0 && of(second) == 0, "{:?}", names(&project.file("templates")));
    project.store.remove_name("kept").unwrap();
    assert_eq!(project.gc().templates, 1);
    assert_eq!(names(&project.file("templates")), [""; 0]);
    assert!(project.start(second).is_ok(), "it is made again");
}

/// The undo data of the project is in the store's own folder `undo`. It was lost, and after that no
/// collection worked.
#[test]
fn what_was_undone_in_the_project_is_in_no_collections_way() {
    let scratch = Scratch::new();
    let project = scratch.join("app");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("file"), "one").unwrap();
    let store = Store::init(&project).unwrap();
    store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
    for round in 0..2 {
        fs::write(project.join("file"), "by hand").unwrap();
        let worktree = store.project_worktree().unwrap();
        worktree.reset(&common()).unwrap();
        assert_eq!(fs::read(project.join("file")).unwrap(), b"one", "{round}");
        worktree.undo(&common()).unwrap();
        assert_eq!(fs::read(project.join("file")).unwrap(), b"by hand", "{round}");
        store.gc(&GcOptions::new().grace(Duration::ZERO), &common()).unwrap();
        assert!(
            store.verify(&VerifyOptions::new(), &common()).unwrap().damage.is_empty(),
            "{round}"
        );
    }
}

#[test]
fn a_store_is_made_in_an_empty_folder_and_over_nothing_else() {
    let scratch = Scratch::new();
    for (row, inside, kind) in [
        ("an empty folder", None, None),
        ("a folder that is no store", Some("other"), Some(ErrorKind::DestinationExists)),
        ("a store", Some("format"), Some(ErrorKind::StoreExists)),
    ] {
        let project = scratch.join(row);
        fs::create_dir_all(project.join(".calve")).unwrap();
        if let Some(inside) = inside {
            fs::write(project.join(".calve").join(inside), "mine").unwrap();
        }
        let made = Store::init(&project);
        assert_eq!(made.as_ref().err().map(calve::Error::kind), kind, "{row}");
        if let Some(inside) = inside {
            assert_eq!(fs::read(project.join(".calve").join(inside)).unwrap(), b"mine", "{row}");
        }
        assert_eq!(names(&project), [".calve"], "{row}");
    }
}

/// Writes to `path`, and to the disk.
fn on_disk(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::File::open(path).unwrap().sync_all().unwrap();
}

#[test]
fn equal_content_shares_its_blocks_again_and_nothing_else_changes() {
    let desk = Desk::small();
    let big = bytes(1, 3_000_000);
    put(&desk.project, "big", &big);
    let trees = [desk.worktree("one"), desk.worktree("two")];
    let mut files = Vec::new();
    for (number, worktree) in trees.iter().enumerate() {
        // A checkout wrote content that the store has. A build wrote equal bytes in both worktrees,
        // and different ones.
        fs::create_dir_all(worktree.path().join("target")).unwrap();
        fs::remove_file(worktree.path().join("big")).unwrap();
        let other = bytes(3 + number as u64, 1_000_001);
        for (path, content) in
            [("big", &big), ("target/built", &bytes(2, 1_000_001)), ("target/other", &other)]
        {
            let path = worktree.path().join(path);
            on_disk(&path, content);
            files.push((path.clone(), stamp(&path), content.clone()));
        }
    }
    let before: Vec<_> = trees.iter().map(status).collect();
    let dry_run = ReshareOptions::new().dry_run(true);
    let would = desk.store.reshare(&trees, &dry_run, &options()).unwrap();
    let report = desk.store.reshare(&trees, &ReshareOptions::new(), &options()).unwrap();
    if expects_reflink(desk.scratch.path()) {
        // Twice the content that the store has, and once the content that only the two worktrees
        // have.
        let expected = 2 * 3_000_000 + 1_000_001;
        assert!((expected..expected + 3 * 4096).contains(&report.reshared_bytes), "{report:?}");
        assert_eq!((would.reshared_files, would.reshared_bytes), (3, report.reshared_bytes));
        assert_eq!((report.reshared_files, report.unshared_files), (3, 6), "{report:?}");
        assert!(report.refused.is_empty(), "{report:?}");
        for tree in desk.store.disk_usage(&trees, &options()).unwrap().worktrees {
            assert!(tree.unique_bytes < 1_100_000, "{tree:?}");
        }
        let again = desk.store.reshare(&trees, &ReshareOptions::new(), &options()).unwrap();
        assert_eq!((again.reshared_bytes, again.unshared_files), (0, 2), "{again:?}");
    } else {
        assert_eq!((report.reshared_files, report.reshared_bytes), (0, 0), "{report:?}");
        let unshareable = report.refused.get(&NotReshared::Filesystem).copied();
        assert!(unshareable.is_some_and(|files| files >= 6), "{report:?}");
    }
    for (path, was, content) in files {
        assert_eq!(stamp(&path), was, "{}", path.display());
        assert!(fs::read(&path).unwrap() == content, "{}", path.display());
    }
    assert_eq!(trees.iter().map(status).collect::<Vec<_>>(), before);
    assert_sound(&desk.store);
}

#[test]
fn folders_share_what_the_filesystem_lets_this_user_share() {
    let here = Scratch::new();
    if !expects_reflink(here.path()) {
        return not_run("folders_share…", "this filesystem cannot share blocks");
    }
    let content = bytes(1, 200_000);
    let root = |name: &str| {
        let root = here.join(name);
        fs::create_dir(&root).unwrap();
        root
    };
    let reshare = |from: &Path, targets: &[&Path]| {
        let how = ReshareOptions::new();
        let report = calve::reshare_folders(from, targets, &how, &options()).unwrap();
        (report.reshared_files, report.refused)
    };
    let (from, to) = (root("from"), root("to"));
    on_disk(&from.join("file"), &content);
    on_disk(&to.join("one"), &content);
    fs::hard_link(to.join("one"), to.join("its other name")).unwrap();
    fs::hard_link(from.join("file"), to.join("the same inode")).unwrap();
    std::os::unix::fs::symlink(from.join("file"), to.join("link")).unwrap();
    on_disk(&to.join("other"), &bytes(2, 200_000));
    on_disk(&to.join("longer"), &bytes(1, 200_001));
    let nothing = BTreeMap::new();
    assert_eq!(reshare(&from, &[&to, &to]), (1, nothing.clone()), "one inode shares once");

    // Without a word of a second tree, the files of one folder share with each other.
    let one = root("one");
    on_disk(&one.join("a"), &content);
    on_disk(&one.join("b"), &content);
    assert_eq!(reshare(&one, &[&one]), (1, nothing.clone()), "a source that is a target");

    match Scratch::elsewhere() {
        None => not_run("folders_share…", "there is no other filesystem"),
        Some(elsewhere) => {
            on_disk(&elsewhere.join("file"), &content);
            let two = root("two");
            on_disk(&two.join("a"), &content);
            on_disk(&two.join("b"), &content);
            let shared = reshare(elsewhere.path(), &[&two]);
            assert_eq!(shared, (1, nothing), "with each other, not with another filesystem");
        }
    }

    if !is_root() {
        return not_run("folders_share…", "only root can make another user's file");
    }
    let theirs = root("theirs");
    on_disk(&theirs.join("file"), &content);
    for dir in [here.path(), &theirs, &from] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let refused = as_nobody(|| reshare(&from, &[&theirs]));
    assert_eq!(refused, (0, BTreeMap::from([(NotReshared::Permission, 1)])));
    fs::set_permissions(theirs.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let how = ReshareOptions::new();
    let unread = as_nobody(|| calve::reshare_folders(&from, &[&theirs], &how, &options()).unwrap());
    assert_eq!((unread.unreadable, unread.reshared_files), (1, 0), "{unread:?}");
}

/// A process that writes reads its own bytes back, whatever other processes share at the same time.
#[test]
fn blocks_are_shared_beside_writers_and_drops_without_a_trace() {
    let desk = Desk::new(|project| {
        for number in 0..20 {
            put(project, &format!("file {number}"), bytes(number, 100_000));
        }
    });
    let trees = [desk.worktree("one"), desk.worktree("two"), desk.worktree("three")];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for worktree in &trees[..2] {
            scope.spawn(|| {
                for round in 0..60_u64 {
                    let path = worktree.path().join(format!("file {}", round % 20));
                    // Like a build: writes the same content again, or changes one byte of it.
                    let mut content = bytes(round % 20, 100_000);
                    content[50_000] ^= u8::from(round % 3 == 0);
                    if round % 2 == 0 {
                        fs::remove_file(&path).unwrap();
                    }
                    on_disk(&path, &content);
                    assert!(fs::read(&path).unwrap() == content, "{}", path.display());
                }
                done.store(true, Ordering::Relaxed);
            });
        }
        let third = trees[2].clone();
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            let _ = third.drop(&DropOptions::new().force(true), &options()).unwrap();
        });
        let mut left = &trees[..];
        while !done.load(Ordering::Relaxed) {
            if let Err(error) = desk.store.reshare(left, &ReshareOptions::new(), &options()) {
                let kinds = [ErrorKind::WorktreeMissing, ErrorKind::WorktreeNotFound];
                assert!(kinds.contains(&error.kind()), "{error}");
                left = &trees[..2];
            }
        }
    });
    let cancel = Cancel::new();
    cancel.cancel();
    let error = desk
        .store
        .reshare(&trees[..2], &ReshareOptions::new(), &options().cancel(&cancel))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_sound(&desk.store);
}

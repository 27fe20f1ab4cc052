//! Promise: nothing in a store is lost or served wrong, whatever is packed, made warm and collected, and whoever is at it at
//! the same time.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use calve::{
    DropOptions, ErrorKind, GcOptions, PackOptions, SnapshotId, SnapshotOptions, StartOptions,
    Store, VerifyOptions,
};
use common::maintained::{Project, at_once, common, few, tree};
use common::snapshot::{Snapshot, assert_same};
use common::{Scratch, bytes, filesystem, names, not_run, odd, plain_tree};

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

    // What is packed already only loses its mirror.
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
                    // As another process would.
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

        // What is young stays. Of files: rows have no age.
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

/// What is forgotten was chosen before the store was had alone, which took as long as others were at it.
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

/// Contents come, are forgotten, are collected, and come back the moment before they go: the case in which a
/// snapshot counts on content that nobody else needs.
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

/// Contents that are random, files that come and go, names, packs, warmth and collections in any order: each snapshot
/// that was not forgotten starts as it was.
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

/// What can be undone in the project is in the store's own folder `undo`, which went with it, and without which nothing was
/// collected any more.
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

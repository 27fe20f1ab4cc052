//! Promise: nothing in a store is lost or served wrong, whatever is packed, collected, damaged or mended, and whoever is
//! at it at the same time.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use calve::{
    DamageKind, ErrorKind, GcOptions, PackOptions, SnapshotId, StartOptions, Store, StoreOptions,
    VerifyReport,
};
use common::snapshot::{Kind, Snapshot, assert_same, only, snapshot};
use common::{Scratch, bytes, names, odd, plain_tree};

fn common() -> StoreOptions {
    StoreOptions::new()
}

/// A tree as a worktree of it must be: without calve's own folder and without sockets. Where the holes are depends on whether the
/// content was packed.
fn tree(root: &Path) -> Snapshot {
    let mut tree = only(&snapshot(root), |path, entry| {
        !path.starts_with(".calve") && entry.kind != Kind::Socket
    });
    for entry in tree.values_mut() {
        entry.data.clear();
    }
    tree
}

struct Project {
    scratch: Scratch,
    path: PathBuf,
    store: Store,
    started: std::sync::atomic::AtomicUsize,
}

impl Project {
    fn new(make: impl FnOnce(&Path)) -> Self {
        Self::with(make, false)
    }

    /// With the store outside of the project, so that the tree can be looked at while somebody is at the store.
    fn apart(make: impl FnOnce(&Path)) -> Self {
        Self::with(make, true)
    }

    fn with(make: impl FnOnce(&Path), apart: bool) -> Self {
        let scratch = Scratch::new();
        let path = scratch.join("project");
        make(&path);
        let store = apart.then(|| scratch.join("store"));
        let store = Store::init(&path, store.as_deref()).unwrap();
        Self { scratch, path, store, started: 0.into() }
    }

    fn snapshot(&self) -> SnapshotId {
        self.store.snapshot(None, None, &common()).unwrap().id
    }

    /// Starts a worktree and looks at it.
    fn start(&self, from: SnapshotId) -> Result<Snapshot, calve::Error> {
        self.start_in(&self.store, from)
    }

    fn start_in(&self, store: &Store, from: SnapshotId) -> Result<Snapshot, calve::Error> {
        let name = format!("w{}", self.started.fetch_add(1, Ordering::Relaxed));
        let at = self.scratch.join("worktrees");
        let options = StartOptions::new().from(from).at(&at);
        store.start(&[&name], &options)?;
        let found = tree(&at.join(&name));
        store.worktree(&name).unwrap().drop(true, &common()).unwrap().delete().unwrap();
        Ok(found)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.store.path().join(name)
    }

    /// Where the mirror of a content is.
    fn mirror(&self, content: &[u8]) -> PathBuf {
        let hex = blake3::hash(content).to_hex();
        self.file("blobs").join(&hex[..2]).join(&hex[2..])
    }

    /// On btrfs a start leaves a whole tree behind, and the next needs no mirrors. Without its seal it is no good.
    fn break_templates(&self) {
        let folder = self.file("templates");
        for name in names(&folder).iter().filter(|name| name.ends_with(".seal")) {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }

    fn pack_all(&self) -> calve::PackReport {
        self.store.pack(&PackOptions::new().all(true), &common()).unwrap()
    }

    fn gc(&self) -> calve::GcReport {
        self.store.gc(&at_once(), &common()).unwrap()
    }

    fn verify(&self) -> VerifyReport {
        self.store.verify(false, &common()).unwrap()
    }

    #[track_caller]
    fn assert_sound(&self) {
        let report = self.verify();
        assert!(report.damage.is_empty(), "{:#?}", report.damage);
    }
}

fn at_once() -> GcOptions {
    GcOptions::new().grace(Duration::ZERO).patience(Duration::from_secs(60))
}

fn few(root: &Path) {
    plain_tree(root, 3, 4, 5000);
}

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
    let again = project.store.snapshot(Some("again"), None, &common()).unwrap();
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
    project.store.start(&["kept"], &StartOptions::new().from(first).at(&at)).unwrap();
    let report = project.store.pack(&PackOptions::new(), &common()).unwrap();
    assert_eq!((report.packed_blobs, report.dropped_mirrors), (0, 0), "{report:?}");
    project.store.worktree("kept").unwrap().drop(false, &common()).unwrap().delete().unwrap();
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
        let named = project.store.snapshot(None, Some("kept"), &common()).unwrap().id;
        let named_tree = tree(&project.path);
        fs::write(project.path.join("named"), "based on").unwrap();
        let based = project.snapshot();
        let based_tree = tree(&project.path);
        let at = project.scratch.join("based");
        project.store.start(&["based"], &StartOptions::new().from(based).at(&at)).unwrap();
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
        let report = project.gc();
        let blobs = if packed { report.packed_blobs } else { report.mirrors };
        assert_eq!(if packed { 0 } else { 4 }, report.mirrors, "{report:?}");
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
        project.store.worktree("based").unwrap().drop(false, &common()).unwrap().delete().unwrap();
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
    fs::create_dir_all(project.file("undo").join(token)).unwrap();
    fs::create_dir_all(project.file("undo/files")).unwrap();
    fs::write(project.file("undo/record"), "the project's own").unwrap();
    fs::create_dir_all(project.file("trash/thing/deep")).unwrap();
    fs::write(project.file("packs/unknown.pack"), "no pack").unwrap();
    let indexes = names(&project.file("indexes"));

    let report = project.store.gc(&GcOptions::new(), &common()).unwrap();
    assert_eq!((report.mirrors, report.packs, report.leftovers), (0, 0, 0), "young: {report:?}");
    let report = project.gc();
    assert_eq!((report.mirrors, report.packs, report.leftovers), (1, 1, 3), "{report:?}");
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

// ---------------------------------------------------------------------------------------------------------------------
// Damage.

const CONTENT: &[u8] = b"the content that is damaged";

/// Where the damage is, and how the store stands otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Mirror,
    MirrorBesidePack,
    Pack,
    PackBesideMirror,
    Trailer,
    Index,
    Directory,
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    Flip,
    Truncate,
    Delete,
    Link,
    Close,
}

/// What a start gives.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Exact,
    Refused,
}

fn damaged_project(place: Place) -> (Project, SnapshotId, Snapshot) {
    let project = Project::new(|root| {
        few(root);
        fs::write(root.join("d1/damaged"), CONTENT).unwrap();
    });
    let id = project.snapshot();
    if matches!(
        place,
        Place::Pack | Place::PackBesideMirror | Place::MirrorBesidePack | Place::Trailer
    ) {
        // One thread, so one pack.
        let one = common().jobs(1.try_into().unwrap());
        project.store.pack(&PackOptions::new().all(true), &one).unwrap();
    }
    if matches!(place, Place::PackBesideMirror | Place::MirrorBesidePack) {
        project.store.warm(&[id], &common()).unwrap();
    }
    let expected = tree(&project.path);
    (project, id, expected)
}

fn damage(project: &Project, id: SnapshotId, place: Place, action: Action) {
    let only_in = |folder: &str| {
        let folder = project.file(folder);
        folder.join(&names(&folder)[0])
    };
    let path = match place {
        Place::Mirror | Place::MirrorBesidePack => project.mirror(CONTENT),
        Place::Pack | Place::PackBesideMirror | Place::Trailer => only_in("packs"),
        Place::Index => only_in("indexes"),
        Place::Directory | Place::Snapshot => return damage_row(project, id, place, action),
    };
    match action {
        Action::Delete => fs::remove_file(&path).unwrap(),
        Action::Link => {
            let aside = project.scratch.join("aside");
            fs::rename(&path, &aside).unwrap();
            symlink(&aside, &path).unwrap();
        }
        Action::Close => fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap(),
        Action::Flip | Action::Truncate => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let mut content = fs::read(&path).unwrap();
            let at = match place {
                // In the frame of the content, behind its header.
                Place::Pack | Place::PackBesideMirror => {
                    let id = blake3::hash(CONTENT);
                    let entry = content.windows(32).position(|part| part == id.as_bytes()).unwrap();
                    entry + 48 + 8
                }
                Place::Trailer => content.len() - 60,
                _ => content.len() / 2,
            };
            if action == Action::Flip {
                content[at] ^= 0x10;
            } else {
                content.truncate(at);
            }
            fs::write(&path, content).unwrap();
        }
    }
}

fn damage_row(project: &Project, id: SnapshotId, place: Place, action: Action) {
    let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
    let (table, column) = match place {
        Place::Directory => ("directories", "encoding"),
        _ => ("snapshots", "object"),
    };
    let key: Vec<u8> = if place == Place::Directory {
        // The one that has the file.
        let find = "SELECT id FROM directories WHERE instr(encoding, CAST('damaged' AS BLOB)) > 0";
        db.query_row(find, [], |row| row.get(0)).unwrap()
    } else {
        id.as_bytes().to_vec()
    };
    let value: Vec<u8> = db
        .query_row(&format!("SELECT {column} FROM {table} WHERE id = ?1"), [&key], |row| row.get(0))
        .unwrap();
    let mut changed = value.clone();
    match action {
        Action::Flip => changed[value.len() / 2] ^= 0x10,
        Action::Truncate => changed.truncate(value.len() / 2),
        _ => {
            db.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [&key]).unwrap();
            return;
        }
    }
    db.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1"), (&key, &changed))
        .unwrap();
}

/// What a row of the table says: what a start gives, what verify finds (and whether that is lost), what of it is mended, and
/// what a start gives then.
type Row = (Place, Action, Start, &'static [(DamageKind, bool)], bool, Start);

const ROWS: &[Row] = {
    use Action::{Close, Delete, Flip, Link, Truncate};
    use DamageKind as D;
    use Place::*;
    use Start::{Exact, Refused};
    const LOST: &[(D, bool)] = &[(D::Mirror, true)];
    const BAD: &[(D, bool)] = &[(D::Mirror, false)];
    const ENTRY: &[(D, bool)] = &[(D::Packed, true)];
    const ENTRY_ONLY: &[(D, bool)] = &[(D::Packed, false)];
    const PACK_LOST: &[(D, bool)] = &[(D::Packed, true), (D::Pack, false)];
    const PACK_ONLY: &[(D, bool)] = &[(D::Packed, false), (D::Pack, false)];
    const NOTHING: &[(D, bool)] = &[];
    &[
        (Mirror, Flip, Refused, LOST, false, Refused),
        (Mirror, Truncate, Refused, LOST, false, Refused),
        (Mirror, Delete, Refused, &[(D::Missing, true)], false, Refused),
        (Mirror, Link, Refused, LOST, false, Refused),
        (Mirror, Close, Refused, LOST, true, Exact),
        (MirrorBesidePack, Flip, Exact, BAD, true, Exact),
        (MirrorBesidePack, Truncate, Exact, BAD, true, Exact),
        (MirrorBesidePack, Delete, Exact, NOTHING, true, Exact),
        (MirrorBesidePack, Link, Exact, BAD, true, Exact),
        (MirrorBesidePack, Close, Exact, BAD, true, Exact),
        (Pack, Flip, Refused, ENTRY, false, Refused),
        (Pack, Truncate, Refused, PACK_LOST, false, Refused),
        (Pack, Delete, Refused, PACK_LOST, false, Refused),
        (Pack, Link, Refused, PACK_LOST, false, Refused),
        (Pack, Close, Refused, PACK_LOST, true, Exact),
        (PackBesideMirror, Flip, Exact, ENTRY_ONLY, true, Exact),
        (PackBesideMirror, Truncate, Exact, PACK_ONLY, true, Exact),
        (PackBesideMirror, Delete, Exact, PACK_ONLY, true, Exact),
        (PackBesideMirror, Link, Exact, PACK_ONLY, true, Exact),
        (Trailer, Flip, Exact, &[(D::Pack, false)], true, Exact),
        (Trailer, Truncate, Exact, &[(D::Pack, false)], true, Exact),
        (Index, Flip, Exact, &[(D::Index, false)], true, Exact),
        (Index, Truncate, Exact, &[(D::Index, false)], true, Exact),
        (Index, Delete, Exact, NOTHING, true, Exact),
        (Directory, Flip, Refused, &[(D::Directory, true)], false, Refused),
        (Directory, Truncate, Refused, &[(D::Directory, true)], false, Refused),
        (Directory, Delete, Refused, &[(D::Directory, true)], false, Refused),
        (Snapshot, Flip, Refused, &[(D::Snapshot, true)], false, Refused),
        (Snapshot, Truncate, Refused, &[(D::Snapshot, true)], false, Refused),
    ]
};

fn check_start(
    (project, id, tree_was): &(Project, SnapshotId, Snapshot),
    store: &Store,
    expected: Start,
    row: &str,
) {
    let id = *id;
    match (project.start_in(store, id), expected) {
        (Ok(found), Start::Exact) => assert_same(tree_was, &found, row),
        (Err(error), Start::Refused) => {
            assert!(
                matches!(error.kind(), ErrorKind::Damaged | ErrorKind::PermissionDenied),
                "{row}: {error:?}"
            );
            assert!(error.path().starts_with(store.path()), "{row}: {error:?}");
        }
        (result, _) => panic!("{row}: a start gives {result:?}, not {expected:?}"),
    }
}

/// `kept`: the files that were stored are still in the project.
fn check_row(row: &Row, kept: bool) {
    let &(place, action, first, found, mended, then) = row;
    let text =
        format!("{action:?} {place:?}, the files are {}", if kept { "there" } else { "gone" });
    let of_content = !matches!(place, Place::Directory | Place::Snapshot);
    // What still stands at its path is taken in again.
    let (mended, then) = if kept && of_content { (true, Start::Exact) } else { (mended, then) };
    let make = || {
        let made = damaged_project(place);
        damage(&made.0, made.1, place, action);
        if !kept {
            for folder in ["d0", "d1", "d2"] {
                fs::remove_dir_all(made.0.path.join(folder)).unwrap();
            }
        }
        // As another process would see it.
        let store = Store::open(made.0.store.path()).unwrap();
        (made, store)
    };
    let (made, store) = make();
    check_start(&made, &store, first, &text);

    let (made, store) = make();
    let id = made.1;
    let told = |report: &VerifyReport| {
        let mut told: Vec<_> =
            report.damage.iter().map(|damage| (damage.kind, damage.lost)).collect();
        told.dedup();
        told
    };
    let report = store.verify(false, &common()).unwrap();
    assert_eq!(told(&report), found, "{text}: {:#?}", report.damage);
    for damage in &report.damage {
        assert!(!damage.repaired, "{text}");
        if damage.blob.is_some_and(|blob| blob.as_bytes() == blake3::hash(CONTENT).as_bytes()) {
            assert_eq!(damage.places, [(id, PathBuf::from("d1/damaged"))], "{text}: {damage:?}");
        }
        if damage.kind == DamageKind::Directory {
            assert_eq!(damage.places, [(id, PathBuf::from("d1"))], "{text}: {damage:?}");
        }
        assert!(damage.path.starts_with(store.path()), "{text}: {damage:?}");
    }

    let report = store.verify(true, &common()).unwrap();
    assert!(!report.busy, "{text}");
    assert_eq!(told(&report), found, "{text}: mending finds the same");
    for damage in &report.damage {
        assert_eq!(damage.repaired, mended, "{text}: {damage:?}");
    }
    let again = Store::open(made.0.store.path()).unwrap();
    let report = again.verify(false, &common()).unwrap();
    assert_eq!(report.damage.is_empty(), mended, "{text}: {:#?}", report.damage);
    assert_eq!(report.unsealed_mirrors, 0, "{text}");
    check_start(&made, &again, then, &format!("{text}, mended"));
}

#[test]
fn damage_is_never_served_is_named_with_its_paths_and_is_mended_where_it_can_be() {
    for row in ROWS {
        if row.1 == Action::Close && common::is_root() {
            // Root reads what is closed.
            #[cfg(target_os = "linux")]
            {
                common::as_nobody(|| {
                    let dir = std::env::var_os("CALVE_TEST_DIR");
                    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
                    if tempfile::tempdir_in(dir).is_ok() {
                        check_row(row, false);
                        check_row(row, true);
                    } else {
                        let test = "damage_is_never_served_is_named_with_its_paths_and_is_mended_where_it_can_be";
                        common::not_run(
                            test,
                            "nobody may not write where the tests run: closed files",
                        );
                    }
                });
                continue;
            }
        }
        check_row(row, false);
        check_row(row, true);
    }
}

/// The database has lost the snapshot that the project is based on, or a part of it, and could not take another.
#[test]
fn a_project_with_a_damaged_snapshot_can_take_the_next_and_heals_what_it_stores_again() {
    for place in [Place::Directory, Place::Snapshot] {
        for action in [Action::Flip, Action::Truncate, Action::Delete] {
            let text = format!("{action:?} {place:?}");
            let (project, id, expected) = damaged_project(place);
            damage(&project, id, place, action);
            let error = project.store.gc(&at_once(), &common());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Damaged, "{text}");
            let next = project.store.snapshot(Some("next"), None, &common()).unwrap();
            assert_eq!(project.store.show(next.id).unwrap().parent, Some(id), "{text}");
            assert_same(&expected, &project.start(next.id).unwrap(), &text);
            if place == Place::Directory {
                assert_same(&expected, &project.start(id).unwrap(), &text);
                project.assert_sound();
                project.gc();
            }
        }
    }
}

#[test]
fn a_pack_that_the_database_forgot_is_taken_over_where_it_has_what_is_lost() {
    let (project, id, expected) = damaged_project(Place::Pack);
    let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
    db.execute_batch("DELETE FROM packed; DELETE FROM packs").unwrap();
    fs::remove_dir_all(project.path.join("d1")).unwrap();
    assert_eq!(project.start(id).unwrap_err().kind(), ErrorKind::Damaged);
    let report = project.verify();
    assert_eq!(report.damage.len(), 13, "{report:#?}");
    assert!(report.damage.iter().all(|damage| damage.kind == DamageKind::Missing && damage.lost));
    // A collection leaves it alone.
    assert_eq!(project.gc().packs, 0);
    let report = project.store.verify(true, &common()).unwrap();
    assert!(report.damage.iter().all(|damage| damage.repaired), "{report:#?}");
    project.assert_sound();
    assert_same(&expected, &project.start(id).unwrap(), "taken over");
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
    project.store.start(&["w"], &StartOptions::new().from(id).at(&at)).unwrap();
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
                let name = (random(2) == 0).then(|| format!("n{step}"));
                let taken = project.store.snapshot(None, name.as_deref(), &common()).unwrap();
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

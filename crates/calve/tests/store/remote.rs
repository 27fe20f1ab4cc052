//! Promise: a snapshot goes through a remote unchanged, whole or not at all, even if others push
//! and pull at the same time, are killed, or tamper with the remote.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::snapshot::assert_same;
use crate::common::{
    NOBODY, Scratch, as_nobody, bytes, is_root, is_there, names, not_run, odd, plain_tree, sh,
};
use crate::maintained::{Project, at_once, common, few, tree};
use calve::{
    Cancel, CheckoutOptions, CheckoutReport, ErrorKind, GcOptions, KnownRemote, PullOptions,
    PullReport, PushOptions, PushReport, Remote, RemoteGcOptions, RemoteSettings,
    RemoteVerifyOptions, SigningKey, SnapshotId, SnapshotOptions, Store,
};
use proptest::prelude::*;

const MIB: usize = 1 << 20;

/// A folder with a remote in it.
struct Place {
    scratch: Scratch,
    url: String,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        fs::create_dir(scratch.join("remote")).unwrap();
        let url = format!("file://{}", scratch.join("remote").to_str().unwrap());
        Remote::init(&url, &none()).unwrap();
        Self { scratch, url }
    }

    fn open(&self) -> Remote {
        Remote::open(&self.url, &none()).unwrap()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.scratch.join("remote").join(key)
    }

    fn count(&self, folder: &str) -> usize {
        if self.path(folder).is_dir() { names(&self.path(folder)).len() } else { 0 }
    }
}

/// A folder needs no settings.
fn none() -> RemoteSettings {
    RemoteSettings::new()
}

fn empty(root: &Path) {
    fs::create_dir(root).unwrap();
}

fn push(remote: &Remote, store: &Store, id: SnapshotId, name: &str) -> PushReport {
    remote.push(store, id, &PushOptions::new().name(name), &common()).unwrap()
}

fn pull(remote: &Remote, store: &Store, what: &str) -> Result<PullReport, calve::Error> {
    remote.pull(store, what, &PullOptions::new(), &common())
}

/// Large contents with something in common, and a content that is at once a file and a chunk.
fn large(root: &Path) {
    empty(root);
    let mut content = bytes(1, 12 * MIB);
    fs::write(root.join("first"), &content).unwrap();
    content.splice(5 * MIB..5 * MIB, *b"a few bytes");
    fs::write(root.join("second"), &content).unwrap();
    fs::write(root.join("zeros"), vec![0; 9 * MIB]).unwrap();
    fs::write(root.join("chunk of zeros"), vec![0; 4 * MIB]).unwrap();
    fs::write(root.join("just not large"), bytes(2, 4 * MIB)).unwrap();
    fs::write(root.join("just large"), bytes(3, 4 * MIB + 1)).unwrap();
}

#[test]
fn a_tree_of_another_store_is_the_same_tree() {
    for (row, make) in [
        ("odd", odd::build as fn(&Path)),
        ("large", large),
        ("nothing", empty),
        ("many", |root| plain_tree(root, 30, 40, 700)),
    ] {
        let place = Place::new();
        let here = Project::new(make);
        let id = here.snapshot();
        let expected = tree(&here.path);
        let pushed = push(&place.open(), &here.store, id, "ready");
        assert_eq!((pushed.snapshot, pushed.sequence), (id, Some(1)), "{row}");

        let there = Project::new(empty);
        let pulled = pull(&place.open(), &there.store, "ready").unwrap();
        assert_eq!((pulled.snapshot, pulled.sequence), (id, Some(1)), "{row}");
        assert_eq!(pulled.fetched, pulled.contents, "{row}: {pulled:?}");
        assert_same(&expected, &there.start(id).unwrap(), row);
        there.assert_sound();
        assert_eq!(there.verify().unsealed_mirrors, 0, "{row}: what was fetched is sealed");
        assert!(names(&there.file("stage")).is_empty(), "{row}");

        // Nothing is fetched or sent that is there.
        let again = pull(&place.open(), &there.store, "ready").unwrap();
        assert_eq!((again.fetched, again.fetched_bytes), (0, 0), "{row}: {again:?}");
        let pushed = push(&place.open(), &there.store, id, "ready");
        assert!(pushed.unchanged && pushed.sent_bytes == 0, "{row}: {pushed:?}");
        assert!(names(&here.file("remotes").join(place.open().id())).contains(&"names".to_owned()));
    }
}

#[test]
fn what_is_packed_or_sparse_is_pushed_and_no_mirror_is_made_for_it() {
    let place = Place::new();
    let here = Project::new(|root| {
        large(root);
        let sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.set_len(64 << 20).unwrap();
    });
    let id = here.snapshot();
    let expected = tree(&here.path);
    here.pack_all();
    let before = here.store.stats().unwrap().mirrors;
    push(&place.open(), &here.store, id, "ready");
    assert_eq!(here.store.stats().unwrap().mirrors, before);
    let there = Project::new(empty);
    pull(&place.open(), &there.store, "ready").unwrap();
    assert_same(&expected, &there.start(id).unwrap(), "packed");
    let blocks = fs::metadata(there.mirror(&vec![0; 64 << 20])).unwrap().blocks();
    assert!(blocks * 512 < 32 << 20, "64 MiB of zeros take {blocks} blocks");
}

#[test]
fn after_a_small_change_only_the_change_is_sent_and_fetched() {
    let place = Place::new();
    let here = Project::new(|root| plain_tree(root, 20, 50, 3000));
    let first = here.snapshot();
    let whole = push(&place.open(), &here.store, first, "ready");
    assert!(whole.contents == 1000 && whole.packs == 1, "{whole:?}");
    let there = Project::new(empty);
    pull(&place.open(), &there.store, "ready").unwrap();

    fs::write(here.path.join("d3/f7"), "edited").unwrap();
    let second = here.snapshot();
    let change = push(&place.open(), &here.store, second, "ready");
    assert_eq!((change.contents, change.content_bytes, change.packs), (1, 6, 1), "{change:?}");
    assert!(change.sent_bytes * 50 < whole.sent_bytes, "{change:?} after {whole:?}");
    assert_eq!(change.sequence, Some(2));
    let pulled = pull(&place.open(), &there.store, "ready").unwrap();
    assert_eq!((pulled.fetched, pulled.fetched_bytes), (1, 6), "{pulled:?}");
    // The listing, the name, the record, a part, an index and the content.
    assert!(pulled.received_bytes < 20_000 && pulled.requests <= 7, "{pulled:?}");
    assert_same(&tree(&here.path), &there.start(second).unwrap(), "second");

    // A machine that has neither gets the whole, also of the first.
    let empty = Project::new(empty);
    pull(&place.open(), &empty.store, "ready").unwrap();
    pull(&place.open(), &empty.store, &first.to_string()).unwrap();
    empty.assert_sound();
    let log = place.open().log("ready").unwrap();
    let log: Vec<_> = log.iter().map(|one| (one.sequence, one.snapshot)).collect();
    assert_eq!(log, [(2, second), (1, first)]);
}

#[test]
fn of_a_large_file_only_the_chunks_that_changed_are_sent_and_fetched() {
    let place = Place::new();
    let here = Project::new(|root| {
        empty(root);
        fs::write(root.join("image"), bytes(7, 12 * MIB)).unwrap();
    });
    let first = here.snapshot();
    push(&place.open(), &here.store, first, "image");
    let there = Project::new(empty);
    pull(&place.open(), &there.store, "image").unwrap();
    let mut content = bytes(7, 12 * MIB);
    content.splice(5 * MIB..5 * MIB, *b"inserted");
    fs::write(here.path.join("image"), &content).unwrap();
    let second = here.snapshot();
    let pushed = push(&place.open(), &here.store, second, "image");
    assert!(pushed.sent_bytes < 6 * MIB as u64, "{pushed:?}");
    pull(&place.open(), &there.store, "image").unwrap();
    assert_same(&tree(&here.path), &there.start(second).unwrap(), "image");
    there.assert_sound();
}

#[test]
fn a_store_that_has_nothing_in_common_with_the_remote_sends_only_what_is_not_there() {
    let place = Place::new();
    let here = Project::new(|root| plain_tree(root, 10, 50, 3000));
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    // The same contents and one more, in a snapshot that does not refer to the first.
    let there = Project::new(|root| plain_tree(root, 10, 50, 3000));
    fs::write(there.path.join("more"), "more").unwrap();
    let other = there.snapshot();
    let pushed = push(&place.open(), &there.store, other, "ready");
    assert_eq!((pushed.contents, pushed.content_bytes), (1, 4), "{pushed:?}");
    let third = Project::new(empty);
    pull(&place.open(), &third.store, "ready").unwrap();
    assert_same(&tree(&there.path), &third.start(other).unwrap(), "other");
}

#[test]
fn what_a_store_has_of_other_snapshots_is_not_fetched() {
    let place = Place::new();
    let here = Project::new(|root| plain_tree(root, 10, 50, 3000));
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    for packed in [false, true] {
        let there = Project::new(|root| plain_tree(root, 5, 50, 3000));
        there.snapshot();
        if packed {
            there.pack_all();
        }
        let pulled = pull(&place.open(), &there.store, "ready").unwrap();
        assert_eq!((pulled.contents, pulled.fetched), (500, 250), "{packed}: {pulled:?}");
        assert_same(&tree(&here.path), &there.start(id).unwrap(), "half");
        there.assert_sound();
    }
}

#[test]
fn of_those_who_push_under_one_name_at_once_nobody_is_lost() {
    const MACHINES: usize = 8;
    const ROUNDS: usize = 4;
    let place = Place::new();
    let machines: Vec<Project> = (0..MACHINES).map(|_| Project::new(few)).collect();
    let pushed: Vec<(u64, SnapshotId)> = std::thread::scope(|scope| {
        let all: Vec<_> = machines
            .iter()
            .enumerate()
            .map(|(number, machine)| {
                let place = &place;
                scope.spawn(move || {
                    let mut pushed = Vec::new();
                    for round in 0..ROUNDS {
                        fs::write(machine.path.join("own"), format!("{number} {round}")).unwrap();
                        let id = machine.snapshot();
                        let report = push(&place.open(), &machine.store, id, "ready");
                        pushed.push((report.sequence.unwrap(), id));
                        pull(&place.open(), &machine.store, "ready").unwrap();
                        machine.store.gc(&at_once(), &common()).unwrap();
                    }
                    pushed
                })
            })
            .collect();
        all.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    let log = place.open().log("ready").unwrap();
    assert_eq!(log.len(), MACHINES * ROUNDS);
    let mut sorted = pushed.clone();
    sorted.sort_unstable();
    let found: Vec<_> = log.iter().rev().map(|one| (one.sequence, one.snapshot)).collect();
    assert_eq!(found, sorted);
    let fresh = Project::new(empty);
    for (_, id) in pushed {
        pull(&place.open(), &fresh.store, &id.to_string()).unwrap();
    }
    fresh.assert_sound();
    for machine in &machines {
        machine.assert_sound();
    }
}

#[test]
fn while_others_collect_whatever_was_pushed_last_can_be_pulled() {
    const MACHINES: usize = 3;
    const ROUNDS: usize = 5;
    let place = Place::new();
    let machines: Vec<Project> = (0..MACHINES).map(|_| Project::new(few)).collect();
    let left = std::sync::atomic::AtomicUsize::new(MACHINES);
    let collect = RemoteGcOptions::new().grace(std::time::Duration::ZERO).keep(0);
    std::thread::scope(|scope| {
        let (place, left, collect) = (&place, &left, &collect);
        for (number, machine) in machines.iter().enumerate() {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    fs::write(machine.path.join("own"), format!("{number} {round}")).unwrap();
                    let id = machine.snapshot();
                    let options = PushOptions::new().name(format!("ready-{}", number % 2));
                    let pushed = place.open().push(&machine.store, id, &options, &common());
                    if let Err(error) = pushed {
                        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                    }
                    let other = format!("ready-{}", round % 2);
                    if let Err(error) = pull(&place.open(), &machine.store, &other) {
                        assert_eq!(error.kind(), ErrorKind::SnapshotNotFound, "{error}");
                    }
                }
                left.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        for _ in 0..2 {
            scope.spawn(move || {
                while left.load(std::sync::atomic::Ordering::Relaxed) > 0 {
                    place.open().gc(collect, &common()).unwrap();
                }
            });
        }
    });
    let report = place.open().verify(&RemoteVerifyOptions::new(), &common()).unwrap();
    // Without a grace time the snapshot of a superseded change may go before the change does, and
    // the list of files that name the root before its name is made; a pull looks for them itself.
    assert!(report.broken.iter().all(|one| one.names.is_empty()), "{report:?}");
    let fresh = Project::new(empty);
    for name in ["ready-0", "ready-1"] {
        pull(&place.open(), &fresh.store, name).unwrap();
    }
    fresh.assert_sound();
}

#[test]
fn a_collector_leaves_what_is_not_of_calve_and_no_remote_is_made_where_such_a_thing_is() {
    let others = [
        "canary/mine.txt",
        "underway/work.txt",
        "underway/push-x",
        "condemned/list.txt",
        "packs/readme",
        "parts/x/y",
        "found/0",
        "snapshots/old",
        "names/x/note",
    ];
    let put = |path: PathBuf| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "precious").unwrap();
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(1 << 18);
        fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
    };
    let token = "0123456789abcdef".repeat(2);
    let left = [format!("canary/{token}"), format!("underway/push-{token}")];
    let place = Place::new();
    let here = Project::new(few);
    push(&place.open(), &here.store, here.snapshot(), "ready");
    others.iter().for_each(|key| put(place.path(key)));
    left.iter().for_each(|key| put(place.path(key)));
    let collect = RemoteGcOptions::new().grace(std::time::Duration::ZERO).keep(0);
    for _ in 0..2 {
        place.open().gc(&collect, &common()).unwrap();
    }
    for key in others {
        assert_eq!(fs::read(place.path(key)).unwrap(), b"precious", "{key}");
    }
    for key in left {
        assert!(!is_there(&place.path(&key)), "{key} is what a killed command left");
    }
    let scratch = Scratch::new();
    for (number, key) in others.iter().enumerate() {
        let folder = scratch.join(format!("{number}"));
        put(folder.join(key));
        let error = Remote::init(&format!("file://{}", folder.display()), &none()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteUnfit, "{key}: {error}");
        assert!(error.to_string().contains(key), "{error}");
    }
    let stopped = scratch.join("stopped");
    put(stopped.join("canary").join(&token));
    Remote::init(&format!("file://{}", stopped.display()), &none()).unwrap();
}

#[test]
fn a_collector_tells_of_a_snapshot_that_is_gone_only_if_a_name_means_it() {
    let place = Place::new();
    let here = Project::new(few);
    let named = here.snapshot();
    push(&place.open(), &here.store, named, "ready");
    fs::write(here.path.join("own"), "own").unwrap();
    let announced = here.snapshot();
    place.open().push(&here.store, announced, &PushOptions::new(), &common()).unwrap();
    fs::create_dir_all(place.path("underway")).unwrap();
    // Like the remains of a pusher that was killed before it made its record.
    let record = place.path(&format!("snapshots/{announced}"));
    fs::rename(record, place.path(&format!("underway/push-{}", "0".repeat(32)))).unwrap();
    let missing = || place.open().gc(&RemoteGcOptions::new(), &common()).unwrap().missing;
    assert_eq!(missing(), []);
    fs::remove_file(place.path(&format!("snapshots/{named}"))).unwrap();
    assert_eq!(missing(), [named]);
}

#[test]
fn a_push_that_failed_goes_on_with_the_packs_that_arrived() {
    let place = Place::new();
    let here = Project::new(|root| plain_tree(root, 20, 10, 300_000));
    let id = here.snapshot();
    // Packs arrive, parts cannot.
    fs::write(place.path("parts"), "in the way").unwrap();
    let options = PushOptions::new().name("ready");
    place.open().push(&here.store, id, &options, &common()).unwrap_err();
    let arrived = place.count("packs");
    assert!(arrived >= 2, "{arrived}");
    assert!(place.open().names().unwrap().is_empty());
    let there = Project::new(empty);
    let error = pull(&place.open(), &there.store, &id.to_string()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SnapshotNotFound, "{error}");
    fs::remove_file(place.path("parts")).unwrap();

    // In the meantime one pack was lost, and one more file arrived.
    let lost = names(&place.path("packs")).pop().unwrap();
    fs::remove_file(place.path("packs").join(lost)).unwrap();
    fs::write(here.path.join("more"), "more").unwrap();
    let id = here.snapshot();
    let pushed = push(&place.open(), &here.store, id, "ready");
    assert_eq!(pushed.resumed_packs, arrived as u64 - 1, "{pushed:?}");
    assert!(pushed.packs >= 1 && place.count("packs") <= arrived + 1, "{pushed:?}");
    pull(&place.open(), &there.store, "ready").unwrap();
    assert_same(&tree(&here.path), &there.start(id).unwrap(), "resumed");
    let sent = here.file("remotes").join(place.open().id()).join("sent");
    assert!(names(&sent).len() <= 1, "only the note of the lost pack is left");
}

#[test]
fn a_pull_that_failed_leaves_no_snapshot_and_the_next_one_fetches_the_rest() {
    let place = Place::new();
    let here = Project::new(|root| plain_tree(root, 40, 10, 300_000));
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    let there = Project::new(empty);
    let packs = names(&place.path("packs"));
    assert!(packs.len() > 3, "{packs:?}");
    // Its end stays, which has the index, and its beginning, which arrives first.
    let length = |name: &&String| fs::metadata(place.path("packs").join(name)).unwrap().len();
    let long = packs.iter().max_by_key(length).unwrap();
    let pack = place.path("packs").join(long);
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    for byte in &mut damaged[whole.len() / 2..][..1 << 20] {
        *byte = 0;
    }
    fs::write(&pack, damaged).unwrap();
    let one = common().jobs(std::num::NonZeroUsize::MIN);
    let error = place.open().pull(&there.store, "ready", &PullOptions::new(), &one).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains(long), "{error}");
    assert!(there.store.log().unwrap().snapshots.iter().all(|one| one.id != id));
    fs::write(&pack, whole).unwrap();
    let pulled = pull(&place.open(), &there.store, "ready").unwrap();
    assert!(pulled.fetched < pulled.contents, "{pulled:?}");
    assert_same(&tree(&here.path), &there.start(id).unwrap(), "the rest");
    there.assert_sound();
}

#[test]
fn whatever_is_changed_in_the_remote_nothing_wrong_arrives() {
    let place = Place::new();
    let here = Project::new(|root| {
        few(root);
        fs::write(root.join("large"), bytes(1, 5 * MIB)).unwrap();
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(root.join("folder/file"), "content").unwrap();
    });
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    let mut tried = 0;
    for folder in ["format", "names/ready", "snapshots", "parts", "packs"] {
        let path = place.path(folder);
        let files = if path.is_dir() {
            names(&path).iter().map(|name| path.join(name)).collect()
        } else {
            vec![path]
        };
        for file in files {
            let content = fs::read(&file).unwrap();
            let middle = content.len() / 2;
            for (row, wrong) in [
                ("cut", content[..middle].to_vec()),
                ("empty", Vec::new()),
                ("longer", [&content[..], b"more"].concat()),
                ("zeros", vec![0; content.len()]),
                ("another", b"something else".to_vec()),
                ("flipped", {
                    let mut flipped = content.clone();
                    flipped[middle] ^= 4;
                    flipped
                }),
            ] {
                fs::write(&file, wrong).unwrap();
                let there = Project::new(empty);
                let what = format!("{row} {}", file.display());
                let pulled = Remote::open(&place.url, &none())
                    .and_then(|remote| pull(&remote, &there.store, "ready"));
                match pulled {
                    // The flipped bit may be in a part of the frame that nobody reads.
                    Ok(_) => assert_same(&tree(&here.path), &there.start(id).unwrap(), &what),
                    Err(error) => {
                        let kinds = [
                            ErrorKind::Damaged,
                            ErrorKind::StoreIncompatible,
                            ErrorKind::RemoteNotFound,
                            ErrorKind::Io,
                            // Nobody has signed the name, so it may mean any snapshot.
                            ErrorKind::SnapshotNotFound,
                        ];
                        assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
                        assert!(there.store.log().unwrap().snapshots.is_empty(), "{what}");
                    }
                }
                assert!(names(&there.file("stage")).is_empty(), "{what}");
                there.assert_sound();
                tried += 1;
            }
            fs::write(&file, content).unwrap();
        }
    }
    assert!(tried >= 36, "{tried}");
    let there = Project::new(empty);
    pull(&place.open(), &there.store, "ready").unwrap();
}

#[test]
fn what_is_no_file_in_the_place_of_an_object_is_damage_and_a_collector_removes_nothing() {
    let place = Place::new();
    let here = Project::new(few);
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    let policy = RemoteGcOptions::new().grace(std::time::Duration::ZERO).keep(1);
    let folders = ["names/ready", "snapshots", "parts", "packs"];
    for folder in folders {
        let file = place.path(folder).join(&names(&place.path(folder))[0]);
        let aside = place.scratch.join("aside");
        fs::rename(&file, &aside).unwrap();
        for row in ["link", "dangling", "pipe", "folder"] {
            match row {
                "link" => std::os::unix::fs::symlink(&aside, &file).unwrap(),
                "dangling" => std::os::unix::fs::symlink("none", &file).unwrap(),
                "pipe" => drop(sh(Command::new("mkfifo").arg(&file))),
                _ => fs::create_dir(&file).unwrap(),
            }
            let what = format!("{row} in {folder}");
            for options in [RemoteVerifyOptions::new(), RemoteVerifyOptions::new().quick(true)] {
                let report = place.open().verify(&options, &common()).unwrap();
                let is_told =
                    report.damage.iter().any(|one| one.path.ends_with(file.file_name().unwrap()));
                assert_eq!(
                    is_told,
                    (row, folder) != ("folder", "names/ready"),
                    "{what}: {report:?}"
                );
                assert_eq!(report.broken.is_empty(), folder == "names/ready", "{what}: {report:?}");
            }
            // An empty folder is like an object that is gone.
            if row != "folder" {
                let before = folders.map(|it| place.count(it));
                let collected = place.open().gc(&policy, &common());
                // It must know each name and each record.
                let is_needed = matches!(folder, "names/ready" | "snapshots");
                assert_eq!(collected.is_err(), is_needed, "{what}: {collected:?}");
                assert_eq!(before, folders.map(|it| place.count(it)), "{what}");
            }
            let removed =
                if row == "folder" { fs::remove_dir(&file) } else { fs::remove_file(&file) };
            removed.unwrap();
        }
        fs::rename(&aside, &file).unwrap();
    }
    let report = place.open().verify(&RemoteVerifyOptions::new(), &common()).unwrap();
    assert!(report.damage.is_empty() && report.whole == [id], "{report:?}");
}

#[test]
fn where_keys_are_configured_a_name_counts_only_as_one_of_them_signed_it_last() {
    let place = Place::new();
    let (ours, theirs) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
    let remote = place.open().trusting([SigningKey::from_bytes(&[3; 32]).public(), ours.public()]);
    let here = Project::new(few);
    let (first, there) = (here.snapshot(), Project::new(empty));
    let named = |key: Option<&SigningKey>| {
        let options = PushOptions::new().name("ready");
        key.map_or(options.clone(), |key| options.key(key.clone()))
    };
    let refused = |row: &str| {
        let error = pull(&remote, &there.store, "ready").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{row}: {error}");
        error.to_string()
    };
    remote.push(&here.store, first, &named(None), &common()).unwrap();
    refused("unsigned");
    remote.push(&here.store, first, &named(Some(&theirs)), &common()).unwrap();
    refused("signed by another");
    // A store without keys accepts it.
    pull(&place.open(), &Project::new(empty).store, "ready").unwrap();
    let pushed = remote.push(&here.store, first, &named(Some(&ours)), &common()).unwrap();
    assert_eq!((pushed.sequence, pushed.unchanged), (Some(3), false));
    let pulled = pull(&remote, &there.store, "ready").unwrap();
    assert_eq!(pulled.signers, [ours.public()]);

    fs::write(here.path.join("d0/f0"), "newer").unwrap();
    let second = here.snapshot();
    remote.push(&here.store, second, &named(Some(&ours)), &common()).unwrap();
    assert_eq!(pull(&remote, &there.store, "ready").unwrap().snapshot, second);
    // Set back: the newest is taken away, all is taken away, or an old one is put in its place.
    let key = |n: u64| place.path(&format!("names/ready/{n:020}"));
    let kept: Vec<_> = (1..=4).map(|n| fs::read(key(n)).unwrap()).collect();
    fs::remove_file(key(4)).unwrap();
    let message = refused("the newest is gone");
    assert!(message.contains("change 4") && message.contains("after 3"), "{message}");
    for n in 1..=3 {
        fs::remove_file(key(n)).unwrap();
    }
    refused("all are gone");
    fs::write(key(5), &kept[2]).unwrap();
    let error = pull(&remote, &there.store, "ready").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    fs::remove_file(key(5)).unwrap();
    let text = String::from_utf8(kept[2].clone()).unwrap();
    fs::write(key(5), text.replace("sequence 3", "sequence 5")).unwrap();
    refused("an old one under a new number");
    fs::remove_file(key(5)).unwrap();
    // A signed change of another name, or of another remote.
    fs::create_dir_all(place.path("names/other")).unwrap();
    fs::write(place.path(&format!("names/other/{:020}", 3)), &kept[2]).unwrap();
    let error = pull(&remote, &there.store, "other").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    let elsewhere = Place::new();
    fs::create_dir_all(elsewhere.path("names/ready")).unwrap();
    fs::write(elsewhere.path(&format!("names/ready/{:020}", 3)), &kept[2]).unwrap();
    let error = pull(&elsewhere.open(), &there.store, "ready").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    // Who has seen the newest pushes after it, so that others believe the next.
    let pushed = remote.push(&here.store, first, &named(Some(&ours)), &common()).unwrap();
    assert_eq!(pushed.sequence, Some(5));
    assert_eq!(pull(&remote, &there.store, "ready").unwrap().snapshot, first);
}

#[test]
fn a_pull_gives_the_name_that_was_asked_for_and_a_collector_leaves_a_snapshot_with_a_name() {
    let place = Place::new();
    let here = Project::new(few);
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "größe-1.0");
    let there = Project::new(few);
    fs::write(there.path.join("own"), "own").unwrap();
    there.snapshot();
    let named = PullOptions::new().name("mine");
    place.open().pull(&there.store, "größe-1.0", &named, &common()).unwrap();
    let forget =
        GcOptions::new().grace(std::time::Duration::ZERO).expire(Some(std::time::Duration::ZERO));
    there.store.gc(&forget, &common()).unwrap();
    assert_eq!(there.store.resolve("mine").unwrap(), id);
    assert_same(&tree(&here.path), &there.start(id).unwrap(), "named");
    let names = place.open().names().unwrap();
    assert_eq!(names.len(), 1);
    assert_eq!((names[0].name.as_str(), names[0].snapshot), ("größe-1.0", id));
}

#[test]
fn what_cannot_be_a_remote_is_refused_with_the_reason() {
    let place = Place::new();
    let here = Project::new(few);
    let id = here.snapshot();
    let remote = place.open();
    let error = Remote::init(&place.url, &none()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteExists, "{error}");
    let bare = format!("file://{}", place.scratch.path().display());
    let error = Remote::open(&bare, &none()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteNotFound, "{error}");
    for url in ["", "/folder", "file://folder", "ftp://host/folder"] {
        let error = Remote::open(url, &none()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{url}: {error}");
    }
    for name in ["", "a/b", "-x", &"ü".repeat(100), &id.to_string()] {
        let options = PushOptions::new().name(name);
        let error = remote.push(&here.store, id, &options, &common()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{name}: {error}");
    }
    for what in ["none", &"0".repeat(64)] {
        let error = pull(&remote, &here.store, what).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SnapshotNotFound, "{error}");
    }
    let gone = SnapshotId::from_bytes([7; 32]);
    let error = remote.push(&here.store, gone, &PushOptions::new(), &common()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SnapshotNotFound, "{error}");
    assert_eq!(place.count("packs") + place.count("names"), 0);
}

#[test]
fn a_store_knows_remotes_by_names_and_opens_no_other_one_in_their_place() {
    let place = Place::new();
    let here = Project::new(few);
    let key = SigningKey::from_bytes(&[1; 32]).public();
    let remote = place.open().trusting([key]);
    assert_eq!(KnownRemote::all(&here.store).unwrap(), []);
    let known = KnownRemote::add(&here.store, "team", &remote).unwrap();
    assert_eq!(KnownRemote::add(&here.store, "team", &remote).unwrap(), known);
    KnownRemote::add(&here.store, "größe", &place.open()).unwrap();
    let error = KnownRemote::add(&here.store, "team", &place.open()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteExists, "{error}");
    let names = |all: Vec<KnownRemote>| all.into_iter().map(|one| one.name).collect::<Vec<_>>();
    assert_eq!(names(KnownRemote::all(&here.store).unwrap()), ["größe", "team"]);
    assert_eq!(KnownRemote::find(&here.store, "team").unwrap(), known);
    known.open(&none()).unwrap();
    assert!(KnownRemote::remove(&here.store, "größe").unwrap());
    assert!(!KnownRemote::remove(&here.store, "größe").unwrap());
    let error = KnownRemote::find(&here.store, "größe").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteNotFound, "{error}");

    fs::remove_dir_all(place.path("")).unwrap();
    fs::create_dir(place.path("")).unwrap();
    let error = known.open(&none()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteNotFound, "{error}");
    Remote::init(&place.url, &none()).unwrap();
    let error = known.open(&none()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
}

#[test]
fn a_push_or_pull_that_is_cancelled_leaves_nothing_that_counts() {
    let place = Place::new();
    let here = Project::new(few);
    let id = here.snapshot();
    let cancel = calve::Cancel::new();
    cancel.cancel();
    let cancelled = common().cancel(&cancel);
    let options = PushOptions::new().name("ready");
    let error = place.open().push(&here.store, id, &options, &cancelled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(place.count("snapshots") + place.count("names"), 0);
    push(&place.open(), &here.store, id, "ready");
    let there = Project::new(empty);
    let error =
        place.open().pull(&there.store, "ready", &PullOptions::new(), &cancelled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert!(there.store.log().unwrap().snapshots.is_empty());
}

fn checkout(remote: &Remote, root: &Path, what: &str) -> Result<CheckoutReport, calve::Error> {
    remote.checkout(root, what, &CheckoutOptions::new(), &common())
}

#[test]
fn a_checkout_is_a_project_with_the_pushed_tree_and_a_store_that_knows_the_remote() {
    for (row, make) in [
        ("odd", odd::build as fn(&Path)),
        ("large", large),
        ("nothing", empty),
        ("many", |root| plain_tree(root, 30, 40, 700)),
    ] {
        let place = Place::new();
        let here = Project::new(make);
        let id = here.snapshot();
        push(&place.open(), &here.store, id, "ready");
        let scratch = Scratch::new();
        let root = scratch.join("fresh");
        if row == "many" {
            fs::create_dir(&root).unwrap();
        }
        let done = checkout(&place.open(), &root, "ready").unwrap();
        assert_eq!((done.pulled.snapshot, done.pulled.sequence), (id, Some(1)), "{row}");
        assert_eq!(names(&scratch.join(".")), ["fresh"], "{row}");
        assert_same(&tree(&here.path), &tree(&root), row);
        let store = Store::discover(&root).unwrap().store;
        assert_eq!(store.path(), done.store.path(), "{row}");
        let project = store.project_worktree().unwrap();
        assert_eq!(project.snapshot(), Some(id), "{row}");
        let status = project.status(&common()).unwrap();
        assert!(status.changes.is_empty(), "{row}: {status:?}");
        let damage = store.verify(&calve::VerifyOptions::new(), &common()).unwrap();
        assert!(damage.damage.is_empty() && damage.unsealed_mirrors == 0, "{row}: {damage:?}");
        // The way back, and the replay of an older name.
        let known = KnownRemote::find(&store, "origin").unwrap();
        let remote = known.open(&none()).unwrap();
        fs::write(root.join("new"), "new").unwrap();
        let next = store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
        assert_eq!(store.show(next.id).unwrap().parent, Some(id), "{row}");
        assert_eq!(push(&remote, &store, next.id, "ready").sequence, Some(2), "{row}");
        fs::remove_file(place.path(&format!("names/ready/{:020}", 2))).unwrap();
        let error = pull(&remote, &store, "ready").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{row}: {error}");
    }
}

/// The user made the folder and chose who may enter it.
#[test]
fn a_checkout_into_an_empty_folder_keeps_its_owner_mode_and_acls() {
    const TEST: &str = "a_checkout_into_an_empty_folder_keeps_its_owner_mode_and_acls";
    let place = Place::new();
    let here = Project::new(few);
    fs::set_permissions(&here.path, fs::Permissions::from_mode(0o755)).unwrap();
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    for (row, mode, owner, acl, is_changed) in [
        ("as the snapshot's", 0o755, None, "", false),
        ("private", 0o700, None, "", true),
        ("of a group", 0o2770, Some((0, 12)), "", true),
        ("of somebody else", 0o755, Some((NOBODY, NOBODY)), "", true),
        ("with ACLs", 0o755, None, "u:12:rwx,d:u:12:rwx", true),
    ] {
        if owner.is_some() && !is_root() {
            not_run(TEST, "only root gives folders away");
            continue;
        }
        let scratch = Scratch::new();
        let root = scratch.join("fresh");
        fs::create_dir(&root).unwrap();
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&root, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
        if !acl.is_empty() {
            let mut setfacl = Command::new("setfacl");
            if !setfacl.args(["-m", acl]).arg(&root).status().is_ok_and(|status| status.success()) {
                not_run(TEST, "needs setfacl, and ACLs");
                continue;
            }
        }
        let (own, inside) = (PathBuf::new(), PathBuf::from("d0/f0"));
        let look = |root: &Path, path: &PathBuf| {
            let entry = tree(root)[path].clone();
            (entry.mode, entry.owner, entry.xattrs)
        };
        let before = look(&root, &own);
        let done = checkout(&place.open(), &root, "ready").unwrap();
        assert_eq!(look(&root, &own), before, "{row}");
        assert_eq!(look(&root, &inside), look(&here.path, &inside), "{row}");
        let project = done.store.project_worktree().unwrap();
        let changes = project.status(&common()).unwrap().changes;
        assert_eq!(!changes.is_empty(), is_changed, "{row}: {changes:?}");
        assert_eq!(names(&scratch.join(".")), ["fresh"], "{row}");
    }
}

#[test]
fn to_a_user_who_cannot_have_the_owners_of_the_snapshot_a_checkout_is_unchanged() {
    const TEST: &str = "to_a_user_who_cannot_have_the_owners_of_the_snapshot";
    if !is_root() {
        return not_run(TEST, "only root has files of two owners");
    }
    let place = Place::new();
    let here = Project::new(few);
    fs::set_permissions(here.path.join("d0/f0"), fs::Permissions::from_mode(0o4755)).unwrap();
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(place.scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if as_nobody(|| fs::read_dir(scratch.path()).is_err()) {
        return not_run(TEST, "nobody may not look where the tests run");
    }
    let root = scratch.join("fresh");
    let file = root.join("d0/f0");
    as_nobody(|| {
        let done = checkout(&place.open(), &root, "ready").unwrap();
        let status = || {
            let project = done.store.project_worktree().unwrap();
            project.status(&common()).unwrap().changes
        };
        assert!(status().is_empty(), "{:?}", status());
        // Set-ID bits mean the owner, who is another one here.
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (NOBODY, 0o755));
        // The index does not vouch for it any more.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(status().len(), 1);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(status().is_empty(), "{:?}", status());
        let next = done.store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
        assert_eq!(next.id, id);
    });
}

#[test]
fn a_checkout_refuses_a_folder_whose_owner_it_cannot_keep_before_it_fetches_anything() {
    const TEST: &str = "a_checkout_refuses_a_folder_whose_owner_it_cannot_keep";
    if !is_root() {
        return not_run(TEST, "only root has folders of two owners");
    }
    let place = Place::new();
    let here = Project::new(few);
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let root = scratch.join("fresh");
    fs::create_dir(&root).unwrap();
    for (row, owner, cause) in [
        ("root's", (0, 0), "user 0"),
        ("of a group that the user is not in", (NOBODY, 12), "group 12"),
    ] {
        std::os::unix::fs::chown(&root, Some(owner.0), Some(owner.1)).unwrap();
        if as_nobody(|| fs::read_dir(&root).is_err()) {
            return not_run(TEST, "nobody may not look where the tests run");
        }
        let remote = place.open();
        let error = as_nobody(|| checkout(&remote, &root, "ready")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{row}: {error}");
        assert!(error.to_string().contains(cause), "{row}: {error}");
        assert_eq!(names(&scratch.join(".")), ["fresh"], "{row}");
        assert!(names(&root).is_empty(), "{row}");
    }
}

#[test]
fn a_checkout_that_fails_leaves_its_folder_as_it_was_and_nothing_beside_it() {
    let place = Place::new();
    let here = Project::new(few);
    let id = here.snapshot();
    let key = SigningKey::from_bytes(&[1; 32]);
    push(&place.open(), &here.store, id, "ready");
    let scratch = Scratch::new();
    for folder in ["full", "empty", "store/.calve"] {
        fs::create_dir_all(scratch.join(folder)).unwrap();
    }
    fs::write(scratch.join("full/own"), "own").unwrap();
    fs::write(scratch.join("file"), "own").unwrap();
    std::os::unix::fs::symlink("full", scratch.join("link")).unwrap();
    std::os::unix::fs::symlink("none", scratch.join("dangling")).unwrap();
    // Its own time changes: stages come and go in it.
    let seen = || {
        let folders = ["full", "empty", "store"].map(|folder| tree(&scratch.join(folder)));
        (names(&scratch.join(".")), folders)
    };
    let before = seen();
    let trusting = || place.open().trusting([key.public()]);
    let (exists, io) = (ErrorKind::DestinationExists, ErrorKind::Io);
    for (row, remote, root, what, kind) in [
        ("not empty", place.open(), "full", "ready", exists),
        ("a file", place.open(), "file", "ready", exists),
        ("a link to it", place.open(), "link", "ready", exists),
        ("a link to nothing", place.open(), "dangling", "ready", exists),
        ("no parent", place.open(), "none/fresh", "ready", io),
        ("no such name", place.open(), "fresh", "none", ErrorKind::SnapshotNotFound),
        ("no such name", place.open(), "empty", "none", ErrorKind::SnapshotNotFound),
        ("no name", place.open(), "fresh", "a/b", ErrorKind::InvalidName),
        ("unsigned", trusting(), "fresh", "ready", ErrorKind::Untrusted),
    ] {
        let error = checkout(&remote, &scratch.join(root), what).unwrap_err();
        assert_eq!(error.kind(), kind, "{row}: {error}");
        assert_eq!(before, seen(), "{row}");
    }
    let wrong = CheckoutOptions::new().remote("a/b");
    let error =
        place.open().checkout(scratch.join("fresh"), "ready", &wrong, &common()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = common().cancel(&cancel);
    let options = CheckoutOptions::new();
    let error =
        place.open().checkout(scratch.join("fresh"), "ready", &options, &cancelled).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    let pack = place.path("packs").join(&names(&place.path("packs"))[0]);
    fs::remove_file(pack).unwrap();
    let error = checkout(&place.open(), &scratch.join("empty"), "ready").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert_eq!(before, seen(), "damaged");
    // With the key all is well.
    let signed = PushOptions::new().name("ready").key(key.clone());
    let elsewhere = Place::new();
    elsewhere.open().push(&here.store, id, &signed, &common()).unwrap();
    let remote = elsewhere.open().trusting([key.public()]);
    let done = checkout(&remote, &scratch.join("empty"), "ready").unwrap();
    assert_eq!(done.pulled.signers, [key.public()]);
    assert_eq!(KnownRemote::find(&done.store, "origin").unwrap().keys, [key.public()]);
}

#[test]
fn a_limit_changes_nothing_but_the_time_and_progress_ends_at_what_was_expected() {
    let place = Place::new();
    let here = Project::new(large);
    let id = here.snapshot();
    let limited = place.open().limited(1_000_000_000.try_into().unwrap(), &Cancel::new());
    let progress = std::sync::Arc::new(calve::Progress::new());
    let watched = common().progress(&progress);
    let options = PushOptions::new().name("ready");
    let pushed = limited.push(&here.store, id, &options, &watched).unwrap();
    assert!(pushed.content_bytes > 0);
    assert_eq!(progress.expected_bytes(), pushed.content_bytes);
    assert_eq!(progress.bytes(), pushed.content_bytes);
    let there = Project::new(empty);
    let progress = std::sync::Arc::new(calve::Progress::new());
    let watched = common().progress(&progress);
    let pulled = limited.pull(&there.store, "ready", &PullOptions::new(), &watched).unwrap();
    assert_eq!(progress.expected_bytes(), pulled.fetched_bytes);
    assert!(progress.bytes() >= pulled.fetched_bytes, "a content may be a chunk, too");
    assert_same(&tree(&here.path), &there.start(id).unwrap(), "limited");
}

/// Files by path, each with a number for its content.
fn some_tree() -> impl Strategy<Value = Vec<(String, u8)>> {
    prop::collection::vec(("[ab]/[ab]/[a-d]", 0..12_u8), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_pushed_in_turn_by_two_stores_arrives_in_a_third(
        steps in prop::collection::vec((0..2_usize, some_tree(), any::<bool>()), 1..6),
    ) {
        let place = Place::new();
        let machines = [Project::new(empty), Project::new(empty)];
        let third = Project::new(empty);
        for (number, (machine, files, pulls)) in steps.into_iter().enumerate() {
            let machine = &machines[machine];
            if pulls && number > 0 {
                pull(&place.open(), &machine.store, "ready").unwrap();
            }
            for folder in ["a", "b"] {
                let _ = fs::remove_dir_all(machine.path.join(folder));
            }
            for (path, content) in files {
                let path = machine.path.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes(content.into(), usize::from(content) * 1000)).unwrap();
            }
            let message = SnapshotOptions::new().message(number.to_string());
            let id = machine.store.snapshot(&message, &common()).unwrap().id;
            push(&place.open(), &machine.store, id, "ready");
            // At times it comes after several pushes.
            if number % 2 == 0 {
                pull(&place.open(), &third.store, "ready").unwrap();
                assert_same(&tree(&machine.path), &third.start(id).unwrap(), "third");
            }
        }
        third.assert_sound();
    }
}

/// The story: a store had pulled without keys, and the remote had said that the name was at change
/// 9. Then the store got keys, and refused each signed change before that as set back, for ever.
#[test]
fn what_a_name_meant_unsigned_does_not_count_where_keys_are_configured() {
    let place = Place::new();
    let ours = SigningKey::from_bytes(&[1; 32]);
    let signed = place.open().trusting([ours.public()]);
    let (here, there) = (Project::new(few), Project::new(empty));
    let id = here.snapshot();
    let options = PushOptions::new().name("ready").key(ours);
    signed.push(&here.store, id, &options, &common()).unwrap();
    fs::write(here.path.join("more"), "more").unwrap();
    let second = here.snapshot();
    signed.push(&here.store, second, &options, &common()).unwrap();
    let key = |n: u64| place.path(&format!("names/ready/{n:020}"));
    // Anybody who can write there can say this.
    let text = fs::read_to_string(key(1)).unwrap().replace("sequence 1", "sequence 9");
    let (unsigned, _) = text.split_once("signature").unwrap();
    fs::write(key(9), unsigned).unwrap();
    for (step, remote, expected) in [
        ("unsigned", place.open(), Some(Some(9))),
        ("signed, but the newest is not", signed.clone(), None),
    ] {
        let pulled = pull(&remote, &there.store, "ready").ok().map(|pulled| pulled.sequence);
        assert_eq!(pulled, expected, "{step}");
    }
    fs::remove_file(key(9)).unwrap();
    assert_eq!(pull(&signed, &there.store, "ready").unwrap().sequence, Some(2));
    // Without keys the store still knows what it has seen; with keys, that of the keys.
    let newest = fs::read(key(2)).unwrap();
    for remote in [place.open(), signed.clone()] {
        assert_eq!(pull(&signed, &there.store, "ready").unwrap().sequence, Some(2));
        fs::remove_file(key(2)).unwrap();
        let error = pull(&remote, &there.store, "ready").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{error}");
        fs::write(key(2), &newest).unwrap();
    }
    // A memory that cannot be read is not "never seen". A power cut may leave an empty one.
    let memory = there.file(&format!("remotes/{}/names/ready", signed.id()));
    for (text, is_pulled) in [("nonsense", false), ("", true), ("1 x", false)] {
        fs::write(&memory, text).unwrap();
        assert_eq!(pull(&signed, &there.store, "ready").is_ok(), is_pulled, "{text:?}");
    }
}

/// The story: somebody gave a name its highest number. When that change was removed, as calve says,
/// a store that had seen it could never push the name again.
#[test]
fn a_name_can_be_pushed_after_a_change_with_a_number_that_none_can_have_was_removed() {
    for (number, next) in [(u64::MAX, 2), (u64::MAX - 1, 2), (1 << 63, 2), ((1 << 63) - 1, 1 << 63)]
    {
        let place = Place::new();
        let remote = place.open();
        let (here, there) = (Project::new(few), Project::new(empty));
        push(&remote, &here.store, here.snapshot(), "ready");
        let key = |n: u64| place.path(&format!("names/ready/{n:020}"));
        let text = fs::read_to_string(key(1)).unwrap();
        let text = text.replace("sequence 1\n", &format!("sequence {number}\n"));
        fs::write(key(number), text).unwrap();
        assert_eq!(pull(&remote, &there.store, "ready").unwrap().sequence, Some(number));
        fs::remove_file(key(number)).unwrap();
        fs::write(there.path.join("more"), "more").unwrap();
        let pushed = push(&remote, &there.store, there.snapshot(), "ready");
        assert_eq!(pushed.sequence, Some(next), "{number}");
        assert_eq!(pull(&remote, &there.store, "ready").unwrap().sequence, Some(next));
    }
}

/// The story: the list of the files that name the project's root was gone from the remote. The
/// pull ended well, and the worktree's Python environment led to the first machine's project.
#[test]
fn a_snapshot_whose_list_of_paths_cannot_be_had_does_not_arrive_under_its_name() {
    let place = Place::new();
    let here = Project::new(|root| {
        few(root);
        fs::create_dir_all(root.join(".venv/bin")).unwrap();
        fs::write(root.join(".venv/pyvenv.cfg"), "home = /usr/bin\n").unwrap();
        let activate = format!("VIRTUAL_ENV='{}/.venv'\n", root.display());
        fs::write(root.join(".venv/bin/activate"), activate).unwrap();
    });
    let id = here.snapshot();
    push(&place.open(), &here.store, id, "ready");
    let list = place.path("found").join(&names(&place.path("found"))[0]);
    let kept = fs::read(&list).unwrap();
    for (row, content) in [
        ("gone", None),
        ("flipped", Some(kept.iter().map(|byte| byte ^ 4).collect())),
        ("cut", Some(kept[..kept.len() / 2].to_vec())),
    ] {
        match &content {
            None => fs::remove_file(&list).unwrap(),
            Some(content) => fs::write(&list, content).unwrap(),
        }
        let there = Project::new(empty);
        let error = pull(&place.open(), &there.store, "ready").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{row}: {error}");
        assert!(
            error.path().ends_with(list.strip_prefix(place.path("")).unwrap()),
            "{row}: {error}"
        );
        assert!(there.store.log().unwrap().snapshots.is_empty(), "{row}");
        // By its id it has no list, and nobody claims that it has.
        pull(&place.open(), &there.store, &id.to_string()).unwrap();
        // The next push sends it again, unless something of its size is there.
        if row != "flipped" {
            push(&place.open(), &here.store, id, "ready");
            assert_eq!(fs::read(&list).unwrap(), kept, "{row}");
        }
        fs::write(&list, &kept).unwrap();
    }
    pull(&place.open(), &Project::new(empty).store, "ready").unwrap();
    // The store's own list is damaged: it is made again, and not left out.
    fs::write(here.file(&format!("found/{id}")), "damaged").unwrap();
    push(&place.open(), &here.store, id, "again");
    let change = fs::read_to_string(place.path(&format!("names/again/{:020}", 1))).unwrap();
    assert!(change.contains("\nfound "), "{change}");
}

#[test]
fn a_snapshot_with_a_name_of_git_or_calve_in_its_root_does_not_arrive() {
    for name in [".GIT", ".git ", "git~1", ".g\u{200c}it", ".Calve", ".git:x"] {
        let place = Place::new();
        let here = Project::new(|root| {
            few(root);
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("config"), "[core]").unwrap();
        });
        push(&place.open(), &here.store, here.snapshot(), "ready");
        let there = Project::new(empty);
        let error = pull(&place.open(), &there.store, "ready").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{name:?}: {error}");
        assert!(error.to_string().contains("in its root"), "{name:?}: {error}");
        assert!(there.store.log().unwrap().snapshots.is_empty(), "{name:?}");
        let to = place.scratch.join("to");
        checkout(&place.open(), &to, "ready").unwrap_err();
        assert!(!is_there(&to), "{name:?}");
    }
}

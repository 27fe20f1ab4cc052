//! A store that version 0.1.0 wrote stays readable: `testdata/store-1.tar.gz`, kept as an archive
//! because a seal is a time.
//!
//! `testdata/make CALVE` made it: a folder with a file of two names, an executable, a link, an empty
//! file and an empty folder; a snapshot, a file removed, one added, a mode changed, and another
//! snapshot; packed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::{ErrorKind, SnapshotOptions, StartOptions, Store, StoreOptions, VerifyOptions};

use crate::common;
use crate::common::Scratch;

const FIRST: &str = "62b5f34c770f90e745f1cbdcbd101590a0556bfe41b8537632088e1f92cbca91";
const SECOND: &str = "c1b349a6e85c811f94622ca2e86e0cbbaac68a41acc444b91489435ac540d79b";

fn unpack(to: &Path) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/store-1.tar.gz");
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(to).status();
    assert!(tar.unwrap().success());
}

#[test]
fn a_store_of_the_first_version_is_whole_and_can_be_read_and_started_from() {
    let scratch = Scratch::new();
    let project = scratch.join("project");
    fs::create_dir(&project).unwrap();
    unpack(&project);
    let store = Store::open(project.join(".calve")).unwrap();
    let options = StoreOptions::new();

    let verified = store.verify(&VerifyOptions::new(), &options).unwrap();
    assert!(verified.damage.is_empty(), "{verified:?}");
    let told: Vec<_> = store
        .log()
        .unwrap()
        .snapshots
        .into_iter()
        .map(|snapshot| (snapshot.id.to_string(), snapshot.message, snapshot.names, snapshot.files))
        .collect();
    assert_eq!(
        told,
        [
            (SECOND.to_owned(), "the second".to_owned(), vec![], 5),
            (FIRST.to_owned(), "the first".to_owned(), vec!["first".to_owned()], 5),
        ]
    );

    let first = store.resolve("first").unwrap();
    let at = scratch.join("trees");
    for (name, id) in [("old", first), ("new", store.resolve(&SECOND[..8]).unwrap())] {
        store.start(&[name], &StartOptions::new().from(id).at(&at), &options).unwrap();
        let worktree = store.worktree(name).unwrap();
        assert!(worktree.status(&options).unwrap().changes.is_empty(), "{name}");
    }
    let old = at.join("old");
    // This one comes out of the pack.
    let numbers: String = (1..=2000).map(|number| format!("{number}\n")).collect();
    assert_eq!(fs::read_to_string(old.join("src/numbers")).unwrap(), numbers);
    let readme = fs::metadata(old.join("README")).unwrap();
    assert_eq!((readme.mtime(), readme.mtime_nsec()), (1_580_608_922, 123_456_789));
    assert_eq!(readme.ino(), fs::metadata(old.join("src/second-name")).unwrap().ino());
    assert_eq!(fs::read_link(old.join("src/link")).unwrap(), Path::new("../README"));
    assert!(fs::read_dir(old.join("empty")).unwrap().next().is_none());
    let mode = |tree: &str| {
        fs::metadata(at.join(tree).join("bin/run")).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode("old"), mode("new")), (0o755, 0o600));
    assert!(!at.join("new/src/numbers").try_exists().unwrap());
    assert_eq!(fs::read(at.join("new/src/deep/er/more")).unwrap(), b"more\n");
}

/// The contents of a store's folder, without its locks.
fn files(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![store.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path != store.join("locks") {
                folders.push(path);
            } else if path.is_file() {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_store_whose_tables_are_of_a_later_version_is_refused_by_its_number_and_stays_as_it_is() {
    let scratch = Scratch::new();
    unpack(scratch.path());
    let path = scratch.join(".calve");
    let db = rusqlite::Connection::open(path.join("index.db")).unwrap();
    db.execute_batch("ALTER TABLE worktrees ADD COLUMN later TEXT; PRAGMA user_version = 1000")
        .unwrap();
    drop(db);
    let before = files(&path);
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreIncompatible);
    assert!(error.to_string().contains("version 1000"), "{error}");
    assert!(before == files(&path), "something was changed");
}

#[test]
fn a_store_that_needs_what_this_version_does_not_have_is_refused_by_the_name_of_it() {
    let scratch = Scratch::new();
    unpack(scratch.path());
    let path = scratch.join(".calve");
    fs::write(path.join("format"), "calve store 1\nincompatible quantum-blobs\n").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreIncompatible);
    assert!(error.to_string().contains("quantum-blobs"), "{error}");
    fs::write(path.join("format"), "calve store 1\ncompatible sparkle\n").unwrap();
    Store::open(&path).unwrap();
}

fn directories(store: &Path) -> BTreeSet<Vec<u8>> {
    let db = rusqlite::Connection::open(store.join("index.db")).unwrap();
    let mut rows = db.prepare("SELECT id FROM directories").unwrap();
    rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Later versions encode the values of the first version in the same way, so these have the same
/// ids.
#[test]
fn a_tree_of_the_first_version_has_the_ids_that_it_had() {
    const TEST: &str = "a_tree_of_the_first_version_has_the_ids_that_it_had";
    if !common::is_root() {
        return common::not_run(TEST, "only root can give the files their owners");
    }
    let scratch = Scratch::new();
    unpack(scratch.path());
    let old = Store::open(scratch.join(".calve")).unwrap();
    let (options, at) = (StoreOptions::new(), scratch.join("trees"));
    let first = old.resolve("first").unwrap();
    old.start(&["tree"], &StartOptions::new().from(first).at(&at), &options).unwrap();
    let tree = scratch.join("tree");
    fs::rename(at.join("tree"), &tree).unwrap();
    fs::remove_dir_all(tree.join(".calve")).unwrap();
    let new = Store::init(&tree).unwrap();
    new.snapshot(&SnapshotOptions::new(), &options).unwrap();
    let (old, new) = (directories(old.path()), directories(new.path()));
    assert!(new.len() > 1 && new.is_subset(&old), "{} of {}", new.len(), old.len());
}

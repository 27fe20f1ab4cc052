//! Promise: the checking build sees each kind of lie, ends the process, and names the path; and
//! takes no change for a lie.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use super::*;
use crate::store::PROJECT;
use crate::store::blobs::path_of as mirror_of;
use crate::store::snapshot::Known;
use crate::{SnapshotOptions, StoreOptions};

const CHILD: &str = "CALVE_CHECK_CHILD";

fn folder() -> tempfile::TempDir {
    match std::env::var_os("CALVE_TEST_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .unwrap()
}

/// A project whose file has this content, in a snapshot.
fn project(dir: &Path) -> Store {
    std::fs::write(dir.join("file"), "what is in it").unwrap();
    std::thread::sleep(4 * TICK);
    let store = Store::init(dir).unwrap();
    store.snapshot(&SnapshotOptions::new(), &StoreOptions::new()).unwrap();
    store
}

/// Writes to a file and gives it its time back.
fn forge(path: &Path) {
    let time = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    let mode = permissions.mode() | 0o200;
    permissions.set_mode(mode);
    std::fs::set_permissions(path, permissions).unwrap();
    std::fs::write(path, "what is not it").unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(13).unwrap();
    File::open(path).unwrap().set_modified(time).unwrap();
}

fn lie(kind: &str, dir: &Path) {
    let options = StoreOptions::new();
    match kind {
        "clone" => {
            let [one, other] = ["one", "other"].map(|name| dir.join(name));
            std::fs::write(&one, vec![7; 500_000]).unwrap();
            let source = Source::look(File::open(&one).unwrap());
            let mut copy = vec![7; 500_000];
            copy[300_000] = 8;
            std::fs::write(&other, copy).unwrap();
            source.is_in(File::open(&other).unwrap());
        }
        "seal" => {
            let store = project(dir);
            let mirror = mirror_of(BlobId::of(b"what is in it"));
            forge(&store.path().join("blobs").join(mirror.to_str().unwrap()));
            store.warm(&[], &options).unwrap();
        }
        "index" => {
            let store = project(dir);
            forge(&dir.join("file"));
            // As if the change had left no mark.
            let row = store.catalog().worktree(PROJECT).unwrap().unwrap();
            let known = Known::of(&store, row.clone()).unwrap();
            let mut index = known.index.unwrap();
            let meta = std::fs::metadata(dir.join("file")).unwrap();
            index.stats[1].changed = (meta.ctime(), u32::try_from(meta.ctime_nsec()).unwrap());
            index.stats[1].ino = meta.ino();
            index.stamp.0 += 10;
            store.registry().write_index(&row.token, &index).unwrap();
            store.project_worktree().unwrap().status(&options).unwrap();
        }
        "subvolume" => {
            let [one, other] = ["one", "other"].map(|name| dir.join(name));
            for (root, text) in [(&one, "one"), (&other, "two")] {
                std::fs::create_dir_all(root.join("below")).unwrap();
                std::fs::write(root.join("below/file"), text).unwrap();
            }
            Subvolume::look().is_in(File::open(&one).unwrap(), File::open(dir).unwrap(), c"other");
        }
        _ => panic!("{kind}"),
    }
}

#[test]
fn each_kind_of_lie_ends_the_process_with_its_path() {
    let name = "check::tests::each_kind_of_lie_ends_the_process_with_its_path";
    if let Ok(kind) = std::env::var(CHILD) {
        let (kind, dir) = kind.split_once(' ').unwrap();
        lie(kind, Path::new(dir));
        return;
    }
    for (kind, path) in
        [("clone", "byte 300000"), ("seal", "blobs/"), ("index", "/file"), ("subvolume", "/one")]
    {
        let dir = folder();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, format!("{kind} {}", dir.path().display()))
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        let line = told.lines().find(|line| line.starts_with("calve_check: ")).unwrap_or("");
        assert!(!output.status.success() && line.contains(path), "{kind}: {told}");
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_no_disagreement() {
    let dir = folder();
    let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
    std::fs::write(&one, "before").unwrap();
    let source = Source::look(File::open(&one).unwrap());
    assert!(source.0.is_some(), "it was looked at");
    std::fs::write(&other, "before").unwrap();
    std::fs::write(&one, "after!").unwrap();
    source.is_in(File::open(&other).unwrap());
}

#[test]
fn a_hole_is_as_good_as_zeros_and_a_file_that_is_too_short_is_told() {
    let file = |length: u64, bytes: &[(u64, u8)]| {
        let file =
            tempfile::tempfile_in(folder().path()).or_else(|_| tempfile::tempfile()).unwrap();
        file.set_len(length).unwrap();
        for (at, byte) in bytes {
            file.write_all_at(&[*byte], *at).unwrap();
        }
        OwnedFd::from(file)
    };
    let long = 50 << 30;
    for (a, b, size, expected) in [
        (file(long, &[]), file(long, &[(1 << 30, 0)]), long, None),
        (file(long, &[(7 << 30, 1)]), file(long, &[]), long, Some(7 << 30)),
        (file(long, &[]), file(long, &[(7 << 30, 1)]), long, Some(7 << 30)),
        (file(9, &[]), file(8, &[]), 9, Some(8)),
        (file(9, &[(8, 1)]), file(90, &[(8, 1), (80, 1)]), 9, None),
        (file(0, &[]), file(0, &[]), 0, None),
    ] {
        assert_eq!(difference(&a, &b, size).unwrap(), expected);
    }
}

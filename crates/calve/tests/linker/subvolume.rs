//! Promise: a btrfs subvolume is cloned in constant time where that has the same result, and walked
//! where it has not.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common;
use crate::common::odd::{self, file};
use crate::common::snapshot::{Kind, assert_same, only, snapshot};
use crate::common::{Scratch, filesystem, has_command, not_run, sh};
use calve::{CloneMode, CloneOptions, Existing, Method, Reflink, clone_tree};

/// A scratch directory on btrfs; says why there is none.
fn btrfs(test: &str) -> Option<Scratch> {
    let scratch = Scratch::new();
    if filesystem(scratch.path()) != "btrfs" {
        not_run(test, "subvolumes are btrfs' own");
    } else if !has_command("btrfs") {
        not_run(test, "needs btrfs-progs");
    } else {
        return Some(scratch);
    }
    None
}

fn subvolume(path: &Path) {
    sh(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(path));
}

fn is_subvolume(path: &Path) -> bool {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap()) == 256
}

/// The odd tree in a subvolume of its own.
fn odd_subvolume(path: &Path) {
    let tree = path.with_extension("tree");
    odd::build(&tree);
    subvolume(path);
    sh(Command::new("sh")
        .args(["-c", "cp -a \"$1/.\" \"$2\" && rm -rf \"$1\"", "sh"])
        .arg(&tree)
        .arg(path));
}

#[test]
fn a_snapshot_is_the_same_tree_as_the_walk_brings() {
    let Some(scratch) = btrfs("a_snapshot_is_the_same_tree_as_the_walk_brings") else { return };
    let source = scratch.join("source");
    odd_subvolume(&source);
    let expected = snapshot(&source);
    let [fast, slow] = ["fast", "slow"].map(|name| scratch.join(name));
    let report =
        clone_tree(&source, &[&fast, &scratch.join("second")], &CloneOptions::new()).unwrap();
    for found in &report.destinations {
        assert_eq!((found.method, found.files), (Method::Snapshot, 0), "{found:?}");
        assert!(is_subvolume(&found.path));
        assert_same(&expected, &snapshot(&found.path), "by snapshot");
    }
    let report = clone_tree(&source, &[&slow], &CloneOptions::new().exclude("/nothing")).unwrap();
    assert_eq!(report.destinations[0].method, Method::Reflink);
    assert!(!is_subvolume(&slow));
    let without_sockets = only(&snapshot(&fast), |_, entry| entry.kind != Kind::Socket);
    assert_same(&without_sockets, &snapshot(&slow), "by the walk");

    // It is writable, and the source does not see it.
    file(&fast.join("new"), 1, 0o644, 10);
    fs::write(fast.join("sizes/4096"), "written").unwrap();
    assert_same(&expected, &snapshot(&source), "the source itself");
    // And it can be removed as any tree.
    sh(Command::new("rm").arg("-rf").arg(&fast));
}

#[test]
fn where_the_snapshot_would_not_be_the_same_the_tree_is_walked() {
    let Some(scratch) = btrfs("where_the_snapshot_would_not_be_the_same_the_tree_is_walked") else {
        return;
    };
    let source = scratch.join("source");
    subvolume(&source);
    fs::create_dir(source.join("folder")).unwrap();
    for (seed, name) in ["a", "folder/b"].iter().enumerate() {
        file(&source.join(name), seed as u64, 0o640, 5000);
    }
    let plain = CloneOptions::new;
    let rows: Vec<(&str, CloneOptions, Method)> = vec![
        ("plain", plain(), Method::Snapshot),
        ("always", plain().reflink(Reflink::Always), Method::Snapshot),
        ("replace", plain().existing(Existing::Replace), Method::Snapshot),
        ("durable", plain().durable(true), Method::Snapshot),
        ("never", plain().reflink(Reflink::Never), Method::Copy),
        ("copy", plain().mode(CloneMode::Copy), Method::Copy),
        ("excluded", plain().exclude("*.nothing"), Method::Reflink),
        ("ignored", plain().gitignore(true), Method::Reflink),
        ("no attributes", plain().xattrs(false), Method::Reflink),
        ("merged", plain().existing(Existing::Merge), Method::Reflink),
    ];
    let dest = scratch.join("dest");
    for (what, options, method) in rows {
        let report = clone_tree(&source, &[&dest], &options).unwrap();
        assert_eq!(report.destinations[0].method, method, "{what}");
        assert_same(&snapshot(&source), &snapshot(&dest), what);
        sh(Command::new("rm").arg("-rf").arg(&dest));
        assert_eq!(scratch.names(), ["source"], "{what}");
    }

    // A folder of a subvolume is no subvolume.
    let report = clone_tree(source.join("folder"), &[&dest], &plain()).unwrap();
    assert_eq!(report.destinations[0].method, Method::Reflink);
    fs::remove_dir_all(&dest).unwrap();

    // One destination is inside the source.
    let inside = source.join("folder/inside");
    let before = snapshot(&source);
    let report = clone_tree(&source, &[&dest, &inside], &plain()).unwrap();
    for found in &report.destinations {
        assert_eq!(found.method, Method::Reflink);
        let mut tree = snapshot(&found.path);
        for (path, entry) in &mut tree {
            entry.mtime = before[path].mtime;
        }
        assert_same(&before, &tree, "with a destination inside");
        fs::remove_dir_all(&found.path).unwrap();
    }

    // Something is mounted inside.
    sh(Command::new("mount").args(["-t", "tmpfs", "calve"]).arg(source.join("folder")));
    fs::write(source.join("folder/mounted"), "mounted").unwrap();
    let result = clone_tree(&source, &[&dest], &plain());
    sh(Command::new("umount").arg(source.join("folder")));
    assert_ne!(result.unwrap().destinations[0].method, Method::Snapshot);
    assert_eq!(fs::read(dest.join("folder/mounted")).unwrap(), b"mounted");
    fs::remove_dir_all(&dest).unwrap();

    // A subvolume inside: a snapshot would leave an empty folder in its place.
    subvolume(&source.join("folder/nested"));
    file(&source.join("folder/nested/c"), 3, 0o644, 5000);
    let report = clone_tree(&source, &[&dest], &plain()).unwrap();
    assert_eq!(report.destinations[0].method, Method::Reflink);
    assert_same(&snapshot(&source), &snapshot(&dest), "nested");
}

#[test]
fn a_snapshot_replaces_a_tree_atomically_and_a_tree_replaces_a_snapshot() {
    let Some(scratch) =
        btrfs("a_snapshot_replaces_a_tree_atomically_and_a_tree_replaces_a_snapshot")
    else {
        return;
    };
    let (source, tree, dest) = (scratch.join("source"), scratch.join("tree"), scratch.join("dest"));
    odd_subvolume(&source);
    common::plain_tree(&tree, 3, 3, 100);
    common::plain_tree(&dest, 4, 4, 100);
    let options = CloneOptions::new().existing(Existing::Replace);
    for round in 0..3 {
        for (from, method) in
            [(&source, Method::Snapshot), (&source, Method::Snapshot), (&tree, Method::Reflink)]
        {
            let report = clone_tree(from, &[&dest], &options).unwrap();
            assert_eq!(report.destinations[0].method, method);
            assert_same(&snapshot(from), &snapshot(&dest), &format!("round {round}, {method:?}"));
            assert_eq!(scratch.names(), ["dest", "source", "source.outside", "tree"]);
        }
    }
    file(&scratch.join("file"), 1, 0o644, 10);
    clone_tree(&source, &[scratch.join("file")], &options).unwrap();
    assert_same(&snapshot(&source), &snapshot(&scratch.join("file")), "over a file");
}

#[test]
fn what_was_just_written_is_in_the_snapshot() {
    let Some(scratch) = btrfs("what_was_just_written_is_in_the_snapshot") else { return };
    let source = scratch.join("source");
    subvolume(&source);
    for round in 0..10 {
        file(&source.join("file"), round, 0o644, 1 << 20);
        let dest = scratch.join(format!("dest-{round}"));
        let report = clone_tree(&source, &[&dest], &CloneOptions::new()).unwrap();
        assert_eq!(report.destinations[0].method, Method::Snapshot);
        assert_same(&snapshot(&source), &snapshot(&dest), "just written");
    }
}

#[test]
fn a_stage_that_stands_in_the_source_is_not_cloned() {
    let Some(scratch) = btrfs("a_stage_that_stands_in_the_source_is_not_cloned") else { return };
    let source = scratch.join("source");
    subvolume(&source);
    file(&source.join("file"), 1, 0o644, 10);
    fs::create_dir_all(source.join(".calve-stage-0000000000000001-1-1-0a/content")).unwrap();
    clone_tree(&source, &[scratch.join("dest")], &CloneOptions::new()).unwrap();
    assert_eq!(common::names(&scratch.join("dest")), ["file"]);
}

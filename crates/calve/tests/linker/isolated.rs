//! Promise: isolated. A write to any tree is seen in no other; blocks are shared until then, and
//! only where that was asked for.
#![cfg(target_os = "linux")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use crate::common;
use crate::common::odd;
use crate::common::snapshot::{Kind, Snapshot, assert_same, only, snapshot};
use crate::common::{Scratch, bytes, expects_reflink, has_command, jobs, not_run, sh};
use calve::{CloneMode, CloneOptions, Reflink, clone_tree};

/// Changes the file in every way there is: in the middle, at the end, in length, in mode.
fn scribble(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(b"scribbled", length / 2).unwrap();
    file.write_all_at(b"and more", length).unwrap();
    file.set_len(length + 4).unwrap();
    odd::chmod(path, 0o600);
    common::odd::set_mtime(path, 1, 1);
}

#[test]
fn a_write_to_one_tree_is_seen_in_no_other() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    let trees = ["source", "one", "two", "three"].map(|name| scratch.join(name));
    for (mode, reflink) in [
        (CloneMode::Clone, Reflink::Auto),
        (CloneMode::Clone, Reflink::Never),
        (CloneMode::Copy, Reflink::Auto),
    ] {
        fs::create_dir(&source).unwrap();
        let sizes = [0, 1, 100, 2048, 4096, 5000, 65536, 1 << 20];
        for (seed, size) in sizes.iter().enumerate() {
            odd::file(&source.join(format!("{size}")), seed as u64, 0o644, *size);
        }
        fs::hard_link(source.join("5000"), source.join("5000-too")).unwrap();
        let options = CloneOptions::new().mode(mode).reflink(reflink);
        clone_tree(&source, &trees[1..3], &options).unwrap();
        // And a clone of a clone.
        clone_tree(&trees[1], &trees[3..], &options).unwrap();
        let mut kept: Vec<Snapshot> = trees.iter().map(|tree| snapshot(tree)).collect();
        for (written, tree) in trees.iter().enumerate() {
            for size in sizes {
                scribble(&tree.join(format!("{size}")));
            }
            fs::write(tree.join("new"), "new").unwrap();
            fs::remove_file(tree.join("5000-too")).unwrap();
            kept[written] = snapshot(tree);
            for (other, tree) in trees.iter().enumerate() {
                assert_same(
                    &kept[other],
                    &snapshot(tree),
                    &format!("{mode:?}, {reflink:?}: {written}, {other}"),
                );
            }
        }
        for tree in &trees {
            fs::remove_dir_all(tree).unwrap();
        }
    }
}

#[test]
fn only_the_hard_link_mode_makes_hard_links_and_only_the_symlink_mode_symbolic_ones() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    odd::build(&source);
    // A symbolic link is shorter than that on some filesystems.
    sh(Command::new("rm").arg("-rf").arg(source.join("deep")));
    let before = snapshot(&source);
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for reflink in [Reflink::Auto, Reflink::Never] {
            let dest = scratch.join("dest");
            clone_tree(
                &source,
                &[&dest],
                &jobs(CloneOptions::new().mode(mode).reflink(reflink), 2),
            )
            .unwrap();
            let after = snapshot(&dest);
            for (path, entry) in only(&before, |_, entry| entry.kind == Kind::File) {
                let found = &after[&path];
                let what = format!("{mode:?}, {path:?}");
                assert_eq!(found.inode.is(entry.inode), mode == CloneMode::Hardlink, "{what}");
                match mode {
                    CloneMode::Symlink => assert_eq!(found.target, source.join(&path), "{what}"),
                    _ => assert_eq!(found.kind, Kind::File, "{what}"),
                }
            }
            for (path, entry) in only(&before, |_, entry| entry.kind == Kind::Symlink) {
                assert_eq!(after[&path].target, entry.target, "{mode:?}, {path:?}");
            }
            sh(Command::new("rm").arg("-rf").arg(&dest));
            assert_same(&before, &snapshot(&source), "the source itself");
        }
    }
}

/// Whether the file's first extent is marked as shared.
fn is_shared(path: &Path) -> bool {
    fs::File::open(path).unwrap().sync_all().unwrap();
    let text = sh(Command::new("filefrag").arg("-v").arg(path));
    text.lines().any(|line| line.trim_start().starts_with("0:") && line.contains("shared"))
}

#[test]
fn blocks_are_shared_by_a_clone_until_they_are_written_and_never_by_a_copy() {
    let name = "blocks_are_shared_by_a_clone_until_they_are_written_and_never_by_a_copy";
    let scratch = Scratch::new();
    if !has_command("filefrag") {
        return not_run(name, "needs filefrag");
    }
    if common::filesystem(scratch.path()) == "tmpfs" {
        return not_run(name, "tmpfs does not tell its extents");
    }
    let reflinks = expects_reflink(scratch.path());
    for (mode, reflink) in [
        (CloneMode::Clone, Reflink::Auto),
        (CloneMode::Clone, Reflink::Never),
        (CloneMode::Copy, Reflink::Auto),
    ] {
        let (source, dest) = (scratch.join("source"), scratch.join("dest"));
        fs::create_dir(&source).unwrap();
        for size in [8192, 65536, 131_072, 1_000_000] {
            odd::file(&source.join(format!("{size}")), 1, 0o644, size);
        }
        clone_tree(&source, &[&dest], &CloneOptions::new().mode(mode).reflink(reflink)).unwrap();
        let shares = reflinks && (mode, reflink) == (CloneMode::Clone, Reflink::Auto);
        for file in common::names(&source) {
            let (from, to) = (source.join(&file), dest.join(&file));
            let what = format!("{mode:?}, {reflink:?}, {file}");
            assert_eq!((is_shared(&from), is_shared(&to)), (shares, shares), "{what}");
            let length = usize::try_from(fs::metadata(&to).unwrap().size()).unwrap();
            OpenOptions::new()
                .write(true)
                .open(&to)
                .unwrap()
                .write_all_at(&bytes(2, length), 0)
                .unwrap();
            assert!(!is_shared(&to), "{what}: after it was written");
            assert_eq!(fs::read(&from).unwrap(), bytes(1, length), "{what}");
        }
        fs::remove_dir_all(&source).unwrap();
        fs::remove_dir_all(&dest).unwrap();
    }
}

#[test]
fn eight_clones_take_the_disk_of_none_and_eight_copies_of_eight() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    let (files, size) = (16_u64, 1 << 20);
    fs::create_dir(&source).unwrap();
    for seed in 0..files {
        odd::file(&source.join(format!("{seed}")), seed, 0o644, size);
    }
    let dests: Vec<_> = (0..8).map(|index| scratch.join(format!("dest-{index}"))).collect();
    let used = || {
        let dir = fs::File::open(scratch.path()).unwrap();
        rustix::fs::syncfs(&dir).unwrap();
        let stat = rustix::fs::fstatvfs(&dir).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };
    let tree = files * size as u64;
    let alone = std::env::var_os("CALVE_FS").is_some();
    if !alone {
        return not_run(
            "eight_clones_take_the_disk_of_none_and_eight_copies_of_eight",
            "needs a filesystem of its own, to count its blocks",
        );
    }
    let before = used();
    clone_tree(&source, &dests, &CloneOptions::new()).unwrap();
    let taken = used().saturating_sub(before);
    if expects_reflink(scratch.path()) {
        // Other tests use the same filesystem at the same time.
        assert!(taken < 4 * tree, "{taken} bytes for 8 clones of {tree}");
    } else {
        assert!(taken + tree > 7 * tree, "{taken} bytes for 8 copies of {tree}");
    }
}

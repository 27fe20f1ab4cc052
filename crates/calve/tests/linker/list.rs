//! Promise: a list of files that are anywhere becomes a tree, with the promises of any other clone.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::odd::{file, set_xattr, stamp};
use crate::common::snapshot::{assert_same, snapshot};
use crate::common::{Scratch, bytes, expects_reflink, is_there, jobs, names, sh};
use calve::{
    Cancel, CloneMode, CloneOptions, ErrorKind, Existing, Method, Reflink, TreeEntry, clone_list,
    clone_tree,
};

/// Two folders with contents, as a manager's store has them.
fn store(scratch: &Scratch) {
    for (folder, contents) in [("s/00", ["a", "b"]), ("s/01", ["c", "d"])] {
        fs::create_dir_all(scratch.join(folder)).unwrap();
        for name in contents {
            let seed = u64::from(name.as_bytes()[0]);
            file(&scratch.join(folder).join(name), seed, 0o644, 5000);
        }
    }
    fs::write(scratch.join("s/00/empty"), "").unwrap();
    stamp(&scratch.join("s"));
}

/// A package of which two files have one content, and that has what no file implies.
fn package(scratch: &Scratch) -> Vec<TreeEntry> {
    let from = |name: &str| scratch.join("s").join(name);
    vec![
        TreeEntry::file("lib/deep/a.js", from("00/a")),
        TreeEntry::file("index.js", from("01/c")),
        TreeEntry::file("lib/again.js", from("00/a")),
        TreeEntry::file("bin/tool", from("01/d")).mode(0o755),
        TreeEntry::directory("empty").mode(0o700),
        TreeEntry::file("./lib/none.js", from("00/empty")),
        TreeEntry::symlink("tool", "bin/tool"),
    ]
}

#[test]
fn a_list_becomes_a_tree_by_every_mode_and_the_store_stays_as_it_was() {
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for existing in [Existing::Fail, Existing::Merge, Existing::Keep, Existing::Replace] {
            for threads in [1, 4] {
                let what = format!("{mode:?}, {existing:?}, {threads} threads");
                let scratch = Scratch::new();
                store(&scratch);
                let before = snapshot(&scratch.join("s"));
                let dests = [scratch.join("one"), scratch.join("two")];
                if existing != Existing::Fail {
                    fs::create_dir_all(dests[0].join("lib/other")).unwrap();
                }
                let options = jobs(CloneOptions::new().mode(mode).existing(existing), threads);
                let report = clone_list(package(&scratch), &dests, &options).unwrap();
                for (dest, report) in dests.iter().zip(&report.destinations) {
                    for (path, seed) in
                        [("lib/deep/a.js", "a"), ("lib/again.js", "a"), ("index.js", "c")]
                    {
                        let seed = u64::from(seed.as_bytes()[0]);
                        let content = fs::read(dest.join(path)).unwrap();
                        assert_eq!(content, bytes(seed, 5000), "{what}: {path}");
                    }
                    assert_eq!(fs::read(dest.join("lib/none.js")).unwrap(), b"", "{what}");
                    assert_eq!(fs::read_link(dest.join("tool")).unwrap(), Path::new("bin/tool"));
                    let mode_of = |path: &str| fs::metadata(dest.join(path)).unwrap().mode();
                    assert_eq!(mode_of("bin/tool") & 0o7777, 0o755, "{what}");
                    assert_eq!(mode_of("bin") & 0o7777, 0o755, "{what}");
                    assert_eq!(mode_of("empty") & 0o7777, 0o700, "{what}");
                    let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
                    let c = scratch.join("s/01/c");
                    assert_eq!(time(&dest.join("index.js")), time(&c), "{what}");
                    let counts = (report.files, report.symlinks, report.skipped.len());
                    assert_eq!(counts, (5, 1, 0), "{what}");
                    // One file needs another mode than a link to it would have.
                    let linked = matches!(mode, CloneMode::Hardlink | CloneMode::Symlink);
                    assert_eq!(report.linked_files, if linked { 4 } else { 0 }, "{what}");
                    assert_eq!(report.unlinked_because.mutable, u64::from(linked), "{what}");
                    let left = if linked { 1 } else { 5 };
                    match mode != CloneMode::Copy && expects_reflink(scratch.path()) {
                        true => assert_eq!(report.reflinked_files, left, "{what}"),
                        false => assert_eq!(report.copied_files, left, "{what}"),
                    }
                    let inode = |path: &str| fs::metadata(dest.join(path)).unwrap().ino();
                    let one = inode("lib/deep/a.js") == inode("lib/again.js");
                    assert_eq!(one, linked, "{what}: entries are linked only by name");
                }
                assert_eq!(names(&dests[0]).len(), 5, "{what}: {:?}", names(&dests[0]));
                let kept = existing == Existing::Merge || existing == Existing::Keep;
                assert_eq!(is_there(&dests[0].join("lib/other")), kept, "{what}");
                let after = snapshot(&scratch.join("s"));
                assert_same(&before, &after, &format!("{what}: the store"));
            }
        }
    }
}

#[test]
fn a_merge_replaces_or_keeps_what_the_destination_has_and_counts_it() {
    for (existing, content, counts) in
        [(Existing::Merge, bytes(99, 5000), (1, 0)), (Existing::Keep, b"mine".to_vec(), (0, 1))]
    {
        let scratch = Scratch::new();
        store(&scratch);
        let dest = scratch.join("dest");
        fs::create_dir_all(dest.join("bin")).unwrap();
        fs::write(dest.join("index.js"), "mine").unwrap();
        let options = CloneOptions::new().existing(existing);
        let report = clone_list(package(&scratch), &[&dest], &options).unwrap();
        let report = &report.destinations[0];
        assert_eq!(fs::read(dest.join("index.js")).unwrap(), content, "{existing:?}");
        assert_eq!((report.replaced_entries, report.kept_entries), counts, "{existing:?}");
        // `lib`, `lib/deep` and `empty`.
        assert_eq!(report.directories, 3, "{existing:?}");
    }
}

#[test]
fn a_list_that_cannot_be_is_refused_before_anything_is_made() {
    use ErrorKind::{Conflict, InvalidName};
    let scratch = Scratch::new();
    store(&scratch);
    let from = || scratch.join("s/00/a");
    let file = |path: &str| TreeEntry::file(path, from());
    for (entries, kind, path) in [
        (vec![file("../a")], InvalidName, "../a"),
        (vec![file("/a")], InvalidName, "/a"),
        (vec![file("a/../../b")], InvalidName, "a/../../b"),
        (vec![file("")], InvalidName, ""),
        (vec![TreeEntry::symlink(".", "a")], InvalidName, "."),
        (vec![file("a/.calve-stage-1/b")], InvalidName, "a/.calve-stage-1/b"),
        (vec![file("a"), file("b/c"), file("./a")], Conflict, "a"),
        (vec![file("a/b"), TreeEntry::symlink("a/b", "x")], Conflict, "a/b"),
        (vec![file("a"), file("a/b")], Conflict, "a"),
        (vec![file("a/b"), file("a")], Conflict, "a"),
        (vec![TreeEntry::directory("a"), file("a")], Conflict, "a"),
        (vec![TreeEntry::symlink("a", "x"), file("a/b")], Conflict, "a"),
        (vec![file("a\0b")], ErrorKind::Io, "a\0b"),
    ] {
        let what = format!("{entries:?}");
        let dest = scratch.join("dest");
        let error = clone_list(entries, &[&dest], &CloneOptions::new()).unwrap_err();
        assert_eq!((error.kind(), error.path()), (kind, Path::new(path)), "{what}");
        assert_eq!(scratch.names(), ["s"], "{what}");
    }
}

#[test]
fn a_listed_file_that_is_not_there_or_is_no_file_is_named_and_no_tree_appears() {
    let scratch = Scratch::new();
    store(&scratch);
    symlink("a", scratch.join("s/00/link")).unwrap();
    sh(std::process::Command::new("mkfifo").arg(scratch.join("s/00/pipe")));
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for from in ["s/00/gone", "s/none/gone", "s/00", "s/00/link", "s/00/pipe"] {
            let entries = [
                TreeEntry::file("a", scratch.join("s/00/a")),
                TreeEntry::file("b", scratch.join(from)),
            ];
            let options = CloneOptions::new().mode(mode);
            let dest = scratch.join("dest");
            let error = clone_list(entries, &[&dest], &options).unwrap_err();
            let found = (error.kind(), error.path().to_owned());
            let expected = (ErrorKind::SourceNotFound, scratch.join(from));
            assert_eq!(found, expected, "{mode:?}, {from}: {error}");
            assert_eq!(scratch.names(), ["s"], "{mode:?}, {from}");
        }
    }
}

#[test]
fn a_destination_that_holds_the_store_is_not_replaced() {
    let scratch = Scratch::new();
    store(&scratch);
    let options = CloneOptions::new().existing(Existing::Replace);
    let error = clone_list(package(&scratch), &[scratch.join("s")], &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overlap, "{error}");
    assert_eq!(names(&scratch.join("s/00")).len(), 3);
}

#[test]
fn the_patterns_and_the_modes_of_a_list_are_those_of_its_paths() {
    let scratch = Scratch::new();
    store(&scratch);
    let dest = scratch.join("dest");
    let options = CloneOptions::new()
        .mode(CloneMode::Hardlink)
        .exclude("lib/")
        .include("lib/deep/*")
        .mutable("index.js");
    let report = clone_list(package(&scratch), &[&dest], &options).unwrap();
    assert_eq!(names(&dest), ["bin", "empty", "index.js", "lib", "tool"]);
    assert_eq!(names(&dest.join("lib")), ["deep"]);
    assert_eq!(report.destinations[0].unlinked_because.mutable, 2);
    assert_eq!(report.destinations[0].linked_files, 1);

    let report = clone_list(package(&scratch), &[&dest], &CloneOptions::new().dry_run(true));
    assert_eq!(report.unwrap_err().kind(), ErrorKind::DestinationExists);
    let other = scratch.join("other");
    let report = clone_list(package(&scratch), &[&other], &CloneOptions::new().dry_run(true));
    let counted = &report.unwrap().destinations[0];
    assert_eq!((counted.files, counted.symlinks, counted.directories), (5, 1, 5));
    assert!(!is_there(&other));
}

#[test]
fn attributes_come_with_a_file_and_its_acl_only_without_a_mode() {
    let scratch = Scratch::new();
    store(&scratch);
    let a = scratch.join("s/00/a");
    if set_xattr(&a, "user.note", b"x").is_err() {
        return crate::common::not_run(module_path!(), "no extended attributes here");
    }
    // The owner reads and writes; user 1 reads; the group has nothing; the mask reads.
    let acl = [
        &2_u32.to_le_bytes()[..],
        &[1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0],
        &[4, 0, 0, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    set_xattr(&a, "system.posix_acl_access", &acl).unwrap();
    for (mode, xattrs, expected, acl, note) in [
        (None, true, 0o640, true, true),
        (None, false, 0o600, false, false),
        (Some(0o755), true, 0o755, false, true),
        (Some(0o755), false, 0o755, false, false),
    ] {
        let what = format!("{mode:?}, {xattrs}");
        let dest = scratch.join(format!("dest-{mode:?}-{xattrs}"));
        let mut entry = TreeEntry::file("a", &a);
        if let Some(mode) = mode {
            entry = entry.mode(mode);
        }
        clone_list([entry], &[&dest], &CloneOptions::new().xattrs(xattrs)).unwrap();
        let new = dest.join("a");
        assert_eq!(fs::metadata(&new).unwrap().permissions().mode() & 0o7777, expected, "{what}");
        let has = |name: &str| rustix::fs::lgetxattr(&new, name, &mut [0_u8; 0][..]).is_ok();
        assert_eq!((has("system.posix_acl_access"), has("user.note")), (acl, note), "{what}");
    }
}

/// A manager's own rules, and its own progress: uv counts files, pnpm marks them.
#[test]
fn functions_say_what_is_left_out_and_mutable_and_hear_of_each_file() {
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for existing in [Existing::Fail, Existing::Merge] {
            let scratch = Scratch::new();
            store(&scratch);
            let what = format!("{mode:?}, {existing:?}");
            let heard = Arc::new(Mutex::new(Vec::new()));
            let listener = Arc::clone(&heard);
            let options = CloneOptions::new()
                .mode(mode)
                .existing(existing)
                .exclude_if(|path| path.starts_with("bin"))
                .mutable_if(|path| path.ends_with("index.js"))
                .on_file(move |file| {
                    let found = (file.destination.join(file.path), file.method);
                    listener.lock().unwrap().push(found);
                });
            let tree = scratch.join("tree");
            clone_list(package(&scratch), &[&tree], &CloneOptions::new()).unwrap();
            fs::hard_link(tree.join("lib/again.js"), tree.join("lib/further.js")).unwrap();
            let (one, two, three) = (scratch.join("1"), scratch.join("2"), scratch.join("3"));
            if existing == Existing::Merge {
                fs::create_dir(&one).unwrap();
            }
            clone_list(package(&scratch), &[&one], &options).unwrap();
            clone_tree(&tree, &[&two, &three], &options).unwrap();
            let linked = match mode {
                CloneMode::Hardlink => Some(Method::Hardlink),
                CloneMode::Symlink => Some(Method::Symlink),
                _ => None,
            };
            let shares = expects_reflink(scratch.path()) && mode != CloneMode::Copy;
            let own = if shares { Method::Reflink } else { Method::Copy };
            let mut expected = Vec::new();
            for dest in [&one, &two, &three] {
                assert!(!is_there(&dest.join("bin")), "{what}");
                expected.push((dest.join("index.js"), own));
                for path in ["lib/again.js", "lib/deep/a.js", "lib/none.js"] {
                    expected.push((dest.join(path), linked.unwrap_or(own)));
                }
                if dest != &one {
                    let further = linked.unwrap_or(Method::Hardlink);
                    expected.push((dest.join("lib/further.js"), further));
                }
            }
            let mut heard = heard.lock().unwrap().clone();
            // Which of two names of a file is the first is not said.
            for (path, method) in heard.iter_mut().chain(&mut expected) {
                if path.ends_with("lib/again.js") || path.ends_with("lib/further.js") {
                    *method = Method::Mixed;
                }
            }
            heard.sort_by(|a, b| a.0.cmp(&b.0));
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(heard, expected, "{what}");
        }
    }
}

/// The chain of uv: a clone, else a hard link, else a copy.
#[test]
fn what_cannot_be_cloned_is_a_hard_link_only_where_the_caller_says_so() {
    for existing in [Existing::Fail, Existing::Merge, Existing::Keep] {
        for threads in [1, 4] {
            let what = format!("{existing:?}, {threads} threads");
            let scratch = Scratch::new();
            store(&scratch);
            let tree = scratch.join("tree");
            clone_list(package(&scratch), &[&tree], &CloneOptions::new()).unwrap();
            fs::hard_link(tree.join("index.js"), tree.join("lib/further.js")).unwrap();
            stamp(&tree);
            let before = snapshot(&scratch.join("s"));
            let shares = expects_reflink(scratch.path());
            let options = CloneOptions::new().or_hardlink().mutable("again.js").existing(existing);
            let options = jobs(options, threads);
            let inode = |path: &Path| fs::metadata(path).unwrap().ino();

            let dests = [scratch.join("one"), scratch.join("two")];
            if existing != Existing::Fail {
                fs::create_dir_all(dests[0].join("lib")).unwrap();
            }
            // Of the five files of the list, one is mutable and one has a mode of its own.
            let report = clone_list(package(&scratch), &dests, &options).unwrap();
            for (dest, report) in dests.iter().zip(&report.destinations) {
                let linked = if shares { 0 } else { 3 };
                let same = inode(&dest.join("index.js")) == inode(&scratch.join("s/01/c"));
                assert_eq!(same, !shares, "{what}");
                assert_eq!(report.linked_files, linked, "{what}");
                assert_eq!(report.linked_because.total(), linked, "{what}");
                assert_eq!(report.reflinked_files, if shares { 5 } else { 0 }, "{what}");
                assert_eq!(report.copied_because.filesystem, if shares { 0 } else { 2 }, "{what}");
                assert_eq!(report.unlinked_because.total(), 0, "{what}");
                let method = if shares { Method::Reflink } else { Method::Mixed };
                assert_eq!((report.files, report.method), (5, method), "{what}");
                let tool = fs::metadata(dest.join("bin/tool")).unwrap();
                assert_eq!((tool.mode() & 0o7777, tool.nlink()), (0o755, 1), "{what}");
                assert_eq!(fs::metadata(dest.join("lib/again.js")).unwrap().nlink(), 1, "{what}");
            }
            let store_after = snapshot(&scratch.join("s"));
            if shares {
                assert_same(&before, &store_after, &what);
            }
            for (path, entry) in &before {
                let found = &store_after[path];
                assert_eq!(
                    (found.mode, found.mtime),
                    (entry.mode, entry.mtime),
                    "{what}: {path:?}"
                );
            }

            let dest = scratch.join("clone");
            // The second time over the existing files.
            for round in ["first", "second"] {
                if existing == Existing::Fail && round == "second" {
                    break;
                }
                let report = clone_tree(&tree, &[&dest], &options).unwrap();
                let report = &report.destinations[0];
                let kept = if existing == Existing::Keep && round == "second" { 7 } else { 0 };
                assert_eq!(report.kept_entries, kept, "{what}, {round}");
                assert_eq!(report.files, if kept == 0 { 6 } else { 0 }, "{what}, {round}");
                let (one, other) =
                    (inode(&dest.join("index.js")), inode(&dest.join("lib/further.js")));
                assert_eq!(one, other, "{what}, {round}: hard links stay hard links");
                assert_eq!(one == inode(&tree.join("index.js")), !shares, "{what}, {round}");
                assert_ne!(
                    inode(&dest.join("lib/again.js")),
                    inode(&tree.join("lib/again.js")),
                    "{what}, {round}: it will be written to"
                );
                let (found, wanted) = (snapshot(&dest), snapshot(&tree));
                for (path, entry) in &wanted {
                    let found = &found[path];
                    let parts = |entry: &crate::common::snapshot::Entry| {
                        (entry.kind, entry.mode, entry.target.clone())
                    };
                    assert_eq!(parts(found), parts(entry), "{what}, {round}: {path:?}");
                }
                assert_eq!(found.len(), wanted.len(), "{what}, {round}: no stage is left");
            }
            // Links are not made behind the back of the caller.
            let plain = scratch.join("plain");
            let report = clone_tree(&tree, &[&plain], &CloneOptions::new()).unwrap();
            assert_eq!(report.destinations[0].linked_because.total(), 0, "{what}");
            assert_ne!(inode(&plain.join("index.js")), inode(&tree.join("index.js")), "{what}");
        }
    }
}

#[test]
fn where_neither_a_clone_nor_a_link_is_possible_there_is_a_copy_and_both_reasons() {
    let (scratch, Some(other)) = (Scratch::new(), Scratch::elsewhere()) else {
        return crate::common::not_run(module_path!(), "there is no other filesystem");
    };
    store(&scratch);
    let dest = other.join("dest");
    let options = CloneOptions::new().or_hardlink();
    let report = clone_list(package(&scratch), &[&dest], &options).unwrap();
    let report = &report.destinations[0];
    assert_eq!((report.files, report.copied_files, report.linked_files), (5, 5, 0));
    assert_eq!(report.copied_because.filesystem, 5);
    // A link to the file with another mode was not tried.
    assert!(report.unlinked_because.filesystem >= 4, "{report:?}");
    assert_eq!(report.method, Method::Copy);
}

#[test]
fn many_lists_may_be_merged_into_one_tree_at_once() {
    let scratch = Scratch::new();
    store(&scratch);
    let dest = scratch.join("dest");
    thread::scope(|scope| {
        for package in 0..8 {
            let (scratch, dest) = (&scratch, &dest);
            scope.spawn(move || {
                let file = |at: u32| {
                    let path = format!("shared/f{}/{package}-{at}", at % 3);
                    TreeEntry::file(path, scratch.join("s/00/a"))
                };
                let options = jobs(CloneOptions::new().existing(Existing::Merge), 1);
                clone_list((0..50).map(file), &[dest], &options).unwrap();
            });
        }
    });
    let count = |folder: &str| names(&dest.join("shared").join(folder)).len();
    assert_eq!(count("f0") + count("f1") + count("f2"), 400);
    assert_eq!(names(&dest), ["shared"]);
}

#[test]
fn a_list_says_how_its_files_arrived_and_can_be_stopped() {
    let scratch = Scratch::new();
    store(&scratch);
    let dest = scratch.join("dest");
    let always = CloneOptions::new().reflink(Reflink::Always);
    let shares = expects_reflink(scratch.path());
    match clone_list(package(&scratch), &[&dest], &always) {
        Ok(report) => {
            assert!(shares);
            assert_eq!(report.destinations[0].method, Method::Reflink);
            assert_eq!(report.source, Path::new(""));
        }
        Err(error) => {
            assert!(!shares, "{error}");
            assert_eq!(error.kind(), ErrorKind::ReflinkRefused);
            assert!(error.path().starts_with(scratch.join("s")), "{error}");
            assert!(!is_there(&dest));
        }
    }
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = scratch.join("stopped");
    let options = CloneOptions::new().cancel(&cancel);
    let error = clone_list(package(&scratch), &[&stopped], &options).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Cancelled, &*stopped));
    assert!(!is_there(&stopped));
}

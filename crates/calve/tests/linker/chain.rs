//! Promise: a file arrives by the first way of the caller's chain that works, and the report says
//! by which, and why. What must be a file of its own is never a link.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::common::odd::file;
use crate::common::snapshot::{assert_same, snapshot};
use crate::common::{Scratch, bytes, expects_reflink, filesystem, is_root, jobs, names, not_run};
use calve::{
    Because, CloneMode, CloneOptions, Existing, Linker, Method, Reflink, TreeEntry, clone_list,
    clone_tree,
};

/// Three files that may be links, and two that may not.
fn package(scratch: &Scratch) -> PathBuf {
    let source = scratch.join("package");
    fs::create_dir_all(source.join("lib")).unwrap();
    fs::create_dir_all(source.join(".calve")).unwrap();
    for (name, seed) in
        [("a", 1), ("lib/b", 2), ("lib/c", 3), ("lib/written", 4), (".calve/own", 5)]
    {
        file(&source.join(name), seed, 0o640, 5000);
    }
    source
}

#[test]
fn a_file_arrives_by_the_first_way_that_works() {
    use CloneMode::{Clone, Copy, Hardlink, Symlink};
    let scratch = Scratch::new();
    let source = package(&scratch);
    let before = snapshot(&source);
    let shares = expects_reflink(scratch.path());
    let elsewhere = Scratch::elsewhere();
    if elsewhere.is_none() {
        not_run(module_path!(), "there is no other filesystem: rows of it");
    }
    // The last column: where files can be neither cloned nor linked.
    for (mode, hard, symbolic, can_link, cannot_link) in [
        (Clone, false, true, Method::Symlink, Method::Symlink),
        (Clone, true, true, Method::Hardlink, Method::Symlink),
        (Clone, true, false, Method::Hardlink, Method::Copy),
        (Hardlink, false, true, Method::Hardlink, Method::Symlink),
        (Hardlink, true, false, Method::Hardlink, Method::Copy),
        (Symlink, true, true, Method::Symlink, Method::Symlink),
        (Copy, true, true, Method::Copy, Method::Copy),
    ] {
        for existing in [Existing::Fail, Existing::Merge, Existing::Keep] {
            for (home, expected) in [
                (Some(&scratch), if mode == Clone && shares { Method::Reflink } else { can_link }),
                (elsewhere.as_ref(), cannot_link),
            ] {
                let Some(home) = home else { continue };
                let what = format!("{mode:?}, {hard}, {symbolic}, {existing:?}: {expected}");
                let heard = Arc::new(Mutex::new(Vec::new()));
                let (into, dest) = (Arc::clone(&heard), home.join("dest"));
                let mut options = CloneOptions::new()
                    .mode(mode)
                    .existing(existing)
                    .mutable_if(|path| path.ends_with("written"))
                    .on_file(move |file| {
                        let heard = (file.path.to_owned(), file.method, file.because);
                        into.lock().unwrap().push(heard);
                    });
                options = if hard { options.or_hardlink() } else { options };
                options = if symbolic { options.or_symlink() } else { options };
                let report = clone_tree(&source, &[&dest], &options).unwrap();
                let report = &report.destinations[0];

                let linked = matches!(expected, Method::Hardlink | Method::Symlink);
                let symlinked = if expected == Method::Symlink { 3 } else { 0 };
                let arrived = (report.files, report.linked_files, report.symlinked_files);
                assert_eq!(arrived, (5, if linked { 3 } else { 0 }, symlinked), "{what}");
                let was_asked = linked && Some(expected) == asked(mode);
                let instead = if linked && !was_asked { 3 } else { 0 };
                assert_eq!(report.linked_because.total(), instead, "{what}: {report:?}");
                assert_eq!(report.linked_because.filesystem, instead, "{what}");
                assert_eq!(report.copied_because.total(), report.copied_files, "{what}");
                let heard = heard.lock().unwrap();
                for (path, seed) in [("a", 1), ("lib/b", 2), ("lib/c", 3), ("lib/written", 4)] {
                    let what = format!("{what}: {path}");
                    assert_eq!(fs::read(dest.join(path)).unwrap(), bytes(seed, 5000), "{what}");
                    let (_, method, because) =
                        heard.iter().find(|(heard, _, _)| heard == Path::new(path)).unwrap();
                    let stat = fs::symlink_metadata(dest.join(path)).unwrap();
                    if path == "lib/written" {
                        assert!(stat.is_file() && stat.nlink() == 1, "{what}");
                        continue;
                    }
                    assert_eq!(*method, expected, "{what}");
                    let why = match expected {
                        _ if was_asked => None,
                        Method::Reflink => None,
                        Method::Copy if mode == Copy => Some(Because::Disabled),
                        _ => Some(Because::Filesystem),
                    };
                    assert_eq!(*because, why, "{what}");
                    assert_eq!(stat.is_symlink(), expected == Method::Symlink, "{what}");
                    assert_eq!(stat.nlink() > 1, expected == Method::Hardlink, "{what}");
                }
                let own = fs::symlink_metadata(dest.join(".calve/own")).unwrap();
                assert!(own.is_file() && own.nlink() == 1, "{what}: two stores of one database");
                assert_eq!(names(&dest), [".calve", "a", "lib"], "{what}");
                fs::remove_dir_all(&dest).unwrap();
                assert_same(&before, &snapshot(&source), &format!("{what}: the source"));
            }
        }
    }
}

/// The method that a mode asks for, if that is a link.
fn asked(mode: CloneMode) -> Option<Method> {
    match mode {
        CloneMode::Hardlink => Some(Method::Hardlink),
        CloneMode::Symlink => Some(Method::Symlink),
        _ => None,
    }
}

#[test]
fn a_file_with_two_names_is_one_file_also_where_it_became_a_link() {
    let scratch = Scratch::new();
    let source = package(&scratch);
    fs::hard_link(source.join("a"), source.join("lib/z")).unwrap();
    for existing in [Existing::Fail, Existing::Merge, Existing::Keep] {
        let dest = scratch.join("dest");
        let options = CloneOptions::new().or_symlink().existing(existing);
        // The first files find out that the filesystem does not clone, where it does not.
        let report = clone_tree(&source, &[&dest], &options).unwrap();
        assert_eq!(report.destinations[0].skipped, [], "{existing:?}");
        assert_eq!(fs::read(dest.join("lib/z")).unwrap(), bytes(1, 5000), "{existing:?}");
        let ino = |name: &str| fs::metadata(dest.join(name)).unwrap().ino();
        assert_eq!(ino("a"), ino("lib/z"), "{existing:?}");
        fs::remove_dir_all(&dest).unwrap();
    }
}

#[test]
fn a_function_gives_files_their_mode_and_links_give_their_source_none() {
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for existing in [Existing::Fail, Existing::Merge] {
            let what = format!("{mode:?}, {existing:?}");
            let scratch = Scratch::new();
            let source = package(&scratch);
            fs::hard_link(source.join("lib/b"), source.join("lib/same")).unwrap();
            fs::hard_link(source.join("lib/b"), source.join("lib/other")).unwrap();
            let before = snapshot(&source);
            let dest = scratch.join("dest");
            let options = CloneOptions::new().mode(mode).existing(existing).file_mode(
                |path, mode| match path.ends_with("a") || path.ends_with("other") {
                    true => mode | 0o111,
                    false => mode,
                },
            );
            let report = clone_tree(&source, &[&dest], &options).unwrap();
            assert_eq!(
                (report.destinations[0].files, report.destinations[0].skipped.len()),
                (7, 0)
            );
            let stat = |path: &str| fs::symlink_metadata(dest.join(path)).unwrap();
            for path in ["a", "lib/other"] {
                let (found, what) = (stat(path), format!("{what}: {path}"));
                assert_eq!(found.permissions().mode() & 0o7777, 0o751, "{what}");
                assert_eq!(found.nlink(), 1, "{what}");
            }
            assert_eq!(fs::metadata(dest.join("lib/c")).unwrap().mode() & 0o7777, 0o640, "{what}");
            let same = fs::metadata(dest.join("lib/b")).unwrap().ino()
                == fs::metadata(dest.join("lib/same")).unwrap().ino();
            assert!(same, "{what}: two names of one file that keeps its mode");
            fs::remove_dir_all(&dest).unwrap();
            assert_same(&before, &snapshot(&source), &what);
        }
    }
}

/// A store of contents has one file for all empty files of all packages, and ext4 and btrfs have
/// room for some 65,000 names of one file.
#[test]
fn a_file_with_as_many_names_as_it_can_have_is_copied_once_and_linked_on() {
    let name = "a_file_with_as_many_names_as_it_can_have_is_copied_once_and_linked_on";
    let scratch = Scratch::new();
    if filesystem(scratch.path()) != "ext4" || !is_root() {
        return not_run(name, "takes 65,000 names on ext4, and root");
    }
    let (store, many) = (scratch.join("store"), scratch.join("many"));
    for folder in [&store, &many] {
        fs::create_dir(folder).unwrap();
    }
    let full = store.join("full");
    file(&full, 7, 0o644, 5000);
    let mut names = 1;
    while fs::hard_link(&full, many.join(names.to_string())).is_ok() {
        names += 1;
    }
    let before = fs::metadata(&full).unwrap();
    assert_eq!(before.nlink(), names);
    let linker = Linker::new();
    let hard = CloneOptions::new().mode(CloneMode::Hardlink);
    for (what, options) in [
        ("links", hard.clone()),
        ("links in a merge", hard.existing(Existing::Merge)),
        ("instead of clones", CloneOptions::new().or_hardlink()),
    ] {
        let options = jobs(options.linker(&linker), 1);
        let mut all = Vec::new();
        for package in 0..4 {
            let dest = scratch.join(format!("{what} {package}"));
            let entry = |at: u32| TreeEntry::file(format!("{}/{at}", at / 10), &full);
            let report = clone_list((0..100).map(entry), &[&dest], &options).unwrap();
            let report = &report.destinations[0];
            assert_eq!((report.files, report.skipped.len()), (100, 0), "{what}");
            for at in 0..100 {
                let stat = fs::metadata(dest.join(format!("{}/{at}", at / 10))).unwrap();
                assert_eq!((stat.len(), stat.mtime()), (before.len(), before.mtime()), "{what}");
                all.push(stat.ino());
            }
            // The files that were under way when the first copy was made are copies, too.
            let most = if package == 0 && what == "links" { 20 } else { 0 };
            assert!(report.copied_files <= most, "{what}: {report:?}");
            assert_eq!(report.copied_files + report.linked_files, 100, "{what}");
        }
        assert!(!all.contains(&before.ino()), "{what}");
        let after = fs::metadata(&full).unwrap();
        assert_eq!((after.nlink(), after.ino()), (names, before.ino()), "{what}: the store");
        if what == "links in a merge" {
            // Somebody writes to the copy: it is no copy any more.
            let first = scratch.join("links 0/0/0");
            fs::write(&first, "mine").unwrap();
            let options = hardlinks(&linker);
            let dest = scratch.join("after");
            clone_list([TreeEntry::file("x", &full)], &[&dest], &options).unwrap();
            assert_eq!(fs::read(dest.join("x")).unwrap(), bytes(7, 5000));
        }
    }
    // Nothing that the caller did not ask for.
    let plain = scratch.join("plain");
    let options = CloneOptions::new().linker(&linker).reflink(Reflink::Never);
    clone_list([TreeEntry::file("x", &full)], &[&plain], &options).unwrap();
    assert_eq!(fs::metadata(plain.join("x")).unwrap().nlink(), 1);
}

/// With a destination that has links to the source, the names were files of their own at the other.
#[test]
fn names_of_one_file_stay_one_file_where_another_destination_has_links_to_the_source() {
    let (scratch, Some(other)) = (Scratch::new(), Scratch::elsewhere()) else {
        return not_run(module_path!(), "there is no other filesystem: names of one file");
    };
    let source = scratch.join("source");
    fs::create_dir_all(source.join("lib")).unwrap();
    file(&source.join("a"), 1, 0o640, 5000);
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::hard_link(source.join("a"), source.join("lib/c")).unwrap();
    for mode in [CloneMode::Hardlink, CloneMode::Symlink] {
        let dests = [other.join("first"), scratch.join("linked"), other.join("last")];
        let mut options = CloneOptions::new().mode(mode);
        if mode == CloneMode::Symlink {
            options = options.mutable("/b");
        }
        let report = clone_tree(&source, &dests, &options).unwrap();
        for (dest, report) in dests.iter().zip(&report.destinations) {
            let id = |name: &str| fs::metadata(dest.join(name)).unwrap().ino();
            let is_apart = mode == CloneMode::Symlink;
            assert_eq!(id("a"), id("lib/c"), "{mode:?}: {report:?}");
            assert_eq!(id("a") != id("b"), is_apart, "{mode:?}: {report:?}");
            assert!(report.skipped.is_empty() && report.files == 3, "{mode:?}: {report:?}");
            assert_eq!(fs::read(dest.join("lib/c")).unwrap(), fs::read(source.join("a")).unwrap());
            fs::remove_dir_all(dest).unwrap();
        }
    }
}

fn hardlinks(linker: &Linker) -> CloneOptions {
    CloneOptions::new().mode(CloneMode::Hardlink).linker(linker)
}

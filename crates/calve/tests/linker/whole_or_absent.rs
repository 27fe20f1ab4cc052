//! Promise: whole or absent. Whatever goes wrong, there is no half of a destination and no stage
//! afterwards.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::odd::{chmod, file};
use crate::common::snapshot::{Kind, assert_same, snapshot};
use crate::common::{
    NOBODY, Scratch, as_nobody, assert_child_done, child, expects_reflink, in_child, is_root,
    is_there, jobs, names, not_run, plain_tree, sh,
};
use calve::{
    Cancel, CloneOptions, ErrorKind, Existing, Method, Progress, Reflink, SkipReason, clone_tree,
};

const STAGE: &str = ".calve-stage-";

/// Checks that a call fails, and that no entry came or went in `scratch`. Returns the error.
#[track_caller]
fn fails(scratch: &Scratch, source: &str, dests: &[&str], options: &CloneOptions) -> calve::Error {
    let before = snapshot(scratch.path());
    let dests: Vec<PathBuf> = dests.iter().map(|dest| scratch.join(dest)).collect();
    let error = clone_tree(scratch.join(source), &dests, options).unwrap_err();
    let mut after = snapshot(scratch.path());
    for (path, entry) in &mut after {
        // A stage that came and went left its mark on the folder's time.
        if let Some(was) = before.get(path).filter(|was| was.kind == Kind::Directory) {
            entry.mtime = was.mtime;
        }
    }
    assert_same(&before, &after, &format!("after {error}"));
    error
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 3, 3, 100);
    fs::create_dir_all(scratch.join("folder/old")).unwrap();
    file(&scratch.join("file"), 1, 0o644, 10);
    file(&scratch.join("folder/old/kept"), 1, 0o644, 10);
    symlink("nowhere", scratch.join("dangling")).unwrap();
    symlink("folder", scratch.join("link")).unwrap();
    symlink("source", scratch.join("link-to-source")).unwrap();
    use ErrorKind as E;
    use Existing::{Fail, Merge, Replace, Skip};
    let all = &[Fail, Skip, Replace, Merge][..];
    let rows: &[(&str, &[&str], &[Existing], E)] = &[
        ("missing", &["new"], all, E::SourceNotFound),
        ("missing/below", &["new"], all, E::SourceNotFound),
        ("dangling", &["new"], all, E::SourceNotFound),
        ("file", &["new"], all, E::SourceNotADirectory),
        ("file/below", &["new"], all, E::SourceNotADirectory),
        ("source", &["missing/new"], all, E::ParentNotFound),
        ("source", &["file/new"], all, E::ParentNotFound),
        ("source", &["dangling/new"], all, E::ParentNotFound),
        ("source", &["new", "missing/new"], all, E::ParentNotFound),
        ("source", &["new", "new"], all, E::Overlap),
        ("source", &["new", "./new"], all, E::Overlap),
        ("source", &["new", "other", "folder/../new/"], all, E::Overlap),
        ("source", &["folder/new", "link/new"], all, E::Overlap),
        ("source", &["source"], all, E::Overlap),
        ("source", &["source/."], all, E::Overlap),
        ("source", &["source/d0/.."], all, E::Overlap),
        ("source/d0", &["source"], &[Replace], E::Overlap),
        ("source/d0", &["."], &[Replace], E::Overlap),
        ("link-to-source", &["source"], all, E::Overlap),
        ("source", &["/"], &[Fail, Replace], E::Overlap),
        ("source", &["folder", "folder/new"], &[Replace], E::Overlap),
        ("source", &["folder/old/new", "folder"], &[Replace], E::Overlap),
        ("source", &["folder"], &[Fail], E::DestinationExists),
        ("source", &["file"], &[Fail], E::DestinationExists),
        ("source", &["link"], &[Fail], E::DestinationExists),
        ("source", &["dangling"], &[Fail], E::DestinationExists),
        ("source", &["new", "file"], &[Fail], E::DestinationExists),
        ("source/d0", &["source"], &[Fail], E::DestinationExists),
        ("source", &["file"], &[Merge], E::Conflict),
        ("source", &["dangling"], &[Merge], E::Conflict),
        ("source", &["new", "file"], &[Merge], E::Conflict),
    ];
    for (source, dests, existing, kind) in rows {
        for existing in *existing {
            for dry_run in [false, true] {
                let options = CloneOptions::new().existing(*existing).dry_run(dry_run);
                let dests: Vec<&str> = dests.to_vec();
                let error = fails(&scratch, source, &dests, &options);
                assert_eq!(error.kind(), *kind, "{source} to {dests:?}, {existing:?}: {error}");
                assert!(!error.path().as_os_str().is_empty(), "{error:?}");
            }
        }
    }
    let error =
        clone_tree(scratch.join("source"), &[Path::new("")], &CloneOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
}

#[test]
fn a_reflink_that_must_be_and_cannot_leaves_nothing() {
    let name = "a_reflink_that_must_be_and_cannot_leaves_nothing";
    let scratch = Scratch::new();
    plain_tree(&scratch.join("old"), 1, 2, 10);
    // If reflinks work here, they do not work for a source elsewhere.
    let elsewhere = expects_reflink(scratch.path()).then(Scratch::elsewhere);
    let source = match &elsewhere {
        None => scratch.join("source"),
        Some(Some(elsewhere)) => elsewhere.join("source"),
        Some(None) => return not_run(name, "everything here can be reflinked"),
    };
    plain_tree(&source, 5, 50, 5000);
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
        for threads in [1, 4] {
            let options =
                jobs(CloneOptions::new().reflink(Reflink::Always).existing(existing), threads);
            let dests: &[&str] =
                if existing == Existing::Replace { &["new", "old"] } else { &["new", "newer"] };
            let error = fails(&scratch, source.to_str().unwrap(), dests, &options);
            assert_eq!(error.kind(), ErrorKind::ReflinkRefused, "{error}");
            assert!(error.path().starts_with(&source), "{error}");
            assert!(error.other_path().is_some(), "{error}");
            assert!(error.io_error().raw_os_error().is_some(), "the errno is told: {error:?}");
        }
    }
}

#[test]
fn what_may_not_be_read_is_an_error_and_leaves_nothing() {
    let name = "what_may_not_be_read_is_an_error_and_leaves_nothing";
    if !is_root() {
        return not_run(name, "needs root, to make what others may not read");
    }
    in_child(name, "nobody", || {
        let scratch = Scratch::new();
        std::env::set_current_dir(scratch.path()).unwrap();
        lchown(scratch.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        for closed in ["file", "folder"] {
            plain_tree(Path::new("source"), 5, 20, 100);
            let at = Path::new("source/d3").join(closed);
            match closed {
                "file" => file(&at, 1, 0o600, 10),
                _ => fs::create_dir(&at).unwrap(),
            }
            chmod(&at, 0o700);
            for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
                let options = jobs(CloneOptions::new().existing(existing), 2);
                let error = as_nobody(|| clone_tree("source", &["dest"], &options)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                assert_eq!(error.path(), at, "{error}");
                if existing == Existing::Merge {
                    // Entries that were merged before stay, and are whole. No stage stays.
                    let left = names(Path::new(".")).contains(&"dest".to_owned());
                    if left {
                        assert!(
                            names(Path::new("dest")).iter().all(|name| !name.starts_with(STAGE))
                        );
                        fs::remove_dir_all("dest").unwrap();
                    }
                }
                assert_eq!(scratch.names(), ["source"], "{closed} {existing:?}");
            }
            // If it is left out, it causes no error.
            as_nobody(|| {
                clone_tree(
                    "source",
                    &["dest"],
                    &CloneOptions::new().exclude(format!("/d3/{closed}")),
                )
            })
            .unwrap();
            fs::remove_dir_all("dest").unwrap();
            fs::remove_dir_all("source").unwrap();
        }
        // A folder that may not be written to.
        chmod(scratch.path(), 0o555);
        fs::create_dir("source").unwrap();
        let error =
            as_nobody(|| clone_tree("source", &["dest"], &CloneOptions::new())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert_eq!(scratch.names(), ["source"]);
    });
}

#[test]
fn a_cancelled_clone_leaves_nothing() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 10, 300, 100);
    plain_tree(&scratch.join("old"), 2, 2, 10);
    let mut before = snapshot(&scratch.join("old"));
    let mut cancelled = 0;
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
        for threads in [1, 4] {
            for after_files in [0, 1, 100, 1500] {
                let (cancel, progress) = (Cancel::new(), Arc::new(Progress::default()));
                let options = jobs(CloneOptions::new().existing(existing), threads)
                    .cancel(&cancel)
                    .progress(&progress);
                if after_files == 0 {
                    cancel.cancel();
                }
                let dest = if existing == Existing::Replace { "old" } else { "dest" };
                let over = AtomicBool::new(false);
                let result = thread::scope(|scope| {
                    scope.spawn(|| {
                        while progress.files() < after_files && !over.load(Ordering::Relaxed) {
                            thread::yield_now();
                        }
                        cancel.cancel();
                    });
                    let result =
                        clone_tree(scratch.join("source"), &[scratch.join(dest)], &options);
                    over.store(true, Ordering::Relaxed);
                    result
                });
                let what =
                    format!("{existing:?}, {threads} jobs, cancelled after {after_files} files");
                match result {
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Cancelled, "{what}: {error}");
                        cancelled += 1;
                        if existing == Existing::Merge && is_there(&scratch.join("dest")) {
                            let left = names(&scratch.join("dest"));
                            assert!(
                                left.iter().all(|name| !name.starts_with(STAGE)),
                                "{what}: {left:?}"
                            );
                            fs::remove_dir_all(scratch.join("dest")).unwrap();
                        }
                        assert_same(&before, &snapshot(&scratch.join("old")), &what);
                    }
                    // It was faster.
                    Ok(_) => {
                        assert_ne!(after_files, 0, "{what}");
                        assert_same(
                            &snapshot(&scratch.join("source")),
                            &snapshot(&scratch.join(dest)),
                            &what,
                        );
                        sh(Command::new("rm").arg("-rf").arg(scratch.join(dest)));
                        if existing == Existing::Replace {
                            plain_tree(&scratch.join("old"), 2, 2, 10);
                            before = snapshot(&scratch.join("old"));
                        }
                    }
                }
                assert_eq!(scratch.names(), ["old", "source"], "{what}");
            }
        }
    }
    assert!(cancelled >= 6, "those that were cancelled before they began, at least");
}

/// Waits until there is a stage in `dir`. `false` if none comes in time.
fn stage_appears(dir: &Path, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if names(dir).iter().any(|name| name.starts_with(STAGE)) {
            return true;
        }
        thread::yield_now();
    }
    false
}

#[test]
fn a_destination_that_appears_meanwhile_is_not_touched_and_the_others_are_taken_back() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 20, 150, 100);
    let dests = ["one", "two", "three"].map(|name| scratch.join(name));
    for intruder in ["folder", "empty", "file", "link"] {
        let mut lost = 0;
        loop {
            let result = thread::scope(|scope| {
                scope.spawn(|| {
                    if stage_appears(scratch.path(), Duration::from_secs(10)) {
                        match intruder {
                            "folder" => {
                                fs::create_dir(&dests[1]).unwrap();
                                file(&dests[1].join("kept"), 1, 0o600, 10);
                            }
                            "empty" => fs::create_dir(&dests[1]).unwrap(),
                            "file" => file(&dests[1], 1, 0o600, 10),
                            _ => symlink("nowhere", &dests[1]).unwrap(),
                        }
                    }
                });
                clone_tree(scratch.join("source"), &dests, &CloneOptions::new())
            });
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
                assert_eq!(error.path(), dests[1], "{error}");
                break;
            }
            lost += 1;
            assert!(lost < 10, "the clone was faster ten times");
            sh(Command::new("rm").arg("-rf").args(&dests));
        }
        assert_eq!(scratch.names(), ["source", "two"], "{intruder}");
        match intruder {
            "folder" => assert_eq!(names(&dests[1]), ["kept"]),
            "empty" => assert!(names(&dests[1]).is_empty()),
            "file" => assert_eq!(fs::read(&dests[1]).unwrap(), common::bytes(1, 10)),
            _ => assert_eq!(fs::read_link(&dests[1]).unwrap(), Path::new("nowhere")),
        }
        sh(Command::new("rm").arg("-rf").arg(&dests[1]));
    }
}

#[test]
fn what_exists_is_skipped_by_name_and_the_others_are_made() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 3, 3, 100);
    fs::create_dir(scratch.join("folder")).unwrap();
    file(&scratch.join("file"), 1, 0o600, 10);
    symlink("nowhere", scratch.join("link")).unwrap();
    let before = snapshot(scratch.path());
    let options = CloneOptions::new().existing(Existing::Skip);
    let dests = ["folder", "new", "file", "newer", "link"].map(|name| scratch.join(name));
    let report = clone_tree(scratch.join("source"), &dests, &options).unwrap();
    for (dest, found) in dests.iter().zip(&report.destinations) {
        assert_eq!(&found.path, dest);
        if dest.file_name().unwrap().to_str().unwrap().starts_with("new") {
            assert_eq!((found.files, found.skipped.len()), (9, 0));
            assert_same(&snapshot(&scratch.join("source")), &snapshot(dest), "made");
            fs::remove_dir_all(dest).unwrap();
        } else {
            assert_eq!((found.files, found.method), (0, Method::None));
            assert_eq!(found.skipped.len(), 1);
            assert_eq!(found.skipped[0].path, Path::new(""));
            assert_eq!(found.skipped[0].reason, SkipReason::Exists);
        }
    }
    let mut after = snapshot(scratch.path());
    after.get_mut(Path::new("")).unwrap().mtime = before[Path::new("")].mtime;
    assert_same(&before, &after, "what was skipped");
}

#[test]
fn whatever_is_replaced_is_gone_and_what_it_pointed_to_is_not() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 3, 3, 100);
    let precious = scratch.join("precious");
    plain_tree(&precious, 2, 2, 10);
    let kept = snapshot(&precious);
    for old in [
        "nothing",
        "empty",
        "full",
        "closed",
        "deep",
        "file",
        "link",
        "dangling",
        "fifo",
        "links-inside",
    ] {
        for durable in [false, true] {
            let dest = scratch.join("dest");
            match old {
                "nothing" => {}
                "empty" => fs::create_dir(&dest).unwrap(),
                "full" => plain_tree(&dest, 4, 4, 10),
                "closed" => {
                    plain_tree(&dest, 4, 4, 10);
                    for dir in ["d0", "d1", "d2", ""] {
                        chmod(&dest.join(dir), 0o555);
                    }
                }
                "deep" => fs::create_dir_all(dest.join("d/".repeat(500))).unwrap(),
                "file" => file(&dest, 1, 0o400, 10),
                "link" => symlink(&precious, &dest).unwrap(),
                "dangling" => symlink("nowhere", &dest).unwrap(),
                "fifo" => drop(sh(Command::new("mkfifo").arg(&dest))),
                _ => {
                    plain_tree(&dest, 1, 1, 10);
                    symlink(&precious, dest.join("link")).unwrap();
                    symlink("../../precious", dest.join("d0/link")).unwrap();
                    fs::hard_link(precious.join("d0/f0"), dest.join("hard")).unwrap();
                }
            }
            let options = CloneOptions::new().existing(Existing::Replace).durable(durable);
            clone_tree(scratch.join("source"), &[&dest], &options).unwrap();
            assert_same(&snapshot(&scratch.join("source")), &snapshot(&dest), old);
            assert_same(&kept, &snapshot(&precious), old);
            assert_eq!(scratch.names(), ["dest", "precious", "source"], "{old}");
            fs::remove_dir_all(&dest).unwrap();
        }
    }
}

#[test]
fn who_looks_while_a_tree_is_replaced_sees_the_old_one_or_the_new_one() {
    let scratch = Scratch::new();
    let (dest, over) = (scratch.join("dest"), AtomicBool::new(false));
    for version in ["a", "b"] {
        let source = scratch.join(version);
        fs::create_dir(&source).unwrap();
        for file in 0..50 {
            fs::write(source.join(format!("{file}")), version).unwrap();
        }
    }
    clone_tree(scratch.join("a"), &[&dest], &CloneOptions::new()).unwrap();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                // Use one open directory, through which the test sees only one tree.
                let dir = fs::File::open(&dest).expect("something is always there");
                let first = read_in(&dir, "0");
                let last = read_in(&dir, "49");
                if let (Some(first), Some(last)) = (&first, &last) {
                    assert_eq!(first, last);
                }
                looks += 1;
            }
            looks
        });
        for round in 0..60 {
            let source = scratch.join(if round % 2 == 0 { "b" } else { "a" });
            let options = CloneOptions::new().existing(Existing::Replace);
            clone_tree(source, &[&dest], &options).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

/// `None` where the tree was replaced and is being removed.
fn read_in(dir: &fs::File, name: &str) -> Option<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    let fd = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(fd), &mut content).unwrap();
    Some(content)
}

#[test]
fn a_destination_inside_the_source_is_no_part_of_the_clone() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    plain_tree(&source, 3, 3, 100);
    let before = snapshot(&source);
    let dests = ["copy-1", "copy-2", "d0/copy-3", "d1/copy-4"].map(|name| source.join(name));
    // The folders' times change as the copies come and go.
    let untimed = |mut tree: common::snapshot::Snapshot| {
        tree.values_mut().for_each(|entry| entry.mtime = (0, 0));
        tree
    };
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge, Existing::Skip] {
        for threads in [1, 4] {
            let report =
                clone_tree(&source, &dests, &jobs(CloneOptions::new().existing(existing), threads))
                    .unwrap();
            for (dest, found) in dests.iter().zip(&report.destinations) {
                let what = format!("{existing:?}, {threads} jobs, {dest:?}");
                assert_same(&untimed(before.clone()), &untimed(snapshot(dest)), &what);
                if existing == Existing::Skip {
                    assert_eq!(found.skipped[0].reason, SkipReason::Exists, "{what}");
                } else if existing != Existing::Merge {
                    assert_eq!((found.files, found.directories), (9, 4), "{what}");
                }
            }
            if existing == Existing::Fail {
                let error = clone_tree(&source, &dests, &CloneOptions::new()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::DestinationExists);
                if threads == 1 {
                    sh(Command::new("rm").arg("-rf").args(&dests));
                }
            }
        }
    }
    sh(Command::new("rm").arg("-rf").args(&dests));
    assert_same(&untimed(before), &untimed(snapshot(&source)), "the source itself");
}

/// Starts a process that clones a large tree from `source` to `dest` in `scratch`. Returns while
/// its stage exists.
fn caught_in_the_act(command: &mut Command, scratch: &Scratch) -> Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert!(stage_appears(scratch.path(), Duration::from_secs(20)), "no stage appeared");
    child
}

fn stages(scratch: &Scratch) -> Vec<String> {
    scratch.names().into_iter().filter(|name| name.starts_with(STAGE)).collect()
}

#[test]
fn the_stage_of_a_killed_process_is_swept_by_the_next_and_what_links_point_to_stays() {
    let name = "the_stage_of_a_killed_process_is_swept_by_the_next_and_what_links_point_to_stays";
    let big = |scratch: &Path| {
        let _ = clone_tree(scratch.join("source"), &[scratch.join("dest")], &CloneOptions::new());
    };
    let Some(mut command) = child(name, "killed", || {
        big(Path::new(&std::env::var_os("CALVE_TEST_AT").unwrap()));
    }) else {
        return;
    };
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 20, 200, 100);
    plain_tree(&scratch.join("small"), 1, 1, 10);
    let precious = scratch.join("precious");
    plain_tree(&precious, 2, 2, 10);
    let kept = snapshot(&precious);
    command.env("CALVE_TEST_AT", scratch.path());
    let mut tries = 0;
    let stage = loop {
        let mut killed = caught_in_the_act(&mut command, &scratch);
        killed.kill().unwrap();
        killed.wait().unwrap();
        match &stages(&scratch)[..] {
            [stage] => break stage.clone(),
            _ => sh(Command::new("rm").arg("-rf").arg(scratch.join("dest"))),
        };
        tries += 1;
        assert!(tries < 20, "it is never caught");
    };
    assert!(!is_there(&scratch.join("dest")), "whole or absent");
    // A killed replacement may leave any kind of entry.
    for left in ["tree", "link", "file"] {
        match left {
            "tree" => symlink(&precious, scratch.join(&stage).join("link")).unwrap(),
            "link" => symlink(&precious, scratch.join(&stage)).unwrap(),
            _ => file(&scratch.join(&stage), 1, 0o400, 10),
        }
        for foreign in [
            ".calve-stage-",
            ".calve-stage-notes",
            ".calve-stage-x-1-1-0",
            ".calve-other",
            ".calve-stage-1-1-1",
        ] {
            fs::create_dir_all(scratch.join(foreign).join("kept")).unwrap();
        }
        clone_tree(scratch.join("small"), &[scratch.join("dest")], &CloneOptions::new()).unwrap();
        assert!(!is_there(&scratch.join(&stage)), "{left}: {:?}", scratch.names());
        assert_same(&kept, &snapshot(&precious), left);
        assert_eq!(stages(&scratch).len(), 4, "{:?}", scratch.names());
        fs::remove_dir_all(scratch.join("dest")).unwrap();
    }
}

#[test]
fn the_stage_of_a_living_process_is_left_alone() {
    let name = "the_stage_of_a_living_process_is_left_alone";
    let Some(mut command) = child(name, "stopped", || {
        let scratch = PathBuf::from(std::env::var_os("CALVE_TEST_AT").unwrap());
        clone_tree(scratch.join("source"), &[scratch.join("dest")], &CloneOptions::new()).unwrap();
    }) else {
        return;
    };
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 20, 200, 100);
    plain_tree(&scratch.join("small"), 1, 1, 10);
    command.env("CALVE_TEST_AT", scratch.path());
    let mut tries = 0;
    let child = loop {
        let child = caught_in_the_act(&mut command, &scratch);
        let pid = child.id().to_string();
        sh(Command::new("kill").args(["-STOP", &pid]));
        if stages(&scratch).len() == 1 {
            break child;
        }
        sh(Command::new("kill").args(["-CONT", &pid]));
        assert_child_done("stopped", &child.wait_with_output().unwrap());
        fs::remove_dir_all(scratch.join("dest")).unwrap();
        tries += 1;
        assert!(tries < 20, "it is never caught");
    };
    let other = clone_tree(scratch.join("small"), &[scratch.join("other")], &CloneOptions::new());
    let there = stages(&scratch).len();
    sh(Command::new("kill").args(["-CONT", &child.id().to_string()]));
    let output = child.wait_with_output().unwrap();
    other.unwrap();
    assert_eq!(there, 1, "swept under a living process");
    assert_child_done("stopped", &output);
    assert_same(
        &snapshot(&scratch.join("source")),
        &snapshot(&scratch.join("dest")),
        "after it went on",
    );
    assert!(stages(&scratch).is_empty());
}

#[test]
fn a_stage_whose_maker_cannot_be_asked_for_lives_while_it_is_locked_or_young() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("small"), 1, 1, 10);
    // Stages of another boot or another container.
    let (locked, young) =
        (".calve-stage-0000000000000001-1-1-0a", ".calve-stage-0000000000000001-1-1-0b");
    for stage in [locked, young] {
        fs::create_dir_all(scratch.join(stage).join("content")).unwrap();
    }
    let lock = fs::File::open(scratch.join(locked)).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared).unwrap();
    clone_tree(scratch.join("small"), &[scratch.join("dest")], &CloneOptions::new()).unwrap();
    assert_eq!(stages(&scratch), [locked, young]);
}

#[test]
fn many_clones_beside_each_other_do_not_sweep_each_other() {
    let scratch = Scratch::new();
    plain_tree(&scratch.join("source"), 5, 20, 100);
    let expected = snapshot(&scratch.join("source"));
    thread::scope(|scope| {
        for index in 0..8 {
            let (scratch, expected) = (&scratch, &expected);
            scope.spawn(move || {
                for round in 0..4 {
                    let dest = scratch.join(format!("dest-{index}"));
                    let options = CloneOptions::new().existing(Existing::Replace);
                    clone_tree(scratch.join("source"), &[&dest], &options).unwrap();
                    assert_same(expected, &snapshot(&dest), &format!("{index}, round {round}"));
                }
            });
        }
    });
    assert!(stages(&scratch).is_empty(), "{:?}", scratch.names());
}

//! The story of a worktree, from its start to its end. It has what the project has, and belongs to
//! nobody else. calve shows, keeps and takes back its changes. It goes when nobody wants it any
//! more.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use calve::{
    ChangeKind, DropOptions, ErrorKind, GcOptions, SnapshotOptions, StartOptions, Store,
    SwitchOptions, Worktree, WorktreeState,
};

use crate::common;
use crate::common::snapshot::assert_same;
use crate::common::{Scratch, bytes, has_command, is_there, names, not_run, sh};
use crate::stores::{
    Desk, after_a_tick, assert_arrived, assert_sound, content, fails, options, put, set_mode,
    small_project, stamp, status, tree,
};

/// Every way in which a file is changed in place.
fn scribble(root: &Path) {
    let open =
        |path: &str| fs::OpenOptions::new().read(true).write(true).open(root.join(path)).unwrap();
    open("README").write_all_at(b"ONE", 0).unwrap();
    let mut end = fs::OpenOptions::new().append(true).open(root.join("src/main.rs")).unwrap();
    end.write_all(b"// more\n").unwrap();
    open("src/lib.rs").set_len(3).unwrap();
    let binary = open("target/debug/out.bin");
    binary.write_all_at(&[9; 100], 1000).unwrap();
    rustix::fs::fallocate(&binary, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 8192).unwrap();
    set_mode(&root.join("docs/guide/first.md"), 0o600);
    fs::remove_file(root.join("docs/guide/second.md")).unwrap();
    fs::remove_file(root.join("readme-link")).unwrap();
    put(root, "empty/new", "new");
}

#[test]
fn worktrees_are_made_in_the_store_where_something_else_stands_beside_the_project() {
    for row in ["a file", "a link to nothing"] {
        let desk = Desk::small();
        match row {
            "a file" => fs::write(desk.folder(), "somebody's").unwrap(),
            _ => symlink("nothing", desk.folder()).unwrap(),
        }
        let report = desk.start(&["one"]);
        let place = desk.store.path().join("worktrees/one");
        assert_eq!(report.worktrees[0].report.path, place, "{row}");
        assert_same(&tree(&desk.project), &tree(&place), row);
        assert!(!fs::symlink_metadata(desk.folder()).unwrap().is_dir(), "{row}");
    }
    // calve reports any other error: with its suffix, this name is too long.
    let scratch = Scratch::new();
    let project = scratch.join("p".repeat(250));
    small_project(&project);
    let store = Store::init(&project).unwrap();
    store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    let error = store.start(&["one"], &StartOptions::new(), &options()).unwrap_err();
    assert_eq!(error.path().parent(), project.parent(), "{error}");
    assert!(store.worktrees().unwrap().is_empty());
}

#[test]
fn worktrees_hold_the_uncommitted_work_and_what_is_written_in_one_reaches_nothing_else() {
    let desk = Desk::small();
    put(&desk.project, "src/half-done.rs", "fn half(");
    let report = desk.start(&["one", "two", "three"]);
    assert_eq!(report.worktrees.len(), 3);
    let before = tree(&desk.project);
    for (started, name) in report.worktrees.iter().zip(["one", "two", "three"]) {
        assert_eq!(started.report.path, desk.folder().join(name));
        assert_arrived(&started.report);
        assert_same(&before, &tree(&started.report.path), name);
        assert_eq!(status(&desk.store.worktree(name).unwrap()), [""; 0]);
    }
    scribble(&desk.folder().join("one"));
    assert_same(&before, &tree(&desk.project), "the project after a write in one");
    assert_same(&before, &tree(&desk.folder().join("two")), "two after a write in one");
    // The other way round: changes in the project stay there.
    let one = tree(&desk.folder().join("one"));
    scribble(&desk.project);
    assert_same(&one, &tree(&desk.folder().join("one")), "one after a write in the project");
    assert_same(&before, &tree(&desk.folder().join("three")), "three after a write in the project");
    // And the store gave neither away.
    assert_sound(&desk.store);
    let four = desk.from("four", report.snapshot.unwrap());
    assert_same(&before, &tree(four.path()), "started after the writes");
}

#[test]
fn eight_worktrees_are_started_at_once_and_all_are_the_same() {
    let desk = Desk::small();
    let wanted: Vec<String> = (1..=8).map(|n| format!("agent-{n}")).collect();
    let report = desk.store.start(&wanted, &StartOptions::new(), &options()).unwrap();
    assert_eq!(names(&desk.folder()), wanted);
    let before = tree(&desk.project);
    for started in &report.worktrees {
        assert_arrived(&started.report);
        assert_same(&before, &tree(&started.report.path), &started.name);
    }
    let listed: Vec<String> =
        desk.store.worktrees().unwrap().iter().map(|one| one.name().to_owned()).collect();
    assert_eq!(listed, wanted);
}

#[test]
fn a_status_has_a_letter_for_each_change_and_names_nothing_else() {
    type Edit = fn(&Path);
    let rows: &[(&str, Edit, &[&str])] = &[
        ("nothing", |_| {}, &[]),
        ("a new file", |root| put(root, "src/new.rs", "x"), &["A src/new.rs"]),
        ("an empty new file", |root| put(root, "zero", ""), &["A zero"]),
        ("another content", |root| put(root, "README", "other"), &["M README"]),
        ("as many bytes", |root| put(root, "README", "ONE\ntwo\nthree\n"), &["M README"]),
        ("rewritten as it was", |root| put(root, "README", "one\ntwo\nthree\n"), &[]),
        ("gone", |root| fs::remove_file(root.join("README")).unwrap(), &["D README"]),
        ("a mode", |root| set_mode(&root.join("run.sh"), 0o644), &["X run.sh"]),
        ("a folder's mode", |root| set_mode(&root.join("src"), 0o700), &["X src"]),
        (
            "mode and content",
            |root| {
                put(root, "run.sh", "other");
                set_mode(&root.join("run.sh"), 0o644);
            },
            &["M run.sh"],
        ),
        (
            "a link for a file",
            |root| {
                fs::remove_file(root.join("README")).unwrap();
                symlink("run.sh", root.join("README")).unwrap();
            },
            &["T README"],
        ),
        (
            "a link that leads elsewhere",
            |root| {
                fs::remove_file(root.join("readme-link")).unwrap();
                symlink("RUNME", root.join("readme-link")).unwrap();
            },
            &["M readme-link"],
        ),
        (
            "a file for a folder",
            |root| {
                fs::remove_dir_all(root.join("docs")).unwrap();
                put(root, "docs", "none");
            },
            &["T docs", "D docs/guide/first.md", "D docs/guide/second.md"],
        ),
        (
            "a folder for a file",
            |root| {
                fs::remove_file(root.join("README")).unwrap();
                put(root, "README/part", "1");
            },
            &["T README", "A README/part"],
        ),
        ("an empty folder", |root| fs::create_dir(root.join("void")).unwrap(), &["A void"]),
        ("an empty folder gone", |root| fs::remove_dir(root.join("empty")).unwrap(), &["D empty"]),
        (
            "renamed",
            |root| fs::rename(root.join("src/lib.rs"), root.join("src/library.rs")).unwrap(),
            &["D src/lib.rs", "A src/library.rs"],
        ),
        (
            "a folder renamed",
            |root| fs::rename(root.join("docs/guide"), root.join("docs/book")).unwrap(),
            &[
                "A docs/book/first.md",
                "A docs/book/second.md",
                "D docs/guide/first.md",
                "D docs/guide/second.md",
            ],
        ),
        (
            "another time only",
            |root| common::odd::set_mtime(&root.join("README"), 1_000_000_000, 5),
            &[],
        ),
    ];
    let desk = Desk::small();
    let snapshot = desk.snapshot();
    for (number, (row, edit, expected)) in rows.iter().enumerate() {
        let worktree = desk.from(&format!("w{number}"), snapshot);
        edit(worktree.path());
        assert_eq!(status(&worktree), *expected, "{row}");
        // Looking changes nothing: the second look gives the same result, also through a store that
        // was opened again.
        assert_eq!(status(&worktree), *expected, "{row}, again");
        let place = calve::Store::discover(worktree.path()).unwrap();
        assert_eq!(status(&place.worktree().unwrap()), *expected, "{row}, found by its folder");
    }
}

/// Changes of all kinds that a patch can hold.
fn change_much(root: &Path) {
    put(root, "README", "one\n2\nthree\nfour\n");
    put(root, "src/new.rs", "a\nb\nc\n");
    put(root, "no-newline", "x");
    put(root, "zero", "");
    put(root, "with a blank/\"quoted\"\t\u{e9}", "1\n");
    fs::remove_file(root.join("src/main.rs")).unwrap();
    fs::rename(root.join("src/lib.rs"), root.join("docs/library.rs")).unwrap();
    fs::rename(root.join("docs/guide/first.md"), root.join("first.md")).unwrap();
    set_mode(&root.join("first.md"), 0o755);
    set_mode(&root.join("docs/guide/second.md"), 0o755);
    put(root, "target/debug/out.bin", bytes(5, 3000));
    put(root, "target/debug/new.bin", [0, 1, 2, 3]);
    fs::remove_file(root.join("readme-link")).unwrap();
    symlink("docs", root.join("readme-link")).unwrap();
    fs::remove_file(root.join("run.sh")).unwrap();
    symlink("no-newline", root.join("run.sh")).unwrap();
}

#[test]
fn a_diff_counts_lines_and_finds_renames() {
    let desk = Desk::small();
    let worktree = desk.worktree("one");
    change_much(worktree.path());
    let diff = worktree.diff(&options()).unwrap();
    let found: Vec<_> = diff
        .files
        .iter()
        .map(|file| {
            let from = file.renamed_from.as_deref().map(|path| path.to_str().unwrap().to_owned());
            (file.path.to_str().unwrap(), file.kind, file.lines, from)
        })
        .collect();
    let from = |path: &str| Some(path.to_owned());
    use ChangeKind::{Added, Deleted, Mode, Modified, Type};
    assert_eq!(
        found,
        [
            ("README", Modified, Some((2, 1)), None),
            ("docs/guide/second.md", Mode, Some((0, 0)), None),
            ("docs/library.rs", Added, Some((0, 0)), from("src/lib.rs")),
            ("first.md", Added, Some((0, 0)), from("docs/guide/first.md")),
            ("no-newline", Added, Some((1, 0)), None),
            ("readme-link", Modified, Some((1, 1)), None),
            ("run.sh", Type, Some((1, 2)), None),
            ("src/main.rs", Deleted, Some((0, 1)), None),
            ("src/new.rs", Added, Some((3, 0)), None),
            ("target/debug/new.bin", Added, None, None),
            ("target/debug/out.bin", Modified, None, None),
            ("with a blank/\"quoted\"\t\u{e9}", Added, Some((1, 0)), None),
            ("zero", Added, Some((0, 0)), None),
        ]
    );
    let binary = &diff.files[10];
    assert_eq!((binary.old_bytes, binary.new_bytes), (4000, 3000));
}

#[test]
fn git_applies_the_patch_of_a_worktree_to_another_and_both_are_the_same() {
    let test = "git_applies_the_patch_of_a_worktree_to_another_and_both_are_the_same";
    if !has_command("git") {
        return not_run(test, "there is no git");
    }
    let desk = Desk::small();
    desk.start(&["one", "two"]);
    let one = desk.store.worktree("one").unwrap();
    let two = desk.store.worktree("two").unwrap();
    change_much(one.path());
    let mut patch = Vec::new();
    one.diff(&options()).unwrap().patch(&mut patch).unwrap();
    fs::write(desk.scratch.join("patch"), &patch).unwrap();
    sh(Command::new("git")
        .current_dir(two.path())
        .env("GIT_CEILING_DIRECTORIES", desk.scratch.path())
        .args(["apply", "--whitespace=nowarn", "../../patch"]));
    assert_same(&content(one.path()), &content(two.path()), "after git apply");
    // The patch makes one tree equal to the capture of the other.
    let captured = one.capture(&SnapshotOptions::new().message("much"), &options()).unwrap();
    let three = desk.from("three", captured.id);
    assert_same(&content(three.path()), &content(two.path()), "after a capture");
    assert_same(&tree(one.path()), &tree(three.path()), "the captured tree");
    assert_sound(&desk.store);
}

#[test]
fn a_capture_has_what_was_captured_before_as_its_parent_and_can_be_found_again() {
    let desk = Desk::small();
    let first = desk.snapshot();
    let worktree = desk.worktree("one");
    assert_eq!(worktree.snapshot(), Some(first));
    put(worktree.path(), "README", "second\n");
    // The next capture would read a file once more that changed in the same tick as this capture.
    after_a_tick();
    let second = worktree
        .capture(&SnapshotOptions::new().message("the second").name("best"), &options())
        .unwrap();
    assert!(second.new);
    assert_eq!(second.read_files, 1, "only what changed is read: {second:?}");
    assert_eq!(status(&worktree), [""; 0], "what was captured is what it is based on");
    put(worktree.path(), "src/new.rs", "third\n");
    after_a_tick();
    let third = worktree.capture(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!(third.read_files, 1, "{third:?}");
    let again = worktree.capture(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!((again.id, again.new, again.read_files), (third.id, false, 0));

    let log = desk.store.log().unwrap().snapshots;
    let chain: Vec<_> = log.iter().map(|one| (one.id, one.parent)).collect();
    assert_eq!(
        chain,
        [(third.id, Some(second.id)), (second.id, Some(first)), (first, None)],
        "the newest first"
    );
    let shown = desk.store.show(second.id).unwrap();
    assert_eq!(
        (shown.message.as_str(), shown.names.as_slice()),
        ("the second", &["best".to_owned()][..])
    );
    assert_eq!((shown.files, log[0].files), (7, 8));
    let digits = second.id.to_string();
    for text in ["best", &digits, &digits[..12], &digits.to_uppercase()] {
        assert_eq!(desk.store.resolve(text).unwrap(), second.id, "{text}");
    }
    fails(desk.store.resolve("worst"), ErrorKind::SnapshotNotFound);
    fails(desk.store.resolve(&digits[..3]), ErrorKind::SnapshotNotFound);
    desk.store.set_name("best", third.id).unwrap();
    assert_eq!(desk.store.resolve("best").unwrap(), third.id, "a name moves");
    assert!(desk.store.remove_name("best").unwrap());
    fails(desk.store.resolve("best"), ErrorKind::SnapshotNotFound);
    // The project saw nothing of it.
    assert_eq!(desk.store.latest().unwrap(), Some(first));
}

#[test]
fn a_capture_of_the_project_and_one_of_a_worktree_stand_side_by_side() {
    let desk = Desk::small();
    let worktree = desk.worktree("one");
    let first = worktree.snapshot().unwrap();
    put(&desk.project, "README", "in the project\n");
    put(worktree.path(), "README", "in the worktree\n");
    let project = desk.snapshot();
    let own = worktree.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    for id in [project, own] {
        assert_eq!(desk.store.show(id).unwrap().parent, Some(first));
    }
    assert_eq!(
        fs::read(desk.from("two", project).path().join("README")).unwrap(),
        b"in the project\n"
    );
    assert_eq!(
        fs::read(desk.from("three", own).path().join("README")).unwrap(),
        b"in the worktree\n"
    );
}

#[test]
fn a_switch_touches_only_what_differs() {
    let desk = Desk::small();
    let worktree = desk.worktree("one");
    let first = worktree.snapshot().unwrap();
    let before = tree(worktree.path());
    put(worktree.path(), "README", "another\n");
    fs::remove_dir_all(worktree.path().join("docs/guide")).unwrap();
    put(worktree.path(), "docs/guide", "a file now\n");
    put(worktree.path(), "new/deep/file", "new\n");
    set_mode(&worktree.path().join("run.sh"), 0o700);
    let second = worktree.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    let after = tree(worktree.path());

    let untouched = ["src/main.rs", "src/lib.rs", "target/debug/out.bin", "readme-link", "src"];
    let stamps = || untouched.map(|path| stamp(&worktree.path().join(path)));
    let then = stamps();
    let there = worktree.switch(first, &SwitchOptions::new(), &options()).unwrap();
    assert_eq!((there.from, there.to, there.kept.len()), (second, first, 0));
    // Changed: README, run.sh, two guides and the folder in the place of a file. A folder that only
    // gets its time back is not. `new` is three entries.
    assert_eq!((there.changed, there.removed), (5, 3), "{there:?}");
    assert_same(&before, &tree(worktree.path()), "switched to the first");
    assert_eq!(status(&worktree), [""; 0]);
    let back = worktree.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_eq!((back.from, back.to), (first, second));
    assert_eq!((back.changed, back.removed), (6, 2), "{back:?}");
    assert_same(&after, &tree(worktree.path()), "switched to the second");
    assert_eq!(status(&worktree), [""; 0]);
    assert_eq!(then, stamps(), "inodes and times of {untouched:?}");
    let nowhere = worktree.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_eq!((nowhere.changed, nowhere.removed), (0, 0), "{nowhere:?}");
    // calve still knows untouched files, and also the files that it wrote.
    assert_eq!(worktree.capture(&SnapshotOptions::new(), &options()).unwrap().read_files, 0);
}

/// A worktree on a first snapshot, and a second that changes much of it.
fn two_snapshots(desk: &Desk) -> (Worktree, calve::SnapshotId, calve::SnapshotId) {
    let first = desk.snapshot();
    let other = desk.from("other", first);
    let root = other.path();
    put(root, "README", "second\n");
    put(root, "src/lib.rs", "second\n");
    fs::remove_file(root.join("src/main.rs")).unwrap();
    set_mode(&root.join("run.sh"), 0o700);
    fs::remove_dir_all(root.join("docs/guide")).unwrap();
    put(root, "docs/guide", "a file\n");
    put(root, "target/debug/more.bin", "second\n");
    fs::remove_file(root.join("readme-link")).unwrap();
    symlink("src", root.join("readme-link")).unwrap();
    fs::remove_dir(root.join("empty")).unwrap();
    put(root, "added", "second\n");
    let second = other.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    (desk.from("one", first), first, second)
}

/// Edits by hand, all in the way of the second snapshot but for the last ones.
fn in_the_way(root: &Path) -> Vec<&'static str> {
    put(root, "README", "by hand\n");
    fs::remove_file(root.join("src/lib.rs")).unwrap();
    put(root, "src/main.rs", "by hand\n");
    set_mode(&root.join("run.sh"), 0o711);
    put(root, "docs/guide/first.md", "by hand\n");
    put(root, "docs/guide/third.md", "by hand\n");
    put(root, "target/debug/more.bin", "by hand\n");
    fs::remove_file(root.join("readme-link")).unwrap();
    symlink("by-hand", root.join("readme-link")).unwrap();
    put(root, "added/by/hand", "by hand\n");
    set_mode(&root.join("added/by"), 0o710);
    // Not in the way.
    put(root, "notes", "by hand\n");
    put(root, "target/debug/out.bin", "by hand\n");
    vec![
        "README",
        "added",
        "added/by",
        "added/by/hand",
        "docs/guide/first.md",
        "docs/guide/third.md",
        "readme-link",
        "run.sh",
        "src/lib.rs",
        "src/main.rs",
        "target/debug/more.bin",
    ]
}

#[test]
fn a_switch_that_is_in_the_way_of_changes_refuses_and_lists_them() {
    let desk = Desk::small();
    let (one, first, second) = two_snapshots(&desk);
    let listed = in_the_way(one.path());
    let (before, changes) = (tree(one.path()), status(&one));
    let error = fails(one.switch(second, &SwitchOptions::new(), &options()), ErrorKind::Changed);
    assert_eq!(error.details(), listed.iter().map(PathBuf::from).collect::<Vec<_>>());
    assert_same(&before, &tree(one.path()), "after the refusal");
    assert_eq!(status(&one), changes);
    let one = desk.store.worktree("one").unwrap();
    assert_eq!((one.snapshot(), one.state().unwrap()), (Some(first), WorktreeState::Ready));
}

#[test]
fn a_forced_switch_is_undone_to_the_byte() {
    let desk = Desk::small();
    let (one, first, second) = two_snapshots(&desk);
    in_the_way(one.path());
    let (before, changes) = (content(one.path()), status(&one));
    let report = one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
    assert!(!report.kept.is_empty());
    assert_eq!(
        status(&one),
        ["A notes", "M target/debug/out.bin"],
        "what was not in the way stays"
    );
    assert_eq!(fs::read(one.path().join("README")).unwrap(), b"second\n");

    let undone = one.undo(&options()).unwrap();
    assert_eq!((undone.from, undone.to), (second, first));
    assert_same(&before, &content(one.path()), "after the undo");
    assert_eq!(status(&one), changes);
    fails(one.undo(&options()), ErrorKind::SnapshotNotFound);
    assert_eq!(names(&one.path().join(".calve")), [".gitignore", "worktree"]);
    assert_eq!(names(&crate::stores::kept_of(desk.store.path(), one.path())), ["paths", "root"]);
}

#[test]
fn a_reset_makes_it_what_the_snapshot_is_and_is_undone_to_the_byte() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let clean = tree(one.path());
    in_the_way(one.path());
    fs::create_dir(one.path().join("void")).unwrap();
    set_mode(&one.path().join("void"), 0o750);
    set_mode(&one.path().join("src"), 0o700);
    fs::remove_dir_all(one.path().join("docs")).unwrap();
    put(one.path(), "docs", "a file\n");
    let (before, changes) = (content(one.path()), status(&one));
    one.reset(&options()).unwrap();
    assert_same(&clean, &tree(one.path()), "after the reset");
    assert_eq!(status(&one), [""; 0]);
    one.undo(&options()).unwrap();
    assert_same(&before, &content(one.path()), "after the undo");
    assert_eq!(status(&one), changes);
}

#[test]
fn an_undo_never_replaces_what_was_changed_since() {
    let desk = Desk::small();
    type Edit = fn(&Path);
    let rows: &[(&str, Edit, Edit, &[&str])] = &[
        (
            "changed, and changed again",
            |root| put(root, "README", "before\n"),
            |root| put(root, "README", "since\n"),
            &["README"],
        ),
        (
            "added, and added again",
            |root| put(root, "new", "before\n"),
            |root| put(root, "new", "since\n"),
            &["new"],
        ),
        (
            "deleted, and changed",
            |root| fs::remove_file(root.join("README")).unwrap(),
            |root| put(root, "README", "since\n"),
            &["README"],
        ),
        (
            "added, and a folder made of it",
            |root| put(root, "new", "before\n"),
            |root| put(root, "new/deep", "since\n"),
            &["new", "new/deep"],
        ),
        (
            "a folder added, and a file made of it",
            |root| put(root, "new/deep", "before\n"),
            |root| put(root, "new", "since\n"),
            &["new"],
        ),
    ];
    let snapshot = desk.snapshot();
    for (number, (row, edit, again, listed)) in rows.iter().enumerate() {
        let one = desk.from(&format!("w{number}"), snapshot);
        edit(one.path());
        let before = content(one.path());
        one.reset(&options()).unwrap();
        again(one.path());
        let since = content(one.path());
        let error = fails(one.undo(&options()), ErrorKind::Changed);
        assert_eq!(error.details(), listed.iter().map(PathBuf::from).collect::<Vec<_>>(), "{row}");
        assert_same(&since, &content(one.path()), row);
        // Out of the way, and it goes.
        for path in listed.iter().rev() {
            let path = one.path().join(path);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
    }
}

#[test]
fn a_drop_refuses_what_was_changed_and_forced_takes_it_away_at_once() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    put(one.path(), "src/new.rs", "work\n");
    put(one.path(), "README", "work\n");
    let path = one.path().to_owned();
    let before = tree(&path);
    let error = fails(one.clone().drop(&DropOptions::new(), &options()), ErrorKind::Changed);
    assert_eq!(error.details(), [PathBuf::from("README"), PathBuf::from("src/new.rs")]);
    assert_same(&before, &tree(&path), "after the refusal");

    let how = DropOptions::new().force(true).discard(true);
    let dropped = one.drop(&how, &options()).unwrap();
    assert_eq!(dropped.can_be_restored_until(), None);
    assert!(!is_there(&path));
    fails(desk.store.worktree("one"), ErrorKind::WorktreeNotFound);
    // Its name is free before its files are deleted.
    let again = desk.worktree("one");
    assert_eq!(status(&again), [""; 0]);
    dropped.delete().unwrap();
    assert_eq!(names(&desk.store.path().join("trash")), [""; 0]);
    // Emptying the trash finds a worktree whose files nobody deleted.
    let _left = again.drop(&DropOptions::new(), &options()).unwrap();
    assert_eq!(names(&desk.store.path().join("trash")).len(), 1);
    desk.store.empty_trash().unwrap();
    assert_eq!(names(&desk.store.path().join("trash")), [""; 0]);
    assert_eq!(names(&desk.store.path().join("indexes")).len(), 1, "the project's");
    assert_same(&tree(&desk.project), &tree(desk.worktree("one").path()), "a new one");
}

#[test]
fn a_forced_drop_of_work_can_be_taken_back_under_any_free_name_until_it_is_collected() {
    let desk = Desk::small();
    let force = DropOptions::new().force(true);
    // If nothing would be lost, calve keeps nothing.
    let dropped = desk.worktree("clean").drop(&force, &options()).unwrap();
    assert_eq!(dropped.can_be_restored_until(), None);
    dropped.delete().unwrap();

    let mut before = Vec::new();
    for work in ["first", "second"] {
        let one = desk.worktree("one");
        put(one.path(), "README", work);
        before.push((tree(one.path()), status(&one)));
        let dropped = one.drop(&force, &options()).unwrap();
        let left = dropped.can_be_restored_until().unwrap().duration_since(SystemTime::now());
        assert_eq!(left.unwrap().as_secs() / 3600, 167, "seven days, all but an hour");
        dropped.delete().unwrap();
        desk.store.empty_trash().unwrap();
    }
    let kept = || {
        let kept = desk.store.dropped_worktrees().unwrap();
        kept.into_iter().map(|kept| kept.name).collect::<Vec<_>>()
    };
    assert_eq!(kept(), ["one", "one"]);
    // A collection in the meantime removes nothing that they need.
    let gc = GcOptions::new().grace(Duration::ZERO).expire(Some(Duration::ZERO));
    desk.store.gc(&gc, &options()).unwrap();

    let taken = desk.worktree("taken");
    fails(desk.store.restore_dropped("none", "none"), ErrorKind::WorktreeNotFound);
    fails(desk.store.restore_dropped("one", "taken"), ErrorKind::WorktreeExists);
    fails(desk.store.restore_dropped("one", "a/b"), ErrorKind::InvalidName);
    put(&desk.folder(), "one", "a file");
    fails(desk.store.restore_dropped("one", "one"), ErrorKind::DestinationExists);
    fs::remove_file(desk.folder().join("one")).unwrap();
    assert_eq!(kept(), ["one", "one"]);

    let two = desk.store.restore_dropped("one", "two").unwrap();
    let one = desk.store.restore_dropped("one", "one").unwrap();
    assert_eq!(two.path(), desk.folder().join("two"));
    let mut told: Vec<String> = Vec::new();
    for worktree in [&one, &two] {
        let text = fs::read_to_string(worktree.path().join("README")).unwrap();
        let (tree_before, status_before) = &before[usize::from(text == "second")];
        assert_same(tree_before, &tree(worktree.path()), worktree.name());
        assert_eq!(status(worktree), *status_before);
        told.push(text);
    }
    // Both were dropped in one second, or not.
    told.sort();
    assert_eq!((told, kept()), (vec!["first".to_owned(), "second".to_owned()], Vec::new()));
    assert_eq!(names(&desk.store.path().join("dropped")), [""; 0]);
    one.capture(&SnapshotOptions::new(), &options()).unwrap();

    let _kept = two.drop(&force, &options()).unwrap();
    assert_eq!(kept(), ["two"]);
    let report = desk.store.gc(&GcOptions::new().dropped(Duration::ZERO), &options()).unwrap();
    assert_eq!((report.dropped, kept()), (1, Vec::new()));
    for folder in ["dropped", "trash"] {
        assert_eq!(names(&desk.store.path().join(folder)), [""; 0], "{folder}");
    }
    taken.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    assert_sound(&desk.store);
}

#[test]
fn a_captured_change_outlives_its_worktree() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    put(one.path(), "src/new.rs", "work\n");
    let kept = one.capture(&SnapshotOptions::new().message("work"), &options()).unwrap().id;
    one.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    let two = desk.from("two", kept);
    assert_eq!(fs::read(two.path().join("src/new.rs")).unwrap(), b"work\n");
    assert_sound(&desk.store);
}

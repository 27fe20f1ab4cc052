//! Promise: a switch changes what differs and no more; what was changed by hand and is in its way is moved aside each time, and is had back.

#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, SnapshotId, SnapshotOptions, SwitchOptions};

use common::not_run;
use common::odd::{set_mtime, set_xattr};
use common::snapshot::assert_same;
use common::stores::{
    Desk, assert_sound, content, fails, options, put, small_project, status, tree,
};

/// What a worktree holds after `change` of the first snapshot, as a snapshot.
fn changed(desk: &Desk, name: &str, change: impl FnOnce(&Path)) -> SnapshotId {
    let worktree = desk.from(name, desk.snapshot());
    change(worktree.path());
    worktree.capture(&SnapshotOptions::new(), &options()).unwrap().id
}

#[test]
fn each_forced_switch_and_each_reset_moves_aside_what_is_in_its_way_and_is_undone_by_itself() {
    for (row, forced, edited) in [
        ("a switch after a switch", true, true),
        ("a switch with nothing in its way after a switch", true, false),
        ("a reset after a reset", false, true),
    ] {
        let desk = Desk::small();
        let second = changed(&desk, "second", |root| put(root, "README", "second\n"));
        let third = changed(&desk, "third", |root| put(root, "README", "third\n"));
        let one = desk.worktree("one");
        let go = |to: SnapshotId| match forced {
            true => one.switch(to, &SwitchOptions::new().force(true), &options()).unwrap().kept,
            false => one.reset(&options()).unwrap().kept,
        };
        put(one.path(), "README", "by hand\n");
        assert_eq!(go(second), ["README"].map(PathBuf::from), "{row}");
        if edited {
            put(one.path(), "README", "by hand again\n");
        }
        let (before, from) = (content(one.path()), one.snapshot());
        assert_eq!(go(third).len(), usize::from(edited), "{row}");
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
        assert_eq!(one.snapshot(), from, "{row}");
        fails(one.undo(&options()), ErrorKind::SnapshotNotFound);
        assert_sound(&desk.store);
    }
}

#[test]
fn what_stands_in_the_place_of_a_folder_gives_way_to_what_the_snapshot_has_in_it() {
    for row in ["a file", "a link", "nothing"] {
        let desk = Desk::small();
        let second = changed(&desk, "second", |root| put(root, "docs/guide/second.md", "second\n"));
        let wanted = content(&desk.folder().join("second"));
        let one = desk.worktree("one");
        let docs = one.path().join("docs");
        fs::remove_dir_all(&docs).unwrap();
        match row {
            "a file" => fs::write(&docs, "by hand").unwrap(),
            "a link" => std::os::unix::fs::symlink("src", &docs).unwrap(),
            _ => {}
        }
        let before = content(one.path());
        fails(one.switch(second, &SwitchOptions::new(), &options()), ErrorKind::Changed);
        assert_same(&before, &content(one.path()), row);
        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
        let file = Path::new("docs/guide/second.md");
        assert_eq!(content(one.path()).get(file), wanted.get(file), "{row}");
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
    }
}

#[test]
fn a_name_of_a_file_that_was_replaced_by_hand_is_a_name_of_it_again_after_a_reset() {
    let desk = Desk::new(|root| {
        put(root, "a", "one file\n");
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        fs::hard_link(root.join("a"), root.join("c")).unwrap();
    });
    let one = desk.worktree("one");
    fs::remove_file(one.path().join("b")).unwrap();
    put(one.path(), "b", "another\n");
    one.reset(&options()).unwrap();
    assert_same(&content(&desk.project), &content(one.path()), "reset");
    let of = |name: &str| fs::metadata(one.path().join(name)).unwrap().ino();
    assert_eq!((of("a"), of("a")), (of("b"), of("c")));
    assert_eq!(status(&one), [""; 0]);
}

#[test]
fn what_was_changed_by_hand_stays_where_the_snapshots_agree_on_all_but_its_times() {
    let desk = Desk::small();
    let second = changed(&desk, "second", |root| {
        put(root, "run.sh", "second\n");
        let readme = fs::read(root.join("README")).unwrap();
        put(root, "README", readme);
    });
    let one = desk.worktree("one");
    put(one.path(), "README", "by hand\n");
    // And what was made by hand as the other has it is in nobody's way.
    put(one.path(), "run.sh", "second\n");
    one.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_eq!(status(&one), ["M README"]);
    assert_eq!(fs::read_to_string(one.path().join("README")).unwrap(), "by hand\n");
    assert_eq!(fs::read_to_string(one.path().join("run.sh")).unwrap(), "second\n");
}

#[test]
fn a_switch_brings_also_what_differs_in_nothing_but_times_attributes_or_names() {
    type Change = fn(&Path);
    let rows: [(&str, Change); 4] = [
        ("the time of a file", |root| set_mtime(&root.join("README"), 1_000_000_000, 7)),
        ("the time of a folder", |root| set_mtime(&root.join("src"), 1_000_000_000, 7)),
        ("an attribute", |root| set_xattr(&root.join("README"), "user.calve", b"a").unwrap()),
        ("the names of a file", |root| {
            fs::remove_file(root.join("second")).unwrap();
            fs::hard_link(root.join("first"), root.join("second")).unwrap();
        }),
    ];
    for (row, change) in rows {
        let desk = Desk::new(|root| {
            small_project(root);
            for name in ["first", "second"] {
                put(root, name, "the same\n");
                set_mtime(&root.join(name), 1_500_000_000, 0);
            }
            // Changes of the names leave this as it is.
            set_mtime(root, 1_500_000_000, 0);
        });
        if row == "an attribute" && set_xattr(desk.scratch.path(), "user.calve", b"a").is_err() {
            let test = "a_switch_brings_also_what_differs_in_nothing_but_times_attributes_or_names";
            not_run(test, "no attributes here");
            continue;
        }
        let first = desk.snapshot();
        let second = changed(&desk, "second", |root| {
            change(root);
            set_mtime(root, 1_500_000_000, 0);
        });
        assert_ne!(first, second, "{row}");
        let one = desk.from("one", first);
        one.switch(second, &SwitchOptions::new(), &options()).unwrap();
        assert_same(&tree(&desk.folder().join("second")), &tree(one.path()), row);
        one.switch(first, &SwitchOptions::new(), &options()).unwrap();
        assert_same(&tree(&desk.project), &tree(one.path()), row);
    }
}

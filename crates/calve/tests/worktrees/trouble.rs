//! Promise: whatever happens to a worktree behind calve's back (deleted, moved, copied, raced for,
//! cut short), it is noticed, told of, and can be mended; and nothing that somebody wrote is lost.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use calve::{
    Cancel, DropOptions, ErrorKind, PackOptions, SnapshotOptions, StartOptions, Store,
    SwitchOptions, VerifyOptions, WorktreeState,
};
use rustix::fs::IFlags;

use crate::common;
use crate::common::snapshot::assert_same;
use crate::common::{Scratch, has_command, is_root, is_there, names, not_run, sh};
use crate::stores::{
    Desk, assert_arrived, assert_sound, content, content_of, fails, options, put, set_mode,
    small_project, status, tree,
};

#[test]
fn a_worktree_that_was_deleted_by_hand_is_missing_and_can_be_restored() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let before = tree(one.path());
    fs::remove_dir_all(one.path()).unwrap();
    assert_eq!(one.state().unwrap(), WorktreeState::Missing);
    fails(one.status(&options()), ErrorKind::WorktreeMissing);
    fails(one.capture(&SnapshotOptions::new(), &options()), ErrorKind::WorktreeMissing);
    fails(one.reset(&options()), ErrorKind::WorktreeMissing);
    fails(desk.store.start(&["one"], &StartOptions::new(), &options()), ErrorKind::WorktreeExists);
    // Something else at its place is neither it nor in calve's way to refuse.
    put(&desk.folder(), "one/other", "mine");
    assert_eq!(one.state().unwrap(), WorktreeState::Missing);
    fails(one.restore(calve::GitMode::Copy, &options()), ErrorKind::DestinationExists);
    fails(one.clone().drop(&DropOptions::new(), &options()), ErrorKind::WorktreeMissing);
    assert_eq!(names(one.path()), ["other"]);
    fs::remove_dir_all(one.path()).unwrap();

    let report = one.restore(calve::GitMode::Copy, &options()).unwrap();
    assert_arrived(&report.report);
    assert_same(&before, &tree(one.path()), "restored");
    assert_eq!(one.state().unwrap(), WorktreeState::Ready);
    assert_eq!(status(&one), [""; 0]);
    // A missing worktree can be dropped, too.
    fs::remove_dir_all(one.path()).unwrap();
    one.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    assert_eq!(status(&desk.worktree("one")), [""; 0]);
}

/// If a drop looked for the folder just before it was made, and forgot the worktree just after, it
/// left a folder that nobody knew.
#[test]
fn what_is_dropped_while_it_is_made_is_there_and_known_or_neither() {
    let desk = Desk::small();
    let from = StartOptions::new().from(desk.worktree("base").snapshot().unwrap());
    for round in 0..60 {
        let made = AtomicBool::new(false);
        let open = || Store::open(desk.store.path()).unwrap();
        thread::scope(|scope| {
            let droppers = [false, true].map(|force| {
                let made = &made;
                scope.spawn(move || {
                    let store = open();
                    while !made.load(Ordering::Relaxed) {
                        let dropped = store
                            .worktree("w")
                            .and_then(|w| w.drop(&DropOptions::new().force(force), &options()));
                        if let Err(error) = dropped {
                            let kinds = [
                                ErrorKind::WorktreeNotFound,
                                ErrorKind::WorktreeMissing,
                                ErrorKind::Busy,
                            ];
                            assert!(kinds.contains(&error.kind()), "{round}: {error}");
                        }
                    }
                })
            });
            let restorer = scope.spawn(|| {
                let store = open();
                while !made.load(Ordering::Relaxed) {
                    let _ = store
                        .worktree("w")
                        .and_then(|w| w.restore(calve::GitMode::Copy, &options()));
                }
            });
            let store = open();
            for _ in 0..5 {
                let _ = store.start(&["w"], &from, &options());
            }
            made.store(true, Ordering::Relaxed);
            droppers.into_iter().chain([restorer]).for_each(|other| other.join().unwrap());
        });
        let path = desk.folder().join("w");
        match desk.store.worktree("w") {
            Ok(known) => {
                known.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WorktreeNotFound, "{round}"),
        }
        assert!(!is_there(&path), "{round}: a folder that nobody knows");
    }
    desk.store.empty_trash().unwrap();
    assert_sound(&desk.store);
}

#[test]
fn a_worktree_that_was_moved_is_found_again_and_a_copy_of_one_is_refused() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    put(one.path(), "README", "changed\n");
    let moved = desk.scratch.join("elsewhere");
    fs::rename(one.path(), &moved).unwrap();
    assert_eq!(one.state().unwrap(), WorktreeState::Missing);
    let place = Store::discover(moved.join("src")).unwrap();
    assert_eq!(place.root, moved);
    let found = place.worktree().unwrap();
    assert_eq!((found.name(), found.path()), ("one", moved.as_path()));
    assert_eq!(status(&found), ["M README"]);
    // A value that was looked up before knows it now, too.
    assert_eq!(status(&one), ["M README"]);
    assert_eq!(desk.store.worktree("one").unwrap().path(), moved);

    let copy = desk.scratch.join("copy");
    sh(Command::new("cp").arg("-a").arg(&moved).arg(&copy));
    let error = fails(Store::discover(&copy).unwrap().worktree(), ErrorKind::Overlap);
    assert_eq!((error.path(), error.other_path()), (copy.as_path(), Some(moved.as_path())));
    assert_eq!(desk.store.worktree("one").unwrap().path(), moved);
    // And one that the store has forgotten is no worktree.
    found.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
    fails(Store::discover(&copy).unwrap().worktree(), ErrorKind::WorktreeNotFound);
    fails(one.status(&options()), ErrorKind::WorktreeNotFound);
}

#[test]
fn worktrees_that_were_moved_together_with_their_store_are_found_and_those_of_a_copied_store_are_not()
 {
    let desk = Desk::small();
    desk.worktree("one");
    let new = desk.scratch.join("deep/new");
    fs::create_dir_all(&new).unwrap();
    let with_worktrees = |command: &str, to: &Path| {
        let mut tool = Command::new(command);
        if command == "cp" {
            tool.arg("-a");
        }
        sh(tool.arg(&desk.project).arg(desk.folder()).arg(to));
    };
    with_worktrees("cp", &new);
    let (project, one) = (new.join("project"), new.join("project.worktrees/one"));
    // The worktree is that of the first store as long as that is there.
    let copy = Store::discover(&project).unwrap().store;
    let there = copy.worktree("one").unwrap();
    assert_eq!(there.path(), desk.folder().join("one"));
    fails(there.status(&options()), ErrorKind::WorktreeMissing);
    fs::remove_dir_all(&new).unwrap();
    fs::create_dir_all(&new).unwrap();
    with_worktrees("mv", &new);
    fails(Store::discover(&one), ErrorKind::StoreNotFound);
    let store = Store::discover(&project).unwrap().store;
    let listed = store.worktrees().unwrap();
    assert_eq!((listed.len(), listed[0].path()), (1, one.as_path()));
    assert_eq!(Store::discover(one.join("src")).unwrap().store.path(), store.path());
    assert_eq!(listed[0].status(&options()).unwrap().changes, []);
}

#[test]
fn a_project_that_was_moved_takes_its_store_along() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let snapshot = one.snapshot().unwrap();
    let moved = desk.scratch.join("moved");
    fs::rename(&desk.project, &moved).unwrap();
    let store = Store::discover(&moved).unwrap().store;
    assert_eq!(store.project().unwrap(), moved);
    assert_eq!(store.snapshot(&SnapshotOptions::new(), &options()).unwrap().id, snapshot);
    // The worktree's marker still says where the store was, until the store sees the worktree.
    fails(Store::discover(one.path()), ErrorKind::StoreNotFound);
    assert_eq!(status(&store.worktree("one").unwrap()), [""; 0]);
    let found = Store::discover(one.path()).unwrap();
    assert_eq!(found.store.path(), moved.join(".calve"));
    assert_eq!(found.worktree().unwrap().name(), "one");
}

/// A clone or a copy of a project has a copy of its store inside, which knew the project's
/// worktrees and took them for its own: to drop one there deleted it here.
#[test]
fn a_copy_of_a_project_leaves_the_worktrees_of_the_first_alone() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let copy = desk.scratch.join("copy");
    sh(Command::new("cp").arg("-a").arg(&desk.project).arg(&copy));
    let other = Store::discover(&copy).unwrap().store;
    assert_ne!(other.path(), desk.store.path());
    assert_eq!(other.project().unwrap(), copy);
    let same = other.worktree("one").unwrap();
    assert_eq!((same.path(), same.state().unwrap()), (one.path(), WorktreeState::Missing));
    let options = options();
    let latest = other.latest().unwrap().unwrap();
    for (what, result) in [
        ("status", same.status(&options).map(drop)),
        ("capture", same.capture(&SnapshotOptions::new(), &options).map(drop)),
        ("switch", same.switch(latest, &SwitchOptions::new().force(true), &options).map(drop)),
        ("reset", same.reset(&options).map(drop)),
        ("drop", same.clone().drop(&DropOptions::new(), &options).map(drop)),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WorktreeMissing, "{what}: {error}");
    }
    fails(same.restore(calve::GitMode::Copy, &options), ErrorKind::DestinationExists);
    // The name can go, and nothing else does.
    same.drop(&DropOptions::new().force(true), &options).unwrap().delete().unwrap();
    assert!(other.worktrees().unwrap().is_empty());
    assert_eq!(one.state().unwrap(), WorktreeState::Ready);
    assert_eq!(status(&one), [""; 0]);
    assert_eq!(Store::discover(one.path()).unwrap().store.path(), desk.store.path());
    // It has worktrees of its own.
    let elsewhere = StartOptions::new().at(desk.scratch.join("others"));
    other.start(&["one"], &elsewhere, &options).unwrap();
    assert_eq!(other.worktree("one").unwrap().state().unwrap(), WorktreeState::Ready);
    assert_eq!(desk.store.worktree("one").unwrap().path(), one.path());
}

#[test]
fn of_two_who_want_one_name_at_once_one_gets_it() {
    let desk = Desk::small();
    desk.snapshot();
    for round in 0..10 {
        let name = format!("w{round}");
        let barrier = Barrier::new(4);
        let results: Vec<_> = thread::scope(|scope| {
            let start = || {
                let store = Store::open(desk.store.path()).unwrap();
                barrier.wait();
                store.start(&[&name], &StartOptions::new(), &options())
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 3));
        for result in lost {
            fails(result, ErrorKind::WorktreeExists);
        }
        assert_same(&tree(&desk.project), &tree(&desk.folder().join(&name)), &name);
        assert_eq!(names(&desk.folder()).len(), round + 1, "no stage is left");
    }
    assert_sound(&desk.store);
}

#[test]
fn of_two_who_make_a_store_at_once_one_does() {
    for _ in 0..10 {
        let scratch = Scratch::new();
        small_project(&scratch.join("project"));
        let barrier = Barrier::new(4);
        let results: Vec<_> = thread::scope(|scope| {
            let init = || {
                barrier.wait();
                Store::init(scratch.join("project"))
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(init)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 3));
        for result in lost {
            fails(result, ErrorKind::StoreExists);
        }
        let left: Vec<_> = names(&scratch.join("project"));
        assert_eq!(left.iter().filter(|name| name.starts_with('.')).count(), 1, "{left:?}");
    }
}

#[test]
fn an_edit_in_the_same_tick_as_a_start_or_a_capture_is_seen() {
    let desk = Desk::new(|root| {
        fs::create_dir(root).unwrap();
        put(root, "file", "0000000000");
        put(root, "other", "other");
    });
    let first = desk.snapshot();
    let edit = |path: &Path, round: u32| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(format!("{:010}", round + 1).as_bytes(), 0).unwrap();
    };
    for round in 0..60 {
        let one = desk.from(&format!("w{round}"), first);
        edit(&one.path().join("file"), round);
        assert_eq!(status(&one), ["M file"], "after a start, round {round}");
        one.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
    }
    let one = desk.from("one", first);
    let file = one.path().join("file");
    for round in 0..200 {
        edit(&file, round * 2);
        one.capture(&SnapshotOptions::new(), &options()).unwrap();
        edit(&file, round * 2 + 1);
        assert_eq!(status(&one), ["M file"], "after a capture, round {round}");
        if round % 4 == 0 {
            one.reset(&options()).unwrap();
            edit(&file, 1000 + round);
            assert_eq!(status(&one), ["M file"], "after a reset, round {round}");
        }
    }
    // Another thread changes the file in the middle of it. The capture has one of the contents, and
    // later comparisons use that one.
    thread::scope(|scope| {
        let editing = scope.spawn(|| {
            for round in 0..3000 {
                edit(&file, round);
            }
        });
        while !editing.is_finished() {
            one.capture(&SnapshotOptions::new(), &options()).unwrap();
        }
    });
    let last = one.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    let two = desk.from("two", last);
    assert_eq!(fs::read(two.path().join("file")).unwrap(), fs::read(&file).unwrap());
    assert_sound(&desk.store);
}

#[test]
fn a_start_where_something_stands_fails_and_leaves_nothing() {
    let desk = Desk::small();
    put(&desk.folder(), "two/mine", "mine");
    let error = fails(
        desk.store.start(&["one", "two"], &StartOptions::new(), &options()),
        ErrorKind::DestinationExists,
    );
    assert_eq!(error.path(), desk.folder().join("two"));
    assert_eq!(names(&desk.folder()), ["two"]);
    assert_eq!(names(&desk.folder().join("two")), ["mine"]);
    assert_eq!(desk.store.worktrees().unwrap().len(), 0);
    assert_eq!(names(&desk.store.path().join("indexes")).len(), 1, "the project's");
    for name in ["", ".", "..", "a/b", "-x", "a b", "a\n"] {
        fails(desk.store.start(&[name], &StartOptions::new(), &options()), ErrorKind::InvalidName);
    }
    fails(desk.store.start(&["x", "x"], &StartOptions::new(), &options()), ErrorKind::InvalidName);
    desk.start(&["one"]);
}

#[test]
fn where_something_appears_in_the_course_of_a_start_none_of_its_worktrees_does() {
    let desk = Desk::small();
    let snapshot = desk.snapshot();
    let folder = desk.folder();
    for attempt in 0..20 {
        let all: Vec<String> = (0..20).map(|number| format!("w{attempt}-{number:02}")).collect();
        let last = folder.join(&all[19]);
        let done = AtomicBool::new(false);
        let (intruded, result) = thread::scope(|scope| {
            let intruder = scope.spawn(|| {
                let stage = |name: &String| name.starts_with(".calve-stage");
                while !done.load(Ordering::Relaxed) {
                    if folder.is_dir() && names(&folder).iter().any(stage) {
                        return fs::write(&last, "mine").is_ok();
                    }
                }
                false
            });
            let result = desk.store.start(&all, &StartOptions::new().from(snapshot), &options());
            done.store(true, Ordering::Relaxed);
            (intruder.join().unwrap(), result)
        });
        if intruded && let Err(error) = result {
            assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
            assert_eq!(error.path(), last);
            assert_eq!(names(&folder), [all[19].as_str()], "what was made is taken back");
            assert_eq!(fs::read(&last).unwrap(), b"mine");
            assert_eq!(desk.store.worktrees().unwrap().len(), 0);
            assert_eq!(names(&desk.store.path().join("indexes")).len(), 1, "the project's");
            return;
        }
        for name in all {
            desk.store
                .worktree(&name)
                .unwrap()
                .drop(&DropOptions::new().force(true), &options())
                .unwrap()
                .delete()
                .unwrap();
        }
        assert_eq!(names(&folder), [""; 0]);
    }
    panic!("the start was faster twenty times");
}

#[test]
fn a_cancelled_start_or_snapshot_leaves_nothing() {
    let desk = Desk::new(|root| {
        common::plain_tree(root, 40, 50, 3000);
    });
    let cancel = Cancel::new();
    cancel.cancel();
    let cancelled = options().cancel(&cancel);
    fails(desk.store.snapshot(&SnapshotOptions::new(), &cancelled), ErrorKind::Cancelled);
    assert_eq!(desk.store.log().unwrap().snapshots.len(), 0);
    let snapshot = desk.snapshot();
    let from = StartOptions::new().from(snapshot);
    fails(desk.store.start(&["one"], &from, &cancelled), ErrorKind::Cancelled);
    assert_eq!(names(&desk.folder()), [""; 0]);
    // In the middle, too.
    for delay in [1, 5, 20, 50] {
        let cancel = Cancel::new();
        let later = cancel.clone();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(delay));
            later.cancel();
        });
        let made = desk.store.start(&["one"], &from, &options().cancel(&cancel));
        thread.join().unwrap();
        match made {
            Ok(_) => {
                let one = desk.store.worktree("one").unwrap();
                assert_eq!(status(&one), [""; 0]);
                one.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}"),
        }
        assert_eq!(names(&desk.folder()), [""; 0], "after {delay} ms");
        assert_eq!(desk.store.worktrees().unwrap().len(), 0);
    }
    assert_eq!(names(&desk.store.path().join("stage")), [""; 0]);
}

#[test]
fn a_worktree_inside_another_tree_is_no_part_of_it_and_is_not_dropped_with_it() {
    let desk = Desk::small();
    let inside = StartOptions::new().at(desk.project.join("trees"));
    desk.store.start(&["one"], &inside, &options()).unwrap();
    let again = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!(again.files, 7, "the project has no more files than before");
    let one = desk.store.worktree("one").unwrap();
    let within = StartOptions::new().at(one.path().join("deep"));
    desk.store.start(&["two"], &within, &options()).unwrap();
    let two = desk.store.worktree("two").unwrap();
    put(two.path(), "README", "work\n");
    assert_eq!(status(&one), ["A deep"], "the folder, and nothing that is in it");
    let error =
        fails(one.clone().drop(&DropOptions::new().force(true), &options()), ErrorKind::Overlap);
    assert_eq!(error.details(), [two.path().to_owned()]);
    assert_eq!(status(&two), ["M README"]);
    two.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
    one.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
}

#[test]
fn a_project_whose_store_is_elsewhere_is_captured_switched_and_reset_like_any_other() {
    let scratch = Scratch::new();
    let project = scratch.join("project");
    small_project(&project);
    let store = Store::init_at(&project, scratch.join("the-store")).unwrap();
    assert_eq!(store.project().unwrap(), project);
    store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    let before = tree(&project);
    let own = store.project_worktree().unwrap();
    put(&project, "README", "changed\n");
    let changed = content(&project);
    own.reset(&options()).unwrap();
    assert_same(&before, &tree(&project), "after the reset");
    own.undo(&options()).unwrap();
    assert_same(&changed, &content(&project), "after the undo");
    store.start(&["one"], &StartOptions::new(), &options()).unwrap();
    assert_same(&tree(&project), &tree(store.worktree("one").unwrap().path()), "started");
}

#[test]
fn an_ignored_file_is_in_the_way_of_a_switch_like_any_other() {
    let desk = Desk::small();
    let first = desk.snapshot();
    let one = desk.worktree("one");
    put(one.path(), ".calveignore", "README\n/docs\n");
    let second = one.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    put(one.path(), "README", "nobody else has this\n");
    put(one.path(), "docs/guide/first.md", "nor this\n");
    let before = tree(one.path());
    let error = fails(one.switch(first, &SwitchOptions::new(), &options()), ErrorKind::Changed);
    assert!(error.details().contains(&PathBuf::from("README")), "{error:?}");
    assert!(error.details().contains(&PathBuf::from("docs/guide/first.md")), "{error:?}");
    assert_same(&before, &tree(one.path()), "after the refusal");
    one.switch(first, &SwitchOptions::new().force(true), &options()).unwrap();
    assert_same(&content(&desk.project), &content(one.path()), "switched");
    one.undo(&options()).unwrap();
    assert_same(&content_of(&before), &content(one.path()), "after the undo");
    assert_eq!(one.status(&options()).unwrap().snapshot, second);
}

/// Keeps a path as it is until it is dropped. `None` where the filesystem has no such flag.
struct Immutable(fs::File);

impl Immutable {
    fn new(path: &Path) -> Option<Self> {
        let file = fs::File::open(path).unwrap();
        rustix::fs::ioctl_setflags(&file, IFlags::IMMUTABLE).ok()?;
        Some(Self(file))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = rustix::fs::ioctl_setflags(&self.0, IFlags::empty());
    }
}

#[test]
fn a_forced_switch_or_a_reset_that_is_asked_for_twice_can_still_be_undone() {
    for reset in [false, true] {
        let desk = Desk::small();
        let first = desk.snapshot();
        let other = desk.from("other", first);
        put(other.path(), "README", "second\n");
        let second = other.capture(&SnapshotOptions::new(), &options()).unwrap().id;
        let one = desk.from("one", first);
        put(one.path(), "README", "by hand\n");
        let before = content(one.path());
        for _ in 0..2 {
            match reset {
                false => {
                    drop(
                        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap(),
                    );
                }
                true => drop(one.reset(&options()).unwrap()),
            }
        }
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), &format!("reset: {reset}"));
    }
}

#[test]
fn a_reset_that_was_cut_short_as_it_moved_things_aside_is_undone_with_nothing_lost() {
    let test = "a_reset_that_was_cut_short_as_it_moved_things_aside_is_undone_with_nothing_lost";
    let desk = Desk::small();
    let one = desk.worktree("one");
    for path in ["README", "run.sh", "src/main.rs"] {
        put(one.path(), path, "by hand\n");
    }
    let before = content(one.path());
    let Some(flag) = Immutable::new(&one.path().join("src/main.rs")) else {
        return not_run(test, "no file can be made immutable here");
    };
    fails(one.reset(&options()), ErrorKind::PermissionDenied);
    drop(flag);
    // The files that it had moved by then are missing, but nobody deleted them by hand.
    assert!(!is_there(&one.path().join("README")));
    one.reset(&options()).unwrap();
    assert_same(&content(&desk.project), &content(one.path()), "reset");
    one.undo(&options()).unwrap();
    assert_same(&before, &content(one.path()), "undone");
    assert_sound(&desk.store);
}

#[test]
fn what_was_changed_again_after_a_reset_was_cut_short_comes_back_beside_what_that_moved_aside() {
    let test = "what_was_changed_again_after_a_reset_was_cut_short";
    for (row, first, again, earlier) in [
        ("a file twice", "README", "README", "README.earlier-1"),
        ("a name of its own", "a", "a", "a.earlier-2"),
        ("a folder where a file was", "a", "a/deep", "a.earlier-2"),
        ("a file where a folder was", "a/deep", "a", "a.earlier-2/deep"),
        ("two folders", "a/one", "a/two", "a/one"),
    ] {
        let desk = Desk::small();
        let one = desk.worktree("one");
        let file = |path: &str| one.path().join(path);
        put(one.path(), "a.earlier-1", "by hand\n");
        for path in [first, "src/main.rs"] {
            put(one.path(), path, "first\n");
        }
        let Some(flag) = Immutable::new(&file("src/main.rs")) else {
            return not_run(test, "no file can be made immutable here");
        };
        fails(one.reset(&options()), ErrorKind::PermissionDenied);
        drop(flag);
        assert!(!is_there(&file(first)), "{row}");
        let _ = fs::remove_dir(file("a"));
        put(one.path(), again, "again\n");
        let kept = one.reset(&options()).unwrap().kept;
        assert_same(&content(&desk.project), &content(one.path()), row);
        let undone = one.undo(&options()).unwrap().kept;
        for (path, text) in [(again, "again\n"), (earlier, "first\n"), ("a.earlier-1", "by hand\n")]
        {
            assert_eq!(fs::read_to_string(file(path)).unwrap(), text, "{row}");
            assert!(undone.contains(&path.into()), "{row}: {undone:?}");
        }
        let renamed = kept.iter().any(|path| earlier.starts_with(path.to_str().unwrap()));
        assert_eq!(renamed, first != earlier, "{row}: {kept:?}");
        assert_sound(&desk.store);
    }
}

#[test]
fn an_undo_that_a_folder_refuses_is_refused_as_a_whole_and_names_it() {
    let test = "an_undo_that_a_folder_refuses_is_refused_as_a_whole_and_names_it";
    let desk = Desk::small();
    let one = desk.worktree("one");
    for path in ["README", "docs/guide/new.md", "src/main.rs"] {
        put(one.path(), path, "by hand\n");
    }
    let before = content(one.path());
    one.reset(&options()).unwrap();
    let reset = content(one.path());
    // What comes back is a new file here, so the way to the snapshot changes nothing in it.
    let refuses = one.path().join("docs/guide");
    let Some(flag) = Immutable::new(&refuses) else {
        return not_run(test, "no file can be made immutable here");
    };
    let error = fails(one.undo(&options()), ErrorKind::PermissionDenied);
    assert_eq!(error.path(), refuses);
    assert_same(&reset, &content(one.path()), "refused");
    drop(flag);
    one.undo(&options()).unwrap();
    assert_same(&before, &content(one.path()), "undone");
}

#[test]
fn a_forced_switch_that_was_cut_short_is_brought_to_an_end_and_undone_with_nothing_lost() {
    let test =
        "a_forced_switch_that_was_cut_short_is_brought_to_an_end_and_undone_with_nothing_lost";
    // Each file in turn is the one at which it ends; how it goes on is up to the row.
    let stuck = ["README", "docs/guide/second.md", "run.sh", "src/main.rs"];
    for (number, stuck) in stuck.iter().enumerate() {
        for how in ["force", "refuse", "reset"] {
            let desk = Desk::small();
            let first = desk.snapshot();
            let other = desk.from("other", first);
            put(other.path(), "README", "second\n");
            put(other.path(), "run.sh", "second\n");
            fs::remove_dir_all(other.path().join("docs")).unwrap();
            put(other.path(), "docs", "a file\n");
            fs::remove_file(other.path().join("src/main.rs")).unwrap();
            put(other.path(), "src/main.rs/now", "a folder\n");
            let second = other.capture(&SnapshotOptions::new(), &options()).unwrap().id;
            let wanted = content(other.path());

            let one = desk.from("one", first);
            put(one.path(), "README", "by hand\n");
            put(one.path(), "docs/guide/first.md", "by hand\n");
            put(one.path(), "docs/guide/third.md", "by hand\n");
            fs::remove_file(one.path().join("src/lib.rs")).unwrap();
            put(one.path(), "notes", "by hand\n");
            let before = content(one.path());
            let row = format!("stuck at {stuck}, then {how}");
            let Some(flag) = Immutable::new(&one.path().join(stuck)) else {
                return not_run(test, "no file can be made immutable here");
            };
            let error = fails(
                one.switch(second, &SwitchOptions::new().force(true), &options()),
                ErrorKind::PermissionDenied,
            );
            assert!(error.path().starts_with(one.path()), "{row}: {error}");
            assert_eq!(one.state().unwrap(), WorktreeState::Restoring, "{row}");
            drop(flag);
            match how {
                "force" => {
                    drop(
                        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap(),
                    );
                }
                // calve does not take the work of the interrupted switch for changes by hand. The
                // remaining changes still count.
                "refuse" => match one.switch(second, &SwitchOptions::new(), &options()) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Changed, "{row}");
                        let by_hand = ["README", "docs/guide/first.md", "docs/guide/third.md"];
                        for path in error.details() {
                            assert!(by_hand.contains(&path.to_str().unwrap()), "{row}: {error:?}");
                        }
                        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
                    }
                },
                _ => drop(one.reset(&options()).unwrap()),
            }
            assert_eq!(one.state().unwrap(), WorktreeState::Ready, "{row}");
            if how == "reset" {
                assert_same(&content(&desk.project), &content(one.path()), &row);
            } else {
                let mut wanted = wanted.clone();
                let now = content(one.path());
                // Neither was in the way.
                wanted.insert("notes".into(), now[Path::new("notes")].clone());
                wanted.remove(Path::new("src/lib.rs"));
                assert_same(&wanted, &now, &row);
            }
            one.undo(&options()).unwrap();
            assert_same(&before, &content(one.path()), &format!("{row}, undone ({number})"));
            assert_sound(&desk.store);
        }
    }
}

#[test]
fn a_folder_that_shall_be_closed_to_others_is_so_even_where_the_switch_is_cut_short() {
    let test = "a_folder_that_shall_be_closed_to_others_is_so_even_where_the_switch_is_cut_short";
    let desk = Desk::small();
    let first = desk.snapshot();
    let other = desk.from("other", first);
    put(other.path(), "closed/key", "secret\n");
    set_mode(&other.path().join("closed"), 0o700);
    put(other.path(), "src/main.rs", "second\n");
    let second = other.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    let one = desk.from("one", first);
    let Some(flag) = Immutable::new(&one.path().join("src/main.rs")) else {
        return not_run(test, "no file can be made immutable here");
    };
    fails(one.switch(second, &SwitchOptions::new(), &options()), ErrorKind::PermissionDenied);
    drop(flag);
    let mode = fs::metadata(one.path().join("closed")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    one.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_same(&tree(other.path()), &tree(one.path()), "brought to an end");
}

/// A read-only store, under its own mount.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn new(of: &Path, at: PathBuf) -> Result<Self, String> {
        fs::create_dir(&at).unwrap();
        let run = |arguments: &[&std::ffi::OsStr]| {
            let output = Command::new("mount").args(arguments).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        run(&["--bind".as_ref(), of.as_os_str(), at.as_os_str()])?;
        let this = Self(at);
        run(&["-o".as_ref(), "remount,bind,ro".as_ref(), this.0.as_os_str()])?;
        Ok(this)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_store_that_is_read_only_can_be_read_and_started_from_and_refuses_the_rest() {
    let test = "a_store_that_is_read_only_can_be_read_and_started_from_and_refuses_the_rest";
    if !is_root() || !has_command("mount") {
        return not_run(test, "only root can mount");
    }
    let desk = Desk::small();
    let first = desk.snapshot();
    let one = desk.worktree("one");
    // Some content is in packs only, some in mirrors only.
    desk.store.pack(&PackOptions::new().all(true), &options()).unwrap();
    put(&desk.project, "late", "late\n");
    let second = desk
        .store
        .snapshot(&SnapshotOptions::new().message("late").name("best"), &options())
        .unwrap()
        .id;
    put(one.path(), "README", "changed\n");
    drop(one);
    let wanted = tree(&desk.project);
    let Desk { scratch, project, store } = desk;
    // The last one to close a database leaves no log behind.
    drop(store);
    let mount = match ReadOnly::new(&project, scratch.join("mount")) {
        Ok(mount) => mount,
        Err(why) => return not_run(test, &why),
    };
    let store = Store::discover(&mount.0).unwrap().store;
    assert!(store.is_read_only());
    let log: Vec<_> = store.log().unwrap().snapshots.iter().map(|one| one.id).collect();
    assert_eq!(log, [second, first]);
    assert_eq!(store.show(second).unwrap().names, ["best"]);
    assert_eq!(store.resolve("best").unwrap(), second);
    let found = assert_sound(&store);
    assert!(found.packed_blobs > 0 && found.mirrors > 0, "{found:?}");
    let one = store.worktree("one").unwrap();
    assert_eq!(one.state().unwrap(), WorktreeState::Ready);
    assert_eq!(status(&one), ["M README"]);
    assert_eq!(one.diff(&options()).unwrap().files[0].lines, Some((1, 3)));

    fails(store.snapshot(&SnapshotOptions::new(), &options()), ErrorKind::ReadOnly);
    fails(one.capture(&SnapshotOptions::new(), &options()), ErrorKind::ReadOnly);
    fails(one.switch(first, &SwitchOptions::new(), &options()), ErrorKind::ReadOnly);
    fails(one.reset(&options()), ErrorKind::ReadOnly);
    fails(one.undo(&options()), ErrorKind::ReadOnly);
    fails(one.restore(calve::GitMode::Copy, &options()), ErrorKind::ReadOnly);
    fails(one.clone().drop(&DropOptions::new().force(true), &options()), ErrorKind::ReadOnly);
    fails(store.set_name("x", first), ErrorKind::ReadOnly);
    fails(store.remove_name("best"), ErrorKind::ReadOnly);
    fails(store.pack(&PackOptions::new(), &options()), ErrorKind::ReadOnly);
    fails(store.warm(&[], &options()), ErrorKind::ReadOnly);
    fails(store.gc(&calve::GcOptions::new(), &options()), ErrorKind::ReadOnly);
    fails(store.verify(&VerifyOptions::new().repair(true), &options()), ErrorKind::ReadOnly);
    fails(store.empty_trash(), ErrorKind::ReadOnly);
    fails(store.start(&["two"], &StartOptions::new(), &options()), ErrorKind::ReadOnly);
    fails(
        store.start(&["two"], &StartOptions::new().from(second), &options()),
        ErrorKind::ReadOnly,
    );

    let out = scratch.join("out");
    let elsewhere = StartOptions::new().from(second).at(&out);
    let report = store.start(&["two", "three"], &elsewhere, &options()).unwrap();
    assert!(!report.registered);
    for started in &report.worktrees {
        let made = &started.report;
        assert_eq!(made.files, 8, "{made:?}");
        // Only one content has a file that can be cloned from, or be refused.
        let because = made.copied_because;
        assert_eq!(because.total(), made.copied_files, "{made:?}");
        assert!(because.vanished > 0 && because.filesystem <= 1 && because.file == 0, "{made:?}");
        assert_eq!(made.reflinked_files + made.copied_files, 8, "{made:?}");
        assert_same(&wanted, &tree(&made.path), &started.name);
        assert!(!is_there(&made.path.join(".calve")), "nobody knows it");
    }
    assert_eq!(names(&out), ["three", "two"]);
    fails(store.start(&["two"], &elsewhere, &options()), ErrorKind::DestinationExists);
    fails(store.start(&["four"], &elsewhere.at(mount.0.join("in")), &options()), ErrorKind::Io);
    assert_eq!(names(&out), ["three", "two"]);
    let mut file = fs::OpenOptions::new().append(true).open(out.join("two/README")).unwrap();
    file.write_all(b"mine").unwrap();
    assert_same(&wanted, &tree(&out.join("three")), "three after a write in two");
    drop((store, one));
    drop(mount);
}

#[test]
fn what_stands_in_a_worktrees_place_stays_when_the_worktree_is_forgotten() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let path = one.path().to_owned();
    fs::remove_dir_all(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    fails(one.drop(&DropOptions::new(), &options()).map(drop), ErrorKind::WorktreeMissing);
    desk.store
        .worktree("one")
        .unwrap()
        .drop(&DropOptions::new().force(true), &options())
        .unwrap()
        .delete()
        .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    fails(desk.store.worktree("one").map(drop), ErrorKind::WorktreeNotFound);
}

#[test]
fn no_store_is_made_in_a_worktree_or_in_a_store() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let before = tree(one.path());
    for folder in [one.path(), desk.store.path(), &desk.store.path().join("blobs")] {
        fails(Store::init(folder).map(drop), ErrorKind::Overlap);
    }
    assert_same(&before, &tree(one.path()), "the worktree");
}

/// git starts a worktree in an empty folder that exists; so do scripts that make the folder first.
#[test]
fn a_start_and_a_restore_in_an_empty_folder_take_its_place_and_one_that_is_not_empty_stays() {
    let desk = Desk::small();
    let wanted = tree(desk.worktree("first").path());
    // On btrfs the first start is made of files, later ones of snapshots.
    for round in 0..3 {
        let names: Vec<String> = (0..2).map(|number| format!("w{round}-{number}")).collect();
        fs::create_dir(desk.folder().join(&names[0])).unwrap();
        let started = desk.store.start(&names, &StartOptions::new(), &options()).unwrap();
        for started in &started.worktrees {
            assert_same(&wanted, &tree(&started.report.path), &started.name);
        }
    }
    let all = desk.store.worktrees().unwrap();
    let one = all.into_iter().find(|worktree| worktree.name() == "w0-0").unwrap();
    fs::remove_dir_all(one.path()).unwrap();
    fs::create_dir(one.path()).unwrap();
    assert_eq!(one.state().unwrap(), WorktreeState::Missing);
    one.restore(calve::GitMode::Copy, &options()).unwrap();
    assert_same(&wanted, &tree(one.path()), "restored");

    // The entry that nothing can replace, and the empty folder, are as before.
    let folder = desk.folder();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::set_permissions(folder.join("empty"), std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .unwrap();
    for kind in ["full", "file", "link", "link to an empty folder"] {
        let place = folder.join("taken");
        match kind {
            "full" => put(&folder, "taken/mine", "mine"),
            "file" => put(&folder, "taken", "mine"),
            "link" => std::os::unix::fs::symlink("nowhere", &place).unwrap(),
            _ => std::os::unix::fs::symlink("empty", &place).unwrap(),
        }
        let names = ["empty", "taken"];
        fails(
            desk.store.start(&names, &StartOptions::new(), &options()),
            ErrorKind::DestinationExists,
        );
        assert!(is_there(&place), "{kind}");
        assert_eq!(fs::read_dir(folder.join("empty")).unwrap().count(), 0, "{kind}");
        let mode =
            std::os::unix::fs::MetadataExt::mode(&fs::metadata(folder.join("empty")).unwrap());
        assert_eq!(mode & 0o7777, 0o711, "{kind}");
        sh(std::process::Command::new("rm").arg("-rf").arg(&place));
    }
    assert_sound(&desk.store);
}

/// A process that puts a file into the empty folder at the same moment keeps its file: either the
/// start refuses, or the file came too late for the old folder.
#[test]
fn a_file_that_is_put_into_the_empty_folder_during_a_start_is_never_lost() {
    let desk = Desk::small();
    let folder = desk.folder();
    let snapshot = desk.worktree("first").snapshot().unwrap();
    let (mut refused, mut started) = (0, 0);
    for round in 0..40 {
        let name = format!("w{round}");
        let place = folder.join(&name);
        fs::create_dir(&place).unwrap();
        let held = fs::File::open(&place).unwrap();
        let result = thread::scope(|scope| {
            let intruder = scope.spawn(|| {
                thread::sleep(Duration::from_millis(round % 10));
                // Into the old folder, wherever that is by now.
                rustix::fs::mknodat(
                    &held,
                    "mine",
                    rustix::fs::FileType::RegularFile,
                    rustix::fs::Mode::RUSR,
                    0,
                )
                .is_ok()
            });
            let from = StartOptions::new().from(snapshot);
            let result = desk.store.start(&[&name], &from, &options());
            (intruder.join().unwrap(), result)
        });
        match result {
            // The old folder is gone, and takes nothing.
            (false, Ok(_)) => started += 1,
            (true, Err(error)) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::DestinationExists, "{error}");
                assert_eq!(names(&place), ["mine"]);
            }
            (made, result) => panic!("round {round}: {made}, {result:?}"),
        }
    }
    assert!(refused + started == 40, "{refused} refused, {started} started");
}

#[test]
fn how_many_files_there_will_be_is_known_before_the_first_and_all_of_them_arrive() {
    let desk = Desk::small();
    let snapshot = desk.worktree("first").snapshot().unwrap();
    let files = desk.store.show(snapshot).unwrap().files;
    for round in 0..3 {
        let names: Vec<String> = (0..4).map(|number| format!("w{round}-{number}")).collect();
        let progress = std::sync::Arc::new(calve::Progress::new());
        let from = StartOptions::new().from(snapshot);
        desk.store.start(&names, &from, &options().progress(&progress)).unwrap();
        assert!(progress.expected_files() >= 4 * files, "{round}: {progress:?}");
        assert!(progress.files() >= progress.expected_files(), "{round}: {progress:?}");
    }
}

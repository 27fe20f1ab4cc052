//! Promise: a project whose store is elsewhere says where it is, to itself alone.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::common::{NOBODY, Scratch, as_nobody, is_root, is_there, not_run, sh};
use crate::maintained::{common, few};
use calve::{ErrorKind, Operation, SnapshotOptions, StartOptions, Store};

struct Elsewhere {
    scratch: Scratch,
    project: PathBuf,
    store: PathBuf,
    pointer: PathBuf,
}

impl Elsewhere {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (project, store) = (scratch.join("project"), scratch.join("project.calve"));
        few(&project);
        Store::init_at(&project, &store).unwrap();
        let pointer = project.join(".calve/project");
        Self { scratch, project, store, pointer }
    }

    fn refused(&self, folder: &Path) -> (ErrorKind, Operation) {
        let error = Store::discover(folder).unwrap_err();
        (error.kind(), error.operation())
    }
}

#[test]
fn every_folder_of_the_project_finds_the_store_and_no_snapshot_has_the_pointer() {
    let it = Elsewhere::new();
    for folder in [&it.project, &it.project.join("d1")] {
        let found = Store::discover(folder).unwrap();
        assert_eq!((found.store.path(), &found.root), (it.store.as_path(), &it.project));
        assert!(!found.is_worktree() && found.worktree().unwrap().is_project());
    }
    let store = Store::discover(&it.project).unwrap().store;
    let first = store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
    let started = store.start(&["w"], &StartOptions::new(), &common()).unwrap();
    assert_eq!(started.snapshot, Some(first.id));
    let w = it.scratch.join("project.worktrees/w");
    assert!(w.join(".calve/worktree").is_file() && !is_there(&w.join(".calve/project")));
    assert_eq!(Store::discover(&w).unwrap().store.path(), it.store);
    fs::remove_file(&it.pointer).unwrap();
    let again = store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
    assert_eq!((again.id, again.read_files), (first.id, 0));
    // `git clean -x` deletes it; the snapshots are where they were.
    assert_eq!(it.refused(&it.project), (ErrorKind::StoreNotFound, Operation::FindStore));
    assert!(store.point_project().unwrap());
    assert_eq!(Store::discover(&it.project).unwrap().store.path(), it.store);
}

#[test]
fn a_project_that_moved_is_known_by_its_new_path_and_a_copy_is_not_the_project() {
    let it = Elsewhere::new();
    let store = Store::open(&it.store).unwrap();
    store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
    let (moved, copy) = (it.scratch.join("moved"), it.scratch.join("copy"));
    fs::rename(&it.project, &moved).unwrap();
    assert_eq!(Store::discover(moved.join("d1")).unwrap().root, moved);
    assert_eq!(store.project().unwrap(), moved);
    let project = store.project_worktree().unwrap();
    assert_eq!(project.status(&common()).unwrap().changes, []);
    sh(std::process::Command::new("cp").arg("-a").arg(&moved).arg(&copy));
    assert_eq!(it.refused(&copy), (ErrorKind::Overlap, Operation::UseProject));
    assert_eq!(store.find(&copy).unwrap_err().kind(), ErrorKind::Overlap);
    assert_eq!(store.project().unwrap(), moved);
    // Then the copy is all that is left of it.
    fs::remove_dir_all(&moved).unwrap();
    assert_eq!(store.find(&copy).unwrap().root, copy);
    assert_eq!(store.project().unwrap(), copy);
}

#[test]
fn a_store_that_is_not_there_is_missed_by_its_path_and_nothing_takes_its_place() {
    let it = Elsewhere::new();
    let away = it.scratch.join("away");
    fs::rename(&it.store, &away).unwrap();
    let missing = (ErrorKind::StoreNotFound, Operation::FindStoreOfProject);
    assert_eq!(it.refused(&it.project.join("d1")), missing);
    let error = Store::discover(&it.project).unwrap_err();
    assert_eq!((error.path(), error.other_path()), (it.project.as_path(), Some(&*it.store)));
    for error in [
        Store::init(&it.project).unwrap_err(),
        Store::init_at(&it.project, it.scratch.join("other")).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.operation()), missing, "{error}");
    }
    fs::rename(&away, &it.store).unwrap();
    for error in [
        Store::init(&it.project).unwrap_err(),
        Store::init_at(&it.project, it.scratch.join("other")).unwrap_err(),
        Store::init_at(&it.project, &it.store).unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.path()), (ErrorKind::StoreExists, &*it.store), "{error}");
    }
    assert_eq!(it.scratch.names(), ["project", "project.calve"]);
}

/// A restore of the tree around the store put an old database into the living store.
#[test]
fn a_store_is_content_of_no_project_and_of_no_worktree() {
    let it = Elsewhere::new();
    let store = Store::open(&it.store).unwrap();
    store.start(&["w"], &StartOptions::new(), &common()).unwrap();
    let (other, own) = (it.scratch.join("other"), it.scratch.join("own"));
    few(&other);
    few(&own);
    Store::init(&own).unwrap();
    for (project, inside) in [
        (&other, it.project.join("d1/s.calve")),
        (&other, it.scratch.join("project.worktrees/w/s.calve")),
        (&own, own.join("s.calve")),
    ] {
        let error = Store::init_at(project, &inside).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Overlap, "{error}");
        assert!(!is_there(&inside) && !is_there(&other.join(".calve")), "{inside:?}");
    }
    // No snapshot has it.
    for (project, at) in
        [(&other, it.project.join(".calve/s.calve")), (&own, it.scratch.join("s.calve"))]
    {
        Store::init_at(project, at).unwrap();
    }
}

/// Contents that an archive may bring along.
#[test]
fn a_pointer_leads_to_no_store_that_does_not_know_its_project() {
    let it = Elsewhere::new();
    let other = it.scratch.join("unpacked");
    fs::create_dir_all(other.join(".calve")).unwrap();
    let pointer = other.join(".calve/project");
    let real = fs::read_to_string(&it.pointer).unwrap();
    let token = real.lines().find_map(|line| line.strip_prefix("token ")).unwrap();
    let untrusted = (ErrorKind::StoreUntrusted, Operation::UseStore);
    let damaged = (ErrorKind::Damaged, Operation::Read);
    for (text, expected) in [
        (real.replace(token, "00ff"), untrusted),
        (real.replace(token, "x"), damaged),
        (real.replace("calve project 1", "calve worktree 1"), damaged),
        (real.replace("store /", "store "), damaged),
        (real.replace("project 1", "project 2"), damaged),
        (String::new(), damaged),
        (real.clone(), (ErrorKind::Overlap, Operation::UseProject)),
    ] {
        fs::write(&pointer, &text).unwrap();
        assert_eq!(it.refused(&other), expected, "{text:?}");
    }
    // A store that is inside of its project is found there alone.
    let inside = it.scratch.join("inside");
    few(&inside);
    let store = Store::init(&inside).unwrap();
    assert!(store.point_project().unwrap() && !is_there(&inside.join(".calve/project")));
    fs::write(
        &pointer,
        format!("calve project 1\ntoken {token}\nstore {}\n", store.path().display()),
    )
    .unwrap();
    assert_eq!(it.refused(&other), untrusted);
    fs::remove_file(&pointer).unwrap();
    std::os::unix::fs::symlink(&it.pointer, &pointer).unwrap();
    assert_eq!(it.refused(&other), (ErrorKind::StoreNotFound, Operation::FindStore));
    assert_eq!(Store::discover(&it.project).unwrap().store.path(), it.store);
}

#[test]
fn a_store_of_another_user_is_refused_where_a_pointer_leads_to_it() {
    const TEST: &str = "a_store_of_another_user_is_refused_where_a_pointer_leads_to_it";
    if !is_root() {
        return not_run(TEST, "only root can give files away");
    }
    let it = Elsewhere::new();
    std::os::unix::fs::chown(&it.store, Some(NOBODY), None).unwrap();
    assert_eq!(it.refused(&it.project), (ErrorKind::StoreUntrusted, Operation::UseStore));
    let named = Store::open(&it.store).unwrap();
    assert_eq!(named.find(&it.project).unwrap().root, it.project);
}

#[test]
fn a_project_that_may_not_be_written_to_goes_without_a_pointer() {
    const TEST: &str = "a_project_that_may_not_be_written_to_goes_without_a_pointer";
    if !is_root() {
        return not_run(TEST, "only root can become another user");
    }
    let scratch = Scratch::new();
    let (project, at) = (scratch.join("project"), scratch.join("at"));
    few(&project);
    fs::create_dir(&at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o777)).unwrap();
    for path in [scratch.path(), &project] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let made = as_nobody(|| {
        if fs::metadata(&at).is_err() {
            return false;
        }
        let store = Store::init_at(&project, at.join("s.calve")).unwrap();
        assert_eq!(store.point_project().unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert_eq!(Store::discover(&project).unwrap_err().kind(), ErrorKind::StoreNotFound);
        true
    });
    if !made {
        not_run(TEST, "nobody may not look where the tests run");
    }
}

#[test]
fn a_project_on_another_filesystem_is_read_once_and_its_worktrees_are_beside_the_store() {
    const TEST: &str = "a_project_on_another_filesystem_is_read_once";
    let Some(other) = Scratch::elsewhere() else {
        return not_run(TEST, "there is only one filesystem here");
    };
    let scratch = Scratch::new();
    let project = other.join("app");
    few(&project);
    let store = Store::init_at(&project, scratch.join("app-2.calve")).unwrap();
    let start = |name: &str| store.start(&[name], &StartOptions::new(), &common()).unwrap();
    let first = start("one");
    assert_eq!(first.worktrees[0].report.path, scratch.join("app-2.worktrees/one"));
    let second = start("two").taken.unwrap();
    assert_eq!(second.read_files, 0);
    fs::write(project.join("d1/new"), "one more").unwrap();
    let third = start("three").taken.unwrap();
    assert_eq!((third.read_files, third.read_bytes), (1, 8));
    let w = Store::discover(scratch.join("app-2.worktrees/three/d1")).unwrap();
    assert_eq!(w.worktree().unwrap().status(&common()).unwrap().changes, []);
    assert!(scratch.join("app-2.worktrees/three/d1/new").is_file());
}

//! Promise: a store that was found, and not named, is used only where it is the user's own, or
//! root's, and of the folder that it is in. A mark counts only where it is theirs, too.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use crate::common;
use crate::common::{NOBODY, Scratch, as_nobody, is_root, not_run};
use crate::maintained::{Project, common, few};
use calve::{
    DropOptions, ErrorKind, SnapshotOptions, StartOptions, Store, SwitchOptions, WorktreeState,
};

#[test]
fn a_store_of_another_user_is_refused_where_it_was_found_and_opened_where_it_is_named() {
    const TEST: &str = "a_store_of_another_user_is_refused_where_it_was_found";
    if !is_root() {
        return not_run(TEST, "only root can give files away");
    }
    // Who owns the store, who asks, and whether it is refused.
    for (owner, by_nobody, refused) in [
        (0, false, false),
        (NOBODY, false, true),
        (12345, false, true),
        (0, true, false),
        (NOBODY, true, false),
        (12345, true, true),
    ] {
        let row =
            format!("{owner}'s store, asked for by {}", if by_nobody { "nobody" } else { "root" });
        let scratch = Scratch::new();
        let path = scratch.join("project");
        few(&path);
        let store = {
            let store = Store::init(&path).unwrap();
            let options = StartOptions::new().at(scratch.join("at"));
            store.start(&["w"], &options, &common()).unwrap();
            store.path().to_owned()
            // Close the store: while it is open, it contains files that only its owner can take
            // over.
        };
        let worktree = scratch.join("at/w");
        // Give `nobody` the right to read all of it.
        common::sh(std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(scratch.path()));
        chown(&store, Some(owner), None).unwrap();
        let look = || {
            for folder in [&path, &path.join("d1"), &worktree, &worktree.join("d1")] {
                let found = Store::discover(folder);
                if !refused {
                    found.unwrap_or_else(|error| panic!("{row}, {folder:?}: {error:?}"));
                    continue;
                }
                let error = found.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::StoreUntrusted, "{row}, {folder:?}: {error:?}");
                assert_eq!(fs::canonicalize(error.path()).unwrap(), store, "{row}, {folder:?}");
                assert!(error.to_string().contains(&format!("uid {owner}")), "{row}: {error}");
                // A user who names the store can use it, and finds its contents.
                let named = Store::open(&store).unwrap();
                let place = named.find(folder).unwrap();
                assert!(folder.starts_with(&place.root), "{row}, {folder:?}: {place:?}");
                place.worktree().unwrap().status(&common()).unwrap();
            }
        };
        if by_nobody {
            let seen = as_nobody(|| {
                let seen = fs::metadata(&store).is_ok();
                if seen {
                    look();
                }
                seen
            });
            if !seen {
                not_run(TEST, "nobody may not look where the tests run");
            }
        } else {
            look();
        }
        let _ = fs::set_permissions(&store, fs::Permissions::from_mode(0o700));
    }
}

/// Whatever a folder brings along, from an archive for instance, speaks of that folder alone:
/// `reset` removed and replaced files wherever the store said that its project is.
#[test]
fn a_store_that_says_it_is_of_another_folder_is_refused_where_it_was_found() {
    let project = Project::new(few);
    project.snapshot();
    let elsewhere = Scratch::new();
    let set = |path: &std::path::Path| {
        let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
        let text = path.to_str().unwrap().as_bytes();
        db.execute("UPDATE worktrees SET path = ?1 WHERE name = '.'", [text]).unwrap();
    };
    for (path, refused) in [
        (project.path.as_path(), false),
        (&project.path.join("d1"), false),
        (elsewhere.path(), true),
        (project.scratch.path(), true),
        (std::path::Path::new("/"), true),
        (std::path::Path::new("relative"), true),
        (&project.path.join("../outside"), true),
    ] {
        set(path);
        match Store::discover(&project.path) {
            Ok(place) => assert!(!refused, "{path:?}: {place:?}"),
            Err(error) => {
                assert!(refused, "{path:?}: {error:?}");
                assert_eq!(error.kind(), ErrorKind::StoreUntrusted, "{path:?}: {error:?}");
            }
        }
        Store::open(project.store.path()).unwrap().find(&project.path).unwrap();
    }
}

/// The story: another user had read the token of root's worktree, which was deleted, and wrote a
/// mark with it into a shared folder. The next command of root's below that folder made the folder
/// the worktree, and `drop --force` removed it with everybody's files.
#[test]
fn a_planted_mark_moves_no_row_and_a_worktree_moves_only_to_a_folder_of_its_own() {
    const TEST: &str = "a_planted_mark_moves_no_row";
    if !is_root() {
        return not_run(TEST, "only root can give files away");
    }
    // Who owns the root, calve's folder in it and the mark; the mode of the root; whether the row
    // moves.
    for (root, own, mark, mode, moves) in [
        (0, NOBODY, NOBODY, 0o1777, false),
        (0, NOBODY, NOBODY, 0o755, false),
        (0, 0, NOBODY, 0o755, false),
        (0, NOBODY, 0, 0o755, false),
        (NOBODY, 0, 0, 0o755, false),
        (0, 0, 0, 0o1777, false),
        (0, 0, 0, 0o777, false),
        (0, 0, 0, 0o775, true),
        (0, 0, 0, 0o755, true),
    ] {
        let row = format!("{root} {own} {mark} {mode:o}");
        let scratch = Scratch::new();
        let path = scratch.join("project");
        few(&path);
        let store = Store::init(&path).unwrap();
        let options = StartOptions::new().at(scratch.join("at"));
        store.start(&["w"], &options, &common()).unwrap();
        let known = scratch.join("at/w");
        let shared = scratch.join("shared");
        fs::create_dir_all(shared.join(".calve")).unwrap();
        fs::create_dir(shared.join("theirs")).unwrap();
        fs::write(shared.join(".calve/worktree"), fs::read(known.join(".calve/worktree")).unwrap())
            .unwrap();
        chown(shared.join(".calve/worktree"), Some(mark), None).unwrap();
        chown(shared.join(".calve"), Some(own), None).unwrap();
        chown(&shared, Some(root), None).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        fs::remove_dir_all(&known).unwrap();
        let found = || Store::discover(shared.join("theirs")).and_then(|place| place.worktree());
        let found = [found(), store.find(&shared).and_then(|place| place.worktree())];
        for found in found {
            assert_eq!(found.is_ok(), moves, "{row}: {found:?}");
            let Err(error) = found else { continue };
            assert_eq!(error.kind(), ErrorKind::StoreUntrusted, "{row}: {error}");
            let why = if mode == 0o755 { "uid 65534" } else { "" };
            assert!(error.to_string().contains(why), "{row}: {error}");
        }
        let now = if moves { &shared } else { &known };
        let worktree = store.worktree("w").unwrap();
        assert_eq!(worktree.path(), now, "{row}");
        // Another folder in the worktree's place, with the same mark, is not the worktree.
        if mark == NOBODY || own == NOBODY {
            fs::rename(&shared, &known).unwrap();
            assert_eq!(worktree.state().unwrap(), WorktreeState::Missing, "{row}");
            let refused = worktree.reset(&common()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::WorktreeMissing, "{row}: {refused}");
            worktree.drop(&DropOptions::new().force(true), &common()).unwrap().delete().unwrap();
            assert!(known.join("theirs").is_dir(), "{row}");
        }
    }
}

#[test]
fn a_planted_pointer_moves_no_project_and_marks_are_private() {
    const TEST: &str = "a_planted_pointer_moves_no_project";
    if !is_root() {
        return not_run(TEST, "only root can give files away");
    }
    let scratch = Scratch::new();
    let (path, shared) = (scratch.join("project"), scratch.join("shared"));
    few(&path);
    let store = Store::init_at(&path, scratch.join("s.calve")).unwrap();
    store.point_project().unwrap();
    store.start(&["w"], &StartOptions::new().at(scratch.join("at")), &common()).unwrap();
    for mark in [path.join(".calve/project"), scratch.join("at/w/.calve/worktree")] {
        let mode = fs::metadata(&mark).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{mark:?}");
    }
    fs::create_dir_all(shared.join(".calve")).unwrap();
    fs::rename(path.join(".calve/project"), shared.join(".calve/project")).unwrap();
    for (owner, mode, moves) in [(NOBODY, 0o755, false), (0, 0o1777, false), (0, 0o755, true)] {
        chown(shared.join(".calve/project"), Some(owner), None).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(Store::discover(&shared).is_ok(), moves, "{owner} {mode:o}");
        assert_eq!(store.project().unwrap() == shared, moves, "{owner} {mode:o}");
    }
}

/// Root restores a tree in a user's store. Its lock, the files that were moved aside and the folders
/// of new contents were root's.
#[test]
fn what_root_makes_in_a_users_store_is_the_users() {
    const TEST: &str = "what_root_makes_in_a_users_store_is_the_users";
    if !is_root() {
        return not_run(TEST, "only root can give files away");
    }
    let scratch = Scratch::new();
    let path = scratch.join("project");
    few(&path);
    let made = Store::init(&path).unwrap().path().to_owned();
    let store = Store::open(&made).unwrap();
    store.snapshot(&SnapshotOptions::new().name("first"), &common()).unwrap();
    common::sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&path));
    for number in 0..64 {
        fs::write(path.join(format!("d1/new{number}")), vec![number; 5000]).unwrap();
    }
    let store = Store::open(&made).unwrap();
    store.snapshot(&SnapshotOptions::new(), &common()).unwrap();
    fs::create_dir_all(path.join("d1/deep/er")).unwrap();
    fs::write(path.join("d1/deep/er/work"), "work").unwrap();
    let first = store.resolve("first").unwrap();
    let project = store.project_worktree().unwrap();
    project.switch(first, &SwitchOptions::new().force(true), &common()).unwrap();
    for folder in ["locks", "trees", "blobs"] {
        let mut command = std::process::Command::new("find");
        command.arg(made.join(folder)).args(["-uid", "0", "(", "-type", "d", "-o", "-path"]);
        let found = command.args(["*/locks/*", "-o", "-name", "record", ")"]).output().unwrap();
        assert!(found.status.success(), "{found:?}");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    }
}

/// Root works for a user whose store it named. The user can go on in the worktree.
#[test]
fn a_mark_that_root_makes_in_a_users_store_is_the_users() {
    const TEST: &str = "a_mark_that_root_makes_in_a_users_store_is_the_users";
    if !is_root() {
        return not_run(TEST, "only root can give files away");
    }
    let scratch = Scratch::new();
    let path = scratch.join("project");
    few(&path);
    let made = Store::init(&path).unwrap().path().to_owned();
    common::sh(std::process::Command::new("chown").arg("-R").arg(NOBODY.to_string()).arg(&path));
    // Who may write to the store, the mode of the mark, and its group.
    for (mode, name, expected) in [(0o700, "w", (0o600, 0)), (0o2770, "v", (0o640, 12345))] {
        chown(&made, None, Some(12345)).unwrap();
        fs::set_permissions(&made, fs::Permissions::from_mode(mode)).unwrap();
        let store = Store::open(&made).unwrap();
        store.start(&[name], &StartOptions::new().at(scratch.join("at")), &common()).unwrap();
        let mark = fs::metadata(scratch.join("at").join(name).join(".calve/worktree")).unwrap();
        assert_eq!((mark.mode() & 0o7777, mark.gid()), expected, "{name}");
        assert_eq!(mark.uid(), NOBODY, "{name}");
        assert_eq!(store.worktree(name).unwrap().state().unwrap(), WorktreeState::Ready, "{name}");
    }
}

//! Promise: a store that was found, and not named, is used only where it is the user's own, or
//! root's, and of the folder that it is in.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use calve::{ErrorKind, StartOptions, Store};
use common::maintained::{Project, common, few};
use common::{NOBODY, Scratch, as_nobody, is_root, not_run};

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

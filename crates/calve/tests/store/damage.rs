//! Promise: calve never serves damaged content. It names the content with the paths that need it,
//! and mends it if it can.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use crate::common;
use crate::common::snapshot::{Snapshot, assert_same};
use crate::common::{Scratch, as_nobody, is_root, names, not_run};
use crate::maintained::{Project, at_once, common, few, tree};
use calve::{
    DamageKind, DropOptions, ErrorKind, PackOptions, SnapshotId, SnapshotOptions, Store,
    VerifyOptions, VerifyReport,
};

const CONTENT: &[u8] = b"the content that is damaged";

/// The place of the damage, and the rest of the store's state.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Mirror,
    MirrorBesidePack,
    Pack,
    PackBesideMirror,
    Trailer,
    Index,
    Directory,
    Snapshot,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    Flip,
    Truncate,
    Delete,
    Link,
    Close,
}

/// The result of a start.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Exact,
    Refused,
}

fn damaged_project(place: Place) -> (Project, SnapshotId, Snapshot) {
    let project = Project::new(|root| {
        few(root);
        fs::write(root.join("d1/damaged"), CONTENT).unwrap();
    });
    let id = project.snapshot();
    if matches!(
        place,
        Place::Pack | Place::PackBesideMirror | Place::MirrorBesidePack | Place::Trailer
    ) {
        // One thread, so one pack.
        let one = common().jobs(1.try_into().unwrap());
        project.store.pack(&PackOptions::new().all(true), &one).unwrap();
    }
    if matches!(place, Place::PackBesideMirror | Place::MirrorBesidePack) {
        project.store.warm(&[id], &common()).unwrap();
    }
    let expected = tree(&project.path);
    (project, id, expected)
}

fn damage(project: &Project, id: SnapshotId, place: Place, action: Action) {
    let only_in = |folder: &str| {
        let folder = project.file(folder);
        folder.join(&names(&folder)[0])
    };
    let path = match place {
        Place::Mirror | Place::MirrorBesidePack => project.mirror(CONTENT),
        Place::Pack | Place::PackBesideMirror | Place::Trailer => only_in("packs"),
        Place::Index => only_in("indexes"),
        Place::Directory | Place::Snapshot => return damage_row(project, id, place, action),
    };
    match action {
        Action::Delete => fs::remove_file(&path).unwrap(),
        Action::Link => {
            let aside = project.scratch.join("aside");
            fs::rename(&path, &aside).unwrap();
            symlink(&aside, &path).unwrap();
        }
        Action::Close => fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap(),
        Action::Flip | Action::Truncate => {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            let mut content = fs::read(&path).unwrap();
            let at = match place {
                // In the frame of the content, behind its header.
                Place::Pack | Place::PackBesideMirror => {
                    let id = blake3::hash(CONTENT);
                    let entry = content.windows(32).position(|part| part == id.as_bytes()).unwrap();
                    entry + 48 + 8
                }
                Place::Trailer => content.len() - 60,
                _ => content.len() / 2,
            };
            if action == Action::Flip {
                content[at] ^= 0x10;
            } else {
                content.truncate(at);
            }
            fs::write(&path, content).unwrap();
        }
    }
}

fn damage_row(project: &Project, id: SnapshotId, place: Place, action: Action) {
    let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
    let (table, column) = match place {
        Place::Directory => ("directories", "encoding"),
        _ => ("snapshots", "object"),
    };
    let key: Vec<u8> = if place == Place::Directory {
        // The one that has the file.
        let find = "SELECT id FROM directories WHERE instr(encoding, CAST('damaged' AS BLOB)) > 0";
        db.query_row(find, [], |row| row.get(0)).unwrap()
    } else {
        id.as_bytes().to_vec()
    };
    let value: Vec<u8> = db
        .query_row(&format!("SELECT {column} FROM {table} WHERE id = ?1"), [&key], |row| row.get(0))
        .unwrap();
    let mut changed = value.clone();
    match action {
        Action::Flip => changed[value.len() / 2] ^= 0x10,
        Action::Truncate => changed.truncate(value.len() / 2),
        _ => {
            db.execute(&format!("DELETE FROM {table} WHERE id = ?1"), [&key]).unwrap();
            return;
        }
    }
    db.execute(&format!("UPDATE {table} SET {column} = ?2 WHERE id = ?1"), (&key, &changed))
        .unwrap();
}

/// A row of the table: the result of a start, the findings of verify (and whether each is lost),
/// whether a repair mends them, and the result of a start after that.
type Row = (Place, Action, Start, &'static [(DamageKind, bool)], bool, Start);

const ROWS: &[Row] = {
    use Action::{Close, Delete, Flip, Link, Truncate};
    use DamageKind as D;
    use Place::*;
    use Start::{Exact, Refused};
    const LOST: &[(D, bool)] = &[(D::Mirror, true)];
    const BAD: &[(D, bool)] = &[(D::Mirror, false)];
    const ENTRY: &[(D, bool)] = &[(D::Packed, true)];
    const ENTRY_ONLY: &[(D, bool)] = &[(D::Packed, false)];
    const PACK_LOST: &[(D, bool)] = &[(D::Packed, true), (D::Pack, false)];
    const PACK_ONLY: &[(D, bool)] = &[(D::Packed, false), (D::Pack, false)];
    const NOTHING: &[(D, bool)] = &[];
    &[
        (Mirror, Flip, Refused, LOST, false, Refused),
        (Mirror, Truncate, Refused, LOST, false, Refused),
        (Mirror, Delete, Refused, &[(D::Missing, true)], false, Refused),
        (Mirror, Link, Refused, LOST, false, Refused),
        (Mirror, Close, Refused, LOST, true, Exact),
        (MirrorBesidePack, Flip, Exact, BAD, true, Exact),
        (MirrorBesidePack, Truncate, Exact, BAD, true, Exact),
        (MirrorBesidePack, Delete, Exact, NOTHING, true, Exact),
        (MirrorBesidePack, Link, Exact, BAD, true, Exact),
        (MirrorBesidePack, Close, Exact, BAD, true, Exact),
        (Pack, Flip, Refused, ENTRY, false, Refused),
        (Pack, Truncate, Refused, PACK_LOST, false, Refused),
        (Pack, Delete, Refused, PACK_LOST, false, Refused),
        (Pack, Link, Refused, PACK_LOST, false, Refused),
        (Pack, Close, Refused, PACK_LOST, true, Exact),
        (PackBesideMirror, Flip, Exact, ENTRY_ONLY, true, Exact),
        (PackBesideMirror, Truncate, Exact, PACK_ONLY, true, Exact),
        (PackBesideMirror, Delete, Exact, PACK_ONLY, true, Exact),
        (PackBesideMirror, Link, Exact, PACK_ONLY, true, Exact),
        (Trailer, Flip, Exact, &[(D::Pack, false)], true, Exact),
        (Trailer, Truncate, Exact, &[(D::Pack, false)], true, Exact),
        (Index, Flip, Exact, &[(D::Index, false)], true, Exact),
        (Index, Truncate, Exact, &[(D::Index, false)], true, Exact),
        (Index, Delete, Exact, NOTHING, true, Exact),
        (Directory, Flip, Refused, &[(D::Directory, true)], false, Refused),
        (Directory, Truncate, Refused, &[(D::Directory, true)], false, Refused),
        (Directory, Delete, Refused, &[(D::Directory, true)], false, Refused),
        (Snapshot, Flip, Refused, &[(D::Snapshot, true)], false, Refused),
        (Snapshot, Truncate, Refused, &[(D::Snapshot, true)], false, Refused),
    ]
};

fn check_start(
    (project, id, tree_was): &(Project, SnapshotId, Snapshot),
    store: &Store,
    expected: Start,
    row: &str,
) {
    let id = *id;
    match (project.start_in(store, id), expected) {
        (Ok(found), Start::Exact) => assert_same(tree_was, &found, row),
        (Err(error), Start::Refused) => {
            assert!(
                matches!(error.kind(), ErrorKind::Damaged | ErrorKind::PermissionDenied),
                "{row}: {error:?}"
            );
            assert!(error.path().starts_with(store.path()), "{row}: {error:?}");
        }
        (result, _) => panic!("{row}: a start gives {result:?}, not {expected:?}"),
    }
}

/// `kept`: the files that were stored are still in the project.
fn check_row(row: &Row, kept: bool) {
    let &(place, action, first, found, mended, then) = row;
    let text =
        format!("{action:?} {place:?}, the files are {}", if kept { "there" } else { "gone" });
    let of_content = !matches!(place, Place::Directory | Place::Snapshot);
    // calve takes in again a content that still exists at its path.
    let (mended, then) = if kept && of_content { (true, Start::Exact) } else { (mended, then) };
    let make = || {
        let made = damaged_project(place);
        damage(&made.0, made.1, place, action);
        if !kept {
            for folder in ["d0", "d1", "d2"] {
                fs::remove_dir_all(made.0.path.join(folder)).unwrap();
            }
        }
        // Like another process.
        let store = Store::open(made.0.store.path()).unwrap();
        (made, store)
    };
    let (made, store) = make();
    check_start(&made, &store, first, &text);

    let (made, store) = make();
    let id = made.1;
    let told = |report: &VerifyReport| {
        let mut told: Vec<_> =
            report.damage.iter().map(|damage| (damage.kind, damage.lost)).collect();
        told.dedup();
        told
    };
    let report = store.verify(&VerifyOptions::new(), &common()).unwrap();
    assert_eq!(told(&report), found, "{text}: {:#?}", report.damage);
    for damage in &report.damage {
        assert!(!damage.repaired, "{text}");
        if damage.blob.is_some_and(|blob| blob.as_bytes() == blake3::hash(CONTENT).as_bytes()) {
            assert_eq!(damage.places, [(id, PathBuf::from("d1/damaged"))], "{text}: {damage:?}");
        }
        if damage.kind == DamageKind::Directory {
            assert_eq!(damage.places, [(id, PathBuf::from("d1"))], "{text}: {damage:?}");
        }
        assert!(damage.path.starts_with(store.path()), "{text}: {damage:?}");
    }

    let report = store.verify(&VerifyOptions::new().repair(true), &common()).unwrap();
    assert!(!report.busy, "{text}");
    assert_eq!(told(&report), found, "{text}: mending finds the same");
    for damage in &report.damage {
        assert_eq!(damage.repaired, mended, "{text}: {damage:?}");
    }
    let again = Store::open(made.0.store.path()).unwrap();
    let report = again.verify(&VerifyOptions::new(), &common()).unwrap();
    assert_eq!(report.damage.is_empty(), mended, "{text}: {:#?}", report.damage);
    assert_eq!(report.unsealed_mirrors, 0, "{text}");
    check_start(&made, &again, then, &format!("{text}, mended"));
}

#[test]
fn damage_is_never_served_is_named_with_its_paths_and_is_mended_where_it_can_be() {
    for row in ROWS {
        if row.1 == Action::Close && common::is_root() {
            // Root can read closed files.
            #[cfg(target_os = "linux")]
            {
                let tried = common::as_nobody(|| {
                    let dir = std::env::var_os("CALVE_TEST_DIR");
                    let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
                    let may_write = tempfile::tempdir_in(dir).is_ok();
                    if may_write {
                        check_row(row, false);
                        check_row(row, true);
                    }
                    may_write
                });
                if !tried {
                    // Said as root, to whom the list of these belongs.
                    let test = "damage_is_never_served_is_named_with_its_paths_and_is_mended_where_it_can_be";
                    let why = "nobody may not write where the tests run: closed files";
                    common::not_run(test, why);
                }
                continue;
            }
        }
        check_row(row, false);
        check_row(row, true);
    }
}

/// The database has lost the snapshot that the project is based on, or a part of it, and could not
/// take another.
#[test]
fn a_project_with_a_damaged_snapshot_can_take_the_next_and_heals_what_it_stores_again() {
    for place in [Place::Directory, Place::Snapshot] {
        for action in [Action::Flip, Action::Truncate, Action::Delete] {
            let text = format!("{action:?} {place:?}");
            let (project, id, expected) = damaged_project(place);
            damage(&project, id, place, action);
            let error = project.store.gc(&at_once(), &common());
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Damaged, "{text}");
            let next =
                project.store.snapshot(&SnapshotOptions::new().message("next"), &common()).unwrap();
            assert_eq!(project.store.show(next.id).unwrap().parent, Some(id), "{text}");
            assert_same(&expected, &project.start(next.id).unwrap(), &text);
            if place == Place::Directory {
                assert_same(&expected, &project.start(id).unwrap(), &text);
                project.assert_sound();
                project.gc();
            }
        }
    }
}

#[test]
fn a_pack_that_the_database_forgot_is_taken_over_where_it_has_what_is_lost() {
    let (project, id, expected) = damaged_project(Place::Pack);
    let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
    db.execute_batch("DELETE FROM packed; DELETE FROM packs").unwrap();
    fs::remove_dir_all(project.path.join("d1")).unwrap();
    assert_eq!(project.start(id).unwrap_err().kind(), ErrorKind::Damaged);
    let report = project.verify();
    assert_eq!(report.damage.len(), 13, "{report:#?}");
    assert!(report.damage.iter().all(|damage| damage.kind == DamageKind::Missing && damage.lost));
    // A collection leaves it alone.
    assert_eq!(project.gc().packs, 0);
    let report = project.store.verify(&VerifyOptions::new().repair(true), &common()).unwrap();
    assert!(report.damage.iter().all(|damage| damage.repaired), "{report:#?}");
    project.assert_sound();
    assert_same(&expected, &project.start(id).unwrap(), "taken over");
}

/// Files are called by a worktree's token. With one of a prepared database, to drop a worktree that
/// was missing removed whatever file it led to.
#[test]
fn a_token_in_the_database_leads_nowhere() {
    let project = Project::new(few);
    let id = project.snapshot();
    let victim = project.path.join("d1");
    project.store.start(&["w"], &calve::StartOptions::new().from(id), &common()).unwrap();
    let worktree = project.store.worktree("w").unwrap();
    let db = rusqlite::Connection::open(project.file("index.db")).unwrap();
    for token in ["", "../../d1/victim", "/", "ab.."] {
        let set = "UPDATE worktrees SET token = ?1 WHERE name = 'w'";
        fs::write(victim.join("victim"), "here").unwrap();
        db.execute(set, [token]).unwrap();
        for error in [
            project.store.worktree("w").map(drop),
            project.store.worktrees().map(drop),
            worktree.clone().drop(&DropOptions::new().force(true), &common()).map(drop),
        ] {
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Damaged, "{token:?}");
        }
        assert!(victim.join("victim").try_exists().unwrap(), "{token:?}");
    }
}

/// A process died after its worktree had its name and before the store knew that it was whole.
#[test]
fn a_worktree_is_not_forgotten_because_its_marker_cannot_be_read_now() {
    if !is_root() {
        return not_run("a_worktree_is_not_forgotten…", "only root can become another user");
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    as_nobody(|| {
        let project = scratch.join("project");
        few(&project);
        let store = Store::init(&project).unwrap();
        let started = store.start(&["w"], &calve::StartOptions::new(), &common()).unwrap();
        let own = started.worktrees[0].report.path.join(".calve");
        let db = rusqlite::Connection::open(store.path().join("index.db")).unwrap();
        let died = "UPDATE worktrees SET state = 0, maker = '', created = 0 WHERE name = 'w'";
        assert_eq!(db.execute(died, []).unwrap(), 1);
        drop((store, db));
        for (mode, name) in [(0, "another"), (0o755, "third")] {
            fs::set_permissions(&own, fs::Permissions::from_mode(mode)).unwrap();
            let store = Store::open(project.join(".calve")).unwrap();
            let _ = store.start(&[name], &calve::StartOptions::new(), &common()).unwrap();
        }
        let store = Store::open(project.join(".calve")).unwrap();
        let worktree = store.worktree("w").unwrap();
        assert_eq!(worktree.status(&common()).unwrap().changes.len(), 0);
    });
}

/// The story: a pipe in the place of the store's `reserve` let `gc` wait for ever.
#[test]
fn a_pipe_in_the_place_of_any_file_keeps_nobody_waiting() {
    let made = || {
        let project = Project::new(few);
        project.snapshot();
        project.store.pack(&PackOptions::new().all(true), &common()).unwrap();
        fs::write(project.path.join("more"), "more").unwrap();
        let how = calve::StartOptions::new().at(project.scratch.join("worktrees"));
        project.store.start(&["w0"], &how, &common()).unwrap();
        project
    };
    // All files that there are, but of each folder of contents one.
    let mut files = Vec::new();
    let project = made();
    let worktree = std::path::Path::new("worktrees/w0/.calve");
    for folder in [project.path.join(".calve"), project.scratch.join(worktree)] {
        let list =
            "find . -type f | sed -E 's,^./,,' | awk -F/ '!seen[$1 == \"blobs\" ? $1 : $0]++'";
        let found =
            common::sh(std::process::Command::new("sh").args(["-c", list]).current_dir(&folder));
        files.extend(found.lines().map(|name| (folder.ends_with(worktree), name.to_owned())));
    }
    drop(project);
    assert!(files.len() > 15, "{files:?}");
    for (of_worktree, name) in files {
        let Project { scratch, path, store, .. } = made();
        drop(store);
        let root = scratch.path().to_owned();
        let folder = if of_worktree { root.join(worktree) } else { path.join(".calve") };
        // Names that are random are others in each store.
        let file = match folder.join(&name) {
            file if common::is_there(&file) => file,
            file => {
                let folder = file.parent().filter(|folder| folder.is_dir());
                let Some(first) = folder.map(names).and_then(|names| names.first().cloned()) else {
                    continue;
                };
                file.with_file_name(first)
            }
        };
        if !file.is_file() {
            continue;
        }
        fs::remove_file(&file).unwrap();
        common::sh(std::process::Command::new("mkfifo").arg(&file));
        // Each may fail or succeed; it must end.
        common::within(std::time::Duration::from_secs(60), move || {
            let Ok(store) = Store::open(path.join(".calve")) else { return };
            let _ = store.gc(&calve::GcOptions::new(), &common());
            let _ = store.verify(&VerifyOptions::new(), &common());
            let _ = store.snapshot(&SnapshotOptions::new(), &common());
            let _ = store.start(&["next"], &calve::StartOptions::new(), &common());
            let _ = store.worktree("w0").map(|worktree| {
                let _ = worktree.status(&common());
                let _ = worktree.reset(&common());
            });
        });
    }
}

//! Tests worktrees that appear before calve has read any content. They behave like every other
//! worktree, their contents get names later, and calve neither loses nor hides anything that
//! somebody wrote in the meantime.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::{
    DropOptions, ErrorKind, GcOptions, GitMode, GitOutcome, SnapshotId, SnapshotOptions,
    StartOptions, StartReport, Store, SwitchOptions, VerifyOptions, Worktree,
};
use proptest::prelude::*;

use crate::common;
use crate::common::snapshot::assert_same;
use crate::common::{NOBODY, Scratch, as_nobody, expects_reflink, not_run, sh};
use crate::stores::{
    Desk, after_a_tick, assert_sound, fails, options, put, set_mode, small_project, status, tree,
};

/// Whether starts here can read the contents later. If calve must copy files, it reads them anyway.
fn can_wait() -> bool {
    let can = expects_reflink(Scratch::new().path());
    if !can {
        not_run("contents that are named later", "files cannot be cloned here");
    }
    can
}

fn later() -> StartOptions {
    StartOptions::new().name_later(0)
}

fn start(desk: &Desk, names: &[&str]) -> StartReport {
    desk.store.start(names, &later(), &options()).unwrap()
}

/// Starts them, and fails if their contents have names.
#[track_caller]
fn unnamed(desk: &Desk, names: &[&str]) -> Vec<Worktree> {
    let report = start(desk, names);
    assert_eq!(report.snapshot, None);
    assert!(report.taken.is_none());
    assert!(desk.store.has_unnamed_contents().unwrap());
    let worktrees = names.iter().map(|name| desk.store.worktree(name).unwrap());
    let worktrees: Vec<Worktree> = worktrees.collect();
    assert!(worktrees.iter().all(|worktree| worktree.snapshot().is_none()));
    worktrees
}

/// Names everything. Returns the one snapshot, and the number of files that no tree had any more.
#[track_caller]
fn name(desk: &Desk) -> (SnapshotId, u64) {
    let report = desk.store.name_contents(&options()).unwrap();
    assert!(!report.stopped && !desk.store.has_unnamed_contents().unwrap());
    let [id] = report.snapshots[..] else { panic!("{report:?}") };
    (id, report.changed_files)
}

#[test]
fn contents_are_read_first_if_a_file_is_to_stay_at_home() {
    for (row, path, waits) in [("a secret", "a/.env", false), ("none", "a/env", true)] {
        let desk = Desk::new(|project| put(project, path, "TOKEN=x\n"));
        let options = later().leave_secrets(|_| true);
        let report = desk.store.start(&["w"], &options, &crate::stores::options()).unwrap();
        let tree = &report.worktrees[0].report.path;
        assert_eq!(report.snapshot.is_none(), waits && expects_reflink(tree), "{row}");
        assert_eq!(tree.join(path).try_exists().unwrap(), waits, "{row}");
        assert_eq!(report.left_secrets.len(), usize::from(!waits), "{row}");
        // A secret that comes along is named without a look at any content.
        let report = start(&desk, &["v"]);
        assert_eq!(report.secrets.len(), usize::from(!waits), "{row}");
    }
}

/// The tree of a snapshot.
fn tree_of(desk: &Desk, id: SnapshotId) -> common::snapshot::Snapshot {
    let name = format!("look-{}", &id.to_string()[..8]);
    let worktree = desk.from(&name, id);
    let found = tree(worktree.path());
    drop(worktree.drop(&DropOptions::new().force(true), &options()).unwrap());
    found
}

fn everything(project: &Path) {
    small_project(project);
    fs::hard_link(project.join("README"), project.join("docs/again")).unwrap();
    fs::hard_link(project.join("README"), project.join("src/and-again")).unwrap();
    sh(Command::new("mkfifo").arg(project.join("fifo")));
    fs::write(project.join("zero"), "").unwrap();
    let sparse = fs::File::create(project.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 20).unwrap();
    common::odd::set_xattr(&project.join("run.sh"), "user.note", b"of a file").unwrap();
    common::odd::set_xattr(&project.join("docs"), "user.note", b"of a folder").unwrap();
    set_mode(&project.join("docs/guide"), 0o700);
    set_mode(&project.join("zero"), 0o600);
    common::odd::stamp(project);
}

#[test]
fn worktrees_appear_before_anything_is_read_and_their_base_is_what_a_snapshot_would_have_been() {
    if !can_wait() {
        return;
    }
    let desk = Desk::new(everything);
    let before = tree(&desk.project);
    let worktrees = unnamed(&desk, &["one", "two"]);
    for worktree in &worktrees {
        assert_same(&before, &tree(worktree.path()), worktree.name());
    }
    let files = || fs::read_dir(desk.store.path().join("blobs")).unwrap().count();
    assert_eq!(files(), 0, "nothing was read");
    let (id, changed) = name(&desk);
    assert_eq!(changed, 0);
    for worktree in &worktrees {
        assert_eq!(desk.store.worktree(worktree.name()).unwrap().snapshot(), Some(id));
        assert_eq!(status(worktree), [""; 0]);
    }
    // A snapshot of the project is the same one, and nothing is read for it.
    let again = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!((again.id, again.new, again.read_files), (id, false, 0));
    assert_same(&before, &tree_of(&desk, id), "a worktree of the base");
    assert_sound(&desk.store);
    let nothing = desk.store.name_contents(&options()).unwrap();
    assert!(nothing.snapshots.is_empty());
}

#[test]
fn what_a_clone_would_not_bring_as_a_snapshot_does_is_read_first() {
    if !can_wait() {
        return;
    }
    type Fill = fn(&Path);
    let rows: &[(&str, Fill)] = &[
        ("an environment", |root| put(root, "web/.venv/pyvenv.cfg", "home = /usr/bin\n")),
        ("ignore rules", |root| put(root, "docs/.calveignore", "*.log\n")),
        ("a database and its log", |root| {
            put(root, "app.db", "SQLite format 3\0");
            put(root, "app.db-wal", "log");
        }),
        ("a database and its journal", |root| {
            put(root, "app.db", "SQLite format 3\0");
            put(root, "app.db-journal", "");
        }),
        ("a link to its own root", |root| symlink(root.join("src"), root.join("link")).unwrap()),
        ("a submodule", |root| put(root, "sub/.git", "gitdir: ../.git/modules/sub\n")),
        ("a socket", |root| {
            std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        }),
    ];
    for (what, fill) in rows {
        let desk = Desk::small();
        fill(&desk.project);
        let report = start(&desk, &["one"]);
        assert!(report.snapshot.is_some() && report.taken.is_some(), "{what}");
        assert!(!desk.store.has_unnamed_contents().unwrap(), "{what}");
        assert_eq!(status(&desk.store.worktree("one").unwrap()), [""; 0], "{what}");
        assert_eq!(common::names(&desk.folder()), ["one"], "{what}");
    }
    // If the store knows the project, calve reads only the changed files.
    let desk = Desk::small();
    desk.snapshot();
    assert!(start(&desk, &["one"]).snapshot.is_some());
    // calve reads a small project at once.
    let desk = Desk::small();
    let small = StartOptions::new().name_later(1 << 20);
    assert!(desk.store.start(&["one"], &small, &options()).unwrap().snapshot.is_some());
}

#[test]
fn every_operation_that_needs_the_base_names_it_first() {
    if !can_wait() {
        return;
    }
    type Operation = fn(&Desk, &Worktree);
    let rows: &[(&str, Operation)] = &[
        ("status", |_, one| assert_eq!(status(one), ["M README"])),
        ("diff", |_, one| assert_eq!(one.diff(&options()).unwrap().files.len(), 1)),
        ("capture", |_, one| {
            let report = one.capture(&SnapshotOptions::new(), &options()).unwrap();
            assert!(report.new && report.read_files == 1, "{report:?}");
        }),
        ("reset", |_, one| {
            one.reset(&options()).unwrap();
            assert_eq!(fs::read_to_string(one.path().join("README")).unwrap(), "one\ntwo\nthree\n");
            one.undo(&options()).unwrap();
            assert_eq!(fs::read_to_string(one.path().join("README")).unwrap(), "mine");
        }),
        ("switch", |desk, one| {
            let two = desk.store.worktree("two").unwrap();
            put(two.path(), "new", "new");
            let to = two.capture(&SnapshotOptions::new(), &options()).unwrap().id;
            one.switch(to, &SwitchOptions::new(), &options()).unwrap();
            assert_eq!(status(one), ["M README"]);
        }),
        ("drop", |_, one| {
            let error = one.clone().drop(&DropOptions::new(), &options()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Changed);
        }),
        ("a forced drop, and back", |desk, one| {
            let force = DropOptions::new().force(true);
            drop(one.clone().drop(&force, &options()).unwrap());
            let back = desk.store.restore_dropped("one", "one").unwrap();
            assert_eq!(status(&back), ["M README"]);
        }),
        ("restore", |_, one| {
            fs::remove_dir_all(one.path()).unwrap();
            one.restore(GitMode::None, &options()).unwrap();
            assert_eq!(status(one), [""; 0]);
        }),
        ("a snapshot", |desk, one| {
            let report = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
            assert!(!report.new);
            assert_eq!(desk.store.worktree(one.name()).unwrap().snapshot(), Some(report.id));
        }),
        ("the project's status", |desk, _| {
            assert_eq!(status(&desk.store.project_worktree().unwrap()), [""; 0]);
        }),
        ("the next start", |desk, one| {
            let report = start(desk, &["three"]);
            assert!(report.snapshot.is_some());
            assert_eq!(status(one), ["M README"]);
        }),
    ];
    for (what, operation) in rows {
        println!("{what}");
        let desk = Desk::small();
        let worktrees = unnamed(&desk, &["one", "two"]);
        after_a_tick();
        put(worktrees[0].path(), "README", "mine");
        operation(&desk, &worktrees[0]);
        assert!(!desk.store.has_unnamed_contents().unwrap(), "{what}");
        assert_sound(&desk.store);
    }
}

#[test]
fn what_needs_no_base_leaves_it_unnamed_and_finds_nothing_wrong() {
    if !can_wait() {
        return;
    }
    let desk = Desk::small();
    let one = unnamed(&desk, &["one"]).remove(0);
    assert_eq!(desk.store.worktrees().unwrap().len(), 1);
    assert_eq!(one.state().unwrap(), calve::WorktreeState::Ready);
    assert!(desk.store.log().unwrap().snapshots.is_empty());
    assert_sound(&desk.store);
    let repair = VerifyOptions::new().repair(true);
    assert!(desk.store.verify(&repair, &options()).unwrap().damage.is_empty());
    let at_once = GcOptions::new().grace(std::time::Duration::ZERO);
    desk.store.gc(&at_once, &options()).unwrap();
    desk.store.pack(&calve::PackOptions::new(), &options()).unwrap();
    desk.store.stats().unwrap();
    desk.store.make_ready_trees(&options()).unwrap();
    assert!(desk.store.has_unnamed_contents().unwrap());
    assert_eq!(one.snapshot(), None);
    assert_eq!(status(&one), [""; 0]);
}

#[test]
fn a_start_after_much_changed_reads_only_that_and_only_later() {
    if !can_wait() {
        return;
    }
    let desk = Desk::new(everything);
    let first = desk.snapshot();
    let blobs = || desk.store.stats().unwrap().blobs;
    let before_any = blobs();
    after_a_tick();
    put(&desk.project, "src/new", "new");
    put(&desk.project, "README", "changed");
    fs::remove_file(desk.project.join("zero")).unwrap();
    common::odd::stamp(&desk.project);
    let before = tree(&desk.project);
    let worktrees = unnamed(&desk, &["one", "two"]);
    assert_eq!(blobs(), before_any, "nothing was read");
    for worktree in &worktrees {
        assert_same(&before, &tree(worktree.path()), worktree.name());
    }
    let (id, changed) = name(&desk);
    assert_eq!((changed, desk.store.show(id).unwrap().parent), (0, Some(first)));
    assert_eq!(desk.store.project_worktree().unwrap().snapshot(), Some(id));
    for worktree in &worktrees {
        assert_eq!(status(worktree), [""; 0]);
    }
    let again = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!((again.id, again.new, again.read_files), (id, false, 0));
    assert_same(&before, &tree_of(&desk, id), "a worktree of the base");
    assert_sound(&desk.store);

    // Little changed: that is read at once.
    put(&desk.project, "README", "changed again");
    let little = StartOptions::new().name_later(1000);
    let report = desk.store.start(&["three"], &little, &options()).unwrap();
    assert_eq!(report.taken.unwrap().read_files, 3, "the file and its two other names");
    assert_sound(&desk.store);
}

/// The project's snapshot has `kept` and `file`. `file` is changed before the start, and then each
/// file by the project `p` or the worktree `1`.
#[test]
fn what_the_projects_snapshot_had_is_the_base_unless_somebody_changed_it_during_the_start() {
    if !can_wait() {
        return;
    }
    for who in ["", "p", "1", "p1", "forgotten", "snapshot"] {
        let desk = Desk::new(|project| {
            fs::create_dir(project).unwrap();
            put(project, "kept", "kept");
            put(project, "file", "old");
        });
        desk.snapshot();
        after_a_tick();
        put(&desk.project, "file", "new");
        let one = unnamed(&desk, &["one"]).remove(0);
        let gone = who == "p1" && subvolumes(&desk).is_empty();
        after_a_tick();
        let roots = [("p", desk.project.as_path()), ("1", one.path())];
        for (_, root) in roots.iter().filter(|(it, _)| who.contains(it)) {
            put(root, "kept", "kept no more");
            put(root, "file", "newer");
        }
        if matches!(who, "forgotten" | "snapshot") {
            // The project changes, and nobody needs its old snapshot.
            put(&desk.project, "kept", "other");
            let latest = desk.snapshot();
            if who == "forgotten" {
                let gc = GcOptions::new().grace(std::time::Duration::ZERO);
                let gc = gc.expire(Some(std::time::Duration::ZERO));
                assert_eq!(desk.store.gc(&gc, &options()).unwrap().snapshots.len(), 1);
            }
            assert_eq!(name(&desk).1, 0);
            assert_eq!(desk.store.project_worktree().unwrap().snapshot(), Some(latest));
        } else {
            assert_eq!(name(&desk).1, if gone { 2 } else { 0 }, "{who}");
        }
        let id = desk.store.worktree("one").unwrap().snapshot().unwrap();
        let expected = if gone { ("kept no more", "newer") } else { ("kept", "new") };
        let look = desk.from("look", id);
        let read = |name: &str| fs::read_to_string(look.path().join(name)).unwrap();
        assert_eq!((&*read("kept"), &*read("file")), expected, "{who}");
        let shown: &[&str] = match who {
            "1" | "p1" if !gone => &["M file", "M kept"],
            _ => &[],
        };
        assert_eq!(status(&one), shown, "{who}");
        assert_sound(&desk.store);
    }
}

/// The subvolumes that unnamed worktrees are snapshots of.
fn subvolumes(desk: &Desk) -> Vec<PathBuf> {
    let folder = desk.store.path().join("templates");
    let names = common::names(&folder).into_iter();
    names.filter(|name| name.ends_with(".unnamed")).map(|name| folder.join(name)).collect()
}

fn is_btrfs(path: &Path) -> bool {
    calve::filesystem_name(path).as_deref() == Some("btrfs")
}

#[test]
fn on_btrfs_the_first_start_clones_once_and_leaves_the_ready_tree_of_the_next_ones() {
    if !can_wait() {
        return;
    }
    if !is_btrfs(Scratch::new().path()) {
        return not_run("the first ready tree", "the filesystem has no subvolumes");
    }
    let ready = |desk: &Desk, id: SnapshotId| desk.store.path().join(format!("templates/{id}"));
    let desk = Desk::new(everything);
    let before = tree(&desk.project);
    let report = start(&desk, &["one", "two", "three"]);
    for started in &report.worktrees {
        assert_eq!(started.report.method, calve::Method::Snapshot);
        assert_same(&before, &tree(&started.report.path), &started.name);
    }
    let [kept] = &subvolumes(&desk)[..] else { panic!("{:?}", subvolumes(&desk)) };
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap());
    let first = inode(kept);
    let (id, _) = name(&desk);
    assert_eq!(inode(&ready(&desk, id)), first, "it is the same subvolume");
    assert_eq!((subvolumes(&desk).len(), desk.store.stats().unwrap().ready_trees), (0, 1));
    let report = desk.store.start(&["four"], &later(), &options()).unwrap();
    assert_eq!((report.snapshot, inode(&ready(&desk, id))), (Some(id), first));
    assert_same(&before, &tree(&report.worktrees[0].report.path), "four");
    for worktree in desk.store.worktrees().unwrap() {
        assert_eq!(status(&worktree), [""; 0]);
    }
    assert_sound(&desk.store);

    // Somebody wrote to it before the contents had names, or it has gone.
    type Harm = fn(&Path);
    let rows: &[(&str, Harm)] = &[
        ("written to", |kept| put(kept, "README", "changed")),
        ("gone", |kept| fs::remove_dir_all(kept).unwrap()),
        ("a file", |kept| {
            fs::remove_dir_all(kept).unwrap();
            fs::write(kept, "").unwrap();
        }),
        ("a link", |kept| {
            fs::rename(kept, kept.with_extension("aside")).unwrap();
            symlink(kept.with_extension("aside"), kept).unwrap();
        }),
    ];
    for (what, harm) in rows {
        let desk = Desk::small();
        let before = tree(&desk.project);
        unnamed(&desk, &["one"]);
        after_a_tick();
        harm(&subvolumes(&desk)[0]);
        let (id, changed) = name(&desk);
        assert_eq!((changed, ready(&desk, id).try_exists().unwrap()), (0, false), "{what}");
        assert_eq!(subvolumes(&desk), [""; 0].map(PathBuf::from), "{what}");
        assert_same(&before, &tree_of(&desk, id), what);
        assert_sound(&desk.store);
    }

    // A process that died left one without a record.
    let desk = Desk::small();
    unnamed(&desk, &["one"]);
    let gc = || desk.store.gc(&GcOptions::new(), &options()).unwrap();
    assert_eq!((gc().templates, subvolumes(&desk).len()), (0, 1));
    fs::remove_dir_all(desk.store.path().join("unnamed")).unwrap();
    assert_eq!((gc().templates, subvolumes(&desk).len()), (1, 0));
}

/// What each of several edits did, in turns: `p` in the project, `1` and `2` in the worktrees.
#[test]
fn the_base_is_what_was_cloned_as_long_as_anybody_still_has_it() {
    if !can_wait() {
        return;
    }
    // Who changes the file, the resulting base, and the changes that the worktrees show.
    let rows: &[(&str, &str, &[&str], &[&str])] = &[
        ("", "old", &[], &[]),
        ("p", "old", &[], &[]),
        ("1", "old", &["M file"], &[]),
        ("12", "old", &["M file"], &["M file"]),
        ("p1", "old", &["M file"], &[]),
        ("p12", "new p", &["M file"], &["M file"]),
        ("dp1", "old", &["M file"], &[]),
        ("dp12", "gone", &["A file"], &["A file"]),
    ];
    // On btrfs the store has a tree in which nobody works.
    let of_store = if is_btrfs(Scratch::new().path()) { &[false, true][..] } else { &[false] };
    for ((who, base, in_one, in_two), of_store) in
        rows.iter().flat_map(|row| of_store.iter().map(move |of_store| (row, *of_store)))
    {
        let desk = Desk::new(|project| {
            fs::create_dir(project).unwrap();
            put(project, "file", "old");
            put(project, "other", "as it is");
        });
        let worktrees = unnamed(&desk, &["one", "two"]);
        after_a_tick();
        let (base, in_one, in_two) = match (of_store, *who) {
            (true, "p12") => (&"old", &["M file"][..], &["M file"][..]),
            (true, "dp12") => (&"old", &["M file"][..], &["M file"][..]),
            _ => (base, *in_one, *in_two),
        };
        if !of_store {
            subvolumes(&desk).iter().for_each(|it| fs::remove_dir_all(it).unwrap());
        }
        for letter in who.chars() {
            match letter {
                'd' => {}
                'p' if who.starts_with('d') => fs::remove_file(desk.project.join("file")).unwrap(),
                'p' => put(&desk.project, "file", "new p"),
                '1' => put(worktrees[0].path(), "file", "new 1"),
                _ => put(worktrees[1].path(), "file", "new 2"),
            }
        }
        let now: Vec<_> = worktrees.iter().map(|it| tree(it.path())).collect();
        let project = tree(&desk.project);
        let (id, changed) = name(&desk);
        assert_eq!(changed, u64::from(*base != "old"), "{who}");
        let look = desk.from("look", id);
        let found = fs::read_to_string(look.path().join("file"));
        assert_eq!(found.unwrap_or_else(|_| "gone".to_owned()), *base, "{who}");
        assert_eq!(status(&worktrees[0]), in_one, "{who}");
        assert_eq!(status(&worktrees[1]), in_two, "{who}");
        for (worktree, now) in worktrees.iter().zip(&now) {
            assert_same(now, &tree(worktree.path()), who);
        }
        assert_same(&project, &tree(&desk.project), who);
        let message = desk.store.show(id).unwrap().message;
        assert_eq!(message.is_empty(), changed == 0, "{message}");
        assert_sound(&desk.store);
    }
}

/// Edits that a look at size and time would miss.
#[test]
fn a_holder_that_changed_in_secret_is_no_holder() {
    if !can_wait() {
        return;
    }
    type Edit = fn(&Path);
    let rows: &[(&str, Edit)] = &[
        ("the same size and time", |root| {
            let path = root.join("file");
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "new").unwrap();
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }),
        ("another folder in its place", |root| {
            fs::rename(root.join("dir"), root.join("away")).unwrap();
            sh(Command::new("cp").args(["-a", "away", "dir"]).current_dir(root));
            let path = root.join("dir/file");
            let time = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "new").unwrap();
            fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
        }),
        ("a link in its place", |root| {
            fs::rename(root.join("dir"), root.join("away")).unwrap();
            symlink("away", root.join("dir")).unwrap();
            fs::write(root.join("away/file"), "new").unwrap();
        }),
        ("a writer that had it open", |root| {
            let file = fs::File::options().read(true).write(true).open(root.join("file")).unwrap();
            file.write_all_at(b"new", 0).unwrap();
            std::mem::forget(file);
        }),
    ];
    for (what, edit) in rows {
        for in_project in [true, false] {
            let desk = Desk::new(|project| {
                fs::create_dir(project).unwrap();
                put(project, "file", "old");
                put(project, "dir/file", "old");
            });
            let before = tree(&desk.project);
            let one = unnamed(&desk, &["one"]).remove(0);
            after_a_tick();
            edit(if in_project { &desk.project } else { one.path() });
            let (id, changed) = name(&desk);
            assert_eq!(changed, 0, "{what}, in the project: {in_project}");
            assert_same(&before, &tree_of(&desk, id), what);
            assert_eq!(status(&one).is_empty(), in_project, "{what}");
            assert_sound(&desk.store);
        }
    }
}

#[test]
fn dropped_and_moved_worktrees_are_still_asked_and_what_nobody_needs_goes() {
    if !can_wait() {
        return;
    }
    let desk = Desk::small();
    let before = tree(&desk.project);
    let worktrees = unnamed(&desk, &["one", "two"]);
    after_a_tick();
    put(&desk.project, "README", "changed");
    put(worktrees[0].path(), "README", "changed, too");
    let moved = desk.scratch.join("moved");
    fs::rename(worktrees[1].path(), &moved).unwrap();
    let two = Store::discover(&moved).unwrap().worktree().unwrap();
    assert_eq!(status(&two), [""; 0]);
    assert_same(&before, &tree_of(&desk, two.store().latest().unwrap().unwrap()), "the base");

    // A worktree that is dropped, and its record: nothing is left, and the next start is a first
    // one.
    let desk = Desk::small();
    let one = unnamed(&desk, &["one"]).remove(0);
    fs::remove_dir_all(one.path()).unwrap();
    drop(one.drop(&DropOptions::new().force(true), &options()).unwrap());
    let report = desk.store.name_contents(&options()).unwrap();
    assert!(report.snapshots.is_empty());
    assert!(!desk.store.has_unnamed_contents().unwrap());
    assert!(desk.store.latest().unwrap().is_none());
    unnamed(&desk, &["one"]);
}

#[test]
fn a_record_that_is_lost_or_damaged_costs_a_look_at_the_files_and_no_work() {
    if !can_wait() {
        return;
    }
    type Harm = fn(&Path);
    let rows: &[(&str, Harm)] = &[
        ("lost", |path| fs::remove_file(path).unwrap()),
        ("cut", |path| fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap()),
        ("a bit of it turned", |path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("empty", |path| fs::write(path, "").unwrap()),
    ];
    for (what, harm) in rows {
        let desk = Desk::small();
        let one = unnamed(&desk, &["one"]).remove(0);
        after_a_tick();
        put(one.path(), "mine", "mine");
        let folder = desk.store.path().join("unnamed");
        for name in common::names(&folder) {
            harm(&folder.join(name));
        }
        assert_eq!(status(&one), ["A mine"], "{what}");
        assert_eq!(fs::read_to_string(one.path().join("mine")).unwrap(), "mine");
        assert_sound(&desk.store);
    }
}

#[test]
fn git_says_the_same_in_such_a_worktree_and_reads_nothing_for_it() {
    if !can_wait() {
        return;
    }
    for mode in [GitMode::Linked, GitMode::Copy] {
        let desk = Desk::small();
        let git = |root: &Path, words: &[&str]| {
            let mut command = Command::new("git");
            command.args(["-c", "user.name=n", "-c", "user.email=e"]).args(words);
            sh(command.current_dir(root).env("GIT_CONFIG_GLOBAL", "/dev/null"))
        };
        put(&desk.project, ".gitignore", "target\n");
        git(&desk.project, &["init", "-q"]);
        git(&desk.project, &["add", "."]);
        git(&desk.project, &["commit", "-qm", "first"]);
        put(&desk.project, "README", "not committed");
        after_a_tick();
        git(&desk.project, &["status"]);
        let report = desk.store.start(&["one"], &later().git(mode), &options()).unwrap();
        assert_eq!(report.snapshot, None);
        let (GitOutcome::Linked(_) | GitOutcome::Copied(_)) = &report.worktrees[0].git else {
            panic!("{:?}", report.worktrees[0].git)
        };
        let ready = match &report.worktrees[0].git {
            GitOutcome::Linked(linked) => linked.ready_index_entries,
            GitOutcome::Copied(copied) => copied.ready_index_entries,
            _ => 0,
        };
        assert!(ready >= 5, "{ready}");
        let one = desk.store.worktree("one").unwrap();
        let says = |root: &Path| git(root, &["status", "--porcelain"]);
        assert_eq!(says(one.path()), says(&desk.project));
        assert_eq!(status(&one), [""; 0]);
        drop(one.drop(&DropOptions::new(), &options()).unwrap());
    }
}

#[test]
fn two_first_starts_at_once_and_many_namers_end_with_a_base_for_each() {
    if !can_wait() {
        return;
    }
    let desk = Desk::small();
    std::thread::scope(|scope| {
        for at in 0..4 {
            let store = Store::open(desk.store.path()).unwrap();
            scope.spawn(move || {
                let name = format!("w{at}");
                store.start(&[&name], &later(), &options()).unwrap();
                store.name_contents_behind(&options()).unwrap();
                assert_eq!(status(&store.worktree(&name).unwrap()), [""; 0]);
            });
        }
    });
    desk.store.name_contents(&options()).unwrap();
    for worktree in desk.store.worktrees().unwrap() {
        assert!(worktree.snapshot().is_some(), "{}", worktree.name());
        assert_eq!(status(&worktree), [""; 0]);
    }
    assert_sound(&desk.store);
}

#[test]
fn a_user_who_is_not_root_starts_and_names_the_same_way() {
    if !can_wait() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return not_run("a plain user", "we are one");
    }
    let scratch = Scratch::new();
    let folder = scratch.join("home");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    let project = folder.join("project");
    as_nobody(|| {
        everything(&project);
        let store = Store::init(&project).unwrap();
        let report = store.start(&["one"], &later(), &options()).unwrap();
        assert_eq!(report.snapshot, None);
        let one = store.worktree("one").unwrap();
        assert_same(&tree(&project), &tree(one.path()), "as nobody");
        assert_eq!(status(&one), [""; 0]);
    });
    // Files of somebody else cannot be made: then the snapshot has to say whose they were.
    fs::write(project.join("roots"), "of root").unwrap();
    set_mode(&project.join("roots"), 0o644);
    as_nobody(|| {
        fs::remove_dir_all(project.join(".calve")).unwrap();
        fs::remove_dir_all(folder.join("project.worktrees")).unwrap();
        let store = Store::init(&project).unwrap();
        let report = store.start(&["one"], &later(), &options()).unwrap();
        assert!(report.snapshot.is_some());
        assert_eq!(status(&store.worktree("one").unwrap()), [""; 0]);
    });
}

#[test]
fn a_start_that_fails_leaves_no_record() {
    if !can_wait() {
        return;
    }
    let desk = Desk::small();
    put(&desk.folder(), "one/in-the-way", "x");
    fails(desk.store.start(&["one"], &later(), &options()), ErrorKind::DestinationExists);
    assert!(!desk.store.has_unnamed_contents().unwrap());
    assert_eq!(common::names(&desk.folder()), ["one"]);
}

/// What happens to one file between the clone and the naming.
#[derive(Debug, Clone)]
enum Edit {
    Write(u8),
    SameSize,
    Remove,
    Chmod,
    Replace,
    Link,
}

fn edits() -> impl Strategy<Value = Vec<(u8, u8, Edit)>> {
    let edit = prop_oneof![
        any::<u8>().prop_map(Edit::Write),
        Just(Edit::SameSize),
        Just(Edit::Remove),
        Just(Edit::Chmod),
        Just(Edit::Replace),
        Just(Edit::Link),
    ];
    proptest::collection::vec((0..3_u8, any::<u8>(), edit), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_done_before_naming_the_base_is_the_old_tree_but_for_what_nobody_has(
        sizes in proptest::collection::vec(0..9000_usize, 1..12),
        edits in edits(),
        of_store in any::<bool>(),
        is_first in any::<bool>(),
    ) {
        if !expects_reflink(Scratch::new().path()) {
            return Ok(());
        }
        let path_of = |at: usize| format!("d{}/e{}/f{at}", at % 3, at % 2);
        let desk = Desk::new(|project| {
            fs::create_dir(project).unwrap();
            for (at, size) in sizes.iter().enumerate() {
                put(project, &path_of(at), common::bytes(at as u64, *size));
            }
        });
        if !is_first {
            desk.snapshot();
            after_a_tick();
            for at in (0..sizes.len()).step_by(2) {
                put(&desk.project, &path_of(at), "changed since");
            }
        }
        let before = tree(&desk.project);
        let worktrees = unnamed(&desk, &["one", "two"]);
        after_a_tick();
        let of_store = of_store && !subvolumes(&desk).is_empty();
        if !of_store {
            subvolumes(&desk).iter().for_each(|it| fs::remove_dir_all(it).unwrap());
        }
        let roots = [desk.project.as_path(), worktrees[0].path(), worktrees[1].path()];
        let mut touched: BTreeMap<PathBuf, [bool; 3]> = BTreeMap::new();
        for (who, at, edit) in &edits {
            let relative = path_of(usize::from(*at) % sizes.len());
            let path = roots[usize::from(*who)].join(&relative);
            touched.entry(relative.into()).or_default()[usize::from(*who)] = true;
            match edit {
                Edit::Write(size) => fs::write(&path, common::bytes(999, usize::from(*size))).unwrap(),
                Edit::SameSize => {
                    if let Ok(mut bytes) = fs::read(&path) {
                        bytes.iter_mut().for_each(|byte| *byte ^= 1);
                        fs::write(&path, bytes).unwrap();
                    }
                }
                Edit::Remove => drop(fs::remove_file(&path)),
                Edit::Chmod => drop(fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))),
                Edit::Replace => {
                    fs::write(path.with_extension("new"), "replaced").unwrap();
                    fs::rename(path.with_extension("new"), &path).unwrap();
                }
                Edit::Link => {
                    let _ = fs::remove_file(&path);
                    symlink("elsewhere", &path).unwrap();
                }
            }
        }
        let now: Vec<_> = roots.iter().map(|root| tree(root)).collect();
        let (id, changed) = name(&desk);
        let base = tree_of(&desk, id);
        let mut gone = 0;
        for (path, entry) in &before {
            if !of_store && touched.get(path).is_some_and(|who| who.iter().all(|it| *it)) {
                // The project's file instead, or nothing.
                let there = now[0].get(path).filter(|it| it.kind == entry.kind);
                prop_assert_eq!(base.get(path).map(|it| it.content), there.map(|it| it.content));
                gone += 1;
            } else if entry.kind != common::snapshot::Kind::Directory {
                let found = base.get(path);
                prop_assert_eq!(found.map(|it| it.content), Some(entry.content), "{:?}", path);
                prop_assert_eq!(found.map(|it| it.mtime), Some(entry.mtime));
            }
        }
        prop_assert!(changed <= gone, "{} of {}", changed, gone);
        // No tree changed, and each shows its differences from the base.
        for (root, now) in roots.iter().zip(&now) {
            assert_same(now, &tree(root), "after naming");
        }
        for (worktree, now) in worktrees.iter().zip(&now[1..]) {
            let shown = status(worktree);
            for (path, entry) in now {
                let differs = match base.get(path) {
                    Some(other) => (other.content, other.kind, other.mode) != (entry.content, entry.kind, entry.mode),
                    None => true,
                };
                let is_shown = shown.iter().any(|line| Path::new(&line[2..]) == path.as_path());
                if entry.kind != common::snapshot::Kind::Directory {
                    prop_assert_eq!(is_shown, differs, "{:?} {:?}", path, shown);
                }
            }
        }
        assert_sound(&desk.store);
    }
}

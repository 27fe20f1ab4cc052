//! Promise: a changed owner, group, attribute or ACL is a change like any other. Metadata that
//! could not be set when a worktree was made is no change.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, lchown};
use std::path::{Path, PathBuf};

use calve::{ChangeKind, DropOptions, ErrorKind, SnapshotOptions, Store, SwitchOptions};

use crate::common::odd::{set_mtime, set_xattr, some_acl};
use crate::common::snapshot::assert_same;
use crate::common::{NOBODY, as_nobody, is_root, not_run, sh};
use crate::stores::{
    Desk, after_a_tick, assert_sound, content, fails, options, put, set_mode, small_project,
    status, tree,
};

/// Changes something; `false` where that cannot be done here.
type Change = fn(&Path) -> bool;

/// The change of each path of [`with_attributes`].
const CHANGES: &[(&str, &str, Change)] = &[
    ("an attribute of a file", "README", |at| set_xattr(at, "user.mine", b"1").is_ok()),
    ("another value", "src/lib.rs", |at| {
        rustix::fs::lgetxattr(at, "user.kept", &mut [0_u8; 32]).is_ok()
            && set_xattr(at, "user.kept", b"another").is_ok()
    }),
    ("an attribute less", "src/lib.rs", |at| rustix::fs::lremovexattr(at, "user.kept").is_ok()),
    ("an attribute of a folder", "src", |at| set_xattr(at, "user.mine", b"1").is_ok()),
    ("an attribute less of a folder", "docs", |at| {
        rustix::fs::lremovexattr(at, "user.kept").is_ok()
    }),
    ("an ACL", "README", |at| {
        set_mode(at, 0o775);
        let set = set_xattr(at, "system.posix_acl_access", &some_acl()).is_ok();
        set || {
            set_mode(at, 0o644);
            false
        }
    }),
    ("a default ACL", "docs/guide", |at| {
        set_xattr(at, "system.posix_acl_default", &some_acl()).is_ok()
    }),
    ("an owner", "README", |at| lchown(at, Some(12), Some(34)).is_ok()),
    ("a group", "run.sh", |at| lchown(at, None, Some(34)).is_ok()),
    ("the owner of a folder", "src", |at| lchown(at, Some(12), None).is_ok()),
    ("the owner of a link", "readme-link", |at| lchown(at, Some(12), None).is_ok()),
    ("a capability", "run.sh", |at| {
        let mut capability = [0_u8; 20];
        capability[..5].copy_from_slice(&[0, 0, 0, 2, 1]);
        set_xattr(at, "security.capability", &capability).is_ok()
    }),
    ("a trusted attribute", "README", |at| set_xattr(at, "trusted.mine", b"1").is_ok()),
];

fn with_attributes(root: &Path) {
    small_project(root);
    for path in ["src/lib.rs", "docs"] {
        let _ = set_xattr(&root.join(path), "user.kept", b"as it was");
    }
}

#[test]
fn owners_attributes_and_acls_are_changes_for_whoever_looks() {
    const TEST: &str = "owners_attributes_and_acls_are_changes_for_whoever_looks";
    for (row, path, change) in CHANGES {
        let desk = Desk::new(with_attributes);
        let first = desk.snapshot();
        let second = desk.from("second", first);
        // The target's entry at this path is another one: for a link its target differs, for a
        // folder its mode.
        let there = second.path().join(path);
        match fs::symlink_metadata(&there).unwrap() {
            meta if meta.is_symlink() => {
                fs::remove_file(&there).unwrap();
                std::os::unix::fs::symlink("elsewhere", &there).unwrap();
            }
            meta if meta.is_dir() => set_mode(&there, 0o751),
            _ => put(second.path(), path, "second\n"),
        }
        let second = second.capture(&SnapshotOptions::new(), &options()).unwrap().id;

        let one = desk.from("one", first);
        let at = one.path().join(path);
        assert_eq!(status(&one), [""; 0], "{row}: as it was started");
        if !change(&at) {
            not_run(TEST, row);
            continue;
        }
        let found = one.status(&options()).unwrap().changes;
        let found: Vec<_> = found.iter().map(|change| (&*change.path, change.kind)).collect();
        let expected = if *row == "an ACL" { ChangeKind::Mode } else { ChangeKind::Metadata };
        assert_eq!(found, [(Path::new(path), expected)], "{row}");
        assert_eq!(status(&one), [format!("X {path}")], "{row}");
        let diff = one.diff(&options()).unwrap();
        let files: Vec<_> = diff.files.iter().map(|file| (&*file.path, file.kind)).collect();
        assert_eq!(files, [(Path::new(path), expected)], "{row}");

        let before = tree(one.path());
        let refused = fails(one.clone().drop(&DropOptions::new(), &options()), ErrorKind::Changed);
        assert!(refused.details().contains(&PathBuf::from(path)), "{row}: {refused:?}");
        let refused =
            fails(one.switch(second, &SwitchOptions::new(), &options()), ErrorKind::Changed);
        assert_eq!(refused.details(), [PathBuf::from(path)], "{row}");
        assert_same(&before, &tree(one.path()), row);

        let before = content(one.path());
        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
        assert_eq!(status(&one), [""; 0], "{row}: after a forced switch");
        assert_same(&content(&desk.folder().join("second")), &content(one.path()), row);
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), &format!("{row}: after an undo"));
        assert_eq!(status(&one), [format!("X {path}")], "{row}: after an undo");

        one.reset(&options()).unwrap();
        assert_eq!(status(&one), [""; 0], "{row}: after a reset");
        assert_same(&content(&desk.project), &content(one.path()), &format!("{row}: reset"));
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), &format!("{row}: after the undo of a reset"));

        let taken = one.capture(&SnapshotOptions::new(), &options()).unwrap();
        assert!(taken.new, "{row}");
        assert_eq!(status(&one), [""; 0], "{row}: captured");
        let again = desk.from("again", taken.id);
        assert_same(&tree(one.path()), &tree(again.path()), &format!("{row}: started again"));
        assert!(!one.capture(&SnapshotOptions::new(), &options()).unwrap().new, "{row}: again");
        one.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
        assert_sound(&desk.store);
    }
}

#[test]
fn a_change_of_content_and_of_metadata_is_one_change() {
    let desk = Desk::new(with_attributes);
    let one = desk.worktree("one");
    if set_xattr(&one.path().join("README"), "user.mine", b"1").is_err() {
        return not_run("a_change_of_content_and_of_metadata_is_one_change", "no attributes here");
    }
    put(one.path(), "README", "another\n");
    set_mode(&one.path().join("README"), 0o600);
    assert_eq!(status(&one), ["M README"]);
    // A time is no change.
    set_mtime(&one.path().join("run.sh"), 1_000_000_000, 7);
    set_mtime(&one.path().join("src"), 1_000_000_000, 7);
    assert_eq!(status(&one), ["M README"]);
}

/// A user who may not give files away has a worktree with other owners than the snapshot's. That is
/// no change.
#[test]
fn what_a_plain_user_could_not_set_is_no_change_and_what_was_done_since_is() {
    const TEST: &str = "what_a_plain_user_could_not_set_is_no_change_and_what_was_done_since_is";
    if !is_root() {
        return not_run(TEST, "only root has files of two owners");
    }
    let desk = Desk::new(|root| {
        with_attributes(root);
        for (path, mode, owner) in [
            ("run.sh", 0o6755, (0, 0)),
            ("empty", 0o2775, (0, 0)),
            ("docs/guide/first.md", 0o644, (12, 34)),
            ("docs/guide", 0o755, (12, 34)),
            ("target/debug/out.bin", 0o664, (NOBODY, 34)),
            ("README", 0o644, (NOBODY, NOBODY)),
        ] {
            chown(root.join(path), Some(owner.0), Some(owner.1)).unwrap();
            set_mode(&root.join(path), mode);
        }
        let _ = set_xattr(&root.join("src/main.rs"), "trusted.mine", b"1");
        let _ = set_xattr(&root.join("src"), "trusted.mine", b"1");
    });
    desk.store.snapshot(&SnapshotOptions::new().message("first"), &options()).unwrap();
    let second = {
        let other = desk.from("other", desk.snapshot());
        put(other.path(), "docs/guide/first.md", "second\n");
        set_mode(&other.path().join("empty"), 0o2750);
        other.capture(&SnapshotOptions::new(), &options()).unwrap().id
    };
    let (folder, path) = (desk.scratch.join("nobodys"), desk.store.path().to_owned());
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
    sh(std::process::Command::new("chmod").args(["-R", "a+rwX"]).arg(&path));
    sh(std::process::Command::new("chown").args(["-R", "65534:65534"]).arg(&path));
    if as_nobody(|| fs::metadata(path.join("format"))).is_err() {
        return not_run(TEST, "nobody may not look where the tests run");
    }
    let first = desk.store.project_worktree().unwrap().snapshot().unwrap();
    as_nobody(|| {
        let store = Store::open(&path).unwrap();
        let start = calve::StartOptions::new().from(first).at(&folder);
        store.start(&["one"], &start, &options()).unwrap();
        let one = store.worktree("one").unwrap();
        let is_mine = |path: &str| fs::metadata(one.path().join(path)).unwrap().uid() == NOBODY;
        assert!(is_mine("docs/guide/first.md") && is_mine("run.sh"));
        assert_eq!(status(&one), [""; 0], "fresh");
        assert!(!one.capture(&SnapshotOptions::new(), &options()).unwrap().new, "fresh");

        // Every entry is looked at again.
        after_a_tick();
        for path in tree(one.path()).keys() {
            set_mtime(&one.path().join(path), 1_600_000_000, 5);
        }
        assert_eq!(status(&one), [""; 0], "touched");
        assert_eq!(one.diff(&options()).unwrap().files, [], "touched");
        one.switch(second, &SwitchOptions::new(), &options()).unwrap();
        assert_eq!(status(&one), [""; 0], "switched");
        one.switch(first, &SwitchOptions::new(), &options()).unwrap();
        assert_eq!(status(&one), [""; 0], "and back");
        one.reset(&options()).unwrap();
        assert_eq!(status(&one), [""; 0], "reset");

        set_mode(&one.path().join("run.sh"), 0o700);
        let mut expected = vec!["X run.sh"];
        if set_xattr(&one.path().join("README"), "user.mine", b"1").is_ok() {
            expected.insert(0, "X README");
        }
        assert_eq!(status(&one), expected, "changed by hand");
        one.reset(&options()).unwrap();
        assert_eq!(status(&one), [""; 0], "reset again");
    });
    // Root looks at files of others, and gives them away.
    let one = desk.store.worktree("one").unwrap();
    assert_eq!(status(&one), [""; 0], "to root");
    chown(one.path().join("run.sh"), Some(12), None).unwrap();
    assert_eq!(status(&one), ["X run.sh"], "given away");
}

#[test]
fn a_reset_restores_times_modes_and_attributes_where_the_files_stand() {
    let desk = Desk::new(|root| {
        with_attributes(root);
        fs::hard_link(root.join("run.sh"), root.join("run2.sh")).unwrap();
        sh(std::process::Command::new("mkfifo").arg(root.join("fifo")));
    });
    let one = desk.worktree("one");
    let of = |path: &str| fs::symlink_metadata(one.path().join(path)).unwrap();
    let paths = ["README", "run.sh", "run2.sh", "readme-link", "src/lib.rs", "fifo"];
    let inodes = paths.map(|path| of(path).ino());
    // One of them has a name outside of the tree, which must stay as it is. On btrfs a worktree is
    // a subvolume, and a hard link cannot leave it.
    let outside = one.path().join(".calve/outside");
    fs::hard_link(one.path().join("src/main.rs"), &outside).unwrap();
    after_a_tick();
    for path in paths.iter().chain(&["src/main.rs", "src", "empty", "docs/guide"]) {
        set_mtime(&one.path().join(path), 1_000_000_000, 7);
    }
    set_mode(&one.path().join("run.sh"), 0o700);
    set_mode(&one.path().join("fifo"), 0o600);
    let _ = set_xattr(&one.path().join("README"), "user.mine", b"1");
    let _ = set_xattr(&one.path().join("src"), "user.mine", b"1");
    let was = fs::metadata(&outside).unwrap();
    let before = tree(one.path());
    let report = one.reset(&options()).unwrap();
    assert!(report.kept.contains(&PathBuf::from("run.sh")), "{report:?}");
    assert_same(&tree(&desk.project), &tree(one.path()), "reset");
    assert_eq!(inodes, paths.map(|path| of(path).ino()), "they are the files that they were");
    let is = fs::metadata(&outside).unwrap();
    assert_eq!((was.mtime(), was.ino()), (is.mtime(), is.ino()), "outside");
    assert_eq!(status(&one), [""; 0]);
    one.undo(&options()).unwrap();
    assert_same(&before, &tree(one.path()), "after the undo of a reset");
    assert_eq!(fs::metadata(&outside).unwrap().ino(), of("src/main.rs").ino(), "outside");
}

#[test]
fn an_undo_restores_times_and_that_two_names_were_one_file() {
    let desk = Desk::small();
    let first = desk.snapshot();
    let second = {
        let other = desk.from("other", first);
        put(other.path(), "src/lib.rs", "second\n");
        put(other.path(), "docs/guide/first.md", "second\n");
        fs::remove_file(other.path().join("docs/guide/second.md")).unwrap();
        fs::remove_file(other.path().join("run.sh")).unwrap();
        other.capture(&SnapshotOptions::new(), &options()).unwrap().id
    };
    let one = desk.from("one", first);
    let at = |path: &str| one.path().join(path);
    put(one.path(), "src/new/file", "by hand\n");
    put(one.path(), "docs/guide/first.md", "by hand\n");
    fs::hard_link(at("src/lib.rs"), at("src/lib2.rs")).unwrap();
    fs::hard_link(at("run.sh"), at("empty/run.sh")).unwrap();
    for (seconds, path) in [(1, "src"), (2, "docs/guide"), (3, "docs"), (4, "empty"), (5, "")] {
        set_mtime(&at(path), 1_000_000_000 + seconds, 7);
    }
    for what in ["a switch", "a reset"] {
        let before = tree(one.path());
        match what {
            "a switch" => {
                drop(one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap());
            }
            _ => drop(one.reset(&options()).unwrap()),
        }
        one.undo(&options()).unwrap();
        assert_same(&before, &tree(one.path()), what);
    }
    assert_eq!(fs::metadata(at("run.sh")).unwrap().nlink(), 2);
    assert_sound(&desk.store);
}

#[test]
fn links_and_fifos_of_several_names_keep_them_through_a_switch_a_reset_and_an_undo() {
    let fifo = |path: PathBuf| drop(sh(std::process::Command::new("mkfifo").arg(path)));
    let desk = Desk::new(|root| {
        small_project(root);
        fifo(root.join("fifo"));
        for (name, other) in [("readme-link", "docs/link"), ("fifo", "src/fifo")] {
            fs::hard_link(root.join(name), root.join(other)).unwrap();
        }
    });
    let first = desk.snapshot();
    let other = desk.from("other", first);
    assert_same(&tree(&desk.project), &tree(other.path()), "started");
    let at = |path: &str| other.path().join(path);
    for path in ["readme-link", "src/fifo"] {
        fs::remove_file(at(path)).unwrap();
    }
    std::os::unix::fs::symlink("run.sh", at("readme-link")).unwrap();
    fs::hard_link(at("readme-link"), at("src/link")).unwrap();
    fs::hard_link(at("fifo"), at("empty/fifo")).unwrap();
    let second = other.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    assert!(!other.capture(&SnapshotOptions::new(), &options()).unwrap().new, "nothing is new");

    let one = desk.from("one", first);
    one.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_same(&tree(other.path()), &tree(one.path()), "switched");
    assert_eq!(status(&one), [""; 0], "switched");
    one.switch(first, &SwitchOptions::new(), &options()).unwrap();
    assert_same(&tree(&desk.project), &tree(one.path()), "and back");
    // One of them becomes another entry of the same content.
    fs::remove_file(one.path().join("docs/link")).unwrap();
    std::os::unix::fs::symlink("README", one.path().join("docs/link")).unwrap();
    one.reset(&options()).unwrap();
    assert_same(&tree(&desk.project), &tree(one.path()), "reset after one was replaced");
    // One gets another name, the other another time.
    fs::hard_link(one.path().join("docs/link"), one.path().join("empty/link")).unwrap();
    set_mtime(&one.path().join("fifo"), 1_000_000_000, 7);
    let before = tree(one.path());
    one.reset(&options()).unwrap();
    assert_same(&tree(&desk.project), &tree(one.path()), "reset");
    one.undo(&options()).unwrap();
    assert_same(&before, &tree(one.path()), "after the undo of a reset");
    one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
    one.undo(&options()).unwrap();
    assert_same(&before, &tree(one.path()), "after the undo of a forced switch");
    assert_sound(&desk.store);
}

#[test]
fn what_is_changed_of_the_root_folder_itself_is_a_change_called_dot() {
    const TEST: &str = "what_is_changed_of_the_root_folder_itself_is_a_change_called_dot";
    let changes: &[(&str, ChangeKind, Change)] = &[
        ("a mode", ChangeKind::Mode, |at| {
            set_mode(at, 0o751);
            true
        }),
        ("an attribute", ChangeKind::Metadata, |at| set_xattr(at, "user.mine", b"1").is_ok()),
        ("an owner", ChangeKind::Metadata, |at| lchown(at, Some(12), Some(34)).is_ok()),
    ];
    for (row, kind, change) in changes {
        let desk = Desk::small();
        let first = desk.snapshot();
        assert_eq!(status(&desk.store.project_worktree().unwrap()), [""; 0], "{row}: the project");
        fs::create_dir_all(desk.folder().join("second")).unwrap();
        set_mode(&desk.folder().join("second"), 0o700);
        let second = desk.from("second", first);
        assert_eq!(status(&second), [""; 0], "{row}: in a folder that was there");
        set_mode(second.path(), 0o711);
        let second = second.capture(&SnapshotOptions::new(), &options()).unwrap().id;
        let third = desk.from("third", first);
        put(third.path(), "README", "third\n");
        let third = third.capture(&SnapshotOptions::new(), &options()).unwrap().id;

        let one = desk.from("one", first);
        assert_eq!(status(&one), [""; 0], "{row}: as it was started");
        if !change(one.path()) {
            not_run(TEST, row);
            continue;
        }
        let found = one.status(&options()).unwrap().changes;
        let found: Vec<_> = found.iter().map(|change| (&*change.path, change.kind)).collect();
        assert_eq!(found, [(Path::new("."), *kind)], "{row}");
        let diff = one.diff(&options()).unwrap();
        let files: Vec<_> = diff.files.iter().map(|file| (&*file.path, file.kind)).collect();
        assert_eq!(files, [(Path::new("."), *kind)], "{row}");
        let mut patch = Vec::new();
        diff.patch(&mut patch).unwrap();
        assert_eq!(patch, b"", "{row}: git knows no such thing");
        let below = one.status_of(&calve::ChangeScope::new().path("src"), &options()).unwrap();
        assert_eq!(below.changes, [], "{row}: of a part");

        let before = tree(one.path());
        let refused = fails(one.clone().drop(&DropOptions::new(), &options()), ErrorKind::Changed);
        assert_eq!(refused.details(), [PathBuf::from(".")], "{row}");
        let refused =
            fails(one.switch(second, &SwitchOptions::new(), &options()), ErrorKind::Changed);
        assert_eq!(refused.details(), [PathBuf::from(".")], "{row}");
        assert_same(&before, &tree(one.path()), row);

        // If the snapshots agree on it, it is no conflict, and stays.
        one.switch(third, &SwitchOptions::new(), &options()).unwrap();
        assert_eq!(status(&one), ["X ."], "{row}: to what agrees");
        one.switch(first, &SwitchOptions::new(), &options()).unwrap();
        assert_same(&before, &tree(one.path()), &format!("{row}: and back"));

        let report = one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
        assert_eq!(report.kept, [PathBuf::from(".")], "{row}");
        assert_eq!(status(&one), [""; 0], "{row}: forced");
        assert_same(
            &content(&desk.folder().join("second")),
            &content(one.path()),
            &format!("{row}: forced"),
        );
        one.undo(&options()).unwrap();
        assert_same(&before, &tree(one.path()), &format!("{row}: after an undo"));
        assert_eq!(status(&one), ["X ."], "{row}: after an undo");

        let report = one.reset(&options()).unwrap();
        assert_eq!(report.kept, [PathBuf::from(".")], "{row}");
        assert_same(&tree(&desk.project), &tree(one.path()), &format!("{row}: reset"));
        assert_eq!(status(&one), [""; 0], "{row}: reset");
        one.undo(&options()).unwrap();
        assert_same(&before, &tree(one.path()), &format!("{row}: after the undo of a reset"));

        assert!(one.capture(&SnapshotOptions::new(), &options()).unwrap().new, "{row}");
        assert_eq!(status(&one), [""; 0], "{row}: captured");
        assert!(!one.capture(&SnapshotOptions::new(), &options()).unwrap().new, "{row}: again");
        one.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    }
}

/// The index took the entry for the one that the switch had made, and vouched for the mode that
/// somebody had set since.
#[test]
fn what_is_changed_of_a_file_between_its_rename_and_the_end_of_a_switch_is_a_change() {
    let name = |number: u32| format!("f{number:04}");
    let desk = Desk::new(|root| {
        fs::create_dir(root).unwrap();
        for number in 0..2000 {
            put(root, &name(number), "one\n");
        }
    });
    let first = desk.snapshot();
    let other = desk.from("other", first);
    for number in 0..2000 {
        put(other.path(), &name(number), "two\n");
    }
    let second = other.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    let one = desk.from("one", first);
    let early = one.path().join(name(0));
    let inode = fs::metadata(&early).unwrap().ino();
    std::thread::scope(|scope| {
        let switching =
            scope.spawn(|| one.switch(second, &SwitchOptions::new(), &options()).unwrap());
        while fs::metadata(&early).unwrap().ino() == inode {
            std::hint::spin_loop();
        }
        set_mode(&early, 0o600);
        assert!(!switching.is_finished(), "it was over before the mode was changed");
        switching.join().unwrap();
    });
    assert_eq!(status(&one), ["X f0000"]);
    // The index vouches for untouched files, so calve does not read them again.
    assert_eq!(one.capture(&SnapshotOptions::new(), &options()).unwrap().read_files, 1);
}

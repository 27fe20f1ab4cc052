//! Tests trees that are made to break a program that copies them: in a clone, and through a store.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{Mode, OFlags, mkdirat, open, openat};

use crate::disk::tool;
use crate::filesystems::immutable;
use crate::tree::{difference, many_files, state, work};
use crate::{
    Run, calve, calve_command, filesystem, is_root, names, not_run, program, pushed, scratch,
    shared,
};

/// A tree, and a check whether a copy of it is right.
struct Row {
    name: &'static str,
    make: fn(&Path),
    same: fn(&Path, &Path) -> Result<(), String>,
}

/// All that the files are, as [`work`] sees them.
fn in_all(tree: &Path, copy: &Path) -> Result<(), String> {
    match difference(&work(tree), &work(copy)).as_str() {
        "" => Ok(()),
        // Show only the first few of very many differences.
        different => Err(different.chars().take(2000).collect()),
    }
}

fn write_at(path: &Path, size: u64, runs: impl IntoIterator<Item = u64>) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in runs {
        file.write_all_at(&[0x5a; 4096], at).unwrap();
    }
}

const LARGE: u64 = (5 << 30) + 12_345;
const IN_LARGE: [u64; 3] = [0, (4 << 30) - 2048, LARGE - 4096];

/// Compares the trees without reading holes.
fn in_places(tree: &Path, copy: &Path) -> Result<(), String> {
    let (was, is) =
        (fs::File::open(tree.join("large")).unwrap(), fs::File::open(copy.join("large")));
    let is = is.map_err(|error| error.to_string())?;
    let meta = is.metadata().unwrap();
    if meta.len() != LARGE || meta.blocks() * 512 > 64 << 20 {
        return Err(format!("{} bytes in {} blocks", meta.len(), meta.blocks()));
    }
    for at in IN_LARGE.into_iter().chain([1 << 30, (4 << 30) + 8192]) {
        let (mut a, mut b) = ([1; 4096], [2; 4096]);
        was.read_exact_at(&mut a, at).unwrap();
        is.read_exact_at(&mut b, at).unwrap();
        if a != b {
            return Err(format!("it differs at {at}"));
        }
    }
    Ok(())
}

/// Forty names of 200 bytes: twice as long as a path may be.
const DEEP: usize = 40;

fn descend(root: &Path, make: bool) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut dir = open(root, flags, Mode::empty()).map_err(|error| error.to_string())?;
    for level in 0..DEEP {
        let name = format!("{level:0200}");
        if make {
            mkdirat(&dir, &name, Mode::RWXU).unwrap();
        }
        dir = openat(&dir, &name, flags, Mode::empty())
            .map_err(|error| format!("{level}: {error}"))?;
    }
    Ok(dir)
}

fn at_the_bottom(_: &Path, copy: &Path) -> Result<(), String> {
    let file = openat(descend(copy, false)?, "bottom", OFlags::RDONLY, Mode::empty());
    let mut text = String::new();
    std::io::Read::read_to_string(
        &mut fs::File::from(file.map_err(|error| error.to_string())?),
        &mut text,
    )
    .map_err(|error| error.to_string())?;
    if text == "deep" { Ok(()) } else { Err(text) }
}

const ROWS: &[Row] = &[
    Row {
        name: "very many entries in one folder",
        make: |root| {
            fs::create_dir(root.join("many")).unwrap();
            for number in 0..shared(100_000) {
                let path = root.join(format!("many/{number}"));
                match number % 100 {
                    0 => symlink("0", path).unwrap(),
                    1 => fs::write(path, number.to_string()).unwrap(),
                    _ => drop(fs::File::create(path).unwrap()),
                }
            }
        },
        same: in_all,
    },
    Row {
        name: "deeper than a path may be long",
        make: |root| {
            let dir = descend(root, true).unwrap();
            let flags = OFlags::WRONLY | OFlags::CREATE;
            let file = openat(dir, "bottom", flags, Mode::RUSR | Mode::WUSR).unwrap();
            std::io::Write::write_all(&mut fs::File::from(file), b"deep").unwrap();
        },
        same: at_the_bottom,
    },
    Row {
        name: "ten thousand extents",
        make: |root| write_at(&root.join("pieces"), 80 << 20, (0..10_000).map(|at| at * 8192)),
        same: in_all,
    },
    Row {
        name: "larger than four gigabytes",
        make: |root| write_at(&root.join("large"), LARGE, IN_LARGE),
        same: in_places,
    },
    Row {
        name: "names for terminals and shells",
        make: |root| {
            for name in [
                &b"new\nline"[..],
                b"\x1b]0;title\x07",
                b"\x1b[2J",
                b"\xff\xfe",
                b"\xc2\x9b31m",
                "\u{202e}txt.exe".as_bytes(),
                b"-rf",
                b"$(id)`id`;id",
                b"\r",
                b".calve-",
                b"format",
            ] {
                fs::write(root.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
            }
        },
        same: in_all,
    },
    Row {
        name: "files that cannot be changed",
        make: |root| {
            many_files(root, 20, 5000, "content");
            let directory = root.parent().unwrap();
            let _ = tool(directory, "chattr +i src/d0/f1");
            let _ = tool(directory, "chattr +a src/d0/f2");
            let _ = tool(directory, "chattr +i src/d0");
        },
        same: in_all,
    },
];

#[test]
fn a_hostile_tree_arrives_as_it_is_as_a_clone_and_through_a_store() {
    for Row { name, make, same } in ROWS {
        let scratch = scratch();
        let directory = scratch.path();
        let source = directory.join("src");
        fs::create_dir(&source).unwrap();
        let _guard = immutable(&source);
        make(&source);
        let check = |run: &Run, copy: &Path, how: &str| {
            assert_eq!(run.code, Some(0), "{name}, {how}: {run:?}");
            same(&source, copy).unwrap_or_else(|why| panic!("{name}, {how}: {why}"));
        };
        check(&calve(directory, "clone -q src clone"), &directory.join("clone"), "cloned");
        let run = calve(directory, "-C src init -q");
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        let run = calve(directory, "-C src snapshot -q one");
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        let worktree = directory.join("src.worktrees/w");
        check(&calve(directory, "-C src start -q --from one w"), &worktree, "started");
        check(&calve(directory, "-C src status w"), &worktree, "and its status");
        // The copy that comes out of a pack is right, too.
        check(&calve(directory, "-C src store pack -q --all"), &worktree, "packed");
        let again = directory.join("src.worktrees/again");
        check(&calve(directory, "-C src start -q --from one again"), &again, "unpacked");
        let run = calve(directory, "-C src drop -q again w");
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        // Beside the process that `drop` has left to do the same.
        let run = calve(directory, "-C src store empty-trash");
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        let run = calve(directory, "-C src store verify -q");
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        tool(directory, "rm -rf clone").unwrap();
        // Too deep for the standard library, whose removal is the test's own end.
        let _ = tool(directory, "chattr -R -i -a src");
        // A process that makes a ready tree may still be at work in the store.
        let removed = (0..100).any(|_| tool(directory, "rm -rf src src.worktrees").is_ok());
        assert!(removed, "{name}");
    }
}

/// A file in the worktree that not even root may change is in the way, until the test takes its
/// flag away.
#[test]
fn what_cannot_be_changed_stops_a_switch_a_reset_and_a_merge_by_its_name_and_nothing_is_lost() {
    for (flag, other) in [("+i", "-i"), ("+a", "-a")] {
        let scratch = scratch();
        let directory = scratch.path();
        let project = directory.join("app");
        many_files(&project, 20, 3000, "first");
        for words in ["init -q", "snapshot -q first"] {
            assert_eq!(calve(&project, words).code, Some(0));
        }
        many_files(&project, 20, 3000, "second");
        for words in ["snapshot -q second", "start -q --from first w"] {
            assert_eq!(calve(&project, words).code, Some(0));
        }
        let root = directory.join("app.worktrees/w");
        let second = work(&project);
        let _guard = immutable(&root);
        if let Err(why) = tool(&root, &format!("chattr {flag} d0/f7")) {
            return not_run("immutable files in the way of a switch", &why);
        }
        let refused = |words: &str, what: &str| {
            let run = calve(&project, words);
            assert_eq!(run.code, Some(1), "{flag} {words}: {run:?}");
            assert!(
                run.stderr.contains(what) && run.stderr.contains("EPERM"),
                "{flag} {words}: {run:?}"
            );
            assert!(names(&root).iter().all(|name| !name.starts_with(".calve-")), "{words}");
        };
        let now = |wanted, after: &str| {
            assert_eq!(difference(wanted, &work(&root)), "", "{flag}, after {after}");
        };
        refused("restore -q second w", "d0/f7");
        tool(&root, &format!("chattr {other} d0/f7")).unwrap();
        // Between the two snapshots; the same again ends it.
        assert_eq!(calve(&project, "restore -q second w").code, Some(0), "{flag}");
        now(&second, "the switch");
        // A reset moves added files aside, but not a file that cannot be moved.
        fs::write(root.join("d0/added"), "by hand").unwrap();
        let changed = work(&root);
        tool(&root, &format!("chattr {flag} d0/added")).unwrap();
        refused("restore -q w", "d0/added");
        now(&changed, "a restore that was refused");
        tool(&root, &format!("chattr {other} d0/added")).unwrap();
        assert_eq!(calve(&project, "restore -q w").code, Some(0), "{flag}");
        now(&second, "the restore");
        assert_eq!(calve(&project, "undo -q w").code, Some(0), "{flag}");
        now(&changed, "the undo of the restore");
        // A drop removes the worktree from its place at once. The file stays in the trash until it
        // can be removed.
        tool(&root, &format!("chattr {flag} d0/f9")).unwrap();
        assert_eq!(calve(&project, "drop -q --force --discard w").code, Some(0), "{flag}");
        assert!(fs::symlink_metadata(&root).is_err(), "{flag}");
        let trash = project.join(".calve/trash");
        let _guard = immutable(&trash);
        let run = calve(&project, "store empty-trash");
        // A subvolume goes as a whole, whatever is in it.
        let whole = filesystem() == "btrfs" && run.code == Some(0);
        assert!(whole || run.code == Some(1), "{flag}: {run:?}");
        let _ = tool(directory, &format!("chattr -R -f {other} {}", trash.display()));
        assert_eq!(calve(&project, "store empty-trash").code, Some(0), "{flag}");
        assert_eq!(names(&trash), [""; 0], "{flag}");
    }
}

/// A filesystem that is mounted in a tree does not belong to the tree, whatever removes the tree
/// around it.
#[test]
fn what_is_mounted_in_a_worktree_outlives_its_reset_its_switch_and_its_drop() {
    const NAME: &str = "a mount in a worktree";
    if !is_root() {
        return not_run(NAME, "mounting needs root");
    }
    let scratch = scratch();
    let directory = scratch.path();
    let project = directory.join("app");
    many_files(&project, 250, 300, "first");
    for words in ["init -q", "snapshot -q first"] {
        assert_eq!(calve(&project, words).code, Some(0));
    }
    many_files(&directory.join("other"), 120, 300, "outside");
    // As the worktree has it, with other metadata and a folder more.
    fs::rename(project.join("d1"), directory.join("same")).unwrap();
    fs::create_dir(directory.join("same/spool")).unwrap();
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(directory.join("same/f100"), private).unwrap();
    assert_eq!(calve(&project, "snapshot -q second").code, Some(0));
    for (outside, at, words) in [
        ("other", "d1", "restore -q w"),
        ("other", "d1", "restore -q second w"),
        ("same", "d1", "restore -q w"),
        ("same", "d1", "restore -q second w"),
        ("other", "new", "restore -q w"),
        ("other", "new", "snapshot -q --of w"),
        ("other", "d1", "snapshot -q --of w"),
        ("other", "d1", "drop -q --force w"),
        ("other", "new", "drop -q --force w"),
        ("other", "d1", "clone -q --existing replace app ../destination"),
    ] {
        let outside = directory.join(outside);
        let was = state(&outside);
        assert_eq!(calve(&project, "start -q --from first w").code, Some(0));
        let root = directory.join("app.worktrees/w");
        let cloned = words.starts_with("clone");
        let tree = if cloned { directory.join("destination") } else { root.clone() };
        fs::create_dir_all(tree.join(at)).unwrap();
        let words = words.replace(" app ", &format!(" {} ", project.display()));
        let words = words.replace("../destination", "PLACE/destination");
        let words = words.replace("PLACE", directory.to_str().unwrap());
        let line = format!(
            "mount --bind {} {} && {} {words}; code=$?; {} store empty-trash; exit $code",
            outside.display(),
            tree.join(at).display(),
            env!("CARGO_BIN_EXE_calve"),
            env!("CARGO_BIN_EXE_calve"),
        );
        let output = program("unshare", &project).args(["--mount", "sh", "-c", &line]).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        if error.contains("unshare") || error.contains("mount:") {
            return not_run(NAME, error.trim());
        }
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1 | 3)), "{at}, {words}: {code:?} {error}");
        assert_eq!(difference(&was, &state(&outside)), "", "{at}, {words}: {error}");
        let _ = calve(&project, "drop -q --force w");
        let _ = calve(&project, "store empty-trash");
        for left in [root, directory.join("destination")] {
            let _ = fs::remove_dir_all(left);
        }
        let _ = calve(&project, "drop -q --force w");
        assert_eq!(calve(&project, "store verify -q").code, Some(0), "{at}, {words}");
    }
}

/// A rename cannot replace a mount point. The kernel would report that only after calve has fetched
/// and made everything.
#[test]
fn at_a_mount_point_nothing_is_begun_and_a_folder_inside_it_is_named() {
    const NAME: &str = "an empty mount point as a destination";
    if !is_root() {
        return not_run(NAME, "mounting needs root");
    }
    let scratch = scratch();
    let directory = scratch.path();
    let project = directory.join("app");
    many_files(&project, 5, 300, "first");
    for folder in ["at", "elsewhere"] {
        fs::create_dir(directory.join(folder)).unwrap();
    }
    let url = pushed(directory, &project);
    let calve = env!("CARGO_BIN_EXE_calve");
    // A part of the same filesystem has the same device number.
    for mount in ["mount --bind elsewhere at", "mount -t tmpfs none at"] {
        for command in [
            format!("{calve} checkout {url} ready at"),
            format!("{calve} -C app start --from ready --at .. at"),
        ] {
            let line = format!("{mount} && {command}; code=$?; ls -A at; exit $code");
            let output = program("unshare", directory)
                .args(["--mount", "sh", "-c", &line])
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            if error.contains("unshare") || error.contains("mount:") {
                return not_run(NAME, error.trim());
            }
            assert_eq!(output.status.code(), Some(1), "{mount}, {command}: {output:?}");
            assert!(error.contains("mounted there"), "{mount}, {command}: {error}");
            assert!(error.contains("/at/app"), "{mount}, {command}: {error}");
            assert!(output.stdout.is_empty(), "{mount}, {command}: {output:?}");
            assert_eq!(names(directory), ["app", "at", "elsewhere", "remote"], "{mount}");
        }
    }
}

/// A file of procfs has content, but reports the size 0. A snapshot took it as empty, and did not
/// report that.
#[test]
fn a_file_that_has_content_and_no_size_arrives_with_its_content_or_is_named() {
    const NAME: &str = "a file of procfs in a tree";
    if !is_root() {
        return not_run(NAME, "mounting needs root");
    }
    let scratch = scratch();
    let directory = scratch.path();
    let project = directory.join("app");
    many_files(&project, 5, 300, "first");
    fs::write(project.join("version"), "").unwrap();
    assert_eq!(calve(&project, "init -q").code, Some(0));
    let calve = env!("CARGO_BIN_EXE_calve");
    let line = format!(
        "mount --bind /proc/version app/version && {calve} clone app clone; echo $?
         cd app && {calve} snapshot -q s; echo $?; {calve} start --from s w; echo $?"
    );
    let output =
        program("unshare", directory).args(["--mount", "sh", "-c", &line]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    if error.contains("unshare") || error.contains("mount:") {
        return not_run(NAME, error.trim());
    }
    let wanted = fs::read("/proc/version").unwrap();
    for copy in ["clone", "app.worktrees/w"] {
        let found = fs::read(directory.join(copy).join("version"));
        let told = error.contains("version");
        match found {
            Ok(found) => assert!(found == wanted || told, "{copy}: {output:?}"),
            Err(_) => assert!(told, "{copy}: {output:?}"),
        }
    }
}

/// The command without the rights of root, where the tests have them.
fn without_privileges(directory: &Path, words: &str) -> Run {
    if !is_root() {
        return calve(directory, words);
    }
    let mut command = program("setpriv", directory);
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", env!("CARGO_BIN_EXE_calve")]);
    Run::of(command.args(words.split_whitespace()).output().unwrap(), String::new())
}

#[test]
fn what_may_not_be_read_is_named_with_the_way_to_leave_it_out() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    if is_root() && std::process::Command::new("setpriv").arg("--version").output().is_err() {
        not_run("what may not be read", "no setpriv");
        return;
    }
    for (what, is_folder) in [("pgdata", true), ("key", false)] {
        let scratch = scratch();
        let app = scratch.path().join("app");
        fs::create_dir(&app).unwrap();
        fs::write(app.join("file"), "x").unwrap();
        let closed = app.join(what);
        if is_folder {
            fs::create_dir(&closed).unwrap();
        } else {
            fs::write(&closed, "x").unwrap();
        }
        // Its owner's alone, as a database's folder is.
        if is_root() {
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
            chown(&closed, Some(65534), Some(65534)).unwrap();
        } else {
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        }
        let run = without_privileges(scratch.path(), "clone app copy");
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        assert!(run.stderr.contains(&format!("to leave it out: --exclude /{what}; ")), "{run:?}");
        let run = without_privileges(scratch.path(), &format!("clone --exclude /{what} app copy"));
        assert_eq!(run.code, Some(0), "{what}: {run:?}");

        assert_eq!(without_privileges(&app, "init -q").code, Some(0));
        let run = without_privileges(&app, "snapshot");
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        let ignore = app.join(".calveignore");
        let hint = format!("add the line /{what} to {}; ", ignore.display());
        assert!(run.stderr.contains(&hint), "{run:?}");
        fs::write(ignore, format!("/{what}\n")).unwrap();
        let run = without_privileges(&app, "snapshot");
        assert_eq!(run.code, Some(0), "{what}: {run:?}");
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[test]
fn a_clone_inside_its_source_says_that_it_is_left_out_and_a_stores_own_trash_is_no_finding() {
    let scratch = scratch();
    let app = scratch.path().join("app");
    fs::create_dir_all(app.join("trees")).unwrap();
    fs::write(app.join("file"), "x").unwrap();
    assert_eq!(calve(&app, "init -q").code, Some(0));
    assert_eq!(calve(&app, "snapshot -q").code, Some(0));
    for folder in ["trash", "stage"] {
        let stage = app.join(format!(".calve/{folder}/.calve-stage-0000000000000001-1-1-1"));
        fs::create_dir_all(stage).unwrap();
    }
    let run = calve(scratch.path(), "clone app app/trees/one");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(
        run.stderr.contains("app/trees/one is inside the source: the clone leaves it out"),
        "{run:?}"
    );
    assert!(!app.join("trees/one/trees/one").try_exists().unwrap());
    for (destination, expected) in [("app/trees/two", true), ("beside", false)] {
        let run = calve(scratch.path(), &format!("clone --json app {destination}"));
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.json()["destinations"][0]["inside_source"], expected, "{run:?}");
        assert_eq!(run.stderr.contains("inside the source"), expected, "{run:?}");
    }
}

/// calve asks whether one folder is inside the other by a walk upwards. A folder on that way that
/// could not be read was taken for the one that it looked for.
#[test]
fn a_folder_above_that_may_be_entered_but_not_read_holds_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    if is_root() && std::process::Command::new("setpriv").arg("--version").output().is_err() {
        not_run("a folder above that may not be read", "no setpriv");
        return;
    }
    let scratch = scratch();
    let above = scratch.path().join("above");
    let mine = above.join("mine");
    for folder in ["source", "source/deep", "old"] {
        fs::create_dir_all(mine.join(folder)).unwrap();
        fs::write(mine.join(folder).join("file"), folder).unwrap();
    }
    fs::set_permissions(&above, fs::Permissions::from_mode(0o311)).unwrap();
    for words in ["clone source new", "clone --existing replace source old"] {
        let run = without_privileges(&mine, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        assert!(!run.stderr.contains("inside the source"), "{words}: {run:?}");
    }
    let inside = without_privileges(&mine, "clone --existing replace source/deep source");
    assert_eq!(inside.code, Some(1), "{inside:?}");
    assert!(inside.stderr.contains("holds the source"), "{inside:?}");
    fs::set_permissions(&above, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read_to_string(mine.join("old/file")).unwrap(), "source");
}

/// The background process that deletes a dropped worktree has nobody to tell.
#[test]
fn what_nobody_can_delete_is_named_by_gc_with_the_way_out() {
    let test = "a dropped tree that cannot be deleted";
    let scratch = scratch();
    let app = scratch.path().join("app");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("file"), "x").unwrap();
    for words in ["init -q", "start -q a"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    let tree = scratch.path().join("app.worktrees/a");
    fs::create_dir(tree.join("cache")).unwrap();
    fs::write(tree.join("cache/kept"), "x").unwrap();
    let _mutable_at_the_end = immutable(scratch.path());
    let chattr =
        |flag: &str| tool(&app, &format!("chattr {flag} {}", tree.join("cache/kept").display()));
    if let Err(why) = chattr("+i") {
        return not_run(test, &why);
    }
    assert_eq!(calve(&app, "drop --force --discard a").code, Some(0));
    let run = calve(&app, "store gc");
    if std::env::var("CALVE_FS").is_ok_and(|fs| fs == "btrfs") && run.code == Some(0) {
        // btrfs deletes a subvolume with all that is in it.
        return assert!(names(&app.join(".calve/trash")).is_empty(), "{run:?}");
    }
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("/trash/") && run.stderr.contains("sudo rm -rf"), "{run:?}");
    tool(&app, &format!("chattr -R -f -i {}", app.join(".calve/trash").display())).unwrap();
    let run = calve(&app, "store gc");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(names(&app.join(".calve/trash")).is_empty());
}

/// git opens the ignore files of a tree in order to read them, and waits for ever at a pipe. A
/// signal that reaches calve alone does not reach git.
#[test]
fn a_git_that_waits_for_ever_is_ended() {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::process::{Pid, Signal, kill_process};
    let scratch = scratch();
    let app = scratch.path().join("app");
    fs::create_dir(&app).unwrap();
    fs::write(app.join("file"), "x").unwrap();
    let commit = "git -c user.name=a -c user.email=a@example.org commit -qm x";
    for words in ["git init -q", "git add .", commit] {
        if let Err(why) = tool(&app, words) {
            return not_run("a git that waits for ever", &why);
        }
    }
    for words in ["init -q", "start -q a b"] {
        assert_eq!(calve(&app, words).code, Some(0), "{words}");
    }
    let trees = scratch.path().join("app.worktrees");
    tool(&trees, "mkfifo a/.gitignore").unwrap();
    for (words, code, says) in [
        ("list", 3, "waits for a pipe"),
        ("drop a", 1, "waits for a pipe"),
        ("drop --force a", 0, "undo a"),
    ] {
        let run = calve(&app, words);
        assert_eq!(run.code, Some(code), "{words}: {run:?}");
        assert!(run.stderr.contains(says), "{words}: {run:?}");
    }
    // A git that waits for something else.
    let began = scratch.path().join("began");
    let git = scratch.path().join("bin/git");
    fs::create_dir(git.parent().unwrap()).unwrap();
    let path = std::env::var("PATH").unwrap();
    let script = format!(
        "#!/bin/sh\nPATH={path}\ncase \"$*\" in *status*) : >{}; exec sleep 1000;; esac\nexec git \"$@\"\n",
        began.display()
    );
    fs::write(&git, script).unwrap();
    fs::set_permissions(&git, fs::Permissions::from_mode(0o755)).unwrap();
    let first = format!("{}:{path}", git.parent().unwrap().display());
    let mut child = calve_command(&app, "drop b").env("PATH", first).spawn().unwrap();
    while !began.try_exists().unwrap() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::TERM.as_raw()));
    assert!(trees.join("b/file").try_exists().unwrap());
}

/// A wait in the kernel for another process' lock went on after the signal.
#[test]
fn a_signal_ends_the_wait_for_a_lock_that_is_held_for_ever() {
    use rustix::fs::{FlockOperation, flock};
    use rustix::process::{Pid, Signal, kill_process};
    let scratch = scratch();
    fs::write(scratch.path().join("file"), "x").unwrap();
    for words in ["init -q", "snapshot -q"] {
        assert_eq!(calve(scratch.path(), words).code, Some(0), "{words}");
    }
    let path = scratch.path().join(".calve/locks/gate");
    let gate = fs::File::options().read(true).write(true).open(path).unwrap();
    flock(&gate, FlockOperation::LockExclusive).unwrap();
    let mut child = calve_command(scratch.path(), "store verify").spawn().unwrap();
    let catches = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() >> (Signal::TERM.as_raw() - 1) & 1 == 1
    };
    while !catches() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + Signal::TERM.as_raw()));
    drop(gate);
    assert_eq!(calve(scratch.path(), "store verify").code, Some(0));
}

//! Promise: one file, in four outcomes that are kept apart; on failure nothing is changed and
//! nothing is left behind.
#![cfg(target_os = "linux")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::common;
use crate::common::odd::{self, chmod, file, set_mtime, set_xattr};
use crate::common::snapshot::{Entry, assert_same, snapshot};
use crate::common::{
    NOBODY, Scratch, as_nobody, bytes, expects_reflink, filesystem, has_command, in_child, is_root,
    is_there, names, not_run, sh,
};
use calve::{
    CloneOptions, ErrorKind, ReflinkOutcome, clone_range, clone_tree, clonefile_or_copy,
    filesystem_supports_reflink, probe, probe_between, reflink_file, try_reflink,
};

fn entry(path: &Path) -> Entry {
    snapshot(path).remove(Path::new("")).unwrap()
}

/// The expected outcome of a reflink within `dir`.
fn expected(dir: &Path) -> ReflinkOutcome {
    if expects_reflink(dir) { ReflinkOutcome::Cloned } else { ReflinkOutcome::Unsupported }
}

const SIZES: &[usize] = &[0, 1, 2047, 2048, 4095, 4096, 4097, 65536, 1_000_001];

#[test]
fn a_reflink_is_the_file_with_all_its_metadata_under_any_umask() {
    let name = "a_reflink_is_the_file_with_all_its_metadata_under_any_umask";
    for umask in [0o000, 0o022, 0o077, 0o777] {
        in_child(name, &format!("umask {umask:03o}"), || {
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            let scratch = Scratch::new();
            let (source, dest) = (scratch.join("source"), scratch.join("dest"));
            for size in SIZES {
                for mode in [0o644, 0o600, 0o775, 0o777, 0o444, 0o000, 0o4755, 0o6711, 0o1644] {
                    let what = format!("umask {umask:03o}, {size} bytes, mode {mode:o}");
                    file(&source, *size as u64, 0o600, *size);
                    let _ = set_xattr(&source, "user.short", b"1");
                    if mode & 1 == 1 {
                        let _ = set_xattr(&source, "system.posix_acl_access", &odd::some_acl());
                    }
                    chmod(&source, mode);
                    set_mtime(&source, -1_234_567, 123_456_789);
                    let expected = expected(scratch.path());
                    let outcome = try_reflink(&source, &dest).unwrap();
                    // An empty file has nothing that a filesystem could refuse to share; it may say
                    // so or not.
                    assert!(outcome == expected || *size == 0, "{what}: {outcome:?}");
                    if outcome == ReflinkOutcome::Cloned {
                        assert_eq!(entry(&dest), entry(&source), "{what}");
                        fs::remove_file(&dest).unwrap();
                    }
                    assert!(!is_there(&dest), "{what}");
                    for round in ["new", "over itself"] {
                        let cloned = clonefile_or_copy(&source, &dest).unwrap();
                        assert_eq!(cloned, outcome == ReflinkOutcome::Cloned, "{what}");
                        assert_eq!(entry(&dest), entry(&source), "{what}, {round}");
                    }
                    assert_eq!(scratch.names(), ["dest", "source"], "{what}");
                    fs::remove_file(&dest).unwrap();
                    fs::remove_file(&source).unwrap();
                }
            }
        });
    }
}

#[test]
fn what_the_folder_would_pass_on_does_not_reach_the_file() {
    let name = "what_the_folder_would_pass_on_does_not_reach_the_file";
    let scratch = Scratch::new();
    let (source, folder) = (scratch.join("source"), scratch.join("folder"));
    file(&source, 1, 0o640, 5000);
    fs::create_dir(&folder).unwrap();
    if is_root() {
        lchown(&folder, Some(1234), Some(5678)).unwrap();
    }
    chmod(&folder, 0o2777);
    if !odd::set_default_acl(&folder) {
        not_run(name, "no POSIX ACLs here: only the set-group-ID bit was tried");
    }
    let dest = folder.join("dest");
    if try_reflink(&source, &dest).unwrap() == ReflinkOutcome::Cloned {
        assert_eq!(entry(&dest), entry(&source));
        fs::remove_file(&dest).unwrap();
    }
    clonefile_or_copy(&source, &dest).unwrap();
    assert_eq!(entry(&dest), entry(&source));
}

#[test]
fn each_way_to_fail_is_told_apart_and_changes_nothing() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.join(name);
    file(&at("file"), 1, 0o644, 5000);
    file(&at("other"), 2, 0o600, 9000);
    fs::create_dir_all(at("folder/full")).unwrap();
    symlink("file", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("loop", at("loop")).unwrap();
    sh(Command::new("mkfifo").arg(at("fifo")));
    let (kind, mode) = (rustix::fs::FileType::Socket, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, at("socket"), kind, mode, 0).unwrap();

    use ReflinkOutcome::SourceVanished;
    #[derive(Debug)]
    enum Is {
        Outcome(ReflinkOutcome),
        Error(io::ErrorKind),
        AnyError,
    }
    use Is::{AnyError, Error, Outcome};
    let rows = [
        ("missing", "new", Outcome(SourceVanished)),
        ("missing/below", "new", Outcome(SourceVanished)),
        ("dangling/below", "new", Outcome(SourceVanished)),
        // If the folder is missing, the error is about the destination, whatever the source is.
        ("file", "missing/new", Error(io::ErrorKind::NotFound)),
        ("missing", "missing/new", Error(io::ErrorKind::NotFound)),
        ("file", "file/new", Error(io::ErrorKind::NotADirectory)),
        ("file/below", "new", AnyError),
        ("file", "other", Error(io::ErrorKind::AlreadyExists)),
        ("file", "folder", Error(io::ErrorKind::AlreadyExists)),
        ("file", "link", Error(io::ErrorKind::AlreadyExists)),
        ("file", "dangling", Error(io::ErrorKind::AlreadyExists)),
        ("file", "file", Error(io::ErrorKind::AlreadyExists)),
        ("link", "new", Error(io::ErrorKind::InvalidInput)),
        ("dangling", "new", Error(io::ErrorKind::InvalidInput)),
        ("loop", "new", Error(io::ErrorKind::InvalidInput)),
        ("fifo", "new", Error(io::ErrorKind::InvalidInput)),
        ("socket", "new", Error(io::ErrorKind::InvalidInput)),
        ("folder", "new", Error(io::ErrorKind::IsADirectory)),
        ("file", "..", AnyError),
        ("file", "", AnyError),
    ];
    let before = snapshot(scratch.path());
    let unchanged = |what: &str| {
        let mut after = snapshot(scratch.path());
        for path in ["", "folder"] {
            after.get_mut(Path::new(path)).unwrap().mtime = before[Path::new(path)].mtime;
        }
        assert_same(&before, &after, what);
    };
    for (source, dest, expected) in rows {
        let what = format!("{source} to {dest}: {expected:?}");
        let dest_path = if dest.is_empty() { dest.into() } else { at(dest) };
        match (try_reflink(at(source), &dest_path), expected) {
            (Ok(found), Outcome(expected)) => assert_eq!(found, expected, "{what}"),
            (Err(found), Error(expected)) => assert_eq!(found.kind(), expected, "{what}: {found}"),
            (Err(_), AnyError) => {}
            (found, _) => panic!("{what}: {found:?}"),
        }
        unchanged(&what);
    }

    let rows = [
        ("missing", "new", Some(io::ErrorKind::NotFound)),
        ("missing", "other", Some(io::ErrorKind::NotFound)),
        ("missing", "link", Some(io::ErrorKind::NotFound)),
        ("file", "missing/new", Some(io::ErrorKind::NotFound)),
        ("file", "folder", None),
        ("file", "folder/full", None),
        ("link", "new", Some(io::ErrorKind::InvalidInput)),
        ("link", "other", Some(io::ErrorKind::InvalidInput)),
        ("fifo", "other", Some(io::ErrorKind::InvalidInput)),
        ("folder", "other", Some(io::ErrorKind::IsADirectory)),
    ];
    for (source, dest, kind) in rows {
        let what = format!("{source} to {dest}");
        let error = clonefile_or_copy(at(source), at(dest)).unwrap_err();
        assert!(kind.is_none_or(|kind| kind == error.kind()), "{what}: {error:?}");
        unchanged(&what);
    }
}

#[test]
fn what_is_replaced_is_the_name_and_not_what_it_points_to() {
    let scratch = Scratch::new();
    let (source, dest, other) =
        (scratch.join("source"), scratch.join("dest"), scratch.join("other"));
    file(&source, 1, 0o640, 5000);
    file(&other, 2, 0o600, 9000);
    let kept = entry(&other);
    for old in [
        "nothing",
        "file",
        "read-only",
        "link",
        "dangling",
        "loop",
        "hard link",
        "fifo",
        "the source",
        "running",
    ] {
        match old {
            "nothing" => {}
            "file" => file(&dest, 3, 0o644, 100_000),
            "read-only" => file(&dest, 3, 0o400, 100),
            "link" => symlink("other", &dest).unwrap(),
            "dangling" => symlink("nowhere", &dest).unwrap(),
            "loop" => symlink("dest", &dest).unwrap(),
            "hard link" => fs::hard_link(&other, &dest).unwrap(),
            "fifo" => drop(sh(Command::new("mkfifo").arg(&dest))),
            "the source" => symlink("source", &dest).unwrap(),
            _ => drop(sh(Command::new("cp").arg("/bin/sleep").arg(&dest))),
        }
        let mut running =
            (old == "running").then(|| Command::new(&dest).arg("60").spawn().unwrap());
        clonefile_or_copy(&source, &dest).unwrap();
        assert_eq!(entry(&dest), entry(&source), "{old}");
        assert_eq!(entry(&other), kept, "{old}");
        assert_eq!(scratch.names(), ["dest", "other", "source"], "{old}");
        if let Some(running) = &mut running {
            running.kill().unwrap();
            running.wait().unwrap();
        }
        fs::remove_file(&dest).unwrap();
    }
    // Onto itself: nothing happens to it, but that other names are other files from then on.
    let before = entry(&source);
    clonefile_or_copy(&source, &source).unwrap();
    assert_eq!(entry(&source), before);
    assert_eq!(fs::read(&source).unwrap(), bytes(1, 5000));
}

#[test]
fn holes_arrive_as_holes() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    let sparse = File::create_new(&source).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &bytes(1, 65536), 32 << 20).unwrap();
    sparse.sync_all().unwrap();
    clonefile_or_copy(&source, &dest).unwrap();
    assert_eq!(entry(&dest), entry(&source));
    assert!(fs::metadata(&dest).unwrap().blocks() * 512 < 1 << 20);
}

/// The files of sysfs say that they have a page, and no blocks.
#[test]
fn a_file_that_ends_before_its_size_is_not_filled_up() {
    let source = Path::new("/sys/class/net/lo/mtu");
    let Ok(content) = fs::read(source) else {
        return not_run("a_file_that_ends_before_its_size_is_not_filled_up", "needs sysfs");
    };
    let scratch = Scratch::new();
    clonefile_or_copy(source, scratch.join("file")).unwrap();
    assert_eq!(fs::read(scratch.join("file")).unwrap(), content);
}

#[test]
fn a_clone_goes_only_into_an_empty_file() {
    let scratch = Scratch::new();
    file(&scratch.join("source"), 1, 0o640, 8192);
    let source = File::open(scratch.join("source")).unwrap();
    let dest = File::create_new(scratch.join("dest")).unwrap();
    let outcome = reflink_file(&source, &dest).unwrap();
    assert_eq!(outcome, expected(scratch.path()));
    if outcome == ReflinkOutcome::Cloned {
        assert_eq!(fs::read(scratch.join("dest")).unwrap(), bytes(1, 8192));
    }
    file(&scratch.join("longer"), 2, 0o600, 200_000);
    let longer = OpenOptions::new().write(true).open(scratch.join("longer")).unwrap();
    assert_eq!(reflink_file(&source, &longer).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(fs::read(scratch.join("longer")).unwrap(), bytes(2, 200_000));
}

#[test]
fn a_range_is_cloned_where_it_is_aligned_and_refused_where_it_is_not() {
    let scratch = Scratch::new();
    let block = 65536;
    file(&scratch.join("source"), 1, 0o640, 4 * block + 100);
    let source = File::open(scratch.join("source")).unwrap();
    source.sync_all().unwrap();
    let (reflinks, old, new) =
        (expects_reflink(scratch.path()), bytes(2, 8 * block), bytes(1, 4 * block + 100));
    let b = block as u64;
    for (from, length, to, aligned) in [
        (0, b, 0, true),
        (b, 2 * b, 4 * b, true),
        (3 * b, 0, 7 * b, true),
        (0, 0, 4 * b, true),
        (4 * b, 100, 8 * b, true),
        // The source's odd tail can only become the destination's.
        (3 * b, 0, 5 * b, false),
        (1, b, 0, false),
        (0, b, 1, false),
        (0, 100, 0, false),
        (0, b + 100, 0, false),
    ] {
        let what = format!("{length} bytes from {from} to {to}");
        file(&scratch.join("dest"), 2, 0o600, 8 * block);
        let dest = OpenOptions::new().write(true).open(scratch.join("dest")).unwrap();
        let outcome = clone_range(&source, from, length, &dest, to).unwrap();
        let mut content = old.clone();
        if reflinks && aligned {
            assert_eq!(outcome, ReflinkOutcome::Cloned, "{what}");
            let [from, to] = [from, to].map(|offset| usize::try_from(offset).unwrap());
            let length =
                if length == 0 { new.len() - from } else { usize::try_from(length).unwrap() };
            content.resize(content.len().max(to + length), 0);
            content[to..to + length].copy_from_slice(&new[from..from + length]);
        } else if reflinks {
            assert_eq!(outcome, ReflinkOutcome::Refused, "{what}");
        } else {
            assert_eq!(outcome, ReflinkOutcome::Unsupported, "{what}");
        }
        assert!(fs::read(scratch.join("dest")).unwrap() == content, "{what}");
    }
}

#[test]
fn a_probe_tells_why_not_and_leaves_nothing() {
    let scratch = Scratch::new();
    let reflinks = expects_reflink(scratch.path());
    let found = probe(scratch.path()).unwrap();
    assert_eq!(found.outcome, expected(scratch.path()));
    assert_eq!(found.error.is_none(), reflinks, "{found:?}");
    if !reflinks {
        let errno = found.error.unwrap().raw_os_error().unwrap();
        assert!(
            [rustix::io::Errno::OPNOTSUPP.raw_os_error(), rustix::io::Errno::NOTTY.raw_os_error()]
                .contains(&errno)
        );
    }
    assert_eq!(filesystem_supports_reflink(scratch.path()), reflinks);
    if let Ok(name) = std::env::var("CALVE_FS") {
        assert_eq!(found.source_filesystem.as_deref(), Some(&*name));
        assert_eq!(found.dest_filesystem.as_deref(), Some(&*name));
    }
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());

    // From a file, from folder to folder.
    file(&scratch.join("file"), 1, 0o400, 65536);
    fs::create_dir(scratch.join("folder")).unwrap();
    for source in [scratch.join("file"), scratch.path().to_owned()] {
        let found = probe_between(&source, scratch.join("folder")).unwrap();
        assert_eq!(found.outcome, expected(scratch.path()), "{source:?}: {found:?}");
    }
    if let Some(elsewhere) = Scratch::elsewhere() {
        let found = probe_between(elsewhere.path(), scratch.path()).unwrap();
        assert_eq!(found.outcome, ReflinkOutcome::Unsupported, "{found:?}");
        assert!(found.error.is_some() && elsewhere.names().is_empty(), "{found:?}");
    } else {
        not_run(
            "a_probe_tells_why_not_and_leaves_nothing",
            "no second filesystem, for a probe between two",
        );
    }
    for missing in ["missing", "file"] {
        assert!(probe(scratch.join(missing)).is_err(), "{missing}");
        assert!(!filesystem_supports_reflink(scratch.join(missing)), "{missing}");
    }
    assert_eq!(scratch.names(), ["file", "folder"]);
    assert!(names(&scratch.join("folder")).is_empty());
}

#[test]
fn where_nothing_can_be_written_a_probe_clones_a_file_that_is_there_or_fails() {
    let name = "where_nothing_can_be_written_a_probe_clones_a_file_that_is_there_or_fails";
    if !is_root() {
        return not_run(name, "needs root, to make folders that others may not write to");
    }
    in_child(name, "nobody", || {
        let scratch = Scratch::new();
        std::env::set_current_dir(scratch.path()).unwrap();
        chmod(scratch.path(), 0o755);
        for (folder, owner) in [("closed/below", 0), ("mine", NOBODY)] {
            fs::create_dir_all(folder).unwrap();
            lchown(folder, Some(owner), Some(owner)).unwrap();
        }
        let expected = expected(Path::new("."));
        as_nobody(|| {
            assert!(probe(Path::new("closed")).is_err());
            assert!(!filesystem_supports_reflink(Path::new("closed")));
            assert!(
                probe_between(Path::new("closed"), Path::new("mine")).is_err(),
                "no file is there"
            );
        });
        file(Path::new("closed/below/file"), 1, 0o644, 65536);
        let found = as_nobody(|| probe_between(Path::new("closed"), Path::new("mine"))).unwrap();
        assert_eq!(found.outcome, expected, "{found:?}");
        assert!(names(Path::new("mine")).is_empty());
    });
}

#[test]
fn a_file_beyond_the_limit_is_an_error_and_not_the_end_of_the_process() {
    let name = "a_file_beyond_the_limit_is_an_error_and_not_the_end_of_the_process";
    in_child(name, "limit", || {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let scratch = Scratch::new();
        let (source, dest) = (scratch.join("source"), scratch.join("dest"));
        fs::create_dir(&source).unwrap();
        file(&source.join("small"), 1, 0o644, 1000);
        let sparse = File::create_new(source.join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        file(&source.join("large"), 1, 0o644, 100_000);
        let limit = 10_000;
        setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum: None }).unwrap();
        for large in ["large", "sparse"] {
            let error = clonefile_or_copy(source.join(large), &dest).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{large}: {error}");
            assert_eq!(scratch.names(), ["source"]);
        }
        for mode in [calve::CloneMode::Clone, calve::CloneMode::Copy] {
            for existing in [calve::Existing::Fail, calve::Existing::Merge] {
                let options = CloneOptions::new().mode(mode).existing(existing);
                let error = clone_tree(&source, &[&dest], &options).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
                assert_eq!(error.io_error().kind(), io::ErrorKind::FileTooLarge, "{error}");
                if existing == calve::Existing::Merge && is_there(&dest) {
                    fs::remove_dir_all(&dest).unwrap();
                }
                assert_eq!(scratch.names(), ["source"]);
            }
        }
        clonefile_or_copy(source.join("small"), &dest).unwrap();
    });
}

#[test]
fn a_file_without_copy_on_write_costs_at_most_one_copy() {
    let name = "a_file_without_copy_on_write_costs_at_most_one_copy";
    let scratch = Scratch::new();
    if filesystem(scratch.path()) != "btrfs" {
        return not_run(name, "NOCOW is btrfs' own");
    }
    if !has_command("chattr") {
        return not_run(name, "needs chattr");
    }
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    common::plain_tree(&source, 4, 50, 8192);
    let cow = source.join("d1/nocow");
    File::create_new(&cow).unwrap();
    sh(Command::new("chattr").arg("+C").arg(&cow));
    fs::write(&cow, bytes(1, 100_000)).unwrap();
    for jobs in [1, 4] {
        let report =
            clone_tree(&source, &[&dest], &common::jobs(CloneOptions::new(), jobs)).unwrap();
        let found = &report.destinations[0];
        assert!(found.copied_files <= 1 && found.reflinked_files >= 200, "{found:?}");
        assert_eq!(found.copied_because.file, found.copied_files, "{found:?}");
        assert_same(&snapshot(&source), &snapshot(&dest), "NOCOW");
        fs::remove_dir_all(&dest).unwrap();
    }
    // The other way round: a folder whose new files inherit the flag.
    fs::create_dir(scratch.join("nocow")).unwrap();
    sh(Command::new("chattr").arg("+C").arg(scratch.join("nocow")));
    let dest = scratch.join("nocow/dest");
    clone_tree(&source, &[&dest], &CloneOptions::new()).unwrap();
    assert_same(&snapshot(&source), &snapshot(&dest), "into NOCOW");
    for name in ["d0/f0", "d1/nocow"] {
        let one = scratch.join("nocow/one");
        clonefile_or_copy(source.join(name), &one).unwrap();
        assert_eq!(entry(&one), entry(&source.join(name)), "{name}");
        clonefile_or_copy(source.join(name), scratch.join("one")).unwrap();
        assert_eq!(entry(&scratch.join("one")), entry(&source.join(name)), "{name}");
    }
}

#[test]
fn without_the_right_to_the_owner_a_set_id_bit_stays_behind() {
    let name = "without_the_right_to_the_owner_a_set_id_bit_stays_behind";
    if !is_root() {
        return not_run(name, "needs root, to make other users' files");
    }
    in_child(name, "nobody", || {
        let scratch = Scratch::new();
        std::env::set_current_dir(scratch.path()).unwrap();
        chmod(scratch.path(), 0o777);
        file(Path::new("roots"), 1, 0o6755, 5000);
        file(Path::new("mine"), 1, 0o600, 5000);
        lchown("mine", Some(NOBODY), Some(NOBODY)).unwrap();
        chmod(Path::new("mine"), 0o6755);
        for (source, mode) in [("roots", 0o755), ("mine", 0o6755)] {
            as_nobody(|| clonefile_or_copy(Path::new(source), Path::new("dest"))).unwrap();
            let meta = fs::metadata("dest").unwrap();
            assert_eq!(
                (meta.uid(), meta.permissions().mode() & 0o7777),
                (NOBODY, mode),
                "{source}"
            );
        }
    });
}

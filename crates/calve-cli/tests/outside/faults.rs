//! Injects faults: system calls fail in the command's own process, one kind of call and one errno
//! at a time.
//!
//! strace counts `when=` for each thread separately, so a fault that must hit one call needs `-j
//! 1`. Then the only worker makes every call on files, and the main thread makes those on the
//! stage.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use tempfile::TempDir;

use crate::tree::{difference, many_files, one_of_everything, remove_tree, state};
use crate::{
    Run, calve, can_strace, expects_reflink, names, not_run, program, pushed, scratch, straced,
};

const SMALL: usize = 5000;

/// A directory with `src` in it: `count` small files.
fn with_files(count: usize) -> TempDir {
    let scratch = scratch();
    many_files(&scratch.path().join("src"), count, SMALL, "content");
    scratch
}

fn inject(calls: &str, fault: &str) -> [String; 2] {
    [format!("trace={calls}"), format!("inject={calls}:{fault}")]
}

/// Clones under faults: `(calls, fault)`, as strace writes them.
fn clone_under(directory: &Path, faults: &[(&str, &str)], words: &str) -> Run {
    let mut traced: Vec<&str> = faults.iter().map(|(calls, _)| *calls).collect();
    traced.dedup();
    let mut options = vec!["-e".to_owned(), format!("trace={}", traced.join(","))];
    for (calls, fault) in faults {
        let [_, inject] = inject(calls, fault);
        options.extend(["-e".to_owned(), inject]);
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let run = straced(directory, &options, words);
    assert!(!run.stderr.contains("panicked"), "{faults:?}: {run:?}");
    run
}

#[track_caller]
fn assert_whole(directory: &Path, tree: &str, context: &str) {
    let wanted = state(&directory.join("src"));
    let got = state(&directory.join(tree));
    assert_eq!(difference(&wanted, &got), "", "{context}");
}

/// The destination is absent, nothing else is left, and without the fault the same succeeds.
#[track_caller]
fn assert_nothing_left(directory: &Path, words: &str, context: &str) {
    assert_eq!(names(directory), ["src"], "{context}");
    let again = calve(directory, words);
    assert_eq!(again.code, Some(0), "{context}: the same command without the fault: {again:?}");
    fs::remove_dir_all(directory.join("dst")).unwrap();
}

#[test]
fn a_refusal_about_the_filesystem_is_asked_for_a_handful_of_times_and_everything_is_copied() {
    if !can_strace("clone ioctls that the filesystem refuses") {
        return;
    }
    let scratch = with_files(500);
    for errno in ["EOPNOTSUPP", "ENOTTY", "ENOSYS", "EXDEV"] {
        let fault = format!("error={errno}");
        let run = clone_under(scratch.path(), &[("ioctl", &fault)], "clone --json src dst");
        assert_eq!(run.code, Some(0), "{errno}: {run:?}");
        assert_eq!((run.count("files"), run.count("copied_files")), (500, 500), "{errno}");
        assert_eq!(run.count("because.filesystem"), 500, "{errno}: {}", run.stdout);
        let asked = run.logged("FICLONE");
        assert!((1..=8).contains(&asked), "{errno}: asked {asked} times");
        assert_whole(scratch.path(), "dst", errno);
        fs::remove_dir_all(scratch.path().join("dst")).unwrap();
    }
}

#[test]
fn a_sandbox_that_refuses_every_clone_is_recognised_after_a_few() {
    if !can_strace("clone ioctls that a sandbox refuses") {
        return;
    }
    let scratch = with_files(500);
    for errno in ["EPERM", "EACCES"] {
        let fault = format!("error={errno}");
        let run = clone_under(scratch.path(), &[("ioctl", &fault)], "clone --json src dst");
        assert_eq!(run.code, Some(0), "{errno}: {run:?}");
        assert_eq!(run.count("copied_files"), 500, "{errno}");
        assert_eq!(run.count("because.file") + run.count("because.filesystem"), 500, "{errno}");
        assert!(run.count("because.filesystem") >= 480, "{errno}: {}", run.stdout);
        let asked = run.logged("FICLONE");
        assert!(asked <= 16, "{errno}: asked {asked} times");
        assert_whole(scratch.path(), "dst", errno);
        fs::remove_dir_all(scratch.path().join("dst")).unwrap();
    }
}

#[test]
fn a_refusal_about_one_file_copies_that_file_and_no_other() {
    if !expects_reflink() || !can_strace("clone ioctls refused for one file") {
        return;
    }
    let scratch = with_files(120);
    for errno in ["EINVAL", "ETXTBSY", "EPERM", "EACCES"] {
        for when in [1, 5, 120] {
            let fault = format!("error={errno}:when={when}");
            let run =
                clone_under(scratch.path(), &[("ioctl", &fault)], "clone --json -j 1 src dst");
            let context = format!("{errno} at {when}: {run:?}");
            assert_eq!((run.code, run.injected()), (Some(0), 1), "{context}");
            assert_eq!(run.count("copied_files"), 1, "{context}");
            assert_eq!(run.count("because.file"), 1, "{context}");
            assert_eq!(run.count("reflinked_files"), 119, "{context}");
            assert_whole(scratch.path(), "dst", &context);
            fs::remove_dir_all(scratch.path().join("dst")).unwrap();
        }
    }
}

#[test]
fn a_transient_refusal_is_tried_again_until_the_clone_works() {
    if !expects_reflink() || !can_strace("transient refusals") {
        return;
    }
    let scratch = with_files(50);
    for (errno, when) in
        [("EAGAIN", "3..6"), ("EINTR", "3..4"), ("EAGAIN", "1..2"), ("EAGAIN", "2+9")]
    {
        for reflink in ["auto", "always"] {
            let fault = format!("error={errno}:when={when}");
            let words = format!("clone --json -j 1 --reflink {reflink} src dst");
            let run = clone_under(scratch.path(), &[("ioctl", &fault)], &words);
            let context = format!("{errno} at {when}, {reflink}: {run:?}");
            assert_eq!(run.code, Some(0), "{context}");
            assert!(run.injected() >= 2, "{context}");
            assert_eq!(run.count("reflinked_files"), 50, "{context}");
            assert_whole(scratch.path(), "dst", &context);
            fs::remove_dir_all(scratch.path().join("dst")).unwrap();
        }
    }
}

/// NFS and quotas report lost writes only at that moment.
#[test]
fn an_error_of_closing_a_copied_file_fails_the_clone() {
    if !can_strace("errors of close") {
        return;
    }
    let scratch = with_files(50);
    for errno in ["EIO", "ENOSPC", "EDQUOT"] {
        let fault = format!("error={errno}:when=10+");
        let words = "clone --json -j 1 --reflink never src dst";
        let run = clone_under(scratch.path(), &[("close", &fault)], words);
        assert_eq!(run.code, Some(1), "{errno}: {run:?}");
        assert!(run.stderr.contains(errno), "{errno}: {run:?}");
        assert_eq!(names(scratch.path()), ["src"], "{errno}");
    }
}

/// The kernel reports a failed write once: `syncfs` fails for one descriptor, or `fsync` for one
/// file. After that the content is right in memory alone.
#[test]
fn what_a_pull_could_not_write_is_an_error_and_is_fetched_again() {
    const TEST: &str = "faults of flushes in a pull";
    if !can_strace(TEST) {
        return;
    }
    let scratch = scratch();
    let top = scratch.path().canonicalize().unwrap();
    let (app, other) = (top.join("app"), top.join("other"));
    for directory in [&app, &other] {
        fs::create_dir(directory).unwrap();
    }
    // A pull flushes after each 32 MiB, so it does so three times.
    for number in 0..36_u8 {
        fs::write(app.join(format!("f{number}")), vec![number + 1; 3 << 20]).unwrap();
    }
    let url = pushed(&top, &app);
    for words in ["init".to_owned(), format!("remote add team {url}")] {
        assert_eq!(calve(&other, &words).code, Some(0), "{words}");
    }
    // The worker flushes three times, and its second time fails. (strace counts for each thread,
    // and the main thread flushes once.)
    let options = ["-e", "trace=syncfs", "-e", "inject=syncfs:error=EIO:when=2"];
    let run = straced(&other, &options, "pull -j 1 ready");
    assert_eq!((run.injected(), run.code), (1, Some(1)), "{run:?}");
    assert!(run.stderr.contains("EIO"), "{run:?}");

    let blobs = other.join(".calve/blobs");
    let fan = blobs.join(&names(&blobs)[0]);
    let mirror = fan.join(&names(&fan)[0]);
    let mirror = mirror.to_str().unwrap();
    let inode = || fs::metadata(mirror).unwrap().ino();
    let before = inode();
    let options = ["-e", "trace=fsync", "-P", mirror, "-e", "inject=fsync:error=EIO"];
    let run = straced(&other, &options, "pull -j 1 ready");
    assert_eq!((run.injected(), run.code), (1, Some(0)), "{run:?}");
    assert_ne!(inode(), before, "the mirror that could not be flushed was not replaced");
    assert_eq!(calve(&other, "store verify").code, Some(0));
}

/// Like ZFS while the source is in a transaction group that does not close.
#[test]
fn a_transient_refusal_that_never_ends_costs_a_bounded_time_and_then_copies_or_fails() {
    if !can_strace("transient refusals without end") {
        return;
    }
    let scratch = with_files(100);
    for (words, bounds) in [
        ("clone --json src dst", 0..8),
        ("clone --json -j 8 src dst", 0..8),
        ("clone --json --reflink always src dst", 2..25),
    ] {
        let always = words.contains("always");
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = program("strace", scratch.path());
        // If it waited for ever, so would the test.
        command.args(["-f", "-qq", "--seccomp-bpf", "-o"]);
        command.arg(log.path());
        for option in inject("ioctl", "error=EAGAIN") {
            command.args(["-e", &option]);
        }
        command.args(["--", "timeout", "-s", "KILL", "50", env!("CARGO_BIN_EXE_calve")]);
        command.args(words.split_whitespace());
        let started = Instant::now();
        let run = Run::of(command.output().unwrap(), String::new());
        let took = started.elapsed().as_secs();
        let context = format!("{words}: {took} s: {run:?}");
        assert!(bounds.contains(&took), "{context}");
        if always {
            assert_eq!(run.code, Some(1), "{context}");
            assert_eq!(run.json()["error"]["kind"], "reflink_refused", "{context}");
            assert!(run.stderr.contains("EAGAIN"), "{context}");
            assert_nothing_left(scratch.path(), "clone src dst", &context);
        } else {
            assert_eq!(run.code, Some(0), "{context}");
            assert_eq!(
                (run.count("copied_files"), run.count("because.file")),
                (100, 100),
                "{context}"
            );
            assert_whole(scratch.path(), "dst", &context);
            fs::remove_dir_all(scratch.path().join("dst")).unwrap();
        }
    }
}

#[test]
fn an_interrupt_does_not_wait_for_a_transient_refusal_to_end() {
    if !can_strace("an interrupt while a clone is tried again") {
        return;
    }
    let scratch = with_files(100);
    let mut command = program("timeout", scratch.path());
    // The interrupt goes to the command itself, and not to strace.
    command.args(["-s", "KILL", "60", "strace", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null"]);
    for option in inject("ioctl", "error=EAGAIN") {
        command.args(["-e", &option]);
    }
    command.args(["--", "timeout", "--foreground", "-s", "INT", "1", env!("CARGO_BIN_EXE_calve")]);
    command.args(["clone", "--json", "--reflink", "always", "src", "dst"]);
    let started = Instant::now();
    let run = Run::of(command.output().unwrap(), String::new());
    let took = started.elapsed();
    assert_eq!(run.json()["error"]["kind"], "cancelled", "{run:?}");
    assert!(took.as_secs_f64() < 3.5, "{took:?}: {run:?}");
    assert_nothing_left(scratch.path(), "clone src dst", "interrupted");
}

#[test]
fn of_two_trees_that_are_to_be_replaced_both_are_or_neither() {
    if !can_strace("replacing two trees") {
        return;
    }
    let scratch = scratch();
    let directory = scratch.path();
    one_of_everything(&directory.join("src"), "content");
    let new = state(&directory.join("src"));
    let trees = ["dst", "other"];
    // calve replaces a renameat2 with flags by renames without flags. One more of these only tidies
    // up.
    for (calls, whens, also) in
        [("renameat2", 1..=4, None), ("renameat", 1..=6, Some(("renameat2", "error=EINVAL")))]
    {
        for when in whens {
            let old = trees.map(|tree| {
                let path = directory.join(tree);
                if path.is_dir() {
                    remove_tree(&path);
                }
                one_of_everything(&path, "old");
                state(&path)
            });
            let fault = format!("error=EIO:when={when}");
            let faults: Vec<_> = also.into_iter().chain([(calls, fault.as_str())]).collect();
            let run = clone_under(
                directory,
                &faults,
                "clone --json -j 1 --existing replace src dst other",
            );
            let context = format!("{calls} at {when}: {run:?}");
            let done = run.code == Some(0);
            assert!(done && calls == "renameat" || run.code == Some(1), "{context}");
            assert_eq!(names(directory), ["dst", "other", "src"], "{context}");
            for (tree, old) in trees.iter().zip(&old) {
                let wanted = if done { &new } else { old };
                let difference = difference(wanted, &state(&directory.join(tree)));
                assert_eq!(difference, "", "{tree}: {context}");
            }
        }
    }
}

#[test]
fn a_failing_or_full_disk_is_told_at_once_and_no_copy_masks_it() {
    if !can_strace("fatal errors of the clone ioctl") {
        return;
    }
    let scratch = with_files(60);
    // If the filesystem itself refuses clones, there is no fifth call.
    let whens: &[&str] =
        if expects_reflink() { &["", ":when=1", ":when=5"] } else { &["", ":when=1"] };
    for errno in ["EIO", "ENOSPC", "EDQUOT", "ENOMEM"] {
        for when in whens {
            for reflink in ["auto", "always"] {
                let fault = format!("error={errno}{when}");
                let words = format!("clone --json --reflink {reflink} -n 2 src dst");
                let run = clone_under(scratch.path(), &[("ioctl", &fault)], &words);
                let context = format!("{errno}{when}, {reflink}: {run:?}");
                assert_eq!(run.code, Some(1), "{context}");
                assert!(run.stderr.starts_with("error: cannot clone src/d0/f"), "{context}");
                assert!(run.stderr.contains(errno), "{context}");
                let full = matches!(errno, "ENOSPC" | "EDQUOT");
                assert_eq!(run.json()["error"]["kind"] == "storage_full", full, "{context}");
                // Each thread at most once.
                assert!(run.injected() <= 3, "{context}");
                assert_nothing_left(scratch.path(), "clone src dst", &context);
            }
        }
    }
}

#[test]
fn where_reflinks_are_demanded_every_refusal_fails_before_anything_is_published() {
    if !can_strace("refusals under --reflink always") {
        return;
    }
    let scratch = with_files(40);
    let whens: &[&str] =
        if expects_reflink() { &["", ":when=1", ":when=40"] } else { &["", ":when=1"] };
    for errno in ["EOPNOTSUPP", "ENOTTY", "ENOSYS", "EXDEV", "EPERM", "EACCES", "EINVAL", "ETXTBSY"]
    {
        for when in whens {
            let fault = format!("error={errno}{when}");
            let words = "clone --json -j 1 --reflink always src dst other";
            let run = clone_under(scratch.path(), &[("ioctl", &fault)], words);
            let context = format!("{errno}{when}: {run:?}");
            assert_eq!(run.code, Some(1), "{context}");
            assert_eq!(run.json()["error"]["kind"], "reflink_refused", "{context}");
            assert!(run.stderr.contains(errno) && run.stderr.contains("src/d0/f"), "{context}");
            assert_nothing_left(scratch.path(), "clone src dst", &context);
        }
    }
}

#[test]
fn a_copy_goes_on_by_reading_and_writing_where_copy_file_range_does_not() {
    if !can_strace("copy_file_range refused") {
        return;
    }
    let scratch = scratch();
    one_of_everything(&scratch.path().join("src"), "content");
    for fault in [
        "error=ENOSYS",
        "error=EXDEV",
        "error=EINVAL",
        "error=EOPNOTSUPP",
        "error=EPERM",
        "error=ENOENT",
        "error=ETXTBSY",
        "error=EACCES",
        "error=EINTR:when=1..3",
        "retval=0",
    ] {
        let faults = [("ioctl", "error=EOPNOTSUPP"), ("copy_file_range", fault)];
        let run = clone_under(scratch.path(), &faults, "clone --json -j 1 src dst");
        assert_eq!(run.code, Some(0), "{fault}: {run:?}");
        assert!(
            run.log
                .lines()
                .any(|line| line.contains("copy_file_range") && line.contains("INJECTED")),
            "{fault}"
        );
        assert_whole(scratch.path(), "dst", fault);
        remove_tree(&scratch.path().join("dst"));
    }
}

#[test]
fn a_filesystem_without_the_flags_of_renameat2_still_gets_the_tree_whole() {
    if !can_strace("renameat2 without its flags") {
        return;
    }
    let scratch = scratch();
    one_of_everything(&scratch.path().join("src"), "content");
    for errno in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
        for existing in ["fail", "skip", "replace"] {
            let fault = format!("error={errno}");
            let destination = scratch.path().join("dst");
            if existing == "replace" {
                one_of_everything(&destination, "old");
            }
            let words = format!("clone --existing {existing} src dst other");
            let run = clone_under(scratch.path(), &[("renameat2", &fault)], &words);
            assert_eq!(run.code, Some(0), "{errno}, {existing}: {run:?}");
            assert!(run.injected() > 0, "{errno}, {existing}: {run:?}");
            assert_eq!(names(scratch.path()), ["dst", "other", "src"]);
            for tree in ["dst", "other"] {
                assert_whole(scratch.path(), tree, errno);
                remove_tree(&scratch.path().join(tree));
            }
        }
        for existing in ["merge", "keep"] {
            fs::create_dir(scratch.path().join("dst")).unwrap();
            fs::write(scratch.path().join("dst/f0"), "old").unwrap();
            let fault = format!("error={errno}");
            let words = format!("clone --json --existing {existing} src dst other");
            let run = clone_under(scratch.path(), &[("renameat2", &fault)], &words);
            assert_eq!(run.code, Some(0), "{errno}, {existing}: {run:?}");
            assert!(run.injected() > 0, "{errno}, {existing}: {run:?}");
            let document = run.json();
            let found = &document["destinations"][0];
            let counts = [&found["replaced_entries"], &found["kept_entries"]];
            let expected = if existing == "merge" { [1, 0] } else { [0, 1] };
            assert_eq!(counts, expected, "{errno}, {existing}");
            let old = fs::read_to_string(scratch.path().join("dst/f0")).unwrap();
            assert_eq!(old == "old", existing == "keep", "{errno}, {existing}");
            assert_whole(scratch.path(), "other", errno);
            for tree in ["dst", "other"] {
                remove_tree(&scratch.path().join(tree));
            }
        }
    }
}

#[test]
fn modes_arrive_exactly_where_a_thread_may_not_have_its_own_umask() {
    if !can_strace("unshare refused") {
        return;
    }
    let scratch = scratch();
    one_of_everything(&scratch.path().join("src"), "content");
    for errno in ["EPERM", "ENOSYS", "ENOMEM"] {
        for umask in ["077", "000", "777"] {
            let mut command = program("sh", scratch.path());
            let script = format!("umask {umask}; exec strace -f -qq -o /dev/null \"$@\"");
            command.args(["-c", &script, "sh", "-e", "trace=unshare", "-e"]);
            command.arg(format!("inject=unshare:error={errno}"));
            command.args(["--", env!("CARGO_BIN_EXE_calve"), "clone", "src", "dst"]);
            let run = Run::of(command.output().unwrap(), String::new());
            assert_eq!(run.code, Some(0), "{errno}, {umask}: {run:?}");
            assert_whole(scratch.path(), "dst", &format!("{errno}, umask {umask}"));
            remove_tree(&scratch.path().join("dst"));
        }
    }
}

/// The mode's group bits were the mask of an ACL that did not arrive, and gave the group the rights
/// of others.
#[test]
fn where_the_destination_takes_no_acl_the_group_gains_nothing() {
    use std::os::unix::fs::PermissionsExt;
    const NAME: &str = "a destination without ACLs";
    if !can_strace(NAME) {
        return;
    }
    let scratch = with_files(3);
    let directory = scratch.path();
    fs::create_dir(directory.join("src/folder")).unwrap();
    for name in ["src/file", "src/folder"] {
        let _ = fs::OpenOptions::new().append(true).create(true).open(directory.join(name));
        let mut setfacl = program("setfacl", directory);
        setfacl.args(["-m", "u::rwx,u:12:rwx,g::r,m::rwx,o::-", name]);
        if !setfacl.status().is_ok_and(|status| status.success()) {
            return not_run(NAME, "needs setfacl, and ACLs");
        }
    }
    let run = clone_under(directory, &[("fsetxattr", "error=EOPNOTSUPP")], "clone --json src dst");
    assert_eq!(run.code, Some(3), "{run:?}");
    for name in ["file", "folder"] {
        let mode = |tree: &str| {
            let meta = fs::metadata(directory.join(tree).join(name)).unwrap();
            meta.permissions().mode() & 0o777
        };
        assert_eq!((mode("src"), mode("dst")), (0o770, 0o740), "{name}: {run:?}");
        assert!(run.stderr.contains(&format!("{name}: arrived without")), "{run:?}");
    }
}

#[test]
fn threads_that_cannot_be_had_are_done_without_or_told_of() {
    if !can_strace("threads refused") {
        return;
    }
    let scratch = with_files(50);
    for (when, allowed) in [("1", 0..=1), ("2", 0..=1), ("2+", 0..=1), ("1+", 0..=0)] {
        let fault = format!("error=EAGAIN:when={when}");
        let run = clone_under(scratch.path(), &[("clone3", &fault)], "clone -j 4 src dst");
        let context = format!("clone3 at {when}: {run:?}");
        assert!(run.injected() > 0, "{context}");
        assert!(run.code.is_some_and(|code| allowed.contains(&code)), "{context}");
        if run.code == Some(0) {
            assert_whole(scratch.path(), "dst", &context);
            fs::remove_dir_all(scratch.path().join("dst")).unwrap();
        } else {
            assert_nothing_left(scratch.path(), "clone src dst", &context);
        }
    }
}

/// It is chance which thread meets which name first, and whether the first name's directory is
/// finished by then.
#[test]
fn hard_links_across_directories_arrive_as_such_whichever_thread_is_faster() {
    let scratch = scratch();
    let source = scratch.path().join("src");
    for number in 0..6 {
        let directory = source.join(format!("d{number}/e"));
        fs::create_dir_all(&directory).unwrap();
        for name in ["a", "b"] {
            let file = directory.join(name);
            if number == 0 {
                fs::write(file, name.repeat(5000)).unwrap();
            } else {
                fs::hard_link(source.join("d0/e").join(name), file).unwrap();
            }
        }
    }
    fs::hard_link(source.join("d0/e/a"), source.join("top")).unwrap();
    for jobs in [1, 2, 4, 8] {
        for _ in 0..25 {
            let run = calve(scratch.path(), &format!("clone --json -j {jobs} -n 2 src dst"));
            let context = format!("{jobs} threads: {run:?}");
            assert_eq!(run.code, Some(0), "{context}");
            assert_eq!((run.count("files"), run.count("linked_files")), (13, 11), "{context}");
            for tree in ["dst-1", "dst-2"] {
                fs::remove_dir_all(scratch.path().join(tree)).unwrap();
            }
        }
    }
}

#[test]
fn a_process_that_may_open_few_files_clones_a_deep_and_wide_tree() {
    if cfg!(calve_check) {
        return not_run("few files", "the checking build opens files of its own");
    }
    let scratch = scratch();
    let source = scratch.path().join("src");
    for side in 0..4 {
        let mut directory = source.join(format!("side{side}"));
        for level in 0..40 {
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("file"), format!("{side} {level}")).unwrap();
            directory.push(format!("level{level}"));
        }
    }
    for (limit, words) in [
        (64, "clone src dst"),
        (64, "clone -j 16 src dst"),
        (96, "clone --existing merge src dst"),
        (128, "clone -j 8 src dst other third"),
    ] {
        let mut command = program("sh", scratch.path());
        command.args([
            "-c",
            &format!("ulimit -n {limit}; exec \"$0\" {words}"),
            env!("CARGO_BIN_EXE_calve"),
        ]);
        let run = Run::of(command.output().unwrap(), String::new());
        assert_eq!(run.code, Some(0), "{limit} files, {words}: {run:?}");
        for name in names(scratch.path()) {
            if name != "src" {
                assert_whole(scratch.path(), &name, words);
                fs::remove_dir_all(scratch.path().join(name)).unwrap();
            }
        }
    }
}

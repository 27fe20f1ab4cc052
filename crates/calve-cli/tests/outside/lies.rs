//! Tests what calve does on a filesystem that lies or refuses: a table of lies and verbs, each with
//! its right answer.
//!
//! [`Lies`] mounts `lies/passthrough.c`, which shows a folder as it is, except for the modes that
//! the caller names. Other test files use it, too.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::disk::tool;
use crate::{Run, calve, is_root, is_shared, names, not_run, scratch};

/// The built passthrough; or why there is none.
fn passthrough() -> Result<&'static Path, &'static str> {
    static BUILT: OnceLock<Result<(TempDir, PathBuf), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        if !Path::new("/dev/fuse").try_exists().unwrap() {
            return Err("there is no /dev/fuse".to_owned());
        }
        let flags = tool(directory.path(), "pkg-config --cflags --libs fuse3")?;
        let (source, binary) =
            (directory.path().join("passthrough.c"), directory.path().join("passthrough"));
        fs::write(&source, include_str!("lies/passthrough.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).args([&binary, &source]).args(flags.split_whitespace());
        let output = cc.output().map_err(|error| format!("cc: {error}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((directory, binary))
    });
    built.as_ref().map(|(_, binary)| binary.as_path()).map_err(String::as_str)
}

/// A folder, and a mount that shows it with lies; unmounted whatever happens.
pub(super) struct Lies {
    home: TempDir,
}

impl Lies {
    /// An empty folder without a mount yet.
    pub(super) fn new() -> Self {
        let home = scratch();
        for name in ["behind", "seen"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        Self { home }
    }

    /// Shows the folder with `modes`, in place of an earlier mount. `Err` says why it cannot.
    pub(super) fn mount(&self, modes: &str) -> Result<(), String> {
        self.unmount();
        let options = match is_root() {
            true => "allow_other,default_permissions",
            false => "default_permissions",
        };
        let mut command = Command::new(passthrough()?);
        command.args([modes.as_ref(), self.behind().as_os_str(), self.seen().as_os_str()]);
        let output = command.args(["-o", options]).output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")),
        }
    }

    fn unmount(&self) {
        let seen = self.seen();
        for words in ["fusermount3 -q -u", "umount -l"] {
            if !is_mounted(&seen) {
                return;
            }
            // The second way is for the case that the first one fails.
            let _ = tool(self.home(), &format!("{words} {}", seen.display()));
        }
    }

    /// The folder above both, on the filesystem under test.
    pub(super) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The folder as it is.
    pub(super) fn behind(&self) -> PathBuf {
        self.home().join("behind")
    }

    /// The folder as the mount shows it.
    pub(super) fn seen(&self) -> PathBuf {
        self.home().join("seen")
    }
}

impl Drop for Lies {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// An edit in the second of a look has the times that the look saw.
#[test]
fn an_edit_in_the_second_of_a_snapshot_is_seen_whatever_clock_the_filesystem_has() {
    const TEST: &str =
        "an_edit_in_the_second_of_a_snapshot_is_seen_whatever_clock_the_filesystem_has";
    for modes in ["seconds", "seconds,ctime-is-mtime", "two-seconds"] {
        let lies = Lies::new();
        let home = lies.home();
        fs::create_dir(lies.behind().join("p")).unwrap();
        fs::write(lies.behind().join("p/f"), "v0").unwrap();
        if let Err(why) = lies.mount(modes) {
            return not_run(TEST, &why);
        }
        let run = |words: &str| calve(home, &format!("-C seen/p --store ../../store {words}"));
        for words in ["init -q", "start --at ../w made"] {
            assert_eq!(run(words).code, Some(0), "{modes}: {words}");
        }
        for (file, look, asked) in [
            ("seen/p/f", "snapshot", "start --at ../../w second"),
            ("seen/w/made/f", "snapshot --of made", "drop made"),
        ] {
            // Before, between and after the two edits it is the same second.
            loop {
                let second = || {
                    let now = std::time::SystemTime::now();
                    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 2
                };
                let began = second();
                fs::write(home.join(file), "v1").unwrap();
                assert_eq!(run(look).code, Some(0), "{modes}: {look}");
                fs::write(home.join(file), "v2").unwrap();
                if second() == began {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(2100));
            let answer = run(asked);
            if asked.starts_with("drop") {
                assert_eq!(answer.code, Some(1), "{modes}: {answer:?}");
                assert_eq!(fs::read_to_string(home.join(file)).unwrap(), "v2", "{modes}");
            } else {
                assert_eq!(fs::read_to_string(home.join("w/second/f")).unwrap(), "v2", "{modes}");
            }
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

/// The right answer of a verb.
#[derive(Clone, Copy, Debug)]
enum Right {
    /// Exit code 0, and each file has the content of its source.
    Whole,
    /// Exit code 0 and this text.
    Tells(&'static str),
    /// Exit code 3 and this text.
    Says(&'static str),
    /// Exit code 1, this text, and nothing is left behind.
    Refuses(&'static str),
}
use Right::{Refuses, Says, Tells, Whole};

/// The verbs of the table: a name, and what is run in the folder above the mount, `;` between the
/// commands. The last command is the one whose answer counts; the others must succeed. Its result
/// is `made`, unless that is empty.
struct Verb {
    name: &'static str,
    commands: &'static str,
    made: &'static str,
}

const INIT: &str = "-C seen/p --store ../../store init -q";
const VERBS: [Verb; 10] = [
    Verb { name: "clone", commands: "clone seen/p made", made: "made" },
    Verb { name: "clone into", commands: "clone plain seen/made", made: "behind/made" },
    Verb { name: "clone inside", commands: "clone seen/p seen/made", made: "behind/made" },
    Verb { name: "copy", commands: "clone --mode copy seen/p made", made: "made" },
    Verb { name: "merge", commands: "clone --existing merge seen/p made", made: "made" },
    Verb { name: "durable", commands: "clone --durable plain seen/made", made: "behind/made" },
    Verb {
        name: "start",
        commands: "INIT; -C seen/p --store ../../store start --at ../../w made",
        made: "w/made",
    },
    Verb {
        name: "second start",
        commands: "INIT; -C seen/p --store ../../store snapshot; -C seen/p --store ../../store snapshot; \
                   -C seen/p --store ../../store start --at ../../w made",
        made: "w/made",
    },
    Verb {
        name: "status",
        commands: "INIT; -C seen/p --store ../../store start --at ../w made; \
                   -C seen/p --store ../../store status made",
        made: "behind/w/made",
    },
    Verb {
        name: "drop",
        commands: "INIT; -C seen/p --store ../../store start --at ../w made; \
                   -C seen/p --store ../../store drop made",
        made: "",
    },
];
const ALL: &[&str] = &[];

/// A tree with what lies are about: full files, holes, several names, modes, folders.
fn fixture(root: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for name in ["a", "b", "sub/deep"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let bytes = |seed: u64, count: u64| -> Vec<u8> {
        (0..count).map(|at| (at.wrapping_mul(seed) >> 3).to_le_bytes()[0] | 1).collect()
    };
    fs::write(root.join("full"), bytes(0x9e37_79b9, 200_000)).unwrap();
    let part = fs::File::create(root.join("part")).unwrap();
    part.write_all_at(&bytes(77, 5000), 0).unwrap();
    part.write_all_at(b"end", 400_000).unwrap();
    for (first, further, seed, size) in
        [("a/x", "a/x2", 3, 5000), ("b/y", "b/y2", 5, 7000), ("b/same", "b/same2", 7, 5000)]
    {
        fs::write(root.join(first), bytes(seed, size)).unwrap();
        fs::hard_link(root.join(first), root.join(further)).unwrap();
    }
    for (name, content) in [("empty", ""), ("lie", "content"), ("sub/deep/file", "deep")] {
        fs::write(root.join(name), content).unwrap();
    }
    fs::write(root.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(root.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let long_ago = std::time::UNIX_EPOCH - Duration::from_secs(86_400);
    let deep = fs::File::options().write(true).open(root.join("sub/deep/file")).unwrap();
    deep.set_modified(long_ago).unwrap();
}

/// Every file below `root` by its path, with its content.
fn contents(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for name in names(&root.join(&folder)).into_iter().filter(|name| name != ".calve") {
            let path = folder.join(name);
            let kind = fs::symlink_metadata(root.join(&path)).unwrap().file_type();
            match kind.is_dir() {
                true => folders.push(path),
                false => found.push((path.clone(), fs::read(root.join(path)).unwrap())),
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What is wrong with the answer of `verb` below `modes`, if anything.
fn wrong(modes: &str, verb: &Verb, right: Right) -> Result<Option<String>, String> {
    let lies = Lies::new();
    let home = lies.home();
    fixture(&lies.behind().join("p"));
    fixture(&home.join("plain"));
    lies.mount(modes)?;
    // What read() gives through the mount is the truth, whatever the rest says.
    let source = match verb.commands.contains("seen/p") {
        true => lies.seen().join("p"),
        false => home.join("plain"),
    };
    let wanted = if let Whole = right { contents(&source) } else { Vec::new() };
    let mut run = Run::default();
    for words in verb.commands.split("; ") {
        let words = if words == "INIT" { INIT } else { words };
        run = calve(home, words);
        // A start that left something out has made its worktree.
        if !matches!(run.code, Some(0 | 3)) {
            break;
        }
    }
    let said = format!("{}{}", run.stdout, run.stderr);
    let made = home.join(verb.made);
    let (code, text) = match right {
        Whole => (0, ""),
        Tells(text) => (0, text),
        Says(text) => (3, text),
        Refuses(text) => (1, text),
    };
    if run.code != Some(code) || !said.contains(text) {
        return Ok(Some(format!("exit {:?}: {said}", run.code)));
    }
    let left = |folder: &Path| {
        let stays = |name: &String| name.starts_with(".calve-stage") || name == "made";
        names(folder).into_iter().filter(stays).collect::<Vec<_>>()
    };
    if let Refuses(_) = right {
        let left = [left(home), left(&lies.behind())].concat();
        return Ok((!left.is_empty()).then(|| format!("it leaves {left:?}")));
    }
    if let Says(_) | Tells(_) = right {
        return Ok(None);
    }
    if verb.made.is_empty() {
        return Ok(lies
            .behind()
            .join("w/made")
            .try_exists()
            .unwrap()
            .then(|| "it is still there".to_owned()));
    }
    let got = contents(&made);
    if let Some((path, _)) = wanted.iter().find(|file| !got.contains(file)) {
        return Ok(Some(format!("{} is not its source", path.display())));
    }
    let inode = |name: &str| fs::metadata(made.join(name)).unwrap().ino();
    // Names are one file only if their numbers and times are the same.
    let is_unknown = ["inode", "time-now"].iter().any(|mode| modes.contains(mode));
    let apart = ["a/x", "b/y", "b/same"]
        .into_iter()
        .find(|name| !is_unknown && inode(name) != inode(&format!("{name}2")));
    Ok(apart.map(|name| format!("{name} and {name}2 are two files")))
}

#[test]
fn whatever_a_filesystem_says_a_verb_does_its_work_or_says_why_not() {
    const TEST: &str = "whatever_a_filesystem_says_a_verb_does_its_work_or_says_why_not";
    /// Modes, the verbs (none: all), the right answer.
    const ROWS: &[(&str, &[&str], Right)] = &[
        ("none", ALL, Whole),
        // What read() gives is the content, whatever the size and the blocks say.
        ("holes", ALL, Whole),
        ("longer,direct", ALL, Whole),
        ("shorter,direct", ALL, Whole),
        ("copies-nothing", ALL, Whole),
        // A number that stands for several entries makes no two names one file.
        ("inode-0", ALL, Whole),
        ("inode-same", ALL, Whole),
        ("inode-same,seconds,ctime-is-mtime", ALL, Whole),
        // syncfs() asks no FUSE server for anything.
        ("fsync=ENOSPC", &["durable"], Refuses("ENOSPC")),
        ("fsyncdir=EINVAL", &["durable"], Whole),
        ("twice", ALL, Whole),
        ("not-found@", &["clone", "clone inside", "copy", "merge", "start"], Says("lie: left out")),
        (
            "inode-changes",
            &["clone", "clone into", "copy", "merge", "start", "second start", "status"],
            Whole,
        ),
        ("inode-changes", &["drop"], Refuses("took its place")),
        // Two looks with the same bytes prove what such times cannot.
        ("ctime-now", &["clone", "copy", "merge", "start", "second start", "status"], Whole),
        ("ctime-now", &["drop"], Refuses("changes it all the time")),
        ("mtime-now", &["clone", "copy", "merge", "start", "second start", "status"], Whole),
        ("mtime-now", &["clone into", "durable"], Says("arrived without its times")),
        ("mtime-now", &["drop"], Whole),
        // What was just made is not found for a while.
        ("late", &["clone into", "clone inside", "merge", "start"], Whole),
        ("write=ENOSPC", &["clone into", "clone inside"], Refuses("ENOSPC")),
        ("read=EIO@", &["clone", "copy"], Refuses("EIO")),
        ("statfs=EPERM", &["clone", "clone into", "copy"], Whole),
        ("setxattr=ENOSYS", &["clone", "clone into", "start"], Whole),
        // What a filesystem accepts and forgets is told once, and is no change afterwards.
        ("forgets-modes", &["clone into", "clone inside"], Says(".: arrived without its mode")),
        ("mode-755", &["clone into"], Says("run: arrived without its mode")),
        ("mode-755", &["clone inside", "status", "drop"], Whole),
        ("chmod=EPERM", &["clone into"], Says(".: arrived without its mode")),
        ("forgets-times", &["clone into"], Says("sub/deep/file: arrived without its times")),
        ("clamps-times", &["clone into"], Says("sub/deep/file: arrived without its times")),
        ("utimens=EPERM", &["clone into"], Says("arrived without its times")),
        ("forgets-modes", &["status", "drop"], Whole),
        ("chmod=EPERM", &["status", "drop"], Whole),
        ("forgets-times", &["status", "drop"], Whole),
        ("clamps-times", &["status", "drop"], Whole),
        ("seconds", &["clone into", "status", "drop"], Whole),
        ("two-seconds", &["clone into", "status", "drop"], Whole),
    ];
    let (mut faults, mut number) = (Vec::new(), 1..);
    for (modes, verbs, right) in ROWS {
        let verbs = VERBS.iter().filter(|verb| verbs.is_empty() || verbs.contains(&verb.name));
        for verb in verbs.filter(|_| number.next().is_some_and(is_shared)) {
            match wrong(modes, verb, *right) {
                Ok(None) => {}
                Ok(Some(fault)) => faults.push(format!("{modes}: {}: {fault}", verb.name)),
                Err(why) => return not_run(TEST, &why),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_a_filesystem_forgets_is_not_changed_by_each_restore() {
    let verb = Verb {
        name: "second restore",
        commands: "INIT; -C seen/p --store ../../store start --at ../w made; \
                   -C seen/p --store ../../store restore made; \
                   -C seen/p --store ../../store restore made",
        made: "behind/w/made",
    };
    for modes in ["forgets-times", "clamps-times", "forgets-modes", "chmod=EPERM", "seconds"] {
        match wrong(modes, &verb, Tells(": 0 changed")) {
            Ok(fault) => assert_eq!(fault, None, "{modes}"),
            Err(why) => return not_run("what_a_filesystem_forgets_is_not_changed", &why),
        }
    }
}

#[test]
fn a_store_is_made_only_where_locks_keep_others_out() {
    const TEST: &str = "a_store_is_made_only_where_locks_keep_others_out";
    for (modes, says) in [
        ("flock=ENOLCK", "flock: No locks available"),
        ("flock=EOPNOTSUPP", "flock: "),
        ("lock=ENOLCK", "fcntl: No locks available"),
        ("locks-for-all", "flock: two users get one lock"),
    ] {
        let lies = Lies::new();
        let home = lies.home();
        for project in [lies.behind().join("p"), home.join("local")] {
            fs::create_dir(&project).unwrap();
            fs::write(project.join("f"), "content").unwrap();
        }
        if let Err(why) = lies.mount(modes) {
            return not_run(TEST, &why);
        }
        for words in ["-C seen/p init", "-C local init --store ../seen/store"] {
            let run = calve(home, words);
            assert_eq!(run.code, Some(1), "{modes}: {words}: {run:?}");
            assert!(run.stderr.contains(says), "{modes}: {words}: {run:?}");
            assert!(run.stderr.contains("calve init --store DIR"), "{modes}: {words}: {run:?}");
        }
        assert_eq!(names(&lies.behind()), ["p"], "{modes}");
        assert_eq!(names(&lies.behind().join("p")), ["f"], "{modes}");
        assert_eq!(names(&home.join("local")), ["f"], "{modes}");
        // The way out works.
        assert_eq!(calve(home, "-C seen/p init --store ../../store").code, Some(0), "{modes}");
        assert_eq!(calve(home, "-C seen/p snapshot").code, Some(0), "{modes}");
    }
}

/// An overlay hands on what the filesystem below says about holes. And a server that forgets a file
/// with its last name is no reason for `doctor` to fail.
#[test]
fn an_overlay_is_believed_as_much_as_what_is_below_it() {
    const TEST: &str = "an_overlay_is_believed_as_much_as_what_is_below_it";
    let lies = Lies::new();
    let home = lies.home();
    fixture(&lies.behind().join("p"));
    for name in ["upper", "work", "over"] {
        fs::create_dir(home.join(name)).unwrap();
    }
    if let Err(why) = lies.mount("holes") {
        return not_run(TEST, &why);
    }
    let run = calve(home, "doctor seen");
    assert!(run.stdout.contains("fuse: not tested"), "{run:?}");
    let layers = |names: [&str; 3]| names.map(|name| home.join(name).display().to_string());
    let mount = |lower: &str| {
        let [lower, upper, work] = layers([lower, "upper", "work"]);
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        tool(home, &format!("mount -t overlay overlay -o {options} over"))
    };
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = tool(self.0, "umount -l over");
        }
    }
    if let Err(why) = mount("seen") {
        return not_run(TEST, &why);
    }
    let mounted = Mounted(home);
    let run = calve(home, "clone over/p made");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(contents(&home.join("made")), contents(&lies.behind().join("p")));
    let run = calve(home, "doctor over");
    assert!(run.stdout.contains("overlay: not tested"), "{run:?}");
    drop(mounted);
    fs::create_dir(home.join("lower")).unwrap();
    mount("lower").unwrap();
    let _mounted = Mounted(home);
    let run = calve(home, "doctor over");
    assert!(run.stdout.contains("overlay: tested"), "{run:?}");
}

/// The tree of a worktree that was dropped by force stays on its own filesystem, and nobody was told
/// when it could not be deleted in the end.
#[test]
fn a_dropped_tree_on_another_filesystem_that_cannot_be_deleted_is_named_by_gc() {
    let lies = Lies::new();
    let home = lies.home();
    let project = home.join("local");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("f"), "content").unwrap();
    if let Err(why) = lies.mount("unlink=EPERM@") {
        return not_run("a dropped tree on another filesystem", &why);
    }
    for words in ["-C local init -q", "-C local start -q --at ../seen/w a"] {
        assert_eq!(calve(home, words).code, Some(0), "{words}");
    }
    fs::write(home.join("seen/w/a/lie"), "work").unwrap();
    assert_eq!(calve(home, "-C local drop --force a").code, Some(0));
    let run = calve(home, "-C local store gc --dropped 0s");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("/seen/w/.calve-stage-"), "{run:?}");
    assert!(run.stderr.contains("EPERM") && run.stderr.contains("sudo rm -rf"), "{run:?}");
}

/// Two views of a folder share neither memory nor locks. Each side has a project with a store, and
/// the other side uses it at the same time.
#[test]
fn a_store_is_used_only_on_the_side_that_made_it_and_keeps_all_that_was_acknowledged() {
    const TEST: &str =
        "a_store_is_used_only_on_the_side_that_made_it_and_keeps_all_that_was_acknowledged";
    let lies = Lies::new();
    let home = lies.home();
    for name in ["behind/there", "behind/here"] {
        fs::create_dir(home.join(name)).unwrap();
    }
    if let Err(why) = lies.mount("none") {
        return not_run(TEST, &why);
    }
    for (made, other) in [("behind/there", "seen/there"), ("seen/here", "behind/here")] {
        let init = calve(home, &format!("-C {made} init -q"));
        assert_eq!(init.code, Some(0), "{made}: {init:?}");
        // A third machine could mount the folder, and nobody here would see it.
        let said = ["one machine at a time", "'calve init --store DIR'"];
        assert!(
            said.iter().all(|it| init.stderr.contains(it) == made.starts_with("seen")),
            "{made}: {init:?}"
        );
        let snapshots = |root: &str, writer: &str| {
            let mut acknowledged = Vec::new();
            for number in 0..8 {
                let name = format!("{writer}-{number}");
                fs::write(home.join(root).join(writer), &name).unwrap();
                let run = calve(home, &format!("-C {root} snapshot -q {name}"));
                match run.code {
                    Some(0) => acknowledged.push(name),
                    _ => assert!(run.stderr.contains("--store DIR"), "{root}: {run:?}"),
                }
            }
            acknowledged
        };
        let (mut ours, more, theirs) = std::thread::scope(|scope| {
            let ours = scope.spawn(|| snapshots(made, "a"));
            let more = scope.spawn(|| snapshots(made, "b"));
            let theirs = snapshots(other, "c");
            (ours.join().unwrap(), more.join().unwrap(), theirs)
        });
        ours.extend(more);
        assert_eq!((ours.len(), theirs.len()), (16, 0), "{made}");
        let listed = calve(home, &format!("-C {made} name")).stdout;
        let lost = ours.iter().find(|name| !listed.contains(name.as_str()));
        assert_eq!(lost, None, "{made}: {listed}");
        let verified = calve(home, &format!("-C {made} store verify"));
        assert_eq!(verified.code, Some(0), "{made}: {verified:?}");
        for words in ["list", "start w", "store gc", "store verify"] {
            let run = calve(home, &format!("-C {other} {words}"));
            assert_eq!(run.code, Some(1), "{other}: {words}: {run:?}");
            assert!(run.stderr.contains("made"), "{other}: {words}: {run:?}");
        }
    }
    // Another mount of the same folder has the same name and other locks.
    let second = Lies::new();
    fs::remove_dir(second.behind()).unwrap();
    std::os::unix::fs::symlink(lies.behind(), second.behind()).unwrap();
    second.mount("none").unwrap();
    let run = calve(second.home(), "-C seen/here snapshot");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("another mount"), "{run:?}");
    assert_eq!(calve(home, "-C seen/here snapshot").code, Some(0));
    // When the first one is gone, the second one has it. Work behind a command that has ended may
    // still be at the first one for a moment.
    lies.unmount();
    let snapshot = || calve(second.home(), "-C seen/here snapshot");
    let mut run = snapshot();
    for _ in 0..100 {
        if run.code == Some(0) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        run = snapshot();
    }
    assert_eq!(run.code, Some(0), "{run:?}");
    second.unmount();
    // A copy of the folder is another store, and its hint makes it usable here.
    tool(&lies.behind(), "cp -a here copy").unwrap();
    let format = lies.behind().join("copy/.calve/format");
    let text = fs::read_to_string(&format).unwrap().replace("incompatible memory-not-shared\n", "");
    fs::write(&format, text).unwrap();
    assert_eq!(calve(home, "-C behind/copy name").code, Some(0));
}

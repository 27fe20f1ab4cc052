//! Promise: of worktrees that nobody touched git looks at one, and work is never called clean.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{OFlags, XattrFlags};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Run, calve, command, not_run, run, scratch, worktrees_of};

const FILES: usize = 600;
const CONTENT: &str = "some bytes, more than a filesystem keeps in its metadata for a small file\n";

/// A project with git, whose paths are so long that git's index is large, and a `git` that notes
/// what it was asked.
struct Desk {
    scratch: TempDir,
    project: PathBuf,
    /// From the root of a tree to the folder with the files.
    folder: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let scratch = scratch();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let project = root.join("p");
        let folder: PathBuf = (0..8).map(|at| format!("{at}{}", "d".repeat(230))).collect();
        fs::create_dir_all(project.join(&folder)).unwrap();
        for at in 0..FILES {
            let content = format!("{at}\n{}", CONTENT.repeat(50));
            fs::write(project.join(&folder).join(format!("f{at}")), content).unwrap();
        }
        fs::write(project.join(".gitignore"), "built\n").unwrap();
        let bin = root.join("bin");
        fs::create_dir(&bin).unwrap();
        let git =
            "#!/bin/sh\necho \"$@\" >>\"${0%/*}/../asked\"\nPATH=${PATH#*:} exec git \"$@\"\n";
        fs::write(bin.join("git"), git).unwrap();
        fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("meminfo"), "Dirty: 0 kB\nWriteback: 0 kB\n").unwrap();
        let desk = Self { scratch, project, folder };
        // git reads each file that changed in the second of its index, and the first reading of a
        // file moves its access time.
        desk.sh("find . -type f -exec touch -d '1 minute ago' {} +
            git init -q -b main; git add -A; git -c user.name=n -c user.email=e commit -qm one");
        assert_eq!(calve(&desk.project, "init -q").code, Some(0));
        desk
    }

    #[track_caller]
    fn sh(&self, script: &str) {
        let mut command = Command::new("sh");
        let done = command.args(["-ec", script]).current_dir(&self.project).status().unwrap();
        assert!(done.success(), "{script}");
    }

    #[track_caller]
    fn calve(&self, words: &str) -> Run {
        self.run(words, command(&self.project, words.split_whitespace()))
    }

    /// The same on a machine on which nothing waits to be written to a disk: then a flush pays.
    /// What other programs write meanwhile is hidden from the command.
    #[track_caller]
    fn calve_on_a_quiet_machine(&self, words: &str) -> Run {
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "sh", "-ec", QUIET, env!("CARGO_BIN_EXE_calve")]);
        inside.args(words.split_whitespace()).current_dir(&self.project);
        self.run(words, inside)
    }

    /// Why no quiet machine can be had here.
    fn why_never_quiet(&self) -> Option<String> {
        if !self.is_on_btrfs() {
            return Some("only btrfs says whether a tree was touched".to_owned());
        }
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "sh", "-ec", QUIET, "true"]).current_dir(&self.project);
        let output = inside.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then(|| format!("a mount of its own: {error}"))
    }

    #[track_caller]
    fn run(&self, words: &str, mut command: Command) -> Run {
        let path = std::env::var("PATH").unwrap();
        let bin = fs::canonicalize(self.scratch.path()).unwrap().join("bin");
        let run = run({
            command.env("PATH", format!("{}:{path}", bin.display()));
            command
        });
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    }

    /// What `list` says of the changes in each worktree, and of how many trees git looked at the
    /// files for that.
    #[track_caller]
    fn listed(&self) -> (Vec<(String, u64)>, usize) {
        self.listed_by(Self::calve)
    }

    #[track_caller]
    fn listed_by(&self, calve: impl Fn(&Self, &str) -> Run) -> (Vec<(String, u64)>, usize) {
        let log = self.project.with_file_name("asked");
        let _ = fs::remove_file(&log);
        let document = calve(self, "list --json").json();
        let row = |row: &Value| {
            let changes = row["git"]["uncommitted"].as_u64().unwrap();
            (row["name"].as_str().unwrap().to_owned(), changes)
        };
        let rows = document["worktrees"].as_array().unwrap().iter().map(row).collect();
        let asked = fs::read_to_string(log).unwrap();
        (rows, asked.lines().filter(|line| line.contains(" status ")).count())
    }

    /// The same on a quiet machine, where git looks at so many trees.
    #[track_caller]
    fn assert_listed(&self, expected: &[(String, u64)], looks: usize) {
        let listed = self.listed_by(Self::calve_on_a_quiet_machine);
        // The checking build asks git about each worktree, to compare.
        let looks = if cfg!(calve_check) { listed.1 } else { looks };
        assert_eq!(listed, (expected.to_vec(), looks));
    }

    fn file(&self, worktree: &str, name: &str) -> PathBuf {
        worktrees_of(&self.project).join(worktree).join(&self.folder).join(name)
    }

    fn is_on_btrfs(&self) -> bool {
        let mut command = Command::new("stat");
        let kind = command.args(["-f", "-c", "%T"]).arg(&self.project).output().unwrap().stdout;
        kind == b"btrfs\n"
    }
}

/// Runs the command that follows where the kernel says that nothing waits to be written.
const QUIET: &str = "mount --bind ../meminfo /proc/meminfo; exec \"$0\" \"$@\"";

type Edit = fn(&Path);

/// Edits of a file, and how many changes git lists of each.
const EDITS: [(&str, u64, Edit); 18] = [
    ("a byte in its place", 1, |file| {
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        file.write_all_at(b"X", 9).unwrap();
    }),
    ("a byte past the caches", 1, |file| {
        let flags = OFlags::WRONLY | OFlags::SYNC;
        let file = rustix::fs::open(file, flags, rustix::fs::Mode::empty()).unwrap();
        rustix::io::pwrite(&file, b"X", 9).unwrap();
    }),
    ("a byte at the end", 1, |file| {
        let file = fs::OpenOptions::new().append(true).open(file).unwrap();
        std::io::Write::write_all(&mut &file, b"X").unwrap();
    }),
    ("other content", 1, |file| fs::write(file, "X").unwrap()),
    ("a shorter file", 1, |file| {
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(3).unwrap();
    }),
    ("a longer file", 1, |file| {
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, 1 << 20).unwrap();
    }),
    ("a hole", 1, |file| {
        let file = fs::OpenOptions::new().write(true).open(file).unwrap();
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, 16).unwrap();
    }),
    ("the content of another file, shared", 1, |file| {
        let other = fs::File::open(file.with_file_name("f599")).unwrap();
        let file = fs::File::create(file).unwrap();
        // Where blocks cannot be shared, an empty file is a change, too.
        if let Err(errno) = rustix::fs::ioctl_ficlone(&file, &other) {
            assert_eq!(errno, rustix::io::Errno::OPNOTSUPP);
        }
    }),
    ("another file in its place", 1, |file| {
        fs::write(file.with_file_name("new"), "X").unwrap();
        fs::rename(file.with_file_name("new"), file).unwrap();
    }),
    ("another name", 2, |file| fs::rename(file, file.with_file_name("other")).unwrap()),
    ("a link in its place", 1, |file| {
        fs::remove_file(file).unwrap();
        symlink("X", file).unwrap();
    }),
    ("gone", 1, |file| fs::remove_file(file).unwrap()),
    ("a new file", 1, |file| fs::write(file.with_file_name("new"), "X").unwrap()),
    ("a program", 1, |file| {
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }),
    ("what git ignores", 0, |file| fs::write(file.with_file_name("built"), "X").unwrap()),
    ("a time", 0, |file| {
        fs::File::open(file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }),
    ("an attribute", 0, |file| {
        rustix::fs::setxattr(file, c"user.x", b"1", XattrFlags::empty()).unwrap();
    }),
    ("the same content again", 0, |file| fs::write(file, fs::read(file).unwrap()).unwrap()),
];

/// A list looked at each file of each worktree, and took 42 seconds for a hundred worktrees of 78,000
/// files that nobody had touched.
#[test]
fn git_looks_at_one_of_the_worktrees_that_nobody_touched_and_at_each_that_somebody_did() {
    let desk = Desk::new();
    if let Some(reason) = desk.why_never_quiet() {
        not_run(
            "git_looks_at_one_of_the_worktrees_that_nobody_touched_and_at_each_that_somebody_did",
            &reason,
        );
        return;
    }
    let names: Vec<String> = (0..EDITS.len() + 6).map(|at| format!("w{at:02}")).collect();
    desk.calve(&format!("start -q {}", names.join(" ")));
    let mut expected: Vec<(String, u64)> = names.iter().map(|name| (name.clone(), 0)).collect();
    desk.assert_listed(&expected, 1);
    // A user's own look is no touch.
    desk.sh("for w in ../p.worktrees/*; do git -C $w status >../words; done");
    desk.assert_listed(&expected, 1);

    // An open file that is written to later, and no other process sees it.
    let held = fs::OpenOptions::new().write(true).open(desk.file("w22", "f1")).unwrap();
    for (at, (what, changes, edit)) in EDITS.iter().enumerate() {
        edit(&desk.file(&names[at + 1], "f7"));
        expected[at + 1].1 = *changes;
        assert_eq!(desk.listed().0, expected, "{what}");
    }
    held.write_all_at(b"X", 5).unwrap();
    expected[22].1 = 1;
    assert_eq!(desk.listed().0, expected, "by a file that was open");

    // What git knows, and no file of the tree.
    let touched = EDITS.len() + 1;
    desk.assert_listed(&expected, touched + 1);
    desk.sh("git -C ../p.worktrees/w21 rm -q --cached .gitignore");
    expected[21].1 = 2;
    assert_eq!(desk.listed().0, expected, "what is staged");
    desk.sh(
        "cd ../p.worktrees/w20; git -c user.name=n -c user.email=e commit -q --allow-empty -m x",
    );
    let rows = desk.calve("list --json").json();
    assert_eq!(rows["worktrees"][20]["git"]["ahead"], 1);
    assert_eq!(rows["worktrees"][20]["git"]["branch"], "w20");
    assert_eq!(rows["worktrees"][19]["git"]["ahead"], 0);
}

/// Each worktree was looked at twice before it was renamed, and once more after that.
#[test]
fn several_worktrees_are_looked_at_once_before_a_drop_and_work_in_one_keeps_all() {
    let desk = Desk::new();
    let names: Vec<String> = (0..EDITS.len() + 8).map(|at| format!("w{at:02}")).collect();
    desk.calve(&format!("start -q {}", names.join(" ")));
    let log = desk.project.with_file_name("asked");
    let looks = |calve: fn(&Desk, &str) -> Run, words: &str| {
        let _ = fs::remove_file(&log);
        calve(&desk, words);
        let asked = fs::read_to_string(&log).unwrap();
        asked.lines().filter(|line| line.contains(" status ")).count()
    };
    let is_there = |at: usize| worktrees_of(&desk.project).join(&names[at]).is_dir();
    for (at, (what, changes, edit)) in EDITS.iter().enumerate().filter(|(_, row)| row.1 > 0) {
        edit(&desk.file(&names[at + 1], "f7"));
        let words = format!("drop -q w00 w25 {} w24 w23", names[at + 1]);
        let run = calve(&desk.project, &words);
        assert_eq!(run.code, Some(1), "{what}, {changes}: {run:?}");
        assert!(run.stderr.contains("not committed"), "{what}: {run:?}");
        assert!((0..names.len()).all(is_there), "{what}");
    }
    // A patch that waits, and a commit that only one of them has.
    for (what, script) in [
        ("a lock", "git worktree lock ../p.worktrees/w23"),
        (
            "a patch",
            "d=.git/worktrees/w24/rebase-apply; mkdir $d; touch $d/applying; echo x >$d/0001; echo 1 >$d/next",
        ),
        (
            "a commit",
            "git -C ../p.worktrees/w25 checkout -q --detach; git -C ../p.worktrees/w25 -c user.name=n -c user.email=e commit -q --allow-empty -m x",
        ),
    ] {
        desk.sh(script);
        let words = match what {
            "a lock" => "drop -q w00 w23 w21",
            "a patch" => "drop -q w00 w24 w21",
            _ => "drop -q w00 w25 w21",
        };
        let run = calve(&desk.project, words);
        assert_eq!(run.code, Some(1), "{what}: {run:?}");
        assert!((0..names.len()).all(is_there), "{what}");
    }
    // Those that nobody changed.
    assert!(looks(Desk::calve, "drop -q w00 w19 w20 w21 w22") <= 5);
    assert!(![0, 19, 20, 21, 22].into_iter().any(is_there));
    if desk.why_never_quiet().is_none() {
        desk.calve("start -q a b c d e f g h i j k l m n o p");
        let words = "drop -q a b c d e f g h i j k l m n o p";
        assert_eq!(looks(Desk::calve_on_a_quiet_machine, words), 1);
    }
}

/// A hundred worktrees that nobody touched took 40 seconds.
#[test]
fn what_one_worktree_tells_of_the_disk_is_what_each_of_them_says_itself() {
    let test = "what_one_worktree_tells_of_the_disk_is_what_each_of_them_says_itself";
    let desk = Desk::new();
    if let Some(reason) = desk.why_never_quiet() {
        not_run(test, &reason);
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        not_run(test, "strace is not installed");
        return;
    }
    let names: Vec<String> = (0..8).map(|at| format!("w{at:02}")).collect();
    desk.calve(&format!("start -q {}", names.join(" ")));
    let ones = |words: &str| {
        let mut document = desk.calve_on_a_quiet_machine(words).json();
        document.as_object_mut().unwrap().remove("elapsed_seconds");
        document
    };
    let seals = |from: &str, to: &str| {
        desk.sh(&format!(
            "for r in .git/worktrees/*; do if [ -e $r/{from} ]; then mv $r/{from} $r/{to}; fi; done"
        ));
    };
    let log = desk.project.with_file_name("asked-the-kernel");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "trace=ioctl", "-o"]).arg(&log);
    traced.args(["unshare", "--mount", "sh", "-ec", QUIET, env!("CARGO_BIN_EXE_calve"), "du"]);
    traced.current_dir(&desk.project);
    desk.run("du", traced);
    let asked = fs::read_to_string(&log).unwrap();
    let asked = asked.lines().filter(|line| line.contains("FS_IOC_FIEMAP")).count();
    // One of the eight, the project, and what the store has of it; some are asked twice.
    assert!(asked / FILES <= 8, "{asked}");
    for edited in [0..1, 1..4, 4..6] {
        for (at, (_, _, edit)) in EDITS.iter().enumerate().take(edited.end).skip(edited.start) {
            edit(&desk.file(&names[at], "f7"));
        }
        for words in ["du --json", "du --json w00 w07", "du --json w01 w02"] {
            let told = ones(words);
            seals("calve-seal", "no-seal");
            assert_eq!(told, ones(words), "{edited:?}: {words}");
            seals("no-seal", "calve-seal");
        }
    }
}

/// A process of git takes some milliseconds, which is a tenth of a start. A start asked ten times.
#[test]
fn no_verb_runs_git_more_often_than_this() {
    let desk = Desk::new();
    let log = desk.project.with_file_name("asked");
    // The checking build asks git to compare.
    let most = |count: usize| if cfg!(calve_check) { usize::MAX } else { count };
    for (words, expected) in [
        // Settings and branches are asked for at once. git finds the repository while calve reads the
        // store. It makes the branch and the registration by two runs, while the tree arrives.
        ("start -q a", 5),
        // A word with a slash may be a branch of a remote, which is asked at once.
        ("start -q feature/x", 5),
        ("start -q b c d", 9),
        ("start -q --git none e", 2),
        ("list", 8),
        ("list --no-status", 0),
        ("snapshot -q one", 0),
        ("status --json a", 0),
        ("diff -q a", 0),
        ("du a", 0),
        ("env a", 1),
        ("restore -q one e", 0),
        ("drop -q a", 1),
        ("drop -q feature-x", 1),
        ("drop -q e", 0),
        // Two of them for the seals of btrfs, and one for what holds the commits of all of them.
        ("drop -q b c d", 6),
        // Who holds its commits and whether a working tree uses it, is asked of each branch. Of
        // three, that is asked before the first drop, too, and all references after each.
        ("start -q i", 5),
        ("drop -q --delete-branch i", 6),
        ("start -q j k l", 9),
        ("drop -q --delete-branch j k l", 26),
        ("start -q --branch other m", 5),
        ("start -q --detach n", 4),
        ("start -q --base main o", 13),
    ] {
        let _ = fs::remove_file(&log);
        let run = desk.calve(words);
        let asked = fs::read_to_string(&log).unwrap_or_default();
        let count = asked.lines().count();
        assert!(count <= most(expected), "{words}: {count}, not {expected}: {run:?}\n{asked}");
    }
}

/// A start read the registration of each other worktree four times, a drop looked at each folder
/// above each of them, and a list read each mark five times.
#[test]
fn another_worktree_costs_each_verb_no_more_system_calls_than_this() {
    let test = "another_worktree_costs_each_verb_no_more_system_calls_than_this";
    if cfg!(calve_check) || Command::new("strace").arg("-V").output().is_err() {
        not_run(test, "strace is not installed, or the checking build looks at more");
        return;
    }
    let desk = Desk::new();
    desk.calve("start -q -n 12 --prefix other");
    let log = desk.project.with_file_name("calls");
    for (words, most) in [
        ("start -q a", 8),
        ("drop -q a", 5),
        ("status -q", 3),
        ("path other-1", 3),
        // One tells the commit of its branch, in case that git forgets the registration.
        ("list --no-status", 25),
    ] {
        let _ = fs::remove_dir_all(&log);
        fs::create_dir(&log).unwrap();
        let mut traced = Command::new("strace");
        traced.args(["-ff", "-qq", "-s", "200", "-o"]).arg(log.join("of"));
        traced.arg(env!("CARGO_BIN_EXE_calve")).args(words.split_whitespace());
        traced.current_dir(&desk.project);
        desk.run(words, traced);
        let calls = |of: PathBuf| -> Vec<String> {
            let calls = fs::read_to_string(of).unwrap();
            let of_git = calls.lines().any(|it| it.starts_with("execve(") && it.contains("/git\""));
            let of_others = calls.lines().filter(|call| call.contains("other-7") && !of_git);
            of_others.map(str::to_owned).collect()
        };
        let logs = fs::read_dir(&log).unwrap().map(|it| it.unwrap().path());
        let calls: Vec<String> = logs.flat_map(calls).collect();
        assert!(calls.len() <= most, "{words}: {}\n{}", calls.len(), calls.join("\n"));
    }
}

/// A change in the transaction of btrfs in which a worktree was published does not move the number of
/// the last change.
#[test]
fn work_that_begins_the_moment_a_worktree_is_there_is_seen() {
    let desk = Desk::new();
    for round in 0..8 {
        let names: Vec<String> = (0..4).map(|at| format!("r{round}w{at}")).collect();
        let edited = names[1].clone();
        let file = desk.file(&edited, "f7");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while fs::symlink_metadata(&file).is_err() {
                    std::hint::spin_loop();
                }
                fs::remove_file(&file).unwrap();
            });
            desk.calve(&format!("start -q {}", names.join(" ")));
        });
        for (name, changes) in desk.listed().0 {
            assert_eq!(changes, u64::from(name.ends_with("w1")), "{name}");
        }
    }
}

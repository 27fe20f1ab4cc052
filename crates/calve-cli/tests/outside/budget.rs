//! Counts with strace what commands cost: the system calls for a file, the processes of git, and the
//! flushes. What a file costs is the difference between two trees, so the fixed cost of an operation
//! does not count.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::tree::many_files;
use crate::{calve, can_strace, expects_reflink, filesystem, not_run, output, scratch, straced};

/// openat, fstat, flistxattr, openat, ioctl, utimensat, close, close. The rest is the share in the
/// file's directory of a hundred files: calve opens, makes and lists it, looks at it before and
/// after that, sets its metadata, and closes it.
const REFLINK_MOST: f64 = 9.0;
/// The same, with pread64 and pwrite64 instead of the ioctl, and fstat behind them: whether somebody
/// wrote to the file while it was copied.
const COPY_MOST: f64 = 11.0;
/// One look at each file for the price, which calve prints before it writes the first byte of a
/// copy that nobody asked for; and the share in the listing of its directory.
const PRICE_MOST: f64 = 1.1;

/// All calls of all threads, except those by which threads wait for each other: under strace their
/// number only shows how slow strace is.
fn calls(directory: &Path, words: &str) -> f64 {
    // Without optimisation the standard library checks every descriptor that it closes.
    let but = if cfg!(debug_assertions) {
        "trace=!futex,sched_yield,fcntl"
    } else {
        "trace=!futex,sched_yield"
    };
    let run = straced(directory, &["-c", "-U", "calls,name", "-e", but], words);
    assert_eq!(run.code, Some(0), "{run:?}");
    let total = run.log.lines().rev().find(|line| line.trim_end().ends_with(" total"));
    let total = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    total.unwrap_or_else(|| panic!("no total: {run:?}"))
}

/// Calls per file between the trees of `less` and of `more` files.
fn calls_per_file(directory: &Path, less: usize, more: usize, options: &str) -> f64 {
    let mut counted = [less, more].map(|files| {
        let source = directory.join(format!("src{files}"));
        if !source.is_dir() {
            many_files(&source, files, 1000, "content");
        }
        let count = calls(directory, &format!("clone {options} src{files} dst"));
        fs::remove_dir_all(directory.join("dst")).unwrap();
        count
    });
    counted[1] -= counted[0];
    counted[1] / (more - less) as f64
}

#[test]
fn a_small_file_costs_a_handful_of_system_calls_and_as_many_in_a_larger_tree() {
    if !can_strace("the budget of system calls") {
        return;
    }
    let scratch = scratch();
    let directory = scratch.path();
    let reflink = if expects_reflink() { REFLINK_MOST } else { COPY_MOST + PRICE_MOST };
    for (options, most) in [
        ("", reflink),
        ("-j 1", reflink),
        ("-j 4", reflink),
        ("--reflink never", COPY_MOST),
        // calve asks for the ACL instead of the list, because the ACL decides about the rights of
        // the group.
        ("--no-xattrs", reflink),
        ("--mode hardlink", 3.0),
    ] {
        let at_first = calls_per_file(directory, 1000, 2000, options);
        let further = calls_per_file(directory, 2000, 5000, options);
        println!(
            "{options:18} {at_first:.2} calls a file from 1,000 to 2,000, {further:.2} from 2,000 to 5,000"
        );
        assert!(at_first <= most, "{options}: {at_first:.2} calls a file");
        assert!(
            (further - at_first).abs() <= 0.3,
            "{options}: {at_first:.2} calls a file, and then {further:.2}"
        );
    }
}

/// What a command costs, with the processes of git that it starts, and without those that go on in
/// the background.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    git: usize,
    flushes: usize,
    looks: usize,
}

/// The calls by which programs look at a path or an open file.
const LOOKS: [&str; 4] = ["statx", "newfstatat", "lstat", "stat"];
const FLUSHES: [&str; 4] = ["fsync", "fdatasync", "syncfs", "sync"];
const BEGINS: [&str; 4] = ["clone", "clone3", "fork", "vfork"];

impl Cost {
    fn of(directory: &Path, words: &str) -> Self {
        let names = LOOKS.iter().chain(&FLUSHES).chain(&BEGINS).map(|name| format!("?{name}"));
        let traced = format!("trace=execve,{}", names.collect::<Vec<_>>().join(","));
        let run = straced(directory, &["-z", "-e", &traced], words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        // The thread, the name of the call, and the rest.
        let calls: Vec<_> = run
            .log
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace))
            .filter_map(|(thread, call)| Some((thread, call.trim_start().split_once('(')?)))
            .collect();
        let begun = calls.iter().filter(|(_, (name, _))| BEGINS.contains(name));
        let above: HashMap<&str, &str> =
            begun.filter_map(|(by, (_, rest))| Some((rest.rsplit_once("= ")?.1, *by))).collect();
        let is_run = |rest: &str, program: &str| {
            rest.split('"').nth(1).is_some_and(|path| path.ends_with(program))
        };
        let runs = |program| {
            let runs = calls
                .iter()
                .filter(move |(_, (name, rest))| *name == "execve" && is_run(rest, program));
            runs.map(|(thread, _)| *thread)
        };
        let behind: HashSet<&str> = runs("/calve").skip(1).collect();
        let is_behind = |thread: &str| {
            std::iter::successors(Some(thread), |it| above.get(it).copied())
                .any(|it| behind.contains(it))
        };
        let count = |names: &[&str]| {
            let is_counted =
                |(thread, (name, _)): &&(&str, _)| names.contains(name) && !is_behind(thread);
            calls.iter().filter(is_counted).count()
        };
        let git = runs("/git").filter(|thread| !is_behind(thread)).count();
        Self { git, flushes: count(&FLUSHES), looks: count(&LOOKS) }
    }
}

/// A command, and the most that it may cost: first elsewhere, then on btrfs.
struct Verb {
    words: &'static str,
    git: [usize; 2],
    flushes: [usize; 2],
    /// How often the command, and git for it, looks at each tracked file.
    looks: f64,
}

/// Each runs in the project that the ones before it left. docs/design/linked.md says why a start
/// has four processes of git. A drop looks at the worktree beside git, and when it has renamed it.
const VERBS: [Verb; 9] = [
    Verb { words: "start a", git: [4; 2], flushes: [9, 13], looks: 1.0 },
    Verb { words: "list", git: [2; 2], flushes: [0; 2], looks: 1.0 },
    Verb { words: "status a", git: [0; 2], flushes: [0; 2], looks: 1.0 },
    Verb { words: "drop a", git: [1; 2], flushes: [7; 2], looks: 2.0 },
    Verb { words: "start -n 3", git: [8; 2], flushes: [8; 2], looks: 1.0 },
    Verb { words: "list", git: [4, 6], flushes: [0; 2], looks: 3.0 },
    Verb { words: "snapshot --of worktree-1", git: [0; 2], flushes: [0; 2], looks: 1.0 },
    Verb { words: "restore worktree-1", git: [0; 2], flushes: [10; 2], looks: 1.0 },
    Verb { words: "drop worktree-2 worktree-3", git: [3, 5], flushes: [11; 2], looks: 6.0 },
];

#[test]
fn a_verb_asks_git_flushes_and_looks_at_files_as_often_as_its_row_says() {
    let test = "the budget of verbs";
    if !can_strace(test) {
        return;
    }
    if !expects_reflink() {
        return not_run(test, "a start copies, and keeps no ready tree");
    }
    let scratch = scratch();
    let on = usize::from(filesystem() == "btrfs");
    let costs = [200, 1200].map(|files| {
        let project = scratch.path().join(format!("p{files}"));
        many_files(&project, files, 100, "content");
        let mut shell = Command::new("sh");
        let commit =
            "git init -q && git add . && git -c user.name=n -c user.email=e commit -qm one";
        shell.args(["-c", commit]).current_dir(&project);
        let made = output(shell);
        assert!(made.status.success(), "{made:?}");
        for words in ["init", "store warm --keep 1"] {
            let run = calve(&project, words);
            assert_eq!(run.code, Some(0), "{words}: {run:?}");
        }
        VERBS.map(|verb| {
            let cost = Cost::of(&project, verb.words);
            if verb.words.starts_with("start") {
                // The files of a start's second are looked at once more.
                sleep(Duration::from_millis(1100));
            }
            cost
        })
    });
    let mut over = Vec::new();
    for (verb, few, many) in VERBS.iter().zip(costs[0]).zip(costs[1]).map(|((a, b), c)| (a, b, c)) {
        let looks = many.looks.saturating_sub(few.looks) as f64 / 1000.0;
        let cost = format!(
            "{:28}{} git, {} flushes, {looks:.2} looks a file",
            verb.words, many.git, many.flushes
        );
        println!("{cost}");
        // The folders are looked at, too.
        let is_within = many.git <= verb.git[on]
            && many.flushes <= verb.flushes[on]
            && looks <= verb.looks + 0.2;
        over.extend((!is_within).then_some(cost));
    }
    assert!(over.is_empty(), "over the budget: {over:#?}");
}

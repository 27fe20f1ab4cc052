//! Tests that the number of open files is bounded. A tree that is deeper than the open file limit,
//! at more places than that, goes through snapshot, start, status and switch. The test sets both
//! limits (soft and hard), because the command raises the soft one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tree::{difference, work};
use crate::{Run, not_run, program, scratch};

/// The command under a limit of open files.
fn limited(directory: &Path, limit: u64, words: &str) -> Run {
    let mut command = program("sh", directory);
    command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &limit.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_calve")).args(words.split_whitespace());
    Run::of(command.output().unwrap(), String::new())
}

/// Like [`limited`], for a command that must succeed.
#[track_caller]
fn done(row: &str, directory: &Path, limit: u64, words: &str) -> Run {
    let run = limited(directory, limit, words);
    assert_eq!(run.code, Some(0), "{row}: {words}: {run:?}");
    run
}

/// The folder at `level` of a project that [`deep_project`] made.
fn folder(project: &Path, level: usize) -> PathBuf {
    let mut path = project.to_owned();
    path.extend(std::iter::repeat_n("d", level));
    path
}

/// Makes files before and after the next folder at each level, a folder beside it, and hard links
/// over many levels.
fn deep_project(project: &Path, depth: usize) {
    let mut at = project.to_owned();
    for level in 0..=depth {
        fs::create_dir(&at).unwrap();
        if level % 3 == 0 {
            for name in ["a", "z"] {
                fs::write(at.join(name), format!("{level} {name}\n").repeat(30)).unwrap();
            }
            fs::create_dir_all(at.join("side/below")).unwrap();
            fs::write(at.join("side/below/file"), format!("{level}\n")).unwrap();
        }
        if level % 10 == 5 {
            fs::hard_link(project.join("a"), at.join("h")).unwrap();
        }
        at.push("d");
    }
}

#[track_caller]
fn assert_same(row: &str, project: &Path, worktree: &Path) {
    // What compares them calls itself for each level.
    let look = || difference(&work(project), &work(worktree));
    let difference = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 20);
        thread.spawn_scoped(scope, look).unwrap().join().unwrap()
    });
    assert!(difference.is_empty(), "{row}: {}", worktree.display());
}

/// The removal of the temporary directory would keep a descriptor open for each level. Dropped
/// worktrees may still be disappearing.
fn remove(path: &Path) {
    let rm = || Command::new("rm").arg("-rf").arg(path).stderr(Stdio::null()).status();
    assert!((0..100).any(|_| rm().unwrap().success()), "{}", path.display());
}

#[test]
fn trees_that_are_deeper_and_more_than_files_may_be_open_are_snapshotted_started_and_switched() {
    let name = "trees that are deeper than files may be open";
    if cfg!(calve_check) {
        return not_run(name, "the checking build opens files of its own");
    }
    for (limit, depth, count, jobs) in [
        (64, 1000, 1, 1),
        (64, 300, 1, 8),
        (64, 40, 4, 2),
        (256, 120, 8, 2),
        (256, 120, 8, 8),
        (1024, 1100, 1, 2),
        (1024, 24, 40, 2),
    ] {
        let row = format!("{limit} files, {depth} levels, {count} worktrees, {jobs} threads");
        let scratch = scratch();
        let (project, trees) = (scratch.path().join("project"), scratch.path().join("trees"));
        deep_project(&project, depth);
        let run = |words: &str| done(&row, &project, limit, &format!("{words} -j {jobs}"));
        run("init");
        run("snapshot one");
        fs::write(folder(&project, depth).join("new"), "new").unwrap();
        fs::write(folder(&project, depth / 2).join("new"), "new").unwrap();
        run(&format!("start -n {count} --prefix w --at {}", trees.display()));
        for number in 1..=count {
            assert_same(&row, &project, &trees.join(format!("w-{number}")));
        }
        let worktree = trees.join("w-1");
        let changed = folder(&worktree, depth).join("new");
        fs::write(&changed, "changed by hand").unwrap();
        let status = limited(&project, limit, &format!("status --json -j {jobs} w-1"));
        let changes = status.json()["changes"].as_array().map(Vec::len);
        assert_eq!(changes, Some(1), "{row}: {status:?}");
        // Both open each entry from the root, which takes a second for each million steps.
        let switches = depth <= 300;
        if switches {
            run("restore w-1");
            assert_same(&row, &project, &worktree);
        }
        fs::write(&changed, "changed by hand again").unwrap();
        run("snapshot --of w-1");
        if switches {
            run("restore one w-1");
            assert!(!changed.try_exists().unwrap(), "{row}");
        }
        run("drop --force w-1");
        run("store gc");
        remove(&project);
        remove(&trees);
    }
}

#[test]
fn more_worktrees_at_once_than_files_may_be_open_are_refused_with_the_number_that_it_takes() {
    let scratch = scratch();
    let (project, trees) = (scratch.path().join("project"), scratch.path().join("trees"));
    deep_project(&project, 3);
    done("init", &project, 64, "init");
    let words = format!("start -n 100 --at {}", trees.display());
    let run = limited(&project, 64, &words);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(!run.stderr.contains("EMFILE"), "{run:?}");
    let needed = run.stderr.split("ulimit -n ").nth(1).and_then(|rest| {
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok()
    });
    let needed = needed.unwrap_or_else(|| panic!("no number: {run:?}"));
    assert_eq!(fs::read_dir(&trees).map_or(0, Iterator::count), 0, "nothing is left behind");
    done("with what it asked for", &project, needed, &words);
    remove(&trees);
}

//! Promise: an operation's knowledge about a filesystem does not affect the next operation. A
//! process that keeps a store open shares blocks again when the kernel no longer refuses.
//!
//! The reason for this test: the kernel said EPERM for three files (a sandbox does that for a
//! while), and after that an open store copied every file for ever.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use calve::{SnapshotOptions, SnapshotReport, StartOptions, Store, StoreOptions};

use crate::common;
use crate::common::{Scratch, assert_child_done, child, expects_reflink, has_command, not_run};

const FILES: u64 = 12;
const DIR: &str = "CALVE_TEST_LEARNED";

fn wait_for(mut what: impl FnMut() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing comes");
        thread::sleep(Duration::from_millis(5));
    }
}

fn write_files(project: &Path, generation: u64) {
    for number in 0..FILES {
        let content = common::bytes(generation * 100 + number, 20_000);
        fs::write(project.join(format!("file {number}")), content).unwrap();
    }
    // Old enough to be hashed before it is cloned.
    thread::sleep(Duration::from_millis(50));
}

/// Does all of it with one open store; between the two, `dir` has the word.
fn twice(dir: &Path) {
    let project = dir.join("project");
    fs::create_dir(&project).unwrap();
    let store = Store::init(&project).unwrap();
    let options = StoreOptions::new();
    let start = |name: &str, from: &SnapshotReport| {
        let at = StartOptions::new().from(from.id).at(dir.join("trees"));
        let report = store.start(&[name], &at, &options).unwrap().worktrees.remove(0).report;
        (report.reflinked_files, report.copied_files, report.method)
    };
    write_files(&project, 0);
    fs::write(dir.join("ready"), "").unwrap();
    wait_for(|| dir.join("refused").try_exists().unwrap());
    let first = store.snapshot(&SnapshotOptions::new(), &options).unwrap();
    let tree = start("first", &first);
    fs::write(dir.join("done"), "").unwrap();
    wait_for(|| dir.join("allowed").try_exists().unwrap());
    assert_eq!((first.cloned_files, first.copied_files), (0, FILES), "nothing was refused");
    assert_eq!(tree.0, 0, "nothing was refused: {tree:?}");
    write_files(&project, 1);
    let second = store.snapshot(&SnapshotOptions::new(), &options).unwrap();
    assert_eq!((second.cloned_files, second.copied_files), (FILES, 0));
    let tree = start("second", &second);
    assert_eq!(tree.1, 0, "{tree:?}");
}

#[test]
fn an_open_store_shares_blocks_again_when_nothing_is_refused_any_more() {
    let test = "an_open_store_shares_blocks_again_when_nothing_is_refused_any_more";
    let body = || twice(Path::new(&std::env::var_os(DIR).unwrap()));
    let Some(mut command) = child(test, "twice", body) else { return };
    let scratch = Scratch::new();
    if !expects_reflink(scratch.path()) {
        return not_run(test, "ext4, tmpfs: nothing to refuse, where nothing is shared");
    }
    if !has_command("strace") {
        return not_run(test, "xfs, btrfs: there is no strace");
    }
    let mut child = command
        .env(DIR, scratch.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(|| scratch.join("ready").try_exists().unwrap() || child.try_wait().unwrap().is_some());
    let pid = child.id().to_string();
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=ioctl",
            "-e",
            "inject=ioctl:error=EPERM",
        ])
        .args(["-p", &pid])
        .spawn()
        .unwrap();
    let status = format!("/proc/{pid}/task");
    let is_traced = || {
        fs::read_dir(&status).is_ok_and(|tasks| {
            tasks.flatten().all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0")
            })
        })
    };
    wait_for(|| is_traced() || strace.try_wait().unwrap().is_some());
    fs::write(scratch.join("refused"), "").unwrap();
    wait_for(|| scratch.join("done").try_exists().unwrap() || child.try_wait().unwrap().is_some());
    // It lets go of whom it traces.
    common::sh(Command::new("kill").args(["-TERM", &strace.id().to_string()]));
    strace.wait().unwrap();
    fs::write(scratch.join("allowed"), "").unwrap();
    assert_child_done("twice", &child.wait_with_output().unwrap());
}

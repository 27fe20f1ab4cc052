//! The first start of a large project, whose contents are named behind it, and the naming itself: each call fails once, or is the
//! last that the process makes.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use calve::{StartOptions, Store, StoreOptions};
use tempfile::TempDir;

use crate::every::{Fault, Scene, disturb};
use crate::killed::is_stage;
use crate::tree::remove_tree;
use crate::{Run, calve, expects_reflink, names, not_run, scratch};

/// More than the command reads before a start returns; it takes no room.
const LARGE: u64 = 65 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Start,
    Name,
}

struct First {
    work: Work,
    scratch: TempDir,
    number: usize,
}

impl First {
    fn new(work: Work) -> Self {
        Self { work, scratch: scratch(), number: 0 }
    }

    fn app(&self) -> PathBuf {
        self.scratch.path().join(format!("{}/app", self.number))
    }

    fn worktree(&self) -> PathBuf {
        self.app().with_file_name("app.worktrees").join("one")
    }

    /// Until a process that names in the background is done.
    fn settled(&self) -> Result<(), String> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            let run = calve(&self.app(), "store name");
            if run.code != Some(0) {
                return Err(format!("store name: {run:?}"));
            }
            let unnamed = self.app().join(".calve/unnamed");
            if !unnamed.try_exists().unwrap() || names(&unnamed).is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("the contents have no names".to_owned())
    }
}

impl Scene for First {
    fn title(&self) -> String {
        match self.work {
            Work::Start => "the first start of a large project".to_owned(),
            Work::Name => "naming what was started".to_owned(),
        }
    }

    fn words(&self) -> &'static str {
        match self.work {
            Work::Start => "start --json -j 1 one",
            Work::Name => "store name --json -j 1",
        }
    }

    fn directory(&self) -> PathBuf {
        self.app()
    }

    fn renew(&mut self) {}

    fn prepare(&mut self, number: usize) {
        let before = self.scratch.path().join(self.number.to_string());
        if before.try_exists().unwrap() {
            remove_tree(&before);
        }
        self.number = number;
        let app = self.app();
        fs::create_dir_all(app.join("dir")).unwrap();
        for name in ["kept", "dir/theirs", "dir/mine"] {
            fs::write(app.join(name), name).unwrap();
        }
        fs::hard_link(app.join("kept"), app.join("dir/kept-too")).unwrap();
        if self.work == Work::Start {
            fs::File::create(app.join("large")).unwrap().set_len(LARGE).unwrap();
        }
        let store = Store::init(&app).unwrap();
        // The naming must tell what changed since from what changed in the same tick of the clock.
        std::thread::sleep(Duration::from_millis(15));
        if self.work == Work::Name {
            let later = StartOptions::new().name_later(0);
            let report = store.start(&["one"], &later, &StoreOptions::new()).unwrap();
            assert!(report.snapshot.is_none());
            std::thread::sleep(Duration::from_millis(15));
            fs::write(app.join("dir/theirs"), "changed").unwrap();
            fs::write(self.worktree().join("dir/mine"), "changed").unwrap();
        }
    }

    fn judge(&mut self, fault: Fault<'_>, run: &Run) -> Vec<String> {
        let mut wrong = Vec::new();
        let app = self.app();
        if run.stderr.contains("panicked") {
            wrong.push("it panicked".to_owned());
        }
        if !matches!(
            (fault, run.code),
            (_, Some(0)) | (Fault::Error(..), Some(1 | 3)) | (Fault::Killed, None)
        ) {
            wrong.push(format!("exit code {:?}", run.code));
        }
        if self.work == Work::Start {
            let is_there = self.worktree().try_exists().unwrap();
            if run.code == Some(0) && !is_there {
                wrong.push("there is no worktree".to_owned());
            }
            if !is_there {
                let again = calve(&app, "start -q one");
                if again.code != Some(0) {
                    wrong.push(format!("the same again: {again:?}"));
                }
            }
        }
        wrong.extend(self.settled().err());
        let (shown, expected) = match self.work {
            Work::Start => (calve(&app, "status one"), ""),
            Work::Name => (calve(&app, "status one"), "M dir/mine\n"),
        };
        if shown.stdout != expected {
            wrong.push(format!("status: {shown:?}"));
        }
        if self.work == Work::Name {
            let theirs = calve(&app, "status");
            if theirs.stdout != "M dir/theirs\n" {
                wrong.push(format!("the project's status: {theirs:?}"));
            }
            for (root, path, content) in [
                (&app, "dir/theirs", "changed"),
                (&app, "dir/mine", "dir/mine"),
                (&self.worktree(), "dir/theirs", "dir/theirs"),
                (&self.worktree(), "dir/mine", "changed"),
            ] {
                if fs::read_to_string(root.join(path)).ok().as_deref() != Some(content) {
                    wrong.push(format!("{root:?} has another {path}"));
                }
            }
        }
        let verified = calve(&app, "store verify");
        if verified.code != Some(0) {
            wrong.push(format!("store verify: {verified:?}"));
        }
        // The next one in the same folder sweeps.
        let next = calve(&app, "start -q two");
        if next.code != Some(0) {
            wrong.push(format!("the next start: {next:?}"));
        }
        let beside = names(&app.with_file_name("app.worktrees"));
        if beside.iter().any(|name| is_stage(name)) {
            wrong.push(format!("left: {beside:?}"));
        }
        wrong
    }
}

impl Drop for First {
    fn drop(&mut self) {
        remove_tree(self.scratch.path());
    }
}

fn try_each(work: Work, kill: bool) {
    if expects_reflink() {
        disturb(First::new(work), kill);
    } else {
        not_run("contents that are named later", "files cannot be cloned here");
    }
}

// That a call of the start itself fails is tried where nothing is named behind it: here strace would also keep open the pipe by
// which a new process tells that it runs, and the command would wait for ever.

#[test]
fn wherever_a_first_start_is_killed_the_worktree_is_whole_or_absent() {
    try_each(Work::Start, true);
}

#[test]
fn whichever_call_of_the_naming_fails_the_next_one_finds_the_same_base() {
    try_each(Work::Name, false);
}

#[test]
fn wherever_the_naming_is_killed_the_next_one_finds_the_same_base() {
    try_each(Work::Name, true);
}

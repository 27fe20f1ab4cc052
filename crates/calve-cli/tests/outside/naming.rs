//! Disturbs the first start of a large project, the naming of its contents in the background, the
//! making of a ready tree, and a start that takes one. Each call fails once, or the process is
//! killed at it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use calve::{SnapshotOptions, StartOptions, Store, StoreOptions};
use tempfile::TempDir;

use crate::every::{Fault, Scene, disturb};
use crate::killed::is_stage;
use crate::{Run, calve, expects_reflink, names, not_run, scratch};

/// More than the command reads before a start returns; it takes no room.
const LARGE: u64 = 65 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Start,
    Name,
    /// Makes the tree, or the snapshot, that waits for the next start.
    Refill,
    /// A start that takes it.
    Take,
}

struct First {
    work: Work,
    kill: bool,
    scratch: TempDir,
    number: usize,
}

impl First {
    fn new(work: Work, kill: bool) -> Self {
        Self { work, kill, scratch: scratch(), number: 0 }
    }

    fn app(&self) -> PathBuf {
        self.scratch.path().join(format!("{}/app", self.number))
    }

    /// Beside the project, or, where that was refused, inside.
    fn worktree(&self) -> PathBuf {
        let inside = self.app().join(".calve/worktrees/one");
        match inside.is_dir() {
            true => inside,
            false => self.app().with_file_name("app.worktrees").join("one"),
        }
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
            Work::Refill => "making a tree that waits".to_owned(),
            Work::Take => "a start that takes a tree that waits".to_owned(),
        }
    }

    fn words(&self) -> &'static str {
        match self.work {
            Work::Start => "start --json -j 1 one",
            Work::Name => "store name --json -j 1",
            Work::Refill => "store refill --json -j 1",
            Work::Take => "start --json -j 1 --from base one",
        }
    }

    fn directory(&self) -> PathBuf {
        self.app()
    }

    fn is_alone(&self) -> bool {
        // A process that names behind it would have the fault as well, or keep strace waiting.
        matches!(self.work, Work::Start | Work::Take) && !self.kill
    }

    fn renew(&mut self) {}

    fn prepare(&mut self, number: usize) {
        let before = self.scratch.path().join(self.number.to_string());
        remove(&before);
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
        // The naming must tell later changes apart from changes in the same tick of the clock.
        std::thread::sleep(Duration::from_millis(15));
        if matches!(self.work, Work::Refill | Work::Take) {
            store.snapshot(&SnapshotOptions::new().name("base"), &StoreOptions::new()).unwrap();
            // On btrfs the snapshot that waits is one of the ready tree, which a start makes.
            store.start(&["before"], &StartOptions::new(), &StoreOptions::new()).unwrap();
            store.keep_ready_trees(1).unwrap();
        }
        if self.work == Work::Take {
            let report = store.make_ready_trees(&StoreOptions::new()).unwrap();
            assert!(report.ready > 0, "{report:?}");
        }
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
        if self.work != Work::Name {
            let is_there = self.worktree().try_exists().unwrap();
            if run.code == Some(0) && !is_there && self.work != Work::Refill {
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
            Work::Start | Work::Refill | Work::Take => (calve(&app, "status one"), ""),
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
        remove(self.scratch.path());
    }
}

/// Removes a folder, in which a process behind a start may still make a tree.
fn remove(folder: &Path) {
    let started = Instant::now();
    loop {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                assert!(started.elapsed() < Duration::from_secs(20), "{folder:?}: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
}

fn try_each(work: Work, kill: bool) {
    if expects_reflink() {
        disturb(First::new(work, kill), kill);
    } else {
        not_run("contents that are named later", "files cannot be cloned here");
    }
}

#[test]
fn whichever_call_of_a_first_start_fails_the_worktree_is_whole_or_absent() {
    try_each(Work::Start, false);
}

#[test]
fn wherever_a_first_start_is_killed_the_worktree_is_whole_or_absent() {
    try_each(Work::Start, true);
}

#[test]
fn whichever_call_of_the_naming_fails_the_next_one_finds_the_same_base() {
    try_each(Work::Name, false);
}

#[test]
fn whichever_call_of_making_a_tree_that_waits_fails_the_next_start_is_as_ever() {
    try_each(Work::Refill, false);
}

#[test]
fn wherever_the_making_of_a_tree_that_waits_is_killed_the_next_start_is_as_ever() {
    try_each(Work::Refill, true);
}

#[test]
fn whichever_call_fails_of_a_start_that_takes_a_tree_the_worktree_is_whole_or_absent() {
    try_each(Work::Take, false);
}

#[test]
fn wherever_a_start_that_takes_a_tree_is_killed_the_worktree_is_whole_or_absent() {
    try_each(Work::Take, true);
}

#[test]
fn wherever_the_naming_is_killed_the_next_one_finds_the_same_base() {
    try_each(Work::Name, true);
}

//! The store: snapshots and worktrees of one tree, beside what people use for the same.
//!
//! Each row is one step, and the steps follow each other as in a day's work; the round is repeated,
//! so that a slow minute hits all of them.

use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::compare::{Bench, Workplace};
use crate::measure;
use crate::results::{extremes, mebibytes, median};
use crate::tools;

/// The steps, and the disk space of the store and of a worktree.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Day {
    pub(crate) rounds: u32,
    pub(crate) steps: Vec<Step>,
    /// In the first round.
    pub(crate) store_disk_bytes: u64,
    /// The disk space of the second worktree of a snapshot, in the first round.
    pub(crate) worktree_disk_bytes: u64,
}

/// One step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    /// By round; nothing of one that cannot be done here.
    pub(crate) seconds: Vec<f64>,
    /// Why it cannot be done here.
    pub(crate) cannot: Option<String>,
}

impl Day {
    fn step(&mut self, step: &str) -> &mut Step {
        let at = self.steps.iter().position(|known| known.step == step).unwrap_or_else(|| {
            self.steps.push(Step { step: step.to_owned(), seconds: Vec::new(), cannot: None });
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }

    /// The median.
    pub(crate) fn seconds(&self, step: &str) -> Option<f64> {
        median(&self.steps.iter().find(|known| known.step == step)?.seconds)
    }

    /// Prints medians, and the allocated space.
    pub(crate) fn print(&self) {
        println!("{:<44}{:>10}  {:>19}", "", "median", "min–max");
        for Step { step, seconds, .. } in &self.steps {
            let Some(((least, largest), median)) = extremes(seconds).zip(median(seconds)) else {
                println!("{step:<44}{:>10}", "cannot");
                continue;
            };
            println!("{step:<44}{median:>8.3} s  {least:>7.3}–{largest:>7.3} s");
        }
        let disk = [
            ("disk: the store", self.store_disk_bytes),
            ("disk: one worktree", self.worktree_disk_bytes),
        ];
        for (what, bytes) in disk {
            println!("{what:<44}{:>8.1} MiB", mebibytes(bytes));
        }
    }
}

pub(crate) mod steps {
    //! The names that ratios are made of.
    pub(crate) const CP: &str = "`cp -a --reflink=always`";
    pub(crate) const CLONE: &str = "`calve clone`";
    pub(crate) const B3SUM: &str = "`b3sum` of every file";
    pub(crate) const INIT: &str = "`calve init`, first `snapshot`";
    pub(crate) const START_FIRST: &str = "`start`, the first of a snapshot";
    pub(crate) const START: &str = "`start`, the second";
    pub(crate) const STATUS_FIRST: &str = "`status`, clean, the first after `start`";
    pub(crate) const STATUS: &str = "`status`, clean, again";
    pub(crate) const GIT_WORKTREE: &str = "`git worktree add`";
    pub(crate) const GIT_STATUS: &str = "`git status`, clean";
}

impl Bench<'_> {
    /// The rounds.
    pub(crate) fn day(&self, rounds: u32) -> Result<Day, Box<dyn Error>> {
        let mut day =
            Day { rounds, steps: Vec::new(), store_disk_bytes: 0, worktree_disk_bytes: 0 };
        for round in 1..=rounds {
            eprintln!("round {round}/{rounds}");
            let work = Workplace::new(&self.dest.join("calve-bench-day"))?;
            self.round(&work.0, &mut day, round == 1)?;
        }
        Ok(day)
    }

    fn timed(
        &self,
        day: &mut Day,
        step: &str,
        words: &[&std::ffi::OsStr],
    ) -> Result<(), Box<dyn Error>> {
        // Space that was freed is given back for a while after the call, at the cost of who comes
        // next.
        self.volume.settled_free_bytes()?;
        let words: Vec<OsString> = words.iter().map(|word| (*word).to_owned()).collect();
        match measure::run(&[words])? {
            Ok(run) => {
                eprintln!("  {step}: {:.3} s", run.wall_seconds);
                day.step(step).seconds.push(run.wall_seconds);
                Ok(())
            }
            Err(why) => {
                eprintln!("  {step}: cannot: {why}");
                day.step(step).cannot = Some(why);
                Ok(())
            }
        }
    }

    fn shell(
        &self,
        day: &mut Day,
        step: &str,
        dir: &Path,
        script: &str,
    ) -> Result<(), Box<dyn Error>> {
        let words = self.words(dir, script);
        self.timed(day, step, &words.each_ref().map(AsRef::as_ref))
    }

    fn untimed(&self, dir: &Path, script: &str) -> Result<(), Box<dyn Error>> {
        measure::run(&[self.words(dir, script).to_vec()])??;
        Ok(())
    }

    /// The words that run a script in `dir`, in which `$2` is calve.
    fn words(&self, dir: &Path, script: &str) -> [OsString; 6] {
        let script = format!("cd -- \"$1\" && {script}");
        [
            "bash".into(),
            "-c".into(),
            script.into(),
            "bash".into(),
            dir.into(),
            self.binaries.calve().into(),
        ]
    }

    fn round(&self, work: &Path, day: &mut Day, first: bool) -> Result<(), Box<dyn Error>> {
        let project: PathBuf = work.join("project");
        let clone = |to: &Path| {
            [
                OsString::from("cp"),
                "-a".into(),
                "--reflink=auto".into(),
                self.source.into(),
                to.into(),
            ]
        };
        measure::run(&[clone(&project).to_vec()])??;
        measure::read_files(&project)?;
        let beside = work.join("beside");
        self.timed(
            day,
            steps::CP,
            &[
                "cp".as_ref(),
                "-a".as_ref(),
                "--reflink=always".as_ref(),
                project.as_os_str(),
                beside.as_os_str(),
            ],
        )?;
        tools::remove_tree(&beside)?;
        self.timed(
            day,
            steps::CLONE,
            &[
                self.binaries.calve().as_os_str(),
                "clone".as_ref(),
                "-q".as_ref(),
                project.as_os_str(),
                beside.as_os_str(),
            ],
        )?;
        tools::remove_tree(&beside)?;
        self.shell(day, steps::B3SUM, &project, "find . -type f -print0 | xargs -0 b3sum")?;
        let free = self.volume.settled_free_bytes()?;
        self.shell(day, steps::INIT, &project, "\"$2\" init -q && \"$2\" snapshot -q")?;
        if first {
            day.store_disk_bytes = free.saturating_sub(self.volume.settled_free_bytes()?);
        }
        self.shell(day, "`snapshot`, nothing changed", &project, "\"$2\" snapshot -q")?;
        let some = "f=$(find . \\( -path ./.calve -o -path ./.git \\) -prune -o -type f -name '*.c' -print -quit); echo >>\"$f\"";
        self.shell(
            day,
            "`snapshot`, one file changed",
            &project,
            &format!("{some}; \"$2\" snapshot -q"),
        )?;
        let from = "--from \"$(\"$2\" log -q -n 1 --json | grep -o '\"snapshot\":\"[0-9a-f]*' | cut -d'\"' -f4)\"";
        self.shell(day, steps::START_FIRST, &project, &format!("\"$2\" start -q one {from}"))?;
        let free = self.volume.settled_free_bytes()?;
        self.shell(day, steps::START, &project, &format!("\"$2\" start -q two {from}"))?;
        if first {
            day.worktree_disk_bytes = free.saturating_sub(self.volume.settled_free_bytes()?);
        }
        self.shell(day, "`start` of eight", &project, &format!("\"$2\" start -q -n 8 {from}"))?;
        self.shell(day, steps::STATUS_FIRST, &project, "\"$2\" status -q two")?;
        self.shell(day, steps::STATUS, &project, "\"$2\" status -q two")?;
        self.shell(day, "`drop`", &project, "\"$2\" drop -q two")?;
        self.shell(day, "`drop --force`", &project, "\"$2\" drop -q --force one")?;
        let fresh = work.join("fresh");
        measure::run(&[clone(&fresh).to_vec()])??;
        measure::read_files(&fresh)?;
        self.shell(
            day,
            "`init` and the first `start`",
            &fresh,
            "\"$2\" init -q && \"$2\" start -q a",
        )?;
        // What works behind a start is done before the next one is timed.
        let behind = "\"$2\" snapshot -q && \"$2\" store refill -q";
        self.untimed(&fresh, behind)?;
        self.shell(day, "`start` again", &fresh, "\"$2\" start -q b")?;
        self.untimed(&fresh, behind)?;
        self.shell(day, "`start`, one file edited", &fresh, &format!("{some}; \"$2\" start -q c"))?;
        let git = work.join("git");
        measure::run(&[clone(&git).to_vec()])??;
        let made = "rm -f .gitignore; git init -q . && git add -A -f && git -c user.name=b -c user.email=b@b commit -qm b && git status";
        self.shell(day, "`git init`, `add`, `commit`", &git, made)?;
        measure::run(&[tools::repack(&git)])??;
        self.shell(
            day,
            steps::GIT_WORKTREE,
            &git,
            "git worktree add -q ../git-worktree -b second",
        )?;
        self.shell(day, steps::GIT_STATUS, &git, "git status")?;
        Ok(())
    }
}

//! The store: snapshots and worktrees of one tree, beside what people use for the same.
//!
//! Each row is one step, and the steps follow each other as in a day's work; the round is repeated, so that a slow minute
//! hits all of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::measure::{self, Volume};
use crate::tools;

/// What one step took, in seconds, round by round.
#[derive(Debug, Default)]
pub(crate) struct Rows(Vec<(&'static str, Vec<f64>)>, BTreeMap<&'static str, u64>);

impl Rows {
    fn add(&mut self, step: &'static str, seconds: f64) {
        match self.0.iter_mut().find(|(name, _)| *name == step) {
            Some((_, all)) => all.push(seconds),
            None => self.0.push((step, vec![seconds])),
        }
        eprintln!("  {step}: {seconds:.3} s");
    }

    /// Prints medians, and what was allocated.
    pub(crate) fn print(&self) {
        println!("{:<44}{:>10}  {:>19}", "", "median", "min–max");
        for (step, seconds) in &self.0 {
            let mut sorted = seconds.clone();
            sorted.sort_by(f64::total_cmp);
            let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { continue };
            let median = sorted[sorted.len() / 2];
            println!("{step:<44}{median:>8.3} s  {first:>7.3}–{last:>7.3} s");
        }
        for (what, bytes) in &self.1 {
            println!("{what:<44}{:>8.1} MiB", mebibytes(*bytes));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// One place on the filesystem that is measured.
pub(crate) struct Day<'a> {
    pub(crate) source: &'a Path,
    pub(crate) dest: &'a Path,
    pub(crate) volume: &'a Volume,
    pub(crate) calve: &'a Path,
}

impl Day<'_> {
    /// The rounds.
    pub(crate) fn measure(&self, rounds: u32) -> Result<Rows, Box<dyn Error>> {
        let mut rows = Rows::default();
        for round in 1..=rounds {
            eprintln!("round {round}/{rounds}");
            let work = self.dest.join("calve-bench-day");
            tools::remove_tree(&work)?;
            fs::create_dir(&work)?;
            let done = self.round(&work, &mut rows, round == 1);
            tools::remove_tree(&work)?;
            done?;
        }
        Ok(rows)
    }

    fn timed(
        &self,
        rows: &mut Rows,
        step: &'static str,
        words: &[&std::ffi::OsStr],
    ) -> Result<(), Box<dyn Error>> {
        // Space that was freed is given back for a while after the call, at the cost of who comes next.
        self.volume.settled_free_bytes()?;
        let words: Vec<OsString> = words.iter().map(|word| (*word).to_owned()).collect();
        match measure::run(&[words])? {
            Ok(run) => {
                rows.add(step, run.wall_seconds);
                Ok(())
            }
            Err(why) => {
                eprintln!("  {step}: cannot: {why}");
                Ok(())
            }
        }
    }

    fn shell(
        &self,
        rows: &mut Rows,
        step: &'static str,
        dir: &Path,
        script: &str,
    ) -> Result<(), Box<dyn Error>> {
        let script = format!("cd -- \"$1\" && {script}");
        let words: [&std::ffi::OsStr; 6] = [
            "bash".as_ref(),
            "-c".as_ref(),
            script.as_ref(),
            "bash".as_ref(),
            dir.as_os_str(),
            self.calve.as_os_str(),
        ];
        self.timed(rows, step, &words)
    }

    fn round(&self, work: &Path, rows: &mut Rows, first: bool) -> Result<(), Box<dyn Error>> {
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
            rows,
            "cp -a --reflink=always",
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
            rows,
            "calve clone",
            &[
                self.calve.as_os_str(),
                "clone".as_ref(),
                "-q".as_ref(),
                project.as_os_str(),
                beside.as_os_str(),
            ],
        )?;
        tools::remove_tree(&beside)?;
        self.shell(
            rows,
            "b3sum of every file",
            &project,
            "find . -type f -print0 | xargs -0 b3sum",
        )?;
        let free = self.volume.settled_free_bytes()?;
        self.shell(
            rows,
            "calve init, first snapshot",
            &project,
            "\"$2\" init -q && \"$2\" snapshot -q",
        )?;
        if first {
            rows.1
                .insert("disk: the store", free.saturating_sub(self.volume.settled_free_bytes()?));
        }
        self.shell(rows, "snapshot, nothing changed", &project, "\"$2\" snapshot -q")?;
        let some =
            "f=$(find . -path ./.calve -prune -o -type f -name '*.c' -print -quit); echo >>\"$f\"";
        self.shell(
            rows,
            "snapshot, one file changed",
            &project,
            &format!("{some}; \"$2\" snapshot -q"),
        )?;
        let from = "--from \"$(\"$2\" log -q -n 1 --json | grep -o '\"snapshot\":\"[0-9a-f]*' | cut -d'\"' -f4)\"";
        self.shell(
            rows,
            "start, the first of a snapshot",
            &project,
            &format!("\"$2\" start -q one {from}"),
        )?;
        let free = self.volume.settled_free_bytes()?;
        self.shell(rows, "start, the second", &project, &format!("\"$2\" start -q two {from}"))?;
        if first {
            rows.1.insert(
                "disk: one worktree",
                free.saturating_sub(self.volume.settled_free_bytes()?),
            );
        }
        self.shell(rows, "start of eight", &project, &format!("\"$2\" start -q -n 8 {from}"))?;
        self.shell(rows, "status, clean", &project, "\"$2\" status -q two")?;
        self.shell(rows, "drop", &project, "\"$2\" drop -q two")?;
        self.shell(rows, "drop --force", &project, "\"$2\" drop -q --force one")?;
        let git = work.join("git");
        measure::run(&[clone(&git).to_vec()])??;
        let made = "rm -f .gitignore; git init -q . && git add -A -f && git -c user.name=b -c user.email=b@b commit -qm b && git status";
        self.shell(rows, "git init, add, commit", &git, made)?;
        self.shell(
            rows,
            "git worktree add",
            &git,
            "git worktree add -q ../git-worktree -b second",
        )?;
        self.shell(rows, "git status, clean", &git, "git status")?;
        Ok(())
    }
}

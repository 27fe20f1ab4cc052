//! Time and disk against the number of copies.
//!
//! The tools take turns. In its turn, a tool that makes one copy a run makes one after the other,
//! and its time is read at each of the numbers asked for, summed up; a tool that makes many at once
//! makes each number from nothing. At each number the filesystem is flushed, outside of the time: a
//! row of single copies gets that rest in between, one that makes eight at once does not. Disk is
//! read in the first round, where the free space has come to rest.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::compare::{Bench, Workplace};
use crate::measure::{self, Census};
use crate::tools::{self, Sources, Tool};

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Copies {
    pub(crate) rounds: u32,
    pub(crate) series: Vec<Series>,
}

/// One tool, over all rounds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) tool: Tool,
    command: String,
    /// Why it cannot work here.
    pub(crate) cannot: Option<String>,
    /// By round and number: how long the store took, snapshot included. Not part of the times
    /// below.
    pub(crate) setup_seconds: Vec<f64>,
    /// The store; part of the disk below.
    pub(crate) setup_disk_bytes: Option<u64>,
    pub(crate) points: Vec<Point>,
}

/// One number of copies.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) copies: u32,
    /// By round, until the last of the copies was there.
    pub(crate) run_seconds: Vec<f64>,
    /// By round, to write back what had not been written since the point before.
    pub(crate) flush_seconds: Vec<f64>,
    /// The disk space of all copies, in the first round.
    pub(crate) disk_bytes: u64,
}

/// A tool, and at how many copies it stops.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) tool: Tool,
    pub(crate) at_most: u32,
}

impl Choice {
    /// git's copies are so expensive that four are enough for a line.
    pub(crate) const DEFAULT: [Self; 7] = [
        Self::all(Tool::CalveStart),
        Self::all(Tool::CalveN),
        Self::all(Tool::Calve),
        Self::all(Tool::CpReflink),
        Self::all(Tool::Xcp),
        Self::all(Tool::Rsync),
        Self { tool: Tool::GitWorktree, at_most: 4 },
    ];

    pub(crate) const fn all(tool: Tool) -> Self {
        Self { tool, at_most: u32::MAX }
    }
}

/// The data for one tool's turn.
struct Turn<'a> {
    bench: &'a Bench<'a>,
    sources: Sources<'a>,
    expected: Census,
    first: bool,
}

impl Bench<'_> {
    /// `numbers` in rising order.
    pub(crate) fn copies(
        &self,
        choices: &[Choice],
        numbers: &[u32],
        rounds: u32,
    ) -> Result<Copies, Box<dyn Error>> {
        let place = Workplace::new(&self.dest.join("calve-bench-copies"))?;
        let mut choices = choices.to_vec();
        if !self.can_reflink(&place)? {
            for choice in &mut choices {
                if choice.tool == Tool::CpReflink {
                    choice.tool = Tool::CpCopy;
                }
            }
        }
        let wanted = |tool| choices.iter().any(|choice| choice.tool == tool);
        let project = wanted(Tool::CalveStart).then(|| self.project(&place)).transpose()?;
        let repository = wanted(Tool::GitWorktree).then(|| self.repository(&place)).transpose()?;
        let expected = repository.as_ref().map_or(self.census, |(_, census)| *census);
        let sources = Sources {
            source: self.source,
            project: project.as_deref(),
            repository: repository.as_ref().map(|(path, _)| &**path),
        };
        measure::read_files(self.source)?;

        let mut series: Vec<Series> =
            choices.iter().map(|choice| Series::new(choice, numbers)).collect();
        for round in 1..=rounds {
            let turn = Turn { bench: self, sources, expected, first: round == 1 };
            for series in series.iter_mut().filter(|series| series.cannot.is_none()) {
                eprint!("round {round}/{rounds}: {} … ", series.tool);
                let place = place.0.join("copies");
                match turn.take(series, &place)? {
                    Ok(()) => {
                        let times = series.points.iter().filter_map(|at| {
                            Some(format!("{}: {:.2} s", at.copies, at.run_seconds.last()?))
                        });
                        eprintln!("{}", times.collect::<Vec<_>>().join(", "));
                    }
                    Err(why) => {
                        eprintln!("cannot: {why}");
                        series.cannot = Some(why);
                    }
                }
            }
        }
        Ok(Copies { rounds, series })
    }

    fn can_reflink(&self, place: &Workplace) -> Result<bool, Box<dyn Error>> {
        let (from, to) = (place.0.join("from"), place.0.join("to"));
        fs::write(&from, vec![1; 1 << 16])?;
        self.volume.flush()?;
        let words = ["cp".into(), "--reflink=always".into(), from.into(), to.into()];
        Ok(measure::run(&[words.to_vec()])?.is_ok())
    }

    fn copy_of_source(&self, copy: &Path) -> Result<(), Box<dyn Error>> {
        let words =
            ["cp".into(), "-a".into(), "--reflink=auto".into(), self.source.into(), copy.into()];
        measure::run(&[words.to_vec()])??;
        Ok(())
    }

    /// The tree where a store can be made in it.
    fn project(&self, place: &Workplace) -> Result<PathBuf, Box<dyn Error>> {
        let project = place.0.join("project");
        self.copy_of_source(&project)?;
        measure::read_files(&project)?;
        Ok(project)
    }

    /// The tree, all of it committed, and what of it a worktree must have.
    fn repository(&self, place: &Workplace) -> Result<(PathBuf, Census), Box<dyn Error>> {
        let repository = place.0.join("repository");
        self.copy_of_source(&repository)?;
        tools::remove_tree(&repository.join(".git"))?;
        let census = measure::census(&repository)?;
        let script = "cd -- \"$1\" && git init -q . && git add -A -f \
            && git -c user.name=b -c user.email=b@b commit -qm b && git status";
        let words =
            ["bash".into(), "-c".into(), script.into(), "bash".into(), (&repository).into()];
        measure::run(&[words.to_vec(), tools::repack(&repository)])??;
        Ok((repository, census))
    }
}

impl Series {
    fn new(choice: &Choice, numbers: &[u32]) -> Self {
        let points = numbers.iter().filter(|number| **number <= choice.at_most).map(|&copies| {
            Point { copies, run_seconds: Vec::new(), flush_seconds: Vec::new(), disk_bytes: 0 }
        });
        Self {
            tool: choice.tool,
            command: choice.tool.to_string(),
            cannot: None,
            setup_seconds: Vec::new(),
            setup_disk_bytes: None,
            points: points.collect(),
        }
    }
}

impl Turn<'_> {
    /// All the points of one tool; the inner error is why it cannot work here.
    fn take(
        &self,
        series: &mut Series,
        place: &Path,
    ) -> Result<Result<(), String>, Box<dyn Error>> {
        let tool = series.tool;
        let Bench { binaries, volume, .. } = self.bench;
        let mut workplace = Workplace::new(place)?;
        let mut before_bytes = volume.settled_free_bytes()?;
        let (mut made, mut sum_seconds) = (0, 0.0);
        for point in &mut series.points {
            if tool.at_once() && made > 0 {
                self.clear(tool, workplace)?;
                workplace = Workplace::new(place)?;
                before_bytes = volume.settled_free_bytes()?;
                (made, sum_seconds) = (0, 0.0);
            }
            if let (Tool::CalveStart, Some(project)) = (tool, self.sources.project) {
                let calve = binaries.calve().as_os_str();
                let project = project.as_os_str();
                // No tree waits: each start makes its own, and no process works behind it.
                let words: [&[&OsStr]; 3] = [
                    &[calve, "init".as_ref(), "-q".as_ref(), project],
                    &[
                        calve,
                        "-C".as_ref(),
                        project,
                        "store".as_ref(),
                        "ready".as_ref(),
                        "0".as_ref(),
                    ],
                    &[calve, "snapshot".as_ref(), "-q".as_ref(), project],
                ];
                let words = words.map(|words| words.iter().map(Into::into).collect());
                match measure::run(&words)? {
                    Ok(run) => series.setup_seconds.push(run.wall_seconds),
                    Err(why) => return Ok(Err(why)),
                }
                let free_bytes = volume.settled_free_bytes()?;
                let used_bytes = before_bytes.saturating_sub(free_bytes);
                series.setup_disk_bytes.get_or_insert(used_bytes);
            }
            let copies = made + 1..=point.copies;
            let commands = match tool.commands(binaries, &self.sources, &workplace.0, copies) {
                Ok(commands) => commands,
                Err(why) => return Ok(Err(why)),
            };
            match measure::run(&commands)? {
                Ok(run) => sum_seconds += run.wall_seconds,
                Err(why) => return Ok(Err(why)),
            }
            made = point.copies;
            point.run_seconds.push(sum_seconds);
            point.flush_seconds.push(volume.flush()?);
            if self.first {
                let free_bytes = volume.settled_free_bytes()?;
                point.disk_bytes = before_bytes.saturating_sub(free_bytes);
            }
        }
        if self.first {
            self.check(tool, &workplace, made)?;
        }
        self.clear(tool, workplace)?;
        Ok(Ok(()))
    }

    /// Nothing is left of the turn, in the store and the repository neither.
    fn clear(&self, tool: Tool, workplace: Workplace) -> Result<(), Box<dyn Error>> {
        drop(workplace);
        match (tool, self.sources) {
            (Tool::CalveStart, Sources { project: Some(project), .. }) => {
                for store in [".calve", ".git/calve"].map(|store| project.join(store)) {
                    tools::remove_tree(&store)?;
                }
            }
            (Tool::GitWorktree, Sources { repository: Some(repository), .. }) => {
                let prune = ["worktree", "prune"].map(Into::into);
                let git = ["git".into(), "-C".into(), repository.into()];
                measure::run(&[[&git[..], &prune].concat()])??;
            }
            _ => {}
        }
        Ok(())
    }

    /// git adds one file to a worktree and keeps no empty directories. calve adds three files.
    fn check(&self, tool: Tool, workplace: &Workplace, copies: u32) -> Result<(), Box<dyn Error>> {
        let expected = match tool {
            Tool::GitWorktree => self.expected,
            Tool::CalveStart => self.bench.census,
            _ => return workplace.check(tool, &self.bench.census, copies),
        };
        for copy in 1..=copies {
            let found = measure::census(&workplace.0.join(format!("copy-{copy}")))?;
            let own_files = found.regular_files.checked_sub(expected.regular_files);
            let own_bytes = found.content_bytes.checked_sub(expected.content_bytes);
            if !matches!((own_files, own_bytes), (Some(..=3), Some(..=4096))) {
                return Err(format!("{tool}: of {expected:?} arrived {found:?}").into());
            }
        }
        Ok(())
    }
}

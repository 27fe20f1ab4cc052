//! Each tool on its own, in turns.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::measure::{self, Census, Run, Volume};
use crate::results::Comparison;
use crate::tools::{self, Binaries, Sources, Tool};

/// The results of one tool, over all rounds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ToolReport {
    pub(crate) tool: Tool,
    command: String,
    copies: u32,
    /// Why it cannot work here.
    pub(crate) cannot: Option<String>,
    /// By round, until the command returned.
    pub(crate) run_seconds: Vec<f64>,
    /// By round, of all its threads.
    pub(crate) cpu_seconds: Vec<f64>,
    /// For each round, the seconds to write back the data that the command left in memory.
    pub(crate) flush_seconds: Vec<f64>,
    /// In the first round.
    pub(crate) disk_per_copy_bytes: u64,
    pub(crate) peak_memory_bytes: u64,
}

impl From<Tool> for ToolReport {
    fn from(tool: Tool) -> Self {
        Self {
            tool,
            command: tool.to_string(),
            copies: tool.copies(),
            cannot: None,
            run_seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            flush_seconds: Vec::new(),
            disk_per_copy_bytes: 0,
            peak_memory_bytes: 0,
        }
    }
}

impl ToolReport {
    fn add(&mut self, run: &Run, flush_seconds: f64) {
        self.run_seconds.push(run.wall_seconds);
        self.cpu_seconds.push(run.cpu_seconds);
        self.flush_seconds.push(flush_seconds);
        self.peak_memory_bytes = self.peak_memory_bytes.max(run.peak_memory_bytes);
    }
}

/// The place, and what runs there.
pub(crate) struct Bench<'a> {
    pub(crate) source: &'a Path,
    pub(crate) census: Census,
    pub(crate) dest: &'a Path,
    pub(crate) volume: &'a Volume,
    pub(crate) binaries: &'a Binaries,
    pub(crate) cold: bool,
}

impl Bench<'_> {
    pub(crate) fn compare(
        &self,
        tools: &[Tool],
        rounds: u32,
    ) -> Result<Comparison, Box<dyn Error>> {
        if !self.cold {
            // Or the first tool that reads the files would pay for the others.
            measure::read_files(self.source)?;
        }
        let mut tools: Vec<ToolReport> = tools.iter().map(|&tool| tool.into()).collect();
        for round in 1..=rounds {
            for report in tools.iter_mut().filter(|report| report.cannot.is_none()) {
                eprint!("round {round}/{rounds}: {} … ", report.tool);
                match self.turn(report, round == 1)? {
                    Ok(seconds) => eprintln!("{seconds:.2} s"),
                    Err(why) => {
                        eprintln!("cannot: {why}");
                        report.cannot = Some(why);
                    }
                }
            }
        }
        Ok(Comparison { rounds, cold: self.cold, tools })
    }

    /// Runs one tool once, and returns its seconds. The inner error says why the tool cannot work
    /// here.
    fn turn(
        &self,
        report: &mut ToolReport,
        first: bool,
    ) -> Result<Result<f64, String>, Box<dyn Error>> {
        let workplace = Workplace::new(&self.dest.join("calve-bench-run"))?;
        let sources = Sources { source: self.source, project: None, repository: None };
        let commands =
            report.tool.commands(self.binaries, &sources, &workplace.0, 1..=report.tool.copies());
        let commands = match commands {
            Ok(commands) => commands,
            Err(why) => return Ok(Err(why)),
        };

        // For some seconds, a thread of the filesystem frees the space of files that the run before
        // removed. It would take a processor from a tool that uses all of them.
        let settled_bytes = self.volume.settled_free_bytes()?;
        let free_bytes = first.then_some(settled_bytes);
        if self.cold {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
        }
        let run = match measure::run(&commands)? {
            Ok(run) => run,
            Err(why) => return Ok(Err(why)),
        };
        report.add(&run, self.volume.flush()?);
        if let Some(free_bytes) = free_bytes {
            let used_bytes = free_bytes.saturating_sub(self.volume.settled_free_bytes()?);
            report.disk_per_copy_bytes = used_bytes / u64::from(report.tool.copies());
            workplace.check(report.tool, &self.census, report.tool.copies())?;
        }
        Ok(Ok(run.wall_seconds))
    }
}

/// The folder for copies. They are removed with it.
pub(crate) struct Workplace(pub(crate) PathBuf);

impl Workplace {
    pub(crate) fn new(directory: &Path) -> std::io::Result<Self> {
        tools::remove_tree(directory)?; // An earlier run was killed.
        fs::create_dir(directory)?;
        Ok(Self(directory.to_owned()))
    }

    /// A tool that left something out was not faster.
    pub(crate) fn check(
        &self,
        tool: Tool,
        census: &Census,
        copies: u32,
    ) -> Result<(), Box<dyn Error>> {
        let mut found_copies = 0;
        for copy in fs::read_dir(&self.0)? {
            let found = measure::census(&copy?.path())?;
            if found != *census {
                return Err(format!("{tool}: of {census:?} arrived {found:?}").into());
            }
            found_copies += 1;
        }
        if found_copies == copies {
            Ok(())
        } else {
            Err(format!("{tool}: {found_copies} copies, not {copies}").into())
        }
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if let Err(error) = tools::remove_tree(&self.0) {
            eprintln!("bench: cannot remove {}: {error}", self.0.display());
        }
    }
}

//! The command line, and the rounds.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::measure::{self, Census, Volume};
use crate::report::{Comparison, Machine, ToolReport};
use crate::sample;
use crate::tools::{self, Binaries, Tool};
use crate::worktrees::Day;

/// Compares calve with cp, xcp and rsync on one tree and one filesystem.
#[derive(Debug, Parser)]
struct Arguments {
    /// The tree to copy.
    #[arg(long)]
    source: PathBuf,

    /// A directory on the filesystem to measure; it is made, and copies come and go in it.
    #[arg(long, required_unless_present = "make_tree")]
    dest: Option<PathBuf>,

    /// Makes SOURCE first, of N small files. Without --dest, this is all.
    #[arg(long, value_name = "N")]
    make_tree: Option<u64>,

    /// How often each tool runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Which tools run.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Tool::DEFAULT)]
    only: Vec<Tool>,

    /// The calve to measure; a release build of this workspace by default.
    #[arg(long)]
    calve: Option<PathBuf>,

    /// Installs xcp with cargo, next to the build, where it is not on the PATH.
    #[arg(long)]
    install: bool,

    /// Empties the kernel's caches before each run; needs root, and slows down everything else here.
    #[arg(long)]
    cold: bool,

    /// Measures the store instead: snapshots, worktrees and status, beside cp, b3sum and git.
    #[arg(long)]
    worktrees: bool,

    /// Also writes the results to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    if let Some(files) = arguments.make_tree {
        sample::make(&arguments.source, files)
            .map_err(|error| format!("cannot make {}: {error}", arguments.source.display()))?;
    }
    let Some(dest) = &arguments.dest else { return Ok(()) };
    fs::create_dir_all(dest)?;

    let bench = Bench {
        source: fs::canonicalize(&arguments.source)?,
        dest: fs::canonicalize(dest)?,
        volume: Volume::of(dest)?,
        binaries: Binaries::find(arguments.calve.as_deref(), &arguments.only, arguments.install)?,
        cold: arguments.cold,
    };
    if arguments.worktrees {
        let day = Day {
            source: &bench.source,
            dest: &bench.dest,
            volume: &bench.volume,
            calve: bench.binaries.calve(),
        };
        day.measure(arguments.rounds)?.print();
        return Ok(());
    }
    let comparison = bench.compare(&arguments.only, arguments.rounds)?;
    println!("\n{comparison}");
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&comparison)? + "\n")?;
    }

    // Another tool that cannot work here is a result; calve always can.
    for tool in &comparison.tools {
        if let (true, Some(why)) = (tool.tool.is_calve(), &tool.cannot) {
            return Err(format!("{}: {why}", tool.tool).into());
        }
    }
    Ok(())
}

struct Bench {
    source: PathBuf,
    dest: PathBuf,
    volume: Volume,
    binaries: Binaries,
    cold: bool,
}

impl Bench {
    fn compare(&self, tools: &[Tool], rounds: u32) -> Result<Comparison, Box<dyn Error>> {
        let census = measure::census(&self.source)?;
        if !self.cold {
            // Or the first tool that reads the files would pay for the others.
            measure::read_files(&self.source)?;
        }
        let mut tools: Vec<ToolReport> = tools.iter().map(|&tool| tool.into()).collect();
        for round in 1..=rounds {
            for report in tools.iter_mut().filter(|report| report.cannot.is_none()) {
                eprint!("round {round}/{rounds}: {} … ", report.tool);
                match self.turn(report, &census, round == 1)? {
                    Ok(seconds) => eprintln!("{seconds:.2} s"),
                    Err(why) => {
                        eprintln!("cannot: {why}");
                        report.cannot = Some(why);
                    }
                }
            }
        }
        let machine = Machine::here(&self.dest)?;
        Ok(Comparison::new(machine, self.source.clone(), census, rounds, self.cold, tools))
    }

    /// One run of one tool, and its seconds; the inner error is why it cannot work here.
    fn turn(
        &self,
        report: &mut ToolReport,
        census: &Census,
        first: bool,
    ) -> Result<Result<f64, String>, Box<dyn Error>> {
        let workplace = Workplace::new(&self.dest)?;
        let commands = match report.tool.commands(&self.binaries, &self.source, &workplace.0) {
            Ok(commands) => commands,
            Err(why) => return Ok(Err(why)),
        };

        // What the run before removed is given back for seconds after, by a thread of the filesystem that would take a
        // processor from a tool that uses them all.
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
            report.disk_per_copy_bytes = used_bytes / report.tool.copies();
            workplace.check(report.tool, census)?;
        }
        Ok(Ok(run.wall_seconds))
    }
}

/// Where one run puts its copies; they are removed with it.
struct Workplace(PathBuf);

impl Workplace {
    fn new(dest: &Path) -> std::io::Result<Self> {
        let directory = dest.join("calve-bench-run");
        tools::remove_tree(&directory)?; // An earlier run was killed.
        fs::create_dir(&directory)?;
        Ok(Self(directory))
    }

    /// A tool that left something out was not faster.
    fn check(&self, tool: Tool, census: &Census) -> Result<(), Box<dyn Error>> {
        let mut copies = 0;
        for copy in fs::read_dir(&self.0)? {
            let found = measure::census(&copy?.path())?;
            if found != *census {
                return Err(format!("{tool}: of {census:?} arrived {found:?}").into());
            }
            copies += 1;
        }
        if copies == tool.copies() {
            Ok(())
        } else {
            Err(format!("{tool}: {copies} copies").into())
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

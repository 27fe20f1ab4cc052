//! The command line.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::compare::Bench;
use crate::copies::Choice;
use crate::measure::{self, Volume};
use crate::plot;
use crate::report::Terminal;
use crate::results::{Machine, Results, Tree};
use crate::sample;
use crate::table;
use crate::tools::{Binaries, Tool};

/// Compares calve with cp, xcp, rsync and git's worktrees on one tree and one filesystem.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,

    /// The tree to copy.
    #[arg(long, required = true)]
    source: Option<PathBuf>,

    /// A directory on the filesystem to measure. bench makes it, and makes and removes its copies
    /// there.
    #[arg(long, required_unless_present = "make_tree")]
    dest: Option<PathBuf>,

    /// Makes SOURCE first, of N small files. Without --dest, bench does nothing else.
    #[arg(long, value_name = "N")]
    make_tree: Option<u64>,

    /// The tree's name in the results; its folder's name by default.
    #[arg(long)]
    name: Option<String>,

    /// How often each tool runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Which tools run; with --copies, git-worktree=4 stops at four.
    #[arg(long, value_delimiter = ',', value_name = "TOOL[=COPIES]", value_parser = choice)]
    only: Vec<Choice>,

    /// The calve to measure; a release build of this workspace by default.
    #[arg(long)]
    calve: Option<PathBuf>,

    /// Installs xcp with cargo, next to the build, if it is not on the PATH.
    #[arg(long)]
    install: bool,

    /// Empties the kernel's caches before each run; needs root, and slows down everything else
    /// here.
    #[arg(long, conflicts_with_all = ["copies", "worktrees", "all"])]
    cold: bool,

    /// Measures each tool on its own; this is the default.
    #[arg(long)]
    compare: bool,

    /// Measures time and disk against the number of copies.
    #[arg(
        long, value_name = "N,…", value_delimiter = ',', num_args = 0..=1, default_missing_value = "1,2,4,8",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    copies: Option<Vec<u32>>,

    /// Measures the store: snapshots, worktrees and status, beside cp, b3sum and git.
    #[arg(long)]
    worktrees: bool,

    /// Measures all three.
    #[arg(long)]
    all: bool,

    /// Also writes every sample to FILE, after each part.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Draws the results: one SVG for each filesystem.
    Plot {
        /// Files that --json wrote.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The folder for the pictures.
        #[arg(long)]
        out: PathBuf,
    },
    /// Prints the results as markdown.
    Table {
        /// Files that --json wrote.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Puts the tables into these pages instead, each between its `<!-- bench:NAME -->` and
        /// `<!-- /bench -->`.
        #[arg(long, num_args = 1..)]
        into: Vec<PathBuf>,
    },
}

fn choice(text: &str) -> Result<Choice, String> {
    let (name, at_most) = match text.split_once('=') {
        Some((name, number)) => (name, Some(number)),
        None => (text, None),
    };
    let tool = Tool::from_str(name, false).map_err(|_| {
        let names = Tool::value_variants().iter().filter_map(Tool::to_possible_value);
        let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
        format!("the tools are {}", names.join(", "))
    })?;
    let at_most = at_most.map_or(Ok(u32::MAX), str::parse);
    Ok(Choice { tool, at_most: at_most.map_err(|error| format!("copies: {error}"))? })
}

/// The tools of a comparison if `--only` names none.
const COMPARED: [Tool; 6] =
    [Tool::Calve, Tool::CpReflink, Tool::CpCopy, Tool::Xcp, Tool::Rsync, Tool::CalveNever];

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Plot { files, out }) => return plot::write(&Results::read(files)?, out),
        Some(Command::Table { files, into }) => return table::write(&Results::read(files)?, into),
        None => {}
    }
    let source = arguments.source.as_ref().ok_or("--source is missing")?;
    if let Some(files) = arguments.make_tree {
        sample::make(source, files)
            .map_err(|error| format!("cannot make {}: {error}", source.display()))?;
    }
    match &arguments.dest {
        Some(dest) => measure(&arguments, source, dest),
        None => Ok(()),
    }
}

fn measure(arguments: &Arguments, source: &Path, dest: &Path) -> Result<(), Box<dyn Error>> {
    let named = |path: &Path, error| format!("{}: {error}", path.display());
    let source = fs::canonicalize(source).map_err(|error| named(source, error))?;
    let dest = fs::create_dir_all(dest)
        .and_then(|()| fs::canonicalize(dest))
        .map_err(|error| named(dest, error))?;
    let volume = Volume::of(&dest)?;
    let binaries = Binaries::find(arguments.calve.as_deref(), arguments.install)?;
    let bench = Bench {
        source: &source,
        census: measure::census(&source)?,
        dest: &dest,
        volume: &volume,
        binaries: &binaries,
        cold: arguments.cold,
    };
    let folder = source.file_name().unwrap_or_default().to_string_lossy();
    let name = arguments.name.clone().unwrap_or_else(|| folder.into_owned());
    let tree = Tree { name, census: bench.census };
    let mut results = Results::new(Machine::here(&dest, &binaries)?, tree);
    let save = |results: &Results| arguments.json.iter().try_for_each(|file| results.write(file));
    save(&results)?; // A file that cannot be written is known before the hours, not after.

    let rounds = arguments.rounds;
    let numbers = match &arguments.copies {
        Some(numbers) => {
            let mut numbers = numbers.clone();
            numbers.sort_unstable();
            numbers.dedup();
            Some(numbers)
        }
        None => arguments.all.then(|| vec![1, 2, 4, 8]),
    };
    let mut failed = Vec::new();
    if arguments.compare || arguments.all || (numbers.is_none() && !arguments.worktrees) {
        let mut tools: Vec<Tool> = arguments.only.iter().map(|choice| choice.tool).collect();
        if arguments.all || tools.is_empty() {
            tools = COMPARED.to_vec();
        }
        let comparison = bench.compare(&tools, rounds)?;
        println!("\n{}", Terminal(&results, &comparison));
        let reports = comparison.tools.iter().map(|report| (report.tool, &report.cannot));
        failed.extend(reports.filter_map(|(tool, why)| Some((tool, why.clone()?))));
        results.compare = Some(comparison);
        save(&results)?;
    }
    if let Some(numbers) = &numbers {
        let choices = match &*arguments.only {
            [] => &Choice::DEFAULT[..],
            only => only,
        };
        let copies = bench.copies(choices, numbers, rounds)?;
        let series = copies.series.iter().map(|series| (series.tool, &series.cannot));
        failed.extend(series.filter_map(|(tool, why)| Some((tool, why.clone()?))));
        results.copies = Some(copies);
        println!("\n{}", table::copies(std::slice::from_ref(&results)));
        save(&results)?;
    }
    if arguments.worktrees || arguments.all {
        let day = bench.day(rounds)?;
        day.print();
        results.worktrees = Some(day);
        save(&results)?;
    }

    // Another tool that cannot work here is a result; calve always can.
    match failed.into_iter().find(|(tool, _)| tool.is_calve()) {
        Some((tool, why)) => Err(format!("{tool}: {why}").into()),
        None => Ok(()),
    }
}

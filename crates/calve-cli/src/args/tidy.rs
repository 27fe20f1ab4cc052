//! The arguments of `calve tidy`.

use std::time::Duration;

use clap::Args;

use super::units::{TIMES, parse_size, parse_time};

pub(crate) const TIDY_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve tidy --dry-run
      Says what it would do.
  calve tidy --max-size 50G
      Until the worktrees and the store take no more than 50 GiB.
  calve tidy --timer
      Prints a timer of systemd that tidies each hour, or a line for cron.

Settings: git config calve.tidy.maxSize 50G, calve.tidy.maxAge 7d,
calve.tidy.idle 2h. A build gives back: cargo's target, node_modules,
__pycache__, some caches, build folders of CMake. They go only where git ignores
them, and with nothing in them that a build does not write.";

#[derive(Debug, Args)]
pub(crate) struct TidyArgs {
    /// How much the worktrees and the store may take, beside the project [default: any size]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_size: Option<u64>,

    /// Drop worktrees that are merged and in which nothing changed for TIME [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = None,
        long_help = format!(
            "Drop worktrees that are merged and in which nothing changed for TIME [default: 7d]\n\n{TIMES}"))]
    pub(crate) max_age: Option<Duration>,

    /// Remove build output from worktrees in which nothing changed for TIME [default: 2h]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) idle: Option<Duration>,

    /// Change nothing; say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print what lets the machine tidy each hour
    #[arg(long, conflicts_with_all = ["max_size", "max_age", "idle", "dry_run"])]
    pub(crate) timer: bool,

    /// With --timer: also write the files of the timer, and print their paths
    #[arg(long, requires = "timer")]
    pub(crate) write: bool,
}

//! The arguments of `calve store`.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use super::units::{TIMES, parse_time};
use crate::candidates;

pub(crate) const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store stats
      Prints what the store holds, and how much space that takes.
  calve store verify --repair
      Checks and repairs the store, after a crash or a disk failure.
  calve store pack && calve store gc --expire 30d
      Once a week: compresses content that is not in use, and forgets old
      snapshots without a name.
  calve store warm tested
      Unpacks a snapshot now, so that 'calve start --from tested' is fast later.";

const VERIFY_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store verify
      Reads everything, and changes nothing.
  calve store verify --repair
      Mends damaged content from a good copy. Content without a good copy is set
      aside; the next snapshot that finds the same content mends it.";

const GC_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store gc
      Removes content that no snapshot needs, and remains of killed processes.
  calve store gc --expire 30d
      Also forgets snapshots older than that, except those that have a name or
      are the base snapshot of a worktree or the project.";

const PACK_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store pack
      Compresses content that neither the project's latest snapshot nor the base
      snapshot of a worktree needs.
  calve store pack --all
      Compresses all content; the next start unpacks what it needs.";

const WARM_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store warm
      Unpacks the project's latest snapshot, and makes ready trees that are
      missing.
  calve store warm tested 3f9a
      Unpacks these two snapshots.
  calve store warm --keep 2
      From now on the store keeps two ready trees of the latest snapshot. A
      start takes one of them, brings it up to date, and returns at once.
  calve store warm --keep 0
      Keeps none, and removes the existing ones.

On btrfs, warm also makes a subvolume of the snapshot. A worktree of it then
starts in constant time. Each ready tree takes as much disk as a worktree. On
btrfs they are subvolume snapshots, which take none; there the first look at a
worktree is as quick as the second one.";

const STATS_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store stats
  calve store stats -v       exact sizes
  calve store stats --json   for programs";

/// The commands of `calve store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Read everything, and list damaged or missing content and the paths that need it
    ///
    /// Exits with 3 if there was damage, mended or not.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// Mend what can be mended
        #[arg(long)]
        repair: bool,
    },

    /// Remove everything that no snapshot, name or worktree needs
    ///
    /// Other processes may use the store meanwhile; gc needs it alone only for a moment. Exits with
    /// 3 if they never left it alone.
    #[command(after_help = format!("{GC_EXAMPLES}\n\n{TIMES}"))]
    Gc(GcArgs),

    /// Compress content that is not in use
    ///
    /// A command that needs the content unpacks it again.
    #[command(after_help = PACK_EXAMPLES)]
    Pack {
        /// Also compress content that is in use
        #[arg(long)]
        all: bool,
    },

    /// Unpack snapshots and prepare trees, so that starts are fast
    ///
    /// After each start, calve makes the next ready tree in the background, when no other process
    /// wants the processors or the disk. On btrfs one subvolume serves all starts, and is counted,
    /// too; --keep says how many snapshots of it wait whose files are in the kernel's memory
    /// already.
    #[command(after_help = WARM_EXAMPLES)]
    Warm {
        /// Names, ids, or starts of ids [default: the project's latest snapshot]
        #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
            add = ArgValueCompleter::new(candidates::snapshots))]
        snapshots: Vec<String>,

        /// Keep N ready trees of the latest snapshot from now on [default: as before; a new store
        /// keeps as many of a project of at least 10,000 files as were lately started within a
        /// minute, 1 to 8; 1 on btrfs; none if the filesystem cannot share blocks]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=64),
            conflicts_with = "snapshots")]
        keep: Option<u64>,
    },

    /// Print what the store holds
    #[command(after_help = STATS_EXAMPLES)]
    Stats,

    /// Delete the files of dropped worktrees; 'calve drop' starts this in the background
    #[command(hide = true)]
    EmptyTrash,

    /// Make the ready trees that are missing; 'calve start' starts this in the background
    #[command(hide = true)]
    Refill,

    /// Name the contents of worktrees that were made without reading them; 'calve start' starts
    /// this in the background
    #[command(hide = true)]
    Name,
}

/// The arguments of `calve store gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Keep content that changed within this time [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) grace: Option<Duration>,

    /// First forget snapshots that are older than this
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) expire: Option<Duration>,

    /// Delete worktrees that were dropped by force longer ago than this [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) dropped: Option<Duration>,

    /// Wait at most this long for a moment alone with the store [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) patience: Option<Duration>,
}

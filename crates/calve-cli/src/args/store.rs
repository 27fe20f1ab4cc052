//! The arguments of `calve store`.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use crate::candidates;

pub(crate) const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store stats
      What it holds, and how much that takes.
  calve store verify --repair
      After a crash, or a failing disk.
  calve store pack && calve store gc --expire 30d
      Once a week: compress what is cold, forget what is old and has no name.
  calve store warm ready
      So that the next 'calve start --from ready' has nothing to unpack.";

const VERIFY_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store verify
  calve store verify --repair
      What is bad is made again from where it is good. What is good nowhere is
      set aside, and the same file, as soon as a snapshot finds it again, heals
      it.";

const GC_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store gc
      What no snapshot reaches any more, and what killed processes left.
  calve store gc --expire 30d
      Forget snapshots older than that, too; not those that have a name, nor
      those that a worktree or the project is based on.

TIME is a number with s, m, h or d after it; seconds, where there is none.";

const PACK_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store pack
      What neither the project's latest snapshot nor one of a worktree needs.
  calve store pack --all
      Everything; the next start unpacks what it needs.";

const WARM_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store warm
  calve store warm ready 3f9a

On btrfs a warm snapshot is a subvolume, too, and starts in constant time.";

const STATS_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store stats
  calve store stats -v       exact sizes
  calve store stats --json   for programs";

/// The commands of `calve store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Read everything, and name what is damaged or missing and the paths that it stands for
    ///
    /// Exits with 3 where there was damage, mended or not.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// Mend what can be mended
        #[arg(long)]
        repair: bool,
    },

    /// Remove what no snapshot, name or worktree reaches
    ///
    /// Others may be at the store meanwhile. Exits with 3 where they left it no moment alone.
    #[command(after_help = GC_EXAMPLES)]
    Gc(GcArgs),

    /// Compress what is cold
    ///
    /// It is unpacked again by whoever needs it.
    #[command(after_help = PACK_EXAMPLES)]
    Pack {
        /// What is not cold, too
        #[arg(long)]
        all: bool,
    },

    /// Unpack ahead what worktrees of these snapshots are made from
    #[command(after_help = WARM_EXAMPLES)]
    Warm {
        /// Names, ids, or starts of ids [default: the project's latest]
        #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
            add = ArgValueCompleter::new(candidates::snapshots))]
        snapshots: Vec<String>,
    },

    /// Tell what the store holds
    #[command(after_help = STATS_EXAMPLES)]
    Stats,

    /// Delete the files of dropped worktrees; 'calve drop' starts this in the background
    #[command(hide = true)]
    EmptyTrash,
}

/// The arguments of `calve store gc`.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Leave what changed within this time [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) grace: Option<Duration>,

    /// Forget snapshots that are older than this, first
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) expire: Option<Duration>,

    /// Try for so long to have the store for a moment alone [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) patience: Option<Duration>,
}

fn parse_time(value: &str) -> Result<Duration, String> {
    let (digits, unit) = match value.char_indices().next_back() {
        Some((at, 's')) => (&value[..at], 1),
        Some((at, 'm')) => (&value[..at], 60),
        Some((at, 'h')) => (&value[..at], 3600),
        Some((at, 'd')) => (&value[..at], 86_400),
        _ => (value, 1),
    };
    let digits = digits.bytes().all(|byte| byte.is_ascii_digit()).then_some(digits);
    digits
        .and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit))
        // A hundred years: sums of times stay far from where they overflow.
        .filter(|seconds| *seconds <= 36_525 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| "not a time such as 90s, 10m, 2h or 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        for (value, expected) in [
            ("0", Some(0)),
            ("90", Some(90)),
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("30d", Some(2_592_000)),
            ("", None),
            ("d", None),
            ("-1", None),
            ("+1", None),
            ("1.5h", None),
            ("1w", None),
            ("1 d", None),
            ("99999999999999999999", None),
            ("9999999999d", None),
            ("1ü", None),
        ] {
            assert_eq!(parse_time(value).ok().map(|time| time.as_secs()), expected, "{value}");
        }
    }
}

//! The arguments of the verbs about worktrees.

use std::path::PathBuf;

use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::changes::ScopeArgs;
use super::{MAX_COUNT, usage_error};
use crate::candidates;

pub(crate) const START_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve start fix-1 fix-2
      Two worktrees of the project as it stands, dependencies and uncommitted
      work included.
  calve start -n 8 --prefix agent
      Eight, agent-1 … agent-8.
  calve start --from ready --at /mnt/xfs/jobs job-7
      /mnt/xfs/jobs/job-7, of the snapshot that is called ready.
  cd \"$(calve start -q fix-3)\"
      Standard output carries the paths, one a line, and nothing else.

They stand in ../PROJECT.worktrees, or in .calve/worktrees where the folder
above the project is another filesystem or closed to you. Exits with 3 when
entries were left out; warnings name them.";

pub(crate) const LIST_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve list
      Name, snapshot, standing, path. Standing is ready, starting, switching
      (cut short, or under way), missing, or unknown where it cannot be
      looked at.
  calve list --status
      Looks into each as well: one more column, clean or changed.

On a terminal that is too narrow names and paths are cut; -v shows them whole.";

pub(crate) const STATUS_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve status
      Of the worktree, or the project, that the current folder is in.
  calve status fix-1
  calve status ../repo.worktrees/fix-1
  calve status --gitignore fix-1 -- src
      Below src, without what git ignores.
  calve status -q fix-1 >/dev/null || echo changed

Equal is what has the same content and mode; times do not count. Names are
printed as they are; for names with line breaks in them there is --json.";

pub(crate) const DROP_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve drop fix-1 fix-2
  calve capture fix-3 --name fix-3 && calve drop fix-3
      Its changes are kept as a snapshot, from which 'calve start --from fix-3'
      makes it again.
  calve drop --force fix-4
      Changed or not.";

pub(crate) const RESTORE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  rm -rf ../repo.worktrees/fix-1
  calve restore fix-1

What was changed there since its snapshot is lost with the files. A worktree
that was moved needs no restoring: it is known again as soon as calve is run
inside of it.";

/// What worktrees are called where nothing is said about that.
const PREFIX: &str = "worktree";

/// The arguments of `calve start`.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// What the worktrees shall be called; their folders are called the same
    #[arg(value_name = "NAME", required_unless_present = "count", conflicts_with = "count",
        value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,

    /// Start N worktrees, P-1 … P-N
    #[arg(short = 'n', long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_COUNT))]
    count: Option<u32>,

    /// P for -n
    #[arg(long, value_name = "P", default_value = PREFIX,
        value_parser = NonEmptyStringValueParser::new())]
    prefix: String,

    /// Start them from this snapshot (name, id, or 4 digits and more of one), and not from the project
    #[arg(long, value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) from: Option<String>,

    /// In this folder, which is made where it is missing
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) at: Option<PathBuf>,
}

impl StartArgs {
    /// The names, counted out where `-n` was given.
    pub(crate) fn names(&self) -> Result<Vec<String>, clap::Error> {
        match self.count {
            Some(count) => {
                Ok((1..=count).map(|number| format!("{}-{number}", self.prefix)).collect())
            }
            None if self.prefix != PREFIX => {
                Err(usage_error("start", "--prefix needs -n, which numbers the names"))
            }
            None => Ok(self.names.clone()),
        }
    }
}

/// The arguments of `calve list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Tell also which were changed since their snapshots
    #[arg(long)]
    pub(crate) status: bool,
}

/// The arguments of `calve status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Its name or path [default: the one that the current folder is in]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
}

/// The arguments of `calve drop`.
#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// Their names or paths
    #[arg(value_name = "NAME", required = true, value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktrees: Vec<PathBuf>,

    /// Changed or not
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// The arguments of `calve restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Its name, or the path it had
    #[arg(value_name = "NAME", value_hint = ValueHint::AnyPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: PathBuf,
}

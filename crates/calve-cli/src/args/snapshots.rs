//! The arguments of the verbs about snapshots.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::usage_error;
use crate::candidates;

pub(crate) const INIT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve init
      A store for the project in the current folder, in .calve there.
  calve init --store /mnt/xfs/stores/repo repo
      Elsewhere; every later command then needs the same --store, or CALVE_STORE.

A project is found again from any folder inside of it, and from inside its
worktrees.";

pub(crate) const SNAPSHOT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve snapshot -m 'dependencies installed' --name ready
  before=$(calve snapshot -q)
      Standard output carries the id, and nothing else.
  calve start --from ready fix-1
      A worktree of it, whatever the project holds by then.

Where nothing changed and there is no message, the last snapshot's id is printed
again. Exits with 3 when entries were left out (sockets, devices, files that
never held still); warnings name them.";

pub(crate) const CAPTURE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve capture fix-1 -m 'tests pass' --name fixed
  calve capture
      Of the worktree that the current folder is in.";

pub(crate) const LOG_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve log -n 5
  calve log -v          whole ids
  calve log --json      everything that is known of each";

pub(crate) const SHOW_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve show            what the current folder's worktree is based on
  calve show ready      by name
  calve show 3f9a       by the start of its id, four digits at least";

pub(crate) const NAME_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve name 3f9a ready      call it ready
  calve name                 list the names, each with its snapshot
  calve name --delete ready  take the name away; the snapshot stays";

/// The arguments of `calve init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The project's root [default: the current folder]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,
}

/// What a new snapshot is told by.
#[derive(Debug, Args)]
pub(crate) struct Telling {
    /// Why it is taken; with a message there is a new snapshot even where nothing changed
    #[arg(short, long, value_name = "MSG")]
    pub(crate) message: Option<String>,

    /// Call it NAME, too
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// The arguments of `calve snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The root of the project, or of a worktree [default: the one that the current folder is in]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) telling: Telling,
}

/// The arguments of `calve capture`.
#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// Its name or path [default: the one that the current folder is in]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) telling: Telling,
}

/// The arguments of `calve log`.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The newest N only
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<usize>,
}

/// The arguments of `calve show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its name, id, or the start of its id [default: the current folder's worktree's, or the
    /// project's]
    #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) snapshot: Option<String>,
}

/// The arguments of `calve name`.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The snapshot: a name it has already, its id, or the start of its id
    #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) snapshot: Option<String>,

    /// What it shall be called
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Take this name away
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["snapshot", "name"],
        add = ArgValueCompleter::new(candidates::names))]
    pub(crate) delete: Option<String>,
}

/// What `calve name` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming<'a> {
    List,
    Delete(&'a str),
    Set { snapshot: &'a str, name: &'a str },
}

impl NameArgs {
    /// What is to be done; a snapshot without a name for it says nothing.
    pub(crate) fn naming(&self) -> Result<Naming<'_>, clap::Error> {
        match (self.delete.as_deref(), self.snapshot.as_deref(), self.name.as_deref()) {
            (Some(name), ..) => Ok(Naming::Delete(name)),
            (None, Some(snapshot), Some(name)) => Ok(Naming::Set { snapshot, name }),
            (None, None, _) => Ok(Naming::List),
            (None, Some(_), None) => {
                Err(usage_error("name", "what shall it be called? SNAPSHOT comes before NAME"))
            }
        }
    }
}

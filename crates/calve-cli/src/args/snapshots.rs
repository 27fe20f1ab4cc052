//! The arguments of the verbs about snapshots.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::misuse::Misuse;
use crate::candidates;

pub(crate) const INIT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve init
      Makes a store for the project in the current folder, in .git/calve there.
  calve init --store /mnt/xfs/stores/repo repo
      Makes it elsewhere. A small file in the project, .git/calve/project, says
      where. If /mnt/xfs is another filesystem than the project's, worktrees go
      beside the store.

  calve init --volume ~/trees
      Puts the store, ~/trees/PROJECT.calve, and later the worktrees on a volume
      ('calve volume create ~/trees'), for a project on ext4.

Later commands find the store from any folder inside the project, and from
inside its worktrees.";

pub(crate) const SNAPSHOT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve snapshot ready -m 'dependencies installed'
      Records the tree that one is in, the project or a worktree, as ready.
  calve snapshot --of fix-1 fixed
      Records the worktree fix-1 from anywhere.
  before=$(calve snapshot -q)
      Standard output has only the id.
  calve start --from ready fix-1
      Starts a worktree from it, whatever the project holds by then.

If nothing changed and you give no message, calve prints the id of the last
snapshot again. Exits with 3 if entries were left out (sockets, devices, files
that kept changing); warnings name them.";

pub(crate) const LOG_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve log -n 5
  calve log -v          with whole ids
  calve log --json      with everything that is known about each";

pub(crate) const SHOW_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve show            the base snapshot of the current folder's worktree
  calve show ready      by name
  calve show 3f9a       by the start of its id, at least four digits";

pub(crate) const NAME_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve name 3f9a ready      names the snapshot 3f9a… ready
  calve name                 lists the names, each with its snapshot
  calve name --delete ready  deletes the name; the snapshot stays";

/// The arguments of `calve init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The project's root [default: the current folder]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: Option<PathBuf>,

    /// Make a store even for the home folder, a folder that contains it, or a folder in a worktree
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Make the store in DIR, on a filesystem that can share blocks; worktrees go there, too
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "store")]
    pub(crate) volume: Option<PathBuf>,
}

/// The arguments of `calve snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// Give it this name
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Say why you take it; with a message, calve makes a new snapshot even if nothing changed
    #[arg(short, long, value_name = "MSG")]
    pub(crate) message: Option<String>,

    /// Record this worktree, by name or path [default: the tree that contains the current folder]
    #[arg(long, value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) of: Option<PathBuf>,
}

/// The arguments of `calve log`.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// List only the newest N
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<usize>,
}

/// The arguments of `calve show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Its name, its id, or the start of its id [default: the base snapshot of the worktree, or
    /// project, that contains the current folder]
    #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) snapshot: Option<String>,
}

/// The arguments of `calve name`.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The snapshot: its id, the start of its id, or a name that it has
    #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) snapshot: Option<String>,

    /// The name to give it
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Delete this name
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["snapshot", "name"],
        add = ArgValueCompleter::new(candidates::names))]
    pub(crate) delete: Option<String>,
}

/// The meaning of the arguments of `calve name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming<'a> {
    List,
    Delete(&'a str),
    Set { snapshot: &'a str, name: &'a str },
}

impl NameArgs {
    /// Interprets the arguments. A snapshot without a new name is an error.
    pub(crate) fn naming(&self) -> Result<Naming<'_>, Misuse> {
        match (self.delete.as_deref(), self.snapshot.as_deref(), self.name.as_deref()) {
            (Some(name), ..) => Ok(Naming::Delete(name)),
            (None, Some(snapshot), Some(name)) => Ok(Naming::Set { snapshot, name }),
            (None, None, _) => Ok(Naming::List),
            (None, Some(_), None) => {
                Err(Misuse::new("name", "NAME is missing; SNAPSHOT comes before NAME"))
            }
        }
    }
}

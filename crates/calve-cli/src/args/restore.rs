//! The arguments of `calve restore` and `calve undo`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::worktrees::GitArgs;
use crate::candidates;

pub(crate) const RESTORE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve restore fix-1
      Gives fix-1 the content of its base snapshot again. Its own changes are
      moved aside: 'calve undo fix-1' brings them back.
  calve restore ready fix-1
      Gives fix-1 the content of the snapshot ready.
  calve restore ready
      The same for the tree that one is in. In the project, calve says what it
      would change, and asks; --force does not ask.
  rm -rf ../repo.worktrees/fix-2 && calve restore fix-2
      Makes a deleted worktree again from its base snapshot.
  calve drop --force fix-3 && calve restore fix-3
      Brings back a dropped worktree, with all files as they were.

If a snapshot and a worktree have the same name, a path means the worktree
(../repo.worktrees/NAME), and 'calve restore NAME .' means the snapshot. The
changes that a worktree had when its folder was deleted by hand are lost. A
worktree that was only moved needs no restore: run a command such as
'calve status' inside it, and calve knows its new path.";

pub(crate) const UNDO_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve restore ready fix-1 && calve undo fix-1
      There and back again, with all local changes.
  calve drop --force fix-2 && calve undo fix-2
      Brings fix-2 back, with all files as they were, if it had changes.
  calve undo fix-2 --as fix-2-old
      The same, if fix-2 is the name of another worktree by now.
  calve undo
      In the project, calve says what it would change, and asks.

calve keeps what a restore moved aside until the next restore that moves
something aside, and a dropped worktree that had changes for seven days.";

/// The arguments of `calve restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// A name, an id, or the start of an id; without it, the base snapshot
    #[arg(value_name = "SNAPSHOT", add = ArgValueCompleter::new(candidates::restorable))]
    pub(crate) first: Option<PathBuf>,

    /// Its name or path, which may stand alone [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::AnyPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) second: Option<PathBuf>,

    /// Change the project itself without asking for its name; 'calve undo' takes it back
    #[arg(short, long)]
    pub(crate) force: bool,

    #[command(flatten)]
    pub(crate) git: GitArgs,
}

/// The arguments of `calve undo`.
#[derive(Debug, Args)]
pub(crate) struct UndoArgs {
    /// Its name or path, or the name that it had [default: the one that contains the current
    /// folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::AnyPath,
        add = ArgValueCompleter::new(candidates::undoable))]
    pub(crate) worktree: Option<PathBuf>,

    /// Change the project itself without asking for its name
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Bring back the dropped worktree under another name, beside its old path
    #[arg(long = "as", value_name = "NAME", requires = "worktree",
        value_parser = NonEmptyStringValueParser::new())]
    pub(crate) new_name: Option<String>,
}

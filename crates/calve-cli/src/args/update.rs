//! The arguments of `calve update`.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use crate::candidates;

pub(crate) const UPDATE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  npm install left-pad && calve update fix-1
      In the project: fix-1 gets the new node_modules, and nothing is installed.
  calve update --rebase
      In a worktree: git rebases its branch onto the project's commit, then
      calve brings the dependencies and the build output.
  rm -r node_modules && calve update
      Takes the project's node_modules instead of the worktree's own.

What the worktree changed itself stays, and is named. A folder that a program
keeps whole (node_modules, a virtual environment, cargo's target) is replaced
whole or not at all. 'calve undo' takes an update back.";

/// The arguments of `calve update`.
#[derive(Debug, Default, Args)]
pub(crate) struct UpdateArgs {
    /// Their names or paths [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::AnyPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktrees: Vec<PathBuf>,

    /// First let git merge the project's commit into the worktree
    ///
    /// If git stops, for example with conflicts, calve changes nothing and undoes nothing.
    #[arg(long)]
    pub(crate) merge: bool,

    /// First let git rebase the worktree's branch onto the project's commit
    ///
    /// If git stops, for example with conflicts, calve changes nothing and undoes nothing.
    #[arg(long, conflicts_with = "merge")]
    pub(crate) rebase: bool,

    /// Also replace folders in which processes work
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Only say what would happen
    #[arg(short = 'n', long, conflicts_with_all = ["merge", "rebase"])]
    pub(crate) dry_run: bool,
}

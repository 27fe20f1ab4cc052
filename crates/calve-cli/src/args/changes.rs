//! The arguments of the verbs about changes.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::misuse::Misuse;
use crate::candidates;
use crate::text::shown;

pub(crate) const DIFF_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve diff fix-1
      A patch, with binary files, links and the execute permission. On a
      terminal, the patch only names binary files.
  calve diff fix-1 | git apply
      Makes the same changes here.
  calve diff --gitignore fix-1 | git apply
      The same, without build output and other files that git ignores.
  calve diff fix-1 -- src docs
      Only what is below src and docs.
  calve diff --stat fix-1
      One line per file: LETTER, lines added and removed (for a binary file its
      sizes), path.

The patch leaves out what git patches cannot hold: empty folders, other mode
bits, owners, attributes, times, and the content of .git. The exit code does not
say whether there are changes; that of 'calve status' does.";

pub(crate) const SWITCH_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve switch fix-1 ready
      Touches only what differs between the two snapshots.
  calve switch ready
      Switches the worktree, or the project, that contains the current folder.
      In the project, calve asks; to go to a worktree: 'calve cd fix-1'.
  calve switch --force fix-1 ready && calve switch fix-1 --undo
      There and back again, with all local changes.

Local changes that are not in the way stay as they are.";

pub(crate) const RESET_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve reset fix-1
      Makes fix-1 match its base snapshot again.
  calve switch fix-1 --undo
      Brings back everything that was changed, added or deleted.";

/// The arguments of `calve diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Its name or path [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    /// Print one line per file instead of the patch
    #[arg(long)]
    pub(crate) stat: bool,

    /// Print the patch (the default), with the content of binary files even on a terminal; with
    /// --json, put it into the document
    #[arg(long, conflicts_with = "stat")]
    pub(crate) patch: bool,

    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
}

/// The changes that `status` and `diff` include.
#[derive(Debug, Args)]
pub(crate) struct ScopeArgs {
    /// Leave out entries that .gitignore files name, and nested .git folders
    #[arg(long)]
    gitignore: bool,

    /// Only these paths and what is below them; they start at the worktree's root, as calve prints
    /// them
    #[arg(last = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
}

impl ScopeArgs {
    /// These options for the library.
    pub(crate) fn scope(&self) -> calve::ChangeScope {
        self.paths
            .iter()
            .fold(calve::ChangeScope::new().gitignore(self.gitignore), calve::ChangeScope::path)
    }

    /// The part of a summary that says what calve left out. Without it, a user could believe that
    /// there are no other changes.
    pub(crate) fn limits(&self) -> String {
        let ignored = if self.gitignore { ", without files that git ignores" } else { "" };
        match self.paths.as_slice() {
            [] => ignored.to_owned(),
            [path] => format!("{ignored}, in {}", shown(path)),
            [_, ..] => format!("{ignored}, in {} paths", self.paths.len()),
        }
    }
}

/// The arguments of `calve switch`.
#[derive(Debug, Args)]
pub(crate) struct SwitchArgs {
    /// The worktree [default: the one that contains the current folder], and the snapshot
    #[arg(value_name = "[WORKTREE] SNAPSHOT", num_args = 0..=2, hide = true,
        add = ArgValueCompleter::new(candidates::switchable))]
    words: Vec<PathBuf>,

    /// Overwrite local changes that are in the way, and switch the project itself without asking
    /// for its name; --undo brings them back
    #[arg(short, long, conflicts_with = "undo")]
    force: bool,

    /// Undo the last forced switch, or the last reset
    #[arg(long)]
    undo: bool,
}

/// The meaning of the arguments of `calve switch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switching<'a> {
    To { worktree: Option<&'a Path>, snapshot: &'a Path, force: bool },
    Undo { worktree: Option<&'a Path> },
}

impl SwitchArgs {
    /// Interprets the words. A single word is the snapshot, or with `--undo` the worktree.
    pub(crate) fn switching(&self) -> Result<Switching<'_>, Misuse> {
        match (self.undo, self.words.as_slice()) {
            (true, []) => Ok(Switching::Undo { worktree: None }),
            (true, [worktree]) => Ok(Switching::Undo { worktree: Some(worktree) }),
            (true, _) => Err(Misuse::new(
                "switch",
                "--undo goes back to the snapshot before; it takes no SNAPSHOT",
            )),
            (false, [snapshot]) => {
                Ok(Switching::To { worktree: None, snapshot, force: self.force })
            }
            (false, [worktree, snapshot]) => {
                Ok(Switching::To { worktree: Some(worktree), snapshot, force: self.force })
            }
            (false, _) => Err(Misuse::new("switch", "SNAPSHOT is missing: to which one?")),
        }
    }
}

/// The arguments of `calve reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Reset the project itself without asking for its name
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Its name or path [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,
}

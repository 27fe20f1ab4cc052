//! The arguments of the verbs about what was changed.

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::usage_error;
use crate::candidates;
use crate::text::shown;

pub(crate) const DIFF_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve diff fix-1
      As a patch; binary files, links and the right to execute are in it. On a
      terminal binary files are only named.
  calve diff fix-1 | git apply
      The same changes here.
  calve diff --gitignore fix-1 | git apply
      Without what a build made there.
  calve diff fix-1 -- src docs
      Only what is below these.
  calve diff --stat fix-1
      A line a file: LETTER, lines added and removed (or sizes, where it is
      binary), path.

What no patch of git's can hold is left out of it: empty folders, other mode
bits, owners, attributes, times, and what is in .git. The exit code is 0 whether there are changes
or not; 'calve status' tells by its own.";

pub(crate) const SWITCH_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve switch fix-1 ready
      What is the same in both snapshots is not touched.
  calve switch ready
      The worktree, or the project, that the current folder is in.
  calve switch --force fix-1 ready && calve switch fix-1 --undo
      There and back again, with all that was changed by hand.

What was changed by hand and is not in the way stays as it is.";

pub(crate) const RESET_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve reset fix-1
  calve switch fix-1 --undo
      Brings everything back that was changed, added or deleted.";

/// The arguments of `calve diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// Its name or path [default: the one that the current folder is in]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    /// A line a file
    #[arg(long)]
    pub(crate) stat: bool,

    /// The patch (the default), on a terminal with the bytes of binary files, too; with --json, in
    /// the document
    #[arg(long, conflicts_with = "stat")]
    pub(crate) patch: bool,

    #[command(flatten)]
    pub(crate) scope: ScopeArgs,
}

/// What `status` and `diff` tell of.
#[derive(Debug, Args)]
pub(crate) struct ScopeArgs {
    /// Leave out what .gitignore files name, and .git itself
    #[arg(long)]
    gitignore: bool,

    /// Only these and what is below them; from the worktree's root, as they are printed
    #[arg(last = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
}

impl ScopeArgs {
    /// The same for the library.
    pub(crate) fn scope(&self) -> calve::Scope {
        self.paths.iter().fold(calve::Scope::new().gitignore(self.gitignore), calve::Scope::path)
    }

    /// What a summary must not be silent about: that there may be changes which nobody looked for.
    pub(crate) fn limits(&self) -> String {
        let ignored = if self.gitignore { ", leaving out what git ignores" } else { "" };
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
    /// The worktree [default: the one that the current folder is in], and the snapshot
    #[arg(value_name = "[WORKTREE] SNAPSHOT", num_args = 0..=2, hide = true,
        add = ArgValueCompleter::new(candidates::switchable))]
    words: Vec<PathBuf>,

    /// Move what was changed by hand, and is in the way, aside
    #[arg(short, long, conflicts_with = "undo")]
    force: bool,

    /// Take the last forced switch, or the last reset, back
    #[arg(long)]
    undo: bool,
}

/// What `calve switch` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switching<'a> {
    To { worktree: Option<&'a Path>, snapshot: &'a Path, force: bool },
    Undo { worktree: Option<&'a Path> },
}

impl SwitchArgs {
    /// What is to be done: with one word it is the snapshot, and with `--undo` the worktree.
    pub(crate) fn switching(&self) -> Result<Switching<'_>, clap::Error> {
        match (self.undo, self.words.as_slice()) {
            (true, []) => Ok(Switching::Undo { worktree: None }),
            (true, [worktree]) => Ok(Switching::Undo { worktree: Some(worktree) }),
            (true, _) => Err(usage_error(
                "switch",
                "--undo goes back to the snapshot before; no other can be named",
            )),
            (false, [snapshot]) => {
                Ok(Switching::To { worktree: None, snapshot, force: self.force })
            }
            (false, [worktree, snapshot]) => {
                Ok(Switching::To { worktree: Some(worktree), snapshot, force: self.force })
            }
            (false, _) => Err(usage_error("switch", "to which snapshot?")),
        }
    }
}

/// The arguments of `calve reset`.
#[derive(Debug, Args)]
pub(crate) struct ResetArgs {
    /// Its name or path [default: the one that the current folder is in]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,
}

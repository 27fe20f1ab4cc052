//! The arguments of the verbs about changes.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use clap_complete::engine::ArgValueCompleter;

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

//! The arguments of the verbs for shells and manual pages.

#[cfg(unix)]
use std::path::PathBuf;

#[cfg(unix)]
use clap::{Args, ValueHint};
#[cfg(unix)]
use clap_complete::engine::ArgValueCompleter;

#[cfg(unix)]
use crate::candidates;

#[cfg(unix)]
pub(crate) const PATH_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  cd \"$(calve path fix-1)\"
  calve path             the root of the worktree that contains this folder
  calve path --project   the root of the project";

#[cfg(unix)]
pub(crate) const CD_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve cd fix-1   to the worktree
  calve cd         to the project
  cd -             back to where you were

A command cannot change the folder of your shell; a shell function can. 'calve
help shell-init' says how to get it. Without the function, or in a script, use
cd \"$(calve path fix-1)\"";

pub(crate) const SHELL_INIT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  eval \"$(calve shell-init bash)\"
      In ~/.bashrc.
  eval \"$(calve shell-init zsh)\"
      In ~/.zshrc, after compinit.
  calve shell-init fish | source
      In ~/.config/fish/config.fish.

After that, 'calve cd NAME' goes to a worktree, and the shell completes the
names of worktrees and snapshots. With --completions only the latter:
calve shell-init fish --completions > ~/.config/fish/completions/calve.fish";

pub(crate) const MAN_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve man start | man -l -
  calve man --dir ~/.local/share/man/man1
      After that: man calve, man calve-clone, man calve-store-gc …";

/// The arguments of `calve path`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct PathArgs {
    /// Its name or path [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    /// Print the root of the project instead
    #[arg(short, long, conflicts_with = "worktree")]
    pub(crate) project: bool,
}

/// The arguments of `calve cd`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct CdArgs {
    /// Name or path of a worktree [default: the project]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,
}

//! The arguments of the verbs for shells and manual pages.

#[cfg(unix)]
use std::ffi::OsString;
#[cfg(unix)]
use std::path::PathBuf;

#[cfg(unix)]
use clap::{Args, ValueEnum, ValueHint};
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

#[cfg(unix)]
pub(crate) const ENV_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  eval \"$(calve env)\"
      In a script, or in .envrc for direnv.
  calve env fix-1 --format dotenv > .env.local
  docker compose --env-file <(calve env --format dotenv) up

Settings: git config calve.portBase 3000, calve.portStep 10. A worktree's port
is the base and its slot times the step; the project has slot 0.";

/// The arguments of `calve env`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// Its name or path [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    /// In which form
    #[arg(long, value_name = "FORM", value_enum, default_value = "shell")]
    pub(crate) format: EnvFormat,
}

#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// 'export' lines for bash, zsh, fish and sh
    Shell,
    /// Lines of a file .env
    Dotenv,
    /// One object, as --json
    Json,
}

#[cfg(unix)]
pub(crate) const RUN_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve run fix-1 -- ninja -C build
      Builds fix-1 with the project's build folder, as it was configured.
  calve run fix-1
      Your shell. In it, git and all other programs take fix-1 for the project.
  calve run fix-1 -- sh -c 'diff -r \"$CALVE_PROJECT/src\" src'

The program starts in the same folder of the worktree as you are in, or in its
root. calve itself does not work in it. Needs a mount namespace: if the system
gives none, calve says why, and what helps.

Exit codes: those of CMD; 127 if it is not found, 126 if it cannot be run; 1 or
2 if calve fails before.";

/// The arguments of `calve run`.
#[cfg(unix)]
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Its name or path [default: the one that contains the current folder]
    #[arg(value_name = "WORKTREE", value_hint = ValueHint::DirPath,
        add = ArgValueCompleter::new(candidates::worktrees))]
    pub(crate) worktree: Option<PathBuf>,

    /// The program, and its arguments [default: your shell]
    #[arg(value_name = "CMD", last = true, value_hint = ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

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

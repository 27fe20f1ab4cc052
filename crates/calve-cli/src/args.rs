//! The command line, and its help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use self::misuse::Misuse;
use crate::common::Common;

#[cfg(all(test, unix))]
mod advised;
#[cfg(unix)]
mod changes;
mod clone;
#[cfg(unix)]
mod hooks;
mod misuse;
#[cfg(unix)]
mod remote;
#[cfg(unix)]
mod restore;
mod shells;
#[cfg(unix)]
mod snapshots;
#[cfg(unix)]
mod store;
#[cfg(unix)]
mod tidy;
#[cfg(unix)]
mod units;
#[cfg(unix)]
mod update;
#[cfg(target_os = "linux")]
mod volume;
#[cfg(unix)]
mod worktrees;

#[cfg(unix)]
pub(crate) use self::{
    changes::DiffArgs,
    hooks::{ClaudeHook, HookVerb},
    remote::{CheckoutArgs, KeyArgs, PullArgs, PushArgs, RemoteGcArgs, RemoteVerb, TransferArgs},
    restore::{RestoreArgs, UndoArgs},
    shells::{CdArgs, EnvArgs, EnvFormat, PathArgs, RunArgs},
    snapshots::{InitArgs, LogArgs, NameArgs, Naming, ShowArgs, SnapshotArgs},
    store::{GcArgs, StoreVerb},
    tidy::TidyArgs,
    units::{parse_size, parse_time},
    update::UpdateArgs,
    worktrees::{
        DropArgs, DuArgs, FillArgs, ListArgs, PROJECT, ReshareArgs, StartArgs, StatusArgs,
    },
};
pub(crate) use clone::CloneArgs;
#[cfg(target_os = "linux")]
pub(crate) use volume::{CreateArgs, GrowArgs, RemoveArgs, VolumeVerb};

const ABOUT: &str = "Gives each coding agent its own copy of a project, for almost no disk";

pub(crate) const EXIT_CODES: &str = "\u{1b}[1;4mExit codes:\u{1b}[0m
  0        done
  1        failed; calve leaves no half-made tree behind, but what a merge or a
           restore has finished stays
  2        the command line was not understood; nothing was done
  3        done, with findings: entries that were left out, changes, damage, or
           paths that cannot reflink
  128 + N  stopped by signal N; what stays is as for 1";

pub(crate) const ENVIRONMENT: &str = "\u{1b}[1;4mEnvironment:\u{1b}[0m
  CALVE_STORE     the store's own folder; --store overrides it
  CALVE_KEY       the file with the key that signs what you push
  NO_COLOR        if it is not empty: no colors
  CLICOLOR_FORCE  if it is not empty: colors even without a terminal;
                  --color overrides both";

pub(crate) const FILES: &str = "\u{1b}[1;4mFiles:\u{1b}[0m
  .git/calve                in a project: its store, or the file that says where
                            the store is; .calve if it has no git repository
  .calveignore              in any folder: the files that snapshots leave out,
                            in the format of .gitignore
  ../PROJECT.worktrees      where new worktrees go, without --at";

#[cfg(unix)]
const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve start fix-1 fix-2            two worktrees, with uncommitted work; the
                                     first start makes the project's store
  calve status fix-1                 lists what changed in fix-1
  calve drop fix-2                   removes fix-2
  calve clone repo repo-fix          one isolated copy of repo, without a store
  calve clone -n 8 repo agents/repo  agents/repo-1 … agents/repo-8, in one walk
  calve doctor repo /mnt/agents      can repo be reflinked to /mnt/agents?

See 'calve help <COMMAND>' for the flags and examples of one command.";

#[cfg(not(unix))]
const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve clone repo repo-fix          one isolated copy, with uncommitted work
  calve clone -n 8 repo agents/repo  agents/repo-1 … agents/repo-8, in one walk
  calve doctor repo /mnt/agents      can repo be reflinked to /mnt/agents?

See 'calve help <COMMAND>' for the flags and examples of one command.";

const DOCTOR_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve doctor                  the project here, and what to do next
  calve doctor repo             within repo
  calve doctor repo /mnt/a /b   from repo to /mnt/a, and from repo to /b

If a path does not exist yet, doctor tests the nearest folder above it. The test
writes one small file with a random name, and removes it. Exits with 3 if any
pair cannot reflink.";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "calve",
    version,
    about = ABOUT,
    long_about = None,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}\n\n{ENVIRONMENT}\n\n{FILES}"),
    arg_required_else_help = true,
    max_term_width = 80
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Clone a directory tree
    ///
    /// Files share their blocks with SRC if the filesystem can reflink; otherwise calve copies
    /// them. The summary says which. A destination appears whole or not at all.
    #[command(after_help = clone::CLONE_EXAMPLES)]
    Clone(CloneArgs),

    /// Test whether files can share blocks
    ///
    /// If they cannot, doctor says why, and what would help.
    /// With one path, doctor tests within it; with more, from the first to each of the others.
    /// Without a path, it looks at the current folder, its git repository, its store and the
    /// limits, and says which command comes next.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),

    #[cfg(unix)]
    #[command(flatten)]
    Store(StoreCommand),

    /// Print shell code for cd and completion
    ///
    /// For bash, zsh and fish it defines a function named calve. The function handles 'cd', and
    /// passes everything else to the command. The completion script completes commands, flags, and
    /// the names of worktrees and snapshots; it asks calve for them.
    #[command(after_help = shells::SHELL_INIT_EXAMPLES)]
    ShellInit {
        /// The shell
        shell: clap_complete::Shell,

        /// Print only the completion script, for a folder of such scripts
        #[arg(long)]
        completions: bool,
    },

    /// Print or write the manual pages
    #[command(after_help = shells::MAN_EXAMPLES)]
    Man {
        /// Print the page of this command [default: calve itself]
        #[arg(conflicts_with = "dir")]
        command: Vec<String>,

        /// Write all pages into DIR, and print their paths; DIR is made if it is missing
        #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// The commands that stores are behind: only Unix has them.
#[cfg(unix)]
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Make a store for a project
    ///
    /// 'calve start' makes the store of a git project by itself.
    /// The store is the folder calve in the project's git repository, which all its worktrees share,
    /// or .calve in the project's root if it has none, or the folder that --store names, or on the
    /// volume that --volume names. It holds the content of each file once, and shares it
    /// with the project if both are on a filesystem that can reflink.
    #[command(after_help = snapshots::INIT_EXAMPLES)]
    Init(InitArgs),

    /// Record the tree you are in
    ///
    /// That is the project or a worktree. Prints the snapshot's id. It holds everything except .calve, the .git in the root, and what .calveignore
    /// files name. calve reads only what changed since the last snapshot. It becomes the tree's
    /// base snapshot; the old one is its parent.
    #[command(after_help = snapshots::SNAPSHOT_EXAMPLES)]
    Snapshot(SnapshotArgs),

    /// Make worktrees of this project
    ///
    /// Prints their paths. Each worktree is a copy of the project as it is now, of which calve takes a snapshot first,
    /// or of the snapshot that --from names. Either all worktrees appear, whole, or none. In a git
    /// project, each is a linked worktree of git, on a new branch with the worktree's name; -b,
    /// --detach, --base and --git choose otherwise.
    #[command(after_help = worktrees::START_EXAMPLES,
        override_usage = "calve start [OPTIONS] <NAME>...\n       calve start [OPTIONS] -n <N> [--prefix <P>]")]
    Start(StartArgs),

    /// Complete a worktree from another tool
    ///
    /// calve gives it the files that the project has and git ignores: dependencies, build output,
    /// settings. A tracked file that is the same in the project shares its blocks with the
    /// project's file and gets its time, so that builds stay fresh. The worktree may be at another
    /// commit.
    #[command(after_help = worktrees::FILL_EXAMPLES)]
    Fill(FillArgs),

    /// Bring worktrees new dependencies and builds
    ///
    /// calve brings what git ignores in the project now. It compares the worktree's base, the
    /// project and the worktree: what the worktree did not change itself becomes as it is in the
    /// project, what it did change stays. Tracked files are git's: --merge and --rebase let git
    /// bring them first.
    #[command(after_help = update::UPDATE_EXAMPLES)]
    Update(UpdateArgs),

    /// List the worktrees and their state
    #[command(after_help = worktrees::LIST_EXAMPLES)]
    List(ListArgs),

    /// Print how much disk worktrees take
    ///
    /// Also how much of it is shared, and how much a drop frees.
    /// du(1) counts shared blocks for every tree that has them. This command counts each block
    /// once: as unique, or for the first of these that has it too: the project, the store, another
    /// worktree, a file elsewhere.
    #[command(after_help = worktrees::DU_EXAMPLES)]
    Du(DuArgs),

    /// Deduplicate files that builds wrote again
    ///
    /// A file that has the bytes of another one in the store, in the project or in these worktrees
    /// shares its blocks from then on. The kernel compares the bytes. Content, inodes and times
    /// stay as they are.
    #[command(after_help = worktrees::RESHARE_EXAMPLES)]
    Reshare(ReshareArgs),

    /// Keep worktrees' disk space within bounds
    ///
    /// In this order: equal content shares its blocks; the store is collected and packed; worktrees
    /// that are merged, clean and idle are dropped; idle worktrees lose what a build gives back. It
    /// never touches work, nor a worktree in which a process works. With --max-size, it ends as
    /// soon as the bound holds, and exits with 3 if it never does.
    #[command(after_help = tidy::TIDY_EXAMPLES)]
    Tidy(TidyArgs),

    /// Print the path of a worktree
    #[command(after_help = shells::PATH_EXAMPLES,
        override_usage = "calve path [OPTIONS] [WORKTREE]\n       calve path [OPTIONS] --project")]
    Path(PathArgs),

    /// Run a program at the project's path
    ///
    /// The program sees the worktree at the project's path, and the project in CALVE_PROJECT. So a
    /// build folder of CMake or Meson, a conda environment and a compiler's cache mean the worktree
    /// without any change. No other process sees that. It has the variables of 'calve env', and its
    /// exit status is that of calve. This is no sandbox: the program may do what you may do.
    #[command(after_help = shells::RUN_EXAMPLES,
        override_usage = "calve run [OPTIONS] [WORKTREE] [-- CMD...]")]
    Run(RunArgs),

    /// Print variables for a worktree's programs
    ///
    /// Each worktree has a slot: a small number that no other worktree of the project has, the
    /// same from its start to its drop. The port and the name for docker compose come from it. The
    /// commands of start, -x and calve.afterStart, have these variables.
    #[command(after_help = shells::ENV_EXAMPLES)]
    Env(EnvArgs),

    /// Go to a worktree or project
    ///
    /// It needs the function of 'calve shell-init'.
    #[command(after_help = shells::CD_EXAMPLES)]
    Cd(CdArgs),

    /// List what changed in a worktree
    ///
    /// Changed since its base snapshot, that is. Prints one 'LETTER path' per line, sorted: A added, M modified, D deleted, T another kind of
    /// entry, X only the mode, the owner, the group or extended attributes. A new time is no
    /// change. Exits with 0 if the worktree is clean, and with 3 if it has changes.
    #[command(after_help = worktrees::STATUS_EXAMPLES)]
    Status(StatusArgs),

    /// Print what changed, as a patch
    #[command(after_help = changes::DIFF_EXAMPLES)]
    Diff(DiffArgs),

    /// Give a tree a snapshot's content
    ///
    /// Without a snapshot, that of its base snapshot. Touches only what differs. WORKTREE is a name or a path [default: the one that contains the
    /// current folder]; SNAPSHOT is a name, an id, or the start of an id. Local changes are moved
    /// aside, and 'calve undo' brings them back. Before it changes the project itself, calve says
    /// what it would change, and asks for the project's name. A worktree that was dropped, or whose
    /// folder was deleted, comes back.
    #[command(after_help = restore::RESTORE_EXAMPLES,
        override_usage = "calve restore [OPTIONS] [SNAPSHOT] [WORKTREE]")]
    Restore(RestoreArgs),

    /// Undo the last restore or drop
    ///
    /// The tree gets the snapshot that it was based on before, and the local changes that were
    /// moved aside. A worktree that was dropped, or whose folder was deleted, comes back. Before it
    /// changes the project itself, calve says what it would change, and asks for the project's
    /// name.
    #[command(after_help = restore::UNDO_EXAMPLES)]
    Undo(UndoArgs),

    /// Remove worktrees
    ///
    /// A worktree disappears at once; its files are deleted in the background. If one of the
    /// worktrees has changes, calve removes none of them, unless you give --force. calve never
    /// deletes anything behind a mount or a symbolic link.
    #[command(after_help = worktrees::DROP_EXAMPLES)]
    Drop(DropArgs),

    /// List the snapshots, newest first
    ///
    /// Prints one per line: id, time (UTC), size, names in brackets, message.
    #[command(after_help = snapshots::LOG_EXAMPLES)]
    Log(LogArgs),

    /// Show a snapshot
    #[command(after_help = snapshots::SHOW_EXAMPLES)]
    Show(ShowArgs),

    /// Name a snapshot; list or delete names
    ///
    /// Every command that takes the id of a snapshot takes its name, too. A name counts before an
    /// id that starts the same. If another snapshot has the name, calve moves it to this one.
    #[command(after_help = snapshots::NAME_EXAMPLES,
        override_usage = "calve name [OPTIONS] [<SNAPSHOT> <NAME>]\n       calve name [OPTIONS] --delete <NAME>")]
    Name(NameArgs),

    /// Send snapshots to a remote
    ///
    /// Other machines get them from there. It sends only what the remote lacks, and prints the ids.
    #[command(after_help = remote::PUSH_EXAMPLES)]
    Push(PushArgs),

    /// Fetch a snapshot from a remote
    ///
    /// Prints its id. It fetches only what the store lacks, and compares every byte with the snapshot's id. The
    /// store knows the snapshot when all of it is there.
    #[command(after_help = remote::PULL_EXAMPLES)]
    Pull(PullArgs),

    /// Make a project from a remote's snapshot
    ///
    /// Its store and its tree, for a machine that has neither. DIR appears with all of it, or stays as it is; calve
    /// compares every byte with the snapshot's id. A checkout that was stopped starts over.
    #[command(after_help = remote::CHECKOUT_EXAMPLES)]
    Checkout(CheckoutArgs),

    /// Manage remotes, and your signing key
    #[command(subcommand, arg_required_else_help = true, after_help = remote::EXAMPLES)]
    Remote(RemoteVerb),

    /// Check, clean and measure the store
    #[command(subcommand, arg_required_else_help = true, after_help = store::EXAMPLES)]
    Store(StoreVerb),

    /// Create and manage a copy-on-write volume
    #[cfg(target_os = "linux")]
    #[command(subcommand, arg_required_else_help = true, after_help = volume::EXAMPLES)]
    Volume(VolumeVerb),

    /// Serve the hooks of agents' tools
    #[command(subcommand, arg_required_else_help = true, after_help = hooks::EXAMPLES)]
    Hook(HookVerb),
}

impl Verb {
    /// Whether calve becomes another program, which must have the limits that calve was given.
    pub(crate) fn keeps_limits(&self) -> bool {
        #[cfg(unix)]
        return matches!(self, Self::Store(StoreCommand::Run(_)));
        #[cfg(not(unix))]
        false
    }
}

/// The arguments of `calve doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// One path, or a source and destinations [default: the current folder]
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
}

/// A usage error that clap cannot find on its own, in clap's own form.
pub(crate) fn usage_error(verb: &str, message: &str) -> clap::Error {
    let mut command = Cli::command();
    command.build();
    match command.find_subcommand_mut(verb) {
        Some(command) => command.error(ErrorKind::ArgumentConflict, message),
        None => command.error(ErrorKind::ArgumentConflict, message),
    }
}

impl From<Misuse> for clap::Error {
    fn from(misuse: Misuse) -> Self {
        usage_error(misuse.verb, misuse.message)
    }
}

/// The usage line of a command.
#[cfg(unix)]
pub(crate) fn usage(verb: &str) -> Option<clap::builder::StyledStr> {
    let mut command = Cli::command();
    command.build();
    command.find_subcommand_mut(verb).map(clap::Command::render_usage)
}

/// Finds `--json` and `--color`, even on a line that does not parse: the error needs them.
pub(crate) fn json_and_color(args: &[OsString]) -> (bool, ColorChoice) {
    let (mut json, mut color) = (false, ColorChoice::Auto);
    let mut words = args.iter().skip(1).map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let value = match word.as_ref() {
            "--" => break,
            "--json" => {
                json = true;
                continue;
            }
            "--color" => words.next(),
            word => word.strip_prefix("--color=").map(|value| value.to_owned().into()),
        };
        if let Some(given) = value.and_then(|value| ColorChoice::from_str(&value, true).ok()) {
            color = given;
        }
    }
    (json, color)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// `init DIR` once was also taken for `-C DIR`: clap tells arguments apart by the names of
    /// their fields.
    #[test]
    fn no_command_has_an_argument_that_is_taken_for_a_common_flag() {
        fn check(command: &clap::Command, common: &[clap::Id]) {
            for inner in command.get_subcommands() {
                for argument in inner.get_arguments() {
                    let id = argument.get_id();
                    assert!(!common.contains(id), "{} {id}", inner.get_name());
                }
                check(inner, common);
            }
        }
        let command = Cli::command();
        let common: Vec<_> = command.get_arguments().map(|it| it.get_id().clone()).collect();
        assert!(common.len() > 5);
        check(&command, &common);
    }

    /// clap wraps the examples, too. A line that is too wide then ends in a line of one word.
    #[test]
    fn no_line_of_an_example_is_wider_than_the_help() {
        fn check(command: &clap::Command) {
            let texts = [command.get_after_help(), command.get_after_long_help()];
            for text in texts.into_iter().flatten() {
                for line in text.to_string().lines() {
                    let width = unicode_width::UnicodeWidthStr::width(line);
                    assert!(width <= 80, "{}: {width}: {line}", command.get_name());
                }
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn json_and_color_are_found_on_a_line_that_does_not_parse() {
        for (words, expected) in [
            (&["clone"][..], (false, ColorChoice::Auto)),
            (&["clone", "--json"], (true, ColorChoice::Auto)),
            (&["--color", "never", "clone", "--nonsense"], (false, ColorChoice::Never)),
            (&["--color=always", "--color=blue"], (false, ColorChoice::Always)),
            (&["clone", "--", "--json", "--color=never"], (false, ColorChoice::Auto)),
        ] {
            let args: Vec<OsString> =
                std::iter::once("calve").chain(words.iter().copied()).map(OsString::from).collect();
            assert_eq!(json_and_color(&args), expected, "{words:?}");
        }
    }
}

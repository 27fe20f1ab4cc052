//! The arguments of the verbs about remotes.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use calve::PublicKey;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueHint};
use clap_complete::engine::ArgValueCompleter;

use super::misuse::Misuse;
use super::units::{TIMES, parse_rate, parse_time};
use crate::candidates;

pub(crate) const PUSH_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve snapshot ready && calve push ready
      Others get it by 'calve pull ready' and 'calve start --from team/ready'.
  calve push --as nightly
      The snapshot that the current folder is based on, as nightly.
  calve push --to team 3f9a
      Without a name: 'calve pull' takes its whole id.

Sends only what the remote lacks. A push that was stopped goes on with what
arrived. Names are signed if there is a key ('calve remote key').";

pub(crate) const PULL_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve pull ready
      Fetches what the store lacks of it, and prints its id.
  calve pull --from team --as base ready
      Also gives it the name base in this store.
  calve start --from team/ready fix-1
      Pulls it and starts a worktree from it.";

pub(crate) const CHECKOUT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve checkout file:///srv/trees ready app
      A project in app, as the snapshot that is named ready has it.
  calve checkout --key KEY --remote team s3://our-trees/app ready app
      Only if KEY has signed the name. In app, 'calve pull', 'calve push' and
      'calve start --from team/ready' go to this remote.

Snapshots have no .git in the root, so the project has no git repository.
docs/fleet.md says how it gets one.";

const KEY_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote key
      Prints your public key; the first time, makes the key.
  calve remote key >> .calvekeys
      'calve remote add' trusts the keys in this file of the project's root.
  calve remote add team file:///srv/trees --key \"$(cat ada.pub)\"
      From now on, names of this remote count only if ada has signed them.";

pub(crate) const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote init file:///srv/trees
      Once, in an empty folder that all machines can reach.
  calve remote add team file:///srv/trees
      On each machine, in the project.
  calve push ready
  calve pull ready";

const INIT_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote init file:///srv/trees";

const ADD_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote add team file:///srv/trees
  calve remote add team file:///srv/trees --key KEY --key OTHER-KEY
      Names count only if one of these keys has signed them.

Also trusts the keys in the file .calvekeys in the project's root, as it is
now: one key a line. To trust what it has later, run the same command again.";

const LIST_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote list";

const REMOVE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote remove team";

const NAMES_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote names
  calve remote names --json team";

const LOG_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote log ready
      Every snapshot that had the name, the newest first.";

const VERIFY_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote verify
      Reads everything, and lists missing and damaged objects.
  calve remote verify --quick --json team

Ends with 3 if there is damage. A push of a snapshot from a machine that has
it sends missing objects again.";

const GC_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve remote gc --dry-run
  calve remote gc --keep 30 --grace 14d team

Runs at any time, beside pushes and pulls; once a day is enough. It first
marks objects that nothing uses. A later run removes them after the grace time.";

/// The bandwidth that a transfer may use.
#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Send and receive at most RATE bytes a second on average: 500k and 10M are powers of 1024,
    /// 500kB and 10MB powers of 1000
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub(crate) limit_rate: Option<NonZeroU64>,
}

/// The arguments of `calve push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The snapshots: names, ids, or starts of ids [default: the base snapshot of the worktree, or
    /// project, that contains the current folder]
    #[arg(value_name = "SNAPSHOT", value_parser = NonEmptyStringValueParser::new(),
        add = ArgValueCompleter::new(candidates::snapshots))]
    pub(crate) snapshots: Vec<String>,

    /// Push to this remote [default: the only one]
    #[arg(long, value_name = "REMOTE", add = ArgValueCompleter::new(candidates::remotes))]
    pub(crate) to: Option<String>,

    /// Give the snapshot this name on the remote [default: the name by which it was given]
    #[arg(long = "as", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,

    /// Sign with the key in FILE [default: CALVE_KEY, else the key that 'calve remote key' made]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) key: Option<PathBuf>,

    /// Also send files that look like secrets, such as .env, and that git does not track
    #[arg(long)]
    pub(crate) with_secrets: bool,

    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

impl PushArgs {
    /// Fails if one name would go to several snapshots.
    pub(crate) fn checked(&self) -> Result<&Self, Misuse> {
        if self.name.is_some() && self.snapshots.len() > 1 {
            return Err(Misuse::new("push", "--as gives one name to one snapshot"));
        }
        Ok(self)
    }
}

/// The arguments of `calve pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// A name of the remote, or the whole id of a snapshot; REMOTE/NAME says which remote, too
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,

    /// Pull from this remote [default: the only one]
    #[arg(long, value_name = "REMOTE", add = ArgValueCompleter::new(candidates::remotes))]
    pub(crate) from: Option<String>,

    /// Also give the snapshot this name in the store
    #[arg(long = "as", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) local: Option<String>,

    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// The arguments of `calve checkout`.
#[derive(Debug, Args)]
pub(crate) struct CheckoutArgs {
    /// Where the remote is
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// A name of the remote, or the whole id of a snapshot
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,

    /// The folder of the new project: one that does not exist yet, or an empty one, whose owner,
    /// mode and ACLs it keeps
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) root: PathBuf,

    /// The name by which the new store knows the remote
    #[arg(long, value_name = "REMOTE", default_value = "origin",
        value_parser = NonEmptyStringValueParser::new())]
    pub(crate) remote: String,

    /// Accept the name only if this key, or another KEY, signed it; 'calve remote key' prints yours
    #[arg(long = "key", value_name = "KEY")]
    pub(crate) keys: Vec<PublicKey>,

    #[command(flatten)]
    pub(crate) transfer: TransferArgs,
}

/// The arguments of `calve remote key`.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Use the key in FILE [default: CALVE_KEY, else calve/key in the folder of settings]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

/// The commands of `calve remote`.
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteVerb {
    /// Make a remote in an empty place
    ///
    /// calve tests whether the place refuses to write what exists, because it relies on that.
    #[command(after_help = INIT_EXAMPLES)]
    Init {
        /// file:// and the absolute path of a folder that exists
        #[arg(value_name = "URL")]
        url: String,
    },

    /// Add a remote to the project's store
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// The name
        #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        name: String,

        /// Where the remote is
        #[arg(value_name = "URL")]
        url: String,

        /// Accept names only if this key, or another KEY, signed them; 'calve remote key' prints yours
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<PublicKey>,
    },

    /// Print your public signing key
    ///
    /// Its secret half signs the names that you push. The first time, it makes the key.
    #[command(after_help = KEY_EXAMPLES)]
    Key(KeyArgs),

    /// List the remotes that the project's store knows
    #[command(after_help = LIST_EXAMPLES)]
    List,

    /// Let the project's store forget a remote; the remote stays as it is
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// Its name
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(candidates::remotes))]
        name: String,
    },

    /// List the names of a remote, each with its snapshot
    #[command(after_help = NAMES_EXAMPLES)]
    Names {
        /// The remote [default: the only one]
        #[arg(value_name = "REMOTE", add = ArgValueCompleter::new(candidates::remotes))]
        remote: Option<String>,
    },

    /// Show the history of a name on a remote, newest first
    #[command(after_help = LOG_EXAMPLES)]
    Log {
        /// The name; REMOTE/NAME says which remote, too
        #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        name: String,

        /// The remote [default: the only one]
        #[arg(long, value_name = "REMOTE", add = ArgValueCompleter::new(candidates::remotes))]
        from: Option<String>,
    },

    /// Check whether the snapshots of a remote can be pulled
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// The remote [default: the only one]
        #[arg(value_name = "REMOTE", add = ArgValueCompleter::new(candidates::remotes))]
        remote: Option<String>,

        /// Only check whether everything is there, without reading it
        #[arg(long)]
        quick: bool,
    },

    /// Remove objects from a remote that no name has needed for a while
    ///
    /// Each name keeps its snapshot and those that it had before, as --keep says.
    #[command(after_help = format!("{GC_EXAMPLES}\n\n{TIMES}"))]
    Gc(RemoteGcArgs),
}

/// The arguments of `calve remote gc`.
#[derive(Debug, Args)]
pub(crate) struct RemoteGcArgs {
    /// The remote [default: the only one]
    #[arg(value_name = "REMOTE", add = ArgValueCompleter::new(candidates::remotes))]
    pub(crate) remote: Option<String>,

    /// Keep NUMBER earlier snapshots of each name [default: 10]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) keep: Option<u64>,

    /// Keep objects that are younger than this, and unneeded objects for this long after gc marks
    /// them [default: 7d]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) grace: Option<Duration>,

    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

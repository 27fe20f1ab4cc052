//! The arguments of `calve volume`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::units::parse_size;
use crate::volume::plan::{Filesystem, Owner, RootAction, volume_size};

pub(crate) const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve volume create ~/trees
      Makes the image ~/trees.img; mounts it at ~/trees now and at each boot.
  calve init --volume ~/trees
      In a project on ext4: its store and its worktrees go to the volume.
  calve volume status
      How much room the volumes have, and how much the disk below them has.";

const CREATE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve volume create ~/trees
  calve volume create --size 200G --fs xfs ~/trees
  calve volume create --no-sudo ~/trees
      Makes the image, and prints the lines for root, to be run by hand.

The image takes only the space of its contents. calve asks for root once, by
sudo, and first prints what root will do. If a step fails, calve undoes those
before it. A create that was killed goes on when you run it again.";

const LIST_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve volume list
  calve volume list --json   for programs";

const STATUS_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve volume status
  calve volume status -v ~/trees   exact sizes";

const GROW_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve volume grow ~/trees --size 200G
      Programs may go on working in it meanwhile.";

const REMOVE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve volume remove ~/trees
  calve volume remove --force ~/trees
      Deletes the volume with all that is in it.";

const CHECK_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  sudo umount ~/trees && calve volume check ~/trees
      Afterwards, 'calve volume status' says how to mount it again.

Exits with 3 if there is damage.";

/// The commands of `calve volume`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeVerb {
    /// Make a volume and mount it, now and at each boot
    ///
    /// A volume is a btrfs or XFS in a sparse image file, DIR.img, mounted at DIR. The image and
    /// everything in it belong to you. Root is needed to mount it: a mount unit of systemd, or a
    /// line in /etc/fstab.
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),

    /// List the volumes
    #[command(after_help = LIST_EXAMPLES)]
    List,

    /// Print how much room a volume has, in itself and on the disk below it
    ///
    /// Exits with 3 if there is something to do: too little room, not mounted, or not mounted at
    /// boot.
    #[command(after_help = STATUS_EXAMPLES)]
    Status {
        /// The folder of the volume [default: all volumes]
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        at: Option<PathBuf>,
    },

    /// Make a volume larger
    #[command(after_help = GROW_EXAMPLES)]
    Grow(GrowArgs),

    /// Check the filesystem of a volume that is not mounted
    #[command(after_help = CHECK_EXAMPLES)]
    Check {
        /// The folder of the volume
        #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
        at: PathBuf,

        /// Mend what can be mended (XFS)
        #[arg(long)]
        repair: bool,
    },

    /// Unmount a volume and delete its image
    ///
    /// If stores, worktrees or other files are in it, calve names them and removes nothing, unless
    /// you give --force.
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(RemoveArgs),

    /// The part that only root can do; the other commands run this by sudo
    #[command(hide = true)]
    AsRoot {
        /// What to do
        action: RootAction,
        /// The folder of the volume
        at: PathBuf,
        /// The owner of the volume
        #[arg(long, value_name = "UID:GID")]
        owner: Owner,
    },
}

fn parse_volume_size(value: &str) -> Result<u64, String> {
    Ok(volume_size(parse_size(value)?)?)
}

/// The arguments of `calve volume create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Where to mount it: a new or empty folder, in a folder of yours
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) at: PathBuf,

    /// Its size, which is the most that it can hold: 200G is a power of 1024, 200GB one of 1000
    /// [default: three quarters of what is free on the disk]
    #[arg(long, value_name = "SIZE", value_parser = parse_volume_size)]
    pub(crate) size: Option<u64>,

    /// Its filesystem [default: btrfs]
    #[arg(long = "fs", value_name = "FS", hide_possible_values = false)]
    pub(crate) filesystem: Option<Filesystem>,

    /// Print the lines for root on standard output, and do not run them
    #[arg(long)]
    pub(crate) no_sudo: bool,
}

/// The arguments of `calve volume grow`.
#[derive(Debug, Args)]
pub(crate) struct GrowArgs {
    /// The folder of the volume
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) at: PathBuf,

    /// Its new size, such as 200G (a power of 1024) or 200GB (one of 1000)
    #[arg(long, value_name = "SIZE", value_parser = parse_volume_size)]
    pub(crate) size: u64,

    /// Print the lines for root on standard output, and do not run them
    #[arg(long)]
    pub(crate) no_sudo: bool,
}

/// The arguments of `calve volume remove`.
#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The folder of the volume
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) at: PathBuf,

    /// Delete the volume although something is in it, or although calve cannot look
    #[arg(short, long)]
    pub(crate) force: bool,

    /// Print the lines for root on standard output, and do not run them
    #[arg(long)]
    pub(crate) no_sudo: bool,
}

//! The arguments of `calve store`.

use clap::Subcommand;

pub(crate) const EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve store stats";

/// The commands of `calve store`.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreVerb {
    /// Delete the files of dropped worktrees; 'calve drop' starts this in the background
    #[command(hide = true)]
    EmptyTrash,
}

//! The arguments of `calve clone`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{ArgAction, Args, ValueHint};

use super::misuse::{MAX_COUNT, Misuse};
use crate::choices::{Existing, GitIndex, Mode, Reflink};

pub(crate) const CLONE_EXAMPLES: &str = "\u{1b}[1;4mExamples:\u{1b}[0m
  calve clone repo repo-fix
      One isolated copy. A write to either tree never shows in the other.
  calve clone -n 8 repo agents/repo
      Eight of them, agents/repo-1 … agents/repo-8, in one walk over repo.
  calve clone --reflink always repo /mnt/xfs/repo
      Fails instead of copying; then nothing appears.
  calve clone --existing replace --exclude '*.log' --exclude /target/ repo fix
      Replaces fix atomically, without logs and the target folder.
  calve clone --mode hardlink --mutable '*.json' cache node_modules
      Hard links to the cache, but real copies of the JSON files, to edit them.
  cd \"$(calve clone -q repo repo-fix)\"
      Standard output has only the destinations, one per line.

Patterns follow gitignore. A pattern without a slash matches a name at any
depth; a pattern with a slash matches a path from SRC; a slash at the end
matches only folders. Quote patterns, or the shell expands them.";

/// The arguments of `calve clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// The directory tree to clone
    #[arg(value_name = "SRC", value_hint = ValueHint::DirPath)]
    pub(crate) source: PathBuf,

    /// The clones to make; the folder above each of them must exist
    #[arg(value_name = "DST", required = true, value_hint = ValueHint::DirPath)]
    pub(crate) destinations: Vec<PathBuf>,

    /// Make N clones, DST-1 … DST-N
    #[arg(short = 'n', long, value_name = "N",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_COUNT))]
    pub(crate) count: Option<u32>,

    /// Whether to share blocks with SRC
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub(crate) reflink: Reflink,

    /// How to make the files
    #[arg(long, default_value = "clone")]
    pub(crate) mode: Mode,

    /// Hard link files that cannot be cloned: a write to either name changes both
    #[arg(long, conflicts_with_all = ["mode", "reflink"])]
    pub(crate) or_hardlink: bool,

    /// Make symbolic links to files that cannot be cloned (nor hard linked): not isolated
    #[arg(long, conflicts_with_all = ["mode", "reflink"])]
    pub(crate) or_symlink: bool,

    /// Never link the files that match, so that you can write to them
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub(crate) mutable: Vec<String>,

    /// What to do if a destination exists
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    pub(crate) existing: Existing,

    /// Leave out entries that match
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub(crate) exclude: Vec<String>,

    /// Keep entries that match, even if another flag leaves them out
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub(crate) include: Vec<String>,

    /// Leave out entries that the .gitignore files in SRC name and git does not track
    #[arg(long)]
    pub(crate) gitignore: bool,

    /// Do not copy extended attributes and ACLs
    #[arg(long)]
    pub(crate) no_xattrs: bool,

    /// What to do with git's indexes in the clone
    #[arg(long, value_name = "HOW", default_value = "ready")]
    pub(crate) git_index: GitIndex,

    /// Flush everything to the disk before a destination appears
    #[arg(long)]
    pub(crate) durable: bool,

    /// Give Python environments and absolute links that name SOURCE the clone's own path
    #[cfg(unix)]
    #[arg(long)]
    pub(crate) rewrite_paths: bool,

    /// Change nothing; print what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl CloneArgs {
    /// Whether a filter may leave out a part of the source.
    pub(crate) fn is_filtered(&self) -> bool {
        self.gitignore || !self.exclude.is_empty()
    }

    /// The destinations. With `-n`, calve numbers them.
    pub(crate) fn destinations(&self) -> Result<Vec<PathBuf>, Misuse> {
        let Some(count) = self.count else { return Ok(self.destinations.clone()) };
        let [stem] = self.destinations.as_slice() else {
            return Err(Misuse::new("clone", "-n takes one DST, and makes DST-1 … DST-N"));
        };
        let Some(name) = stem.file_name() else {
            return Err(Misuse::new(
                "clone",
                "-n needs a DST that ends in a name, such as copies/repo",
            ));
        };
        let numbered = |number: u32| {
            let mut numbered = name.to_owned();
            numbered.push(format!("-{number}"));
            stem.with_file_name(numbered)
        };
        Ok((1..=count).map(numbered).collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command, FromArgMatches as _};

    use super::*;

    fn clone_args(words: &[&str]) -> CloneArgs {
        let command = CloneArgs::augment_args(Command::new("clone"));
        let matches = command.get_matches_from(std::iter::once(&"clone").chain(words));
        CloneArgs::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn a_count_numbers_the_name_of_the_destination() {
        for (words, expected) in [
            (&["-n", "2", "s", "d"][..], Some(&["d-1", "d-2"][..])),
            (&["-n", "1", "s", "d"], Some(&["d-1"])),
            (&["-n", "2", "s", "a/d/"], Some(&["a/d-1", "a/d-2"])),
            (&["--count=2", "s", "/a/d.x"], Some(&["/a/d.x-1", "/a/d.x-2"])),
            (&["s", "d", "e"], Some(&["d", "e"])),
            (&["-n", "2", "s", "d", "e"], None),
            (&["-n", "2", "s", "."], None),
            (&["-n", "2", "s", ".."], None),
            (&["-n", "2", "s", "/"], None),
        ] {
            let got = clone_args(words).destinations().ok();
            let expected = expected.map(|paths| paths.iter().map(PathBuf::from).collect());
            assert_eq!(got, expected, "{words:?}");
        }
    }
}

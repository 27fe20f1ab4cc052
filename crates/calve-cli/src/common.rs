//! The flags that every command has, and how they resolve paths and stores.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::{Args, ColorChoice, ValueHint};

/// The flags of every command. The short help of calve itself names them, and that of the commands
/// does not repeat them.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Print one JSON document on standard output (docs/json.md)
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) json: bool,

    /// Print only results, warnings and errors
    #[arg(short, long, global = true, hide_short_help = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Print exact numbers, each destination, and every entry that was left out
    #[arg(short, long, global = true, hide_short_help = true)]
    pub(crate) verbose: bool,

    /// Use colors: auto (on a terminal, unless NO_COLOR is set), always or never
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub(crate) color: ColorChoice,

    /// Use N threads [default: one per processor, at most 8]
    #[arg(short, long, global = true, hide_short_help = true, value_name = "N",
        value_parser = parse_jobs)]
    pub(crate) jobs: Option<NonZeroUsize>,

    /// Run as if started in DIR
    #[arg(short = 'C', global = true, hide_short_help = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: Option<PathBuf>,

    /// Use the store in DIR [default: CALVE_STORE, else the current folder's store]
    #[cfg(unix)]
    #[arg(long, global = true, hide_short_help = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) store: Option<PathBuf>,
}

impl Common {
    /// Resolves `path` against the folder of `-C`. calve itself does not change its folder, so a
    /// path that it prints is right for the user's shell, too.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        match &self.directory {
            Some(base) if path == Path::new(".") => base.clone(),
            Some(base) => base.join(path),
            None => path.to_owned(),
        }
    }

    /// The store of `--store`, or else of CALVE_STORE. An empty variable counts as unset.
    #[cfg(unix)]
    pub(crate) fn store(&self) -> Option<PathBuf> {
        let from_environment =
            || std::env::var_os("CALVE_STORE").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.store.clone().or_else(from_environment).map(|path| self.resolve(&path))
    }
}

/// More threads than this gain nothing, and the system may refuse them.
const MAX_JOBS: usize = 256;

fn parse_jobs(value: &str) -> Result<NonZeroUsize, String> {
    match value.parse::<NonZeroUsize>() {
        Ok(jobs) if jobs.get() <= MAX_JOBS => Ok(jobs),
        _ => Err(format!("not a number from 1 to {MAX_JOBS}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_taken_from_the_directory_and_absolute_ones_are_not() {
        for (directory, path, expected) in [
            (None, "a", "a"),
            (Some("d"), "a", "d/a"),
            (Some("d"), "/a", "/a"),
            (Some("d"), ".", "d"),
            (Some("/d"), "../a", "/d/../a"),
        ] {
            let directory = directory.map(PathBuf::from);
            let common = Common { directory: directory.clone(), ..Common::default() };
            assert_eq!(
                common.resolve(Path::new(path)),
                Path::new(expected),
                "{directory:?} {path}"
            );
        }
    }
}

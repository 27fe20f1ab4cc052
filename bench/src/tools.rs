//! The tools that are compared, and how each is called for the same result.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::Serialize;

/// One way to copy a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tool {
    /// `calve clone`
    Calve,
    /// `cp -a --reflink=always`
    CpReflink,
    /// `cp -a --reflink=never`
    CpCopy,
    /// `xcp --recursive`, in parallel as it is by default; it keeps modes and times, but no owners.
    Xcp,
    /// `rsync -a`
    Rsync,
    /// `calve clone --reflink never`
    CalveNever,
    /// `calve clone -n 8`
    CalveEight,
    /// Eight times `calve clone`, one after the other.
    CalveEightSingle,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Calve => "calve clone",
            Self::CpReflink => "cp -a --reflink=always",
            Self::CpCopy => "cp -a --reflink=never",
            Self::Xcp => "xcp -r",
            Self::Rsync => "rsync -a",
            Self::CalveNever => "calve clone --reflink never",
            Self::CalveEight => "calve clone -n 8",
            Self::CalveEightSingle => "8 × calve clone",
        })
    }
}

impl Tool {
    pub(crate) const DEFAULT: [Self; 5] =
        [Self::Calve, Self::CpReflink, Self::CpCopy, Self::Xcp, Self::Rsync];

    /// How many copies one run makes.
    pub(crate) fn copies(self) -> u64 {
        match self {
            Self::CalveEight | Self::CalveEightSingle => 8,
            _ => 1,
        }
    }

    pub(crate) fn is_calve(self) -> bool {
        matches!(self, Self::Calve | Self::CalveNever | Self::CalveEight | Self::CalveEightSingle)
    }

    /// The commands that make this tool's copies in `directory`, to be run one after the other; or why
    /// there are none.
    pub(crate) fn commands(
        self,
        binaries: &Binaries,
        source: &Path,
        directory: &Path,
    ) -> Result<Vec<Vec<OsString>>, String> {
        let copy = directory.join("copy");
        let command = |program: &Path, options: &[&str], source: OsString, copy: &Path| {
            let mut words = vec![program.into()];
            words.extend(options.iter().map(OsString::from));
            words.extend([source, copy.into()]);
            words
        };
        let plain = |program: &Path, options: &[&str]| {
            vec![command(program, options, source.into(), &copy)]
        };
        Ok(match self {
            Self::Calve => plain(&binaries.calve, &["clone", "-q"]),
            Self::CpReflink => plain(Path::new("cp"), &["-a", "--reflink=always"]),
            Self::CpCopy => plain(Path::new("cp"), &["-a", "--reflink=never"]),
            Self::Xcp => {
                let xcp = binaries.xcp.as_ref().ok_or("not installed; see --install")?;
                plain(xcp, &["--recursive", "--no-progress"])
            }
            Self::Rsync => {
                let rsync = on_path("rsync").ok_or("not installed")?;
                // The slash makes it copy what is in the source, not the source into the copy.
                vec![command(&rsync, &["-a"], source.join("").into(), &copy)]
            }
            Self::CalveNever => plain(&binaries.calve, &["clone", "-q", "--reflink", "never"]),
            Self::CalveEight => plain(&binaries.calve, &["clone", "-q", "-n", "8"]),
            Self::CalveEightSingle => (1..=8)
                .map(|n| {
                    let copy = directory.join(format!("copy-{n}"));
                    command(&binaries.calve, &["clone", "-q"], source.into(), &copy)
                })
                .collect(),
        })
    }
}

/// Where the programs are that need not be on the PATH.
#[derive(Debug)]
pub(crate) struct Binaries {
    calve: PathBuf,
    xcp: Option<PathBuf>,
}

impl Binaries {
    /// The calve that is measured.
    pub(crate) fn calve(&self) -> &Path {
        &self.calve
    }

    /// Builds or installs what is wanted and missing.
    pub(crate) fn find(
        calve: Option<&Path>,
        wanted: &[Tool],
        install: bool,
    ) -> Result<Self, Box<dyn Error>> {
        // …/target/release/bench
        let target = std::env::current_exe()?
            .ancestors()
            .nth(2)
            .ok_or("this program is not in a target directory")?
            .to_owned();

        let calve = if let Some(given) = calve {
            std::fs::canonicalize(given).map_err(|error| format!("{}: {error}", given.display()))?
        } else {
            let target = target.to_string_lossy();
            cargo(&["build", "--release", "-p", "calve-cli", "--target-dir", &target])?;
            Path::new(&*target).join("release/calve")
        };

        let tools = target.join("bench-tools");
        let ours = Some(tools.join("bin/xcp")).filter(|path| path.is_file());
        let mut xcp = ours.or_else(|| on_path("xcp"));
        if xcp.is_none() && install && wanted.contains(&Tool::Xcp) {
            cargo(&["install", "xcp", "--locked", "--root", &tools.to_string_lossy()])?;
            xcp = Some(tools.join("bin/xcp"));
        }
        Ok(Self { calve, xcp })
    }
}

fn cargo(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new(cargo).args(arguments).current_dir(manifest).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {arguments:?}: {status}").into()) }
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Removes `directory` and what is in it, if it is there.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

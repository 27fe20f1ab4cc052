//! The tools that are compared, and how each is called for the same result.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One way to copy a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
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
    /// `calve clone -n N`; eight where nothing else is said.
    CalveN,
    /// Eight times `calve clone`, one after the other.
    CalveEightSingle,
    /// `calve start -n N`, in a project whose store has a snapshot of its current state.
    CalveStart,
    /// `git worktree add`, of a repository with all of the tree in its last commit.
    GitWorktree,
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
            Self::CalveN => "calve clone -n N",
            Self::CalveEightSingle => "8 × calve clone",
            Self::CalveStart => "calve start -n N",
            Self::GitWorktree => "git worktree add",
        })
    }
}

/// The tree that the tools copy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) source: &'a Path,
    /// The same tree, with a store.
    pub(crate) project: Option<&'a Path>,
    /// The same tree, in git.
    pub(crate) repository: Option<&'a Path>,
}

impl Tool {
    /// How many copies one run makes, where nothing else is said.
    pub(crate) fn copies(self) -> u32 {
        match self {
            Self::CalveN | Self::CalveEightSingle | Self::CalveStart => 8,
            _ => 1,
        }
    }

    pub(crate) fn is_calve(self) -> bool {
        matches!(
            self,
            Self::Calve
                | Self::CalveNever
                | Self::CalveN
                | Self::CalveEightSingle
                | Self::CalveStart
        )
    }

    /// Whether one command makes all the copies.
    pub(crate) fn at_once(self) -> bool {
        matches!(self, Self::CalveN | Self::CalveStart)
    }

    /// The commands that make `copies` in `directory`, copy-N each, to be run one after the other;
    /// or why there are none.
    pub(crate) fn commands(
        self,
        binaries: &Binaries,
        sources: &Sources<'_>,
        directory: &Path,
        copies: RangeInclusive<u32>,
    ) -> Result<Vec<Vec<OsString>>, String> {
        let count = copies.clone().count().to_string();
        let command = |program: &Path, words: &[&OsStr]| {
            let mut all: Vec<OsString> = vec![program.into()];
            all.extend(words.iter().map(OsString::from));
            all
        };
        let each = |program: &Path, options: &[&str], source: &Path| {
            copies
                .clone()
                .map(|n| {
                    let copy = directory.join(format!("copy-{n}"));
                    let mut words: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
                    words.extend([source.as_os_str(), copy.as_os_str()]);
                    command(program, &words)
                })
                .collect()
        };
        let (cp, calve) = (Path::new("cp"), &*binaries.calve);
        let source = sources.source;
        Ok(match self {
            Self::Calve | Self::CalveEightSingle => each(calve, &["clone", "-q"], source),
            Self::CpReflink => each(cp, &["-a", "--reflink=always"], source),
            Self::CpCopy => each(cp, &["-a", "--reflink=never"], source),
            Self::Xcp => {
                let xcp = binaries.xcp.as_ref().ok_or("not installed; see --install")?;
                each(xcp, &["--recursive", "--no-progress"], source)
            }
            Self::Rsync => {
                let rsync = on_path("rsync").ok_or("not installed")?;
                // Because of the slash it copies the contents of the source, not the source itself.
                each(&rsync, &["-a"], &source.join(""))
            }
            Self::CalveNever => each(calve, &["clone", "-q", "--reflink", "never"], source),
            Self::CalveN => {
                let copy = directory.join("copy");
                let options = ["clone", "-q", "-n", &count].map(OsStr::new);
                let paths = [source.as_os_str(), copy.as_os_str()];
                vec![command(calve, &[&options[..], &paths].concat())]
            }
            Self::CalveStart => {
                let project = sources.project.ok_or("measured with --copies or --worktrees")?;
                let options =
                    ["start", "-q", "-n", &count, "--prefix", "copy", "-C"].map(OsStr::new);
                let paths = [project.as_os_str(), OsStr::new("--at"), directory.as_os_str()];
                vec![command(calve, &[&options[..], &paths].concat())]
            }
            Self::GitWorktree => {
                let git = on_path("git").ok_or("not installed")?;
                let repository =
                    sources.repository.ok_or("measured with --copies or --worktrees")?;
                copies
                    .clone()
                    .map(|n| {
                        let copy = directory.join(format!("copy-{n}"));
                        let add = ["worktree", "add", "-q", "--detach"].map(OsStr::new);
                        let place = [OsStr::new("-C"), repository.as_os_str()];
                        command(&git, &[&place[..], &add, &[copy.as_os_str()]].concat())
                    })
                    .collect()
            }
        })
    }
}

/// The paths of programs that may not be on the PATH.
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

    /// The path of xcp, if it is installed.
    pub(crate) fn xcp(&self) -> Option<&Path> {
        self.xcp.as_deref()
    }

    /// Finds the programs. Builds or installs missing ones.
    pub(crate) fn find(calve: Option<&Path>, install: bool) -> Result<Self, Box<dyn Error>> {
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
        if xcp.is_none() && install {
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

/// The command that packs git's objects into one pack, as after a clone. With one file per object,
/// a worktree takes longer.
pub(crate) fn repack(repository: &Path) -> Vec<OsString> {
    let repack = ["repack", "-a", "-d", "-q", "--window=0"].map(Into::into);
    [&["git".into(), "-C".into(), repository.into()][..], &repack].concat()
}

/// Removes `directory` with its contents, if it exists.
///
/// It removes the entries of `directory` in parallel: between two runs there are many copies to
/// remove, and this is not timed.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => Mutex::new(entries),
        Err(error) => return gone(Err(error)),
    };
    let next = || entries.lock().ok()?.next();
    let work = || {
        while let Some(entry) = next() {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                gone(std::fs::remove_dir_all(entry.path()))?;
            } else {
                gone(std::fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that removes failed")))
        })
    })?;
    gone(std::fs::remove_dir(directory))
}

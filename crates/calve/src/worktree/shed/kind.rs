//! Says what gives a folder back, by what only one program writes into it.
//!
//! The rule is positive: a folder whose first levels have anything that this program does not write
//! is no folder of it, whatever its name and its marks are. What in such a folder keeps it
//! nevertheless, at any depth, is [`foreign`](super::foreign)'s.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};

use crate::macros::named;
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::at;
use crate::store::files::{listed, path_from, read_plain};

named! {
    /// Which program gives a folder back.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum ShedKind {
        /// cargo's `target`.
        Cargo = "cargo",
        /// A cache of a tool that calve knows, with a `CACHEDIR.TAG`.
        Cache = "cache",
        /// `node_modules` that an installer wrote, beside a `package.json`.
        NodeModules = "node_modules",
        /// `__pycache__` with nothing but compiled modules.
        PythonCache = "python_cache",
        /// A build folder of CMake, whose sources are elsewhere in the worktree.
        Cmake = "cmake",
    }
}

/// What is sure of a folder, or why it stays although it looks like one that a program gives back.
pub(super) type Judged = Result<SureKind, String>;

#[derive(Debug, Clone, Copy)]
pub(super) struct SureKind {
    pub(super) kind: ShedKind,
    /// When the installer was done. A file that is newer was changed by somebody else.
    pub(super) installed: Option<(i64, i64)>,
}

type KindsByName = Vec<(OsString, FileType)>;

/// The name of the mark of <https://bford.info/cachedir/>, and its first bytes.
const TAG: &str = "CACHEDIR.TAG";
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const TAG_MOST_BYTES: u64 = 64 * 1024;
/// Caches that their tools fill again, and that nobody writes to by hand.
const CACHES: [&str; 3] = [".mypy_cache", ".pytest_cache", ".ruff_cache"];

const CARGO_FILES: [&str; 4] =
    [TAG, ".future-incompat-report.json", ".rustc_info.json", ".rustdoc_fingerprint.json"];
const CARGO_FOLDERS: [&str; 4] = ["cargo-timings", "doc", "package", "rust-analyzer"];
const PROFILE_FOLDERS: [&str; 5] = [".fingerprint", "build", "deps", "examples", "incremental"];
/// The endings of what cargo builds, besides programs without one.
const ARTIFACTS: [&str; 11] =
    ["a", "dll", "dwp", "dylib", "exe", "lib", "pdb", "rlib", "rmeta", "so", "wasm"];

/// Files that installers write into `node_modules` when they are done.
const INSTALLED: [&str; 4] =
    [".modules.yaml", ".package-lock.json", ".yarn-integrity", ".yarn-state.yml"];
const LOCK_FILES: [&str; 6] = [
    "bun.lock",
    "bun.lockb",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
];
/// What else of installers and of tools is in `node_modules`.
const HIDDEN_FILES: [&str; 2] = [".pnpm-workspace-state-v1.json", ".pnpm-workspace-state.json"];
const HIDDEN_FOLDERS: [&str; 7] =
    [".bin", ".cache", ".pnpm", ".prisma", ".store", ".vite", ".vite-temp"];

const CMAKE_CACHE: &str = "CMakeCache.txt";
pub(super) const CMAKE_SOURCES: &str = "CMakeLists.txt";
const CMAKE_CACHE_MOST_BYTES: u64 = 16 * 1024 * 1024;

/// A folder that git ignores.
pub(super) struct IgnoredFolder<'a> {
    root: &'a OwnedFd,
    parent: OwnedFd,
    folder: OwnedFd,
    entries: KindsByName,
    path: &'a Path,
}

impl<'a> IgnoredFolder<'a> {
    /// Opens the folder at a path in the worktree. No step follows a link. `None`: it is on another
    /// filesystem than `device`.
    pub(super) fn open(root: &'a OwnedFd, path: &'a Path, device: u64) -> io::Result<Option<Self>> {
        let parent = at::open_parent(root, path)?;
        let folder = open_below(&parent, &at::last(path)?)?;
        if Meta::of_file(&folder)?.dev != device {
            return Ok(None);
        }
        let entries = listed(&folder)?;
        Ok(Some(Self { root, parent, folder, entries, path }))
    }

    /// What gives the folder back. `None`: nothing says so. `roots`: the paths at which a build may
    /// have been configured, that of the worktree and that of the project it was started from.
    pub(super) fn judged(&self, roots: [&Path; 2]) -> io::Result<Option<Judged>> {
        let name = self.path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let sure = |kind| Ok(SureKind { kind, installed: None });
        let is_compiled = |(name, kind): &(OsString, FileType)| {
            *kind == FileType::RegularFile && Path::new(name).extension() == Some(OsStr::new("pyc"))
        };
        Ok(Some(match name {
            "node_modules" => self.installed()?,
            "__pycache__" => match self.entries.iter().find(|entry| !is_compiled(entry)) {
                Some((name, _)) => Err(format!("no compiled module: {}", name.display())),
                None => sure(ShedKind::PythonCache),
            },
            _ if self.has_tag() && CACHES.contains(&name) => sure(ShedKind::Cache),
            _ if self.has_tag() => match self.not_of_cargo()? {
                Some(why) => Err(why),
                None => sure(ShedKind::Cargo),
            },
            _ if has(&self.entries, CMAKE_CACHE, FileType::RegularFile) => {
                match self.not_of_cmake(roots) {
                    Some(why) => Err(why.to_owned()),
                    None => sure(ShedKind::Cmake),
                }
            }
            _ => return Ok(None),
        }))
    }

    fn has_tag(&self) -> bool {
        // What cannot be read is no tag.
        read_plain(&self.folder, Path::new(TAG), TAG_MOST_BYTES)
            .is_ok_and(|text| text.starts_with(SIGNATURE))
    }

    fn not_of_cargo(&self) -> io::Result<Option<String>> {
        if !has(&self.entries, ".rustc_info.json", FileType::RegularFile) {
            return Ok(Some("nothing says which program gives it back".to_owned()));
        }
        for (name, kind) in &self.entries {
            let known = name.to_str().unwrap_or_default();
            let other = match *kind {
                FileType::RegularFile => !CARGO_FILES.contains(&known) && !is_lock(known),
                FileType::Directory if CARGO_FOLDERS.contains(&known) => false,
                FileType::Directory => {
                    let folder = open_below(&self.folder, name)?;
                    // cargo makes the folder, and tests write there what they like.
                    match known {
                        "tmp" => !listed(&folder)?.is_empty(),
                        _ => !is_of_profile_or_target(&folder)?,
                    }
                }
                _ => true,
            };
            if other {
                return Ok(Some(format!("not written by cargo alone: {}", name.display())));
            }
        }
        Ok(None)
    }

    fn installed(&self) -> io::Result<Judged> {
        let is_beside = |name: &str| is_file(&self.parent, name);
        if !is_beside("package.json") {
            return Ok(Err("there is no package.json beside it".to_owned()));
        }
        let done = INSTALLED.iter().filter_map(|name| {
            let found = Meta::at(&self.folder, *name).ok();
            found.filter(|meta| meta.file_type() == FileType::RegularFile)
        });
        let installed = done.map(|meta| meta.modified()).max();
        if installed.is_none() && !LOCK_FILES.iter().any(|name| is_beside(name)) {
            return Ok(Err("nothing says which installer wrote it".to_owned()));
        }
        for (name, kind) in &self.entries {
            let known = name.to_str().unwrap_or_default();
            let is_ours = match *kind {
                FileType::Symlink => true,
                FileType::RegularFile => {
                    INSTALLED.contains(&known) || HIDDEN_FILES.contains(&known)
                }
                FileType::Directory if known.starts_with('.') => HIDDEN_FOLDERS.contains(&known),
                FileType::Directory => {
                    let folder = open_below(&self.folder, name)?;
                    match known.starts_with('@') {
                        true => has_only_packages(&folder)?,
                        false => is_file(&folder, "package.json"),
                    }
                }
                _ => false,
            };
            if !is_ours {
                return Ok(Err(format!("no package: {}", name.display())));
            }
        }
        Ok(Ok(SureKind { kind: ShedKind::NodeModules, installed }))
    }

    fn not_of_cmake(&self, roots: [&Path; 2]) -> Option<&'static str> {
        if !has(&self.entries, "CMakeFiles", FileType::Directory) {
            return Some("it has a CMakeCache.txt and no CMakeFiles");
        }
        if has(&self.entries, CMAKE_SOURCES, FileType::RegularFile) {
            return Some("it has a CMakeLists.txt, so it has sources");
        }
        let read = read_plain(&self.folder, Path::new(CMAKE_CACHE), CMAKE_CACHE_MOST_BYTES);
        let Ok(cache) = read else { return Some("its CMakeCache.txt cannot be read") };
        let value = |key: &[u8]| {
            let mut lines = cache.split(|byte| *byte == b'\n');
            lines.find_map(|line| line.strip_prefix(key)).map(<[u8]>::trim_ascii_end).map(path_from)
        };
        let home = value(b"CMAKE_HOME_DIRECTORY:INTERNAL=");
        let Some((home, place)) = home.zip(value(b"CMAKE_CACHEFILE_DIR:INTERNAL=")) else {
            return Some("its CMakeCache.txt does not say what it was configured for");
        };
        let Some(root) = roots.into_iter().find(|root| place == root.join(self.path)) else {
            return Some("its CMakeCache.txt was configured for another place");
        };
        let sources = home.strip_prefix(root).ok().filter(|home| !home.starts_with(self.path));
        let is_there = sources.is_some_and(|home| {
            at::open_at(self.root, home).is_ok_and(|home| is_file(&home, CMAKE_SOURCES))
        });
        (!is_there).then_some("its sources are in it, or not in the worktree")
    }
}

/// Whether a folder has only what cargo writes for a profile, or such folders alone, as that of a
/// target triple has.
fn is_of_profile_or_target(folder: &OwnedFd) -> io::Result<bool> {
    let entries = listed(folder)?;
    if has(&entries, ".fingerprint", FileType::Directory) {
        return Ok(is_of_profile(&entries));
    }
    for (name, kind) in &entries {
        let known = name.to_str().unwrap_or_default();
        let is_cargos = match *kind {
            FileType::RegularFile => known == TAG || is_lock(known),
            FileType::Directory if known == "doc" => true,
            FileType::Directory => {
                let entries = listed(open_below(folder, name)?)?;
                has(&entries, ".fingerprint", FileType::Directory) && is_of_profile(&entries)
            }
            _ => false,
        };
        if !is_cargos {
            return Ok(false);
        }
    }
    Ok(!entries.is_empty())
}

fn is_of_profile(entries: &KindsByName) -> bool {
    entries.iter().all(|(name, kind)| {
        let known = name.to_str().unwrap_or_default();
        match kind {
            FileType::RegularFile => is_lock(known) || is_artifact(entries, Path::new(name)),
            FileType::Directory => PROFILE_FOLDERS.contains(&known),
            _ => false,
        }
    })
}

fn is_lock(name: &str) -> bool {
    name.starts_with(".cargo-") && name.ends_with("lock")
}

/// cargo writes beside each artifact which files it depends on: `NAME.d`.
fn is_artifact(entries: &KindsByName, name: &Path) -> bool {
    let has_rule = |stem: &OsStr| {
        let mut rule = stem.to_owned();
        rule.push(".d");
        entries.iter().any(|(other, kind)| *other == rule && *kind == FileType::RegularFile)
    };
    match name.extension() {
        Some(ending) if ending == "d" => true,
        Some(ending) if ARTIFACTS.iter().any(|it| ending == *it) => {
            name.file_stem().is_some_and(has_rule)
        }
        Some(_) => false,
        None => has_rule(name.as_os_str()),
    }
}

fn has_only_packages(scope: &OwnedFd) -> io::Result<bool> {
    for (name, kind) in listed(scope)? {
        let is_package = match kind {
            FileType::Symlink => true,
            FileType::Directory => is_file(&open_below(scope, &name)?, "package.json"),
            _ => false,
        };
        if !is_package {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has(entries: &KindsByName, name: &str, kind: FileType) -> bool {
    entries.iter().any(|(other, is)| other == name && *is == kind)
}

fn is_file(dir: &OwnedFd, name: &str) -> bool {
    Meta::at(dir, name).is_ok_and(|meta| meta.file_type() == FileType::RegularFile)
}

fn open_below(dir: &OwnedFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    Ok(fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Whether a path in `node_modules` is one that tools change after the install.
pub(super) fn is_of_tool(path: &Path) -> bool {
    let first = path.iter().next().map(OsStr::as_bytes).unwrap_or_default();
    [&b".cache"[..], b".prisma", b".vite", b".vite-temp"].contains(&first)
}

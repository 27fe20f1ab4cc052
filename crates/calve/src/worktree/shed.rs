//! Removes from a worktree what a build or an install gives back.
//!
//! Only folders of kinds that are sure go ([`ShedKind`]): git ignores each as a whole and tracks
//! nothing in it, and a mark in it, or its name and what is beside it, says which program made it.
//! A folder stays if it has anything that such a program does not write: a repository, a database, a
//! socket, a mount. So a folder of a name that only looks like one never goes.
//!
//! Nothing goes from a worktree in which a process works, which git has locked, which another
//! process switches or drops, or in which a restore moved work aside. Where calve cannot see which
//! processes work there, without a `/proc`, nothing goes.
//!
//! # Whole or gone
//! The folders are renamed first, into a stage in the worktree's root. Then calve looks once more:
//! if a process has something open in one of them, or if anything in a folder changed since the first
//! look, it gets its name back. If this process dies meanwhile, the stage is swept like any other.
//! The folders above get back the times that they had, because nobody worked there
//! ([`idle`](super::idle)).

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};

use super::Worktree;
use super::remove::LivingProcess;
use super::remove::look::{Moment, Scope, changed_since};
use super::remove::processes::{Depth, can_be_found, living_in};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::StoreOptions;
use crate::store::at;
use crate::store::files::{listed, path_from, read_plain};
use crate::store::git::{self, Failure, Tree};
use crate::store::layout::{GIT, JJ};
use crate::tree::mounts;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::{self, stage_name};
use crate::tree::visit::{Found, Visitor, visit};

/// Which program gives a folder back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ShedKind {
    /// It has a `CACHEDIR.TAG` with the signature of <https://bford.info/cachedir/>: cargo's
    /// `target`, and the caches of many tools.
    Tagged,
    /// `node_modules` beside a `package.json`.
    NodeModules,
    /// `__pycache__` with nothing but compiled modules.
    PythonCache,
    /// A build folder with a `CMakeCache.txt` and `CMakeFiles`.
    Cmake,
}

impl ShedKind {
    /// The kind as JSON documents have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tagged => "tagged",
            Self::NodeModules => "node_modules",
            Self::PythonCache => "python_cache",
            Self::Cmake => "cmake",
        }
    }
}

/// A folder that can be shed, or was.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShedFolder {
    /// The path from the worktree's root.
    pub path: PathBuf,
    /// What gives it back.
    pub kind: ShedKind,
    /// What its files take according to the filesystem. Blocks that other trees share stay with
    /// them, so this is the most that becomes free.
    pub allocated_bytes: u64,
}

/// What [`Worktree::shed`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShedReport {
    /// The folders that are gone.
    pub shed: Vec<ShedFolder>,
    /// Folders that stay, and why: somebody used or changed them meanwhile, or they could not be
    /// removed.
    pub kept: Vec<Error>,
}

/// The first bytes of a `CACHEDIR.TAG`.
const SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
const TAG_MOST_BYTES: u64 = 64 * 1024;
/// So many paths fit on the command line of git.
const PATHS_AT_ONCE: usize = 500;
/// The endings of files that hold data of a user.
const DATABASES: [&str; 6] = ["db", "db3", "sqlite", "sqlite3", "mdb", "rdb"];
/// Files that only the folder of a database server has.
const SERVERS: [&str; 3] = ["PG_VERSION", "ibdata1", "WiredTiger"];

/// What is known of a folder that git ignores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct FolderFacts<'a> {
    name: &'a str,
    has_tag: bool,
    /// It is a Python environment, and nobody knows what was installed there by hand.
    is_environment: bool,
    is_beside_package: bool,
    has_only_compiled_python: bool,
    has_cmake_cache: bool,
    has_cmake_files: bool,
}

/// The kind of a folder, if it is sure.
fn kind_of(facts: FolderFacts<'_>) -> Option<ShedKind> {
    match facts.name {
        _ if facts.is_environment => None,
        "node_modules" => facts.is_beside_package.then_some(ShedKind::NodeModules),
        "__pycache__" => facts.has_only_compiled_python.then_some(ShedKind::PythonCache),
        _ if facts.has_tag => Some(ShedKind::Tagged),
        _ if facts.has_cmake_cache && facts.has_cmake_files => Some(ShedKind::Cmake),
        _ => None,
    }
}

/// Why a folder stays although its kind is sure.
fn is_foreign(name: &CStr, kind: FileType) -> bool {
    let name = OsStr::from_bytes(name.to_bytes());
    let ending = Path::new(name).extension().and_then(OsStr::to_str);
    let is_database = || {
        ending.is_some_and(|it| DATABASES.iter().any(|other| it.eq_ignore_ascii_case(other)))
            || SERVERS.iter().any(|other| name == *other)
    };
    match kind {
        _ if name == GIT || name == JJ => true,
        FileType::RegularFile => is_database(),
        FileType::Directory | FileType::Symlink => false,
        _ => true,
    }
}

/// What one thread found in folders, by their numbers.
#[derive(Default)]
struct Content {
    bytes: Vec<u64>,
    foreign: HashSet<usize>,
}

struct ContentOf;

impl Visitor<Content> for ContentOf {
    fn visit(&self, content: &mut Content, found: &Found<'_>) -> Result<(), Error> {
        let bytes = found.meta.blocks.saturating_mul(512);
        if content.bytes.len() <= found.tree {
            content.bytes.resize(found.tree + 1, 0);
        }
        content.bytes[found.tree] += bytes;
        let path = if found.name == c"." { found.path() } else { PathBuf::new() };
        // Of a folder, the name is in its path.
        let name = path.components().next_back().and_then(|it| at::last(Path::new(&it)).ok());
        if is_foreign(name.as_deref().unwrap_or(found.name), found.meta.file_type()) {
            content.foreign.insert(found.tree);
        }
        Ok(())
    }

    fn unreadable(&self, content: &mut Content, tree: usize) {
        content.foreign.insert(tree);
    }
}

impl Worktree {
    /// The folders of the worktree that a build or an install gives back. Empty for a worktree
    /// without a repository: nothing says then what is a build's.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if a process works in the worktree; [`ErrorKind::Git`] if it is locked, or
    /// git could not be asked; [`ErrorKind::Changed`] if a restore has moved work aside;
    /// [`ErrorKind::WorktreeMissing`]. Nothing is changed.
    pub fn sheddable(&self, options: &StoreOptions) -> Result<Vec<ShedFolder>, Error> {
        let this = self.now()?;
        this.must_rest()?;
        this.sheddable_in(&options.operation())
    }

    /// Removes these folders, if they are still what [`Worktree::sheddable`] finds.
    ///
    /// # Errors
    /// Those of [`Worktree::sheddable`]; [`ErrorKind::Busy`] also if another process switches or
    /// drops the worktree. No folder was removed. What concerns one folder is in the report.
    pub fn shed(
        &self,
        folders: &[ShedFolder],
        options: &StoreOptions,
    ) -> Result<ShedReport, Error> {
        let operation = options.operation();
        let this = self.now()?;
        let _alone = this.lock_for(Operation::Shed, &operation)?;
        this.must_rest()?;
        let since = Moment::now();
        let is_wanted = |found: &ShedFolder| folders.iter().any(|it| it.path == found.path);
        let folders: Vec<ShedFolder> =
            this.sheddable_in(&operation)?.into_iter().filter(is_wanted).collect();
        this.shed_now(folders, since).context(Operation::Shed, || &this.path)
    }

    /// Fails if somebody works in the worktree or with it, or may come back to it.
    fn must_rest(&self) -> Result<(), Error> {
        let refused = |kind, why: String| {
            Error::new(kind, Operation::Shed, &self.path, io::Error::other(why))
        };
        self.must_be_there()?;
        // A drop may go on where nobody can say it, because it looks at the files again. This does
        // not.
        let can_look = match cfg!(target_os = "linux") {
            true => can_be_found(),
            false => Err(io::ErrorKind::Unsupported.into()),
        };
        can_look.context(Operation::LookForProcesses, || &self.path)?;
        let living = living_in(&self.path, Depth::Thorough);
        if !living.is_empty() {
            let process = |it: LivingProcess| PathBuf::from(format!("{} {}", it.pid, it.command));
            return Err(refused(ErrorKind::Busy, "processes work in it".to_owned())
                .with_details(living.into_iter().map(process).collect()));
        }
        let registered = self.store.registry().registered(&self.row)?;
        if registered.iter().any(|entry| entry.locked_by_others().is_some()) {
            return Err(refused(ErrorKind::Git, "it is locked".to_owned()));
        }
        if self.has_moved_aside()? {
            let why = "a restore has moved work aside, and 'undo' brings it back".to_owned();
            return Err(refused(ErrorKind::Changed, why));
        }
        Ok(())
    }

    fn sheddable_in(&self, operation: &Running) -> Result<Vec<ShedFolder>, Error> {
        let failed =
            |failure: Failure| Error::new(ErrorKind::Git, Operation::AskGit, &self.path, failure);
        let Some(tree) = Tree::at(&self.path).map_err(failed)? else { return Ok(Vec::new()) };
        let root = super::open_dir(&self.path)?;
        let device = Meta::of(&fs::fstat(&root).context(Operation::Read, || &self.path)?).dev;
        let mut found = Vec::new();
        for path in git::not_tracked_in(&tree).map_err(failed)?.ignored {
            // A folder ends in a slash.
            let Some(path) = path.strip_suffix(b"/").map(path_from) else { continue };
            match kind_at(&root, &path, device) {
                Ok(Some(kind)) => found.push((path, kind)),
                Err(error)
                    if !at::is_gone(&error) && error.kind() != io::ErrorKind::PermissionDenied =>
                {
                    return Err(error).context(Operation::Read, || self.path.join(&path));
                }
                _ => {}
            }
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let paths: Vec<&Path> = found.iter().map(|(path, _)| path.as_path()).collect();
        let mut tracked = Vec::new();
        for paths in paths.chunks(PATHS_AT_ONCE) {
            let output = tree.tracked(paths).map_err(failed)?;
            if output.is_cut {
                return Err(failed(Failure::Refused("git lists too many paths".to_owned())));
            }
            let listed = output.bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
            tracked.extend(listed.map(path_from));
        }
        found.retain(|(path, _)| {
            let full = self.path.join(path);
            !tracked.iter().any(|it| it.starts_with(path)) && !mounts::any_below(&full)
        });
        let full: Vec<PathBuf> = found.iter().map(|(path, _)| self.path.join(path)).collect();
        let trees: Vec<&Path> = full.iter().map(PathBuf::as_path).collect();
        let content = visit(
            &trees,
            &HashSet::new(),
            operation,
            Operation::Shed,
            Content::default,
            &ContentOf,
        )?;
        let bytes = |at: usize| content.iter().filter_map(|it| it.bytes.get(at)).sum();
        let is_foreign = |at: &usize| content.iter().any(|it| it.foreign.contains(at));
        Ok(found
            .into_iter()
            .enumerate()
            .filter(|(at, _)| !is_foreign(at))
            .map(|(at, (path, kind))| ShedFolder { path, kind, allocated_bytes: bytes(at) })
            .collect())
    }

    /// Moves the folders to a stage in the root, looks at them there, and removes them.
    fn shed_now(&self, folders: Vec<ShedFolder>, since: Moment) -> io::Result<ShedReport> {
        let mut report = ShedReport::default();
        if folders.is_empty() {
            return Ok(report);
        }
        let root = fs::open(&self.path, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        let root_times = times_of(&root)?;
        let name = CString::new(stage_name())?;
        fs::mkdirat(&root, &name, Mode::RWXU)?;
        staging::mark(&root, &name)?;
        let stage = fs::openat(&root, &name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        let place = self.path.join(OsStr::from_bytes(name.to_bytes()));
        let mut moved = Vec::new();
        for (number, folder) in folders.into_iter().enumerate() {
            let to = CString::new(number.to_string())?;
            let moving = || -> io::Result<(OwnedFd, CString, Timestamps)> {
                let parent = at::open_parent(&root, &folder.path)?;
                let (from, times) = (at::last(&folder.path)?, times_of(&parent)?);
                fs::renameat(&parent, &from, &stage, &to)?;
                Ok((parent, from, times))
            };
            match moving() {
                Ok(from) => moved.push((folder, from, to)),
                Err(error) => {
                    report.kept.push(Error::io(
                        Operation::Shed,
                        self.path.join(folder.path),
                        error,
                    ));
                }
            }
        }
        // A process that is in one of them keeps all: it may go on to the others.
        let is_lived_in = !living_in(&place, Depth::Quick).is_empty();
        // Backwards: of two in one folder, the first was moved when that still had its old times.
        for (folder, (parent, from, times), to) in moved.into_iter().rev() {
            let inside = place.join(OsStr::from_bytes(to.to_bytes()));
            let looked = changed_since(&inside, since, Scope::All);
            let stays = match looked {
                Ok(changed) if changed.is_empty() && !is_lived_in => None,
                Ok(_) => Some(io::Error::other("somebody used or changed it meanwhile")),
                Err(error) => Some(error),
            };
            if let Some(error) = stays {
                // If a build has made another one meanwhile, this one is of no use.
                if fs::statat(&parent, &from, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                    fs::renameat(&stage, &to, &parent, &from)?;
                }
                report.kept.push(Error::io(Operation::Shed, self.path.join(&folder.path), error));
            } else {
                report.shed.push(folder);
            }
            fs::futimens(&parent, &times)?;
        }
        report.shed.reverse();
        let removed = removal::remove(&root, &name);
        fs::futimens(&root, &root_times)?;
        removed.map(|()| report)
    }
}

fn times_of(folder: &OwnedFd) -> io::Result<Timestamps> {
    let meta = Meta::of(&fs::fstat(folder)?);
    let time = |(seconds, nanoseconds): (i64, i64)| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    Ok(Timestamps { last_access: time(meta.accessed()), last_modification: time(meta.modified()) })
}

/// The kind of the folder at a path, if it is sure. No step follows a link, and a folder on another
/// filesystem is none.
fn kind_at(root: &OwnedFd, path: &Path, device: u64) -> io::Result<Option<ShedKind>> {
    let parent = at::open_parent(root, path)?;
    let folder =
        fs::openat(&parent, &at::last(path)?, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    if Meta::of(&fs::fstat(&folder)?).dev != device {
        return Ok(None);
    }
    let is = |dir: &OwnedFd, name: &str, kind: FileType| {
        fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| Meta::of(&stat).file_type() == kind)
    };
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let compiled = || -> io::Result<bool> {
        let names = listed(fs::openat(&folder, ".", DIR_FLAGS, Mode::empty())?)?;
        Ok(names.iter().all(|(name, kind)| {
            *kind == FileType::RegularFile && Path::new(name).extension() == Some(OsStr::new("pyc"))
        }))
    };
    Ok(kind_of(FolderFacts {
        name,
        has_tag: is(&folder, TAG, FileType::RegularFile)
            // What cannot be read is no tag.
            && read_plain(&folder, Path::new(TAG), TAG_MOST_BYTES)
                .is_ok_and(|text| text.starts_with(SIGNATURE)),
        is_environment: is(&folder, "pyvenv.cfg", FileType::RegularFile),
        is_beside_package: is(&parent, "package.json", FileType::RegularFile),
        has_only_compiled_python: name == "__pycache__" && compiled()?,
        has_cmake_cache: is(&folder, "CMakeCache.txt", FileType::RegularFile),
        has_cmake_files: is(&folder, "CMakeFiles", FileType::Directory),
    }))
}

const TAG: &str = "CACHEDIR.TAG";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_a_sure_kind_are_a_builds() {
        let named = |name| FolderFacts { name, ..FolderFacts::default() };
        for (facts, expected) in [
            (named("target"), None),
            (named("node_modules"), None),
            (named("__pycache__"), None),
            (named("build"), None),
            (named("data"), None),
            (FolderFacts { has_tag: true, ..named("target") }, Some(ShedKind::Tagged)),
            (FolderFacts { has_tag: true, ..named("anything") }, Some(ShedKind::Tagged)),
            (FolderFacts { has_tag: true, is_environment: true, ..named(".venv") }, None),
            (FolderFacts { is_beside_package: true, ..named("modules") }, None),
            (
                FolderFacts { is_beside_package: true, ..named("node_modules") },
                Some(ShedKind::NodeModules),
            ),
            // A tag that somebody put there says nothing about the package.
            (FolderFacts { has_tag: true, ..named("node_modules") }, None),
            (
                FolderFacts { has_only_compiled_python: true, ..named("__pycache__") },
                Some(ShedKind::PythonCache),
            ),
            (FolderFacts { has_cmake_cache: true, ..named("build") }, None),
            (
                FolderFacts { has_cmake_cache: true, has_cmake_files: true, ..named("build") },
                Some(ShedKind::Cmake),
            ),
        ] {
            assert_eq!(kind_of(facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn what_no_build_writes_keeps_a_folder() {
        for (name, kind, expected) in [
            (c"a.o", FileType::RegularFile, false),
            (c"index.js", FileType::RegularFile, false),
            (c"app.db", FileType::RegularFile, true),
            (c"APP.SQLITE3", FileType::RegularFile, true),
            (c"mime.db", FileType::Directory, false),
            (c"PG_VERSION", FileType::RegularFile, true),
            (c".git", FileType::Directory, true),
            (c".git", FileType::RegularFile, true),
            (c".jj", FileType::Directory, true),
            (c"x.sock", FileType::Socket, true),
            (c"pipe", FileType::Fifo, true),
            (c"link", FileType::Symlink, false),
        ] {
            assert_eq!(is_foreign(name, kind), expected, "{name:?} {kind:?}");
        }
    }
}

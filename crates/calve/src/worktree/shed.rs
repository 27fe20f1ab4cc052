//! Removes from a worktree what a build or an install gives back.
//!
//! Only folders of kinds that are sure go ([`ShedKind`]): git ignores each as a whole and tracks
//! nothing in it, and its first levels have nothing but what one program writes there ([`kind`]).
//! A folder stays if it has anything that such a program does not write: a repository, a database, a
//! socket, a mount ([`foreign`]). So a folder that only looks like one never goes, and is named.
//!
//! Nothing goes from a worktree in which a process works, which git has locked, which another
//! process switches or drops, or in which a restore moved work aside. Where calve cannot see which
//! processes work there, without a `/proc`, nothing goes.
//!
//! # Whole or gone
//! The folders are renamed first, into a stage in the store; or in the worktree's root, and hidden
//! from git there, if the store is on another filesystem. Then calve looks once more: if a process
//! has something open in one of them, or if anything in a folder changed since the first look, it
//! gets its name back; and so does what is left of one that cannot be removed. If this process dies
//! meanwhile, the next one that opens the store sweeps the stage; one in the root, the next drop or
//! shed.
//! The folders above get back the times that they had, because nobody worked there
//! ([`idle`](super::idle)).

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation, Mode, OFlags, Timestamps};
use rustix::io::Errno;

pub(super) use self::foreign::is_foreign_repository;
use self::foreign::{Content, ContentOf};
pub use self::kind::ShedKind;
use self::kind::{IgnoredFolder, SureKind};
use super::Worktree;
use super::remove::LivingProcess;
use super::remove::look::{Moment, Scope, changed_since};
use super::remove::processes::{Depth, can_be_found, living_in};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::Meta;
use crate::store::StoreOptions;
use crate::store::at;
use crate::store::files::path_from;
use crate::store::git::{self, Failure, Tree};
use crate::tree::mounts;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::{self, stage_name};
use crate::tree::visit::visit;

mod foreign;
mod kind;

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

/// What [`Worktree::sheddable`] found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Sheddable {
    /// The folders that a build or an install gives back.
    pub folders: Vec<ShedFolder>,
    /// Folders that look like such ones, and stay, and why. The details are paths in them.
    pub staying: Vec<Error>,
}

/// What [`Worktree::shed`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ShedReport {
    /// The folders that are gone.
    pub shed: Vec<ShedFolder>,
    /// Folders that stay, and why: somebody used or changed them meanwhile, or they could not be
    /// removed. Of such a one, some of its files may be gone.
    pub kept: Vec<Error>,
}

/// So many paths fit on the command line of git.
const PATHS_AT_ONCE: usize = 500;

impl Worktree {
    /// The folders of the worktree that a build or an install gives back. Empty for a worktree
    /// without a repository: nothing says then what is a build's.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] if a process works in the worktree; [`ErrorKind::Git`] if it is locked, or
    /// git could not be asked; [`ErrorKind::Changed`] if a restore has moved work aside;
    /// [`ErrorKind::WorktreeMissing`]. Nothing is changed.
    pub fn sheddable(&self, options: &StoreOptions) -> Result<Sheddable, Error> {
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
        // A killed shed may have left its stage there.
        staging::sweep(&super::open_dir(&this.path)?);
        let since = Moment::now();
        let is_wanted = |found: &ShedFolder| folders.iter().any(|it| it.path == found.path);
        let folders: Vec<ShedFolder> =
            this.sheddable_in(&operation)?.folders.into_iter().filter(is_wanted).collect();
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

    fn sheddable_in(&self, operation: &Running) -> Result<Sheddable, Error> {
        let failed =
            |failure: Failure| Error::new(ErrorKind::Git, Operation::AskGit, &self.path, failure);
        let mut sheddable = Sheddable::default();
        let Some(tree) = Tree::at(&self.path).map_err(failed)? else { return Ok(sheddable) };
        let root = super::open_dir(&self.path)?;
        let device = Meta::of(&fs::fstat(&root).context(Operation::Read, || &self.path)?).dev;
        let project = self.store.project()?;
        let stays = |path: &Path, why: String| {
            let path = self.path.join(path);
            Error::new(ErrorKind::Changed, Operation::Shed, path, io::Error::other(why))
        };
        let mut found = Vec::new();
        for path in git::not_tracked_in(&tree).map_err(failed)?.ignored {
            // A folder ends in a slash.
            let Some(path) = path.strip_suffix(b"/").map(path_from) else { continue };
            let judged = IgnoredFolder::open(&root, &path, device)
                .and_then(|folder| folder.map_or(Ok(None), |it| it.judged([&self.path, &project])));
            match judged {
                Ok(Some(Ok(known))) => found.push((path, known)),
                Ok(Some(Err(why))) => sheddable.staying.push(stays(&path, why)),
                Err(error)
                    if !at::is_gone(&error) && error.kind() != io::ErrorKind::PermissionDenied =>
                {
                    return Err(error).context(Operation::Read, || self.path.join(&path));
                }
                _ => {}
            }
        }
        if found.is_empty() {
            return Ok(sheddable);
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
        let full: Vec<PathBuf> = found.iter().map(|(path, _)| self.path.join(path)).collect();
        let trees: Vec<&Path> = full.iter().map(PathBuf::as_path).collect();
        let known: Vec<SureKind> = found.iter().map(|(_, known)| *known).collect();
        let look = ContentOf { known: &known, device };
        let excluded = HashSet::new();
        let content =
            visit(&trees, &excluded, operation, Operation::Shed, Content::default, &look)?;
        for (at, (path, known)) in found.into_iter().enumerate() {
            let foreign = content.iter().find_map(|it| it.foreign.get(&at));
            let (why, inside) = if tracked.iter().any(|it| it.starts_with(&path)) {
                ("files that git tracks", None)
            } else if mounts::any_below(&full[at]) {
                ("a mount", None)
            } else if let Some((why, inside)) = foreign {
                (*why, Some(inside.clone()))
            } else {
                let allocated_bytes = content.iter().filter_map(|it| it.bytes.get(at)).sum();
                sheddable.folders.push(ShedFolder { path, kind: known.kind, allocated_bytes });
                continue;
            };
            let stays = stays(&path, format!("it has {why}"));
            sheddable.staying.push(stays.with_details(inside.into_iter().collect()));
        }
        Ok(sheddable)
    }

    /// Moves the folders to a stage, looks at them there, and removes them.
    fn shed_now(&self, folders: Vec<ShedFolder>, since: Moment) -> io::Result<ShedReport> {
        let mut report = ShedReport::default();
        if folders.is_empty() {
            return Ok(report);
        }
        let root = fs::open(&self.path, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
        let root_times = Meta::of_file(&root)?.timestamps();
        let staged = self.shed_stage(&root).map(|stage| {
            self.shed_through(&stage, &root, folders, since, &mut report);
            // Nothing is in it but folders in whose places a build has made others meanwhile.
            if let Err(error) = removal::remove(&stage.parent, &stage.name) {
                report.kept.push(Error::io(Operation::Shed, &stage.place, error));
            }
        });
        fs::futimens(&root, &root_times)?;
        staged.map(|()| report)
    }

    fn shed_stage(&self, root: &OwnedFd) -> io::Result<ShedStage> {
        let name = CString::new(stage_name())?;
        let parent = fs::openat(root, c".", DIR_FLAGS, Mode::empty())?;
        fs::mkdirat(root, &name, Mode::RWXU)?;
        let make = || -> io::Result<ShedStage> {
            staging::mark(root, &name)?;
            let folder = fs::openat(root, &name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            // So nobody sweeps it who cannot see this process. Where there are no locks, the name
            // says who made it.
            let _ = fs::flock(&folder, FlockOperation::NonBlockingLockShared);
            // Whether folders can be moved there is seen by moving one.
            let of_store = self.store.layout().stage();
            let moved = fs::open(&of_store, DIR_FLAGS, Mode::empty()).and_then(|to| {
                fs::renameat(root, &name, &to, &name)?;
                Ok(to)
            });
            let (parent, above) = match moved {
                Ok(to) => (to, of_store),
                Err(_) => {
                    // git looks into no folder that ignores all that is in it.
                    let ignore = fs::openat(&folder, ".gitignore", NEW_FILE_FLAGS, NEW_MODE)?;
                    io::Write::write_all(&mut std::fs::File::from(ignore), b"*\n")?;
                    (parent, self.path.clone())
                }
            };
            let place = above.join(OsStr::from_bytes(name.to_bytes()));
            Ok(ShedStage { parent, name: name.clone(), folder, place })
        };
        make().or_else(|error| {
            removal::remove(root, &name)?;
            Err(error)
        })
    }

    fn shed_through(
        &self,
        stage: &ShedStage,
        root: &OwnedFd,
        folders: Vec<ShedFolder>,
        since: Moment,
        report: &mut ShedReport,
    ) {
        let mut moved = Vec::new();
        let stays = |path: &Path, error| Error::io(Operation::Shed, self.path.join(path), error);
        for (number, folder) in folders.into_iter().enumerate() {
            let moving = || -> io::Result<MovedOut> {
                let parent = at::open_parent(root, &folder.path)?;
                let from = at::last(&folder.path)?;
                let times = Meta::of_file(&parent)?.timestamps();
                let to = CString::new(number.to_string())?;
                fs::renameat(&parent, &from, &stage.folder, &to)?;
                Ok(MovedOut { parent, from, times, to })
            };
            match moving() {
                Ok(taken) => moved.push((folder, taken)),
                Err(error) => report.kept.push(stays(&folder.path, error)),
            }
        }
        // A process that is in one of them keeps all: it may go on to the others.
        let is_lived_in = !living_in(&stage.place, Depth::Quick).is_empty();
        // Backwards: of two in one folder, the first was moved when that still had its old times.
        for (folder, taken) in moved.into_iter().rev() {
            let inside = stage.place.join(OsStr::from_bytes(taken.to.to_bytes()));
            let done = match changed_since(&inside, since, Scope::All) {
                Ok(changed) if changed.is_empty() && !is_lived_in => {
                    removal::remove(&stage.folder, &taken.to)
                }
                Ok(_) => Err(io::Error::other("somebody used or changed it meanwhile")),
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => report.shed.push(folder),
                Err(error) => {
                    report.kept.push(stays(&folder.path, error));
                    let back = taken.back(stage).map_err(|error| stays(&folder.path, error));
                    report.kept.extend(back.err());
                }
            }
            if let Err(errno) = fs::futimens(&taken.parent, &taken.times) {
                report.kept.push(stays(Path::new(""), errno.into()));
            }
        }
        report.shed.reverse();
    }
}

const NEW_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The folder in which the folders are looked at for the last time.
struct ShedStage {
    parent: OwnedFd,
    name: CString,
    /// It is locked.
    folder: OwnedFd,
    place: PathBuf,
}

/// Where a folder in the stage was.
struct MovedOut {
    parent: OwnedFd,
    from: CString,
    times: Timestamps,
    to: CString,
}

impl MovedOut {
    /// Gives the folder its place again, unless a build has made another one there: then this one
    /// is of no use.
    fn back(&self, stage: &ShedStage) -> io::Result<()> {
        let (to, from) = (&*self.to, &*self.from);
        match staging::rename_folder(&stage.folder, to, &self.parent, from, Mode::RWXU) {
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(()),
            renamed => Ok(renamed?),
        }
    }
}

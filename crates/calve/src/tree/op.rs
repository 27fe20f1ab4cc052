//! The state that the threads of one operation share.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use rustix::fs;

use super::aside::Aside;
use super::budget::Budget;
use super::linker::Answers;
use super::links::{Further, Links};
use super::names::Placed;
use super::node::OpenDirs;
use super::pool::{self, Halves, Queue, lock};
use super::running::Running;
use super::source::Source;
use super::staging::Stage;
use super::tally::{self, Finding};
use super::targets::Target;
use super::{CloneOptions, Existing, inside_own};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystem;
use crate::reflink::meta::{Attrs, Meta};
use crate::report::{CloneReport, DestinationReport, SkipReason, Skipped};

/// One destination of the walk.
#[derive(Debug)]
pub(crate) struct Dest {
    /// The path as the caller gave it, for messages.
    pub(super) path: PathBuf,
    /// In a merge: the stage for files that are not renamed into place yet.
    pub(super) merge_stage: Option<Stage>,
    pub(super) answers: Arc<Answers>,
    /// The owner and group of files that this process makes there. A mount may choose other ones
    /// than this process has.
    pub(super) owner: OnceLock<(u32, u32)>,
    /// Whether the filesystem there is known to keep the metadata that it accepts.
    keeps_metadata: OnceLock<bool>,
}

impl Dest {
    pub(crate) fn new(path: PathBuf, merge_stage: Option<Stage>) -> Self {
        Self {
            path,
            merge_stage,
            answers: Arc::default(),
            owner: OnceLock::new(),
            keeps_metadata: OnceLock::new(),
        }
    }

    /// Whether the filesystem of `file`, the first file there, keeps the metadata that it accepts.
    pub(super) fn keeps_metadata(&self, file: &OwnedFd) -> bool {
        *self.keeps_metadata.get_or_init(|| Filesystem::of_file(file).is_tested)
    }

    /// Sets the owner and group of files that this process makes there to those of `root`.
    pub(crate) fn owned_as(self, root: &OwnedFd) -> rustix::io::Result<Self> {
        let stat = fs::fstat(root)?;
        Ok(Self { owner: OnceLock::from((stat.st_uid, stat.st_gid)), ..self })
    }
}

/// The caller's wishes, and how calve found the source and the destinations.
pub(super) struct Call<'a> {
    /// Empty for a list.
    pub(super) source: &'a Path,
    /// The root's metadata.
    pub(super) meta: Meta,
    pub(super) options: &'a CloneOptions,
    pub(super) operation: Running,
    pub(super) targets: Vec<Target>,
}

impl Call<'_> {
    /// The operation's engine.
    pub(super) fn op<S: Source>(&self, from: S, dests: Vec<Dest>) -> Result<Op<'_, S>, Error> {
        Op::new(from, self.source, self.options, &self.operation, dests)
    }

    /// Reports that have no counts yet.
    pub(super) fn reports(&self) -> Vec<DestinationReport> {
        let targets = self.targets.iter();
        tally::reports(targets.map(|target| (&*target.path, self.skips(target))))
    }

    /// Whether something is to be made.
    pub(super) fn begins(&self) -> bool {
        !self.options.dry_run && !self.targets.iter().all(|target| self.skips(target))
    }

    pub(super) fn finish(
        &self,
        start: Instant,
        destinations: Vec<DestinationReport>,
    ) -> CloneReport {
        CloneReport { source: self.source.to_owned(), destinations, elapsed: start.elapsed() }
    }

    /// Whether a destination stays as it is.
    pub(super) fn skips(&self, target: &Target) -> bool {
        self.options.existing == Existing::Skip && target.existing.is_some()
    }
}

/// The state of an operation, which all its threads share.
pub(crate) struct Op<'a, S: Source> {
    pub(crate) from: S,
    pub(super) options: &'a CloneOptions,
    /// The tree's path in messages.
    pub(super) source: &'a Path,
    pub(crate) dests: Vec<Dest>,
    pub(super) dirs: OpenDirs<Dir<S>>,
    pub(super) links: Links<Dir<S>>,
    pub(super) operation: Running,
    pub(crate) budget: Budget,
    pub(crate) queue: Queue<Task<S>>,
    /// Some thread could not get its own umask. Another thread may fill the files that it made.
    pub(super) clipped: AtomicBool,
    pub(super) skipped: Mutex<Vec<Finding>>,
    pub(super) tallies: Mutex<Vec<DestinationReport>>,
}

/// Whether the path is in a store's trash or stage: the store is deleting it, or has not finished
/// it. No clone needs it.
fn is_passing_in_a_store(path: &Path) -> bool {
    let inside = inside_own(path).and_then(|inside| inside.iter().next());
    inside.is_some_and(|part| part == "trash" || part == "stage")
}

/// A directory's data: what its source knows (`own`), and its state at every destination.
#[derive(Debug)]
pub(crate) struct Directory<O> {
    pub(super) meta: Meta,
    pub(super) attrs: Option<Box<Attrs>>,
    pub(super) dests: Vec<DestState>,
    /// The entries that calve made where two names may be one.
    pub(super) placed: Placed,
    pub(crate) own: O,
}

pub(crate) type Dir<S> = Directory<<S as Source>::Directory>;

/// A directory that calve is making.
pub(crate) type NewNode<S> = super::node::Node<Dir<S>>;

/// Such a directory, with its descriptors.
pub(crate) type OpenNode<S> = super::node::HeldNode<Dir<S>>;

/// The first name of a file that has several.
pub(crate) type FirstName<S> = super::links::First<Dir<S>>;

/// A directory's state at one destination.
#[derive(Debug)]
pub(crate) struct DestState {
    /// Whether this operation made the directory. If so, the directory gets the source's mode and
    /// times in the end.
    pub(super) made: bool,
    /// In a merge: nothing can be renamed from the stage into this directory, so files are staged
    /// in the directory itself. calve knows that beforehand if the directory is on another device.
    /// On another mount of the same device, or with another project's quota (XFS, ext4), calve
    /// finds out by trying.
    pub(super) stage_here: AtomicBool,
    /// In a merge: whether two names may be one in this directory.
    pub(super) folds: bool,
    /// In a merge: the folder made aside that this directory is, or is in. Nobody else sees it yet,
    /// so entries are made under their final names.
    pub(super) aside: Option<Arc<Aside>>,
    /// In a merge: whether a folder that is made aside can be renamed into this directory, once
    /// calve has tried.
    pub(super) takes_folders: OnceLock<bool>,
}

impl DestState {
    /// The state of a new tree's root.
    pub(crate) fn new_root() -> Self {
        Self::of(true, false, false)
    }

    /// The state of a directory that is in its place.
    pub(super) fn of(made: bool, stage_here: bool, folds: bool) -> Self {
        let takes_folders = OnceLock::new();
        Self { made, stage_here: stage_here.into(), folds, aside: None, takes_folders }
    }

    /// The state of a directory that is made aside, or in a folder that is.
    pub(super) fn aside(aside: &Arc<Aside>) -> Self {
        Self { aside: Some(Arc::clone(aside)), ..Self::new_root() }
    }
}

pub(crate) enum Task<S: Source> {
    Root(Arc<NewNode<S>>),
    Directory {
        parent: Arc<NewNode<S>>,
        child: S::Child,
    },
    Fill(Batch<S>),
    /// Further names to link. The first names are in place.
    Link(Arc<Further<Dir<S>>>),
    /// A directory that waited for links. All links are made.
    Linked(Arc<Further<Dir<S>>>),
}

/// Files of one directory that are created and not filled yet.
pub(crate) struct Batch<S: Source> {
    pub(super) node: OpenNode<S>,
    pub(super) jobs: Vec<super::file::Job<S>>,
}

impl<'a, S: Source> Op<'a, S> {
    /// An operation that makes the tree `from` at all `dests`. `source` is the tree's path in
    /// messages.
    ///
    /// # Errors
    /// The process may not open enough files.
    pub(crate) fn new(
        from: S,
        source: &'a Path,
        options: &'a CloneOptions,
        operation: &Running,
        dests: Vec<Dest>,
    ) -> Result<Self, Error> {
        // A dry run of a list opens no directory.
        let sides = (S::SIDES + dests.len()).max(1);
        let budget = Budget::new(sides, 1 + dests.len(), operation.jobs());
        let budget = budget.context(S::OPERATION, || source)?;
        let operation = operation.with_jobs(budget.jobs);
        let halves = Halves { first_most: (budget.jobs / 2).max(1), held_most: budget.files };
        Ok(Self {
            from,
            options,
            source,
            dirs: OpenDirs::new(budget.dirs, dests.len()),
            links: Links::new(),
            budget,
            tallies: Mutex::new(vec![DestinationReport::default(); dests.len().max(1)]),
            dests,
            queue: Queue::new(halves, &operation),
            operation,
            clipped: AtomicBool::new(false),
            skipped: Mutex::default(),
        })
    }

    pub(crate) fn into_findings(self) -> Findings {
        let inner = PoisonError::into_inner;
        (
            self.dests,
            self.tallies.into_inner().unwrap_or_else(inner),
            self.skipped.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) fn stopped(&self) -> bool {
        self.queue.stopped()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.stopped() { Err(self.cancelled()) } else { Ok(()) }
    }

    pub(super) fn cancelled(&self) -> Error {
        pool::cancelled(S::OPERATION, self.shown())
    }

    /// Notes an entry that did not arrive complete, at one destination or at all of them.
    pub(super) fn skip(&self, dest: Option<usize>, path: PathBuf, reason: SkipReason) {
        let passing =
            matches!(reason, SkipReason::Stage | SkipReason::Vanished | SkipReason::Restless);
        if !(passing && is_passing_in_a_store(&path)) {
            lock(&self.skipped).push((dest, Skipped { path, reason }));
        }
    }

    /// Whether entries arrive in this directory one by one, because others may see it. Otherwise
    /// calve makes them in their place.
    pub(super) fn merges_into(&self, dest: usize, node: &NewNode<S>) -> bool {
        self.dests[dest].merge_stage.is_some() && node.dests[dest].aside.is_none()
    }

    /// The path of a directory, for messages.
    pub(super) fn path(&self, node: &NewNode<S>) -> PathBuf {
        self.source.join(node.path())
    }

    pub(super) fn open(&self, node: &Arc<NewNode<S>>) -> Result<OpenNode<S>, Error> {
        node.open(&self.dirs).context(Operation::OpenDirectory, || self.path(node))
    }

    pub(super) fn source_path(&self, node: &NewNode<S>, name: &CStr) -> PathBuf {
        S::path_of(self, node, name)
    }

    /// The tree in messages about all of it.
    pub(super) fn shown(&self) -> &Path {
        match &*self.dests {
            // A list has no path.
            [first, ..] if self.source.as_os_str().is_empty() => &first.path,
            _ => self.source,
        }
    }

    /// The error for two entries of the source that the destination of a merge takes for one.
    pub(super) fn one_place(&self, node: &NewNode<S>, first: &CStr, name: &CStr) -> Error {
        let cause = io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the destination takes their names for one (it ignores case, or how letters are composed)",
        );
        Error::new(ErrorKind::Conflict, Operation::Merge, self.source_path(node, first), cause)
            .with_other(self.source_path(node, name))
    }

    pub(super) fn dest_path(&self, dest: usize, node: &NewNode<S>, name: &CStr) -> PathBuf {
        self.dests[dest].path.join(node.path_of(name))
    }
}

/// The results of a finished operation: the destinations, their counts, and the entries that did
/// not arrive complete at one or all of them.
pub(crate) type Findings = (Vec<Dest>, Vec<DestinationReport>, Vec<Finding>);

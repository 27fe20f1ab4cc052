//! What the threads of one operation share.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs;

use super::budget::Budget;
use super::filter::Filter;
use super::links::{Further, Links};
use super::names::Placed;
use super::node::{Handles, OpenDirs};
use super::pool::{self, Halves, Queue, lock};
use super::running::Running;
use super::sharing::Sharing;
use super::source::Source;
use super::staging::Stage;
use super::tally::Finding;
use super::targets::Target;
use super::verdicts::Verdicts;
use super::{CloneOptions, Existing, OWN};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::meta::{Attrs, Meta};
use crate::report::{DestinationReport, SkipReason, Skipped};

/// One destination of the walk.
#[derive(Debug)]
pub(crate) struct Dest {
    /// As it was given, for messages.
    pub(super) path: PathBuf,
    /// In a merge: where files are staged before they are renamed to their places.
    pub(super) merge_stage: Option<Stage>,
    /// What it said to clones, and to hard links.
    pub(super) sharing: Sharing,
    pub(super) link_verdicts: Verdicts,
    /// Owner and group of what this process makes there; a mount may have its own mind about both.
    pub(super) owner: OnceLock<(u32, u32)>,
}

impl Dest {
    pub(crate) fn new(path: PathBuf, merge_stage: Option<Stage>) -> Self {
        let (sharing, link_verdicts) = (Sharing::default(), Verdicts::default());
        Self { path, merge_stage, sharing, link_verdicts, owner: OnceLock::new() }
    }

    /// Where what this process makes has the owner and group that `root` has.
    pub(crate) fn owned_as(self, root: &OwnedFd) -> rustix::io::Result<Self> {
        let stat = fs::fstat(root)?;
        Ok(Self { owner: OnceLock::from((stat.st_uid, stat.st_gid)), ..self })
    }
}

/// What a call asks for, and what was found at both ends of it.
pub(super) struct Call<'a> {
    pub(super) source: &'a Path,
    /// The same, absolute, for symbolic links to it.
    pub(super) absolute: PathBuf,
    pub(super) meta: Meta,
    pub(super) filter: Filter,
    pub(super) options: &'a CloneOptions,
    pub(super) operation: Running,
    pub(super) targets: Vec<Target>,
}

impl Call<'_> {
    /// Whether a destination is to be left as it is.
    pub(super) fn skips(&self, target: &Target) -> bool {
        self.options.existing == Existing::Skip && target.existing.is_some()
    }
}

/// What all threads share.
pub(crate) struct Op<'a, S: Source> {
    pub(crate) from: S,
    pub(super) options: &'a CloneOptions,
    /// The path of what is made, for messages.
    pub(super) source: &'a Path,
    pub(crate) dests: Vec<Dest>,
    pub(super) dirs: OpenDirs<Dir<S>>,
    pub(super) links: Links<Dir<S>>,
    pub(super) operation: Running,
    pub(crate) budget: Budget,
    pub(crate) queue: Queue<Task<S>>,
    /// Some thread could not have a umask of its own; another may fill what it made.
    pub(super) clipped: AtomicBool,
    pub(super) skipped: Mutex<Vec<Finding>>,
    pub(super) tallies: Mutex<Vec<DestinationReport>>,
}

/// Whether it is what a store deletes, or has not finished. It means nothing in a clone, and misses nobody there.
fn is_passing_in_a_store(path: &Path) -> bool {
    let mut parts = path.iter().skip_while(|part| *part != OWN);
    parts.next();
    parts.next().is_some_and(|part| part == "trash" || part == "stage")
}

/// What is known of a directory: what its source knows (`own`), and what it is on every destination.
#[derive(Debug)]
pub(crate) struct Directory<O> {
    pub(super) meta: Meta,
    pub(super) attrs: Option<Box<Attrs>>,
    pub(super) dests: Vec<DestState>,
    /// What was put where two names may be one.
    pub(super) placed: Placed,
    pub(crate) own: O,
}

pub(crate) type Dir<S> = Directory<<S as Source>::Directory>;

/// A directory that is being made.
pub(crate) type Node<S> = super::node::Node<Dir<S>>;

/// The first name of a file that has several.
pub(crate) type First<S> = super::links::First<Dir<S>>;

/// What is known of a directory of a destination.
#[derive(Debug)]
pub(crate) struct DestState {
    /// This operation made it, so its mode and times are the source's in the end.
    pub(super) made: bool,
    /// In a merge: nothing can be renamed into it from the stage, so files are staged in the directory itself. So it is on another
    /// device; on another mount of the same, or where it has another project's quota (XFS, ext4), that is found out by trying.
    pub(super) stage_here: AtomicBool,
    /// In a merge: two names may be one in it.
    pub(super) folds: bool,
}

impl DestState {
    /// Of the root of a new tree.
    pub(crate) fn new_root() -> Self {
        Self { made: true, stage_here: false.into(), folds: false }
    }
}

pub(crate) enum Task<S: Source> {
    Root(Arc<Node<S>>),
    Directory {
        parent: Arc<Node<S>>,
        child: S::Child,
    },
    Fill(Batch<S>),
    /// Further names of files whose first names stand.
    Link(Arc<Further<Dir<S>>>),
    /// What waited for links, when all of them are made.
    Linked(Arc<Further<Dir<S>>>),
}

/// Files of one directory that are created and wait to be filled.
pub(crate) struct Batch<S: Source> {
    pub(super) node: Arc<Node<S>>,
    pub(super) handles: Arc<Handles>,
    pub(super) jobs: Vec<super::file::Job<S>>,
}

impl<'a, S: Source> Op<'a, S> {
    /// An operation that makes a tree `from` somewhere at `dests`; `source` is its path in messages.
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
        let budget = Budget::new(S::SIDES + dests.len(), 1 + dests.len(), operation.jobs());
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
        pool::cancelled(S::OPERATION, self.source)
    }

    /// Notes an entry that did not arrive whole, at one destination or at all of them.
    pub(super) fn skip(&self, dest: Option<usize>, path: PathBuf, reason: SkipReason) {
        let passing =
            matches!(reason, SkipReason::Stage | SkipReason::Vanished | SkipReason::Restless);
        if !(passing && is_passing_in_a_store(&path)) {
            lock(&self.skipped).push((dest, Skipped { path, reason }));
        }
    }

    /// The path of a directory, for messages.
    pub(super) fn path(&self, node: &Node<S>) -> PathBuf {
        self.source.join(node.path())
    }

    pub(super) fn source_path(&self, node: &Node<S>, name: &CStr) -> PathBuf {
        self.source.join(node.path_of(name))
    }

    /// Two entries of the source that the destination of a merge takes for one.
    pub(super) fn one_place(&self, node: &Node<S>, first: &CStr, name: &CStr) -> Error {
        let cause = io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the destination takes their names for one (it ignores case, or how letters are composed)",
        );
        Error::new(ErrorKind::Conflict, Operation::Merge, self.source_path(node, first), cause)
            .with_other(self.source_path(node, name))
    }

    pub(super) fn dest_path(&self, dest: usize, node: &Node<S>, name: &CStr) -> PathBuf {
        self.dests[dest].path.join(node.path_of(name))
    }
}

/// What is left of an operation when it is over: the destinations, their counts, and what did not arrive whole, at one of
/// them or at all.
pub(crate) type Findings = (Vec<Dest>, Vec<DestinationReport>, Vec<Finding>);

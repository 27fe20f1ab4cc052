//! What the threads of one operation share.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::budget::Budget;
use super::filter::{Filter, IgnoreChain};
use super::links::{Further, Links};
use super::names::Placed;
use super::node::{Handles, OpenDirs};
use super::pool::{self, Halves, Queue, lock};
use super::running::Running;
use super::sharing::Sharing;
use super::staging::Stage;
use super::tally::Finding;
use super::targets::Target;
use super::verdicts::Verdicts;
use super::{CloneOptions, Existing, OWN};
use crate::error::{Error, ErrorKind, Operation};
use crate::reflink::meta::{Attrs, Meta};
use crate::report::{DestinationReport, SkipReason, Skipped};

/// One destination of the walk.
#[derive(Debug)]
pub(super) struct Dest {
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
pub(super) struct Op<'a> {
    pub(super) options: &'a CloneOptions,
    pub(super) filter: &'a Filter,
    pub(super) source: &'a Path,
    pub(super) source_absolute: &'a Path,
    pub(super) dests: Vec<Dest>,
    /// Directories that are no part of the source although they are inside it: the destinations.
    pub(super) excluded: HashSet<(u64, u64)>,
    pub(super) dirs: OpenDirs<Directory>,
    pub(super) links: Links<Directory>,
    pub(super) operation: Running,
    pub(super) budget: Budget,
    pub(super) queue: Queue<Task>,
    /// Some thread could not have a umask of its own; another may fill what it made.
    pub(super) clipped: AtomicBool,
    pub(super) skipped: Mutex<Vec<Finding>>,
    pub(super) tallies: Mutex<Vec<DestinationReport>>,
    /// The directories that have a directory `.git`, as paths from the root.
    pub(super) repositories: Mutex<Vec<PathBuf>>,
}

/// Whether it is what a store deletes, or has not finished. It means nothing in a clone, and misses nobody there.
fn is_passing_in_a_store(path: &Path) -> bool {
    let mut parts = path.iter().skip_while(|part| *part != OWN);
    parts.next();
    parts.next().is_some_and(|part| part == "trash" || part == "stage")
}

/// A directory of the walk.
pub(super) type Node = super::node::Node<Directory>;

/// The first name of a file that has several.
pub(super) type First = super::links::First<Directory>;

/// What is known of a directory on the source's side and on every destination's.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) meta: Meta,
    pub(super) attrs: Option<Box<Attrs>>,
    /// The ignore files that hold for its entries, once they are read.
    pub(super) chain: OnceLock<Arc<IgnoreChain>>,
    /// Only entered for the sake of what is included below.
    pub(super) inside_excluded: bool,
    pub(super) dests: Vec<DestState>,
    /// What was put where two names may be one.
    pub(super) placed: Placed,
}

/// What is known of a directory of a destination.
#[derive(Debug)]
pub(super) struct DestState {
    /// This operation made it, so its mode and times are the source's in the end.
    pub(super) made: bool,
    /// In a merge: nothing can be renamed into it from the stage, so files are staged in the directory itself. So it is on another
    /// device; on another mount of the same, or where it has another project's quota (XFS, ext4), that is found out by trying.
    pub(super) stage_here: AtomicBool,
    /// In a merge: two names may be one in it.
    pub(super) folds: bool,
}

/// The sides of a directory of the walk: the source's, then the destinations'.
impl Handles {
    pub(super) fn source(&self) -> &OwnedFd {
        &self.sides[0]
    }

    pub(super) fn dests(&self) -> &[OwnedFd] {
        &self.sides[1..]
    }
}

pub(super) enum Task {
    Root(Arc<Node>),
    Directory {
        parent: Arc<Node>,
        name: CString,
        inside_excluded: bool,
    },
    Fill(Batch),
    /// Further names of files whose first names stand.
    Link(Arc<Further<Directory>>),
    /// What waited for links, when all of them are made.
    Linked(Arc<Further<Directory>>),
}

/// Files of one directory that are created and wait to be filled.
pub(super) struct Batch {
    pub(super) node: Arc<Node>,
    pub(super) handles: Arc<Handles>,
    pub(super) jobs: Vec<super::file::Job>,
}

impl<'a> Op<'a> {
    pub(super) fn new(
        call: &'a Call<'a>,
        dests: Vec<Dest>,
        excluded: HashSet<(u64, u64)>,
        budget: Budget,
    ) -> Self {
        let operation = call.operation.with_jobs(budget.jobs);
        let halves = Halves { first_most: (budget.jobs / 2).max(1), held_most: budget.files };
        Self {
            options: call.options,
            filter: &call.filter,
            source: call.source,
            source_absolute: &call.absolute,
            excluded,
            dirs: OpenDirs::new(budget.dirs),
            links: Links::new(),
            budget,
            tallies: Mutex::new(vec![DestinationReport::default(); dests.len().max(1)]),
            dests,
            queue: Queue::new(halves, &operation),
            operation,
            clipped: AtomicBool::new(false),
            skipped: Mutex::default(),
            repositories: Mutex::default(),
        }
    }

    pub(super) fn into_findings(self) -> Findings {
        let inner = PoisonError::into_inner;
        (
            self.dests,
            self.tallies.into_inner().unwrap_or_else(inner),
            self.skipped.into_inner().unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(super) fn stopped(&self) -> bool {
        self.queue.stopped()
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.stopped() { Err(self.cancelled()) } else { Ok(()) }
    }

    pub(super) fn cancelled(&self) -> Error {
        pool::cancelled(Operation::Clone, self.source)
    }

    /// Notes an entry that did not arrive whole, at one destination or at all of them.
    pub(super) fn skip(&self, dest: Option<usize>, path: PathBuf, reason: SkipReason) {
        let passing =
            matches!(reason, SkipReason::Stage | SkipReason::Vanished | SkipReason::Restless);
        if !(passing && is_passing_in_a_store(&path)) {
            lock(&self.skipped).push((dest, Skipped { path, reason }));
        }
    }

    pub(super) fn source_path(&self, node: &Node, name: &CStr) -> PathBuf {
        self.source.join(node.path_of(name))
    }

    /// Two entries of the source that the destination of a merge takes for one.
    pub(super) fn one_place(&self, node: &Node, first: &CStr, name: &CStr) -> Error {
        let cause = io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the destination takes their names for one (it ignores case, or how letters are composed)",
        );
        Error::new(ErrorKind::Conflict, Operation::Merge, self.source_path(node, first), cause)
            .with_other(self.source_path(node, name))
    }

    pub(super) fn dest_path(&self, dest: usize, node: &Node, name: &CStr) -> PathBuf {
        self.dests[dest].path.join(node.path_of(name))
    }
}

/// What is left of an operation when it is over: the destinations, their counts, and what did not arrive whole, at one of
/// them or at all.
pub(super) type Findings = (Vec<Dest>, Vec<DestinationReport>, Vec<Finding>);

//! What the threads of one operation share.

use std::collections::{HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use super::filter::Filter;
use super::links::Links;
use super::node::{Handles, Node, OpenDirs, lock};
use super::staging::Stage;
use super::tally::Finding;
use super::verdicts::Verdicts;
use super::{CloneOptions, OWN};
use crate::error::{Error, ErrorKind};
use crate::reflink::Patience;
use crate::report::{DestinationReport, SkipReason, Skipped};

/// One destination of the walk.
#[derive(Debug)]
pub(super) struct Dest {
    /// As it was given, for messages.
    pub(super) path: PathBuf,
    /// In a merge: where files are staged before they are renamed to their places.
    pub(super) merge_stage: Option<Stage>,
    /// What it said to clones, and to hard links.
    pub(super) verdicts: Verdicts,
    pub(super) link_verdicts: Verdicts,
    pub(super) short_clones: bool,
    /// Owner and group of what this process makes there; a mount may have its own mind about both.
    pub(super) owner: OnceLock<(u32, u32)>,
}

/// What all threads share.
pub(super) struct Op<'a> {
    pub(super) options: &'a CloneOptions,
    pub(super) filter: Filter,
    pub(super) source: &'a Path,
    /// The same, absolute, for symbolic links to it.
    pub(super) source_absolute: PathBuf,
    pub(super) dests: Vec<Dest>,
    /// Directories that are no part of the source although they are inside it: the destinations.
    pub(super) excluded: HashSet<(u64, u64)>,
    pub(super) dirs: OpenDirs,
    pub(super) links: Links,
    pub(super) patience: Patience,
    pub(super) files_most: usize,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    /// Some thread could not have a umask of its own; another may fill what it made.
    pub(super) clipped: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) failure: Mutex<Option<Error>>,
    pub(super) skipped: Mutex<Vec<Finding>>,
    pub(super) tallies: Mutex<Vec<DestinationReport>>,
}

/// Whether it is what a store deletes, or has not finished. It means nothing in a clone, and misses nobody there.
fn is_passing_in_a_store(path: &Path) -> bool {
    let mut parts = path.iter().skip_while(|part| *part != OWN);
    parts.next();
    parts.next().is_some_and(|part| part == "trash" || part == "stage")
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) dirs: Vec<Task>,
    pub(super) batches: VecDeque<Batch>,
    /// Descriptors of files that were created and not filled.
    pub(super) files: usize,
    pub(super) creators: usize,
    pub(super) live: usize,
}

pub(super) enum Task {
    Root(Arc<Node>),
    Directory { parent: Arc<Node>, name: CString, inside_excluded: bool },
}

/// Files of one directory that are created and wait to be filled.
pub(super) struct Batch {
    pub(super) node: Arc<Node>,
    pub(super) handles: Arc<Handles>,
    pub(super) jobs: Vec<super::file::Job>,
}

impl<'a> Op<'a> {
    #[expect(clippy::too_many_arguments, reason = "called once; these are its fields")]
    pub(super) fn new(
        options: &'a CloneOptions,
        filter: Filter,
        source: &'a Path,
        source_absolute: PathBuf,
        dests: Vec<Dest>,
        excluded: HashSet<(u64, u64)>,
        patience: Patience,
        descriptors: usize,
    ) -> Self {
        Self {
            options,
            filter,
            source,
            source_absolute,
            excluded,
            dirs: OpenDirs::new((descriptors / 2 / (1 + dests.len())).max(2)),
            links: Links::new(),
            patience,
            files_most: (descriptors / 2).max(1),
            tallies: Mutex::new(vec![DestinationReport::default(); dests.len().max(1)]),
            dests,
            queue: Mutex::default(),
            wake: Condvar::new(),
            clipped: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
            skipped: Mutex::default(),
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

    /// The first error is the one that is told; it stops everybody.
    pub(super) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.halt();
    }

    pub(super) fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _queue = lock(&self.queue);
        self.wake.notify_all();
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.options.cancel.is_cancelled()
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.stopped() { Err(self.cancelled()) } else { Ok(()) }
    }

    pub(super) fn cancelled(&self) -> Error {
        let cause = io::Error::new(io::ErrorKind::Interrupted, "cancelled");
        Error::new(ErrorKind::Cancelled, "clone", self.source, cause)
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
        Error::new(ErrorKind::Conflict, "merge", self.source_path(node, first), cause)
            .with_other(self.source_path(node, name))
    }

    pub(super) fn dest_path(&self, dest: usize, node: &Node, name: &CStr) -> PathBuf {
        self.dests[dest].path.join(node.path_of(name))
    }
}

/// What is left of an operation when it is over: the destinations, their counts, and what did not arrive whole, at one of
/// them or at all.
pub(super) type Findings = (Vec<Dest>, Vec<DestinationReport>, Vec<Finding>);

/// How many threads work, unless the caller says.
pub(crate) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(8)
}

/// How many descriptors each destination holds from beginning to end: its folder and its stage, twice.
const HELD_BY_DESTINATION: u64 = 4;

/// How many descriptors the walk may keep open, for directories and for files between creating and filling, and never so
/// many that one of these is kept for long. A third of what the process may open: what waits to be filled keeps its
/// directory, and each thread has a directory and some files in its hands.
pub(crate) fn descriptor_budget(dests: usize) -> usize {
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(4096);
    let held = HELD_BY_DESTINATION.saturating_mul(dests as u64);
    usize::try_from(limit.saturating_sub(held) / 3).unwrap_or(4096).clamp(16, 2048)
}

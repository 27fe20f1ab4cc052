//! Makes the trees of a snapshot: one plan, N destinations.
//!
//! The manifest is the [`Source`] of the trees, and the engine in `tree/` makes them, inside stages
//! that no other process uses. calve opens a mirror and checks its seal once for all destinations.
//! At the end, the inode and change time of each entry go into the worktree's index.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs;

use super::Store;
use super::blobs::{Intake, Noted};
use super::id::BlobId;
use super::index::Stat;
use super::manifest::{self, Manifest, os};
use super::object::{Entry, Kind};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::meta::{Attrs, Meta};
use crate::report::DestinationReport;
use crate::tree::engine::Worker;
use crate::tree::file::Job;
use crate::tree::links::FileKey;
use crate::tree::op::{Dest, DestState, NewNode, Op, OpenNode, Task};
use crate::tree::pool::lock;
use crate::tree::running::Running;
use crate::tree::source::{NamedEntry, Opened, Source};
use crate::tree::special::Special;
use crate::tree::tally::{self, Because};
use crate::tree::{CloneMode, CloneOptions};

/// The trees to make, and how to make them.
pub(crate) struct Plan<'a> {
    pub(crate) store: &'a Store,
    pub(crate) manifest: &'a Manifest,
    /// The paths of the destinations, for messages.
    pub(crate) paths: &'a [PathBuf],
    pub(crate) operation: &'a Running,
}

/// The result: for each destination its counts, and the inode and change time of each entry.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) reports: Vec<DestinationReport>,
    pub(crate) stats: Vec<Vec<Stat>>,
    /// Mirrors that were made on the way. They are sealed after a flush.
    pub(crate) unsealed: Vec<BlobId>,
}

/// The manifest of a plan, as a source of trees. A directory is identified by its place in the
/// manifest.
struct Tree<'a> {
    plan: &'a Plan<'a>,
    noted: Noted,
    stats: Arc<Stats>,
}

/// For each destination, the inodes and change times of the entries, by the entries' numbers. All
/// threads write into one list: lists of their own would take more than twice as much memory.
type Stats = Vec<Mutex<Vec<Stat>>>;

/// The data that one thread keeps.
struct IntakeThread {
    intake: Intake,
    stats: Arc<Stats>,
}

/// Makes the plan's trees in `roots`, which are open and empty.
///
/// # Errors
/// The stages contain a part of the tree; the caller must remove them.
pub(crate) fn materialize(plan: &Plan<'_>, roots: Vec<OwnedFd>) -> Result<Made, Error> {
    let noted = Noted::of(plan.operation);
    let none = || Mutex::new(vec![Stat::default(); plan.manifest.count as usize]);
    let stats: Arc<Stats> = Arc::new(plan.paths.iter().map(|_| none()).collect());
    let tree = Tree { plan, noted: noted.clone(), stats: Arc::clone(&stats) };
    let path = plan.paths.first().map_or(Path::new(""), PathBuf::as_path);
    let mut dests = Vec::with_capacity(plan.paths.len());
    for (path, root) in plan.paths.iter().zip(&roots) {
        dests.push(Dest::new(path.clone(), None).owned_as(root).context(Operation::Read, || path)?);
    }
    let options = CloneOptions::new();
    let op = Op::new(tree, path, &options, plan.operation, dests)?;
    let states = roots.iter().map(|_| DestState::new_root()).collect();
    let root = op.from.directory(0, CString::default());
    let (_, threads) = op
        .run(root, roots, states)
        .inspect_err(|error| plan.store.contents().drop_unpacked(error, &noted))?;
    let (_, counts, findings) = op.into_findings();
    let mut made = Made {
        reports: Vec::with_capacity(plan.paths.len()),
        stats: stats.iter().map(|stats| std::mem::take(&mut *lock(stats))).collect(),
        unsealed: Vec::new(),
    };
    for thread in threads {
        made.unsealed.extend(thread.intake.unsealed);
    }
    for (dest, (path, counts)) in plan.paths.iter().zip(counts).enumerate() {
        let mut report = DestinationReport { path: path.clone(), ..DestinationReport::default() };
        tally::write(&mut report, counts, &findings, Some(dest));
        report.method = tally::method(CloneMode::Clone, &report);
        made.reports.push(report);
    }
    Ok(made)
}

/// The metadata that an entry must get.
pub(crate) fn wanted(entry: &Entry) -> Meta {
    let kind = match entry.kind {
        Kind::File { .. } => fs::FileType::RegularFile,
        Kind::Directory(_) => fs::FileType::Directory,
        Kind::Symlink { .. } => fs::FileType::Symlink,
        Kind::Fifo { .. } => fs::FileType::Fifo,
    };
    #[cfg_attr(
        any(target_os = "linux", target_os = "android"),
        expect(clippy::useless_conversion, reason = "16 bits elsewhere")
    )]
    let mode = u32::from(kind.as_raw_mode()) | entry.mode;
    Meta::wanted(mode, (entry.uid, entry.gid), (entry.mtime.0, entry.mtime.1.into()))
}

fn attrs(entry: &Entry) -> Option<Attrs> {
    entry.attributes.as_ref().map(|pairs| Attrs::from_pairs(pairs))
}

impl Source for Tree<'_> {
    /// The directory's place in the manifest.
    type Directory = u32;
    type Child = u32;
    type Thread = IntakeThread;

    const OPERATION: Operation = Operation::Make;
    const SIDES: usize = 0;
    const CLONES_HAVE_METADATA: bool = false;
    const NOTES: bool = true;

    fn thread(&self) -> IntakeThread {
        IntakeThread { intake: Intake::noting(&self.noted), stats: Arc::clone(&self.stats) }
    }

    fn open(
        worker: &mut Worker<'_, '_, Self>,
        _: &OpenNode<Self>,
        place: u32,
    ) -> Result<Option<Opened<Self>>, Error> {
        let tree = &worker.op.from;
        let name = CString::new(&*tree.plan.manifest.entry_of(place).name);
        let name = name.context(Operation::MakeDirectory, || tree.path(place))?;
        Ok(Some(tree.directory(place, name)))
    }

    fn read(worker: &mut Worker<'_, '_, Self>, node: &OpenNode<Self>) -> Result<(), Error> {
        let op = worker.op;
        let directory = op.from.at(node);
        node.add_pending(directory.children.len());
        // The queue is last in, first out. The children are added in reverse, so that they are made
        // in their order.
        let children = directory.children.iter().rev();
        op.queue.extend(
            children.map(|(_, child)| Task::Directory { parent: Arc::clone(node), child: *child }),
        );
        let mut batch = Vec::new();
        for (number, entry) in (directory.first..).zip(&directory.entries) {
            op.check()?;
            if entry.is_directory() {
                continue;
            }
            let name = CString::new(&*entry.name)
                .context(Operation::Make, || op.from.path(node.own).join(os(&entry.name)))?;
            let named = NamedEntry { name: &name, kind: wanted(entry).file_type(), number };
            // The manifest does not say how many names a file has.
            let file = (FileKey::certain((0, entry.link())), u64::MAX);
            let first = match entry.link() {
                0 => None,
                _ => match worker.first_name(node, named, file, None)? {
                    None => continue,
                    first => first,
                },
            };
            match entry.kind {
                Kind::File { .. } => {
                    let job = open_content(worker, node, named, entry)?;
                    batch.push(job.with_first(first));
                    if batch.len() == op.budget.batch {
                        worker.hand_over(node, std::mem::take(&mut batch))?;
                    }
                }
                _ => {
                    let special = Special { first, ..special(entry, named, node, op)? };
                    for dest in 0..op.dests.len() {
                        worker.special_at(dest, node, &name, &special)?;
                    }
                }
            }
        }
        worker.hand_over(node, batch)
    }

    fn file(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        named: NamedEntry<'_>,
    ) -> Result<Option<Job<Self>>, Error> {
        let entry = worker.op.from.entry(node, named.number);
        open_content(worker, node, named, entry).map(Some)
    }

    fn special(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        named: NamedEntry<'_>,
    ) -> Result<Option<Special<Self>>, Error> {
        special(worker.op.from.entry(node, named.number), named, node, worker.op).map(Some)
    }

    fn attributes(&self, node: &NewNode<Self>, job: &Job<Self>) -> io::Result<Option<Box<Attrs>>> {
        Ok(attrs(self.entry(node, job.number())).map(Box::new))
    }

    fn failed(_: PathBuf, dest: PathBuf, error: io::Error) -> Error {
        Error::io(Operation::Make, dest, error)
    }

    fn refused(&self, because: Because, from: &Meta) -> Because {
        // A read-only store takes no mirrors, so calve unpacks such a content into a file without a
        // name.
        match self.plan.store.is_read_only() && from.links == 0 {
            true => Because::Vanished,
            false => because,
        }
    }

    fn note(thread: &mut IntakeThread, dest: usize, number: u32, found: &Meta) {
        // A hard link changes the change time of the names that were made before it. The rounds
        // follow each other, so the last one that is written is the last that was seen.
        lock(&thread.stats[dest])[number as usize] = Stat::of(found);
    }

    fn number(&self, node: &NewNode<Self>) -> u32 {
        self.plan.manifest.number_of(node.own)
    }
}

impl<'a> Tree<'a> {
    fn directory(&self, place: u32, name: CString) -> Opened<Self> {
        let entry = self.plan.manifest.entry_of(place);
        let attrs = attrs(entry).map(Box::new);
        Opened { name, side: None, meta: wanted(entry), attrs, own: place }
    }

    fn at(&self, node: &NewNode<Self>) -> &'a manifest::Directory {
        &self.plan.manifest.directories[node.own as usize]
    }

    /// The entry of a directory with this number.
    fn entry(&self, node: &NewNode<Self>, number: u32) -> &'a Entry {
        let directory = self.at(node);
        &directory.entries[(number - directory.first) as usize]
    }

    /// The path of a directory, at the first destination.
    fn path(&self, place: u32) -> PathBuf {
        let first = self.plan.paths.first().map_or(Path::new(""), PathBuf::as_path);
        first.join(self.plan.manifest.path(place))
    }
}

/// Opens the content of a file.
fn open_content<'a>(
    worker: &mut Worker<'_, '_, Tree<'a>>,
    node: &NewNode<Tree<'a>>,
    named: NamedEntry<'_>,
    entry: &Entry,
) -> Result<Job<Tree<'a>>, Error> {
    let op = worker.op;
    let content = match entry.kind {
        Kind::File { size, blob, .. } if size > 0 => {
            let (store, stop) = (op.from.plan.store, || op.stopped());
            let found = store.contents().get(&mut worker.own.intake, blob, size, &stop);
            let path = || op.from.plan.manifest.path(node.own).join(os(&entry.name));
            Some(found.map_err(|error| error.with_other(path()))?)
        }
        _ => None,
    };
    Ok(Job::new(named, content, wanted(entry)))
}

fn special<'a>(
    entry: &Entry,
    named: NamedEntry<'_>,
    node: &NewNode<Tree<'a>>,
    op: &Op<'_, Tree<'a>>,
) -> Result<Special<Tree<'a>>, Error> {
    let target = match &entry.kind {
        Kind::Symlink { target, .. } => {
            let target = CString::new(&**target);
            Some(target.context(Operation::Make, || op.from.path(node.own).join(os(&entry.name)))?)
        }
        _ => None,
    };
    Ok(Special { meta: wanted(entry), target, number: named.number, first: None })
}

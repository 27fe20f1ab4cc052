//! Makes trees of a snapshot: one plan, N destinations.
//!
//! Every directory is a task: it is made in each destination, its files are cloned from their mirrors, its subdirectories are
//! queued. A mirror is opened, and its seal looked at, once for all destinations. Everything happens inside stages that
//! nobody else uses, relative to directory descriptors.
//!
//! A directory is finished (mode, attributes, times) when nothing more will be made below it: each counts its subdirectories and
//! itself, and whoever takes the count to zero finishes it and goes on to its parent. Further names of a file come after all that
//! ([`links`](crate::tree::links)).
//!
//! A file is made in two halves: created, with its mirror open, and then filled by another thread, in small batches. Two threads
//! that both create wait for each other inside the filesystem (docs/design/pipeline.md).
//!
//! Descriptors: as for the walk, [`Budget`] bounds the directories that are open, and the files between the halves.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::Store;
use super::blobs::{Intake, Noted};
use super::id::BlobId;
use super::index::Stat;
use super::manifest::{Manifest, os};
use super::object::{Entry, Kind};
use super::scan::stat_of;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::copy::Copier;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::{self, Attrs, Created, Meta};
use crate::reflink::sys;
use crate::report::{DestinationReport, Method, SkipReason, Skipped};
use crate::tree::budget::Budget;
use crate::tree::links::{Further, Links, Name, Seen};
use crate::tree::node::{self, Handles, OpenDirs};
use crate::tree::pool::{self, Halves, Queue, Thread, lock};
use crate::tree::running::Running;
use crate::tree::sharing::{NewFile, Sharing, Tried};
use crate::tree::special::make_fifo;
use crate::tree::tally::{self, Because};

/// What shall be made, and how.
pub(crate) struct Plan<'a> {
    pub(crate) store: &'a Store,
    pub(crate) manifest: &'a Manifest,
    /// The paths of the destinations, for messages.
    pub(crate) paths: &'a [PathBuf],
    pub(crate) operation: &'a Running,
}

/// What was made: for each destination the counts, and what stands for each entry.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) reports: Vec<DestinationReport>,
    pub(crate) stats: Vec<Vec<Stat>>,
    /// Mirrors that were made on the way and are to be sealed after a flush.
    pub(crate) unsealed: Vec<BlobId>,
}

/// A directory that is being filled, in each destination.
type Node = node::Node<Directory>;

#[derive(Debug)]
struct Directory {
    /// Its place in the manifest.
    place: u32,
}

enum Task {
    Root(Arc<Node>),
    Directory {
        parent: Arc<Node>,
        place: u32,
    },
    /// Files of a directory that were created.
    Fill {
        dir: Arc<Node>,
        files: Vec<EmptyFile>,
    },
    /// Further names of files whose first names stand.
    Link(Arc<Further<Directory>>),
    /// What waited for links, when all of them are made.
    Linked(Arc<Further<Directory>>),
}

/// A file that was created everywhere and is empty.
struct EmptyFile {
    slot: u32,
    name: CString,
    source: Option<(OwnedFd, Meta)>,
    /// One for each destination; none where cloning makes the file.
    fds: Vec<Option<OwnedFd>>,
}

struct Worker {
    intake: Intake,
    copier: Copier,
    created: Created,
    reports: Vec<DestinationReport>,
    stats: Vec<Vec<(u32, Stat)>>,
}

struct Maker<'a> {
    plan: &'a Plan<'a>,
    budget: Budget,
    dirs: OpenDirs<Directory>,
    queue: Queue<Task>,
    sharing: Vec<Sharing>,
    links: Links<Directory>,
    owners: Vec<(u32, u32)>,
    failures: Mutex<Vec<Skipped>>,
    /// Some thread could not have a umask of its own; another may fill what it made.
    clipped: AtomicBool,
}

/// Makes the plan's trees in `roots`, which are open and empty.
///
/// # Errors
/// The stages hold a part of the tree; they are the caller's to remove.
pub(crate) fn materialize(plan: &Plan<'_>, roots: Vec<OwnedFd>) -> Result<Made, Error> {
    let maker = Maker::new(plan, &roots)?;
    let noted = Noted::of(plan.operation);
    let root = Node::root(Directory { place: 0 }, roots, &maker.dirs);
    let start = |thread: Thread| {
        if !thread.private_umask {
            maker.clipped.store(true, Ordering::Relaxed);
        }
        Worker {
            intake: Intake::noting(&noted),
            copier: Copier::new(false),
            created: meta::created_by_us(thread.private_umask),
            reports: vec![DestinationReport::default(); plan.paths.len()],
            stats: vec![Vec::new(); plan.paths.len()],
        }
    };
    let run = |tasks: Vec<Task>| match tasks.is_empty() {
        true => Ok(Vec::new()),
        false => {
            let what =
                (Operation::Make, plan.paths.first().map_or(Path::new(""), PathBuf::as_path));
            maker.queue.run(what, tasks, start, |worker, task| maker.work(worker, task))
        }
    };
    let rounds = || {
        let mut workers = run(vec![Task::Root(root)])?;
        let waiting: Vec<_> = maker.links.take().into_iter().map(Arc::new).collect();
        let linking = waiting.iter().filter(|further| !further.names.is_empty());
        workers.extend(run(linking.map(|further| Task::Link(Arc::clone(further))).collect())?);
        workers.extend(run(waiting.into_iter().map(Task::Linked).collect())?);
        Ok(workers)
    };
    let workers = rounds().inspect_err(|error| plan.store.drop_unpacked(error, &noted))?;
    let mut made = Made {
        reports: vec![DestinationReport::default(); plan.paths.len()],
        stats: vec![vec![Stat::default(); plan.manifest.count as usize]; plan.paths.len()],
        unsealed: Vec::new(),
    };
    for worker in workers {
        made.unsealed.extend(worker.intake.unsealed);
        for (sum, own) in made.reports.iter_mut().zip(&worker.reports) {
            crate::tree::tally::add(sum, own);
        }
        for (all, own) in made.stats.iter_mut().zip(worker.stats) {
            for (number, stat) in own {
                all[number as usize] = stat;
            }
        }
    }
    let skipped = maker.failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (dest, report) in made.reports.iter_mut().enumerate() {
        report.path.clone_from(&plan.paths[dest]);
        report.method = method(report);
        report.skipped.extend(skipped.iter().cloned());
        report.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    }
    Ok(made)
}

fn method(report: &DestinationReport) -> Method {
    match (report.reflinked_files, report.copied_files) {
        (0, 0) => Method::None,
        (_, 0) => Method::Reflink,
        (0, _) => Method::Copy,
        _ => Method::Mixed,
    }
}

/// What an entry's metadata shall be.
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

impl<'a> Maker<'a> {
    fn new(plan: &'a Plan<'a>, roots: &[OwnedFd]) -> Result<Self, Error> {
        let mut owners = Vec::with_capacity(roots.len());
        for (root, path) in roots.iter().zip(plan.paths) {
            let stat = fs::fstat(root).context(Operation::Read, || path)?;
            owners.push((stat.st_uid, stat.st_gid));
        }
        let budget = Budget::new(roots.len(), 1 + roots.len(), plan.operation.jobs())
            .context(Operation::Make, || plan.paths.first().cloned().unwrap_or_default())?;
        let halves = Halves { first_most: budget.jobs.div_ceil(2), held_most: budget.files };
        Ok(Self {
            budget,
            dirs: OpenDirs::new(budget.dirs),
            queue: Queue::new(halves, &plan.operation.with_jobs(budget.jobs)),
            sharing: roots.iter().map(|_| Sharing::default()).collect(),
            links: Links::new(),
            owners,
            failures: Mutex::default(),
            clipped: AtomicBool::new(false),
            plan,
        })
    }

    fn path(&self, dest: usize, place: u32) -> PathBuf {
        self.plan.paths[dest].join(self.plan.manifest.path(place))
    }

    fn work(&self, worker: &mut Worker, task: Task) -> Result<(), Error> {
        match task {
            Task::Root(dir) => self.directory(worker, &dir),
            Task::Directory { parent, place } => {
                let dir = self.make_directory(worker, &parent, place)?;
                self.directory(worker, &dir)
            }
            Task::Fill { dir, files } => self.fill(worker, &dir, files),
            Task::Link(further) => self.link(worker, &further),
            Task::Linked(further) => self.linked(worker, &further),
        }
    }

    fn handles(&self, dir: &Arc<Node>) -> Result<Arc<Handles>, Error> {
        dir.handles(&self.dirs).context(Operation::OpenDirectory, || self.path(0, dir.place))
    }

    fn make_directory(
        &self,
        worker: &Worker,
        parent: &Arc<Node>,
        place: u32,
    ) -> Result<Arc<Node>, Error> {
        let own = self.plan.manifest.entry_of(place);
        let above = self.handles(parent)?;
        let context = |dest| move || self.path(dest, place);
        let name = CString::new(&*own.name).context(Operation::MakeDirectory, context(0))?;
        let mut sides = Vec::with_capacity(above.sides.len());
        for (dest, above) in above.sides.iter().enumerate() {
            let made = make_directory(above, &name, own, worker.created);
            sides.push(made.context(Operation::MakeDirectory, context(dest))?);
        }
        let dir = Node::below(parent, name, Directory { place }, sides, &self.dirs);
        self.links.hold_if_shut(&dir, own.mode);
        Ok(dir)
    }

    /// Makes what is in a directory.
    fn directory(&self, worker: &mut Worker, dir: &Arc<Node>) -> Result<(), Error> {
        let place = dir.place;
        for report in &mut worker.reports {
            report.directories += 1;
        }
        let directory = &self.plan.manifest.directories[place as usize];
        let handles = self.handles(dir)?;
        dir.add_pending(directory.children.len());
        // Last in, first out: in reverse, so that they are made in their order.
        self.queue.extend(
            directory
                .children
                .iter()
                .rev()
                .map(|(_, child)| Task::Directory { parent: Arc::clone(dir), place: *child }),
        );
        let (mut batch, mut further) = (Vec::new(), Vec::new());
        for (slot, entry) in (0..).zip(&directory.entries) {
            self.check()?;
            if entry.link() != 0
                && let Some(name) =
                    self.further_name(dir, &handles, entry, directory.first + slot)?
            {
                further.push(name);
                continue;
            }
            match &entry.kind {
                Kind::Directory(_) => {}
                Kind::File { size, blob, .. } => {
                    batch.push(self.create(worker, place, &handles, entry, slot, *size, *blob)?);
                    if batch.len() == self.budget.batch {
                        self.hand_over(worker, dir, std::mem::take(&mut batch))?;
                    }
                }
                Kind::Symlink { .. } | Kind::Fifo { .. } => {
                    self.special(worker, place, &handles, entry, directory.first + slot)?;
                }
            }
        }
        self.hand_over(worker, dir, batch)?;
        self.links.link_later(dir, further);
        drop(handles);
        self.one_done(worker, dir)
    }

    /// A name that is linked later; `None` where it is the first of its file.
    fn further_name(
        &self,
        dir: &Arc<Node>,
        handles: &Handles,
        entry: &Entry,
        number: u32,
    ) -> Result<Option<Name<Directory>>, Error> {
        let path = || self.path(0, dir.place).join(os(&entry.name));
        dir.remember(handles).context(Operation::Make, path)?;
        let name = CString::new(&*entry.name).context(Operation::Make, path)?;
        // How many names there are, it does not say.
        Ok(match self.links.see((0, entry.link()), u64::MAX, dir, &name, number) {
            Seen::First(_) => None,
            Seen::Before(first) => {
                let kind = wanted(entry).file_type();
                Some(Name { name, kind, number, first, unlinked: None })
            }
        })
    }

    /// Links further names of files whose first names stand.
    fn link(&self, worker: &mut Worker, further: &Further<Directory>) -> Result<(), Error> {
        let handles = self.handles(&further.dir)?;
        for name in &further.names {
            self.check()?;
            let from = self.handles(&name.first.dir)?;
            let sides = from.sides.iter().zip(&handles.sides);
            for (dest, ((from, to), report)) in sides.zip(&mut worker.reports).enumerate() {
                fs::linkat(from, &name.first.name, to, &name.name, AtFlags::empty())
                    .context(Operation::Link, || self.name_path(dest, further, name))?;
                match name.kind {
                    FileType::Symlink => report.symlinks += 1,
                    FileType::Fifo => report.fifos += 1,
                    _ => {
                        report.files += 1;
                        report.linked_files += 1;
                    }
                }
                self.plan.operation.files_done(1);
            }
        }
        Ok(())
    }

    /// All links are made: each of them changed its inode, which stands for the first name, too.
    fn linked(&self, worker: &mut Worker, further: &Further<Directory>) -> Result<(), Error> {
        let handles = self.handles(&further.dir)?;
        for name in &further.names {
            for (dest, dir) in handles.sides.iter().enumerate() {
                let stat = fs::statat(dir, &name.name, AtFlags::SYMLINK_NOFOLLOW)
                    .context(Operation::Read, || self.name_path(dest, further, name))?;
                let stat = stat_of(&Meta::of(&stat));
                worker.stats[dest].extend([(name.number, stat), (name.first.number, stat)]);
            }
        }
        drop(handles);
        self.one_done(worker, &further.dir)
    }

    fn name_path(
        &self,
        dest: usize,
        further: &Further<Directory>,
        name: &Name<Directory>,
    ) -> PathBuf {
        self.path(dest, further.dir.place).join(os(name.name.to_bytes()))
    }

    fn check(&self) -> Result<(), Error> {
        match self.queue.stopped() {
            true => Err(pool::cancelled(Operation::Make, &self.plan.paths[0])),
            false => Ok(()),
        }
    }

    /// Gives files that were created to whoever fills them, or fills them here where nobody keeps up.
    fn hand_over(
        &self,
        worker: &mut Worker,
        dir: &Arc<Node>,
        files: Vec<EmptyFile>,
    ) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let descriptors = files.len() * (1 + self.plan.paths.len());
        dir.add_pending(1);
        match self.queue.hand_over(Task::Fill { dir: Arc::clone(dir), files }, descriptors) {
            Some(task) => self.work(worker, task),
            None => Ok(()),
        }
    }

    fn fill(
        &self,
        worker: &mut Worker,
        dir: &Arc<Node>,
        files: Vec<EmptyFile>,
    ) -> Result<(), Error> {
        let directory = &self.plan.manifest.directories[dir.place as usize];
        let handles = self.handles(dir)?;
        for mut file in files {
            self.check()?;
            let entry = &directory.entries[file.slot as usize];
            for (dest, side) in handles.sides.iter().enumerate() {
                let new = file.fds[dest].take();
                self.fill_at(worker, dir.place, side, entry, &file, new, dest)
                    .context(Operation::Make, || {
                        self.path(dest, dir.place).join(os(&entry.name))
                    })?;
            }
        }
        drop(handles);
        self.one_done(worker, dir)
    }

    /// One thing less to do below `dir`.
    fn one_done(&self, worker: &mut Worker, dir: &Arc<Node>) -> Result<(), Error> {
        dir.one_done(&self.dirs, |dir| {
            let handles = self.handles(dir)?;
            for (dest, fd) in handles.sides.iter().enumerate() {
                let (number, stat) = self
                    .finish(fd, dir.place, dest, worker.created)
                    .context(Operation::SetMetadata, || self.path(dest, dir.place))?;
                worker.stats[dest].push((number, stat));
            }
            Ok(())
        })
    }

    /// Gives a directory its metadata.
    fn finish(
        &self,
        fd: &OwnedFd,
        place: u32,
        dest: usize,
        created: Created,
    ) -> io::Result<(u32, Stat)> {
        let entry = self.plan.manifest.entry_of(place);
        let created = Created { owner: self.owners[dest], ..created };
        let refused = meta::apply(fd, &wanted(entry), attrs(entry).as_ref(), created, None)?;
        self.note(refused, || self.plan.manifest.path(place));
        Ok((self.plan.manifest.number_of(place), stat_of(&Meta::of(&fs::fstat(fd)?))))
    }

    fn note(&self, refused: Vec<String>, path: impl FnOnce() -> PathBuf) {
        if !refused.is_empty() {
            let skipped = Skipped { path: path(), reason: SkipReason::Xattrs(refused.join(", ")) };
            let mut failures = lock(&self.failures);
            // Once for all destinations.
            if !failures.contains(&skipped) {
                failures.push(skipped);
            }
        }
    }

    /// Creates a file in each destination, and opens what it is to hold.
    #[expect(clippy::too_many_arguments, reason = "what an entry is made of")]
    fn create(
        &self,
        worker: &mut Worker,
        place: u32,
        handles: &Handles,
        entry: &Entry,
        slot: u32,
        size: u64,
        blob: BlobId,
    ) -> Result<EmptyFile, Error> {
        let stop = || self.queue.stopped();
        let source = if size == 0 {
            None
        } else {
            let found = self.plan.store.contents().get(&mut worker.intake, blob, size, &stop);
            Some(found.map_err(|error| {
                error.with_other(self.plan.manifest.path(place).join(os(&entry.name)))
            })?)
        };
        let mode = meta::create_mode(&wanted(entry));
        let path = |dest| self.path(dest, place).join(os(&entry.name));
        let name = CString::new(&*entry.name).context(Operation::Make, || path(0))?;
        let mut fds = Vec::with_capacity(handles.sides.len());
        for (dest, dir) in handles.sides.iter().enumerate() {
            fds.push(match sys::CLONE_MAKES_THE_FILE && source.is_some() {
                true => None,
                false => {
                    let made = fs::openat(dir, &name, NEW_FILE_FLAGS, mode);
                    Some(made.context(Operation::Make, || path(dest))?)
                }
            });
        }
        Ok(EmptyFile { slot, name, source, fds })
    }

    #[expect(clippy::too_many_arguments, reason = "what an entry is made of")]
    fn fill_at(
        &self,
        worker: &mut Worker,
        place: u32,
        dir: &OwnedFd,
        entry: &Entry,
        file: &EmptyFile,
        open: Option<OwnedFd>,
        dest: usize,
    ) -> io::Result<()> {
        let wanted = wanted(entry);
        let mode = meta::create_mode(&wanted);
        let size = match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        };
        let new = NewFile { dir: dir.as_fd(), name: &file.name, open: open.as_ref() };
        let tried = match &file.source {
            Some((source, from)) => self.try_clone(source, from, new, dest)?,
            None => Tried::Cloned,
        };
        let mut mode_is_exact =
            worker.created.mode_is_exact && !self.clipped.load(Ordering::Relaxed);
        let mut owner = self.owners[dest];
        let copied = match tried {
            Tried::Cloned => None,
            Tried::No(because, _) => Some(because),
        };
        let fd = match open {
            Some(open) => open,
            None if copied.is_some() => fs::openat(dir, &file.name, NEW_FILE_FLAGS, mode)?,
            None => {
                // It has the mode of its mirror, and its owner.
                let made = new.reopen()?;
                let stat = fs::fstat(&made)?;
                owner = (stat.st_uid, stat.st_gid);
                fs::fchmod(&made, mode)?;
                mode_is_exact = true;
                made
            }
        };
        if copied.is_some()
            && let Some((source, from)) = &file.source
        {
            worker.copier.copy(source, &fd, size, from.blocks, || self.queue.stopped())?;
        }
        tally::count(&mut worker.reports[dest], copied, size);
        let created = Created { owner, mode_is_exact, ..worker.created };
        let refused = meta::apply(&fd, &wanted, attrs(entry).as_ref(), created, Some(mode))?;
        self.note(refused, || self.plan.manifest.path(place).join(os(&entry.name)));
        let number = self.plan.manifest.directories[place as usize].first + file.slot;
        worker.stats[dest].push((number, stat_of(&Meta::of(&fs::fstat(&fd)?))));
        self.plan.operation.file_done(size);
        if copied.is_none() { Ok(()) } else { sys::close_written(fd) }
    }

    fn try_clone(
        &self,
        source: &OwnedFd,
        from: &Meta,
        new: NewFile<'_>,
        dest: usize,
    ) -> io::Result<Tried> {
        let sharing = &self.sharing[dest];
        let tried = match sharing.known(from.dev).refused {
            true => Tried::No(Because::Filesystem, None),
            false => {
                let stopped = || self.queue.stopped();
                sharing.try_clone(source, from, new, self.plan.operation.patience(), stopped)?
            }
        };
        Ok(match tried {
            // What has no name is unpacked for the moment: a store that cannot be written to takes no mirror.
            Tried::No(_, error) if self.plan.store.is_read_only() && from.links == 0 => {
                Tried::No(Because::Vanished, error)
            }
            tried => tried,
        })
    }

    fn special(
        &self,
        worker: &mut Worker,
        place: u32,
        handles: &Handles,
        entry: &Entry,
        number: u32,
    ) -> Result<(), Error> {
        for (dest, fd) in handles.sides.iter().enumerate() {
            let make = || -> io::Result<Stat> {
                let name = CString::new(&*entry.name)?;
                let wanted = wanted(entry);
                let made_with = match &entry.kind {
                    Kind::Symlink { target, .. } => {
                        fs::symlinkat(CString::new(&**target)?, fd, &name)?;
                        None
                    }
                    _ => {
                        let mode = meta::mode(entry.mode & 0o777);
                        make_fifo(fd.as_fd(), &name, mode)?;
                        Some(mode)
                    }
                };
                let created = Created { owner: self.owners[dest], ..worker.created };
                meta::apply_at(fd, &name, &wanted, created, made_with)?;
                Ok(stat_of(&Meta::of(&fs::statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW)?)))
            };
            let stat =
                make().context(Operation::Make, || self.path(dest, place).join(os(&entry.name)))?;
            worker.stats[dest].push((number, stat));
            let report = &mut worker.reports[dest];
            match entry.kind {
                Kind::Symlink { .. } => report.symlinks += 1,
                _ => report.fifos += 1,
            }
            self.plan.operation.files_done(1);
        }
        Ok(())
    }
}

fn make_directory(
    parent: &OwnedFd,
    name: &CStr,
    entry: &Entry,
    created: Created,
) -> io::Result<OwnedFd> {
    // Ours to fill, whatever it will be.
    let mode = meta::mode((entry.mode & 0o777) | 0o700);
    fs::mkdirat(parent, name, mode)?;
    let fd = fs::openat(parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    if !created.mode_is_exact {
        fs::fchmod(&fd, mode)?;
    }
    Ok(fd)
}

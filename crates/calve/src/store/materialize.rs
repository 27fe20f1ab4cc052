//! Makes trees of a snapshot: one plan, N destinations.
//!
//! Every directory is a task: it is made in each destination, its files are cloned from their mirrors, its subdirectories are
//! queued. A mirror is opened, and its seal looked at, once for all destinations. Everything happens inside stages that
//! nobody else uses, relative to directory descriptors.
//!
//! A directory is finished (mode, attributes, times) when nothing more will be made below it: each counts its subdirectories and
//! itself, and whoever takes the count to zero finishes it and goes on to its parent. Further names of a file (hard links)
//! come after all that, when the first name stands; the directories they are in, and, since a link must be able to get there, those
//! whose mode locks out even their owner, are finished last.
//!
//! A file is made in two halves: created, with its mirror open, and then filled by another thread, in small batches. Two threads
//! that both create wait for each other inside the filesystem (docs/design/pipeline.md).
//!
//! Descriptors: a directory is open while anything below it is to be done, so the directories of one path for each thread, in
//! each destination.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::Store;
use super::blobs::{Intake, Noted};
use super::id::BlobId;
use super::index::Stat;
use super::manifest::{Manifest, os};
use super::object::{Entry, Kind};
use super::pool::{self, Halves, Queue, lock};
use super::scan::stat_of;
use crate::error::{Context as _, Error, ErrorKind};
use crate::reflink::copy::Copier;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::{self, Attrs, Created, Meta};
use crate::reflink::sys;
use crate::report::{Cancel, DestinationReport, Method, Progress, SkipReason, Skipped};
use crate::tree::op::descriptor_budget;
use crate::tree::special::make_fifo;
use crate::tree::verdicts::Verdicts;

mod late;

/// What shall be made, and how.
pub(crate) struct Plan<'a> {
    pub(crate) store: &'a Store,
    pub(crate) manifest: &'a Manifest,
    /// The destinations' roots, open and empty; their paths for messages.
    pub(crate) roots: &'a [OwnedFd],
    pub(crate) paths: &'a [PathBuf],
    pub(crate) jobs: usize,
    pub(crate) cancel: &'a Cancel,
    pub(crate) progress: &'a Progress,
}

/// What was made: for each destination the counts, and what stands for each entry.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) reports: Vec<DestinationReport>,
    pub(crate) stats: Vec<Vec<Stat>>,
    /// Mirrors that were made on the way and are to be sealed after a flush.
    pub(crate) unsealed: Vec<BlobId>,
}

/// A directory that is being filled.
struct OpenDir {
    place: u32,
    parent: Option<Arc<OpenDir>>,
    /// One for each destination.
    fds: Vec<OwnedFd>,
    /// Subdirectories that are not finished, and itself.
    pending: AtomicUsize,
}

enum Task {
    Directory {
        parent: Option<Arc<OpenDir>>,
        place: u32,
    },
    /// Files of a directory that were created.
    Fill {
        dir: Arc<OpenDir>,
        files: Vec<NewFile>,
    },
}

/// A file that was created everywhere and is empty.
struct NewFile {
    slot: u32,
    source: Option<(OwnedFd, Meta)>,
    /// One for each destination.
    fds: Vec<OwnedFd>,
}

/// Enough that taking the lock is nothing, few enough that both halves have work.
const BATCH_FILES: usize = 8;

struct Worker {
    intake: Intake,
    copier: Copier,
    created: Created,
    reports: Vec<DestinationReport>,
    stats: Vec<Vec<(u32, Stat)>>,
}

struct Maker<'a> {
    plan: &'a Plan<'a>,
    verdicts: Vec<Verdicts>,
    /// The first name of each file that has several: its directory and slot.
    firsts: HashMap<u64, (u32, u32)>,
    /// Directories that are finished last.
    late: Vec<bool>,
    short_clones: Vec<bool>,
    owners: Vec<(u32, u32)>,
    failures: Mutex<Vec<Skipped>>,
    /// Some thread could not have a umask of its own; another may fill what it made.
    clipped: AtomicBool,
}

/// Makes the plan's trees.
///
/// # Errors
/// The stages hold a part of the tree; they are the caller's to remove.
pub(crate) fn materialize(plan: &Plan<'_>) -> Result<Made, Error> {
    let maker = Maker::new(plan)?;
    let halves = Halves {
        first_most: plan.jobs.div_ceil(2),
        held_most: descriptor_budget(plan.roots.len()) / 2,
    };
    let noted = Noted::default();
    let workers = pool::run_in_halves(
        plan.jobs,
        halves,
        plan.cancel,
        ("make", plan.paths.first().map_or(Path::new(""), PathBuf::as_path)),
        vec![Task::Directory { parent: None, place: 0 }],
        |mode_is_exact| {
            if !mode_is_exact {
                maker.clipped.store(true, Ordering::Relaxed);
            }
            Worker {
                intake: Intake::noting(&noted),
                copier: Copier::new(false),
                created: meta::created_by_us(mode_is_exact),
                reports: vec![DestinationReport::default(); plan.roots.len()],
                stats: vec![Vec::new(); plan.roots.len()],
            }
        },
        |worker, task, queue| match task {
            Task::Directory { parent, place } => maker.directory(worker, parent, place, queue),
            Task::Fill { dir, files } => maker.fill(worker, &dir, files, queue),
        },
    )
    .inspect_err(|error| plan.store.drop_unpacked(error, &noted))?;
    let mut made = Made {
        reports: vec![DestinationReport::default(); plan.roots.len()],
        stats: vec![vec![Stat::default(); plan.manifest.count as usize]; plan.roots.len()],
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
    maker.finish_late(&mut made)?;
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
        Kind::Symlink(_) => fs::FileType::Symlink,
        Kind::Fifo => fs::FileType::Fifo,
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
    fn new(plan: &'a Plan<'a>) -> Result<Self, Error> {
        let mut firsts: HashMap<u64, (u32, u32)> = HashMap::new();
        let mut late = vec![false; plan.manifest.directories.len()];
        let mut linked = false;
        for (place, slot, entry) in plan.manifest.entries() {
            if let Kind::File { link, .. } = entry.kind
                && link != 0
            {
                let first = *firsts.entry(link).or_insert((place, slot));
                if first != (place, slot) {
                    linked = true;
                    late[place as usize] = true;
                }
            }
        }
        if linked {
            for (place, late) in (0..).zip(&mut late) {
                *late |= plan.manifest.entry_of(place).mode & 0o700 != 0o700;
            }
        }
        let mut owners = Vec::with_capacity(plan.roots.len());
        for (root, path) in plan.roots.iter().zip(plan.paths) {
            let stat = fs::fstat(root).context("read", || path)?;
            owners.push((stat.st_uid, stat.st_gid));
        }
        Ok(Self {
            verdicts: plan.roots.iter().map(|_| Verdicts::default()).collect(),
            short_clones: plan.roots.iter().map(sys::clones_may_be_short).collect(),
            firsts,
            late,
            owners,
            failures: Mutex::default(),
            clipped: AtomicBool::new(false),
            plan,
        })
    }

    fn path(&self, dest: usize, place: u32) -> PathBuf {
        self.plan.paths[dest].join(self.plan.manifest.path(place))
    }

    fn directory(
        &self,
        worker: &mut Worker,
        parent: Option<Arc<OpenDir>>,
        place: u32,
        queue: &Queue<'_, Task>,
    ) -> Result<(), Error> {
        let manifest = self.plan.manifest;
        let own = manifest.entry_of(place);
        let mut fds = Vec::with_capacity(self.plan.roots.len());
        for dest in 0..self.plan.roots.len() {
            let fd = match &parent {
                None => self.plan.roots[dest].try_clone(),
                Some(parent) => make_directory(&parent.fds[dest], own, worker.created),
            };
            fds.push(fd.context("make directory", || self.path(dest, place))?);
            worker.reports[dest].directories += 1;
        }
        let directory = &manifest.directories[place as usize];
        let dir = Arc::new(OpenDir {
            place,
            parent,
            fds,
            pending: AtomicUsize::new(1 + directory.children.len()),
        });
        // Last in, first out: in reverse, so that they are made in their order.
        queue.extend(
            directory.children.iter().rev().map(|(_, child)| Task::Directory {
                parent: Some(Arc::clone(&dir)),
                place: *child,
            }),
        );
        let mut batch = Vec::new();
        for (slot, entry) in (0..).zip(&directory.entries) {
            if queue.stopped() {
                return Err(pool::cancelled("make", &self.plan.paths[0]));
            }
            match &entry.kind {
                Kind::Directory(_) => {}
                Kind::File { link, .. }
                    if *link != 0 && self.firsts.get(link) != Some(&(place, slot)) => {}
                Kind::File { size, blob, .. } => {
                    batch.push(self.create(worker, &dir, entry, slot, *size, *blob, queue)?);
                    if batch.len() == BATCH_FILES {
                        self.hand_over(worker, &dir, std::mem::take(&mut batch), queue)?;
                    }
                }
                Kind::Symlink(_) | Kind::Fifo => {
                    self.special(worker, &dir, entry, directory.first + slot)?;
                }
            }
        }
        self.hand_over(worker, &dir, batch, queue)?;
        self.one_done(worker, &dir)
    }

    /// Gives files that were created to whoever fills them, or fills them here where nobody keeps up.
    fn hand_over(
        &self,
        worker: &mut Worker,
        dir: &Arc<OpenDir>,
        files: Vec<NewFile>,
        queue: &Queue<'_, Task>,
    ) -> Result<(), Error> {
        if files.is_empty() {
            return Ok(());
        }
        let descriptors = files.len() * (1 + self.plan.roots.len());
        dir.pending.fetch_add(1, Ordering::Relaxed);
        match queue.hand_over(Task::Fill { dir: Arc::clone(dir), files }, descriptors) {
            Some(Task::Fill { files, .. }) => self.fill(worker, dir, files, queue),
            _ => Ok(()),
        }
    }

    fn fill(
        &self,
        worker: &mut Worker,
        dir: &Arc<OpenDir>,
        files: Vec<NewFile>,
        queue: &Queue<'_, Task>,
    ) -> Result<(), Error> {
        let directory = &self.plan.manifest.directories[dir.place as usize];
        for file in files {
            if queue.stopped() {
                return Err(pool::cancelled("make", &self.plan.paths[0]));
            }
            let entry = &directory.entries[file.slot as usize];
            let number = directory.first + file.slot;
            for (dest, new) in file.fds.into_iter().enumerate() {
                self.fill_at(worker, dir, entry, number, file.source.as_ref(), new, dest, queue)
                    .context("make", || self.path(dest, dir.place).join(os(&entry.name)))?;
            }
        }
        self.one_done(worker, dir)
    }

    /// One thing less to do below `dir`; finishes it, and those above it, where that was the last.
    fn one_done(&self, worker: &mut Worker, dir: &Arc<OpenDir>) -> Result<(), Error> {
        let mut dir = Some(dir);
        while let Some(this) = dir {
            if this.pending.fetch_sub(1, Ordering::AcqRel) > 1 {
                return Ok(());
            }
            if !self.late[this.place as usize] {
                for dest in 0..self.plan.roots.len() {
                    let (number, stat) = self
                        .finish(&this.fds[dest], this.place, dest, worker.created)
                        .context("set metadata of", || self.path(dest, this.place))?;
                    worker.stats[dest].push((number, stat));
                }
            }
            dir = this.parent.as_ref();
        }
        Ok(())
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
        dir: &OpenDir,
        entry: &Entry,
        slot: u32,
        size: u64,
        blob: BlobId,
        queue: &Queue<'_, Task>,
    ) -> Result<NewFile, Error> {
        let stop = || queue.stopped();
        let source = if size == 0 {
            None
        } else {
            let found = self.plan.store.content(&mut worker.intake, blob, size, &stop);
            Some(found.map_err(|error| {
                error.with_other(self.plan.manifest.path(dir.place).join(os(&entry.name)))
            })?)
        };
        let mode = meta::create_mode(&wanted(entry));
        let mut fds = Vec::with_capacity(self.plan.roots.len());
        for dest in 0..self.plan.roots.len() {
            let made = CString::new(&*entry.name)
                .map_err(io::Error::from)
                .and_then(|name| Ok(fs::openat(&dir.fds[dest], &name, NEW_FILE_FLAGS, mode)?));
            fds.push(made.context("make", || self.path(dest, dir.place).join(os(&entry.name)))?);
        }
        Ok(NewFile { slot, source, fds })
    }

    #[expect(clippy::too_many_arguments, reason = "what an entry is made of")]
    fn fill_at(
        &self,
        worker: &mut Worker,
        dir: &OpenDir,
        entry: &Entry,
        number: u32,
        source: Option<&(OwnedFd, Meta)>,
        new: OwnedFd,
        dest: usize,
        queue: &Queue<'_, Task>,
    ) -> io::Result<()> {
        let wanted = wanted(entry);
        let mode = meta::create_mode(&wanted);
        let size = match entry.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        };
        let report = &mut worker.reports[dest];
        report.files += 1;
        let mut cloned = true;
        if let Some((source, from)) = source {
            cloned = self.clone_into(source, from, &new, size, dest)?;
            if !cloned {
                worker.copier.copy(source, &new, size, from.blocks, || queue.stopped())?;
            }
        }
        if cloned {
            report.reflinked_files += 1;
            report.reflinked_bytes += size;
        } else {
            report.copied_files += 1;
            report.copied_bytes += size;
            let (dev, links) = source.map_or((0, 1), |(_, meta)| (meta.dev, meta.links));
            let because = &mut report.copied_because;
            // What has no name is unpacked for the moment: a store that cannot be written to takes no mirror.
            *if self.plan.store.is_read_only() && links == 0 {
                &mut because.vanished
            } else if self.verdicts[dest].known(dev).refused {
                &mut because.filesystem
            } else {
                &mut because.file
            } += 1;
        }
        let mode_is_exact = worker.created.mode_is_exact && !self.clipped.load(Ordering::Relaxed);
        let created = Created { owner: self.owners[dest], mode_is_exact, ..worker.created };
        let refused = meta::apply(&new, &wanted, attrs(entry).as_ref(), created, Some(mode))?;
        self.note(refused, || self.plan.manifest.path(dir.place).join(os(&entry.name)));
        worker.stats[dest].push((number, stat_of(&Meta::of(&fs::fstat(&new)?))));
        self.plan.progress.files.fetch_add(1, Ordering::Relaxed);
        self.plan.progress.bytes.fetch_add(size, Ordering::Relaxed);
        if cloned { Ok(()) } else { sys::close_written(new) }
    }

    /// Whether the content was cloned; if not, `new` is empty.
    fn clone_into(
        &self,
        source: &OwnedFd,
        from: &Meta,
        new: &OwnedFd,
        size: u64,
        dest: usize,
    ) -> io::Result<bool> {
        let verdicts = &self.verdicts[dest];
        if verdicts.known(from.dev).refused {
            return Ok(false);
        }
        let cloned = self.plan.store.patience().retry(|| {
            sys::clone_file(source, new)?;
            meta::check_length(new, size, self.short_clones[dest])
        });
        Ok(verdicts.judge(from.dev, cloned)?.is_none())
    }

    fn special(
        &self,
        worker: &mut Worker,
        dir: &OpenDir,
        entry: &Entry,
        number: u32,
    ) -> Result<(), Error> {
        for dest in 0..self.plan.roots.len() {
            let fd = &dir.fds[dest];
            let make = || -> io::Result<Stat> {
                let name = CString::new(&*entry.name)?;
                let wanted = wanted(entry);
                let made_with = match &entry.kind {
                    Kind::Symlink(target) => {
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
                make().context("make", || self.path(dest, dir.place).join(os(&entry.name)))?;
            worker.stats[dest].push((number, stat));
            let report = &mut worker.reports[dest];
            match entry.kind {
                Kind::Symlink(_) => report.symlinks += 1,
                _ => report.fifos += 1,
            }
            self.plan.progress.files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn make_directory(parent: &OwnedFd, entry: &Entry, created: Created) -> io::Result<OwnedFd> {
    let name = CString::new(&*entry.name)?;
    // Ours to fill, whatever it will be.
    let mode = meta::mode((entry.mode & 0o777) | 0o700);
    fs::mkdirat(parent, &name, mode)?;
    let fd = fs::openat(parent, &name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
    if !created.mode_is_exact {
        fs::fchmod(&fd, mode)?;
    }
    Ok(fd)
}

/// Content that no mirror and no pack has.
pub(crate) fn lost(path: PathBuf, why: &str) -> Error {
    Error::new(
        ErrorKind::Damaged,
        "read blob",
        path,
        io::Error::new(io::ErrorKind::InvalidData, why.to_owned()),
    )
}

//! The walk: one queue, a few threads, every entry opened once for all destinations.
//!
//! A task is a directory: its entries are read, its files are created everywhere, and go in small batches to be filled
//! ([`pool`](super::pool) argues why). A directory gets its mode and times when everything below it is done ([`node`](super::node)).
//!
//! # Bounds
//! Descriptors: [`Budget`](super::budget::Budget) says how many, for directories and for files between creating and filling. Directories
//! are taken last in, first out, so the queue holds the siblings along one path for each thread, not a level of the tree.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::filter::{Decision, IgnoreChain};
use super::links::Name;
use super::listing::{self, Before, Names, Rest};
use super::names::Placed;
use super::node::Handles;
use super::op::{Batch, DestState, Directory, Node, Op, Task};
use super::pool::{Thread, lock};
use super::read::read_rules;
use super::staging::{self, PREFIX, Stage};
use super::{CloneMode, OWN};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::copy::Copier;
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Attrs, Created, Meta};
use crate::reflink::sys;
use crate::report::{DestinationReport, SkipReason};

impl Op<'_> {
    /// Walks from the root, which is given open on both sides, and is handed back so.
    pub(super) fn run(
        &self,
        meta: Meta,
        source: OwnedFd,
        roots: Vec<OwnedFd>,
        states: Vec<DestState>,
    ) -> Result<Arc<Handles>, Error> {
        let (meta, attrs) =
            self.attributes(&source, meta).context(Operation::ReadAttributes, || self.source)?;
        if states.iter().any(|state| state.made) {
            for (tally, state) in lock(&self.tallies).iter_mut().zip(&states) {
                tally.directories += u64::from(state.made);
            }
        }
        let data = directory(meta, attrs, false, states);
        let sides = std::iter::once(source).chain(roots).collect();
        let root = Node::root(data, sides, &self.dirs);
        let roots = root.handles(&self.dirs).context(Operation::Open, || self.source)?;
        self.run_tasks(0, vec![Task::Root(root)])?;
        let waiting: Vec<_> = self.links.take().into_iter().map(Arc::new).collect();
        let linking = waiting.iter().filter(|further| !further.names.is_empty());
        self.run_tasks(1, linking.map(|further| Task::Link(Arc::clone(further))).collect())?;
        self.run_tasks(2, waiting.into_iter().map(Task::Linked).collect())?;
        Ok(roots)
    }

    /// Does tasks, and what comes up meanwhile, as one of several rounds.
    fn run_tasks(&self, round: usize, tasks: Vec<Task>) -> Result<(), Error> {
        if tasks.is_empty() {
            return Ok(());
        }
        let start = |thread: Thread| {
            let index = round * self.budget.jobs + thread.index;
            Worker::new(self, Thread { index, ..thread })
        };
        let workers =
            self.queue.run((Operation::Clone, self.source), tasks, start, Worker::work)?;
        let mut tallies = lock(&self.tallies);
        for worker in workers {
            for (sum, own) in tallies.iter_mut().zip(&worker.tallies) {
                super::tally::add(sum, own);
            }
        }
        Ok(())
    }

    /// The attributes of a directory, and its metadata if they stay behind.
    fn attributes(&self, dir: &OwnedFd, meta: Meta) -> io::Result<(Meta, Option<Box<Attrs>>)> {
        if self.options.xattrs {
            Ok((meta, Attrs::read(dir)?))
        } else {
            Ok((meta.leaving_acl(dir)?, None))
        }
    }
}

/// One thread.
pub(super) struct Worker<'a, 'b> {
    pub(super) op: &'a Op<'b>,
    pub(super) index: usize,
    pub(super) mode_is_exact: bool,
    pub(super) privileged: bool,
    pub(super) copier: Copier,
    /// What the kernel lists a directory into, and what was listed.
    entries: Vec<MaybeUninit<u8>>,
    names: Names,
    /// One for each destination; in a dry run, one.
    pub(super) tallies: Vec<DestinationReport>,
    /// Whether this thread has its directory in the destination's stage.
    pub(super) stage_dirs: Vec<bool>,
    pub(super) staged: u64,
    /// Names in the directory that is being read which are linked later.
    pub(super) further: Vec<Name<Directory>>,
    /// How often this thread waited for a lease.
    pub(super) lease_pauses: u32,
}

impl<'a, 'b> Worker<'a, 'b> {
    fn new(op: &'a Op<'b>, thread: Thread) -> Self {
        let created = meta::created_by_us(thread.private_umask);
        if !created.mode_is_exact {
            op.clipped.store(true, Ordering::Relaxed);
        }
        Self {
            op,
            index: thread.index,
            mode_is_exact: created.mode_is_exact,
            privileged: created.privileged,
            copier: Copier::new(
                op.options.mode == CloneMode::Copy || op.options.reflink == super::Reflink::Never,
            ),
            entries: vec![MaybeUninit::uninit(); 32 * 1024],
            names: Names::default(),
            tallies: vec![DestinationReport::default(); op.dests.len().max(1)],
            stage_dirs: vec![false; op.dests.len()],
            staged: 0,
            further: Vec::new(),
            lease_pauses: 0,
        }
    }

    fn work(&mut self, task: Task) -> Result<(), Error> {
        match task {
            Task::Root(node) => self.directory(&node, None),
            Task::Directory { parent, name, inside_excluded } => {
                let since = listing::now();
                match self.open_directory(&parent, name, inside_excluded)? {
                    Some(node) => self.directory(&node, Some(since)),
                    None => self.finish(&parent),
                }
            }
            Task::Fill(batch) => self.fill(batch),
            Task::Link(further) => self.link_further(&further),
            Task::Linked(further) => self.finish(&further.dir),
        }
    }

    /// Fills a batch and lets go of its directory.
    fn fill(&mut self, batch: Batch) -> Result<(), Error> {
        let Batch { node, handles, mut jobs } = batch;
        self.fill_files(&node, &handles, &mut jobs)?;
        drop((jobs, handles));
        self.finish(&node)
    }

    /// One thing less to wait for below `node`.
    fn finish(&self, node: &Arc<Node>) -> Result<(), Error> {
        node.one_done(&self.op.dirs, |node| {
            if node.dests.iter().any(|dest| dest.made) {
                self.set_directory_metadata(node)?;
            }
            Ok(())
        })
    }

    fn set_directory_metadata(&self, node: &Arc<Node>) -> Result<(), Error> {
        let op = self.op;
        let dest_path = |dest: usize| op.dests[dest].path.join(node.path());
        let handles = node.handles(&op.dirs).context(Operation::OpenDirectory, || dest_path(0))?;
        for (index, (fd, state)) in handles.dests().iter().zip(&node.dests).enumerate() {
            if !state.made {
                continue;
            }
            let context = || dest_path(index);
            // Not so of the root, which the stage made, nor in a merge, where a directory may have inherited its group.
            let as_made = op.dests[index].merge_stage.is_none() && node.parent.is_some();
            let created =
                self.created(index, fd, as_made).context(Operation::ReadDirectory, context)?;
            let made_with = as_made.then(|| directory_mode(&node.meta));
            let refused = meta::apply(fd, &node.meta, node.attrs.as_deref(), created, made_with)
                .context(Operation::SetMetadata, context)?;
            if !refused.is_empty() {
                op.skip(Some(index), node.path(), SkipReason::Xattrs(refused.join(", ")));
            }
        }
        Ok(())
    }

    /// What a file or directory that this thread just made looks like. Asked of the first one at each destination,
    /// or of this very one where directories pass on what is theirs.
    pub(super) fn created(&self, dest: usize, fd: &OwnedFd, cached: bool) -> io::Result<Created> {
        let ask = || fs::fstat(fd).map(|stat| (stat.st_uid, stat.st_gid));
        let cell = &self.op.dests[dest].owner;
        let owner = match cell.get() {
            Some(owner) if cached => *owner,
            _ => {
                let owner = ask()?;
                if cached { *cell.get_or_init(|| owner) } else { owner }
            }
        };
        // Whoever made it wrote `clipped` before it took the queue's lock to hand it over.
        let mode_is_exact = self.mode_is_exact && !self.op.clipped.load(Ordering::Relaxed);
        Ok(Created { owner, mode_is_exact, privileged: self.privileged })
    }

    /// Handles what is in a directory, which was opened after `since`.
    fn directory(&mut self, node: &Arc<Node>, since: Option<listing::Time>) -> Result<(), Error> {
        let handles = node
            .handles(&self.op.dirs)
            .context(Operation::OpenDirectory, || self.op.source.join(node.path()))?;
        if self.op.filter.reads_ignore_files()
            && let Some(chain) = self.read_ignore_files(node, &handles)?
        {
            let _ = node.chain.set(chain);
        }
        let before = match since {
            Some(since) => Before::opened(since, &node.meta),
            // The root was opened a while ago, and a stage may have been made in it since.
            None => Before::rewound(handles.source())
                .context(Operation::ReadDirectory, || self.op.source.join(node.path()))?,
        };
        self.read_directory(node, &handles, before)?;
        drop(handles);
        self.finish(node)
    }

    /// `None` where it is gone or is none of the source's.
    fn open_directory(
        &mut self,
        parent: &Arc<Node>,
        name: CString,
        inside_excluded: bool,
    ) -> Result<Option<Arc<Node>>, Error> {
        let op = self.op;
        let source_path = || op.source_path(parent, &name);
        let from = parent
            .handles(&op.dirs)
            .context(Operation::OpenDirectory, || op.source.join(parent.path()))?;
        let source =
            match fs::openat(from.source(), &name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(source) => source,
                // Gone, or no directory any more.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    op.skip(None, parent.path_of(&name), SkipReason::Vanished);
                    return Ok(None);
                }
                Err(errno) => {
                    return Err(Error::io(Operation::OpenDirectory, source_path(), errno));
                }
            };
        let meta = Meta::of(&fs::fstat(&source).context(Operation::Read, source_path)?);
        if op.excluded.contains(&meta.id()) {
            return Ok(None);
        }
        let (meta, attrs) =
            op.attributes(&source, meta).context(Operation::ReadAttributes, source_path)?;
        let mut sides = Vec::with_capacity(1 + op.dests.len());
        sides.push(source);
        let mut states = Vec::with_capacity(op.dests.len());
        if op.dests.is_empty() {
            self.tallies[0].directories += 1;
        }
        for (index, dir) in from.dests().iter().enumerate() {
            let (fd, state) = self.make_directory(index, dir, parent, &name, &meta)?;
            self.tallies[index].directories += u64::from(state.made);
            sides.push(fd);
            states.push(state);
        }
        if name.as_c_str() == c".git" {
            lock(&op.repositories).push(parent.path());
        }
        let made = states.iter().any(|state| state.made);
        let data = directory(meta, attrs, inside_excluded, states);
        let node = Node::below(parent, name, data, sides, &op.dirs);
        if made {
            op.links.hold_if_shut(&node, meta.mode);
        }
        Ok(Some(node))
    }

    fn make_directory(
        &self,
        dest: usize,
        dir: &OwnedFd,
        parent: &Arc<Node>,
        name: &CStr,
        meta: &Meta,
    ) -> Result<(OwnedFd, DestState), Error> {
        let op = self.op;
        let path = || op.dest_path(dest, parent, name);
        let merging = op.dests[dest].merge_stage.is_some();
        let mkdir = || fs::mkdirat(dir, name, directory_mode(meta));
        let result = match parent.dests[dest].folds {
            // It is put there even if it is there: a second one of that name would be merged into it.
            true => parent.placed.put(dest, dir, name, || match mkdir() {
                Err(Errno::EXIST) => Ok(false),
                result => result.map(|()| true),
            }),
            false => Ok(mkdir().map(|()| true)),
        };
        let made = match result.map_err(|first| op.one_place(parent, &first, name))? {
            Ok(made) => made,
            Err(Errno::EXIST) if merging => false,
            Err(Errno::EXIST) => return Err(two_names(path())),
            Err(errno) => return Err(Error::io(Operation::MakeDirectory, path(), errno)),
        };
        let fd = match fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) if merging => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    Operation::MergeDirectory,
                    op.source_path(parent, name),
                    io::Error::new(
                        io::ErrorKind::NotADirectory,
                        "the destination has something else of that name",
                    ),
                )
                .with_other(path()));
            }
            Err(errno) => return Err(Error::io(Operation::OpenDirectory, path(), errno)),
        };
        let (mut stage_here, mut folds) = (false, false);
        if merging {
            if made && !parent.dests[dest].made {
                meta::strip_inherited_acls(&fd).context(Operation::SetMetadata, path)?;
            }
            let root = op.dests[dest].merge_stage.as_ref().map(Stage::id).transpose();
            let own = fs::fstat(&fd).context(Operation::Read, path)?;
            let elsewhere = |(dev, _)| dev != Meta::of(&own).dev;
            // A new directory is as the one it is in.
            stage_here = root.context(Operation::Read, path)?.is_some_and(elsewhere)
                || made && parent.dests[dest].stage_here.load(Ordering::Relaxed);
            if stage_here && !made {
                // What a killed process left of files that were on their way.
                staging::sweep(&fd);
            }
            // One that was there, or is on another filesystem, may be another kind than the one it is in.
            folds = stage_here || parent.dests[dest].folds || !made && sys::ignores_case(&fd);
        }
        Ok((fd, DestState { made, stage_here: stage_here.into(), folds }))
    }

    /// The rules of the directory's `.gitignore` (and of `.git/info/exclude` at the root), on top of those above.
    fn read_ignore_files(
        &self,
        node: &Arc<Node>,
        handles: &Handles,
    ) -> Result<Option<Arc<IgnoreChain>>, Error> {
        let path = node.path();
        let mut chain = node.parent.as_ref().and_then(|parent| parent.chain.get().cloned());
        let files: &[&[&CStr]] = if path.as_os_str().is_empty() {
            &[&[c".git", c"info", c"exclude"], &[c".gitignore"]]
        } else {
            &[&[c".gitignore"]]
        };
        for names in files {
            let text = read_rules(handles.source(), names).context(Operation::Read, || {
                use std::os::unix::ffi::OsStrExt;
                let name = |name: &&CStr| std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned();
                self.op.source.join(&path).join(names.iter().map(name).collect::<PathBuf>())
            })?;
            if let Some(text) = text {
                chain = Some(IgnoreChain::push(chain, &path, &text));
            }
        }
        Ok(chain)
    }

    /// Whether links to what is in the directory would make two stores of one, or a worktree's marker that of two.
    fn is_own(&self, node: &Node) -> bool {
        let links = matches!(self.op.options.mode, CloneMode::Hardlink | CloneMode::Symlink);
        let inside = || node.path().iter().any(|part| part == OWN);
        links && (self.op.source_absolute.ends_with(OWN) || inside())
    }

    fn read_directory(
        &mut self,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        before: Before,
    ) -> Result<(), Error> {
        let op = self.op;
        let filtered = !op.filter.keeps_everything() || op.filter.has_mutable();
        let base = filtered.then(|| node.path());
        let is_own = self.is_own(node);
        let mut batch = Vec::new();
        let mut names = std::mem::take(&mut self.names);
        let rest = match names.list(handles.source(), before, &mut self.entries) {
            // It was removed since it was opened. Each destination has it, empty, as it was at the end.
            Err(Errno::NOENT) if node.parent.is_some() => {
                op.skip(None, node.path(), SkipReason::Vanished);
                self.names = names;
                return Ok(());
            }
            listed => listed.context(Operation::ReadDirectory, || op.source.join(node.path()))?,
        };
        if rest == Rest::Restless {
            op.skip(None, node.path(), SkipReason::Restless);
        }
        for (name, mut kind) in names.iter() {
            op.check()?;
            let bytes = name.to_bytes();
            if kind == FileType::Unknown {
                match fs::statat(handles.source(), name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => kind = Meta::of(&stat).file_type(),
                    Err(Errno::NOENT) => continue,
                    Err(errno) => {
                        return Err(Error::io(Operation::Read, op.source_path(node, name), errno));
                    }
                }
            }
            let path = base.as_ref().map(|base| {
                use std::os::unix::ffi::OsStrExt;
                base.join(std::ffi::OsStr::from_bytes(bytes))
            });
            let is_dir = kind == FileType::Directory;
            let decision = match &path {
                Some(path) => {
                    op.filter.decide(path, is_dir, node.inside_excluded, node.chain.get())
                }
                None => Decision::Keep,
            };
            if decision == Decision::Leave {
                continue;
            }
            if bytes.starts_with(PREFIX.as_bytes()) {
                if !staging::is_at_work(bytes) {
                    op.skip(None, node.path_of(name), SkipReason::Stage);
                }
                continue;
            }
            if is_dir {
                node.add_pending(1);
                op.queue.push(Task::Directory {
                    parent: Arc::clone(node),
                    name: name.to_owned(),
                    inside_excluded: decision == Decision::Enter,
                });
                continue;
            }
            let mutable = is_own || path.as_ref().is_some_and(|path| op.filter.is_mutable(path));
            if let Some(job) = self.entry(node, handles, name.to_owned(), kind, mutable)? {
                batch.push(job);
                if batch.len() == op.budget.batch {
                    self.hand_over(node, handles, std::mem::take(&mut batch))?;
                }
            }
        }
        self.hand_over(node, handles, batch)?;
        op.links.link_later(node, std::mem::take(&mut self.further));
        self.names = names;
        Ok(())
    }

    /// Gives files to whoever fills them, or fills them here where nobody keeps up.
    fn hand_over(
        &mut self,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        mut jobs: Vec<super::file::Job>,
    ) -> Result<(), Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.create_batch(node, handles, &mut jobs)?;
        let descriptors = jobs.len() * (1 + self.op.dests.len());
        let batch = Batch { node: Arc::clone(node), handles: Arc::clone(handles), jobs };
        node.add_pending(1);
        match self.op.queue.hand_over(Task::Fill(batch), descriptors) {
            Some(task) => self.work(task),
            None => Ok(()),
        }
    }
}

fn directory(
    meta: Meta,
    attrs: Option<Box<Attrs>>,
    inside_excluded: bool,
    dests: Vec<DestState>,
) -> Directory {
    let (chain, placed) = (OnceLock::new(), Placed::default());
    Directory { meta, attrs, chain, inside_excluded, dests, placed }
}

/// The mode a directory is made with: its own, but ours to fill.
fn directory_mode(meta: &Meta) -> Mode {
    meta::mode((meta.mode & 0o777) | 0o700)
}

/// Two names of the source that the destination takes for one.
pub(super) fn two_names(path: PathBuf) -> Error {
    Error::new(
        ErrorKind::Conflict,
        Operation::Make,
        path,
        io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another entry of the source has the same name there (does that filesystem ignore case?)",
        ),
    )
}

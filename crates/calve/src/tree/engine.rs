//! The engine makes trees at all destinations at once, with one queue and a few threads.
//!
//! A task is a directory. Its [`Source`] hands over the entries. A thread creates the files at
//! every destination, and passes them on in small batches to be filled ([`pool`](super::pool)
//! argues why). A directory gets its mode and times when everything below it is done
//! ([`node`](super::node)). calve links the further names of files when everything else is in place
//! ([`links`](super::links)).
//!
//! # Bounds
//! [`Budget`](super::budget::Budget) says how many descriptors there may be, for directories and
//! for files between creating and filling. Threads take directories last in, first out. So for each
//! thread the queue holds the siblings along one path, not a whole level of the tree.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::aside::{self, Aside};
use super::file::Job;
use super::links::{FileKey, FirstOrLater, Further, LaterName};
use super::names::Placed;
use super::node::Handles;
use super::op::{Batch, DestState, Dir, Directory, FirstName, NewNode, Op, OpenNode, Task};
use super::pool::{Thread, lock};
use super::source::{NamedEntry, Opened, Source};
use super::staging::{self, Stage};
use super::tally::Because;
use super::{CloneMode, tally, two_names};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::copy::Copier;
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Created, Meta};
use crate::reflink::sys;
use crate::report::{DestinationReport, SkipReason};

/// How often a folder that others make and remove again is tried.
const FOLDER_TRIES: u32 = 100;

impl<S: Source> Op<'_, S> {
    /// Makes the tree. The caller passes the root, open at every destination, and gets it back,
    /// together with the values that the threads kept.
    pub(crate) fn run(
        &self,
        root: Opened<S>,
        roots: Vec<OwnedFd>,
        states: Vec<DestState>,
    ) -> Result<(Arc<Handles>, Vec<S::Thread>), Error> {
        for (tally, state) in lock(&self.tallies).iter_mut().zip(&states) {
            tally.directories += u64::from(state.made);
        }
        let Opened { side, meta, attrs, own, .. } = root;
        let data = Directory { meta, attrs, dests: states, placed: Placed::default(), own };
        let sides = roots.into_iter().chain(side).collect();
        let root = super::node::Node::root(data, sides, &self.dirs);
        let roots = root.handles(&self.dirs).context(Operation::Open, || self.source)?;
        let mut threads = self.round(0, vec![Task::Root(root)])?;
        let waiting: Vec<_> = self.links.take().into_iter().map(Arc::new).collect();
        let linking = waiting.iter().filter(|further| !further.names.is_empty());
        threads.extend(self.round(1, linking.map(|it| Task::Link(Arc::clone(it))).collect())?);
        threads.extend(self.round(2, waiting.into_iter().map(Task::Linked).collect())?);
        Ok((roots, threads))
    }

    /// Works on `tasks`, and on the tasks that they add.
    fn round(&self, round: usize, tasks: Vec<Task<S>>) -> Result<Vec<S::Thread>, Error> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let start = |thread: Thread| {
            let index = round * self.budget.jobs + thread.index;
            Worker::new(self, Thread { index, ..thread })
        };
        let workers = self.queue.run((S::OPERATION, self.shown()), tasks, start, Worker::work)?;
        let mut tallies = lock(&self.tallies);
        for worker in &workers {
            for (sum, own) in tallies.iter_mut().zip(&worker.tallies) {
                tally::add(sum, own);
            }
        }
        for worker in &workers {
            for (sum, own) in tallies.iter_mut().zip(&worker.taken_back) {
                tally::take_back(sum, own);
            }
        }
        Ok(workers.into_iter().map(|worker| worker.own).collect())
    }
}

/// One thread of the engine.
pub(crate) struct Worker<'a, 'b, S: Source> {
    pub(crate) op: &'a Op<'b, S>,
    pub(super) index: usize,
    pub(super) mode_is_exact: bool,
    pub(super) privileged: bool,
    pub(super) copier: Copier,
    /// The source's own values for this thread.
    pub(crate) own: S::Thread,
    /// One for each destination. A dry run has one.
    pub(super) tallies: Vec<DestinationReport>,
    /// What does not count any more, because another process made the folder first.
    taken_back: Vec<DestinationReport>,
    /// For each destination: whether this thread has made its directory in the stage.
    pub(super) stage_dirs: Vec<bool>,
    pub(super) staged: u64,
    /// How often this thread waited for a lease.
    pub(super) lease_pauses: u32,
    /// Names in the directory that the thread is reading which calve links later.
    pub(super) further: Vec<LaterName<Dir<S>>>,
}

impl<'a, 'b, S: Source> Worker<'a, 'b, S> {
    fn new(op: &'a Op<'b, S>, thread: Thread) -> Self {
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
            own: op.from.thread(),
            tallies: vec![DestinationReport::default(); op.dests.len().max(1)],
            taken_back: vec![DestinationReport::default(); op.dests.len()],
            stage_dirs: vec![false; op.dests.len()],
            staged: 0,
            lease_pauses: 0,
            further: Vec::new(),
        }
    }

    fn work(&mut self, task: Task<S>) -> Result<(), Error> {
        match task {
            Task::Root(node) => self.directory(&node),
            Task::Directory { parent, child } => match self.open_directory(&parent, child)? {
                Some(node) => self.directory(&node),
                None => self.finish(&parent),
            },
            Task::Fill(batch) => self.fill(batch),
            Task::Link(further) => self.link_further(&further),
            Task::Linked(further) => self.linked(&further),
        }
    }

    /// Fills a batch and releases its directory.
    fn fill(&mut self, batch: Batch<S>) -> Result<(), Error> {
        let Batch { node, mut jobs } = batch;
        self.fill_files(&node, &mut jobs)?;
        let OpenNode::<S> { node, handles } = node;
        drop((jobs, handles));
        self.finish(&node)
    }

    /// Tells `node` that one thing that it waits for is done.
    fn finish(&mut self, node: &Arc<NewNode<S>>) -> Result<(), Error> {
        let op = self.op;
        node.one_done(&op.dirs, |node| {
            if node.dests.iter().any(|dest| dest.made) {
                self.set_directory_metadata(node)?;
            }
            Ok(())
        })
    }

    /// Notes the files after all links were made. Each link changed its inode's change time, and
    /// the first name has the same inode.
    fn linked(&mut self, further: &Further<Dir<S>>) -> Result<(), Error> {
        let (op, node) = (self.op, &further.dir);
        if S::NOTES && !further.names.is_empty() {
            let open = op.open(node)?;
            for name in &further.names {
                for (dest, dir) in open.handles.dests().iter().enumerate() {
                    let meta = Meta::at(dir, &name.name)
                        .context(Operation::Read, || op.dest_path(dest, node, &name.name))?;
                    for number in [name.number, name.first.number] {
                        S::note(&mut self.own, dest, number, &meta);
                    }
                }
            }
        }
        self.finish(node)
    }

    fn set_directory_metadata(&mut self, node: &Arc<NewNode<S>>) -> Result<(), Error> {
        let op = self.op;
        let dest_path = |dest: usize| op.dests[dest].path.join(node.path());
        let open = node.open(&op.dirs).context(Operation::OpenDirectory, || dest_path(0))?;
        for (index, (fd, state)) in open.handles.dests().iter().zip(&node.dests).enumerate() {
            if !state.made {
                continue;
            }
            let context = || dest_path(index);
            // Two kinds of directories may differ from what `mkdir` here makes: the root, which the
            // stage made, and those of a merge, which may have inherited their group.
            let as_made = !op.merges_into(index, node) && node.parent.is_some();
            // Only who may write to a folder may give it another parent. The next merge knows this
            // one if the process dies here.
            let is_shut = node.made_aside(index).is_some() && node.meta.mode & 0o200 == 0;
            if is_shut {
                meta::give_mode(fd, meta::mode(staging::UNFINISHED))
                    .context(Operation::SetMetadata, context)?;
                self.place_aside(index, &open)?;
            }
            let created =
                self.created(index, fd, as_made).context(Operation::ReadDirectory, context)?;
            let made_with = (as_made && !is_shut).then(|| directory_mode(&node.meta));
            let refused = meta::apply(fd, &node.meta, node.attrs.as_deref(), created, made_with)
                .context(Operation::SetMetadata, context)?;
            if !refused.is_empty() {
                op.skip(Some(index), node.path(), SkipReason::Xattrs(refused.join(", ")));
            }
            if S::NOTES {
                let found = Meta::of_file(fd).context(Operation::Read, context)?;
                S::note(&mut self.own, index, op.from.number(node), &found);
            }
            if !is_shut {
                self.place_aside(index, &open)?;
            }
        }
        Ok(())
    }

    /// Renames a folder that was made aside to its place, or merges it into the one that another
    /// process made there meanwhile.
    fn place_aside(&mut self, dest: usize, node: &OpenNode<S>) -> Result<(), Error> {
        let (op, path) = (self.op, || self.op.dests[dest].path.join(node.path()));
        let (Some(aside), Some(parent)) = (node.made_aside(dest), &node.parent) else {
            return Ok(());
        };
        let above = parent.handles(&op.dirs).context(Operation::OpenDirectory, path)?;
        let into = &above.dests()[dest];
        for _ in 0..FOLDER_TRIES {
            if aside.place(into, node.name()).context(Operation::RenameIntoPlace, path)? {
                return Ok(());
            }
            let roots = aside::MergeRoots { source: op.source, dest: &op.dests[dest].path };
            match fs::openat(into, node.name(), DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(there) => {
                    let staged = node.at(dest).try_clone();
                    let staged = staged.context(Operation::OpenDirectory, path)?;
                    let met = aside::join((staged, there, node.path()), &roots, op.options)?;
                    let counts = (&mut self.tallies[dest], &mut self.taken_back[dest]);
                    aside.count(&met, op.options, counts.0, counts.1);
                    return Ok(());
                }
                // It is gone again.
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(aside::conflict(FileType::Directory, &roots, &node.path()));
                }
                Err(errno) => return Err(Error::io(Operation::OpenDirectory, path(), errno)),
            }
        }
        Err(Error::io(Operation::RenameIntoPlace, path(), Errno::EXIST))
    }

    /// The owner and mode of a file or directory that this thread just made. calve looks at the
    /// first one at each destination and remembers its owner (`cached`). Where directories pass on
    /// their group, it looks at this very one.
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
        // The thread that made the file wrote `clipped` before it took the queue's lock to hand the
        // file over.
        let mode_is_exact = self.mode_is_exact && !self.op.clipped.load(Ordering::Relaxed);
        let keeps_metadata = self.op.dests[dest].keeps_metadata(fd);
        Ok(Created { owner, mode_is_exact, privileged: self.privileged, keeps_metadata })
    }

    /// Reads a directory and makes its entries.
    fn directory(&mut self, node: &Arc<NewNode<S>>) -> Result<(), Error> {
        let op = self.op;
        let open = op.open(node)?;
        S::read(self, &open)?;
        op.links.link_later(node, std::mem::take(&mut self.further));
        drop(open);
        self.finish(node)
    }

    /// Opens a child directory and makes it at every destination. `None` if the child is gone or is
    /// no part of the tree.
    fn open_directory(
        &mut self,
        parent: &Arc<NewNode<S>>,
        child: S::Child,
    ) -> Result<Option<Arc<NewNode<S>>>, Error> {
        let op = self.op;
        let above = op.open(parent)?;
        let Some(opened) = S::open(self, &above, child)? else { return Ok(None) };
        let Opened { name, side, meta, attrs, own } = opened;
        let mut sides = Vec::with_capacity(S::SIDES + op.dests.len());
        let mut states = Vec::with_capacity(op.dests.len());
        if op.dests.is_empty() {
            self.tallies[0].directories += 1;
        }
        for (index, dir) in above.handles.dests().iter().enumerate() {
            let Some((fd, state)) = self.make_directory(index, dir, parent, &name, &meta)? else {
                self.count_existing(index, parent, &name);
                return Ok(None);
            };
            self.tallies[index].directories += u64::from(state.made);
            sides.push(fd);
            states.push(state);
        }
        sides.extend(side);
        let made = states.iter().any(|state| state.made);
        // A folder in one that is made aside comes with that one.
        let aside = |(dest, state): (usize, &DestState)| {
            state.aside.clone().filter(|_| op.merges_into(dest, parent))
        };
        let asides = states.iter().enumerate().map(aside).collect();
        let data = Directory { meta, attrs, dests: states, placed: Placed::default(), own };
        let node = super::node::Node::aside(parent, name, data, (sides, asides), &op.dirs);
        if made {
            op.links.hold_if_shut(&node, meta.mode);
        }
        Ok(Some(node))
    }

    /// `None` if the entries are picked, for the only destination, and something else has the name
    /// there.
    fn make_directory(
        &mut self,
        dest: usize,
        dir: &OwnedFd,
        parent: &Arc<NewNode<S>>,
        name: &CStr,
        meta: &Meta,
    ) -> Result<Option<(OwnedFd, DestState)>, Error> {
        let op = self.op;
        let path = || op.dest_path(dest, parent, name);
        if !op.merges_into(dest, parent) {
            make_new(dir, name, meta).map_err(|errno| match errno {
                Errno::EXIST => two_names(path()),
                errno => Error::io(Operation::MakeDirectory, path(), errno),
            })?;
            let fd = open_new(dir, name).context(Operation::OpenDirectory, path)?;
            let state = match &parent.dests[dest].aside {
                Some(aside) => DestState::aside(aside),
                None => DestState::new_root(),
            };
            return Ok(Some((fd, state)));
        }
        let there = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        if matches!(there, Err(Errno::NOENT)) && self.takes_folders(dest, dir, parent)? {
            return self.make_aside(dest, parent, name, meta).map(Some);
        }
        self.merge_directory(dest, dir, parent, name)
    }

    /// Whether folders that `parent` lacks can be made aside.
    fn takes_folders(
        &mut self,
        dest: usize,
        dir: &OwnedFd,
        parent: &Arc<NewNode<S>>,
    ) -> Result<bool, Error> {
        let (op, state) = (self.op, &parent.dests[dest]);
        let Some(stage) = &op.dests[dest].merge_stage else { return Ok(false) };
        if state.folds || op.options.picked.is_some() || state.stage_here.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if let Some(takes) = state.takes_folders.get() {
            return Ok(*takes);
        }
        let probe = self.staged_name(dest)?;
        if parent.parent.is_some() {
            // A killed process may have left its probe here.
            staging::sweep(dir);
        }
        let takes = aside::takes_folders(stage.dir(), &probe, dir)
            .context(Operation::MakeDirectory, || op.dests[dest].path.join(parent.path()))?;
        Ok(*state.takes_folders.get_or_init(|| takes))
    }

    /// Makes a folder in the stage, because the destination has none.
    fn make_aside(
        &mut self,
        dest: usize,
        parent: &Arc<NewNode<S>>,
        name: &CStr,
        meta: &Meta,
    ) -> Result<(OwnedFd, DestState), Error> {
        let path = || self.op.dest_path(dest, parent, name);
        let Some(stage) = self.op.dests[dest].merge_stage.as_ref().map(Stage::shared_dir) else {
            return Err(Error::io(Operation::StageIn, path(), Errno::NOENT));
        };
        let place = self.staged_name(dest)?;
        make_new(&stage, &place, meta).context(Operation::MakeDirectory, path)?;
        let fd = open_new(&stage, &place).context(Operation::OpenDirectory, path)?;
        Ok((fd, DestState::aside(&Arc::new(Aside::new(stage, place)))))
    }

    /// Opens a directory of the destination, or makes it there.
    fn merge_directory(
        &mut self,
        dest: usize,
        dir: &OwnedFd,
        parent: &Arc<NewNode<S>>,
        name: &CStr,
    ) -> Result<Option<(OwnedFd, DestState)>, Error> {
        let op = self.op;
        let path = || op.dest_path(dest, parent, name);
        let mode = meta::mode(staging::UNFINISHED);
        let mkdir = || staging::make_folder(dir, staging::os(name).as_ref(), mode);
        let result = match parent.dests[dest].folds {
            // A directory that exists already is noted, too: a second one whose name folds to the
            // same would be merged into it.
            true => parent.placed.put(dest, dir, name, || match mkdir() {
                Err(Errno::EXIST) => Ok(false),
                result => result.map(|()| true),
            }),
            false => Ok(mkdir().map(|()| true)),
        };
        let mut made = match result.map_err(|first| op.one_place(parent, &first, name))? {
            Ok(made) => made,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(Error::io(Operation::MakeDirectory, path(), errno)),
        };
        let fd = match open_new(dir, name) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) if op.options.picked.is_some() => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let roots = aside::MergeRoots { source: op.source, dest: &op.dests[dest].path };
                let path = parent.path_of(name);
                return Err(aside::conflict(FileType::Directory, &roots, &path));
            }
            Err(errno) => return Err(Error::io(Operation::OpenDirectory, path(), errno)),
        };
        let own = fs::fstat(&fd).context(Operation::Read, path)?;
        made |= staging::is_unfinished(&Meta::of(&own));
        if made && !parent.dests[dest].made {
            meta::strip_inherited_acls(&fd).context(Operation::SetMetadata, path)?;
        }
        let root = op.dests[dest].merge_stage.as_ref().map(Stage::id).transpose();
        let elsewhere = |(dev, _)| dev != Meta::of(&own).dev;
        // A new directory is staged like its parent.
        let stage_here = root.context(Operation::Read, path)?.is_some_and(elsewhere)
            || made && parent.dests[dest].stage_here.load(Ordering::Relaxed);
        if stage_here && !made {
            // A killed process may have left staged files here.
            staging::sweep(&fd);
        }
        // A directory that was there before, or is on another filesystem, may treat case
        // differently than its parent.
        let folds = stage_here || parent.dests[dest].folds || !made && sys::ignores_case(&fd);
        Ok(Some((fd, DestState::of(made, stage_here, folds))))
    }

    /// Lets the folders that are made aside, and that `node` is in, wait for all links.
    fn hold_asides(&self, node: &Arc<NewNode<S>>) {
        for (dest, state) in node.dests.iter().enumerate() {
            if !state.aside.as_ref().is_some_and(|aside| aside.must_be_held()) {
                continue;
            }
            let mut top = node;
            while top.made_aside(dest).is_none()
                && let Some(above) = &top.parent
            {
                top = above;
            }
            self.op.links.hold(top);
        }
    }

    /// The entry as the first name of its file, which has `names` names. `None` if the entry is a
    /// further name: calve links it later. In the link modes `unlinked` says why the file is no
    /// link to the source.
    pub(crate) fn first_name(
        &mut self,
        node: &OpenNode<S>,
        entry: NamedEntry<'_>,
        (file, names): (FileKey, u64),
        unlinked: Option<&[Option<Because>]>,
    ) -> Result<Option<Arc<FirstName<S>>>, Error> {
        let op = self.op;
        node.remember(&node.handles)
            .context(Operation::ReadDirectory, || op.source_path(node, entry.name))?;
        match op.links.see(file, names, node, entry.name, entry.number) {
            FirstOrLater::First(first) => {
                self.hold_asides(node);
                Ok(Some(first))
            }
            FirstOrLater::Before(first, is_certain) => {
                let (name, unlinked) = (entry.name.to_owned(), unlinked.map(<[_]>::to_vec));
                let NamedEntry { kind, number, .. } = entry;
                self.further.push(LaterName { name, kind, number, first, is_certain, unlinked });
                Ok(None)
            }
        }
    }

    /// Passes files to a thread that fills them. If no thread keeps up, this one fills them.
    pub(crate) fn hand_over(
        &mut self,
        node: &OpenNode<S>,
        mut jobs: Vec<Job<S>>,
    ) -> Result<(), Error> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.create_batch(node, &mut jobs)?;
        let descriptors = jobs.len() * (1 + self.op.dests.len());
        let batch = Batch { node: node.clone(), jobs };
        node.add_pending(1);
        match self.op.queue.hand_over(Task::Fill(batch), descriptors) {
            Some(task) => self.work(task),
            None => Ok(()),
        }
    }
}

/// Makes a directory that nobody else sees.
fn make_new(dir: &OwnedFd, name: &CStr, meta: &Meta) -> rustix::io::Result<()> {
    staging::make_folder(dir, staging::os(name).as_ref(), directory_mode(meta))
}

/// Opens a directory that this thread may just have made.
fn open_new(dir: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let open = || fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty());
    match open() {
        Err(Errno::NOENT) if staging::appears(dir, staging::os(name).as_ref()) => open(),
        opened => opened,
    }
}

/// The mode that calve makes a directory with: the source's mode, and write access for the owner,
/// who must fill it.
fn directory_mode(meta: &Meta) -> Mode {
    meta::mode((meta.mode & 0o777) | 0o700)
}

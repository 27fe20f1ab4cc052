//! Looks at every entry of some trees, in parallel, and changes nothing.
//!
//! A visit follows no link and crosses no mount, as a removal does. Other processes may change the
//! trees meanwhile: an entry that is gone when its turn comes is left out.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::budget::Budget;
use super::listing::{self, Before, Names};
use super::node::{self, OpenDirs};
use super::pool::{self, Queue};
use super::read::open_unnoted;
use super::removal::is_mount_root;
use super::running::Running;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;

/// Each thread opens one file at a time, and may open another one to compare it with.
const FILE_DESCRIPTORS: usize = 2;

/// A directory that is being looked at. Its data is the number of its tree.
pub(crate) type VisitedNode = node::Node<VisitedPlace>;

/// The place of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VisitedPlace {
    /// The number of its tree.
    tree: usize,
    /// The device of the tree's root.
    dev: u64,
}

/// An entry of a tree.
pub(crate) struct Found<'a> {
    /// The number of its tree.
    pub(crate) tree: usize,
    /// The directory that it is in, and its name there; for a tree's root, the root and a dot.
    pub(crate) dir: &'a OwnedFd,
    pub(crate) name: &'a CStr,
    pub(crate) meta: Meta,
    node: &'a Arc<VisitedNode>,
}

impl Found<'_> {
    /// The path from the tree's root.
    pub(crate) fn path(&self) -> PathBuf {
        self.node.path_of(self.name)
    }
}

/// The work of a visit on each entry, in a thread that has a `W`.
pub(crate) trait Visitor<W>: Sync {
    /// # Errors
    /// An error ends the visit.
    fn visit(&self, worker: &mut W, found: &Found<'_>) -> Result<(), Error>;

    /// For a directory that this process may not read.
    fn unreadable(&self, worker: &mut W, tree: usize);
}

struct VisitThread<W> {
    worker: W,
    buffer: Vec<MaybeUninit<u8>>,
    names: Names,
}

/// A directory to look at: the one above it and its name, or the root of a tree.
type VisitTask = Result<(Arc<VisitedNode>, CString), usize>;

/// Looks at everything in `trees`, but not into directories that are in `excluded`, unless they are
/// the trees' roots. `operation` and the first tree's path name the work in errors.
///
/// # Errors
/// A root that exists cannot be opened; a directory cannot be read for another reason than its
/// permissions; the errors of the visitor.
pub(crate) fn visit<W: Send>(
    trees: &[&Path],
    excluded: &HashSet<(u64, u64)>,
    running: &Running,
    operation: Operation,
    start: impl Fn() -> W + Sync,
    visitor: &impl Visitor<W>,
) -> Result<Vec<W>, Error> {
    let Some(first) = trees.first() else { return Ok(Vec::new()) };
    let budget = Budget::new(1, FILE_DESCRIPTORS, running.jobs()).context(operation, || first)?;
    let dirs = OpenDirs::new(budget.dirs, 0);
    let tasks: Vec<VisitTask> = (0..trees.len()).map(Err).collect();
    let threads = pool::run(
        &running.with_jobs(budget.jobs),
        (operation, first),
        tasks,
        |_| VisitThread {
            worker: start(),
            buffer: vec![MaybeUninit::uninit(); 32 * 1024],
            names: Names::default(),
        },
        |thread, task, queue| {
            let done = Visit { trees, excluded, dirs: &dirs, visitor, queue };
            done.directory(thread, task)
        },
    )?;
    Ok(threads.into_iter().map(|thread| thread.worker).collect())
}

struct Visit<'a, V> {
    trees: &'a [&'a Path],
    excluded: &'a HashSet<(u64, u64)>,
    dirs: &'a OpenDirs<VisitedPlace>,
    visitor: &'a V,
    queue: &'a Queue<VisitTask>,
}

impl<V> Visit<'_, V> {
    fn directory<W>(&self, thread: &mut VisitThread<W>, task: VisitTask) -> Result<(), Error>
    where
        V: Visitor<W>,
    {
        let (parent, done) = match task {
            Err(tree) => (None, self.root(thread, tree)?),
            Ok((parent, name)) => {
                let done = self.below(thread, &parent, name)?;
                (Some(parent), done)
            }
        };
        match done.or(parent) {
            Some(node) => node.one_done(self.dirs, |_| Ok(())),
            None => Ok(()),
        }
    }

    fn root<W>(
        &self,
        thread: &mut VisitThread<W>,
        tree: usize,
    ) -> Result<Option<Arc<VisitedNode>>, Error>
    where
        V: Visitor<W>,
    {
        let path = self.trees[tree];
        let since = listing::now();
        let fd = match fs::open(path, DIR_FLAGS, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(Error::io(Operation::OpenDirectory, path, errno)),
        };
        let meta = Meta::of_file(&fd).context(Operation::Read, || path)?;
        let node = VisitedNode::root(VisitedPlace { tree, dev: meta.dev }, vec![fd], self.dirs);
        self.entries(thread, &node, &meta, since)?;
        Ok(Some(node))
    }

    /// Looks at the directory `name` in `parent`. `None` if it is gone, or no part of the tree.
    fn below<W>(
        &self,
        thread: &mut VisitThread<W>,
        parent: &Arc<VisitedNode>,
        name: CString,
    ) -> Result<Option<Arc<VisitedNode>>, Error>
    where
        V: Visitor<W>,
    {
        let place = ***parent;
        let path = || self.trees[place.tree].join(parent.path_of(&name));
        let since = listing::now();
        let above = parent.handles(self.dirs).context(Operation::OpenDirectory, path)?;
        let opened = open_unnoted(&above.sides[0], &name, DIR_FLAGS | OFlags::NOFOLLOW);
        let fd = match opened {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(Errno::ACCESS | Errno::PERM) => {
                self.visitor.unreadable(&mut thread.worker, place.tree);
                return Ok(None);
            }
            Err(errno) => return Err(Error::io(Operation::OpenDirectory, path(), errno)),
        };
        let meta = Meta::of_file(&fd).context(Operation::Read, path)?;
        if self.excluded.contains(&meta.id()) || meta.dev != place.dev && is_mount_root(&fd) {
            return Ok(None);
        }
        let node = VisitedNode::below(parent, name, place, vec![fd], self.dirs);
        self.entries(thread, &node, &meta, since)?;
        Ok(Some(node))
    }

    fn entries<W>(
        &self,
        thread: &mut VisitThread<W>,
        node: &Arc<VisitedNode>,
        meta: &Meta,
        since: listing::Time,
    ) -> Result<(), Error>
    where
        V: Visitor<W>,
    {
        let tree = node.tree;
        let path = |name: &CStr| self.trees[tree].join(node.path_of(name));
        let handles = node.handles(self.dirs).context(Operation::OpenDirectory, || path(c""))?;
        let dir = &handles.sides[0];
        let found = |name, meta| Found { tree, dir, name, meta, node };
        self.visitor.visit(&mut thread.worker, &found(c".", *meta))?;
        let mut names = std::mem::take(&mut thread.names);
        // A directory that never rests may hide a name: the numbers are of a moment anyway.
        match names.list(dir, Before::opened(since, meta), &mut thread.buffer) {
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::io(Operation::ReadDirectory, path(c""), errno)),
        }
        for (name, kind) in names.iter() {
            if self.queue.stopped() {
                break;
            }
            if kind == FileType::Directory {
                self.descend(node, name);
                continue;
            }
            let meta = match Meta::at(dir, name) {
                Ok(meta) => meta,
                Err(Errno::NOENT) => continue,
                // A directory that may be listed and not entered.
                Err(Errno::ACCESS) => {
                    self.visitor.unreadable(&mut thread.worker, tree);
                    break;
                }
                Err(errno) => return Err(Error::io(Operation::Read, path(name), errno)),
            };
            if meta.file_type() == FileType::Directory {
                self.descend(node, name);
            } else {
                self.visitor.visit(&mut thread.worker, &found(name, meta))?;
            }
        }
        thread.names = names;
        Ok(())
    }

    fn descend(&self, node: &Arc<VisitedNode>, name: &CStr) {
        node.add_pending(1);
        self.queue.push(Ok((Arc::clone(node), name.to_owned())));
    }
}

//! A live directory as the [`Source`] of a tree. The walk opens every entry once for all
//! destinations.
//!
//! Other programs may change the directory meanwhile. By the time calve opens an entry, the entry
//! may be of another kind, or gone.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::engine::Worker;
use super::excluded::Excluded;
use super::file::Job;
use super::filter::{Decision, Filter, IgnoreChain};
use super::links::LaterName;
use super::listing::{self, Before, Names, Rest};
use super::op::{Dir, NewNode, Op, OpenNode, Task};
use super::pick::Picked;
use super::pool::lock;
use super::read::{open_unnoted, read_rules};
use super::source::{NamedEntry, Opened, Original, Source};
use super::special::Special;
use super::staging::{self, PREFIX};
use super::{CloneOptions, LinkKind, inside_own};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::copy::have_same_bytes;
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{Attrs, Meta};
use crate::report::SkipReason;

/// A live directory.
pub(super) struct Live<'a> {
    pub(super) filter: &'a Filter,
    /// The directory's absolute path, for symbolic links to it.
    pub(super) absolute: &'a Path,
    /// Directories that are inside the source but no part of it: the destinations.
    pub(super) excluded: Excluded,
    /// The directories that contain a directory `.git`, as paths from the root.
    pub(super) repositories: Mutex<Vec<PathBuf>>,
}

/// The data that the walk keeps about a directory.
#[derive(Debug)]
pub(super) struct LiveDirectory {
    /// The ignore files that apply to the directory's entries, once calve has read them.
    chain: OnceLock<Arc<IgnoreChain>>,
    /// The directory is excluded; calve enters it only because something below it is included.
    inside_excluded: bool,
    /// A time just before calve opened the directory. `None` for the root, which was opened long
    /// before.
    since: Option<listing::Time>,
}

/// A child directory that the walk found.
pub(super) struct Child {
    name: CString,
    inside_excluded: bool,
}

/// The values that each thread of the walk keeps.
pub(super) struct LiveThread {
    /// The buffer that the kernel lists directories into, and the names of the last listing.
    entries: Vec<MaybeUninit<u8>>,
    names: Names,
}

impl Source for Live<'_> {
    type Directory = LiveDirectory;
    type Child = Child;
    type Thread = LiveThread;

    const OPERATION: Operation = Operation::Clone;
    const SIDES: usize = 1;

    fn thread(&self) -> LiveThread {
        LiveThread { entries: vec![MaybeUninit::uninit(); 32 * 1024], names: Names::default() }
    }

    fn open(
        worker: &mut Worker<'_, '_, Self>,
        parent: &OpenNode<Self>,
        child: Child,
    ) -> Result<Option<Opened<Self>>, Error> {
        let since = listing::now();
        let (op, name) = (worker.op, &child.name);
        let source_path = || op.source_path(parent, name);
        let source = match open_unnoted(parent.source(), name, DIR_FLAGS | OFlags::NOFOLLOW) {
            Ok(source) => source,
            // The directory is gone, or is no directory any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                op.skip(None, parent.path_of(name), SkipReason::Vanished);
                return Ok(None);
            }
            Err(errno) => {
                return Err(Error::io(Operation::OpenDirectory, source_path(), errno));
            }
        };
        let meta = Meta::of_file(&source).context(Operation::Read, source_path)?;
        let filesystems = op.operation.filesystems();
        let is_left_out = |picked: &Arc<Picked>| {
            picked.leaves_out(&source, &meta, name, filesystems, || parent.path_of(name))
        };
        if op.from.excluded.has(&source, &meta, name, filesystems)
            || op.options.picked.as_ref().is_some_and(is_left_out)
        {
            return Ok(None);
        }
        let opened = Opened::live(op.options, source, meta, Some(since));
        let mut opened = opened.context(Operation::ReadAttributes, source_path)?;
        if name.as_c_str() == c".git" {
            lock(&op.from.repositories).push(parent.path());
        }
        opened.own.inside_excluded = child.inside_excluded;
        opened.name = child.name;
        Ok(Some(opened))
    }

    fn read(worker: &mut Worker<'_, '_, Self>, node: &OpenNode<Self>) -> Result<(), Error> {
        let op = worker.op;
        if op.from.filter.reads_ignore_files()
            && let Some(chain) = worker.read_ignore_files(node)?
        {
            let _ = node.own.chain.set(chain);
        }
        let before = match node.own.since {
            Some(since) => Before::opened(since, &node.meta),
            // calve may have made a stage in the root since it was opened.
            None => Before::rewound(node.source())
                .context(Operation::ReadDirectory, || op.path(node))?,
        };
        worker.read_directory(node, before)
    }

    fn file(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        entry: NamedEntry<'_>,
    ) -> Result<Option<Job<Self>>, Error> {
        worker.open_file(node, entry.name)
    }

    fn special(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        entry: NamedEntry<'_>,
    ) -> Result<Option<Special<Self>>, Error> {
        worker.look_at_special(node, entry)
    }

    fn original<'h>(
        op: &'h Op<'_, Self>,
        node: &'h OpenNode<Self>,
        entry: NamedEntry<'h>,
    ) -> Option<Original<'h>> {
        let absolute = match op.options.links().any(|kind| kind == LinkKind::Symbolic) {
            true => op.from.absolute.join(node.path_of(entry.name)),
            false => PathBuf::new(),
        };
        Some(Original {
            dir: node.source().as_fd(),
            name: entry.name,
            dev: node.meta.dev,
            absolute,
        })
    }

    fn is_same_file(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        name: &LaterName<Dir<Self>>,
    ) -> Result<bool, Error> {
        let op = worker.op;
        let path = || op.source_path(node, &name.name);
        let open =
            |dir: &OwnedFd, name: &CStr| match fs::openat(dir, name, SOURCE_FLAGS, Mode::empty()) {
                Ok(file) => Ok(Some(file)),
                Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
                Err(errno) => Err(Error::io(Operation::Open, path(), errno)),
            };
        let first = name.first.dir.handles(&op.dirs).context(Operation::OpenDirectory, path)?;
        let first = open(first.source(), &name.first.name)?;
        let Some((first, further)) = first.zip(open(node.source(), &name.name)?) else {
            return Ok(false);
        };
        have_same_bytes(&first, &further, || op.stopped()).map_err(|error| match op.stopped() {
            true => op.cancelled(),
            false => Error::io(Operation::Read, path(), error),
        })
    }

    fn attributes(&self, _: &NewNode<Self>, job: &Job<Self>) -> io::Result<Option<Box<Attrs>>> {
        let attrs = job.source.as_ref().map_or(Ok(None), Attrs::read)?;
        Ok(match job.has_another_mode() {
            true => attrs.and_then(|attrs| attrs.without_acls()),
            false => attrs,
        })
    }
}

impl Opened<Live<'_>> {
    /// Reads a directory's attributes. If the clone gets no attributes, its mode is the one without
    /// the ACL.
    pub(super) fn live(
        options: &CloneOptions,
        side: OwnedFd,
        meta: Meta,
        since: Option<listing::Time>,
    ) -> io::Result<Self> {
        let (meta, attrs) = match options.xattrs {
            true => (meta, Attrs::read(&side)?),
            false => (meta.leaving_acl(&side)?, None),
        };
        // If the entries are picked, the root itself is only entered.
        let inside_excluded = options.picked.is_some();
        let own = LiveDirectory { chain: OnceLock::new(), inside_excluded, since };
        Ok(Self { name: CString::default(), side: Some(side), meta, attrs, own })
    }
}

impl Worker<'_, '_, Live<'_>> {
    /// Puts the rules of the directory's `.gitignore` (and of `.git/info/exclude` in a repository) on
    /// top of the rules from above. Those do not hold in another repository, which has an index of
    /// its own, too.
    fn read_ignore_files(
        &self,
        node: &OpenNode<Live<'_>>,
    ) -> Result<Option<Arc<IgnoreChain>>, Error> {
        let path = node.path();
        let mut chain = node.parent.as_ref().and_then(|parent| parent.own.chain.get().cloned());
        #[cfg(feature = "git-index")]
        let repository = self.learn_index(node, &path)?;
        #[cfg(not(feature = "git-index"))]
        let repository: Option<OwnedFd> = None;
        let in_git: Option<(_, &[&CStr])> = match &repository {
            Some(git) => Some((git, &[c"info", c"exclude"])),
            None if path.as_os_str().is_empty() => {
                Some((node.source(), &[c".git", c"info", c"exclude"]))
            }
            None => None,
        };
        if repository.is_some() {
            chain = chain.map(|_| IgnoreChain::push(None, &path, b""));
        }
        for (dir, names) in in_git.into_iter().chain([(node.source(), &[c".gitignore"][..])]) {
            let text = read_rules(dir, names).context(Operation::Read, || {
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

    /// The repository of the working tree that the directory is, if it is one. Its index says what
    /// ignore files do not mean.
    #[cfg(feature = "git-index")]
    fn learn_index(
        &self,
        node: &OpenNode<Live<'_>>,
        path: &Path,
    ) -> Result<Option<OwnedFd>, Error> {
        let has_head =
            |git: &OwnedFd| fs::statat(git, c"HEAD", fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let repository = super::git_index::repository_of(node.source()).filter(has_head);
        if let Some(git) = &repository {
            let learned = self.op.from.filter.learn_index(git, path.to_owned());
            learned.context(Operation::Read, || self.op.source.join(path))?;
        }
        Ok(repository)
    }

    /// Whether links to the directory's entries would turn one store into two with the same files,
    /// or share one worktree's marker between two worktrees.
    fn is_own(&self, node: &NewNode<Live<'_>>) -> bool {
        let options = self.op.options;
        let links = options.links().next().is_some();
        // The source itself may be such a folder, or the repository around it.
        let above = self.op.from.absolute.iter().rev().take(2).collect::<Vec<_>>();
        let path = || above.iter().rev().collect::<PathBuf>().join(node.path());
        links && inside_own(&path()).is_some()
    }

    /// The kind of an entry, also where the listing does not say it. `None` if the entry is gone.
    fn kind_of(
        &self,
        node: &OpenNode<Live<'_>>,
        name: &CStr,
        listed: FileType,
    ) -> Result<Option<FileType>, Error> {
        if listed != FileType::Unknown {
            return Ok(Some(listed));
        }
        match Meta::at(node.source(), name) {
            Ok(meta) => Ok(Some(meta.file_type())),
            Err(Errno::NOENT) => {
                self.op.skip(None, node.path_of(name), SkipReason::Vanished);
                Ok(None)
            }
            Err(errno) => Err(Error::io(Operation::Read, self.op.source_path(node, name), errno)),
        }
    }

    fn read_directory(&mut self, node: &OpenNode<Live<'_>>, before: Before) -> Result<(), Error> {
        let op = self.op;
        let filtered = !op.from.filter.keeps_everything() || op.from.filter.has_mutable();
        let base = filtered.then(|| node.path());
        let is_own = self.is_own(node);
        let mut batch = Vec::new();
        let mut names = std::mem::take(&mut self.own.names);
        let rest = match names.list(node.source(), before, &mut self.own.entries) {
            // Somebody removed the directory after calve opened it. Each destination has it empty,
            // as it was at the end.
            Err(Errno::NOENT) if node.parent.is_some() => {
                op.skip(None, node.path(), SkipReason::Vanished);
                self.own.names = names;
                return Ok(());
            }
            listed => listed.context(Operation::ReadDirectory, || op.source.join(node.path()))?,
        };
        if rest == Rest::Restless {
            op.skip(None, node.path(), SkipReason::Restless);
        }
        if !op.operation.filesystems().of(node.source(), node.meta.dev).is_tested {
            names.once_each();
        }
        for (name, kind) in names.iter() {
            op.check()?;
            let bytes = name.to_bytes();
            let Some(kind) = self.kind_of(node, name, kind)? else { continue };
            let path = base.as_ref().map(|base| {
                use std::os::unix::ffi::OsStrExt;
                base.join(std::ffi::OsStr::from_bytes(bytes))
            });
            let is_dir = kind == FileType::Directory;
            let decision = match &path {
                Some(path) => op.from.filter.decide(
                    path,
                    is_dir,
                    node.own.inside_excluded,
                    node.own.chain.get(),
                ),
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
                    child: Child {
                        name: name.to_owned(),
                        inside_excluded: decision == Decision::Enter,
                    },
                });
                continue;
            }
            if bytes == b".git" && leads_out(node, name) {
                op.skip(None, node.path_of(name), SkipReason::SharedRepository);
            }
            let mutable =
                is_own || path.as_ref().is_some_and(|path| op.from.filter.is_mutable(path));
            if let Some(job) = self.entry(node, name.to_owned(), kind, mutable)? {
                batch.push(job);
                if batch.len() == op.budget.batch {
                    self.hand_over(node, std::mem::take(&mut batch))?;
                }
            }
        }
        self.hand_over(node, batch)?;
        self.own.names = names;
        Ok(())
    }
}

/// Whether a file `.git` leads git out of the source, to what a clone would share with it.
fn leads_out(node: &OpenNode<Live<'_>>, name: &CStr) -> bool {
    let Ok(Some(text)) = read_rules(node.source(), &[name]) else { return false };
    let Some(path) = text.strip_prefix(b"gitdir: ") else { return false };
    let path = Path::new(OsStr::from_bytes(path.trim_ascii_end()));
    let mut deep = node.path().components().count();
    path.components().any(|part| match part {
        Component::RootDir => true,
        Component::ParentDir => deep.checked_sub(1).map(|up| deep = up).is_none(),
        Component::Normal(_) => {
            deep += 1;
            false
        }
        _ => false,
    })
}

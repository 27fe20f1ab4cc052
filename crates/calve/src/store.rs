//! L3: the store, which keeps snapshots by their content.
//!
//! A [`Store`] keeps the trees of a project as they were at some moments. It keeps each content
//! once, as a file that worktrees can be cloned from.
//!
//! [`scan`] reads a tree, and [`blobs`] takes its files in. [`object`] and [`manifest`] describe a
//! snapshot, and [`catalog`] keeps it. [`materialize`] makes trees of it. [`pack`] compresses
//! content that no worktree uses. [`locks`] keep processes apart. [`format`](mod@format) says which
//! versions of calve can use a store.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::{Filesystem, Filesystems};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::Meta;
use crate::report::{Cancel, Progress};
use crate::tree::running::Running;
use crate::tree::staging::{Stage, StagedFile};

pub(crate) mod at;
pub(crate) mod background;
pub(crate) mod blobs;
pub(crate) mod bring;
pub(crate) mod catalog;
pub(crate) mod clock;
mod contents;
pub(crate) mod delta;
mod discover;
pub(crate) mod files;
pub(crate) mod format;
mod freeing;
pub(crate) mod gc;
pub(crate) mod git;
pub(crate) mod history;
pub(crate) mod home;
pub(crate) mod id;
pub(crate) mod index;
pub(crate) mod layout;
pub(crate) mod locks;
pub(crate) mod manifest;
pub(crate) mod marker;
pub(crate) mod materialize;
pub(crate) mod metadata;
mod name;
pub(crate) mod object;
pub(crate) mod overlay;
pub(crate) mod ownership;
pub(crate) mod pack;
pub(crate) mod packing;
pub(crate) mod paths;
pub(crate) mod reach;
pub(crate) mod ready;
pub(crate) mod registry;
#[cfg(feature = "remote")]
pub(crate) mod remote;
pub(crate) mod repair;
pub(crate) mod room;
pub(crate) mod scan;
pub(crate) mod snapshot;
pub(crate) mod sparse;
pub(crate) mod stats;
pub(crate) mod stopping;

pub(crate) mod trash;
pub(crate) mod undo;
pub(crate) mod unnamed;
mod upkeep;
pub(crate) mod verify;

pub use gc::{GcOptions, GcReport};
pub use home::NotInGit;
pub use id::{BlobId, SnapshotId};
pub use packing::{PackOptions, PackReport, WarmReport};
pub use paths::found::{PathKept, PathMention};
pub use paths::{PathKind, PathMeaning};
pub use ready::ReadyReport;
pub use snapshot::query::{Snapshot, SnapshotLog};
pub use snapshot::{SnapshotOptions, SnapshotReport};
pub use stats::StoreStats;
pub use unnamed::NamingReport;
pub use verify::{Damage, DamageKind, VerifyOptions, VerifyReport};

pub use discover::Discovered;

pub(crate) use catalog::PROJECT;
pub(crate) use clock::now;
pub(crate) use files::{bytes_of, listed, open_plain, parent_of, path_from, read_plain};
pub(crate) use id::token;
pub(crate) use layout::is_pack_name;
pub(crate) use marker::{MarkPlace, Marker};

use blobs::Blobs;
use catalog::{Catalog, State, WorktreeRow};
use contents::{Contents, OpenPacks};
use index::Stat;
use layout::{Layout, OWN};
use registry::Registry;

/// The stamp of an index that vouches for nothing.
const NEVER: (i64, u32) = (i64::MIN, 0);

/// How often calve asks, once a millisecond, whether the clock has moved past the last change.
const CLOCK_TRIES: u32 = 50;

/// How an operation on a store works; built by value.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    pub(crate) jobs: Option<NonZeroUsize>,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Arc<Progress>,
}

impl StoreOptions {
    /// The defaults: as many threads as processors, but at most 8; nothing stops the operation, and
    /// nobody is told of its progress.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many threads work.
    #[must_use]
    pub fn jobs(mut self, jobs: NonZeroUsize) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// A token by which the operation can be stopped.
    #[must_use]
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Counters that another thread may read during the call.
    #[must_use]
    pub fn progress(mut self, progress: &Arc<Progress>) -> Self {
        self.progress = Arc::clone(progress);
        self
    }

    /// An operation with these options.
    pub(crate) fn operation(&self) -> Running {
        Running::new(self.jobs, &self.cancel, &self.progress)
    }
}

/// A store of snapshots. Cheap to clone: clones are the same open store.
///
/// Any number of threads and processes may use one at once. Only [`Store::gc`] and a repairing
/// [`Store::verify`] need the store for themselves, for moments.
///
/// # Errors of every operation
/// The methods do not repeat these: [`ErrorKind::Damaged`] if calve cannot read the database or a
/// needed object; [`ErrorKind::Busy`] if other processes keep the database locked;
/// [`ErrorKind::ReadOnly`] for every method that writes; [`ErrorKind::PermissionDenied`],
/// [`ErrorKind::StorageFull`] and [`ErrorKind::Io`]; [`ErrorKind::Cancelled`] for every method with
/// [`StoreOptions`]. A method that only reads changes nothing, even if it fails.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    catalog: Catalog,
    blobs: Blobs,
    packs: OpenPacks,
    filesystem: &'static Filesystem,
    read_only: bool,
    /// The errno that said that there is no room to write anything.
    full: Option<i32>,
}

impl Store {
    /// Makes a store for the project at `project`: in the folder `calve` of its git repository, which
    /// all working trees of the repository share, or in its folder `.calve` if it has none.
    /// [`Store::why_not_in_git`] says why a project with a repository has it in `.calve`.
    ///
    /// # Errors
    /// [`ErrorKind::StoreExists`] if there is a store already, also if it is that of another working
    /// tree of the same repository. [`ErrorKind::DestinationExists`] if
    /// something else is in its place; an empty folder is no obstacle. [`ErrorKind::Overlap`] if
    /// the project is a worktree or a part of a store. If it fails, it leaves nothing behind.
    pub fn init(project: impl AsRef<Path>) -> Result<Self, Error> {
        Self::init_with(project.as_ref(), None)?.pointed()
    }

    /// Makes a store for the project at `project` in the folder `store`, which may be elsewhere.
    ///
    /// On the project's filesystem the store and the worktrees share blocks with the project. On
    /// another one, which can share blocks while the project's cannot, each content is copied there
    /// once, and the worktrees share it.
    ///
    /// The project gets a small file that says where the store is, see [`Store::point_project`]. A
    /// project that may not be written to goes without.
    ///
    /// # Errors
    /// As for [`Store::init`]. [`ErrorKind::StoreExists`] also if the project has a store that is
    /// somewhere else; [`ErrorKind::StoreNotFound`] if that store is not there now.
    pub fn init_at(project: impl AsRef<Path>, store: impl AsRef<Path>) -> Result<Self, Error> {
        Self::init_with(project.as_ref(), Some(store.as_ref()))?.pointed()
    }

    /// The new store, after its project leads to it, if that may be written to.
    fn pointed(self) -> Result<Self, Error> {
        match self.point_project() {
            Err(error) if !is_refused(error.io_error()) => Err(error),
            _ => Ok(self),
        }
    }

    /// Makes a store for a project that is in a stage. Nobody else may open it before it has its
    /// place, and it must get that after [`flush`](Self::flush).
    #[cfg(feature = "remote")]
    pub(crate) fn init_in_stage(project: &Path) -> Result<Self, Error> {
        let mut store = Self::init(project)?;
        if let Some(inner) = Arc::get_mut(&mut store.0) {
            inner.blobs.in_stage();
        }
        Ok(store)
    }

    fn init_with(project: &Path, store: Option<&Path>) -> Result<Self, Error> {
        let project = std::fs::canonicalize(project).context(Operation::OpenProject, || project)?;
        if !project.is_dir() {
            return Err(Error::io(Operation::OpenProject, project, Errno::NOTDIR));
        }
        let home = || home::for_new(&project).context(Operation::LookAt, || git::git_of(&project));
        let path = store.map_or_else(|| Ok(home()?.0), |path| Ok(path.to_owned()))?;
        let inside = |why: &str| {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
            Error::new(ErrorKind::Overlap, Operation::MakeStoreFor, &project, cause)
        };
        let is_store = |folder: &Path| {
            folder.file_name().is_some_and(|name| name == OWN) && Layout(folder).has_store()
        };
        // Worktrees may be there, and each is a project of its own.
        if is_store(&project) || project.parent().is_some_and(is_store) {
            return Err(inside("it is a part of a store"));
        }
        if store.is_none() && Marker::read(&MarkPlace::of_worktree(&project))?.is_some() {
            return Err(inside("it is a worktree, and its store is elsewhere"));
        }
        if git::is_in_repository(&project) {
            let cause =
                io::Error::new(io::ErrorKind::Unsupported, "it is git's own folder, or inside one");
            return Err(Error::new(ErrorKind::Overlap, Operation::MakeStoreFor, project, cause));
        }
        must_have_no_other(&project, store, &path)?;
        let (parent, name) = parent_of(&path)?;
        let dir =
            fs::open(&parent, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &parent)?;
        // Do this before making a stage, which would change the project. An empty folder counts as
        // none. Only remove an existing folder: a read-only filesystem refuses to remove a missing
        // one.
        let removed = std::fs::symlink_metadata(&path).and_then(|_| std::fs::remove_dir(&path));
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) if Layout(&path).has_store() => {
                return Err(Error::new(
                    ErrorKind::StoreExists,
                    Operation::MakeStore,
                    path,
                    Errno::EXIST,
                ));
            }
            Err(_) => {
                let cause = io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something that is not a store is there: it has no file 'format'",
                );
                return Err(Error::new(
                    ErrorKind::DestinationExists,
                    Operation::MakeStore,
                    path,
                    cause,
                ));
            }
        }
        crate::tree::staging::sweep(&dir);
        let mut stage = Stage::empty(dir, &parent).context(Operation::MakeStoreIn, || &parent)?;
        let inside = stage.path();
        let layout = Layout(&inside);
        let fill = || -> io::Result<()> {
            for folder in layout::FOLDERS {
                std::fs::create_dir(inside.join(folder))?;
            }
            locks::must_hold(&inside)?;
            room::keep(&inside);
            // Write this file in place, before the stage gets the store's name: without it there is
            // no store.
            let mut format = std::fs::File::create_new(layout.format())?;
            io::Write::write_all(&mut format, format::new(&inside).as_bytes())?;
            format.sync_all()?;
            // A repository around the project need not know.
            std::fs::write(layout.git_ignore(), "*\n")
        };
        fill().context(Operation::MakeStoreIn, || &parent)?;
        let catalog = Catalog::create(&layout.database())?;
        let in_project = store.is_none() && layout::project_around(&path) == project;
        let row = WorktreeRow {
            name: PROJECT.to_owned(),
            token: token(),
            // Found by the store's place, so that both can be moved together; or by its path.
            path: if in_project { Vec::new() } else { bytes_of(&project) },
            snapshot: None,
            state: State::Ready,
            target: None,
            maker: String::new(),
            created: now().0,
            git: None,
            slot: None,
        };
        catalog.add_project(&row)?;
        drop(catalog);
        let name = std::ffi::CString::new(name.as_encoded_bytes())
            .map_err(|error| Error::io(Operation::MakeStore, &path, io::Error::other(error)))?;
        match stage.publish(&name) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::new(ErrorKind::StoreExists, Operation::MakeStore, path, error));
            }
            Err(error) => return Err(error).context(Operation::MakeStore, || &path),
        }
        stage.sync_parent().context(Operation::Flush, || &parent)?;
        let store = Self::open(&path)?;
        // Only a project that is moved and has no mark needs it.
        let _ = store.registry().note_root(&row, &project);
        Ok(store)
    }

    /// Opens the store at `path`: the folder of the store itself, not the project.
    ///
    /// A store may be read-only, because of its filesystem or of a missing permission. Then calve
    /// can read it and start trees from it. If the disk is full, calve can read the store and free
    /// space in it: [`Store::gc`], [`Worktree::drop`](crate::Worktree::drop).
    ///
    /// # Errors
    /// [`ErrorKind::StoreNotFound`]; [`ErrorKind::StoreIncompatible`] if a later version of calve
    /// wrote the store. Nothing is changed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_by(path.as_ref(), Catalog::open)
    }

    /// Like [`Store::open`], with hardly any room on the disk.
    fn open_in_reserve(path: &Path) -> Result<Self, Error> {
        Self::open_by(path, Catalog::open_in_reserve)
    }

    fn open_by(
        given: &Path,
        open: impl Fn(&Path) -> Result<Catalog, Error>,
    ) -> Result<Self, Error> {
        let path = match std::fs::canonicalize(given) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::new(
                    ErrorKind::StoreNotFound,
                    Operation::OpenStore,
                    given,
                    error,
                ));
            }
            Err(error) => return Err(error).context(Operation::OpenStore, || given),
        };
        // From here on, each part of the store must be what its name says.
        format::must_be_in_one_place(&path)?;
        format::check(&path)?;
        let may_write = files::may_write(&path).context(Operation::OpenStore, || &path)?;
        let read_only = !may_write;
        if !read_only {
            format::must_be_of_this_side(&path)?;
            make_missing_folders(&path)?;
        }
        let database = Layout(&path).database();
        let opened = if read_only { Catalog::open_read_only(&database) } else { open(&database) };
        let (catalog, full) = match opened {
            Err(error) if error.kind() == ErrorKind::StorageFull => Catalog::of_full(&path, error)?,
            opened => (opened?, None),
        };
        let read_only = read_only || full.is_some();
        let blobs = Blobs::open(&path).context(Operation::OpenStore, || &path)?;
        let packs = OpenPacks::default();
        let filesystem = Filesystem::of(&path);
        let inner = Inner { path, catalog, blobs, packs, filesystem, read_only, full };
        let store = Self(Arc::new(inner));
        if !read_only {
            store.sweep_stage();
        }
        Ok(store)
    }

    /// The path of the store.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What its filesystem can do. A filesystem may be mounted over a part of it, but not over all.
    pub(crate) fn filesystem(&self) -> &'static Filesystem {
        self.0.filesystem
    }

    pub(crate) fn layout(&self) -> Layout<'_> {
        Layout(&self.0.path)
    }

    /// The state of its worktrees.
    pub(crate) fn registry(&self) -> Registry<'_> {
        let is_read_only = self.is_read_only();
        Registry { layout: self.layout(), catalog: self.catalog(), is_read_only }
    }

    /// Whether nothing can be added or changed.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    /// The folder that the snapshots are of.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn project(&self) -> Result<PathBuf, Error> {
        let row = self.catalog().worktree(PROJECT)?;
        let inside = || layout::project_around(self.path()).to_owned();
        Ok(row.map_or_else(inside, |row| self.registry().root_of(&row)))
    }

    /// Whether there is no room to write anything.
    pub(crate) fn is_full(&self) -> bool {
        self.0.full.is_some()
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The content of its blobs, from mirrors and packs.
    pub(crate) fn contents(&self) -> Contents<'_> {
        Contents {
            layout: self.layout(),
            catalog: self.catalog(),
            blobs: self.blobs(),
            packs: &self.0.packs,
            is_read_only: self.is_read_only(),
        }
    }

    /// The shared lock: while the caller holds it, no process removes content. `None` for a
    /// read-only store, which has no locks.
    pub(crate) fn share(&self) -> Result<Option<locks::Guard>, Error> {
        if self.0.read_only { Ok(None) } else { locks::share(&self.0.path).map(Some) }
    }

    /// Fails where the store cannot be written to.
    pub(crate) fn must_be_writable(&self, operation: Operation) -> Result<(), Error> {
        if !self.0.read_only {
            return Ok(());
        }
        if let Some(errno) = self.0.full {
            return Err(Error::io(operation, self.path(), io::Error::from_raw_os_error(errno)));
        }
        let cause = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "calve cannot write to it");
        Err(Error::new(ErrorKind::ReadOnly, operation, self.path(), cause))
    }

    /// The time now, by the clock of this store's filesystem.
    pub(crate) fn clock(&self) -> Result<(i64, u32), Error> {
        let take = || clock_in(&fs::open(self.layout().stage(), DIR_FLAGS, Mode::empty())?);
        take().context(Operation::Use, || &self.0.path)
    }

    /// The stamp of an index of the open tree `root`, if calve looks at the tree now. `ours` is one
    /// of the store's clock. It holds for the tree, unless the tree's filesystem has a clock of its
    /// own, or one of whole seconds. Then it is the time that a file gets which is made in `folder`,
    /// on that filesystem, or else in calve's own folder of the tree, or in the tree's root. If none
    /// can be made there, the index vouches for nothing.
    pub(crate) fn stamp_of(
        root: &OwnedFd,
        folder: Option<&OwnedFd>,
        ours: (i64, u32),
        filesystems: &Filesystems,
    ) -> (i64, u32) {
        let seconds_only = |meta: &Meta| meta.changed.1 == 0 && meta.modified().1 == 0;
        let Ok(meta) = Meta::of_file(root) else { return NEVER };
        if filesystems.of(root, meta.dev).clock && !seconds_only(&meta) {
            return ours;
        }
        let own = || fs::openat(root, OWN, DIR_FLAGS | fs::OFlags::NOFOLLOW, Mode::empty());
        let taken = match (folder, own()) {
            (Some(folder), _) => clock_in(folder),
            (None, Ok(own)) => clock_in(&own),
            (None, Err(_)) => clock_in(root),
        };
        taken.unwrap_or(NEVER)
    }

    /// Returns a time of the clock that is later than every change in `stats`, so that an index can
    /// trust them.
    pub(crate) fn clock_past_all<'s>(
        &self,
        stats: impl Iterator<Item = &'s Stat>,
    ) -> Result<(i64, u32), Error> {
        self.clock_past(stats.map(|stat| stat.changed).max().unwrap_or_default())
    }

    /// Like [`Store::clock`], but later than `last`.
    pub(crate) fn clock_past(&self, last: (i64, u32)) -> Result<(i64, u32), Error> {
        let mut now = self.clock()?;
        for _ in 0..CLOCK_TRIES {
            if now > last {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            now = self.clock()?;
        }
        Ok(now)
    }

    /// Flushes all new content to the disk, then seals the copied mirrors.
    pub(crate) fn flush(&self, unsealed: &[BlobId]) -> Result<(), Error> {
        // Later than every mirror that was made until here.
        let now = if unsealed.is_empty() { (0, 0) } else { self.clock_past(self.clock()?)? };
        self.blobs().flush(unsealed).context(Operation::Flush, || &self.0.path)?;
        self.blobs().seal(unsealed, now).context(Operation::Seal, || &self.0.path)
    }

    /// The same, and flushes the new content of `trees` that are on other filesystems.
    pub(crate) fn flush_with<'a>(
        &self,
        unsealed: &[BlobId],
        trees: impl Iterator<Item = &'a OwnedFd>,
    ) -> Result<(), Error> {
        self.flush(unsealed)?;
        let flush = || -> io::Result<()> {
            let device = |dir: &OwnedFd| Ok::<_, io::Error>(Meta::of_file(dir)?.dev);
            let mut flushed = vec![device(self.blobs().dir())?];
            for tree in trees {
                let device = device(tree)?;
                // Where one call does not flush all, each tree is flushed on its own.
                if !flushed.contains(&device) || !Filesystem::of_file(tree).flushes {
                    crate::tree::staging::flush_filesystem(tree)?;
                    flushed.push(device);
                }
            }
            Ok(())
        };
        flush().context(Operation::Flush, || &self.0.path)
    }

    /// Removes what killed processes left in `stage`.
    fn sweep_stage(&self) {
        if let Ok(dir) = fs::open(self.layout().stage(), DIR_FLAGS, Mode::empty()) {
            crate::tree::staging::sweep(&dir);
        }
    }
}

/// Fails if the project says that its store is somewhere else than at `path`. A store that the user
/// names may be another one than that in the project.
fn must_have_no_other(project: &Path, named: Option<&Path>, path: &Path) -> Result<(), Error> {
    let own = layout::own(project);
    let in_git = home::store_in_git(project).context(Operation::Read, || git::git_of(project))?;
    let inside = Layout(&own).has_store().then_some(own).or(in_git);
    match inside {
        Some(other) if named.is_none() && other != path => {
            let cause = Errno::EXIST;
            return Err(Error::new(ErrorKind::StoreExists, Operation::MakeStore, other, cause));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let Some(Marker { store, .. }) = Marker::read(&MarkPlace::of_project(project))? else {
        return Ok(());
    };
    let is_same = store == path
        || std::fs::canonicalize(path).is_ok_and(|path| path == store)
        || parent_of(path).is_ok_and(|(parent, name)| {
            std::fs::canonicalize(parent).is_ok_and(|parent| parent.join(name) == store)
        });
    if is_same {
        return Ok(());
    }
    if Layout(&store).has_store() {
        let cause = io::Error::from(Errno::EXIST);
        return Err(Error::new(ErrorKind::StoreExists, Operation::MakeStore, store, cause));
    }
    let gone = io::Error::new(io::ErrorKind::NotFound, "no store is there");
    Err(Error::new(ErrorKind::StoreNotFound, Operation::FindStoreOfProject, project, gone)
        .with_other(store))
}

/// Makes the empty folders of a store again: git has none, so `git stash -a` loses those of a store
/// that is in the tree.
fn make_missing_folders(store: &Path) -> Result<(), Error> {
    for folder in layout::FOLDERS.map(|name| store.join(name)) {
        files::make_folder(&folder).context(Operation::MakeFolder, || folder)?;
    }
    Ok(())
}

/// Whether we may not make this folder, or may not make anything in it. After any other error we do
/// not try another folder, and do not go on without it.
pub(crate) fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem | AlreadyExists | NotADirectory)
}

/// The time that a file gets which is made in this folder.
fn clock_in(folder: &OwnedFd) -> io::Result<(i64, u32)> {
    let staged = StagedFile::new(folder);
    let file = fs::openat(folder, &staged.path, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
    Ok(scan::stat_of(&Meta::of_file(&file)?).changed)
}

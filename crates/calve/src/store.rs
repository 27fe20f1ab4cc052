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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::filesystem::Filesystem;
use crate::report::{Cancel, Progress};
use crate::tree::running::Running;

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
mod holder;
pub(crate) mod home;
pub(crate) mod id;
pub(crate) mod index;
pub(crate) mod layout;
pub(crate) mod locks;
pub(crate) mod make;
pub(crate) mod manifest;
pub(crate) mod marker;
pub(crate) mod materialize;
pub(crate) mod merged;
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
pub(crate) mod secrets;
pub(crate) mod snapshot;
pub(crate) mod sparse;
pub(crate) mod stamps;
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
pub use paths::secrets::{Secret, SecretKind};
pub use paths::{PathKind, PathMeaning};
pub use ready::ReadyReport;
pub use secrets::secrets_in;
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
use catalog::Catalog;
use contents::{Contents, OpenPacks};
use layout::Layout;
use registry::Registry;
use stamps::StoreClock;

/// How an operation on a store works; built by value.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    pub(crate) jobs: Option<NonZeroUsize>,
    pub(crate) cancel: Cancel,
    pub(crate) progress: Arc<Progress>,
}

impl StoreOptions {
    /// An operation with these options.
    pub(crate) fn operation(&self) -> Running {
        Running::new(self.jobs, &self.cancel, &self.progress)
    }
}

setters! { StoreOptions:
    /// The defaults: as many threads as processors, but at most 8; nothing stops the operation, and
    /// nobody is told of its progress.
    pub fn new(),
    /// How many threads work.
    pub jobs: NonZeroUsize = Some(jobs),
    /// A token by which the operation can be stopped.
    pub cancel: &Cancel = cancel.clone(),
    /// Counters that another thread may read during the call.
    pub progress: &Arc<Progress> = Arc::clone(progress),
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
        opened(path.as_ref(), Catalog::open)
    }

    /// Like [`Store::open`], with hardly any room on the disk.
    fn open_in_reserve(path: &Path) -> Result<Self, Error> {
        opened(path, Catalog::open_in_reserve)
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
        Registry {
            layout: self.layout(),
            catalog: self.catalog(),
            is_read_only: self.is_read_only(),
        }
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
        Ok(match self.catalog().worktree(PROJECT)? {
            Some(row) => self.registry().root_of(&row),
            None => layout::project_around(self.path()).to_owned(),
        })
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

    /// The clock of its filesystem.
    pub(crate) fn clock(&self) -> StoreClock<'_> {
        StoreClock(self.layout())
    }

    /// The shared lock: while the caller holds it, no process removes content. `None` for a
    /// read-only store, which has no locks.
    pub(crate) fn share(&self) -> Result<Option<locks::Guard>, Error> {
        if self.0.read_only { Ok(None) } else { locks::share(&self.0.path).map(Some) }
    }

    /// Fails where the store cannot be written to.
    pub(crate) fn must_be_writable(&self, operation: Operation) -> Result<(), Error> {
        match self.0.full {
            _ if !self.0.read_only => Ok(()),
            Some(errno) => {
                Err(Error::io(operation, self.path(), io::Error::from_raw_os_error(errno)))
            }
            None => Err(read_only(operation, self.path())),
        }
    }
}

fn opened(given: &Path, open: impl Fn(&Path) -> Result<Catalog, Error>) -> Result<Store, Error> {
    let path = match std::fs::canonicalize(given) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::StoreNotFound, Operation::OpenStore, given, error));
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
    let store = Store(Arc::new(inner));
    if !read_only {
        trash::sweep_stage(store.layout());
    }
    Ok(store)
}

fn read_only(operation: Operation, path: &Path) -> Error {
    let cause = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "calve cannot write to it");
    Error::new(ErrorKind::ReadOnly, operation, path, cause)
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

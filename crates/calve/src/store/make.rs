//! Makes a store.

use std::io;
use std::path::Path;
#[cfg(feature = "remote")]
use std::sync::Arc;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::catalog::{Catalog, State, WorktreeRow};
use super::discover::{hidden_project, tree_with};
use super::layout::{self, Layout};
use super::{
    MarkPlace, Marker, PROJECT, Store, bytes_of, format, git, home, is_refused, locks, now,
    parent_of, room, token,
};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::tree::staging::{self, Stage};

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
        pointed(made(project.as_ref(), None)?)
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
    /// [`ErrorKind::Overlap`] also if the store would be content of another project or of a worktree,
    /// or of this project and that has a store.
    pub fn init_at(project: impl AsRef<Path>, store: impl AsRef<Path>) -> Result<Self, Error> {
        pointed(made(project.as_ref(), Some(store.as_ref()))?)
    }
}

/// The new store, after its project leads to it, if that may be written to.
fn pointed(store: Store) -> Result<Store, Error> {
    match store.point_project() {
        Err(error) if !is_refused(error.io_error()) => Err(error),
        _ => Ok(store),
    }
}

/// Makes a store for a project that is in a stage. Nobody else may open it before it has its
/// place, and it must get that after [`flush`](super::contents::Contents::flush).
#[cfg(feature = "remote")]
pub(crate) fn in_stage(project: &Path) -> Result<Store, Error> {
    let mut store = Store::init(project)?;
    if let Some(inner) = Arc::get_mut(&mut store.0) {
        inner.blobs.in_stage();
    }
    Ok(store)
}

fn made(project: &Path, store: Option<&Path>) -> Result<Store, Error> {
    let project = std::fs::canonicalize(project).context(Operation::OpenProject, || project)?;
    if !project.is_dir() {
        return Err(Error::io(Operation::OpenProject, project, Errno::NOTDIR));
    }
    let home = || home::for_new(&project).context(Operation::LookAt, || git::git_of(&project));
    let path = store.map_or_else(|| Ok(home()?.0), |path| Ok(path.to_owned()))?;
    must_be_a_project(&project, store.is_none())?;
    must_have_no_other(&project, store, &path)?;
    let (parent, name) = parent_of(&path)?;
    if store.is_some() && !Layout(&path).has_store() {
        Store::must_be_outside(&path)?;
        must_be_in_no_tree(&parent.join(&name))?;
    }
    let dir = fs::open(&parent, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &parent)?;
    // Before there is a stage, which would change the project.
    remove_empty(&path)?;
    staging::sweep(&dir);
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
    // As all that come later open it, with shared memory: a filesystem that has none (9p) refuses
    // that now, while nothing is there that would stay.
    drop(Catalog::open(&layout.database())?);
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
    let store = Store::open(&path)?;
    // Only a project that is moved and has no mark needs it.
    let _ = store.registry().note_root(&row, &project);
    Ok(store)
}

/// Fails in a store, in git's own folder, and in a worktree, unless the store will be elsewhere.
fn must_be_a_project(project: &Path, store_is_inside: bool) -> Result<(), Error> {
    Store::must_be_outside(project)?;
    let refused = |kind, why: &str| {
        let cause = io::Error::new(kind, why.to_owned());
        Err(Error::new(ErrorKind::Overlap, Operation::MakeStoreFor, project, cause))
    };
    if store_is_inside && Marker::read(&MarkPlace::of_worktree(project))?.is_some() {
        let why = "it is a worktree, and its store is elsewhere";
        return refused(io::ErrorKind::InvalidInput, why);
    }
    if store_is_inside && let Some(error) = hidden_project(project) {
        return Err(error);
    }
    if git::is_in_repository(project) {
        return refused(io::ErrorKind::Unsupported, "it is git's own folder, or inside one");
    }
    Ok(())
}

/// Fails if snapshots of a project or of a worktree would have the store in them.
fn must_be_in_no_tree(store: &Path) -> Result<(), Error> {
    let Some(root) = tree_with(store) else { return Ok(()) };
    let why =
        "it is inside a project or a worktree: a restore there would take back newer snapshots";
    let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
    Err(Error::new(ErrorKind::Overlap, Operation::MakeStore, store, cause).with_other(root))
}

/// Removes an empty folder, which is as good as none, from the place of a new store.
fn remove_empty(path: &Path) -> Result<(), Error> {
    // A read-only filesystem also refuses to remove a folder that is not there.
    match std::fs::symlink_metadata(path).and_then(|_| std::fs::remove_dir(path)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) if Layout(path).has_store() => {
            Err(Error::new(ErrorKind::StoreExists, Operation::MakeStore, path, Errno::EXIST))
        }
        Err(_) => {
            let why = "something that is not a store is there: it has no file 'format'";
            let cause = io::Error::new(io::ErrorKind::AlreadyExists, why);
            Err(Error::new(ErrorKind::DestinationExists, Operation::MakeStore, path, cause))
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

//! Checks a snapshot of a remote out into a new project: a store, and the snapshot's tree around
//! it.
//!
//! calve makes both in one stage beside the folder, and renames the stage into place when it is
//! complete. So the folder is a whole project or stays as it was. A killed process leaves a stage,
//! and the next calve process that works in the folder's parent sweeps it. A checkout that was
//! stopped starts over, and uses nothing of the old stage.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, Gid, Uid};

use super::super::open_dir;
use super::arrive::fill;
use super::dress::{Dressing, Origin, Outfit};
use super::git::GitPlan;
use super::{NoRepository, PathMode};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::meta::{self, Attrs, Meta};
use crate::report::DestinationReport;
use crate::store::catalog::State;
use crate::store::index::{Boot, Index};
use crate::store::layout::own;
use crate::store::materialize::wanted;
use crate::store::paths::found::PathMention;
use crate::store::ready::{Arrived, TreePlace, places, publish_all, unpublish_all};
use crate::store::registry::no_worktree;
use crate::store::remote::{KnownRemote, PullOptions, PullReport, Remote};
use crate::store::stamps::stamp_of;
use crate::store::{PROJECT, Store, StoreOptions, make, parent_of};
use crate::tree::running::Running;
use crate::tree::staging::Stage;

/// The options of a checkout; built by value.
#[derive(Debug, Clone)]
pub struct CheckoutOptions {
    remote: String,
}

impl Default for CheckoutOptions {
    fn default() -> Self {
        Self { remote: "origin".to_owned() }
    }
}

setters! { CheckoutOptions:
    /// The new store knows the remote as `origin`.
    pub fn new(),
    /// The name by which the new store knows the remote.
    pub remote: impl Into<String> = remote.into(),
}

/// What [`Remote::checkout`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CheckoutReport {
    /// The new store, in the folder `.calve` of the new project.
    pub store: Store,
    /// The report of the pull.
    pub pulled: PullReport,
    /// How the project's files were made, and how many. The path is the project's root.
    pub report: DestinationReport,
    /// The size of all its files, in bytes.
    pub bytes: u64,
    /// The files that named the root of the project that the snapshot was taken of, sorted by path.
    /// If [`PathMention::kept`] is `None`, the file names the new root. Then it differs from the
    /// snapshot.
    pub mentions: Vec<PathMention>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

impl Remote {
    /// Makes a project at `root` from a snapshot: pulls the snapshot into a new store in
    /// `root/.calve`, and makes its tree around that. `what` is a name of this remote, or the whole
    /// id of a snapshot. At `root` there must be nothing, or an empty folder; its parent must
    /// exist. The project replaces an empty folder, and its root has that folder's owner, mode and
    /// ACLs instead of the snapshot's. If they differ, the root counts as changed. Everything
    /// inside has the metadata of the snapshot, and inherits nothing from the folder.
    ///
    /// The snapshot is the base of the project, so [`Worktree::status`](crate::Worktree::status)
    /// finds nothing to read. The store knows the remote by the name in `options`, with the keys
    /// that this remote is [trusting](Remote::trusting). Snapshots have no `.git`, so the project
    /// has no repository. Files that name the root of the project that the snapshot was taken of
    /// (Python environments) get the new one, and count as changed since the snapshot.
    ///
    /// On a filesystem that cannot share blocks, each content takes its room twice: in the store,
    /// and in the tree.
    ///
    /// # Errors
    /// [`ErrorKind::DestinationExists`], also if `root` is a mount point or a subvolume, even an
    /// empty one; [`ErrorKind::PermissionDenied`] if it is an empty folder with an owner or a group
    /// that this process cannot give; both before anything is fetched. [`ErrorKind::Overlap`] if
    /// `root` would be a part of a store; [`ErrorKind::Damaged`] also if the snapshot has a
    /// `.calve` or a `.git` in its root, which no snapshot of a project has; those of
    /// [`Remote::pull`] and [`KnownRemote::add`]. Nothing is left behind, and what was fetched is
    /// lost.
    pub fn checkout(
        &self,
        root: impl AsRef<Path>,
        what: &str,
        options: &CheckoutOptions,
        common: &StoreOptions,
    ) -> Result<CheckoutReport, Error> {
        let started = Instant::now();
        let root = absolute(root.as_ref())?;
        Store::must_be_outside(&root)?;
        let place = places(std::iter::once(root.clone()), Operation::CheckOutInto)?;
        let stage = place[0].stage()?;
        let (pulled, report, mentions, bytes) = {
            let kept = match place[0].empty {
                Some(_) => Some(Kept::of(&root, &stage)?),
                None => None,
            };
            let store = make::in_stage(&stage.path()).map_err(|error| error.with_path(&root))?;
            KnownRemote::add(&store, &options.remote, self)?;
            let pulled = self.pull(&store, what, &PullOptions::new(), common)?;
            // Contents count as they arrive. Around them the tree is made at once, or copied.
            let operation = &common.operation().uncounted();
            let (report, bytes, mentions) =
                self.fill_project(&store, &pulled, &stage, &place, kept.as_ref(), operation)?;
            (pulled, report, mentions, bytes)
        };
        let mut arrived = [Arrived::new(stage, report.clone())];
        publish_all(&mut arrived, &place)?;
        let opened = arrived[0]
            .stage
            .sync_parent()
            .context(Operation::Flush, || &place[0].parent)
            .and_then(|()| Store::open(own(&root)));
        match opened {
            Ok(store) => {
                let elapsed = started.elapsed();
                Ok(CheckoutReport { store, pulled, report, bytes, mentions, elapsed })
            }
            Err(error) => {
                unpublish_all(&mut arrived, &place);
                Err(error)
            }
        }
    }

    /// Makes the tree of the pulled snapshot around its store, and the snapshot the project's base.
    fn fill_project(
        &self,
        store: &Store,
        pulled: &PullReport,
        stage: &Stage,
        place: &[TreePlace],
        kept: Option<&Kept>,
        operation: &Running,
    ) -> Result<(DestinationReport, u64, Vec<PathMention>), Error> {
        let id = pulled.snapshot;
        let object = store.catalog().object(id)?;
        let manifest = store.catalog().manifest(id, &object)?;
        let path = &place[0].path;
        let mut row = store.catalog().worktree(PROJECT)?.ok_or_else(|| no_worktree(PROJECT))?;
        let noted = store.registry().note_tree(&row, stage.dir(), None);
        noted.context(Operation::CheckOutInto, || path)?;
        let mut filled = fill(store, &manifest, std::slice::from_ref(stage), place, operation)?;
        let (report, stats) = filled.trees.pop().unwrap_or_default();
        let (boot, stamp) = (Boot::this(), store.clock().past_all(stats.iter())?);
        let stamp = stamp_of(stage.dir(), Some(stage.parent()), stamp, operation.filesystems());
        let index = Index { snapshot: id, boot, stamp, stats };
        store.registry().write_index(&row.token, &index)?;
        // Only the files that the pusher found. A search here would look for a root that these
        // files do not know.
        let mut mentions = Vec::new();
        if let Some(found) = store.snapshots().noted_found(id)? {
            let dressing = Dressing {
                store,
                origin: Origin::Snapshot(id, &object),
                known: None,
                how: Outfit {
                    git: GitPlan::None(NoRepository::NotThere),
                    paths: PathMode::Own,
                    source: None,
                },
                operation,
                registered: None,
            };
            // The index does not vouch for a file that this replaces, so it counts as changed.
            (mentions, _) = dressing.relocate(&found, None, stage, path)?;
        }
        row.snapshot = Some(id);
        row.state = State::Ready;
        store.registry().set_state(&row)?;
        if let Some(kept) = kept {
            kept.give(stage).context(Operation::SetMetadata, || path)?;
        }
        let times = wanted(&manifest.root).timestamps();
        fs::futimens(stage.dir(), &times).context(Operation::SetMetadata, || path)?;
        store.contents().flush(&filled.unsealed)?;
        Ok((report, object.bytes, mentions))
    }
}

/// The metadata that the project's root keeps of the empty folder that it replaces. The person who
/// made the folder chose who may enter it.
struct Kept {
    meta: Meta,
    attrs: Option<Box<Attrs>>,
}

impl Kept {
    /// Fails if the stage cannot have the folder's owner and group.
    fn of(root: &Path, stage: &Stage) -> Result<Self, Error> {
        let dir = open_dir(root)?;
        let read = || -> io::Result<(Meta, Option<Box<Attrs>>, Meta)> {
            let stage = Meta::of_file(stage.dir())?;
            Ok((Meta::of_file(&dir)?, Attrs::read(&dir)?, stage))
        };
        let (meta, attrs, own) = read().context(Operation::CheckOutInto, || root)?;
        let denied = |whose: String| {
            let why =
                format!("the new folder in its place cannot belong to {whose}, as this one does");
            let cause = io::Error::new(io::ErrorKind::PermissionDenied, why);
            Err(Error::new(ErrorKind::PermissionDenied, Operation::CheckOutInto, root, cause))
        };
        // The system knows best to whom this process may give its files.
        let give = |to: &Meta| {
            let uid = (meta.uid != own.uid).then(|| Uid::from_raw(to.uid));
            fs::fchown(stage.dir(), uid, Some(Gid::from_raw(to.gid)))
        };
        let is_other = (meta.uid, meta.gid) != (own.uid, own.gid);
        if is_other && (give(&meta).is_err() || give(&own).is_err()) {
            return denied(match meta.uid == own.uid {
                true => format!("group {}", meta.gid),
                false => format!("user {}", meta.uid),
            });
        }
        Ok(Self { meta, attrs })
    }

    fn give(&self, stage: &Stage) -> io::Result<()> {
        let now = Meta::of_file(stage.dir())?;
        let created = meta::Created { owner: (now.uid, now.gid), ..meta::created_by_us(false) };
        meta::strip_inherited_acls(stage.dir())?;
        meta::apply(stage.dir(), &self.meta, self.attrs.as_deref(), created, None).map(drop)
    }
}

/// The path that the project will have, without links.
fn absolute(root: &Path) -> Result<PathBuf, Error> {
    let failed = |error| Error::io(Operation::CheckOutInto, root, error);
    match std::fs::canonicalize(root) {
        Ok(root) => Ok(root),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (parent, name) = parent_of(root)?;
            Ok(std::fs::canonicalize(&parent)
                .map_err(|error| Error::io(Operation::CheckOutInto, &parent, error))?
                .join(name))
        }
        Err(error) => Err(failed(error)),
    }
}

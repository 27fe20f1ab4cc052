//! What the trees of a start are made of: a snapshot, or clones of the project.

use std::path::{Path, PathBuf};

use super::base::at_commit;
use super::git::GitPlan;
use super::later::{Cloned, clone_unnamed};
use super::plan::StartPlan;
use super::{LOOKS_MOST, LeaveSecrets, StartOptions};
use crate::error::Error;
use crate::store::history::of_project;
use crate::store::id::SnapshotId;
use crate::store::manifest::Manifest;
use crate::store::ready::TreePlace;
use crate::store::scan::files::GivenUp;
use crate::store::secrets::{record_without, secrets_of};
use crate::store::snapshot::Known;
use crate::store::unnamed::name_pending;
use crate::store::{PROJECT, Secret, SnapshotOptions, SnapshotReport, Store};
use crate::tree::running::Running;

/// What a start reads of the store while it asks git.
#[derive(Default)]
pub(super) struct ReadAhead {
    known: Option<Known>,
    tree: Option<Manifest>,
}

impl ReadAhead {
    /// The state of the project that the store knows, or the tree of the snapshot, if the plan
    /// needs it. An error is no answer: the start reads the same again where it needs it.
    pub(super) fn of(store: &Store, plan: StartPlan<'_>) -> Self {
        let known = || Known::if_sound(store, store.catalog().worktree(PROJECT).ok()??).ok();
        let tree = |id| store.catalog().manifest(id, &store.catalog().object(id).ok()?).ok();
        match plan {
            StartPlan::Snapshot(id) | StartPlan::Loose(id, _) => {
                let is_read = store.ready().shelf().reads_tree(id);
                ReadAhead { known: None, tree: is_read.then(|| tree(id)).flatten() }
            }
            StartPlan::Fork(_) => ReadAhead::default(),
            _ => ReadAhead { known: known(), tree: None },
        }
    }
}

/// What the trees of a start are made of: a snapshot, or clones of the project.
#[derive(Default)]
pub(super) struct Basis {
    pub(super) id: Option<SnapshotId>,
    /// The snapshot's tree, if it is in memory.
    pub(super) manifest: Option<Manifest>,
    /// The snapshot, if the start has taken it.
    pub(super) taken: Option<SnapshotReport>,
    pub(super) cloned: Option<(Cloned, Vec<TreePlace>)>,
}

impl Basis {
    /// The same as [`Self::of`], made again if the tree's `HEAD` moved meanwhile: beside the commit
    /// that it moved to, files of before would be a change that takes the commit back. If `HEAD` does
    /// not rest, the worktrees begin where it was before the last look, and this is true.
    pub(super) fn at_head(
        store: &Store,
        git: &mut GitPlan,
        plan: StartPlan<'_>,
        mut ahead: ReadAhead,
        (places, may_clone): (
            impl Fn() -> Result<Vec<TreePlace>, Error>,
            impl Fn(&[Secret]) -> bool,
        ),
        operation: &Running,
    ) -> Result<(Self, bool), Error> {
        let mut tries = 0;
        loop {
            let ahead = std::mem::take(&mut ahead);
            let basis = Self::of(store, plan, ahead, &places, &may_clone, operation)?;
            tries += 1;
            match if plan.looks() { git.moved()? } else { None } {
                Some(head) if tries < LOOKS_MOST => git.begin_at(head),
                moved => return Ok((basis, moved.is_some())),
            }
        }
    }

    /// What the trees are made of, as the plan says. `places` is asked only if the project is
    /// cloned before it is read, and `may_clone` whether it may be, with the files that look like
    /// secrets.
    fn of(
        store: &Store,
        plan: StartPlan<'_>,
        ahead: ReadAhead,
        places: impl Fn() -> Result<Vec<TreePlace>, Error>,
        may_clone: impl Fn(&[Secret]) -> bool,
        operation: &Running,
    ) -> Result<Self, Error> {
        let mut known = ahead.known;
        match plan {
            StartPlan::Snapshot(id) | StartPlan::Loose(id, _) => {
                return Ok(Basis { id: Some(id), manifest: ahead.tree, ..Basis::default() });
            }
            StartPlan::Clone { least_bytes, reads_first } => {
                if reads_first {
                    name_pending(store, operation)?;
                    let limited = operation.reading_at_most(least_bytes);
                    match Self::of_project(store, known.take(), &limited) {
                        Err(error) if GivenUp::ended(&error) => {}
                        taken => return taken,
                    }
                }
                let places = places()?;
                if let Some(cloned) =
                    clone_unnamed(store, &places, least_bytes, may_clone, operation)?
                {
                    return Ok(Basis { cloned: Some((cloned, places)), ..Basis::default() });
                }
            }
            StartPlan::Fork(name) => {
                let (taken, _) = store.worktree(name)?.as_now(operation, |this| {
                    this.must_be_there()?;
                    let taking = SnapshotOptions::new().keeping_base();
                    this.known()?.record(store, &taking, operation)
                })?;
                return Ok(Basis { id: Some(taken.id), taken: Some(taken), ..Basis::default() });
            }
            StartPlan::Commit(_) | StartPlan::Project => {}
        }
        Self::of_project(store, known, operation)
    }

    fn of_project(store: &Store, known: Option<Known>, operation: &Running) -> Result<Self, Error> {
        let (taken, manifest) = of_project(store, &SnapshotOptions::new(), known, operation)?;
        Ok(Basis { id: Some(taken.id), manifest, taken: Some(taken), cloned: None })
    }

    /// The files of the snapshot that the caller does not want in the worktrees.
    pub(super) fn secrets_to_leave(
        &self,
        store: &Store,
        options: &StartOptions,
        root: &Path,
    ) -> Result<Vec<Secret>, Error> {
        let (Some(id), Some(LeaveSecrets(leave))) = (self.id, &options.leave_secrets) else {
            return Ok(Vec::new());
        };
        let secrets = secrets_of(store, id, root)?;
        let is_left = !secrets.is_empty() && leave(&secrets);
        Ok(if is_left { secrets } else { Vec::new() })
    }

    /// Makes the snapshot of another commit, or one without some files, what the trees are made of.
    /// Returns how many files of the commit git wrote.
    pub(super) fn change(
        &mut self,
        store: &Store,
        git: &mut GitPlan,
        plan: StartPlan<'_>,
        left: &[Secret],
        operation: &Running,
    ) -> Result<Option<u64>, Error> {
        let Some(id) = self.id else { return Ok(None) };
        if let (GitPlan::Link(links), StartPlan::Commit(name)) = (git, plan) {
            let at = (name, &*links.commit);
            let made = at_commit(store, &links.repository, at, (id, left), operation)?;
            // It is another snapshot.
            (self.id, self.manifest) = (Some(made.id), None);
            let written = made.written;
            links.base = Some(Box::new(made));
            return Ok(Some(written));
        }
        if !left.is_empty() {
            let made = record_without(store, id, left, operation)?;
            (self.id, self.manifest) = (Some(made.id), Some(made.manifest));
        }
        Ok(None)
    }

    /// The paths of the worktrees; `folder` is asked if none are known.
    pub(super) fn paths(
        &self,
        folder: impl Fn() -> Result<PathBuf, Error>,
        names: &[&str],
    ) -> Result<Vec<PathBuf>, Error> {
        Ok(match &self.cloned {
            Some((_, places)) => places.iter().map(|place| place.path.clone()).collect(),
            None => {
                let folder = folder()?;
                names.iter().map(|name| folder.join(name)).collect()
            }
        })
    }

    /// The files that look like secrets.
    pub(super) fn secrets(&self, store: &Store) -> Result<Vec<Secret>, Error> {
        Ok(match (&self.cloned, self.id) {
            (Some((cloned, _)), _) => cloned.secrets().to_vec(),
            (None, Some(id)) => {
                store.snapshots().noted_found(id)?.map_or(Vec::new(), |it| it.secrets)
            }
            (None, None) => Vec::new(),
        })
    }
}

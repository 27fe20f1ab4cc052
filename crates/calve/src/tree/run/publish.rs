//! Renames the stages of one operation into their places: all of them, or none.

use std::io;
use std::path::PathBuf;

use rustix::fs::{self, Mode as Permissions};
use rustix::io::Errno;

use super::super::aside::{self, MergeRoots, Met};
use super::super::op::Call;
use super::super::staging::{self, Stage};
use super::super::targets::Target;
use super::super::{Dress, Existing};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;

/// What the stage of each destination met when it was merged into a folder that appeared meanwhile.
pub(super) type AllMet = Vec<Vec<(PathBuf, Met)>>;

/// Dresses all stages and renames them into place, or none. In a merge, a destination that appeared
/// meanwhile is merged into, and stays so.
pub(super) fn publish(
    call: &Call<'_>,
    stages: Vec<Option<Stage>>,
    dress: Dress<'_>,
) -> Result<AllMet, Error> {
    let (targets, options) = (&call.targets, call.options);
    for (at, (target, stage)) in targets.iter().zip(&stages).enumerate() {
        if let Some(stage) = stage {
            dress(at, stage, &target.path)?;
        }
    }
    let mut all_met: AllMet = targets.iter().map(|_| Vec::new()).collect();
    let mut stages: Vec<_> = stages
        .into_iter()
        .enumerate()
        .filter_map(|(at, stage)| Some((at, &targets[at], stage?)))
        .collect();
    if options.durable {
        for (_, target, stage) in &stages {
            staging::flush_filesystem(stage.dir()).context(Operation::Flush, || &target.path)?;
        }
    }
    let mut published = Vec::with_capacity(stages.len());
    let mut publish_all = || {
        for (at, target, stage) in &mut stages {
            published.push(publish_one(call, target, stage, &mut all_met[*at])?);
        }
        if options.durable {
            for ((_, target, stage), published) in stages.iter().zip(&published) {
                match published {
                    Published::Joined => staging::flush_filesystem(stage.dir()),
                    _ => stage.sync_parent(),
                }
                .context(Operation::Flush, || &target.parent_path)?;
            }
        }
        Ok(())
    };
    if let Err(error) = publish_all() {
        for ((_, target, stage), published) in stages.iter_mut().zip(&published) {
            match published {
                Published::New => stage.unpublish(&target.name),
                Published::Replaced => {
                    let _ = stage.exchange(&target.name);
                }
                Published::Joined => {}
            }
        }
        return Err(error);
    }
    for ((_, _, stage), published) in stages.into_iter().zip(published) {
        let operation = match published {
            Published::New => continue,
            Published::Replaced => Operation::RemoveReplaced,
            Published::Joined => Operation::RemoveStage,
        };
        let left = stage.path();
        stage.discard().context(operation, || left)?;
    }
    Ok(all_met)
}

/// How a stage came into its place.
enum Published {
    New,
    /// What it replaced has the stage's name now.
    Replaced,
    /// Its entries were merged into the folder that was there.
    Joined,
}

/// Renames one stage into place, or in a merge its entries.
fn publish_one(
    call: &Call<'_>,
    target: &Target,
    stage: &mut Stage,
    met: &mut Vec<(PathBuf, Met)>,
) -> Result<Published, Error> {
    let existing = call.options.existing;
    // The destination may appear and vanish while calve works.
    for _ in 0..100 {
        match stage.publish(&target.name) {
            Ok(()) => return Ok(Published::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(Operation::Publish, &target.path, error)),
        }
        if existing.merges() {
            match join(call, target, stage)? {
                Some(found) => *met = found,
                None => continue,
            }
            return Ok(Published::Joined);
        }
        if existing != Existing::Replace {
            break;
        }
        match stage.exchange(&target.name) {
            Ok(()) => return Ok(Published::Replaced),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(Operation::Publish, &target.path, error)),
        }
    }
    let cause = io::Error::new(io::ErrorKind::AlreadyExists, "the destination appeared meanwhile");
    Err(Error::new(ErrorKind::DestinationExists, Operation::CloneTo, &target.path, cause))
}

/// Merges the stage into the folder that appeared at the destination. `None` if it is gone again.
fn join(
    call: &Call<'_>,
    target: &Target,
    stage: &Stage,
) -> Result<Option<Vec<(PathBuf, Met)>>, Error> {
    let path = || &target.path;
    let root = match fs::openat(&target.parent, &target.name, DIR_FLAGS, Permissions::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
            let kind = io::Error::from(errno).kind();
            let cause = io::Error::new(kind, "the destination is no directory");
            return Err(Error::new(ErrorKind::Conflict, Operation::CloneTo, path(), cause));
        }
        Err(errno) => return Err(Error::io(Operation::OpenDirectory, path(), errno)),
    };
    let staged = stage.dir().try_clone().context(Operation::Stage, path)?;
    let roots = MergeRoots { source: call.source, dest: &target.path };
    aside::join((staged, root, PathBuf::new()), &roots, call.options).map(Some)
}

//! One clone operation, from its arguments to its report: look at the source and the destinations,
//! stage, walk (or take a snapshot), publish.
//!
//! No destination shows anything before everything is staged at all of them. If a rename fails half
//! way, calve takes back the renames that it made. So the operation is done for all destinations or
//! for none. A merge is an exception: it is atomic for each file only.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, Mode as Permissions, OFlags};
use rustix::io::Errno;

use super::aside::Aside;
use super::excluded::Excluded;
use super::filter::Filter;
#[cfg(feature = "git-index")]
use super::git_index;
use super::list::{List, TreeEntry};
use super::node::Handles;
use super::op::{Call, Dest, DestState, Op};
use super::pool::lock;
use super::removal;
use super::running::Running;
use super::source::{Opened, Source};
use super::staging::{self, Stage};
use super::targets::{Outer, Target, is_inside, look_at};
use super::walk::Live;
use super::{
    CloneMode, CloneOptions, Dress, Existing, GitIndex, Reflink, listing, mounts, names, tally,
};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystems;
use crate::reflink::imp::{DIR_FLAGS, LOOK_FLAGS};
use crate::reflink::meta::{self, Meta};
use crate::reflink::refusal::SystemCall;
use crate::reflink::sys;
use crate::report::{CloneReport, DestinationReport, Method};

mod publish;

use publish::publish;

/// How long calve waits for transient refusals if a copy is not allowed: a ZFS transaction group
/// takes 5 s to close.
const PATIENCE_ALWAYS: Duration = Duration::from_secs(10);

/// What calve made for a destination before the walk.
enum Prepared {
    /// The destination exists, and stays as it is.
    Skipped,
    /// The stage that will get the destination's name.
    Staged(Stage),
    /// The folder that calve merges into. `new` is set if it did not exist before.
    Merging { root: OwnedFd, new: Option<NewRoot> },
}

/// A directory that calve made to merge into. Dropping this value removes the directory if it is
/// empty, unless `kept` is set.
struct NewRoot {
    parent: OwnedFd,
    name: CString,
    kept: bool,
}

impl Drop for NewRoot {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
        }
    }
}

pub(super) fn clone_tree(
    source: &Path,
    dests: &[&Path],
    options: &CloneOptions,
    dress: Dress<'_>,
) -> Result<CloneReport, Error> {
    let start = Instant::now();
    let operation = running(options);
    let filter = Filter::new(options)?;
    let root = open_source(source)?;
    let meta = Meta::of_file(&root).context(Operation::Read, || source)?;
    let absolute = std::fs::canonicalize(source).context(Operation::Resolve, || source)?;
    let filesystems = Arc::clone(operation.filesystems());
    let targets = look_at(dests, Some((&root, &meta, source)), options.existing, &filesystems)?;
    let call = Call { source, meta, options, operation, targets };
    let mut reports = call.reports();
    for (target, report) in call.targets.iter().zip(&mut reports) {
        let source = Outer { id: call.meta.id(), folder: &root, name: c"" };
        // What is not known is not claimed. The walk leaves a destination out in any case.
        report.inside_source = is_inside(&target.parent, &source, &filesystems).unwrap_or(false);
    }
    sweep(&call);
    if call.begins()
        && let Some(stages) = snapshots(&call, &filter, &absolute, &root)?
    {
        publish(&call, stages, dress)?;
        for (target, report) in call.targets.iter().zip(&mut reports) {
            if !call.skips(target) {
                report.method = Method::Snapshot;
            }
        }
        return Ok(call.finish(start, reports));
    }
    let mut excluded = existing(&call);
    let from = |places: &Places| {
        for (root, dest) in places.roots.iter().zip(&places.dests) {
            if dest.merge_stage.is_some() {
                let meta = Meta::of_file(root).context(Operation::Read, || &dest.path)?;
                excluded.add(root, &meta, &filesystems);
            }
        }
        let repositories = Mutex::default();
        let live = Live { filter: &filter, absolute: &absolute, excluded, repositories };
        let root = Opened::live(options, root, meta, None);
        Ok((live, root.context(Operation::ReadAttributes, || source)?))
    };
    make(&call, from, &mut reports, dress)?;
    Ok(call.finish(start, reports))
}

pub(super) fn clone_list(
    entries: impl Iterator<Item = TreeEntry>,
    dests: &[&Path],
    options: &CloneOptions,
) -> Result<CloneReport, Error> {
    let start = Instant::now();
    let operation = running(options);
    let list = List::new(entries, &Filter::new(options)?)?;
    let filesystems = Arc::clone(operation.filesystems());
    let targets = look_at(dests, None, options.existing, &filesystems)?;
    if options.existing == Existing::Replace {
        holds_none_of(&list, &targets, &filesystems)?;
    }
    let meta = list.root().meta;
    let call = Call { source: Path::new(""), meta, options, operation, targets };
    let mut reports = call.reports();
    sweep(&call);
    let root = list.root();
    make(&call, |_| Ok((list, root)), &mut reports, &|_, _, _| Ok(()))?;
    Ok(call.finish(start, reports))
}

/// Fails if a destination that is to be replaced holds a file of the list.
fn holds_none_of(list: &List, targets: &[Target], filesystems: &Filesystems) -> Result<(), Error> {
    if targets.iter().all(|target| target.existing.is_none()) {
        return Ok(());
    }
    for folder in list.origins() {
        let flags = LOOK_FLAGS;
        // If there is none, its file says so.
        let Ok(dir) = fs::open(&folder, flags, Permissions::empty()) else { continue };
        for target in targets {
            if target.holds(&dir, filesystems)? {
                let why = "the destination to be replaced holds files of the list";
                let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
                let error = Error::new(ErrorKind::Overlap, Operation::Clone, folder, cause);
                return Err(error.with_other(&target.path));
            }
        }
    }
    Ok(())
}

/// Removes what a killed process left beside the destinations.
fn sweep(call: &Call<'_>) {
    if call.begins() {
        for target in &call.targets {
            staging::sweep(&target.parent);
        }
    }
}

fn running(options: &CloneOptions) -> Running {
    let operation = Running::new(options.jobs, &options.cancel, &options.progress);
    match options.reflink {
        Reflink::Always => operation.with_patience(PATIENCE_ALWAYS),
        _ => operation,
    }
}

/// Makes the tree at all destinations, or counts it. `from` is the source with its root, for the
/// places in which the tree is made.
fn make<S: Ready>(
    call: &Call<'_>,
    from: impl FnOnce(&Places) -> Result<(S, Opened<S>), Error>,
    reports: &mut [DestinationReport],
    dress: Dress<'_>,
) -> Result<(), Error> {
    if call.options.dry_run {
        let (from, root) = from(&Places::default())?;
        let op = call.op(from, Vec::new())?;
        op.run(root, Vec::new(), Vec::new())?;
        let (_, tallies, found) = op.into_findings();
        let mut counts = tallies.into_iter().next().unwrap_or_default();
        counts.directories += 1;
        for (target, report) in call.targets.iter().zip(reports) {
            if !call.skips(target) {
                tally::write(report, counts.clone(), &found, None);
            }
        }
        return Ok(());
    }
    if !call.begins() {
        return Ok(());
    }
    let places = Places::of(call, prepare(call)?)?;
    walk_and_publish(call, places, from, reports, dress)
}

fn open_source(source: &Path) -> Result<OwnedFd, Error> {
    fs::open(source, DIR_FLAGS, Permissions::empty()).map_err(|errno| {
        let kind = match errno {
            Errno::NOENT => ErrorKind::SourceNotFound,
            Errno::NOTDIR => ErrorKind::SourceNotADirectory,
            _ => return Error::io(Operation::Open, source, errno),
        };
        Error::new(kind, Operation::Open, source, errno)
    })
}

/// Makes a snapshot of the subvolume for every destination, if the result is the same as the
/// walk's. `None`: calve has to walk.
fn snapshots(
    call: &Call<'_>,
    filter: &Filter,
    absolute: &Path,
    root: &OwnedFd,
) -> Result<Option<Vec<Option<Stage>>>, Error> {
    let Call { meta, options, targets, .. } = call;
    let plain = options.mode == CloneMode::Clone
        && options.reflink != Reflink::Never
        && !options.existing.merges()
        && options.xattrs
        && options.file_mode.is_none()
        && filter.keeps_everything();
    if !plain
        || !sys::is_subvolume(root, meta.ino)
        || sys::has_nested_subvolumes(root).unwrap_or(true)
        || mounts::any_below(absolute)
        || staging::is_in(root)
        || targets.iter().any(|target| {
            let source = Outer { id: meta.id(), folder: root, name: c"" };
            is_inside(&target.parent, &source, call.operation.filesystems()).unwrap_or(true)
                || mounts::is_inside(&target.parent, root, c"")
        })
    {
        return Ok(None);
    }
    let mut stages = Vec::with_capacity(targets.len());
    for target in targets {
        if call.operation.is_cancelled() {
            return Ok(None);
        }
        if call.skips(target) {
            stages.push(None);
            continue;
        }
        let parent = target.parent.try_clone().context(Operation::Open, || &target.parent_path)?;
        let stage = Stage::new(parent, &target.parent_path, |parent, name| {
            sys::snapshot(root, parent, name)
        });
        match stage {
            Ok(stage) => stages.push(Some(stage)),
            // For example: another filesystem, or no permission. The walk will work, or report the
            // cause.
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(stages))
}

/// Makes a stage for every destination, or opens the folder to merge into.
fn prepare(call: &Call<'_>) -> Result<Vec<Prepared>, Error> {
    let (targets, options) = (&call.targets, call.options);
    let mut made: Vec<Prepared> = Vec::with_capacity(targets.len());
    for target in targets {
        let path = || &target.path;
        if call.skips(target) {
            made.push(Prepared::Skipped);
        } else if let Some(root) = &target.followed {
            let root = root.try_clone().context(Operation::OpenDirectory, path)?;
            staging::sweep(&root);
            made.push(Prepared::Merging { root, new: None });
        } else if options.existing.merges() {
            if target.existing.is_none()
                && let Some(stage) = stage_merge(target)?
            {
                made.push(Prepared::Staged(stage));
                continue;
            }
            let parent =
                target.parent.try_clone().context(Operation::Open, || &target.parent_path)?;
            let unfinished = meta::mode(staging::UNFINISHED);
            let found = target.existing.as_ref();
            let new = match fs::mkdirat(&parent, &target.name, unfinished) {
                Ok(()) => Some(NewRoot { parent, name: target.name.clone(), kept: false }),
                // An earlier merge made it, and failed or was killed.
                Err(Errno::EXIST) if found.is_some_and(staging::is_unfinished) => {
                    Some(NewRoot { parent, name: target.name.clone(), kept: false })
                }
                Err(Errno::EXIST) => None,
                Err(errno) => return Err(Error::io(Operation::MakeDirectory, path(), errno)),
            };
            let root = if new.is_some() {
                let open = || removal::open_ours(&target.parent, &target.name);
                staging::once_shown(&target.parent, staging::os(&target.name), open)
            } else {
                let flags = DIR_FLAGS | OFlags::NOFOLLOW;
                fs::openat(&target.parent, &target.name, flags, Permissions::empty())
                    .map_err(io::Error::from)
            };
            let root = root.context(Operation::OpenDirectory, path)?;
            if new.is_some() {
                meta::strip_inherited_acls(&root).context(Operation::SetMetadata, path)?;
                meta::give_mode(&root, unfinished).context(Operation::SetMetadata, path)?;
            }
            staging::sweep(&root);
            made.push(Prepared::Merging { root, new });
        } else {
            let parent =
                target.parent.try_clone().context(Operation::Open, || &target.parent_path)?;
            let stage = match options.subvolumes {
                false => Stage::empty(parent, &target.parent_path),
                true => Stage::new(parent, &target.parent_path, |parent, name| {
                    sys::create_subvolume(parent, name)
                }),
            };
            made.push(Prepared::Staged(stage.context(Operation::Stage, path)?));
        }
    }
    Ok(made)
}

/// A stage for the whole destination of a merge, which does not exist. `None` where two names may
/// be one: only a merge into a folder names both.
fn stage_merge(target: &Target) -> Result<Option<Stage>, Error> {
    let parent = target.parent.try_clone().context(Operation::Open, || &target.parent_path)?;
    let stage = Stage::empty(parent, &target.parent_path);
    let stage = stage.context(Operation::Stage, || &target.path)?;
    let folds = names::may_be_one(stage.dir()).context(Operation::StageIn, || &target.path)?;
    Ok((!folds).then_some(stage))
}

/// The places in which the engine makes the tree.
#[derive(Default)]
struct Places {
    stages: Vec<Option<Stage>>,
    /// For each place: the index of its destination.
    indices: Vec<usize>,
    dests: Vec<Dest>,
    roots: Vec<OwnedFd>,
    states: Vec<DestState>,
    asides: Vec<Arc<Aside>>,
    /// Declared after the stages inside these folders, so that they are dropped after those.
    new_roots: Vec<NewRoot>,
}

impl Places {
    fn of(call: &Call<'_>, made: Vec<Prepared>) -> Result<Self, Error> {
        let asides = call.targets.iter().map(|_| Arc::default()).collect();
        let mut places = Self { asides, ..Self::default() };
        for (index, (target, made)) in call.targets.iter().zip(made).enumerate() {
            let path = || target.path.clone();
            let (dir, new, merge_stage) = match made {
                Prepared::Skipped => {
                    places.stages.push(None);
                    continue;
                }
                Prepared::Staged(stage) => {
                    // The walk leaves out stages by their names.
                    let dir = stage.dir().try_clone().context(Operation::Stage, path)?;
                    places.stages.push(Some(stage));
                    (dir, true, None)
                }
                Prepared::Merging { root, new } => {
                    let inside = root.try_clone().context(Operation::Stage, path)?;
                    let made = new.is_some();
                    places.new_roots.extend(new);
                    let stage = Stage::empty(inside, &target.path);
                    places.stages.push(None);
                    (root, made, Some(stage.context(Operation::StageIn, path)?))
                }
            };
            let folds = match &merge_stage {
                Some(stage) => names::may_be_one(stage.dir()).context(Operation::StageIn, path)?,
                None => false,
            };
            // A merge into a destination that does not exist makes it aside.
            let aside = call.options.existing.merges() && merge_stage.is_none();
            places.states.push(match aside {
                true => DestState::aside(&places.asides[index]),
                false => DestState::of(new, false, folds),
            });
            places.indices.push(index);
            let mut dest = Dest::new(path(), merge_stage);
            if let Some(linker) = &call.options.linker {
                dest.answers = linker.answers(&dir);
            }
            places.dests.push(dest);
            places.roots.push(dir);
        }
        Ok(places)
    }
}

/// A source whose git indexes can be made ready in its clones.
trait Ready: Source {
    /// Rewrites the git indexes of each destination, if the caller wants that. Returns the number
    /// of rewritten entries.
    fn ready_for_git(
        _op: &Op<'_, Self>,
        _roots: &Handles,
        _before_walk: listing::Time,
        _merged_since: Option<listing::Time>,
    ) -> Vec<u64> {
        Vec::new()
    }
}

impl Ready for List {}

fn walk_and_publish<S: Ready>(
    call: &Call<'_>,
    mut places: Places,
    from: impl FnOnce(&Places) -> Result<(S, Opened<S>), Error>,
    reports: &mut [DestinationReport],
    dress: Dress<'_>,
) -> Result<(), Error> {
    let Call { source, meta, options, targets, .. } = call;
    let (from, root) = from(&places)?;
    let (roots, states) = (std::mem::take(&mut places.roots), std::mem::take(&mut places.states));
    let op = call.op(from, std::mem::take(&mut places.dests))?;
    let before_walk = listing::now();
    #[cfg(feature = "git-index")]
    let merged_since = match &root.side {
        Some(side)
            if readies_indexes(options)
                && op.dests.iter().any(|dest| dest.merge_stage.is_some()) =>
        {
            Some(git_index::merge_begins(side))
        }
        _ => None,
    };
    #[cfg(not(feature = "git-index"))]
    let merged_since = None;
    let result = op
        .run(root, roots, states)
        .map(|(roots, _)| (S::ready_for_git(&op, &roots, before_walk, merged_since), roots));
    let (dests, tallies, skipped) = op.into_findings();
    let (ready_entries, roots) = match result {
        Ok(ready) => ready,
        Err(error) => {
            // Dropping `dests` and `stages` removes the stages. Merged files stay, because a merge
            // is atomic for each file only.
            drop(dests);
            return Err(error);
        }
    };
    call.operation.publishes();
    for (place, (dest, index)) in dests.into_iter().zip(&places.indices).enumerate() {
        if let Some(stage) = dest.merge_stage {
            if options.durable {
                staging::flush_filesystem(&roots.dests()[place])
                    .context(Operation::Flush, || &targets[*index].path)?;
            }
            let left = stage.path();
            stage.discard().context(Operation::RemoveStage, || left)?;
        }
    }
    for root in &mut places.new_roots {
        root.kept = true;
        // Removing the stage inside the folder changed the folder's times last.
        let times = meta.timestamps();
        let set = fs::utimensat(&root.parent, &root.name, &times, AtFlags::SYMLINK_NOFOLLOW);
        // If the filesystem refuses, the engine has said so.
        SystemCall::SetTimes.if_available(set).context(Operation::SetMetadata, || source)?;
    }
    places.stages.iter_mut().flatten().for_each(Stage::has_its_mode);
    let met = publish(call, std::mem::take(&mut places.stages), dress)?;
    for (place, (index, mut tally)) in places.indices.iter().zip(tallies).enumerate() {
        let report = &mut reports[*index];
        let mut taken_back = DestinationReport::default();
        places.asides[*index].count(&met[*index], options, &mut tally, &mut taken_back);
        tally::take_back(&mut tally, &taken_back);
        tally::write(report, tally, &skipped, Some(place));
        report.method = tally::method(options.mode, report);
        report.ready_index_entries = ready_entries.get(place).copied().unwrap_or(0);
    }
    Ok(())
}

/// Whether the caller wants git indexes made ready. In the link modes the index is a link to the
/// source's own.
fn readies_indexes(options: &CloneOptions) -> bool {
    options.git_index == GitIndex::Ready
        && !matches!(options.mode, CloneMode::Hardlink | CloneMode::Symlink)
}

impl Ready for Live<'_> {
    #[cfg(feature = "git-index")]
    fn ready_for_git(
        op: &Op<'_, Self>,
        roots: &Handles,
        before_walk: listing::Time,
        merged_since: Option<listing::Time>,
    ) -> Vec<u64> {
        if !readies_indexes(op.options) {
            return Vec::new();
        }
        let directories = lock(&op.from.repositories);
        let ready = |(clone, dest): (&OwnedFd, &Dest)| {
            let trees = git_index::TreeAndClone {
                source: git_index::Source::Tree(roots.source(), None),
                clone,
                stage: dest.merge_stage.as_ref().map(Stage::dir),
                before_walk,
                merged_since: merged_since.filter(|_| dest.merge_stage.is_some()),
                jobs: op.budget.jobs,
                stopped: &|| op.stopped(),
            };
            git_index::make_ready(&trees, &directories)
        };
        roots.dests().iter().zip(&op.dests).map(ready).collect()
    }
}

/// The directories at the destinations, which are no part of the source.
fn existing(call: &Call<'_>) -> Excluded {
    let mut excluded = Excluded::default();
    for target in &call.targets {
        let filesystems = call.operation.filesystems();
        match (&target.existing, &target.followed) {
            (Some(meta), Some(dir)) => excluded.add(dir, meta, filesystems),
            (Some(_), None) => {
                excluded.add_at((&target.parent, &target.name), filesystems);
            }
            (None, _) => {}
        }
    }
    excluded
}

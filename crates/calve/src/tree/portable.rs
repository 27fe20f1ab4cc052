//! One clone operation and its walk on Windows, where calve works with paths instead of descriptors
//! of directories.
//!
//! The promises are those of the Unix side, but one: if somebody swaps a directory for a link
//! *while* the call runs, calve follows the link, because it looks up a path anew each time. Paths
//! are verbatim (`\\?\…`), so they may be long, and every name means only itself. calve has nothing
//! open in a tree when it renames the tree: Windows would refuse.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES,
};

use super::filter::Filter;
use super::verdicts::Verdicts;
use super::{CloneOptions, Existing, tally, two_names};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::Patience;
use crate::reflink::imp;
use crate::reflink::sys::{self, FileId, Identity};
use crate::report::{CloneReport, DestinationReport, SkipReason, Skipped};

#[path = "portable/file.rs"]
mod file;
#[path = "portable/stage.rs"]
mod stage;
#[path = "portable/walk.rs"]
mod walk;
use stage::Stage;

/// How long one operation waits for transient refusals.
const PATIENCE: Duration = Duration::from_millis(500);

/// A destination as calve found it.
struct Target {
    /// The path as the caller gave it, for messages and the report.
    given: PathBuf,
    parent: PathBuf,
    /// The destination's verbatim path.
    place: PathBuf,
    existing: Option<(Metadata, FileId)>,
}

impl Target {
    /// In a merge: if there is a link at the destination, makes the folder that the link leads to
    /// the destination.
    fn follow(&mut self) -> Result<(), Error> {
        if !self.existing.as_ref().is_some_and(|(meta, _)| meta.is_symlink()) {
            return Ok(());
        }
        let conflict = |kind: io::ErrorKind, why: &str| {
            let cause = io::Error::new(kind, why.to_owned());
            Error::new(ErrorKind::Conflict, Operation::CloneTo, &self.given, cause)
        };
        let place = match fs::canonicalize(&self.place) {
            Ok(place) => place,
            Err(error) if imp::is_gone(&error) => {
                return Err(conflict(
                    error.kind(),
                    "the destination is a symbolic link to what is not there",
                ));
            }
            Err(error) => return Err(Error::io(Operation::Open, &self.given, error)),
        };
        let meta = fs::symlink_metadata(&place).context(Operation::Read, || &self.given)?;
        if !meta.is_dir() {
            return Err(conflict(
                io::ErrorKind::NotADirectory,
                "the destination is a symbolic link to no directory",
            ));
        }
        let id = identity_of(&place).context(Operation::Read, || &self.given)?.id;
        (self.existing, self.place) = (Some((meta, id)), place);
        Ok(())
    }
}

/// One destination of the walk.
struct Dest<'a> {
    target: &'a Target,
    /// The destination's index in the report.
    index: usize,
    /// Where calve builds the tree: in the stage, or, in a merge, at the destination itself.
    root: PathBuf,
    stage: Stage,
    merging: bool,
    /// In a merge: whether calve made the destination for it.
    made: bool,
    /// How the destination's filesystem answered clones (`verdicts`) and hard links.
    verdicts: Verdicts,
    link_verdicts: Verdicts,
    staged: AtomicU64,
    tally: Mutex<DestinationReport>,
}

/// The state that all threads share.
struct Walk<'a> {
    options: &'a CloneOptions,
    filter: Filter,
    /// The path as the caller gave it, for messages.
    source: &'a Path,
    /// The source's verbatim path.
    root: PathBuf,
    /// The source's absolute path, for symbolic links to it.
    absolute: PathBuf,
    /// Directories that are inside the source but no part of it: the destinations.
    excluded: HashSet<FileId>,
    /// Empty in a dry run.
    dests: Vec<Dest<'a>>,
    dry: Mutex<DestinationReport>,
    skipped: Mutex<Vec<tally::Finding>>,
    links: Mutex<HashMap<FileId, Arc<Mutex<First>>>>,
    patience: Patience,
    stop: AtomicBool,
}

/// For each destination: the path from which further names of a file can be linked, once the file
/// is in place.
type First = Option<Vec<Option<PathBuf>>>;

pub(super) fn clone_tree(
    source: &Path,
    dests: &[&Path],
    options: &CloneOptions,
) -> Result<CloneReport, Error> {
    let start = Instant::now();
    let filter = Filter::new(options)?;
    let meta = fs::metadata(source).map_err(|error| match imp::is_gone(&error) {
        true => Error::new(ErrorKind::SourceNotFound, Operation::Open, source, error),
        false => Error::io(Operation::Open, source, error),
    })?;
    if !meta.is_dir() {
        let cause = io::ErrorKind::NotADirectory;
        return Err(Error::new(ErrorKind::SourceNotADirectory, Operation::Open, source, cause));
    }
    let root = fs::canonicalize(source).context(Operation::Resolve, || source)?;
    let absolute = std::path::absolute(source).context(Operation::Resolve, || source)?;
    let targets = look_at(dests, &root, source, options)?;
    let skips = |target: &Target| options.existing == Existing::Skip && target.existing.is_some();
    let mut reports = tally::reports(targets.iter().map(|target| (&*target.given, skips(target))));
    let mut walk = Walk {
        options,
        filter,
        source,
        root,
        absolute,
        excluded: targets
            .iter()
            .filter_map(|target| target.existing.as_ref().map(|(_, id)| *id))
            .collect(),
        dests: Vec::new(),
        dry: Mutex::default(),
        skipped: Mutex::default(),
        links: Mutex::default(),
        patience: Patience::new(PATIENCE),
        stop: AtomicBool::new(false),
    };
    if options.dry_run {
        walk.run()?;
        walk.report(&mut reports, |index| !skips(&targets[index]));
    } else if !targets.iter().all(skips) {
        let wanted = targets.iter().enumerate().filter(|(_, target)| !skips(target));
        if let Err(error) = walk.prepare(wanted).and_then(|()| walk.run()) {
            walk.give_up();
            return Err(error);
        }
        options.progress.publishing.store(true, Ordering::Relaxed);
        walk.report(&mut reports, |_| true);
        publish(walk.dests, options, &meta)?;
    }
    Ok(CloneReport { source: source.to_owned(), destinations: reports, elapsed: start.elapsed() })
}

/// Finds the destinations' parent folders, and refuses impossible destinations, before calve makes
/// anything.
fn look_at(
    dests: &[&Path],
    root: &Path,
    source: &Path,
    options: &CloneOptions,
) -> Result<Vec<Target>, Error> {
    let identify = |path: &Path| {
        identity_of(path).map(|found| found.id).context(Operation::Read, || path.to_owned())
    };
    let own = identify(root)?;
    let mut seen = HashSet::new();
    let mut merged = HashSet::new();
    let mut targets = Vec::with_capacity(dests.len());
    for dest in dests {
        let mut target = find_target(dest, !options.dry_run)?;
        if options.existing.merges() {
            target.follow()?;
        }
        let overlap = |what: &str| {
            let cause = io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
            Error::new(ErrorKind::Overlap, Operation::Clone, source, cause).with_other(*dest)
        };
        // Two names that differ in case are one.
        let name = target.place.file_name().map(|name| name.to_string_lossy().to_lowercase());
        if !seen.insert((identify(&target.parent)?, name)) {
            return Err(overlap("the same destination is given twice"));
        }
        if let Some((meta, id)) = &target.existing {
            // Two destinations are one folder, by a link and by its own name, or by two links.
            if options.existing.merges() && !merged.insert(*id) {
                return Err(overlap("the same destination is given twice"));
            }
            if own == *id {
                return Err(overlap("source and destination are the same"));
            }
            if options.existing == Existing::Replace && is_inside(root, *id) {
                return Err(overlap("the destination to be replaced holds the source"));
            }
            options.existing.must_allow(dest, meta.is_dir())?;
        }
        targets.push(target);
    }
    for outer in targets.iter().filter(|_| options.existing == Existing::Replace) {
        let Some((_, id)) = &outer.existing else { continue };
        // Replacing the outer destination would remove the inner one.
        if let Some(inner) = targets.iter().find(|inner| is_inside(&inner.parent, *id)) {
            let cause =
                io::Error::new(io::ErrorKind::InvalidInput, "one destination is inside the other");
            return Err(Error::new(ErrorKind::Overlap, Operation::CloneTo, &inner.given, cause)
                .with_other(&outer.given));
        }
    }
    Ok(targets)
}

fn find_target(dest: &Path, sweep: bool) -> Result<Target, Error> {
    if dest.as_os_str().is_empty() {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "the destination is empty");
        return Err(Error::new(ErrorKind::Io, Operation::CloneTo, dest, cause));
    }
    // Resolves `.`, `a\..` and dots at a name's end by Windows' own rules. In a verbatim path they
    // would be names.
    let resolved = std::path::absolute(dest).context(Operation::Resolve, || dest)?;
    let Some(name) = resolved.file_name() else {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "the root cannot be a destination");
        return Err(Error::new(ErrorKind::Overlap, Operation::CloneTo, dest, cause));
    };
    let parent = resolved.parent().unwrap_or(Path::new("."));
    let no_parent = |error: io::Error| match imp::is_gone(&error) {
        true => Error::new(ErrorKind::ParentNotFound, Operation::Open, parent, error),
        false => Error::io(Operation::Open, parent, error),
    };
    let parent = fs::canonicalize(parent).map_err(no_parent)?;
    if !fs::metadata(&parent).map_err(no_parent)?.is_dir() {
        return Err(no_parent(io::ErrorKind::NotADirectory.into()));
    }
    if sweep {
        // The sweep comes first: a replacement that died half way has left the destination in its
        // stage.
        stage::sweep(&parent);
    }
    let place = parent.join(name);
    let existing = match fs::symlink_metadata(&place) {
        Ok(meta) => Some((meta, identity_of(&place).context(Operation::Read, || dest)?.id)),
        Err(error) if imp::is_gone(&error) => None,
        Err(error) => return Err(Error::io(Operation::Read, dest, error)),
    };
    Ok(Target { given: dest.to_owned(), parent, place, existing })
}

/// Opens an entry only to read its identity and metadata. If the entry is a link, opens the link
/// itself.
fn open_to_ask(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)
}

fn identity_of(path: &Path) -> io::Result<Identity> {
    sys::identity(&open_to_ask(path)?)
}

/// Whether `dir`, which is absolute and without links, is the directory `outer` or is inside it.
/// calve does not compare paths: case may differ, and a volume may have several letters.
fn is_inside(dir: &Path, outer: FileId) -> bool {
    dir.ancestors().any(|above| identity_of(above).is_ok_and(|found| found.id == outer))
}

/// `Path::join`, without a separator at the end if `path` is empty.
fn below(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dest<'_> {
    /// Where calve creates an entry: in its place in the tree, or, in a merge, in the stage.
    fn birthplace(&self, path: &Path) -> PathBuf {
        if !self.merging {
            return self.root.join(path);
        }
        self.stage.path().join(self.staged.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn place(&self, path: &Path) -> PathBuf {
        below(&self.target.given, path)
    }
}

impl<'a> Walk<'a> {
    /// Makes a stage for every destination. In a merge also makes the destination, if it does not
    /// exist.
    fn prepare(&mut self, targets: impl Iterator<Item = (usize, &'a Target)>) -> Result<(), Error> {
        for (index, target) in targets {
            let given = || target.given.clone();
            let merging = self.options.existing.merges();
            let made = merging
                && match fs::create_dir(&target.place) {
                    Ok(()) => true,
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                    Err(error) => return Err(Error::io(Operation::MakeDirectory, given(), error)),
                };
            let parent = if merging { &target.place } else { &target.parent };
            if merging && !made {
                stage::sweep(parent);
            }
            let stage = Stage::new(parent).context(Operation::Stage, given)?;
            let root = if merging { target.place.clone() } else { stage.tree() };
            if !merging {
                fs::create_dir(&root).context(Operation::Stage, given)?;
            }
            let not_the_sources = if merging { &root } else { stage.path() };
            self.excluded.insert(identity_of(not_the_sources).context(Operation::Read, given)?.id);
            self.dests.push(Dest {
                target,
                index,
                root,
                stage,
                merging,
                made,
                verdicts: Verdicts::default(),
                link_verdicts: Verdicts::default(),
                staged: AtomicU64::new(0),
                tally: Mutex::default(),
            });
        }
        Ok(())
    }

    /// Removes the stages, and the folders that were made for a merge if they are empty. Merged
    /// files stay, because a merge is atomic for each file only.
    fn give_up(self) {
        for dest in self.dests {
            drop(dest.stage);
            if dest.made {
                let _ = fs::remove_dir(&dest.target.place);
            }
        }
    }

    /// Writes the counts to the reports of the destinations that are `wanted`.
    fn report(&self, reports: &mut [DestinationReport], wanted: impl Fn(usize) -> bool) {
        let skipped = lock(&self.skipped);
        if self.options.dry_run {
            let counts = lock(&self.dry);
            for (_, report) in reports.iter_mut().enumerate().filter(|(index, _)| wanted(*index)) {
                tally::write(report, counts.clone(), &skipped, None);
            }
        } else {
            for (place, dest) in self.dests.iter().enumerate() {
                let report = &mut reports[dest.index];
                tally::write(report, lock(&dest.tally).clone(), &skipped, Some(place));
                report.method = tally::method(self.options.mode, report);
            }
        }
    }

    fn skip(&self, dest: Option<usize>, path: &Path, reason: SkipReason) {
        lock(&self.skipped).push((dest, Skipped { path: path.to_owned(), reason }));
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.options.cancel.is_cancelled()
    }

    fn check(&self) -> Result<(), Error> {
        if self.stopped() { Err(self.cancelled()) } else { Ok(()) }
    }

    fn cancelled(&self) -> Error {
        let cause = io::Error::new(io::ErrorKind::Interrupted, "cancelled");
        Error::new(ErrorKind::Cancelled, Operation::Clone, self.source, cause)
    }

    /// The entry's path in the source as the caller gave it, for messages.
    fn shown(&self, path: &Path) -> PathBuf {
        below(self.source, path)
    }
}

/// Renames all stages into place, or none.
fn publish(mut dests: Vec<Dest<'_>>, options: &CloneOptions, meta: &Metadata) -> Result<(), Error> {
    if !options.existing.merges() {
        for at in 0..dests.len() {
            let Dest { target, stage, .. } = &mut dests[at];
            if let Err(error) = publish_one(target, stage, options.existing) {
                for dest in dests[..at].iter_mut().rev() {
                    dest.stage.take_back(&dest.target.place);
                }
                return Err(error);
            }
        }
    }
    for dest in dests {
        let what = match options.existing {
            Existing::Merge | Existing::Keep => Operation::RemoveStage,
            _ => Operation::RemoveReplaced,
        };
        let left = dest.stage.path().to_owned();
        dest.stage.discard().context(what, || left)?;
        if dest.made {
            // Removing the stage in the folder has just changed the folder's times.
            imp::finish_directory(&dest.root, meta)
                .context(Operation::SetMetadata, || &dest.target.given)?;
        }
    }
    Ok(())
}

/// Renames one stage into place.
fn publish_one(target: &Target, stage: &mut Stage, existing: Existing) -> Result<(), Error> {
    let name = target.place.file_name().unwrap_or(OsStr::new(""));
    // Under `Replace` the destination may appear and vanish while calve works.
    for _ in 0..100 {
        match stage.publish(&target.place) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(Operation::Publish, &target.given, error));
            }
            Err(_) if existing != Existing::Replace => break,
            Err(_) => {}
        }
        match stage.put_aside(&target.place, name) {
            Ok(()) => {}
            Err(error) if imp::is_gone(&error) => {}
            Err(error) => return Err(Error::io(Operation::Replace, &target.given, error)),
        }
    }
    let cause = io::Error::new(io::ErrorKind::AlreadyExists, "the destination appeared meanwhile");
    Err(Error::new(ErrorKind::DestinationExists, Operation::CloneTo, &target.given, cause))
}

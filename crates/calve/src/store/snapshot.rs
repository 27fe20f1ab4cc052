//! Takes snapshots, and finds them again.
//!
//! [`record`] says what is durable when.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, Mode};

use super::blobs::{Counts, Intake, Noted};
use super::catalog::{Based, Origin, WorktreeRow};
use super::freeing::taking_in;
use super::git;
use super::git::modules::Modules;
use super::id::SnapshotId;
use super::index::{Boot, Index};
use super::manifest::Manifest;
use super::metadata::Maker;
use super::object::{Kind, SnapshotObject};
use super::paths::found::{FOUND_MOST_BYTES, Found};
use super::paths::local::Local;
use super::paths::spelling::{Spellings, kind_to_learn_from};
use super::paths::{MOST_BYTES, Relocation};
use super::scan::files::read_small;
use super::scan::{self, Mentions, Request, Scan};
use super::verify::Damage;
use super::{PROJECT, Store, StoreOptions, bytes_of, path_from, read_plain};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::report::Skipped;
use crate::tree::excluded::Excluded;
use crate::tree::running::Running;
pub(crate) mod record;

use record::{FoundList, NewIndex, RecordedSnapshots, Recording};

/// A snapshot, as `log` and `show` tell of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its id, which never changes.
    pub id: SnapshotId,
    /// The snapshot that the tree was based on.
    pub parent: Option<SnapshotId>,
    /// When it was made.
    pub created: SystemTime,
    /// The message of the user who made it; may be empty.
    pub message: String,
    /// The names it was given, sorted.
    pub names: Vec<String>,
    /// The worktree that it was taken of. `None` if that was the project, or if an earlier calve
    /// took the snapshot.
    pub worktree: Option<String>,
    /// The branch that the tree was on. `None` if it was on none, or had no repository of git, or
    /// if an earlier calve took the snapshot.
    pub branch: Option<String>,
    /// Entries of every kind, the root included.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Their sizes, summed up, in bytes.
    pub bytes: u64,
}

/// What [`Store::log`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SnapshotLog {
    /// The snapshots, the newest first.
    pub snapshots: Vec<Snapshot>,
    /// The damaged snapshots. The others are good.
    pub damage: Vec<Damage>,
}

/// What a new snapshot is given, for [`Store::snapshot`] and
/// [`Worktree::capture`](crate::Worktree::capture); built by value.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    message: Option<String>,
    name: Option<String>,
}

impl SnapshotOptions {
    /// Neither message nor name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says why the snapshot is made. With a message a snapshot is made even if nothing has
    /// changed.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Gives the snapshot a name; if another snapshot has that name, it moves to the new one.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Fails where the name is none that a snapshot can have.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.name.as_deref().map_or(Ok(()), check_name)
    }
}

/// What [`Store::snapshot`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// The new snapshot, or the last one if nothing had changed.
    pub id: SnapshotId,
    /// Whether it is new.
    pub new: bool,
    /// Regular files in the snapshot, and their sizes summed up, in bytes.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
    /// Files that were read, since the index did not vouch for their content, and their sizes.
    pub read_files: u64,
    /// See `read_files`.
    pub read_bytes: u64,
    /// New contents that share their blocks with the tree, and those that were copied.
    pub cloned_files: u64,
    /// See `cloned_files`.
    pub copied_files: u64,
    /// Sizes of the copied ones, in bytes.
    pub copied_bytes: u64,
    /// Entries that were left out, or kept only in part.
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// A tree, and the snapshot that it is based on.
pub(crate) struct Known {
    pub(crate) row: WorktreeRow,
    pub(crate) root: PathBuf,
    /// The snapshot it is based on, with what stood for its entries, where that is known.
    pub(crate) base: Option<(SnapshotId, SnapshotObject, Manifest)>,
    pub(crate) index: Option<Index>,
    /// Set if files of the tree are not as in a snapshot.
    pub(crate) local: Option<Local>,
}

impl Known {
    fn relocation(&self) -> Option<&Relocation> {
        self.local.as_ref()?.roots.as_ref()
    }

    /// The roots that files of the tree may name: the one that snapshots name, and the tree's own.
    /// `noted` is what was found in the base snapshot.
    fn roots(&self, noted: Option<&Found>) -> Vec<Vec<u8>> {
        match self.relocation() {
            Some(roots) => roots.from().chain(roots.to()).cloned().collect(),
            None => {
                let root = bytes_of(&self.root);
                let noted = noted.filter(|found| found.roots.first() == Some(&root));
                noted.map_or_else(|| vec![root], |found| found.roots.clone())
            }
        }
    }
}

impl Store {
    /// Takes a snapshot of the project as it stands: everything but `.calve`, the `.git` in its
    /// root, and what `.calveignore` files leave out.
    ///
    /// It reads only the files that changed since the last snapshot. If no file changed and
    /// `taking` has no message, the result is the last snapshot. It clones the changed files into
    /// the store if the filesystem can, and otherwise copies them; the report says which.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`]; those of every operation, see [`Store`]. No snapshot was made,
    /// and the name means what it meant. Content that was taken in before the error stays until
    /// [`Store::gc`](crate::Store::gc). If the disk is full, calve removes that content, unless
    /// another process uses the store.
    pub fn snapshot(
        &self,
        taking: &SnapshotOptions,
        options: &StoreOptions,
    ) -> Result<SnapshotReport, Error> {
        self.snapshot_in(taking, &options.operation())
    }

    /// [`Store::snapshot`], as a part of `operation`.
    pub(crate) fn snapshot_in(
        &self,
        taking: &SnapshotOptions,
        operation: &Running,
    ) -> Result<SnapshotReport, Error> {
        self.snapshot_with_manifest(taking, None, operation).map(|(report, _)| report)
    }

    /// The same, and the snapshot's manifest, for an operation that goes on with it. Reading it
    /// from the database again would take longer than the scan of a small change. `read` is what
    /// was known of the project a moment ago, if the operation has read it already.
    pub(crate) fn snapshot_with_manifest(
        &self,
        taking: &SnapshotOptions,
        read: Option<Known>,
        operation: &Running,
    ) -> Result<(SnapshotReport, Option<Manifest>), Error> {
        self.must_be_writable(Operation::TakeSnapshotWith)?;
        taking.check()?;
        let project = || {
            self.catalog().worktree(PROJECT)?.ok_or_else(|| {
                let cause =
                    io::Error::new(io::ErrorKind::InvalidData, "it does not know its project");
                Error::new(ErrorKind::Damaged, Operation::OpenStore, self.path(), cause)
            })
        };
        let mut row = project()?;
        if row.snapshot.is_none() && self.name_pending(operation)? {
            row = project()?;
        }
        let is_still = |read: &Known| read.row == row;
        let known = match read.filter(is_still) {
            Some(known) => known,
            None => self.known_if_sound(row)?,
        };
        let (report, manifest) = self.record_with_manifest(&known, taking, operation)?;
        let manifest = manifest.or(known.base.map(|(_, _, base)| base));
        #[cfg(calve_check)]
        crate::check::manifest(self, report.id, manifest.as_ref());
        Ok((report, manifest))
    }

    /// What is known of a worktree, or of the project.
    pub(crate) fn known(&self, row: WorktreeRow) -> Result<Known, Error> {
        let root = self.registry().root_of(&row);
        let base = match row.snapshot {
            None => None,
            Some(id) => {
                let object = self.object(id)?;
                let manifest = self.catalog().manifest(id, &object)?;
                Some((id, object, manifest))
            }
        };
        let index =
            base.as_ref().and_then(|(id, _, base)| self.registry().index(&row.token, *id, base));
        let local = self.local(&row, &root);
        Ok(Known { row, root, base, index, local })
    }

    /// How the files of a worktree differ from those of a snapshot.
    pub(crate) fn local(&self, row: &WorktreeRow, root: &Path) -> Option<Local> {
        if row.name == PROJECT {
            return None;
        }
        let modules = self.modules(row, root).filter(Modules::are_in_use);
        Local::new(Relocation::read(&self.layout().tree(&row.token)), modules)
    }

    /// The submodules of a worktree that is linked, or has a copy of the repository. `None`: it is
    /// neither.
    pub(crate) fn modules(&self, row: &WorktreeRow, root: &Path) -> Option<Modules> {
        let project = git::read(&self.project().ok()?).ok()??;
        if row.git.is_none() {
            return Modules::of_copy(&project, root);
        }
        let registration = git::leads_to(root).ok()?;
        let folder = project.registrations_folder();
        let is_ours = registration.parent().is_some_and(|above| git::is_same(above, &folder));
        is_ours.then(|| Modules::new(&project, root, &registration))
    }

    /// The same for an operation that can do without the base. If the base is damaged, calve reads
    /// all files anew, and stores the damaged objects again.
    pub(crate) fn known_if_sound(&self, row: WorktreeRow) -> Result<Known, Error> {
        match self.known(row.clone()) {
            Err(error)
                if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::SnapshotNotFound) =>
            {
                let root = self.registry().root_of(&row);
                let local = self.local(&row, &root);
                Ok(Known { row, root, base: None, index: None, local })
            }
            result => result,
        }
    }

    /// Adds and forgets snapshots.
    pub(crate) fn snapshots(&self) -> RecordedSnapshots<'_> {
        RecordedSnapshots { store: self }
    }

    pub(crate) fn object(&self, id: SnapshotId) -> Result<SnapshotObject, Error> {
        self.catalog().snapshot(id)?.ok_or_else(|| not_found(&id.to_string()))
    }

    /// Scans a tree; with `intake` its content is taken into the store, and what that made is noted
    /// there.
    pub(crate) fn scan(
        &self,
        known: &Known,
        intake: Option<&Noted>,
        operation: &Running,
    ) -> Result<(Scan, (i64, u32)), Error> {
        let root = fs::open(&known.root, DIR_FLAGS, Mode::empty()).map_err(|errno| {
            let kind = match errno {
                rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => ErrorKind::WorktreeMissing,
                _ => return Error::io(Operation::Open, &known.root, errno),
            };
            Error::new(kind, Operation::OpenWorktree, &known.root, errno)
        })?;
        // Read-only stores have no clock, and need none: nothing is taken in.
        let stamp = match self.is_read_only() {
            true => (i64::MIN, 0),
            false => Self::stamp_of(&root, None, self.clock()?, operation.filesystems()),
        };
        let excluded = self.other_roots(&known.row.name, &known.root, operation)?;
        let noted = known.base.as_ref().filter(|_| intake.is_some());
        let noted = noted.map(|(id, ..)| self.noted_found(*id)).transpose()?.flatten();
        let roots = known.roots(noted.as_ref());
        let spellings = match known.relocation() {
            _ if intake.is_none() => Spellings::fixed(Vec::new()),
            Some(roots) => Spellings::at(roots.from().cloned().collect()),
            None if known.row.name == PROJECT => Spellings::of(&root, roots.clone()),
            None => Spellings::fixed(roots.clone()),
        };
        let request = Request {
            path: &known.root,
            root: &root,
            base: known.base.as_ref().map(|(_, _, manifest)| manifest),
            index: known.index.as_ref(),
            blobs: self.blobs(),
            intake,
            looks_only: false,
            stamp,
            maker: Maker::of(&self.layout().tree(&known.row.token)),
            excluded: &excluded,
            roots: &roots,
            spellings: &spellings,
            local: known.local.as_ref(),
            operation,
        };
        let scan = scan::scan(&request)?;
        if let Some(index) = &scan.index
            && !self.is_read_only()
            && let Some((_, _, base)) = &known.base
            // A process that has written an index meanwhile knew more. Or the worktree was dropped,
            // and has none.
            && self.registry().index(&known.row.token, index.snapshot, base) == known.index
        {
            // So that the next one reads nothing again. If this fails, it does.
            let _ = self.registry().write_index(&known.row.token, index);
        }
        Ok((scan, stamp))
    }

    /// The store, and those worktrees that lie inside `root` and are not it: the store's, and those
    /// that git or another tool made in the same repository. The `.git` of such a worktree would
    /// lead git from a copy of it back to the worktree.
    pub(crate) fn other_roots(
        &self,
        name: &str,
        root: &Path,
        operation: &Running,
    ) -> Result<Excluded, Error> {
        let mut excluded = Excluded::default();
        let mut add = |path: &Path| excluded.add_at((fs::CWD, path), operation.filesystems());
        add(self.path());
        for row in self.catalog().worktrees()? {
            let path = path_from(&row.path);
            if row.name != name && row.name != PROJECT && path.starts_with(root) {
                add(&path);
            }
        }
        let inside = git::worktrees_inside(root).context(Operation::Read, || git::git_of(root))?;
        inside.iter().for_each(|path| add(path));
        Ok(excluded)
    }

    /// Makes a snapshot of a tree, its base as the parent.
    pub(crate) fn record(
        &self,
        known: &Known,
        taking: &SnapshotOptions,
        operation: &Running,
    ) -> Result<SnapshotReport, Error> {
        self.record_with_manifest(known, taking, operation).map(|(report, _)| report)
    }

    /// The same, and the snapshot's manifest; `None` if that equals the base's.
    fn record_with_manifest(
        &self,
        known: &Known,
        taking: &SnapshotOptions,
        operation: &Running,
    ) -> Result<(SnapshotReport, Option<Manifest>), Error> {
        taking_in(self, operation, |noted| self.take(known, taking, operation, noted))
    }

    fn take(
        &self,
        known: &Known,
        taking: &SnapshotOptions,
        operation: &Running,
        noted: &Noted,
    ) -> Result<(SnapshotReport, Option<Manifest>), Error> {
        let started = std::time::Instant::now();
        let _guard = self.share()?;
        if let Some((base, ..)) = &known.base {
            // It was read before the lock was had. Should it have been forgotten since, its content
            // may be gone.
            self.object(*base)?;
        }
        let (mut scan, stamp) = self.scan(known, Some(noted), operation)?;
        // Without a manifest of its own, the tree equals the base.
        let base = known.base.as_ref().map(|(_, _, manifest)| manifest);
        let Some(manifest) = scan.manifest.as_ref().or(base) else {
            return Err(crate::tree::pool::cancelled(Operation::TakeSnapshot, &known.root));
        };
        let same = known
            .base
            .as_ref()
            .filter(|(_, object, _)| taking.message.is_none() && object.root == manifest.root)
            .map(|(id, ..)| *id);
        let stats = std::mem::take(&mut scan.stats);
        let index = |snapshot| Index { snapshot, boot: Boot::this(), stamp, stats };
        let id = match same {
            Some(id) => {
                self.refresh((id, known), index(id), taking, &scan.counts)?;
                id
            }
            None => {
                let message = taking.message.clone().unwrap_or_default();
                let encoding = manifest.object(known.row.snapshot, message).encode();
                let worktree = Some(known.row.name.clone());
                self.snapshots().record(&Recording {
                    tree: Some((manifest, &scan.directories)),
                    arrived: Some(&scan.unsealed),
                    found: Some(FoundList::Here(&self.found_in(known, manifest, scan.mentions))),
                    indexes: &[NewIndex {
                        token: &known.row.token,
                        index: &index(SnapshotId::of(&encoding)),
                        has_base: known.row.snapshot.is_some(),
                    }],
                    based: Based::One(&known.row.token),
                    name: taking.name.as_deref(),
                    origin: &Origin { worktree, branch: git::branch_in(&known.root) },
                    encoding: &encoding,
                })?
            }
        };
        let ((files, bytes), counts) = (manifest.files(), scan.counts);
        let report = SnapshotReport {
            id,
            new: same.is_none(),
            files,
            bytes,
            read_files: counts.read_files,
            read_bytes: counts.read_bytes,
            cloned_files: counts.cloned_files,
            copied_files: counts.copied_files,
            copied_bytes: counts.copied_bytes,
            skipped: scan.skipped,
            elapsed: started.elapsed(),
        };
        Ok((report, scan.manifest))
    }

    /// Names the snapshot `id`, whose tree a worktree still has, and writes the worktree's new
    /// index, if that vouches for more than the old one.
    fn refresh(
        &self,
        (id, known): (SnapshotId, &Known),
        index: Index,
        taking: &SnapshotOptions,
        counts: &Counts,
    ) -> Result<(), Error> {
        if let Some(name) = &taking.name {
            self.set_name(name, id)?;
        }
        // The stamp alone is no news, unless something was too young to be trusted under the old
        // one.
        let is_news = known.index.as_ref().is_none_or(|old| {
            old.snapshot != id
                || old.boot != index.boot
                || old.stats != index.stats
                || old.stats.iter().any(|stat| stat.changed >= old.stamp)
        });
        if is_news {
            // Contents that were read and are not new have not been flushed, and the index must not
            // be on the disk before them. The snapshot is there even if this fails: then the next
            // one reads more.
            let flushed = if counts.read_files == 0 { Ok(()) } else { self.flush(&[]) };
            let _ = flushed.and_then(|()| self.registry().write_index(&known.row.token, &index));
        }
        Ok(())
    }

    /// Which files of a new snapshot name the project's root. Without the list they are looked for
    /// when a worktree is started.
    pub(crate) fn found_in(&self, known: &Known, manifest: &Manifest, mentions: Mentions) -> Found {
        let mut spellings = mentions.spellings;
        let base = known.base.as_ref().map(|(id, object, base)| (self.found(*id, object), base));
        let base = match &base {
            Some((Ok(found), base)) => {
                if known.relocation().is_none() && known.row.name != PROJECT {
                    // The files of a worktree that keeps all paths name what its base names.
                    spellings = Spellings::fixed(found.roots.clone());
                } else if found.roots.first() == spellings.known().first() {
                    spellings.add(&found.roots);
                }
                Some((found, *base))
            }
            _ => None,
        };
        Found::of(&known.root, spellings, manifest, mentions.paths, base)
    }

    /// The list of files that name the project's root, as `found/ID` has it. `None` if it is lost
    /// or damaged.
    pub(crate) fn noted_found(&self, id: SnapshotId) -> Result<Option<Found>, Error> {
        let path = self.layout().found(id);
        match read_plain(fs::CWD, &path, FOUND_MOST_BYTES) {
            Ok(bytes) => Ok(Found::decode(&bytes)),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context(Operation::Read, || path),
        }
    }

    /// The files of a snapshot that name the project's root.
    pub(crate) fn found(&self, id: SnapshotId, object: &SnapshotObject) -> Result<Found, Error> {
        if let Some(found) = self.noted_found(id)? {
            return Ok(found);
        }
        let project = self.project()?;
        let root = bytes_of(&project);
        let mut spellings = Spellings::at(vec![root.clone()]);
        let manifest = self.catalog().manifest(id, object)?;
        let mut intake = Intake::new().looking_for(std::slice::from_ref(&root));
        let mut mentions = Vec::new();
        for (path, entry) in Found::candidates(&manifest) {
            let Kind::File { size: size @ 1..=MOST_BYTES, blob, .. } = entry.kind else { continue };
            let never = || false;
            let (file, _) = self.contents().get(&mut intake, blob, size, &never)?;
            intake.hash(&file, size, &never).context(Operation::Read, || &path)?;
            let text = read_small(&file, size).context(Operation::Read, || &path)?;
            let is_named = kind_to_learn_from(&path)
                .zip(text)
                .is_some_and(|(kind, text)| spellings.learn(kind, &text));
            if intake.mentions_root || is_named {
                mentions.push(path);
            }
        }
        let found = Found::of(&project, spellings, &manifest, mentions, None);
        if !self.is_read_only() {
            self.snapshots().keep_found(id, &found);
        }
        Ok(found)
    }

    /// All snapshots, the newest first, and those that cannot be read.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn log(&self) -> Result<SnapshotLog, Error> {
        let (names, mut origins) = (self.catalog().names()?, self.catalog().origins()?);
        let mut log = SnapshotLog { snapshots: Vec::new(), damage: Vec::new() };
        for row in self.catalog().snapshots()? {
            match row {
                Ok((id, object)) => {
                    let origin = origins.remove(&id).unwrap_or_default();
                    log.snapshots.push(told(id, object, &names, origin));
                }
                Err(why) => log.damage.push(Damage::of_snapshot(self.layout(), why)),
            }
        }
        Ok(log)
    }

    /// One snapshot.
    ///
    /// # Errors
    /// [`ErrorKind::SnapshotNotFound`]. Nothing is changed.
    pub fn show(&self, id: SnapshotId) -> Result<Snapshot, Error> {
        let origin = self.catalog().origins()?.remove(&id).unwrap_or_default();
        Ok(told(id, self.object(id)?, &self.catalog().names()?, origin))
    }

    /// The snapshot that `text` means: a name, an id, or the start of one snapshot's id (at least
    /// four digits). If `text` is both a name and the start of an id, the name wins, as with git;
    /// see [`Store::ids_that_start_with`].
    ///
    /// # Errors
    /// [`ErrorKind::SnapshotNotFound`] and [`ErrorKind::SnapshotAmbiguous`].
    pub fn resolve(&self, text: &str) -> Result<SnapshotId, Error> {
        if let Some((_, id)) = self.catalog().names()?.into_iter().find(|(name, _)| name == text) {
            return Ok(id);
        }
        match self.ids_that_start_with(text)?.as_slice() {
            [id] => Ok(*id),
            [] => Err(not_found(text)),
            [_, _, ..] => {
                let cause = io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the ids of several snapshots start with it",
                );
                Err(Error::new(ErrorKind::SnapshotAmbiguous, Operation::FindSnapshot, text, cause))
            }
        }
    }

    /// The snapshots whose ids start with `text`, which has at least four digits. Names do not
    /// count.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn ids_that_start_with(&self, text: &str) -> Result<Vec<SnapshotId>, Error> {
        if text.len() < LEAST_DIGITS || !is_hex(text) {
            return Ok(Vec::new());
        }
        let digits = text.to_ascii_lowercase();
        let mut ids = self.catalog().snapshot_ids()?;
        ids.retain(|id| id.to_string().starts_with(&digits));
        Ok(ids)
    }

    /// The snapshot that the project is based on.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn latest(&self) -> Result<Option<SnapshotId>, Error> {
        Ok(self.catalog().worktree(PROJECT)?.and_then(|row| row.snapshot))
    }

    /// Gives a snapshot the name `name`. If another snapshot has that name, it loses it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`], [`ErrorKind::SnapshotNotFound`]. Nothing is changed.
    pub fn set_name(&self, name: &str, id: SnapshotId) -> Result<(), Error> {
        self.must_be_writable(Operation::NameSnapshot)?;
        check_name(name)?;
        let named = self.catalog().set_name(name, id)?;
        if named { Ok(()) } else { Err(not_found(&id.to_string())) }
    }

    /// Removes a name; its snapshot stays. Returns whether there was such a name.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. The name stays.
    pub fn remove_name(&self, name: &str) -> Result<bool, Error> {
        self.must_be_writable(Operation::RemoveName)?;
        self.catalog().remove_name(name)
    }
}

fn told(
    id: SnapshotId,
    object: SnapshotObject,
    names: &[(String, SnapshotId)],
    origin: Origin,
) -> Snapshot {
    let (seconds, nanoseconds) = object.created;
    let created = if seconds >= 0 {
        UNIX_EPOCH.checked_add(Duration::new(seconds.unsigned_abs(), nanoseconds))
    } else {
        None
    };
    Snapshot {
        id,
        parent: object.parent,
        created: created.unwrap_or(UNIX_EPOCH),
        message: object.message,
        names: names.iter().filter(|(_, of)| *of == id).map(|(name, _)| name.clone()).collect(),
        worktree: origin.worktree.filter(|name| name != PROJECT),
        branch: origin.branch,
        entries: object.entries,
        files: object.files,
        bytes: object.bytes,
    }
}

/// The start of an id needs at least this many digits.
const LEAST_DIGITS: usize = 4;

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn not_found(text: &str) -> Error {
    let why = if text.len() < LEAST_DIGITS && is_hex(text) {
        "no snapshot has this name, and a snapshot id needs at least four digits"
    } else {
        "no snapshot has this name or id"
    };
    let cause = io::Error::new(io::ErrorKind::NotFound, why);
    Error::new(ErrorKind::SnapshotNotFound, Operation::FindSnapshot, text, cause)
}

/// A name for a snapshot: what can be typed, printed, and not be taken for an id or a flag.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 200 {
        "it is longer than 200 bytes"
    } else if name.contains(|char: char| char == '/' || char.is_control() || char.is_whitespace()) {
        "it has a slash, a space or a control character"
    } else if name.starts_with(['-', '.']) {
        "it starts with a dash or a dot"
    } else if name.len() == 64 && is_hex(name) {
        "it looks like an id"
    } else {
        return Ok(());
    };
    let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
    Err(Error::new(ErrorKind::InvalidName, Operation::UseName, name, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths of a tree, and the lists of its directories.
    fn paths(manifest: &Manifest) -> Vec<PathBuf> {
        let entries = manifest.entries();
        entries.map(|(place, slot, _)| manifest.path_of(place, slot)).collect()
    }

    /// A folder that has nothing but folders, and is as the base has it, was once taken for empty
    /// if there was no index.
    #[test]
    fn a_look_finds_the_same_entries_with_an_index_and_without_one() {
        let project = tempfile::tempdir().unwrap();
        for folder in ["a/b/c", "a/b/d", "empty", "e"] {
            std::fs::create_dir_all(project.path().join(folder)).unwrap();
        }
        for file in ["a/b/c/one", "a/b/c/two", "a/b/d/three", "e/four", "five"] {
            std::fs::write(project.path().join(file), file).unwrap();
        }
        std::fs::hard_link(project.path().join("e/four"), project.path().join("a/b/again"))
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let store = Store::init(project.path()).unwrap();
        let options = StoreOptions::new();
        store.snapshot(&SnapshotOptions::new(), &options).unwrap();
        let mut known = store.known(store.catalog().worktree(PROJECT).unwrap().unwrap()).unwrap();
        let expected = paths(&known.base.as_ref().unwrap().2);
        for has_index in [true, false] {
            known.index = known.index.filter(|_| has_index);
            for intake in [None, Some(Noted::of(&options.operation()))] {
                let scan = store.scan(&known, intake.as_ref(), &options.operation()).unwrap().0;
                let found = scan.manifest.as_ref().map_or(expected.clone(), paths);
                assert_eq!(found, expected, "index: {has_index}, intake: {}", intake.is_some());
            }
        }
        std::fs::write(project.path().join("e/six"), "new").unwrap();
        let known = store.known(known.row).unwrap();
        let scan = store.scan(&known, Some(&Noted::of(&options.operation())), &options.operation());
        let scan = scan.unwrap().0;
        let (now, base) = (scan.manifest.unwrap(), &known.base.as_ref().unwrap().2);
        assert_eq!(paths(&now).len(), expected.len() + 1);
        assert_eq!(scan.stats.len(), now.count as usize);
        // Each stat belongs to its entry.
        for (number, path) in (1..).zip(paths(&now)) {
            let stat = fs::lstat(project.path().join(&path)).unwrap();
            assert_eq!(
                scan.stats[number].ino,
                crate::reflink::meta::Meta::of(&stat).ino,
                "{}",
                path.display()
            );
        }
        // A folder in which nothing has changed is in memory once.
        let of = |manifest: &Manifest| {
            let place = manifest.child_of(manifest.child_of(0, b"a").unwrap(), b"b").unwrap();
            let place = manifest.child_of(place, b"c").unwrap();
            manifest.directories[place as usize].entries.as_ptr()
        };
        assert_eq!(of(&now), of(base));
    }

    #[test]
    fn a_snapshot_that_is_like_another_shares_its_memory_and_is_the_same() {
        let project = tempfile::tempdir().unwrap();
        for file in ["a/one", "b/two"] {
            std::fs::create_dir(project.path().join(file).parent().unwrap()).unwrap();
            std::fs::write(project.path().join(file), file).unwrap();
        }
        let store = Store::init(project.path()).unwrap();
        let take = || store.snapshot(&SnapshotOptions::new(), &StoreOptions::new()).unwrap().id;
        let first = take();
        std::fs::write(project.path().join("b/three"), "new").unwrap();
        let second = take();
        let read = |id, like: &[&Manifest]| {
            store.catalog().manifest_like(id, &store.object(id).unwrap(), like).unwrap()
        };
        let base = read(first, &[]);
        let (alone, mut shared) = (read(second, &[]), read(second, &[&base]));
        assert_eq!(alone.root, shared.root);
        assert!(alone.entries().eq(shared.entries()));
        let at = |manifest: &Manifest, name| manifest.child_of(0, name).unwrap() as usize;
        let (a, b) = (at(&shared, b"a"), at(&shared, b"b"));
        assert_eq!(base.directories[a].entries.as_ptr(), shared.directories[a].entries.as_ptr());
        assert_ne!(base.directories[b].entries, shared.directories[b].entries);
        // A change of one is none of the other.
        let was = base.directories[a].entries.clone();
        shared.directories[a].entries[0].mode = 0;
        assert_eq!(base.directories[a].entries, was);
        assert_ne!(shared.directories[a].entries, was);
    }

    /// Where it was, the newer one's snapshot was another by then, so it was none, and each look
    /// that followed read everything.
    #[test]
    fn the_first_look_of_a_boot_writes_over_no_index_but_the_one_that_it_began_with() {
        let project = tempfile::tempdir().unwrap();
        std::fs::write(project.path().join("file"), "content").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let store = Store::init(project.path()).unwrap();
        let options = StoreOptions::new();
        store.snapshot(&SnapshotOptions::new(), &options).unwrap();
        let mut known = store.known(store.catalog().worktree(PROJECT).unwrap().unwrap()).unwrap();
        let token = known.row.token.clone();
        let (id, _, base) = known.base.as_ref().unwrap();
        let id = *id;
        let newer = known.index.clone().unwrap();
        let begun = Index { boot: Boot([9; 16]), ..newer.clone() };
        known.index = Some(begun.clone());
        assert!(store.scan(&known, None, &options.operation()).unwrap().0.index.is_some());
        assert_eq!(store.registry().index(&token, id, base), Some(newer));
        store.registry().write_index(&token, &begun).unwrap();
        store.scan(&known, None, &options.operation()).unwrap();
        assert_eq!(store.registry().index(&token, id, base).unwrap().boot, Boot::this());
        std::fs::remove_file(store.path().join("indexes").join(&token)).unwrap();
        store.scan(&known, None, &options.operation()).unwrap();
        assert_eq!(store.registry().index(&token, id, base), None);
    }
}

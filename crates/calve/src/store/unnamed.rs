//! Trees whose contents have no names yet.
//!
//! A start that would have to read much clones the project's files and publishes the worktrees
//! without reading a file. What it saw by `lstat` is an *unnamed snapshot*: every entry, but no hash
//! of a content that the project's snapshot does not have. It is a file in `unnamed/`, named after
//! the first worktree's token. The worktrees' rows have no base snapshot as long as that file is
//! there. *Naming* reads each content once, makes the snapshot, and writes its id into the rows.
//! docs/design/naming.md has the reasons.
//!
//! # Whose content is read
//! The content of a file is what was cloned. Two kinds of file still have it for certain:
//!
//! * The project's file, if its inode, size and times are those that it had *before* the clone, and
//!   no process that had it open for writing can have changed it without a trace.
//! * A worktree's file, if its inode, size and times are those that it was made with. No other
//!   process had it before.
//!
//! Both are compared again after the content was cloned into the store. If all of them were changed
//! before the content was read, nobody has it any more. Then the base snapshot has for this path
//! what the project has now, or nothing, and the worktrees show it as a change. No tree is touched.
//!
//! # What is durable when
//! The unnamed snapshot is written before the worktrees have their names. The base snapshot, the
//! rows that refer to it and the project's row change in one transaction. The file in `unnamed/` is
//! removed after that. So a process that dies while it names leaves the file, and the next one
//! begins again; content that was taken in by then is there already, or is garbage. Should a crash
//! of the machine take the file away, the worktrees' base is the project's next snapshot, and calve
//! reads their files to compare them.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, Mode};

use super::at::{is_gone, open_at};
use super::blobs::{Intake, Noted, Taken};
use super::catalog::{NewSnapshot, Origin, State, WorktreeRow};
use super::files::{listed_at, read_plain};
use super::id::{BlobId, SnapshotId};
use super::index::{self, Index, Stat};
use super::layout;
use super::manifest::{Builder, Manifest};
use super::metadata::Maker;
use super::object::{
    Attributes, Entry, Kind, Malformed, Reader, SnapshotObject, decode_directory, encode_directory,
    put_varint,
};
use super::paths::spelling::{Spellings, kind_to_learn_from};
use super::scan::files::read_small;
use super::scan::{
    self, Mentions, Request, Scan, attributes, entry_of, group_of, name_directories, stat_of,
};
use super::snapshot::Known;
use super::{PROJECT, Store, StoreOptions, bytes_of, format, git, locks, now, path_from};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::tree::pool::{self, cancelled};
use crate::tree::read::open_unnoted;
use crate::tree::running::Running;
use crate::tree::staging::write_whole;

pub(crate) const MAGIC: &[u8; 8] = b"CALVEUNN";

/// More than the record of any project has.
const MOST_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// The number of files that a thread takes at once.
const BATCH: usize = 64;

/// The id in the indexes of an unnamed snapshot.
const NO_SNAPSHOT: SnapshotId = SnapshotId::from_bytes([0; 32]);

/// The stat of a file that no index vouches for.
pub(crate) const UNTRACED: Stat = Stat { ino: 0, changed: (i64::MAX, 0) };

/// A snapshot whose contents have no names yet.
#[derive(Debug)]
pub(crate) struct Unnamed {
    /// Every entry. Files have the content [`scan::UNKNOWN`] and no attributes, but for those that
    /// were as in `base` before the clone.
    pub(crate) manifest: Manifest,
    /// The project's snapshot at the start.
    pub(crate) base: Option<SnapshotId>,
    /// What stood for the entries in the project before the clone was made. An entry that differed
    /// in anything afterwards has [`UNTRACED`].
    pub(crate) project: Index,
    /// The worktrees by their tokens, and what they were made with. On btrfs all are snapshots of one
    /// subvolume, so they have one index.
    pub(crate) trees: Vec<(Vec<String>, Index)>,
    /// The seal of the subvolume that the worktrees are snapshots of. Empty: there is none.
    pub(crate) seal: Vec<u8>,
}

/// What [`Store::name_contents`] did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct NamingReport {
    /// The base snapshots that were made, one for each start whose contents had no names yet.
    pub snapshots: Vec<SnapshotId>,
    /// Files that were changed in the project and in all worktrees before their content was read.
    /// Their base is what the project had instead.
    pub changed_files: u64,
    /// Not everything was named: another process needed the store, or names contents itself. Only
    /// after [`Store::name_contents_behind`].
    pub stopped: bool,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

impl Unnamed {
    /// An index of this snapshot. It belongs to no snapshot of the store.
    pub(crate) fn index(boot: index::Boot, stamp: (i64, u32), stats: Vec<Stat>) -> Index {
        Index { snapshot: NO_SNAPSHOT, boot, stamp, stats }
    }

    /// The token of the first worktree, after which the record is named.
    pub(crate) fn token(&self) -> &str {
        self.tokens().next().unwrap_or_default()
    }

    fn tokens(&self) -> impl Iterator<Item = &str> {
        self.trees.iter().flat_map(|(tokens, _)| tokens.iter().map(String::as_str))
    }

    /// Whether both say the same.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.manifest.entries().eq(other.manifest.entries())
            && self.manifest.root == other.manifest.root
            && self.base == other.base
            && (&self.project, &self.trees) == (&other.project, &other.trees)
            && self.seal == other.seal
    }

    /// The bytes of the record.
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let (files, bytes) = self.manifest.files();
        let object = SnapshotObject {
            root: self.manifest.root.clone(),
            parent: self.base,
            created: now(),
            message: String::new(),
            entries: self.manifest.count.into(),
            files,
            bytes,
        };
        let mut out = MAGIC.to_vec();
        let mut put = |bytes: &[u8]| {
            put_varint(&mut out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        };
        put(&object.encode());
        for directory in &self.manifest.directories {
            put(&encode_directory(&directory.entries));
        }
        put(&self.project.encode_stored(&self.manifest)?);
        put(&self.seal);
        for (tokens, index) in &self.trees {
            put(tokens.join(" ").as_bytes());
            put(&index.encode_stored(&self.manifest)?);
        }
        let hash = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&hash);
        Ok(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (body, hash) = bytes
            .split_at_checked(bytes.len().saturating_sub(32))
            .ok_or(Malformed("the record ends too early"))?;
        if blake3::hash(body).as_bytes() != hash {
            return Err(Malformed("the record does not have its own hash"));
        }
        let body = body.strip_prefix(MAGIC).ok_or(Malformed("it is no record"))?;
        let mut reader = Reader(body);
        let object = SnapshotObject::decode(reader.bytes()?)?;
        let base = object.parent;
        let mut builder = Builder::new(object.root);
        while builder.next().is_some() {
            if !builder.add(decode_directory(reader.bytes()?)?) {
                return Err(Malformed("the record has too many entries"));
            }
        }
        let manifest = builder.finish();
        let count = manifest.count;
        if manifest.stored_count() != count {
            return Err(Malformed("the record has entries that no snapshot has"));
        }
        let project = Index::decode(reader.bytes()?, count)?;
        let seal = reader.bytes()?.to_vec();
        let mut trees = Vec::new();
        while !reader.0.is_empty() {
            let tokens = std::str::from_utf8(reader.bytes()?)
                .map_err(|_| Malformed("a token is not UTF-8"))?;
            let tokens = tokens.split(' ').map(str::to_owned).collect();
            trees.push((tokens, Index::decode(reader.bytes()?, count)?));
        }
        if trees.is_empty() {
            return Err(Malformed("the record has no worktree"));
        }
        Ok(Self { manifest, base, project, trees, seal })
    }
}

/// A tree that may still have the content that was cloned.
struct Holder<'a> {
    root: OwnedFd,
    index: &'a Index,
    is_project: bool,
}

/// The result of naming the content of a file.
enum Named {
    /// It has this name now. `by` is the place of the holder that it was read of.
    Content {
        blob: BlobId,
        attributes: Option<Box<Attributes>>,
        by: usize,
    },
    /// Nobody has it any more. The project has this now.
    Instead(Box<Entry>, Stat),
    Nothing,
}

struct Naming<'a> {
    store: &'a Store,
    unnamed: &'a Unnamed,
    holders: &'a [Holder<'a>],
    roots: &'a [Vec<u8>],
    spellings: &'a Spellings,
    noted: &'a Noted,
    /// Whether the store has the contents of the snapshot that the project was based on.
    has_base: bool,
    operation: &'a Running,
}

impl Store {
    /// Looks at every entry of a tree, and reads none.
    pub(crate) fn look_at_all(
        &self,
        path: &std::path::Path,
        stamp: (i64, u32),
        operation: &Running,
    ) -> Result<Scan, Error> {
        let root = fs::open(path, DIR_FLAGS, Mode::empty()).context(Operation::Open, || path)?;
        let excluded = self.other_roots(PROJECT, path)?;
        scan::scan(&Request {
            path,
            root: &root,
            base: None,
            index: None,
            blobs: self.blobs(),
            intake: None,
            stamp,
            maker: Maker::of(&root),
            excluded: &excluded,
            roots: &[],
            spellings: &Spellings::fixed(Vec::new()),
            local: None,
            operation,
        })
    }

    /// Writes the unnamed snapshot of worktrees that are being made.
    pub(crate) fn write_unnamed(&self, unnamed: &Unnamed) -> Result<(), Error> {
        let folder = self.layout().all_unnamed();
        let write = || -> io::Result<()> {
            match std::fs::create_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let path = self.layout().unnamed(unnamed.token());
            write_whole(&self.layout().stage(), &path, &unnamed.encode()?)
        };
        write().context(Operation::Mark, || &folder)
    }

    /// Removes the unnamed snapshot of worktrees that were not made.
    pub(crate) fn remove_unnamed(&self, token: &str) {
        self.discard_unnamed_tree(token);
        let _ = std::fs::remove_file(self.layout().unnamed(token));
    }

    /// Whether there are trees whose contents have no names yet.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. Nothing is changed.
    pub fn has_unnamed_contents(&self) -> Result<bool, Error> {
        Ok(!self.all_unnamed()?.is_empty())
    }

    fn all_unnamed(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = self.layout().all_unnamed();
        let mut names = listed_at(&folder).context(Operation::ReadDirectory, || &folder)?;
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names.into_iter().map(|(name, _)| folder.join(name)).collect())
    }

    /// Names the contents of worktrees that were started without being read
    /// ([`StartOptions::name_later`](crate::StartOptions::name_later)): reads each content once,
    /// clones it into the store, and makes the worktrees' base snapshot. Until then
    /// [`Worktree::snapshot`](crate::Worktree::snapshot) is `None`.
    ///
    /// Every operation that needs the base snapshot does this first: status, diff, capture, switch,
    /// reset, undo, restore, a drop that looks for work, the next snapshot and the next start. One
    /// process names at a time; the others wait.
    ///
    /// # Errors
    /// Those of every operation, see [`Store`]. The worktrees are as they were, and the next call
    /// begins again.
    pub fn name_contents(&self, options: &StoreOptions) -> Result<NamingReport, Error> {
        let started = Instant::now();
        self.must_be_writable(Operation::TakeSnapshotWith)?;
        let operation = options.operation();
        let _alone = self.naming_lock(&operation)?;
        let mut report = NamingReport::default();
        self.name_all(&mut report, &operation)?;
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// The same for a process in the background. It returns as soon as another process waits for
    /// the names or needs the store for itself, and at once if another process names contents: see
    /// [`NamingReport::stopped`].
    ///
    /// # Errors
    /// See [`Store::name_contents`].
    pub fn name_contents_behind(&self, options: &StoreOptions) -> Result<NamingReport, Error> {
        let started = Instant::now();
        self.must_be_writable(Operation::TakeSnapshotWith)?;
        let mut report = NamingReport::default();
        let Some(_alone) = locks::naming_now(self.path())? else {
            return Ok(NamingReport { stopped: true, ..report });
        };
        let is_needed =
            || locks::is_gate_closed(self.path()) || locks::is_naming_wanted(self.path());
        match self
            .until_needed(options, is_needed, |operation| self.name_all(&mut report, operation))
        {
            Err(error)
                if error.kind() == ErrorKind::Cancelled && !options.cancel.is_cancelled() =>
            {
                report.stopped = true;
            }
            result => result?,
        }
        report.elapsed = started.elapsed();
        Ok(report)
    }

    fn naming_lock(&self, operation: &Running) -> Result<locks::Guard, Error> {
        locks::naming(self.path(), || operation.is_cancelled())?
            .ok_or_else(|| cancelled(Operation::TakeSnapshot, self.path()))
    }

    /// Names the contents that have no name yet, as a part of `operation`. Returns whether there were
    /// some. calve does not change a store that it cannot write to.
    pub(crate) fn name_pending(&self, operation: &Running) -> Result<bool, Error> {
        if self.is_read_only() || !self.has_unnamed_contents()? {
            return Ok(false);
        }
        let _alone = self.naming_lock(operation)?;
        self.name_all(&mut NamingReport::default(), operation)?;
        Ok(true)
    }

    /// Names everything. The caller holds the lock.
    fn name_all(&self, report: &mut NamingReport, operation: &Running) -> Result<(), Error> {
        let records = self.all_unnamed()?;
        if records.is_empty() {
            return Ok(());
        }
        self.registry().recover()?;
        for path in records {
            let noted = Noted::of(operation);
            let named = self.name_one(&path, report, &noted, operation);
            if named.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull) {
                self.give_back(&noted, operation);
            }
            named?;
        }
        Ok(())
    }

    fn name_one(
        &self,
        path: &std::path::Path,
        report: &mut NamingReport,
        noted: &Noted,
        operation: &Running,
    ) -> Result<(), Error> {
        let token = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let remove = || {
            self.discard_unnamed_tree(token);
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).context(Operation::RemoveLeftovers, || path)
                }
                _ => Ok(()),
            }
        };
        let _guard = self.share()?;
        let bytes = match read_plain(fs::CWD, path, MOST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.context(Operation::Read, || path)?,
        };
        // A damaged record says nothing: the worktrees are compared with the project's next snapshot.
        let Ok(unnamed) = Unnamed::decode(&bytes) else { return remove() };
        drop(bytes);
        let is_one = |row: &&WorktreeRow| {
            row.snapshot.is_none() && unnamed.tokens().any(|token| *token == row.token)
        };
        let (rows, dropped) = (self.catalog().worktrees()?, self.catalog().dropped()?);
        let of_trees: Vec<&WorktreeRow> = rows.iter().filter(is_one).collect();
        if of_trees.iter().any(|row| row.state == State::Starting) {
            // Their start is still at work.
            return Ok(());
        }
        let of_dropped: Vec<_> = dropped.iter().filter(|kept| is_one(&&kept.row)).collect();
        if of_trees.is_empty() && of_dropped.is_empty() {
            return remove();
        }
        let Some(project_row) = rows.iter().find(|row| row.name == PROJECT) else { return Ok(()) };
        let project = self.registry().root_of(project_row);
        let mut holders = Vec::new();
        // A holder that calve fails to look at is no holder that has gone: to name without it could
        // lose the base.
        let open = |path: &std::path::Path| {
            witness(fs::open(path, DIR_FLAGS, Mode::empty())).context(Operation::Open, || path)
        };
        if let Some(root) = open(&project)? {
            holders.push(Holder { root, index: &unnamed.project, is_project: true });
        }
        for (tokens, index) in &unnamed.trees {
            for token in tokens {
                let row = of_trees.iter().find(|row| row.token == *token);
                let kept = of_dropped.iter().find(|kept| kept.row.token == *token);
                let at = match (row, kept) {
                    (Some(row), _) if self.registry().find_mark(row)? => path_from(&row.path),
                    (_, Some(kept)) if kept.beside => {
                        layout::dropped_beside(&path_from(&kept.row.path), token)
                    }
                    (_, Some(_)) => self.layout().dropped_tree(token),
                    _ => continue,
                };
                if let Some(root) = open(&at)? {
                    holders.push(Holder { root, index, is_project: false });
                }
            }
        }
        // Nobody works in this one. It is asked last, since the pages of the others are in memory.
        let (_, index) = &unnamed.trees[0];
        if let Some(root) = open(&self.layout().unnamed_tree(token))? {
            holders.push(Holder { root, index, is_project: false });
        }
        let roots = vec![bytes_of(&project)];
        let spellings = match fs::open(&project, DIR_FLAGS, Mode::empty()) {
            Ok(root) => Spellings::of(&root, roots.clone()),
            Err(_) => Spellings::at(roots.clone()),
        };
        let naming = Naming {
            store: self,
            unnamed: &unnamed,
            holders: &holders,
            roots: &roots,
            spellings: &spellings,
            noted,
            // Nobody collects contents as long as this process shares them.
            has_base: unnamed.base.is_some_and(|base| self.object(base).is_ok()),
            operation,
        };
        let (files, unsealed, mentions) = naming.run()?;
        let made = Outcome::of(&unnamed, files, &holders);
        let (mut manifest, order) = (made.manifest, vec![None; unnamed.manifest.directories.len()]);
        let directories = name_directories(&mut manifest, &order, None, true);
        let (files, bytes) = manifest.files();
        let message = match made.changed {
            0 => String::new(),
            changed => format!(
                "{changed} files were changed before they were read; they are as in the project"
            ),
        };
        let object = SnapshotObject {
            root: manifest.root.clone(),
            parent: unnamed.base,
            created: now(),
            message,
            entries: manifest.count.into(),
            files,
            bytes,
        };
        self.flush(&unsealed)?;
        if manifest.entries().any(|(_, _, entry)| entry.is_linked_special()) {
            format::require(self.path(), format::LINKED_SPECIAL)?;
        }
        if std::fs::symlink_metadata(project.join(layout::GIT)).is_ok() {
            format::require(self.path(), format::WITHOUT_GIT)?;
        }
        let id = SnapshotId::of(&object.encode());
        // The indexes come first: without one a look at the tree reads everything. An index of
        // another snapshot is as good as none.
        let mut indexes = Vec::with_capacity(unnamed.trees.len());
        for ((tokens, index), stats) in unnamed.trees.iter().zip(made.trees) {
            let index = Index { snapshot: id, boot: index.boot, stamp: index.stamp, stats };
            for token in tokens {
                let _ = self.registry().write_index(token, &index, &manifest);
            }
            indexes.push(index);
        }
        if project_row.snapshot == unnamed.base {
            let Index { boot, stamp, .. } = unnamed.project;
            let index = Index { snapshot: id, boot, stamp, stats: made.project };
            let _ = self.registry().write_index(&project_row.token, &index, &manifest);
        }
        let known = Known {
            row: project_row.clone(),
            root: project.clone(),
            base: None,
            index: None,
            local: None,
        };
        self.note_found(id, &known, &manifest, mentions);
        let branch = git::branch_in(&project);
        let tokens: Vec<String> = unnamed.tokens().map(str::to_owned).collect();
        self.catalog().add_snapshot(&NewSnapshot {
            origin: &Origin { worktree: Some(PROJECT.to_owned()), branch },
            object: &object,
            manifest: &manifest,
            directories: &directories,
            token: &project_row.token,
            unnamed: &tokens,
            name: None,
        })?;
        report.snapshots.push(id);
        report.changed_files += made.changed;
        if made.changed == 0
            && let Some(index) = indexes.first()
        {
            self.adopt_unnamed_tree((token, &unnamed.seal), (id, &manifest, index));
        }
        remove()
    }
}

/// The results of naming: the contents by the entries' numbers, mirrors to seal, and files that name
/// the project.
type Files = (HashMap<u32, Named>, Vec<BlobId>, Mentions);

impl Naming<'_> {
    fn run(&self) -> Result<Files, Error> {
        let manifest = &self.unnamed.manifest;
        // Files of one directory that a thread takes at once, by their slots.
        let mut batches: Vec<(u32, Vec<u32>)> = Vec::new();
        for (place, slot, entry) in manifest.entries() {
            if !matches!(entry.kind, Kind::File { .. }) {
                continue;
            }
            match batches.last_mut() {
                Some((of, slots)) if *of == place && slots.len() < BATCH => slots.push(slot),
                _ => batches.push((place, vec![slot])),
            }
        }
        self.operation.expect(manifest.files().0);
        let none = || Mentions { paths: Vec::new(), spellings: self.spellings.clone() };
        // Threads take tasks from the end. The disk is read in the order of the entries.
        batches.reverse();
        let what = (Operation::TakeSnapshot, self.store.path());
        let workers = pool::run(
            self.operation,
            what,
            batches,
            |_| (Intake::noting(self.noted).looking_for(self.roots), Vec::new(), none()),
            |(intake, named, mentions), (place, slots), _| {
                self.files(intake, (place, &slots), named, mentions)
            },
        )?;
        let mut all = (HashMap::new(), Vec::new(), none());
        for (intake, named, mentions) in workers {
            all.0.extend(named);
            all.1.extend(intake.unsealed);
            all.2.extend(mentions);
        }
        Ok(all)
    }

    /// Names files of one directory.
    fn files(
        &self,
        intake: &mut Intake,
        (place, slots): (u32, &[u32]),
        named: &mut Vec<(u32, Named)>,
        mentions: &mut Mentions,
    ) -> Result<(), Error> {
        let manifest = &self.unnamed.manifest;
        let (path, directory) = (manifest.path(place), &manifest.directories[place as usize]);
        let mut opened: Vec<Option<Option<OwnedFd>>> = Vec::new();
        opened.resize_with(self.holders.len(), || None);
        for slot in slots {
            let (number, entry) = (directory.first + slot, &directory.entries[*slot as usize]);
            let of_file = || path.join(super::manifest::os(&entry.name));
            let named_as = self
                .file((intake, mentions), (&path, number, entry), &mut opened)
                .context(Operation::TakeIn, of_file)?;
            self.operation.file_done(length(entry));
            named.push((number, named_as));
        }
        Ok(())
    }

    fn file(
        &self,
        (intake, mentions): (&mut Intake, &mut Mentions),
        (path, number, entry): (&std::path::Path, u32, &Entry),
        opened: &mut [Option<Option<OwnedFd>>],
    ) -> io::Result<Named> {
        let stop = || self.operation.is_cancelled();
        let name = CString::new(&*entry.name)?;
        let mut in_project = None;
        for (by, holder) in self.holders.iter().enumerate() {
            if opened[by].is_none() {
                opened[by] = Some(witness(open_at(&holder.root, path))?);
            }
            let Some(Some(dir)) = &opened[by] else { continue };
            let Some(file) = witness(open_unnoted(dir, &name, SOURCE_FLAGS))? else {
                continue;
            };
            let meta = Meta::of(&fs::fstat(&file)?);
            if meta.file_type() != FileType::RegularFile {
                continue;
            }
            let stat = self.stat_of(holder, number);
            let stamp = (holder.index.stamp.0, i64::from(holder.index.stamp.1));
            if !is_as_recorded(entry, &stat, &meta) || meta.changed >= stamp {
                if holder.is_project {
                    in_project = Some((file, meta));
                }
                continue;
            }
            // The index of the base vouched for it, and it has not changed since.
            if let Kind::File { blob, .. } = entry.kind
                && blob != scan::UNKNOWN
                && holder.is_project
                && self.has_base
            {
                #[cfg(calve_check)]
                crate::check::known_file(dir, &name, &meta, blob);
                return Ok(Named::Content { blob, attributes: entry.attributes.clone(), by });
            }
            match self.store.blobs().take_in(intake, &file, meta, stamp, &stop)? {
                Taken::Stored { blob, size, meta: after, traced, .. }
                    if is_as_recorded(entry, &stat, &after)
                        && size == length(entry)
                        && (traced || !holder.is_project) =>
                {
                    let path = path.join(super::manifest::os(&entry.name));
                    note_mention(intake.mentions_root, mentions, &path, (&file, size));
                    return Ok(Named::Content { blob, attributes: attributes(&file)?, by });
                }
                _ if holder.is_project => in_project = Some((file, meta)),
                _ => {}
            }
        }
        let Some((file, _)) = in_project else { return Ok(Named::Nothing) };
        // As it is now, by the rules of every snapshot.
        let (meta, stamp) = (Meta::of(&fs::fstat(&file)?), (i64::MIN, 0));
        Ok(match self.store.blobs().take_in(intake, &file, meta, stamp, &stop)? {
            Taken::Stored { blob, size, meta, .. } => {
                let path = path.join(super::manifest::os(&entry.name));
                note_mention(intake.mentions_root, mentions, &path, (&file, size));
                let kind = Kind::File { size, link: 0, blob };
                let entry = entry_of(&entry.name, &meta, attributes(&file)?, kind);
                Named::Instead(
                    Box::new(entry),
                    Stat { changed: UNTRACED.changed, ..stat_of(&meta) },
                )
            }
            Taken::Changing => Named::Nothing,
        })
    }

    fn stat_of(&self, holder: &Holder<'_>, number: u32) -> Stat {
        holder.index.stats.get(number as usize).copied().unwrap_or(UNTRACED)
    }
}

/// The opened file. `None` if the file is gone, or we may not read it any more: then it has changed.
fn witness<T, E: Into<io::Error>>(opened: Result<T, E>) -> io::Result<Option<T>> {
    match opened.map_err(Into::into) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Notes a file that names the project's root, as a scan does.
fn note_mention(
    mut mentions_root: bool,
    mentions: &mut Mentions,
    path: &std::path::Path,
    (file, size): (&OwnedFd, u64),
) {
    if let Some(kind) = kind_to_learn_from(path)
        && let Ok(Some(text)) = read_small(file, size)
    {
        mentions_root |= mentions.spellings.learn(kind, &text);
    }
    if mentions_root {
        mentions.paths.push(path.to_owned());
    }
}

/// Whether a file is as it was when `stat` was taken of it and it had the size and the time of
/// `entry`.
fn is_as_recorded(entry: &Entry, stat: &Stat, meta: &Meta) -> bool {
    let (seconds, nanoseconds) = meta.modified();
    stat.ino != 0
        && stat_of(meta) == *stat
        && meta.size == length(entry)
        && (seconds, nanoseconds) == (entry.mtime.0, i64::from(entry.mtime.1))
}

fn length(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    }
}

/// The base snapshot, and the indexes of the trees for it.
struct Outcome {
    manifest: Manifest,
    project: Vec<Stat>,
    trees: Vec<Vec<Stat>>,
    /// How many files nobody had any more.
    changed: u64,
}

impl Outcome {
    fn of(unnamed: &Unnamed, mut files: HashMap<u32, Named>, holders: &[Holder<'_>]) -> Self {
        let old = &unnamed.manifest;
        let mut builder = Builder::new(old.root.clone());
        // For each entry its old number, and who vouches for it: nobody, the project and with it all
        // trees, or one tree.
        let mut kept: Vec<(u32, Vouch)> = vec![(0, Vouch::All)];
        let mut instead: HashMap<u32, Stat> = HashMap::new();
        let mut changed = 0;
        for directory in &old.directories {
            let mut entries = Vec::with_capacity(directory.entries.len());
            for (number, entry) in (directory.first..).zip(&directory.entries) {
                let mut entry = entry.clone();
                let vouch = match (&mut entry.kind, files.remove(&number)) {
                    (
                        Kind::File { blob, .. },
                        Some(Named::Content { blob: is, attributes, by }),
                    ) => {
                        *blob = is;
                        entry.attributes = attributes;
                        match holders[by].is_project {
                            true => Vouch::All,
                            false => Vouch::Only(std::ptr::from_ref(holders[by].index)),
                        }
                    }
                    (Kind::File { .. }, Some(Named::Instead(other, stat))) => {
                        changed += 1;
                        entry = *other;
                        instead.insert(number, stat);
                        Vouch::Nobody
                    }
                    (Kind::File { .. }, _) => {
                        changed += 1;
                        continue;
                    }
                    _ => Vouch::All,
                };
                kept.push((number, vouch));
                entries.push(entry);
            }
            // This cannot fail: there are no more entries than before.
            let _ = builder.add(entries);
        }
        let mut manifest = builder.finish();
        link_names(&mut manifest, &unnamed.trees[0].1, &kept);
        let stats = |index: &Index, is_project: bool| {
            let stat = |(number, vouch): &(u32, Vouch)| {
                let stat = index.stats.get(*number as usize).copied().unwrap_or(UNTRACED);
                match vouch {
                    Vouch::All => stat,
                    Vouch::Only(of) if !is_project && std::ptr::eq(*of, index) => stat,
                    _ => match instead.get(number).filter(|_| is_project) {
                        Some(stat) => *stat,
                        None => Stat { changed: UNTRACED.changed, ..stat },
                    },
                }
            };
            kept.iter().map(stat).collect::<Vec<_>>()
        };
        let project = stats(&unnamed.project, true);
        let trees = unnamed.trees.iter().map(|(_, index)| stats(index, false)).collect();
        Self { manifest, project, trees, changed }
    }
}

/// Whose index may vouch for an entry.
enum Vouch {
    All,
    /// The tree with this index.
    Only(*const Index),
    Nobody,
}

/// Makes names that were one file one file again. `made` is the index of a tree that nobody else
/// had when it was made: names with one inode are one file.
fn link_names(manifest: &mut Manifest, made: &Index, kept: &[(u32, Vouch)]) {
    let mut groups: HashMap<u64, Vec<(u32, u32)>> = HashMap::new();
    let mut number = 0;
    let mut lost = HashSet::new();
    for (place, slot, entry) in manifest.entries() {
        number += 1;
        let Some((old, vouch)) = kept.get(number) else { continue };
        if entry.is_directory() {
            continue;
        }
        let ino = made.stats.get(*old as usize).map_or(0, |stat| stat.ino);
        groups.entry(ino).or_default().push((place, slot));
        if matches!(vouch, Vouch::Nobody) {
            lost.insert(ino);
        }
    }
    for (ino, names) in groups {
        if names.len() < 2 || ino == 0 || lost.contains(&ino) {
            continue;
        }
        let entry = |(place, slot): (u32, u32)| {
            &manifest.directories[place as usize].entries[slot as usize]
        };
        let first = entry(names[0]);
        let is_one = names
            .iter()
            .all(|at| first.same_content(entry(*at)) && first.same_metadata(entry(*at)));
        if is_one {
            let group = group_of(manifest, &names);
            for (place, slot) in names {
                manifest.directories[place as usize].entries[slot as usize].set_link(group);
            }
        }
    }
}

/// A record that has a bit of everything.
#[cfg(any(test, fuzzing))]
fn record() -> Unnamed {
    use super::index::Boot;
    let entry = |name: &[u8], kind| {
        let name = name.into();
        Entry { name, mode: 0o644, uid: 1, gid: 2, mtime: (3, 4), attributes: None, kind }
    };
    let folder = || Kind::Directory(super::manifest::NO_ID);
    let file = |size| Kind::File { size, link: 0, blob: scan::UNKNOWN };
    let mut builder = Builder::new(entry(b"", folder()));
    let _ = builder.add(vec![entry(b"a", folder()), entry(b"b", file(5))]);
    let _ = builder.add(vec![entry(b"c", file(0))]);
    let stats = vec![Stat { ino: 7, changed: (8, 9) }, UNTRACED, Stat::default(), UNTRACED];
    let index = |stamp| Unnamed::index(Boot([1; 16]), (stamp, 0), stats.clone());
    let tokens = |tokens: &[&str]| tokens.iter().map(|it| (*it).to_owned()).collect();
    let trees = vec![(tokens(&["one"]), index(2)), (tokens(&["two", "three"]), index(3))];
    let seal = b"7 boot".to_vec();
    let base = Some(SnapshotId::from_bytes([3; 32]));
    Unnamed { manifest: builder.finish(), base, project: index(1), trees, seal }
}

/// What a fuzzer begins with.
#[cfg(any(test, fuzzing))]
pub(crate) fn seed() -> io::Result<Vec<u8>> {
    record().encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_decodes_to_itself_and_a_damaged_one_to_nothing() {
        let record = record();
        let bytes = record.encode().unwrap();
        let decoded = Unnamed::decode(&bytes).unwrap();
        assert!(decoded.is(&record) && decoded.token() == "one");
        for at in 0..bytes.len() {
            assert!(Unnamed::decode(&bytes[..at]).is_err());
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Unnamed::decode(&damaged).is_err(), "{at}");
            // The process that made the record also made its hash, so the record may say anything. It must cause no panic.
            let body = damaged.len() - 32;
            let hash = *blake3::hash(&damaged[..body]).as_bytes();
            damaged[body..].copy_from_slice(&hash);
            let _ = Unnamed::decode(&damaged);
        }
    }
}

//! Trees whose contents have no names yet.
//!
//! A start that would have to read much clones the project's files and publishes the worktrees
//! without reading a file. What it saw by `lstat` is an *unnamed snapshot*: every entry, but no
//! hash of a content that the project's snapshot does not have. It is a file in `unnamed/`, named
//! after the first worktree's token. The worktrees' rows have no base snapshot as long as that file
//! is there. *Naming* reads each content once, makes the snapshot, and writes its id into the rows.
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
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{self, FileType, Mode};

use super::at::{is_gone, open_at};
use super::blobs::{Intake, Noted, Taken};
use super::catalog::{Based, DroppedRow, Origin, State, WorktreeRow};
use super::files::{listed_at, make_folder, open_plain};
use super::freeing::taking_in;
use super::id::{BlobId, SnapshotId};
use super::index::{self, Index, Stat};
use super::layout::{self, Layout};
use super::manifest::{Builder, Entries, Manifest};
use super::metadata::Maker;
use super::object::{
    Attributes, Entry, Kind, Malformed, Reader, SnapshotObject, decode_directory, encode_directory,
    put_varint,
};
use super::paths::spelling::Spellings;
use super::ready::{Deletion, Which};
use super::registry::Registry;
use super::scan::{
    self, Mentions, Request, Scan, attributes, entry_of, group_of, name_directories,
};
use super::snapshot::record::{FoundList, NewIndex, Recording};
use super::snapshot::{Known, other_roots};
use super::{PROJECT, Store, StoreOptions, background, bytes_of, git, locks, path_from};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::tree::pool::{self, cancelled, lock};
use crate::tree::read::open_unnoted;
use crate::tree::running::Running;
use crate::tree::staging::write_whole_by;

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
    /// The worktrees by their tokens, and what they were made with. On btrfs all are snapshots of
    /// one subvolume, so they have one index.
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

    #[cfg(any(test, fuzzing))]
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.write(&mut out)?;
        Ok(out)
    }

    /// Writes the bytes of the record.
    fn write(&self, to: &mut dyn io::Write) -> io::Result<()> {
        let object = self.manifest.object(self.base, String::new());
        let mut hasher = blake3::Hasher::new();
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            to.write_all(bytes)
        };
        put(MAGIC)?;
        let mut put = |bytes: &[u8]| {
            let mut length = Vec::new();
            put_varint(&mut length, bytes.len() as u64);
            put(&length)?;
            put(bytes)
        };
        put(&object.encode())?;
        for directory in &self.manifest.directories {
            put(&encode_directory(&directory.entries))?;
        }
        put(&self.project.encode()?)?;
        put(&self.seal)?;
        for (tokens, index) in &self.trees {
            put(tokens.join(" ").as_bytes())?;
            put(&index.encode()?)?;
        }
        to.write_all(hasher.finalize().as_bytes())
    }

    /// Writes it down, for worktrees that are being made.
    pub(crate) fn keep(&self, layout: Layout<'_>) -> Result<(), Error> {
        let folder = layout.all_unnamed();
        let write = || -> io::Result<()> {
            make_folder(&folder)?;
            let path = layout.unnamed(self.token());
            write_whole_by(&layout.stage(), &path, |file| self.write(file))
        };
        write().context(Operation::Mark, || &folder)
    }

    /// Reads the record at `path`.
    fn open(path: &Path) -> io::Result<Opened> {
        let (file, length) = match open_plain(fs::CWD, path, MOST_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Opened::Gone),
            opened => opened?,
        };
        match Self::read(io::BufReader::new(file), length) {
            Err(error)
                if error.get_ref().is_some_and(|cause| cause.is::<Malformed>())
                    || error.kind() == io::ErrorKind::UnexpectedEof =>
            {
                Ok(Opened::Damaged)
            }
            read => read.map(|unnamed| Opened::Whole(Box::new(unnamed))),
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) fn decode(bytes: &[u8]) -> io::Result<Self> {
        Self::read(bytes, bytes.len() as u64)
    }

    /// Reads a record of `length` bytes. The bytes are about as many as its manifest takes in
    /// memory, so they are never there as a whole.
    ///
    /// # Errors
    /// [`Malformed`], and those of reading.
    fn read(from: impl io::Read, length: u64) -> io::Result<Self> {
        let left = length.checked_sub(HASH_BYTES as u64);
        let left = left.ok_or(Malformed("the record ends too early"))?;
        let mut pieces = Pieces { from, left, hasher: blake3::Hasher::new() };
        if pieces.take(MAGIC.len() as u64)? != MAGIC {
            return Err(Malformed("it is no record").into());
        }
        let object = SnapshotObject::decode(&pieces.next()?)?;
        let base = object.parent;
        let mut builder = Builder::new(object.root);
        while builder.next().is_some() {
            if !builder.add(decode_directory(&pieces.next()?)?) {
                return Err(Malformed("the record has too many entries").into());
            }
        }
        let manifest = builder.finish();
        let count = manifest.count;
        if manifest.foreign().is_some() {
            return Err(Malformed("the record has entries that no snapshot has").into());
        }
        let project = Index::decode(&pieces.next()?, count)?;
        let seal = pieces.next()?;
        let mut trees = Vec::new();
        while pieces.left > 0 {
            let tokens = pieces.next()?;
            let tokens =
                std::str::from_utf8(&tokens).map_err(|_| Malformed("a token is not UTF-8"))?;
            let tokens = tokens.split(' ').map(str::to_owned).collect();
            trees.push((tokens, Index::decode(&pieces.next()?, count)?));
        }
        if trees.is_empty() {
            return Err(Malformed("the record has no worktree").into());
        }
        pieces.end()?;
        Ok(Self { manifest, base, project, trees, seal })
    }
}

const HASH_BYTES: usize = 32;

/// Reads a record piece by piece.
struct Pieces<R> {
    from: R,
    /// How many bytes are left before the hash.
    left: u64,
    hasher: blake3::Hasher,
}

impl<R: io::Read> Pieces<R> {
    fn take(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let short = Malformed("the record ends too early");
        self.left = self.left.checked_sub(length).ok_or(short)?;
        let mut bytes = Vec::new();
        io::Read::take(&mut self.from, length).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != length {
            return Err(short.into());
        }
        self.hasher.update(&bytes);
        Ok(bytes)
    }

    /// The next piece, which comes after its length.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let mut length = Vec::new();
        while length.last().is_none_or(|byte| byte & 0x80 != 0) {
            length.append(&mut self.take(1)?);
            if length.len() > VARINT_MOST_BYTES {
                return Err(Malformed("a number is too large").into());
            }
        }
        let length = Reader(&length).varint()?;
        self.take(length)
    }

    fn end(mut self) -> io::Result<()> {
        let mut hash = [0; HASH_BYTES];
        self.from.read_exact(&mut hash)?;
        if *self.hasher.finalize().as_bytes() != hash {
            return Err(Malformed("the record does not have its own hash").into());
        }
        Ok(())
    }
}

/// A number of 64 bits takes at most this many bytes.
const VARINT_MOST_BYTES: usize = 10;

/// A tree that may still have the content that was cloned.
struct Holder<'a> {
    root: OwnedFd,
    index: &'a Index,
    by: By,
}

/// Whose content was read, and whose index may vouch for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The project. With it the indexes of all trees vouch.
    Project,
    /// A tree, by the place of its index in the record.
    Tree(usize),
}

/// The result of naming the content of a file.
enum Named {
    /// It has this name now.
    Content {
        blob: BlobId,
        attributes: Option<Box<Attributes>>,
        by: By,
    },
    /// Nobody has it any more. The project has this now.
    Instead(Box<Entry>, Stat),
    Nothing,
}

/// A file whose content was not read in the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exception {
    /// It was read in this tree, whose index alone may vouch for it.
    OfTree(usize),
    /// Nobody has it any more. The project has another one, with this stat.
    Instead(Stat),
    /// The snapshot has no such entry.
    Gone,
}

struct Naming<'a> {
    store: &'a Store,
    /// The directories, without their entries.
    manifest: &'a Manifest,
    /// The entries of the directories, which get their contents here.
    entries: &'a [Mutex<Entries>],
    holders: &'a [Holder<'a>],
    roots: &'a [Vec<u8>],
    spellings: &'a Spellings,
    noted: &'a Noted,
    /// Whether the store has the contents of the snapshot that the project was based on.
    has_base: bool,
    operation: &'a Running,
}

/// Looks at every entry of a tree, and reads none. `like` is an earlier look at this tree or at
/// a clone of it.
pub(crate) fn look_at_all(
    store: &Store,
    path: &Path,
    like: Option<&Manifest>,
    stamp: (i64, u32),
    operation: &Running,
) -> Result<Scan, Error> {
    let root = fs::open(path, DIR_FLAGS, Mode::empty()).context(Operation::Open, || path)?;
    let excluded = other_roots(store, PROJECT, path, operation)?;
    let project = store.catalog().worktree(PROJECT)?;
    let project = project.filter(|row| store.registry().root_of(row) == path);
    let maker_of = |row: WorktreeRow| Maker::of(&store.layout().tree(&row.token));
    scan::scan(&Request {
        path,
        root: &root,
        base: like,
        index: None,
        blobs: store.blobs(),
        intake: None,
        looks_only: true,
        stamp,
        maker: project.map_or_else(Maker::privileged, maker_of),
        excluded: &excluded,
        roots: &[],
        spellings: &Spellings::fixed(Vec::new()),
        local: None,
        alike: None,
        operation,
    })
}

/// Removes the unnamed snapshot of worktrees that were not made.
pub(crate) fn remove(store: &Store, token: &str) {
    store.ready().discard(Which::Unnamed(token), Deletion::Now);
    let _ = std::fs::remove_file(store.layout().unnamed(token));
}

/// The files of all unnamed snapshots.
pub(super) fn all(layout: Layout<'_>) -> Result<Vec<PathBuf>, Error> {
    let folder = layout.all_unnamed();
    let mut names = listed_at(&folder).context(Operation::ReadDirectory, || &folder)?;
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names.into_iter().map(|(name, _)| folder.join(name)).collect())
}

/// See [`Store::name_contents`].
pub(super) fn name_contents(store: &Store, options: &StoreOptions) -> Result<NamingReport, Error> {
    let started = Instant::now();
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    let operation = options.operation();
    let _alone = naming_lock(store, &operation)?;
    let mut report = NamingReport::default();
    name_all(store, &mut report, &operation)?;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// See [`Store::name_contents_behind`].
pub(super) fn name_contents_behind(
    store: &Store,
    options: &StoreOptions,
) -> Result<NamingReport, Error> {
    let started = Instant::now();
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    let mut report = NamingReport::default();
    let Some(_alone) = locks::naming_now(store.path())? else {
        return Ok(NamingReport { stopped: true, ..report });
    };
    let is_needed = || locks::is_gate_closed(store.path()) || locks::is_naming_wanted(store.path());
    let work = |operation: &Running| name_all(store, &mut report, operation);
    match background::until_needed(options, is_needed, work) {
        Err(error) if error.kind() == ErrorKind::Cancelled && !options.cancel.is_cancelled() => {
            report.stopped = true;
        }
        result => result?,
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

fn naming_lock(store: &Store, operation: &Running) -> Result<locks::Guard, Error> {
    locks::naming(store.path(), || operation.is_cancelled())?
        .ok_or_else(|| cancelled(Operation::TakeSnapshot, store.path()))
}

/// Names the contents that have no name yet, as a part of `operation`. Returns whether there
/// were some. calve does not change a store that it cannot write to. If that is because the
/// disk is full, the error says so, and what to do.
pub(crate) fn name_pending(store: &Store, operation: &Running) -> Result<bool, Error> {
    if store.is_read_only() && !store.is_full() || all(store.layout())?.is_empty() {
        return Ok(false);
    }
    store.must_be_writable(Operation::TakeSnapshotWith)?;
    let _alone = naming_lock(store, operation)?;
    name_all(store, &mut NamingReport::default(), operation)?;
    Ok(true)
}

/// Names everything. The caller holds the lock.
fn name_all(store: &Store, report: &mut NamingReport, operation: &Running) -> Result<(), Error> {
    let records = all(store.layout())?;
    if records.is_empty() {
        return Ok(());
    }
    store.registry().recover()?;
    for path in records {
        taking_in(store, operation, |noted| name_one(store, &path, report, noted, operation))?;
    }
    Ok(())
}

fn name_one(
    store: &Store,
    path: &Path,
    report: &mut NamingReport,
    noted: &Noted,
    operation: &Running,
) -> Result<(), Error> {
    let token = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let remove = || {
        store.ready().discard(Which::Unnamed(token), Deletion::Now);
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(Operation::RemoveLeftovers, || path)
            }
            _ => Ok(()),
        }
    };
    let _guard = store.share()?;
    let mut unnamed = match Unnamed::open(path).context(Operation::Read, || path)? {
        Opened::Gone => return Ok(()),
        // It says nothing: the worktrees are compared with the project's next snapshot.
        Opened::Damaged => return remove(),
        Opened::Whole(unnamed) => unnamed,
    };
    let is_one = |row: &&WorktreeRow| {
        row.snapshot.is_none() && unnamed.tokens().any(|token| *token == row.token)
    };
    let (rows, dropped) = (store.catalog().worktrees()?, store.catalog().dropped()?);
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
    let project = store.registry().root_of(project_row);
    let rows = RowsOf { trees: of_trees, dropped: of_dropped };
    let holders =
        holders(store.registry(), (&project, &unnamed.project), &unnamed.trees, &rows, token)?;
    let (manifest, base) = (&mut unnamed.manifest, unnamed.base);
    let read = read_contents(store, (manifest, base), &holders, &project, noted, operation)?;
    let (exceptions, unsealed, mentions) = read;
    drop(holders);
    let changed = settle(&mut unnamed, &exceptions);
    let id =
        record_named(store, &mut unnamed, (project_row, &project), changed, (&unsealed, mentions))?;
    report.snapshots.push(id);
    report.changed_files += changed;
    if changed == 0
        && let Some((_, index)) = unnamed.trees.first()
    {
        store.ready().adopt((token, &unnamed.seal), (id, index));
    }
    remove()
}

/// The trees that may still have the contents of the record that is named after `token`.
///
/// # Errors
/// calve failed to look at one. To name without it could lose the base.
fn holders<'a>(
    registry: Registry<'_>,
    (project, seen): (&Path, &'a Index),
    trees: &'a [(Vec<String>, Index)],
    rows: &RowsOf<'_>,
    token: &str,
) -> Result<Vec<Holder<'a>>, Error> {
    let open = |path: &Path| {
        witness(fs::open(path, DIR_FLAGS, Mode::empty())).context(Operation::Open, || path)
    };
    let mut holders = Vec::new();
    if let Some(root) = open(project)? {
        holders.push(Holder { root, index: seen, by: By::Project });
    }
    for (tree, (tokens, index)) in trees.iter().enumerate() {
        for token in tokens {
            let row = rows.trees.iter().find(|row| row.token == *token);
            let kept = rows.dropped.iter().find(|kept| kept.row.token == *token);
            let at = match (row, kept) {
                (Some(row), _) if registry.find_mark(row)? => path_from(&row.path),
                (_, Some(kept)) if kept.beside => {
                    layout::dropped_beside(&path_from(&kept.row.path), token)
                }
                (_, Some(_)) => registry.layout.dropped_tree(token),
                _ => continue,
            };
            if let Some(root) = open(&at)? {
                holders.push(Holder { root, index, by: By::Tree(tree) });
            }
        }
    }
    // Nobody works in this one. It is asked last, since the pages of the others are in memory.
    if let Some((_, index)) = trees.first()
        && let Some(root) = open(&registry.layout.unnamed_tree(token))?
    {
        holders.push(Holder { root, index, by: By::Tree(0) });
    }
    Ok(holders)
}

/// Reads the contents of all files, and gives the entries of the tree their names.
fn read_contents(
    store: &Store,
    (manifest, base): (&mut Manifest, Option<SnapshotId>),
    holders: &[Holder<'_>],
    project: &Path,
    noted: &Noted,
    operation: &Running,
) -> Result<Files, Error> {
    let roots = vec![bytes_of(project)];
    let spellings = match fs::open(project, DIR_FLAGS, Mode::empty()) {
        Ok(root) => Spellings::of(&root, roots.clone()),
        Err(_) => Spellings::at(roots.clone()),
    };
    let (files, _) = manifest.files();
    let take = |entries: &mut Entries| std::mem::replace(entries, Vec::new().into());
    let entries = manifest.directories.iter_mut().map(|it| Mutex::new(take(&mut it.entries)));
    let entries: Vec<Mutex<Entries>> = entries.collect();
    let naming = Naming {
        store,
        manifest,
        entries: &entries,
        holders,
        roots: &roots,
        spellings: &spellings,
        noted,
        // Nobody collects contents as long as this process shares them.
        has_base: base.is_some_and(|base| store.catalog().object(base).is_ok()),
        operation,
    };
    let read = naming.run(files)?;
    for (directory, entries) in manifest.directories.iter_mut().zip(entries) {
        directory.entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    Ok(read)
}

/// Records the snapshot of a tree whose contents have their names. `changed` is how many files
/// nobody had any more.
fn record_named(
    store: &Store,
    unnamed: &mut Unnamed,
    (project_row, project): (&WorktreeRow, &Path),
    changed: u64,
    (unsealed, mentions): (&[BlobId], Mentions),
) -> Result<SnapshotId, Error> {
    let order = vec![None; unnamed.manifest.directories.len()];
    let directories = name_directories(&mut unnamed.manifest, &order, None, true);
    let manifest = &unnamed.manifest;
    let message = match changed {
        0 => String::new(),
        changed => format!(
            "{changed} files were changed before they were read; they are as in the project"
        ),
    };
    let encoding = manifest.object(unnamed.base, message).encode();
    let id = SnapshotId::of(&encoding);
    unnamed.trees.iter_mut().for_each(|(_, index)| index.snapshot = id);
    unnamed.project.snapshot = id;
    let mut indexes = Vec::new();
    for (tokens, index) in &unnamed.trees {
        let of_tree = |token| NewIndex { token, index, has_base: false };
        indexes.extend(tokens.iter().map(|token| of_tree(token)));
    }
    if project_row.snapshot == unnamed.base {
        let (token, index) = (&*project_row.token, &unnamed.project);
        indexes.push(NewIndex { token, index, has_base: unnamed.base.is_some() });
    }
    let known = Known::on(store, project_row.clone(), None);
    let tokens: Vec<String> = unnamed.tokens().map(str::to_owned).collect();
    store.snapshots().record(&Recording {
        encoding: &encoding,
        tree: Some((manifest, &directories)),
        arrived: Some(unsealed),
        found: Some(FoundList::Here(&known.found_in(store, manifest, mentions))),
        indexes: &indexes,
        based: Based::Unnamed { tokens: &tokens, project: &project_row.token, was: unnamed.base },
        name: None,
        origin: &Origin { worktree: Some(PROJECT.to_owned()), branch: git::branch_in(project) },
    })
}

/// The rows of the worktrees that a record is about.
struct RowsOf<'a> {
    trees: Vec<&'a WorktreeRow>,
    dropped: Vec<&'a DroppedRow>,
}

/// The file of an unnamed snapshot.
enum Opened {
    Gone,
    Damaged,
    Whole(Box<Unnamed>),
}

/// The results of naming: files that were not read in the project, by the entries' numbers; mirrors
/// to seal; files that name the project.
type Files = (HashMap<u32, Exception>, Vec<BlobId>, Mentions);

impl Naming<'_> {
    /// Names `files` files.
    fn run(&self, files: u64) -> Result<Files, Error> {
        // Files of one directory that a thread takes at once, by their slots.
        let mut batches: Vec<(u32, Range<u32>)> = Vec::new();
        for (place, entries) in (0..).zip(self.entries) {
            for (slot, entry) in (0..).zip(&*lock(entries)) {
                if !matches!(entry.kind, Kind::File { .. }) {
                    continue;
                }
                match batches.last_mut() {
                    Some((of, slots))
                        if *of == place && slots.end == slot && slots.len() < BATCH =>
                    {
                        slots.end += 1;
                    }
                    _ => batches.push((place, slot..slot + 1)),
                }
            }
        }
        self.operation.expect(files);
        let none = || Mentions { paths: Vec::new(), spellings: self.spellings.clone() };
        // Threads take tasks from the end. The disk is read in the order of the entries.
        batches.reverse();
        let what = (Operation::TakeSnapshot, self.store.path());
        let workers = pool::run(
            self.operation,
            what,
            batches,
            |_| (Intake::noting(self.noted).looking_for(self.roots), Vec::new(), none()),
            |(intake, exceptions, mentions), (place, slots), _| {
                self.files(intake, (place, slots), exceptions, mentions)
            },
        )?;
        let mut all = (HashMap::new(), Vec::new(), none());
        for (intake, exceptions, mentions) in workers {
            all.0.extend(exceptions);
            all.1.extend(intake.unsealed);
            all.2.extend(mentions);
        }
        Ok(all)
    }

    /// Names files of one directory.
    fn files(
        &self,
        intake: &mut Intake,
        (place, slots): (u32, Range<u32>),
        exceptions: &mut Vec<(u32, Exception)>,
        mentions: &mut Mentions,
    ) -> Result<(), Error> {
        let (path, first) = (self.path(place), self.manifest.directories[place as usize].first);
        let entries = &self.entries[place as usize];
        let mut opened: Vec<Option<Option<OwnedFd>>> = Vec::new();
        opened.resize_with(self.holders.len(), || None);
        for slot in slots {
            let (number, entry) = (first + slot, lock(entries)[slot as usize].clone());
            let of_file = || path.join(super::manifest::os(&entry.name));
            let named = self
                .file((intake, mentions), (&path, number, &entry), &mut opened)
                .context(Operation::TakeIn, of_file)?;
            self.operation.file_done(length(&entry));
            let (is, exception) = match named {
                Named::Content { blob, attributes, by } => {
                    let Kind::File { size, link, .. } = entry.kind else { continue };
                    let exception = match by {
                        By::Project => None,
                        By::Tree(tree) => Some(Exception::OfTree(tree)),
                    };
                    let kind = Kind::File { size, link, blob };
                    (Entry { attributes, kind, ..entry }, exception)
                }
                Named::Instead(other, stat) => (*other, Some(Exception::Instead(stat))),
                Named::Nothing => (entry, Some(Exception::Gone)),
            };
            lock(entries)[slot as usize] = is;
            exceptions.extend(exception.map(|exception| (number, exception)));
        }
        Ok(())
    }

    /// The path of a directory.
    fn path(&self, mut place: u32) -> PathBuf {
        let mut names = Vec::new();
        while place != 0 {
            let directory = &self.manifest.directories[place as usize];
            let above = lock(&self.entries[directory.parent as usize]);
            names.push(above[directory.slot as usize].name.clone());
            place = directory.parent;
        }
        names.iter().rev().map(|name| super::manifest::os(name)).collect()
    }

    fn file(
        &self,
        (intake, mentions): (&mut Intake, &mut Mentions),
        (path, number, entry): (&Path, u32, &Entry),
        opened: &mut [Option<Option<OwnedFd>>],
    ) -> io::Result<Named> {
        let stop = || self.operation.is_cancelled();
        let name = CString::new(&*entry.name)?;
        let mut in_project = None;
        for (at, holder) in self.holders.iter().enumerate() {
            let by = holder.by;
            if opened[at].is_none() {
                opened[at] = Some(witness(open_at(&holder.root, path))?);
            }
            let Some(Some(dir)) = &opened[at] else { continue };
            let Some(file) = witness(open_unnoted(dir, &name, SOURCE_FLAGS))? else {
                continue;
            };
            let meta = Meta::of_file(&file)?;
            if meta.file_type() != FileType::RegularFile {
                continue;
            }
            let stat = self.stat_of(holder, number);
            let stamp = (holder.index.stamp.0, i64::from(holder.index.stamp.1));
            if !is_as_recorded(entry, &stat, &meta) || meta.changed >= stamp {
                if by == By::Project {
                    in_project = Some((file, meta));
                }
                continue;
            }
            // The index of the base vouched for it, and it has not changed since.
            if let Kind::File { blob, .. } = entry.kind
                && blob != scan::UNKNOWN
                && by == By::Project
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
                        && (traced || by != By::Project) =>
                {
                    let path = path.join(super::manifest::os(&entry.name));
                    mentions.note(&path, intake.mentions_root, Some((&file, size)));
                    return Ok(Named::Content { blob, attributes: attributes(&file)?, by });
                }
                _ if by == By::Project => in_project = Some((file, meta)),
                _ => {}
            }
        }
        let Some((file, _)) = in_project else { return Ok(Named::Nothing) };
        // As it is now, by the rules of every snapshot.
        let (meta, stamp) = (Meta::of_file(&file)?, (i64::MIN, 0));
        Ok(match self.store.blobs().take_in(intake, &file, meta, stamp, &stop)? {
            Taken::Stored { blob, size, meta, .. } => {
                let path = path.join(super::manifest::os(&entry.name));
                mentions.note(&path, intake.mentions_root, Some((&file, size)));
                let kind = Kind::File { size, link: 0, blob };
                let entry = entry_of(&entry.name, &meta, attributes(&file)?, kind);
                Named::Instead(
                    Box::new(entry),
                    Stat { changed: UNTRACED.changed, ..Stat::of(&meta) },
                )
            }
            Taken::Changing => Named::Nothing,
        })
    }

    fn stat_of(&self, holder: &Holder<'_>, number: u32) -> Stat {
        holder.index.stats.get(number as usize).copied().unwrap_or(UNTRACED)
    }
}

/// The opened file. `None` if the file is gone, or we may not read it any more: then it has
/// changed.
fn witness<T, E: Into<io::Error>>(opened: Result<T, E>) -> io::Result<Option<T>> {
    match opened.map_err(Into::into) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether a file is as it was when `stat` was taken of it and it had the size and the time of
/// `entry`.
fn is_as_recorded(entry: &Entry, stat: &Stat, meta: &Meta) -> bool {
    let (seconds, nanoseconds) = meta.modified();
    stat.ino != 0
        && Stat::of(meta) == *stat
        && meta.size == length(entry)
        && (seconds, nanoseconds) == (entry.mtime.0, i64::from(entry.mtime.1))
}

fn length(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    }
}

/// Makes the record's tree that of the base snapshot, and its indexes the indexes of that: leaves
/// out what is gone. The entries have their contents already. Returns how many files nobody had any
/// more.
fn settle(unnamed: &mut Unnamed, exceptions: &HashMap<u32, Exception>) -> u64 {
    let is_gone = |number: u32| exceptions.get(&number) == Some(&Exception::Gone);
    let settle = |index: &mut Index, is_it: &dyn Fn(Exception, Stat) -> Stat| {
        if exceptions.is_empty() {
            return;
        }
        let stats = (0..).zip(std::mem::take(&mut index.stats));
        let stats = stats.filter(|(number, _)| !is_gone(*number));
        let stats = stats.map(|(number, stat)| match exceptions.get(&number) {
            Some(exception) => is_it(*exception, stat),
            None => stat,
        });
        index.stats = stats.collect();
    };
    let nobody = |stat: Stat| Stat { changed: UNTRACED.changed, ..stat };
    settle(&mut unnamed.project, &|exception, stat| match exception {
        Exception::Instead(stat) => stat,
        Exception::OfTree(_) | Exception::Gone => nobody(stat),
    });
    for (tree, (_, index)) in unnamed.trees.iter_mut().enumerate() {
        settle(index, &|exception, stat| match exception {
            Exception::OfTree(by) if by == tree => stat,
            _ => nobody(stat),
        });
    }
    let of = |is: fn(&Exception) -> bool| {
        let numbers = exceptions.iter().filter(move |(_, it)| is(it)).map(|(number, _)| *number);
        numbers.collect::<Vec<u32>>()
    };
    let mut gone = of(|it| matches!(it, Exception::Gone));
    gone.sort_unstable();
    let instead = of(|it| matches!(it, Exception::Instead(_)));
    let changed = gone.len() + instead.len();
    if !gone.is_empty() {
        let mut builder = Builder::new(unnamed.manifest.root.clone());
        for directory in &unnamed.manifest.directories {
            let entries = (directory.first..).zip(&directory.entries);
            let kept = entries.filter(|(number, _)| !is_gone(*number));
            // This cannot fail: there are no more entries than before.
            let _ = builder.add(kept.map(|(_, entry)| entry.clone()).collect::<Vec<_>>());
        }
        unnamed.manifest = builder.finish();
    }
    // An entry's number is less now by the number of those before it that are gone.
    let now = |number: u32| number as usize - gone.partition_point(|it| *it < number);
    let instead = instead.into_iter().map(now).collect();
    link_names(&mut unnamed.manifest, &unnamed.trees[0].1, &instead);
    changed as u64
}

/// Makes names that were one file one file again. `made` is the index of a tree that nobody else
/// had when it was made: names with one inode are one file. The entries with the numbers `instead`
/// are not of that tree.
fn link_names(manifest: &mut Manifest, made: &Index, instead: &HashSet<usize>) {
    // The numbers, inodes and positions of all entries that may have several names.
    fn inodes<'a>(
        manifest: &'a Manifest,
        made: &'a Index,
    ) -> impl Iterator<Item = (usize, u64, (u32, u32))> + 'a {
        let entries = (1..).zip(manifest.entries());
        let entries = entries.filter(|(_, (_, _, entry))| !entry.is_directory());
        entries.map(|(number, (place, slot, _)): (usize, _)| {
            (number, made.stats.get(number).map_or(0, |stat| stat.ino), (place, slot))
        })
    }
    // Few files have more than one name. Only these get a group.
    let mut all: Vec<u64> = inodes(manifest, made).map(|(_, ino, _)| ino).collect();
    all.sort_unstable();
    let pairs = all.windows(2).filter(|pair| pair[0] == pair[1] && pair[0] != 0);
    let several: HashSet<u64> = pairs.map(|pair| pair[0]).collect();
    drop(all);
    if several.is_empty() {
        return;
    }
    let mut groups: HashMap<u64, Vec<(u32, u32)>> = HashMap::new();
    let mut lost = HashSet::new();
    for (number, ino, at) in inodes(manifest, made) {
        if several.contains(&ino) {
            groups.entry(ino).or_default().push(at);
            if instead.contains(&number) {
                lost.insert(ino);
            }
        }
    }
    for (ino, names) in groups {
        if lost.contains(&ino) {
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
        Entry { name, mode: 0o644, uid: 1, gid: 2, mtime: (3, 4).into(), attributes: None, kind }
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
    fn what_nobody_has_any_more_takes_no_number_and_no_index_vouches_for_what_it_did_not_see() {
        // The numbers: the root, the folder `a`, the file `b`, the file `a/c`.
        let stat = |ino, second| Stat { ino, changed: (second, 0) };
        let nobody = |ino| Stat { ino, changed: UNTRACED.changed };
        let stats = |first: u64| (0..4).map(|at| stat(first + at, 8)).collect::<Vec<_>>();
        for (what, exceptions, paths, project, one, two) in [
            ("all were read in the project", vec![], 3, stats(10), stats(20), stats(30)),
            (
                "one was read in the second tree",
                vec![(2, Exception::OfTree(1))],
                3,
                vec![stat(10, 8), stat(11, 8), nobody(12), stat(13, 8)],
                vec![stat(20, 8), stat(21, 8), nobody(22), stat(23, 8)],
                stats(30),
            ),
            (
                "the project has another",
                vec![(3, Exception::Instead(stat(99, 9)))],
                3,
                vec![stat(10, 8), stat(11, 8), stat(12, 8), stat(99, 9)],
                vec![stat(20, 8), stat(21, 8), stat(22, 8), nobody(23)],
                vec![stat(30, 8), stat(31, 8), stat(32, 8), nobody(33)],
            ),
            (
                "one is gone",
                vec![(2, Exception::Gone)],
                2,
                vec![stat(10, 8), stat(11, 8), stat(13, 8)],
                vec![stat(20, 8), stat(21, 8), stat(23, 8)],
                vec![stat(30, 8), stat(31, 8), stat(33, 8)],
            ),
        ] {
            let mut unnamed = record();
            unnamed.project.stats = stats(10);
            unnamed.trees[0].1.stats = stats(20);
            unnamed.trees[1].1.stats = stats(30);
            let exceptions: HashMap<u32, Exception> = exceptions.into_iter().collect();
            let lost = exceptions.values().filter(|it| !matches!(it, Exception::OfTree(_))).count();
            assert_eq!(settle(&mut unnamed, &exceptions), lost as u64, "{what}");
            assert_eq!(unnamed.manifest.entries().count(), paths, "{what}");
            assert_eq!(unnamed.project.stats, project, "{what}");
            assert_eq!(unnamed.trees[0].1.stats, one, "{what}");
            assert_eq!(unnamed.trees[1].1.stats, two, "{what}");
        }
    }

    #[test]
    fn names_of_one_inode_become_one_file_unless_one_of_them_is_of_another_tree() {
        let stat = |ino| Stat { ino, changed: (8, 0) };
        for (what, inos, exception, are_one) in [
            ("two inodes", [1, 2, 3, 4], None, false),
            ("one inode", [1, 2, 3, 3], None, true),
            (
                "one of them is the project's",
                [1, 2, 3, 3],
                Some(Exception::Instead(stat(7))),
                false,
            ),
            ("none is known", [1, 2, 0, 0], None, false),
            ("a folder's", [1, 3, 3, 4], None, false),
        ] {
            let mut unnamed = record();
            for directory in &mut unnamed.manifest.directories {
                for entry in directory.entries.iter_mut().filter(|entry| !entry.is_directory()) {
                    entry.kind = Kind::File { size: 5, link: 0, blob: scan::UNKNOWN };
                }
            }
            unnamed.trees[0].1.stats = inos.into_iter().map(stat).collect();
            settle(&mut unnamed, &exception.map(|exception| (3, exception)).into_iter().collect());
            let links: Vec<u64> = unnamed.manifest.entries().map(|it| it.2.link()).collect();
            assert_eq!(links[1] != 0 && links[1] == links[2], are_one, "{what}: {links:?}");
        }
    }

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
            // The process that made the record also made its hash, so the record may say anything.
            // It must cause no panic.
            let body = damaged.len() - 32;
            let hash = *blake3::hash(&damaged[..body]).as_bytes();
            damaged[body..].copy_from_slice(&hash);
            let _ = Unnamed::decode(&damaged);
        }
    }
}

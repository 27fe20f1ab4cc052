//! Reads all content of a store and finds the damage.
//!
//! Several threads read all mirrors and all packed contents and compare them with their hashes.
//! They hold the shared lock, so other processes can use the store meanwhile. calve then checks
//! each suspect once more, one by one: since the first check another process may have packed it,
//! dropped it or only just finished it. If it is still wrong, it is damage.
//!
//! [`repair`](super::repair) mends the damage.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::blobs::{Blobs, Intake, path_of, seal_of};
use super::clock::older_than;
use super::contents::Contents;
use super::id::{BlobId, SnapshotId};
use super::layout::Layout;
use super::object::SnapshotObject;
use super::pack::Location;
use super::reach::{Reach, Thing, places};
use super::{Store, open_plain};
use crate::error::{Context as _, Error, Operation};
use crate::macros::{named, setters};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::tree::pool;
use crate::tree::running::Running;

/// A mirror that somebody is making right now is looked at again this often, for this long each.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(30);

named! {
    /// What is damaged.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum DamageKind {
        /// The database cannot be read as a whole.
        Database = "database",
        /// A snapshot's object.
        Snapshot = "snapshot",
        /// A directory's object.
        Directory = "directory",
        /// A needed content has no mirror and no pack.
        Missing = "missing",
        /// A mirror does not have the content that its name says.
        Mirror = "mirror",
        /// calve cannot read a content from its pack.
        Packed = "packed",
        /// A pack's own index.
        Pack = "pack",
        /// The index of a worktree. Losing it costs only time.
        Index = "index",
        /// A ready tree that is not as calve made it. No start uses it.
        ReadyTree = "ready-tree",
    }
}

/// Something in the store that has changed since it was stored.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Damage {
    /// What it is.
    pub kind: DamageKind,
    /// The damaged content, if it is a content.
    pub blob: Option<BlobId>,
    /// The file in the store.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
    /// The snapshots that need it, and its paths in them.
    pub places: Vec<(SnapshotId, PathBuf)>,
    /// Whether its content is lost: the store has no other copy of it.
    pub lost: bool,
    /// Whether it was mended.
    pub repaired: bool,
}

impl Damage {
    /// Damage of something that is not a content. Nothing is lost by it.
    pub(super) fn new(kind: DamageKind, path: PathBuf, reason: String) -> Self {
        Self { kind, blob: None, path, reason, places: Vec::new(), lost: false, repaired: false }
    }

    /// A snapshot that cannot be read, and why.
    pub(super) fn of_snapshot(layout: Layout<'_>, why: String) -> Self {
        Self { lost: true, ..Self::new(DamageKind::Snapshot, layout.database(), why) }
    }
}

/// What [`Store::verify`] does beside looking; built by value.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    pub(super) repair: bool,
}

setters! { VerifyOptions:
    /// It changes nothing.
    pub fn new(),
    /// Whether damage is repaired where that is possible. A bad mirror is made again from a pack,
    /// or from a file of the project or of a worktree that still has its content; otherwise it goes
    /// to the trash. A bad or misplaced entry of a pack is given up if there is a good mirror. A
    /// pack that lost its index, or its place in the database, gets it back. A ready tree that was
    /// touched goes to the trash.
    pub repair: bool,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Directory objects that they are made of.
    pub directories: u64,
    /// Mirrors that were read, and their sizes.
    pub mirrors: u64,
    /// See `mirrors`.
    pub mirror_bytes: u64,
    /// Packed contents that were unpacked, and their sizes.
    pub packed_blobs: u64,
    /// See `packed_blobs`.
    pub packed_bytes: u64,
    /// Good mirrors without a seal. A repair seals them again.
    pub unsealed_mirrors: u64,
    /// What is damaged, by kind and file.
    pub damage: Vec<Damage>,
    /// A repair was asked for, but other processes used the store all the time: nothing was mended.
    pub busy: bool,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

enum VerifyTask {
    /// The mirror with this place in the list of all.
    Mirror(usize),
    /// The packed content with this place in the list of all.
    Packed(usize),
}

/// How the mirror of a blob is.
#[derive(Debug)]
pub(super) enum MirrorState {
    Missing,
    Good { sealed: bool, size: u64 },
    Bad { why: String, how: Bad },
}

/// In which way a mirror is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// Its hash is another, and it changed only just now.
    Young,
    /// It bears the seal and its hash is another, or it is no file.
    Worthless,
    /// Its hash is another, and nobody vouched for it: a crash can leave a mirror that was not
    /// written back.
    Unsealed,
    /// There is nothing in it: its maker gave up, since the file changed that was to be taken in.
    Empty,
    /// It may not be read.
    Closed,
    /// It could not be read, this time.
    Unreadable,
}

#[derive(Default)]
struct SeenBlob {
    suspects: HashSet<BlobId>,
    /// In the end these are all good ones, sorted: a set of them would take twice as much memory.
    good: Vec<BlobId>,
    unsealed: Vec<BlobId>,
    mirrors: u64,
    mirror_bytes: u64,
    packed_blobs: u64,
    packed_bytes: u64,
}

struct VerifyWorker {
    intake: Intake,
    seen: SeenBlob,
}

/// What a repair can mend, and what it must know.
pub(super) struct Mendable {
    /// Content that is needed.
    pub(super) reach: Reach,
    pub(super) damaged: Vec<BlobId>,
    /// Packs that have lost their own index.
    pub(super) packs: Vec<String>,
    /// Good mirrors without a seal.
    pub(super) unsealed: Vec<BlobId>,
}

/// Who looks closely.
pub(super) struct Eye<'a> {
    pub(super) contents: Contents<'a>,
    pub(super) intake: Intake,
    /// How often it may still wait for somebody who is at it.
    pub(super) looks: u32,
    pub(super) operation: &'a Running,
}

/// A blob, looked at closely.
pub(super) struct BlobState {
    pub(super) mirror: MirrorState,
    pub(super) packed: Option<(String, Result<(), String>)>,
}

impl BlobState {
    pub(super) fn is_lost(&self) -> bool {
        !matches!(self.mirror, MirrorState::Good { .. })
            && !matches!(self.packed, Some((_, Ok(()))))
    }
}

/// Looks at everything. Returns what is to be mended, if `repair` asks for it and there is any.
pub(super) fn look(
    store: &Store,
    report: &mut VerifyReport,
    repair: bool,
    operation: &Running,
) -> Result<Option<Mendable>, Error> {
    let guard = store.share()?;
    let contents = store.contents();
    contents.close_packs();
    let (snapshots, reach, broken) = verify_objects(store, report, operation)?;
    let seen = read_all(contents, operation)?;
    report.mirrors = seen.mirrors;
    report.mirror_bytes = seen.mirror_bytes;
    report.packed_blobs = seen.packed_blobs;
    report.packed_bytes = seen.packed_bytes;
    report.unsealed_mirrors = seen.unsealed.len() as u64;
    let mut suspects = seen.suspects;
    suspects.extend(
        reach.blobs.iter().map(|(id, _)| id).filter(|id| seen.good.binary_search(id).is_err()),
    );
    drop(seen.good);
    suspects.extend(&reach.contradictions);
    let mut suspects: Vec<BlobId> = suspects.into_iter().collect();
    suspects.sort_unstable();
    let wanted: HashSet<Thing> = suspects
        .iter()
        .map(|id| Thing::Blob(*id))
        .chain(broken.iter().map(|(id, _)| Thing::Directory(*id)))
        .collect();
    let mut places = places(store, &snapshots, &reach, &wanted)?;
    for (id, why) in broken {
        let places = places.remove(&Thing::Directory(id)).unwrap_or_default();
        let why = format!("directory {id}: {why}");
        let damage = Damage::new(DamageKind::Directory, contents.layout.database(), why);
        report.damage.push(Damage { places, lost: true, ..damage });
    }
    let mut eye = Eye { contents, intake: Intake::new(), looks: LOOKS, operation };
    let mut damaged = Vec::new();
    for id in suspects {
        let needed = reach.blobs.contains(id);
        let found = eye.judge(id, needed)?;
        if reach.contradictions.contains(&id) {
            let why = "two entries tell different sizes of one content".to_owned();
            let damage = Damage::new(DamageKind::Directory, contents.layout.database(), why);
            report.damage.push(Damage { blob: Some(id), lost: true, ..damage });
        }
        if !found.is_empty() {
            damaged.push(id);
        }
        let places = places.remove(&Thing::Blob(id)).unwrap_or_default();
        report
            .damage
            .extend(found.into_iter().map(|damage| Damage { places: places.clone(), ..damage }));
    }
    let packs = verify_pack_files(contents, report)?;
    let indexes = verify_indexes(store, report)?;
    // To look at a ready tree takes a manifest and an index. The list of all content is large,
    // too, so it goes first unless a repair needs it.
    let reach = repair.then_some(reach);
    let ready = store.ready().shelf().touched(operation)?;
    report.damage.extend(ready.iter().map(|path| {
        let why = "it was changed after it was made".to_owned();
        Damage::new(DamageKind::ReadyTree, path.clone(), why)
    }));
    drop(guard);
    let unsealed = seen.unsealed;
    let much = damaged.len() + packs.len() + indexes.len() + ready.len() + unsealed.len();
    let reach = reach.filter(|_| much > 0);
    Ok(reach.map(|reach| Mendable { reach, damaged, packs, unsealed }))
}

/// Looks at every snapshot and at what it is made of.
#[expect(clippy::type_complexity, reason = "three results of one walk")]
fn verify_objects(
    store: &Store,
    report: &mut VerifyReport,
    operation: &Running,
) -> Result<(Vec<(SnapshotId, SnapshotObject)>, Reach, Vec<super::reach::Broken>), Error> {
    let mut reach = Reach::default();
    let (mut snapshots, mut broken) = (Vec::new(), Vec::new());
    for row in store.catalog().snapshots()?.into_iter().rev() {
        report.snapshots += 1;
        match row {
            Ok((id, object)) => {
                broken.extend(reach.add(store, &object, operation)?);
                snapshots.push((id, object));
            }
            Err(why) => report.damage.push(Damage::of_snapshot(store.layout(), why)),
        }
    }
    reach.tidy();
    report.directories = reach.directories.len() as u64;
    Ok((snapshots, reach, broken))
}

impl Eye<'_> {
    /// The state of a blob now.
    pub(super) fn look_at(&mut self, id: BlobId) -> Result<BlobState, Error> {
        let (contents, operation) = (self.contents, self.operation);
        let stop = || operation.is_cancelled();
        let mut look = || read_mirror(contents, &mut self.intake, id, &stop);
        let mut mirror = look()?;
        while self.looks > 0 && matches!(mirror, MirrorState::Bad { how: Bad::Young, .. }) {
            self.looks -= 1;
            std::thread::sleep(LOOK);
            mirror = look()?;
        }
        let packed = contents.catalog.packed(id)?.map(|(pack, at)| {
            let read = read_packed(contents, id, &pack, at);
            (pack, read)
        });
        if matches!(mirror, MirrorState::Missing) && packed.is_none() {
            // It may have come a moment ago.
            mirror = look()?;
        }
        Ok(BlobState { mirror, packed })
    }

    /// What is wrong with a blob.
    pub(super) fn judge(&mut self, id: BlobId, needed: bool) -> Result<Vec<Damage>, Error> {
        let state = self.look_at(id)?;
        let lost = needed && state.is_lost();
        let Contents { layout, blobs, .. } = self.contents;
        let damage =
            |kind, path, why| Damage { blob: Some(id), lost, ..Damage::new(kind, path, why) };
        let mut found = Vec::new();
        let is_packed = matches!(state.packed, Some((_, Ok(()))));
        if let MirrorState::Bad { why, how } = state.mirror
            // A mirror that nobody needs and nobody vouched for was begun and given up, or a
            // process makes it just now.
            && (needed || state.packed.is_some() || !matches!(how, Bad::Empty | Bad::Unsealed | Bad::Young))
            // A crash can leave a mirror that was unpacked and not written back, or not as a whole.
            // It counts as missing.
            && !(is_packed && (how == Bad::Empty || how == Bad::Unsealed && is_torn_mirror(blobs, id)?))
        {
            found.push(damage(DamageKind::Mirror, blobs.mirror_path(id), why));
        }
        if let Some((pack, Err(why))) = state.packed {
            found.push(damage(DamageKind::Packed, layout.pack(&pack), why));
        }
        if found.is_empty() && lost {
            let why = "it is gone, and no pack has it".to_owned();
            found.push(damage(DamageKind::Missing, blobs.mirror_path(id), why));
        }
        Ok(found)
    }
}

/// Reads all mirrors and all that is packed.
fn read_all(contents: Contents<'_>, operation: &Running) -> Result<SeenBlob, Error> {
    let (mut packed, mut mirrors, mut tasks) = (Vec::new(), Vec::new(), Vec::new());
    contents.catalog.each_packed(|id, pack, at| {
        tasks.push((at.size, VerifyTask::Packed(packed.len())));
        packed.push((id, Arc::clone(pack), at));
    })?;
    contents
        .blobs
        .for_each(|id, meta| {
            tasks.push((meta.size, VerifyTask::Mirror(mirrors.len())));
            mirrors.push(id);
        })
        .context(Operation::Read, || contents.layout.blobs())?;
    // Lists of the threads with the ids of all good ones would take as much memory once more.
    let none = |count: usize| -> Vec<AtomicBool> {
        std::iter::repeat_with(AtomicBool::default).take(count).collect()
    };
    let (good, good_packed) = (none(mirrors.len()), none(packed.len()));
    operation.expect(tasks.len() as u64);
    // Last in, first out: the largest first.
    tasks.sort_unstable_by_key(|(size, _)| *size);
    let workers = pool::run(
        operation,
        (Operation::Verify, contents.layout.0),
        tasks,
        |_| VerifyWorker { intake: Intake::new(), seen: SeenBlob::default() },
        |VerifyWorker { intake, seen }, (size, task), queue| {
            let stop = || queue.stopped();
            match task {
                VerifyTask::Mirror(at) => {
                    let id = mirrors[at];
                    match read_mirror(contents, intake, id, &stop)? {
                        MirrorState::Good { sealed, size } => {
                            seen.mirrors += 1;
                            seen.mirror_bytes += size;
                            good[at].store(true, Ordering::Relaxed);
                            if !sealed {
                                seen.unsealed.push(id);
                            }
                        }
                        MirrorState::Missing => {}
                        MirrorState::Bad { .. } => {
                            seen.mirrors += 1;
                            seen.mirror_bytes += size;
                            seen.suspects.insert(id);
                        }
                    }
                }
                VerifyTask::Packed(place) => {
                    let (id, pack, at) = &packed[place];
                    seen.packed_blobs += 1;
                    seen.packed_bytes = seen.packed_bytes.saturating_add(at.size);
                    match read_packed(contents, *id, pack, *at) {
                        Ok(()) => good_packed[place].store(true, Ordering::Relaxed),
                        Err(_) => drop(seen.suspects.insert(*id)),
                    }
                }
            }
            operation.file_done(size);
            Ok(())
        },
    )?;
    let mut all = SeenBlob::default();
    for VerifyWorker { seen, .. } in workers {
        all.suspects.extend(seen.suspects);
        all.unsealed.extend(seen.unsealed);
        all.mirrors += seen.mirrors;
        all.mirror_bytes += seen.mirror_bytes;
        all.packed_blobs += seen.packed_blobs;
        all.packed_bytes = all.packed_bytes.saturating_add(seen.packed_bytes);
    }
    let mut good = good.into_iter().map(AtomicBool::into_inner);
    mirrors.retain(|_| good.next() == Some(true));
    let packed = packed.into_iter().zip(good_packed);
    mirrors.extend(packed.filter(|(_, good)| good.load(Ordering::Relaxed)).map(|((id, ..), _)| id));
    all.good = mirrors;
    all.good.sort_unstable();
    Ok(all)
}

fn read_mirror(
    contents: Contents<'_>,
    intake: &mut Intake,
    id: BlobId,
    stop: &dyn Fn() -> bool,
) -> Result<MirrorState, Error> {
    let bad = |why: &str, how| Ok(MirrorState::Bad { why: why.to_owned(), how });
    let file: OwnedFd =
        match fs::openat(contents.blobs.dir(), path_of(id), SOURCE_FLAGS, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(MirrorState::Missing),
            Err(Errno::LOOP) => return bad("it is a symbolic link", Bad::Worthless),
            Err(Errno::NXIO) => return bad("it is a socket or a device", Bad::Worthless),
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                return bad(&io::Error::from(errno).to_string(), Bad::Closed);
            }
            Err(errno @ Errno::IO) => {
                return bad(&io::Error::from(errno).to_string(), Bad::Unreadable);
            }
            Err(errno) => {
                return Err(Error::io(Operation::ReadBlob, contents.blobs.mirror_path(id), errno));
            }
        };
    let look = |file: &OwnedFd| -> Result<Meta, Error> {
        let stat =
            fs::fstat(file).context(Operation::ReadBlob, || contents.blobs.mirror_path(id))?;
        Ok(Meta::of(&stat))
    };
    let meta = look(&file)?;
    if meta.file_type() != FileType::RegularFile {
        return bad("it is no file", Bad::Worthless);
    }
    let sealed = meta.modified() == seal_of(id);
    let old = older_than(meta.changed, LOOK * LOOKS) == Some(true);
    let worthless = match old {
        true if meta.size == 0 => Bad::Empty,
        true if !sealed => Bad::Unsealed,
        true => Bad::Worthless,
        false => Bad::Young,
    };
    match intake.hash(&file, meta.size, stop) {
        Ok((hash, size)) if hash == id => {
            // It was sealed, or its size was set, while it was read.
            let sealed = sealed || look(&file)?.modified() == seal_of(id);
            Ok(MirrorState::Good { sealed, size })
        }
        Ok(_) => bad("its content is not what it was when it was stored", worthless),
        Err(_) if stop() => Err(pool::cancelled(Operation::Verify, contents.layout.0)),
        Err(error) => bad(&error.to_string(), Bad::Unreadable),
    }
}

fn read_packed(contents: Contents<'_>, id: BlobId, pack: &str, at: Location) -> Result<(), String> {
    contents
        .open_pack(pack)
        .and_then(|pack| pack.read(id, at, &mut io::sink()))
        .map_err(|error| error.to_string())
}

/// Looks at the packs' own indexes; gives back the packs that have none.
fn verify_pack_files(
    contents: Contents<'_>,
    report: &mut VerifyReport,
) -> Result<Vec<String>, Error> {
    let mut damaged = Vec::new();
    for name in contents.catalog.pack_names()? {
        // A pack that cannot be opened is reported with the contents that it held.
        if let Err(error) = contents.open_pack(&name).and_then(|pack| pack.index()) {
            let path = contents.layout.pack(&name);
            report.damage.push(Damage::new(DamageKind::Pack, path, error.to_string()));
            damaged.push(name);
        }
    }
    Ok(damaged)
}

/// Whether a block of a mirror has only zeros, as a power cut leaves one that was not written.
fn is_torn_mirror(blobs: &Blobs, id: BlobId) -> Result<bool, Error> {
    let path = blobs.mirror_path(id);
    let look = || -> io::Result<bool> {
        let (mut file, _) = open_plain(fs::CWD, &path, u64::MAX)?;
        let mut block = Vec::new();
        loop {
            block.clear();
            io::Read::read_to_end(&mut io::Read::take(&mut file, 4096), &mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(!block.is_empty());
            }
        }
    };
    look().context(Operation::ReadBlob, || &path)
}

fn verify_indexes(store: &Store, report: &mut VerifyReport) -> Result<Vec<PathBuf>, Error> {
    let mut damaged = Vec::new();
    for row in store.catalog().worktrees()? {
        let path = store.layout().index(&row.token);
        let reason =
            match super::read_plain(fs::CWD, &path, super::index::most_bytes(u32::MAX / 64)) {
                // A crash can leave an index that was not written back, or not as a whole. It
                // counts as missing.
                Ok(bytes) if is_torn(&bytes) => continue,
                Ok(bytes) => match super::index::Index::check(&bytes, |snapshot| {
                    Some(store.catalog().object(snapshot).ok()?.entries)
                }) {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => error.to_string(),
            };
        report.damage.push(Damage::new(DamageKind::Index, path.clone(), reason));
        damaged.push(path);
    }
    Ok(damaged)
}

/// Whether a power cut left an index without some of its content: it is empty, or a block of it has
/// only zeros, which compressed records never have.
fn is_torn(index: &[u8]) -> bool {
    let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    is_blank(index) || index.chunks_exact(512).any(is_blank)
}

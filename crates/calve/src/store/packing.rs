//! Packs content that no worktree uses, and unpacks content before a start needs it.
//!
//! # What a pack may cost
//! calve drops a blob's mirror only if a pack has the content and the database says where, and both
//! are on the disk (the pack's name, too). calve compares the content with its hash while it packs
//! it. If an older pack has the blob, calve unpacks it once to see that the entry is good. A crash
//! at any point leaves the mirror, or the pack, or both.
//!
//! A process that makes trees meanwhile finds the mirror or, a moment later, the pack; a mirror
//! that it has open stays readable. If two processes pack at once, both may write an entry of the
//! same blob. The database knows one of the two entries, and `gc` removes the other.
//!
//! A new pack gets its name before the database knows it, so no row ever names a pack that is not
//! there. A crash in between leaves a pack without a row. `gc` removes it, and `verify` can take it
//! over if it has content that is lost elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::blobs::{Intake, Mirror, Noted};
use super::clock::older_than;
use super::contents::Contents;
use super::id::token;
use super::id::{BlobId, SnapshotId};
use super::layout::Layout;
use super::pack::{Location, PackWriter};
use super::reach::Reach;
use super::ready::SnapshotTree;
use super::room::is_full;
use super::{PROJECT, Store, StoreOptions};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::imp::{DIR_FLAGS, NEW_READABLE_FLAGS};
use crate::tree::pool;
use crate::tree::running::Running;
use crate::tree::staging::StagedFile;

/// The level of zstd. The sources of Linux 6.1 (78,174 contents, 1,297 MB) are 254 MB at this level
/// for 5 s of CPU time, 240 MB at 5 for 12 s, and 232 MB at 7 for 26 s.
const LEVEL: i32 = 3;

/// At this many bytes calve finishes a pack and begins another, so rewriting one takes a bounded
/// time.
const PACK_BYTES: u64 = 1 << 30;

/// If an unsealed mirror changed within this time, another process may still be writing it.
const YOUNG: Duration = Duration::from_secs(60);

/// What [`Store::pack`] packs; built by value.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    all: bool,
}

setters! { PackOptions:
    /// Packs cold content: content that neither the project's latest snapshot nor the base of a
    /// worktree has.
    pub fn new(),
    /// Whether calve packs all content. The next start then makes the mirrors that it needs again.
    pub all: bool,
}

/// What [`Store::pack`] did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PackReport {
    /// Packs that were written.
    pub packs: u64,
    /// Contents that were packed, and their sizes.
    pub packed_blobs: u64,
    /// See `packed_blobs`.
    pub packed_bytes: u64,
    /// The bytes that these contents take in the packs.
    pub stored_bytes: u64,
    /// Mirrors that were dropped, and their sizes, of content that was packed now or before.
    pub dropped_mirrors: u64,
    /// See `dropped_mirrors`.
    pub dropped_bytes: u64,
    /// Contents with a damaged mirror, which was neither packed nor dropped. [`Store::verify`]
    /// describes the damage.
    pub damaged: Vec<BlobId>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// What [`Store::warm`] did.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct WarmReport {
    /// The snapshots that a start can now use without unpacking anything.
    pub snapshots: Vec<SnapshotId>,
    /// Contents that these snapshots need.
    pub blobs: u64,
    /// Mirrors that were made, or were found to be good, and their sizes.
    pub made_mirrors: u64,
    /// See `made_mirrors`.
    pub made_bytes: u64,
    /// Snapshots with a ready subvolume of the whole tree; only on btrfs.
    pub templates: u64,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// A content that must go into a new pack.
pub(crate) struct Cold {
    pub(crate) id: BlobId,
    pub(crate) size: u64,
    pub(crate) from: From,
}

pub(crate) enum From {
    /// Its mirror; and where it is packed already, if it is.
    Mirror(Option<(Arc<str>, Location)>),
    /// A pack that is to be given up.
    Pack(Arc<str>, Location),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) packs: u64,
    /// What each of the packs has.
    pub(crate) packed: Vec<Vec<(BlobId, Location)>>,
    /// The contents that a pack already has.
    pub(crate) had: Vec<(BlobId, u64)>,
    pub(crate) damaged: Vec<BlobId>,
}

struct Open {
    writer: PackWriter,
    staged: StagedFile<'static>,
    stored: u64,
}

struct Done {
    staged: StagedFile<'static>,
    index: Vec<(BlobId, Location)>,
}

impl Open {
    fn finish(self) -> io::Result<Done> {
        let (_, index) = self.writer.finish()?;
        Ok(Done { staged: self.staged, index })
    }
}

#[derive(Default)]
struct Packer {
    open: Option<Open>,
    done: Vec<Done>,
    had: Vec<(BlobId, u64)>,
    damaged: Vec<BlobId>,
}

/// Reading that ends when nobody needs it any more.
struct Stoppable<'a, R>(R, &'a dyn Fn() -> bool);

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.1)() { Err(Errno::CANCELED.into()) } else { self.0.read(buffer) }
    }
}

/// See [`Store::pack`].
pub(super) fn pack(
    store: &Store,
    options: &PackOptions,
    common: &StoreOptions,
) -> Result<PackReport, Error> {
    let started = Instant::now();
    store.must_be_writable(Operation::Pack)?;
    let _guard = store.share()?;
    store.contents().close_packs();
    let operation = &common.operation();
    let everything = Reach::of_readable(store, store.catalog().snapshot_ids()?, operation)?;
    let mut hot = Reach::default();
    if !options.all {
        let rows = store.catalog().worktrees()?;
        let roots = rows.iter().flat_map(|row| [row.snapshot, row.target]).flatten();
        hot = Reach::of_readable(store, roots, operation)?;
    }
    let mut cold = Vec::new();
    store
        .blobs()
        .for_each(|id, _| {
            if let Some(size) = everything.blobs.get(id)
                && !hot.blobs.contains(id)
            {
                cold.push(Cold { id, size, from: From::Mirror(None) });
            }
        })
        .context(Operation::Read, || store.layout().blobs())?;
    drop((everything, hot));
    cold.sort_unstable_by_key(|cold| cold.id);
    store.catalog().each_packed(|id, pack, at| {
        if let Ok(place) = cold.binary_search_by(|cold| cold.id.cmp(&id)) {
            cold[place].from = From::Mirror(Some((Arc::clone(pack), at)));
        }
    })?;
    let written = write_packs(store.contents(), cold, operation)?;
    let mut report =
        PackReport { packs: written.packs, damaged: written.damaged, ..PackReport::default() };
    for (_, at) in written.packed.iter().flatten() {
        report.packed_blobs += 1;
        report.packed_bytes += at.size;
        report.stored_bytes += at.stored;
    }
    let packed = written.packed.iter().flatten().map(|(id, at)| (*id, at.size));
    for (id, size) in packed.chain(written.had) {
        store.blobs().remove(id).context(Operation::Drop, || store.blobs().mirror_path(id))?;
        report.dropped_mirrors += 1;
        report.dropped_bytes += size;
    }
    report.damaged.sort_unstable();
    report.elapsed = started.elapsed();
    Ok(report)
}

/// See [`Store::warm`].
pub(super) fn warm(
    store: &Store,
    snapshots: &[SnapshotId],
    common: &StoreOptions,
) -> Result<WarmReport, Error> {
    let started = Instant::now();
    store.must_be_writable(Operation::Warm)?;
    let snapshots: Vec<SnapshotId> = if snapshots.is_empty() {
        store.catalog().worktree(PROJECT)?.and_then(|row| row.snapshot).into_iter().collect()
    } else {
        snapshots.to_vec()
    };
    let guard = store.share()?;
    let operation = &common.operation();
    let reach = Reach::of(store, snapshots.iter().copied(), operation)?;
    let mut missing = Vec::new();
    for (id, size) in reach.blobs.iter() {
        let path = || store.blobs().mirror_path(id);
        if !store.blobs().is_sealed(id, size).context(Operation::ReadBlob, path)? {
            missing.push((id, size));
        }
    }
    let mut report = WarmReport {
        blobs: reach.blobs.len() as u64,
        made_mirrors: missing.len() as u64,
        made_bytes: missing.iter().fold(0, |sum, (_, size)| size.saturating_add(sum)),
        ..WarmReport::default()
    };
    // For a million contents it takes 40 MB, and the ready trees are still to be made.
    drop(reach);
    operation.expect(missing.len() as u64);
    // Last in, first out: the largest first, so that no thread is left with one at the end.
    missing.sort_unstable_by_key(|(_, size)| *size);
    let noted = Noted::of(operation);
    let workers = pool::run(
        operation,
        (Operation::Warm, store.path()),
        missing,
        |_| Intake::noting(&noted),
        |intake, (id, size), queue| {
            store.contents().get(intake, id, size, &|| queue.stopped())?;
            operation.file_done(size);
            Ok(())
        },
    )
    .inspect_err(|error| store.contents().drop_unpacked(error, &noted))?;
    let unsealed: Vec<BlobId> = workers.into_iter().flat_map(|intake| intake.unsealed).collect();
    if !unsealed.is_empty() {
        store.contents().flush(&unsealed)?;
    }
    for &id in &snapshots {
        let object = store.catalog().object(id)?;
        let tree = SnapshotTree::new(store, (id, &object), None);
        report.templates += u64::from(store.ready().shelf().keep(tree, operation)?);
    }
    drop(guard);
    report.snapshots = snapshots;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Puts `cold` into new packs, and its places into the database. It leaves mirrors and other
/// packs alone. The caller holds the store's lock, shared or exclusive.
pub(super) fn write_packs(
    contents: Contents<'_>,
    mut cold: Vec<Cold>,
    operation: &Running,
) -> Result<Written, Error> {
    operation.expect(cold.len() as u64);
    // Last in, first out: the largest first.
    // A stable sort would take half of the list once more.
    cold.sort_unstable_by_key(|cold| (cold.size, cold.id));
    let workers = pool::run(
        operation,
        (Operation::Pack, contents.layout.0),
        cold,
        |_| Packer::default(),
        |packer, cold, queue| {
            let done = pack_one(contents, packer, &cold, &|| queue.stopped());
            operation.file_done(cold.size);
            done.map_err(|error| {
                if queue.stopped() {
                    pool::cancelled(Operation::Pack, contents.layout.0)
                } else {
                    error
                }
            })
        },
    )?;
    let mut written = Written::default();
    let mut done = Vec::new();
    for worker in workers {
        written.had.extend(worker.had);
        written.damaged.extend(worker.damaged);
        done.extend(worker.done);
        if let Some(open) = worker.open {
            done.push(open.finish().context(Operation::WritePackIn, || contents.layout.0)?);
        }
    }
    done.retain(|done| !done.index.is_empty());
    if done.is_empty() {
        return Ok(written);
    }
    operation.publishes();
    let packs = contents.layout.packs();
    let mut named = Vec::with_capacity(done.len());
    for mut done in done {
        let name = format!("{}.pack", token());
        let path = packs.join(&name);
        done.staged.place(fs::CWD, &path).context(Operation::WritePack, || &path)?;
        named.push((name, std::mem::take(&mut done.index)));
    }
    let sync = || fs::fsync(fs::open(&packs, DIR_FLAGS, Mode::empty())?);
    sync().context(Operation::Flush, || &packs)?;
    let known = contents.catalog.add_packs(&named);
    // After an error of the disk, the rows may be in the database nevertheless. The next process
    // that opens it finds them, and needs the packs.
    if known.as_ref().is_err_and(|error| error.kind() != ErrorKind::Io) {
        for (name, _) in &named {
            let _ = std::fs::remove_file(packs.join(name));
        }
    }
    known?;
    written.packs = named.len() as u64;
    written.packed = named.into_iter().map(|(_, index)| index).collect();
    Ok(written)
}

fn pack_one(
    contents: Contents<'_>,
    packer: &mut Packer,
    cold: &Cold,
    stop: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let id = cold.id;
    let mirror = || contents.blobs.mirror_path(id);
    match &cold.from {
        From::Mirror(packed) => {
            if let Some((pack, at)) = packed {
                let read =
                    contents.open_pack(pack).and_then(|pack| pack.read(id, *at, &mut io::sink()));
                if read.is_ok() {
                    packer.had.push((id, cold.size));
                    return Ok(());
                }
                // A good mirror and a bad entry: it is packed once more.
            }
            let found = contents.blobs.look(id, cold.size).context(Operation::ReadBlob, mirror)?;
            let (file, young) = match found {
                Mirror::Sealed(file, _) => (file, false),
                Mirror::Unsealed(file, meta) => (file, is_young(meta.changed)),
                Mirror::Missing => return Ok(()),
            };
            let mut content = Stoppable(File::from(file), stop);
            match append(contents.layout, packer, id, cold.size, &mut content) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    if !young {
                        packer.damaged.push(id);
                    }
                    Ok(())
                }
                Err(error) => Err(error).context(Operation::Pack, mirror),
            }
        }
        From::Pack(pack, at) => {
            // Whatever is wrong with that pack: what cannot be had from it stays where it is.
            let mut again = || -> io::Result<bool> {
                let file = match contents.unpacked(id, pack, *at) {
                    Err(error) if !is_full(&error) => return Ok(false),
                    file => file?,
                };
                append(contents.layout, packer, id, at.size, &mut Stoppable(file, stop))?;
                Ok(true)
            };
            if !again().context(Operation::PackAgain, || contents.layout.pack(pack))? {
                packer.damaged.push(id);
            }
            Ok(())
        }
    }
}

fn append(
    layout: Layout<'_>,
    packer: &mut Packer,
    id: BlobId,
    size: u64,
    content: &mut dyn Read,
) -> io::Result<()> {
    let open = match &mut packer.open {
        Some(open) => open,
        none => {
            let staged = StagedFile::in_folder(&layout.stage());
            let file = fs::open(&staged.path, NEW_READABLE_FLAGS, Mode::from_raw_mode(0o444))?;
            let writer = PackWriter::create(file.into(), LEVEL)?;
            none.insert(Open { writer, staged, stored: 0 })
        }
    };
    open.stored += open.writer.add(id, size, content)?.stored;
    if open.stored >= PACK_BYTES
        && let Some(open) = packer.open.take()
    {
        packer.done.push(open.finish()?);
    }
    Ok(())
}

/// Whether a time of change is so recent that its maker may still be at it. In doubt it is.
fn is_young(changed: (i64, i64)) -> bool {
    older_than(changed, YOUNG).is_none_or(|older| !older)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_be_worked_at_is_young_and_what_comes_from_the_future_is_in_doubt() {
        let (now, _) = crate::store::now();
        let young = i64::try_from(YOUNG.as_secs()).unwrap();
        for (row, changed, expected) in [
            ("now", now - 1, true),
            ("almost old", now - young + 20, true),
            ("old", now - young - 1, false),
            ("long ago", 0, false),
            ("the future", now + 1000, true),
        ] {
            assert_eq!(is_young((changed, 0)), expected, "{row}");
        }
        for (row, changed, age, expected) in [
            ("older", (now - 100, 0), 50, Some(true)),
            ("as old, and a little", (now - 50, 0), 50, Some(true)),
            ("younger", (now - 50, 0), 1000, Some(false)),
            ("any age will do", (now - 1, 999_999_999), 0, Some(true)),
            ("the future", (now + 1000, 0), 0, None),
        ] {
            assert_eq!(older_than(changed, Duration::from_secs(age)), expected, "{row}");
        }
    }
}

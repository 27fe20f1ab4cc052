//! Mends the damage that [`verify`](super::verify) found.
//!
//! calve does this under the store's exclusive lock, and checks each blob once more before it
//! changes anything. It keeps anything that may be the last copy, unless the hash proves that it is
//! worthless. A bad mirror goes to the trash. An entry of a pack that calve cannot read loses its
//! row only if there is a good mirror. The rows of a pack that is gone stay, since the pack may be
//! brought back.
//!
//! calve looks for a lost content at the paths that it was stored from: in the project, and in the
//! worktrees that are based on a snapshot that has it. It takes a file in only if the file has the
//! same hash.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, Mode};

use super::blobs::{Intake, IntakeOutcome, Noted, path_of};
use super::contents::Contents;
use super::files::open_dir;
use super::id::{BlobId, SnapshotId};
use super::pack::Location;
use super::packing::{Cold, From, write_packs};
use super::reach::Reach;
use super::ready::{Deletion, Which};
use super::verify::{
    self, Bad, Damage, DamageKind, Eye, Mendable, MirrorState, VerifyOptions, VerifyReport,
};
use super::{Store, StoreOptions, is_pack_name, locks};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::tree::across::rename_entry;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::stage_name;

/// How long calve tries to get the store for itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// See [`Store::verify`].
pub(super) fn verify(
    store: &Store,
    options: &VerifyOptions,
    common: &StoreOptions,
) -> Result<VerifyReport, Error> {
    let started = Instant::now();
    if options.repair {
        store.must_be_writable(Operation::Repair)?;
    }
    let mut report = VerifyReport::default();
    match look_and_mend(store, &mut report, options, &common.operation()) {
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let (path, why) = (error.path().to_owned(), error.io_error().to_string());
            let damage = Damage::new(DamageKind::Database, path, why);
            report.damage.push(Damage { lost: true, ..damage });
        }
        result => result?,
    }
    report.damage.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
    report.elapsed = started.elapsed();
    Ok(report)
}

fn look_and_mend(
    store: &Store,
    report: &mut VerifyReport,
    options: &VerifyOptions,
    operation: &Running,
) -> Result<(), Error> {
    let Some(mendable) = verify::look(store, report, options.repair, operation)? else {
        return Ok(());
    };
    match locks::exclude(store.path(), PATIENCE, operation)? {
        Some(_alone) => Repair::new(store, operation).run(report, mendable)?,
        None => report.busy = true,
    }
    Ok(())
}

/// A repair. The store is locked exclusively.
struct Repair<'a> {
    store: &'a Store,
    eye: Eye<'a>,
    /// Mirrors that are to be sealed.
    seals: Vec<BlobId>,
}

impl<'a> Repair<'a> {
    fn new(store: &'a Store, operation: &'a Running) -> Self {
        let (contents, intake) = (store.contents(), Intake::noting(&Noted::of(operation)));
        // Nobody else is at it: what is wrong stays so.
        Self { store, eye: Eye { contents, intake, looks: 0, operation }, seals: Vec::new() }
    }

    /// Mends what can be mended.
    fn run(mut self, report: &mut VerifyReport, mendable: Mendable) -> Result<(), Error> {
        let (contents, operation) = (self.eye.contents, self.eye.operation);
        let Mendable { reach, damaged, packs, unsealed } = mendable;
        contents.close_packs();
        let folder = open_dir(&contents.layout.packs())?;
        for name in packs.iter().filter(|name| is_pack_name(name)) {
            let name = CString::new(name.as_str()).unwrap_or_default();
            open_again(&folder, &name);
        }
        self.adopt_packs(&reach, &damaged)?;
        for &id in damaged.iter().chain(&unsealed) {
            self.mend(id)?;
        }
        for damage in report.damage.iter().filter(|damage| damage.lost) {
            if let Some(id) = damage.blob {
                self.bring_back(id, &damage.places)?;
                self.mend(id)?;
            }
        }
        self.seals.append(&mut self.eye.intake.unsealed);
        if !self.seals.is_empty() {
            self.store.contents().flush(&self.seals)?;
        }
        let mut mended = HashSet::new();
        for name in &packs {
            if mend_pack(contents, name, operation)? {
                mended.insert(contents.layout.pack(name));
            }
        }
        for damage in &mut report.damage {
            damage.repaired = match (damage.kind, damage.blob) {
                (DamageKind::Missing | DamageKind::Mirror | DamageKind::Packed, Some(id)) => {
                    let needed = reach.blobs.contains(id);
                    self.eye.judge(id, needed)?.is_empty()
                }
                (DamageKind::Pack, _) => mended.contains(&damage.path),
                (DamageKind::Index, _) => std::fs::remove_file(&damage.path).is_ok(),
                (DamageKind::ReadyTree, _) => {
                    self.store.ready().discard(Which::At(&damage.path), Deletion::Later)
                }
                _ => false,
            };
        }
        Ok(())
    }

    /// Takes over packs that the database does not know, if they have lost content.
    fn adopt_packs(&mut self, reach: &Reach, damaged: &[BlobId]) -> Result<(), Error> {
        let contents = self.eye.contents;
        let mut lost = HashSet::new();
        for &id in damaged {
            if reach.blobs.contains(id) && self.eye.look_at(id)?.is_lost() {
                lost.insert(id);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        for name in contents.unknown_packs(Duration::ZERO)? {
            let Ok(pack) = contents.open_pack(&name) else { continue };
            let Ok(index) = pack.index().or_else(|_| pack.scan()) else { continue };
            let has: Vec<(BlobId, Location)> = index
                .into_iter()
                .filter(|(id, at)| {
                    lost.contains(id) && pack.read(*id, *at, &mut io::sink()).is_ok()
                })
                .collect();
            if has.is_empty() {
                continue;
            }
            for (id, _) in &has {
                lost.remove(id);
            }
            contents.catalog.add_packs(&[(name, has)])?;
        }
        Ok(())
    }

    fn mend(&mut self, id: BlobId) -> Result<(), Error> {
        let Eye { contents, operation, .. } = self.eye;
        let mut state = self.eye.look_at(id)?;
        if matches!(state.mirror, MirrorState::Bad { how: Bad::Closed, .. }) {
            open_again(contents.blobs.dir(), &path_of(id));
            state = self.eye.look_at(id)?;
        }
        // Each mirror is flushed by itself, because the kernel reports a failed write once: a flush
        // of the whole filesystem may succeed after it.
        if let MirrorState::Good { sealed: false, size } = state.mirror {
            let stop = || operation.is_cancelled();
            let path = || contents.blobs.mirror_path(id);
            let good = contents.blobs.good(&mut self.eye.intake, id, size, &stop);
            if good.context(Operation::ReadBlob, path)?.is_none() {
                state = self.eye.look_at(id)?;
            }
        }
        match (state.mirror, state.packed) {
            (MirrorState::Good { .. }, packed) => {
                if let Some((_, Err(_))) = packed {
                    contents.catalog.forget_packed(id)?;
                }
            }
            (MirrorState::Bad { .. }, Some((pack, Ok(())))) => {
                let Some((_, at)) = contents.catalog.packed(id)? else { return Ok(()) };
                let aside = set_aside(contents, id)?;
                let unpack = |file: &mut File| contents.open_pack(&pack)?.read_into(id, at, file);
                contents
                    .blobs
                    .put(id, unpack)
                    .context(Operation::Unpack, || contents.blobs.mirror_path(id))?;
                self.seals.push(id);
                // Nobody can use the file that was there.
                let trash = open_dir(&contents.layout.trash())?;
                let _ = removal::remove(&trash, &aside);
            }
            (
                MirrorState::Bad {
                    how: Bad::Young | Bad::Worthless | Bad::Unsealed | Bad::Empty,
                    ..
                },
                _,
            ) => {
                set_aside(contents, id)?;
            }
            // Another day it may be readable, and there is nothing else.
            (MirrorState::Bad { how: Bad::Closed | Bad::Unreadable, .. }, _) => {}
            (MirrorState::Missing, _) => {}
        }
        Ok(())
    }

    /// Takes a content in again from the project or a worktree, if it still exists at a path from
    /// which it was stored.
    fn bring_back(&mut self, id: BlobId, places: &[(SnapshotId, PathBuf)]) -> Result<(), Error> {
        if !self.eye.look_at(id)?.is_lost() {
            return Ok(());
        }
        let Eye { contents, operation, .. } = self.eye;
        let stop = || operation.is_cancelled();
        let (seconds, nanoseconds) = self.store.clock().now()?;
        for row in contents.catalog.worktrees()? {
            let root = self.store.registry().root_of(&row);
            for (_, path) in places.iter().filter(|(snapshot, _)| row.snapshot == Some(*snapshot)) {
                let take = |intake: &mut Intake| -> io::Result<bool> {
                    // Wherever that leads: it is of use only if it has this very hash.
                    let file = fs::open(root.join(path), SOURCE_FLAGS, Mode::empty())?;
                    let meta = Meta::of_file(&file)?;
                    if meta.file_type() != FileType::RegularFile
                        || intake.hash(&file, meta.size, &stop)?.0 != id
                    {
                        return Ok(false);
                    }
                    let stamp = (seconds, nanoseconds.into());
                    let taken = contents.blobs.take_in(intake, &file, meta, stamp, &stop)?;
                    Ok(matches!(taken, IntakeOutcome::Stored { blob, .. } if blob == id))
                };
                if take(&mut self.eye.intake).unwrap_or(false) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Moves whatever has the name of a blob's mirror into the trash. Returns the name that it has there.
fn set_aside(contents: Contents<'_>, id: BlobId) -> Result<CString, Error> {
    let path = || contents.blobs.mirror_path(id);
    let trash = open_dir(&contents.layout.trash())?;
    let name = CString::new(stage_name())
        .map_err(|error| Error::io(Operation::SetAside, path(), io::Error::other(error)))?;
    rename_entry(contents.blobs.dir(), path_of(id), &trash, &name)
        .context(Operation::SetAside, path)?;
    Ok(name)
}

/// Writes what can be read of a pack into another, and gives it up if that is all: whether it
/// is.
fn mend_pack(contents: Contents<'_>, name: &str, operation: &Running) -> Result<bool, Error> {
    if contents.open_pack(name).and_then(|pack| pack.index()).is_ok() {
        return Ok(true);
    }
    let mut cold = Vec::new();
    contents.catalog.each_packed(|id, pack, at| {
        if **pack == *name {
            cold.push(Cold { id, size: at.size, from: From::Pack(Arc::clone(pack), at) });
        }
    })?;
    write_packs(contents, cold, operation)?;
    let gone = contents.catalog.forget_pack_if_empty(name)?;
    if gone && is_pack_name(name) {
        contents.close_packs();
        contents.remove_pack(name)?;
    }
    Ok(gone)
}

/// Gives a mirror or a pack back the mode that it was made with. A file of another user stays
/// closed.
fn open_again(dir: &OwnedFd, name: &CStr) {
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    if stat.is_ok_and(|stat| Meta::of(&stat).file_type() == FileType::RegularFile) {
        let _ = fs::chmodat(dir, name, meta::mode(0o444), AtFlags::empty());
    }
}

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
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Mode};

use super::blobs::{Intake, Noted, Taken, path_of};
use super::files::open_dir;
use super::id::{BlobId, SnapshotId};
use super::pack::Location;
use super::packing::{Cold, From};
use super::reach::Reach;
use super::ready::{Deletion, Which};
use super::verify::{Bad, DamageKind, Eye, Mirror, VerifyReport};
use super::{Store, is_pack_name};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::tree::across::rename_entry;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::stage_name;

impl Store {
    /// Mends what can be mended; the store is locked exclusively.
    pub(crate) fn repair(
        &self,
        report: &mut VerifyReport,
        reach: &Reach,
        damaged: &[BlobId],
        packs: &[String],
        unsealed: Vec<BlobId>,
        operation: &Running,
    ) -> Result<(), Error> {
        self.contents().close_packs();
        let folder = open_dir(&self.layout().packs())?;
        for name in packs.iter().filter(|name| is_pack_name(name)) {
            let name = CString::new(name.as_str()).unwrap_or_default();
            open_again(&folder, &name);
        }
        // Nobody else is at it: what is wrong stays so.
        let mut eye = Eye { intake: Intake::noting(&Noted::of(operation)), looks: 0, operation };
        self.adopt_packs(&mut eye, reach, damaged)?;
        let mut seals = Vec::new();
        for &id in damaged.iter().chain(&unsealed) {
            self.mend(&mut eye, id, &mut seals)?;
        }
        for damage in report.damage.iter().filter(|damage| damage.lost) {
            if let Some(id) = damage.blob {
                self.bring_back(&mut eye, id, &damage.places)?;
                self.mend(&mut eye, id, &mut seals)?;
            }
        }
        seals.append(&mut eye.intake.unsealed);
        if !seals.is_empty() {
            self.flush(&seals)?;
        }
        let mut mended = HashSet::new();
        for name in packs {
            if self.mend_pack(name, operation)? {
                mended.insert(self.layout().pack(name));
            }
        }
        for damage in &mut report.damage {
            damage.repaired = match (damage.kind, damage.blob) {
                (DamageKind::Missing | DamageKind::Mirror | DamageKind::Packed, Some(id)) => {
                    let needed = reach.blobs.contains(id);
                    self.judge(&mut eye, id, needed)?.is_empty()
                }
                (DamageKind::Pack, _) => mended.contains(&damage.path),
                (DamageKind::Index, _) => std::fs::remove_file(&damage.path).is_ok(),
                (DamageKind::ReadyTree, _) => {
                    self.ready().discard(Which::At(&damage.path), Deletion::Later)
                }
                _ => false,
            };
        }
        Ok(())
    }

    /// Takes over packs that the database does not know, if they have lost content.
    fn adopt_packs(
        &self,
        eye: &mut Eye<'_>,
        reach: &Reach,
        damaged: &[BlobId],
    ) -> Result<(), Error> {
        let mut lost = HashSet::new();
        for &id in damaged {
            if reach.blobs.contains(id) && self.look_at(eye, id)?.is_lost() {
                lost.insert(id);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        for name in self.unknown_packs(Duration::ZERO)? {
            let Ok(pack) = self.contents().open_pack(&name) else { continue };
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
            self.catalog().add_packs(&[(name, has)])?;
        }
        Ok(())
    }

    fn mend(&self, eye: &mut Eye<'_>, id: BlobId, seals: &mut Vec<BlobId>) -> Result<(), Error> {
        let mut state = self.look_at(eye, id)?;
        if matches!(state.mirror, Mirror::Bad { how: Bad::Closed, .. }) {
            open_again(self.blobs().dir(), &path_of(id));
            state = self.look_at(eye, id)?;
        }
        // Each mirror is flushed by itself, because the kernel reports a failed write once: a flush
        // of the whole filesystem may succeed after it.
        if let Mirror::Good { sealed: false, size } = state.mirror {
            let stop = || eye.operation.is_cancelled();
            let path = || self.blobs().mirror_path(id);
            let good = self.blobs().good(&mut eye.intake, id, size, &stop);
            if good.context(Operation::ReadBlob, path)?.is_none() {
                state = self.look_at(eye, id)?;
            }
        }
        match (state.mirror, state.packed) {
            (Mirror::Good { .. }, packed) => {
                if let Some((_, Err(_))) = packed {
                    self.catalog().forget_packed(id)?;
                }
            }
            (Mirror::Bad { .. }, Some((pack, Ok(())))) => {
                let Some((_, at)) = self.catalog().packed(id)? else { return Ok(()) };
                let aside = self.set_aside(id)?;
                let unpack =
                    |file: &mut File| self.contents().open_pack(&pack)?.read_into(id, at, file);
                self.blobs()
                    .put(id, unpack)
                    .context(Operation::Unpack, || self.blobs().mirror_path(id))?;
                seals.push(id);
                // Nobody can use the file that was there.
                let trash = open_dir(&self.layout().trash())?;
                let _ = removal::remove(&trash, &aside);
            }
            (
                Mirror::Bad {
                    how: Bad::Young | Bad::Worthless | Bad::Unsealed | Bad::Empty, ..
                },
                _,
            ) => {
                self.set_aside(id)?;
            }
            // Another day it may be readable, and there is nothing else.
            (Mirror::Bad { how: Bad::Closed | Bad::Unreadable, .. }, _) => {}
            (Mirror::Missing, _) => {}
        }
        Ok(())
    }

    /// Takes a content in again from the project or a worktree, if it still exists at a path from
    /// which it was stored.
    fn bring_back(
        &self,
        eye: &mut Eye<'_>,
        id: BlobId,
        places: &[(SnapshotId, PathBuf)],
    ) -> Result<(), Error> {
        if !self.look_at(eye, id)?.is_lost() {
            return Ok(());
        }
        let operation = eye.operation;
        let stop = || operation.is_cancelled();
        let (seconds, nanoseconds) = self.clock()?;
        for row in self.catalog().worktrees()? {
            let root = self.registry().root_of(&row);
            for (_, path) in places.iter().filter(|(snapshot, _)| row.snapshot == Some(*snapshot)) {
                let take = |intake: &mut Intake| -> io::Result<bool> {
                    // Wherever that leads: it is of use only if it has this very hash.
                    let file = fs::open(root.join(path), SOURCE_FLAGS, Mode::empty())?;
                    let meta = Meta::of(&fs::fstat(&file)?);
                    if meta.file_type() != FileType::RegularFile
                        || intake.hash(&file, meta.size, &stop)?.0 != id
                    {
                        return Ok(false);
                    }
                    let stamp = (seconds, nanoseconds.into());
                    let taken = self.blobs().take_in(intake, &file, meta, stamp, &stop)?;
                    Ok(matches!(taken, Taken::Stored { blob, .. } if blob == id))
                };
                if take(&mut eye.intake).unwrap_or(false) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Moves what is at a blob's name into the trash; its name there.
    fn set_aside(&self, id: BlobId) -> Result<CString, Error> {
        let path = || self.blobs().mirror_path(id);
        let trash = open_dir(&self.layout().trash())?;
        let name = CString::new(stage_name())
            .map_err(|error| Error::io(Operation::SetAside, path(), io::Error::other(error)))?;
        rename_entry(self.blobs().dir(), path_of(id), &trash, &name)
            .context(Operation::SetAside, path)?;
        Ok(name)
    }

    /// Writes what can be read of a pack into another, and gives it up if that is all: whether it
    /// is.
    fn mend_pack(&self, name: &str, operation: &Running) -> Result<bool, Error> {
        if self.contents().open_pack(name).and_then(|pack| pack.index()).is_ok() {
            return Ok(true);
        }
        let mut cold = Vec::new();
        self.catalog().each_packed(|id, pack, at| {
            if **pack == *name {
                cold.push(Cold { id, size: at.size, from: From::Pack(Arc::clone(pack), at) });
            }
        })?;
        self.write_packs(cold, operation)?;
        let gone = self.catalog().forget_pack_if_empty(name)?;
        if gone && is_pack_name(name) {
            self.contents().close_packs();
            self.contents().remove_pack(name)?;
        }
        Ok(gone)
    }
}

/// Gives a mirror or a pack back the mode that it was made with. A file of another user stays
/// closed.
fn open_again(dir: &OwnedFd, name: &CStr) {
    let stat = fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    if stat.is_ok_and(|stat| Meta::of(&stat).file_type() == FileType::RegularFile) {
        let _ = fs::chmodat(dir, name, meta::mode(0o444), AtFlags::empty());
    }
}

//! Finds the content of a blob wherever it is: in its mirror, or in a pack.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::blobs::{Blobs, Intake, Noted};
use super::catalog::Catalog;
use super::files::unlinked_file;
use super::id::BlobId;
use super::layout::{Layout, is_pack_name};
use super::pack::{Location, Pack};
use super::stamps::StoreClock;
use super::trash;
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::{NEW_READABLE_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::tree::pool::lock;
use crate::tree::staging::{StagedFile, flush_filesystem};

/// Contents up to this size are unpacked in memory.
const MEMORY_MOST_BYTES: u64 = 16 << 20;

/// The packs that are open, by name.
pub(super) type OpenPacks = Mutex<HashMap<String, Arc<Pack>>>;

/// The contents of a store: the mirrors in `blobs`, and the packs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contents<'a> {
    pub(super) layout: Layout<'a>,
    pub(super) catalog: &'a Catalog,
    pub(super) blobs: &'a Blobs,
    pub(super) packs: &'a OpenPacks,
    pub(super) is_read_only: bool,
}

impl Contents<'_> {
    /// The content of a blob of `size` bytes, to clone or to read from. This is the blob's mirror,
    /// or a file that is unpacked now.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], with the mirror's path, if neither the mirror nor a pack is good.
    pub(crate) fn get(
        self,
        intake: &mut Intake,
        id: BlobId,
        size: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<(OwnedFd, Meta), Error> {
        let path = || self.blobs.mirror_path(id);
        // If there is a pack, a mirror that calve may not read counts as no mirror.
        let closed = match self.blobs.good(intake, id, size, stop) {
            Ok(Some(good)) => return Ok(good),
            Ok(None) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Err(error) => return Err(error).context(Operation::ReadBlob, path),
        };
        let Some((pack, at)) = self.catalog.packed(id)? else {
            closed.context(Operation::ReadBlob, path)?;
            // Between the two look-ups another process may have unpacked the blob, or put its
            // mirror back.
            if let Some(good) =
                self.blobs.good(intake, id, size, stop).context(Operation::ReadBlob, path)?
            {
                return Ok(good);
            }
            let there = std::fs::symlink_metadata(path()).is_ok();
            return Err(lost(
                path(),
                if there {
                    "its content is not what it was when it was stored, and no pack has it"
                } else {
                    "it is gone, and no pack has it"
                },
            ));
        };
        let file = if self.is_read_only {
            self.unpacked(id, &pack, at).map(OwnedFd::from)
        } else {
            let put = self.blobs.put(id, |file| self.open_pack(&pack)?.read_into(id, at, file));
            if put.is_ok() {
                intake.unsealed.push(id);
                intake.note(id);
            }
            put
        };
        let file = file.map_err(|error| {
            let path = self.layout.pack(&pack);
            // A pack that is gone, or replaced by something else, is damage, too.
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound)
                || Errno::from_io_error(&error) == Some(Errno::LOOP)
            {
                return Error::new(ErrorKind::Damaged, Operation::Unpack, path, error);
            }
            Error::io(Operation::Unpack, path, error)
        })?;
        let meta = Meta::of_file(&file).context(Operation::ReadBlob, path)?;
        Ok((file, meta))
    }

    /// Unpacks a content into a file without a name. A small one is in memory, and so is any if the
    /// store cannot be written to.
    pub(super) fn unpacked(self, id: BlobId, pack: &str, at: Location) -> io::Result<File> {
        let mut file = if self.is_read_only || at.size <= MEMORY_MOST_BYTES {
            unlinked_file()?
        } else {
            let staged = StagedFile::in_folder(&self.layout.stage());
            fs::open(&staged.path, NEW_READABLE_FLAGS, Mode::RUSR | Mode::WUSR)?.into()
        };
        self.open_pack(pack)?.read_into(id, at, &file)?;
        file.rewind()?;
        Ok(file)
    }

    /// Opens a pack, or returns it if it is open already.
    pub(crate) fn open_pack(self, name: &str) -> io::Result<Arc<Pack>> {
        if let Some(pack) = lock(self.packs).get(name) {
            return Ok(Arc::clone(pack));
        }
        if !is_pack_name(name) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a pack's name cannot be"));
        }
        let file = fs::open(self.layout.pack(name), SOURCE_FLAGS, Mode::empty())?;
        let pack = Arc::new(Pack::open(file.into())?);
        lock(self.packs).insert(name.to_owned(), Arc::clone(&pack));
        Ok(pack)
    }

    /// Removes the file of a pack. Returns whether there was one.
    pub(crate) fn remove_pack(self, name: &str) -> Result<bool, Error> {
        if !is_pack_name(name) {
            return Ok(false);
        }
        let path = self.layout.pack(name);
        let removed = std::fs::remove_file(&path).if_there();
        Ok(removed.context(Operation::Remove, || path)?.is_some())
    }

    /// Files in the packs' folder that the database does not have.
    pub(crate) fn unknown_packs(self, grace: Duration) -> Result<Vec<String>, Error> {
        let path = self.layout.packs();
        let files = trash::entries(&path, grace).context(Operation::Read, || &path)?;
        let known: HashSet<String> = self.catalog.pack_names()?.into_iter().collect();
        Ok(files
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .filter(|name| !known.contains(name) && !name.starts_with('.'))
            .collect())
    }

    /// Removes the mirrors that were unpacked for an operation that failed for want of room, as
    /// packing would. The caller has held the store's lock, shared or exclusive, since they were
    /// made.
    pub(super) fn drop_unpacked(self, error: &Error, noted: &Noted) {
        if error.kind() == ErrorKind::StorageFull {
            self.blobs.remove_made(noted, |id| matches!(self.catalog.packed(id), Ok(Some(_))));
        }
    }

    /// Closes all packs, so that the next read opens the files that exist then.
    pub(crate) fn close_packs(self) {
        lock(self.packs).clear();
    }

    /// Flushes all new content to the disk, then seals the copied mirrors.
    pub(crate) fn flush(self, unsealed: &[BlobId]) -> Result<(), Error> {
        // Later than every mirror that was made until here.
        let clock = StoreClock(self.layout);
        let now = if unsealed.is_empty() { (0, 0) } else { clock.past(clock.now()?)? };
        self.blobs.flush(unsealed).context(Operation::Flush, || self.layout.0)?;
        self.blobs.seal(unsealed, now).context(Operation::Seal, || self.layout.0)
    }

    /// The same, and flushes the new content of `trees` that are on other filesystems.
    pub(crate) fn flush_with<'a>(
        self,
        unsealed: &[BlobId],
        trees: impl Iterator<Item = &'a OwnedFd>,
    ) -> Result<(), Error> {
        self.flush(unsealed)?;
        let flush = || -> io::Result<()> {
            let device = |dir: &OwnedFd| Ok::<_, io::Error>(Meta::of_file(dir)?.dev);
            let mut flushed = vec![device(self.blobs.dir())?];
            for tree in trees {
                let device = device(tree)?;
                // Where one call does not flush all, each tree is flushed on its own.
                if !flushed.contains(&device) || !Filesystem::of_file(tree).flushes {
                    flush_filesystem(tree)?;
                    flushed.push(device);
                }
            }
            Ok(())
        };
        flush().context(Operation::Flush, || self.layout.0)
    }
}

/// The error for a content that neither a mirror nor a pack has.
fn lost(path: PathBuf, why: &str) -> Error {
    let cause = io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    Error::new(ErrorKind::Damaged, Operation::ReadBlob, path, cause)
}

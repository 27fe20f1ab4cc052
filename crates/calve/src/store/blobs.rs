//! Loose blobs: one file for each content, raw bytes, named by its hash. Worktrees are cloned from
//! these files.
//!
//! # Seals
//! The loose file of a blob is its *mirror*. calve clones a mirror only if it knows that its
//! content is good, and this must cost nothing. So once calve has verified the content, it sets the
//! modification time to one that is derived from the hash ([`seal_of`]), decades in the past. Any
//! later write, truncation or store through a mapping sets a new time and so breaks the seal by
//! itself. Before calve clones a mirror, it checks the `fstat` of the descriptor that it clones.
//!
//! A seal must not outlive its content in a crash. If the content came by reflink, it cannot: the
//! clone call flushes the source first. The new extents and the later change of the time are
//! changes of metadata, which XFS' log, btrfs' transactions and APFS' checkpoints keep in order. If
//! bytes were copied, the blob stays unsealed until they are flushed: one `syncfs` for all of them,
//! see [`Blobs::seal`].
//!
//! A user can set the time back after a write, on purpose. calve does not notice that before `store
//! verify` reads everything.
//!
//! # How a blob arrives
//! calve makes a clone under the final name, with `O_EXCL`, and seals it there. Until then no
//! process trusts it. A process that finds an unsealed file under the name reads it. If the content
//! is right, it seals the file; otherwise it renames a file of its own over it. It never removes
//! the file, since the file's maker may be about to seal it (the exception holds the store's
//! exclusive lock). A file that is renamed over it has the same content, so it does not matter
//! which process comes last.
//!
//! Content that is written, not cloned, gets its name by a rename, when it is whole. In a store
//! that is still in a stage, a mirror is written under its own name and sealed at once: no other
//! process can see that store, and all of it is flushed before it gets its place.
//!
//! # Taking in files that may be changing
//! A write shows in a file's times, but a store through a mapping shows only when the page faults.
//! A page that is dirty already takes stores without a trace, and a long write sets the times when
//! it begins. So times alone do not prove that a file rested. There are two ways, argued in
//! `docs/design/seals.md`:
//!
//! * No process has the file open for writing ([`sys::nobody_writes`]), and its last change is
//!   older than the scan. A process that writes to it later has to open it first, and leaves a time
//!   that is younger than the scan. calve hashes the file, clones it, and checks it again: if size
//!   and times are the same, the hash is that of the clone.
//! * Otherwise calve clones the file first, into a file that no other process has, and hashes that
//!   one.
//!
//! So the content that is stored under a hash has that hash, whatever happens to the source.
//! Whether the index may vouch for the source is another question, which [`is_traced`] answers.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::id::BlobId;
use super::layout::Layout;
use super::marker::give;
use super::ownership::Believed;
use crate::error::IfThere as _;
use crate::reflink::copy::TRIES;
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::{DIR_FLAGS, NEW_READABLE_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{self, Meta};
use crate::reflink::sys;
use crate::tree::listing;
use crate::tree::sharing::{NewFile, Tried};
use crate::tree::staging::{self, StagedFile};

mod intake;
pub(crate) use intake::{Intake, IntakeCounts, Noted, Writers, is_traced};

use intake::Shared;

/// The mode of a mirror: nobody may write to it.
const MODE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// How often a mirror is opened whose name changes hands each time.
const OPEN_TRIES: usize = 8;

/// The time that seals a mirror: between 1987 and 2004, so that no write today leaves it.
pub(crate) fn seal_of(id: BlobId) -> (i64, i64) {
    let bytes = id.as_bytes();
    let number =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (i64::from(0x2000_0000 + (number(0) & 0x1fff_ffff)), i64::from(number(4) % 1_000_000_000))
}

fn timestamps((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT as _ },
        last_modification: Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ },
    }
}

/// The path of a blob inside `blobs/`.
pub(crate) fn path_of(id: BlobId) -> CString {
    let hex = id.to_string();
    // Hexadecimal digits and a slash: no zero byte.
    CString::new(format!("{}/{}", &hex[..2], &hex[2..])).unwrap_or_default()
}

/// The entry at a blob's name.
#[derive(Debug)]
pub(crate) enum Mirror {
    Sealed(OwnedFd, Meta),
    /// Something is there; nobody vouches for it.
    Unsealed(OwnedFd, Meta),
    Missing,
}

/// What became of a file that was to be taken in.
#[derive(Debug)]
pub(crate) enum IntakeOutcome {
    /// It is stored: what it was when it was taken in, and how many bytes it had. Where a file has
    /// no size (procfs) these are not what its metadata says. `writers`: who could write to it.
    /// `traced`: every change since would show in the file's times, so the index may vouch for it.
    Stored { blob: BlobId, size: u64, meta: Meta, traced: bool, writers: Writers },
    /// It changed each time while it was read, and nothing was stored.
    Changing,
}

/// What became of one attempt to take a file in.
enum TakeInAttempt {
    /// `rested`: its times show that it did not change meanwhile.
    Stored {
        blob: BlobId,
        size: u64,
        meta: Meta,
        rested: bool,
    },
    Changed,
}

/// `blobs/` of a store.
#[derive(Debug)]
pub(crate) struct Blobs {
    dir: OwnedFd,
    path: PathBuf,
    /// `stage/`: files on their way here.
    stage: OwnedFd,
    /// See [`Blobs::in_stage`].
    in_stage: bool,
}

impl Blobs {
    pub(crate) fn open(store: &Path) -> io::Result<Self> {
        let path = Layout(store).blobs();
        let flags = DIR_FLAGS | OFlags::NOFOLLOW;
        Ok(Self {
            dir: fs::open(&path, flags, Mode::empty())?,
            stage: fs::open(Layout(store).stage(), flags, Mode::empty())?,
            path,
            in_stage: false,
        })
    }

    /// Tells that the whole store is in a stage: no other process can see it, and it is flushed
    /// before it gets its place, or removed. From now on mirrors are written under their own names
    /// and sealed at once.
    #[cfg(feature = "remote")]
    pub(crate) fn in_stage(&mut self) {
        self.in_stage = true;
    }

    /// Whether the caller of [`put`](Self::put) must flush and seal the mirror itself.
    #[cfg(feature = "remote")]
    pub(crate) fn seals_later(&self) -> bool {
        !self.in_stage
    }

    pub(crate) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The path of a blob's mirror, whether or not it exists.
    pub(crate) fn mirror_path(&self, id: BlobId) -> PathBuf {
        self.path.join(super::manifest::os(path_of(id).to_bytes()))
    }

    /// Whether the folder of the mirrors has an entry. The folders in it stay when mirrors go.
    #[cfg(feature = "remote")]
    pub(crate) fn has_any(&self) -> io::Result<bool> {
        for entry in fs::Dir::read_from(&self.dir)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the entry at the name of a blob. Where each process of the store puts the same content,
    /// the name changes hands between the kernel's lookup and its open, and behind a server (NFS,
    /// FUSE) that is `ESTALE`, also after the kernel's own second try.
    fn open_mirror(&self, id: BlobId) -> Result<OwnedFd, Errno> {
        let open = || fs::openat(&self.dir, path_of(id), SOURCE_FLAGS, Mode::empty());
        let mut opened = open();
        for _ in 1..OPEN_TRIES {
            if !matches!(opened, Err(Errno::STALE)) {
                break;
            }
            opened = open();
        }
        opened
    }

    /// The entry at the name of a blob of `size` bytes.
    pub(crate) fn look(&self, id: BlobId, size: u64) -> io::Result<Mirror> {
        let file = match self.open_mirror(id) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Mirror::Missing),
            Err(errno) => return Err(errno.into()),
        };
        let meta = Meta::of_file(&file)?;
        if meta.file_type() != fs::FileType::RegularFile {
            return Ok(Mirror::Missing);
        }
        if meta.size == size && meta.modified() == seal_of(id) {
            #[cfg(calve_check)]
            crate::check::mirror(&file, &meta, id);
            Ok(Mirror::Sealed(file, meta))
        } else {
            Ok(Mirror::Unsealed(file, meta))
        }
    }

    /// Whether a sealed mirror is there: one call, nothing opened.
    pub(crate) fn is_sealed(&self, id: BlobId, size: u64) -> io::Result<bool> {
        #[cfg(calve_check)]
        let _ = self.look(id, size);
        let meta = Meta::at(&self.dir, path_of(id)).if_there()?;
        Ok(meta.is_some_and(|meta| {
            meta.file_type() == fs::FileType::RegularFile
                && meta.size == size
                && meta.modified() == seal_of(id)
        }))
    }

    /// A mirror that may be served: sealed, or found to be good (and sealed) now.
    pub(crate) fn good(
        &self,
        intake: &mut Intake,
        id: BlobId,
        size: u64,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<Option<(OwnedFd, Meta)>> {
        match self.look(id, size)? {
            Mirror::Sealed(file, meta) => Ok(Some((file, meta))),
            Mirror::Missing => Ok(None),
            Mirror::Unsealed(file, meta) => {
                if meta.size != size {
                    return Ok(None);
                }
                let is_on_disk = match fs::fsync(&file) {
                    Ok(()) => true,
                    // A store on a read-only filesystem cannot be flushed. Its mirrors are served
                    // if their hash is right, and stay unsealed.
                    Err(Errno::ROFS | Errno::INVAL) => false,
                    // The content may be right in memory alone. The kernel reports that once, and
                    // the next process would find the mirror good, so it must be gone by then. If
                    // it cannot be emptied, that process hashes what the disk has, as below.
                    Err(_) => {
                        let _ = self.empty(&file, id);
                        return Ok(None);
                    }
                };
                // `fsync` may succeed although the disk lacks what an earlier process wrote (seen
                // on ext4, where the disk below it was full). So calve hashes what the disk has.
                #[cfg(any(target_os = "linux", target_os = "android"))]
                if is_on_disk {
                    let _ = fs::fadvise(&file, 0, None, fs::Advice::DontNeed);
                }
                if intake.hash(&file, size, stop)?.0 != id {
                    return Ok(None);
                }
                if is_on_disk {
                    let _ = fs::futimens(&file, &timestamps(seal_of(id)));
                }
                Ok(Some((file, meta)))
            }
        }
    }

    /// Cuts the open mirror `file` to no bytes, so that nobody takes it for its content.
    fn empty(&self, file: &OwnedFd, id: BlobId) -> io::Result<()> {
        meta::give_mode(file, MODE | Mode::WUSR)?;
        let flags =
            OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = fs::openat(&self.dir, path_of(id), flags, Mode::empty());
        meta::give_mode(file, MODE)?;
        let opened = opened?;
        // Another process may have renamed a good mirror over it.
        if Meta::of_file(&opened)?.id() == Meta::of_file(file)?.id() {
            fs::ftruncate(&opened, 0)?;
        }
        Ok(())
    }

    /// Takes in an open file, whose last known state is `meta`. `stamp` is a time of this
    /// filesystem's clock: what changed since may change again without another time.
    pub(crate) fn take_in(
        &self,
        intake: &mut Intake,
        file: &OwnedFd,
        mut meta: Meta,
        stamp: (i64, i64),
        stop: &dyn Fn() -> bool,
    ) -> io::Result<IntakeOutcome> {
        for attempt in 0..TRIES {
            intake.counts.read_files += u64::from(attempt == 0);
            // Elsewhere the times may go on by themselves.
            let clones = !intake.noted.0.sharing.known(meta.dev).refused
                && intake.filesystem(file, meta.dev).clock;
            let writers = intake.writers(file, meta.dev);
            let mut protected = false;
            let done = if clones && meta.changed < stamp && writers == Writers::None {
                self.hash_then_clone(intake, file, &meta, stop)?
            } else {
                if writers == Writers::Possible {
                    protected = sys::write_back(file);
                }
                self.clone_then_hash(intake, file, &meta, stop)?
            };
            match done {
                // No time shows the stores that may have come while it was copied (tmpfs). If the
                // file still is what was copied, it was just that in between.
                TakeInAttempt::Stored { blob, .. }
                    if writers == Writers::Possible
                        && !protected
                        && intake.hash(file, meta.size, stop)?.0 != blob =>
                {
                    meta = Meta::of_file(file)?;
                }
                TakeInAttempt::Stored { blob, size, meta, rested } => {
                    intake.counts.read_bytes += size;
                    let traced = rested && is_traced(writers, protected, meta.changed, stamp);
                    return Ok(IntakeOutcome::Stored { blob, size, meta, traced, writers });
                }
                TakeInAttempt::Changed => meta = Meta::of_file(file)?,
            }
        }
        Ok(IntakeOutcome::Changing)
    }

    /// Whether a file was cloned into `new`, which is empty, or not there, if not.
    fn clone_into(
        intake: &Intake,
        file: &OwnedFd,
        meta: &Meta,
        new: NewFile<'_>,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let Shared { sharing, patience, filesystems, .. } = &*intake.noted.0;
        let known = (&**patience, &**filesystems);
        Ok(matches!(sharing.try_clone(file, meta, new, known, stop)?, Tried::Cloned))
    }

    /// A private file, which a clone was made in or not.
    fn stage_clone(
        &self,
        intake: &Intake,
        staged: &StagedFile<'_>,
        file: &OwnedFd,
        meta: &Meta,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<(OwnedFd, bool)> {
        let name = CString::new(staged.path.as_os_str().as_bytes())?;
        let clones = meta.size > 0 && !intake.noted.0.sharing.known(meta.dev).refused;
        let mut new = NewFile { dir: self.stage.as_fd(), name: &name, open: None };
        if clones && sys::CLONE_MAKES_THE_FILE && Self::clone_into(intake, file, meta, new, stop)? {
            let made = new.reopen()?;
            // The clone brought what a mirror does not have; only who may write to it may take that
            // away.
            meta::give_mode(&made, Mode::RUSR | Mode::WUSR)?;
            meta::strip_attributes(&made)?;
            meta::give_mode(&made, MODE)?;
            return Ok((made, true));
        }
        let made = fs::openat(&self.stage, &name, NEW_READABLE_FLAGS, MODE)?;
        new.open = Some(&made);
        let cloned = clones
            && !sys::CLONE_MAKES_THE_FILE
            && Self::clone_into(intake, file, meta, new, stop)?;
        Ok((made, cloned))
    }

    /// For a file that nobody has open for writing.
    fn hash_then_clone(
        &self,
        intake: &mut Intake,
        file: &OwnedFd,
        meta: &Meta,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<TakeInAttempt> {
        let (blob, size) = intake.hash(file, meta.size, stop)?;
        let stored = || -> io::Result<TakeInAttempt> {
            Ok(match unchanged(file, meta)? {
                true => TakeInAttempt::Stored { blob, size, meta: *meta, rested: true },
                false => TakeInAttempt::Changed,
            })
        };
        if size != meta.size {
            // It has other bytes than its size says: it grew, or it is of a kind (procfs) that has
            // no size.
            return if unchanged(file, meta)? {
                self.clone_then_hash(intake, file, meta, stop)
            } else {
                Ok(TakeInAttempt::Changed)
            };
        }
        if meta.size == 0 {
            // There is nothing to keep.
            return stored();
        }
        if sys::CLONE_MAKES_THE_FILE {
            // Under its final name such a clone would have the times that its source says; in the
            // stage nobody looks for it.
            return match self.is_sealed(blob, meta.size)? {
                true => stored(),
                false => self.clone_then_hash(intake, file, meta, stop),
            };
        }
        let path = path_of(blob);
        let new = match self.create(&path) {
            Ok(new) => new,
            Err(Errno::EXIST) => {
                if !self.is_sealed(blob, meta.size)?
                    && self.good(intake, blob, meta.size, stop)?.is_none()
                {
                    return self.clone_then_hash(intake, file, meta, stop);
                }
                return stored();
            }
            Err(errno) => return Err(errno.into()),
        };
        intake.note(blob);
        let place = NewFile { dir: self.dir.as_fd(), name: &path, open: Some(&new) };
        if !Self::clone_into(intake, file, meta, place, stop)? {
            return self.clone_then_hash(intake, file, meta, stop);
        }
        if !unchanged(file, meta)? {
            // The name stays, with nothing in it that could be taken for the blob.
            fs::ftruncate(&new, 0)?;
            return Ok(TakeInAttempt::Changed);
        }
        fs::futimens(&new, &timestamps(seal_of(blob)))?;
        #[cfg(calve_check)]
        crate::check::mirror(&new, &Meta::of_file(&new)?, blob);
        intake.counts.cloned_files += 1;
        Ok(TakeInAttempt::Stored { blob, size, meta: *meta, rested: true })
    }

    /// Makes a private clone, or a copy, and stores it under the hash that it turns out to have.
    ///
    /// A clone is the file as it was at one moment, so it does not matter that the file changes
    /// meanwhile: its times are looked at afterwards, and are not older than its content. A copy
    /// takes its time, and counts only if the file rested.
    fn clone_then_hash(
        &self,
        intake: &mut Intake,
        file: &OwnedFd,
        meta: &Meta,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<TakeInAttempt> {
        let mut staged = StagedFile::new(&self.stage);
        let (new, cloned) = self.stage_clone(intake, &staged, file, meta, stop)?;
        let on = intake.filesystem(file, meta.dev);
        let mut rested = true;
        let (meta, read) = if cloned {
            (Meta::of_file(file)?, None)
        } else {
            // A process that writes during the copy must leave another time.
            listing::wait_for_tick_after(meta.changed);
            // Where holes and sizes are not believed, the hash is of what was read.
            let read = match on.holes && on.sizes {
                true => {
                    intake.copier.copy(file, &new, meta, on, stop)?;
                    None
                }
                false => Some(intake.copy_and_hash(file, &new, meta.size, stop)?),
            };
            rested = unchanged(file, meta)?;
            if !rested && on.clock {
                return Ok(TakeInAttempt::Changed);
            }
            (*meta, read)
        };
        let (blob, size) = match read {
            Some(read) => read,
            None => {
                let length = Meta::of_file(&new)?.size;
                intake.hash(&new, length, stop)?
            }
        };
        // Where the clock is not believed, the times may go on by themselves. Then the same bytes
        // at a second look prove it. One byte more, because a file that grew is another one.
        if !rested && intake.hash(file, size + 1, stop)?.0 != blob {
            return Ok(TakeInAttempt::Changed);
        }
        let stored = Ok(TakeInAttempt::Stored { blob, size, meta, rested });
        if size == 0 || self.is_sealed(blob, size)? {
            return stored;
        }
        if cloned {
            fs::futimens(&new, &timestamps(seal_of(blob)))?;
            #[cfg(calve_check)]
            crate::check::mirror(&new, &Meta::of_file(&new)?, blob);
            intake.counts.cloned_files += 1;
        } else {
            intake.counts.copied_files += 1;
            intake.counts.copied_bytes += size;
            intake.unsealed.push(blob);
        }
        self.place(&mut staged, blob)?;
        intake.note(blob);
        stored
    }

    /// Stores what `write` writes, which must have the hash `id`. The caller flushes and seals the
    /// mirror if [`seals_later`](Self::seals_later) says so. Returns the file, so that it can be
    /// cloned from at once.
    pub(crate) fn put(
        &self,
        id: BlobId,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        if self.in_stage {
            match self.create(&path_of(id)) {
                Ok(new) => {
                    let mut file = File::from(new);
                    write(&mut file)?;
                    fs::futimens(&file, &timestamps(seal_of(id)))?;
                    return Ok(file.into());
                }
                // An earlier attempt failed and left it.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut staged = StagedFile::new(&self.stage);
        let new = fs::openat(&self.stage, &staged.path, NEW_READABLE_FLAGS, MODE)?;
        let mut file = File::from(new);
        write(&mut file)?;
        self.complete(&file, &mut staged, id)?;
        Ok(file.into())
    }

    /// Gives a staged file, whose content has the hash `id`, its name. Seals it before, or leaves
    /// that to the caller, as [`put`](Self::put) does.
    pub(crate) fn complete(
        &self,
        file: impl AsFd,
        staged: &mut StagedFile<'_>,
        id: BlobId,
    ) -> io::Result<()> {
        if self.in_stage {
            fs::futimens(file, &timestamps(seal_of(id)))?;
        }
        self.place(staged, id)
    }

    /// Stores `content`, whose hash is `id`, if it is not stored yet.
    pub(crate) fn keep(&self, intake: &mut Intake, id: BlobId, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        intake.counts.read_files += 1;
        intake.counts.read_bytes += size;
        if size == 0 || self.is_sealed(id, size)? {
            return Ok(());
        }
        self.put(id, |file| io::Write::write_all(file, content))?;
        intake.counts.copied_files += 1;
        intake.counts.copied_bytes += size;
        intake.unsealed.push(id);
        intake.note(id);
        Ok(())
    }

    fn place(&self, staged: &mut StagedFile<'_>, id: BlobId) -> io::Result<()> {
        let path = path_of(id);
        match staged.place(&self.dir, &path) {
            Err(Errno::NOENT) => {
                self.make_fan(&path)?;
                Ok(staged.place(&self.dir, &path)?)
            }
            result => Ok(result?),
        }
    }

    fn create(&self, path: &CString) -> rustix::io::Result<OwnedFd> {
        let create = || fs::openat(&self.dir, path, NEW_READABLE_FLAGS, MODE);
        match create() {
            Err(Errno::NOENT) => {
                self.make_fan(path)?;
                create()
            }
            result => result,
        }
    }

    /// Makes the directory that a blob's path goes through.
    fn make_fan(&self, path: &CString) -> rustix::io::Result<()> {
        let fan = super::manifest::os(&path.to_bytes()[..2]);
        match fs::mkdirat(&self.dir, fan, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => return Ok(()),
            result => result?,
        }
        if rustix::process::geteuid().is_root() {
            let folder = fs::openat(&self.dir, fan, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
            give(folder, Believed::with_folder(&self.dir));
        }
        Ok(())
    }

    /// Flushes mirrors to the disk, with everything else on a filesystem that can do so at once.
    pub(crate) fn flush(&self, ids: &[BlobId]) -> io::Result<()> {
        if Filesystem::of_file(&self.dir).flushes {
            return Ok(staging::sync_filesystem(&self.dir)?);
        }
        let mut fans = std::collections::BTreeSet::new();
        for id in ids {
            // Somebody may have packed it and dropped the mirror.
            let Some(file) = self.open_mirror(*id).if_there()? else { continue };
            fs::fsync(file)?;
            fans.insert(path_of(*id).to_bytes()[..2].to_vec());
        }
        for fan in fans {
            let fan = super::manifest::os(&fan);
            staging::sync_folder(fs::openat(&self.dir, fan, DIR_FLAGS, Mode::empty())?)?;
        }
        staging::sync_folder(&self.dir)
    }

    /// Seals mirrors whose content was verified before `flushed`, a time of this filesystem's clock
    /// at which a flush began that is over. What has such a name since then is somebody else's, who
    /// flushes and seals it.
    pub(crate) fn seal(&self, ids: &[BlobId], flushed: (i64, u32)) -> io::Result<()> {
        let seal = |id: BlobId| -> io::Result<()> {
            // Somebody may have packed it and dropped the mirror.
            let Some(file) = self.open_mirror(id).if_there()? else { return Ok(()) };
            let (seconds, nanoseconds) = Meta::of_file(&file)?.changed;
            if (seconds, nanoseconds) < (flushed.0, flushed.1.into()) {
                fs::futimens(&file, &timestamps(seal_of(id)))?;
            }
            Ok(())
        };
        ids.iter().try_for_each(|id| match seal(*id) {
            // Behind a server, a file that was replaced is gone also for whoever has it open.
            Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => Ok(()),
            sealed => sealed,
        })
    }

    /// Removes a mirror. Its content is in a pack, or nobody needs it any more.
    pub(crate) fn remove(&self, id: BlobId) -> io::Result<()> {
        match fs::unlinkat(&self.dir, path_of(id), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the mirrors that an operation made and that nobody needs. A mirror that stays is
    /// garbage.
    pub(super) fn remove_made(&self, noted: &Noted, is_needless: impl Fn(BlobId) -> bool) {
        let (made, mut needless) = (noted.made(), Vec::new());
        let _ = self.for_each(|id, _| {
            if made.may_have(id) && is_needless(id) {
                needless.push(id);
            }
        });
        for id in needless {
            let _ = self.remove(id);
        }
    }

    /// Every file that has a blob's name, with what `fstat` says of it, fan by fan.
    pub(crate) fn for_each(&self, mut each: impl FnMut(BlobId, Meta)) -> io::Result<()> {
        for fan in 0..=255_u8 {
            let fan = format!("{fan:02x}");
            let dir = match fs::openat(
                &self.dir,
                fan.as_str(),
                DIR_FLAGS | OFlags::NOFOLLOW,
                Mode::empty(),
            ) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            for entry in fs::Dir::read_from(&dir)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                let Some(id) = super::id::from_hex(&format!("{fan}{name}")) else { continue };
                match Meta::at(&dir, entry.file_name()) {
                    Ok(meta) => each(BlobId::from_bytes(id), meta),
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }
}

/// Whether a file is as it was.
fn unchanged(file: &OwnedFd, before: &Meta) -> io::Result<bool> {
    Ok(Meta::of_file(file)?.has_content_of(before))
}

#[cfg(test)]
mod tests;

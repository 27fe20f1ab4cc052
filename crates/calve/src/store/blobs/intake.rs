//! The buffer, the counts and the noted contents of one thread that takes files in.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::io::{Errno, pread, retry_on_intr};

use super::super::id::BlobId;
use super::super::paths::Roots;
use crate::reflink::copy::Copier;
use crate::reflink::filesystem::{Filesystem, Filesystems};
use crate::reflink::{Patience, sys};
use crate::tree::pool::lock;
use crate::tree::running::{PATIENCE, Running};
use crate::tree::sharing::Sharing;

pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// Who could write to an open file without opening it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Nobody.
    None,
    /// Somebody has it open for writing, or the system does not say.
    Possible,
    /// It cannot be known on this filesystem.
    Unknown,
}

/// What has the times of a file set may take so long until it stores: a fault waits for the disk.
const STORE_AFTER_TIMES_SECONDS: i64 = 10;

/// Whether every change of a file, since its content was read, shows in its times; they were
/// `changed` before that, and the scan began at `stamp`.
///
/// That is so if nobody had it open for writing. If somebody had, the pages that were dirty must
/// have been written back before the content was read (`protected`), as a clone does; and no store
/// may be left whose fault had set the times before. Of filesystems that do not tell of writers,
/// the times are believed.
pub(crate) fn is_traced(
    writers: Writers,
    protected: bool,
    changed: (i64, i64),
    stamp: (i64, i64),
) -> bool {
    match writers {
        Writers::None | Writers::Unknown => true,
        Writers::Possible => {
            protected && changed < (stamp.0.saturating_sub(STORE_AFTER_TIMES_SECONDS), stamp.1)
        }
    }
}

/// The counts of contents that were taken in.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct IntakeCounts {
    /// Files that were read.
    pub(crate) read_files: u64,
    pub(crate) read_bytes: u64,
    /// Blobs that are new and share their blocks with their source, and those whose bytes were
    /// copied.
    pub(crate) cloned_files: u64,
    pub(crate) copied_files: u64,
    pub(crate) copied_bytes: u64,
}

/// The state that a thread keeps from file to file.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(super) buffer: Vec<u8>,
    pub(super) copier: Copier,
    pub(crate) counts: IntakeCounts,
    /// Blobs that are to be sealed when they are on the disk.
    pub(crate) unsealed: Vec<BlobId>,
    pub(super) noted: Noted,
    /// The paths to look for in text that is hashed, and whether the last file had one of them.
    pub(super) roots: Roots,
    pub(crate) mentions_root: bool,
    /// The device that was asked about last, and whether it tells of writers.
    pub(super) tells: Option<(u64, bool)>,
}

/// What the threads of one operation share that take content in. Nothing that one operation learns
/// changes the next.
#[derive(Debug, Clone)]
pub(crate) struct Noted(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    /// How the ids of the mirrors begin that were made, in case that the operation fails.
    pub(super) made: Mutex<Vec<u64>>,
    /// What the store's filesystem said to clones from each device.
    pub(super) sharing: Sharing,
    pub(super) patience: Arc<Patience>,
    pub(super) filesystems: Arc<Filesystems>,
}

impl Noted {
    pub(crate) fn of(operation: &Running) -> Self {
        Self::new(Arc::clone(operation.patience()), Arc::clone(operation.filesystems()))
    }

    pub(super) fn new(patience: Arc<Patience>, filesystems: Arc<Filesystems>) -> Self {
        let (made, sharing) = (Mutex::default(), Sharing::default());
        Self(Arc::new(Shared { made, sharing, patience, filesystems }))
    }

    /// The mirrors that were made until now.
    pub(crate) fn made(&self) -> MadeMirrors {
        let mut starts = lock(&self.0.made).clone();
        starts.sort_unstable();
        MadeMirrors(starts)
    }
}

/// Mirrors that an operation made.
///
/// It has only the first eight bytes of each id, because whole ids take 32 MB for a million files.
/// Two ids may begin alike, so nobody may remove a mirror because of this alone.
#[derive(Debug)]
pub(crate) struct MadeMirrors(Vec<u64>);

impl MadeMirrors {
    /// Whether a mirror may be one of them. No other mirror is, except by chance.
    pub(crate) fn may_have(&self, id: BlobId) -> bool {
        self.0.binary_search(&start_of(id)).is_ok()
    }
}

fn start_of(id: BlobId) -> u64 {
    id.as_bytes().iter().take(8).fold(0, |start, byte| start << 8 | u64::from(*byte))
}

impl Intake {
    pub(crate) fn new() -> Self {
        Self::noting(&Noted::new(Arc::new(Patience::new(PATIENCE)), Arc::default()))
    }

    /// Which mirrors it makes is noted.
    pub(crate) fn noting(noted: &Noted) -> Self {
        Self {
            buffer: Vec::new(),
            copier: Copier::new(false),
            counts: IntakeCounts::default(),
            unsealed: Vec::new(),
            noted: noted.clone(),
            roots: Roots::default(),
            mentions_root: false,
            tells: None,
        }
    }

    /// Looks for `roots` in text that is hashed.
    pub(crate) fn looking_for(mut self, roots: &[Vec<u8>]) -> Self {
        self.roots = Roots::new(roots);
        self
    }

    /// Who could write to `file`, on the device `dev`, from now on without opening it.
    pub(crate) fn writers(&mut self, file: &OwnedFd, dev: u64) -> Writers {
        let tells = match self.tells {
            Some((of, tells)) if of == dev => tells,
            _ => {
                let tells = sys::writers_are_known(file).unwrap_or(false);
                self.tells = Some((dev, tells));
                tells
            }
        };
        match tells {
            false => Writers::Unknown,
            true if sys::nobody_writes(file).unwrap_or(false) => Writers::None,
            true => Writers::Possible,
        }
    }

    /// The filesystem of `file`, which is on the device `dev`.
    pub(crate) fn filesystem(&self, file: &OwnedFd, dev: u64) -> &'static Filesystem {
        self.noted.0.filesystems.of(file, dev)
    }

    pub(crate) fn note(&self, id: BlobId) {
        lock(&self.noted.0.made).push(start_of(id));
    }

    /// The hash of an open file, and how many bytes it had.
    pub(crate) fn hash(
        &mut self,
        file: &OwnedFd,
        size: u64,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<(BlobId, u64)> {
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER_BYTES, 0);
        }
        let mut hashing = Hashing::new(&mut self.roots, size);
        loop {
            if stop() {
                return Err(Errno::CANCELED.into());
            }
            let count = retry_on_intr(|| pread(file, &mut self.buffer[..], hashing.offset))?;
            hashing.take(&self.buffer[..count]);
            // If another process makes the file longer now, its times show that.
            if count == 0 || (count < BUFFER_BYTES && hashing.offset == size) {
                self.mentions_root = hashing.mentions_root;
                return Ok((hashing.id(), hashing.offset));
            }
        }
    }

    /// Copies an open file into the empty file `new`, by reading all of it. Returns the hash of
    /// what was read, and how many bytes that is.
    pub(super) fn copy_and_hash(
        &mut self,
        file: &OwnedFd,
        new: &OwnedFd,
        size: u64,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<(BlobId, u64)> {
        let mut hashing = Hashing::new(&mut self.roots, size);
        self.copier.read_through(file, new, stop, |piece| hashing.take(piece))?;
        self.mentions_root = hashing.mentions_root;
        Ok((hashing.id(), hashing.offset))
    }
}

/// A content that is hashed piece by piece.
struct Hashing<'a> {
    pub(super) hasher: blake3::Hasher,
    pub(super) offset: u64,
    /// `None` if a file of this size need not be searched.
    pub(super) roots: Option<&'a mut Roots>,
    pub(super) mentions_root: bool,
}

impl<'a> Hashing<'a> {
    pub(super) fn new(roots: &'a mut Roots, size: u64) -> Self {
        let roots = roots.are_wanted(size).then_some(roots);
        Self { hasher: blake3::Hasher::new(), offset: 0, roots, mentions_root: false }
    }

    fn take(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        if let Some(roots) = &mut self.roots
            && !self.mentions_root
        {
            self.mentions_root = roots.found_in(self.offset, piece);
        }
        self.offset += piece.len() as u64;
    }

    pub(super) fn id(&self) -> BlobId {
        BlobId::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

//! L1: one file.
//!
//! Every function here makes a *new* file and fills it, and never clones onto one that has content: a clone
//! of a block-aligned source onto a longer file succeeds and keeps the old tail. A refusal is sorted by one
//! pure function ([`verdict::classify`]) into what it says about the pair of filesystems, about the file, or
//! about the moment; what it does not know it passes on as an error.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) mod sys;
pub(crate) mod verdict;

#[cfg(unix)]
pub(crate) mod copy;
#[cfg(unix)]
#[path = "reflink/unix.rs"]
pub(crate) mod imp;
#[cfg(not(unix))]
#[path = "reflink/portable.rs"]
pub(crate) mod imp;
#[cfg(unix)]
pub(crate) mod meta;

/// What became of one attempt to reflink. The outcomes are kept apart because callers must treat them
/// differently; anything else is an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReflinkOutcome {
    /// The destination is a reflink of the source.
    Cloned,
    /// This *pair of filesystems* cannot: stop trying for the batch, copy.
    Unsupported,
    /// This *file* cannot: copy this one, keep trying others.
    Refused,
    /// The source is gone: degrade for this one only, never for the batch.
    SourceVanished,
}

/// What a pair of directories can do. From [`probe`] and [`probe_between`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The outcome for a file of at least one whole block.
    pub outcome: ReflinkOutcome,
    /// What the operating system said, where it was no.
    pub error: Option<io::Error>,
    /// The name of the source's filesystem (`xfs`, `btrfs`, `ext4`, …), where it is known.
    pub source_filesystem: Option<String>,
    /// The name of the destination's filesystem.
    pub dest_filesystem: Option<String>,
}

/// Reflinks the regular file `source` to the new file `dest`, with its mode (whatever the umask), times,
/// attributes and, where that is allowed, owner.
///
/// Unless the outcome is [`Cloned`](ReflinkOutcome::Cloned), `dest` does not exist afterwards. Set-user-ID and
/// set-group-ID are kept only where the owner could be kept.
///
/// A refusal that is transient (`EAGAIN` from ZFS while the source is in an open transaction group) is
/// retried for a tenth of a second and then counts as [`Refused`](ReflinkOutcome::Refused).
///
/// # Errors
/// `dest` exists (it is left as it is), its folder does not, `source` is no regular file (a folder is
/// [`io::ErrorKind::IsADirectory`], anything else [`io::ErrorKind::InvalidInput`]; symbolic links are not followed), or the operating system reports what another method would only mask: a failing or full disk.
/// `dest` does not exist afterwards, unless it did before.
///
/// # Platforms
/// Linux: `FICLONE`, ioctl_ficlone(2). macOS: `fclonefileat` with `CLONE_NOFOLLOW`. Windows: block cloning on ReFS
/// and Dev Drive. Elsewhere the outcome is always [`Unsupported`](ReflinkOutcome::Unsupported).
pub fn try_reflink(source: impl AsRef<Path>, dest: impl AsRef<Path>) -> io::Result<ReflinkOutcome> {
    imp::try_reflink(source.as_ref(), dest.as_ref())
}

/// Makes `dest` a reflink of the regular file `source`, or a copy where that cannot be; `true` when cloned.
///
/// An existing file or symbolic link `dest` is replaced atomically: the link itself, not what it points to. Mode,
/// times and attributes arrive the same by either way, as [`try_reflink`] says.
///
/// # Errors
/// As [`try_reflink`], a folder as the source included; a source that is gone is [`io::ErrorKind::NotFound`]; a `dest` that is a directory is an error.
/// What was at `dest` is intact, and nothing else is left behind.
pub fn clonefile_or_copy(source: impl AsRef<Path>, dest: impl AsRef<Path>) -> io::Result<bool> {
    imp::clonefile_or_copy(source.as_ref(), dest.as_ref())
}

/// Clones the whole content of the open file `source` into the open file `dest`, which must be new and empty.
/// Metadata is left to the caller. [`SourceVanished`](ReflinkOutcome::SourceVanished) cannot happen.
///
/// # Errors
/// `dest` is not empty, or as [`try_reflink`]. `dest` may hold a part, and its NOCOW flag may have been
/// changed to match the source's.
///
/// # Platforms
/// Always [`Unsupported`](ReflinkOutcome::Unsupported) on macOS, which clones only into a file that does not exist yet.
pub fn reflink_file(source: &File, dest: &File) -> io::Result<ReflinkOutcome> {
    if dest.metadata()?.len() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the destination of a clone must be empty: a longer one would keep its old tail",
        ));
    }
    outcome(sys::clone_file(source, dest)).map(|(outcome, _)| outcome)
}

/// Clones `length` bytes (0: up to the source's end) from `source_offset` of `source` to `dest_offset` of `dest`,
/// replacing what is there. All three must be multiples of the filesystem's block size, but that a range may end where
/// the source ends if it also reaches the end of `dest`.
///
/// # Errors
/// As [`try_reflink`]; a misaligned range is [`Refused`](ReflinkOutcome::Refused). `dest` may hold a part.
///
/// # Platforms
/// Linux: `FICLONERANGE`, ioctl_ficlonerange(2). Windows: block cloning, cluster-aligned. Elsewhere always
/// [`Unsupported`](ReflinkOutcome::Unsupported).
pub fn clone_range(
    source: &File,
    source_offset: u64,
    length: u64,
    dest: &File,
    dest_offset: u64,
) -> io::Result<ReflinkOutcome> {
    outcome(sys::clone_range(source, source_offset, length, dest, dest_offset))
        .map(|(outcome, _)| outcome)
}

/// The name of the filesystem that `path` is on (`xfs`, `btrfs`, `ext4`, …), where it is known. Nothing is written.
#[must_use]
pub fn filesystem_name(path: impl AsRef<Path>) -> Option<String> {
    sys::filesystem_name(path.as_ref())
}

/// Whether files can be reflinked within the directory `dir`. Any doubt, such as a directory that cannot be written
/// to, counts as no; [`probe`] says why.
#[must_use]
pub fn filesystem_supports_reflink(dir: impl AsRef<Path>) -> bool {
    probe(dir).is_ok_and(|probe| probe.outcome == ReflinkOutcome::Cloned)
}

/// Tries to reflink within the directory `dir`, with a file of 64 KiB of flushed data: smaller ones prove nothing
/// (an empty file clones anywhere, btrfs keeps small ones inline, ReFS wants a whole cluster).
///
/// # Errors
/// Files cannot be made in `dir`. Nothing is left behind: the two files have unpredictable names and are removed.
pub fn probe(dir: impl AsRef<Path>) -> io::Result<Probe> {
    probe_between(&dir, &dir)
}

/// Tries to reflink from `source` into the directory `dest`. Where `source` is a file, or a directory that cannot be
/// written to, a file that is there is cloned and only read; else one is made in it for the time of the call.
///
/// # Errors
/// As [`probe`].
pub fn probe_between(source: impl AsRef<Path>, dest: impl AsRef<Path>) -> io::Result<Probe> {
    let (source, dest) = (source.as_ref(), dest.as_ref());
    let (outcome, error) = imp::probe(source, dest)?;
    Ok(Probe {
        outcome,
        error,
        source_filesystem: sys::filesystem_name(source),
        dest_filesystem: sys::filesystem_name(dest),
    })
}

/// Sorts the result of a clone call.
fn outcome(result: io::Result<()>) -> io::Result<(ReflinkOutcome, Option<io::Error>)> {
    use verdict::Verdict;
    match result {
        Ok(()) => Ok((ReflinkOutcome::Cloned, None)),
        Err(error) => match verdict::classify(&error) {
            Verdict::Filesystem => Ok((ReflinkOutcome::Unsupported, Some(error))),
            Verdict::File | Verdict::Retry => Ok((ReflinkOutcome::Refused, Some(error))),
            Verdict::Fatal => Err(error),
        },
    }
}

/// A name that nobody can predict, hidden, and recognisable as calve's.
pub(crate) fn temporary_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!(".calve-tmp-{:016x}", RandomState::new().build_hasher().finish())
}

/// How long transient refusals are waited for, together, in one operation.
#[derive(Debug)]
pub(crate) struct Patience(std::sync::atomic::AtomicU64);

impl Patience {
    pub(crate) fn new(total: std::time::Duration) -> Self {
        Self(u64::try_from(total.as_micros()).unwrap_or(u64::MAX).into())
    }

    /// Makes `call` until it is not transiently refused, or patience is at its end.
    pub(crate) fn retry(&self, mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        let mut pause = 1000;
        loop {
            let result = call();
            let Err(error) = &result else { return result };
            if verdict::classify(error) != verdict::Verdict::Retry {
                return result;
            }
            let left = self.0.load(Relaxed);
            if left == 0 {
                return result;
            }
            let wait = left.min(pause);
            // Others may have spent the rest meanwhile: below zero would be for ever.
            let _ = self.0.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wait)));
            std::thread::sleep(std::time::Duration::from_micros(wait));
            pause = (pause * 2).min(100_000);
        }
    }
}

//! L1: reflinks one file.
//!
//! Every function here makes a *new* file and fills it. It never clones onto a file that has
//! content: a clone of a block-aligned source onto a longer file succeeds and keeps the old tail.
//! One pure function ([`verdict::classify`]) sorts refusals: a refusal is about the pair of
//! filesystems, about the file, or about the moment. An error that the function does not know goes
//! to the caller.

use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) mod filesystem;
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
#[cfg(unix)]
pub(crate) mod refusal;
#[cfg(unix)]
pub(crate) mod rights;

/// The result of one attempt to reflink. Callers must treat these outcomes differently. Anything
/// else is an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReflinkOutcome {
    /// The destination is a reflink of the source.
    Cloned,
    /// This *pair of filesystems* cannot reflink: stop trying for the whole batch, and copy.
    Unsupported,
    /// This *file* cannot be reflinked: copy it, and keep trying others.
    Refused,
    /// The source is gone: this concerns only this file, never the batch.
    SourceVanished,
}

/// The result of a test of two directories. From [`probe`] and [`probe_between`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The outcome for a file of at least one whole block.
    pub outcome: ReflinkOutcome,
    /// The error of the operating system, if it refused.
    pub error: Option<io::Error>,
    /// The name of the source's filesystem (`xfs`, `btrfs`, `ext4`, …), if it is known.
    pub source_filesystem: Option<String>,
    /// The name of the destination's filesystem.
    pub dest_filesystem: Option<String>,
}

/// Reflinks the regular file `source` to the new file `dest`, with its mode (whatever the umask
/// is), times, attributes and, if allowed, owner.
///
/// Unless the outcome is [`Cloned`](ReflinkOutcome::Cloned), `dest` does not exist afterwards.
/// `dest` has set-user-ID and set-group-ID only if it could keep the owner.
///
/// A refusal may be transient (`EAGAIN` from ZFS while the source is in an open transaction group).
/// calve tries again for a tenth of a second. After that the refusal counts as
/// [`Refused`](ReflinkOutcome::Refused).
///
/// # Errors
/// `dest` exists (and stays as it is), or its folder does not exist; `source` is no regular file (a
/// folder is [`io::ErrorKind::IsADirectory`], anything else [`io::ErrorKind::InvalidInput`]; calve
/// does not follow symbolic links); or the operating system reports an error that another method
/// would only hide: a failing or full disk. `dest` does not exist afterwards, unless it did before.
///
/// # Platforms
/// Linux: `FICLONE`, ioctl_ficlone(2). macOS: `fclonefileat` with `CLONE_NOFOLLOW`. Windows: block
/// cloning on ReFS and Dev Drive. Elsewhere the outcome is always
/// [`Unsupported`](ReflinkOutcome::Unsupported).
pub fn try_reflink(source: impl AsRef<Path>, dest: impl AsRef<Path>) -> io::Result<ReflinkOutcome> {
    imp::try_reflink(source.as_ref(), dest.as_ref())
}

/// Makes `dest` a reflink of the regular file `source`, or else a copy. Returns whether it is a
/// reflink.
///
/// Replaces an existing file or symbolic link `dest` atomically: the link itself, not its target.
/// Mode, times and attributes are the same in both cases, as [`try_reflink`] says.
///
/// # Errors
/// Those of [`try_reflink`], also if the source is a folder. If the source is gone, the error is
/// [`io::ErrorKind::NotFound`]. If another process wrote to the source each time calve copied it,
/// the error is [`io::ErrorKind::ResourceBusy`] (Unix; a reflink is of one moment). A `dest` that
/// is a directory is an error. The old `dest` is intact
/// after an error, and nothing else is left behind.
pub fn clonefile_or_copy(source: impl AsRef<Path>, dest: impl AsRef<Path>) -> io::Result<bool> {
    imp::clonefile_or_copy(source.as_ref(), dest.as_ref())
}

/// Clones the whole content of the open file `source` into the open file `dest`, which must be new
/// and empty. The caller sets the metadata. [`SourceVanished`](ReflinkOutcome::SourceVanished)
/// cannot happen.
///
/// # Errors
/// `dest` is not empty, or those of [`try_reflink`]. After an error, `dest` may hold a part of the
/// content, and may have the NOCOW flag of the source.
///
/// # Platforms
/// Always [`Unsupported`](ReflinkOutcome::Unsupported) on macOS, which clones only into a file that
/// does not exist yet.
pub fn reflink_file(source: &File, dest: &File) -> io::Result<ReflinkOutcome> {
    if dest.metadata()?.len() != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the destination of a clone must be empty: a longer one would keep its old tail",
        ));
    }
    outcome(sys::clone_file(source, dest)).map(|(outcome, _)| outcome)
}

/// Clones `length` bytes (0: up to the source's end) from `source_offset` of `source` to
/// `dest_offset` of `dest`, and replaces the bytes there. All three must be multiples of the
/// filesystem's block size, with one exception: a range may end at the source's end if it also
/// reaches the end of `dest`.
///
/// # Errors
/// Those of [`try_reflink`]; a misaligned range is [`Refused`](ReflinkOutcome::Refused). `dest` may
/// hold a part.
///
/// # Platforms
/// Linux: `FICLONERANGE`, ioctl_ficlonerange(2). Windows: block cloning, cluster-aligned. Elsewhere
/// always [`Unsupported`](ReflinkOutcome::Unsupported).
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

/// The name of the filesystem of `path` (`xfs`, `btrfs`, `ext4`, …), if it is known. Writes
/// nothing.
#[must_use]
pub fn filesystem_name(path: impl AsRef<Path>) -> Option<String> {
    sys::filesystem_name(path.as_ref())
}

/// Whether files can be reflinked within the directory `dir`. If in doubt, for example because
/// nobody can write to the directory, the answer is no; [`probe`] says why.
#[must_use]
pub fn filesystem_supports_reflink(dir: impl AsRef<Path>) -> bool {
    probe(dir).is_ok_and(|probe| probe.outcome == ReflinkOutcome::Cloned)
}

/// Tries to reflink within the directory `dir`, with a file of 64 KiB of flushed data. A smaller
/// file proves nothing: an empty file clones anywhere, btrfs keeps small files inline, and ReFS
/// needs a whole cluster.
///
/// # Errors
/// calve cannot make files in `dir`. Nothing is left behind: the two files have unpredictable
/// names, and calve removes them.
pub fn probe(dir: impl AsRef<Path>) -> io::Result<Probe> {
    probe_between(&dir, &dir)
}

/// Tries to reflink from `source` into the directory `dest`. If `source` is a file, or a directory
/// that calve cannot write to, it clones an existing file and only reads it. Otherwise it makes a
/// file in `source` for the time of the call.
///
/// # Errors
/// Those of [`probe`].
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

/// A name that nobody can predict. It is hidden, and shows that it belongs to calve.
pub(crate) fn temporary_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!(".calve-tmp-{:016x}", RandomState::new().build_hasher().finish())
}

/// How long one operation waits for transient refusals, all together.
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
            // Other threads may have spent the rest. A number below zero would mean "for ever".
            let _ = self.0.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(wait)));
            std::thread::sleep(std::time::Duration::from_micros(wait));
            pause = (pause * 2).min(100_000);
        }
    }
}

/// A regular file of at least `least_bytes`, near the top of `dir`, that can be opened.
fn some_file_below<F>(
    dir: &Path,
    least_bytes: u64,
    open: impl Fn(&Path) -> Option<F>,
) -> Option<F> {
    let mut dirs = std::collections::VecDeque::from([dir.to_owned()]);
    let mut seen = 0;
    while let Some(dir) = dirs.pop_front() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            seen += 1;
            if seen > 10_000 {
                return None;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                dirs.push_back(entry.path());
            } else if kind.is_file()
                && entry.metadata().is_ok_and(|meta| meta.len() >= least_bytes)
                && let Some(file) = open(&entry.path())
            {
                return Some(file);
            }
        }
    }
    None
}

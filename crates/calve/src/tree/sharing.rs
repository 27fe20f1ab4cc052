//! Clones files into a place (a destination, a store) with the platform's call, and remembers how
//! the filesystem answered.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::tally::Because;
use super::verdicts::{KnownClones, Verdicts};
use crate::reflink::copy::{have_same_bytes, have_same_sample};
use crate::reflink::filesystem::Filesystems;
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::Meta;
use crate::reflink::verdict::Verdict;
use crate::reflink::{Patience, sys};

/// What calve learned of clones into a place.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    verdicts: Verdicts,
    /// Whether the filesystem reports success and clones less than the whole file.
    short: OnceLock<bool>,
}

/// A file that calve is about to make.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFile<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    /// The file, open and empty. `None` if cloning makes the file ([`sys::CLONE_MAKES_THE_FILE`]).
    pub(crate) open: Option<&'a OwnedFd>,
}

/// The result of an attempt to clone.
#[derive(Debug)]
pub(crate) enum Tried {
    Cloned,
    /// The file is still empty, or still does not exist.
    No(Because, Option<io::Error>),
}

impl NewFile<'_> {
    /// Opens the file that a clone has made.
    pub(crate) fn reopen(&self) -> rustix::io::Result<OwnedFd> {
        fs::openat(self.dir, self.name, SOURCE_FLAGS, Mode::empty())
    }
}

fn stat(file: &OwnedFd) -> io::Result<Meta> {
    Ok(Meta::of_file(file)?)
}

/// Looks whether the clone `new` has the content of `source`, whole or a sample of it. Returns
/// whether that is certain: a file that this process may not read is not looked at.
///
/// # Errors
/// `EOPNOTSUPP` if not: the system said that it cloned, and did not. `EAGAIN` if the source changed
/// meanwhile. `EINVAL` if all of it must be looked at and cannot be. The new file is empty, or gone.
fn prove(
    source: &OwnedFd,
    from: &Meta,
    new: NewFile<'_>,
    whole: bool,
    stopped: &impl Fn() -> bool,
) -> io::Result<bool> {
    let look = |clone: &OwnedFd| match whole {
        true => have_same_bytes(source, clone, stopped),
        false => have_same_sample(source, clone),
    };
    let refusal = match new.reopen() {
        Ok(clone) => match look(&clone)? {
            true => return Ok(true),
            false if stat(source)?.is_still(from) => Errno::OPNOTSUPP,
            false => Errno::AGAIN,
        },
        Err(Errno::ACCESS) if !whole => return Ok(false),
        Err(Errno::ACCESS) => Errno::INVAL,
        Err(errno) => return Err(errno.into()),
    };
    match new.open {
        Some(open) => fs::ftruncate(open, 0)?,
        None => fs::unlinkat(new.dir, new.name, AtFlags::empty())?,
    }
    Err(refusal.into())
}

impl Sharing {
    /// What calve knows of clones from a device.
    pub(crate) fn known(&self, dev: u64) -> KnownClones {
        self.verdicts.known(dev)
    }

    /// Clones the open file `source`. If `new` is not open, the clone makes it, with the source's
    /// mode, times and attributes.
    ///
    /// # Errors
    /// An error after which calve must not copy; `ECANCELED` if `stopped` returns true.
    pub(crate) fn try_clone(
        &self,
        source: &OwnedFd,
        from: &Meta,
        new: NewFile<'_>,
        (patience, filesystems): (&Patience, &Filesystems),
        stopped: impl Fn() -> bool,
    ) -> io::Result<Tried> {
        let (known, on) = (self.known(from.dev), filesystems.of(source, from.dev));
        // An empty file has no blocks to share. But as long as nothing is known, cloning it tells
        // at no cost whether clones work.
        if from.size == 0 && on.sizes && new.open.is_some() && known.works {
            return Ok(Tried::Cloned);
        }
        let mut looked_at = Some(*from);
        let cloned = patience.retry(|| {
            // A cancelled operation must not wait until the patience ends.
            if stopped() {
                return Err(Errno::CANCELED.into());
            }
            // What is tried again may have changed.
            let from = looked_at.take().map_or_else(|| stat(source), Ok)?;
            match new.open {
                None => sys::clone_at(source, new.dir, new.name)?,
                Some(open) => {
                    sys::clone_file(source, open)?;
                    let may_be_short = || sys::clones_may_be_short(open);
                    if *self.short.get_or_init(may_be_short) && stat(open)?.size < from.size {
                        fs::ftruncate(open, 0)?;
                        let rested = stat(source)?.is_still(&from);
                        return Err(if rested { Errno::INVAL } else { Errno::AGAIN }.into());
                    }
                }
            }
            // The first clone between two filesystems is looked at, and each one where they were
            // not tested.
            if (!on.is_tested || (!known.is_proven && from.size > 0))
                && prove(source, &from, new, !on.is_tested, &stopped)?
            {
                self.verdicts.proven(from.dev);
            }
            Ok(())
        });
        Ok(match self.verdicts.judge(from.dev, cloned)? {
            None => Tried::Cloned,
            Some((Verdict::Filesystem, error)) => Tried::No(Because::Filesystem, Some(error)),
            Some((_, error)) => Tried::No(Because::File, Some(error)),
        })
    }
}

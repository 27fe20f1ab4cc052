//! Clones files into a place (a destination, a store) with the platform's call, and remembers how
//! the filesystem answered.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::tally::Because;
use super::verdicts::{Known, Verdicts};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::meta::{self, Meta};
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

impl Sharing {
    /// What calve knows of clones from a device.
    pub(crate) fn known(&self, dev: u64) -> Known {
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
        patience: &Patience,
        stopped: impl Fn() -> bool,
    ) -> io::Result<Tried> {
        // An empty file has no blocks to share. But as long as nothing is known, cloning it tells
        // at no cost whether clones work.
        if from.size == 0 && new.open.is_some() && self.known(from.dev).works {
            return Ok(Tried::Cloned);
        }
        let cloned = patience.retry(|| {
            // A cancelled operation must not wait until the patience ends.
            if stopped() {
                return Err(Errno::CANCELED.into());
            }
            let Some(open) = new.open else { return sys::clone_at(source, new.dir, new.name) };
            sys::clone_file(source, open)?;
            let short = *self.short.get_or_init(|| sys::clones_may_be_short(open));
            meta::check_length(open, from.size, short)
        });
        Ok(match self.verdicts.judge(from.dev, cloned)? {
            None => Tried::Cloned,
            Some((Verdict::Filesystem, error)) => Tried::No(Because::Filesystem, Some(error)),
            Some((_, error)) => Tried::No(Because::File, Some(error)),
        })
    }
}

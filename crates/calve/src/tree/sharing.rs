//! Clones into a place (a destination, a store) by whichever call the platform has, and remembers what they say.

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

/// What was learned of clones into a place.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    verdicts: Verdicts,
    /// Whether the filesystem says that it cloned and gives less.
    short: OnceLock<bool>,
}

/// A file that is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFile<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    /// The file, open and empty. `None` where cloning makes it ([`sys::CLONE_MAKES_THE_FILE`]).
    pub(crate) open: Option<&'a OwnedFd>,
}

/// What became of an attempt to clone.
#[derive(Debug)]
pub(crate) enum Tried {
    Cloned,
    /// The file is as empty as it was, or still not there.
    No(Because, Option<io::Error>),
}

impl NewFile<'_> {
    /// Opens the file that a clone made.
    pub(crate) fn reopen(&self) -> rustix::io::Result<OwnedFd> {
        fs::openat(self.dir, self.name, SOURCE_FLAGS, Mode::empty())
    }
}

impl Sharing {
    /// What is known of clones from a device.
    pub(crate) fn known(&self, dev: u64) -> Known {
        self.verdicts.known(dev)
    }

    /// Clones the open file `source`. Where `new` is not open the clone makes it, and brings the source's mode, times and attributes.
    ///
    /// # Errors
    /// What no copy may mask; `ECANCELED` where `stopped` says so.
    pub(crate) fn try_clone(
        &self,
        source: &OwnedFd,
        from: &Meta,
        new: NewFile<'_>,
        patience: &Patience,
        stopped: impl Fn() -> bool,
    ) -> io::Result<Tried> {
        // There is nothing to share; but where nothing is known yet, the question is free.
        if from.size == 0 && new.open.is_some() && self.known(from.dev).works {
            return Ok(Tried::Cloned);
        }
        let cloned = patience.retry(|| {
            // Nobody who wants to stop waits for patience to end.
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

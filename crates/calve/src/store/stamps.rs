//! Stamps of indexes: times of the clock that gives files their times.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{self, Mode};

use super::index::Stat;
use super::layout::{Layout, OWN};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::filesystem::Filesystems;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::Meta;
use crate::tree::staging::StagedFile;

/// The stamp of an index that vouches for nothing.
const NEVER: (i64, u32) = (i64::MIN, 0);

/// How often calve asks, once a millisecond, whether the clock has moved past the last change.
const CLOCK_TRIES: u32 = 50;

/// The clock of the filesystem of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreClock<'a>(pub(crate) Layout<'a>);

impl StoreClock<'_> {
    pub(crate) fn now(self) -> Result<(i64, u32), Error> {
        let take = || clock_in(&fs::open(self.0.stage(), DIR_FLAGS, Mode::empty())?);
        take().context(Operation::Use, || self.0.0)
    }

    /// Returns a time of the clock that is later than every change in `stats`, so that an index can
    /// trust them.
    pub(crate) fn past_all<'s>(
        self,
        stats: impl Iterator<Item = &'s Stat>,
    ) -> Result<(i64, u32), Error> {
        self.past(stats.map(|stat| stat.changed).max().unwrap_or_default())
    }

    /// The time now, but later than `last`.
    pub(crate) fn past(self, last: (i64, u32)) -> Result<(i64, u32), Error> {
        let mut now = self.now()?;
        for _ in 0..CLOCK_TRIES {
            if now > last {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            now = self.now()?;
        }
        Ok(now)
    }
}

/// The stamp of an index of the open tree `root`, if calve looks at the tree now. `ours` is one
/// of the store's clock. It holds for the tree, unless the tree's filesystem has a clock of its
/// own, or one of whole seconds. Then it is the time that a file gets which is made in `folder`,
/// on that filesystem, or else in calve's own folder of the tree, or in the tree's root. If none
/// can be made there, the index vouches for nothing.
pub(crate) fn stamp_of(
    root: &OwnedFd,
    folder: Option<&OwnedFd>,
    ours: (i64, u32),
    filesystems: &Filesystems,
) -> (i64, u32) {
    let seconds_only = |meta: &Meta| meta.changed.1 == 0 && meta.modified().1 == 0;
    let Ok(meta) = Meta::of_file(root) else { return NEVER };
    if filesystems.of(root, meta.dev).clock && !seconds_only(&meta) {
        return ours;
    }
    let own = || fs::openat(root, OWN, DIR_FLAGS | fs::OFlags::NOFOLLOW, Mode::empty());
    let taken = match (folder, own()) {
        (Some(folder), _) => clock_in(folder),
        (None, Ok(own)) => clock_in(&own),
        (None, Err(_)) => clock_in(root),
    };
    taken.unwrap_or(NEVER)
}

/// The time that a file gets which is made in this folder.
fn clock_in(folder: &OwnedFd) -> io::Result<(i64, u32)> {
    let staged = StagedFile::new(folder);
    let file = fs::openat(folder, &staged.path, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
    Ok(Stat::of(&Meta::of_file(&file)?).changed)
}

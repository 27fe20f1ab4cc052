//! Lists the names in a directory. The caller gets all of them before it works on the first one,
//! and none is missed even if others change the directory meanwhile.
//!
//! # What a listing can miss
//! POSIX leaves open whether a listing contains a name that is added or removed during the listing.
//! If a file is replaced by rename, its name is both added and removed. calve must not miss such a
//! name, because it is there all the time. btrfs misses it. btrfs numbers names as they are added,
//! and fixes the last number to list when the directory is opened or rewound. A rename gives the
//! name a new number. So a listing counts only if nothing changed from before the directory was
//! opened until after the listing's end. Otherwise calve lists the directory again.
//!
//! # How a change is noticed
//! Each change of a directory sets its ctime, under a lock that a listing takes, too. So the ctime
//! before and after says whether there was a change between. It does not if both changes came in
//! one tick of the clock that gives ctimes (10 ms at most). So calve lists a directory that changed
//! in the current tick again when the tick has passed. A directory that rested for longer costs one
//! fstat(2). On kernels since 6.13 a tick is as short as it must be, but no program can ask whether
//! that holds.
//!
//! A directory that changes during each of [`LISTINGS_MOST`] listings is [`Rest::Restless`]. calve
//! then takes the names of all listings together.

use std::collections::HashSet;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{self, FileType};
use rustix::time::{ClockId, clock_gettime};

use crate::reflink::filesystem::Filesystem;
use crate::reflink::meta::Meta;

/// How often calve lists a directory that changes each time.
const LISTINGS_MOST: usize = 10;

/// How much memory a thread keeps for the next directory's names.
const KEPT_BYTES: usize = 1 << 20;

/// Seconds and nanoseconds.
pub(crate) type Time = (i64, i64);

/// No ctime that a change gets from now on is earlier. It is earlier than the time of a clock by a
/// tick (4 to 10 ms), or by more in a virtual machine that does not run all the time.
pub(crate) fn now() -> Time {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let (clock, early) = (ClockId::RealtimeCoarse, 0);
    // On other systems nothing says which clock gives ctimes.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let (clock, early) = (ClockId::Realtime, 10_000_000);
    time_of(clock, early)
}

/// No ctime that a change has got until now is later. Since Linux 6.13 some are as exact as this.
pub(crate) fn latest() -> Time {
    time_of(ClockId::Realtime, 0)
}

fn time_of(clock: ClockId, early: i64) -> Time {
    let time = clock_gettime(clock);
    #[cfg_attr(
        target_pointer_width = "64",
        expect(clippy::useless_conversion, reason = "elsewhere it is another type")
    )]
    let nanoseconds = i64::from(time.tv_nsec) - early;
    match nanoseconds < 0 {
        true => (time.tv_sec - 1, nanoseconds + 1_000_000_000),
        false => (time.tv_sec, nanoseconds),
    }
}

/// A directory's times before it was listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    times: FolderTimes,
    /// Whether every change since the directory was opened or rewound changes its times.
    shows: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderTimes {
    changed: Time,
    modified: Time,
}

impl FolderTimes {
    fn of(meta: &Meta) -> Self {
        Self { changed: meta.changed, modified: meta.modified() }
    }

    fn now(dir: &OwnedFd) -> rustix::io::Result<Self> {
        Meta::of_file(dir).map(|meta| Self::of(&meta))
    }
}

impl Before {
    /// For a directory that was opened after `since`. `meta` was read after that.
    pub(crate) fn opened(since: Time, meta: &Meta) -> Self {
        let times = FolderTimes::of(meta);
        Self { times, shows: would_show(times.changed, since) }
    }

    /// For a directory that was opened some time ago. Rewinds it, so that the listing starts anew.
    pub(crate) fn rewound(dir: &OwnedFd) -> rustix::io::Result<Self> {
        Self::rewound_since(dir, now())
    }

    fn rewound_since(dir: &OwnedFd, since: Time) -> rustix::io::Result<Self> {
        let times = FolderTimes::now(dir)?;
        let before = Self { times, shows: would_show(times.changed, since) };
        rewind(dir)?;
        Ok(before)
    }
}

/// Whether a directory changed while it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Rest {
    /// The names are those that the directory had at one moment.
    Rested,
    /// The directory changed during each listing. A name that was there all the time may be
    /// missing.
    Restless,
}

/// Names and kinds of entries, stored one behind the other. So a directory with a million entries
/// takes little more memory than its names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// For each entry: its kind as one byte, its name, a zero byte.
    bytes: Vec<u8>,
}

impl Names {
    /// Replaces the names by those of a directory, without `.` and `..`.
    pub(crate) fn list(
        &mut self,
        dir: &OwnedFd,
        before: Before,
        buffer: &mut [MaybeUninit<u8>],
    ) -> rustix::io::Result<Rest> {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        let mut last = self.read(dir, buffer)?;
        let mut after = FolderTimes::now(dir)?;
        if before.shows && after == before.times {
            return Ok(Rest::Rested);
        }
        for _ in 1..LISTINGS_MOST {
            let since = wait_for_tick_after(after.changed);
            let before = Before::rewound_since(dir, since)?;
            let mut again = Self::default();
            last = again.read(dir, buffer)?;
            after = FolderTimes::now(dir)?;
            if before.shows && after == before.times {
                *self = again;
                return Ok(Rest::Rested);
            }
            // Where the clock is not believed, the times may go on by themselves. Then the same
            // names at a second look prove it.
            if again.are_those_of(self) && !Filesystem::of_file(dir).clock {
                *self = again;
                return Ok(Rest::Rested);
            }
            // The later listing knows the kind of an entry better.
            again.add_missing(self);
            *self = again;
        }
        let _ = self.read_behind(last, dir, buffer);
        Ok(Rest::Restless)
    }

    /// Whether both have the same names.
    fn are_those_of(&self, other: &Self) -> bool {
        let [ours, others] =
            [self, other].map(|names| names.iter().map(|(name, _)| name).collect::<HashSet<_>>());
        ours == others
    }

    fn push(&mut self, kind: FileType, name: &CStr) {
        // The kind is the four bits above the permissions in the mode.
        self.bytes.push(u8::try_from(kind.as_raw_mode() >> 12).unwrap_or(0));
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CStr, FileType)> + Clone {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (kind, tail) = rest.split_first()?;
            let name = CStr::from_bytes_until_nul(tail).ok()?;
            rest = &tail[name.to_bytes_with_nul().len()..];
            Some((name, FileType::from_raw_mode(fs::RawMode::from(*kind) << 12)))
        })
    }

    /// Keeps each name once. A union of several folders (mergerfs), or a server that was asked again,
    /// may list a name twice.
    pub(crate) fn once_each(&mut self) {
        self.add_missing(&Self::default());
    }

    /// Adds the names of `other` that are missing here. Each name is here once afterwards.
    fn add_missing(&mut self, other: &Self) {
        let mut merged = Self::default();
        let mut seen = HashSet::new();
        for (name, kind) in self.iter().chain(other.iter()) {
            if seen.insert(name) {
                merged.push(kind, name);
            }
        }
        drop(seen);
        *self = merged;
    }

    /// Adds the entries from the directory's current position on. Returns the position of its end.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn read(&mut self, dir: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> rustix::io::Result<u64> {
        let mut last = 0;
        let mut entries = fs::RawDir::new(dir, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            last = entry.next_entry_cookie();
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.push(entry.file_type(), entry.file_name());
            }
        }
        Ok(last)
    }

    /// Adds the names behind the end of the last listing of a restless directory: btrfs puts
    /// renamed entries there. calve lists only that part, so quickly that little can change
    /// meanwhile.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn read_behind(
        &mut self,
        last: u64,
        dir: &OwnedFd,
        buffer: &mut [MaybeUninit<u8>],
    ) -> rustix::io::Result<()> {
        let mut behind = Self::default();
        for _ in 0..LISTINGS_MOST {
            rewind(dir)?;
            fs::seek(dir, fs::SeekFrom::Start(last))?;
            behind.read(dir, buffer)?;
        }
        self.add_missing(&behind);
        Ok(())
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "as on Linux")]
    fn read_behind(
        &mut self,
        _: u64,
        _: &OwnedFd,
        _: &mut [MaybeUninit<u8>],
    ) -> rustix::io::Result<()> {
        Ok(())
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn read(&mut self, dir: &OwnedFd, _: &mut [MaybeUninit<u8>]) -> rustix::io::Result<u64> {
        for entry in fs::Dir::read_from(dir)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                self.push(entry.file_type(), entry.file_name());
            }
        }
        Ok(0)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn rewind(dir: &OwnedFd) -> rustix::io::Result<()> {
    fs::seek(dir, fs::SeekFrom::Start(0)).map(|_| ())
}

/// On these systems each listing opens the directory itself, so there is nothing to rewind.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(clippy::unnecessary_wraps, reason = "as elsewhere")]
fn rewind(_: &OwnedFd) -> rustix::io::Result<()> {
    Ok(())
}

/// Whether every change after `since` gives a directory or file another ctime than `changed`, which
/// was read after `since`.
pub(crate) fn would_show(changed: Time, since: Time) -> bool {
    /// A ctime that is further ahead than this is from before the clock was set back, or from a
    /// server whose clock is ahead.
    const AHEAD: i128 = 100_000_000;
    let nanoseconds =
        |(seconds, nanoseconds)| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    changed < since || nanoseconds(changed) - nanoseconds(now()) > AHEAD
}

/// Waits until a change would get another ctime than `changed`. Returns the time of the clock then.
pub(crate) fn wait_for_tick_after(changed: Time) -> Time {
    loop {
        let since = now();
        if would_show(changed, since) {
            return since;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_wait_a_change_has_a_later_time_than_all_changes_before() {
        let dir = tempfile::tempdir().unwrap();
        let changed = |name: &str| {
            std::fs::write(dir.path().join(name), name).unwrap();
            Meta::of(&fs::stat(dir.path().join(name)).unwrap()).changed
        };
        for round in 0..20 {
            let before = changed("before");
            let latest = latest();
            let since = wait_for_tick_after(latest);
            let after = changed(&format!("after {round}"));
            assert!(before <= latest, "{before:?} {latest:?}");
            assert!(latest < since && since <= after, "{latest:?} {since:?} {after:?}");
        }
    }
}

//! Decides which entries of a cloned index may record their clones' stat. A wrong decision would
//! make git call a changed file clean.
//!
//! git takes a file for unchanged, without reading it, if the entry records the file's present
//! stat. So an entry may record the stat of a clone only if the clone has the content that the
//! entry names. That is so if all of this holds:
//!
//! 1. **The entry was clean in the source and not racy.** It records the source's stat as it is
//!    *after* the clone was made, and it records times before the index was written. Then git
//!    itself would not read the source's file.
//! 2. **Nothing happened to the source's file since before the walk began.** Its change time is of
//!    an earlier tick of the clock. So the walk read the content that the index names, and no mix
//!    of two contents.
//! 3. **The clone was made by this walk**, and is the source's twin: it changed after the walk
//!    began, and its type, mode, size and modification time are the source's. In a merge, a file
//!    that was kept or left out is no such clone. It may have changed just before the walk, in
//!    the same tick of the clock. So a merge waits that tick out first.
//!
//! A tree that was made of a snapshot has no walk over a source. Then the snapshot's record of the
//! project's file takes the place of the source's stat: its inode number and change time, and the
//! moment when the snapshot began. If the entry records the same, both mean the same content, even
//! if the file has changed since. Nobody else can have put a file into such a tree, and its files
//! may be older than the start.
//!
//! calve looks at the source after the walk. No program can set a change time, and each change
//! moves it. So a file that has the recorded change time now has had it ever since git looked. If
//! the clock is set back, a later change gets an earlier time. That is not the recorded time
//! either, except by a coincidence of nanoseconds. If the clock is set back during the walk, the
//! clone seems older than the walk, and the third condition fails.
//!
//! Some programs record no nanoseconds. calve then compares seconds, and an entry is racy for the
//! whole second. It does not compare devices, because git does not: they change with each mount.
//!
//! An entry that stays as it is records another file. git reads the clone then, since it compares
//! the inode number; with `core.checkStat=minimal` it does not. So if the clone's size and seconds
//! are those that the entry records, the entry must make git read the file ([`mistaken`]).
//!
//! git's own weakness remains. If git calls a changed file of the source clean, it may do so in the
//! clone, too: the file changed twice in one tick of the clock, git looked in between, and the size
//! stayed the same. Most builds of git compare seconds. So git does not see an edit in the clone
//! that keeps the size, restores the modification time, and happens in the second in which the
//! clone was made. The same holds for each file in the second in which git itself refreshes an
//! index. Before a tree is deleted, [`is_of_that_second`] finds such files, whose content is then
//! compared.

use rustix::fs::FileType;

use super::format::Recorded;
use crate::reflink::meta::Meta;
use crate::tree::listing::Time;

const GIT_TYPE: u32 = 0o170_000;
const GIT_FILE: u32 = 0o100_000;
const GIT_LINK: u32 = 0o120_000;
const OWNER_RUNS: u32 = 0o100;

/// The moments that the rule compares times with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moments {
    /// The modification time of the index in the source: when git wrote it.
    pub(super) index_written: Time,
    /// A moment before the walk began.
    pub(super) before_walk: Time,
    /// A file of the clone that changed at this time or later was made by the walk.
    pub(super) cloned_since: Time,
}

/// The stat that the entry gets. `None` if the entry stays as it is. `modified` is the modification
/// time that the clone got: the source's, or the one that a snapshot gives it.
pub(super) fn rewritten(
    recorded: Recorded,
    source: &Meta,
    (clone, modified): (&Meta, Time),
    moments: Moments,
) -> Option<Recorded> {
    let clean = is_clean(recorded, source, moments.index_written);
    let rested = has_rested(source, moments.before_walk);
    let twin = clone.changed >= moments.cloned_since
        && clone.mode == source.mode
        && clone.size == source.size
        && clone.modified() == modified;
    (clean && rested && twin).then(|| of_file(recorded, clone))
}

/// The stat that an entry gets whose file was replaced with its twin `from` in another working tree
/// of the repository, or got the twin's time, at `since` or later. `now` is the file. The caller
/// knows that both had the content that the entry names. `None` if the entry stays as it is.
pub(super) fn moved(recorded: Recorded, from: &Meta, now: &Meta, since: Time) -> Option<Recorded> {
    let is_twin = is_of_that_kind(recorded.mode, now)
        && now.changed >= since
        && now.size == from.size
        && now.modified() == from.modified();
    is_twin.then(|| of_file(recorded, now))
}

/// The entry of a file that nothing vouches for, in an index that is written again. `None` if git
/// reads the file anyway, or need not read it.
///
/// git reads a file whose recorded time is not older than the index. The new index is newer, so git
/// would no longer do so. A size of zero makes git read the file; git itself writes it for that
/// purpose. Most builds of git compare seconds.
pub(super) fn doubted(recorded: Recorded, index_written: Time) -> Option<Recorded> {
    let racy = u64::from(recorded.modified.0) >= u64::from(cut(index_written.0.cast_unsigned()));
    racy.then(|| without_size(recorded)).flatten()
}

/// The same for an entry that records another file, if git may take `file` for that one. With
/// `core.checkStat=minimal` git compares no more than the size and the seconds of the modification
/// time, and these are equal if the other file got its content within the same second.
pub(super) fn mistaken(recorded: Recorded, file: &Meta) -> Option<Recorded> {
    let is_alike =
        recorded.size == cut(file.size) && recorded.modified.0 == cut_time(file.modified()).0;
    is_alike.then(|| without_size(recorded)).flatten()
}

fn without_size(recorded: Recorded) -> Option<Recorded> {
    (recorded.size != 0).then_some(Recorded { size: 0, ..recorded })
}

/// Whether the entry vouches for the file: it is clean, and not racy.
pub(super) fn is_clean(recorded: Recorded, file: &Meta, index_written: Time) -> bool {
    is_of_that_kind(recorded.mode, file)
        && is_stat_of(recorded, file)
        && !is_racy(recorded, file, index_written)
}

/// The entry with the stat of a file that has the same content.
fn of_file(recorded: Recorded, file: &Meta) -> Recorded {
    Recorded {
        changed: cut_time(file.changed),
        modified: cut_time(file.modified()),
        dev: cut(file.dev),
        ino: cut(file.ino),
        mode: recorded.mode,
        uid: file.uid,
        gid: file.gid,
        size: recorded.size,
    }
}

/// Whether nothing happened to a file since before this time.
pub(super) fn has_rested(file: &Meta, before: Time) -> bool {
    file.changed < before && file.modified() < before
}

/// Whether the file is of the kind that the entry's mode says: a symbolic link, or a regular file
/// that is executable or not.
pub(super) fn is_of_that_kind(mode: u32, file: &Meta) -> bool {
    match mode & GIT_TYPE {
        GIT_FILE => {
            file.file_type() == FileType::RegularFile && (mode ^ file.mode) & OWNER_RUNS == 0
        }
        GIT_LINK => file.file_type() == FileType::Symlink,
        // The entry is a submodule, or a directory of a sparse index.
        _ => false,
    }
}

fn is_stat_of(recorded: Recorded, file: &Meta) -> bool {
    let (changed, modified) = (cut_time(file.changed), cut_time(file.modified()));
    let same_times = match in_seconds(recorded) {
        true => recorded.changed.0 == changed.0 && recorded.modified.0 == modified.0,
        false => recorded.changed == changed && recorded.modified == modified,
    };
    same_times
        && recorded.ino == cut(file.ino)
        && recorded.uid == file.uid
        && recorded.gid == file.gid
        && recorded.size == cut(file.size)
}

/// Whether the entry records a change in this second (since 1970) or later.
pub(super) fn is_since(recorded: Recorded, second: i64) -> bool {
    i64::from(recorded.changed.0) >= second
}

/// Whether the file may be another than the one that the entry records, although git, which
/// compares whole seconds, sees no difference. git has compared the inode's number.
pub(super) fn is_of_that_second(recorded: Recorded, file: &Meta) -> bool {
    let (changed, modified) = (cut_time(file.changed), cut_time(file.modified()));
    let same_seconds = recorded.changed.0 == changed.0 && recorded.modified.0 == modified.0;
    same_seconds && (recorded.changed.1, recorded.modified.1) != (changed.1, modified.1)
}

/// Whether the file may have changed after git looked and still have the same times. `file` has the
/// recorded times.
fn is_racy(recorded: Recorded, file: &Meta, index_written: Time) -> bool {
    let last = file.changed.max(file.modified());
    match in_seconds(recorded) {
        true => last.0 >= index_written.0,
        false => last >= index_written,
    }
}

/// Whether the program that recorded the entry leaves out nanoseconds.
fn in_seconds(recorded: Recorded) -> bool {
    recorded.changed.1 == 0 && recorded.modified.1 == 0
}

#[expect(clippy::cast_possible_truncation, reason = "an index has 32 bits for each number")]
pub(super) fn cut(number: u64) -> u32 {
    number as u32
}

fn cut_time((seconds, nanoseconds): Time) -> (u32, u32) {
    (cut(seconds.cast_unsigned()), cut(nanoseconds.cast_unsigned()))
}

//! Answers of the other Unix systems for features that only Linux has.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{Extent, Overwrites};

/// The file mode creation mask belongs to the whole process.
pub(crate) fn private_umask() -> bool {
    false
}

/// A clone on these systems is whole or fails.
pub(crate) fn clones_may_be_short(_dir: impl AsFd) -> bool {
    false
}

/// calve knows nothing about this system's filesystems.
pub(crate) fn overwrites(_file: impl AsFd) -> io::Result<Overwrites> {
    Ok(Overwrites::MaybeInPlace)
}

/// See [`overwrites`].
pub(crate) fn shared_blocks(_file: impl AsFd) -> io::Result<Option<Vec<(u64, u64, u64)>>> {
    Ok(None)
}

/// See [`overwrites`].
pub(crate) fn extents(
    _file: impl AsFd,
    _flush: bool,
    _each: impl FnMut(Extent) -> bool,
) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// See [`overwrites`].
pub(crate) fn never_shares(_file: impl AsFd) -> bool {
    false
}

/// No call lets two existing files share blocks.
pub(crate) fn dedupe(
    _source: impl AsFd,
    _dest: impl AsFd,
    _offset: u64,
    _length: u64,
) -> io::Result<u64> {
    Err(Errno::OPNOTSUPP.into())
}

/// Locks of ranges belong to the whole process, so one process cannot try them.
pub(crate) fn range_locks_hold(_one: impl AsFd, _other: impl AsFd) -> io::Result<bool> {
    Ok(true)
}

/// Priorities belong to the whole process.
pub(crate) fn lowest_thread_priority() {}

/// calve does not know who has a file open.
pub(crate) fn writers_are_known(_file: impl AsFd) -> io::Result<bool> {
    Ok(false)
}

/// See [`writers_are_known`].
pub(crate) fn nobody_writes(_file: impl AsFd) -> io::Result<bool> {
    Err(Errno::OPNOTSUPP.into())
}

/// See [`writers_are_known`].
pub(crate) fn write_back(_file: impl AsFd) -> bool {
    false
}

/// They are marked one by one.
pub(crate) fn mark_all_close_on_exec() -> bool {
    false
}

/// Only a flush does it.
pub(crate) fn write_back_all(_files: &[std::os::fd::OwnedFd]) -> bool {
    false
}

/// All directories of a filesystem treat case in the same way.
pub(crate) fn ignores_case(_dir: impl AsFd) -> bool {
    false
}

/// There is no btrfs, so there are no subvolumes, and no snapshots of them.
pub(crate) fn is_subvolume(_dir: impl AsFd, _ino: u64) -> bool {
    false
}

/// See [`is_subvolume`].
pub(crate) fn has_nested_subvolumes(_dir: impl AsFd) -> io::Result<bool> {
    Ok(false)
}

/// See [`is_subvolume`].
pub(crate) fn snapshot(_source: impl AsFd, _parent: impl AsFd, _name: &CStr) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// There are no subvolumes to make.
pub(crate) fn create_subvolume(_parent: impl AsFd, _name: &CStr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives the thread the lowest priority for the processors. No portable call covers the disk.
pub(crate) fn lowest_priority() {
    let _ = rustix::process::nice(19);
}

/// There are no subvolumes to delete.
pub(crate) fn delete_subvolume(_parent: impl AsFd, _name: &CStr) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There are no subvolumes to ask about.
pub(crate) fn last_change(_dir: impl AsFd) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There are no subvolumes, so nobody has this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubvolumeState {
    pub(crate) id: u64,
    pub(crate) last_change: u64,
    pub(crate) committed: u64,
}

/// See [`last_change`].
pub(crate) fn subvolume_state(_dir: impl AsFd) -> io::Result<SubvolumeState> {
    Err(io::ErrorKind::Unsupported.into())
}

/// See [`last_change`].
pub(crate) fn snapshot_made(_dir: impl AsFd) -> io::Result<Option<(i64, i64)>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// See [`last_change`].
pub(crate) fn snapshot_source(_dir: impl AsFd) -> io::Result<Option<[u8; 16]>> {
    Err(io::ErrorKind::Unsupported.into())
}

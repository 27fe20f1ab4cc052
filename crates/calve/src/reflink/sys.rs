//! The clone calls of each platform, and the other system calls that need `unsafe`. No other file
//! uses `unsafe`.
//!
//! | feature | since | used for | without it |
//! |---|---|---|---|
//! | `FIDEDUPERANGE` | Linux 4.5 | `reshare` | nothing is shared |
//! | `FS_IOC_FIEMAP` | Linux 2.6.28 | who shares which blocks | allocated blocks alone count |
//! | `FICLONE`, `FICLONERANGE` | Linux 4.5 (btrfs' own since 2.6.29) | every clone | copy |
//! | `unshare(CLONE_FS)` + `umask(0)` | Linux 2.6.16 | modes without a `chmod` for each file | `fchmod` after every create |
//! | `unshare(CLONE_NEWNS)`, with `CLONE_NEWUSER` where that needs no privilege | Linux 3.8 | a worktree at the project's path | refused, with the reason |
//! | `F_SETLEASE`, `F_SETSIG` | Linux 2.4 | whether another process could write to a file that the store takes in | clone before reading; the index does not vouch |
//! | `sync_file_range` | Linux 2.6.17 | after it, a store to a mapped page shows in the times | the index does not vouch |
//! | `renameat2(RENAME_NOREPLACE, RENAME_EXCHANGE)` | Linux 3.15 | publishing | `mkdir` + rename over it; rename aside, rename in, undo |
//! | `statx` `STATX_ATTR_MOUNT_ROOT` | Linux 5.8 | never deleting across mounts | refuse wherever `st_dev` changes |
//! | `BTRFS_IOC_SNAP_CREATE_V2` | Linux 2.6.37 | whole subvolumes in constant time | walk |
//! | `BTRFS_IOC_SUBVOL_CREATE` | Linux 2.6.29 | ready trees | clone file by file |
//! | `BTRFS_IOC_SNAP_DESTROY` | Linux 2.6.32, unprivileged by a mount option | deleting a subvolume at once | walk |
//! | `BTRFS_IOC_GET_SUBVOL_INFO` | Linux 4.18 | whether a ready tree was written to | clone file by file |
//! | `BTRFS_IOC_GET_SUBVOL_ROOTREF` | Linux 4.18 | seeing nested subvolumes | walk |
//! | `fclonefileat`, `CLONE_NOFOLLOW` | macOS 10.12 (APFS) | every clone | copy |
//! | `FSCTL_DUPLICATE_EXTENTS_TO_FILE` | Windows Server 2016 (ReFS) | every clone | copy |

/// Where a filesystem writes the new bytes if a program overwrites blocks of a file.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android")),
    expect(dead_code, reason = "elsewhere nothing is known")
)]
pub(crate) enum Overwrites {
    /// Into new blocks.
    NewBlocks,
    /// Into new blocks if another file has the blocks, too; in place otherwise.
    NewBlocksWhereShared,
    /// In place, or calve does not know.
    MaybeInPlace,
}

/// A piece of a file.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Its start in the file, and its length there, in bytes.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) place: Place,
    /// Whether another file has it, or the same file has it twice.
    pub(crate) is_shared: bool,
    /// Whether it is allocated and reads as zeros.
    pub(crate) is_unwritten: bool,
}

/// The place of a piece of a file on the disk.
#[cfg(unix)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android")),
    expect(dead_code, reason = "elsewhere nothing is known")
)]
pub(crate) enum Place {
    /// At this address, with the length of the piece.
    At(u64),
    /// At this address, but compressed. It is shorter than the piece, and the system does not say
    /// how long it is.
    Encoded(u64),
    /// In the inode's own metadata.
    Inline,
    /// Not on the disk yet.
    Nowhere,
}

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{Limit, close_written, soft_limit};
#[cfg(unix)]
#[cfg_attr(not(feature = "store"), expect(unused_imports, reason = "the store needs it"))]
pub(crate) use unix::{inherit_streams_only, keep_answers_of_children};

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use linux::*;

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
mod plain;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
pub(crate) use plain::*;

#[cfg(target_vendor = "apple")]
mod apple;
#[cfg(target_vendor = "apple")]
pub(crate) use apple::*;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::*;

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple", windows)))]
mod other;
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    windows
)))]
pub(crate) use other::*;

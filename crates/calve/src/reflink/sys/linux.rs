//! Linux: `ioctl_ficlone(2)`, `ioctl_ficlonerange(2)`, and btrfs' snapshot ioctls
//! (`linux/btrfs.h`).

#![expect(unsafe_code, reason = "ioctls and calls that rustix does not wrap, and unshare(2)")]

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, IFlags, Mode};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode};

use super::super::imp::NEW_FILE_FLAGS;
use super::super::meta::{self, Attrs, Created, Meta};
use super::super::verdict::Verdict;
use super::{Extent, Overwrites, Place};

/// A clone fills a file that the caller made. Only the build that tests the other way differs
/// (`scripts/test --clone-at`).
pub(crate) const CLONE_MAKES_THE_FILE: bool = cfg!(calve_clone_at);

/// errno → verdict, for the clone ioctls, for `link(2)` and for snapshots.
///
/// `EINVAL` is mostly about one file: a NOCOW or checksum flag that differs, `RLIMIT_FSIZE`
/// (fs/remap_range.c). `ENOTTY` means that the filesystem or the kernel does not know the call.
/// `EIO` is a failed writeback: a copy could read stale or zero bytes and succeed.
pub(crate) const TABLE: &[(i32, Verdict)] = &[
    (libc::EOPNOTSUPP, Verdict::Filesystem),
    (libc::ENOTTY, Verdict::Filesystem),
    (libc::ENOSYS, Verdict::Filesystem),
    (libc::EXDEV, Verdict::Filesystem),
    (libc::EPERM, Verdict::File),
    (libc::EACCES, Verdict::File),
    (libc::EINVAL, Verdict::File),
    (libc::ETXTBSY, Verdict::File),
    (libc::EMLINK, Verdict::File),
    (libc::EOVERFLOW, Verdict::File),
    (libc::EAGAIN, Verdict::Retry),
    (libc::EINTR, Verdict::Retry),
    (libc::EIO, Verdict::Fatal),
    (libc::ENOSPC, Verdict::Fatal),
    (libc::EDQUOT, Verdict::Fatal),
    (libc::ENOMEM, Verdict::Fatal),
    (libc::EFBIG, Verdict::Fatal),
    (libc::EROFS, Verdict::Fatal),
    (libc::EBADF, Verdict::Fatal),
    (libc::EISDIR, Verdict::Fatal),
];

/// Clones the whole of `source` into `dest`, which must be new and empty. (A clone of a
/// block-aligned source onto a longer file succeeds and keeps the old tail.)
///
/// btrfs refuses if only one of the two is NOCOW (`chattr +C`, inherited from a directory). Then
/// this sets the flag of the still empty `dest` to that of the source, and tries again.
pub(crate) fn clone_file(source: impl AsFd, dest: impl AsFd) -> io::Result<()> {
    let (source, dest) = (source.as_fd(), dest.as_fd());
    #[cfg(calve_check)]
    let looked_at = crate::check::Source::look(source);
    match fs::ioctl_ficlone(dest, source) {
        Ok(()) => {}
        Err(Errno::INVAL) if match_nocow(source, dest) => fs::ioctl_ficlone(dest, source)?,
        Err(errno) => return Err(errno.into()),
    }
    #[cfg(calve_check)]
    looked_at.is_in(dest);
    Ok(())
}

/// Clones the open file `source` to the new file `name` in `dir`, with its metadata, as a whole or
/// not at all. It imitates the call of macOS by means of [`clone_file`]. Only the build with
/// [`CLONE_MAKES_THE_FILE`] uses it.
pub(crate) fn clone_at(source: impl AsFd, dir: impl AsFd, name: &CStr) -> io::Result<()> {
    let (source, dir) = (source.as_fd(), dir.as_fd());
    let new = fs::openat(dir, name, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
    let fill = || -> io::Result<()> {
        clone_file(source, &new)?;
        let (from, made) = (Meta::of_file(source)?, Meta::of_file(&new)?);
        let created = Created { owner: (made.uid, made.gid), ..meta::created_by_us(false) };
        let wanted = from.with_mode(from.mode & !0o6000);
        let attrs = Attrs::read(source)?;
        match meta::apply(&new, &wanted, attrs.as_deref(), created, None)?.is_empty() {
            true => Ok(()),
            // A clone of macOS always has the attributes of its source, so this clone is refused.
            false => Err(Errno::INVAL.into()),
        }
    };
    fill().inspect_err(|_| {
        let _ = fs::unlinkat(dir, name, AtFlags::empty());
    })
}

/// Makes the NOCOW flags equal. Returns whether they differed before and are equal now.
fn match_nocow(source: impl AsFd, dest: impl AsFd) -> bool {
    let (Ok(wanted), Ok(flags)) = (fs::ioctl_getflags(source), fs::ioctl_getflags(&dest)) else {
        return false;
    };
    if !(wanted ^ flags).contains(IFlags::NOCOW) {
        return false;
    }
    fs::ioctl_setflags(dest, (flags - IFlags::NOCOW) | (wanted & IFlags::NOCOW)).is_ok()
}

/// Clones `length` bytes (0: to the end) from `source_offset` of `source` to `dest_offset` of
/// `dest`. All three must be multiples of the filesystem's block size, except a length that ends at
/// the source's end.
pub(crate) fn clone_range(
    source: impl AsFd,
    source_offset: u64,
    length: u64,
    dest: impl AsFd,
    dest_offset: u64,
) -> io::Result<()> {
    let range = libc::file_clone_range {
        src_fd: source.as_fd().as_raw_fd().into(),
        src_offset: source_offset,
        src_length: length,
        dest_offset,
    };
    // The type of the constant is that of the C library's ioctl, which differs between libraries.
    // Its value fits both.
    #[cfg_attr(
        target_env = "gnu",
        expect(
            clippy::cast_possible_truncation,
            reason = "a 32-bit request number, in a C long here"
        )
    )]
    const OPCODE: Opcode = libc::FICLONERANGE as Opcode;
    // SAFETY: FICLONERANGE reads one `file_clone_range`, and this is one; the source's fd is
    // borrowed for the length of the call.
    unsafe {
        let call = ioctl::Setter::<OPCODE, _>::new(range);
        Ok(ioctl::ioctl(dest.as_fd(), call)?)
    }
}

/// Gives the calling thread its own file mode creation mask, 0. So modes arrive exactly, without a
/// `chmod` for each file, and the mask of the process stays as it is. Returns `false` if the kernel
/// refuses (a seccomp filter may).
///
/// Only for threads of the crate's own: from here on the thread also has its own working directory.
pub(crate) fn private_umask() -> bool {
    // SAFETY: `unshare_unsafe` is unsafe for FILES, which would give the thread its own table of
    // file descriptors; FS unshares only the umask, the root and the working directory.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) };
    if unshared.is_ok() {
        rustix::process::umask(rustix::fs::Mode::empty());
    }
    unshared.is_ok()
}

/// Gives the process a mount namespace of its own. `with_user`: and a user namespace, in which it
/// may mount; until its maps are written, its user and group are nobody.
///
/// # Errors
/// `EPERM` without `with_user`: the process may not mount. With it, `EINVAL` also means that the
/// process has threads.
#[cfg(all(feature = "store", target_os = "linux"))]
pub(crate) fn unshare_mounts(with_user: bool) -> rustix::io::Result<()> {
    use rustix::thread::UnshareFlags;
    let user = if with_user { UnshareFlags::NEWUSER } else { UnshareFlags::empty() };
    // SAFETY: see `private_umask`; a namespace has no part in what the process owns.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | user) }
}

/// Gives the calling thread, and the threads that it starts later, the lowest priority for the
/// processors, and the disk only while nobody else wants it (`ioprio_set(2)`).
pub(crate) fn lowest_priority() {
    const OF_A_THREAD: libc::c_int = 1;
    const IDLE: libc::c_int = 3 << 13;
    let _ = rustix::process::nice(19);
    // SAFETY: the call takes three numbers, and 0 stands for the calling thread.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, OF_A_THREAD, 0, IDLE) };
}

/// Like [`lowest_priority`], for one thread, on systems where a thread can have its own priority.
pub(crate) fn lowest_thread_priority() {
    lowest_priority();
}

const XFS: u32 = 0x5846_5342;
const BTRFS: u32 = 0x9123_683e;
/// ext2 and ext3 have the same number.
const EXT4: u32 = 0xef53;
const TMPFS: u32 = 0x0102_1994;

/// The name of the filesystem of `path`, by the magic numbers of statfs(2).
pub(crate) fn filesystem_name(path: &Path) -> Option<String> {
    name_of(&fs::statfs(path).ok()?, || fs::stat(path).ok().map(|it| it.st_dev))
}

/// The name of the filesystem of an open file.
pub(crate) fn filesystem_name_of(file: impl AsFd) -> Option<String> {
    name_of(&fs::fstatfs(&file).ok()?, || fs::fstat(&file).ok().map(|it| it.st_dev))
}

/// 9p tells the number of the filesystem that the host has there. But that one's files are on a
/// block device, and those of 9p have a number of no device (major 0). For btrfs this does not
/// tell: its files have such numbers, too.
fn name_of(found: &fs::StatFs, dev: impl Fn() -> Option<u64>) -> Option<String> {
    let is_on_no_device = || dev().is_some_and(|dev| fs::major(dev) == 0);
    let name = match u32::try_from(found.f_type).unwrap_or(0) {
        XFS | EXT4 if is_on_no_device() => "9p",
        XFS => "xfs",
        BTRFS => "btrfs",
        EXT4 => "ext4",
        TMPFS => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x2fc1_2fc1 => "zfs",
        0xca45_1a4e => "bcachefs",
        0x794c_7630 => "overlay",
        0xf2f5_2010 => "f2fs",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "smb",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x4d44 => "vfat",
        0x2011_bab0 => "exfat",
        0x7366_746e => "ntfs",
        0x00c3_6400 => "ceph",
        0x7461_636f => "ocfs2",
        _ => return None,
    };
    Some(name.to_owned())
}

/// Whether calve must check a clone's size: ZFS 2.2 reported short clones as success
/// (openzfs/zfs#15728).
pub(crate) fn clones_may_be_short(dir: impl AsFd) -> bool {
    fs::fstatfs(dir).is_ok_and(|stat| u32::try_from(stat.f_type) == Ok(0x2fc1_2fc1))
}

/// The number of extents that one call asks for.
const EXTENTS: u32 = 64;

/// If a file has more pieces than this, reading it is no slower.
const MOST_PIECES: usize = 1 << 16;

/// `struct fiemap` with its extents, `linux/fiemap.h`.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [FiemapExtent; EXTENTS as usize],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

/// `struct fiemap` without extents. The number of the call contains its size.
const FIEMAP: Opcode = ioctl::opcode::read_write::<[u64; 4]>(b'f', 11);

/// Where the filesystem writes an overwrite of `file`. btrfs uses new blocks unless the file is
/// NOCOW. XFS uses new blocks in place of shared or unwritten ones, and its log puts them into the
/// file after the new times (`xfs_reflink_end_cow` and `xfs_iomap_write_unwritten`, fs/xfs). Any
/// other filesystem writes in place, or calve does not know.
pub(crate) fn overwrites(file: impl AsFd) -> io::Result<Overwrites> {
    Ok(match u32::try_from(fs::fstatfs(&file)?.f_type) {
        Ok(BTRFS) if !fs::ioctl_getflags(file)?.contains(IFlags::NOCOW) => Overwrites::NewBlocks,
        Ok(XFS) => Overwrites::NewBlocksWhereShared,
        _ => Overwrites::MaybeInPlace,
    })
}

/// Whether calve can know, on the filesystem of `file`, which processes could write to a file.
///
/// It cannot if another filesystem is below (overlayfs maps the file of that one, so the overlay's
/// inode does not know of the mapping), or if other machines write (NFS).
pub(crate) fn writers_are_known(file: impl AsFd) -> io::Result<bool> {
    let kind = u32::try_from(fs::fstatfs(file)?.f_type).unwrap_or(0);
    Ok(matches!(kind, BTRFS | XFS | EXT4 | TMPFS))
}

/// Whether no process has `file`, which was opened for reading, open for writing. Fails if the
/// system does not say: the file belongs to another user, or leases are off.
///
/// The kernel grants a *read lease* (`F_SETLEASE`, fcntl(2)) only while nobody has the file open
/// for writing. A shared mapping counts, because it keeps its file open. calve gives the lease back
/// at once. If another process opens the file in between, it waits for that moment (with
/// `O_NONBLOCK` it gets `EWOULDBLOCK`), and this process gets a signal. By default that is `SIGIO`,
/// which ends a process. So calve asks for `SIGURG`, which is ignored by default.
#[expect(clippy::disallowed_methods, reason = "this is the errno of libc's own function")]
pub(crate) fn nobody_writes(file: impl AsFd) -> io::Result<bool> {
    /// `F_SETSIG`, which libc does not name everywhere.
    const SET_SIGNAL: libc::c_int = 10;
    let call = |command, argument: libc::c_int| {
        // SAFETY: these commands take a number and touch no memory of ours; the descriptor is open.
        unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, argument) == 0 }
    };
    let is_lent = call(SET_SIGNAL, libc::SIGURG)
        && call(libc::F_SETLEASE, libc::F_RDLCK)
        && call(libc::F_SETLEASE, libc::F_UNLCK);
    match io::Error::last_os_error() {
        _ if is_lent => Ok(true),
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

/// Whether a lock of a range (fcntl(2)) that the open file `one` has is refused to the open file
/// `other` of the same file.
#[expect(clippy::disallowed_methods, reason = "this is the errno of libc's own function")]
pub(crate) fn range_locks_hold(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let lock = |file: &dyn AsFd| -> io::Result<bool> {
        let range = libc::flock {
            l_type: libc::c_short::try_from(libc::F_WRLCK).unwrap_or(1),
            l_whence: 0,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the kernel reads `range`, which lives until the call returns.
        let got =
            unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const range) };
        match io::Error::last_os_error() {
            _ if got == 0 => Ok(true),
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error => Err(error),
        }
    };
    match lock(&one) {
        Ok(_) => Ok(!lock(&other)?),
        // This kernel has no locks of open files, so they say nothing about others.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(true),
        Err(error) => Err(error),
    }
}

/// Waits for a write in progress, and writes dirty pages back. After that, the first store to each
/// mapped page faults and sets the times. Returns whether that holds on this filesystem: tmpfs
/// writes nothing back, and never protects a page again after a write.
pub(crate) fn write_back(file: impl AsFd) -> bool {
    let kind = fs::fstatfs(&file).ok().and_then(|stat| u32::try_from(stat.f_type).ok());
    if !matches!(kind, Some(BTRFS | XFS | EXT4)) {
        return false;
    }
    // This takes the inode's lock, which a buffered write holds until all of it is in memory.
    let _ = fs::seek(&file, fs::SeekFrom::Hole(0));
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: it touches no memory of ours; the descriptor is open.
    unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), 0, 0, flags) == 0 }
}

/// Marks all descriptors from 3 on, so that a program that this process becomes does not have them.
/// Returns whether the kernel could: close_range(2) is of Linux 5.9, its flag of 5.11.
pub(crate) fn mark_all_close_on_exec() -> bool {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: the call touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, flag) == 0 }
}

/// Writes the content of files back, all at the same time, and waits for it. A flush of each of them
/// then finds only the log of the filesystem to write, and the first flush writes it for all.
/// Returns `false` if a content could not be written, or if the system refuses the call: a flush
/// tells why.
pub(crate) fn write_back_all(files: &[OwnedFd]) -> bool {
    let write = libc::SYNC_FILE_RANGE_WRITE;
    let wait = write | libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    [write, wait].into_iter().all(|flags| {
        // SAFETY: it touches no memory of ours; the descriptor is open.
        let sync = |file: &OwnedFd| unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
        files.iter().all(|file| sync(file) == 0)
    })
}

/// Calls `each` with the pieces of a file, in the order of their offsets, until it returns `false`.
/// Holes are no pieces. With `flush`, unwritten content is written first; without it, such a piece
/// is [`Place::Nowhere`].
pub(crate) fn extents(
    file: impl AsFd,
    flush: bool,
    mut each: impl FnMut(Extent) -> bool,
) -> io::Result<()> {
    const LAST: u32 = 1;
    /// Flags of a piece that has no place yet, or none that the system knows: `UNKNOWN`,
    /// `DELALLOC`.
    const NOWHERE: u32 = 0x2 | 0x4;
    const ENCODED: u32 = 0x8;
    /// Flags of a piece that is in the metadata: `DATA_INLINE`, `DATA_TAIL`.
    const INLINE: u32 = 0x200 | 0x400;
    const UNWRITTEN: u32 = 0x800;
    const SHARED: u32 = 0x2000;
    /// `FIEMAP_FLAG_SYNC`
    const SYNC: u32 = 1;
    let mut start = 0;
    loop {
        let mut map = Fiemap {
            start,
            length: u64::MAX - start,
            flags: if flush { SYNC } else { 0 },
            mapped: 0,
            count: EXTENTS,
            reserved: 0,
            extents: [FiemapExtent::default(); EXTENTS as usize],
        };
        // SAFETY: FS_IOC_FIEMAP reads a `fiemap`, and writes to it and to at most `count` extents
        // behind it; this is both.
        unsafe {
            let call = ioctl::Updater::<FIEMAP, _>::new(&mut map);
            ioctl::ioctl(file.as_fd(), call)?;
        }
        let found = map.extents.get(..map.mapped as usize).unwrap_or(&map.extents);
        for extent in found {
            let has = |flags| extent.flags & flags != 0;
            let place = if has(NOWHERE) {
                Place::Nowhere
            } else if has(INLINE) {
                Place::Inline
            } else if has(ENCODED) {
                Place::Encoded(extent.physical)
            } else {
                Place::At(extent.physical)
            };
            let (is_shared, is_unwritten) = (has(SHARED), has(UNWRITTEN));
            let (offset, length) = (extent.logical, extent.length);
            if !each(Extent { offset, length, place, is_shared, is_unwritten }) {
                return Ok(());
            }
        }
        match found.last() {
            Some(last) if last.flags & LAST == 0 && last.logical + last.length > start => {
                start = last.logical + last.length;
            }
            _ => return Ok(()),
        }
    }
}

/// The places of a file's content, as `(offset, place, length)` in bytes. There are none if the
/// file consists of holes. `None` if a part of the file is not shared, or if it has too many
/// pieces.
pub(crate) fn shared_blocks(file: impl AsFd) -> io::Result<Option<Vec<(u64, u64, u64)>>> {
    let mut blocks: Vec<(u64, u64, u64)> = Vec::new();
    let mut is_shared = true;
    extents(file, false, |extent| {
        // An unwritten range reads as zeros. So does the hole that a clone has there.
        if extent.is_unwritten {
            return true;
        }
        let (Place::At(physical) | Place::Encoded(physical)) = extent.place else {
            is_shared = false;
            return false;
        };
        if !extent.is_shared || blocks.len() == MOST_PIECES {
            is_shared = false;
            return false;
        }
        match blocks.last_mut() {
            Some((offset, place, length))
                if *offset + *length == extent.offset && *place + *length == physical =>
            {
                *length += extent.length;
            }
            _ => blocks.push((extent.offset, physical, extent.length)),
        }
        true
    })?;
    Ok(is_shared.then_some(blocks))
}

/// Whether no two files of the filesystem of `file` can share blocks.
pub(crate) fn never_shares(file: impl AsFd) -> bool {
    let kind = fs::fstatfs(file).ok().and_then(|stat| u32::try_from(stat.f_type).ok());
    matches!(kind, Some(EXT4 | TMPFS))
}

/// `struct file_dedupe_range` with one `file_dedupe_range_info`, `linux/fs.h`.
#[repr(C)]
struct DedupeRange {
    source_offset: u64,
    length: u64,
    count: u16,
    reserved: [u16; 3],
    dest: i64,
    dest_offset: u64,
    done: u64,
    status: i32,
    reserved_too: u32,
}

/// The struct without the info. The number of the call contains its size.
const DEDUPE: Opcode = ioctl::opcode::read_write::<[u64; 3]>(0x94, 54);

/// Lets `dest` share the blocks of `source` from `offset` on, if both have the same bytes there.
/// The kernel compares the bytes while nobody can change them. Inode and times stay. Returns the
/// number of shared bytes, 0 if the bytes differ.
pub(crate) fn dedupe(
    source: impl AsFd,
    dest: impl AsFd,
    offset: u64,
    length: u64,
) -> io::Result<u64> {
    let mut range = DedupeRange {
        source_offset: offset,
        length,
        count: 1,
        reserved: [0; 3],
        dest: dest.as_fd().as_raw_fd().into(),
        dest_offset: offset,
        done: 0,
        status: 0,
        reserved_too: 0,
    };
    // SAFETY: FIDEDUPERANGE reads a `file_dedupe_range` and `count` infos behind it, and writes to
    // the infos; this is both, and the descriptor in it is borrowed for the length of the call.
    unsafe {
        let call = ioctl::Updater::<DEDUPE, _>::new(&mut range);
        ioctl::ioctl(source.as_fd(), call)?;
    }
    match range.status {
        // `FILE_DEDUPE_RANGE_SAME`, `FILE_DEDUPE_RANGE_DIFFERS`
        0 => Ok(range.done),
        1 => Ok(0),
        error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
    }
}

/// Whether `dir` has the flag that makes a single directory ignore case (`chattr +F`: ext4, f2fs,
/// tmpfs).
pub(crate) fn ignores_case(dir: impl AsFd) -> bool {
    /// `FS_CASEFOLD_FL`, which rustix does not name.
    const CASEFOLD: IFlags = IFlags::from_bits_retain(0x4000_0000);
    fs::ioctl_getflags(dir).is_ok_and(|flags| flags.contains(CASEFOLD))
}

/// The inode number of every subvolume's root (`BTRFS_FIRST_FREE_OBJECTID`).
const SUBVOLUME_ROOT_INO: u64 = 256;

/// Whether `dir`, whose inode number is `ino`, is the root of a btrfs subvolume.
pub(crate) fn is_subvolume(dir: impl AsFd, ino: u64) -> bool {
    ino == SUBVOLUME_ROOT_INO
        && fs::fstatfs(dir).is_ok_and(|stat| u32::try_from(stat.f_type) == Ok(BTRFS))
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// Makes the writable snapshot `name` in `parent` of the subvolume whose root is `source`.
pub(crate) fn snapshot(source: impl AsFd, parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let mut args = VolArgsV2 {
        fd: source.as_fd().as_raw_fd().into(),
        transid: 0,
        flags: 0,
        unused: [0; 4],
        name: [0; 4040],
    };
    let bytes = name.to_bytes();
    args.name.get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
    #[cfg(calve_check)]
    let looked_at = crate::check::Subvolume::look();
    // SAFETY: BTRFS_IOC_SNAP_CREATE_V2 reads one `btrfs_ioctl_vol_args_v2`, and this is one; its
    // name is terminated, since no name of a directory entry has 4040 bytes.
    unsafe {
        let call = ioctl::Setter::<{ ioctl::opcode::write::<VolArgsV2>(0x94, 23) }, _>::new(args);
        ioctl::ioctl(parent.as_fd(), call)?;
    }
    #[cfg(calve_check)]
    looked_at.is_in(source, parent, name);
    Ok(())
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

impl VolArgs {
    fn named(name: &CStr) -> io::Result<Self> {
        let mut args = Self { fd: 0, name: [0; 4088] };
        let bytes = name.to_bytes();
        args.name.get_mut(..bytes.len()).ok_or(Errno::NAMETOOLONG)?.copy_from_slice(bytes);
        Ok(args)
    }
}

/// Makes the empty, writable subvolume `name` in `parent`.
pub(crate) fn create_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let args = VolArgs::named(name)?;
    // SAFETY: BTRFS_IOC_SUBVOL_CREATE reads one `btrfs_ioctl_vol_args`, and this is one; its name
    // is terminated.
    unsafe {
        let call = ioctl::Setter::<{ ioctl::opcode::write::<VolArgs>(0x94, 14) }, _>::new(args);
        Ok(ioctl::ioctl(parent.as_fd(), call)?)
    }
}

/// Deletes the subvolume `name` in `parent`, with everything in it. Fails if it contains other
/// subvolumes. Users other than root need the mount option `user_subvol_rm_allowed`.
pub(crate) fn delete_subvolume(parent: impl AsFd, name: &CStr) -> io::Result<()> {
    let args = VolArgs::named(name)?;
    // SAFETY: BTRFS_IOC_SNAP_DESTROY reads one `btrfs_ioctl_vol_args`, and this is one; its name is
    // terminated.
    unsafe {
        let call = ioctl::Setter::<{ ioctl::opcode::write::<VolArgs>(0x94, 15) }, _>::new(args);
        Ok(ioctl::ioctl(parent.as_fd(), call)?)
    }
}

/// `struct btrfs_ioctl_timespec`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SubvolumeTime {
    seconds: u64,
    nanoseconds: u32,
    padding: u32,
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolumeInfo {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuids: [[u8; 16]; 3],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    /// `ctime`, `otime`, `stime`, `rtime`
    times: [SubvolumeTime; 4],
    reserved: [u64; 8],
}

/// The information that btrfs has about the subvolume of `dir`.
fn subvolume_info(dir: impl AsFd) -> io::Result<SubvolumeInfo> {
    let mut info = SubvolumeInfo {
        treeid: 0,
        name: [0; 256],
        parent_id: 0,
        dirid: 0,
        generation: 0,
        flags: 0,
        uuids: [[0; 16]; 3],
        ctransid: 0,
        otransid: 0,
        stransid: 0,
        rtransid: 0,
        times: [SubvolumeTime::default(); 4],
        reserved: [0; 8],
    };
    // SAFETY: BTRFS_IOC_GET_SUBVOL_INFO writes one `btrfs_ioctl_get_subvol_info_args`, which may
    // hold any bytes.
    unsafe {
        let call =
            ioctl::Updater::<{ ioctl::opcode::read::<SubvolumeInfo>(0x94, 60) }, _>::new(&mut info);
        ioctl::ioctl(dir.as_fd(), call)?;
    }
    Ok(info)
}

/// The transaction of the last change inside the subvolume of `dir` (`ctransid`), even if it is not
/// committed yet. Making a snapshot of the subvolume is no change. Bytes of `write(2)` count only
/// when they are on their way to the disk: after a flush, or after a snapshot
/// (docs/design/ready.md).
pub(crate) fn last_change(dir: impl AsFd) -> io::Result<u64> {
    Ok(subvolume_info(dir)?.ctransid)
}

/// What btrfs says about whether a subvolume was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubvolumeState {
    /// No other subvolume of the filesystem ever has this number.
    pub(crate) id: u64,
    /// See [`last_change`].
    pub(crate) last_change: u64,
    /// The last transaction that wrote any block of the subvolume's tree, and that takes no further
    /// change (`generation`).
    pub(crate) committed: u64,
}

/// The state of the subvolume of `dir`. Needs no privileges.
pub(crate) fn subvolume_state(dir: impl AsFd) -> io::Result<SubvolumeState> {
    let info = subvolume_info(dir)?;
    let SubvolumeInfo { treeid: id, ctransid: last_change, generation: committed, .. } = info;
    Ok(SubvolumeState { id, last_change, committed })
}

/// The time at which the subvolume of `dir` was made as a snapshot of another one (`otime`), in
/// seconds and nanoseconds. `None` if it is no snapshot.
pub(crate) fn snapshot_made(dir: impl AsFd) -> io::Result<Option<(i64, i64)>> {
    let info = subvolume_info(dir)?;
    let [_, parent, _] = info.uuids;
    let [_, made, ..] = info.times;
    let made = (i64::try_from(made.seconds).unwrap_or(i64::MAX), made.nanoseconds.into());
    Ok((parent != [0; 16]).then_some(made))
}

/// Of which subvolume that of `dir` is a snapshot (`parent_uuid`). `None` if it is no snapshot.
pub(crate) fn snapshot_source(dir: impl AsFd) -> io::Result<Option<[u8; 16]>> {
    let [_, source, _] = subvolume_info(dir)?.uuids;
    Ok((source != [0; 16]).then_some(source))
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct RootRefArgs {
    min_treeid: u64,
    rootref: [[u64; 2]; 255],
    num_items: u8,
    align: [u8; 7],
}

/// Whether the subvolume of `dir` contains other subvolumes. A snapshot would have empty folders in
/// their places.
pub(crate) fn has_nested_subvolumes(dir: impl AsFd) -> io::Result<bool> {
    let mut args =
        RootRefArgs { min_treeid: 0, rootref: [[0; 2]; 255], num_items: 0, align: [0; 7] };
    // SAFETY: BTRFS_IOC_GET_SUBVOL_ROOTREF reads and writes one
    // `btrfs_ioctl_get_subvol_rootref_args`.
    let result = unsafe {
        let call = ioctl::Updater::<{ ioctl::opcode::read_write::<RootRefArgs>(0x94, 61) }, _>::new(
            &mut args,
        );
        ioctl::ioctl(dir.as_fd(), call)
    };
    match result {
        Ok(()) => Ok(args.num_items > 0),
        // There are more of them than one call can return.
        Err(Errno::OVERFLOW) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

const _: () = assert!(mem::size_of::<DedupeRange>() == 56);
const _: () = assert!(mem::size_of::<VolArgs>() == 4096 && mem::size_of::<SubvolumeInfo>() == 504);
const _: () = assert!(mem::size_of::<VolArgsV2>() == 4096 && mem::size_of::<RootRefArgs>() == 4096);

#[cfg(test)]
mod subvolume_tests;

#[cfg(test)]
mod tests {
    use super::super::super::verdict::classify;
    use super::*;

    #[test]
    fn a_filesystem_of_a_disk_whose_files_are_on_no_device_is_that_of_another_machine() {
        let name_on = |dev| name_of(&fs::statfs("/").unwrap(), || Some(dev)).unwrap_or_default();
        let real = name_on(fs::makedev(8, 1));
        let told = name_on(fs::makedev(0, 50));
        assert_eq!(told, if matches!(&*real, "xfs" | "ext4") { "9p" } else { &real });
    }

    #[test]
    fn each_errno_of_a_clone_has_the_verdict_of_its_known_causes() {
        for (cause, errno, expected) in [
            ("the filesystem lacks reflink", libc::EOPNOTSUPP, Verdict::Filesystem),
            (
                "the kernel or FUSE server does not know the ioctl",
                libc::ENOTTY,
                Verdict::Filesystem,
            ),
            ("an emulated kernel without it", libc::ENOSYS, Verdict::Filesystem),
            (
                "another filesystem, another ZFS dataset, an old bind mount",
                libc::EXDEV,
                Verdict::Filesystem,
            ),
            ("user namespaces, seccomp, an immutable destination", libc::EPERM, Verdict::File),
            ("LXC on ZFS, Android", libc::EACCES, Verdict::File),
            ("NOCOW against COW, RLIMIT_FSIZE, a FIFO", libc::EINVAL, Verdict::File),
            ("a swap file", libc::ETXTBSY, Verdict::File),
            ("the link count is exhausted", libc::EMLINK, Verdict::File),
            ("an idmapped mount knows no such owner", libc::EOVERFLOW, Verdict::File),
            ("ZFS: the source is in an open transaction group", libc::EAGAIN, Verdict::Retry),
            ("a signal", libc::EINTR, Verdict::Retry),
            ("writeback of the source failed", libc::EIO, Verdict::Fatal),
            ("the disk is full", libc::ENOSPC, Verdict::Fatal),
            ("the quota is full", libc::EDQUOT, Verdict::Fatal),
            ("no memory", libc::ENOMEM, Verdict::Fatal),
            (
                "the destination was opened read-only or for appending: our own bug",
                libc::EBADF,
                Verdict::Fatal,
            ),
            ("an errno nobody has seen here", libc::ENOTRECOVERABLE, Verdict::Fatal),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(errno)), expected, "{cause}");
        }
    }
}

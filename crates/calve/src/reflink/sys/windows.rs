//! Windows: `FSCTL_DUPLICATE_EXTENTS_TO_FILE`, "block cloning", which ReFS has (a Dev Drive is
//! ReFS).
//!
//! The filesystem needs (Block Cloning, Windows App Development; MS-FSCC 2.3.7, 2.3.8):
//!
//! * both files on one volume, which reports `FILE_SUPPORTS_BLOCK_REFCOUNTING`;
//! * ranges that start and end on a cluster (4 KiB or 64 KiB); the last range may reach past the
//!   end of the file, up to the end of its cluster (microsoft/CopyOnWrite, libuv/libuv#5228);
//! * less than 4 GiB in one call;
//! * a destination that is already long enough, that is sparse if the source is sparse, and that
//!   has its integrity stream on or off like the source;
//! * at most 8175 references to a cluster: `ERROR_BLOCK_TOO_MANY_REFERENCES`
//!   (microsoft/CopyOnWrite#1).
//!
//! It also needs one source at a time, see [`lock_source`].

#![expect(
    unsafe_code,
    reason = "file system control codes and volume queries that std does not wrap"
)]

use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BLOCK_TOO_MANY_REFERENCES, ERROR_CALL_NOT_IMPLEMENTED,
    ERROR_CLOUD_FILE_ACCESS_DENIED, ERROR_CLOUD_FILE_INCOMPATIBLE_HARDLINKS,
    ERROR_CLOUD_FILE_NOT_SUPPORTED, ERROR_CLOUD_FILE_PROVIDER_NOT_RUNNING, ERROR_CRC,
    ERROR_DATA_CHECKSUM_ERROR, ERROR_DISK_CORRUPT, ERROR_DISK_FULL, ERROR_DISK_QUOTA_EXCEEDED,
    ERROR_FILE_CORRUPT, ERROR_HANDLE_DISK_FULL, ERROR_INVALID_FUNCTION, ERROR_INVALID_PARAMETER,
    ERROR_IO_DEVICE, ERROR_LOCK_VIOLATION, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY,
    ERROR_NOT_SAME_DEVICE, ERROR_NOT_SUPPORTED, ERROR_RETRY, ERROR_SHARING_VIOLATION,
    ERROR_TOO_MANY_LINKS, ERROR_USER_MAPPED_FILE, ERROR_WRITE_PROTECT, GetLastError,
    INVALID_HANDLE_VALUE, MAX_PATH, WIN32_ERROR,
};
use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_SPARSE_FILE, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_NO_BUFFERING, FILE_GENERIC_READ, FILE_ID_INFO, FILE_READ_ATTRIBUTES,
    FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, FileIdInfo, GetFileInformationByHandle,
    GetFileInformationByHandleEx, GetVolumeInformationByHandleW, MoveFileExW, ReOpenFile,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::{
    DUPLICATE_EXTENTS_DATA, FILE_SET_SPARSE_BUFFER, FSCTL_DUPLICATE_EXTENTS_TO_FILE,
    FSCTL_GET_INTEGRITY_INFORMATION, FSCTL_GET_INTEGRITY_INFORMATION_BUFFER,
    FSCTL_SET_INTEGRITY_INFORMATION, FSCTL_SET_INTEGRITY_INFORMATION_BUFFER, FSCTL_SET_SPARSE,
};
use windows_sys::Win32::System::SystemServices::FILE_SUPPORTS_BLOCK_REFCOUNTING;

use super::super::verdict::Verdict;

/// Error code → verdict, for the calls below and for `CreateHardLinkW`.
///
/// [`clone_file`] itself returns `ERROR_NOT_SUPPORTED` for a volume, and `ERROR_NOT_SAME_DEVICE`
/// for a pair of volumes, that cannot clone. `ERROR_INVALID_FUNCTION` is
/// `STATUS_INVALID_DEVICE_REQUEST`, from a filesystem that does not know the call (MS-FSCC 2.3.8).
pub(crate) const TABLE: &[(i32, Verdict)] = &[
    (ERROR_NOT_SUPPORTED.cast_signed(), Verdict::Filesystem),
    (ERROR_INVALID_FUNCTION.cast_signed(), Verdict::Filesystem),
    (ERROR_CALL_NOT_IMPLEMENTED.cast_signed(), Verdict::Filesystem),
    (ERROR_NOT_SAME_DEVICE.cast_signed(), Verdict::Filesystem),
    (ERROR_INVALID_PARAMETER.cast_signed(), Verdict::File),
    (ERROR_BLOCK_TOO_MANY_REFERENCES.cast_signed(), Verdict::File),
    (ERROR_TOO_MANY_LINKS.cast_signed(), Verdict::File),
    (ERROR_ACCESS_DENIED.cast_signed(), Verdict::File),
    (ERROR_SHARING_VIOLATION.cast_signed(), Verdict::File),
    (ERROR_LOCK_VIOLATION.cast_signed(), Verdict::File),
    (ERROR_USER_MAPPED_FILE.cast_signed(), Verdict::File),
    (ERROR_CLOUD_FILE_INCOMPATIBLE_HARDLINKS.cast_signed(), Verdict::File),
    (ERROR_CLOUD_FILE_ACCESS_DENIED.cast_signed(), Verdict::File),
    (ERROR_CLOUD_FILE_NOT_SUPPORTED.cast_signed(), Verdict::File),
    (ERROR_CLOUD_FILE_PROVIDER_NOT_RUNNING.cast_signed(), Verdict::File),
    (ERROR_RETRY.cast_signed(), Verdict::Retry),
    (ERROR_DISK_FULL.cast_signed(), Verdict::Fatal),
    (ERROR_HANDLE_DISK_FULL.cast_signed(), Verdict::Fatal),
    (ERROR_DISK_QUOTA_EXCEEDED.cast_signed(), Verdict::Fatal),
    (ERROR_WRITE_PROTECT.cast_signed(), Verdict::Fatal),
    (ERROR_CRC.cast_signed(), Verdict::Fatal),
    (ERROR_IO_DEVICE.cast_signed(), Verdict::Fatal),
    (ERROR_DATA_CHECKSUM_ERROR.cast_signed(), Verdict::Fatal),
    (ERROR_FILE_CORRUPT.cast_signed(), Verdict::Fatal),
    (ERROR_DISK_CORRUPT.cast_signed(), Verdict::Fatal),
    (ERROR_NOT_ENOUGH_MEMORY.cast_signed(), Verdict::Fatal),
    (ERROR_NO_SYSTEM_RESOURCES.cast_signed(), Verdict::Fatal),
];

/// The most bytes that one call clones. It must be less than 4 GiB, and a multiple of every cluster
/// size.
const CHUNK_BYTES: u64 = 1 << 30;

/// Clones the whole of `source` into `dest`, which must be new, empty, and open for reading and
/// writing (`FSCTL_SET_INTEGRITY_INFORMATION` needs both rights).
///
/// After an error `dest` may be partly filled, and the caller must delete it. Alternate data
/// streams, times and attributes do not come along.
pub(crate) fn clone_file(source: &File, dest: &File) -> io::Result<()> {
    let plan = Plan::new(source, dest)?;
    let length = plan.source_length;
    if length == 0 {
        return Ok(());
    }
    plan.match_integrity(dest);
    // Make it sparse first, even if the source is not sparse. Otherwise `set_len` may allocate the
    // whole size, and the clone then gives it back (microsoft/CopyOnWrite#14).
    set_sparse(dest, true)?;
    dest.set_len(length)?;
    plan.duplicate(source, 0, dest, 0, round_up(length, plan.cluster_bytes))?;
    if dest.metadata()?.len() != length {
        dest.set_len(length)?;
    }
    if !plan.source_is_sparse {
        // This only decides how the file keeps later holes, so calve ignores a refusal. The call
        // needs the buffer with the flag: without a buffer the code means "sparse"
        // (microsoft/CopyOnWrite#17).
        let _ = set_sparse(dest, false);
    }
    Ok(())
}

/// Clones `length` bytes (0: to the end) from `source_offset` of `source` to `dest_offset` of
/// `dest`. `dest` grows if it is too short. All three numbers must be multiples of the cluster
/// size, with one exception: the range may end at the source's end if it reaches the destination's
/// end or goes beyond.
pub(crate) fn clone_range(
    source: &File,
    source_offset: u64,
    length: u64,
    dest: &File,
    dest_offset: u64,
) -> io::Result<()> {
    let plan = Plan::new(source, dest)?;
    let dest_length = dest.metadata()?.len();
    let length = match length {
        0 => plan.source_length.saturating_sub(source_offset),
        length => length,
    };
    let (Some(source_end), Some(dest_end)) =
        (source_offset.checked_add(length), dest_offset.checked_add(length))
    else {
        return Err(os_error(ERROR_INVALID_PARAMETER));
    };
    let rounded = round_up(length, plan.cluster_bytes);
    let is_tail = source_end == plan.source_length && dest_end >= dest_length;
    if source_end > plan.source_length || (rounded != length && !is_tail) {
        return Err(os_error(ERROR_INVALID_PARAMETER));
    }
    if length == 0 {
        return Ok(());
    }
    plan.match_integrity(dest);
    if plan.source_is_sparse {
        set_sparse(dest, true)?;
    }
    if dest_length < dest_end {
        dest.set_len(dest_end)?;
    }
    plan.duplicate(source, source_offset, dest, dest_offset, rounded)
}

/// The name of the filesystem `path` (a file or a directory) is on, as `NTFS`, `ReFS` or `exFAT`.
pub(crate) fn filesystem_name(path: &Path) -> Option<String> {
    let file = OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        // Else a directory cannot be opened.
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
        .ok()?;
    Some(Volume::of(&file).ok()?.filesystem_name).filter(|name| !name.is_empty())
}

/// Identifies an open file, and has the number of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: FileId,
    pub(crate) links: u32,
}

/// The volume and the file's id on it.
pub(crate) type FileId = (u64, [u8; 16]);

/// The identity of the file or directory `file`.
pub(crate) fn identity(file: &File) -> io::Result<Identity> {
    let mut found = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is borrowed from `file` for the length of the call, which writes one
    // BY_HANDLE_FILE_INFORMATION, made of integers.
    let done = unsafe { GetFileInformationByHandle(file.as_raw_handle(), &mut found) };
    if done == 0 {
        return Err(last_error());
    }
    let id = match file_id(file) {
        // The only one that is unique on ReFS.
        Ok(id) => (id.VolumeSerialNumber, id.FileId.Identifier),
        // A filesystem, or a network share, that only knows the older one.
        Err(_) => {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&found.nFileIndexLow.to_le_bytes());
            id[4..8].copy_from_slice(&found.nFileIndexHigh.to_le_bytes());
            (u64::from(found.dwVolumeSerialNumber), id)
        }
    };
    Ok(Identity { id, links: found.nNumberOfLinks })
}

/// Renames a file, a link or a directory to a free name on the same volume. (`std::fs::rename`
/// would replace.)
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide(from)?, wide(to)?);
    // SAFETY: both are terminated by a zero, and live for the length of the call.
    let done = unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), 0) };
    if done == 0 { Err(last_error()) } else { Ok(()) }
}

/// A path for a call: absolute and terminated. It may be long only if it is verbatim (`\\?\…`), as
/// the paths of trees are.
fn wide(path: &Path) -> io::Result<Vec<u16>> {
    let mut units: Vec<u16> = std::path::absolute(path)?.as_os_str().encode_wide().collect();
    if units.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    units.push(0);
    Ok(units)
}

/// The facts about a pair of files, before anything changes.
struct Plan {
    source_id: FILE_ID_INFO,
    source_length: u64,
    source_is_sparse: bool,
    integrity: FSCTL_GET_INTEGRITY_INFORMATION_BUFFER,
    cluster_bytes: u64,
}

impl Plan {
    /// Fails with `ERROR_NOT_SUPPORTED` after a single call if the volume cannot clone, and with
    /// `ERROR_NOT_SAME_DEVICE` if the files are on two volumes.
    fn new(source: &File, dest: &File) -> io::Result<Self> {
        if !Volume::of(source)?.clones_blocks {
            return Err(os_error(ERROR_NOT_SUPPORTED));
        }
        let source_id = file_id(source)?;
        if source_id.VolumeSerialNumber != file_id(dest)?.VolumeSerialNumber {
            return Err(os_error(ERROR_NOT_SAME_DEVICE));
        }
        let integrity = integrity(source)?;
        let cluster_bytes = u64::from(integrity.ClusterSizeInBytes);
        if !cluster_bytes.is_power_of_two() || cluster_bytes > CHUNK_BYTES {
            return Err(os_error(ERROR_NOT_SUPPORTED));
        }
        let metadata = source.metadata()?;
        Ok(Self {
            source_id,
            source_length: metadata.len(),
            source_is_sparse: metadata.file_attributes() & FILE_ATTRIBUTE_SPARSE_FILE != 0,
            integrity,
            cluster_bytes,
        })
    }

    /// Gives `dest` the checksum setting of the source, which works while `dest` is empty. If that
    /// fails (cargo-bins/reflink-copy saw Dev Drives refuse it), the clone may still work, and
    /// otherwise reports the problem itself.
    fn match_integrity(&self, dest: &File) {
        let wanted = (self.integrity.ChecksumAlgorithm, self.integrity.Flags);
        if integrity(dest).is_ok_and(|found| (found.ChecksumAlgorithm, found.Flags) == wanted) {
            return;
        }
        let request = FSCTL_SET_INTEGRITY_INFORMATION_BUFFER {
            ChecksumAlgorithm: wanted.0,
            Reserved: 0,
            Flags: wanted.1,
        };
        // SAFETY: the code reads one FSCTL_SET_INTEGRITY_INFORMATION_BUFFER and writes nothing.
        let _ = unsafe {
            control::<_, ()>(dest, FSCTL_SET_INTEGRITY_INFORMATION, Some(&request), None)
        };
    }

    /// Remaps the range, chunk by chunk. `length` is a multiple of the cluster size.
    fn duplicate(
        &self,
        source: &File,
        source_offset: u64,
        dest: &File,
        dest_offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let _one_at_a_time = lock_source(&self.source_id);
        let source = reopen_unbuffered(source)?;
        for (done, bytes) in chunks(length) {
            let request = DUPLICATE_EXTENTS_DATA {
                FileHandle: source.as_raw_handle(),
                SourceFileOffset: signed(source_offset + done)?,
                TargetFileOffset: signed(dest_offset + done)?,
                ByteCount: signed(bytes)?,
            };
            // SAFETY: the code reads one DUPLICATE_EXTENTS_DATA and writes nothing to memory; the
            // handle in it is borrowed from `source`, which outlives the call.
            unsafe {
                control::<_, ()>(dest, FSCTL_DUPLICATE_EXTENTS_TO_FILE, Some(&request), None)
            }
            .map_err(about_this_file)?;
        }
        Ok(())
    }
}

/// On a volume that can clone, `STATUS_NOT_SUPPORTED` is about the two files: their ranges overlap,
/// only the source is sparse, or it has become shorter (MS-FSCC 2.3.8). calve must not take it for
/// an answer about the volume. So it becomes `ERROR_INVALID_PARAMETER`, which is about the files as
/// well.
fn about_this_file(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(ERROR_NOT_SUPPORTED.cast_signed()) {
        return os_error(ERROR_INVALID_PARAMETER);
    }
    error
}

/// A lock that a thread holds while it clones a file. If a source is not yet flushed and several
/// threads clone it at once, the call reports success and a destination is all zeros
/// (microsoft/CopyOnWrite#12). Even the *source* has been seen to be zeroed (pnpm/pnpm#7186,
/// pnpm/reflink#2).
///
/// The lock covers the threads of this process. Against other processes there is only
/// [`reopen_unbuffered`].
///
/// Volume and file id choose the lock, so several files may share one. No thread holds two.
fn lock_source(id: &FILE_ID_INFO) -> MutexGuard<'static, ()> {
    static LOCKS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];
    let mut hasher = DefaultHasher::new();
    (id.VolumeSerialNumber, id.FileId.Identifier).hash(&mut hasher);
    let index = hasher.finish().to_le_bytes()[0];
    // The lock guards no data that a panic could have left half done.
    LOCKS[usize::from(index) % LOCKS.len()].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another handle to the file of `source`, which bypasses the cache. It makes the filesystem flush
/// cached bytes. That is the known workaround for the bug that [`lock_source`] describes
/// (pnpm/reflink#2).
fn reopen_unbuffered(source: &File) -> io::Result<File> {
    // SAFETY: the handle is borrowed from `source` for the length of the call.
    let handle = unsafe {
        ReOpenFile(
            source.as_raw_handle(),
            FILE_GENERIC_READ,
            FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
            FILE_FLAG_NO_BUFFERING,
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(last_error());
    }
    // SAFETY: ReOpenFile gave a new handle, which nobody else has.
    Ok(File::from(unsafe { OwnedHandle::from_raw_handle(handle) }))
}

/// The properties of a volume.
struct Volume {
    filesystem_name: String,
    clones_blocks: bool,
}

impl Volume {
    /// The volume that `file` is on.
    fn of(file: &File) -> io::Result<Self> {
        let mut name = [0_u16; MAX_PATH as usize + 1];
        let mut flags = 0;
        // SAFETY: the handle is borrowed from `file` for the length of the call; `flags` and `name`
        // are written to, the latter for at most the length that is given; null is "not wanted" for
        // the others.
        let done = unsafe {
            GetVolumeInformationByHandleW(
                file.as_raw_handle(),
                ptr::null_mut(),
                0,
                ptr::null_mut(),
                ptr::null_mut(),
                &mut flags,
                name.as_mut_ptr(),
                MAX_PATH + 1,
            )
        };
        if done == 0 {
            return Err(last_error());
        }
        let end = name.iter().position(|&unit| unit == 0).unwrap_or(name.len());
        Ok(Self {
            filesystem_name: String::from_utf16_lossy(&name[..end]),
            clones_blocks: flags & FILE_SUPPORTS_BLOCK_REFCOUNTING != 0,
        })
    }
}

/// The volume's serial number and the file's id in it.
fn file_id(file: &File) -> io::Result<FILE_ID_INFO> {
    let mut id = FILE_ID_INFO::default();
    // SAFETY: the handle is borrowed from `file` for the length of the call, and FileIdInfo writes
    // one FILE_ID_INFO, which is what it is given.
    let done = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            FileIdInfo,
            (&raw mut id).cast(),
            size_of_u32::<FILE_ID_INFO>(),
        )
    };
    if done == 0 { Err(last_error()) } else { Ok(id) }
}

/// The checksums of `file`, and the cluster size of its volume.
fn integrity(file: &File) -> io::Result<FSCTL_GET_INTEGRITY_INFORMATION_BUFFER> {
    let mut answer = FSCTL_GET_INTEGRITY_INFORMATION_BUFFER::default();
    // SAFETY: the code reads nothing and writes one FSCTL_GET_INTEGRITY_INFORMATION_BUFFER, made of
    // integers.
    unsafe { control::<(), _>(file, FSCTL_GET_INTEGRITY_INFORMATION, None, Some(&mut answer)) }?;
    Ok(answer)
}

/// Sets whether unwritten ranges become holes.
pub(crate) fn set_sparse(file: &File, sparse: bool) -> io::Result<()> {
    let request = FILE_SET_SPARSE_BUFFER { SetSparse: sparse };
    // SAFETY: the code reads one FILE_SET_SPARSE_BUFFER and writes nothing.
    unsafe { control::<_, ()>(file, FSCTL_SET_SPARSE, Some(&request), None) }
}

/// `DeviceIoControl`. It waits for the end of the operation, because `std` opens files for
/// synchronous use.
///
/// # Safety
/// `code` must read at most one `I`, write at most one `O`, and whatever it writes must be a valid
/// `O`.
unsafe fn control<I, O>(
    file: &File,
    code: u32,
    input: Option<&I>,
    output: Option<&mut O>,
) -> io::Result<()> {
    let (input, input_bytes) =
        input.map_or((ptr::null(), 0), |input| (ptr::from_ref(input), size_of_u32::<I>()));
    let (output, output_bytes) =
        output.map_or((ptr::null_mut(), 0), |output| (ptr::from_mut(output), size_of_u32::<O>()));
    let mut returned_bytes = 0;
    // SAFETY: the handle and both buffers are borrowed for the length of the call, and are given
    // with their sizes; the rest is this function's own contract.
    let done = unsafe {
        DeviceIoControl(
            file.as_raw_handle(),
            code,
            input.cast(),
            input_bytes,
            output.cast(),
            output_bytes,
            &mut returned_bytes,
            ptr::null_mut(),
        )
    };
    if done == 0 { Err(last_error()) } else { Ok(()) }
}

/// The error of the call before, which must have failed.
fn last_error() -> io::Error {
    // SAFETY: it reads a value of the thread and has no precondition.
    os_error(unsafe { GetLastError() })
}

fn os_error(code: WIN32_ERROR) -> io::Error {
    io::Error::from_raw_os_error(code.cast_signed())
}

/// Offsets are signed in Windows' structures.
fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| os_error(ERROR_INVALID_PARAMETER))
}

const fn size_of_u32<T>() -> u32 {
    const {
        assert!(mem::size_of::<T>() < 4096);
        #[expect(clippy::cast_possible_truncation, reason = "asserted in the line before")]
        let size = mem::size_of::<T>() as u32;
        size
    }
}

/// `length` up to the end of its last cluster; `cluster_bytes` is a power of two.
const fn round_up(length: u64, cluster_bytes: u64) -> u64 {
    let mask = cluster_bytes - 1;
    // Not `(length + mask) & !mask`, which overflows for a length that no file has but that a
    // caller may give.
    if length & mask == 0 { length } else { (length | mask).saturating_add(1) }
}

/// Offset and size of each call's part of `length` bytes.
fn chunks(length: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..length.div_ceil(CHUNK_BYTES)).map(move |chunk| {
        let offset = chunk * CHUNK_BYTES;
        (offset, CHUNK_BYTES.min(length - offset))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::super::super::verdict::classify;
    use super::*;

    #[test]
    fn each_error_code_has_the_verdict_of_its_known_causes() {
        for (cause, code, expected) in [
            ("NTFS, FAT, exFAT, wine", 50, Verdict::Filesystem),
            ("the filesystem does not know the call, or has no hard links", 1, Verdict::Filesystem),
            ("a filter driver without the call", 120, Verdict::Filesystem),
            ("another volume", 17, Verdict::Filesystem),
            ("the ranges, or what the two files are", 87, Verdict::File),
            ("8175 clones of one cluster", 347, Verdict::File),
            ("1023 hard links", 1142, Verdict::File),
            ("another owner's file", 5, Verdict::File),
            ("somebody has it open and does not share", 32, Verdict::File),
            ("somebody has locked a range of it", 33, Verdict::File),
            ("somebody has mapped it", 1224, Verdict::File),
            ("OneDrive: no hard links", 396, Verdict::File),
            ("OneDrive: no right", 395, Verdict::File),
            ("OneDrive: not for this file", 379, Verdict::File),
            ("OneDrive is not running", 362, Verdict::File),
            ("something is in the way for a moment", 1237, Verdict::Retry),
            ("the disk is full", 112, Verdict::Fatal),
            ("the disk is full, by its other code", 39, Verdict::Fatal),
            ("the quota is full", 1295, Verdict::Fatal),
            ("a read-only volume", 19, Verdict::Fatal),
            ("a failing disk", 23, Verdict::Fatal),
            ("a failing disk or cable", 1117, Verdict::Fatal),
            ("an integrity stream that does not match", 323, Verdict::Fatal),
            ("a damaged file", 1392, Verdict::Fatal),
            ("a damaged filesystem", 1393, Verdict::Fatal),
            ("no memory", 8, Verdict::Fatal),
            ("no memory in the kernel", 1450, Verdict::Fatal),
            ("a code nobody has seen here", 7, Verdict::Fatal),
        ] {
            assert_eq!(classify(&io::Error::from_raw_os_error(code)), expected, "{cause}");
        }
    }

    #[test]
    fn not_supported_from_a_volume_that_clones_is_about_the_file() {
        for (code, expected) in [
            (ERROR_NOT_SUPPORTED, Verdict::File),
            (ERROR_INVALID_FUNCTION, Verdict::Filesystem),
            (ERROR_BLOCK_TOO_MANY_REFERENCES, Verdict::File),
            (ERROR_DISK_FULL, Verdict::Fatal),
        ] {
            assert_eq!(classify(&about_this_file(os_error(code))), expected, "{code}");
        }
    }

    #[test]
    fn lengths_are_rounded_up_to_the_cluster() {
        for (length, cluster_bytes, expected) in [
            (0, 4096, 0),
            (1, 4096, 4096),
            (4095, 4096, 4096),
            (4096, 4096, 4096),
            (4097, 65536, 65536),
            (65537, 65536, 131_072),
            (u64::MAX, 4096, u64::MAX),
        ] {
            assert_eq!(round_up(length, cluster_bytes), expected);
        }
    }

    #[test]
    fn chunks_are_aligned_cover_everything_and_stay_below_four_gibibytes() {
        for (length, expected) in [
            (0, vec![]),
            (4096, vec![(0, 4096)]),
            (CHUNK_BYTES, vec![(0, CHUNK_BYTES)]),
            (
                2 * CHUNK_BYTES + 65536,
                vec![(0, CHUNK_BYTES), (CHUNK_BYTES, CHUNK_BYTES), (2 * CHUNK_BYTES, 65536)],
            ),
        ] {
            assert_eq!(chunks(length).collect::<Vec<_>>(), expected);
        }
    }

    fn pair(folder: &Path, content: &[u8]) -> (File, File) {
        fs::write(folder.join("source"), content).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        (File::open(folder.join("source")).unwrap(), options.open(folder.join("dest")).unwrap())
    }

    /// On a volume that can clone, a file of every size must be cloned. On another one, nothing may
    /// change.
    #[test]
    fn a_volume_that_says_it_clones_does_and_another_one_is_told_apart() {
        for length in [0, 1, 4095, 4096, 4097, 70_000, 3_000_000] {
            let folder = tempfile::tempdir().unwrap();
            let content: Vec<u8> = (0..length).map(|index| (index % 251) as u8 | 1).collect();
            let (source, dest) = pair(folder.path(), &content);
            let clones = Volume::of(&source).unwrap().clones_blocks;
            match clone_file(&source, &dest) {
                Ok(()) => {
                    assert!(clones);
                    assert_eq!(fs::read(folder.path().join("dest")).unwrap(), content);
                }
                Err(error) => {
                    assert!(!clones, "{length}: {error}");
                    assert_eq!(classify(&error), Verdict::Filesystem, "{length}: {error}");
                    assert_eq!(dest.metadata().unwrap().len(), 0);
                }
            }
            assert_eq!(fs::read(folder.path().join("source")).unwrap(), content);
        }
    }

    /// ReFS once zeroed a source, and destinations, when several threads cloned it at the same time
    /// (microsoft/CopyOnWrite#12, pnpm/pnpm#7186).
    #[test]
    fn a_source_and_its_clones_survive_being_cloned_by_many_threads() {
        let folder = tempfile::tempdir().unwrap();
        let content = vec![0xa5; 300_001];
        fs::write(folder.path().join("source"), &content).unwrap();
        let clones =
            Volume::of(&File::open(folder.path().join("source")).unwrap()).unwrap().clones_blocks;
        thread::scope(|scope| {
            for thread in 0..8 {
                let (folder, content) = (folder.path(), &content);
                scope.spawn(move || {
                    for round in 0..16 {
                        let path = folder.join(format!("dest-{thread}-{round}"));
                        let source = File::open(folder.join("source")).unwrap();
                        let dest = File::create_new(&path).unwrap();
                        assert_eq!(clone_file(&source, &dest).is_ok(), clones);
                        if clones {
                            assert!(fs::read(&path).unwrap() == *content);
                        }
                    }
                });
            }
        });
        assert!(fs::read(folder.path().join("source")).unwrap() == content);
    }

    #[test]
    fn the_filesystem_has_a_name_and_a_missing_folder_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_ne!(filesystem_name(folder.path()), None);
        assert_eq!(filesystem_name(&folder.path().join("missing")), None);
    }
}

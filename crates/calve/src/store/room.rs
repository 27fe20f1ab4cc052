//! Room on a full disk.
//!
//! # The reserve
//! To free space on a full disk calve needs some space: SQLite makes two files beside the database
//! before it reads a row, and forgetting dropped worktrees writes some pages. So the store keeps a
//! reserve. One file of it keeps blocks. The others are empty, since a filesystem or a quota may
//! have blocks left but no room for another file.
//!
//! A command that frees space ([`Worktree::drop`](crate::Worktree::drop),
//! [`Store::gc`](crate::Store::gc)) gives the reserve up if there is no other room, does its work,
//! and makes the reserve again from the space that it freed. A command that only reads does
//! without: it reads the database as it is. No writer can be at work then, since there is no room
//! for a writer's files. No other command takes the reserve, or it would be gone when it is needed.
//! If a copy of the store shares the reserve's blocks (`cp --reflink`), giving it up frees nothing.
//!
//! # Little room
//! Processes that share the database map a file of SQLite's. When a process first touches a page of
//! that file after btrfs wrote it back, btrfs looks for room on the disk and in the quota. If there
//! is none, btrfs can only end the process (`SIGBUS`; `btrfs_page_mkwrite` in fs/btrfs/file.c). So
//! if a command finds little room on btrfs, it opens the database alone, which maps nothing. It
//! keeps the database for one operation at a time (`locks/database`). A command that began with
//! room and used it up can still be ended. That is as if it were killed, and loses nothing.

use std::ffi::OsString;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FlockOperation, Mode, OFlags};

use super::files::listed_at;
use super::layout::Layout;
use super::locks;
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::Meta;
use crate::tree::staging::{StagedFile, stage_name, sync_filesystem};

/// The size of the reserve. The database's files take some 40 KB at first, and forgetting thousands
/// of snapshots takes less than this.
const RESERVE_BYTES: u64 = 1 << 20;

/// Files that are made while space is freed: two of the database's, an index on its way, three
/// locks; and one to spare.
const RESERVE_FILES: u32 = 7;

/// The room that the reserve leaves on btrfs, since another process may be about to open the
/// database.
const SPARE_BYTES: u64 = 256 << 10;

/// The room that opening a database needs, and some more.
const LEAST_BYTES: usize = 64 << 10;

/// Less room than this is little.
const LITTLE_BYTES: u64 = 64 << 20;

/// How long it is waited for what was freed. Who empties the trash meanwhile has some of btrfs'
/// quota set aside.
pub(super) const PAUSES_MS: [u64; 6] = [0, 50, 200, 500, 1000, 2000];

/// If a quota leaves less than this, that is little room, too. It includes some megabytes that
/// btrfs sets aside for changes of its own trees.
const SCARCE_BYTES: usize = 4 << 20;

/// How much room a store has for its database.
pub(crate) enum Room {
    Enough,
    Little,
    /// Not enough to open it.
    Full(io::Error),
}

/// The paths of the reserve's files.
fn reserved_files(store: &Path) -> impl Iterator<Item = PathBuf> {
    (1..=RESERVE_FILES).map(|number| Layout(store).reserved_file(number))
}

/// Whether an error is about a full disk or quota.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How much room there is for the database of `store`, if calve must know that before it opens the
/// database.
pub(crate) fn left(store: &Path) -> Room {
    if !Filesystem::of(store).mapped_needs_room {
        return Room::Enough;
    }
    let Ok(stat) = fs::statvfs(store) else { return Room::Enough };
    let has_space = stat.f_bavail.saturating_mul(stat.f_frsize) >= LITTLE_BYTES;
    if has_space && !may_have_quotas() {
        return Room::Enough;
    }
    // What others take to find out the rest is not what there is too little of.
    let _turn = locks::one_at_the_database(store);
    if has_space && refusal(store, SCARCE_BYTES).is_none() {
        return Room::Enough;
    }
    refusal(store, LEAST_BYTES).map_or(Room::Little, Room::Full)
}

/// Whether some btrfs here counts what belongs to whom (since Linux 5.9 that can be seen). How much
/// is left is not for everybody to read.
fn may_have_quotas() -> bool {
    let all = Path::new("/sys/fs/btrfs");
    let counts = |name: &OsString| all.join(name).join("qgroups").try_exists().unwrap_or(true);
    listed_at(all)
        .map_or(true, |names| names.is_empty() || names.iter().any(|(name, _)| counts(name)))
}

/// Why the store had no room for its database, which failed; nothing where it seems to have some.
/// SQLite keeps that to itself.
pub(crate) fn why_full(store: &Path) -> Option<io::Error> {
    // What there was too little of may be back by now, in part.
    refusal(store, SCARCE_BYTES)
}

/// Why the store's database could not be read or written, if the system says the same of another
/// file there. SQLite keeps that to itself. Who may only read the store has a refusal of another
/// kind.
pub(crate) fn why_refused(store: &Path) -> Option<io::Error> {
    try_file(store, SCARCE_BYTES, |file| {
        fs::fsync(file)?;
        Ok(fs::fcntl_lock(file, FlockOperation::NonBlockingLockExclusive)?)
    })
    .err()
    .filter(|error| {
        error.raw_os_error().is_some()
            && !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound)
    })
}

/// Why so much cannot be written; nothing where it can. It was not written back when it is removed
/// again, so that it never took any room of the disk.
fn refusal(store: &Path, bytes: usize) -> Option<io::Error> {
    try_file(store, bytes, |_| Ok(())).err().filter(is_full)
}

/// Writes a file and does the rest of the trial with it. It is gone afterwards.
fn try_file(
    store: &Path,
    bytes: usize,
    rest: impl FnOnce(&std::fs::File) -> io::Result<()>,
) -> io::Result<()> {
    // A store that is being made has no such folder yet.
    let dir = fs::open(Layout(store).stage(), DIR_FLAGS, Mode::empty())
        .or_else(|_| fs::open(store, DIR_FLAGS, Mode::empty()))?;
    let staged = StagedFile::new(&dir);
    let file = fs::openat(&dir, &staged.path, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
    let mut file = std::fs::File::from(file);
    file.write_all(&vec![0; bytes])?;
    rest(&file)
}

/// Makes the filesystem release the space that it set aside for data that is not on the disk yet.
pub(crate) fn settle(store: &Path) {
    let _ = fs::open(store, DIR_FLAGS, Mode::empty()).and_then(sync_filesystem);
}

/// Makes the reserve. If there is not enough room, it is as large as the room that there is.
pub(crate) fn keep(store: &Path) {
    keep_bytes(store);
    if Filesystem::of(store).mapped_needs_room {
        return;
    }
    for path in reserved_files(store) {
        // Nearly always it is there.
        let _ = fs::openat(fs::CWD, &path, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR);
    }
}

/// Makes the reserve of blocks alone, for a command that is not done: on XFS it takes a while until
/// a file can be made in the place of a removed one, so that command may need the other files'
/// places.
pub(super) fn keep_bytes(store: &Path) {
    let path = Layout(store).reserve();
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::APPEND
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let Ok(file) = fs::open(&path, flags, Mode::RUSR | Mode::WUSR) else { return };
    let (Ok(stat), Ok(room)) = (fs::fstat(&file), fs::fstatvfs(&file)) else { return };
    // Somebody may have put a pipe or a device there.
    if Meta::of(&stat).file_type() != fs::FileType::RegularFile {
        return;
    }
    let mut missing = RESERVE_BYTES.saturating_sub(stat.st_size.cast_unsigned());
    if Filesystem::of(store).mapped_needs_room {
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        missing = missing.min(free.saturating_sub(SPARE_BYTES));
    }
    // Nothing that a filesystem could compress, or share with the reserve of another store.
    let mut random = blake3::Hasher::new().update(stage_name().as_bytes()).finalize_xof();
    let mut piece = [0; 4096];
    let mut file = std::fs::File::from(file);
    let mut settled = false;
    for _ in 0..missing.div_ceil(piece.len() as u64) {
        random.fill(&mut piece);
        while file.write_all(&piece).is_err() {
            if settled {
                return;
            }
            // XFS gives back what removed files had only in the background.
            settle(store);
            settled = true;
        }
    }
}

/// Gives the reserve up. Returns whether there was one.
///
/// The file with the blocks is cut off and not removed: removed blocks may be free only later, and
/// on a full XFS the file could not be made again. XFS makes no file where less than some 190 KB
/// are left (seen), but lets a file that is there grow until the last block. On btrfs it is
/// removed, too: under a quota a file that was only cut off left no room for the database (seen).
pub(super) fn give_up(store: &Path) -> bool {
    let path = Layout(store).reserve();
    let mut given = false;
    if let Ok(file) =
        fs::open(&path, crate::reflink::imp::SOURCE_FLAGS.union(OFlags::RDWR), Mode::empty())
    {
        given = fs::fstat(&file).is_ok_and(|stat| stat.st_size > 0);
        let _ = fs::ftruncate(&file, 0);
    }
    if Filesystem::of(store).mapped_needs_room {
        given |= std::fs::remove_file(path).is_ok();
    }
    for path in reserved_files(store) {
        given |= std::fs::remove_file(path).is_ok();
    }
    given
}

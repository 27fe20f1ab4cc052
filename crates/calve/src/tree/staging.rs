//! A tree appears at its destination complete or not at all: calve builds it under another name
//! beside the destination and renames it into place.
//!
//! A stage is a directory named `.calve-stage-BOOT-PID-START-RANDOM`. The name says which process
//! made it, its maker. The maker holds a `flock(2)` on the stage as long as it lives. The next
//! calve process sweeps a stage only if it is dead: the lock is free, *and* nothing in the name
//! says that the maker lives. The maker lives if the process with this id started at the time in
//! the name; both mean something only during one boot and in one PID namespace. The lock alone is
//! not enough, because a filesystem may not have locks. Nor is the name, because a container sees
//! other process ids.
//!
//! # calve sweeps only what it made
//! A name proves nothing if others may rename entries in the folder. Such a user could give a dead
//! stage's name to a tree that they may not delete (root's, or another user's), and the next run
//! would delete the tree. So calve sweeps a directory only if one of two conditions holds, neither
//! of which such a user can bring about.
//!
//! * **The directory has the mark**: it is ours and its mode is exactly [`MARK`], set-user-ID and
//!   closed to everybody else. Only its owner or root can give a directory a mode (chmod(2)). No
//!   other program uses this mode, which means nothing on a directory. A tree loses the mark with
//!   the last `chmod` of its root, which is needed anyway, or when it is published. Nobody else can
//!   write to such a directory either, so everything in it is ours.
//! * **The folder is closed**: it belongs to us or to root, and nobody else may write to it. So
//!   nobody else gave the name. This covers directories without the mark: a snapshot, a tree that
//!   is complete but not in place yet, and a tree that was replaced.
//!
//! calve removes exactly the directory that it examined: it keeps the descriptor, so nobody can put
//! something else in its place meanwhile. A stage that is given up is removed only if it is still
//! the one that calve made. For an entry that is no directory the name is enough: a user who could
//! give it that name could also have deleted it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rustix::fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::pool::lock;
use super::removal::{self, open_ours};
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{self, Meta};
use crate::reflink::refusal::SystemCall;
use crate::reflink::sys;

pub(crate) use file::{StagedFile, write_flushed, write_whole, write_whole_by};
pub(crate) use late::{appears, make_file, make_folder, once_shown};

mod file;
mod late;

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
use rustix::fs::{RenameFlags, renameat_with as rename_with};

/// On other systems no rename takes flags.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
struct RenameFlags;

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
impl RenameFlags {
    const NOREPLACE: Self = Self;
    const EXCHANGE: Self = Self;
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_with(
    _: impl AsFd,
    _: impl rustix::path::Arg,
    _: impl AsFd,
    _: impl rustix::path::Arg,
    _: RenameFlags,
) -> rustix::io::Result<()> {
    Err(Errno::NOSYS)
}

/// The prefix of every stage's name. calve never clones entries of the source with such a name. It
/// reports one whose maker is not at work, because it may be no stage.
pub(crate) const PREFIX: &str = ".calve-stage-";

/// The mode of a stage while calve fills it. See the module's documentation.
const MARK: u32 = 0o4700;

/// The mode of a folder that a merge made and has not finished. If the merge fails or is killed, the
/// next one gives the folder the mode, the attributes and the times of its source. `mkdir` sets it,
/// also under a umask. Nobody else may look into such a folder.
pub(super) const UNFINISHED: u32 = 0o1700;

/// Whether a folder is ours, and a merge made it and has not finished it.
pub(super) fn is_unfinished(meta: &Meta) -> bool {
    // The folder above may pass on its set-group-ID bit.
    meta.uid == geteuid().as_raw() && meta.permissions() & !0o2000 == UNFINISHED
}

/// If calve cannot tell whether a stage's maker lives, a stage of this age with a free lock counts
/// as dead.
const STRANGER_AGE: Duration = Duration::from_secs(60);

/// The half of [`world`] that says which boot.
const BOOT: u64 = !0 << 32;

/// How often calve tries to get a lock that another process holds, once a millisecond.
const LOCK_TRIES: u32 = 100;

/// The process that made a stage, and the boot in which it did.
#[derive(Debug, PartialEq, Eq)]
struct StageMaker {
    /// The boot in the upper half, the PID namespace in the lower one.
    world: u64,
    pid: u32,
    start: u64,
}

impl StageMaker {
    fn this() -> &'static Self {
        static THIS: OnceLock<StageMaker> = OnceLock::new();
        THIS.get_or_init(|| {
            let pid = std::process::id();
            Self { world: world(), pid, start: start_time(pid).unwrap_or(0) }
        })
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{:016x}-{}-{}-", self.world, self.pid, self.start)
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
        let mut parts = rest.split('-');
        let world = u64::from_str_radix(parts.next()?, 16).ok()?;
        let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next()?;
        Some(Self { world, pid, start })
    }

    /// Whether the process lives. `None` if this process cannot tell.
    fn lives(&self) -> Option<bool> {
        (self.world == Self::this().world && self.start != 0)
            .then(|| start_time(self.pid) == Some(self.start))
    }
}

/// The id of this boot of the machine, if there is a /proc: random(4).
pub(crate) fn boot() -> Option<String> {
    // No process outlives a boot. A command on many worktrees asks for each.
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(known) = BOOT.get() {
        return Some(known.clone());
    }
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(BOOT.get_or_init(|| read.trim_end().to_owned()).clone())
}

/// A number for the boot in the upper half, and one for the PID namespace in the lower half; 0
/// where there is no /proc.
fn world() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let Some(boot) = boot() else { return 0 };
    let number = |of: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        of(&mut hasher);
        hasher.finish()
    };
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    number(&|hasher| boot.hash(hasher)) & BOOT | number(&|hasher| namespace.hash(hasher)) & !BOOT
}

/// When a process started, in clock ticks since the boot: field 22 of /proc/PID/stat,
/// proc_pid_stat(5).
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command's name in parentheses, which may contain anything.
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A name for a stage, or for a single staged file. Nobody can predict the name, and it says which
/// process made it.
pub(crate) fn stage_name() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    format!("{}{:016x}", StageMaker::this().prefix(), RandomState::new().build_hasher().finish())
}

/// Whether the process that made a [`stage_name`] lives. `None` if this process cannot tell.
pub(crate) fn maker_lives(name: &str) -> Option<bool> {
    StageMaker::parse(name.as_bytes())?.lives()
}

/// Whether a process of another boot, or of another machine, made a [`stage_name`].
pub(crate) fn is_of_another_boot(name: &str) -> bool {
    let here = StageMaker::this().world & BOOT;
    StageMaker::parse(name.as_bytes())
        .map(|maker| maker.world & BOOT)
        .is_some_and(|boot| boot != here && boot != 0 && here != 0)
}

/// Whether the process that made a stage of this name is at work on it.
pub(super) fn is_at_work(name: &[u8]) -> bool {
    StageMaker::parse(name)
        .is_some_and(|maker| maker == *StageMaker::this() || maker.lives() == Some(true))
}

/// The stages that could not be removed when they were given up.
static LEFT_BEHIND: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The paths of what this process staged and then could not remove, since the last call: the folder
/// lets nobody delete (`chattr +a`, a sandbox, a server), or the disk fails. calve may delete such a
/// stage when it works in that folder again, if it may by then.
#[must_use]
pub fn left_behind() -> Vec<PathBuf> {
    std::mem::take(&mut *lock(&LEFT_BEHIND))
}

/// A tree under construction. Dropping it removes the tree, unless the tree was published.
#[derive(Debug)]
pub(crate) struct Stage {
    parent: Arc<OwnedFd>,
    parent_path: PathBuf,
    name: CString,
    /// The stage's own directory, locked.
    dir: Arc<OwnedFd>,
    armed: bool,
    /// Whether the directory may have the mark.
    marked: bool,
    /// Whether the entry at the stage's name is now the one that the stage replaced.
    exchanged: bool,
}

impl Stage {
    /// Makes a stage in `parent` with `make`, which gets the parent and the name. Then opens and
    /// locks it. The stage is private until its mode is set: nobody else sees files that do not
    /// have their final mode or ACL yet.
    pub(crate) fn new(
        parent: impl Into<Arc<OwnedFd>>,
        parent_path: &Path,
        mut make: impl FnMut(&OwnedFd, &CStr) -> io::Result<()>,
    ) -> io::Result<Self> {
        let parent = parent.into();
        loop {
            let name = CString::new(stage_name())?;
            match make(&parent, &name) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let dir = match once_shown(&parent, os(&name), || open_ours(&parent, &name)) {
                Ok(dir) => dir,
                Err(error) => {
                    // It is empty, or a snapshot. If it is anything else by now, it is not ours to
                    // remove.
                    let _ = fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                    return Err(error);
                }
            };
            let stage = Self {
                parent,
                parent_path: parent_path.to_owned(),
                name,
                dir: dir.into(),
                armed: true,
                marked: false,
                exchanged: false,
            };
            // Without locks the name alone says that we live. Another process holds the lock only
            // for a moment, to find out whether we live.
            for _ in 0..LOCK_TRIES {
                match fs::flock(&stage.dir, FlockOperation::NonBlockingLockShared) {
                    Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(1)),
                    _ => break,
                }
            }
            return Ok(stage);
        }
    }

    /// An empty stage with the mark. It has no set-group-ID bit and no ACL that it would pass on to
    /// new entries.
    pub(crate) fn empty(parent: impl Into<Arc<OwnedFd>>, parent_path: &Path) -> io::Result<Self> {
        let mut stage = Self::new(parent, parent_path, |parent, name| {
            Ok(make_folder(parent, os(name).as_ref(), Mode::RWXU)?)
        })?;
        meta::strip_inherited_acls(&stage.dir)?;
        // A server may refuse the mark, or any change of a mode. Then the stage is swept only in
        // closed folders.
        if fs::fchmod(&stage.dir, meta::mode(MARK)).is_err() {
            meta::give_mode(&stage.dir, Mode::RWXU)?;
        }
        stage.marked = true;
        Ok(stage)
    }

    pub(crate) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// The stage's own directory, shared.
    pub(super) fn shared_dir(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.dir)
    }

    /// The folder that the stage is in.
    pub(crate) fn parent(&self) -> &OwnedFd {
        &self.parent
    }

    pub(crate) fn id(&self) -> io::Result<(u64, u64)> {
        Ok(Meta::of_file(&self.dir)?.id())
    }

    /// The stage's path, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.parent_path.join(os(&self.name))
    }

    /// Tells the stage that its directory has its final mode, which may happen to equal the mark.
    pub(super) fn has_its_mode(&mut self) {
        self.marked = false;
    }

    /// Removes the mark if the directory still has it. The stage's name is used next, so calve waits
    /// until the filesystem shows it.
    fn unmark(&mut self) -> io::Result<()> {
        appears(&self.parent, os(&self.name).as_ref());
        if self.marked && is_marked(&fs::fstat(&self.dir)?) {
            meta::give_mode(&self.dir, Mode::RWXU)?;
        }
        self.marked = false;
        Ok(())
    }

    /// Renames the stage to `name`, which must not exist.
    pub(crate) fn publish(&mut self, name: &CStr) -> io::Result<()> {
        self.unmark()?;
        rename_folder(&self.parent, &*self.name, &self.parent, name, Mode::RWXU)?;
        self.armed = false;
        Ok(())
    }

    /// Renames the stage to `name`, where there must be nothing or an empty directory. rename(2)
    /// replaces no other directory. So if somebody puts something there meanwhile, this is an error
    /// and the entry stays.
    pub(crate) fn publish_over_empty(&mut self, name: &CStr) -> io::Result<()> {
        self.unmark()?;
        match fs::renameat(&self.parent, &self.name, &self.parent, name) {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::NOTDIR) => return Err(Errno::EXIST.into()),
            Err(errno) => return Err(errno.into()),
        }
        self.armed = false;
        Ok(())
    }

    /// Exchanges the stage with the entry at `name`, in one step. Then the replaced entry has the
    /// stage's name, and is removed with the stage.
    pub(crate) fn exchange(&mut self, name: &CStr) -> io::Result<()> {
        self.unmark()?;
        match rename_with(&self.parent, &self.name, &self.parent, name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(errno) if SystemCall::RenameWithFlags.is_unavailable(errno) => {
                // There is no atomic exchange here. calve moves the old tree aside and the new one
                // in. If that fails, it moves the old one back, so that the name is not left empty.
                // The name for the old tree is one that is never swept: if this process dies in
                // between, it is the only copy of the old tree. The name is new each time: when an
                // exchange is taken back, the first name may still be in use.
                let aside = CString::new(stage_name().replacen(PREFIX, ".calve-replaced-", 1))?;
                fs::renameat(&self.parent, name, &self.parent, &aside)?;
                if let Err(errno) = fs::renameat(&self.parent, &self.name, &self.parent, name) {
                    fs::renameat(&self.parent, &aside, &self.parent, name)?;
                    return Err(errno.into());
                }
                // The new tree is in place. From here on the old one may be swept.
                if fs::renameat(&self.parent, &aside, &self.parent, &self.name).is_err() {
                    self.name = aside;
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        self.exchanged = !self.exchanged;
        Ok(())
    }

    /// Takes a published tree back, so that it is removed when the stage is dropped. If somebody
    /// has put something else in its place meanwhile, that entry stays.
    pub(crate) fn unpublish(&mut self, name: &CStr) {
        let there = fs::statat(&self.parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_ours = there.is_ok_and(|stat| self.id().is_ok_and(|id| id == Meta::of(&stat).id()));
        if is_ours
            && rename_with(&self.parent, name, &self.parent, &self.name, RenameFlags::NOREPLACE)
                .is_ok()
        {
            self.armed = true;
        }
    }

    /// Flushes the parent folder, which has the name of the published tree.
    pub(crate) fn sync_parent(&self) -> io::Result<()> {
        sync_folder(&self.parent)
    }

    /// Removes the stage, or the entry that was exchanged for it.
    pub(crate) fn discard(mut self) -> io::Result<()> {
        self.armed = false;
        self.remove()
    }

    fn remove(&self) -> io::Result<()> {
        // The removal would take a stage that is not shown yet for one that is gone.
        appears(&self.parent, os(&self.name).as_ref());
        let remove = || match self.exchanged {
            true => removal::remove(&self.parent, &self.name),
            false => removal::remove_if(&self.parent, &self.name, Some(&self.dir)),
        };
        // So do the entries in it.
        remove().or_else(|error| match appears(&self.parent, os(&self.name).as_ref()) {
            true => {
                std::thread::sleep(Duration::from_secs(1));
                remove()
            }
            false => Err(error),
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.armed && self.remove().is_err() {
            lock(&LEFT_BEHIND).push(self.path());
        }
    }
}

/// A name as a path's part.
pub(super) fn os(name: &CStr) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes())
}

/// Renames an entry to a new name. `EXIST` if the name is taken.
///
/// # Errors
/// One that [`SystemCall::RenameWithFlags`] takes for unavailable, if there is no such rename.
pub(crate) fn rename_new(
    from: impl AsFd,
    name: &CStr,
    into: impl AsFd,
    new_name: &CStr,
) -> rustix::io::Result<()> {
    rename_with(from, name, into, new_name, RenameFlags::NOREPLACE)
}

/// Renames a folder to a new name, on every filesystem. `EXIST` if the name is taken.
///
/// Without such a rename, calve makes an empty folder of this `mode`, which also fails if the name
/// is taken, and replaces that. A folder replaces only an empty one.
///
/// Where a folder may get names and lose none (`chattr +a`), nothing is made.
pub(crate) fn rename_folder(
    from: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    into: impl AsFd,
    new_name: impl rustix::path::Arg + Copy,
    mode: Mode,
) -> rustix::io::Result<()> {
    match rename_with(&from, name, &into, new_name, RenameFlags::NOREPLACE) {
        Err(errno) if SystemCall::RenameWithFlags.is_unavailable(errno) => {
            if errno == Errno::PERM {
                try_renaming(&from, name)?;
            }
            fs::mkdirat(&into, new_name, mode)?;
            fs::renameat(&from, name, &into, new_name).inspect_err(|_| {
                let _ = fs::unlinkat(&into, new_name, AtFlags::REMOVEDIR);
            })
        }
        renamed => renamed,
    }
}

/// Renames an entry to another name in its folder, and back: `EPERM` may be the answer to the flags
/// or to the rename.
fn try_renaming(from: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<()> {
    let name = name.into_c_str()?;
    let other = Path::new(os(&name)).with_file_name(stage_name());
    fs::renameat(&from, &*name, &from, &other)?;
    fs::renameat(&from, &other, &from, &*name)
}

/// Like `rename_new`, on every filesystem. If there is no such rename, calve makes a hard link,
/// which also fails if the name is taken, and removes the old name.
pub(super) fn rename_new_or_link(
    from: impl AsFd,
    name: &CStr,
    into: impl AsFd,
    new_name: &CStr,
) -> rustix::io::Result<()> {
    match rename_new(&from, name, &into, new_name) {
        Err(errno) if SystemCall::RenameWithFlags.is_unavailable(errno) => {
            fs::linkat(&from, name, &into, new_name, AtFlags::empty())?;
            fs::unlinkat(&from, name, AtFlags::empty())
        }
        result => result,
    }
}

/// Renames `name` to the place of the file `old_name`, which has this stat, and removes the old
/// file. Returns `false`, and changes nothing, if the old file has changed or is gone, or if a
/// process has it open for writing: what it writes later would be in no folder.
///
/// The two files are exchanged first. So a change that comes at the last moment is seen, too, and
/// taken back to its place.
pub(super) fn swap(
    from: impl AsFd,
    name: &CStr,
    into: impl AsFd,
    old_name: &CStr,
    old: &Meta,
) -> rustix::io::Result<bool> {
    let found = |dir: BorrowedFd<'_>, name: &CStr| match Meta::at(dir, name) {
        Ok(meta) => Ok(Some(meta)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    };
    if !found(into.as_fd(), old_name)?.is_some_and(|found| found.is_still(old)) {
        return Ok(false);
    }
    let Ok(file) = fs::openat(&into, old_name, SOURCE_FLAGS, Mode::empty()) else {
        return Ok(false);
    };
    // Only Linux can say it.
    let nobody_writes = || sys::nobody_writes(&file).unwrap_or(cfg!(not(target_os = "linux")));
    if !nobody_writes() {
        return Ok(false);
    }
    match rename_with(&from, name, &into, old_name, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) if SystemCall::RenameWithFlags.is_unavailable(errno) => {
            fs::renameat(&from, name, &into, old_name)?;
            return Ok(true);
        }
        Err(errno) => return Err(errno),
    }
    let is_still = found(from.as_fd(), name)?.is_some_and(|it| it.is_still_but_for_names(old));
    if is_still && nobody_writes() {
        fs::unlinkat(&from, name, AtFlags::empty())?;
        return Ok(true);
    }
    rename_with(&from, name, &into, old_name, RenameFlags::EXCHANGE)?;
    Ok(false)
}

/// Exchanges two folders.
///
/// Where the filesystem has no such rename, it takes three. If this process dies between them,
/// nothing may be at the second place, and the folder that was there is beside the first one.
pub(crate) fn exchange_folders(
    from: impl AsFd,
    name: &CStr,
    into: impl AsFd,
    other: &CStr,
) -> rustix::io::Result<()> {
    match rename_with(&from, name, &into, other, RenameFlags::EXCHANGE) {
        Err(errno) if SystemCall::RenameWithFlags.is_unavailable(errno) => {
            let aside = stage_name();
            fs::renameat(&into, other, &from, &aside)?;
            if let Err(errno) = fs::renameat(&from, name, &into, other) {
                fs::renameat(&from, &aside, &into, other)?;
                return Err(errno);
            }
            fs::renameat(&from, &aside, &from, name)
        }
        exchanged => exchanged,
    }
}

/// Renames a folder to a path at which there is nothing.
///
/// # Errors
/// [`AlreadyExists`](io::ErrorKind::AlreadyExists) if something is there;
/// [`CrossesDevices`](io::ErrorKind::CrossesDevices). Nothing was renamed.
pub(crate) fn move_folder(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rename_folder(fs::CWD, from, fs::CWD, to, Mode::RWXU)?)
}

/// Flushes everything below `dir` to the disk: the whole filesystem, or, where that call may do
/// nothing (FUSE), each file and folder.
pub(crate) fn flush_filesystem(dir: impl AsFd) -> io::Result<()> {
    let dir = dir.as_fd();
    if Filesystem::of_file(dir).flushes {
        return Ok(sync_filesystem(dir)?);
    }
    let dir = fs::openat(dir, c".", DIR_FLAGS, Mode::empty())?;
    let dev = Meta::of_file(&dir)?.dev;
    flush_files(&dir, dev)
}

/// Flushes the files below `dir`, on the device `dev`, then the folders.
fn flush_files(dir: &OwnedFd, dev: u64) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => Meta::at(dir, name)?.file_type(),
            kind => kind,
        };
        match kind {
            FileType::RegularFile => {
                fs::fsync(fs::openat(dir, name, SOURCE_FLAGS, Mode::empty())?)?;
            }
            FileType::Directory => {
                let below = fs::openat(dir, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?;
                if Meta::of_file(&below)?.dev == dev {
                    flush_files(&below, dev)?;
                }
            }
            _ => {}
        }
    }
    sync_folder(dir)
}

/// Flushes an open folder. Where folders cannot be flushed, that is no error.
pub(crate) fn sync_folder(dir: impl AsFd) -> io::Result<()> {
    match fs::fsync(dir) {
        Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets the filesystem of `dir` write what it has in memory. On systems without such a call, lets
/// all filesystems do so.
pub(crate) fn sync_filesystem(dir: impl AsFd) -> rustix::io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return fs::syncfs(dir);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let _ = dir;
        fs::sync();
        Ok(())
    }
}

/// Gives the mark to a tree that was renamed to a [`stage_name`], so that it is swept when this
/// process is dead.
pub(crate) fn mark(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let tree = open_ours(parent, name)?;
    Ok(meta::give_mode(tree, meta::mode(MARK))?)
}

/// Removes the stages in `parent` whose makers are dead. A stage that cannot be removed stays for
/// the next time.
pub(crate) fn sweep(parent: &OwnedFd) {
    let Ok(dir) = Dir::read_from(parent) else { return };
    let names: Vec<CString> = dir
        .flatten()
        .filter(|entry| entry.file_name().to_bytes().starts_with(PREFIX.as_bytes()))
        .map(|entry| entry.file_name().to_owned())
        .collect();
    for name in names {
        let _ = sweep_one(parent, &name);
    }
}

/// Whether there is a stage in `dir`, dead or alive. In doubt the answer is yes.
pub(crate) fn is_in(dir: &OwnedFd) -> bool {
    Dir::read_from(dir).map_or(true, |mut entries| {
        entries.any(|entry| {
            entry.map_or(true, |entry| entry.file_name().to_bytes().starts_with(PREFIX.as_bytes()))
        })
    })
}

fn sweep_one(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let Some(maker) = StageMaker::parse(name.to_bytes()) else { return Ok(()) };
    let lives = maker.lives();
    if lives == Some(true) {
        return Ok(());
    }
    let stage = match fs::openat(parent, name, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(stage) => stage,
        // The entry is no directory: a replaced file or link, or a staged file.
        Err(Errno::NOTDIR | Errno::LOOP) if lives == Some(false) => {
            return Ok(fs::unlinkat(parent, name, AtFlags::empty())?);
        }
        Err(errno) => return Err(errno.into()),
    };
    let meta = fs::fstat(&stage)?;
    if !(is_marked(&meta) || is_closed(&fs::fstat(parent)?)) {
        return Ok(());
    }
    match fs::flock(&stage, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if lives == Some(false) => {}
        Ok(()) => {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap_or_default();
            let age = now.as_secs().saturating_sub(meta.st_ctime.unsigned_abs());
            if age < STRANGER_AGE.as_secs() {
                return Ok(());
            }
        }
        Err(Errno::WOULDBLOCK) => return Ok(()),
        Err(_) if lives == Some(false) => {}
        Err(errno) => return Err(errno.into()),
    }
    removal::remove_if(parent, name, Some(&stage))
}

/// Whether the directory's own owner and mode say that this user's calve made it.
fn is_marked(stage: &Stat) -> bool {
    let meta = Meta::of(stage);
    meta.uid == geteuid().as_raw() && meta.permissions() == MARK
}

/// Whether only this user and root can have given names in this folder. If the folder has an ACL,
/// the group's bits are the ACL's mask.
fn is_closed(folder: &Stat) -> bool {
    let meta = Meta::of(folder);
    (meta.uid == 0 || meta.uid == geteuid().as_raw()) && meta.permissions() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_names_its_maker_and_only_the_dead_are_dead() {
        let this = StageMaker::this();
        let name = format!("{}0123", this.prefix());
        assert_eq!(StageMaker::parse(name.as_bytes()).as_ref(), Some(this));
        assert_eq!(this.lives(), Some(true));
        // The same process id, started at another time, was another process.
        assert_eq!(StageMaker { start: this.start + 1, ..*this }.lives(), Some(false));
        assert_eq!(StageMaker { world: this.world ^ 1, ..*this }.lives(), None);
        for foreign in
            ["", ".calve-stage-", ".calve-stage-x-1-1-0", ".calve-stage-1-1-1", ".calve-other"]
        {
            assert_eq!(StageMaker::parse(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn a_file_is_swapped_only_while_it_is_the_one_that_was_seen() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let dir = std::fs::File::open(temp.path()).unwrap();
        type Change = fn(&Path);
        let changes: [(&str, Change, bool, Option<&str>); 4] = [
            ("nothing", |_| {}, true, Some("new")),
            ("written to", |old| std::fs::write(old, "edited").unwrap(), false, Some("edited")),
            (
                "replaced",
                |old| {
                    std::fs::remove_file(old).unwrap();
                    std::fs::write(old, "old").unwrap();
                },
                false,
                Some("old"),
            ),
            ("removed", |old| std::fs::remove_file(old).unwrap(), false, None),
        ];
        for (what, change, swapped, expected) in changes {
            std::fs::write(path("old"), "old").unwrap();
            std::fs::write(path("new"), "new").unwrap();
            let seen = fs::statat(&dir, c"old", AtFlags::SYMLINK_NOFOLLOW).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            change(&path("old"));
            let result = swap(&dir, c"new", &dir, c"old", &Meta::of(&seen)).unwrap();
            assert_eq!(result, swapped, "{what}");
            assert_eq!(std::fs::read_to_string(path("old")).ok().as_deref(), expected, "{what}");
            assert_eq!(path("new").try_exists().unwrap(), !swapped, "{what}");
        }
    }

    /// Without this rule, in a folder where others may write, anybody could give root's tree the
    /// name of a dead stage, and root's next run would delete it.
    #[test]
    fn what_calve_did_not_make_is_not_swept_whatever_it_is_called() {
        const STRANGER: u32 = 65534;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("folder");
        let this = StageMaker::this();
        let dead = StageMaker { start: this.start + 1, ..*this }.prefix() + "0123";
        let own = geteuid().as_raw();
        for (folder, folder_owner, mode, owner, swept) in [
            // A user who may rename entries here may also delete them.
            (0o755, own, 0o755, own, true),
            (0o700, own, 0o700, own, true),
            (0o755, own, 0o755, STRANGER, true),
            // Others may rename entries here, and the entry is no stage.
            (0o775, own, 0o755, own, false),
            (0o757, own, 0o755, own, false),
            (0o1777, own, 0o755, own, false),
            (0o777, own, 0o700, own, false),
            (0o777, own, 0o4755, own, false),
            (0o777, own, 0o6700, own, false),
            (0o755, STRANGER, 0o700, own, false),
            // The directory has the mark. A stranger can only give the mark to their own
            // directories.
            (0o775, own, MARK, own, true),
            (0o777, own, MARK, own, true),
            (0o1777, own, MARK, own, true),
            (0o755, STRANGER, MARK, own, true),
            (0o777, own, MARK, STRANGER, false),
            (0o755, STRANGER, MARK, STRANGER, false),
        ] {
            let row = format!("{folder_owner} {folder:o}, {owner} {mode:o}");
            if own != 0 && (folder_owner, owner) != (own, own) {
                continue; // These rows need root, as in the run on every filesystem.
            }
            std::fs::create_dir_all(path.join(&dead).join("full")).unwrap();
            let give = |path: &Path, owner: u32, mode: u32| {
                let dir = fs::open(path, DIR_FLAGS, Mode::empty()).unwrap();
                if owner != own {
                    fs::fchown(&dir, Some(fs::Uid::from_raw(owner)), None).unwrap();
                }
                fs::fchmod(&dir, meta::mode(mode)).unwrap();
                dir
            };
            give(&path.join(&dead), owner, mode);
            sweep(&give(&path, folder_owner, folder));
            assert_eq!(!path.join(&dead).try_exists().unwrap(), swept, "{row}");
            std::fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn only_what_the_dead_left_is_swept_at_once_and_nothing_that_is_held() {
        let temp = tempfile::tempdir().unwrap();
        let this = StageMaker::this();
        let dead = || StageMaker { start: this.start + 1, ..*this };
        let stranger = || StageMaker { world: this.world ^ 1, ..*this };
        for (row, maker, is_file, held, swept) in [
            ("a file of the dead", dead(), true, false, true),
            ("a folder of the dead", dead(), false, false, true),
            ("one that somebody holds", dead(), false, true, false),
            ("a file of the living", StageMaker { ..*this }, true, false, false),
            ("a folder of the living", StageMaker { ..*this }, false, false, false),
            // A maker that calve knows nothing about may live.
            ("a stranger's file", stranger(), true, false, false),
            ("a stranger's new folder", stranger(), false, false, false),
        ] {
            let folder = temp.path().join(row);
            let left = folder.join(maker.prefix() + "0123");
            std::fs::create_dir(&folder).unwrap();
            match is_file {
                true => std::fs::write(&left, "content").unwrap(),
                false => std::fs::create_dir(&left).unwrap(),
            }
            let holder = held.then(|| fs::open(&left, DIR_FLAGS, Mode::empty()).unwrap());
            if let Some(holder) = &holder {
                fs::flock(holder, FlockOperation::NonBlockingLockExclusive).unwrap();
            }
            let parent = fs::open(&folder, DIR_FLAGS, Mode::empty()).unwrap();
            fs::fchmod(&parent, meta::mode(0o700)).unwrap();
            sweep(&parent);
            assert_eq!(!left.try_exists().unwrap(), swept, "{row}");
            drop(holder);
        }
    }

    #[test]
    fn what_is_published_is_taken_back_but_nothing_that_stands_in_its_place_since() {
        let temp = tempfile::tempdir().unwrap();
        let left = || std::fs::read_dir(temp.path()).unwrap().count();
        for replaced in [false, true] {
            let parent = fs::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
            let mut stage = Stage::empty(parent, temp.path()).unwrap();
            stage.publish(c"tree").unwrap();
            if replaced {
                std::fs::rename(temp.path().join("tree"), temp.path().join("away")).unwrap();
                std::fs::create_dir(temp.path().join("tree")).unwrap();
            }
            stage.unpublish(c"tree");
            drop(stage);
            assert_eq!(temp.path().join("tree").try_exists().unwrap(), replaced);
            assert_eq!(left(), if replaced { 2 } else { 0 });
        }
    }

    #[test]
    fn a_stage_bears_the_mark_and_is_given_up_only_if_it_is_still_the_one_that_was_made() {
        let temp = tempfile::tempdir().unwrap();
        let open = || fs::open(temp.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let stage = Stage::empty(open(), temp.path()).unwrap();
        assert!(is_marked(&fs::fstat(stage.dir()).unwrap()));
        let place = stage.path();
        // Somebody who may write to the folder puts a tree that they may not delete in the stage's
        // place.
        std::fs::rename(&place, temp.path().join("aside")).unwrap();
        std::fs::create_dir_all(place.join("full")).unwrap();
        drop(stage);
        assert!(place.join("full").try_exists().unwrap());
        std::fs::remove_dir_all(&place).unwrap();

        let stage = Stage::empty(open(), temp.path()).unwrap();
        let place = stage.path();
        std::fs::create_dir(place.join("full")).unwrap();
        drop(stage);
        assert!(!place.try_exists().unwrap());

        let mut stage = Stage::empty(open(), temp.path()).unwrap();
        stage.publish(c"published").unwrap();
        assert!(!is_marked(&fs::fstat(stage.dir()).unwrap()));
    }
}

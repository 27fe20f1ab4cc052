//! Reads the list of mounts and their mount points, as proc_pid_mountinfo(5) describes it.

use std::ffi::CStr;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::reflink::filesystem::unescape_octal;

/// Whether something is mounted below `dir`. A snapshot would show the files under that mount. In
/// doubt the answer is yes.
pub(crate) fn any_below(dir: &Path) -> bool {
    points().is_none_or(|points| is_any_below(&points, dir))
}

/// The same, if [`points`] were told.
pub(crate) fn is_any_below(points: &[PathBuf], dir: &Path) -> bool {
    points.iter().any(|at| at != dir && at.starts_with(dir))
}

/// All mount points in this process's mount namespace. `None`: the system does not say.
pub(crate) fn points() -> Option<Vec<PathBuf>> {
    let list = std::fs::read("/proc/self/mountinfo").ok()?;
    Some(mounts_in(&list).map(|(_, mount)| mount.at).collect())
}

/// What is mounted below `dir`, a path without links, in this process's mount namespace. `None`: the
/// system does not say.
pub(crate) fn below(dir: &Path) -> Option<Vec<PathBuf>> {
    let points = points()?.into_iter();
    Some(points.filter(|at| at != dir && at.starts_with(dir)).collect())
}

/// Sees whether anything was mounted or unmounted since the last look.
#[derive(Debug)]
pub(super) struct Watch(Option<std::fs::File>);

impl Watch {
    pub(super) fn new() -> Self {
        let mounts = || std::fs::File::open("/proc/self/mountinfo").ok();
        Self(cfg!(any(target_os = "linux", target_os = "android")).then(mounts).flatten())
    }

    /// Whether all mounts are what they were at the last call, or in `new`. In doubt the answer is
    /// no.
    pub(super) fn is_unchanged(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(mounts) = &self.0 else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut watched = [PollFd::new(mounts, PollFlags::PRI)];
        // The kernel sets POLLPRI and POLLERR once for each change (proc_pid_mounts(5)).
        let polled = poll(&mut watched, Some(&now)).is_ok();
        polled && !watched[0].revents().intersects(PollFlags::PRI | PollFlags::ERR)
    }
}

/// Whether a filesystem with this device number is mounted. In doubt the answer is yes.
#[cfg(all(feature = "store", any(target_os = "linux", target_os = "android")))]
pub(crate) fn has_device(dev: u64) -> bool {
    let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return true };
    let device = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    // The third field is the device.
    let field = |line: &[u8]| line.split(|byte| *byte == b' ').nth(2) == Some(device.as_bytes());
    mounts.split(|byte| *byte == b'\n').any(field)
}

/// Other systems are not asked.
#[cfg(all(feature = "store", not(any(target_os = "linux", target_os = "android"))))]
pub(crate) fn has_device(_: u64) -> bool {
    false
}

/// Whether two paths are on one mount, so that nobody sees one of them without the other. `None`:
/// the system does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn are_on_one_mount(one: &Path, other: &Path) -> Option<bool> {
    use rustix::fs::CWD;
    same_mount((CWD, one), (CWD, other))
}

/// The same for two entries below open folders. A link is not followed.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn same_mount(
    one: (BorrowedFd<'_>, &Path),
    other: (BorrowedFd<'_>, &Path),
) -> Option<bool> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let mount = |(dir, path): (BorrowedFd<'_>, &Path)| {
        let stat = statx(dir, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).ok()?;
        (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
    };
    Some(mount(one)? == mount(other)?)
}

/// Other systems refuse no rename within a filesystem.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn same_mount(_: (BorrowedFd<'_>, &Path), _: (BorrowedFd<'_>, &Path)) -> Option<bool> {
    None
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn are_on_one_mount(_: &Path, _: &Path) -> Option<bool> {
    None
}

/// Whether the directory `dir` is `name` in `folder` or below it, on the filesystem itself. An
/// empty name means the folder. A walk up by `..` would not tell: in a bind mount it leads to the
/// folder that the mount is in. If in doubt, the answer is no.
pub(super) fn is_inside(dir: &OwnedFd, folder: &OwnedFd, name: &CStr) -> bool {
    inside(dir, folder, name).unwrap_or(false)
}

/// Like [`is_inside`], but if in doubt, the answer is yes.
pub(super) fn may_be_inside(dir: &OwnedFd, folder: &OwnedFd, name: &CStr) -> bool {
    inside(dir, folder, name).unwrap_or(true)
}

fn inside(dir: &OwnedFd, folder: &OwnedFd, name: &CStr) -> Option<bool> {
    let ((device, path), (outer_device, folder)) = (place_of(dir)?, place_of(folder)?);
    let folder = folder.join(OsStr::from_bytes(name.to_bytes()));
    Some(device == outer_device && path.starts_with(folder))
}

/// A line of a list of mounts (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Major and minor number of the filesystem.
    pub(crate) device: Vec<u8>,
    /// The directory that is mounted, from the root of the filesystem.
    pub(crate) root: PathBuf,
    /// The mount point.
    pub(crate) at: PathBuf,
}

/// The mounts of a list, with their numbers.
pub(crate) fn mounts_in(list: &[u8]) -> impl Iterator<Item = (Vec<u8>, Mount)> {
    list.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = fields.next()?.to_vec();
        // The parent is between them.
        let device = fields.nth(1)?.to_vec();
        let mut path = || {
            let field = unescape_octal(fields.next()?);
            Some(Path::new(OsStr::from_bytes(&field)).to_owned())
        };
        Some((id, Mount { device, root: path()?, at: path()? }))
    })
}

/// The filesystem of an open directory, and its path from the root of that filesystem.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn place_of(dir: &OwnedFd) -> Option<(Vec<u8>, PathBuf)> {
    use std::os::fd::AsRawFd;

    let fd = dir.as_raw_fd();
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
    let (_, mount) = mounts_in(&mounts).find(|(number, _)| number == id.as_bytes())?;
    Some((mount.device, mount.root.join(path.strip_prefix(mount.at).ok()?)))
}

/// See [`place_of`]. calve does not ask elsewhere.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn place_of(_: &OwnedFd) -> Option<(Vec<u8>, PathBuf)> {
    None
}

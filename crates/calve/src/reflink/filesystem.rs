//! What calve believes of a filesystem: one table, by the filesystem's name.
//!
//! A filesystem says where a file has holes, how large it is, which names are one file, and when a
//! file changed. Filesystems in user space, from a host or from a server may say something else
//! than what `read(2)` gives. So calve believes these answers only of filesystems that were tested
//! (docs/filesystems.md). Elsewhere it reads, compares, or asks again.

use std::path::Path;
#[cfg(unix)]
use std::sync::{PoisonError, RwLock};

use super::sys;

/// Whether two files of a filesystem can share blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SharesBlocks {
    /// Never, however it is set up.
    Never,
    /// That depends on its version, its settings or the server.
    Maybe,
    /// As it is usually made.
    Usually,
}

/// A filesystem, and which of its answers calve believes.
#[derive(Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Filesystem {
    /// Its name (`xfs`, `btrfs`, …), or `unknown`.
    pub name: &'static str,
    /// Whether calve was tested on it. If not, calve believes only what the kernel itself does.
    pub is_tested: bool,
    /// A range that is reported as a hole has no data (`st_blocks`, `SEEK_DATA`).
    pub holes: bool,
    /// A file has as many bytes as its size says.
    pub sizes: bool,
    /// Two names with one inode number are one file, and the number stays.
    pub inodes: bool,
    /// Each change gets a time with nanoseconds, of the machine's own clock.
    pub clock: bool,
    /// A lock that one process has is refused to all others.
    pub locks: bool,
    /// All processes that map a file see the same memory, as SQLite's log needs it.
    pub shared_memory: bool,
    /// `syncfs(2)` writes everything to the disk.
    pub flushes: bool,
    /// Whether blocks can be shared.
    pub shares: SharesBlocks,
    /// calve makes trees there as snapshots of subvolumes, and knows by a number when one changed.
    pub has_subvolumes: bool,
    /// A file that is mapped and has all its blocks may need more of them when it is written; and
    /// files can be made as long as there is room.
    pub(crate) mapped_needs_room: bool,
    /// A flush of any file or folder writes all earlier changes of names and metadata: the filesystem
    /// has one log, and writes it in its order (Linux'
    /// Documentation/filesystems/xfs/xfs-delayed-logging-design). ext4 may have no journal.
    pub(crate) has_one_log: bool,
    /// Blocks are shared within one device number only. btrfs has a number for each subvolume, and
    /// others share between mounts, too.
    pub(crate) shares_on_one_device: bool,
    /// The space that entries take.
    pub(crate) entry_space: EntrySpace,
}

/// Which of a filesystem's own structures for a tree's entries count as used space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EntrySpace {
    /// Directories have blocks of their own, and nothing else counts.
    Directories,
    /// An inode takes this many bytes, and directories have blocks.
    Inodes(u64),
    /// Items in a tree that all files of a subvolume share.
    Items,
}

/// A filesystem that was tested.
const fn tested(name: &'static str, shares: SharesBlocks) -> Filesystem {
    Filesystem {
        name,
        is_tested: true,
        holes: true,
        sizes: true,
        inodes: true,
        clock: true,
        locks: true,
        shared_memory: true,
        flushes: true,
        shares,
        has_subvolumes: false,
        mapped_needs_room: false,
        has_one_log: false,
        shares_on_one_device: false,
        entry_space: EntrySpace::Directories,
    }
}

/// A filesystem of the machine's own kernel that was not tested. Locks, memory and flushes are the
/// kernel's own work there.
const fn local(name: &'static str, shares: SharesBlocks) -> Filesystem {
    Filesystem {
        is_tested: false,
        holes: false,
        sizes: false,
        inodes: false,
        clock: false,
        ..tested(name, shares)
    }
}

/// A filesystem behind another program or machine.
const fn remote(name: &'static str) -> Filesystem {
    Filesystem {
        locks: false,
        shared_memory: false,
        flushes: false,
        ..local(name, SharesBlocks::Maybe)
    }
}

use SharesBlocks::{Maybe, Never, Usually};

static TABLE: &[Filesystem] = &[
    Filesystem {
        has_one_log: true,
        shares_on_one_device: true,
        entry_space: EntrySpace::Inodes(512),
        ..tested("xfs", Usually)
    },
    Filesystem {
        has_subvolumes: true,
        mapped_needs_room: true,
        entry_space: EntrySpace::Items,
        ..tested("btrfs", Usually)
    },
    tested("bcachefs", Usually),
    tested("zfs", Maybe),
    tested("overlay", Maybe),
    tested("ext4", Never),
    tested("tmpfs", Never),
    tested("apfs", Maybe),
    local("hfs", Never),
    local("ntfs", Never),
    local("ext2/ext3/ext4", Never),
    local("ext2", Never),
    local("ext3", Never),
    local("ramfs", Never),
    local("f2fs", Never),
    local("vfat", Never),
    local("msdos", Never),
    local("exfat", Never),
    local("ntfs3", Never),
    local("hfsplus", Never),
    local("jfs", Never),
    local("reiserfs", Never),
    local("nilfs2", Never),
    local("ufs", Never),
    local("squashfs", Never),
    local("erofs", Never),
    local("iso9660", Never),
    local("udf", Never),
    local("ocfs2", Maybe),
    remote("fuse"),
    remote("virtiofs"),
    remote("9p"),
    remote("nfs"),
    remote("smb"),
    remote("ceph"),
];

static UNKNOWN: Filesystem = remote("unknown");

/// An overlay over a filesystem that was not tested. It asks that one for nearly everything.
#[cfg(any(target_os = "linux", target_os = "android"))]
static OVER_UNTESTED: Filesystem = Filesystem { flushes: false, ..local("overlay", Maybe) };

impl Filesystem {
    /// The filesystem of `path`. It is `unknown` if calve does not know it, or if the system does
    /// not say.
    #[must_use]
    pub fn of(path: impl AsRef<Path>) -> &'static Self {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use rustix::fs::{Mode, OFlags, open};
            // Nothing is read, so no right is needed and no pipe waits.
            if let Ok(file) = open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                return Self::of_file(file);
            }
        }
        Self::named(sys::filesystem_name(path.as_ref()).as_deref())
    }

    /// The filesystem of an open file.
    #[cfg(unix)]
    pub(crate) fn of_file(file: impl std::os::fd::AsFd) -> &'static Self {
        let found = Self::named(sys::filesystem_name_of(&file).as_deref());
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if found.name == OVER_UNTESTED.name && overlay::is_over_untested(file.as_fd()) {
            return &OVER_UNTESTED;
        }
        found
    }

    /// The filesystem of that name.
    pub(crate) fn named(name: Option<&str>) -> &'static Self {
        let is_it = |row: &&Self| name.is_some_and(|name| row.name.eq_ignore_ascii_case(name));
        TABLE.iter().find(is_it).unwrap_or(&UNKNOWN)
    }
}

/// What is below an overlay, as the list of mounts says (proc_pid_mountinfo(5)).
#[cfg(any(target_os = "linux", target_os = "android"))]
mod overlay {
    use std::ffi::OsStr;
    use std::os::fd::{AsRawFd as _, BorrowedFd};
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    use super::{Filesystem, unescape_octal};

    /// Whether a layer is on a filesystem that was not tested. The layers of a container are often
    /// out of sight inside it. Those count as tested: the runtimes keep them on local disks, and
    /// overlayfs refuses most others.
    pub(super) fn is_over_untested(file: BorrowedFd<'_>) -> bool {
        let options = options(file).unwrap_or_default();
        layers(&options).iter().any(|layer| {
            let path = Path::new(OsStr::from_bytes(layer));
            path.is_absolute()
                && std::fs::symlink_metadata(path).is_ok()
                && !Filesystem::of(path).is_tested
        })
    }

    /// The overlay's options. `None` without /proc.
    fn options(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
        let info = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
        let info = std::fs::read_to_string(info).ok()?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
        let mounts = std::fs::read("/proc/self/mountinfo").ok()?;
        let mut lines = mounts.split(|byte| *byte == b'\n');
        let line =
            lines.find(|line| line.split(|byte| *byte == b' ').next() == Some(id.as_bytes()));
        line?.rsplit(|byte| *byte == b' ').next().map(unescape_octal)
    }

    pub(super) fn layers(options: &[u8]) -> Vec<Vec<u8>> {
        let mut layers = Vec::new();
        for option in split(options, b',') {
            let Some(at) = option.iter().position(|byte| *byte == b'=') else { continue };
            match &option[..at] {
                b"lowerdir" => layers.extend(split(&option[at + 1..], b':')),
                b"upperdir" | b"lowerdir+" | b"datadir+" => layers.push(option[at + 1..].to_vec()),
                _ => {}
            }
        }
        layers.retain(|layer| !layer.is_empty());
        layers
    }

    /// Splits at a byte that has no backslash before it, and takes that away.
    fn split(text: &[u8], at: u8) -> Vec<Vec<u8>> {
        let (mut parts, mut part) = (Vec::new(), Vec::new());
        let mut bytes = text.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            if byte == at {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            let escaped = (byte == b'\\').then(|| bytes.next_if_eq(&at)).flatten();
            part.push(escaped.unwrap_or(byte));
        }
        parts.push(part);
        parts
    }
}

/// The tables of the kernel write spaces and some other characters as octal escapes.
#[cfg(unix)]
pub(crate) fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The filesystems that an operation met, by device: it asks once for each.
#[cfg(unix)]
#[derive(Debug, Default)]
pub(crate) struct Filesystems(RwLock<Vec<(u64, &'static Filesystem)>>);

#[cfg(unix)]
impl Filesystems {
    /// The filesystem of an open file on the device `dev`.
    pub(crate) fn of(&self, file: impl std::os::fd::AsFd, dev: u64) -> &'static Filesystem {
        if let Some(found) = self.known(dev) {
            return found;
        }
        let found = Filesystem::of_file(file);
        self.0.write().unwrap_or_else(PoisonError::into_inner).push((dev, found));
        found
    }

    /// Whether the clock of a filesystem that the operation has met is believed.
    #[cfg(feature = "store")]
    pub(crate) fn has_clock(&self, dev: u64) -> bool {
        self.known(dev).is_some_and(|found| found.clock)
    }

    /// The filesystem on this device, if the operation has met it.
    pub(crate) fn known(&self, dev: u64) -> Option<&'static Filesystem> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(of, _)| *of == dev).map(|(_, found)| *found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_believed_of_filesystems_that_were_tested_and_of_no_other() {
        for (name, is_tested, locks, shares) in [
            (Some("xfs"), true, true, Usually),
            (Some("btrfs"), true, true, Usually),
            (Some("ext4"), true, true, Never),
            (Some("EXT4"), true, true, Never),
            (Some("tmpfs"), true, true, Never),
            (Some("overlay"), true, true, Maybe),
            (Some("zfs"), true, true, Maybe),
            (Some("f2fs"), false, true, Never),
            (Some("fuse"), false, false, Maybe),
            (Some("nfs"), false, false, Maybe),
            (Some("made-up"), false, false, Maybe),
            (None, false, false, Maybe),
        ] {
            let found = Filesystem::named(name);
            assert_eq!((found.is_tested, found.locks, found.shares), (is_tested, locks, shares));
            let believed = [found.holes, found.sizes, found.inodes, found.clock];
            assert_eq!(believed, [is_tested; 4], "{name:?}");
            assert_eq!(found.shared_memory && found.flushes, locks, "{name:?}");
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn the_layers_of_an_overlay_are_read_from_its_options() {
        let rows: &[(&str, &[&str])] = &[
            ("rw,lowerdir=/a,upperdir=/u,workdir=/w", &["/a", "/u"]),
            ("rw,lowerdir=/a:/b::/data,xino=off", &["/a", "/b", "/data"]),
            ("rw,lowerdir+=/a,lowerdir+=/b,datadir+=/c", &["/a", "/b", "/c"]),
            ("rw,lowerdir=/with\\:colon:/with\\,comma", &["/with:colon", "/with,comma"]),
            ("rw", &[]),
        ];
        for (options, layers) in rows {
            let found = overlay::layers(options.as_bytes());
            assert!(
                found.iter().map(Vec::as_slice).eq(layers.iter().map(|it| it.as_bytes())),
                "{options}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn mount_points_are_compared_with_their_escapes_undone() {
        for (field, expected) in [
            (&b"/a"[..], &b"/a"[..]),
            (b"/a\\040b", b"/a b"),
            (b"/a\\134040", b"/a\\040"),
            (b"/a\\", b"/a\\"),
            (b"/a\\9", b"/a\\9"),
        ] {
            assert_eq!(unescape_octal(field), expected);
        }
    }

    #[test]
    fn no_name_stands_twice_in_the_table() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(Filesystem::named(Some(row.name)), row);
            assert!(TABLE[..at].iter().all(|other| other.name != row.name), "{}", row.name);
        }
    }
}

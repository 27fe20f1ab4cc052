//! The odd tree: one of everything that a careless copy loses.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::hash::{DefaultHasher, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::{bytes, is_root};

/// The places of data and holes: the size, and the runs of data.
type Sparse = (&'static str, u64, &'static [(u64, usize)]);

const SPARSE: &[Sparse] = &[
    ("all-hole", 1 << 20, &[]),
    ("hole-at-the-end", 1 << 20, &[(0, 65536)]),
    ("hole-at-the-start", 1 << 20, &[(983_040, 65536)]),
    ("holes-between", 1 << 20, &[(131_072, 65536), (393_216, 65536), (786_432, 4096)]),
    ("hole-and-odd-size", 300_001, &[(0, 4096)]),
    ("odd-tail", 300_001, &[(262_144, 37_857)]),
];

const SIZES: &[usize] = &[0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 65535, 65536, 65537, 1_048_577];

/// Builds it at `root`, which must not exist. All metadata is set by name, so it is the same under
/// any umask.
#[expect(clippy::too_many_lines, reason = "a list: one step for each odd entry")]
pub(crate) fn build(root: &Path) {
    let dir = |name: &str| {
        let path = root.join(name);
        fs::create_dir(&path).unwrap();
        chmod(&path, 0o755);
        path
    };
    fs::create_dir(root).unwrap();

    let at = dir("sizes");
    for size in SIZES {
        file(&at.join(format!("{size}")), *size as u64, 0o644, *size);
    }
    let at = dir("modes");
    for mode in [0o600, 0o640, 0o664, 0o777, 0o444, 0o400, 0o000, 0o4755, 0o2755, 0o6711, 0o1644] {
        file(&at.join(format!("{mode:04o}")), u64::from(mode), mode, 3000);
    }
    let at = dir("folders");
    let closed = if is_root() { 0o000 } else { 0o500 };
    for mode in [0o555, 0o500, 0o700, 0o711, 0o775, 0o777, 0o1777, 0o2775, 0o2555, closed] {
        let at = at.join(format!("{mode:04o}"));
        if fs::create_dir(&at).is_ok() {
            file(&at.join("file"), u64::from(mode), 0o644, 100);
            fs::create_dir(at.join("folder")).unwrap();
            chmod(&at.join("folder"), 0o755);
            chmod(&at, mode);
        }
    }
    dir("empty");

    let at = dir("sparse");
    for (name, size, runs) in SPARSE {
        let sparse = File::create_new(at.join(name)).unwrap();
        sparse.set_len(*size).unwrap();
        for (offset, length) in *runs {
            sparse.write_all_at(&bytes(*offset, *length), *offset).unwrap();
        }
        sparse.sync_all().unwrap();
        chmod(&at.join(name), 0o640);
    }

    let at = dir("links");
    let long = "long/".repeat(200);
    for (name, target) in [
        ("dangling", "nowhere"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
        ("self", "self"),
        ("absolute", "/etc/hostname"),
        ("to-a-folder", "../folders/1777"),
        ("up", ".."),
        ("out", "../../../.."),
        ("long", long.as_str()),
        ("with\nnewline", "a\nb"),
    ] {
        symlink(target, at.join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(b"\xff\xfe/\xc3"), at.join("not-utf-8")).unwrap();

    let (here, there) = (dir("hard"), dir("hard-too"));
    let below = here.join("below");
    fs::create_dir(&below).unwrap();
    chmod(&below, 0o555);
    chmod(&below, 0o755);
    for (name, mode, size) in [("a", 0o644, 5000), ("set-id", 0o4755, 100_000), ("empty", 0o600, 0)]
    {
        file(&here.join(name), 7, mode, size);
        fs::hard_link(here.join(name), there.join(name)).unwrap();
        fs::hard_link(here.join(name), below.join(name)).unwrap();
        fs::hard_link(here.join(name), here.join(format!("{name}-too"))).unwrap();
    }
    symlink("a", here.join("link")).unwrap();
    rustix::fs::mknodat(CWD, here.join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    chmod(&here.join("pipe"), 0o640);
    for name in ["link", "pipe"] {
        fs::hard_link(here.join(name), there.join(name)).unwrap();
        fs::hard_link(here.join(name), below.join(name)).unwrap();
    }
    // A name of it is outside the tree.
    let outside = root.with_extension("outside");
    file(&outside, 8, 0o644, 4096);
    fs::hard_link(&outside, here.join("one-name-inside")).unwrap();

    let at = dir("names");
    let long = [b'n'; 255];
    for name in [
        &long[..],
        b"\xff\xfe\x80",
        b"a\nb",
        b" ",
        b"-rf",
        b"...",
        b"\\",
        b"'\"$(x)*?[",
        b"\x1b[2J",
        b"\x01",
        "é".as_bytes(),
        "e\u{301}".as_bytes(),
    ] {
        file(&at.join(OsStr::from_bytes(name)), name.len() as u64, 0o644, 10);
    }
    let closed = at.join(OsStr::from_bytes(&[&b"\xf0\n"[..], &long[2..]].concat()));
    fs::create_dir(&closed).unwrap();
    chmod(&closed, 0o755);
    file(&closed.join("file"), 1, 0o644, 10);

    // Twelve names of 250 bytes: 3,012 bytes of path below the root.
    let mut at = dir("deep");
    for level in 0..12 {
        at.push(format!("{level:0250}"));
        fs::create_dir(&at).unwrap();
        chmod(&at, 0o755);
    }
    file(&at.join("bottom"), 9, 0o644, 5000);
    symlink("bottom", at.join("link")).unwrap();

    let at = dir("special");
    for (name, kind, mode) in [("fifo", FileType::Fifo, 0o622), ("socket", FileType::Socket, 0o755)]
    {
        rustix::fs::mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(0o600), 0).unwrap();
        chmod(&at.join(name), mode);
    }

    attributes(&dir("attributes"));
    acls(&dir("acls"));
    if is_root() {
        owners(&dir("owners"));
    }
    chmod(root, 0o751);
    let _ = set_xattr(root, "user.root", b"of the root");
    stamp(root);
}

fn attributes(at: &Path) {
    // If there are no user attributes here, there is nothing to lose.
    if set_xattr(at, "user.folder", b"value").is_err() {
        return;
    }
    for (name, mode) in
        [("plain", 0o644), ("read-only", 0o444), ("closed", 0o000), ("set-id", 0o6755)]
    {
        let path = at.join(name);
        file(&path, 3, 0o644, 5000);
        set_xattr(&path, "user.short", b"1").unwrap();
        set_xattr(&path, "user.empty", b"").unwrap();
        set_xattr(&path, "user.long", &bytes(1, 2000)).unwrap();
        chmod(&path, mode);
    }
    file(&at.join("no-content"), 3, 0o644, 0);
    set_xattr(&at.join("no-content"), "user.short", b"2").unwrap();
    let folder = at.join("read-only-folder");
    fs::create_dir(&folder).unwrap();
    set_xattr(&folder, "user.short", b"3").unwrap();
    chmod(&folder, 0o555);
    if is_root() {
        file(&at.join("capable"), 4, 0o755, 5000);
        // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, permitted and effective.
        let mut capability = [0; 20];
        capability[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
        capability[4..8].copy_from_slice(&(1_u32 << 10).to_le_bytes());
        set_xattr(&at.join("capable"), "security.capability", &capability).unwrap();
        file(&at.join("trusted"), 5, 0o644, 10);
        set_xattr(&at.join("trusted"), "trusted.calve", b"6").unwrap();
    }
}

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// A POSIX ACL as Linux keeps it in an attribute: a version, then tag, permissions and id of each
/// entry.
pub(crate) fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// The rights that such an ACL gives to the file's own group.
pub(crate) fn group_of(acl: &[u8]) -> u32 {
    let of = |tag: u16| acl[4..].chunks(8).find(|entry| entry[..2] == tag.to_le_bytes());
    let rights = |entry: &[u8]| u32::from(entry[2]);
    of(GROUP_OBJ).map_or(0, rights) & of(MASK).map_or(7, rights)
}

/// An ACL that gives rights to one user and one group.
pub(crate) fn some_acl() -> Vec<u8> {
    let none = u32::MAX;
    acl(&[
        (USER_OBJ, 7, none),
        (USER, 6, 1234),
        (GROUP_OBJ, 5, none),
        (GROUP, 7, 5678),
        (MASK, 7, none),
        (OTHER, 1, none),
    ])
}

/// A default ACL on a folder; `false` where the filesystem has none.
pub(crate) fn set_default_acl(folder: &Path) -> bool {
    set_xattr(folder, "system.posix_acl_default", &some_acl()).is_ok()
}

fn acls(at: &Path) {
    file(&at.join("file"), 5, 0o640, 5000);
    if set_xattr(&at.join("file"), "system.posix_acl_access", &some_acl()).is_err() {
        return;
    }
    file(&at.join("read-only"), 5, 0o640, 5000);
    let none = u32::MAX;
    let narrow = acl(&[
        (USER_OBJ, 4, none),
        (USER, 4, 1234),
        (GROUP_OBJ, 0, none),
        (MASK, 4, none),
        (OTHER, 0, none),
    ]);
    set_xattr(&at.join("read-only"), "system.posix_acl_access", &narrow).unwrap();
    let folder = at.join("folder");
    fs::create_dir(&folder).unwrap();
    // An entry that is made before the default ACL has none, and one that is made after has one.
    file(&folder.join("before"), 5, 0o600, 10);
    fs::create_dir(folder.join("folder-before")).unwrap();
    chmod(&folder.join("folder-before"), 0o700);
    set_xattr(&folder, "system.posix_acl_access", &some_acl()).unwrap();
    assert!(set_default_acl(&folder));
    File::create_new(folder.join("after")).unwrap();
    fs::create_dir(folder.join("folder-after")).unwrap();
}

fn owners(at: &Path) {
    for (name, mode) in [("file", 0o640), ("set-id", 0o6755), ("closed", 0o000)] {
        file(&at.join(name), 6, 0o600, 5000);
        lchown(at.join(name), Some(1234), Some(5678)).unwrap();
        chmod(&at.join(name), mode);
    }
    file(&at.join("group"), 6, 0o2750, 10);
    lchown(at.join("group"), None, Some(5678)).unwrap();
    chmod(&at.join("group"), 0o2750);
    symlink("file", at.join("link")).unwrap();
    lchown(at.join("link"), Some(1234), Some(5678)).unwrap();
    let folder = at.join("folder");
    fs::create_dir(&folder).unwrap();
    file(&folder.join("file"), 6, 0o600, 10);
    lchown(&folder, Some(1234), Some(5678)).unwrap();
    chmod(&folder, 0o3770);
    rustix::fs::mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    lchown(at.join("fifo"), Some(1234), Some(5678)).unwrap();
    file(&at.join("attributes"), 6, 0o444, 5000);
    let _ = set_xattr(&at.join("attributes"), "user.short", b"1");
    lchown(at.join("attributes"), Some(1234), Some(5678)).unwrap();
}

/// A file with content of its own and exactly this mode.
pub(crate) fn file(path: &Path, seed: u64, mode: u32, size: usize) {
    fs::write(path, bytes(seed, size)).unwrap();
    chmod(path, mode);
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn set_xattr(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
}

/// Gives every entry a time of its own, to the nanosecond: some before 1970, some after 2038.
pub(crate) fn stamp(root: &Path) {
    let mut dirs = vec![root.to_owned()];
    let mut all = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            all.push(entry.path());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    for path in all.iter().rev() {
        let mut hasher = DefaultHasher::new();
        hasher.write(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
        let hash = hasher.finish();
        let nanoseconds = i64::try_from(hash % 1_000_000_000).unwrap();
        let seconds = [-123_456_789, 0, 946_684_800, 1_700_000_000, 2_300_000_000];
        let seconds = seconds[usize::try_from(hash >> 32).unwrap() % seconds.len()];
        set_mtime(path, seconds, nanoseconds);
    }
}

/// Sets the modification time of the entry itself, even if it is a link.
pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

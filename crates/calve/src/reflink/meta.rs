//! Carries an entry's metadata over, in the same way for every method: owner (if allowed), mode,
//! times to the nanosecond, extended attributes and POSIX ACLs (which Linux keeps as attributes).
//!
//! The order is an invariant: the owner first (it clears set-user-ID), then the attributes (writing
//! content and changing the owner both strip capabilities), then the mode, then the ACLs (they
//! carry the mode's group bits), and the times last.
//!
//! If an entry has an ACL, the group bits of its mode are the ACL's mask: the most that any named
//! user or group may do. Without the ACL, these bits would give all that to the entry's own group.
//! So if calve leaves the ACL behind, the group bits become the rights that the ACL gives to that
//! group.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::refusal::{NO_SUCH_ATTR, SystemCall};
use super::rights;

/// The nanoseconds of a time that stays as it is. Their type differs between systems.
const OMIT: i64 = fs::UTIME_OMIT as _;

/// The fields of a `stat` that calve keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    times: [(i64, i64); 2],
    /// When the inode last changed: seconds and nanoseconds.
    pub(crate) changed: (i64, i64),
}

impl Meta {
    #[allow(
        clippy::allow_attributes,
        clippy::useless_conversion,
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the fields' types differ from platform to platform, and so does what is needless"
    )]
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            mode: stat.st_mode as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink as u64,
            size: (stat.st_size as i64).unsigned_abs(),
            blocks: (stat.st_blocks as i64).unsigned_abs(),
            times: [
                (stat.st_atime as i64, stat.st_atime_nsec as i64),
                (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ],
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    pub(crate) fn of_file(file: impl AsFd) -> rustix::io::Result<Self> {
        Ok(Self::of(&fs::fstat(file)?))
    }

    /// Of the entry itself, also if it is a symbolic link.
    pub(crate) fn at(dir: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<Self> {
        Ok(Self::of(&fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// The metadata for an entry that has no inode yet: an owner, a mode with its file type, and
    /// the modification time. The access time stays as it is.
    pub(crate) fn wanted(mode: u32, (uid, gid): (u32, u32), modified: (i64, i64)) -> Self {
        Self {
            dev: 0,
            ino: 0,
            mode,
            uid,
            gid,
            links: 1,
            size: 0,
            blocks: 0,
            times: [(0, OMIT), modified],
            changed: (0, 0),
        }
    }

    /// The metadata for an entry that keeps the times that making it gives to it.
    pub(crate) fn made_now(mode: u32, owner: (u32, u32)) -> Self {
        Self::wanted(mode, owner, (0, OMIT))
    }

    fn keeps_times(&self) -> bool {
        self.times.iter().all(|(_, nanoseconds)| *nanoseconds == OMIT)
    }

    /// When the content was last modified: seconds and nanoseconds.
    pub(crate) fn modified(&self) -> (i64, i64) {
        self.times[1]
    }

    /// Whether another file has the same kind, rights, size and time.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.mode, self.size, self.modified()) == (other.mode, other.size, other.modified())
    }

    /// Names the mode (if one was `given`) and the times, if the filesystem accepted them and
    /// then has others: FAT on a network share, FUSE filesystems with fixed modes, servers with 32
    /// bits for a time. Coarse times, of two seconds on FAT, are no others.
    fn name_forgotten(&self, found: &Self, given: Option<Mode>, refused: &mut Vec<String>) {
        let mut forgot = |name: &str| {
            if !refused.iter().any(|other| other == name) {
                refused.push(name.to_owned());
            }
        };
        if given.is_some_and(|given| mode(found.permissions()) != given) {
            forgot("mode");
        }
        if !self.keeps_times() && found.modified().0.abs_diff(self.modified().0) > 2 {
            forgot("times");
        }
    }

    /// Whether nothing happened to the inode since it had this stat.
    pub(crate) fn is_still(&self, before: &Self) -> bool {
        self.is_still_but_for_names(before) && self.changed == before.changed
    }

    /// Whether it is the same inode with the same content, as far as size and time show. A rename
    /// changes neither.
    pub(crate) fn is_still_but_for_names(&self, before: &Self) -> bool {
        self.id() == before.id()
            && (self.mode, self.size) == (before.mode, before.size)
            && self.modified() == before.modified()
    }

    /// Whether the file still has the content that it had at the stat `before`, as far as size and
    /// times show. A change of its names or rights counts as one of the content.
    pub(crate) fn has_content_of(&self, before: &Self) -> bool {
        (self.size, self.modified(), self.changed)
            == (before.size, before.modified(), before.changed)
    }

    /// The same, but with the times of another file.
    pub(crate) fn with_times_of(self, other: &Self) -> Self {
        Self { times: other.times, ..self }
    }

    /// When the content was last read, if the filesystem records that: seconds and nanoseconds.
    pub(crate) fn accessed(&self) -> (i64, i64) {
        self.times[0]
    }

    pub(crate) fn id(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    #[cfg_attr(
        not(any(target_os = "linux", target_os = "android")),
        expect(
            clippy::cast_possible_truncation,
            reason = "16 bits hold every mode where that is its type"
        )
    )]
    pub(crate) fn file_type(&self) -> fs::FileType {
        fs::FileType::from_raw_mode(self.mode as _)
    }

    /// The permission bits, with set-ID and sticky.
    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// The same, but with other permission bits.
    pub(crate) fn with_permissions(self, permissions: u32) -> Self {
        Self { mode: self.mode & !0o7777 | permissions, ..self }
    }

    /// The permissions of an entry whose ACL stays behind.
    fn without_acl(self, acl: &[u8]) -> Self {
        match group_rights(acl) {
            Some(rights) => Self { mode: self.mode & !0o070 | rights << 3, ..self },
            None => self,
        }
    }

    /// The permissions of an open file or directory, whose ACL (if any) stays behind.
    pub(crate) fn leaving_acl(self, file: impl AsFd) -> io::Result<Self> {
        let file = file.as_fd();
        self.leaving_acl_of(|buffer| xattr::fgetxattr(file, ACL_ACCESS, buffer))
    }

    /// Like [`Meta::leaving_acl`], for an entry that cannot be opened. Uses its path through the
    /// open directory. Without /proc the mode stays as it is.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn leaving_acl_at(self, dir: impl AsFd, name: &CStr) -> io::Result<Self> {
        use std::os::fd::AsRawFd;
        let mut path = format!("/proc/self/fd/{}/", dir.as_fd().as_raw_fd()).into_bytes();
        path.extend(name.to_bytes());
        self.leaving_acl_of(|buffer| fs::lgetxattr(path.as_slice(), ACL_ACCESS, buffer))
    }

    /// On other systems ACLs are no attributes, and no part of the mode.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn leaving_acl_at(self, _dir: impl AsFd, _name: &CStr) -> io::Result<Self> {
        Ok(self)
    }

    fn leaving_acl_of(
        self,
        mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
    ) -> io::Result<Self> {
        if self.mode & 0o070 == 0 {
            return Ok(self); // There is nothing to narrow.
        }
        let mut buffer = [0; 256];
        match read(&mut buffer) {
            Ok(length) => Ok(self.without_acl(&buffer[..length])),
            Err(Errno::RANGE) => Ok(self.without_acl(&grow(read)?)),
            Err(Errno::NOENT) => Ok(self),
            Err(errno) if SystemCall::ReadAttribute.is_unavailable(errno) => Ok(self),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn timestamps(&self) -> Timestamps {
        let [access, modification] = self.times.map(|(seconds, nanoseconds)| Timespec {
            tv_sec: seconds as _,
            tv_nsec: nanoseconds as _,
        });
        Timestamps { last_access: access, last_modification: modification }
    }
}

/// The mode as the platform's type.
#[cfg_attr(
    not(any(target_os = "linux", target_os = "android")),
    expect(
        clippy::cast_possible_truncation,
        reason = "16 bits hold every mode where that is its type"
    )
)]
pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits as _)
}

/// Extended attributes: names and values.
#[derive(Debug)]
pub(crate) struct Attrs {
    /// `None`: the system lists the attribute and does not let us read it.
    found: Vec<(CString, Option<Vec<u8>>)>,
    /// There may be more: the list of names is longer than the system returns (64 KiB on Linux),
    /// or a sandbox refuses it.
    unlisted: bool,
}

/// The name of attributes without a name.
const UNLISTED: &str = "attributes that the system does not list";

const ACL_ACCESS: &CStr = c"system.posix_acl_access";
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";

/// The rights that an ACL gives to the entry's own group, as three bits. An ACL is a version (4
/// bytes) and entries of 8 bytes: a tag, the rights, and the id; all little-endian
/// (`linux/posix_acl_xattr.h`). `None` if these bytes are no ACL.
fn group_rights(acl: &[u8]) -> Option<u32> {
    const GROUP_OBJ: u16 = 0x04;
    const MASK: u16 = 0x10;
    let entries = acl.strip_prefix(&2_u32.to_le_bytes())?;
    let find = |wanted: u16| {
        entries.chunks_exact(8).find_map(|entry| {
            let field = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            (field(0) == wanted).then(|| u32::from(field(2)) & 7)
        })
    };
    Some(find(GROUP_OBJ)? & find(MASK).unwrap_or(7))
}

/// Whether an attribute must not travel. Some labels and hashes belong to the inode or to the
/// policy of the place, and some attributes are overlayfs' own bookkeeping.
fn stays(name: &[u8]) -> bool {
    matches!(
        name,
        b"security.selinux"
            | b"security.ima"
            | b"security.evm"
            | b"security.SMACK64"
            | b"system.nfs4_acl"
    ) || name.starts_with(b"trusted.overlay.")
        || name.starts_with(b"trusted.SGI_")
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod xattr {
    pub(super) use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
}

/// Other systems have other attributes (extattr(2) on FreeBSD), which calve does not carry over.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod xattr {
    use std::ffi::CStr;
    use std::os::fd::BorrowedFd;

    use rustix::io::{Errno, Result};

    pub(super) struct XattrFlags;

    impl XattrFlags {
        pub(super) fn empty() -> Self {
            Self
        }
    }

    pub(super) fn flistxattr(_file: BorrowedFd<'_>, _list: &mut [u8]) -> Result<usize> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn fgetxattr(
        _file: BorrowedFd<'_>,
        _name: &CStr,
        _value: &mut [u8],
    ) -> Result<usize> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn fsetxattr(_: BorrowedFd<'_>, _: &CStr, _: &[u8], _: XattrFlags) -> Result<()> {
        Err(Errno::NOTSUP)
    }

    pub(super) fn fremovexattr(_file: BorrowedFd<'_>, _name: &CStr) -> Result<()> {
        Err(Errno::NOTSUP)
    }
}

impl Attrs {
    /// The attributes of an open file that must travel. `None` if it has none, which costs one
    /// call.
    pub(crate) fn read(file: impl AsFd) -> io::Result<Option<Box<Self>>> {
        let file = file.as_fd();
        let mut buffer = [0_u8; 1024];
        let names = match xattr::flistxattr(file, &mut buffer[..]) {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(None),
            Ok(length) => Ok(buffer[..length].to_vec()),
            Err(Errno::RANGE) => grow(|buffer| xattr::flistxattr(file, buffer)),
            Err(errno) => Err(errno),
        };
        let names = SystemCall::ListAttributes.if_available(names)?;
        let unlisted = names.is_none();
        let names = names.unwrap_or_else(|| {
            // Ask by name for the attributes that decide about access.
            let known = [ACL_ACCESS, ACL_DEFAULT, c"security.capability"];
            known.map(CStr::to_bytes_with_nul).concat()
        });
        let mut attrs = Vec::new();
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
            if stays(name.to_bytes()) {
                continue;
            }
            let value = grow(|buffer| xattr::fgetxattr(file, name, buffer));
            // Somebody removed it, or the mount has none of this kind.
            if matches!(value, Err(NO_SUCH_ATTR | Errno::NOTSUP)) {
                continue;
            }
            let value = SystemCall::ReadAttribute.if_available(value)?;
            if value.is_some() || !unlisted {
                attrs.push((name.to_owned(), value));
            }
        }
        Ok((unlisted || !attrs.is_empty()).then(|| Box::new(Self { found: attrs, unlisted })))
    }

    /// Removes the attributes of an open file that `wanted` does not have. Those that may not be
    /// removed stay.
    pub(crate) fn remove_others(file: impl AsFd, wanted: Option<&Self>) -> io::Result<()> {
        let file = file.as_fd();
        let Some(there) = Self::read(file)? else { return Ok(()) };
        for (name, _) in &there.found {
            if wanted.is_some_and(|wanted| wanted.found.iter().any(|(other, _)| other == name)) {
                continue;
            }
            SystemCall::RemoveAttribute.if_available(xattr::fremovexattr(file, name))?;
        }
        Ok(())
    }

    /// What could not be read, and the permissions without that: nobody knows what such an ACL gives
    /// to the group. `None`: all could be read.
    pub(crate) fn unread(&self, permissions: u32) -> Option<(String, u32)> {
        let unread = self.found.iter().filter(|(_, value)| value.is_none());
        let mut names: Vec<_> = unread.map(|(name, _)| name.to_string_lossy()).collect();
        let has_acl = names.iter().any(|name| name.as_bytes() == ACL_ACCESS.to_bytes());
        names.extend(self.unlisted.then_some(UNLISTED.into()));
        let permissions = if has_acl { permissions & !0o070 } else { permissions };
        (!names.is_empty()).then(|| (names.join(", "), permissions))
    }

    /// All but the ACLs, if there is more.
    pub(crate) fn without_acls(mut self: Box<Self>) -> Option<Box<Self>> {
        self.found.retain(|(name, _)| *name != *ACL_ACCESS && *name != *ACL_DEFAULT);
        (self.unlisted || !self.found.is_empty()).then_some(self)
    }

    /// Names and values, sorted by name.
    pub(crate) fn to_sorted(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pair = |(name, value): &(CString, Option<Vec<u8>>)| {
            Some((name.to_bytes().to_vec(), value.clone()?))
        };
        let mut all: Vec<_> = self.found.iter().filter_map(pair).collect();
        all.sort();
        all.dedup_by(|a, b| a.0 == b.0);
        all
    }

    /// The reverse of [`Attrs::to_sorted`].
    pub(crate) fn from_pairs(pairs: &[(Vec<u8>, Vec<u8>)]) -> Self {
        let found = pairs
            .iter()
            .filter_map(|(name, value)| {
                Some((CString::new(name.as_slice()).ok()?, Some(value.clone())))
            })
            .collect();
        Self { found, unlisted: false }
    }

    /// Sets the attributes (the ACLs, or all except the ACLs). Notes the names of those that the
    /// filesystem refuses, or `forgets` after it accepted them, and of those that could not be read.
    fn set(
        &self,
        file: impl AsFd,
        acls: bool,
        forgets: bool,
        refused: &mut Vec<String>,
    ) -> io::Result<()> {
        let file = file.as_fd();
        if self.unlisted && !acls {
            refused.push(UNLISTED.to_owned());
        }
        for (name, value) in &self.found {
            if (name.as_c_str() == ACL_ACCESS || name.as_c_str() == ACL_DEFAULT) != acls {
                continue;
            }
            let Some(value) = value else {
                refused.push(name.to_string_lossy().into_owned());
                continue;
            };
            let set = xattr::fsetxattr(file, name, value, xattr::XattrFlags::empty())
                .map_err(|errno| if is_too_large(file, errno) { Errno::TOOBIG } else { errno });
            if SystemCall::SetAttribute.if_available(set)?.is_none()
                || forgets && !(acls && is_in_the_mode(value)) && !is_there(file, name)
            {
                refused.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(())
    }
}

/// Whether an ACL says no more than a mode does: it has the three entries, of 8 bytes each, that
/// every ACL has, after a head of 4 bytes (acl(5)). Linux keeps it as the mode, then.
fn is_in_the_mode(acl: &[u8]) -> bool {
    acl.len() <= 4 + 3 * 8
}

/// Whether an attribute does not fit beside the file's others, though the disk has room. ext4 has
/// one block for all attributes of a file, and btrfs one for each; both say `ENOSPC`.
fn is_too_large(file: BorrowedFd<'_>, errno: Errno) -> bool {
    /// Much more than the largest attribute (64 KiB on Linux).
    const ROOM_BYTES: u64 = 1 << 20;
    errno == Errno::NOSPC
        && fs::fstatvfs(file)
            .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) > ROOM_BYTES)
}

/// Whether the file has the attribute, or says something else than that there is none.
fn is_there(file: BorrowedFd<'_>, name: &CStr) -> bool {
    !matches!(
        xattr::fgetxattr(file, name, &mut [0_u8; 0][..]),
        Err(NO_SUCH_ATTR | Errno::NOTSUP | Errno::NOSYS)
    )
}

/// Calls `read` with a buffer that grows until the answer fits. The answer may grow between two
/// calls.
fn grow(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // Linux allows 64 KiB for a value and for a list.
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// The initial state of a file that this thread creates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Created {
    /// Its owner and group.
    pub(crate) owner: (u32, u32),
    /// Whether the mode that `open` gets arrives unchanged, because the thread has its own umask,
    /// 0.
    pub(crate) mode_is_exact: bool,
    /// Whether this thread may give the file to any owner.
    pub(crate) privileged: bool,
    /// Whether the filesystem is known to keep the metadata that it accepts. If not, calve looks at
    /// what arrived.
    pub(crate) keeps_metadata: bool,
}

/// The mode to create a regular file with.
pub(crate) fn create_mode(meta: &Meta) -> Mode {
    mode(meta.mode & 0o777)
}

/// Gives the open `file`, which was created with [`create_mode`], the metadata of its source.
/// Returns the names of the parts that the filesystem, or a missing right, refused, and of those
/// that the filesystem accepted and forgot.
pub(crate) fn apply(
    file: impl AsFd,
    meta: &Meta,
    attrs: Option<&Attrs>,
    created: Created,
    made_with: Option<Mode>,
) -> io::Result<Vec<String>> {
    let file = file.as_fd();
    let mut refused = Vec::new();
    let mut permissions = meta.permissions();
    let owned = chown(meta, created, |uid, gid| fs::fchown(file, uid, gid))?;
    if owned == NewOwner::Refused {
        // A set-ID bit means "run as the owner", and this is another owner.
        for (bit, name) in [(0o4000, "set-user-ID"), (0o2000, "set-group-ID")] {
            if permissions & bit != 0 {
                refused.push(name.to_owned());
            }
        }
        permissions &= !0o6000;
        if rights::can_give_to_all() {
            // A server, or a mount whose owners are mapped, refuses what this user expects.
            refused.push("owner".to_owned());
        }
    }
    // Only a user who may write to a file may set its attributes. The first refusal says so.
    let closed = attrs.is_some() && permissions & 0o200 == 0 && !rights::overrides_modes();
    if closed {
        let _ = fs::fchmod(file, mode(permissions & 0o777 | 0o200));
    }
    let forgets = !created.keeps_metadata;
    if let Some(attrs) = attrs {
        attrs.set(file, false, forgets, &mut refused)?;
    }
    let exact = created.mode_is_exact && made_with == Some(mode(permissions)) && !closed;
    if !exact {
        set_mode(fs::fchmod(file, mode(permissions)), &mut refused)?;
    }
    if let Some(attrs) = attrs {
        let before = refused.len();
        attrs.set(file, true, forgets, &mut refused)?;
        if refused[before..].iter().any(|name| name.as_bytes() == ACL_ACCESS.to_bytes())
            && let Some((_, acl)) =
                attrs.found.iter().find(|(name, _)| name.as_c_str() == ACL_ACCESS)
        {
            // Nobody knows what an ACL that could not be read gives to the group.
            let narrow = acl.as_ref().map_or(0, |acl| meta.without_acl(acl).mode & permissions);
            permissions = permissions & !0o070 | narrow & 0o070;
            give_mode(file, mode(permissions))?;
        }
    }
    if !meta.keeps_times() {
        set_times(fs::futimens(file, &meta.timestamps()), &mut refused)?;
    }
    if forgets {
        let found = Meta::of_file(file)?;
        meta.name_forgotten(&found, Some(mode(permissions)), &mut refused);
    }
    Ok(refused)
}

/// Sets the mode where the filesystem has modes.
pub(crate) fn give_mode(file: impl AsFd, mode: Mode) -> rustix::io::Result<()> {
    SystemCall::ChangeMode.if_available(fs::fchmod(file, mode)).map(drop)
}

/// Sets the times where the filesystem lets us.
/// The time of the call, as a time to set.
pub(crate) const TIME_NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW as _ };

/// This time as that of the last change of the content. The access time stays as it is.
pub(crate) fn modified_at(time: Timespec) -> Timestamps {
    let stays = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT as _ };
    Timestamps { last_access: stays, last_modification: time }
}

pub(crate) fn give_times(file: impl AsFd, times: &Timestamps) -> rustix::io::Result<()> {
    SystemCall::SetTimes.if_available(fs::futimens(file, times)).map(drop)
}

fn set_mode(set: rustix::io::Result<()>, refused: &mut Vec<String>) -> io::Result<()> {
    if SystemCall::ChangeMode.if_available(set)?.is_none() {
        refused.push("mode".to_owned());
    }
    Ok(())
}

fn set_times(set: rustix::io::Result<()>, refused: &mut Vec<String>) -> io::Result<()> {
    if SystemCall::SetTimes.if_available(set)?.is_none() {
        refused.push("times".to_owned());
    }
    Ok(())
}

/// Like [`apply`], for a symbolic link or (if it was `made_with` its mode) a FIFO. calve does not
/// open these, so their attributes stay behind.
pub(crate) fn apply_at(
    dir: impl AsFd,
    name: &CStr,
    meta: &Meta,
    created: Created,
    made_with: Option<Mode>,
) -> io::Result<Vec<String>> {
    let dir = dir.as_fd();
    let mut refused = Vec::new();
    chown(meta, created, |uid, gid| fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
    if let Some(mode) = made_with
        && !created.mode_is_exact
    {
        // This thread made the FIFO, in a directory that nobody else can reach yet.
        set_mode(fs::chmodat(dir, name, mode, AtFlags::empty()), &mut refused)?;
    }
    if !meta.keeps_times() {
        let set = fs::utimensat(dir, name, &meta.timestamps(), AtFlags::SYMLINK_NOFOLLOW);
        set_times(set, &mut refused)?;
    }
    if !created.keeps_metadata {
        let found = Meta::at(dir, name)?;
        meta.name_forgotten(&found, made_with, &mut refused);
    }
    Ok(refused)
}

#[derive(PartialEq, Eq)]
enum NewOwner {
    AsTheSource,
    Refused,
}

/// Like `cp -a`: sets the owner and the group, else only the group, else neither.
fn chown(
    meta: &Meta,
    created: Created,
    set: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
) -> io::Result<NewOwner> {
    if created.owner == (meta.uid, meta.gid) {
        return Ok(NewOwner::AsTheSource);
    }
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    let own = created.owner.0 == meta.uid;
    if (created.privileged || own)
        && SystemCall::ChangeOwner.if_available(set((!own).then_some(uid), Some(gid)))?.is_some()
    {
        return Ok(NewOwner::AsTheSource);
    }
    if !own && created.owner.1 != meta.gid {
        SystemCall::ChangeOwner.if_available(set(None, Some(gid)))?;
    }
    Ok(NewOwner::Refused)
}

/// Removes the ACLs that a new entry inherited from its directory.
///
/// # Errors
/// There is one, and it stays: it would give others rights.
pub(crate) fn strip_inherited_acls(dir: impl AsFd) -> io::Result<()> {
    let dir = dir.as_fd();
    for name in [ACL_DEFAULT, ACL_ACCESS] {
        let Err(errno) = xattr::fremovexattr(dir, name) else { continue };
        // Some filesystems refuse to remove even what is not there.
        if !SystemCall::RemoveAttribute.is_unavailable(errno)
            || matches!(errno, Errno::PERM | Errno::ACCESS)
                && xattr::fgetxattr(dir, name, &mut [0_u8; 0][..]).is_ok()
        {
            return Err(errno.into());
        }
    }
    Ok(())
}

/// Removes the attributes that a clone brought from an open file of ours.
pub(crate) fn strip_attributes(file: impl AsFd) -> io::Result<()> {
    let file = file.as_fd();
    let Some(attrs) = Attrs::read(file)? else { return Ok(()) };
    for (name, _) in &attrs.found {
        SystemCall::RemoveAttribute.if_available(xattr::fremovexattr(file, name))?;
    }
    Ok(())
}

/// The owner and group of the files that this process creates, and whether it may give files to
/// others. The filesystem is taken for one that keeps what it accepts.
pub(crate) fn created_by_us(mode_is_exact: bool) -> Created {
    let uid = rustix::process::geteuid();
    Created {
        owner: (uid.as_raw(), rustix::process::getegid().as_raw()),
        mode_is_exact,
        privileged: rights::may_give(),
        keeps_metadata: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_keeps_what_the_acl_gave_it_and_no_more() {
        const USER_OBJ: u16 = 1;
        const USER: u16 = 2;
        const GROUP_OBJ: u16 = 4;
        const MASK: u16 = 0x10;
        type Row<'a> = (&'a [(u16, u16)], Option<u32>);
        let rows: &[Row<'_>] = &[
            (&[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 0), (MASK, 7)], Some(0)),
            (&[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 4), (MASK, 6)], Some(4)),
            (&[(USER_OBJ, 7), (GROUP_OBJ, 7), (MASK, 4)], Some(4)),
            (&[(USER_OBJ, 7), (GROUP_OBJ, 5)], Some(5)),
            (&[(USER_OBJ, 7)], None),
            (&[], None),
        ];
        for (entries, expected) in rows {
            let mut acl = 2_u32.to_le_bytes().to_vec();
            for (tag, rights) in *entries {
                acl.extend(tag.to_le_bytes());
                acl.extend(rights.to_le_bytes());
                acl.extend(u32::MAX.to_le_bytes());
            }
            assert_eq!(group_rights(&acl), *expected, "{entries:?}");
        }
        for broken in
            [&b""[..], b"\x02", b"\x03\0\0\0\x04\0\x07\0\0\0\0\0", b"\x02\0\0\0\x04\0\x07"]
        {
            assert_eq!(group_rights(broken), None, "{broken:?}");
        }
    }
}

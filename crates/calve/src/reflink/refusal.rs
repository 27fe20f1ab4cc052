//! Decides which refusals of a system call mean no more than "not by this way".
//!
//! A kernel that does not know a call says `ENOSYS`, and a sandbox's profile says `EPERM`. A
//! filesystem that has no owners, modes or attributes has an errno of its own for each. Such a
//! refusal is not the answer to what calve wanted to know or to do. So calve takes the other way.
//! If there is none, it leaves out that part and says so. Any other errno is reported.

use rustix::io::Errno;

/// A call that has another way beside it, or whose work can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemCall {
    /// `renameat2` with a flag. Without: a folder that is made first, a hard link, two renames.
    RenameWithFlags,
    /// A rename of a folder from a stage into another folder. Without: its files are staged one by
    /// one.
    RenameFolder,
    /// `openat2` below a root. Without: one `openat` for each step.
    OpenBelow,
    /// `faccessat2` for the effective user. Without: `faccessat`.
    AccessOfEffective,
    /// `copy_file_range`. Without: read and write.
    CopyRange,
    /// The owner and the group.
    ChangeOwner,
    /// The permission bits.
    ChangeMode,
    /// The times.
    SetTimes,
    /// The list of attributes. Without: calve asks for the important ones by name.
    ListAttributes,
    /// The value of an attribute that the system has just listed.
    ReadAttribute,
    /// A new value for an attribute.
    SetAttribute,
    /// The removal of an attribute.
    RemoveAttribute,
}

/// The errno of a missing attribute.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) const NO_SUCH_ATTR: Errno = Errno::NODATA;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) const NO_SUCH_ATTR: Errno = Errno::NOATTR;

impl SystemCall {
    /// The errnos that mean "not by this way".
    const fn unavailable(self) -> &'static [Errno] {
        match self {
            Self::RenameWithFlags => &[Errno::NOSYS, Errno::PERM, Errno::INVAL, Errno::OPNOTSUPP],
            // XDEV: another mount, another project's quota, a sandbox.
            Self::RenameFolder => {
                &[Errno::XDEV, Errno::NOSYS, Errno::PERM, Errno::INVAL, Errno::OPNOTSUPP]
            }
            // XDEV: a folder was moved out of the root meanwhile.
            Self::OpenBelow => &[Errno::NOSYS, Errno::PERM, Errno::NAMETOOLONG, Errno::XDEV],
            Self::AccessOfEffective => &[Errno::NOSYS, Errno::PERM, Errno::INVAL],
            // CIFS says NOENT, eCryptfs INVAL, a swap file TXTBSY, FUSE servers the rest. Reading
            // and writing meets any error that is a real one.
            Self::CopyRange => &[
                Errno::NOSYS,
                Errno::PERM,
                Errno::XDEV,
                Errno::OPNOTSUPP,
                Errno::INVAL,
                Errno::NOENT,
                Errno::TXTBSY,
                Errno::ACCESS,
                Errno::IO,
                Errno::BADF,
                Errno::OVERFLOW,
            ],
            // INVAL: the user namespace has no such user. OVERFLOW: the mount has none.
            Self::ChangeOwner => &[
                Errno::PERM,
                Errno::ACCESS,
                Errno::INVAL,
                Errno::OVERFLOW,
                Errno::NOSYS,
                Errno::OPNOTSUPP,
            ],
            // CIFS and 9p mounts have their own modes.
            Self::ChangeMode | Self::SetTimes => {
                &[Errno::PERM, Errno::ACCESS, Errno::OVERFLOW, Errno::NOSYS, Errno::OPNOTSUPP]
            }
            Self::ListAttributes => {
                &[Errno::PERM, Errno::ACCESS, Errno::TOOBIG, Errno::NOSYS, Errno::OPNOTSUPP]
            }
            Self::ReadAttribute => &[
                NO_SUCH_ATTR,
                Errno::PERM,
                Errno::ACCESS,
                Errno::OVERFLOW,
                Errno::NOSYS,
                Errno::OPNOTSUPP,
            ],
            // INVAL, OVERFLOW: an ACL names users that are unknown there.
            Self::SetAttribute => &[
                Errno::PERM,
                Errno::ACCESS,
                Errno::RANGE,
                Errno::TOOBIG,
                Errno::INVAL,
                Errno::OVERFLOW,
                Errno::NOSYS,
                Errno::OPNOTSUPP,
            ],
            Self::RemoveAttribute => &[
                NO_SUCH_ATTR,
                Errno::PERM,
                Errno::ACCESS,
                Errno::INVAL,
                Errno::OVERFLOW,
                Errno::NOSYS,
                Errno::OPNOTSUPP,
            ],
        }
    }

    /// Whether `errno` means "not by this way".
    pub(crate) fn is_unavailable(self, errno: Errno) -> bool {
        // NOTSUP and OPNOTSUPP are two numbers on some systems.
        let errno = if errno == Errno::NOTSUP { Errno::OPNOTSUPP } else { errno };
        self.unavailable().contains(&errno)
    }

    /// `None` if the call is unavailable.
    ///
    /// # Errors
    /// All other errnos.
    pub(crate) fn if_available<T>(self, result: Result<T, Errno>) -> Result<Option<T>, Errno> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(errno) if self.is_unavailable(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_means_another_way_and_a_failing_disk_does_not() {
        let all = [
            SystemCall::RenameWithFlags,
            SystemCall::OpenBelow,
            SystemCall::AccessOfEffective,
            SystemCall::CopyRange,
            SystemCall::ChangeOwner,
            SystemCall::ChangeMode,
            SystemCall::SetTimes,
            SystemCall::ListAttributes,
            SystemCall::ReadAttribute,
            SystemCall::SetAttribute,
            SystemCall::RemoveAttribute,
        ];
        for call in all {
            // An old kernel, and a sandbox's profile.
            assert!(
                call.is_unavailable(Errno::NOSYS) && call.is_unavailable(Errno::PERM),
                "{call:?}"
            );
            for errno in [Errno::NOSPC, Errno::DQUOT, Errno::NOMEM, Errno::MFILE, Errno::ROFS] {
                assert!(!call.is_unavailable(errno), "{call:?} {errno:?}");
            }
            let is_unavailable = call.is_unavailable(Errno::IO);
            assert_eq!(
                is_unavailable,
                call == SystemCall::CopyRange,
                "{call:?}: reading meets EIO, too"
            );
        }
        for (cause, call, errno, expected) in [
            ("a filesystem without the flag", SystemCall::RenameWithFlags, Errno::INVAL, true),
            ("a filesystem without the flag", SystemCall::RenameWithFlags, Errno::NOTSUP, true),
            ("something is there", SystemCall::RenameWithFlags, Errno::EXIST, false),
            ("another filesystem", SystemCall::RenameWithFlags, Errno::XDEV, false),
            ("the folder left the root", SystemCall::OpenBelow, Errno::XDEV, true),
            ("a link", SystemCall::OpenBelow, Errno::LOOP, false),
            ("no right", SystemCall::AccessOfEffective, Errno::ACCESS, false),
            ("FUSE", SystemCall::CopyRange, Errno::BADF, true),
            ("CIFS", SystemCall::CopyRange, Errno::NOENT, true),
            ("no such user in the namespace", SystemCall::ChangeOwner, Errno::INVAL, true),
            ("an idmapped mount", SystemCall::ChangeOwner, Errno::OVERFLOW, true),
            ("CIFS", SystemCall::ChangeMode, Errno::NOTSUP, true),
            ("times out of range", SystemCall::SetTimes, Errno::INVAL, false),
            ("removed meanwhile", SystemCall::ReadAttribute, NO_SUCH_ATTR, true),
            ("FUSE", SystemCall::SetAttribute, Errno::NOSYS, true),
            ("there is none", SystemCall::RemoveAttribute, NO_SUCH_ATTR, true),
        ] {
            assert_eq!(call.is_unavailable(errno), expected, "{cause}: {call:?} {errno:?}");
        }
    }
}

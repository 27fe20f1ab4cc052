//! Which owners and attributes this process can set and see.
//!
//! User 0 is no answer: root may lack capabilities, and in a user namespace root has all of them,
//! for the few users that the namespace knows. What this says decides only what calve takes for a
//! change, and what it tells. Whether one owner can be set, calve finds out by trying.

/// Whether this process may have files of all users, and all attributes that matter.
pub(crate) fn can_give_to_all() -> bool {
    imp::get().all_owners
}

/// Whether this process may try to give its files to other users.
pub(crate) fn may_give() -> bool {
    imp::get().owners
}

/// Whether this process can tell this user from others. A user namespace has no number for most of
/// them: files of theirs all have the same owner there.
pub(crate) fn knows_user(id: u32) -> bool {
    imp::knows_user(id)
}

/// The same for a group.
pub(crate) fn knows_group(id: u32) -> bool {
    imp::knows_group(id)
}

/// Whether this process may write to files although their mode denies it.
pub(crate) fn overrides_modes() -> bool {
    imp::get().overrides_modes
}

/// Whether this process sees the attributes that only a system's administrator sees (`trusted.`).
pub(crate) fn sees_all_attributes() -> bool {
    imp::get().all_attributes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    owners: bool,
    all_owners: bool,
    overrides_modes: bool,
    all_attributes: bool,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    use std::fs;
    use std::sync::LazyLock;

    use rustix::thread::CapabilitySet as Set;

    use super::Rights;

    /// The maps of the namespace. `None`: without `/proc` nobody knows them, and all numbers count.
    static USERS: LazyLock<Option<String>> =
        LazyLock::new(|| fs::read_to_string("/proc/self/uid_map").ok());
    static GROUPS: LazyLock<Option<String>> =
        LazyLock::new(|| fs::read_to_string("/proc/self/gid_map").ok());

    pub(super) fn knows_user(id: u32) -> bool {
        is_in(USERS.as_deref(), id)
    }

    pub(super) fn knows_group(id: u32) -> bool {
        is_in(GROUPS.as_deref(), id)
    }

    /// Each line has the first number inside, the first one outside, and how many there are.
    pub(super) fn is_in(map: Option<&str>, id: u32) -> bool {
        let has = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(first)), Some(Ok(count))) = (numbers.next(), numbers.nth(1)) else {
                return true;
            };
            (first..first + count).contains(&id.into())
        };
        map.is_none_or(|map| map.lines().any(has))
    }

    /// Asked each time: a thread may give up capabilities. The namespace stays.
    pub(super) fn get() -> Rights {
        let capabilities = rustix::thread::capabilities(None).map(|sets| sets.effective);
        // Where a sandbox refuses the question, user 0 is the best guess.
        let guess = || match rustix::process::geteuid().is_root() {
            true => Set::all(),
            false => Set::empty(),
        };
        of(capabilities.unwrap_or_else(|_| guess()), USERS.as_deref())
    }

    pub(super) fn of(capabilities: Set, uid_map: Option<&str>) -> Rights {
        let knows_all = uid_map.is_none_or(|map| {
            map.lines().any(|line| line.split_whitespace().eq(["0", "0", "4294967295"]))
        });
        let has = |set: Set| capabilities.contains(set);
        Rights {
            owners: has(Set::CHOWN),
            all_owners: knows_all && has(Set::CHOWN.union(Set::FOWNER).union(Set::SETFCAP)),
            overrides_modes: has(Set::DAC_OVERRIDE),
            all_attributes: knows_all && has(Set::SYS_ADMIN),
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod imp {
    use super::Rights;

    pub(super) fn knows_user(_: u32) -> bool {
        true
    }

    pub(super) fn knows_group(_: u32) -> bool {
        true
    }

    pub(super) fn get() -> Rights {
        let is_root = rustix::process::geteuid().is_root();
        Rights {
            owners: is_root,
            all_owners: is_root,
            overrides_modes: is_root,
            all_attributes: is_root,
        }
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use rustix::thread::CapabilitySet as Set;

    use super::{Rights, imp};

    #[test]
    fn rights_are_capabilities_over_the_users_that_the_namespace_knows() {
        const WHOLE: &str = "         0          0 4294967295\n";
        let row = |owners, all_owners, overrides_modes, all_attributes| Rights {
            owners,
            all_owners,
            overrides_modes,
            all_attributes,
        };
        for (who, capabilities, map, expected) in [
            ("root", Set::all(), Some(WHOLE), row(true, true, true, true)),
            ("a plain user", Set::empty(), Some(WHOLE), row(false, false, false, false)),
            (
                "a namespace of one user",
                Set::all(),
                Some("0 1000 1\n"),
                row(true, false, true, false),
            ),
            (
                "a rootless container",
                Set::all(),
                Some("0 1000 1\n1 100000 65536\n"),
                row(true, false, true, false),
            ),
            (
                "a container of root's",
                Set::all().difference(Set::SYS_ADMIN),
                Some(WHOLE),
                row(true, true, true, false),
            ),
            (
                "root who may not give files away",
                Set::all().difference(Set::CHOWN),
                Some(WHOLE),
                row(false, false, true, true),
            ),
            ("root without /proc", Set::all(), None, row(true, true, true, true)),
        ] {
            assert_eq!(imp::of(capabilities, map), expected, "{who}");
        }
    }

    #[test]
    fn a_namespace_knows_the_numbers_of_its_map() {
        const TWO: &str = "         0       1000          1\n         1     100000      65536\n";
        for (map, id, expected) in [
            (Some("0 0 4294967295\n"), 12_345, true),
            (Some("0 1000 1\n"), 0, true),
            (Some("0 1000 1\n"), 1000, false),
            (Some(TWO), 65_536, true),
            (Some(TWO), 65_537, false),
            (None, 1000, true),
        ] {
            assert_eq!(imp::is_in(map, id), expected, "{map:?} {id}");
        }
    }
}

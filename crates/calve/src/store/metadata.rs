//! Decides whether an entry has the mode, the owner and the attributes that its snapshot gives it.
//!
//! # Metadata that could not be set is no change
//! A plain user cannot give files away, and cannot set `trusted.` and `security.` attributes. A
//! tree that calve makes for that user lacks them, although nobody changed anything. Two things
//! distinguish this from a change by hand:
//!
//! * If the [index](super::index) vouches for an entry, the entry is as calve made it: every change
//!   of an owner, a mode or an attribute moves the change time. This holds for all metadata that
//!   could not be set, and costs nothing.
//! * If the index does not vouch for an entry, because the entry was touched, the entry may have
//!   the owner that its maker gives to files. A worktree that was not made by root says in
//!   `made-by` who its maker is. The owner of a file is weaker evidence: `chown -R` changes
//!   the owner of every file.
//!
//! Some filesystems keep no modes, although they accept them (fixed modes of a mount, FAT over a
//! network). A worktree there says `no-modes` in the same file, and no mode is a change.
//!
//! In a user namespace most owners have no number. An entry of such an owner may have there the
//! owner that this process gives to files, or one that has no number either: nobody there can
//! make, or see, more.
//!
//! So a worktree that root made must have the owners of the snapshot. A worktree that a plain user
//! made may have that user as the owner instead. Set-ID bits go with the owner. calve did not make
//! the files of a project, so they must be what the snapshot says.

use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::process::{getegid, geteuid, getgroups};

use super::files::read_plain;
use super::layout::{MADE_BY, NO_MODES};
use super::object::{Attributes, Entry, Kind};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::rights;

/// `made-by` contains just two numbers and a word.
const MOST_BYTES: u64 = 64;

/// The set-ID bits: they mean "as the owner" and "as the group".
const SET_ID: u32 = 0o6000;

/// The owner and group of all files that this process makes. `None` if it may have files of all
/// users.
pub(crate) fn only_owner() -> Option<(u32, u32)> {
    (!rights::can_give_to_all()).then(|| (geteuid().as_raw(), getegid().as_raw()))
}

/// Who made a tree, and therefore which metadata calve could not set in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maker {
    /// The owner and group of the files that the maker made. `None` if the maker could set all
    /// owners, or made nothing.
    owner: Option<(u32, u32)>,
    /// Whether this process sees the attributes that only root may see.
    sees_all: bool,
    /// Whether modes can be set in the tree. If not, they are whatever the filesystem says.
    sets_modes: bool,
}

impl Maker {
    /// A maker that could set everything.
    pub(crate) fn privileged() -> Self {
        Self { owner: None, sees_all: rights::sees_all_attributes(), sets_modes: true }
    }

    /// This process as the maker.
    pub(crate) fn this() -> Self {
        Self { owner: only_owner(), ..Self::privileged() }
    }

    /// The maker of the tree of which the store keeps this folder ([`Layout::tree`]).
    ///
    /// [`Layout::tree`]: super::layout::Layout::tree
    pub(crate) fn of(kept: &Path) -> Self {
        let read = || {
            let own = fs::open(kept, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()).ok()?;
            String::from_utf8(read_plain(own, Path::new(MADE_BY), MOST_BYTES).ok()?).ok()
        };
        // Without the file, or with one that is damaged, the maker could set everything: more is a
        // change then, and nothing is lost.
        let text = read().unwrap_or_default();
        let owner = text.lines().find_map(|line| {
            let (uid, gid) = line.split_once(' ')?;
            Some((uid.parse().ok()?, gid.parse().ok()?))
        });
        let sets_modes = text.lines().all(|line| line != NO_MODES);
        Self { owner, sets_modes, ..Self::privileged() }
    }

    /// Whether `now` has the mode, owner and attributes of `wanted`, except for those that could
    /// not be set.
    pub(crate) fn gave(&self, now: &Entry, wanted: &Entry) -> bool {
        self.gave_owner(now, wanted)
            && self.gave_mode(now, wanted)
            && self.gave_attributes(now, wanted)
    }

    /// Gives `now` the metadata of `wanted` that could not be set, so that only changes by hand
    /// remain as differences.
    pub(crate) fn settle(&self, now: &mut Entry, wanted: &Entry) {
        let owner = self.gave_owner(now, wanted);
        if owner && self.gave_mode(now, wanted) {
            now.mode = wanted.mode;
        }
        if owner {
            (now.uid, now.gid) = (wanted.uid, wanted.gid);
        }
        if self.gave_attributes(now, wanted) {
            now.attributes.clone_from(&wanted.attributes);
        }
    }

    fn gave_owner(&self, now: &Entry, wanted: &Entry) -> bool {
        if (now.uid, now.gid) == (wanted.uid, wanted.gid) {
            return true;
        }
        let me = (geteuid().as_raw(), getegid().as_raw());
        if is_unseen(rights::knows_user, me.0, (now.uid, wanted.uid))
            && is_unseen(rights::knows_group, me.1, (now.gid, wanted.gid))
        {
            return true;
        }
        let Some((uid, gid)) = self.owner else { return false };
        if wanted.uid == uid {
            // A user can give an own file to every group that the user is in, so only other groups
            // could not be set.
            return now.uid == uid && now.gid == gid && !is_member(wanted.gid);
        }
        now.uid == uid && (now.gid == wanted.gid || now.gid == gid)
    }

    fn gave_mode(&self, now: &Entry, wanted: &Entry) -> bool {
        let is_own = (now.uid, now.gid) == (wanted.uid, wanted.gid);
        !self.sets_modes
            || matches!(now.kind, Kind::Symlink { .. })
            || now.mode == wanted.mode
            || (!is_own && now.mode == wanted.mode & !SET_ID)
    }

    fn gave_attributes(&self, now: &Entry, wanted: &Entry) -> bool {
        now.attributes == wanted.attributes || self.settable(now).eq(self.settable(wanted))
    }

    fn settable<'e>(&self, entry: &'e Entry) -> impl Iterator<Item = &'e (Vec<u8>, Vec<u8>)> {
        let (all, sees_all) = (self.owner.is_none(), self.sees_all);
        let list = entry.attributes.as_deref().map_or(&[][..], Attributes::as_slice);
        list.iter().filter(move |(name, _)| {
            (sees_all && all || !name.starts_with(b"trusted."))
                && (all || !name.starts_with(b"security."))
        })
    }
}

/// Whether nobody in this user namespace could tell a difference between the two owners by hand
/// from what a restore there makes. `me` is the owner of the files that this process makes.
fn is_unseen(knows: fn(u32) -> bool, me: u32, (now, wanted): (u32, u32)) -> bool {
    now == wanted || !knows(wanted) && (now == me || !knows(now))
}

fn is_member(gid: u32) -> bool {
    getegid().as_raw() == gid
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == gid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::id::BlobId;

    fn entry(mode: u32, (uid, gid): (u32, u32), attributes: &[&str]) -> Entry {
        let pair = |name: &&str| (name.as_bytes().to_vec(), b"1".to_vec());
        let list: Attributes = attributes.iter().map(pair).collect();
        Entry {
            name: b"f"[..].into(),
            mode,
            uid,
            gid,
            mtime: (0, 0).into(),
            attributes: (!list.is_empty()).then(|| Box::new(list)),
            kind: Kind::File { size: 0, link: 0, blob: BlobId::from_bytes([1; 32]) },
        }
    }

    #[test]
    fn what_its_maker_could_not_set_is_no_change_and_all_else_is() {
        const ROOT: (u32, u32) = (0, 0);
        const ME: (u32, u32) = (4_000_001, 4_000_001);
        const OTHER: (u32, u32) = (4_000_002, 4_000_002);
        type What<'a> = (u32, (u32, u32), &'a [&'a str]);
        let plain = (0o644, ROOT, &[][..]);
        // Each row: the metadata in the snapshot, the metadata on disk, whether that is unchanged
        // if root made the tree, and whether it is unchanged if a plain user did.
        let rows: &[(&str, What<'_>, What<'_>, bool, bool)] = &[
            ("the same", plain, plain, true, true),
            ("another mode", plain, (0o755, ROOT, &[]), false, false),
            ("the maker's", plain, (0o644, ME, &[]), false, true),
            ("the maker's, of its group", plain, (0o644, (ME.0, 0), &[]), false, true),
            ("somebody else's", plain, (0o644, OTHER, &[]), false, false),
            ("of another group", plain, (0o644, (ME.0, OTHER.1), &[]), false, false),
            ("no set-ID bit", (0o4755, ROOT, &[]), (0o755, ME, &[]), false, true),
            ("a set-ID bit by hand", (0o755, ROOT, &[]), (0o4755, ME, &[]), false, false),
            ("a set-ID bit taken by hand", (0o4755, ME, &[]), (0o755, ME, &[]), false, false),
            ("root's, was the maker's", (0o644, ME, &[]), (0o644, ROOT, &[]), false, false),
            ("an attribute", plain, (0o644, ROOT, &["user.a"]), false, false),
            ("no attribute", (0o644, ROOT, &["user.a"]), plain, false, false),
            ("no capability", (0o644, ROOT, &["security.capability"]), plain, false, true),
            (
                "no capability, and another attribute",
                (0o644, ROOT, &["security.capability"]),
                (0o644, ROOT, &["user.a"]),
                false,
                false,
            ),
            ("no trusted attribute", (0o644, ROOT, &["trusted.a"]), plain, false, true),
        ];
        for (row, wanted, now, by_root, by_me) in rows {
            let (wanted, now) = (entry(wanted.0, wanted.1, wanted.2), entry(now.0, now.1, now.2));
            for (owner, expected) in [(None, *by_root), (Some(ME), *by_me)] {
                let maker = Maker { owner, sees_all: true, sets_modes: true };
                assert_eq!(maker.gave(&now, &wanted), expected, "{row}, made by {owner:?}");
                let mut settled = now.clone();
                maker.settle(&mut settled, &wanted);
                assert_eq!(settled == wanted, expected, "{row}, made by {owner:?}, settled");
            }
        }
        let fixed = Maker { owner: None, sees_all: true, sets_modes: false };
        let (wanted, mut now) = (entry(0o755, ROOT, &[]), entry(0o644, ROOT, &[]));
        assert!(fixed.gave(&now, &wanted), "no mode can be set there");
        fixed.settle(&mut now, &wanted);
        assert_eq!(now, wanted, "no mode can be set there, settled");
        assert!(!fixed.gave(&entry(0o755, OTHER, &[]), &wanted), "an owner is no mode");
        let unseen = Maker { owner: None, sees_all: false, sets_modes: true };
        let trusted = entry(0o644, ROOT, &["trusted.a"]);
        assert!(unseen.gave(&entry(0o644, ROOT, &[]), &trusted), "a plain user sees none");
    }
}

//! What calve knows about filesystems by name: which ones can share blocks, and what to do if one
//! cannot.

use std::path::{Path, PathBuf};

use calve::{CopyCost, DestinationReport, ReflinkOutcome, must_copy, never_shares_blocks};

use crate::output::document;
use crate::text::{bytes, counted, duration, shown};

#[cfg(any(target_os = "macos", target_os = "ios"))]
const ELSEWHERE: &str = "put the tree on an APFS volume";
#[cfg(windows)]
const ELSEWHERE: &str = "put the tree on a Dev Drive or another ReFS volume";
#[cfg(target_os = "linux")]
const ELSEWHERE: &str = "'calve volume create DIR' makes a filesystem that can, in a file, and 'calve init --volume DIR' uses it";
#[cfg(not(any(target_os = "macos", target_os = "ios", target_os = "linux", windows)))]
const ELSEWHERE: &str = "put the tree on XFS (mkfs.xfs, reflink=1 is the default) or btrfs";

/// Why two filesystems do not share blocks: `ext4 cannot share blocks`.
pub(crate) fn why_not(source: Option<&str>, dest: Option<&str>) -> Option<String> {
    let (source, dest) = (source?, dest?);
    Some(match (never_shares_blocks(source), never_shares_blocks(dest)) {
        (true, _) => format!("{source} cannot share blocks"),
        (_, true) => format!("{dest} cannot share blocks"),
        // If both have one name, or could share but do not, the name is not the reason.
        _ if source == dest => format!("blocks cannot be shared here (both sides are {source})"),
        _ => format!("blocks cannot be shared between {source} and {dest}"),
    })
}

/// The reason why the filesystem of the source does not share blocks with that of the first
/// destination that has copies because of its filesystem.
pub(crate) fn why_not_shared(source: &Path, destinations: &[DestinationReport]) -> Option<String> {
    let copied = destinations.iter().find(|tree| tree.copied_because.filesystem > 0)?;
    why_not_between(source, &copied.path)
}

/// The reason why files of a tree do not share blocks with a folder.
pub(crate) fn why_not_between(source: &Path, dest: &Path) -> Option<String> {
    let name = |path| calve::filesystem_name(path);
    let (from, to) = (name(source), name(dest));
    // The files may be on another filesystem, which is mounted inside the source. Where the
    // destination's own never shares blocks, that one is the reason for the other files, too.
    let inside = match from == to && !to.as_deref().is_some_and(never_shares_blocks) {
        true => mounted_inside(source).iter().find_map(|mount| {
            let from = name(mount).filter(|from| Some(from) != to.as_ref())?;
            let why = why_not(Some(&from), to.as_deref())?;
            Some(format!("{why} ({from} is mounted at {})", shown(mount)))
        }),
        false => None,
    };
    inside.or_else(|| why_not(from.as_deref(), to.as_deref()))
}

/// The places below `source` at which something is mounted. Only Linux says them.
pub(crate) fn mounted_inside(source: &Path) -> Vec<PathBuf> {
    let Ok(source) = source.canonicalize() else { return Vec::new() };
    #[cfg(target_os = "linux")]
    let places = crate::mounts::mounted().into_iter().map(|mount| mount.at);
    #[cfg(not(target_os = "linux"))]
    let places = std::iter::empty::<PathBuf>();
    places.filter(|place| place.starts_with(&source) && *place != source).collect()
}

/// `path` itself if it is a folder, else the nearest one above it: a tree of that name would be made
/// there.
pub(crate) fn nearest_folder(path: &Path) -> &Path {
    // A path of one word has the current folder above it.
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."))
}

/// Fewer bytes than this are copied in about a tenth of a second and fill no disk, so calve does
/// not mention them. If a tree has more files than calve looks at, calve mentions it whatever its
/// size.
const WORTH_SAYING: u64 = 64_000_000;

/// What copies take space for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taker<'a> {
    /// A store that shares blocks with its worktrees, but cannot share them with the project. The
    /// user cannot avoid these copies.
    #[cfg(unix)]
    StoreOnce,
    /// Anything else. The text is the part of the line before the size.
    Copies(&'a str),
}

/// Copies of a tree that calve is about to make.
pub(crate) struct Copies<'a> {
    pub(crate) from: &'a Path,
    /// The folder that gets the copies. It need not exist.
    pub(crate) to: &'a Path,
    pub(crate) number: u64,
    pub(crate) taker: Taker<'a>,
}

impl Copies<'_> {
    /// The line that says what these copies of a tree of this `cost` will cost together, before the
    /// first byte is written. `None` if blocks will be shared.
    pub(crate) fn price(&self, cost: impl FnOnce() -> CopyCost) -> Option<(String, CopyCost)> {
        let Self { from, to, number, taker } = *self;
        if !must_copy(from, to) {
            return None;
        }
        let above = nearest_folder(to);
        let name = |path| calve::filesystem_name(path);
        let why = why_not(name(from).as_deref(), name(above).as_deref())?;
        let one = cost();
        let all = one.times(number);
        if all.bytes < WORTH_SAYING && !all.is_least {
            return None;
        }
        let least = if one.is_least { "at least " } else { "" };
        let each = match number {
            1 => String::new(),
            _ => format!(" ({least}{} each)", bytes(one.bytes)),
        };
        let time = match all.time_in(above) {
            Ok(time) => format!(", about {}", duration(time)),
            Err(_) => String::new(),
        };
        let (what, then) = match taker {
            #[cfg(unix)]
            Taker::StoreOnce => (
                "the store will take, once,",
                "worktrees then share blocks with the store".to_owned(),
            ),
            Taker::Copies(what) => (what, format!("to share blocks instead, {ELSEWHERE}")),
        };
        let line = format!(
            "{why}: {what} {least}{} in {}{each}{time}; {then}",
            bytes(all.bytes),
            counted(all.files, "file"),
        );
        Some((line, all))
    }
}

/// Like [`Copies::price`], for a tree in `folder` with a store beside it, whose size is not known yet.
#[cfg(unix)]
pub(crate) fn price_of_unknown(folder: &Path) -> Option<String> {
    if !must_copy(folder, folder) {
        return None;
    }
    let name = calve::filesystem_name(folder);
    let why = why_not(name.as_deref(), name.as_deref())?;
    Some(format!(
        "{why}: each file takes its room twice, in the store and in the tree; to share blocks instead, {ELSEWHERE}"
    ))
}

document! {
    /// What copies will cost, in JSON; docs/json.md says what the fields mean.
    pub(crate) struct CostDocument(cost: CopyCost) {
        files: u64 = cost.files,
        bytes: u64 = cost.bytes,
        at_least: bool = cost.is_least,
    }
}

/// What to do after a probe gave `outcome` and this errno.
pub(crate) fn fix(
    outcome: ReflinkOutcome,
    errno: Option<&str>,
    source: Option<&str>,
    dest: Option<&str>,
) -> Option<String> {
    if outcome == ReflinkOutcome::Cloned {
        return None;
    }
    let (source, dest) = (source.unwrap_or("unknown"), dest.unwrap_or("unknown"));
    let either = |name: &str| source.starts_with(name) || dest.starts_with(name);
    let no_sharing = [source, dest].into_iter().find(|name| never_shares_blocks(name));
    let fix = if let Some(name) = no_sharing {
        let both =
            if source == dest { "" } else { "; source and destination must be on the same one" };
        format!("{name} cannot share blocks: {ELSEWHERE}{both}")
    } else if outcome == ReflinkOutcome::SourceVanished {
        "the source went away during the probe: try again".to_owned()
    } else if matches!(errno, Some("EPERM" | "EACCES")) {
        "a sandbox forbids it (seccomp, a user namespace or an idmapped mount): run calve outside the sandbox, or \
         allow the FICLONE ioctl in it"
            .to_owned()
    } else if errno == Some("EXDEV") && source.starts_with("zfs") && dest.starts_with("zfs") {
        "these are two ZFS datasets: put source and destination on the same one".to_owned()
    } else if errno == Some("EXDEV") {
        "these are two filesystems, or two mounts that do not share: put source and destination on the same one"
            .to_owned()
    } else if errno == Some("EAGAIN") {
        "the filesystem was busy (on ZFS, the source is not on disk yet): try again in a few seconds"
            .to_owned()
    } else if errno == Some("EINVAL") {
        "new files in this folder are not copy-on-write ('lsattr -d' shows C): make a new folder, and run \
         'chattr -C' on it"
            .to_owned()
    } else if either("overlay") {
        format!(
            "overlayfs can share blocks only if the filesystem of its upper directory can; outside of a container: {ELSEWHERE}"
        )
    } else if either("zfs") {
        "turn on block cloning: the pool feature block_cloning and the module parameter zfs_bclone_enabled=1"
            .to_owned()
    } else if either("nfs") {
        "NFS can share blocks from version 4.2 on, if the server's filesystem can: mount with -o vers=4.2"
            .to_owned()
    } else if either("cifs") || either("smb") {
        "SMB can share blocks only if the server can: use Samba with vfs_btrfs, or Windows with ReFS".to_owned()
    } else if either("fuse") || either("9p") || either("virtiofs") {
        format!(
            "a filesystem in user space, or shared by a host, does not pass clones on: {ELSEWHERE}"
        )
    } else if either("xfs") {
        "this XFS was made without reflink=1 (see xfs_info), which cannot be turned on later: make a new filesystem \
         (mkfs.xfs, reflink=1 is the default)"
            .to_owned()
    } else {
        ELSEWHERE.to_owned()
    };
    Some(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_blames_a_filesystem_only_where_it_never_can() {
        for (source, dest, expected) in [
            (Some("ext4"), Some("ext4"), Some("ext4 cannot share blocks")),
            (Some("xfs"), Some("tmpfs"), Some("tmpfs cannot share blocks")),
            (Some("xfs"), Some("xfs"), Some("blocks cannot be shared here (both sides are xfs)")),
            (Some("xfs"), Some("btrfs"), Some("blocks cannot be shared between xfs and btrfs")),
            (None, Some("xfs"), None),
        ] {
            assert_eq!(why_not(source, dest).as_deref(), expected);
        }
    }

    #[test]
    fn every_no_has_a_fix_that_fits() {
        use ReflinkOutcome::{Cloned, Refused, SourceVanished, Unsupported};
        for (outcome, errno, source, dest, expected) in [
            (Cloned, None, "xfs", "xfs", None),
            (
                Unsupported,
                Some("EOPNOTSUPP"),
                "ext4",
                "ext4",
                Some("ext4 cannot share blocks: 'calve volume create DIR'"),
            ),
            (
                Unsupported,
                Some("EOPNOTSUPP"),
                "ext2/ext3/ext4",
                "ext2/ext3/ext4",
                Some("cannot share"),
            ),
            (Unsupported, Some("EXDEV"), "xfs", "tmpfs", Some("tmpfs cannot share blocks: ")),
            (Unsupported, Some("EXDEV"), "xfs", "btrfs", Some("two filesystems")),
            (Unsupported, Some("EXDEV"), "zfs", "zfs", Some("two ZFS datasets")),
            (Unsupported, Some("EOPNOTSUPP"), "xfs", "xfs", Some("xfs_info")),
            (Unsupported, Some("EOPNOTSUPP"), "zfs", "zfs", Some("block_cloning")),
            (Unsupported, Some("ENOTTY"), "fuseblk", "fuseblk", Some("user space")),
            (Unsupported, Some("EOPNOTSUPP"), "overlay", "overlay", Some("volume")),
            (Unsupported, Some("EOPNOTSUPP"), "nfs", "nfs", Some("vers=4.2")),
            (Refused, Some("EPERM"), "xfs", "xfs", Some("sandbox")),
            (Refused, Some("EINVAL"), "btrfs", "btrfs", Some("chattr -C")),
            (Refused, Some("EAGAIN"), "zfs", "zfs", Some("try again")),
            (SourceVanished, None, "xfs", "xfs", Some("try again")),
            (Unsupported, None, "made-up", "made-up", Some("calve volume create")),
        ] {
            let got = fix(outcome, errno, Some(source), Some(dest));
            match expected {
                Some(part) => assert!(got.is_some_and(|got| got.contains(part)), "{part}"),
                None => assert_eq!(got, None),
            }
        }
    }
}

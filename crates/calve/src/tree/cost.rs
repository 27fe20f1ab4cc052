//! Estimates what copies of a tree will cost, before the first byte is written.
//!
//! The estimate must not delay the copy itself. So calve decides by the names of the filesystems,
//! and does not try a clone; it looks at only a part of a large tree; and it writes a sample of a
//! few milliseconds.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[cfg(unix)]
use super::staging::{self, Stage};
use super::{IN_GIT, OWN};
use crate::reflink::filesystem::{Filesystem, SharesBlocks};
use crate::reflink::filesystem_name;
#[cfg(unix)]
use crate::reflink::imp::DIR_FLAGS;
#[cfg(not(unix))]
use crate::reflink::temporary_name;

/// The number of entries that calve looks at. A larger tree costs at least as much as these. The
/// copy looks at these entries next, and they are in memory then.
const MOST_ENTRIES: u64 = 20_000;

/// The files of a sample. More of them would tell more, and take longer.
const SAMPLE_FILES: u32 = 16;
/// The bytes of a sample: enough to hide what opening a file takes.
const SAMPLE_BYTES: usize = 4 * 1024 * 1024;

/// Filesystems that never share blocks between files, however they are set up.
///
/// The name is one of [`filesystem_name`]. `false` says only that the name is no reason.
#[must_use]
pub fn never_shares_blocks(filesystem: &str) -> bool {
    Filesystem::named(Some(filesystem)).shares == SharesBlocks::Never
}

/// Whether calve will copy files of `source` into `destination`, or below it, because the
/// filesystems cannot share blocks. calve takes filesystems that may share as ones that do, so
/// `false` is not certain. It writes nothing. If the destination does not exist, the folder above
/// it counts.
#[must_use]
pub fn must_copy(source: impl AsRef<Path>, destination: impl AsRef<Path>) -> bool {
    let (source, destination) = (source.as_ref(), existing(destination.as_ref()));
    let (Some(from), Some(to)) = (filesystem_name(source), filesystem_name(destination)) else {
        return false;
    };
    copies_between(&from, &to, || same_device(source, destination))
}

/// Whether files are copied from a filesystem of one name to a filesystem of the other.
fn copies_between(from: &str, to: &str, is_one_device: impl FnOnce() -> bool) -> bool {
    if never_shares_blocks(from) || never_shares_blocks(to) || from != to {
        return true;
    }
    Filesystem::named(Some(from)).shares_on_one_device && !is_one_device()
}

#[cfg(unix)]
fn same_device(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    device(one) == device(other)
}

#[cfg(not(unix))]
fn same_device(_: &Path, _: &Path) -> bool {
    true
}

/// The path, or the nearest folder above it that exists.
fn existing(path: &Path) -> &Path {
    let is_there = |path: &&Path| fs::metadata(path).is_ok();
    path.ancestors()
        .filter(|path| !path.as_os_str().is_empty())
        .find(is_there)
        .unwrap_or(Path::new("."))
}

/// The cost of a copy of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyCost {
    /// Regular files.
    pub files: u64,
    /// The bytes that are written for them: the sum of their sizes, without holes where these are
    /// known.
    pub bytes: u64,
    /// Whether there may be more, because the tree was too large to be looked at in a moment.
    pub is_least: bool,
}

impl CopyCost {
    /// The cost of a copy of a tree whose size is known, for example from a snapshot.
    #[must_use]
    pub fn new(files: u64, bytes: u64) -> Self {
        Self { files, bytes, is_least: false }
    }

    /// The cost of a copy of the tree at `root`, without calve's own folders. calve looks at 20,000
    /// entries at most. It counts nothing that it cannot read.
    #[must_use]
    pub fn of_tree(root: impl AsRef<Path>) -> Self {
        Self::of_entries(root.as_ref().to_owned(), MOST_ENTRIES)
    }

    fn of_entries(root: PathBuf, most: u64) -> Self {
        let own = [root.join(OWN), root.join(".git").join(IN_GIT)];
        let (mut cost, mut left) = (Self::new(0, 0), most);
        let holes = Filesystem::of(&root).holes;
        cost.add_folder(root, (&mut left, holes), |path| !own.contains(path));
        cost
    }

    /// The cost of a copy of these entries of the tree at `root`, with everything in them, except
    /// entries that the tree at `there` already has.
    #[cfg(all(unix, feature = "store"))]
    pub(crate) fn of_missing<'p>(
        root: &Path,
        there: &Path,
        paths: impl Iterator<Item = &'p Path>,
    ) -> Self {
        let is_missing = |path: &PathBuf| {
            let path = path.strip_prefix(root).map(|path| there.join(path));
            path.is_ok_and(|path| fs::symlink_metadata(path).is_err_and(|_| true))
        };
        let (mut cost, mut left) = (Self::new(0, 0), MOST_ENTRIES);
        let holes = Filesystem::of(root).holes;
        for path in paths.map(|path| root.join(path)) {
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {
                    let wanted = |path: &PathBuf| path.is_dir() || is_missing(path);
                    cost.add_folder(path, (&mut left, holes), wanted);
                }
                Ok(found) if found.is_file() && is_missing(&path) => {
                    cost.files += 1;
                    cost.bytes += written_bytes(&found, holes);
                }
                _ => {}
            }
        }
        cost
    }

    /// Adds the files below a folder, but for the paths that are not `wanted`, and for those after
    /// as many entries as are `left`. `holes`: whether the filesystem's holes are believed.
    fn add_folder(
        &mut self,
        folder: PathBuf,
        (left, holes): (&mut u64, bool),
        wanted: impl Fn(&PathBuf) -> bool,
    ) {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for path in paths_in(&folder) {
                if *left == 0 {
                    self.is_least = true;
                    return;
                }
                *left -= 1;
                match fs::symlink_metadata(&path) {
                    Ok(found) if found.is_dir() && wanted(&path) => folders.push(path),
                    Ok(found) if found.is_file() && wanted(&path) => {
                        self.files += 1;
                        self.bytes += written_bytes(&found, holes);
                    }
                    _ => {}
                }
            }
        }
    }

    /// The cost of this many copies.
    #[must_use]
    pub fn times(self, copies: u64) -> Self {
        Self {
            files: self.files.saturating_mul(copies),
            bytes: self.bytes.saturating_mul(copies),
            ..self
        }
    }

    /// An estimate of the time that the copies take in a folder, or in the nearest existing one
    /// above it. For that, calve writes a sample of 4 MiB there, and removes it. It does not flush
    /// the sample to the disk, as a clone does not either. A source that is not in memory takes
    /// longer.
    ///
    /// # Errors
    /// The sample could not be written. Nothing is left behind, unless it could not be removed.
    pub fn time_in(self, folder: impl AsRef<Path>) -> io::Result<Duration> {
        let (file, bytes) = sampled(existing(folder.as_ref()))?;
        let seconds = file.as_secs_f64() * self.files as f64
            + bytes.as_secs_f64() * self.bytes as f64 / SAMPLE_BYTES as f64;
        Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

/// The bytes that a copy of a file writes: a hole stays a hole.
#[cfg(unix)]
fn written_bytes(found: &fs::Metadata, holes: bool) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    if holes { found.len().min(found.blocks().saturating_mul(512)) } else { found.len() }
}

#[cfg(not(unix))]
fn written_bytes(found: &fs::Metadata, _: bool) -> u64 {
    found.len()
}

/// Writes a sample into a stage: if this process is killed, the next one sweeps it.
#[cfg(unix)]
fn sampled(folder: &Path) -> io::Result<(Duration, Duration)> {
    let dir = rustix::fs::open(folder, DIR_FLAGS, rustix::fs::Mode::empty())?;
    staging::sweep(&dir);
    let stage = Stage::empty(dir, folder)?;
    measured(&stage.path())
}

#[cfg(not(unix))]
fn sampled(folder: &Path) -> io::Result<(Duration, Duration)> {
    let sample = folder.join(temporary_name());
    fs::create_dir(&sample)?;
    let measured = measured(&sample);
    fs::remove_dir_all(&sample)?;
    measured
}

/// How long one empty file takes, and how long the bytes of a sample take.
fn measured(folder: &Path) -> io::Result<(Duration, Duration)> {
    let start = Instant::now();
    for number in 0..SAMPLE_FILES {
        fs::File::create_new(folder.join(number.to_string()))?;
    }
    let file = start.elapsed() / SAMPLE_FILES;
    let bytes = vec![1; SAMPLE_BYTES];
    let start = Instant::now();
    fs::File::create_new(folder.join("bytes"))?.write_all(&bytes)?;
    Ok((file, start.elapsed()))
}

/// The paths of a folder's entries, as far as it can be read. The caller may stop before its end.
/// The standard library panics if a folder cannot be closed, so calve does not list by it on Unix.
#[cfg(unix)]
fn paths_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = rustix::fs::open(folder, DIR_FLAGS, rustix::fs::Mode::empty());
    let entries = dir.and_then(rustix::fs::Dir::new).into_iter().flatten().flatten();
    entries.filter_map(|entry| match entry.file_name().to_bytes() {
        b"." | b".." => None,
        name => Some(folder.join(std::ffi::OsStr::from_bytes(name))),
    })
}

#[cfg(not(unix))]
fn paths_in(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_tree_is_its_files_without_calves_own() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/.calve")).unwrap();
        fs::create_dir_all(root.join(".calve")).unwrap();
        for (path, size) in [("one", 10), ("a/two", 20), (".calve/own", 40), ("a/.calve/three", 80)]
        {
            fs::write(root.join(path), vec![0; size]).unwrap();
        }
        let cost = CopyCost::of_tree(root);
        assert_eq!(cost, CopyCost { files: 3, bytes: 110, is_least: false });
        assert_eq!(cost.times(3), CopyCost { files: 9, bytes: 330, is_least: false });
        // The three files, and two folders.
        for (most, is_least) in [(0, true), (4, true), (6, false)] {
            let cost = CopyCost::of_entries(root.to_owned(), most);
            assert_eq!(cost.is_least, is_least, "{most}: {cost:?}");
        }
        let sparse = fs::File::create(root.join("a/sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let bytes = CopyCost::of_tree(root).bytes;
        match cfg!(unix) && Filesystem::of(root).holes {
            true => assert!(bytes < 1 << 20, "holes take no space: {bytes}"),
            false => assert!(bytes > 1 << 40, "{bytes}"),
        }
        fs::remove_file(root.join("a/sparse")).unwrap();
        let time = cost.times(1000).time_in(root.join("not/there")).unwrap();
        assert!(time > Duration::ZERO && time > cost.time_in(root).unwrap() / 100);
        assert_eq!(fs::read_dir(root).unwrap().count(), 3, "the sample is gone");
    }

    #[test]
    fn files_are_copied_where_a_filesystem_cannot_share_and_between_two_filesystems() {
        for (from, to, is_one_device, expected) in [
            ("xfs", "xfs", true, false),
            // Two filesystems of one kind.
            ("xfs", "xfs", false, true),
            // These may be two subvolumes of one filesystem, or two filesystems. Only the clone
            // shows that.
            ("btrfs", "btrfs", false, false),
            ("btrfs", "btrfs", true, false),
            ("zfs", "zfs", false, false),
            ("overlay", "overlay", false, false),
            ("xfs", "btrfs", false, true),
            ("btrfs", "xfs", false, true),
            ("overlay", "xfs", false, true),
            ("ext4", "ext4", true, true),
            ("ext2/ext3/ext4", "xfs", false, true),
            ("xfs", "ext4", false, true),
            ("tmpfs", "tmpfs", true, true),
            ("xfs", "tmpfs", false, true),
        ] {
            let found = copies_between(from, to, || is_one_device);
            assert_eq!(found, expected, "{from} to {to}, one device: {is_one_device}");
        }
    }

    #[test]
    fn a_destination_that_is_not_there_is_as_the_nearest_folder_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(existing(&root.join("not/there")), root);
        assert_eq!(existing(Path::new("not-there/at/all")), Path::new("."));
        assert_eq!(must_copy(root, root.join("not/there")), must_copy(root, root));
    }

    #[test]
    fn filesystems_that_never_share_are_known_by_name() {
        for (name, expected) in [
            ("ext4", true),
            ("ext2/ext3/ext4", true),
            ("tmpfs", true),
            ("xfs", false),
            ("zfs", false),
        ] {
            assert_eq!(never_shares_blocks(name), expected, "{name}");
        }
    }
}

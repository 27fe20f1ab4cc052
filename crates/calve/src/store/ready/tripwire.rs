//! How a start knows in a few milliseconds that nobody touched a tree that waits.
//!
//! To write to a file of the tree, a program must find it first. The tree's folder has a random
//! name, so a program finds it by listing the folder that it waits in, and its files by listing the
//! tree's folders. The kernel notes when a folder was listed: in its access time. calve gives each
//! folder an access time that is not later than its last change, and lists none of them. The first
//! listing then moves the access time, also under `relatime` (mount(8)). So if all access times are
//! where calve left them, nobody found the files. calve also compares the inodes and the change
//! times of the folders, so no name was added, removed or renamed.
//!
//! A folder that was listed was not necessarily changed: programs that search or back up a disk
//! list folders, too. Then, and wherever listing leaves no trace (`noatime`), each entry of the
//! tree is looked at ([`folders`](super::folders)).
//!
//! # What this does not show
//! A program that lists without a trace (`O_NOATIME`, or another mount of the filesystem with
//! `noatime`) and then changes a file in place; a program that knows a path from the store's own
//! files, or through a descriptor that it has from the time when the tree was made. No such change
//! is hidden: the worktree's indexes, git's too, have the change times from before it, so the
//! worktree's first `status` shows the file as changed there. docs/design/ready.md says why that is
//! enough.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Timestamps};

use super::super::files::{bytes_of, listed, path_from, read_plain};
use super::super::id::{SnapshotId, token};
use super::super::index::{Boot, Index, Stat, put_record, record};
use super::super::layout::READY_ABOUT;
use super::super::manifest::Manifest;
use super::super::object::{
    Kind, Malformed, Reader, put_bytes, put_varint, with_hash, without_hash,
};
use crate::reflink::meta::Meta;
use crate::report::DestinationReport;
use crate::tree::staging::{boot, write_whole};
use crate::tree::{CloneMode, tally};

/// The first bytes of the file.
const MAGIC: &[u8; 16] = b"calve waits 1\n\0\0";
/// Room for some million folders.
const MOST_BYTES: u64 = 512 * 1024 * 1024;
/// The access time of the folder that a tree waits in, as long as nobody listed it. Seconds and
/// nanoseconds.
const NEVER: (i64, i64) = (0, 0);

/// The facts about a waiting tree that a start needs when it reads neither the index nor the
/// snapshot of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    pub(super) snapshot: SnapshotId,
    boot: Boot,
    /// The name of the tree, in the folder that it waits in. No other tree has it.
    pub(super) tree: String,
    counts: EntryCounts,
    /// The folders of the tree, the root first, with their paths. Empty: listing leaves no trace.
    folders: Vec<(PathBuf, Stat)>,
}

/// How many entries a tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EntryCounts {
    is_copied: bool,
    files: u64,
    bytes: u64,
    linked_files: u64,
    directories: u64,
    symlinks: u64,
    fifos: u64,
}

impl EntryCounts {
    /// `is_copied`: the files are copies. Otherwise all of them share their blocks.
    pub(super) fn of(manifest: &Manifest, is_copied: bool) -> Self {
        let mut counts = Self { is_copied, directories: 1, ..Self::default() };
        let mut groups = std::collections::HashSet::new();
        for (_, _, entry) in manifest.entries() {
            let is_further_name = entry.link() != 0 && !groups.insert(entry.link());
            match entry.kind {
                Kind::Directory(_) => counts.directories += 1,
                Kind::Symlink { .. } => counts.symlinks += 1,
                Kind::Fifo { .. } => counts.fifos += 1,
                Kind::File { .. } if is_further_name => counts.linked_files += 1,
                Kind::File { size, .. } => {
                    counts.files += 1;
                    counts.bytes = counts.bytes.saturating_add(size);
                }
            }
        }
        counts
    }

    /// What a start tells of a tree that was handed over.
    pub(super) fn report(self) -> DestinationReport {
        let mut report = DestinationReport {
            directories: self.directories,
            symlinks: self.symlinks,
            fifos: self.fifos,
            linked_files: self.linked_files,
            files: self.files.saturating_add(self.linked_files),
            ..DestinationReport::default()
        };
        if self.is_copied {
            (report.copied_files, report.copied_bytes) = (self.files, self.bytes);
        } else {
            (report.reflinked_files, report.reflinked_bytes) = (self.files, self.bytes);
        }
        report.copied_because.filesystem = report.copied_files;
        report.method = tally::method(CloneMode::Clone, &report);
        report
    }

    fn numbers(&mut self) -> [&mut u64; 6] {
        [
            &mut self.files,
            &mut self.bytes,
            &mut self.linked_files,
            &mut self.directories,
            &mut self.symlinks,
            &mut self.fifos,
        ]
    }
}

impl About {
    /// A new name for a tree that will wait.
    pub(super) fn new_name() -> String {
        format!("tree-{}", token())
    }

    /// Sets the tripwires of a tree that will wait in `folder` under the name `name`. The folders'
    /// change times move with that, so `index` gets the new ones. The caller keeps the index's
    /// stamp behind them.
    pub(super) fn set(
        (folder, tree): (&OwnedFd, &OwnedFd),
        name: String,
        (manifest, index): (&Manifest, &mut Index),
        is_copied: bool,
    ) -> Self {
        // Where boots have no names, nobody knows whether a tree is of this boot.
        let leaves_traces = boot().is_some() && hide(folder).is_ok() && leaves_trace(folder);
        let folders = leaves_traces.then(|| set_folders(tree, manifest, index)).flatten();
        Self {
            snapshot: index.snapshot,
            boot: index.boot,
            tree: name,
            counts: EntryCounts::of(manifest, is_copied),
            folders: folders.unwrap_or_default(),
        }
    }

    /// Writes the file `about` into the folder that the tree waits in. The caller may write nothing
    /// there afterwards.
    pub(super) fn write(&self, path: &Path, folder: &OwnedFd) -> io::Result<()> {
        write_whole(path, &path.join(READY_ABOUT), &self.encode())?;
        match self.folders.is_empty() {
            true => Ok(()),
            false => hide(folder),
        }
    }

    /// Reads the file `about` in the folder that a tree waits in.
    pub(super) fn read(folder: &OwnedFd) -> io::Result<Self> {
        let bytes = read_plain(folder, Path::new(READY_ABOUT), MOST_BYTES)?;
        Ok(Self::decode(&bytes)?)
    }

    pub(super) fn report(&self) -> DestinationReport {
        self.counts.report()
    }

    pub(super) fn is_copied(&self) -> bool {
        self.counts.is_copied
    }

    /// Whether nobody can have touched the tree, as it waits in `folder`. `false` says nothing.
    pub(super) fn is_quiet(&self, folder: &OwnedFd, tree: &OwnedFd, jobs: usize) -> bool {
        let Some((_, root)) = self.folders.first() else { return false };
        if self.boot != Boot::this() || boot().is_none() || !was_never_listed(folder) {
            return false;
        }
        let Ok(found) = Meta::of_file(tree) else { return false };
        let is_it = |meta: &Meta, stat: &Stat| {
            meta.dev == found.dev && Stat::of(meta) == *stat && meta.accessed() == meta.modified()
        };
        let are_quiet = |folders: &[(PathBuf, Stat)]| {
            folders.iter().all(|(path, stat)| {
                fs::statat(tree, path, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|found| is_it(&Meta::of(&found), stat))
            })
        };
        let folders = &self.folders[1..];
        let part = folders.len().div_ceil(jobs.max(1)).max(1);
        let are_all_quiet = std::thread::scope(|scope| {
            let mut parts = folders.chunks(part);
            let first = parts.next().unwrap_or_default();
            let others: Vec<_> = parts
                .map(|part| {
                    std::thread::Builder::new()
                        .spawn_scoped(scope, || are_quiet(part))
                        .map_err(|_| part)
                })
                .collect();
            are_quiet(first)
                & others.into_iter().all(|other| match other {
                    Ok(thread) => thread.join().unwrap_or(false),
                    Err(part) => are_quiet(part),
                })
        });
        // Last, as it springs the folder's own tripwire: the mount may be another one by now.
        is_it(&found, root) && are_all_quiet && leaves_trace(folder)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(self.snapshot.as_bytes());
        out.extend_from_slice(&self.boot.0);
        put_bytes(&mut out, self.tree.as_bytes());
        let mut counts = self.counts;
        put_varint(&mut out, counts.is_copied.into());
        counts.numbers().into_iter().for_each(|number| put_varint(&mut out, *number));
        put_varint(&mut out, self.folders.len() as u64);
        let mut last = Stat::default();
        for (path, stat) in &self.folders {
            put_bytes(&mut out, &bytes_of(path));
            put_record(&mut out, &mut last, *stat);
        }
        with_hash(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let short = Malformed("it ends too early");
        let body = without_hash(bytes)?;
        let body = body.strip_prefix(MAGIC.as_slice()).ok_or(Malformed("it is another file"))?;
        let mut reader = Reader(body);
        let snapshot = SnapshotId::from_bytes(reader.id()?);
        let (boot, rest) = reader.0.split_first_chunk().ok_or(short)?;
        reader = Reader(rest);
        let tree = std::str::from_utf8(reader.bytes()?);
        let is_name =
            |name: &&str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        let tree = tree.ok().filter(is_name).ok_or(Malformed("it has no name"))?.to_owned();
        let mut counts = EntryCounts { is_copied: reader.varint()? != 0, ..EntryCounts::default() };
        for number in counts.numbers() {
            *number = reader.varint()?;
        }
        let (mut folders, mut last) = (Vec::new(), Stat::default());
        for _ in 0..reader.varint()? {
            let path = path_from(reader.bytes()?);
            folders.push((path, record(&mut reader, &mut last)?));
        }
        reader.end()?;
        Ok(Self { snapshot, boot: Boot(*boot), tree, counts, folders })
    }
}

/// Whether nobody listed the folder that a tree waits in.
pub(super) fn was_never_listed(folder: impl AsFd) -> bool {
    Meta::of_file(folder).is_ok_and(|meta| meta.accessed() == NEVER)
}

/// Gives the folder that a tree waits in the access time of a folder that nobody listed.
fn hide(folder: &OwnedFd) -> io::Result<()> {
    Ok(fs::futimens(folder, &accessed_at(NEVER))?)
}

/// Whether listing that folder leaves a trace. It does so now.
fn leaves_trace(folder: &OwnedFd) -> bool {
    listed(folder).is_ok() && !was_never_listed(folder)
}

/// Sets an access time, and no other.
fn accessed_at(time: (i64, i64)) -> Timestamps {
    let times = Meta::wanted(0, (0, 0), time).timestamps();
    Timestamps { last_access: times.last_modification, last_modification: times.last_access }
}

/// Sets the tripwires of the tree's folders. `None` if a folder is not as the index says, or cannot
/// get that access time.
fn set_folders(
    tree: &OwnedFd,
    manifest: &Manifest,
    index: &mut Index,
) -> Option<Vec<(PathBuf, Stat)>> {
    let look = |path: &Path| -> Option<Meta> {
        let stat = match path == Path::new("") {
            true => fs::fstat(tree),
            false => fs::statat(tree, path, AtFlags::SYMLINK_NOFOLLOW),
        };
        Some(Meta::of(&stat.ok()?))
    };
    let mut folders = Vec::with_capacity(manifest.directories.len());
    for (place, directory) in (0..).zip(&manifest.directories) {
        let path = manifest.path(place);
        let number = match place {
            0 => 0,
            _ => manifest.directories.get(directory.parent as usize)?.first + directory.slot,
        };
        let known = index.stats.get_mut(number as usize)?;
        let before = look(&path)?;
        // The root was looked at a moment ago.
        if Stat::of(&before) != *known {
            return None;
        }
        let times = accessed_at(before.modified());
        match place {
            0 => fs::futimens(tree, &times),
            _ => fs::utimensat(tree, &path, &times, AtFlags::SYMLINK_NOFOLLOW),
        }
        .ok()?;
        let after = look(&path)?;
        let owner = |meta: &Meta| (meta.uid, meta.gid);
        if !after.is_still_but_for_names(&before) || owner(&after) != owner(&before) {
            return None;
        }
        *known = Stat::of(&after);
        if after.accessed() != after.modified() {
            return None;
        }
        folders.push((path, Stat::of(&after)));
    }
    Some(folders)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_known_of_a_tree_decodes_to_itself_and_damaged_to_nothing(
            numbers in any::<[u64; 6]>(),
            is_copied: bool,
            folders in proptest::collection::vec(
                ("[a-z/]{0,20}", any::<u64>(), any::<i64>(), any::<u32>()),
                0..20,
            ),
            at in any::<prop::sample::Index>(),
        ) {
            let mut counts = EntryCounts { is_copied, ..EntryCounts::default() };
            for (to, from) in counts.numbers().into_iter().zip(numbers) {
                *to = from;
            }
            let folders = folders.into_iter().map(|(path, ino, seconds, nanoseconds)| {
                (PathBuf::from(path), Stat { ino, changed: (seconds, nanoseconds) })
            });
            let about = About {
                snapshot: SnapshotId::from_bytes([7; 32]),
                boot: Boot([8; 16]),
                tree: About::new_name(),
                counts,
                folders: folders.collect(),
            };
            let mut encoded = about.encode();
            prop_assert_eq!(About::decode(&encoded), Ok(about));
            let at = at.index(encoded.len());
            prop_assert!(About::decode(&encoded[..at]).is_err());
            encoded[at] ^= 1;
            prop_assert!(About::decode(&encoded).is_err());
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_none() {
        for name in ["", ".", "..", "a/b", "/"] {
            let about = About {
                snapshot: SnapshotId::from_bytes([7; 32]),
                boot: Boot([8; 16]),
                tree: name.to_owned(),
                counts: EntryCounts::default(),
                folders: Vec::new(),
            };
            assert_eq!(About::decode(&about.encode()), Err(Malformed("it has no name")), "{name}");
        }
    }
}

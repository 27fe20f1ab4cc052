//! Flushes what a worktree needs, before the worktree gets its name: a power cut must not leave a
//! tree in its place whose small files are empty.
//!
//! | what | flushed | why |
//! |---|---|---|
//! | calve's marker, and what the store keeps of the tree | yes | without them nobody knows whose tree it is |
//! | the `.git` file, `HEAD`, index and the rest of the registration, the branch | yes | the row knows them only as the start made them |
//! | files that were rewritten with the worktree's path, a copied repository | yes | their content is nowhere else |
//! | copied contents | yes, by the caller | the index vouches for them |
//! | reflinked contents | no | they were on the disk before |
//! | calve's index, git's index of a ready tree | no | a look at the tree makes them again |
//!
//! All files of a tree are given to the disk before the first is waited for. So they share one
//! commit of the filesystem's log. Several trees share one flush of the whole filesystem instead: it
//! may write data of other programs, but thirteen files a tree cost more.
//!
//! One tree needs no flush for each file where the flush of its folder, which follows the rename,
//! commits everything that was done before. There the files are only written back:
//!
//! * XFS has one log, which reaches the disk in its order, and after the content that was written
//!   back. Thirteen flushes would tell the disk thirteen times to empty its cache.
//! * btrfs has a log for each file. But after the rename of a subvolume it cannot use it
//!   (`btrfs_rename`: "force full log commit if subvolume involved"), and commits all subvolumes.
//!   Small files are a part of the metadata as soon as they are written back; larger ones are
//!   flushed. If a filesystem was set up otherwise (`max_inline=0`), the row gives them again.
//!
//! On each filesystem calve flushes the files that no row can give again.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode};
use rustix::io::Errno;

use super::dress::Dressed;
use super::git::GitOutcome;
use crate::reflink::filesystem::Filesystem;
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::reflink::sys;
use crate::store::catalog::WorktreeRow;
use crate::store::files::listed;
use crate::store::git::{self, Repository};
use crate::store::layout::{GIT, Layout, OWN};
use crate::store::ready::Arrived;
use crate::tree::staging::{flush_filesystem, sync_filesystem};

/// How many files are open and flushed together. A start has room for as many.
const FILES_TOGETHER: usize = 16;

/// btrfs keeps the content of a file of at most this size in its metadata. This is the default of
/// its mount option `max_inline` (btrfs(5)).
const INLINE_MOST_BYTES: u64 = 2048;

/// Files that are to be flushed.
#[derive(Default)]
struct Flush {
    files: Vec<OwnedFd>,
    /// Files up to this size are on the disk when the folder is, once they are written back.
    committed_most_bytes: Option<u64>,
}

/// Flushes what the dressed trees have that no row can give again. `store` is the store's folder.
/// The caller renames the trees and flushes their folder.
pub(super) fn flush(
    store: &Path,
    repository: Option<&Repository>,
    rows: &[WorktreeRow],
    arrived: &[Arrived],
    dressed: &[Dressed],
) -> io::Result<()> {
    if arrived.len() > 1 && flush_together(repository, arrived)? {
        return Ok(());
    }
    let mut flush = Flush::default();
    let committed_most_bytes = committed_with_its_folder(store, repository, arrived)?;
    for ((row, Arrived { stage, .. }), (git, mentions)) in rows.iter().zip(arrived).zip(dressed) {
        let root = stage.dir();
        for mention in mentions.iter().filter(|mention| mention.kept.is_none()) {
            flush.add(root, &mention.path)?;
        }
        if committed_most_bytes.is_some() {
            flush.wait()?;
            flush.committed_most_bytes = committed_most_bytes;
        }
        flush.add(root, Path::new(OWN))?;
        flush.add(fs::CWD, &Layout(store).tree(&row.token))?;
        match git {
            GitOutcome::None(_) => {}
            GitOutcome::Copied(_) => flush_filesystem(root)?,
            GitOutcome::Linked(linked) => {
                if linked.submodules > 0 {
                    flush_filesystem(root)?;
                }
                flush.add(root, Path::new(GIT))?;
                flush.add(fs::CWD, &git::leads_to(&stage.path())?)?;
                let branch = row.git.as_ref().and_then(|linked| linked.branch.as_deref());
                if let (Some(branch), Some(repository)) = (branch, repository) {
                    for path in repository.files_of_branch(branch) {
                        flush.add(fs::CWD, &path)?;
                    }
                }
            }
        }
    }
    flush.wait()
}

/// Up to which size a file is on the disk when it was written back and the folder that the only
/// tree is renamed in was flushed. `None` if each file needs a flush.
fn committed_with_its_folder(
    store: &Path,
    repository: Option<&Repository>,
    arrived: &[Arrived],
) -> io::Result<Option<u64>> {
    let [Arrived { stage, .. }] = arrived else { return Ok(None) };
    let device = |path: &Path| Ok::<_, io::Error>(Meta::of(&fs::stat(path)?).dev);
    let root = Meta::of_file(stage.dir())?;
    let (most_bytes, dev) = if sys::is_subvolume(stage.dir(), root.ino) {
        // Each subvolume has a device of its own. The tree is a snapshot of one in the store, and
        // there are no snapshots on other filesystems.
        (INLINE_MOST_BYTES, device(store)?)
    } else if Filesystem::of_file(stage.dir()).has_one_log {
        (u64::MAX, root.dev)
    } else {
        return Ok(None);
    };
    let is_beside = match repository {
        Some(repository) => device(&repository.common)? == dev,
        None => true,
    };
    Ok(is_beside.then_some(most_bytes))
}

/// Flushes the filesystems that the trees and the repository are on. `false`, and nothing is
/// flushed, if one is not known to do that.
fn flush_together(repository: Option<&Repository>, arrived: &[Arrived]) -> io::Result<bool> {
    // Each subvolume has a device of its own, and the folders of the stages have few.
    let mut folders = BTreeMap::new();
    let git = repository.map(|it| fs::openat(fs::CWD, &it.common, DIR_FLAGS, Mode::empty()));
    let git = git.transpose()?;
    for folder in arrived.iter().map(|it| it.stage.parent()).chain(&git) {
        if !Filesystem::of_file(folder.as_fd()).flushes {
            return Ok(false);
        }
        folders.insert(Meta::of_file(folder)?.dev, folder);
    }
    for folder in folders.values() {
        sync_filesystem(folder)?;
    }
    Ok(true)
}

impl Flush {
    /// Notes a file, or a folder with everything in it.
    fn add(&mut self, dir: impl AsFd, path: &Path) -> io::Result<()> {
        let file = match fs::openat(&dir, path, SOURCE_FLAGS, Mode::empty()) {
            Ok(file) => file,
            // A link is a part of its folder. Beside a reftable, `refs/heads` is a file.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            // The file denies access to everybody, also to us.
            Err(Errno::ACCESS) => {
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                let parent = parent.unwrap_or(Path::new("."));
                return flush_filesystem(fs::openat(dir, parent, DIR_FLAGS, Mode::empty())?);
            }
            Err(errno) => return Err(errno.into()),
        };
        if Meta::of_file(&file)?.file_type() == FileType::Directory {
            for (name, kind) in listed(&file)? {
                if matches!(kind, FileType::RegularFile | FileType::Directory) {
                    self.add(&file, Path::new(&name))?;
                }
            }
            return Ok(());
        }
        self.files.push(file);
        if self.files.len() < FILES_TOGETHER { Ok(()) } else { self.wait() }
    }

    fn wait(&mut self) -> io::Result<()> {
        let files = std::mem::take(&mut self.files);
        let is_written = sys::write_back_all(&files);
        let committed = self.committed_most_bytes.filter(|_| is_written);
        for file in &files {
            let length = Meta::of_file(file)?.size;
            if committed.is_none_or(|most| length > most) {
                fs::fsync(file)?;
            }
        }
        Ok(())
    }
}

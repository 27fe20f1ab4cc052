//! Gives a linked worktree's files of git again that a power cut left empty: git does not flush
//! them. calve knows where the worktree was started; the reflogs know what it did since.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags};

use super::registration::{COMMONDIR, GITDIR, LOCKED};
use super::{Registration, Repository, branch_ref, git_of, leads_to};
use crate::reflink::meta::Meta;
use crate::store::files::{is_blank, read_plain};
use crate::tree::staging::write_whole;

/// The longest reflog that is read.
const REFLOG_MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What is known of the start of a linked worktree.
#[derive(Clone, Copy)]
pub(crate) struct Started<'a> {
    pub(crate) name: &'a str,
    pub(crate) branch: Option<&'a str>,
    pub(crate) commit: &'a str,
}

/// Heals the worktree at `root`.
///
/// # Errors
/// git could not be asked, or a file could not be read or written.
pub(crate) fn heal(repository: &Repository, root: &Path, started: Started<'_>) -> io::Result<()> {
    let git_file = git_of(root);
    let leads = is_blank(&git_file)? == Some(false);
    let entry = match leads {
        true => Registration::read(leads_to(root)?)?,
        false => find(repository, root, started)?,
    };
    let Some(mut entry) = entry else { return Ok(()) };
    if entry.folder.parent() != Some(&repository.registrations_folder()) {
        return Ok(());
    }
    let folder = entry.folder.clone();
    let is_torn = |name: &str| is_blank(&folder.join(name)).map(|blank| blank == Some(true));
    let is_gone = |name: &str| is_blank(&folder.join(name)).map(|blank| blank != Some(false));
    let write = |name: &str, text: &str| write_whole(&folder, &folder.join(name), text.as_bytes());
    if is_gone(GITDIR)? {
        entry.point_at(root)?;
    }
    if is_gone(COMMONDIR)? {
        write(COMMONDIR, "../..\n")?;
    }
    if let Some(branch) = started.branch {
        repository.heal_branch(branch, started.commit)?;
    }
    if is_gone("HEAD")? {
        write("HEAD", &head(repository, &entry, started))?;
    }
    // It was to be removed when the tree had its place.
    if is_torn(LOCKED)? {
        std::fs::remove_file(folder.join(LOCKED))?;
    }
    if !leads {
        // In place, since a rename would change the time of the root, which is a part of snapshots.
        let times = Meta::of(&fs::lstat(root)?).timestamps();
        std::fs::write(&git_file, entry.git_file_text())?;
        fs::utimensat(fs::CWD, root, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if is_torn("index")? {
        std::fs::remove_file(folder.join("index"))?;
        repository.read_index(&entry)?;
    }
    Ok(())
}

/// The registration of the tree at `root`, whose `.git` file is empty or was never there: the one
/// that names it, or the only one of its name that names none.
pub(crate) fn find(
    repository: &Repository,
    root: &Path,
    started: Started<'_>,
) -> io::Result<Option<Registration>> {
    let mut entries = repository.registrations()?;
    if let Some(at) = entries.iter().position(|entry| entry.is_of(root)) {
        return Ok(Some(entries.swap_remove(at)));
    }
    let name = super::registration_name(started.name);
    let may_be = |entry: &Registration| -> io::Result<bool> {
        let number = entry.id().to_str().and_then(|id| id.strip_prefix(name));
        if entry.git_file.is_some()
            || !number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Ok(false);
        }
        let head = entry.folder.join("HEAD");
        Ok(match is_blank(&head)? {
            Some(false) => super::branch_at(&entry.folder).as_deref() == started.branch,
            Some(true) | None => true,
        })
    };
    let mut found = None;
    for entry in entries {
        if may_be(&entry)? && found.replace(entry).is_some() {
            return Ok(None);
        }
    }
    Ok(found)
}

/// The content of a `HEAD`: the branch of the start, unless the reflog says that the worktree was
/// elsewhere at last.
fn head(repository: &Repository, entry: &Registration, started: Started<'_>) -> String {
    let last = last_commit(&entry.folder.join("logs/HEAD"));
    let of_branch = |branch: &str| {
        let text = read_plain(fs::CWD, &repository.common.join(branch_ref(branch)), 1024).ok()?;
        Some(String::from_utf8(text).ok()?.trim_end().to_owned())
    };
    match started.branch {
        // A branch that is in no file of its own is packed, and git knows it.
        Some(branch) if last.is_none() || of_branch(branch).is_none_or(|of| last == Some(of)) => {
            format!("ref: {}\n", branch_ref(branch))
        }
        _ => format!("{}\n", last.as_deref().unwrap_or(started.commit)),
    }
}

/// The commit in the last line of a reflog.
pub(super) fn last_commit(log: &Path) -> Option<String> {
    let text = read_plain(fs::CWD, log, REFLOG_MOST_BYTES).ok()?;
    let line = text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?;
    let id = std::str::from_utf8(line.split(|byte| *byte == b' ').nth(1)?).ok()?;
    let is_id = matches!(id.len(), 40 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

impl Repository {
    /// Gives a branch whose file is empty the commit of its reflog, or the one of its start.
    pub(crate) fn heal_branch(&self, branch: &str, commit: &str) -> io::Result<()> {
        let reference = branch_ref(branch);
        let [file, log]: [PathBuf; 2] =
            [self.common.join(&reference), self.common.join("logs").join(&reference)];
        if is_blank(&file)? != Some(true) {
            return Ok(());
        }
        let commit = last_commit(&log).unwrap_or_else(|| commit.to_owned());
        // git refuses to write to a reference that it cannot read.
        std::fs::remove_file(&file)?;
        self.git().args(["update-ref", &reference, &commit]).run()?;
        Ok(())
    }
}

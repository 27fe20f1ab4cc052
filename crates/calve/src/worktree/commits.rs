//! Commits that a worktree's own repository has and the project's has not: they go with the worktree.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::Worktree;
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::store::layout::GIT;

impl Worktree {
    /// Refuses to drop a worktree with a repository of its own in which a branch, a tag, the stash or HEAD is at an object that the project's
    /// repository has not.
    pub(super) fn must_have_no_commits_alone(&self) -> Result<(), Error> {
        let own = self.path.join(GIT);
        if !std::fs::symlink_metadata(&own).is_ok_and(|found| found.is_dir()) {
            return Ok(());
        }
        let project = self.store.project()?.join(GIT);
        match only_in(&own, &project) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let cause = io::Error::other("it has commits that the project does not have");
                Err(Error::new(
                    ErrorKind::CommitsOnlyHere,
                    Operation::DropWorktree,
                    &self.path,
                    cause,
                ))
            }
            // Nobody can have committed anything without it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).context(Operation::AskGit, || &own),
        }
    }
}

fn git(repository: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"] {
        command.env_remove(name);
    }
    for name in ["GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"] {
        command.env_remove(name);
    }
    command
        .args([OsStr::new("--git-dir"), repository.as_os_str()])
        .args(words)
        .env("GIT_NO_LAZY_FETCH", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Whether something in `repository` refers to an object that `other` does not have.
fn only_in(repository: &Path, other: &Path) -> io::Result<bool> {
    let references = git(repository, &["for-each-ref", "--format=%(objectname)"]).output()?;
    let head = git(repository, &["rev-parse", "--quiet", "--verify", "HEAD"]).output()?;
    if !references.status.success() {
        return Err(io::Error::other("git cannot read this repository"));
    }
    let mut ids = references.stdout;
    // A branch that has no commit yet is at none.
    ids.extend(head.stdout);
    let mut check = git(other, &["cat-file", "--batch-check"]).stdin(Stdio::piped()).spawn()?;
    let input = check.stdin.take();
    let checked = std::thread::scope(|scope| {
        // git answers while it is asked. If it dies, its answer is short.
        scope.spawn(|| input.map(|mut input| input.write_all(&ids)));
        check.wait_with_output()
    })?;
    let lines =
        |bytes: &[u8]| bytes.split(|byte| *byte == b'\n').filter(|it| !it.is_empty()).count();
    let missing =
        checked.stdout.split(|byte| *byte == b'\n').any(|line| line.ends_with(b" missing"));
    Ok(missing || lines(&checked.stdout) != lines(&ids))
}

//! The command that `calve start` runs in each new worktree: git's setting `calve.afterStart`.
//!
//! It is a setting of git because it must be the user's own. A clone brings neither `.git/config`
//! nor the user's configuration, so a repository cannot bring a command that `start` would run. A
//! file in the project's tree, or a store that somebody committed, could. git reads no
//! configuration of a repository that belongs to another user (`safe.directory`). Nor does it read
//! the configuration of a folder that only looks like a bare repository, which a tree may contain.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use calve::{GitOutcome, StartReport, StartedWorktree};

use crate::session::Session;
use crate::text::shown;

/// The setting.
pub(super) const KEY: &str = "calve.afterStart";

/// The command for new worktrees of a project. `None`: there is none, or git is not installed.
///
/// # Errors
/// git cannot say it, in these words.
pub(crate) fn command(project: &Path) -> Result<Option<String>, String> {
    let mut git = without_another_repository(Command::new("git"));
    git.arg("-C").arg(project).args(["-c", "safe.bareRepository=explicit", "config"]);
    if std::fs::symlink_metadata(project.join(".git")).is_err() {
        // A git before 2.38 does not know that setting.
        git.arg("--global");
    }
    git.args(["--get", KEY]);
    if let Some(above) = project.parent() {
        // A repository around the project is not the project's.
        git.env("GIT_CEILING_DIRECTORIES", above);
    }
    let output = match git.stdin(Stdio::piped()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    match output.status.code() {
        Some(0) => {}
        // It is not set. With a message, git could not read a file.
        Some(1) if output.stderr.is_empty() => return Ok(None),
        _ => return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
    let text = String::from_utf8(output.stdout).map_err(|error| error.to_string())?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok((!text.trim().is_empty()).then(|| text.to_owned()))
}

pub(super) fn without_another_repository(mut command: Command) -> Command {
    for name in calve::GIT_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// Runs the command of `of` in one worktree after the other. Returns the exit code of each: 128 + N if
/// signal N ended it, 127 if it could not be run; `None` if calve was stopped before.
pub(crate) fn run(
    command: &str,
    of: &str,
    project: &Path,
    report: &StartReport,
    session: Session<'_>,
) -> Vec<Option<i32>> {
    let cancel = session.signals.cancel();
    let one = |started: &StartedWorktree| {
        if cancel.is_cancelled() {
            return None;
        }
        let path = &started.report.path;
        let (code, why) = match run_in(command, project, started) {
            Ok(status) if status.success() => return Some(0),
            Ok(status) => (code(status), status.to_string()),
            Err(error) => (127, error.to_string()),
        };
        session.output.warning(format_args!(
            "{}: the command of {of} failed ({why}); the worktree stays, and the command can be run again in it",
            shown(path)
        ));
        Some(code)
    };
    report.worktrees.iter().map(one).collect()
}

fn run_in(command: &str, project: &Path, started: &StartedWorktree) -> io::Result<ExitStatus> {
    let mut shell = without_another_repository(Command::new("sh"));
    shell.args(["-c", command]).current_dir(&started.report.path);
    // Nothing to read, and no `/dev/null`, which a sandbox may lack.
    shell.stdin(io::pipe()?.0);
    // Standard output has the paths of the worktrees, and nothing else.
    shell.stdout(Stdio::from(File::from(io::stderr().as_fd().try_clone_to_owned()?)));
    shell
        .env("CALVE_PROJECT", project)
        .env("CALVE_WORKTREE", &started.report.path)
        .env("CALVE_NAME", &started.name);
    match &started.git {
        GitOutcome::Linked(linked) if linked.branch.is_some() => {
            shell.env("CALVE_BRANCH", linked.branch.as_deref().unwrap_or_default())
        }
        _ => shell.env_remove("CALVE_BRANCH"),
    };
    shell.status()
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(127)
}

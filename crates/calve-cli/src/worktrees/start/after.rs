//! The command that `calve start` runs in each new worktree: git's setting `calve.afterStart`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use calve::{GitOutcome, StartReport, StartedWorktree};

use crate::environment::{Environment, NOT_ALWAYS, NumberedTree};
use crate::session::Session;
use crate::settings::without_another_repository;
use crate::text::shown;

/// Runs the command of `of` in one worktree after the other. Returns the exit code of each: 128 + N if
/// signal N ended it, 127 if it could not be run; `None` if calve was stopped before.
pub(crate) fn run(
    command: &str,
    of: &str,
    environment: &Environment,
    report: &StartReport,
    session: Session<'_>,
) -> Vec<Option<i32>> {
    let cancel = session.signals.cancel();
    let one = |started: &StartedWorktree| {
        if cancel.is_cancelled() {
            return None;
        }
        let path = &started.report.path;
        if let Some(why) = environment.why_no_port(started.slot) {
            session.output.warning(format_args!("{}: {why}", shown(path)));
        }
        let (code, why) = match run_in(command, environment, started) {
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

fn run_in(
    command: &str,
    environment: &Environment,
    started: &StartedWorktree,
) -> io::Result<ExitStatus> {
    let mut shell = without_another_repository(Command::new("sh"));
    shell.args(["-c", command]).current_dir(&started.report.path);
    // Nothing to read, and no `/dev/null`, which a sandbox may lack.
    shell.stdin(io::pipe()?.0);
    // Standard output has the paths of the worktrees, and nothing else.
    shell.stdout(Stdio::from(File::from(io::stderr().as_fd().try_clone_to_owned()?)));
    let (path, slot) = (started.report.path.as_path(), started.slot);
    let tree = NumberedTree { name: Some(&started.name), path, slot };
    for name in NOT_ALWAYS {
        shell.env_remove(name);
    }
    shell.envs(environment.variables(tree));
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

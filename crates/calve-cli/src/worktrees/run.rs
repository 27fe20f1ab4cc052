//! `calve run`: a program that sees a worktree at the project's path.
//!
//! calve replaces itself by the program (`exec`), so signals, the terminal, job control and the exit
//! status are the program's own: no process stands between it and whoever started calve.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::ErrorKind;

use self::alike::{Alike, GitSettings};
use super::env;
use crate::args::RunArgs;
use crate::environment::{NOT_ALWAYS, NumberedTree};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{own, worktree_failure};
use crate::session::Session;
use crate::settings::without_another_repository;

mod alike;
mod refused;

/// The exit codes of a shell for a program that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

pub(crate) fn run(args: &RunArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let worktree = session.worktree(args.worktree.as_deref())?;
    if worktree.is_project() {
        let hint = "give the name of a worktree ('calve list'), or run the program without calve";
        let why = "it is the project, and at its path already";
        return Err(own("run in", worktree.path(), ErrorKind::Overlap, why, hint));
    }
    let environment = env::of(&worktree)?;
    let root = worktree.store().project()?;
    // The same folder, if the user is in one of the two trees.
    let here = std::fs::canonicalize(session.common.resolve(Path::new("."))).unwrap_or_default();
    let below = here.strip_prefix(worktree.path()).or_else(|_| here.strip_prefix(&root));
    let mut folder = match below {
        Ok(below) if below != Path::new("") => root.join(below),
        _ => root.clone(),
    };
    let outside = GitSettings::of(worktree.path());
    let project = worktree.show_at_project().map_err(|error| match error.kind() {
        ErrorKind::NamespaceRefused => refused::failure(&error),
        _ => worktree_failure(&error, &worktree),
    })?;
    // The worktree may not have the folder.
    if !folder.is_dir() {
        folder.clone_from(&root);
    }
    std::env::set_current_dir(&folder)
        .map_err(|error| Failure::io("enter", vec![folder.clone()], &error))?;

    let alike = settings_alike(outside, &root, &project, session);
    let tree = NumberedTree { name: Some(worktree.name()), path: &root, slot: worktree.slot() };
    if let Some(why) = environment.why_no_port(tree.slot) {
        session.output.warning(why);
    }
    let (program, arguments) = match args.command.split_first() {
        Some((program, arguments)) => (program.clone(), arguments),
        None => (shell(), &[][..]),
    };
    let mut command = without_another_repository(Command::new(&program));
    command.args(arguments);
    for name in NOT_ALWAYS {
        command.env_remove(name);
    }
    command.envs(environment.with_project_at(project).variables(tree)).envs(alike.variables);
    // A shell believes this if it leads to the current folder, and the worktree's own path does.
    command.env("PWD", &folder);
    let error = command.exec();
    let program = PathBuf::from(program);
    // A folder of the PATH that may not be entered hides that no other folder has the program.
    let is_name = !program.as_os_str().as_encoded_bytes().contains(&b'/');
    let is_nowhere = is_name && !is_on_path(&program);
    session.output.failure(&match is_nowhere {
        true => {
            let hint = "'calve run NAME -- sh -c LINE' runs a line of a shell";
            own("run", &program, ErrorKind::SourceNotFound, "it is not on the PATH", hint)
        }
        false => Failure::io("run", vec![program], &error),
    });
    Ok(Exit::NotRun(match is_nowhere || error.kind() == io::ErrorKind::NotFound {
        true => NOT_FOUND,
        false => NOT_EXECUTABLE,
    }))
}

/// Lets git's settings hold in the run as they hold in the worktree `outside`, and names those for
/// which calve cannot do that.
fn settings_alike(
    outside: GitSettings,
    root: &Path,
    project: &Path,
    session: Session<'_>,
) -> Alike {
    let wanted = outside.with_moved(&root.join(".git"), &project.join(".git"));
    // Beside the project, where only this run sees it.
    let mut file = project.as_os_str().to_owned();
    file.push(".settings");
    let alike = Alike::of(&wanted, root, Path::new(&file)).unwrap_or_else(|error| {
        session.output.warning(format_args!(
            "git's settings may hold otherwise in the run, where the repository has another path: {error}"
        ));
        Alike::default()
    });
    if !alike.unsure.is_empty() {
        session.output.warning(format_args!(
            "settings of git that hold in the worktree do not hold alike in the run, where the repository has another \
             path: {}",
            alike.unsure.join(", ")
        ));
    }
    alike
}

fn is_on_path(program: &Path) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).symlink_metadata().is_ok())
}

fn shell() -> OsString {
    let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    shell.unwrap_or_else(|| "sh".into())
}

//! Worktrees: one file for each verb. `calve path` is here.

use calve::{LivingProcess, Worktree, WorktreeState};

use crate::args::PathArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::failure::stored::{missing, worktree_failure};
use crate::output::{PathFields, document};
use crate::session::{self, Session};

pub(crate) mod drop;
pub(crate) mod du;
pub(crate) mod env;
pub(crate) mod fill;
pub(crate) mod list;
pub(crate) mod reshare;
pub(crate) mod restore;
#[cfg(target_os = "linux")]
pub(crate) mod run;
#[cfg(not(target_os = "linux"))]
pub(crate) mod run {
    use calve::ErrorKind;

    use crate::args::RunArgs;
    use crate::exit::Exit;
    use crate::failure::Failure;
    use crate::failure::stored::own;
    use crate::session::Session;

    pub(crate) fn run(args: &RunArgs, session: Session<'_>) -> Result<Exit, Failure> {
        let worktree = session.worktree(args.worktree.as_deref())?;
        let why = "no mount namespace: only Linux has them";
        let hint = "configure the build again in the worktree";
        let operation = "show at the project's path";
        Err(own(operation, worktree.path(), ErrorKind::NamespaceRefused, why, hint))
    }
}
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod tidy;
pub(crate) mod update;

pub(crate) fn path(args: &PathArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let worktree = match args.project {
        true => session.store()?.project_worktree()?,
        false => match path_of_git(args, session)? {
            Some(done) => return Ok(done),
            None => session.worktree(args.worktree.as_deref())?,
        },
    };
    let state = worktree.state().map_err(|error| worktree_failure(&error, &worktree))?;
    if state == WorktreeState::Missing {
        return Err(missing(&worktree));
    }
    let output = session.output;
    output.document_or_paths(&WorktreeFields::new(&worktree), [worktree.path()])?;
    Ok(Exit::Done)
}

/// Prints the path of a worktree that the store does not know. It need not know it for that. `None`
/// if there is none.
fn path_of_git(args: &PathArgs, session: Session<'_>) -> Result<Option<Exit>, Failure> {
    let word = args.worktree.as_deref();
    let named = match (word.and_then(session::name), session.store()) {
        (Some(name), Ok(store)) if store.worktree(name).is_ok() => return Ok(None),
        (Some(name), Ok(store)) => {
            session::of_git(&store, name)?.map(|path| (name.to_owned(), path))
        }
        _ => None,
    };
    let found = named.or_else(|| session.only_gits(word)).filter(|(_, path)| path.is_dir());
    let Some((name, path)) = found else { return Ok(None) };
    let output = session.output;
    let fields = WorktreeFields { name: Some(name), path: PathFields::new(&path) };
    output.document_or_paths(&fields, [&*path])?;
    Ok(Some(Exit::Done))
}

document! {
    /// The worktree that a document is about.
    pub(crate) struct WorktreeFields(worktree: &Worktree) {
        /// `None` for the project.
        name: Option<String> = (!worktree.is_project()).then(|| worktree.name().to_owned()),
        #[serde(flatten)]
        path: PathFields = PathFields::new(worktree.path()),
    }
}

document! {
    struct LivingDocument(process: &LivingProcess) {
        pid: u32 = process.pid,
        command: String = process.command.clone(),
    }
}

//! What `start` and `restore` say about the trees that they made.

use std::path::Path;
use std::time::Duration;

use calve::{DestinationReport, GitOutcome, NoRepository, StartedWorktree, Store};

use crate::clone::findings;
use crate::exit::Exit;
use crate::paths;
use crate::session::Session;
use crate::summary::Summary;
use crate::text::harmless;

/// Prints the findings and the summary of trees that calve made from the store.
pub(crate) fn tell_trees(
    trees: &[DestinationReport],
    elapsed: Duration,
    store: &Store,
    session: Session<'_>,
) -> Exit {
    let output = session.output;
    let exit = output.warnings(&findings(trees, |_| false));
    output.summary(Summary::of(trees, store.path(), elapsed, output).text());
    exit
}

/// Warns about files of new worktrees that still name the project.
pub(super) fn tell_paths(worktrees: &[StartedWorktree], project: &Path, session: Session<'_>) {
    let first = worktrees.first().map_or(&[][..], |started| &started.mentions);
    session.output.warnings(&paths::warnings(first, project));
    #[cfg(target_os = "linux")]
    if let Some(started) = worktrees.first().filter(|it| paths::any_is_the_projects(&it.mentions)) {
        session.output.summary(format_args!(
            "'calve run {} -- CMD' runs CMD with all of that as it is: there the worktree is at the project's path",
            crate::text::shell_word(Path::new(&started.name))
        ));
    }
    let first = worktrees.first();
    if let Some(warning) =
        first.and_then(|started| paths::pnpm::warning(project, &started.report.path))
    {
        session.output.warning(warning);
    }
}

/// Prints what the user should know about the repositories of new worktrees.
pub(crate) fn tell_git(worktrees: &[StartedWorktree], session: Session<'_>) -> Exit {
    let output = session.output;
    let why = worktrees.iter().find_map(|started| match &started.git {
        GitOutcome::None(NoRepository::Linked) => Some(
            "the project's .git is a file or a link that leads to a repository elsewhere, and a copy of it would \
             change the project's index and branch",
        ),
        GitOutcome::None(NoRepository::WorksElsewhere) => {
            Some("core.worktree in the project's .git/config names another folder")
        }
        _ => None,
    });
    let not_linked = worktrees.iter().find_map(|started| started.not_linked.as_deref());
    let one = worktrees.len() == 1;
    match (why, not_linked) {
        (Some(why), _) => {
            let what = if one { "the worktree has" } else { "the worktrees have" };
            output.warning(format_args!("{what} no git repository: {why}"));
        }
        (None, Some(why)) => {
            let what = if one {
                "the worktree has a copy of the git repository and is not linked to it"
            } else {
                "the worktrees have copies of the git repository and are not linked to it"
            };
            output.warning(format_args!("{what}: {}", harmless(why)));
        }
        (None, None) => {}
    }
    for note in worktrees.first().map_or(&[][..], |started| &started.git_notes) {
        output.warning(harmless(note));
    }
    let copies = |started: &StartedWorktree| match &started.git {
        GitOutcome::Copied(report) => Some((**report).clone()),
        _ => None,
    };
    let copies: Vec<DestinationReport> = worktrees.iter().filter_map(copies).collect();
    let findings: Vec<String> =
        findings(&copies, |_| false).into_iter().map(|line| format!("in .git: {line}")).collect();
    output.warnings(&findings)
}

//! The worktrees that a drop leaves, and why: the project, and those that a filter did not choose.

use std::time::{Duration, SystemTime};

use calve::{ErrorKind, LastChange, StayReason, StayingWorktree, Worktree};
use serde::Serialize;

use crate::args::DropArgs;
use crate::failure::Failure;
use crate::failure::stored::own;
use crate::output::PathFields;
use crate::session::Session;
use crate::text::{self, cause, harmless, shell_word, shown};

/// A line names this many paths or commits at most.
const DETAILS: usize = 3;

/// The worktrees that the words name, each once. Fails if one of them is the project.
pub(super) fn named(args: &DropArgs, session: Session<'_>) -> Result<Vec<Worktree>, Failure> {
    let worktrees = session.worktrees(&args.worktrees)?;
    match worktrees.iter().find(|it| it.is_project()) {
        Some(project) => Err(project_is_no_worktree(project)),
        None => Ok(worktrees),
    }
}

fn project_is_no_worktree(project: &Worktree) -> Failure {
    let store = shell_word(project.store().path());
    own(
        "drop",
        project.path(),
        ErrorKind::InvalidName,
        "it is the project itself",
        format!("to delete all its snapshots, run: rm -r {store}"),
    )
}

/// A worktree that stays.
#[derive(Debug, Serialize)]
pub(super) struct LeftDocument {
    pub(super) name: String,
    #[serde(flatten)]
    path: PathFields,
    reason: &'static str,
    /// The same for people.
    message: String,
    changed: Option<String>,
    details: Vec<String>,
}

impl LeftDocument {
    pub(super) fn new(staying: &StayingWorktree, into: &str) -> Self {
        let worktree = &staying.worktree;
        if let Some(error) = &staying.error {
            return Self::refused(worktree, error);
        }
        let message = match staying.reason {
            StayReason::Current => "the current folder is in it".to_owned(),
            StayReason::Missing => "its folder is gone".to_owned(),
            StayReason::Starting => "another process is starting it".to_owned(),
            StayReason::MadeByGit => "git made it: name it to drop it".to_owned(),
            StayReason::UnderWay => {
                "a rebase, a merge, a bisection or the like is under way in it".to_owned()
            }
            StayReason::NothingCommitted => "nothing was committed in it".to_owned(),
            StayReason::NotMerged if into.is_empty() => {
                "the project has no commit that it could be merged into".to_owned()
            }
            StayReason::NotMerged => format!("it is not merged into {into}"),
            StayReason::NoRepository => {
                "it is no linked worktree of git, so calve cannot say what is merged".to_owned()
            }
            StayReason::NotIdle => match &staying.last_change {
                Some(last @ LastChange { path: Some(path), .. }) => {
                    format!("{} changed {}", shown(path), ago(last))
                }
                Some(last) => format!("it was started {}", ago(last)),
                None => "it changed not long ago".to_owned(),
            },
            _ => "a drop would refuse it".to_owned(),
        };
        Self {
            name: worktree.name().to_owned(),
            path: PathFields::new(worktree.path()),
            reason: staying.reason.as_str(),
            message,
            changed: staying.last_change.as_ref().map(|last| text::utc(last.time)),
            details: Vec::new(),
        }
    }

    pub(super) fn refused(worktree: &Worktree, error: &calve::Error) -> Self {
        let details = error.details().iter().map(|it| it.to_string_lossy().into_owned());
        Self {
            name: worktree.name().to_owned(),
            path: PathFields::new(worktree.path()),
            reason: error.kind().as_str(),
            message: cause(error.io_error()),
            changed: None,
            details: details.collect(),
        }
    }

    /// `left fix-2: it has work that is not committed: a, b`.
    pub(super) fn line(&self) -> String {
        let mut details: Vec<&str> =
            self.details.iter().take(DETAILS).map(String::as_str).collect();
        let more = self.details.len().saturating_sub(DETAILS);
        let more = (more > 0).then(|| format!("{} more", text::count(more as u64)));
        details.extend(more.as_deref());
        let details = match details.as_slice() {
            [] => String::new(),
            details => format!(": {}", details.join(", ")),
        };
        harmless(&format!("left {}: {}{details}", self.name, self.message)).into_owned()
    }
}

pub(super) fn ago(last: &LastChange) -> String {
    match SystemTime::now().duration_since(last.time).unwrap_or(Duration::ZERO) {
        since if since < Duration::from_secs(60) => "just now".to_owned(),
        since => format!("{} ago", text::age(since)),
    }
}

//! The JSON documents of `start` and `restore`.

use calve::{CopyCost, GitOutcome, NoRepository, StartReport, StartedWorktree};
use serde::Serialize;

use crate::clone::DestinationDocument;
use crate::filesystems::CostDocument;
use crate::paths::MentionDocument;
use crate::secrets::SecretDocument;
use crate::snapshots::SnapshotDocument;

/// The JSON document of `start`; docs/json.md says what each field of these means.
#[derive(Serialize)]
pub(super) struct StartDocument<'a> {
    snapshot: Option<String>,
    files: u64,
    bytes: u64,
    taken: Option<SnapshotDocument>,
    registered: bool,
    written_files: Option<u64>,
    secrets: Vec<SecretDocument>,
    left_secrets: Vec<SecretDocument>,
    expected_copies: Option<CostDocument>,
    worktrees: Vec<StartedDocument<'a>>,
    elapsed_seconds: f64,
}

/// One worktree that was made; also the JSON document of `restore`.
#[derive(Serialize)]
pub(crate) struct StartedDocument<'a> {
    name: &'a str,
    slot: Option<u32>,
    #[serde(flatten)]
    tree: DestinationDocument,
    git: &'static str,
    no_git_because: Option<&'static str>,
    not_linked_because: Option<&'a str>,
    git_notes: &'a [String],
    branch: Option<&'a str>,
    commit: Option<&'a str>,
    repository: Option<DestinationDocument>,
    after_start: Option<i32>,
    execute: Option<i32>,
    mentions: Vec<MentionDocument>,
}

impl<'a> StartedDocument<'a> {
    pub(crate) fn new(started: &'a StartedWorktree, codes: [Option<i32>; 2]) -> Self {
        let [after_start, execute] = codes;
        let (git, no_git_because, repository) = match &started.git {
            GitOutcome::Linked(_) => ("linked", None, None),
            GitOutcome::Copied(report) => ("copy", None, Some(DestinationDocument::new(report))),
            GitOutcome::None(why) => ("none", Some(no_git_because(*why)), None),
            _ => ("other", None, None),
        };
        let (branch, commit) = match &started.git {
            GitOutcome::Linked(linked) => (linked.branch.as_deref(), Some(linked.commit.as_str())),
            _ => (None, None),
        };
        Self {
            name: &started.name,
            slot: started.slot,
            tree: DestinationDocument::new(&started.report),
            git,
            no_git_because,
            not_linked_because: started.not_linked.as_deref(),
            git_notes: &started.git_notes,
            branch,
            commit,
            repository,
            after_start,
            execute,
            mentions: MentionDocument::all(&started.mentions),
        }
    }
}

/// The name that the JSON output uses.
fn no_git_because(why: NoRepository) -> &'static str {
    match why {
        NoRepository::NotWanted => "not_wanted",
        NoRepository::NotThere => "not_there",
        NoRepository::Linked => "linked",
        NoRepository::WorksElsewhere => "works_elsewhere",
        _ => "other",
    }
}

impl<'a> StartDocument<'a> {
    /// `after` has the exit codes of the command of git's setting in each worktree, if there is such
    /// a command, and `given` those of the command of `-x`.
    pub(super) fn new(
        report: &'a StartReport,
        after: &[Option<i32>],
        given: &[Option<i32>],
        price: Option<CopyCost>,
    ) -> Self {
        let code = |codes: &[Option<i32>], at: usize| codes.get(at).copied().flatten();
        let documents = report.worktrees.iter().enumerate();
        let first = report.worktrees.first();
        Self {
            snapshot: report.snapshot.map(|id| id.to_string()),
            files: first.map_or(0, |started| started.files),
            bytes: first.map_or(0, |started| started.bytes),
            taken: report.taken.as_ref().map(SnapshotDocument::new),
            registered: report.registered,
            written_files: report.written_files,
            secrets: SecretDocument::all(&report.secrets),
            left_secrets: SecretDocument::all(&report.left_secrets),
            expected_copies: price.map(CostDocument::new),
            worktrees: documents
                .map(|(at, it)| StartedDocument::new(it, [code(after, at), code(given, at)]))
                .collect(),
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

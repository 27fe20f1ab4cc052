//! The JSON documents of `start` and `restore`.

use calve::{CopyCost, GitOutcome, StartReport, StartedWorktree};

use crate::clone::DestinationDocument;
use crate::filesystems::CostDocument;
use crate::output::document;
use crate::paths::MentionDocument;
use crate::secrets::SecretDocument;
use crate::snapshots::SnapshotDocument;

document! {
    /// The JSON document of `start`; docs/json.md says what each field of these means.
    pub(super) struct StartDocument<'a>(
        report: &'a StartReport,
        after: &[Option<i32>],
        given: &[Option<i32>],
        price: Option<CopyCost>,
    ) [
        let code = |codes: &[Option<i32>], at: usize| codes.get(at).copied().flatten();
        let first = report.worktrees.first();
    ] {
        snapshot: Option<String> = report.snapshot.map(|id| id.to_string()),
        files: u64 = first.map_or(0, |started| started.files),
        bytes: u64 = first.map_or(0, |started| started.bytes),
        taken: Option<SnapshotDocument> = report.taken.as_ref().map(SnapshotDocument::new),
        registered: bool = report.registered,
        written_files: Option<u64> = report.written_files,
        secrets: Vec<SecretDocument> = SecretDocument::all(&report.secrets),
        left_secrets: Vec<SecretDocument> = SecretDocument::all(&report.left_secrets),
        expected_copies: Option<CostDocument> = price.map(CostDocument::new),
        worktrees: Vec<StartedDocument<'a>> = (0..)
            .zip(&report.worktrees)
            .map(|(at, it)| StartedDocument::new(it, [code(after, at), code(given, at)]))
            .collect(),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    /// One worktree that was made; also the JSON document of `restore`.
    pub(crate) struct StartedDocument<'a>(started: &'a StartedWorktree, codes: [Option<i32>; 2]) [
        let (git, no_git_because, repository) = match &started.git {
            GitOutcome::Linked(_) => ("linked", None, None),
            GitOutcome::Copied(report) => ("copy", None, Some(DestinationDocument::new(report))),
            GitOutcome::None(why) => ("none", Some(why.as_str()), None),
            _ => ("other", None, None),
        };
        let linked = match &started.git {
            GitOutcome::Linked(linked) => Some(linked),
            _ => None,
        };
    ] {
        name: &'a str = &started.name,
        slot: Option<u32> = started.slot,
        #[serde(flatten)]
        tree: DestinationDocument = DestinationDocument::new(&started.report),
        git: &'static str = git,
        no_git_because: Option<&'static str> = no_git_because,
        not_linked_because: Option<&'a str> = started.not_linked.as_deref(),
        git_notes: &'a [String] = &started.git_notes,
        branch: Option<&'a str> = linked.and_then(|linked| linked.branch.as_deref()),
        commit: Option<&'a str> = linked.map(|linked| linked.commit.as_str()),
        repository: Option<DestinationDocument> = repository,
        after_start: Option<i32> = codes[0],
        execute: Option<i32> = codes[1],
        mentions: Vec<MentionDocument> = MentionDocument::all(&started.mentions),
    }
}

//! `calve fill`.

use std::path::{Path, PathBuf};

use calve::{CopyCost, FillOptions, FillPlan, FillReport, SkipReason, Store};

use crate::args::FillArgs;
use crate::clone::{DestinationDocument, findings};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::filesystems::{Copies, CostDocument, Taker};
use crate::output::{PathFields, document};
use crate::paths::{MentionDocument, tell_living};
use crate::progress::Total;
use crate::secrets::{SecretDocument, SecretPolicy};
use crate::session::Session;
use crate::settings::Settings;
use crate::summary::Summary;
use crate::text::{counted, first, shown};

/// How many paths a message names.
const NAMED_MOST: usize = 3;

pub(crate) fn run(args: &FillArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let common = session.common;
    let path = match &args.path {
        Some(path) => common.resolve(path),
        None => root_of(&common.resolve(Path::new("."))),
    };
    // Before git is asked about it.
    std::fs::metadata(&path).map_err(|error| Failure::io("fill", vec![path.clone()], &error))?;
    // It needs no store, but the paths that it writes must hold outside of 'calve run'.
    for folder in [&*path, &common.resolve(Path::new("."))] {
        Store::must_be_seen_from(folder)?;
    }
    let mut options = FillOptions::new();
    if let Some(from) = &args.from {
        options = options.from(common.resolve(from));
    }
    if let Some(file) = &args.include_from {
        options = options.include_from(file);
    }
    if args.untracked {
        options = options.untracked();
    }
    let secrets = policy(&path)?;
    if secrets.leaves(secrets_ahead, &session.signals.cancel()) {
        options = options.leave_secrets();
    }
    let plan = session.work(Total::Unknown, |common| FillPlan::new(&path, &options, common))?;
    let taker = Taker::Copies("the carried files will take");
    let copies = Copies { from: plan.from(), to: plan.path(), number: 1, taker };
    let price = copies.price(|| plan.cost()).map(|(line, cost)| {
        session.output.warning(line);
        cost
    });
    let report = session.work(Total::Unknown, |common| plan.run(common))?;
    secrets.tell(&report.secrets, &report.left_secrets, session.output);
    tell(&report, price, session)
}

/// What may come along, in the words of a question.
pub(super) fn secrets_ahead() -> String {
    "Among the files that git ignores some may be secrets, such as .env".to_owned()
}

/// What git's settings say of secrets in a working tree. If none is set, they come along.
///
/// # Errors
/// git cannot say the settings, so one of them may be that they stay; or the setting is wrong.
pub(super) fn policy(path: &Path) -> Result<SecretPolicy, Failure> {
    SecretPolicy::of(&Settings::known(path)?)
}

/// The root of the working tree that contains a folder; the folder itself if git finds none.
pub(super) fn root_of(folder: &Path) -> PathBuf {
    let absolute = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let has_git = |root: &&Path| std::fs::symlink_metadata(root.join(".git")).is_ok();
    absolute.ancestors().find(has_git).map_or(folder.to_owned(), Path::to_owned)
}

fn tell(
    report: &FillReport,
    price: Option<CopyCost>,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let output = session.output;
    let trees = std::slice::from_ref(&report.arrived);
    tell_living(&report.arrived.skipped, output);
    let exit = output.warnings(&findings(trees, |it| matches!(it, SkipReason::Living(_))));
    if !report.not_ignored.is_empty() {
        output.summary(format_args!(
            "left out files that git ignores in the project but not in the worktree: {}",
            named(&report.not_ignored)
        ));
    }
    let mut tracked = Vec::new();
    for (files, what) in [
        (report.shared_files, "shared with the project"),
        (report.timed_files, "with the project's time"),
        (report.renewed_files, "with a new time, because they differ"),
    ] {
        if files > 0 {
            tracked.push(format!("{} {what}", counted(files, "tracked file")));
        }
    }
    if !tracked.is_empty() {
        output.summary(tracked.join("; "));
    }
    if !report.worktrees.is_empty() {
        output.summary(format_args!("left out other worktrees: {}", named(&report.worktrees)));
    }
    crate::paths::tell(&report.mentions, &report.path, &report.from, output);
    output.summary(Summary::of(trees, &report.from, report.elapsed, output).text());
    let told = output.document_or_paths(&Document::new(report, price), [report.path.as_path()]);
    told.map_err(|failure| failure.but_stands("the worktree", trees))?;
    Ok(exit)
}

fn named(paths: &[PathBuf]) -> String {
    first(NAMED_MOST, paths.iter().map(|path| shown(path)))
}

document! {
    /// The JSON document of `fill`; docs/json.md says what each field means.
    struct Document(report: &FillReport, price: Option<CopyCost>) {
        expected_copies: Option<CostDocument> = price.map(CostDocument::new),
        #[serde(flatten)]
        from: PathFields = PathFields::named("from", &report.from),
        arrived: DestinationDocument = DestinationDocument::new(&report.arrived),
        carried_files: u64 = report.carried_files,
        shared_files: u64 = report.shared_files,
        timed_files: u64 = report.timed_files,
        renewed_files: u64 = report.renewed_files,
        mentions: Vec<MentionDocument> = MentionDocument::all(&report.mentions),
        ready_index_entries: u64 = report.ready_index_entries,
        not_ignored: Vec<PathFields> = PathFields::all(&report.not_ignored),
        worktrees: Vec<PathFields> = PathFields::all(&report.worktrees),
        secrets: Vec<SecretDocument> = SecretDocument::all(&report.secrets),
        left_secrets: Vec<SecretDocument> = SecretDocument::all(&report.left_secrets),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

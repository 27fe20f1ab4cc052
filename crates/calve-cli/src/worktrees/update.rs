//! `calve update`.

use std::path::{Path, PathBuf};

use calve::{
    ErrorKind, FillOptions, StayedPath, StayedReason, UpdateOptions, UpdateReport, Worktree,
};
use rustix::fd::AsFd as _;
use serde::Serialize;

use super::fill::{policy, root_of, secrets_ahead};
use super::{LivingDocument, WorktreeFields};
use crate::args::UpdateArgs;
use crate::clone::SkippedDocument;
use crate::exit::Exit;
use crate::failure::stored::{own, worktree_failure};
use crate::failure::{Failure, Kind};
use crate::output::{PathFields, document};
use crate::progress::Total;
use crate::secrets::SecretDocument;
use crate::session::{self, Session};
use crate::settings::git_in;
use crate::snapshots::tell_skipped;
use crate::text::{counted, duration, first, harmless, shell_word, shown};

/// How many paths a message names.
const NAMED_MOST: usize = 5;

/// A worktree that is to be updated.
enum Updated {
    Ours(Box<Worktree>),
    /// git or another tool made the one at this path.
    Gits(PathBuf),
}

impl Updated {
    /// The worktree with this name, or at this path; without a word, the one that contains the
    /// current folder.
    fn meant(word: Option<&Path>, session: Session<'_>) -> Result<Self, Failure> {
        let failure = match session.worktree(word) {
            Ok(worktree) => return Ok(Self::Ours(Box::new(worktree))),
            Err(failure) => failure,
        };
        if !matches!(
            failure.kind,
            Kind::Library(ErrorKind::WorktreeNotFound | ErrorKind::StoreNotFound)
        ) {
            return Err(failure);
        }
        let named = match word.and_then(session::name) {
            Some(name) => session.store().ok().map(|store| session::of_git(&store, name)),
            None => None,
        };
        let path = match (named.transpose()?.flatten(), word) {
            (Some(path), _) => path,
            (None, Some(word)) => session.common.resolve(word),
            (None, None) => root_of(&session.common.resolve(Path::new("."))),
        };
        // Only the worktrees of git have a file of this name.
        let is_worktree = std::fs::symlink_metadata(path.join(".git")).is_ok_and(|it| it.is_file());
        if is_worktree { Ok(Self::Gits(path)) } else { Err(failure) }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Ours(worktree) => worktree.path(),
            Self::Gits(path) => path,
        }
    }
}

pub(crate) fn run(args: &UpdateArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let mut worktrees = Vec::new();
    match args.worktrees.is_empty() {
        true => worktrees.push(Updated::meant(None, session)?),
        false => {
            for word in &args.worktrees {
                let worktree = Updated::meant(Some(word), session)?;
                if worktrees.iter().all(|other: &Updated| other.path() != worktree.path()) {
                    worktrees.push(worktree);
                }
            }
        }
    }
    let mut documents = Vec::new();
    let mut exit = Exit::Done;
    for worktree in &worktrees {
        if args.merge || args.rebase {
            let from = project_of(worktree)?;
            let_git(worktree.path(), &from, args.rebase, session)?;
        }
        let (document, ends) = match worktree {
            Updated::Ours(worktree) => ours(worktree, args, session)?,
            Updated::Gits(path) => gits(path, args, session)?,
        };
        documents.push(document);
        exit = exit.and(ends);
    }
    let output = session.output;
    output.document_or_paths(
        &Document { dry_run: args.dry_run, worktrees: documents },
        worktrees.iter().map(Updated::path),
    )?;
    Ok(exit)
}

/// Updates a worktree that calve made.
fn ours(
    worktree: &Worktree,
    args: &UpdateArgs,
    session: Session<'_>,
) -> Result<(UpdatedDocument, Exit), Failure> {
    let secrets = policy(worktree.path())?;
    let leaves = secrets.leaves(secrets_ahead, &session.signals.cancel());
    let how = UpdateOptions::new().force(args.force).dry_run(args.dry_run).leave_secrets(leaves);
    let report = session
        .work(Total::Unknown, |options| worktree.update(&how, options))
        .map_err(|error| update_failure(&error, worktree))?;
    let output = session.output;
    let name = harmless(worktree.name()).into_owned();
    let exit = tell_skipped(&report.skipped, session);
    if !report.living.is_empty() {
        let living = report.living.iter();
        let named = living.map(|it| format!("{} ({})", harmless(&it.command), it.pid));
        output.summary(format_args!(
            "{name}: processes work in it, and may have old files open: {}",
            first(NAMED_MOST, named)
        ));
    }
    tell_stayed(worktree, &report, session);
    secrets.tell(&[], &report.left_secrets, output);
    if !report.not_ignored.is_empty() {
        let paths = report.not_ignored.iter().map(|path| shown(path));
        output.summary(format_args!(
            "{name}: left alone what git ignores here or in the project, and not in both: {}",
            first(NAMED_MOST, paths)
        ));
    }
    output.summary(summary(&name, &report, args.dry_run, session));
    let fields = WorktreeFields::new(worktree);
    Ok((UpdatedDocument::new(fields, &report), exit))
}

/// Says what stayed, and how one takes the project's instead.
fn tell_stayed(worktree: &Worktree, report: &UpdateReport, session: Session<'_>) {
    let mut told: Vec<(&str, Vec<String>)> = Vec::new();
    for StayedPath { path, why, .. } in &report.stayed {
        let why = match why {
            StayedReason::Changed if worktree.path().join(path).is_dir() => {
                "changed here as well (to take the project's, delete it here and run 'calve update' again)"
            }
            StayedReason::Changed => "changed here as well",
            StayedReason::Deleted => "deleted here",
            StayedReason::Unseen => "it has files that calve records in no snapshot",
            StayedReason::Used if !worktree.path().join(path).is_dir() => {
                "a process has it open, and may write to it ('calve update --force' replaces it nevertheless)"
            }
            StayedReason::Used => {
                "a process works in it ('calve update --force' replaces it nevertheless)"
            }
            StayedReason::Tracked => "git tracks files in it",
            StayedReason::Secret => "it looks like a secret",
            _ => why.as_str(),
        };
        match told.iter_mut().find(|it| it.0 == why) {
            Some((_, paths)) => paths.push(shown(path)),
            None => told.push((why, vec![shown(path)])),
        }
    }
    let name = harmless(worktree.name());
    for (why, paths) in told {
        let most = if session.output.verbose { usize::MAX } else { NAMED_MOST };
        let paths = first(most, paths.into_iter());
        session.output.summary(format_args!("{name}: stays as it is: {paths}: {why}"));
    }
}

fn summary(name: &str, report: &UpdateReport, dry_run: bool, session: Session<'_>) -> String {
    let time = duration(report.elapsed);
    if report.brought == 0 && report.folders.is_empty() {
        return format!("{name}: there is nothing to bring, {time}");
    }
    let mut what = Vec::new();
    if !report.folders.is_empty() {
        what.push(first(NAMED_MOST, report.folders.iter().map(|path| shown(path))));
    }
    if report.brought > 0 {
        let other = if report.folders.is_empty() { "path" } else { "other path" };
        what.push(counted(report.brought, other));
    }
    let what = what.join(" and ");
    if dry_run {
        return format!("{name}: would bring {what}, {time}");
    }
    let output = session.output;
    let mut line = format!(
        "{name}: brought {what}: {}, {} shared, {} copied",
        counted(report.files, "file"),
        output.size(report.shared_bytes),
        output.size(report.copied_bytes)
    );
    if report.renewed_files > 0 {
        line.push_str(&format!(
            "; {} that {} from the project's got a new time, so that a build sees {}",
            counted(report.renewed_files, "file"),
            if report.renewed_files == 1 { "differs" } else { "differ" },
            if report.renewed_files == 1 { "it" } else { "them" },
        ));
    }
    line.push_str(&format!(", {time}"));
    line.push_str(&match report.keeps_earlier {
        true => format!("; 'calve undo {name}' takes back this and an earlier restore"),
        false => format!("; 'calve undo {name}' takes it back"),
    });
    line
}

fn update_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    let failure = worktree_failure(error, worktree);
    let word = shell_word(Path::new(worktree.name()));
    let hint = match error.kind() {
        ErrorKind::Overlap if worktree.is_project() => {
            "'calve update WORKTREE' updates a worktree; 'calve list' lists them".to_owned()
        }
        ErrorKind::Changed if error.details().is_empty() => {
            format!("'calve restore {word}' completes it")
        }
        ErrorKind::Changed => "stop what changes these files, and run the same again".to_owned(),
        _ => return failure,
    };
    failure.hinted(hint)
}

/// Completes a worktree that calve did not make. Nothing says what it had from the project, so
/// everything in it stays.
fn gits(
    path: &Path,
    args: &UpdateArgs,
    session: Session<'_>,
) -> Result<(UpdatedDocument, Exit), Failure> {
    let secrets = policy(path)?;
    let mut options = FillOptions::new();
    if secrets.leaves(secrets_ahead, &session.signals.cancel()) {
        options = options.leave_secrets();
    }
    let plan =
        session.work(Total::Unknown, |common| calve::FillPlan::new(path, &options, common))?;
    let name = path.file_name().map_or(shown(path), |name| shown(Path::new(name)));
    let fields = WorktreeFields { name: None, path: PathFields::new(plan.path()) };
    if args.dry_run {
        session.output.summary(format_args!(
            "{name}: git made it: what it lacks would arrive, as with 'calve fill'"
        ));
        return Ok((UpdatedDocument::new(fields, &UpdateReport::default()), Exit::Done));
    }
    let report = session.work(Total::Unknown, |options| plan.run(options))?;
    crate::paths::tell(&report.mentions, &report.path, &report.from, session.output);
    secrets.tell(&report.secrets, &report.left_secrets, session.output);
    session.output.summary(format_args!(
        "{name}: git made it: brought {} that it lacked, {} shared, {} copied; what was there stays, {}",
        counted(report.carried_files, "file"),
        session.output.size(report.arrived.reflinked_bytes),
        session.output.size(report.arrived.copied_bytes),
        duration(report.elapsed)
    ));
    let mut document = UpdatedDocument::new(fields, &UpdateReport::default());
    document.brought = report.carried_files;
    document.files = report.arrived.files;
    document.shared_files = report.arrived.reflinked_files;
    document.shared_bytes = report.arrived.reflinked_bytes;
    document.copied_bytes = report.arrived.copied_bytes;
    document.timed_files = report.timed_files;
    document.renewed_files = report.renewed_files;
    document.left_secrets = SecretDocument::all(&report.left_secrets);
    document.elapsed_seconds = report.elapsed.as_secs_f64();
    Ok((document, Exit::Done))
}

/// The project of a worktree.
fn project_of(worktree: &Updated) -> Result<PathBuf, Failure> {
    match worktree {
        Updated::Ours(worktree) => Ok(worktree.store().project()?),
        Updated::Gits(path) => {
            let plan = calve::FillPlan::new(path, &FillOptions::new(), &calve::StoreOptions::new());
            Ok(plan?.from().to_owned())
        }
    }
}

/// Lets git merge the project's commit into a worktree, or rebase the worktree onto it. git's
/// messages are the user's to read.
fn let_git(path: &Path, project: &Path, rebase: bool, session: Session<'_>) -> Result<(), Failure> {
    let verb = if rebase { "rebase" } else { "merge" };
    let refused = |why: &str, hint: String| {
        own(if rebase { "rebase" } else { "merge into" }, path, ErrorKind::Git, why, hint)
    };
    let failed = |error: std::io::Error| Failure::io("run git in", vec![path.to_owned()], &error);
    // git would work on a repository around the worktree, whose branch nobody named.
    if std::fs::symlink_metadata(path.join(".git")).is_err() {
        let hint = format!("'calve update {}' brings the project's files", shell_word(path));
        return Err(refused("it has no git repository", hint));
    }
    let git_in = |tree: &Path| {
        let mut git = git_in(tree);
        git.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
        git
    };
    let under_way = || calve::git_under_way(path).map_err(Failure::from);
    if let Some(state) = under_way()?.first() {
        // git would refuse as well. Afterwards calve would take the state that it finds for the result
        // of its own merge, and advise to abort it.
        return Err(refused(
            &format!("{state} is under way there"),
            "finish it or give it up first: 'git status' there says how".to_owned(),
        ));
    }
    let ask = |words: &[&str]| -> Result<String, Failure> {
        let output = calve::output_of(git_in(project).args(words)).map_err(failed)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"])?;
    if head.is_empty() {
        return Err(refused("the project has no commit yet", "commit there first".to_owned()));
    }
    // Whole: a clone has the branch that its remote chose, and git would take the short name
    // `--exec=…` for an option.
    let branch = ask(&["symbolic-ref", "--quiet", "HEAD"])?;
    let is_linked = std::fs::symlink_metadata(path.join(".git")).is_ok_and(|it| it.is_file());
    let mut commands = Vec::new();
    if !is_linked {
        // A repository of its own does not have the project's new commits.
        let mut fetch = git_in(path);
        // The user's settings may forbid this for repositories that others name.
        fetch.env("GIT_ALLOW_PROTOCOL", "file");
        fetch.args(["-c", "protocol.version=2", "-c", "fetch.fsckObjects=false"]);
        fetch.args(["fetch", "--quiet", "--no-tags"]).arg(project).arg(&head);
        commands.push(fetch);
    }
    let mut command = git_in(path);
    command.arg(verb);
    command.arg(if is_linked && !branch.is_empty() { &branch } else { &head });
    commands.push(command);
    for mut command in commands {
        // Standard output is for calve's own results.
        let messages = std::io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
        let status = command.stdout(messages).status().map_err(failed)?;
        if !status.success() {
            let word = shell_word(path);
            if under_way()?.is_empty() {
                let again = format!("calve update --{verb} {word}");
                return Err(refused(
                    &format!("git {verb} refused; calve brought nothing"),
                    format!(
                        "git says above what is in the way; commit or stash it there, then run '{again}' again"
                    ),
                ));
            }
            let [goes_on, gives_up] =
                ["continue", "abort"].map(|how| format!("git -C {word} {verb} --{how}"));
            return Err(refused(
                &format!("git {verb} stopped; calve brought nothing, and undid nothing of git's"),
                format!(
                    "resolve it and run '{goes_on}', then 'calve update {word}'; '{gives_up}' gives it up"
                ),
            ));
        }
    }
    session.output.summary(format_args!(
        "{}: git {verb}: at {}",
        shown(path),
        if branch.is_empty() {
            &head
        } else {
            branch.strip_prefix("refs/heads/").unwrap_or(&branch)
        }
    ));
    Ok(())
}

/// The JSON document of `update`; docs/json.md says what each field means.
#[derive(Serialize)]
struct Document {
    dry_run: bool,
    worktrees: Vec<UpdatedDocument>,
}

document! {
    struct UpdatedDocument(worktree: WorktreeFields, report: &UpdateReport) {
        #[serde(flatten)]
        worktree: WorktreeFields = worktree,
        from: Option<String> = report.from.map(|id| id.to_string()),
        to: Option<String> = report.to.map(|id| id.to_string()),
        brought: u64 = report.brought,
        folders: Vec<PathFields> = PathFields::all(&report.folders),
        stayed: Vec<StayedDocument> = report.stayed.iter().map(StayedDocument::new).collect(),
        not_ignored: Vec<PathFields> = PathFields::all(&report.not_ignored),
        files: u64 = report.files,
        shared_files: u64 = report.shared_files,
        shared_bytes: u64 = report.shared_bytes,
        copied_bytes: u64 = report.copied_bytes,
        timed_files: u64 = report.timed_files,
        renewed_files: u64 = report.renewed_files,
        left_secrets: Vec<SecretDocument> = SecretDocument::all(&report.left_secrets),
        living: Vec<LivingDocument> = report.living.iter().map(LivingDocument::new).collect(),
        skipped: Vec<SkippedDocument> = report.skipped.iter().map(SkippedDocument::new).collect(),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    struct StayedDocument(stayed: &StayedPath) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&stayed.path),
        why: &'static str = stayed.why.as_str(),
    }
}

//! `calve clone`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calve::{
    CloneOptions, CloneReport, CopyCost, DestinationReport, Method, Progress, SkipReason, Skipped,
};
use serde::Serialize;

use crate::args::CloneArgs;
use crate::choices::{Existing, Mode, Reflink};
use crate::common::Common;
use crate::exit::Exit;
use crate::failure::{Failure, clone_failure};
use crate::filesystems::{Copies, CostDocument, Taker};
use crate::output::{Output, PathFields, document};
use crate::progress::{self, Total, Watched};
use crate::summary::{Summary, was_left};
use crate::system::Signals;
use crate::text::shown;

/// Clones, and prints the result.
pub(crate) fn run(
    args: &CloneArgs,
    destinations: &[PathBuf],
    common: &Common,
    output: Output,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let source = common.resolve(&args.source);
    #[cfg(unix)]
    calve::Store::must_be_seen_from(&source)
        .map_err(|error| crate::failure::stored::store_failure(&error))?;
    let destinations: Vec<PathBuf> = destinations.iter().map(|path| common.resolve(path)).collect();
    #[cfg(unix)]
    for destination in &destinations {
        calve::Store::must_be_outside(destination)
            .map_err(|error| crate::failure::stored::store_failure(&error))?;
        #[cfg(target_os = "linux")]
        crate::volume::store::must_be_mounted("clone to", destination)?;
    }
    let cancel = signals.cancel();
    let progress = Arc::new(Progress::default());
    let mut options = options(args, &source, common).cancel(&cancel).progress(&progress);
    if output.json || output.verbose {
        options = options.list_existing();
    }
    let had: Vec<bool> = destinations.iter().map(|path| has_store(path)).collect();
    let price = price(&source, &destinations, args, output);
    #[cfg(unix)]
    let work = || match args.rewrite_paths {
        true => calve::clone_with_own_paths(&source, &destinations, &options)
            .map(|(report, mentions)| (report, Some(mentions))),
        false => calve::clone_tree(&source, &destinations, &options).map(|report| (report, None)),
    };
    #[cfg(not(unix))]
    let work = || calve::clone_tree(&source, &destinations, &options).map(|report| (report, ()));
    let done = if output.wants_bar() {
        let total = if args.is_filtered() {
            Total::Unknown
        } else {
            Total::Tree { root: &source, times: destinations.len() as u64, own: false }
        };
        let watched = Watched { progress: &progress, cancel: &cancel, total };
        progress::shown_while(&watched, work)
    } else {
        work()
    };
    let (report, mentions) = done.map_err(|error| clone_failure(&error, &source, &destinations))?;
    tell(&Made { report, mentions, price, had }, args, output)
}

/// Says what the copies will cost, if blocks cannot be shared and the user did not ask for copies.
/// With a filter this says nothing: the filter may leave most of the tree out.
fn price(
    source: &Path,
    destinations: &[PathBuf],
    args: &CloneArgs,
    output: Output,
) -> Option<CopyCost> {
    let is_asked = args.mode == Mode::Clone && args.reflink == Reflink::Auto;
    if !is_asked
        || args.or_hardlink
        || args.or_symlink
        || args.dry_run
        || args.is_filtered()
        || args.existing != Existing::Fail
    {
        return None;
    }
    let copied: Vec<&PathBuf> =
        destinations.iter().filter(|path| calve::must_copy(source, path)).collect();
    let taker = Taker::Copies(match copied.len() {
        1 => "the clone will take",
        _ => "the clones will take",
    });
    let cost = || {
        // A clone includes `.calve`, which `of_tree` leaves out.
        let (mut cost, own) = (CopyCost::of_tree(source), CopyCost::of_tree(source.join(".calve")));
        cost.files += own.files;
        cost.bytes = cost.bytes.saturating_add(own.bytes);
        cost.is_least |= own.is_least;
        cost
    };
    let (line, cost) =
        Copies { from: source, to: copied.first()?, number: copied.len() as u64, taker }
            .price(cost)?;
    output.warning(line);
    Some(cost)
}

/// For each destination, the files that named the source, if the user wants them rewritten.
#[cfg(unix)]
type Mentions = Option<Vec<Vec<calve::PathMention>>>;
#[cfg(not(unix))]
type Mentions = ();

/// In a project with a repository: its store, or the file that says where the store is.
const STORE_IN_GIT: &str = ".git/calve";
/// git's registrations of the source's linked worktrees.
const WORKTREES_IN_GIT: &str = ".git/worktrees";

fn has_store(root: &Path) -> bool {
    root.join(".calve/format").try_exists().unwrap_or(false)
}

/// Whether all of these registrations name their trees by absolute paths.
fn lead_elsewhere(registrations: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(registrations) else { return false };
    entries.all(|entry| {
        let gitdir = entry.map(|entry| std::fs::read(entry.path().join("gitdir")));
        gitdir.flatten().is_ok_and(|text| text.starts_with(b"/"))
    })
}

fn options(args: &CloneArgs, source: &Path, common: &Common) -> CloneOptions {
    let mut options = CloneOptions::new()
        .mode(args.mode.into())
        .reflink(args.reflink.into())
        .existing(args.existing.into())
        .gitignore(args.gitignore)
        .xattrs(!args.no_xattrs)
        .git_index(args.git_index.into())
        .durable(args.durable)
        .dry_run(args.dry_run);
    if source.join(STORE_IN_GIT).is_dir() {
        // It is the source's. A clone with it would be a second project of the same worktrees.
        options = options.exclude(format!("/{STORE_IN_GIT}"));
    }
    if lead_elsewhere(&source.join(WORKTREES_IN_GIT)) {
        // The trees lead to the source's repository. With their registrations, git would take their
        // branches for ones that the clone's worktrees have.
        options = options.exclude(format!("/{WORKTREES_IN_GIT}"));
    }
    for glob in &args.exclude {
        options = options.exclude(glob);
    }
    for glob in &args.include {
        options = options.include(glob);
    }
    for glob in &args.mutable {
        options = options.mutable(glob);
    }
    if args.or_hardlink {
        options = options.or_hardlink();
    }
    if args.or_symlink {
        options = options.or_symlink();
    }
    match common.jobs {
        Some(jobs) => options.jobs(jobs),
        None => options,
    }
}

/// Clones that were made.
struct Made {
    report: CloneReport,
    mentions: Mentions,
    price: Option<CopyCost>,
    /// Which destinations had a store before.
    had: Vec<bool>,
}

/// Prints the results, then the findings and the summary.
fn tell(made: &Made, args: &CloneArgs, output: Output) -> Result<Exit, Failure> {
    let Made { report, mentions, price, had } = made;
    // With `--existing skip`, a destination that stays as it was is no finding.
    let asked =
        |reason: &SkipReason| args.existing == Existing::Skip && *reason == SkipReason::Exists;
    let exit = output.warnings(&findings(&report.destinations, asked));
    let summary = Summary::of(&report.destinations, &report.source, report.elapsed, output);
    output.summary(Summary { dry_run: args.dry_run, ..summary }.text());

    let mut arrived = report.destinations.iter().zip(had).filter(|(_, had)| !**had);
    if has_store(&report.source) && arrived.any(|(destination, _)| has_store(&destination.path)) {
        output.summary(
            "the clone also has the project's store, .calve; --exclude .calve leaves it out",
        );
    }

    for destination in &report.destinations {
        if destination.inside_source && !was_left(destination) {
            let path = shown(&destination.path);
            output.summary(format_args!("{path} is inside the source: the clone leaves it out"));
        }
    }

    #[cfg(unix)]
    for (destination, mentions) in report.destinations.iter().zip(mentions.iter().flatten()) {
        crate::paths::tell(mentions, &destination.path, &report.source, output);
    }
    let paths = report.destinations.iter().filter(|_| !args.dry_run).map(|it| &*it.path);
    let told = output.document_or_paths(&Document::new(report, mentions, *price), paths);
    let what = if report.destinations.len() == 1 { "the tree" } else { "the trees" };
    told.map_err(|failure| match args.dry_run {
        true => failure,
        false => failure.but_stands(what, &report.destinations),
    })?;
    Ok(exit)
}

/// One line about an entry that did not arrive, or not whole.
pub(crate) fn finding(path: &Path, reason: &SkipReason) -> String {
    // The root's path is empty.
    let name = if path.as_os_str().is_empty() { ".".to_owned() } else { shown(path) };
    match reason {
        SkipReason::Socket
        | SkipReason::Device
        | SkipReason::Vanished
        | SkipReason::Changing
        | SkipReason::OtherRepository
        | SkipReason::StoreOrRemote
        | SkipReason::OwnName => {
            format!("{name}: left out: {reason}")
        }
        _ => format!("{name}: {reason}"),
    }
}

/// Each finding once. It names a destination only if the others do not have the same finding.
pub(crate) fn findings(
    destinations: &[DestinationReport],
    asked: impl Fn(&SkipReason) -> bool,
) -> Vec<String> {
    let mut found: BTreeMap<(&Path, String), Vec<&Path>> = BTreeMap::new();
    for destination in destinations {
        for Skipped { path, reason, .. } in
            destination.skipped.iter().filter(|skipped| !asked(&skipped.reason))
        {
            // The key contains the text, so two reasons for one path stay apart.
            found.entry((path, finding(path, reason))).or_default().push(&destination.path);
        }
    }
    let made = destinations.iter().filter(|destination| !was_left(destination)).count();
    let mut lines = Vec::new();
    for ((_, line), of) in found {
        if of.len() == made {
            lines.push(line);
        } else {
            lines.extend(of.iter().map(|destination| format!("{}: {line}", shown(destination))));
        }
    }
    lines
}

document! {
    /// The JSON document of `clone`; docs/json.md says what each field means.
    struct Document(report: &CloneReport, mentions: &Mentions, price: Option<CopyCost>) {
        #[serde(flatten)]
        source: PathFields = PathFields::named("source", &report.source),
        expected_copies: Option<CostDocument> = price.map(CostDocument::new),
        destinations: Vec<ClonedDocument> = ClonedDocument::all(&report.destinations, mentions),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

#[derive(Serialize)]
struct ClonedDocument {
    #[serde(flatten)]
    tree: DestinationDocument,
    #[cfg(unix)]
    #[serde(skip_serializing_if = "Option::is_none")]
    mentions: Option<Vec<crate::paths::MentionDocument>>,
}

document! {
    /// A count is absent (`null`) if calve did not walk the tree, and so counted nothing.
    pub(crate) struct DestinationDocument(tree: &DestinationReport) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(&tree.path),
        inside_source: bool = tree.inside_source,
        method: &'static str = tree.method.as_str(),
        files: Option<u64> = counted_in(tree, tree.files),
        directories: Option<u64> = counted_in(tree, tree.directories),
        symlinks: Option<u64> = counted_in(tree, tree.symlinks),
        reflinked_files: Option<u64> = counted_in(tree, tree.reflinked_files),
        reflinked_bytes: Option<u64> = counted_in(tree, tree.reflinked_bytes),
        copied_files: Option<u64> = counted_in(tree, tree.copied_files),
        copied_bytes: Option<u64> = counted_in(tree, tree.copied_bytes),
        linked_files: Option<u64> = counted_in(tree, tree.linked_files),
        symlinked_files: Option<u64> = counted_in(tree, tree.symlinked_files),
        linked_because: Option<Reasons> = counted_in(tree, tree.linked_because.rows().into()),
        copied_because: Option<Reasons> = counted_in(tree, tree.copied_because.rows().into()),
        unlinked_because: Option<Reasons> = counted_in(tree, tree.unlinked_because.rows().into()),
        replaced_entries: Option<u64> = counted_in(tree, tree.replaced_entries),
        replaced: Vec<PathFields> = PathFields::all(&tree.replaced),
        kept_entries: Option<u64> = counted_in(tree, tree.kept_entries),
        kept: Vec<PathFields> = PathFields::all(&tree.kept),
        ready_index_entries: Option<u64> = counted_in(tree, tree.ready_index_entries),
        skipped: Vec<SkippedDocument> = tree.skipped.iter().map(SkippedDocument::new).collect(),
    }
}

/// How many files calve treated so, for each reason.
type Reasons = BTreeMap<&'static str, u64>;

/// What calve counted in a tree that it walked.
fn counted_in<T>(tree: &DestinationReport, counted: T) -> Option<T> {
    (tree.method != Method::Snapshot).then_some(counted)
}

#[derive(Serialize)]
pub(crate) struct SkippedDocument {
    #[serde(flatten)]
    path: PathFields,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl ClonedDocument {
    #[cfg_attr(not(unix), expect(unused_variables))]
    fn all(trees: &[DestinationReport], mentions: &Mentions) -> Vec<Self> {
        let cloned = |(at, tree): (usize, &DestinationReport)| Self {
            tree: DestinationDocument::new(tree),
            #[cfg(unix)]
            mentions: mentions
                .as_ref()
                .and_then(|all| all.get(at))
                .map(|mentions| crate::paths::MentionDocument::all(mentions)),
        };
        trees.iter().enumerate().map(cloned).collect()
    }
}

impl SkippedDocument {
    pub(crate) fn new(skipped: &Skipped) -> Self {
        let (reason, detail) = match &skipped.reason {
            SkipReason::Socket => ("socket", None),
            SkipReason::Living(pid) => ("living", Some(pid.to_string())),
            SkipReason::Device => ("device", None),
            SkipReason::Vanished => ("vanished", None),
            SkipReason::Changing => ("changing", None),
            SkipReason::Torn => ("torn", None),
            SkipReason::Restless => ("restless", None),
            SkipReason::Stage => ("stage", None),
            SkipReason::OtherRepository => ("other_repository", None),
            SkipReason::StoreOrRemote => ("store_or_remote", None),
            SkipReason::OwnName => ("own_name", None),
            SkipReason::SharedRepository => ("shared_repository", None),
            SkipReason::Exists => ("exists", None),
            SkipReason::Xattrs(names) => ("xattrs", Some(names.clone())),
            SkipReason::HardlinkBroken => ("hardlink_broken", None),
            other => ("other", Some(other.to_string())),
        };
        Self { path: PathFields::new(&skipped.path), reason, detail }
    }
}

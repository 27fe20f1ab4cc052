//! `calve clone`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use calve::{CloneOptions, CloneReport, DestinationReport, Method, Progress, SkipReason, Skipped};
use serde::Serialize;

use crate::args::CloneArgs;
use crate::choices::Existing;
use crate::common::Common;
use crate::exit::Exit;
use crate::failure::{Failure, clone_failure};
use crate::filesystems;
use crate::output::{Output, encoded};
use crate::progress::{self, Total, Watched};
use crate::summary::{Summary, was_left};
use crate::system::Signals;
use crate::text::shown;

/// Why the filesystem of the first destination that has copies on its account does not share with the source's.
pub(crate) fn why_not_shared(source: &Path, destinations: &[DestinationReport]) -> Option<String> {
    let copied = destinations.iter().find(|tree| tree.copied_because.filesystem > 0)?;
    let name = |path| calve::filesystem_name(path);
    filesystems::why_not(name(source).as_deref(), name(&copied.path).as_deref())
}

/// Clones, and tells what was done.
pub(crate) fn run(
    args: &CloneArgs,
    destinations: &[PathBuf],
    common: &Common,
    output: Output,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let source = common.resolve(&args.source);
    let destinations: Vec<PathBuf> = destinations.iter().map(|path| common.resolve(path)).collect();
    let cancel = signals.cancel();
    let progress = Arc::new(Progress::default());
    let mut options = options(args, common).cancel(&cancel).progress(&progress);
    if output.json || output.verbose {
        options = options.list_existing();
    }
    let had: Vec<bool> = destinations.iter().map(|path| has_store(path)).collect();
    let work = || calve::clone_tree(&source, &destinations, &options);
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
    let report = done.map_err(|error| clone_failure(&error, &source, &destinations))?;
    #[cfg(unix)]
    if args.rewrite_paths && !args.dry_run {
        rewrite_paths(&report, output)?;
    }
    tell(&report, &had, args, output)
}

/// Gives the clones files that name their own folders.
#[cfg(unix)]
fn rewrite_paths(report: &CloneReport, output: Output) -> Result<(), Failure> {
    let from = std::fs::canonicalize(&report.source)
        .map_err(|error| Failure::io("read", vec![report.source.clone()], &error))?;
    for destination in report.destinations.iter().filter(|destination| !was_left(destination)) {
        let mentions = calve::rewrite_paths(&destination.path, &from).map_err(|error| {
            clone_failure(&error, &report.source, std::slice::from_ref(&destination.path))
                .but_stands("the tree", &report.destinations)
        })?;
        crate::paths::tell(&mentions, &destination.path, &report.source, output);
    }
    Ok(())
}

fn has_store(root: &Path) -> bool {
    root.join(".calve/format").try_exists().unwrap_or(false)
}

fn options(args: &CloneArgs, common: &Common) -> CloneOptions {
    let mut options = CloneOptions::new()
        .mode(args.mode.into())
        .reflink(args.reflink.into())
        .existing(args.existing.into())
        .gitignore(args.gitignore)
        .xattrs(!args.no_xattrs)
        .git_index(args.git_index.into())
        .durable(args.durable)
        .dry_run(args.dry_run);
    for glob in &args.exclude {
        options = options.exclude(glob);
    }
    for glob in &args.include {
        options = options.include(glob);
    }
    for glob in &args.mutable {
        options = options.mutable(glob);
    }
    match common.jobs {
        Some(jobs) => options.jobs(jobs),
        None => options,
    }
}

/// Results on standard output, then findings and the summary on standard error. `had` says which destinations had a store before.
fn tell(
    report: &CloneReport,
    had: &[bool],
    args: &CloneArgs,
    output: Output,
) -> Result<Exit, Failure> {
    // A destination left as it was is no finding: `--existing skip` asked for just that.
    let asked =
        |reason: &SkipReason| args.existing == Existing::Skip && *reason == SkipReason::Exists;
    let findings = findings(&report.destinations, asked);

    output.warnings(&findings);
    output.summary(
        Summary {
            destinations: &report.destinations,
            elapsed: report.elapsed,
            dry_run: args.dry_run,
            verbose: output.verbose,
            filesystem: why_not_shared(&report.source, &report.destinations),
        }
        .text(),
    );

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

    let told = if output.json {
        output.document(&Document::new(report))
    } else if args.dry_run {
        Ok(())
    } else {
        let mut paths = Vec::new();
        for destination in &report.destinations {
            paths.extend_from_slice(destination.path.as_os_str().as_encoded_bytes());
            paths.push(b'\n');
        }
        output.results(&paths)
    };
    let what = if report.destinations.len() == 1 { "the tree" } else { "the trees" };
    told.map_err(|failure| match args.dry_run {
        true => failure,
        false => failure.but_stands(what, &report.destinations),
    })?;
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Findings })
}

/// An entry that did not arrive, or not whole, in a line.
pub(crate) fn finding(path: &Path, reason: &SkipReason) -> String {
    match reason {
        SkipReason::Socket | SkipReason::Device | SkipReason::Vanished | SkipReason::Changing => {
            format!("{}: left out: {reason}", shown(path))
        }
        SkipReason::Restless if path.as_os_str().is_empty() => format!(".: {reason}"),
        _ => format!("{}: {reason}", shown(path)),
    }
}

/// Every finding once: the same of every destination without its name, else with it.
pub(crate) fn findings(
    destinations: &[DestinationReport],
    asked: impl Fn(&SkipReason) -> bool,
) -> Vec<String> {
    let mut found: BTreeMap<(&Path, String), Vec<&Path>> = BTreeMap::new();
    for destination in destinations {
        for Skipped { path, reason, .. } in
            destination.skipped.iter().filter(|skipped| !asked(&skipped.reason))
        {
            // The key's text also keeps apart two reasons for one path.
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

/// The JSON document of `clone`; docs/json.md says what each field means.
#[derive(Serialize)]
struct Document {
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_encoding: Option<&'static str>,
    destinations: Vec<DestinationDocument>,
    elapsed_seconds: f64,
}

/// Counts are absent (`null`) where nothing was walked and so nothing counted.
#[derive(Serialize)]
pub(crate) struct DestinationDocument {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_encoding: Option<&'static str>,
    inside_source: bool,
    method: &'static str,
    files: Option<u64>,
    directories: Option<u64>,
    symlinks: Option<u64>,
    reflinked_files: Option<u64>,
    reflinked_bytes: Option<u64>,
    copied_files: Option<u64>,
    copied_bytes: Option<u64>,
    linked_files: Option<u64>,
    copied_because: Option<BTreeMap<&'static str, u64>>,
    unlinked_because: Option<BTreeMap<&'static str, u64>>,
    replaced_entries: Option<u64>,
    replaced: Vec<PathDocument>,
    kept_entries: Option<u64>,
    kept: Vec<PathDocument>,
    ready_index_entries: Option<u64>,
    skipped: Vec<SkippedDocument>,
}

/// An entry that a merge replaced or kept.
#[derive(Serialize)]
struct PathDocument {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_encoding: Option<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct SkippedDocument {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_encoding: Option<&'static str>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Document {
    fn new(report: &CloneReport) -> Self {
        let (source, source_encoding) = encoded(&report.source);
        Self {
            source,
            source_encoding,
            destinations: report.destinations.iter().map(DestinationDocument::new).collect(),
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

impl DestinationDocument {
    pub(crate) fn new(destination: &DestinationReport) -> Self {
        let (path, path_encoding) = encoded(&destination.path);
        let walked = destination.method != Method::Snapshot;
        let counted = |number: u64| walked.then_some(number);
        Self {
            path,
            path_encoding,
            inside_source: destination.inside_source,
            method: destination.method.as_str(),
            files: counted(destination.files),
            directories: counted(destination.directories),
            symlinks: counted(destination.symlinks),
            reflinked_files: counted(destination.reflinked_files),
            reflinked_bytes: counted(destination.reflinked_bytes),
            copied_files: counted(destination.copied_files),
            copied_bytes: counted(destination.copied_bytes),
            linked_files: counted(destination.linked_files),
            copied_because: walked.then(|| destination.copied_because.rows().into_iter().collect()),
            unlinked_because: walked
                .then(|| destination.unlinked_because.rows().into_iter().collect()),
            replaced_entries: counted(destination.replaced_entries),
            replaced: destination.replaced.iter().map(|path| PathDocument::new(path)).collect(),
            kept_entries: counted(destination.kept_entries),
            kept: destination.kept.iter().map(|path| PathDocument::new(path)).collect(),
            ready_index_entries: counted(destination.ready_index_entries),
            skipped: destination.skipped.iter().map(SkippedDocument::new).collect(),
        }
    }
}

impl PathDocument {
    fn new(path: &Path) -> Self {
        let (path, path_encoding) = encoded(path);
        Self { path, path_encoding }
    }
}

impl SkippedDocument {
    pub(crate) fn new(skipped: &Skipped) -> Self {
        let (path, path_encoding) = encoded(&skipped.path);
        let (reason, detail) = match &skipped.reason {
            SkipReason::Socket => ("socket", None),
            SkipReason::Device => ("device", None),
            SkipReason::Vanished => ("vanished", None),
            SkipReason::Changing => ("changing", None),
            SkipReason::Restless => ("restless", None),
            SkipReason::Stage => ("stage", None),
            SkipReason::Exists => ("exists", None),
            SkipReason::Xattrs(names) => ("xattrs", Some(names.clone())),
            SkipReason::HardlinkBroken => ("hardlink_broken", None),
            other => ("other", Some(other.to_string())),
        };
        Self { path, path_encoding, reason, detail }
    }
}

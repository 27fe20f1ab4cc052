//! `calve reshare`.

use calve::{NotReshared, ReshareOptions, ReshareReport};

use crate::args::ReshareArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::document;
use crate::progress::Total;
use crate::session::Session;
use crate::text::{count, counted, duration};
use crate::worktrees::du::named_or_all;

pub(crate) fn run(args: &ReshareArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let how = ReshareOptions::new().dry_run(args.dry_run);
    let resolve = |path| session.common.resolve(path);
    let report = if let Some(from) = &args.from {
        let folders: Vec<_> = args.trees.iter().map(|path| resolve(path)).collect();
        let from = resolve(from);
        session
            .work(Total::Unknown, |options| calve::reshare_folders(&from, &folders, &how, options))
    } else {
        let (store, worktrees) = named_or_all(&args.trees, session)?;
        session.work(Total::Unknown, |options| store.reshare(&worktrees, &how, options))
    };
    let report = report?;
    tell(&report, args.dry_run, session)
}

fn tell(report: &ReshareReport, dry_run: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let output = session.output;
    let refused: Vec<String> = report
        .refused
        .iter()
        .map(|(why, files)| {
            let why = match why {
                NotReshared::Filesystem => "the filesystem cannot share them",
                NotReshared::Permission => "this user may not, or they are immutable",
                NotReshared::File => {
                    "the filesystem refuses them (swap files, or 'lsattr' shows C)"
                }
                _ => "they were changed meanwhile",
            };
            format!("{} not shared: {why}", counted(*files, "file"))
        })
        .collect();
    output.warnings(&refused);
    if report.unreadable > 0 {
        let number = count(report.unreadable);
        output.warning(format_args!("calve may not read some files or folders ({number})"));
    }
    let verb = if dry_run { "would give back" } else { "gave back" };
    output.summary(format_args!(
        "{verb} {} in {}, of {} that nothing shared in {}, {}",
        output.size(report.reshared_bytes),
        counted(report.reshared_files, "file"),
        output.size(report.unshared_bytes),
        counted(report.files, "file"),
        duration(report.elapsed)
    ));
    if output.json {
        output.document(&Document::new(report, dry_run))?;
    }
    let is_whole = report.refused.is_empty() && report.unreadable == 0;
    Ok(if is_whole { Exit::Done } else { Exit::Findings })
}

document! {
    /// The JSON document of `reshare`; docs/json.md says what each field means.
    struct Document(report: &ReshareReport, dry_run: bool) {
        dry_run: bool = dry_run,
        files: u64 = report.files,
        unshared_files: u64 = report.unshared_files,
        unshared_bytes: u64 = report.unshared_bytes,
        reshared_files: u64 = report.reshared_files,
        reshared_bytes: u64 = report.reshared_bytes,
        refused: std::collections::BTreeMap<&'static str, u64> =
            report.refused.iter().map(|(why, files)| (why.as_str(), *files)).collect(),
        unreadable: u64 = report.unreadable,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

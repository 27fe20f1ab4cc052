//! `calve remote gc`.

use calve::{RemoteGarbage, RemoteGcOptions, RemoteGcReport, SnapshotId};

use super::open::open;
use crate::args::RemoteGcArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::document;
use crate::progress::Total;
use crate::session::Session;
use crate::text::{self, harmless};

pub(super) fn run(args: &RemoteGcArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let (known, remote) = open(&session.store()?, args.remote.as_deref())?;
    let mut options = RemoteGcOptions::new().dry_run(args.dry_run);
    if let Some(grace) = args.grace {
        options = options.grace(grace);
    }
    if let Some(keep) = args.keep {
        options = options.keep(keep);
    }
    let report = session.work(Total::Contents, |common| remote.gc(&options, common))?;
    let output = session.output;
    let garbage = |garbage: RemoteGarbage| {
        let RemoteGarbage { changes, snapshots, objects, bytes, .. } = garbage;
        let all = [
            (changes, "change of a name", "changes of names"),
            (snapshots, "snapshot", "snapshots"),
            (objects, "object", "objects"),
        ];
        let all: Vec<String> = all
            .into_iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, one, more)| {
                format!("{} {}", text::count(number), if number == 1 { one } else { more })
            })
            .collect();
        (!all.is_empty()).then(|| format!("{} ({})", all.join(", "), output.size(bytes)))
    };
    let verb = if args.dry_run { "would remove" } else { "removed" };
    let mut line = match garbage(report.removed) {
        Some(removed) => format!("{verb} from {}: {removed}", harmless(&known.name)),
        None => format!("nothing to remove from {}", harmless(&known.name)),
    };
    if let Some(waiting) = garbage(report.waiting) {
        line += &format!("; a later run removes {waiting}, after the grace time");
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
    for id in &report.missing {
        output.warning(format_args!(
            "the remote lacks snapshot {id}, which a name means: push it again from a machine that has it"
        ));
    }
    if output.json {
        output.document(&GcDocument::new(&known.name, args.dry_run, &report))?;
    }
    Ok(if report.missing.is_empty() { Exit::Done } else { Exit::Findings })
}

document! {
    struct GcDocument<'a>(remote: &'a str, dry_run: bool, report: &RemoteGcReport) {
        remote: &'a str = remote,
        dry_run: bool = dry_run,
        removed: GarbageDocument = GarbageDocument::new(report.removed),
        waiting: GarbageDocument = GarbageDocument::new(report.waiting),
        snapshots: u64 = report.snapshots,
        missing: Vec<String> = report.missing.iter().map(SnapshotId::to_string).collect(),
        requests: u64 = report.requests,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    struct GarbageDocument(garbage: RemoteGarbage) {
        changes: u64 = garbage.changes,
        snapshots: u64 = garbage.snapshots,
        objects: u64 = garbage.objects,
        bytes: u64 = garbage.bytes,
    }
}

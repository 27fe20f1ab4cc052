//! `calve pull`, and the pull before a `start --from REMOTE/NAME`.

use calve::{PublicKey, PullOptions, PullReport, Remote, SnapshotId, Store};

use super::keys::tell_differences;
use super::open::{limited, open, remote_and_name};
use crate::args::PullArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, document};
use crate::progress::Total;
use crate::session::Session;
use crate::text::{self, counted, short};

pub(crate) fn run(args: &PullArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    let (from, name) = remote_and_name(args.from.as_deref(), &args.name);
    let (known, remote) = open(&store, from)?;
    tell_differences(&store, &known, session.output);
    let remote = limited(remote, &args.transfer, session);
    let options =
        args.local.as_deref().map_or(PullOptions::new(), |local| PullOptions::new().name(local));
    let report = pull_from(&store, &remote, name, &options, session)?;
    let output = session.output;
    if output.json {
        output.document(&PullDocument::new(&report))?;
    } else {
        output.results(format!("{}\n", report.snapshot).as_bytes())?;
    }
    Ok(Exit::Done)
}

/// Pulls, and prints what calve fetched.
fn pull_from(
    store: &Store,
    remote: &Remote,
    what: &str,
    options: &PullOptions,
    session: Session<'_>,
) -> Result<PullReport, Failure> {
    let report =
        session.work(Total::Transfer, |common| remote.pull(store, what, options, common))?;
    tell_pull(&report, session.output);
    Ok(report)
}

pub(super) fn tell_pull(report: &PullReport, output: Output) {
    let what = match report.fetched {
        0 => "everything was here".to_owned(),
        fetched => format!(
            "fetched {} of {} ({}), received {}",
            text::count(fetched),
            counted(report.contents, "content"),
            output.size(report.fetched_bytes),
            output.size(report.received_bytes)
        ),
    };
    output.summary(format_args!(
        "snapshot {}: {what}, {}",
        short(report.snapshot),
        text::duration(report.elapsed)
    ));
}

/// The snapshot that `word` of `--from` means: a snapshot of this store, or `REMOTE/NAME`, which
/// calve pulls first.
pub(crate) fn resolve(
    store: &Store,
    word: &str,
    session: Session<'_>,
) -> Result<SnapshotId, Failure> {
    match remote_and_name(None, word) {
        (Some(remote), name) => {
            let (known, remote) = open(store, Some(remote))?;
            tell_differences(store, &known, session.output);
            Ok(pull_from(store, &remote, name, &PullOptions::new(), session)?.snapshot)
        }
        (None, _) => session.resolve(store, word),
    }
}

document! {
    pub(super) struct PullDocument(report: &PullReport) {
        snapshot: String = report.snapshot.to_string(),
        sequence: Option<u64> = report.sequence,
        signers: Vec<String> = report.signers.iter().map(PublicKey::to_string).collect(),
        contents: u64 = report.contents,
        fetched: u64 = report.fetched,
        fetched_bytes: u64 = report.fetched_bytes,
        received_bytes: u64 = report.received_bytes,
        requests: u64 = report.requests,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

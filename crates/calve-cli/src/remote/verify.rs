//! `calve remote verify`.

use std::path::Path;

use calve::{
    RemoteBroken, RemoteDamage, RemoteDamageKind, RemoteVerifyOptions, RemoteVerifyReport,
    SnapshotId,
};

use super::open::open;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::document;
use crate::progress::Total;
use crate::session::Session;
use crate::text::{self, counted, harmless, shell_word, short};

pub(super) fn run(name: Option<&str>, quick: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let (known, remote) = open(&session.store()?, name)?;
    let options = RemoteVerifyOptions::new().quick(quick);
    let report = session.work(Total::Contents, |common| remote.verify(&options, common))?;
    let output = session.output;
    let all = (report.whole.len() + report.broken.len()) as u64;
    let mut line = format!(
        "checked {} of {} and {} ({})",
        counted(all, "snapshot"),
        harmless(&known.name),
        counted(report.objects, "object"),
        output.size(report.object_bytes)
    );
    line += &match report.damage.len() as u64 {
        0 => ": no damage".to_owned(),
        found => {
            format!(": {found} damaged, {} broken", counted(report.broken.len() as u64, "snapshot"))
        }
    };
    if report.unreferenced > 0 {
        line += &format!(
            "; nothing uses {} ({})",
            counted(report.unreferenced, "further object"),
            output.size(report.unreferenced_bytes)
        );
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
    for path in &report.unknown {
        output.warning(format_args!("{} is not calve's; calve leaves it alone", text::shown(path)));
    }
    if output.json {
        output.document(&VerifyDocument::new(&known.name, &report))?;
    } else {
        let mut lines = Vec::new();
        for damage in &report.damage {
            lines.extend(format!("{}  ", damage.kind.as_str()).bytes());
            lines.extend(output.path(&damage.path));
            lines.extend(format!("  {}\n", harmless(&damage.reason)).bytes());
        }
        for broken in &report.broken {
            let names: Vec<_> = broken.names.iter().map(|name| harmless(name)).collect();
            let line = format!("broken  {}  {}", short(broken.snapshot), names.join(", "));
            lines.extend(format!("{}\n", line.trim_end()).bytes());
        }
        output.results(&lines)?;
        if !report.damage.is_empty() {
            output.say(how_to_mend(&report.damage));
        }
    }
    Ok(if report.damage.is_empty() { Exit::Done } else { Exit::Findings })
}

/// What to do about damage. A push sends missing objects again, but first somebody must remove the
/// damaged objects that are in their place.
fn how_to_mend(damage: &[RemoteDamage]) -> String {
    /// A line names this many objects at most.
    const NAMED: usize = 8;
    let push = "push each broken snapshot again from a machine that has it: 'calve push SNAPSHOT'";
    let in_the_way: Vec<&RemoteDamage> =
        damage.iter().filter(|damage| damage.kind != RemoteDamageKind::Missing).collect();
    if in_the_way.is_empty() {
        return push.to_owned();
    }
    let file = |damage: &&RemoteDamage| {
        Some(shell_word(Path::new(damage.path.to_str()?.strip_prefix("file://")?)))
    };
    let files: Option<Vec<String>> = in_the_way.iter().map(file).collect();
    match files.filter(|files| files.len() <= NAMED) {
        Some(files) => format!("first rm {}; then {push}", files.join(" ")),
        None => format!("first remove the objects that are damaged or incomplete; then {push}"),
    }
}

document! {
    struct VerifyDocument<'a>(remote: &'a str, report: &RemoteVerifyReport) {
        remote: &'a str = remote,
        changes: u64 = report.changes,
        collected: u64 = report.collected,
        whole: Vec<String> = texts(&report.whole),
        broken: Vec<BrokenDocument> = report.broken.iter().map(BrokenDocument::new).collect(),
        damage: Vec<DamageDocument> = report.damage.iter().map(DamageDocument::new).collect(),
        objects: u64 = report.objects,
        object_bytes: u64 = report.object_bytes,
        unreferenced: u64 = report.unreferenced,
        unreferenced_bytes: u64 = report.unreferenced_bytes,
        unknown: Vec<String> = report.unknown.iter().map(|path| lossy(path)).collect(),
        requests: u64 = report.requests,
        received_bytes: u64 = report.received_bytes,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    struct DamageDocument(damage: &RemoteDamage) {
        kind: &'static str = damage.kind.as_str(),
        path: String = lossy(&damage.path),
        reason: String = damage.reason.clone(),
        snapshots: Vec<String> = texts(&damage.snapshots),
    }
}

document! {
    struct BrokenDocument(broken: &RemoteBroken) {
        snapshot: String = broken.snapshot.to_string(),
        names: Vec<String> = broken.names.clone(),
    }
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn texts(ids: &[SnapshotId]) -> Vec<String> {
    ids.iter().map(SnapshotId::to_string).collect()
}

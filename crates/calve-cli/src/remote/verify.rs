//! `calve remote verify`.

use std::path::{Path, PathBuf};

use calve::{RemoteDamage, RemoteDamageKind, RemoteVerifyOptions, RemoteVerifyReport, SnapshotId};
use serde::Serialize;

use super::open::{failed, open};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::progress::Total;
use crate::session::Session;
use crate::text::{self, counted, harmless, shell_word, short};

pub(super) fn run(name: Option<&str>, quick: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let (known, remote) = open(&session.store()?, name)?;
    let options = RemoteVerifyOptions::new().quick(quick);
    let report =
        session.work(Total::Contents, |common| remote.verify(&options, common)).map_err(failed)?;
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
            "; nobody needs {} ({})",
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

#[derive(Serialize)]
struct VerifyDocument<'a> {
    remote: &'a str,
    changes: u64,
    collected: u64,
    whole: Vec<String>,
    broken: Vec<BrokenDocument>,
    damage: Vec<DamageDocument>,
    objects: u64,
    object_bytes: u64,
    unreferenced: u64,
    unreferenced_bytes: u64,
    unknown: Vec<String>,
    requests: u64,
    received_bytes: u64,
    elapsed_seconds: f64,
}

#[derive(Serialize)]
struct DamageDocument {
    kind: &'static str,
    path: String,
    reason: String,
    snapshots: Vec<String>,
}

#[derive(Serialize)]
struct BrokenDocument {
    snapshot: String,
    names: Vec<String>,
}

impl<'a> VerifyDocument<'a> {
    fn new(remote: &'a str, report: &RemoteVerifyReport) -> Self {
        let shown = |path: &PathBuf| path.to_string_lossy().into_owned();
        let ids = |ids: &[SnapshotId]| ids.iter().map(SnapshotId::to_string).collect();
        let broken = report.broken.iter().map(|broken| BrokenDocument {
            snapshot: broken.snapshot.to_string(),
            names: broken.names.clone(),
        });
        let damage = report.damage.iter().map(|damage| DamageDocument {
            kind: damage.kind.as_str(),
            path: shown(&damage.path),
            reason: damage.reason.clone(),
            snapshots: ids(&damage.snapshots),
        });
        Self {
            remote,
            changes: report.changes,
            collected: report.collected,
            whole: ids(&report.whole),
            broken: broken.collect(),
            damage: damage.collect(),
            objects: report.objects,
            object_bytes: report.object_bytes,
            unreferenced: report.unreferenced,
            unreferenced_bytes: report.unreferenced_bytes,
            unknown: report.unknown.iter().map(shown).collect(),
            requests: report.requests,
            received_bytes: report.received_bytes,
            elapsed_seconds: report.elapsed.as_secs_f64(),
        }
    }
}

//! `calve store`.

use std::path::Path;

use calve::{
    Damage, GcOptions, GcReport, PackOptions, PackReport, ReadyReport, Store, StoreOptions,
    StoreStats, VerifyOptions, VerifyReport, WarmReport,
};
use serde::Serialize;

use crate::args::{GcArgs, StoreVerb};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Output, PathFields, document};
use crate::progress::Total;
use crate::session::Session;
use crate::table::{Cell, Column, Table};
use crate::text::{self, count, counted, harmless, short};
use crate::{refill, trash};

pub(crate) fn run(verb: &StoreVerb, session: Session<'_>) -> Result<Exit, Failure> {
    let store = session.store()?;
    match verb {
        StoreVerb::Verify { repair } => verify(&store, *repair, session),
        StoreVerb::Gc(args) => gc(&store, args, session),
        StoreVerb::Pack { all } => pack(&store, *all, session),
        StoreVerb::Warm { snapshots, keep } => warm(&store, snapshots, *keep, session),
        StoreVerb::Stats => stats(&store, session),
        StoreVerb::EmptyTrash => trash::empty(&store),
        StoreVerb::Refill => refill::refill(&store),
        StoreVerb::Name => refill::name(&store),
    }
}

fn verify(store: &Store, repair: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let report = session.work(Total::Contents, |options| {
        store.verify(&VerifyOptions::new().repair(repair), options)
    })?;
    let output = session.output;
    if report.busy {
        output.warning(
            "other processes used the store all the time, so calve mended nothing: try again later",
        );
    }
    let mut line = format!("checked {}", counted(report.snapshots, "snapshot"));
    let read = listing(
        [
            (report.mirrors, "mirror", Some(report.mirror_bytes)),
            (report.packed_blobs, "packed content", Some(report.packed_bytes)),
        ],
        output,
    );
    if let Some(read) = read {
        line.push_str(&format!(", with {read}"));
    }
    let of =
        |is: fn(&Damage) -> bool| report.damage.iter().filter(|damage| is(damage)).count() as u64;
    let (mended, lost) = (of(|damage| damage.repaired), of(|damage| damage.lost));
    match report.damage.len() as u64 {
        0 => line.push_str(": no damage"),
        found => {
            line.push_str(&format!(": {found} damaged, {mended} mended, {lost} lost"));
        }
    }
    line.push_str(&format!(", {}", text::duration(report.elapsed)));
    output.summary(line);
    if output.json {
        output.document(&VerifyDocument::new(&report))?;
    } else {
        let lines: Vec<u8> =
            report.damage.iter().flat_map(|damage| damage_lines(damage, session)).collect();
        output.results(&lines)?;
        if lost > 0 {
            output.say(
                "the next snapshot that finds the same content mends what is lost; 'calve log' lists other snapshots \
                 to start from",
            );
        } else if !repair && !report.damage.is_empty() {
            output.say("'calve store verify --repair' mends it");
        }
    }
    Ok(if report.damage.is_empty() && !report.busy { Exit::Done } else { Exit::Findings })
}

/// A list of numbers, each with its noun and size, without the zeros. `None` if all numbers are
/// zero.
fn listing<const N: usize>(all: [(u64, &str, Option<u64>); N], output: Output) -> Option<String> {
    let one = |(number, what, bytes): (u64, &str, Option<u64>)| {
        let size = bytes.map(|bytes| format!(" ({})", output.size(bytes))).unwrap_or_default();
        counted(number, what) + &size
    };
    let found: Vec<String> = all.into_iter().filter(|(number, ..)| *number > 0).map(one).collect();
    (!found.is_empty()).then(|| found.join(", "))
}

/// Prints a damaged content, and below it the paths that need it.
fn damage_lines(damage: &Damage, session: Session<'_>) -> Vec<u8> {
    /// A list shows this many paths of one content. The same file may be in every snapshot.
    const PLACES: usize = 10;
    let output = session.output;
    let state = match (damage.repaired, damage.lost) {
        (true, false) => "mended",
        (false, false) => "damaged",
        (_, true) => "lost",
    };
    let mut lines = format!("{state}  {}  ", damage.kind.as_str()).into_bytes();
    lines.extend(output.path(&damage.path));
    lines.extend(format!("  {}\n", harmless(&damage.reason)).bytes());
    let listed = if output.verbose { damage.places.len() } else { PLACES };
    for (snapshot, path) in damage.places.iter().take(listed) {
        lines.extend(format!("  {}  ", short(*snapshot)).bytes());
        lines.extend(output.path(path));
        lines.push(b'\n');
    }
    if let more @ 1.. = damage.places.len().saturating_sub(listed) {
        lines.extend(format!("  and {} more; -v lists all\n", count(more as u64)).bytes());
    }
    lines
}

fn gc(store: &Store, args: &GcArgs, session: Session<'_>) -> Result<Exit, Failure> {
    let mut options = GcOptions::new().expire(args.expire);
    if let Some(grace) = args.grace {
        options = options.grace(grace);
    }
    if let Some(patience) = args.patience {
        options = options.patience(patience);
    }
    if let Some(age) = args.dropped {
        options = options.dropped(age);
    }
    let report = session.work(Total::Contents, |common| store.gc(&options, common))?;
    let output = session.output;
    // What nobody could delete stays for ever, unless somebody is told.
    let left = store.empty_trash().map_err(Failure::from).err();
    if let Some(left) = &left {
        output.warning(left.message());
        if let Some(hint) = &left.hint {
            output.say(format!("hint: {hint}"));
        }
    }
    if report.busy {
        output.warning("other processes used the store all the time, so calve did not remove everything: try again later");
    }
    if output.verbose {
        for id in &report.snapshots {
            output.summary(format_args!("forgot snapshot {id}"));
        }
    }
    let removed = listing(
        [
            (report.snapshots.len() as u64, "snapshot", None),
            (report.mirrors, "mirror", Some(report.mirror_bytes)),
            (report.packed_blobs, "packed content", Some(report.packed_bytes)),
            (report.packs, "pack", None),
            (report.dropped, "dropped worktree", None),
            (report.leftovers, "leftover", None),
        ],
        output,
    );
    let mut line =
        removed.map_or_else(|| "nothing to remove".to_owned(), |all| format!("removed: {all}"));
    if report.rewritten_packs > 0 {
        line.push_str(&format!("; {} rewritten", counted(report.rewritten_packs, "pack")));
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
    if output.json {
        output.document(&GcDocument::new(&report, left.as_ref()))?;
    }
    Ok(if report.busy || left.is_some() { Exit::Findings } else { Exit::Done })
}

fn pack(store: &Store, all: bool, session: Session<'_>) -> Result<Exit, Failure> {
    let options = PackOptions::new().all(all);
    let report = session.work(Total::Contents, |common| store.pack(&options, common))?;
    let output = session.output;
    let damaged: Vec<String> = report
        .damaged
        .iter()
        .map(|blob| {
            format!(
                "{blob}: not packed, since it is damaged; 'calve store verify' lists the damage"
            )
        })
        .collect();
    let exit = output.warnings(&damaged);
    let mut parts = Vec::new();
    if report.packed_blobs > 0 {
        let contents = counted(report.packed_blobs, "content");
        let (whole, stored) = (output.size(report.packed_bytes), output.size(report.stored_bytes));
        parts.push(format!("{contents} compressed ({whole} to {stored})"));
    }
    if report.dropped_mirrors > 0 {
        let mirrors = counted(report.dropped_mirrors, "mirror");
        let size = output.size(report.dropped_bytes);
        parts.push(format!("{mirrors} removed ({size}, minus what trees share with them)"));
    }
    if parts.is_empty() {
        parts.push("nothing to pack".to_owned());
    }
    output.summary(format_args!("{}, {}", parts.join("; "), text::duration(report.elapsed)));
    if output.json {
        output.document(&PackDocument::new(&report))?;
    }
    Ok(exit)
}

fn warm(
    store: &Store,
    words: &[String],
    keep: Option<u64>,
    session: Session<'_>,
) -> Result<Exit, Failure> {
    let snapshots =
        words.iter().map(|word| session.resolve(store, word)).collect::<Result<Vec<_>, _>>()?;
    if let Some(number) = keep {
        store.keep_ready_trees(number)?;
    }
    let unpacked = match keep {
        Some(0) => None,
        _ => {
            let warm = |common: &StoreOptions| store.warm(&snapshots, common);
            let report = session.work(Total::Contents, warm)?;
            tell_unpacked(&report, session.output);
            Some(report)
        }
    };
    let kept = store.ready_trees_kept();
    let trees = match words.is_empty() && (keep.is_some() || kept > 0) {
        false => None,
        true => {
            let make = |common: &StoreOptions| store.make_ready_trees(common);
            let report = session.work(Total::Contents, make)?;
            tell_ready_trees(&report, session.output);
            Some(report)
        }
    };
    if session.output.json {
        let (unpacked, trees) = (unpacked.as_ref(), trees.as_ref());
        session.output.document(&WarmDocument {
            unpacked: unpacked.map(UnpackedDocument::new),
            trees: trees.map(|report| ReadyDocument::new(report, kept)),
        })?;
    }
    let stopped = trees.is_some_and(|report| report.stopped);
    Ok(if stopped { Exit::Findings } else { Exit::Done })
}

fn tell_unpacked(report: &WarmReport, output: Output) {
    let mut line = format!(
        "{} warm, {} made ({})",
        counted(report.snapshots.len() as u64, "snapshot"),
        counted(report.made_mirrors, "mirror"),
        output.size(report.made_bytes),
    );
    if report.templates > 0 {
        line.push_str(&format!(", {} as a subvolume", counted(report.templates, "tree")));
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
}

fn tell_ready_trees(report: &ReadyReport, output: Output) {
    if report.stopped {
        output.warning(
            "calve did not make all trees: another process makes some or uses the store, there is little room or memory, or not \
             all files could be cloned",
        );
    }
    let mut line = counted(report.ready, "ready tree");
    if let Some(id) = report.snapshot {
        line.push_str(&format!(" of snapshot {}", short(id)));
    }
    let done =
        [(report.made, "made"), (report.brought, "brought there"), (report.removed, "removed")];
    for (number, what) in done.into_iter().filter(|(number, _)| *number > 0) {
        line.push_str(&format!(", {} {what}", count(number)));
    }
    output.summary(format_args!("{line}, {}", text::duration(report.elapsed)));
}

fn stats(store: &Store, session: Session<'_>) -> Result<Exit, Failure> {
    let stats = store.stats()?;
    let output = session.output;
    if output.json {
        return output.document(&StatsDocument::new(store.path(), &stats)).map(|()| Exit::Done);
    }
    let size = |bytes| output.size(bytes);
    let sized = |number: u64, bytes: u64| format!("{} ({})", count(number), size(bytes));
    // A content can be both.
    let of_them = |number: u64, bytes: u64| format!("{} of them ({})", count(number), size(bytes));
    let mut table = Table::new([Column::Left, Column::Name]);
    table.row([Cell::from("store"), output.path(store.path()).into()]);
    for (what, value) in [
        ("snapshots", count(stats.snapshots)),
        ("names", count(stats.names)),
        ("worktrees", count(stats.worktrees)),
        ("contents", format!("{}, each counted once", sized(stats.blobs, stats.blob_bytes))),
        (
            "mirrors",
            format!(
                "{} as files to clone, which share blocks if possible",
                of_them(stats.mirrors, stats.mirror_bytes)
            ),
        ),
        (
            "packed",
            format!(
                "{} compressed, in {} of {}",
                of_them(stats.packed_blobs, stats.packed_bytes),
                counted(stats.packs, "pack"),
                size(stats.pack_bytes)
            ),
        ),
        ("folders", count(stats.directories)),
        ("database", size(stats.database_bytes)),
        ("indexes", size(stats.index_bytes)),
        ("ready", counted(stats.ready_trees, "tree")),
        ("trash", count(stats.trash_entries)),
    ] {
        table.row([Cell::from(what), value.into()]);
    }
    output.table(&table)?;
    Ok(Exit::Done)
}

document! {
    /// The JSON document of `store verify`; docs/json.md says what each field of these means.
    struct VerifyDocument(report: &VerifyReport) {
        snapshots: u64 = report.snapshots,
        directories: u64 = report.directories,
        mirrors: u64 = report.mirrors,
        mirror_bytes: u64 = report.mirror_bytes,
        packed_blobs: u64 = report.packed_blobs,
        packed_bytes: u64 = report.packed_bytes,
        unsealed_mirrors: u64 = report.unsealed_mirrors,
        damage: Vec<DamageDocument> = report.damage.iter().map(DamageDocument::new).collect(),
        busy: bool = report.busy,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    /// A damage, as `verify` and `log` report it.
    pub(crate) struct DamageDocument(damage: &Damage) {
        kind: &'static str = damage.kind.as_str(),
        blob: Option<String> = damage.blob.map(|blob| blob.to_string()),
        #[serde(flatten)]
        path: PathFields = PathFields::new(&damage.path),
        reason: String = damage.reason.clone(),
        places: Vec<PlaceDocument> = damage.places.iter().map(PlaceDocument::new).collect(),
        lost: bool = damage.lost,
        repaired: bool = damage.repaired,
    }
}

document! {
    struct PlaceDocument(place: &(calve::SnapshotId, std::path::PathBuf)) {
        snapshot: String = place.0.to_string(),
        #[serde(flatten)]
        path: PathFields = PathFields::new(&place.1),
    }
}

document! {
    struct GcDocument(report: &GcReport, left: Option<&Failure>) {
        busy: bool = report.busy,
        snapshots: Vec<String> = report.snapshots.iter().map(ToString::to_string).collect(),
        mirrors: u64 = report.mirrors,
        mirror_bytes: u64 = report.mirror_bytes,
        packed_blobs: u64 = report.packed_blobs,
        packed_bytes: u64 = report.packed_bytes,
        packs: u64 = report.packs,
        rewritten_packs: u64 = report.rewritten_packs,
        templates: u64 = report.templates,
        directories: u64 = report.directories,
        dropped: u64 = report.dropped,
        leftovers: u64 = report.leftovers,
        problems: Vec<String> = left.map(Failure::message).into_iter().collect(),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    struct PackDocument(report: &PackReport) {
        packs: u64 = report.packs,
        packed_blobs: u64 = report.packed_blobs,
        packed_bytes: u64 = report.packed_bytes,
        stored_bytes: u64 = report.stored_bytes,
        dropped_mirrors: u64 = report.dropped_mirrors,
        dropped_bytes: u64 = report.dropped_bytes,
        damaged: Vec<String> = report.damaged.iter().map(ToString::to_string).collect(),
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

#[derive(Serialize)]
struct WarmDocument {
    /// `None` if nothing was to be unpacked: `--keep 0`.
    #[serde(flatten)]
    unpacked: Option<UnpackedDocument>,
    trees: Option<ReadyDocument>,
}

document! {
    struct UnpackedDocument(report: &WarmReport) {
        snapshots: Vec<String> = report.snapshots.iter().map(ToString::to_string).collect(),
        blobs: u64 = report.blobs,
        made_mirrors: u64 = report.made_mirrors,
        made_bytes: u64 = report.made_bytes,
        templates: u64 = report.templates,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    struct ReadyDocument(report: &ReadyReport, kept: u64) {
        snapshot: Option<String> = report.snapshot.map(|id| id.to_string()),
        kept: u64 = kept,
        ready: u64 = report.ready,
        made: u64 = report.made,
        brought: u64 = report.brought,
        removed: u64 = report.removed,
        stopped: bool = report.stopped,
        elapsed_seconds: f64 = report.elapsed.as_secs_f64(),
    }
}

document! {
    struct StatsDocument(store: &Path, stats: &StoreStats) {
        #[serde(flatten)]
        path: PathFields = PathFields::new(store),
        snapshots: u64 = stats.snapshots,
        names: u64 = stats.names,
        worktrees: u64 = stats.worktrees,
        blobs: u64 = stats.blobs,
        blob_bytes: u64 = stats.blob_bytes,
        mirrors: u64 = stats.mirrors,
        mirror_bytes: u64 = stats.mirror_bytes,
        packed_blobs: u64 = stats.packed_blobs,
        packed_bytes: u64 = stats.packed_bytes,
        packs: u64 = stats.packs,
        pack_bytes: u64 = stats.pack_bytes,
        directories: u64 = stats.directories,
        database_bytes: u64 = stats.database_bytes,
        index_bytes: u64 = stats.index_bytes,
        ready_trees: u64 = stats.ready_trees,
        trash_entries: u64 = stats.trash_entries,
    }
}

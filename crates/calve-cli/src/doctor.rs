//! `calve doctor`: can these paths share blocks, and if not, why and what to do.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use calve::{Filesystem, Probe, ReflinkOutcome};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::common::Common;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::filesystems::{fix, nearest_folder};
#[cfg(unix)]
use crate::here::{Here, Trees};
use crate::output::{BAD, GOOD, Output, PathFields, document};
use crate::system::Signals;
use crate::text::{cause, errno_name, shown, wrapped};

#[cfg(unix)]
mod around;
#[cfg(unix)]
use around::Around;

/// Probes the pairs, and prints the verdicts.
pub(crate) fn run(
    args: &DoctorArgs,
    common: &Common,
    output: Output,
    signals: &Signals,
) -> Result<Exit, Failure> {
    let (source, others) = match args.paths.split_first() {
        Some((source, others)) => (source.as_path(), others),
        None => (Path::new("."), [].as_slice()),
    };
    let source = common.resolve(source);
    let mut destinations: Vec<PathBuf> = others.iter().map(|path| common.resolve(path)).collect();
    if destinations.is_empty() {
        destinations.push(source.clone());
    }
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only a store elsewhere changes the advice"))]
    let mut verdicts = verdicts(&source, &destinations, signals)?;
    let all_reflink = verdicts.iter().all(Verdict::is_good);
    #[cfg(unix)]
    if others.is_empty()
        && let [verdict] = &mut verdicts[..]
        && verdict.fix.is_some()
        && let Some(elsewhere) = store_that_shares(&source)
    {
        verdict.fix = Some(elsewhere);
    }
    #[cfg(unix)]
    let (mentions, exit) = mentions(&source, output);
    #[cfg(not(unix))]
    let exit = Exit::Done;
    #[cfg(target_os = "linux")]
    warn_of_volumes(&verdicts, output);
    let filesystems = filesystems(&source, &verdicts);
    // Without a path, doctor looks at the project here, too.
    #[cfg(unix)]
    let here = args.paths.is_empty().then(|| Here::look(common));
    #[cfg(unix)]
    let trees = here.as_ref().and_then(Here::trees);
    #[cfg(unix)]
    let around =
        trees.as_ref().map(|Trees { project, worktrees }| Around::look(project, worktrees));
    #[cfg(unix)]
    let next = here.as_ref().map(|here| here.next(Some(all_reflink)));
    if output.json {
        let pairs = verdicts.iter().map(PairDocument::new).collect();
        #[cfg(unix)]
        let mentions = crate::paths::MentionDocument::all(&mentions);
        output.document(&Document {
            pairs,
            all_reflink,
            filesystems: filesystems.into_iter().map(FilesystemDocument::new).collect(),
            #[cfg(unix)]
            mentions,
            #[cfg(unix)]
            limits: around.as_ref().map(around::LimitsDocument::new),
            #[cfg(unix)]
            next: next.map(|(command, _)| command),
        })?;
    } else {
        let mut lines: String =
            verdicts.iter().map(|verdict| verdict.text(output.width())).collect();
        lines.extend(filesystems.into_iter().map(|found| line(&believed(found), output.width())));
        #[cfg(unix)]
        let lines = {
            let mut lines = lines;
            let around = around.iter().flat_map(Around::lines);
            for text in here.iter().flat_map(Here::lines).chain(around) {
                lines.push_str(&line(&text, output.width()));
            }
            lines.push_str(&told(&mentions, output));
            if let Some((command, why)) = next {
                lines.push_str(&line(&format!("next: {command}  ({why})"), output.width()));
            }
            lines
        };
        output.styled_results(&lines)?;
    }
    Ok(if all_reflink { exit } else { Exit::Findings })
}

fn verdicts<'a>(
    source: &'a Path,
    destinations: &'a [PathBuf],
    signals: &Signals,
) -> Result<Vec<Verdict<'a>>, Failure> {
    let mut verdicts = Vec::new();
    for destination in destinations {
        verdicts.push(Verdict::of(source, destination)?);
        if signals.cancel().is_cancelled() {
            return Err(Failure::cancelled("probe", vec![source.to_owned(), destination.clone()]));
        }
    }
    Ok(verdicts)
}

/// Warns of volumes that have little room.
#[cfg(target_os = "linux")]
fn warn_of_volumes(verdicts: &[Verdict<'_>], output: Output) {
    let paths = verdicts.iter().flat_map(|verdict| [verdict.source, &verdict.probed]);
    let mut warned: Vec<String> = paths.filter_map(crate::volume::store::warning).collect();
    warned.dedup();
    output.warnings(&warned);
}

/// The files that name this folder. That they were not found is a finding.
#[cfg(unix)]
fn mentions(source: &Path, output: Output) -> (Vec<calve::PathMention>, Exit) {
    match calve::path_mentions(source) {
        Ok(mentions) => (mentions, Exit::Done),
        Err(error) => {
            let why = crate::failure::stored::store_failure(&error).message();
            output.warning(format_args!("files that name this folder were not found: {why}"));
            (Vec::new(), Exit::Findings)
        }
    }
}

/// The verdict for a project whose store is on a filesystem that can share blocks: nothing is left
/// to do.
#[cfg(unix)]
fn store_that_shares(project: &Path) -> Option<String> {
    let store = calve::Store::discover(project).ok()?.store;
    let shares = !calve::must_copy(store.path(), store.path());
    let is_elsewhere = calve::must_copy(project, store.path());
    let filesystem = calve::filesystem_name(store.path())?;
    (shares && is_elsewhere).then(|| {
        format!(
            "none is needed for worktrees: the project's store is {} ({filesystem}), and worktrees beside it share \
             blocks; calve clone of this folder copies",
            shown(store.path())
        )
    })
}

/// The lines about files that name their tree by its absolute path.
#[cfg(unix)]
fn told(mentions: &[calve::PathMention], output: Output) -> String {
    let lines = crate::paths::lines(mentions, output.verbose);
    lines.iter().map(|text| line(text, output.width())).collect()
}

fn line(text: &str, width: Option<usize>) -> String {
    indented(text, width, "  ")
}

fn indented(text: &str, width: Option<usize>, indent: &str) -> String {
    match width {
        Some(width) => wrapped(text, width, indent) + "\n",
        None => format!("{text}\n"),
    }
}

/// The filesystems of all paths, each once.
fn filesystems(source: &Path, verdicts: &[Verdict<'_>]) -> Vec<&'static Filesystem> {
    let mut found = vec![Filesystem::of(source)];
    for verdict in verdicts {
        let filesystem = Filesystem::of(&verdict.probed);
        if !found.contains(&filesystem) {
            found.push(filesystem);
        }
    }
    found
}

/// What calve believes of a filesystem: `xfs: tested; calve believes …`.
fn believed(filesystem: &Filesystem) -> String {
    let answers = answers(filesystem);
    let list = |wanted: bool| -> String {
        let names = answers.iter().filter(|(_, _, is)| *is == wanted).map(|(_, name, _)| *name);
        names.collect::<Vec<_>>().join(", ")
    };
    let name = filesystem.name;
    match (filesystem.is_tested, list(true)) {
        (true, all) => format!("{name}: tested, so calve believes its {all}"),
        (false, few) if few.is_empty() => {
            format!("{name}: not tested, so calve does not believe its {}", list(false))
        }
        (false, few) => {
            format!("{name}: not tested, so calve believes its {few}, and not its {}", list(false))
        }
    }
}

/// What a filesystem says: the name in JSON, the name in a text, and whether calve believes it.
fn answers(filesystem: &Filesystem) -> [(&'static str, &'static str, bool); 7] {
    let Filesystem { holes, sizes, inodes, clock, locks, shared_memory, flushes, .. } = *filesystem;
    [
        ("holes", "holes", holes),
        ("sizes", "sizes", sizes),
        ("inodes", "inode numbers", inodes),
        ("clock", "clock", clock),
        ("locks", "locks", locks),
        ("shared_memory", "shared memory", shared_memory),
        ("flushes", "flushes", flushes),
    ]
}

/// The verdict on a pair of paths.
struct Verdict<'a> {
    source: &'a Path,
    destination: &'a Path,
    /// The existing directory that was probed in place of the destination.
    probed: PathBuf,
    probe: Probe,
    fix: Option<String>,
}

impl<'a> Verdict<'a> {
    fn of(source: &'a Path, destination: &'a Path) -> Result<Self, Failure> {
        let failure = |error: io::Error| {
            let mut paths = vec![source.to_owned()];
            paths.extend((destination != source).then(|| destination.to_owned()));
            Failure { joint: "to", ..Failure::io("probe", paths, &error) }
        };
        // Only the destination may not exist yet.
        std::fs::metadata(source).map_err(failure)?;
        let probed = nearest_folder(destination).to_owned();
        let probe = calve::probe_between(source, &probed).map_err(failure)?;
        let errno = probe.error.as_ref().and_then(io::Error::raw_os_error).and_then(errno_name);
        let fix = fix(
            probe.outcome,
            errno,
            probe.source_filesystem.as_deref(),
            probe.dest_filesystem.as_deref(),
        );
        Ok(Self { source, destination, probed, probe, fix })
    }

    fn is_good(&self) -> bool {
        self.probe.outcome == ReflinkOutcome::Cloned
    }

    fn text(&self, width: Option<usize>) -> String {
        let name =
            |name: &Option<String>| name.as_deref().unwrap_or("unknown filesystem").to_owned();
        let (from, to) = (name(&self.probe.source_filesystem), name(&self.probe.dest_filesystem));
        let filesystems = if from == to { from } else { format!("{from} to {to}") };
        let paths = if self.source == self.destination {
            shown(self.source)
        } else {
            format!("{} to {}", shown(self.source), shown(self.destination))
        };
        let stood_for = if self.probed == self.destination || self.source == self.destination {
            String::new()
        } else {
            format!(", probed in {}", shown(&self.probed))
        };
        if self.is_good() {
            return line(
                &format!("{paths}: {GOOD}reflink{GOOD:#} ({filesystems}{stood_for})"),
                width,
            );
        }
        let why =
            self.probe.error.as_ref().map_or_else(|| "the system gave no reason".to_owned(), cause);
        let verdict = format!("{paths}: {BAD}no reflink{BAD:#} ({filesystems}{stood_for}): {why}");
        let mut text = line(&verdict, width);
        if let Some(fix) = &self.fix {
            text.push_str(&indented(&format!("  fix: {fix}"), width, "       "));
        }
        text
    }
}

/// The JSON document of `doctor`; docs/json.md says what each field means.
#[derive(Serialize)]
struct Document {
    pairs: Vec<PairDocument>,
    all_reflink: bool,
    filesystems: Vec<FilesystemDocument>,
    /// Absent on Windows, which has no worktrees.
    #[cfg(unix)]
    mentions: Vec<crate::paths::MentionDocument>,
    /// Only without a path, in a project.
    #[cfg(unix)]
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<around::LimitsDocument>,
    /// Only without a path.
    #[cfg(unix)]
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

document! {
    struct FilesystemDocument(filesystem: &Filesystem) {
        name: &'static str = filesystem.name,
        tested: bool = filesystem.is_tested,
        believed: BTreeMap<&'static str, bool> =
            answers(filesystem).into_iter().map(|(key, _, is)| (key, is)).collect(),
    }
}

document! {
    struct PairDocument(verdict: &Verdict<'_>) [
        let probe = &verdict.probe;
        let errno = probe.error.as_ref().and_then(io::Error::raw_os_error);
    ] {
        #[serde(flatten)]
        source: PathFields = PathFields::named("source", verdict.source),
        #[serde(flatten)]
        destination: PathFields = PathFields::named("destination", verdict.destination),
        #[serde(flatten)]
        probed: PathFields = PathFields::named("probed", &verdict.probed),
        source_filesystem: Option<String> = probe.source_filesystem.clone(),
        destination_filesystem: Option<String> = probe.dest_filesystem.clone(),
        reflink: bool = verdict.is_good(),
        verdict: &'static str = match probe.outcome {
            ReflinkOutcome::Cloned => "cloned",
            ReflinkOutcome::Refused => "refused",
            ReflinkOutcome::SourceVanished => "vanished",
            _ => "unsupported",
        },
        errno: Option<i32> = errno,
        errno_name: Option<&'static str> = errno.and_then(errno_name),
        cause: Option<String> = probe.error.as_ref().map(cause),
        fix: Option<String> = verdict.fix.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_yet_stands_for_the_nearest_directory_above() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "x").unwrap();
        for (path, expected) in [
            (root.path().to_owned(), root.path()),
            (root.path().join("none"), root.path()),
            (root.path().join("none/below"), root.path()),
            (root.path().join("file"), root.path()),
            (PathBuf::from("none/below"), Path::new(".")),
            (PathBuf::from("/none/below"), Path::new("/")),
        ] {
            assert_eq!(nearest_folder(&path), expected, "{}", path.display());
        }
    }
}

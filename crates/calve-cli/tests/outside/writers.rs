//! Tests that nothing goes wrong silently if other processes write to files, in every possible way,
//! while calve reads them.
//!
//! `writers.c` writes versions of a file. Each cell of the file holds the number of its version. In
//! a round a writer begins and stops at some moment of a command. Then the round checks three
//! things:
//!
//! 1. *Every blob has the content that its hash says*: `store verify` finds nothing.
//! 2. *Every tree holds content that existed.* If others replace a file, the tree has a whole
//!    version. If others write to a file in place, each cell has a version between the last one
//!    that was finished before the command began, and the last one that was begun before it ended.
//!    A missing file was reported as left out.
//! 3. *The next command sees the current content.* When the writer rests, `status` is clean if and
//!    only if the file matches the last snapshot. The tree of the next snapshot matches the
//!    project, byte for byte.
//!
//! `CALVE_WRITER_SECONDS` sets how long each kind of writer writes, and `CALVE_WRITERS` which kinds
//! write.

mod databases;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::races::ends;
use crate::{
    Random, Run, can_strace, expects_reflink, filesystem, names, not_run, program, scratch, straced,
};

/// What may be found of a file while it is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// Version V changes the first cell of unit V modulo this number, in place.
    OneCell(u64),
    /// Every version changes all cells, in place.
    Cells,
    /// Like the one above, after the file was emptied.
    Emptied,
    /// Every version is a new file, which takes the name.
    Whole,
    /// Every version is one record more; at times the first of a new file.
    Growing,
    /// Every version changes the last byte.
    LastByte,
}

struct Kind {
    name: &'static str,
    bytes: usize,
    rule: Rule,
}

const MIB: usize = 1 << 20;

const fn kind(name: &'static str, bytes: usize, rule: Rule) -> Kind {
    Kind { name, bytes, rule }
}

const KINDS: &[Kind] = &[
    // Stores through a mapping: to pages that stay dirty, now and then to one such page, to the
    // whole file, and to pages that `msync` cleans after each store.
    kind("mapped", 8 * MIB, Rule::OneCell(2048)),
    kind("mapped-one", 8 * MIB, Rule::OneCell(1)),
    kind("mapped-whole", 8 * MIB, Rule::Cells),
    kind("mapped-synced", 8 * MIB, Rule::OneCell(2048)),
    // One `pwrite` of the whole file.
    kind("in-place", 8 * MIB, Rule::Cells),
    kind("last-byte", 8 * MIB, Rule::LastByte),
    kind("direct", 8 * MIB, Rule::Cells),
    kind("io-uring", 8 * MIB, Rule::Cells),
    kind("append", RECORD, Rule::Growing),
    kind("truncate", 4 * MIB, Rule::Emptied),
    kind("rename", MIB, Rule::Whole),
    kind("exchange", MIB, Rule::Whole),
    kind("link", MIB, Rule::Whole),
    kind("copy-range", 4 * MIB, Rule::Cells),
    kind("clone-into", 4 * MIB, Rule::Cells),
];

/// Bytes of a record that is appended, and after how many of them there is a new file.
const RECORD: usize = 64;
const RECORDS: u64 = 16384;

/// The version in a cell, if the cell holds one.
fn version_in(cell: &[u8], at: usize) -> Option<u64> {
    let cell = u64::from_le_bytes(cell.try_into().ok()?);
    (cell >> 56 == 0xca && cell & 0xffff == at as u64 & 0xffff)
        .then_some((cell >> 16) & 0xff_ffff_ffff)
}

/// Cells that follow each other and are of one version, or are no cells at all.
#[derive(Debug, Clone, Copy)]
struct Cells {
    at: usize,
    cells: usize,
    version: Option<u64>,
}

/// Cells of a page.
const PAGE: usize = 512;

/// The versions in a file. Compares pages as a whole, because a debug build takes long for each
/// cell.
fn runs(kind: &Kind, found: &[u8]) -> Vec<Cells> {
    let numbered = |at| if kind.rule == Rule::Growing { at % (RECORD / 8) } else { at };
    let mut runs = Vec::<Cells>::new();
    let mut push = |at, cells, version| match runs.last_mut() {
        Some(last) if last.version == version => last.cells += cells,
        _ => runs.push(Cells { at, cells, version }),
    };
    // All numbers of cells, as they are in one version.
    let mut whole = (None, Vec::new());
    for (page, bytes) in found.chunks(PAGE * 8).enumerate() {
        let at = page * PAGE;
        let version = |cell: usize| version_in(&bytes[cell * 8..cell * 8 + 8], numbered(at + cell));
        let of_rest = if bytes.len() == PAGE * 8 { version(1) } else { None };
        if let Some(of_rest) = of_rest.filter(|_| kind.rule != Rule::Growing) {
            if whole.0 != Some(of_rest) {
                let cell = |at: u64| 0xca << 56 | of_rest << 16 | at;
                whole =
                    (Some(of_rest), (0..1 << 16).flat_map(|at| cell(at).to_le_bytes()).collect());
            }
            let start = at % (1 << 16) * 8;
            if bytes[8..] == whole.1[start + 8..start + PAGE * 8] {
                push(at, 1, version(0));
                push(at + 1, PAGE - 1, Some(of_rest));
                continue;
            }
        }
        for cell in 0..bytes.len() / 8 {
            push(at + cell, 1, version(cell));
        }
    }
    runs
}

/// Whether the file had these bytes at some moment between the version that was finished first and
/// the one that was begun last.
fn judge(kind: &Kind, found: &[u8], between: &RangeInclusive<u64>) -> Result<(), String> {
    let length = found.len();
    let of_length = match kind.rule {
        Rule::Growing => length.is_multiple_of(RECORD),
        Rule::Emptied if between.start() < between.end() => {
            length.is_multiple_of(8) && length <= kind.bytes
        }
        _ => length == kind.bytes,
    };
    if !of_length {
        return Err(format!("{length} bytes, {between:?}"));
    }
    if kind.rule == Rule::LastByte {
        let last = |version: u64| if version == 0 { 0xca } else { version.to_le_bytes()[0] };
        if !between.clone().take(256).any(|version| last(version) == found[length - 1]) {
            return Err(format!("the last byte is {}, {between:?}", found[length - 1]));
        }
    }
    let mut first = None;
    for Cells { at, cells, version } in runs(kind, found) {
        if kind.rule == Rule::LastByte && at + 1 == length / 8 {
            continue;
        }
        let wrong = || Err(format!("{cells} cells from {at} are of {version:?}, {between:?}"));
        let Some(version) = version else { return wrong() };
        let first = *first.get_or_insert(version);
        let good = match kind.rule {
            Rule::OneCell(units) => {
                let of_unit = kind.bytes / 8 / usize::try_from(units).unwrap();
                let unit = (at / of_unit) as u64;
                match at % of_unit {
                    // The rest of a unit never changes; nor do the first cells of units, for a
                    // while.
                    _ if version == 0 => (at.div_ceil(of_unit)..=(at + cells - 1) / of_unit)
                        .all(|unit| *between.start() < if unit == 0 { units } else { unit as u64 }),
                    0 => {
                        cells == 1
                            && version % units == unit
                            && version <= *between.end()
                            && version + units > *between.start()
                    }
                    _ => false,
                }
            }
            Rule::Cells | Rule::Emptied => between.contains(&version),
            Rule::Whole => version == first && between.contains(&version),
            Rule::LastByte => version == 0,
            Rule::Growing => first % RECORDS == 1 && version == first + (at * 8 / RECORD) as u64,
        };
        if !good {
            return wrong();
        }
    }
    if kind.rule == Rule::Growing {
        let last = first.map_or(0, |first| first + (length / RECORD) as u64 - 1);
        if !between.contains(&last) {
            return Err(format!("the last record is {last}, {between:?}"));
        }
    }
    Ok(())
}

/// Whether the file is as it was at one moment, as far as its cells show: no cell is newer than a
/// version that another cell lacks.
fn is_of_one_moment(kind: &Kind, found: &[u8]) -> bool {
    let runs = runs(kind, found);
    let last = runs.iter().filter_map(|run| run.version).max().unwrap_or_default();
    match kind.rule {
        Rule::OneCell(units) => {
            let step = kind.bytes / usize::try_from(units).unwrap();
            found.chunks(step).zip(0..).all(|(cells, unit)| {
                // The last version up to `last` that changed this unit.
                let newest = last.saturating_sub((last + units - unit) % units);
                u64::from_le_bytes(cells[..8].try_into().unwrap()) >> 16 & 0xff_ffff_ffff == newest
            })
        }
        Rule::Cells => {
            runs.iter().all(|run| run.version.is_some_and(|version| version + 1 >= last))
        }
        Rule::Emptied => runs.iter().all(|run| run.version == Some(last)),
        Rule::Whole | Rule::Growing | Rule::LastByte => true,
    }
}

/// The built writers; or why there are none.
fn writers() -> Result<&'static Path, &'static str> {
    static BUILT: OnceLock<Result<(TempDir, PathBuf), String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let (source, binary) =
            (directory.path().join("writers.c"), directory.path().join("writers"));
        fs::write(&source, include_str!("writers.c")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-pthread", "-o"]).args([&binary, &source]);
        let output = cc.output().map_err(|error| format!("cc: {error}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((directory, binary))
    });
    built.as_ref().map(|(_, binary)| binary.as_path()).map_err(String::as_str)
}

/// A process that writes to one file on command.
struct Writer {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    control: File,
}

impl Writer {
    /// Writes the first version, and rests. Its other files are beside the tree of `file`, below
    /// `beside`. The error says why such a writer cannot run here.
    fn start(kind: &Kind, file: &Path, beside: &Path) -> Result<Self, String> {
        let aside = beside.join("aside");
        fs::create_dir_all(&aside).unwrap();
        let control = beside.join("control");
        let units = if let Rule::OneCell(units) = kind.rule { units } else { 1 };
        let mut command = Command::new(writers()?);
        command.arg(kind.name).arg(file).args([&aside, &control]);
        command.args([kind.bytes.to_string(), units.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        if answers.read_line(&mut line).unwrap() == 0 {
            let mut why = String::new();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            let code = child.wait().unwrap().code();
            assert_eq!(code, Some(77), "{}: {why}", kind.name);
            return Err(why.trim().to_owned());
        }
        let commands = child.stdin.take().unwrap();
        Ok(Self { child, commands, answers, control: File::open(control).unwrap() })
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.commands, "{what}").unwrap();
    }

    /// Waits until the process has done its command. The error says why it cannot.
    fn wait(&mut self) -> Result<(), String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line).unwrap() > 0 {
            return Ok(());
        }
        let mut why = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(77), "a writer fails: {why}");
        Err(why.trim().to_owned())
    }

    #[track_caller]
    fn does(&mut self, what: &str) {
        self.tell(what);
        self.wait().unwrap();
    }

    fn number(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, at).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn begun(&self) -> u64 {
        self.number(0)
    }

    fn finished(&self) -> u64 {
        self.number(8)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of a folder.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    names(folder)
        .into_iter()
        .map(|name| (name.clone(), fs::read(folder.join(name)).unwrap()))
        .collect()
}

/// The results of the rounds of a kind.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    /// Commands that reported the file as left out, or that failed and said so.
    left_out: u64,
    refused: u64,
    /// Writes during a command that its result does not contain: whether the next `status` saw
    /// them.
    found: u64,
    missed: u64,
    /// The next snapshot lacks the current content.
    lost: u64,
    /// `status` names a file that did not change.
    spurious: u64,
    /// Trees with content that never existed, or without content that existed.
    torn: u64,
    damaged_blobs: u64,
    /// Files in trees that are of more than one moment, including those of a `clone` that copies,
    /// for which calve promises no more.
    mixed: u64,
    mixed_copies: u64,
    /// In words.
    wrong: Vec<String>,
}

impl Tally {
    fn counts(&mut self, count: fn(&mut Self) -> &mut u64, context: &str, what: String) {
        *count(self) += 1;
        self.wrong.push(format!("{context}: {what}"));
    }

    fn is_good(&self) -> bool {
        let seen = self.missed + self.lost + self.spurious;
        seen + self.torn + self.damaged_blobs + self.mixed == 0
    }
}

/// A project, its store and one worktree, with a writer in each.
struct Episode<'a> {
    kind: &'a Kind,
    project: PathBuf,
    worktree: PathBuf,
    in_project: Writer,
    in_worktree: Writer,
    /// The contents of the two base snapshots.
    bases: [Files; 2],
    _scratch: TempDir,
}

const COMMANDS: &[&str] = &["snapshot", "start", "of a worktree", "clone", "status"];

impl<'a> Episode<'a> {
    fn new(kind: &'a Kind) -> Result<Self, String> {
        let scratch = scratch();
        let project = scratch.path().join("app");
        fs::create_dir_all(project.join("data")).unwrap();
        let beside = scratch.path().join("beside");
        let in_project = Writer::start(kind, &project.join("data/f"), &beside)?;
        let worktree = scratch.path().join("app.worktrees/w");
        for words in ["init -q", "start -q w"] {
            let run = ends(&project, words);
            assert_eq!(run.code, Some(0), "{words}: {run:?}");
        }
        // On btrfs a worktree is a subvolume, into which nothing can be renamed from outside.
        let in_worktree =
            Writer::start(kind, &worktree.join("data/f"), &worktree.join(".calve/beside"))?;
        let run = ends(&project, "snapshot -q --of w");
        assert_eq!(run.code, Some(0), "{run:?}");
        let bases = [files(&project.join("data")), files(&worktree.join("data"))];
        Ok(Self { kind, project, worktree, in_project, in_worktree, bases, _scratch: scratch })
    }

    /// The tree of a snapshot.
    fn tree(&self, name: &str, snapshot: &str) -> Files {
        let run = ends(&self.project, &format!("start -q --from {snapshot} {name}"));
        assert_eq!(run.code, Some(0), "{run:?}");
        files(&Path::new(run.stdout.trim_end()).join("data"))
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one round from its edits to what must hold after it"
    )]
    fn round(
        &mut self,
        number: u64,
        random: &mut Random,
        usual: &mut BTreeMap<&str, u64>,
        tally: &mut Tally,
    ) {
        let command = COMMANDS[random.one_of(COMMANDS.len())];
        let captures = command == "of a worktree";
        let (root, words) = match command {
            "snapshot" => (&self.project, "snapshot -q".to_owned()),
            "start" => (&self.project, format!("start -q t{number}")),
            "of a worktree" => (&self.worktree, "snapshot -q".to_owned()),
            "clone" => (&self.project, format!("clone -q . ../c{number}")),
            _ => (&self.project, "status -q".to_owned()),
        };
        let root = root.clone();
        let takes = usual.entry(command).or_insert(20_000);
        let writer = if captures { &mut self.in_worktree } else { &mut self.in_project };
        // Its pages are dirty or clean, and the last write was just now or a while ago.
        if random.below(4) > 0 {
            writer.does("run 2000");
            if random.below(4) == 0 {
                writer.does("clean");
            }
            if random.below(4) > 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
        let first = writer.finished();
        writer.tell(&format!("run {}", random.below(*takes * 3 / 2)));
        let began = Instant::now();
        let run = ends(&root, &words);
        let took = u64::try_from(began.elapsed().as_micros()).unwrap();
        let between = first..=writer.begun();
        writer.wait().unwrap();
        *takes = (*takes * 3 + took) / 4;
        tally.rounds += 1;

        let context = format!("{} {command} {number}", self.kind.name);
        // The result of the command holds content that existed.
        let made = match (command, run.code) {
            (_, Some(1)) => {
                assert!(run.stderr.contains("data/f"), "{context}: {run:?}");
                tally.refused += 1;
                None
            }
            ("status", _) => None,
            ("start", _) => Some(files(&Path::new(run.stdout.trim_end()).join("data"))),
            ("clone", _) => {
                Some(files(&self.project.with_file_name(format!("c{number}")).join("data")))
            }
            _ => Some(self.tree(&format!("t{number}"), run.stdout.trim_end())),
        };
        if let Some(made) = &made {
            for name in self.bases[usize::from(captures)].keys() {
                match made.get(name) {
                    Some(found) => {
                        let one = is_of_one_moment(self.kind, found);
                        if command == "clone" && !expects_reflink() {
                            tally.mixed_copies += u64::from(!one);
                        } else if !one {
                            let what = format!("{name} is of several moments");
                            tally.counts(|tally| &mut tally.mixed, &context, what);
                        }
                        if let Err(why) = judge(self.kind, found, &between) {
                            tally.counts(
                                |tally| &mut tally.torn,
                                &context,
                                format!("{name}: {why}"),
                            );
                        }
                    }
                    None if run.code == Some(3) && run.stderr.contains(&format!("data/{name}")) => {
                        tally.left_out += 1;
                    }
                    None => tally.counts(
                        |tally| &mut tally.torn,
                        &context,
                        format!("{name} is missing: {run:?}"),
                    ),
                }
            }
        }
        // calve sees the current content.
        let there = files(&root.join("data"));
        let base = match made {
            Some(made) if !matches!(command, "clone") => made,
            _ => self.bases[usize::from(captures)].clone(),
        };
        let status = ends(&root, "status -q");
        match (status.code, base == there) {
            (Some(0), true) => {}
            (Some(3), false) => tally.found += 1,
            (Some(0), false) => {
                tally.counts(|tally| &mut tally.missed, &context, "status misses it".to_owned());
            }
            _ => tally.counts(
                |tally| &mut tally.spurious,
                &context,
                format!("nothing changed: {status:?}"),
            ),
        }
        let run = ends(&root, "snapshot -q");
        assert_eq!(run.code, Some(0), "{context}: nobody writes: {run:?}");
        let after = self.tree(&format!("u{number}"), run.stdout.trim_end());
        if after != there {
            tally.counts(
                |tally| &mut tally.lost,
                &context,
                "the next snapshot misses it".to_owned(),
            );
        }
        self.bases[usize::from(captures)] = after;
    }

    fn verify(&self, tally: &mut Tally) {
        let run = ends(&self.project, "store verify");
        if run.code != Some(0) {
            let blobs = run.stdout.lines().chain(run.stderr.lines());
            let blobs = blobs.filter(|line| line.contains("its content is not")).count();
            tally.damaged_blobs += blobs.max(1) as u64;
            tally.wrong.push(format!("{}: {run:?}", self.kind.name));
        }
    }
}

/// For how long each kind of writer writes.
fn seconds_of_writing() -> Duration {
    let given = std::env::var("CALVE_WRITER_SECONDS").ok();
    Duration::from_secs(given.map_or(2, |seconds| seconds.parse().expect("a number of seconds")))
}

/// Whether this kind of writer is to write.
fn is_asked_for(name: &str) -> bool {
    let only = std::env::var("CALVE_WRITERS").unwrap_or_default();
    only.is_empty() || only.split(',').any(|only| only == name)
}

/// The number of rounds in a project. Each round leaves trees, which take space if nothing is
/// shared.
const ROUNDS: u64 = 10;

#[test]
fn of_a_file_that_is_written_to_meanwhile_nothing_is_silently_wrong() {
    let seconds = seconds_of_writing();
    let mut random = Random(0x0ca1_7e5e_ed00_0900);
    let mut wrong = Vec::new();
    for kind in KINDS.iter().filter(|kind| is_asked_for(kind.name)) {
        let until = Instant::now() + seconds;
        let (mut tally, mut usual) = (Tally::default(), BTreeMap::new());
        while tally.rounds == 0 || Instant::now() < until {
            let mut episode = match Episode::new(kind) {
                Ok(episode) => episode,
                Err(why) => {
                    not_run(
                        &format!("writers: {}", kind.name),
                        &format!("{}: {why}", filesystem()),
                    );
                    break;
                }
            };
            for number in 0..ROUNDS {
                episode.round(number, &mut random, &mut usual, &mut tally);
                if Instant::now() >= until {
                    break;
                }
            }
            episode.verify(&mut tally);
        }
        println!(
            "{:6} {:13} rounds {:5}, left out {:4}, refused {:4}, edits found {:5}, missed {:3}, lost {:3}, \
             spurious {:3}, torn {:3}, damaged blobs {:3}, of several moments {:3}, copied so {:3}",
            filesystem(),
            kind.name,
            tally.rounds,
            tally.left_out,
            tally.refused,
            tally.found,
            tally.missed,
            tally.lost,
            tally.spurious,
            tally.torn,
            tally.damaged_blobs,
            tally.mixed,
            tally.mixed_copies,
        );
        let shown = tally.wrong.len().min(3);
        wrong.extend((!tally.is_good()).then(|| tally.wrong[..shown].join("\n")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The calls that come near a file's content, or after which something is taken for stored.
const CALLS: &str = "openat,fstat,newfstatat,pread64,ioctl,copy_file_range,sync_file_range,lseek,\
     fcntl,syncfs,fsync,fdatasync,utimensat,renameat,flistxattr";

/// One call of a command: the Nth call of its name in its thread. Other threads made `before` such
/// calls before it.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    nth: usize,
    before: usize,
    line: String,
}

/// The calls that concern a file with `of` in its path, or that flush, once it was opened.
fn calls_of(log: &str, of: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    let mut nths = BTreeMap::<(&str, usize), usize>::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        let nth = counts.entry((thread, name)).or_default();
        *nth += 1;
        let before = nths.entry((name, *nth)).or_default();
        // strace does not show which file is cloned. Of the calls that flush, the first of each
        // kind is enough.
        let concerns = line.contains(of) && !line.contains("F_GETFD")
            || line.contains("FICLONE")
            || matches!(name, "syncfs" | "fsync" | "fdatasync")
                && !calls.is_empty()
                && calls.iter().all(|call: &Call| call.name != name);
        if concerns {
            let (name, nth, before) = (name.to_owned(), *nth, *before);
            calls.push(Call { name, nth, before, line: rest.trim_start().to_owned() });
        }
        *before += 1;
    }
    calls
}

/// Runs `snapshot` and lets it wait at `call`, in which `during` is done.
fn delayed(project: &Path, call: &Call, during: impl FnOnce()) -> Run {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = program("strace", project);
    command.args(["-f", "-qq", "--seccomp-bpf", "-o"]).arg(log.path());
    command.args(["-e", &format!("trace={}", call.name), "-e"]);
    command.arg(format!("inject={}:delay_enter=400000:when={}", call.name, call.nth));
    command.args(["--", env!("CARGO_BIN_EXE_calve"), "snapshot", "-q", "-j1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may never come to that call, since it waits for the write.
    let until = Instant::now() + Duration::from_secs(2);
    while child.try_wait().unwrap().is_none() && Instant::now() < until {
        // strace writes the call before it waits, and the rest of the line when it is done.
        let text = fs::read(log.path()).unwrap();
        let text = String::from_utf8_lossy(&text);
        let last = text.lines().last().unwrap_or_default();
        let count = text.lines().filter(|line| line.contains(&format!("{}(", call.name))).count();
        if text.matches("(DELAYED)").count() == call.before
            && !text.ends_with('\n')
            && last.contains(&format!("{}(", call.name))
            && count >= call.nth
        {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    // The kernel is in no call that is delayed at its begin.
    thread::sleep(Duration::from_millis(50));
    during();
    let output = child.wait_with_output().unwrap();
    Run::of(output, fs::read_to_string(log.path()).unwrap_or_default())
}

/// A project with a file that a writer has open, and a second file with the same content, which
/// nobody writes to again. The page of the first file is dirty, and its times are old.
fn a_project(kind: &Kind) -> Result<(TempDir, PathBuf, Writer), String> {
    let scratch = scratch();
    let project = scratch.path().join("app");
    fs::create_dir_all(project.join("data")).unwrap();
    let mut writer = Writer::start(kind, &project.join("data/f"), &scratch.path().join("beside"))?;
    assert_eq!(ends(&project, "init -q").code, Some(0));
    if kind.name == "mapped-one" {
        writer.does("one");
    }
    // Not `fs::copy`, which may clone, which would make the page clean.
    let content = fs::read(project.join("data/f")).unwrap();
    fs::write(project.join("data/zbak"), content).unwrap();
    thread::sleep(Duration::from_millis(60));
    Ok((scratch, project, writer))
}

/// The faults that a snapshot shows.
fn wrong_after(
    project: &Path,
    kind: &Kind,
    bak: &[u8],
    between: &RangeInclusive<u64>,
    run: &Run,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let tree = |name: &str, snapshot: &str| {
        let run = ends(project, &format!("start -q --from {snapshot} {name}"));
        assert_eq!(run.code, Some(0), "{run:?}");
        files(&Path::new(run.stdout.trim_end()).join("data"))
    };
    let there = files(&project.join("data"));
    let made = tree("t", run.stdout.trim_end());
    match made.get("f").map(|found| judge(kind, found, between)) {
        None if run.code != Some(3) => wrong.push("it is missing".to_owned()),
        Some(Err(why)) => wrong.push(why),
        _ => {}
    }
    if made.get("zbak").map(Vec::as_slice) != Some(bak) {
        wrong.push("another file has what was never written to it".to_owned());
    }
    let status = ends(project, "status -q").code;
    if status != Some(if made == there { 0 } else { 3 }) {
        wrong.push(format!("status says {status:?}; unchanged: {}", made == there));
    }
    if tree("u", ends(project, "snapshot -q").stdout.trim_end()) != there {
        wrong.push("the next snapshot misses what is there".to_owned());
    }
    let verified = ends(project, "store verify");
    if verified.code != Some(0) {
        wrong.push(format!("a blob is not its hash: {}", verified.stdout));
    }
    wrong
}

/// A store through a mapping to a dirty page moves no time. Neither does the end of a long write,
/// which moved the times when it began. A snapshot hashed the file, cloned it, and took it for
/// unchanged by its times. So the blob had other content than its hash, and every later worktree
/// with a file of that hash got it. If nothing was cloned, calve never saw the edit.
#[test]
fn whichever_call_of_a_snapshot_a_write_comes_in_every_blob_is_its_hash_and_the_write_is_seen() {
    if !can_strace("writers: a write in each call of a snapshot") {
        return;
    }
    const STORE: &Kind = &kind("mapped-one", 1 << 16, Rule::OneCell(1));
    const WRITE: &Kind = &kind("slow", 1 << 16, Rule::Cells);
    let mut rows = Vec::new();
    for kind in [STORE, WRITE] {
        let test = format!("writers: {} in each call of a snapshot", kind.name);
        let (_scratch, project, mut writer) = match a_project(kind) {
            Ok(project) => project,
            Err(why) => {
                not_run(&test, &format!("{}: {why}", filesystem()));
                continue;
            }
        };
        if kind.name == "slow" {
            writer.tell("begin");
            if let Err(why) = writer.wait() {
                not_run(&test, &format!("{}: {why}", filesystem()));
                continue;
            }
            writer.does("end");
            thread::sleep(Duration::from_millis(60));
        }
        let run = straced(&project, &["-y", "-e", &format!("trace={CALLS}")], "snapshot -q -j1");
        assert_eq!(run.code, Some(0), "{run:?}");
        let calls = calls_of(&run.log, "data/f>");
        assert!(calls.len() > 3, "{}", run.log);
        rows.extend(calls.into_iter().map(|call| (kind, call)));
    }
    // One after the other: if one of them flushes the filesystem, the dirty pages of the others
    // become clean.
    let mut wrong = Vec::new();
    for (kind, call) in &rows {
        let (_scratch, project, mut writer) = a_project(kind).unwrap();
        let bak = fs::read(project.join("data/zbak")).unwrap();
        let first = writer.finished();
        let during = if kind.name == "slow" {
            writer.does("begin");
            thread::sleep(Duration::from_millis(60));
            "end"
        } else {
            "one"
        };
        let run = delayed(&project, call, || writer.does(during));
        assert!(matches!(run.code, Some(0 | 3)), "{run:?}");
        let found = wrong_after(&project, kind, &bak, &(first..=first + 1), &run);
        println!("{} {} in {}: {found:?}", filesystem(), kind.name, call.line);
        if !found.is_empty() {
            wrong.push(format!("{} in {}: {}", kind.name, call.line, found.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

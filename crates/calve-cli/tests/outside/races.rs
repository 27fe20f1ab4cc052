//! Runs many processes on one store, one name and one destination. Each gets exactly its own
//! result, none waits for ever, and calve refuses none because others are at work.
//!
//! `CALVE_RACE_SECONDS` sets how long the loops run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::tree::{State, content, difference, many_files, work};
use crate::{
    Random, Run, calve_command, can_strace, expects_reflink, names, not_run, program, scratch,
    straced,
};

/// How long each of the loops runs. A race that is lost once in a minute needs more than the
/// default.
pub(crate) fn seconds() -> Duration {
    let given = std::env::var("CALVE_RACE_SECONDS").ok();
    Duration::from_secs(given.map_or(6, |seconds| seconds.parse().expect("a number of seconds")))
}

/// Longer than anything here takes, even on a machine that does much else.
const HANGS_SECONDS: &str = "600";

/// Runs the command, and fails where it does not come to an end.
#[track_caller]
pub(crate) fn ends(directory: &Path, words: &str) -> Run {
    let mut command = program("timeout", directory);
    command.args(["-s", "KILL", HANGS_SECONDS, env!("CARGO_BIN_EXE_calve")]);
    let run = Run::of(command.args(words.split_whitespace()).output().unwrap(), String::new());
    // 101 is a panic, 137 and nothing are what `timeout` makes of a kill.
    assert!(matches!(run.code, Some(0..=3)), "calve {words}: {run:?}");
    run
}

/// What a worker does.
const VERBS: [&str; 5] = ["start", "snapshot", "restore", "undo", "drop"];

/// The number of commands of each kind, by result.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<(String, i32), u64>>);

impl Tally {
    /// Whether each verb of a worker was done.
    fn had_each(&self) -> bool {
        let ran = self.0.lock().unwrap();
        VERBS.iter().all(|verb| ran.contains_key(&((*verb).to_owned(), 0)))
    }

    #[track_caller]
    fn run(&self, directory: &Path, words: &str) -> Run {
        let run = ends(directory, words);
        let mut kind = words.split(' ').filter(|word| !word.starts_with('-'));
        let mut name = kind.next().unwrap_or_default().to_owned();
        if name == "store" {
            name = kind.next().unwrap_or_default().to_owned();
        }
        *self.0.lock().unwrap().entry((name, run.code.unwrap())).or_default() += 1;
        run
    }

    /// Runs a command that must succeed and print only its results.
    #[track_caller]
    fn done(&self, directory: &Path, words: &str) -> Run {
        let run = self.run(directory, words);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "calve {words}: {run:?}");
        run
    }
}

const FILES: usize = 150;
const SIZE: usize = 3000;

/// A project, its worktrees, and their expected contents.
struct Worker<'a> {
    project: &'a Path,
    worktrees: PathBuf,
    number: u64,
    random: Random,
    tally: &'a Tally,
    /// Snapshots by their names, with their contents.
    known: Vec<(String, State)>,
    made: u64,
}

impl Worker<'_> {
    #[track_caller]
    fn assert_is(&self, root: &Path, wanted: &State, after: &str) {
        let difference = difference(wanted, &work(root));
        assert_eq!(difference, "", "{root:?} after {after}");
    }

    fn choose(&mut self) -> (String, State) {
        let at = self.random.one_of(self.known.len());
        self.known[at].clone()
    }

    /// Writes, removes and adds some files.
    fn edit(&mut self, root: &Path) -> State {
        for _ in 0..=self.random.below(6) {
            let number = self.random.one_of(FILES);
            let path = root.join(format!("d{}/f{number}", number / 100));
            let word = format!("worker-{}-edit-{}", self.number, self.random.next());
            match self.random.below(4) {
                0 => match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
                    _ => {}
                },
                1 => {
                    let folder = root.join(format!("new/{}", self.random.below(4)));
                    fs::create_dir_all(&folder).unwrap();
                    fs::write(folder.join(format!("f{number}")), word).unwrap();
                }
                _ => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, content(number, SIZE, &word)).unwrap();
                }
            }
        }
        work(root)
    }

    /// Works with one worktree from its start to its drop.
    fn live(&mut self, until: Instant) {
        self.made += 1;
        let name = format!("w{}-{}", self.number, self.made);
        let root = self.worktrees.join(&name);
        let (mut snapshot, mut now) = self.choose();
        self.tally.done(self.project, &format!("start -q --from {snapshot} {name}"));
        self.assert_is(&root, &now, "start");
        for step in 0..self.random.below(8) {
            if Instant::now() >= until {
                break;
            }
            match self.random.below(5) {
                0 | 1 => {
                    now = self.edit(&root);
                    snapshot = format!("s{}-{}-{step}", self.number, self.made);
                    self.tally.done(&root, &format!("snapshot -q {snapshot}"));
                    self.assert_is(&root, &now, "snapshot");
                    self.known.push((snapshot.clone(), now.clone()));
                }
                2 => {
                    (snapshot, now) = self.choose();
                    self.tally.done(self.project, &format!("restore -q {snapshot} {name}"));
                    self.assert_is(&root, &now, "restore");
                }
                3 => {
                    self.edit(&root);
                    self.tally.done(&root, "restore -q");
                    self.assert_is(&root, &now, "restore");
                }
                _ => {
                    let (other, there) = self.choose();
                    // A switch to the current snapshot keeps the files that an earlier switch moved
                    // aside.
                    if there == now {
                        continue;
                    }
                    let edited = self.edit(&root);
                    self.tally.done(&root, &format!("restore -q {other}"));
                    self.tally.done(&root, "undo -q");
                    self.assert_is(&root, &edited, "restore and undo");
                    self.tally.done(&root, "restore -q");
                    self.assert_is(&root, &now, "restore");
                }
            }
            let status = self.tally.run(self.project, &format!("status {name}"));
            assert_eq!((status.code, status.stdout.as_str()), (Some(0), ""), "{status:?}");
        }
        if self.random.below(3) == 0 {
            self.edit(&root);
            self.tally.done(self.project, &format!("drop -q --force {name}"));
        } else {
            self.tally.done(self.project, &format!("drop -q {name}"));
        }
        assert!(fs::symlink_metadata(&root).is_err(), "{name} is there after its drop");
        // Some are forgotten, so that there is something to collect.
        if self.known.len() > 12 {
            let at = 1 + self.random.one_of(self.known.len() - 1);
            let (name, _) = self.known.remove(at);
            self.tally.done(self.project, &format!("name -q --delete {name}"));
        }
    }
}

/// Runs four processes, each with its own worktree, while the store is packed, collected, verified
/// and warmed all the time.
#[test]
fn four_processes_get_their_own_trees_exactly_while_the_store_is_packed_collected_verified_and_warmed()
 {
    let scratch = scratch();
    let project = &scratch.path().join("app");
    many_files(project, FILES, SIZE, "project");
    fs::write(project.join("large"), vec![7; 300_000]).unwrap();
    let tally = &Tally::default();
    tally.run(project, "init -q");
    tally.run(project, "snapshot -q base");
    let base = work(project);
    let started = Instant::now();
    let until = started + seconds();
    let upkeep: [&[&str]; 4] = [
        &["store pack -q --all", "store pack -q"],
        &["store gc --json -q --expire 0s --grace 0s", "store gc --json -q --expire 0s"],
        &["store verify -q", "store verify -q --repair --json"],
        &["store warm -q", "store warm -q base", "store stats", "log", "list"],
    ];
    let at_work = &AtomicBool::new(true);
    let known: Vec<(String, State)> = thread::scope(|scope| {
        for commands in upkeep {
            scope.spawn(move || {
                for words in commands.iter().cycle() {
                    let run = tally.run(project, words);
                    // A collection that got no moment alone says so, and removed nothing.
                    let busy = run.code == Some(3) && run.json()["busy"] == true;
                    assert!(busy || run.code == Some(0), "calve {words}: {run:?}");
                    if !at_work.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let workers: Vec<_> = (1..5)
            .map(|number| {
                let mut worker = Worker {
                    project,
                    worktrees: scratch.path().join("app.worktrees"),
                    number,
                    random: Random(0x0ca1_7e5e_ed00_0000 + number),
                    tally,
                    known: vec![("base".to_owned(), base.clone())],
                    made: 0,
                };
                scope.spawn(move || {
                    // A slow machine goes on until each kind was done once.
                    while Instant::now() < until || !tally.had_each() {
                        let more = Instant::now() + Duration::from_secs(60);
                        worker.live(if tally.had_each() { until } else { more });
                    }
                    worker.known
                })
            })
            .collect();
        // The upkeep ends with the workers, however those end.
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        at_work.store(false, Ordering::Relaxed);
        ended.into_iter().flat_map(|ended| ended.unwrap()).collect()
    });
    let took = started.elapsed();
    tally.done(project, "store verify -q");
    tally.done(project, "store gc -q --grace 0s");
    assert_eq!(names(&project.join(".calve/stage")), [""; 0], "something is left in the stage");
    let worktrees = scratch.path().join("app.worktrees");
    assert_eq!(names(&worktrees), [""; 0], "something is left where the worktrees were");
    for (number, (name, wanted)) in known.iter().enumerate() {
        let worktree = format!("last-{number}");
        tally.done(project, &format!("start -q --from {name} {worktree}"));
        let root = worktrees.join(&worktree);
        assert_eq!(difference(wanted, &work(&root)), "", "{name} at the end");
        tally.done(project, &format!("drop -q {worktree}"));
    }
    assert_eq!(difference(&base, &work(project)), "", "the project");
    let tally = tally.0.lock().unwrap();
    let (all, ran): (u64, _) = (tally.values().sum(), tally);
    println!("{all} commands in {took:?}: {ran:?}");
    let of = |name: &str| ran.get(&(name.to_owned(), 0)).copied().unwrap_or(0);
    for name in VERBS.into_iter().chain(["pack", "gc", "verify", "warm"]) {
        assert!(of(name) > 0, "no {name} was done: {ran:?}");
    }
}

/// Starts two commands at one moment, and says how both end.
fn both(directory: &Path, words: [&str; 2]) -> [Run; 2] {
    let spawn = |words: &str| {
        let mut command: Command = calve_command(directory, words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    words.map(spawn).map(|child| Run::of(child.wait_with_output().unwrap(), String::new()))
}

const ROUNDS: usize = 20;

#[test]
fn of_two_that_make_a_store_at_once_one_does_and_the_other_finds_it_and_leaves_nothing() {
    for round in 0..ROUNDS {
        let scratch = scratch();
        let project = scratch.path();
        fs::write(project.join("file"), "content").unwrap();
        let mut runs = both(project, ["init --json"; 2]);
        runs.sort_by_key(|run| run.stderr.contains("nothing to do"));
        let [first, second] = runs;
        assert_eq!((first.code, second.code), (Some(0), Some(0)), "{round}: {first:?} {second:?}");
        assert!(first.stderr.contains("made a store"), "{round}: {first:?}");
        assert!(second.stderr.contains("nothing to do"), "{round}: {second:?}");
        assert_eq!(first.json(), second.json(), "{round}");
        assert_eq!(names(project), [".calve", "file"], "{round}");
        let run = ends(project, "snapshot -q");
        assert_eq!(run.code, Some(0), "{round}: {run:?}");
        let run = ends(project, "store verify -q");
        assert_eq!(run.code, Some(0), "{round}: {run:?}");
    }
}

#[test]
fn of_two_that_start_one_name_at_once_one_does_and_the_other_is_told_and_leaves_nothing() {
    let scratch = scratch();
    let project = scratch.path().join("app");
    many_files(&project, 40, 500, "project");
    assert_eq!(ends(&project, "init -q").code, Some(0));
    let wanted = work(&project);
    for round in 0..ROUNDS {
        // With and without the snapshot that is taken first; alone, and beside another name.
        let words = match round % 3 {
            0 => ["start --json same", "start --json same"],
            1 => ["start --json same", "start --json other same"],
            _ => ["start --json --from base same", "start --json --from base same"],
        };
        if round == 0 {
            assert_eq!(ends(&project, "snapshot -q base").code, Some(0));
        }
        let mut runs = both(&project, words);
        let both_names = runs[1].code == Some(0) && round % 3 == 1;
        runs.sort_by_key(|run| run.code);
        let [first, second] = runs;
        assert_eq!((first.code, second.code), (Some(0), Some(1)), "{round}: {first:?} {second:?}");
        assert_eq!(second.json()["error"]["kind"], "worktree_exists", "{round}: {second:?}");
        assert!(second.stderr.contains("hint: "), "{round}: {second:?}");
        let there: &[&str] = if both_names { &["other", "same"] } else { &["same"] };
        let worktrees = scratch.path().join("app.worktrees");
        assert_eq!(names(&worktrees), there, "{round}: {first:?} {second:?}");
        assert_eq!(names(&project.join(".calve/stage")), [""; 0], "{round}");
        assert_eq!(names(&project.join(".calve/indexes")).len(), there.len() + 1, "{round}");
        for name in there {
            assert_eq!(difference(&wanted, &work(&worktrees.join(name))), "", "{round}: {name}");
            assert_eq!(ends(&project, &format!("drop -q {name}")).code, Some(0), "{round}");
        }
    }
    assert_eq!(ends(&project, "store verify -q").code, Some(0));
}

#[test]
fn a_worktree_that_is_dropped_while_another_is_at_it_is_gone_and_the_other_is_told() {
    let scratch = scratch();
    let project = scratch.path().join("app");
    many_files(&project, 300, 500, "one");
    assert_eq!(ends(&project, "init -q").code, Some(0));
    assert_eq!(ends(&project, "snapshot -q one").code, Some(0));
    many_files(&project, 300, 500, "two");
    assert_eq!(ends(&project, "snapshot -q two").code, Some(0));
    let root = scratch.path().join("app.worktrees/w");
    let mut told = 0;
    for round in 0..2 * ROUNDS {
        assert_eq!(ends(&project, "start -q --from one w").code, Some(0), "{round}");
        many_files(&root, 30, 500, "by hand");
        let other =
            ["restore two w", "restore w", "snapshot --of w", "status w", "diff w"][round % 5];
        let [ran, dropped] = both(&project, [&format!("{other} --json"), "drop -q --force w"]);
        assert_eq!(dropped.code, Some(0), "{round}, {other}: {dropped:?} {ran:?}");
        if ran.code == Some(1) {
            let kind = &ran.json()["error"]["kind"];
            let gone = kind == "worktree_not_found" || kind == "worktree_missing";
            assert!(gone && ran.stderr.contains("hint: "), "{round}, {other}: {ran:?}");
            told += 1;
        } else {
            assert!(matches!(ran.code, Some(0 | 3)), "{round}, {other}: {ran:?}");
        }
        // One that begins when the drop has ended brings the worktree back.
        if other == "restore w" && ran.stderr.contains("is back, as it was dropped") {
            assert_eq!(ends(&project, "drop -q --force w").code, Some(0), "{round}");
        }
        let listed = ends(&project, "list --json").json();
        assert_eq!(listed["worktrees"].as_array().unwrap().len(), 0, "{round}, {other}: {ran:?}");
        assert_eq!(names(root.parent().unwrap()), [""; 0], "{round}, {other}");
    }
    println!("{told} of {} were told", 2 * ROUNDS);
    for words in ["store gc -q --grace 0s --dropped 0s", "store verify -q"] {
        assert_eq!(ends(&project, words).code, Some(0), "{words}");
    }
    assert_eq!(names(&project.join(".calve/indexes")).len(), 1);
}

#[test]
fn a_worktree_that_another_process_is_starting_is_dropped_when_it_is_started() {
    if !can_strace("a drop of a worktree that is being started") {
        return;
    }
    let scratch = scratch();
    let project = scratch.path().join("app");
    many_files(&project, 40, 500, "project");
    assert_eq!(ends(&project, "init -q").code, Some(0));
    assert_eq!(ends(&project, "snapshot -q base").code, Some(0));
    thread::scope(|scope| {
        let started = scope.spawn(|| {
            let delay = ["-e", "trace=renameat2", "-e", "inject=renameat2:delay_enter=500000"];
            straced(&project, &delay, "start -q -j1 --from base w")
        });
        let mut told = 0;
        while !started.is_finished() {
            let run = ends(&project, "drop w");
            let is_told = run.stderr.contains("its start is not finished");
            assert!(
                is_told || run.stderr.contains("no worktree") || run.code == Some(0),
                "{run:?}"
            );
            told += usize::from(is_told);
        }
        let started = started.join().unwrap();
        assert_eq!(started.code, Some(0), "{started:?}");
        println!("{told} drops were told");
    });
    ends(&project, "drop w");
    assert_eq!(ends(&project, "list").stdout, "");
    assert_eq!(ends(&project, "store verify -q").code, Some(0));
}

/// A process that is stopped, or waits for a disk, may have the database for good.
#[test]
fn a_wait_for_the_database_ends_when_it_is_told_to_and_says_who_has_it() {
    const HOLDER: &str = "
import sqlite3, sys
store = sqlite3.connect('.calve/index.db', isolation_level=None)
store.execute('BEGIN IMMEDIATE')
print('held', flush=True)
sys.stdin.read()
";
    let scratch = scratch();
    fs::write(scratch.path().join("file"), "content").unwrap();
    assert_eq!(ends(scratch.path(), "init -q").code, Some(0));
    let mut holder = program("python3", scratch.path());
    holder.args(["-c", HOLDER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut holder) = holder.spawn() else {
        return not_run("a database that somebody has", "needs python3");
    };
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "held\n");
    let who = format!("process {} (python3", holder.id());
    for signal in ["INT", "TERM"] {
        // Where much else runs, it may not wait yet.
        let is_told = [3, 9, 27, 81].iter().any(|seconds| {
            let mut told = program("timeout", scratch.path());
            told.args(["--signal", signal, &seconds.to_string(), env!("CARGO_BIN_EXE_calve")]);
            let told = told.args(["start", "-q", "w"]).output().unwrap();
            println!("{signal} after {seconds} s: {told:?}");
            String::from_utf8_lossy(&told.stderr).contains(&who)
        });
        assert!(is_told, "{signal}");
    }
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(names(scratch.path()), [".calve", "file"]);
    assert_eq!(ends(scratch.path(), "start -q w").code, Some(0));
}

/// Each of two branches at one commit is merged because of the other.
#[test]
fn two_branches_that_are_deleted_at_once_leave_a_reference_to_their_commit() {
    let scratch = scratch();
    let project = scratch.path().join("app");
    fs::create_dir(&project).unwrap();
    let git = |words: &str| {
        let mut git = program("git", &project);
        git.args(["-c", "user.name=n", "-c", "user.email=e"]).args(words.split(' '));
        let run = Run::of(git.output().unwrap(), String::new());
        assert_eq!(run.code, Some(0), "git {words}: {run:?}");
        run.stdout.trim_end().to_owned()
    };
    git("init -q");
    git("commit -q --allow-empty -m one");
    assert_eq!(ends(&project, "init -q").code, Some(0));
    for round in 0..ROUNDS {
        assert_eq!(ends(&project, "start -q a b").code, Some(0), "{round}");
        git(&format!("-C ../app.worktrees/a commit -q --allow-empty -m {round}"));
        git("-C ../app.worktrees/b merge -q --ff-only a");
        let commit = git("rev-parse a");
        let runs = both(&project, ["drop -q --delete-branch a", "drop -q --delete-branch b"]);
        let holders = git(&format!("for-each-ref --contains {commit}"));
        assert!(!holders.is_empty(), "{round}: {runs:?}");
        for name in ["a", "b"] {
            ends(&project, &format!("drop -q --force --discard {name}"));
        }
        for name in
            git("for-each-ref --format=%(refname) refs/heads/a refs/heads/b refs/calve").lines()
        {
            git(&format!("update-ref -d {name}"));
        }
    }
}

#[test]
fn ten_merges_into_one_tree_at_once_leave_every_file_whole_and_every_name_there() {
    const OWN: usize = 30;
    let scratch = scratch();
    let directory = scratch.path();
    for number in 0..10 {
        let source = directory.join(format!("src{number}"));
        // All of them have these, and each has some of its own, in folders that all make.
        many_files(&source, 250, 4000, &format!("source-{number}"));
        fs::create_dir_all(source.join("a/b/c")).unwrap();
        for own in 0..OWN {
            fs::write(source.join(format!("a/b/c/{number}-{own}")), number.to_string()).unwrap();
        }
    }
    for round in 0..3 {
        thread::scope(|scope| {
            for number in 0..10 {
                scope.spawn(move || {
                    let run = ends(
                        directory,
                        &format!("clone -q --existing merge src{number} destination"),
                    );
                    assert_eq!(run.code, Some(0), "{round}, {number}: {run:?}");
                });
            }
        });
        let destination = directory.join("destination");
        assert_eq!(names(&destination), ["a", "d0", "d1", "d2"], "{round}");
        assert_eq!(names(&destination.join("a/b/c")).len(), 10 * OWN, "{round}");
        for number in 0..250 {
            let found = fs::read(destination.join(format!("d{}/f{number}", number / 100))).unwrap();
            let whole =
                (0..10).any(|source| found == content(number, 4000, &format!("source-{source}")));
            assert!(whole, "{round}: file {number} is torn");
        }
        for source in 0..10 {
            for own in 0..OWN {
                let found = fs::read_to_string(destination.join(format!("a/b/c/{source}-{own}")));
                assert_eq!(found.unwrap(), source.to_string(), "{round}");
            }
        }
    }
    assert!(names(directory).iter().all(|name| !name.starts_with('.')), "{:?}", names(directory));
}

/// The clone is compared with its source, which has another length by then.
#[test]
fn a_file_that_is_emptied_and_rewritten_meanwhile_never_fails_a_clone() {
    if !expects_reflink() {
        return not_run("clones of a file that is rewritten", "nothing is cloned here");
    }
    let scratch = scratch();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::write(source.join("file"), vec![b'x'; 100_000]).unwrap();
            }
        });
        for turn in 0..30 {
            let run = ends(scratch.path(), &format!("clone --reflink always source copy{turn}"));
            if run.code != Some(0) {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(run.code, Some(0), "{run:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

//! Kills commands at any moment. The destination is whole or absent (or the old one, or in a merge
//! made of whole files), and the next run sweeps the rest.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::tree::{content, many_files};
use crate::{
    Random, calve, calve_command, can_strace, expects_reflink, filesystem, names, not_run, program,
    pushed, scratch, share, shared, straced,
};

const FILES: usize = 1500;
const SIZE: usize = 2000;

/// The moments are the same in every run, as parts of the time that a run takes.
const SEED: u64 = 0x0ca1_7e5e_ed00_0001;

/// The trees of [`many_files`] that a path holds: for each word the number of its files, all of
/// them whole.
fn words_below(root: &Path) -> Result<BTreeMap<String, usize>, String> {
    let mut words = BTreeMap::new();
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).map_err(|error| error.to_string())? {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.file_name().unwrap().to_string_lossy().starts_with(".calve-") {
                    left.push(path);
                }
                continue;
            }
            let number = path.file_name().unwrap().to_string_lossy()[1..].parse().unwrap();
            let found = fs::read(&path).unwrap();
            let word =
                String::from_utf8_lossy(&found).split(' ').next().unwrap_or_default().to_owned();
            if found != content(number, SIZE, &word) {
                return Err(format!("{path:?} is torn: {} bytes", found.len()));
            }
            *words.entry(word).or_default() += 1;
        }
    }
    Ok(words)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fresh,
    Replace,
    Merge,
}

impl Kind {
    fn words(self, source: &str) -> String {
        match self {
            Self::Fresh => format!("clone {source} dst"),
            Self::Replace => format!("clone --existing replace {source} dst"),
            Self::Merge => format!("clone --existing merge {source} dst"),
        }
    }

    /// What `dst` may hold: files of the tree that was there and of the one that comes.
    fn allows(self, old: usize, new: usize) -> bool {
        match self {
            Self::Fresh => (old, new) == (0, FILES),
            Self::Replace => (old, new) == (FILES, 0) || (old, new) == (0, FILES),
            Self::Merge => old + new == FILES,
        }
    }
}

pub(super) fn is_stage(name: &str) -> bool {
    name.starts_with(".calve-")
}

fn kill_and_look(signal: Signal, kind: Kind, kills: usize) {
    let scratch = scratch();
    let directory = scratch.path();
    let destination = directory.join("dst");
    // Each is cloned over the other in turns.
    let mut sources = ["one", "two"];
    for word in sources {
        many_files(&directory.join(word), FILES, SIZE, word);
    }
    let seed = SEED + share().0 as u64;
    println!("{signal:?} {kind:?}: seed {seed:#x}");
    let whole_run = |source: &str| {
        let started = Instant::now();
        let run = calve(directory, &kind.words(source));
        assert_eq!(run.code, Some(0), "{run:?}");
        started.elapsed()
    };
    let remove = || fs::remove_dir_all(&destination).unwrap();
    let (mut cut_short, mut left_a_stage) = (0, 0);
    whole_run(sources[0]);
    if kind == Kind::Fresh {
        remove();
    }
    let mut moments = Moments::new(seed, whole_run(sources[0]));
    for kill in 0..kills {
        if kind == Kind::Fresh {
            remove();
        }
        sources.reverse();
        let [new, old] = sources;
        let mut command: Command = calve_command(directory, &kind.words(new));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (status, moment) = moments.kill(&mut command.spawn().unwrap(), signal);
        let context = format!("{signal:?} {kind:?} {kill}, {moment}: {status}");

        let inside = if destination.is_dir() { names(&destination) } else { Vec::new() };
        let stage = names(directory).iter().chain(&inside).any(|name| is_stage(name));
        left_a_stage += usize::from(stage);
        cut_short += usize::from(status.code() != Some(0));
        if signal == Signal::INT {
            // Before the handler is set up, the signal ends the process. Nothing was begun then.
            let code = status.code().or(status.signal().map(|signal| 128 + signal));
            assert!(matches!(code, Some(0 | 130)), "{context}");
            assert!(!stage, "a stage was left: {context}");
        }
        if destination.is_dir() {
            let words =
                words_below(&destination).unwrap_or_else(|torn| panic!("{torn}: {context}"));
            let count = |word: &str| words.get(word).copied().unwrap_or(0);
            assert!(kind.allows(count(old), count(new)), "{words:?}: {context}");
        } else {
            assert_eq!(kind, Kind::Fresh, "the destination is gone: {context}");
        }

        // The next run succeeds, and sweeps.
        if kind == Kind::Fresh && destination.is_dir() {
            remove();
        }
        whole_run(new);
        assert_eq!(names(directory), ["dst", "one", "two"], "{context}");
        assert!(!names(&destination).iter().any(|name| is_stage(name)), "{context}");
        if kill % 5 == 0 {
            assert_eq!(
                words_below(&destination).unwrap(),
                BTreeMap::from([(new.to_owned(), FILES)]),
                "{context}"
            );
        }
    }
    println!(
        "{signal:?} {kind:?}: {kills} kills, {cut_short} before the end, {left_a_stage} left a stage"
    );
    assert!(cut_short * 3 >= kills, "only {cut_short} of {kills} came before the end");
}

/// Fewer where a clone is a copy and takes its time.
fn kills(most: usize) -> usize {
    shared(if expects_reflink() { most } else { most / 3 })
}

#[test]
fn a_clone_that_is_killed_leaves_its_destination_whole_or_absent_and_the_next_run_sweeps() {
    kill_and_look(Signal::KILL, Kind::Fresh, kills(50));
}

#[test]
fn a_replacement_that_is_killed_leaves_the_old_tree_or_the_new_one() {
    kill_and_look(Signal::KILL, Kind::Replace, kills(30));
}

#[test]
fn a_merge_that_is_killed_leaves_only_whole_files() {
    kill_and_look(Signal::KILL, Kind::Merge, kills(30));
}

#[test]
fn a_clone_that_is_interrupted_leaves_nothing_behind() {
    kill_and_look(Signal::INT, Kind::Fresh, kills(50));
}

#[test]
fn a_replacement_that_is_interrupted_leaves_the_old_tree_or_the_new_one_and_nothing_else() {
    kill_and_look(Signal::INT, Kind::Replace, kills(30));
}

#[test]
fn a_merge_that_is_interrupted_leaves_only_whole_files_and_no_stage() {
    kill_and_look(Signal::INT, Kind::Merge, kills(30));
}

#[test]
fn a_checkout_that_is_killed_leaves_a_whole_project_or_none_and_the_next_one_sweeps() {
    // Fewer might all come too late.
    let kills = shared(20).max(8);
    let scratch = scratch();
    let directory = scratch.path();
    let (source, destination) = (directory.join("src"), directory.join("dst"));
    many_files(&source, FILES, SIZE, "new");
    let url = pushed(directory, &source);
    let words = format!("checkout {url} ready dst");
    let mut moments: Option<Moments> = None;
    let (mut cut_short, mut left_a_stage) = (0, 0);
    for kill in 0..=kills {
        if let Some(moments) = &mut moments {
            cut_short += usize::from(killed(directory, &words, moments));
            left_a_stage += usize::from(names(directory).iter().any(|name| is_stage(name)));
            if destination.is_dir() {
                let status = calve(&destination, "status");
                assert_eq!(status.code, Some(0), "kill {kill}: {status:?}");
                fs::remove_dir_all(&destination).unwrap();
            }
        }
        let started = Instant::now();
        let run = calve(directory, &words);
        assert_eq!(run.code, Some(0), "kill {kill}: {run:?}");
        moments.get_or_insert(Moments::new(SEED, started.elapsed()));
        assert_eq!(names(directory), ["dst", "remote", "src"], "kill {kill}");
        fs::rename(destination.join(".calve"), directory.join("aside")).unwrap();
        let found = words_below(&destination).unwrap_or_else(|torn| panic!("{torn}: kill {kill}"));
        assert_eq!(found, BTreeMap::from([("new".to_owned(), FILES)]), "kill {kill}");
        fs::remove_dir_all(directory.join("aside")).unwrap();
        fs::remove_dir_all(&destination).unwrap();
    }
    println!("{kills} kills, {cut_short} before the end, {left_a_stage} left a stage");
    assert!(left_a_stage > 0, "no kill came in time");
}

/// Files cannot be renamed from the stage to another device. There calve stages them beside their
/// places.
#[test]
fn a_merge_into_another_subvolume_that_is_killed_leaves_nothing_that_the_next_run_does_not_sweep() {
    if filesystem() != "btrfs" {
        return;
    }
    let scratch = scratch();
    let directory = scratch.path();
    fs::create_dir_all(directory.join("src/all")).unwrap();
    for number in 0..FILES {
        fs::write(directory.join(format!("src/all/f{number}")), content(number, SIZE, "new"))
            .unwrap();
    }
    fs::create_dir(directory.join("dst")).unwrap();
    let made = Command::new("btrfs")
        .args(["-q", "subvolume", "create"])
        .arg(directory.join("dst/all"))
        .output();
    if !made.as_ref().is_ok_and(|made| made.status.success()) {
        return not_run("killing a merge into a subvolume", &format!("{made:?}"));
    }
    let mut moments = Moments::new(SEED, Duration::from_millis(65));
    let mut left = 0;
    for kill in 0..15 {
        killed(directory, "clone -q --existing merge src dst", &mut moments);
        left += usize::from(names(&directory.join("dst/all")).iter().any(|name| is_stage(name)));
        let next = calve(directory, "clone --existing merge src dst");
        assert_eq!(next.code, Some(0), "{next:?}");
        assert!(
            !names(&directory.join("dst/all")).iter().any(|name| is_stage(name)),
            "kill {kill}"
        );
        assert_eq!(words_below(&directory.join("dst")).unwrap()["new"], FILES);
    }
    println!("{left} of 15 kills left files that were on their way");
    assert!(left > 0, "no kill came in time");
}

/// A start that a power cut ended counted as unfinished for ever, and kept its name. Later it kept
/// its name for a minute. A maker in another boot is dead. calve cannot know anything about one in
/// another container.
#[test]
fn a_start_of_another_boot_frees_its_name_at_once_and_one_of_another_container_in_a_minute() {
    const ROW: &str = "\
import os, sqlite3, sys
db = sqlite3.connect('.calve/index.db')
path = os.path.abspath('../app.worktrees/w').encode()
boot = db.execute(\"SELECT maker FROM worktrees WHERE name = 'mine'\").fetchone()[0][13:21]
maker = '.calve-stage-' + ('a5a5a5a5' if sys.argv[2] == 'boot' else boot) + '000000ff-1-1-0'
db.execute(\"\"\"INSERT INTO worktrees (name, token, path, snapshot, state, target, maker, created) SELECT 'w', 'ab12', ?, snapshot, 0, NULL, ?, strftime('%s') - ?
    FROM worktrees WHERE name = '.'\"\"\", (path, maker, int(sys.argv[1])))
db.commit()
";
    let scratch = scratch();
    let app = scratch.path().join("app");
    many_files(&app, 3, 100, "content");
    for words in ["init", "snapshot one", "start mine"] {
        assert_eq!(calve(&app, words).code, Some(0));
    }
    let rows =
        [("1", "container", 1), ("100", "container", 0), ("1", "boot", 0), ("100", "boot", 0)];
    for (age, other, code) in rows {
        let row = program("python3", &app).args(["-c", ROW, age, other]).output();
        if !row.as_ref().is_ok_and(|row| row.status.success()) {
            return not_run("a start in another boot", &format!("python3: {row:?}"));
        }
        let run = calve(&app, "start w --from one");
        assert_eq!(run.code, Some(code), "{age} seconds, another {other}: {run:?}");
        assert_eq!(calve(&app, "drop w").code, Some(0), "{age} seconds, another {other}");
    }
}

/// Fails unless every script of the environment in this folder names the folder, and `RECORD` is
/// true.
const ENVIRONMENT_IS_OWN: &str = "\
import base64, hashlib, os, sys
root, packages = os.getcwd(), '.venv/lib/python3.12/site-packages'
for line in open(f'{packages}/app-1.dist-info/RECORD').read().splitlines():
    name, digest, size = line.rsplit(',', 2)
    data = open(f'{packages}/{name}', 'rb').read()
    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')
    assert data.startswith(b'#!' + root.encode() + b'/.venv/bin/python\\n'), (name, data)
    assert (digest, size) == ('sha256=' + found, str(len(data))), (name, 'RECORD')
";

/// Makes an environment with this many scripts in the folder.
const ENVIRONMENT: &str = "\
import base64, hashlib, os, sys
root, packages = os.getcwd(), '.venv/lib/python3.12/site-packages'
os.makedirs(f'{packages}/app-1.dist-info'); os.makedirs('.venv/bin')
open('.venv/pyvenv.cfg', 'w').write('home = /usr/bin\\n')
lines = []
for number in range(int(sys.argv[1])):
    data = f'#!{root}/.venv/bin/python\\nprint({number})\\n'.encode()
    open(f'.venv/bin/tool{number}', 'wb').write(data)
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')
    lines.append(f'../../../bin/tool{number},sha256={digest},{len(data)}\\n')
open(f'{packages}/app-1.dist-info/RECORD', 'w').write(''.join(lines))
";

/// When to kill what takes about so long.
struct Moments {
    random: Random,
    usual: Duration,
}

impl Moments {
    fn new(seed: u64, usual: Duration) -> Self {
        Self { random: Random(seed), usual }
    }

    /// Kills a process at some part of the time that it usually takes, and says how it ended and
    /// when that was. How long it takes depends on what else the machine does: after a kill that
    /// came too late the next comes sooner, so that about two thirds come in time.
    fn kill(&mut self, child: &mut Child, signal: Signal) -> (ExitStatus, String) {
        let part = self.random.below(1000);
        let moment = format!("at {part}/1000 of {:?}", self.usual);
        std::thread::sleep(self.usual.mul_f64(part as f64 / 1000.0));
        let _ = kill_process(Pid::from_child(child), signal);
        let status = child.wait().unwrap();
        self.usual = self.usual.mul_f64(if status.code() == Some(0) { 0.8 } else { 1.1 });
        (status, moment)
    }
}

/// Runs a command that is killed. Whether that came before its end.
fn killed(directory: &Path, words: &str, moments: &mut Moments) -> bool {
    let mut command = calve_command(directory, words);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    moments.kill(&mut command.spawn().unwrap(), Signal::KILL).0.code().is_none()
}

/// Between a killed command and the next one, files of a worktree that was moved may name either
/// place.
#[test]
fn a_start_or_the_first_command_after_a_move_that_is_killed_leaves_no_environment_of_another_place()
{
    const KILLS: usize = 15;
    let scratch = scratch();
    let (app, trees) = (scratch.path().join("app"), scratch.path().join("app.worktrees"));
    fs::create_dir(&app).unwrap();
    let python = |script: &str, at: &Path| {
        let run = program("python3", at).args(["-c", script, "150"]).output();
        run.map_err(|error| error.to_string()).and_then(|run| match run.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&run.stderr).into_owned()),
        })
    };
    if let Err(why) = python(ENVIRONMENT, &app) {
        return not_run("killing what gives a worktree its own paths", &why);
    }
    let done = |directory: &Path, words: &str, context: &str| {
        let run = calve(directory, words);
        assert_eq!(run.code, Some(0), "{context}: {words}: {run:?}");
    };
    let is_own = |at: &Path, context: &str| {
        python(ENVIRONMENT_IS_OWN, at).unwrap_or_else(|why| panic!("{context}: {at:?}: {why}"));
        done(at, "status", context);
    };
    let (mut starts, mut moves) = (0, 0);
    done(&app, "init", "");
    let begun = Instant::now();
    done(&app, "start one", "");
    let mut moments = Moments::new(SEED, begun.elapsed());
    is_own(&trees.join("one"), "the first");
    for kill in 0..KILLS {
        let context = format!("start {kill}");
        starts += usize::from(killed(&app, "start two", &mut moments));
        if trees.join("two").is_dir() {
            is_own(&trees.join("two"), &context);
            done(&app, "drop --force two", &context);
        }
        done(&app, "list", &context);
        let made: Vec<String> = names(&trees).into_iter().filter(|name| !is_stage(name)).collect();
        assert_eq!(made, ["one"], "{context}");
    }
    done(&app, "start two", "the next start sweeps");
    assert_eq!(names(&trees), ["one", "two"]);
    let mut at = trees.join("one");
    for kill in 0..KILLS {
        let context = format!("move {kill}");
        let to = trees.join(format!("place-{}", "x".repeat(1 + kill % 7)));
        fs::rename(&at, &to).unwrap();
        at = to;
        // The first whole run tells how long one takes.
        if kill == 0 {
            let begun = Instant::now();
            done(&at, "status", &context);
            moments = Moments::new(SEED, begun.elapsed());
        } else {
            moves += usize::from(killed(&at, "status", &mut moments));
        }
        // It may be moved once more before a command goes on.
        if kill % 2 == 1 {
            continue;
        }
        done(&at, "status", &context);
        is_own(&at, &context);
    }
    println!("{starts} starts and {moves} moves were killed");
    assert!(starts * 3 >= KILLS && moves * 3 >= KILLS, "{starts}, {moves}: too few came in time");
}

/// A fill that was killed has made the first names of files, and not all of the further ones.
#[test]
fn a_fill_that_is_killed_among_hard_links_is_brought_to_its_end_by_the_next_one() {
    if !can_strace("a fill that is killed among hard links") {
        return;
    }
    let scratch = scratch();
    let app = scratch.path().join("app");
    let sh = |script: &str| {
        let run = program("sh", &app).args(["-ec", script]).output().unwrap();
        assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    };
    fs::create_dir(&app).unwrap();
    sh("git init -q; mkdir -p target/d; echo one >target/d/1; ln target/d/1 target/d/hard
        ln target/d/1 target/d/third; : >target/empty; ln target/empty target/none
        ln -s d target/link; ln -P target/link target/twin; echo target >.gitignore
        touch -d @1700000000 target/d target
        git add .; git -c user.name=n -c user.email=m commit -qm 1");
    let mut killed = 0;
    for number in 1..=4 {
        sh("rm -rf ../w; git worktree prune; git worktree add -q --detach ../w");
        let inject = format!("inject=linkat:signal=KILL:when={number}");
        let run = straced(&app, &["-e", "trace=linkat", "-e", &inject], "fill -j1 ../w");
        killed += usize::from(run.code != Some(0));
        let next = calve(&app, "fill ../w");
        assert_eq!(next.code, Some(0), "linkat {number}: {next:?}");
        let meta = |path: &str| fs::symlink_metadata(app.join("../w/target").join(path)).unwrap();
        for (names, first) in
            [(&["d/hard", "d/third"][..], "d/1"), (&["none"], "empty"), (&["twin"], "link")]
        {
            let all = names.iter().all(|name| meta(name).ino() == meta(first).ino());
            assert!(all, "linkat {number}: {first} is not {names:?}");
        }
        assert_eq!(fs::read(app.join("../w/target/d/third")).unwrap(), b"one\n");
        for folder in ["", "d"] {
            assert_eq!(meta(folder).mtime(), 1_700_000_000, "linkat {number}: {folder:?}");
        }
    }
    assert!(killed > 2, "only {killed} were killed");
}

/// The names of a file go aside one after the other.
#[test]
fn a_forced_switch_that_is_killed_among_hard_links_is_finished_by_the_same_command() {
    if !can_strace("a restore that is killed among hard links") {
        return;
    }
    let scratch = scratch();
    let app = scratch.path().join("app");
    fs::create_dir_all(app.join("b")).unwrap();
    let done = |words: &str, context: &str| {
        let run = calve(&app, words);
        assert_eq!(run.code, Some(0), "{context}: {words}: {run:?}");
    };
    fs::write(app.join("big"), vec![b'x'; 100_000]).unwrap();
    fs::hard_link(app.join("big"), app.join("b/too")).unwrap();
    for words in ["init -q", "snapshot -q one"] {
        done(words, "before");
    }
    fs::write(app.join("big"), "changed").unwrap();
    done("snapshot -q two", "before");
    let tree = scratch.path().join("app.worktrees/w");
    let mut killed = 0;
    for call in ["renameat", "renameat2", "linkat", "unlinkat"] {
        for number in 1..=6 {
            let context = format!("{call} {number}");
            done("start -q --from one w", &context);
            fs::write(tree.join("big"), "work").unwrap();
            let (trace, inject) =
                (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
            let words = "restore -q -j1 two w";
            let run = straced(&app, &["-e", &trace, "-e", &inject], words);
            killed += usize::from(run.code != Some(0));
            done("restore -q two w", &context);
            for name in ["big", "b/too"] {
                assert_eq!(fs::read(tree.join(name)).unwrap(), b"changed", "{context}: {name}");
            }
            done("status w", &context);
            done("drop --force w", &context);
        }
    }
    assert!(killed > 4, "only {killed} were killed");
}

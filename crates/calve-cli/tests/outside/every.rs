//! Makes every call that changes files, of every command, fail once, or kills the process at it.
//!
//! A run without a fault lists the calls. strace counts `when=` for each thread separately. So the
//! test identifies a call by its number in its thread: among all calls of its name, or among those
//! that name the same file. It takes the number that hits no earlier call of another thread. With
//! `-j 1` there is one worker beside the main thread. So the test does not cover calls that only
//! happen between several workers. It also leaves out the few calls that no such number identifies,
//! and counts them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::calls::{Ends, Setting, judge};
use crate::killed::is_stage;
use crate::tree::{State, one_of_everything, remove_tree, state};
use crate::{
    Random, Run, asks_a_terminal, calve, calve_command, can_strace, expects_reflink, names,
    scratch, share, shared, straced,
};

/// How many faults of each command all shares together try where `CALVE_FAULTS` does not say.
const SAMPLE: usize = 8;

/// Every run of a share tries the same faults, and other ones than the other shares.
fn seed() -> u64 {
    0x0ca1_7e5e_ed00_0001 + share().0 as u64
}

/// After this many faults the test makes the world again. Otherwise there would be ever more
/// snapshots and packs.
const WORN_OUT: usize = 40;

/// Calls that change files, or that acquire or release what this needs.
const CHANGING: &[&str] = &[
    "chmod",
    "close",
    "copy_file_range",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fcntl",
    "fdatasync",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fsync",
    "ftruncate",
    "ioctl",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknodat",
    "mmap",
    "open",
    "openat",
    "openat2",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "symlinkat",
    "syncfs",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
];

/// Calls that only look.
const READING: &[&str] = &[
    "fgetxattr",
    "flistxattr",
    "fstat",
    "getdents64",
    "lseek",
    "newfstatat",
    "pread64",
    "read",
    "readlink",
    "readlinkat",
    "statx",
];

/// A call of the run without a fault, and how strace finds it again.
#[derive(Debug, Clone)]
struct Call {
    name: String,
    arguments: String,
    /// Its number among the calls of this name in its thread: among all of them, or among those
    /// that name this path.
    when: usize,
    path: Option<String>,
}

impl Call {
    fn errnos(&self) -> Vec<&'static str> {
        let mut errnos = match self.name.as_str() {
            "close" => vec!["EIO", "ENOSPC", "EDQUOT", "EINTR"],
            "mmap" => vec!["EIO", "EPERM", "EACCES", "ENOMEM"],
            "fcntl" => vec!["EIO", "EPERM", "EACCES", "EINTR", "EMFILE", "ENOMEM"],
            // EPERM is no error here: a file that may not be given away keeps its owner. The fault
            // would also hit other threads.
            "fchown" | "fchownat" => {
                vec!["EIO", "ENOSPC", "EDQUOT", "EACCES", "EINTR", "EMFILE", "ENOMEM"]
            }
            name if READING.contains(&name) => vec!["EIO", "EACCES", "EINTR", "ENOMEM"],
            _ => vec!["EIO", "ENOSPC", "EDQUOT", "EPERM", "EACCES", "EINTR", "EMFILE", "ENOMEM"],
        };
        if self.name == "ioctl" {
            errnos.extend(["EINVAL", "EOPNOTSUPP", "EXDEV", "ETXTBSY", "EAGAIN"]);
        }
        errnos
    }

    /// The name of a fault of this call. SQLite flushes the folder of a new log, and ignores an
    /// error. The filesystems that calve knows flush a new name with its file.
    fn told(&self) -> &str {
        let folder = self.name == "fsync" && self.arguments.contains("/.calve>");
        if folder { "fsync of a folder" } else { &self.name }
    }

    /// Whether a failure of it tests the command: not calls of the loader and the runtime, or on
    /// the standard streams.
    fn counts(&self) -> bool {
        let starts = |start: &str| self.arguments.starts_with(start);
        match self.name.as_str() {
            // These are the checks of the debug build whether a descriptor is open. Also leave out
            // unlocks: no filesystem here fails to release a held lock, and SQLite would then wait
            // five minutes for itself.
            "fcntl" => !["F_GETFD", "F_UNLCK"].iter().any(|word| self.arguments.contains(word)),
            "mmap" => !self.arguments.contains("MAP_ANONYMOUS"),
            "ioctl" => !asks_a_terminal(&self.arguments),
            "write" => !starts("1<") && !starts("2<"),
            name => CHANGING.contains(&name) || READING.contains(&name),
        }
    }
}

fn options(calls: &str, path: Option<&str>) -> Vec<String> {
    let mut options = vec!["-e".to_owned(), format!("trace={calls}")];
    options.extend(path.into_iter().flat_map(|path| ["-P".to_owned(), path.to_owned()]));
    options
}

/// The strings among the arguments of a call that are the same in another run: no random names.
fn paths(arguments: &str) -> impl Iterator<Item = &str> {
    let quoted = arguments.split('"').skip(1).step_by(2);
    quoted.filter(|path| !path.is_empty() && !path.contains([' ', '\\']) && *path != ".")
}

/// The calls in the log of an undisturbed run, and the number of those that cannot be told from
/// earlier ones.
fn calls_of(log: &str) -> (Vec<Call>, usize) {
    // By name and path: how many each thread has made, and how many the thread with the most.
    let mut made: BTreeMap<(String, Option<String>, u32), usize> = BTreeMap::new();
    let mut most: BTreeMap<(String, Option<String>), usize> = BTreeMap::new();
    let (mut calls, mut hidden) = (Vec::new(), 0);
    let mut begun = false;
    let mut absent = 0;
    for line in log.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, rest)) = rest.trim_start().split_once('(') else { continue };
        // If strace splits a call in two halves, take the first.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        // With this the loader has done its part, and the runtime begins.
        begun |= name == "poll";
        let thread: u32 = thread.parse().unwrap();
        let mut found = None;
        let all = std::iter::once(None).chain(paths(rest).map(Some));
        for path in all {
            let key = (name.to_owned(), path.map(str::to_owned));
            let mine = made.entry((key.0.clone(), key.1.clone(), thread)).or_default();
            *mine += 1;
            let others = most.entry(key).or_default();
            if *mine > *others {
                *others = *mine;
                found = found.or(Some((*mine, path.map(str::to_owned))));
            }
        }
        // The command looks for 256 folders, and almost none of them exist.
        absent = if rest.contains("ENOENT") { absent + 1 } else { 0 };
        let (when, path) = found.clone().unwrap_or_default();
        let call = Call { name: name.to_owned(), arguments: rest.to_owned(), when, path };
        if begun && absent <= 3 && call.counts() {
            match found {
                Some(_) => calls.push(call),
                None => hidden += 1,
            }
        }
    }
    (calls, hidden)
}

/// How many faults are asked for.
fn wanted() -> usize {
    match std::env::var("CALVE_FAULTS").as_deref() {
        Err(_) => shared(SAMPLE),
        Ok("all") => usize::MAX,
        Ok(number) => number.parse().unwrap_or_else(|_| panic!("CALVE_FAULTS is {number:?}")),
    }
}

/// `most` of `rows`, as many of each kind of call as there are.
fn sample(rows: Vec<(Call, &'static str)>, most: usize) -> Vec<(Call, &'static str)> {
    if rows.len() <= most {
        return rows;
    }
    let mut random = Random(seed());
    let mut kinds: BTreeMap<String, Vec<(Call, &'static str)>> = BTreeMap::new();
    for row in rows {
        kinds.entry(row.0.name.clone()).or_default().push(row);
    }
    let mut taken = Vec::new();
    while taken.len() < most {
        for rows in kinds.values_mut().filter(|rows| !rows.is_empty()) {
            let at = random.below(rows.len().try_into().unwrap());
            taken.push(rows.swap_remove(at.try_into().unwrap()));
        }
    }
    taken.truncate(most);
    taken
}

/// A log without the lines that have `word`.
fn without(log: &str, word: &str) -> String {
    let kept: Vec<&str> = log.lines().filter(|line| !line.contains(word)).collect();
    kept.join("\n")
}

/// A command, and the project that it runs on again and again.
pub(super) trait Scene {
    fn title(&self) -> String;
    fn words(&self) -> &'static str;
    /// The folder in which it runs.
    fn directory(&self) -> PathBuf;
    /// Makes the whole project again.
    fn renew(&mut self);
    /// Prepares the state that the command runs on. `number` is a new number each time.
    fn prepare(&mut self, number: usize);
    /// Notes the result of a run without a fault.
    fn learn(&mut self) {}
    /// Whether the test keeps the command from starting its background processes.
    fn is_alone(&self) -> bool {
        false
    }
    /// Whether the command starts processes. Then the test makes no `close` fail. On Linux a
    /// `close` that fails has closed the descriptor, but one that strace answers has not. A process
    /// that starts another one learns of a failed exec through a pipe, and waits for ever if it
    /// cannot close its own end of that pipe.
    fn begins_processes(&self) -> bool {
        true
    }
    /// The faults after `run`, and after the same command without the injected fault.
    fn judge(&mut self, fault: Fault<'_>, run: &Run) -> Vec<String>;
}

/// How a run was disturbed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault<'f> {
    /// A call of this name failed with this errno.
    Error(&'f str, &'f str),
    Killed,
}

/// Disturbs the command at each of its calls, or at a part of them if there are too many.
pub(super) fn disturb(mut scene: impl Scene, kill: bool) {
    let title = format!("{}, {}", scene.title(), if kill { "killed" } else { "failing" });
    if !can_strace(&title) {
        return;
    }
    let run_with = |scene: &dyn Scene, options: &[String]| {
        let mut options: Vec<String> = options.to_vec();
        if scene.is_alone() {
            // strace does not touch the call by which it begins the command itself.
            options[1].push_str(",execve");
            if options.iter().any(|option| option == "-P") {
                options.extend(["-P", env!("CARGO_BIN_EXE_calve")].map(str::to_owned));
            }
            options.extend(["-e", "inject=execve:error=ENOENT"].map(str::to_owned));
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut run = straced(&scene.directory(), &options, scene.words());
        run.log = without(&run.log, " execve(");
        run
    };
    scene.prepare(0);
    let every = CHANGING.iter().chain(READING).chain(&["poll"]);
    let traced = every.map(|name| format!("?{name}")).collect::<Vec<_>>().join(",");
    let clean = run_with(&scene, &[options(&traced, None), vec!["-y".to_owned()]].concat());
    assert_eq!(clean.code, Some(0), "{clean:?}");
    scene.learn();
    let (calls, hidden) = calls_of(&clean.log);
    let all = calls.len();
    let changes = |call: &Call| CHANGING.contains(&call.name.as_str());
    let mut rows = Vec::new();
    let can_fail = |call: &Call| call.name != "close" || !scene.begins_processes();
    for call in calls.into_iter().filter(|call| if kill { changes(call) } else { can_fail(call) }) {
        let errnos = if kill { vec!["KILL"] } else { call.errnos() };
        rows.extend(errnos.into_iter().map(|errno| (call.clone(), errno)));
    }
    let faults = rows.len();
    let rows = sample(rows, wanted());
    println!(
        "{title}: {} of {faults} faults at {all} calls, seed {:#x}; {hidden} calls more are hidden",
        rows.len(),
        seed()
    );
    let [mut hit, mut survived, mut failed, mut killed, mut found] = [0; 5];
    let mut worn_out = true;
    for (number, (call, errno)) in rows.iter().enumerate() {
        if worn_out || number % WORN_OUT == 0 {
            scene.renew();
            worn_out = false;
        }
        scene.prepare(number + 1);
        let mut options = options(&call.name, call.path.as_deref());
        let what = if kill { "signal=KILL".to_owned() } else { format!("error={errno}") };
        let inject = format!("inject={}:{what}:when={}", call.name, call.when);
        options.extend(["-e".to_owned(), inject]);
        let run = run_with(&scene, &options);
        hit += usize::from(run.injected() > 0 || run.code.is_none());
        match run.code {
            Some(0) => survived += 1,
            None => killed += 1,
            Some(_) => failed += 1,
        }
        let fault = if kill { Fault::Killed } else { Fault::Error(call.told(), errno) };
        let wrong = scene.judge(fault, &run);
        if !wrong.is_empty() {
            found += 1;
            worn_out = true;
            let injected: Vec<_> =
                run.log.lines().filter(|line| line.contains("INJECTED")).collect();
            println!(
                "FINDING {title}: {errno} of {}({} [{} of {:?}]: exit code {:?}\n    {}\n    {}\n    {}",
                call.name,
                call.arguments,
                call.when,
                call.path,
                run.code,
                wrong.join("\n    "),
                run.stderr.trim(),
                injected.join("\n    "),
            );
        }
    }
    println!(
        "{title}: {} tried, {hit} hit: {survived} survived, {failed} clean errors, {killed} killed; {found} findings",
        rows.len()
    );
    assert_eq!(found, 0, "findings, of {} faults: see above", rows.len());
}

macro_rules! each {
    ($kill:literal: $($name:ident => $scene:expr,)*) => {
        use super::{Clones, disturb};
        use crate::calls::Setting;
        use crate::store_verbs::{Verb, World};
        $(#[test]
        fn $name() {
            disturb($scene, $kill);
        })*
    };
}

macro_rules! every_command {
    ($kill:literal) => {
        each! { $kill:
            clone => Clones::new(Setting::Fresh),
            replace => Clones::new(Setting::Replace),
            merge => Clones::new(Setting::Merge),
            snapshot => World::new(Verb::Snapshot),
            start => World::new(Verb::Start),
            start_from => World::new(Verb::StartFrom),
            capture => World::new(Verb::Capture),
            switch => World::new(Verb::Switch),
            reset => World::new(Verb::Reset),
            undo => World::new(Verb::Undo),
            update => World::new(Verb::Update),
            drop => World::new(Verb::Drop),
            restore => World::new(Verb::Restore),
            pack => World::new(Verb::Pack),
            warm => World::new(Verb::Warm),
            gc => World::new(Verb::Gc),
        }
    };
}

mod whichever_call_fails_nothing_half_is_left_and_the_same_command_succeeds {
    every_command!(false);
}

mod wherever_it_is_killed_nothing_is_torn_and_the_same_command_succeeds {
    every_command!(true);
}

/// Kills it at moments that are the same in every run, as parts of the time that the command takes.
fn kill_at_any_moment(mut scene: impl Scene, most: usize) {
    // Fewer where a clone is a copy and takes its time.
    let kills = shared(if expects_reflink() { most } else { most / 2 });
    let usual = |scene: &mut dyn Scene, number: usize| {
        scene.renew();
        scene.prepare(number);
        let started = Instant::now();
        let run = calve(&scene.directory(), scene.words());
        assert_eq!(run.code, Some(0), "{run:?}");
        started.elapsed()
    };
    let mut random = Random(seed());
    let (mut cut_short, mut found, mut time) = (0, 0, Duration::ZERO);
    // More of them where it was faster each time than it had been before.
    let mut kill = 0;
    while kill < kills || (cut_short == 0 && kill < 10 * kills) {
        if kill % 10 == 0 {
            time = usual(&mut scene, 100 + kill);
            scene.learn();
            scene.renew();
        }
        scene.prepare(kill);
        let part = random.below(1000);
        let mut child = calve_command(&scene.directory(), scene.words())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(time.mul_f64(part as f64 / 1000.0));
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        let status = child.wait().unwrap();
        cut_short += usize::from(status.code().is_none());
        let run = Run { code: status.code(), ..Run::default() };
        let wrong = scene.judge(Fault::Killed, &run);
        if !wrong.is_empty() {
            found += 1;
            println!(
                "FINDING {}, killed at {part}/1000 of {time:?}: {status}\n    {}",
                scene.title(),
                wrong.join("\n    ")
            );
            scene.renew();
        }
        kill += 1;
    }
    println!(
        "{}: {kill} kills, seed {:#x}, {cut_short} before the end; {found} findings",
        scene.title(),
        seed()
    );
    assert_eq!(found, 0, "findings, of {kill} kills: see above");
    assert!(cut_short > 0, "none of {kill} came before the end");
}

mod killed_at_any_moment_nothing_is_torn_and_the_same_command_succeeds {
    use super::kill_at_any_moment;
    use crate::store_verbs::{Verb, World};

    macro_rules! each {
        ($($name:ident => $verb:ident,)*) => {
            $(#[test]
            fn $name() {
                kill_at_any_moment(World::large(Verb::$verb), 6);
            })*
        };
    }

    each! {
        snapshot => Snapshot,
        start => Start,
        start_from => StartFrom,
        capture => Capture,
        switch => Switch,
        reset => Reset,
        undo => Undo,
        update => Update,
        drop => Drop,
        restore => Restore,
        pack => Pack,
        warm => Warm,
        gc => Gc,
    }
}

/// Clones of a tree with one of everything.
struct Clones {
    setting: Setting,
    scratch: TempDir,
    source: State,
    old: Option<State>,
}

impl Clones {
    fn new(setting: Setting) -> Self {
        let scratch = scratch();
        one_of_everything(&scratch.path().join("src"), "content");
        let source = state(&scratch.path().join("src"));
        Self { setting, scratch, source, old: None }
    }

    fn remove_what_was_made(&self) {
        for name in names(self.scratch.path()) {
            if name != "src" {
                remove_tree(&self.scratch.path().join(name));
            }
        }
    }

    /// The faults after a kill.
    fn judge_killed(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let dst = self.scratch.path().join("dst");
        let trees = [Some(&self.source), self.old.as_ref()];
        if !dst.is_dir() {
            if self.old.is_some() {
                wrong.push("what was there is gone".to_owned());
            }
            return wrong;
        }
        let got = state(&dst);
        if self.setting != Setting::Merge {
            if !trees.contains(&Some(&got)) {
                wrong.push("it is neither whole nor what was there".to_owned());
            }
            return wrong;
        }
        for (path, entry) in got.iter().filter(|(path, _)| !is_stage_path(path)) {
            let mut trees = trees.iter().flatten().filter_map(|tree| tree.get(path));
            if !entry.is_dir() && !trees.any(|tree| tree.same_file(entry)) {
                wrong.push(format!("{path:?} is neither the old file nor the new one"));
            }
        }
        wrong
    }
}

impl std::ops::Drop for Clones {
    fn drop(&mut self) {
        remove_tree(self.scratch.path());
    }
}

/// Whether it is a stage, or inside of one.
pub(super) fn is_stage_path(path: &Path) -> bool {
    path.components().any(|part| is_stage(&part.as_os_str().to_string_lossy()))
}

impl Scene for Clones {
    fn title(&self) -> String {
        format!("clone {:?}", self.setting)
    }

    fn words(&self) -> &'static str {
        self.setting.words()
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    fn begins_processes(&self) -> bool {
        false
    }

    fn renew(&mut self) {
        self.remove_what_was_made();
    }

    fn prepare(&mut self, _: usize) {
        self.remove_what_was_made();
        if self.setting.has_old_tree() {
            let dst = self.scratch.path().join("dst");
            one_of_everything(&dst, "old");
            self.old = Some(state(&dst));
        }
    }

    fn judge(&mut self, fault: Fault<'_>, run: &Run) -> Vec<String> {
        let directory = self.scratch.path();
        let mut wrong = match fault {
            Fault::Killed if run.code.is_none() => self.judge_killed(),
            _ => {
                let old = self.old.as_ref();
                let wrong = judge(directory, self.setting, Ends::Told, run, &self.source, old);
                if wrong.is_empty() { Vec::new() } else { vec![wrong] }
            }
        };
        if !self.setting.has_old_tree() && directory.join("dst").is_dir() {
            remove_tree(&directory.join("dst"));
        }
        let again = calve(directory, self.setting.words());
        if again.code != Some(0) {
            wrong.push(format!("the same command without the fault: {again:?}"));
        }
        let left = names(directory);
        if left != ["dst", "src"] || names(&directory.join("dst")).iter().any(|name| is_stage(name))
        {
            wrong.push(format!("after the same without the fault there is {left:?}"));
        }
        wrong
    }
}

//! Tests the built command under conditions that it does not control: faults that the kernel
//! reports (`strace -e inject`), kills at any moment, full or dying disks, and odd files. Also
//! counts its system calls.
//!
//! `CALVE_TEST_DIR` names the folder to work in, and `CALVE_EXPECT` (`reflink` or `copy`) says what
//! its filesystem can do. A test that cannot run here appends the reason to `$CALVE_NOT_RUN`.

#![cfg(target_os = "linux")]

mod asked;
mod budget;
mod calls;
mod descriptors;
mod died;
mod disk;
mod every;
mod faults;
mod filesystems;
mod freed;
mod full;
mod hostile;
mod killed;
mod lies;
mod linked;
mod motion;
mod naming;
mod races;
mod rounds;
mod sandboxes;
#[expect(dead_code, reason = "cli uses the rest of it")]
#[path = "../shown/mod.rs"]
mod shown;
mod store_verbs;
mod tree;
mod volume;
mod wheels;
mod writers;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use std::{fmt, fs};

use rustix::process::{Pid, Signal, kill_process};
use shown::Lines;
use tempfile::TempDir;

/// The result of a run of the command: its end, its streams, and (under strace) the log.
#[derive(Default)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    log: String,
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [stdout, stderr, log] = [&self.stdout, &self.stderr, &self.log].map(|text| Lines(text));
        let code = self.code;
        write!(f, "exit code {code:?}\n  stdout:{stdout:?}\n  stderr:{stderr:?}\n  log:{log:?}")
    }
}

impl Run {
    fn of(output: Output, log: String) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            log,
        }
    }

    /// The JSON document on standard output.
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A count of the only destination.
    #[track_caller]
    fn count(&self, field: &str) -> u64 {
        let destination = &self.json()["destinations"][0];
        let value = match field.strip_prefix("because.") {
            Some(reason) => &destination["copied_because"][reason],
            None => &destination[field],
        };
        value.as_u64().unwrap_or_else(|| panic!("no {field}: {self:?}"))
    }

    /// How often the log has `what`.
    fn logged(&self, what: &str) -> usize {
        self.log.lines().filter(|line| line.contains(what)).count()
    }

    /// How many calls strace answered in the kernel's place, without the questions to a terminal.
    fn injected(&self) -> usize {
        self.log
            .lines()
            .filter(|line| line.contains("(INJECTED)") && !asks_a_terminal(line))
            .count()
    }
}

/// Whether a call asks whether something is a terminal, or how wide it is.
fn asks_a_terminal(call: &str) -> bool {
    call.contains("TCGETS") || call.contains("TIOCGWINSZ")
}

/// A command in `directory`, without settings that would change its output.
fn program(name: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(directory).stdin(Stdio::null());
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_BACKTRACE"] {
        command.env_remove(variable);
    }
    command
}

/// The command; `words` are its arguments, split at spaces.
fn calve_command(directory: &Path, words: &str) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_calve"), directory);
    command.args(words.split_whitespace());
    command
}

fn calve(directory: &Path, words: &str) -> Run {
    Run::of(output(calve_command(directory, words)), String::new())
}

/// Longer than the five minutes that a command waits for another one.
const STUCK: Duration = Duration::from_secs(400);

/// Runs a command and returns what it printed. If it does not end, the test kills it and says what
/// each of its processes waited for. Otherwise the whole suite would wait, and say nothing.
#[track_caller]
fn output(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    told.recv_timeout(STUCK).unwrap_or_else(|_| panic!("stuck:\n{}", put_down(id))).unwrap()
}

/// Kills a process and its descendants, and says what each was doing. It kills the newest first: if
/// strace ended first, the process that it holds would run on.
fn put_down(id: u32) -> String {
    let text = |id: u32, name: &str| {
        let bytes = fs::read(format!("/proc/{id}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let mut all = vec![id];
    let mut next = 0;
    while next < all.len() {
        let threads = fs::read_dir(format!("/proc/{}/task", all[next])).into_iter().flatten();
        for thread in threads.flatten().map(|thread| thread.path()) {
            let children = fs::read_to_string(thread.join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().map(|id| id.parse::<u32>().unwrap()));
        }
        next += 1;
    }
    let mut lines = Vec::new();
    for id in all.into_iter().rev() {
        lines.push(format!(
            "{id} {}: {}\n{}",
            text(id, "cmdline"),
            text(id, "syscall"),
            text(id, "stack")
        ));
        if let Some(process) = Pid::from_raw(id.cast_signed()) {
            let _ = kill_process(process, Signal::KILL);
        }
    }
    lines.join("\n")
}

/// Runs the command under strace. `options` must name the traced calls: with `--seccomp-bpf` strace
/// stops for no others. To send a signal at a call, strace 6.1 must stop for all calls, because
/// with `--seccomp-bpf` it sends the signal only at the first.
fn straced(directory: &Path, options: &[&str], words: &str) -> Run {
    // The log is not on the filesystem under test, where it would be one more thing left behind.
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = program("strace", directory);
    let stops = options.iter().any(|option| option.contains(":signal="));
    command.args(["-f", "-qq"]).args((!stops).then_some("--seccomp-bpf"));
    command.arg("-o").arg(log.path()).args(options);
    command.arg("--").arg(env!("CARGO_BIN_EXE_calve")).args(words.split_whitespace());
    let output = output(command);
    let log = fs::read(log.path()).unwrap();
    Run::of(output, String::from_utf8_lossy(&log).into_owned())
}

/// Whether strace works here; if not, notes that `test` was not run.
fn can_strace(test: &str) -> bool {
    static WHY_NOT: OnceLock<Option<String>> = OnceLock::new();
    let why = WHY_NOT.get_or_init(|| {
        if cfg!(calve_check) {
            return Some("the checking build makes calls of its own".to_owned());
        }
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "--seccomp-bpf",
            "-e",
            "trace=getcwd",
            "-e",
            "inject=getcwd:error=EIO",
            "true",
        ]);
        match command.output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ")),
            Err(error) => Some(error.to_string()),
        }
    });
    match why {
        Some(why) => {
            not_run(test, &format!("strace: {why}"));
            false
        }
        None => true,
    }
}

/// Makes a remote in `directory`, and pushes the project there as `ready`. Returns the remote's
/// URL.
fn pushed(directory: &Path, project: &Path) -> String {
    fs::create_dir(directory.join("remote")).unwrap();
    let url = format!("file://{}", directory.join("remote").to_str().unwrap());
    for words in [
        "init".to_owned(),
        format!("remote init {url}"),
        format!("remote add team {url}"),
        "snapshot ready".to_owned(),
        "push ready".to_owned(),
    ] {
        let run = calve(project, &words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    url
}

/// Notes that a test could not run here; the runner counts these.
fn not_run(test: &str, why: &str) {
    let line = format!("NOT RUN: {test}: {why}\n");
    match std::env::var_os("CALVE_NOT_RUN") {
        Some(path) => {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        None => print!("{line}"),
    }
}

/// Which share of many like faults this run tries, and how many shares there are: `2/3` in
/// `CALVE_SHARE`, which scripts/fs-matrix sets, so that its filesystems try all of them together.
/// One run alone tries all.
fn share() -> (usize, usize) {
    let Ok(share) = std::env::var("CALVE_SHARE") else { return (1, 1) };
    let (number, of) = share.split_once('/').expect("CALVE_SHARE is not NUMBER/OF");
    let (number, of) = (number.parse().unwrap(), of.parse().unwrap());
    assert!((1..=of).contains(&number), "CALVE_SHARE is {share}");
    (number, of)
}

/// Whether a fault is in this run's share. Faults of one kind are numbered one after the other.
fn is_shared(fault: usize) -> bool {
    let (number, of) = share();
    fault % of == number % of
}

/// How many of `all` random faults are this run's share.
fn shared(all: usize) -> usize {
    all.div_ceil(share().1)
}

/// An empty directory on the filesystem under test.
fn scratch() -> TempDir {
    match std::env::var_os("CALVE_TEST_DIR") {
        Some(directory) => tempfile::tempdir_in(directory).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}

/// Whether the filesystem under test can reflink: from the environment, or else from a test by the
/// command.
fn expects_reflink() -> bool {
    static REFLINK: OnceLock<bool> = OnceLock::new();
    *REFLINK.get_or_init(|| match std::env::var("CALVE_EXPECT").as_deref() {
        Ok("reflink") => true,
        Ok("copy") => false,
        Ok(other) => panic!("CALVE_EXPECT is {other:?}"),
        Err(_) => calve(scratch().path(), "doctor --json .").code == Some(0),
    })
}

/// The name of the filesystem under test, where it is known.
fn filesystem() -> String {
    std::env::var("CALVE_FS").unwrap_or_default()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// xorshift64*.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// A random number below `count`.
    fn one_of(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).unwrap()
    }
}

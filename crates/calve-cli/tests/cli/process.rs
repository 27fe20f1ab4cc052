//! Tests how the process reacts to signals and limits.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Run, listing, plant, scratch, with_source};

/// A shell that sets a limit or a signal, and then becomes the command.
fn after(shell: &str, directory: &Path, words: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}; exec \"$CALVE\" {words}")]);
    command.env("CALVE", env!("CARGO_BIN_EXE_calve")).env_remove("NO_COLOR").current_dir(directory);
    command
}

#[test]
fn a_file_past_the_size_limit_is_an_error_and_not_death_by_signal() {
    let scratch = with_source();
    fs::write(scratch.path().join("src/big"), vec![b'x'; 3_000_000]).unwrap();
    let before = listing(scratch.path());
    let run = crate::run(after("ulimit -f 8", scratch.path(), "clone --reflink never src dst"));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("EFBIG"), "{run:?}");
    assert_eq!(listing(scratch.path()), before);
}

/// Enough work that a signal comes in the middle of it.
fn with_much_to_do() -> TempDir {
    let scratch = scratch();
    for number in 0..3000 {
        let name = format!("src/{}/{number}", number % 30);
        plant(scratch.path(), &[(&name, "some content")]);
    }
    scratch
}

fn wait_for_work(scratch: &Path) {
    let started = std::time::Instant::now();
    while fs::read_dir(scratch).unwrap().count() < 2 {
        assert!(started.elapsed().as_secs() < 30, "nothing was begun");
        std::thread::yield_now();
    }
}

/// Under `nohup` this process ignores SIGHUP, and its children would too. A handler here means the
/// default action in them; it does nothing, so that `nohup` keeps its meaning for the tests.
fn have_children_not_ignore(signal: Signal) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    if ignored & (1 << (signal.as_raw() - 1)) != 0 {
        signal_hook::flag::register(signal.as_raw(), Arc::default()).unwrap();
    }
}

#[test]
fn a_signal_cancels_leaves_nothing_behind_and_is_told_by_the_exit_code() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        have_children_not_ignore(signal);
        let scratch = with_much_to_do();
        let mut command =
            crate::command(scratch.path(), ["clone", "--json", "-n", "30", "src", "dst"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_for_work(scratch.path());
        kill_process(Pid::from_child(&child), signal).unwrap();
        let run = Run::from(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(code), "{run:?}");
        assert!(run.stderr.starts_with("error: cancelled: clone "), "{run:?}");
        assert_eq!(run.json()["error"]["kind"], "cancelled");
        let left: Vec<_> =
            fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["src"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_was_ignored_from_the_start_stays_ignored() {
    let scratch = with_much_to_do();
    let mut command = after("trap '' HUP", scratch.path(), "clone -n 5 src dst");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for_work(scratch.path());
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
}

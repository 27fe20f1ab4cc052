//! Compares calve with cp, xcp and rsync on one tree and one filesystem; with `--worktrees`, its store with git's worktrees.
//!
//! The tools take turns (A B C A B C …), so that a slow minute of the machine hits all of them. Before
//! each run the filesystem is flushed; each copy is removed after its run, outside the timing. What a
//! tool leaves in the page cache is not part of its time, but the flush after it is measured apart.

#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod sample;
#[cfg(target_os = "linux")]
mod tools;
#[cfg(target_os = "linux")]
mod worktrees;

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    match run::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("bench: measures on Linux only");
    ExitCode::FAILURE
}

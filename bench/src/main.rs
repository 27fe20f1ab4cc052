//! Compares calve with cp, xcp, rsync and git's worktrees on one tree and one filesystem, and draws
//! the results.
//!
//! The tools take turns (A B C A B C …), so that a slow minute of the machine hits all of them.
//! bench flushes the filesystem before each run, and removes the copy after it, outside the timing.
//! A tool's time does not include the write-back of the page cache, which bench measures
//! separately.
//!
//! Every sample goes into a JSON document ([`results`]), one for each filesystem; `plot` and
//! `table` read nothing else.

#[cfg(target_os = "linux")]
mod compare;
#[cfg(target_os = "linux")]
mod copies;
#[cfg(target_os = "linux")]
mod measure;
#[cfg(target_os = "linux")]
mod plot;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod results;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod sample;
#[cfg(target_os = "linux")]
mod table;
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

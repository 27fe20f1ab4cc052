//! How many descriptors an operation may keep open, and for what.
//!
//! A directory has one descriptor for each of its sides (the source, each destination). A file that is created and not filled
//! has one for its source and one for each destination. Each thread has its directory, the one above it and a batch of files in
//! its hands. All of that must fit into what the process may still open, however low its limit is and whatever else it has open.

use std::io;

use rustix::fs::{self, Mode};
use rustix::process::{Resource, getrlimit};

use crate::reflink::imp::DIR_FLAGS;

/// For what is opened for a moment: a blob and its mirror, a pack, the journal of a database.
const RESERVE: usize = 12;

/// More would gain nothing.
const ENOUGH: usize = 4096;

/// How many files go from creating to filling at once: enough that taking the lock is nothing, few enough that both
/// halves have work.
const BATCH_FILES: usize = 8;

/// What is open where that cannot be counted.
const GUESS: usize = 32;

/// How the descriptors that are free are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Directories, each open on all of its sides.
    pub(crate) dirs: usize,
    /// Descriptors of files between creating and filling.
    pub(crate) files: usize,
    /// Files that go from creating to filling at once.
    pub(crate) batch: usize,
    /// Threads: no more than was asked for.
    pub(crate) jobs: usize,
}

impl Budget {
    /// For directories with so many sides, files that take so many descriptors, and at most so many threads.
    ///
    /// # Errors
    /// The process may not open enough. The message has the limit that it takes.
    pub(crate) fn new(sides: usize, file: usize, jobs: usize) -> io::Result<Self> {
        let (free, least) = (free(), Self::least(sides, file));
        if free < least {
            must_be_free(least)?;
        }
        Ok(Self::of(free, sides, file, jobs))
    }

    /// One thread's directory and the one above, two that others wait for, a file in each half.
    fn least(sides: usize, file: usize) -> usize {
        4 * sides + 2 * file
    }

    fn of(free: usize, sides: usize, file: usize, jobs: usize) -> Self {
        let jobs = (free * 3 / 8 / (2 * sides + file)).clamp(1, jobs.max(1));
        let files = (free / 8).max(file);
        Self {
            dirs: (free / 4 / sides).max(2),
            files,
            batch: (files / jobs / file).clamp(1, BATCH_FILES),
            jobs,
        }
    }

    /// How many destinations, at most `most`, can be worked on at once by so many threads.
    pub(crate) fn destinations(jobs: usize, most: usize) -> usize {
        // Each thread has a directory, the one above and a file in its hands; and each destination has its root.
        (free() * 3 / 8 / jobs.max(1)).saturating_sub(1).div_euclid(4).clamp(1, most)
    }
}

/// Fails where the process may not open so many descriptors more.
///
/// # Errors
/// The message has the limit that it takes.
pub(crate) fn must_be_free(more: usize) -> io::Result<()> {
    let Some(limit) = limit() else { return Ok(()) };
    let needed = more.saturating_add(open() + RESERVE);
    if needed <= limit {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "this takes {needed} open files, and the limit is {limit}; raise it (ulimit -n {needed}), or ask for less at once"
    )))
}

/// How many descriptors this process may still open.
fn free() -> usize {
    let Some(limit) = limit() else { return ENOUGH };
    limit.saturating_sub(open() + RESERVE).min(ENOUGH)
}

/// How many descriptors this process may have open; `None` for any number.
fn limit() -> Option<usize> {
    getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok())
}

/// How many are open now.
fn open() -> usize {
    let folder = if cfg!(any(target_os = "linux", target_os = "android")) {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    // Not by the standard library's iterator, which panics where the directory cannot be closed.
    let count = || -> rustix::io::Result<usize> {
        let dir = fs::open(folder, DIR_FLAGS, Mode::empty())?;
        // Two names are its own and its parent's.
        Ok(fs::Dir::read_from(&dir)?.count().saturating_sub(2))
    };
    count().unwrap_or(GUESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_out_is_never_more_than_there_is() {
        for free in [12, 16, 36, 100, 230, 1000, ENOUGH] {
            for dests in [0, 1, 2, 8, 40] {
                let (sides, file) = (1 + dests, 1 + dests);
                if free < Budget::least(sides, file) {
                    continue;
                }
                for jobs in [1, 2, 8, 64] {
                    let budget = Budget::of(free, sides, file, jobs);
                    let hands = budget.jobs * (2 * sides + budget.batch * file);
                    // What waits to be filled keeps its directory.
                    let waits = budget.files + budget.files.div_ceil(budget.batch * file) * sides;
                    let all = budget.dirs * sides + waits + hands;
                    let small = free < 2 * Budget::least(sides, file);
                    assert!(
                        all <= free || small,
                        "{free} free, {dests} destinations, {jobs} threads: {budget:?} takes {all}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_limit_that_is_too_low_is_told_with_the_one_that_it_takes() {
        assert!(must_be_free(0).is_ok());
        let error = must_be_free(1_000_000_000).unwrap_err().to_string();
        assert!(error.contains("ulimit -n 1000000"), "{error}");
    }
}

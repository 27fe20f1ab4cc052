//! How many descriptors an operation may keep open, and what they are for.
//!
//! A directory has one descriptor for each of its sides (the source, each destination). A file that
//! is created and not filled has one for its source and one for each destination. Each thread works
//! on its directory, the one above it and a batch of files. All of that must fit into the number
//! that the process may still open, however low its open file limit is and whatever else it has
//! open.

use std::io;

use rustix::fs::{self, Mode};

use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::sys;

/// A reserve for short-lived descriptors: a blob and its mirror, a pack, the journal of a database.
const RESERVE: usize = 12;

/// More descriptors would gain nothing.
const ENOUGH: usize = 4096;

/// How many files go from creating to filling at once. There are enough for the cost of the lock
/// not to matter, and few enough for both halves to have work.
const BATCH_FILES: usize = 8;

/// How many descriptors are open, on systems where calve cannot count them.
const GUESS: usize = 32;

/// The open file limit that most systems start processes with.
const USUAL_LIMIT: u64 = 1024;

/// How an operation divides the free descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// How many directories, each open on all of its sides.
    pub(crate) dirs: usize,
    /// How many descriptors of files between creating and filling.
    pub(crate) files: usize,
    /// How many files go from creating to filling at once.
    pub(crate) batch: usize,
    /// How many threads; no more than the caller asked for.
    pub(crate) jobs: usize,
}

impl Budget {
    /// A budget for directories with `sides` sides, files with `file` descriptors each, and at most
    /// `jobs` threads.
    ///
    /// # Errors
    /// The process may not open enough files. The message has the limit that the operation needs.
    pub(crate) fn new(sides: usize, file: usize, jobs: usize) -> io::Result<Self> {
        let (free, least) = (free(), Self::least(sides, file));
        if free < least {
            must_be_free(least)?;
        }
        Ok(Self::of(free, sides, file, jobs))
    }

    /// The least that works: one thread's directory and the one above, two directories that others
    /// wait for, a file in each half.
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

    /// How many destinations, at most `most`, `jobs` threads can work on at once.
    pub(crate) fn destinations(jobs: usize, most: usize) -> usize {
        // Each thread has a directory, the one above it and a file open. Each destination has its
        // root open.
        (free() * 3 / 8 / jobs.max(1)).saturating_sub(1).div_euclid(4).clamp(1, most)
    }
}

/// Fails if the process may not open `more` descriptors.
///
/// # Errors
/// The message has the limit that the operation needs.
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

/// The process's open file limit. `None` if there is none.
fn limit() -> Option<usize> {
    let limit = sys::soft_limit(sys::Limit::OpenFiles).unwrap_or(Some(USUAL_LIMIT))?;
    usize::try_from(limit).ok()
}

/// How many descriptors this process has open.
fn open() -> usize {
    let folder = if cfg!(any(target_os = "linux", target_os = "android")) {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    // The standard library's iterator panics if the directory cannot be closed, so calve does not
    // use it.
    let count = || -> rustix::io::Result<usize> {
        let dir = fs::open(folder, DIR_FLAGS, Mode::empty())?;
        // Linux 6.2 and later say the number as the size of the folder (proc_pid_fd(5)). To list a
        // thousand takes as long as to clone some files. If it is another size, half is left.
        if cfg!(any(target_os = "linux", target_os = "android"))
            && let Ok(size @ 1..) = usize::try_from(fs::fstat(&dir)?.st_size)
            && size <= limit().unwrap_or(usize::MAX) / 2
        {
            return Ok(size);
        }
        // Two of the names are `.` and `..`.
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
                    // A file that waits to be filled keeps its directory open.
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
    fn open_descriptors_are_counted_one_by_one() {
        // Other tests of this process open files, too.
        let counted = (0..1000).any(|_| {
            let before = open();
            let file = fs::open("/", DIR_FLAGS, Mode::empty()).unwrap();
            let with = open();
            drop(file);
            with == before + 1 && before >= 3
        });
        assert!(counted);
    }

    #[test]
    fn a_limit_that_is_too_low_is_told_with_the_one_that_it_takes() {
        assert!(must_be_free(0).is_ok());
        let error = must_be_free(1_000_000_000).unwrap_err().to_string();
        assert!(error.contains("ulimit -n 1000000"), "{error}");
    }
}

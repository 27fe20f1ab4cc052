//! A few threads over one queue, for work that finds more work.
//!
//! Tasks are taken last in, first out, so that what is queued is the siblings along one path for each thread, not a level
//! of a tree. `live` counts tasks that are queued or being worked on; only a running task adds tasks, so at zero nothing is
//! left and all threads go home. The first error is the one that is told, and stops everybody.
//!
//! Work that makes files is cut in two, as in the tree layer (docs/design/pipeline.md): only so many threads take tasks at once,
//! and the second halves go to the others, first in, first out, as long as what they hold open is bounded. A second half that
//! nobody has room for is done by who made it, so any number of threads gets the work done.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::reflink::sys;
use crate::report::Cancel;
pub(crate) use crate::tree::node::lock;

/// The tasks that wait, and how many there are in all.
struct Waiting<T> {
    tasks: Vec<T>,
    /// Second halves, and the descriptors that each holds.
    halves: VecDeque<(T, usize)>,
    /// Descriptors that second halves hold, also those that are being worked on.
    held: usize,
    /// Threads that work on a task, not on a second half.
    first: usize,
    live: usize,
}

/// How work in two halves is bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Halves {
    /// How many threads work on first halves at once, while there are second ones.
    pub(crate) first_most: usize,
    /// How many descriptors second halves may hold together.
    pub(crate) held_most: usize,
}

/// What the threads of one run share.
pub(crate) struct Queue<'a, T> {
    waiting: Mutex<Waiting<T>>,
    wake: Condvar,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
    cancel: &'a Cancel,
    halves: Halves,
}

/// An operation that was stopped by its token.
pub(crate) fn cancelled(operation: &'static str, path: &Path) -> Error {
    let cause = io::Error::new(io::ErrorKind::Interrupted, "cancelled");
    Error::new(ErrorKind::Cancelled, operation, path, cause)
}

impl<T> Queue<'_, T> {
    /// Adds a task. Only a running task may.
    pub(crate) fn push(&self, task: T) {
        self.extend([task]);
    }

    pub(crate) fn extend(&self, tasks: impl IntoIterator<Item = T>) {
        let mut waiting = lock(&self.waiting);
        let before = waiting.tasks.len();
        waiting.tasks.extend(tasks);
        let more = waiting.tasks.len() - before;
        waiting.live += more;
        drop(waiting);
        match more {
            0 => {}
            1 => self.wake.notify_one(),
            _ => self.wake.notify_all(),
        }
    }

    /// Gives the second half of a task, which holds so many descriptors, to another thread; or back, where there are too many.
    pub(crate) fn hand_over(&self, half: T, descriptors: usize) -> Option<T> {
        let mut waiting = lock(&self.waiting);
        if waiting.held + descriptors > self.halves.held_most {
            return Some(half);
        }
        waiting.held += descriptors;
        waiting.live += 1;
        waiting.halves.push_back((half, descriptors));
        drop(waiting);
        self.wake.notify_one();
        None
    }

    /// Whether nobody needs the result any more.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancel.is_cancelled()
    }

    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _waiting = lock(&self.waiting);
        self.wake.notify_all();
    }

    /// A task, or a second half and its descriptors.
    fn next(&self) -> Option<(T, Option<usize>)> {
        let mut waiting = lock(&self.waiting);
        loop {
            if self.stopped() || waiting.live == 0 {
                return None;
            }
            if (waiting.first < self.halves.first_most || waiting.halves.is_empty())
                && let Some(task) = waiting.tasks.pop()
            {
                waiting.first += 1;
                return Some((task, None));
            }
            if let Some((half, descriptors)) = waiting.halves.pop_front() {
                return Some((half, Some(descriptors)));
            }
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, descriptors: Option<usize>) {
        let mut waiting = lock(&self.waiting);
        match descriptors {
            Some(descriptors) => waiting.held -= descriptors,
            None => waiting.first -= 1,
        }
        waiting.live -= 1;
        if waiting.live == 0 {
            self.wake.notify_all();
        }
    }
}

struct HaltOnPanic<'a, 'b, T>(&'a Queue<'b, T>);

impl<T> Drop for HaltOnPanic<'_, '_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.halt();
        }
    }
}

/// Works on `tasks`, and on what comes up meanwhile, with `jobs` threads. Each has a worker of its own, made by `start`,
/// which is told whether the thread has a umask of its own, 0; the workers are given back.
///
/// # Errors
/// The first error of a task; or that it was cancelled, told as `operation` on `path`.
pub(crate) fn run<T: Send, W: Send>(
    jobs: usize,
    cancel: &Cancel,
    what: (&'static str, &Path),
    tasks: Vec<T>,
    start: impl Fn(bool) -> W + Sync,
    work: impl Fn(&mut W, T, &Queue<'_, T>) -> Result<(), Error> + Sync,
) -> Result<Vec<W>, Error> {
    let halves = Halves { first_most: jobs.max(1), held_most: 0 };
    run_in_halves(jobs, halves, cancel, what, tasks, start, work)
}

/// The same, for work in two halves.
///
/// # Errors
/// As for [`run`].
pub(crate) fn run_in_halves<T: Send, W: Send>(
    jobs: usize,
    halves: Halves,
    cancel: &Cancel,
    (operation, path): (&'static str, &Path),
    tasks: Vec<T>,
    start: impl Fn(bool) -> W + Sync,
    work: impl Fn(&mut W, T, &Queue<'_, T>) -> Result<(), Error> + Sync,
) -> Result<Vec<W>, Error> {
    let live = tasks.len();
    let queue = Queue {
        waiting: Mutex::new(Waiting { tasks, halves: VecDeque::new(), held: 0, first: 0, live }),
        wake: Condvar::new(),
        stop: AtomicBool::new(false),
        failure: Mutex::default(),
        cancel,
        halves,
    };
    let workers = Mutex::new(Vec::with_capacity(jobs));
    std::thread::scope(|scope| {
        for index in 0..jobs.max(1) {
            let (queue, workers, start, work) = (&queue, &workers, &start, &work);
            let thread = move || {
                let _guard = HaltOnPanic(queue);
                let mut worker = start(sys::private_umask());
                while let Some((task, descriptors)) = queue.next() {
                    if let Err(error) = work(&mut worker, task, queue) {
                        lock(&queue.failure).get_or_insert(error);
                        queue.halt();
                        break;
                    }
                    queue.done(descriptors);
                }
                lock(workers).push(worker);
            };
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, thread) {
                // The limit of processes: as many as there are will do, but none will not.
                if index == 0 {
                    lock(&queue.failure).get_or_insert(Error::io(
                        "start a thread for",
                        path,
                        error,
                    ));
                    queue.halt();
                }
                break;
            }
        }
    });
    if let Some(error) = lock(&queue.failure).take() {
        // A copy that was stopped half way says so as the system would.
        let stopped = error.io_error().raw_os_error() == Some(Errno::CANCELED.raw_os_error());
        return Err(if stopped { cancelled(operation, path) } else { error });
    }
    if cancel.is_cancelled() {
        return Err(cancelled(operation, path));
    }
    Ok(workers.into_inner().unwrap_or_else(PoisonError::into_inner))
}

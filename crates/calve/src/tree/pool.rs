//! A few threads that share one queue, for work that finds more work.
//!
//! Threads take tasks last in, first out. So for each thread the queue holds the siblings along one
//! path, not a whole level of a tree. `live` counts the tasks that are queued or being worked on.
//! Only a running task adds tasks, so at zero nothing is left and all threads end. The first error
//! stops all threads, and is the one that is reported.
//!
//! # Work in two halves
//! Creating a file takes the filesystem's allocation locks: on XFS the inode btree of an allocation
//! group, on btrfs the leaf that new inodes go to. Two threads that create files at once mostly
//! wait for each other. Cloning into a file takes other locks. So work that makes files has two
//! halves: a task creates the files, and its second halves fill them. While there are second
//! halves, only so many threads take tasks. The second halves go to the other threads, first in,
//! first out, and the number of files that they hold open is bounded. A thread that finds no room
//! for a second half does it itself, so any number of threads gets the work done. Measured:
//! docs/design/pipeline.md.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::running::Running;
use crate::error::{Error, ErrorKind, Operation};
use crate::reflink::sys;

/// Locks the mutex, even if a thread panicked while it held the lock: the data is only ever
/// replaced whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does both, at the same time if a thread can be had.
pub(crate) fn both<A, B: Send>(here: impl FnOnce() -> A, there: impl Fn() -> B + Sync) -> (A, B) {
    let (done, other) = std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, &there);
        (here(), other.ok().and_then(|other| other.join().ok()))
    });
    (done, other.unwrap_or_else(there))
}

/// The waiting tasks, and the counts that bound the work.
struct Waiting<T> {
    tasks: Vec<T>,
    /// Waiting second halves, and the number of descriptors that each holds.
    halves: VecDeque<(T, usize)>,
    /// How many descriptors all second halves hold, including those being worked on.
    held: usize,
    /// How many threads work on a task, not on a second half.
    first: usize,
    /// How many threads wait for something to do.
    idle: usize,
    live: usize,
}

/// A thread, as its worker sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread {
    pub(crate) index: usize,
    /// Whether the thread has its own umask, which is 0.
    pub(crate) private_umask: bool,
}

/// The bounds for work in two halves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Halves {
    /// How many threads work on first halves at once, while there are second halves.
    pub(crate) first_most: usize,
    /// How many descriptors all second halves may hold together.
    pub(crate) held_most: usize,
}

/// The state that the threads of one run share.
pub(crate) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    wake: Condvar,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
    operation: Running,
    halves: Halves,
}

/// The error for an operation that its caller cancelled.
pub(crate) fn cancelled(operation: Operation, path: &Path) -> Error {
    let cause = io::Error::new(io::ErrorKind::Interrupted, "cancelled");
    Error::new(ErrorKind::Cancelled, operation, path, cause)
}

impl<T> Queue<T> {
    /// A queue for as many threads as `operation` may have.
    pub(crate) fn new(halves: Halves, operation: &Running) -> Self {
        let waiting = Waiting {
            tasks: Vec::new(),
            halves: VecDeque::new(),
            held: 0,
            first: 0,
            idle: 0,
            live: 0,
        };
        Self {
            waiting: Mutex::new(waiting),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            failure: Mutex::default(),
            operation: operation.clone(),
            halves,
        }
    }

    /// Adds a task. Only a running task may do so.
    pub(crate) fn push(&self, task: T) {
        self.extend([task]);
    }

    pub(crate) fn extend(&self, tasks: impl IntoIterator<Item = T>) {
        let mut waiting = lock(&self.waiting);
        let before = waiting.tasks.len();
        waiting.tasks.extend(tasks);
        let more = waiting.tasks.len() - before;
        waiting.live += more;
        let idle = waiting.idle;
        drop(waiting);
        // Waking is a system call even if no thread waits.
        match more.min(idle) {
            0 => {}
            1 => self.wake.notify_one(),
            _ => self.wake.notify_all(),
        }
    }

    /// Adds the first tasks, before any thread runs. The list itself becomes the queue: a copy of a
    /// million tasks would take as much memory once more.
    fn begin(&self, tasks: Vec<T>) {
        let mut waiting = lock(&self.waiting);
        waiting.live += tasks.len();
        if waiting.tasks.is_empty() {
            waiting.tasks = tasks;
        } else {
            waiting.tasks.extend(tasks);
        }
    }

    /// Gives the second half of a task to another thread. Returns it if second halves would then
    /// hold too many descriptors.
    pub(crate) fn hand_over(&self, half: T, descriptors: usize) -> Option<T> {
        let mut waiting = lock(&self.waiting);
        if waiting.held + descriptors > self.halves.held_most {
            return Some(half);
        }
        waiting.held += descriptors;
        waiting.live += 1;
        waiting.halves.push_back((half, descriptors));
        let idle = waiting.idle;
        drop(waiting);
        if idle > 0 {
            self.wake.notify_one();
        }
        None
    }

    /// Whether the result is not needed any more.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.operation.is_cancelled()
    }

    /// Keeps the first error, which is the one that is reported, and stops all threads.
    fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.halt();
    }

    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _waiting = lock(&self.waiting);
        self.wake.notify_all();
    }

    /// The next task, or the next second half with its number of descriptors.
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
            waiting.idle += 1;
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle -= 1;
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

struct HaltOnPanic<'a, T>(&'a Queue<T>);

impl<T> Drop for HaltOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.halt();
        }
    }
}

/// Works on `tasks`, and on the tasks that they add, with the operation's threads. `start` makes a
/// worker for each thread. The workers are returned.
///
/// # Errors
/// The first error of a task. If the operation was cancelled, an error that names `operation` and
/// `path`.
pub(crate) fn run<T: Send, W: Send>(
    operation: &Running,
    what: (Operation, &Path),
    tasks: Vec<T>,
    start: impl Fn(Thread) -> W + Sync,
    work: impl Fn(&mut W, T, &Queue<T>) -> Result<(), Error> + Sync,
) -> Result<Vec<W>, Error> {
    let queue = Queue::new(Halves { first_most: operation.jobs(), held_most: 0 }, operation);
    queue.run(what, tasks, start, |worker, task| work(worker, task, &queue))
}

impl<T: Send> Queue<T> {
    /// Like [`run`], for work in two halves.
    ///
    /// # Errors
    /// As for [`run`].
    pub(crate) fn run<W: Send>(
        &self,
        (operation, path): (Operation, &Path),
        tasks: Vec<T>,
        start: impl Fn(Thread) -> W + Sync,
        work: impl Fn(&mut W, T) -> Result<(), Error> + Sync,
    ) -> Result<Vec<W>, Error> {
        self.begin(tasks);
        let jobs = self.operation.jobs();
        let workers = Mutex::new(Vec::with_capacity(jobs));
        let serve = |index, private_umask| {
            // If one thread panics, the others must not wait for it.
            let _guard = HaltOnPanic(self);
            let mut worker = start(Thread { index, private_umask });
            while let Some((task, descriptors)) = self.next() {
                if let Err(error) = work(&mut worker, task) {
                    self.fail(error);
                    break;
                }
                self.done(descriptors);
            }
            lock(&workers).push(worker);
        };
        std::thread::scope(|scope| {
            for index in 0..jobs {
                let serve = &serve;
                let thread = move || serve(index, sys::private_umask());
                if std::thread::Builder::new().spawn_scoped(scope, thread).is_ok() {
                    continue;
                }
                // The system's limit of processes is reached. The threads that started are enough.
                // Without any, the caller's thread does the work, and its umask stays as it is.
                if index == 0 {
                    serve(index, false);
                }
                break;
            }
        });
        if let Some(error) = lock(&self.failure).take() {
            // A copy that was stopped half way returns `ECANCELED`, as the system would.
            let stopped = error.io_error().raw_os_error() == Some(Errno::CANCELED.raw_os_error());
            return Err(if stopped { cancelled(operation, path) } else { error });
        }
        if self.operation.is_cancelled() {
            return Err(cancelled(operation, path));
        }
        Ok(workers.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

//! A few threads over one queue, for work that finds more work.
//!
//! Tasks are taken last in, first out, so that what is queued is the siblings along one path for each thread, not a level
//! of a tree. `live` counts tasks that are queued or being worked on; only a running task adds tasks, so at zero nothing is
//! left and all threads go home. The first error is the one that is told, and stops everybody.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind};
use crate::reflink::sys;
use crate::report::Cancel;

/// The tasks that wait, and how many there are in all.
struct Waiting<T> {
    tasks: Vec<T>,
    live: usize,
}

/// What the threads of one run share.
pub(crate) struct Queue<'a, T> {
    waiting: Mutex<Waiting<T>>,
    wake: Condvar,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
    cancel: &'a Cancel,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether nobody needs the result any more.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.cancel.is_cancelled()
    }

    fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _waiting = lock(&self.waiting);
        self.wake.notify_all();
    }

    fn next(&self) -> Option<T> {
        let mut waiting = lock(&self.waiting);
        loop {
            if self.stopped() || waiting.live == 0 {
                return None;
            }
            if let Some(task) = waiting.tasks.pop() {
                return Some(task);
            }
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self) {
        let mut waiting = lock(&self.waiting);
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
    (operation, path): (&'static str, &Path),
    tasks: Vec<T>,
    start: impl Fn(bool) -> W + Sync,
    work: impl Fn(&mut W, T, &Queue<'_, T>) -> Result<(), Error> + Sync,
) -> Result<Vec<W>, Error> {
    let live = tasks.len();
    let queue = Queue {
        waiting: Mutex::new(Waiting { tasks, live }),
        wake: Condvar::new(),
        stop: AtomicBool::new(false),
        failure: Mutex::default(),
        cancel,
    };
    let workers = Mutex::new(Vec::with_capacity(jobs));
    std::thread::scope(|scope| {
        for index in 0..jobs.max(1) {
            let (queue, workers, start, work) = (&queue, &workers, &start, &work);
            let thread = move || {
                let _guard = HaltOnPanic(queue);
                let mut worker = start(sys::private_umask());
                while let Some(task) = queue.next() {
                    if let Err(error) = work(&mut worker, task, queue) {
                        lock(&queue.failure).get_or_insert(error);
                        queue.halt();
                        break;
                    }
                    queue.done();
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
        return Err(error);
    }
    if cancel.is_cancelled() {
        return Err(cancelled(operation, path));
    }
    Ok(workers.into_inner().unwrap_or_else(PoisonError::into_inner))
}

//! Locks: all processes may use the store together, except while one of them deletes content.
//!
//! A process that reads or adds content holds a shared `flock(2)` on `locks/content` while it
//! works. `gc` and `verify --repair` remove content that no process was seen to need. They take the
//! lock exclusively for the moment of the removal. The system releases such a lock when its process
//! ends, so nobody has to break the lock of a killed one.
//!
//! Processes that come and go all the time would keep an exclusive lock out for ever. So the
//! process that wants it closes `locks/gate` first. Every process that starts work passes the gate,
//! and waits while it is closed. The gate is closed for a short time only. If the processes inside
//! have not left by then, it is opened again, and the removal is tried later or left for another
//! day.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::layout::{Layout, lock};
use super::marker::give;
use super::ownership::Believed;
use super::stopping::{STOPPED_MOST, is_stopping};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::sys;
use crate::tree::mounts::has_device;
use crate::tree::running::Running;
use crate::tree::staging::boot;

/// How long the gate stays closed at most while other processes are inside.
const CLOSED: Duration = Duration::from_secs(2);
/// How long it stays open between two attempts.
const OPEN: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(5);

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    file: File,
}

impl Guard {
    /// A process that inherits a copy of the descriptor holds the lock, too.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

fn open(store: &Path, name: &str) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(0o600)
        // A link would make or lock a file elsewhere, and a pipe is no file.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let path = Layout(store).lock(name);
    match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = options.create(true).truncate(false).open(&path)?;
    give(&file, Believed::with_store(store));
    Ok(file)
}

/// Waits for a lock. A wait in the kernel would not end with a signal, whose handler only sets a
/// flag.
fn wait(file: &File, operation: FlockOperation) -> io::Result<()> {
    let at_once = match operation {
        FlockOperation::LockShared => FlockOperation::NonBlockingLockShared,
        _ => FlockOperation::NonBlockingLockExclusive,
    };
    let started = Instant::now();
    while !try_now(file, at_once)? {
        let waited = started.elapsed();
        if waited >= STOPPED_MOST && is_stopping() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "another process held it"));
        }
        // Most locks are held for a moment.
        std::thread::sleep(if waited < POLL * 4 { POLL / 10 } else { POLL });
    }
    Ok(())
}

/// Opens and waits for a lock.
fn held(store: &Path, name: &str, operation: FlockOperation) -> io::Result<Guard> {
    let file = open(store, name)?;
    wait(&file, operation)?;
    Ok(Guard { file })
}

/// Whether a lock could be had now. It is not kept.
fn is_free(store: &Path, name: &str, operation: FlockOperation) -> io::Result<bool> {
    try_now(&open(store, name)?, operation)
}

fn try_now(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Refuses a folder where locks keep nobody out: they are refused, or granted to everybody. calve
/// takes `flock(2)`, and SQLite takes locks of ranges.
///
/// A lock of either kind that is tried here belongs to an open file and not to a process
/// (`F_OFD_SETLK`). So the two open files of this process are kept from each other as two processes
/// are: the kernel and a filesystem get the same calls with two owners.
pub(crate) fn must_hold(store: &Path) -> io::Result<()> {
    let refused = |kind: &str, why: &dyn std::fmt::Display| {
        let why = format!("it has no locks that calve can use: {kind}: {why}");
        io::Error::new(io::ErrorKind::Unsupported, why)
    };
    let (one, other) = (open(store, lock::DATABASE)?, open(store, lock::DATABASE)?);
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let whole = try_now(&one, exclusive).and_then(|_| Ok(!try_now(&other, exclusive)?));
    for (kind, holds) in [("flock", whole), ("fcntl", sys::range_locks_hold(&one, &other))] {
        match holds {
            Ok(true) => {}
            Ok(false) => return Err(refused(kind, &"two users get one lock")),
            Err(error) => return Err(refused(kind, &error)),
        }
    }
    Ok(())
}

/// Whether no other mount shows the store, as far as this process can see: a filesystem whose
/// memory is not shared may keep its locks within one mount. The lock's file names the last mount
/// that the store was used through, and the boot.
pub(crate) fn is_only_mount(store: &Path) -> io::Result<bool> {
    let mut file = open(store, lock::DATABASE)?;
    let dev = file.metadata()?.dev();
    let boot = boot().unwrap_or_default();
    let ours = format!("{dev} {boot}");
    let mut last = String::new();
    (&mut file).take(200).read_to_string(&mut last)?;
    if last == ours {
        return Ok(true);
    }
    if let Some((other, when)) = last.split_once(' ')
        && when == boot
        && other.parse().is_ok_and(has_device)
    {
        return Ok(false);
    }
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(ours.as_bytes())?;
    Ok(true)
}

/// Locks content to read it or to add some.
pub(crate) fn share(store: &Path) -> Result<Guard, Error> {
    let lock = || -> io::Result<Guard> {
        let _gate = held(store, lock::GATE, FlockOperation::LockShared)?;
        held(store, lock::CONTENT, FlockOperation::LockShared)
    };
    lock().context(Operation::Lock, || store)
}

/// Locks a worktree for this process alone. `None`: another process had it for all of `patience`, or
/// `stop` said so. (A child that another thread forks holds all locks until it executes its
/// program.)
///
/// A drop removes the lock's file. A process that waited for it then has the lock of a file that no
/// later process finds. So it begins again, with the file that has the name by now.
pub(crate) fn alone(
    store: &Path,
    token: &str,
    patience: Duration,
    stop: impl Fn() -> bool,
) -> Result<Option<Guard>, Error> {
    let lock = || -> io::Result<Option<Guard>> {
        let started = Instant::now();
        let mut file = open(store, token)?;
        loop {
            if try_now(&file, FlockOperation::NonBlockingLockExclusive)? {
                if file.metadata()?.nlink() > 0 {
                    return Ok(Some(Guard { file }));
                }
                file = open(store, token)?;
                continue;
            }
            if started.elapsed() >= patience || stop() {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    };
    lock().context(Operation::Lock, || store)
}

/// Locks the making of ready trees. It waits while another process makes one, which is then ready.
pub(crate) fn one_by_one(store: &Path) -> Result<Guard, Error> {
    held(store, lock::TEMPLATES, FlockOperation::LockExclusive).context(Operation::Lock, || store)
}

/// Locks the making of ready trees that wait to be handed over. `None` if another process makes
/// some.
pub(crate) fn refill(store: &Path) -> Result<Option<Guard>, Error> {
    at_once(store, lock::REFILL)
}

/// Takes a lock for this process alone, without waiting. `None` if another process has it.
fn at_once(store: &Path, name: &str) -> Result<Option<Guard>, Error> {
    let lock = || -> io::Result<Option<Guard>> {
        let file = open(store, name)?;
        Ok(try_now(&file, FlockOperation::NonBlockingLockExclusive)?.then_some(Guard { file }))
    };
    lock().context(Operation::Lock, || store)
}

/// Locks the naming of contents. It waits while another process names some; one that does so in the
/// background makes way. `None`: `stop` said so.
pub(crate) fn naming(store: &Path, stop: impl Fn() -> bool) -> Result<Option<Guard>, Error> {
    let lock = || -> io::Result<Option<Guard>> {
        let _wanted = held(store, lock::NAMING_WANTED, FlockOperation::LockShared)?;
        let file = open(store, lock::NAMING)?;
        while !try_now(&file, FlockOperation::NonBlockingLockExclusive)? {
            if stop() {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
        Ok(Some(Guard { file }))
    };
    lock().context(Operation::Lock, || store)
}

/// Like [`naming`], without waiting. `None` if another process names contents.
pub(crate) fn naming_now(store: &Path) -> Result<Option<Guard>, Error> {
    at_once(store, lock::NAMING)
}

/// Whether a process waits for contents to be named.
pub(crate) fn is_naming_wanted(store: &Path) -> bool {
    is_free(store, lock::NAMING_WANTED, FlockOperation::NonBlockingLockExclusive)
        .is_ok_and(|is_free| !is_free)
}

/// Whether a process wants the content for itself at this moment.
pub(crate) fn is_gate_closed(store: &Path) -> bool {
    is_free(store, lock::GATE, FlockOperation::NonBlockingLockShared).is_ok_and(|is_open| !is_open)
}

/// Locks the database, to open it alone. `None` if there is no room for the lock's file; then other
/// processes may open the database, too.
pub(crate) fn one_at_the_database(store: &Path) -> Option<Guard> {
    held(store, lock::DATABASE, FlockOperation::LockExclusive).ok()
}

/// Locks what the store remembers of remotes, to change it.
#[cfg(feature = "remote")]
pub(crate) fn one_at_the_remotes(store: &Path) -> Result<Guard, Error> {
    held(store, lock::REMOTES, FlockOperation::LockExclusive).context(Operation::Lock, || store)
}

/// Whether no process reads or adds content at this moment.
pub(crate) fn is_idle(store: &Path) -> bool {
    is_free(store, lock::CONTENT, FlockOperation::NonBlockingLockExclusive).unwrap_or(false)
}

/// Locks content to remove some. `None`: other processes used it for all of `patience`.
pub(crate) fn exclude(
    store: &Path,
    patience: Duration,
    operation: &Running,
) -> Result<Option<Guard>, Error> {
    let lock = || -> io::Result<Option<Guard>> {
        let started = Instant::now();
        let file = open(store, lock::CONTENT)?;
        let gate = open(store, lock::GATE)?;
        loop {
            wait(&gate, FlockOperation::LockExclusive)?;
            let closed = Instant::now();
            while closed.elapsed() < CLOSED && !operation.is_cancelled() {
                if try_now(&file, FlockOperation::NonBlockingLockExclusive)? {
                    // The gate opens when its guard is dropped. Later processes wait at the
                    // content.
                    return Ok(Some(Guard { file }));
                }
                std::thread::sleep(POLL);
            }
            flock(&gate, FlockOperation::Unlock)?;
            if started.elapsed() >= patience || operation.is_cancelled() {
                return Ok(None);
            }
            std::thread::sleep(OPEN);
        }
    };
    lock().context(Operation::Lock, || store)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharers_share_and_an_excluder_waits_for_them_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(Layout(dir.path()).locks()).unwrap();
        let first = share(dir.path()).unwrap();
        let second = share(dir.path()).unwrap();
        assert!(exclude(dir.path(), Duration::ZERO, &Running::default()).unwrap().is_none());
        drop((first, second));
        assert!(exclude(dir.path(), Duration::ZERO, &Running::default()).unwrap().is_some());
        share(dir.path()).unwrap();
    }

    #[test]
    fn a_worktree_is_given_to_one_at_a_time_and_waited_for_if_it_is_soon_free() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(Layout(dir.path()).locks()).unwrap();
        let alone = |token, patience| alone(dir.path(), token, patience, || false).unwrap();
        let held = alone("token", Duration::ZERO).unwrap();
        assert!(alone("token", POLL).is_none());
        assert!(alone("another", Duration::ZERO).is_some());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| alone("token", Duration::MAX));
            std::thread::sleep(POLL);
            drop(held);
            assert!(waiting.join().unwrap().is_some());
        });
    }

    #[test]
    fn a_lock_whose_file_was_removed_while_it_was_waited_for_is_taken_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(Layout(dir.path()).locks()).unwrap();
        let alone = |patience| alone(dir.path(), "token", patience, || false).unwrap();
        let held = alone(Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| alone(Duration::MAX));
            std::thread::sleep(POLL);
            std::fs::remove_file(Layout(dir.path()).lock("token")).unwrap();
            drop(held);
            let taken = waiting.join().unwrap();
            assert!(taken.is_some());
            assert!(alone(POLL).is_none(), "two processes have the lock");
        });
    }

    #[test]
    fn a_store_is_idle_while_nobody_shares_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(Layout(dir.path()).locks()).unwrap();
        assert!(is_idle(dir.path()));
        let shared = share(dir.path()).unwrap();
        assert!(!is_idle(dir.path()));
        drop(shared);
        assert!(is_idle(dir.path()));
    }

    #[test]
    fn a_lock_that_is_a_link_is_refused_and_makes_nothing_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(Layout(dir.path()).locks()).unwrap();
        std::os::unix::fs::symlink("../made", Layout(dir.path()).lock(lock::GATE)).unwrap();
        assert!(share(dir.path()).is_err());
        assert!(!dir.path().join("made").try_exists().unwrap());
    }
}

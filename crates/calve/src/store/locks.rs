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
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::holder::LockHolder;
use super::layout::{Layout, lock};
use super::marker::give;
use super::ownership::Believed;
use super::stopping::{STOPPED_HOLDER, STOPPED_MOST, TELL, is_stopping, tell_of_wait};
use crate::error::{Context as _, Error, ErrorKind, Operation};
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

/// How long a process waits for a lock.
struct Bounds {
    /// Then it tells which lock it waits for, and which process holds it.
    tell: Duration,
    /// Then it fails if the process that holds the lock is stopped.
    stopped: Duration,
    /// Then it fails.
    most: Duration,
}

/// Most locks are held for a moment. But a process that names contents reads all that are new, and
/// one that makes a ready tree may copy it: 100 GB from a slow disk take a quarter of an hour. Who
/// waits that long has been told for what, and may end it. A stopped process goes on when its user
/// wants it to, for which no other command waits long.
const BOUNDS: Bounds =
    Bounds { tell: TELL, stopped: STOPPED_HOLDER, most: Duration::from_secs(1800) };

/// Waits for a lock. `false`: `stop` said so. A wait in the kernel would not end with a signal,
/// whose handler only sets a flag.
///
/// # Errors
/// [`ErrorKind::Busy`]: another process holds the lock for too long.
fn wait(
    (file, path): (&File, &Path),
    operation: FlockOperation,
    bounds: &Bounds,
    stop: impl Fn() -> bool,
) -> Result<bool, Error> {
    let (at_once, modes): (_, &[&str]) = match operation {
        FlockOperation::LockShared => (FlockOperation::NonBlockingLockShared, &["WRITE"]),
        _ => (FlockOperation::NonBlockingLockExclusive, &["READ", "WRITE"]),
    };
    let failed = |cause: io::Error, kind| Err(Error::new(kind, Operation::Lock, path, cause));
    let started = Instant::now();
    let mut look = bounds.tell;
    while !try_now(file, at_once).context(Operation::Lock, || path)? {
        let waited = started.elapsed();
        if stop() {
            return Ok(false);
        }
        if waited >= STOPPED_MOST && is_stopping() {
            let holder = LockHolder::named(LockHolder::of(&[path], modes));
            let cause = io::Error::new(io::ErrorKind::Interrupted, format!("{holder} held it"));
            return failed(cause, ErrorKind::Io);
        }
        if waited >= look {
            let holder = LockHolder::of(&[path], modes);
            let is_stopped = holder.as_ref().is_some_and(|holder| holder.is_stopped);
            let holder = LockHolder::named(holder);
            if waited >= bounds.most || is_stopped && waited >= bounds.stopped {
                let why = format!("{holder} holds it, for more than {} s now", waited.as_secs());
                let cause = io::Error::new(io::ErrorKind::WouldBlock, why);
                return failed(cause, ErrorKind::Busy);
            }
            if look == bounds.tell {
                tell_of_wait(path, &holder);
            }
            look += bounds.tell;
        }
        std::thread::sleep(if waited < POLL * 4 { POLL / 10 } else { POLL });
    }
    Ok(true)
}

/// Opens and waits for a lock.
fn held(store: &Path, name: &str, operation: FlockOperation) -> Result<Guard, Error> {
    let (file, path) = opened(store, name)?;
    wait((&file, &path), operation, &BOUNDS, || false)?;
    Ok(Guard { file })
}

/// Opens a lock, which has this path.
fn opened(store: &Path, name: &str) -> Result<(File, PathBuf), Error> {
    let path = Layout(store).lock(name);
    Ok((open(store, name).context(Operation::Lock, || &path)?, path))
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
    let _gate = held(store, lock::GATE, FlockOperation::LockShared)?;
    held(store, lock::CONTENT, FlockOperation::LockShared)
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
    let started = Instant::now();
    loop {
        let (file, path) = opened(store, token)?;
        let stop = || started.elapsed() >= patience || stop();
        if !wait((&file, &path), FlockOperation::LockExclusive, &BOUNDS, stop)? {
            return Ok(None);
        }
        if file.metadata().context(Operation::Lock, || &path)?.nlink() > 0 {
            return Ok(Some(Guard { file }));
        }
    }
}

/// Locks the making of ready trees. It waits while another process makes one, which is then ready.
pub(crate) fn one_by_one(store: &Path) -> Result<Guard, Error> {
    held(store, lock::TEMPLATES, FlockOperation::LockExclusive)
}

/// Locks the making of ready trees that wait to be handed over. `None` if another process makes
/// some.
pub(crate) fn refill(store: &Path) -> Result<Option<Guard>, Error> {
    at_once(store, lock::REFILL)
}

/// Takes a lock for this process alone, without waiting. `None` if another process has it.
fn at_once(store: &Path, name: &str) -> Result<Option<Guard>, Error> {
    let (file, path) = opened(store, name)?;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let is_ours = try_now(&file, exclusive).context(Operation::Lock, || &path)?;
    Ok(is_ours.then_some(Guard { file }))
}

/// Locks the naming of contents. It waits while another process names some; one that does so in the
/// background makes way. `None`: `stop` said so.
pub(crate) fn naming(store: &Path, stop: impl Fn() -> bool) -> Result<Option<Guard>, Error> {
    let _wanted = held(store, lock::NAMING_WANTED, FlockOperation::LockShared)?;
    let (file, path) = opened(store, lock::NAMING)?;
    let is_ours = wait((&file, &path), FlockOperation::LockExclusive, &BOUNDS, stop)?;
    Ok(is_ours.then_some(Guard { file }))
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
    held(store, lock::REMOTES, FlockOperation::LockExclusive)
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
    let started = Instant::now();
    let (file, path) = opened(store, lock::CONTENT)?;
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    loop {
        // It opens when its guard is dropped. Later processes wait at the content.
        let gate = held(store, lock::GATE, FlockOperation::LockExclusive)?;
        let closed = Instant::now();
        while closed.elapsed() < CLOSED && !operation.is_cancelled() {
            if try_now(&file, exclusive).context(Operation::Lock, || &path)? {
                return Ok(Some(Guard { file }));
            }
            std::thread::sleep(POLL);
        }
        drop(gate);
        if started.elapsed() >= patience || operation.is_cancelled() {
            return Ok(None);
        }
        std::thread::sleep(OPEN);
    }
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

    /// A stopped process held the content, and all others waited for ever without a word.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_wait_for_a_lock_is_told_with_its_holder_and_ends() {
        use std::sync::Arc;
        use std::sync::Mutex;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(Layout(dir.path()).locks()).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        super::super::stopping::tell_of_waits_with(move |lock, holder| {
            tell.lock().unwrap().push((lock.to_owned(), holder.to_owned()));
        });
        let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
        for (name, mine, signal, stopped, most) in [
            ("running", FlockOperation::LockShared, None, long, short * 3),
            ("running-shared", FlockOperation::LockExclusive, None, short, short * 3),
            ("stopped", FlockOperation::LockShared, Some("-STOP"), short * 2, long),
            ("stopped-shared", FlockOperation::LockExclusive, Some("-STOP"), short * 2, long),
        ] {
            let (theirs, path) = opened(dir.path(), name).unwrap();
            let is_shared = name.ends_with("-shared");
            let kind = match is_shared {
                true => FlockOperation::NonBlockingLockShared,
                false => FlockOperation::NonBlockingLockExclusive,
            };
            assert!(try_now(&theirs, kind).unwrap());
            // The process that took the lock has nothing to do with it any more.
            let mut child =
                std::process::Command::new("sleep").arg("60").stdin(theirs).spawn().unwrap();
            let pid = child.id().to_string();
            if let Some(signal) = signal {
                assert!(
                    std::process::Command::new("kill")
                        .args([signal, &pid])
                        .status()
                        .unwrap()
                        .success()
                );
            }
            let bounds = Bounds { tell: short, stopped, most };
            let (file, _) = opened(dir.path(), name).unwrap();
            let error = wait((&file, &path), mine, &bounds, || false).unwrap_err();
            child.kill().unwrap();
            child.wait().unwrap();
            let holder = match signal {
                None => format!("process {pid} (sleep)"),
                Some(_) => format!("process {pid} (sleep, stopped)"),
            };
            assert_eq!((error.kind(), error.path()), (ErrorKind::Busy, &*path), "{name}");
            let why = error.io_error().to_string();
            assert!(why.starts_with(&format!("{holder} holds it, for ")), "{name}: {why}");
            let told: Vec<_> = std::mem::take(&mut told.lock().unwrap());
            assert_eq!(told.iter().filter(|(lock, _)| *lock == path).count(), 1, "{name}");
            assert!(told.contains(&(path, holder)), "{name}: {told:?}");
            assert!(wait((&file, dir.path()), mine, &bounds, || false).unwrap(), "{name}");
        }
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

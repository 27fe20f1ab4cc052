//! Prepares the process before it works: signals and limits.

#[cfg(unix)]
use std::fs::{File, TryLockError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(unix)]
use std::time::{Duration, Instant};

use calve::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::Exit;

/// The signals that stop the work in an orderly way: calve first removes its half-made trees.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    cancel: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// After this, the first signal cancels the work. A second one ends the process at once, and
    /// the next run removes the half-made trees.
    pub(crate) fn register() -> io::Result<Self> {
        let signals = Self::default();
        #[cfg(unix)]
        let stopping = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
        #[cfg(not(unix))]
        let stopping = [SIGINT, SIGTERM];
        let ignored = ignored();
        for signal in stopping {
            // `nohup calve …` and a shell's background jobs start with a signal ignored. It stays
            // ignored.
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            // Handlers run in the order of their registration, so this one only sees the flag of an
            // earlier signal.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signals.cancel))?;
            flag::register(signal, Arc::clone(&signals.cancel))?;
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&signals.number), number)?;
        }
        // With any handler, a write beyond RLIMIT_FSIZE returns EFBIG and calve can name the file.
        // Without one, the signal kills the process.
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        #[cfg(unix)]
        calve::end_waits_with(&signals.cancel());
        Ok(signals)
    }

    /// The token that the signals set.
    pub(crate) fn cancel(&self) -> Cancel {
        Cancel::from_flag(Arc::clone(&self.cancel))
    }

    /// The exit code for the signal that came.
    pub(crate) fn exit(&self) -> Exit {
        match u8::try_from(self.number.load(Ordering::Relaxed)) {
            Ok(number @ 1..) => Exit::Signal(number),
            _ => Exit::Failed,
        }
    }
}

/// How long a command waits for another one that has locked a folder: git may check out a large tree
/// in it meanwhile.
#[cfg(unix)]
pub(crate) const OTHER_MOST: Duration = Duration::from_secs(600);

/// Locks a file or a folder for this process alone.
///
/// # Errors
/// Another process has locked it for all of `most`.
#[cfg(unix)]
pub(crate) fn lock_within(file: &File, most: Duration) -> io::Result<()> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if started.elapsed() < most => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                let why = format!("another process has its lock, for {} s now", most.as_secs());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
        }
    }
}

/// A mask of the signals that the process ignored at its start, if the system tells.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn ignored() -> u64 {
    0
}

/// Resets what a careless parent may have left: SIGCHLD ignored, and a mask that takes the rights
/// of the owner. With either, nothing that calve makes or runs could be used.
#[cfg(unix)]
pub(crate) fn reset_inherited() {
    use rustix::fs::Mode;
    calve::keep_answers_of_children();
    // The mask can be read only by setting one.
    let mask = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    rustix::process::umask(mask - Mode::RWXU);
}

#[cfg(not(unix))]
pub(crate) fn reset_inherited() {}

/// Raises the open file limit (the soft one): each thread keeps the directories open that it works
/// in, one in each destination. If the limit cannot be raised, the library opens directories again
/// more often, which only costs time.
#[cfg(unix)]
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    /// A higher limit gains nothing.
    const ENOUGH: u64 = 65_536;
    /// macOS accepts this limit (OPEN_MAX) although its hard limit says unlimited.
    const MODEST: u64 = 10_240;

    let Some(Rlimit { current, maximum }) = open_file_limits() else { return };
    for wanted in [ENOUGH, MODEST] {
        let wanted = maximum.map_or(wanted, |maximum| wanted.min(maximum));
        if current.is_none_or(|current| current >= wanted)
            || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok()
        {
            return;
        }
    }
}

/// How many files this process may have open.
#[cfg(unix)]
pub(crate) fn open_files() -> Option<u64> {
    open_file_limits()?.current
}

/// The limits, if the system tells. A sandbox may refuse getrlimit(2), and rustix then panics.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_file_limits() -> Option<rustix::process::Rlimit> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let mut words =
        limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace();
    let mut next = || words.next().map(|word| word.parse().ok());
    Some(rustix::process::Rlimit { current: next()?, maximum: next()? })
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn open_file_limits() -> Option<rustix::process::Rlimit> {
    Some(rustix::process::getrlimit(rustix::process::Resource::Nofile))
}

#[cfg(not(unix))]
pub(crate) fn raise_open_files() {}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_another_process_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let [theirs, mine] = [(); 2].map(|()| File::open(folder.path()).unwrap());
        theirs.lock().unwrap();
        let error = lock_within(&mine, Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        drop(theirs);
        lock_within(&mine, Duration::ZERO).unwrap();
    }
}

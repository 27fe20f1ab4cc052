//! What the process asks of the operating system before it works: signals and limits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use calve::Cancel;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::Exit;

/// The signals that stop the work in an orderly way: what was staged is removed first.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    cancel: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// From here on the first signal cancels, and a second one ends the process at once (the next run sweeps
    /// what that leaves behind).
    pub(crate) fn register() -> io::Result<Self> {
        let signals = Self::default();
        #[cfg(unix)]
        let stopping = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
        #[cfg(not(unix))]
        let stopping = [SIGINT, SIGTERM];
        let ignored = ignored();
        for signal in stopping {
            // `nohup calve …` and a shell's background jobs start with a signal ignored; so it stays.
            if ignored >> (signal - 1) & 1 == 1 {
                continue;
            }
            // Handlers run in the order of their registration: this one sees the flag of an earlier signal only.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&signals.cancel))?;
            flag::register(signal, Arc::clone(&signals.cancel))?;
            let number = usize::try_from(signal).unwrap_or_default();
            flag::register_usize(signal, Arc::clone(&signals.number), number)?;
        }
        // With a handler of any kind, a write past RLIMIT_FSIZE is an EFBIG that names the file, not death.
        #[cfg(unix)]
        flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
        Ok(signals)
    }

    /// The token that the signals set.
    pub(crate) fn cancel(&self) -> Cancel {
        Cancel::from_flag(Arc::clone(&self.cancel))
    }

    /// The exit code that says which signal it was.
    pub(crate) fn exit(&self) -> Exit {
        match u8::try_from(self.number.load(Ordering::Relaxed)) {
            Ok(number @ 1..) => Exit::Signal(number),
            _ => Exit::Failed,
        }
    }
}

/// The signals that the process was started to ignore, as a mask, where that can be known.
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

/// Raises the open file limit (the soft one): each thread keeps the directories open that it works in, one in each
/// destination. If the limit cannot be raised, the library opens directories again more often, which only costs time.
#[cfg(unix)]
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    /// More would gain nothing.
    const ENOUGH: u64 = 65_536;
    /// What macOS takes although its hard limit says unlimited (OPEN_MAX).
    const MODEST: u64 = 10_240;

    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    for wanted in [ENOUGH, MODEST] {
        let wanted = maximum.map_or(wanted, |maximum| wanted.min(maximum));
        if current.is_none_or(|current| current >= wanted)
            || setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).is_ok()
        {
            return;
        }
    }
}

#[cfg(not(unix))]
pub(crate) fn raise_open_files() {}

//! What calve asks of a place that keeps objects, and who answers: a folder, for now.
//!
//! An object is bytes under a key. calve never changes an object: it makes it, and at some time
//! removes it. The one condition is that a key that exists is not written again
//! ([`Objects::create`]); everything else of a remote is built on that.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use super::rate::Limit;

/// The pauses before an operation that failed is tried again.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// An object, as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// Seconds since 1970, by the clock of whoever keeps the object.
    pub(crate) modified: i64,
}

/// A place that keeps objects. Keys consist of letters, digits, `.`, `-`, `_`, `%` and `/`.
pub(crate) trait Objects: Send + Sync + fmt::Debug {
    /// The object's bytes in `range`. Fewer bytes are an error.
    fn get(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>>;
    /// The whole object. An object of more than `most` bytes is an error, and is not read.
    fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>>;
    /// The size of the object.
    fn size(&self, key: &str) -> io::Result<u64>;
    /// Makes the object, whole and durable. `false`: the key exists, and nothing was changed.
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool>;
    /// All objects whose keys begin with `prefix`, which ends with a slash.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> io::Result<()>;
    /// Removes the object. It is no error if there is none.
    fn remove(&self, key: &str) -> io::Result<()>;
}

/// How much was asked of a remote.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Requests, bytes sent, and bytes received.
    pub(crate) fn so_far(&self) -> (u64, u64, u64) {
        (self.requests.load(Relaxed), self.sent.load(Relaxed), self.received.load(Relaxed))
    }
}

/// Objects whose operations are tried again if they fail for a moment, and counted.
#[derive(Debug)]
pub(crate) struct Patient {
    objects: Box<dyn Objects>,
    pub(crate) traffic: Traffic,
    pub(crate) limit: Limit,
}

impl Patient {
    pub(crate) fn new(objects: Box<dyn Objects>) -> Self {
        Self { objects, traffic: Traffic::default(), limit: Limit::default() }
    }

    fn patiently<T>(&self, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut pauses = PAUSES.into_iter();
        loop {
            self.traffic.requests.fetch_add(1, Relaxed);
            match work() {
                Err(error) if may_pass(&error) => match pauses.next() {
                    Some(pause) => sleep(pause),
                    None => return Err(error),
                },
                result => return result,
            }
        }
    }

    fn received(&self, bytes: Vec<u8>) -> Vec<u8> {
        self.traffic.received.fetch_add(bytes.len() as u64, Relaxed);
        self.limit.spend(bytes.len() as u64);
        bytes
    }

    /// See [`Objects::get`].
    pub(crate) fn get(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let wanted = range.end.saturating_sub(range.start);
        self.limit.wait();
        let bytes = self.patiently(|| {
            let bytes = self.objects.get(key, range.clone())?;
            if bytes.len() as u64 == wanted {
                return Ok(bytes);
            }
            let why = format!("{} of {wanted} bytes arrived", bytes.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
        })?;
        Ok(self.received(bytes))
    }

    /// See [`Objects::read`]. `None`: there is no such object.
    pub(crate) fn read(&self, key: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        found(self.patiently(|| self.objects.read(key, most)))
            .map(|bytes| bytes.map(|bytes| self.received(bytes)))
    }

    /// See [`Objects::size`]. `None`: there is no such object.
    pub(crate) fn size(&self, key: &str) -> io::Result<Option<u64>> {
        found(self.patiently(|| self.objects.size(key)))
    }

    /// See [`Objects::create`]. If the answer to a first attempt was lost, the second one may say
    /// `false`.
    pub(crate) fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        self.limit.spend(content.len() as u64);
        let made = self.patiently(|| self.objects.create(key, content))?;
        self.traffic.sent.fetch_add(content.len() as u64, Relaxed);
        Ok(made)
    }

    /// See [`Objects::list`].
    pub(crate) fn list(&self, prefix: &str) -> io::Result<Vec<Listed>> {
        self.patiently(|| {
            let mut all = Vec::new();
            self.objects.list(prefix, &mut |one| all.push(one))?;
            Ok(all)
        })
    }

    /// See [`Objects::remove`].
    pub(crate) fn remove(&self, key: &str) -> io::Result<()> {
        self.patiently(|| self.objects.remove(key))
    }
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the next attempt may go better.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted,
        NetworkUnreachable, Other, ResourceBusy, TimedOut, UnexpectedEof,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | Interrupted
            | NetworkUnreachable
            | Other
            | ResourceBusy
            | TimedOut
            | UnexpectedEof
    )
}

//! What calve asks of a place that has objects. A folder or a bucket keeps them ([`Objects`]); a
//! web server only hands them out ([`Source`]).
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

use super::super::stopping::is_stopping;
use super::rate::Limit;
use crate::error::IfThere as _;

/// The pauses before an operation that failed is tried again.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

/// An object, as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedObject {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// Seconds since 1970, by the clock of the place that keeps the object.
    pub(crate) modified: i64,
}

/// A place from which objects can be read if one knows their keys. Keys consist of letters, digits,
/// `.`, `-`, `_`, `%` and `/`.
pub(crate) trait Source: Send + Sync + fmt::Debug {
    /// Reads the object's bytes in `range` into `into`, and drops its content. A caller that reads
    /// many ranges uses one buffer for all of them: the allocator keeps much more than that of
    /// buffers that come and go in many threads.
    fn get_into(&self, key: &str, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()>;
    /// The object's bytes in `range`.
    #[cfg(test)]
    fn get(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.get_into(key, range, &mut bytes).map(|()| bytes)
    }
    /// The whole object. An object of more than `most` bytes is an error, and is not read.
    fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>>;
    /// The size of the object.
    fn size(&self, key: &str) -> io::Result<u64>;
}

/// A place that keeps objects.
pub(crate) trait Objects: Source {
    /// Makes the object, whole and durable. `false`: the key exists, and nothing was changed.
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool>;
    /// All objects whose keys begin with `prefix`, which ends with a slash.
    fn list(&self, prefix: &str, each: &mut dyn FnMut(ListedObject)) -> io::Result<()>;
    /// Removes the object. It is no error if there is none.
    fn remove(&self, key: &str) -> io::Result<()>;
    /// What begins with `prefix`, which ends with a slash, and is no object: what writers left that
    /// are at work or were killed. [`remove`](Self::remove) removes it. Servers leave nothing.
    fn unfinished(&self, _prefix: &str, _each: &mut dyn FnMut(ListedObject)) -> io::Result<()> {
        Ok(())
    }
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
    pub(crate) fn so_far(&self) -> [u64; 3] {
        [&self.requests, &self.sent, &self.received].map(|count| count.load(Relaxed))
    }

    /// What came since `before`.
    pub(crate) fn since(&self, before: [u64; 3]) -> [u64; 3] {
        let now = self.so_far();
        std::array::from_fn(|at| now[at] - before[at])
    }
}

#[derive(Debug)]
enum Access {
    Kept(Box<dyn Objects>),
    ReadOnly(Box<dyn Source>),
}

/// Objects whose operations are tried again if they fail for a moment, and counted.
#[derive(Debug)]
pub(crate) struct Patient {
    access: Access,
    pub(crate) traffic: Traffic,
    pub(crate) limit: Limit,
}

impl Patient {
    pub(crate) fn new(objects: Box<dyn Objects>) -> Self {
        Self::with(Access::Kept(objects))
    }

    /// A place where calve can neither write nor list keys.
    #[cfg_attr(not(any(feature = "cloud", test)), expect(dead_code, reason = "only web servers"))]
    pub(crate) fn read_only(source: Box<dyn Source>) -> Self {
        Self::with(Access::ReadOnly(source))
    }

    fn with(access: Access) -> Self {
        Self { access, traffic: Traffic::default(), limit: Limit::default() }
    }

    fn source(&self) -> &dyn Source {
        match &self.access {
            Access::Kept(objects) => objects.as_ref(),
            Access::ReadOnly(source) => source.as_ref(),
        }
    }

    /// The place, if calve can write there and list keys. Otherwise the error is of the kind
    /// `Unsupported`.
    pub(crate) fn kept(&self) -> io::Result<&dyn Objects> {
        match &self.access {
            Access::Kept(objects) => Ok(objects.as_ref()),
            Access::ReadOnly(_) => {
                let why = "a web server can only be read, and cannot say which objects it has";
                Err(io::Error::new(io::ErrorKind::Unsupported, why))
            }
        }
    }

    fn patiently<T>(&self, mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut pauses = PAUSES.into_iter();
        loop {
            self.traffic.requests.fetch_add(1, Relaxed);
            match work() {
                Err(error) if may_pass(&error) && !is_stopping() => match pauses.next() {
                    Some(pause) => sleep(pause),
                    None => return Err(error),
                },
                result => return result,
            }
        }
    }

    fn received(&self, bytes: &[u8]) {
        self.traffic.received.fetch_add(bytes.len() as u64, Relaxed);
        self.limit.spend(bytes.len() as u64);
    }

    /// See [`Source::get_into`]. Fewer bytes are an error.
    pub(crate) fn get_into(
        &self,
        key: &str,
        range: Range<u64>,
        into: &mut Vec<u8>,
    ) -> io::Result<()> {
        let wanted = range.end.saturating_sub(range.start);
        self.limit.wait();
        self.patiently(|| {
            self.source().get_into(key, range.clone(), into)?;
            if into.len() as u64 == wanted {
                return Ok(());
            }
            let why = format!("{} of {wanted} bytes arrived", into.len());
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
        })?;
        self.received(into);
        Ok(())
    }

    /// See [`Source::read`]. `None`: there is no such object.
    pub(crate) fn read(&self, key: &str, most: u64) -> io::Result<Option<Vec<u8>>> {
        self.patiently(|| self.source().read(key, most))
            .if_there()
            .inspect(|bytes| self.received(bytes.as_deref().unwrap_or_default()))
    }

    /// See [`Source::size`]. `None`: there is no such object.
    pub(crate) fn size(&self, key: &str) -> io::Result<Option<u64>> {
        self.patiently(|| self.source().size(key)).if_there()
    }

    /// See [`Objects::create`]. If the answer to a first attempt was lost, the second one may say
    /// `false`.
    pub(crate) fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let objects = self.kept()?;
        self.limit.spend(content.len() as u64);
        let made = self.patiently(|| objects.create(key, content))?;
        self.traffic.sent.fetch_add(content.len() as u64, Relaxed);
        Ok(made)
    }

    /// See [`Objects::list`].
    pub(crate) fn list(&self, prefix: &str) -> io::Result<Vec<ListedObject>> {
        self.all(|objects, each| objects.list(prefix, each))
    }

    /// See [`Objects::unfinished`].
    pub(crate) fn unfinished(&self, prefix: &str) -> io::Result<Vec<ListedObject>> {
        self.all(|objects, each| objects.unfinished(prefix, each))
    }

    fn all(
        &self,
        list: impl Fn(&dyn Objects, &mut dyn FnMut(ListedObject)) -> io::Result<()>,
    ) -> io::Result<Vec<ListedObject>> {
        let objects = self.kept()?;
        self.patiently(|| {
            let mut all = Vec::new();
            list(objects, &mut |one| all.push(one))?;
            Ok(all)
        })
    }

    /// See [`Objects::remove`].
    pub(crate) fn remove(&self, key: &str) -> io::Result<()> {
        let objects = self.kept()?;
        self.patiently(|| objects.remove(key))
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

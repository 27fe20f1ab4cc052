//! Snapshots through a place that several machines can reach: a *remote*.
//!
//! A remote is objects under keys; calve has no server of its own. [`objects`] says what calve asks
//! of the place. [`record`] and [`name`] are the objects. [`push`] and [`pull`] send snapshots and
//! fetch them. [`collect`] removes objects, and [`underway`] says why that is safe. [`steps`]
//! says how calve finds what a name means in a place that cannot list keys, and [`check`] looks for
//! damage. Why nothing is lost is in `docs/design/remote.md`.
//!
//! # Keys
//! ```text
//! format              made by `init`, create-only: the version, and the remote's own id
//! names/NAME/N        the N-th change of a name
//! snapshots/ID        the record of a snapshot
//! packs/ID            contents, in the format of the store's packs
//! parts/ID            encodings of directories, or recipes of large contents
//! found/ID            which files of a snapshot name the project's root
//! underway/KIND-TOKEN who works on the remote now
//! condemned/TOKEN     what a collector will remove
//! reserve             room for a collector, should the place be full
//! ```
//! calve writes them from the bottom to the top, so everything that an object refers to is there
//! before it.
//!
//! # What is not trusted
//! Nothing of it. The snapshot's id decides which bytes are right, and where keys are configured,
//! a signature decides which id a name means.

use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::read_plain;
use super::id::{SnapshotId, is_token};
use super::{Store, locks};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::macros::setters;
use crate::report::Cancel;
use crate::tree::pool;
use crate::tree::running::Running;
use crate::tree::staging::write_flushed;

mod check;
#[cfg(feature = "cloud")]
mod cloud;
mod collect;
mod folder;
pub(crate) mod known;
pub(crate) mod name;
mod objects;
mod pull;
mod push;
mod rate;
pub(crate) mod record;
mod steps;
mod underway;

pub use check::{
    RemoteBroken, RemoteDamage, RemoteDamageKind, RemoteVerifyOptions, RemoteVerifyReport,
};
pub use collect::{RemoteGarbage, RemoteGcOptions, RemoteGcReport};
pub use known::KnownRemote;
pub use name::{PublicKey, SigningKey};
pub use pull::{PullOptions, PullReport};
pub use push::{PushOptions, PushReport};

use name::{NAME_MOST_BYTES, Named, VouchedName};
use objects::Patient;
use record::{ObjectId, RECORD_MOST_BYTES, Record};

mod make;

use make::{place_of, without_slashes};

const FORMAT_KEY: &str = "format";
/// What `init` writes to try a place.
const CANARIES: &str = "canary/";
/// Where a remote has its objects, apart from the format.
const FOLDERS: [&str; 8] =
    ["names/", "snapshots/", "packs/", "parts/", "found/", CANARIES, "underway/", "condemned/"];
/// Where keys cannot be listed, [`Remote::log`] looks at no more changes of a name.
const LOG_MOST_CHANGES: usize = 1000;
const FORMAT_MOST_BYTES: u64 = 4096;
const FORMAT_FIRST_LINE: &str = "calve remote ";
const VERSION: u32 = 1;

/// What a store remembers of a name is a short line for each key that it trusts.
const SEEN_MOST_BYTES: u64 = 1 << 20;

/// A remote: a place from which several stores get snapshots. Cheap to clone.
///
/// # Errors of every operation
/// The methods do not repeat these: [`ErrorKind::PermissionDenied`], [`ErrorKind::StorageFull`] and
/// [`ErrorKind::Io`], with the object's URL as the path, after calve tried for some seconds.
/// [`ErrorKind::Damaged`] if an object is not what its name says. [`ErrorKind::Untrusted`] if keys
/// are configured ([`Remote::trusting`]) and none of them vouches for a name, or if a name means
/// something older than this store has seen.
#[derive(Debug, Clone)]
pub struct Remote {
    place: Arc<RemotePlace>,
    keys: Vec<PublicKey>,
}

#[derive(Debug)]
struct RemotePlace {
    url: String,
    /// The remote's own id, from its object `format`.
    id: String,
    objects: Patient,
    times: underway::AnnouncementTimes,
}

/// What a name of a remote means.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteName {
    /// The name.
    pub name: String,
    /// How often the name was given, this time included.
    pub sequence: u64,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it was given to the snapshot, by the clock of the machine that pushed.
    pub made: SystemTime,
    /// The keys whose signatures are right. Whether they are trusted is another question.
    pub signers: Vec<PublicKey>,
    /// Whether [`Remote::gc`] has removed the snapshot, and left only the change: it leads those
    /// who cannot list the remote to the newest one.
    pub collected: bool,
}

/// What a server must be told: credentials, region, endpoint. Built by value.
///
/// The library reads no environment, so the caller says what the providers' own tools would find
/// there, under the same names in lower case: `aws_access_key_id`, `aws_secret_access_key`,
/// `aws_region`, `aws_endpoint`, `google_service_account_path`, `azure_storage_account_name` and so
/// on, as `object_store` documents them. Settings of other providers are ignored, and a folder
/// needs none.
#[derive(Clone, Default)]
pub struct RemoteSettings(Vec<(String, String)>);

/// The names of the settings; their values are secret.
impl std::fmt::Debug for RemoteSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

impl RemoteSettings {
    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }
}

setters! { RemoteSettings:
    /// No settings.
    pub fn new(),
}

impl Remote {
    /// Opens the remote at `url`. With the feature `cloud` that may also be `https://HOST/PATH` (or
    /// `http://`): a web server that hands out the objects of a remote, such as the files in its
    /// folder. From there one can only [`pull`](Remote::pull), [`checkout`](Remote::checkout) and
    /// read the [`log`](Remote::log) of a name.
    ///
    /// With `http://` a machine on the way can read everything, and it can give names other
    /// meanings unless keys are configured ([`Remote::trusting`]).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] if the URL is none that calve knows;
    /// [`ErrorKind::RemoteNotFound`] if no remote is there; [`ErrorKind::StoreIncompatible`] if a
    /// later version of calve made it; those of every operation, see [`Remote`].
    pub fn open(url: &str, settings: &RemoteSettings) -> Result<Self, Error> {
        let url = without_slashes(url);
        Self::open_in(url, place_of(url, settings)?)
    }

    fn open_in(url: &str, objects: Patient) -> Result<Self, Error> {
        let error = |kind, why: &str| {
            let cause = io::Error::new(io::ErrorKind::NotFound, why.to_owned());
            Error::new(kind, Operation::OpenRemote, url, cause)
        };
        let format = objects
            .read(FORMAT_KEY, FORMAT_MOST_BYTES)
            .map_err(|error| failed(Operation::OpenRemote, url, FORMAT_KEY, error))?
            .ok_or_else(|| {
                error(ErrorKind::RemoteNotFound, "no remote is there: it has no object 'format'")
            })?;
        let id = read_format(&format).map_err(|why| error(ErrorKind::StoreIncompatible, &why))?;
        let times = underway::AnnouncementTimes::USUAL;
        let place = RemotePlace { url: url.to_owned(), id, objects, times };
        Ok(Self { place: Arc::new(place), keys: Vec::new() })
    }

    /// The same remote, but a name counts only if one of these keys has signed it. Without keys,
    /// each user who can write to the remote decides what its names mean.
    #[must_use]
    pub fn trusting(mut self, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        self.keys.clear();
        for key in keys {
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
        self
    }

    /// The same remote, but it sends and receives at most so many bytes a second, together, on
    /// average. All threads share the limit, and so do all clones of this value. An object, or a
    /// range of one (up to 16 MiB, mostly less), goes at the speed of the line; calve then waits
    /// before the next one. Records and names do not wait. A wait ends when `cancel` is set.
    #[must_use]
    pub fn limited(self, bytes_per_second: NonZeroU64, cancel: &Cancel) -> Self {
        self.place.objects.limit.set(bytes_per_second, cancel);
        self
    }

    /// The URL that it was opened with, without slashes at its end.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.place.url
    }

    /// The remote's own id, which `init` gave it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.place.id
    }

    /// What all names mean, sorted. One request lists them, and one more each reads them.
    ///
    /// # Errors
    /// [`ErrorKind::RemoteUnfit`] if it is a web server; those of every operation, see [`Remote`],
    /// except [`ErrorKind::Untrusted`]: see [`RemoteName::signers`].
    pub fn names(&self) -> Result<Vec<RemoteName>, Error> {
        self.must_be_kept(Operation::ListRemote)?;
        let mut latest: std::collections::BTreeMap<String, u64> = Default::default();
        for listed in self.list("names/")? {
            if let Some((name, sequence)) = name::of_key(&listed.key) {
                let last = latest.entry(name).or_default();
                *last = sequence.max(*last);
            }
        }
        let read = |(name, sequence): (String, u64)| self.change(&name, sequence);
        latest.into_iter().map(read).filter_map(Result::transpose).collect()
    }

    /// Every meaning that a name has had, the newest first, as far as [`Remote::gc`] has left them.
    ///
    /// From a web server it takes two requests for each change, and comes no further than to the
    /// thousand newest ones and some older ones.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`]; those of every operation, see [`Remote`], except
    /// [`ErrorKind::Untrusted`]: see [`RemoteName::signers`].
    pub fn log(&self, name: &str) -> Result<Vec<RemoteName>, Error> {
        let mut sequences = self.sequences(name)?;
        sequences.sort_unstable_by(|a, b| b.cmp(a));
        let lowest = steps::lowest_kept(sequences.iter().copied());
        let mut log = Vec::new();
        for sequence in sequences {
            let Some(mut change) = self.change(name, sequence)? else { continue };
            change.collected =
                sequence < lowest && !self.is_there(&snapshot_key(change.snapshot))?;
            log.push(change);
        }
        Ok(log)
    }

    fn objects(&self) -> &Patient {
        &self.place.objects
    }

    fn failed(&self, operation: Operation, key: &str, error: io::Error) -> Error {
        failed(operation, &self.place.url, key, error)
    }

    /// The error for an object that is not what its name says.
    fn damaged(&self, key: &str, why: impl Into<String>) -> Error {
        let cause = io::Error::new(io::ErrorKind::InvalidData, why.into());
        Error::new(ErrorKind::Damaged, Operation::ReadRemote, self.at(key), cause)
    }

    /// Where an object is, for messages.
    fn at(&self, key: &str) -> PathBuf {
        at(&self.place.url, key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<objects::ListedObject>, Error> {
        self.objects()
            .list(prefix)
            .map_err(|error| self.failed(Operation::ReadRemote, prefix, error))
    }

    fn read(&self, key: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
        self.objects()
            .read(key, most)
            .map_err(|error| self.failed(Operation::ReadRemote, key, error))
    }

    fn is_there(&self, key: &str) -> Result<bool, Error> {
        Ok(self.size(Operation::ReadRemote, key)?.is_some())
    }

    fn size(&self, operation: Operation, key: &str) -> Result<Option<u64>, Error> {
        self.objects().size(key).map_err(|error| self.failed(operation, key, error))
    }

    /// Makes an object. `false` if there is one.
    fn create(&self, operation: Operation, key: &str, content: &[u8]) -> Result<bool, Error> {
        self.objects().create(key, content).map_err(|error| self.failed(operation, key, error))
    }

    fn remove(&self, operation: Operation, key: &str) -> Result<(), Error> {
        self.objects().remove(key).map_err(|error| self.failed(operation, key, error))
    }

    fn must_be_kept(&self, operation: Operation) -> Result<(), Error> {
        must_be_kept(self.objects(), operation, self.url())
    }

    /// The number of the newest change of a name. Where keys cannot be listed, it looks for one
    /// that is newer than the one that was `seen` before.
    fn newest(&self, name: &str, seen: u64) -> Result<Option<u64>, Error> {
        if self.objects().kept().is_ok() {
            return Ok(self.sequences(name)?.into_iter().max());
        }
        let encoded = name::encoded(name)?;
        let is_there = |number| self.is_there(&name::key_of(&encoded, number));
        let mut newest = steps::newest(seen, is_there)?;
        if newest == seen && seen > 0 && !is_there(seen)? {
            newest = steps::newest(0, is_there)?;
        }
        Ok((newest > 0).then_some(newest))
    }

    /// The numbers of the changes of a name. Where keys cannot be listed: of the newest ones up to
    /// the first that is gone, and of the steps.
    fn sequences(&self, name: &str) -> Result<Vec<u64>, Error> {
        let encoded = name::encoded(name)?;
        if self.objects().kept().is_err() {
            let newest = self.newest(name, 0)?.unwrap_or(0);
            let mut all = steps::to(newest);
            for number in (1..newest).rev().filter(|number| !steps::is_step(*number, newest)) {
                if all.len() >= LOG_MOST_CHANGES
                    || !self.is_there(&name::key_of(&encoded, number))?
                {
                    break;
                }
                all.push(number);
            }
            return Ok(all);
        }
        let prefix = format!("names/{encoded}/");
        let listed = self.list(&prefix)?;
        Ok(listed.iter().filter_map(|one| name::of_key(&one.key)).map(|(_, n)| n).collect())
    }

    /// A change of a name as it is stored, with the keys that vouch for it. `None`: it was removed
    /// since it was listed.
    fn named(&self, name: &str, sequence: u64) -> Result<Option<VouchedName>, Error> {
        let key = name::key_of(&name::encoded(name)?, sequence);
        let Some(bytes) = self.read(&key, NAME_MOST_BYTES)? else { return Ok(None) };
        let Some((named, signers)) = Named::decode(&bytes) else {
            return Err(self.damaged(&key, "it does not say what a name means"));
        };
        // An object of another place may have been put here.
        if named.name != name || named.sequence != sequence || named.remote != self.place.id {
            return Err(self.damaged(&key, "it belongs to another name, number or remote"));
        }
        Ok(Some((named, signers)))
    }

    fn change(&self, name: &str, sequence: u64) -> Result<Option<RemoteName>, Error> {
        let Some((named, signers)) = self.named(name, sequence)? else { return Ok(None) };
        let made = Duration::from_secs(u64::try_from(named.made).unwrap_or(0));
        Ok(Some(RemoteName {
            name: named.name,
            sequence,
            snapshot: named.snapshot,
            made: UNIX_EPOCH.checked_add(made).unwrap_or(UNIX_EPOCH),
            signers,
            collected: false,
        }))
    }

    /// The record of a snapshot, and the snapshot's object. `None`: the remote does not have the
    /// snapshot.
    fn record(
        &self,
        id: SnapshotId,
    ) -> Result<Option<(Record, super::object::SnapshotObject)>, Error> {
        let key = snapshot_key(id);
        let Some(bytes) = self.read(&key, RECORD_MOST_BYTES)? else { return Ok(None) };
        let damaged = |why: super::object::Malformed| self.damaged(&key, why.to_string());
        let record = Record::decode(&bytes).map_err(damaged)?;
        if SnapshotId::of(&record.snapshot) != id {
            return Err(self.damaged(&key, "it is about another snapshot"));
        }
        let object = super::object::SnapshotObject::decode(&record.snapshot).map_err(damaged)?;
        Ok(Some((record, object)))
    }

    /// Works on tasks with the operation's threads.
    fn each<T: Send>(
        &self,
        operation: Operation,
        running: &Running,
        tasks: Vec<T>,
        work: impl Fn(T) -> Result<(), Error> + Sync,
    ) -> Result<(), Error> {
        let what = (operation, self.url().as_ref());
        pool::run(running, what, tasks, |_| (), |(), task, _| work(task)).map(drop)
    }

    /// Puts a range of an object in place of what `into` has.
    fn range(&self, key: &str, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), Error> {
        self.objects().get_into(key, range, into).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.vanished(key),
            _ => self.failed(Operation::ReadRemote, key, error),
        })
    }

    /// The items of a part.
    fn part(
        &self,
        part: record::PartRef,
        each: impl FnMut(&[u8]) -> Result<(), super::object::Malformed>,
    ) -> Result<(), Error> {
        self.objects().limit.wait();
        let key = part_key(part.id);
        let bytes = self.read(&key, part.length)?.ok_or_else(|| self.vanished(&key))?;
        record::decode_part(part.id, &bytes, each)
            .map_err(|error| self.damaged(&key, error.to_string()))
    }

    /// The error for an object that a record names and that is not there. The cause's kind tells it
    /// from other damage.
    fn vanished(&self, key: &str) -> Error {
        let cause = io::Error::new(io::ErrorKind::NotFound, "it is gone from the remote");
        Error::new(ErrorKind::Damaged, Operation::ReadRemote, self.at(key), cause)
    }

    /// The error for a name that nobody whom the caller trusts vouches for.
    fn untrusted(&self, key: &str, why: impl Into<String>) -> Error {
        let cause = io::Error::new(io::ErrorKind::InvalidData, why.into());
        Error::new(ErrorKind::Untrusted, Operation::ReadRemote, self.at(key), cause)
    }

    /// The number and the snapshot that a name had when this store last saw it. With configured
    /// keys only what one of them vouched for counts: anybody can say anything else.
    fn seen(&self, store: &Store, encoded: &str) -> Result<Option<(u64, SnapshotId)>, Error> {
        let all = self.all_seen(store, encoded)?;
        let counts = |seen: &&SeenName| match seen.signer {
            Some(signer) => self.keys.is_empty() || self.keys.contains(&signer),
            None => self.keys.is_empty(),
        };
        let newest = all.iter().filter(counts).max_by_key(|seen| seen.sequence);
        Ok(newest.map(|seen| (seen.sequence, seen.snapshot)))
    }

    /// # Errors
    /// The memory cannot be read. Without it the name could be set back.
    fn all_seen(&self, store: &Store, encoded: &str) -> Result<Vec<SeenName>, Error> {
        let path = store.layout().remote_name(&self.place.id, encoded);
        let text = read_plain(rustix::fs::CWD, &path, SEEN_MOST_BYTES).if_there();
        let Some(text) = text.context(Operation::Read, || &path)? else { return Ok(Vec::new()) };
        // A power cut may have left it empty.
        let lines = std::str::from_utf8(&text).map(str::lines);
        let all: Option<Vec<_>> = lines.ok().and_then(|lines| lines.map(SeenName::parse).collect());
        let counts = |seen: &SeenName| seen.sequence < FORGOTTEN;
        all.map(|all| all.into_iter().filter(counts).collect()).ok_or_else(|| {
            let why = "it does not say what the name meant";
            let cause = io::Error::new(io::ErrorKind::InvalidData, why);
            Error::new(ErrorKind::Damaged, Operation::FindRemote, path, cause)
        })
    }

    /// Remembers what a name means now, and which of the configured keys vouch for it, unless the
    /// store has seen something newer.
    fn remember(&self, store: &Store, named: &Named, signers: &[PublicKey]) -> Result<(), Error> {
        let encoded = name::encoded(&named.name)?;
        let path = store.layout().remote_name(&self.place.id, &encoded);
        let _guard = locks::one_at_the_remotes(store.path())?;
        let mut all = self.all_seen(store, &encoded)?;
        let signers = signers.iter().filter(|key| self.keys.contains(key)).copied().map(Some);
        let signers = signers.chain(self.keys.is_empty().then_some(None));
        let mut is_new = false;
        for signer in signers {
            let known = all.iter().position(|seen| seen.signer == signer);
            if known.is_some_and(|at| all[at].sequence >= named.sequence) {
                continue;
            }
            known.map(|at| all.swap_remove(at));
            all.push(SeenName { sequence: named.sequence, snapshot: named.snapshot, signer });
            is_new = true;
        }
        if !is_new {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            let text: String = all.iter().map(SeenName::line).collect();
            write_flushed(&store.layout().stage(), &path, text.as_bytes())
        };
        write().map_err(|error| Error::io(Operation::Write, &path, error))
    }
}

/// Pushes count up by one, so none ever gives a change this number or a higher one. One that has it
/// was made by hand, and when it is removed, no store remembers it: what follows the last number
/// could never be pushed.
const FORGOTTEN: u64 = 1 << 63;

/// What a name meant when a store last saw it, and the configured key that vouched for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenName {
    sequence: u64,
    snapshot: SnapshotId,
    /// `None`: no keys were configured.
    signer: Option<PublicKey>,
}

impl SeenName {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (sequence, snapshot) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let signer = words.next().map(str::parse).transpose().ok()?;
        words.next().is_none().then_some(Self { sequence, snapshot, signer })
    }

    fn line(&self) -> String {
        let signer = self.signer.map(|key| format!(" {key}")).unwrap_or_default();
        format!("{} {}{signer}\n", self.sequence, self.snapshot)
    }
}

fn at(url: &str, key: &str) -> PathBuf {
    format!("{}/{key}", url.trim_end_matches('/')).into()
}

fn failed(operation: Operation, url: &str, key: &str, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::InvalidData => ErrorKind::Damaged,
        io::ErrorKind::Unsupported => ErrorKind::RemoteUnfit,
        io::ErrorKind::Interrupted => ErrorKind::Cancelled,
        _ => return Error::io(operation, at(url, key), error),
    };
    Error::new(kind, operation, at(url, key), error)
}

/// The error for what needs a place where calve can write and list keys.
fn must_be_kept(objects: &Patient, operation: Operation, url: &str) -> Result<(), Error> {
    let unfit = |error| Error::new(ErrorKind::RemoteUnfit, operation, url, error);
    objects.kept().map(drop).map_err(unfit)
}

fn snapshot_key(id: SnapshotId) -> String {
    format!("snapshots/{id}")
}

fn pack_key(id: ObjectId) -> String {
    format!("packs/{id}")
}

fn part_key(id: ObjectId) -> String {
    format!("parts/{id}")
}

fn found_key(id: ObjectId) -> String {
    format!("found/{id}")
}

/// The remote's id, from its object `format`; or why this calve cannot use it.
fn read_format(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let rest = text.strip_prefix(FORMAT_FIRST_LINE).ok_or("it is not a remote of calve's")?;
    let (version, rest) = rest.split_once('\n').ok_or("its object 'format' is cut off")?;
    if version != VERSION.to_string() {
        return Err(format!("it has version {version:?}; this calve knows version {VERSION} only"));
    }
    let id = rest.strip_prefix("id ").and_then(|rest| rest.strip_suffix('\n'));
    // It becomes a part of a path.
    id.filter(|id| is_token(id))
        .map(str::to_owned)
        .ok_or_else(|| "its object 'format' has no id".to_owned())
}

#[cfg(test)]
mod tests {
    use super::make::{CANARY_BYTES, may_have_secrets};
    use super::objects::Source as _;
    use super::*;

    /// A server that takes the condition and ignores it.
    #[derive(Debug, Default)]
    struct Careless(std::sync::Mutex<std::collections::HashMap<String, Vec<u8>>>);

    impl objects::Source for Careless {
        fn get_into(&self, _: &str, _: std::ops::Range<u64>, _: &mut Vec<u8>) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn read(&self, key: &str, _: u64) -> io::Result<Vec<u8>> {
            self.0.lock().unwrap().get(key).cloned().ok_or(io::ErrorKind::NotFound.into())
        }

        fn size(&self, key: &str) -> io::Result<u64> {
            Ok(self.read(key, 0)?.len() as u64)
        }
    }

    impl objects::Objects for Careless {
        fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
            self.0.lock().unwrap().insert(key.to_owned(), content.to_vec());
            Ok(true)
        }

        fn list(&self, _: &str, _: &mut dyn FnMut(objects::ListedObject)) -> io::Result<()> {
            Ok(())
        }

        fn remove(&self, key: &str) -> io::Result<()> {
            self.0.lock().unwrap().remove(key);
            Ok(())
        }
    }

    #[test]
    fn a_url_with_a_secret_is_refused_and_the_secret_is_not_shown() {
        for (url, shown) in [
            ("s3://hunter2@bucket/p", Some("s3://bucket/p")),
            ("s3://key:hunter2@bucket/p", Some("s3://bucket/p")),
            ("https://a:hunter2@host/p", Some("https://host/p")),
            ("https://host/p?token=hunter2", Some("https://host/p")),
            ("ftp://a:hunter2@host#hunter2", Some("ftp://host")),
            ("abfss://a:hunter2@host/p", Some("abfss://host/p")),
            ("abfss://container@account/p", None),
            ("https:///a:hunter2@host/p", Some("https:///host/p")),
            ("HTTPS:/a:hunter2@host/p", Some("HTTPS:/host/p")),
            ("https://a:hunter2/@host/p", Some("https://host/p")),
            ("https://a:hunter2/x@y@host?z", Some("https://host")),
            ("s3:////key:hunter2@bucket", Some("s3:////bucket")),
            ("https://host/a@b", None),
            ("https://host:8443/a@b", None),
            ("file://a:hunter2@host/p", Some("file://host/p")),
            ("file:///a:b@c?d#e", None),
        ] {
            assert_eq!(may_have_secrets(url), shown.is_some(), "{url}");
            let Some(shown) = shown else { continue };
            let error = Remote::open(url, &RemoteSettings::new()).unwrap_err();
            assert_eq!((error.kind(), error.path()), (ErrorKind::InvalidName, shown.as_ref()));
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_place_that_accepts_a_second_write_gets_no_remote_and_keeps_nothing() {
        let objects = Patient::new(Box::new(Careless::default()));
        let error = Remote::init_in("s3://careless", objects).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteUnfit, "{error}");
        assert!(error.to_string().contains("second write"), "{error}");
    }

    /// A server that looks whether the key exists, and writes later: with long objects it looks for
    /// another writer before it writes.
    #[derive(Debug, Default)]
    struct Hasty {
        kept: Careless,
        writers: std::sync::Mutex<usize>,
        came: std::sync::Condvar,
    }

    impl objects::Source for Hasty {
        fn get_into(
            &self,
            key: &str,
            range: std::ops::Range<u64>,
            into: &mut Vec<u8>,
        ) -> io::Result<()> {
            self.kept.get_into(key, range, into)
        }

        fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>> {
            self.kept.read(key, most)
        }

        fn size(&self, key: &str) -> io::Result<u64> {
            self.kept.size(key)
        }
    }

    impl objects::Objects for Hasty {
        fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
            if self.size(key).is_ok() {
                return Ok(false);
            }
            if content.len() == CANARY_BYTES {
                let mut writers = self.writers.lock().unwrap();
                *writers += 1;
                self.came.notify_all();
                while *writers < 2 {
                    writers = self.came.wait(writers).unwrap();
                }
            }
            self.kept.create(key, content)
        }

        fn list(
            &self,
            prefix: &str,
            each: &mut dyn FnMut(objects::ListedObject),
        ) -> io::Result<()> {
            self.kept.list(prefix, each)
        }

        fn remove(&self, key: &str) -> io::Result<()> {
            self.kept.remove(key)
        }
    }

    #[test]
    fn a_place_that_looks_first_and_writes_later_gets_no_remote() {
        let objects = Patient::new(Box::new(Hasty::default()));
        let error = Remote::init_in("s3://hasty", objects).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteUnfit, "{error}");
        assert!(error.to_string().contains("at once"), "{error}");
    }

    #[test]
    fn the_format_of_another_version_or_with_an_id_that_is_a_path_is_refused() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(read_format(format!("calve remote 1\nid {id}\n").as_bytes()).unwrap(), id);
        for text in [
            "",
            "calve remote 1",
            "calve remote 1\n",
            "calve store 1\nid 0\n",
            &format!("calve remote 2\nid {id}\n"),
            &format!("calve remote 1\nid {id}"),
            &format!("calve remote 1\nid {id}\nmore\n"),
            "calve remote 1\nid ../../../../../../../../../../ab\n",
            &format!("calve remote 1\nid {}\n", id.to_uppercase()),
        ] {
            assert!(read_format(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}

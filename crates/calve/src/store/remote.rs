//! Snapshots through a place that several machines can reach: a *remote*.
//!
//! A remote is objects under keys; calve has no server of its own. [`objects`] says what calve asks
//! of the place, [`record`] and [`name`] what the objects are, [`push`] and [`pull`] how snapshots
//! get there and back, [`collect`] what is removed, [`underway`] why that is safe, and [`check`] what
//! is damaged. Why nothing is lost is in `docs/design/remote.md`.
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
//! ```
//! calve writes them from the bottom to the top, so everything that an object refers to is there
//! before it.
//!
//! # What is not trusted
//! Nothing of it. The snapshot's id decides which bytes are right, and where keys are configured,
//! a signature decides which id a name means.

use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::read_plain;
use super::id::{SnapshotId, is_token, token};
use super::{Store, locks};
use crate::error::{Error, ErrorKind, Operation};
use crate::report::Cancel;
use crate::tree::staging::write_whole;

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
mod underway;

pub use check::{
    RemoteBroken, RemoteDamage, RemoteDamageKind, RemoteVerifyOptions, RemoteVerifyReport,
};
pub use collect::{RemoteGarbage, RemoteGcOptions, RemoteGcReport};
pub use known::KnownRemote;
pub use name::{PublicKey, SigningKey};
pub use pull::{PullOptions, PullReport};
pub use push::{PushOptions, PushReport};

use name::{NAME_MOST_BYTES, Named, Vouched};
use objects::Patient;
use record::{ObjectId, RECORD_MOST_BYTES, Record};

const FORMAT_KEY: &str = "format";
/// What `init` writes to try a place.
const CANARIES: &str = "canary/";
/// Where a remote has its objects, apart from the format.
const FOLDERS: [&str; 8] =
    ["names/", "snapshots/", "packs/", "parts/", "found/", CANARIES, "underway/", "condemned/"];
const FORMAT_MOST_BYTES: u64 = 4096;
const FORMAT_FIRST_LINE: &str = "calve remote ";
const VERSION: u32 = 1;

/// What a store remembers of a name is one short line.
const SEEN_MOST_BYTES: u64 = 256;

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
    place: Arc<Place>,
    keys: Vec<PublicKey>,
}

#[derive(Debug)]
struct Place {
    url: String,
    /// The remote's own id, from its object `format`.
    id: String,
    objects: Patient,
    times: underway::Times,
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
}

/// What a server must be told: credentials, region, endpoint. Built by value.
///
/// The library reads no environment, so the caller says what the providers' own tools would find
/// there, under the same names in lower case: `aws_access_key_id`, `aws_secret_access_key`,
/// `aws_region`, `aws_endpoint`, `google_service_account_path`, `azure_storage_account_name` and so
/// on, as `object_store` documents them. Settings of other providers are ignored, and a folder needs
/// none.
#[derive(Clone, Default)]
pub struct RemoteSettings(Vec<(String, String)>);

/// The names of the settings; their values are secret.
impl std::fmt::Debug for RemoteSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

impl RemoteSettings {
    /// No settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }
}

/// Opens the place that a URL names.
fn place_of(url: &str, settings: &RemoteSettings) -> Result<Patient, Error> {
    let wrong = |why: &str| {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
        Error::new(ErrorKind::InvalidName, Operation::OpenRemote, url, cause)
    };
    if url.contains(char::is_control) {
        return Err(wrong("it has a control character"));
    }
    #[cfg(feature = "cloud")]
    if cloud::is_known(url) {
        let cloud = cloud::Cloud::new(url, &settings.0).map_err(|error| {
            Error::new(ErrorKind::InvalidName, Operation::OpenRemote, url, error)
        })?;
        return Ok(Patient::new(Box::new(cloud)));
    }
    let _ = settings;
    let path = url.strip_prefix("file://").ok_or_else(|| {
        wrong(match cfg!(feature = "cloud") {
            true => "it is neither file:///FOLDER nor s3://, gs:// or az:// with a bucket",
            false => {
                "this calve knows remotes of the form file:///FOLDER only; one that is built with the feature 'cloud' knows s3://, gs:// and az://"
            }
        })
    })?;
    if !path.starts_with('/') {
        return Err(wrong("a remote in a folder is file:// and the folder's absolute path"));
    }
    Ok(Patient::new(Box::new(folder::Folder::new(PathBuf::from(path)))))
}

impl Remote {
    /// Makes a remote at `url`: `file://` and the absolute path of a folder, which exists. Several
    /// machines may reach it through a network filesystem with hard links. With the feature `cloud`
    /// also `s3://BUCKET/PREFIX`, `gs://…` and `az://…`.
    ///
    /// It tries whether the place refuses to write a key a second time, since calve relies on that.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] if the URL is none that calve knows; [`ErrorKind::RemoteExists`];
    /// [`ErrorKind::RemoteUnfit`] if the place accepts a second write, or has objects of somebody
    /// else under the keys of a remote; those of every operation,
    /// see [`Remote`]. It may leave an object `canary/…` behind.
    pub fn init(url: &str, settings: &RemoteSettings) -> Result<Self, Error> {
        Self::init_in(url, place_of(url, settings)?)?;
        Self::open(url, settings)
    }

    fn init_in(url: &str, objects: Patient) -> Result<(), Error> {
        let failed = |key: &str, error: io::Error| failed(Operation::MakeRemote, url, key, error);
        let exists = || {
            let cause = io::Error::new(io::ErrorKind::AlreadyExists, "a remote is there");
            Error::new(ErrorKind::RemoteExists, Operation::MakeRemote, url, cause)
        };
        if objects.size(FORMAT_KEY).map_err(|error| failed(FORMAT_KEY, error))?.is_some() {
            return Err(exists());
        }
        // Whoever collects takes what is under these keys for calve's own.
        for folder in FOLDERS {
            let listed = objects.list(folder).map_err(|error| failed(folder, error))?;
            let is_left = |key: &str| key.strip_prefix(CANARIES).is_some_and(is_token);
            if let Some(other) = listed.iter().find(|one| !is_left(&one.key)) {
                let cause = io::Error::other(format!(
                    "it is not empty: it has {}, where a remote keeps its own objects",
                    other.key
                ));
                return Err(Error::new(ErrorKind::RemoteUnfit, Operation::MakeRemote, url, cause));
            }
        }
        let canary = format!("{CANARIES}{}", token());
        let sing = || -> io::Result<bool> {
            let first = objects.create(&canary, b"first")?;
            let second = objects.create(&canary, b"second")?;
            let content = objects.read(&canary, FORMAT_MOST_BYTES)?;
            Ok(first && !second && content.as_deref() == Some(b"first"))
        };
        let sound = sing();
        let removed = objects.remove(&canary);
        if !sound.map_err(|error| failed(&canary, error))? {
            let cause = io::Error::other(
                "it accepts a second write under a key that exists, so two machines that push at once could overwrite each other",
            );
            return Err(Error::new(ErrorKind::RemoteUnfit, Operation::MakeRemote, url, cause));
        }
        removed.map_err(|error| failed(&canary, error))?;
        let format = format!("{FORMAT_FIRST_LINE}{VERSION}\nid {}\n", token());
        let made = objects.create(FORMAT_KEY, format.as_bytes());
        if !made.map_err(|error| failed(FORMAT_KEY, error))? {
            // The answer to an attempt that succeeded may have been lost.
            let there = objects.read(FORMAT_KEY, FORMAT_MOST_BYTES);
            if there.map_err(|error| failed(FORMAT_KEY, error))?.as_deref()
                != Some(format.as_bytes())
            {
                return Err(exists());
            }
        }
        Ok(())
    }

    /// Opens the remote at `url`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] if the URL is none that calve knows;
    /// [`ErrorKind::RemoteNotFound`] if no remote is there; [`ErrorKind::StoreIncompatible`] if a
    /// later version of calve made it; those of every operation, see [`Remote`].
    pub fn open(url: &str, settings: &RemoteSettings) -> Result<Self, Error> {
        let objects = place_of(url, settings)?;
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
        let times = underway::Times::USUAL;
        let place = Place { url: url.to_owned(), id, objects, times };
        Ok(Self { place: Arc::new(place), keys: Vec::new() })
    }

    /// The same remote, but a name counts only if one of these keys has signed it. Without keys,
    /// whoever can write to the remote decides what its names mean.
    #[must_use]
    pub fn trusting(mut self, keys: impl IntoIterator<Item = PublicKey>) -> Self {
        self.keys = keys.into_iter().collect();
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

    /// The URL that it was opened with.
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
    /// Those of every operation, see [`Remote`], except [`ErrorKind::Untrusted`]: see
    /// [`RemoteName::signers`].
    pub fn names(&self) -> Result<Vec<RemoteName>, Error> {
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

    /// Every meaning that a name has had, the newest first.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`]; otherwise as for [`Remote::names`].
    pub fn log(&self, name: &str) -> Result<Vec<RemoteName>, Error> {
        let mut sequences = self.sequences(name)?;
        sequences.sort_unstable_by(|a, b| b.cmp(a));
        let read = |sequence| self.change(name, sequence);
        sequences.into_iter().map(read).filter_map(Result::transpose).collect()
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

    fn list(&self, prefix: &str) -> Result<Vec<objects::Listed>, Error> {
        self.objects()
            .list(prefix)
            .map_err(|error| self.failed(Operation::ReadRemote, prefix, error))
    }

    fn read(&self, key: &str, most: u64) -> Result<Option<Vec<u8>>, Error> {
        self.objects()
            .read(key, most)
            .map_err(|error| self.failed(Operation::ReadRemote, key, error))
    }

    /// The numbers of all changes of a name.
    fn sequences(&self, name: &str) -> Result<Vec<u64>, Error> {
        let prefix = format!("names/{}/", name::encoded(name)?);
        let listed = self.list(&prefix)?;
        Ok(listed.iter().filter_map(|one| name::of_key(&one.key)).map(|(_, n)| n).collect())
    }

    /// A change of a name as it is stored, with the keys that vouch for it. `None`: it was removed
    /// since it was listed.
    fn named(&self, name: &str, sequence: u64) -> Result<Option<Vouched>, Error> {
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

    /// The number and the snapshot that a name had when this store last saw it.
    fn seen(&self, store: &Store, encoded: &str) -> Option<(u64, SnapshotId)> {
        let path = store.layout().remote_name(&self.place.id, encoded);
        let text = read_plain(rustix::fs::CWD, &path, SEEN_MOST_BYTES).ok()?;
        let (number, id) = std::str::from_utf8(&text).ok()?.trim_end().split_once(' ')?;
        Some((number.parse().ok()?, id.parse().ok()?))
    }

    /// Remembers what a name means now, unless the store has seen something newer.
    fn remember(&self, store: &Store, named: &Named) -> Result<(), Error> {
        let encoded = name::encoded(&named.name)?;
        let path = store.layout().remote_name(&self.place.id, &encoded);
        let _guard = locks::one_at_the_remotes(store.path())?;
        if self.seen(store, &encoded).is_some_and(|(sequence, _)| sequence >= named.sequence) {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            let text = format!("{} {}\n", named.sequence, named.snapshot);
            write_whole(&store.layout().stage(), &path, text.as_bytes())
        };
        write().map_err(|error| Error::io(Operation::Write, &path, error))
    }
}

fn at(url: &str, key: &str) -> PathBuf {
    format!("{}/{key}", url.trim_end_matches('/')).into()
}

fn failed(operation: Operation, url: &str, key: &str, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::InvalidData {
        return Error::new(ErrorKind::Damaged, operation, at(url, key), error);
    }
    Error::io(operation, at(url, key), error)
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

/// Whether this can be the id of a remote. It becomes a part of a path.
fn is_remote_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
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
    id.filter(|id| is_remote_id(id))
        .map(str::to_owned)
        .ok_or_else(|| "its object 'format' has no id".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that takes the condition and ignores it.
    #[derive(Debug, Default)]
    struct Careless(std::sync::Mutex<std::collections::HashMap<String, Vec<u8>>>);

    impl objects::Objects for Careless {
        fn get(&self, _: &str, _: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn read(&self, key: &str, _: u64) -> io::Result<Vec<u8>> {
            self.0.lock().unwrap().get(key).cloned().ok_or(io::ErrorKind::NotFound.into())
        }

        fn size(&self, key: &str) -> io::Result<u64> {
            Ok(self.read(key, 0)?.len() as u64)
        }

        fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
            self.0.lock().unwrap().insert(key.to_owned(), content.to_vec());
            Ok(true)
        }

        fn list(&self, _: &str, _: &mut dyn FnMut(objects::Listed)) -> io::Result<()> {
            Ok(())
        }

        fn remove(&self, key: &str) -> io::Result<()> {
            self.0.lock().unwrap().remove(key);
            Ok(())
        }
    }

    #[test]
    fn a_place_that_accepts_a_second_write_gets_no_remote_and_keeps_nothing() {
        let objects = Patient::new(Box::new(Careless::default()));
        let error = Remote::init_in("s3://careless", objects).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteUnfit, "{error}");
        assert!(error.to_string().contains("second write"), "{error}");
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

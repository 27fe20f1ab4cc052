//! S3, Google Cloud Storage and Azure, and servers that speak like them, as places for objects; and
//! web servers, from which objects can only be read.
//!
//! `object_store` speaks to them. It is asynchronous: each call here waits for its own answer, on a
//! small runtime that belongs to the remote.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use futures_util::future::select;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{
    Attribute, ClientOptions, Error as CloudError, GetOptions, GetRange, GetResult, ObjectStore,
    ObjectStoreExt as _, ObjectStoreScheme, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::super::stopping::{STOPPED_MOST, is_stopping};
use super::objects::{ListedObject, Objects, Source};
use crate::tree::pool::lock;

/// How long one request may take. A pack of 16 MiB arrives in that time at 60 kB/s.
const REQUEST: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(10);
/// How often a request is tried again, and for how long. The pauses grow from 0.1 to 3 seconds.
/// With the patience of calve's own, a server may be away for some twenty seconds.
const RETRY: Duration = Duration::from_secs(20);
const RETRIES: usize = 6;
/// calve reads a new object back if it is at most this long. The key of a longer object is its hash,
/// and calve asks for its size only.
const READ_BACK_BYTES: u64 = super::make::CANARY_BYTES as u64;
/// How often a request that takes long looks whether the program is to stop.
const LOOK: Duration = Duration::from_millis(200);
/// Threads that wait for answers. The caller's threads do the work.
const THREADS: usize = 2;

#[derive(Debug)]
pub(crate) struct Cloud {
    store: Box<dyn ObjectStore>,
    prefix: Key,
    /// There until this is dropped.
    runtime: Option<Runtime>,
}

/// The system may look for a server's name for long, and cannot be stopped. Nobody waits for it.
impl Drop for Cloud {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether `url` is of a kind that this module knows.
pub(crate) fn is_known(url: &str) -> bool {
    ["s3://", "gs://", "az://", "abfs://", "abfss://"].iter().any(|scheme| url.starts_with(scheme))
}

/// Whether `url` is that of a web server.
pub(crate) fn is_web(url: &str) -> bool {
    ["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
}

fn invalid(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why.to_string())
}

fn retry() -> RetryConfig {
    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() }
}

fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT)
}

impl Cloud {
    /// A web server that hands out objects. Only the methods of [`Source`] make sense there.
    /// Nothing is asked of it yet.
    pub(crate) fn web(url: &str) -> io::Result<Self> {
        let mut url = Url::parse(url).map_err(|error| invalid(&error))?;
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty();
        }
        // From https:// no redirect leads to http://.
        let client = client().with_allow_http(url.scheme() == "http");
        let store =
            HttpBuilder::new().with_url(url).with_retry(retry()).with_client_options(client);
        let store = store.build().map_err(|error| invalid(&error))?;
        Self::with(Box::new(store), Key::default())
    }

    fn with(store: Box<dyn ObjectStore>, prefix: Key) -> io::Result<Self> {
        are_threads_to_be_had()?;
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        Ok(Self { store, prefix, runtime: Some(runtime) })
    }

    /// Waits for the answer to a request. If the program is to stop, each request has three seconds,
    /// also one that removes what would be left behind.
    fn answer<T>(&self, asked: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        self.answer_unless(asked, STOPPED_MOST, is_stopping)
    }

    /// Waits for the answer as long as `is_stopping` does not say after `patience` to stop.
    fn answer_unless<T>(
        &self,
        asked: impl Future<Output = io::Result<T>>,
        patience: Duration,
        is_stopping: impl Fn() -> bool,
    ) -> io::Result<T> {
        let stopped = async {
            tokio::time::sleep(patience).await;
            while !is_stopping() {
                tokio::time::sleep(LOOK).await;
            }
            let why = "the server had not answered when this command was stopped";
            Err(io::Error::new(io::ErrorKind::Interrupted, why))
        };
        let Some(runtime) = &self.runtime else { return Err(io::ErrorKind::NotConnected.into()) };
        runtime.block_on(async {
            let (asked, stopped) = (pin!(asked), pin!(stopped));
            select(asked, stopped).await.factor_first().0
        })
    }

    /// Nothing is asked of the server yet. `settings` are what the providers call them, in lower
    /// case: `aws_access_key_id` and so on. Those of other providers are ignored.
    pub(crate) fn new(url: &str, settings: &[(String, String)]) -> io::Result<Self> {
        let parsed = Url::parse(url).map_err(|error| invalid(&error))?;
        let (scheme, prefix) =
            ObjectStoreScheme::parse(&parsed).map_err(|error| invalid(&error))?;
        macro_rules! build {
            ($builder:ty) => {{
                let mut builder = <$builder>::new()
                    .with_url(url)
                    .with_retry(retry())
                    .with_client_options(client());
                for (key, value) in settings {
                    if let Ok(key) = key.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                Box::new(builder.build().map_err(|error| invalid(&error))?)
            }};
        }
        let store: Box<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
            ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
            ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
            _ => return Err(invalid(&"it is no URL of an object store")),
        };
        Self::with(store, prefix)
    }

    /// An object's key on the server. Our keys are as they are to be there.
    fn key(&self, key: &str) -> io::Result<Key> {
        let prefix = self.prefix.as_ref();
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        Key::parse(path).map_err(io::Error::other)
    }
}

/// Starts as many threads at once as the runtime will, and one more, for the names of hosts. The
/// runtime panics or waits for ever where the system refuses them.
///
/// # Errors
/// The limit of processes is reached.
fn are_threads_to_be_had() -> io::Result<()> {
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let _closed = lock(&gate);
        (0..=THREADS).try_for_each(|_| {
            std::thread::Builder::new().spawn_scoped(scope, || drop(lock(&gate))).map(drop)
        })
    })
}

impl Cloud {
    /// Whether the answer to a write is true: 409 says that nobody's write landed, and an answer of
    /// 200 can have an error in its body. So calve looks at what the server has. If that is
    /// nothing, the caller tries again.
    fn landed(&self, key: &str, content: &[u8], made: bool) -> io::Result<bool> {
        let length = content.len() as u64;
        let is_ours = match made {
            // Two writers of a name may write as many bytes.
            true if length <= READ_BACK_BYTES => {
                self.read(key, length).map(|there| there == content)
            }
            _ => self.size(key).map(|size| size == length),
        };
        match is_ours {
            Ok(is_ours) => Ok(made && is_ours),
            // It is there, and longer.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "the server answers that the object is there, and does not have it";
                Err(io::Error::new(io::ErrorKind::ResourceBusy, why))
            }
            Err(error) => Err(error),
        }
    }
}

/// The system's word for an error of a server. An error that has no such word may pass.
fn said(error: CloudError) -> io::Error {
    let kind = match &error {
        CloudError::NotFound { .. } => io::ErrorKind::NotFound,
        CloudError::PermissionDenied { .. } | CloudError::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        CloudError::NotSupported { .. }
        | CloudError::NotImplemented { .. }
        | CloudError::UnknownConfigurationKey { .. } => io::ErrorKind::Unsupported,
        CloudError::InvalidPath { .. } => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, with_causes(&error))
}

/// An error with all its causes: the last one says whether it is the name, the line or a
/// certificate.
fn with_causes(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Puts the bytes of an answer, which may be `most`, in place of what `into` has.
async fn receive(found: GetResult, most: u64, into: &mut Vec<u8>) -> io::Result<()> {
    // calve asks for nothing of the sort, and a part of it would be a part of something else.
    const PACKED: [&str; 5] = ["gzip", "deflate", "br", "zstd", "compress"];
    if let Some(encoding) = found.attributes.get(&Attribute::ContentEncoding)
        && PACKED.iter().any(|one| encoding.contains(one))
    {
        let why =
            format!("the server compresses what it sends (Content-Encoding: {})", &**encoding);
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    into.clear();
    let announced = found.range.end.saturating_sub(found.range.start).min(most);
    into.reserve_exact(usize::try_from(announced).unwrap_or_default());
    let mut arriving = found.into_stream();
    while let Some(next) = arriving.try_next().await.map_err(said)? {
        if (into.len() as u64).saturating_add(next.len() as u64) > most {
            let why = "more arrives than was asked for";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        into.extend_from_slice(&next);
    }
    Ok(())
}

impl Source for Cloud {
    fn get_into(&self, key: &str, range: Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        let key = self.key(key)?;
        let most = range.end.saturating_sub(range.start);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        self.answer(async {
            let found = match self.store.get_opts(&key, options).await {
                Err(CloudError::NotSupported { .. }) => {
                    let why = "the server sends all of an object where a part was asked for: it does not know ranges";
                    return Err(io::Error::new(io::ErrorKind::Unsupported, why));
                }
                found => found.map_err(said)?,
            };
            receive(found, most, into).await
        })
    }

    fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>> {
        let key = self.key(key)?;
        self.answer(async {
            let found = self.store.get_opts(&key, GetOptions::default()).await.map_err(said)?;
            // Before its bytes are read.
            if found.meta.size > most {
                let why = "it is larger than it can be";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let mut bytes = Vec::new();
            receive(found, most, &mut bytes).await.map(|()| bytes)
        })
    }

    fn size(&self, key: &str) -> io::Result<u64> {
        let key = self.key(key)?;
        self.answer(async { Ok(self.store.head(&key).await.map_err(said)?.size) })
    }
}

impl Objects for Cloud {
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let path = self.key(key)?;
        let payload = PutPayload::from(content.to_vec());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.answer(async { Ok(self.store.put_opts(&path, payload, options).await) })?;
        let made = match put {
            Ok(_) => true,
            Err(CloudError::AlreadyExists { .. } | CloudError::Precondition { .. }) => false,
            Err(error) => return Err(said(error)),
        };
        self.landed(key, content, made)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ListedObject)) -> io::Result<()> {
        let folder = self.key(prefix.trim_end_matches('/'))?;
        // What the server's keys begin with, and ours do not.
        let own = match self.prefix.as_ref() {
            "" => 0,
            prefix => prefix.len() + 1,
        };
        self.answer(async {
            let mut found = self.store.list(Some(&folder));
            while let Some(meta) = found.try_next().await.map_err(said)? {
                let Some(key) = meta.location.as_ref().get(own..) else { continue };
                let modified = meta.last_modified.timestamp();
                each(ListedObject { key: key.to_owned(), size: meta.size, modified });
            }
            Ok(())
        })
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        let key = self.key(key)?;
        match self.answer(async { Ok(self.store.delete(&key).await) })? {
            Ok(()) | Err(CloudError::NotFound { .. }) => Ok(()),
            Err(error) => Err(said(error)),
        }
    }
}

#[cfg(test)]
mod tests;

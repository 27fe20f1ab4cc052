//! S3, Google Cloud Storage and Azure, and servers that speak like them, as places for objects.
//!
//! `object_store` speaks to them. It is asynchronous: each call here waits for its own answer, on a
//! small runtime that belongs to the remote.

use std::io;
use std::ops::Range;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, Error as CloudError, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _,
    ObjectStoreScheme, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use super::objects::{Listed, Objects};

/// How long one request may take. A pack of 16 MiB arrives in that time at 60 kB/s.
const REQUEST: Duration = Duration::from_secs(300);
const CONNECT: Duration = Duration::from_secs(10);
/// A request is tried again for this long, beside the patience of calve's own.
const RETRY: Duration = Duration::from_secs(20);
const RETRIES: usize = 4;
/// Threads that wait for answers. The caller's threads do the work.
const THREADS: usize = 2;

#[derive(Debug)]
pub(crate) struct Cloud {
    store: Box<dyn ObjectStore>,
    prefix: Key,
    runtime: Runtime,
}

/// Whether `url` is of a kind that this module knows.
pub(crate) fn is_known(url: &str) -> bool {
    ["s3://", "gs://", "az://", "abfs://", "abfss://"].iter().any(|scheme| url.starts_with(scheme))
}

impl Cloud {
    /// Nothing is asked of the server yet. `settings` are what the providers call them, in lower
    /// case: `aws_access_key_id` and so on. Those of other providers are ignored.
    pub(crate) fn new(url: &str, settings: &[(String, String)]) -> io::Result<Self> {
        let invalid = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
        };
        let parsed = Url::parse(url).map_err(|error| invalid(&error))?;
        let (scheme, prefix) =
            ObjectStoreScheme::parse(&parsed).map_err(|error| invalid(&error))?;
        let retry =
            RetryConfig { max_retries: RETRIES, retry_timeout: RETRY, ..RetryConfig::default() };
        let client = ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT);
        macro_rules! build {
            ($builder:ty) => {{
                let mut builder =
                    <$builder>::new().with_url(url).with_retry(retry).with_client_options(client);
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
        let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        Ok(Self { store, prefix, runtime })
    }

    /// An object's key on the server. Our keys are as they are to be there.
    fn key(&self, key: &str) -> io::Result<Key> {
        let prefix = self.prefix.as_ref();
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        Key::parse(path).map_err(io::Error::other)
    }
}

/// The system's word for what a server said. What has none may pass.
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
    io::Error::new(kind, error.to_string())
}

impl Objects for Cloud {
    fn get(&self, key: &str, range: Range<u64>) -> io::Result<Vec<u8>> {
        let key = self.key(key)?;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        self.runtime.block_on(async {
            let found = self.store.get_opts(&key, options).await.map_err(said)?;
            Ok(found.bytes().await.map_err(said)?.into())
        })
    }

    fn read(&self, key: &str, most: u64) -> io::Result<Vec<u8>> {
        let key = self.key(key)?;
        self.runtime.block_on(async {
            let found = self.store.get_opts(&key, GetOptions::default()).await.map_err(said)?;
            // Before its bytes are read.
            if found.meta.size > most {
                let why = "it is larger than it can be";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            Ok(found.bytes().await.map_err(said)?.into())
        })
    }

    fn size(&self, key: &str) -> io::Result<u64> {
        let key = self.key(key)?;
        self.runtime.block_on(async { Ok(self.store.head(&key).await.map_err(said)?.size) })
    }

    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let key = self.key(key)?;
        let payload = PutPayload::from(content.to_vec());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.runtime.block_on(self.store.put_opts(&key, payload, options)) {
            Ok(_) => Ok(true),
            Err(CloudError::AlreadyExists { .. } | CloudError::Precondition { .. }) => Ok(false),
            Err(error) => Err(said(error)),
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Listed)) -> io::Result<()> {
        let folder = self.key(prefix.trim_end_matches('/'))?;
        // What the server's keys begin with, and ours do not.
        let own = match self.prefix.as_ref() {
            "" => 0,
            prefix => prefix.len() + 1,
        };
        self.runtime.block_on(async {
            let mut found = self.store.list(Some(&folder));
            while let Some(meta) = found.try_next().await.map_err(said)? {
                let Some(key) = meta.location.as_ref().get(own..) else { continue };
                let modified = meta.last_modified.timestamp();
                each(Listed { key: key.to_owned(), size: meta.size, modified });
            }
            Ok(())
        })
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        let key = self.key(key)?;
        match self.runtime.block_on(self.store.delete(&key)) {
            Ok(()) | Err(CloudError::NotFound { .. }) => Ok(()),
            Err(error) => Err(said(error)),
        }
    }
}

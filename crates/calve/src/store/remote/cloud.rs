//! S3, Google Cloud Storage and Azure, and servers that speak like them, as places for objects; and
//! web servers, from which objects can only be read.
//!
//! `object_store` speaks to them. It is asynchronous: each call here waits for its own answer, on a
//! small runtime that belongs to the remote.

use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::TryStreamExt as _;
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
const READ_BACK_BYTES: u64 = super::CANARY_BYTES as u64;
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
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid(&"it has a password, which the store and messages would show"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid(&"it has a ? or #, and keys are appended to it"));
        }
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
        Ok(Self { store, prefix, runtime })
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
        self.runtime.block_on(async {
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
        self.runtime.block_on(async {
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
        self.runtime.block_on(async { Ok(self.store.head(&key).await.map_err(said)?.size) })
    }
}

impl Objects for Cloud {
    fn create(&self, key: &str, content: &[u8]) -> io::Result<bool> {
        let path = self.key(key)?;
        let payload = PutPayload::from(content.to_vec());
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let put = self.runtime.block_on(self.store.put_opts(&path, payload, options));
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
        self.runtime.block_on(async {
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
        match self.runtime.block_on(self.store.delete(&key)) {
            Ok(()) | Err(CloudError::NotFound { .. }) => Ok(()),
            Err(error) => Err(said(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::{
        KnownRemote, PullOptions, PushOptions, Remote, RemoteGcOptions, RemoteSettings,
    };
    use super::*;
    use crate::store::{SnapshotOptions, Store, StoreOptions};
    use crate::{CheckoutOptions, ErrorKind};

    /// How a server answers a request for a file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum How {
        Right,
        NoRanges,
        Compressed,
        Lengthless,
        CutOff,
        /// More bytes than the range has, and a length that agrees with them.
        TooMany,
        OtherRange,
        NoContentRange,
        Forbidden,
        Moved,
        MovedInCircles,
        MovedToFile,
        Failing,
    }

    /// A web server over a folder, as long as the process lives.
    struct Server {
        url: String,
        requests: Arc<AtomicU64>,
    }

    impl Server {
        fn new(root: &Path, how: How) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let requests = Arc::new(AtomicU64::new(0));
            let (root, counter) = (root.to_owned(), requests.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let (root, counter) = (root.clone(), counter.clone());
                    std::thread::spawn(move || {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let _ = answer(&stream.unwrap(), &root, how);
                    });
                }
            });
            Self { url, requests }
        }

        fn source(&self) -> Cloud {
            Cloud::web(&format!("{}/trees/", self.url)).unwrap()
        }
    }

    /// The bytes that a path in a request means.
    fn unescaped(path: &str) -> String {
        let (mut bytes, mut rest) = (Vec::new(), path.as_bytes());
        while let Some((first, after)) = rest.split_first() {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(byte) if *first == b'%' => {
                    bytes.push(byte);
                    rest = &after[2..];
                }
                _ => {
                    bytes.push(*first);
                    rest = after;
                }
            }
        }
        String::from_utf8(bytes).unwrap()
    }

    fn answer(mut stream: &TcpStream, root: &Path, how: How) -> io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let mut range = None;
        for line in lines {
            let line = line?.to_ascii_lowercase();
            if let Some(bytes) = line.strip_prefix("range: bytes=") {
                let (start, end) = bytes.split_once('-').unwrap();
                range = Some((start.parse::<usize>().unwrap(), end.parse::<usize>().unwrap()));
            }
            if line.is_empty() {
                break;
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let path = unescaped(path);
        let mut head = String::new();
        let mut body = Vec::new();
        let inside = path.trim_start_matches("/trees").trim_start_matches('/');
        let file = std::fs::read(root.join(inside));
        match (how, file) {
            (How::Moved, _) if path.starts_with("/trees/") => {
                let to = path.replace("/trees/", "/").replace('%', "%25");
                write!(head, "HTTP/1.1 302 Found\r\nLocation: {to}\r\n").unwrap();
            }
            (How::MovedInCircles, _) => {
                write!(head, "HTTP/1.1 302 Found\r\nLocation: {path}\r\n").unwrap();
            }
            (How::MovedToFile, _) => {
                let to = Url::from_file_path(root.join(inside)).unwrap();
                write!(head, "HTTP/1.1 302 Found\r\nLocation: {to}\r\n").unwrap();
            }
            (How::Forbidden, _) => head += "HTTP/1.1 403 Forbidden\r\n",
            (How::Failing, _) => head += "HTTP/1.1 500 Internal Server Error\r\n",
            (_, Err(_)) => head += "HTTP/1.1 404 Not Found\r\n",
            (_, Ok(content)) => match range.filter(|_| how != How::NoRanges) {
                Some((start, _)) if start >= content.len() => {
                    let size = content.len();
                    write!(
                        head,
                        "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\n"
                    )
                    .unwrap();
                }
                Some((start, end)) => {
                    let end = end.min(content.len() - 1);
                    let said = if how == How::OtherRange { start + 1 } else { start };
                    head += "HTTP/1.1 206 Partial Content\r\n";
                    if how != How::NoContentRange {
                        let size = content.len();
                        write!(head, "Content-Range: bytes {said}-{end}/{size}\r\n").unwrap();
                    }
                    body = content[start..=end].to_vec();
                }
                None => {
                    head += "HTTP/1.1 200 OK\r\n";
                    body = content;
                }
            },
        }
        match how {
            How::Compressed => head += "Content-Encoding: gzip\r\n",
            How::TooMany => body.resize(body.len() + (1 << 20), 0),
            _ => {}
        }
        if how != How::Lengthless {
            write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        head += "Connection: close\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        if how == How::CutOff {
            body.truncate(body.len() / 2);
        }
        if method != "HEAD" {
            stream.write_all(&body)?;
        }
        Ok(())
    }

    #[test]
    fn of_what_a_web_server_may_answer_only_the_right_bytes_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a/%C3%B6"), "0123456789").unwrap();
        let key = "a/%C3%B6";
        use io::ErrorKind::{InvalidData, NotFound, Other, PermissionDenied, Unsupported};
        for (how, get, read) in [
            (How::Right, Ok(()), Ok(())),
            (How::Moved, Ok(()), Ok(())),
            (How::NoRanges, Err((Unsupported, "ranges")), Ok(())),
            (
                How::Compressed,
                Err((Unsupported, "Content-Encoding: gzip")),
                Err((Unsupported, "gzip")),
            ),
            (How::Lengthless, Err((Other, "ontent")), Err((Other, "ontent"))),
            (How::CutOff, Err((Other, "body")), Err((Other, "body"))),
            (
                How::TooMany,
                Err((InvalidData, "more arrives")),
                Err((InvalidData, "larger than it can be")),
            ),
            (How::OtherRange, Err((Other, "2..5")), Ok(())),
            (How::NoContentRange, Err((Other, "Content-Range")), Ok(())),
            (How::Forbidden, Err((PermissionDenied, "403")), Err((PermissionDenied, "403"))),
            (How::MovedInCircles, Err((Other, "redirect")), Err((Other, "redirect"))),
            (How::MovedToFile, Err((Other, "302")), Err((Other, "302"))),
            (How::Failing, Err((Other, "500")), Err((Other, "500"))),
        ] {
            let source = Server::new(folder.path(), how).source();
            for (what, found, expected, right) in [
                ("get", source.get(key, 2..5), get, &b"234"[..]),
                ("read", source.read(key, 100), read, b"0123456789"),
            ] {
                match (found, expected) {
                    (Ok(found), Ok(())) => assert_eq!(found, right, "{how:?} {what}"),
                    (Err(error), Err((kind, part))) => {
                        assert_eq!(error.kind(), kind, "{how:?} {what}: {error}");
                        assert!(error.to_string().contains(part), "{how:?} {what}: {error}");
                    }
                    (found, expected) => panic!("{how:?} {what}: {found:?}, not {expected:?}"),
                }
            }
        }
        // Nobody listens there.
        let error = Cloud::web("http://127.0.0.1:9").unwrap().size(key).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        let source = Server::new(folder.path(), How::Right).source();
        assert_eq!(source.size(key).unwrap(), 10);
        assert_eq!(source.size("a/b").unwrap_err().kind(), NotFound);
        assert_eq!(source.get("a/b", 0..1).unwrap_err().kind(), NotFound);
        assert_eq!(source.read(key, 9).unwrap_err().kind(), InvalidData);
        assert_eq!(source.get(key, 8..20).unwrap(), b"89", "what is there of it");
        let error = source.get(key, 10..20).unwrap_err();
        assert!(error.to_string().contains("416"), "{error}");
    }

    #[test]
    fn a_url_of_a_web_server_with_a_password_or_more_than_a_path_is_refused_and_not_shown() {
        for (url, shown) in [
            ("https://ada:secret@host/trees", "https://host/trees"),
            ("https://ada@host", "https://host"),
            ("https://host/trees?token=secret", "https://host/trees"),
            ("https://host/trees#secret", "https://host/trees"),
            ("https://", "https://"),
            ("http://[::1/trees", "http://[::1/trees"),
        ] {
            let error = Remote::open(url, &RemoteSettings::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{url}: {error}");
            assert_eq!(error.path(), Path::new(shown), "{url}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    /// A project with a store.
    fn project(root: &Path) -> (PathBuf, Store) {
        std::fs::create_dir(root).unwrap();
        (root.to_owned(), Store::init(root).unwrap())
    }

    #[test]
    fn what_is_pushed_into_a_folder_is_pulled_and_checked_out_from_a_web_server_over_it() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("remote");
        std::fs::create_dir(&folder).unwrap();
        let settings = RemoteSettings::new();
        let kept = Remote::init(&format!("file://{}", folder.display()), &settings).unwrap();
        let (root, here) = project(&scratch.path().join("here"));
        let common = StoreOptions::new();
        let content: Vec<u8> =
            (0..9_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        std::fs::write(root.join("large"), &content).unwrap();
        let mut id = None;
        for number in 1..=11 {
            std::fs::write(root.join("file"), number.to_string()).unwrap();
            let snapshot = here.snapshot(&SnapshotOptions::new(), &common).unwrap().id;
            kept.push(&here, snapshot, &PushOptions::new().name("größe"), &common).unwrap();
            id = Some(snapshot);
        }
        let collect = RemoteGcOptions::new().grace(Duration::ZERO).keep(1);
        for _ in 0..2 {
            kept.gc(&collect, &common).unwrap();
        }
        let server = Server::new(&folder, How::Right);
        let url = format!("{}/trees", server.url);
        let remote = Remote::open(&url, &settings).unwrap();
        assert_eq!(remote.id(), kept.id());
        let (_, there) = project(&scratch.path().join("there"));
        KnownRemote::add(&there, "web", &remote).unwrap();
        let remote = KnownRemote::find(&there, "web").unwrap().open(&settings).unwrap();
        let before = server.requests.load(Ordering::Relaxed);
        let pulled = remote.pull(&there, "größe", &PullOptions::new(), &common).unwrap();
        assert_eq!((Some(pulled.snapshot), pulled.sequence), (id, Some(11)));
        let asked = server.requests.load(Ordering::Relaxed) - before;
        assert!(pulled.requests == asked && asked < 60, "{asked}: {pulled:?}");
        let again = remote.pull(&there, "größe", &PullOptions::new(), &common).unwrap();
        assert!(again.fetched == 0 && again.requests < 8, "{again:?}");
        let log: Vec<_> = remote.log("größe").unwrap();
        let found: Vec<_> = log.iter().map(|one| (one.sequence, one.collected)).collect();
        let expected = [(11, false), (10, false), (8, true), (4, true), (2, true), (1, true)];
        assert_eq!(found, expected);
        let root = scratch.path().join("checked-out");
        remote.checkout(&root, "größe", &CheckoutOptions::new(), &common).unwrap();
        assert_eq!(std::fs::read(root.join("large")).unwrap(), content);
        assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "11");
        let error = remote.push(&here, id.unwrap(), &PushOptions::new(), &common).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteUnfit, "{error}");
        // The error says that the server has no ranges, and no snapshot is left.
        let server = Server::new(&folder, How::NoRanges);
        let remote = Remote::open(&format!("{}/trees", server.url), &settings).unwrap();
        let (_, fresh) = project(&scratch.path().join("fresh"));
        let error = remote.pull(&fresh, "größe", &PullOptions::new(), &common).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteUnfit, "{error}");
        assert!(fresh.log().unwrap().snapshots.is_empty());
        let error = Remote::open(&format!("{}/none", server.url), &settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteNotFound, "{error}");
    }
}

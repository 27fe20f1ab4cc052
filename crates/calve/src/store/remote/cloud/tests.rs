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
    Silent,
    /// One byte in five seconds.
    Slow,
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
    if how == How::Silent {
        std::thread::sleep(REQUEST);
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
    if how == How::Slow {
        for byte in body {
            std::thread::sleep(Duration::from_secs(5));
            stream.write_all(&[byte])?;
        }
        return Ok(());
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
        (How::Compressed, Err((Unsupported, "Content-Encoding: gzip")), Err((Unsupported, "gzip"))),
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

/// Ctrl-C was heard at the end of the request only: after five minutes.
#[test]
fn a_server_that_says_nothing_is_not_waited_for_once_the_program_is_to_stop() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), "0123456789").unwrap();
    for (how, stops, expected) in [
        (How::Right, false, Ok(())),
        (How::Silent, true, Err(io::ErrorKind::Interrupted)),
        (How::Slow, true, Err(io::ErrorKind::Interrupted)),
    ] {
        let source = Server::new(folder.path(), how).source();
        let started = std::time::Instant::now();
        let read = async {
            let found = source.store.get_opts(&Key::from("a"), GetOptions::default()).await;
            receive(found.map_err(said)?, 100, &mut Vec::new()).await
        };
        let patience = Duration::from_millis(300);
        let found = source.answer_unless(read, patience, || stops).map_err(|error| error.kind());
        assert_eq!(found, expected, "{how:?}");
        drop(source);
        assert!(started.elapsed() < Duration::from_secs(4), "{how:?}: {:?}", started.elapsed());
    }
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

//! Promise: calve can open, read, verify, mend and collect a store that somebody else made. It
//! refuses the store, or names the faults in it. Nothing hangs, nothing takes memory without end,
//! and calve reads, makes, changes or removes nothing outside of the store.

use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::common::snapshot::{assert_same, snapshot};
use crate::common::{child, child_done, within};
use crate::maintained::{Project, at_once, common, few};
use calve::{
    DropOptions, PackOptions, SnapshotId, SnapshotOptions, StartOptions, Store, VerifyOptions,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The most memory that a whole run of a row may take, with stacks and mapped files.
const MOST_BYTES: u64 = 3 << 30;

/// Longer than any row takes.
const HANGS: Duration = Duration::from_secs(300);

struct Hostile {
    project: Project,
    id: SnapshotId,
    outside: PathBuf,
}

impl Hostile {
    fn new() -> Self {
        let project = Project::new(few);
        let id = project.snapshot();
        fs::write(project.path.join("d0/more"), "more").unwrap();
        project.snapshot();
        let outside = project.scratch.join("outside");
        fs::create_dir(&outside).unwrap();
        for name in ["victim", "index.db", "worktree"] {
            fs::write(outside.join(name), "the content of somebody else").unwrap();
        }
        // Whatever a store calls its files by.
        for fan in 0..16 {
            fs::write(outside.join(format!("{fan:062x}")), "CANARY").unwrap();
        }
        fs::create_dir(outside.join("folder")).unwrap();
        fs::write(outside.join("folder/victim"), "CANARY").unwrap();
        Self { project, id, outside }
    }

    /// A path in the store whose folder exists. A new store has no folder for undo data.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.project.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn replace(&self, name: &str) -> PathBuf {
        let path = self.file(name);
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn link(&self, name: &str, to: &str) {
        symlink(self.outside.join(to), self.replace(name)).unwrap();
    }

    fn node(&self, name: &str, kind: FileType) {
        mknodat(CWD, self.replace(name), kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// Makes a device that returns zeroes without end, or a socket if this user may not make a
    /// device.
    fn device(&self, name: &str) {
        let path = self.replace(name);
        let zero = makedev(1, 5);
        if mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, zero).is_err() {
            self.node(name, FileType::Socket);
        }
    }

    fn huge(&self, name: &str, start: &[u8]) {
        let file = fs::File::create(self.replace(name)).unwrap();
        // What ext4 can have.
        file.set_len(8 << 40).unwrap();
        file.write_all_at(start, 0).unwrap();
    }

    fn sql(&self, text: &str) {
        let db = rusqlite::Connection::open(self.file("index.db")).unwrap();
        db.execute_batch(text).unwrap();
    }

    fn token(&self) -> String {
        let db = rusqlite::Connection::open(self.file("index.db")).unwrap();
        db.query_row("SELECT token FROM worktrees WHERE name = '.'", [], |row| row.get(0)).unwrap()
    }

    /// Puts a snapshot of these directories into the database. The last one is the root.
    fn plant(&self, directories: &[Vec<u8>], entries: u64) -> SnapshotId {
        let db = rusqlite::Connection::open(self.file("index.db")).unwrap();
        for encoding in directories {
            let id = directory_id(encoding);
            db.execute("INSERT OR IGNORE INTO directories VALUES (?1, ?2)", (&id[..], encoding))
                .unwrap();
        }
        let root = directories.last().map(|last| directory_id(last)).unwrap();
        let mut object = entry(2, b"", &root);
        object.push(0);
        object.extend([0, 0, 0]);
        for number in [entries, 1, u64::MAX] {
            varint(&mut object, number);
        }
        let id = blake3::derive_key("calve snapshot 1", &object);
        db.execute("INSERT INTO snapshots (id, object) VALUES (?1, ?2)", (&id[..], &object))
            .unwrap();
        SnapshotId::from_bytes(id)
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

fn entry(kind: u8, name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    varint(&mut out, name.len() as u64);
    out.extend(name);
    varint(&mut out, 0o755);
    out.extend([0, 0, 0, 0]);
    out.extend(body);
    out
}

fn file(name: &[u8], size: u64, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    varint(&mut body, size);
    body.push(0);
    body.extend(blake3::hash(content).as_bytes());
    entry(1, name, &body)
}

fn directory(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, entries.len() as u64);
    out.extend(entries.concat());
    out
}

fn directory_id(encoding: &[u8]) -> [u8; 32] {
    blake3::derive_key("calve directory 1", encoding)
}

/// An index that vouches for itself and unpacks to far more than it is.
fn index_bomb(id: SnapshotId) -> Vec<u8> {
    let mut bytes = b"CALVEIDX\x01\0\0\0".to_vec();
    bytes.extend(id.as_bytes());
    bytes.extend([0; 12]);
    bytes.extend(u32::MAX.to_le_bytes());
    let mut packed = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 4 << 30), &mut packed).unwrap();
    bytes.extend(packed.finish().unwrap());
    let hash = *blake3::hash(&bytes).as_bytes();
    bytes.extend(hash);
    bytes
}

/// What opening it gives.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Opens {
    Refused,
    /// And all that can be done with it comes to an end, one way or the other.
    Yes,
}

type Row = (&'static str, Opens, fn(&Hostile) -> Option<SnapshotId>);

/// A row whose own snapshot, where it plants one, is started from, too.
macro_rules! row {
    ($name:literal, $opens:ident, |$it:ident| $make:expr) => {
        ($name, Opens::$opens, |$it| {
            $make;
            None
        })
    };
    ($name:literal, planted |$it:ident| $make:expr) => {
        ($name, Opens::Yes, |$it| Some($make))
    };
}

const ROWS: &[Row] = &[
    row!("format is a pipe", Refused, |it| it.node("format", FileType::Fifo)),
    row!("format is a socket", Refused, |it| it.node("format", FileType::Socket)),
    row!("format is a folder", Refused, |it| fs::create_dir(it.replace("format")).unwrap()),
    row!("format is a link", Refused, |it| it.link("format", "victim")),
    row!("format is a link to a device", Refused, |it| {
        symlink("/dev/zero", it.replace("format")).unwrap();
    }),
    row!("format is a device", Refused, |it| it.device("format")),
    row!("format is huge", Refused, |it| it.huge("format", b"calve store 1\n")),
    row!("index.db is a link", Refused, |it| {
        fs::rename(it.file("index.db"), it.outside.join("index.db")).unwrap();
        it.link("index.db", "index.db");
    }),
    row!("index.db is a link to nothing", Refused, |it| it.link("index.db", "new")),
    row!("index.db is a pipe", Refused, |it| it.node("index.db", FileType::Fifo)),
    row!("index.db is a folder", Refused, |it| fs::create_dir(it.replace("index.db")).unwrap()),
    row!("index.db is empty", Refused, |it| fs::write(it.replace("index.db"), "").unwrap()),
    row!("index.db is huge", Refused, |it| it.huge("index.db", b"SQLite format 3\0")),
    row!("index.db-wal is a link", Refused, |it| it.link("index.db-wal", "victim")),
    row!("index.db-wal is a link to nothing", Refused, |it| it.link("index.db-wal", "new")),
    row!("index.db-wal is a pipe", Refused, |it| it.node("index.db-wal", FileType::Fifo)),
    row!("index.db-wal is huge", Yes, |it| it.huge("index.db-wal", b"\x37\x7f\x06\x82")),
    row!("index.db-shm is a link", Refused, |it| it.link("index.db-shm", "victim")),
    row!("index.db-shm is a pipe", Refused, |it| it.node("index.db-shm", FileType::Fifo)),
    row!("index.db-journal is a link", Refused, |it| it.link("index.db-journal", "victim")),
    row!("blobs is a link", Refused, |it| it.link("blobs", "folder")),
    row!("blobs is a pipe", Refused, |it| it.node("blobs", FileType::Fifo)),
    row!("a folder of mirrors is a link", Refused, |it| {
        for fan in 0..=255 {
            it.link(&format!("blobs/{fan:02x}"), "");
        }
    }),
    row!("a folder of mirrors is a pipe", Yes, |it| {
        for fan in 0..=255 {
            it.node(&format!("blobs/{fan:02x}"), FileType::Fifo);
        }
    }),
    row!("worktrees is a link", Refused, |it| it.link("worktrees", "folder")),
    row!("trash is a link", Refused, |it| it.link("trash", "folder")),
    row!("trash has a link in it", Yes, |it| it.link("trash/link", "folder")),
    row!("undo is a link", Refused, |it| it.link("undo", "folder")),
    row!("undo has links in it", Yes, |it| {
        fs::write(it.file("undo/record"), format!("calve undo 1\0{}\0", it.id)).unwrap();
        it.link("undo/files", "folder");
    }),
    row!("the record of undo is a pipe", Yes, |it| it.node("undo/record", FileType::Fifo)),
    row!("the record of undo is huge", Yes, |it| it.huge("undo/record", b"calve undo 1\0")),
    row!("locks/content is a link to nothing", Yes, |it| it.link("locks/content", "new")),
    row!("locks/gate is a link", Yes, |it| it.link("locks/gate", "victim")),
    row!("locks/content is a pipe", Yes, |it| it.node("locks/content", FileType::Fifo)),
    row!("the index is a pipe", Yes, |it| {
        it.node(&format!("indexes/{}", it.token()), FileType::Fifo);
    }),
    row!("the index is a link to a device", Yes, |it| {
        symlink("/dev/zero", it.replace(&format!("indexes/{}", it.token()))).unwrap();
    }),
    row!("the index is huge", Yes, |it| it.huge(&format!("indexes/{}", it.token()), b"CALVEIDX")),
    row!("the index unpacks to far more", Yes, |it| {
        let latest = it.project.store.latest().unwrap().unwrap();
        fs::write(it.file(&format!("indexes/{}", it.token())), index_bomb(latest)).unwrap();
    }),
    row!("the seal of a template is a pipe", Yes, |it| {
        it.node(&format!("templates/{}.seal", it.id), FileType::Fifo);
        let _ = fs::create_dir(it.file(&format!("templates/{}", it.id)));
    }),
    row!("a template is a link", Yes, |it| it.link(&format!("templates/{}", it.id), "folder")),
    row!("a pack is a pipe", Yes, |it| {
        it.node("packs/p.pack", FileType::Fifo);
        it.sql("INSERT INTO packs (name) VALUES ('p.pack')");
    }),
    row!("a pack is huge", Yes, |it| it.huge("packs/p.pack", b"CALVPACK\x01\0\0\0")),
    row!("a pack's name leads out", Yes, |it| {
        for name in ["../../../outside/victim", "../../../outside/folder/victim", "..", "", "/"] {
            it.sql(&format!("INSERT INTO packs (name) VALUES ('{name}')"));
        }
    }),
    row!("content is packed outside", Yes, |it| {
        it.sql("INSERT INTO packs (id, name) VALUES (7, '../../../outside/victim')");
        it.sql(
            "INSERT INTO packed SELECT CAST(x'00' || substr(id, 2) AS BLOB), 7, 12, 8, 8 FROM directories",
        );
    }),
    row!("numbers of packed content are out of bounds", Yes, |it| {
        it.project.pack_all();
        it.sql("UPDATE packed SET offset = -1, stored = -9223372036854775808, size = -1");
    }),
    row!("packed content is announced as huge", Yes, |it| {
        it.project.pack_all();
        it.sql("UPDATE packed SET size = 9223372036854775807");
    }),
    row!("what is a number is a text", Yes, |it| {
        it.project.pack_all();
        it.sql("UPDATE packed SET offset = 'a', stored = x'00', size = NULL WHERE 0");
        it.sql("UPDATE packed SET offset = 'a', stored = x'00', size = 'b'");
    }),
    row!("a snapshot is no object", Yes, |it| {
        it.sql("UPDATE snapshots SET object = x'ff00ff' WHERE seq = 1");
    }),
    row!("a snapshot is a number", Yes, |it| {
        it.sql("UPDATE snapshots SET object = 7, id = 8 WHERE seq = 1");
    }),
    row!("a snapshot's id is short", Yes, |it| {
        it.sql("UPDATE snapshots SET id = x'abcd' WHERE seq = 1");
    }),
    row!("a snapshot is zeroes without end", Yes, |it| {
        it.sql("UPDATE snapshots SET object = zeroblob(20000000) WHERE seq = 1");
    }),
    row!("a directory is a number", Yes, |it| it.sql("UPDATE directories SET encoding = 7")),
    row!("a directory has more entries than it has", Yes, |it| {
        let mut lies = Vec::new();
        varint(&mut lies, 1_000_000);
        it.plant(&[lies], 1_000_001);
    }),
    row!(
        "a directory has more entries than can be",
        planted | it | {
            let mut lies = Vec::new();
            varint(&mut lies, u64::MAX);
            it.plant(&[lies], u64::MAX)
        }
    ),
    row!(
        "a file is called ..",
        planted | it | it.plant(&[directory(&[file(b"..", 4, b"more")])], 2)
    ),
    row!(
        "a file is called ../victim",
        planted | it | it.plant(&[directory(&[file(b"../outside/victim", 4, b"more")])], 2)
    ),
    row!(
        "a file has an absolute name",
        planted | it | it.plant(&[directory(&[file(b"/tmp/calve-hostile", 4, b"more")])], 2)
    ),
    row!("a file has no name", planted | it | it.plant(&[directory(&[file(b"", 4, b"more")])], 2)),
    row!(
        "a file has the name of calve's own folder",
        planted | it | {
            let inner = directory(&[file(b"worktree", 4, b"more")]);
            let own = entry(2, b".calve", &directory_id(&inner));
            it.plant(&[inner, directory(&[own])], 3)
        }
    ),
    row!(
        "a link leads out and a file follows in it",
        planted | it | {
            // Two entries of one name: the second would be made through the first.
            let inner = directory(&[file(b"victim", 4, b"more")]);
            let link = entry(3, b"a", &[&[8][..], b"../../..x"].concat());
            let folder = entry(2, b"a", &directory_id(&inner));
            it.plant(&[inner, directory(&[link, folder])], 4)
        }
    ),
    row!(
        "a file is as large as can be",
        planted | it | {
            it.plant(&[directory(&[file(b"f", i64::MAX.unsigned_abs(), b"more")])], 2)
        }
    ),
    row!(
        "a file is larger than can be",
        planted | it | it.plant(&[directory(&[file(b"f", u64::MAX, b"more")])], 2)
    ),
    row!(
        "two files of one content differ in size",
        planted | it | {
            let files = [file(b"f", 4, b"more"), file(b"g", 5, b"more")];
            it.plant(&[directory(&files)], 3)
        }
    ),
    row!(
        "a directory is its own",
        planted | it | {
            // No encoding has its own hash in it, so the row lies about one of them.
            let inner = directory(&[entry(2, b"a", &[7; 32])]);
            let id = it.plant(&[directory(&[entry(2, b"a", &[7; 32])])], 1_000_000);
            let db = rusqlite::Connection::open(it.file("index.db")).unwrap();
            db.execute("INSERT INTO directories VALUES (?1, ?2)", (&[7_u8; 32][..], &inner))
                .unwrap();
            id
        }
    ),
    row!("directories unfold to more than they say", planted | it | it.plant(&unfolding(), 1000)),
    row!("directories unfold without end", Yes, |it| it.plant(&unfolding(), u64::MAX)),
    row!("a token leads out", Yes, |it| {
        it.sql("UPDATE worktrees SET token = '../../outside/victim'");
    }),
    row!("there is no project", Yes, |it| it.sql("DELETE FROM worktrees")),
    row!("a worktree is at an impossible path", Yes, |it| {
        for (at, path) in ["", "/", "..", "a\\0b", "/dev/zero", "/proc/self/mem"].iter().enumerate()
        {
            it.sql(&format!(
                "INSERT INTO worktrees (name, token, path, snapshot, state, target, maker, created) VALUES ('w{at}', 'ab{at}', CAST('{path}' AS BLOB), NULL, {at}, NULL, '', -1)"
            ));
        }
        it.sql("INSERT INTO worktrees (name, token, path, snapshot, state, target, maker, created) VALUES ('x', 'cd', x'2f00', x'00', 99, x'00', '/../..', 9223372036854775807)");
    }),
    row!("a worktree is at another's folder", Yes, |it| {
        let path = it.outside.join("folder");
        it.sql(&format!(
            "INSERT INTO worktrees (name, token, path, snapshot, state, target, maker, created) SELECT 'w', 'ef', CAST('{}' AS BLOB), snapshot, 2, snapshot, '', 0 FROM worktrees",
            path.display()
        ));
    }),
    row!("a ready worktree is at another's folder", Yes, |it| {
        let path = it.outside.join("folder");
        it.sql(&format!(
            "INSERT INTO worktrees (name, token, path, snapshot, state, target, maker, created) SELECT 'w', 'ef', CAST('{}' AS BLOB), snapshot, 1, NULL, '', 0 FROM worktrees",
            path.display()
        ));
    }),
    row!("names are not names", Yes, |it| {
        it.sql("INSERT INTO names VALUES (CAST(x'ff1b5b324a' AS TEXT), x'00')");
        it.sql("INSERT INTO names SELECT char(27) || '[2J', id FROM snapshots LIMIT 1");
    }),
    row!("a table is a view that never ends", Refused, |it| {
        it.sql(
        "DROP TABLE snapshots;
         CREATE VIEW snapshots AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n)
            SELECT seq, zeroblob(32) AS id, zeroblob(64) AS object FROM n"
    );
    }),
    row!("a table has a column that is computed", Refused, |it| {
        it.sql(
        "DROP TABLE names;
         CREATE TABLE names (name TEXT PRIMARY KEY, snapshot BLOB AS (zeroblob(900000000))) WITHOUT ROWID;
         INSERT INTO names (name) VALUES ('a')"
    );
    }),
    row!("a trigger removes what is written", Refused, |it| it
        .sql("CREATE TRIGGER t AFTER INSERT ON worktrees BEGIN DELETE FROM snapshots; END")),
    row!("a table is missing", Refused, |it| it.sql("DROP TABLE packed")),
];

/// Sixty directories, each twice in the next.
fn unfolding() -> Vec<Vec<u8>> {
    let mut all = vec![directory(&[entry(4, b"fifo", b"")])];
    for _ in 0..60 {
        let below = directory_id(all.last().unwrap());
        all.push(directory(&[entry(2, b"a", &below), entry(2, b"b", &below)]));
    }
    all
}

/// Everything that can be done with a store, one after the other; whatever comes of it.
fn use_it(store: &Store, project: &Path, ids: &[SnapshotId]) -> Result<(), calve::Error> {
    let mut last = Ok(());
    let mut tried = |result: Result<(), calve::Error>| last = result;
    tried(store.log().map(drop));
    tried(store.stats().map(drop));
    tried(store.worktrees().map(drop));
    tried(store.resolve("abcd").map(drop));
    tried(store.verify(&VerifyOptions::new(), &common()).map(drop));
    tried(store.project_worktree().and_then(|tree| tree.status(&common())).map(drop));
    for (at, id) in ids.iter().enumerate() {
        tried(store.show(*id).map(drop));
        let options = StartOptions::new().from(*id).at(project.join("../worktrees"));
        tried(store.start(&[format!("h{at}")], &options, &common()).map(drop));
        tried(store.warm(&[*id], &common()).map(drop));
    }
    tried(store.project_worktree().and_then(|tree| tree.undo(&common())).map(drop));
    tried(store.project_worktree().and_then(|tree| tree.reset(&common())).map(drop));
    tried(store.project_worktree().and_then(|tree| tree.undo(&common())).map(drop));
    for tree in store.worktrees().unwrap_or_default() {
        tried(tree.status(&common()).map(drop));
        tried(tree.reset(&common()).map(drop));
        tried(
            tree.drop(&DropOptions::new().force(true), &common())
                .and_then(calve::DroppedWorktree::delete),
        );
    }
    tried(store.snapshot(&SnapshotOptions::new(), &common()).map(drop));
    tried(store.pack(&PackOptions::new().all(true), &common()).map(drop));
    tried(store.gc(&at_once().expire(Some(Duration::ZERO)), &common()).map(drop));
    tried(store.verify(&VerifyOptions::new().repair(true), &common()).map(drop));
    tried(store.empty_trash());
    tried(store.gc(&at_once(), &common()).map(drop));
    tried(store.verify(&VerifyOptions::new(), &common()).map(drop));
    last
}

fn try_row((name, opens, make): &'static Row) {
    let hostile = Hostile::new();
    let planted = make(&hostile);
    let was = snapshot(&hostile.outside);
    let own = hostile.file("");
    let most = Some(MOST_BYTES);
    setrlimit(Resource::As, Rlimit { current: most, maximum: most }).unwrap();
    let (path, project, ids) = (
        own,
        hostile.project.path.clone(),
        planted.into_iter().chain([hostile.id]).collect::<Vec<_>>(),
    );
    let opened = within(HANGS, move || {
        let opened = Store::open(&path);
        let kind = opened.as_ref().map(|_| ()).map_err(calve::Error::kind);
        if let Ok(store) = opened {
            let _ = use_it(&store, &project, &ids);
        }
        kind
    });
    match (opens, opened) {
        (Opens::Yes, Ok(())) | (Opens::Refused, Err(_)) => {}
        (_, opened) => panic!("{name}: opening it gives {opened:?}, not {opens:?}"),
    }
    assert_same(&was, &snapshot(&hostile.outside), name);
}

const TEST: &str =
    "whatever_a_store_holds_it_can_be_used_or_is_refused_and_nothing_outside_changes";

/// How many rows are tried at once, each in a process of its own.
const AT_ONCE: usize = 4;

/// Tries a row in its own process, so that only that process hangs, runs out of memory or panics.
/// Returns the result unless it is good.
fn try_alone(row: &'static Row) -> Option<String> {
    let output = child(TEST, row.0, || try_row(row))?.output().unwrap();
    child_done(&output).err().map(|why| format!("{}: {why}", row.0))
}

#[test]
fn whatever_a_store_holds_it_can_be_used_or_is_refused_and_nothing_outside_changes() {
    let wrong: Vec<String> = thread::scope(|scope| {
        let rows = ROWS.chunks(ROWS.len().div_ceil(AT_ONCE));
        let threads: Vec<_> =
            rows.map(|rows| scope.spawn(|| rows.iter().filter_map(try_alone).collect())).collect();
        let wrong = threads.into_iter().map(thread::ScopedJoinHandle::join);
        wrong.flat_map(|wrong: thread::Result<Vec<String>>| wrong.unwrap()).collect()
    });
    println!("{} hostile stores, {} of them not withstood", ROWS.len(), wrong.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}

//! `index.db`: what is small, must be found by name, and must change all at once.
//!
//! SQLite in WAL mode. Writing transactions take the write lock when they begin (`BEGIN IMMEDIATE`), are short, and wait for
//! each other; readers never wait. `synchronous=FULL`: a transaction that was committed is on the disk, and since the blobs
//! that it speaks of were flushed before it began, so are they. What is about worktrees alone is not waited for
//! ([`Db::write_soon`]): a crash may take it back, as it may the worktree, but never half of it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::id::{BlobId, DirectoryId, SnapshotId};
use super::manifest::{Builder, Manifest};
use super::object::{SnapshotObject, decode_directory};
use super::pack::Location;
use super::pool::lock;
use super::room::Room;
use crate::error::{Error, ErrorKind};

/// The version of the tables, kept in `user_version`.
const SCHEMA: i64 = 1;

/// Nobody holds the write lock for long, but a slow disk under many writers may take its time.
const BUSY: Duration = Duration::from_secs(300);

/// How long it is waited for others to close it, who may well be this process.
const ALONE: Duration = Duration::from_millis(200);

const OPEN: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE;

/// The tables. The module [`format`](super::format) documents them.
const TABLES: &str = "
    CREATE TABLE snapshots (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL UNIQUE,
        object BLOB NOT NULL
    );
    CREATE TABLE directories (id BLOB PRIMARY KEY, encoding BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE names (name TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE worktrees (
        name TEXT PRIMARY KEY,
        token TEXT NOT NULL UNIQUE,
        path BLOB NOT NULL,
        snapshot BLOB,
        state INTEGER NOT NULL,
        target BLOB,
        maker TEXT NOT NULL,
        created INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE packs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
    CREATE TABLE packed (
        blob BLOB PRIMARY KEY,
        pack INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        size INTEGER NOT NULL
    ) WITHOUT ROWID;
";

const TABLE_NAMES: [&str; 6] =
    ["snapshots", "directories", "names", "worktrees", "packs", "packed"];

/// How a worktree stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Its maker is at it; if that one is dead, nobody is.
    Starting,
    Ready,
    /// Between its snapshot and its target.
    Switching,
}

/// A row of `worktrees`.
#[derive(Debug, Clone)]
pub(crate) struct WorktreeRow {
    pub(crate) name: String,
    /// What the marker inside the worktree repeats.
    pub(crate) token: String,
    /// Bytes of an absolute path.
    pub(crate) path: Vec<u8>,
    pub(crate) snapshot: Option<SnapshotId>,
    pub(crate) state: State,
    pub(crate) target: Option<SnapshotId>,
    /// Who starts or switches it.
    pub(crate) maker: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
}

/// The open database.
#[derive(Debug)]
pub(crate) struct Db {
    /// Nothing where each operation makes one of its own.
    connection: Mutex<Option<Connection>>,
    /// Whether others were seen to keep it open.
    others: AtomicBool,
    path: std::path::PathBuf,
}

impl Db {
    /// Makes the database of a new store.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        // Nobody else knows of it yet, so it needs no room to be shared.
        let connection = connect(path, OPEN | OpenFlags::SQLITE_OPEN_CREATE, With::Nobody(ALONE))?;
        let db = Self::of(Some(connection), path);
        db.write("make", |tx| {
            tx.execute_batch(TABLES)?;
            tx.pragma_update(None, "user_version", SCHEMA)
        })?;
        Ok(db)
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        match super::room::left(path.parent().unwrap_or(path)) {
            Room::Full(cause) => return Err(Error::io("open", path, cause)),
            Room::Little => return Self::open_briefly(path),
            Room::Enough => {}
        }
        let db = Self::of(Some(connect(path, OPEN, With::Others)?), path);
        db.check()?;
        Ok(db)
    }

    /// For whoever has little room, see [`room`](super::room): each operation opens it, for itself alone, and closes it again.
    pub(crate) fn open_briefly(path: &Path) -> Result<Self, Error> {
        let db = Self::of(None, path);
        db.check()?;
        Ok(db)
    }

    /// For what frees space, once it has the reserve. Where that may be, it stays open: XFS takes its time until another file can
    /// be made in the place of one that was removed, and each that opens it briefly makes and removes one.
    pub(crate) fn open_in_reserve(path: &Path) -> Result<Self, Error> {
        if super::room::is_btrfs(path) { Self::open_briefly(path) } else { Self::open(path) }
    }

    /// From now on, as if it had been opened with [`Db::open_in_reserve`].
    pub(crate) fn be_in_reserve(&self) {
        if super::room::is_btrfs(&self.path) {
            self.be_brief();
        }
    }

    /// From now on, as if it had been opened with [`Db::open_briefly`].
    fn be_brief(&self) {
        *lock(&self.connection) = None;
    }

    fn of(connection: Option<Connection>, path: &Path) -> Self {
        Self { connection: Mutex::new(connection), others: false.into(), path: path.to_owned() }
    }

    /// Opens a database that nobody can write to, nor make the files beside it that sharing it takes.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, Error> {
        let db = Self::of(Some(connect_read_only(path)?), path);
        db.check()?;
        Ok(db)
    }

    fn check(&self) -> Result<(), Error> {
        let version: i64 =
            self.read("open", |db| db.pragma_query_value(None, "user_version", |row| row.get(0)))?;
        if version == SCHEMA {
            return self.must_have_our_tables();
        }
        let cause = std::io::Error::other(format!(
            "its tables are of version {version}, and this calve knows version {SCHEMA}"
        ));
        Err(Error::new(ErrorKind::StoreIncompatible, "open", &self.path, cause))
    }

    /// A store may be someone else's: what is called like a table of ours could be a view that never ends, or compute a column of any
    /// size, or change what is written. Other tables may be there; nobody asks for them.
    fn must_have_our_tables(&self) -> Result<(), Error> {
        let schema: Vec<(String, String, String)> = self.read("open", |db| {
            db.prepare("SELECT type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        let ours = |table: &str| TABLE_NAMES.iter().any(|name| name.eq_ignore_ascii_case(table));
        let mut found = 0;
        for (kind, table, sql) in schema {
            match kind.as_str() {
                "table" if !ours(&table) => {}
                "table" if TABLES.contains(&sql) => found += 1,
                "index" if !ours(&table) => {}
                kind => return Err(self.damaged(format!("it has a {kind} that no store has"))),
            }
        }
        if found == TABLE_NAMES.len() {
            return Ok(());
        }
        Err(self.damaged("it does not have all the tables of a store".to_owned()))
    }

    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.connected(Use::Read, |connection| {
            query(connection).map_err(|error| failed(operation, &self.path, error))
        })
    }

    /// Does `change` in one transaction: all of it, on the disk when this returns, or nothing.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.transact(operation, "FULL", change)
    }

    /// The same, but a crash of the machine may take it back.
    pub(crate) fn write_soon<T>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.transact(operation, "NORMAL", change)
    }

    fn transact<T>(
        &self,
        operation: &'static str,
        synchronous: &str,
        change: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let run = |connection: &mut Connection| {
            connection.pragma_update(None, "synchronous", synchronous)?;
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = change(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        self.connected(Use::Write, |connection| {
            run(connection).map_err(|error| failed(operation, &self.path, error))
        })
    }

    /// A connection of nobody else's, or, where others have it open all the time, one that is shared with them. For those others it
    /// is waited once.
    fn connect_briefly(&self) -> Result<Connection, Error> {
        let patience = if self.others.load(Relaxed) { Duration::ZERO } else { ALONE };
        let alone = connect(&self.path, OPEN, With::Nobody(patience));
        let has_others = alone.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy);
        self.others.store(has_others, Relaxed);
        if has_others { connect(&self.path, OPEN, With::Others) } else { alone }
    }

    /// The same where that failed for want of room. What btrfs sets aside of a quota for whatever a transaction may change, be it only a
    /// file that is made and removed, it gives back when that transaction is on the disk (`btrfs_qgroup_free_meta_all_pertrans`,
    /// fs/btrfs/qgroup.c). Who only reads does without room in the end.
    fn connect_after(&self, error: Error, to: Use) -> Result<Connection, Error> {
        if error.kind() != ErrorKind::StorageFull {
            return Err(error);
        }
        super::room::settle(self.path.parent().unwrap_or(&self.path));
        self.connect_briefly().or_else(|error| match to {
            Use::Read => connect_read_only(&self.path).map_err(|_| error),
            Use::Write => Err(error),
        })
    }

    fn connected<T>(
        &self,
        to: Use,
        work: impl FnOnce(&mut Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut slot = lock(&self.connection);
        match &mut *slot {
            Some(connection) => work(connection),
            None => {
                // Two that want it alone would each keep the other from it for as long as they wait, and then share it.
                let store = self.path.parent().unwrap_or(&self.path);
                let _turn = super::locks::one_at_the_database(store);
                let mut connection =
                    self.connect_briefly().or_else(|error| self.connect_after(error, to))?;
                let done = work(&mut connection);
                // What cannot be written back now stays in the log beside it, for the next one to take over.
                drop(connection);
                done
            }
        }
    }

    pub(crate) fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotObject>, Error> {
        let object: Option<Vec<u8>> = self.read("read", |db| {
            db.prepare_cached("SELECT CAST(object AS BLOB) FROM snapshots WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        object
            .map(|object| decode_snapshot(id, &object))
            .transpose()
            .map_err(|why| self.damaged(format!("snapshot {id}: {why}")))
    }

    fn damaged(&self, what: String) -> Error {
        let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        Error::new(ErrorKind::Damaged, "read", &self.path, cause)
    }

    /// All snapshots, the newest first; of what cannot be read, why.
    pub(crate) fn snapshots(&self) -> Result<Vec<Row>, Error> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self.read("read", |db| {
            db.prepare(
                "SELECT CAST(id AS BLOB), CAST(object AS BLOB) FROM snapshots ORDER BY seq DESC",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
        })?;
        let read = |(id, object): (Vec<u8>, Vec<u8>)| {
            let id = snapshot_id(&id).ok_or("a snapshot's id is malformed")?;
            let object = decode_snapshot(id, &object);
            Ok((id, object.map_err(|why| format!("snapshot {id}: {why}"))?))
        };
        Ok(rows.into_iter().map(read).collect())
    }

    pub(crate) fn snapshot_ids(&self) -> Result<Vec<SnapshotId>, Error> {
        let ids: Vec<Vec<u8>> = self.read("read", |db| {
            db.prepare("SELECT id FROM snapshots ORDER BY seq DESC")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        Ok(ids.iter().filter_map(|id| snapshot_id(id)).collect())
    }

    pub(crate) fn names(&self) -> Result<Vec<(String, SnapshotId)>, Error> {
        let rows: Vec<(String, Vec<u8>)> = self.read("read", |db| {
            db.prepare("SELECT name, snapshot FROM names ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })?;
        Ok(rows.into_iter().filter_map(|(name, id)| Some((name, snapshot_id(&id)?))).collect())
    }

    /// The tree of a snapshot. Every object is checked against its hash on the way.
    pub(crate) fn manifest(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
    ) -> Result<Manifest, Error> {
        self.connected(Use::Read, |connection| self.manifest_by(connection, id, object))
    }

    fn manifest_by(
        &self,
        connection: &Connection,
        id: SnapshotId,
        object: &SnapshotObject,
    ) -> Result<Manifest, Error> {
        let mut builder = Builder::new(object.root.clone());
        // One transaction: its lock is taken once, not for each directory.
        let transaction = connection
            .unchecked_transaction()
            .map_err(|error| failed("read", &self.path, error))?;
        let mut statement = transaction
            .prepare_cached("SELECT encoding FROM directories WHERE id = ?1")
            .map_err(|error| failed("read", &self.path, error))?;
        let mut seen = 1_u64;
        while let Some(entry) = builder.next() {
            let super::object::Kind::Directory(directory) = entry.kind else {
                return Err(self.damaged(format!("snapshot {id} has a root that is no directory")));
            };
            let entries = statement
                .query_row([directory.as_bytes()], |row| {
                    let encoding = row.get_ref(0)?.as_blob()?;
                    if DirectoryId::of(encoding) != directory {
                        return Ok(Err("it does not have its own hash".to_owned()));
                    }
                    Ok(decode_directory(encoding).map_err(|error| error.to_string()))
                })
                .optional()
                .map_err(|error| failed("read", &self.path, error))?
                .unwrap_or_else(|| Err("it is gone".to_owned()))
                .map_err(|why| {
                    self.damaged(format!("directory {directory} of snapshot {id}: {why}"))
                })?;
            // Two entries may name one directory, and so on below: a few bytes could unfold without end.
            seen += entries.len() as u64;
            if seen > object.entries || !builder.add(entries) {
                return Err(self.damaged(format!(
                    "snapshot {id} has more entries than the {} that it says",
                    object.entries
                )));
            }
        }
        Ok(builder.finish())
    }

    pub(crate) fn worktrees(&self) -> Result<Vec<WorktreeRow>, Error> {
        self.read("read", |db| {
            db.prepare("SELECT * FROM worktrees ORDER BY name")?
                .query_map([], worktree_row)?
                .collect()
        })
    }

    pub(crate) fn worktree(&self, name: &str) -> Result<Option<WorktreeRow>, Error> {
        self.read("read", |db| {
            db.query_row("SELECT * FROM worktrees WHERE name = ?1", [name], worktree_row).optional()
        })
    }

    /// Where a blob lies in which pack.
    pub(crate) fn packed(&self, blob: BlobId) -> Result<Option<(String, Location)>, Error> {
        self.read("read", |db| {
            db.prepare_cached(
                "SELECT name, offset, stored, size FROM packed JOIN packs ON packs.id = pack WHERE blob = ?1",
            )?
            .query_row([blob.as_bytes()], |row| Ok((row.get(0)?, location(row, 1)?)))
            .optional()
        })
    }

    /// All that is packed: blob, pack, place.
    pub(crate) fn all_packed(&self) -> Result<Vec<(BlobId, String, Location)>, Error> {
        let rows: Vec<(Vec<u8>, String, Location)> = self.read("read", |db| {
            db.prepare(
                "SELECT blob, name, offset, stored, size FROM packed JOIN packs ON packs.id = pack ORDER BY pack, offset",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, location(row, 2)?)))?
            .collect()
        })?;
        Ok(rows
            .into_iter()
            .filter_map(|(id, pack, at)| Some((BlobId::from_bytes(id.try_into().ok()?), pack, at)))
            .collect())
    }
}

fn location(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Location> {
    let number = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
    Ok(Location { offset: number(first)?, stored: number(first + 1)?, size: number(first + 2)? })
}

/// A snapshot, or why it cannot be read.
pub(crate) type Row = Result<(SnapshotId, SnapshotObject), String>;

fn decode_snapshot(id: SnapshotId, object: &[u8]) -> Result<SnapshotObject, String> {
    if SnapshotId::of(object) != id {
        return Err("it does not have its own hash".to_owned());
    }
    SnapshotObject::decode(object).map_err(|error| error.to_string())
}

fn snapshot_id(bytes: &[u8]) -> Option<SnapshotId> {
    Some(SnapshotId::from_bytes(bytes.try_into().ok()?))
}

fn worktree_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<WorktreeRow> {
    let id = |at: &str| {
        Ok::<_, rusqlite::Error>(row.get::<_, Option<Vec<u8>>>(at)?.and_then(|id| snapshot_id(&id)))
    };
    // Files are called by it. Whoever made the database must not lead anywhere else.
    let token: String = row.get("token")?;
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(rusqlite::Error::FromSqlConversionFailure(
            1,
            rusqlite::types::Type::Text,
            "the token of a worktree is not hexadecimal".into(),
        ));
    }
    Ok(WorktreeRow {
        name: row.get("name")?,
        token,
        path: row.get("path")?,
        snapshot: id("snapshot")?,
        state: match row.get("state")? {
            0_i64 => State::Starting,
            1 => State::Ready,
            _ => State::Switching,
        },
        target: id("target")?,
        maker: row.get("maker")?,
        created: row.get("created")?,
    })
}

impl State {
    pub(crate) fn as_number(self) -> i64 {
        match self {
            Self::Starting => 0,
            Self::Ready => 1,
            Self::Switching => 2,
        }
    }
}

/// Puts a worktree's row in, or over the one of its name.
pub(crate) fn put_worktree(
    tx: &rusqlite::Transaction<'_>,
    row: &WorktreeRow,
    replace: bool,
) -> rusqlite::Result<bool> {
    let how = if replace { "REPLACE" } else { "IGNORE" };
    let changed = tx.execute(
        &format!("INSERT OR {how} INTO worktrees VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
        params![
            row.name,
            row.token,
            row.path,
            row.snapshot.map(|id| *id.as_bytes()),
            row.state.as_number(),
            row.target.map(|id| *id.as_bytes()),
            row.maker,
            row.created
        ],
    )?;
    Ok(changed == 1)
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

/// How a connection is to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    Others,
    /// Nothing is shared, and no file mapped: <https://sqlite.org/wal.html#noshm>. With how long others are waited for.
    Nobody(Duration),
}

fn connect(path: &Path, flags: OpenFlags, with: With) -> Result<Connection, Error> {
    let open = || {
        let connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        // A store may be someone else's: no function that its schema names is run.
        connection.pragma_update(None, "trusted_schema", false)?;
        if let With::Nobody(patience) = with {
            connection.busy_timeout(patience)?;
            // Before the first look into it.
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_query_value(None, "user_version", |_| Ok(()))?;
        }
        connection.busy_timeout(BUSY)?;
        // Asking for the mode it already has takes no lock.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    open().map_err(|error| failed("open", path, error))
}

/// Reads the database as it lies there.
fn connect_read_only(path: &Path) -> Result<Connection, Error> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    if std::fs::metadata(wal).is_ok_and(|meta| meta.len() > 0) {
        let cause = std::io::Error::new(
            std::io::ErrorKind::ReadOnlyFilesystem,
            "its last writer was killed, and what it wrote cannot be taken over while the filesystem is read-only",
        );
        return Err(Error::new(ErrorKind::ReadOnly, "open", path, cause));
    }
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags).map_err(|error| failed("open", path, error))
}

/// An error of SQLite as one of ours.
pub(crate) fn failed(operation: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let code = error.sqlite_error_code();
    if let Some(Code::DiskFull | Code::CannotOpen | Code::SystemIoFailure) = code
        && let Some(cause) = path.parent().and_then(super::room::why_full)
    {
        return Error::io(operation, path, cause);
    }
    let kind = match code {
        None if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
            ErrorKind::Damaged
        }
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => ErrorKind::Busy,
        Some(Code::DiskFull) => ErrorKind::StorageFull,
        Some(Code::ReadOnly) => ErrorKind::ReadOnly,
        Some(Code::PermissionDenied) => ErrorKind::PermissionDenied,
        Some(Code::DatabaseCorrupt | Code::NotADatabase) => ErrorKind::Damaged,
        _ => ErrorKind::Io,
    };
    Error::new(kind, operation, path, std::io::Error::other(error))
}

#[cfg(test)]
mod tests;

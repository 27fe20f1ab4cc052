//! The catalog, `index.db`: everything that is small, must be found by name, and must change all at
//! once.
//!
//! The catalog is a SQLite database in WAL mode. Writing transactions take the write lock when they
//! begin (`BEGIN IMMEDIATE`), are short, and wait for each other; readers never wait. With
//! `synchronous=FULL`, a committed transaction is on the disk. The blobs that it refers to were
//! flushed before it began, so they are on the disk, too. A change that is neither
//! reported nor needed by what follows does not wait for the disk ([`Catalog::write_soon`]): a crash
//! may undo it, but never half of it.
//!
//! Where processes do not share memory (`Filesystem::shared_memory`), the database has a rollback
//! journal instead, and readers and writers wait for each other.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Params, Row, Transaction, TransactionBehavior};

use super::id::SnapshotId;
use super::layout::Layout;
use super::room::{PAUSES_MS, Room, give_up, keep_bytes, settle};
use crate::error::{Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystem;
use crate::tree::pool::lock;

mod connect;
mod packs;
mod schema;
mod snapshots;
mod worktrees;

pub(crate) use snapshots::{Based, NewSnapshot, Origin, no_snapshot};
pub(crate) use worktrees::{DroppedRow, Linked, PROJECT, State, WorktreeRow};

use connect::{
    CHANGING_PAUSES, FileState, OPEN, OpenDatabase, With, connect, connect_as_is,
    connect_read_only, failed,
};
use schema::{VERSIONS, Version};

/// How long calve waits until other connections have closed the database. They may well belong to
/// this process.
const ALONE: Duration = Duration::from_millis(200);

/// The open database.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// `None` if each operation opens a connection of its own.
    connection: Mutex<Option<OpenDatabase>>,
    /// Whether other connections were seen to keep the database open.
    others: AtomicBool,
    path: std::path::PathBuf,
    /// The versions of the tables that this calve knows. Tests know more.
    versions: &'static [Version],
}

/// The number of rows of each kind.
#[derive(Debug)]
pub(crate) struct RowCounts {
    pub(crate) snapshots: u64,
    pub(crate) names: u64,
    /// The project is not counted.
    pub(crate) worktrees: u64,
    pub(crate) directories: u64,
    pub(crate) packs: u64,
}

impl Catalog {
    /// Makes the database of a new store, with its tables.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        // No other process knows the database yet, so it does not need the files for sharing it.
        let connection = connect(path, OPEN | OpenFlags::SQLITE_OPEN_CREATE, With::Nobody(ALONE))?;
        let db = Self::of(Some(connection), path);
        db.make_tables()?;
        Ok(db)
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        match super::room::left(path.parent().unwrap_or(path)) {
            Room::Full(cause) => return Err(Error::io(Operation::Open, path, cause)),
            Room::Little => return Self::open_briefly(path),
            Room::Enough => {}
        }
        let db = Self::of(Some(connect(path, OPEN, With::Others)?), path);
        db.check(Use::Write)?;
        Ok(db)
    }

    /// Opens the database if the filesystem has little room, see [`room`](super::room): each
    /// operation opens it exclusively and closes it again.
    pub(crate) fn open_briefly(path: &Path) -> Result<Self, Error> {
        let db = Self::of(None::<OpenDatabase>, path);
        db.check(Use::Write)?;
        Ok(db)
    }

    /// Opens the database for an operation that frees space and has taken the reserve. Except on
    /// btrfs, the database stays open. Each operation that opens it briefly makes a file and
    /// removes it, and on XFS it takes a while until another file can be made in the place of a
    /// removed one.
    pub(crate) fn open_in_reserve(path: &Path) -> Result<Self, Error> {
        if Filesystem::of(path).mapped_needs_room {
            Self::open_briefly(path)
        } else {
            Self::open(path)
        }
    }

    /// Behaves from now on as if the database had been opened with [`Catalog::open_in_reserve`].
    pub(crate) fn be_in_reserve(&self) {
        if Filesystem::of(&self.path).mapped_needs_room {
            *lock(&self.connection) = None;
        }
    }

    fn of(opened: Option<impl Into<OpenDatabase>>, path: &Path) -> Self {
        let (connection, path) = (Mutex::new(opened.map(Into::into)), path.to_owned());
        Self { connection, others: false.into(), path, versions: VERSIONS }
    }

    /// Opens a database that this process cannot write to, and beside which it cannot make the
    /// files for sharing.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, Error> {
        let db = Self::of(Some(connect_read_only(path)?), path);
        db.check(Use::Read)?;
        Ok(db)
    }

    /// The same for a database in which only this process, or one that waits, may change anything.
    fn open_as_is(path: &Path) -> Result<Self, Error> {
        let db = Self::of(Some(connect_as_is(path)?), path);
        db.check(Use::Read)?;
        Ok(db)
    }

    /// Opens the database of the full store at `path` to read it. If there is no room even for
    /// that, it uses the reserve.
    pub(super) fn of_full(path: &Path, full: Error) -> Result<(Self, Option<i32>), Error> {
        let database = Layout(path).database();
        let errno = full.io_error().raw_os_error().unwrap_or_default();
        for (tried, pause) in PAUSES_MS.into_iter().enumerate() {
            if let Ok(catalog) = Self::open_as_is(&database) {
                return Ok((catalog, Some(errno)));
            }
            // Its last writer is at work and holds all that it needs, or was killed.
            std::thread::sleep(Duration::from_millis(pause));
            if tried > 1 {
                give_up(path);
                settle(path);
                let opened = Self::open_in_reserve(&database);
                // Except on btrfs, the database stays open and has its files. The rest of the room
                // belongs to work that frees space: a command that only came to look, or that names
                // contents, would use it up.
                if !Filesystem::of(path).mapped_needs_room {
                    keep_bytes(path);
                }
                if let Ok(catalog) = opened {
                    return Ok((catalog, None));
                }
            }
        }
        Err(full)
    }

    fn read<T>(&self, query: impl Fn(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        self.look(Operation::Read, query)
    }

    fn look<T>(
        &self,
        operation: Operation,
        query: impl Fn(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.again(|connection| {
            query(connection).map_err(|error| failed(operation, &self.path, error))
        })
    }

    /// Does `work`. If this process only reads the database, and another one changed it meanwhile,
    /// does `work` again.
    fn again<T>(&self, work: impl Fn(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let is_without_locks =
            || lock(&self.connection).as_ref().is_some_and(|opened| opened.seen.is_some());
        for pause in CHANGING_PAUSES {
            match self.connected(Use::Read, |connection| work(connection)) {
                Err(error) if error.kind() == ErrorKind::Busy && is_without_locks() => {
                    std::thread::sleep(pause);
                }
                done => return done,
            }
        }
        self.connected(Use::Read, |connection| work(connection))
    }

    /// Does `change` in one transaction: when this returns, either all of it is on the disk, or
    /// nothing.
    fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.transact(Operation::Write, "FULL", change)
    }

    /// Like `write`, but a crash of the machine may undo the change.
    fn write_soon<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.transact(Operation::Write, "NORMAL", change)
    }

    fn transact<T>(
        &self,
        operation: Operation,
        synchronous: &str,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
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

    pub(crate) fn counts(&self) -> Result<RowCounts, Error> {
        self.read(|db| {
            let count = |table: &str| {
                let sql = format!("SELECT count(*) FROM {table}");
                db.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
            };
            Ok(RowCounts {
                snapshots: count("snapshots")?,
                names: count("names")?,
                worktrees: count(&format!("worktrees WHERE name <> '{PROJECT}'"))?,
                directories: count("directories")?,
                packs: count("packs")?,
            })
        })
    }

    /// Opens the database exclusively. If other connections keep it open all the time, this shares
    /// it with them instead. It waits only once for the other connections to close.
    fn connect_briefly(&self) -> Result<Connection, Error> {
        let patience = if self.others.load(Relaxed) { Duration::ZERO } else { ALONE };
        let alone = connect(&self.path, OPEN, With::Nobody(patience));
        let has_others = alone.as_ref().is_err_and(|error| error.kind() == ErrorKind::Busy);
        self.others.store(has_others, Relaxed);
        if has_others { connect(&self.path, OPEN, With::Others) } else { alone }
    }

    /// Like `connect_briefly`, after that failed for want of room. For everything that a
    /// transaction may change, even a file that is made and removed, btrfs sets aside a part of the
    /// quota. btrfs gives that part back when the transaction is on the disk
    /// (`btrfs_qgroup_free_meta_all_pertrans`, fs/btrfs/qgroup.c). So this flushes the filesystem
    /// and tries again. If that fails, too, a reader reads the database as it is, which takes no
    /// room.
    fn connect_after(&self, error: Error, to: Use) -> Result<Connection, Error> {
        if error.kind() != ErrorKind::StorageFull {
            return Err(error);
        }
        super::room::settle(self.path.parent().unwrap_or(&self.path));
        self.connect_briefly().or_else(|error| match to {
            Use::Read => connect_as_is(&self.path).map_err(|_| error),
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
            Some(opened) => {
                connect::uses(&self.path);
                let is_changed =
                    |seen: Option<FileState>| seen.is_some() && seen != FileState::of(&self.path);
                if is_changed(opened.seen) {
                    *opened = connect_read_only(&self.path)?;
                }
                let done = work(&mut opened.connection);
                if is_changed(opened.seen) {
                    // Whatever it read, or found damaged.
                    let cause = std::io::Error::other("another process changed it meanwhile");
                    return Err(Error::new(ErrorKind::Busy, Operation::Read, &self.path, cause));
                }
                done
            }
            None => {
                // Without this lock, two processes that want the database exclusively would keep
                // each other from it for as long as they wait, and then share it.
                let store = self.path.parent().unwrap_or(&self.path);
                let _turn = super::locks::one_at_the_database(store);
                let mut connection =
                    self.connect_briefly().or_else(|error| self.connect_after(error, to))?;
                let done = work(&mut connection);
                // Changes that cannot be written back now stay in the database's log; the next
                // connection takes them over.
                drop(connection);
                done
            }
        }
    }

    fn damaged(&self, what: String) -> Error {
        let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        Error::new(ErrorKind::Damaged, Operation::Read, &self.path, cause)
    }
}

/// All rows that a statement finds.
fn rows<T>(
    db: &Connection,
    sql: &str,
    params: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map(params, row)?.collect()
}

fn snapshot_id(bytes: &[u8]) -> Option<SnapshotId> {
    Some(SnapshotId::from_bytes(bytes.try_into().ok()?))
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Write,
}

#[cfg(test)]
mod tests;

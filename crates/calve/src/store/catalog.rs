//! `index.db`: what is small, must be found by name, and must change all at once.
//!
//! SQLite in WAL mode. Writing transactions take the write lock when they begin (`BEGIN IMMEDIATE`), are short, and wait for
//! each other; readers never wait. `synchronous=FULL`: a transaction that was committed is on the disk, and since the blobs
//! that it speaks of were flushed before it began, so are they. What is about worktrees alone is not waited for
//! ([`Catalog::write_soon`]): a crash may take it back, as it may the worktree, but never half of it.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::id::SnapshotId;
use super::room::Room;
use crate::error::{Error, ErrorKind, Operation};
use crate::tree::pool::lock;

mod connect;
mod packs;
mod schema;
mod snapshots;
mod worktrees;

pub(crate) use snapshots::NewSnapshot;
pub(crate) use worktrees::{Linked, PROJECT, State, WorktreeRow};

use connect::{OPEN, With, connect, connect_read_only, failed};
use schema::{VERSIONS, Version};

/// How long it is waited for others to close it, who may well be this process.
const ALONE: Duration = Duration::from_millis(200);

/// The open database.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// Nothing where each operation makes one of its own.
    connection: Mutex<Option<Connection>>,
    /// Whether others were seen to keep it open.
    others: AtomicBool,
    path: std::path::PathBuf,
    /// The versions of its tables that are known. Tests know more.
    versions: &'static [Version],
}

/// How many there are of each.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) snapshots: u64,
    pub(crate) names: u64,
    /// The project is none of them.
    pub(crate) worktrees: u64,
    pub(crate) directories: u64,
    pub(crate) packs: u64,
}

impl Catalog {
    /// Makes the database of a new store, with its tables.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        // Nobody else knows of it yet, so it needs no room to be shared.
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

    /// For whoever has little room, see [`room`](super::room): each operation opens it, for itself alone, and closes it again.
    pub(crate) fn open_briefly(path: &Path) -> Result<Self, Error> {
        let db = Self::of(None, path);
        db.check(Use::Write)?;
        Ok(db)
    }

    /// For what frees space, once it has the reserve. Where that may be, it stays open: XFS takes its time until another file can
    /// be made in the place of one that was removed, and each that opens it briefly makes and removes one.
    pub(crate) fn open_in_reserve(path: &Path) -> Result<Self, Error> {
        if super::room::is_btrfs(path) { Self::open_briefly(path) } else { Self::open(path) }
    }

    /// From now on, as if it had been opened with [`Catalog::open_in_reserve`].
    pub(crate) fn be_in_reserve(&self) {
        if super::room::is_btrfs(&self.path) {
            self.be_brief();
        }
    }

    /// From now on, as if it had been opened with [`Catalog::open_briefly`].
    fn be_brief(&self) {
        *lock(&self.connection) = None;
    }

    fn of(connection: Option<Connection>, path: &Path) -> Self {
        let (connection, path) = (Mutex::new(connection), path.to_owned());
        Self { connection, others: false.into(), path, versions: VERSIONS }
    }

    /// Opens a database that nobody can write to, nor make the files beside it that sharing it takes.
    pub(crate) fn open_read_only(path: &Path) -> Result<Self, Error> {
        let db = Self::of(Some(connect_read_only(path)?), path);
        db.check(Use::Read)?;
        Ok(db)
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        self.look(Operation::Read, query)
    }

    fn look<T>(
        &self,
        operation: Operation,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.connected(Use::Read, |connection| {
            query(connection).map_err(|error| failed(operation, &self.path, error))
        })
    }

    /// Does `change` in one transaction: all of it, on the disk when this returns, or nothing.
    fn write<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.transact(Operation::Write, "FULL", change)
    }

    /// The same, but a crash of the machine may take it back.
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

    pub(crate) fn counts(&self) -> Result<Counts, Error> {
        self.read(|db| {
            let count = |table: &str| {
                let sql = format!("SELECT count(*) FROM {table}");
                db.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
            };
            Ok(Counts {
                snapshots: count("snapshots")?,
                names: count("names")?,
                worktrees: count(&format!("worktrees WHERE name <> '{PROJECT}'"))?,
                directories: count("directories")?,
                packs: count("packs")?,
            })
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

    fn damaged(&self, what: String) -> Error {
        let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        Error::new(ErrorKind::Damaged, Operation::Read, &self.path, cause)
    }
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

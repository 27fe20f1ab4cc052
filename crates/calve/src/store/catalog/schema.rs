//! The tables of the database in every version, and the migration from each version to the next.
//!
//! # Versions
//! A database says in `user_version` which version its tables have. Opening a database of an
//! earlier version migrates it, in one transaction. So a killed process leaves the old version, and
//! if two processes migrate at once, the second finds the migration done. A database of a later
//! version is refused because of that number. A database that cannot be written to is read as it
//! is.
//!
//! # To the letter
//! A store may come from someone else. A view with the name of one of calve's tables could never
//! end. A table could compute a column of any size, or change what is written. So before calve
//! reads or migrates the tables, it compares their SQL text, as SQLite keeps it, with the text of
//! their version. The two must be equal to the letter. The database may have other tables; calve
//! never reads them.
//!
//! # A new version
//! A new version lists all tables as they are after its migration. For a column that was added,
//! this is the text that `ALTER TABLE … ADD COLUMN` produces, which a test compares. It also lists
//! the statements that change the tables of the version before; tables that it adds are made of
//! their texts. New columns have a default or may be null, because an earlier calve that has the
//! database open goes on writing rows. Queries name the columns that they write. Code that reads a
//! column that earlier versions do not have decides what its value is there.

use rusqlite::Connection;

use super::{Catalog, Use};
use crate::error::{Error, ErrorKind, Operation};

/// A version of the tables. The first is number 1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    /// The names of the tables, and the SQL text that SQLite keeps for each.
    pub(super) tables: &'static [(&'static str, &'static str)],
    /// The statements that change the tables of the version before to these. A new table needs
    /// none.
    pub(super) migration: &'static str,
}

/// All versions. The module [`store_format`](crate::store_format) documents the last.
pub(super) static VERSIONS: &[Version] = &[Version { tables: TABLES, migration: "" }];

pub(super) const TABLES: &[(&str, &str)] = &[
    (
        "snapshots",
        "CREATE TABLE snapshots (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id BLOB NOT NULL UNIQUE,
        object BLOB NOT NULL,
        worktree TEXT,
        branch TEXT
    )",
    ),
    // In the order in which they were written, with an index of their ids. In the tree of the ids
    // (`WITHOUT ROWID`), which encodings make deep, SQLite would read whole encodings to compare
    // ids: nine reads for each directory of a large snapshot.
    (
        "directories",
        "CREATE TABLE directories (id BLOB PRIMARY KEY NOT NULL, encoding BLOB NOT NULL)",
    ),
    ("names", "CREATE TABLE names (name TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID"),
    (
        "worktrees",
        "CREATE TABLE worktrees (
        name TEXT PRIMARY KEY,
        token TEXT NOT NULL UNIQUE,
        path BLOB NOT NULL,
        snapshot BLOB,
        state INTEGER NOT NULL,
        target BLOB,
        maker TEXT NOT NULL,
        created INTEGER NOT NULL,
        git TEXT,
        slot INTEGER
    ) WITHOUT ROWID",
    ),
    (
        "packs",
        "CREATE TABLE packs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    ),
    (
        "packed",
        "CREATE TABLE packed (
        blob BLOB PRIMARY KEY,
        pack INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        stored INTEGER NOT NULL,
        size INTEGER NOT NULL
    ) WITHOUT ROWID",
    ),
    (
        "dropped",
        "CREATE TABLE dropped (
        token TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        path BLOB NOT NULL,
        snapshot BLOB,
        created INTEGER NOT NULL,
        git TEXT,
        beside INTEGER NOT NULL,
        dropped INTEGER NOT NULL,
        slot INTEGER
    ) WITHOUT ROWID",
    ),
];

/// How the tables of a database compare with the versions that this calve knows.
enum KnownSchema {
    /// The database has the tables of this version; the first version is 0.
    Version(usize),
    /// The database says that it has another version.
    Unknown(i64),
    /// The database does not have the tables of the version that it says.
    Damaged(String),
}

fn known(db: &Connection, versions: &[Version]) -> rusqlite::Result<KnownSchema> {
    let number: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let Some((at, version)) = at.and_then(|at| Some((at, versions.get(at)?))) else {
        return Ok(KnownSchema::Unknown(number));
    };
    let ours = |table: &str| {
        versions
            .iter()
            .flat_map(|version| version.tables)
            .any(|(name, _)| name.eq_ignore_ascii_case(table))
    };
    let mut statement =
        db.prepare("SELECT type, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let mut rows = statement.query([])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        let (kind, table, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        match kind.as_str() {
            "table" | "index" if !ours(&table) => {}
            "table" if version.tables.contains(&(table.as_str(), sql.as_str())) => found += 1,
            kind => return Ok(KnownSchema::Damaged(format!("it has a {kind} that no store has"))),
        }
    }
    if found == version.tables.len() {
        return Ok(KnownSchema::Version(at));
    }
    Ok(KnownSchema::Damaged("it does not have all the tables of a store".to_owned()))
}

impl Catalog {
    /// Makes the tables of a new store.
    pub(super) fn make_tables(&self) -> Result<(), Error> {
        self.transact(Operation::Make, "FULL", |tx| {
            let newest = self.versions.last().map_or(&[][..], |version| version.tables);
            for (_, sql) in newest {
                tx.execute_batch(sql)?;
            }
            set_version(tx, self.versions.len())
        })
    }

    /// Refuses a database that this calve would misread. Migrates a database of an earlier version
    /// to the current one, unless it is opened only to be read.
    pub(super) fn check(&self, to: Use) -> Result<(), Error> {
        // In one transaction: between the number and the tables another process may migrate them.
        let look = |db: &Connection| known(&*db.unchecked_transaction()?, self.versions);
        let at = self.must_be_known(self.look(Operation::Open, look)?)?;
        if at + 1 == self.versions.len() || to == Use::Read {
            return Ok(());
        }
        let migrated = self.transact(Operation::Migrate, "FULL", |tx| {
            // Another process may have migrated the database meanwhile.
            let known = known(tx, self.versions)?;
            if let KnownSchema::Version(at) = known {
                for versions in self.versions[at..].windows(2) {
                    let [before, version] = versions else { continue };
                    tx.execute_batch(version.migration)?;
                    for (name, sql) in version.tables {
                        if before.tables.iter().all(|(old, _)| old != name) {
                            tx.execute_batch(sql)?;
                        }
                    }
                }
                set_version(tx, self.versions.len())?;
            }
            Ok(known)
        });
        match migrated {
            // Only the file cannot be written to; its tables are known and can be read.
            Err(error) if error.kind() == ErrorKind::ReadOnly => Ok(()),
            migrated => self.must_be_known(migrated?).map(drop),
        }
    }

    fn must_be_known(&self, known: KnownSchema) -> Result<usize, Error> {
        match known {
            KnownSchema::Version(at) => Ok(at),
            KnownSchema::Damaged(why) => Err(self.damaged(why)),
            KnownSchema::Unknown(number) => {
                let cause = std::io::Error::other(format!(
                    "its tables are of version {number}, and this calve knows version {}",
                    self.versions.len()
                ));
                Err(Error::new(ErrorKind::StoreIncompatible, Operation::Open, &self.path, cause))
            }
        }
    }
}

fn set_version(db: &Connection, number: usize) -> rusqlite::Result<()> {
    db.pragma_update(None, "user_version", i64::try_from(number).unwrap_or(i64::MAX))
}

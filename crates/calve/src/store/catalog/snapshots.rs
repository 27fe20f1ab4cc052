//! Snapshots, the directories that they are made of, and their names.

use std::collections::{HashMap, HashSet};
use std::io;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::id::{DirectoryId, LEAST_DIGITS, SnapshotId, is_hex};
use super::super::manifest::{Builder, Entries, Manifest};
use super::super::object::{
    Entry, Kind, SnapshotObject, check_directory, decode_directory, encode_directory,
};
use super::connect::failed;
use super::{Catalog, PROJECT, rows, snapshot_id};
use crate::error::{Error, ErrorKind, Operation};

/// A snapshot, or why it cannot be read.
pub(crate) type SnapshotRow = Result<(SnapshotId, SnapshotObject), String>;

/// A new snapshot, with all rows that belong to it.
pub(crate) struct NewSnapshot<'a> {
    /// The encoding of its object.
    pub(crate) encoding: &'a [u8],
    /// Its tree, and the places in it of the directories that the database may not have yet.
    /// `None`: the database has them all.
    pub(crate) tree: Option<(&'a Manifest, &'a [u32])>,
    pub(crate) based: Based<'a>,
    pub(crate) name: Option<&'a str>,
    pub(crate) origin: &'a Origin,
}

/// The worktrees that are based on a new snapshot from now on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Based<'a> {
    None,
    /// The one with this token.
    One(&'a str),
    /// Those with these tokens, dropped or not, if they have no base snapshot.
    Unnamed {
        tokens: &'a [String],
        /// The project's token. The project is based on the snapshot, too, if its base is still
        /// `was`.
        project: &'a str,
        was: Option<SnapshotId>,
    },
}

/// The tree that a snapshot was taken of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The name of its worktree, which for the project is [`PROJECT`](super::PROJECT).
    pub(crate) worktree: Option<String>,
    /// The branch of git that it was on.
    pub(crate) branch: Option<String>,
}

impl Catalog {
    pub(crate) fn snapshot(&self, id: SnapshotId) -> Result<Option<SnapshotObject>, Error> {
        let object: Option<Vec<u8>> = self.read(|db| {
            db.prepare_cached("SELECT CAST(object AS BLOB) FROM snapshots WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        object
            .map(|object| decode_snapshot(id, &object))
            .transpose()
            .map_err(|why| self.damaged(format!("snapshot {id}: {why}")))
    }

    /// A snapshot that must be there.
    pub(crate) fn object(&self, id: SnapshotId) -> Result<SnapshotObject, Error> {
        self.snapshot(id)?.ok_or_else(|| no_snapshot(&id.to_string()))
    }

    /// The snapshot that the project is based on.
    pub(crate) fn latest(&self) -> Result<Option<SnapshotId>, Error> {
        Ok(self.worktree(PROJECT)?.and_then(|row| row.snapshot))
    }

    /// All snapshots, the newest first. A snapshot that cannot be read comes as the reason for
    /// that.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotRow>, Error> {
        let all = "SELECT CAST(id AS BLOB), CAST(object AS BLOB) FROM snapshots ORDER BY seq DESC";
        let found: Vec<(Vec<u8>, Vec<u8>)> =
            self.read(|db| rows(db, all, [], |row| Ok((row.get(0)?, row.get(1)?))))?;
        let read = |(id, object): (Vec<u8>, Vec<u8>)| {
            let id = snapshot_id(&id).ok_or("a snapshot's id is malformed")?;
            let object = decode_snapshot(id, &object);
            Ok((id, object.map_err(|why| format!("snapshot {id}: {why}"))?))
        };
        Ok(found.into_iter().map(read).collect())
    }

    pub(crate) fn snapshot_ids(&self) -> Result<Vec<SnapshotId>, Error> {
        let all = "SELECT id FROM snapshots ORDER BY seq DESC";
        let ids: Vec<Vec<u8>> = self.read(|db| rows(db, all, [], |row| row.get(0)))?;
        Ok(ids.iter().filter_map(|id| snapshot_id(id)).collect())
    }

    pub(crate) fn names(&self) -> Result<Vec<(String, SnapshotId)>, Error> {
        let all = "SELECT name, snapshot FROM names ORDER BY name";
        let names: Vec<(String, Vec<u8>)> =
            self.read(|db| rows(db, all, [], |row| Ok((row.get(0)?, row.get(1)?))))?;
        Ok(names.into_iter().filter_map(|(name, id)| Some((name, snapshot_id(&id)?))).collect())
    }

    /// Which trees the snapshots were taken of, as far as it is known.
    pub(crate) fn origins(&self) -> Result<HashMap<SnapshotId, Origin>, Error> {
        let known = "SELECT id, worktree, branch FROM snapshots WHERE worktree IS NOT NULL";
        let origin = |row: &Row<'_>| {
            Ok((row.get(0)?, Origin { worktree: row.get(1)?, branch: row.get(2)? }))
        };
        let origins: Vec<(Vec<u8>, Origin)> = self.read(|db| rows(db, known, [], origin))?;
        Ok(origins
            .into_iter()
            .filter_map(|(id, origin)| Some((snapshot_id(&id)?, origin)))
            .collect())
    }

    /// The tree of a snapshot. Every object is compared with its hash on the way.
    pub(crate) fn manifest(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
    ) -> Result<Manifest, Error> {
        self.manifest_like(id, object, &[])
    }

    /// The same, when some manifests are in memory that have much in common with it. Directories
    /// that one of them has too are not read, and share its memory.
    pub(crate) fn manifest_like(
        &self,
        id: SnapshotId,
        object: &SnapshotObject,
        like: &[&Manifest],
    ) -> Result<Manifest, Error> {
        let known = like.iter().flat_map(|manifest| manifest.lists()).collect();
        self.again(|connection| self.manifest_by(connection, id, object, &known))
    }

    fn manifest_by(
        &self,
        connection: &Connection,
        id: SnapshotId,
        object: &SnapshotObject,
        known: &HashMap<DirectoryId, &Entries>,
    ) -> Result<Manifest, Error> {
        let mut builder = Builder::new(object.root.clone());
        // One transaction takes the lock once, instead of once for each directory.
        let transaction = connection
            .unchecked_transaction()
            .map_err(|error| failed(Operation::Read, &self.path, error))?;
        let mut statement = transaction
            .prepare_cached("SELECT encoding FROM directories WHERE id = ?1")
            .map_err(|error| failed(Operation::Read, &self.path, error))?;
        let mut seen = 1_u64;
        while let Some(entry) = builder.next() {
            let Kind::Directory(directory) = entry.kind else {
                return Err(self.damaged(format!("snapshot {id} has a root that is no directory")));
            };
            let entries = match known.get(&directory) {
                Some(entries) => (*entries).clone(),
                None => statement
                    .query_row([directory.as_bytes()], |row| {
                        let encoding = row.get_ref(0)?.as_blob()?;
                        if DirectoryId::of(encoding) != directory {
                            return Ok(Err("it does not have its own hash".to_owned()));
                        }
                        Ok(decode_directory(encoding).map_err(|error| error.to_string()))
                    })
                    .optional()
                    .map_err(|error| failed(Operation::Read, &self.path, error))?
                    .unwrap_or_else(|| Err("it is gone".to_owned()))
                    .map_err(|why| {
                        self.damaged(format!("directory {directory} of snapshot {id}: {why}"))
                    })?
                    .into(),
            };
            // Two entries may refer to one directory, and the entries there again, and so on. So a
            // few bytes could unfold without end.
            seen += entries.len() as u64;
            if seen > object.entries || !builder.add(entries) {
                return Err(self.damaged(format!(
                    "snapshot {id} has more entries than the {} that it says",
                    object.entries
                )));
            }
        }
        let manifest = builder.finish();
        if let Some(name) = manifest.foreign() {
            return Err(self.damaged(format!(
                "snapshot {id} has {} in its root, which no snapshot has",
                String::from_utf8_lossy(name)
            )));
        }
        Ok(manifest)
    }

    /// The entries of a directory, or the reason why they cannot be read.
    pub(crate) fn directory(&self, id: DirectoryId) -> Result<Result<Vec<Entry>, String>, Error> {
        let encoding = self.encoding(id)?;
        Ok(encoding
            .and_then(|encoding| decode_directory(&encoding).map_err(|error| error.to_string())))
    }

    /// The encoding of a directory, which has its hash, or the reason why it cannot be read.
    pub(crate) fn encoding(&self, id: DirectoryId) -> Result<Result<Vec<u8>, String>, Error> {
        let encoding: Option<Vec<u8>> = self.read(|db| {
            db.prepare_cached("SELECT CAST(encoding AS BLOB) FROM directories WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()
        })?;
        let Some(encoding) = encoding else { return Ok(Err("it is missing".to_owned())) };
        if DirectoryId::of(&encoding) != id {
            return Ok(Err("it does not have its own hash".to_owned()));
        }
        Ok(Ok(encoding))
    }

    /// Adds directories to the database, or repairs them. No snapshot need refer to them yet.
    #[cfg(any(feature = "remote", test, fuzzing))]
    pub(crate) fn add_directories(
        &self,
        directories: &[(DirectoryId, Vec<u8>)],
    ) -> Result<(), Error> {
        if directories.is_empty() {
            return Ok(());
        }
        self.write(|tx| {
            let mut insert =
                tx.prepare("INSERT OR REPLACE INTO directories (id, encoding) VALUES (?1, ?2)")?;
            for (id, encoding) in directories {
                insert.execute(params![id.as_bytes(), encoding])?;
            }
            Ok(())
        })
    }

    pub(crate) fn directory_ids(&self) -> Result<Vec<DirectoryId>, Error> {
        let all = "SELECT CAST(id AS BLOB) FROM directories";
        let ids: Vec<Vec<u8>> = self.read(|db| rows(db, all, [], |row| row.get(0)))?;
        let id = |id: Vec<u8>| Some(DirectoryId::from_bytes(id.try_into().ok()?));
        Ok(ids.into_iter().filter_map(id).collect())
    }

    /// A name or a worktree whose snapshot does not exist.
    pub(crate) fn without_snapshot(&self) -> Result<Option<String>, Error> {
        // One statement sees one state of the database.
        self.read(|db| {
            db.query_row(
                "SELECT name FROM (SELECT name, snapshot FROM names
                    UNION ALL SELECT name, snapshot FROM worktrees)
                    WHERE snapshot IS NOT NULL AND snapshot NOT IN (SELECT id FROM snapshots)",
                [],
                |row| row.get(0),
            )
            .optional()
        })
    }

    /// Adds a snapshot to the database, and returns its id. If the database has it already, this
    /// repairs what was damaged of it.
    pub(crate) fn add_snapshot(&self, new: &NewSnapshot<'_>) -> Result<SnapshotId, Error> {
        let id = SnapshotId::of(new.encoding);
        let (manifest, places) = new.tree.unzip();
        let places = places.unwrap_or_default();
        for (manifest, place) in
            manifest.into_iter().flat_map(|it| places.iter().map(move |at| (it, at)))
        {
            let directory = &manifest.directories[*place as usize];
            check_directory(&directory.entries).map_err(|malformed| {
                let cause = io::Error::new(io::ErrorKind::InvalidData, malformed);
                Error::io(Operation::TakeSnapshot, manifest.path(*place), cause)
            })?;
        }
        self.write(|tx| {
            if let Some(manifest) = manifest {
                put_directories(tx, manifest, places)?;
            }
            tx.execute(
                "INSERT INTO snapshots (id, object, worktree, branch) VALUES (?1, ?2, ?3, ?4)
                    ON CONFLICT (id)
                    DO UPDATE SET object = excluded.object WHERE object <> excluded.object",
                params![id.as_bytes(), new.encoding, new.origin.worktree, new.origin.branch],
            )?;
            put_base(tx, new.based, id)?;
            if let Some(name) = new.name {
                put_name(tx, name, id)?;
            }
            Ok(())
        })?;
        Ok(id)
    }

    /// Forgets those of the snapshots that, in the current state of the database, no name, no
    /// worktree and no dropped worktree uses. Returns which ones it forgot.
    pub(crate) fn forget_snapshots(
        &self,
        ids: &HashSet<SnapshotId>,
    ) -> Result<Vec<SnapshotId>, Error> {
        self.write(|tx| {
            let mut delete = tx.prepare(
                "DELETE FROM snapshots WHERE id = ?1
                    AND NOT EXISTS (SELECT 1 FROM names WHERE snapshot = ?1)
                    AND NOT EXISTS (SELECT 1 FROM worktrees WHERE snapshot = ?1 OR target = ?1)
                    AND NOT EXISTS (SELECT 1 FROM dropped WHERE snapshot = ?1)",
            )?;
            let mut forgotten = Vec::new();
            for id in ids {
                if delete.execute([id.as_bytes()])? > 0 {
                    forgotten.push(*id);
                }
            }
            Ok(forgotten)
        })
    }

    /// Gives a name to a snapshot. Returns whether the snapshot exists.
    pub(crate) fn set_name(&self, name: &str, id: SnapshotId) -> Result<bool, Error> {
        self.write(|tx| put_name(tx, name, id))
    }

    /// Removes a name. Returns whether the name existed.
    pub(crate) fn remove_name(&self, name: &str) -> Result<bool, Error> {
        self.write(|tx| Ok(tx.execute("DELETE FROM names WHERE name = ?1", [name])? > 0))
    }
}

/// Adds directories of a tree, by their places. This also repairs one whose encoding was damaged.
fn put_directories(db: &Connection, tree: &Manifest, places: &[u32]) -> rusqlite::Result<()> {
    let mut insert = db.prepare(
        "INSERT INTO directories (id, encoding) VALUES (?1, ?2) ON CONFLICT (id)
            DO UPDATE SET encoding = excluded.encoding WHERE encoding <> excluded.encoding",
    )?;
    // They are encoded one by one: all encodings take as much memory as half of the manifest.
    for place in places {
        let Kind::Directory(id) = tree.entry_of(*place).kind else { continue };
        let entries = &tree.directories[*place as usize].entries;
        insert.execute(params![id.as_bytes(), encode_directory(entries)])?;
    }
    Ok(())
}

/// Makes the snapshot the base of worktrees.
fn put_base(db: &Connection, based: Based<'_>, id: SnapshotId) -> rusqlite::Result<()> {
    let id = id.as_bytes();
    match based {
        Based::None => {}
        Based::One(token) => {
            let set = "UPDATE worktrees SET snapshot = ?1 WHERE token = ?2";
            db.execute(set, params![id, token])?;
        }
        Based::Unnamed { tokens, project, was } => {
            for table in ["worktrees", "dropped"] {
                let mut set = db.prepare(&format!(
                    "UPDATE {table} SET snapshot = ?1 WHERE token = ?2 AND snapshot IS NULL"
                ))?;
                for token in tokens {
                    set.execute(params![id, token])?;
                }
            }
            let set = "UPDATE worktrees SET snapshot = ?1 WHERE token = ?2 AND snapshot IS ?3";
            db.execute(set, params![id, project, was.as_ref().map(SnapshotId::as_bytes)])?;
        }
    }
    Ok(())
}

fn put_name(db: &Connection, name: &str, id: SnapshotId) -> rusqlite::Result<bool> {
    db.execute(
        "INSERT OR REPLACE INTO names (name, snapshot) SELECT ?1, id FROM snapshots WHERE id = ?2",
        params![name, id.as_bytes()],
    )
    .map(|count| count > 0)
}

fn decode_snapshot(id: SnapshotId, object: &[u8]) -> Result<SnapshotObject, String> {
    if SnapshotId::of(object) != id {
        return Err("it does not have its own hash".to_owned());
    }
    SnapshotObject::decode(object).map_err(|error| error.to_string())
}

/// The error for a name or an id that no snapshot has.
pub(crate) fn no_snapshot(text: &str) -> Error {
    let why = if text.len() < LEAST_DIGITS && is_hex(text) {
        "no snapshot has this name, and a snapshot id needs at least four digits"
    } else {
        "no snapshot has this name or id"
    };
    let cause = io::Error::new(io::ErrorKind::NotFound, why);
    Error::new(ErrorKind::SnapshotNotFound, Operation::FindSnapshot, text, cause)
}

//! The rows of packs and of the blobs in them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::id::{BlobId, DirectoryId};
use super::super::pack::Location;
use super::{Catalog, Use, failed, rows};
use crate::error::{Error, Operation};

impl Catalog {
    /// The pack that has a blob, and the blob's location there.
    pub(crate) fn packed(&self, blob: BlobId) -> Result<Option<(String, Location)>, Error> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT name, offset, stored, size FROM packed JOIN packs ON packs.id = pack WHERE blob = ?1",
            )?
            .query_row([blob.as_bytes()], |row| Ok((row.get(0)?, location(row, 1)?)))
            .optional()
        })
    }

    /// Calls `each` with all packed blobs, pack by pack: id, pack and location. The rows of a pack
    /// share its name in memory. `each` cannot use the catalog.
    pub(crate) fn each_packed(
        &self,
        mut each: impl FnMut(BlobId, &Arc<str>, Location),
    ) -> Result<(), Error> {
        let mut all = |db: &Connection| {
            let mut query = db.prepare(
                "SELECT blob, name, offset, stored, size FROM packed JOIN packs ON packs.id = pack ORDER BY pack, offset",
            )?;
            let (mut rows, mut pack) = (query.query([])?, Arc::<str>::from(""));
            while let Some(row) = rows.next()? {
                let name = row.get_ref(1)?.as_str()?;
                if *pack != *name {
                    pack = name.into();
                }
                if let Ok(id) = row.get_ref(0)?.as_blob()?.try_into() {
                    each(BlobId::from_bytes(id), &pack, location(row, 2)?);
                }
            }
            Ok(())
        };
        self.connected(Use::Read, |db| {
            all(db).map_err(|error| failed(Operation::Read, &self.path, error))
        })
    }

    pub(crate) fn pack_names(&self) -> Result<Vec<String>, Error> {
        self.read(|db| rows(db, "SELECT name FROM packs ORDER BY name", [], |row| row.get(0)))
    }

    /// Adds packs and their blobs to the database.
    pub(crate) fn add_packs(
        &self,
        packs: &[(String, Vec<(BlobId, Location)>)],
    ) -> Result<(), Error> {
        self.write(|tx| {
            for (name, index) in packs {
                put_pack(tx, name, index)?;
            }
            Ok(())
        })
    }

    /// Forgets where a blob is packed, because the pack does not yield its content any more.
    pub(crate) fn forget_packed(&self, blob: BlobId) -> Result<(), Error> {
        self.write(|tx| {
            tx.execute("DELETE FROM packed WHERE blob = ?1", [blob.as_bytes()]).map(drop)
        })
    }

    /// Forgets a pack if it has no blobs any more. Returns whether the pack was forgotten.
    pub(crate) fn forget_pack_if_empty(&self, name: &str) -> Result<bool, Error> {
        self.write(|tx| {
            tx.execute(
                "DELETE FROM packs WHERE name = ?1 AND id NOT IN (SELECT pack FROM packed)",
                [name],
            )
            .map(|count| count > 0)
        })
    }

    /// Forgets all packs that have no blobs any more. Returns their names.
    pub(crate) fn forget_empty_packs(&self) -> Result<Vec<String>, Error> {
        self.write(|tx| {
            let empty = "FROM packs WHERE id NOT IN (SELECT pack FROM packed)";
            let names = rows(tx, &format!("SELECT name {empty}"), [], |row| row.get(0))?;
            tx.execute(&format!("DELETE {empty}"), [])?;
            Ok(names)
        })
    }

    /// Forgets directories, and the locations of packed blobs.
    pub(crate) fn forget_objects(
        &self,
        directories: &[DirectoryId],
        packed: &[BlobId],
    ) -> Result<(), Error> {
        self.write(|tx| {
            let mut delete = tx.prepare("DELETE FROM directories WHERE id = ?1")?;
            for id in directories {
                delete.execute([id.as_bytes()])?;
            }
            let mut delete = tx.prepare("DELETE FROM packed WHERE blob = ?1")?;
            for id in packed {
                delete.execute([id.as_bytes()])?;
            }
            Ok(())
        })
    }
}

fn put_pack(db: &Connection, name: &str, index: &[(BlobId, Location)]) -> rusqlite::Result<()> {
    db.execute("INSERT OR IGNORE INTO packs (name) VALUES (?1)", [name])?;
    let pack: i64 =
        db.query_row("SELECT id FROM packs WHERE name = ?1", [name], |row| row.get(0))?;
    let mut insert = db.prepare_cached(
        "INSERT OR REPLACE INTO packed (blob, pack, offset, stored, size)
            VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (id, at) in index {
        insert.execute(params![
            id.as_bytes(),
            pack,
            at.offset.cast_signed(),
            at.stored.cast_signed(),
            at.size.cast_signed()
        ])?;
    }
    Ok(())
}

fn location(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Location> {
    let number = |at: usize| row.get::<_, i64>(at).map(i64::cast_unsigned);
    Ok(Location { offset: number(first)?, stored: number(first + 1)?, size: number(first + 2)? })
}

//! The rows of worktrees. Changes to them do not wait for the disk: a crash of the machine may undo
//! a change, as it may undo the worktree.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::id::SnapshotId;
use super::{Catalog, rows, snapshot_id};
use crate::error::Error;

/// The name of the row of the project itself. No worktree can have this name.
pub(crate) const PROJECT: &str = ".";

/// The state of a worktree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// A process makes the worktree. If that process is dead, no process does.
    Starting,
    Ready,
    /// The worktree is between its snapshot and its target.
    Restoring,
}

/// A row of `worktrees`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorktreeRow {
    pub(crate) name: String,
    /// The marker inside the worktree repeats this token.
    pub(crate) token: String,
    /// The bytes of an absolute path. Empty for a project whose store is inside it.
    pub(crate) path: Vec<u8>,
    pub(crate) snapshot: Option<SnapshotId>,
    pub(crate) state: State,
    pub(crate) target: Option<SnapshotId>,
    /// The process that starts or switches the worktree.
    pub(crate) maker: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    /// Set if the worktree is a linked worktree of git.
    pub(crate) git: Option<Linked>,
    /// A small number that no other worktree has. `None`: none was given yet, or it is the project.
    pub(crate) slot: Option<u32>,
}

/// A row of `dropped`: a worktree that was dropped and can be brought back.
#[derive(Debug, Clone)]
pub(crate) struct DroppedRow {
    /// The worktree's row. Its state, its target and its maker have no meaning.
    pub(crate) row: WorktreeRow,
    /// Whether the tree is beside its old path, because it could not be renamed into the store.
    pub(crate) beside: bool,
    /// Nanoseconds since 1970: several of one name may be dropped within a second.
    pub(crate) dropped: i64,
}

/// What a worktree is, or will be, for git: a linked worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Linked {
    /// The commit that its `HEAD` pointed to when it was started.
    pub(crate) commit: String,
    /// The branch that it was started on, without `refs/heads/`.
    pub(crate) branch: Option<String>,
    /// The content of its `HEAD` when calve last saw it, in case that git forgets it. If that is a
    /// branch, the commit that it was at follows, if its reflog told. `None`: as it was started.
    pub(crate) head: Option<String>,
    /// git or another tool made the worktree, and calve took it into the registry later.
    pub(crate) is_adopted: bool,
}

/// How the text of a worktree's [`Linked`] begins, by whether it is adopted.
const LINKED: [&str; 2] = ["linked ", "adopted "];

impl Linked {
    /// The `HEAD` when calve last saw it, as it is noted.
    pub(crate) fn last_head(&self) -> String {
        match (&self.head, &self.branch) {
            (Some(head), _) => head.clone(),
            (None, Some(branch)) => format!("ref: refs/heads/{branch} {}", self.commit),
            (None, None) => self.commit.clone(),
        }
    }

    fn encode(&self) -> String {
        let branch = self.branch.as_deref().unwrap_or_default();
        let head = self.head.as_deref().map(|head| format!("\nhead {head}")).unwrap_or_default();
        format!("{}{} {branch}{head}", LINKED[usize::from(self.is_adopted)], self.commit)
    }

    /// Parses the column's text. A worktree with a text that calve does not understand counts as
    /// one that is not a linked worktree.
    fn decode(text: &str) -> Option<Self> {
        let (text, head) =
            text.split_once("\nhead ").map_or((text, None), |(text, head)| (text, Some(head)));
        let is_adopted = text.starts_with(LINKED[1]);
        let text = text.strip_prefix(LINKED[usize::from(is_adopted)])?;
        let (commit, branch) = text.split_once(' ')?;
        let is_hex = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_id = is_hex(commit);
        // The store may come from someone else. git would take a name that begins with a dash for
        // an option, and the path of a lock contains the branch's name.
        let is_name = |name: &str| {
            name.split('/').all(|part| !part.is_empty() && !part.starts_with(['-', '.']))
                && !name.contains(char::is_control)
        };
        let is_head = |head: &&str| match head.strip_prefix("ref: refs/heads/") {
            Some(branch) => branch
                .split_once(' ')
                .map_or_else(|| is_name(branch), |(branch, at)| is_name(branch) && is_hex(at)),
            None => is_hex(head),
        };
        let head = head.filter(is_head).map(str::to_owned);
        let is_sound = is_id && (branch.is_empty() || is_name(branch));
        let branch = (!branch.is_empty()).then(|| branch.to_owned());
        is_sound.then(|| Self { commit: commit.to_owned(), branch, head, is_adopted })
    }
}

impl State {
    fn as_number(self) -> i64 {
        match self {
            Self::Starting => 0,
            Self::Ready => 1,
            Self::Restoring => 2,
        }
    }
}

impl Catalog {
    pub(crate) fn worktrees(&self) -> Result<Vec<WorktreeRow>, Error> {
        self.read(|db| rows(db, "SELECT * FROM worktrees ORDER BY name", [], worktree_row))
    }

    pub(crate) fn worktree(&self, name: &str) -> Result<Option<WorktreeRow>, Error> {
        self.read(|db| {
            db.query_row("SELECT * FROM worktrees WHERE name = ?1", [name], worktree_row).optional()
        })
    }

    /// Writes what is noted of git about a worktree.
    pub(crate) fn set_git(&self, row: &WorktreeRow) -> Result<(), Error> {
        let git = row.git.as_ref().map(Linked::encode);
        self.write_soon(|tx| {
            let changed = "UPDATE worktrees SET git = ?2 WHERE token = ?1";
            tx.execute(changed, params![row.token, git]).map(drop)
        })
    }

    /// Adds the row of a new store's project.
    pub(crate) fn add_project(&self, row: &WorktreeRow) -> Result<(), Error> {
        self.write(|tx| put_worktree(tx, row))
    }

    /// Adds the rows of new worktrees, if all names are free, and gives each a slot. If not, returns
    /// a name that is taken and the path of the worktree that has it. calve writes the rows to the disk before it calls
    /// git. Otherwise a power cut could leave registrations of git that no row knows.
    pub(crate) fn claim(
        &self,
        rows: &mut [WorktreeRow],
    ) -> Result<Option<(String, Vec<u8>)>, Error> {
        self.write(|tx| {
            for row in rows.iter() {
                if let Some(path) = path_of(tx, &row.name)? {
                    return Ok(Some((row.name.clone(), path)));
                }
            }
            for row in rows.iter_mut() {
                row.slot = Some(free_slot(tx, row.slot)?);
                put_worktree(tx, row)?;
            }
            Ok(None)
        })
    }

    /// Marks worktrees that were made as ready, all or none. If none, returns the name of one that
    /// was dropped meanwhile, or found at another path.
    pub(crate) fn mark_ready(&self, rows: &[WorktreeRow]) -> Result<Option<String>, Error> {
        self.write(|tx| {
            let mut find = tx.prepare("SELECT 1 FROM worktrees WHERE token = ?1 AND path = ?2")?;
            for row in rows {
                if !find.exists(params![row.token, row.path])? {
                    return Ok(Some(row.name.clone()));
                }
            }
            let mut mark =
                tx.prepare("UPDATE worktrees SET state = ?1, target = NULL WHERE token = ?2")?;
            for row in rows {
                mark.execute(params![State::Ready.as_number(), row.token])?;
            }
            Ok(None)
        })
    }

    /// Marks a worktree whose maker died as ready, unless another process already did and the
    /// worktree's state has changed since.
    pub(crate) fn finish_start(&self, row: &WorktreeRow) -> Result<(), Error> {
        self.write_soon(|tx| {
            tx.execute(
                "UPDATE worktrees SET state = ?1 WHERE token = ?2 AND state = ?3",
                params![State::Ready.as_number(), row.token, row.state.as_number()],
            )
            .map(drop)
        })
    }

    /// Writes the path of a worktree, and nothing else: another process may be about to take a
    /// snapshot of it.
    pub(crate) fn set_path(&self, row: &WorktreeRow) -> Result<(), Error> {
        self.write_soon(|tx| {
            tx.execute(
                "UPDATE worktrees SET path = ?1 WHERE token = ?2",
                params![row.path, row.token],
            )
            .map(drop)
        })
    }

    /// Writes the snapshot that a worktree is based on, and whether the worktree is between that
    /// snapshot and another one. Leaves its path and its name as they are. `false` if the worktree
    /// was dropped meanwhile; it stays dropped.
    pub(crate) fn set_state(&self, row: &WorktreeRow) -> Result<bool, Error> {
        self.write(|tx| {
            tx.execute(
                "UPDATE worktrees SET snapshot = ?1, state = ?2, target = ?3 WHERE token = ?4",
                params![
                    row.snapshot.map(|id| *id.as_bytes()),
                    row.state.as_number(),
                    row.target.map(|id| *id.as_bytes()),
                    row.token,
                ],
            )
            .map(|count| count > 0)
        })
    }

    /// Writes the base snapshot of a worktree that has none yet.
    pub(crate) fn set_first_base(&self, token: &str, id: SnapshotId) -> Result<(), Error> {
        self.write(|tx| {
            let changed =
                "UPDATE worktrees SET snapshot = ?2 WHERE token = ?1 AND snapshot IS NULL";
            tx.execute(changed, params![token, id.as_bytes()]).map(drop)
        })
    }

    /// Forgets worktrees that were not made.
    pub(crate) fn forget_worktrees(&self, rows: &[WorktreeRow]) -> Result<(), Error> {
        self.write_soon(|tx| rows.iter().try_for_each(|row| delete_worktree(tx, &row.token)))
    }

    /// Forgets a worktree if `away`, which takes its folder away, returns something. Both happen in
    /// one transaction. A process that starts or restores the worktree marks its row when the
    /// folder is there. Without the transaction, that process could leave a folder that has no row.
    /// If `kept` returns a row, the worktree can be brought back. `None` if the worktree's row does
    /// not exist.
    pub(crate) fn forget_worktree<T>(
        &self,
        token: &str,
        away: impl FnOnce() -> Result<Option<T>, Error>,
        kept: impl FnOnce(&T) -> Option<DroppedRow>,
    ) -> Result<Option<Option<T>>, Error> {
        self.write(|tx| {
            if !tx.prepare("SELECT 1 FROM worktrees WHERE token = ?1")?.exists([token])? {
                return Ok(Ok(None));
            }
            let done = away();
            if let Ok(Some(done)) = &done {
                delete_worktree(tx, token)?;
                if let Some(kept) = kept(done) {
                    put_dropped(tx, &kept)?;
                }
            }
            Ok(done.map(Some))
        })?
    }

    /// The dropped worktrees that can be brought back, the newest first.
    pub(crate) fn dropped(&self) -> Result<Vec<DroppedRow>, Error> {
        self.read(dropped_rows)
    }

    /// When worktrees were started since a second, ascending, in seconds since 1970. Those of git
    /// and other tools are not among them.
    pub(crate) fn starts_since(&self, second: i64) -> Result<Vec<i64>, Error> {
        const STARTS: &str = "SELECT created FROM (SELECT created, name, git FROM worktrees
            UNION ALL SELECT created, name, git FROM dropped)
            WHERE created >= ?1 AND name <> ?2 AND coalesce(git, '') NOT LIKE 'adopted %'
            ORDER BY created";
        let of = params![second, PROJECT];
        self.read(|db| rows(db, STARTS, of, |row| row.get(0)))
    }

    /// Gives a dropped worktree another name and another path, if no worktree has the name.
    /// `false` if there is no such dropped worktree.
    ///
    /// # Errors
    /// The outer one is the database's. The inner one is the path of the worktree with the name.
    pub(crate) fn rename_dropped(&self, row: &WorktreeRow) -> Result<Result<bool, Vec<u8>>, Error> {
        self.write(|tx| {
            if let Some(path) = path_of(tx, &row.name)? {
                return Ok(Err(path));
            }
            tx.execute(
                "UPDATE dropped SET name = ?1, path = ?2 WHERE token = ?3",
                params![row.name, row.path, row.token],
            )
            .map(|count| Ok(count > 0))
        })
    }

    /// Makes a dropped worktree a worktree again, if `back` brings its folder back. Both happen in
    /// one transaction. Its slot is the one that it had, if that is free.
    ///
    /// # Errors
    /// The outer one is the database's. The inner one is the path of a worktree that has the name.
    pub(crate) fn bring_back(
        &self,
        row: &mut WorktreeRow,
        back: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Result<(), Vec<u8>>, Error> {
        self.write(|tx| {
            if let Some(path) = path_of(tx, &row.name)? {
                return Ok(Ok(Err(path)));
            }
            let done = back();
            if done.is_ok() {
                row.slot = Some(free_slot(tx, row.slot)?);
                put_worktree(tx, row)?;
                delete_dropped(tx, &row.token)?;
            }
            Ok(done.map(Ok))
        })?
    }

    /// Forgets a dropped worktree after `away` took its folder away. Both happen in one
    /// transaction. `false` if another process brought it back or forgot it.
    pub(crate) fn forget_dropped(
        &self,
        token: &str,
        away: impl FnOnce() -> Result<(), Error>,
    ) -> Result<bool, Error> {
        self.write(|tx| {
            if !tx.prepare("SELECT 1 FROM dropped WHERE token = ?1")?.exists([token])? {
                return Ok(Ok(false));
            }
            let done = away();
            if done.is_ok() {
                delete_dropped(tx, token)?;
            }
            Ok(done.map(|()| true))
        })?
    }

    /// Lets `settle` look at all worktrees and all dropped worktrees while no other process drops a
    /// worktree or brings one back. Dropped worktrees that it returns are worktrees again.
    pub(crate) fn settle_dropped(
        &self,
        settle: impl FnOnce(&[WorktreeRow], &[DroppedRow]) -> Vec<WorktreeRow>,
    ) -> Result<(), Error> {
        self.write_soon(|tx| {
            let worktrees = rows(tx, "SELECT * FROM worktrees", [], worktree_row)?;
            for mut row in settle(&worktrees, &dropped_rows(tx)?) {
                delete_dropped(tx, &row.token)?;
                row.slot = Some(free_slot(tx, row.slot)?);
                put_worktree(tx, &row)?;
            }
            Ok(())
        })
    }
}

fn path_of(db: &Connection, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT path FROM worktrees WHERE name = ?1", [name], |row| row.get(0)).optional()
}

fn dropped_rows(db: &Connection) -> rusqlite::Result<Vec<DroppedRow>> {
    rows(db, "SELECT * FROM dropped ORDER BY dropped DESC, token", [], |row| {
        let beside = row.get::<_, i64>("beside")? != 0;
        Ok(DroppedRow { row: row_of_both(row)?, beside, dropped: row.get("dropped")? })
    })
}

fn put_dropped(db: &Connection, kept: &DroppedRow) -> rusqlite::Result<()> {
    let DroppedRow { row, beside, dropped } = kept;
    db.execute(
        "INSERT INTO dropped (token, name, path, snapshot, created, git, beside, dropped, slot)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            row.token,
            row.name,
            row.path,
            row.snapshot.map(|id| *id.as_bytes()),
            row.created,
            row.git.as_ref().map(Linked::encode),
            i64::from(*beside),
            dropped,
            row.slot,
        ],
    )
    .map(drop)
}

fn delete_dropped(db: &Connection, token: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM dropped WHERE token = ?1", [token]).map(drop)
}

fn delete_worktree(db: &Connection, token: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM worktrees WHERE token = ?1", [token]).map(drop)
}

fn put_worktree(db: &Connection, row: &WorktreeRow) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO worktrees
            (name, token, path, snapshot, state, target, maker, created, git, slot)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            row.name,
            row.token,
            row.path,
            row.snapshot.map(|id| *id.as_bytes()),
            row.state.as_number(),
            row.target.map(|id| *id.as_bytes()),
            row.maker,
            row.created,
            row.git.as_ref().map(Linked::encode),
            row.slot,
        ],
    )
    .map(drop)
}

/// The wanted slot if no worktree has it, else the lowest one that is free. The project has 0.
fn free_slot(db: &Connection, wanted: Option<u32>) -> rusqlite::Result<u32> {
    let mut taken = db.prepare("SELECT slot FROM worktrees WHERE slot IS NOT NULL")?;
    let taken = taken.query_map([], |row| row.get::<_, i64>(0))?;
    let taken = taken.collect::<rusqlite::Result<BTreeSet<i64>>>()?;
    let is_free = |slot: &u32| *slot > 0 && !taken.contains(&i64::from(*slot));
    Ok(wanted.filter(is_free).or_else(|| (1..=u32::MAX).find(is_free)).unwrap_or(u32::MAX))
}

fn id_in(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Option<SnapshotId>> {
    Ok(row.get::<_, Option<Vec<u8>>>(column)?.and_then(|id| snapshot_id(&id)))
}

/// What the tables of worktrees and of dropped ones both have.
fn row_of_both(row: &rusqlite::Row<'_>) -> rusqlite::Result<WorktreeRow> {
    // The store may come from someone else, with any number.
    let slot = row.get::<_, Option<i64>>("slot")?;
    Ok(WorktreeRow {
        name: row.get("name")?,
        token: token_of(row)?,
        path: row.get("path")?,
        snapshot: id_in(row, "snapshot")?,
        state: State::Ready,
        target: None,
        maker: String::new(),
        created: row.get("created")?,
        git: row.get::<_, Option<String>>("git")?.as_deref().and_then(Linked::decode),
        slot: slot.and_then(|slot| u32::try_from(slot).ok()),
    })
}

fn worktree_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<WorktreeRow> {
    let state = match row.get("state")? {
        0_i64 => State::Starting,
        1 => State::Ready,
        _ => State::Restoring,
    };
    let (target, maker) = (id_in(row, "target")?, row.get("maker")?);
    Ok(WorktreeRow { state, target, maker, ..row_of_both(row)? })
}

fn token_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<String> {
    let token: String = row.get("token")?;
    // Files are named after the token, so a database that someone else made must not lead calve to
    // other paths.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(rusqlite::Error::FromSqlConversionFailure(
            1,
            rusqlite::types::Type::Text,
            "the token of a worktree is not hexadecimal".into(),
        ));
    }
    Ok(token)
}

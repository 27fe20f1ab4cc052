//! The rows of worktrees. The disk is not waited for: a crash of the machine may take a change back, as it may the worktree.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::super::id::SnapshotId;
use super::{Catalog, snapshot_id};
use crate::error::Error;

/// The name of the row that stands for the project itself; no worktree can be called so.
pub(crate) const PROJECT: &str = ".";

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
    /// What it is for git, if it is a linked worktree.
    pub(crate) git: Option<Linked>,
}

/// The linked worktree of git that a worktree is, or is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linked {
    /// What its `HEAD` was when it was started.
    pub(crate) commit: String,
    /// The branch that it was started on, without `refs/heads/`.
    pub(crate) branch: Option<String>,
}

impl Linked {
    fn encode(&self) -> String {
        let branch = self.branch.as_deref().unwrap_or_default();
        format!("linked {} {branch}", self.commit)
    }

    /// What is not understood is for git what calve does not care of.
    fn decode(text: &str) -> Option<Self> {
        let (commit, branch) = text.strip_prefix("linked ")?.split_once(' ')?;
        let is_id = !commit.is_empty() && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        // A store may be someone else's. git would take what begins with a dash for an option, and a lock has the branch in its path.
        let is_name = branch.is_empty()
            || branch.split('/').all(|part| !part.is_empty() && !part.starts_with(['-', '.']))
                && !branch.contains(char::is_control);
        let branch = (!branch.is_empty()).then(|| branch.to_owned());
        (is_id && is_name).then(|| Self { commit: commit.to_owned(), branch })
    }
}

impl State {
    fn as_number(self) -> i64 {
        match self {
            Self::Starting => 0,
            Self::Ready => 1,
            Self::Switching => 2,
        }
    }
}

impl Catalog {
    pub(crate) fn worktrees(&self) -> Result<Vec<WorktreeRow>, Error> {
        self.read(|db| {
            db.prepare("SELECT * FROM worktrees ORDER BY name")?
                .query_map([], worktree_row)?
                .collect()
        })
    }

    pub(crate) fn worktree(&self, name: &str) -> Result<Option<WorktreeRow>, Error> {
        self.read(|db| {
            db.query_row("SELECT * FROM worktrees WHERE name = ?1", [name], worktree_row).optional()
        })
    }

    /// Puts the row of a new store's project in.
    pub(crate) fn add_project(&self, row: &WorktreeRow) -> Result<(), Error> {
        self.write(|tx| put_worktree(tx, row))
    }

    /// Puts the rows of new worktrees in, if all names are free. If not, one that is taken, and the path of who has it.
    pub(crate) fn claim(&self, rows: &[WorktreeRow]) -> Result<Option<(String, Vec<u8>)>, Error> {
        self.write_soon(|tx| {
            let mut find = tx.prepare("SELECT path FROM worktrees WHERE name = ?1")?;
            for row in rows {
                let other = find.query_row([&row.name], |other| other.get(0)).optional()?;
                if let Some(path) = other {
                    return Ok(Some((row.name.clone(), path)));
                }
            }
            rows.iter().try_for_each(|row| put_worktree(tx, row))?;
            Ok(None)
        })
    }

    /// Marks worktrees that were made as ready, all or none. If none, the name of one that was dropped meanwhile, or found elsewhere.
    pub(crate) fn mark_ready(&self, rows: &[WorktreeRow]) -> Result<Option<String>, Error> {
        self.write_soon(|tx| {
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

    /// Marks one as ready whose maker died, unless somebody else did, and has gone on with it since.
    pub(crate) fn finish_start(&self, row: &WorktreeRow) -> Result<(), Error> {
        self.write_soon(|tx| {
            tx.execute(
                "UPDATE worktrees SET state = ?1 WHERE token = ?2 AND state = ?3",
                params![State::Ready.as_number(), row.token, row.state.as_number()],
            )
            .map(drop)
        })
    }

    /// Writes where a worktree is, and nothing else: somebody may be about to take a snapshot of it.
    pub(crate) fn set_path(&self, row: &WorktreeRow) -> Result<(), Error> {
        self.write_soon(|tx| {
            tx.execute(
                "UPDATE worktrees SET path = ?1 WHERE token = ?2",
                params![row.path, row.token],
            )
            .map(drop)
        })
    }

    /// Writes what a worktree is based on, and whether it is between that and another snapshot. `false` where it was dropped meanwhile,
    /// which it stays; where it is, and what it is called, is not touched.
    pub(crate) fn set_state(&self, row: &WorktreeRow) -> Result<bool, Error> {
        self.write_soon(|tx| {
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

    /// Forgets worktrees that were not made.
    pub(crate) fn forget_worktrees(&self, rows: &[WorktreeRow]) -> Result<(), Error> {
        self.write_soon(|tx| rows.iter().try_for_each(|row| delete_worktree(tx, &row.token)))
    }

    /// Forgets a worktree if `away`, which takes its folder away, gives something: in one step, for whoever starts or restores it marks
    /// its row when the folder is there, and would else leave one that nobody knows. `None` where the row is not there.
    pub(crate) fn forget_worktree<T>(
        &self,
        token: &str,
        away: impl FnOnce() -> Result<Option<T>, Error>,
    ) -> Result<Option<Option<T>>, Error> {
        self.write_soon(|tx| {
            if !tx.prepare("SELECT 1 FROM worktrees WHERE token = ?1")?.exists([token])? {
                return Ok(Ok(None));
            }
            let done = away();
            if let Ok(Some(_)) = done {
                delete_worktree(tx, token)?;
            }
            Ok(done.map(Some))
        })?
    }
}

fn delete_worktree(db: &Connection, token: &str) -> rusqlite::Result<()> {
    db.execute("DELETE FROM worktrees WHERE token = ?1", [token]).map(drop)
}

fn put_worktree(db: &Connection, row: &WorktreeRow) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO worktrees (name, token, path, snapshot, state, target, maker, created, git)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
        ],
    )
    .map(drop)
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
        // A store that cannot be written to may have the tables of the first version, which has no such column.
        git: match row.get::<_, Option<String>>("git") {
            Err(rusqlite::Error::InvalidColumnName(_)) => None,
            text => text?.as_deref().and_then(Linked::decode),
        },
    })
}

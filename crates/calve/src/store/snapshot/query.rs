//! Finds snapshots, tells of them, and names them.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::catalog::{Catalog, Origin, no_snapshot};
use super::super::id::{LEAST_DIGITS, SnapshotId, is_hex};
use super::super::layout::Layout;
use super::super::object::SnapshotObject;
use super::super::verify::Damage;
use super::super::{PROJECT, Store};
use crate::error::{Error, ErrorKind, Operation};

/// A snapshot, as `log` and `show` tell of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// Its id, which never changes.
    pub id: SnapshotId,
    /// The snapshot that the tree was based on.
    pub parent: Option<SnapshotId>,
    /// When it was made.
    pub created: SystemTime,
    /// The message of the user who made it; may be empty.
    pub message: String,
    /// The names it was given, sorted.
    pub names: Vec<String>,
    /// The worktree that it was taken of. `None` if that was the project, or if an earlier calve
    /// took the snapshot.
    pub worktree: Option<String>,
    /// The branch that the tree was on. `None` if it was on none, or had no repository of git, or
    /// if an earlier calve took the snapshot.
    pub branch: Option<String>,
    /// Entries of every kind, the root included.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Their sizes, summed up, in bytes.
    pub bytes: u64,
}

/// What [`Store::log`] found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SnapshotLog {
    /// The snapshots, the newest first.
    pub snapshots: Vec<Snapshot>,
    /// The damaged snapshots. The others are good.
    pub damage: Vec<Damage>,
}

/// See [`Store::log`].
pub(crate) fn log(layout: Layout<'_>, catalog: &Catalog) -> Result<SnapshotLog, Error> {
    let (names, mut origins) = (catalog.names()?, catalog.origins()?);
    let mut log = SnapshotLog { snapshots: Vec::new(), damage: Vec::new() };
    for row in catalog.snapshots()? {
        match row {
            Ok((id, object)) => {
                let origin = origins.remove(&id).unwrap_or_default();
                log.snapshots.push(told(id, object, &names, origin));
            }
            Err(why) => log.damage.push(Damage::of_snapshot(layout, why)),
        }
    }
    Ok(log)
}

/// See [`Store::show`].
pub(crate) fn show(catalog: &Catalog, id: SnapshotId) -> Result<Snapshot, Error> {
    let origin = catalog.origins()?.remove(&id).unwrap_or_default();
    Ok(told(id, catalog.object(id)?, &catalog.names()?, origin))
}

/// See [`Store::resolve`].
pub(crate) fn resolve(catalog: &Catalog, text: &str) -> Result<SnapshotId, Error> {
    if let Some((_, id)) = catalog.names()?.into_iter().find(|(name, _)| name == text) {
        return Ok(id);
    }
    match ids_that_start_with(catalog, text)?.as_slice() {
        [id] => Ok(*id),
        [] => Err(no_snapshot(text)),
        [_, _, ..] => {
            let why = "the ids of several snapshots start with it";
            let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
            Err(Error::new(ErrorKind::SnapshotAmbiguous, Operation::FindSnapshot, text, cause))
        }
    }
}

/// See [`Store::ids_that_start_with`].
pub(crate) fn ids_that_start_with(catalog: &Catalog, text: &str) -> Result<Vec<SnapshotId>, Error> {
    if text.len() < LEAST_DIGITS || !is_hex(text) {
        return Ok(Vec::new());
    }
    let digits = text.to_ascii_lowercase();
    let mut ids = catalog.snapshot_ids()?;
    ids.retain(|id| id.to_string().starts_with(&digits));
    Ok(ids)
}

/// See [`Store::set_name`].
pub(crate) fn set_name(store: &Store, name: &str, id: SnapshotId) -> Result<(), Error> {
    store.must_be_writable(Operation::NameSnapshot)?;
    check_name(name)?;
    let named = store.catalog().set_name(name, id)?;
    if named { Ok(()) } else { Err(no_snapshot(&id.to_string())) }
}

fn told(
    id: SnapshotId,
    object: SnapshotObject,
    names: &[(String, SnapshotId)],
    origin: Origin,
) -> Snapshot {
    let (seconds, nanoseconds) = object.created;
    let since = u64::try_from(seconds).ok().map(|seconds| Duration::new(seconds, nanoseconds));
    let created = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    Snapshot {
        id,
        parent: object.parent,
        created: created.unwrap_or(UNIX_EPOCH),
        message: object.message,
        names: names.iter().filter(|(_, of)| *of == id).map(|(name, _)| name.clone()).collect(),
        worktree: origin.worktree.filter(|name| name != PROJECT),
        branch: origin.branch,
        entries: object.entries,
        files: object.files,
        bytes: object.bytes,
    }
}

/// A name for a snapshot: what can be typed, printed, and not be taken for an id or a flag.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 200 {
        "it is longer than 200 bytes"
    } else if name.contains('/') {
        "it contains a slash"
    } else if name.contains(char::is_control) {
        "it contains a control character"
    } else if name.contains(char::is_whitespace) {
        "it contains a space"
    } else if name.starts_with(['-', '.']) {
        "it starts with a dash or a dot"
    } else if name.len() == 64 && is_hex(name) {
        "it looks like an id"
    } else {
        return Ok(());
    };
    let cause = io::Error::new(io::ErrorKind::InvalidInput, why);
    Err(Error::new(ErrorKind::InvalidName, Operation::UseName, name, cause))
}

//! Opens connections to the database, and translates SQLite's errors.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::super::files::{may_write, percent_encoded};
use super::super::holder::LockHolder;
use super::super::stopping::{STOPPED_HOLDER, STOPPED_MOST, TELL, is_stopping, tell_of_wait};
use crate::error::{Error, ErrorKind, Operation};
use crate::reflink::filesystem::Filesystem;

/// How long a connection waits for the write lock, in pauses. No process holds the lock for long,
/// but a slow disk under many writers may take its time: five minutes.
const BUSY_MOST: i32 = 3000;

thread_local! {
    /// The database that this thread uses: SQLite tells `waits` only how often it was called.
    static USED: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
}

/// Says which database this thread uses from now on.
pub(super) fn uses(path: &Path) {
    USED.with_borrow_mut(|used| {
        if used.as_deref() != Some(path) {
            *used = Some(path.to_owned());
        }
    });
}

/// Waits for the write lock of another process. Returns whether to try again.
fn waits(tries: i32) -> bool {
    let pause = Duration::from_millis(match tries {
        0..2 => 1,
        2..12 => 10,
        12..30 => 25,
        _ => 100,
    });
    let waited = pause * tries.unsigned_abs();
    if tries > BUSY_MOST || is_stopping() && waited > STOPPED_MOST {
        return false;
    }
    // Each of these lengths comes once.
    if [TELL, STOPPED_HOLDER].contains(&waited) {
        let path = USED.with_borrow(Clone::clone).unwrap_or_default();
        let writer = writer_of(&path);
        if waited == STOPPED_HOLDER && writer.as_ref().is_some_and(|it| it.is_stopped) {
            return false;
        }
        if waited == TELL {
            tell_of_wait(&path, &LockHolder::named(writer));
        }
    }
    std::thread::sleep(pause);
    true
}

/// SQLite makes two files beside the database. On a full XFS a file that was removed leaves its
/// place to a new one only after a moment. So if SQLite cannot open its files, we try again after
/// these.
const CANNOT_OPEN_PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(200)];

pub(super) const OPEN: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE;

/// Who else may use the database while a connection is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    Others,
    /// The connection is exclusive: nothing is shared, and no file is mapped
    /// (<https://sqlite.org/wal.html#noshm>). The duration says how long to wait for other
    /// connections.
    Nobody(Duration),
}

pub(super) fn connect(path: &Path, flags: OpenFlags, with: With) -> Result<Connection, Error> {
    // Where memory is not shared, a log is never used: a rollback journal needs only the locks of
    // the database's file (`locks::must_hold`, `format::must_be_of_this_side`).
    let folder = path.parent().unwrap_or(path);
    let journal = if Filesystem::of(folder).shared_memory { "WAL" } else { "DELETE" };
    uses(path);
    let open = || {
        let mut connection =
            Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        // The store may come from someone else, so SQLite must not run functions that its schema
        // names.
        connection.pragma_update(None, "trusted_schema", false)?;
        if let With::Nobody(patience) = with {
            connection.busy_timeout(patience)?;
            // This must come before the connection first reads from the database.
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection.pragma_update(None, "journal_mode", journal)?;
            connection.pragma_query_value(None, "user_version", |_| Ok(()))?;
        }
        connection.busy_handler(Some(waits))?;
        // If the database is in this mode already, this takes no lock.
        connection.pragma_update(None, "journal_mode", journal)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    let mut result = open();
    for pause in CANNOT_OPEN_PAUSES {
        let cannot_open = result.as_ref().err().and_then(rusqlite::Error::sqlite_error_code)
            == Some(rusqlite::ErrorCode::CannotOpen);
        if !cannot_open || !is_there(path) {
            break;
        }
        std::thread::sleep(pause);
        result = open();
    }
    result.map_err(|error| failed(Operation::Open, path, error))
}

/// Whether the database is there, and its folder may be written to.
fn is_there(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
        && path.parent().is_some_and(|folder| may_write(folder).unwrap_or(false))
}

/// An open database.
#[derive(Debug)]
pub(super) struct OpenDatabase {
    pub(super) connection: Connection,
    /// Set if it is read without locks: the state in which it was opened.
    pub(super) seen: Option<FileState>,
}

impl From<Connection> for OpenDatabase {
    fn from(connection: Connection) -> Self {
        Self { connection, seen: None }
    }
}

/// Two states of a database differ if somebody changed it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    file: (u64, u64, u64),
    changed: (i64, i64),
}

impl FileState {
    /// `None` if the database is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(path).ok()?;
        let file = (meta.dev(), meta.ino(), meta.len());
        Some(Self { file, changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

/// How long those who only read wait until a process that writes is done.
pub(super) const CHANGING_PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1500),
];

/// Opens the database where this process cannot write to it. Other processes may: a sandbox shows
/// the store that those outside use. If they have it open, this one shares it with them by the
/// files that they made for that (<https://sqlite.org/wal.html#readonly>).
pub(super) fn connect_read_only(path: &Path) -> Result<OpenDatabase, Error> {
    let mut pauses = CHANGING_PAUSES.into_iter();
    loop {
        // In this order: a state that is seen while nobody writes is a whole one.
        let seen = FileState::of(path);
        let opened = match has_log(path) {
            false => return Ok(OpenDatabase { connection: connect_as_is(path)?, seen }),
            true => connect_shared(path),
        };
        match (opened, pauses.next()) {
            (Ok(connection), _) => return Ok(connection.into()),
            (Err(_), Some(pause)) => std::thread::sleep(pause),
            (Err(error), None) => {
                let cause = std::io::Error::new(
                    std::io::ErrorKind::ReadOnlyFilesystem,
                    format!(
                        "another process uses it, or was killed while it did; here it is read-only, and cannot be shared with that process ({error})"
                    ),
                );
                return Err(Error::new(ErrorKind::Busy, Operation::Open, path, cause));
            }
        }
    }
}

/// Whether something may have been written to the database that is not in its file yet.
fn has_log(path: &Path) -> bool {
    let is_left = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        std::fs::metadata(name).is_ok_and(|meta| meta.len() > 0)
    };
    is_left("-wal") || is_left("-journal")
}

fn connect_shared(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(1))?;
    // Only the first read opens the log.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Opens the database to read it as it is, unless something is left in its log.
pub(super) fn connect_as_is(path: &Path) -> Result<Connection, Error> {
    use std::os::unix::ffi::OsStrExt as _;
    if has_log(path) {
        let cause = std::io::Error::new(
            std::io::ErrorKind::ReadOnlyFilesystem,
            "another process uses it, or was killed while it did",
        );
        return Err(Error::new(ErrorKind::ReadOnly, Operation::Open, path, cause));
    }
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let path_in_uri = percent_encoded(path.as_os_str().as_bytes(), is_kept);
    let uri = format!("file:{path_in_uri}?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags).map_err(|error| failed(Operation::Open, path, error))
}

/// Makes an error of SQLite one of ours.
pub(super) fn failed(operation: Operation, path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode as Code;
    let code = error.sqlite_error_code();
    if let Some(Code::DiskFull | Code::CannotOpen | Code::SystemIoFailure) = code
        && let Some(cause) = path.parent().and_then(super::super::room::why_full)
    {
        return Error::io(operation, path, cause);
    }
    if let Some(Code::SystemIoFailure) = code
        && let Some(cause) = path.parent().and_then(super::super::room::why_refused)
    {
        return Error::io(operation, path, cause);
    }
    // A moment ago the file for sharing could not grow, and now another file can: ext4 gives back
    // what removed files had when it writes its journal. As a full disk, the store gets its reserve.
    let extended = error.sqlite_error().map(|error| error.extended_code);
    if extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
        return Error::io(operation, path, rustix::io::Errno::NOSPC);
    }
    if let Some(Code::DatabaseBusy | Code::DatabaseLocked) = code {
        let by = LockHolder::named(writer_of(path));
        let cause = std::io::Error::other(format!("{error}: {by} writes to it"));
        return Error::new(ErrorKind::Busy, operation, path, cause);
    }
    let kind = match code {
        None if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
            ErrorKind::Damaged
        }
        Some(Code::DiskFull) => ErrorKind::StorageFull,
        Some(Code::ReadOnly) => ErrorKind::ReadOnly,
        Some(Code::PermissionDenied) => ErrorKind::PermissionDenied,
        Some(Code::DatabaseCorrupt | Code::NotADatabase) => ErrorKind::Damaged,
        _ => ErrorKind::Io,
    };
    Error::new(kind, operation, path, std::io::Error::other(error))
}

/// The process that has the write lock of the database. The locks of the log are in the file for
/// sharing (<https://sqlite.org/walformat.html>).
fn writer_of(path: &Path) -> Option<LockHolder> {
    let mut shared = path.as_os_str().to_owned();
    shared.push("-shm");
    LockHolder::of(&[path, shared.as_ref()], &["WRITE"])
}

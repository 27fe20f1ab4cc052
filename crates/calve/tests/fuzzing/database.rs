//! A whole store whose database somebody else wrote.
//!
//! A store with two snapshots, a pack and a worktree is made once, in memory where there is such a
//! filesystem. For each input it is copied to one and the same place (its paths are in it), the
//! input's edits are made, and everything is done with it that can be done with a store. Each may
//! fail; none may panic, and nothing may change in the folder beside it, which names of the
//! database lead to.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::Input;
use crate::store::id::{DirectoryId, SnapshotId};
use crate::{
    DropOptions, GcOptions, PackOptions, SnapshotOptions, StartOptions, Store, StoreOptions,
    SwitchOptions, VerifyOptions, Worktree,
};

const TABLES: [(&str, usize); 7] = [
    ("snapshots", 5),
    ("directories", 2),
    ("names", 2),
    ("worktrees", 9),
    ("packs", 2),
    ("packed", 5),
    ("dropped", 8),
];

/// Where names lead that are none, from where they would be used.
const HOSTILE: [&str; 12] = [
    "",
    ".",
    "..",
    "a/b",
    "a\0b",
    "../../../outside/victim",
    "../../../../outside/victim",
    "../../outside/victim",
    "OUTSIDE/victim",
    "OUTSIDE",
    "PROJECT/.calve",
    "0123456789abcdef0123456789abcdef",
];

struct Place {
    base: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

impl Place {
    fn live(&self) -> PathBuf {
        self.base.join("live")
    }

    fn outside(&self) -> PathBuf {
        self.base.join("outside")
    }

    fn project(&self) -> PathBuf {
        self.live().join("project")
    }

    /// Makes the store that is copied for each input.
    fn make() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }.join(
            format!("calve-fuzzing-{}-{:?}", std::process::id(), std::thread::current().id()),
        );
        let _ = fs::remove_dir_all(&base);
        let place = Self { base };
        fs::create_dir_all(place.outside())?;
        fs::write(place.outside().join("victim"), "nobody's business")?;
        let project = place.project();
        fs::create_dir_all(project.join("sub/below"))?;
        fs::write(project.join("sub/below/file"), "below ".repeat(700))?;
        fs::write(project.join("file"), "first\nsecond\n")?;
        fs::hard_link(project.join("file"), project.join("sub/same"))?;
        symlink("sub/below", project.join("link"))?;
        let options = options();
        let store = Store::init(&project).map_err(io::Error::from)?;
        let fill = || -> Result<(), crate::Error> {
            store.snapshot(&SnapshotOptions::new().message("first").name("first"), &options)?;
            store.pack(&PackOptions::new().all(true), &options)?;
            Ok(())
        };
        fill().map_err(io::Error::from)?;
        fs::write(project.join("sub/new"), "new")?;
        let fill = || -> Result<(), crate::Error> {
            store.snapshot(&SnapshotOptions::new(), &options)?;
            let start = StartOptions::new().at(place.live().join("trees"));
            store.start(&["tree"], &start, &options).map(drop)
        };
        fill().map_err(io::Error::from)?;
        drop(store);
        fs::rename(place.live(), place.base.join("pristine"))?;
        Ok(place)
    }

    fn text(&self, hostile: &str) -> String {
        let path = |path: PathBuf| path.to_string_lossy().into_owned();
        hostile.replace("OUTSIDE", &path(self.outside())).replace("PROJECT", &path(self.project()))
    }

    fn is_as_it_was(&self) -> bool {
        let victim = self.outside().join("victim");
        let whole = fs::read_dir(self.outside()).is_ok_and(|entries| entries.count() == 1);
        let read = fs::read(&victim).is_ok_and(|content| content == b"nobody's business");
        let mode = fs::metadata(&victim).is_ok_and(|meta| {
            use std::os::unix::fs::PermissionsExt as _;
            meta.permissions().mode() & 0o200 != 0
        });
        whole && read && mode && fs::read_dir(&self.base).is_ok_and(|all| all.count() == 3)
    }
}

fn options() -> StoreOptions {
    StoreOptions::new().jobs(std::num::NonZeroUsize::MIN)
}

/// Copies a tree with the times of its files, which seal them.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        let meta = entry.metadata()?;
        if meta.is_dir() {
            copy(&entry.path(), &to)?;
        } else if meta.is_symlink() {
            symlink(fs::read_link(entry.path())?, to)?;
        } else {
            fs::write(&to, fs::read(entry.path())?)?;
            fs::File::open(&to)?.set_modified(meta.modified()?)?;
            fs::set_permissions(&to, meta.permissions())?;
        }
    }
    Ok(())
}

/// The bits of the first byte are the operations that are tried; what follows are the edits.
pub fn database(data: &[u8]) {
    thread_local! {
        static PLACE: Place = Place::make().expect("a store to copy");
    }
    PLACE.with(|place| work_on_edited(place, data));
}

fn work_on_edited(place: &Place, data: &[u8]) {
    let live = place.live();
    match fs::remove_dir_all(&live) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    copy(&place.base.join("pristine"), &live).expect("a copy of the store");
    let mut input = Input(data);
    let operations = input.byte();
    let database = place.project().join(".calve/index.db");
    if input.byte().is_multiple_of(4) {
        flip_bytes(&mut input, &database);
    } else {
        edit_rows(&mut input, place, &database).expect("the database is whole before it is edited");
    }
    work(place, operations);
    assert!(place.is_as_it_was(), "something outside of the store was changed");
}

fn flip_bytes(input: &mut Input<'_>, database: &Path) {
    let mut bytes = fs::read(database).expect("the database");
    while !input.0.is_empty() {
        let at = usize::from(input.byte()) * 256 + usize::from(input.byte());
        let length = bytes.len();
        bytes[at % length] = input.byte();
    }
    fs::write(database, bytes).expect("the database");
}

fn edit_rows(input: &mut Input<'_>, place: &Place, database: &Path) -> rusqlite::Result<()> {
    let db = Connection::open(database)?;
    while !input.0.is_empty() {
        let (table, columns) = TABLES[usize::from(input.byte()) % TABLES.len()];
        let mut rows: Vec<Vec<Value>> = db
            .prepare(&format!("SELECT * FROM {table}"))?
            .query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?
            .collect::<rusqlite::Result<_>>()?;
        let number = usize::from(input.byte());
        let row = match rows.len() {
            0 => None,
            count => rows.get_mut(number % count),
        };
        let mut changed = row.as_deref().cloned().unwrap_or_else(|| vec![Value::Null; columns]);
        let column = usize::from(input.byte()) % columns;
        let action = input.byte();
        let hostile =
            |input: &mut Input<'_>| place.text(HOSTILE[usize::from(input.byte()) % HOSTILE.len()]);
        match (action & 0x3f) % 10 {
            0 => changed[column] = Value::Null,
            1 => changed[column] = Value::Integer(input.number().cast_signed()),
            2 => changed[column] = Value::Real(f64::from_bits(input.number())),
            3 => changed[column] = Value::Text(String::from_utf8_lossy(input.part()).into_owned()),
            4 => changed[column] = Value::Blob(input.part().to_vec()),
            5 => changed[column] = Value::Text(hostile(input)),
            6 => changed[column] = Value::Blob(hostile(input).into_bytes()),
            7 => {
                if let Value::Blob(blob) = &mut changed[column] {
                    let at = usize::from(input.byte());
                    let byte = input.byte();
                    let length = blob.len().max(1);
                    if let Some(old) = blob.get_mut(at % length) {
                        *old ^= byte;
                    }
                }
            }
            // Small numbers, and those at the ends.
            8 => changed[column] = Value::Integer(i64::from(input.byte().cast_signed())),
            _ => changed[column] = Value::Integer([i64::MAX, i64::MIN, -1, 0][number % 4]),
        }
        // With a hash that is good, it is read for what it says.
        if action & 0x40 != 0 {
            match (table, changed.as_mut_slice()) {
                ("snapshots", [_, id, Value::Blob(object), ..]) => {
                    *id = Value::Blob(SnapshotId::of(object).as_bytes().to_vec());
                }
                ("directories", [id, Value::Blob(encoding)]) => {
                    *id = Value::Blob(DirectoryId::of(encoding).as_bytes().to_vec());
                }
                _ => {}
            }
        }
        let more = action & 0x80 != 0;
        if more && matches!(table, "packs" | "snapshots") && column > 0 {
            // The table numbers it.
            changed[0] = Value::Null;
        }
        match row {
            Some(row) if !more => *row = changed,
            _ => rows.push(changed),
        }
        db.execute(&format!("DELETE FROM {table}"), [])?;
        let places = vec!["?"; columns].join(", ");
        for row in rows {
            // The table ignores rows that it cannot take.
            let insert = format!("INSERT OR IGNORE INTO {table} VALUES ({places})");
            let _ = db.execute(&insert, params_from_iter(row));
        }
    }
    db.close().map_err(|(_, error)| error)
}

/// Everything that can be done; whatever the outcome is, it is one.
fn work(place: &Place, operations: u8) {
    let options = options();
    let Ok(store) = Store::open(place.project().join(".calve")) else { return };
    let has = |bit: u32| operations >> bit & 1 == 1;
    let _ =
        (store.log(), store.stats(), store.latest(), store.resolve("first"), store.resolve("0000"));
    let worktrees = store.worktrees().unwrap_or_default();
    let project = store.project_worktree();
    for worktree in worktrees.iter().chain(&project) {
        let _ = (worktree.state(), worktree.created(), worktree.status(&options));
        if has(0)
            && let Ok(diff) = worktree.diff(&options)
        {
            let _ = diff.patch(&mut io::sink());
        }
    }
    if has(1) {
        let _ = store.pack(&PackOptions::new().all(true), &options);
    }
    if has(2) {
        let collect = GcOptions::new().grace(Duration::ZERO).patience(Duration::ZERO);
        let _ = store.gc(&collect.expire(Some(Duration::ZERO)), &options);
    }
    if has(3) {
        let _ = store.verify(&VerifyOptions::new().repair(true), &options);
    }
    if has(4) {
        let _ = store.verify(&VerifyOptions::new(), &options);
        let ids: Vec<_> =
            store.log().unwrap_or_default().snapshots.iter().map(|one| one.id).collect();
        let _ = store.warm(&ids, &options);
    }
    if has(5) {
        let _ = store.snapshot(&SnapshotOptions::new().name("now"), &options);
        let from = store.resolve("first").map(|id| StartOptions::new().from(id));
        let start = from.unwrap_or_default().at(place.live().join("more"));
        let _ = store.start(&["one", "two"], &start, &options);
    }
    // A store says where its worktrees are, and a process that opens the store believes that. So
    // leave out those outside.
    let inside = |worktree: &&Worktree| {
        let path = worktree.path();
        path.starts_with(place.live()) && !path.iter().any(|name| name == "..")
    };
    for worktree in worktrees.iter().chain(&project).filter(inside) {
        if has(6) {
            for id in store.log().unwrap_or_default().snapshots.iter().map(|one| one.id) {
                let _ = worktree.switch(id, &SwitchOptions::new().force(true), &options);
            }
            let _ = (worktree.reset(&options), worktree.undo(&options));
        }
        if has(7)
            && let Ok(dropped) = worktree.clone().drop(&DropOptions::new().force(true), &options)
        {
            let _ = dropped.delete();
        }
    }
}

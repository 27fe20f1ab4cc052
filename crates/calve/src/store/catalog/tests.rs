use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use super::schema::TABLES;
use super::*;

/// A folder with the parts of a store that the database needs.
fn a_database() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["locks", "stage"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
    }
    let path = dir.path().join("index.db");
    Catalog::create(&path).unwrap();
    (dir, path)
}

fn put(db: &Catalog, name: &str, beside: impl FnOnce()) {
    db.write(|tx| {
        beside();
        tx.execute("INSERT INTO names VALUES (?1, zeroblob(32))", [name]).map(drop)
    })
    .unwrap();
}

/// In an earlier version, each of two processes kept the other from the database until neither
/// waited any longer, and then they shared it. This cost a fifth of a second for every operation,
/// and a mapped file.
#[test]
fn those_who_open_it_briefly_are_alone_one_after_the_other() {
    let (dir, path) = a_database();
    let shared = dir.path().join("index.db-shm");
    let alone = || assert!(!shared.try_exists().unwrap(), "it is shared");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (path, alone) = (&path, &alone);
            scope.spawn(move || {
                let db = Catalog::open_briefly(path).unwrap();
                for number in 0..25 {
                    put(&db, &format!("{thread}-{number}"), alone);
                    assert!(db.names().unwrap().len() > number);
                }
            });
        }
    });
    assert_eq!(Catalog::open_briefly(&path).unwrap().names().unwrap().len(), 100);
    alone();
}

#[test]
fn whoever_opens_it_briefly_shares_it_with_those_who_keep_it_open_and_only_as_long() {
    let (dir, path) = a_database();
    let shared = dir.path().join("index.db-shm");
    let brief = Catalog::open_briefly(&path).unwrap();
    let kept = Catalog::of(Some(connect(&path, OPEN, With::Others).unwrap()), &path);
    for number in 0..10 {
        put(&kept, &format!("kept {number}"), || {});
        put(&brief, &format!("brief {number}"), || assert!(shared.try_exists().unwrap()));
        assert_eq!(kept.names().unwrap().len(), 2 * number + 2);
        assert_eq!(brief.names().unwrap().len(), 2 * number + 2);
    }
    // `brief` waits for the other connections once, not for each operation.
    assert!(brief.others.load(Relaxed));
    *lock(&kept.connection) = None;
    put(&brief, "brief at last", || assert!(!shared.try_exists().unwrap()));
    put(&kept, "kept at last", || assert!(!shared.try_exists().unwrap()));
    assert_eq!(kept.names().unwrap().len(), 22);
}

/// The tables of this version, and `worktrees` with a column that no calve has.
const NEXT_TABLES: &[(&str, &str)] = &[
    TABLES[0],
    TABLES[1],
    TABLES[2],
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
    , note TEXT) WITHOUT ROWID",
    ),
    TABLES[4],
    TABLES[5],
    TABLES[6],
];

/// The versions, and one more with `NEXT_TABLES`.
fn and_next(migration: &'static str) -> &'static [Version] {
    let mut versions = VERSIONS.to_vec();
    versions.push(Version { tables: NEXT_TABLES, migration });
    Vec::leak(versions)
}

static NEXT: LazyLock<&[Version]> =
    LazyLock::new(|| and_next("ALTER TABLE worktrees ADD COLUMN note TEXT"));

/// Like `NEXT`, with a migration that never ends.
static ENDLESS: LazyLock<&[Version]> = LazyLock::new(|| {
    and_next(
        "ALTER TABLE worktrees ADD COLUMN note TEXT;
            UPDATE worktrees SET note = (
                WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n)",
    )
});

fn open_as(path: &Path, versions: &'static [Version]) -> Result<Catalog, Error> {
    let mut catalog = Catalog::of(Some(connect(path, OPEN, With::Others)?), path);
    catalog.versions = versions;
    catalog.check(Use::Write)?;
    Ok(catalog)
}

fn version(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// A store that the first version wrote: its folder and its database.
fn first_store() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/store-1.tar.gz");
    let tar = std::process::Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(tar.unwrap().success());
    let path = dir.path().join(".calve/index.db");
    (dir, path)
}

/// The content of a database that every version can express.
fn told(catalog: &Catalog) -> String {
    let snapshots: Vec<_> = catalog.snapshots().unwrap();
    let (names, worktrees) = (catalog.names().unwrap(), catalog.worktrees().unwrap());
    let (mut packed, counts) = (Vec::new(), catalog.counts().unwrap());
    catalog.each_packed(|id, pack, at| packed.push((id, Arc::clone(pack), at))).unwrap();
    format!("{snapshots:?} {names:?} {worktrees:?} {packed:?} {counts:?}")
}

fn schema(catalog: &Catalog) -> Vec<String> {
    catalog
        .read(|db| {
            db.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
        .unwrap()
}

#[test]
fn a_database_of_an_earlier_version_is_migrated_in_place_and_is_as_a_new_one() {
    let (_dir, path) = first_store();
    let before = told(&Catalog::open_read_only(&path).unwrap());
    assert_eq!(version(&path), 1);
    let migrated = open_as(&path, *NEXT).unwrap();
    assert_eq!((version(&path), told(&migrated)), (2, before));
    assert_eq!(migrated.worktree(PROJECT).unwrap().unwrap().slot, None);
    migrated.write(|tx| tx.execute("UPDATE worktrees SET note = 'it has it'", [])).unwrap();
    // The migrated database also takes rows that every version writes.
    let mut row = migrated.worktrees().unwrap().remove(0);
    (row.name, row.token) = ("another".to_owned(), "abc".to_owned());
    assert_eq!(migrated.claim(std::slice::from_mut(&mut row)).unwrap(), None);
    assert!(migrated.worktree("another").unwrap().is_some());

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.db");
    let mut new = Catalog::of(
        Some(connect(&path, OPEN | OpenFlags::SQLITE_OPEN_CREATE, With::Others).unwrap()),
        &path,
    );
    new.versions = *NEXT;
    new.make_tables().unwrap();
    assert_eq!(schema(&migrated), schema(&new));
    assert_eq!(version(&path), 2);
    drop(new);
    open_as(&path, *NEXT).unwrap();
}

#[test]
fn a_database_of_a_later_version_is_refused_by_its_number_and_stays_as_it_is() {
    let (_dir, path) = first_store();
    drop(open_as(&path, *NEXT).unwrap());
    let before = std::fs::read(&path).unwrap();
    for open in [Catalog::open, Catalog::open_briefly, Catalog::open_read_only] {
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StoreIncompatible);
        assert!(error.to_string().contains("version 2"), "{error}");
    }
    assert!(before == std::fs::read(&path).unwrap(), "it was written to");
}

#[test]
fn a_database_of_an_earlier_version_that_cannot_be_written_to_is_read_as_it_is() {
    let (_dir, path) = first_store();
    let before = told(&Catalog::open_read_only(&path).unwrap());
    let mut catalog = Catalog::of(Some(connect_as_is(&path).unwrap()), &path);
    catalog.versions = *NEXT;
    catalog.check(Use::Read).unwrap();
    assert_eq!((told(&catalog), version(&path)), (before, 1));
}

#[test]
fn a_migration_that_is_killed_leaves_the_database_as_it_was() {
    const DATABASE: &str = "CALVE_TEST_MIGRATE";
    if let Some(path) = std::env::var_os(DATABASE) {
        let _ = open_as(Path::new(&path), *ENDLESS);
        unreachable!("it ended");
    }
    let (_dir, path) = first_store();
    let before = told(&Catalog::open_read_only(&path).unwrap());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::catalog::tests::a_migration_that_is_killed_leaves_the_database_as_it_was",
        ])
        .env(DATABASE, &path)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let db = Connection::open(&path).unwrap();
    db.busy_timeout(Duration::ZERO).unwrap();
    // The child holds the write lock while it migrates.
    let is_at_it = || db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_err();
    let started = std::time::Instant::now();
    while !is_at_it() {
        assert!(started.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_at_it(), "it ended");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(db);
    assert_eq!(
        (version(&path), told(&Catalog::open_read_only(&path).unwrap())),
        (1, before.clone())
    );
    let migrated = open_as(&path, *NEXT).unwrap();
    assert_eq!((version(&path), told(&migrated)), (2, before));
}

#[test]
fn of_those_who_migrate_at_once_one_does_it() {
    // Who comes late sees the migration before, in the midst of, or after its own look.
    for _ in 0..20 {
        let (_dir, path) = first_store();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    open_as(&path, *NEXT).unwrap();
                });
            }
        });
        assert_eq!(version(&path), 2);
    }
}

/// A migration runs nothing that someone else put into the database.
#[test]
fn a_database_whose_tables_are_not_those_of_its_version_is_not_migrated() {
    for forged in [
        "CREATE TRIGGER t AFTER UPDATE ON worktrees BEGIN DELETE FROM snapshots; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE INDEX i ON worktrees (path)",
        "DROP TABLE names",
        "ALTER TABLE worktrees ADD COLUMN note TEXT",
        "ALTER TABLE names RENAME TO other; CREATE VIEW names AS SELECT * FROM other",
    ] {
        let (_dir, path) = first_store();
        Connection::open(&path).unwrap().execute_batch(forged).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = open_as(&path, *NEXT).unwrap_err();
        assert_eq!((error.kind(), version(&path)), (ErrorKind::Damaged, 1), "{forged}");
        assert!(before == std::fs::read(&path).unwrap(), "{forged}: it was written to");
    }
}

/// So that the first look at a new worktree writes nothing.
#[test]
fn a_worktree_whose_head_is_as_it_was_started_needs_no_note_of_it() {
    for (branch, noted, expected) in [
        (Some("a/b"), None, "ref: refs/heads/a/b 1234abcd"),
        (None, None, "1234abcd"),
        (Some("a/b"), Some("abcd"), "abcd"),
        (None, Some("ref: refs/heads/c"), "ref: refs/heads/c"),
    ] {
        let [branch, head] = [branch, noted].map(|it| it.map(str::to_owned));
        let linked = Linked { commit: "1234abcd".to_owned(), branch, head, is_adopted: false };
        assert_eq!(linked.last_head(), expected, "{linked:?}");
    }
}

#[test]
fn what_a_worktree_is_for_git_is_read_as_it_was_written_and_nothing_else_is() {
    let (_dir, path) = a_database();
    let db = Catalog::open(&path).unwrap();
    let linked = |branch: Option<&str>| {
        let branch = branch.map(str::to_owned);
        Some(Linked { commit: "1234abcd".to_owned(), branch, ..Linked::default() })
    };
    let at = |branch: Option<&str>, head: &str| {
        linked(branch).map(|linked| Linked { head: Some(head.to_owned()), ..linked })
    };
    for (text, expected) in [
        (Some("linked 1234abcd fix/a b"), linked(Some("fix/a b"))),
        (Some("linked 1234abcd "), linked(None)),
        (Some("linked 1234abcd a\nhead ref: refs/heads/b/c"), at(Some("a"), "ref: refs/heads/b/c")),
        (Some("linked 1234abcd \nhead abcd"), at(None, "abcd")),
        (
            Some("linked 1234abcd a\nhead ref: refs/heads/b ab"),
            at(Some("a"), "ref: refs/heads/b ab"),
        ),
        (Some("linked 1234abcd a\nhead ref: refs/heads/b --all"), linked(Some("a"))),
        (Some("adopted 1234abcd a"), linked(Some("a")).map(|it| Linked { is_adopted: true, ..it })),
        (Some("linked 1234abcd \nhead --all"), linked(None)),
        (Some("linked 1234abcd \nhead ref: refs/heads/../b"), linked(None)),
        (Some("linked 1234abcd"), None),
        (Some("linked --all main"), None),
        (Some("linked 1234abcd --all"), None),
        (Some("linked 1234abcd a\nb"), None),
        (Some("linked 1234abcd a/../../../b"), None),
        (Some("linked 1234abcd /a"), None),
        (Some("something else"), None),
        (None, None),
    ] {
        let mut row =
            WorktreeRow { path: b"/w".to_vec(), git: expected.clone(), ..empty_row("w", "ab") };
        db.forget_worktrees(std::slice::from_ref(&row)).unwrap();
        db.claim(std::slice::from_mut(&mut row)).unwrap();
        assert_eq!(db.worktree("w").unwrap().unwrap().git, expected);
        db.write(|tx| tx.execute("UPDATE worktrees SET git = ?1", [text]).map(drop)).unwrap();
        assert_eq!(db.worktree("w").unwrap().unwrap().git, expected, "{text:?}");
    }
}

#[test]
fn the_starts_since_a_second_are_those_of_living_and_dropped_worktrees_that_calve_made() {
    let (_dir, path) = a_database();
    let db = Catalog::open(&path).unwrap();
    let adopted = Linked { commit: "0".repeat(40), is_adopted: true, ..Linked::default() };
    let row = |name: &str, created: i64| WorktreeRow { created, ..empty_row(name, name) };
    db.add_project(&row(PROJECT, 12)).unwrap();
    let by_git = WorktreeRow { git: Some(adopted), ..row("by-git", 13) };
    let mut rows = [row("late", 20), row("early", 9), row("gone", 10), by_git];
    assert_eq!(db.claim(&mut rows).unwrap(), None);
    let kept = |(): &()| Some(DroppedRow { row: rows[2].clone(), beside: false, dropped: 0 });
    db.forget_worktree("gone", || Ok(Some(())), kept).unwrap().unwrap();
    assert_eq!(db.starts_since(10).unwrap(), [10, 20]);
}

fn empty_row(name: &str, token: &str) -> WorktreeRow {
    WorktreeRow {
        name: name.to_owned(),
        token: token.to_owned(),
        path: Vec::new(),
        snapshot: None,
        state: State::Ready,
        target: None,
        maker: String::new(),
        created: 0,
        git: None,
        slot: None,
    }
}

/// The lowest that is free; one that comes back has its own again if it can.
#[test]
fn each_worktree_has_a_number_that_no_other_has() {
    let (_dir, path) = a_database();
    let db = Catalog::open(&path).unwrap();
    let row = empty_row;
    let slots = |rows: &[WorktreeRow]| rows.iter().map(|it| it.slot).collect::<Vec<_>>();
    let mut rows = [row("a", "a1"), row("b", "b2"), row("c", "c3")];
    db.add_project(&row(PROJECT, "00")).unwrap();
    assert_eq!(db.claim(&mut rows).unwrap(), None);
    assert_eq!(slots(&rows), [Some(1), Some(2), Some(3)]);
    assert_eq!(slots(&db.worktrees().unwrap()), [None, Some(1), Some(2), Some(3)]);
    let drop = |at: usize| {
        let kept = |(): &()| Some(DroppedRow { row: rows[at].clone(), beside: false, dropped: 0 });
        db.forget_worktree(&rows[at].token, || Ok(Some(())), kept).unwrap().unwrap();
    };
    drop(0);
    drop(1);
    let mut other = [row("d", "d4")];
    db.claim(&mut other).unwrap();
    assert_eq!(slots(&other), [Some(1)], "the lowest");
    let dropped = db.dropped().unwrap();
    let back = |token: &str| {
        let found = dropped.iter().find(|it| it.row.token == token).unwrap();
        let mut row = found.row.clone();
        db.bring_back(&mut row, || Ok(())).unwrap().unwrap();
        row.slot
    };
    assert_eq!(back("b2"), Some(2), "its own is free");
    assert_eq!(back("a1"), Some(4), "its own is taken");
    for (slot, expected) in [("-1", None), ("4294967296", None), ("7", Some(7))] {
        db.write(|tx| {
            tx.execute(&format!("UPDATE worktrees SET slot = {slot}"), []).map(std::mem::drop)
        })
        .unwrap();
        assert_eq!(db.worktree("c").unwrap().unwrap().slot, expected, "{slot}");
    }
}

/// A sandbox shows a store read-only that others use. calve read the database while they changed it,
/// and called the mixture damage.
#[test]
fn what_is_read_without_locks_is_read_again_if_another_process_changed_it() {
    let (_dir, path) = a_database();
    let read_only = Catalog::open_read_only(&path).unwrap();
    let change = |name: &str| put(&Catalog::open(&path).unwrap(), name, || {});
    let names = |seen: &Catalog| seen.names().unwrap().len();
    change("before");
    assert_eq!(names(&read_only), 1);
    let tries = std::cell::Cell::new(0);
    let found = read_only.look(Operation::Read, |db| {
        let found = db.query_row("SELECT count(*) FROM names", [], |row| row.get::<_, i64>(0))?;
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            change("meanwhile");
            return Err(rusqlite::Error::InvalidQuery);
        }
        Ok(found)
    });
    assert_eq!((found.unwrap(), tries.get()), (2, 2));
    // Each time.
    let endless = read_only.look(Operation::Read, |_| {
        tries.set(tries.get() + 1);
        change(&format!("again {}", tries.get()));
        Ok(())
    });
    assert_eq!(endless.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(names(&read_only), tries.get());
}

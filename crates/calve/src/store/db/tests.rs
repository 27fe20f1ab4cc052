use std::path::PathBuf;

use super::*;

/// A folder with what the database needs of a store.
fn a_database() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["locks", "stage"] {
        std::fs::create_dir(dir.path().join(sub)).unwrap();
    }
    let path = dir.path().join("index.db");
    Db::create(&path).unwrap();
    (dir, path)
}

fn put(db: &Db, name: &str, beside: impl FnOnce()) {
    db.write("write", |tx| {
        beside();
        tx.execute("INSERT INTO names VALUES (?1, zeroblob(32))", [name]).map(drop)
    })
    .unwrap();
}

/// Each of two kept the other from it until neither waited any longer, and then they shared it: a fifth of a second for every
/// operation, and a file that is mapped.
#[test]
fn those_who_open_it_briefly_are_alone_one_after_the_other() {
    let (dir, path) = a_database();
    let shared = dir.path().join("index.db-shm");
    let alone = || assert!(!shared.try_exists().unwrap(), "it is shared");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (path, alone) = (&path, &alone);
            scope.spawn(move || {
                let db = Db::open_briefly(path).unwrap();
                for number in 0..25 {
                    put(&db, &format!("{thread}-{number}"), alone);
                    assert!(db.names().unwrap().len() > number);
                }
            });
        }
    });
    assert_eq!(Db::open_briefly(&path).unwrap().names().unwrap().len(), 100);
    alone();
}

#[test]
fn whoever_opens_it_briefly_shares_it_with_those_who_keep_it_open_and_only_as_long() {
    let (dir, path) = a_database();
    let shared = dir.path().join("index.db-shm");
    let brief = Db::open_briefly(&path).unwrap();
    let kept = Db::of(Some(connect(&path, OPEN, With::Others).unwrap()), &path);
    for number in 0..10 {
        put(&kept, &format!("kept {number}"), || {});
        put(&brief, &format!("brief {number}"), || assert!(shared.try_exists().unwrap()));
        assert_eq!(kept.names().unwrap().len(), 2 * number + 2);
        assert_eq!(brief.names().unwrap().len(), 2 * number + 2);
    }
    // Others are waited for once, not for each operation.
    assert!(brief.others.load(Relaxed));
    kept.be_brief();
    put(&brief, "brief at last", || assert!(!shared.try_exists().unwrap()));
    put(&kept, "kept at last", || assert!(!shared.try_exists().unwrap()));
    assert_eq!(kept.names().unwrap().len(), 22);
}

//! `calve store`: verify, gc, pack, warm, stats.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{calve, done, with_project};

/// The document without its time, which no table can know.
fn document(project: &Path, words: &str) -> Value {
    let run = calve(project, words);
    assert_eq!(run.code, Some(0), "{words}: {run:?}");
    let mut document = run.json();
    let elapsed = document.as_object_mut().unwrap().remove("elapsed_seconds");
    assert!(elapsed.is_none_or(|elapsed| elapsed.is_f64()), "{words}");
    document
}

#[test]
fn each_command_has_its_document() {
    let (_scratch, project) = with_project();
    let id = done(&project, "snapshot s");
    let stats = document(&project, "store stats --json");
    for (field, expected) in [
        ("snapshots", json!(1)),
        ("names", json!(1)),
        ("worktrees", json!(0)),
        ("blobs", json!(2)),
        ("blob_bytes", json!(11)),
        ("mirrors", json!(2)),
        ("packed_blobs", json!(0)),
        ("packs", json!(0)),
        ("directories", json!(2)),
        ("ready_trees", json!(0)),
        ("trash_entries", json!(0)),
        ("path", json!(project.join(".calve").to_str())),
    ] {
        assert_eq!(stats[field], expected, "{field}: {stats}");
    }
    let expected = json!({
        "snapshots": 1, "directories": 2, "mirrors": 2, "mirror_bytes": 11, "packed_blobs": 0,
        "packed_bytes": 0, "unsealed_mirrors": 0, "damage": [], "busy": false,
    });
    assert_eq!(document(&project, "store verify --json"), expected);
    assert_eq!(document(&project, "store pack --json")["packed_blobs"], 0, "nothing is cold");
    let mut packed = document(&project, "store pack --json --all");
    for field in ["stored_bytes", "packs"] {
        let value = packed.as_object_mut().unwrap().remove(field).unwrap();
        assert!(value.as_u64().unwrap() > 0, "{field}");
    }
    let expected = json!({
        "packed_blobs": 2, "packed_bytes": 11, "dropped_mirrors": 2,
        "dropped_bytes": 11, "damaged": [],
    });
    assert_eq!(packed, expected);
    let expected = json!({ "snapshots": [id], "blobs": 2, "made_mirrors": 2, "made_bytes": 11 });
    let mut warm = document(&project, "store warm --json s");
    // There is one on btrfs, and none elsewhere.
    assert!(warm.as_object_mut().unwrap().remove("templates").unwrap().as_u64().unwrap() <= 1);
    assert_eq!(warm.as_object_mut().unwrap().remove("trees"), Some(Value::Null));
    assert_eq!(warm, expected);
    assert_eq!(document(&project, "store warm --json")["made_mirrors"], 0);
    let mut ready = document(&project, "store warm --json --keep 1")["trees"].clone();
    assert!(ready.as_object_mut().unwrap().remove("elapsed_seconds").is_some());
    // On btrfs also the subvolume that warming has made.
    let count = ready.as_object_mut().unwrap().remove("ready").unwrap();
    assert!(count == 1 || count == 2, "{count}");
    let expected = json!({
        "snapshot": id, "kept": 1, "made": 1, "brought": 0, "removed": 0, "stopped": false,
    });
    assert_eq!(ready, expected);
    assert_eq!(document(&project, "store stats --json")["ready_trees"], count);
    assert_eq!(document(&project, "store warm --json --keep 0")["trees"]["removed"], 1);
    let gc = document(&project, "store gc --json --grace 0 --patience 5s");
    let mut fields: Vec<_> = gc.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    let expected = [
        "busy",
        "directories",
        "dropped",
        "leftovers",
        "mirror_bytes",
        "mirrors",
        "packed_blobs",
        "packed_bytes",
        "packs",
        "problems",
        "rewritten_packs",
        "snapshots",
        "templates",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn the_words_for_people_are_on_the_right_streams() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot");
    let stats = calve(&project, "store stats");
    assert_eq!((stats.code, stats.stderr.as_str()), (Some(0), ""));
    for part in [
        "snapshots  1\n",
        "contents   2 (11 B), each counted once\n",
        "mirrors    2 of them (11 B) as files ",
        "trash      0\n",
    ] {
        assert!(stats.stdout.contains(part), "no {part:?} in {}", stats.stdout);
    }
    for (words, part) in [
        ("store verify", "checked 1 snapshot, with 2 mirrors (11 B)"),
        ("store verify", ": no damage, "),
        ("store pack --all", "2 contents compressed (11 B to "),
        ("store warm", "1 snapshot warm, 2 mirrors made (11 B)"),
        ("store gc --expire 30d", "nothing to remove, "),
    ] {
        let run = calve(&project, words);
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{words}: {run:?}");
        assert!(run.stderr.contains(part), "{words}: {run:?}");
        let quiet = calve(&project, &format!("{words} -q"));
        assert_eq!((quiet.stdout, quiet.stderr), (String::new(), String::new()), "{words}");
    }
}

#[test]
fn old_snapshots_are_forgotten_only_where_that_is_asked_for() {
    let (_scratch, project) = with_project();
    let old = done(&project, "snapshot -m old");
    done(&project, "snapshot -m kept kept");
    done(&project, "snapshot -m last");
    assert_eq!(document(&project, "store gc --json --grace 0")["snapshots"], json!([]));
    let forgotten = document(&project, "store gc --json --grace 0 --expire 0")["snapshots"].clone();
    assert_eq!(forgotten, json!([old]));
    assert_eq!(done(&project, "log").lines().count(), 2);
}

/// The mirror of this content in the store.
fn mirror(store: &Path, content: &str) -> PathBuf {
    for folder in fs::read_dir(store.join("blobs")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if fs::read_to_string(&path).is_ok_and(|text| text == content) {
                return path;
            }
        }
    }
    panic!("no mirror holds {content:?}");
}

#[test]
fn damage_is_a_finding_that_names_the_file_and_the_paths_it_stands_for() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot s");
    let path = mirror(&project.join(".calve"), "beta\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "gamma\n").unwrap();
    let plain = calve(&project, "store verify");
    assert_eq!(plain.code, Some(3), "{plain:?}");
    assert!(plain.stdout.contains(path.to_str().unwrap()), "{plain:?}");
    assert!(plain.stdout.contains("dir/b\n"), "{plain:?}");
    let found = calve(&project, "store verify --json");
    assert_eq!(found.code, Some(3));
    let damage = found.json()["damage"][0].clone();
    assert_eq!((&damage["path"], &damage["lost"]), (&json!(path.to_str()), &json!(true)));
    assert_eq!(damage["places"][0]["path"], "dir/b");
    // calve does not serve lost content, and reports that.
    let start = calve(&project, "start w --from s --json");
    assert_eq!((start.code, &start.json()["error"]["kind"]), (Some(1), &json!("damaged")));
    assert!(start.stderr.contains("hint: 'calve store verify --repair'"), "{start:?}");
    // The next snapshot that finds the content heals it.
    assert_eq!(calve(&project, "store verify --repair").code, Some(3));
    fs::write(project.join("dir/b"), "beta\n").unwrap();
    done(&project, "snapshot -m healed");
    assert_eq!(calve(&project, "store verify").code, Some(0));
    done(&project, "start w --from s");
}

//! `calve doctor`.

use crate::{calve, expected_method, listing, with_source};

#[test]
fn the_verdict_is_the_filesystems_and_the_exit_code_tells_it() {
    let scratch = with_source();
    let before = listing(scratch.path());
    for words in [
        "doctor",
        "doctor src",
        "doctor src src/dir",
        "doctor src src/dir not/yet/there",
        "doctor src/a",
    ] {
        let run = calve(scratch.path(), words);
        let good = match (expected_method(), run.code) {
            (Some("reflink") | None, Some(0)) => true,
            (Some("copy") | None, Some(3)) => false,
            unexpected => panic!("{words}: {unexpected:?}: {run:?}"),
        };
        assert_eq!(run.stderr, "", "{words}");
        assert_eq!(run.stdout.contains(": reflink ("), good, "{words}: {run:?}");
        assert_eq!(run.stdout.contains(": no reflink ("), !good, "{words}: {run:?}");
        assert_eq!(run.stdout.contains("\n  fix: "), !good, "{words}: {run:?}");
        assert_eq!(listing(scratch.path()), before, "{words} left something behind");
    }
}

#[test]
fn the_json_document_has_a_pair_for_each_destination() {
    let scratch = with_source();
    let run = calve(scratch.path(), "doctor --json src src/dir none");
    let document = run.json();
    let good = run.code == Some(0);
    assert_eq!(document["all_reflink"], good);
    let pairs = document["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 2);
    for (pair, (destination, probed)) in pairs.iter().zip([("src/dir", "src/dir"), ("none", ".")]) {
        assert_eq!(pair["source"], "src");
        assert_eq!(pair["destination"], destination);
        assert_eq!(pair["probed"], probed);
        assert_eq!(pair["reflink"], good);
        assert_eq!(pair["verdict"] == "cloned", good);
        for key in ["errno", "errno_name", "cause", "fix"] {
            // Windows has numbers for its errors and no names.
            let expected = good || cfg!(windows) && key == "errno_name";
            assert_eq!(pair[key].is_null(), expected, "{key}: {pair}");
        }
        let filesystem = std::env::var("CALVE_FS");
        for key in ["source_filesystem", "destination_filesystem"] {
            assert!(pair[key].is_string() || pair[key].is_null(), "{key}: {pair}");
            if let Ok(filesystem) = &filesystem {
                assert_eq!(pair[key], **filesystem);
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn what_calve_believes_of_a_filesystem_is_said() {
    let scratch = with_source();
    let Ok(name) = std::env::var("CALVE_FS") else {
        return crate::not_run(
            "what_calve_believes_of_a_filesystem_is_said",
            "CALVE_FS is not set",
        );
    };
    let text = calve(scratch.path(), "doctor src");
    let line = format!(
        "{name}: tested, so calve believes its holes, sizes, inode numbers, clock, locks, shared memory, flushes\n"
    );
    assert!(text.stdout.contains(&line), "{text:?}");
    let document = calve(scratch.path(), "doctor --json src").json();
    let filesystems = document["filesystems"].as_array().unwrap();
    assert_eq!(filesystems.len(), 1, "{filesystems:?}");
    assert_eq!((&filesystems[0]["name"], &filesystems[0]["tested"]), (&name.into(), &true.into()));
    let believed = filesystems[0]["believed"].as_object().unwrap();
    assert!(believed.len() == 7 && believed.values().all(|is| is == true), "{believed:?}");
}

#[test]
fn what_cannot_be_probed_is_an_error_and_no_verdict() {
    let scratch = with_source();
    for words in ["doctor none", "doctor none src", "doctor src none/../../../../../proc/self/none"]
    {
        let run = calve(scratch.path(), words);
        if words.starts_with("doctor none") {
            assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
            assert!(run.stderr.starts_with("error: cannot probe none"), "{run:?}");
        }
    }
    let json = calve(scratch.path(), "doctor --json none");
    assert_eq!(json.json()["error"]["operation"], "probe");
}

#[cfg(target_os = "linux")]
#[test]
fn two_filesystems_are_told_apart() {
    let scratch = with_source();
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        return crate::not_run("two_filesystems_are_told_apart", "there is no /dev/shm");
    };
    let far = memory.path().to_str().unwrap();
    let run = calve(scratch.path(), &format!("doctor src {far}"));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stdout.contains("tmpfs"), "{run:?}");
    assert!(run.stdout.contains("  fix: "), "{run:?}");
    assert_eq!(std::fs::read_dir(memory.path()).unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn what_could_not_be_looked_at_is_said_and_is_a_finding() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = with_source();
    let cache = scratch.path().join("src/CMakeCache.txt");
    std::fs::write(&cache, "x").unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o0)).unwrap();
    if std::fs::read(&cache).is_ok() {
        let test = "what_could_not_be_looked_at_is_said_and_is_a_finding";
        return crate::not_run(test, "this user may read every file");
    }
    let run = calve(scratch.path(), "doctor src");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.contains("warning: files that name this folder were not found"), "{run:?}");
}

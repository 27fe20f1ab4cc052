//! Tests the output of `init`, `snapshot`, `log`, `show` and `name`, and their documents.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::shown::assert_document;
use crate::{calve, command, done, expected_method, plant, run, scratch, with_project};

#[test]
fn a_store_is_made_once_and_its_path_is_the_result() {
    let scratch = scratch();
    plant(scratch.path(), &[("p/a", "x"), ("q/a", "x")]);
    let root = fs::canonicalize(scratch.path()).unwrap();
    let made = calve(&root.join("p"), "init");
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(made.stdout, format!("{}\n", root.join("p/.calve").display()));
    assert!(made.stderr.contains("'calve start NAME'"), "{made:?}");
    // The second time there is nothing to do, and it is the same store.
    let format = fs::metadata(root.join("p/.calve/format")).unwrap().modified().unwrap();
    for words in ["init --json p", "init --json p --store p/.calve"] {
        let again = calve(&root, words);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert_eq!(again.json()["store"], root.join("p/.calve").to_str().unwrap());
        assert!(again.stderr.contains("nothing to do"), "{again:?}");
    }
    assert_eq!(fs::metadata(root.join("p/.calve/format")).unwrap().modified().unwrap(), format);
    // Another project's store is not this one's.
    let other = calve(&root, "init --json q --store p/.calve");
    assert_eq!(other.code, Some(1), "{other:?}");
    assert_eq!(other.json()["error"]["kind"], "store_exists");
    assert!(other.stderr.contains("a store one project: choose another --store"), "{other:?}");
    let document = calve(&root, "init --json q").json();
    let expected = json!({
        "store": root.join("q/.calve").to_str(), "project": root.join("q").to_str(),
        "expected_copies": null,
    });
    assert_document(&document, &expected);
}

/// `git clean -fdx` leaves ready trees that contain repositories, and deletes the store that they
/// belonged to.
#[test]
fn init_over_the_rest_that_git_clean_leaves_says_what_to_do() {
    let scratch = scratch();
    let rest = format!("p/.calve/templates/{}/.git/HEAD", "0123456789abcdef".repeat(4));
    plant(scratch.path(), &[("p/a", "x"), (&rest, "x")]);
    let project = scratch.path().join("p");
    let run = calve(&project, "init");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("'git clean', for example, deleted most of this store"), "{run:?}");
    assert!(run.stderr.contains("remove the rest and try again: rm -rf"), "{run:?}");
    assert!(scratch.path().join(&rest).is_file(), "what may be wanted is not removed unasked");
    fs::remove_dir_all(project.join(".calve")).unwrap();
    assert_eq!(calve(&project, "init").code, Some(0));
}

#[test]
fn a_snapshot_prints_its_id_alone_and_the_summary_says_what_was_read() {
    let (_scratch, project) = with_project();
    let first = calve(&project, "snapshot");
    assert_eq!(first.code, Some(0), "{first:?}");
    let id = first.stdout.trim_end();
    assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first:?}");
    assert_eq!(first.stdout.lines().count(), 1, "{first:?}");
    assert!(first.stderr.contains("2 files (11 B), 2 read (11 B)"), "{first:?}");
    match expected_method() {
        Some("reflink") => assert!(first.stderr.contains("2 new contents reflinked"), "{first:?}"),
        Some("copy") => {
            assert!(first.stderr.contains("2 new contents copied (11 B)"), "{first:?}");
            assert!(first.stderr.contains("'calve doctor' says how to change that"), "{first:?}");
        }
        _ => {}
    }
    let second = calve(&project, "snapshot");
    assert_eq!(second.stdout, first.stdout);
    assert!(second.stderr.starts_with("unchanged since snapshot "), "{second:?}");
    let told = calve(&project, "snapshot -q -m again");
    assert_eq!(told.stderr, "");
    assert_ne!(told.stdout, first.stdout, "a message makes a new one");
}

#[test]
fn the_document_of_a_snapshot_is_as_documented() {
    let (_scratch, project) = with_project();
    let run = calve(&project, "snapshot --json -m why first");
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut document = run.json();
    let fields = document.as_object_mut().unwrap();
    assert!(fields.remove("elapsed_seconds").unwrap().as_f64().unwrap() >= 0.0);
    assert_eq!(fields.remove("snapshot").unwrap(), done(&project, "show --json first")[13..77]);
    let copied = fields["copied_files"].as_u64().unwrap();
    match expected_method() {
        Some("reflink") => assert_eq!(copied, 0),
        Some("copy") => assert_eq!(copied, 2),
        _ => {}
    }
    let expected = json!({
        "new": true, "files": 2, "bytes": 11, "read_files": 2, "read_bytes": 11,
        "reflinked_files": 2 - copied, "copied_files": copied,
        "copied_bytes": if copied == 0 { 0 } else { 11 }, "skipped": [],
    });
    assert_document(&document, &expected);
}

#[test]
fn what_cannot_be_kept_is_a_finding_that_names_it() {
    let (_scratch, project) = with_project();
    let _socket = UnixListener::bind(project.join("socket")).unwrap();
    for words in ["snapshot", "snapshot --of ."] {
        let run = calve(&project, words);
        assert_eq!(run.code, Some(3), "{words}: {run:?}");
        assert!(run.stderr.contains("warning: socket: left out: socket"), "{words}: {run:?}");
        assert_eq!(run.stdout.trim_end().len(), 64, "{words}: {run:?}");
    }
    let run = calve(&project, "start --json w");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(run.json()["taken"]["skipped"], json!([{ "path": "socket", "reason": "socket" }]));
}

#[test]
fn log_show_and_name_tell_of_the_same_snapshots() {
    let (_scratch, project) = with_project();
    let first = done(&project, "snapshot");
    fs::write(project.join("a"), "changed\n").unwrap();
    let message = "a\u{1b}[2Jb\nsecond line";
    let run = run(command(&project, ["snapshot", "ready", "-m", message]));
    let second = run.stdout.trim_end().to_owned();

    let log = done(&project, "log");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].starts_with(&second[..12]) && lines[1].starts_with(&first[..12]), "{log}");
    assert!(lines[0].ends_with(r"2 files (13 B)  [ready]  a\u{1b}[2Jb"), "{log}");
    assert!(lines[1].ends_with("Z  2 files (11 B)"), "{log}");
    assert_eq!(done(&project, "log -n 1"), lines[0]);
    assert!(done(&project, "log -v -n 1").starts_with(&second));

    let shown = done(&project, "show ready");
    for part in
        [&format!("snapshot  {second}\n"), &format!("parent    {first}\n"), "names     ready\n"]
    {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert!(shown.ends_with("message   a\\u{1b}[2Jb\n          second line"), "{shown}");
    for words in ["show", &format!("show {second}"), &format!("show {}", &second[..9])] {
        assert_eq!(done(&project, words), shown, "{words}");
    }
    let mut document = calve(&project, "show --json").json();
    let created = document.as_object_mut().unwrap().remove("created").unwrap();
    assert_eq!(created.as_str().unwrap().len(), "2026-11-21T04:33:10Z".len());
    let expected = json!({
        "snapshot": second, "parent": first, "names": ["ready"], "message": message,
        "worktree": null, "branch": null, "entries": 4, "files": 2, "bytes": 13,
    });
    assert_document(&document, &expected);
    let log = calve(&project, "log --json").json();
    assert_eq!(log["snapshots"].as_array().unwrap().len(), 2);
    assert_eq!(log["snapshots"][1]["snapshot"], first);
    assert_eq!(log["snapshots"][1]["parent"], json!(null));
}

#[test]
fn names_are_set_taken_over_listed_and_deleted() {
    let (_scratch, project) = with_project();
    let first = done(&project, "snapshot");
    let second = done(&project, "snapshot -m more");
    assert_eq!(done(&project, "name"), "");
    assert_eq!(done(&project, &format!("name {} good", &first[..8])), "");
    assert_eq!(done(&project, "name good also-good"), "");
    assert_eq!(done(&project, "name"), format!("also-good  {first}\ngood       {first}"));
    // The name was taken over without a word, and `store gc --expire` deleted the first snapshot.
    let told = format!("good was the name of snapshot {first} until now: 'calve name ");
    for (words, says) in [
        (format!("name {second} good"), true),
        (format!("name {second} good"), false),
        (format!("name {first} good"), false),
        ("snapshot -m more good".to_owned(), true),
        (format!("name {second} good"), false),
    ] {
        let run = calve(&project, &words);
        assert_eq!((run.code, run.stderr.contains(&told)), (Some(0), says), "{words}: {run:?}");
    }
    let listed = json!({ "names": [
        { "name": "also-good", "snapshot": first }, { "name": "good", "snapshot": second },
    ] });
    assert_eq!(calve(&project, "name --json").json(), listed);
    assert_eq!(
        calve(&project, "name --json good better").json(),
        json!({ "name": "better", "snapshot": second })
    );
    assert_eq!(
        calve(&project, "name --json --delete good").json(),
        json!({ "name": "good", "snapshot": null })
    );
    let gone = calve(&project, "name --json --delete good");
    assert_eq!((gone.code, &gone.json()["error"]["kind"]), (Some(1), &json!("snapshot_not_found")));
    assert_eq!(done(&project, "name"), format!("also-good  {first}\nbetter     {second}"));
}

/// One damaged snapshot made the log of all the others fail.
#[test]
fn a_snapshot_that_is_damaged_is_a_finding_and_the_others_are_listed() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot -m first first");
    done(&project, "snapshot -m second second");
    done(&project, "snapshot -m third third");
    let database = project.join(".calve/index.db");
    let mut bytes = fs::read(&database).unwrap();
    // In its message, which its hash is about, too; the name is another row.
    let at = bytes.windows(6).enumerate().filter(|(_, part)| part == b"second").map(|(at, _)| at);
    let at: Vec<usize> = at.collect();
    for at in at {
        if bytes[at - 1] == 6 {
            bytes[at] = b'S';
        }
    }
    fs::write(&database, bytes).unwrap();
    let log = calve(&project, "log");
    assert_eq!(log.code, Some(3), "{log:?}");
    let lines: Vec<&str> = log.stdout.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].ends_with("third") && lines[1].ends_with("first"),
        "{log:?}"
    );
    assert!(log.stderr.contains("does not have its own hash"), "{log:?}");
    let document = calve(&project, "log --json").json();
    assert_eq!(document["snapshots"].as_array().map(Vec::len), Some(2), "{document}");
    assert_eq!(document["damage"][0]["kind"], "snapshot", "{document}");
    let names = calve(&project, "name");
    assert_eq!(names.code, Some(3), "{names:?}");
    assert!(names.stdout.contains("first") && names.stdout.contains("third"), "{names:?}");
    assert_eq!(calve(&project, "show second").code, Some(1));
    assert_eq!(calve(&project, "store verify").code, Some(3));
    done(&project, "start w --from third");
}

/// Like git, calve takes the word as a name, and tells a user who may have meant the id.
#[test]
fn a_name_that_starts_the_id_of_another_snapshot_stands_for_its_own_and_both_are_told() {
    let (_scratch, project) = with_project();
    let first = done(&project, "snapshot");
    let name = &first[..6];
    let warning = format!("warning: {name} is the name of snapshot ");
    let second = calve(&project, &format!("snapshot -m second {name}"));
    let id = second.stdout.trim_end();
    assert_eq!(second.code, Some(0), "{second:?}");
    assert!(second.stderr.contains(&warning) && second.stderr.contains(&id[..12]), "{second:?}");
    for (words, expected, warns) in [
        (format!("show {name}"), id, true),
        (format!("show {}", &first[..7]), first.as_str(), false),
        (format!("show {first}"), &first, false),
        (format!("show {id}"), id, false),
    ] {
        let shown = calve(&project, &words);
        assert!(shown.stdout.starts_with(&format!("snapshot  {expected}\n")), "{words}: {shown:?}");
        assert_eq!(shown.stderr.contains(&warning), warns, "{words}: {shown:?}");
    }
    // Its own id is no other one's.
    for words in [format!("name {first} {name}"), format!("show {name}")] {
        let own = calve(&project, &words);
        assert!(own.code == Some(0) && !own.stderr.contains("warning"), "{words}: {own:?}");
    }
    let named = calve(&project, &format!("name {} {name}", &id[..12]));
    assert!(named.code == Some(0) && named.stderr.contains(&warning), "{named:?}");
}

//! Errors: the operation, its paths, the cause, the way out; and nothing is left behind.

use std::fs;

use crate::{calve, expected_method, listing, plant, with_source};

/// One row: the entries beside `src`, the arguments, and the expected message.
struct Row {
    beside: &'static [(&'static str, &'static str)],
    words: &'static str,
    kind: &'static str,
    error: &'static str,
    hint: Option<&'static str>,
}

const ROWS: &[Row] = &[
    Row {
        beside: &[],
        words: "none dst",
        kind: "source_not_found",
        error: "none",
        hint: Some("-C DIR"),
    },
    Row {
        beside: &[("file", "x")],
        words: "file dst",
        kind: "source_not_a_directory",
        error: "file",
        hint: Some("cp --reflink=auto"),
    },
    Row {
        beside: &[("dst/", "")],
        words: "src dst",
        kind: "destination_exists",
        error: "dst",
        hint: Some("--existing merge"),
    },
    Row {
        beside: &[],
        words: "src none/below/dst",
        kind: "parent_not_found",
        error: "none/below",
        hint: Some("mkdir -p none/below"),
    },
    Row { beside: &[], words: "src src", kind: "overlap", error: "src", hint: Some("of its own") },
    Row {
        beside: &[],
        words: "src dst dst",
        kind: "overlap",
        error: "dst",
        hint: Some("of its own"),
    },
    Row {
        beside: &[("dst/a/x", "x")],
        words: "--existing merge src dst",
        kind: "conflict",
        error: "a",
        hint: Some("--exclude"),
    },
    Row {
        beside: &[],
        words: "--exclude [a-z src dst",
        kind: "invalid_pattern",
        error: "[a-z",
        hint: Some("gitignore"),
    },
];

#[test]
fn each_error_names_its_paths_its_kind_and_the_way_out_and_leaves_nothing_behind() {
    for row in ROWS {
        let scratch = with_source();
        plant(scratch.path(), row.beside);
        let before = listing(scratch.path());
        let plain = calve(scratch.path(), &format!("clone {}", row.words));
        assert_eq!((plain.code, plain.stdout.as_str()), (Some(1), ""), "{}: {plain:?}", row.words);
        let mut lines = plain.stderr.lines();
        let error = lines.next().unwrap_or_default();
        assert!(
            error.starts_with("error: ") && error.contains(row.error),
            "{}: {plain:?}",
            row.words
        );
        let hint = lines.next();
        assert_eq!(hint.is_some(), row.hint.is_some(), "{}: {plain:?}", row.words);
        assert!(hint.is_none_or(|hint| hint.starts_with("hint: ")), "{}: {plain:?}", row.words);
        assert!(
            hint.unwrap_or_default().contains(row.hint.unwrap_or_default()),
            "{}: {plain:?}",
            row.words
        );
        assert_eq!(lines.next(), None, "{}: {plain:?}", row.words);

        let json = calve(scratch.path(), &format!("clone --json {}", row.words));
        assert_eq!((json.code, &json.stderr), (plain.code, &plain.stderr), "{}", row.words);
        let document = json.json();
        assert_eq!(document["error"]["kind"], row.kind, "{}: {document}", row.words);
        let mut keys: Vec<_> = document["error"].as_object().unwrap().keys().collect();
        keys.sort();
        assert_eq!(keys, ["cause", "hint", "kind", "operation", "paths"], "{}", row.words);
        let paths: Vec<_> = document["error"]["paths"].as_array().unwrap().iter().collect();
        assert!(paths.iter().all(|path| path.is_string()), "{document}");

        let mut after = listing(scratch.path());
        if row.words.contains("merge") {
            // A merge is atomic for each file: files that arrived before the conflict stay, but no
            // stage does.
            after.retain(|name| {
                !["dst/a", "dst/dir/", "dst/dir/b"].iter().any(|arrived| name == arrived)
            });
        }
        assert_eq!(after, before, "{}", row.words);
    }
}

#[test]
fn a_refused_reflink_sends_to_the_doctor_and_appears_nowhere() {
    let scratch = with_source();
    let run = calve(scratch.path(), "clone --reflink always src dst");
    match (expected_method(), run.code) {
        (Some("reflink") | None, Some(0)) => {
            assert_eq!(fs::read_to_string(scratch.path().join("dst/dir/b")).unwrap(), "beta");
        }
        (Some("copy") | None, Some(1)) => {
            assert!(run.stderr.contains("hint: 'calve doctor src dst'"), "{run:?}");
            assert!(!scratch.path().join("dst").try_exists().unwrap());
            let json = calve(scratch.path(), "clone --json --reflink always src dst").json();
            assert_eq!(json["error"]["kind"], "reflink_refused");
        }
        unexpected => panic!("{unexpected:?}: {run:?}"),
    }
}

/// The command as a user who may not look into the folder `closed`. `None`: root cannot become one.
#[cfg(unix)]
fn without_privileges(
    command: std::process::Command,
    closed: &std::path::Path,
) -> Option<std::process::Command> {
    use std::os::unix::fs::chown;
    if !rustix::process::geteuid().is_root() {
        return Some(command);
    }
    // Root without its privileges still owns its own files, so the folder must belong to another
    // user.
    chown(closed, Some(65534), Some(65534)).unwrap();
    let mut without = std::process::Command::new("setpriv");
    without.args(["--bounding-set", "-all", "--inh-caps", "-all", env!("CARGO_BIN_EXE_calve")]);
    without.args(command.get_args()).stdin(std::process::Stdio::null());
    without.current_dir(command.get_current_dir().unwrap());
    for (variable, _) in command.get_envs() {
        without.env_remove(variable);
    }
    std::process::Command::new("setpriv").arg("--version").output().ok()?;
    Some(without)
}

/// It said that there was no store, and what makes one.
#[cfg(unix)]
#[test]
fn a_store_that_may_not_be_looked_at_is_not_called_lost() {
    use std::os::unix::fs::PermissionsExt as _;
    let name = "a_store_that_may_not_be_looked_at_is_not_called_lost";
    let Some((_scratch, root)) = crate::hints::repository() else {
        return crate::not_run(name, "there is no git");
    };
    let (app, store) = (root.join("app"), root.join("app/.git/calve"));
    let is_root = rustix::process::geteuid().is_root();
    let mode = |mode| fs::set_permissions(&store, fs::Permissions::from_mode(mode)).unwrap();
    mode(if is_root { 0o700 } else { 0 });
    for words in [["list", "--json"], ["start", "w"]] {
        let Some(command) = without_privileges(crate::command(&app, words), &store) else {
            return crate::not_run(name, "root may read everything, and there is no setpriv");
        };
        let run = crate::run(command);
        assert_eq!(run.code, Some(1), "{run:?}");
        let is_said = run.stderr.contains("ermission denied") && run.stderr.contains(".git/calve");
        assert!(is_said && !run.stderr.contains("calve init"), "{run:?}");
    }
    mode(0o755);
}

#[cfg(unix)]
#[test]
fn a_source_that_may_not_be_read_is_a_permission_error() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = with_source();
    let closed = scratch.path().join("src/dir");
    let is_root = rustix::process::geteuid().is_root();
    let mode = if is_root { 0o700 } else { 0o000 };
    fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    let command = crate::command(scratch.path(), ["clone", "--json", "src", "dst"]);
    let Some(command) = without_privileges(command, &closed) else {
        return crate::not_run(
            "a_source_that_may_not_be_read_is_a_permission_error",
            "root may read everything, and there is no setpriv",
        );
    };
    let run = crate::run(command);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.json()["error"]["kind"], "permission_denied");
    assert!(run.stderr.contains("or run calve as a user who has access"), "{run:?}");
    assert!(run.stderr.contains(": ls -ld src "), "{run:?}");
}

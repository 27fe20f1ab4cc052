//! Usage errors end with 2 and begin nothing; help is help.

use crate::{calve, command, listing, run, with_source};

#[test]
fn a_command_line_that_is_not_understood_ends_with_two_and_changes_nothing() {
    let scratch = with_source();
    let before = listing(scratch.path());
    for (words, part) in [
        ("clone", "<SRC>"),
        ("clone src", "<DST>"),
        ("clone -n 0 src dst", "0 is not in 1..=65535"),
        ("clone -n 65536 src dst", "65536 is not in"),
        ("clone -n -1 src dst", "-1"),
        ("clone -n 2 src dst other", "-n takes one DST"),
        ("clone -n 2 src .", "ends in a name"),
        ("clone --reflink maybe src dst", "[possible values: auto, always, never]"),
        ("clone --mode cow src dst", "[possible values: clone, copy, hardlink, symlink]"),
        ("clone --existing overwrite src dst", "[possible values: fail, skip, replace, merge]"),
        ("clone --nonsense src dst", "--nonsense"),
        ("clone -j 0 src dst", "not a number from 1 to"),
        ("clone -j 257 src dst", "not a number from 1 to"),
        ("clone -q -v src dst", "cannot be used with"),
        ("clone --color blue src dst", "blue"),
        ("completions tcsh", "tcsh"),
        ("snapshots", "snapshots"),
        ("--nonsense", "--nonsense"),
    ] {
        let run = calve(scratch.path(), words);
        assert_eq!(run.code, Some(2), "{words}: {run:?}");
        assert!(run.stderr.starts_with("error: ") && run.stderr.contains(part), "{words}: {run:?}");
        assert_eq!(run.stdout, "", "{words}");
    }
    assert_eq!(listing(scratch.path()), before);
}

#[test]
fn an_empty_path_is_a_usage_error_and_never_the_current_directory() {
    let scratch = with_source();
    for args in [["clone", "", "dst"], ["clone", "src", ""]] {
        let run = run(command(scratch.path(), args));
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
    }
}

#[test]
fn a_usage_error_is_a_json_document_too_where_json_was_asked_for() {
    let scratch = with_source();
    for (words, cause) in [
        ("clone --json src", "the following required arguments were not provided: <DST>..."),
        ("--json clone -n 2 src a b", "-n takes one DST, and names DST-1 … DST-N after it"),
    ] {
        let run = calve(scratch.path(), words);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert_eq!(run.json()["error"]["kind"], "usage");
        assert_eq!(run.json()["error"]["cause"], cause);
        assert!(run.stderr.contains("Usage: calve clone"), "{run:?}");
    }
}

#[test]
fn no_command_shows_the_help_and_is_a_usage_error() {
    let scratch = with_source();
    let run = calve(scratch.path(), "");
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert!(run.stderr.contains("Usage: calve"), "{run:?}");
}

#[test]
fn help_and_version_are_results() {
    let scratch = with_source();
    for (words, parts) in [
        ("--help", &["Usage: calve", "Examples:", "Exit codes:", "completions"][..]),
        ("-h", &["Usage: calve", "Examples:"]),
        (
            "help clone",
            &["Usage: calve clone", "Examples:", "--existing", "--dry-run", "--no-xattrs"],
        ),
        ("clone -h", &["Usage: calve clone", "Examples:"]),
        ("doctor --help", &["Usage: calve doctor", "Examples:"]),
        ("completions --help", &["Usage: calve completions", "Examples:", "fish"]),
        ("--version", &[concat!("calve ", env!("CARGO_PKG_VERSION"), "\n")]),
    ] {
        let run = calve(scratch.path(), words);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{words}");
        for part in parts {
            assert!(run.stdout.contains(part), "{words}: no {part:?} in {}", run.stdout);
        }
        assert!(!run.stdout.contains('\u{1b}'), "{words}: colors in a pipe");
        assert!(
            run.stdout.lines().all(|line| line.chars().count() <= 100),
            "{words}: a line is too long for a terminal: {}",
            run.stdout
        );
    }
}

#[cfg(unix)]
#[test]
fn every_command_of_stores_has_its_help_with_examples() {
    let scratch = with_source();
    let verbs = "init snapshot start list status diff capture switch reset drop restore log show name store";
    let overview = calve(scratch.path(), "--help").stdout;
    for verb in verbs.split(' ') {
        assert!(overview.contains(&format!("\n  {verb}")), "{verb}: {overview}");
    }
    let of_store = ["store verify", "store gc", "store pack", "store warm"];
    for verb in verbs.split(' ').chain(of_store) {
        for flag in ["-h", "--help"] {
            let run = calve(scratch.path(), &format!("{verb} {flag}"));
            assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{verb} {flag}");
            assert!(run.stdout.contains(&format!("Usage: calve {verb}")), "{}", run.stdout);
            assert!(run.stdout.contains("Examples:\n"), "{verb}: {}", run.stdout);
            assert!(!run.stdout.contains("empty-trash"), "{verb}: {}", run.stdout);
            let long = run.stdout.lines().find(|line| line.chars().count() > 100);
            assert_eq!(long, None, "{verb} {flag}");
        }
    }
}

#[test]
fn every_shell_gets_its_completions() {
    let scratch = with_source();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = calve(scratch.path(), &format!("completions {shell}"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(run.stdout.contains("doctor") && run.stdout.contains("existing"), "{shell}");
    }
}

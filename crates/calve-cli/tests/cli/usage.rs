//! Usage errors end with 2 and begin nothing; help is help.

#[cfg(unix)]
use std::fs;

use crate::shown::{Lines, assert_lines};
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
        (
            "clone --existing overwrite src dst",
            "[possible values: fail, skip, replace, merge, keep]",
        ),
        ("clone --nonsense src dst", "--nonsense"),
        ("clone -j 0 src dst", "not a number from 1 to"),
        ("clone -j 257 src dst", "not a number from 1 to"),
        ("clone -q -v src dst", "cannot be used with"),
        ("clone --color blue src dst", "blue"),
        ("shell-init tcsh", "tcsh"),
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
        ("--json clone -n 2 src a b", "-n takes one DST, and makes DST-1 … DST-N"),
    ] {
        let run = calve(scratch.path(), words);
        assert_eq!(run.code, Some(2), "{run:?}");
        assert_eq!(run.json()["error"]["kind"], "usage");
        assert_eq!(run.json()["error"]["cause"], cause);
        assert!(run.stderr.contains("Usage: calve clone"), "{run:?}");
    }
}

/// Git's projects get the next command, which works when it is pasted; nobody gets seventy lines.
#[cfg(unix)]
#[test]
fn no_command_is_a_usage_error_that_says_what_calve_is_and_what_comes_next() {
    let scratch = with_source();
    let next = |folder: &str, expected: &str| {
        let run = calve(&scratch.path().join(folder), "");
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{folder}");
        assert_eq!(run.stderr.lines().count(), 5, "{folder}: {run:?}");
        assert!(run.stderr.starts_with("calve gives each coding agent"), "{folder}: {run:?}");
        assert!(run.stderr.contains(&format!("\nnext: {expected}  (")), "{folder}: {run:?}");
        let doctor = calve(&scratch.path().join(folder), "doctor");
        let last = doctor.stdout.lines().next_back().unwrap_or_default();
        let is_price = last.starts_with("next: calve volume create DIR  (");
        assert!(last.starts_with(&format!("next: {expected}  (")) || is_price, "{doctor:?}");
        let document = calve(&scratch.path().join(folder), "doctor --json").json();
        assert!(document["next"] == expected || is_price, "{document}");
    };
    next("src", "calve init DIR");
    let repository = scratch.path().join("src/.git");
    fs::create_dir(&repository).unwrap();
    next("src", "calve start NAME");
    let root = fs::canonicalize(scratch.path().join("src")).unwrap();
    next("src/dir", &format!("calve -C {} start NAME", root.display()));
    fs::remove_dir(&repository).unwrap();
    assert_eq!(calve(&root, "init -q").code, Some(0));
    next("src", "calve start NAME");
    assert_eq!(calve(&root, "start -q one").code, Some(0));
    next("src/dir", "calve start NAME");
    next("src.worktrees/one", "calve status");
    let doctor = calve(&root, "doctor").stdout;
    assert!(doctor.contains(", with 1 worktree\n"), "{doctor}");
    assert_eq!(calve(&root, "doctor --json .").json()["next"], serde_json::Value::Null);
    fs::write(root.join(".calve/format"), "nonsense").unwrap();
    next("src", "calve list");
}

#[test]
fn help_and_version_are_results() {
    let scratch = with_source();
    for (words, parts) in [
        ("--help", &["Usage: calve", "Examples:", "Exit codes:", "shell-init"][..]),
        ("-h", &["Usage: calve", "Worktrees:", "Also: "]),
        (
            "help clone",
            &["Usage: calve clone", "Examples:", "--existing", "--dry-run", "--no-xattrs"],
        ),
        ("clone -h", &["Usage: calve clone", "Examples:"]),
        ("doctor --help", &["Usage: calve doctor", "Examples:"]),
        ("shell-init --help", &["Usage: calve shell-init", "Examples:", "--completions"]),
        ("--version", &[concat!("calve ", env!("CARGO_PKG_VERSION"), "\n")]),
    ] {
        let run = calve(scratch.path(), words);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{words}");
        for part in parts {
            assert!(run.stdout.contains(part), "{words}: no {part:?} in {}", run.stdout);
        }
        assert!(!run.stdout.contains('\u{1b}'), "{words}: colors in a pipe");
        assert!(
            run.stdout.lines().all(|line| line.chars().count() <= 80),
            "{words}: a line is too long for a terminal: {}",
            run.stdout
        );
    }
}

#[cfg(unix)]
#[test]
fn every_command_has_its_help_with_examples_in_eighty_columns() {
    let scratch = with_source();
    let verbs = "clone doctor init snapshot start list path cd status diff drop restore undo log show name \
                 push pull remote store hook shell-init man";
    let overview = calve(scratch.path(), "--help").stdout;
    for verb in verbs.split_whitespace() {
        assert!(overview.contains(&format!("\n  {verb}")), "{verb}: {overview}");
    }
    let inner = [
        "store verify",
        "store gc",
        "store pack",
        "store warm",
        "store stats",
        "remote init",
        "remote add",
        "remote key",
        "remote list",
        "remote remove",
        "remote names",
        "remote log",
        "remote verify",
        "remote gc",
        "hook claude",
        "hook claude create",
        "hook claude remove",
    ];
    for verb in verbs.split_whitespace().chain(inner) {
        for flag in ["-h", "--help"] {
            let run = calve(scratch.path(), &format!("{verb} {flag}"));
            assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{verb} {flag}");
            assert!(run.stdout.contains(&format!("Usage: calve {verb}")), "{}", run.stdout);
            assert!(run.stdout.contains("Examples:\n"), "{verb}: {}", run.stdout);
            assert!(!run.stdout.contains("empty-trash"), "{verb}: {}", run.stdout);
            let long = run.stdout.lines().find(|line| line.chars().count() > 80);
            assert_eq!(long, None, "{verb} {flag}");
        }
    }
}

#[test]
fn every_shell_gets_its_completions() {
    let scratch = with_source();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let run = calve(scratch.path(), &format!("shell-init --completions {shell}"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(run.stdout.contains("CALVE_COMPLETE"), "{shell}: {run:?}");
    }
}

/// The names of the commands that the long help of `words` lists.
fn listed(directory: &std::path::Path, words: &str) -> Vec<String> {
    let help = calve(directory, &format!("{words} --help")).stdout;
    let help = help.split("Options:\n").next().unwrap_or_default();
    let is_command = |line: &&str| line.starts_with("  ") && !line.starts_with("   ");
    let names = help.lines().filter(is_command).filter(|line| line.trim().contains("  "));
    names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn every_command_has_its_manual_page() {
    let scratch = with_source();
    let run = calve(scratch.path(), "man -q --dir made/man1");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    let mut expected = Vec::new();
    let mut commands = vec![String::new()];
    while let Some(words) = commands.pop() {
        expected.push(format!("made/man1/calve{}.1", words.replace(' ', "-")));
        let inner = listed(scratch.path(), &words);
        let inner = inner.iter().filter(|inner| *inner != "help");
        commands.extend(inner.map(|inner| format!("{words} {inner}")));
    }
    // The help has an order of its own.
    let sorted = |mut pages: Vec<String>| {
        pages.sort_unstable();
        pages
    };
    assert_eq!(sorted(run.stdout.lines().map(str::to_owned).collect()), sorted(expected.clone()));
    assert_eq!(
        std::fs::read_dir(scratch.path().join("made/man1")).unwrap().count(),
        expected.len()
    );
    for path in &expected {
        let page = std::fs::read_to_string(scratch.path().join(path)).unwrap();
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "EXAMPLES",
            "\"EXIT STATUS\"",
            "ENVIRONMENT",
            "FILES",
        ] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{path}: no {section}: {page}");
        }
        assert!(page.contains("CALVE_STORE") && page.is_ascii(), "{path}: {:?}", Lines(&page));
        assert!(!page.contains("\n\n") && !page.contains('\u{1b}'), "{path}: {:?}", Lines(&page));
    }
    for (words, page) in [("man start", "calve-start"), ("man store gc", "calve-store-gc")] {
        let page = std::fs::read_to_string(scratch.path().join(format!("made/man1/{page}.1")));
        assert_lines(&calve(scratch.path(), words).stdout, &page.unwrap());
    }
    let unknown = calve(scratch.path(), "man store nothing");
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(2), ""), "{unknown:?}");
    assert!(unknown.stderr.contains("there is no command 'nothing'"), "{unknown:?}");
    let top = calve(scratch.path(), "man").stdout;
    assert_lines(&top, &std::fs::read_to_string(scratch.path().join(&expected[0])).unwrap());
    // A page that is there already is replaced, and one that cannot be written leaves nothing.
    let page = scratch.path().join("made/man1/calve.1");
    std::fs::write(&page, "old").unwrap();
    assert_eq!(calve(scratch.path(), "man -d made/man1").code, Some(0));
    assert_lines(&std::fs::read_to_string(&page).unwrap(), &top);
    std::fs::remove_file(&page).unwrap();
    std::fs::create_dir(&page).unwrap();
    let refused = calve(scratch.path(), "man -d made/man1");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    assert!(
        refused.stderr.starts_with("error: cannot write manual page made/man1/calve.1: "),
        "{refused:?}"
    );
    assert!(!listing(scratch.path()).iter().any(|name| name.to_string_lossy().ends_with(".part")));
}

#[cfg(unix)]
#[test]
fn the_manual_pages_are_without_fault_to_groff() {
    let scratch = with_source();
    let pages = calve(scratch.path(), "man --dir man1").stdout;
    for page in pages.lines() {
        for device in ["utf8", "ascii"] {
            let mut groff = std::process::Command::new("groff");
            groff.args(["-man", "-ww", "-T", device, page]).current_dir(scratch.path());
            match groff.output() {
                Err(_) => {
                    let test = "the_manual_pages_are_without_fault_to_groff";
                    return crate::not_run(test, "there is no groff");
                }
                Ok(output) => {
                    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
                }
            }
        }
    }
}

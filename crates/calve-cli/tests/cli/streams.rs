//! The two streams: results on one, words on the other, and either may be gone.

use std::process::Stdio;

use crate::{calve, command, listing, run, with_source};

#[test]
fn a_closed_standard_output_fails_quietly() {
    for words in [
        "--help",
        "--version",
        "shell-init --completions bash",
        "clone --json src dst",
        "clone src dst",
        "doctor --json",
    ] {
        let scratch = with_source();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(scratch.path(), words.split_whitespace());
        command.stdout(writer).stderr(Stdio::piped());
        let run = run(command);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert!(!run.stderr.contains("error"), "{words}: {run:?}");
    }
}

#[test]
fn a_closed_standard_error_changes_nothing() {
    for (words, code) in [("clone src dst", 0), ("clone none dst", 1), ("clone src", 2)] {
        let scratch = with_source();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(scratch.path(), words.split_whitespace());
        command.stderr(writer).stdout(Stdio::piped());
        assert_eq!(run(command).code, Some(code), "{words}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_an_error_that_says_so() {
    for words in ["--help", "shell-init zsh", "clone --json src dst", "clone src dst"] {
        let scratch = with_source();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = command(scratch.path(), words.split_whitespace());
        command.stdout(full).stderr(Stdio::piped());
        let run = run(command);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert!(run.stderr.contains("error: cannot write standard output: "), "{words}: {run:?}");
        assert!(run.stderr.contains("ENOSPC"), "{words}: {run:?}");
    }
}

/// The exit code reports the failure. The trees stay, and without the message the user would not
/// find them.
#[cfg(target_os = "linux")]
#[test]
fn what_was_made_is_told_where_standard_output_cannot_be_written_to() {
    let (scratch, project) = crate::with_project();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for (words, part) in [
        ("start one two", "p.worktrees/one, "),
        ("start --json three", "p.worktrees/three\n"),
        ("snapshot", "the snapshot was taken and stays: "),
        ("clone p c -C ..", "the tree was made and stays: ../c\n"),
        ("clone p c-2 c-3 --json -C ..", "the trees were made and stay: ../c-2, ../c-3\n"),
    ] {
        let mut command = command(&project, words.split_whitespace());
        command.stdout(full()).stderr(Stdio::piped());
        let run = run(command);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let hint = run.stderr.lines().last().unwrap().to_owned() + "\n";
        assert!(hint.starts_with("hint: ") && hint.contains(part), "{words}: {run:?}");
    }
    for made in ["p.worktrees/one/a", "p.worktrees/three/a", "c/a", "c-3/a"] {
        assert!(scratch.path().join(made).is_file(), "{made}");
    }
}

#[test]
fn results_are_the_destinations_and_all_else_is_on_standard_error() {
    let scratch = with_source();
    let loud = calve(scratch.path(), "clone src dst other");
    assert_eq!((loud.code, loud.stdout.as_str()), (Some(0), "dst\nother\n"), "{loud:?}");
    assert!(loud.stderr.starts_with("2 trees, 4 files: "), "{loud:?}");
    assert_eq!(loud.stderr.lines().count(), 1, "{loud:?}");
    let quiet = calve(scratch.path(), "clone -q src third");
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("third\n", ""));
    let verbose = calve(scratch.path(), "clone -v src fourth");
    assert!(verbose.stderr.starts_with("fourth: "), "{verbose:?}");
    assert!(verbose.stderr.contains("2 directories, 2 files, 0 symlinks"), "{verbose:?}");
}

#[cfg(unix)]
#[test]
fn where_there_is_nothing_to_list_it_is_said_and_not_on_standard_output() {
    let (_scratch, project) = crate::with_project();
    for (words, part) in [
        ("list", "no worktrees: 'calve start NAME'"),
        ("log", "no snapshots: 'calve snapshot'"),
        ("name", "no names: 'calve name "),
    ] {
        let said = calve(&project, words);
        assert_eq!((said.code, said.stdout.as_str()), (Some(0), ""), "{words}: {said:?}");
        assert!(said.stderr.starts_with(part), "{words}: {said:?}");
        let quiet = calve(&project, &format!("{words} -q"));
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""), "{words}");
    }
}

#[test]
fn colors_are_for_terminals_unless_asked_for() {
    let scratch = with_source();
    for (words, no_color, colored) in [
        ("clone none dst", false, false),
        ("clone --color never none dst", false, false),
        ("clone --color always none dst", false, true),
        ("clone --color always none dst", true, true),
        ("clone --color=always --nonsense", false, true),
        ("clone --color=never --nonsense", false, false),
        ("--nonsense", false, false),
    ] {
        let mut command = command(scratch.path(), words.split_whitespace());
        if no_color {
            command.env("NO_COLOR", "1");
        }
        let run = run(command);
        assert_eq!(run.stderr.contains('\u{1b}'), colored, "{words}: {run:?}");
    }
}

#[test]
fn a_hostile_name_reaches_no_terminal_raw() {
    let scratch = with_source();
    let before = listing(scratch.path());
    for hostile in ["a\u{1b}[2Jb", "a\rb", "a\u{9b}2Jb", "a\u{7}"] {
        for args in [
            vec!["clone", hostile, "dst"],
            vec!["clone", "src", hostile, hostile],
            vec!["doctor", hostile],
            vec![hostile],
            vec!["clone", "--reflink", hostile],
            vec!["clone", "--", "none", hostile],
        ] {
            let run = run(command(scratch.path(), &args));
            assert_ne!(run.code, Some(0), "{args:?}");
            assert!(
                !run.stderr.contains(|character: char| character.is_control() && character != '\n'),
                "{args:?}: {run:?}"
            );
        }
    }
    assert_eq!(listing(scratch.path()), before);
}

//! Bash, zsh and fish: completion, and `calve cd`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::shown::assert_document;
use crate::{Run, calve, command, done, run, with_project, worktrees_of};

/// A project with worktrees `one`, `two` and `x$(y)` (in a folder with blanks and a quote), and
/// snapshots `ready` and a later one.
fn with_names() -> (TempDir, PathBuf) {
    let (scratch, project) = with_project();
    done(&project, "snapshot ready");
    done(&project, "start one two");
    let blank = scratch.path().join("it's a  blank");
    let mut start = command(&project, ["start", "-q", "x$(y)", "--at"]);
    assert_eq!(
        run({
            start.arg(&blank);
            start
        })
        .code,
        Some(0)
    );
    (scratch, project)
}

/// A shell without its user's files, in which `calve` is the binary under test. `None` if that
/// shell is not installed.
fn shell(name: &str, directory: &Path, script: &str) -> Option<Run> {
    let bin = directory.join(".bin");
    if fs::create_dir(&bin).is_ok() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_calve"), bin.join("calve")).unwrap();
    }
    let flags: &[&str] = match name {
        "bash" => &["--norc", "--noprofile"],
        "zsh" => &["-f"],
        _ => &["--no-config"],
    };
    let mut paths = vec![bin];
    paths.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut command = Command::new(name);
    command.args(flags).args(["-c", script]).current_dir(directory).stdin(Stdio::null());
    command.env("PATH", std::env::join_paths(paths).unwrap()).env_remove("CALVE_STORE");
    command.env("HOME", directory).env("SHELL", format!("/bin/{name}"));
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        output => Some(Run::from(output.unwrap())),
    }
}

/// The candidates that the shell offers for the last of `words`, one per line, from the same
/// function that it calls at a tab.
fn offered(shell_name: &str, directory: &Path, words: &[&str]) -> Option<Vec<String>> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (line, last) = (quoted.join(" "), words.len() - 1);
    let script = match shell_name {
        "bash" => format!(
            "source <(calve shell-init --completions bash); COMP_WORDS=({line}); COMP_CWORD={last}; compopt() {{ :; }}; \
             _clap_complete_calve calve \"${{COMP_WORDS[COMP_CWORD]}}\" x; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        ),
        // The candidates go to _describe as arrays of value:description.
        "zsh" => format!(
            "compdef() {{ :; }}; _describe() {{ print -rl -- \"${{(@)${{(P@)3}}%%:*}}\"; }}; \
             source <(calve shell-init --completions zsh); words=({line}); CURRENT={}; _clap_dynamic_completer_calve",
            last + 1
        ),
        _ => format!(
            "calve shell-init --completions fish | source; complete -C \"{}\"",
            words.join(" ")
        ),
    };
    let run = shell(shell_name, directory, &script)?;
    assert_eq!(run.stderr, "", "{shell_name} {words:?}: {run:?}");
    let value = |line: &str| line.split('\t').next().unwrap().trim_end_matches('/').to_owned();
    Some(run.stdout.lines().filter(|line| !line.is_empty()).map(value).collect())
}

#[test]
fn a_tab_completes_commands_flags_and_the_names_of_worktrees_and_snapshots() {
    let (_scratch, project) = with_names();
    let log = calve(&project, "log --json").json();
    let ids: Vec<&str> = log["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["names"] == json!([]))
        .map(|it| &it["snapshot"].as_str().unwrap()[..12])
        .collect();
    assert_eq!(ids, [] as [&str; 0], "the project did not change");
    fs::write(project.join("a"), "later\n").unwrap();
    let id = done(&project, "snapshot -q")[..12].to_owned();
    for name in ["bash", "zsh", "fish"] {
        for (words, expected) in [
            (&["calve", "sna"][..], &["snapshot"][..]),
            (&["calve", "store", "v"], &["verify"]),
            (&["calve", "drop", "--fo"], &["--force"]),
            (&["calve", "clone", "--existing", "m"], &["merge"]),
            (&["calve", "drop", "o"], &["one"]),
            (&["calve", "drop", "one", "t"], &["two"]),
            (&["calve", "status", "n"], &[]),
            (&["calve", "show", "r"], &["ready"]),
            (&["calve", "show", ""], &["ready", &id]),
            (&["calve", "start", "--from", ""], &["ready", &id]),
            (&["calve", "name", "--delete", ""], &["ready"]),
            (&["calve", "store", "warm", "ready", &id[..3]], &[&id]),
            (&["calve", "restore", "t"], &["two"]),
            (&["calve", "restore", "r"], &["ready"]),
            (&["calve", "restore", "ready", "t"], &["two"]),
            (&["calve", "undo", "t"], &["two"]),
            (&["calve", "-C", "../p", "diff", "o"], &["one"]),
            (&["calve", "cd", "../p.w"], &["../p.worktrees"]),
        ] {
            let Some(offered) = offered(name, &project, words) else {
                let test =
                    "a_tab_completes_commands_flags_and_the_names_of_worktrees_and_snapshots";
                crate::not_run(test, &format!("there is no {name}"));
                break;
            };
            assert_eq!(offered, expected, "{name}: {words:?}");
        }
        // Characters with a meaning for the shell are quoted. For bash, the candidates must be
        // quoted already.
        if let Some(offered) = offered(name, &project, &["calve", "path", "x"]) {
            let quoted = if name == "bash" { r"x\$\(y\)" } else { "x$(y)" };
            assert_eq!(offered, [quoted], "{name}");
        }
    }
}

#[test]
fn where_there_is_no_store_a_tab_is_silent() {
    let scratch = crate::scratch();
    for name in ["bash", "zsh", "fish"] {
        match offered(name, scratch.path(), &["calve", "drop", "x"]) {
            Some(offered) => assert_eq!(offered, [] as [&str; 0], "{name}"),
            None => crate::not_run(
                "where_there_is_no_store_a_tab_is_silent",
                &format!("there is no {name}"),
            ),
        }
    }
}

#[test]
fn the_shell_goes_where_calve_cd_says_and_all_else_is_passed_on() {
    let (scratch, project) = with_names();
    let beside = worktrees_of(&project);
    let (one, inside) = (beside.join("one"), fs::canonicalize(scratch.path()).unwrap());
    let odd = inside.join("it's a  blank").join("x$(y)");
    let show = |path: &Path| path.to_str().unwrap().to_owned() + "\n";
    for name in ["bash", "zsh", "fish"] {
        let init = match name {
            "fish" => "calve shell-init fish | source".to_owned(),
            name => format!("eval \"$(calve shell-init {name})\""),
        };
        for (script, expected, code) in [
            ("calve cd one; pwd", show(&one), 0),
            ("calve cd one; cd dir; calve cd; pwd", show(&project), 0),
            ("calve cd 'x$(y)'; pwd; cd -; pwd", show(&odd) + &show(&project), 0),
            ("calve cd ../p.worktrees/two/; pwd", show(&beside.join("two")), 0),
            // If it cannot go there, it stays.
            ("calve cd none; or_status; pwd", "1\n".to_owned() + &show(&project), 0),
            ("calve status -q one; or_status", "0\n".to_owned(), 0),
            ("calve path 'x$(y)'", show(&odd), 0),
            ("calve nonsense", String::new(), 2),
            ("calve", String::new(), 2),
        ] {
            let status = if name == "fish" { "echo $status" } else { "echo $?" };
            let mut script = format!("{init}; {}", script.replace("or_status", status));
            if script.contains("cd -") {
                // Some print the folder that they went back to, some do not.
                script = script.replace("cd -", "cd - >/dev/null");
            }
            let Some(run) = shell(name, &project, &script) else {
                let test = "the_shell_goes_where_calve_cd_says_and_all_else_is_passed_on";
                crate::not_run(test, &format!("there is no {name}"));
                break;
            };
            assert_eq!(
                (&run.stdout, run.code),
                (&expected, Some(code)),
                "{name}: {script}: {run:?}"
            );
        }
        if let Some(run) = shell(name, &project, &format!("{init}; calve cd --help")) {
            assert!(run.stdout.contains("Usage: calve cd"), "{name}: {run:?}");
        }
    }
}

#[test]
fn without_the_function_cd_says_what_to_put_where() {
    let (_scratch, project) = with_project();
    for (shell, words, part) in [
        ("/bin/bash", "cd one", "in ~/.bashrc: eval \"$(calve shell-init bash)\""),
        ("/usr/bin/zsh", "cd one", "in ~/.zshrc: eval \"$(calve shell-init zsh)\""),
        ("fish", "cd one", "config.fish: calve shell-init fish | source"),
        ("", "cd one", "'calve help shell-init'"),
        ("/bin/bash", "cd one", "cd \"$(calve path one)\""),
        ("/bin/bash", "cd", "cd \"$(calve path --project)\""),
    ] {
        let mut command = command(&project, words.split(' '));
        command.env("SHELL", shell);
        let run = run(command);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        assert!(
            run.stderr.starts_with("error: a command cannot change the folder")
                && run.stderr.contains(part),
            "{part}: {run:?}"
        );
    }
    assert_eq!(calve(&project, "cd --json").json()["error"]["kind"], "needs_shell");
}

#[test]
fn path_prints_where_a_worktree_is_and_nothing_where_it_is_not() {
    let (_scratch, project) = with_names();
    let one = worktrees_of(&project).join("one");
    for (at, words, expected) in [
        (&project, "path one", &one),
        (&project, "path", &project),
        (&one.join("dir"), "path", &one),
        (&one.join("dir"), "path --project", &project),
        (&project, "path ../p.worktrees/one", &one),
    ] {
        assert_eq!(Path::new(&done(at, words)), expected, "{words}");
    }
    let document = calve(&one, "path --json").json();
    assert_document(&document, &json!({ "name": "one", "path": one.to_str() }));
    fs::remove_dir_all(&one).unwrap();
    let gone = calve(&project, "path --json one");
    assert_eq!((gone.code, &gone.json()["error"]["kind"]), (Some(1), &json!("worktree_missing")));
    assert!(gone.stderr.contains("'calve restore one'"), "{gone:?}");
    assert_eq!(calve(&project, "path --project one").code, Some(2));
}

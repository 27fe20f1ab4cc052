//! Killed at any step of a start or a drop of linked worktrees: after the next command nothing is left that only a part of would be, neither a
//! registration, nor a branch that calve made, nor a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{
    Run, calve, calve_command, can_strace, is_root, names, not_run, program, scratch, straced,
};

/// A project with a commit, a store and a snapshot.
struct Desk {
    scratch: TempDir,
    /// What git knew of it before.
    before: String,
}

impl Desk {
    fn new() -> Option<Self> {
        if !program("git", Path::new("/"))
            .arg("version")
            .output()
            .is_ok_and(|run| run.status.success())
        {
            not_run("deaths of linked worktrees", "git is not installed");
            return None;
        }
        let mut desk = Self { scratch: scratch(), before: String::new() };
        desk.sh(
            "mkdir app && cd app && git init -q -b main && mkdir src && echo a >src/a && echo b >b && git add -A
            git -c user.name=n -c user.email=e commit -qm one",
        );
        for words in ["init -q", "snapshot -q --name one"] {
            assert_eq!(calve(&desk.app(), words).code, Some(0));
        }
        desk.before = desk.known();
        Some(desk)
    }

    fn app(&self) -> PathBuf {
        self.scratch.path().join("app")
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let output = program("bash", self.scratch.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .args(["-ec", script])
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{script}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Everything that the repository knows of worktrees and references, whether it is sound, and what could be pruned.
    fn known(&self) -> String {
        self.sh(
            "cd app; git worktree list --porcelain; git for-each-ref; git worktree prune -n -v 2>&1; git fsck --full 2>&1
            ls -A .git/worktrees 2>/dev/null || true; ls -A .git | grep -v -e '^worktrees$' -e '^logs$'",
        )
    }

    /// Looks after a start that ended somehow, and drops what it made. How many there were.
    fn clear(&self, context: &str) -> usize {
        let listed = calve(&self.app(), "list --json");
        assert_eq!(listed.code, Some(0), "{context}: {listed:?}");
        let listed = listed.json();
        let worktrees = listed["worktrees"].as_array().unwrap();
        let known: BTreeSet<&str> =
            worktrees.iter().map(|worktree| worktree["name"].as_str().unwrap()).collect();
        let folder = self.scratch.path().join("app.worktrees");
        let there = if folder.is_dir() { names(&folder) } else { Vec::new() };
        // The next to make something there sweeps stages.
        let there: BTreeSet<&str> =
            there.iter().map(String::as_str).filter(|name| !name.starts_with(".calve-")).collect();
        assert_eq!(there, known, "{context}");
        for worktree in worktrees {
            let (name, git) = (worktree["name"].as_str().unwrap(), &worktree["git"]);
            assert_eq!(worktree["state"], "ready", "{context}: {worktree}");
            assert_eq!((&git["linked"], &git["branch"]), (&true.into(), &name.into()), "{context}");
            assert_eq!((&git["changes"], &git["ahead"]), (&0.into(), &0.into()), "{context}");
            let script = format!("cat app.worktrees/{name}/src/a app.worktrees/{name}/b");
            assert_eq!(self.sh(&script), "a\nb\n", "{context}");
        }
        for name in &known {
            let run = calve(&self.app(), &format!("drop -q --delete-branch {name}"));
            assert_eq!(run.code, Some(0), "{context}: {run:?}");
        }
        assert_eq!(self.known(), self.before, "{context}");
        known.len()
    }
}

/// A `git` that kills the one who runs it, at one of its runs: before it does anything, while it does it, or when it has done it.
const DEADLY: &str = r#"#!/bin/bash
n=$(($(cat "$COUNT") + 1)); echo $n >"$COUNT"
PATH=$REAL_PATH
if [ $n -ne "$DEATH_AT" ]; then exec git "$@"; fi
case $DEATH in
before) kill -KILL $PPID ;;
while) kill -KILL $PPID; sleep 0.3; exec git "$@" ;;
after) git "$@"; kill -KILL $PPID ;;
esac
"#;

#[test]
fn a_start_that_dies_at_any_of_its_gits_leaves_whole_worktrees_or_nothing() {
    let Some(desk) = Desk::new() else { return };
    let (bin, count) = (desk.scratch.path().join("bin"), desk.scratch.path().join("count"));
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("git"), DEADLY).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let run = |words: &str, death: &str, at: usize| {
        fs::write(&count, "0").unwrap();
        let ended = calve_command(&desk.app(), &format!("start -q -j 1 {words} v w"))
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("REAL_PATH", &path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("COUNT", &count)
            .env("DEATH", death)
            .env("DEATH_AT", at.to_string())
            .output()
            .unwrap();
        (ended.status.signal(), ended)
    };
    // At the commit, git writes what is changed in the project.
    desk.sh("echo changed >app/src/a");
    let (mut left, mut dead) = (0, 0);
    for words in ["--from one", "--base HEAD"] {
        let (signal, whole) = run(words, "never", 0);
        assert!(signal.is_none() && whole.status.success(), "{whole:?}");
        assert_eq!(desk.clear("a whole run"), 2);
        let gits: usize = fs::read_to_string(&count).unwrap().trim().parse().unwrap();
        for death in ["before", "while", "after"] {
            for at in 1..=gits {
                let (signal, ended) = run(words, death, at);
                assert_eq!(signal, Some(9), "{words} {death} git {at} of {gits}: {ended:?}");
                left += desk.clear(&format!("{words} {death} git {at} of {gits}"));
                dead += 1;
            }
        }
    }
    println!("{dead} deaths: {left} worktrees stood");
}

const CHANGING: [&str; 8] =
    ["rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "utimensat"];

/// How often calve or a git that it runs makes a call, whoever of them makes it most often.
fn calls(desk: &Desk, words: &str, call: &str) -> usize {
    let run = straced(&desk.app(), &["-e", &format!("trace=?{call}")], words);
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in run.log.lines().filter(|line| line.contains(&format!(" {call}("))) {
        *counts.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

/// Kills calve, or a git that calve runs: the process that first makes so many of the traced calls.
fn killed_at(desk: &Desk, words: &str, call: &str, number: usize) -> Run {
    let inject = format!("inject=?{call}:signal=KILL:when={number}");
    straced(&desk.app(), &["-e", &format!("trace=?{call}"), "-e", &inject], words)
}

#[test]
fn a_start_that_is_killed_at_any_change_leaves_whole_worktrees_or_nothing() {
    const WORDS: &str = "start -q -j 1 --from one w";
    if !can_strace("a start of linked worktrees that is killed") {
        return;
    }
    let Some(desk) = Desk::new() else { return };
    let (mut killed, mut left) = (0, 0);
    for call in CHANGING {
        let calls = calls(&desk, WORDS, call);
        desk.clear(call);
        for number in 1..=calls {
            let run = killed_at(&desk, WORDS, call, number);
            killed += usize::from(run.code != Some(0));
            left += desk.clear(&format!("{call} {number}: {run:?}"));
        }
    }
    println!("{killed} were killed: {left} worktrees stood");
    assert!(killed > 10, "only {killed} were killed");
}

#[test]
fn a_drop_that_is_killed_at_any_change_is_brought_to_its_end_by_another() {
    if !can_strace("a drop of a linked worktree that is killed") {
        return;
    }
    let Some(desk) = Desk::new() else { return };
    let start = || {
        let start = calve(&desk.app(), "start -q --from one v w");
        assert_eq!(start.code, Some(0), "{start:?}");
    };
    let mut killed = 0;
    for call in CHANGING {
        start();
        let calls = calls(&desk, "drop -q v", call);
        desk.sh("git -C app branch -q -D v");
        assert_eq!(desk.clear(call), 1);
        for number in 1..=calls {
            start();
            let run = killed_at(&desk, "drop -q v", call, number);
            killed += usize::from(run.code != Some(0));
            let context = format!("{call} {number}: {run:?}");
            let again = calve(&desk.app(), "drop -q v");
            assert!(matches!(again.code, Some(0 | 1)), "{context}: {again:?}");
            desk.sh("git -C app branch -q -D v");
            assert_eq!(desk.clear(&context), 1, "{context}");
        }
    }
    println!("{killed} were killed");
    assert!(killed > 5, "only {killed} were killed");
}

/// Without git, and with a git that refuses the repository, worktrees get copies of it, and the command says why.
#[test]
fn a_git_that_is_missing_or_refuses_is_said_and_copies_are_made() {
    let Some(desk) = Desk::new() else { return };
    let empty = desk.scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let run = |words: &str, has_git: bool| {
        let mut command = calve_command(&desk.app(), words);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        if !has_git {
            command.env("PATH", &empty);
        }
        Run::of(command.output().unwrap(), String::new())
    };
    let look = |has_git: bool, why: &str| {
        let started = run("start w --json", has_git);
        assert_eq!(started.code, Some(0), "{started:?}");
        let document = started.json();
        let worktree = &document["worktrees"][0];
        assert_eq!((&worktree["git"], &worktree["branch"]), (&"copy".into(), &().into()));
        assert!(worktree["not_linked_because"].as_str().unwrap().contains(why), "{worktree}");
        assert!(started.stderr.contains("warning: the worktree has a copy"), "{started:?}");
        for words in ["start v --git linked", "start v --detach", "start v -b other"] {
            let refused = run(words, has_git);
            assert_eq!(refused.code, Some(1), "{refused:?}");
            assert!(refused.stderr.contains(why), "{refused:?}");
            assert!(refused.stderr.contains("--git copy"), "{refused:?}");
        }
        let dropped = run("drop w", has_git);
        assert_eq!(dropped.code, Some(0), "{dropped:?}");
    };
    look(false, "git is not installed");
    if !is_root() {
        return not_run("a repository of another user", "root alone can give files away");
    }
    desk.sh("chown -R 65534:65534 app/.git app/src app/b && chown 65534:65534 app");
    look(true, "dubious ownership");
}

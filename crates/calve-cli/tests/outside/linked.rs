//! Kills a start or a drop of linked worktrees at every step. After the next command, no half-made
//! worktree remains: no registration, no branch of calve, and no folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::{
    Random, Run, calve, calve_command, can_strace, is_root, is_shared, names, not_run, program,
    scratch, share, shared, straced,
};

/// A project with a commit, a store and a snapshot.
struct Desk {
    scratch: TempDir,
    /// The earlier state of git.
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
            "git() { command git -c protocol.file.allow=always -c user.name=n -c user.email=e \"$@\"; }
            git init -q -b main lib && cd lib && echo l >l && git add l && git commit -qm lib && cd ..
            mkdir app && cd app && git init -q -b main && mkdir src && echo a >src/a && echo b >b && git add -A
            git submodule --quiet add ../lib lib && git commit -qm one",
        );
        for words in ["init -q", "snapshot -q one"] {
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

    /// Everything that the repository records about worktrees and references, whether it is sound,
    /// and what git could prune.
    fn known(&self) -> String {
        self.sh(
            "cd app; git worktree list --porcelain; git for-each-ref; git worktree prune -n -v 2>&1; git fsck --full 2>&1
            ls -A .git/worktrees 2>/dev/null || true; ls -A .git | grep -v -e '^worktrees$' -e '^logs$'",
        )
    }

    /// Checks the result of a start that ended in any way, and drops its worktrees. Returns their
    /// number.
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
            assert_eq!((&git["uncommitted"], &git["ahead"]), (&0.into(), &0.into()), "{context}");
            let script = format!(
                "cat app.worktrees/{name}/src/a app.worktrees/{name}/b
                cd app.worktrees/{name}/lib && git status --porcelain && git rev-parse --show-toplevel"
            );
            let lib = folder.join(name).join("lib");
            assert_eq!(self.sh(&script), format!("a\nb\n{}\n", lib.display()), "{context}");
        }
        for name in &known {
            let run = calve(&self.app(), &format!("drop -q --delete-branch {name}"));
            assert_eq!(run.code, Some(0), "{context}: {run:?}");
        }
        assert_eq!(self.known(), self.before, "{context}");
        known.len()
    }
}

/// A `git` that kills its parent at one of its runs: before its work, during it, or after it. Several
/// may run at once, so each takes a number that no other one has.
const DEADLY: &str = r#"#!/bin/bash
n=1; while ! mkdir "$COUNT/$n" 2>/dev/null; do n=$((n + 1)); done
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
    let (bin, counts) = (desk.scratch.path().join("bin"), desk.scratch.path().join("counts"));
    fs::create_dir(&counts).unwrap();
    fs::create_dir(&bin).unwrap();
    fs::write(bin.join("git"), DEADLY).unwrap();
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let run = |words: &str, death: &str, at: usize| {
        // A git that outlives its run counts on there.
        let count = counts.join(names(&counts).len().to_string());
        fs::create_dir(&count).unwrap();
        let ended = calve_command(&desk.app(), &format!("start -q -j 1 {words} v w"))
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("REAL_PATH", &path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("COUNT", &count)
            .env("DEATH", death)
            .env("DEATH_AT", at.to_string())
            .output()
            .unwrap();
        (ended.status.signal(), names(&count).len(), ended)
    };
    // With --base, git writes the committed content of this file into the worktree.
    desk.sh("echo changed >app/src/a");
    let (mut left, mut dead, mut faults) = (0, 0, 1..);
    for words in ["--from one", "--base HEAD"] {
        let (signal, gits, whole) = run(words, "never", 0);
        assert!(signal.is_none() && whole.status.success(), "{whole:?}");
        assert_eq!(desk.clear("a whole run"), 2);
        for death in ["before", "while", "after"] {
            for at in (1..=gits).filter(|_| faults.next().is_some_and(is_shared)) {
                let (signal, ran, ended) = run(words, death, at);
                // A git that met another one's lock ran once more in the whole run.
                let is_dead = signal == Some(9) || ran < at && ended.status.success();
                assert!(is_dead, "{words} {death} git {at} of {gits}: {ran}, {ended:?}");
                left += desk.clear(&format!("{words} {death} git {at} of {gits}"));
                dead += 1;
            }
        }
    }
    println!("{dead} deaths: {left} worktrees stood");
}

const CHANGING: [&str; 8] =
    ["rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "utimensat"];

/// The number of times that calve, or one of its git processes, makes a call: the highest count of
/// any of them.
fn calls(desk: &Desk, words: &str, call: &str) -> usize {
    let run = straced(&desk.app(), &["-e", &format!("trace=?{call}")], words);
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for line in run.log.lines().filter(|line| line.contains(&format!(" {call}("))) {
        *counts.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

/// Kills calve, or a git that calve runs: the first process that makes this many of the traced
/// calls.
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
    let (mut killed, mut left, mut faults) = (0, 0, 1..);
    for call in CHANGING {
        let calls = calls(&desk, WORDS, call);
        desk.clear(call);
        for number in (1..=calls).filter(|_| faults.next().is_some_and(is_shared)) {
            let run = killed_at(&desk, WORDS, call, number);
            killed += usize::from(run.code != Some(0));
            left += desk.clear(&format!("{call} {number}: {run:?}"));
        }
    }
    println!("{killed} were killed: {left} worktrees stood");
    assert!(killed >= shared(10), "only {killed} were killed");
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
    let (mut killed, mut faults) = (0, 1..);
    for call in CHANGING {
        start();
        let calls = calls(&desk, "drop -q v", call);
        desk.sh("git -C app branch -q -D v");
        assert_eq!(desk.clear(call), 1);
        for number in (1..=calls).filter(|_| faults.next().is_some_and(is_shared)) {
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
    assert!(killed >= shared(5), "only {killed} were killed");
}

/// After a kill at any step of a forced drop, or of its undo, the work is in the worktree or kept,
/// and git knows the worktree fully or not at all.
#[test]
fn work_outlives_a_forced_drop_and_its_taking_back_that_are_killed_at_any_change() {
    const DROP: &str = "drop -q --force w";
    const BACK: &str = "undo -q w";
    if !can_strace("a drop by force that is killed") {
        return;
    }
    let Some(desk) = Desk::new() else { return };
    let app = desk.app();
    let start = || {
        assert_eq!(calve(&app, "start -q --from one w").code, Some(0));
        desk.sh("cd app.worktrees/w && echo staged >b && git add b && echo work >b");
    };
    let look = |context: &str| {
        let listed = calve(&app, "list --json").json()["worktrees"].as_array().unwrap().len();
        let kept = calve(&app, "list --dropped --json").json()["dropped"].as_array().unwrap().len();
        assert_eq!(listed + kept, 1, "{context}: {listed} and {kept}");
        // git would delete it with the commits that only it holds.
        let porcelain = desk.sh("git -C app worktree list --porcelain");
        assert!(!porcelain.contains("prunable"), "{context}: {porcelain}");
        if kept == 1 {
            let back = calve(&app, BACK);
            assert_eq!(back.code, Some(0), "{context}: {back:?}");
        }
        let told = desk.sh("cd app.worktrees/w && git status --porcelain && git show :b && cat b");
        assert_eq!(told, "MM b\nstaged\nwork\n", "{context}");
    };
    let discard = || {
        assert_eq!(calve(&app, "drop -q --force --discard w").code, Some(0));
        // The reference that keeps what was staged would stay for seven days.
        desk.sh(
            "cd app && git for-each-ref --format='delete %(refname)' refs/calve/dropped | git update-ref --stdin &&
            git branch -q -D w && git prune --expire=now",
        );
        assert_eq!(desk.known(), desk.before);
    };
    let (mut killed, mut faults) = (0, 1..);
    for call in CHANGING {
        start();
        let there = calls(&desk, DROP, call);
        let back = calls(&desk, BACK, call);
        look(call);
        for (words, calls) in [(DROP, there), (BACK, back)] {
            for number in (1..=calls).filter(|_| faults.next().is_some_and(is_shared)) {
                if words == BACK {
                    let dropped = calve(&app, DROP);
                    assert_eq!(dropped.code, Some(0), "{call} {number}: {dropped:?}");
                }
                let run = killed_at(&desk, words, call, number);
                killed += usize::from(run.code != Some(0));
                look(&format!("{words}: {call} {number}: {run:?}"));
            }
        }
        discard();
    }
    println!("{killed} were killed");
    assert!(killed >= shared(10), "only {killed} were killed");
}

/// git lists the stage in the tree, and no snapshot has it.
#[test]
fn what_a_killed_restore_leaves_is_no_work_that_a_drop_would_lose() {
    const RESTORE: &str = "restore -q w";
    if !can_strace("a restore that is killed") {
        return;
    }
    let Some(desk) = Desk::new() else { return };
    let app = desk.app();
    let mut left = 0;
    for number in 1.. {
        assert_eq!(calve(&app, "start -q w").code, Some(0));
        desk.sh("cd app.worktrees/w && echo work >b");
        let run = killed_at(&desk, RESTORE, "mkdirat", number);
        if run.code.is_some() {
            break;
        }
        let root = desk.scratch.path().join("app.worktrees/w");
        left += usize::from(names(&root).iter().any(|name| name.starts_with(".calve-stage-")));
        desk.sh("cd app.worktrees/w && git checkout -q .");
        let dropped = calve(&app, "drop -q --delete-branch w");
        assert_eq!(dropped.code, Some(0), "{number}: {dropped:?}");
    }
    assert!(left > 0, "no kill left a stage");
}

/// Mixes random work with git in worktrees with commands of calve that are killed at random
/// moments. A reference or a `HEAD` holds every commit that its maker did not give up. Work that is
/// not committed is in its worktree or kept. git knows no worktree that does not exist.
/// `CALVE_ROUNDS` sets the number of rounds.
#[test]
fn no_commit_is_lost_and_no_registration_left_by_random_work_with_kills_between() {
    const NAMES: [&str; 3] = ["u", "v", "w"];
    let Some(desk) = Desk::new() else { return };
    let rounds = std::env::var("CALVE_ROUNDS").map_or(shared(40), |number| number.parse().unwrap());
    let app = desk.app();
    desk.sh(
        "for at in app app/lib; do (cd $at; git config user.name n; git config user.email e; git config gc.auto 0); done",
    );
    let mut random = Random(0x0ca1_7e5e_ed00_10ff + share().0 as u64);
    // For each worktree the work that is in no commit yet, and the commits that must exist.
    let mut work: BTreeMap<&str, String> = BTreeMap::new();
    let mut commits: BTreeSet<String> = BTreeSet::new();
    let mut of_submodule: BTreeSet<String> = BTreeSet::new();
    let (mut done, mut killed, mut refused) = (BTreeMap::<String, usize>::new(), 0, 0);
    for round in 0..rounds {
        let name = NAMES[random.one_of(NAMES.len())];
        let root = desk.scratch.path().join("app.worktrees").join(name);
        let is_there = root.join("b").try_exists().unwrap();
        let action = if is_there { random.one_of(15) } else { 15 + random.one_of(3) };
        let context = format!("round {round}, {name}, action {action}");
        let in_tree = |script: &str| desk.sh(&format!("cd app.worktrees/{name} && {script}"));
        let words = match action {
            0..=1 => {
                let text = format!("text of {round}");
                fs::write(root.join("mine"), &text).unwrap();
                work.insert(name, text);
                None
            }
            2..=3 => {
                in_tree(&format!("git add -A && git commit -q --allow-empty -m {round}"));
                work.remove(name);
                None
            }
            4 => {
                if work.remove(name).is_some() {
                    in_tree("git stash -q -u");
                    commits.insert(desk.sh("git -C app rev-parse refs/stash").trim().to_owned());
                }
                None
            }
            5 => {
                in_tree(&format!("git switch -q -c branch-{round}"));
                None
            }
            6 => {
                in_tree("git switch -q --detach");
                None
            }
            7 => {
                // A rewrite gives the old commits up.
                if in_tree("git status --porcelain").is_empty() {
                    let old = in_tree("git rev-list main..HEAD");
                    let is_mine = in_tree("git for-each-ref --contains HEAD --count 2 refs/heads")
                        .lines()
                        .count()
                        < 2;
                    if is_mine
                        && in_tree("git rebase -q main && echo done || git rebase --abort")
                            .contains("done")
                    {
                        commits.retain(|commit| old.lines().all(|old| old != commit));
                    }
                }
                None
            }
            8 => {
                desk.sh("cd app && git -c gc.pruneExpire=2.weeks.ago gc -q && git worktree prune");
                None
            }
            9 => {
                let head = in_tree("git rev-parse HEAD").trim().to_owned();
                desk.sh(&format!("cd app && git merge -q -m merge {head} || git merge --abort"));
                None
            }
            10 => Some(format!("drop -q {name}")),
            11 => Some(format!("drop -q --force {name}")),
            12 => {
                in_tree(&format!(
                    "cd lib && git switch -q -c sub-{round} && echo {round} >>l && git commit -qam {round}"
                ));
                of_submodule.insert(in_tree("git -C lib rev-parse HEAD").trim().to_owned());
                None
            }
            13 => {
                in_tree(
                    "git submodule -q update --force 2>/dev/null || git submodule -q status >/dev/null",
                );
                None
            }
            14 => {
                // Like a stash: only one worktree's repository holds it.
                in_tree(&format!("cd lib && echo {round} >>l && git stash -q"));
                of_submodule.insert(in_tree("git -C lib rev-parse refs/stash").trim().to_owned());
                None
            }
            15 => Some(format!("start -q --detach {name}")),
            16 => Some(format!("start -q -b again-{round} {name}")),
            _ => Some(format!("undo -q {name}")),
        };
        // All that is anywhere now must stay.
        let heads = "git worktree list --porcelain | sed -n 's/^HEAD //p'";
        let held = || {
            let held = desk.sh(&format!(
                "cd app && git rev-list --glob='refs/*' $({heads}) $(git stash list --format=%H)"
            ));
            held.lines().map(str::to_owned).collect::<BTreeSet<String>>()
        };
        if action != 7 {
            commits.extend(held());
        }
        if let Some(words) = &words {
            *done.entry(words.split(' ').take(3).collect::<Vec<_>>().join(" ")).or_default() += 1;
            let mut child = calve_command(&app, words)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if random.below(2) == 0 {
                thread::sleep(Duration::from_micros(random.below(80_000)));
                let _ = child.kill();
                killed += 1;
            }
            refused += usize::from(child.wait().unwrap().code() == Some(1));
        }
        let listed = calve(&app, "list --json");
        assert_eq!(listed.code, Some(0), "{context}: {listed:?}");
        let listed = listed.json();
        let known: BTreeSet<String> = listed["worktrees"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["state"] == "ready" && row["git"]["linked"] == true)
            .map(|row| row["path"].as_str().unwrap().to_owned())
            .collect();
        let porcelain = desk.sh("cd app && git worktree list --porcelain");
        assert!(
            !porcelain.contains("prunable") && !porcelain.contains("locked"),
            "{context}: {porcelain}"
        );
        let registered: BTreeSet<String> = porcelain
            .lines()
            .filter_map(|line| line.strip_prefix("worktree "))
            .skip(1)
            .map(str::to_owned)
            .collect();
        assert_eq!(registered, known, "{context}");
        let held = held();
        let lost: Vec<&String> = commits.difference(&held).collect();
        assert!(lost.is_empty(), "{context}: {lost:?}");
        let held = desk.sh(
            "for at in app/.git/modules/lib app/.git/worktrees/*/modules/lib app/.git/calve/dropped/*.git/modules/lib; do
                if [ -e $at/HEAD ]; then
                    export GIT_DIR=$at GIT_WORK_TREE=$at; git rev-list --all HEAD $(git stash list --format=%H)
                fi
            done",
        );
        let held: BTreeSet<&str> = held.lines().collect();
        let lost = of_submodule.iter().find(|commit| !held.contains(commit.as_str()));
        assert_eq!(lost, None, "{context}: a commit of a submodule");
        let kept = calve(&app, "list --dropped --json").json();
        let kept = kept["dropped"].as_array().unwrap();
        for (name, text) in &work {
            let there = desk.scratch.path().join("app.worktrees").join(name).join("mine");
            if fs::read_to_string(there).is_ok_and(|found| found == *text) {
                continue;
            }
            let is_kept = kept.iter().any(|row| row["name"] == *name);
            assert!(is_kept, "{context}: the work in {name} is lost");
        }
        // The files of a new worktree with this name are not the work of the kept worktree.
        let folder = desk.scratch.path().join("app.worktrees");
        work.retain(|name, _| folder.join(name).try_exists().unwrap());
    }
    desk.sh("cd app && git fsck --full --no-dangling");
    println!(
        "{rounds} rounds: {} commits, {killed} killed, {refused} refused, {done:?}",
        commits.len()
    );
}

/// Without git, and with a git that refuses the repository, worktrees get copies of it, and the
/// command says why.
#[test]
fn a_git_that_is_missing_or_refuses_is_said_and_copies_are_made() {
    let Some(desk) = Desk::new() else { return };
    // Without git, calve cannot know the work in a submodule that a drop would lose.
    desk.sh("rm -r app/lib app/.git/modules");
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
        // The copy may have commits that the project does not have.
        let refused = run("drop w", has_git);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("git cannot say what would be lost"), "{refused:?}");
        let dropped = run("drop --force w", has_git);
        assert_eq!(dropped.code, Some(0), "{dropped:?}");
        run("store gc", true);
    };
    look(false, "git is not installed");
    if !is_root() {
        return not_run("a repository of another user", "root alone can give files away");
    }
    desk.sh("chown -R 65534:65534 app/.git app/src app/b && chown 65534:65534 app && chown -R 0:0 app/.git/calve");
    look(true, "dubious ownership");
}

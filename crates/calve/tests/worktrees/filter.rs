//! Promise: a drop of many takes only worktrees with which nothing is lost, says of each other one
//! why it stays, and knows what is merged, also by a squash or a rebase.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use calve::{
    DropFilter, DropOptions, FilteredWorktrees, GitMode, StartOptions, StayReason, Store, Worktree,
};

use crate::common::git::{Dice, git, rounds, script, tick};
use crate::common::snapshot::{Snapshot, assert_same};
use crate::common::{is_there, sh};
use crate::stores::{Desk, options, put, tree};

const PROJECT: &str = "
    git init -q -b main
    mkdir -p src target
    echo one >src/a; echo two >src/b; echo /target >.gitignore; echo built >target/out
    git add -A; git commit -qm one; tick";
const COMMIT: &str = "echo $RANDOM >>c; git add c; git commit -qm c";

fn project() -> Desk {
    Desk::new(|root| {
        fs::create_dir(root).unwrap();
        script(root, PROJECT);
    })
}

fn filtered(store: &Store, filter: &DropFilter) -> FilteredWorktrees {
    store.filter_worktrees(&store.worktrees().unwrap(), filter, &options()).unwrap()
}

/// Why the only worktree stays, and what is said of it. `None`: it does not stay.
fn reason(store: &Store, filter: &DropFilter) -> Option<(StayReason, String)> {
    let found = filtered(store, filter);
    assert_eq!(found.chosen.len() + found.staying.len(), 1);
    found.staying.first().map(|it| (it.reason, format!("{:?}", it.error)))
}

#[test]
fn what_is_merged_goes_in_whichever_way_it_was_merged() {
    const SQUASH: &str = "git merge -q --squash w >/dev/null; git commit -qm squashed";
    let nothing = Some(StayReason::NothingCommitted);
    let (not, refused) = (Some(StayReason::NotMerged), Some(StayReason::Refused));
    let after = |first: &str| format!("{first}; echo later >c; git add c; git commit -qm later");
    let rows: &[MergedRow<'_>] = &[
        ("", "", nothing, None),
        ("git switch -q --detach", "", nothing, None),
        ("", "echo x >src/a; git commit -qam x", nothing, None),
        // A branch that somebody made and left where it was made.
        ("git switch -q -c mine", "", nothing, None),
        // HEAD only went to another commit.
        (
            "P=$(git rev-parse --path-format=absolute --git-common-dir)
            git -C \"$P/..\" commit -q --allow-empty -m x; git merge -q --ff-only main",
            "",
            nothing,
            None,
        ),
        ("COMMIT", "", not, None),
        ("COMMIT", "git merge -q --ff-only w", None, None),
        ("COMMIT", "echo x >src/a; git commit -qam x; git merge -q --no-edit w", None, None),
        ("COMMIT", SQUASH, None, None),
        ("COMMIT; COMMIT", SQUASH, None, None),
        ("COMMIT; COMMIT", &format!("echo x >src/b; git commit -qam b; {SQUASH}"), None, None),
        // The same lines changed again since, so that a merge would be a conflict.
        ("COMMIT; COMMIT", &after(SQUASH), None, None),
        ("COMMIT; git revert --no-edit HEAD >/dev/null", &after("true"), not, None),
        ("COMMIT", "echo x >src/b; git commit -qam b; git cherry-pick w >/dev/null", None, None),
        (
            "COMMIT",
            "echo x >src/b; git commit -qam b; git -C \"$AT\" rebase -q main; git merge -q w",
            None,
            None,
        ),
        ("COMMIT; COMMIT", "git cherry-pick w~1 >/dev/null", not, None),
        // The remote has it, and the project was not brought up to date.
        (
            "COMMIT",
            "git clone -q . ../there; git -C ../there merge -q --ff-only origin/w
            git remote add origin ../there; git fetch -q origin; git remote set-head origin main",
            None,
            None,
        ),
        ("git switch -q -c mine; COMMIT", "git merge -q mine", None, None),
        // A branch that was there before may be merged although nothing was committed here.
        ("git branch -q -m was", "git merge -q was", nothing, None),
        ("COMMIT; git switch -q --detach; git branch -qD w", "", not, refused),
        ("COMMIT; echo work >>src/a", "git merge -q w", refused, refused),
        ("COMMIT; echo work >new", "git merge -q w", refused, refused),
        ("COMMIT; echo work >>src/a; git add -A", "git merge -q w", refused, refused),
        ("COMMIT; echo work >>src/a; git stash -q", "git merge -q w", None, None),
        ("COMMIT; echo x >target/out", "git merge -q w", None, None),
        ("COMMIT", "git merge -q w; git worktree lock --reason away \"$AT\"", refused, refused),
        (
            "COMMIT",
            "git merge -q w; rm -r \"$AT\"",
            Some(StayReason::Missing),
            Some(StayReason::Missing),
        ),
        (
            "COMMIT; git init -q target/own; echo x >target/own/x",
            "git merge -q w",
            refused,
            refused,
        ),
    ];
    assert_stays(rows);
}

/// The bugs: a rebase that stopped at once, or another commit for a while, left `HEAD` at main. A merge
/// driver kept one side, and `git cherry` compares changes without white space.
#[test]
fn what_only_looks_merged_stays() {
    let not = Some(StayReason::NotMerged);
    assert_stays(&[
        // During a bisection another commit is checked out. Whether the branch is merged does not
        // depend on it.
        (
            "COMMIT; git bisect start -q HEAD HEAD~1",
            "git merge -q w",
            Some(StayReason::UnderWay),
            None,
        ),
        (
            "COMMIT; P=$(git rev-parse --path-format=absolute --git-common-dir)
            git -C \"$P/..\" commit -q --allow-empty -m x
            GIT_SEQUENCE_EDITOR='sed -i 1ibreak' git rebase -q -i main 2>/dev/null",
            "",
            Some(StayReason::UnderWay),
            None,
        ),
        ("COMMIT; git switch -q --detach main", "", not, None),
        ("COMMIT; git switch -q -c other main; COMMIT", "git merge -q other", not, None),
        (
            "COMMIT; git switch -q --detach main",
            "git merge -q w",
            Some(StayReason::NothingCommitted),
            None,
        ),
        // A merge driver that keeps one side, and changes that differ in white space alone.
        (
            "echo w >src/a; git commit -qam a",
            "git config merge.ours.driver true; echo 'src/a merge=ours' >.git/info/attributes
            echo x >src/a; git commit -qam x",
            not,
            None,
        ),
        (
            ": >src/a; git commit -qam a",
            "echo 'src/a merge=union' >.git/info/attributes; echo x >src/a; git commit -qam x",
            not,
            None,
        ),
        (
            "echo '    a' >src/a; git commit -qam a",
            "echo ' a' >src/a; git commit -qam a",
            not,
            None,
        ),
    ]);
}

/// A script for the worktree and one for the project; why `--merged` keeps the worktree, and why
/// `--clean` does.
type MergedRow<'a> = (&'a str, &'a str, Option<StayReason>, Option<StayReason>);

fn assert_stays(rows: &[MergedRow<'_>]) {
    for &(there, here, merged, clean) in rows {
        let what = format!("{there:?}, then {here:?}");
        let desk = project();
        let root = desk.worktree("w").path().to_owned();
        script(&root, &there.replace("COMMIT", COMMIT));
        script(&desk.project, &format!("AT='{}'; {here}", root.display()));
        for (filter, expected) in
            [(DropFilter::new().merged(true), merged), (DropFilter::new(), clean)]
        {
            let found = reason(&desk.store, &filter);
            assert_eq!(found.as_ref().map(|it| it.0), expected, "{what}: {filter:?}: {found:?}");
            // Nothing of which a drop is refused is ever chosen.
            let worktree = desk.store.worktree("w").unwrap();
            let is_there = is_there(worktree.path());
            let loses = is_there && worktree.must_lose_nothing(&options()).is_err();
            assert!(found.is_some() || !loses, "{what}");
        }
    }
}

#[test]
fn a_branch_that_was_there_before_the_worktree_may_be_merged_meanwhile() {
    let desk = project();
    script(&desk.project, &format!("git switch -q -c topic; {COMMIT}; git switch -q main"));
    let how =
        StartOptions::new().branch(calve::StartBranch::Named("topic".to_owned())).base("topic");
    drop(desk.store.start(&["w"], &how, &options()).unwrap());
    let filter = DropFilter::new().merged(true);
    assert_eq!(reason(&desk.store, &filter).unwrap().0, StayReason::NotMerged);
    script(&desk.project, "git merge -q topic");
    let found = filtered(&desk.store, &filter);
    assert_eq!(found.chosen[0].merged_into.as_deref(), Some("main"));
}

#[test]
fn without_a_repository_of_the_project_nothing_is_merged_and_changes_count() {
    for how in [StartOptions::new().git(GitMode::Copy), StartOptions::new().git(GitMode::None)] {
        let desk = project();
        drop(desk.store.start(&["w"], &how, &options()).unwrap());
        let merged = reason(&desk.store, &DropFilter::new().merged(true));
        assert_eq!(merged.unwrap().0, StayReason::NoRepository, "{how:?}");
        assert_eq!(reason(&desk.store, &DropFilter::new()), None, "{how:?}");
        put(&desk.folder().join("w"), "new", "work");
        let clean = reason(&desk.store, &DropFilter::new());
        assert_eq!(clean.unwrap().0, StayReason::Refused, "{how:?}");
    }
}

/// A sleeping process, ended when the test is.
struct Sleeper(Child);

impl Sleeper {
    fn in_folder(folder: &Path) -> Self {
        let sleep =
            Command::new("sleep").arg("600").current_dir(folder).stdin(Stdio::null()).spawn();
        Self(sleep.unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child of this process does not count: so the sleeper's parent is a shell that ends.
fn orphan_in(folder: &Path) -> u32 {
    let command = "sleep 600 >/dev/null 2>&1 & echo $!";
    sh(Command::new("sh").current_dir(folder).args(["-c", command])).trim().parse().unwrap()
}

#[test]
fn a_living_process_or_the_caller_keeps_a_worktree() {
    let desk = project();
    let root = desk.worktree("w").path().to_owned();
    // What this process started itself does not count for a drop by it.
    let own = Sleeper::in_folder(&root);
    assert_eq!(reason(&desk.store, &DropFilter::new()), None);
    drop(own);
    let pid = orphan_in(&root.join("src"));
    let found = reason(&desk.store, &DropFilter::new());
    sh(Command::new("kill").arg(pid.to_string()));
    let (reason_is, error) = found.unwrap();
    assert_eq!(reason_is, StayReason::Refused);
    assert!(error.contains(&format!("{pid} sleep")), "{error}");
    let filter = DropFilter::new().not_around(root.join("src"));
    assert_eq!(reason(&desk.store, &filter).unwrap().0, StayReason::Current);
    let beside = DropFilter::new().not_around(&desk.project);
    while reason(&desk.store, &beside).is_some() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whatever happens in it or to it is the last change, but for what housekeeping does.
#[test]
fn the_last_change_of_a_worktree_is_what_somebody_did_in_it() {
    let rows = [
        ("", None),
        ("echo x >>src/a", Some("src/a")),
        ("echo x >src/new", Some("src/new")),
        ("chmod +x src/a", Some("src/a")),
        ("rm src/a", Some("src")),
        ("rm -r src", Some(".")),
        ("echo x >target/out", Some("target/out")),
        ("touch -d 2001-01-01 src/a", Some("src/a")),
        (COMMIT, Some(".git")),
        ("git switch -q -c other", Some(".git")),
        (
            "cat src/a >/dev/null; export GIT_OPTIONAL_LOCKS=0; git status >/dev/null; git diff",
            None,
        ),
        ("git -C \"$PROJECT\" gc -q --prune=now; git -C \"$PROJECT\" reflog expire --all", None),
        ("git -C \"$PROJECT\" commit -q --allow-empty -m other", None),
    ];
    for (work, expected) in rows {
        let desk = project();
        let worktree = desk.worktree("w");
        let last = |worktree: &Worktree| worktree.last_change(&options()).unwrap();
        // git writes the index once when it has looked at files that are as old as the index.
        script(worktree.path(), "tick; git status >/dev/null");
        let first = last(&worktree);
        tick();
        script(worktree.path(), &format!("PROJECT='{}'; {work}", desk.project.display()));
        let found = last(&worktree);
        match expected {
            None => assert_eq!(found, first, "{work}"),
            Some(expected) => {
                assert!(found.time > first.time, "{work}: {found:?}");
                let path = found.path.unwrap();
                let is_it =
                    path == Path::new(expected) || path.starts_with(".git") && expected == ".git";
                assert!(is_it, "{work}: {path:?}");
            }
        }
        for (time, stays) in [(Duration::ZERO, false), (Duration::from_secs(86_400), true)] {
            let stay = filtered(&desk.store, &DropFilter::new().idle(time)).staying;
            let is_idle = stay.first().is_none_or(|it| it.reason != StayReason::NotIdle);
            assert_eq!(is_idle, !stays, "{work}: {stay:?}");
        }
    }
}

/// What a round did to a worktree that a drop could lose, read without calve: the files that are
/// neither ignored nor as in `HEAD`, and the commits that it has beyond its first one.
#[derive(Debug, Default)]
struct Work {
    files: BTreeMap<PathBuf, Vec<u8>>,
    commits: BTreeSet<String>,
    tree: Snapshot,
}

impl Work {
    fn of(root: &Path) -> Self {
        let ask = |args: &[&str]| sh(git(root).args(args));
        let listed = ask(&["ls-files", "-z", "--modified", "--others", "--exclude-standard"])
            + &ask(&["diff", "--cached", "--name-only", "-z"]);
        let paths = listed.split('\0').filter(|path| !path.is_empty());
        let files = paths
            .map(|path| (PathBuf::from(path), fs::read(root.join(path)).unwrap_or_default()))
            .collect();
        let commits = ask(&["rev-list", "HEAD"]).lines().map(str::to_owned).collect();
        Self { files, commits, tree: tree(root) }
    }
}

/// Worktrees in random states, of which random filters drop some: whatever was work is somewhere
/// afterwards, and what stays is as it was.
#[test]
fn no_filter_loses_anything_whatever_state_the_worktrees_are_in() {
    const STEPS: [&str; 16] = [
        "COMMIT",
        "COMMIT",
        "echo $RANDOM >src/a",
        "echo $RANDOM >new$RANDOM",
        "rm -f src/b",
        "git add -A",
        "git stash -q",
        "git switch -q --detach",
        "git switch -q -c other$RANDOM",
        "git commit -q --amend -m amended --allow-empty",
        "git reset -q --soft HEAD~1",
        "git rebase -q main",
        "echo $RANDOM >target/out; mkdir -p target/debug; echo x >target/debug/o",
        "git -C \"$PROJECT\" merge -q --no-edit \"$(git rev-parse HEAD)\"",
        "git -C \"$PROJECT\" merge -q --squash \"$(git rev-parse HEAD)\"; git -C \"$PROJECT\" commit -qm squash",
        "git worktree lock \"$PWD\"",
    ];
    for seed in rounds(6) {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let desk = project();
        let names: Vec<String> = (0..5).map(|at| format!("w{at}")).collect();
        let given: Vec<&str> = names.iter().map(String::as_str).collect();
        desk.start(&given);
        let mut did = Vec::new();
        for _ in 0..14 {
            let root = desk.folder().join(&names[dice.roll(names.len())]);
            let step = STEPS[dice.roll(STEPS.len())].replace("COMMIT", COMMIT);
            // A step that git refuses is a state as good as any.
            script(
                &root,
                &format!(
                    "PROJECT='{}'; {{ {step}; }} >/dev/null 2>&1 || true",
                    desk.project.display()
                ),
            );
            script(&desk.project, "git merge --abort 2>/dev/null || git reset -q --hard");
            did.push((root, step));
        }
        let before: BTreeMap<&str, Work> =
            given.iter().map(|name| (*name, Work::of(&desk.folder().join(name)))).collect();
        let stashes = sh(git(&desk.project).args(["stash", "list"]));
        let filter = match dice.roll(3) {
            0 => DropFilter::new(),
            1 => DropFilter::new().merged(true),
            _ => DropFilter::new().idle(Duration::ZERO),
        };
        let how = DropOptions::new().delete_branch(dice.roll(2) == 0);
        let mut gone = BTreeSet::new();
        for chosen in filtered(&desk.store, &filter).chosen {
            let name = chosen.checked.worktree().name().to_owned();
            // A branch that is not merged is a reason to stay.
            if let Ok(dropped) = chosen.checked.drop(&how, &options()) {
                dropped.delete().unwrap();
                gone.insert(name);
            }
        }
        let what = format!("seed {seed}: {did:#?}\n{filter:?}, {how:?}: gone {gone:?}");
        let held = sh(git(&desk.project).args(["rev-list", "--all"]));
        let held: BTreeSet<&str> = held.lines().collect();
        for (name, work) in &before {
            let root = desk.folder().join(name);
            if gone.contains(*name) {
                assert!(!is_there(&root), "{what}");
                assert_eq!(work.files, BTreeMap::new(), "{name} had work, {what}");
                let lost: Vec<_> =
                    work.commits.iter().filter(|it| !held.contains(it.as_str())).collect();
                assert!(lost.is_empty(), "{name} had {lost:?}, {what}");
            } else {
                assert_same(&work.tree, &tree(&root), &format!("{name}, {what}"));
            }
        }
        assert_eq!(sh(git(&desk.project).args(["stash", "list"])), stashes, "{what}");
        script(&desk.project, "git fsck --full --no-dangling >/dev/null 2>&1");
    }
}

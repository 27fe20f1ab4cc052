//! In a worktree, `start` forks that worktree; and the settings of git that a start follows.

use std::fs;
use std::path::Path;

use crate::hints::{in_git, repository, sh};
use crate::not_run;

/// Work of each kind: staged, half staged, modified, deleted, only meant to be added, untracked,
/// ignored, and a commit that the project does not have.
const WORK: &str = "echo committed >own; git add own; git commit -qm own; echo staged >staged; git add staged; \
    echo half >half; git add half; echo more >>half; echo changed >f; rm d/g; echo later >later; git add -N later; \
    echo loose >loose; echo built >out/built; mkdir sub; ln -s ../f sub/link";

/// What git says of a tree, and what is in it.
fn state(tree: &Path) -> [String; 4] {
    let said = |script: &str| sh(tree, script).unwrap();
    [
        said("git status --porcelain=v2 --ignored -uall"),
        said("git rev-parse HEAD; git ls-files -s; git diff; git diff --cached"),
        said("find . -name .git -prune -o -print | sort"),
        said("find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 md5sum"),
    ]
}

#[test]
fn a_start_in_a_worktree_forks_it_with_all_of_its_work() {
    let test = "a_start_in_a_worktree_forks_it_with_all_of_its_work";
    for mode in ["linked", "copy"] {
        let Some((_scratch, root)) = repository() else {
            return not_run(test, "there is no git");
        };
        let (app, beside) = (root.join("app"), root.join("app.worktrees"));
        let start = |folder: &Path, words: &str| {
            let run = in_git(folder, words);
            assert_eq!(run.code, Some(0), "{mode} {words}: {run:?}");
            run
        };
        start(&app, &format!("start --git {mode} w"));
        let work = beside.join("w");
        sh(&work, WORK).unwrap();
        // The project goes on meanwhile.
        sh(&app, "echo other >f; git commit -qam 2; echo only >in-project").unwrap();
        let before = state(&work);

        let run = start(&work.join("d"), "start one two");
        assert!(run.stderr.contains("forked w, with its uncommitted work"), "{run:?}");
        start(&app, "start --from w three");
        start(&app, "start --from ../app.worktrees/w four");
        for name in ["one", "two", "three", "four"] {
            let fork = beside.join(name);
            assert_eq!(state(&fork), before, "{mode} {name}");
            let branch = sh(&fork, "git branch --show-current").unwrap();
            let expected = if mode == "linked" { name } else { "main" };
            assert_eq!(branch.trim(), expected, "{mode}");
            let status = in_git(&app, &format!("status {name}"));
            assert_eq!((status.code, status.stdout.as_str()), (Some(0), ""), "{status:?}");
        }
        assert_eq!(state(&work), before, "{mode}: the original is as it was");
        // Nobody asked to record it.
        assert_eq!(in_git(&app, "status w").code, Some(3));

        // A fork is a tree of its own, also for the next fork.
        fs::write(beside.join("one/f"), "of one\n").unwrap();
        start(&beside.join("one"), "start of-one");
        assert_eq!(fs::read(beside.join("of-one/f")).unwrap(), b"of one\n");
        assert_eq!(state(&work), before);

        // The project, and a branch that exists, are no forks.
        start(&work, "start --from project p");
        assert!(
            beside.join("p/in-project").is_file() && !beside.join("p/loose").try_exists().unwrap()
        );
        sh(&app, "git branch there").unwrap();
        let run = start(&work, "start there");
        assert!(!run.stderr.contains("forked"), "{run:?}");
        assert!(!beside.join("there/own").try_exists().unwrap());

        // What only the original has not committed is work, also after its forks are gone.
        let dropped = in_git(&app, "drop -q --force three four");
        assert_eq!(dropped.code, Some(0), "{dropped:?}");
        let refused = in_git(&app, "drop w");
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert_eq!(state(&work), before);
    }
}

#[test]
fn what_cannot_be_forked_is_refused_with_a_way_out() {
    let Some((_scratch, root)) = repository() else {
        return not_run("what_cannot_be_forked_is_refused_with_a_way_out", "there is no git");
    };
    let (app, beside) = (root.join("app"), root.join("app.worktrees"));
    for words in ["start w", "start gone", "snapshot w", "start --git copy c"] {
        assert_eq!(in_git(&app, words).code, Some(0), "{words}");
    }
    fs::remove_dir_all(beside.join("gone")).unwrap();
    for (folder, words, part) in [
        ("app", "start --from gone x", "'calve restore gone'"),
        ("app", "start --from nw x", "did you mean 'w'?"),
        ("app.worktrees/w", "start --git copy x", "'calve start --from project x'"),
        ("app.worktrees/c", "start --git linked x", "'calve start --from project x'"),
        ("app.worktrees/c", "start -b y x", "'calve start --from project x'"),
    ] {
        let run = in_git(&root.join(folder), words);
        assert!(run.code == Some(1) && run.stderr.contains(part), "{words}: {run:?}");
        assert!(!beside.join("x").try_exists().unwrap(), "{words}");
    }
    // A snapshot counts before a worktree of the same name, and that is said.
    fs::write(beside.join("w/new"), "x").unwrap();
    let run = in_git(&app, "start --from w x");
    assert!(run.code == Some(0) && run.stderr.contains("takes the snapshot"), "{run:?}");
    assert!(!beside.join("x/new").try_exists().unwrap());
}

#[test]
fn a_start_follows_the_settings_and_a_flag_counts_before_them() {
    let Some((_scratch, root)) = repository() else {
        let test = "a_start_follows_the_settings_and_a_flag_counts_before_them";
        return not_run(test, "there is no git");
    };
    let (app, beside) = (root.join("app"), root.join("app.worktrees"));
    sh(&app, "git branch old; echo 2 >f; git commit -qam 2; git branch new; echo loose >loose")
        .unwrap();
    let start = |words: &str, code: i32| {
        let run = in_git(&app, words);
        assert_eq!(run.code, Some(code), "{words}: {run:?}");
        run
    };
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();

    sh(&app, "git config calve.worktrees '.trees/{project}'").unwrap();
    start("start in", 0);
    assert_eq!(text("app/.trees/app/in/loose"), "loose\n");
    start("start --at ../elsewhere out", 0);
    assert_eq!(text("elsewhere/out/loose"), "loose\n");
    let run = in_git(&app, "list");
    assert!(run.stdout.contains("/.trees/app/in"), "{run:?}");
    // 'git add -A' would commit the worktrees.
    start("start in-2", 0);
    assert_eq!(sh(&app, "git status --porcelain").unwrap(), "?? loose\n");
    assert_eq!(sh(&app, "grep -c trees .git/info/exclude").unwrap(), "1\n");
    // There a line for worktrees would let git ignore other files as well, in each worktree.
    for (place, code) in [(".", 1), ("src", 1), (".trees/app", 0), ("empty", 0), ("ignored", 0)] {
        sh(&app, "mkdir -p src empty ignored; touch src/a ignored/a; echo /ignored/ >.gitignore")
            .unwrap();
        let before = sh(&app, "cat .git/info/exclude").unwrap();
        let run = start(&format!("start --at {place} of-{code} of-{code}-2"), code);
        assert_eq!(sh(&app, "git status --porcelain | grep of- || true").unwrap(), "", "{place}");
        match code {
            0 => assert_eq!(in_git(&app, "drop --force of-0 of-0-2").code, Some(0)),
            _ => {
                assert!(run.stderr.contains("a folder of their own is ignored: '--at "), "{run:?}");
            }
        }
        let is_new = before != sh(&app, "cat .git/info/exclude").unwrap();
        assert_eq!(is_new, place == "empty", "{place}");
    }
    // A .gitignore that names what counts outranks the line.
    sh(&app, "printf '*\\n!*/\\n!*.txt\\n' >.gitignore").unwrap();
    let run = start("start --at .listed listed", 3);
    assert!(run.stderr.contains(".gitignore outranks the line /.listed/"), "{run:?}");
    assert_eq!(in_git(&app, "drop --force listed").code, Some(0));
    sh(&app, "rm -r src empty ignored .gitignore; git branch -D of-0 of-0-2 || true").unwrap();
    sh(&app, "git config calve.worktrees '/{name}'").unwrap();
    assert!(start("start bad", 1).stderr.contains("calve.worktrees"));
    sh(&app, "git config --unset calve.worktrees").unwrap();

    sh(&app, "git config calve.base old").unwrap();
    start("start based", 0);
    assert!(
        text("app.worktrees/based/f") == "x\n" && !beside.join("based/loose").try_exists().unwrap()
    );
    start("start new", 0);
    assert_eq!(text("app.worktrees/new/f"), "2\n", "a branch that exists is worked on");
    start("start --from project not", 0);
    assert_eq!(text("app.worktrees/not/loose"), "loose\n");
    sh(&app, "git config calve.base origin/gone").unwrap();
    assert!(start("start bad", 1).stderr.contains("it is git's setting calve.base"));
    assert!(!start("start --base gone bad", 1).stderr.contains("calve.base"));
    start("start --base old -n 1 --prefix feat/", 0);
    assert_eq!(sh(&beside.join("feat-1"), "git branch --show-current").unwrap(), "feat/1\n");
    sh(&app, "git config --unset calve.base").unwrap();

    sh(&app, "git config calve.git copy").unwrap();
    start("start copied", 0);
    assert!(beside.join("copied/.git").is_dir());
    start("start --git none without", 0);
    assert!(!beside.join("without/.git").try_exists().unwrap());
    sh(&app, "git config calve.git mirror").unwrap();
    assert!(start("start bad", 1).stderr.contains("calve.git knows linked, copy and none"));
}

/// The message named the project, which is in the middle of nothing.
#[test]
fn a_fork_names_the_tree_that_is_in_the_middle_of_something() {
    let test = "a_fork_names_the_tree_that_is_in_the_middle_of_something";
    let Some((_scratch, root)) = repository() else { return not_run(test, "there is no git") };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    sh(&w, "git bisect start -q").unwrap();
    let run = in_git(&app, "start --from w fork");
    let line = "the worktree w is in the middle of a bisection";
    assert!(run.code == Some(0) && run.stderr.contains(line), "{run:?}");
    sh(&app, "git bisect start -q").unwrap();
    let run = in_git(&app, "start other");
    let line = "the project is in the middle of a bisection";
    assert!(run.code == Some(0) && run.stderr.contains(line), "{run:?}");
}

/// Where references are in tables, no file says that a cherry-pick is under way.
#[test]
fn a_cherry_pick_under_way_is_seen_in_tables_of_references() {
    let test = "a_cherry_pick_under_way_is_seen_in_tables_of_references";
    let scratch = crate::scratch();
    let made = "git init -q -b main --ref-format=reftable app 2>/dev/null || exit 0; cd app; \
                for at in 1 2 3; do echo $at >f; git add f; git commit -qm $at; done; \
                git cherry-pick HEAD~1 >o 2>&1 || true; echo made";
    match sh(scratch.path(), made) {
        Some(said) if said == "made\n" => {}
        _ => return not_run(test, "there is no git that has such tables"),
    }
    let run = in_git(&scratch.path().join("app"), "start w");
    assert!(run.code == Some(0) && run.stderr.contains("a cherry-pick, which stays"), "{run:?}");
}

#[test]
fn a_link_that_a_worktree_made_to_the_same_path_in_the_project_still_leads_there() {
    let test = "a_link_that_a_worktree_made_to_the_same_path_in_the_project_still_leads_there";
    let Some((_scratch, root)) = repository() else {
        return not_run(test, "there is no git");
    };
    let (app, beside) = (root.join("app"), root.join("app.worktrees"));
    let data = app.join("out/data");
    sh(&app, "mkdir -p out/data; echo d >out/data/d; git worktree add -q ../of-git -b of-git")
        .unwrap();
    let share = |tree: &Path| {
        sh(tree, &format!("rm -rf out/data; mkdir -p out; ln -s '{}' out/data", data.display()))
            .unwrap();
    };
    let is_shared = |tree: &Path, how: &str| {
        assert_eq!(fs::read_link(tree.join("out/data")).unwrap(), data, "{how}");
    };
    let done = |folder: &Path, words: &str| {
        let run = in_git(folder, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    };
    done(&app, "start w");
    let work = beside.join("w");
    share(&work);
    done(&work, "snapshot s");
    fs::remove_file(work.join("out/data")).unwrap();
    done(&work, "restore s");
    is_shared(&work, "restore");
    done(&work, "start fork");
    is_shared(&beside.join("fork"), "a fork");
    done(&app, "start --from s again");
    is_shared(&beside.join("again"), "start --from");
    let of_git = root.join("of-git");
    share(&of_git);
    sh(&of_git, &format!("ln -s '{}' out/other", data.display())).unwrap();
    done(&of_git, "fill");
    is_shared(&of_git, "fill");
    assert_eq!(fs::read_link(of_git.join("out/other")).unwrap(), data, "fill: at another path");
}

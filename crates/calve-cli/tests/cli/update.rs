//! `update`: what git ignores in the project arrives, and what the worktree changed stays.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::hints::{in_git, repository, sh};
use crate::{Run, not_run};

/// Dependencies, build output, an environment and settings, which git ignores.
const INSTALL: &str = "
    printf 'node_modules\\ntarget\\n.venv\\n.env\\n' >>.gitignore; git add .gitignore; git commit -qm ignore
    mkdir -p node_modules/a target .venv/bin; echo 1 >node_modules/a/index.js; echo tag >target/CACHEDIR.TAG
    echo 1 >target/app; echo 1 >.env; echo home = /usr >.venv/pyvenv.cfg
    printf '#!%s/.venv/bin/python\\n' \"$PWD\" >.venv/bin/tool";
/// What an install and a build change in the project.
const ANEW: &str = "
    mkdir node_modules/b; echo 2 >node_modules/b/index.js; echo 2 >node_modules/a/index.js
    echo 2 >target/app; echo 2 >.env
    printf '#!%s/.venv/bin/python\\nnew\\n' \"$PWD\" >.venv/bin/tool2";

fn done(folder: &Path, words: &str) -> Run {
    let run = in_git(folder, words);
    assert_eq!(run.code, Some(0), "{words}: {run:?}");
    run
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

#[test]
fn dependencies_and_builds_arrive_and_changes_and_work_stay() {
    let test = "dependencies_and_builds_arrive_and_changes_and_work_stay";
    for mode in ["linked", "copy"] {
        let Some((_scratch, root)) = repository() else {
            return not_run(test, "there is no git");
        };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        sh(&app, INSTALL);
        done(&app, &format!("start -q --git {mode} w"));
        sh(&app, ANEW);
        sh(
            &w,
            "echo work >f; echo mine >.env; mkdir .venv/__pycache__; echo c >.venv/__pycache__/c.pyc",
        );
        let before =
            sh(&w, "find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 md5sum");
        let dry = done(&w, "update --dry-run --json").json();
        let told = &dry["worktrees"][0];
        let folders = json!([{"path": ".venv"}, {"path": "node_modules"}, {"path": "target"}]);
        assert_eq!(told["folders"], folders, "{mode}: {dry}");
        assert_eq!(told["from"], told["to"], "{mode}");
        let run = done(&app, "update w");
        assert!(run.stderr.contains("stays as it is: .env: changed here as well"), "{run:?}");
        assert!(run.stderr.contains("brought .venv, node_modules, target"), "{run:?}");
        assert_eq!(read(w.join("node_modules/a/index.js")), "2\n");
        assert_eq!(read(w.join("node_modules/b/index.js")), "2\n");
        assert_eq!([read(w.join(".env")), read(w.join("f"))], ["mine\n", "work\n"]);
        assert_eq!(read(w.join(".venv/__pycache__/c.pyc")), "c\n", "a cache stays");
        let tool = read(w.join(".venv/bin/tool2"));
        assert!(tool.starts_with(&format!("#!{}/", w.display())), "{mode}: {tool}");
        // A build must see that the file is not the one that the project built.
        let time = |path: &str| fs::metadata(w.join(path)).unwrap().modified().unwrap();
        assert!(time("f") > time("target/app") && time("d/g") < time("target/app"), "{mode}");
        let status = in_git(&app, "status w").stdout;
        assert_eq!(status, "M .env\nA .venv/__pycache__/c.pyc\nM f\n", "{mode}");
        let drop = in_git(&app, "drop w");
        assert_eq!(drop.code, Some(1), "its work is as uncommitted as before: {drop:?}");
        assert!(done(&app, "update w").stderr.contains("nothing to bring"));
        done(&app, "undo w");
        let after =
            sh(&w, "find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 md5sum");
        assert_eq!(after, before, "{mode}");
        // A folder that is gone comes back, and one that the worktree changed does not change.
        sh(&w, "rm -r target; echo mine >node_modules/a/index.js");
        let run = done(&app, "update w");
        assert!(run.stderr.contains("stays as it is: node_modules: changed here"), "{run:?}");
        assert_eq!(read(w.join("target/app")), "2\n");
        assert_eq!(read(w.join("node_modules/a/index.js")), "mine\n");
        assert!(fs::symlink_metadata(w.join("node_modules/b")).is_err(), "never a part of it");
        let project = in_git(&app, "update");
        assert_eq!(project.code, Some(1), "{project:?}");
        assert!(project.stderr.contains("calve update WORKTREE"), "{project:?}");
    }
}

#[test]
fn a_worktree_that_git_made_gets_what_it_lacks() {
    for has_store in [true, false] {
        let Some((_scratch, root)) = repository() else {
            return not_run("a_worktree_that_git_made_gets_what_it_lacks", "there is no git");
        };
        let (app, theirs) = (root.join("app"), root.join("theirs"));
        sh(&app, INSTALL);
        sh(&app, "git worktree add -q ../theirs; echo mine >../theirs/.env");
        if !has_store {
            sh(&app, "rm -r .git/calve");
        }
        let document = done(&theirs, "update --json").json();
        assert_eq!(document["worktrees"][0]["path"], theirs.to_str().unwrap());
        assert_eq!(read(theirs.join("node_modules/a/index.js")), "1\n");
        assert_eq!(read(theirs.join(".env")), "mine\n");
        sh(&app, ANEW);
        done(&theirs, "update");
        let brought = if has_store { "2\n" } else { "1\n" };
        assert_eq!(read(theirs.join("node_modules/a/index.js")), brought, "what came is known");
        assert_eq!(read(theirs.join(".env")), "mine\n");
    }
}

#[test]
fn what_a_snapshot_of_the_worktree_recorded_is_still_its_own() {
    let Some((_scratch, root)) = repository() else {
        let test = "what_a_snapshot_of_the_worktree_recorded_is_still_its_own";
        return not_run(test, "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    sh(&app, INSTALL);
    done(&app, "start -q w");
    sh(&w, "echo mine >.env; echo work >f");
    done(&w, "snapshot -q");
    done(&w, "start -q fork");
    for (number, name) in (5..).zip(["w", "fork", "w", "fork"]) {
        sh(&app, &format!("echo {number} >.env; echo {number} >target/app"));
        let run = done(&app, &format!("update {name}"));
        assert!(run.stderr.contains(".env: changed here as well"), "{run:?}");
        let tree = root.join("app.worktrees").join(name);
        assert_eq!([read(tree.join(".env")), read(tree.join("f"))], ["mine\n", "work\n"]);
        assert_eq!(read(tree.join("target/app")), format!("{number}\n"));
    }
}

/// The whole update failed, each time, and the worktree stayed in the middle of it.
#[test]
fn a_folder_that_cannot_give_way_to_a_link_stays_and_the_rest_arrives() {
    let Some((_scratch, root)) = repository() else {
        let test = "a_folder_that_cannot_give_way_to_a_link_stays_and_the_rest_arrives";
        return not_run(test, "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    sh(
        &app,
        "echo deps >>.gitignore; echo own >.calveignore; git add -A; git commit -qm deps; mkdir deps; echo 1 >deps/1",
    );
    sh(&app, INSTALL);
    done(&app, "start -q w");
    fs::write(w.join("deps/own"), "own").unwrap();
    sh(&app, "rm -r deps; ln -s target deps");
    sh(&app, ANEW);
    let run = done(&app, "update w");
    assert!(run.stderr.contains("stays as it is: deps: "), "{run:?}");
    assert_eq!([read(w.join("deps/own")), read(w.join("target/app"))], ["own", "2\n"]);
    assert!(in_git(&app, "list").stdout.starts_with("w  clean"), "nothing is under way");
    // A restore says what to do, which no snapshot would help with.
    sh(&app, "rm deps; echo file >deps;");
    assert_eq!(in_git(&app, "snapshot -q files").code, Some(0));
    let run = in_git(&app, "restore files w");
    assert!(
        run.code == Some(1) && run.stderr.contains("hint: move what is in that folder"),
        "{run:?}"
    );
}

/// git found the repository around the worktree, and rebased its branch.
#[test]
fn git_works_in_no_repository_around_a_worktree() {
    let Some((_scratch, root)) = repository() else {
        return not_run("git_works_in_no_repository_around_a_worktree", "there is no git");
    };
    let (app, other) = (root.join("app"), root.join("other"));
    sh(
        &app,
        "git worktree add -qb other ../other; cd ../other; echo 1 >new; git add new; git commit -qm new",
    );
    sh(&app, "echo ours >f; git commit -qam ours");
    let at = |tree: &str| format!("start -q --git {tree} --at ../other/trees {tree}");
    let head = || sh(&other, "git rev-parse HEAD").unwrap();
    let before = head();
    for (tree, spoilt) in [("none", "true"), ("copy", "rm -rf .git; mkdir .git")] {
        done(&app, &at(tree));
        sh(&other.join("trees").join(tree), spoilt);
        for how in ["--rebase", "--merge"] {
            let run = in_git(&app, &format!("update {how} {tree}"));
            assert_eq!((run.code, head()), (Some(1), before.clone()), "{tree}: {run:?}");
        }
    }
    let hinted = in_git(&app, "update --merge none");
    assert!(hinted.stderr.contains("has no git repository"), "{hinted:?}");
}

#[test]
fn git_goes_first_and_where_it_stops_nothing_arrives() {
    for mode in ["linked", "copy"] {
        let Some((_scratch, root)) = repository() else {
            return not_run("git_goes_first_and_where_it_stops_nothing_arrives", "there is no git");
        };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        sh(&app, INSTALL);
        done(&app, &format!("start -q --git {mode} w v"));
        sh(&w, "echo theirs >f; git commit -qam theirs");
        sh(&app, ANEW);
        sh(&app, "echo ours >f; git commit -qam ours");
        let v = root.join("app.worktrees/v");
        let run = done(&app, "update --rebase v");
        assert!(run.stdout.lines().eq([v.to_str().unwrap()]), "{run:?}");
        assert_eq!([read(v.join("f")), read(v.join("target/app"))], ["ours\n", "2\n"], "{mode}");
        assert_eq!(sh(&v, "git status --porcelain").unwrap(), "", "{mode}");
        let stopped = in_git(&app, "update --merge w");
        assert_eq!(stopped.code, Some(1), "{stopped:?}");
        assert!(
            stopped.stderr.contains("CONFLICT") && stopped.stderr.contains("--abort"),
            "{stopped:?}"
        );
        assert_eq!(read(w.join("target/app")), "1\n", "{mode}: nothing arrives");
        assert!(sh(&w, "git status").unwrap().contains("Unmerged"), "nothing of git's is undone");
        sh(&w, "echo both >f; git commit -qam both");
        done(&app, "update w");
        assert_eq!([read(w.join("f")), read(w.join("target/app"))], ["both\n", "2\n"], "{mode}");
    }
}

/// A clone has the branch that its remote chose, and git takes `--exec=…` for an option.
#[test]
fn a_branch_that_is_named_like_an_option_is_none() {
    let Some((_scratch, root)) = repository() else {
        return not_run("a_branch_that_is_named_like_an_option_is_none", "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    done(&app, "start -q w");
    sh(&w, "git branch -q --set-upstream-to=main; git commit -q --allow-empty -m own");
    let chosen = "refs/heads/--exec=touch${IFS}ran";
    sh(&app, &format!("git update-ref '{chosen}' HEAD; git symbolic-ref HEAD '{chosen}'"));
    sh(&app, "echo ours >f; git commit -qam ours");
    for how in ["--rebase", "--merge"] {
        done(&app, &format!("update {how} w"));
        assert_eq!(read(w.join("f")), "ours\n", "{how}");
        assert!(w.join("ran").symlink_metadata().is_err(), "{how}");
    }
}

/// The bug: the hint of `update --merge` was to abort a merge that somebody else had begun.
#[test]
fn what_is_under_way_is_not_given_up_and_what_never_began_has_no_abort() {
    let test = "what_is_under_way_is_not_given_up_and_what_never_began_has_no_abort";
    let cherry = "git cherry-pick main >/dev/null 2>&1; echo mine >f; git add f";
    // What is done in the worktree; and what is said of it.
    for (there, told) in [
        ("git merge -q main >/dev/null 2>&1; echo mine >f; git add f", "a merge is under way"),
        ("git rebase -q main >/dev/null 2>&1; echo mine >f; git add f", "a rebase is under way"),
        (cherry, "a cherry-pick is under way"),
        ("echo mine >f", "commit or stash it there"),
    ] {
        let Some((_scratch, root)) = repository() else { return not_run(test, "there is no git") };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        done(&app, "start -q w");
        sh(&w, "echo theirs >f; git commit -qam theirs");
        sh(&app, "echo ours >f; git commit -qam ours");
        sh(&w, &format!("{{ {there}; }} || :"));
        let before = sh(&w, "git status");
        for how in ["merge", "rebase"] {
            let run = in_git(&app, &format!("update --{how} w"));
            assert_eq!(run.code, Some(1), "{there}: {run:?}");
            assert!(run.stderr.contains(told) && !run.stderr.contains("abort"), "{run:?}");
        }
        assert_eq!(sh(&w, "git status"), before, "{there}");
        assert_eq!(read(w.join("f")), "mine\n", "{there}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_in_which_a_process_works_is_replaced_by_force_alone() {
    let Some((_scratch, root)) = repository() else {
        let test = "a_folder_in_which_a_process_works_is_replaced_by_force_alone";
        return not_run(test, "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    sh(&app, INSTALL);
    done(&app, "start -q w");
    sh(&app, ANEW);
    let mut server = std::process::Command::new("sleep")
        .arg("600")
        .current_dir(w.join("node_modules/a"))
        .spawn()
        .unwrap();
    // The parent of a process does not count as one that works there, and this is not its parent.
    let run = done(&app, "update w");
    assert!(run.stderr.contains(&format!("sleep ({})", server.id())), "{run:?}");
    assert!(run.stderr.contains("node_modules: a process works in it"), "{run:?}");
    assert_eq!(read(w.join("node_modules/a/index.js")), "1\n");
    assert_eq!(read(w.join("target/app")), "2\n", "the others arrive");
    done(&app, "update --force w");
    assert_eq!(read(w.join("node_modules/a/index.js")), "2\n");
    server.kill().unwrap();
    server.wait().unwrap();
}

/// The bug: an update spared folders alone. A program's rows and lines went to a file that was gone.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_a_process_writes_is_replaced_by_force_alone() {
    let Some((_scratch, root)) = repository() else {
        let test = "a_file_that_a_process_writes_is_replaced_by_force_alone";
        return not_run(test, "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    let plant =
        "for it in log app.db app.db-wal read quiet; do echo $N >data/$it; done; echo $N >pg/base";
    sh(
        &app,
        "printf 'data\npg\n' >.gitignore; git add .; git commit -qm ignore; mkdir data pg; echo 17 >pg/PG_VERSION",
    );
    sh(&app, &format!("N=1; {plant}"));
    done(&app, "start -q w");
    sh(&app, &format!("N=2; {plant}"));
    // It appends to a log, has the log of a database open, reads a file, and serves a database.
    let mut program = std::process::Command::new("sh")
        .args(["-c", "exec 3>>../data/log 4<>../data/app.db-wal 5<../data/read; exec sleep 600"])
        .current_dir(w.join("pg"))
        .spawn()
        .unwrap();
    while fs::read_link(format!("/proc/{}/fd/5", program.id())).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let run = done(&app, "update w");
    let told = "data/app.db, data/log: a process has it open";
    assert!(
        run.stderr.contains(told) && run.stderr.contains("pg: a process works in it"),
        "{run:?}"
    );
    let now = || {
        ["log", "app.db", "app.db-wal", "read", "quiet", "../pg/base"]
            .map(|it| read(w.join("data").join(it)).trim_end().to_owned())
            .join(" ")
    };
    assert_eq!(now(), "1 1 1 2 2 1");
    done(&app, "update --force w");
    assert_eq!(now(), "2 2 2 2 2 2");
    program.kill().unwrap();
    program.wait().unwrap();
}

/// The bug: after a snapshot, as the refusal advised, an undo went to the base of the update, and so
/// took back the work as well. And an undo took the folder of a cache for a change in its way.
#[test]
fn an_undo_takes_back_what_the_update_brought_and_no_work() {
    let test = "an_undo_takes_back_what_the_update_brought_and_no_work";
    // Each row: its name, and the commands that run in the project and in the worktree before the
    // update.
    for (row, project, worktree) in [
        ("an update", "", ""),
        (
            "a package with a cache went away",
            "rm -r node_modules/a",
            "mkdir node_modules/a/.cache; echo c >node_modules/a/.cache/c",
        ),
    ] {
        let Some((_scratch, root)) = repository() else { return not_run(test, "there is no git") };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        sh(&app, INSTALL);
        done(&app, "start -q w");
        sh(&app, ANEW);
        sh(&app, project);
        sh(&w, worktree);
        let files = "find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 md5sum";
        let before = sh(&w, files);
        done(&app, "update w");
        sh(&w, "echo work >f; echo new >new; echo later >.env");
        let refused = in_git(&app, "undo w");
        assert_eq!(refused.code, Some(1), "{row}: {refused:?}");
        assert!(refused.stderr.contains(".env") && refused.stderr.contains("calve snapshot"));
        done(&w, "snapshot -q");
        done(&app, "undo w");
        assert_eq!([read(w.join("f")), read(w.join("new"))], ["work\n", "new\n"], "{row}");
        assert_eq!(read(w.join(".env")), "1\n", "{row}: the snapshot has the other one");
        sh(&w, "git checkout -q f; rm new");
        assert_eq!(sh(&w, files), before, "{row}");
        assert!(in_git(&app, "undo w").stderr.contains("nothing to undo"), "{row}");
        // After an undo, the next update brings the same again.
        done(&app, "update w");
        assert_eq!(read(w.join("node_modules/b/index.js")), "2\n", "{row}");
    }
}

#[test]
fn secrets_that_are_to_stay_behind_do_not_arrive_later_and_those_that_are_there_stay() {
    let test = "secrets_that_are_to_stay_behind_do_not_arrive_later_and_those_that_are_there_stay";
    for (row, there) in [("it has one", "1\n"), ("it has none", "")] {
        let Some((_scratch, root)) = repository() else {
            return not_run(test, "there is no git");
        };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        sh(&app, INSTALL);
        if there.is_empty() {
            sh(&app, "git config calve.secrets leave");
        }
        done(&app, "start -q w");
        sh(&app, "git config calve.secrets leave; echo key >node_modules/.npmrc");
        sh(&app, ANEW);
        let run = done(&app, "update w");
        assert!(run.stderr.contains("left out 1 file that looks like a secret: .env"), "{run:?}");
        assert_eq!(read(w.join("node_modules/b/index.js")), "2\n", "{row}");
        let env = fs::read_to_string(w.join(".env")).unwrap_or_default();
        assert_eq!(env, there, "{row}");
        sh(&app, "rm .env");
        done(&app, "update w");
        sh(&app, "echo 3 >.env; git config calve.secrets keep");
        done(&app, "update w");
        assert_eq!(read(w.join(".env")), "3\n", "{row}");
    }
}

//! The walk of somebody who knows git and never saw calve: the first commands that they type work,
//! or say which command does that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Run, command, not_run, plant, run, scratch};

/// Runs lines of sh in `folder`, with git's settings of the test alone.
#[track_caller]
fn sh(folder: &Path, lines: &str) -> String {
    let mut shell = Command::new("sh");
    shell.args(["-ec", lines]).current_dir(folder);
    let output = alone(&mut shell).output().unwrap();
    assert!(output.status.success(), "{lines}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn alone(command: &mut Command) -> &mut Command {
    for (name, value) in [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_AUTHOR_NAME", "Ada"),
        ("GIT_AUTHOR_EMAIL", "ada@example.org"),
        ("GIT_COMMITTER_NAME", "Ada"),
        ("GIT_COMMITTER_EMAIL", "ada@example.org"),
    ] {
        command.env(name, value);
    }
    command
}

/// Runs calve; `words` are its arguments, split at spaces.
#[track_caller]
fn calve(folder: &Path, words: &str) -> Run {
    let mut command = command(folder, words.split_whitespace());
    alone(&mut command);
    run(command)
}

#[track_caller]
fn done(folder: &Path, words: &str) -> Run {
    let run = calve(folder, words);
    assert_eq!(run.code, Some(0), "{words}: {run:?}");
    run
}

/// A clone `app` of a repository with the branches main, old, at a commit of its own here, and
/// theirs, which is only at the remote, and with the pull request 7 and the merge request 8. In it is
/// uncommitted work.
fn clone() -> Option<(TempDir, PathBuf)> {
    Command::new("git").arg("--version").output().ok()?;
    let scratch = scratch();
    let root = fs::canonicalize(scratch.path()).unwrap();
    plant(&root, &[("origin/f", "main\n")]);
    sh(
        &root.join("origin"),
        "git init -qb main; git add -A; git commit -qm main
         git switch -qc theirs; echo theirs >f; git commit -qam theirs
         git switch -qc request main; echo request >f; git commit -qam request
         git update-ref refs/pull/7/head HEAD; git update-ref refs/merge-requests/8/head HEAD
         git switch -q main; git branch -qD request",
    );
    sh(
        &root,
        "git clone -q origin app; cd app
         git switch -qc old; echo old >f; git commit -qam old; git switch -q main; echo mine >new",
    );
    let app = root.join("app");
    Some((scratch, app))
}

#[test]
fn what_somebody_who_knows_git_types_first_works() {
    let Some((_scratch, app)) = clone() else {
        return not_run("what_somebody_who_knows_git_types_first_works", "there is no git");
    };
    let beside = app.with_file_name("app.worktrees");
    let read = |name: &str| fs::read_to_string(beside.join(name)).unwrap_or_default();
    let in_tree = |name: &str, line: &str| sh(&beside.join(name), line);

    // There is no store yet. A new branch has the uncommitted work.
    let first = done(&app, "start feat/x");
    assert_eq!(first.stdout.trim_end(), beside.join("feat-x").to_str().unwrap());
    let made = format!("made a store for {}\n", app.display());
    assert!(first.stderr.starts_with(&made), "{first:?}");
    assert_eq!(in_tree("feat-x", "git branch --show-current"), "feat/x");
    assert_eq!(read("feat-x/new"), "mine\n");
    // The folder is taken.
    let taken = calve(&app, "start feat-x");
    assert_eq!(taken.code, Some(1), "{taken:?}");
    fs::create_dir_all(beside.join("a-b/by")).unwrap();
    let taken = calve(&app, "start a/b");
    assert_eq!(taken.code, Some(1), "{taken:?}");
    assert!(taken.stderr.contains("'calve start -b a/b a-b-2'"), "{taken:?}");
    done(&app, "start -b a/b a-b-2");

    for verb in ["status", "drop", "restore", "undo", "path"] {
        let asked = calve(&app, &format!("{verb} feat/x"));
        assert_eq!(asked.code, Some(1), "{asked:?}");
        assert!(asked.stderr.contains("did you mean 'feat-x'?"), "{verb}: {asked:?}");
    }

    // An existing branch is worked on, and is refused where it is checked out.
    done(&app, "start old");
    assert_eq!((read("old/f").as_str(), read("old/new").as_str()), ("old\n", ""));
    let elsewhere = calve(&app, "start main");
    assert_eq!(elsewhere.code, Some(1), "{elsewhere:?}");
    assert!(elsewhere.stderr.contains(app.to_str().unwrap()), "{elsewhere:?}");
    // A copy of the repository is at the project's commit and branch, and files alone at none.
    for (words, code, said) in [
        ("start --git copy pr/7", 1, "'calve start --git linked pr/7'"),
        ("start --git copy theirs", 1, "'calve start --git linked theirs'"),
        ("start -b mine pr/7", 1, "'calve start --git linked pr/7'"),
        ("start --git copy -b mine c", 2, "--git copy has the project's commit and branch"),
        ("start --git none --detach c", 2, "--git none has none"),
    ] {
        let run = calve(&app, words);
        assert!(run.code == Some(code) && run.stderr.contains(said), "{words}: {run:?}");
    }
    // A branch that only the remote has is made, and follows that one.
    let remote = done(&app, "start theirs");
    assert!(remote.stderr.contains("the branch theirs follows origin/theirs"), "{remote:?}");
    assert_eq!(read("theirs/f"), "theirs\n");
    assert_eq!(in_tree("theirs", "git rev-parse --abbrev-ref @{u}"), "origin/theirs");
    // The remote's own name of it would become ambiguous.
    let remotes = calve(&app, "start origin/theirs");
    assert_eq!(remotes.code, Some(1), "{remotes:?}");
    assert!(remotes.stderr.contains("'calve start theirs'"), "{remotes:?}");
    // Requests are fetched.
    for (word, name) in [("pr/7", "pr-7"), ("mr/8", "mr-8")] {
        done(&app, &format!("start {word}"));
        assert_eq!(read(&format!("{name}/f")), "request\n");
        assert_eq!(in_tree(name, "git branch --show-current"), word);
    }
    let none = calve(&app, "start pr/9");
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stderr.contains("refs/pull/9/head"), "{none:?}");
    assert!(none.stderr.contains("'calve start -b pr/9 pr-9'"), "{none:?}");

    // A command in each new worktree.
    let mut exits = command(&app, ["start", "-x", "echo \"$CALVE_NAME\" >ran; exit 3", "x", "y"]);
    alone(&mut exits);
    let exits = run(exits);
    assert_eq!(exits.code, Some(3), "{exits:?}");
    for name in ["x", "y"] {
        assert!(
            exits.stderr.contains(&format!("{name}: -x ended with exit status 3\n")),
            "{exits:?}"
        );
        assert_eq!(read(&format!("{name}/ran")), format!("{name}\n"));
    }

    // There is no switch: it says which commands go there and change files. What a restore and a
    // drop took comes back.
    let switch = calve(&app, "switch old");
    assert_eq!(switch.code, Some(2), "{switch:?}");
    assert!(switch.stderr.contains("'calve cd NAME' goes there"), "{switch:?}");
    fs::write(beside.join("old/f"), "edited\n").unwrap();
    done(&app, "restore old");
    assert_eq!(read("old/f"), "old\n");
    done(&app, "undo old");
    assert_eq!(read("old/f"), "edited\n");
    done(&app, "drop --force old");
    done(&app, "undo old");
    assert_eq!(read("old/f"), "edited\n");
    done(&app, "drop theirs");
}

/// `start pr/7` fetched the request only if there was no such branch, and gave its old commit
/// without a word.
#[test]
fn a_request_is_fetched_again_and_its_branch_follows_if_it_has_nothing_of_its_own() {
    let name = "a_request_is_fetched_again_and_its_branch_follows_if_it_has_nothing_of_its_own";
    let Some((_scratch, app)) = clone() else { return not_run(name, "there is no git") };
    let tree = app.with_file_name("app.worktrees").join("pr-7");
    let push = "git push -q origin +$(git commit-tree -p $P -m next HEAD^{tree}):refs/pull/7/head";
    let request = || sh(&app, "git ls-remote origin refs/pull/7/head | cut -f1");
    let next = |parent: &str| sh(&app, &push.replace("$P", parent));
    done(&app, "start pr/7");
    done(&app, "drop pr-7");
    let before = request();
    next(&before);
    done(&app, "start pr/7");
    assert_eq!(sh(&tree, "git rev-parse HEAD"), request(), "fast-forward");
    // It is up to date.
    done(&app, "drop pr-7");
    done(&app, "start pr/7");
    // A commit of one's own, and the request goes on.
    sh(&tree, "git commit -q --allow-empty -m own");
    done(&app, "drop pr-7");
    done(&app, "start pr/7");
    done(&app, "drop pr-7");
    let own = sh(&app, "git rev-parse pr/7");
    next(&request());
    let run = calve(&app, "start pr/7");
    assert!(
        run.code == Some(1) && run.stderr.contains("commits that the request does not"),
        "{run:?}"
    );
    assert_eq!(sh(&app, "git rev-parse pr/7"), own);
    done(&app, "start --base refs/heads/pr/7 -b mine pr-7");
}

/// A start that failed had moved the branch, also under a rebase in another worktree, which could
/// not end then.
#[test]
fn a_start_of_a_request_that_fails_moves_no_branch() {
    let name = "a_start_of_a_request_that_fails_moves_no_branch";
    let rebase = "GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -q -i HEAD~1 2>/dev/null";
    for (there, words) in [
        (rebase, "start pr/7"),
        ("git switch -q --detach", "start pr/7"),
        ("git switch -q --detach", "start pr/7 other"),
    ] {
        let Some((_scratch, app)) = clone() else { return not_run(name, "there is no git") };
        done(&app, "start pr/7");
        let tree = app.with_file_name("app.worktrees").join("pr-7");
        let was = sh(&app, "git rev-parse pr/7");
        sh(&tree, &format!("git config user.name a; git config user.email a@b; {there}"));
        let next =
            "git push -q origin +$(git commit-tree -p pr/7 -m next HEAD^{tree}):refs/pull/7/head";
        sh(&app, next);
        let run = calve(&app, words);
        assert_eq!(run.code, Some(1), "{there}, {words}: {run:?}");
        assert_eq!(sh(&app, "git rev-parse pr/7"), was, "{there}, {words}");
    }
}

#[test]
fn a_remote_may_have_a_slash_in_its_name() {
    let Some((_scratch, app)) = clone() else {
        return not_run("a_remote_may_have_a_slash_in_its_name", "there is no git");
    };
    sh(
        &app,
        "git remote add team/x ../origin
         for it in team/x/feat origin/deep/two team/x/both origin/both; do
            git update-ref refs/remotes/$it origin/theirs; done",
    );
    for (word, words) in [
        ("feat", "the branch feat follows team/x/feat"),
        ("deep/two", "the branch deep/two follows origin/deep/two"),
        ("both", "several remotes have this branch: origin/both, team/x/both"),
        ("team/x/feat", "this is a branch of the remote team/x"),
        ("origin/deep/two", "this is a branch of the remote origin"),
    ] {
        let run = calve(&app, &format!("start {word}"));
        assert_eq!(run.code, Some(i32::from(!words.contains("follows"))), "{word}: {run:?}");
        assert!(run.stderr.contains(words), "{word}: {run:?}");
    }
    // No remote has this one.
    done(&app, "start x/feat");
    assert_eq!(sh(&app, "git rev-parse x/feat"), sh(&app, "git rev-parse HEAD"));
    sh(&app, "! git config branch.x/feat.merge");
}

/// A branch of that name would be at another commit, and each command of git would take the name for
/// two.
#[test]
fn the_name_of_a_tag_and_the_id_of_a_commit_are_no_names_for_a_branch() {
    let Some((_scratch, app)) = clone() else {
        let name = "the_name_of_a_tag_and_the_id_of_a_commit_are_no_names_for_a_branch";
        return not_run(name, "there is no git");
    };
    sh(&app, "git tag v1; git tag deep/v2 -a -m two");
    let id = sh(&app, "git rev-parse HEAD");
    let id = id.trim();
    for word in ["v1", "deep/v2", id, &id[..7]] {
        let run = calve(&app, &format!("start {word}"));
        assert_eq!(run.code, Some(1), "{word}: {run:?}");
        let way = format!("'calve start --base {word} NAME' starts at it");
        assert!(run.stderr.contains(&way), "{word}: {run:?}");
        assert_eq!(sh(&app, &format!("git branch --list {word}")), "", "{word}");
    }
    for word in ["v1.1", "deep/v3", "deadbeef", &id[..6]] {
        done(&app, &format!("start {word}"));
    }
}

#[test]
fn a_start_in_a_linked_worktree_without_a_store_says_what_makes_one() {
    let Some((_scratch, app)) = clone() else {
        let name = "a_start_in_a_linked_worktree_without_a_store_says_what_makes_one";
        return not_run(name, "there is no git");
    };
    let linked = app.with_file_name("linked");
    sh(&app, "git worktree add -q ../linked");
    let run = calve(&linked, "start a");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("is a linked worktree or a submodule"), "{run:?}");
    let way = format!("init {}", linked.display());
    assert!(run.stderr.contains(&format!("'calve {way}'")), "{run:?}");
    done(&app, &way);
    done(&linked, "start a");
}

/// `.git` is a file in each of them.
#[test]
fn a_start_knows_a_separate_repository_and_a_bare_one_with_worktrees() {
    let Some((_scratch, app)) = clone() else {
        let name = "a_start_knows_a_separate_repository_and_a_bare_one_with_worktrees";
        return not_run(name, "there is no git");
    };
    let root = app.parent().unwrap();
    sh(root, "git clone -q app apart --separate-git-dir elsewhere");
    done(&root.join("apart"), "start a");
    // The folder around a bare repository is no working tree, and each of its worktrees is one.
    sh(root, "mkdir hub; git clone -q --bare app hub/.bare; echo 'gitdir: ./.bare' >hub/.git");
    let hub = root.join("hub");
    for verb in ["start a", "init"] {
        let run = calve(&hub, verb);
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("is bare") && run.stderr.contains("worktree add"), "{run:?}");
    }
    sh(&hub, "git worktree add -q tree -b tree");
    let run = calve(&hub, "start a");
    assert_eq!(run.code, Some(1), "{run:?}");
    let way = format!("-C {} start ", hub.join("tree").display());
    assert!(run.stderr.contains(&format!("'calve {way}NAME'")), "{run:?}");
    done(&hub, &format!("{way} a"));
    done(&hub, "start b");
    let run = calve(&hub.join("tree"), "init");
    assert!(run.code == Some(0) && !run.stderr.contains("submodule"), "{run:?}");
    done(&hub.join("tree"), "drop a b");
}

#[test]
fn a_request_where_there_is_no_remote_is_refused() {
    let Some((_scratch, app)) = clone() else {
        return not_run("a_request_where_there_is_no_remote_is_refused", "there is no git");
    };
    sh(&app, "git remote remove origin");
    for word in ["pr/7", "mr/8"] {
        let run = calve(&app, &format!("start {word}"));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("the repository has no remote"), "{run:?}");
        let name = word.replace('/', "-");
        let way = format!("start -b {word} {name}");
        assert!(run.stderr.contains(&format!("'calve {way}'")), "{run:?}");
        done(&app, &way);
    }
}

/// The project went to another commit between the last look at `HEAD` and the copy of its index:
/// then that index, with the `HEAD` of before, was a commit's way back.
#[test]
fn the_index_of_a_worktree_is_of_its_commit() {
    use std::os::unix::fs::PermissionsExt as _;

    let Some((_scratch, app)) = clone() else {
        return not_run("the_index_of_a_worktree_is_of_its_commit", "there is no git");
    };
    let bin = app.with_file_name("bin");
    plant(
        &bin,
        &[(
            "git",
            "#!/bin/sh\nPATH=${PATH#*:}; case \" $* \" in *\" worktree add \"*)\n\
        (unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE; eval \"$MOVE\") || exit 9;; esac; exec git \"$@\"\n",
        )],
    );
    fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    sh(&app, "git stash -qu; git checkout -q old");
    done(&app, "init -q");
    let path = std::env::var("PATH").unwrap();
    for (name, before, moves) in [
        ("detached", "git checkout -q old", "git checkout -q --detach HEAD~1"),
        ("detached-before", "git checkout -q --detach old", "git checkout -q HEAD~1"),
        ("switched", "git checkout -q old", "git checkout -q main"),
        ("committed", "git checkout -q old", "echo 3 >f; git commit -qam 3"),
        ("not moved", "git checkout -q old; echo s >f; git add f", ":"),
    ] {
        sh(&app, before);
        done(&app, "snapshot -q");
        let name = name.replace(' ', "-");
        let mut start = command(&app, ["start", "-q", &name]);
        alone(&mut start).env("PATH", format!("{}:{path}", bin.display()));
        start.env("MOVE", format!("cd {} && {{ {moves}; }}", app.display()));
        let run = run(start);
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        let tree = app.with_file_name("app.worktrees").join(&name);
        let staged = sh(&tree, "git diff --cached --name-only");
        assert_eq!(staged, if name == "not-moved" { "f" } else { "" }, "{name}");
    }
}

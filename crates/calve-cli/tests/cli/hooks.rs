//! Tests `hook`: the messages of an agent's tool, and the answers.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::{Run, command, done, not_run, run, with_input, with_project, worktrees_of};

/// Where Claude Code looks for its worktrees.
fn of_claude(project: &Path) -> std::path::PathBuf {
    project.join(".claude/worktrees")
}

/// Runs a hook as Claude Code does: one document on standard input.
fn hook(directory: &Path, words: &str, message: &Value) -> Run {
    with_input(command(directory, words.split_whitespace()), &message.to_string()).into()
}

#[test]
fn each_generation_of_the_message_makes_a_worktree_and_its_path_is_the_last_line() {
    let (scratch, project) = with_project();
    let beside = of_claude(&project);
    for (message, name) in [
        (json!({"name": "one"}), "one"),
        (json!({"worktree_name": "two", "base_path": "/elsewhere", "source_ref": "main"}), "two"),
        (json!({"worktree_path": "/elsewhere/three"}), "three"),
        (json!({"name": "feat/four"}), "feat-four"),
    ] {
        let mut message = message;
        message["cwd"] = json!(project);
        message["session_id"] = json!("1");
        message["hook_event_name"] = json!("WorktreeCreate");
        // The hook's own folder does not matter, and asking again changes nothing.
        for _ in 0..2 {
            let run = hook(scratch.path(), "hook claude create", &message);
            assert_eq!(run.code, Some(0), "{run:?}");
            let path = beside.join(name);
            assert_eq!(run.stdout.lines().last(), path.to_str(), "{run:?}");
            assert_eq!(fs::read_to_string(path.join("dir/b")).unwrap(), "beta\n");
        }
    }
}

#[test]
fn git_knows_each_worktree_and_its_branch_has_the_name_that_the_tool_gave() {
    let (_scratch, project) = with_project();
    let git = |words: &str| {
        let mut command = std::process::Command::new("git");
        command.current_dir(&project).env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
            .args(["-c", "user.name=n", "-c", "user.email=e"])
            .args(words.split_whitespace())
            .output()
    };
    if git("init -q -b main").is_err() {
        return not_run(
            "git_knows_each_worktree_and_its_branch_has_the_name_that_the_tool_gave",
            "there is no git",
        );
    }
    git("commit -q --allow-empty -m one").unwrap();
    for (message, name, branch) in [
        (json!({"name": "one"}), "one", "one"),
        (json!({"worktree_name": "feat/two"}), "feat-two", "feat/two"),
        (json!({"worktree_path": "/elsewhere/three"}), "three", "three"),
        // No branch can have these names.
        (json!({"name": "feat/a..b"}), "feat-a..b", "feat-a..b"),
        (json!({"name": "/four"}), "four", "four"),
    ] {
        let mut message = message;
        message["cwd"] = json!(project);
        let run = hook(&project, "hook claude create", &message);
        let path = of_claude(&project).join(name);
        let expected = if branch.contains("..") { Some(1) } else { Some(0) };
        assert_eq!(run.code, expected, "{run:?}");
        if expected == Some(1) {
            continue;
        }
        assert_eq!(run.stdout.lines().last(), path.to_str(), "{run:?}");
        let known = String::from_utf8(git("worktree list --porcelain").unwrap().stdout).unwrap();
        let entry = format!("worktree {}\n", path.display());
        let entry = known.split("\n\n").find(|one| format!("{one}\n").starts_with(&entry));
        let ends = |entry: &str| entry.contains(&format!("branch refs/heads/{branch}"));
        assert!(entry.is_some_and(ends), "{known}");
        let removed = json!({"worktree_path": path, "cwd": project});
        assert_eq!(hook(&project, "hook claude remove", &removed).code, Some(0));
    }
}

/// The tool may ask for one worktree several times at once.
#[test]
fn the_base_that_the_tool_names_is_honoured_and_all_calls_at_once_succeed() {
    let (_scratch, project) = with_project();
    let git = |words: &str| {
        let mut command = std::process::Command::new("git");
        command.current_dir(&project).env("GIT_CONFIG_GLOBAL", "/dev/null");
        command
            .args(["-c", "user.name=n", "-c", "user.email=e"])
            .args(words.split_whitespace())
            .output()
    };
    if git("init -q -b main").is_err() {
        return not_run(
            "the_base_that_the_tool_names_is_honoured_and_all_calls_at_once_succeed",
            "there is no git",
        );
    }
    for words in ["commit -q --allow-empty -m 1", "branch old", "commit -q --allow-empty -m 2"] {
        assert!(git(words).unwrap().status.success());
    }
    let beside = of_claude(&project);
    let id = |name: &str| git(&format!("rev-parse {name}")).unwrap().stdout;
    for (name, base, expected) in
        [("a", "old", "old"), ("feat/b", "old", "old"), ("c", " ", "main"), ("d", "none", "")]
    {
        let message = json!({"name": name, "base_ref": base, "cwd": project});
        let run = hook(&project, "hook claude create", &message);
        let path = beside.join(name.replace('/', "-"));
        if expected.is_empty() {
            assert!(run.code == Some(1) && run.stderr.contains("no commit"), "{run:?}");
            assert!(fs::metadata(&path).is_err());
            continue;
        }
        assert_eq!(run.code, Some(0), "{run:?}");
        let head = git(&format!("-C {} rev-parse HEAD", path.display())).unwrap().stdout;
        assert_eq!(head, id(expected), "{name}");
    }
    // In a linked worktree of a repository without a store calve can make none: git makes the worktree.
    let (other, linked) = (project.with_file_name("other"), project.with_file_name("linked"));
    for words in [
        format!("init -q {}", other.display()),
        format!("-C {} commit -q --allow-empty -m 1", other.display()),
        format!("-C {} worktree add -q {}", other.display(), linked.display()),
    ] {
        assert!(git(&words).unwrap().status.success(), "{words}");
    }
    for (root, name) in [(&project, "one"), (&project, "feat/two"), (&linked, "three")] {
        let message = json!({"name": name, "cwd": root});
        std::thread::scope(|scope| {
            let one = || hook(root, "hook claude create", &message);
            let calls: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            for run in calls.into_iter().map(|call| call.join().unwrap()) {
                let path = of_claude(root).join(name.replace('/', "-"));
                assert_eq!(run.code, Some(0), "{run:?}");
                assert_eq!(run.stdout.lines().last(), path.to_str(), "{run:?}");
            }
        });
    }
}

#[test]
fn branches_that_would_have_one_folder_get_one_each() {
    let (_scratch, project) = with_project();
    let made = std::process::Command::new("sh")
        .current_dir(&project)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args([
            "-ec",
            "git init -q; git -c user.name=n -c user.email=e commit -q --allow-empty -m one",
        ])
        .output();
    if !made.is_ok_and(|run| run.status.success()) {
        return not_run("branches_that_would_have_one_folder_get_one_each", "there is no git");
    }
    for (given, folder) in [
        ("feat/x", "feat-x"),
        ("feat-x", "feat-x-2"),
        ("feat/x", "feat-x"),
        ("feat-x", "feat-x-2"),
        ("feat-x-2", "feat-x-2-2"),
    ] {
        let run = hook(&project, "hook claude create", &json!({"name": given, "cwd": project}));
        let path = of_claude(&project).join(folder);
        assert_eq!(run.stdout.lines().last(), path.to_str(), "{given}: {run:?}");
        let head = fs::read_to_string(project.join(format!(".git/worktrees/{folder}/HEAD")));
        assert_eq!(head.unwrap(), format!("ref: refs/heads/{given}\n"));
    }
}

#[test]
fn a_worktree_is_removed_from_any_folder_and_as_often_as_it_is_asked_for() {
    let (scratch, project) = with_project();
    let beside = worktrees_of(&project);
    done(&project, "start one two three");
    for (name, cwd) in [
        ("one", project.clone()),
        ("two", beside.join("two")),
        ("three", scratch.path().to_owned()),
    ] {
        let path = beside.join(name);
        let message =
            json!({"worktree_path": path, "cwd": cwd, "hook_event_name": "WorktreeRemove"});
        for _ in 0..2 {
            let run = hook(scratch.path(), "hook claude remove", &message);
            assert_eq!(run.code, Some(0), "{name}: {run:?}");
            assert!(!path.try_exists().unwrap(), "{name}: {run:?}");
        }
    }
    let unknown = json!({"worktree_path": scratch.path().join("no/such"), "cwd": project});
    let run = hook(scratch.path(), "hook claude remove", &unknown);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_worktree_with_changes_stays_and_so_does_what_is_no_worktree() {
    let (_scratch, project) = with_project();
    done(&project, "start one");
    let path = worktrees_of(&project).join("one");
    fs::write(path.join("a"), "work\n").unwrap();
    let message = json!({"worktree_path": path, "cwd": project});
    let run = hook(&project, "hook claude remove", &message);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "work\n");
    let run = hook(&project, "hook claude remove --force", &message);
    assert_eq!((run.code, path.try_exists().unwrap()), (Some(0), false), "{run:?}");
    for other in [project.join("dir"), project.clone()] {
        let run = hook(
            &project,
            "hook claude remove --force",
            &json!({"worktree_path": other, "cwd": project}),
        );
        assert_eq!((run.code, other.try_exists().unwrap()), (Some(1), true), "{run:?}");
    }
}

#[test]
fn what_cannot_be_done_is_an_error_that_says_why_and_prints_no_path() {
    let (scratch, project) = with_project();
    for (directory, words, message, expected) in [
        (&project, "create", json!({"cwd": project}), "it has no 'name'"),
        (&project, "remove", json!({"cwd": project}), "it has no 'worktree_path'"),
        (&project, "create", json!([]), "standard input"),
        (&project, "create", json!({"name": "one", "cwd": scratch.path()}), "calve init"),
    ] {
        let run = hook(directory, &format!("hook claude {words}"), &message);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
        assert!(run.stderr.contains(expected), "{expected}: {run:?}");
    }
}

#[test]
fn a_command_of_gits_configuration_runs_in_each_new_worktree_and_a_file_of_the_project_cannot_set_one()
 {
    let test = "a_command_of_gits_configuration_runs_in_each_new_worktree_and_a_file_of_the_project_cannot_set_one";
    let (scratch, project) = with_project();
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    let git = |words: &[&str]| {
        let mut command = std::process::Command::new("git");
        command
            .current_dir(&project)
            .env("HOME", &home)
            .env_remove("XDG_CONFIG_HOME")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.args(["-c", "user.name=n", "-c", "user.email=e"]).args(words).output()
    };
    let start = |words: &str| {
        let mut command = command(&project, words.split_whitespace());
        command
            .env("HOME", &home)
            .env_remove("XDG_CONFIG_HOME")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        run(command)
    };
    if git(&["config", "--global", "init.defaultBranch", "main"]).is_err() {
        return not_run(test, "there is no git");
    }
    // What looks like a repository, as a tree may have it, sets nothing; nor does a file.
    let setting = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[calve]\n\tafterStart = touch seen\n";
    for (path, text) in [
        ("HEAD", "ref: refs/heads/main\n"),
        ("config", setting),
        (".gitconfig", setting),
        ("objects/x", ""),
        ("refs/x", ""),
    ] {
        fs::create_dir_all(project.join(path).parent().unwrap()).unwrap();
        fs::write(project.join(path), text).unwrap();
    }
    let beside = worktrees_of(&project);
    assert_eq!(start("start none").code, Some(0));
    assert!(!beside.join("none/seen").try_exists().unwrap());

    git(&["init", "-q"]).unwrap();
    git(&["commit", "-q", "--allow-empty", "-m", "one"]).unwrap();
    let command = r#"echo "$CALVE_NAME|$CALVE_BRANCH|$CALVE_PROJECT|$CALVE_WORKTREE|$PWD" >seen; echo said; git branch --show-current >>seen; test "$CALVE_NAME" != bad"#;
    git(&["config", "calve.afterStart", command]).unwrap();
    let run = start("--json start one two");
    assert_eq!(run.code, Some(0), "{run:?}");
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    for (index, name) in ["one", "two"].into_iter().enumerate() {
        let path = beside.join(name);
        let (project, path) = (project.display(), path.display());
        let seen = fs::read_to_string(format!("{path}/seen")).unwrap();
        assert_eq!(seen, format!("{name}|{name}|{project}|{path}|{path}\n{name}\n"));
        assert_eq!(document["worktrees"][index]["after_start"], 0);
    }
    // The output of the command is no result. If the command fails, the worktree stays, and the
    // others get theirs.
    let run = start("start bad good");
    let paths = ["bad", "good"].map(|name| beside.join(name).display().to_string());
    assert_eq!(
        (run.code, run.stdout.lines().collect::<Vec<_>>()),
        (Some(3), paths.each_ref().map(String::as_str).to_vec()),
        "{run:?}"
    );
    assert!(
        run.stderr.contains("said\n")
            && run.stderr.contains("calve.afterStart failed (exit status: 1)"),
        "{run:?}"
    );
    assert!(beside.join("good/seen").try_exists().unwrap());
    assert_eq!(start("start --no-after-start without").code, Some(0));
    // A key that calve does not have is said: it may be a slip of the fingers.
    git(&["config", "calve.afterStrat", "x"]).unwrap();
    let run = start("start said");
    let remark = "calve.afterstrat means nothing to calve; did you mean 'calve.afterStart'?";
    assert!(run.code == Some(0) && run.stderr.contains(remark), "{run:?}");
    assert!(!beside.join("without/seen").try_exists().unwrap());
    // For a tool the worktree was made, and the path is still the last line.
    git(&["config", "calve.afterStart", "echo said; exit 7"]).unwrap();
    let run = hook(&project, "hook claude create", &json!({"name": "of-a-tool", "cwd": project}));
    assert_eq!(
        (run.code, run.stdout.trim_end()),
        (Some(0), of_claude(&project).join("of-a-tool").to_str().unwrap()),
        "{run:?}"
    );
    // The user's own place counts before the tool's.
    git(&["config", "calve.worktrees", "../{project}.worktrees"]).unwrap();
    let run = hook(&project, "hook claude create", &json!({"name": "mine", "cwd": project}));
    let path = fs::canonicalize(run.stdout.trim_end()).unwrap();
    assert_eq!(path, beside.join("mine"), "{run:?}");
}

/// A session begins also where calve can have no store: git makes the worktree, and calve fills it.
#[test]
fn where_no_store_can_be_made_git_makes_the_worktree() {
    let Some((_scratch, root)) = crate::hints::repository() else {
        return not_run("where_no_store_can_be_made_git_makes_the_worktree", "there is no git");
    };
    // calve makes no store for the home folder.
    let app = root.join("app");
    crate::hints::sh(&app, "rm -rf .git/calve .calve; git branch there").unwrap();
    let hook = |words: &str, message: &Value| -> Run {
        let mut command = command(&app, words.split_whitespace());
        command.env("HOME", &app);
        with_input(command, &message.to_string()).into()
    };
    for (name, branch) in [("fix", "fix"), ("there", "there"), ("feat/x", "feat/x")] {
        let message = json!({"name": name, "cwd": app});
        for time in 0..2 {
            let run = hook("hook claude create", &message);
            assert_eq!(run.stderr.contains("git alone makes the worktree"), time == 0, "{run:?}");
            let path = of_claude(&app).join(name.replace('/', "-"));
            assert_eq!(
                (run.code, run.stdout.trim_end()),
                (Some(0), path.to_str().unwrap()),
                "{run:?}"
            );
            let text = crate::hints::sh(&path, "git branch --show-current; cat out/o").unwrap();
            assert_eq!(text, format!("{branch}\no\n"));
        }
        let path = of_claude(&app).join(name.replace('/', "-"));
        let message = json!({"worktree_path": path, "cwd": app});
        fs::write(path.join("work"), "x").unwrap();
        assert_eq!(hook("hook claude remove", &message).code, Some(1));
        let run = hook("hook claude remove --force", &message);
        assert_eq!((run.code, path.try_exists().unwrap()), (Some(0), false), "{run:?}");
    }
}

/// Before calve was installed, or where it could have no store, git made worktrees. Each name has one
/// folder, and each folder one branch.
#[test]
fn a_worktree_that_git_made_is_found_by_its_branch_and_removed_by_git() {
    let test = "a_worktree_that_git_made_is_found_by_its_branch_and_removed_by_git";
    for has_store in [true, false] {
        let Some((_scratch, root)) = crate::hints::repository() else {
            return not_run(test, "there is no git");
        };
        let sh = crate::hints::sh;
        let mut app = root.join("app");
        if !has_store {
            // calve makes no store from a linked worktree.
            sh(&app, "rm -rf .git/calve; git worktree add -q ../lw");
            app = root.join("lw");
        }
        sh(
            &app,
            "git worktree add -q -b gg .claude/worktrees/gg; git worktree add -q -b a/b .claude/worktrees/a/b
             git worktree add -q -b elsewhere ../elsewhere; git worktree add -q -b else .claude/worktrees/swapped
             git init -q .claude/worktrees/other; mkdir .claude/worktrees/plain
             mkdir .claude/worktrees/copied; cp .claude/worktrees/gg/.git .claude/worktrees/copied",
        );
        let at = |name: &str| of_claude(&app).join(name);
        for (name, folder) in [
            ("gg", "gg"),
            ("a/b", "a/b"),
            ("feat/y", "feat-y"),
            ("feat-y", "feat-y-2"),
            ("swapped", "swapped-2"),
            ("other", "other-2"),
            ("plain", "plain-2"),
            ("copied", "copied-2"),
        ] {
            for _ in 0..2 {
                let run = hook(&app, "hook claude create", &json!({"name": name, "cwd": app}));
                let row = format!("{has_store} {name}: {run:?}");
                assert_eq!(run.code, Some(0), "{row}");
                assert_eq!(run.stdout.lines().last(), at(folder).to_str(), "{row}");
                let branch = sh(&at(folder), "git branch --show-current").unwrap();
                assert_eq!(branch.trim_end(), name, "{row}");
                assert!(at(folder).join("out/o").is_file(), "it is filled: {row}");
            }
        }
        // The user's own worktree is not the tool's.
        let run = hook(&app, "hook claude create", &json!({"name": "elsewhere", "cwd": app}));
        assert!(run.code == Some(1) && run.stdout.is_empty(), "{run:?}");

        sh(
            &at("gg"),
            "git commit -q --allow-empty -m 2; git checkout -q --detach; git commit -q --allow-empty -m 3",
        );
        sh(&at("a/b"), "echo work >>f");
        // git deletes what it ignores.
        let inner = "git init -q out/r; cd out/r; git commit -q --allow-empty -m inner";
        sh(&at("feat-y-2"), inner).unwrap();
        // git was told to say nothing of these.
        sh(
            &app,
            "git worktree add -q -b skip .claude/worktrees/skip; git worktree add -q -b stash .claude/worktrees/stash",
        );
        sh(&at("skip"), "git update-index --skip-worktree f; echo work >f").unwrap();
        let rebase = "echo 1 >f; git commit -qam 1; echo work >f; GIT_SEQUENCE_EDITOR='sed -i 1s/pick/edit/' git rebase -q -i --autostash HEAD~1";
        sh(&at("stash"), rebase).unwrap();
        for (name, words, code) in [
            ("gg", "remove", 1),
            ("a/b", "remove", 1),
            ("a/b", "remove --force", 0),
            ("a/b", "remove", 0),
            ("feat-y", "remove", 0),
            ("feat-y-2", "remove", 1),
            ("feat-y-2", "remove --force", 0),
            ("skip", "remove", 1),
            ("stash", "remove", 1),
            ("swapped", "remove", 0),
            ("other", "remove --force", 1),
            ("plain", "remove --force", 1),
            ("copied", "remove --force", 1),
        ] {
            let message = json!({"worktree_path": at(name), "cwd": app});
            let run = hook(&app, &format!("hook claude {words}"), &message);
            let is_there = fs::symlink_metadata(at(name)).is_ok();
            assert_eq!(
                (run.code, is_there),
                (Some(code), code == 1),
                "{has_store} {name}: {run:?}"
            );
        }
        assert!(at("gg/f").is_file());
        sh(&at("gg"), "git switch -q -c kept");
        let message = json!({"worktree_path": at("gg"), "cwd": app});
        assert_eq!(hook(&app, "hook claude remove", &message).code, Some(0));
        for project in [json!(app), json!(root.join("app"))] {
            let message = json!({"worktree_path": project, "cwd": app});
            if has_store || project != json!(app) {
                assert_eq!(hook(&app, "hook claude remove --force", &message).code, Some(1));
            }
        }
    }
}

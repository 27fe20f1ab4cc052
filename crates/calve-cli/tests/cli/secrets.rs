//! Files that look like secrets: named when they come along, and left at home if that is wanted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::living::worker_in;
use crate::{Run, calve, command, done, plant, run, with_project};

const KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n";

#[track_caller]
fn git(project: &Path, words: &str) {
    let mut git = Command::new("git");
    git.current_dir(project).args(["-c", "user.name=n", "-c", "user.email=e"]);
    assert!(git.args(words.split(' ')).status().unwrap().success(), "{words}");
}

/// A project of git with two secrets that git ignores, and files that look like them.
fn with_secrets() -> (TempDir, PathBuf) {
    let (scratch, project) = with_project();
    git(&project, "init -qb main");
    plant(
        &project,
        &[
            (".gitignore", ".env\n*.key\n*.pem\nlocal\n"),
            (".env", "TOKEN=x\n"),
            (".env.example", "TOKEN=\n"),
            ("config/master.key", "0123\n"),
            ("config/ca.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("tracked/id_rsa", KEY),
            ("local/deps/a.js", "1\n"),
        ],
    );
    git(&project, "add .");
    git(&project, "commit -qm 1");
    (scratch, project)
}

/// Which of the secrets, and of the files that only look like them, are in a tree.
fn there(tree: &Path) -> [bool; 2] {
    let all = |paths: &[&str]| {
        let there: Vec<bool> =
            paths.iter().map(|path| tree.join(path).try_exists().unwrap()).collect();
        assert!(there.iter().all(|it| *it == there[0]), "{}: {paths:?}: {there:?}", tree.display());
        there[0]
    };
    let harmless = [".env.example", "config/ca.pem", "tracked/id_rsa", "local/deps/a.js"];
    [all(&[".env", "config/master.key"]), all(&harmless)]
}

#[track_caller]
fn tree_of(run: &Run) -> PathBuf {
    assert_eq!(run.code, Some(0), "{run:?}");
    PathBuf::from(run.stdout.trim_end())
}

/// The lines that speak of secrets.
fn said(run: &Run) -> Vec<&str> {
    run.stderr.lines().filter(|line| line.contains("secret")).collect()
}

#[test]
fn a_start_names_the_secrets_that_came_along() {
    let (_scratch, project) = with_secrets();
    for (row, value, more) in [
        ("unset", None, "; 'git config calve.secrets leave' leaves such files out"),
        ("keep", Some("keep"), ""),
        ("ask", Some("ask"), "; calve.secrets is ask, and there is no terminal to ask at"),
    ] {
        if let Some(value) = value {
            git(&project, &format!("config calve.secrets {value}"));
        }
        for name in ["first", "next"] {
            let run = calve(&project, &format!("start {row}-{name}"));
            let line = "2 files that look like secrets came along: .env, config/master.key";
            assert_eq!(said(&run), [format!("{line}{more}")], "{row}: {run:?}");
            assert_eq!(there(&tree_of(&run)), [true, true], "{row}");
        }
    }
    let document = calve(&project, "start --json w").json();
    let secrets = json!([
        { "path": ".env", "kind": "settings" },
        { "path": "config/master.key", "kind": "private_key" },
    ]);
    assert_eq!((&document["secrets"], &document["left_secrets"]), (&secrets, &json!([])));
    git(&project, "config calve.secrets never");
    let run = calve(&project, "start x");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("calve.secrets knows keep, leave and ask, and is 'never'"),
        "{run:?}"
    );
}

/// In each way in which a tree is made: read first, cloned, ready, of a commit, a snapshot, a fork.
#[test]
fn no_way_of_a_start_brings_secrets_that_stay_at_home() {
    let (_scratch, project) = with_secrets();
    // These have the secrets.
    done(&project, "start with");
    let run = calve(&project, "store warm --keep 1");
    assert!(matches!(run.code, Some(0 | 3)), "{run:?}");
    git(&project, "config calve.secrets leave");
    let snapshot = done(&project, "snapshot");
    for (row, words) in [
        ("with a ready tree of the project", "start a".to_owned()),
        ("again", "start b c".to_owned()),
        ("at a commit", "start --base main d".to_owned()),
        ("from a snapshot", format!("start --from {} e", snapshot.trim_end())),
        ("of a worktree that has them", "start --from with f".to_owned()),
        ("with a repository of its own", "start --git copy g".to_owned()),
    ] {
        let run = calve(&project, &words);
        assert_eq!(run.code, Some(0), "{row}: {run:?}");
        let line = "left out 2 files that look like secrets: .env, config/master.key";
        assert_eq!(said(&run), [line], "{row}: {run:?}");
        for tree in run.stdout.lines().map(Path::new) {
            assert_eq!(there(tree), [false, true], "{row}");
            let status = calve(tree, "status --json").json();
            assert_eq!(status["changes"].as_array().map(Vec::len), Some(0), "{row}: {status}");
            git(tree, "diff --exit-code --quiet HEAD");
        }
    }
    // The project itself is as it was, and so is its snapshot.
    assert_eq!(there(&project), [true, true]);
    // A process in the background may be making some.
    let run = calve(&project, "store warm --keep 2");
    assert!(matches!(run.code, Some(0 | 3)), "{run:?}");
    let document = calve(&project, "start --json h").json();
    assert_eq!(document["secrets"], json!([]));
    assert_eq!(document["left_secrets"].as_array().map(Vec::len), Some(2), "{document}");
    let tree = document["worktrees"][0]["path"].as_str().map(PathBuf::from).unwrap();
    assert_eq!(there(&tree), [false, true]);
    // A worktree whose folder was deleted comes back as it was started.
    fs::remove_dir_all(&tree).unwrap();
    done(&project, "restore h");
    assert_eq!(there(&tree), [false, true]);
    assert_eq!(there(&project.with_file_name("p.worktrees").join("with")), [true, true]);
}

#[test]
fn a_secret_that_the_branch_tracks_is_gits() {
    let (_scratch, project) = with_secrets();
    for words in ["checkout -qb has", "add -f .env", "commit -qm env", "checkout -q main"] {
        git(&project, words);
    }
    plant(&project, &[(".env", "TOKEN=own\n")]);
    for (row, policy, line) in [
        ("kept", "keep", "1 file that looks like a secret came along: config/master.key"),
        ("left", "leave", "left out 1 file that looks like a secret: config/master.key"),
    ] {
        git(&project, &format!("config calve.secrets {policy}"));
        let run = calve(&project, &format!("start --base has {row}"));
        assert_eq!(said(&run), [line], "{row}: {run:?}");
        assert_eq!(fs::read_to_string(tree_of(&run).join(".env")).unwrap(), "TOKEN=x\n");
    }
}

#[test]
fn a_snapshot_without_secrets_takes_none_away() {
    let (_scratch, project) = with_secrets();
    plant(
        &project,
        &[("keys/prod.env", "TOKEN=y\n"), (".gitignore", ".env\n*.key\n*.pem\nlocal\nkeys\n")],
    );
    let secrets = [".env", "config/master.key", "keys/prod.env"];
    let all = |tree: &Path| {
        secrets.map(|path| tree.join(path).try_exists().unwrap()).iter().all(|it| *it)
    };
    git(&project, "config calve.secrets leave");
    let tree = tree_of(&calve(&project, "start a"));
    plant(&tree, &[("work", "1\n")]);
    done(&project, "snapshot --of a fixed");
    // The project's own files, and then those that a worktree has of its own.
    done(&project, "restore --force fixed");
    assert!(project.join("work").try_exists().unwrap() && all(&project));
    done(&project, "undo --force");
    assert!(!project.join("work").try_exists().unwrap() && all(&project));
    plant(&tree, &secrets.map(|path| (path, "own\n")));
    plant(&tree, &[("work", "2\n"), ("more", "3\n")]);
    for words in ["restore a", "restore fixed a"] {
        done(&project, words);
        assert!(all(&tree) && !tree.join("more").try_exists().unwrap(), "{words}");
        assert_eq!(fs::read_to_string(tree.join(".env")).unwrap(), "own\n", "{words}");
    }
    // What git tracks is no secret, and a file is in the way of no folder.
    git(&tree, "add -f .env");
    fs::remove_dir_all(project.join("keys")).unwrap();
    plant(&project, &[("keys", "a file\n")]);
    let snapshot = done(&project, "snapshot");
    done(&project, &format!("restore {} a", snapshot.trim_end()));
    assert_eq!(fs::read_to_string(tree.join("keys")).unwrap(), "a file\n");
    done(&project, "undo a");
    assert_eq!(fs::read_to_string(tree.join("keys/prod.env")).unwrap(), "own\n");
    done(&project, "restore fixed a");
    assert!(!tree.join(".env").try_exists().unwrap());
    // Where secrets come along, a snapshot is all that there is.
    git(&project, "config calve.secrets keep");
    done(&project, "restore --force fixed");
    assert!(!secrets.iter().any(|path| project.join(path).try_exists().unwrap()));
    done(&project, "undo --force");
    assert!(project.join(".env").try_exists().unwrap());
}

#[test]
fn a_fill_leaves_secrets_and_what_belongs_to_a_process() {
    let (_scratch, project) = with_secrets();
    let worker = worker_in(&project);
    plant(&project, &[("local/tmp/a.pid", &format!("{}\n", worker.id()))]);
    let tree = project.with_file_name("by-git");
    for (row, policy, came) in [("kept", "keep", true), ("left", "leave", false)] {
        git(&project, &format!("config calve.secrets {policy}"));
        git(&project, &format!("worktree add -q --detach {}", tree.display()));
        let run = calve(&tree, "fill");
        let what = "2 files that look like secrets";
        let line = match came {
            true => format!("{what} came along: .env, config/master.key"),
            false => format!("left out {what}: .env, config/master.key"),
        };
        assert_eq!(said(&run), [line], "{row}: {run:?}");
        assert_eq!(there(&tree_of(&run)), [came, true], "{row}");
        assert!(!tree.join("local/tmp/a.pid").try_exists().unwrap(), "{row}");
        assert!(run.stderr.contains("local/tmp/a.pid belongs to process"), "{row}: {run:?}");
        assert_eq!(said(&calve(&tree, "fill")).len(), usize::from(!came), "{row}");
        git(&project, &format!("worktree remove --force {}", tree.display()));
    }
}

/// What git cannot say may be that they stay. A start went on then, as if nothing were set.
#[test]
fn without_the_settings_no_verb_guesses_what_becomes_of_secrets() {
    let (_scratch, project) = with_secrets();
    git(&project, "config calve.secrets leave");
    let tree = tree_of(&calve(&project, "start -q a"));
    let broken = project.with_file_name("broken");
    fs::create_dir(&broken).unwrap();
    for words in ["start b", "start b --git none", "fill ../p.worktrees/a", "update a", "env a"] {
        let mut command = command(&project, words.split(' '));
        command.env("GIT_CONFIG_GLOBAL", &broken);
        let run = run(command);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert!(run.stderr.contains("the settings of"), "{words}: {run:?}");
        assert!(!project.with_file_name("p.worktrees/b").try_exists().unwrap(), "{words}");
        assert_eq!(there(&tree), [false, true], "{words}");
    }
}

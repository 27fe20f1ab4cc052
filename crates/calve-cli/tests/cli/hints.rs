//! A hint is a command that works when it is pasted where the hint was printed.
//!
//! Each row is a situation, a command that fails or warns there, and how many of the commands that
//! it advises do something: they succeed, find something, or come to another obstacle. Also what is
//! refused because it was hardly meant.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Run, calve, command, not_run, run, scratch};

/// Runs a script with git's user and without anybody's settings. `None`: there is no git.
pub(crate) fn sh(directory: &Path, script: &str) -> Option<String> {
    let output =
        with_git(Command::new("sh")).args(["-ec", script]).current_dir(directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr).into_owned();
    if failed.contains("git: not found") {
        return None;
    }
    assert!(output.status.success(), "{script}: {text}{failed}");
    Some(text)
}

pub(crate) fn with_git(mut command: Command) -> Command {
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "n"),
        ("GIT_AUTHOR_EMAIL", "e"),
        ("GIT_COMMITTER_NAME", "n"),
        ("GIT_COMMITTER_EMAIL", "e"),
    ] {
        command.env(name, value);
    }
    command
}

/// A project `app` of git with one commit and a store, and the folder that both are in.
pub(crate) fn repository() -> Option<(tempfile::TempDir, PathBuf)> {
    let scratch = scratch();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let made = "git init -q -b main app; cd app; echo x >f; mkdir d; echo y >d/g; echo /out >.gitignore; \
                git add .; git commit -qm 1; mkdir out; echo o >out/o";
    sh(&root, made)?;
    let run = calve(&root.join("app"), "init");
    assert_eq!(run.code, Some(0), "{run:?}");
    Some((scratch, root))
}

pub(crate) fn in_git(directory: &Path, words: &str) -> Run {
    run(with_git(command(directory, words.split_whitespace())))
}

/// The quoted commands of a text.
fn quoted(text: &str) -> Vec<String> {
    let text = text.replace("\n      ", " ");
    let starts = text.match_indices('\'').filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(|it| it.is_whitespace() || it == '(')
    });
    let commands = starts.filter_map(|(at, _)| {
        let rest = &text[at + 1..];
        let end = rest.match_indices('\'').map(|(end, _)| end).find(|end| {
            let after = rest[end + 1..].chars().next();
            after.is_none_or(|it| !it.is_alphanumeric() && it != '/' && it != '\'')
        })?;
        Some(rest[..end].to_owned())
    });
    commands.filter(|it| ["calve ", "git "].iter().any(|start| it.starts_with(start))).collect()
}

/// Whether `command` does something in this folder: it does not fail as wrong usage, as a command
/// or an option that does not exist, or with the error that it was advised for.
#[track_caller]
fn must_work(directory: &Path, advised: &str, error: &str) {
    let calve = Path::new(env!("CARGO_BIN_EXE_calve")).parent().unwrap().to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(calve).chain(std::env::split_paths(&path));
    let output = with_git(Command::new("sh"))
        .args(["-c", advised])
        .current_dir(directory)
        .env("PATH", std::env::join_paths(paths).unwrap())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let run = Run::from(output);
    assert!(matches!(run.code, Some(0 | 3)), "{advised}: {run:?}\nwas advised for: {error}");
}

const EDITED: &str = "calve start -q w; echo z >../app.worktrees/w/f";

/// Another project with a worktree of the same name.
const ANOTHER: &str = "calve start -q w; echo z >../app.worktrees/w/f; mkdir ../other; cd ../other; git init -q -b main; \
                       echo x >f; git add f; git commit -qm 1; calve start -q w";

/// The rows of the next test.
const ADVICE: &[(&str, &str, &str, &[&str])] = &[
    // The preparation, the folder, the command, and those of its hints that the test pastes.
    ("", "app", "start main", &["calve start --base main main-2"]),
    ("git branch feat/x", "app", "start feat", &["calve start -b feat-2 feat"]),
    ("git branch feat/x", "app", "start -b feat/x/y z", &["calve start -b feat-x-y z"]),
    (
        "git branch old; git commit -q --allow-empty -m 2",
        "app",
        "start old other",
        &["calve start old"],
    ),
    (
        "git branch old; git commit -q --allow-empty -m 2",
        "app",
        "start -b old w",
        &["calve start -b old-2 w"],
    ),
    (
        "git branch old; git commit -q --allow-empty -m 2",
        "app",
        "start -b old w",
        &["calve start --base old -b old w"],
    ),
    (
        "git worktree add -q ../app.worktrees/mine",
        "app",
        "start -b other mine",
        &["calve fill ROOT/app.worktrees/mine"],
    ),
    (
        "git worktree add -q ../app.worktrees/mine; rm -r ../app.worktrees/mine",
        "app",
        "start -b other mine",
        &["git worktree remove -f -f ROOT/app.worktrees/mine", "calve start -b other mine"],
    ),
    ("calve start -q w", "app", "start w", &["calve status w", "calve start w-2"]),
    ("", "app", "start ./k", &["calve start k"]),
    ("", "app", "start feat//x", &["calve start --at feat x"]),
    (
        "calve start -q b; calve drop -q b",
        "app",
        "undo b",
        &["calve start b", "calve list --dropped"],
    ),
    (
        "git checkout -q -b o; echo o >f; git commit -qam o; git checkout -q main; echo m >f; git commit -qam m; \
             calve start -q w; git -C ../app.worktrees/w merge -q o || true; rm -r ../app.worktrees/w",
        "app",
        "drop w",
        &["calve restore w"],
    ),
    (EDITED, "app", "drop w", &["calve snapshot --of w"]),
    (EDITED, "app", "drop w", &["calve drop --force w", "calve undo w"]),
    (
        "calve start -q --detach w; git -C ../app.worktrees/w commit -q --allow-empty -m 2",
        "app",
        "drop w",
        &["git -C ROOT/app.worktrees/w branch NEW COMMIT", "calve drop w"],
    ),
    (
        "calve start -q w; git -C ../app.worktrees/w update-ref refs/worktree/side \
             $(git commit-tree -m side HEAD^{tree})",
        "app",
        "drop w",
        &["git -C ROOT/app.worktrees/w branch NEW COMMIT", "calve drop w"],
    ),
    (
        "calve start -q w; cd ../app.worktrees/w/out; git init -q; git commit -q --allow-empty -m inner",
        "app",
        "drop w",
        &["calve drop --force w"],
    ),
    (
        "calve start -q w; git -C ../app.worktrees/w commit -q --allow-empty -m 2",
        "app",
        "drop --delete-branch w",
        &["calve drop w"],
    ),
    // Where the store is found only by what the command was told.
    (
        EDITED,
        "app.worktrees",
        "drop w",
        &["calve -C ROOT/app drop --force w", "calve -C ROOT/app undo w"],
    ),
    (
        ANOTHER,
        "other",
        "drop ../app.worktrees/w",
        &["calve -C ROOT/app drop --force w", "calve -C ROOT/app undo w"],
    ),
    ("", "", "-C app status none", &["calve -C ROOT/app list"]),
    ("calve start -q feat/y", "app", "start feat/y", &["calve path feat-y"]),
    (
        "calve start -q w; git init -q ../app.worktrees/w/out; cd ../app.worktrees/w/out; git commit -q --allow-empty -m 1",
        "app.worktrees/w/out",
        "start z",
        &["calve init --force ROOT/app.worktrees/w/out"],
    ),
    ("calve start -q w; rm -r ../app.worktrees/w", "app", "status w", &["calve restore w"]),
    ("calve start -q w; rm -r ../app.worktrees/w", "app", "status w", &["calve drop --force w"]),
    ("", "app", "status none", &["calve list"]),
    ("", "app", "show none", &["calve log"]),
    ("", "app", "start --base none w", &["git log --oneline --all"]),
    ("calve start -q w", "app", "restore none w", &["calve log"]),
    ("calve start -q w; echo z >f", "app", "restore", &["calve restore --force ROOT/app"]),
    (
        "calve snapshot -q s >/dev/null; echo z >f",
        "app",
        "restore s",
        &["calve restore --force s ROOT/app"],
    ),
    ("git init -q sub", "app/sub", "start w", &["calve init ROOT/app/sub"]),
    ("git init -q sub", "app/sub", "start w", &["calve --store ROOT/app/.git/calve start NAME"]),
    ("", "app/.git", "init", &["calve init ROOT/app"]),
    ("", "app/d", "init", &["calve init ROOT/app"]),
    (
        "calve start -q w; mkdir ../app.worktrees/w/in",
        "app.worktrees/w/in",
        "init",
        &["calve status"],
    ),
];

#[test]
fn what_is_advised_works_where_it_is_advised() {
    for (before, folder, words, advice) in ADVICE {
        let Some((_scratch, root)) = repository() else {
            return not_run("what_is_advised_works_where_it_is_advised", "there is no git");
        };
        let program = env!("CARGO_BIN_EXE_calve");
        sh(&root.join("app"), &format!("calve() {{ {program} \"$@\" >/dev/null; }}; {before}"));
        let directory = root.join(folder);
        let run = in_git(&directory, words);
        assert!(run.code == Some(1) || run.stderr.contains("warning"), "{words}: {run:?}");
        let commands = quoted(&run.stderr);
        let mut details = run.stderr.lines().filter_map(|line| line.strip_prefix("  "));
        let commit = details.next().and_then(|line| line.split(' ').next()).unwrap_or_default();
        for (at, advised) in advice.iter().enumerate() {
            let advised = advised.replace("ROOT", root.to_str().unwrap());
            let advised = advised.replace("COMMIT", commit);
            // What follows the first one is the command that failed.
            if at == 0 || advised != format!("calve {words}") {
                assert!(
                    commands.contains(&advised) || run.stderr.contains(&advised),
                    "{advised}: {commands:?} {run:?}"
                );
            }
            must_work(&directory, &advised, &run.stderr);
        }
    }
}

/// A project that is hardly meant: a start in any folder below would copy all of it.
#[test]
fn a_store_is_not_made_for_what_is_hardly_a_project() {
    let Some((_scratch, root)) = repository() else {
        return not_run("a_store_is_not_made_for_what_is_hardly_a_project", "there is no git");
    };
    sh(&root, "mkdir -p above/home/plain; cd app; mkdir -p d/deep; git clone -q --bare . ../bare");
    let started = in_git(&root.join("app"), "start w");
    assert_eq!(started.code, Some(0), "{started:?}");
    fs::create_dir(root.join("app.worktrees/w/in")).unwrap();
    let home = root.join("above/home");
    for (folder, part) in [
        ("above/home", "your home folder"),
        ("above", "contains your home folder"),
        ("/", "the root of all folders"),
        ("app/.git", "git's own folder"),
        ("app/.git/objects", "git's own folder"),
        ("bare", "git's own folder"),
        ("app.worktrees/w", "a worktree"),
        ("app.worktrees/w/in", "inside the worktree"),
    ] {
        let folder = root.join(folder);
        let mut init = command(&folder, ["init"]);
        init.env("HOME", &home);
        let run = run(init);
        assert!(run.code == Some(1) && run.stderr.contains(part), "{folder:?}: {run:?}");
        for store in [".calve", ".git/calve", "calve"].map(|store| folder.join(store)) {
            let is_there = fs::metadata(&store).is_ok() && folder != root.join("app/.git");
            assert!(!is_there, "{store:?}");
        }
    }
    let mut forced = command(&home, ["init", "--force"]);
    forced.env("HOME", &home);
    assert_eq!(run(forced).code, Some(0));
    let mut below = command(&home.join("plain"), ["init"]);
    below.env("HOME", &home);
    let below = run(below);
    assert!(below.code == Some(0) && !below.stderr.contains("warning"), "{below:?}");
    let deep = calve(&root.join("app/d/deep"), "init");
    let part = format!("in the git repository {}", root.join("app").display());
    assert!(deep.code == Some(0) && deep.stderr.contains(&part), "{deep:?}");
}

/// `git stash -a` takes a whole store that is in the tree, but git has no empty folders.
#[test]
fn after_a_stash_of_all_files_the_store_works_again() {
    let Some((_scratch, root)) = repository() else {
        return not_run("after_a_stash_of_all_files_the_store_works_again", "there is no git");
    };
    let app = root.join("app");
    sh(&app, "rm -r .git/calve");
    assert_eq!(in_git(&app, "init -q --store .calve").code, Some(0));
    assert_eq!(in_git(&app, "start w").code, Some(0));
    crate::until_deleted(&app.join(".calve"));
    fs::write(app.join("f"), "edited\n").unwrap();
    sh(&app, "git stash -q -a; git stash pop -q");
    for words in ["list", "start v", "status w", "drop w", "store gc", "store verify"] {
        let run = in_git(&app, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
}

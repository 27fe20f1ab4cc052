//! `fill`: a worktree that git made.

use std::fs;

use crate::{calve, command, done, not_run, run, scratch};

const PROJECT: &str = "
    set -e
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
    mkdir project; cd project; git init -q -b main; git config user.email e; git config user.name n
    mkdir src target; echo one >src/a; echo two >src/b; printf '/target\\n.env\\n' >.gitignore
    git add -A; git commit -qm one; sleep 0.02; git status >/dev/null
    echo built >target/out; echo secret >.env
    git worktree add -q ../tree -b tree; sleep 0.02
";

#[test]
fn a_worktree_is_filled_by_its_path_and_from_inside_and_says_so() {
    let scratch = scratch();
    let made = std::process::Command::new("bash")
        .current_dir(scratch.path())
        .args(["-c", PROJECT])
        .status();
    if !made.is_ok_and(|made| made.success()) {
        return not_run(
            "a_worktree_is_filled_by_its_path_and_from_inside_and_says_so",
            "there is no git",
        );
    }
    let root = fs::canonicalize(scratch.path()).unwrap();
    let (project, tree) = (root.join("project"), root.join("tree"));
    let document = calve(&project, "--json fill ../tree").json();
    assert_eq!(document["from"], project.to_str().unwrap());
    assert_eq!(document["arrived"]["path"], tree.to_str().unwrap());
    assert_eq!(document["carried_files"], 2);
    assert!(document["expected_copies"].is_null(), "small files are not worth a word");
    let tracked = ["shared_files", "timed_files"].map(|field| document[field].as_u64().unwrap());
    assert_eq!(tracked.iter().sum::<u64>(), 3);
    assert_eq!(document["ready_index_entries"], 3);
    assert_eq!(fs::read_to_string(tree.join(".env")).unwrap(), "secret\n");
    let none = run(command(&tree, ["fill", "../none"]));
    assert!(none.code == Some(1) && none.stderr.contains("there is no none"), "{none:?}");
    // A setup script runs `fill` in the tree or in one of its folders, and takes any exit code
    // except 0 as a failure.
    for folder in [&tree, &tree.join("src")] {
        assert_eq!(done(folder, "-q fill"), tree.to_str().unwrap());
    }
    let run = run(command(&project, ["fill"]));
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{run:?}");
    assert!(
        run.stderr.contains("main working tree") && run.stderr.contains("--from DIR"),
        "{run:?}"
    );
}

#[test]
fn the_price_of_copies_is_said_before_they_are_made_and_once() {
    let scratch = scratch();
    let made = std::process::Command::new("bash")
        .current_dir(scratch.path())
        .args([
            "-c",
            &format!(
                "{PROJECT}\nfallocate -l 100M target/large; fallocate -l 100M .large; echo .large >>.git/info/exclude"
            ),
        ])
        .status();
    if !made.is_ok_and(|made| made.success()) {
        return not_run("the price of a fill", "there is no git");
    }
    let project = scratch.path().join("project");
    let first = calve(&project, "--json fill ../tree");
    let again = calve(&project, "--json fill ../tree");
    for (run, is_first) in [(&first, true), (&again, false)] {
        assert_eq!(run.code, Some(0), "{run:?}");
        let told = &run.json()["expected_copies"];
        match crate::expected_method() {
            Some("copy") if is_first => {
                let words = "the carried files will take 209.7 MB in 4 files, about ";
                assert!(run.stderr.contains(words), "{run:?}");
                assert_eq!((&told["files"], &told["at_least"]), (&4.into(), &false.into()));
            }
            Some(_) => {
                assert!(!run.stderr.contains("will take"), "{run:?}");
                assert!(told.is_null(), "{run:?}");
            }
            None => {}
        }
    }
}

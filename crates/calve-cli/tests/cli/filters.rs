//! `calve drop --merged --clean --idle`: one line for each worktree, whatever became of it.

use serde_json::json;

use crate::hints::{in_git, repository, sh};
use crate::{calve, not_run};

#[test]
fn a_dry_run_says_what_becomes_of_branches_as_the_drop_does() {
    let Some((_scratch, root)) = repository() else {
        return not_run(
            "a_dry_run_says_what_becomes_of_branches_as_the_drop_does",
            "there is no git",
        );
    };
    let app = root.join("app");
    sh(&app, "git branch other");
    assert_eq!(in_git(&app, "start -q plain work").code, Some(0));
    assert_eq!(in_git(&app, "start -q -b other of-user").code, Some(0));
    sh(&root.join("app.worktrees/work"), "git commit -q --allow-empty -m 2");
    for (names, code, part) in [
        ("plain work", 1, "its branch has commits that no other reference holds"),
        ("work", 1, "its branch has commits that no other reference holds"),
        ("of-user", 3, "calve did not make this branch for the worktree, so it stays"),
        ("plain", 0, ""),
    ] {
        for dry in [" --dry-run", ""] {
            let run = in_git(&app, &format!("drop --delete-branch{dry} {names}"));
            assert_eq!(run.code, Some(code), "{names}{dry}: {run:?}");
            assert!(run.stderr.contains(part), "{names}{dry}: {run:?}");
        }
        let left = root.join("app.worktrees").join(names.split(' ').next().unwrap());
        assert_eq!(left.join(".git").is_file(), code == 1, "{names}");
    }
    let dry = in_git(&app, "drop --clean --delete-branch --dry-run");
    assert!(dry.stderr.starts_with("nothing to drop\nleft work: "), "{dry:?}");
}

#[test]
fn each_worktree_is_dropped_or_left_with_one_reason() {
    let Some((_scratch, root)) = repository() else {
        return not_run("each_worktree_is_dropped_or_left_with_one_reason", "there is no git");
    };
    let (app, w) = (root.join("app"), root.join("app.worktrees"));
    let all = ["fresh", "merged", "open", "squashed", "work"];
    assert_eq!(in_git(&app, &format!("start -q {}", all.join(" "))).code, Some(0));
    for name in ["merged", "open", "squashed", "work"] {
        sh(&w.join(name), &format!("echo {name} >{name}; git add {name}; git commit -qm {name}"));
    }
    sh(&app, "git merge -q merged; git merge -q --squash squashed; git commit -qm squashed");
    sh(&app, "git merge -q --no-edit work");
    sh(&w.join("work"), "echo more >>work");
    let left = "left fresh: nothing was committed in it\n\
        left open: it is not merged into main\n\
        left work: it has work that is not committed: work\n";
    let dry = in_git(&app, "drop --merged --dry-run");
    assert_eq!(dry.code, Some(0), "{dry:?}");
    let first = dry.stderr.lines().next().unwrap();
    assert!(first.starts_with("would drop merged, squashed, which frees"), "{dry:?}");
    assert!(dry.stderr.ends_with(left), "{dry:?}");
    let dry = in_git(&app, "drop --merged --dry-run --json").json();
    assert_eq!(dry["would_drop"][0]["worktrees"][1]["name"], "squashed", "{dry}");
    assert_eq!(dry["left"][0]["reason"], "nothing_committed", "{dry}");
    // A worktree that is younger than a day is not idle; and nothing to drop is no failure.
    let idle = in_git(&app, "drop --merged --clean --idle 1d merged");
    assert_eq!(idle.code, Some(0), "{idle:?}");
    assert!(idle.stderr.starts_with("nothing to drop\nleft merged: "), "{idle:?}");
    // In the worktree itself.
    let inside = in_git(&w.join("merged"), "drop --merged merged");
    assert_eq!(inside.stderr, "nothing to drop\nleft merged: the current folder is in it\n");
    let run = in_git(&app, "drop --merged");
    assert_eq!(run.code, Some(0), "{run:?}");
    let dropped = "dropped merged (merged into main), squashed (its changes are in main)\n";
    assert_eq!(run.stderr, format!("{dropped}{left}"));
    assert_eq!(run.stdout, "");
    let run = in_git(&app, "drop --clean --delete-branch --json").json();
    assert_eq!(run["dropped"][0]["deleted_branch"], "fresh", "{run}");
    let of = |at: usize, field: &str| run["left"][at][field].clone();
    assert_eq!((of(0, "name"), of(0, "reason")), (json!("open"), json!("commits_only_here")));
    assert_eq!((of(1, "name"), of(1, "details")), (json!("work"), json!(["work"])));
    let names = in_git(&app, "list --json").json();
    let names: Vec<_> =
        names["worktrees"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["open", "work"]);
    for (words, part) in [
        ("drop", "<NAME>"),
        ("drop --merged --force", "cannot be used with"),
        ("drop --idle 7", "it has no unit"),
    ] {
        let run = calve(&app, words);
        assert_eq!(run.code, Some(2), "{words}: {run:?}");
        assert!(run.stderr.contains(part), "{words}: {run:?}");
    }
}

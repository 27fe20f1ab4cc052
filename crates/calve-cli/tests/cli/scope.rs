//! Tests `status` and `diff` of a part: without files that git ignores, and below some paths.

use std::fs;

use serde_json::json;

use crate::{calve, done, plant, with_project, worktrees_of};

#[test]
fn what_git_ignores_can_be_left_out() {
    let (_scratch, project) = with_project();
    plant(
        &project,
        &[
            (".gitignore", "target/\n*.log\n/top\n"),
            ("sub/.gitignore", "!keep.log\nlocal\n"),
            (".git/info/exclude", "private\n"),
            (".git/index", "1"),
            ("target/old", "x"),
            ("gone/.gitignore", "*\n"),
            ("gone/old.log", "x"),
            ("gone/old", "gone"),
        ],
    );
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("target")).unwrap();
    plant(
        &root,
        &[
            (".git/index", "2"),
            ("target/deep/.gitignore", "!new\n"),
            ("target/deep/new", "x"),
            ("a.log", "x"),
            ("sub/keep.log", "x"),
            ("sub/other.log", "x"),
            ("sub/local", "x"),
            ("sub/top", "x"),
            ("top", "x"),
            ("private", "x"),
            ("dir/private/", ""),
            ("dir/new", "x"),
        ],
    );
    fs::write(root.join("a"), "other\n").unwrap();
    let run = calve(&project, "status --gitignore w");
    assert_eq!(run.code, Some(3), "{run:?}");
    // The remaining rules decide about files that were deleted with their folder.
    let expected = "M a\nA dir/new\nD gone/.gitignore\nD gone/old\nA sub/keep.log\nA sub/top\n";
    assert_eq!(run.stdout, expected);
    assert!(run.stderr.contains(", without files that git ignores: "), "{run:?}");
    let stat = done(&project, "diff --stat --gitignore -q w");
    let paths = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect()
    };
    assert_eq!(paths(&stat), paths(expected));

    // Nothing else changed, so the worktree is clean. The summary says what it left out.
    for path in ["dir/new", "sub/keep.log", "sub/top"] {
        fs::remove_file(root.join(path)).unwrap();
    }
    fs::write(root.join("a"), "alpha\n").unwrap();
    plant(&root, &[("gone/.gitignore", "*\n"), ("gone/old", "gone"), ("gone/old.log", "x")]);
    let clean = calve(&project, "status --gitignore --json w");
    assert_eq!((clean.code, &clean.json()["changes"]), (Some(0), &json!([])), "{clean:?}");
    assert!(clean.stderr.starts_with("clean since snapshot "), "{clean:?}");
    assert_eq!(calve(&project, "status w").code, Some(3));
}

#[test]
fn a_link_where_an_ignore_file_or_its_folder_would_be_is_not_followed() {
    let (scratch, project) = with_project();
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(scratch.path().join("rules"), "*\n").unwrap();
    fs::create_dir(scratch.path().join("elsewhere")).unwrap();
    fs::write(scratch.path().join("elsewhere/.gitignore"), "*\n").unwrap();
    std::os::unix::fs::symlink(scratch.path().join("rules"), root.join(".gitignore")).unwrap();
    fs::remove_dir_all(root.join("dir")).unwrap();
    std::os::unix::fs::symlink(scratch.path().join("elsewhere"), root.join("dir")).unwrap();
    let run = calve(&project, "status --gitignore w");
    assert_eq!(run.stdout, "A .gitignore\nT dir\nD dir/b\n", "{run:?}");
}

#[test]
fn paths_limit_it_from_the_root_of_the_worktree() {
    let (_scratch, project) = with_project();
    plant(&project, &[(".calveignore", "kept-out\n"), ("gone/x", "x")]);
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::remove_dir_all(root.join("gone")).unwrap();
    plant(&root, &[("dir/c", "x"), ("dir2/c", "x"), ("-x", "x"), ("sub/dir/c", "x")]);
    plant(&root, &[("kept-out/x", "x")]);
    fs::remove_file(root.join("a")).unwrap();
    for (paths, expected) in [
        ("dir", "A dir/c\n"),
        ("./dir/../dir2/", "A dir2/c\n"),
        ("a -x", "A -x\nD a\n"),
        ("dir/b", ""),
        ("kept-out/x", ""),
        ("gone/x", "D gone/x\n"),
        (".", "A -x\nD a\nA dir/c\nA dir2/c\nD gone/x\nA sub/dir/c\n"),
    ] {
        let run = calve(&project, &format!("status w -- {paths}"));
        assert_eq!(run.stdout, expected, "{paths}: {run:?}");
        assert_eq!(run.code, Some(if expected.is_empty() { 0 } else { 3 }), "{paths}");
        // From inside, too, it is the root that they start at.
        let inside = calve(&root.join("sub"), &format!("status -- {paths}"));
        assert_eq!(inside.stdout, expected, "{paths}: {inside:?}");
    }
    let absolute = root.join("dir2");
    let run = calve(&project, &format!("diff --stat w -- {}", absolute.display()));
    assert_eq!(run.stdout, "A  +1 -0  dir2/c\n", "{run:?}");
    assert!(run.stderr.contains(", in "), "{run:?}");
    // Nothing is there, nor was: it is no clean part, it is a slip of the hand.
    for outside in ["..", "/", "dir/../..", "none", "dir/b/none", "dir none", "gone/y"] {
        let run = calve(&project, &format!("status --json w -- {outside}"));
        assert_eq!((run.code, &run.json()["error"]["kind"]), (Some(1), &json!("source_not_found")));
        assert!(run.stderr.contains("start at the worktree's root"), "{run:?}");
    }
}

#[test]
fn a_patch_of_a_part_is_whole_in_itself() {
    let (_scratch, project) = with_project();
    plant(&project, &[(".gitignore", "out\n"), ("plain", "renamed\n")]);
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    plant(&root, &[("out/built", "x\n")]);
    fs::rename(root.join("plain"), root.join("out/plain")).unwrap();
    fs::write(root.join("a"), "other\n").unwrap();
    // What left for an ignored place is gone from here.
    let patch = done(&project, "diff -q --gitignore w");
    let named: Vec<_> = patch.lines().filter(|line| line.starts_with("diff --git")).collect();
    assert_eq!(named, ["diff --git a/a b/a", "diff --git a/plain b/plain"], "{patch}");
    assert!(patch.contains("deleted file mode"), "{patch}");
}

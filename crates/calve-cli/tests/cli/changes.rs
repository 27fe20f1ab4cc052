//! Tests `diff`, `switch` and `reset`: changes, and the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tempfile::TempDir;

use crate::shown::assert_document;
use crate::{calve, command, done, run, with_project, worktrees_of};

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// A worktree `w` in which `a` was changed, `dir/b` renamed and `new` added.
fn with_changes() -> (TempDir, PathBuf, PathBuf) {
    let (scratch, project) = with_project();
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "alpha\nmore\n").unwrap();
    fs::rename(root.join("dir/b"), root.join("dir/c")).unwrap();
    fs::write(root.join("new"), b"\0binary\xff").unwrap();
    (scratch, project, root)
}

/// `git status` in a nested repository writes its index, and git refuses every patch that names a
/// path in `.git`. The `.git` of the root is no content at all.
#[test]
fn a_patch_is_without_what_git_changed_for_itself() {
    let (_scratch, project) = with_project();
    fs::create_dir_all(project.join("sub/.git")).unwrap();
    fs::create_dir(project.join(".git")).unwrap();
    for (name, content) in [
        (".git/index", "1"),
        ("sub/.git/index", "1"),
        ("sub/.git/gone", "gone"),
        ("plain", "plain"),
    ] {
        fs::write(project.join(name), content).unwrap();
    }
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join(".git/index"), "2").unwrap();
    fs::write(root.join("sub/.git/index"), "2").unwrap();
    fs::rename(root.join("sub/.git/gone"), root.join("came")).unwrap();
    fs::rename(root.join("plain"), root.join(".git/went")).unwrap();

    let patch = command(&project, ["diff", "w"]).output().unwrap().stdout;
    let patch = String::from_utf8(patch).unwrap();
    let named: Vec<_> = patch.lines().filter(|line| line.starts_with("diff --git")).collect();
    assert_eq!(named, ["diff --git a/came b/came", "diff --git a/plain b/plain"]);
    assert!(!patch.contains(".git/"), "{patch}");
    // `--stat` still lists them.
    let stat = done(&project, "diff --stat w");
    assert!(stat.contains("M  +1 -1  sub/.git/index"), "{stat}");
    assert!(!stat.contains(" .git/"), "{stat}");
}

#[test]
fn a_diff_is_a_patch_that_git_applies() {
    let (_scratch, project, root) = with_changes();
    let plain = command(&project, ["diff", "w"]).output().unwrap();
    assert_eq!(plain.status.code(), Some(0), "{plain:?}");
    assert_eq!(command(&project, ["diff", "--patch", "w"]).output().unwrap().stdout, plain.stdout);
    let patch = project.with_file_name("patch");
    fs::write(&patch, &plain.stdout).unwrap();
    let mut git = std::process::Command::new("git");
    git.arg("apply").arg(&patch).current_dir(&project);
    match git.output() {
        Err(_) => return crate::not_run("a_diff_is_a_patch_that_git_applies", "there is no git"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
    for name in ["a", "dir/b", "dir/c", "new"] {
        let content = |root: &Path| fs::read(root.join(name)).ok();
        assert_eq!(content(&project), content(&root), "{name}");
    }
}

#[test]
fn the_stat_of_a_diff_has_a_line_a_file() {
    let (_scratch, project, root) = with_changes();
    let run = calve(&project, "diff --stat w");
    assert_eq!(run.code, Some(0), "{run:?}");
    let expected = "M  +1 -0       a\nR  +0 -0       dir/b => dir/c\nA  0 B to 8 B  new\n";
    assert_eq!(run.stdout, expected);
    assert!(run.stderr.starts_with("3 changes since snapshot "), "{run:?}");
    assert!(run.stderr.contains(": 1 line added, 0 removed"), "{run:?}");
    assert_eq!(run.stdout, done(&root, "diff --stat -q") + "\n");
    let none = calve(&project, "diff");
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""), "{none:?}");
    assert!(none.stderr.starts_with("no changes since snapshot "), "{none:?}");
}

#[test]
fn the_document_of_a_diff_is_as_documented() {
    let (_scratch, project, root) = with_changes();
    let mut document = calve(&project, "diff --json w").json();
    assert_eq!(
        document.as_object_mut().unwrap().remove("snapshot").unwrap().as_str().unwrap().len(),
        64
    );
    let file = |path: &str,
                change: &str,
                from: Option<&str>,
                lines: Option<(u64, u64)>,
                bytes: (u64, u64)| {
        json!({
            "path": path, "change": change, "renamed_from": from,
            "added_lines": lines.map(|lines| lines.0), "removed_lines": lines.map(|lines| lines.1),
            "old_bytes": bytes.0, "new_bytes": bytes.1,
        })
    };
    let expected = json!({
        "name": "w", "path": root.to_str(),
        "files": [
            file("a", "modified", None, Some((1, 0)), (6, 11)),
            file("dir/c", "renamed", Some("dir/b"), Some((0, 0)), (5, 5)),
            file("new", "added", None, None, (0, 8)),
        ],
        "skipped": [],
    });
    assert_document(&document, &expected);
    let with_patch = calve(&project, "diff --json --patch w").json();
    let patch = command(&project, ["diff", "w"]).output().unwrap().stdout;
    assert_eq!(with_patch["patch"], String::from_utf8(patch).unwrap());
}

#[test]
fn a_patch_that_nobody_reads_fails_quietly() {
    let (_scratch, project, _root) = with_changes();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut diff = command(&project, ["diff", "w"]);
    diff.stdout(writer).stderr(Stdio::piped());
    let run = run(diff);
    assert_eq!((run.code, run.stderr.as_str()), (Some(1), ""), "{run:?}");
}

#[test]
fn a_switch_touches_what_differs_and_refuses_what_was_changed() {
    let (_scratch, project, root) = with_changes();
    fs::write(project.join("a"), "later\n").unwrap();
    fs::write(project.join("other"), "x\n").unwrap();
    let from = calve(&root, "show --json").json()["snapshot"].clone();
    let to = done(&project, "snapshot --name later");

    let refused = calve(&project, "switch --json w later");
    assert_eq!(
        (refused.code, refused.json()["error"]["kind"].as_str()),
        (Some(1), Some("changed"))
    );
    assert_eq!(refused.json()["error"]["details"], json!(["a"]));
    let lines: Vec<&str> = refused.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{refused:?}");
    assert_eq!(lines[1], "  a");
    assert!(lines[2].contains("'calve capture w'") && lines[2].contains("--force"), "{refused:?}");
    assert_eq!(read(&root.join("other")), None);

    let forced = calve(&project, "switch --force w later");
    assert_eq!((forced.code, forced.stdout.as_str()), (Some(0), ""), "{forced:?}");
    assert!(forced.stderr.starts_with(&format!("w is at snapshot {}: ", &to[..12])), "{forced:?}");
    assert!(forced.stderr.contains("1 moved aside"), "{forced:?}");
    assert_eq!(read(&root.join("a")).as_deref(), Some("later\n"));
    assert_eq!(read(&root.join("other")).as_deref(), Some("x\n"));
    assert!(root.join("dir/c").is_file(), "what is not in the way stays");

    let back = calve(&root, "switch --undo --json").json();
    assert_eq!((&back["from"], &back["to"]), (&json!(to), &from));
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\nmore\n"));
    assert_eq!(read(&root.join("other")), None);
    let nothing = calve(&project, "switch w --undo");
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.stderr.contains("there is nothing to undo"), "{nothing:?}");
    assert!(
        nothing.stderr.contains("hint: --undo undoes the last forced switch or reset"),
        "{nothing:?}"
    );
}

#[test]
fn with_one_word_it_is_the_snapshot_and_the_current_folders_worktree() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot --name one");
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "two\n").unwrap();
    done(&root, "capture --name two");
    let mut document = calve(&root.join("dir"), "switch --json one").json();
    let fields = document.as_object_mut().unwrap();
    assert!(fields.remove("elapsed_seconds").unwrap().is_f64());
    assert!(fields.remove("changed_entries").unwrap().as_u64().unwrap() >= 1);
    assert_eq!(
        fields.remove("from").unwrap(),
        calve(&project, "show --json two").json()["snapshot"]
    );
    assert_eq!(fields.remove("to").unwrap(), calve(&project, "show --json one").json()["snapshot"]);
    let expected = json!({
        "name": "w", "path": root.to_str(), "removed_entries": 0, "kept": [], "skipped": [],
    });
    assert_document(&document, &expected);
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\n"));
    // The project, too.
    let project_too = calve(&project, "switch --force --json two").json();
    assert_eq!(project_too["name"], json!(null));
    assert_eq!(read(&project.join("a")).as_deref(), Some("two\n"));
}

/// With git and other tools, a switch goes to a branch or a worktree. Whoever means that must not
/// lose the project's files.
#[test]
fn the_project_is_switched_by_force_alone_where_nobody_can_be_asked_and_that_can_be_undone() {
    let (_scratch, project) = with_project();
    fs::write(project.join("mine"), "untracked").unwrap();
    done(&project, "start w v");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "two\n").unwrap();
    fs::write(root.join("extra"), "theirs").unwrap();
    fs::remove_file(root.join("mine")).unwrap();
    done(&root, "capture --name w");
    // Work that a snapshot has, which a start took, and work that none has.
    fs::write(project.join("dir/b"), "edited").unwrap();
    done(&project, "start later");
    fs::write(project.join("a"), "edited").unwrap();
    fs::write(project.join("extra"), "mine").unwrap();
    let before = ["a", "dir/b", "mine", "extra"].map(|name| read(&project.join(name)));
    let there = root.to_str().unwrap();
    let force = format!("calve switch --force {} w", project.display());
    for (words, parts) in [
        ("switch w", ["the project itself", there, &force]),
        ("switch --json w", ["the project itself", there, &force]),
        ("-C dir switch w", ["the project itself", there, &force]),
        ("switch . w", ["the project itself", there, &force]),
        ("switch v", ["no snapshot", "cd ", "'calve cd v'"]),
    ] {
        let run = calve(&project, words);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert!(parts.iter().all(|part| run.stderr.contains(part)), "{words}: {run:?}");
        assert_eq!(["a", "dir/b", "mine", "extra"].map(|name| read(&project.join(name))), before);
    }
    let run = calve(&project, "switch --force w");
    assert!(run.code == Some(0) && run.stderr.contains("'calve switch --undo'"), "{run:?}");
    assert_eq!(read(&project.join("a")).as_deref(), Some("two\n"));
    assert_eq!(read(&project.join("extra")).as_deref(), Some("theirs"));
    done(&project, "switch --undo");
    assert_eq!(["a", "dir/b", "mine", "extra"].map(|name| read(&project.join(name))), before);
}

/// A user who forgets to name the worktree may be in the project, and does not mean the project.
#[test]
fn the_project_itself_is_reset_by_force_alone_where_nobody_can_be_asked() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot");
    fs::create_dir_all(project.join("dir")).unwrap();
    for words in ["reset", "-C dir reset", "reset .", "--json reset"] {
        fs::write(project.join("a"), "edited").unwrap();
        let run = calve(&project, words);
        assert_eq!(run.code, Some(1), "{run:?}");
        let hint = format!("to reset the project, run: calve reset --force {}", project.display());
        assert!(
            run.stderr.contains("it is the project itself") && run.stderr.contains(&hint),
            "{run:?}"
        );
        assert_eq!(fs::read_to_string(project.join("a")).unwrap(), "edited");
    }
    done(&project, "reset --force");
    assert_eq!(fs::read_to_string(project.join("a")).unwrap(), "alpha\n");
    done(&project, "switch --undo");
    assert_eq!(fs::read_to_string(project.join("a")).unwrap(), "edited");
}

#[test]
fn a_reset_makes_it_what_its_snapshot_is_and_can_be_taken_back() {
    let (_scratch, project, root) = with_changes();
    let run = calve(&project, "reset w -v");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stderr.contains("moved aside: a\n"), "{run:?}");
    assert!(run.stderr.contains("'calve switch w --undo' brings them back"), "{run:?}");
    assert_eq!(calve(&project, "status w").code, Some(0));
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\n"));
    done(&root, "switch --undo");
    assert_eq!(calve(&project, "status w").stdout, "M a\nD dir/b\nA dir/c\nA new\n");
    let kept = calve(&root, "reset --json").json()["kept"].clone();
    assert!(kept.as_array().unwrap().contains(&json!({ "path": "new" })), "{kept}");
}

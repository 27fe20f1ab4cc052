//! Tests `diff`, `switch` and `reset`: changes, and the way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
fn a_restore_says_where_build_output_outside_of_the_tree_is_newer_than_what_it_brought() {
    // The file that the snapshot has beside `a`, what changes after it, and whether it is said.
    for (beside, changed, is_said) in [
        ("b", "a", true),
        ("b", "new", false),
        ("main.o", "a", false),
        ("target/.rustc_info.json", "a", false),
    ] {
        let (_scratch, project) = with_project();
        fs::create_dir_all(project.join(beside).parent().unwrap()).unwrap();
        fs::write(project.join(beside), "").unwrap();
        done(&project, "start w");
        let root = worktrees_of(&project).join("w");
        fs::write(root.join(changed), "2\n").unwrap();
        for verb in ["restore", "undo"] {
            let went = calve(&root, verb);
            assert_eq!(went.code, Some(0), "{went:?}");
            let says = went.stderr.contains("changed files have the times of the snapshot");
            assert_eq!(says, is_said, "{beside}, {changed}: {went:?}");
        }
    }
}

#[test]
fn a_restore_gives_the_content_of_a_snapshot_and_an_undo_takes_all_of_it_back() {
    let (_scratch, project, root) = with_changes();
    let changes = calve(&project, "status w").stdout;
    fs::write(project.join("a"), "later\n").unwrap();
    fs::write(project.join("other"), "x\n").unwrap();
    let from = calve(&root, "show --json").json()["snapshot"].clone();
    let to = done(&project, "snapshot later");

    let restored = calve(&project, "restore later w");
    assert_eq!((restored.code, restored.stdout.as_str()), (Some(0), ""), "{restored:?}");
    assert!(
        restored.stderr.starts_with(&format!("w is at snapshot {}: ", &to[..12])),
        "{restored:?}"
    );
    assert!(restored.stderr.contains("3 moved aside"), "{restored:?}");
    assert!(restored.stderr.contains("; 'calve undo w' brings them back"), "{restored:?}");
    assert_eq!(read(&root.join("a")).as_deref(), Some("later\n"));
    assert_eq!(read(&root.join("other")).as_deref(), Some("x\n"));
    assert!(
        !root.join("dir/c").try_exists().unwrap(),
        "the tree has what the snapshot has, and nothing else"
    );
    assert_eq!(calve(&project, "status w").stdout, "");

    // Another one finds no work. It keeps what the first moved aside, and says so.
    let on = calve(&root, "restore");
    assert_eq!(on.code, Some(0), "{on:?}");
    let first = from.as_str().unwrap();
    let on = calve(&root, &format!("restore {first}"));
    assert!(on.stderr.contains("'calve undo w' brings back what an earlier restore"), "{on:?}");
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\n"));

    let back = calve(&root, "undo --json").json();
    assert_eq!((&back["from"], &back["to"]), (&from, &from));
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\nmore\n"));
    assert_eq!(read(&root.join("other")), None);
    assert_eq!(calve(&project, "status w").stdout, changes);
    let nothing = calve(&project, "undo w");
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.stderr.contains("there is nothing to undo"), "{nothing:?}");
    assert!(nothing.stderr.contains("hint: undo takes back the last restore"), "{nothing:?}");
}

#[test]
fn a_word_that_means_a_worktree_and_a_snapshot_is_refused_with_the_way_to_both() {
    let (_scratch, project) = with_project();
    done(&project, "start both one");
    let root = worktrees_of(&project).join("both");
    let other = worktrees_of(&project).join("one");
    fs::write(root.join("a"), "theirs\n").unwrap();
    let named = calve(&project, "snapshot --of both both");
    assert!(named.code == Some(0) && !named.stderr.contains("warning"), "{named:?}");
    let named = calve(&other, "snapshot both");
    assert!(named.stderr.contains("'calve snapshot --of both' records the worktree"), "{named:?}");
    done(&project, "snapshot --of both both");
    fs::write(root.join("a"), "edited\n").unwrap();
    let refused = calve(&other, "restore both");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let by_path = format!("calve restore {}", root.display());
    for way in [&*by_path, "calve restore both ."] {
        assert!(refused.stderr.contains(&format!("'{way}'")), "{refused:?}");
    }
    assert_eq!(read(&root.join("a")).as_deref(), Some("edited\n"));
    done(&other, by_path.strip_prefix("calve ").unwrap());
    assert_eq!(read(&root.join("a")).as_deref(), Some("theirs\n"));
    assert_eq!(read(&other.join("a")).as_deref(), Some("alpha\n"));
    done(&other, "restore both .");
    assert_eq!(read(&other.join("a")).as_deref(), Some("theirs\n"));
    // A worktree that is gone has another way back.
    for (gone, undone) in [("drop --force both", "both"), ("", "one")] {
        match gone {
            "" => fs::remove_dir_all(&other).unwrap(),
            words => drop(done(&project, words)),
        }
        done(&project, &format!("name both {undone}"));
        let refused = calve(&project, &format!("restore {undone}"));
        assert!(refused.stderr.contains(&format!("'calve undo {undone}'")), "{refused:?}");
        done(&project, &format!("undo {undone}"));
        assert!(worktrees_of(&project).join(undone).is_dir());
    }
}

#[test]
fn the_snapshot_comes_before_the_worktree() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    done(&project, "snapshot s");
    let refused = calve(&project, "restore w s");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("hint: calve restore s w\n"), "{refused:?}");
    done(&project, "restore s w");
}

#[test]
fn with_one_word_it_is_the_snapshot_and_the_current_folders_worktree() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot one");
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "two\n").unwrap();
    done(&root, "snapshot two");
    let mut document = calve(&root.join("dir"), "restore --json one").json();
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
        "left_repositories": [], "leaves_newer_output": true,
    });
    assert_document(&document, &expected);
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\n"));
    // The project, too.
    let project_too = calve(&project, "restore --force --json two").json();
    assert_eq!(project_too["name"], json!(null));
    assert_eq!(read(&project.join("a")).as_deref(), Some("two\n"));
}

/// With git and other tools, a switch goes to a branch or a worktree. calve has no such verb, and
/// whoever is in the project must not lose its files by a word.
#[test]
fn the_project_changes_by_force_alone_where_nobody_can_be_asked_and_that_can_be_undone() {
    let (_scratch, project) = with_project();
    fs::write(project.join("mine"), "untracked").unwrap();
    done(&project, "start w v");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "two\n").unwrap();
    fs::write(root.join("extra"), "theirs").unwrap();
    fs::remove_file(root.join("mine")).unwrap();
    done(&root, "snapshot s");
    // Work that a snapshot has, which a start took, and work that none has.
    fs::write(project.join("dir/b"), "edited").unwrap();
    done(&project, "start later");
    fs::write(project.join("a"), "edited").unwrap();
    fs::write(project.join("extra"), "mine").unwrap();
    let names = ["a", "dir/b", "mine", "extra"];
    let now = || names.map(|name| read(&project.join(name)));
    let before = now();
    let (path, itself) = (project.to_str().unwrap(), "this is the project itself: ");
    let force = format!("run: calve restore --force s {path}");
    let base = format!("run: calve restore --force {path}");
    for (words, code, parts) in [
        ("restore s", 1, [itself, "\n  a\n  extra\n", &force]),
        ("restore --json s", 1, [itself, "2 files with local changes", &force]),
        ("-C dir restore s", 1, [itself, "would be moved aside", &force]),
        ("restore s .", 1, [itself, "would change", &force]),
        ("restore", 1, [itself, "\n  a\n  extra\n", &base]),
        ("-C dir restore", 1, [itself, "2 files with local changes", &base]),
        ("restore .", 1, [itself, "would change", &base]),
        ("switch v", 2, ["unrecognized", "'calve cd NAME'", "'calve restore SNAPSHOT'"]),
        ("--json switch v", 2, ["unrecognized", "'calve cd NAME'", "'calve restore SNAPSHOT'"]),
    ] {
        let run = calve(&project, words);
        assert_eq!(run.code, Some(code), "{words}: {run:?}");
        assert!(parts.iter().all(|part| run.stderr.contains(part)), "{words}: {run:?}");
        assert_eq!(now(), before, "{words}");
    }
    let run = calve(&project, "restore --force s");
    assert!(run.code == Some(0) && run.stderr.contains("'calve undo'"), "{run:?}");
    assert_eq!(read(&project.join("a")).as_deref(), Some("two\n"));
    assert_eq!(read(&project.join("extra")).as_deref(), Some("theirs"));
    // An undo says what it would do, too.
    let after = now();
    let refused = calve(&project, "undo");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let parts = [itself, "2 files come back", "calve undo --force"];
    assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{refused:?}");
    assert_eq!(now(), after);
    done(&project, "undo --force");
    assert_eq!(now(), before);
    done(&project, "restore --force");
    assert_eq!(read(&project.join("a")).as_deref(), Some("alpha\n"));
    let again = calve(&project, "restore");
    assert_eq!(again.code, Some(0), "there is nothing to ask about: {again:?}");
    // The hint is right where it is read.
    done(&root, &format!("undo --force {path}"));
    assert_eq!(now(), before);
    let from_there = calve(&root, &format!("restore --force {path}")).stderr;
    assert!(from_there.contains(&format!("'calve undo {path}'")), "{from_there}");
}

/// The question, the summary and the document count the same. They counted a file that was deleted
/// by hand as moved aside, one that was moved aside as not removed, and nothing of what an undo does
/// itself.
#[test]
fn a_restore_and_its_undo_count_what_becomes_other_what_goes_and_what_is_kept() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot one");
    for (words, counts, undone) in [
        ("echo 2 >a; echo u >u; rm dir/b", [2, 1, 2], [0, 1, 2]),
        ("rm dir/b", [1, 0, 0], [0, 1, 0]),
        ("mkdir new; echo u >new/u", [0, 2, 1], [0, 0, 1]),
        ("rm a; mkdir a; echo u >a/u", [1, 1, 1], [0, 0, 1]),
        ("rm -r dir; echo u >dir", [2, 0, 1], [0, 1, 1]),
        ("chmod 600 a", [1, 0, 1], [1, 0, 0]),
        ("chmod 700 dir", [1, 0, 1], [1, 0, 0]),
    ] {
        for (verb, [changed, removed, kept]) in [("restore", counts), ("undo", undone)] {
            if verb == "restore" {
                command_of(&project, words);
            }
            let asked = calve(&project, verb).stderr;
            let would = match changed {
                1 => "1 entry would change".to_owned(),
                changed => format!("{changed} entries would change"),
            };
            assert!(
                asked.contains(&format!("{would} and {removed} be removed")),
                "{words}: {asked}"
            );
            let files = if kept == 1 { "1 file " } else { &format!("{kept} files ") };
            assert_eq!(asked.contains(files), kept > 0, "{words}: {asked}");
            let document = calve(&project, &format!("{verb} --force --json")).json();
            let told = ["changed_entries", "removed_entries"].map(|it| document[it].clone());
            assert_eq!(told, [json!(changed), json!(removed)], "{verb} after {words}: {document}");
            assert_eq!(document["kept"].as_array().unwrap().len(), kept, "{words}: {document}");
        }
        let told = done(&project, "restore --force") + &calve(&project, "restore --force").stderr;
        assert!(told.contains(": 0 changed, 0 removed"), "{words}: {told}");
    }
}

/// It is all that is known of the files that were moved aside.
#[test]
fn a_damaged_record_of_a_restore_is_an_error_that_names_it() {
    let (_scratch, project, root) = with_changes();
    let changes = calve(&project, "status w").stdout;
    done(&project, "restore w");
    let find = "find . ../p.worktrees -path '*undo/record'";
    let found = command_of(&project, find);
    let [record] = found.lines().collect::<Vec<_>>()[..] else { panic!("{found}") };
    command_of(&project, &format!("cp {record} ../record"));
    for damage in [">", "echo damage >", "rm"] {
        command_of(&project, &format!("{damage} {record}"));
        for words in ["undo w", "undo --json w"] {
            let run = calve(&project, words);
            assert_eq!(run.code, Some(1), "{damage}: {run:?}");
            assert!(run.stderr.contains("/undo/record"), "{damage}: {run:?}");
            assert!(run.stderr.contains("/undo/files;"), "{damage}: {run:?}");
            assert!(!run.stderr.contains("nothing to undo"), "{damage}: {run:?}");
        }
        // A restore to where the tree is needs no record.
        assert_eq!(calve(&project, "restore w").code, Some(0), "{damage}");
    }
    command_of(&project, &format!("cp -p ../record {record}"));
    done(&project, "undo w");
    assert_eq!(calve(&project, "status w").stdout, changes);
    // The next one that moves something aside replaces it.
    done(&project, "restore w");
    command_of(&project, &format!("echo damage >$({find})"));
    fs::write(root.join("a"), "later").unwrap();
    done(&project, "restore w");
    done(&project, "undo w");
    assert_eq!(read(&root.join("a")).as_deref(), Some("later"));
}

/// What a line of a shell prints.
#[track_caller]
fn command_of(folder: &Path, line: &str) -> String {
    let run = Command::new("sh").args(["-ec", line]).current_dir(folder).output().unwrap();
    assert!(run.status.success(), "{line}: {run:?}");
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn without_a_snapshot_it_is_the_base_and_can_be_taken_back() {
    let (_scratch, project, root) = with_changes();
    let run = calve(&project, "restore w -v");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stderr.contains("moved aside: a\n"), "{run:?}");
    assert!(run.stderr.contains("'calve undo w' brings them back"), "{run:?}");
    assert_eq!(calve(&project, "status w").code, Some(0));
    assert_eq!(read(&root.join("a")).as_deref(), Some("alpha\n"));
    done(&root, "undo");
    assert_eq!(calve(&project, "status w").stdout, "M a\nD dir/b\nA dir/c\nA new\n");
    let kept = calve(&root, "restore --json").json()["kept"].clone();
    assert!(kept.as_array().unwrap().contains(&json!({ "path": "new" })), "{kept}");
    // There is one place for what is moved aside. That is said before, and when it happens.
    fs::write(root.join("log"), "").unwrap();
    let run = calve(&root, "restore");
    assert!(run.stderr.contains("what an earlier restore moved aside is deleted"), "{run:?}");
    done(&root, "undo");
    let run = calve(&root, "restore");
    assert!(run.stderr.contains(", until the next restore moves others aside"), "{run:?}");
}

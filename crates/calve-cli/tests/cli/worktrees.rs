//! `start`, `list`, `status`, `capture`, `drop`, `restore`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::shown::assert_document;
use crate::{
    Run, calve, command, done, expected_method, plant, run, scratch, until_deleted, with_project,
    worktrees_of,
};

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn worktrees_start_beside_the_project_and_their_paths_are_the_result() {
    let (_scratch, project) = with_project();
    let beside = worktrees_of(&project);
    let run = calve(&project, "start one two");
    assert_eq!(run.code, Some(0), "{run:?}");
    let (one, two) = (beside.join("one"), beside.join("two"));
    assert_eq!(run.stdout, format!("{}\n{}\n", one.display(), two.display()));
    assert_eq!(read(&one.join("dir/b")), "beta\n");
    fs::write(one.join("a"), "changed").unwrap();
    assert_eq!(
        (read(&two.join("a")), read(&project.join("a"))),
        ("alpha\n".into(), "alpha\n".into())
    );
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{run:?}");
    assert!(lines[0].starts_with("snapshot ") && lines[1].starts_with("2 trees"), "{run:?}");
    match expected_method() {
        Some("reflink") => {
            let whole = lines[1].contains("all by snapshot");
            assert!(whole || lines[1].contains("4 files: all reflinked, 0 B copied"), "{run:?}");
        }
        Some("copy") => {
            assert!(lines[1].contains("4 copied (22 B)"), "{run:?}");
            assert!(lines[1].contains("'calve doctor' says how to change that"), "{run:?}");
        }
        _ => {}
    }
    let quiet = calve(&project, "start -q three");
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.stdout, format!("{}\n", beside.join("three").display()));
}

#[test]
fn a_count_numbers_the_names_and_from_and_at_say_what_and_where() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot before");
    fs::write(project.join("a"), "after\n").unwrap();
    for (words, paths, content) in [
        ("start -n 2", &["../p.worktrees/worktree-1", "../p.worktrees/worktree-2"][..], "after\n"),
        ("start -n 1 --prefix w --from before", &["../p.worktrees/w-1"], "alpha\n"),
        ("start --at ../made/here --from before x", &["../made/here/x"], "alpha\n"),
        ("-C .. --store p/.calve start --at jobs y", &["../jobs/y"], "after\n"),
    ] {
        let printed = done(&project, words);
        assert_eq!(printed.lines().count(), paths.len(), "{words}");
        for (printed, path) in printed.lines().zip(paths) {
            let expected = fs::canonicalize(project.join(path)).unwrap();
            assert_eq!(Path::new(printed), expected, "{words}");
            assert_eq!(read(&expected.join("a")), content, "{words}");
        }
    }
}

#[test]
fn the_document_of_a_start_is_that_of_clone_for_each_worktree() {
    let (_scratch, project) = with_project();
    let document = calve(&project, "start --json one two").json();
    assert_eq!((&document["files"], &document["bytes"]), (&json!(2), &json!(11)));
    assert_eq!(document["taken"]["snapshot"], document["snapshot"]);
    assert_eq!((&document["taken"]["new"], &document["registered"]), (&json!(true), &json!(true)));
    let worktrees = document["worktrees"].as_array().unwrap();
    assert_eq!(worktrees.len(), 2);
    assert_eq!(worktrees[1]["name"], "two");
    assert_eq!(worktrees[1]["path"], worktrees_of(&project).join("two").to_str().unwrap());
    let method = worktrees[0]["method"].as_str().unwrap();
    match expected_method() {
        Some("reflink") => assert!(["reflink", "snapshot"].contains(&method), "{document}"),
        Some("copy") => assert_eq!(worktrees[0]["copied_because"]["filesystem"], 2, "{document}"),
        _ => {}
    }
    let again = calve(&project, "start --json three --from").code;
    assert_eq!(again, Some(2));
    let id = document["snapshot"].as_str().unwrap();
    let from = calve(&project, &format!("start --json three --from {id}")).json();
    assert_eq!((&from["taken"], &from["snapshot"]), (&json!(null), &document["snapshot"]));
}

#[test]
fn of_several_names_all_start_or_none() {
    let (_scratch, project) = with_project();
    done(&project, "start one");
    for words in ["start two one", "start two two", "start two ../b", "start two --from none"] {
        assert_eq!(calve(&project, words).code, Some(1), "{words}");
        assert!(!worktrees_of(&project).join("two").try_exists().unwrap(), "{words}");
        assert_eq!(done(&project, "list").lines().count(), 1, "{words}");
    }
}

/// Changes in the worktree, and the answer of `status`.
#[test]
fn status_has_a_line_a_change_and_three_for_its_exit_code() {
    let (_scratch, project) = with_project();
    plant(&project, &[("link-to-be", "x"), ("mode", "x"), ("gone/c", "x")]);
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    let clean = calve(&project, "status w");
    assert_eq!((clean.code, clean.stdout.as_str()), (Some(0), ""), "{clean:?}");
    assert!(clean.stderr.starts_with("clean since snapshot "), "{clean:?}");

    fs::write(root.join("a"), "other\n").unwrap();
    fs::remove_file(root.join("link-to-be")).unwrap();
    std::os::unix::fs::symlink("a", root.join("link-to-be")).unwrap();
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_dir_all(root.join("gone")).unwrap();
    plant(&root, &[("new name", "x"), ("dir/empty/", "")]);
    let changed = calve(&project, "status w");
    assert_eq!(changed.code, Some(3), "{changed:?}");
    let expected = "M a\nA dir/empty\nD gone/c\nT link-to-be\nX mode\nA new name\n";
    assert_eq!(changed.stdout, expected);
    assert!(changed.stderr.starts_with("6 changes since snapshot "), "{changed:?}");
    assert_eq!(calve(&project, "status -q w").stderr, "");

    let run = calve(&project, "status --json w");
    assert_eq!(run.code, Some(3));
    let mut document = run.json();
    let fields = document.as_object_mut().unwrap();
    assert!(fields.remove("elapsed_seconds").unwrap().is_f64());
    assert_eq!(fields.remove("snapshot").unwrap().as_str().unwrap().len(), 64);
    assert!(fields.remove("entries").unwrap().as_u64().unwrap() >= 6);
    let change = |path: &str, change: &str| json!({ "path": path, "change": change });
    let expected = json!({
        "name": "w", "path": root.to_str(), "clean": false,
        "changes": [
            change("a", "modified"), change("dir/empty", "added"), change("gone/c", "deleted"),
            change("link-to-be", "type"), change("mode", "mode"), change("new name", "added"),
        ],
        "skipped": [],
    });
    assert_document(&document, &expected);
}

#[test]
fn a_name_that_is_not_utf8_is_printed_raw_and_encoded_in_json() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let name = OsStr::from_bytes(b"\xff b");
    if fs::write(worktrees_of(&project).join("w").join(name), "x").is_err() {
        let test = "a_name_that_is_not_utf8_is_printed_raw_and_encoded_in_json";
        return crate::not_run(test, "this filesystem takes no such name");
    }
    let output = command(&project, ["status", "w"]).output().unwrap();
    assert_eq!(output.stdout, b"A \xff b\n");
    let document = calve(&project, "status --json w").json();
    let expected = json!([{ "path": "%FF%20b", "path_encoding": "percent", "change": "added" }]);
    assert_eq!(document["changes"], expected);
}

#[test]
fn a_snapshot_is_the_base_from_then_on() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let root = worktrees_of(&project).join("w");
    fs::write(root.join("a"), "more\n").unwrap();
    let id = done(&project, "snapshot --of w -m done result");
    assert_eq!(id.len(), 64);
    assert_eq!(calve(&project, "status w").code, Some(0));
    assert!(done(&project, "show result").contains(&id));
    assert!(done(&root, "show").contains(&format!("snapshot  {id}")));
    assert_eq!(done(&root, "snapshot"), id, "unchanged");
    assert_eq!(done(&root, "snapshot"), id, "inside of a worktree it is the worktree's");
    assert_eq!(read(&project.join("a")), "alpha\n");
}

#[test]
fn list_has_a_row_a_worktree_with_its_state() {
    let (_scratch, project) = with_project();
    assert_eq!(done(&project, "list"), "");
    let id = done(&project, "snapshot");
    done(&project, "start b long-name c");
    let beside = worktrees_of(&project);
    fs::write(beside.join("b/new"), "x").unwrap();
    fs::remove_dir_all(beside.join("c")).unwrap();
    let path = beside.display();
    let expected = format!(
        "b          ready    new  {path}/b\n\
         c          missing  new  {path}/c\n\
         long-name  ready    new  {path}/long-name"
    );
    assert_eq!(done(&project, "list"), expected);
    let expected = format!(
        "b          ready    new  changed  {path}/b\n\
         c          missing  new  -        {path}/c\n\
         long-name  ready    new  same     {path}/long-name"
    );
    assert_eq!(done(&project, "list --status"), expected);
    let expected = format!(
        "b          ready    {path}/b\n\
         c          missing  {path}/c\n\
         long-name  ready    {path}/long-name"
    );
    assert_eq!(done(&project, "list --no-status"), expected);
    let document = calve(&beside.join("b"), "list --json --status").json();
    let mut rows = document["worktrees"].as_array().unwrap().clone();
    for row in &mut rows {
        for time in ["created", "last_work"] {
            assert!(row.as_object_mut().unwrap().remove(time).unwrap().is_string());
        }
    }
    let row = |name: &str, state: &str, changes: Option<u64>| {
        json!({
            "name": name, "path": beside.join(name).to_str(), "snapshot": id,
            "state": state, "changes": changes, "git": null, "disk": null,
        })
    };
    let expected =
        [row("b", "ready", Some(1)), row("c", "missing", None), row("long-name", "ready", Some(0))];
    assert_eq!(rows, expected);
    assert_eq!(calve(&project, "list --json").json()["worktrees"][0]["changes"], json!(null));
}

/// Runs git, and returns what it prints.
fn git(folder: &Path, words: &str) -> String {
    let run = Command::new("git")
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .args(["-c", "user.name=n", "-c", "user.email=e"])
        .args(words.split(' '))
        .output()
        .unwrap();
    assert!(run.status.success(), "{words}: {run:?}");
    String::from_utf8(run.stdout).unwrap().trim().to_owned()
}

#[test]
fn log_and_show_say_of_which_worktree_and_branch_a_snapshot_is() {
    let (_scratch, project) = with_project();
    for words in ["init -q -b main", "add -A", "commit -qm one"] {
        git(&project, words);
    }
    done(&project, "start -q same");
    done(&project, "start -q -b fix/it named");
    done(&project, "start -q --detach loose");
    let mut ids = Vec::new();
    for name in ["same", "named", "loose"] {
        fs::write(worktrees_of(&project).join(name).join("a"), name).unwrap();
        ids.push(done(&project, &format!("snapshot -q --of {name}")));
    }
    let log = done(&project, "log");
    let origins: Vec<&str> = log.lines().filter_map(|line| line.rsplit("  ").next()).collect();
    assert_eq!(origins, ["loose", "named (fix/it)", "same", "(main)"]);
    let shown = done(&project, &format!("show {}", ids[1]));
    assert!(shown.contains("\nworktree  named\nbranch    fix/it\n"), "{shown}");
    let document = calve(&project, &format!("show --json {}", ids[1])).json();
    assert_eq!((&document["worktree"], &document["branch"]), (&json!("named"), &json!("fix/it")));
}

#[test]
fn in_a_git_project_list_and_drop_say_what_git_says() {
    let (_scratch, project) = with_project();
    for words in ["init -q -b main", "add -A", "commit -qm one"] {
        git(&project, words);
    }
    done(&project, "snapshot -q");
    done(&project, "start -q ahead clean");
    done(&project, "start -q -b fix/it named");
    done(&project, "start -q --detach loose");
    done(&project, "start -q --git none none");
    let beside = worktrees_of(&project);
    git(&beside.join("ahead"), "commit -q --allow-empty -m two");
    git(&beside.join("loose"), "commit -q --allow-empty -m three");
    fs::write(beside.join("named/new"), "").unwrap();
    git(&project, "commit -q --allow-empty -m four");
    let path = beside.display();
    let loose = git(&beside.join("loose"), "rev-parse HEAD");
    let at = &loose[..10];
    let expected = format!(
        "ahead  1 ahead, 1 behind        new  ahead         {path}/ahead\n\
         clean  1 behind                 new  clean         {path}/clean\n\
         loose  1 ahead, 1 behind        new  ({at})  {path}/loose\n\
         named  1 behind, 1 uncommitted  new  fix/it        {path}/named\n\
         none   ready                    new  -             {path}/none"
    );
    assert_eq!(done(&project, "list"), expected);
    let document = calve(&project, "list --json").json();
    let named = json!({
        "linked": true, "branch": "fix/it", "commit": git(&beside.join("named"), "rev-parse HEAD"),
        "merged": false, "ahead": 0, "behind": 1, "uncommitted": 1, "has_more_uncommitted": false,
    });
    assert_eq!(document["worktrees"][3]["git"], named);
    assert_eq!(document["worktrees"][4]["git"], json!(null));
    let document = calve(&project, "list --json --no-status").json();
    assert_eq!(document["worktrees"][3]["git"], json!(null));
    git(&project, "worktree add -q --detach ../gits");
    let (ours, gits) = (format!("none   ready        {path}/none"), project.with_file_name("gits"));
    let expected = format!("{ours}\ngits   made by git  {}", gits.display());
    assert!(done(&project, "list --no-status").ends_with(&expected));
    git(&project, "worktree remove ../gits");

    for (name, kind, told, hint) in [
        ("named", "changed", "\n  new\n", "commit"),
        ("loose", "commits_only_here", "three\n", "branch NEW "),
        ("--delete-branch ahead", "commits_only_here", "two\n", "'calve drop ahead'"),
    ] {
        let refused = calve(&project, &format!("drop {name}"));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(told) && refused.stderr.contains(hint), "{refused:?}");
        let refused = calve(&project, &format!("drop --json {name}"));
        assert_eq!(refused.json()["error"]["kind"], kind, "{refused:?}");
    }
    let run = calve(&project, "drop --force loose");
    let expected = "dropped loose\nthe commits of loose are kept for seven days: 'git branch NEW refs/calve/dropped/loose' makes \
        a branch of them\n";
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), expected));
    assert_eq!(git(&project, "rev-parse refs/calve/dropped/loose"), loose);
    let run = calve(&project, "drop --delete-branch clean");
    assert_eq!(run.stderr, "dropped clean\ndeleted the branch clean\n");
    assert_eq!(git(&project, "branch --format=%(refname:short)"), "ahead\nfix/it\nmain");
    // A branch of somebody else's stays, and that is a finding.
    done(&project, "start -q other");
    git(&beside.join("other"), "switch -q -c theirs");
    let run = calve(&project, "drop --delete-branch other");
    assert_eq!(run.code, Some(3), "{run:?}");
    assert!(run.stderr.starts_with("warning: cannot delete the branch theirs: "), "{run:?}");
    assert!(run.stderr.ends_with("\ndropped other\n"), "{run:?}");
}

#[test]
fn a_drop_returns_at_once_and_the_files_go_behind_it() {
    let (_scratch, project) = with_project();
    done(&project, "start one two three");
    let beside = worktrees_of(&project);
    let run = calve(&project, "drop one two");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert_eq!(run.stderr, "dropped one, two\n");
    let document = calve(&project, "drop --json three").json();
    let three = json!({
        "name": "three", "path": beside.join("three").to_str(), "missing": false,
        "kept_until": null, "kept": [], "kept_in_submodules": [], "deleted_branch": null,
        "problems": [], "living": [],
    });
    assert_document(&document, &json!({ "dropped": [three], "left": [] }));
    assert_eq!(fs::read_dir(&beside).unwrap().count(), 0);
    assert_eq!(done(&project, "list"), "");
    until_deleted(&project.join(".calve"));
    assert_eq!(done(&project, "start -q one").lines().count(), 1, "the name is free again");
}

#[test]
fn of_several_none_is_dropped_where_one_was_changed() {
    let (_scratch, project) = with_project();
    done(&project, "start one two three");
    let beside = worktrees_of(&project);
    fs::write(beside.join("two/new"), "x").unwrap();
    fs::remove_dir_all(beside.join("three")).unwrap();
    for words in ["drop one two three", "drop one one none", "drop one .", "drop two"] {
        let run = calve(&project, words);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{words}: {run:?}");
        assert_eq!(done(&project, "list").lines().count(), 3, "{words}");
        let says_so = run.stderr.contains("\nhint: nothing was dropped; ");
        assert_eq!(says_so, words.split(' ').count() > 2, "{words}: {run:?}");
    }
    let forced = calve(&project, "drop --force one two three three").stderr;
    let (told, kept) = forced.trim_end().rsplit_once('\n').unwrap();
    let three = beside.join("three");
    let three = three.display();
    assert_eq!(
        told,
        format!("dropped one, two\nforgot three: nothing is at {three}, so calve deleted no files")
    );
    assert!(kept.starts_with("the changes of two are kept until 2"), "{kept}");
    assert!(kept.ends_with("Z: 'calve undo two' brings it back"), "{kept}");
    assert_eq!(done(&project, "list"), "");
    until_deleted(&project.join(".calve"));

    let path = beside.join("two");
    let listed = done(&project, "list --dropped");
    let (start, end) = ("two  new  until 2", format!("Z  -  {}", path.display()));
    assert!(listed.starts_with(start) && listed.ends_with(&end), "{listed}");
    let document = calve(&project, "list --dropped --json").json();
    assert_eq!(document["dropped"][0]["path"], json!(path.to_str()));
    let none = calve(&project, "undo one");
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("'calve list --dropped'"), "{none:?}");
    let back = calve(&project, "undo two");
    assert_eq!(back.stdout, format!("{}\n", path.display()), "{back:?}");
    assert_eq!(back.stderr, "two is back, as it was dropped\n");
    assert_eq!(done(&project, "list --dropped"), "");
    assert_eq!(fs::read(path.join("new")).unwrap(), b"x");
    let discarded = calve(&project, "drop --force --discard two");
    assert_eq!(discarded.stderr, "dropped two\n");
    assert_eq!(done(&project, "list --dropped"), "");
}

/// Nobody was asked whether that work may go: `restore` said that an undo brings it back.
#[test]
fn a_drop_keeps_what_a_restore_moved_aside() {
    let (_scratch, project) = with_project();
    done(&project, "start one");
    let path = worktrees_of(&project).join("one");
    fs::write(path.join("new"), "x").unwrap();
    done(&project, "restore one");
    let dropped = calve(&project, "drop one");
    assert!(dropped.stderr.contains("'calve undo one'"), "{dropped:?}");
    done(&project, "undo one");
    done(&project, "undo one");
    assert_eq!(fs::read(path.join("new")).unwrap(), b"x");
    // Nothing is aside any more.
    fs::remove_file(path.join("new")).unwrap();
    assert_eq!(calve(&project, "drop one").stderr, "dropped one\n");
}

#[test]
fn what_is_in_one_worktree_alone_is_unique_and_a_dry_run_says_that_a_drop_frees_it() {
    let (_scratch, project) = with_project();
    done(&project, "start one two three");
    let beside = worktrees_of(&project);
    let bytes: Vec<u8> = (0..400_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    fs::write(beside.join("one/new"), &bytes).unwrap();
    fs::remove_dir_all(beside.join("three")).unwrap();

    let usage = calve(&project, "du --json").json();
    let trees = usage["worktrees"].as_array().unwrap();
    let names: Vec<_> = trees.iter().map(|tree| tree["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"], "the missing one takes nothing");
    let of = |tree: &serde_json::Value, field: &str| tree[field].as_u64().unwrap();
    let size = bytes.len() as u64;
    assert!((size..size + 100_000).contains(&of(&trees[0], "unique_bytes")), "{usage}");
    assert!(of(&trees[1], "unique_bytes") < 100_000, "{usage}");
    assert!(of(&trees[0]["frees"], "least_bytes") >= size, "{usage}");
    assert!(of(&usage["frees"], "expected_bytes") >= size, "{usage}");
    assert_eq!(of(&usage["store"], "unreadable"), 0, "{usage}");
    let rows = done(&project, "du one");
    assert_eq!(rows.lines().count(), 2, "{rows}");
    assert!(rows.starts_with("name") && rows.contains("\none "), "{rows}");
    assert!(done(&project, "list --disk").contains("  frees 1."), "the row of one");

    // It refuses what a drop would refuse, and removes nothing.
    for words in ["drop --dry-run one", "drop --dry-run two one", "drop --dry-run ."] {
        let run = calve(&project, words);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{words}: {run:?}");
    }
    let run = calve(&project, "drop --dry-run --force --json one two").json();
    let kept = |at: usize| run["would_drop"][0]["worktrees"][at]["kept"].as_bool().unwrap();
    assert_eq!((kept(0), kept(1)), (true, false), "{run}");
    assert!(of(&run["would_drop"][0]["frees"], "expected_bytes") < 100_000, "{run}");
    assert!(of(&run["would_drop"][0]["frees_later"], "least_bytes") >= size, "{run}");
    let run = calve(&project, "drop --dry-run --force --discard one three");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.starts_with("would drop one, which frees about 1."), "{run:?}");
    assert!(run.stderr.ends_with("would forget three\n"), "{run:?}");
    assert_eq!(done(&project, "list").lines().count(), 3);
    assert!(calve(&project, "du three").stderr.contains(" is gone"));
}

#[test]
fn the_first_start_of_a_large_project_says_what_is_read_behind_it() {
    let (_scratch, project) = with_project();
    plant(&project, &[(".git/", ""), (".jj/", "")]);
    fs::File::create(project.join("large")).unwrap().set_len(65 << 20).unwrap();
    let run = calve(&project, "start --git none one");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("\n.jj stays in the project"), "{run:?}");
    let behind =
        "68.2 MB are read in the background, for the snapshot that these worktrees started from";
    let shares = [" 0 B copied", " all by snapshot"].iter().any(|it| run.stderr.contains(it));
    match shares {
        true => assert!(run.stderr.contains(behind), "{run:?}"),
        false => assert!(run.stderr.contains(" new contents "), "it reads first: {run:?}"),
    }
    let status = calve(&project, "status one");
    assert!(status.stderr.starts_with("clean since snapshot "), "{status:?}");
    let second = calve(&project, "start --git none two");
    assert!(!second.stderr.contains("in the background"), "{second:?}");
}

#[test]
fn equal_bytes_share_their_blocks_again_and_the_command_says_how_many() {
    let (_scratch, project) = with_project();
    done(&project, "start one two");
    let beside = worktrees_of(&project);
    let bytes: Vec<u8> = (0..400_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    for name in ["one", "two"] {
        let path = beside.join(name).join("built");
        fs::write(&path, &bytes).unwrap();
        fs::File::open(path).unwrap().sync_all().unwrap();
    }
    let folders = format!("reshare --from {0}/one {0}/two", beside.display());
    let shares = expected_method() == Some("reflink");
    if !shares && calve(&project, "reshare --dry-run").code == Some(3) {
        for words in ["reshare", "reshare one", &folders] {
            let run = calve(&project, words);
            assert_eq!(run.code, Some(3), "{words}: {run:?}");
            assert!(run.stderr.contains("the filesystem cannot share them"), "{words}: {run:?}");
        }
        return;
    }
    for words in ["reshare --dry-run --json", "reshare --dry-run --json two one", "reshare --json"]
    {
        let run = calve(&project, words).json();
        assert_eq!(run["reshared_files"], 1, "{words}: {run}");
        assert!(run["reshared_bytes"].as_u64().unwrap() >= 1_600_000, "{words}: {run}");
    }
    let run = calve(&project, "reshare");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stderr.starts_with("gave back 0 B in 0 files"), "{run:?}");
    fs::write(beside.join("two/more"), &bytes).unwrap();
    fs::File::open(beside.join("two/more")).unwrap().sync_all().unwrap();
    assert_eq!(calve(&project, &folders).code, Some(0));
    for (words, told) in [
        ("reshare three", "three"),
        ("reshare --from .", "<WORKTREE>"),
        ("reshare --from nowhere .", "nowhere"),
    ] {
        let run = calve(&project, words);
        assert_ne!(run.code, Some(0), "{words}");
        assert!(run.stderr.contains(told), "{words}: {run:?}");
    }
}

#[test]
fn a_name_in_the_commands_of_a_hint_is_one_word_to_a_shell() {
    let (_scratch, project) = with_project();
    done(&project, "start other");
    for (name, word) in [("a;b", "'a;b'"), ("$(id)", "'$(id)'"), ("it's", r"'it'\''s'")] {
        done(&project, &format!("start {name}"));
        fs::write(worktrees_of(&project).join(name).join("a"), "changed").unwrap();
        for (words, told) in [
            (format!("drop {name}"), format!("'calve drop --force {word}'")),
            (format!("drop {name} other"), format!("'calve drop --force {word}'")),
            (format!("restore {name}"), format!("'calve undo {word}'")),
        ] {
            let run = calve(&project, &words);
            assert!(run.stderr.contains(&told), "{words}: {run:?}");
        }
        fs::remove_dir_all(worktrees_of(&project).join(name)).unwrap();
        let missing = calve(&project, &format!("status {name}"));
        assert!(missing.stderr.contains(&format!("'calve restore {word}'")), "{missing:?}");
    }
}

#[test]
fn worktrees_inside_of_others_are_dropped_before_them_and_hold_up_those_that_go_without() {
    let (_scratch, project) = with_project();
    done(&project, "start outer other");
    done(&project, "start --at ../p.worktrees/outer/dir inner");
    for words in ["drop outer", "drop other outer", "drop --force other outer"] {
        let run = calve(&project, &format!("{words} --json"));
        assert_eq!((run.code, &run.json()["error"]["kind"]), (Some(1), &json!("overlap")));
        assert_eq!(run.json()["error"]["details"].as_array().unwrap().len(), 1, "{run:?}");
        assert_eq!(done(&project, "list").lines().count(), 3, "{words}");
    }
    assert_eq!(calve(&project, "drop outer other inner").stderr, "dropped inner, outer, other\n");
    until_deleted(&project.join(".calve"));
}

#[test]
fn whoever_stands_in_what_is_dropped_is_told_where_to_go() {
    let (_scratch, project) = with_project();
    done(&project, "start one two");
    let root = worktrees_of(&project).join("one");
    let told = calve(&root.join("dir"), "drop two one");
    let expected = format!(
        "dropped two, one\nthe current folder was dropped, too: cd {}\n",
        project.display()
    );
    assert_eq!((told.code, told.stderr), (Some(0), expected));
    until_deleted(&project.join(".calve"));
}

#[test]
fn what_was_on_another_filesystem_is_deleted_too() {
    let (_scratch, project) = with_project();
    let elsewhere = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let at = elsewhere.path().join("jobs");
    done(&project, &format!("start one --at {}", at.display()));
    assert_eq!(read(&at.join("one/a")), "alpha\n");
    done(&project, "drop one");
    until_deleted(&project.join(".calve"));
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

#[test]
fn what_was_deleted_by_hand_is_restored_or_dropped() {
    let (_scratch, project) = with_project();
    done(&project, "start one two");
    let beside = worktrees_of(&project);
    for name in ["one", "two"] {
        fs::remove_dir_all(beside.join(name)).unwrap();
    }
    let run = calve(&project, "status one");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(
        run.stderr.contains("'calve restore one'")
            && run.stderr.contains("'calve drop --force one'")
    );
    let one = beside.join("one");
    assert_eq!(done(&project, "restore one"), one.to_str().unwrap());
    assert_eq!(read(&one.join("dir/b")), "beta\n");
    assert_eq!(calve(&project, "status one").code, Some(0));
    let there = calve(&project, "restore --json one");
    assert_eq!((there.code, &there.json()["kept"]), (Some(0), &json!([])));
    // In a copy of the project it is the first one's.
    let copy = project.with_file_name("copy");
    assert!(Command::new("cp").arg("-a").args([&project, &copy]).status().unwrap().success());
    let others = calve(&copy, "restore one").stderr;
    assert!(others.contains("another project's") && !others.contains("match"), "{others}");
    // By the path it had, as well.
    let two = beside.join("two");
    let forgot = calve(&project, "drop ../p.worktrees/two");
    let expected =
        format!("forgot two: nothing is at {}, so calve deleted no files", two.display());
    assert_eq!((forgot.code, forgot.stderr.trim_end()), (Some(0), expected.as_str()));
    assert_eq!(done(&project, "list").lines().count(), 1);
    fs::remove_dir_all(&one).unwrap();
    let document = calve(&project, &format!("restore --json {}", one.display())).json();
    assert_eq!((&document["name"], &document["path"]), (&json!("one"), &json!(one.to_str())));
}

#[test]
fn a_drop_of_what_is_missing_says_that_it_deleted_nothing_and_what_stays() {
    let (_scratch, project) = with_project();
    done(&project, "start one two");
    let one = worktrees_of(&project).join("one");
    for name in ["one", "two"] {
        fs::remove_dir_all(worktrees_of(&project).join(name)).unwrap();
    }
    plant(&one, &[("mine", "x")]);
    let refused = calve(&project, "drop one");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let forgot = calve(&project, "drop --force one");
    let expected =
        format!("forgot one: {} is not this worktree, so calve left it there\n", one.display());
    assert_eq!((forgot.code, forgot.stderr), (Some(0), expected));
    assert_eq!(read(&one.join("mine")), "x");
    let document = calve(&project, "drop --json two").json();
    assert_eq!(document["dropped"][0]["missing"], json!(true), "{document}");
}

/// A database that is another store's, too, would be the end of both.
#[test]
fn a_project_that_is_cloned_as_links_has_a_store_of_its_own() {
    for mode in ["hardlink", "symlink"] {
        let scratch = scratch();
        let (project, copy) = (scratch.path().join("p"), scratch.path().join("copy"));
        fs::create_dir(&project).unwrap();
        fs::write(project.join("file"), "one").unwrap();
        done(&project, "init -q");
        done(&project, "start -q w");
        let run = calve(scratch.path(), &format!("clone --json --mode {mode} p copy"));
        assert_eq!(run.code, Some(0), "{mode}: {run:?}");
        assert_eq!(run.json()["destinations"][0]["linked_files"], 1, "{mode}: {run:?}");
        fs::write(copy.join("new"), "two").unwrap();
        let state = |place: &Path| {
            calve(place, "list --json").json()["worktrees"][0]["state"].as_str().map(str::to_owned)
        };
        assert_eq!(state(&copy).as_deref(), Some("missing"), "{mode}");
        done(&copy, "drop -q --force w");
        done(&copy, "snapshot -q of-the-copy");
        assert_eq!(state(&project).as_deref(), Some("ready"), "{mode}");
        done(&project, "status w");
        done(&project, "store verify");
        assert_eq!(calve(&project, "show of-the-copy").code, Some(1), "{mode}");
    }
}

#[test]
fn a_signal_during_a_start_leaves_no_worktree_behind() {
    let scratch = scratch();
    for number in 0..2000 {
        let name = format!("p/{}/{number}", number % 20);
        plant(scratch.path(), &[(&name, "some content")]);
    }
    let project = scratch.path().join("p");
    done(&project, "init");
    done(&project, "snapshot");
    let mut start = command(&project, ["start", "--json", "-n", "40"]);
    start.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = start.spawn().unwrap();
    let beside = worktrees_of(&project);
    let started = std::time::Instant::now();
    while fs::read_dir(&beside).map_or(0, Iterator::count) == 0 {
        assert!(started.elapsed().as_secs() < 30, "nothing was begun");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let cut = Run::from(child.wait_with_output().unwrap());
    assert_eq!(cut.code, Some(130), "{cut:?}");
    assert_eq!(cut.json()["error"]["kind"], "cancelled");
    assert_eq!(fs::read_dir(&beside).unwrap().count(), 0);
    assert_eq!(run(command(&project, ["list"])).stdout, "");
}

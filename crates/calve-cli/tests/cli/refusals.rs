//! Tests the errors of stores and worktrees: the kind, the words and the hint, for people and in
//! JSON. A refusal changes nothing.

use std::fs;

use crate::{calve, command, done, run, with_project, worktrees_of};

#[test]
fn each_refusal_has_its_kind_and_a_way_out_and_changes_nothing() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot first");
    done(&project, "start w gone");
    let beside = worktrees_of(&project);
    fs::remove_dir_all(beside.join("gone")).unwrap();
    fs::write(beside.join("w/new"), "x").unwrap();
    fs::write(beside.join("w/new\u{1b}[2J"), "x").unwrap();
    fs::create_dir_all(beside.join("occupied/by")).unwrap();
    let id_as_name = format!("name first {}", "0123456789abcdeF".repeat(4));
    let rows = [
        ("-C ../p.worktrees list", "store_not_found", "p.worktrees", "'calve init'"),
        ("--store none list", "store_not_found", "none", "PROJECT/.git/calve"),
        ("show none", "snapshot_not_found", "none", "'calve log'"),
        (
            "show abc",
            "snapshot_not_found",
            "a snapshot id needs at least four digits",
            "'calve log'",
        ),
        ("start x --from none", "snapshot_not_found", "none", "'calve log'"),
        ("name none x", "snapshot_not_found", "none", "'calve log'"),
        ("name --delete none", "snapshot_not_found", "none", "'calve name'"),
        ("restore none w", "snapshot_not_found", "none", "'calve log'"),
        ("undo w", "snapshot_not_found", "nothing to undo", "the last restore"),
        ("store warm none", "snapshot_not_found", "none", "'calve log'"),
        ("status nw", "worktree_not_found", "is named 'nw'; did you mean 'w'?", "'calve list'"),
        ("show frist", "snapshot_not_found", "'frist'; did you mean 'first'?", "'calve log'"),
        ("status none", "worktree_not_found", "none", "'calve list'"),
        ("drop none", "worktree_not_found", "none", "'calve list'"),
        ("restore none", "worktree_not_found", "none", "'calve list'"),
        ("status dir", "worktree_not_found", "not its root", "name its root instead: "),
        ("start w", "worktree_exists", "'w' already", "'calve start w-2'"),
        ("start occupied", "destination_exists", "occupied", "--at"),
        ("status gone", "worktree_missing", "gone", "'calve restore gone'"),
        ("diff gone", "worktree_missing", "gone", "'calve drop --force gone'"),
        ("snapshot --of gone", "worktree_missing", "gone", "'calve restore gone'"),
        ("restore first gone", "worktree_missing", "gone", "'calve restore gone'"),
        ("drop w", "changed", "w", "'calve drop --force w'"),
        ("drop w gone", "changed", "w", "'calve drop --force w'"),
        ("drop .", "invalid_name", "the project itself", ".calve"),
        (
            "start ../b",
            "invalid_name",
            "'../b' cannot be a name: it contains a slash",
            "'calve start --at .. b'",
        ),
        ("start ..", "invalid_name", "starts with", "no slash"),
        ("start x x", "invalid_name", "x", "given twice"),
        ("name first a/b", "invalid_name", "a/b", "no slash"),
        (&id_as_name, "invalid_name", "looks like", "no slash"),
        ("snapshot a/b", "invalid_name", "a/b", "no slash"),
    ];
    // A start that fails late leaves the snapshot that it took, so the log is no part of this.
    let state = || [done(&project, "list"), done(&project, "name")];
    let before = state();
    for (words, kind, error, hint) in rows {
        let plain = calve(&project, words);
        assert_eq!((plain.code, plain.stdout.as_str()), (Some(1), ""), "{words}: {plain:?}");
        let lines: Vec<&str> = plain.stderr.lines().collect();
        assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "{words}: {plain:?}");
        let last = lines[lines.len() - 1];
        assert!(last.starts_with("hint: ") && last.contains(hint), "{words}: {plain:?}");
        let is_control = |character: char| character.is_control() && character != '\n';
        assert!(!plain.stderr.contains(is_control), "{words}: {plain:?}");
        let details = if kind == "changed" { 2 } else { 0 };
        assert_eq!(lines.len(), 2 + details, "{words}: {plain:?}");
        let json = calve(&project, &format!("{words} --json"));
        assert_eq!((json.code, &json.stderr), (plain.code, &plain.stderr), "{words}");
        let document = json.json();
        assert_eq!(document["error"]["kind"], kind, "{words}: {document}");
        assert_eq!(document["error"]["details"].as_array().map_or(0, Vec::len), details, "{words}");
    }
    assert_eq!(state(), before);
}

#[test]
fn a_project_without_a_snapshot_says_how_to_take_one() {
    let (_scratch, project) = with_project();
    for words in ["status", "diff", "restore --force", "show"] {
        let run = calve(&project, words);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert!(
            run.stderr.contains("hint: 'calve snapshot' takes the first one"),
            "{words}: {run:?}"
        );
    }
}

#[test]
fn many_details_are_cut_and_counted_unless_all_are_asked_for() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    for number in 0..15 {
        fs::write(worktrees_of(&project).join(format!("w/new-{number:02}")), "x").unwrap();
    }
    let cut = calve(&project, "drop w").stderr;
    assert!(cut.contains("\n  new-09\n  and 5 more; -v lists all\nhint: "), "{cut}");
    let all = calve(&project, "drop -v w").stderr;
    assert!(all.contains("\n  new-14\nhint: "), "{all}");
}

/// Words of git, of other tools, or of `calve store`: clap by itself knew but what looks alike.
#[test]
fn a_word_that_calve_does_not_have_is_told_what_does_that() {
    let (_scratch, project) = with_project();
    for (words, tip) in [
        ("gc", "'calve store gc'"),
        ("stats", "'calve store stats'"),
        ("pack --all", "'calve store pack'"),
        ("help verify", "'calve store verify'"),
        ("rm w", "'calve drop NAME'"),
        ("switch w", "'calve cd NAME' goes there, 'calve restore SNAPSHOT' changes files"),
        ("reset --hard", "'calve restore [WORKTREE]'"),
        ("capture w", "'calve snapshot [NAME]'"),
        ("snapshot --name s", "calve snapshot NAME"),
        ("restore --dropped w", "'calve restore NAME'"),
        ("store prune", "'calve store gc'"),
    ] {
        let run = calve(&project, words);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{words}: {run:?}");
        let tips: Vec<&str> = run.stderr.lines().filter(|line| line.contains("tip:")).collect();
        assert!(matches!(tips[..], [line] if line.contains(tip)), "{words}: {run:?}");
        let json = calve(&project, &format!("--json {words}")).json();
        assert!(json["error"]["hint"].as_str().unwrap().contains(tip), "{words}: {json}");
    }
    // What merely looks alike is still told where there is nothing better.
    assert!(calve(&project, "lst").stderr.contains("tip: a similar subcommand exists: 'list'"));
}

#[test]
fn words_that_say_nothing_are_usage_errors() {
    let (_scratch, project) = with_project();
    done(&project, "snapshot s");
    for (words, part) in [
        ("start", "<NAME>"),
        ("start -n 2 x", "cannot be used with"),
        ("start -n 0", "0 is not in"),
        ("start --prefix p x", "--prefix needs -n"),
        ("drop", "<NAME>"),
        ("restore a b c", "unexpected"),
        ("undo a b", "unexpected"),
        ("undo --as x", "<WORKTREE>"),
        ("diff --stat --patch", "cannot be used with"),
        ("name s", "SNAPSHOT comes before NAME"),
        ("name --delete s x", "cannot be used with"),
        ("log -n x", "invalid"),
        ("store", "Usage: calve store"),
        ("store gc --grace 1w", "not a time"),
        ("store nonsense", "unrecognized"),
        (
            "path --project w",
            "Usage: calve path [OPTIONS] [WORKTREE]\n       calve path [OPTIONS] --project\n",
        ),
    ] {
        let run = calve(&project, words);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{words}: {run:?}");
        assert!(run.stderr.contains(part), "{words}: {run:?}");
    }
    for args in [["status", ""], ["drop", ""], ["show", ""], ["start", ""], ["--store", ""]] {
        let run = run(command(&project, args));
        assert_eq!(run.code, Some(2), "{args:?}: {run:?}");
    }
}

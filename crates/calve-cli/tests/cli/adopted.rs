//! The verbs work on worktrees that git or another tool made.

use std::fs;
use std::path::{Path, PathBuf};

use crate::hints::{in_git, repository, sh};
use crate::{Run, not_run, scratch};

/// A project with a store, and the worktree `other` of git beside it: a changed file, a new one, and
/// one that git ignores.
fn other() -> Option<(tempfile::TempDir, PathBuf, PathBuf)> {
    let (scratch, root) = repository()?;
    let (app, other) = (root.join("app"), root.join("other"));
    sh(&app, "printf 'out/\\n' >.gitignore; git add .; git commit -qm 2")?;
    assert_eq!(in_git(&app, "snapshot -q").code, Some(0));
    sh(&app, "git worktree add -q ../other; cd ../other; mkdir -p out; echo built >out/b")?;
    sh(&other, "echo work >>f; echo new >n")?;
    Some((scratch, app, other))
}

fn is_refused(run: &Run, part: &str) -> bool {
    run.code == Some(1) && run.stderr.contains(part)
}

/// The changes since the base are what `git status` lists: the base is the tree without its
/// uncommitted work.
#[test]
fn a_worktree_of_git_has_the_changes_that_git_status_lists() {
    let name = "a_worktree_of_git_has_the_changes_that_git_status_lists";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    for (place, words) in [(&app, "status other"), (&other, "status"), (&app, "status ../other")] {
        let run = in_git(place, words);
        assert_eq!((run.code, &*run.stdout), (Some(3), "M f\nA n\n"), "{words}: {run:?}");
    }
    let diff = in_git(&app, "diff other").stdout;
    assert!(diff.contains("+work") && diff.contains("+new") && !diff.contains("built"), "{diff}");
    let listed = in_git(&app, "list --json --status").json();
    let worktree = &listed["worktrees"][0];
    let said = (&worktree["name"], &worktree["state"], &worktree["changes"]);
    assert_eq!(said, (&"other".into(), &"ready".into(), &2.into()), "{listed}");
    assert_eq!(listed["git_worktrees"], serde_json::json!([]));
    assert_eq!(in_git(&app, "du other").code, Some(0));
    // git knows it as before, and calve wrote nothing into its tree.
    assert_eq!(sh(&other, "git status --porcelain").unwrap(), " M f\n?? n\n");
    assert_eq!(sh(&other, "git branch --show-current").unwrap(), "other\n");
    // Its content is kept, changed and brought back as that of each worktree.
    let taken = in_git(&other, "snapshot -q one");
    assert_eq!(taken.code, Some(0), "{taken:?}");
    assert_eq!(in_git(&app, "status other").stdout, "");
    sh(&other, "echo more >>n; rm f").unwrap();
    assert_eq!(in_git(&app, "restore one other").code, Some(0));
    assert_eq!(fs::read_to_string(other.join("n")).unwrap(), "new\n");
    assert_eq!(in_git(&app, "undo other").code, Some(0));
    assert_eq!(fs::read_to_string(other.join("n")).unwrap(), "new\nmore\n");
    assert_eq!(sh(&other, "cat out/b").unwrap(), "built\n");
}

/// `git worktree remove` refuses uncommitted work, and loses the commits of a detached `HEAD`.
#[test]
fn a_drop_of_a_worktree_of_git_loses_nothing() {
    let name = "a_drop_of_a_worktree_of_git_loses_nothing";
    for (row, script, words, refused) in [
        ("a clean one", "git checkout -q f; rm n", "drop other", None),
        ("a changed file", "rm n", "drop other", Some("not committed")),
        ("a new file", "git checkout -q f", "drop other", Some("not committed")),
        ("staged work", "git add .", "drop other", Some("not committed")),
        ("work that was looked at", "calve status", "drop other", Some("not committed")),
        (
            "a commit of a detached HEAD",
            "git checkout -q --detach; git add .; git commit -qm 3",
            "drop other",
            Some("commits that no branch"),
        ),
        ("a lock", "git checkout -q f; rm n; git worktree lock .", "drop other", Some("locked")),
        (
            "another worktree inside",
            "git checkout -q f; rm n; git worktree add -q out/in",
            "drop other",
            Some("other worktrees are inside"),
        ),
        (
            "a clone that git ignores",
            "git checkout -q f; rm n; git init -q out/in; echo z >out/in/new",
            "drop other",
            Some("not committed"),
        ),
        (
            "the same, looked at before",
            "calve status; git checkout -q f; rm n; git init -q out/in; echo z >out/in/new",
            "drop other",
            Some("not committed"),
        ),
        (
            "the same, looked at afterwards",
            "git checkout -q f; rm n; git init -q out/in; echo z >out/in/new; calve status",
            "drop other",
            Some("not committed"),
        ),
        (
            "a clone with its repository elsewhere",
            "git checkout -q f; rm n; git init -q --separate-git-dir ../sep out/in; echo z >out/in/new",
            "drop other",
            Some("not committed"),
        ),
        (
            "another repository's worktree",
            "git checkout -q f; rm n; TWO -b in $PWD/out/in; echo z >out/in/new",
            "drop other",
            Some("not committed"),
        ),
        (
            "a detached HEAD of another repository's",
            "git checkout -q f; rm n; TWO --detach $PWD/out/in; git -C out/in commit -q --allow-empty -m 3",
            "drop other",
            Some("commits that no branch"),
        ),
        (
            "a clean one of another repository's",
            "git checkout -q f; rm n; TWO -b in $PWD/out/in",
            "drop other",
            None,
        ),
        ("nothing merged", "git checkout -q f; rm n", "drop --merged other", None),
        ("not idle", "git checkout -q f; rm n", "drop --idle 1h other", None),
    ] {
        let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
        let two = "git init -q -b main ../two; git -C ../two commit -q --allow-empty -m 2; \
                   git -C ../two worktree add -q";
        for (at, part) in script.replace("TWO", two).split("calve status").enumerate() {
            if at > 0 {
                assert!(matches!(in_git(&app, "status other").code, Some(0 | 3)), "{row}");
            }
            sh(&other, part.trim_matches([';', ' '])).unwrap();
        }
        let stays = words.contains("--") || refused.is_some();
        let run = in_git(&app, words);
        if let Some(part) = refused {
            assert!(is_refused(&run, part), "{row}: {run:?}");
        } else {
            assert_eq!(run.code, Some(0), "{row}: {run:?}");
        }
        assert_eq!(other.try_exists().unwrap(), stays, "{row}: {run:?}");
        let known = sh(&app, "git worktree list").unwrap().contains("/other ");
        assert_eq!(known, stays, "{row}");
    }
}

#[test]
fn merged_and_idle_worktrees_of_git_are_dropped_and_all_come_back() {
    let name = "merged_and_idle_worktrees_of_git_are_dropped_and_all_come_back";
    for (script, words) in [
        (
            "git add .; git commit -qm 3; git -C ../app merge -q other",
            "drop --merged --clean other",
        ),
        ("git checkout -q f; rm n; sleep 1.1", "drop --idle 1s other"),
        ("git add n", "drop --force other"),
        ("git checkout -q f; rm n; git init -q out/in; echo z >out/in/new", "drop --force other"),
        ("true", "drop --force ../other"),
    ] {
        let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
        sh(&other, script).unwrap();
        let looked = "git --no-optional-locks status --porcelain; ls -R out";
        let before = sh(&other, looked).unwrap();
        let run = in_git(&app, words);
        assert!(run.code == Some(0) && !other.try_exists().unwrap(), "{words}: {run:?}");
        if words.contains("--force") {
            assert_eq!(in_git(&app, "undo other").code, Some(0), "{words}");
            assert_eq!(sh(&other, looked).unwrap(), before, "{words}");
            assert_eq!(sh(&other, "git branch --show-current").unwrap(), "other\n");
        }
    }
}

/// A timer runs `tidy`. Nobody asked it to look after these, whatever was looked at in them.
#[test]
fn a_worktree_of_git_goes_only_by_its_name() {
    let name = "a_worktree_of_git_goes_only_by_its_name";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    sh(&other, "git add .; git commit -qm 3; git -C ../app merge -q other").unwrap();
    for words in ["path", "path .", "path --json"] {
        let run = in_git(&other, words);
        assert!(run.stdout.contains(other.to_str().unwrap()), "{words}: {run:?}");
    }
    let listed = in_git(&app, "list --json").json();
    assert_eq!(listed["git_worktrees"][0]["name"], "other", "a look adopts nothing: {listed}");
    assert_eq!(in_git(&other, "env").code, Some(0));
    assert_eq!(in_git(&other, "status").code, Some(0));
    for words in ["drop --clean", "drop --merged", "drop --idle 0s"] {
        let run = in_git(&app, words);
        let said = "nothing to drop\nleft other: git made it: name it to drop it\n";
        assert_eq!((run.code, &*run.stderr), (Some(0), said), "{words}");
    }
    assert_eq!(in_git(&app, "tidy --max-age 0s --idle 0s").code, Some(0));
    assert_eq!(sh(&other, "cat out/b").unwrap(), "built\n");
    assert_eq!(in_git(&app, "drop --merged other").code, Some(0));
    assert!(!other.try_exists().unwrap());
}

#[test]
fn a_worktree_of_git_that_is_called_like_one_of_calves_is_known_by_its_folder() {
    let name = "a_worktree_of_git_that_is_called_like_one_of_calves_is_known_by_its_folder";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    // Of two folders `w`, git calls the second one w1; a third one may not even be that.
    assert_eq!(in_git(&app, "start -q other").code, Some(1), "the branch is checked out");
    assert_eq!(in_git(&app, "start -q -b mine other").code, Some(0));
    let run = in_git(&app, "status ../other");
    assert!(is_refused(&run, "git worktree move"), "{run:?}");
    assert_eq!(in_git(&app, "status other").code, Some(0), "that is calve's");
    sh(&app, &format!("git worktree move {} ../third", other.display())).unwrap();
    let run = in_git(&app, "status third");
    assert_eq!((run.code, &*run.stdout), (Some(3), "M f\nA n\n"), "{run:?}");
}

/// calve advised `git worktree prune` there. That loses staged files, and the commits of a detached
/// `HEAD`.
#[test]
fn a_worktree_of_git_whose_folder_is_gone_comes_back_or_is_dropped_without_a_loss() {
    let name = "a_worktree_of_git_whose_folder_is_gone_comes_back_or_is_dropped_without_a_loss";
    for word in ["other", "../other"] {
        let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
        sh(&other, "git checkout -q --detach; git commit -qam 3; git add n").unwrap();
        let blob = sh(&other, "git rev-parse HEAD; git rev-parse :n").unwrap();
        fs::remove_dir_all(&other).unwrap();
        let run = in_git(&app, &format!("status {word}"));
        assert!(is_refused(&run, "its base snapshot has it") && !run.stderr.contains("prune"));
        let run = in_git(&app, &format!("drop {word}"));
        assert_eq!(run.code, Some(0), "{word}: {run:?}");
        let held = "git rev-list --objects --glob=refs/calve/dropped";
        let held = sh(
            &app,
            &format!("git reflog expire --expire=now --all; git gc -q --prune=now; {held}"),
        );
        let held = held.unwrap();
        assert!(blob.lines().all(|id| held.contains(id)), "{word}: {blob} {held}");
        assert!(!sh(&app, "git worktree list").unwrap().contains("other"), "{word}");
    }
    for is_known in [false, true] {
        let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
        sh(&app, "echo mine >out/m")
            .unwrap_or_else(|| sh(&app, "mkdir out; echo mine >out/m").unwrap());
        if is_known {
            assert_eq!(in_git(&app, "du other").code, Some(0));
        }
        fs::remove_dir_all(&other).unwrap();
        let run = in_git(&app, "restore other");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(sh(&other, "git status --porcelain; cat out/m").unwrap(), "mine\n");
    }
}

/// The path was believed: a worktree that git made again was missing for ever, and so was one that
/// git moved while something else took its place.
#[test]
fn a_worktree_is_where_git_s_registration_with_its_mark_says() {
    let name = "a_worktree_is_where_git_s_registration_with_its_mark_says";
    // What happens after the first look, which folders are worktrees then, and in which of them is
    // the work that was in `other`.
    for (script, after, with_work) in [
        (
            "git worktree remove -f ../other; git worktree add -q ../other other",
            &["other other"][..],
            None,
        ),
        (
            "git worktree move ../other ../moved; git worktree add -q -b new ../other",
            &["other moved", "other1 other"],
            Some("moved"),
        ),
        (
            "git worktree move ../other ../t; git worktree move ../w ../other; git worktree move ../t ../w",
            &["other w", "w other"],
            Some("w"),
        ),
        (
            "mv ../other ../t; mv ../w ../other; mv ../t ../w; CALVE ../other list; CALVE ../w list",
            &["other w", "w other"],
            Some("w"),
        ),
        ("git worktree remove -f ../other; git worktree move ../w ../other", &["w other"], None),
    ] {
        let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
        let root = other.parent().unwrap();
        sh(&app, "git worktree add -q ../w").unwrap();
        for word in ["other", "w"] {
            assert!(matches!(in_git(&app, &format!("status {word}")).code, Some(0 | 3)));
        }
        if !script.contains("../w") {
            assert_eq!(in_git(&app, "drop w").code, Some(0));
        }
        for part in script.split("; ") {
            match part.strip_prefix("CALVE ") {
                Some(words) => {
                    let (at, words) = words.split_once(' ').unwrap();
                    in_git(&app.join(at), words);
                }
                None => drop(sh(&app, part).unwrap()),
            }
        }
        for worktree in after {
            let (name, path) = worktree.split_once(' ').unwrap();
            let run = in_git(&app, &format!("status {name}"));
            let has_work = with_work == Some(path);
            assert_eq!(run.code, Some(if has_work { 3 } else { 0 }), "{script}: {run:?}");
            assert_eq!(in_git(&root.join(path), "status").code, run.code, "{script}");
            let at = in_git(&app, &format!("path {name}")).stdout;
            assert_eq!(Path::new(at.trim_end()), root.join(path), "{script}");
        }
        let listed = in_git(&app, "list --json").json();
        let states: Vec<_> = listed["worktrees"].as_array().unwrap().iter().collect();
        let ready = states.iter().filter(|it| it["state"] == "ready").count();
        assert_eq!((ready, &listed["git_worktrees"]), (after.len(), &serde_json::json!([])));
        let known = sh(&app, "git worktree list --porcelain").unwrap();
        assert!(!known.contains("prunable"), "{script}: {known}");
    }
}

/// Nothing else has what a restore moved aside.
#[test]
fn files_that_a_restore_moved_aside_keep_the_row_of_a_worktree_that_git_made_again() {
    let name = "files_that_a_restore_moved_aside_keep_the_row_of_a_worktree_that_git_made_again";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    assert_eq!(in_git(&app, "restore -q other").code, Some(0));
    let in_store = !other.join(".calve").try_exists().unwrap();
    sh(&app, "git worktree remove -f ../other; git worktree add -q ../other other").unwrap();
    let run = in_git(&app, "status other");
    if in_store {
        assert!(is_refused(&run, "another folder is in its place"), "{run:?}");
    } else {
        assert_eq!(run.code, Some(0), "git deleted them: {run:?}");
    }
}

/// The hook of an agent's tool gives fixed names.
#[test]
fn a_start_takes_the_name_of_a_worktree_that_git_made_and_removed() {
    let name = "a_start_takes_the_name_of_a_worktree_that_git_made_and_removed";
    for (script, code) in [
        ("git worktree remove -f ../other", 0),
        // Nobody knows what became of it.
        ("mv ../other ../away", 1),
    ] {
        let Some((_scratch, app, _other)) = other() else {
            return not_run(name, "there is no git");
        };
        assert_eq!(in_git(&app, "status other").code, Some(3));
        sh(&app, script).unwrap();
        let run = in_git(&app, "start -b new other");
        assert_eq!(run.code, Some(code), "{script}: {run:?}");
    }
}

/// Panes and hooks of an agent's tool begin at once. All but one failed.
#[test]
fn several_first_looks_at_a_worktree_of_git_all_work() {
    let name = "several_first_looks_at_a_worktree_of_git_all_work";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    let words = [(&other, "status"), (&app, "status other")];
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let looks = words.iter().cycle().take(6).map(|(at, it)| scope.spawn(|| in_git(at, it)));
        let looks: Vec<_> = looks.collect();
        looks.into_iter().map(|it| it.join().unwrap()).collect()
    });
    for run in runs {
        assert_eq!((run.code, &*run.stdout), (Some(3), "M f\nA n\n"), "{run:?}");
    }
}

/// The base lacked such a file, and a restore deleted it.
#[test]
fn what_is_changed_in_a_repository_inside_is_in_the_base_as_that_one_has_it() {
    let name = "what_is_changed_in_a_repository_inside_is_in_the_base_as_that_one_has_it";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    let made = "for it in ../s ../inner; do git init -q $it; (cd $it; mkdir d; echo 1 >d/f; git add .; git commit -qm 1); done
        git -c protocol.file.allow=always submodule add -q ../s sub; git commit -qm sub
        git -C ../other reset -q --hard main; cd ../other; git clean -fdq
        git -c protocol.file.allow=always submodule update -q --init; git clone -q ../inner out/in";
    sh(&app, made).unwrap();
    sh(&other, "for it in sub out/in; do echo 2 >$it/d/f; echo 3 >$it/new; done; echo 4 >f")
        .unwrap();
    let run = in_git(&other, "status");
    let said = "M f\nM out/in/d/f\nA out/in/new\nM sub/d/f\nA sub/new\n";
    assert_eq!((run.code, &*run.stdout), (Some(3), said), "{run:?}");
    assert_eq!(in_git(&other, "restore -q").code, Some(0));
    let clean =
        "git status --porcelain; git -C sub status --porcelain; git -C out/in status --porcelain";
    assert_eq!(sh(&other, clean).unwrap(), "");
    assert_eq!(in_git(&other, "undo -q").code, Some(0));
    assert_eq!(sh(&other, "cat f sub/d/f out/in/new").unwrap(), "4\n2\n3\n");
}

/// The store's main working tree is no worktree of its store if the project is another one.
#[test]
fn the_main_working_tree_beside_a_linked_project_is_none_of_its_worktrees() {
    let name = "the_main_working_tree_beside_a_linked_project_is_none_of_its_worktrees";
    let scratch = scratch();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let made = "git init -q -b main app; cd app; echo x >f; git add .; \
                git -c user.name=a -c user.email=a@b commit -qm 1; git worktree add -q ../one";
    if sh(&root, made).is_none() {
        return not_run(name, "there is no git");
    }
    assert_eq!(in_git(&root.join("one"), "init").code, Some(0));
    for (words, code, part) in [
        ("status", 1, "a working tree of git that calve did not make"),
        ("restore", 1, "did not make"),
        ("start w", 0, "this starts from the project"),
    ] {
        let run = in_git(&root.join("app"), words);
        assert!(run.code == Some(code) && run.stderr.contains(part), "{words}: {run:?}");
    }
}

/// `merged` and idle cost no look at the files: what `list` asks git already tells them.
#[test]
fn a_list_says_what_is_merged_and_since_when_nobody_worked() {
    let name = "a_list_says_what_is_merged_and_since_when_nobody_worked";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let (app, beside) = (root.join("app"), root.join("app.worktrees"));
    assert_eq!(in_git(&app, "start -q done fresh own edited").code, Some(0));
    for tree in ["done", "own"] {
        sh(&beside.join(tree), &format!("echo z >>f; git commit -qam {tree}")).unwrap();
    }
    sh(&app, "git merge -q done; git worktree add -q --detach ../other").unwrap();
    // An edit of long after the start.
    sh(&beside.join("edited"), "touch -d '2040-01-02 03:04:05 UTC' d/g; echo >>f").unwrap();
    sh(&beside.join("edited"), "touch -d '2040-01-02 03:04:05 UTC' f").unwrap();
    let listed = in_git(&app, "list --json").json();
    let rows = listed["worktrees"].as_array().unwrap();
    for (at, name, merged, behind) in [
        (0, "done", true, 0),
        (1, "edited", false, 1),
        (2, "fresh", false, 1),
        (3, "own", false, 1),
    ] {
        let row = &rows[at];
        assert_eq!(row["name"], name);
        let said = (&row["git"]["merged"], &row["git"]["behind"]);
        assert_eq!(said, (&merged.into(), &behind.into()), "{row}");
        assert_eq!(row["last_work"] == "2040-01-02T03:04:05Z", name == "edited", "{row}");
        let is_later = row["last_work"].as_str() >= row["created"].as_str();
        assert!(is_later, "{row}");
    }
    let lines = in_git(&app, "list").stdout;
    let line = |name: &str| lines.lines().find(|it| it.starts_with(name)).unwrap().to_owned();
    assert!(line("done").contains("  merged  ") && !line("fresh").contains("merged"), "{lines}");
}

/// git names the second of two folders `same` with a number, and `drop same` took that one.
#[test]
fn a_worktree_of_git_is_known_by_the_name_that_list_shows_and_by_no_other() {
    let name = "a_worktree_of_git_is_known_by_the_name_that_list_shows_and_by_no_other";
    let Some((_scratch, app, other)) = other() else { return not_run(name, "there is no git") };
    sh(&app, "git worktree add -q --detach ../v1/same; git worktree add -q --detach ../v2/same")
        .unwrap();
    let root = other.parent().unwrap();
    for (word, path) in [("same", "v1/same"), ("same1", "v2/same")] {
        let there = in_git(&app, &format!("path {word}")).stdout;
        assert_eq!(Path::new(there.trim_end()), root.join(path), "{word}");
    }
    sh(&app, "git worktree remove ../v1/same").unwrap();
    assert_eq!(in_git(&app, "drop --force same").code, Some(1));
    assert!(root.join("v2/same").try_exists().unwrap());
    // A folder of the project with the same name hides it no more than one of calve's.
    fs::create_dir(app.join("same1")).unwrap();
    assert_eq!(in_git(&app, "status same1").code, Some(0));
}

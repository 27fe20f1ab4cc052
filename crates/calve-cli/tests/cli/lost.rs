//! What git's own commands delete of calve's, or of git's: the mark of a worktree, its
//! registration, the whole store. calve goes on, or says what there is to do.

use std::fs;

use serde_json::json;

use crate::hints::{in_git, repository, sh};
use crate::{command, not_run, until_deleted};

/// Agents run such commands daily. None of them takes what calve keeps: nothing of that is in a tree
/// that git knows.
#[test]
fn after_each_command_of_git_a_worktree_is_known_and_at_its_base() {
    let name = "after_each_command_of_git_a_worktree_is_known_and_at_its_base";
    let (both, linked) = (&["linked", "copy"][..], &["linked"][..]);
    for (command, place, modes, changes) in [
        // What is done in the worktree, where it is then, and what differs from its base.
        ("git clean -ffdxq", "w", both, "M f\nD out/o\n"),
        ("git stash -qa", "w", both, "D out/o\n"),
        ("git stash -qa; git stash pop -q", "w", both, "M f\n"),
        ("git checkout -qf", "w", both, ""),
        ("git reset -q --hard; git clean -ffdxq", "w", both, "D out/o\n"),
        ("rm -rf .git", "w", both, "M f\n"),
        ("rm -rf .git; git init -q", "w", &["copy"], "M f\n"),
        ("git clean -ffdxq; rm -rf .git", "w", both, "M f\nD out/o\n"),
        ("git worktree move . ../w2", "w2", linked, "M f\n"),
        ("mv ../w ../w2; git worktree repair ../w2", "w2", linked, "M f\n"),
        (
            "cd ../../app; git worktree prune --expire now; git worktree repair",
            "w",
            linked,
            "M f\n",
        ),
        (
            "mv ../w ../away; cd ../../app; git worktree prune --expire now; mv ../app.worktrees/away ../app.worktrees/w",
            "w",
            linked,
            "M f\n",
        ),
        ("rm -rf .git; cd ../../app; git worktree prune --expire now", "w", linked, "M f\n"),
        ("git gc -q --prune=now", "w", both, "M f\n"),
    ] {
        for (mode, first) in modes.iter().flat_map(|mode| [(mode, "inside"), (mode, "outside")]) {
            let row = format!("{mode}, {command}, first {first}");
            let Some((_scratch, root)) = repository() else {
                return not_run(name, "there is no git");
            };
            let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
            assert_eq!(in_git(&app, &format!("start -q --git {mode} w")).code, Some(0));
            let own = sh(&w, "find . -name '*calve*' -not -path './.git/*'").unwrap();
            assert_eq!(own, "", "{row}: nothing of calve's is in the tree");
            sh(&w, &format!("echo work >>f; {command}"));
            let now = root.join("app.worktrees").join(place);
            let inside = || {
                let status = in_git(&now, "status");
                assert_eq!(status.stdout, changes, "{row}: {status:?}");
                assert_eq!(status.code, Some(if changes.is_empty() { 0 } else { 3 }), "{row}");
            };
            if first == "inside" {
                inside();
            }
            let list = in_git(&app, "list --json");
            assert_eq!(list.code, Some(0), "{row}: {list:?}");
            assert!(list.stdout.contains(&format!("\"{}\"", now.display())), "{row}: {list:?}");
            assert!(list.stdout.contains("\"ready\""), "{row}: {list:?}");
            let status = in_git(&app, "status w");
            assert_eq!(status.stdout, changes, "{row}: {status:?}");
            inside();
            let dropped = in_git(&app, "drop --force w");
            assert_eq!(dropped.code, Some(0), "{row}: {dropped:?}");
            assert!(fs::symlink_metadata(&now).is_err(), "{row}");
            assert_eq!(in_git(&app, "list").stdout, "", "{row}");
            let known = sh(&app, "git worktree list").unwrap();
            assert_eq!(known.lines().count(), 1, "{row}: {known}");
        }
    }
}

/// What a reset moved aside is not in the tree where a rename leads from the tree into the store.
#[test]
fn every_verb_works_in_a_worktree_after_git_cleaned_it() {
    let name = "every_verb_works_in_a_worktree_after_git_cleaned_it";
    for mode in ["linked", "copy"] {
        let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        for words in [format!("start -q --git {mode} w"), "start -q v".to_owned()] {
            assert_eq!(in_git(&app, &words).code, Some(0));
        }
        sh(&w, "echo work >>f; git clean -ffdxq; test ! -e .calve; test ! -e out");
        for (folder, words, code) in [
            (&w, "status", 3),
            (&app, "status w", 3),
            (&w, "list", 0),
            (&app, "list", 0),
            (&w, "path", 0),
            (&w, "diff", 0),
            (&w, "init", 1),
            (&app, "drop w", 1),
            (&w, "snapshot s", 0),
            (&w, "status", 0),
            (&app, "start -q --from s x", 0),
        ] {
            let run = in_git(folder, words);
            assert_eq!(run.code, Some(code), "{mode} {words}: {run:?}");
            assert!(!run.stdout.contains("missing"), "{mode} {words}: {run:?}");
            assert!(!run.stderr.contains("calve init"), "{mode} {words}: {run:?}");
        }
        sh(&w, "echo more >>f");
        let reset = in_git(&w, "restore");
        assert_eq!(reset.code, Some(0), "{mode}: {reset:?}");
        assert_eq!(sh(&w, "git status --short | grep calve || true").as_deref(), Some(""));
        if std::env::var("CALVE_FS").is_ok_and(|it| ["xfs", "ext4"].contains(&&*it)) {
            sh(&w, "git clean -ffdxq");
        }
        assert_eq!(in_git(&w, "undo").code, Some(0), "{mode}");
        assert_eq!(in_git(&w, "status").stdout, "M f\n", "{mode}");
        assert_eq!(sh(&w, "ls -d .calve 2>/dev/null || true").as_deref(), Some(""), "{mode}");
        let copy = root.join("copy");
        sh(&root, &format!("cp -a {} {}", w.display(), copy.display()));
        let run = in_git(&copy, "snapshot");
        assert_eq!(run.code, Some(1), "a copy is no worktree: {mode}: {run:?}");
        let dropped = in_git(&app, "drop --force w");
        assert_eq!(dropped.code, Some(0), "{mode}: {dropped:?}");
        until_deleted(&app.join(".git/calve"));
    }
}

/// Nothing of calve's is in the project's tree either.
#[test]
fn after_each_command_of_git_in_the_project_its_store_and_worktrees_are_known() {
    let name = "after_each_command_of_git_in_the_project_its_store_and_worktrees_are_known";
    for (command, changes) in [
        // What is done in the project, and what differs from its last snapshot.
        ("git clean -ffdxq", "M f\nD out/o\n"),
        ("git stash -qa", "D out/o\n"),
        ("git stash -qa; git stash pop -q", "M f\n"),
        ("git checkout -qf", ""),
        ("git reset -q --hard; git clean -ffdxq", "D out/o\n"),
        ("git rm -qrf .; git clean -ffdxq; git reset -q --hard", "D out/o\n"),
        ("git checkout -qf --orphan new; git checkout -qf main", ""),
        ("git gc -q --prune=now; git repack -qad; git fsck --no-progress", "M f\n"),
        ("git maintenance run --quiet --task=gc --task=loose-objects", "M f\n"),
        ("git worktree prune --expire now; git worktree repair", "M f\n"),
        ("rm .git/index; git reset -q; git update-index -q --refresh || true", "M f\n"),
        ("git worktree add -q ../other; git worktree remove ../other", "M f\n"),
    ] {
        for mode in ["linked", "copy"] {
            let row = format!("{mode}, {command}");
            let Some((_scratch, root)) = repository() else {
                return not_run(name, "there is no git");
            };
            let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
            assert_eq!(in_git(&app, &format!("start -q --git {mode} v w")).code, Some(0));
            assert_eq!(in_git(&app, "snapshot -q named -m first").code, Some(0));
            let log = in_git(&app, "log --json").stdout;
            let own = sh(&app, "find . -name '*calve*' -not -path './.git/*'").unwrap();
            assert_eq!(own, "", "{row}: nothing of calve's is in the tree");
            sh(&w, "echo work >>f");
            sh(&app, &format!("echo work >>f; {command}"));
            for (folder, words, expected) in [
                (&app, "status", changes),
                (&app, "status w", "M f\n"),
                (&w, "status", "M f\n"),
                (&app, "status v", ""),
            ] {
                let status = in_git(folder, words);
                assert_eq!(status.stdout, expected, "{row}: {words}: {status:?}");
            }
            assert_eq!(in_git(&app, "log --json").stdout, log, "{row}");
            let list = in_git(&app, "list --json");
            assert_eq!(list.stdout.matches("\"ready\"").count(), 2, "{row}: {list:?}");
            for (words, code) in [
                ("start -q x", 0),
                ("restore -q --force named .", 0),
                ("status", 0),
                ("drop v x", 0),
                ("store verify", 0),
            ] {
                let run = in_git(&app, words);
                assert_eq!(run.code, Some(code), "{row}: {words}: {run:?}");
            }
            let store = app.join(".git/calve");
            until_deleted(&store);
            // The store is gone with the repository, and nothing of it stays.
            sh(&app, "rm -rf .git");
            assert!(fs::symlink_metadata(&store).is_err(), "{row}");
        }
    }
}

/// git prunes the registration of a worktree that it cannot see: a volume is not mounted, or the
/// repository is used in a container.
#[test]
fn a_pruned_worktree_is_registered_again_with_the_head_that_it_had() {
    let name = "a_pruned_worktree_is_registered_again_with_the_head_that_it_had";
    let commit = "echo own >own; git add own; git commit -qm 2";
    let elsewhere = |what: &str| {
        format!(
            "git worktree add -q ../else w; (cd ../else; {what}; git commit -qm theirs); git worktree remove ../else"
        )
    };
    let [theirs, deleted] = ["echo x >new; git add new", "git rm -q f"].map(elsewhere);
    let moved = format!("{theirs}; git worktree add -q ../else w");
    let rows = [
        // What was done in the worktree before and after calve saw it, what was done while it was
        // away, and its branch after.
        ("", "", "", "w"),
        (commit, "", "", "w"),
        ("", commit, "", "w"),
        ("git checkout -q --detach; git commit -q --allow-empty -m 2", "", "", "HEAD"),
        ("git checkout -q -b other; git commit -q --allow-empty -m 2", "", "", "other"),
        (commit, "", "git worktree add -q ../else w", "HEAD"),
        // The next commit in it must not undo what others did.
        (commit, "", &theirs, "HEAD"),
        (commit, "", &deleted, "HEAD"),
        (commit, "", &moved, "HEAD"),
        (commit, "", "git branch -q -D w", "HEAD"),
    ];
    for (within, unseen, away, branch) in rows {
        for touch in ["list", "status w", "-C ../app.worktrees/w status", "drop w"] {
            let Some((_scratch, root)) = repository() else {
                return not_run(name, "there is no git");
            };
            let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
            assert_eq!(in_git(&app, "start -q w").code, Some(0));
            sh(&w, within);
            // calve sees it.
            assert_eq!(in_git(&app, "list").code, Some(0));
            sh(&w, unseen);
            let head = sh(&w, "git rev-parse HEAD").unwrap();
            sh(&app, &format!(
                "mv ../app.worktrees ../away; git worktree prune --expire now; {away}; mv ../away ../app.worktrees"
            ).replace("; ;", ";"));
            let run = in_git(&app, touch);
            if touch == "drop w" {
                let held = sh(&app, &format!("git for-each-ref --contains {head}")).unwrap();
                let is_there = fs::metadata(&w).is_ok();
                assert!(is_there || !held.is_empty(), "{within}: {run:?}");
                continue;
            }
            assert!(matches!(run.code, Some(0 | 3)), "{within} {touch}: {run:?}");
            assert!(run.stderr.contains("registered it again"), "{within} {touch}: {run:?}");
            let now = sh(&w, "git rev-parse HEAD; git rev-parse --abbrev-ref HEAD").unwrap();
            assert_eq!(now, format!("{head}{branch}\n"), "{within} {touch}");
            assert_eq!(sh(&w, "git status --short").as_deref(), Some(""), "{within} {touch}");
            let known = sh(&app, "git worktree list --porcelain").unwrap();
            assert!(!known.contains("locked") && !known.contains("prunable"), "{known}");
            assert!(!in_git(&app, "list").stderr.contains("again"), "it is said once");
        }
    }
}

/// Its files are those of its base snapshot, which knows nothing of what was committed since.
#[test]
fn a_restore_of_a_deleted_worktree_tells_where_its_head_is() {
    let name = "a_restore_of_a_deleted_worktree_tells_where_its_head_is";
    let (behind, detached) = ("at another commit than at its start", "its HEAD is detached");
    for (within, meanwhile, branch, told) in [
        ("", "", "w", &[][..]),
        ("echo x >>f", "git worktree prune", "w", &[]),
        ("echo x >>f; git commit -qam 2", "", "w", &[behind]),
        ("echo x >>f; git commit -qam 2", "git worktree prune", "w", &[behind]),
        (
            "echo x >>f; git commit -qam 2",
            "git worktree prune; git branch -f w main",
            "HEAD",
            &[behind, detached],
        ),
        ("", "git worktree prune; git branch -D w", "HEAD", &[detached]),
    ] {
        let row = format!("{within}; {meanwhile}");
        let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        assert_eq!(in_git(&app, "start -q w").code, Some(0));
        sh(&w, within);
        let head = sh(&w, "git rev-parse HEAD").unwrap();
        assert_eq!(in_git(&app, "list").code, Some(0));
        sh(&app, &format!("rm -r ../app.worktrees/w; {meanwhile}"));
        let run = in_git(&app, "restore w");
        assert_eq!(run.code, Some(0), "{row}: {run:?}");
        for sentence in [behind, detached] {
            assert_eq!(run.stderr.contains(sentence), told.contains(&sentence), "{row}: {run:?}");
        }
        let now = sh(&w, "git rev-parse HEAD; git rev-parse --abbrev-ref HEAD").unwrap();
        assert_eq!(now, format!("{head}{branch}\n"), "{row}");
        sh(&w, "git restore .");
        assert_eq!(sh(&w, "git status --short").as_deref(), Some(""), "{row}");
    }
}

/// The bug: the new index had every file of the commit, so that git saw deletions outside of a sparse
/// checkout, and the local edit of a file that it was told not to look at.
#[test]
fn a_worktree_that_is_registered_again_is_as_clean_as_it_was() {
    let name = "a_worktree_that_is_registered_again_is_as_clean_as_it_was";
    for (row, project) in [
        ("sparse", "git sparse-checkout set --no-cone /f"),
        ("skipped", "git update-index --skip-worktree d/g; echo local >d/g"),
        ("unchanged", "git update-index --assume-unchanged d/g; echo local >d/g"),
    ] {
        let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
        let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
        sh(&app, project);
        assert_eq!(in_git(&app, "start -q w").code, Some(0), "{row}");
        let told = || sh(&w, "git status --short; git ls-files -v");
        let before = told();
        sh(
            &app,
            "mv ../app.worktrees ../away; git worktree prune --expire now; mv ../away ../app.worktrees",
        );
        let list = in_git(&app, "list");
        assert!(list.stderr.contains("registered it again"), "{row}: {list:?}");
        assert_eq!(told(), before, "{row}");
        sh(&w, "echo x >>f; git commit -qam agent");
        assert_eq!(sh(&w, "git show --format= --name-only HEAD").as_deref(), Some("f\n"), "{row}");
    }
}

/// The bug: the command that wrote `.git` again showed the `HEAD`, and did not note it.
#[test]
fn a_head_that_a_list_showed_is_noted_also_if_it_mended_the_tree() {
    let name = "a_head_that_a_list_showed_is_noted_also_if_it_mended_the_tree";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    assert_eq!(in_git(&app, "start -q --detach w").code, Some(0));
    let head = sh(&w, "git commit -q --allow-empty -m 2; git rev-parse HEAD; rm .git");
    assert_eq!(in_git(&app, "list").code, Some(0));
    sh(&app, "rm ../app.worktrees/w/.git; git worktree prune --expire now");
    assert_eq!(in_git(&app, "list").code, Some(0));
    assert_eq!(sh(&w, "git rev-parse HEAD"), head);
}

/// As if another mount was at the folder of the worktrees when it was made.
#[cfg(target_os = "linux")]
#[test]
fn a_worktree_whose_mount_is_gone_is_forgotten_only_by_force() {
    let name = "a_worktree_whose_mount_is_gone_is_forgotten_only_by_force";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    sh(
        &app,
        "mv ../app.worktrees/w ../away; echo 'calve: it is on another filesystem than the repository, which may not be mounted' >.git/worktrees/w/locked",
    );
    let refused = in_git(&app, "drop w");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not mounted now"), "{refused:?}");
    sh(&app, "echo x >../away/work; mv ../away ../app.worktrees/w").unwrap();
    assert_eq!(sh(&root.join("app.worktrees/w"), "git status -s").as_deref(), Some("?? work\n"));
    sh(&app, "mv ../app.worktrees/w ../away");
    assert_eq!(in_git(&app, "drop --force w").code, Some(0));
}

#[test]
fn a_worktree_on_another_mount_is_locked_so_that_git_keeps_it_and_drop_removes_it() {
    let name = "a_worktree_on_another_mount_is_locked_so_that_git_keeps_it_and_drop_removes_it";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let other = tempfile::tempdir_in("/dev/shm");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let (Ok(other), true) = (other, mounts.contains(" /dev/shm ")) else {
        return not_run(name, "/dev/shm is no mount of its own");
    };
    if root.starts_with("/dev/shm") {
        return not_run(name, "the tests run in /dev/shm");
    }
    let app = root.join("app");
    let at = other.path().to_str().unwrap();
    assert_eq!(in_git(&app, &format!("start -q --at {at} w")).code, Some(0));
    let known = sh(&app, "git worktree list --porcelain").unwrap();
    assert!(known.contains("locked calve: it is on another filesystem"), "{known}");
    sh(&app, &format!("mv {at}/w {at}/away; git worktree prune --expire now; mv {at}/away {at}/w"));
    let list = in_git(&app, "list");
    assert!(list.code == Some(0) && list.stderr.is_empty(), "{list:?}");
    let dropped = in_git(&app, "drop w");
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    let known = sh(&app, "git worktree list --porcelain").unwrap();
    assert!(!known.contains(at), "{known}");
}

/// Somebody deleted the store, and not the worktrees beside the project.
#[test]
fn worktrees_of_a_store_that_is_gone_are_named_with_the_way_out() {
    let name = "worktrees_of_a_store_that_is_gone_are_named_with_the_way_out";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    assert_eq!(in_git(&app, "start -q a b").code, Some(0));
    until_deleted(&app.join(".git/calve"));
    sh(&app, "rm -rf .git/calve");
    assert_eq!(in_git(&app, "init").code, Some(0));
    let list = in_git(&app, "list");
    let a = root.join("app.worktrees/a");
    let way_out = format!("'git worktree remove {}'", a.display());
    assert!(list.code == Some(3) && list.stderr.contains(&way_out), "{list:?}");
    let start = in_git(&app, "start a");
    assert!(start.code == Some(1) && start.stderr.contains(&way_out), "{start:?}");
    sh(&app, "git worktree remove ../app.worktrees/a; git worktree remove ../app.worktrees/b");
    let list = in_git(&app, "list");
    assert_eq!(list.code, Some(0), "{list:?}");
    assert_eq!(in_git(&app, "start a").code, Some(0));
}

/// The project may be a linked worktree like any other: of a bare repository, all are.
#[test]
fn a_project_that_git_removed_leaves_its_store_to_another_working_tree() {
    let name = "a_project_that_git_removed_leaves_its_store_to_another_working_tree";
    let bare = "git init -q -b main s; cd s; echo 1 >f; git add f; git commit -qm 1; git clone -q --bare . ../r; cd ../r; \
                git worktree add -q ../one -b one; git worktree add -q ../two -b two";
    let beside = "git init -q -b main two; cd two; echo 1 >f; git add f; git commit -qm 1; git worktree add -q ../one";
    let alone = "git init -q -b main s; cd s; echo 1 >f; git add f; git commit -qm 1; git clone -q --bare . ../r; cd ../r; \
                 git worktree add -q ../one -b one";
    for (row, made, heir) in
        [("bare", bare, "two"), ("main", beside, "two"), ("alone", alone, "one")]
    {
        for from in ["heir", "worktree"] {
            let row = format!("{row}, from the {from}");
            let scratch = crate::scratch();
            let root = fs::canonicalize(scratch.path()).unwrap();
            if sh(&root, made).is_none() {
                return not_run(name, "there is no git");
            }
            let (one, heir) = (root.join("one"), root.join(heir));
            for words in ["init -q", "start -q x y"] {
                assert_eq!(in_git(&one, words).code, Some(0), "{row}: {words}");
            }
            let (x, y) = (root.join("one.worktrees/x"), root.join("one.worktrees/y"));
            sh(&x, "echo work >>f");
            assert_eq!(in_git(&one, "snapshot -q kept").code, Some(0));
            sh(&one, "git worktree remove .");
            let here = if from == "heir" && heir != one { &heir } else { &x };
            let list = in_git(here, "list");
            assert!(list.code == Some(0) && list.stderr.is_empty(), "{row}: {list:?}");
            for (words, code) in [("drop x", 1), ("drop y", 0), ("status x", 3), ("log", 0)] {
                let run = in_git(here, words);
                assert_eq!(run.code, Some(code), "{row} {words}: {run:?}");
            }
            assert!(fs::symlink_metadata(&y).is_err() && x.join("f").is_file(), "{row}");
            // It says what to do, and that works.
            let start = in_git(here, "start -q z");
            assert_eq!(start.code, Some(1), "{row}: {start:?}");
            let mut words = start.stderr.split('\'');
            let hint = words.find(|it| it.starts_with("calve init ") || it.starts_with("git -C "));
            let hint = hint.unwrap_or_else(|| panic!("{row}: {start:?}"));
            match hint.strip_prefix("calve ") {
                Some(words) => assert_eq!(in_git(here, words).code, Some(0), "{row}: {hint}"),
                None => drop(sh(here, hint)),
            }
            for place in [&heir, &x] {
                let path = in_git(place, "path --project");
                assert_eq!(path.stdout.trim_end(), heir.to_str().unwrap(), "{row}: {path:?}");
            }
            let start = in_git(here, "start -q z");
            let z = heir
                .with_file_name(format!("{}.worktrees", heir.file_name().unwrap().display()))
                .join("z");
            assert_eq!(
                (start.code, start.stdout.trim_end()),
                (Some(0), z.to_str().unwrap()),
                "{row}"
            );
            assert_eq!(in_git(&heir, "status").code, Some(0), "{row}");
            assert!(in_git(&heir, "log").stdout.contains("kept"), "{row}");
            assert_eq!(in_git(&heir, "drop z").code, Some(0), "{row}");
            assert_eq!(fs::read_to_string(x.join("f")).unwrap(), "1\nwork\n", "{row}");
        }
    }
}

/// It stayed until the next start in the same folder: a whole copy of the project where blocks cannot
/// be shared.
#[test]
fn what_a_killed_start_had_made_goes_with_the_next_command() {
    let name = "what_a_killed_start_had_made_goes_with_the_next_command";
    for words in ["list", "drop k", "store gc -q --grace 0s"] {
        let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
        let (app, beside) = (root.join("app"), root.join("app.worktrees"));
        sh(&app, "mkdir s; for i in $(seq 3000); do echo $i >s/$i; done").unwrap();
        assert_eq!(in_git(&app, "start -q b").code, Some(0));
        let has_stage = || {
            let entries = fs::read_dir(&beside).unwrap().flatten();
            entries
                .map(|it| it.file_name())
                .any(|it| it.to_string_lossy().starts_with(".calve-stage"))
        };
        let mut is_left = false;
        for _ in 0..20 {
            let mut start = command(&app, ["start", "-q", "k"]);
            let mut start = start.stdout(std::process::Stdio::null()).spawn().unwrap();
            while !has_stage() && start.try_wait().unwrap().is_none() {}
            start.kill().unwrap();
            start.wait().unwrap();
            is_left = has_stage();
            if is_left {
                break;
            }
            in_git(&app, "drop -q k");
        }
        if !is_left {
            return not_run(name, "each start was faster than its killer");
        }
        in_git(&app, words);
        assert!(!has_stage(), "{words}");
    }
}

/// A drop by force went on, and nothing had what was staged.
#[test]
fn what_is_staged_in_a_worktree_without_a_folder_is_not_lost_because_git_fails() {
    let name = "what_is_staged_in_a_worktree_without_a_folder_is_not_lost_because_git_fails";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    let script = "cd ../app.worktrees/w; echo staged >new; git add new; id=$(git hash-object new); \
                  cd ../../app; rm -r ../app.worktrees/w; \
                  rm -f .git/objects/$(echo $id | cut -c-2)/$(echo $id | cut -c3-)";
    sh(&app, script).unwrap();
    for words in ["drop w", "drop --force w"] {
        let run = in_git(&app, words);
        let is_said = run.stderr.contains("--force --discard w") || words == "drop w";
        assert!(run.code == Some(1) && is_said, "{words}: {run:?}");
    }
    assert_eq!(in_git(&app, "drop --force --discard w").code, Some(0));
}

/// `undo` said of each detached `HEAD` that its branch is used elsewhere, also where there had been
/// none.
#[test]
fn undo_of_a_drop_says_if_the_worktree_is_on_another_branch_and_only_then() {
    let name = "undo_of_a_drop_says_if_the_worktree_is_on_another_branch_and_only_then";
    for (within, meanwhile, said) in [
        ("true", "true", None),
        ("git checkout -q --detach", "true", None),
        // A tree that git no longer takes for a worktree comes back with its own `.git`.
        ("rm .git; git init -q; git add f; git commit -qm own", "true", None),
        ("rm .git; mkdir .git", "true", Some("not a git repository")),
        ("true", "git branch -qD w", Some("HEAD is detached: its branch w ")),
        (
            "git checkout -q --orphan o",
            "git branch o",
            Some("on the branch o-2, which has no commit"),
        ),
    ] {
        let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
        let app = root.join("app");
        assert_eq!(in_git(&app, "start -q w").code, Some(0));
        sh(&root.join("app.worktrees/w"), &format!("{within}; echo work >>f")).unwrap();
        assert_eq!(in_git(&app, "drop --force w").code, Some(0));
        sh(&app, meanwhile).unwrap();
        let run = in_git(&app, "undo w");
        let others = run.stderr.lines().filter(|line| !line.contains("is back")).count();
        let is_said = said.is_none_or(|said| run.stderr.contains(said));
        assert!(run.code == Some(0) && is_said, "{within}, {meanwhile}: {run:?}");
        assert_eq!(others, usize::from(said.is_some()), "{within}, {meanwhile}: {run:?}");
        let file = fs::read_to_string(root.join("app.worktrees/w/f")).unwrap();
        assert!(file.ends_with("work\n"), "{within}, {meanwhile}: {file}");
    }
}

/// `list` counted what is calve's own as a change, until the next restore.
#[test]
fn what_a_killed_restore_left_is_no_work() {
    let name = "what_a_killed_restore_left_is_no_work";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    sh(&app, "mkdir s; for i in $(seq 1500); do echo $i >s/$i; done; git add .; git commit -qm s");
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    // git lists no empty folder.
    let has_stage = || {
        let stages = fs::read_dir(&w).unwrap().flatten().map(|it| it.path());
        let mut stages = stages.filter(|it| it.to_string_lossy().contains(".calve-stage"));
        stages.any(|it| fs::read_dir(it).is_ok_and(|mut them| them.next().is_some()))
    };
    for _ in 0..20 {
        sh(&w, "for i in $(seq 1 2 1500); do echo w >s/$i; done").unwrap();
        let mut restore = command(&app, ["restore", "-q", "w"]);
        let mut restore = restore.stdout(std::process::Stdio::null()).spawn().unwrap();
        while !has_stage() && restore.try_wait().unwrap().is_none() {}
        restore.kill().unwrap();
        restore.wait().unwrap();
        sh(&w, "git checkout -q .").unwrap();
        if has_stage() {
            let listed = in_git(&app, "list --json").json();
            assert_eq!(listed["worktrees"][0]["git"]["uncommitted"], 0, "{listed}");
            assert_eq!(in_git(&app, "drop w").code, Some(0));
            return;
        }
    }
    not_run(name, "each restore was faster than its killer");
}

/// Only the name meant a worktree that was dropped.
#[test]
fn a_dropped_worktree_is_brought_back_by_the_path_that_it_had() {
    let name = "a_dropped_worktree_is_brought_back_by_the_path_that_it_had";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    let absolute = root.join("app.worktrees/w").to_str().unwrap().to_owned();
    for (words, at) in [
        ("undo ../app.worktrees/w", "w"),
        ("undo ../app.worktrees/../app.worktrees/w/", "w"),
        (&format!("undo {absolute}"), "w"),
        ("restore ../app.worktrees/w", "w"),
        ("undo ../app.worktrees/w --as x", "x"),
    ] {
        fs::write(root.join("app.worktrees/w/work"), "work").unwrap();
        assert_eq!(in_git(&app, "drop --force w").code, Some(0), "{words}");
        let run = in_git(&app, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        assert!(root.join("app.worktrees").join(at).join("work").try_exists().unwrap(), "{words}");
    }
    let run = in_git(&app, "undo ../app.worktrees/none");
    assert!(run.code == Some(1) && run.stderr.contains("../app.worktrees/none"), "{run:?}");
}

/// A plain drop said that it could not read the folder, and a forced one took the link alone.
#[test]
fn a_link_in_the_place_of_a_worktree_is_refused_by_what_it_is() {
    let name = "a_link_in_the_place_of_a_worktree_is_refused_by_what_it_is";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    fs::write(w.join("f"), "work").unwrap();
    let away = "mv ../app.worktrees/w ../large && ln -s ../large ../app.worktrees/w";
    sh(&app, away).unwrap();
    for words in ["drop w", "drop --force w"] {
        let run = in_git(&app, words);
        assert!(run.code == Some(1) && run.stderr.contains("is a link to a folder"), "{run:?}");
        let (_, hint) = run.stderr.split_once("hint: '").unwrap();
        let (command, _) = hint.split_once('\'').unwrap();
        let command = format!("{command} && {away}");
        sh(&app, &command).unwrap_or_else(|| panic!("{command}"));
    }
    sh(&app, "rm ../app.worktrees/w && mv ../large ../app.worktrees/w").unwrap();
    assert_eq!(in_git(&app, "drop --force w").code, Some(0));
}

/// A start copied it with its `.git` file, so that a commit in the one moved the branch of the other.
#[test]
fn a_worktree_of_another_repository_inside_the_project_arrives_nowhere_and_is_named() {
    let name = "a_worktree_of_another_repository_inside_the_project_arrives_nowhere_and_is_named";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    let made = "echo build >>.gitignore; git commit -qam ignores; mkdir build; echo data >build/data; \
                git init -q ../other; cd ../other; echo 1 >f; git add f; git commit -qm 1; \
                git worktree add -q ../app/build/lw";
    sh(&app, made).unwrap();
    let run = in_git(&app, "start w");
    assert!(run.code == Some(3) && run.stderr.contains("build/lw: left out"), "{run:?}");
    assert!(
        w.join("build/data").try_exists().unwrap() && !w.join("build/lw").try_exists().unwrap()
    );
    let document = in_git(&app, "snapshot --json").json();
    assert_eq!(document["skipped"][0]["reason"], "other_repository", "{document}");
    // Neither a change, nor in the way of anything.
    for words in ["status", "restore --force .", "update w", "restore w"] {
        assert_eq!(in_git(&app, words).code, Some(0), "{words}");
        assert!(
            app.join("build/lw/.git").try_exists().unwrap()
                && !w.join("build/lw").try_exists().unwrap(),
            "{words}"
        );
    }
    sh(&app, "git -C ../other worktree add -q ../app.worktrees/w/build/lw2").unwrap();
    fs::write(w.join("build/lw2/new"), "work").unwrap();
    let run = in_git(&app, "drop w");
    assert!(run.code == Some(1) && run.stderr.contains("build/lw2/new"), "{run:?}");
    let run = in_git(&app, "clone --json . ../clone");
    assert_eq!(run.code, Some(3), "{run:?}");
    let skipped = &run.json()["destinations"][0]["skipped"];
    assert_eq!(skipped[0]["reason"], "shared_repository", "{skipped}");
    // Without git, too.
    sh(&root, "rm -r clone; mkdir plain; echo 1 >plain/f").unwrap();
    let plain = root.join("plain");
    assert_eq!(in_git(&plain, "init -q .").code, Some(0));
    assert_eq!(in_git(&plain, "start -q v").code, Some(0));
    sh(
        &root,
        "git -C other worktree add -q ../plain.worktrees/v/lw3; echo >plain.worktrees/v/lw3/new",
    )
    .unwrap();
    let run = in_git(&plain, "drop v");
    assert!(run.code == Some(1) && run.stderr.contains("lw3/new"), "{run:?}");
    sh(&root, "rm plain.worktrees/v/lw3/new").unwrap();
    assert_eq!(in_git(&plain, "drop v").code, Some(0));
}

/// It stayed behind without a word, and a commit of all in the worktree deleted it from the branch.
#[test]
fn a_folder_of_the_project_that_has_the_name_of_calves_own_is_a_finding() {
    let name = "a_folder_of_the_project_that_has_the_name_of_calves_own_is_a_finding";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    // Those of a project inside are calve's.
    sh(&app, "mkdir -p sub/one; echo 1 >sub/one/f").unwrap();
    assert_eq!(in_git(&app.join("sub/one"), "init -q --store .calve").code, Some(0));
    assert_eq!(in_git(&app, "start before").code, Some(0));
    sh(&app, "mkdir .calve d/.calve; echo n >.calve/notes; echo n >d/.calve/notes; git add .; git commit -qm n")
        .unwrap();
    for (at, words) in ["start w", "start --base HEAD w", "snapshot"].into_iter().enumerate() {
        let run = in_git(
            &app,
            &format!("{words}{}", if at < 2 { at.to_string() } else { String::new() }),
        );
        assert_eq!(run.code, Some(3), "{words}: {run:?}");
        for path in [".calve", "d/.calve"] {
            assert!(run.stderr.contains(&format!("{path}: left out: named like")), "{run:?}");
        }
    }
    let document = in_git(&app, "snapshot --json").json();
    assert_eq!(document["skipped"][0], json!({ "path": ".calve", "reason": "own_name" }));
    assert_eq!(in_git(&app, "restore --force .").code, Some(0));
    assert!(app.join(".calve/notes").is_file());
}

/// The hint was to remove the repository, or to do once more what had failed.
#[test]
fn in_a_bare_repository_a_verb_says_what_it_is_and_what_makes_files() {
    let name = "in_a_bare_repository_a_verb_says_what_it_is_and_what_makes_files";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    sh(&root, "git clone -q --bare app bare.git").unwrap();
    let bare = root.join("bare.git");
    for words in ["status", "list", "start w", "restore", "undo", "tidy"] {
        let run = in_git(&bare, words);
        let is_said = run.stderr.contains("worktree add DIR BRANCH");
        assert!(run.code == Some(1) && is_said, "{words}: {run:?}");
    }
    sh(&bare, "git worktree add -q ../m main").unwrap();
    assert_eq!(in_git(&root.join("m"), "init -q .").code, Some(0));
    for words in ["status", "snapshot", "restore", "undo", "diff"] {
        let run = in_git(&bare, words);
        let is_said = run.stderr.contains("bare repository") && !run.stderr.contains("remove");
        assert!(run.code == Some(1) && is_said, "{words}: {run:?}");
    }
    assert_eq!(in_git(&bare, "start -q w").code, Some(0));
    assert_eq!(in_git(&bare, "drop w").code, Some(0));
}

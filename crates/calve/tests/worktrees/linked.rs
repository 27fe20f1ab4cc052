//! Promise: in a git project a worktree is a linked worktree of git, whole or absent. `git status`
//! in it gives the same answer as in the project, at once. No command loses anything that somebody
//! wrote or committed in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use calve::{
    CheckedWorktree, DropOptions, ErrorKind, GitMode, GitOutcome, SnapshotOptions, StartBranch,
    StartOptions, StartedWorktree, Store, SwitchOptions, Worktree, WorktreeState,
};

use crate::common;
use crate::common::git::{Dice, FILES, edit, git, not_ready, rounds, script, status};
use crate::common::{is_there, names, sh};
use crate::stores::{Desk, fails, options, put};

/// A project with a commit on `main`, and the output of a build.
const PROJECT: &str = "
    git init -q -b main
    mkdir -p src target
    echo one >src/a; echo two >src/b; echo three >'with space'; : >empty; ln -s src/a link
    echo /target >.gitignore; echo built >target/out
    git add -A; git commit -qm one
    tick
";

fn project() -> Desk {
    prepared(PROJECT)
}

fn prepared(text: &str) -> Desk {
    Desk::new(|root| {
        fs::create_dir(root).unwrap();
        script(root, text);
    })
}

/// The output of git for a tree, without its branch.
fn changes(root: &Path) -> Vec<String> {
    status(root).lines().filter(|line| !line.starts_with("# branch")).map(str::to_owned).collect()
}

/// Everything that the project's repository knows of worktrees and references, and whether it is
/// sound.
fn known(desk: &Desk) -> String {
    let ask = "git worktree list --porcelain; git for-each-ref; git worktree prune -n -v; git fsck --full --no-dangling 2>&1; \
        ls -A .git/worktrees 2>/dev/null || true";
    sh(std::process::Command::new("bash").current_dir(&desk.project).args(["-ec", ask]))
}

fn start(desk: &Desk, names: &[&str], how: &StartOptions) -> Vec<StartedWorktree> {
    desk.store.start(names, how, &options()).unwrap().worktrees
}

fn branch(root: &Path) -> String {
    sh(git(root).args(["rev-parse", "--abbrev-ref", "HEAD"])).trim_end().to_owned()
}

fn commit(root: &Path, file: &str) -> String {
    put(root, file, file);
    script(root, &format!("git add -A && git commit -qm {file}"));
    sh(git(root).args(["rev-parse", "HEAD"])).trim_end().to_owned()
}

/// Whether git can keep references in tables.
fn has_tables() -> bool {
    let scratch = common::Scratch::new();
    let mut init = git(scratch.path());
    init.args(["init", "-q", "--ref-format=reftable", "."]).stderr(std::process::Stdio::null());
    init.status().unwrap().success()
}

#[test]
fn a_started_worktree_is_one_of_gits_and_says_what_the_project_says() {
    let desk = prepared(&format!(
        "{PROJECT}
        echo staged >src/a; git add src/a
        echo unstaged >src/b; rm empty; echo new >untracked; echo meant >meant; git add -N meant
        tick"
    ));
    let made = start(&desk, &["fix-1"], &StartOptions::new());
    let root = desk.folder().join("fix-1");
    let GitOutcome::Linked(linked) = &made[0].git else { panic!("{:?}", made[0].git) };
    assert_eq!((linked.branch.as_deref(), &made[0].not_linked), (Some("fix-1"), &None));
    assert!(linked.ready_index_entries > 0);
    assert_eq!(branch(&root), "fix-1");
    assert_eq!(changes(&root), changes(&desk.project));
    assert_eq!(changes(&root).len(), 5, "{:?}", changes(&root));
    // git reads only the files that it would read in the project.
    assert_eq!(not_ready(&root), not_ready(&desk.project));
    let list = sh(git(&desk.project).args(["worktree", "list", "--porcelain"]));
    assert!(list.contains(&format!("worktree {}\n", root.display())), "{list}");
    assert!(!list.contains("locked") && !list.contains("prunable"), "{list}");
    // Changes there are visible here.
    script(&root, "git add -A && git commit -qm two");
    script(&desk.project, "git reset -q --hard && git clean -qfd && git merge -q fix-1");
    assert_eq!(fs::read_to_string(desk.project.join("untracked")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(root.join("target/out")).unwrap(), "built\n");
    assert_eq!(names(&desk.store.path().join("stage")), [""; 0]);
}

#[test]
fn each_of_several_has_its_branch_and_all_appear_at_once() {
    let desk = project();
    let given: Vec<String> = (1..=16).map(|number| format!("w{number}")).collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let before = known(&desk);
    for _ in 0..2 {
        start(&desk, &given, &StartOptions::new());
        for name in &given {
            let root = desk.folder().join(name);
            assert_eq!((branch(&root).as_str(), changes(&root)), (*name, vec![]));
            let worktree = desk.store.worktree(name).unwrap();
            let how = DropOptions::new().delete_branch(true);
            let dropped = worktree.drop(&how, &options()).unwrap();
            assert_eq!(dropped.deleted_branch(), Some(*name));
            dropped.delete().unwrap();
        }
        assert_eq!(known(&desk), before);
    }
}

#[test]
fn sixteen_that_start_at_once_are_all_linked() {
    let desk = project();
    desk.snapshot();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let path = desk.store.path();
            scope.spawn(move || {
                let store = Store::open(path).unwrap();
                let name = format!("w{number}");
                store.start(&[&name], &StartOptions::new(), &options()).unwrap();
            });
        }
    });
    let list = sh(git(&desk.project).args(["worktree", "list", "--porcelain"]));
    assert_eq!(list.matches("worktree ").count(), 17);
    assert!(!list.contains("locked") && !list.contains("prunable"), "{list}");
    for number in 0..16 {
        let root = desk.folder().join(format!("w{number}"));
        assert_eq!((branch(&root), changes(&root)), (format!("w{number}"), vec![]));
    }
}

#[test]
fn a_branch_is_made_taken_or_refused_before_anything_is_made() {
    let desk = project();
    script(
        &desk.project,
        "git branch here; git branch moved; git branch a/b
        git worktree add -q -b used ../used
        git -C ../used commit -q --allow-empty -m x; git branch -f moved used",
    );
    let onto = |branch: &str| StartOptions::new().branch(StartBranch::Named(branch.to_owned()));
    let head = sh(git(&desk.project).args(["rev-parse", "HEAD"]));
    let before = known(&desk);
    let row = |how: StartOptions, name: &str, kind: ErrorKind, words: &str| {
        let error = fails(desk.store.start(&[name], &how, &options()), kind);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(known(&desk), before, "{error}");
        assert!(!is_there(&desk.folder().join(name)), "{error}");
        assert!(desk.store.worktrees().unwrap().is_empty(), "{error}");
        assert_eq!(desk.store.log().unwrap().snapshots.len(), 0, "{error}");
    };
    let plain = StartOptions::new;
    row(plain(), "used", ErrorKind::BranchExists, "has it checked out");
    row(plain(), "main", ErrorKind::BranchExists, "has it checked out");
    row(plain(), "moved", ErrorKind::BranchExists, &format!("the project is at {}", &head[..10]));
    row(plain(), "a", ErrorKind::BranchExists, "a/b");
    row(onto("a/b/c"), "w", ErrorKind::BranchExists, "beside the branch a/b");
    row(plain(), "a..b", ErrorKind::InvalidName, "git allows no such branch");
    row(onto("used"), "w", ErrorKind::BranchExists, "has it checked out");
    row(onto("-x"), "w", ErrorKind::InvalidName, "git allows no such branch");
    row(plain(), "@", ErrorKind::InvalidName, "git allows no such branch");
    let two = desk.store.start(&["v", "w"], &onto("x"), &options());
    fails(two, ErrorKind::InvalidName);

    for (name, how, expected) in [
        ("here", plain(), "here"),
        ("one", onto("feat/with-slash"), "feat/with-slash"),
        ("two", plain().branch(StartBranch::Detached), "HEAD"),
        ("@", onto("at"), "at"),
    ] {
        start(&desk, &[name], &how);
        assert_eq!(branch(&desk.folder().join(name)), expected);
    }
    // An existing branch stays if the start fails later.
    put(&desk.folder(), "late/in-the-way", "");
    script(&desk.project, "git branch late");
    fails(desk.store.start(&["late"], &plain(), &options()), ErrorKind::DestinationExists);
    put(&desk.folder(), "later/in-the-way", "");
    fails(desk.store.start(&["later"], &plain(), &options()), ErrorKind::DestinationExists);
    let branches =
        sh(git(&desk.project).args(["branch", "--list", "late*", "--format=%(refname)"]));
    assert_eq!(branches, "refs/heads/late\n");
}

/// A copy of the repository would be of no use there, and would say so only to the first git in it.
#[test]
fn a_repository_with_which_git_would_not_work_in_a_copy_either_is_not_copied_unasked() {
    for (what, text, words) in [
        ("core.bare", "git config core.bare true", "'git config core.bare false'"),
        ("a broken configuration", "echo '[core' >>.git/config", "bad config"),
        (
            "an extension of a later git",
            "git config core.repositoryFormatVersion 1; git config extensions.later true",
            "later",
        ),
    ] {
        let desk = prepared(&format!("{PROJECT}\n{text}"));
        let error =
            fails(desk.store.start(&["w"], &StartOptions::new(), &options()), ErrorKind::Git);
        assert!(error.to_string().contains(words), "{what}: {error}");
        assert!(error.to_string().contains("--git none"), "{what}: {error}");
        assert!(desk.store.worktrees().unwrap().is_empty() && !is_there(&desk.folder().join("w")));
        // Who asks for a copy gets one, and is told.
        let copies = StartOptions::new().git(GitMode::Copy);
        let notes = start(&desk, &["w"], &copies).remove(0).git_notes;
        assert!(notes.iter().any(|note| note.contains(words)), "{what}: {notes:?}");
    }
}

/// Projects that are no plain repository for git. The result is linked, or the reason why not.
#[test]
fn every_kind_of_project_works_or_says_why_it_is_not_linked() {
    for (what, text, expected) in [
        ("no repository", "echo x >file", Ok("none")),
        ("unborn", "git init -q -b main; echo x >file", Err("no commit yet")),
        ("detached", "git switch -q --detach", Ok("linked")),
        (
            "a linked worktree",
            "mv .git * .gitignore ../real 2>/dev/null || { mkdir ../real && mv .git * .gitignore ../real; }; git -C ../real worktree add -q -f -b side \"$PWD\"; fresh",
            Ok("linked"),
        ),
        (
            "of a bare repository",
            "git clone -q --bare . ../bare.git && rm -r .git * .gitignore && git -C ../bare.git worktree add -q -f -b side \"$PWD\"; fresh",
            Ok("linked"),
        ),
        (
            "a submodule",
            "git init -q -b main ../super && git -C ../super submodule --quiet add \"$PWD\" sub && rm -rf .git && cp ../super/sub/.git . && sed -i 's|\\.\\./\\.git|../super/.git|' .git && git -C ../super/sub config core.worktree \"$PWD\"; fresh",
            Ok("linked"),
        ),
        (
            "with submodules",
            "git clone -q . ../other && git submodule --quiet add ../other sub && git commit -qm sub; fresh",
            Ok("linked"),
        ),
        (
            "SHA-256",
            "rm -rf .git && git init -q -b main --object-format=sha256 && git add -A && git commit -qm one",
            Ok("linked"),
        ),
        (
            "reftable",
            "rm -rf .git && git init -q -b main --ref-format=reftable && git add -A && git commit -qm one",
            Ok("linked"),
        ),
        ("split index", "git update-index --split-index", Ok("linked")),
        ("sparse", "git sparse-checkout set src", Ok("linked")),
        ("index version 4", "git update-index --index-version 4", Ok("linked")),
        ("untracked cache", "git update-index --untracked-cache; git status -s", Ok("linked")),
        ("relative paths", "git config worktree.useRelativePaths true", Ok("linked")),
        (
            "LFS",
            "git config filter.lfs.clean 'sed s/^/oid:/'; git config filter.lfs.smudge 'sed s/^oid://'; git config filter.lfs.required true; \
             echo 'src/* filter=lfs' >.gitattributes; git add --renormalize -A; git add -A; git commit -qm lfs; tick; git status -s",
            Ok("linked"),
        ),
        (
            "a file monitor",
            "printf '#!/bin/sh\nprintf \"token\\\\0/\\\\0\"\n' >../monitor; chmod +x ../monitor; git config core.fsmonitor \"$PWD/../monitor\"; \
             git config core.fsmonitorHookVersion 2; git update-index --fsmonitor; git status -s",
            Ok("linked"),
        ),
        (
            "in a merge",
            "git switch -q -c o && echo 1 >src/a && git commit -qam 1 && git switch -q main && echo 2 >src/a && git commit -qam 2 && ! git merge -q o",
            Ok("linked"),
        ),
        (
            "in a rebase",
            "git switch -q -c o && echo 1 >src/a && git commit -qam 1 && git switch -q main && echo 2 >src/a && git commit -qam 2 && ! git rebase -q o",
            Ok("linked"),
        ),
        ("broken", "rm .git/HEAD", Err("not a git repository")),
    ] {
        if what == "reftable" && !has_tables() {
            common::not_run("a reftable repository", "this git does not know them");
            continue;
        }
        let first = if matches!(what, "no repository" | "unborn") { "" } else { PROJECT };
        // An index that was written in the tick in which its files changed vouches for none of
        // them.
        let fresh = "fresh() { tick; git read-tree HEAD; git update-index -q --refresh; }";
        let desk = prepared(&format!("{fresh}\n{first}\n{text}\ntick"));
        let made = start(&desk, &["w1", "w2"], &StartOptions::new());
        for made in &made {
            let root = desk.folder().join(&made.name);
            let got = match &made.git {
                GitOutcome::Linked(_) => "linked",
                GitOutcome::Copied(_) => "copy",
                _ => "none",
            };
            match (&expected, &made.not_linked) {
                (Ok(expected), None) => assert_eq!(got, *expected, "{what}"),
                (Err(words), Some(why)) => assert!(why.contains(words), "{what}: {why}"),
                (_, why) => panic!("{what}: {got} {why:?}"),
            }
            if got == "linked" {
                assert_eq!(changes(&root), changes(&desk.project), "{what}");
                // The entries of a split index are elsewhere, and git reads a file that is in
                // conflict.
                let is_ready = !matches!(what, "split index" | "in a merge" | "in a rebase");
                assert_eq!(not_ready(&root).is_empty(), is_ready, "{what}");
                let extension = sh(git(&desk.project).args([
                    "config",
                    "--default",
                    "",
                    "extensions.relativeWorktrees",
                ]));
                assert_eq!(extension.trim(), "", "{what}");
            }
        }
        if let Err(words) = expected {
            let must = StartOptions::new().git(GitMode::Linked);
            let error = fails(desk.store.start(&["w3"], &must, &options()), ErrorKind::Git);
            assert!(error.to_string().contains(words), "{what}: {error}");
        }
        for name in ["w1", "w2"] {
            let worktree = desk.store.worktree(name).unwrap();
            worktree.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
        }
    }
}

#[test]
fn a_worktree_is_dropped_when_git_would_lose_nothing_and_its_branch_stays() {
    let desk = project();
    let rows: [(&str, &str, Option<ErrorKind>); 10] = [
        ("clean", "true", None),
        ("looked at", "git status", None),
        ("ignored", "echo x >target/out; mkdir -p target/deep; echo x >target/deep/new", None),
        ("committed", "echo x >src/a; git commit -qam x", None),
        ("stashed", "echo x >src/a; git stash -q", None),
        ("changed", "echo x >src/a", Some(ErrorKind::Changed)),
        ("staged", "echo x >new; git add new", Some(ErrorKind::Changed)),
        ("untracked", "echo x >new", Some(ErrorKind::Changed)),
        (
            "detached",
            "git switch -q --detach; git commit -q --allow-empty -m x",
            Some(ErrorKind::CommitsOnlyHere),
        ),
        ("locked", "git worktree lock --reason mine .", Some(ErrorKind::Git)),
    ];
    for (at, (what, text, refused)) in rows.into_iter().enumerate() {
        let name = format!("w{at}");
        let root = desk.worktree(&name).path().to_owned();
        script(&root, text);
        let before = known(&desk);
        let worktree = desk.store.worktree(&name).unwrap();
        let asked = worktree.must_lose_nothing(&options());
        let dropped = worktree.clone().drop(&DropOptions::new(), &options());
        match refused {
            None => {
                asked.unwrap();
                dropped.unwrap().delete().unwrap();
                assert!(!is_there(&root), "{what}");
            }
            Some(kind) => {
                assert_eq!(asked.unwrap_err().kind(), kind, "{what}");
                let error = fails(dropped, kind);
                assert_eq!(error.details().is_empty(), kind == ErrorKind::Git, "{what}: {error:?}");
                assert_eq!(known(&desk), before, "{what}");
                assert!(is_there(&root), "{what}");
                let forced = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
                // git would collect what is only staged before the kept tree is brought back.
                let is_kept = matches!(what, "detached" | "staged");
                assert_eq!(forced.kept().len(), usize::from(is_kept), "{what}");
                forced.delete().unwrap();
            }
        }
        let after = known(&desk);
        assert!(!after.contains(&root.display().to_string()), "{what}: {after}");
        assert!(after.contains(&format!("refs/heads/{name}\n")), "{what}: {after}");
    }
}

#[test]
fn uncommitted_work_that_the_base_snapshot_has_is_no_reason_to_keep_a_worktree() {
    let desk = prepared(&format!(
        "{PROJECT}
        echo staged >src/a; git add src/a
        echo unstaged >src/b; rm empty; mkdir new; echo new >new/file; ln -sf src/b link
        tick"
    ));
    for (at, (what, text, is_captured, refused)) in [
        ("untouched", "true", false, false),
        ("looked at", "git status", false, false),
        ("built", "echo x >target/out; echo x >target/more", false, false),
        ("committed", "git add -A; git commit -qm x", false, false),
        ("changed", "echo x >src/b", false, true),
        ("put back", "git checkout -q HEAD -- src/a", false, false),
        ("deleted", "rm src/b", false, true),
        ("added below an untracked folder", "echo x >new/more", false, true),
        ("captured", "echo x >src/b; echo x >more", true, false),
        (
            "staged and put back",
            "cp src/b kept; echo x >src/b; git add src/b; mv kept src/b",
            false,
            true,
        ),
        (
            "captured, but not what is staged",
            "echo x >src/b; git add src/b; echo y >src/b",
            true,
            true,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let worktree = desk.worktree(&format!("w{at}"));
        script(worktree.path(), text);
        if is_captured {
            worktree.capture(&SnapshotOptions::new(), &options()).unwrap();
        }
        let worktree = desk.store.worktree(&format!("w{at}")).unwrap();
        let dropped = worktree.clone().drop(&DropOptions::new(), &options());
        match refused {
            true => {
                assert_eq!(dropped.unwrap_err().kind(), ErrorKind::Changed, "{what}");
                let forced = worktree.drop(&DropOptions::new().force(true), &options());
                forced.unwrap().delete().unwrap();
            }
            false => dropped.unwrap_or_else(|error| panic!("{what}: {error}")).delete().unwrap(),
        }
    }
}

#[test]
fn commits_that_nothing_else_holds_are_kept_by_a_forced_drop_there_or_not() {
    let desk = project();
    for (name, is_gone) in [("one", false), ("two", true)] {
        let root = desk.worktree(name).path().to_owned();
        script(&root, "git switch -q --detach");
        let last = commit(&root, name);
        script(&root, "git branch -D $(basename $PWD)");
        if is_gone {
            fs::remove_dir_all(&root).unwrap();
        }
        let worktree = desk.store.worktree(name).unwrap();
        let how = DropOptions::new().force(!is_gone);
        let dropped = worktree.drop(&how, &options()).unwrap();
        let reference = format!("refs/calve/dropped/{name}");
        assert_eq!((dropped.kept(), dropped.was_missing()), (&[reference.clone()][..], is_gone));
        dropped.delete().unwrap();
        let kept = sh(git(&desk.project).args(["rev-parse", &reference]));
        assert_eq!(kept.trim_end(), last);
    }
    assert!(!known(&desk).contains("worktrees"));
}

/// They never went. And another drop relied on them.
#[test]
fn references_of_dropped_worktrees_go_when_nothing_brings_these_back_and_hold_nothing_for_others() {
    let desk = project();
    let references =
        || sh(git(&desk.project).args(["for-each-ref", "--format=%(refname)", "refs/calve"]));
    let gc = |age: u64| {
        let how = calve::GcOptions::new().dropped(std::time::Duration::from_secs(age));
        desk.store.gc(&how, &options()).unwrap();
        references()
    };
    let [clean, kept, other] = ["clean", "kept", "other"].map(|name| desk.worktree(name));
    script(clean.path(), "git switch -q --detach");
    let loose = commit(clean.path(), "loose");
    script(other.path(), &format!("git switch -q --detach {loose}"));
    script(kept.path(), "git switch -q --detach; echo x >new");
    commit(kept.path(), "kept");
    put(kept.path(), "work", "work");
    let force = DropOptions::new().force(true);
    drop(clean.drop(&force, &options()).unwrap());
    fails(other.clone().drop(&DropOptions::new(), &options()), ErrorKind::CommitsOnlyHere);
    drop(kept.drop(&force, &options()).unwrap());
    assert_eq!(references(), "refs/calve/dropped/clean\nrefs/calve/dropped/kept\n");
    assert_eq!(gc(3600), references());
    // Its tree is collected first.
    let back = desk.store.restore_dropped("kept", "kept").unwrap();
    drop(back.drop(&force, &options()).unwrap());
    script(&desk.project, "git update-ref refs/calve/dropped/kept-2 HEAD");
    assert_eq!(gc(0), "refs/calve/dropped/kept-2\n");
    fails(desk.store.restore_dropped("kept", "kept"), ErrorKind::WorktreeNotFound);
    other.drop(&force, &options()).unwrap().delete().unwrap();
    script(&desk.project, &format!("git rev-list --glob=refs/calve/dropped/* | grep {loose}"));
}

/// It came back on no branch.
#[test]
fn a_branch_that_a_drop_deleted_is_made_again_with_its_settings_if_its_name_is_free() {
    const TABLES: &str = "rm -rf .git && git init -q -b main --ref-format=reftable && git add -A && git commit -qm 1";
    const SETTINGS: &str = "branch.w.description two\nlines\nbranch.w.remote origin\n";
    for (first, meanwhile, head, settings) in [
        ("", "true", "w", SETTINGS),
        (TABLES, "true", "w", SETTINGS),
        ("", "git pack-refs --all; git gc -q", "w", SETTINGS),
        ("", "git branch w/x", "HEAD", ""),
        (
            "",
            "git branch w; git update-ref refs/heads/w $(git commit-tree -m o HEAD^{tree})",
            "HEAD",
            "",
        ),
        ("", "git config branch.w.remote mine", "w", "branch.w.remote mine\n"),
    ] {
        if !first.is_empty() && !has_tables() {
            common::not_run("branches in tables", "this git does not know them");
            continue;
        }
        let desk = prepared(&format!("{PROJECT}\n{first}"));
        let worktree = desk.worktree("w");
        let root = worktree.path().to_owned();
        script(
            &root,
            "git config branch.w.description $'two\nlines'; git config branch.w.remote origin",
        );
        script(
            &root,
            "git config branch.w.x.remote other; echo 2 >src/a; git commit -qam two; echo 3 >new",
        );
        script(&desk.project, "git merge -q w");
        let commit = sh(git(&root).args(["rev-parse", "HEAD"]));
        let how = DropOptions::new().force(true).delete_branch(true);
        let dropped = worktree.drop(&how, &options()).unwrap();
        assert_eq!(dropped.deleted_branch(), Some("w"), "{meanwhile}");
        script(&desk.project, meanwhile);
        let back = desk.store.restore_dropped("w", "w").unwrap();
        let told = |words: &[&str]| sh(git(back.path()).args(words));
        assert_eq!(told(&["rev-parse", "HEAD"]), commit, "{meanwhile}");
        assert_eq!(told(&["rev-parse", "--abbrev-ref", "HEAD"]).trim_end(), head, "{meanwhile}");
        assert_eq!(told(&["status", "--porcelain"]), "?? new\n", "{meanwhile}");
        let listed =
            git(back.path()).args(["config", "--get-regexp", r"^branch\.w\.[a-z]*$"]).output();
        assert_eq!(String::from_utf8(listed.unwrap().stdout).unwrap(), settings, "{meanwhile}");
        // It is calve's to delete, as before.
        if head == "w" {
            let dropped = back.drop(&how, &options()).unwrap();
            assert_eq!(dropped.deleted_branch(), Some("w"), "{meanwhile}");
        }
    }
}

/// Its folder may be on a volume that is not mounted: git's registration is all that has the work.
#[test]
fn what_only_the_registration_of_a_missing_worktree_has_is_kept_or_not_dropped_without_force() {
    const CONFLICT: &str = "git switch -q --detach; echo 1 >src/a; git commit -qam 1; git switch -q w; \
                            echo 2 >src/a; git commit -qam 2; ! git cherry-pick w@{1} >/dev/null 2>&1";
    const PATCH: &str = "git switch -q --detach; echo 1 >src/a; git commit -qam 1; git format-patch -q -1 --stdout >../mbox; \
                         git switch -q w; echo 2 >src/a; git commit -qam 2; ! git am <../mbox >/dev/null 2>&1; git reset -q --hard";
    for (what, text, is_kept) in [
        ("staged", "echo staged >new; git add new; rm new", Some("new")),
        ("nothing", "echo lost >new", None),
        ("a conflict", CONFLICT, None),
        ("a patch", PATCH, None),
    ] {
        let desk = project();
        let worktree = desk.worktree("w");
        script(worktree.path(), text);
        fs::rename(worktree.path(), desk.scratch.join("away")).unwrap();
        let dropped = worktree.clone().drop(&DropOptions::new(), &options());
        if ["a conflict", "a patch"].contains(&what) {
            let error = fails(dropped, ErrorKind::Changed);
            assert_eq!(error.details().len(), 1, "{what}: {error:?}");
            let forced = worktree.drop(&DropOptions::new().force(true), &options());
            forced.unwrap().delete().unwrap();
            continue;
        }
        let dropped = dropped.unwrap();
        let kept = dropped.kept().to_vec();
        dropped.delete().unwrap();
        match is_kept {
            Some(path) => {
                let shown = format!("git show refs/calve/dropped/w:{path} | grep staged");
                script(&desk.project, &shown);
            }
            None => assert_eq!(kept, [""; 0], "{what}"),
        }
    }
}

#[test]
fn commits_of_a_copy_are_kept_by_a_forced_drop() {
    let desk = project();
    let how = StartOptions::new().git(GitMode::Copy);
    start(&desk, &["copy"], &how);
    let root = desk.folder().join("copy");
    let worktree = desk.store.worktree("copy").unwrap();
    worktree.must_lose_nothing(&options()).unwrap();
    let first = commit(&root, "on-main");
    script(&root, "git switch -q -c side HEAD~1");
    let second = commit(&root, "on-side");
    script(&root, "git stash list; echo x >src/a; git stash -q");
    let error =
        fails(worktree.clone().drop(&DropOptions::new(), &options()), ErrorKind::CommitsOnlyHere);
    let told = |line: &PathBuf| line.to_str().unwrap().ends_with(" on-main");
    assert!(error.details().iter().any(told), "{error:?}");
    // The commits that the project has by now need no reference.
    script(&desk.project, &format!("git fetch -q {} side:side", root.display()));
    let dropped = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
    assert_eq!(dropped.kept().len(), 2, "{dropped:?}");
    dropped.delete().unwrap();
    script(&desk.project, &format!("git rev-list --glob=refs/calve/dropped/* | grep {first}"));
    script(&desk.project, &format!("git rev-list --branches | grep {second}"));
    script(&desk.project, "git fsck --full --strict");
}

/// Between the look at several worktrees and the drop of the last one, seconds may pass.
#[test]
fn a_branch_that_is_deleted_after_the_look_at_its_worktree_no_longer_holds_the_commits() {
    const DELETED: &str = "git branch -q -D keep";
    const PACKED: &str = "git pack-refs --all";
    const TABLES: &str = "rm -rf .git && git init -q -b main --ref-format=reftable && git add -A && git commit -qm 1";
    for (first, before, gone) in [
        ("", "", DELETED),
        ("", "", "git branch -q -f keep HEAD"),
        ("", "", "rm .git/refs/heads/keep"),
        ("", "", "git rev-parse HEAD >.git/refs/heads/keep"),
        ("", PACKED, DELETED),
        ("", PACKED, "sed -i /keep/d .git/packed-refs"),
        ("", "mkdir .git/other; mv .git/refs .git/other; ln -s other/refs .git/refs", DELETED),
        (TABLES, "", DELETED),
        (TABLES, PACKED, DELETED),
    ] {
        println!("{first}; {before}; {gone}");
        if !first.is_empty() && !has_tables() {
            common::not_run("branches in tables", "this git does not know them");
            continue;
        }
        let desk = prepared(&format!("{PROJECT}\n{first}"));
        let worktree = desk.worktree("w");
        script(worktree.path(), "git switch -q --detach");
        commit(worktree.path(), "new");
        script(&desk.project, "git branch keep $(git -C ../project.worktrees/w rev-parse HEAD)");
        script(&desk.project, before);
        let look =
            || CheckedWorktree::all(std::slice::from_ref(&worktree), &options()).remove(0).unwrap();
        let checked = look();
        script(&desk.project, gone);
        fails(checked.drop(&DropOptions::new(), &options()), ErrorKind::CommitsOnlyHere);
        script(&desk.project, "git branch -f keep $(git -C ../project.worktrees/w rev-parse HEAD)");
        let checked = look();
        script(&desk.project, "git branch other");
        checked.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    }
}

#[test]
fn a_branch_is_deleted_with_its_worktree_only_when_it_is_merged() {
    let desk = project();
    let root = desk.worktree("w").path().to_owned();
    commit(&root, "new");
    let how = DropOptions::new().delete_branch(true);
    let drop = |how| desk.store.worktree("w").unwrap().drop(how, &options());
    let forced = how.clone().force(true);
    for how in [&how, &forced] {
        fails(drop(how), ErrorKind::CommitsOnlyHere);
        assert!(is_there(&root));
    }
    script(&desk.project, "git merge -q w");
    let dropped = drop(&how).unwrap();
    assert_eq!(dropped.deleted_branch(), Some("w"));
    dropped.delete().unwrap();
    assert_eq!(sh(git(&desk.project).args(["branch", "--list", "w"])), "");
}

#[test]
fn only_a_branch_that_calve_made_is_deleted_and_why_another_stays_is_said() {
    const SQUASH: &str = "git merge -q --squash w; git commit -qm squashed";
    const PICK: &str = "git cherry-pick main..w >/dev/null";
    // What is done in the worktree and then in the project, the branch that is deleted, how many
    // references keep its commits, and words of what is said.
    let rows = [
        ("", "", Some("w"), 0, ""),
        ("git branch -m renamed", "", Some("renamed"), 0, ""),
        ("COMMIT", "git merge -q w", Some("w"), 0, ""),
        ("COMMIT", SQUASH, Some("w"), 1, ""),
        (
            "COMMIT; COMMIT",
            &format!("{SQUASH}; echo x >src/b; git commit -qam b"),
            Some("w"),
            1,
            "",
        ),
        ("COMMIT", &format!("echo x >src/b; git commit -qam b; {PICK}"), Some("w"), 1, ""),
        (
            "COMMIT",
            &format!("echo x >src/b; git commit -qam b; {PICK}; echo other >c; git commit -qam c"),
            Some("w"),
            1,
            "",
        ),
        ("", "git config branch.w.remote .; git config branch.w.x y", Some("w"), 0, ""),
        ("git switch -q -c mine", "", None, 0, "calve did not make"),
        ("COMMIT; git switch -q -c mine", "", None, 0, "calve did not make"),
        (
            "",
            "git switch -q --detach; git -C \"$AT\" switch -q main",
            None,
            0,
            "calve did not make",
        ),
        ("", "rm .git/logs/refs/heads/w", None, 0, "calve did not make"),
        ("", "git worktree add -q -f elsewhere w", None, 0, "elsewhere"),
        ("", ": >.git/refs/heads/w.lock", None, 0, "refs/heads/w.lock"),
    ];
    for (there, in_project, deleted, kept, words) in rows {
        let what = format!("{there:?}, then {in_project:?}");
        let desk = project();
        let root = desk.worktree("w").path().to_owned();
        let there = there.replace("COMMIT", "echo $RANDOM >>c; git add c; git commit -qm c");
        script(&root, &there);
        script(&desk.project, &format!("AT='{}'; {in_project}", root.display()));
        let branches = || sh(git(&desk.project).args(["branch", "--list"])).lines().count();
        let before = branches();
        let how = DropOptions::new().delete_branch(true);
        let dropped = desk.store.worktree("w").unwrap().drop(&how, &options()).unwrap();
        assert_eq!(dropped.deleted_branch(), deleted, "{what}: {dropped:?}");
        assert_eq!(dropped.kept().len(), kept, "{what}: {dropped:?}");
        assert_eq!(dropped.problems().len(), usize::from(deleted.is_none()), "{what}: {dropped:?}");
        let said: String = dropped.problems().iter().map(ToString::to_string).collect();
        assert!(said.contains(words), "{what}: {said}");
        assert_eq!(branches() + usize::from(deleted.is_some()), before, "{what}");
        let config = fs::read_to_string(desk.project.join(".git/config")).unwrap();
        assert!(!config.contains("[branch"), "{what}: {config}");
        dropped.delete().unwrap();
    }
}

/// Content that only the index has, the files of an operation under way and files that git ignores
/// come back, too.
#[test]
fn a_linked_worktree_that_is_brought_back_is_for_git_as_it_was() {
    const WORK: &str = "
        echo committed >src/a; git commit -qam work
        echo staged >src/b; git add src/b; echo in-file >src/b; echo new >untracked; echo x >target/mine
        git update-index --refresh >/dev/null || true
        echo note >$(git rev-parse --git-path BISECT_LOG)";
    // What happens in between to the branch, to the registration's name and to the worktree's name;
    // the name to come back with; and whether the branch is checked out again.
    let rows = [
        ("nothing", "", "w", true),
        ("its branch is checked out", "git switch -q w", "w", false),
        ("its branch moved", "git branch -qf w w~1", "w", false),
        ("its branch is gone", "git branch -qD w", "w", false),
        ("its branch is at its old path", "git worktree add -q \"$AT\" w", "other", false),
        (
            "its branch is rebased elsewhere",
            "git worktree add -q elsewhere w; cd elsewhere
            GIT_SEQUENCE_EDITOR='sed -i s/^pick/edit/' git rebase -q -i HEAD~1 2>/dev/null",
            "w",
            false,
        ),
        ("git's name for it is taken", "git worktree add -q -d elsewhere/w", "w", true),
        ("another worktree has its name", "START", "again", true),
        ("all other worktrees are gone", "git worktree prune", "w", true),
        ("git collected its garbage", "git gc -q; git worktree prune", "w", true),
    ];
    for (row, meanwhile, name, has_branch) in rows {
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path().to_owned();
        script(&root, WORK);
        let told = |root: &Path| {
            let ask = "git rev-parse HEAD; git status --porcelain=v1; git diff --cached; git diff; \
                cat $(git rev-parse --git-path BISECT_LOG) target/mine";
            sh(std::process::Command::new("bash").current_dir(root).args(["-ec", ask]))
        };
        let before = told(&root);
        let how = DropOptions::new().force(true);
        let dropped = worktree.drop(&how, &options()).unwrap();
        assert!(dropped.can_be_restored_until().is_some(), "{row}");
        assert!(!known(&desk).contains("worktrees/w"), "{row}");
        match meanwhile {
            "START" => {
                drop(start(&desk, &["w"], &StartOptions::new().branch(StartBranch::Detached)));
            }
            meanwhile => {
                script(&desk.project, &format!("AT='{}'; {meanwhile}", root.display()));
            }
        }
        let back = desk.store.restore_dropped("w", name).unwrap();
        assert_eq!(told(back.path()), before, "{row}");
        let head = sh(git(back.path()).args(["rev-parse", "--abbrev-ref", "HEAD"]));
        assert_eq!(head.trim_end(), if has_branch { "w" } else { "HEAD" }, "{row}");
        let list = sh(git(&desk.project).args(["worktree", "list", "--porcelain"]));
        assert!(list.contains(&format!("worktree {}\n", back.path().display())), "{row}: {list}");
        assert!(!list.contains("prunable"), "{row}: {list}");
        script(&desk.project, "git fsck --full --no-dangling");
        back.drop(&how.clone().discard(true), &options()).unwrap().delete().unwrap();
        assert!(!known(&desk).contains("again"), "{row}");
    }
}

/// The bug: it could not come back, for ever, although the store had all of its files.
#[test]
fn a_worktree_whose_commit_git_has_collected_comes_back_with_its_files() {
    let desk = project();
    let worktree = desk.worktree("w");
    let root = worktree.path().to_owned();
    script(
        &root,
        "echo committed >src/a; git commit -qam 2; echo staged >s; git add s; echo work >work",
    );
    let _kept = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
    script(
        &desk.project,
        "for it in $(git for-each-ref --format='%(refname)' refs/calve); do git update-ref -d $it; done
        git branch -qD w; git reflog expire --expire=now --all; git gc -q --prune=now",
    );
    let back = desk.store.restore_dropped("w", "w").unwrap();
    let told = |words: &[&str]| sh(git(back.path()).args(words));
    assert_eq!(told(&["status", "--porcelain"]), " M src/a\n?? s\n?? work\n");
    let project = sh(git(&desk.project).args(["rev-parse", "HEAD"]));
    assert_eq!(told(&["rev-parse", "HEAD"]), project);
    script(
        back.path(),
        "git switch -q -c again; git add -A; git commit -qm again; git fsck --no-dangling",
    );
}

/// Without a commit no `HEAD` can be detached: it was written as the id of no object, and git said
/// that there was no repository.
#[test]
fn a_worktree_on_a_branch_without_commits_comes_back_on_one() {
    for (meanwhile, expected) in [
        ("true", "new"),
        ("git worktree add -q -d ../else; git -C ../else switch -q --orphan new", "new-2"),
        ("git branch new; git branch new-2/sub", "new-3"),
    ] {
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path().to_owned();
        script(
            &root,
            "git checkout -q --orphan new; git rm -qrf .; echo s >s; git add s; echo t >s",
        );
        let told = |root: &Path| {
            let ask = "git status --porcelain; git diff; git cat-file -p :s";
            sh(std::process::Command::new("bash").current_dir(root).args(["-ec", ask]))
        };
        let before = told(&root);
        let _kept = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
        assert_eq!(desk.store.dropped_worktrees().unwrap()[0].branch.as_deref(), Some("new"));
        script(&desk.project, meanwhile);
        let back = desk.store.restore_dropped("w", "w").unwrap();
        assert_eq!(told(back.path()), before, "{meanwhile}");
        let head = sh(git(back.path()).args(["symbolic-ref", "--short", "HEAD"]));
        assert_eq!(head.trim_end(), expected, "{meanwhile}");
        let born = git(back.path()).args(["rev-parse", "-q", "--verify", "HEAD"]).output().unwrap();
        assert!(!born.status.success(), "{meanwhile}");
    }
}

/// A drop, or its taking back, that dies between its two halves: the tree has moved, and the row
/// has not.
#[test]
fn a_tree_and_a_row_that_a_crash_parted_are_found_together_by_the_next_command() {
    let desk = project();
    let worktree = desk.worktree("w");
    let root = worktree.path().to_owned();
    put(&root, "src/a", "work");
    let dropped = desk.store.path().join("dropped");
    let _kept = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
    let token = names(&dropped).into_iter().find(|name| !name.ends_with(".git")).unwrap();
    let registration = desk.project.join(".git/worktrees/w");
    let aside = dropped.join(format!("{token}.git"));
    let whole = |row: &str| {
        let worktree = desk.store.worktree("w").unwrap();
        assert_eq!(worktree.state().unwrap(), WorktreeState::Ready, "{row}");
        assert_eq!(changes(&root).len(), 1, "{row}");
        assert_eq!(desk.store.dropped_worktrees().unwrap().len(), 0, "{row}");
        assert_eq!(names(&dropped), [""; 0], "{row}");
    };
    // It came back, and its row did not.
    fs::create_dir_all(registration.parent().unwrap()).unwrap();
    fs::rename(&aside, &registration).unwrap();
    fs::rename(dropped.join(&token), &root).unwrap();
    whole("back");
    // It went away, and its row did not.
    fs::rename(&root, dropped.join(&token)).unwrap();
    whole("away");
    fs::rename(&root, dropped.join(&token)).unwrap();
    fs::rename(&registration, &aside).unwrap();
    whole("away with its registration");
    // Beside its place, as on another filesystem.
    fs::rename(&root, root.with_file_name(format!(".calve-dropped-{token}"))).unwrap();
    whole("beside");
}

/// A part that is gone already does not block the drop of the rest.
#[test]
fn what_is_gone_is_dropped_and_restored() {
    let mut desk = project();
    // It must outlast the repository.
    script(&desk.project, "rm -r .git/calve");
    desk.store = Store::init_at(&desk.project, desk.project.join(".calve")).unwrap();
    let (repository, folder) = (&desk.project, desk.folder());
    for (what, text) in [
        ("the folder", "rm -r ../project.worktrees/w"),
        ("all that git knows", "git worktree remove -f ../project.worktrees/w; git branch -D w"),
        ("its registration", "rm -r ../project.worktrees/w; git worktree prune"),
        ("its .git file", "rm ../project.worktrees/w/.git"),
        ("the branch", "rm -r ../project.worktrees/w; git worktree prune; git branch -D w"),
        ("the repository", "mv .git ../aside"),
    ] {
        let worktree = desk.worktree("w");
        script(repository, text);
        let dropped = worktree.drop(&DropOptions::new().force(true), &options());
        dropped.unwrap_or_else(|error| panic!("{what}: {error}")).delete().unwrap();
        script(
            repository,
            "if [ -d ../aside ]; then mv ../aside .git; git worktree prune; fi; git branch -D w || true",
        );
        assert!(!known(&desk).contains("project.worktrees"), "{what}: {}", known(&desk));
        assert!(!is_there(&folder.join("w")), "{what}");
    }
    for (what, text, expected) in [
        ("the folder", "rm -r ../project.worktrees/w", "w"),
        ("its registration", "rm -r ../project.worktrees/w; git worktree prune", "w"),
        ("the branch", "git worktree remove -f ../project.worktrees/w; git branch -D w", "HEAD"),
    ] {
        let worktree = desk.worktree("w");
        script(repository, text);
        let restored = worktree.restore(GitMode::default(), &options()).unwrap();
        assert!(matches!(restored.git, GitOutcome::Linked(_)), "{what}: {restored:?}");
        let root = folder.join("w");
        assert_eq!((branch(&root).as_str(), changes(&root)), (expected, vec![]), "{what}");
        assert!(!known(&desk).contains("locked"), "{what}");
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
        script(repository, "git branch -D w || true");
    }
}

/// Another worktree of git that somebody made where calve's was is theirs.
#[test]
fn a_worktree_of_git_in_the_place_of_one_of_calves_stays_when_that_is_dropped() {
    let desk = project();
    let worktree = desk.worktree("w");
    script(
        &desk.project,
        "git worktree remove -f ../project.worktrees/w && git worktree add -q -b mine ../project.worktrees/w",
    );
    fails(worktree.clone().drop(&DropOptions::new(), &options()), ErrorKind::WorktreeMissing);
    worktree.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
    let root = desk.folder().join("w");
    assert_eq!((branch(&root).as_str(), changes(&root)), ("mine", vec![]));
}

/// git pruned the registration where it did not see the worktree, such as in a container, and gave
/// its id to a worktree that it made there.
#[test]
fn a_registration_whose_id_went_to_a_worktree_elsewhere_is_that_ones() {
    for (is_seen, hide, show) in
        [(true, ":", ":"), (false, "mv ../c ../hidden", "mv ../hidden ../c")]
    {
        let desk = project();
        desk.worktree("w");
        script(
            &desk.project,
            &format!(
                "mv ../project.worktrees/w ../away; git worktree prune; git worktree add -q -b other ../c/w
                echo work >../c/w/new; mv ../away ../project.worktrees/w; {hide}"
            ),
        );
        let root = desk.folder().join("w");
        let worktree = desk.store.worktree("w").unwrap();
        assert_eq!((branch(&root).as_str(), changes(&root)), ("w", vec![]), "seen: {is_seen}");
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
        script(&desk.project, show);
        let other = desk.scratch.join("c/w");
        assert_eq!(
            (branch(&other).as_str(), changes(&other)),
            ("other", vec!["? new".to_owned()]),
            "seen: {is_seen}"
        );
    }
}

#[test]
fn a_worktree_that_git_knows_at_the_path_is_in_the_way_until_it_is_dropped() {
    let desk = project();
    script(
        &desk.project,
        "git worktree add -q -b mine ../project.worktrees/w && rm -r ../project.worktrees/w",
    );
    let error = fails(desk.store.start(&["w"], &StartOptions::new(), &options()), ErrorKind::Git);
    assert!(error.to_string().contains("calve drop"), "{error}");
    let gone = desk.store.adopt(desk.folder().join("w")).unwrap();
    gone.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    start(&desk, &["w"], &StartOptions::new());
}

#[test]
fn gits_own_commands_may_be_used_on_worktrees() {
    let desk = project();
    let worktree = desk.worktree("w");
    let status_of = |worktree: &Worktree| {
        let status = desk.store.git_status(std::slice::from_ref(worktree), &options());
        status.into_iter().next().unwrap().unwrap().unwrap()
    };
    script(&desk.project, "git worktree move ../project.worktrees/w ../moved");
    let moved = Store::discover(desk.scratch.join("moved")).unwrap().worktree().unwrap();
    assert_eq!(status_of(&moved).branch.as_deref(), Some("w"));
    fs::rename(moved.path(), desk.scratch.join("again")).unwrap();
    script(&desk.project, "git worktree repair ../again");
    let again = Store::discover(desk.scratch.join("again")).unwrap().worktree().unwrap();
    assert_eq!(status_of(&again).branch.as_deref(), Some("w"));
    script(&desk.project, "git worktree prune --expire now; git gc -q --prune=now");
    // A worktree that was moved without telling git can be dropped, too.
    fs::rename(again.path(), desk.scratch.join("third")).unwrap();
    let third = Store::discover(desk.scratch.join("third")).unwrap().worktree().unwrap();
    third.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    assert!(!known(&desk).contains("again"), "{}", known(&desk));
    drop(worktree);
}

/// A project, its worktrees or both get another place. The next command finds the worktrees, and
/// git does.
#[test]
fn what_was_moved_is_found_by_the_next_command_and_by_git() {
    // The moved folder, and the places of the project and the worktree after that.
    for (text, project_at, worktree_at) in [
        ("mv project p", "p", "project.worktrees/w"),
        ("mkdir new; mv project project.worktrees new", "new/project", "new/project.worktrees/w"),
        (
            "mkdir -p a/b; mv project project.worktrees a/b",
            "a/b/project",
            "a/b/project.worktrees/w",
        ),
        ("mv project.worktrees/w w", "project", "w"),
        ("mv project p; mv project.worktrees/w w", "p", "w"),
    ] {
        let desk = project();
        let from = StartOptions::new().branch(StartBranch::Detached);
        let root = start(&desk, &["w"], &from).remove(0).report.path;
        script(&root, "echo mine >mine; git add mine; git commit -qm mine");
        let before = changes(&root);
        script(desk.scratch.path(), text);
        let (project, root) = (desk.scratch.join(project_at), desk.scratch.join(worktree_at));
        let store = Store::discover(&project).unwrap().store;
        if store.worktree("w").unwrap().path() != root {
            // It was moved alone, so only a command in it can tell.
            Store::discover(&root).unwrap().worktree().unwrap();
        }
        let worktree = store.worktree("w").unwrap();
        assert_eq!(
            (worktree.path(), worktree.state().unwrap()),
            (root.as_path(), WorktreeState::Ready),
            "{text}"
        );
        assert_eq!(changes(&root), before, "{text}");
        let listed = sh(git(&project).args(["worktree", "list", "--porcelain"]));
        assert!(listed.contains(&format!("worktree {}\n", root.display())), "{text}: {listed}");
        assert!(!listed.contains("prunable"), "{text}: {listed}");
        let error = fails(
            worktree.clone().drop(&DropOptions::new(), &options()),
            ErrorKind::CommitsOnlyHere,
        );
        assert!(error.details()[0].display().to_string().contains("mine"), "{text}: {error:?}");
        let dropped = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
        assert_eq!(dropped.kept().len(), 1, "{text}");
        assert!(!sh(git(&project).args(["worktree", "list"])).contains("/w"), "{text}");
    }
}

/// Each of git's commands about worktrees, and what calve says and does afterwards.
#[test]
fn after_each_of_gits_commands_about_worktrees_calve_goes_on() {
    use WorktreeState::{Missing, Ready};
    let gone = "rm -rf ../project.worktrees/w;";
    // The command for git, the place of the worktree after it, its state, and whether git knows it.
    for (text, place, state, is_known) in [
        ("git worktree list", "project.worktrees/w", Ready, true),
        ("git worktree list --porcelain -z", "project.worktrees/w", Ready, true),
        ("git worktree lock W; git worktree unlock W", "project.worktrees/w", Ready, true),
        ("git worktree move W ../moved", "moved", Ready, true),
        (
            "git worktree lock W; git worktree move -f -f W ../moved; git worktree unlock ../moved",
            "moved",
            Ready,
            true,
        ),
        ("mv W ../moved; git worktree repair ../moved", "moved", Ready, true),
        ("git worktree prune --expire now", "project.worktrees/w", Ready, true),
        ("git worktree repair", "project.worktrees/w", Ready, true),
        ("git worktree remove W", "project.worktrees/w", Missing, false),
        ("echo x >W/new; git worktree remove --force W", "project.worktrees/w", Missing, false),
        (&format!("{gone} git worktree prune --expire now"), "project.worktrees/w", Missing, false),
        (&format!("{gone} git worktree prune"), "project.worktrees/w", Missing, false),
        (
            &format!("git worktree lock W; {gone} git worktree prune; git worktree unlock W"),
            "project.worktrees/w",
            Missing,
            true,
        ),
        ("rm W/.git; git worktree repair", "project.worktrees/w", Ready, true),
        ("rm -r .git/worktrees/w", "project.worktrees/w", Ready, true),
    ] {
        let desk = project();
        desk.worktree("w");
        script(&desk.project, &text.replace('W', "../project.worktrees/w"));
        let path = desk.scratch.join(place);
        if state == Ready {
            // A command in the worktree tells calve where it is.
            let found = Store::discover(&path).unwrap().worktree().unwrap();
            assert_eq!(found.path(), path, "{text}");
            assert!(found.status(&options()).unwrap().changes.is_empty(), "{text}");
        }
        let worktree = desk.store.worktree("w").unwrap();
        assert_eq!((worktree.path(), worktree.state().unwrap()), (path.as_path(), state), "{text}");
        let said = desk.store.git_status(std::slice::from_ref(&worktree), &options());
        let said = said.into_iter().next().unwrap();
        match (state, is_known) {
            (Ready, true) => {
                let said = said.unwrap().unwrap();
                assert_eq!((said.branch.as_deref(), said.changes), (Some("w"), 0), "{text}");
            }
            // git cannot say anything, and calve does not either.
            _ => assert!(!matches!(said, Ok(Some(_))), "{text}: {said:?}"),
        }
        if state == Missing {
            worktree.restore(GitMode::Best, &options()).unwrap();
            let clean = desk.store.worktree("w").unwrap().status(&options()).unwrap();
            assert!(clean.changes.is_empty(), "{text}");
            assert_eq!((branch(&path).as_str(), changes(&path)), ("w", vec![]), "{text}");
        }
        let worktree = desk.store.worktree("w").unwrap();
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
        let known = known(&desk);
        assert!(!known.contains(place) && !known.contains("prunable"), "{text}: {known}");
        assert!(known.contains("refs/heads/w\n"), "{text}");
        desk.worktree("w");
    }
}

#[test]
fn what_git_says_of_worktrees_is_told() {
    let desk = project();
    let [one, two, plain]: [PathBuf; 3] =
        ["one", "two", "plain"].map(|name| desk.folder().join(name));
    start(&desk, &["one"], &StartOptions::new());
    start(&desk, &["two"], &StartOptions::new().git(GitMode::Copy));
    start(&desk, &["plain"], &StartOptions::new().git(GitMode::None));
    commit(&desk.project, "in-project");
    commit(&one, "one");
    commit(&two, "two");
    let last = commit(&two, "three");
    script(&two, "git switch -q --detach");
    put(&one, "new/file", "x");
    put(&one, "src/a", "x");
    put(&plain, "src/a", "x");
    let worktrees = ["one", "two", "plain"].map(|name| desk.store.worktree(name).unwrap());
    let told: Vec<_> =
        desk.store.git_status(&worktrees, &options()).into_iter().map(Result::unwrap).collect();
    let of = |at: usize| {
        told[at].as_ref().map(|status| {
            let branch = status.branch.as_deref();
            (status.is_linked, branch, status.ahead, status.behind, status.changes)
        })
    };
    assert_eq!(of(0), Some((true, Some("one"), Some(1), Some(1), 2)));
    assert_eq!(of(1), Some((false, None, Some(2), Some(1), 0)));
    assert_eq!(told[1].as_ref().unwrap().commit.as_deref(), Some(last.as_str()));
    assert_eq!(of(2), None);
}

/// Everything in a tree but `.git` and `.calve`: kind, permissions and content of each path.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let below = path.strip_prefix(root).unwrap().to_owned();
            if [".git", ".calve"].iter().any(|own| below == Path::new(own)) {
                continue;
            }
            if kind.is_dir() {
                // git says of a repository in the tree whether it is a submodule, or untracked.
                if !is_there(&path.join(".git")) {
                    walk(root, &path, found);
                }
                continue;
            }
            let told = match kind.is_symlink() {
                true => format!("-> {}", fs::read_link(&path).unwrap().display()),
                false => {
                    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                    format!("{:o} {text}", entry.metadata().unwrap().permissions().mode() & 0o111)
                }
            };
            found.insert(below, told);
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

fn lines(root: &Path, arguments: &[&str]) -> BTreeSet<PathBuf> {
    let output = sh(git(root).args(arguments).arg("-z"));
    output.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from).collect()
}

/// A worktree at `commit` has the commit's files as git writes them, the files that git ignores in
/// the project, and nothing else. Files that the project has as well keep their times, and all
/// others are newer than everything that the project has. Neither git nor calve has anything left
/// to read.
fn is_at(desk: &Desk, name: &str, commit: &str, what: &str) {
    let (root, project) = (desk.folder().join(name), &desk.project);
    let fresh = desk.scratch.join("fresh");
    script(project, &format!("git worktree add -q --detach ../fresh {commit}"));
    let tracked = lines(&fresh, &["ls-files"]);
    let (expected, found, had) = (tree(&fresh), tree(&root), tree(project));
    let mut ignored = lines(project, &["ls-files", "--others", "--ignored", "--exclude-standard"]);
    // The commit may have a file where the project has an ignored folder, or the other way round.
    ignored.retain(|path| {
        !path.starts_with(".calve")
            && !tracked.iter().any(|tracked| tracked.starts_with(path) || path.starts_with(tracked))
    });
    for (path, told) in &expected {
        assert_eq!(found.get(path), Some(told), "{what}: {}", path.display());
    }
    for path in &ignored {
        assert_eq!(found.get(path), had.get(path), "{what}: {}", path.display());
    }
    let all: BTreeSet<&PathBuf> = expected.keys().chain(&ignored).collect();
    assert_eq!(found.keys().collect::<BTreeSet<_>>(), all, "{what}");
    let time = |root: &Path, path: &Path| {
        let meta = fs::symlink_metadata(root.join(path)).ok()?;
        Some((meta.mtime(), meta.mtime_nsec()))
    };
    let is_past = |time: &Option<(i64, i64)>| time.is_some_and(|time| time.0 < 3_000_000_000);
    let newest = had.keys().map(|path| time(project, path)).filter(is_past).max().flatten();
    let clean: BTreeSet<PathBuf> =
        tracked.difference(&lines(project, &["diff", "--name-only", commit])).cloned().collect();
    for path in expected.keys() {
        let new = time(&root, path);
        match clean.contains(path) {
            // git reads a file that changed just before it looked, and then calve does not know
            // which content it had.
            true => assert!(new == time(project, path) || new > newest, "{what}"),
            false => assert!(new > newest, "{what}: {} {new:?} {newest:?}", path.display()),
        }
    }
    script(project, "git worktree remove --force ../fresh");
    let head = sh(git(&root).args(["rev-parse", "HEAD"]));
    assert_eq!(
        head,
        sh(git(project).args(["rev-parse", &format!("{commit}^{{commit}}")])),
        "{what}"
    );
    assert_eq!(
        (changes(&root).len(), not_ready(&root)),
        (0, String::new()),
        "{what}: {}",
        status(&root)
    );
    assert_eq!(common::git::truth(&root), status(&root), "{what}");
    let looked = desk.store.worktree(name).unwrap().status(&options()).unwrap();
    assert_eq!(looked.changes, [], "{what}");
}

/// A project with another branch, and with all kinds of work that is not committed.
const TWO_BRANCHES: &str = "
    git init -q -b main
    mkdir -p src/deep target gone both
    for i in 1 2 3 4 5; do echo $i >src/$i; done; echo deep >src/deep/file; echo gone >gone/file; echo both >both/file
    ln -s src/1 link; echo run >run.sh; chmod +x run.sh; echo text >into-a-folder; printf '/target\\n*.o\\n' >.gitignore
    echo built >target/out; echo object >src/deep/x.o
    git add -A; git commit -qm one; git switch -q -c other
    echo other >src/1; git rm -rq gone into-a-folder; mkdir new into-a-folder; echo new >new/file; echo x >into-a-folder/file
    chmod -x run.sh; ln -sf src/2 link; git add -A; git commit -qm other; git switch -q main
    echo main >src/2; mkdir gone/more; echo more >gone/more/file; git add -A; git commit -qm two
    tick; git status >/dev/null
    echo changed >src/3; echo staged >src/4; git add src/4; rm src/5; echo meant >meant; git add -N meant
    echo untracked >untracked; mkdir -p fresh/deep; echo x >fresh/deep/file; echo object >fresh/deep/x.o
    git init -q nested; git -C nested commit -q --allow-empty -m x; echo x >nested/file
    tick
";

#[test]
fn a_worktree_at_another_commit_has_its_files_and_what_the_project_ignores() {
    for (what, text, commit) in [
        ("another branch", "", "other"),
        ("an ancestor", "", "HEAD~1"),
        ("the project's own commit", "", "HEAD"),
        ("a tag", "git tag -m tagged v1 other", "v1"),
        (
            "ignored there only",
            "git switch -q -f other; echo /src/extra >>.gitignore; git commit -qam x; git switch -q main; echo x >src/extra",
            "other",
        ),
        (
            "ignored here, a file there",
            "git switch -q -f other; echo file >built; git add built; git commit -qm x; git switch -q main; echo /built >>.git/info/exclude; mkdir built; echo x >built/out",
            "other",
        ),
        (
            "ignored here, a folder there",
            "git switch -q -f other; mkdir built; echo file >built/file; git add built; git commit -qm x; git switch -q main; echo /built >>.git/info/exclude; echo x >built",
            "other",
        ),
        (
            "a commit without files",
            "git switch -q --orphan empty -f; git checkout -q main -- .gitignore; git commit -qm x; git switch -q -f main",
            "empty",
        ),
        ("unborn", "git switch -q --orphan unborn -f", "other"),
        ("without an index", "rm .git/index", "other"),
        ("a split index", "git update-index --split-index", "other"),
        (
            "index version 4, untracked cache",
            "git update-index --index-version 4 --untracked-cache; git status -s",
            "other",
        ),
        (
            "line ends",
            "git config core.autocrlf true; printf '* text=auto\n' >.git/info/attributes; git rm -rqf --cached .; git reset -q --hard",
            "other",
        ),
        (
            "attributes there",
            "git switch -q -f other; echo 'src/1 text eol=crlf' >.gitattributes; git add .gitattributes; git commit -qm x; git switch -q main",
            "other",
        ),
        (
            "a repository here, a submodule there",
            "git switch -q -f other; git add nested; git commit -qm x; git switch -q -f main; echo x >nested/file",
            "other",
        ),
        (
            "a filter",
            "git config filter.f.smudge 'sed s/^/smudged:/'; git config filter.f.clean 'sed s/^smudged://'; git config filter.f.required true; echo 'src/1 filter=f' >.git/info/attributes",
            "other",
        ),
        ("in a merge", "git reset -q --hard; ! git merge -q other", "other"),
        (
            "a hook",
            "mkdir -p .git/hooks; for h in post-checkout post-index-change; do printf '#!/bin/sh\ntouch ../hook-ran\n' >.git/hooks/$h; chmod +x .git/hooks/$h; done",
            "other",
        ),
        ("core.worktree", "git config core.worktree \"$PWD\"", "other"),
    ] {
        let desk = prepared(&format!("{TWO_BRANCHES}\n{text}\ntick"));
        let before = (status(&desk.project), tree(&desk.project));
        let how = StartOptions::new().base(commit);
        let report = desk.store.start(&["w"], &how, &options()).unwrap();
        assert!(report.written_files.is_some());
        assert!(!is_there(&desk.scratch.join("hook-ran")), "{what}");
        is_at(&desk, "w", commit, what);
        assert_eq!(branch(&desk.folder().join("w")), "w", "{what}");
        assert_eq!((status(&desk.project), tree(&desk.project)), before, "{what}");
        assert_eq!(names(&desk.store.path().join("stage")), [""; 0], "{what}");
    }
}

/// Each row: attributes and settings that differ between the project's files and the commit; the
/// commit; and how many files git must write because of them.
#[test]
fn a_file_with_the_same_content_is_as_the_commit_converts_it() {
    let eol = "echo '*.txt eol=crlf' >.gitattributes";
    let again = "rm -f t.txt sub/s.txt; git checkout -q -- t.txt sub/s.txt";
    let rotate =
        "git config filter.r.smudge 'tr a-z n-za-m'; git config filter.r.clean 'tr a-z n-za-m'";
    for (what, text, commit, written) in [
        ("nothing differs", String::new(), "HEAD", Some(0)),
        (
            "nothing is converted",
            "echo '* text=auto' >.gitattributes; git add .; git commit -qm a".to_owned(),
            "HEAD",
            Some(0),
        ),
        (
            "line ends here",
            format!("{eol}; git add .; git commit -qm a; {again}"),
            "plain",
            Some(2),
        ),
        (
            "line ends there",
            format!(
                "git switch -q -c there; {eol}; git add .; git commit -qm a; git switch -q main; {again}"
            ),
            "there",
            None,
        ),
        (
            "in a folder",
            format!("echo '* eol=crlf' >sub/.gitattributes; git add .; git commit -qm a; {again}"),
            "plain",
            Some(1),
        ),
        (
            "an id",
            format!("echo '*.txt ident' >.gitattributes; git add .; git commit -qm a; {again}"),
            "plain",
            Some(2),
        ),
        (
            "an encoding",
            format!(
                "git switch -q -c there; echo 'sub/* working-tree-encoding=UTF-16LE' >.gitattributes; git add .gitattributes; git commit -qm a; git switch -q main; {again}"
            ),
            "there",
            None,
        ),
        (
            "a filter",
            format!(
                "{rotate}; echo '*.txt filter=r' >.gitattributes; git add .gitattributes; git commit -qm a; {again}"
            ),
            "plain",
            Some(2),
        ),
        (
            "a branch whose files git left as they were",
            format!("{eol}; git add .; git commit -qm a; {again}; git switch -q plain"),
            "plain",
            Some(2),
        ),
        ("a setting since", "git config core.autocrlf true".to_owned(), "HEAD", Some(3)),
        (
            "attributes of the repository since",
            "mkdir -p .git/info; echo '*.txt eol=crlf' >.git/info/attributes".to_owned(),
            "plain",
            Some(2),
        ),
        ("attributes that nobody tracks", format!("{eol}; {again}"), "HEAD", Some(2)),
        (
            "attributes that are not committed",
            format!("echo >.gitattributes; git add .; git commit -qm a; {eol}; {again}"),
            "HEAD",
            None,
        ),
    ] {
        let desk = prepared(&format!(
            "git init -q -b main; mkdir sub; printf '$Id$\\na\\n' >t.txt; printf 'b\\nc\\n' >sub/s.txt; echo x >plain
            git add .; git commit -qm one; git branch plain; tick
            {text}
            tick; git status -s"
        ));
        let before = (status(&desk.project), tree(&desk.project));
        let report = desk.store.start(&["w"], &StartOptions::new().base(commit), &options());
        let report = report.unwrap();
        if written.is_some() {
            assert_eq!(report.written_files, written, "{what}");
        }
        let (root, reference) = (desk.folder().join("w"), desk.scratch.join("reference"));
        sh(git(&desk.project)
            .args(["worktree", "add", "-q", "--detach"])
            .arg(&reference)
            .arg(commit));
        for path in ["t.txt", "sub/s.txt", "plain"] {
            let [ours, theirs] = [&root, &reference].map(|root| fs::read(root.join(path)).unwrap());
            assert_eq!(ours, theirs, "{what}: {path}");
        }
        assert_eq!((changes(&root), changes(&reference)), (vec![], vec![]), "{what}");
        script(&root, "touch t.txt sub/s.txt plain");
        assert_eq!(changes(&root), [""; 0], "{what}: read by git");
        assert_eq!((status(&desk.project), tree(&desk.project)), before, "{what}");
        sh(git(&desk.project).args(["worktree", "remove", "--force"]).arg(&reference));
    }
}

#[test]
fn worktrees_at_the_same_commit_have_the_same_snapshot_and_are_made_again_from_it() {
    let desk = prepared(TWO_BRANCHES);
    let how = StartOptions::new().base("other");
    let first = desk.store.start(&["v", "w"], &how, &options()).unwrap();
    let second = desk.store.start(&["x"], &how, &options()).unwrap();
    assert_eq!(first.snapshot, second.snapshot);
    let snapshots = desk.store.log().unwrap().snapshots;
    assert_eq!(snapshots.len(), 2);
    assert_eq!(snapshots[0].parent, Some(snapshots[1].id));
    for name in ["v", "w", "x"] {
        is_at(&desk, name, "other", name);
        let worktree = desk.store.worktree(name).unwrap();
        fs::remove_dir_all(worktree.path()).unwrap();
        worktree.restore(GitMode::default(), &options()).unwrap();
        assert_eq!(changes(worktree.path()), [""; 0], "{name}");
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    }
}

#[test]
fn what_snapshots_leave_out_is_left_out_at_another_commit_too() {
    let desk = prepared(
        "git init -q -b main; mkdir big src; echo one >big/file; echo one >src/file; echo /big >.calveignore; echo '*.log' >src/.calveignore
        git add -A; git commit -qm one; git switch -q -c other; echo other >big/file; echo new >big/new; echo x >src/a.log; echo other >src/file
        git add -A; git commit -qm other; git switch -q main; tick; git status -s",
    );
    start(&desk, &["w"], &StartOptions::new().base("other"));
    let root = desk.folder().join("w");
    let found: Vec<PathBuf> = tree(&root).into_keys().collect();
    let expected = [".calveignore", "src/.calveignore", "src/file"].map(PathBuf::from);
    assert_eq!(found, expected);
    assert_eq!(desk.store.worktree("w").unwrap().status(&options()).unwrap().changes, []);
    let time = |root: &Path| fs::metadata(root.join("src/.calveignore")).unwrap().mtime_nsec();
    assert_eq!((changes(&root).len(), time(&root)), (3, time(&desk.project)));
}

#[test]
fn a_sparse_project_has_sparse_worktrees_at_another_commit() {
    let desk = prepared(&format!(
        "{TWO_BRANCHES}
        git reset -q --hard; git clean -qffd; git sparse-checkout set both; tick"
    ));
    start(&desk, &["w"], &StartOptions::new().base("other"));
    let root = desk.folder().join("w");
    assert_eq!((changes(&root), not_ready(&root)), (vec![], String::new()));
    let found = tree(&root);
    assert!(found.contains_key(Path::new("both/file")) && found.contains_key(Path::new("run.sh")));
    assert!(!found.contains_key(Path::new("new/file")), "{found:?}");
}

#[test]
fn random_work_never_comes_along_to_another_commit() {
    for seed in rounds(4) {
        let mut dice = Dice(seed);
        let desk = prepared(&format!("{TWO_BRANCHES}\nrm -rf nested"));
        let mut done = Vec::new();
        let mut files = FILES.to_vec();
        files.extend([
            "src/1",
            "src/2",
            "gone/file",
            "target/out",
            "src/deep/x.o",
            "into-a-folder",
        ]);
        for _ in 0..12 {
            let name = files[dice.roll(files.len())];
            let kind = dice.roll(13);
            put(&desk.project, "src/deep/keep", "x");
            done.push(format!("{} {name}", edit(&desk.project, name, kind, &mut dice)));
        }
        let commit = ["other", "HEAD", "main~1"][dice.roll(3)];
        start(&desk, &["w"], &StartOptions::new().base(commit));
        is_at(&desk, "w", commit, &format!("seed {seed}, {commit}: {done:?}"));
    }
}

#[test]
fn a_base_that_is_no_commit_is_refused_before_anything_is_made() {
    let desk = prepared(TWO_BRANCHES);
    script(
        &desk.project,
        "git branch twice; git tag twice other; git tag blob HEAD:src/1; git branch behind HEAD~1",
    );
    let before = known(&desk);
    let row = |how: StartOptions, kind: ErrorKind, words: &str| {
        let error = fails(desk.store.start(&["w"], &how, &options()), kind);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(known(&desk), before, "{error}");
        assert!(!is_there(&desk.folder().join("w")) && desk.store.worktrees().unwrap().is_empty());
        assert_eq!(desk.store.log().unwrap().snapshots.len(), 0, "{error}");
    };
    let at = |commit: &str| StartOptions::new().base(commit);
    for commit in
        ["nothing", "-x", "", "--all", "HEAD:src/1", "a b", "HEAD..other", "..", "refs/heads/x"]
    {
        row(at(commit), ErrorKind::CommitNotFound, "git has no commit of this name");
    }
    for commit in ["HEAD^{tree}", "blob"] {
        row(at(commit), ErrorKind::CommitNotFound, "not a commit");
    }
    row(at("twice"), ErrorKind::CommitNotFound, "refs/heads/twice or refs/tags/twice");
    row(at("other").git(GitMode::Copy), ErrorKind::Git, "only linked worktrees");
    row(at("other").git(GitMode::None), ErrorKind::Git, "only linked worktrees");
    let onto = |branch: &str| at("other").branch(StartBranch::Named(branch.to_owned()));
    row(onto("main"), ErrorKind::BranchExists, "has it checked out");
    row(onto("behind"), ErrorKind::BranchExists, "and other is at");
    // A filter that fails is git's to say.
    script(
        &desk.project,
        "git config filter.f.smudge false; git config filter.f.required true; echo 'src/1 filter=f' >.git/info/attributes",
    );
    let error = fails(desk.store.start(&["w"], &at("other"), &options()), ErrorKind::Git);
    assert!(error.to_string().contains("smudge filter f failed"), "{error}");
    assert_eq!((known(&desk), names(&desk.store.path().join("stage"))), (before, vec![]));
    script(&desk.project, "rm .git/info/attributes");
    // A branch that is at the commit is taken, and with --detach none is made.
    start(&desk, &["w"], &onto("other"));
    assert_eq!(branch(&desk.folder().join("w")), "other");
    start(&desk, &["v"], &at("other").branch(StartBranch::Detached));
    assert_eq!(branch(&desk.folder().join("v")), "HEAD");
    let from = desk.store.log().unwrap().snapshots[0].id;
    fails(desk.store.start(&["u"], &at("other").from(from), &options()), ErrorKind::Git);
}

/// A monitor that knows nothing of the worktree, and so says that nothing in it changed.
#[test]
fn what_a_file_monitor_knows_of_the_project_vouches_for_no_worktree() {
    let desk = project();
    let first = desk.snapshot();
    script(
        &desk.project,
        "echo changed >src/a; git commit -qam two; tick
        printf '#!/bin/sh\\nprintf \"token\\\\0\"\\n' >../monitor; chmod +x ../monitor; git config core.fsmonitor \"$PWD/../monitor\"
        git config core.fsmonitorHookVersion 2; git update-index --fsmonitor; git status -s; git status -s; tick
        git ls-files -f | grep '^h src/a'",
    );
    start(&desk, &["w"], &StartOptions::new().from(first));
    let root = desk.folder().join("w");
    script(&root, "git status --porcelain | grep -x ' M src/a'");
    start(&desk, &["v"], &StartOptions::new());
    assert_eq!(changes(&desk.folder().join("v")), [""; 0]);
}

#[test]
fn what_jj_knows_of_the_project_stays_there_if_it_leads_to_its_repository() {
    for (what, text, stays) in [
        ("beside git", "mkdir .jj; echo x >.jj/x; echo /.jj >.git/info/exclude", true),
        ("alone", "rm -r .git; mkdir .jj; echo x >.jj/x", false),
    ] {
        let desk = prepared(&format!("{PROJECT}\n{text}\ntick"));
        let worktree = desk.worktree("w");
        assert_eq!(is_there(&worktree.path().join(".jj")), !stays, "{what}");
        assert_eq!(worktree.status(&options()).unwrap().changes, [], "{what}");
        desk.store.project_worktree().unwrap().status(&options()).unwrap();
        assert!(is_there(&desk.project.join(".jj/x")), "{what}");
    }
}

/// When the ready trees are made. A start of two worktrees takes both.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Waiting {
    Never,
    /// Before the project's index changes.
    Before,
    /// After that.
    After,
}

#[test]
fn each_of_many_worktrees_of_a_snapshot_says_what_the_project_says_whatever_its_index_says() {
    many_worktrees_say_what_the_project_says(Waiting::Never);
}

#[test]
fn worktrees_whose_trees_waited_say_what_the_project_says_whatever_its_index_said_when_they_were_made()
 {
    many_worktrees_say_what_the_project_says(Waiting::Before);
}

#[test]
fn worktrees_whose_trees_waited_say_what_the_project_says_whatever_its_index_says() {
    many_worktrees_say_what_the_project_says(Waiting::After);
}

/// git's index is made ready once for all worktrees of a ready tree (btrfs), and with each tree
/// that waits (elsewhere).
fn many_worktrees_say_what_the_project_says(waiting: Waiting) {
    let desk = project();
    let is_btrfs = common::filesystem(&desk.project) == "btrfs";
    let kept = || -> usize {
        let folder = desk.store.path().join("templates");
        let found = fs::read_dir(folder).into_iter().flatten().map(|found| found.unwrap().path());
        let is_kept = |path: &PathBuf| {
            path.extension().is_some_and(|it| it == "git-index")
                || is_there(&path.join("git-index"))
        };
        found.filter(is_kept).count()
    };
    let refill = |now: Waiting| {
        if waiting == now {
            desk.store.make_ready_trees(&options()).unwrap();
        }
    };
    if waiting != Waiting::Never {
        desk.store.keep_ready_trees(2).unwrap();
        desk.snapshot();
    }
    for (number, (what, text, is_ready)) in [
        ("the first", "", Some(true)),
        ("the same index", "", Some(true)),
        ("once more", "", Some(true)),
        ("an entry is gone", "git rm -q --cached src/b", Some(true)),
        ("it is staged again", "git add -A", Some(true)),
        (
            "staged content that no file has",
            "git update-index --cacheinfo 100644,$(echo x | git hash-object -w --stdin),src/b",
            Some(false),
        ),
        ("unstaged", "git reset -q --mixed; tick; git status -s", Some(true)),
        ("an index that is older than its entries", "touch -d '2020-01-01' .git/index", None),
        (
            "another version",
            "git update-index --index-version 4; tick; git update-index -q --refresh",
            Some(true),
        ),
        ("assumed to be unchanged", "git update-index --assume-unchanged src/b", Some(true)),
        (
            "a file of another time",
            // Another second: git records no new time within one.
            "git update-index --no-assume-unchanged src/b; touch -d '2020-02-02' src/a; tick; git status -s",
            Some(true),
        ),
        (
            "a damaged file in the store",
            "for f in .git/calve/templates/*git-index .git/calve/templates/*/git-index; do [ ! -e $f ] || printf x >>$f; done",
            Some(true),
        ),
        (
            "one with another byte in its middle",
            "for f in .git/calve/templates/*git-index .git/calve/templates/*/git-index; do
                [ ! -e $f ] || printf x | dd of=$f bs=1 seek=4200 conv=notrunc status=none
            done",
            Some(true),
        ),
        (
            "a cut one",
            "for f in .git/calve/templates/*git-index .git/calve/templates/*/git-index; do [ ! -e $f ] || truncate -s 20 $f; done",
            Some(true),
        ),
        ("without an index", "rm .git/index", Some(true)),
    ]
    .into_iter()
    .enumerate()
    {
        refill(Waiting::Before);
        script(&desk.project, &format!("{text}\ntick"));
        refill(Waiting::After);
        if matches!(what, "the same index" | "once more") && waiting != Waiting::Never && !is_btrfs {
            assert_eq!(kept(), 2, "{what}");
        }
        let name = format!("w{number}");
        start(&desk, &[&name, &format!("{name}b")], &StartOptions::new());
        for name in [&name, &format!("{name}b")] {
            let root = desk.folder().join(name);
            assert_eq!(changes(&root), changes(&desk.project), "{what}");
            let not_ready = not_ready(&root);
            // git reads the files that changed when the tree was handed over for another snapshot.
            let is_brought = what == "a file of another time" && waiting == Waiting::After;
            if let Some(is_ready) = is_ready.filter(|_| !is_brought || is_btrfs) {
                assert_eq!(not_ready.is_empty(), is_ready, "{what}: {not_ready}");
            }
            assert_eq!(desk.store.worktree(name).unwrap().status(&options()).unwrap().changes, []);
        }
        // Trees that waited were taken, with their indexes.
        assert_eq!(kept() > 0, is_btrfs, "{what}");
        assert!(kept() <= 2, "{what}: {}", kept());
    }
}

#[test]
fn a_tree_that_waited_comes_with_gits_index_even_after_an_edit() {
    let desk = project();
    let id = desk.snapshot();
    desk.store.keep_ready_trees(2).unwrap();
    desk.store.make_ready_trees(&options()).unwrap();
    let entries = |started: &calve::StartReport| match &started.worktrees[0].git {
        GitOutcome::Linked(linked) => linked.ready_index_entries,
        other => panic!("{other:?}"),
    };
    // Nothing but the index that came with the tree knows the files now.
    script(&desk.project, "rm .git/calve/indexes/*");
    let started = desk.store.start(&["w"], &StartOptions::new().from(id), &options()).unwrap();
    assert!(entries(&started) > 0, "{started:?}");
    assert_eq!(changes(&desk.folder().join("w")), changes(&desk.project));
    script(&desk.project, "echo changed >src/a; tick");
    let edited = desk.snapshot();
    script(&desk.project, "rm .git/calve/indexes/*");
    let started = desk.store.start(&["v"], &StartOptions::new().from(edited), &options()).unwrap();
    assert!(entries(&started) > 0, "{started:?}");
    let root = desk.folder().join("v");
    assert_eq!(changes(&root), changes(&desk.project));
    assert!(changes(&root).iter().any(|line| line.contains(".M") && line.ends_with(" src/a")));
}

/// `core.checkStat=minimal` lets git compare the size and the seconds of the modification time
/// alone. A worktree of an older snapshot got the project's index, and git called a file unchanged
/// that the project had changed once more within the second.
#[test]
fn git_sees_what_changed_within_a_second_also_where_it_compares_little() {
    for (row, waits, forgets) in [
        ("an index that is made at the start", false, false),
        ("nothing vouches for a file", false, true),
        ("an index that waited", true, false),
        ("an index that waited, and nothing else vouches for a file", true, true),
    ] {
        let desk = project();
        let write = |text: &str, fraction: u32| {
            let at = format!("2020-01-01 12:00:00.{fraction}");
            script(&desk.project, &format!("echo {text} >src/a; touch -d '{at}' src/a; tick"));
        };
        script(&desk.project, "git config core.checkStat minimal");
        write("one", 1);
        let older = desk.snapshot();
        write("two", 2);
        script(&desk.project, "git add -A; git commit -qm two");
        desk.snapshot();
        if waits {
            desk.store.keep_ready_trees(1).unwrap();
            desk.store.make_ready_trees(&options()).unwrap();
        }
        if forgets {
            script(&desk.project, "rm .git/calve/indexes/*");
        }
        start(&desk, &["w"], &StartOptions::new().from(older));
        let root = desk.folder().join("w");
        let found = changes(&root);
        assert!(
            found.iter().any(|it| it.contains(".M") && it.ends_with(" src/a")),
            "{row}: {found:?}"
        );
    }
}

/// An agent's tool often makes its worktrees in a folder of the project that git ignores.
#[test]
fn worktrees_that_git_made_inside_another_tree_are_no_part_of_it_and_not_dropped_with_it() {
    let desk = prepared(&format!(
        "{PROJECT}
        echo /inside >>.git/info/exclude; mkdir inside; git worktree add -q inside/x -b x; git worktree add -q inside/y -b y
        rm -r inside/y; mkdir inside/y; echo other >inside/y/file
        git init -q inside/own; git -C inside/own commit -q --allow-empty -m own; git -C inside/own worktree add -q ../of-own; tick"
    ));
    start(&desk, &["w"], &StartOptions::new());
    let worktree = desk.store.worktree("w").unwrap();
    // The folder in the place of `y` is no worktree.
    assert_eq!(names(&worktree.path().join("inside")), ["own", "y"]);
    assert_eq!(worktree.status(&options()).unwrap().changes, []);
    let project = desk.store.project_worktree().unwrap();
    assert_eq!(project.status(&options()).unwrap().changes, []);
    script(worktree.path(), "git worktree add -q inside/z -b z; echo work >inside/z/mine");
    assert_eq!(worktree.status(&options()).unwrap().changes, []);
    let again = worktree.capture(&SnapshotOptions::new(), &options()).unwrap();
    worktree.switch(again.id, &SwitchOptions::new(), &options()).unwrap();
    for how in [DropOptions::new(), DropOptions::new().force(true)] {
        let error = fails(worktree.clone().drop(&how, &options()), ErrorKind::Overlap);
        assert_eq!(error.details(), [worktree.path().join("inside/z")]);
        assert_eq!(fs::read_to_string(worktree.path().join("inside/z/mine")).unwrap(), "work\n");
    }
    script(worktree.path(), "git worktree remove --force inside/z");
    worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
}

/// A program that was made of an older source with a newer time would pass for the new one.
#[test]
fn a_build_at_another_commit_makes_what_differs_and_nothing_else() {
    let desk = prepared(
        "git init -q -b main; mkdir src
        printf 'all: out/a out/b out/c out/d\\nout/%%: src/%%\\n\\tcp $< $@\\n\\techo $@ >>made\\n' >Makefile
        for name in a b c d; do echo one >src/$name; done; printf '/out\\n/made\\n' >.gitignore
        git add -A; git commit -qm one; git switch -q -c other; echo other >src/a; git commit -qam other; git switch -q main
        echo two >src/b; git commit -qam two; tick; mkdir out; echo changed >src/c; tick; make -s; rm made; tick; git status -s",
    );
    start(&desk, &["w"], &StartOptions::new().base("other"));
    let root = desk.folder().join("w");
    script(&root, "make -s");
    let made = fs::read_to_string(root.join("made")).unwrap();
    assert_eq!(made.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["out/a", "out/b", "out/c"]));
    for (name, expected) in [("a", "other\n"), ("b", "one\n"), ("c", "one\n"), ("d", "one\n")] {
        assert_eq!(fs::read_to_string(root.join("out").join(name)).unwrap(), expected, "{name}");
    }
    assert_eq!(changes(&root), [""; 0]);
}

/// What git does not list and no snapshot has: a drop names it, and leaves it.
#[test]
fn work_that_neither_git_nor_a_snapshot_knows_of_keeps_a_worktree() {
    const INNER: &str =
        "git init -q -b main inner; cd inner; echo x >x; git add x; git commit -qm deep";
    const DEEPER: &str = "
        git init -q ../s; git -C ../s commit -q --allow-empty -m s; git init -q ../o; S=$(cd ../s; pwd)
        (cd ../o; git -c protocol.file.allow=always submodule -q add \"$S\" s; git commit -qm s)
        git -c protocol.file.allow=always clone -q --recurse-submodules ../o target/n; cd target/n/s";
    let rows = [
        ("mkdir -p .jj/repo; echo op >.jj/repo/op", ErrorKind::Changed, ".jj"),
        (
            "mkdir -p .jj/repo; echo op >.jj/repo/op; echo '/*' >.jj/.gitignore",
            ErrorKind::Changed,
            ".jj",
        ),
        (&format!("cd target; {INNER}"), ErrorKind::CommitsOnlyHere, "deep (in the repository"),
        (
            &format!("cd target; {INNER}; git checkout -q --detach; git branch -qD main"),
            ErrorKind::CommitsOnlyHere,
            "deep (in the repository",
        ),
        (
            &format!(
                "(cd target; {INNER}); git clone -q --bare target/inner target/bare; rm -r target/inner"
            ),
            ErrorKind::CommitsOnlyHere,
            "deep (in the repository",
        ),
        (
            "mkdir -p target/hg/.hg/store; echo 1 >target/hg/.hg/store/00changelog.i",
            ErrorKind::Changed,
            "target/hg/.hg",
        ),
        ("mkdir target/f; echo 1 >target/f/.fslckout", ErrorKind::Changed, "target/f/.fslckout"),
        (
            "mkdir -p target/p/.calve; echo 'calve store 1' >target/p/.calve/format",
            ErrorKind::Changed,
            "target/p/.calve",
        ),
        (
            "git init -q target/p; mkdir target/p/.git/calve; echo 'calve store 1' >target/p/.git/calve/format",
            ErrorKind::Changed,
            "target/p/.git/calve",
        ),
        (
            "mkdir target/r; echo 'calve remote 1' >target/r/format",
            ErrorKind::Changed,
            "target/r",
        ),
        // A submodule of a repository inside.
        (
            &format!("{DEEPER}; git checkout -q -b b; git commit -q --allow-empty -m deep; git checkout -q -"),
            ErrorKind::CommitsOnlyHere,
            "deep (in the submodule",
        ),
        (
            &format!("{DEEPER}; echo work >work; git add work; git stash -q; cd ..; git submodule -q deinit -f s"),
            ErrorKind::CommitsOnlyHere,
            "(in the submodule",
        ),
        // A linked worktree of a repository inside, beside it.
        (
            &format!(
                "git init -q --bare ../o.git; cd target; {INNER}; git remote add o ../../../o.git; git push -q o main
                git worktree add -q --detach ../tree; echo new >../tree/new"
            ),
            ErrorKind::Changed,
            "target/tree/new",
        ),
        // What git would list there, nobody knows just now.
        (
            "git init -q ../o; git -C ../o commit -q --allow-empty -m o
            git -C ../o worktree add -q --detach \"$PWD/target/tree\"; echo new >target/tree/new; mv ../o ../away",
            ErrorKind::Changed,
            "target/tree",
        ),
        (
            "git worktree add -q --detach target/tree; echo new >target/tree/new; rm -r \"$(git -C target/tree rev-parse --git-dir)\"",
            ErrorKind::Changed,
            "target/tree",
        ),
        (
            "mkdir target/tree; echo new >target/tree/new; ln -s nowhere target/tree/.git",
            ErrorKind::Changed,
            "target/tree",
        ),
        // Android's `repo` makes the first, git-new-workdir the second.
        (
            "git init -q ../o; git -C ../o commit -q --allow-empty -m o; mkdir target/tree
            ln -s ../../../o/.git target/tree/.git; echo new >target/tree/new",
            ErrorKind::Changed,
            "target/tree/new",
        ),
        (
            "git init -q ../o; git -C ../o commit -q --allow-empty -m o; mkdir -p target/tree/.git
            for it in config refs objects; do ln -s ../../../../o/.git/$it target/tree/.git/$it; done; cp ../o/.git/HEAD target/tree/.git
            echo new >target/tree/new",
            ErrorKind::Changed,
            "target/tree/new",
        ),
        (
            "mkdir -p target/ws/.jj; echo ../../repo >target/ws/.jj/repo; echo work >target/ws/work",
            ErrorKind::Changed,
            "target/ws",
        ),
        // The remote has gone, or goes with the worktree.
        (
            &format!(
                "git init -q --bare target/o.git; cd target; {INNER}; git remote add o ../o.git; git push -q o main; git fetch -q o"
            ),
            ErrorKind::CommitsOnlyHere,
            "deep (in the repository",
        ),
        (
            &format!(
                "git init -q --bare ../o.git; cd target; {INNER}; git remote add o ../../../o.git; git push -q o main; rm -r ../../../o.git"
            ),
            ErrorKind::CommitsOnlyHere,
            "deep (in the repository",
        ),
        (
            &format!("cd target; {INNER}; git remote add o .; git fetch -q o"),
            ErrorKind::CommitsOnlyHere,
            "deep (in the repository",
        ),
        (
            &format!("cd target; {INNER}; git update-ref refs/remotes/o/main main"),
            ErrorKind::CommitsOnlyHere,
            "deep (in the repository",
        ),
        (
            "mkdir left; echo left >left/out; echo left >.calveignore; git add .calveignore; git commit -qm i",
            ErrorKind::Changed,
            "left",
        ),
    ];
    for (text, kind, detail) in rows {
        let desk = project();
        let worktree = desk.worktree("w");
        script(worktree.path(), text);
        let error = fails(worktree.clone().drop(&DropOptions::new(), &options()), kind);
        let details = format!("{:?}", error.details());
        assert!(details.contains(detail), "{text}: {error}: {details}");
        assert!(is_there(worktree.path()), "{text}");
        worktree.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
    }
}

#[test]
fn a_repository_inside_whose_commits_others_have_keeps_no_worktree() {
    const INNER: &str =
        "git init -q target/inner; cd target/inner; git commit -q --allow-empty -m x";
    for (in_project, there) in [
        (INNER, "true"),
        (
            "true",
            "git clone -q \"$(git rev-parse --path-format=absolute --git-common-dir)/..\" target/c",
        ),
        ("true", "git init -q target/empty"),
        // Of another tool, which cannot be asked: as the base snapshot has it, and one that git tracks.
        ("mkdir -p target/hg/.hg; echo 1 >target/hg/.hg/i", "true"),
        (
            "mkdir -p fixture/.svn; echo 1 >fixture/.svn/i; git add -A; git commit -qm fixture",
            "echo 2 >fixture/.svn/i; git commit -qam 2",
        ),
    ] {
        let desk = prepared(&format!("{PROJECT} ({in_project}); tick"));
        let worktree = desk.worktree("w");
        script(worktree.path(), there);
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    }
}

#[test]
fn a_process_that_works_in_a_worktree_keeps_it_and_is_named() {
    if !is_there(Path::new("/proc/self/fd")) {
        return common::not_run("processes in a worktree", "there is no /proc");
    }
    let rows = [
        ("cd \"$AT\"; exec sleep 600", true),
        ("exec sleep 600 <\"$AT/src/a\"", true),
        (
            "cp \"$(command -v sleep)\" \"$AT/target/sleeper\"; cd /; exec \"$AT/target/sleeper\" 600",
            true,
        ),
        ("exec sleep 600", false),
        ("mkdir \"$AT-2\"; cd \"$AT-2\"; exec sleep 600", false),
    ];
    for (text, is_in) in rows {
        let desk = project();
        let worktree = desk.worktree("w");
        // A child of the process that drops would not count.
        let pid = sh(std::process::Command::new("sh")
            .current_dir(&desk.project)
            .env("AT", worktree.path())
            .args(["-c", &format!("({text}) >/dev/null 2>&1 & echo $!")]));
        let pid: u32 = pid.trim_end().parse().unwrap();
        let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        while !name().starts_with("sleep") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let name = name();
        let dropped = worktree.clone().drop(&DropOptions::new(), &options());
        if is_in {
            let error = fails(dropped, ErrorKind::Busy);
            let told = format!("{pid} {}", name.trim_end());
            assert_eq!(error.details(), [std::path::PathBuf::from(told)], "{text}");
            let dropped = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
            let living: Vec<u32> = dropped.living().iter().map(|it| it.pid).collect();
            assert_eq!(living, [pid], "{text}");
            dropped.delete().unwrap();
        } else {
            dropped.unwrap().delete().unwrap();
        }
        sh(std::process::Command::new("kill").arg(pid.to_string()));
    }
}

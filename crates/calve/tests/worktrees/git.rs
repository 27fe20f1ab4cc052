//! Promise: the `.git` in the project's root is git's. No snapshot has it, no command about
//! snapshots touches it, and a worktree gets a repository of its own, in which git's answers are
//! right from the first on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;
use crate::common::git::{
    Dice, FILES, PROJECT, edit, entries, git, not_ready, rounds, script, truth,
};
use crate::common::snapshot::{Snapshot, assert_same, only, snapshot};
use crate::common::{has_command, is_there, not_run, sh};
use crate::stores::{Desk, assert_sound, content, fails, options, put, set_mode, status, tree};
use calve::{
    ChangeScope, DropOptions, ErrorKind, GitMode, GitOutcome, NoRepository, SnapshotOptions,
    StartOptions, StartedWorktree, Store, SwitchOptions, Worktree,
};

/// A project with a repository made by `git init INIT`, and then a script; `None` where there is no
/// git, which is said.
fn desk(test: &str, init: &str, text: &str) -> Option<Desk> {
    if !has_command("git") {
        not_run(test, "there is no git");
        return None;
    }
    Some(Desk::new(|project| {
        fs::create_dir(project).unwrap();
        script(project, &format!("git init -q -b main {init} .\n{text}"));
    }))
}

/// Worktrees with a repository of their own.
fn copies() -> StartOptions {
    StartOptions::new().git(GitMode::Copy)
}

fn copied(desk: &Desk, name: &str, how: StartOptions) -> Worktree {
    start(desk, name, how);
    desk.store.worktree(name).unwrap()
}

fn start(desk: &Desk, name: &str, how: StartOptions) -> StartedWorktree {
    desk.store.start(&[name], &how, &options()).unwrap().worktrees.remove(0)
}

/// How many entries of the index were made ready, of a repository that was copied.
#[track_caller]
fn ready(started: &StartedWorktree) -> u64 {
    match &started.git {
        GitOutcome::Copied(report) => report.ready_index_entries,
        other => panic!("{other:?}"),
    }
}

fn git_status(dir: &Path) -> String {
    common::git::status(dir)
}

/// All that is in the `.git` of a tree, or what that is.
fn repository(root: &Path) -> Snapshot {
    only(&snapshot(root), |path, _| path.starts_with(".git"))
}

#[test]
fn no_command_about_snapshots_shows_stores_or_touches_the_repository() {
    for what in ["a folder", "a file", "a link", "none at first"] {
        let desk = Desk::small();
        let make = |root: &Path, text: &str| match what {
            "a file" => put(root, ".git", text),
            "a link" => {
                let _ = fs::remove_file(root.join(".git"));
                symlink(text, root.join(".git")).unwrap();
            }
            _ => {
                put(root, ".git/HEAD", text);
                put(root, &format!(".git/refs/{text}"), text);
                fs::create_dir_all(root.join(".git/empty")).unwrap();
            }
        };
        if what != "none at first" {
            make(&desk.project, "one");
        }
        // A repository further down is content.
        put(&desk.project, "nested/.git/HEAD", "nested");
        let first = desk.snapshot();
        let project = desk.store.project_worktree().unwrap();
        let w = copied(&desk, "w", copies().from(first));
        assert_eq!(status(&w), [""; 0], "{what}");
        assert!(is_there(&w.path().join("nested/.git/HEAD")), "{what}");
        let _ = fs::remove_dir_all(w.path().join(".git"));
        for tree in [&project, &w] {
            make(tree.path(), "two");
            let mut before = repository(tree.path());
            let same = |when: &str, before: &Snapshot| {
                assert_same(before, &repository(tree.path()), &format!("{what}, {when}"));
                assert_eq!(status(tree), [""; 0], "{what}, {when}");
                assert!(tree.diff(&options()).unwrap().files.is_empty(), "{what}, {when}");
            };
            same("at first", &before);
            // At most the time of the root has changed.
            let first = tree.capture(&SnapshotOptions::new(), &options()).unwrap().id;
            put(tree.path(), "README", "edited");
            put(tree.path(), "new", "new");
            assert_eq!(status(tree), ["M README", "A new"], "{what}");
            let other = tree.capture(&SnapshotOptions::new(), &options()).unwrap().id;
            tree.switch(first, &SwitchOptions::new(), &options()).unwrap();
            same("switched", &before);
            make(tree.path(), "three");
            before = repository(tree.path());
            tree.switch(other, &SwitchOptions::new(), &options()).unwrap();
            same("switched back", &before);
            put(tree.path(), "README", "edited again");
            let kept = tree.reset(&options()).unwrap().kept;
            assert_eq!(kept, [PathBuf::from("README")], "{what}");
            same("reset", &before);
            make(tree.path(), "four");
            before = repository(tree.path());
            tree.undo(&options()).unwrap();
            assert_same(&before, &repository(tree.path()), &format!("{what}, undone"));
            assert_eq!(status(tree), ["M README"], "{what}");
            tree.switch(first, &SwitchOptions::new().force(true), &options()).unwrap();
            same("forced", &before);
        }
        assert_sound(&desk.store);
    }
}

#[test]
fn git_reads_no_file_of_a_new_worktree_of_a_clean_project() {
    let test = "git_reads_no_file_of_a_new_worktree_of_a_clean_project";
    for (what, init, after) in [
        ("as git makes it", "", ""),
        ("version 4", "", "git update-index --index-version 4"),
        ("SHA-256", "--object-format=sha256", ""),
        ("an untracked cache", "", "git config core.untrackedCache true; git status"),
        ("uncommitted work", "", "echo new > new; echo staged > staged; tick; git add staged"),
    ] {
        let Some(desk) = desk(test, init, &format!("{PROJECT}\n{after}")) else { return };
        let known = entries(&desk.project);
        // The first makes the template on btrfs, the second is of it, and so are those of one
        // start.
        for names in [&["one"][..], &["two"], &["three", "four"]] {
            let report = desk.store.start(names, &copies(), &options()).unwrap();
            for started in &report.worktrees {
                let root = &started.report.path;
                assert_eq!(ready(started), known, "{what}, {}", started.name);
                assert_eq!(not_ready(root), "", "{what}, {}", started.name);
                assert_eq!(git_status(root), git_status(&desk.project), "{what}");
                assert_eq!(git_status(root), truth(root), "{what}");
                sh(git(root).args(["fsck", "--no-dangling"]));
                assert_eq!(status(&desk.store.worktree(&started.name).unwrap()), [""; 0], "{what}");
            }
        }
        let root = desk.folder().join("one");
        fs::remove_dir_all(&root).unwrap();
        let restored = desk.store.worktree("one").unwrap().restore(GitMode::Copy, &options());
        assert_eq!(ready(&restored.unwrap()), known, "{what}");
        assert_eq!((not_ready(&root), git_status(&root)), (String::new(), truth(&root)), "{what}");
    }
}

/// The project's index has twelve entries. An entry is readied only if the snapshot has the content
/// that the entry means.
#[test]
fn git_reads_what_the_snapshot_does_not_vouch_for() {
    let test = "git_reads_what_the_snapshot_does_not_vouch_for";
    for (what, expected, before, after) in [
        ("an edit since", 12, "", "echo more >> a"),
        ("an edit since, that git knows", 11, "", "echo more >> a; tick; git add a; tick"),
        (
            "the same size and time, and git looked",
            11,
            "touch -r a ../time",
            "echo IN a > a; touch -r ../time a; tick; git add a; tick",
        ),
        ("a mode since, that git knows", 11, "", "chmod +x a; tick; git add a; tick"),
        (
            "a new inode, that git knows",
            11,
            "",
            "cp -p a c; mv c a; tick; git status >/dev/null; tick",
        ),
        ("gone since", 12, "", "rm a"),
        ("removed since", 11, "", "git rm -q a; tick"),
        ("committed since", 12, "", "echo new > new; git add new; git commit -qm new; tick"),
        ("an edit before", 11, "echo IN a > a; tick", ""),
        ("an edit before, that git knows", 12, "echo IN a > a; tick; git add a; tick", ""),
        (
            "another edit since",
            11,
            "echo IN a > a; tick; git add a; tick",
            "echo on a > a; tick; git add a; tick",
        ),
        ("locked", 12, "", "touch .git/index.lock"),
        ("split", 0, "git update-index --split-index; echo more > b", ""),
    ] {
        let Some(desk) = desk(test, "", PROJECT) else { return };
        script(&desk.project, before);
        let old = desk.snapshot();
        script(&desk.project, &format!("tick\n{after}"));
        for (name, from) in [("one", old), ("two", old)] {
            let started = start(&desk, name, copies().from(from));
            let root = &started.report.path;
            assert_eq!(git_status(root), truth(root), "{what}");
            assert_eq!(ready(&started), expected, "{what}");
            assert!(!is_there(&root.join(".git/index.lock")), "{what}");
            assert_eq!(status(&desk.store.worktree(name).unwrap()), [""; 0], "{what}");
        }
    }
}

/// Edits that git and calve might miss, in any order, with git's looks, commits and snapshots in
/// between.
#[test]
fn after_any_edits_git_says_in_a_worktree_what_it_would_if_it_read_everything() {
    let test = "after_any_edits_git_says_in_a_worktree_what_it_would_if_it_read_everything";
    for seed in rounds(12) {
        let Some(desk) = desk(test, "", PROJECT) else { return };
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (mut steps, mut taken) = (Vec::new(), Vec::new());
        for _ in 0..14 {
            if dice.roll(4) == 0 {
                taken.push(desk.snapshot());
                steps.push("took a snapshot".to_owned());
            }
            let name = FILES[dice.roll(FILES.len())];
            let step = edit(&desk.project, name, dice.roll(14), &mut dice);
            steps.push(format!("{step} {name}"));
        }
        // From what was taken before, and from the project as it is, each twice: on btrfs the
        // second one is of a template.
        let mut of: Vec<_> = taken.iter().map(|id| copies().from(*id)).collect();
        of.push(copies());
        for (number, how) in of.iter().chain(&of).enumerate() {
            let started = start(&desk, &format!("w{number}"), how.clone());
            let root = &started.report.path;
            let what = format!("seed {seed}, {how:?}, {} ready: {steps:#?}", ready(&started));
            assert_eq!(git_status(root), truth(root), "{what}");
            assert!(ready(&started) >= 6, "{what}");
            // A change of the same size, and at once.
            let text = fs::read(root.join("z")).unwrap();
            fs::write(root.join("z"), text.iter().rev().copied().collect::<Vec<_>>()).unwrap();
            assert!(git_status(root).contains(" z\n"), "edited in the worktree, {what}");
        }
    }
}

#[test]
fn a_worktree_has_a_repository_of_its_own_or_none() {
    let test = "a_worktree_has_a_repository_of_its_own_or_none";
    let none =
        |why| move |git: &GitOutcome| matches!(git, GitOutcome::None(found) if *found == why);
    let copied = |git: &GitOutcome| matches!(git, GitOutcome::Copied(_));
    type Expected = Box<dyn Fn(&GitOutcome) -> bool>;
    let rows: [(&str, GitMode, &str, Expected); 11] = [
        ("copied", GitMode::Copy, "", Box::new(copied)),
        ("not wanted", GitMode::None, "", Box::new(none(NoRepository::NotWanted))),
        ("no repository", GitMode::Copy, "rm -rf .git", Box::new(none(NoRepository::NotThere))),
        (
            "a linked worktree",
            GitMode::Copy,
            "mv .git ../main.git; echo 'gitdir: ../main.git' > .git",
            Box::new(none(NoRepository::Linked)),
        ),
        (
            "a symbolic link",
            GitMode::Copy,
            "mv .git ../main.git; ln -s ../main.git .git",
            Box::new(none(NoRepository::Linked)),
        ),
        (
            "another working tree",
            GitMode::Copy,
            "git config core.worktree /",
            Box::new(none(NoRepository::WorksElsewhere)),
        ),
        (
            "its working tree by its absolute path",
            GitMode::Copy,
            "git config core.worktree \"$PWD\"",
            Box::new(copied),
        ),
        (
            "a key of another section",
            GitMode::Copy,
            "git config alias.worktree '!false'",
            Box::new(copied),
        ),
        (
            "its working tree by another name",
            GitMode::Copy,
            "git config core.worktree ..",
            Box::new(copied),
        ),
        ("a store that cannot be written to", GitMode::Copy, "", Box::new(copied)),
        ("a closed root", GitMode::Copy, "chmod 555 .", Box::new(copied)),
    ];
    for (what, mode, text, expected) in rows {
        let Some(desk) = desk(test, "", &format!("{PROJECT}\n{text}")) else { return };
        let id = desk.snapshot();
        let how = copies().from(id).git(mode).at(desk.scratch.join("at"));
        let started = start(&desk, "w", how);
        let root = &started.report.path;
        assert!(expected(&started.git), "{what}: {:?}", started.git);
        assert_eq!(is_there(&root.join(".git")), copied(&started.git), "{what}");
        if copied(&started.git) {
            let top = sh(git(root).args(["rev-parse", "--show-toplevel"]));
            assert_eq!(fs::canonicalize(top.trim_end()).unwrap(), fs::canonicalize(root).unwrap());
        }
        assert_same(
            &only(&content(&desk.project), |path, _| !path.starts_with(".git")),
            &only(&content(root), |path, _| !path.starts_with(".git")),
            what,
        );
        assert_eq!(status(&desk.store.worktree("w").unwrap()), [""; 0], "{what}");
        if copied(&started.git) {
            // Changes in one of the two are not visible in the other.
            let before = tree(&desk.project);
            script(
                root,
                "git checkout -qb other; echo more >> a; git commit -qam more; git stash list",
            );
            assert_same(&before, &tree(&desk.project), what);
        }
        if what == "a closed root" {
            set_mode(&desk.project, 0o755);
        }
    }
}

#[test]
fn a_copy_has_no_lock_no_registration_and_no_store_of_the_project() {
    let test = "a_copy_has_no_lock_no_registration_and_no_store_of_the_project";
    let text = format!(
        "{PROJECT}
        git worktree add -q ../linked -b linked
        git branch locked
        touch .git/index.lock .git/HEAD.lock .git/refs/heads/main.lock .git/gc.pid .git/objects/maintenance.lock \
            .git/objects/pack/tmp_pack_x
        mkdir -p .git/hooks; echo '#' > .git/hooks/yarn.lock"
    );
    let Some(desk) = desk(test, "", &text) else { return };
    let at = desk.project.join(".git/calve[1]");
    let store = Store::init_at(&desk.project, &at).unwrap();
    let how = copies().at(desk.scratch.join("at"));
    let root = store.start(&["w"], &how, &options()).unwrap().worktrees.remove(0).report.path;
    let left: Vec<String> = repository(&root)
        .into_keys()
        .map(|path| path.display().to_string())
        .filter(|path| {
            ["lock", "gc.pid", "tmp_", "worktrees", "calve[1]"]
                .iter()
                .any(|part| path.contains(part))
        })
        .collect();
    assert_eq!(
        left,
        [".git/hooks/yarn.lock", ".git/logs/refs/heads/locked", ".git/refs/heads/locked"]
    );
    let trees = sh(git(&root).args(["worktree", "list", "--porcelain"]));
    assert_eq!(trees.matches("worktree ").count(), 1, "{trees}");
    script(&root, "git checkout -q linked; git fsck --no-dangling");
}

/// git writes objects, and then what refers to them. It moves them from file to file at any time.
#[test]
fn a_copy_of_a_repository_in_motion_is_whole() {
    let test = "a_copy_of_a_repository_in_motion_is_whole";
    let Some(desk) = desk(test, "", PROJECT) else { return };
    desk.snapshot();
    let stop = desk.scratch.join("stop");
    // It also ends if the test fails, and takes the project with it.
    let script = format!(
        "i=0; while test -d .git && ! test -e {}; do i=$((i+1)); git -c user.name=n -c user.email=e commit -q --allow-empty -m $i; \
         test $((i % 20)) != 0 || git repack -qad; done",
        stop.display()
    );
    let mut writer =
        Command::new("bash").current_dir(&desk.project).args(["-c", &script]).spawn().unwrap();
    for number in 0..12 {
        let name = format!("w{number}");
        match desk.store.start(&[&name], &copies(), &options()) {
            Ok(report) => {
                sh(git(&report.worktrees[0].report.path).args(["fsck", "--no-dangling"]));
            }
            // It says so, and leaves nothing.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                assert!(!is_there(&desk.folder().join(name)));
            }
        }
    }
    fs::write(&stop, "").unwrap();
    assert!(writer.wait().unwrap().success());
    start(&desk, "last", copies());
}

/// Beside files of before, a commit would look like a change of the worktree that takes it back.
#[test]
fn no_worktree_takes_back_what_is_committed_while_it_starts() {
    let test = "no_worktree_takes_back_what_is_committed_while_it_starts";
    let Some(desk) = desk(test, "", PROJECT) else { return };
    let commit = "echo $(($(cat z) + 1)) > z; git -c user.name=n -c user.email=e commit -qm more z";
    let text =
        "mkdir m; for i in {1..1500}; do echo $i > m/$i; done; echo 0 > z; echo .env > .gitignore";
    script(&desk.project, &format!("{text}; echo secret > .env; git add -A; git commit -qm z"));
    // Those of a linked worktree, and of a copy.
    let modes = [GitMode::Linked, GitMode::Copy];
    let number = |text: &str| text.trim().parse::<u64>().unwrap();
    let no_older_than_head = |made: &StartedWorktree| {
        let root = &made.report.path;
        let (file, head) =
            (fs::read_to_string(root.join("z")).unwrap(), sh(git(root).args(["show", "HEAD:z"])));
        // A copy of the repository is of after the files, which is said.
        let is_told = made.git_notes.iter().any(|note| note.contains("HEAD moved"));
        let is_copy = matches!(made.git, GitOutcome::Copied(_));
        assert!(number(&file) >= number(&head) || is_copy && is_told, "{file} {head} {made:?}");
    };
    // When all files have been read.
    for mode in modes {
        let project = desk.project.clone();
        let asked = move |_: &[_]| {
            script(&project, commit);
            false
        };
        let how = StartOptions::new().git(mode).leave_secrets(asked);
        no_older_than_head(&start(&desk, &format!("after-{mode:?}").to_lowercase(), how));
    }
    // At any moment.
    let stop = desk.scratch.join("stop");
    let text =
        format!("while test -d .git && ! test -e {}; do {commit}; sleep 0.1; done", stop.display());
    let mut writer =
        Command::new("bash").current_dir(&desk.project).args(["-c", &text]).spawn().unwrap();
    for (at, mode) in modes.into_iter().cycle().take(8).enumerate() {
        no_older_than_head(&start(&desk, &format!("w{at}"), StartOptions::new().git(mode)));
    }
    fs::write(&stop, "").unwrap();
    assert!(writer.wait().unwrap().success());
}

#[test]
fn submodules_of_a_worktree_are_ready_too() {
    let test = "submodules_of_a_worktree_are_ready_too";
    let Some(desk) = desk(test, "", PROJECT) else { return };
    script(
        &desk.project,
        "mkdir ../library; (cd ../library; git init -q -b main; echo l > l; echo m > m; git add -A; git commit -qm l)
        git submodule --quiet add ../library sub
        git submodule --quiet add --name with/slash ../library deep/sub
        git commit -qm submodules
        tick
        for dir in . sub deep/sub; do (cd $dir; git update-index --force-write-index); done
        tick",
    );
    let started = start(&desk, "w", copies());
    let root = &started.report.path;
    // Twelve, `.gitmodules`, and two of each submodule; what names a submodule is no file.
    assert_eq!(ready(&started), 17);
    for dir in [".", "sub", "deep/sub"] {
        let dir = root.join(dir);
        assert_eq!((not_ready(&dir), git_status(&dir)), (String::new(), truth(&dir)), "{dir:?}");
    }
    assert_eq!(git_status(root), git_status(&desk.project));
}

/// As git does: a rule is about files that nobody added.
#[test]
fn a_file_that_git_tracks_is_shown_although_a_rule_names_it() {
    let test = "a_file_that_git_tracks_is_shown_although_a_rule_names_it";
    const LINKED: &str = "git -C ../../project worktree add -q --no-checkout \"$PWD/../linked\"; rm -rf .git; \
        cp ../linked/.git .git; git reset -q";
    let all = &["M a.log", "D target/kept", "M target/more"][..];
    for (what, init, text, expected) in [
        ("as git makes it", "", "", all),
        ("version 4", "", "git update-index --index-version 4", all),
        ("SHA-256", "--object-format=sha256", "", all),
        ("a linked worktree", "", LINKED, all),
        ("not tracked any more", "", "git rm -q --cached a.log target/more", &["D target/kept"]),
        ("no index", "", "rm .git/index", &[]),
        ("no repository", "", "rm -r .git", &[]),
        ("a link to a repository", "", "mv .git ../elsewhere; ln -s ../elsewhere .git", &[]),
        (
            "a repository that is elsewhere",
            "",
            "mv .git ../elsewhere; echo \"gitdir: $PWD/../elsewhere\" > .git",
            &[],
        ),
        ("split", "", "git update-index --split-index", &[]),
    ] {
        let ignored = "printf '*.log\\ntarget/\\n' > .gitignore; mkdir target; \
            for name in a.log target/kept target/more b.log target/other; do echo one > $name; done; \
            git add -f a.log target/kept target/more; git commit -qm ignored";
        let Some(desk) = desk(test, init, &format!("{PROJECT}\n{ignored}")) else { return };
        let w = copied(&desk, "w", copies());
        script(w.path(), text);
        script(
            w.path(),
            "for name in a.log target/more b.log target/other target/new new.log; do echo two > $name; done; \
             rm target/kept",
        );
        let status = w.status_of(&ChangeScope::new().gitignore(true), &options()).unwrap();
        let found: Vec<_> = status
            .changes
            .iter()
            .map(|change| format!("{} {}", change.kind.letter(), change.path.display()))
            .collect();
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn a_worktree_with_commits_that_the_project_lacks_is_dropped_by_force_alone() {
    let test = "a_worktree_with_commits_that_the_project_lacks_is_dropped_by_force_alone";
    for (what, refused, text) in [
        ("nothing", false, "git status"),
        ("a branch", false, "git checkout -qb other"),
        ("a commit", true, "git commit -q --allow-empty -m more"),
        (
            "a commit elsewhere",
            true,
            "git checkout -qb other; git commit -q --allow-empty -m more; git checkout -q main",
        ),
        (
            "a detached commit",
            true,
            "git checkout -q --detach; git commit -q --allow-empty -m more",
        ),
        ("a tag", true, "git tag -a -m tagged tagged"),
        ("stashed", true, "echo more > a; git stash -q"),
        ("packed", true, "git commit -q --allow-empty -m more; git gc -q"),
        (
            "brought home",
            false,
            "git commit -q --allow-empty -m more; git -C ../../project fetch -q \"$PWD\" main:home",
        ),
    ] {
        let Some(desk) = desk(test, "", PROJECT) else { return };
        let w = copied(&desk, "w", copies());
        script(w.path(), text);
        assert_eq!(status(&w), [""; 0], "{what}");
        let dropped = w.clone().drop(&DropOptions::new(), &options());
        if refused {
            fails(dropped, ErrorKind::CommitsOnlyHere);
            assert!(is_there(w.path()), "{what}");
            w.drop(&DropOptions::new().force(true), &options()).unwrap().delete().unwrap();
        } else {
            dropped.unwrap_or_else(|error| panic!("{what}: {error}")).delete().unwrap();
        }
    }
}

#[test]
fn a_record_of_an_undo_that_names_gits_own_files_is_refused() {
    let desk = Desk::small();
    put(&desk.project, ".git/HEAD", "now");
    desk.snapshot();
    let project = desk.store.project_worktree().unwrap();
    put(&desk.project, "README", "edited");
    project.reset(&options()).unwrap();
    let kept = fs::read_dir(desk.store.path().join("trees")).unwrap();
    let aside = kept.last().unwrap().unwrap().path().join("undo/files");
    put(&aside, ".git/HEAD", "then");
    let error = fails(project.undo(&options()), ErrorKind::StoreIncompatible);
    assert!(error.to_string().contains("undo/files"), "{error}");
    assert_eq!(fs::read_to_string(desk.project.join(".git/HEAD")).unwrap(), "now");
    assert_eq!(fs::read_to_string(aside.join("README")).unwrap(), "edited");
}

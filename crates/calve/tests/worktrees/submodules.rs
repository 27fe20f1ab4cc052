//! Promise: in a linked worktree each submodule is a repository that belongs to the worktree. git
//! gives the same answers in the worktree as in the project. calve sees no difference, and no
//! command loses a commit that was made in a submodule.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calve::{
    DropOptions, ErrorKind, GcOptions, GitMode, GitOutcome, StartOptions, Store, SwitchOptions,
    Worktree,
};

use crate::common;
use crate::common::git::{git, not_ready, script, status};
use crate::common::{is_there, names, sh};
use crate::stores::{Desk, fails, options, put};

/// Submodules: with one inside, with a slash in its name, and one whose repository is in its
/// folder. What the project has not committed: a commit in `sub`, staged and other changes in it,
/// and a commit in `sub/in` that it records.
const PROJECT: &str = "
    make() { mkdir ../$1; (cd ../$1; git init -q -b main; echo 1 >$1; echo 2 >same; git add -A; git commit -qm $1); }
    make inner; make library
    (cd ../library; git submodule --quiet add ../inner in; git commit -qm in)
    git init -q -b main; echo /ignored >.gitignore; echo a >a; git add -A; git commit -qm one
    git submodule --quiet add ../library sub
    git submodule --quiet add --name with/slash ../library deep/sub
    git clone -q ../inner old; git submodule --quiet add ../inner old
    git submodule --quiet update --init --recursive
    git commit -qm submodules; tick
    for dir in sub sub/in deep/sub deep/sub/in old .; do (cd $dir; git update-index -q --refresh; git update-index --force-write-index); done
    tick
";

const WORK: &str = "
    (cd sub/in; git switch -q -c mine; echo more >inner; git commit -qam more)
    (cd sub; git switch -q -c mine; git commit -qam in; echo staged >library; tick; git add library; tick; echo changed >same; echo new >new)
    tick
    for dir in sub sub/in; do (cd $dir; git update-index --force-write-index); done
    tick
";

const ALL: [&str; 6] = [".", "sub", "sub/in", "deep/sub", "deep/sub/in", "old"];

fn project(work: &str) -> Desk {
    Desk::new(|root| {
        fs::create_dir(root).unwrap();
        script(root, &format!("{PROJECT}{work}"));
    })
}

fn start(desk: &Desk, name: &str) -> (Worktree, PathBuf, u64) {
    start_as(desk, name, &StartOptions::new())
}

fn start_as(desk: &Desk, name: &str, how: &StartOptions) -> (Worktree, PathBuf, u64) {
    let made = desk.store.start(&[name], how, &options()).unwrap().worktrees;
    let GitOutcome::Linked(linked) = &made[0].git else {
        panic!("{:?} {:?}", made[0].git, made[0].not_linked)
    };
    let worktree = desk.store.worktree(name).unwrap();
    let root = worktree.path().to_owned();
    (worktree, root, linked.submodules)
}

/// The output of git for a working tree and all its submodules, without the branch and the paths.
fn said(root: &Path) -> String {
    let mut said = String::new();
    for dir in ALL {
        let status = status(&root.join(dir));
        said.extend(
            status
                .lines()
                .filter(|it| !it.starts_with("# branch.head"))
                .map(|it| format!("{dir} {it}\n")),
        );
    }
    for ask in [
        &["submodule", "status", "--recursive"][..],
        &["diff", "--submodule=diff"],
        &[
            "submodule",
            "--quiet",
            "foreach",
            "--recursive",
            "git rev-parse HEAD; echo $displaypath",
        ],
    ] {
        said += &sh(git(root).args(ask));
    }
    said
}

/// The repositories of the project, file by file.
fn project_repositories(desk: &Desk) -> common::snapshot::Snapshot {
    common::snapshot::snapshot(&desk.project.join(".git/modules"))
}

fn is_clean(worktree: &Worktree) {
    let status = worktree.status(&options()).unwrap();
    let changes: Vec<_> = status.changes.iter().map(|change| &change.path).collect();
    assert!(changes.is_empty(), "{changes:?}");
}

fn tops(root: &Path) -> Vec<PathBuf> {
    let ask = "git rev-parse --show-toplevel";
    let said = sh(git(root).args(["submodule", "--quiet", "foreach", "--recursive", ask]));
    said.lines().map(PathBuf::from).collect()
}

#[test]
fn submodules_of_a_linked_worktree_are_its_own_and_say_what_the_projects_say() {
    for work in ["", WORK] {
        let desk = project(work);
        desk.snapshot();
        let before = project_repositories(&desk);
        let (worktree, root, submodules) = start(&desk, "w");
        assert_eq!(submodules, 4);
        assert_eq!(said(&root), said(&desk.project));
        assert!(tops(&root).iter().all(|top| top.starts_with(&root)), "{:?}", tops(&root));
        assert_eq!(tops(&root).len(), 5);
        for dir in ALL.into_iter().filter(|dir| *dir != "old") {
            assert_eq!(not_ready(&root.join(dir)), not_ready(&desk.project.join(dir)), "{dir}");
        }
        is_clean(&worktree);
        // git's own form of the paths, byte for byte.
        let id = desk.project.join(".git/worktrees/w/modules");
        let repository = id.join("sub/modules/in");
        let led = fs::read_to_string(root.join("sub/in/.git")).unwrap();
        assert_eq!(led, "gitdir: ../../../../project/.git/worktrees/w/modules/sub/modules/in\n");
        let back = sh(git(&repository).args(["config", "core.worktree"]));
        assert_eq!(back, "../../../../../../../../project.worktrees/w/sub/in\n");
        // Work in it stays in it.
        script(
            &root,
            "git submodule --quiet update --init --recursive; git submodule --quiet sync --recursive
            (cd deep/sub; echo own >own; git add own; git commit -qm own; git branch own); git -C sub/in stash -q
            git submodule --quiet foreach --recursive 'git gc -q; git fsck --no-progress 2>&1'",
        );
        assert!(project_repositories(&desk) == before);
        assert_eq!(names(&desk.store.path().join("stage")), [""; 0]);
    }
}

/// The stores' indexes vouch for nothing then, so every file is read.
#[test]
fn no_command_about_snapshots_takes_the_path_to_a_repository_for_a_change() {
    let desk = project("");
    let (worktree, root, _) = start(&desk, "w");
    let first = worktree.snapshot().unwrap();
    for name in names(&desk.store.path().join("indexes")) {
        fs::remove_file(desk.store.path().join("indexes").join(name)).unwrap();
    }
    let worktree = Store::open(desk.store.path()).unwrap().worktree("w").unwrap();
    is_clean(&worktree);
    assert!(worktree.diff(&options()).unwrap().files.is_empty());
    // A capture has the files as the project has them.
    put(&root, "sub/new", "new");
    let captured = worktree.capture(&calve::SnapshotOptions::new(), &options()).unwrap().id;
    let (other, there, _) = start_as(&desk, "other", &StartOptions::new().from(captured));
    assert_eq!(fs::read_to_string(there.join("sub/new")).unwrap(), "new");
    assert_eq!(sh(git(&there.join("sub")).args(["status", "-s"])), "?? new\n");
    is_clean(&other);
    // To another snapshot and back.
    let led = fs::read(root.join("sub/.git")).unwrap();
    let worktree = desk.store.worktree("w").unwrap();
    worktree.switch(first, &SwitchOptions::new(), &options()).unwrap();
    is_clean(&desk.store.worktree("w").unwrap());
    assert_eq!(said(&root), said(&desk.project));
    assert_eq!(fs::read(root.join("sub/.git")).unwrap(), led);
    // A reset brings the missing submodule back, and it belongs to the worktree.
    fs::remove_dir_all(root.join("sub")).unwrap();
    desk.store.worktree("w").unwrap().reset(&options()).unwrap();
    assert_eq!(fs::read(root.join("sub/.git")).unwrap(), led);
    assert_eq!(said(&root), said(&desk.project));
    is_clean(&desk.store.worktree("w").unwrap());
}

#[test]
fn a_submodule_that_a_snapshot_brings_gets_a_repository_by_a_switch_and_by_a_start() {
    let desk = project("");
    let (worktree, root, _) = start(&desk, "w");
    script(
        &desk.project,
        "git submodule --quiet add ../inner late; git commit -qm late; git -C late branch here",
    );
    let late = desk.snapshot();
    worktree.switch(late, &SwitchOptions::new(), &options()).unwrap();
    is_clean(&desk.store.worktree("w").unwrap());
    assert_eq!(
        sh(git(&root.join("late")).args(["branch", "--format=%(refname)"])),
        "refs/heads/here\nrefs/heads/main\n"
    );
    assert!(is_there(&desk.project.join(".git/worktrees/w/modules/late")));
    // And one that was added in a worktree.
    script(
        &root,
        "git submodule --quiet add \"$(realpath ../../inner)\" own; git -C own branch there",
    );
    let captured = desk.store.worktree("w").unwrap();
    let captured = captured.capture(&calve::SnapshotOptions::new(), &options()).unwrap().id;
    let (other, there, _) = start_as(&desk, "other", &StartOptions::new().from(captured));
    assert_eq!(
        sh(git(&there.join("own")).args(["branch", "--format=%(refname)"])),
        "refs/heads/main\nrefs/heads/there\n"
    );
    is_clean(&other);
    // Nobody has its repository any more.
    for name in ["w", "other"] {
        let worktree = desk.store.worktree(name).unwrap();
        worktree
            .drop(&DropOptions::new().force(true).discard(true), &options())
            .unwrap()
            .delete()
            .unwrap();
    }
    let (_, without, _) = start_as(&desk, "without", &StartOptions::new().from(captured));
    assert!(!is_there(&without.join("own/.git")) && is_there(&without.join("own/inner")));
    status(&without);
}

#[test]
fn a_worktree_with_submodules_is_dropped_when_nothing_is_lost_with_them() {
    let fetched = "cd sub; git fetch -q; git switch -q --detach origin/main";
    let rows: [(&str, &str, &str, Option<ErrorKind>, bool); 12] = [
        ("nothing", "", "", None, false),
        ("work that came along", WORK, "", None, false),
        ("a change", "", "echo x >sub/same", Some(ErrorKind::Changed), false),
        ("a change in one inside", "", "echo x >deep/sub/in/same", Some(ErrorKind::Changed), false),
        ("a new file", "", "echo x >sub/new", Some(ErrorKind::Changed), false),
        (
            "an ignored file",
            "",
            "echo /x >>$(git -C sub rev-parse --git-path info/exclude); echo x >sub/x",
            None,
            false,
        ),
        (
            "what only its index has",
            "",
            "cd sub; cp -a same ../../same; echo x >same; git add same; mv ../../same same",
            Some(ErrorKind::Changed),
            false,
        ),
        (
            "a commit",
            "",
            "cd sub/in; echo x >same; git commit -qam x; cd ..; git commit -qam x; cd ..; git commit -qam x",
            Some(ErrorKind::CommitsOnlyHere),
            true,
        ),
        (
            "an empty commit on a branch",
            "",
            "cd sub; git branch b $(git commit-tree -m x HEAD^{tree} -p HEAD)",
            Some(ErrorKind::CommitsOnlyHere),
            true,
        ),
        (
            "a stash",
            "",
            "cd deep/sub; echo x >same; git stash -q",
            Some(ErrorKind::CommitsOnlyHere),
            true,
        ),
        (
            "a commit where the repository is in the tree",
            "",
            "cd old; echo x >same; git commit -qam x; cd ..; git commit -qam x",
            Some(ErrorKind::CommitsOnlyHere),
            true,
        ),
        ("what a remote has", "", fetched, Some(ErrorKind::Changed), false),
    ];
    let (plain, at_work) = (project(""), project(WORK));
    let mut all_kept = Vec::new();
    script(&plain.project, "cd ../library; echo later >later; git add later; git commit -qm later");
    for (at, (what, before, text, refused, kept)) in rows.into_iter().enumerate() {
        let desk = if before.is_empty() { &plain } else { &at_work };
        let name = format!("w{at}");
        let (worktree, root, _) = start(desk, &name);
        script(&root, text);
        let dropped = worktree.clone().drop(&DropOptions::new(), &options());
        let Some(kind) = refused else {
            dropped.unwrap_or_else(|error| panic!("{what}: {error:?}")).delete().unwrap();
            assert!(!is_there(&desk.project.join(".git/worktrees").join(name)), "{what}");
            continue;
        };
        let error = fails(dropped, kind);
        assert!(!error.details().is_empty(), "{what}: {error:?}");
        assert!(is_there(&root), "{what}");
        let force = DropOptions::new().force(true).discard(true);
        let dropped = worktree.clone().drop(&force, &options()).unwrap();
        assert_eq!(!dropped.kept_in_submodules().is_empty(), kept, "{what}: {dropped:?}");
        for (repository, reference) in dropped.kept_in_submodules() {
            assert_eq!(*reference, format!("refs/calve/dropped/{name}"), "{what}");
            sh(git(repository).args([
                "--git-dir=.",
                "--work-tree=.",
                "log",
                "-1",
                reference,
                "--",
            ]));
        }
        all_kept
            .extend(dropped.kept_in_submodules().iter().map(|(repository, _)| repository.clone()));
        dropped.delete().unwrap();
        status(&desk.project);
    }
    // They go when those of the project's own repository go.
    for desk in [&plain, &at_work] {
        desk.store.gc(&GcOptions::new().dropped(Duration::ZERO), &options()).unwrap();
    }
    for repository in all_kept {
        let left = sh(git(&repository).args(["--git-dir=.", "for-each-ref", "refs/calve"]));
        assert_eq!(left, "", "{}", repository.display());
    }
}

/// A drop took the repository of such a worktree, with what was staged there.
#[test]
fn a_repository_that_worktrees_elsewhere_belong_to_is_not_dropped_without_a_word() {
    let desk = project("");
    let else_at = |name: &str| desk.project.with_file_name(format!("else-{name}"));
    for (name, git_mode, before, inner) in [
        ("linked", GitMode::Linked, "", "sub"),
        ("deep", GitMode::Linked, "", "deep/sub/in"),
        ("copied", GitMode::Copy, "", "."),
        ("copied-sub", GitMode::Copy, "", "sub"),
        ("ignored", GitMode::Linked, "git clone -q ../../library ignored/own", "ignored/own"),
    ] {
        let how = StartOptions::new().git(git_mode);
        desk.store.start(&[name], &how, &options()).unwrap();
        let worktree = desk.store.worktree(name).unwrap();
        let (root, other) = (worktree.path().to_owned(), else_at(name));
        script(&root, before);
        let text = "git worktree add -q --detach \"$OTHER\"; echo staged >\"$OTHER/same\"; git -C \"$OTHER\" add same; echo later >\"$OTHER/same\"";
        script(&root.join(inner), &format!("OTHER='{}'; {text}", other.display()));
        let work = || (sh(git(&other).args(["show", ":same"])), status(&other));
        let before = work();
        assert_eq!(before.0, "staged\n", "{name}");
        let error =
            fails(worktree.clone().drop(&DropOptions::new(), &options()), ErrorKind::Overlap);
        assert_eq!(error.details(), [fs::canonicalize(&other).unwrap()], "{name}");
        assert_eq!(work(), before, "{name}");
        // By force it goes with the tree, which stays to be brought back.
        let force = DropOptions::new().force(true).discard(true);
        let dropped = worktree.drop(&force, &options()).unwrap();
        assert!(dropped.can_be_restored_until().is_some(), "{name}");
        let worktree = desk.store.restore_dropped(name, name).unwrap();
        assert_eq!(work(), before, "{name}");
        if name == "linked" {
            // The repository is in the registration, and only that is left.
            fs::remove_dir_all(&root).unwrap();
            fails(desk.store.worktree(name).unwrap().drop(&force, &options()), ErrorKind::Overlap);
            assert_eq!(sh(git(&other).args(["show", ":same"])), before.0);
            fs::remove_dir_all(&other).unwrap();
            let worktree = desk.store.worktree(name).unwrap();
            worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
            continue;
        }
        // One whose folder is gone needs no repository.
        fs::remove_dir_all(&other).unwrap();
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
    }
}

/// Who fetches the commits has only the names of such contents.
#[test]
fn contents_of_lfs_and_annex_go_to_the_projects_repository() {
    let desk = project("");
    for (name, git_mode, inner, folder) in [
        ("module", GitMode::Linked, "sub", "lfs/objects/ab/cd"),
        ("deep", GitMode::Linked, "deep/sub/in", "annex/objects/x/y/K"),
        ("copied", GitMode::Copy, ".", "lfs/objects/ab/cd"),
        ("annexed", GitMode::Copy, ".", "annex/objects/x/y/K"),
    ] {
        let how = StartOptions::new().git(git_mode);
        desk.store.start(&[name], &how, &options()).unwrap();
        let worktree = desk.store.worktree(name).unwrap();
        let common = |root: &Path| {
            sh(git(root).args(["rev-parse", "--path-format=absolute", "--git-common-dir"]))
        };
        let (root, place) = (worktree.path().join(inner), format!("{folder}/{name}"));
        let from = Path::new(common(&root).trim_end()).join(&place);
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        fs::write(&from, name).unwrap();
        worktree.drop(&DropOptions::new(), &options()).unwrap().delete().unwrap();
        assert!(!is_there(&from), "{name}");
        let to = Path::new(common(&desk.project.join(inner)).trim_end()).join(&place);
        assert_eq!(fs::read_to_string(to).unwrap(), name);
    }
    // The project has no such repository. A push of commits sends no contents of git-annex.
    let (worktree, root, _) = start(&desk, "alone");
    script(
        &root,
        "git clone -q ../../library ignored/own; mkdir -p ignored/own/.git/annex/objects; echo x >ignored/own/.git/annex/objects/x",
    );
    let error = fails(worktree.clone().drop(&DropOptions::new(), &options()), ErrorKind::Changed);
    assert_eq!(error.details(), [root.join("ignored/own/.git")]);
    let force = DropOptions::new().force(true).discard(true);
    assert!(worktree.drop(&force, &options()).unwrap().can_be_restored_until().is_some());
}

/// git does not start in the repository of a submodule whose working tree is gone.
#[test]
fn commits_of_a_submodule_are_kept_although_its_working_tree_is_gone() {
    let desk = project("");
    let (worktree, root, _) = start(&desk, "w");
    script(
        &root,
        "cd sub/in; git commit -q --allow-empty -m in; cd ..; git commit -q --allow-empty -m sub",
    );
    let lost = sh(git(&root.join("sub")).args(["rev-parse", "HEAD"]));
    fs::remove_dir_all(&root).unwrap();
    let dropped = worktree.drop(&DropOptions::new(), &options()).unwrap();
    assert_eq!(dropped.kept_in_submodules().len(), 2);
    let kept = sh(git(&desk.project.join("sub")).args(["rev-parse", "refs/calve/dropped/w"]));
    assert_eq!(kept, lost);
}

#[test]
fn commits_of_a_submodule_that_the_project_does_not_have_are_kept_with_the_worktree() {
    let desk = project("");
    let (worktree, root, _) = start(&desk, "w");
    script(
        &root,
        "git submodule --quiet add \"$(realpath ../../inner)\" own; git commit -qm own; cd own; echo x >same; git commit -qam x; cd ..; git commit -qam x",
    );
    let lost = sh(git(&root.join("own")).args(["rev-parse", "HEAD"]));
    fails(worktree.clone().drop(&DropOptions::new(), &options()), ErrorKind::CommitsOnlyHere);
    let force = DropOptions::new().force(true).discard(true);
    let dropped = worktree.drop(&force, &options()).unwrap();
    assert!(dropped.can_be_restored_until().is_some());
    // Under another name, and back at another place: all paths lead there.
    let worktree = desk.store.restore_dropped("w", "v").unwrap();
    let root = worktree.path().to_owned();
    assert!(root.ends_with("v"));
    assert_eq!(sh(git(&root.join("own")).args(["rev-parse", "HEAD"])), lost);
    assert!(tops(&root).iter().all(|top| top.starts_with(&root)), "{:?}", tops(&root));
    script(&root, "git submodule --quiet foreach --recursive 'git status -s'");
    // The tree is gone, and only the registration has the commit.
    fs::remove_dir_all(&root).unwrap();
    let error = fails(
        desk.store.worktree("v").unwrap().drop(&DropOptions::new().force(true), &options()),
        ErrorKind::CommitsOnlyHere,
    );
    assert!(error.details()[0].display().to_string().contains("own"), "{error:?}");
    let worktree = desk.store.worktree("v").unwrap();
    worktree.restore(GitMode::Best, &options()).unwrap();
    status(&root);
    let top = sh(git(&root.join("sub/in")).args(["rev-parse", "--show-toplevel"]));
    assert_eq!(Path::new(top.trim_end()), root.join("sub/in"));
    let repository = desk.project.join(".git/worktrees/w/modules/own");
    sh(git(&repository).args(["--git-dir=.", "--work-tree=.", "cat-file", "-e", lost.trim_end()]));
}

#[test]
fn a_worktree_with_submodules_can_be_moved_and_made_again() {
    let desk = project(WORK);
    let (_, root, _) = start(&desk, "w");
    let before = said(&root);
    let moved = desk.scratch.join("else/where");
    fs::create_dir(desk.scratch.join("else")).unwrap();
    fs::rename(&root, &moved).unwrap();
    sh(git(&desk.project).args(["worktree", "repair"]).arg(&moved));
    let found = Store::discover(&moved).unwrap().worktree().unwrap();
    assert_eq!(found.path(), moved);
    assert_eq!(said(&moved), before);
    assert!(tops(&moved).iter().all(|top| top.starts_with(&moved)), "{:?}", tops(&moved));
    is_clean(&found);
    // Its folder was deleted: what its repositories have is there again.
    script(&moved.join("sub"), "git branch there $(git commit-tree -m x HEAD^{tree} -p HEAD)");
    fs::remove_dir_all(&moved).unwrap();
    desk.store.worktree("w").unwrap().restore(GitMode::Best, &options()).unwrap();
    assert_eq!(said(&moved), before);
    sh(git(&moved.join("sub")).args(["rev-parse", "there"]));
    is_clean(&desk.store.worktree("w").unwrap());
}

#[test]
fn submodules_of_a_worktree_find_their_repositories_in_a_project_that_was_moved() {
    // The moved folder, and the places of the project and the worktree after that.
    for (text, project_at, worktree_at) in [
        ("mv project p", "p", "project.worktrees/w"),
        ("mkdir new; mv project project.worktrees new", "new/project", "new/project.worktrees/w"),
    ] {
        let desk = project(WORK);
        let (_, root, _) = start(&desk, "w");
        let before = said(&root);
        script(desk.scratch.path(), text);
        let root = desk.scratch.join(worktree_at);
        let store = Store::discover(desk.scratch.join(project_at)).unwrap().store;
        let worktree = store.worktree("w").unwrap();
        assert_eq!(worktree.path(), root, "{text}");
        assert_eq!(said(&root), before, "{text}");
        assert!(tops(&root).iter().all(|top| top.starts_with(&root)), "{text}: {:?}", tops(&root));
        is_clean(&worktree);
    }
}

#[test]
fn a_project_that_is_a_linked_worktree_itself_gives_its_own_submodules() {
    let desk = Desk::new(|root| {
        let real = root.with_file_name("real");
        fs::create_dir(&real).unwrap();
        script(
            &real,
            &format!(
                "{PROJECT}
                git worktree add -q -b side '{root}'; cd '{root}'; git submodule --quiet update --init --recursive
                git -C sub branch here; tick",
                root = root.display()
            ),
        );
    });
    let (worktree, root, submodules) = start(&desk, "w");
    assert_eq!(submodules, 5);
    assert_eq!(said(&root), said(&desk.project));
    sh(git(&root.join("sub")).args(["rev-parse", "here"]));
    is_clean(&worktree);
    let real = desk.scratch.join("real/.git/worktrees/w/modules");
    assert_eq!(names(&real).len(), 3);
}

#[test]
fn a_copy_of_the_repository_has_the_submodules_in_it() {
    let desk = project(WORK);
    desk.snapshot();
    let copy = StartOptions::new().git(GitMode::Copy);
    desk.store.start(&["w"], &copy, &options()).unwrap();
    let worktree = desk.store.worktree("w").unwrap();
    let root = worktree.path().to_owned();
    assert_eq!(said(&root), said(&desk.project));
    assert!(tops(&root).iter().all(|top| top.starts_with(&root)), "{:?}", tops(&root));
    for dir in ALL.into_iter().filter(|dir| *dir != "old") {
        assert_eq!(not_ready(&root.join(dir)), not_ready(&desk.project.join(dir)), "{dir}");
    }
    script(&root.join("sub"), "git branch b $(git commit-tree -m x HEAD^{tree} -p HEAD)");
    fails(worktree.drop(&DropOptions::new(), &options()), ErrorKind::CommitsOnlyHere);
}

/// git writes absolute paths no more, but reads those that an older git wrote.
#[test]
fn submodules_that_name_the_project_by_its_path_are_the_worktrees_own_in_a_copy() {
    const FILE: &str = "for sub in sub sub/in deep/sub; do (cd $sub; echo gitdir: $(git rev-parse --absolute-git-dir) >.git); done;";
    const SETTING: &str =
        "for sub in sub sub/in deep/sub; do (cd $sub; git config core.worktree \"$PWD\"); done;";
    for (what, text, linked) in [
        ("both paths", &format!("{FILE} {SETTING}")[..], false),
        ("the file", FILE, false),
        ("the setting", SETTING, false),
        ("both paths, linked", &format!("{FILE} {SETTING}"), true),
    ] {
        let desk = project(&format!("{text} tick\n"));
        let before = project_repositories(&desk);
        let mode = if linked { GitMode::Linked } else { GitMode::Copy };
        let report = desk.store.start(&["w"], &StartOptions::new().git(mode), &options()).unwrap();
        let mut named = report.worktrees[0].mentions.iter().map(|mention| &mention.path);
        // This one is a repository in the tree, and names where it was cloned from.
        assert!(named.all(|path| path.starts_with("old")), "{what}: {report:?}");
        let worktree = desk.store.worktree("w").unwrap();
        let root = worktree.path().to_owned();
        is_clean(&worktree);
        assert!(tops(&root).iter().all(|top| top.starts_with(&root)), "{what}: {:?}", tops(&root));
        script(
            &root,
            "for sub in sub sub/in deep/sub; do (cd $sub; echo new >new; git add new; git commit -qm new); done",
        );
        common::snapshot::assert_same(&before, &project_repositories(&desk), what);
        is_clean_but_for(&worktree, &["sub/new", "sub/in/new", "deep/sub/new"]);
        assert_eq!(said(&desk.project).matches("new").count(), 0, "{what}");
        if !linked {
            let moved = desk.scratch.join("moved");
            fs::rename(&root, &moved).unwrap();
            let found = Store::discover(&moved).unwrap().worktree().unwrap();
            is_clean_but_for(&found, &["sub/new", "sub/in/new", "deep/sub/new"]);
            assert!(tops(&moved).iter().all(|top| top.starts_with(&moved)), "{what}");
        }
    }
}

/// Only these paths, and folders, differ from the snapshot.
fn is_clean_but_for(worktree: &Worktree, paths: &[&str]) {
    let status = worktree.status(&options()).unwrap();
    let changed: std::collections::BTreeSet<_> =
        status.changes.iter().map(|change| change.path.as_path()).collect();
    assert_eq!(changed, paths.iter().map(Path::new).collect());
}

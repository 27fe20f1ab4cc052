//! Where the store of a project is: in its repository of git, or in its tree.

use std::fs;
use std::path::{Path, PathBuf};

use crate::hints::{in_git, repository, sh};
use crate::{not_run, scratch, until_deleted};

/// The store that `words` print, relative to `root`.
fn store_of(root: &Path, folder: &str, words: &str) -> PathBuf {
    let run = in_git(&root.join(folder), words);
    assert_eq!(run.code, Some(0), "{folder} {words}: {run:?}");
    let path = Path::new(run.stdout.trim_end());
    path.strip_prefix(root).unwrap_or(path).to_owned()
}

const COMMIT: &str = "git commit -q --allow-empty -m 1";

#[test]
fn the_store_of_a_repository_is_one_for_all_its_working_trees() {
    let app = format!("git init -q -b main app; cd app; echo x >f; {COMMIT}");
    let bare = "git clone -q --bare app app.git; git -C app.git worktree add -q ../one -b one; \
                git -C app.git worktree add -q ../two -b two";
    let sub = "git -c protocol.file.allow=always -C app submodule --quiet add ../lib sub";
    let lib = format!("git init -q -b main lib; (cd lib; {COMMIT})");
    for (row, script, folder, store, others) in [
        ("a project", app.clone(), "app", "app/.git/calve", &["app/.git"][..]),
        ("no repository", "mkdir -p app/d".into(), "app", "app/.calve", &["app/d"]),
        ("no repository of git's", "mkdir -p app/.git".into(), "app", "app/.calve", &[]),
        (
            "a repository elsewhere",
            format!("git init -q --separate-git-dir x.git app; cd app; {COMMIT}; mkdir d"),
            "app",
            "x.git/calve",
            &["app/d"],
        ),
        ("a link to it", format!("{app}; mv .git ../g; ln -s ../g .git"), "app", "g/calve", &[]),
        (
            "a linked worktree",
            format!("{app}; git worktree add -q ../one"),
            "one",
            "app/.git/calve",
            &["app"],
        ),
        (
            "a bare repository",
            format!("({app}); {bare}"),
            "one",
            "app.git/calve",
            &["two", "app.git"],
        ),
        (
            "a submodule",
            format!("({app}); {lib}; {sub}"),
            "app/sub",
            "app/.git/modules/sub/calve",
            &[],
        ),
    ] {
        let scratch = scratch();
        let root = fs::canonicalize(scratch.path()).unwrap();
        if sh(&root, &script).is_none() {
            return not_run("the_store_of_a_repository_is_one_for_all", "there is no git");
        }
        assert_eq!(store_of(&root, folder, "init"), Path::new(store), "{row}");
        let again = in_git(&root.join(folder), "init");
        assert!(again.stderr.contains("nothing to do"), "{row}: {again:?}");
        let project = root.join(folder);
        let started = in_git(&project, "start -q w");
        assert_eq!(started.code, Some(0), "{row}: {started:?}");
        let w = PathBuf::from(started.stdout.trim_end());
        for place in others.iter().map(|other| root.join(other)).chain([project.clone(), w.clone()])
        {
            let listed = in_git(&place, "list --json");
            // Some of these places are no repository to git, and `list` says so.
            assert!(matches!(listed.code, Some(0 | 3)), "{row}: {place:?}: {listed:?}");
            assert!(listed.stdout.contains("\"ready\""), "{row}: {place:?}: {listed:?}");
        }
        // All that is calve's is in one folder, except for marks and pointers of git's trees.
        let own = sh(&root, "find . -name .calve").unwrap();
        assert_eq!(own.is_empty(), !store.ends_with(".calve"), "{row}: {own}");
        for words in ["status", "snapshot -q s", "restore s", "undo", "drop --force w"] {
            let run = in_git(&project, words);
            let nothing = words == "undo" && run.stderr.contains("nothing to undo");
            assert!(nothing || run.code == Some(0), "{row} {words}: {run:?}");
        }
        // It moves with the project, and is found there.
        let moved = root.join("moved");
        if row != "a submodule" && row != "a link to it" {
            let git = if fs::metadata(project.join(".git")).is_ok_and(|it| it.is_file())
                && row != "a repository elsewhere"
            {
                format!("git worktree move . {}", moved.display())
            } else {
                format!("mv {} {}", project.display(), moved.display())
            };
            sh(&project, &git);
            let run = in_git(&moved, "start -q x");
            assert_eq!(run.code, Some(0), "{row}: {run:?}");
            let path = in_git(&moved, "path --project");
            assert_eq!(path.stdout.trim_end(), moved.to_str().unwrap(), "{row}: {path:?}");
        }
    }
}

/// Another working tree of git is neither the project nor a worktree of the store before a command
/// works on it, and no copy of a project is one.
#[test]
fn a_working_tree_that_calve_did_not_make_is_not_taken_for_the_project() {
    let name = "a_working_tree_that_calve_did_not_make_is_not_taken_for_the_project";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    sh(
        &app,
        "git worktree add -q ../other; git worktree add -q in; echo work >>f; echo o >../other/o",
    );
    for other in [root.join("other"), app.join("in")] {
        for (words, code, part) in
            [("init", 1, "a project has one store"), ("list", 0, ""), ("log", 0, "")]
        {
            let run = in_git(&other, words);
            assert_eq!(run.code, Some(code), "{other:?} {words}: {run:?}");
            assert!(run.stderr.contains(part), "{other:?} {words}: {run:?}");
        }
    }
    // They are in the one list, and by their names.
    let list = in_git(&app, "list").stdout;
    let row = |path: &Path| {
        list.lines()
            .any(|it| it.ends_with(path.to_str().unwrap()) && it.contains("  made by git  "))
    };
    assert!(
        row(&root.join("other")) && row(&app.join("in")) && list.lines().count() == 2,
        "{list}"
    );
    assert_eq!(in_git(&app, "path other").stdout.trim_end(), root.join("other").to_str().unwrap());
    let json = in_git(&app, "list --json --status").json();
    let other = &json["git_worktrees"].as_array().unwrap()[1];
    assert_eq!((&other["name"], &other["state"]), (&"other".into(), &"git".into()), "{json}");
    assert_eq!((&other["branch"], &json["worktrees"]), (&"other".into(), &serde_json::json!([])));
    let run = in_git(&root.join("other"), "start w");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(sh(&root, "ls app.worktrees/w").unwrap(), "d\nf\no\n", "a fork");
    sh(&app, "rm -r in");
    assert!(in_git(&app, "list").stdout.contains("missing"));
    // A `.git` file that somebody brought along.
    sh(&root, "git -C app worktree add -q ../o2; mkdir evil; cp o2/.git evil/.git");
    let run = in_git(&root.join("evil"), "list");
    assert!(run.code == Some(1) && run.stderr.contains("neither this folder"), "{run:?}");
    sh(&root, "git init -q --separate-git-dir x.git sep");
    assert_eq!(store_of(&root, "sep", "init"), Path::new("x.git/calve"));
    sh(&root, "cp -a sep copy");
    let run = in_git(&root.join("copy"), "status");
    assert!(run.code == Some(1) && run.stderr.contains("a copy of that project"), "{run:?}");
    sh(&root, "mv sep away; rm -r copy; mkdir copy; cp away/.git copy/.git");
    let run = in_git(&root.join("copy"), "list");
    assert!(run.code == Some(1) && run.stderr.contains("another project"), "{run:?}");
    assert_eq!(in_git(&root.join("away"), "list").code, Some(0));
}

/// `cp -a` copies the rows, too, but the worktrees remain those of the first store.
#[test]
fn a_copy_of_a_project_has_its_own_store_and_a_clone_has_none() {
    let name = "a_copy_of_a_project_has_its_own_store_and_a_clone_has_none";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let (app, w) = (root.join("app"), root.join("app.worktrees/w"));
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    until_deleted(&app.join(".git/calve"));
    sh(&root, "cp -a app copy; git clone -q --local app local; git clone -q --bare app app.git");
    let cloned = in_git(&root, "clone -q app clone");
    assert_eq!(cloned.code, Some(0), "{cloned:?}");
    for clone in ["local/.git", "app.git", "clone/.git"] {
        assert!(root.join(clone).join("HEAD").is_file());
        assert!(fs::symlink_metadata(root.join(clone).join("calve")).is_err(), "{clone}");
    }
    let path = in_git(&root.join("copy"), "path --project");
    assert_eq!(path.stdout.trim_end(), root.join("copy").to_str().unwrap(), "{path:?}");
    let listed = in_git(&root.join("copy"), "list");
    assert!(listed.stdout.contains("missing"), "{listed:?}");
    let dropped = in_git(&root.join("copy"), "drop --force w");
    assert_eq!(dropped.code, Some(0), "{dropped:?}");
    for place in [&app, &w] {
        assert_eq!(in_git(place, "status").stdout, "", "{place:?}");
    }
    let listed = in_git(&app, "list");
    assert!(listed.stdout.contains("clean"), "{listed:?}");
    assert_eq!(in_git(&w, "path --project").stdout.trim_end(), app.to_str().unwrap());
    assert_eq!(in_git(&app, "drop w").code, Some(0));
}

#[test]
fn a_store_in_the_tree_of_a_git_project_is_used_and_never_hidden() {
    let name = "a_store_in_the_tree_of_a_git_project_is_used_and_never_hidden";
    let scratch = scratch();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let app = root.join("app");
    if sh(&root, &format!("git init -q app; cd app; echo x >f; git add f; {COMMIT}")).is_none() {
        return not_run(name, "there is no git");
    }
    assert_eq!(store_of(&root, "app", "init --store .calve"), Path::new("app/.calve"));
    let again = in_git(&app, "init");
    assert!(again.code == Some(0) && again.stderr.contains("nothing to do"), "{again:?}");
    assert_eq!(again.stdout.trim_end(), app.join(".calve").to_str().unwrap());
    assert_eq!(in_git(&app, "start -q w").code, Some(0));
    assert!(fs::symlink_metadata(app.join(".git/calve")).is_err());
    let told = in_git(&app, "status --json");
    assert_eq!(told.code, Some(0), "{told:?}");
    // Two of them: neither is taken unasked.
    sh(&app, "mv .calve ../aside");
    assert_eq!(store_of(&root, "app", "init"), Path::new("app/.git/calve"));
    sh(&app, "mv ../aside .calve");
    let run = in_git(&app, "list");
    let says = |part: &str| run.stderr.contains(part);
    assert!(run.code == Some(1) && says("another store, in its repository"), "{run:?}");
    assert!(says(&app.join(".git/calve").display().to_string()), "{run:?}");
    for store in [".calve", ".git/calve"] {
        assert_eq!(in_git(&app, &format!("--store {store} list")).code, Some(0), "{store}");
    }
}

#[test]
fn a_repository_that_cannot_have_the_store_is_told_of() {
    let name = "a_repository_that_cannot_have_the_store_is_told_of";
    let scratch = scratch();
    let root = fs::canonicalize(scratch.path()).unwrap();
    if sh(&root, "git init -q closed").is_none() {
        return not_run(name, "there is no git");
    }
    let other = tempfile::tempdir_in("/dev/shm");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match other {
        Ok(other) if mounts.contains(" /dev/shm ") && !root.starts_with("/dev/shm") => {
            let git = other.path().join("g");
            sh(&root, &format!("git init -q --separate-git-dir {} far", git.display()));
            let run = in_git(&root.join("far"), "init");
            let line = "because the git repository is on another filesystem";
            assert!(run.code == Some(0) && run.stderr.contains(line), "{run:?}");
            assert_eq!(run.stdout.trim_end(), root.join("far/.calve").to_str().unwrap());
            // A pointer to a store elsewhere may be there.
            sh(&root.join("far"), "rm -r .calve");
            let run = in_git(&root.join("far"), "init --store ../far.calve");
            assert!(run.code == Some(0) && git.join("calve/project").is_file(), "{run:?}");
            assert_eq!(in_git(&root.join("far"), "list").code, Some(0));
        }
        _ => not_run(name, "/dev/shm is no other filesystem here"),
    }
    sh(&root, "chmod 555 closed/.git");
    if fs::write(root.join("closed/.git/probe"), "").is_ok() {
        return not_run(name, "root may write everywhere");
    }
    let run = in_git(&root.join("closed"), "init");
    let line = "because the git repository may not be written to";
    assert!(run.code == Some(0) && run.stderr.contains(line), "{run:?}");
    assert_eq!(run.stdout.trim_end(), root.join("closed/.calve").to_str().unwrap());
    sh(&root, "chmod 755 closed/.git");
    assert_eq!(in_git(&root.join("closed"), "list").code, Some(0));
}

/// A project in a project has a store, and the outer one's trees do not get that.
#[test]
fn the_store_of_a_repository_inside_is_content_of_no_tree() {
    let name = "the_store_of_a_repository_inside_is_content_of_no_tree";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    let app = root.join("app");
    // Folders that have the name, and are no stores.
    sh(&app, &format!(
        "git init -q out/in; (cd out/in; echo x >f; git add f; {COMMIT}; git branch calve/x)
         git clone -q --bare out/in out/bare; mkdir -p out/plain.git/calve out/calve; echo a >out/plain.git/calve/a
         truncate -s 70M out/large"
    ));
    assert_eq!(store_of(&root, "app/out/in", "init"), Path::new("app/out/in/.git/calve"));
    sh(&app, "cp -a out/in/.git/calve out/bare/calve");
    let is_right = |tree: &Path, row: &str| {
        for (path, expected) in [
            ("out/in/.git/HEAD", true),
            ("out/in/.git/refs/heads/calve/x", true),
            ("out/plain.git/calve/a", true),
            ("out/calve", true),
            ("out/in/.git/calve", false),
            ("out/bare/calve", false),
        ] {
            let is_there = fs::symlink_metadata(tree.join(path)).is_ok();
            assert_eq!(is_there, expected, "{row}: {path}");
        }
    };
    // The first one reads no contents, where files can be cloned.
    for words in ["start -q a", "start -q --git copy b", "start -q --git none c"] {
        let run = in_git(&app, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        is_right(Path::new(run.stdout.trim_end()), words);
    }
    assert_eq!(in_git(&app, "status").stdout, "");
    assert_eq!(in_git(&app, "status a").stdout, "");
    sh(&app, "git worktree add -q ../filled");
    let run = in_git(&app, "fill ../filled");
    assert_eq!(run.code, Some(0), "{run:?}");
    let filled = root.join("filled/out/in/.git");
    assert!(filled.join("HEAD").is_file() && fs::symlink_metadata(filled.join("calve")).is_err());
}

/// A folder that only looks like a bare repository can be committed, with a store in it, and so comes
/// with a clone. Its store may name any folder as the project.
#[test]
fn a_folder_that_looks_like_a_repository_speaks_for_no_project_elsewhere() {
    let name = "a_folder_that_looks_like_a_repository_speaks_for_no_project_elsewhere";
    let plain = "mkdir victim; echo secret >victim/s";
    let git = "git init -q -b main victim; echo secret >victim/s";
    let linked = "git init -q -b main real; git -C real commit -q --allow-empty -m 1; \
                  git -C real worktree add -q ../victim; echo secret >victim/s";
    for (victim, with_worktree) in [
        (plain, false),
        (git, false),
        (linked, false),
        ("true", false),
        // An archive can bring a working tree of that repository, too.
        (plain, true),
        (git, true),
    ] {
        let scratch = scratch();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let made = "git init -q -b main a; (cd a; git commit -q --allow-empty -m 1); git clone -q --bare a tool; \
                    git -C tool worktree add -q ../victim -b v";
        if sh(&root, made).is_none() {
            return not_run(name, "there is no git");
        }
        assert_eq!(store_of(&root, "victim", "init"), Path::new("tool/calve"));
        assert_eq!(in_git(&root.join("victim"), "snapshot -q").code, Some(0));
        until_deleted(&root.join("tool/calve"));
        sh(
            &root,
            "rm -rf victim tool/worktrees a; git init -q clone; mv tool clone; cd clone; git add -Af .; git commit -qm 1",
        );
        let mut places = vec![root.join("clone/tool"), root.join("clone/tool/refs")];
        if with_worktree {
            sh(&root, "git -C clone/tool worktree add -q ../tree -b t");
            places = vec![root.join("clone/tree")];
        }
        sh(&root, victim);
        let before = sh(&root, "ls -A . victim 2>/dev/null || true").unwrap();
        for place in places {
            for words in ["path --project", "list", "start q", "snapshot", "restore", "init"] {
                let run = in_git(&place, words);
                let row = format!("{victim}: {}: {words}: {run:?}", place.display());
                assert!(run.code == Some(1) && run.stdout.is_empty(), "{row}");
                assert!(words == "init" || run.stderr.contains("no working tree of"), "{row}");
            }
        }
        assert_eq!(sh(&root, "ls -A . victim 2>/dev/null || true").unwrap(), before, "{victim}");
    }
}

/// The worktrees of a submodule are beside it, and so inside the project. They are no part of that, as
/// its own are none.
#[test]
fn a_project_whose_submodule_has_worktrees_inside_starts_without_them() {
    let name = "a_project_whose_submodule_has_worktrees_inside_starts_without_them";
    for (row, script, inside) in [
        ("calve's", "", "sub.worktrees/x"),
        ("git's", "git -C sub worktree add -q ../in/x", "in/x"),
        ("git's, and its folder is gone", "git -C sub worktree add -q ../in/x; rm -r in", "in"),
        ("of a submodule in a folder", "git mv sub worktrees; git commit -qm mv", ""),
    ] {
        let scratch = scratch();
        let root = fs::canonicalize(scratch.path()).unwrap();
        let made = "git init -q -b main lib; cd lib; echo x >f; git add f; git commit -qm 1; git init -q -b main ../app; \
                    cd ../app; git -c protocol.file.allow=always submodule --quiet add ../lib sub; git commit -qm 1";
        if sh(&root, made).is_none() {
            return not_run(name, "there is no git");
        }
        let app = root.join("app");
        if row == "calve's" {
            assert_eq!(store_of(&root, "app/sub", "init"), Path::new("app/.git/modules/sub/calve"));
            assert_eq!(in_git(&app.join("sub"), "start -q x").code, Some(0));
        }
        sh(&app, script);
        for mode in ["linked", "copy", "none"] {
            let started = in_git(&app, &format!("start -q --git {mode} {mode}"));
            assert_eq!(started.code, Some(0), "{row} {mode}: {started:?}");
            let tree = PathBuf::from(started.stdout.trim_end());
            let is_there = |path: &str| fs::symlink_metadata(tree.join(path)).is_ok();
            assert!(is_there("sub/f") || is_there("worktrees/f"), "{row} {mode}");
            assert!(inside.is_empty() || !is_there(inside), "{row} {mode}");
            let own = sh(&tree, "find . -path '*/modules/*' -name calve").unwrap();
            assert_eq!(own, "", "{row} {mode}");
            assert_eq!(in_git(&tree, "status").stdout, "", "{row} {mode}");
        }
        assert_eq!(in_git(&app, "status").stdout, "", "{row}");
        assert_eq!(in_git(&app, "drop linked copy none").code, Some(0), "{row}");
    }
}

/// The store moves with its repository. Marks and pointers had the old path, and nothing looked for
/// the store where the repository is.
#[test]
fn a_store_whose_repository_was_moved_is_found_from_all_its_trees() {
    let name = "a_store_whose_repository_was_moved_is_found_from_all_its_trees";
    for (row, made, project, moved, tree) in [
        (
            "a bare repository",
            "git clone -q --bare app b.git; git -C b.git worktree add -q ../w1 -b w1",
            "w1",
            "mv b.git c.git; git -C c.git worktree repair $PWD/w1 $PWD/w1.worktrees/w >o 2>&1",
            "w1.worktrees/w",
        ),
        (
            "a repository that gets a folder of its own",
            "git clone -q app p",
            "p",
            "git -C p init -q --separate-git-dir $PWD/sep.git",
            "p.worktrees/w",
        ),
    ] {
        let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
        sh(&root, made).unwrap();
        let (project, tree) = (root.join(project), root.join(tree));
        for words in ["init", "start -q w"] {
            let run = in_git(&project, words);
            assert_eq!(run.code, Some(0), "{row} {words}: {run:?}");
        }
        sh(&root, moved).unwrap();
        // From the worktree first, whose mark has the old path.
        for place in [&tree, &project] {
            let run = in_git(place, "status");
            assert_eq!(run.code, Some(0), "{row} {place:?}: {run:?}");
        }
        let listed = in_git(&project, "list").stdout;
        assert!(listed.contains("clean"), "{row}: {listed}");
        let run = in_git(&project, "drop w");
        assert_eq!(run.code, Some(0), "{row}: {run:?}");
    }
}

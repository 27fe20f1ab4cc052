//! Tests which store and which worktree a command uses: names, paths, the current folder, `-C`,
//! `--store`, `CALVE_STORE`.

use std::fs;
use std::path::Path;

use crate::hints::{in_git, repository, sh};
use crate::{calve, command, done, not_run, plant, run, scratch, with_project, worktrees_of};

/// The name of the worktree that `status` finds, or the kind of the error.
#[track_caller]
fn meant(directory: &Path, words: &str, variable: Option<&str>) -> String {
    let mut status = command(directory, words.split_whitespace().chain(["--json"]));
    if let Some(store) = variable {
        status.env("CALVE_STORE", store);
    }
    let document = run(status).json();
    match (&document["error"]["kind"], &document["name"]) {
        (serde_json::Value::String(kind), _) => kind.clone(),
        (_, serde_json::Value::String(name)) => name.clone(),
        _ => "the project".to_owned(),
    }
}

#[test]
fn a_worktree_is_meant_by_its_name_its_path_or_the_folder_one_is_in() {
    let (_scratch, project) = with_project();
    plant(&project, &[("w2/inside", "x")]);
    done(&project, "start w w2");
    let beside = worktrees_of(&project);
    // The folder above the project belongs to no store, and nothing in it has the name of a
    // worktree.
    let (w, elsewhere) = (beside.join("w"), project.parent().unwrap());
    let absolute = |words: &str| words.replace("PATH", beside.to_str().unwrap());
    for (directory, words, expected) in [
        (project.as_path(), "status", "the project"),
        (&project.join("dir"), "status", "the project"),
        (&project, "status .", "the project"),
        (&project, "status w", "w"),
        (&project.join("dir"), "status w", "w"),
        // A name comes before a folder that is called the same.
        (&project, "status w2", "w2"),
        (&project, "status ./w2", "worktree_not_found"),
        (&project, "status dir", "worktree_not_found"),
        (&project, "status ../p.worktrees/w", "w"),
        (&project, "status ../p.worktrees/w/", "w"),
        (&project, "status ../p.worktrees/w/dir", "worktree_not_found"),
        (&project, "status ../none", "worktree_not_found"),
        (&project, "status none", "worktree_not_found"),
        (&w, "status", "w"),
        (&w.join("dir"), "status", "w"),
        (&w.join("dir"), "status w2", "w2"),
        (&w.join("dir"), "status ../../w2", "w2"),
        (&w, "status ../../p", "the project"),
        (&beside, "status w", "w"),
        (&beside, "status w/dir", "worktree_not_found"),
        (&beside, "status", "store_not_found"),
        (&beside, "-C w status", "w"),
        (&beside, "-C w status ../w2", "w2"),
        (elsewhere, "status PATH/w", "w"),
        (elsewhere, "-C PATH/w/dir status", "w"),
        (elsewhere, "-C PATH/w status w2", "w2"),
        (elsewhere, "status w", "store_not_found"),
    ] {
        assert_eq!(meant(directory, &absolute(words), None), expected, "{words} in {directory:?}");
    }
}

#[test]
fn a_store_that_is_elsewhere_is_named_by_the_flag_or_the_variable() {
    let scratch = scratch();
    plant(scratch.path(), &[("p/a", "x"), ("p/dir/b", "x"), ("other/", "")]);
    let root = fs::canonicalize(scratch.path()).unwrap();
    let project = root.join("p");
    let store = root.join("store");
    let made = calve(&project, "init --store ../store");
    assert_eq!((made.code, made.stdout.trim_end()), (Some(0), store.to_str().unwrap()));
    assert!(made.stderr.contains("'calve start NAME'"), "{made:?}");
    let (pointer, git_ignore) = (project.join(".calve/project"), project.join(".calve/.gitignore"));
    assert_eq!(fs::read_to_string(&git_ignore).unwrap(), "*\n");
    done(&project, "start w --store ../store");
    // It says where the store is.
    for (directory, words, expected) in [
        (&project, "status", "the project"),
        (&project.join("dir"), "status", "the project"),
        (&root, "status p", "the project"),
        (&project, "status w", "w"),
    ] {
        assert_eq!(meant(directory, words, None), expected, "{words} in {directory:?}");
    }
    // Without it, as in a project that may not be written to, the store must be named.
    fs::remove_file(&pointer).unwrap();
    let again = calve(&project, "init --store ../store");
    assert_eq!((again.code, pointer.try_exists().unwrap()), (Some(0), true), "{again:?}");
    fs::remove_dir_all(project.join(".calve")).unwrap();
    let (w, variable) = (worktrees_of(&project).join("w"), store.to_str());
    let shown = done(&root, "show --store store");
    assert!(shown.starts_with("snapshot  ") && shown == done(&w, "show"), "{shown}");
    for (directory, words, variable, expected) in [
        (&project, "status", None, "store_not_found"),
        (&project, "status", Some(""), "store_not_found"),
        (&project, "status", variable, "the project"),
        (&project, "status", Some("../store"), "the project"),
        (&project.join("dir"), "status", variable, "the project"),
        (&project, "status --store ../store", None, "the project"),
        (&project, "status --store ../store", Some("/none"), "the project"),
        (&root, "-C p status --store ../store", None, "the project"),
        (&root, "status p", variable, "the project"),
        (&root, "status p/dir", variable, "worktree_not_found"),
        (&root, "status other", variable, "worktree_not_found"),
        (&root, "status", variable, "worktree_not_found"),
        (&root, "status w", variable, "w"),
        (&root, "status p.worktrees/w", variable, "w"),
        // A worktree knows its store.
        (&w, "status", None, "w"),
        (&root, "status p.worktrees/w", None, "w"),
        (&w, "status", variable, "w"),
        (&w, "status", Some("/none"), "store_not_found"),
    ] {
        let got = meant(directory, words, variable);
        assert_eq!(got, expected, "{words} in {directory:?} with {variable:?}");
    }
}

#[test]
fn a_worktree_of_another_store_is_not_taken_for_one_of_this() {
    let (_scratch, project) = with_project();
    let (_other_scratch, other) = with_project();
    done(&project, "start w");
    done(&other, "start w");
    let store = other.join(".calve");
    for (directory, words) in [
        (project.clone(), "status".to_owned()),
        (worktrees_of(&project).join("w"), "status".to_owned()),
        (other, format!("status {}", worktrees_of(&project).join("w").display())),
    ] {
        assert_eq!(meant(&directory, &words, store.to_str()), "worktree_not_found", "{words}");
    }
}

#[test]
fn a_worktree_that_was_moved_is_found_again_from_inside() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let moved = project.with_file_name("moved");
    fs::rename(worktrees_of(&project).join("w"), &moved).unwrap();
    assert!(done(&project, "list").contains("missing"));
    assert_eq!(meant(&project, "status w", None), "worktree_missing");
    assert_eq!(meant(&moved, "status", None), "w");
    assert_eq!(meant(&project, "status w", None), "w");
    assert!(done(&project, "list").ends_with(moved.to_str().unwrap()));
}

/// Commands that are about the store, or about another worktree, left it missing.
#[test]
fn a_worktree_that_was_moved_is_known_again_by_any_command_run_in_it() {
    let (_scratch, project) = with_project();
    done(&project, "start w other");
    let other = worktrees_of(&project).join("other");
    let mut at = worktrees_of(&project).join("w");
    for (number, words) in [
        "list",
        "log",
        "name",
        "show",
        "store stats",
        "store gc",
        "start new",
        "path other",
        "path --project",
        "status",
        "status w",
        "status PROJECT",
        "status OTHER",
        "list --store STORE",
        "status other --store STORE",
        "status OTHER --store STORE",
        "drop new",
    ]
    .into_iter()
    .enumerate()
    {
        let moved = project.with_file_name(format!("moved-{number}"));
        fs::rename(&at, &moved).unwrap();
        assert_eq!(meant(&project, "status w", None), "worktree_missing", "{words}");
        let words = words
            .replace("STORE", project.join(".calve").to_str().unwrap())
            .replace("PROJECT", project.to_str().unwrap())
            .replace("OTHER", other.to_str().unwrap());
        done(&moved.join("dir"), &words);
        assert_eq!(done(&project, "path w"), moved.to_str().unwrap(), "{words}");
        at = moved;
    }
}

#[test]
fn a_copy_made_by_hand_is_told_from_the_worktree() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let (w, copy) = (worktrees_of(&project).join("w"), project.with_file_name("copy"));
    done(&project, &format!("clone {} {}", w.display(), copy.display()));
    if !copy.join(".calve").try_exists().unwrap() {
        // `clone` leaves calve's own state out; cp does not.
        fs::create_dir(copy.join(".calve")).unwrap();
        let marker = fs::read(w.join(".calve/worktree")).unwrap();
        fs::write(copy.join(".calve/worktree"), marker).unwrap();
    }
    let way_out =
        format!("hint: work in {}, or delete {}/.calve to make this", w.display(), copy.display());
    // A name would mean a worktree beside the original.
    for words in ["status", "list", "drop w", "drop --force w", "start x", "undo w"] {
        let run = calve(&copy, words);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let why = "this folder is a copy of that worktree";
        assert!(run.stderr.contains(why) && run.stderr.contains(&way_out), "{words}: {run:?}");
    }
    assert_eq!(meant(&project, "status w", None), "w");
}

/// The same folder has two paths.
#[test]
fn a_worktree_below_a_link_is_itself_and_no_copy() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let above = project.parent().unwrap();
    let moved = above.with_file_name(format!("{}-moved", above.file_name().unwrap().display()));
    fs::rename(above, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, above).unwrap();
    for root in [above, &moved] {
        done(&root.join("p.worktrees/w"), "status");
        done(&root.join("p.worktrees/w/dir"), "list");
    }
    done(&project, "drop w");
    fs::remove_file(above).unwrap();
    fs::rename(&moved, above).unwrap();
}

/// A collection deletes each entry of a store that it does not know. A store may have any name, and
/// a repository may have a store.
#[test]
fn nothing_is_made_in_a_store() {
    let Some((_scratch, root)) = repository() else {
        return not_run("trees in a store", "there is no git");
    };
    let (app, files, remote) = (root.join("app"), root.join("files"), root.join("remote"));
    sh(&root, "mkdir files remote new; cd files; echo 1 > f; mkdir d; echo 1 > d/format").unwrap();
    assert_eq!(in_git(&app, "init").code, Some(0));
    done(&files, "init --store ../its.store");
    done(&files, "snapshot A");
    done(&files, &format!("remote init file://{}", remote.display()));
    done(&files, &format!("remote add t file://{}", remote.display()));
    done(&files, "push A");
    for store in [app.join(".git/calve"), root.join("its.store")] {
        for inside in ["x", "trash", "trash/x", "stage/x"] {
            let at = store.join(inside);
            let (at, known) = (at.display(), at.try_exists().unwrap());
            for words in [
                format!("start --at {at} w"),
                format!("clone . {at}"),
                format!("clone --existing merge . {at}"),
                format!("checkout file://{} A {at}", remote.display()),
                format!("init --store {at} ../new"),
                format!("remote init file://{at}"),
            ] {
                let run = calve(&files, &words);
                assert_eq!(run.code, Some(1), "{words}: {run:?}");
                assert!(run.stderr.contains("is in the store\nhint: choose"), "{words}: {run:?}");
            }
            assert_eq!(store.join(inside).try_exists().unwrap(), known, "{at}");
        }
    }
    // A file of that name makes no store.
    done(&files, "clone ../remote d/copy");
}

/// Its repository has registrations of the original's worktrees.
#[test]
fn the_worktrees_of_a_project_are_not_those_of_its_copy() {
    let Some((_scratch, root)) = repository() else {
        return not_run("worktrees of a copy", "there is no git");
    };
    let (app, copy) = (root.join("app"), root.join("copy"));
    assert_eq!(in_git(&app, "start -q a").code, Some(0));
    sh(&root, "cp -a app copy; rm -rf copy/.git/calve").unwrap();
    assert_eq!(in_git(&copy, "start -q z").code, Some(0));
    let list = in_git(&copy, "list");
    assert!(!list.stdout.contains("app.worktrees"), "{list:?}");
    for words in ["path a", "status a", "drop a", "drop --force a"] {
        assert_eq!(in_git(&copy, words).code, Some(1), "{words}");
    }
    assert!(root.join("app.worktrees/a/.git").is_file());
}

#[test]
fn a_worktree_of_which_the_project_was_moved_tells_how_it_is_known_again() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let worktree = worktrees_of(&project).join("w");
    let moved = project.with_file_name("moved");
    fs::rename(&project, &moved).unwrap();
    for words in ["status", "drop .", "path --project"] {
        let run = calve(&worktree, words);
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let message = format!(
            "error: cannot find the store of worktree {} at {}: no store is there\nhint: ",
            worktree.display(),
            project.join(".calve").display()
        );
        assert!(run.stderr.starts_with(&message), "{words}: {run:?}");
        assert!(run.stderr.contains("'calve list' in there"), "{words}: {run:?}");
    }
    done(&moved, "list");
    done(&worktree, "status");
}

/// As root, a store's content takes effect with all rights.
#[test]
fn a_store_of_another_user_is_refused_unless_it_is_named() {
    let (_scratch, project) = with_project();
    done(&project, "start w");
    let (store, worktree) = (project.join(".calve"), worktrees_of(&project).join("w"));
    if let Err(error) = std::os::unix::fs::chown(&store, Some(65534), None) {
        return not_run("a store of another user", &error.to_string());
    }
    let named = format!("--store {}", store.display());
    let status = |directory: &Path, words: &str| meant(directory, words, None);
    for (directory, words, expected) in [
        (&project, "status", "store_untrusted"),
        (&project, "status w", "store_untrusted"),
        (&project, "status ../p.worktrees/w", "store_untrusted"),
        (&worktree, "status", "store_untrusted"),
        (&worktree, "drop .", "store_untrusted"),
        (&worktree, "restore", "store_untrusted"),
        (&project, "store gc", "store_untrusted"),
        (&project, "NAMED status", "the project"),
        (&project, "NAMED status w", "w"),
        (&project, "NAMED status ../p.worktrees/w", "w"),
        (&worktree, "NAMED status", "w"),
    ] {
        let words = words.replace("NAMED", &named);
        assert_eq!(status(directory, &words), expected, "{directory:?} {words}");
    }
    let refused = calve(&project, "status");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("uid 65534"), "{refused:?}");
    assert!(refused.stderr.contains("name it: --store "), "{refused:?}");
}

/// In a folder like /tmp, its owner could put other trees in the place of worktrees.
#[test]
fn no_worktree_is_made_in_a_folder_that_another_user_put_beside_the_project() {
    let (_scratch, project) = with_project();
    let folder = worktrees_of(&project);
    fs::create_dir(&folder).unwrap();
    if let Err(error) = std::os::unix::fs::chown(&folder, Some(65534), None) {
        return not_run("a folder of another user", &error.to_string());
    }
    let mine = project.with_file_name("mine");
    fs::create_dir(&mine).unwrap();
    for is_link in [false, true] {
        if is_link {
            fs::remove_dir(&folder).unwrap();
            std::os::unix::fs::symlink(&mine, &folder).unwrap();
            std::os::unix::fs::lchown(&folder, Some(65534), None).unwrap();
        }
        let refused = calve(&project, "start w");
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains("(uid 65534)"), "{refused:?}");
        assert!(refused.stderr.contains("hint: '--at DIR'"), "{refused:?}");
        assert!(!folder.join("w").try_exists().unwrap());
    }
    done(&project, "start --at ../mine w");
    // Root works on a user's project, whose folders are all that user's.
    std::os::unix::fs::lchown(&folder, Some(65533), None).unwrap();
    std::os::unix::fs::chown(&project, Some(65533), None).unwrap();
    done(&project, "start v");
}

/// What copies cost is said before they are made, and not where blocks are shared.
#[test]
fn a_project_of_some_size_is_not_copied_before_the_price_is_said() {
    let scratch = crate::with_source();
    let root = scratch.path();
    // A hole would not count.
    let large = std::fs::File::create(root.join("src/large")).unwrap();
    let allocate = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&large, allocate, 0, 100_000_000).unwrap();
    let runs = [
        ("init --json src", 1, "the store, and each worktree, will take 100.0 MB"),
        ("-C src start --json one two", 3, "the store and the worktrees will take 300.0 MB"),
        ("-C src start --json three", 1, "the worktree will take 100.0 MB"),
        // The store is in it.
        ("clone --json src clone", 2, "the clone will take 20"),
    ];
    for (line, copies, expected) in runs {
        let run = crate::calve(root, line);
        assert_eq!(run.code, Some(0), "{run:?}");
        let told = &run.json()["expected_copies"];
        match crate::expected_method() {
            Some("copy") => {
                assert!(run.stderr.contains(expected), "{run:?}");
                assert!(run.stderr.contains("cannot share blocks: "), "{run:?}");
                assert!(run.stderr.contains("; to share blocks instead, "), "{run:?}");
                let bytes = told["bytes"].as_u64().unwrap();
                assert_eq!(bytes / 100_000_000, copies, "{run:?}");
            }
            Some("reflink") => {
                assert!(!run.stderr.contains("will take"), "{run:?}");
                assert!(told.is_null(), "{run:?}");
            }
            _ => {}
        }
    }
    let run = crate::calve(root, "-C src start --reflink always four");
    match crate::expected_method() {
        Some("copy") => {
            assert_eq!(run.code, Some(1), "{run:?}");
            assert!(run.stderr.contains("--reflink auto"), "{run:?}");
            assert!(!root.join("src.worktrees/four").is_dir(), "{run:?}");
            let there = crate::calve(root, "-C src list --json").json();
            assert_eq!(there["worktrees"].as_array().unwrap().len(), 3);
        }
        Some("reflink") => assert_eq!(run.code, Some(0), "{run:?}"),
        _ => {}
    }
    // Small trees are not worth a word.
    crate::plant(root, &[("small/a", "alpha")]);
    let run = crate::calve(root, "clone small copy");
    assert!(!run.stderr.contains("will take"), "{run:?}");
}

/// They are beside it, so in the working tree of the repository above.
#[test]
fn a_project_that_is_a_submodule_says_where_git_would_add_its_worktrees() {
    let name = "a_project_that_is_a_submodule_says_where_git_would_add_its_worktrees";
    let Some((_scratch, root)) = repository() else { return not_run(name, "there is no git") };
    sh(
        &root,
        "git init -q -b main sup; cd sup; git -c protocol.file.allow=always submodule --quiet add ../app libs/app",
    );
    let (sup, sub) = (root.join("sup"), root.join("sup/libs/app"));
    let run = in_git(&sub, "init");
    let says = format!("{} is a submodule of {}, where", sub.display(), sup.display());
    assert!(run.stderr.contains(&says), "{run:?}");
    assert!(run.stderr.contains("put the line /libs/app.worktrees/ into"), "{run:?}");
    assert_eq!(in_git(&sub, "start -q a").code, Some(0));
    let listed = |tree: &Path| sh(tree, "git status --short --untracked-files=normal").unwrap();
    assert!(listed(&sup).contains("libs/app.worktrees/"));
    fs::write(sup.join(".gitignore"), "/libs/app.worktrees/\n").unwrap();
    assert!(!listed(&sup).contains("app.worktrees"));
    // One that is no submodule is not told so.
    assert!(!in_git(&root.join("app"), "init").stderr.contains("submodule"));
}

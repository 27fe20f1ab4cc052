//! Tests `calve clone`: every flag reaches the library, and the report is true.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::shown::assert_document;
use crate::{calve, expected_method, listing, plant, scratch, with_source};

fn read(root: &Path, name: &str) -> Option<String> {
    fs::read_to_string(root.join(name)).ok()
}

#[test]
fn the_clone_has_the_content_and_a_write_to_it_stays_there() {
    let scratch = with_source();
    let run = calve(scratch.path(), "clone src dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    let root = scratch.path();
    assert_eq!(read(root, "dst/a").as_deref(), Some("alpha"));
    assert_eq!(read(root, "dst/dir/b").as_deref(), Some("beta"));
    fs::write(root.join("dst/a"), "changed").unwrap();
    assert_eq!(read(root, "src/a").as_deref(), Some("alpha"));
    match expected_method() {
        Some("reflink") => assert!(run.stderr.contains("all reflinked, 0 B copied"), "{run:?}"),
        Some("copy") => {
            assert!(run.stderr.contains("2 copied (9 B)"), "{run:?}");
            assert!(run.stderr.contains("'calve doctor' says how to change that"), "{run:?}");
        }
        _ => {}
    }
}

#[cfg(unix)]
#[test]
fn clones_can_name_their_own_folders_and_json_lists_the_files() {
    let scratch = with_source();
    let root = scratch.path().canonicalize().unwrap();
    let line = |name: &str| format!("#!{}/.venv/bin/python\n", root.join(name).display());
    let files = [(".venv/pyvenv.cfg", String::new()), (".venv/bin/app", line("src"))];
    for (path, text) in &files {
        plant(&root.join("src"), &[(path, text)]);
    }
    std::os::unix::fs::symlink(root.join("src/a"), root.join("src/link")).unwrap();
    let run = calve(&root, "clone --json --rewrite-paths -n 2 src dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    for (at, name) in ["dst-1", "dst-2"].into_iter().enumerate() {
        assert_eq!(read(&root.join(name), ".venv/bin/app"), Some(line(name)));
        assert_eq!(fs::read_link(root.join(name).join("link")).unwrap(), root.join(name).join("a"));
        let kinds = [(".venv/bin/app", "script"), ("link", "link")];
        let mentions = kinds.map(|(path, kind)| {
            json!({
                "path": path, "kind": kind, "rewritten": true, "kept_because": null,
                "meaning": "rewritten", "tool": null, "process": null
            })
        });
        assert_eq!(run.json()["destinations"][at]["mentions"], json!(mentions));
    }
    // An exact clone has no such list.
    let run = calve(&root, "clone --json src exact");
    assert_eq!(read(&root.join("exact"), ".venv/bin/app"), Some(line("src")));
    assert!(run.json()["destinations"][0].get("mentions").is_none(), "{run:?}");
    // A merge gets its path, too, and a destination that is left alone does not.
    fs::create_dir(root.join("there")).unwrap();
    let run = calve(&root, "clone --rewrite-paths --existing merge src there");
    assert_eq!(read(&root.join("there"), ".venv/bin/app"), Some(line("there")), "{run:?}");
    let run = calve(&root, "clone --rewrite-paths --existing skip src exact");
    assert_eq!(read(&root.join("exact"), ".venv/bin/app"), Some(line("src")), "{run:?}");
}

#[test]
fn a_count_makes_numbered_clones_in_one_go() {
    let scratch = with_source();
    let run = calve(scratch.path(), "clone -n 3 src copies");
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (Some(0), "copies-1\ncopies-2\ncopies-3\n"),
        "{run:?}"
    );
    for number in 1..=3 {
        assert_eq!(
            read(scratch.path(), &format!("copies-{number}/dir/b")).as_deref(),
            Some("beta")
        );
    }
}

#[test]
fn paths_are_taken_from_the_given_directory_and_printed_for_the_current_one() {
    let scratch = with_source();
    plant(scratch.path(), &[("elsewhere/", "")]);
    let run = calve(&scratch.path().join("elsewhere"), "-C .. clone src dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    let printed = scratch.path().join("elsewhere").join(run.stdout.trim_end());
    assert_eq!(read(&printed, "a").as_deref(), Some("alpha"), "{run:?}");
    assert_eq!(read(scratch.path(), "dst/a").as_deref(), Some("alpha"));
}

#[test]
fn the_json_document_is_as_documented() {
    let scratch = with_source();
    let run = calve(scratch.path(), "clone --json src dst other");
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut document = run.json();
    let method = document["destinations"][0]["method"].clone();
    if let Some(expected) = expected_method() {
        assert_eq!(method, expected);
    }
    let copied = if method == "copy" { (2, 9) } else { (0, 0) };
    let destination = |path: &str| {
        json!({
            "path": path, "inside_source": false, "method": method, "files": 2, "directories": 2, "symlinks": 0,
            "reflinked_files": 2 - copied.0, "reflinked_bytes": 9 - copied.1,
            "copied_files": copied.0, "copied_bytes": copied.1, "linked_files": 0, "symlinked_files": 0,
            "linked_because": { "filesystem": 0, "file": 0 },
            "copied_because": { "disabled": 0, "filesystem": copied.0, "file": 0, "vanished": 0, "mutable": 0 },
            "unlinked_because": { "filesystem": 0, "file": 0, "mutable": 0 },
            "replaced_entries": 0, "replaced": [], "kept_entries": 0, "kept": [],
            "ready_index_entries": 0,
            "skipped": [],
        })
    };
    let elapsed = document.as_object_mut().unwrap().remove("elapsed_seconds").unwrap();
    assert!(elapsed.as_f64().unwrap() >= 0.0);
    let expected = json!({ "expected_copies": null, "source": "src", "destinations": [destination("dst"), destination("other")] });
    assert_document(&document, &expected);
}

/// The names that `dst` has afterwards: the purpose of each flag, in one small tree.
#[test]
fn every_flag_does_what_it_says() {
    let all = "a.log .gitignore dir/ dir/b.log dir/c";
    for (flags, expected) in [
        ("", all),
        ("--exclude *.log", ".gitignore dir/ dir/c"),
        ("--exclude *.log --exclude /dir/", ".gitignore"),
        ("--exclude *.log --include b.log", ".gitignore dir/ dir/b.log dir/c"),
        ("--gitignore", "a.log .gitignore dir/ dir/b.log"),
        ("--no-xattrs --durable -j 2", all),
        ("--dry-run", ""),
    ] {
        let scratch = scratch();
        plant(
            scratch.path(),
            &[
                ("src/a.log", "x"),
                ("src/.gitignore", "c\n"),
                ("src/dir/b.log", "y"),
                ("src/dir/c", "z"),
            ],
        );
        let run = calve(scratch.path(), &format!("clone {flags} src dst"));
        assert_eq!(run.code, Some(0), "{flags}: {run:?}");
        let got = match fs::metadata(scratch.path().join("dst")) {
            Ok(_) => listing(&scratch.path().join("dst")),
            Err(_) => Vec::new(),
        };
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        expected.sort_unstable();
        assert_eq!(got, expected, "{flags}");
    }
}

#[test]
fn what_cannot_be_cloned_is_linked_if_the_user_says_so_and_the_document_says_why() {
    let clones = expected_method().is_some_and(|method| method != "copy");
    for (flags, method, because) in [
        ("--or-hardlink", "hardlink", json!({ "filesystem": 2, "file": 0 })),
        ("--or-symlink", "symlink", json!({ "filesystem": 2, "file": 0 })),
        ("--or-hardlink --or-symlink", "hardlink", json!({ "filesystem": 2, "file": 0 })),
        ("--or-symlink --mutable a --mutable b", "copy", json!({ "filesystem": 0, "file": 0 })),
    ] {
        let scratch = with_source();
        let run = calve(scratch.path(), &format!("clone --json {flags} src dst"));
        // Nothing is said of copies that will not be.
        assert!(!run.stderr.contains("the clone will take"), "{flags}: {run:?}");
        let destination = &run.json()["destinations"][0];
        assert_eq!(read(scratch.path(), "dst/dir/b").as_deref(), Some("beta"), "{flags}");
        if expected_method().is_some() && !clones {
            assert_eq!(destination["method"], method, "{flags}");
            assert_eq!(destination["linked_because"], because, "{flags}");
            let symlinked = if method == "symlink" { 2 } else { 0 };
            assert_eq!(destination["symlinked_files"], symlinked, "{flags}");
        } else if clones {
            assert_ne!(destination["reflinked_files"], 0, "{flags}");
            assert_eq!(destination["linked_files"], 0, "{flags}");
        }
    }
    let scratch = with_source();
    let run = calve(scratch.path(), "clone --or-hardlink --reflink always src dst");
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn a_dry_run_says_what_it_would_do_and_changes_nothing() {
    let scratch = with_source();
    let before = listing(scratch.path());
    let run = calve(scratch.path(), "clone --dry-run src dst");
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stderr.starts_with("dry run: 1 tree, 2 files would arrive"), "{run:?}");
    assert_eq!(listing(scratch.path()), before);
}

#[test]
fn copies_that_were_asked_for_are_reported_as_such() {
    for flag in ["--reflink never", "--mode copy"] {
        let scratch = with_source();
        let run = calve(scratch.path(), &format!("clone --json {flag} src dst"));
        let destination = &run.json()["destinations"][0];
        assert_eq!(destination["method"], "copy", "{flag}");
        assert_eq!(destination["copied_because"]["disabled"], 2, "{flag}");
        assert!(
            run.stderr.contains("2 files: 2 copied (9 B)") && !run.stderr.contains("doctor"),
            "{run:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn link_modes_link_and_the_mutable_files_do_not() {
    use std::os::unix::fs::MetadataExt;
    for (mode, is_linked) in [
        ("hardlink", (|path: &Path| fs::metadata(path).unwrap().nlink() == 2) as fn(&Path) -> bool),
        ("symlink", |path: &Path| fs::symlink_metadata(path).unwrap().is_symlink()),
    ] {
        let scratch = with_source();
        let run = calve(scratch.path(), &format!("clone --json --mode {mode} --mutable b src dst"));
        assert_eq!(run.code, Some(0), "{run:?}");
        let root = scratch.path();
        assert!(is_linked(&root.join("dst/a")), "{mode}");
        assert!(!is_linked(&root.join("dst/dir/b")), "{mode}");
        let destination = &run.json()["destinations"][0];
        assert_eq!(destination["method"], "mixed", "{destination}");
        assert_eq!(destination["linked_files"], 1, "{destination}");
    }
}

#[test]
fn an_existing_destination_is_treated_as_was_asked() {
    for (existing, a, kept, code) in [
        ("fail", "old", Some("kept"), 1),
        ("skip", "old", Some("kept"), 0),
        ("replace", "alpha", None, 0),
        ("merge", "alpha", Some("kept"), 0),
        ("keep", "old", Some("kept"), 0),
    ] {
        let scratch = with_source();
        plant(scratch.path(), &[("dst/a", "old"), ("dst/kept", "kept")]);
        let run = calve(scratch.path(), &format!("clone --existing {existing} src dst other"));
        assert_eq!(run.code, Some(code), "{existing}: {run:?}");
        assert_eq!(read(scratch.path(), "dst/a").as_deref(), Some(a), "{existing}");
        assert_eq!(read(scratch.path(), "dst/kept").as_deref(), kept, "{existing}");
        assert_eq!(read(scratch.path(), "other/a").is_some(), code == 0, "{existing}");
        if code == 0 {
            assert_eq!(run.stdout, "dst\nother\n", "{existing}");
        }
        for (told, by) in [
            ("; 1 tree left as before", "skip"),
            ("; 1 replaced", "merge"),
            ("; 1 kept as before", "keep"),
        ] {
            assert_eq!(run.stderr.contains(told), existing == by, "{told}: {run:?}");
        }
    }
}

#[test]
fn what_a_merge_replaced_or_kept_is_listed_where_that_is_wanted() {
    for (existing, other) in [("merge", "kept"), ("keep", "replaced")] {
        let this = if existing == "merge" { "replaced" } else { "kept" };
        let scratch = with_source();
        plant(scratch.path(), &[("dst/a", "old"), ("dst/more", "more")]);
        let words = format!("clone --existing {existing} --json -v src dst");
        let run = calve(scratch.path(), &words);
        assert_eq!(run.code, Some(0), "{run:?}");
        let document = run.json();
        let found = &document["destinations"][0];
        assert_eq!(found[this], serde_json::json!([{ "path": "a" }]), "{found}");
        assert_eq!(found[format!("{this}_entries")], 1, "{found}");
        assert_eq!(found[other], serde_json::json!([]), "{found}");
        assert_eq!(found[format!("{other}_entries")], 0, "{found}");
        assert!(run.stderr.contains(&format!("{this}: a\n")), "{run:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_of_a_merges_destination_is_followed_and_one_that_leads_nowhere_is_explained()
{
    let scratch = with_source();
    std::fs::create_dir(scratch.path().join("lib")).unwrap();
    for (name, target) in [("lib64", "lib"), ("dangling", "nowhere")] {
        std::os::unix::fs::symlink(target, scratch.path().join(name)).unwrap();
    }
    for existing in ["merge", "keep"] {
        for name in ["lib64", "lib64/"] {
            let run = calve(scratch.path(), &format!("clone --existing {existing} src {name}"));
            assert_eq!(run.code, Some(0), "{run:?}");
            assert_eq!(read(scratch.path(), "lib/a").as_deref(), Some("alpha"));
            assert!(scratch.path().join("lib64").is_symlink());
        }
        let run = calve(scratch.path(), &format!("clone --existing {existing} src dangling"));
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("dangling: "), "{run:?}");
        assert!(run.stderr.contains("a symbolic link to what is not there"), "{run:?}");
        assert!(run.stderr.contains("readlink dangling"), "{run:?}");
        assert!(!run.stderr.contains("--existing replace"), "{run:?}");
    }
}

#[cfg(unix)]
#[test]
fn what_was_left_out_is_a_finding_listed_once_and_at_most_ten_times() {
    use std::os::unix::net::UnixListener;
    let scratch = with_source();
    for number in 10..22 {
        UnixListener::bind(scratch.path().join(format!("src/socket-{number}"))).unwrap();
    }
    let run = calve(scratch.path(), "clone src dst other");
    assert_eq!((run.code, run.stdout.as_str()), (Some(3), "dst\nother\n"), "{run:?}");
    let warnings: Vec<&str> =
        run.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 11, "{run:?}");
    assert_eq!(warnings[0], "warning: socket-10: left out: socket");
    assert_eq!(warnings[10], "warning: and 2 more; -v lists all");
    let all = calve(scratch.path(), "clone -v src third");
    assert_eq!(all.stderr.matches("warning: ").count(), 12, "{all:?}");

    let document = calve(scratch.path(), "clone -q --json src fourth").json();
    let skipped = document["destinations"][0]["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 12);
    assert_eq!(skipped.iter().find(|one| one["path"] == "socket-10").unwrap()["reason"], "socket");
}

#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_arrive_are_printed_raw_and_percent_encoded_in_json() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scratch = with_source();
    let name = OsStr::from_bytes(b"d\xff st");
    let args = [OsStr::new("clone"), OsStr::new("src"), name];
    let output = crate::command(scratch.path(), args).output().unwrap();
    assert_eq!(output.stdout, b"d\xff st\n");
    assert!(fs::metadata(scratch.path().join(name)).unwrap().is_dir());

    let args = [OsStr::new("clone"), OsStr::new("--json"), name, OsStr::new("plain")];
    let document = crate::run(crate::command(scratch.path(), args)).json();
    assert_eq!(document["source"], "d%FF%20st");
    assert_eq!(document["source_encoding"], "percent");
    assert_eq!(document["destinations"][0]["path"], "plain");
    assert_eq!(document["destinations"][0].get("path_encoding"), None);

    let args = [OsStr::new("clone"), OsStr::new("--json"), OsStr::new("src"), name];
    let document = crate::run(crate::command(scratch.path(), args)).json();
    assert_eq!(document["error"]["kind"], "destination_exists");
    assert_eq!(document["error"]["paths_encoding"], "percent");
}

#[cfg(unix)]
#[test]
fn a_store_that_came_along_is_told_of_and_one_that_was_there_is_not() {
    let scratch = with_source();
    plant(scratch.path(), &[("other/a", "1")]);
    for project in ["src", "other"] {
        assert_eq!(calve(scratch.path(), &format!("init {project}")).code, Some(0));
    }
    for (words, arrives) in [
        ("clone src new", true),
        ("clone src quiet -q", false),
        ("clone src without --exclude .calve", false),
        ("clone src dry --dry-run", false),
        ("clone src other --existing skip", false),
        ("clone src other --existing merge --exclude .calve --dry-run", false),
        ("clone src other --existing merge --exclude .calve", false),
        ("clone src other new-too --existing skip", true),
    ] {
        let run = calve(scratch.path(), words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        assert_eq!(
            run.stderr.contains("the clone also has the project's store"),
            arrives,
            "{words}: {run:?}"
        );
    }
}

/// The index says so, whatever an ignore file names.
#[cfg(unix)]
#[test]
fn what_git_tracks_is_not_ignored() {
    let name = "what_git_tracks_is_not_ignored";
    let Some((_scratch, root)) = crate::hints::repository() else {
        return crate::not_run(name, "there is no git");
    };
    let app = root.join("app");
    let made = "mkdir -p out/deep out/none; echo t >out/deep/t; echo u >out/deep/u; git add -f out/deep/t; git commit -qm t";
    crate::hints::sh(&app, made).unwrap();
    for (flags, expected) in [("", "out/deep/t\n"), ("--exclude deep", ""), ("--exclude out", "")] {
        let run = crate::calve(&root, &format!("clone --gitignore {flags} app copy"));
        assert_eq!(run.code, Some(0), "{flags}: {run:?}");
        let there = crate::hints::sh(&root.join("copy"), "find out -type f 2>/dev/null || true");
        assert_eq!(there.unwrap(), expected, "{flags}");
        std::fs::remove_dir_all(root.join("copy")).unwrap();
    }
    // The index of a linked worktree is in its registration.
    crate::hints::sh(&app, "git worktree add -q ../linked").unwrap();
    let run = crate::calve(&root, "clone --gitignore linked copy");
    assert_eq!(run.code, Some(3), "its .git is a finding: {run:?}");
    assert!(root.join("copy/out/deep/t").is_file());
    // Nothing is left out because the index cannot be read.
    crate::hints::sh(&app, "git update-index --split-index").unwrap();
    let run = crate::calve(&root, "clone --gitignore app other");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("cannot read git's index of this tree"), "{run:?}");
    assert!(!root.join("other").try_exists().unwrap());
}

/// Files that only a repository inside tracks were left out, and `git status` there called them
/// deleted.
#[cfg(unix)]
#[test]
fn a_repository_inside_has_its_own_index_and_rules() {
    let name = "a_repository_inside_has_its_own_index_and_rules";
    let Some((_scratch, root)) = crate::hints::repository() else {
        return crate::not_run(name, "there is no git");
    };
    let made = "
        mkdir lib; cd lib; git init -q; echo '*.x' >.gitignore; echo x >q.x; echo w >w.log
        git add -f .; git commit -qm 1; cd ../app; echo '*.log' >>.gitignore
        git -c protocol.file.allow=always submodule --quiet add ../lib sub; git add .; git commit -qm 1
        echo log >sub/new.log; echo x >sub/new.x; echo e >sub/new.e; echo '*.e' >.git/modules/sub/info/exclude
        mkdir -p out/in in no/.git; echo o >no/o.log; echo o >out/in/o
        cd in; git init -q; echo '*.y' >.gitignore; echo y >t.y; echo n >n.y; git add -f t.y .gitignore; git commit -qm 1
        cp -r .git ../out/in";
    crate::hints::sh(&root.join("app"), &format!("cd ..; {made}")).unwrap();
    let run = crate::calve(&root, "clone --gitignore app copy");
    assert_eq!(run.code, Some(0), "{run:?}");
    let copy = root.join("copy");
    for (repository, expected) in [(".", "?? in/\n"), ("sub", "?? new.log\n"), ("in", "")] {
        let status = format!("git -C {repository} status --short --ignore-submodules");
        assert_eq!(crate::hints::sh(&copy, &status).unwrap(), expected, "{repository}");
    }
    let left = "ls -d sub/new.x sub/new.e in/n.y no/o.log out 2>/dev/null || true";
    assert_eq!(crate::hints::sh(&copy, left).unwrap(), "");
}

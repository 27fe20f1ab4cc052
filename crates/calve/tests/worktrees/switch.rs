//! Promise: a switch changes only the entries that differ. It moves local changes that are in its
//! way aside, each time, and an undo brings them back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::{ErrorKind, SnapshotId, SnapshotOptions, SwitchOptions};

use crate::common::git::{git, script};
use crate::common::odd::{set_mtime, set_xattr};
use crate::common::snapshot::assert_same;
use crate::common::{has_command, not_run, sh};
use crate::stores::{
    Desk, after_a_tick, assert_sound, content, fails, options, put, set_mode, small_project,
    status, tree,
};

/// The content of a worktree after `change` of the first snapshot, as a snapshot.
fn changed(desk: &Desk, name: &str, change: impl FnOnce(&Path)) -> SnapshotId {
    let worktree = desk.from(name, desk.snapshot());
    change(worktree.path());
    worktree.capture(&SnapshotOptions::new(), &options()).unwrap().id
}

#[test]
fn what_moves_work_aside_is_undone_by_itself_and_what_finds_none_with_what_moved_some_before() {
    for (row, forced, edited) in [
        ("a switch after a switch", true, true),
        ("a switch with nothing in its way after a switch", true, false),
        ("a reset after a reset", false, true),
        ("a reset with nothing in its way after a reset", false, false),
    ] {
        let desk = Desk::small();
        let second = changed(&desk, "second", |root| put(root, "README", "second\n"));
        let third = changed(&desk, "third", |root| put(root, "README", "third\n"));
        let one = desk.worktree("one");
        let go = |to: SnapshotId| match forced {
            true => one.switch(to, &SwitchOptions::new().force(true), &options()).unwrap().kept,
            false => one.reset(&options()).unwrap().kept,
        };
        put(one.path(), "README", "by hand\n");
        let base = || desk.store.worktree("one").unwrap().snapshot();
        let (mut before, mut from) = (content(one.path()), base());
        assert_eq!(go(second), ["README"].map(PathBuf::from), "{row}");
        if edited {
            put(one.path(), "README", "by hand again\n");
            (before, from) = (content(one.path()), base());
        }
        assert_eq!(go(third).len(), usize::from(edited), "{row}");
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
        assert_eq!(base(), from, "{row}");
        fails(one.undo(&options()), ErrorKind::SnapshotNotFound);
        assert_sound(&desk.store);
    }
}

#[test]
fn what_stands_in_the_place_of_a_folder_gives_way_to_what_the_snapshot_has_in_it() {
    for row in ["a file", "a link", "nothing"] {
        let desk = Desk::small();
        let second = changed(&desk, "second", |root| put(root, "docs/guide/second.md", "second\n"));
        let wanted = content(&desk.folder().join("second"));
        let one = desk.worktree("one");
        let docs = one.path().join("docs");
        fs::remove_dir_all(&docs).unwrap();
        match row {
            "a file" => fs::write(&docs, "by hand").unwrap(),
            "a link" => std::os::unix::fs::symlink("src", &docs).unwrap(),
            _ => {}
        }
        let before = content(one.path());
        fails(one.switch(second, &SwitchOptions::new(), &options()), ErrorKind::Changed);
        assert_same(&before, &content(one.path()), row);
        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
        let file = Path::new("docs/guide/second.md");
        assert_eq!(content(one.path()).get(file), wanted.get(file), "{row}");
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
    }
}

#[test]
fn a_folder_that_replaced_a_file_has_its_metadata_again_after_an_undo_even_if_it_is_empty() {
    let desk = Desk::small();
    let second = changed(&desk, "second", |root| put(root, "README", "second\n"));
    for (row, mode) in [("an ordinary folder", 0o755), ("a private folder", 0o711)] {
        let one = desk.worktree(&format!("w{mode:o}"));
        let folder = one.path().join("README");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        set_mode(&folder, mode);
        let before = content(one.path());
        one.reset(&options()).unwrap();
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
        one.switch(second, &SwitchOptions::new().force(true), &options()).unwrap();
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
    }
}

#[test]
fn what_had_been_deleted_with_its_folder_is_in_no_undos_way() {
    let desk = Desk::small();
    let second = changed(&desk, "second", |root| put(root, "docs/second.md", "second\n"));
    for row in ["a file", "a link"] {
        let one = desk.worktree(&row.replace(' ', "-"));
        one.switch(second, &SwitchOptions::new(), &options()).unwrap();
        let docs = one.path().join("docs");
        fs::remove_dir_all(&docs).unwrap();
        match row {
            "a file" => fs::write(&docs, "by hand").unwrap(),
            _ => std::os::unix::fs::symlink("nowhere", &docs).unwrap(),
        }
        let before = content(one.path());
        one.switch(desk.snapshot(), &SwitchOptions::new().force(true), &options()).unwrap();
        assert_eq!(one.undo(&options()).unwrap().to, second, "{row}");
        assert_same(&before, &content(one.path()), row);
    }
}

#[test]
fn a_name_that_a_forced_switch_moved_aside_is_again_a_name_of_the_file_that_stayed() {
    let desk = Desk::small();
    let second = changed(&desk, "second", |root| {
        fs::hard_link(root.join("README"), root.join("link")).unwrap();
    });
    let one = desk.worktree("one");
    one.switch(second, &SwitchOptions::new(), &options()).unwrap();
    set_mode(&one.path().join("README"), 0o700);
    let before = content(one.path());
    one.switch(desk.snapshot(), &SwitchOptions::new().force(true), &options()).unwrap();
    one.undo(&options()).unwrap();
    assert_same(&before, &content(one.path()), "after the undo");
    let of = |name: &str| fs::metadata(one.path().join(name)).unwrap().ino();
    assert_eq!(of("README"), of("link"));
}

#[test]
fn an_undo_gives_no_metadata_to_a_name_that_a_file_got_since() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    let (readme, link) = (one.path().join("README"), one.path().join("link"));
    set_mode(&readme, 0o700);
    let before = content(one.path());
    one.reset(&options()).unwrap();
    fs::hard_link(&readme, &link).unwrap();
    let since = content(one.path());
    let error = fails(one.undo(&options()), ErrorKind::Changed);
    assert_eq!(error.details(), [PathBuf::from("README")]);
    assert_same(&since, &content(one.path()), "after the refusal");
    // Out of the way, and it goes.
    fs::remove_file(&link).unwrap();
    one.undo(&options()).unwrap();
    assert_same(&before, &content(one.path()), "after the undo");
}

#[test]
fn a_name_of_a_file_that_was_replaced_by_hand_is_a_name_of_it_again_after_a_reset() {
    let desk = Desk::new(|root| {
        put(root, "a", "one file\n");
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        fs::hard_link(root.join("a"), root.join("c")).unwrap();
    });
    let one = desk.worktree("one");
    fs::remove_file(one.path().join("b")).unwrap();
    put(one.path(), "b", "another\n");
    one.reset(&options()).unwrap();
    assert_same(&content(&desk.project), &content(one.path()), "reset");
    let of = |name: &str| fs::metadata(one.path().join(name)).unwrap().ino();
    assert_eq!((of("a"), of("a")), (of("b"), of("c")));
    assert_eq!(status(&one), [""; 0]);
}

/// The target has one file with two names. One name was replaced by hand, and stayed.
#[test]
fn an_undo_needs_no_names_that_were_other_files_before_the_switch() {
    let desk = Desk::new(|root| {
        put(root, "d/a", "one file\n");
        fs::hard_link(root.join("d/a"), root.join("f")).unwrap();
    });
    for (row, text) in [
        ("a folder", "rm d/a; mkdir d/a; echo in it >d/a/a"),
        ("a file with another mode", "cp d/a g; chmod 700 g; mv g d/a"),
        ("a file with other content", "rm d/a; echo another >d/a; chmod 700 d/a"),
    ] {
        let one = desk.worktree(&row.replace(' ', "-"));
        let root = one.path();
        let run = |text: &str| sh(Command::new("bash").current_dir(root).args(["-ec", text]));
        run(text);
        one.capture(&SnapshotOptions::new(), &options()).unwrap();
        run("rm f; ln -s nowhere f");
        let before = content(root);
        one.switch(desk.snapshot(), &SwitchOptions::new().force(true), &options()).unwrap();
        one.undo(&options()).unwrap();
        assert_same(&before, &content(root), row);
    }
}

/// The switch leaves the folder, because it has other entries.
#[test]
fn a_folder_in_the_place_of_a_file_that_the_target_lacks_is_there_after_an_undo() {
    let desk = Desk::small();
    let second = changed(&desk, "second", |root| put(root, "docs/second.md", "second\n"));
    for (row, inside) in [("with-a-file", Some("mine")), ("empty", None)] {
        let one = desk.from(row, second);
        let folder = one.path().join("docs/second.md");
        fs::remove_file(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        set_mode(&folder, 0o711);
        if let Some(name) = inside {
            fs::write(folder.join(name), "by hand").unwrap();
        }
        let before = content(one.path());
        one.switch(desk.snapshot(), &SwitchOptions::new().force(true), &options()).unwrap();
        one.undo(&options()).unwrap();
        assert_same(&before, &content(one.path()), row);
    }
}

/// Work was aside by then, changed files were missing, and the error said nothing of that.
#[test]
fn a_folder_that_cannot_make_way_for_a_file_is_found_before_anything_moves() {
    let desk = Desk::small();
    let one = desk.worktree("one");
    fs::remove_file(one.path().join("run.sh")).unwrap();
    for (path, text) in [
        ("README", "by hand\n"),
        (".calveignore", "*.o\n"),
        ("run.sh/work", "work\n"),
        ("run.sh/below/x.o", "no snapshot has it\n"),
    ] {
        put(one.path(), path, text);
    }
    let before = content(one.path());
    for _ in 0..2 {
        let refused = fails(one.reset(&options()), ErrorKind::Changed);
        assert_eq!(refused.details(), ["run.sh"].map(PathBuf::from));
        assert_same(&before, &content(one.path()), "after the refusal");
        fails(one.undo(&options()), ErrorKind::SnapshotNotFound);
    }
    fs::remove_file(one.path().join("run.sh/below/x.o")).unwrap();
    one.reset(&options()).unwrap();
    assert!(one.path().join("run.sh").is_file());
    one.undo(&options()).unwrap();
    assert_eq!(fs::read_to_string(one.path().join("run.sh/work")).unwrap(), "work\n");
}

#[test]
fn what_was_changed_by_hand_stays_where_the_snapshots_agree_on_all_but_its_times() {
    let desk = Desk::small();
    let second = changed(&desk, "second", |root| {
        put(root, "run.sh", "second\n");
        let readme = fs::read(root.join("README")).unwrap();
        put(root, "README", readme);
    });
    let one = desk.worktree("one");
    put(one.path(), "README", "by hand\n");
    // An entry that somebody made by hand, and that equals the target's, is no conflict.
    put(one.path(), "run.sh", "second\n");
    one.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_eq!(status(&one), ["M README"]);
    assert_eq!(fs::read_to_string(one.path().join("README")).unwrap(), "by hand\n");
    assert_eq!(fs::read_to_string(one.path().join("run.sh")).unwrap(), "second\n");
}

#[test]
fn a_switch_brings_also_what_differs_in_nothing_but_times_attributes_or_names() {
    type Change = fn(&Path);
    let rows: [(&str, Change); 4] = [
        ("the time of a file", |root| set_mtime(&root.join("README"), 1_000_000_000, 7)),
        ("the time of a folder", |root| set_mtime(&root.join("src"), 1_000_000_000, 7)),
        ("an attribute", |root| set_xattr(&root.join("README"), "user.calve", b"a").unwrap()),
        ("the names of a file", |root| {
            fs::remove_file(root.join("second")).unwrap();
            fs::hard_link(root.join("first"), root.join("second")).unwrap();
        }),
    ];
    for (row, change) in rows {
        let desk = Desk::new(|root| {
            small_project(root);
            for name in ["first", "second"] {
                put(root, name, "the same\n");
                set_mtime(&root.join(name), 1_500_000_000, 0);
            }
            // Changes of the names leave this as it is.
            set_mtime(root, 1_500_000_000, 0);
        });
        if row == "an attribute" && set_xattr(desk.scratch.path(), "user.calve", b"a").is_err() {
            let test = "a_switch_brings_also_what_differs_in_nothing_but_times_attributes_or_names";
            not_run(test, "no attributes here");
            continue;
        }
        let first = desk.snapshot();
        let second = changed(&desk, "second", |root| {
            change(root);
            set_mtime(root, 1_500_000_000, 0);
        });
        assert_ne!(first, second, "{row}");
        let one = desk.from("one", first);
        one.switch(second, &SwitchOptions::new(), &options()).unwrap();
        assert_same(&tree(&desk.folder().join("second")), &tree(one.path()), row);
        one.switch(first, &SwitchOptions::new(), &options()).unwrap();
        assert_same(&tree(&desk.project), &tree(one.path()), row);
    }
}

/// A program that says a word, and a part of it that no snapshot changes.
struct Built {
    command: &'static str,
    word: (&'static str, fn(&str) -> String),
    files: &'static [(&'static str, &'static str)],
    /// The output of a build about the part that stays.
    unchanged: &'static str,
    program: &'static str,
}

const BUILDS: [Built; 2] = [
    Built {
        command: "make",
        word: ("word", |word| format!("echo {word}\n")),
        files: &[
            ("same", "same\n"),
            (
                "Makefile",
                "all: out/program out/same\n\
                out/program: word\n\tmkdir -p out; cp word out/program; chmod +x out/program\n\
                out/same: same\n\tmkdir -p out; cp same out/same\n",
            ),
        ],
        unchanged: "cp same",
        program: "out/program",
    },
    Built {
        command: "cargo",
        word: ("src/main.rs", |word| {
            format!("fn main() {{ println!(\"{word}{{}}\", same::S) }}\n")
        }),
        files: &[
            (
                "Cargo.toml",
                "[package]\nname = \"app\"\nedition = \"2021\"\n[workspace]\n\
                [dependencies]\nsame = { path = \"same\" }\n",
            ),
            ("same/Cargo.toml", "[package]\nname = \"same\"\nedition = \"2021\"\n"),
            ("same/src/lib.rs", "pub const S: &str = \"\";\n"),
        ],
        unchanged: "Compiling same",
        program: "target/debug/app",
    },
];

impl Built {
    /// Builds. Returns the output of the build and of the program.
    fn build(&self, tree: &Path) -> (String, String) {
        after_a_tick();
        let mut command = Command::new("sh");
        command.current_dir(tree).env("CARGO_NET_OFFLINE", "true");
        for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTC_WORKSPACE_WRAPPER"] {
            command.env_remove(variable);
        }
        let build = if self.command == "cargo" { "cargo build" } else { "make" };
        let printed = sh(command.args(["-c", &format!("{build} 2>&1")]));
        let said = sh(Command::new("sh").arg("-c").arg(tree.join(self.program)));
        after_a_tick();
        (printed, said.trim().to_owned())
    }

    fn write(&self, tree: &Path, word: &str) {
        put(tree, self.word.0, (self.word.1)(word));
    }
}

#[test]
fn no_build_takes_an_old_program_for_the_new_one_and_none_makes_again_what_is_the_same() {
    let test =
        "no_build_takes_an_old_program_for_the_new_one_and_none_makes_again_what_is_the_same";
    for built in &BUILDS {
        if !has_command(built.command) {
            not_run(test, &format!("there is no {}", built.command));
            continue;
        }
        for output in ["left out", "added by hand", "in the snapshots"] {
            let row = format!("{}, output {output}", built.command);
            let desk = Desk::new(|project| {
                for (path, content) in built.files {
                    put(project, path, content);
                }
                built.write(project, "one");
                if built.command == "cargo" {
                    let lock = "cargo generate-lockfile --offline 2>&1";
                    sh(Command::new("sh").current_dir(project).args(["-c", lock]));
                }
                if output == "left out" {
                    put(project, ".calveignore", "/out\n/target\n");
                }
            });
            let capture =
                |it: &calve::Worktree| it.capture(&SnapshotOptions::new(), &options()).unwrap().id;
            let it = desk.worktree("it");
            let says = |word: &str| {
                let (printed, said) = built.build(it.path());
                assert_eq!(said, word, "{row}: {printed}");
                assert!(!printed.contains(built.unchanged), "{row}: {printed}");
                printed
            };
            let in_snapshots = output == "in the snapshots";
            if in_snapshots {
                built.build(it.path());
            }
            let one = capture(&it);
            built.write(it.path(), "two");
            if in_snapshots {
                built.build(it.path());
            }
            let two = capture(&it);
            // The first build makes everything.
            if !in_snapshots {
                built.build(it.path());
            }
            says("two");
            let go = |to| drop(it.switch(to, &SwitchOptions::new(), &options()).unwrap());
            go(one);
            let again = says("one");
            if in_snapshots {
                // All of it went back together: nothing is to be done.
                assert!(!again.contains("Compiling") && !again.contains("cp "), "{row}: {again}");
            }
            let changes = status(&it);
            let added_only = changes.iter().all(|line| line.starts_with("A "));
            assert!(in_snapshots || added_only, "{row}: {changes:?}");
            go(two);
            says("two");
            if output != "left out" {
                continue;
            }
            built.write(it.path(), "three");
            says("three");
            it.reset(&options()).unwrap();
            says("two");
            it.undo(&options()).unwrap();
            says("three");
            it.switch(one, &SwitchOptions::new().force(true), &options()).unwrap();
            says("one");
            it.undo(&options()).unwrap();
            says("three");
        }
    }
}

/// The `.git` of a repository inside went back with the files, so no reference led to what was
/// committed there since. The next restore deleted what the first had moved aside.
#[test]
fn a_repository_inside_keeps_the_commits_that_nothing_else_has() {
    const PUSHED: &str =
        "git clone -q --bare in ../o.git; cd in; git remote add o ../../o.git; git fetch -q o
        echo 2 >f; git commit -qam 2; git push -q o main";
    for (row, text, left) in [
        ("a commit", "cd in; echo 2 >f; git commit -qam 2", "in/.git"),
        ("a stash", "cd in; echo 2 >f; git stash -q", "in/.git"),
        ("a new one", "git init -q new; git -C new commit -q --allow-empty -m n", "new/.git"),
        ("a look", "touch in/f; git -C in update-index --refresh", ""),
        ("a remote has all", PUSHED, ""),
        (
            "a worktree elsewhere",
            &format!("({PUSHED}); git -C in worktree add -q --detach ../../else"),
            "in/.git",
        ),
    ] {
        let desk = Desk::new(|root| {
            fs::create_dir(root).unwrap();
            script(root, "git init -q -b main in; cd in; echo 1 >f; git add f; git commit -qm 1");
        });
        let worktree = desk.worktree("w");
        let root = worktree.path().to_owned();
        script(&root, text);
        let inner = root.join(left.strip_suffix("/.git").unwrap_or("in"));
        let known = || sh(git(&inner).args(["for-each-ref"]));
        let before = known();
        let expected: Vec<PathBuf> = if left.is_empty() { vec![] } else { vec![left.into()] };
        for _ in 0..2 {
            put(&root, "in/f", "local\n");
            let report = worktree.reset(&options()).unwrap();
            assert_eq!(report.left_repositories, expected, "{row}");
            assert_eq!(fs::read_to_string(root.join("in/f")).unwrap(), "1\n", "{row}");
        }
        if !left.is_empty() {
            assert_eq!(known(), before, "{row}");
        }
        let changes = status(&worktree);
        assert!(changes.iter().all(|it| it.contains(".git")), "{row}: {changes:?}");
        assert_eq!(changes.is_empty(), left.is_empty(), "{row}: {changes:?}");
        worktree.undo(&options()).unwrap();
        assert_eq!(fs::read_to_string(root.join("in/f")).unwrap(), "local\n", "{row}");
        assert_sound(&desk.store);
    }
}

/// The snapshots differ in the repository, too, and the index must not vouch for what stayed.
#[test]
fn a_repository_that_stays_between_two_snapshots_stays_by_an_undo_as_well() {
    let desk = Desk::new(|root| {
        fs::create_dir(root).unwrap();
        script(root, "git init -q -b main in; cd in; echo 1 >f; git add f; git commit -qm 1");
    });
    let first = desk.snapshot();
    let worktree = desk.from("w", first);
    let inner = worktree.path().join("in");
    let commit = |text: &str| {
        put(&inner, "f", text);
        script(&inner, &format!("git commit -qam {text}"));
        sh(git(&inner).args(["rev-parse", "HEAD"]))
    };
    commit("2");
    let second = worktree.capture(&SnapshotOptions::new(), &options()).unwrap().id;
    worktree.switch(second, &SwitchOptions::new(), &options()).unwrap();
    let last = commit("3");
    let force = SwitchOptions::new().force(true);
    let report = worktree.switch(first, &force, &options()).unwrap();
    assert_eq!(report.left_repositories, [PathBuf::from("in/.git")]);
    assert_eq!(fs::read_to_string(inner.join("f")).unwrap(), "1\n");
    let changes = status(&worktree);
    assert!(changes.iter().any(|it| it.ends_with("in/.git/refs/heads/main")), "{changes:?}");
    // Its content is that of the second snapshot, and nobody changed it since.
    assert!(changes.iter().any(|it| it.contains("in/.git/objects/")), "{changes:?}");
    let report = worktree.undo(&options()).unwrap();
    assert_eq!(report.left_repositories, [PathBuf::from("in/.git")]);
    assert_eq!(sh(git(&inner).args(["rev-parse", "HEAD"])), last);
    assert_eq!(fs::read_to_string(inner.join("f")).unwrap(), "3");
    assert_sound(&desk.store);
}

/// The bug: the undo brought the worktree to the snapshot before, and what was captured since was
/// gone from the tree.
#[test]
fn an_undo_takes_back_what_the_restore_did_and_not_what_was_captured_since() {
    for (row, to_second) in [("to the base", false), ("to another snapshot", true)] {
        let desk = Desk::small();
        let second = changed(&desk, "second", |root| put(root, "src/a.rs", "second\n"));
        let one = desk.worktree("one");
        let was = fs::read(one.path().join("src/a.rs")).ok();
        put(one.path(), "README", "by hand\n");
        fs::remove_dir_all(one.path().join("docs")).unwrap();
        match to_second {
            true => drop(one.switch(second, &SwitchOptions::new().whole(true), &options())),
            false => drop(one.reset(&options())),
        }
        assert!(one.path().join("docs").is_dir(), "{row}");
        put(one.path(), "since", "captured\n");
        let one = desk.store.worktree("one").unwrap();
        one.capture(&SnapshotOptions::new(), &options()).unwrap();
        put(one.path(), "later", "not captured\n");
        let one = desk.store.worktree("one").unwrap();
        one.undo(&options()).unwrap();
        let read = |path: &str| fs::read_to_string(one.path().join(path)).ok();
        assert_eq!(read("README").as_deref(), Some("by hand\n"), "{row}");
        assert_eq!(read("since").as_deref(), Some("captured\n"), "{row}");
        assert_eq!(read("later").as_deref(), Some("not captured\n"), "{row}");
        assert_eq!(read("src/a.rs").map(String::into_bytes), was, "{row}");
        assert!(!one.path().join("docs").try_exists().unwrap(), "{row}");
        assert_sound(&desk.store);
    }
}

//! Promise: what is shed from a worktree is only what a build or an install gives back. Work, and what
//! nobody knows, stays as it is, and so does a worktree in which somebody works.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::{ErrorKind, ShedKind, Worktree};

use crate::common::git::{Dice, rounds, script, tick};
use crate::common::snapshot::{assert_same, only};
use crate::common::{is_there, names, sh};
use crate::stores::{Desk, fails, options, put, tree};

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# a comment\n";
/// Everything below `ign`, and whatever has one of these names, is ignored.
const PROJECT: &str = "
    git init -q -b main
    printf 'ign/\\ntarget/\\nnode_modules/\\n__pycache__/\\nbuild/\\n.venv/\\n*.log\\n' >.gitignore
    mkdir -p src app; echo one >src/a; echo '{}' >app/package.json; echo '{}' >package.json
    git add -A; git commit -qm one; tick";

fn project() -> Desk {
    Desk::new(|root| {
        fs::create_dir(root).unwrap();
        script(root, PROJECT);
    })
}

fn shed(worktree: &Worktree) -> Vec<PathBuf> {
    let found = worktree.sheddable(&options()).unwrap();
    let report = worktree.shed(&found, &options()).unwrap();
    assert!(report.kept.is_empty(), "{report:?}");
    assert_eq!(report.shed, found);
    let mut paths: Vec<PathBuf> = found.into_iter().map(|folder| folder.path).collect();
    paths.sort();
    paths
}

#[test]
fn only_what_a_build_gives_back_goes() {
    let tag = format!("printf '{TAG}' >");
    let rows: &[(&str, &[&str])] = &[
        ("", &[]),
        ("mkdir target; TAG target/CACHEDIR.TAG; echo x >target/o", &["target"]),
        ("mkdir target; echo x >target/o", &[]),
        ("mkdir target; echo Signature >target/CACHEDIR.TAG", &[]),
        ("mkdir target; ln -s ../src/a target/CACHEDIR.TAG", &[]),
        ("mkdir -p ign; TAG ign/CACHEDIR.TAG", &["ign"]),
        // Of a folder that nobody knows nothing goes, also not what is in it.
        ("mkdir -p ign/target; TAG ign/target/CACHEDIR.TAG", &[]),
        ("mkdir -p node_modules/a; echo x >node_modules/a/x", &["node_modules"]),
        ("mkdir -p app/node_modules/a src/node_modules", &["app/node_modules"]),
        ("mkdir -p src/__pycache__; echo x >src/__pycache__/a.pyc", &["src/__pycache__"]),
        ("mkdir -p src/__pycache__; echo x >src/__pycache__/a.py", &[]),
        ("mkdir -p build/CMakeFiles; echo x >build/CMakeCache.txt", &["build"]),
        ("mkdir -p build; echo x >build/result", &[]),
        ("mkdir .venv; TAG .venv/CACHEDIR.TAG; echo x >.venv/pyvenv.cfg", &[]),
        ("echo x >a.log", &[]),
        // What no build writes.
        ("mkdir target; TAG target/CACHEDIR.TAG; echo x >target/app.sqlite", &[]),
        (
            "mkdir target; TAG target/CACHEDIR.TAG; mkdir -p target/a/b; echo x >target/a/b/x.DB",
            &[],
        ),
        ("mkdir target; TAG target/CACHEDIR.TAG; git init -q target/own", &[]),
        ("mkdir -p node_modules/a; git init -q node_modules/a", &[]),
        ("mkdir target; TAG target/CACHEDIR.TAG; mkfifo target/pipe", &[]),
        ("mkdir target; TAG target/CACHEDIR.TAG; ln -s \"$PWD/src\" target/link", &["target"]),
        // What git tracks, or does not ignore.
        ("mkdir target; TAG target/CACHEDIR.TAG; echo x >target/mine; git add -f target/mine", &[]),
        ("mkdir other; TAG other/CACHEDIR.TAG", &[]),
        ("mkdir target; TAG target/CACHEDIR.TAG; git worktree lock \"$PWD\"", &["locked"]),
    ];
    for (work, expected) in rows {
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path();
        script(root, &work.replace("TAG ", &tag));
        tick();
        if *expected == ["locked"] {
            fails(worktree.sheddable(&options()), ErrorKind::Git);
            continue;
        }
        let before = tree(root);
        let last = worktree.last_change(&options()).unwrap();
        let gone = shed(&worktree);
        assert_eq!(gone, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{work}");
        let is_left = |path: &Path| !gone.iter().any(|gone| path.starts_with(gone));
        // With all times: nobody worked there.
        assert_same(&only(&before, |path, _| is_left(path)), &tree(root), work);
        let now = worktree.last_change(&options()).unwrap();
        assert!(now.time <= last.time, "{work}: {now:?} after {last:?}");
        assert!(!names(root).iter().any(|name| name.starts_with(".calve-stage")), "{work}");
        assert_eq!(shed(&worktree), Vec::<PathBuf>::new(), "{work}");
    }
}

#[test]
fn a_socket_keeps_its_folder() {
    let desk = project();
    let worktree = desk.worktree("w");
    put(worktree.path(), "target/CACHEDIR.TAG", TAG);
    let folder = worktree.path().join("target");
    // A path of a socket is short.
    sh(Command::new("ln").args(["-s"]).arg(&folder).arg(desk.scratch.join("s")));
    drop(UnixListener::bind(desk.scratch.join("s/x")).unwrap());
    assert!(worktree.sheddable(&options()).unwrap().is_empty());
}

#[test]
fn a_worktree_with_a_process_in_it_or_with_work_moved_aside_keeps_all() {
    let desk = project();
    let worktree = desk.worktree("w");
    put(worktree.path(), "target/CACHEDIR.TAG", TAG);
    let found = worktree.sheddable(&options()).unwrap();
    assert_eq!(found[0].kind, ShedKind::Tagged);
    let orphan = "sleep 600 >/dev/null 2>&1 & echo $!";
    let pid = sh(Command::new("sh").current_dir(worktree.path()).args(["-c", orphan]));
    let (looked, done) = (worktree.sheddable(&options()), worktree.shed(&found, &options()));
    sh(Command::new("kill").arg(pid.trim()));
    for error in [fails(looked, ErrorKind::Busy), fails(done.map(drop), ErrorKind::Busy)] {
        assert!(error.details()[0].ends_with(format!("{} sleep", pid.trim())), "{error:?}");
    }
    while worktree.sheddable(&options()).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    put(worktree.path(), "src/a", "work");
    drop(worktree.reset(&options()).unwrap());
    put(worktree.path(), "target/CACHEDIR.TAG", TAG);
    fails(worktree.sheddable(&options()), ErrorKind::Changed);
}

/// Random trees: whatever is not below a folder that a build gives back stays, to the byte and to the
/// time; and so does such a folder with something foreign in it.
#[test]
fn nothing_but_output_of_builds_is_lost_from_any_tree() {
    let places = ["", "app", "src", "src/deep", "ign", "ign/x"];
    let folders: [(&str, &[(&str, &str)]); 8] = [
        ("target", &[("CACHEDIR.TAG", TAG), ("debug/o", "o")]),
        ("target", &[("debug/o", "o")]),
        ("node_modules", &[("a/index.js", "x")]),
        ("__pycache__", &[("a.pyc", "x")]),
        ("__pycache__", &[("a.pyc", "x"), ("notes", "mine")]),
        ("build", &[("CMakeCache.txt", "x"), ("CMakeFiles/x", "x")]),
        ("data", &[("data", "mine")]),
        (".venv", &[("CACHEDIR.TAG", TAG), ("pyvenv.cfg", "x")]),
    ];
    let foreign = ["", "", "", "app.db", "a/.git/HEAD", "deep/PG_VERSION", "x.sqlite3"];
    for seed in rounds(20) {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path().to_owned();
        let mut kept = BTreeSet::new();
        for _ in 0..6 {
            let (name, files) = folders[dice.roll(folders.len())];
            let folder = Path::new(places[dice.roll(places.len())]).join(name);
            for (file, content) in files {
                put(&root, folder.join(file).to_str().unwrap(), content);
            }
            let other = foreign[dice.roll(foreign.len())];
            if !other.is_empty() {
                let other = folder.join(other);
                put(&root, other.to_str().unwrap(), "mine");
                kept.insert(other);
            }
        }
        put(&root, "src/a", format!("work {seed}"));
        put(&root, "new", "work");
        put(&root, "x.log", "log");
        tick();
        let before = tree(&root);
        let gone = shed(&worktree);
        let is_left = |path: &Path| !gone.iter().any(|gone| path.starts_with(gone));
        let what = format!("seed {seed}: {gone:?}");
        assert_same(&only(&before, |path, _| is_left(path)), &tree(&root), &what);
        for path in &kept {
            assert!(is_there(&root.join(path)), "{path:?}, {what}");
        }
        for path in &gone {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(["target", "node_modules", "__pycache__", "build"].contains(&name), "{what}");
            assert!(!path.starts_with("ign"), "{what}");
        }
        assert!(is_left(Path::new("src/a")) && is_left(Path::new("new")), "{what}");
    }
}

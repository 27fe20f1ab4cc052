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
use crate::common::{is_there, names, not_run, sh};
use crate::stores::{Desk, fails, options, put, tree};

/// What the shell knows: what cargo, npm and CMake write into a folder, and a cache with its mark.
const BUILDS: &str = r#"
    tag() { mkdir -p "$1"; printf 'Signature: 8a477f597d28d172789f06886806bc55\n' >"$1/CACHEDIR.TAG"; }
    cargo() {
        tag "$1"; echo '{}' >"$1/.rustc_info.json"; mkdir -p "$1/debug/.fingerprint" "$1/debug/deps"
        echo o >"$1/debug/deps/o"; echo x >"$1/debug/x"; echo x >"$1/debug/x.d"
    }
    npm() {
        mkdir -p "$1/a/lib"; echo '{}' >"$1/a/package.json"; echo x >"$1/a/lib/index.js"
        echo '{}' >"$1/.package-lock.json"; touch -d @3000000000 "$1/.package-lock.json"
    }
    cmake() { # the build folder, the sources, and where it was configured
        mkdir -p "$1/CMakeFiles"; echo o >"$1/CMakeFiles/o"
        printf 'CMAKE_CACHEFILE_DIR:INTERNAL=%s\nCMAKE_HOME_DIRECTORY:INTERNAL=%s\n' \
            "$3/$1" "$2" >"$1/CMakeCache.txt"
    }
    W=$(pwd -P)
"#;
/// Everything below `ign`, and whatever has one of these names, is ignored.
const PROJECT: &str = "
    git init -q -b main
    printf '%s\\n' ign/ target/ node_modules/ __pycache__/ build/ .venv/ '.*_cache/' '*.log' >.gitignore
    mkdir -p src app; echo 'project(x C)' >CMakeLists.txt; echo one >src/a; echo '{}' >app/package.json; echo '{}' >package.json
    git add -A; git commit -qm one; tick";

fn project() -> Desk {
    Desk::new(|root| {
        fs::create_dir(root).unwrap();
        script(root, PROJECT);
    })
}

fn build(root: &Path, script_text: &str) {
    script(root, &format!("{BUILDS}{script_text}"));
}

fn shed(worktree: &Worktree) -> Vec<PathBuf> {
    let found = worktree.sheddable(&options()).unwrap().folders;
    let report = worktree.shed(&found, &options()).unwrap();
    assert!(report.kept.is_empty(), "{report:?}");
    assert_eq!(report.shed, found);
    let mut paths: Vec<PathBuf> = found.into_iter().map(|folder| folder.path).collect();
    paths.sort();
    paths
}

/// Builds, what goes of them, and the reason why another one stays.
#[rustfmt::skip]
const ROWS: &[(&str, &[&str], &str)] = &[
    ("", &[], ""),
    ("cargo target", &["target"], ""),
    ("cargo target; mkdir target/x86; mv target/debug target/x86; tag target/x86", &["target"], ""),
    ("cargo target; mkdir target/tmp target/doc; echo x >target/doc/x", &["target"], ""),
    ("cargo target; echo x >target/debug/libx.rlib; echo x >target/debug/libx.d", &["target"], ""),
    ("mkdir target; echo x >target/o", &[], ""),
    ("cargo target; echo Signature >target/CACHEDIR.TAG", &[], ""),
    ("cargo target; rm target/CACHEDIR.TAG; ln -s ../src/a target/CACHEDIR.TAG", &[], ""),
    ("tag target", &[], "nothing says which program gives it back"),
    ("tag ign; echo x >ign/x", &[], "nothing says which program gives it back"),
    ("cargo target; echo x >target/notes", &[], "not written by cargo alone: notes"),
    ("cargo target; mkdir target/mine", &[], "not written by cargo alone: mine"),
    ("cargo target; mkdir target/tmp; echo x >target/tmp/x", &[], "not written by cargo alone: tmp"),
    ("cargo target; mkdir target/criterion; echo x >target/criterion/x", &[], "not written by cargo alone: criterion"),
    ("cargo target; echo x >target/debug/x.toml", &[], "not written by cargo alone: debug"),
    ("cargo target; echo x >target/debug/run", &[], "not written by cargo alone: debug"),
    ("cargo target; ln -s \"$W/src\" target/link", &[], "not written by cargo alone: link"),
    ("cargo target; ln -s \"$W/src\" target/debug/deps/link", &["target"], ""),
    ("tag .ruff_cache; tag .other_cache", &[".ruff_cache"], "nothing says which program gives it back"),
    // In a folder that calve does not know, even a folder that it knows stays.
    ("mkdir ign; cargo ign/target", &[], ""),
    ("npm node_modules; mkdir node_modules/.bin; ln -s ../a node_modules/.bin/a", &["node_modules"], ""),
    ("npm node_modules; mkdir -p node_modules/@s/b; echo '{}' >node_modules/@s/b/package.json", &["node_modules"], ""),
    ("npm node_modules; rm node_modules/.package-lock.json; echo >bun.lock", &["node_modules"], ""),
    ("npm app/node_modules; npm src/node_modules", &["app/node_modules"], "there is no package.json beside it"),
    ("npm node_modules; rm node_modules/.package-lock.json", &[], "nothing says which installer wrote it"),
    ("npm node_modules; mkdir node_modules/mine", &[], "no package: mine"),
    ("npm node_modules; mkdir -p node_modules/@s/mine", &[], "no package: @s"),
    ("npm node_modules; echo x >node_modules/notes", &[], "no package: notes"),
    ("npm node_modules; touch -d @4000000000 node_modules/a/lib/index.js", &[], "it has a file that was changed after the install"),
    ("npm node_modules; mkdir node_modules/.vite; touch -d @4000000000 node_modules/.vite/x", &["node_modules"], ""),
    ("mkdir -p src/__pycache__; echo x >src/__pycache__/a.pyc", &["src/__pycache__"], ""),
    ("mkdir -p src/__pycache__; echo x >src/__pycache__/a.py", &[], "no compiled module: a.py"),
    ("cmake build $W $W", &["build"], ""),
    ("cmake build $W/src $W", &[], "its sources are in it, or not in the worktree"),
    ("cmake build $W/build $W", &[], "its sources are in it, or not in the worktree"),
    ("cmake build $W/build/src $W; mkdir build/src; echo >build/src/CMakeLists.txt", &[], "its sources are in it, or not in the worktree"),
    ("cmake build /elsewhere $W", &[], "its sources are in it, or not in the worktree"),
    ("cmake build $W /elsewhere", &[], "its CMakeCache.txt was configured for another place"),
    ("cmake build $W $W; echo >build/CMakeLists.txt", &[], "it has a CMakeLists.txt, so it has sources"),
    ("cmake build $W $W; mkdir build/x; echo >build/x/CMakeLists.txt", &[], "it has sources"),
    ("cmake build $W $W; echo x >build/CMakeCache.txt", &[], "its CMakeCache.txt does not say what it was configured for"),
    ("mkdir -p build; echo x >build/result", &[], ""),
    ("tag .venv; echo x >.venv/pyvenv.cfg", &[], "nothing says which program gives it back"),
    ("echo x >a.log", &[], ""),
    // What no build writes.
    ("cargo target; printf 'SQLite format 3\\0rest' >target/debug/deps/state", &[], "it has a database"),
    ("cargo target; echo x >target/debug/deps/state-wal", &[], "it has a database"),
    ("cargo target; echo x >target/debug/deps/x.DUCKDB", &[], "it has a database"),
    ("cargo target; mkdir target/debug/deps/s; echo x >target/debug/deps/s/CURRENT", &[], "it has a database"),
    ("cargo target; mkdir -p target/debug/deps/b; echo x >target/debug/deps/b/x.DB", &[], "it has a database"),
    ("cargo target; git init -q target/debug/deps/own", &[], "it has a repository"),
    ("cargo target; git init -q --bare target/debug/deps/own", &[], "it has a repository"),
    ("cargo target; mkdir -p target/debug/deps/r/.hg", &[], "it has a repository"),
    ("npm node_modules; git init -q node_modules/a", &[], "it has a repository"),
    ("cargo target; mkdir target/debug/deps/r; echo calve remote 1 >target/debug/deps/r/format", &[], "it has a store or a remote of calve"),
    ("cargo target; mkfifo target/debug/deps/pipe", &[], "it has a socket, a pipe or a device"),
    ("cargo target; mkdir target/debug/deps/e; echo >target/debug/deps/e/pyvenv.cfg", &[], "it has a Python environment"),
    // What git tracks, or does not ignore.
    ("cargo target; echo x >target/debug/deps/x; git add -f target/debug/deps/x", &[], ""),
    ("cargo other", &[], ""),
];

#[test]
fn only_what_a_build_gives_back_goes() {
    for (work, expected, why) in ROWS {
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path();
        build(root, work);
        tick();
        let before = tree(root);
        let last = worktree.last_change(&options()).unwrap();
        let staying = worktree.sheddable(&options()).unwrap().staying;
        let told: Vec<_> = staying.iter().map(|error| error.io_error().to_string()).collect();
        assert_eq!(told.join(", "), *why, "{work}");
        let mut inside = staying.iter().flat_map(|error| error.details());
        assert!(inside.all(|path| !path.to_str().unwrap().ends_with('.')), "{work}: {staying:?}");
        let gone = shed(&worktree);
        assert_eq!(gone, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{work}");
        let is_left = |path: &Path| !gone.iter().any(|gone| path.starts_with(gone));
        // With all times: nobody worked there.
        assert_same(&only(&before, |path, _| is_left(path)), &tree(root), work);
        let now = worktree.last_change(&options()).unwrap();
        assert!(now.time <= last.time, "{work}: {now:?} after {last:?}");
        for folder in [root.to_owned(), desk.store.path().join("stage")] {
            assert!(!names(&folder).iter().any(|name| name.starts_with(".calve-stage")), "{work}");
        }
        assert_eq!(shed(&worktree), Vec::<PathBuf>::new(), "{work}");
    }
}

#[test]
fn a_locked_worktree_keeps_all() {
    let desk = project();
    let worktree = desk.worktree("w");
    build(worktree.path(), "cargo target; git worktree lock \"$W\"");
    fails(worktree.sheddable(&options()), ErrorKind::Git);
}

#[test]
fn a_socket_keeps_its_folder() {
    let desk = project();
    let worktree = desk.worktree("w");
    build(worktree.path(), "cargo target");
    let folder = worktree.path().join("target/debug/deps");
    // A path of a socket is short.
    sh(Command::new("ln").args(["-s"]).arg(&folder).arg(desk.scratch.join("s")));
    drop(UnixListener::bind(desk.scratch.join("s/x")).unwrap());
    assert!(worktree.sheddable(&options()).unwrap().folders.is_empty());
}

#[test]
fn a_worktree_with_a_process_in_it_or_with_work_moved_aside_keeps_all() {
    let desk = project();
    let worktree = desk.worktree("w");
    build(worktree.path(), "cargo target");
    let found = worktree.sheddable(&options()).unwrap().folders;
    assert_eq!(found[0].kind, ShedKind::Cargo);
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
    build(worktree.path(), "cargo target");
    fails(worktree.sheddable(&options()), ErrorKind::Changed);
}

/// Also where the stage cannot be in the store, as if that were on another filesystem.
#[test]
fn a_folder_that_cannot_be_removed_is_in_its_place_again() {
    let test = "a_folder_that_cannot_be_removed_is_in_its_place_again";
    for is_store_near in [true, false] {
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path();
        build(root, "cargo target; npm node_modules; git status --porcelain >../before");
        let stage = desk.store.path().join("stage");
        if !is_store_near {
            fs::rename(&stage, stage.with_extension("away")).unwrap();
        }
        let fixed = root.join("target/debug/deps/o");
        let chattr = |flag| Command::new("chattr").arg(flag).arg(&fixed).output();
        if !chattr("+i").is_ok_and(|it| it.status.success()) {
            return not_run(test, "no file can be made immutable");
        }
        let found = worktree.sheddable(&options()).unwrap().folders;
        let report = worktree.shed(&found, &options());
        assert!(chattr("-i").unwrap().status.success());
        let report = report.unwrap();
        assert_eq!(report.kept.len(), 1, "{report:?}");
        assert_eq!(report.kept[0].path(), root.join("target"));
        assert_eq!(report.kept[0].kind(), ErrorKind::PermissionDenied, "{report:?}");
        assert_eq!(report.shed.len(), 1, "{report:?}");
        assert_eq!(report.shed[0].path, Path::new("node_modules"));
        assert!(is_there(&fixed) && !is_there(&root.join("node_modules")));
        script(root, "git status --porcelain | diff ../before -");
        let places = if is_store_near { vec![root, &stage] } else { vec![root] };
        for place in places {
            assert!(!names(place).iter().any(|name| name.starts_with(".calve-stage")));
        }
    }
}

/// Random trees: whatever is not below a folder that a build gives back stays, to the byte and to the
/// time; and so does such a folder with something foreign in it.
#[test]
fn nothing_but_output_of_builds_is_lost_from_any_tree() {
    let places = ["", "app", "src", "src/deep", "ign", "ign/x"];
    let folders = [
        "cargo P/target",
        "cargo P/target; echo x >P/target/notes",
        "tag P/target; echo x >P/target/mine",
        "npm P/node_modules",
        "npm P/node_modules; mkdir P/node_modules/mine; echo x >P/node_modules/mine/x",
        "mkdir -p P/__pycache__; echo x >P/__pycache__/a.pyc",
        "mkdir -p P/__pycache__; echo x >P/__pycache__/a.pyc; echo mine >P/__pycache__/notes",
        "cmake P/build $W $W",
        "cmake P/build $W/P/build $W; echo mine >P/build/main.c; echo >P/build/CMakeLists.txt",
        "mkdir -p P/data; echo mine >P/data/data",
        "tag P/.venv; echo x >P/.venv/pyvenv.cfg",
        "tag P/.mypy_cache",
    ];
    let foreign = [
        "",
        "",
        "",
        "app.db",
        "a/.git/HEAD",
        "deep/PG_VERSION",
        "x.sqlite3",
        "a/HEAD a/objects/x",
        "a/.hg/x",
        "x-wal",
        "a/CURRENT",
        "env/pyvenv.cfg",
        "a/_FOSSIL_",
    ];
    // Where they are not told from the rest by their place.
    let deep = |name: &str| match name {
        "target" => "debug/deps",
        "node_modules" => "a/lib",
        _ => ".",
    };
    for seed in rounds(20) {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let desk = project();
        let worktree = desk.worktree("w");
        let root = worktree.path().to_owned();
        let mut kept = BTreeSet::new();
        for _ in 0..6 {
            let place = Path::new(places[dice.roll(places.len())]);
            let work = folders[dice.roll(folders.len())];
            let name = work.split([' ', ';']).find_map(|word| word.strip_prefix("P/")).unwrap();
            let folder = place.join(name);
            build(&root, &work.replace("P/", place.join("").to_str().unwrap()));
            for other in foreign[dice.roll(foreign.len())].split_whitespace() {
                let other = folder.join(deep(name)).join(other);
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
            let all = ["target", "node_modules", "__pycache__", "build", ".mypy_cache"];
            assert!(all.contains(&name), "{what}");
            assert!(!path.starts_with("ign"), "{what}");
        }
        assert!(is_left(Path::new("src/a")) && is_left(Path::new("new")), "{what}");
    }
}

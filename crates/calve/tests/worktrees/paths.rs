//! Promise: a worktree's environment is its own. Files that name the project's root name the
//! worktree's there; nothing shows it as a change, and every snapshot has them as the project does.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use calve::{
    CloneOptions, DropOptions, Existing, GcOptions, GitMode, PathKept, PathKind, PathMeaning,
    PathMention, PathMode, SnapshotId, SnapshotOptions, StartOptions, Store, StoreOptions,
    SwitchOptions, Worktree, path_mentions, rewrite_paths,
};

use crate::common::git::{git, script};
use crate::common::mounts::{IGNORING_CASE, ignoring_case};
use crate::common::snapshot::assert_same;
use crate::common::{Scratch, expects_reflink, has_command, is_there, not_run, sh};
use crate::stores::{Desk, after_a_tick, assert_sound, content, options, put, set_mode, status};

const PACKAGES: &str = ".venv/lib/python3.12/site-packages";

/// The files of [`environment`] that name the root, without the link.
const NAMING: [&str; 6] = [
    ".venv/pyvenv.cfg",
    ".venv/bin/activate",
    ".venv/bin/app",
    ".venv/lib/python3.12/site-packages/app.pth",
    ".venv/lib/python3.12/site-packages/__editable___app_finder.py",
    ".venv/lib/python3.12/site-packages/app-1.dist-info/direct_url.json",
];

/// The text of a file that names `root`.
fn text(path: &str, root: &Path) -> String {
    let root = root.display();
    match path.rsplit('/').next().unwrap() {
        "pyvenv.cfg" => {
            format!("home = /usr/bin\ncommand = /usr/bin/python3 -m venv {root}/.venv\n")
        }
        "activate" => format!("VIRTUAL_ENV='{root}/.venv'\nexport VIRTUAL_ENV\n"),
        "app" => format!("#!{root}/.venv/bin/python\nimport app\n"),
        "app.pth" => format!("{root}/src\n"),
        "direct_url.json" => format!("{{\"url\": \"file://{root}\"}}"),
        _ => format!("MAPPING = {{'app': '{root}/src/app'}}\n"),
    }
}

fn sha256(path: &Path) -> String {
    let script = "
import base64, hashlib, sys
data = open(sys.argv[1], 'rb').read()
hash = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')
print(f'sha256={hash},{len(data)}', end='')";
    sh(std::process::Command::new("python3").args(["-c", script]).arg(path))
}

/// The lines of `RECORD` that tools compare.
fn record(root: &Path) -> String {
    let line = |name: &str, path: &str| format!("{name},{}\n", sha256(&root.join(path)));
    let mut text = line("../../../bin/app", NAMING[2]);
    text.push_str(&line("app.pth", NAMING[3]));
    text.push_str("app/__init__.py,sha256=AAAA,5\n");
    text.push_str(&line("app-1.dist-info/direct_url.json", NAMING[5]));
    text
}

fn record_path() -> String {
    format!("{PACKAGES}/app-1.dist-info/RECORD")
}

/// A project with a Python environment, and with other files that name its root.
fn environment(root: &Path) {
    for path in NAMING {
        put(root, path, text(path, root));
    }
    set_mode(&root.join(NAMING[2]), 0o755);
    put(root, &record_path(), record(root));
    put(root, "src/app/__init__.py", "print(1)\n");
    put(root, "build/CMakeCache.txt", format!("HOME:INTERNAL={}\n", root.display()));
    put(root, "notes", format!("{}2 is another\n", root.display()));
    symlink(root.join("src/app"), root.join("link")).unwrap();
    // A repository below belongs to somebody else.
    put(root, "other/.git/HEAD", "ref: refs/heads/main\n");
    put(root, "other/.venv/pyvenv.cfg", text("pyvenv.cfg", root));
    // A folder that only looks like an environment.
    put(root, "tools/bin/run", format!("#!{}/.venv/bin/python\n", root.display()));
}

fn desk() -> Desk {
    let desk = Desk::new(environment);
    after_a_tick();
    desk
}

fn read(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap()
}

/// Every file names `root`, except that files of git and of others name the project.
fn assert_names(root: &Path, project: &Path, what: &str) {
    for path in NAMING {
        assert_eq!(read(root, path), text(path, root), "{what}: {path}");
    }
    assert_eq!(read(root, &record_path()), record(root), "{what}: RECORD");
    assert_eq!(fs::read_link(root.join("link")).unwrap(), root.join("src/app"), "{what}: link");
    assert_eq!(read(root, "other/.venv/pyvenv.cfg"), text("pyvenv.cfg", project), "{what}");
    assert!(read(root, "tools/bin/run").contains(project.to_str().unwrap()), "{what}");
}

fn capture(worktree: &Worktree) -> SnapshotId {
    worktree.capture(&SnapshotOptions::new(), &options()).unwrap().id
}

fn mention(mentions: &[PathMention], path: &str) -> Option<(PathKind, Option<PathKept>)> {
    let found = mentions.iter().find(|mention| mention.path == Path::new(path))?;
    Some((found.kind, found.kept))
}

/// Gives every file another change time, so that the index vouches for none.
fn touch_all(root: &Path) {
    after_a_tick();
    sh(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(root));
    let script = "find \"$0\" -path '*/.calve' -prune -o -type f -exec sh -c 'for f; do m=$(stat -c %a \"$f\"); chmod 600 \"$f\"; chmod \"$m\" \"$f\"; done' sh {} +";
    sh(std::process::Command::new("bash").args(["-c", script]).arg(root));
    after_a_tick();
}

#[test]
fn a_fresh_worktree_names_itself_and_is_clean_also_when_every_file_is_read_again() {
    let desk = desk();
    let before = content(&desk.project);
    let report = desk.start(&["one", "two"]);
    for started in &report.worktrees {
        let root = &started.report.path;
        assert_names(root, &desk.project, &started.name);
        for path in NAMING.iter().copied().chain(["link"]) {
            let (_, kept) = mention(&started.mentions, path).unwrap();
            assert_eq!(kept, None, "{path}");
        }
        for (path, expected) in [
            ("build/CMakeCache.txt", Some((PathKind::Build, Some(PathKept::UnknownFormat)))),
            ("tools/bin/run", Some((PathKind::Other, Some(PathKept::UnknownFormat)))),
            (
                "other/.venv/pyvenv.cfg",
                Some((PathKind::EnvironmentConfig, Some(PathKept::OtherRepository))),
            ),
        ] {
            assert_eq!(mention(&started.mentions, path), expected, "{path}");
        }
        let worktree = desk.store.worktree(&started.name).unwrap();
        assert_eq!(status(&worktree), [""; 0]);
        touch_all(root);
        assert_eq!(status(&worktree), [""; 0], "read again");
        assert_eq!(Some(capture(&worktree)), report.snapshot, "nothing to capture");
        // An entry that differs only in the root has the same metadata, too.
        for path in [NAMING[2], NAMING[3]] {
            let (here, there) = (root.join(path), desk.project.join(path));
            let (here, there) = (fs::metadata(here).unwrap(), fs::metadata(there).unwrap());
            assert_eq!(
                (here.mode(), here.mtime(), here.mtime_nsec()),
                (there.mode(), there.mtime(), there.mtime_nsec())
            );
        }
    }
    assert_same(&before, &content(&desk.project), "the project");
    // Two modules of one size must not be one for Python, which compares size and time.
    let time = |name: &str| fs::metadata(desk.folder().join(name).join(NAMING[4])).unwrap().mtime();
    let project = fs::metadata(desk.project.join(NAMING[4])).unwrap().mtime();
    assert!(time("one") != time("two") && time("one") != project && time("two") != project);
    assert_sound(&desk.store);
}

#[test]
fn a_capture_has_what_the_project_would_have_and_means_the_third_place() {
    let desk = desk();
    desk.start(&["one", "two"]);
    let (one, two) = (desk.store.worktree("one").unwrap(), desk.store.worktree("two").unwrap());
    for worktree in [&one, &two] {
        // Like an install, which writes the worktree's path.
        let root = worktree.path();
        put(root, ".venv/bin/tool", format!("#!{}/.venv/bin/python\nnew\n", root.display()));
        put(root, &format!("{PACKAGES}/tool.pth"), format!("{}/lib\n", root.display()));
        put(root, "src/app/__init__.py", "print(2)\n");
        fs::remove_file(root.join("link")).unwrap();
        symlink(root.join("src"), root.join("link")).unwrap();
        let changes = [
            "A .venv/bin/tool",
            &format!("A {PACKAGES}/tool.pth"),
            "M link",
            "M src/app/__init__.py",
        ];
        assert_eq!(status(worktree), changes);
        let mut patch = Vec::new();
        worktree.diff(&options()).unwrap().patch(&mut patch).unwrap();
        let patch = String::from_utf8(patch).unwrap();
        assert!(!patch.contains(root.to_str().unwrap()), "{patch}");
        assert!(patch.contains(&format!("+#!{}/.venv/bin/python", desk.project.display())));
        after_a_tick();
    }
    let (first, second) = (capture(&one), capture(&two));
    // They have other times, but are equal otherwise, so there is nothing to change.
    let there = one.switch(second, &SwitchOptions::new(), &options()).unwrap();
    assert_eq!(status(&one), [""; 0]);
    assert_eq!(status(&two), [""; 0]);
    assert!(there.kept.is_empty());
    let three = desk.from("three", first);
    let root = three.path();
    assert_eq!(
        read(root, ".venv/bin/tool"),
        format!("#!{}/.venv/bin/python\nnew\n", root.display())
    );
    assert_eq!(read(root, &format!("{PACKAGES}/tool.pth")), format!("{}/lib\n", root.display()));
    assert_eq!(fs::read_link(root.join("link")).unwrap(), root.join("src"));
    assert_eq!(status(&three), [""; 0]);
    // The project gets it as its own.
    let project = desk.store.project_worktree().unwrap();
    project.switch(first, &SwitchOptions::new(), &options()).unwrap();
    let tool = format!("#!{}/.venv/bin/python\nnew\n", desk.project.display());
    assert_eq!(read(&desk.project, ".venv/bin/tool"), tool);
    assert_sound(&desk.store);
}

#[test]
fn switch_reset_restore_and_undo_keep_it_true() {
    let desk = desk();
    let first = desk.snapshot();
    for path in NAMING {
        put(&desk.project, path, text(path, &desk.project) + "# second\n");
    }
    put(&desk.project, &record_path(), record(&desk.project));
    let other = desk.snapshot();
    let worktree = desk.from("one", first);
    let root = worktree.path().to_owned();
    let second = |what: &str| {
        for path in NAMING {
            assert_eq!(read(&root, path), text(path, &root) + "# second\n", "{what}: {path}");
        }
        assert_eq!(read(&root, &record_path()), record(&root), "{what}");
        assert_eq!(status(&worktree), [""; 0], "{what}");
    };
    worktree.switch(other, &SwitchOptions::new(), &options()).unwrap();
    second("switched");
    after_a_tick();
    for path in NAMING {
        put(&root, path, "by hand");
    }
    fs::remove_file(root.join("link")).unwrap();
    worktree.reset(&options()).unwrap();
    second("reset");
    worktree.undo(&options()).unwrap();
    assert_eq!(read(&root, NAMING[2]), "by hand");
    worktree.reset(&options()).unwrap();
    touch_all(&root);
    // Only times differ now: the files are mended, not made again.
    worktree.reset(&options()).unwrap();
    second("reset again");
    worktree.switch(first, &SwitchOptions::new(), &options()).unwrap();
    assert_names(&root, &desk.project, "switched back");
    assert_eq!(status(&worktree), [""; 0]);
    fs::remove_dir_all(&root).unwrap();
    worktree.restore(GitMode::None, &options()).unwrap();
    assert_names(&root, &desk.project, "restored");
    assert_eq!(status(&worktree), [""; 0]);
}

#[test]
fn a_dropped_worktree_that_comes_back_under_another_name_names_its_new_place() {
    let desk = desk();
    let worktree = desk.worktree("one");
    put(worktree.path(), "src/work", "work");
    let _kept = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
    let back = desk.store.restore_dropped("one", "another").unwrap();
    assert_eq!(read(back.path(), NAMING[3]), text(NAMING[3], back.path()));
    assert_names(back.path(), &desk.project, "back");
    assert_eq!(status(&back), ["A src/work"]);
}

#[test]
fn a_worktree_that_was_moved_names_its_new_place_as_soon_as_a_command_runs_in_it() {
    let desk = desk();
    let worktree = desk.worktree("one");
    put(
        worktree.path(),
        ".venv/bin/own",
        format!("#!{}/.venv/bin/python\n", worktree.path().display()),
    );
    for name in ["elsewhere", "a much longer name than before", "two"] {
        let from = desk.store.worktree("one").unwrap().path().to_owned();
        let to = desk.folder().join(name);
        fs::rename(&from, &to).unwrap();
        let found = Store::discover(&to).unwrap().worktree().unwrap();
        assert_eq!(found.path(), to);
        let script = match name.contains(' ') {
            true => format!(
                "#!/bin/sh\n'''exec' \"{}/.venv/bin/python\" \"$0\" \"$@\"\n' '''\n",
                to.display()
            ),
            false => format!("#!{}/.venv/bin/python\n", to.display()),
        };
        assert_eq!(read(&to, ".venv/bin/own"), script);
        assert_eq!(read(&to, NAMING[3]), text(NAMING[3], &to));
        assert_eq!(fs::read_link(to.join("link")).unwrap(), to.join("src/app"));
        assert_eq!(status(&found), ["A .venv/bin/own"], "{name}");
    }
    assert_names(&desk.folder().join("two"), &desk.project, "moved");
    let captured = capture(&desk.store.worktree("one").unwrap());
    let three = desk.from("three", captured);
    let own = format!("#!{}/.venv/bin/python\n", three.path().display());
    assert_eq!(read(three.path(), ".venv/bin/own"), own);
}

#[test]
fn what_cannot_be_given_back_as_it_was_is_left_alone_and_named() {
    let scratch = Scratch::new();
    let (project, folder) = (scratch.join("app"), scratch.join("app2"));
    put(&project, ".venv/pyvenv.cfg", "home = /usr/bin\n");
    let one = folder.join("one");
    type Row = (&'static str, Vec<u8>, Option<Vec<u8>>);
    let rows: [Row; 5] = [
        (
            "both",
            format!("#!{}/bin/python\n# {}\n", project.display(), one.display()).into(),
            Some(format!("#!{}/bin/python\n# {}\n", one.display(), one.display()).into()),
        ),
        ("prefix", format!("#!{}2/bin/python\n", project.display()).into(), None),
        (
            "binary",
            [b"\0#!", project.as_os_str().as_encoded_bytes(), b"/bin/python\n"].concat(),
            None,
        ),
        ("activate", format!("A='{}'\nB='{}'\n", project.display(), one.display()).into(), None),
        (
            "crlf",
            format!("#!{}/bin/python\r\n", project.display()).into(),
            Some(format!("#!{}/bin/python\r\n", one.display()).into()),
        ),
    ];
    for (name, text, _) in &rows {
        put(&project, &format!(".venv/bin/{name}"), text);
    }
    let names = [".venv/bin/first", ".venv/bin/second"];
    put(&project, names[0], format!("#!{}/bin/python\n", project.display()));
    fs::hard_link(project.join(names[0]), project.join(names[1])).unwrap();
    after_a_tick();
    let store = Store::init(&project).unwrap();
    let at = StartOptions::new().at(&folder);
    let report = store.start(&["one"], &at, &StoreOptions::new()).unwrap();
    let mentions = &report.worktrees[0].mentions;
    for (name, text, expected) in &rows {
        let path = format!(".venv/bin/{name}");
        let found = fs::read(one.join(&path)).unwrap();
        assert_eq!(&found, expected.as_ref().unwrap_or(text), "{name}");
    }
    let left = Some((PathKind::Activation, Some(PathKept::NotTranslatable)));
    assert_eq!(mention(mentions, ".venv/bin/activate"), left);
    // One file with two names stays one.
    let inode = |name: &str| fs::metadata(one.join(name)).unwrap().ino();
    assert_eq!(inode(names[0]), inode(names[1]));
    let left = Some((PathKind::Script, Some(PathKept::NotTranslatable)));
    assert_eq!(mention(mentions, names[0]), left);
    let worktree = store.worktree("one").unwrap();
    assert_eq!(status(&worktree), [""; 0]);
    touch_all(&one);
    assert_eq!(status(&worktree), [""; 0], "read again");
    // Edited by hand, with both paths in it: the first line is the worktree's, the rest is kept.
    put(
        &one,
        ".venv/bin/crlf",
        format!("#!{}/bin/python\n# {}\n", one.display(), project.display()),
    );
    assert_eq!(status(&worktree), ["M .venv/bin/crlf"]);
    let id = capture(&worktree);
    store.start(&["two"], &at.from(id), &StoreOptions::new()).unwrap();
    let two = folder.join("two");
    let expected = format!("#!{}/bin/python\n# {}\n", two.display(), project.display());
    assert_eq!(read(&two, ".venv/bin/crlf"), expected);
}

#[test]
fn files_that_git_tracks_are_never_rewritten() {
    if !has_command("git") {
        return not_run("files_that_git_tracks_are_never_rewritten", "there is no git");
    }
    let desk = desk();
    script(
        &desk.project,
        "rm -rf other; git init -q -b main; git add -f .venv/bin/app src; git commit -qm one",
    );
    after_a_tick();
    desk.snapshot();
    // git may come to track a file after it was found.
    script(&desk.project, "git add -f link; git commit -qm two");
    let report = desk.start(&["one"]);
    let root = &report.worktrees[0].report.path;
    for path in [NAMING[2], "link"] {
        let (_, kept) = mention(&report.worktrees[0].mentions, path).unwrap();
        assert_eq!(kept, Some(PathKept::Tracked), "{path}");
    }
    assert_eq!(read(root, NAMING[2]), text(NAMING[2], &desk.project));
    assert_eq!(fs::read_link(root.join("link")).unwrap(), desk.project.join("src/app"));
    assert_eq!(read(root, NAMING[3]), text(NAMING[3], root));
    let worktree = desk.store.worktree("one").unwrap();
    assert_eq!(status(&worktree), [""; 0]);
    let changed = sh(git(root).args(["diff", "--name-only"]));
    assert_eq!(changed, "", "git sees no change");
    // A tracked file that names the worktree is kept as it is.
    put(root, NAMING[2], text(NAMING[2], root));
    after_a_tick();
    let two = desk.from("two", capture(&worktree));
    assert_eq!(read(two.path(), NAMING[2]), text(NAMING[2], root));
}

#[test]
fn a_worktree_that_keeps_all_paths_has_the_files_as_the_project_has_them() {
    let desk = desk();
    let keep = StartOptions::new().paths(PathMode::Keep);
    let report = desk.store.start(&["one"], &keep, &StoreOptions::new()).unwrap();
    let root = &report.worktrees[0].report.path;
    assert_same(&content(&desk.project), &content(root), "kept");
    let mentions = &report.worktrees[0].mentions;
    assert_eq!(mention(mentions, NAMING[2]), Some((PathKind::Script, Some(PathKept::Wanted))));
    let worktree = desk.store.worktree("one").unwrap();
    touch_all(root);
    assert_eq!(status(&worktree), [""; 0]);
    // A start from its capture gets its own paths.
    put(root, "src/new", "new");
    let two = desk.from("two", capture(&worktree));
    assert_names(two.path(), &desk.project, "from a capture");
    // It keeps them when it is made again, too.
    fs::remove_dir_all(root).unwrap();
    let restored = worktree.restore(GitMode::None, &options()).unwrap();
    assert_eq!(mention(&restored.mentions, NAMING[2]).unwrap().1, Some(PathKept::Wanted));
    assert_eq!(read(root, NAMING[2]), text(NAMING[2], &desk.project));
    let noted = || fs::read_dir(desk.store.path().join("keep-paths")).unwrap().count();
    assert_eq!(noted(), 1);
    let _kept = worktree.drop(&DropOptions::new().force(true), &options()).unwrap();
    desk.store.gc(&GcOptions::new().dropped(std::time::Duration::ZERO), &options()).unwrap();
    assert_eq!(noted(), 0);
}

#[test]
fn what_was_found_is_found_again_if_the_store_lost_it() {
    let desk = desk();
    let id = desk.snapshot();
    let found = desk.store.path().join("found");
    assert_eq!(fs::read_dir(&found).unwrap().count(), 1);
    for (name, damage) in [("lost", None), ("damaged", Some("calve found 1\0/x\0"))] {
        match damage {
            None => fs::remove_dir_all(&found).unwrap(),
            Some(text) => fs::write(found.join(id.to_string()), text).unwrap(),
        }
        let worktree = desk.from(name, id);
        assert_names(worktree.path(), &desk.project, name);
        assert_eq!(status(&worktree), [""; 0]);
    }
}

#[test]
fn a_clone_can_be_given_its_own_paths_and_a_tree_says_which_files_name_it() {
    let desk = desk();
    let clone = desk.scratch.join("a clone");
    calve::clone_tree(
        &desk.project,
        std::slice::from_ref(&clone),
        &calve::CloneOptions::new().exclude(".calve"),
    )
    .unwrap();
    assert_eq!(read(&clone, NAMING[2]), text(NAMING[2], &desk.project), "a clone is exact");
    let mentions = rewrite_paths(&clone, &desk.project).unwrap();
    assert_eq!(mention(&mentions, NAMING[3]), Some((PathKind::PathFile, None)));
    assert_eq!(read(&clone, NAMING[3]), text(NAMING[3], &clone));
    assert_eq!(fs::read_link(clone.join("link")).unwrap(), clone.join("src/app"));
    assert_eq!(read(&clone, &record_path()), record(&clone));
    assert_eq!(read(&clone, "other/.venv/pyvenv.cfg"), text("pyvenv.cfg", &desk.project));
    desk.snapshot();
    let named: Vec<PathBuf> =
        path_mentions(&desk.project).unwrap().into_iter().map(|it| it.path).collect();
    for path in NAMING.iter().copied().chain(["link", "build/CMakeCache.txt", "tools/bin/run"]) {
        assert!(named.contains(&PathBuf::from(path)), "{path}: {named:?}");
    }
    assert!(!named.contains(&PathBuf::from("notes")));
    assert!(is_there(&clone));
}

#[test]
fn a_merge_rewrites_only_what_is_as_the_source_has_it() {
    for how in [Existing::Keep, Existing::Merge] {
        let scratch = Scratch::new();
        let [source, dest] = ["source", "dest"].map(|name| scratch.join(name));
        environment(&source);
        environment(&dest);
        let script = |root: &Path, name: &str, body: &str| {
            let shebang = format!("#!{}/.venv/bin/python\n", source.display());
            fs::write(root.join(".venv/bin").join(name), shebang + body).unwrap();
        };
        script(&source, "both", "theirs");
        script(&dest, "both", "mine");
        script(&dest, "own", "mine");
        script(&source, "new", "theirs");
        let options = CloneOptions::new().existing(how);
        calve::clone_with_own_paths(&source, &[&dest], &options).unwrap();
        let names = |name: &str| {
            let text = read(&dest, &format!(".venv/bin/{name}"));
            [&source, &dest].map(|root| text.contains(&format!("#!{}/", root.display())))
        };
        assert_eq!(names("own"), [true, false], "{how:?}");
        assert_eq!(names("new"), [false, true], "{how:?}");
        let is_kept = how == Existing::Keep;
        assert_eq!(names("both"), [is_kept, !is_kept], "{how:?}");
    }
}

/// A project whose build folders, environments and links a copy would take from the project. Each
/// row: a path, what it means there, and the tool that made it.
const MEANINGS: [(&str, PathMeaning, &str); 15] = [
    ("build/CMakeCache.txt", PathMeaning::FalseGreen, "cmake"),
    ("mb/meson-info/meson-info.json", PathMeaning::FalseGreen, "meson"),
    ("out/build.ninja", PathMeaning::FalseGreen, "ninja"),
    ("au/config.status", PathMeaning::FalseGreen, "configure"),
    (".lock-waf_linux_build", PathMeaning::FalseGreen, "waf"),
    (".pixi/envs/default/conda-meta/history", PathMeaning::FalseGreen, "pixi"),
    ("env/conda-meta/history", PathMeaning::FalseGreen, "conda"),
    (".pdm-python", PathMeaning::FalseGreen, "pdm"),
    ("bazel-bin", PathMeaning::FalseGreen, "bazel"),
    ("bazel-app", PathMeaning::FalseGreen, "bazel"),
    ("out-and-back", PathMeaning::FalseGreen, ""),
    ("src/up", PathMeaning::FalseGreen, ""),
    (".env", PathMeaning::LeadsBack, ""),
    ("tmp/pids/server.pid", PathMeaning::Living, ""),
    ("daemon/server-process.json", PathMeaning::Living, ""),
];

fn leading_back(root: &Path) {
    let at = |path: &str| root.join(path).display().to_string();
    put(root, "build/CMakeCache.txt", format!("CMAKE_HOME_DIRECTORY:INTERNAL={}\n", at("")));
    put(root, "mb/meson-info/meson-info.json", format!("{{\"source\": \"{}\"}}", at("src")));
    put(root, "out/build.ninja", format!("build a.o: cc {}\n", at("src/a.c")));
    put(root, "au/config.status", format!("srcdir='{}'\n", at("")));
    put(root, ".lock-waf_linux_build", format!("top_dir = '{}'\n", root.display()));
    put(root, ".pdm-python", at(".venv/bin/python"));
    put(root, ".env", format!("DATA={}\n", at("data")));
    for environment in [".pixi/envs/default", "env"] {
        put(root, &format!("{environment}/conda-meta/history"), "==> made <==\n");
        put(root, &format!("{environment}/bin/pip"), format!("#!{}/bin/python\n", at(environment)));
    }
    // bazel's output is elsewhere, and has links to the sources.
    let execution = root.with_file_name("cache").join("execroot/_main");
    fs::create_dir_all(execution.join("bin")).unwrap();
    fs::create_dir_all(root.join("src")).unwrap();
    symlink(root.join("src"), execution.join("src")).unwrap();
    symlink(execution.join("bin"), root.join("bazel-bin")).unwrap();
    symlink(&execution, root.join("bazel-app")).unwrap();
    symlink(execution.join("src"), root.join("out-and-back")).unwrap();
    let name = root.file_name().unwrap().to_str().unwrap();
    symlink(format!("../../{name}/build"), root.join("src/up")).unwrap();
    let pid = std::process::id();
    put(root, "tmp/pids/server.pid", format!("{pid}\n"));
    put(root, "daemon/server-process.json", format!("{{\"processId\": {pid}}}"));
    // Nothing is said of these: they look like the others, or mean no harm.
    put(root, "other/CMakeCache.txt", "CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere\n");
    put(root, "tmp/pids/gone.pid", format!("{}\n", u32::MAX));
    put(root, "history", "==> made <==\n");
    symlink("/usr", root.join("usr")).unwrap();
    let script = "target/debug/build/x-0123456789abcdef";
    put(root, &format!("{script}/root-output"), at(script));
}

#[track_caller]
fn assert_meanings(mentions: &[PathMention], what: &str) {
    for (path, meaning, tool) in MEANINGS {
        let found = mentions.iter().find(|mention| mention.path == Path::new(path));
        let found = found.unwrap_or_else(|| panic!("{what}: {path}: {mentions:?}"));
        assert_eq!((found.meaning(), found.tool()), (meaning, tool), "{what}: {path}");
        let process = (meaning == PathMeaning::Living).then(std::process::id);
        assert_eq!(found.process, process, "{what}: {path}");
    }
    for path in ["other/CMakeCache.txt", "tmp/pids/gone.pid", "history", "usr"] {
        assert_eq!(mention(mentions, path), None, "{what}");
    }
    let harms =
        |it: &&PathMention| it.path.starts_with("target") && it.meaning() != PathMeaning::Harmless;
    assert_eq!(mentions.iter().find(harms), None, "{what}");
}

#[test]
fn what_makes_a_false_green_and_what_lives_is_named_by_every_way_in() {
    let desk = Desk::new(leading_back);
    after_a_tick();
    // calve reads no content but that of the few files whose names say so.
    let report = desk
        .store
        .start(&["first"], &StartOptions::new().name_later(0), &StoreOptions::new())
        .unwrap();
    let waited = expects_reflink(Scratch::new().path());
    assert_eq!(report.snapshot.is_none(), waited);
    assert_meanings(&report.worktrees[0].mentions, "the first start");
    desk.store.name_contents(&options()).unwrap();
    let report = desk.store.start(&["next"], &StartOptions::new(), &StoreOptions::new()).unwrap();
    assert_meanings(&report.worktrees[0].mentions, "the next start");
    let pip = ".pixi/envs/default/bin/pip";
    for (path, kind) in [
        (pip, PathKind::Conda),
        ("target/debug/build/x-0123456789abcdef/root-output", PathKind::BuildRecord),
    ] {
        let expected = Some((kind, Some(PathKept::UnknownFormat)));
        assert_eq!(mention(&report.worktrees[0].mentions, path), expected, "{path}");
    }
    let first = desk.store.worktree("first").unwrap();
    for root in [first.path(), &desk.project] {
        assert_eq!(read(root, pip), read(&desk.project, pip), "conda's files stay as they are");
    }
    assert_eq!(status(&first), [""; 0]);
    assert_meanings(&path_mentions(&desk.project).unwrap(), "a look");
    let clone = desk.scratch.join("clone");
    let options = calve::CloneOptions::new().exclude(".calve");
    let (_, mentions) =
        calve::clone_with_own_paths(&desk.project, std::slice::from_ref(&clone), &options).unwrap();
    assert_meanings(&mentions[0], "a clone");
    assert_eq!(read(&clone, pip), read(&desk.project, pip));
}

/// Gives every other file of [`environment`], and the link, another spelling of the root.
fn spell(project: &Path, spelling: &Path) {
    for path in NAMING.iter().step_by(2) {
        put(project, path, text(path, spelling));
    }
    put(project, &record_path(), record(project));
    put(project, "build/CMakeCache.txt", format!("HOME:INTERNAL={}\n", spelling.display()));
    fs::remove_file(project.join("link")).unwrap();
    symlink(spelling.join("src/app"), project.join("link")).unwrap();
}

/// [`spell`]'s files name `spelling`, and the others name `root`.
fn assert_spelled(root: &Path, spelling: &Path, what: &str) {
    for (at, path) in NAMING.iter().enumerate() {
        let named = if at % 2 == 0 { spelling } else { root };
        assert_eq!(read(root, path), text(path, named), "{what}: {path}");
    }
    assert_eq!(read(root, &record_path()), record(root), "{what}: RECORD");
    let link = fs::read_link(root.join("link")).unwrap();
    assert_eq!(link.as_os_str(), spelling.join("src/app").as_os_str(), "{what}");
    assert_eq!(link.canonicalize().unwrap(), root.join("src/app"), "{what}");
}

#[test]
fn a_root_is_known_by_every_path_that_leads_to_it_through_a_link() {
    // The link, its target, the spelling of the project in files, and the spellings in a worktree
    // and in a moved worktree.
    let through_link = ["home/u/project.worktrees/one", "home/u/project.worktrees/three"];
    // Worktrees are not behind this link. A path that no other file has keeps the two apart.
    let none = ["data/u/project.worktrees/one/.", "data/u/project.worktrees/three/."];
    let rows =
        [("home", "data", "home/u/project", through_link), ("app", "data/u/project", "app", none)];
    for (link, target, spelling, [one_is, moved_is]) in rows {
        let scratch = Scratch::new();
        let at = |path: &str| PathBuf::from(format!("{}/{path}", scratch.path().display()));
        let (project, spelling) = (at("data/u/project"), at(spelling));
        environment(&project);
        symlink(at(target), at(link)).unwrap();
        spell(&project, &spelling);
        after_a_tick();
        // The store is found by the link, too.
        let store = Store::init(&spelling).unwrap();
        let before = content(&project);
        let report = store.start(&["one", "two"], &StartOptions::new(), &options()).unwrap();
        let root = at("data/u/project.worktrees/one");
        let mentions = &report.worktrees[0].mentions;
        for path in NAMING.iter().copied().chain(["link"]) {
            assert_eq!(mention(mentions, path).unwrap().1, None, "{path}");
        }
        let cache = Some((PathKind::Build, Some(PathKept::UnknownFormat)));
        assert_eq!(mention(mentions, "build/CMakeCache.txt"), cache);
        assert_spelled(&root, &at(one_is), link);
        let (one, two) = (store.worktree("one").unwrap(), store.worktree("two").unwrap());
        assert_eq!(status(&one), [""; 0]);
        touch_all(&root);
        assert_eq!(status(&one), [""; 0], "{link}: read again");
        assert_eq!(Some(capture(&one)), report.snapshot, "{link}: nothing to capture");

        // An install may write each of the worktree's paths.
        for (worktree, name) in [(&one, "one"), (&two, "two")] {
            let root = worktree.path();
            let linked =
                PathBuf::from(at(one_is).to_str().unwrap().replace("/one", &format!("/{name}")));
            put(root, ".venv/bin/tool", format!("#!{}/.venv/bin/python\n", linked.display()));
            put(root, ".venv/bin/other", format!("#!{}/.venv/bin/python\n", root.display()));
            assert_eq!(status(worktree), ["A .venv/bin/other", "A .venv/bin/tool"], "{link}");
            after_a_tick();
        }
        let (first, second) = (capture(&one), capture(&two));
        one.switch(second, &SwitchOptions::new(), &options()).unwrap();
        let tool = format!("#!{}/.venv/bin/python\n", at(one_is).display());
        assert_eq!(read(&root, ".venv/bin/tool"), tool, "{link}: both captured the same");
        assert_eq!(
            read(&root, ".venv/bin/other"),
            format!("#!{}/.venv/bin/python\n", root.display())
        );
        store.start(&["three"], &StartOptions::new().from(first), &options()).unwrap();
        let tool = read(store.worktree("three").unwrap().path(), ".venv/bin/tool");
        assert_eq!(tool, format!("#!{}/.venv/bin/python\n", at(moved_is).display()));

        // Moved.
        let moved = at("data/u/project.worktrees/moved");
        fs::rename(store.worktree("three").unwrap().path(), &moved).unwrap();
        let three = Store::discover(&moved).unwrap().worktree().unwrap();
        let moved_is = PathBuf::from(at(moved_is).to_str().unwrap().replace("/three", "/moved"));
        assert_spelled(&moved, &moved_is, "moved");
        assert_eq!(status(&three), [""; 0]);
        // The project got nothing of it.
        assert_same(&before, &content(&project), "the project");
        assert_sound(&store);
    }
}

#[test]
fn a_root_is_known_in_other_cases_of_its_letters_where_the_filesystem_ignores_case() {
    let name = "a_root_is_known_in_other_cases_of_its_letters_where_the_filesystem_ignores_case";
    for kind in IGNORING_CASE {
        let scratch = Scratch::new();
        let Some(mounted) = ignoring_case(scratch.path(), kind) else {
            not_run(name, &format!("{kind} cannot be made or mounted here"));
            continue;
        };
        let project = mounted.0.join("root/project");
        environment(&project);
        spell(&project, &mounted.0.join("ROOT/Project"));
        after_a_tick();
        let store = Store::init(&project).unwrap();
        let report = store.start(&["one"], &StartOptions::new(), &options()).unwrap();
        let root = &report.worktrees[0].report.path;
        // This driver of ntfs lists `RECORD` as `record`, which is another file for Python.
        for (at, path) in NAMING.iter().enumerate() {
            let named = if at % 2 == 0 { root.join(".") } else { root.clone() };
            assert_eq!(read(root, path), text(path, &named), "{kind}: {path}");
        }
        assert_eq!(status(&store.worktree("one").unwrap()), [""; 0], "{kind}");
    }
}

#[test]
fn a_spelling_that_comes_later_is_known_in_a_worktree_that_switches_to_it() {
    let scratch = Scratch::new();
    let (project, spelling) = (scratch.join("data/u/project"), scratch.join("home/u/project"));
    environment(&project);
    symlink(scratch.join("data"), scratch.join("home")).unwrap();
    after_a_tick();
    let store = Store::init(&project).unwrap();
    store.start(&["one"], &StartOptions::new(), &options()).unwrap();
    let one = store.worktree("one").unwrap();
    let linked = scratch.join("home/u/project.worktrees/one");
    // A path that only a file of the worktree names still belongs to the worktree.
    put(one.path(), ".venv/bin/tool", format!("#!{}/.venv/bin/python\n", linked.display()));
    after_a_tick();
    let captured = capture(&one);
    store.start(&["two"], &StartOptions::new().from(captured), &options()).unwrap();
    let tool = read(store.worktree("two").unwrap().path(), ".venv/bin/tool");
    let two = scratch.join("home/u/project.worktrees/two");
    assert_eq!(tool, format!("#!{}/.venv/bin/python\n", two.display()));

    spell(&project, &spelling);
    after_a_tick();
    let other = store.snapshot(&SnapshotOptions::new(), &options()).unwrap().id;
    one.switch(other, &SwitchOptions::new(), &options()).unwrap();
    assert_spelled(one.path(), &linked, "switched");
    assert_eq!(status(&one), [""; 0]);
    touch_all(one.path());
    assert_eq!(status(&one), [""; 0], "read again");
    // The record of the files is lost. calve finds them again, with every spelling.
    fs::remove_dir_all(store.path().join("found")).unwrap();
    store.start(&["four"], &StartOptions::new().from(other), &options()).unwrap();
    let four = store.worktree("four").unwrap();
    assert_spelled(four.path(), &scratch.join("home/u/project.worktrees/four"), "found again");
    // A clone, too.
    let clone = scratch.join("data/clone");
    calve::clone_tree(
        &project,
        std::slice::from_ref(&clone),
        &calve::CloneOptions::new().exclude(".calve"),
    )
    .unwrap();
    rewrite_paths(&clone, &project).unwrap();
    assert_spelled(&clone, &scratch.join("home/clone"), "clone");
}

#[test]
fn a_project_that_was_moved_gives_its_worktrees_what_each_snapshot_names() {
    let desk = Desk::new(|root| {
        environment(root);
        // After the move `RECORD` is read again, and would have to be translated from two roots.
        fs::remove_file(root.join(record_path())).unwrap();
    });
    after_a_tick();
    let first = desk.snapshot();
    let (earlier, project) = (desk.project.clone(), desk.scratch.join("project2"));
    fs::rename(&earlier, &project).unwrap();
    let store = Store::discover(&project).unwrap().store;
    let start = |name: &str, options: &StartOptions| {
        store.start(&[name], options, &StoreOptions::new()).unwrap();
        store.worktree(name).unwrap()
    };
    let names = |root: &Path, expected: &Path, what: &str| {
        for path in NAMING {
            assert_eq!(read(root, path), text(path, expected), "{what}: {path}");
        }
        let target = fs::read_link(root.join("link")).unwrap();
        assert_eq!(target, expected.join("src/app"), "{what}");
    };
    // A snapshot from before the move names the earlier root, which calve knows of it.
    let before = start("before", &StartOptions::new().from(first));
    names(before.path(), before.path(), "before the move");
    assert_eq!(status(&before), [""; 0]);

    // The project's own environment names a folder that is gone. The snapshot is the same, so calve
    // still knows its root.
    let moved = start("moved", &StartOptions::new());
    names(moved.path(), moved.path(), "moved");
    assert_eq!(status(&moved), [""; 0]);
    // In another snapshot, files that nobody touched since are the same as in the project.
    put(&project, "src/new", "new");
    let broken = start("broken", &StartOptions::new());
    names(broken.path(), &earlier, "broken, as the project is");
    for worktree in [&moved, &broken] {
        touch_all(worktree.path());
        assert_eq!(status(worktree), [""; 0], "read again");
    }

    // The environment is made again, with one file still of the earlier root.
    for path in NAMING {
        put(&project, path, text(path, &project));
    }
    fs::remove_file(project.join("link")).unwrap();
    symlink(project.join("src/app"), project.join("link")).unwrap();
    put(&project, ".venv/bin/late", text("app", &earlier));
    after_a_tick();
    let after = start("after", &StartOptions::new());
    names(after.path(), after.path(), "made again");
    assert_eq!(read(after.path(), ".venv/bin/late"), text("app", &earlier));
    assert_eq!(status(&after), [""; 0]);
    touch_all(after.path());
    assert_eq!(status(&after), [""; 0], "read again");

    // A capture of a worktree of either root names the third place.
    for (name, worktree) in [("third", &before), ("fourth", &after)] {
        let root = worktree.path();
        put(root, ".venv/bin/tool", text("app", root));
        after_a_tick();
        let captured = capture(worktree);
        let next = start(name, &StartOptions::new().from(captured));
        names(next.path(), next.path(), name);
        assert_eq!(read(next.path(), ".venv/bin/tool"), text("app", next.path()));
        assert_eq!(status(&next), [""; 0], "{name}");
    }
    // A switch between snapshots of different roots leaves the worktree clean.
    let there = store.snapshot(&SnapshotOptions::new(), &options()).unwrap().id;
    before.switch(there, &SwitchOptions::new().force(true), &options()).unwrap();
    assert_eq!(status(&before), [""; 0]);
    touch_all(before.path());
    assert_eq!(status(&before), [""; 0], "switched, and read again");
    assert_sound(&store);
}

#[test]
fn a_script_that_was_edited_by_hand_makes_its_line_in_record_untrue_and_no_other_line() {
    let desk = desk();
    let worktree = desk.worktree("one");
    let root = worktree.path();
    let line = |root: &Path, name: &str| {
        let text = read(root, &record_path());
        text.lines().find(|line| line.starts_with(name)).unwrap().to_owned()
    };
    let edited = text("app", root) + "# by hand\n";
    put(root, NAMING[2], &edited);
    assert_eq!(status(&worktree), [format!("M {}", NAMING[2])]);
    let captured = capture(&worktree);
    // The third place gets the edit. The line of the script is true nowhere; the other lines are
    // true.
    let two = desk.from("two", captured);
    assert_eq!(read(two.path(), NAMING[2]), text("app", two.path()) + "# by hand\n");
    let untrue = line(two.path(), "../../../bin/app");
    assert!(!untrue.contains(&sha256(&two.path().join(NAMING[2]))), "{untrue}");
    for (name, path) in [("app.pth", NAMING[3]), ("app-1.dist-info/direct_url.json", NAMING[5])] {
        let expected = format!("{name},{}", sha256(&two.path().join(path)));
        assert_eq!(line(two.path(), name), expected);
    }
    assert_eq!(status(&two), [""; 0]);
    // Read again, nothing but `RECORD` may be another.
    touch_all(two.path());
    let changes = status(&two);
    assert!(changes.iter().all(|change| change.ends_with("RECORD")), "{changes:?}");
    // Like an install, which makes it correct again.
    put(two.path(), &record_path(), record(two.path()));
    after_a_tick();
    let three = desk.from("three", capture(&two));
    assert_eq!(read(three.path(), &record_path()), record(three.path()));
    assert_eq!(status(&three), [""; 0]);
    assert_sound(&desk.store);
}

#[test]
fn a_link_from_outside_that_leads_into_the_project_stays_as_it_is_and_shows_no_change() {
    let scratch = Scratch::new();
    let (project, inside) = (scratch.join("app"), scratch.join("env"));
    put(&project, ".venv/pyvenv.cfg", "home = /usr/bin\n");
    symlink(project.join(".venv"), &inside).unwrap();
    let script = format!("#!{}/bin/python\n", inside.display());
    put(&project, ".venv/bin/tool", &script);
    put(&project, ".venv/bin/own", format!("#!{}/.venv/bin/python\n", project.display()));
    symlink(inside.join("bin/tool"), project.join("through")).unwrap();
    after_a_tick();
    let store = Store::init(&project).unwrap();
    store.start(&["one"], &StartOptions::new(), &options()).unwrap();
    let worktree = store.worktree("one").unwrap();
    let root = worktree.path();
    assert_eq!(read(root, ".venv/bin/tool"), script);
    assert_eq!(fs::read_link(root.join("through")).unwrap(), inside.join("bin/tool"));
    let own = format!("#!{}/.venv/bin/python\n", root.display());
    assert_eq!(read(root, ".venv/bin/own"), own);
    assert_eq!(status(&worktree), [""; 0]);
    touch_all(root);
    assert_eq!(status(&worktree), [""; 0], "read again");
}

//! Promise: a git worktree that another tool made gets the files that the project has beside
//! tracked files. No content in it changes, and git and build tools see its true state.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use calve::{ErrorKind, FillOptions, FillReport, Operation, PathKept, fill};

use crate::common;
use crate::common::git::{
    Dice, FILES, PROJECT, edit, entries, not_ready, rounds, script, status, truth,
};
use crate::common::snapshot::{Entry, assert_same, only, snapshot};
use crate::common::{Scratch, expects_reflink, has_command, is_there, names, not_run, sh};
use crate::stores::{options, put};

/// Files that git ignores in the project, and untracked files.
const BESIDE: &str = "
    printf '/target\\n/node_modules\\n.env\\n*.o\\n/.trees\\n' >.gitignore
    git add .gitignore; git commit -qm ignores
    mkdir -p target/debug node_modules/pkg/.git; echo built >target/debug/out; echo pkg >node_modules/pkg/index
    echo secret >.env; echo object >src/a.o; ln -s pkg node_modules/link
    echo untracked >untracked
    tick
";

struct Desk {
    scratch: Scratch,
    project: PathBuf,
}

impl Desk {
    /// A project with two commits, made by `git init INIT` and then a script; and a worktree of git
    /// that is called `tree`.
    fn new(init: &str, text: &str, add: &str) -> Self {
        let scratch = Scratch::new();
        let project = scratch.join("project");
        fs::create_dir(&project).unwrap();
        script(
            &project,
            &format!(
                "git init -q -b main {init} .\n{PROJECT}\n{BESIDE}\n{text}\ngit status >/dev/null; tick
                git worktree add -q {add} ../tree; tick"
            ),
        );
        Self { scratch, project }
    }

    fn tree(&self) -> PathBuf {
        self.scratch.join("tree")
    }

    fn fill(&self, how: &FillOptions) -> FillReport {
        fill(self.tree(), how, &options()).unwrap()
    }
}

fn stamp(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_worktree_that_git_made_is_ready_at_the_same_commit_and_at_another() {
    for (what, init, before, add, same) in [
        ("the same commit", "", "", "-b tree", true),
        (
            "another commit",
            "",
            "echo two >src/a; git commit -qam two; rm -f late",
            "--detach",
            true,
        ),
        ("version 4", "", "git config index.version 4", "-b tree", true),
        ("SHA-256", "--object-format=sha256", "", "-b tree", true),
        // git's second file with entries is not read.
        (
            "split",
            "",
            "git config core.splitIndex true; git update-index --split-index",
            "-b tree",
            false,
        ),
    ] {
        let commit = if what == "another commit" { "HEAD~1" } else { "" };
        let desk = Desk::new(init, before, add);
        let (project, tree) = (&desk.project, desk.tree());
        if !commit.is_empty() {
            script(&tree, &format!("git checkout -q {commit}; tick"));
        }
        let report = desk.fill(&FillOptions::new());
        assert_eq!((&report.path, &report.from), (&tree, project), "{what}");
        for (path, content) in [
            ("target/debug/out", "built\n"),
            ("node_modules/pkg/index", "pkg\n"),
            ("node_modules/link/index", "pkg\n"),
            (".env", "secret\n"),
            ("src/a.o", "object\n"),
        ] {
            assert_eq!(read(tree.join(path)), content, "{what}: {path}");
            assert_eq!(stamp(&tree.join(path)), stamp(&project.join(path)), "{what}: {path}");
        }
        assert!(!is_there(&tree.join("untracked")), "{what}");
        assert_eq!(status(&tree), truth(&tree), "{what}");
        assert!(status(&tree).lines().all(|line| line.starts_with("# ")), "{what}");
        let tracked = report.shared_files + report.timed_files;
        if !same {
            assert_eq!((tracked, report.renewed_files), (0, 0), "{what}");
            continue;
        }
        // All but a link, and the file that differs.
        let differ = u64::from(!commit.is_empty());
        assert_eq!(
            (tracked, report.renewed_files),
            (entries(&tree) - 1 - differ, differ),
            "{what}"
        );
        assert_eq!(report.timed_files == 0, expects_reflink(&tree), "{what}");
        // git may have written the file that differs in the tick in which it wrote the index: then
        // nothing vouches for it.
        let left = not_ready(&tree);
        assert!(left.is_empty() || differ == 1 && left == "src/a\n", "{what}: {left}");
        for path in ["a", "src/b", "run.sh", "empty", "with space"] {
            assert_eq!(stamp(&tree.join(path)), stamp(&project.join(path)), "{what}: {path}");
        }
        assert_eq!(read(tree.join("src/a")), "in src/a\n", "{what}");
        assert_eq!(stamp(&tree.join("src/a")) > stamp(&tree.join("src/b")), differ == 1, "{what}");

        // A mode of its own is the user's.
        script(&tree, "touch a; chmod 600 a; tick");
        desk.fill(&FillOptions::new());
        assert_eq!(fs::metadata(tree.join("a")).unwrap().mode() & 0o777, 0o600, "{what}");
        assert_eq!(stamp(&tree.join("a")), stamp(&project.join("a")), "{what}");
        assert_eq!(status(&tree), truth(&tree), "{what}");

        // The second time there is nothing to do.
        let inside = |tree: &Path| only(&snapshot(tree), |path, _| !path.as_os_str().is_empty());
        let before = inside(&tree);
        let again = desk.fill(&FillOptions::new());
        let done =
            (again.carried_files, again.shared_files, again.timed_files, again.renewed_files);
        assert_eq!((done, again.ready_index_entries), ((0, 0, 0, 0), 0), "{what}");
        assert_same(&before, &inside(&tree), what);
    }
}

#[test]
fn nothing_that_is_there_gets_another_content_and_git_says_what_it_said() {
    for seed in rounds(6) {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let desk = Desk::new("", "", "-b tree");
        let (project, tree) = (&desk.project, desk.tree());
        let mut story = Vec::new();
        for _ in 0..8 {
            let root = [project, &tree][dice.roll(2)];
            let (name, kind) = (FILES[dice.roll(FILES.len())], dice.roll(14));
            story.push(format!(
                "{} {name} in {}",
                edit(root, name, kind, &mut dice),
                root.display()
            ));
        }
        put(&tree, "mine", "mine");
        put(&tree, ".env", "mine");
        common::git::tick();
        let was = truth(&tree);
        let content = |root: &Path| only(&snapshot(root), |path, _| !path.starts_with(".git"));
        let (before, theirs) = (content(&tree), content(project));
        let told = status(&tree);
        desk.fill(&FillOptions::new().untracked());
        if told != was {
            // git itself is wrong about an edit within a tick of the clock.
            continue;
        }
        let after = content(&tree);
        for (path, entry) in &before {
            let now = &after[path];
            let what = |it: &Entry| (it.kind, it.mode, it.content, it.target.clone());
            assert_eq!(what(now), what(entry), "{seed}: {}: {story:?}", path.display());
        }
        let lines = |text: &str| {
            text.lines()
                .filter(|line| !line.starts_with("? "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(&status(&tree)), lines(&was), "{seed}: {story:?}");
        assert_eq!(status(&tree), truth(&tree), "{seed}: {story:?}");
        assert_same(&theirs, &content(project), "the project");
    }
}

#[test]
fn what_is_carried_is_what_git_ignores_in_both_or_what_is_asked_for() {
    let all = ["target/debug/out", "node_modules/pkg/index", ".env", "src/a.o"];
    let include = "echo '.env' >.worktreeinclude; echo 'node_modules/' >>.worktreeinclude; echo a >>.worktreeinclude";
    for (what, text, in_tree, how, carried, not_ignored) in [
        ("all", "", "", FillOptions::new(), &all[..], &[][..]),
        (
            "untracked files, too",
            "mkdir new; echo n >new/n; git init -q new/repository",
            "",
            FillOptions::new().untracked(),
            &[
                "target/debug/out",
                "node_modules/pkg/index",
                ".env",
                "src/a.o",
                "untracked",
                "new/n",
            ],
            &[],
        ),
        (
            "what a file of patterns matches",
            include,
            "",
            FillOptions::new().include_from(".worktreeinclude"),
            &["node_modules/pkg/index", ".env"],
            &[],
        ),
        (
            "not what git does not ignore there",
            "",
            "echo .env >.gitignore",
            FillOptions::new(),
            &[".env"],
            &["node_modules/", "src/a.o", "target/"],
        ),
        (
            "not over something else",
            "",
            "ln -s ../project/node_modules node_modules; echo file >target",
            FillOptions::new(),
            &[".env", "src/a.o"],
            &[],
        ),
    ] {
        let desk = Desk::new("", text, "-b tree");
        let tree = desk.tree();
        script(&tree, in_tree);
        let report = desk.fill(&how);
        for path in all.iter().chain(&["untracked", "new/n"]) {
            let arrived =
                fs::canonicalize(tree.join(path)).is_ok_and(|real| real.starts_with(&tree));
            assert_eq!(arrived, carried.contains(path), "{what}: {path}");
        }
        assert_eq!(
            report.not_ignored,
            not_ignored.iter().map(PathBuf::from).collect::<Vec<_>>(),
            "{what}"
        );
        let left: Vec<String> =
            names(&tree).into_iter().filter(|name| name.starts_with(".calve")).collect();
        assert_eq!(left, [""; 0], "{what}");
    }
}

#[test]
fn what_a_calveignore_names_is_not_carried() {
    let desk = Desk::new(
        "",
        "printf '.env\n/target/*\n!/target/debug\n' >.calveignore; echo 'index' >node_modules/pkg/.calveignore
        mkdir -p target/release/deps; echo fast >target/release/deps/a; echo late >node_modules/pkg/late",
        "-b tree",
    );
    desk.fill(&FillOptions::new());
    for (path, expected) in [
        (".env", false),
        ("target/debug/out", true),
        ("target/release", false),
        ("node_modules/pkg/index", false),
        ("node_modules/pkg/late", true),
        ("src/a.o", true),
    ] {
        assert_eq!(is_there(&desk.tree().join(path)), expected, "{path}");
    }
    fs::write(desk.project.join("node_modules/pkg/.calveignore"), "# nothing\n").unwrap();
    desk.fill(&FillOptions::new());
    assert!(is_there(&desk.tree().join("node_modules/pkg/index")));
}

#[test]
fn an_environment_that_is_carried_names_the_worktree() {
    let text = "
        printf '/.venv\\n' >>.gitignore; git commit -qam venv
        mkdir -p .venv/bin; printf 'home = /usr/bin\\ncommand = python3 -m venv %s/.venv\\n' $PWD >.venv/pyvenv.cfg
        printf 'VIRTUAL_ENV=%s/.venv\\nexport VIRTUAL_ENV\\n' $PWD >.venv/bin/activate; ln -s $PWD/src .venv/src
        echo $PWD >.env; mkdir build; echo HOME=$PWD >build/CMakeCache.txt; echo /build >>.git/info/exclude";
    let desk = Desk::new("", text, "-b other");
    let (tree, project) = (desk.tree(), &desk.project);
    let report = desk.fill(&FillOptions::new());
    let told: Vec<_> = report.mentions.iter().map(|it| (it.path.clone(), it.kept)).collect();
    let unknown = Some(PathKept::UnknownFormat);
    let still = [(".env", unknown), ("build/CMakeCache.txt", unknown)];
    let now = [(".venv/bin/activate", None), (".venv/pyvenv.cfg", None), (".venv/src", None)];
    let expected: BTreeSet<_> =
        still.iter().chain(&now).map(|(path, kept)| (PathBuf::from(path), *kept)).collect();
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
    let activate = format!("VIRTUAL_ENV={}/.venv\nexport VIRTUAL_ENV\n", tree.display());
    assert_eq!(read(tree.join(".venv/bin/activate")), activate);
    assert_eq!(fs::read_link(tree.join(".venv/src")).unwrap(), tree.join("src"));
    // What calve does not know the format of stays, and the project is as it was.
    assert_eq!(read(tree.join(".env")), format!("{}\n", project.display()));
    assert_eq!(fs::read_link(project.join(".venv/src")).unwrap(), project.join("src"));
    let again = desk.fill(&FillOptions::new()).mentions;
    assert!(again.iter().all(|mention| mention.kept == unknown), "{again:?}");
    assert_eq!(status(&tree).lines().filter(|line| !line.starts_with('#')).count(), 0);
}

#[test]
fn no_other_worktree_and_no_folder_that_means_the_project_is_carried() {
    let desk = Desk::new(
        "",
        "git worktree add -q .trees/in -b in; git worktree add -q target/tree -b other
        mkdir -p .calve .jj target/.calve target/.jj target/plain; echo '*' | tee .calve/.gitignore >.jj/.gitignore
        echo x | tee .calve/x .jj/x target/.calve/x target/.jj/x >target/plain/x
        git init -q target/repository; echo mine >target/repository/mine
        mkdir target/remote target/none; echo calve remote 1 >target/remote/format; echo x >target/none/format
        git init -q target/copy; echo token >target/copy/.git/calve-worktree; echo work >target/copy/work",
        "-b tree",
    );
    // One of the filled worktrees is inside the project itself.
    for tree in [desk.tree(), desk.project.join(".trees/in")] {
        let report = fill(&tree, &FillOptions::new(), &options()).unwrap();
        assert!(report.worktrees.contains(&"target/tree".into()), "{:?}", report.worktrees);
        for (path, expected) in [
            ("target/plain/x", true),
            ("target/repository/mine", true),
            ("target/repository/.git/HEAD", true),
            (".calve", false),
            (".jj", false),
            (".trees/in", false),
            ("target/tree", false),
            ("target/copy", false),
            ("target/remote", false),
            ("target/none/format", true),
            ("target/.calve", false),
            ("target/.jj", false),
        ] {
            assert_eq!(is_there(&tree.join(path)), expected, "{path}");
        }
        assert_eq!(status(&tree), truth(&tree));
    }
}

#[test]
fn a_file_that_only_looks_the_same_stays_as_git_wrote_it() {
    for (what, text, in_tree, path, expected) in [
        // One blob that is checked out in two ways.
        (
            "other attributes",
            "",
            "echo 'a text eol=crlf' >.gitattributes; git add .gitattributes; rm a; git commit -qm attributes; git checkout -q a",
            "a",
            "in a\r\n",
        ),
        // These settings make git ignore changes of the project's file.
        ("assumed", "git update-index --assume-unchanged b; echo IN b >b", "", "b", "in b\n"),
        ("skipped", "git update-index --skip-worktree b; echo IN b >b", "", "b", "in b\n"),
        ("edited in the project", "echo IN b >b", "", "b", "in b\n"),
        ("staged in the project", "echo IN b >b; git add b", "", "b", "in b\n"),
        ("staged in the tree", "", "echo IN b >b; git add b", "b", "IN b\n"),
        ("of one more name", "ln b target/name", "", "b", "in b\n"),
    ] {
        let desk = Desk::new("", text, "-b tree");
        let tree = desk.tree();
        script(&tree, &format!("{in_tree}\ntick"));
        let report = desk.fill(&FillOptions::new());
        assert!(report.shared_files + report.timed_files > 5, "{what}: {report:?}");
        assert_eq!(read(tree.join(path)), expected, "{what}");
        assert!(stamp(&tree.join(path)) > stamp(&tree.join("z")), "{what}");
        assert_eq!(status(&tree), truth(&tree), "{what}");
    }
}

/// What the process writes after a replacement would be in no folder.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_a_process_has_open_for_writing_gets_the_time_alone() {
    let desk = Desk::new("", "", "-b tree");
    let (tree, project) = (desk.tree(), &desk.project);
    let mut file = fs::OpenOptions::new().append(true).open(tree.join("b")).unwrap();
    let report = desk.fill(&FillOptions::new());
    assert!(report.timed_files > 0, "{report:?}");
    assert_eq!(report.shared_files > 0, expects_reflink(&tree), "{report:?}");
    assert_eq!(stamp(&tree.join("b")), stamp(&project.join("b")));
    assert_eq!(status(&tree), truth(&tree));
    std::io::Write::write_all(&mut file, b"more\n").unwrap();
    assert_eq!(read(tree.join("b")), "in b\nmore\n");
    assert_eq!(
        only(&snapshot(&tree), |path, _| path.to_string_lossy().contains("calve-stage")).len(),
        0
    );
}

#[test]
fn build_output_that_was_carried_is_stale_where_the_sources_differ_and_fresh_where_not() {
    if !has_command("make") {
        return not_run(
            "build_output_that_was_carried_is_stale_where_the_sources_differ_and_fresh_where_not",
            "there is no make",
        );
    }
    let rules = "printf 'all: target/a target/b\\ntarget/%%: src/%%\\n\\tcp $< $@\\n' >Makefile; git add -A; git commit -qm rules";
    let desk = Desk::new("", &format!("{rules}; echo two >src/a; git commit -qam two"), "--detach");
    let tree = desk.tree();
    // git wrote this tree before the project was built.
    script(&tree, "git checkout -q HEAD~1; tick; sleep 0.1");
    script(&desk.project, "make -s; tick");
    desk.fill(&FillOptions::new());
    assert_eq!(read(tree.join("target/a")), "two\n");
    let made = sh(Command::new("make").current_dir(&tree));
    assert!(made.contains("cp src/a") && !made.contains("cp src/b"), "{made}");
    assert_eq!(read(tree.join("target/a")), "in src/a\n");
}

#[test]
fn what_cannot_be_filled_is_refused_and_nothing_changes() {
    let desk = Desk::new(
        "",
        "git init -q --bare -b main ../bare; git push -q ../bare main; mkdir ../plain; mkfifo ../pipe; git init -q ../other",
        "-b tree",
    );
    let at = |name: &str| desk.scratch.join(name);
    script(
        &at("bare"),
        "git worktree add -q ../of-bare main; git worktree add -q ../beside --detach",
    );
    let before = snapshot(desk.scratch.path());
    let from = |name: &str| FillOptions::new().from(at(name));
    for (path, how, kind, operation, words) in [
        ("nothing", FillOptions::new(), ErrorKind::SourceNotFound, Operation::Fill, "No such file"),
        (
            "project/a",
            FillOptions::new(),
            ErrorKind::SourceNotADirectory,
            Operation::Fill,
            "not a directory",
        ),
        (
            "plain",
            FillOptions::new(),
            ErrorKind::Git,
            Operation::Fill,
            "not the root of a working tree",
        ),
        (
            "project/src",
            FillOptions::new(),
            ErrorKind::Git,
            Operation::Fill,
            "not the root of a working tree",
        ),
        (
            "bare",
            FillOptions::new(),
            ErrorKind::Git,
            Operation::Fill,
            "not the root of a working tree",
        ),
        ("project", FillOptions::new(), ErrorKind::Overlap, Operation::Fill, "main working tree"),
        ("of-bare", FillOptions::new(), ErrorKind::Git, Operation::Fill, "no main working tree"),
        ("tree", from("tree"), ErrorKind::Overlap, Operation::Fill, "from itself"),
        ("tree", from("nothing"), ErrorKind::SourceNotFound, Operation::FillFrom, "No such file"),
        ("tree", from("other"), ErrorKind::Conflict, Operation::Fill, "two repositories"),
        (
            "tree",
            FillOptions::new().include_from(".worktreeinclude"),
            ErrorKind::InvalidPattern,
            Operation::ReadPatterns,
            "No such file",
        ),
        // git would wait for a writer.
        (
            "tree",
            FillOptions::new().include_from(desk.scratch.join("pipe")),
            ErrorKind::InvalidPattern,
            Operation::ReadPatterns,
            "no regular file",
        ),
    ] {
        let error = fill(at(path), &how, &options()).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, operation), "{path}: {error}");
        assert!(error.to_string().contains(words), "{path}: {error}");
    }
    assert_same(&before, &snapshot(desk.scratch.path()), "after errors");
    // A git that fails has not said that there is none.
    let head = at("project/.git/HEAD");
    let kept = std::fs::read(&head).unwrap();
    std::fs::remove_file(&head).unwrap();
    let error = fill(at("tree"), &FillOptions::new(), &options()).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Git, Operation::AskGit), "{error}");
    assert!(error.to_string().contains("not a git repository"), "{error}");
    std::fs::write(&head, kept).unwrap();
    // From a worktree of the same repository, it works.
    fill(at("of-bare"), &from("beside"), &options()).unwrap();
}

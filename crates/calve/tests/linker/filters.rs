//! Promise: filters decide as git does, before anything is cloned.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common;
use crate::common::snapshot::{Kind, assert_same, only, snapshot};
use crate::common::{Scratch, has_command, jobs, not_run, sh};
use calve::{CloneOptions, ErrorKind, clone_tree};

/// Makes files with their folders; a name with a slash at its end is an empty folder.
fn plant(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
    }
}

fn paths(root: &Path) -> BTreeSet<String> {
    snapshot(root)
        .iter()
        .filter(|(path, _)| !path.as_os_str().is_empty())
        .map(|(path, entry)| {
            let slash = if entry.kind == Kind::Directory { "/" } else { "" };
            format!("{}{slash}", path.display())
        })
        .collect()
}

fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env_remove("GIT_DIR");
    command
}

/// The entries of the tree that git does not ignore, asked path by path. An ignored folder includes
/// everything below it.
fn not_ignored(root: &Path) -> BTreeSet<PathBuf> {
    let all: Vec<PathBuf> =
        snapshot(root).into_keys().filter(|path| !path.as_os_str().is_empty()).collect();
    let mut asked = git(root)
        .args(["check-ignore", "--no-index", "--stdin", "-z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = asked.stdin.take().unwrap();
    let question: Vec<u8> = all
        .iter()
        .filter(|path| !path.starts_with(".git"))
        .flat_map(|path| [path.as_os_str().as_bytes(), b"\0"].concat())
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(&question).unwrap());
    let answer = asked.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(answer.status.code().is_some_and(|code| code <= 1), "{answer:?}");
    let ignored: BTreeSet<&Path> = answer
        .stdout
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
        .map(|path| Path::new(OsStr::from_bytes(path)))
        .collect();
    all.iter()
        .filter(|path| path.ancestors().all(|above| !ignored.contains(above)))
        .cloned()
        .collect()
}

const TREE: &[&str] = &[
    "a",
    "a.o",
    "a.log",
    "b.c",
    "foo",
    "foo.bak",
    "keep.o",
    "x y",
    "trailing ",
    "tab\t",
    "feed\u{c}",
    "no-break\u{a0}",
    "!bang",
    "#hash",
    "[x]",
    "{a,b}",
    "a{b",
    "back\\slash",
    "star*",
    "é",
    "UPPER.LOG",
    "logs",
    "\\",
    "a b c",
    "-dash",
    "?",
    "build/out",
    "build/keep/out",
    "build/keep/in.o",
    "src/build/out",
    "src/a.o",
    "src/keep.o",
    "src/deep/a.o",
    "src/deep/er/a.o",
    "src/deep/er/foo",
    "src/foo/a",
    "src/foo/b/c",
    "foo.d/a",
    "foo.d/bar/baz",
    "node_modules/x/y",
    "src/node_modules/x",
    "target/debug/deps/a",
    "target/CACHEDIR.TAG",
    "docs/a.html",
    "docs/b/a.html",
    "docs/b/c/a.html",
    "empty/",
    "build/empty/",
    "lib/build",
    "lib/foo/build/x",
    "a/b/c/d",
];

#[test]
fn ignore_files_are_read_as_git_reads_them() {
    let name = "ignore_files_are_read_as_git_reads_them";
    if !has_command("git") {
        return not_run(name, "needs git, to ask it");
    }
    // Each row: ignore files and their contents.
    let rows: &[&[(&str, &[u8])]] = &[
        &[(".gitignore", b"*.o\n")],
        &[(".gitignore", b"*.o\n!keep.o\n")],
        &[(".gitignore", b"!keep.o\n*.o\n")],
        &[(".gitignore", b"build\n")],
        &[(".gitignore", b"build/\n")],
        &[(".gitignore", b"/build\n")],
        &[(".gitignore", b"/build/\n!/build/keep\n")],
        &[(".gitignore", b"/build/*\n!/build/keep\n")],
        &[(".gitignore", b"/build/**\n!/build/keep/\n!/build/keep/**\n")],
        &[(".gitignore", b"**/build\n")],
        &[(".gitignore", b"src/**/a.o\n")],
        &[(".gitignore", b"src/**\n")],
        &[(".gitignore", b"src/*\n")],
        &[(".gitignore", b"**/deep/**\n")],
        &[(".gitignore", b"docs/*.html\n")],
        &[(".gitignore", b"docs/**/a.html\n")],
        &[(".gitignore", b"foo\n")],
        &[(".gitignore", b"foo/\n")],
        &[(".gitignore", b"foo*\n!foo.d/\n")],
        &[(".gitignore", b"*\n")],
        &[(".gitignore", b"*\n!*/\n!*.o\n")],
        &[(".gitignore", b"/*\n!/src\n")],
        &[(".gitignore", b"# comment\n\n   \n\\#hash\n\\!bang\n")],
        &[(".gitignore", b"x y\na b c\n")],
        &[(".gitignore", b"foo   \n")],
        &[(".gitignore", b"trailing\\ \n")],
        &[(".gitignore", b"trailing\\   \n\\\\ \nfoo\\")],
        &[(".gitignore", b"trailing\\  /\n! \n \n")],
        &[(".gitignore", b"tab\t\n")],
        &[(".gitignore", b"tab\\\t  \nx\\ y\n")],
        &[(".gitignore", "feed\u{c}\nno-break\u{a0} \n".as_bytes())],
        &[(".gitignore", b"*.o\r\nfoo\r\n")],
        &[(".gitignore", b"\xef\xbb\xbf*.o\nfoo\n")],
        &[(".gitignore", b"*.o")],
        &[(".gitignore", b"[ab].o\n[!a-c]\n")],
        &[(".gitignore", b"[x]\n\\[x\\]\n")],
        &[(".gitignore", b"*.{o,log}\n{a,b}\na{b\n")],
        &[(".gitignore", b"[{}]a,b}\n[]{]a,b[}]\n[!a]a,b}\n\\{a,b\\}\n")],
        &[(
            ".gitignore",
            b"fo[!a]\nfoo[!a]d\nlib[^x]build\ndocs[!]]html\nsrc[^]a]b.o\nfoo.[!x]/\n!d[^x]er\n",
        )],
        &[(".gitignore", b"[[:alpha:]]\n[[:alpha:]].o\nfo[[:lower:]x]\n[![:alpha:]]*\n")],
        &[(".gitignore", b"*[[:space:]]*\n[[:punct:]]*\n[^[:alnum:]-]\n[[:digit:][:upper:]]*\n")],
        &[(".gitignore", b"[a-c-e]\n[--/]dash\n[b-a]\n[\\!]bang\n[\\]x[]x]\n[+-9]*\n[a\\-z].o\n")],
        &[(".gitignore", b"[a\n[[:letters:]]\n[[:alpha:]\n[]\n[!]\n[x\\]\n[^\n[[:x]oo\n")],
        &[(
            ".gitignore",
            b"src[/]foo\nfo[o/]\ndoc[r-t]/b\n[^/]\nsrc[.-0]a.o\n[[x]x]]\n[!]-a]\n[^!^-]\n",
        )],
        &[(".gitignore", b"logs/\nhooks\n*.sample\nHEAD\n.git/info\n")],
        &[(".gitignore", b"star\\*\n\\?\n")],
        &[(".gitignore", b"back\\\\slash\n")],
        &[(".gitignore", b"?.o\n")],
        &[(".gitignore", b"*.LOG\n")],
        &[(".gitignore", "é\n".as_bytes())],
        &[(".gitignore", b"\xff\xfe\n*.o\n")],
        &[(".gitignore", b"/\n//\n!\n***\n")],
        &[(".gitignore", b"a/b\n")],
        &[(".gitignore", b"b/c\n")],
        &[(".gitignore", b"/a/b/c\n")],
        &[(".gitignore", b"lib/*/build\n")],
        &[(".gitignore", b"-dash\n")],
        &[(".gitignore", b"src/foo/../foo\n./foo\n")],
        &[(".gitignore", b"*.o\n"), ("src/.gitignore", b"!*.o\n")],
        &[
            (".gitignore", b"*.o\n"),
            ("src/.gitignore", b"!*.o\n"),
            ("src/deep/.gitignore", b"*.o\n"),
        ],
        &[(".gitignore", b"!keep.o\n"), ("src/.gitignore", b"*.o\n")],
        &[("src/.gitignore", b"/foo\n")],
        &[("src/.gitignore", b"foo/\ndeep/er\n")],
        &[("src/.gitignore", b"/*\n!.gitignore\n")],
        &[("build/.gitignore", b"*\n")],
        &[(".gitignore", b"build/\n"), ("build/.gitignore", b"!*\n")],
        &[(".git/info/exclude", b"*.o\n")],
        &[(".git/info/exclude", b"*.o\n"), (".gitignore", b"!keep.o\n")],
        &[(".git/info/exclude", b"!keep.o\n"), (".gitignore", b"*.o\n")],
        &[(".git/info/exclude", b"/src\n")],
    ];
    let scratch = Scratch::new();
    let mut wrong = Vec::new();
    let mut patterns_tried = 0;
    for (number, row) in rows.iter().enumerate() {
        let source = scratch.join(format!("{number}"));
        fs::create_dir(&source).unwrap();
        sh(git(&source).args(["init", "-q"]));
        // `a` is a file in one tree and a folder in another.
        let tree: Vec<&str> = TREE
            .iter()
            .copied()
            .filter(|name| if number % 2 == 0 { *name != "a/b/c/d" } else { *name != "a" })
            .collect();
        plant(&source, &tree);
        for (file, text) in *row {
            fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
            fs::write(source.join(file), text).unwrap();
        }
        let expected = not_ignored(&source);
        let dest = scratch.join("dest");
        let mut compare = |options: CloneOptions, expected: &BTreeSet<PathBuf>, what: &str| {
            clone_tree(&source, &[&dest], &jobs(options, 2)).unwrap();
            let found: BTreeSet<PathBuf> =
                snapshot(&dest).into_keys().filter(|path| !path.as_os_str().is_empty()).collect();
            fs::remove_dir_all(&dest).unwrap();
            for path in found.difference(expected) {
                wrong.push(format!("{what}: {path:?} is ignored by git and arrived"));
            }
            for path in expected.difference(&found) {
                wrong.push(format!("{what}: {path:?} is not ignored by git and did not arrive"));
            }
        };
        let text: Vec<_> =
            row.iter().map(|(file, text)| (file, String::from_utf8_lossy(text))).collect();
        compare(CloneOptions::new().gitignore(true), &expected, &format!("{text:?}"));

        // The same lines as patterns of the call. These also apply to git's own files.
        let [(".gitignore", text)] = row else { continue };
        let Ok(text) = std::str::from_utf8(text) else { continue };
        let mut options = CloneOptions::new();
        let patterns: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if text.contains(".git")
            || patterns.iter().any(|line| line.starts_with(['!', '#', '\u{feff}']))
        {
            continue;
        }
        let mut valid = Vec::new();
        for pattern in patterns {
            // A pattern that git ignores is an error in a call.
            let one = CloneOptions::new().dry_run(true).exclude(pattern);
            if clone_tree(&source, &[&dest], &one).is_ok() {
                valid.push(pattern);
                options = options.exclude(pattern);
            }
        }
        fs::remove_dir_all(source.join(".git")).unwrap();
        sh(git(&source).args(["init", "-q", "--template="]));
        let mut expected = not_ignored(&source);
        expected.retain(|path| !path.starts_with(".git"));
        fs::remove_dir_all(source.join(".git")).unwrap();
        compare(options, &expected, &format!("patterns {valid:?}"));
        patterns_tried += valid.len();
    }
    assert!(patterns_tried > 50, "{patterns_tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_outside_the_source_is_asked_and_no_link_is_followed() {
    let scratch = Scratch::new();
    let source = scratch.join("outer/source");
    plant(
        &source,
        &["a.o", "b", "folder/a.o", "folder/b", "linked/a.o", "odd/.gitignore/", "odd/a.o"],
    );
    fs::write(scratch.join("outer/.gitignore"), "b\n").unwrap();
    fs::write(scratch.join("outer/ignore"), "*.o\n").unwrap();
    std::os::unix::fs::symlink("../../ignore", source.join("linked/.gitignore")).unwrap();
    sh(Command::new("mkfifo").arg(source.join("folder/.gitignore")));
    clone_tree(&source, &[scratch.join("dest")], &CloneOptions::new().gitignore(true)).unwrap();
    assert_same(&snapshot(&source), &snapshot(&scratch.join("dest")), "nothing is ignored");
}

/// Ignore files are read into memory, and a hostile tree has others than regular ones.
#[test]
fn an_ignore_file_that_is_no_file_of_rules_is_not_read() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    plant(&source, &["endless/a", "huge/a", "outside/info/", "repository/a", "device/a"]);
    fs::write(scratch.join("source/outside/info/exclude"), "a\n").unwrap();
    std::os::unix::fs::symlink("../outside", source.join("repository/.git")).unwrap();
    fs::File::create(source.join("huge/.gitignore")).unwrap().set_len(1 << 40).unwrap();
    let fifo = source.join("endless/.gitignore");
    sh(Command::new("mkfifo").arg(&fifo));
    // Somebody holds it open, so that reading it does not end.
    let held = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    // An endless one, where it may be made at all.
    let _ =
        Command::new("mknod").arg(source.join("device/.gitignore")).args(["c", "1", "5"]).output();
    let options = CloneOptions::new().gitignore(true);
    for name in ["endless", "huge", "repository", "device"] {
        let dest = scratch.join("dest");
        clone_tree(source.join(name), &[&dest], &options).unwrap_or_else(|error| panic!("{error}"));
        assert!(dest.join("a").is_file(), "{name}");
        fs::remove_dir_all(dest).unwrap();
    }
    drop(held);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row for each case")]
fn globs_leave_out_and_keep() {
    let tree = &[
        "a.log",
        "b",
        "target/debug/x",
        "target/debug/y",
        "target/release/x",
        "target/keep",
        "src/target",
        "src/a.log",
        "src/b",
        "src/target.d/x",
        "logs/a.log",
        "logs/b",
        "empty/",
    ];
    type Row<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str]);
    // Left out, kept nevertheless; what does not arrive.
    let rows: &[Row<'_>] = &[
        (&[], &[], &[]),
        (&[], &["b"], &[]),
        (&["b"], &[], &["b", "src/b", "logs/b"]),
        (&["/b"], &[], &["b"]),
        (&["*.log"], &[], &["a.log", "src/a.log", "logs/a.log"]),
        (&["*.log", "b"], &[], &["a.log", "src/a.log", "logs/a.log", "b", "src/b", "logs/b"]),
        (
            &["target/"],
            &[],
            &[
                "target/",
                "target/debug/",
                "target/debug/x",
                "target/debug/y",
                "target/release/",
                "target/release/x",
                "target/keep",
            ],
        ),
        (
            &["target"],
            &[],
            &[
                "target/",
                "target/debug/",
                "target/debug/x",
                "target/debug/y",
                "target/release/",
                "target/release/x",
                "target/keep",
                "src/target",
            ],
        ),
        (
            &["target/"],
            &["/target/keep"],
            &[
                "target/debug/",
                "target/debug/x",
                "target/debug/y",
                "target/release/",
                "target/release/x",
            ],
        ),
        (
            &["target/"],
            &["target/debug/x"],
            &["target/debug/y", "target/release/", "target/release/x", "target/keep"],
        ),
        (&["target/"], &["/target/debug"], &["target/release/", "target/release/x", "target/keep"]),
        (&["target/"], &["target/debug/"], &["target/release/", "target/release/x", "target/keep"]),
        (&["target/"], &["target/*/x"], &["target/debug/y", "target/keep"]),
        (&["target/"], &["target/**/x"], &["target/debug/y", "target/keep"]),
        (
            &["/target/**"],
            &["/target/keep"],
            &[
                "target/debug/",
                "target/debug/x",
                "target/debug/y",
                "target/release/",
                "target/release/x",
            ],
        ),
        (
            &["target/"],
            &["keep"],
            &[
                "target/",
                "target/debug/",
                "target/debug/x",
                "target/debug/y",
                "target/release/",
                "target/release/x",
                "target/keep",
            ],
        ),
        (&["*.log"], &["logs/*.log"], &["a.log", "src/a.log"]),
        (&["*.log"], &["a.log"], &[]),
        (&["/logs/"], &["/logs"], &[]),
        (
            &["*"],
            &["/src/b"],
            &[
                "a.log",
                "b",
                "target/",
                "target/debug/",
                "target/debug/x",
                "target/debug/y",
                "target/release/",
                "target/release/x",
                "target/keep",
                "src/target",
                "src/a.log",
                "src/target.d/",
                "src/target.d/x",
                "logs/",
                "logs/a.log",
                "logs/b",
                "empty/",
            ],
        ),
        (&["empty"], &[], &["empty/"]),
        (&["src/**/x"], &[], &["src/target.d/x"]),
        (
            &["?"],
            &[],
            &[
                "b",
                "src/b",
                "logs/b",
                "target/debug/x",
                "target/debug/y",
                "target/release/x",
                "src/target.d/x",
            ],
        ),
        (
            &["[bx]"],
            &[],
            &["b", "src/b", "logs/b", "target/debug/x", "target/release/x", "src/target.d/x"],
        ),
    ];
    let scratch = Scratch::new();
    let source = scratch.join("source");
    plant(&source, tree);
    let all = paths(&source);
    for (exclude, include, left_out) in rows {
        let mut options = CloneOptions::new();
        for glob in *exclude {
            options = options.exclude(*glob);
        }
        for glob in *include {
            options = options.include(*glob);
        }
        for threads in [1, 4] {
            let dest = scratch.join("dest");
            let report = clone_tree(&source, &[&dest], &jobs(options.clone(), threads)).unwrap();
            let expected: BTreeSet<String> =
                all.iter().filter(|path| !left_out.contains(&path.as_str())).cloned().collect();
            let found = paths(&dest);
            let what = format!("exclude {exclude:?}, include {include:?}");
            assert_eq!(found, expected, "{what}");
            let files = expected.iter().filter(|path| !path.ends_with('/')).count();
            assert_eq!(report.destinations[0].files, files as u64, "{what}");
            let dry = clone_tree(&source, &[scratch.join("dry")], &options.clone().dry_run(true))
                .unwrap();
            assert_eq!(dry.destinations[0].files, files as u64, "{what}");
            // What arrived has arrived with all its metadata.
            let kept = only(&snapshot(&source), |path, _| snapshot(&dest).contains_key(path));
            assert_same(&kept, &snapshot(&dest), &what);
            fs::remove_dir_all(&dest).unwrap();
        }
    }
}

#[test]
fn what_is_left_out_is_not_even_opened() {
    let name = "what_is_left_out_is_not_even_opened";
    if !common::is_root() {
        return not_run(name, "needs root, to make what others may not open");
    }
    common::in_child(name, "nobody", || {
        let scratch = Scratch::new();
        std::env::set_current_dir(scratch.path()).unwrap();
        common::odd::chmod(scratch.path(), 0o777);
        let source = Path::new("source");
        plant(source, &["a", "closed/b", "secret"]);
        common::odd::chmod(&source.join("closed"), 0o700);
        common::odd::chmod(&source.join("secret"), 0o600);
        let options = CloneOptions::new().exclude("closed").exclude("secret");
        common::as_nobody(|| clone_tree(source, &["dest"], &options)).unwrap();
        assert_eq!(common::names(Path::new("dest")), ["a"]);
    });
}

#[test]
fn a_glob_that_means_nothing_is_named_before_anything_is_made() {
    let scratch = Scratch::new();
    plant(&scratch.join("source"), &["a"]);
    for glob in ["", "!a", "#a", "a[b", "[[:letters:]]", "[!]"] {
        for options in [
            CloneOptions::new().exclude(glob),
            CloneOptions::new().include(glob),
            CloneOptions::new().mutable(glob),
        ] {
            let error =
                clone_tree(scratch.join("source"), &[scratch.join("dest")], &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPattern, "{glob:?}: {error}");
            assert_eq!(error.path(), Path::new(glob), "{error}");
            assert_eq!(scratch.names(), ["source"]);
        }
    }
}

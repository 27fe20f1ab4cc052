use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// Maps a path to git's mode and the content.
type Tree = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

fn tree<const N: usize>(entries: [(&[u8], u32, &[u8]); N]) -> Tree {
    entries.map(|(path, mode, content)| (path.to_vec(), (mode, content.to_vec()))).into()
}

fn side((mode, content): &(u32, Vec<u8>)) -> Side<'_> {
    Side { mode: *mode, content }
}

/// The patch from one tree to the other. If `renames` is set, files of equal content are renames,
/// like with `git diff -M100%`.
fn patch(old: &Tree, new: &Tree, renames: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut gone: Vec<_> = old.iter().filter(|(path, _)| !new.contains_key(*path)).collect();
    let mut came = BTreeMap::new();
    for (path, entry) in new.iter().filter(|(path, _)| renames && !old.contains_key(*path)) {
        let twin = gone.iter().position(|(_, (mode, content))| {
            *content == entry.1 && (*mode == SYMLINK) == (entry.0 == SYMLINK)
        });
        if let Some(twin) = twin {
            came.insert(path, gone.remove(twin));
        }
    }
    let paths: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for path in paths {
        let change = match (old.get(path), new.get(path)) {
            (Some(old), Some(new)) => PathChange::Modified { old: side(old), new: side(new) },
            (Some(old), None) if gone.iter().any(|(gone, _)| *gone == path) => {
                PathChange::Deleted(side(old))
            }
            (None, Some(new)) => match came.get(path) {
                Some((from, (old_mode, _))) => {
                    PathChange::Renamed { from, old_mode: *old_mode, new: side(new) }
                }
                None => PathChange::Added(side(new)),
            },
            _ => continue,
        };
        write(&mut out, path, &change);
    }
    out
}

fn fill(root: &Path, tree: &Tree) {
    fs::create_dir(root).unwrap();
    for (path, (mode, content)) in tree {
        let path = root.join(OsStr::from_bytes(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if *mode == SYMLINK {
            symlink(OsStr::from_bytes(content), path).unwrap();
        } else {
            fs::write(&path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o777)).unwrap();
        }
    }
}

fn read(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let entry = if meta.is_dir() {
                folders.push(path);
                continue;
            } else if meta.is_symlink() {
                (SYMLINK, fs::read_link(&path).unwrap().into_os_string().into_vec())
            } else {
                let side = Side { mode: meta.permissions().mode(), content: &[] };
                (side.git_mode(), fs::read(&path).unwrap())
            };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            found.insert(name, entry);
        }
    }
    found
}

fn git(folder: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(folder)
        // The user who runs the tests may have git settings, and may be in a repository.
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap())
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    for set in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY"]
    {
        git.env_remove(set);
    }
    git
}

fn run(command: &mut Command, what: &str) -> Vec<u8> {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}\n{command:?}: {error}");
    output.stdout
}

fn have_git(test: &str) -> bool {
    let have = Command::new("git").arg("--version").output().is_ok();
    if !have {
        let line = format!("NOT RUN: {test}: git is not installed\n");
        eprint!("{line}");
        if let Some(log) = std::env::var_os("CALVE_NOT_RUN") {
            let mut log = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
    }
    have
}

/// Asserts that git can make `new` from `old` with this patch, and `old` from `new`.
fn assert_applies(row: &str, old: &Tree, new: &Tree, patch: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (root, file) = (folder.join("tree"), folder.join("patch"));
    fill(&root, old);
    fs::write(&file, patch).unwrap();
    let row = format!("{row}\n{}", String::from_utf8_lossy(&patch[..patch.len().min(5000)]));
    let apply = |arguments: &[&str]| {
        let mut git = git(&root);
        run(git.args(["apply", "--whitespace=nowarn"]).args(arguments).arg(&file), &row);
    };
    apply(&["--check", "--apply"]);
    assert!(read(&root) == *new, "{row}");
    apply(&["-R"]);
    let mut back = read(&root);
    for (path, (mode, _)) in &mut back {
        let gone = match (old.get(path), new.get(path)) {
            (Some(old), Some(new)) => (old.0 == SYMLINK) != (new.0 == SYMLINK),
            _ => true,
        };
        // When git 2.47 undoes a deletion, even of its own patch, it forgets the mode: a link comes
        // back as a file that holds its target.
        if let Some(old) = old.get(path).filter(|_| gone && *mode == FILE) {
            *mode = old.0;
        }
    }
    assert!(back == *old, "back: {row}");
}

/// The patches that git itself writes for the rows.
fn git_diffs(rows: &[(String, Tree, Tree)]) -> Vec<Vec<u8>> {
    /// The id of the empty tree, which git always knows.
    const EMPTY: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    run(git(&folder).args(["init", "-q"]), "init");
    let mut all = Tree::new();
    for (number, (_, old, new)) in rows.iter().enumerate() {
        for (side, tree) in [("old", old), ("new", new)] {
            all.extend(tree.iter().map(|(path, entry)| {
                ([format!("{number}/{side}/").as_bytes(), path].concat(), entry.clone())
            }));
        }
    }
    fill(&folder.join("rows"), &all);
    run(git(&folder).args(["add", "-A", "rows"]), "add");
    let id = String::from_utf8(run(git(&folder).arg("write-tree"), "write-tree")).unwrap();
    let one = |(number, (row, old, new)): (usize, &(String, Tree, Tree))| {
        let ids = [("old", old), ("new", new)].map(|(side, tree)| match tree.is_empty() {
            true => EMPTY.to_owned(),
            false => format!("{}:rows/{number}/{side}", id.trim()),
        });
        let mut git = git(&folder);
        git.args(["-c", "diff.indentHeuristic=true", "diff-tree", "-r", "-p", "-M100%"]);
        run(git.args(["--binary", "--full-index", "--diff-algorithm=histogram"]).args(ids), row)
    };
    rows.iter().enumerate().map(one).collect()
}

/// The patch without the parts that may differ: the function name behind a hunk's numbers, and how
/// binary content is compressed.
fn comparable(patch: &[u8]) -> String {
    let mut result = String::new();
    let mut binary = false;
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        binary = (binary || line == b"GIT binary patch\n") && !line.starts_with(b"diff --git ");
        let line = String::from_utf8_lossy(line);
        match line.match_indices(" @@").next() {
            _ if binary => {}
            Some((at, _)) if line.starts_with("@@ -") => result += &format!("{} @@\n", &line[..at]),
            _ => result += &line,
        }
    }
    result
}

fn numbers(lines: std::ops::Range<u32>) -> Vec<u8> {
    lines.flat_map(|line| format!("line {line}\n").into_bytes()).collect()
}

/// `numbers(lines)`, with the lines of `edits` replaced.
fn edited(lines: std::ops::Range<u32>, edits: &[(u32, &str)]) -> Vec<u8> {
    let edit = |line| edits.iter().find(|(edit, _)| *edit == line);
    lines
        .flat_map(|line| match edit(line) {
            Some((_, text)) => text.as_bytes().to_vec(),
            None => format!("line {line}\n").into_bytes(),
        })
        .collect()
}

#[expect(clippy::too_many_lines, reason = "a table: one row for each case")]
fn rows() -> Vec<(String, Tree, Tree)> {
    let text = &numbers(0..30)[..];
    let none: &[u8] = b"";
    let nul = &b"binary \0 content"[..];
    let noise = &{
        let mut bytes = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }[..];
    let late_nul = &[&numbers(0..2000)[..], b"\0\n", &numbers(0..5)].concat()[..];
    let mut rows = vec![];
    let contents: &[(&str, &[u8], &[u8])] = &[
        ("one line of many", text, &edited(0..30, &[(15, "other\n")])),
        ("the first and the last", text, &edited(0..30, &[(0, "first\n"), (29, "last\n")])),
        ("six lines between", text, &edited(0..30, &[(10, "a\n"), (17, "b\n")])),
        ("seven lines between", text, &edited(0..30, &[(10, "a\n"), (18, "b\n")])),
        ("lines more", text, &edited(0..30, &[(10, "a\nb\nc\n")])),
        ("lines less", text, &edited(0..30, &[(10, ""), (11, ""), (12, "")])),
        ("one line", b"a\n", b"b\n"),
        ("one line more", b"a\n", b"a\nb\n"),
        ("one line less", b"a\nb\n", b"b\n"),
        ("from empty", none, text),
        ("to empty", text, none),
        ("to one line without newline", none, b"x"),
        ("the last newline comes", b"a\nb", b"a\nb\n"),
        ("the last newline goes", b"a\nb\n", b"a\nb"),
        ("never a last newline", b"a\nb\nc\nd", b"x\nb\nc\nd"),
        ("never a last newline, which changes", b"a\nb", b"a\nc"),
        ("only a newline", b"\n", b"\n\n"),
        ("carriage returns", b"a\r\nb\r\n", b"a\nb\r\n\r"),
        (
            "lines that look like a patch",
            b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n",
            b"-- a/x\n++ b/x\n\\ No\n",
        ),
        ("bytes that are no UTF-8", b"\xff\xfe\n\x80\n", b"\xff\xfd\n\x80\n"),
        ("to binary", text, nul),
        ("from binary", nul, text),
        ("binary", nul, noise),
        ("binary to empty", nul, none),
        ("a NUL after what is looked at", late_nul, &late_nul[..late_nul.len() - 5]),
        ("trailing white space", b"a \n\t\n", b"a\n \n"),
        (
            "a function added among its like",
            b"f() {\n  a\n}\n\ng() {\n  a\n}\n",
            b"f() {\n  a\n}\n\nh() {\n  a\n}\n\ng() {\n  a\n}\n",
        ),
    ];
    for (row, old, new) in contents {
        rows.push((
            format!("content: {row}"),
            tree([(b"file", FILE, old)]),
            tree([(b"file", FILE, new)]),
        ));
    }
    for (row, content) in
        [("text", text), ("empty", none), ("binary", nul), ("x", b"x"), ("late NUL", late_nul)]
    {
        for mode in [FILE, PROGRAM] {
            let it = tree([(b"f", mode, content)]);
            rows.push((format!("{row} comes with {mode:o}"), Tree::new(), it.clone()));
            rows.push((format!("{row} goes with {mode:o}"), it, Tree::new()));
        }
        let program = tree([(b"f", PROGRAM, content)]);
        rows.push((
            format!("{row} becomes a program"),
            tree([(b"f", FILE, content)]),
            program.clone(),
        ));
        rows.push((
            format!("{row} is a program no more"),
            program.clone(),
            tree([(b"f", FILE, content)]),
        ));
        rows.push((format!("{row} is another program"), program, tree([(b"f", FILE, b"other\n")])));
        let link = tree([(b"f", SYMLINK, b"a target")]);
        rows.push((format!("{row} becomes a link"), tree([(b"f", FILE, content)]), link.clone()));
        rows.push((format!("a link becomes {row}"), link, tree([(b"f", PROGRAM, content)])));
    }
    let link = tree([(b"l", SYMLINK, b"../a target")]);
    rows.push(("a link comes".into(), Tree::new(), link.clone()));
    rows.push(("a link goes".into(), link.clone(), Tree::new()));
    rows.push(("a link turns".into(), link, tree([(b"l", SYMLINK, b"elsewhere")])));
    let names: &[&[u8]] = &[
        b"a b",
        b" lead",
        b"trail ",
        b"a b/a b",
        b"x b/x",
        b"a/b/c",
        b"b/b",
        b"dev/null",
        b"-dash",
        b"tab\there",
        b"line\nbreak",
        b"quo\"te",
        b"single'quote",
        b"back\\slash",
        b"\x01\x07\x08\x0b\x0c\r",
        b"del\x7f",
        b"two  spaces",
        b"\xc3\xbcml\xc3\xa4ut",
        b"ml\xc3\xa4ut and space",
        b"$HOME `ls` {a}",
        b"a => b",
    ];
    for name in names {
        let mut name = vec![*name];
        // Other systems require names to be UTF-8.
        if cfg!(target_os = "linux") && name[0] == b"-dash" {
            name.push(b"\xff\xfe");
        }
        for name in name {
            let shown = String::from_utf8_lossy(name);
            let with = |mode, content| tree([(name, mode, content), (b"other", FILE, b"other\n")]);
            let without = tree([(b"other", FILE, b"other\n")]);
            for (row, old, new) in [
                ("comes", without.clone(), with(FILE, text)),
                ("comes empty", without.clone(), with(FILE, none)),
                ("goes", with(FILE, text), without.clone()),
                ("goes empty", with(FILE, none), without.clone()),
                ("comes binary", without, with(FILE, nul)),
                ("changes", with(FILE, text), with(FILE, b"line 1\n")),
                ("changes mode", with(FILE, text), with(PROGRAM, text)),
                ("changes both", with(FILE, text), with(PROGRAM, b"line 1\n")),
                (
                    "is renamed",
                    with(FILE, b"old\n"),
                    tree([(b"new name", FILE, b"old\n"), (b"other", FILE, b"other\n")]),
                ),
                (
                    "is renamed to",
                    tree([(b"old name", FILE, nul), (b"other", FILE, b"other\n")]),
                    with(PROGRAM, nul),
                ),
            ] {
                rows.push((format!("{shown:?} {row}"), old, new));
            }
        }
    }
    rows
}

#[test]
fn git_applies_every_kind_of_change_both_ways_and_would_write_the_same() {
    if !have_git("git_applies_every_kind_of_change_both_ways_and_would_write_the_same") {
        return;
    }
    let rows = rows();
    for ((row, old, new), expected) in rows.iter().zip(git_diffs(&rows)) {
        let (plain, renamed) = (patch(old, new, false), patch(old, new, true));
        assert_applies(row, old, new, &plain);
        if renamed != plain {
            assert_applies(row, old, new, &renamed);
        }
        assert_eq!(comparable(&renamed), comparable(&expected), "{row}");
    }
}

#[test]
fn a_rename_that_is_also_another_type_is_a_deletion_and_a_creation() {
    if !have_git("a_rename_that_is_also_another_type_is_a_deletion_and_a_creation") {
        return;
    }
    let old = tree([(b"old", FILE, b"target")]);
    let new = tree([(b"new", SYMLINK, b"target")]);
    let mut out = Vec::new();
    let side = Side { mode: SYMLINK, content: b"target" };
    write(&mut out, b"new", &PathChange::Renamed { from: b"old", old_mode: FILE, new: side });
    assert_applies("file to link", &old, &new, &out);
}

#[test]
fn large_files_go_the_binary_way() {
    if !have_git("large_files_go_the_binary_way") {
        return;
    }
    let large = b"text\n".repeat(LARGE_BYTES / 5 + 1);
    let small = &large[..100];
    for (row, old, new) in [("grows", small, &large[..]), ("shrinks", &large[..], small)] {
        assert_eq!(stat_counts(old, new), None, "{row}");
        let (old, new) = (tree([(b"file", FILE, old)]), tree([(b"file", FILE, new)]));
        let patch = patch(&old, &new, false);
        assert!(patch.windows(16).any(|part| part == b"GIT binary patch"), "{row}");
        assert_applies(row, &old, &new, &patch);
    }
}

#[test]
fn changes_that_git_does_not_know_of_are_no_patch() {
    let side = |mode| Side { mode, content: b"content" };
    for (old, new) in [(0o100_644, 0o100_600), (0o100_755, 0o104_711), (0o120_777, 0o120_000)] {
        let mut out = Vec::new();
        write(&mut out, b"path", &PathChange::Modified { old: side(old), new: side(new) });
        assert_eq!(String::from_utf8(out).unwrap(), "", "{old:o} {new:o}");
    }
}

#[test]
fn lines_are_counted_as_the_patch_has_them() {
    type Row = (&'static [u8], &'static [u8], Option<(u64, u64)>);
    let rows: &[Row] = &[
        (b"", b"", Some((0, 0))),
        (b"a\n", b"a\n", Some((0, 0))),
        (b"", b"a\nb\nc", Some((3, 0))),
        (b"a\nb\nc", b"", Some((0, 3))),
        (b"a\nb\nc\n", b"a\nx\nc\n", Some((1, 1))),
        (b"a\n", b"a", Some((1, 1))),
        (b"a\n", b"\0", None),
        (b"\0", b"a\n", None),
    ];
    for (old, new, expected) in rows {
        assert_eq!(stat_counts(old, new), *expected, "{old:?} {new:?}");
    }
}

/// Lines of few kinds, so that many lines are equal. Sometimes the last newline is missing.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => "[a-c]?\n",
        1 => "[ -~]{0,8}\n",
        1 => proptest::collection::vec(1u8.., 0..5).prop_map(|bytes| [&bytes[..], b"\n"].concat())
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ];
    (proptest::collection::vec(line, 0..60), any::<bool>(), 0..8u8).prop_map(|(lines, cut, nul)| {
        let mut content = lines.concat().into_bytes();
        if cut {
            content.pop();
        }
        if nul == 0 {
            content.extend(b"\0\x01");
        }
        content
    })
}

/// Edits of lines: the place, the number of lines that are removed, and the new content.
type Edits = Vec<(proptest::sample::Index, usize, Vec<u8>)>;

fn edit(old: &[u8], edits: &Edits) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> =
        old.split_inclusive(|byte| *byte == b'\n').map(Into::into).collect();
    for (at, gone, come) in edits {
        let at = at.index(lines.len() + 1);
        let end = (at + gone).min(lines.len());
        lines.splice(at..end, [come.clone()]);
    }
    lines.concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn git_applies_random_changes_of_many_files_both_ways(
        files in proptest::collection::vec(
            (
                (content(), 0..5u8),
                proptest::collection::vec((any::<proptest::sample::Index>(), 0..4usize, content()), 0..4),
                0..5u8,
            ),
            1..12,
        ),
    ) {
        if !have_git("git_applies_random_changes_of_many_files_both_ways") {
            return Ok(());
        }
        let (mut old, mut new) = (Tree::new(), Tree::new());
        for (number, ((content, old_kind), edits, new_kind)) in files.iter().enumerate() {
            let edited = edit(content, edits);
            for (tree, kind, content) in [(&mut old, old_kind, content), (&mut new, new_kind, &edited)] {
                let path = format!("folder {}/file {number}", number % 3).into_bytes();
                let entry = match kind {
                    0 => continue,
                    1 => (PROGRAM, content.clone()),
                    2 => (SYMLINK, format!("target {}", content.len()).into_bytes()),
                    _ => (FILE, content.clone()),
                };
                tree.insert(path, entry);
            }
        }
        for renames in [false, true] {
            let patch = patch(&old, &new, renames);
            if !patch.is_empty() {
                assert_applies("random", &old, &new, &patch);
            } else {
                prop_assert_eq!(&old, &new);
            }
        }
    }
}

//! Compares the statements of ARCHITECTURE.md with the sources.
//!
//! The tests ignore comments and tests: these may name anything.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A file of the library, without its comments and tests.
struct Source {
    /// From `src`, as `store/gc.rs`.
    name: String,
    lines: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut found, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            if path.is_dir() {
                folders.push(path);
            } else if !name.ends_with("tests.rs") && name != "store_format.rs" {
                let lines = code(&fs::read_to_string(&path).unwrap());
                found.push(Source { name, lines });
            }
        }
    }
    assert!(found.len() > 50, "the sources are elsewhere");
    found
}

/// The lines of a file that are neither comments nor tests, with their numbers.
fn code(text: &str) -> Vec<(usize, String)> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned()));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

/// The places at which a line is as `wrong` says, in files that are not `allowed`.
fn found(allowed: impl Fn(&str) -> bool, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut places = Vec::new();
    for source in sources().iter().filter(|source| !allowed(&source.name)) {
        for (number, line) in source.lines.iter().filter(|(_, line)| wrong(line)) {
            places.push(format!("{}:{number}: {}", source.name, line.trim()));
        }
    }
    places
}

/// Whether a line spells a path inside a store, or inside calve's own folder.
fn spells_a_path(line: &str) -> bool {
    const NAMES: [&str; 14] = [
        "blobs",
        "packs",
        "templates",
        "stage",
        "trash",
        "locks",
        "indexes",
        "worktrees",
        "undo",
        "format",
        "reserve",
        "record",
        "files",
        "worktree",
    ];
    let joined = |name: &str| {
        ["join(\"", "Path::new(\"", "with_extension(\"", "c\""].iter().any(|start| {
            [format!("{start}{name}\""), format!("{start}{name}/")]
                .iter()
                .any(|text| line.contains(text.as_str()))
        })
    };
    line.contains("\"index.db")
        || line.contains("\".calve\"")
        || line.contains("\".calve/")
        || NAMES.iter().any(|name| joined(name))
}

/// The layers of the library, the lowest first. All layers may use the modules that are in no layer
/// (errors, reports, the checking build).
const LAYERS: [&str; 4] = ["reflink", "tree", "store", "worktree"];

/// The files of the store, the innermost first: each may import those before it. `store` is
/// `store.rs`, which has the open store; those behind it work with that.
const STORE: [&str; 53] = [
    "clock",
    "stopping",
    "holder",
    "at",
    "id",
    "layout",
    "name",
    "object",
    "manifest",
    "delta",
    "sparse",
    "pack",
    "index",
    "stamps",
    "files",
    "git",
    "paths",
    "metadata",
    "ownership",
    "home",
    "marker",
    "undo",
    "locks",
    "format",
    "room",
    "catalog",
    "trash",
    "registry",
    "blobs",
    "contents",
    "scan",
    "merged",
    "store",
    "background",
    "discover",
    "make",
    "materialize",
    "bring",
    "ready",
    "reach",
    "freeing",
    "packing",
    "stats",
    "verify",
    "repair",
    "snapshot",
    "unnamed",
    "overlay",
    "secrets",
    "history",
    "gc",
    "upkeep",
    "remote",
];

/// The names that follow `start` in a text: of `super::{a, b::c}` after `super::`, `a` and `b`.
fn imported(text: &str, start: &str) -> Vec<String> {
    let is_name = |char: char| char.is_alphanumeric() || char == '_';
    let mut names = Vec::new();
    for (at, _) in text.match_indices(start) {
        if text[..at].ends_with(|before| is_name(before) || before == ':') {
            continue;
        }
        let rest = &text[at + start.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.push(rest.chars().take_while(|char| is_name(*char)).collect());
            continue;
        };
        let (mut depth, mut name) = (0, String::new());
        for char in list.chars() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => names.push(std::mem::take(&mut name)),
                _ if depth == 0 => name.push(char),
                _ => {}
            }
        }
        names.push(name);
    }
    let first = |name: String| name.trim().split("::").next().unwrap_or_default().to_owned();
    names.into_iter().map(first).filter(|name| !name.is_empty() && name != "super").collect()
}

fn text(source: &Source) -> String {
    let lines: Vec<&str> = source.lines.iter().map(|(_, line)| line.as_str()).collect();
    lines.join("\n")
}

/// The layer that a file is of, and its number.
fn layer_of(file: &str) -> Option<usize> {
    let top = file.split('/').next().unwrap_or(file);
    LAYERS.iter().position(|layer| top.trim_end_matches(".rs") == *layer)
}

/// The imports of a file from a layer above its own.
fn upward(file: &str, text: &str) -> Vec<String> {
    let Some(own) = layer_of(file) else { return Vec::new() };
    let above = |name: &String| LAYERS.iter().position(|layer| layer == name) > Some(own);
    let names = imported(text, "crate::").into_iter().filter(above);
    names.map(|name| format!("{file} imports {name}")).collect()
}

/// The name in the list of a file of the store.
fn unit_of(file: &str) -> Option<&str> {
    let mut parts = file.trim_end_matches(".rs").split('/').filter(|part| !part.is_empty());
    (parts.next() == Some("store")).then(|| parts.next().unwrap_or("store"))
}

fn rank(unit: &str) -> Option<usize> {
    STORE.iter().position(|name| *name == unit)
}

/// The imports of a file of the store that do not come before it.
fn outward(file: &str, text: &str) -> Vec<String> {
    let Some(unit) = unit_of(file) else { return Vec::new() };
    let Some(own) = rank(unit) else { return vec![format!("{file} has no place in the list")] };
    let names = if unit == "store" {
        // A re-export is not an import.
        let text: String = text
            .split_inclusive(';')
            .filter(|one| !one.contains("pub") || !one.contains(" use "))
            .collect();
        STORE
            .iter()
            .filter(|name| !imported(&text, &format!("{name}::")).is_empty())
            .map(|name| (*name).to_owned())
            .collect()
    } else {
        let mut names = imported(text, &"super::".repeat(file.matches('/').count()));
        names.extend(imported(text, "crate::store::"));
        names
    };
    let wrong = |name: String| {
        // An item that `store.rs` has or hands on.
        let name = if rank(&name).is_some() { name } else { "store".to_owned() };
        (rank(&name) > Some(own)).then(|| format!("{file} imports {name}"))
    };
    names.into_iter().filter_map(wrong).collect()
}

#[test]
fn imports_go_down_only() {
    let sources = sources();
    let each = |look: fn(&str, &str) -> Vec<String>| -> Vec<String> {
        sources.iter().flat_map(|source| look(&source.name, &text(source))).collect()
    };
    assert_eq!(each(upward), Vec::<String>::new());
    assert_eq!(each(outward), Vec::<String>::new());
}

/// Tests the test above.
#[test]
fn an_import_that_goes_up_is_found() {
    for (file, line, expected) in [
        ("reflink/unix.rs", "use crate::tree::OWN;", Some("reflink/unix.rs imports tree")),
        (
            "tree/walk.rs",
            "use crate::{error::Error, store::Store};",
            Some("tree/walk.rs imports store"),
        ),
        (
            "store/gc.rs",
            "if crate::worktree::undo_goes_to(path) {",
            Some("store/gc.rs imports worktree"),
        ),
        (
            "store.rs",
            "use crate::{\n    tree::OWN,\n    worktree::{Worktree, at},\n};",
            Some("store.rs imports worktree"),
        ),
        ("worktree/start.rs", "use crate::store::Store;", None),
        ("store/gc.rs", "use crate::tree::removal;", None),
        ("report.rs", "use crate::tree::tally;", None),
    ] {
        assert_eq!(upward(file, line), expected.into_iter().collect::<Vec<_>>(), "{file}: {line}");
    }
    for (file, line, expected) in [
        ("store/room.rs", "use super::reach::Reach;", Some("store/room.rs imports reach")),
        (
            "store/room.rs",
            "use super::{locks, catalog::Catalog};",
            Some("store/room.rs imports catalog"),
        ),
        ("store/catalog.rs", "use super::Store;", Some("store/catalog.rs imports store")),
        (
            "store/catalog/packs.rs",
            "use super::super::gc::Mark;",
            Some("store/catalog/packs.rs imports gc"),
        ),
        (
            "store/blobs.rs",
            "let store: &crate::store::Store;",
            Some("store/blobs.rs imports store"),
        ),
        ("store.rs", "return Err(materialize::lost(path));", Some("store.rs imports materialize")),
        ("store.rs", "pub use gc::{GcOptions, GcReport};", None),
        ("store/catalog/packs.rs", "use super::connect::failed;", None),
        ("store/gc.rs", "use super::{Store, StoreOptions, locks};", None),
        ("store/new.rs", "", Some("store/new.rs has no place in the list")),
    ] {
        assert_eq!(outward(file, line), expected.into_iter().collect::<Vec<_>>(), "{file}: {line}");
    }
}

/// Whether a line speaks to the database.
fn speaks_sql(line: &str) -> bool {
    ["rusqlite", "SELECT ", "INSERT ", "UPDATE ", "DELETE FROM"]
        .iter()
        .any(|part| line.contains(part))
}

#[test]
fn one_module_speaks_to_the_database() {
    assert_eq!(found(|name| name.starts_with("store/catalog"), speaks_sql), Vec::<String>::new());
    for (line, expected) in [
        ("use rusqlite::params;", true),
        (r#"tx.execute("DELETE FROM names", [])"#, true),
        ("self.catalog().names()?", false),
    ] {
        assert_eq!(speaks_sql(line), expected, "{line}");
    }
}

#[test]
fn one_file_names_the_paths_of_a_store() {
    // The folder's name is known to the linker, too, which leaves it out of a clone.
    let allowed = |name: &str| matches!(name, "store/layout.rs" | "tree.rs");
    assert_eq!(found(allowed, spells_a_path), Vec::<String>::new());
    for (line, expected) in [
        (r#"self.path().join("trash")"#, true),
        (r#"path.join("undo/files")"#, true),
        (r#"let database = "index.db-wal";"#, true),
        (r#"open_at(&own, Path::new("undo"))"#, true),
        (r#"stage.publish(c"undo")"#, true),
        (r#"Stage::empty(dir).context("stage", path)"#, false),
        (r#"self.layout().trash()"#, false),
    ] {
        assert_eq!(spells_a_path(line), expected, "{line}");
    }
}

/// The methods in the blocks `impl Store` of a file, and whether their bodies are more than one
/// expression. The lines are as rustfmt leaves them.
fn methods(lines: &[(usize, String)]) -> BTreeMap<String, bool> {
    let (mut found, mut method) = (BTreeMap::new(), String::new());
    let (mut is_in_block, mut expressions) = (false, None);
    for (_, line) in lines {
        let code = line.trim_start();
        match line.len() - code.len() {
            0 if !code.is_empty() => is_in_block = line == "impl Store {",
            _ if !is_in_block => {}
            4 => {
                if let Some((_, rest)) = code.split_once("fn ") {
                    let is_name = |char: char| char.is_alphanumeric() || char == '_';
                    method = rest.chars().take_while(|char| is_name(*char)).collect();
                    found.insert(method.clone(), false);
                }
                expressions = code.ends_with('{').then_some(0);
            }
            8 => {
                if let Some(count) = &mut expressions {
                    *count += usize::from(!code.starts_with(['}', ')', ']']));
                    if *count > 1 || code.ends_with(';') {
                        found.insert(method.clone(), true);
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// The store is a face: its methods hand on to functions and types that take what they need, such
/// as `Contents` and `Registry`, so that the tests above see what depends on what. These files have
/// such methods.
#[test]
fn the_stores_own_methods_are_one_expression_each_and_in_few_files() {
    let (mut files, mut bodies) = (BTreeSet::new(), Vec::new());
    for source in sources().into_iter().filter(|source| unit_of(&source.name).is_some()) {
        for (method, has_body) in methods(&source.lines) {
            bodies.extend(has_body.then_some(method));
            files.insert(source.name.clone());
        }
    }
    assert_eq!(bodies, Vec::<String>::new());
    let expected = [
        "store.rs",
        "store/discover.rs",
        "store/history.rs",
        "store/make.rs",
        "store/ready.rs",
        "store/snapshot/record.rs",
        "store/upkeep.rs",
    ];
    assert_eq!(files.iter().map(String::as_str).collect::<Vec<_>>(), expected);
}

/// The methods of `Store` that a file calls, and that stand in a file that comes after it.
fn calls_up(file: &str, text: &str, at: &BTreeMap<String, String>) -> Vec<String> {
    let Some(own) = unit_of(file).and_then(rank) else { return Vec::new() };
    let is_up = |(method, of): &(&String, &String)| {
        unit_of(of).and_then(rank) > Some(own)
            && ["store.", "Store::"].iter().any(|by| text.contains(&format!("{by}{method}(")))
    };
    at.iter().filter(is_up).map(|(method, _)| format!("{file} calls {method}")).collect()
}

/// Imports alone do not say what depends on what: whoever has a `Store` may call all its methods.
#[test]
fn the_stores_own_methods_are_called_from_above_only() {
    let sources = sources();
    let mut at = BTreeMap::new();
    for source in sources.iter().filter(|source| unit_of(&source.name).is_some()) {
        at.extend(methods(&source.lines).into_keys().map(|method| (method, source.name.clone())));
    }
    let each = sources.iter().flat_map(|source| calls_up(&source.name, &text(source), &at));
    assert_eq!(each.collect::<Vec<_>>(), Vec::<String>::new());
    for (file, call, expected) in [
        ("store/blobs.rs", "self.store.gc(&options)", Some("store/blobs.rs calls gc")),
        ("store/ready.rs", "Store::init(path)", None),
        ("store/locks.rs", "Store::init(path)", Some("store/locks.rs calls init")),
        ("store/remote.rs", "store.gc(&options)", None),
        ("store/blobs.rs", "self.stored.gc(&options)", None),
        ("worktree.rs", "self.store.gc(&options)", None),
    ] {
        assert_eq!(calls_up(file, call, &at), expected.into_iter().collect::<Vec<_>>(), "{call}");
    }
}

/// Tests the test above.
#[test]
fn a_method_with_a_body_is_found() {
    for (method, expected) in [
        ("    fn one(&self) -> u8 {\n        self.0.one()\n    }", false),
        (
            "    fn one(\n        &self,\n        two: u8,\n    ) -> u8 {\n        f(self)\n    }",
            false,
        ),
        ("    fn one(&self) {\n        self.0\n            .one()\n    }", false),
        (
            "    fn one(&self) {\n        if self.0 {\n            f();\n        } else {\n        }\n    }",
            false,
        ),
        ("    fn one(&self) {\n        let two = 2;\n        two\n    }", true),
        ("    fn one(&self) {\n        f();\n    }", true),
        ("    fn one(&self) {\n        if a {\n            f()\n        }\n        b\n    }", true),
    ] {
        let expected = BTreeMap::from([("one".to_owned(), expected)]);
        let block = format!("impl Store {{\n{method}\n}}\n");
        assert_eq!(methods(&code(&block)), expected, "{method}");
        assert!(methods(&code(&block.replace("Store", "Other"))).is_empty(), "{method}");
    }
}

/// The type that a line defines. A type that belongs to a trait is indented, and has no name of its
/// own.
fn defined(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let code = match code.strip_prefix("pub") {
        Some(rest) => rest.trim_start_matches(|char| char != ' ').trim_start(),
        None => code,
    };
    let (what, rest) = code.split_once(' ')?;
    let is_type = matches!(what, "struct" | "enum" | "union" | "trait")
        || what == "type" && !line.starts_with(' ');
    let end = rest.find(|char: char| !char.is_alphanumeric() && char != '_');
    is_type.then(|| &rest[..end.unwrap_or(rest.len())])
}

/// The names of types that stand in more than one file. A platform's files may name their types as
/// those of the other platforms do, and the file for a feature that is off as the feature's: only
/// one of them is compiled.
fn twice() -> Vec<String> {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let name = &source.name;
        if name.contains("portable") || name.starts_with("reflink/sys/") || name.contains("/no_") {
            continue;
        }
        for name in source.lines.iter().filter_map(|(_, line)| defined(line)) {
            files.entry(name.to_owned()).or_default().insert(source.name.clone());
        }
    }
    files.into_iter().filter(|(_, files)| files.len() > 1).map(|(name, _)| name).collect()
}

/// Names that still stand twice. This list only gets shorter: a new name that stands twice fails
/// the test, and so does a listed one that no longer does.
const TWICE: [&str; 9] =
    ["Aside", "Directory", "Found", "Origin", "Record", "Room", "Source", "Time", "Tree"];

/// A name means one thing in the whole crate. If two modules need the same word, the module's noun
/// goes with it: `SeenName`, `SeenBlob`.
#[test]
fn no_type_name_stands_twice() {
    assert_eq!(twice(), TWICE);
    for (line, expected) in [
        ("pub(crate) struct Name(Bytes);", Some("Name")),
        ("pub enum Role {", Some("Role")),
        ("    struct Inside<'a> {", Some("Inside")),
        ("type Pair<'a> = (&'a [u8], &'a [u8]);", Some("Pair")),
        ("    type Item = u8;", None),
        ("impl Name {", None),
        ("let structure = 1;", None),
    ] {
        assert_eq!(defined(line), expected, "{line}");
    }
}

/// The names of all functions in the workspace, tests among them.
fn functions_of(root: &Path) -> HashSet<String> {
    let (mut tests, mut folders) = (HashSet::new(), vec![root.join("crates")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
                tests.extend(names.map(str::to_owned));
            }
        }
    }
    tests
}

/// The page about what others lost names a test for each row, and each of them is there.
#[test]
fn each_row_of_the_page_on_safety_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/safety.md")).unwrap();
    let tests = functions_of(&root);
    let (mut rows, mut wrong) = (0, Vec::new());
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| kind")) {
        let cell = line.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if named.is_empty() || named.iter().any(|name| !tests.contains(*name)) {
            wrong.push(line);
        }
        rows += 1;
    }
    assert!(rows > 30, "{rows}");
    assert_eq!(wrong, [""; 0], "these rows name no test, or one that is gone");
}

/// The names of tests that a page has in backticks: long, and words with underscores between.
fn tests_named_in(page: &str) -> impl Iterator<Item = &str> {
    let is_name = |word: &&str| {
        word.matches('_').count() > 3
            && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    };
    page.split('`').skip(1).step_by(2).filter(is_name)
}

#[test]
fn each_claim_about_security_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let tests = functions_of(&root);
    let missing: Vec<&str> = tests_named_in(&page).filter(|name| !tests.contains(*name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    let (_, claims) = page.split_once("## What calve defends against").unwrap();
    let (claims, _) = claims.split_once("\n## ").unwrap();
    let without: Vec<&str> =
        claims.split("\n* ").skip(1).filter(|one| tests_named_in(one).next().is_none()).collect();
    assert_eq!(without, Vec::<&str>::new());
}

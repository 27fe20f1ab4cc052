//! What ARCHITECTURE.md says of the sources, read from the sources.
//!
//! Comments, tests and the fuzzers' own files are not looked at: they may name what they are about.

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
            } else if !name.starts_with("fuzzing")
                && !name.ends_with("tests.rs")
                && name != "store_format.rs"
            {
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

//! The modules of the command import one another in one direction, read from the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The code of each module, without comments and tests. A module is named by its path: `args`,
/// `args::clone`.
fn modules() -> BTreeMap<String, String> {
    fn below(folder: &Path, parent: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{parent}{}", path.file_stem().unwrap().to_str().unwrap());
            if path.is_dir() {
                below(&path, &format!("{name}::"), found);
            } else if name != "main" {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                found.insert(name, code.collect::<Vec<_>>().join("\n"));
            }
        }
    }
    let mut found = BTreeMap::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    assert!(found.len() > 20, "the sources are elsewhere");
    found
}

/// The modules that `name` imports from: those that its paths start with.
fn imports(name: &str, code: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = BTreeSet::new();
    for other in modules.keys().filter(|other| *other != name) {
        let mut starts = vec![format!("crate::{other}::"), format!("crate::{other};")];
        if let Some((above, last)) = other.rsplit_once("::") {
            if above == parent {
                starts.push(format!("super::{last}::"));
            } else if above == name {
                starts.extend([" ", "=", "(", "["].map(|before| format!("{before}{last}::")));
            }
        }
        let inner: Vec<&String> =
            modules.keys().filter(|inner| inner.starts_with(&format!("{other}::"))).collect();
        // Imports from a module inside of `other` are not imports from `other`.
        let of_inner = |text: &str| {
            inner.iter().any(|inner| {
                let last = inner.rsplit("::").next().unwrap();
                text.starts_with(&format!("{last}::"))
            })
        };
        let mut used = starts.iter().any(|start| {
            code.match_indices(start.as_str()).any(|(at, _)| !of_inner(&code[at + start.len()..]))
        });
        if other == parent {
            used |= code
                .match_indices("super::")
                .any(|(at, start)| !of_inner(&code[at + start.len()..]));
        }
        if used {
            found.insert(other.clone());
        }
    }
    found
}

/// A way from `name` back to a module that is on the way already.
fn circle(
    name: &str,
    graph: &BTreeMap<String, BTreeSet<String>>,
    way: &mut Vec<String>,
    done: &mut BTreeSet<String>,
) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|on_it| on_it == name) {
        return Some(way[start..].to_vec());
    }
    if !done.insert(name.to_owned()) {
        return None;
    }
    way.push(name.to_owned());
    let found = graph[name].iter().find_map(|next| circle(next, graph, way, done));
    way.pop();
    found
}

#[test]
fn no_module_of_the_command_imports_one_that_imports_it() {
    let modules = modules();
    let graph: BTreeMap<String, BTreeSet<String>> =
        modules.iter().map(|(name, code)| (name.clone(), imports(name, code, &modules))).collect();
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(edges > 80, "imports are not found: {graph:?}");
    assert!(graph["args"].contains("args::clone") && graph["candidates"].contains("common"));
    let mut done = BTreeSet::new();
    let circles: Vec<_> =
        graph.keys().filter_map(|name| circle(name, &graph, &mut Vec::new(), &mut done)).collect();
    assert_eq!(circles, Vec::<Vec<String>>::new());
}

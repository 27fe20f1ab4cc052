//! The project's pages: where their links lead, and that the book has each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

fn pages_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages_in(&path, found);
        } else if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
}

/// The lines of a page outside of its blocks of code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> Vec<String> {
    let mut times = BTreeMap::new();
    let headings = prose(page).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            let keeps = |it: &char| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_');
            let anchor: String = text.chars().filter(keeps).collect::<String>().replace(' ', "-");
            let before = times.entry(anchor.clone()).or_insert(0);
            *before += 1;
            if *before == 1 { anchor } else { format!("{anchor}-{}", *before - 1) }
        })
        .collect()
}

/// What the links of a page lead to, and its pictures.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(page) {
        // Text in backticks is code, and no link.
        let text: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        for part in text.split("](").skip(1) {
            found.extend(part.split_once(')').map(|(to, _)| to.to_owned()));
        }
        for part in text.split("src=\"").skip(1) {
            found.extend(part.split_once('"').map(|(to, _)| to.to_owned()));
        }
    }
    found
}

fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn each_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there() {
    let root = normal(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    let mut pages = Vec::new();
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "md") {
            pages.push(path);
        }
    }
    for folder in ["docs", "crates", "bench", "fuzz", "packages"] {
        pages_in(&root.join(folder), &mut pages);
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let to = match path {
                "" => page.clone(),
                path => normal(&page.parent().unwrap().join(path)),
            };
            let is_there = to.starts_with(&root)
                && match (fs::read_to_string(&to), anchor) {
                    (_, "") => to.try_exists().unwrap(),
                    (Ok(text), anchor) => anchors(&text).iter().any(|it| it == anchor),
                    (Err(_), _) => false,
                };
            if !is_there {
                wrong.push(format!("{}: {link}", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(pages.len() > 25 && count > 100, "{} pages, {count} links", pages.len());
    assert_eq!(wrong, [""; 0], "these links lead nowhere");
}

#[test]
fn the_book_has_each_page_of_docs_once() {
    let docs = normal(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"));
    let mut pages = Vec::new();
    pages_in(&docs, &mut pages);
    pages.retain(|page| page.file_name().is_some_and(|name| name != "SUMMARY.md"));
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut named: Vec<_> = links(&summary).iter().map(|link| docs.join(link)).collect();
    named.sort();
    pages.sort();
    assert_eq!(named, pages);
}

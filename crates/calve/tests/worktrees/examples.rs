//! Promise: the examples do what they claim, on every filesystem.

#[expect(dead_code, unreachable_pub, reason = "a program that is called as a module")]
#[path = "../../examples/node_modules.rs"]
mod node_modules;
#[expect(dead_code, unreachable_pub, reason = "a program that is called as a module")]
#[path = "../../examples/site_packages.rs"]
mod site_packages;
#[expect(dead_code, unreachable_pub, reason = "a program that is called as a module")]
#[path = "../../examples/worktrees.rs"]
mod worktrees;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::common::snapshot::{assert_same, snapshot};
use crate::common::{Scratch, expects_reflink, is_there, names};
use calve::{CloneMode, ErrorKind, Store};

fn put(path: &Path, content: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Eleven wheels that share a namespace. One of them keeps a part of itself in another folder.
fn cache(scratch: &Scratch) -> std::path::PathBuf {
    let cache = scratch.join("cache");
    for number in 0..11 {
        let wheel = cache.join(format!("part{number}-1.0"));
        put(&wheel.join(format!("space/part{number}/__init__.py")), &"x = 1\n".repeat(2000));
        let record = wheel.join(format!("part{number}-1.0.dist-info/RECORD"));
        put(&record, &format!("space/part{number}/__init__.py,,\n"));
    }
    put(&cache.join("part3-1.0/part3-1.0.data/purelib/apart.py"), "y = 2\n");
    put(&cache.join("part3-1.0/part3-1.0.data/scripts/part3"), "#!python\n");
    cache
}

#[test]
fn a_cache_of_wheels_becomes_site_packages_by_every_mode_and_stays_what_it_was() {
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        let scratch = Scratch::new();
        let cache = cache(&scratch);
        let before = snapshot(&cache);
        let site = scratch.join("venv/lib/site-packages");
        // The second time over the existing files.
        for _ in 0..2 {
            let done = site_packages::install(&cache, &site, mode).unwrap();
            assert_eq!(done.len(), 12, "{mode:?}: eleven wheels, and the part of one");
            let count = |of: fn(&calve::DestinationReport) -> u64| {
                done.iter().map(|(_, report)| of(report)).sum::<u64>()
            };
            let linked =
                if matches!(mode, CloneMode::Hardlink | CloneMode::Symlink) { 12 } else { 0 };
            let reflinks = expects_reflink(scratch.path()) && mode != CloneMode::Copy;
            let shared = if reflinks { 23 - linked } else { 0 };
            assert_eq!(count(|report| report.files), 23, "{mode:?}");
            assert_eq!(count(|report| report.linked_files), linked, "{mode:?}");
            assert_eq!(count(|report| report.reflinked_files), shared, "{mode:?}");
            assert_eq!(count(|report| report.copied_files), 23 - linked - shared, "{mode:?}");
            assert_eq!(names(&site).len(), 13, "{mode:?}: {:?}", names(&site));
            assert_eq!(names(&site.join("space")).len(), 11, "{mode:?}");
            assert!(!is_there(&site.join("part3-1.0.data")), "{mode:?}");
        }
        let record = "part7-1.0.dist-info/RECORD";
        assert_eq!(
            fs::read_to_string(site.join(record)).unwrap(),
            "space/part7/__init__.py,,\npart7-1.0.dist-info/INSTALLER,,\n",
            "{mode:?}"
        );
        assert_same(&before, &snapshot(&cache), &format!("{mode:?}: the cache"));
        let inode = |path: &str| fs::metadata(site.join(path)).unwrap().ino();
        let module = "space/part7/__init__.py";
        let same = fs::metadata(cache.join("part7-1.0").join(module)).unwrap().ino();
        assert_eq!(
            inode(module) == same,
            matches!(mode, CloneMode::Hardlink | CloneMode::Symlink),
            "{mode:?}: links, where they were asked for by name, and only there"
        );
    }
}

#[test]
fn a_wheel_with_a_folder_where_another_has_a_file_stops_the_others_and_is_named() {
    let scratch = Scratch::new();
    let cache = cache(&scratch);
    put(&cache.join("zz-1.0/space"), "not a folder\n");
    let site = scratch.join("site-packages");
    fs::create_dir_all(site.join("space")).unwrap();
    let error = site_packages::install(&cache, &site, CloneMode::Clone).unwrap_err();
    let error = error.downcast::<calve::Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let paths = [Some(error.path()), error.other_path()];
    assert!(paths.contains(&Some(&site.join("space"))), "{error}");
    assert!(paths.contains(&Some(&cache.join("zz-1.0/space"))), "{error}");
}

#[test]
fn every_job_has_its_worktree_and_nothing_but_what_it_made_is_left() {
    let scratch = Scratch::new();
    let project = scratch.join("project");
    put(&project.join("src/main.rs"), "fn main() {}\n");
    let jobs = ["one".to_owned(), "two".to_owned()];
    // The second time the store is there.
    for kept in [3, 5] {
        worktrees::run(&project, &jobs).unwrap();
        let store = Store::open(project.join(".calve")).unwrap();
        assert_eq!(store.log().unwrap().snapshots.len(), kept);
        assert!(store.worktrees().unwrap().is_empty());
    }
    assert!(!is_there(&project.join("RESULT")));
}

#[test]
fn packages_of_a_store_with_a_file_for_each_content_become_node_modules() {
    let scratch = Scratch::new();
    let (store, modules) = (scratch.join("store"), scratch.join("node_modules"));
    put(&store.join("3f/a9"), "module.exports = 1\n");
    put(&store.join("00/01"), "#!/usr/bin/env node\n");
    let list = "left\tindex.js\t3fa9\t644\n\
                left\tbin/left\t0001\t755\n\
                @s/right\tlib/index.js\t3fa9\t644\n";
    // The second time over the existing files.
    for round in ["first", "second"] {
        let report = node_modules::install(&store, list, &modules, CloneMode::Clone).unwrap();
        let made = &report.destinations[0];
        assert_eq!((made.files, made.skipped.len()), (3, 0), "{round}");
        // The store's file is not executable, so a link to it would not do.
        let linked = if expects_reflink(scratch.path()) { 0 } else { 2 };
        assert_eq!((made.linked_files, made.linked_because.total()), (linked, linked), "{round}");
        for (path, content, mode) in [
            ("left/index.js", "module.exports = 1\n", 0o644),
            ("left/bin/left", "#!/usr/bin/env node\n", 0o755),
            ("@s/right/lib/index.js", "module.exports = 1\n", 0o644),
        ] {
            let path = modules.join(path);
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "{round}: {path:?}");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{round}: {path:?}");
        }
        assert_eq!(names(&modules), ["@s", "left"], "{round}");
    }
    assert_eq!(fs::metadata(store.join("00/01")).unwrap().mode() & 0o111, 0, "the store's own");
    for wrong in ["left\tindex.js\t3fa9", "a\tb\t3\t644", "a\tb\t3fa9\t9"] {
        let error = node_modules::install(&store, wrong, &modules, CloneMode::Clone).unwrap_err();
        assert!(error.to_string().ends_with(wrong), "{error}");
    }
}

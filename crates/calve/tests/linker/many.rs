//! Promise: neither many, nor wide, nor deep costs more than its share: open files are bounded, the
//! stack is not used up.
#![cfg(target_os = "linux")]

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::common;
use crate::common::odd::file;
use crate::common::snapshot::{assert_same, snapshot};
use crate::common::{Scratch, bytes, in_child, jobs, not_run, within};
use calve::{CloneMode, CloneOptions, Existing, clone_tree};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{Resource, Rlimit, setrlimit};

const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn twenty_thousand_files_in_one_folder() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for name in 0..20_000 {
        fs::write(source.join(format!("{name}")), format!("{name}")).unwrap();
    }
    let expected = snapshot(&source);
    for threads in [1, 4] {
        let dest = scratch.join(format!("dest-{threads}"));
        let report = clone_tree(&source, &[&dest], &jobs(CloneOptions::new(), threads)).unwrap();
        assert_eq!(report.destinations[0].files, 20_000);
        assert_same(&expected, &snapshot(&dest), &format!("{threads} jobs"));
    }
}

#[test]
fn ten_thousand_folders_side_by_side() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for name in 0..10_000 {
        fs::create_dir(source.join(format!("{name}"))).unwrap();
        if name % 10 == 0 {
            fs::write(source.join(format!("{name}/file")), "content").unwrap();
        }
    }
    let report =
        clone_tree(&source, &[scratch.join("dest")], &jobs(CloneOptions::new(), 4)).unwrap();
    assert_eq!(report.destinations[0].directories, 10_001);
    assert_same(&snapshot(&source), &snapshot(&scratch.join("dest")), "side by side");
}

fn limit_descriptors(limit: u64) {
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) }).unwrap();
}

#[test]
fn a_tree_that_is_deeper_than_files_may_be_open_is_cloned_to_many_places() {
    let name = "a_tree_that_is_deeper_than_files_may_be_open_is_cloned_to_many_places";
    if cfg!(calve_check) {
        return not_run(name, "the checking build opens files of its own");
    }
    for (limit, dests, threads, depth) in [
        (64, 1, 1, 1500),
        (64, 1, 4, 300),
        (128, 1, 8, 300),
        (128, 2, 2, 300),
        (256, 8, 2, 100),
        (256, 8, 8, 100),
        (1024, 60, 2, 50),
    ] {
        in_child(name, &format!("{limit} files, {dests} destinations, {threads} threads"), || {
            within(LIMIT, move || {
                let scratch = Scratch::new();
                let source = scratch.join("source");
                // Files before and after the folder at each level, hard links over all of them.
                let mut at = source.clone();
                for level in 0..depth {
                    fs::create_dir(&at).unwrap();
                    if level % 3 == 0 {
                        for name in ["a", "z"] {
                            file(&at.join(name), level, 0o644, 100);
                        }
                    }
                    if level % 50 == 25 {
                        fs::hard_link(source.join("a"), at.join("h")).unwrap();
                    }
                    at.push("d");
                }
                let expected = snapshot(&source);
                let dests: Vec<_> =
                    (0..dests).map(|index| scratch.join(format!("{index}"))).collect();
                limit_descriptors(limit);
                for (existing, mode) in [
                    (Existing::Fail, CloneMode::Clone),
                    (Existing::Merge, CloneMode::Hardlink),
                    (Existing::Replace, CloneMode::Clone),
                ] {
                    let options = jobs(CloneOptions::new().existing(existing).mode(mode), threads);
                    clone_tree(&source, &dests, &options).unwrap();
                    for dest in &dests {
                        assert_same(&expected, &snapshot(dest), &format!("{existing:?}, {mode:?}"));
                    }
                    if existing == Existing::Fail {
                        common::sh(std::process::Command::new("rm").arg("-rf").args(&dests));
                    }
                }
            });
        });
    }
}

#[test]
fn a_tree_that_is_deeper_than_a_path_may_be_long_is_cloned_replaced_and_removed() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    let name = "n".repeat(100);
    let open = |path: &std::path::Path| -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let depth = 300; // 30,300 bytes
    let mut at = open(&source);
    for level in 0..depth {
        rustix::fs::mkdirat(&at, &*name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &*name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .unwrap();
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&at, "file", flags, Mode::RUSR | Mode::WUSR).unwrap();
        std::io::Write::write_all(&mut File::from(made), &bytes(level, 50)).unwrap();
    }
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
        for threads in [1, 4] {
            let dest = scratch.join("dest");
            if existing == Existing::Fail {
                common::sh(std::process::Command::new("rm").arg("-rf").arg(&dest));
            }
            let report = clone_tree(
                &source,
                &[&dest],
                &jobs(CloneOptions::new().existing(existing), threads),
            )
            .unwrap();
            assert_eq!(report.destinations[0].files, depth);
            let mut at = open(&dest);
            for level in 0..depth {
                at = rustix::fs::openat(
                    &at,
                    &*name,
                    OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .unwrap();
                let file = rustix::fs::openat(&at, "file", OFlags::CLOEXEC, Mode::empty()).unwrap();
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut File::from(file), &mut content).unwrap();
                assert_eq!(content, bytes(level, 50), "level {level}");
            }
        }
    }
}

#[test]
fn hard_links_between_folders_that_are_finished_long_before_each_other() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    // The names of each file are in folders far apart, three levels down.
    for folder in 0..60 {
        let dir = source.join(format!("{folder}/below/deep"));
        fs::create_dir_all(&dir).unwrap();
        for name in 0..30 {
            if folder < 20 {
                file(&dir.join(format!("{name}")), folder * 30 + name, 0o644, 200);
            } else {
                let first = source.join(format!("{}/below/deep/{name}", folder % 20));
                fs::hard_link(first, dir.join(format!("{name}"))).unwrap();
            }
        }
    }
    let expected = snapshot(&source);
    for threads in [1, 2, 4, 8] {
        for existing in [Existing::Fail, Existing::Merge] {
            let dests = [scratch.join("one"), scratch.join("two")];
            let options = jobs(CloneOptions::new().existing(existing), threads);
            let report = clone_tree(&source, &dests, &options).unwrap();
            for (dest, found) in dests.iter().zip(&report.destinations) {
                let what = format!("{threads} jobs, {existing:?}");
                assert_same(&expected, &snapshot(dest), &what);
                assert_eq!(
                    (found.files, found.linked_files, found.skipped.len()),
                    (1800, 1200, 0),
                    "{what}"
                );
                fs::remove_dir_all(dest).unwrap();
            }
        }
    }
}

#[test]
fn eight_destinations_in_one_walk() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    common::plain_tree(&source, 30, 30, 3000);
    let expected = snapshot(&source);
    for threads in [1, 2, 4] {
        let dests: Vec<_> = (0..8).map(|index| scratch.join(format!("dest-{index}"))).collect();
        let report = clone_tree(&source, &dests, &jobs(CloneOptions::new(), threads)).unwrap();
        for (dest, found) in dests.iter().zip(&report.destinations) {
            assert_eq!((&found.path, found.files, found.directories), (dest, 900, 31));
            assert_same(&expected, &snapshot(dest), &format!("{threads} jobs"));
            fs::remove_dir_all(dest).unwrap();
        }
    }
}

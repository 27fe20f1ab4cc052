//! Promise: any bytes are refused with an error or mean something; none makes a decoder panic, or
//! lead outside.
//!
//! Every seed, and every input that once failed, is replayed, and with it everything near: each of
//! its beginnings, each with a bit turned, each with a byte of zeros or ones (of the databases,
//! each of which is a whole store, the beginnings alone). What finds new ones is `cargo fuzz`
//! (fuzz/README.md).

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::{TARGETS, Target};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz")).join(name)
}

fn names(folder: PathBuf) -> BTreeSet<String> {
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Says which input it was.
struct Row<'a>(&'a str, &'a str, String, &'a [u8]);

impl Drop for Row<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: seed {}, {}: {:?}", self.0, self.1, self.2, self.3);
        }
    }
}

fn near(name: &str, seed: &str, target: Target, bytes: &[u8]) {
    let run = |what: String, bytes: &[u8]| {
        let _row = Row(name, seed, what, bytes);
        target(bytes);
    };
    run("whole".to_owned(), bytes);
    for end in 0..bytes.len() {
        run(format!("its first {end} bytes"), &bytes[..end]);
    }
    // Where an input costs files, hashes or signatures, or a whole store, some are enough.
    let masks: &[u8] = match name {
        "database" => return,
        "pack" | "manifest" | "remote" => &[1, 128],
        _ => &[1, 2, 4, 8, 16, 32, 64, 128],
    };
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        for value in masks.iter().map(|mask| bytes[at] ^ mask).chain([0, 0xff]) {
            changed[at] = value;
            run(format!("byte {at} is {value}"), &changed);
        }
    }
}

#[test]
fn every_seed_of_the_fuzzers_and_all_that_is_near_it_is_refused_or_means_something() {
    if !folder("seeds").is_dir() {
        let line = "NOT RUN: every_seed_of_the_fuzzers: the seeds are not in a published crate\n";
        eprint!("{line}");
        if let Some(log) = std::env::var_os("CALVE_NOT_RUN") {
            let mut log = std::fs::File::options().append(true).create(true).open(log).unwrap();
            std::io::Write::write_all(&mut log, line.as_bytes()).unwrap();
        }
        return;
    }
    // It works in memory, and replaying it costs more than all other tests of this program: once is
    // enough. Decoders take no shortcut that the checking build could check.
    if std::env::var_os("CALVE_AGAIN").is_some() || cfg!(calve_check) {
        return;
    }
    let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let (mut fuzzers, mut seeds) = (names(folder("fuzz_targets")), names(folder("seeds")));
    if cfg!(not(feature = "remote")) {
        assert!(fuzzers.remove("remote.rs") && seeds.remove("remote"));
    }
    assert_eq!(seeds, expected);
    assert_eq!(fuzzers, expected.iter().map(|name| format!("{name}.rs")).collect());
    std::thread::scope(|scope| {
        for (name, target) in TARGETS {
            scope.spawn(move || {
                for seed in names(folder("seeds").join(name)) {
                    let bytes = std::fs::read(folder("seeds").join(name).join(&seed)).unwrap();
                    near(name, &seed, *target, &bytes);
                }
            });
        }
    });
}

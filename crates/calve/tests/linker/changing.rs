//! Files that other processes write to while they are copied.
#![cfg(target_os = "linux")]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use calve::{CloneMode, CloneOptions, SkipReason, clone_tree};

use crate::common::Scratch;

/// Once the report had the size from before the copy, and the copy the time from before.
#[test]
fn a_copy_has_the_length_and_the_time_of_the_file_that_was_copied() {
    let scratch = Scratch::new();
    let [from, to] = ["from", "to"].map(|name| scratch.path().join(name));
    fs::create_dir(&from).unwrap();
    let file = from.join("file");
    fs::write(&file, vec![b'x'; 100_000]).unwrap();
    // calve asks for the mode after it looked at the file, and before it copies it.
    let cut = {
        let file = file.clone();
        move |_: &std::path::Path, mode: u32| {
            let file = OpenOptions::new().write(true).open(&file).unwrap();
            file.set_len(1000).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
            mode
        }
    };
    let options = CloneOptions::new().mode(CloneMode::Copy).file_mode(cut);
    let report = clone_tree(&from, &[&to], &options).unwrap().destinations.remove(0);
    let [there, here] = [to.join("file"), file].map(|path| fs::metadata(path).unwrap());
    assert_eq!((there.len(), report.copied_bytes), (1000, 1000));
    assert_eq!(there.modified().unwrap(), here.modified().unwrap());
    assert_eq!(report.skipped, []);
}

#[test]
fn a_file_that_changes_while_it_is_copied_is_copied_again_or_named() {
    let scratch = Scratch::new();
    let from = scratch.path().join("from");
    fs::create_dir(&from).unwrap();
    fs::write(from.join("busy"), vec![b'x'; 8 << 20]).unwrap();
    fs::write(from.join("idle"), "idle").unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut busy = OpenOptions::new().append(true).open(from.join("busy")).unwrap();
            while !stop.load(Ordering::Relaxed) {
                busy.write_all(b"y").unwrap();
            }
        });
        // Where the writer had no processor during a whole copy, the copy is of one moment.
        let named = (0..20).find(|round| {
            let to = scratch.path().join(format!("to-{round}"));
            let options = CloneOptions::new().mode(CloneMode::Copy);
            let report = clone_tree(&from, &[&to], &options).unwrap().destinations.remove(0);
            let arrived = fs::metadata(to.join("busy")).unwrap().len();
            assert_eq!(report.copied_bytes, arrived + "idle".len() as u64);
            let named: Vec<_> =
                report.skipped.iter().map(|it| (it.path.to_str().unwrap(), &it.reason)).collect();
            assert!(named.is_empty() || named == [("busy", &SkipReason::Torn)], "{named:?}");
            !named.is_empty()
        });
        stop.store(true, Ordering::Relaxed);
        assert!(named.is_some());
    });
}

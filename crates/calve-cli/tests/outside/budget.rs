//! Counts the system calls that a file costs, with strace. The cost is the difference between two
//! trees, so the fixed cost of an operation does not count.

use std::fs;
use std::path::Path;

use crate::tree::many_files;
use crate::{can_strace, expects_reflink, scratch, straced};

/// openat, fstat, flistxattr, openat, ioctl, utimensat, close, close. The rest is the share in the
/// file's directory of a hundred files: calve opens, makes and lists it, looks at it before and
/// after that, sets its metadata, and closes it.
const REFLINK_MOST: f64 = 9.0;
/// The same, with pread64 and pwrite64 instead of the ioctl, and fstat behind them: whether somebody
/// wrote to the file while it was copied.
const COPY_MOST: f64 = 11.0;
/// One look at each file for the price, which calve prints before it writes the first byte of a
/// copy that nobody asked for; and the share in the listing of its directory.
const PRICE_MOST: f64 = 1.1;

/// All calls of all threads, except those by which threads wait for each other: under strace their
/// number only shows how slow strace is.
fn calls(directory: &Path, words: &str) -> f64 {
    // Without optimisation the standard library checks every descriptor that it closes.
    let but = if cfg!(debug_assertions) {
        "trace=!futex,sched_yield,fcntl"
    } else {
        "trace=!futex,sched_yield"
    };
    let run = straced(directory, &["-c", "-U", "calls,name", "-e", but], words);
    assert_eq!(run.code, Some(0), "{run:?}");
    let total = run.log.lines().rev().find(|line| line.trim_end().ends_with(" total"));
    let total = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    total.unwrap_or_else(|| panic!("no total: {run:?}"))
}

/// Calls per file between the trees of `less` and of `more` files.
fn calls_per_file(directory: &Path, less: usize, more: usize, options: &str) -> f64 {
    let mut counted = [less, more].map(|files| {
        let source = directory.join(format!("src{files}"));
        if !source.is_dir() {
            many_files(&source, files, 1000, "content");
        }
        let count = calls(directory, &format!("clone {options} src{files} dst"));
        fs::remove_dir_all(directory.join("dst")).unwrap();
        count
    });
    counted[1] -= counted[0];
    counted[1] / (more - less) as f64
}

#[test]
fn a_small_file_costs_a_handful_of_system_calls_and_as_many_in_a_larger_tree() {
    if !can_strace("the budget of system calls") {
        return;
    }
    let scratch = scratch();
    let directory = scratch.path();
    let reflink = if expects_reflink() { REFLINK_MOST } else { COPY_MOST + PRICE_MOST };
    for (options, most) in [
        ("", reflink),
        ("-j 1", reflink),
        ("-j 4", reflink),
        ("--reflink never", COPY_MOST),
        // calve asks for the ACL instead of the list, because the ACL decides about the rights of
        // the group.
        ("--no-xattrs", reflink),
        ("--mode hardlink", 3.0),
    ] {
        let at_first = calls_per_file(directory, 1000, 2000, options);
        let further = calls_per_file(directory, 2000, 5000, options);
        println!(
            "{options:18} {at_first:.2} calls a file from 1,000 to 2,000, {further:.2} from 2,000 to 5,000"
        );
        assert!(at_first <= most, "{options}: {at_first:.2} calls a file");
        assert!(
            (further - at_first).abs() <= 0.3,
            "{options}: {at_first:.2} calls a file, and then {further:.2}"
        );
    }
}

//! Compares the numbers of `drop --dry-run` with the free space of the filesystem before and after
//! the drop.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::disk::{Disk, Options, tool};
use crate::tree::content;
use crate::{Random, calve, filesystem, is_root, not_run};

const TEST: &str = "freed::what_a_drop_frees_is_what_the_dry_run_said_within_its_bound";

/// Space that the filesystem frees or keeps for itself: blocks of trees that get fuller or emptier,
/// and blocks that wait in its log.
const KEPT_BYTES: u64 = 1 << 20;

/// Free bytes, when they have come to rest.
fn free(disk: &Disk) -> u64 {
    let now = || {
        Command::new("sync").arg("-f").arg(disk.path()).status().unwrap();
        // A thread of the kernel frees the space of deleted subvolumes.
        let _ = tool(&disk.path(), "btrfs subvolume sync .");
        let stat = rustix::fs::statvfs(disk.path()).unwrap();
        stat.f_bfree * stat.f_frsize
    };
    let mut before = now();
    for _ in 0..4 {
        sleep(Duration::from_millis(60));
        let after = now();
        if after == before {
            break;
        }
        before = after;
    }
    before
}

/// Changes a worktree as people and builds do: overwrites, adds, copies from another worktree, and
/// clones to elsewhere.
fn edit(root: &Path, others: &[String], number: u64, random: &mut Random) {
    for _ in 0..random.below(30) {
        let file = root.join(format!("folder/file-{}", random.below(300)));
        let Ok(file) = fs::OpenOptions::new().write(true).open(file) else { continue };
        file.write_all_at(&content(0, 1 + random.one_of(6000), "edit"), 0).unwrap();
    }
    for file in 0..random.one_of(8) {
        let bytes = content(file, random.one_of(3_000_000), &format!("new {number}"));
        fs::write(root.join(format!("new-{file}")), bytes).unwrap();
    }
    let clone = |from: &Path, to: &Path| {
        let _ = Command::new("cp").arg("--reflink=always").args([from, to]).output();
    };
    for (at, other) in others.iter().enumerate().take(random.one_of(3)) {
        let from = root.with_file_name(other).join("new-0");
        clone(&from, &root.join(format!("from-{at}")));
    }
    if random.below(2) == 0 {
        clone(&root.join("new-1"), &root.join("twice"));
        fs::hard_link(root.join("folder/file-1"), root.join("second-name")).unwrap();
    }
    if random.below(4) == 0 {
        clone(&root.join("new-2"), &root.join(format!("../../elsewhere-{number}")));
    }
}

/// Returns the greatest difference, and the space that was freed in all.
fn drops(kind: &str, rounds: u64) -> Result<(u64, u64), String> {
    // The kernel's thread that deletes subvolumes sleeps until a transaction ends.
    let mount = if kind == "btrfs" { "commit=1" } else { "" };
    let disk = Disk::with(kind, 1500, Options { make: "", mount })?;
    let app = disk.path().join("app");
    fs::create_dir_all(app.join("folder")).unwrap();
    for file in 0..300 {
        let size = [100, 1500, 5000, 40_000][file % 4];
        fs::write(app.join(format!("folder/file-{file}")), content(file, size, "app")).unwrap();
    }
    let must = |words: &str| {
        let run = calve(&app, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    };
    must("init");
    let mut random = Random(rounds | 1);
    let (mut there, mut next, mut worst, mut sum) = (Vec::<String>::new(), 0, 0, 0);
    for round in 0..rounds {
        while there.len() < 4 {
            next += 1;
            let name = format!("w{next}");
            must(&format!("start {name}"));
            edit(&disk.path().join("app.worktrees").join(&name), &there, next, &mut random);
            there.push(name);
        }
        let mut dropped = Vec::new();
        for _ in 0..1 + random.one_of(3) {
            dropped.push(there.swap_remove(random.one_of(there.len())));
        }
        let names = dropped.join(" ");
        let before = free(&disk);
        let said = must(&format!("drop --dry-run --force --discard --json {names}")).json();
        assert_eq!(said["dropped"], serde_json::json!([]));
        let said = &said["would_drop"][0]["frees"];
        let [least, expected] =
            ["least_bytes", "expected_bytes"].map(|field| said[field].as_u64().unwrap());
        must(&format!("drop --force --discard {names}"));
        must("store empty-trash");
        let freed = free(&disk).saturating_sub(before);
        let what = format!("{kind}, round {round}: {names} freed {freed} of {expected}, {least}");
        // The estimate of the metadata may be wrong by half.
        let metadata = u64::try_from(dropped.len()).unwrap() * 400 * 1200;
        let bound = KEPT_BYTES + metadata;
        assert!(freed + bound >= least, "{what}: less than what is certain");
        assert!(freed.abs_diff(expected) <= bound, "{what}: not within {bound}");
        worst = worst.max(freed.abs_diff(expected));
        sum += freed;
    }
    Ok((worst, sum))
}

#[test]
fn what_a_drop_frees_is_what_the_dry_run_said_within_its_bound() {
    let kind = filesystem();
    if !is_root() {
        return not_run(TEST, "needs root, to mount a filesystem of its own");
    }
    let rounds = std::env::var("CALVE_ROUNDS").map_or(2, |number| number.parse().unwrap());
    match drops(&kind, rounds) {
        Ok((worst, sum)) => {
            println!(
                "{kind}: {rounds} drops freed {sum} bytes; the largest error was {worst} bytes"
            );
        }
        Err(why) => not_run(TEST, &why),
    }
}

//! Full disks and quotas: what needs room says that there is none and leaves things as they were, what only reads works, and
//! what frees space works where there is none.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::died::{Tree, tree_of};
use crate::disk::{Disk, tool};
use crate::{Random, Run, calve, filesystem, is_root, names, not_run};

const MEGABYTES: u64 = 300;
const FILES: u64 = 12;
const FILE_BYTES: usize = 1_000_000;

/// What a filesystem may keep for itself: a longer directory, a block of inodes, a part of the log.
const KEPT_BYTES: u64 = 2_500_000;

struct Place {
    disk: Disk,
    random: Random,
}

impl Place {
    /// A project with two snapshots, `one` and `two`, and six worktrees of the first. `w1` and `w3` have changes.
    fn new(disk: Disk) -> Self {
        let mut place = Self { disk, random: Random(7) };
        let app = place.app();
        fs::create_dir_all(app.join("small")).unwrap();
        for number in 0..FILES {
            place.write(&app, number);
        }
        for number in 0..100 {
            fs::write(app.join(format!("small/f{number}")), format!("{number}\n")).unwrap();
        }
        place.must("init");
        place.must("snapshot --name one");
        place.must("start w1 w2 w3 w4 w5 w6 --from one");
        for number in 0..4 {
            place.write(&app, number);
        }
        place.must("snapshot --name two");
        for worktree in ["w1", "w3"] {
            let root = place.folder().join(worktree);
            for number in 3..6 {
                place.write(&root, number);
            }
        }
        place
    }

    fn app(&self) -> PathBuf {
        self.disk.path().join("app")
    }

    fn folder(&self) -> PathBuf {
        self.disk.path().join("app.worktrees")
    }

    /// New content that nothing compresses.
    fn write(&mut self, root: &Path, number: u64) {
        let words = std::iter::repeat_with(|| self.random.next().to_le_bytes());
        let bytes: Vec<u8> = words.flatten().take(FILE_BYTES).collect();
        fs::write(root.join(format!("big{number}")), bytes).unwrap();
    }

    #[track_caller]
    fn must(&self, words: &str) -> Run {
        let run = calve(&self.app(), words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    }

    fn sync(&self) {
        self.disk.free();
    }

    /// Writes until nothing can be written any more, not even an empty file.
    fn fill(&self) {
        let fill = self.disk.path().join("fill");
        fs::create_dir_all(&fill).unwrap();
        let open =
            |name: &str| fs::OpenOptions::new().create(true).append(true).open(fill.join(name));
        // What is freed by writing back what was on its way is filled, too.
        for round in 0..3 {
            if let Ok(mut file) = open("big") {
                for size in [1 << 20, 64 << 10, 4096, 512] {
                    while file.write_all(&vec![0; size]).is_ok() {}
                }
            }
            for number in 0..3000 {
                let written =
                    open(&format!("t{round}-{number}")).and_then(|mut file| file.write_all(b"x"));
                if written.is_err() {
                    break;
                }
            }
            self.sync();
        }
    }

    /// Makes so much room in a disk that is full.
    fn give(&self, bytes: u64) {
        let file =
            fs::OpenOptions::new().write(true).open(self.disk.path().join("fill/big")).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(bytes)).unwrap();
        self.sync();
    }

    /// What must be as it was when something failed: the trees, but for the times of folders in which something was begun, and
    /// what the store holds beside its locks and indexes.
    fn picture(&self) -> (Tree, Tree, Vec<Vec<String>>) {
        let tree = |root: &Path| -> Tree {
            let mut tree = tree_of(root).unwrap();
            for (path, (_, time, _)) in &mut tree {
                if root.join(path).is_dir() {
                    *time = (0, 0);
                }
            }
            tree
        };
        let store = self.app().join(".calve");
        let mut folders: Vec<_> =
            ["stage", "trash", "packs", "templates"].map(|name| names(&store.join(name))).into();
        folders.push(names(&self.disk.path()).into_iter().filter(|name| name != "fill").collect());
        (tree(&self.app()), tree(&self.folder()), folders)
    }

    /// It failed for want of room, says so, tells what to do, and left things as they were.
    #[track_caller]
    fn assert_refused(
        &self,
        words: &str,
        run: &Run,
        errno: &str,
        before: &(Tree, Tree, Vec<Vec<String>>),
    ) {
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        assert_eq!(run.json()["error"]["kind"], "storage_full", "{words}: {run:?}");
        assert!(run.stderr.contains(errno), "{words}: {run:?}");
        assert!(run.stderr.contains("df -h"), "{words}: {run:?}");
        let after = self.picture();
        assert!(before.0 == after.0, "{words}: the project is another: {run:?}");
        assert!(before.1 == after.1, "{words}: the worktrees are others: {run:?}");
        assert_eq!(before.2, after.2, "{words}: {run:?}");
    }
}

fn place(test: &str, kind: &str) -> Option<Place> {
    if !is_root() {
        not_run(test, "mounting one needs root");
        return None;
    }
    match Disk::new(kind, MEGABYTES) {
        Ok(disk) => Some(Place::new(disk)),
        Err(why) => {
            not_run(test, &why);
            None
        }
    }
}

/// What needs no room, or frees some, and what does. Afterwards all is as it was but for what was dropped and collected.
fn assert_ways_out(place: &Place, errno: &str) {
    for words in ["status", "list", "log", "show one", "diff", "store stats", "store verify"] {
        let run = calve(&place.app(), words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    let run = calve(&place.app(), "status w1");
    assert_eq!(run.code, Some(3), "{run:?}");
    for words in [
        "snapshot --json -m new",
        "start --json new --from two",
        "capture --json w1",
        "switch --json w2 two",
        "reset --json w3",
        "name --json one eins",
        "store pack --json --all",
        "store warm --json one",
    ] {
        let before = place.picture();
        let run = calve(&place.app(), words);
        place.assert_refused(words, &run, errno, &before);
        assert!(run.stderr.contains("calve drop"), "{words}: {run:?}");
    }
    // The ways out, each in turn: nothing was freed between most of them.
    for words in [
        "store gc",
        "store gc --grace 0s --expire 0s",
        "drop w4",
        "drop --force w3",
        "drop w5",
        "store gc --grace 0s",
    ] {
        let run = calve(&place.app(), words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    assert_eq!(names(&place.folder()), ["w1", "w2", "w6"]);
}

#[test]
fn on_a_full_disk_what_reads_works_what_frees_space_works_and_the_rest_says_why_not() {
    let Some(place) = place("the ways out of a full disk", &filesystem()) else { return };
    place.fill();
    assert_ways_out(&place, "ENOSPC");
    // With some room again everything works.
    place.give(30 << 20);
    place.must("snapshot -m new");
    place.must("start new --from two");
    place.must("capture w1");
    place.must("store verify");
}

/// Levels of room, from next to nothing to enough for anything here.
const LEVELS: [u64; 6] = [100 << 10, 600 << 10, 2 << 20, 5 << 20, 9 << 20, 45 << 20];

#[test]
fn a_disk_that_fills_up_on_the_way_is_told_of_and_its_space_is_given_back() {
    let Some(mut place) = place("a disk that fills up on the way", &filesystem()) else { return };
    let app = place.app();
    for number in 6..11 {
        place.write(&app, number);
    }
    fs::create_dir(place.disk.path().join("merged")).unwrap();
    place.fill();
    let (mut refused, mut done) = (0, 0);
    // Each with less and less too little, until there is enough.
    for words in [
        "snapshot --json -m new",
        "start --json new --from one",
        "capture --json w1",
        "switch --json w2 two",
        "reset --json w3",
        "clone --json --exclude .calve --reflink never . ../cloned",
        "clone --json --exclude .calve --existing merge --mode copy . ../merged",
        "store pack --json --all",
        "start --json unpacked --from two",
        "store warm --json one",
        "clone --json --exclude .calve -n 2 . ../copies",
    ] {
        let merge = words.contains("merge");
        for level in LEVELS {
            place.give(level);
            let before = place.picture();
            let free = place.disk.free();
            let run = calve(&app, words);
            if run.code == Some(0) {
                done += 1;
                place.fill();
                break;
            }
            refused += 1;
            assert_ne!(level, LEVELS[LEVELS.len() - 1], "{words}: {run:?}");
            place.assert_refused(&format!("{words} in {level}"), &run, "ENOSPC", &before);
            // The files that a merge brought stay.
            let lost = free.saturating_sub(place.disk.free());
            assert!(merge || lost < KEPT_BYTES, "{words} in {level}: {lost} bytes are gone");
            place.must("store verify");
            // What frees space works at each level.
            place.must("store gc --grace 0s");
            place.fill();
        }
    }
    println!("{refused} times there was no room, {done} times there was");
    assert_eq!(done, 11);
    place.must("drop w4");
    place.must("store verify");
}

/// A quota is another errno, and elsewhere in the kernel.
#[test]
fn where_a_quota_is_used_up_what_frees_space_works_and_the_rest_says_why_not() {
    const NAME: &str = "a quota";
    if filesystem() != "btrfs" {
        return;
    }
    let Some(place) = place(NAME, "btrfs") else { return };
    let home = place.disk.path();
    let limit = || -> Result<(), String> {
        tool(&home, "btrfs quota enable .")?;
        tool(&home, "btrfs quota rescan -w .")?;
        place.sync();
        tool(&home, "btrfs qgroup limit 80M .").map(drop)
    };
    if let Err(why) = limit() {
        return not_run(NAME, &why);
    }
    place.fill();
    let refused = fs::write(home.join("fill/one-more"), vec![1; 1 << 20]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
    assert_ways_out(&place, "EDQUOT");
    tool(&home, "btrfs qgroup limit none .").unwrap();
    place.must("snapshot -m new");
    place.must("store verify");
}

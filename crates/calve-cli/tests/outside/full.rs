//! Tests full disks and quotas. A command that needs space reports that there is none and changes
//! nothing. Commands that only read work, and commands that free space work without any space.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Gid, Uid};

use crate::died::{Tree, tree_of};
use crate::disk::{Disk, Options, tool};
use crate::{
    Random, Run, STUCK, calve, calve_command, expects_reflink, filesystem, is_root, names, not_run,
    scratch,
};

const MEGABYTES: u64 = 300;
const FILES: u64 = 12;
const FILE_BYTES: usize = 1_000_000;

/// Space that a filesystem may keep for itself: a longer directory, a block of inodes, a part of
/// the log.
const KEPT_BYTES: u64 = 2_500_000;

/// Whose files count where root's do not.
const NOBODY: u32 = 65534;

struct Place {
    disk: Disk,
    random: Random,
    /// The user `nobody` runs all commands.
    nobody: bool,
}

impl Place {
    /// A project with two snapshots, `one` and `two`, and six worktrees of the first. `w1` and `w3`
    /// have changes.
    fn new(disk: Disk, nobody: bool) -> Self {
        let mut place = Self { disk, random: Random(7), nobody };
        let app = place.app();
        place.as_owner(|| fs::create_dir_all(app.join("small")).unwrap());
        for number in 0..FILES {
            place.write(&app, number);
        }
        place.as_owner(|| {
            for number in 0..100 {
                fs::write(app.join(format!("small/f{number}")), format!("{number}\n")).unwrap();
            }
        });
        place.must("init");
        place.must("snapshot one");
        place.must("start w1 w2 w3 w4 w5 w6 --from one");
        for number in 0..4 {
            place.write(&app, number);
        }
        place.must("snapshot two");
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
        self.as_owner(|| fs::write(root.join(format!("big{number}")), bytes).unwrap());
    }

    fn as_owner<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        if self.nobody { as_nobody(body) } else { body() }
    }

    fn calve(&self, words: &str) -> Run {
        let mut command = calve_command(&self.app(), words);
        if self.nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        Run::of(command.output().unwrap(), String::new())
    }

    #[track_caller]
    fn must(&self, words: &str) -> Run {
        let run = self.calve(words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    }

    fn sync(&self) {
        self.disk.free();
    }

    /// Writes until nothing can be written any more, not even an empty file.
    fn fill(&self) {
        self.as_owner(|| self.fill_with_bytes());
    }

    /// Makes files until none can be made any more, for which there is room otherwise.
    fn fill_with_names(&self) {
        let fill = self.disk.path().join("fill");
        self.as_owner(|| {
            fs::create_dir_all(&fill).unwrap();
            for number in 0.. {
                if fs::File::create(fill.join(format!("n{number}"))).is_err() {
                    assert!(number > 100, "no more than {number}");
                    break;
                }
            }
        });
        self.sync();
    }

    fn fill_with_bytes(&self) {
        let fill = self.disk.path().join("fill");
        fs::create_dir_all(&fill).unwrap();
        let open =
            |name: &str| fs::OpenOptions::new().create(true).append(true).open(fill.join(name));
        // Also fill the space that the filesystem frees when it writes back.
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

    /// Waits for the processes that a command left in the background. One that finds the disk full
    /// takes the reserve for a moment, and whatever fills the disk meanwhile would keep its room.
    fn wait_for_background(&self) {
        let store = fs::canonicalize(self.app().join(".calve")).unwrap();
        let is_ours = |process: &Path| {
            let words = fs::read(process.join("cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word == store.as_os_str().as_bytes())
        };
        let begun = Instant::now();
        while fs::read_dir("/proc").unwrap().any(|entry| is_ours(&entry.unwrap().path())) {
            assert!(begun.elapsed() < STUCK, "a process in the background does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Frees this many bytes on a full disk.
    fn give(&self, bytes: u64) {
        let file =
            fs::OpenOptions::new().write(true).open(self.disk.path().join("fill/big")).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(bytes)).unwrap();
        self.sync();
    }

    /// The state that must not change if a command fails: the trees (without the times of folders
    /// in which calve began something), and the contents of the store except locks and indexes.
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

/// In a thread that has lost root's rights, which are the thread's.
fn as_nobody<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn disk(test: &str, options: Options) -> Option<Disk> {
    if !is_root() {
        not_run(test, "mounting one needs root");
        return None;
    }
    Disk::with(&filesystem(), MEGABYTES, options).map_err(|why| not_run(test, &why)).ok()
}

fn place(test: &str, options: Options) -> Option<Place> {
    disk(test, options).map(|disk| Place::new(disk, false))
}

/// Runs commands that need no space, then commands that free space, then commands that need space.
/// Afterwards everything is as before, except dropped worktrees and collected content.
fn assert_ways_out(place: &Place, errno: &str) {
    for words in ["status", "list", "log", "show one", "diff", "store stats", "store verify"] {
        let run = place.calve(words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    let run = place.calve("status w1");
    assert_eq!(run.code, Some(3), "{run:?}");
    for words in [
        "snapshot --json -m new",
        "start --json new --from two",
        "snapshot --json --of w1",
        "restore --json two w2",
        "restore --json w3",
        "name --json one eins",
        "store pack --json --all",
        "store warm --json one",
    ] {
        let before = place.picture();
        let run = place.calve(words);
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
        let run = place.calve(words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    assert_eq!(names(&place.folder()), ["w1", "w2", "w6"]);
}

#[test]
fn on_a_full_disk_what_reads_works_what_frees_space_works_and_the_rest_says_why_not() {
    let Some(place) = place("the ways out of a full disk", Options::default()) else { return };
    place.fill();
    assert_ways_out(&place, "ENOSPC");
    // With some room again everything works.
    place.give(30 << 20);
    place.must("snapshot -m new");
    place.must("start new --from two");
    place.must("snapshot --of w1");
    place.must("store verify");
}

/// A collection must write before it may remove anything.
#[test]
fn a_remote_on_a_full_disk_is_collected_and_then_takes_pushes_again() {
    let Some(disk) = disk("a remote on a full disk", Options::default()) else { return };
    let mut place = Place { disk, random: Random(7), nobody: false };
    let scratch = scratch();
    fs::create_dir(place.disk.path().join("remote")).unwrap();
    let url = format!("file://{}", place.disk.path().join("remote").to_str().unwrap());
    let must = |app: &Path, words: &str| {
        let run = calve(app, words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    };
    let [app, other] = ["app", "other"].map(|name| scratch.path().join(name));
    for (root, init) in [(&app, format!("remote init {url}")), (&other, "remote list".to_owned())] {
        fs::create_dir(root).unwrap();
        must(root, "init");
        must(root, &init);
        must(root, &format!("remote add team {url}"));
        for number in 0..8 {
            place.write(root, number);
        }
        must(root, "snapshot ready");
    }
    must(&app, "push ready");
    // The snapshot has no name there, so nobody needs it.
    let id = must(&other, "snapshot again").stdout.trim().to_owned();
    must(&other, &format!("push {id}"));
    place.write(&app, 0);
    must(&app, "snapshot ready");
    place.fill();
    let full = calve(&app, "push ready --json");
    assert_eq!(full.json()["error"]["kind"], "storage_full", "{full:?}");
    assert!(full.stderr.contains("calve remote gc"), "{full:?}");
    assert!(!full.stderr.contains("calve drop"), "{full:?}");
    let marked = must(&app, "remote gc --grace 0s --json").json();
    assert_eq!(marked["waiting"]["snapshots"], 1, "{marked}");
    place.fill();
    let removed = must(&app, "remote gc --grace 0s --json").json();
    assert_eq!(removed["removed"]["snapshots"], 1, "{removed}");
    must(&app, "push ready");
    must(&app, "remote verify");
    let reserve = place.disk.path().join("remote/reserve");
    assert_eq!(fs::metadata(reserve).unwrap().len(), 1 << 20);
}

/// Levels of room, from next to nothing to enough for anything here.
const LEVELS: [u64; 6] = [100 << 10, 600 << 10, 2 << 20, 5 << 20, 9 << 20, 45 << 20];

#[test]
fn a_disk_that_fills_up_on_the_way_is_told_of_and_its_space_is_given_back() {
    let Some(mut place) = place("a disk that fills up on the way", Options::default()) else {
        return;
    };
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
        "snapshot --json --of w1",
        "restore --json two w2",
        "restore --json w3",
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

/// More than the command reads before a start returns; it takes no room.
const LARGE: u64 = 65 << 20;

/// Holds the store's lock of naming, so that no process names contents in the meantime.
fn hold_naming(app: &Path) -> fs::File {
    let path = app.join(".calve/locks/naming");
    let file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    file
}

/// First the start, which publishes the worktree before its contents are read, and then the naming.
#[test]
fn a_first_start_and_its_naming_go_on_where_a_full_disk_stopped_them() {
    const TEST: &str = "a first start on a disk that fills up";
    if !expects_reflink() {
        return not_run(TEST, "files cannot be cloned here");
    }
    let Some(disk) = disk(TEST, Options::default()) else { return };
    let mut place = Place { disk, random: Random(7), nobody: false };
    let app = place.app();
    fs::create_dir_all(app.join("small")).unwrap();
    for number in 0..4 {
        place.write(&app, number);
    }
    for number in 0..3000 {
        fs::write(app.join(format!("small/f{number}")), format!("{number}\n")).unwrap();
    }
    fs::File::create(app.join("large")).unwrap().set_len(LARGE).unwrap();
    fs::create_dir(place.folder()).unwrap();
    place.must("init");
    let naming = hold_naming(&app);
    let [mut refused, mut done] = [0, 0];
    // Each with less and less too little, until there is enough.
    let mut until_there_is_room = |words: &str, mut frees: Option<&str>| {
        for level in [0].into_iter().chain(LEVELS) {
            place.fill();
            if level > 0 {
                place.give(level);
            }
            let before = place.picture();
            let free = place.disk.free();
            let run = calve(&app, words);
            if run.code == Some(0) {
                done += 1;
                return run;
            }
            refused += 1;
            place.assert_refused(&format!("{words} in {level}"), &run, "ENOSPC", &before);
            let lost = free.saturating_sub(place.disk.free());
            assert!(lost < KEPT_BYTES, "{words} in {level}: {lost} bytes are gone");
            place.must("store verify");
            let gc = place.calve("store gc --grace 0s");
            assert_eq!(gc.code, Some(0), "after {words} in {level}: {gc:?}");
            if let Some(words) = frees.take() {
                place.must(words);
                // The command freed nothing, so the next command needs the reserve.
                let reserve = fs::metadata(app.join(".calve/reserve")).unwrap().len();
                assert!(reserve >= 512 << 10, "{words} left {reserve} bytes of the reserve");
            }
            place.wait_for_background();
        }
        panic!("{words}: there is never room");
    };
    let started = until_there_is_room("start --json one other", None).json();
    assert!(started["snapshot"].is_null(), "its contents have no names yet: {started}");
    place.fill();
    drop(naming);
    place.wait_for_background();
    // calve cannot know which work a drop of the other worktree would lose, so it keeps the tree.
    let frees = Some("drop --force --quiet other");
    let named = until_there_is_room("status --json one", frees).json();
    assert_eq!(named["changes"].as_array().map(Vec::len), Some(0), "{named}");
    println!("{refused} times there was no room, {done} times there was");
    let one = place.folder().join("one");
    for path in ["big3", "small/f2999", "large"] {
        assert!(fs::read(app.join(path)).unwrap() == fs::read(one.join(path)).unwrap(), "{path}");
    }
    fs::remove_dir_all(place.disk.path().join("fill")).unwrap();
    assert_eq!(place.must("status").stdout, "", "the project is as its snapshot");
    place.must("start two");
    place.must("store verify");
    assert!(names(&place.folder()).starts_with(&["one".to_owned()]));
}

/// A disk may have room and no place for another file.
#[test]
fn where_no_file_can_be_made_any_more_what_frees_space_works_and_the_rest_says_why_not() {
    let make = match filesystem().as_str() {
        "ext4" => "-N 1500",
        "xfs" => "-i maxpct=1",
        "tmpfs" => "",
        // btrfs makes files as long as there is room.
        _ => return,
    };
    let mount = if make.is_empty() { "nr_inodes=1500" } else { "" };
    let Some(place) = place("the ways out where files run out", Options { make, mount }) else {
        return;
    };
    place.fill_with_names();
    let run = calve(&place.app(), "snapshot -m new");
    assert!(run.stderr.contains("df -hi"), "{run:?}");
    assert_ways_out(&place, "ENOSPC");
    fs::remove_dir_all(place.disk.path().join("fill")).unwrap();
    place.must("snapshot -m new");
    place.must("start new --from two");
    place.must("store verify");
}

/// Who may have how much, elsewhere in the kernel, and mostly with another errno.
struct Quota {
    name: &'static str,
    filesystem: &'static str,
    options: Options,
    nobody: bool,
    /// Run in the root of the filesystem: while it is empty, and for limits and no limits.
    begin: &'static [&'static str],
    limit: &'static [&'static str],
    lift: &'static str,
    errno: &'static str,
    fill: fn(&Place),
}

/// A little more than the project, its store and its worktrees take, in kilobytes; and in files.
macro_rules! limits {
    (bytes) => {
        "0 184320 0 0"
    };
    (files) => {
        "0 0 0 2500"
    };
}

const QUOTAS: &[Quota] = &[
    Quota {
        name: "a quota of btrfs",
        filesystem: "btrfs",
        options: Options { make: "", mount: "" },
        nobody: false,
        begin: &[],
        limit: &["btrfs quota enable .", "btrfs quota rescan -w .", "btrfs qgroup limit 80M ."],
        lift: "btrfs qgroup limit none .",
        errno: "EDQUOT",
        fill: Place::fill,
    },
    Quota {
        name: "a user's quota of XFS",
        filesystem: "xfs",
        options: Options { make: "", mount: "uquota" },
        nobody: true,
        begin: &[],
        limit: &[concat!("setquota -F xfs -u 65534 ", limits!(bytes), " .")],
        lift: "setquota -F xfs -u 65534 0 0 0 0 .",
        errno: "EDQUOT",
        fill: Place::fill,
    },
    Quota {
        name: "a user's quota of files of XFS",
        filesystem: "xfs",
        options: Options { make: "", mount: "uquota" },
        nobody: true,
        begin: &[],
        limit: &[concat!("setquota -F xfs -u 65534 ", limits!(files), " .")],
        lift: "setquota -F xfs -u 65534 0 0 0 0 .",
        errno: "EDQUOT",
        fill: Place::fill_with_names,
    },
    // Here it is for root as well.
    Quota {
        name: "a project's quota of XFS",
        filesystem: "xfs",
        options: Options { make: "", mount: "pquota" },
        nobody: false,
        begin: &["chattr -p 42 +P ."],
        limit: &[concat!("setquota -F xfs -P 42 ", limits!(bytes), " .")],
        lift: "setquota -F xfs -P 42 0 0 0 0 .",
        errno: "ENOSPC",
        fill: Place::fill,
    },
    Quota {
        name: "a project's quota of files of XFS",
        filesystem: "xfs",
        options: Options { make: "", mount: "pquota" },
        nobody: false,
        begin: &["chattr -p 42 +P ."],
        limit: &[concat!("setquota -F xfs -P 42 ", limits!(files), " .")],
        lift: "setquota -F xfs -P 42 0 0 0 0 .",
        errno: "ENOSPC",
        fill: Place::fill_with_names,
    },
    Quota {
        name: "a user's quota of ext4",
        filesystem: "ext4",
        options: Options { make: "-O quota", mount: "usrquota" },
        nobody: true,
        begin: &[],
        limit: &[concat!("setquota -u 65534 ", limits!(bytes), " .")],
        lift: "setquota -u 65534 0 0 0 0 .",
        errno: "EDQUOT",
        fill: Place::fill,
    },
    Quota {
        name: "a user's quota of files of ext4",
        filesystem: "ext4",
        options: Options { make: "-O quota", mount: "usrquota" },
        nobody: true,
        begin: &[],
        limit: &[concat!("setquota -u 65534 ", limits!(files), " .")],
        lift: "setquota -u 65534 0 0 0 0 .",
        errno: "EDQUOT",
        fill: Place::fill_with_names,
    },
    Quota {
        name: "a project's quota of ext4",
        filesystem: "ext4",
        options: Options {
            make: "-O quota,project -E quotatype=usrquota:prjquota",
            mount: "prjquota",
        },
        nobody: true,
        begin: &["chattr -p 42 +P ."],
        limit: &[concat!("setquota -P 42 ", limits!(bytes), " .")],
        lift: "setquota -P 42 0 0 0 0 .",
        errno: "EDQUOT",
        fill: Place::fill,
    },
];

#[test]
fn where_a_quota_is_used_up_what_frees_space_works_and_the_rest_says_why_not() {
    for quota in QUOTAS.iter().filter(|quota| quota.filesystem == filesystem()) {
        let Quota { name, errno, nobody, .. } = *quota;
        let Some(disk) = disk(name, quota.options) else { continue };
        let home = disk.path();
        for (path, mode) in [(home.parent().unwrap(), 0o755), (&*home, 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let run = |words: &[&str]| words.iter().try_for_each(|words| tool(&home, words).map(drop));
        if let Err(why) = run(quota.begin) {
            not_run(name, &why);
            continue;
        }
        let there = || {
            [&*home, Path::new(env!("CARGO_BIN_EXE_calve"))]
                .iter()
                .all(|path| fs::metadata(path).is_ok())
        };
        if nobody && !as_nobody(there) {
            not_run(name, "nobody may not look where the tests run");
            continue;
        }

        println!("{name}");
        let place = Place::new(disk, nobody);
        place.sync();
        if let Err(why) = run(quota.limit) {
            not_run(name, &why);
            continue;
        }
        (quota.fill)(&place);
        let refused = place.as_owner(|| fs::write(home.join("fill/one-more"), vec![1; 1 << 20]));
        let kind = if errno == "EDQUOT" {
            io::ErrorKind::QuotaExceeded
        } else {
            io::ErrorKind::StorageFull
        };
        assert_eq!(refused.unwrap_err().kind(), kind, "{name}");
        assert_ways_out(&place, errno);
        run(&[quota.lift]).unwrap();
        place.must("snapshot -m new");
        place.must("store verify");
    }
}

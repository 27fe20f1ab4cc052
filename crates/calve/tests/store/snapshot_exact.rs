//! Promise: a snapshot is the tree. A tree that is started from it is equal to it, entry by entry,
//! in all properties of an entry. A snapshot reads only the changed files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use calve::{
    DamageKind, DestinationReport, PackOptions, SkipReason, SnapshotOptions, SnapshotReport, Store,
    VerifyOptions,
};

use crate::common;
use crate::common::git::{Dice, rounds};
use crate::common::snapshot::{Kind, Snapshot, assert_same, only};
use crate::common::{bytes, expects_reflink, filesystem, in_child, odd};
use crate::stores::{
    Desk, after_a_tick, assert_arrived, assert_sound, options, put, set_mode, stamp, status, tree,
};

fn odd_desk() -> Desk {
    Desk::new(odd::build)
}

/// The project as a worktree of it must be: without sockets, which mean nothing elsewhere.
fn wanted(project: &Path) -> Snapshot {
    only(&tree(project), |_, entry| entry.kind != Kind::Socket)
}

fn skipped(report: &SnapshotReport) -> Vec<(&Path, &SkipReason)> {
    report.skipped.iter().map(|skipped| (skipped.path.as_path(), &skipped.reason)).collect()
}

/// Starts `name` from the project's last snapshot.
fn start(desk: &Desk, name: &str) -> (PathBuf, DestinationReport) {
    let latest = desk.store.latest().unwrap().unwrap();
    let from = calve::StartOptions::new().from(latest);
    let report = desk.store.start(&[name], &from, &options()).unwrap().worktrees.remove(0).report;
    (report.path.clone(), report)
}

#[test]
fn a_worktree_of_the_odd_tree_is_the_odd_tree() {
    let desk = odd_desk();
    let taken = desk.store.snapshot(&SnapshotOptions::new().message("odd"), &options()).unwrap();
    assert_eq!(skipped(&taken), [(Path::new("special/socket"), &SkipReason::Socket)]);
    // A probe in the project itself would change the time of its folder.
    if expects_reflink(desk.project.parent().unwrap()) {
        assert_eq!(taken.copied_files, 0, "{taken:?}");
        assert!(taken.cloned_files > 50, "{taken:?}");
    } else {
        assert_eq!(taken.cloned_files, 0, "{taken:?}");
        assert!(taken.copied_files > 50, "{taken:?}");
    }
    let wanted = wanted(&desk.project);
    // On btrfs the first start and the later ones go different ways.
    for name in ["one", "two", "three"] {
        let (path, report) = start(&desk, name);
        assert_arrived(&report);
        assert_eq!(report.skipped, [], "{name}");
        assert_same(&wanted, &tree(&path), name);
        assert_eq!(status(&desk.store.worktree(name).unwrap()), [""; 0], "{name}");
    }
    assert_sound(&desk.store);
}

#[test]
fn a_worktree_is_the_same_after_all_content_was_packed() {
    let desk = odd_desk();
    desk.snapshot();
    let wanted = wanted(&desk.project);
    let packed = desk.store.pack(&PackOptions::new().all(true), &options()).unwrap();
    assert_eq!(packed.damaged, []);
    assert!(
        packed.packed_blobs > 50 && packed.dropped_mirrors == packed.packed_blobs,
        "{packed:?}"
    );
    assert_eq!(assert_sound(&desk.store).mirrors, 0, "all mirrors were dropped");
    let (path, report) = start(&desk, "one");
    assert_arrived(&report);
    // Holes, too: a pack does not record them, but in this tree all zeros are holes.
    assert_same(&wanted, &tree(&path), "started from a pack");
    // Unpacked content is a mirror again, and vouched for.
    let found = assert_sound(&desk.store);
    assert!(found.mirrors >= packed.packed_blobs && found.unsealed_mirrors == 0, "{found:?}");
}

#[test]
fn a_worktree_of_a_second_snapshot_is_the_changed_tree() {
    let desk = odd_desk();
    desk.snapshot();
    let changed = desk.project.join("sizes/4097");
    fs::write(&changed, bytes(77, 4097)).unwrap();
    set_mode(&desk.project.join("folders/0775"), 0o705);
    fs::remove_file(desk.project.join("hard/a-too")).unwrap();
    after_a_tick();
    let second = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert!(second.new);
    // The file that lost a name has another change time, so it is looked at again under each of
    // those that are left.
    assert_eq!(second.read_files, 1 + 3, "{second:?}");
    let (path, report) = start(&desk, "one");
    assert_arrived(&report);
    assert_same(&wanted(&desk.project), &tree(&path), "of the second snapshot");
}

#[test]
fn a_umask_of_077_clips_nothing() {
    in_child("a_umask_of_077_clips_nothing", "077", || {
        let desk = odd_desk();
        let wanted = wanted(&desk.project);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        desk.snapshot();
        let (path, _) = start(&desk, "one");
        assert_same(&wanted, &tree(&path), "under umask 077");
        desk.store.pack(&PackOptions::new().all(true), &options()).unwrap();
        let (path, _) = start(&desk, "two");
        assert_same(&wanted, &tree(&path), "unpacked under umask 077");
    });
}

#[test]
fn what_calveignore_names_is_left_out_as_git_would() {
    let desk = Desk::small();
    let root = &desk.project;
    put(root, ".calveignore", "# comment\n*.log\n/target/\n!keep.log\nbuild\ndocs/**/*.tmp\n");
    put(root, "a.log", "1");
    put(root, "keep.log", "1");
    put(root, "src/deep/b.log", "1");
    put(root, "src/target/kept", "1");
    put(root, "build/out", "1");
    put(root, "src/build/out", "1");
    put(root, "docs/x.tmp", "1");
    put(root, "docs/a/b/x.tmp", "1");
    put(root, "docs/a/b/x.md", "1");
    // Nested: it adds rules, and takes one back.
    put(root, "src/.calveignore", "!b.log\n/only-here\n");
    put(root, "src/only-here", "1");
    put(root, "src/deep/only-here", "1");
    put(root, "only-here", "1");
    desk.snapshot();
    let (path, _) = start(&desk, "one");
    let found: Vec<String> = tree(&path)
        .into_iter()
        .filter(|(_, entry)| entry.kind == Kind::File)
        .map(|(path, _)| path.to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        found,
        [
            ".calveignore",
            "README",
            "docs/a/b/x.md",
            "docs/guide/first.md",
            "docs/guide/second.md",
            "keep.log",
            "only-here",
            "run.sh",
            "src/.calveignore",
            "src/deep/b.log",
            "src/deep/only-here",
            "src/lib.rs",
            "src/main.rs",
            "src/target/kept",
        ]
    );
    // An ignored file is no change either, in the project or in a worktree.
    put(&path, "more.log", "1");
    put(&path, "target/x", "1");
    assert_eq!(status(&desk.store.worktree("one").unwrap()), [""; 0]);
    assert_eq!(status(&desk.store.project_worktree().unwrap()), [""; 0]);
}

#[test]
fn equal_files_are_stored_once() {
    let desk = Desk::new(|root| {
        fs::create_dir(root).unwrap();
        for number in 0..20 {
            put(root, &format!("d{number}/same"), bytes(1, 10_000));
            put(root, &format!("d{number}/other"), bytes(number + 2, 10_000));
            put(root, &format!("d{number}/empty"), "");
        }
    });
    let taken = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!((taken.files, taken.read_files), (60, 60));
    assert_eq!(assert_sound(&desk.store).mirrors, 21, "an empty file needs none");
    put(&desk.project, "again", bytes(1, 10_000));
    let second = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!((second.cloned_files, second.copied_files), (0, 0), "{second:?}");
    assert_eq!(assert_sound(&desk.store).mirrors, 21);
}

#[test]
fn a_second_snapshot_reads_only_what_changed_and_an_unchanged_tree_is_the_same_snapshot() {
    let desk = odd_desk();
    after_a_tick();
    let first = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert!(first.new && first.read_files > 50);
    let again = |what: &str, expected: (bool, u64)| {
        let store = Store::open(desk.store.path()).unwrap();
        let found = store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
        assert_eq!((found.new, found.read_files), expected, "{what}: {found:?}");
        found.id
    };
    assert_eq!(again("unchanged", (false, 0)), first.id);
    let file = desk.project.join("sizes/65536");
    fs::write(&file, bytes(78, 65536)).unwrap();
    after_a_tick();
    let second = again("one file changed", (true, 1));
    assert_eq!(again("unchanged", (false, 0)), second);
    odd::set_mtime(&file, 1_000_000_001, 3);
    after_a_tick();
    let third = again("one file touched", (true, 1));
    put(&desk.project, "links/new", "new");
    after_a_tick();
    again("one file added", (true, 1));
    fs::remove_file(desk.project.join("links/new")).unwrap();
    let fourth = again("one file removed", (true, 0));
    assert_ne!(third, fourth, "the folder has another time, and the parent is another");
    let told = desk.store.snapshot(&SnapshotOptions::new().message("told"), &options()).unwrap();
    assert!(told.new, "a message is worth a snapshot");
    assert_eq!(desk.store.show(told.id).unwrap().parent, Some(fourth));
}

#[test]
fn a_look_at_a_tree_leaves_no_access_times() {
    use std::os::unix::fs::MetadataExt as _;

    let desk = Desk::new(|project| {
        fs::create_dir_all(project.join("a/b")).unwrap();
        put(project, "a/one", b"one");
        put(project, "a/b/two", bytes(2, 300_000));
    });
    let names = ["a", "a/b", "a/one", "a/b/two"].map(|name| desk.project.join(name));
    // Older than the last change, so the kernel would set it at the first look (`relatime`).
    let long_ago = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
    for name in &names {
        fs::File::open(name).unwrap().set_times(long_ago).unwrap();
    }
    let accessed = || names.clone().map(|name| fs::symlink_metadata(name).unwrap().atime());
    desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!(accessed(), [0; 4], "a snapshot");
    desk.store.project_worktree().unwrap().status(&options()).unwrap();
    assert_eq!(accessed(), [0; 4], "a status");
}

#[test]
fn what_is_stored_is_vouched_for_whoever_opens_the_store_next() {
    let desk = odd_desk();
    desk.snapshot();
    let store = Store::open(desk.store.path()).unwrap();
    let found = store.verify(&VerifyOptions::new(), &options()).unwrap();
    assert!(found.mirrors > 50 && found.unsealed_mirrors == 0, "{found:?}");
    // Nothing would have to be made, or hashed, before it could be started from.
    let warm = store.warm(&[], &options()).unwrap();
    assert!(warm.blobs > 50 && warm.made_mirrors == 0, "{warm:?}");
    store.pack(&PackOptions::new().all(true), &options()).unwrap();
    let cold = store.warm(&[], &options()).unwrap();
    assert_eq!(cold.made_mirrors, warm.blobs, "{cold:?}");
    let store = Store::open(desk.store.path()).unwrap();
    assert_eq!(store.warm(&[], &options()).unwrap().made_mirrors, 0);
}

/// The first bytes of a stream. A growing file always has the first bytes of this stream.
fn stream(length: usize) -> Vec<u8> {
    bytes(4711, length)
}

/// A content that begins with a seed, from which the length and the bytes of the rest follow.
fn sealed_content(seed: u64) -> Vec<u8> {
    let length = 100 + usize::try_from(seed % 50).unwrap() * 997;
    let mut content = format!("{seed:020}").into_bytes();
    content.extend(bytes(seed, length));
    content
}

/// Whether a file is whole, by the rule of its folder.
fn is_whole(path: &Path, content: &[u8], all: &[u8]) -> bool {
    if path.starts_with("appended") || path.starts_with("cut") || path.starts_with("linked") {
        return all.starts_with(content);
    }
    let seed = content.get(..20).and_then(|digits| std::str::from_utf8(digits).ok());
    seed.and_then(|digits| digits.parse().ok()).is_some_and(|seed| sealed_content(seed) == content)
}

/// Changes files until `stop`. Each step leaves a whole file.
fn churn(root: &Path, all: &[u8], stop: &AtomicBool) {
    let mut step = 0_u64;
    let at = |folder: &str, number: u64| root.join(folder).join(format!("f{}", number % 8));
    while !stop.load(Ordering::Relaxed) {
        step += 1;
        for (folder, much) in [("appended", 700), ("linked", 300)] {
            let path = at(folder, step);
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
            if length + much < all.len() {
                file.write_all(&all[length..length + much]).unwrap();
            }
        }
        let path = at("cut", step);
        if step.is_multiple_of(3) {
            fs::write(&path, &all[..60_000]).unwrap();
        } else {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }
        let new = root.join("replaced").join("new");
        fs::write(&new, sealed_content(step)).unwrap();
        fs::rename(&new, at("replaced", step)).unwrap();
        let gone = at("deleted", step);
        if fs::remove_file(&gone).is_err() {
            let new = root.join("new");
            fs::write(&new, sealed_content(step)).unwrap();
            fs::rename(&new, &gone).unwrap();
        }
        // A folder that goes and comes back, and a name that is a folder, nothing, and a link to
        // one.
        let (there, away) =
            (root.join("still").join(format!("{}", step / 2 % 8)), root.join("away"));
        if step.is_multiple_of(2) {
            fs::rename(&there, &away).unwrap();
        } else if step > 1 {
            fs::rename(&away, &there).unwrap();
        }
        let turns = root.join("turns");
        match step % 4 {
            0 => fs::create_dir(&turns).unwrap(),
            1 if step > 1 => fs::remove_dir(&turns).unwrap(),
            2 => std::os::unix::fs::symlink("still", &turns).unwrap(),
            3 => fs::remove_file(&turns).unwrap(),
            _ => {}
        }
        if step.is_multiple_of(16) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_snapshot_of_a_tree_in_motion_tears_no_file() {
    let all = stream(4_000_000);
    let desk = Desk::new(|root| {
        fs::create_dir(root).unwrap();
        for number in 0..8 {
            put(root, &format!("appended/f{number}"), &all[..1000]);
            put(root, &format!("linked/f{number}"), &all[..1000]);
            fs::create_dir_all(root.join("linked-too")).unwrap();
            let (old, new) = (format!("linked/f{number}"), format!("linked-too/f{number}"));
            fs::hard_link(root.join(old), root.join(new)).unwrap();
            put(root, &format!("cut/f{number}"), &all[..60_000]);
            put(root, &format!("replaced/f{number}"), sealed_content(number));
            put(root, &format!("deleted/f{number}"), sealed_content(number));
            // Enough files to make a scan last.
            for still in 0..30 {
                put(root, &format!("still/{number}/{still}"), sealed_content(number * 100 + still));
            }
        }
        fs::write(root.join("new"), sealed_content(0)).unwrap();
    });
    let stop = AtomicBool::new(false);
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&desk.project, &all, &stop));
        for round in 0..6 {
            let taken = desk.store.snapshot(&SnapshotOptions::new(), &options());
            let Ok(taken) = taken else {
                stop.store(true, Ordering::Relaxed);
                panic!("{round}: {taken:?}");
            };
            for skipped in &taken.skipped {
                *reasons.entry(format!("{:?}", skipped.reason)).or_default() += 1;
            }
            let (path, _) = start(&desk, &format!("w{round}"));
            let found = status(&desk.store.worktree(&format!("w{round}")).unwrap());
            let torn: Vec<PathBuf> = tree(&path)
                .into_iter()
                .filter(|(_, entry)| entry.kind == Kind::File)
                .map(|(file, _)| file)
                // A file that is being written for the first time may be caught half way.
                .filter(|file| !matches!(file.to_str(), Some("new" | "replaced/new")))
                .filter(|file| {
                    let rule = file.to_str().unwrap().replace("linked-too", "linked");
                    // A file is not whole between its truncation and its write.
                    let content = fs::read(path.join(file)).unwrap();
                    !is_whole(Path::new(&rule), &content, &all)
                })
                .collect();
            if !torn.is_empty() || !found.is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(torn, Vec::<PathBuf>::new(), "in round {round}");
            assert_eq!(found, [""; 0], "a fresh worktree is clean, in round {round}");
        }
        stop.store(true, Ordering::Relaxed);
        churning.join().unwrap();
    });
    // A folder that names come into and go from all the time may never be listed whole.
    let expected = ["Changing", "Restless", "Vanished"];
    assert!(reasons.keys().all(|reason| expected.contains(&reason.as_str())), "{reasons:?}");
    assert_sound(&desk.store);
    // When all is quiet, the snapshot is the tree again.
    let taken = desk.store.snapshot(&SnapshotOptions::new(), &options()).unwrap();
    assert_eq!(skipped(&taken), []);
    let (path, _) = start(&desk, "quiet");
    assert_same(&tree(&desk.project), &tree(&path), "after the motion");
}

/// One random change of the tree at `root`; none if it is not possible.
fn change(root: &Path, dice: &mut Dice, number: usize) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, chown, symlink};
    let paths: Vec<(PathBuf, Kind)> = tree(root)
        .into_iter()
        .filter(|(path, _)| path.components().next().is_some() && path != Path::new("anchor"))
        .map(|(path, entry)| (root.join(path), entry.kind))
        .collect();
    let (path, kind) = &paths[dice.roll(paths.len())];
    let is_folder = *kind == Kind::Directory;
    let folder = if is_folder { path.as_path() } else { path.parent().unwrap() };
    let new = folder.join(format!("new-{number}"));
    let (before, meta) = (fs::symlink_metadata(folder)?, fs::symlink_metadata(path)?);
    match dice.roll(16) {
        0 if *kind == Kind::File => {
            fs::write(path, bytes(number as u64, usize::try_from(meta.len()).unwrap()))?;
        }
        1 if *kind == Kind::File => fs::write(path, bytes(number as u64, dice.roll(9000)))?,
        2 if *kind == Kind::File => {
            fs::File::options().write(true).open(path)?.set_len(meta.len() + 300_000)?;
        }
        3 if !is_folder => fs::remove_file(path)?,
        4 if *kind != Kind::Symlink => odd::chmod(path, [0o600, 0o750, 0o4711][dice.roll(3)]),
        5 => odd::set_mtime(path, 1_000_000_000 + number as i64, 7),
        6 if !is_folder => fs::hard_link(path, &new)?,
        7 if !is_folder => {
            fs::remove_file(path)?;
            symlink("anchor", path)?;
        }
        8 => fs::create_dir(&new)?,
        9 => fs::rename(path, root.join(format!("moved-{number}")))?,
        10 if is_folder && dice.roll(4) == 0 => fs::remove_dir_all(path)?,
        11 if *kind == Kind::File => {
            odd::set_xattr(path, "user.new", format!("{number}").as_bytes())?;
        }
        12 if is_folder => odd::set_xattr(path, "user.new", b"folder")?,
        13 if !is_folder => {
            fs::remove_file(path)?;
            fs::create_dir(path)?;
            fs::write(path.join("inside"), "inside")?;
        }
        14 => chown(path, Some([12, 1234][dice.roll(2)]), None)?,
        _ => fs::write(&new, bytes(number as u64, dice.roll(5000)))?,
    }
    if dice.roll(3) == 0 && common::is_there(folder) {
        odd::set_mtime(folder, before.mtime(), before.mtime_nsec());
    }
    Ok(())
}

/// The inode of a file in the one tree that waits to be handed over, and the tree. Nothing is
/// listed for that but the folder of all waiting trees.
fn waiting(store: &Store, file: &str) -> (u64, PathBuf) {
    use std::os::unix::fs::MetadataExt as _;
    let folder = store.path().join("templates");
    let folders = common::names(&folder);
    assert_eq!(folders.len(), 1, "{folders:?}");
    let folder = folder.join(&folders[0]);
    let about = fs::read(folder.join("about")).unwrap();
    let name = about.windows(5).position(|part| part == b"tree-").unwrap();
    let name = std::str::from_utf8(&about[name..name + 5 + 32]).unwrap();
    let tree = folder.join(name);
    (fs::metadata(tree.join(file)).unwrap().ino(), tree)
}

/// A start after a few changes does not make all files again: it brings a tree there that waits for
/// it, or on btrfs one that an earlier start left behind.
#[test]
fn a_tree_that_was_brought_to_a_snapshot_is_equal_to_the_project_in_everything() {
    let is_btrfs = filesystem(common::Scratch::new().path()) == "btrfs";
    for seed in rounds(1) {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let scratch = common::Scratch::new();
        let project = scratch.join("project");
        odd::build(&project);
        put(&project, "anchor", bytes(1, 5000));
        // The project is read as a whole, and a ready tree that was read is a good one no more.
        let store = Store::init_at(&project, scratch.join("store")).unwrap();
        let desk = Desk { scratch, project, store };
        desk.snapshot();
        let anchor = |root: &Path| stamp(&root.join("anchor"));
        let first = anchor(&start(&desk, "first").0);
        if !is_btrfs {
            desk.store.keep_ready_trees(1).unwrap();
        }
        for round in 0..6 {
            let made = desk.store.make_ready_trees(&options()).unwrap();
            assert!(made.ready == 1 && !made.stopped, "{made:?}");
            for number in 0..dice.roll(12) {
                let _ = change(&desk.project, &mut dice, 100 * round + number);
            }
            let row = format!("seed {seed}, round {round}");
            let is_new = desk.store.latest().unwrap() != Some(desk.snapshot());
            if round % 2 == 0 {
                let again = desk.store.make_ready_trees(&options()).unwrap();
                let brought = u64::from(is_new && !is_btrfs);
                assert_eq!((again.ready, again.brought, again.made), (1, brought, 0), "{row}");
            }
            let inode = (!is_btrfs).then(|| waiting(&desk.store, "anchor").0);
            let name = format!("w{round}");
            let (path, report) = start(&desk, &name);
            let found = anchor(&path).0;
            assert!(inode.is_none_or(|inode| inode == found), "{row}: it was not handed over");
            assert_eq!(report.skipped, [], "{row}");
            let (mut wanted, mut found) = (wanted(&desk.project), tree(&path));
            if !is_btrfs {
                // XFS reserves blocks behind bytes that were just written, and reports them as
                // data.
                wanted.values_mut().chain(found.values_mut()).for_each(|it| it.data.clear());
            }
            assert_same(&wanted, &found, &row);
            let worktree = desk.store.worktree(&name).unwrap();
            assert_eq!(status(&worktree), [""; 0], "{row}");
            assert!(!is_btrfs || anchor(&path) == first, "{row}: all files were made again");
        }
        let kept = common::names(&desk.store.path().join("templates"));
        let kept = kept.iter().filter(|name| name.ends_with(".seal")).count();
        assert!(kept <= 8, "{kept}");
        assert_sound(&desk.store);
    }
}

/// Whether the first listing of a folder sets its access time.
fn listing_leaves_a_trace(parent: &Path) -> bool {
    let folder = parent.join("listed");
    fs::create_dir(&folder).unwrap();
    odd::set_mtime(&folder, 1, 1);
    common::names(&folder);
    let is_set = std::os::unix::fs::MetadataExt::atime(&fs::metadata(&folder).unwrap()) != 1;
    fs::remove_dir(&folder).unwrap();
    is_set
}

fn cut(file: &Path) {
    fs::File::options().write(true).open(file).unwrap().set_len(50).unwrap();
}

#[test]
fn a_tree_that_somebody_touched_is_not_handed_over_and_verify_says_so() {
    type Touch = fn(&Path);
    let rows: [(&str, Touch); 12] = [
        ("nobody", |_| {}),
        ("a file was written to", |it| {
            fs::write(it.join("README"), "other").unwrap();
        }),
        ("a file has another mode", |it| set_mode(&it.join("README"), 0o600)),
        ("a file was replaced", |it| {
            let content = fs::read(it.join("README")).unwrap();
            fs::write(it.with_file_name("new"), content).unwrap();
            fs::rename(it.with_file_name("new"), it.join("README")).unwrap();
        }),
        ("a file is gone", |it| fs::remove_file(it.join("README")).unwrap()),
        ("a file was added and removed", |it| {
            fs::write(it.join("src/new"), "new").unwrap();
            fs::remove_file(it.join("src/new")).unwrap();
        }),
        ("the root has another time", |it| odd::set_mtime(it, 1, 1)),
        ("the tree is gone", |it| fs::remove_dir_all(it).unwrap()),
        ("the tree is a link", |it| {
            fs::rename(it, it.with_file_name("there")).unwrap();
            std::os::unix::fs::symlink("there", it).unwrap();
        }),
        ("the tree has another name", |it| fs::rename(it, it.with_file_name("there")).unwrap()),
        ("the index is cut", |it| cut(&it.with_file_name("index"))),
        ("what is known of it is cut", |it| cut(&it.with_file_name("about"))),
    ];
    let desk = Desk::small();
    if filesystem(&desk.project) == "btrfs" {
        let test = "a_tree_that_somebody_touched_is_not_handed_over_and_verify_says_so";
        return common::not_run(test, "on btrfs no tree waits");
    }
    desk.snapshot();
    desk.store.keep_ready_trees(1).unwrap();
    for (number, (row, touch)) in rows.into_iter().enumerate() {
        desk.store.make_ready_trees(&options()).unwrap();
        let (inode, waits) = waiting(&desk.store, "README");
        let folder = waits.parent().unwrap().to_owned();
        // A tree of which no folder was listed is not looked at: see the next test.
        common::names(&folder);
        // While it is open, no other file gets its inode number.
        let _open = fs::File::open(waits.join("README")).unwrap();
        after_a_tick();
        touch(&waits);
        let found = desk.store.verify(&VerifyOptions::new(), &options()).unwrap().damage;
        let found: Vec<_> = found.iter().map(|it| (it.kind, it.path.as_path())).collect();
        let touched = [(DamageKind::ReadyTree, folder.as_path())];
        assert_eq!(found, touched[usize::from(row == "nobody")..], "{row}");
        let (path, report) = start(&desk, &format!("w{number}"));
        let is_same = stamp(&path.join("README")).0 == inode;
        assert_eq!(is_same, row == "nobody", "{row}");
        assert_arrived(&report);
        assert_same(&wanted(&desk.project), &tree(&path), row);
        assert_eq!(status(&desk.store.worktree(&format!("w{number}")).unwrap()), [""; 0], "{row}");
        assert_eq!(common::names(&desk.store.path().join("templates")), [""; 0], "{row}");
    }
    desk.store.make_ready_trees(&options()).unwrap();
    let (_, waits) = waiting(&desk.store, "README");
    after_a_tick();
    fs::write(waits.join("README"), "other").unwrap();
    let repaired = desk.store.verify(&VerifyOptions::new().repair(true), &options()).unwrap();
    assert!(repaired.damage.iter().all(|damage| damage.repaired), "{repaired:?}");
    assert_eq!(common::names(&desk.store.path().join("templates")), [""; 0]);
    desk.store.empty_trash().unwrap();
    assert_sound(&desk.store);
}

/// Who wants to change a file of a tree that waits must find it, and finds it by listing folders.
/// So if no folder was listed, a start looks at none of the files. Somebody
/// may know the path without listing a folder. The worktree's first `status` shows such a change.
#[test]
fn a_tree_of_which_a_folder_was_listed_is_looked_at_and_no_change_of_another_is_hidden() {
    type Touch = fn(&Path);
    let rows: [(&str, bool, Touch); 12] = [
        ("nobody", false, |_| {}),
        ("the index is gone", true, |it| fs::remove_file(it.with_file_name("index")).unwrap()),
        ("the index is cut", true, |it| cut(&it.with_file_name("index"))),
        ("the index is a folder", true, |it| {
            fs::remove_file(it.with_file_name("index")).unwrap();
            fs::create_dir(it.with_file_name("index")).unwrap();
        }),
        ("a file was read", false, |it| drop(fs::read(it.join("README")).unwrap())),
        ("somebody looked at a folder", false, |it| assert!(it.join("src").is_dir())),
        ("the folder around it was listed", true, |it| drop(common::names(it.parent().unwrap()))),
        ("its root was listed", true, |it| drop(common::names(it))),
        ("a folder was listed", true, |it| drop(common::names(&it.join("src")))),
        ("a file was added and removed", true, |it| {
            fs::write(it.join("src/new"), "new").unwrap();
            fs::remove_file(it.join("src/new")).unwrap();
        }),
        ("a folder has another mode", true, |it| set_mode(&it.join("src"), 0o700)),
        ("somebody copied the tree", true, |it| drop(tree(it))),
    ];
    let desk = Desk::small();
    let test =
        "a_tree_of_which_a_folder_was_listed_is_looked_at_and_no_change_of_another_is_hidden";
    if filesystem(&desk.project) == "btrfs" {
        return common::not_run(test, "on btrfs no tree waits");
    }
    if !listing_leaves_a_trace(desk.project.parent().unwrap()) {
        return common::not_run(test, "listing a folder does not set its access time here");
    }
    desk.snapshot();
    desk.store.keep_ready_trees(1).unwrap();
    for (number, (row, is_looked_at, touch)) in rows.into_iter().enumerate() {
        desk.store.make_ready_trees(&options()).unwrap();
        let (inode, waits) = waiting(&desk.store, "README");
        let _open = fs::File::open(waits.join("README")).unwrap();
        after_a_tick();
        touch(&waits);
        fs::write(waits.join("README"), "other").unwrap();
        let (path, report) = start(&desk, &format!("w{number}"));
        assert_arrived(&report);
        let is_handed_over = stamp(&path.join("README")).0 == inode;
        assert_eq!(is_handed_over, !is_looked_at, "{row}");
        let changed: &[&str] = if is_handed_over { &["M README"] } else { &[] };
        assert_eq!(status(&desk.store.worktree(&format!("w{number}")).unwrap()), changed, "{row}");
        if is_handed_over {
            put(&path, "README", fs::read(desk.project.join("README")).unwrap());
        }
        assert_eq!(status(&desk.store.worktree(&format!("w{number}")).unwrap()), [""; 0], "{row}");
    }
    assert_sound(&desk.store);
}

/// When a tree is brought to another snapshot, files with several names get a new stat in its
/// index. It must not vouch for a content that nobody looked at.
#[test]
fn a_change_of_a_waiting_tree_is_not_hidden_when_the_tree_is_brought_to_another_snapshot() {
    let test =
        "a_change_of_a_waiting_tree_is_not_hidden_when_the_tree_is_brought_to_another_snapshot";
    let desk = Desk::new(|project| {
        common::plain_tree(project, 2, 20, 100);
        put(project, "one", "of two names");
        fs::hard_link(project.join("one"), project.join("two")).unwrap();
        put(project, "alone", "of one name.");
    });
    if filesystem(&desk.project) == "btrfs" {
        return common::not_run(test, "on btrfs no tree waits");
    }
    desk.snapshot();
    desk.store.keep_ready_trees(1).unwrap();
    for (number, (file, by_refill)) in
        [("one", false), ("one", true), ("alone", false), ("alone", true)].into_iter().enumerate()
    {
        let row = format!("{file}, {by_refill}");
        desk.store.make_ready_trees(&options()).unwrap();
        let (_, waits) = waiting(&desk.store, file);
        after_a_tick();
        // Only the change time shows it.
        let (_, _, _, seconds, nanoseconds) = stamp(&waits.join(file));
        let mut written = fs::File::options().write(true).open(waits.join(file)).unwrap();
        written.write_all(b"OF").unwrap();
        drop(written);
        odd::set_mtime(&waits.join(file), seconds, nanoseconds);
        put(&desk.project, "edited", format!("{number}"));
        desk.snapshot();
        if by_refill {
            desk.store.make_ready_trees(&options()).unwrap();
        }
        let name = format!("w{number}");
        let (path, _) = start(&desk, &name);
        let is_changed = fs::read(path.join(file)).unwrap().starts_with(b"OF");
        let changed: Vec<String> = is_changed.then(|| format!("M {file}")).into_iter().collect();
        assert_eq!(status(&desk.store.worktree(&name).unwrap()), changed, "{row}");
        assert!(!is_changed || file == "alone", "{row}: it was handed over");
    }
}

/// The subvolume snapshots that wait on btrfs, beside the ready trees.
fn waiting_snapshots(store: &Store) -> Vec<PathBuf> {
    let folder = store.path().join("templates");
    let is_number = |name: &str| name.parse::<u64>().is_ok();
    let is_one = |name: &str| name.split_once('.').is_some_and(|(_, number)| is_number(number));
    let names = common::names(&folder).into_iter().filter(|name| is_one(name));
    names.map(|name| folder.join(name)).collect()
}

/// The number that stays with a subvolume wherever it is renamed to.
fn subvolume(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::dev(&fs::metadata(path).unwrap())
}

#[test]
fn on_btrfs_a_start_takes_the_snapshot_that_waits_unless_somebody_touched_it() {
    let test = "on_btrfs_a_start_takes_the_snapshot_that_waits_unless_somebody_touched_it";
    type Touch = fn(&Path);
    let rows: [(&str, bool, Touch); 14] = [
        ("nobody", true, |_| {}),
        ("somebody looked at it", true, |it| drop(tree(it))),
        ("a write that waits to be written back", false, |it| {
            let mut file = fs::File::options().append(true).open(it.join("README")).unwrap();
            file.write_all(b"more").unwrap();
        }),
        ("a write that was flushed", false, |it| {
            let mut file = fs::File::options().append(true).open(it.join("README")).unwrap();
            file.write_all(b"more").unwrap();
            file.sync_all().unwrap();
        }),
        ("a file was replaced", false, |it| fs::write(it.join("README"), "other").unwrap()),
        ("a file has another mode", false, |it| set_mode(&it.join("README"), 0o600)),
        ("a file is gone", false, |it| fs::remove_file(it.join("README")).unwrap()),
        ("a file was added to the root and removed", false, |it| {
            fs::write(it.join("new"), "new").unwrap();
            fs::remove_file(it.join("new")).unwrap();
        }),
        ("the root has another time", false, |it| odd::set_mtime(it, 1, 1)),
        ("the snapshot is gone", false, |it| fs::remove_dir_all(it).unwrap()),
        ("it is a plain folder", false, |it| {
            fs::remove_dir_all(it).unwrap();
            fs::create_dir(it).unwrap();
            fs::write(it.join("README"), "other").unwrap();
        }),
        ("it is a link", false, |it| {
            fs::rename(it, it.with_extension("aside")).unwrap();
            std::os::unix::fs::symlink(it.with_extension("aside"), it).unwrap();
        }),
        ("the ready tree was touched", true, |it| {
            fs::write(it.with_extension("").join("README"), "other").unwrap();
        }),
        ("the ready tree is gone", true, |it| {
            fs::remove_dir_all(it.with_extension("")).unwrap();
        }),
    ];
    let desk = Desk::small();
    if filesystem(&desk.project) != "btrfs" {
        return common::not_run(test, "only on btrfs a snapshot waits");
    }
    desk.snapshot();
    desk.store.keep_ready_trees(1).unwrap();
    for (number, (row, is_good, touch)) in rows.into_iter().enumerate() {
        let made = desk.store.make_ready_trees(&options()).unwrap();
        assert!(made.ready == 2 && !made.stopped, "{row}: {made:?}");
        let [waits] = &waiting_snapshots(&desk.store)[..] else { panic!("{row}") };
        let was = subvolume(waits);
        let _open = fs::File::open(waits).unwrap();
        after_a_tick();
        touch(waits);
        let (path, report) = start(&desk, &format!("w{number}"));
        assert_eq!(report.method, calve::Method::Snapshot, "{row}");
        // A mount that sets access times breaks the seal of a tree that was listed.
        let is_looked_at = row.starts_with("somebody looked");
        assert!(subvolume(&path) == was || !is_good || is_looked_at, "{row}: it was not taken");
        // The number of a subvolume that is gone may be given to the next one.
        let is_gone = row.starts_with("the snapshot is gone") || row == "it is a plain folder";
        assert!(subvolume(&path) != was || is_good || is_gone, "{row}: it was taken");
        assert_same(&wanted(&desk.project), &tree(&path), row);
        assert_eq!(status(&desk.store.worktree(&format!("w{number}")).unwrap()), [""; 0], "{row}");
        // A snapshot of the one that was taken waits in its place.
        let left = waiting_snapshots(&desk.store).len();
        assert!(left == 1 || !is_good || is_looked_at, "{row}: {left}");
        // A link is no tree that waits, and stays.
        let _ = fs::remove_file(waits);
        let _ = fs::remove_dir_all(waits.with_extension("aside"));
    }
    // A write to a worktree is visible in no other one.
    desk.store.make_ready_trees(&options()).unwrap();
    let (first, _) = start(&desk, "first");
    put(&first, "README", "of the first one");
    let (second, _) = start(&desk, "second");
    assert_same(&wanted(&desk.project), &tree(&second), "the second one");
    desk.store.gc(&calve::GcOptions::new(), &options()).unwrap();
    desk.store.empty_trash().unwrap();
    assert_sound(&desk.store);
}

#[test]
fn on_btrfs_snapshots_that_wait_serve_as_many_worktrees_as_there_are_and_later_snapshots_too() {
    let test =
        "on_btrfs_snapshots_that_wait_serve_as_many_worktrees_as_there_are_and_later_snapshots_too";
    let desk = Desk::new(|project| common::plain_tree(project, 4, 20, 100));
    if filesystem(&desk.project) != "btrfs" {
        return common::not_run(test, "only on btrfs a snapshot waits");
    }
    put(&desk.project, "README", "text");
    let first = desk.snapshot();
    let make = || desk.store.make_ready_trees(&options()).unwrap();
    let waiting = || waiting_snapshots(&desk.store);
    assert_eq!((make().ready, waiting().len()), (1, 0), "none unless asked");
    desk.store.keep_ready_trees(2).unwrap();
    let made = make();
    assert_eq!((made.made, made.ready, desk.store.stats().unwrap().ready_trees), (2, 3, 3));
    // Two wait, and three are wanted.
    let before: Vec<u64> = waiting().iter().map(|it| subvolume(it)).collect();
    let started = desk.start(&["a", "b", "c"]).worktrees;
    let taken: Vec<u64> = started.iter().map(|it| subvolume(&it.report.path)).collect();
    assert_eq!(taken[..2], before[..], "the ones that wait for the longest time first");
    assert_eq!((make().made, waiting().len()), (0, 2));

    // The project has changed since.
    put(&desk.project, "README", "another");
    let second = desk.snapshot();
    let next = subvolume(&waiting()[0]);
    let (path, report) = start(&desk, "d");
    assert_eq!((subvolume(&path), report.method), (next, calve::Method::Snapshot));
    assert_same(&wanted(&desk.project), &tree(&path), "brought");
    assert_eq!(status(&desk.store.worktree("d").unwrap()), [""; 0]);
    let is_ready = |id: calve::SnapshotId| {
        desk.store.path().join(format!("templates/{id}")).try_exists().unwrap()
    };
    assert!(is_ready(first) && !is_ready(second));
    let made = make();
    assert_eq!((made.made, made.removed, made.ready), (2, 2, 3));
    assert!(is_ready(second));
    let is_second = |path: &PathBuf| path.to_str().unwrap().contains(&second.to_string());
    assert!(waiting().iter().all(is_second), "{:?}", waiting());

    desk.store.keep_ready_trees(0).unwrap();
    assert_eq!((make().removed, waiting().len()), (2, 0));
    assert_sound(&desk.store);
}

/// A process that is killed between two steps leaves one of these states.
#[test]
fn on_btrfs_what_a_killed_process_leaves_of_a_snapshot_that_waits_harms_nobody() {
    let test = "on_btrfs_what_a_killed_process_leaves_of_a_snapshot_that_waits_harms_nobody";
    let desk = Desk::small();
    if filesystem(&desk.project) != "btrfs" {
        return common::not_run(test, "only on btrfs a snapshot waits");
    }
    // A process of another boot. calve sweeps its stage after a minute.
    let dead = |number: u32| format!(".calve-stage-0000000000000000-1-1-{number:016x}");
    let id = desk.snapshot();
    desk.store.keep_ready_trees(1).unwrap();
    let templates = desk.store.path().join("templates");
    let (worktree, _) = start(&desk, "first");
    let beside = worktree.parent().unwrap().to_owned();
    let snapshot = |of: &Path, to: &Path| {
        common::sh(
            std::process::Command::new("btrfs")
                .args(["-q", "subvolume", "snapshot"])
                .args([of, to]),
        );
    };
    type Left<'a> = &'a dyn Fn(&Path);
    let rows: [(&str, Left<'_>); 4] = [
        ("the process behind a start, before the snapshot has its name", &|_| {
            snapshot(&templates.join(id.to_string()), &templates.join(dead(1)));
        }),
        ("the same, before it has looked at all entries", &|_| {}),
        ("a start that took the snapshot", &|waits| {
            fs::rename(waits, beside.join(dead(2))).unwrap();
        }),
        ("a start that made the next one", &|waits| {
            snapshot(waits, &templates.join(dead(3)));
            fs::rename(waits, beside.join(dead(4))).unwrap();
        }),
    ];
    for (number, (row, left)) in rows.into_iter().enumerate() {
        desk.store.make_ready_trees(&options()).unwrap();
        left(&waiting_snapshots(&desk.store)[0]);
        for round in 0..2 {
            let name = format!("w{number}-{round}");
            let (path, _) = start(&desk, &name);
            assert_same(&wanted(&desk.project), &tree(&path), row);
            assert_eq!(status(&desk.store.worktree(&name).unwrap()), [""; 0], "{row}");
        }
        let made = desk.store.make_ready_trees(&options()).unwrap();
        assert_eq!((made.ready, waiting_snapshots(&desk.store).len()), (2, 1), "{row}");
        assert_sound(&desk.store);
    }
}

#[test]
fn a_process_that_is_killed_while_it_makes_or_takes_ready_trees_leaves_a_store_that_works() {
    let test =
        "a_process_that_is_killed_while_it_makes_or_takes_ready_trees_leaves_a_store_that_works";
    const AT: &str = "CALVE_TEST_AT";
    let work = || {
        let at = PathBuf::from(std::env::var_os(AT).unwrap());
        let store = Store::open(at.join(".calve")).unwrap();
        for number in 0.. {
            let edit = format!("edit {number} of {}\n", std::process::id());
            put(&at, "README", edit);
            for round in 0..2 {
                let name = format!("w{}-{number}-{round}", std::process::id());
                store.make_ready_trees(&options()).unwrap();
                store.start(&[&name], &calve::StartOptions::new(), &options()).unwrap();
                let worktree = store.worktree(&name).unwrap();
                let dropped = worktree.drop(&calve::DropOptions::new(), &options()).unwrap();
                dropped.delete().unwrap();
            }
        }
    };
    let Some(mut command) = common::child(test, "killed", work) else { return };
    let desk = Desk::small();
    desk.snapshot();
    desk.store.keep_ready_trees(1).unwrap();
    command.env(AT, &desk.project).stdout(std::process::Stdio::null());
    for seed in rounds(8) {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut killed = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(100 + dice.roll(600) as u64));
        killed.kill().unwrap();
        let ended = killed.wait().unwrap();
        let row = format!("seed {seed}");
        let signal = std::os::unix::process::ExitStatusExt::signal(&ended);
        assert_eq!(signal, Some(9), "{row}: it failed before it was killed: {ended}");
        let store = Store::open(desk.store.path()).unwrap();
        for round in 0..2 {
            let name = format!("after-{seed}-{round}");
            let started = store.start(&[&name], &calve::StartOptions::new(), &options()).unwrap();
            let path = &started.worktrees[0].report.path;
            assert_same(&wanted(&desk.project), &tree(path), &row);
            assert_eq!(status(&store.worktree(&name).unwrap()), [""; 0], "{row}");
        }
        let made = store.make_ready_trees(&options()).unwrap();
        assert!(made.ready > 0 && !made.stopped, "{row}: {made:?}");
        let names = common::names(&store.path().join("templates"));
        assert!(!names.iter().any(|name| name.starts_with('.')), "{row}: {names:?}");
        assert_sound(&store);
    }
}

#[test]
fn ready_trees_are_made_by_one_process_at_a_time_and_only_as_many_as_are_kept() {
    let desk = Desk::small();
    let test = "ready_trees_are_made_by_one_process_at_a_time_and_only_as_many_as_are_kept";
    if filesystem(&desk.project) == "btrfs" {
        return common::not_run(test, "on btrfs no tree waits");
    }
    let make_now = || desk.store.make_ready_trees(&options()).unwrap();
    // A child that another test forks holds all locks until it executes its program.
    let make = || {
        for _ in 0..100 {
            match make_now() {
                busy if busy.stopped => std::thread::sleep(Duration::from_millis(10)),
                done => return done,
            }
        }
        make_now()
    };
    let folder = desk.store.path().join("templates");
    desk.snapshot();
    assert_eq!((make().ready, desk.store.ready_trees_kept()), (0, 0), "none unless asked");
    desk.store.keep_ready_trees(3).unwrap();
    assert_eq!((make().made, desk.store.stats().unwrap().ready_trees), (3, 3));
    assert_eq!(make().made, 0);
    // One tree for each of the two worktrees of a start. Then it makes two.
    desk.start(&["one", "two"]);
    assert_eq!(desk.store.stats().unwrap().ready_trees, 1);
    let lock = fs::File::open(desk.store.path().join("locks/refill")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let busy = make_now();
    assert!(busy.stopped && busy.made == 0, "{busy:?}");
    // What waits is removed also beside somebody who makes trees.
    desk.store.keep_ready_trees(0).unwrap();
    let none = make();
    assert!(!none.stopped && (none.ready, none.removed) == (0, 1), "{none:?}");
    desk.store.keep_ready_trees(3).unwrap();
    // A child that another test forks may have the file open still.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(make().made, 3);
    desk.store.keep_ready_trees(1).unwrap();
    assert_eq!(make().removed, 2);
    // A tree that a start could not use.
    let left = desk.store.path().join("trash/.calve-stage-0000000000000000-1-1-0123");
    put(&left, "tree/file", "text");
    make();
    assert!(!left.try_exists().unwrap());
    // The process that makes trees sees a number that another process sets in the meantime.
    for _ in 0..5 {
        desk.store.keep_ready_trees(8).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(make);
            desk.store.keep_ready_trees(0).unwrap();
            assert!(!make().stopped);
        });
        assert_eq!(desk.store.stats().unwrap().ready_trees, 0);
    }
    desk.store.keep_ready_trees(1).unwrap();
    make();
    put(&desk.project, "README", "another");
    desk.snapshot();
    desk.store.gc(&calve::GcOptions::new(), &options()).unwrap();
    desk.store.keep_ready_trees(0).unwrap();
    make();
    assert_eq!(common::names(&folder).iter().filter(|it| !it.starts_with('.')).count(), 0);
    assert_sound(&desk.store);
}

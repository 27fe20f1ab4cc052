//! What filesystems have of their own: flags of files, swap files, other devices, full disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, SMALLEST, tool};
use crate::tree::{difference, many_files, state};
use crate::{
    Run, calve, can_strace, expects_reflink, filesystem, is_root, names, not_run, program, scratch,
    straced,
};

#[track_caller]
fn assert_same(directory: &Path, source: &str, destination: &str, context: &str) {
    let wanted = state(&directory.join(source));
    let got = state(&directory.join(destination));
    assert_eq!(difference(&wanted, &got), "", "{context}");
}

#[test]
fn one_file_that_is_not_copy_on_write_costs_one_copy_at_most() {
    if filesystem() != "btrfs" {
        return;
    }
    let scratch = scratch();
    let directory = scratch.path();
    many_files(&directory.join("src"), 200, 6000, "content");
    let odd = directory.join("src/d0/odd");
    fs::write(&odd, "").unwrap();
    if let Err(why) = tool(directory, "chattr +C src/d0/odd") {
        return not_run("a NOCOW file on btrfs", &why);
    }
    fs::write(&odd, [7; 20_000]).unwrap();
    let run = calve(directory, "clone --json src dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.count("copied_files") <= 1, "{run:?}");
    assert_eq!(run.count("reflinked_files") + run.count("copied_files"), 201, "{run:?}");
    assert_eq!(run.count("because.filesystem"), 0, "{run:?}");
    assert_same(directory, "src", "dst", "NOCOW");
    // The other way round: files in this directory inherit its flag.
    fs::create_dir(directory.join("nocow")).unwrap();
    tool(directory, "chattr +C nocow").unwrap();
    let run = calve(directory, "clone --json src nocow/dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.count("copied_files") <= 1, "into a NOCOW directory: {run:?}");
    assert_same(directory, "src", "nocow/dst", "into a NOCOW directory");
}

#[test]
fn where_nothing_can_be_cloned_the_question_is_asked_a_handful_of_times() {
    if expects_reflink() || !can_strace("counting clone ioctls") {
        return;
    }
    let scratch = scratch();
    many_files(&scratch.path().join("src"), 500, 5000, "content");
    for (words, copies) in [
        ("clone --json src dst", 1),
        ("clone --json -n 3 src dst", 3),
        ("clone --json -j 8 src dst", 1),
    ] {
        let run = straced(scratch.path(), &["-e", "trace=ioctl"], words);
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.count("because.filesystem"), 500, "{run:?}");
        let asked = run.logged("FICLONE");
        assert!((1..=8 * copies).contains(&asked), "{words}: asked {asked} times");
        for name in names(scratch.path()) {
            if name != "src" {
                fs::remove_dir_all(scratch.path().join(name)).unwrap();
            }
        }
    }
}

/// A command that runs at the end of the test in any case, and undoes its setup.
pub(crate) struct AtEnd(String);

impl AtEnd {
    pub(crate) fn run(words: &str, path: &Path) -> Self {
        Self(format!("{words} {}", path.display()))
    }
}

impl Drop for AtEnd {
    fn drop(&mut self) {
        let _ = tool(Path::new("/"), &self.0);
    }
}

/// The flag is taken away at the end, or the directory could not be removed.
pub(crate) fn immutable(path: &Path) -> AtEnd {
    AtEnd::run("chattr -R -i", path)
}

#[test]
fn a_swap_file_is_refused_alone() {
    const NAME: &str = "a swap file";
    if !expects_reflink() {
        return;
    }
    if !is_root() {
        return not_run(NAME, "swapon needs root");
    }
    let scratch = scratch();
    let directory = scratch.path();
    many_files(&directory.join("src"), 100, 5000, "content");
    let swap = directory.join("src/swap");
    fs::write(&swap, "").unwrap();
    // btrfs takes none that is copy-on-write, XFS none with holes.
    let _ = tool(directory, "chattr +C src/swap");
    fs::write(&swap, vec![0; 4 << 20]).unwrap();
    fs::set_permissions(&swap, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let on = tool(directory, "mkswap src/swap").and_then(|_| tool(directory, "swapon src/swap"));
    if let Err(why) = on {
        return not_run(NAME, &why);
    }
    let _off = AtEnd::run("swapoff", &swap);
    let run = calve(directory, "clone --json src dst");
    // It is copied, or the error names it; the others are never touched by that.
    match run.code {
        Some(0) => {
            assert_eq!((run.count("copied_files"), run.count("because.file")), (1, 1), "{run:?}");
            assert_eq!(run.count("reflinked_files"), 100, "{run:?}");
        }
        _ => {
            assert!(run.stderr.contains("src/swap") && run.stderr.contains("ETXTBSY"), "{run:?}");
            assert!(!names(directory).contains(&"dst".to_owned()), "{run:?}");
        }
    }
    let run = calve(directory, "clone --json --exclude /swap src without");
    assert_eq!(run.count("reflinked_files"), 100, "{run:?}");
    // Whatever else takes it in has all of it, too, or says that it has not.
    let merged = calve(directory, "clone --json --existing merge src without");
    for words in ["init -q", "snapshot -q taken"] {
        let run = calve(&directory.join("src"), words);
        if run.code != Some(0) {
            assert!(run.stderr.contains("swap") && run.stderr.contains("ETXTBSY"), "{run:?}");
            return;
        }
    }
    let started = calve(&directory.join("src"), "start -q --from taken w");
    for (run, copy) in [(merged, "without/swap"), (started, "src.worktrees/w/swap")] {
        assert_eq!(run.code, Some(0), "{run:?}");
        let (from, to) = (fs::read(directory.join("src/swap")), fs::read(directory.join(copy)));
        assert!(from.unwrap() == to.unwrap(), "{copy} is another");
    }
}

/// Nothing can be renamed from one mount to another, be it of the same filesystem.
#[test]
fn what_is_dropped_on_another_mount_of_the_filesystem_is_deleted_there() {
    let scratch = scratch();
    let directory = scratch.path();
    many_files(&directory.join("app"), 100, 5000, "content");
    fs::create_dir(directory.join("there")).unwrap();
    fs::create_dir(directory.join("mounted")).unwrap();
    if let Err(why) = tool(directory, "mount --bind there mounted") {
        return not_run("a worktree on another mount", &why);
    }
    let _mounted = AtEnd::run("umount", &directory.join("mounted"));
    for words in ["init -q", "start -q --at ../mounted w", "drop -q w"] {
        let run = calve(&directory.join("app"), words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
    }
    assert_eq!(names(&directory.join("mounted")), [""; 0]);
}

#[test]
fn an_immutable_source_is_cloned_and_its_clone_can_be_written_to_and_removed() {
    const NAME: &str = "immutable files";
    let scratch = scratch();
    let directory = scratch.path();
    many_files(&directory.join("src"), 20, 5000, "content");
    let _guard = immutable(&directory.join("src"));
    if let Err(why) =
        tool(directory, "chattr +i src/d0/f3").and_then(|_| tool(directory, "chattr +i src/d0"))
    {
        return not_run(NAME, &why);
    }
    let run = calve(directory, "clone --json src dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.count("files"), 20, "{run:?}");
    if expects_reflink() {
        assert_eq!(run.count("reflinked_files"), 20, "{run:?}");
    }
    assert_same(directory, "src", "dst", "an immutable source");
    fs::write(directory.join("dst/d0/f3"), "changed").unwrap();
    // Immutable files cannot be linked. calve copies each of these, and nothing else.
    let run = calve(directory, "clone --json --mode hardlink src linked");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.count("files"), 20, "{run:?}");
    assert_eq!(run.count("linked_files"), 19, "{run:?}");
}

#[test]
fn an_immutable_file_in_the_way_of_a_merge_is_an_error_that_names_it() {
    let scratch = scratch();
    let directory = scratch.path();
    many_files(&directory.join("src"), 20, 5000, "new");
    many_files(&directory.join("dst"), 20, 5000, "old");
    let _guard = immutable(&directory.join("dst"));
    if let Err(why) = tool(directory, "chattr +i dst/d0/f7") {
        return not_run("immutable files in the way", &why);
    }
    let before = fs::read(directory.join("dst/d0/f7")).unwrap();
    for existing in ["merge", "replace"] {
        let run = calve(directory, &format!("clone --existing {existing} src dst"));
        assert_eq!(run.code, Some(1), "{existing}: {run:?}");
        assert!(run.stderr.contains("EPERM"), "{existing}: {run:?}");
        if existing == "merge" {
            assert!(run.stderr.contains("dst/d0/f7"), "{run:?}");
            assert_eq!(fs::read(directory.join("dst/d0/f7")).unwrap(), before);
            assert_eq!(names(directory), ["dst", "src"]);
            assert_eq!(names(&directory.join("dst")), ["d0"]);
        } else {
            // The new tree is in place, and the error says where the rest of the old one is.
            assert_same(directory, "src", "dst", "replaced");
            let stage = names(directory)
                .into_iter()
                .find(|name| name.starts_with(".calve-stage-"))
                .unwrap();
            assert!(run.stderr.contains(&stage), "{run:?}");
            tool(directory, &format!("chattr -R -i {stage}")).unwrap();
            assert_eq!(calve(directory, "clone --existing replace src dst").code, Some(0));
            assert_eq!(names(directory), ["dst", "src"], "the next run sweeps it");
        }
    }
}

#[test]
fn another_filesystem_gets_copies_and_is_told_so() {
    let here = scratch();
    let device = fs::metadata(here.path()).unwrap().dev();
    let elsewhere =
        [PathBuf::from("/dev/shm"), std::env::temp_dir()].into_iter().find_map(|place| {
            let there = tempfile::tempdir_in(place).ok()?;
            (fs::metadata(there.path()).unwrap().dev() != device).then_some(there)
        });
    let Some(elsewhere) = elsewhere else {
        return not_run(
            "cloning to another filesystem",
            "there is no other that can be written to",
        );
    };
    let (here, there) = (here.path(), elsewhere.path());
    for (source, destination) in [(there, here), (here, there)] {
        many_files(&source.join("src"), 150, 5000, "content");
        let words = format!("clone --json {}/src {}/dst", source.display(), destination.display());
        let run = if can_strace("counting clone ioctls across filesystems") {
            let run = straced(here, &["-e", "trace=ioctl"], &words);
            assert!(run.logged("FICLONE") <= 8, "{run:?}");
            run
        } else {
            calve(here, &words)
        };
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(
            (run.count("copied_files"), run.count("because.filesystem")),
            (150, 150),
            "{run:?}"
        );
        let (wanted, got) = (state(&source.join("src")), state(&destination.join("dst")));
        assert_eq!(difference(&wanted, &got), "");
        let always = calve(
            here,
            &words.replace("/dst", "/always").replace("clone", "clone --reflink always"),
        );
        assert_eq!(always.code, Some(1), "{always:?}");
        assert_eq!(
            names(destination),
            if destination == here { vec!["dst"] } else { vec!["dst", "src"] }
        );
        fs::remove_dir_all(destination.join("dst")).unwrap();
    }
}

#[test]
fn on_a_disk_without_room_a_clone_fits_and_a_copy_fails_and_gives_all_space_back() {
    if !is_root() {
        return not_run("a full disk", "mounting one needs root");
    }
    let small = match Disk::new(&filesystem(), SMALLEST) {
        Ok(small) => small,
        Err(why) => return not_run("a full disk", &why),
    };
    let directory = small.path();
    // 60 percent of the free space, in files of a megabyte.
    let files = small.free() * 6 / 10 / 1_000_000;
    fs::create_dir(directory.join("src")).unwrap();
    for number in 0..files {
        let bytes: Vec<u8> = (0..1_000_000_u64)
            .map(|at| (at.wrapping_mul(number * 2 + 1) >> 5).to_le_bytes()[0])
            .collect();
        fs::write(directory.join(format!("src/f{number}")), bytes).unwrap();
    }
    let before = small.free();
    let expect_full = |run: &Run| {
        assert_eq!(run.code, Some(1), "{run:?}");
        assert_eq!(run.json()["error"]["kind"], "storage_full", "{run:?}");
        // The content does not fit, or on some filesystems the metadata that is set afterwards.
        let places = ["src/f", "dst/f", "dst-1/f", "dst-2/f"];
        let named = places.iter().any(|path| run.stderr.contains(path));
        assert!(run.stderr.contains("ENOSPC") && named, "{run:?}");
        assert!(run.stderr.contains("(df -h ."), "of the destination, what is there: {run:?}");
        let left: Vec<_> =
            names(&directory).into_iter().filter(|name| name != "lost+found").collect();
        assert_eq!(left, ["src"], "{run:?}");
        // The filesystem may keep some space for itself, such as for a larger directory.
        let lost = before.saturating_sub(small.free());
        assert!(lost < 8_000_000, "{lost} bytes were not given back");
    };
    for words in ["clone --json --reflink never src dst", "clone --json --mode copy -n 2 src dst"] {
        expect_full(&calve(&directory, words));
    }
    let run = calve(&directory, "clone --json -n 5 src dst");
    if expects_reflink() {
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.count("reflinked_files"), files, "{run:?}");
        let taken = before.saturating_sub(small.free());
        assert!(taken < 10_000_000, "five clones took {taken} bytes");
    } else {
        expect_full(&run);
    }
}

/// A bind mount hides where a directory really is: `..` leads to where it is mounted.
#[test]
fn what_holds_the_source_is_never_replaced_by_whichever_mount_the_source_is_named() {
    let scratch = scratch();
    let directory = scratch.path();
    let run = |line: &str| {
        program("unshare", directory).args(["--mount", "sh", "-c", line]).output().unwrap()
    };
    for name in ["outer/middle/source", "outer b/source", "a\\b/source", "view", "free/source"] {
        fs::create_dir_all(directory.join(name)).unwrap();
        fs::write(directory.join(name).join("file"), "content").unwrap();
    }
    let tried = run("mount --bind outer view");
    if !tried.status.success() {
        return not_run("a bind mount", String::from_utf8_lossy(&tried.stderr).trim());
    }
    let calve = env!("CARGO_BIN_EXE_calve");
    for (mounts, source, destinations, refused) in [
        ("mount --bind outer/middle/source view", "view", "outer", true),
        ("mount --bind outer/middle/source view", "view", "outer/middle", true),
        ("mount --bind outer/middle view", "view/source", "outer", true),
        ("mount --bind . view", "outer/middle/source", "view/outer", true),
        ("mount --bind 'outer b/source' view", "view", "'outer b'", true),
        ("mount --bind 'a\\b/source' view", "view", "'a\\b'", true),
        // Another destination inside it would go with it, too.
        ("mount --bind outer/middle view", "free/source", "outer view/new", true),
        ("mount --bind outer/middle view", "view/source", "free", false),
    ] {
        let line = format!("{mounts} && {calve} clone --existing replace {source} {destinations}");
        let output = run(&line);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(refused)), "{line}: {error}");
        for file in ["outer/middle/source/file", "outer b/source/file", "a\\b/source/file"] {
            assert_eq!(fs::read_to_string(directory.join(file)).unwrap(), "content", "{line}");
        }
        assert!(
            !refused || error.contains("inside the other") || error.contains("holds the source"),
            "{error}"
        );
        assert!(names(directory).iter().all(|name| !name.starts_with('.')), "{line}");
    }
}

/// Opening a file with O_NONBLOCK while another process has a lease on it says EAGAIN, and asks
/// that process to let go.
#[test]
fn a_lease_on_a_file_is_waited_for() {
    use std::io::{BufRead, BufReader};
    const HOLDER: &str = "\
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open('src/leased', os.O_RDWR)
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
time.sleep(1)
";
    let scratch = scratch();
    many_files(&scratch.path().join("src"), 20, 100, "content");
    fs::write(scratch.path().join("src/leased"), "content").unwrap();
    let mut holder = program("python3", scratch.path());
    let holder = holder.args(["-c", HOLDER]).stdout(std::process::Stdio::piped()).spawn();
    let Ok(mut holder) = holder else { return not_run("a lease", "needs python3") };
    let mut said = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if said != "held\n" {
        holder.wait().unwrap();
        return not_run("a lease", "it cannot be had here");
    }
    let run = calve(scratch.path(), "clone --json src dst");
    assert!(holder.wait().unwrap().success());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_same(scratch.path(), "src", "dst", "a lease");
}

/// A folder that a merge makes has its source's mode when it is complete. The next merge must know
/// it from a folder of the user's.
#[test]
fn the_merge_after_one_that_failed_gives_folders_their_modes() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = scratch();
    let directory = scratch.path();
    for (folder, mode) in [("a", 0o1777), ("b", 0o555), ("c/d", 0o750)] {
        let folder = directory.join("src").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("file"), "content").unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(directory.join("src/z")).unwrap();
    fs::write(directory.join("src/z/file"), "content").unwrap();
    assert_eq!(calve(directory, "clone --existing merge src once").code, Some(0));
    for round in 0..10 {
        let again = format!("again{round}");
        fs::create_dir_all(directory.join(&again).join("z/file")).unwrap();
        let words = format!("clone --existing merge src {again}");
        let failed = calve(directory, &words);
        assert_eq!(failed.code, Some(1), "{failed:?}");
        fs::remove_dir(directory.join(&again).join("z/file")).unwrap();
        let run = calve(directory, &words);
        assert_eq!(run.code, Some(0), "{run:?}");
        // The root and the folder `z` were the user's.
        let modes = |root: &str| {
            ["a", "b", "c", "c/d"]
                .map(|folder| fs::metadata(directory.join(root).join(folder)).unwrap().mode())
        };
        assert_eq!(modes("once"), modes(&again));
    }
}

#[test]
fn set_id_bits_that_are_left_out_are_told() {
    use std::os::unix::fs::PermissionsExt;
    const TEST: &str = "set_id_bits_that_are_left_out_are_told";
    if !is_root() {
        return not_run(TEST, "another user's files need root");
    }
    let scratch = scratch();
    let directory = scratch.path();
    let open = |path: &str, mode| {
        fs::set_permissions(directory.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["src", "here"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    fs::write(directory.join("src/tool"), "content").unwrap();
    for (path, mode) in [("", 0o755), ("here", 0o777), ("src", 0o755), ("src/tool", 0o4755)] {
        open(path, mode);
    }
    for mode in ["clone", "copy"] {
        let line = format!("clone --mode {mode} src here/{mode}");
        let mut command = program("setpriv", directory);
        command.args(["--reuid", "65533", "--regid", "65533", "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_calve")).args(line.split(' ')).env("HOME", "/");
        let Ok(output) = command.output() else { return not_run(TEST, "there is no setpriv") };
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{line}: {error}");
        assert!(error.contains("tool: arrived without its set-user-ID"), "{error}");
        let made = fs::metadata(directory.join(format!("here/{mode}/tool"))).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o755, "{line}");
    }
}

/// ext4 and btrfs answer `ENOSPC` to an attribute that does not fit beside a file. Once that was
/// taken for a full disk, and the clone ended.
#[test]
fn an_attribute_that_does_not_fit_is_a_finding_about_its_file() {
    let there = scratch();
    let places = ["/dev/shm", "/tmp", "/var/tmp"].into_iter().map(PathBuf::from);
    let places = places.chain(std::env::var_os("CALVE_TEST_DIR").map(PathBuf::from));
    let source = places.filter_map(|place| tempfile::tempdir_in(place).ok()).find(|place| {
        let file = place.path().join("big");
        fs::write(&file, "big").unwrap();
        fs::write(place.path().join("other"), "other").unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&file, "user.big", &[b'v'; 60_000], flags).is_ok()
    });
    let Some(source) = source else {
        return not_run("attributes that do not fit", "no filesystem here takes large ones");
    };
    let words = format!("clone {} clone", source.path().display());
    let run = calve(there.path(), &words);
    let finding = run.stderr.contains("big: arrived without its user.big");
    assert_eq!(names(&there.path().join("clone")), ["big", "other"], "{run:?}");
    let fits = !["ext4", "btrfs"].contains(&&*filesystem());
    let expected = if finding { Some(3) } else { Some(0) };
    assert_eq!(run.code, expected, "{run:?}");
    assert!(finding || fits, "{run:?}");
}

/// A folder whose entries can be made and not removed. Once a clone left an empty folder at the
/// destination's name, which the next `--existing skip` took for the clone, and said nothing of its
/// stage.
#[test]
fn where_nothing_can_be_removed_no_name_is_taken_and_what_stays_is_named() {
    let scratch = scratch();
    let directory = scratch.path();
    many_files(&directory.join("src"), 20, 5000, "content");
    fs::create_dir(directory.join("kept")).unwrap();
    let _guard = AtEnd::run("chattr -R -a", &directory.join("kept"));
    if let Err(why) = tool(directory, "chattr +a kept") {
        return not_run("append-only folders", &why);
    }
    let run = calve(directory, "clone src kept/clone");
    tool(directory, "chattr -a kept").unwrap();
    assert_eq!(run.code, Some(1), "{run:?}");
    let left = names(&directory.join("kept"));
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].starts_with(".calve-stage-"), "{left:?}");
    assert!(run.stderr.contains(&format!("rm -rf kept/{}", left[0])), "{run:?}");
    let run = calve(directory, "clone src kept/clone");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_same(directory, "src", "kept/clone", "afterwards");
    assert_eq!(names(&directory.join("kept")), ["clone"], "the next run sweeps the stage");
}

/// Once the reason was said to be that both sides are btrfs.
#[test]
fn files_on_a_mount_inside_the_source_are_copied_for_the_reason_of_that_mount() {
    let scratch = scratch();
    let directory = scratch.path();
    fs::create_dir_all(directory.join("src/mount")).unwrap();
    fs::write(directory.join("src/file"), "content").unwrap();
    if let Err(why) = tool(directory, "mount -t tmpfs none src/mount") {
        return not_run("a mount inside a source", &why);
    }
    let _guard = AtEnd::run("umount", &directory.join("src/mount"));
    fs::write(directory.join("src/mount/file"), "content").unwrap();
    let run = calve(directory, "clone src dst");
    assert_eq!(run.code, Some(0), "{run:?}");
    // Where nothing shares blocks, the mount is not the reason.
    let says = expects_reflink();
    assert_eq!(run.stderr.contains("tmpfs is mounted at"), says, "{run:?}");
    assert!(!run.stderr.contains("both sides"), "{run:?}");
    for name in ["1", "2"] {
        fs::write(directory.join("src/mount").join(name), name).unwrap();
    }
    assert_eq!(calve(directory, "-C src init").code, Some(0));
    let run = calve(directory, "-C src snapshot s");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(run.stderr.contains("tmpfs is mounted at"), says, "{run:?}");
    assert!(!run.stderr.contains("both sides"), "{run:?}");
}

/// On btrfs the deletion of a worktree's subvolume ended the mounts in it, without a word.
#[test]
fn a_mount_in_a_worktree_keeps_the_worktree_and_itself() {
    let scratch = scratch();
    let project = scratch.path().join("project");
    fs::create_dir_all(project.join("volume")).unwrap();
    fs::write(project.join("file"), "content").unwrap();
    for verb in ["init", "start one two --at .worktrees"] {
        let run = calve(&project, verb);
        assert_eq!(run.code, Some(0), "{verb}: {run:?}");
    }
    let volume = project.join(".worktrees/one/volume");
    if let Err(why) = tool(&project, "mount -t tmpfs none .worktrees/one/volume") {
        return not_run("a mount in a worktree", &why);
    }
    let guard = AtEnd::run("umount", &volume);
    fs::write(volume.join("precious"), "content").unwrap();
    let advice = format!("'umount {}' ends the mount", volume.display());
    for verb in [
        "drop one",
        "drop --force one",
        "drop --force --discard one",
        "drop --dry-run one",
        "drop --dry-run --force one",
    ] {
        let run = calve(&project, verb);
        assert_eq!(run.code, Some(1), "{verb}: {run:?}");
        assert!(run.stderr.contains("something is mounted in it"), "{verb}: {run:?}");
        assert!(run.stderr.contains(&advice), "{verb}: {run:?}");
        assert_eq!(fs::read(volume.join("precious")).unwrap(), b"content", "{verb}");
    }
    let run = calve(&project, "drop one two");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(fs::read(volume.join("precious")).unwrap(), b"content", "{run:?}");
    drop(guard);
    let run = calve(&project, "drop one");
    assert_eq!(run.code, Some(0), "{run:?}");
}

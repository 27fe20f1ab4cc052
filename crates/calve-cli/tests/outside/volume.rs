//! Tests `calve volume` on an ext4 of the test's own, in a mount namespace with its own `/etc`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::disk::{Disk, tool};
use crate::{Run, calve, calve_command, is_root, names, not_run, program, scratch};

const NOBODY: u32 = 65534;

/// Says that this process has its own mounts and its own `/etc`.
const INSIDE: &str = "CALVE_TEST_OWN_ETC";

/// Runs the calling test again, in a place where it may mount and write to `/etc`. Returns whether
/// this is that run.
fn is_on_a_machine_of_its_own(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !is_root() {
        not_run(test, "only root can mount");
        return false;
    }
    let home = scratch();
    let mut inside = program("unshare", home.path());
    inside.env(INSIDE, "1").env("RUST_BACKTRACE", "1").args(["--mount", "sh", "-c"]);
    // No systemd: its units would be the machine's.
    inside.arg(
        "mkdir etc none && mount -t tmpfs etc etc && cp -a /etc/. etc && : >etc/fstab && mount --bind etc /etc || exit 77
        if test -d /run/systemd/system; then mount --bind none /run/systemd || exit 77; fi
        exec \"$0\" \"$@\"",
    );
    inside.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = inside.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{text}");
    match output.status.code() {
        Some(0) => assert!(text.contains("1 passed"), "there is no test {test}"),
        Some(77) => not_run(test, text.trim()),
        code => panic!("ended with {code:?}"),
    }
    false
}

/// A machine with ext4 only.
struct Host {
    disk: Disk,
}

impl Host {
    fn new(test: &str, megabytes: u64) -> Option<Self> {
        if !is_on_a_machine_of_its_own(test) {
            return None;
        }
        let disk = Disk::new("ext4", megabytes).unwrap();
        let host = Self { disk };
        fs::remove_dir(host.path().join("lost+found")).unwrap();
        fs::set_permissions(host.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Some(host)
    }

    fn path(&self) -> PathBuf {
        self.disk.path()
    }

    fn trees(&self) -> PathBuf {
        self.path().join("trees")
    }

    #[track_caller]
    fn done(&self, words: &str) -> Run {
        let run = calve(&self.path(), words);
        assert_eq!(run.code, Some(0), "{words}: {run:?}");
        run
    }

    /// The one volume, as `status` has it, and the exit code.
    #[track_caller]
    fn status(&self) -> (Value, Option<i32>) {
        let run = calve(&self.path(), "volume status trees --json");
        (run.json()["volumes"][0].clone(), run.code)
    }

    /// With programs of the test's own in the place of the system's.
    fn with(&self, programs: &[(&str, &str)], words: &str) -> Run {
        let folder = scratch();
        for (name, script) in programs {
            let path = folder.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let mut command = calve_command(&self.path(), words);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", folder.path().display()));
        Run::of(command.output().unwrap(), String::new())
    }

    #[track_caller]
    fn is_as_before(&self, why: &str) {
        assert_eq!(names(&self.path()), [""; 0], "{why}");
        assert_eq!(fs::read_to_string("/etc/fstab").unwrap(), "", "{why}");
    }

    /// A project with a file of this many megabytes.
    fn project(&self, megabytes: usize) -> PathBuf {
        let project = self.path().join("app");
        fs::create_dir_all(project.join("src")).unwrap();
        fs::write(project.join("src/a"), "a\n").unwrap();
        fs::write(project.join("big"), vec![7; megabytes << 20]).unwrap();
        project
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = tool(&self.path(), "umount trees");
    }
}

/// `@` is the folder that the volume is in.
const NEED_THE_VOLUME: [&str; 8] = [
    "-C app list",
    "init --volume trees app",
    "volume remove trees",
    "init --store trees/store other",
    "clone other trees/copy",
    "clone --existing merge other trees",
    "checkout file:///nowhere s trees/project",
    "remote init file://@/trees/r",
];

#[test]
fn a_volume_is_made_used_grown_checked_and_removed() {
    const TEST: &str = "volume::a_volume_is_made_used_grown_checked_and_removed";
    let Some(host) = Host::new(TEST, 4000) else { return };
    for filesystem in ["xfs", "btrfs"] {
        let made = host.done(&format!("volume create trees --size 1G --fs {filesystem}"));
        assert_eq!(made.stdout.trim_end(), host.trees().to_str().unwrap());
        // calve shows the lines before root writes them.
        let fstab = fs::read_to_string("/etc/fstab").unwrap();
        assert!(made.stderr.contains(fstab.trim_end()), "{made:?}");
        assert!(fstab.contains("nosuid,nodev") && fstab.contains("nofail"), "{fstab}");
        assert_eq!(host.done("volume create trees").stdout, made.stdout, "twice is once");
        let (volume, code) = host.status();
        assert_eq!(code, Some(0), "{volume}");
        assert_eq!(volume["size_bytes"], 1_u64 << 30);
        assert!(volume["image_bytes"].as_u64().unwrap() < 200 << 20, "{volume}");
        assert_eq!((&volume["mounted"], &volume["direct_io"]), (&true.into(), &true.into()));
        assert_eq!(
            (&volume["at_boot"], &volume["filesystem"]),
            (&"fstab".into(), &filesystem.into())
        );
        assert_eq!(host.done("volume list --json").json()["volumes"][0], volume);

        let project = host.project(100);
        // Who has a volume is not told to make one.
        let doctor = calve(&host.path(), "doctor app");
        assert!(doctor.stdout.contains("'calve volume create DIR'"), "{doctor:?}");
        let init = host.done("init --volume trees app");
        let then = "the store will take, once, 104.9 MB in 2 files";
        assert!(init.stderr.contains(then), "{init:?}");
        assert!(init.stderr.contains("; worktrees then share blocks"), "{init:?}");
        let doctor = calve(&host.path(), "doctor app");
        assert_eq!(doctor.code, Some(3), "{doctor:?}");
        assert!(doctor.stdout.contains("none is needed for worktrees"), "{doctor:?}");
        for run in [&init, &doctor] {
            assert!(!(run.stderr.clone() + &run.stdout).contains("volume create"), "{run:?}");
        }
        assert_eq!(calve(&project, "init --volume ../trees").code, Some(0));
        let started = calve(&project.join("src"), "start one two");
        let one = host.trees().join("app.worktrees/one");
        assert_eq!(started.code, Some(0), "{started:?}");
        assert!(started.stdout.starts_with(one.to_str().unwrap()), "{started:?}");
        // Another project of this name.
        fs::create_dir_all(host.path().join("other/app")).unwrap();
        host.done("init --volume trees other/app");
        assert!(host.trees().join("app-2.calve/format").is_file());

        let refused = calve(&host.path(), "volume remove trees");
        assert_eq!(refused.code, Some(1), "{refused:?}");
        for named in
            ["2 worktrees, 2 stores", "app.worktrees/one", "app.worktrees/two", "app.calve"]
        {
            assert!(refused.stderr.contains(named), "{named}: {refused:?}");
        }
        host.done("volume grow trees --size 2G");
        let (volume, _) = host.status();
        assert_eq!(volume["size_bytes"], 2_u64 << 30);
        assert!(volume["free_bytes"].as_u64().unwrap() > 1300 << 20, "{volume}");
        let shrunk = calve(&host.path(), "volume grow trees --size 1G");
        assert_eq!(shrunk.code, Some(1), "{shrunk:?}");

        assert_eq!(calve(&host.path(), "volume check trees").code, Some(1), "it is mounted");
        tool(&host.path(), "umount trees").unwrap();
        host.done("volume check trees");
        // The volume is not mounted. Commands that need it say how to mount it, and none uses the
        // folder in its place.
        let (volume, code) = host.status();
        assert_eq!((code, &volume["mounted"]), (Some(3), &false.into()), "{volume}");
        for words in NEED_THE_VOLUME {
            let run = calve(&host.path(), &words.replace('@', host.path().to_str().unwrap()));
            assert_eq!(run.code, Some(1), "{words}: {run:?}");
            let command = format!("sudo mount {}", host.trees().display());
            assert!(run.stderr.contains(&command), "{words}: {run:?}");
        }
        assert_eq!(names(&host.trees()), [""; 0]);
        // The image is not there either, so nothing can be mounted.
        let (image, away) = (host.path().join("trees.img"), host.path().join("away"));
        fs::rename(&image, &away).unwrap();
        for words in [
            "-C app list",
            "-C app start three",
            "init --volume trees app",
            "volume check trees",
            "volume create trees",
            "volume remove trees",
        ] {
            let run = calve(&host.path(), words);
            assert_eq!(run.code, Some(1), "{words}: {run:?}");
            assert!(run.stderr.contains("trees.img is gone"), "{words}: {run:?}");
            assert!(run.stderr.contains("'calve volume remove --force"), "{words}: {run:?}");
            assert!(!run.stderr.contains("sudo mount"), "{words}: {run:?}");
            assert!(!run.stderr.contains("damage"), "{words}: {run:?}");
        }
        fs::rename(&away, &image).unwrap();
        let again = host.done("volume create trees");
        assert!(again.stderr.contains("a volume that is not mounted"), "{again:?}");
        assert!(again.stderr.contains("mounted the volume"), "{again:?}");
        tool(&host.path(), "umount trees").unwrap();
        // Like a boot.
        tool(&host.path(), "mount -a").unwrap();
        assert_eq!(calve(&project, "status one").code, Some(0));
        assert_eq!(calve(&project, "drop one two").code, Some(0));
        host.done("volume remove --force trees");
        for name in ["app", "other"] {
            fs::remove_dir_all(host.path().join(name)).unwrap();
        }
        host.is_as_before(filesystem);
    }
}

#[test]
fn what_root_does_works_when_it_is_pasted_and_the_volume_is_the_users() {
    const TEST: &str = "volume::what_root_does_works_when_it_is_pasted_and_the_volume_is_the_users";
    let Some(host) = Host::new(TEST, 4000) else { return };
    let as_nobody = |words: &str| {
        let mut command = program("setpriv", &host.path());
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_calve")).args(words.split_whitespace());
        Run::of(command.output().unwrap(), String::new())
    };
    let paste = |lines: &str| {
        let output = program("sh", &host.path()).args(["-e", "-c", lines]).output().unwrap();
        assert!(output.status.success(), "{lines}: {output:?}");
    };
    if as_nobody("--version").code != Some(0) {
        return not_run(TEST, "nobody may not run calve where it was built");
    }
    for filesystem in ["xfs", "btrfs"] {
        let made = as_nobody(&format!("volume create trees --size 1G --no-sudo --fs {filesystem}"));
        assert_eq!(made.code, Some(0), "{made:?}");
        paste(&made.stdout);
        for path in [host.trees(), host.path().join("trees.img")] {
            assert_eq!(fs::metadata(&path).unwrap().uid(), NOBODY, "{path:?}");
        }
        let (volume, code) = host.status();
        assert_eq!((code, &volume["mounted"]), (Some(0), &true.into()), "{volume}");
        let grown = as_nobody("volume grow trees --size 2G --no-sudo");
        paste(&grown.stdout);
        assert!(host.status().0["free_bytes"].as_u64().unwrap() > 1300 << 20);
        let removed = as_nobody("volume remove trees --no-sudo");
        paste(&removed.stdout);
        host.is_as_before(filesystem);
    }
}

#[test]
fn if_a_step_fails_those_before_it_are_undone() {
    const TEST: &str = "volume::if_a_step_fails_those_before_it_are_undone";
    let Some(host) = Host::new(TEST, 4000) else { return };
    for (name, words) in [
        ("mkfs.xfs", "volume create trees --size 1G --fs xfs"),
        ("mkfs.btrfs", "volume create trees --size 1G"),
        ("mount", "volume create trees --size 1G"),
        ("chown", "volume create trees --size 1G"),
    ] {
        let run = host.with(&[(name, "echo 'not today' >&2; exit 1")], words);
        assert_eq!(run.code, Some(1), "{name}: {run:?}");
        assert!(run.stderr.contains("not today"), "{name}: {run:?}");
        host.is_as_before(name);
    }
    // Not every host can do direct I/O.
    let run = host.with(&[("losetup", "exit 1")], "volume create trees --size 1G");
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(host.status().0["direct_io"], false);
    let run = host.with(&[("umount", "echo 'target is busy' >&2; exit 1")], "volume remove trees");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("fuser -vm"), "{run:?}");
    assert_eq!(host.status().1, Some(0), "it is as it was");
    host.done("volume remove trees");
    host.is_as_before("the end");
    for (words, kind) in [
        ("volume create none/trees --size 1G", "source_not_found"),
        ("volume create a,b --size 1G", "invalid_name"),
        ("volume status trees", "source_not_found"),
        ("volume grow trees --size 1G", "source_not_found"),
        ("volume remove trees", "source_not_found"),
        ("init --volume trees", "source_not_found"),
    ] {
        let run = calve(&host.path(), &format!("{words} --json"));
        assert_eq!(run.code, Some(1), "{words}: {run:?}");
        let got = run.json()["error"]["kind"].clone();
        assert!(got == kind || got == "io", "{words}: {run:?}");
    }
    // Somebody's own files are left alone.
    fs::write(host.path().join("trees.img"), "mine").unwrap();
    assert_eq!(calve(&host.path(), "volume create trees --size 1G").code, Some(1));
    assert_eq!(calve(&host.path(), "volume remove --force trees").code, Some(1));
    assert_eq!(fs::read_to_string(host.path().join("trees.img")).unwrap(), "mine");
}

#[test]
fn what_a_killed_command_leaves_is_named_and_the_next_one_goes_on() {
    const TEST: &str = "volume::what_a_killed_command_leaves_is_named_and_the_next_one_goes_on";
    let Some(host) = Host::new(TEST, 4000) else { return };
    let die = "kill -9 $PPID";
    for dies_at in ["mkfs.btrfs", "mount", "losetup", "chown"] {
        for then in ["create", "remove"] {
            let row = format!("{dies_at}, {then}");
            let run = host.with(&[(dies_at, die)], "volume create trees --size 1G");
            assert_eq!(run.code, None, "{row}: {run:?}");
            if then == "create" {
                let again = host.done("volume create trees --size 1G");
                let said = ["unfinished calve volume create", "is not mounted", "nothing to do"];
                assert!(said.iter().any(|it| again.stderr.contains(it)), "{row}: {again:?}");
                let (volume, code) = host.status();
                assert_eq!((code, &volume["mounted"]), (Some(0), &true.into()), "{row}: {volume}");
                host.done("volume remove trees");
            } else {
                // calve cannot look into a volume that is not mounted.
                host.done("volume remove --force trees");
            }
            host.is_as_before(&row);
        }
    }
    host.done("volume create trees --size 1G");
    let run = host.with(&[("umount", die)], "volume remove trees");
    assert_eq!(run.code, None, "{run:?}");
    let (volume, code) = host.status();
    assert_eq!(code, Some(3), "{volume}");
    assert!(volume["advice"][0].as_str().unwrap().contains("calve volume remove"), "{volume}");
    let refused = calve(&host.path(), "volume create trees");
    assert!(refused.stderr.contains("calve volume remove"), "{refused:?}");
    host.done("volume remove trees");
    host.is_as_before("removed");
}

/// `remove` looked before the user typed the password, and deleted what came after that.
#[test]
fn what_came_into_a_volume_after_the_first_look_is_kept() {
    const TEST: &str = "volume::what_came_into_a_volume_after_the_first_look_is_kept";
    let Some(host) = Host::new(TEST, 4000) else { return };
    for filesystem in ["xfs", "btrfs"] {
        host.done(&format!("volume create trees --size 1G --fs {filesystem}"));
        let mounted = || tool(&host.path(), "findmnt -no OPTIONS trees").unwrap();
        let before = mounted();
        // A repair saves files there.
        let folder = host.trees().join("lost+found");
        let work = folder.join("work");
        let came = format!(
            "test $2 != remount,ro || {{ mkdir {}; echo new >{}; }}; PATH=/usr/sbin:/usr/bin:/sbin:/bin exec mount \"$@\"",
            folder.display(),
            work.display()
        );
        let run = host.with(&[("mount", &came)], "volume remove trees");
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains("in it: 1 other file"), "{run:?}");
        assert_eq!(fs::read_to_string(&work).unwrap(), "new\n");
        assert_eq!((mounted(), host.status().1), (before, Some(0)), "it is as it was");
        fs::remove_dir_all(&folder).unwrap();
        host.done("volume remove trees");
        host.is_as_before(filesystem);
    }
}

/// A repair of a filesystem that is in use destroys it.
#[test]
fn an_image_that_is_in_use_anywhere_is_not_checked() {
    const TEST: &str = "volume::an_image_that_is_in_use_anywhere_is_not_checked";
    let Some(host) = Host::new(TEST, 4000) else { return };
    host.done("volume create trees --size 1G --fs xfs");
    tool(&host.path(), "umount trees").unwrap();
    fs::create_dir(host.path().join("other")).unwrap();
    let refused = |why: &str, said: &str| {
        for words in ["volume check trees", "volume check --repair trees"] {
            let run = calve(&host.path(), words);
            assert_eq!(run.code, Some(1), "{why}: {run:?}");
            assert!(run.stderr.contains(said), "{why}: {run:?}");
        }
    };
    let step = |words: &str| tool(&host.path(), words).unwrap();
    step("mount -o loop trees.img other");
    refused("mounted elsewhere", "other && calve volume check");
    step("umount other");
    step("mount trees");
    refused("mounted", "trees is mounted");
    step("mount -t tmpfs none trees");
    refused("covered", "trees is mounted");
    step("umount trees");
    step("umount trees");
    let device = step("losetup -f --show trees.img");
    refused("a loop device", &format!("losetup -d {}", device.trim()));
    step(&format!("losetup -d {}", device.trim()));
    host.done("volume check --repair trees");
    // The volume would hide what is written below it.
    let project = host.project(1);
    let refused = calve(&project, "init --store ../trees/s.calve");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("sudo mount"), "{refused:?}");
    fs::write(host.trees().join("work"), "work").unwrap();
    let refused = calve(&host.path(), "volume create trees");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("the volume would hide it"), "{refused:?}");
    fs::remove_file(host.trees().join("work")).unwrap();
    fs::remove_dir_all(&project).unwrap();
    fs::remove_dir(host.path().join("other")).unwrap();
    host.done("volume remove --force trees");
    host.is_as_before("the end");
}

/// Two commands that read the file at once each put their own text in its place.
#[test]
fn no_line_of_fstab_is_lost_and_a_link_stays_a_link() {
    const TEST: &str = "volume::no_line_of_fstab_is_lost_and_a_link_stays_a_link";
    let Some(host) = Host::new(TEST, 8000) else { return };
    fs::rename("/etc/fstab", "/etc/fstab.real").unwrap();
    std::os::unix::fs::symlink("fstab.real", "/etc/fstab").unwrap();
    fs::write("/etc/fstab", "/dev/none /mnt/none ext4 noauto 0 0\n").unwrap();
    let volumes = ["trees", "trees2", "trees3", "trees4"];
    let create = |name: &'static str| {
        let host = &host;
        move || host.done(&format!("volume create {name} --size 1G --fs xfs"))
    };
    std::thread::scope(|scope| {
        for name in volumes {
            scope.spawn(create(name));
        }
    });
    let fstab = fs::read_to_string("/etc/fstab.real").unwrap();
    assert_eq!(fstab.lines().count(), 1 + volumes.len(), "{fstab}");
    assert!(fs::symlink_metadata("/etc/fstab").unwrap().is_symlink());
    for name in volumes {
        host.done(&format!("volume remove {name}"));
    }
    assert_eq!(fs::read_to_string("/etc/fstab").unwrap().lines().count(), 1);
}

/// The image was content of the project: a restore put an old one in its place.
#[test]
fn a_volume_is_in_no_project() {
    const TEST: &str = "volume::a_volume_is_in_no_project";
    let Some(host) = Host::new(TEST, 4000) else { return };
    let project = host.project(1);
    host.done("volume create app/trees --size 1G --fs xfs");
    let refused = calve(&project, "init --volume trees");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("outside of it"), "{refused:?}");
    host.done("volume remove app/trees");
    host.done("init app");
    let refused = calve(&project, "volume create src/trees --size 1G");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let why = format!("inside {}: snapshots there would have its image", project.display());
    assert!(refused.stderr.contains(&why), "{refused:?}");
    assert_eq!(names(&project.join("src")), ["a"]);
}

#[test]
fn a_host_that_fills_is_told_in_time_and_nothing_is_lost() {
    const TEST: &str = "volume::a_host_that_fills_is_told_in_time_and_nothing_is_lost";
    let Some(host) = Host::new(TEST, 2000) else { return };
    for filesystem in ["xfs", "btrfs"] {
        host.done(&format!("volume create trees --size 1800M --fs {filesystem}"));
        let project = host.project(50);
        host.done("init --volume trees app");
        assert_eq!(calve(&project, "start one").code, Some(0));
        tool(&host.path(), "sync").unwrap();
        let fill = host.path().join("fill");
        let file = fs::File::create(&fill).unwrap();
        let fill_to = |left: u64| {
            let mut piece = u64::MAX;
            while piece >= 4096 {
                let to_take = host.disk.free().saturating_sub(left).min(piece);
                let end = file.metadata().unwrap().len();
                let flags = rustix::fs::FallocateFlags::empty();
                if to_take < 4096 {
                    break;
                }
                if rustix::fs::fallocate(&file, flags, end, to_take).is_err() {
                    piece = to_take / 2;
                }
            }
        };
        fill_to(200 << 20);
        let warned = calve(&project, "start two");
        assert_eq!(warned.code, Some(0), "{warned:?}");
        for words in ["-C app start three", "doctor trees", "volume status"] {
            let run = calve(&host.path(), words);
            assert!(run.stderr.contains("the disk below the volume"), "{words}: {run:?}");
        }
        fill_to(30 << 20);
        let refused = calve(&project, "start four --json");
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert_eq!(refused.json()["error"]["kind"], "storage_full", "{refused:?}");
        assert!(refused.stderr.contains("free some space in"), "{refused:?}");
        assert!(!host.trees().join("app.worktrees/four").try_exists().unwrap());

        // A worktree that was not flushed may be gone after a crash; these were.
        tool(&host.path(), "sync -f trees").unwrap();
        // A program that goes on writing gets errors, at last from the volume's disk itself.
        fill_to(0);
        fs::write(project.join("more"), vec![3; 200 << 20]).unwrap_err();
        let _ = fs::remove_file(project.join("more"));
        for number in 0..4 {
            let at = host.trees().join(format!("app.worktrees/one/more{number}"));
            let _ = fs::write(&at, vec![number; 100 << 20]);
        }
        let synced = tool(&host.path(), "sync -f trees");
        let snapshot = calve(&project, "snapshot --of one");
        println!("{filesystem}: {synced:?}, {:?} {}", snapshot.code, snapshot.stderr);
        assert_ne!(snapshot.code, Some(0), "a capture of what is not on the disk: {snapshot:?}");

        // Room again.
        drop(file);
        fs::remove_file(&fill).unwrap();
        tool(&host.path(), "umount trees").unwrap();
        tool(&host.path(), "mount trees").unwrap();
        for number in 0..4 {
            let _ = fs::remove_file(host.trees().join(format!("app.worktrees/one/more{number}")));
        }
        let verified = calve(&project, "store verify");
        assert_eq!(verified.code, Some(0), "{filesystem}: {verified:?}");
        for name in ["one", "two", "three"] {
            let status = calve(&project, &format!("status {name}"));
            assert_eq!(status.code, Some(0), "{filesystem}, {name}: {status:?}");
            let big = host.trees().join("app.worktrees").join(name).join("big");
            assert!(fs::read(&big).unwrap() == vec![7; 50 << 20], "{filesystem}, {name}");
        }
        assert_eq!(calve(&project, "start four").code, Some(0));
        host.done("volume remove --force trees");
        fs::remove_dir_all(&project).unwrap();
    }
}

#[test]
fn a_volume_is_not_made_where_blocks_can_be_shared() {
    const TEST: &str = "volume::a_volume_is_not_made_where_blocks_can_be_shared";
    if !is_on_a_machine_of_its_own(TEST) {
        return;
    }
    let disk = Disk::new("xfs", 2000).unwrap();
    let run = calve(&disk.path(), "volume create trees --size 1G");
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("no volume is needed"), "{run:?}");
    assert!(!Path::new(&disk.path().join("trees.img")).try_exists().unwrap());
}

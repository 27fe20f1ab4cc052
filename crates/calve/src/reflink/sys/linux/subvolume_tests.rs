//! Promise: the number that seals a template moves with every change of it, and with nothing else.

use std::ffi::CString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, OFlags, Timespec, Timestamps, XattrFlags};

use super::*;

/// An open directory on btrfs, or why there is none.
struct Btrfs(tempfile::TempDir, File);

impl Btrfs {
    fn new(test: &str) -> Option<Self> {
        let dir = match std::env::var_os("CALVE_TEST_DIR") {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        }
        .unwrap();
        if filesystem_name(dir.path()).as_deref() != Some("btrfs") {
            let line = format!("NOT RUN: {test}: subvolumes are btrfs' own\n");
            eprint!("{line}");
            if let Some(log) = std::env::var_os("CALVE_NOT_RUN") {
                let mut log = File::options().append(true).create(true).open(log).unwrap();
                log.write_all(line.as_bytes()).unwrap();
            }
            return None;
        }
        let open = File::open(dir.path()).unwrap();
        Some(Self(dir, open))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn flush(&self) {
        fs::syncfs(&self.1).unwrap();
    }

    /// Snapshots `source` and throws the snapshot away.
    fn try_snapshot(&self, source: &File) {
        snapshot(source, &self.1, c"snapshot").unwrap();
        self.remove("snapshot");
    }

    fn remove(&self, name: &str) {
        let c_name = CString::new(name).unwrap();
        if let Err(error) = delete_subvolume(&self.1, &c_name) {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            std::fs::remove_dir_all(self.path(name)).unwrap();
        }
    }
}

#[test]
fn the_last_change_moves_with_every_change_and_with_nothing_else() {
    let Some(btrfs) = Btrfs::new("the_last_change_moves_with_every_change_and_with_nothing_else")
    else {
        return;
    };
    create_subvolume(&btrfs.1, c"template").unwrap();
    let root = btrfs.path("template");
    let template = File::open(&root).unwrap();
    let at = |name: &str| root.join(name);
    std::fs::create_dir(at("dir")).unwrap();
    for (name, size) in [("inline", 100), ("extents", 300_000), ("cut", 300_000), ("go", 1)] {
        std::fs::write(at(name), vec![b'x'; size]).unwrap();
    }
    let nocow = File::create_new(at("nocow")).unwrap();
    let flags = fs::ioctl_getflags(&nocow).unwrap();
    let _ = fs::ioctl_setflags(&nocow, flags | IFlags::NOCOW);
    (&nocow).write_all(&[b'x'; 300_000]).unwrap();
    std::fs::write(btrfs.path("outside"), vec![b'o'; 300_000]).unwrap();
    let open = |name: &str| File::options().read(true).write(true).open(at(name)).unwrap();
    let write_at = |name: &str| open(name).write_all_at(b"changed", 50).unwrap();

    /// When the number has to have moved.
    #[derive(PartialEq)]
    enum When {
        Never,
        AtOnce,
        /// At the latest when a snapshot was made.
        Snapshot,
    }
    let rows: &[(&str, When, &dyn Fn())] = &[
        ("a snapshot", When::Never, &|| btrfs.try_snapshot(&template)),
        ("a flush", When::Never, &|| btrfs.flush()),
        ("a write beside it", When::Never, &|| {
            std::fs::write(btrfs.path("beside"), "new").unwrap();
            btrfs.flush();
        }),
        ("stat, a lock", When::Never, &|| {
            std::fs::metadata(at("inline")).unwrap();
            fs::flock(&template, FlockOperation::LockShared).unwrap();
        }),
        ("reading without an access time", When::Never, &|| {
            let flags = OFlags::RDONLY | OFlags::NOATIME;
            let fd = fs::open(at("extents"), flags, fs::Mode::empty()).unwrap();
            rustix::io::read(fd, &mut [0; 100]).unwrap();
        }),
        ("renaming the template", When::Never, &|| {
            std::fs::rename(&root, btrfs.path("aside")).unwrap();
            std::fs::rename(btrfs.path("aside"), &root).unwrap();
        }),
        ("a clone from it", When::Never, &|| {
            clone_file(open("extents"), File::create(btrfs.path("clone")).unwrap()).unwrap();
        }),
        ("a write", When::Snapshot, &|| write_at("extents")),
        ("a write to an inline file", When::Snapshot, &|| write_at("inline")),
        ("a write to a NOCOW file", When::Snapshot, &|| write_at("nocow")),
        ("a clone into it", When::AtOnce, &|| {
            clone_file(File::open(btrfs.path("outside")).unwrap(), open("cut")).unwrap();
        }),
        ("truncate", When::AtOnce, &|| open("cut").set_len(5).unwrap()),
        ("create", When::AtOnce, &|| drop(File::create_new(at("new")).unwrap())),
        ("mkdir", When::AtOnce, &|| std::fs::create_dir(at("dir/new")).unwrap()),
        ("rmdir", When::AtOnce, &|| std::fs::remove_dir(at("dir/new")).unwrap()),
        ("rename", When::AtOnce, &|| std::fs::rename(at("new"), at("dir/moved")).unwrap()),
        ("link", When::AtOnce, &|| std::fs::hard_link(at("inline"), at("dir/link")).unwrap()),
        ("symlink", When::AtOnce, &|| symlink("inline", at("dir/symlink")).unwrap()),
        ("unlink", When::AtOnce, &|| std::fs::remove_file(at("go")).unwrap()),
        ("chmod", When::AtOnce, &|| {
            std::fs::set_permissions(at("inline"), PermissionsExt::from_mode(0o600)).unwrap();
        }),
        ("chmod of the root", When::AtOnce, &|| {
            fs::fchmod(&template, fs::Mode::from_raw_mode(0o750)).unwrap();
        }),
        ("utimens", When::AtOnce, &|| {
            let time = Timespec { tv_sec: 1, tv_nsec: 1 };
            let times = Timestamps { last_access: time, last_modification: time };
            fs::futimens(open("inline"), &times).unwrap();
        }),
        ("setxattr", When::AtOnce, &|| {
            fs::fsetxattr(open("inline"), "user.a", b"1", XattrFlags::empty()).unwrap();
        }),
    ];
    for (what, when, change) in rows {
        btrfs.flush();
        let seal = last_change(&template).unwrap();
        change();
        let at_once = last_change(&template).unwrap();
        btrfs.try_snapshot(&template);
        let after = last_change(&template).unwrap();
        assert_eq!(after > seal, *when != When::Never, "{what}: {seal}, after a snapshot {after}");
        assert!(*when != When::AtOnce || at_once > seal, "{what}: {seal}, at once {at_once}");
    }

    // In one transaction the number stays: that is what the second flush of a seal is for.
    write_at("inline");
    btrfs.flush();
    let before = last_change(&template).unwrap();
    std::fs::write(at("one"), "").unwrap();
    assert!(last_change(&template).unwrap() > before);
    drop((template, nocow));
    btrfs.remove("template");
}

#[test]
fn a_write_that_was_not_flushed_is_in_the_snapshot_and_the_last_change_then_tells() {
    let test = "a_write_that_was_not_flushed_is_in_the_snapshot_and_the_last_change_then_tells";
    let Some(btrfs) = Btrfs::new(test) else { return };
    create_subvolume(&btrfs.1, c"template").unwrap();
    let template = File::open(btrfs.path("template")).unwrap();
    std::fs::write(btrfs.path("template/file"), vec![b'x'; 100_000]).unwrap();
    btrfs.flush();
    let seal = last_change(&template).unwrap();
    let file = File::options().write(true).open(btrfs.path("template/file")).unwrap();
    file.write_all_at(b"Q", 50).unwrap();
    snapshot(&template, &btrfs.1, c"snapshot").unwrap();
    assert_eq!(std::fs::read(btrfs.path("snapshot/file")).unwrap()[50], b'Q');
    assert!(last_change(&template).unwrap() > seal);
    drop((template, file));
    btrfs.remove("snapshot");
    btrfs.remove("template");
}

/// A change in a transaction that is not over does not move the number, so a state of that time would
/// hide the next change.
#[test]
fn after_a_flush_a_state_is_settled_and_every_later_change_shows_in_it_after_another() {
    let test = "after_a_flush_a_state_is_settled_and_every_later_change_shows_in_it_after_another";
    let Some(btrfs) = Btrfs::new(test) else { return };
    create_subvolume(&btrfs.1, c"template").unwrap();
    let template = File::open(btrfs.path("template")).unwrap();
    let path = btrfs.path("template/file");
    std::fs::write(&path, vec![b'x'; 100_000]).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let is_settled = |state: SubvolumeState| state.last_change <= state.committed;
    for round in 0..20 {
        btrfs.flush();
        let state = subvolume_state(&template).unwrap();
        assert!(is_settled(state), "{state:?}");
        match round % 3 {
            0 => file.write_all_at(b"Q", round).unwrap(),
            1 => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap(),
            _ => std::fs::write(btrfs.path("template/new"), "").unwrap(),
        }
        btrfs.flush();
        let later = subvolume_state(&template).unwrap();
        assert_eq!(later.id, state.id);
        assert!(later.last_change > state.last_change && is_settled(later), "{state:?} {later:?}");
    }
    // Another process may commit between two of these steps.
    let hides = (0..100).any(|_| {
        btrfs.flush();
        std::fs::write(btrfs.path("template/one"), "").unwrap();
        let state = subvolume_state(&template).unwrap();
        std::fs::remove_file(btrfs.path("template/one")).unwrap();
        let later = subvolume_state(&template).unwrap();
        assert!(!is_settled(state) || later.last_change > state.last_change);
        later == state
    });
    assert!(hides, "a state of a transaction that is not over was never seen");
    drop((template, file));
    btrfs.remove("template");
}

#[test]
fn only_a_subvolume_is_deleted_and_only_if_no_other_is_inside() {
    let Some(btrfs) = Btrfs::new("only_a_subvolume_is_deleted_and_only_if_no_other_is_inside")
    else {
        return;
    };
    create_subvolume(&btrfs.1, c"outer").unwrap();
    create_subvolume(File::open(btrfs.path("outer")).unwrap(), c"inner").unwrap();
    std::fs::create_dir(btrfs.path("plain")).unwrap();
    symlink("outer", btrfs.path("symlink")).unwrap();
    for name in [c"outer", c"plain", c"symlink", c"nothing", c"outer/inner", c".", c"..", c""] {
        assert!(delete_subvolume(&btrfs.1, name).is_err(), "{name:?}");
    }
    assert!(btrfs.path("outer/inner").is_dir() && btrfs.path("plain").is_dir());
    let taken = create_subvolume(&btrfs.1, c"plain").unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
    std::fs::remove_dir(btrfs.path("outer/inner")).unwrap();
    btrfs.remove("outer");
    assert!(!btrfs.path("outer").try_exists().unwrap());
}

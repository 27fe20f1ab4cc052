//! Promise: the same result by any method. The odd tree arrives as `cp -a` brings it, whatever the
//! umask.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::odd::{self, chmod, file, set_mtime, set_xattr, stamp};
use crate::common::snapshot::{Kind, Snapshot, assert_same, only, snapshot};
use crate::common::{
    NOBODY, Scratch, as_nobody, expects_reflink, in_child, is_root, jobs, not_run, sh,
};
use calve::{
    CloneMode, CloneOptions, CloneReport, Existing, Method, Reflink, SkipReason, clone_tree,
};

/// Each way a tree may travel, and the method it must travel by.
fn ways(reflinks: bool) -> Vec<(CloneMode, Reflink, Method)> {
    let best = if reflinks { Method::Reflink } else { Method::Copy };
    let mut ways = vec![
        (CloneMode::Clone, Reflink::Auto, best),
        (CloneMode::Clone, Reflink::Never, Method::Copy),
        (CloneMode::Copy, Reflink::Auto, Method::Copy),
    ];
    if reflinks {
        ways.push((CloneMode::Clone, Reflink::Always, Method::Reflink));
    }
    ways
}

/// Entries that calve leaves out and reports are not expected.
fn expected(tree: &Snapshot) -> Snapshot {
    only(tree, |_, entry| !matches!(entry.kind, Kind::Socket | Kind::Device))
}

fn cp(from: &str, to: &str) -> Command {
    let mut command = Command::new("cp");
    command.args(["-a", "-T", from, to]);
    command
}

fn assert_counts(report: &CloneReport, tree: &Snapshot, method: Method, what: &str) {
    let count = |kind| tree.values().filter(|entry| entry.kind == kind).count() as u64;
    let further_names = tree
        .iter()
        .filter(|(path, entry)| entry.kind == Kind::File && entry.first_name != **path)
        .count() as u64;
    for found in &report.destinations {
        assert_eq!(found.method, method, "{what}: {found:?}");
        assert_eq!(found.files, count(Kind::File), "{what}: {found:?}");
        assert_eq!(found.directories, count(Kind::Directory), "{what}: {found:?}");
        assert_eq!(found.symlinks, count(Kind::Symlink), "{what}: {found:?}");
        assert_eq!(found.fifos, count(Kind::Fifo), "{what}: {found:?}");
        assert_eq!(found.linked_files, further_names, "{what}: {found:?}");
        assert_eq!(found.copied_because.total(), found.copied_files, "{what}: {found:?}");
        assert_eq!(
            found.reflinked_files + found.copied_files + found.linked_files,
            found.files,
            "{what}: {found:?}"
        );
    }
}

#[test]
fn the_odd_tree_arrives_as_cp_brings_it_by_every_method_under_every_umask() {
    let name = "the_odd_tree_arrives_as_cp_brings_it_by_every_method_under_every_umask";
    for umask in [0o077, 0o022, 0o000, 0o777] {
        in_child(name, &format!("umask {umask:03o}"), || {
            let scratch = Scratch::new();
            let (source, copy) = (scratch.join("source"), scratch.join("by-cp"));
            odd::build(&source);
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            let before = snapshot(&source);
            sh(cp("source", "by-cp").current_dir(scratch.path()));
            let by_cp = snapshot(&copy);
            assert_same(&before, &by_cp, "cp -a");
            let sockets: Vec<_> = before
                .iter()
                .filter(|(_, entry)| entry.kind == Kind::Socket)
                .map(|(path, _)| path)
                .collect();
            assert_eq!(sockets.len(), 1);

            for (mode, reflink, method) in ways(expects_reflink(scratch.path())) {
                for threads in [1, 4] {
                    let what = format!("umask {umask:03o}, {mode:?}, {reflink:?}, {threads} jobs");
                    let options = jobs(CloneOptions::new().mode(mode).reflink(reflink), threads);
                    let dests = [scratch.join("first"), scratch.join("second")];
                    let report = clone_tree(&source, &dests, &options).unwrap();
                    for (dest, found) in dests.iter().zip(&report.destinations) {
                        assert_same(&expected(&by_cp), &snapshot(dest), &what);
                        let skipped: Vec<_> = found
                            .skipped
                            .iter()
                            .map(|skipped| (&skipped.path, &skipped.reason))
                            .collect();
                        assert_eq!(skipped, [(sockets[0], &SkipReason::Socket)], "{what}");
                        sh(Command::new("rm").arg("-rf").arg(dest));
                    }
                    assert_counts(&report, &expected(&by_cp), method, &what);
                }
            }
            assert_same(&before, &snapshot(&source), "the source itself");
        });
    }
}

#[test]
fn a_umask_that_takes_from_the_owner_does_not_hinder_who_is_not_root() {
    let name = "a_umask_that_takes_from_the_owner_does_not_hinder_who_is_not_root";
    for umask in [0o777, 0o477, 0o277] {
        in_child(name, &format!("umask {umask:03o}"), || {
            let scratch = Scratch::new();
            let work = || {
                let source = scratch.join("source");
                fs::create_dir_all(source.join("folder")).unwrap();
                file(&source.join("folder/file"), 1, 0o640, 10);
                let before = snapshot(&source);
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
                for existing in [Existing::Fail, Existing::Merge] {
                    let dest = scratch.join(format!("{existing:?}"));
                    let options = CloneOptions::new().existing(existing);
                    clone_tree(&source, &[&dest], &options)
                        .unwrap_or_else(|error| panic!("umask {umask:03o}, {existing:?}: {error}"));
                    assert_same(&before, &snapshot(&dest), &format!("{umask:03o}, {existing:?}"));
                }
            };
            if is_root() {
                chmod(scratch.path(), 0o777);
                as_nobody(work);
            } else {
                work();
            }
        });
    }
}

#[test]
fn without_the_right_to_give_files_away_the_result_is_that_of_cp_too() {
    let name = "without_the_right_to_give_files_away_the_result_is_that_of_cp_too";
    if !is_root() {
        return not_run(name, "needs root, to make other users' files");
    }
    for umask in [0o077, 0o022] {
        // Use another process, because of its working directory: this user may not come here by an
        // absolute path.
        in_child(name, &format!("umask {umask:03o}"), || {
            let scratch = Scratch::new();
            rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            std::env::set_current_dir(scratch.path()).unwrap();
            lchown(scratch.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            let root = Path::new("source");
            fs::create_dir(root).unwrap();
            chmod(root, 0o755);
            for (name, owner, mode) in [
                ("mine", (NOBODY, NOBODY), 0o640),
                ("mine-set-id", (NOBODY, NOBODY), 0o6755),
                ("mine-read-only", (NOBODY, NOBODY), 0o444),
                ("roots", (0, 0), 0o644),
                ("roots-set-id", (0, 0), 0o6755),
                ("my-group", (0, NOBODY), 0o664),
                ("group-set-id", (0, NOBODY), 0o2755),
                ("not-my-group", (NOBODY, 0), 0o664),
                ("not-my-group-set-id", (NOBODY, 0), 0o6755),
            ] {
                file(&root.join(name), u64::from(mode), 0o600, 5000);
                let _ = set_xattr(&root.join(name), "user.short", b"1");
                lchown(root.join(name), Some(owner.0), Some(owner.1)).unwrap();
                chmod(&root.join(name), mode);
            }
            for (name, owner, mode) in [
                ("my-folder", NOBODY, 0o555),
                ("roots-folder", 0, 0o755),
                ("roots-closed-folder", 0, 0o555),
                ("shared-folder", 0, 0o3777),
            ] {
                let folder = root.join(name);
                fs::create_dir(&folder).unwrap();
                file(&folder.join("file"), 1, 0o644, 10);
                symlink("file", folder.join("link")).unwrap();
                lchown(&folder, Some(owner), Some(owner)).unwrap();
                chmod(&folder, mode);
            }
            stamp(root);
            sh(cp("source", "by-cp").uid(NOBODY).gid(NOBODY));
            let by_cp = snapshot(Path::new("by-cp"));
            for (mode, reflink, _) in ways(expects_reflink(scratch.path())) {
                let what = format!("umask {umask:03o}, {mode:?}, {reflink:?}");
                let options = jobs(CloneOptions::new().mode(mode).reflink(reflink), 2);
                as_nobody(|| clone_tree("source", &["dest"], &options)).unwrap();
                assert_same(&by_cp, &snapshot(Path::new("dest")), &what);
                sh(Command::new("rm").args(["-rf", "dest"]));
            }
        });
    }
}

#[test]
fn what_the_destinations_folder_would_pass_on_does_not_reach_the_clone() {
    let name = "what_the_destinations_folder_would_pass_on_does_not_reach_the_clone";
    let scratch = Scratch::new();
    let source = scratch.join("source");
    odd::build(&source);
    let before = expected(&snapshot(&source));
    let folder = scratch.join("folder");
    fs::create_dir(&folder).unwrap();
    if is_root() {
        lchown(&folder, Some(1234), Some(5678)).unwrap();
    }
    chmod(&folder, 0o2777);
    if !odd::set_default_acl(&folder) {
        not_run(name, "no POSIX ACLs here: only the set-group-ID bit was tried");
    }
    for (mode, reflink, _) in ways(expects_reflink(scratch.path())) {
        for existing in [Existing::Fail, Existing::Merge] {
            let what = format!("{mode:?}, {reflink:?}, {existing:?}");
            let dest = folder.join("dest");
            let options =
                jobs(CloneOptions::new().mode(mode).reflink(reflink).existing(existing), 2);
            clone_tree(&source, &[&dest], &options).unwrap();
            assert_same(&before, &snapshot(&dest), &what);
            sh(Command::new("rm").arg("-rf").arg(&dest));

            if existing == Existing::Merge {
                // The destination itself is such a folder. It stays as it is, and new entries in it
                // are as in the source.
                fs::create_dir(&dest).unwrap();
                chmod(&dest, 0o2777);
                let _ = odd::set_default_acl(&dest);
                let was = snapshot(&dest).remove(Path::new("")).unwrap();
                clone_tree(&source, &[&dest], &options).unwrap();
                let mut found = snapshot(&dest);
                let mut root = found.remove(Path::new("")).unwrap();
                root.mtime = was.mtime;
                assert_eq!(root, was, "{what}: the folder that was there");
                assert_same(&only(&before, |path, _| path != Path::new("")), &found, &what);
                sh(Command::new("rm").arg("-rf").arg(&dest));
            }
        }
    }
}

#[test]
fn a_tree_that_comes_from_another_filesystem_arrives_the_same_as_a_copy() {
    let name = "a_tree_that_comes_from_another_filesystem_arrives_the_same_as_a_copy";
    let Some(elsewhere) = Scratch::elsewhere() else {
        return not_run(name, "there is no second filesystem to be found");
    };
    let scratch = Scratch::new();
    let source = elsewhere.join("source");
    odd::build(&source);
    // A file that cannot be linked to the source on the other filesystem is a copy with all its
    // names.
    let modes = [(CloneMode::Clone, Method::Copy), (CloneMode::Hardlink, Method::Mixed)];
    for ((mode, method), threads) in modes.into_iter().flat_map(|mode| [(mode, 1), (mode, 4)]) {
        let dest = scratch.join("dest");
        let options = jobs(CloneOptions::new().mode(mode), threads);
        let report = clone_tree(&source, &[&dest], &options).unwrap();
        let before = expected(&snapshot(&source));
        // The boundaries between blocks and holes differ between filesystems.
        let without_maps = |mut tree: Snapshot| {
            tree.values_mut().for_each(|entry| entry.data.clear());
            tree
        };
        assert_same(
            &without_maps(before.clone()),
            &without_maps(snapshot(&dest)),
            "from elsewhere",
        );
        for name in ["all-hole", "hole-at-the-end", "hole-at-the-start", "holes-between"] {
            let meta = fs::metadata(dest.join("sparse").join(name)).unwrap();
            assert!(meta.blocks() * 512 <= meta.len() / 4, "{name} takes {} blocks", meta.blocks());
        }
        assert_counts(&report, &before, method, "from elsewhere");
        let because = report.destinations[0].copied_because;
        assert_eq!(because.filesystem, because.total(), "{because:?}");
        sh(Command::new("rm").arg("-rf").arg(&dest));
    }
}

/// The names of all attributes of a file may be more than the system lists. Its ACL must still
/// arrive: without it, the mode would give the group all rights of the ACL's mask.
#[test]
fn attributes_that_cannot_be_listed_are_told_of_and_the_acl_arrives() {
    let name = "attributes_that_cannot_be_listed_are_told_of_and_the_acl_arrives";
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    file(&source.join("file"), 1, 0o640, 10);
    let opened = fs::File::open(source.join("file")).unwrap();
    for number in 0..400 {
        let long = format!("user.{}{number}", "n".repeat(200));
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::fsetxattr(&opened, long.as_str(), b"value", flags).is_err() {
            return not_run(name, "needs a filesystem with room for many attributes");
        }
    }
    let acl = |dir: &Path| {
        Command::new("getfacl").args(["-n", "file"]).current_dir(dir).output().unwrap().stdout
    };
    sh(Command::new("setfacl").args(["-m", "u:12:rw,m::rw"]).arg(source.join("file")));
    let dest = scratch.join("dest");
    let report = clone_tree(&source, &[&dest], &CloneOptions::new()).unwrap();
    let [skipped] = &report.destinations[0].skipped[..] else { panic!("{report:?}") };
    assert_eq!(skipped.path, Path::new("file"));
    assert!(matches!(skipped.reason, SkipReason::Xattrs(_)), "{skipped:?}");
    assert_eq!(String::from_utf8_lossy(&acl(&dest)), String::from_utf8_lossy(&acl(&source)));
}

#[test]
fn without_xattrs_all_else_arrives() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    odd::build(&source);
    let mut bare = expected(&snapshot(&source));
    for entry in bare.values_mut() {
        if let Some(acl) = entry.xattrs.get("system.posix_acl_access") {
            entry.mode = entry.mode & !0o070 | odd::group_of(acl) << 3;
        }
        entry.xattrs.clear();
    }
    for (mode, reflink, _) in ways(expects_reflink(scratch.path())) {
        let dest = scratch.join("dest");
        let options = jobs(CloneOptions::new().mode(mode).reflink(reflink).xattrs(false), 2);
        clone_tree(&source, &[&dest], &options).unwrap();
        assert_same(&bare, &snapshot(&dest), &format!("{mode:?}, {reflink:?}"));
        sh(Command::new("rm").arg("-rf").arg(&dest));
    }
}

/// Nothing is left out in silence; but who clones to places inside the source has stages there that
/// come and go.
#[test]
fn an_entry_with_the_name_of_a_stage_is_left_out_and_told_of_unless_somebody_is_at_work_there() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    let inside = source.join("folder");
    fs::create_dir_all(inside.join(".calve-stage-of-somebody/full")).unwrap();
    file(&inside.join(".calve-stage-"), 1, 0o644, 10);
    symlink("nowhere", source.join(".calve-stage-0000000000000001-1-1-0")).unwrap();
    file(&inside.join("file"), 1, 0o644, 10);
    let clone = |dest: &Path, options: CloneOptions| {
        let mut report = clone_tree(&source, &[dest], &options).unwrap().destinations.remove(0);
        assert_eq!((report.files, report.directories, report.symlinks), (1, 2, 0));
        assert!(report.skipped.iter().all(|skipped| skipped.reason == SkipReason::Stage));
        report.skipped.drain(..).map(|skipped| skipped.path).collect::<Vec<_>>()
    };
    let all = [
        ".calve-stage-0000000000000001-1-1-0",
        "folder/.calve-stage-",
        "folder/.calve-stage-of-somebody",
    ]
    .map(PathBuf::from);
    assert_eq!(clone(&scratch.join("dry"), CloneOptions::new().dry_run(true)), all);
    assert_eq!(clone(&scratch.join("dest"), CloneOptions::new()), all);
    let merge = CloneOptions::new().existing(Existing::Merge);
    assert_eq!(clone(&scratch.join("merged"), merge), all);
    let asked = CloneOptions::new().exclude(".calve-stage-*");
    assert_eq!(clone(&scratch.join("asked"), asked), [""; 0].map(PathBuf::from));
    // Its own stage is one of them, beside the destination.
    assert_eq!(clone(&inside.join("dest"), CloneOptions::new()), all);
}

/// If an entry has an ACL, the mode's group bits are its mask. Without the ACL these bits gave the
/// group all rights that the ACL gives to others by name.
#[test]
fn where_an_acl_stays_behind_the_group_gains_nothing() {
    let name = "where_an_acl_stays_behind_the_group_gains_nothing";
    let scratch = Scratch::new();
    let source = scratch.join("source");
    // For user 12 everything, for the group as much as is said.
    let acl = |group: u16, mask: u16| {
        let all = u32::MAX;
        odd::acl(&[(1, 7, all), (2, 7, 12), (4, group, all), (0x10, mask, all), (0x20, 0, all)])
    };
    let set = |path: &Path, acl: &[u8]| {
        rustix::fs::setxattr(path, "system.posix_acl_access", acl, rustix::fs::XattrFlags::empty())
    };
    fs::create_dir_all(source.join("folder")).unwrap();
    let make_fifo = |path: &Path| drop(sh(Command::new("mkfifo").arg(path)));
    let rows = [
        ("none", acl(0, 7), 0o700),
        ("read", acl(4, 6), 0o740),
        ("masked", acl(7, 4), 0o740),
        ("all", acl(7, 7), 0o770),
    ];
    for (what, acl, _) in &rows {
        for kind in ["file", "folder", "fifo"] {
            let path = source.join(format!("folder/{kind}-{what}"));
            match kind {
                "file" => file(&path, 1, 0o600, 10),
                "folder" => fs::create_dir(&path).unwrap(),
                _ => make_fifo(&path),
            }
            if set(&path, acl).is_err() {
                return not_run(name, "needs a filesystem with ACLs");
            }
        }
    }
    set(&source, &rows[1].1).unwrap();
    file(&source.join("plain"), 1, 0o664, 10);
    make_fifo(&source.join("plain-fifo"));
    chmod(&source.join("plain-fifo"), 0o660);
    for existing in [Existing::Fail, Existing::Merge] {
        for xattrs in [false, true] {
            let what = format!("{existing:?}, {xattrs}");
            let dest = scratch.join("dest");
            clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing).xattrs(xattrs))
                .unwrap();
            let (from, to) = (snapshot(&source), snapshot(&dest));
            for (row, _, expected) in &rows {
                for kind in ["file", "folder", "fifo"] {
                    let path = PathBuf::from(format!("folder/{kind}-{row}"));
                    // A FIFO's ACL always stays behind; it is not opened.
                    let left = !xattrs || kind == "fifo";
                    let expected = if left { *expected } else { from[&path].mode };
                    assert_eq!(to[&path].mode, expected, "{what}: {path:?}");
                }
            }
            let root = if xattrs { from[Path::new("")].mode } else { 0o740 };
            assert_eq!(to[Path::new("")].mode, root, "{what}");
            for plain in ["plain", "plain-fifo"] {
                assert_eq!(to[Path::new(plain)].mode, from[Path::new(plain)].mode, "{what}");
            }
            sh(Command::new("rm").arg("-rf").arg(&dest));
        }
    }
}

#[test]
fn a_root_of_any_mode_arrives_with_it() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    file(&source.join("file"), 1, 0o644, 10);
    for mode in [0o700, 0o755, 0o777, 0o555, 0o500, 0o711, 0o1777, 0o2775, 0o4700, 0o7777] {
        chmod(&source, mode);
        set_mtime(&source, 1_234_567_890, 123_456_789);
        for existing in [Existing::Fail, Existing::Merge, Existing::Replace] {
            let dests = [scratch.join("one"), scratch.join("two")];
            clone_tree(&source, &dests, &CloneOptions::new().existing(existing)).unwrap();
            for dest in &dests {
                assert_same(&snapshot(&source), &snapshot(dest), &format!("{mode:o} {existing:?}"));
                chmod(dest, 0o755);
                fs::remove_dir_all(dest).unwrap();
            }
        }
    }
}

#[test]
fn the_source_may_be_named_in_any_way() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir_all(source.join("folder/below")).unwrap();
    file(&source.join("folder/file"), 1, 0o640, 10);
    symlink(&source, scratch.join("link")).unwrap();
    symlink("link", scratch.join("link-to-link")).unwrap();
    let before = snapshot(&source);
    for way in [
        "source",
        "source/",
        "source/.",
        "source/folder/..",
        "link",
        "link/",
        "link-to-link",
        "./source//",
    ] {
        for dest in ["dest", "dest/", "source/../dest", "./dest"] {
            clone_tree(scratch.join(way), &[scratch.join(dest)], &CloneOptions::new()).unwrap();
            assert_same(&before, &snapshot(&scratch.join("dest")), &format!("{way} to {dest}"));
            fs::remove_dir_all(scratch.join("dest")).unwrap();
        }
    }
    assert_eq!(scratch.names(), ["link", "link-to-link", "source"]);
}

#[test]
fn hard_links_of_every_kind_of_entry_arrive_as_hard_links() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    file(&source.join("file"), 1, 0o640, 10);
    symlink("target", source.join("link")).unwrap();
    sh(Command::new("mkfifo").arg(source.join("fifo")));
    for name in ["file", "link", "fifo"] {
        fs::hard_link(source.join(name), source.join("folder").join(name)).unwrap();
    }
    for (mode, reflink, _) in ways(expects_reflink(scratch.path())) {
        for threads in [1, 4] {
            let dest = scratch.join("dest");
            let options = jobs(CloneOptions::new().mode(mode).reflink(reflink), threads);
            clone_tree(&source, &[&dest], &options).unwrap();
            assert_same(&snapshot(&source), &snapshot(&dest), &format!("{mode:?}, {reflink:?}"));
            fs::remove_dir_all(&dest).unwrap();
        }
    }
}

/// calve sets its mode after the links: with that mode, only root could reach a name in it.
#[cfg(target_os = "linux")]
#[test]
fn names_in_folders_that_shut_out_their_owner_arrive_as_hard_links() {
    if !is_root() {
        return not_run("names_in_folders_that_shut_out_their_owner", "only root becomes nobody");
    }
    let scratch = Scratch::new();
    let (source, own) = (scratch.join("source"), scratch.join("own"));
    let folders = ["one", "two", "two/deep", "open"];
    for folder in folders {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    file(&source.join("one/first"), 1, 0o644, 10);
    symlink("target", source.join("one/link")).unwrap();
    for folder in &folders[1..] {
        for name in ["first", "link"] {
            let there = source.join(folder).join(name);
            fs::hard_link(source.join("one").join(name), there).unwrap();
        }
    }
    // Everybody else may look.
    for folder in &folders[..3] {
        chmod(&source.join(folder), 0o077);
    }
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    if as_nobody(|| fs::metadata(&own)).is_err() {
        return not_run("names_in_folders_that_shut_out_their_owner", "nobody may not look there");
    }
    for threads in [1, 2, 4] {
        let dest = own.join(format!("{threads}"));
        let options = jobs(CloneOptions::new(), threads);
        let report = as_nobody(|| clone_tree(&source, &[&dest], &options)).unwrap();
        assert_eq!(report.destinations[0].skipped, [], "{threads} threads");
        assert_eq!(fs::metadata(dest.join("two")).unwrap().mode() & 0o7777, 0o077);
        for name in ["first", "link"] {
            let first = fs::symlink_metadata(dest.join("one").join(name)).unwrap();
            for folder in folders {
                let other = fs::symlink_metadata(dest.join(folder).join(name)).unwrap();
                assert_eq!((other.ino(), other.nlink()), (first.ino(), 4), "{folder}/{name}");
            }
        }
    }
}

#[test]
fn a_durable_clone_is_the_same_clone() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    odd::build(&source);
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
        let dest = scratch.join("dest");
        clone_tree(&source, &[&dest], &CloneOptions::new().durable(true).existing(existing))
            .unwrap();
        assert_same(&expected(&snapshot(&source)), &snapshot(&dest), &format!("{existing:?}"));
        if existing == Existing::Fail {
            continue;
        }
        sh(Command::new("rm").arg("-rf").arg(&dest));
    }
}

#[test]
fn a_dry_run_counts_what_would_arrive_and_changes_nothing() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    odd::build(&source);
    let before = snapshot(scratch.path());
    let dest = scratch.join("dest");
    let dry = clone_tree(&source, &[&dest], &CloneOptions::new().dry_run(true)).unwrap();
    assert_same(&before, &snapshot(scratch.path()), "after a dry run");
    let real = clone_tree(&source, &[&dest], &CloneOptions::new()).unwrap();
    let (dry, real) = (&dry.destinations[0], &real.destinations[0]);
    assert_eq!(
        (dry.files, dry.directories, dry.symlinks, dry.fifos, &dry.skipped),
        (real.files, real.directories, real.symlinks, real.fifos, &real.skipped)
    );
    assert_eq!(dry.method, Method::None);
    assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o7777, 0o751);
}

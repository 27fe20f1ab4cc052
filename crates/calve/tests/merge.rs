//! Promise: merging is atomic for each file, touches nothing else, and goes on beside others that merge there too.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use calve::{CloneOptions, ErrorKind, Existing, Method, Mode, Reflink, clone_tree};
use common::odd::{self, chmod, file};
use common::snapshot::{Kind, assert_same, only, snapshot};
use common::{Scratch, bytes, child, filesystem, jobs, names, not_run, plain_tree, sh};

fn merging() -> CloneOptions {
    CloneOptions::new().existing(Existing::Merge)
}

#[track_caller]
fn assert_no_stage(dir: &Path) {
    let tree = snapshot(dir);
    let left: Vec<_> =
        tree.keys().filter(|path| path.to_string_lossy().contains(".calve-")).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn what_the_source_has_replaces_and_what_it_has_not_stays() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    let unrelated = scratch.join("unrelated");
    for mode in [Mode::Clone, Mode::Copy, Mode::Hardlink, Mode::Symlink] {
        for threads in [1, 2, 4] {
            let what = format!("{mode:?}, {threads} jobs");
            fs::create_dir_all(source.join("both/deep")).unwrap();
            fs::create_dir_all(source.join("new/deep")).unwrap();
            fs::create_dir_all(dest.join("both/deep")).unwrap();
            fs::create_dir_all(dest.join("old")).unwrap();
            chmod(&source.join("both"), 0o700);
            chmod(&dest.join("both"), 0o750);
            file(&unrelated, 9, 0o644, 10);
            for (seed, name) in
                ["a", "both/a", "both/deep/a", "new/a", "new/deep/a"].iter().enumerate()
            {
                file(&source.join(name), seed as u64, 0o640, 5000);
            }
            for name in ["a", "both/kept", "both/deep/a", "old/kept"] {
                file(&dest.join(name), 99, 0o600, 9000);
            }
            // An old name that is a link is replaced; what it points to is not.
            symlink(&unrelated, dest.join("both/a")).unwrap();
            fs::hard_link(&unrelated, dest.join("link")).unwrap();
            symlink("target", source.join("link")).unwrap();
            symlink("nowhere", dest.join("both/kept-link")).unwrap();

            let report =
                clone_tree(&source, &[&dest], &jobs(merging().mode(mode), threads)).unwrap();
            let (from, to) = (snapshot(&source), snapshot(&dest));
            for (path, entry) in &from {
                let found = &to[path];
                match entry.kind {
                    Kind::File if mode == Mode::Symlink => {
                        assert_eq!(found.target, source.join(path), "{what}");
                    }
                    Kind::Directory if !path.starts_with("new") => {}
                    _ => assert_eq!(found, entry, "{what}: {path:?}"),
                }
            }
            assert_eq!(
                to[Path::new("both")].mode,
                0o750,
                "{what}: a folder that was there stays as it is"
            );
            for kept in ["both/kept", "old/kept"] {
                assert_eq!(fs::read(dest.join(kept)).unwrap(), bytes(99, 9000), "{what}");
            }
            assert_eq!(fs::read_link(dest.join("both/kept-link")).unwrap(), Path::new("nowhere"));
            assert_eq!(fs::read(&unrelated).unwrap(), bytes(9, 10), "{what}");
            assert_eq!(to.len(), from.len() + 4, "{what}: {:?}", to.keys());
            let found = &report.destinations[0];
            assert_eq!((found.files, found.symlinks, found.directories), (5, 1, 2), "{what}");
            // Once more: it is the same.
            clone_tree(&source, &[&dest], &jobs(merging().mode(mode), threads)).unwrap();
            assert_eq!(snapshot(&dest).len(), to.len(), "{what}");
            assert_no_stage(&dest);
            assert_same(&from, &snapshot(&source), "the source itself");
            fs::remove_dir_all(&dest).unwrap();
            fs::remove_dir_all(&source).unwrap();
        }
    }
}

#[test]
fn the_odd_tree_is_merged_over_itself_and_beside_others() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    odd::build(&source);
    let expected = only(&snapshot(&source), |_, entry| entry.kind != Kind::Socket);
    for threads in [1, 4] {
        for reflink in [Reflink::Auto, Reflink::Never] {
            for round in ["into nothing", "over itself"] {
                clone_tree(&source, &[&dest], &jobs(merging().reflink(reflink), threads)).unwrap();
                let mut found = snapshot(&dest);
                if round == "over itself" {
                    // Folders that were there are not set back to the source's time.
                    for (path, entry) in &mut found {
                        if entry.kind == Kind::Directory {
                            entry.mtime = expected[path].mtime;
                        }
                    }
                }
                assert_same(&expected, &found, &format!("{round}, {threads} jobs, {reflink:?}"));
            }
            sh(Command::new("rm").arg("-rf").arg(&dest));
        }
    }
}

#[test]
fn a_file_over_a_folder_and_a_folder_over_a_file_are_errors_that_name_both() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    let outside = scratch.join("outside");
    fs::create_dir(&outside).unwrap();
    let make = |path: &Path, kind: &str| match kind {
        "file" => file(path, 1, 0o644, 10),
        "folder" => fs::create_dir(path).unwrap(),
        "full folder" => plain_tree(path, 1, 1, 10),
        "link" => symlink("nowhere", path).unwrap(),
        "link to a folder" => symlink(&outside, path).unwrap(),
        _ => drop(sh(Command::new("mkfifo").arg(path))),
    };
    for mode in [Mode::Clone, Mode::Copy, Mode::Hardlink, Mode::Symlink] {
        for (new, old) in [
            ("file", "folder"),
            ("file", "full folder"),
            ("link", "folder"),
            ("link", "full folder"),
            ("fifo", "full folder"),
            ("folder", "file"),
            ("full folder", "file"),
            ("full folder", "link"),
            ("full folder", "link to a folder"),
            ("full folder", "fifo"),
        ] {
            for threads in [1, 4] {
                let what = format!("{mode:?}: {new} over {old}");
                fs::create_dir_all(source.join("a")).unwrap();
                fs::create_dir_all(dest.join("a")).unwrap();
                make(&source.join("a/it"), new);
                make(&dest.join("a/it"), old);
                let before = snapshot(&dest);
                let error = clone_tree(&source, &[&dest], &jobs(merging().mode(mode), threads))
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
                assert_eq!(error.path(), source.join("a/it"), "{what}: {error}");
                assert_eq!(error.other_path(), Some(&*dest.join("a/it")), "{what}: {error}");
                let mut after = snapshot(&dest);
                for path in ["", "a", "a/it"] {
                    let (path, kind) = (Path::new(path), before[Path::new(path)].kind);
                    if kind == Kind::Directory {
                        after.get_mut(path).unwrap().mtime = before[path].mtime;
                    }
                }
                assert_same(&before, &after, &what);
                assert!(names(&outside).is_empty(), "{what}: it was followed out of the tree");
                fs::remove_dir_all(&source).unwrap();
                fs::remove_dir_all(&dest).unwrap();
            }
        }
    }
}

#[test]
fn where_another_filesystem_is_mounted_in_the_destination_files_arrive_whole_there_too() {
    let name =
        "where_another_filesystem_is_mounted_in_the_destination_files_arrive_whole_there_too";
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    let mounted = dest.join("folder/mounted");
    fs::create_dir_all(&mounted).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "calve"]).arg(&mounted).stderr(std::process::Stdio::null());
    if !mount.status().is_ok_and(|status| status.success()) {
        return not_run(name, "needs root, to mount a filesystem");
    }
    fs::create_dir_all(source.join("folder/mounted/below")).unwrap();
    for (seed, place) in
        ["a", "folder/a", "folder/mounted/a", "folder/mounted/below/a"].iter().enumerate()
    {
        file(&source.join(place), seed as u64, 0o640, 5000);
    }
    symlink("target", source.join("folder/mounted/link")).unwrap();
    fs::hard_link(source.join("folder/mounted/a"), source.join("folder/mounted/b")).unwrap();
    chmod(&mounted, 0o2777);
    let _ = odd::set_default_acl(&mounted);
    let result = std::panic::catch_unwind(|| {
        for mode in [Mode::Clone, Mode::Copy, Mode::Symlink] {
            for round in 0..2 {
                clone_tree(&source, &[&dest], &jobs(merging().mode(mode), 2)).unwrap();
                let (from, to) = (snapshot(&source), snapshot(&dest));
                for (path, entry) in only(&from, |_, entry| entry.kind == Kind::File) {
                    if mode == Mode::Symlink {
                        assert_eq!(to[&path].target, source.join(&path));
                    } else {
                        assert_eq!(to[&path], entry, "{mode:?}, round {round}: {path:?}");
                    }
                }
                assert_no_stage(&dest);
            }
        }
        // What cannot be there leaves nothing behind either.
        fs::remove_file(mounted.join("below/a")).unwrap();
        fs::create_dir(mounted.join("below/a")).unwrap();
        for number in 0..40 {
            file(&source.join(format!("folder/mounted/more{number}")), number, 0o640, 5000);
        }
        // Whatever other threads have on its way there when one meets it.
        for round in 0..30 {
            let error = clone_tree(&source, &[&dest], &jobs(merging(), 4)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{round}: {error}");
            assert_no_stage(&dest);
        }
    });
    sh(Command::new("umount").arg(&mounted));
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Nothing can be renamed into it from elsewhere, and no device number tells.
#[test]
#[cfg(target_os = "linux")]
fn where_a_folder_of_the_destination_is_another_mount_of_its_filesystem_files_arrive_there_too() {
    let name = "where_a_folder_of_the_destination_is_another_mount_of_its_filesystem_files_arrive_there_too";
    let scratch = Scratch::new();
    let (source, dest, there) =
        (scratch.join("source"), scratch.join("dest"), scratch.join("there"));
    let mounted = dest.join("d0/mounted");
    for path in [&mounted, &there.join("old"), &source.join("d0/mounted/new/deep")] {
        fs::create_dir_all(path).unwrap();
    }
    let mut mount = Command::new("mount");
    mount.arg("--bind").args([&there, &mounted]).stderr(std::process::Stdio::null());
    if !mount.status().is_ok_and(|status| status.success()) {
        return not_run(name, "needs root, to mount a folder");
    }
    for (seed, place) in
        ["d0/mounted", "d0/mounted/old", "d0/mounted/new", "d0/mounted/new/deep", "d0"]
            .into_iter()
            .enumerate()
    {
        fs::create_dir_all(source.join(place)).unwrap();
        for number in 0..25 {
            file(&source.join(place).join(format!("f{number}")), seed as u64, 0o640, 3000);
        }
        symlink("target", source.join(place).join("link")).unwrap();
    }
    let result = std::panic::catch_unwind(|| {
        for mode in [Mode::Clone, Mode::Copy, Mode::Symlink, Mode::Clone] {
            for threads in [1, 4] {
                clone_tree(&source, &[&dest], &jobs(merging().mode(mode), threads)).unwrap();
                let (from, to) = (snapshot(&source), snapshot(&dest));
                for (path, entry) in only(&from, |_, entry| entry.kind == Kind::File) {
                    match mode {
                        Mode::Symlink => assert_eq!(to[&path].target, source.join(&path)),
                        _ => assert_eq!(to[&path], entry, "{mode:?}, {threads}: {path:?}"),
                    }
                }
                assert_no_stage(&dest);
            }
        }
        fs::remove_file(mounted.join("old/f3")).unwrap();
        fs::create_dir(mounted.join("old/f3")).unwrap();
        let error = clone_tree(&source, &[&dest], &merging()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_no_stage(&dest);
    });
    sh(Command::new("umount").arg(&mounted));
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn who_reads_a_file_while_it_is_replaced_sees_all_of_the_old_or_all_of_the_new() {
    let scratch = Scratch::new();
    let dest = scratch.join("dest");
    for (seed, version) in ["a", "b"].iter().enumerate() {
        plain_tree(&scratch.join(version), 1, 20, 0);
        for name in 0..20 {
            file(&scratch.join(version).join(format!("d0/f{name}")), seed as u64, 0o644, 50_000);
        }
    }
    let whole = [bytes(0, 50_000), bytes(1, 50_000)];
    for mode in [Mode::Clone, Mode::Copy, Mode::Hardlink, Mode::Symlink] {
        clone_tree(scratch.join("a"), &[&dest], &merging().mode(mode)).unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut reads = 0_usize;
                while !over.load(Ordering::Relaxed) {
                    let content = fs::read(dest.join(format!("d0/f{}", reads % 20)))
                        .expect("it is always there");
                    assert!(whole.contains(&content), "a torn file of {} bytes", content.len());
                    reads += 1;
                }
                reads
            });
            for round in 0..20 {
                let source = scratch.join(if round % 2 == 0 { "b" } else { "a" });
                clone_tree(source, &[&dest], &jobs(merging().mode(mode), 2)).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        fs::remove_dir_all(&dest).unwrap();
    }
}

/// Ten trees with a namespace in common, a folder of their own, and one file that all of them have.
fn ten_packages(scratch: &Scratch) -> Vec<PathBuf> {
    (0..10)
        .map(|package| {
            let root = scratch.join(format!("package-{package}"));
            fs::create_dir_all(root.join("space/shared/deep")).unwrap();
            fs::create_dir_all(root.join(format!("space/own-{package}"))).unwrap();
            file(&root.join("space/common"), 1000, 0o644, 30_000);
            for number in 0..30 {
                let seed = package * 100 + number;
                for place in ["space/shared", "space/shared/deep", &format!("space/own-{package}")]
                {
                    let name = format!("{place}/p{package}-{number}");
                    file(&root.join(name), seed, 0o644, usize::try_from(seed).unwrap() * 37);
                }
            }
            root
        })
        .collect()
}

#[track_caller]
fn assert_all_packages(scratch: &Scratch, dest: &Path, what: &str) {
    let found = snapshot(dest);
    let mut files = 1;
    for package in ten_names() {
        for (path, entry) in
            only(&snapshot(&scratch.join(package)), |_, entry| entry.kind == Kind::File)
        {
            let meta = fs::metadata(dest.join(&path))
                .unwrap_or_else(|error| panic!("{what}: {path:?}: {error}"));
            assert_eq!(meta.size(), entry.size, "{what}: {path:?}");
            assert_eq!(
                fs::read(dest.join(&path)).unwrap(),
                fs::read(scratch.join(format!("{}/{}", package_of(&path), path.display())))
                    .unwrap(),
                "{what}: {path:?}"
            );
            files += usize::from(path != Path::new("space/common"));
        }
    }
    let arrived = found.values().filter(|entry| entry.kind != Kind::Directory).count();
    assert_eq!(arrived, files, "{what}");
    assert_no_stage(dest);
}

fn ten_names() -> Vec<String> {
    (0..10).map(|package| format!("package-{package}")).collect()
}

fn package_of(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let package = name.strip_prefix('p').and_then(|name| name.split('-').next()).unwrap_or("0");
    format!("package-{package}")
}

#[test]
fn ten_threads_merge_ten_trees_into_one_and_nothing_is_torn_or_lost() {
    let scratch = Scratch::new();
    let packages = ten_packages(&scratch);
    for mode in [Mode::Clone, Mode::Copy, Mode::Hardlink, Mode::Symlink] {
        for round in 0..3 {
            let dest = scratch.join("dest");
            let (dest, what) = (&dest, format!("{mode:?}, round {round}"));
            thread::scope(|scope| {
                for package in &packages {
                    scope.spawn(move || {
                        clone_tree(package, &[dest], &jobs(merging().mode(mode), 2)).unwrap()
                    });
                }
            });
            assert_all_packages(&scratch, dest, &what);
            fs::remove_dir_all(dest).unwrap();
        }
    }
}

#[test]
fn ten_processes_merge_ten_trees_into_one_and_nothing_is_torn_or_lost() {
    let name = "ten_processes_merge_ten_trees_into_one_and_nothing_is_torn_or_lost";
    let at = || PathBuf::from(std::env::var_os("CALVE_TEST_AT").unwrap());
    let make = || {
        child(name, "one of ten", || {
            clone_tree(
                at().join(std::env::var("CALVE_TEST_PACKAGE").unwrap()),
                &[at().join("dest")],
                &merging(),
            )
            .unwrap();
        })
    };
    if make().is_none() {
        return;
    }
    let scratch = Scratch::new();
    ten_packages(&scratch);
    for round in 0..3 {
        let children: Vec<_> = ten_names()
            .iter()
            .map(|package| {
                let mut command = make().unwrap();
                command.env("CALVE_TEST_AT", scratch.path()).env("CALVE_TEST_PACKAGE", package);
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        for child in children {
            common::assert_child_done("one of ten", &child.wait_with_output().unwrap());
        }
        assert_all_packages(&scratch, &scratch.join("dest"), &format!("round {round}"));
        fs::remove_dir_all(scratch.join("dest")).unwrap();
    }
}

#[test]
fn one_merge_of_many_threads_gives_every_name_its_own_content() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for folder in 0..40_u64 {
        let dir = source.join(format!("{folder}"));
        fs::create_dir(&dir).unwrap();
        for name in 0..25 {
            file(&dir.join(format!("{name}")), folder * 25 + name, 0o644, 500);
        }
    }
    let expected = snapshot(&source);
    for threads in [2, 3, 8] {
        for mode in [Mode::Clone, Mode::Copy, Mode::Hardlink] {
            let dests = [scratch.join("one"), scratch.join("two")];
            clone_tree(&source, &dests, &jobs(merging().mode(mode), threads)).unwrap();
            for dest in &dests {
                assert_same(&expected, &snapshot(dest), &format!("{mode:?}, {threads} jobs"));
                fs::remove_dir_all(dest).unwrap();
            }
        }
    }
}

#[test]
fn what_must_be_mutable_is_no_link() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    fs::create_dir_all(source.join("conf")).unwrap();
    for name in ["a.py", "a.pyc", "conf/a", "conf/b.pyc", "deep.pyc.txt"] {
        file(&source.join(name), name.len() as u64, 0o644, 5000);
    }
    let reflinks = common::expects_reflink(scratch.path());
    for (mode, method) in [(Mode::Hardlink, Method::Hardlink), (Mode::Symlink, Method::Symlink)] {
        for existing in [Existing::Fail, Existing::Merge, Existing::Replace] {
            let dest = scratch.join("dest");
            let options = CloneOptions::new().mode(mode).existing(existing);
            let report = clone_tree(&source, &[&dest], &options).unwrap();
            assert_eq!(report.destinations[0].method, method);
            fs::remove_dir_all(&dest).unwrap();
            let options = options.mutable("*.pyc").mutable("conf/");
            let report = clone_tree(&source, &[&dest], &options).unwrap();
            let found = &report.destinations[0];
            let what = format!("{mode:?}, {existing:?}: {found:?}");
            assert_eq!(
                (found.files, found.linked_files, found.method),
                (5, 2, Method::Mixed),
                "{what}"
            );
            assert_eq!(
                (found.reflinked_files, found.copied_files),
                if reflinks { (3, 0) } else { (0, 3) },
                "{what}"
            );
            assert_eq!(found.copied_because.mutable, found.copied_files, "{what}");
            let (from, to) = (snapshot(&source), snapshot(&dest));
            for name in ["a.py", "deep.pyc.txt"] {
                let name = Path::new(name);
                assert!(
                    to[name].inode.is(from[name].inode) || to[name].kind == Kind::Symlink,
                    "{what}"
                );
            }
            for name in ["a.pyc", "conf/a", "conf/b.pyc"] {
                let name = Path::new(name);
                assert!(!to[name].inode.is(from[name].inode), "{what}");
                assert_eq!(to[name], from[name], "{what}");
            }
            fs::remove_dir_all(&dest).unwrap();
        }
    }
}

#[test]
fn where_the_links_run_out_that_one_file_is_copied() {
    let name = "where_the_links_run_out_that_one_file_is_copied";
    let scratch = Scratch::new();
    if filesystem(scratch.path()) != "ext4" {
        return not_run(name, "only ext4 runs out of links within a second");
    }
    let source = scratch.join("source");
    fs::create_dir(&source).unwrap();
    for name in ["common", "rare"] {
        file(&source.join(name), 1, 0o644, 5000);
    }
    let links = scratch.join("links");
    fs::create_dir(&links).unwrap();
    let limit = 65_000;
    for link in 1..limit {
        fs::hard_link(source.join("common"), links.join(format!("{link}"))).unwrap();
    }
    assert!(fs::hard_link(source.join("common"), links.join("one-more")).is_err());
    let dests = [scratch.join("one"), scratch.join("two")];
    for existing in [Existing::Fail, Existing::Merge] {
        let options = CloneOptions::new().mode(Mode::Hardlink).existing(existing);
        let report = clone_tree(&source, &dests, &options).unwrap();
        for (dest, found) in dests.iter().zip(&report.destinations) {
            assert_eq!((found.linked_files, found.copied_files), (1, 1), "{found:?}");
            assert_eq!(found.copied_because.file, 1, "{found:?}");
            assert_eq!(fs::read(dest.join("common")).unwrap(), bytes(1, 5000));
            assert_eq!(fs::metadata(dest.join("common")).unwrap().nlink(), 1);
            fs::remove_dir_all(dest).unwrap();
        }
    }
}

/// What is mounted goes whatever happens.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// A filesystem that ignores case, made and mounted by the lines of a shell in `dir`; `None` where it cannot be.
fn ignoring_case(dir: &Path, lines: &str) -> Option<Mounted> {
    fs::create_dir_all(dir.join("mounted")).unwrap();
    let made = Command::new("sh").args(["-e", "-c", lines]).current_dir(dir).output().unwrap();
    let mounted = Mounted(dir.join("mounted"));
    let probe = mounted.0.join("root/Probe");
    let ignores = made.status.success()
        && fs::write(&probe, "").is_ok()
        && fs::remove_file(mounted.0.join("root/pROBE")).is_ok();
    ignores.then_some(mounted)
}

/// Of `A` and `a` in one source only the last was left where case is ignored, and nothing was said.
#[test]
fn two_entries_that_the_destination_takes_for_one_are_an_error_that_names_both() {
    let name = "two_entries_that_the_destination_takes_for_one_are_an_error_that_names_both";
    for (kind, lines) in [
        (
            "ext4 with casefold",
            "truncate -s 200M image; mkfs.ext4 -q -F -O casefold image; mount -o loop image mounted
             mkdir mounted/root; chattr +F mounted/root",
        ),
        (
            "ntfs",
            "truncate -s 200M image; mkfs.ntfs -F -f -q image
             lowntfs-3g -o ignore_case,permissions image mounted; mkdir mounted/root",
        ),
    ] {
        let scratch = Scratch::new();
        let Some(mounted) = ignoring_case(scratch.path(), lines) else {
            not_run(name, &format!("{kind} cannot be made or mounted here"));
            continue;
        };
        let source = scratch.join("source");
        let dest = mounted.0.join("root/dest");
        let make = |path: &Path, kind: &str| match kind {
            "file" => file(path, path.as_os_str().len() as u64, 0o644, 3000),
            "folder" => plain_tree(path, 1, 1, 10),
            "link" => symlink(path, path).unwrap(),
            "hard link" => fs::hard_link(source.join("first"), path).unwrap(),
            _ => drop(sh(Command::new("mkfifo").arg(path))),
        };
        let mut rows = Vec::new();
        for one in ["file", "folder", "link", "fifo", "hard link"] {
            for other in ["file", "folder", "link", "fifo", "hard link"] {
                rows.push((one, other));
            }
        }
        for (one, other) in rows {
            for (mode, threads, there) in [
                (Mode::Clone, 1, false),
                (Mode::Clone, 4, true),
                (Mode::Copy, 4, false),
                (Mode::Symlink, 2, true),
            ] {
                let what = format!("{kind}: {one} and {other}, {mode:?}, {there}");
                fs::create_dir_all(source.join("deep")).unwrap();
                file(&source.join("first"), 7, 0o644, 3000);
                make(&source.join("deep/Same"), one);
                make(&source.join("deep/sAME"), other);
                if there {
                    fs::create_dir_all(dest.join("Deep")).unwrap();
                }
                let error = clone_tree(&source, &[&dest], &jobs(merging().mode(mode), threads))
                    .expect_err(&what);
                assert_eq!(error.kind(), ErrorKind::Conflict, "{what}: {error}");
                let both = [Some(error.path()), error.other_path()].map(Option::unwrap);
                if [one, other].contains(&"folder") && one != other {
                    // That a folder is in the way is as good a reason.
                    assert!(both[0].starts_with(source.join("deep")), "{what}: {error}");
                } else {
                    let both = both.map(Path::to_owned);
                    for name in ["deep/Same", "deep/sAME"] {
                        assert!(both.contains(&source.join(name)), "{what}: {error}");
                    }
                }
                if dest.try_exists().unwrap() {
                    assert_no_stage(&dest);
                    sh(Command::new("rm").arg("-rf").arg(&dest));
                }
                fs::remove_dir_all(&source).unwrap();
            }
        }
        // What one call put there another replaces, by whatever name; and hard links are as many places as names.
        fs::create_dir_all(source.join("deep")).unwrap();
        for name in ["a", "deep/b", "deep/c"] {
            file(&source.join(name), 1, 0o644, 3000);
        }
        fs::hard_link(source.join("a"), source.join("deep/d")).unwrap();
        fs::hard_link(source.join("deep/b"), source.join("deep/e")).unwrap();
        for _ in 0..3 {
            clone_tree(&source, &[&dest], &jobs(merging(), 4)).unwrap();
        }
        fs::rename(source.join("deep"), source.join("DEEP")).unwrap();
        fs::rename(source.join("a"), source.join("A")).unwrap();
        fs::write(source.join("A"), "new").unwrap();
        clone_tree(&source, &[&dest], &jobs(merging(), 4)).unwrap();
        assert_eq!(fs::read_to_string(dest.join("A")).unwrap(), "new");
        assert_eq!(names(&dest.join("deep")).len(), 4, "{kind}");
        drop(mounted);
    }
}

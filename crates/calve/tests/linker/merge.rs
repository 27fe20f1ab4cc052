//! Promise: merging is atomic for each file, touches nothing else, and goes on beside others that
//! merge there too.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common;
use crate::common::mounts::{IGNORING_CASE, ignoring_case};
use crate::common::odd::{self, chmod, file};
use crate::common::snapshot::{Kind, assert_same, only, snapshot};
use crate::common::{
    NOBODY, Scratch, as_nobody, bytes, child, filesystem, in_child, is_root, jobs, names, not_run,
    plain_tree, sh,
};
use calve::{CloneMode, CloneOptions, ErrorKind, Existing, Method, Reflink, clone_tree};

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
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
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
            // A merge replaces an old name that is a link, but not the target of the link.
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
                    Kind::File if mode == CloneMode::Symlink => {
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
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
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
        for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Symlink] {
            for round in 0..2 {
                clone_tree(&source, &[&dest], &jobs(merging().mode(mode), 2)).unwrap();
                let (from, to) = (snapshot(&source), snapshot(&dest));
                for (path, entry) in only(&from, |_, entry| entry.kind == Kind::File) {
                    if mode == CloneMode::Symlink {
                        assert_eq!(to[&path].target, source.join(&path));
                    } else {
                        assert_eq!(to[&path], entry, "{mode:?}, round {round}: {path:?}");
                    }
                }
                assert_no_stage(&dest);
            }
        }
        // An entry that cannot be made there leaves nothing behind either.
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
        for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Symlink, CloneMode::Clone] {
            for threads in [1, 4] {
                clone_tree(&source, &[&dest], &jobs(merging().mode(mode), threads)).unwrap();
                let (from, to) = (snapshot(&source), snapshot(&dest));
                for (path, entry) in only(&from, |_, entry| entry.kind == Kind::File) {
                    match mode {
                        CloneMode::Symlink => assert_eq!(to[&path].target, source.join(&path)),
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
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
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
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for round in 0..3 {
            let dest = scratch.join("dest");
            let (dest, what) = (&dest, format!("{mode:?}, round {round}"));
            if round > 0 {
                fs::create_dir(dest).unwrap();
            }
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
        if round > 0 {
            fs::create_dir(scratch.join("dest")).unwrap();
        }
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

/// A merge renamed each file into a folder that it had just made, so whoever looked there meanwhile
/// saw a part of a package.
#[test]
fn a_folder_that_the_destination_lacks_appears_whole() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    fs::create_dir_all(dest.join("both")).unwrap();
    for folder in ["new", "new/deep", "both/new"] {
        fs::create_dir_all(source.join(folder)).unwrap();
        for name in 0..60 {
            file(&source.join(folder).join(format!("f{name}")), name, 0o644, 3000);
        }
    }
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for existing in [Existing::Merge, Existing::Keep] {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                let watcher = scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        for (folder, most) in [("new", 61), ("new/deep", 60), ("both/new", 60)] {
                            // One that is being removed has another name by then.
                            let stat = || fs::metadata(dest.join(folder)).ok();
                            let id = || stat().map(|stat| (stat.ino(), stat.ctime_nsec()));
                            let before = id();
                            let there = fs::read_dir(dest.join(folder)).into_iter().flatten();
                            let found = there.flatten().count();
                            if before.is_some() && before == id() {
                                assert_eq!(found, most, "{mode:?}: {folder}");
                            }
                        }
                    }
                });
                for _ in 0..10 {
                    let options = jobs(merging().existing(existing).mode(mode), 2);
                    clone_tree(&source, &[&dest], &options).unwrap();
                    assert_no_stage(&dest);
                    // Aside, so that nobody sees a part of what is removed.
                    for folder in ["new", "both/new"] {
                        fs::rename(dest.join(folder), scratch.join("old")).unwrap();
                        fs::remove_dir_all(scratch.join("old")).unwrap();
                    }
                }
                over.store(true, Ordering::Relaxed);
                watcher.join().unwrap();
            });
        }
    }
}

/// A folder gets another parent only from who may write to it, and a rename must change neither its
/// mode nor its times.
#[test]
fn folders_that_are_made_aside_are_as_in_a_fresh_tree_whatever_their_mode() {
    let name = "folders_that_are_made_aside_are_as_in_a_fresh_tree_whatever_their_mode";
    merge_folders_of_all_modes(Path::new(""), |merge| merge());
    if !is_root() {
        return not_run(name, "the row of another user needs root");
    }
    in_child(name, "nobody", || {
        let scratch = Scratch::new();
        std::env::set_current_dir(scratch.path()).unwrap();
        lchown(scratch.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        merge_folders_of_all_modes(scratch.path(), |merge| as_nobody(merge));
    });
}

/// Works in `at`, if that is not empty. `who` does everything as a user.
fn merge_folders_of_all_modes(at: &Path, who: impl Fn(&mut (dyn FnMut() + Send))) {
    const MODES: [u32; 6] = [0o755, 0o555, 0o700, 0o500, 0o2775, 0o1777];
    let scratch = Scratch::new();
    let at = if at == Path::new("") { scratch.path() } else { Path::new("") };
    let (source, dest) = (at.join("source"), at.join("dest"));
    let top = |mode: u32| format!("top-{mode:o}");
    who(&mut || {
        for (seed, mode) in MODES.into_iter().enumerate() {
            let top = source.join(top(mode));
            for below in ["", "shut/deep", "open"] {
                fs::create_dir_all(top.join(below)).unwrap();
                file(&top.join(below).join("file"), seed as u64, 0o444, 3000);
                // Further names in this folder, and outside of the one that is made aside.
                let twin = source.join(format!("twin-{seed}-{}", below.len()));
                for twin in [top.join(below).join("twin"), twin] {
                    fs::hard_link(top.join(below).join("file"), twin).unwrap();
                }
            }
            symlink("file", top.join("link")).unwrap();
            chmod(&top.join("shut"), 0o555);
            chmod(&top, mode);
        }
    });
    let but_root = |tree| only(&tree, |path, _| path != Path::new(""));
    let expected = but_root(snapshot(&source));
    for (mode, existing) in [
        (CloneMode::Clone, Existing::Merge),
        (CloneMode::Copy, Existing::Keep),
        (CloneMode::Clone, Existing::Keep),
    ] {
        for threads in [1, 4] {
            let what = format!("{mode:?}, {existing:?}, {threads}");
            let options = jobs(merging().existing(existing).mode(mode), threads);
            who(&mut || {
                fs::create_dir(&dest).unwrap();
                let report = clone_tree(&source, &[&dest], &options).unwrap();
                assert_eq!(report.destinations[0].skipped, [], "{what}");
            });
            assert_same(&expected, &but_root(snapshot(&dest)), &what);
            who(&mut || {
                for mode in MODES {
                    chmod(&dest.join(top(mode)), 0o700);
                    chmod(&dest.join(top(mode)).join("shut"), 0o700);
                }
            });
            fs::remove_dir_all(&dest).unwrap();
        }
    }
    for mode in MODES {
        chmod(&source.join(top(mode)), 0o700);
        chmod(&source.join(top(mode)).join("shut"), 0o700);
    }
    fs::remove_dir_all(&source).unwrap();
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
        for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink] {
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
    for (mode, method) in
        [(CloneMode::Hardlink, Method::Hardlink), (CloneMode::Symlink, Method::Symlink)]
    {
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
        let options = CloneOptions::new().mode(CloneMode::Hardlink).existing(existing);
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

/// Of `A` and `a` in one source only the last was left where case is ignored, and nothing was said.
#[test]
fn two_entries_that_the_destination_takes_for_one_are_an_error_that_names_both() {
    let name = "two_entries_that_the_destination_takes_for_one_are_an_error_that_names_both";
    for kind in IGNORING_CASE {
        let scratch = Scratch::new();
        let Some(mounted) = ignoring_case(scratch.path(), kind) else {
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
                (CloneMode::Clone, 1, false),
                (CloneMode::Clone, 4, true),
                (CloneMode::Copy, 4, false),
                (CloneMode::Symlink, 2, true),
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
                    // A folder in the way is also a correct reason.
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
        // A second call replaces the entries of the first one, by whatever name. Each hard link is
        // a separate place.
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

fn keeping() -> CloneOptions {
    CloneOptions::new().existing(Existing::Keep)
}

/// `lib64 -> lib` is in every Python environment, and installers follow it. It was refused, and the
/// way out that was named would have made a folder of the link.
#[test]
fn a_destination_that_is_a_link_to_a_folder_is_merged_into_and_stays_a_link() {
    let scratch = Scratch::new();
    let (source, lib) = (scratch.join("source"), scratch.join("env/lib"));
    plain_tree(&source, 2, 3, 5000);
    fs::create_dir_all(&lib).unwrap();
    for (name, target) in
        [("lib64", "lib"), ("chain", "lib64"), ("absolute", lib.to_str().unwrap())]
    {
        symlink(target, scratch.join("env").join(name)).unwrap();
    }
    for existing in [Existing::Merge, Existing::Keep] {
        for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
            for name in ["lib64", "chain", "absolute", "lib64/", "./lib64/"] {
                let what = format!("{existing:?}, {mode:?}, {name}");
                fs::write(lib.join("stays"), "stays").unwrap();
                let dest = scratch.join("env").join(name);
                let options = CloneOptions::new().existing(existing).mode(mode);
                let report = clone_tree(&source, &[&dest], &options).expect(&what);
                let found = &report.destinations[0];
                assert_eq!((found.files, found.directories), (6, 2), "{what}");
                assert_eq!(found.path, dest, "{what}");
                let mut expected = names(&source);
                expected.push("stays".to_owned());
                assert_eq!(names(&lib), expected, "{what}");
                assert_eq!(fs::read(lib.join("d1/f2")).unwrap(), bytes(5, 5000), "{what}");
                let link = scratch.join("env").join(name.trim_end_matches('/'));
                assert!(fs::symlink_metadata(link).unwrap().is_symlink(), "{what}");
                assert_eq!(names(&scratch.join("env")), ["absolute", "chain", "lib", "lib64"]);
                fs::remove_dir_all(&lib).unwrap();
                fs::create_dir(&lib).unwrap();
            }
        }
    }
    // Only a merge follows the link.
    let dest = scratch.join("env/lib64");
    clone_tree(&source, &[&dest], &CloneOptions::new().existing(Existing::Replace)).unwrap();
    assert!(fs::symlink_metadata(&dest).unwrap().is_dir());
    assert_eq!(names(&lib), [""; 0]);
}

#[test]
fn a_destination_that_is_a_link_to_no_folder_or_to_one_that_cannot_be_is_an_error() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    plain_tree(&source, 1, 1, 10);
    file(&scratch.join("file"), 1, 0o644, 10);
    fs::create_dir(scratch.join("folder")).unwrap();
    for (name, target) in [
        ("dangling", "nowhere"),
        ("to-a-file", "file"),
        ("circle", "circle"),
        ("to-the-source", "source"),
        ("to-a-folder", "folder"),
    ] {
        symlink(target, scratch.join(name)).unwrap();
    }
    let before = snapshot(scratch.path());
    for existing in [Existing::Merge, Existing::Keep] {
        for (names, kind, why) in [
            (&["dangling"][..], ErrorKind::Conflict, "is not there"),
            (&["to-a-file"], ErrorKind::Conflict, "to no directory"),
            (&["circle"], ErrorKind::Conflict, "leads to itself"),
            (&["to-the-source"], ErrorKind::Overlap, "are the same"),
            (&["folder", "to-a-folder"], ErrorKind::Overlap, "given twice"),
        ] {
            let dests: Vec<_> = names.iter().map(|name| scratch.join(name)).collect();
            let error = clone_tree(&source, &dests, &CloneOptions::new().existing(existing))
                .expect_err(names[0]);
            assert_eq!(error.kind(), kind, "{names:?}: {error}");
            assert!(error.to_string().contains(why), "{names:?}: {error}");
            let told = error.other_path().unwrap_or(error.path());
            assert_eq!(told, dests.last().unwrap(), "{error}");
            assert_same(&before, &snapshot(scratch.path()), why);
        }
    }
    // A folder inside the source, by a link outside of it: no part of the source.
    fs::create_dir(source.join("inside")).unwrap();
    symlink("source/inside", scratch.join("to-inside")).unwrap();
    clone_tree(&source, &[scratch.join("to-inside")], &merging()).unwrap();
    assert_eq!(names(&source.join("inside")), ["d0"]);
}

/// calve looks the link up once. If somebody changes the link at the same time, no unexpected entry
/// arrives in the other folder.
#[test]
fn a_link_that_is_turned_round_during_the_merge_tears_nothing() {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    plain_tree(&source, 4, 20, 100);
    let link = scratch.join("link");
    for name in ["one", "two"] {
        fs::create_dir(scratch.join(name)).unwrap();
        symlink(name, scratch.join(format!("to-{name}"))).unwrap();
    }
    symlink("one", &link).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for name in ["one", "two"] {
                    let new = scratch.join("new");
                    symlink(name, &new).unwrap();
                    fs::rename(&new, &link).unwrap();
                }
            }
        });
        let result = std::panic::catch_unwind(|| {
            for round in 0..40 {
                clone_tree(&source, &[&link], &jobs(merging(), 2)).unwrap();
                let found = ["one", "two"].map(|name| names(&scratch.join(name)).len());
                assert!(matches!(found, [4, 0] | [0, 4]), "round {round}: {found:?}");
                let dest = scratch.join(if found[0] == 4 { "one" } else { "two" });
                assert_eq!(snapshot(&dest).len(), snapshot(&source).len(), "round {round}");
                fs::remove_dir_all(&dest).unwrap();
                fs::create_dir(&dest).unwrap();
            }
        });
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn what_exists_is_kept_and_what_is_missing_arrives_and_both_are_counted() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        for threads in [1, 4] {
            let what = format!("{mode:?}, {threads} jobs");
            fs::create_dir_all(source.join("both/deep")).unwrap();
            fs::create_dir_all(dest.join("both/folder")).unwrap();
            chmod(&dest.join("both"), 0o750);
            for (seed, name) in
                ["a", "both/a", "both/b", "both/deep/c", "both/folder", "both/fifo", "both/e"]
                    .iter()
                    .enumerate()
            {
                file(&source.join(name), seed as u64, 0o640, 5000);
            }
            // One file with several names, some of which exist already, among them the one that
            // comes first.
            for name in ["h1", "h2", "h3", "h4"] {
                if name == "h1" {
                    file(&source.join(name), 50, 0o640, 5000);
                } else {
                    fs::hard_link(source.join("h1"), source.join(name)).unwrap();
                }
            }
            for name in ["link", "both/link"] {
                symlink("new", source.join(name)).unwrap();
            }
            for name in ["a", "both/b", "h1", "h3"] {
                file(&dest.join(name), 99, 0o600, 9000);
            }
            symlink("nowhere", dest.join("both/a")).unwrap();
            symlink("old", dest.join("link")).unwrap();
            sh(Command::new("mkfifo").arg(dest.join("both/fifo")));
            let before = snapshot(&dest);

            let options = jobs(keeping().mode(mode), threads).list_existing();
            let report = clone_tree(&source, &[&dest], &options).expect(&what);
            let (from, after) = (snapshot(&source), snapshot(&dest));
            for (path, entry) in only(&before, |_, entry| entry.kind != Kind::Directory) {
                assert_eq!(after[&path], entry, "{what}: {path:?}");
                assert!(after[&path].inode.is(before[&path].inode), "{what}: {path:?}");
            }
            for path in ["both/deep/c", "both/e", "h2", "h4"] {
                match mode {
                    CloneMode::Symlink => {
                        assert_eq!(after[Path::new(path)].target, source.join(path), "{what}");
                    }
                    _ => assert_eq!(
                        fs::read(dest.join(path)).unwrap(),
                        fs::read(source.join(path)).unwrap(),
                        "{what}: {path}"
                    ),
                }
            }
            assert_eq!(fs::read_link(dest.join("both/link")).unwrap(), Path::new("new"));
            let found = &report.destinations[0];
            let kept = ["a", "both/a", "both/b", "both/fifo", "both/folder", "h1", "h3", "link"];
            assert_eq!(found.kept, kept.map(PathBuf::from), "{what}");
            assert_eq!(found.kept_entries, 8, "{what}");
            assert_eq!((found.replaced_entries, &found.replaced[..]), (0, &[][..]), "{what}");
            assert_eq!((found.files, found.symlinks), (4, 1), "{what}: {found:?}");
            assert_eq!(
                found.reflinked_files + found.copied_files + found.linked_files,
                found.files,
                "{what}: {found:?}"
            );
            // Once more: all of it is kept, and without the option only counted.
            let again = clone_tree(&source, &[&dest], &keeping().mode(mode)).expect(&what);
            let found = &again.destinations[0];
            assert_eq!((found.files, found.kept_entries), (0, 13), "{what}: {found:?}");
            assert_eq!((found.kept.len(), found.skipped.len()), (0, 0), "{what}: {found:?}");
            // The stage that was in it touched the root.
            let all = |_: &Path, entry: &common::snapshot::Entry| entry.kind != Kind::Directory;
            assert_same(&only(&after, all), &only(&snapshot(&dest), all), &what);
            assert_same(&from, &snapshot(&source), "the source itself");
            assert_no_stage(&dest);
            fs::remove_dir_all(&dest).unwrap();
            fs::remove_dir_all(&source).unwrap();
        }
    }
}

#[test]
fn what_is_missing_arrives_as_it_would_in_a_fresh_tree_where_the_rest_is_kept() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    odd::build(&source);
    let expected = only(&snapshot(&source), |_, entry| entry.kind != Kind::Socket);
    for threads in [1, 4] {
        clone_tree(&source, &[&dest], &jobs(keeping(), threads)).unwrap();
        assert_same(&expected, &snapshot(&dest), &format!("{threads} jobs"));
        sh(Command::new("rm").arg("-rf").arg(&dest));
    }
}

#[test]
fn a_folder_over_what_is_none_is_an_error_also_where_the_rest_is_kept() {
    let scratch = Scratch::new();
    let (source, dest, outside) =
        (scratch.join("source"), scratch.join("dest"), scratch.join("outside"));
    plain_tree(&source, 1, 1, 10);
    fs::create_dir(&outside).unwrap();
    for old in ["file", "link to a folder"] {
        fs::create_dir(&dest).unwrap();
        match old {
            "file" => file(&dest.join("d0"), 1, 0o644, 10),
            _ => symlink(&outside, dest.join("d0")).unwrap(),
        }
        let error = clone_tree(&source, &[&dest], &keeping()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{old}: {error}");
        assert_eq!(error.path(), source.join("d0"), "{old}");
        assert_eq!(error.other_path(), Some(&*dest.join("d0")), "{old}");
        assert_eq!(names(&outside), [""; 0], "links inside the destination are never followed");
        fs::remove_dir_all(&dest).unwrap();
    }
}

/// Many processes merge the same names into one place. Each name has the content of one of them,
/// and none is ever replaced.
#[test]
fn what_appears_meanwhile_is_kept_too() {
    let scratch = Scratch::new();
    let sources: Vec<_> = (0..4).map(|number| scratch.join(format!("s{number}"))).collect();
    for (seed, source) in sources.iter().enumerate() {
        let source = source.join("folder");
        fs::create_dir_all(&source).unwrap();
        for name in 0..60 {
            file(&source.join(format!("f{name}")), seed as u64, 0o644, 300);
        }
        fs::hard_link(source.join("f0"), source.join("hard")).unwrap();
        for name in 0..20 {
            symlink(format!("{seed}"), source.join(format!("l{name}"))).unwrap();
        }
    }
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        // The destination, its folder, or neither is there before.
        for (round, place) in ["", "folder", "", "folder", "dest"].into_iter().enumerate() {
            let what = format!("{mode:?}, round {round}");
            let dest = scratch.join("dest");
            if round % 2 == 0 && place.is_empty() {
                fs::create_dir_all(&dest).unwrap();
            } else if place == "folder" {
                fs::create_dir_all(dest.join("folder")).unwrap();
            }
            let stop = AtomicBool::new(false);
            let (reports, changed) = thread::scope(|scope| {
                let watch = scope.spawn(|| {
                    let (mut seen, mut changed) = (std::collections::BTreeMap::new(), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let folder = fs::read_dir(dest.join("folder"));
                        for entry in folder.into_iter().flatten().flatten() {
                            let name = entry.file_name();
                            if name.as_encoded_bytes().starts_with(b".") {
                                continue;
                            }
                            let id = fs::symlink_metadata(entry.path()).unwrap().ino();
                            if *seen.entry(name.clone()).or_insert(id) != id {
                                changed.push(name);
                            }
                        }
                    }
                    changed
                });
                let merges: Vec<_> = sources
                    .iter()
                    .map(|source| {
                        let options = jobs(keeping().mode(mode), 2);
                        let dest = &dest;
                        scope.spawn(move || clone_tree(source, &[dest], &options).unwrap())
                    })
                    .collect();
                let reports: Vec<_> =
                    merges.into_iter().map(|merge| merge.join().unwrap()).collect();
                stop.store(true, Ordering::Relaxed);
                (reports, watch.join().unwrap())
            });
            assert_eq!(changed, [""; 0], "{what}: replaced");
            let sum = |count: fn(&calve::DestinationReport) -> u64| -> u64 {
                reports.iter().map(|report| count(&report.destinations[0])).sum()
            };
            assert_eq!(sum(|found| found.files), 61, "{what}");
            assert_eq!(sum(|found| found.symlinks), 20, "{what}");
            assert_eq!(sum(|found| found.kept_entries), 3 * 81, "{what}");
            assert_eq!(names(&dest.join("folder")).len(), 81, "{what}");
            let made = if round == 4 { 2 } else { 1 - u64::from(place == "folder") };
            assert_eq!(sum(|found| found.directories), made, "{what}");
            fs::remove_dir_all(&dest).unwrap();
        }
    }
}

#[test]
fn what_a_merge_replaces_is_counted_and_listed_where_that_is_wanted() {
    let scratch = Scratch::new();
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    plain_tree(&source, 2, 2, 100);
    symlink("target", source.join("link")).unwrap();
    sh(Command::new("mkfifo").arg(source.join("fifo")));
    for mode in [CloneMode::Clone, CloneMode::Copy, CloneMode::Hardlink, CloneMode::Symlink] {
        fs::create_dir_all(dest.join("d0")).unwrap();
        fs::write(dest.join("d0/f1"), "old").unwrap();
        fs::write(dest.join("link"), "old").unwrap();
        fs::write(dest.join("stays"), "old").unwrap();
        let options = merging().mode(mode).list_existing();
        let report = clone_tree(&source, &[&dest], &options).unwrap();
        let found = &report.destinations[0];
        assert_eq!(found.replaced, ["d0/f1", "link"].map(PathBuf::from), "{mode:?}");
        assert_eq!((found.replaced_entries, found.kept_entries), (2, 0), "{mode:?}");
        let again = clone_tree(&source, &[&dest], &merging().mode(mode)).unwrap();
        let found = &again.destinations[0];
        // A link that is the source's file already is not replaced.
        let expected = if mode == CloneMode::Hardlink { 2 } else { 6 };
        assert_eq!((found.replaced_entries, found.replaced.len()), (expected, 0), "{mode:?}");
        fs::remove_dir_all(&dest).unwrap();
    }
}

/// `protected_hardlinks` refuses links to other people's files. After three of them all others were
/// taken for the filesystem's refusal, and where they were cloned nothing was said.
#[test]
fn files_that_may_not_be_linked_are_counted_wherever_they_end() {
    let name = "files_that_may_not_be_linked_are_counted_wherever_they_end";
    let scratch = Scratch::new();
    let protected = fs::read_to_string("/proc/sys/fs/protected_hardlinks");
    if !common::is_root() || !protected.is_ok_and(|on| on.trim() == "1") {
        return not_run(name, "needs root, and fs.protected_hardlinks=1");
    }
    let (source, dest) = (scratch.join("source"), scratch.join("dest"));
    plain_tree(&source, 1, 10, 5000);
    let own = source.join("own");
    file(&own, 1, 0o644, 5000);
    let nobody = Some(common::NOBODY);
    std::os::unix::fs::chown(&own, nobody, nobody).unwrap();
    for path in [scratch.path(), &source] {
        chmod(path, 0o777);
    }
    let reflinks = common::expects_reflink(scratch.path());
    for reflink in [Reflink::Auto, Reflink::Never] {
        for existing in [Existing::Fail, Existing::Merge, Existing::Keep] {
            let options =
                CloneOptions::new().mode(CloneMode::Hardlink).reflink(reflink).existing(existing);
            let report = common::as_nobody(|| clone_tree(&source, &[&dest], &options)).unwrap();
            let found = &report.destinations[0];
            let what = format!("{reflink:?}, {existing:?}: {found:?}");
            assert_eq!((found.files, found.linked_files), (11, 1), "{what}");
            let cloned = reflinks && reflink == Reflink::Auto;
            let expected = if cloned { (10, 0) } else { (0, 10) };
            assert_eq!((found.reflinked_files, found.copied_files), expected, "{what}");
            assert_eq!(found.unlinked_because.file, 10, "{what}");
            assert_eq!(found.unlinked_because.total(), 10, "{what}");
            assert_eq!(found.copied_because.file, found.copied_files, "{what}");
            sh(Command::new("rm").arg("-rf").arg(&dest));
        }
    }
}

//! The promises that hold on every platform, tried on each of them with nothing but `std`: what
//! Unix has beyond that has tests of its own.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use calve::{
    Cancel, CloneMode, CloneOptions, ErrorKind, Existing, Method, Reflink, SkipReason, clone_tree,
    clonefile_or_copy, try_reflink,
};

/// An empty folder on the filesystem under test.
fn scratch() -> tempfile::TempDir {
    match std::env::var_os("CALVE_TEST_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .unwrap()
}

/// The content of an entry: `None` for a directory.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    content: Option<Vec<u8>>,
    modified: SystemTime,
    read_only: bool,
}

type Tree = BTreeMap<PathBuf, Entry>;

/// All that is in `root`, itself included, by path.
fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        let meta = fs::symlink_metadata(&full).unwrap();
        let content = if meta.is_dir() {
            waiting.extend(names(&full).into_iter().map(|name| path.join(name)));
            None
        } else {
            Some(fs::read(&full).unwrap())
        };
        let read_only = meta.permissions().readonly();
        tree.insert(path, Entry { content, modified: meta.modified().unwrap(), read_only });
    }
    tree
}

/// The paths and the contents, without the rest.
fn contents(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    tree(root).into_iter().map(|(path, entry)| (path, entry.content)).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn set_modified(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + seconds, 123_456_700);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(time))
        .unwrap();
}

fn set_read_only(path: &Path, read_only: bool) {
    let mut permissions = fs::metadata(path).unwrap().permissions();
    permissions.set_readonly(read_only);
    fs::set_permissions(path, permissions).unwrap();
}

/// Files of several sizes, enough of them in one directory that they are shared out among threads.
fn make_source(root: &Path) {
    for number in 0..40_u8 {
        write(&root.join("many").join(format!("file {number}")), &[number; 100]);
    }
    for (number, (path, size)) in [
        ("empty", 0),
        ("small", 1),
        ("block", 4096),
        ("a/big", 3_000_001),
        ("a/b/c/deep", 70_000),
        ("a/b/ignored.log", 10),
        ("umlaut ä/ß", 5),
    ]
    .into_iter()
    .enumerate()
    {
        let content: Vec<u8> = (1..=251).cycle().take(size).collect();
        write(&root.join(path), &content);
        set_modified(&root.join(path), number as u64);
    }
    fs::create_dir(root.join("empty directory")).unwrap();
    set_read_only(&root.join("small"), true);
}

/// A source, `source`, in a folder of its own.
fn with_source() -> tempfile::TempDir {
    let folder = scratch();
    make_source(&folder.path().join("source"));
    folder
}

#[test]
fn a_tree_arrives_equal_at_every_destination_whichever_way_it_travels() {
    for (mode, reflink, existing) in [
        (CloneMode::Clone, Reflink::Auto, Existing::Fail),
        (CloneMode::Clone, Reflink::Auto, Existing::Merge),
        (CloneMode::Clone, Reflink::Never, Existing::Fail),
        (CloneMode::Copy, Reflink::Auto, Existing::Fail),
    ] {
        let folder = with_source();
        let source = folder.path().join("source");
        let expected = tree(&source);
        let dests = [folder.path().join("one"), folder.path().join("two")];
        let options = CloneOptions::new().mode(mode).reflink(reflink).existing(existing);
        let report = clone_tree(&source, &dests, &options).unwrap();
        for (dest, found) in dests.iter().zip(&report.destinations) {
            assert_eq!(tree(dest), expected, "{mode:?} {reflink:?} {existing:?}");
            let files = expected.values().filter(|entry| entry.content.is_some()).count() as u64;
            // A btrfs snapshot counts nothing; the source is no subvolume.
            assert_eq!(found.files, files, "{found:?}");
            assert_eq!(found.directories, expected.len() as u64 - files, "{found:?}");
            assert_eq!(found.reflinked_files + found.copied_files, files, "{found:?}");
            assert_eq!(found.copied_because.total(), found.copied_files, "{found:?}");
            if (mode, reflink) != (CloneMode::Clone, Reflink::Auto) {
                assert_eq!((found.method, found.copied_because.disabled), (Method::Copy, files));
            }
            assert_eq!(found.skipped, []);
        }
        assert_eq!(tree(&source), expected);
        assert_eq!(names(folder.path()), ["one", "source", "two"]);
        // Isolated: a write to one is seen nowhere else.
        fs::write(dests[0].join("block"), "changed").unwrap();
        assert_eq!(tree(&dests[1]), expected);
        assert_eq!(tree(&source), expected);
    }
}

#[test]
fn an_existing_destination_is_left_replaced_or_merged_into_as_asked() {
    for (existing, error, skipped, old_stays, new_arrives) in [
        (Existing::Fail, Some(ErrorKind::DestinationExists), false, true, false),
        (Existing::Skip, None, true, true, false),
        (Existing::Replace, None, false, false, true),
        (Existing::Merge, None, false, true, true),
    ] {
        let folder = with_source();
        let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
        write(&dest.join("a/old"), b"old");
        write(&dest.join("block"), b"old");
        set_read_only(&dest.join("block"), true);
        let before = tree(&dest);
        let result = clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing));
        let what = format!("{existing:?}: {result:?}");
        assert_eq!(result.as_ref().err().map(calve::Error::kind), error, "{what}");
        if let Ok(report) = &result {
            let found = report.destinations[0]
                .skipped
                .iter()
                .any(|entry| entry.reason == SkipReason::Exists);
            assert_eq!(found, skipped, "{what}");
        }
        let (now, wanted) = (contents(&dest), contents(&source));
        assert_eq!(now.contains_key(Path::new("a/old")), old_stays, "{what}");
        if new_arrives {
            assert!(wanted.iter().all(|(path, content)| now.get(path) == Some(content)), "{what}");
            assert_eq!(now.len(), wanted.len() + usize::from(old_stays), "{what}");
        } else {
            assert_eq!(tree(&dest), before, "{what}");
        }
        assert_eq!(names(folder.path()), ["dest", "source"], "{what}");
        if existing == Existing::Merge {
            clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing)).unwrap();
            assert_eq!(contents(&dest), now, "a second merge changes nothing");
        }
    }
}

#[test]
fn a_merge_of_a_file_and_a_directory_is_an_error_that_names_both() {
    for (in_source, in_dest) in [("x", "x/file"), ("x/file", "x")] {
        let folder = scratch();
        let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
        write(&source.join(in_source), b"new");
        write(&dest.join(in_dest), b"old");
        let before = contents(&dest);
        let error = clone_tree(&source, &[&dest], &CloneOptions::new().existing(Existing::Merge))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(error.path(), source.join("x"), "{error}");
        assert_eq!(error.other_path(), Some(dest.join("x").as_path()), "{error}");
        assert_eq!(contents(&dest), before);
    }
}

#[test]
fn merges_into_one_destination_at_once_all_arrive() {
    let folder = with_source();
    let dest = folder.path().join("dest");
    let source = folder.path().join("source");
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let (folder, source, dest) = (folder.path(), &source, &dest);
            scope.spawn(move || {
                let options = CloneOptions::new().existing(Existing::Merge);
                clone_tree(source, &[dest], &options).unwrap();
                let other = folder.join(format!("other {number}"));
                write(&other.join("many").join(format!("of {number}")), &[number]);
                clone_tree(&other, &[dest], &options).unwrap();
            });
        }
    });
    let mut expected = contents(&source);
    for number in 0..4_u8 {
        expected.insert(Path::new("many").join(format!("of {number}")), Some(vec![number]));
    }
    assert_eq!(contents(&dest), expected);
}

#[test]
fn a_destination_inside_the_source_is_no_part_of_it() {
    for (dest, existing) in
        [("inside", Existing::Fail), ("a/inside", Existing::Replace), ("a/inside", Existing::Merge)]
    {
        let folder = with_source();
        let source = folder.path().join("source");
        let expected = contents(&source);
        let dest = source.join(dest);
        clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing)).unwrap();
        assert_eq!(contents(&dest), expected, "{existing:?}");
        if existing != Existing::Fail {
            clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing)).unwrap();
            assert_eq!(contents(&dest), expected, "{existing:?}, again");
        }
    }
}

#[test]
fn what_overlaps_or_is_not_there_is_refused_and_nothing_is_made() {
    let folder = with_source();
    for (source, dests, existing, expected) in [
        ("missing", &["new"][..], Existing::Fail, ErrorKind::SourceNotFound),
        ("source/block", &["new"], Existing::Fail, ErrorKind::SourceNotADirectory),
        ("source", &["missing/new"], Existing::Fail, ErrorKind::ParentNotFound),
        ("source", &["new", "new"], Existing::Fail, ErrorKind::Overlap),
        ("source", &["source"], Existing::Merge, ErrorKind::Overlap),
        ("source/a", &["source"], Existing::Replace, ErrorKind::Overlap),
        ("source", &["new", "source"], Existing::Fail, ErrorKind::Overlap),
        ("source/a", &["source/many", "source/many/new"], Existing::Replace, ErrorKind::Overlap),
        ("source", &["source/block"], Existing::Merge, ErrorKind::Conflict),
    ] {
        let before = tree(folder.path());
        let dests: Vec<_> = dests.iter().map(|dest| folder.path().join(dest)).collect();
        let options = CloneOptions::new().existing(existing);
        let error = clone_tree(folder.path().join(source), &dests, &options).unwrap_err();
        assert_eq!(error.kind(), expected, "{error}");
        assert_eq!(tree(folder.path()), before, "{error}");
    }
}

#[test]
fn a_dry_run_counts_and_changes_nothing() {
    let folder = with_source();
    let before = tree(folder.path());
    let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
    let dry = clone_tree(&source, &[&dest], &CloneOptions::new().dry_run(true)).unwrap();
    assert_eq!(tree(folder.path()), before);
    let real = clone_tree(&source, &[&dest], &CloneOptions::new()).unwrap();
    let counts = |report: &calve::CloneReport| {
        let found = &report.destinations[0];
        (found.files, found.directories, found.symlinks)
    };
    assert_eq!(counts(&dry), counts(&real));
}

#[test]
fn filters_leave_out_what_they_name_on_either_side_of_a_slash() {
    let folder = with_source();
    let source = folder.path().join("source");
    write(&source.join("a/.gitignore"), b"*.log\n/b/c/\n");
    for (options, missing) in [
        (CloneOptions::new().exclude("*.log"), &["a/b/ignored.log"][..]),
        (CloneOptions::new().exclude("/a/b"), &["a/b", "a/b/c", "a/b/c/deep", "a/b/ignored.log"]),
        (CloneOptions::new().exclude("a/b").include("a/b/c/deep"), &["a/b/ignored.log"]),
        (CloneOptions::new().gitignore(true), &["a/b/c", "a/b/c/deep", "a/b/ignored.log"]),
    ] {
        let mut expected = contents(&source);
        for path in missing {
            expected.remove(Path::new(path)).unwrap();
        }
        let dest = folder.path().join("dest");
        clone_tree(&source, &[&dest], &options.existing(Existing::Replace)).unwrap();
        assert_eq!(contents(&dest), expected, "{missing:?}");
    }
}

#[test]
fn in_hard_link_mode_files_are_the_sources_but_for_those_that_must_be_mutable() {
    let folder = with_source();
    let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
    let options =
        CloneOptions::new().mode(CloneMode::Hardlink).mutable("many/").existing(Existing::Merge);
    for round in ["new", "again"] {
        let report = clone_tree(&source, &[&dest], &options).unwrap();
        let found = &report.destinations[0];
        assert_eq!(found.linked_files + 40, found.files, "{round}: {found:?}");
        assert_eq!(contents(&dest), contents(&source), "{round}");
        let stages = names(&dest).into_iter().filter(|name| name.starts_with(".calve")).count();
        assert_eq!(stages, 0, "{round}");
    }
    fs::write(source.join("block"), "both").unwrap();
    fs::write(source.join("many/file 1"), "one").unwrap();
    assert_eq!(fs::read(dest.join("block")).unwrap(), b"both");
    assert_eq!(fs::read(dest.join("many/file 1")).unwrap(), [1; 100]);
}

#[test]
fn hard_links_inside_the_source_are_hard_links_inside_the_destination() {
    for existing in [Existing::Fail, Existing::Merge] {
        let folder = scratch();
        let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
        write(&source.join("a/one"), b"content");
        write(&source.join("b/other"), b"other");
        for name in ["a/two", "b/three"] {
            fs::hard_link(source.join("a/one"), source.join(name)).unwrap();
        }
        let report =
            clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing)).unwrap();
        let found = &report.destinations[0];
        assert_eq!((found.files, found.linked_files), (4, 2), "{found:?}");
        fs::write(dest.join("a/two"), "changed").unwrap();
        for (name, expected) in [("a/one", "changed"), ("b/three", "changed"), ("b/other", "other")]
        {
            assert_eq!(
                fs::read(dest.join(name)).unwrap(),
                expected.as_bytes(),
                "{existing:?} {name}"
            );
        }
        assert_eq!(fs::read(source.join("a/one")).unwrap(), b"content");
    }
}

#[test]
fn a_cancelled_operation_leaves_nothing() {
    let folder = with_source();
    let before = tree(folder.path());
    let cancel = Cancel::new();
    cancel.cancel();
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
        let options = CloneOptions::new().existing(existing).cancel(&cancel);
        let error =
            clone_tree(folder.path().join("source"), &[folder.path().join("dest")], &options)
                .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(tree(folder.path()).len(), before.len());
    }
}

#[test]
fn always_arrives_shared_or_is_refused_before_anything_is_published() {
    let folder = with_source();
    let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
    match clone_tree(&source, &[&dest], &CloneOptions::new().reflink(Reflink::Always)) {
        Ok(report) => {
            assert_eq!(report.destinations[0].method, Method::Reflink);
            assert_eq!(tree(&dest), tree(&source));
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ReflinkRefused, "{error}");
            assert!(!calve::filesystem_supports_reflink(folder.path()));
            assert_eq!(names(folder.path()), ["source"]);
        }
    }
}

#[test]
fn a_file_replaces_another_whole_and_never_a_directory() {
    let folder = with_source();
    let source = folder.path().join("source/block");
    set_read_only(&source, true);
    let clones = calve::filesystem_supports_reflink(folder.path());
    let dest = folder.path().join("dest");
    for old in [None, Some(false), Some(true)] {
        if let Some(read_only) = old {
            set_read_only(&dest, false);
            fs::write(&dest, [7; 200_000]).unwrap();
            set_read_only(&dest, read_only);
        }
        assert_eq!(clonefile_or_copy(&source, &dest).unwrap(), clones);
        assert_eq!(tree(&dest), tree(&source), "{old:?}");
    }
    for (from, to, expected) in [
        ("source/missing", "new", io::ErrorKind::NotFound),
        ("source/a", "new", io::ErrorKind::IsADirectory),
        ("source/block", "source/a", io::ErrorKind::IsADirectory),
        ("source/block", "missing/new", io::ErrorKind::NotFound),
    ] {
        let before = tree(folder.path());
        let error =
            clonefile_or_copy(folder.path().join(from), folder.path().join(to)).unwrap_err();
        assert_eq!(error.kind(), expected, "{from} to {to}: {error}");
        assert_eq!(tree(folder.path()).len(), before.len(), "{from} to {to}");
    }
    let error = try_reflink(&source, &dest).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn a_path_longer_than_windows_once_allowed_arrives() {
    let folder = scratch();
    // This makes the path verbatim on Windows. Otherwise this test itself could not make it.
    let root = fs::canonicalize(folder.path()).unwrap();
    let mut inside = PathBuf::new();
    for level in 0..20 {
        inside.push(format!("a name of some length {level}"));
    }
    write(&root.join("source").join(&inside).join("file"), b"content");
    for existing in [Existing::Fail, Existing::Replace, Existing::Merge] {
        // Not verbatim, and not long.
        let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
        clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing)).unwrap();
        assert_eq!(fs::read(root.join("dest").join(&inside).join("file")).unwrap(), b"content");
    }
    // Deleted by its verbatim name: the other one would be too long for it.
    fs::remove_dir_all(root.join("source")).unwrap();
    fs::remove_dir_all(root.join("dest")).unwrap();
}

#[cfg(windows)]
mod windows {
    use std::os::windows::fs::{MetadataExt as _, OpenOptionsExt as _};

    use super::*;

    const READ_ONLY: u32 = 1;
    const HIDDEN: u32 = 2;

    #[test]
    fn creation_times_and_the_hidden_attribute_arrive() {
        let folder = scratch();
        let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
        fs::create_dir_all(source.join("directory")).unwrap();
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .attributes(HIDDEN | READ_ONLY)
            .open(source.join("directory/file"))
            .unwrap();
        let created = SystemTime::UNIX_EPOCH + Duration::from_secs(1_111_111_111);
        let times = std::os::windows::fs::FileTimesExt::set_created(FileTimes::new(), created);
        file.set_times(times).unwrap();
        drop(file);
        let attributes = |root: &Path| {
            let meta = fs::metadata(root.join("directory/file")).unwrap();
            (meta.file_attributes() & (HIDDEN | READ_ONLY), meta.created().unwrap())
        };
        let expected = attributes(&source);
        assert_eq!(expected.0, HIDDEN | READ_ONLY);
        for existing in [Existing::Fail, Existing::Merge] {
            clone_tree(&source, &[&dest], &CloneOptions::new().existing(existing)).unwrap();
            assert_eq!(attributes(&dest), expected);
        }
    }

    #[test]
    fn a_source_that_nobody_else_may_read_fails_and_leaves_everything_as_it_was() {
        for existing in [Existing::Fail, Existing::Replace] {
            let folder = with_source();
            let (source, dest) = (folder.path().join("source"), folder.path().join("dest"));
            if existing == Existing::Replace {
                write(&dest.join("old"), b"old");
            }
            let before = names(folder.path());
            let locked = fs::OpenOptions::new()
                .read(true)
                .share_mode(0)
                .open(source.join("many/file 7"))
                .unwrap();
            let options = CloneOptions::new().existing(existing);
            let error = clone_tree(&source, &[&dest], &options).unwrap_err();
            assert_eq!(error.path(), source.join(r"many\file 7"), "{error}");
            assert_eq!(names(folder.path()), before);
            drop(locked);
            clone_tree(&source, &[&dest], &options).unwrap();
            assert_eq!(tree(&dest), tree(&source));
        }
    }
}

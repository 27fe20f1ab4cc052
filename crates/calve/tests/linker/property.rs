//! Property: for each tree and setting, the result is the one of a naive model.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common;
use crate::common::odd::{chmod, set_mtime, set_xattr};
use crate::common::snapshot::{Entry, Kind, Snapshot, assert_same, snapshot};
use crate::common::{Scratch, bytes, expects_reflink, jobs, sh};
use calve::{CloneMode, CloneOptions, ErrorKind, Existing, Reflink, clone_tree};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// One entry to make. Indices wrap around the existing entries.
#[derive(Debug, Clone)]
struct Plan {
    folder: usize,
    name: usize,
    what: What,
    mode: u32,
    time: (i64, u32),
    xattr: Option<u8>,
}

#[derive(Debug, Clone)]
enum What {
    File { size: usize, seed: u64 },
    Sparse { size: u64, at: u64, length: usize },
    Folder,
    Symlink(usize),
    HardLink(usize),
}

const NAMES: &[&str] = &["a", "b", "c", "d", "long name", "e\n", "f.o", "-"];
const TARGETS: &[&str] = &["a", "../b", "nowhere", "/", "b/c"];

fn what() -> impl Strategy<Value = What> {
    let sizes = vec![0, 1, 100, 2047, 2048, 2049, 4095, 4096, 4097, 65535, 65536, 65537];
    prop_oneof![
        4 => (prop::sample::select(sizes), any::<u64>()).prop_map(|(size, seed)| What::File { size, seed }),
        1 => (0..300_000_u64, 0..60_u64, 0..9000_usize)
            .prop_map(|(size, block, length)| What::Sparse { size, at: block * 4096, length }),
        3 => Just(What::Folder),
        1 => (0..TARGETS.len()).prop_map(What::Symlink),
        1 => any::<usize>().prop_map(What::HardLink),
    ]
}

fn tree(most: usize) -> impl Strategy<Value = Vec<Plan>> {
    let modes = vec![0o644, 0o600, 0o755, 0o444, 0o775, 0o4755, 0o2711, 0o777];
    let plan = (
        any::<usize>(),
        0..NAMES.len(),
        what(),
        prop::sample::select(modes),
        (-1_000_000_i64..3_000_000_000, 0..1_000_000_000_u32),
        prop::option::weighted(0.2, any::<u8>()),
    )
        .prop_map(|(folder, name, what, mode, time, xattr)| Plan {
            folder,
            name,
            what,
            mode,
            time,
            xattr,
        });
    prop::collection::vec(plan, 0..most)
}

/// Makes the tree. Leaves out an entry that cannot be made (its name is taken).
fn build(root: &Path, plans: &[Plan]) {
    fs::create_dir(root).unwrap();
    chmod(root, 0o755);
    let (mut folders, mut files, mut made) =
        (vec![root.to_owned()], Vec::new(), vec![(root.to_owned(), None)]);
    for plan in plans {
        let path = folders[plan.folder % folders.len()].join(NAMES[plan.name]);
        if common::is_there(&path) {
            continue;
        }
        match &plan.what {
            What::File { size, seed } => {
                fs::write(&path, bytes(*seed, *size)).unwrap();
                files.push(path.clone());
            }
            What::Sparse { size, at, length } => {
                let file = fs::File::create_new(&path).unwrap();
                file.write_all_at(&bytes(*at, *length), *at).unwrap();
                if file.metadata().unwrap().len() < *size {
                    file.set_len(*size).unwrap();
                }
                files.push(path.clone());
            }
            What::Folder => {
                fs::create_dir(&path).unwrap();
                folders.push(path.clone());
            }
            What::Symlink(target) => {
                symlink(TARGETS[*target], &path).unwrap();
                made.push((path, Some(plan)));
                continue;
            }
            What::HardLink(of) => {
                if let Some(file) = files.get(of % files.len().max(1)) {
                    fs::hard_link(file, &path).unwrap();
                }
                continue;
            }
        }
        if let Some(value) = plan.xattr {
            let _ = set_xattr(&path, "user.value", &[value]);
        }
        chmod(&path, if matches!(plan.what, What::Folder) { plan.mode | 0o700 } else { plan.mode });
        made.push((path, Some(plan)));
    }
    for (path, plan) in made.iter().rev() {
        let (seconds, nanoseconds) = plan.map_or((1_000_000_000, 1), |plan| plan.time);
        set_mtime(path, seconds, nanoseconds.into());
    }
}

#[derive(Debug, Clone)]
struct Setting {
    mode: CloneMode,
    reflink: Reflink,
    existing: Existing,
    jobs: usize,
    dests: usize,
    xattrs: bool,
    mutable: bool,
    there: bool,
}

impl Setting {
    /// A pattern that matches a folder is about all that is in it.
    fn is_mutable(&self, path: &Path) -> bool {
        self.mutable
            && path
                .iter()
                .any(|name| Path::new(name).extension().is_some_and(|extension| extension == "o"))
    }
}

fn setting() -> impl Strategy<Value = Setting> {
    (
        prop::sample::select(vec![
            CloneMode::Clone,
            CloneMode::Clone,
            CloneMode::Copy,
            CloneMode::Hardlink,
            CloneMode::Symlink,
        ]),
        prop::sample::select(vec![Reflink::Auto, Reflink::Auto, Reflink::Never, Reflink::Always]),
        prop::sample::select(vec![
            Existing::Fail,
            Existing::Skip,
            Existing::Replace,
            Existing::Merge,
            Existing::Merge,
        ]),
        prop::sample::select(vec![1, 2, 4]),
        prop::sample::select(vec![1, 3]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(mode, reflink, existing, jobs, dests, xattrs, mutable, there)| Setting {
            mode,
            reflink,
            existing,
            jobs,
            dests,
            xattrs,
            mutable,
            there,
        })
}

/// The file that an entry is a hard link of: its tree, and its first name there.
type Origin = (bool, PathBuf);

/// The entries of the source that must arrive, and for each the entry with which it shares its
/// inode.
fn arrives(
    source: &Path,
    tree: &Snapshot,
    setting: &Setting,
) -> BTreeMap<PathBuf, (Entry, Origin)> {
    let mut model = BTreeMap::new();
    for (path, entry) in tree {
        let mut entry = entry.clone();
        let is_mutable = setting.is_mutable(path);
        let linked = entry.kind == Kind::File && !is_mutable;
        let mut origin = (true, entry.first_name.clone());
        if linked && setting.mode == CloneMode::Symlink {
            entry.kind = Kind::Symlink;
            entry.target = source.join(path);
            (entry.size, entry.content, entry.mode) = (0, 0, 0o777);
            entry.data.clear();
            entry.xattrs.clear();
            origin.1.clone_from(path);
        } else if !(setting.xattrs || linked && setting.mode == CloneMode::Hardlink) {
            entry.xattrs.clear();
        }
        // A mutable file is a file of its own, even among its own names.
        if is_mutable && matches!(setting.mode, CloneMode::Hardlink | CloneMode::Symlink) {
            origin.1 = path.join("of its own");
        }
        model.insert(path.clone(), (entry, origin));
    }
    model
}

/// The model of a merge, or where it must end in a conflict.
fn merged(
    old: &Snapshot,
    mut new: BTreeMap<PathBuf, (Entry, Origin)>,
) -> Option<BTreeMap<PathBuf, (Entry, Origin)>> {
    for (path, was) in old {
        let kept = (was.clone(), (false, was.first_name.clone()));
        match new.get_mut(path) {
            None => drop(new.insert(path.clone(), kept)),
            Some((entry, _)) => match (entry.kind, was.kind) {
                (Kind::Directory, Kind::Directory) => *entry = was.clone(),
                (Kind::Directory, _) | (_, Kind::Directory) => return None,
                _ => {}
            },
        }
    }
    Some(new)
}

/// Turns the model into a snapshot, and finds the first names again.
fn as_snapshot(model: BTreeMap<PathBuf, (Entry, Origin)>) -> Snapshot {
    let mut first: BTreeMap<Origin, PathBuf> = BTreeMap::new();
    model
        .into_iter()
        .map(|(path, (mut entry, origin))| {
            entry.first_name = first.entry(origin).or_insert_with(|| path.clone()).clone();
            (path, entry)
        })
        .collect()
}

/// Removes the parts that the model does not predict: the times of folders that were merged into,
/// and of links that the operation made.
fn blurred(mut tree: Snapshot, setting: &Setting) -> Snapshot {
    for entry in tree.values_mut() {
        let merged_into =
            setting.existing == Existing::Merge && setting.there && entry.kind == Kind::Directory;
        if merged_into || entry.kind == Kind::Symlink && setting.mode == CloneMode::Symlink {
            entry.mtime = (0, 0);
            entry.owner = (0, 0);
        }
    }
    tree
}

fn check(source_plan: &[Plan], dest_plan: &[Plan], setting: &Setting) {
    let scratch = Scratch::new();
    let source = scratch.join("source");
    build(&source, source_plan);
    let dests: Vec<PathBuf> =
        (0..setting.dests).map(|index| scratch.join(format!("dest-{index}"))).collect();
    if setting.there {
        for dest in &dests {
            build(dest, dest_plan);
        }
    }
    let before = snapshot(&source);
    let old: Vec<Option<Snapshot>> =
        dests.iter().map(|dest| setting.there.then(|| snapshot(dest))).collect();
    let mut options = CloneOptions::new()
        .mode(setting.mode)
        .reflink(setting.reflink)
        .existing(setting.existing)
        .xattrs(setting.xattrs);
    if setting.mutable {
        options = options.mutable("*.o");
    }
    let result = clone_tree(&source, &dests, &jobs(options, setting.jobs));
    assert_same(&before, &snapshot(&source), "the source itself");
    let stages: Vec<_> = scratch.names().into_iter().filter(|name| name.starts_with('.')).collect();
    assert!(stages.is_empty(), "left behind: {stages:?}");

    let model = arrives(&source, &before, setting);
    let has_files = before.iter().any(|(path, entry)| {
        let linked = matches!(setting.mode, CloneMode::Hardlink | CloneMode::Symlink);
        let is_mutable = setting.is_mutable(path);
        entry.kind == Kind::File && (!linked || is_mutable)
    });
    let skipped = setting.there && setting.existing == Existing::Skip;
    let refused = setting.reflink == Reflink::Always
        && has_files
        && (setting.mode == CloneMode::Copy || !expects_reflink(scratch.path()));
    let conflict = setting.there
        && setting.existing == Existing::Merge
        && old[0].as_ref().is_some_and(|old| merged(old, model.clone()).is_none());
    let expected_error = match () {
        () if setting.there && setting.existing == Existing::Fail => {
            Some(vec![ErrorKind::DestinationExists])
        }
        () if skipped => None,
        () if refused && conflict => Some(vec![ErrorKind::ReflinkRefused, ErrorKind::Conflict]),
        () if refused => Some(vec![ErrorKind::ReflinkRefused]),
        () if conflict => Some(vec![ErrorKind::Conflict]),
        () => None,
    };
    if let Some(kinds) = expected_error {
        let error = result.expect_err("an error was expected");
        assert!(kinds.contains(&error.kind()), "{error:?}, expected one of {kinds:?}");
        for (dest, old) in dests.iter().zip(old) {
            if setting.existing == Existing::Merge {
                every_file_is_old_or_new(dest, old.as_ref(), &model);
            } else if let Some(old) = old {
                assert_same(&old, &snapshot(dest), "what was there");
            } else {
                assert!(!common::is_there(dest));
            }
        }
        return;
    }
    let report = result.unwrap();
    for ((dest, old), found) in dests.iter().zip(old).zip(&report.destinations) {
        let expected = match old {
            Some(old) if skipped => old,
            Some(old) if setting.existing == Existing::Merge => {
                as_snapshot(merged(&old, model.clone()).unwrap())
            }
            _ => as_snapshot(model.clone()),
        };
        let after = snapshot(dest);
        assert_same(&blurred(expected, setting), &blurred(after.clone(), setting), "what arrived");
        if setting.mode == CloneMode::Hardlink && !skipped {
            for (path, entry) in &before {
                let is_mutable = setting.is_mutable(path);
                if entry.kind == Kind::File {
                    assert_eq!(after[path].inode.is(entry.inode), !is_mutable, "{path:?}");
                }
            }
        }
        assert_eq!(
            found.files,
            found.reflinked_files + found.copied_files + found.linked_files,
            "{found:?}"
        );
        assert_eq!(found.copied_files, found.copied_because.total(), "{found:?}");
        if !skipped {
            let files = before.values().filter(|entry| entry.kind == Kind::File).count();
            assert_eq!(found.files, files as u64, "{found:?}");
            assert!(found.skipped.is_empty(), "{found:?}");
        }
    }
}

/// After an error in a merge: no file is anything but one of the two.
fn every_file_is_old_or_new(
    dest: &Path,
    old: Option<&Snapshot>,
    new: &BTreeMap<PathBuf, (Entry, Origin)>,
) {
    if !common::is_there(dest) {
        assert!(old.is_none());
        return;
    }
    let after = snapshot(dest);
    for (path, entry) in &after {
        if entry.kind != Kind::File {
            continue;
        }
        let same = |other: &Entry| {
            (other.kind, other.size, other.content) == (entry.kind, entry.size, entry.content)
        };
        let known = old.and_then(|old| old.get(path)).is_some_and(same)
            || new.get(path).is_some_and(|(entry, _)| same(entry));
        assert!(known, "{path:?} is neither the old nor the new one: {entry:?}");
    }
    for path in old.into_iter().flat_map(Snapshot::keys) {
        assert!(after.contains_key(path), "{path:?} was lost");
    }
}

#[test]
fn any_tree_under_any_setting_arrives_as_a_naive_model_says() {
    let cases =
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96);
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    TestRunner::new(config)
        .run(&(tree(40), tree(15), setting()), |(source, dest, setting)| {
            check(&source, &dest, &setting);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_clone_of_a_clone_and_a_copy_by_cp_are_the_same() {
    let config =
        Config { cases: 16, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    TestRunner::new(config)
        .run(&(tree(60), any::<bool>()), |(plan, never)| {
            let scratch = Scratch::new();
            let [source, one, two, by_cp] =
                ["source", "one", "two", "by-cp"].map(|name| scratch.join(name));
            build(&source, &plan);
            let options =
                CloneOptions::new().reflink(if never { Reflink::Never } else { Reflink::Auto });
            clone_tree(&source, &[&one], &options).unwrap();
            clone_tree(&one, &[&two], &options).unwrap();
            sh(Command::new("cp").args(["-a", "-T"]).arg(&source).arg(&by_cp));
            for tree in [&one, &two, &by_cp] {
                assert_same(&snapshot(&source), &snapshot(tree), &tree.display().to_string());
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

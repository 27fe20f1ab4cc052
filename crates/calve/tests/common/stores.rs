//! A project with a store, and short functions for frequent steps of the tests of worktrees.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use calve::{
    DestinationReport, Error, ErrorKind, Method, SnapshotId, SnapshotOptions, StartOptions,
    StartReport, Store, StoreOptions, VerifyOptions, VerifyReport, Worktree,
};

use crate::common::snapshot::{Entry, Kind, Snapshot, only, snapshot};
use crate::common::{Scratch, expects_reflink};

/// The file with the mark of the worktree at `tree`: where git keeps what belongs to that tree, or in
/// the tree.
pub(crate) fn mark_of(tree: &Path) -> PathBuf {
    let git = tree.join(".git");
    match fs::read_to_string(&git) {
        Ok(text) => tree.join(text["gitdir: ".len()..].trim_end()).join("calve-worktree"),
        Err(_) if git.is_dir() => git.join("calve-worktree"),
        Err(_) => tree.join(".calve/worktree"),
    }
}

/// The folder that the store at `store` has for the worktree at `tree`.
pub(crate) fn kept_of(store: &Path, tree: &Path) -> PathBuf {
    let mark = fs::read_to_string(mark_of(tree)).unwrap();
    let token = mark.lines().find_map(|line| line.strip_prefix("token ")).unwrap();
    store.join("trees").join(token)
}

/// A project in its own folder, beside which its worktrees are.
pub(crate) struct Desk {
    pub(crate) scratch: Scratch,
    pub(crate) project: PathBuf,
    pub(crate) store: Store,
}

impl Desk {
    pub(crate) fn new(fill: impl FnOnce(&Path)) -> Self {
        let scratch = Scratch::new();
        let project = scratch.join("project");
        fill(&project);
        let store = Store::init(&project).unwrap();
        Self { scratch, project, store }
    }

    /// With a few files of every kind that a story needs.
    pub(crate) fn small() -> Self {
        Self::new(small_project)
    }

    pub(crate) fn start(&self, names: &[&str]) -> StartReport {
        self.store.start(names, &StartOptions::new(), &StoreOptions::new()).unwrap()
    }

    /// Starts one and gives it.
    pub(crate) fn worktree(&self, name: &str) -> Worktree {
        self.start(&[name]);
        self.store.worktree(name).unwrap()
    }

    pub(crate) fn from(&self, name: &str, snapshot: SnapshotId) -> Worktree {
        self.store
            .start(&[name], &StartOptions::new().from(snapshot), &StoreOptions::new())
            .unwrap();
        self.store.worktree(name).unwrap()
    }

    /// The default folder of worktrees.
    pub(crate) fn folder(&self) -> PathBuf {
        self.scratch.join("project.worktrees")
    }

    pub(crate) fn snapshot(&self) -> SnapshotId {
        self.store.snapshot(&SnapshotOptions::new(), &StoreOptions::new()).unwrap().id
    }
}

pub(crate) fn small_project(project: &Path) {
    fs::create_dir(project).unwrap();
    put(project, "README", "one\ntwo\nthree\n");
    put(project, "src/main.rs", "fn main() {}\n");
    put(project, "src/lib.rs", "pub mod a;\npub mod b;\n");
    put(project, "target/debug/out.bin", [0, 159, 146, 150].repeat(1000));
    put(project, "docs/guide/first.md", "# First\n");
    put(project, "docs/guide/second.md", "# Second\n");
    put(project, "run.sh", "#!/bin/sh\necho run\n");
    set_mode(&project.join("run.sh"), 0o755);
    std::os::unix::fs::symlink("README", project.join("readme-link")).unwrap();
    fs::create_dir(project.join("empty")).unwrap();
}

/// Writes a file; the folders above it are made.
pub(crate) fn put(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn options() -> StoreOptions {
    StoreOptions::new()
}

/// The status as it is printed: a letter and a path for each change.
#[track_caller]
pub(crate) fn status(worktree: &Worktree) -> Vec<String> {
    let changes = worktree.status(&options()).unwrap().changes;
    changes
        .iter()
        .map(|change| format!("{} {}", change.kind.letter(), change.path.display()))
        .collect()
}

/// Fails unless everything in the store is what its name says.
#[track_caller]
pub(crate) fn assert_sound(store: &Store) -> VerifyReport {
    let report = store.verify(&VerifyOptions::new(), &options()).unwrap();
    assert!(report.damage.is_empty(), "{:#?}", report.damage);
    report
}

/// A tree without calve's own files.
#[track_caller]
pub(crate) fn tree(root: &Path) -> Snapshot {
    let mut found = only(&snapshot(root), |path, _| !path.starts_with(".calve"));
    // A file that was moved aside may be another name of a file in the tree.
    let mut first_names = std::collections::HashMap::new();
    for (path, entry) in &mut found {
        let inode = (entry.inode.0, entry.inode.1);
        entry.first_name.clone_from(first_names.entry(inode).or_insert_with(|| path.clone()));
    }
    found
}

/// What `status` compares: kind, content, mode, owner and attributes.
#[track_caller]
pub(crate) fn content(root: &Path) -> Snapshot {
    content_of(&tree(root))
}

/// The same, for a tree that was read before.
pub(crate) fn content_of(tree: &Snapshot) -> Snapshot {
    let mut found = tree.clone();
    for (path, entry) in &mut found {
        *entry = Entry {
            mtime: (0, 0),
            data: Vec::new(),
            first_name: path.clone(),
            mode: if entry.kind == Kind::Symlink { 0 } else { entry.mode },
            ..entry.clone()
        };
    }
    found
}

/// Waits until the filesystem's clock shows another time.
pub(crate) fn after_a_tick() {
    std::thread::sleep(std::time::Duration::from_millis(25));
}

/// Inode, change time and modification time of an entry.
pub(crate) fn stamp(path: &Path) -> (u64, i64, i64, i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.mtime(), meta.mtime_nsec())
}

#[track_caller]
pub(crate) fn fails<T>(result: Result<T, Error>, kind: ErrorKind) -> Error {
    match result {
        Ok(_) => panic!("it was done, and should have failed with {kind:?}"),
        Err(error) => {
            assert_eq!(error.kind(), kind, "{error}");
            error
        }
    }
}

/// Fails unless the files of a worktree arrived as they must on this filesystem, and the report
/// says so.
#[track_caller]
pub(crate) fn assert_arrived(report: &DestinationReport) {
    let dir = report.path.parent().unwrap();
    let expected = if expects_reflink(dir) { Method::Reflink } else { Method::Copy };
    if expected == Method::Reflink && report.method == Method::Snapshot {
        return;
    }
    if expected == Method::Reflink {
        assert_eq!(report.method, Method::Reflink, "{report:?}");
        assert_eq!(report.copied_files, 0, "{report:?}");
    } else {
        assert_ne!(report.method, Method::Reflink, "{report:?}");
        assert!(report.copied_files > 0, "{report:?}");
        assert_eq!(report.reflinked_bytes, 0, "{report:?}");
        assert_eq!(report.copied_because.filesystem, report.copied_files, "{report:?}");
    }
}

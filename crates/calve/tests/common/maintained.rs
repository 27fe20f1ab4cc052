//! A project with a store, for what keeps stores sound.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use calve::{
    DropOptions, GcOptions, PackOptions, SnapshotId, SnapshotOptions, StartOptions, Store,
    StoreOptions, VerifyOptions, VerifyReport,
};

use crate::common::snapshot::{Kind, Snapshot, only, snapshot};
use crate::common::{Scratch, names, plain_tree};

pub(crate) fn common() -> StoreOptions {
    StoreOptions::new()
}

/// The tree that a worktree of it must have: without calve's own folder and without sockets. The
/// places of holes depend on whether the content was packed.
pub(crate) fn tree(root: &Path) -> Snapshot {
    let mut tree = only(&snapshot(root), |path, entry| {
        !path.starts_with(".calve") && entry.kind != Kind::Socket
    });
    for entry in tree.values_mut() {
        entry.data.clear();
    }
    tree
}

pub(crate) struct Project {
    pub(crate) scratch: Scratch,
    pub(crate) path: PathBuf,
    pub(crate) store: Store,
    started: std::sync::atomic::AtomicUsize,
}

impl Project {
    pub(crate) fn new(make: impl FnOnce(&Path)) -> Self {
        Self::with(make, false)
    }

    /// With the store outside of the project, so that the tree can be looked at while somebody is
    /// at the store.
    pub(crate) fn apart(make: impl FnOnce(&Path)) -> Self {
        Self::with(make, true)
    }

    pub(crate) fn with(make: impl FnOnce(&Path), apart: bool) -> Self {
        let scratch = Scratch::new();
        let path = scratch.join("project");
        make(&path);
        let store = apart.then(|| scratch.join("store"));
        let store = match store {
            Some(store) => Store::init_at(&path, store),
            None => Store::init(&path),
        }
        .unwrap();
        Self { scratch, path, store, started: 0.into() }
    }

    pub(crate) fn snapshot(&self) -> SnapshotId {
        self.store.snapshot(&SnapshotOptions::new(), &common()).unwrap().id
    }

    /// Starts a worktree and looks at it.
    pub(crate) fn start(&self, from: SnapshotId) -> Result<Snapshot, calve::Error> {
        self.start_in(&self.store, from)
    }

    pub(crate) fn start_in(
        &self,
        store: &Store,
        from: SnapshotId,
    ) -> Result<Snapshot, calve::Error> {
        let name = format!("w{}", self.started.fetch_add(1, Ordering::Relaxed));
        let at = self.scratch.join("worktrees");
        let options = StartOptions::new().from(from).at(&at);
        store.start(&[&name], &options, &common())?;
        let found = tree(&at.join(&name));
        store
            .worktree(&name)
            .unwrap()
            .drop(&DropOptions::new().force(true), &common())
            .unwrap()
            .delete()
            .unwrap();
        Ok(found)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.store.path().join(name)
    }

    /// The path of a content's mirror.
    pub(crate) fn mirror(&self, content: &[u8]) -> PathBuf {
        let hex = blake3::hash(content).to_hex();
        self.file("blobs").join(&hex[..2]).join(&hex[2..])
    }

    /// On btrfs a start leaves a whole tree behind, and the next needs no mirrors. Without its seal
    /// it is no good.
    pub(crate) fn break_templates(&self) {
        let folder = self.file("templates");
        for name in names(&folder).iter().filter(|name| name.ends_with(".seal")) {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }

    pub(crate) fn pack_all(&self) -> calve::PackReport {
        self.store.pack(&PackOptions::new().all(true), &common()).unwrap()
    }

    pub(crate) fn gc(&self) -> calve::GcReport {
        self.store.gc(&at_once(), &common()).unwrap()
    }

    pub(crate) fn verify(&self) -> VerifyReport {
        self.store.verify(&VerifyOptions::new(), &common()).unwrap()
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let report = self.verify();
        assert!(report.damage.is_empty(), "{:#?}", report.damage);
    }
}

pub(crate) fn at_once() -> GcOptions {
    GcOptions::new().grace(Duration::ZERO).patience(Duration::from_secs(60))
}

pub(crate) fn few(root: &Path) {
    plain_tree(root, 3, 4, 5000);
}

//! Takes snapshots.
//!
//! [`record`] says what is durable when.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{self, Mode};

use super::blobs::{Intake, IntakeCounts, Noted};
use super::catalog::{Based, Origin, WorktreeRow};
use super::freeing::taking_in;
use super::git;
use super::git::modules::Modules;
use super::id::SnapshotId;
use super::index::{Boot, Index};
use super::manifest::Manifest;
use super::metadata::Maker;
use super::object::{Kind, SnapshotObject};
use super::paths::found::{FOUND_MOST_BYTES, Found};
use super::paths::local::Local;
use super::paths::spelling::{Spellings, kind_to_learn_from};
use super::paths::{MOST_BYTES, Relocation};
use super::scan::files::read_small;
use super::scan::{self, AlikeFiles, Mentions, Near, Request, Scan};
use super::stamps::stamp_of;
use super::{PROJECT, Store, bytes_of, path_from, read_plain};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::macros::setters;
use crate::reflink::imp::DIR_FLAGS;
use crate::report::Skipped;
use crate::tree::excluded::Excluded;
use crate::tree::running::Running;

pub(crate) mod query;
pub(crate) mod record;

pub(crate) use query::check_name;
use query::set_name;
use record::{FoundList, NewIndex, RecordedSnapshots, Recording};

/// What a new snapshot is given, for [`Store::snapshot`] and
/// [`Worktree::capture`](crate::Worktree::capture); built by value.
#[derive(Debug, Clone, Default)]
pub struct SnapshotOptions {
    message: Option<String>,
    name: Option<String>,
    keeps_base: bool,
}

impl SnapshotOptions {
    /// Leaves the tree its base snapshot: nobody asked to record the tree, and its work is as
    /// uncommitted as before.
    pub(crate) fn keeping_base(mut self) -> Self {
        self.keeps_base = true;
        self
    }

    /// Fails where the name is none that a snapshot can have.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.name.as_deref().map_or(Ok(()), check_name)
    }
}

setters! { SnapshotOptions:
    /// Neither message nor name.
    pub fn new(),
    /// Says why the snapshot is made. With a message a snapshot is made even if nothing has
    /// changed.
    pub message: impl Into<String> = Some(message.into()),
    /// Gives the snapshot a name; if another snapshot has that name, it moves to the new one.
    pub name: impl Into<String> = Some(name.into()),
}

/// What [`Store::snapshot`] did.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SnapshotReport {
    /// The new snapshot, or the last one if nothing had changed.
    pub id: SnapshotId,
    /// Whether it is new.
    pub new: bool,
    /// Regular files in the snapshot, and their sizes summed up, in bytes.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
    /// Files that were read, since the index did not vouch for their content, and their sizes.
    pub read_files: u64,
    /// See `read_files`.
    pub read_bytes: u64,
    /// New contents that share their blocks with the tree, and those that were copied.
    pub cloned_files: u64,
    /// See `cloned_files`.
    pub copied_files: u64,
    /// Sizes of the copied ones, in bytes.
    pub copied_bytes: u64,
    /// Entries that were left out, or kept only in part.
    pub skipped: Vec<Skipped>,
    /// Time from the call to its return.
    pub elapsed: Duration,
}

/// A snapshot, and its tree.
type BaseTree = (SnapshotId, SnapshotObject, Manifest);

/// A tree, and the snapshot that it is based on.
pub(crate) struct Known {
    pub(crate) row: WorktreeRow,
    pub(crate) root: PathBuf,
    /// The snapshot it is based on, with what stood for its entries, where that is known.
    pub(crate) base: Option<BaseTree>,
    pub(crate) index: Option<Index>,
    /// Set if files of the tree are not as in a snapshot.
    pub(crate) local: Option<Local>,
    /// Files that need not be read.
    pub(crate) alike: Option<AlikeFiles>,
    /// Set if calve looks at a part of the tree only.
    pub(crate) only: Option<Arc<Near>>,
}

impl Known {
    fn relocation(&self) -> Option<&Relocation> {
        self.local.as_ref()?.roots.as_ref()
    }

    /// The roots that files of the tree may name: the one that snapshots name, and the tree's own.
    /// `noted` is what was found in the base snapshot.
    fn roots(&self, noted: Option<&Found>) -> Vec<Vec<u8>> {
        match self.relocation() {
            Some(roots) => roots.from().chain(roots.to()).cloned().collect(),
            None => {
                let root = bytes_of(&self.root);
                let noted = noted.filter(|found| found.roots.first() == Some(&root));
                noted.map_or_else(|| vec![root], |found| found.roots.clone())
            }
        }
    }

    /// What is known of a worktree, or of the project.
    pub(crate) fn of(store: &Store, row: WorktreeRow) -> Result<Self, Error> {
        let read = |id| -> Result<_, Error> {
            let object = store.catalog().object(id)?;
            let manifest = store.catalog().manifest(id, &object)?;
            Ok((id, object, manifest))
        };
        let base = row.snapshot.map(read).transpose()?;
        Ok(Self::on(store, row, base))
    }

    /// The same for an operation that can do without the base. If the base is damaged, calve reads
    /// all files anew, and stores the damaged objects again.
    pub(crate) fn if_sound(store: &Store, row: WorktreeRow) -> Result<Self, Error> {
        use ErrorKind::{Damaged, SnapshotNotFound};
        match Self::of(store, row.clone()) {
            Err(error) if matches!(error.kind(), Damaged | SnapshotNotFound) => {
                Ok(Self::on(store, row, None))
            }
            result => result,
        }
    }

    /// The same with the base that is given.
    pub(crate) fn on(store: &Store, row: WorktreeRow, base: Option<BaseTree>) -> Self {
        let root = store.registry().root_of(&row);
        let index =
            base.as_ref().and_then(|(id, _, base)| store.registry().index(&row.token, *id, base));
        let local = local(store, &row, &root);
        Self { row, root, base, index, local, alike: None, only: None }
    }

    /// Scans a tree; with `intake` its content is taken into the store, and what that made is noted
    /// there.
    pub(crate) fn scan(
        &self,
        store: &Store,
        intake: Option<&Noted>,
        operation: &Running,
    ) -> Result<(Scan, (i64, u32)), Error> {
        let root = fs::open(&self.root, DIR_FLAGS, Mode::empty()).map_err(|errno| {
            let kind = match errno {
                rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => ErrorKind::WorktreeMissing,
                _ => return Error::io(Operation::Open, &self.root, errno),
            };
            Error::new(kind, Operation::OpenWorktree, &self.root, errno)
        })?;
        // Read-only stores have no clock, and need none: nothing is taken in.
        let stamp = match store.is_read_only() {
            true => (i64::MIN, 0),
            false => stamp_of(&root, None, store.clock().now()?, operation.filesystems()),
        };
        let excluded = other_roots(store, &self.row.name, &self.root, operation)?;
        let noted = self.base.as_ref().filter(|_| intake.is_some());
        let noted = noted.map(|(id, ..)| store.snapshots().noted_found(*id)).transpose()?.flatten();
        let roots = self.roots(noted.as_ref());
        let spellings = match self.relocation() {
            _ if intake.is_none() => Spellings::fixed(Vec::new()),
            Some(roots) => Spellings::at(roots.from().cloned().collect()),
            None if self.row.name == PROJECT => Spellings::of(&root, roots.clone()),
            None => Spellings::fixed(roots.clone()),
        };
        let request = Request {
            path: &self.root,
            root: &root,
            base: self.base.as_ref().map(|(_, _, manifest)| manifest),
            index: self.index.as_ref(),
            blobs: store.blobs(),
            intake,
            looks_only: false,
            stamp,
            maker: Maker::of(&store.layout().tree(&self.row.token)),
            excluded: &excluded,
            own: Some(&git::OwnFolders::of(&self.root)),
            roots: &roots,
            spellings: &spellings,
            local: self.local.as_ref(),
            alike: self.alike.as_ref(),
            only: self.only.as_deref(),
            operation,
        };
        let scan = scan::scan(&request)?;
        // The index of a part of the tree knows nothing of the rest.
        if let Some(index) = &scan.index
            && self.only.is_none()
            && !store.is_read_only()
            && let Some((_, _, base)) = &self.base
            // A process that has written an index meanwhile knew more. Or the worktree was dropped,
            // and has none.
            && store.registry().index(&self.row.token, index.snapshot, base) == self.index
        {
            // So that the next one reads nothing again. If this fails, it does.
            let _ = store.registry().write_index(&self.row.token, index);
        }
        Ok((scan, stamp))
    }

    /// Makes a snapshot of the tree, its base as the parent. Returns also the snapshot's manifest;
    /// `None` if that equals the base's.
    pub(crate) fn record(
        &self,
        store: &Store,
        taking: &SnapshotOptions,
        operation: &Running,
    ) -> Result<(SnapshotReport, Option<Manifest>), Error> {
        let started = Instant::now();
        taking_in(store, operation, |noted| {
            let _guard = store.share()?;
            let base = self.base.as_ref().map(|(id, ..)| *id);
            for known in base.into_iter().chain(self.alike.as_ref().map(|alike| alike.of)) {
                // It was read before the lock was had. Should it have been forgotten since, its
                // content may be gone.
                store.catalog().object(known)?;
            }
            let (mut scan, stamp) = self.scan(store, Some(noted), operation)?;
            // Without a manifest of its own, the tree equals the base.
            let base = self.base.as_ref().map(|(_, _, manifest)| manifest);
            let Some(manifest) = scan.manifest.as_ref().or(base) else {
                return Err(crate::tree::pool::cancelled(Operation::TakeSnapshot, &self.root));
            };
            let same = self
                .base
                .as_ref()
                .filter(|(_, object, _)| taking.message.is_none() && object.root == manifest.root);
            let stats = std::mem::take(&mut scan.stats);
            let index = |snapshot| Index { snapshot, boot: Boot::this(), stamp, stats };
            let id = match same {
                Some((id, ..)) => {
                    self.refresh(store, index(*id), taking, &scan.counts)?;
                    *id
                }
                None => {
                    let message = taking.message.clone().unwrap_or_default();
                    let encoding = manifest.object(self.row.snapshot, message).encode();
                    let worktree = Some(self.row.name.clone());
                    let token = &*self.row.token;
                    let indexes = [NewIndex {
                        token,
                        index: &index(SnapshotId::of(&encoding)),
                        has_base: self.row.snapshot.is_some(),
                    }];
                    let (indexes, based) = match taking.keeps_base {
                        // Without a base, there is no index that would be lost.
                        true if self.row.snapshot.is_none() => (&indexes[..], Based::None),
                        true => (&indexes[..0], Based::None),
                        false => (&indexes[..], Based::One(token)),
                    };
                    let found = self.found_in(store, manifest, scan.mentions);
                    store.snapshots().record(&Recording {
                        tree: Some((manifest, &scan.directories)),
                        arrived: Some(&scan.unsealed),
                        found: Some(FoundList::Here(&found)),
                        indexes,
                        based,
                        name: taking.name.as_deref(),
                        origin: &Origin { worktree, branch: git::branch_in(&self.root) },
                        encoding: &encoding,
                    })?
                }
            };
            let ((files, bytes), counts) = (manifest.files(), scan.counts);
            let report = SnapshotReport {
                id,
                new: same.is_none(),
                files,
                bytes,
                read_files: counts.read_files,
                read_bytes: counts.read_bytes,
                cloned_files: counts.cloned_files,
                copied_files: counts.copied_files,
                copied_bytes: counts.copied_bytes,
                skipped: scan.skipped,
                elapsed: started.elapsed(),
            };
            Ok((report, scan.manifest))
        })
    }

    /// Names the snapshot of `index`, whose tree a worktree still has, and writes the worktree's
    /// new index, if that vouches for more than the old one.
    fn refresh(
        &self,
        store: &Store,
        index: Index,
        taking: &SnapshotOptions,
        counts: &IntakeCounts,
    ) -> Result<(), Error> {
        if let Some(name) = &taking.name {
            set_name(store, name, index.snapshot)?;
        }
        // The stamp alone is no news, unless something was too young to be trusted under the old
        // one.
        let is_news = self.index.as_ref().is_none_or(|old| {
            old.snapshot != index.snapshot
                || old.boot != index.boot
                || old.stats != index.stats
                || old.stats.iter().any(|stat| stat.changed >= old.stamp)
        });
        if is_news {
            // Contents that were read and are not new have not been flushed, and the index must not
            // be on the disk before them. The snapshot is there even if this fails: then the next
            // one reads more.
            let flushed = if counts.read_files == 0 { Ok(()) } else { store.contents().flush(&[]) };
            let _ = flushed.and_then(|()| store.registry().write_index(&self.row.token, &index));
        }
        Ok(())
    }

    /// Which files of a new snapshot name the project's root. Without the list they are looked for
    /// when a worktree is started.
    pub(crate) fn found_in(&self, store: &Store, manifest: &Manifest, mentions: Mentions) -> Found {
        let mut spellings = mentions.spellings;
        let base = self
            .base
            .as_ref()
            .map(|(id, object, base)| (store.snapshots().found(*id, object), base));
        let base = match &base {
            Some((Ok(found), base)) => {
                if self.relocation().is_none() && self.row.name != PROJECT {
                    // The files of a worktree that keeps all paths name what its base names.
                    spellings = Spellings::fixed(found.roots.clone());
                } else if found.roots.first() == spellings.known().first() {
                    spellings.add(&found.roots);
                }
                Some((found, *base))
            }
            _ => None,
        };
        Found::of(&self.root, spellings, manifest, mentions.paths, base)
    }
}

/// How the files of a worktree differ from those of a snapshot.
pub(crate) fn local(store: &Store, row: &WorktreeRow, root: &Path) -> Option<Local> {
    if row.name == PROJECT {
        return None;
    }
    let modules = modules(store, row, root).filter(Modules::are_in_use);
    Local::new(Relocation::read(&store.layout().tree(&row.token)), modules)
}

/// The submodules of a worktree that is linked, or has a copy of the repository. `None`: it is
/// neither.
pub(crate) fn modules(store: &Store, row: &WorktreeRow, root: &Path) -> Option<Modules> {
    let project = git::read(&store.project().ok()?).ok()??;
    if row.git.is_none() {
        return Modules::of_copy(&project, root);
    }
    let registration = git::leads_to(root).ok()?;
    let folder = project.registrations_folder();
    let is_ours = registration.parent().is_some_and(|above| git::is_same(above, &folder));
    is_ours.then(|| Modules::new(&project, root, &registration))
}

/// The store, and those worktrees that lie inside `root` and are not it: the store's, and those
/// that git or another tool made in the same repository. The `.git` of such a worktree would
/// lead git from a copy of it back to the worktree.
pub(crate) fn other_roots(
    store: &Store,
    name: &str,
    root: &Path,
    operation: &Running,
) -> Result<Excluded, Error> {
    let mut excluded = Excluded::default();
    let mut add = |path: &Path| excluded.add_at((fs::CWD, path), operation.filesystems());
    add(store.path());
    for row in store.catalog().worktrees()? {
        let path = path_from(&row.path);
        if row.name != name && row.name != PROJECT && path.starts_with(root) {
            add(&path);
        }
    }
    let inside = git::worktrees_inside(root).context(Operation::Read, || git::git_of(root))?;
    inside.iter().for_each(|path| add(path));
    Ok(excluded)
}

impl RecordedSnapshots<'_> {
    /// The list of files that name the project's root, as `found/ID` has it. `None` if it is lost
    /// or damaged.
    pub(crate) fn noted_found(&self, id: SnapshotId) -> Result<Option<Found>, Error> {
        use io::ErrorKind::{InvalidData, NotFound};
        let path = self.store.layout().found(id);
        match read_plain(fs::CWD, &path, FOUND_MOST_BYTES) {
            Ok(bytes) => Ok(Found::decode(&bytes)),
            Err(error) if matches!(error.kind(), NotFound | InvalidData) => Ok(None),
            Err(error) => Err(error).context(Operation::Read, || path),
        }
    }

    /// The files of a snapshot that name the project's root.
    pub(crate) fn found(&self, id: SnapshotId, object: &SnapshotObject) -> Result<Found, Error> {
        if let Some(found) = self.noted_found(id)? {
            return Ok(found);
        }
        let project = self.store.project()?;
        let root = bytes_of(&project);
        let mut spellings = Spellings::at(vec![root.clone()]);
        let manifest = self.store.catalog().manifest(id, object)?;
        let mut intake = Intake::new().looking_for(std::slice::from_ref(&root));
        let mut mentions = Vec::new();
        for (path, entry) in Found::candidates(&manifest) {
            let Kind::File { size: size @ 1..=MOST_BYTES, blob, .. } = entry.kind else { continue };
            let never = || false;
            let (file, _) = self.store.contents().get(&mut intake, blob, size, &never)?;
            intake.hash(&file, size, &never).context(Operation::Read, || &path)?;
            let text = read_small(&file, size).context(Operation::Read, || &path)?;
            let is_named = kind_to_learn_from(&path)
                .zip(text)
                .is_some_and(|(kind, text)| spellings.learn(kind, &text));
            if intake.mentions_root || is_named {
                mentions.push(path);
            }
        }
        let found = Found::of(&project, spellings, &manifest, mentions, None);
        if !self.store.is_read_only() {
            self.keep_found(id, &found);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;

    /// The paths of a tree, and the lists of its directories.
    fn paths(manifest: &Manifest) -> Vec<PathBuf> {
        let entries = manifest.entries();
        entries.map(|(place, slot, _)| manifest.path_of(place, slot)).collect()
    }

    /// A folder that has nothing but folders, and is as the base has it, was once taken for empty
    /// if there was no index.
    #[test]
    fn a_look_finds_the_same_entries_with_an_index_and_without_one() {
        let project = tempfile::tempdir().unwrap();
        for folder in ["a/b/c", "a/b/d", "empty", "e"] {
            std::fs::create_dir_all(project.path().join(folder)).unwrap();
        }
        for file in ["a/b/c/one", "a/b/c/two", "a/b/d/three", "e/four", "five"] {
            std::fs::write(project.path().join(file), file).unwrap();
        }
        std::fs::hard_link(project.path().join("e/four"), project.path().join("a/b/again"))
            .unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let store = Store::init(project.path()).unwrap();
        let options = StoreOptions::new();
        store.snapshot(&SnapshotOptions::new(), &options).unwrap();
        let mut known =
            Known::of(&store, store.catalog().worktree(PROJECT).unwrap().unwrap()).unwrap();
        let expected = paths(&known.base.as_ref().unwrap().2);
        for has_index in [true, false] {
            known.index = known.index.filter(|_| has_index);
            for intake in [None, Some(Noted::of(&options.operation()))] {
                let scan = known.scan(&store, intake.as_ref(), &options.operation()).unwrap().0;
                let found = scan.manifest.as_ref().map_or(expected.clone(), paths);
                assert_eq!(found, expected, "index: {has_index}, intake: {}", intake.is_some());
            }
        }
        std::fs::write(project.path().join("e/six"), "new").unwrap();
        let known = Known::of(&store, known.row).unwrap();
        let scan = known.scan(&store, Some(&Noted::of(&options.operation())), &options.operation());
        let scan = scan.unwrap().0;
        let (now, base) = (scan.manifest.unwrap(), &known.base.as_ref().unwrap().2);
        assert_eq!(paths(&now).len(), expected.len() + 1);
        assert_eq!(scan.stats.len(), now.count as usize);
        // Each stat belongs to its entry.
        for (number, path) in (1..).zip(paths(&now)) {
            let stat = fs::lstat(project.path().join(&path)).unwrap();
            assert_eq!(
                scan.stats[number].ino,
                crate::reflink::meta::Meta::of(&stat).ino,
                "{}",
                path.display()
            );
        }
        // A folder in which nothing has changed is in memory once.
        let of = |manifest: &Manifest| {
            let place = manifest.child_of(manifest.child_of(0, b"a").unwrap(), b"b").unwrap();
            let place = manifest.child_of(place, b"c").unwrap();
            manifest.directories[place as usize].entries.as_ptr()
        };
        assert_eq!(of(&now), of(base));
    }

    #[test]
    fn a_snapshot_that_is_like_another_shares_its_memory_and_is_the_same() {
        let project = tempfile::tempdir().unwrap();
        for file in ["a/one", "b/two"] {
            std::fs::create_dir(project.path().join(file).parent().unwrap()).unwrap();
            std::fs::write(project.path().join(file), file).unwrap();
        }
        let store = Store::init(project.path()).unwrap();
        let take = || store.snapshot(&SnapshotOptions::new(), &StoreOptions::new()).unwrap().id;
        let first = take();
        std::fs::write(project.path().join("b/three"), "new").unwrap();
        let second = take();
        let read = |id, like: &[&Manifest]| {
            store.catalog().manifest_like(id, &store.catalog().object(id).unwrap(), like).unwrap()
        };
        let base = read(first, &[]);
        let (alone, mut shared) = (read(second, &[]), read(second, &[&base]));
        assert_eq!(alone.root, shared.root);
        assert!(alone.entries().eq(shared.entries()));
        let at = |manifest: &Manifest, name| manifest.child_of(0, name).unwrap() as usize;
        let (a, b) = (at(&shared, b"a"), at(&shared, b"b"));
        assert_eq!(base.directories[a].entries.as_ptr(), shared.directories[a].entries.as_ptr());
        assert_ne!(base.directories[b].entries, shared.directories[b].entries);
        // A change of one is none of the other.
        let was = base.directories[a].entries.clone();
        shared.directories[a].entries[0].mode = 0;
        assert_eq!(base.directories[a].entries, was);
        assert_ne!(shared.directories[a].entries, was);
    }

    /// Where it was, the newer one's snapshot was another by then, so it was none, and each look
    /// that followed read everything.
    #[test]
    fn the_first_look_of_a_boot_writes_over_no_index_but_the_one_that_it_began_with() {
        let project = tempfile::tempdir().unwrap();
        std::fs::write(project.path().join("file"), "content").unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let store = Store::init(project.path()).unwrap();
        let options = StoreOptions::new();
        store.snapshot(&SnapshotOptions::new(), &options).unwrap();
        let mut known =
            Known::of(&store, store.catalog().worktree(PROJECT).unwrap().unwrap()).unwrap();
        let token = known.row.token.clone();
        let (id, _, base) = known.base.as_ref().unwrap();
        let id = *id;
        let newer = known.index.clone().unwrap();
        let begun = Index { boot: Boot([9; 16]), ..newer.clone() };
        known.index = Some(begun.clone());
        assert!(known.scan(&store, None, &options.operation()).unwrap().0.index.is_some());
        assert_eq!(store.registry().index(&token, id, base), Some(newer));
        store.registry().write_index(&token, &begun).unwrap();
        // A look at a part of the tree would leave an index without the rest.
        known.only = Some(Arc::new(Near::of(["file".into()])));
        known.scan(&store, None, &options.operation()).unwrap();
        assert_eq!(store.registry().index(&token, id, base), Some(begun));
        known.only = None;
        known.scan(&store, None, &options.operation()).unwrap();
        assert_eq!(store.registry().index(&token, id, base).unwrap().boot, Boot::this());
        std::fs::remove_file(store.path().join("indexes").join(&token)).unwrap();
        known.scan(&store, None, &options.operation()).unwrap();
        assert_eq!(store.registry().index(&token, id, base), None);
    }
}

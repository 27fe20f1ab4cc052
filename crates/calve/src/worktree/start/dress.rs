//! Dresses a tree: adds what a worktree needs beside the snapshot's files, after the tree is made
//! and before it is published. It does not matter in which way the tree was made.
//!
//! A tree gets its marker, and its part of git. No snapshot has the `.git` in the root of the
//! project, so a tree that was made from one has no repository yet.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, Timespec, Timestamps};

use super::PathMode;
use super::git::{GitOutcome, GitPlan, LinkedWorktree};
use super::links::{GivenIndex, NewLinks};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::{self, Meta};
use crate::report::DestinationReport;
use crate::store::at::meta_at;
use crate::store::catalog::{Linked, State, WorktreeRow};
use crate::store::clock;
use crate::store::git::modules::Module;
use crate::store::git::{self, Registration};
use crate::store::id::SnapshotId;
use crate::store::index::Index;
use crate::store::index::Stat;
use crate::store::layout::GIT;
use crate::store::manifest::Manifest;
use crate::store::materialize::wanted;
use crate::store::object::{Entry, SnapshotObject};
use crate::store::paths::Relocation;
use crate::store::paths::found::{Found, PathMention, keep_living, number_at};
use crate::store::paths::local::Tree;
use crate::store::ready::git_index::ReadyGitIndex;
use crate::store::ready::seal::{self, WorktreeSeal};
use crate::store::ready::vouched::{Clones, KnownWorktree, Snapshots};
use crate::store::ready::{Arrived, ArrivedGitIndex, TreePlace};
use crate::store::stamps::stamp_of;
use crate::store::{PROJECT, Store, path_from};
use crate::tree::git_index::{self, Nobody, Source, TreeAndClone, Vouches};
use crate::tree::running::Running;
use crate::tree::staging::{Stage, sync_filesystem};
use crate::worktree::Worktree;
use crate::worktree::relocate::{Relocate, Whose, all_kept};
use crate::worktree::repository;

mod submodules;

/// The repository of a tree, and the files in it that name the project's root.
pub(super) type Dressed = (GitOutcome, Vec<PathMention>);

/// What trees were made of.
#[derive(Clone, Copy)]
pub(super) enum Origin<'a> {
    Snapshot(SnapshotId, &'a SnapshotObject),
    /// The project, whose contents have no names yet.
    Project {
        root: &'a OwnedFd,
        found: &'a Found,
        manifest: &'a Manifest,
        /// The indexes of the trees; one for all if they are snapshots of one subvolume.
        trees: &'a [(Vec<String>, Index)],
        /// A time of [`listing::now`](crate::tree::listing::now) before the clone.
        before_walk: (i64, i64),
    },
}

impl Origin<'_> {
    fn root(&self) -> &Entry {
        match self {
            Self::Snapshot(_, object) => &object.root,
            Self::Project { manifest, .. } => &manifest.root,
        }
    }
}

/// No file changed before this time.
const NEVER: (i64, i64) = (i64::MIN, 0);

/// The data that calve needs to dress trees.
pub(super) struct Dressing<'a> {
    pub(super) store: &'a Store,
    pub(super) origin: Origin<'a>,
    /// The snapshot's tree, if it is in memory. So it is not read again.
    pub(super) known: Option<&'a Manifest>,
    pub(super) how: Outfit<'a>,
    pub(super) operation: &'a Running,
    /// git's registrations of the trees. `None`: they are made with the rest of the dress.
    pub(super) registered: Option<Vec<Registration>>,
}

/// What trees get beside their files.
pub(super) struct Outfit<'a> {
    pub(super) git: GitPlan,
    pub(super) paths: PathMode,
    /// The worktree that they are forks of. `None`: they come from the project.
    pub(super) source: Option<&'a Worktree>,
}

/// A worktree that is started alone is sealed if git's index has as many entries as this. The seal
/// takes one more commit of the filesystem, which costs more than a look at fewer files.
const SEALED_LEAST_ENTRIES: u64 = 10_000;

/// The trees that can be sealed, and git's registrations of them.
fn sealable<'t>(
    arrived: &'t [Arrived],
    dressed: &'t [Dressed],
) -> impl Iterator<Item = (&'t Arrived, PathBuf)> {
    let least_entries = if arrived.len() == 1 { SEALED_LEAST_ENTRIES } else { 0 };
    arrived.iter().zip(dressed).filter_map(move |(tree, (git, _))| {
        let GitOutcome::Linked(linked) = git else { return None };
        // The repositories of submodules are outside of the tree.
        let can_be = linked.submodules == 0
            && linked.ready_index_entries >= least_entries
            && seal::is_subvolume(tree.stage.dir());
        can_be.then(|| git::leads_to(&tree.stage.path()).ok().map(|folder| (tree, folder)))?
    })
}

impl Dressing<'_> {
    /// Gives the entries that were dressed an access time behind their last change. Otherwise the
    /// first command that reads them would break the worktree's seal (`relatime`, mount(8)).
    pub(super) fn prepare_seals(&self, arrived: &[Arrived], dressed: &[Dressed]) {
        // A minute is more than it takes to set it in all trees.
        let last_access = Timespec { tv_sec: clock::now().0.saturating_add(60), tv_nsec: 0 };
        let last_modification = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT as _ };
        let times = Timestamps { last_access, last_modification };
        for (Arrived { stage, .. }, _) in sealable(arrived, dressed) {
            let root = stage.dir();
            for path in [".", GIT] {
                // A seal that is broken without a cause costs a look.
                let _ = fs::utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW);
            }
        }
    }

    /// Seals the linked worktrees that are subvolumes. They were dressed and flushed, and no other
    /// process knows their trees. Without a seal, calve looks at the tree.
    pub(super) fn seal(&self, rows: &[WorktreeRow], arrived: &[Arrived], dressed: &[Dressed]) {
        // The trees of one start are snapshots of one subvolume.
        let content = match self.origin {
            Origin::Snapshot(id, _) => id.to_string(),
            Origin::Project { .. } => {
                format!("start-{}", rows.first().map_or("", |row| row.token.as_str()))
            }
        };
        for (Arrived { stage, .. }, registration) in sealable(arrived, dressed) {
            // Several trees share a flush of the filesystem.
            if arrived.len() == 1 && sync_filesystem(stage.dir()).is_err() {
                continue;
            }
            if let Some(seal) = WorktreeSeal::of(stage.dir(), &content) {
                // A worktree without a seal is looked at.
                let _ = seal.write(&registration);
            }
        }
    }

    /// Dresses the trees that have arrived. If the store knows them, `rows` are their rows.
    pub(super) fn dress(
        &self,
        rows: Option<&[WorktreeRow]>,
        trees: &[Arrived],
        places: &[TreePlace],
    ) -> Result<Vec<Dressed>, Error> {
        let path = |at: usize| &places[at].path;
        let mut modes = Vec::with_capacity(trees.len());
        for (at, Arrived { stage, .. }) in trees.iter().enumerate() {
            let mode = open_up(stage).context(Operation::SetMetadata, || path(at))?;
            modes.push(mode);
        }
        let mut found = match self.origin {
            Origin::Snapshot(id, object) => self.store.snapshots().found(id, object)?,
            Origin::Project { found, .. } => found.clone(),
        };
        found.keep_tracked(&self.source_root()?);
        if let (Some(Arrived { stage, .. }), Some(place)) = (trees.first(), places.first()) {
            let tree = Tree { path: &stage.path(), root: stage.dir() };
            keep_living(&mut found.mentions, tree).context(Operation::Read, || &place.path)?;
        }
        let (mut mentions, mut roots) = (Vec::with_capacity(trees.len()), Vec::new());
        for (at, Arrived { stage, .. }) in trees.iter().enumerate() {
            let done = self.relocate(&found, rows.map(|rows| &rows[at]), stage, path(at))?;
            mentions.push(done.0);
            roots.push(done.1);
        }
        let outcomes: Vec<GitOutcome> = match &self.how.git {
            GitPlan::Copy(repository, _) => {
                let reports = self.copy(repository, trees, places)?;
                for (at, Arrived { stage, .. }) in trees.iter().enumerate() {
                    let led = self.lead_copies(rows.map(|rows| &rows[at]), stage, path(at))?;
                    mentions[at].retain(|mention| !led.contains(&mention.path));
                }
                reports.into_iter().map(|it| GitOutcome::Copied(Box::new(it))).collect()
            }
            GitPlan::Link(links) => {
                let linked = self.link(links, rows.unwrap_or_default(), trees, places)?;
                let linked =
                    linked.into_iter().zip(&mut mentions).map(|((linked, led), mentions)| {
                        mentions.retain(|mention| !led.contains(&mention.path));
                        GitOutcome::Linked(linked)
                    });
                linked.collect()
            }
            GitPlan::None(why) => vec![GitOutcome::None(*why); trees.len()],
        };
        // git's part comes first: the mark is in it.
        for ((row, Arrived { stage, .. }), roots) in
            rows.into_iter().flatten().zip(trees).zip(roots)
        {
            let registry = self.store.registry();
            let mark = || -> io::Result<()> {
                registry.note_tree(row, stage.dir(), roots.as_ref())?;
                registry.mark(row, &stage.path())
            };
            mark().context(Operation::Mark, || path_from(&row.path))?;
        }
        let times = wanted(self.origin.root()).timestamps();
        for (at, (Arrived { stage, .. }, mode)) in trees.iter().zip(modes).enumerate() {
            let close = || -> io::Result<()> {
                if let Some(mode) = mode {
                    meta::give_mode(stage.dir(), mode)?;
                }
                Ok(meta::give_times(stage.dir(), &times)?)
            };
            close().context(Operation::SetMetadata, || path(at))?;
        }
        Ok(outcomes.into_iter().zip(mentions).collect())
    }

    /// Gives the tree files that name its own root. Returns them, and which root that is.
    pub(super) fn relocate(
        &self,
        found: &Found,
        row: Option<&WorktreeRow>,
        stage: &Stage,
        path: &Path,
    ) -> Result<(Vec<PathMention>, Option<Relocation>), Error> {
        if self.how.paths == PathMode::Keep {
            if let Some(row) = row {
                self.store.registry().keep_paths(row).context(Operation::Mark, || path)?;
            }
            return Ok((all_kept(found), None));
        }
        let Some(roots) = Relocation::between(&found.roots, path) else {
            return Ok((Vec::new(), None));
        };
        let relocate = Relocate {
            tree: Tree { path: &stage.path(), root: stage.dir() },
            roots: &roots,
            before: None,
            whose: Whose::Staged,
            at: &|path| Some(path.to_owned()),
            others: &|_| None,
        };
        let done = relocate.run(&found.mentions).context(Operation::RewritePaths, || path)?;
        if let Some(row) = row {
            let rewritten = done.iter().filter(|mention| mention.kept.is_none());
            let rewritten: Vec<&Path> = rewritten.map(|mention| mention.path.as_path()).collect();
            if !rewritten.is_empty() {
                self.mend_index(row, stage, &rewritten).context(Operation::WriteIndex, || path)?;
            }
        }
        Ok((done, Some(roots)))
    }

    /// Lets the worktree's index vouch for files that were rewritten.
    fn mend_index(&self, row: &WorktreeRow, stage: &Stage, paths: &[&Path]) -> io::Result<()> {
        let (registry, other) = (self.store.registry(), io::Error::other::<Error>);
        // calve names the contents first if the project has such files.
        let Origin::Snapshot(id, object) = self.origin else { return Ok(()) };
        let manifest = self.manifest(id, object).map_err(other)?;
        let Some(mut index) = registry.index(&row.token, id, &manifest) else {
            return Ok(());
        };
        for path in paths.iter().flat_map(|path| path.ancestors().take(2)) {
            if path.as_os_str().is_empty() {
                // The root changes once more.
                continue;
            }
            let found = meta_at(stage.dir(), path)?;
            if let Some(number) = number_at(&manifest, path) {
                index.stats[number as usize] = Stat::of(&found);
            }
        }
        let stamp = self.store.clock().past_all(index.stats.iter()).map_err(other)?;
        let filesystems = self.operation.filesystems();
        index.stamp = stamp_of(stage.dir(), Some(stage.parent()), stamp, filesystems);
        registry.write_index(&row.token, &index).map_err(other)
    }

    /// Lets git register each tree, and makes its index ready. Returns also the files `.git` of
    /// submodules that lead to repositories of the worktree.
    fn link(
        &self,
        links: &NewLinks,
        rows: &[WorktreeRow],
        arrived: &[Arrived],
        places: &[TreePlace],
    ) -> Result<Vec<(LinkedWorktree, Vec<PathBuf>)>, Error> {
        let registered = match &self.registered {
            Some(registered) => Cow::Borrowed(registered.as_slice()),
            None => Cow::Owned(links.register(self.store, rows, self.operation)?),
        };
        let submodules = self.files_of_submodules(links)?;
        // No index that is kept is that of a base, or of a tree in which submodules lead elsewhere.
        let may_be_kept = links.base.is_none() && submodules.is_empty();
        let is_snapshot = |tree: &Arrived| matches!(tree.git_index, ArrivedGitIndex::OfReadyTree);
        let place = match self.origin {
            Origin::Snapshot(id, _) if may_be_kept && arrived.iter().all(is_snapshot) => {
                ReadyGitIndex::of(self.store, id)
            }
            _ => None,
        };
        let snapshots = OnceCell::new();
        let mut made = Vec::with_capacity(arrived.len());
        let trees = rows.iter().zip(&links.links).zip(arrived).zip(places).zip(registered.iter());
        for (at, ((((row, link), tree), tree_place), registration)) in trees.enumerate() {
            let stage = &tree.stage;
            let lead = || -> io::Result<()> { NewLinks::lead(registration, stage.dir()) };
            lead().context(Operation::Link, || &tree_place.path)?;
            let (modules, led) =
                self.connect(links, row, (stage, &tree_place.path), registration, &submodules)?;
            let failed = |error| Error::io(Operation::Link, &tree_place.path, error);
            let ready_index_entries = if link.registered.is_some() {
                0
            } else if row.state != State::Starting {
                links.read_index(registration).map_err(failed)?;
                0
            } else if let Some(base) = &links.base {
                NewLinks::give_index_of(registration, base).map_err(failed)?;
                // The base's own index knows of the files; the snapshots know of submodules.
                let snapshots = match modules.is_empty() {
                    true => None,
                    false => self.snapshots(&snapshots)?,
                };
                let known = snapshots.map(|them| KnownWorktree::of(them, self.store, row));
                let base = (Source::Snapshot(&**base), base.stamp());
                self.ready_indexes(Some(base), known.as_ref(), stage, (registration, &modules))
                    .map_err(failed)?
            } else {
                let of_ready_tree = place.as_ref().and_then(ReadyGitIndex::kept);
                let kept = match &tree.git_index {
                    ArrivedGitIndex::Kept(kept) if may_be_kept => Some(kept),
                    _ => of_ready_tree.as_ref(),
                };
                let given = links.give_index(registration, kept).map_err(failed)?;
                if !links.is_at_head(link).map_err(|failure| failed(failure.into()))? {
                    // The project went to another commit, and the index may be that commit's.
                    links.read_index(registration).map_err(failed)?;
                    0
                } else if let GivenIndex::Ready(entries) = given {
                    entries
                } else {
                    let known = self.snapshots(&snapshots)?;
                    let known = known.map(|them| KnownWorktree::of(them, self.store, row));
                    let clones = self.clones(at);
                    let source = match self.origin {
                        Origin::Project { root, before_walk, .. } => {
                            let clones = clones.as_ref().map(|clones| -> &dyn Vouches { clones });
                            Some((Source::Tree(root, clones), before_walk))
                        }
                        Origin::Snapshot(..) => Some(match &known {
                            Some(known) => known.source(),
                            None => (Source::Snapshot(&Nobody), NEVER),
                        }),
                    };
                    let entries = self
                        .ready_indexes(source, known.as_ref(), stage, (registration, &modules))
                        .map_err(failed)?;
                    if let (Some(place), GivenIndex::OfProject(Some(of_project))) = (&place, given)
                        && entries > 0
                    {
                        place.keep(&of_project, &registration.folder.join("index"), entries);
                    }
                    entries
                }
            };
            let Linked { commit, branch, .. } = link.linked.clone();
            let submodules = modules.len() as u64;
            let linked = LinkedWorktree { branch, commit, ready_index_entries, submodules };
            made.push((linked, led));
        }
        Ok(made)
    }

    /// What the index of a tree says of its files, if their contents have no names yet.
    fn clones(&self, tree: usize) -> Option<Clones<'_>> {
        let Origin::Project { manifest, trees, .. } = self.origin else { return None };
        let (_, index) = trees.get(tree).or(trees.first())?;
        Some(Clones { manifest, index })
    }

    /// The root of the tree that the trees come from.
    fn source_root(&self) -> Result<PathBuf, Error> {
        match self.how.source {
            Some(worktree) => Ok(worktree.path.clone()),
            None => self.store.project(),
        }
    }

    /// The name under which the store knows that tree.
    fn source_row(&self) -> &str {
        self.how.source.map_or(PROJECT, Worktree::name)
    }

    fn manifest(&self, id: SnapshotId, object: &SnapshotObject) -> Result<Manifest, Error> {
        self.store.catalog().manifest_like(id, object, self.known.as_slice())
    }

    /// The snapshots by which the store knows which files have the content that git's index means.
    fn snapshots<'s>(
        &self,
        read: &'s OnceCell<Option<Snapshots>>,
    ) -> Result<Option<&'s Snapshots>, Error> {
        if read.get().is_none() {
            let found = match self.origin {
                Origin::Snapshot(id, object) => Snapshots::of(
                    self.source_row(),
                    self.store,
                    (id, object),
                    self.known.as_slice(),
                )?,
                Origin::Project { .. } => None,
            };
            let _ = read.set(found);
        }
        Ok(read.get().and_then(Option::as_ref))
    }

    /// Makes the index of a linked worktree ready, and those of its submodules. Returns how many
    /// entries record its files.
    fn ready_indexes<'t>(
        &'t self,
        source: Option<(Source<'t>, (i64, i64))>,
        known: Option<&'t KnownWorktree<'t>>,
        stage: &'t Stage,
        (registration, modules): (&Registration, &[Module]),
    ) -> io::Result<u64> {
        let mut ready = 0;
        if let Some(known) = known {
            let trees = self.trees(known.source(), stage);
            for module in modules {
                let git = fs::open(&module.repository, DIR_FLAGS, Mode::empty())?;
                ready += git_index::make_ready_elsewhere(&trees, &git, &module.folder);
            }
        }
        let Some(source) = source else { return Ok(ready) };
        let git = fs::open(&registration.folder, DIR_FLAGS, Mode::empty())?;
        let trees = self.trees(source, stage);
        Ok(ready + git_index::make_ready_elsewhere(&trees, &git, Path::new("")))
    }

    fn trees<'t>(
        &'t self,
        (source, before_walk): (Source<'t>, (i64, i64)),
        stage: &'t Stage,
    ) -> TreeAndClone<'t> {
        TreeAndClone {
            source,
            clone: stage.dir(),
            stage: None,
            before_walk,
            merged_since: None,
            jobs: self.operation.jobs(),
            stopped: &|| false,
        }
    }

    /// Copies the repository into each tree, and makes its index ready.
    fn copy(
        &self,
        repository: &Path,
        trees: &[Arrived],
        places: &[TreePlace],
    ) -> Result<Vec<DestinationReport>, Error> {
        let inside: Vec<PathBuf> = trees.iter().map(|tree| tree.stage.path().join(GIT)).collect();
        let store = self.store.path().strip_prefix(repository).ok();
        let mut reports = repository::copy(repository, &inside, store, self.operation)?;
        self.ready(trees, &mut reports)?;
        for (report, place) in reports.iter_mut().zip(places) {
            report.path = place.path.join(GIT);
        }
        Ok(reports)
    }

    /// Makes the indexes of git record the files of their tree.
    fn ready(&self, trees: &[Arrived], reports: &mut [DestinationReport]) -> Result<(), Error> {
        let read = OnceCell::new();
        let source = match self.origin {
            Origin::Project { root, before_walk, .. } => (Source::Tree(root, None), before_walk),
            Origin::Snapshot(..) => match self.snapshots(&read)? {
                Some(known) => (Source::Snapshot(known), known.stamp()),
                None => return Ok(()),
            },
        };
        for (tree, report) in trees.iter().zip(reports) {
            let trees = self.trees(source, &tree.stage);
            report.ready_index_entries = git_index::make_ready(&trees, &[PathBuf::new()]);
        }
        Ok(())
    }
}

/// Opens a tree whose root denies access even to its owner, so that we can make files in it.
/// Returns the mode that the root must have afterwards.
fn open_up(stage: &Stage) -> io::Result<Option<Mode>> {
    let mode = Meta::of_file(stage.dir())?.permissions();
    if mode & 0o700 == 0o700 {
        return Ok(None);
    }
    meta::give_mode(stage.dir(), meta::mode(mode | 0o700))?;
    Ok(Some(meta::mode(mode)))
}

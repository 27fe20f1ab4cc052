//! Starts without reading: clones the project as it is. Its contents get their names after the
//! worktrees are published ([`unnamed`](crate::store::unnamed)).
//!
//! calve looks at each entry of the project, clones the project to all stages, and looks at each
//! entry of the stages. If both looks agree on an entry, its clone is the entry as it was at the
//! first look, or the entry has changed since and shows that. The looks read no content. Together
//! they cost about a tenth of the clone.
//!
//! If the project has a snapshot, its index vouches for the contents of some files, and calve later
//! reads only the others. calve looks at such a project by taking a snapshot that [gives
//! up](crate::store::scan::files::GivenUp) when it would read too much.
//!
//! # When calve names the contents first
//! [`may_wait`] decides. For some trees a snapshot does more than a clone: it rewrites files that
//! name the project's root, takes in databases at one moment, and leaves out entries that
//! `.calveignore` names. calve also reads the contents first if the clone is incomplete or had to
//! copy, or if names came or went in the meantime.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, Mode};

use super::dress::{Dressing, Origin, Outfit};
use super::{StartedTree, dress_and_publish};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::filesystem::{Filesystem, SharesBlocks};
use crate::reflink::imp::SOURCE_FLAGS;
use crate::reflink::sys;
use crate::report::DestinationReport;
use crate::store::at::open_at;
use crate::store::catalog::WorktreeRow;
use crate::store::git;
use crate::store::id::{BlobId, SnapshotId};
use crate::store::index::{Boot, Index, Stat};
use crate::store::layout::{GIT, IN_GIT, OWN};
use crate::store::manifest::{Manifest, os};
use crate::store::object::{Attributes, Entry, Kind};
use crate::store::paths::found::Found;
use crate::store::paths::local::Tree;
use crate::store::ready::{Arrived, TreePlace, places, seal};
use crate::store::registry::Claim;
use crate::store::scan::databases::{JOURNAL, WAL, may_be_database};
use crate::store::scan::{IGNORE_FILE, Scan};
use crate::store::snapshot::Known;
use crate::store::unnamed::{self, UNTRACED, Unnamed, look_at_all};
use crate::store::{PROJECT, Secret, Store, path_from};
use crate::tree::running::Running;
use crate::tree::staging::{Stage, stage_name};
use crate::tree::{CloneOptions, Reflink, clone_tree, listing, removal};

/// The file that makes a folder a Python environment.
const ENVIRONMENT: &[u8] = b"pyvenv.cfg";

/// The trees that calve cloned, and the entries that it saw in them.
pub(super) struct Cloned {
    arrived: Vec<Arrived>,
    manifest: Manifest,
    /// The project's snapshot. The manifest has the contents of files that were as it has them.
    base: Option<SnapshotId>,
    project: Index,
    trees: Vec<Index>,
    /// The subvolume that all stages are snapshots of, and its seal. They have one index then.
    ready: Option<(Stage, Vec<u8>)>,
    /// See [`TreeAndClone::before_walk`](crate::tree::git_index::TreeAndClone).
    before_walk: (i64, i64),
    /// The files of the project that name its root, as far as their names say.
    found: Found,
}

impl Cloned {
    /// The number of files in each tree, and the sum of their sizes.
    pub(super) fn files(&self) -> (u64, u64) {
        self.manifest.files()
    }

    /// The files that look like secrets.
    pub(super) fn secrets(&self) -> &[Secret] {
        &self.found.secrets
    }
}

/// Whether files can be cloned on a filesystem of this name.
pub(super) fn can_clone(filesystem: Option<&str>) -> bool {
    Filesystem::named(filesystem).shares == SharesBlocks::Usually
}

/// What decides whether contents may be named after the trees are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sights {
    bytes: u64,
    /// Entries that snapshots leave out or may have only in part.
    left_out: bool,
    /// Rules for what snapshots leave out.
    ignores: bool,
    /// Files that must name the worktree's root, and name the project's.
    environment: bool,
    /// Symbolic links for which the same holds.
    links_to_root: bool,
    /// A database of several files.
    database: bool,
    /// Files that lead git to a repository: submodules, or linked worktrees.
    submodules: bool,
}

/// Whether calve may name the contents of such a project later: that saves enough time, and the
/// clone is the same as the snapshot's tree.
fn may_wait(sights: Sights, least_bytes: u64) -> bool {
    let reads = [
        sights.left_out,
        sights.ignores,
        sights.environment,
        sights.links_to_root,
        sights.database,
        sights.submodules,
    ];
    sights.bytes >= least_bytes && !reads.contains(&true)
}

impl Sights {
    fn of(scan: &Scan, manifest: &Manifest, bytes: u64, found: &Found) -> Self {
        let mut sights = Self {
            bytes,
            left_out: !scan.skipped.is_empty(),
            ignores: false,
            environment: false,
            links_to_root: found.mentions.iter().any(|mention| mention.kind.is_known()),
            database: false,
            submodules: false,
        };
        for (place, _, entry) in manifest.entries() {
            let is_companion = |suffix: &[u8]| {
                let base = entry.name.strip_suffix(suffix);
                base.is_some_and(|base| manifest.directories[place as usize].find(base).is_some())
            };
            match &entry.kind {
                Kind::File { .. } => {
                    sights.ignores |= *entry.name == *IGNORE_FILE.to_bytes();
                    sights.submodules |= *entry.name == *GIT.as_bytes();
                    sights.environment |= *entry.name == *ENVIRONMENT;
                    sights.database |= is_companion(WAL) || is_companion(JOURNAL);
                }
                Kind::Directory(_) | Kind::Symlink { .. } | Kind::Fifo { .. } => {}
            }
        }
        sights
    }
}

/// Whether two looks saw the same names, and entries of the same kinds. Then the entries have the
/// same numbers.
fn same_names(one: &Manifest, other: &Manifest) -> bool {
    let same = |a: &Entry, b: &Entry| {
        a.name == b.name
            && match (&a.kind, &b.kind) {
                (Kind::File { .. }, Kind::File { .. })
                | (Kind::Directory(_), Kind::Directory(_))
                | (Kind::Fifo { .. }, Kind::Fifo { .. }) => true,
                (Kind::Symlink { target: a, .. }, Kind::Symlink { target: b, .. }) => a == b,
                _ => false,
            }
    };
    one.count == other.count
        && one.directories.len() == other.directories.len()
        && one.directories.iter().zip(&other.directories).all(|(one, other)| {
            one.entries.len() == other.entries.len()
                && one.entries.iter().zip(&other.entries).all(|(a, b)| same(a, b))
        })
}

/// The pairs of entries of two trees with the same names, by their numbers.
fn pairs<'m>(
    one: &'m Manifest,
    other: &'m Manifest,
) -> impl Iterator<Item = (&'m Entry, &'m Entry)> {
    let entries = one.entries().map(|(_, _, entry)| entry);
    let others = other.entries().map(|(_, _, entry)| entry);
    std::iter::once((&one.root, &other.root)).chain(entries.zip(others))
}

/// The contents and attributes of files, by number, where they are known without reading.
type KnownContents = Vec<Option<(BlobId, Option<Box<Attributes>>)>>;

/// The contents that the files of `seen`, a look at the project, have in the project's snapshot, if
/// the project's index vouches for that. Also returns how many bytes the other files have.
fn known_contents(seen: &Manifest, stats: &[Stat], known: &Known) -> (KnownContents, u64) {
    let (Some((_, _, base)), Some(index)) = (&known.base, &known.index) else {
        return (Vec::new(), seen.files().1);
    };
    if index.boot != Boot::this() {
        return (Vec::new(), seen.files().1);
    }
    let mut contents: KnownContents = vec![None; seen.count as usize];
    // The place that each directory has in the base.
    let mut places = vec![None; seen.directories.len()];
    if let Some(root) = places.first_mut() {
        *root = Some(0);
    }
    let mut unknown: u64 = 0;
    for (at, directory) in seen.directories.iter().enumerate() {
        let was = places[at].and_then(|place: u32| base.directories.get(place as usize));
        for (number, entry) in (directory.first..).zip(&directory.entries) {
            let Kind::File { size, .. } = entry.kind else { continue };
            let is_it = |was: &&(u32, &Entry)| {
                let stat = index.stats.get(was.0 as usize);
                stat.is_some_and(|stat| stat.changed < index.stamp)
                    && stat == stats.get(number as usize)
                    && was.1.mtime == entry.mtime
            };
            let was = was.and_then(|was| {
                let slot = was.find(&entry.name)?;
                Some((was.first + slot, &was.entries[slot as usize]))
            });
            match was.as_ref().filter(is_it).map(|(_, was)| (&was.kind, &was.attributes)) {
                Some((Kind::File { size: same, blob, .. }, attributes)) if *same == size => {
                    contents[number as usize] = Some((*blob, attributes.clone()));
                }
                _ => unknown = unknown.saturating_add(size),
            }
        }
        for (slot, place) in &directory.children {
            let name = &directory.entries[*slot as usize].name;
            places[*place as usize] = was.and_then(|was| was.child(was.find(name)?));
        }
    }
    (contents, unknown)
}

/// Gives the files of the clone the contents that are known of the project's, where both agree.
fn take_over(clone: &mut Manifest, contents: KnownContents, agree: &[bool]) {
    if contents.is_empty() {
        return;
    }
    let mut contents = contents.into_iter().zip(agree).skip(1);
    let entries = clone.directories.iter_mut().flat_map(|directory| directory.entries.iter_mut());
    for entry in entries {
        if let (Some((Some((known, attributes)), true)), Kind::File { blob, .. }) =
            (contents.next(), &mut entry.kind)
        {
            *blob = known;
            entry.attributes = attributes;
        }
    }
}

/// Whether the size and the time of an entry are the same in both.
fn same_state(a: &Entry, b: &Entry) -> bool {
    let is_link = matches!(a.kind, Kind::Symlink { .. });
    a.same_content(b) && (a.mtime == b.mtime || is_link) || a.is_directory() && a.mtime == b.mtime
}

/// Whether a worktree is inside the project.
fn has_inside(rows: &[WorktreeRow], project: &Path) -> bool {
    let is_inside =
        |row: &WorktreeRow| row.name != PROJECT && path_from(&row.path).starts_with(project);
    rows.iter().any(is_inside)
        || git::worktrees_inside(project).is_ok_and(|inside| !inside.is_empty())
}

/// Whether a clone of the project leaves the store out.
fn is_aside(store: &Path, project: &Path) -> bool {
    let in_git = store.starts_with(project.join(GIT));
    !store.starts_with(project) || store == project.join(OWN) || in_git
}

/// Clones the project to a stage at each of `places`. `None` if the contents must be named
/// first: see the module; or if `may_clone` says so of the files that look like secrets.
///
/// # Errors
/// [`ErrorKind::Cancelled`], and those of a look at the project. Nothing is left behind.
pub(super) fn clone_unnamed(
    store: &Store,
    places: &[TreePlace],
    least_bytes: u64,
    may_clone: impl Fn(&[Secret]) -> bool,
    operation: &Running,
) -> Result<Option<Cloned>, Error> {
    let project = store.project()?;
    let rows = store.catalog().worktrees()?;
    let filesystem = sys::filesystem_name(&project);
    let is_beside = |place: &TreePlace| {
        !place.parent.starts_with(&project) && sys::filesystem_name(&place.parent) == filesystem
    };
    if !places.iter().all(is_beside)
        || !is_aside(store.path(), &project)
        || store.has_unnamed_contents()?
        || has_inside(&rows, &project)
    {
        return Ok(None);
    }
    let row = rows.into_iter().find(|row| row.name == PROJECT);
    let Some(row) = row else { return Ok(None) };
    let (before_walk, stamp) = (listing::now(), store.clock().now()?);
    let mut before = look_at_all(store, &project, None, stamp, &operation.uncounted())?;
    let Some(first) = before.manifest.take() else { return Ok(None) };
    let known = Known::if_sound(store, row)?;
    let base = known.base.as_ref().map(|(id, ..)| *id);
    if let Some((id, ..)) = &known.base
        && store.snapshots().noted_found(*id)?.is_none_or(|found| !found.mentions.is_empty())
    {
        return Ok(None);
    }
    let (contents, unknown) = known_contents(&first, &before.stats, &known);
    drop(known);
    let root = super::super::open_dir(&project)?;
    let tree = Tree { path: &project, root: &root };
    let found = Found::first(tree, &first).context(Operation::Read, || &project)?;
    let sights = Sights::of(&before, &first, unknown, &found);
    if !may_wait(sights, least_bytes) || !may_clone(&found.secrets) {
        return Ok(None);
    }
    // It flushes the disk. After the clone that would take the clone's time once more.
    let files = first.files().0;
    operation.expect(files.saturating_mul(places.len() as u64));
    let ready = match Filesystem::named(filesystem.as_deref()).has_subvolumes {
        true => clone_into_subvolume(store, &project, operation)?,
        false => None,
    };
    let mut arrived = Vec::new();
    if ready.is_none() {
        let cloned = clone_into_stages(&project, places, false, operation)?;
        let Some(cloned) = cloned else { return Ok(None) };
        arrived = cloned;
    }
    let stages: Vec<&Stage> = ready.iter().chain(arrived.iter().map(|tree| &tree.stage)).collect();
    let seen = seen_alike(store, &stages, &first, stamp, operation)?;
    let Some((mut manifest, trees)) = seen else { return Ok(None) };
    let agree: Vec<bool> = pairs(&first, &manifest).map(|(a, b)| same_state(a, b)).collect();
    if stages.first().is_some_and(|it| has_torn_database(it, &manifest, &agree)) {
        return Ok(None);
    }
    let mut sealed = None;
    if let Some(ready) = ready {
        let Ok(seal) = seal::of(ready.dir()) else { return Ok(None) };
        for place in places {
            // The place may be in another btrfs. The seal decides after the snapshot.
            match place.snapshot_of(ready.dir()) {
                Ok(stage) if seal::holds(&seal, ready.dir()) => {
                    arrived.push(Arrived::new(stage, place.snapshot_report()));
                }
                _ => return Ok(None),
            }
        }
        operation.files_done(files.saturating_mul(places.len() as u64 - 1));
        sealed = Some((ready, seal));
    }
    // Nobody else has its directories then, so they are not copied.
    drop(first);
    take_over(&mut manifest, contents, &agree);
    let traced = |(stat, agrees): (Stat, &bool)| if *agrees { stat } else { UNTRACED };
    let stats = before.stats.into_iter().zip(&agree).map(traced).collect();
    let project = Unnamed::index(Boot::this(), stamp, stats);
    let ready = sealed;
    Ok(Some(Cloned { arrived, manifest, base, project, trees, ready, before_walk, found }))
}

/// The tree in these stages, and their indexes. `None` if they differ in more than what somebody
/// may have changed in the project since `first`, a look at it.
fn seen_alike(
    store: &Store,
    stages: &[&Stage],
    first: &Manifest,
    stamp: (i64, u32),
    operation: &Running,
) -> Result<Option<(Manifest, Vec<Index>)>, Error> {
    let (mut manifest, mut trees) = (None, Vec::with_capacity(stages.len()));
    for stage in stages {
        let against = manifest.as_ref().unwrap_or(first);
        let (path, uncounted) = (stage.path(), operation.uncounted());
        let looked = look_at_all(store, &path, Some(against), stamp, &uncounted)?;
        let Some(seen) = looked.manifest.filter(|_| looked.skipped.is_empty()) else {
            return Ok(None);
        };
        if !same_names(against, &seen)
            || !pairs(against, &seen).all(|(a, b)| a.same_metadata(b))
            || manifest.is_some() && !pairs(against, &seen).all(|(a, b)| same_state(a, b))
        {
            return Ok(None);
        }
        let stamp = store.clock().past_all(looked.stats.iter())?;
        trees.push(Unnamed::index(Boot::this(), stamp, looked.stats));
        manifest.get_or_insert(seen);
    }
    Ok(manifest.map(|manifest| (manifest, trees)))
}

/// Clones the project to a new subvolume among the ready trees. `None` if there can be none, or
/// if the project could not be cloned whole.
fn clone_into_subvolume(
    store: &Store,
    project: &Path,
    operation: &Running,
) -> Result<Option<Stage>, Error> {
    let path = store.layout().ready_trees().join(stage_name());
    let place = places(std::iter::once(path), Operation::MakeReadyTree)?;
    let cloned = clone_into_stages(project, &place, true, operation)?;
    Ok(cloned.and_then(|mut trees| trees.pop()).map(|tree| tree.stage))
}

/// Clones the project to new stages. `None` if it could not be cloned whole.
fn clone_into_stages(
    project: &Path,
    places: &[TreePlace],
    subvolumes: bool,
    operation: &Running,
) -> Result<Option<Vec<Arrived>>, Error> {
    // A stage's name, so that it is swept if this process dies.
    let names: Vec<String> = places.iter().map(|_| stage_name()).collect();
    let paths: Vec<_> =
        places.iter().zip(&names).map(|(place, name)| place.parent.join(name)).collect();
    let options = operation.counted_clone_options().reflink(Reflink::Always);
    let mut options = CloneOptions { subvolumes, ..options };
    for own in [OWN, ".calve-dropped-*"] {
        options = options.exclude(own);
    }
    if project.join(GIT).symlink_metadata().is_ok() {
        options = options.exclude("/.git").exclude("/.jj");
    }
    let root = project.to_owned();
    options = options.exclude_if(move |path| {
        path.ends_with(IN_GIT)
            && path.parent().is_some_and(|folder| git::is_repository(&root.join(folder)))
    });
    let report = match clone_tree(project, &paths, &options) {
        Ok(report) => report,
        Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
        // To take the project in by the other way has an error of its own, or none.
        Err(_) => return Ok(None),
    };
    let mut stages = Vec::with_capacity(places.len());
    let adopted = places.iter().zip(&names).try_for_each(|(place, name)| -> io::Result<()> {
        stages.push(Stage::new(Arc::clone(&place.dir), &place.parent, |dir, stage| {
            Ok(fs::renameat(dir, name.as_str(), dir, stage)?)
        })?);
        Ok(())
    });
    if adopted.is_err() {
        for (place, name) in places.iter().zip(names).skip(stages.len()) {
            let name = CString::new(name).unwrap_or_default();
            let _ = removal::remove(&place.dir, &name);
        }
        return Ok(None);
    }
    let is_whole =
        |report: &DestinationReport| report.skipped.is_empty() && report.copied_files == 0;
    if !report.destinations.iter().all(is_whole) {
        return Ok(None);
    }
    let reports = report.destinations.into_iter().zip(places);
    let reports = reports.map(|(it, place)| DestinationReport { path: place.path.clone(), ..it });
    let arrived = stages.into_iter().zip(reports);
    Ok(Some(arrived.map(|(stage, report)| Arrived::new(stage, report)).collect()))
}

/// Whether somebody wrote to a database while calve cloned the project. Then the clones of the
/// database and of its companions may be of two moments.
fn has_torn_database(stage: &Stage, manifest: &Manifest, agree: &[bool]) -> bool {
    let mut entries = (1..).zip(manifest.entries());
    entries.any(|(number, (place, _, entry)): (usize, _)| {
        let entry: &Entry = entry;
        if agree.get(number) != Some(&false) || !matches!(entry.kind, Kind::File { .. }) {
            return false;
        }
        let look = || -> io::Result<bool> {
            let dir = open_at(stage.dir(), &manifest.path(place))?;
            let file = fs::openat(&dir, os(&entry.name), SOURCE_FLAGS, Mode::empty())?;
            may_be_database(&file)
        };
        look().unwrap_or(true)
    })
}

/// Makes the trees of the claimed rows worktrees, whose contents are named later. The caller
/// shares the store.
pub(super) fn publish_unnamed(
    store: &Store,
    cloned: Cloned,
    places: &[TreePlace],
    how: Outfit<'_>,
    operation: &Running,
    claim: Claim<'_>,
) -> Result<Vec<StartedTree>, Error> {
    let Cloned { arrived, manifest, base, project, trees, ready, before_walk, found } = cloned;
    let path = store.project()?;
    let root = super::super::open_dir(&path)?;
    let mut tokens: Vec<Vec<String>> =
        claim.rows().iter().map(|row| vec![row.token.clone()]).collect();
    let (mut ready, seal) = ready.unzip();
    if ready.is_some() {
        tokens = vec![tokens.concat()];
    }
    let trees = tokens.into_iter().zip(trees).collect();
    let seal = seal.unwrap_or_default();
    let unnamed = Unnamed { manifest, base, project, trees, seal };
    let origin = Origin::Project {
        root: &root,
        found: &found,
        manifest: &unnamed.manifest,
        trees: &unnamed.trees,
        before_walk,
    };
    let dressing = Dressing { store, origin, known: None, how, operation, registered: None };
    let keep = |ready: &mut Stage| -> Result<(), Error> {
        let path = store.layout().unnamed_tree(unnamed.token());
        let name = path.file_name().unwrap_or_default().as_bytes();
        let name = CString::new(name).map_err(io::Error::from);
        name.and_then(|name| ready.publish(&name)).context(Operation::MakeReadyTree, || path)
    };
    unnamed
        .keep(store.layout())
        .and_then(|()| ready.as_mut().map_or(Ok(()), keep))
        .and_then(|()| dress_and_publish(store, &dressing, arrived, places, claim))
        .inspect_err(|_| unnamed::remove(store, unnamed.token()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_wait_only_if_it_is_worth_it_and_a_clone_is_what_a_snapshot_would_give() {
        let plain = Sights {
            bytes: 100,
            left_out: false,
            ignores: false,
            environment: false,
            links_to_root: false,
            database: false,
            submodules: false,
        };
        for (what, sights, least_bytes, expected) in [
            ("as large as it must be", plain, 100, true),
            ("too small", plain, 101, false),
            ("empty, and nothing is too small", Sights { bytes: 0, ..plain }, 0, true),
            ("something is left out", Sights { left_out: true, ..plain }, 0, false),
            ("something may be left out", Sights { ignores: true, ..plain }, 0, false),
            ("an environment", Sights { environment: true, ..plain }, 0, false),
            ("a link to the root", Sights { links_to_root: true, ..plain }, 0, false),
            ("a submodule", Sights { submodules: true, ..plain }, 0, false),
            ("a database", Sights { database: true, ..plain }, 0, false),
        ] {
            assert_eq!(may_wait(sights, least_bytes), expected, "{what}");
        }
    }

    #[test]
    fn entries_agree_if_neither_content_nor_time_moved() {
        let file = |size, seconds| Entry {
            name: b"name"[..].into(),
            mode: 0o644,
            uid: 1,
            gid: 2,
            mtime: (seconds, 5).into(),
            attributes: None,
            kind: Kind::File { size, link: 0, blob: crate::store::scan::UNKNOWN },
        };
        let link = |target: &[u8], seconds| Entry {
            kind: Kind::Symlink { target: target.into(), link: 0 },
            ..file(0, seconds)
        };
        let folder = |seconds| Entry {
            kind: Kind::Directory(crate::store::manifest::NO_ID),
            ..file(0, seconds)
        };
        for (what, a, b, expected) in [
            ("the same", file(1, 1), file(1, 1), true),
            ("another size", file(1, 1), file(2, 1), false),
            ("another time", file(1, 1), file(1, 2), false),
            ("another kind", file(1, 1), link(b"a", 1), false),
            ("a link", link(b"a", 1), link(b"a", 2), true),
            ("another target", link(b"a", 1), link(b"b", 1), false),
            ("a folder", folder(1), folder(1), true),
            ("a folder whose names changed", folder(1), folder(2), false),
        ] {
            assert_eq!(same_state(&a, &b), expected, "{what}");
        }
    }
}

//! Decides what an update brings into a worktree: compares the worktree's base snapshot, the
//! project, and the worktree as it is. A decision changes nothing.
//!
//! Paths that only make sense together are one group, and have one answer:
//! * A folder that a program keeps whole, such as `node_modules` or an environment of Python, is
//!   replaced whole or not at all. An installer writes all `node_modules` of a workspace together.
//! * A path at which one tree has a folder and another tree has a file.
//! * A SQLite database and its log.
//!
//! What the worktree did not change itself becomes as it is in the project. What it did change
//! stays. A folder that is replaced whole also arrives where the worktree has nothing at all: then
//! nothing can be lost, and so a folder comes back that was deleted to save space.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::macros::named;
use crate::store::delta::{Counts, Delta, compare};
use crate::store::manifest::Manifest;
use crate::store::object::Entry;
use crate::store::paths::found::entry;

/// Folders with these names are replaced whole if git ignores them: their program has a manifest of
/// what is in them.
const WHOLE_NAMES: [&str; 12] = [
    NODE_MODULES,
    ".dart_tool",
    ".gradle",
    ".next",
    ".nuxt",
    ".svelte-kit",
    ".terraform",
    "Pods",
    "_build",
    "bower_components",
    "elm-stuff",
    "vendor",
];
/// Folders that have an entry of this name are replaced whole, whatever their name is: environments
/// of Python and conda, `target` of cargo, caches, build folders of CMake and Meson, repositories,
/// and those of databases: of servers, and of LevelDB and RocksDB (`CURRENT`).
const WHOLE_MARKS: [&str; 11] = [
    ".git",
    CARGO_MARK,
    "CACHEDIR.TAG",
    "CMakeCache.txt",
    "CURRENT",
    "PG_VERSION",
    "WiredTiger",
    "conda-meta",
    "ibdata1",
    "meson-private",
    ENVIRONMENT_MARK,
];
/// cargo writes it anew when it asks the compiler something.
const CARGO_MARK: &str = ".rustc_info.json";
const NODE_MODULES: &str = "node_modules";
const ENVIRONMENT_MARK: &str = "pyvenv.cfg";
/// Folders with these names have dependencies: no compiler made them of the project's sources.
const DEPENDENCIES: [&str; 4] = [NODE_MODULES, "Pods", "bower_components", "vendor"];
/// Caches inside of such folders, which programs fill while they run. What is in one says nothing
/// about the rest of the folder.
const CACHES: [&str; 5] = [".cache", CARGO_MARK, ".vite", ".vite-temp", "__pycache__"];
/// The endings of the files that belong to a SQLite database.
const OF_DATABASE: [&[u8]; 3] = [b"-journal", b"-shm", b"-wal"];

/// The database that a file belongs to by its name. Every other file is one by itself.
fn database_of(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let database = OF_DATABASE.iter().find_map(|end| bytes.strip_suffix(*end));
    OsStr::from_bytes(database.unwrap_or(bytes)).into()
}

/// The files that are one database with a file, if it is one of a database at all.
pub(super) fn with_companions(path: &Path) -> impl Iterator<Item = PathBuf> {
    let database = database_of(path).into_os_string();
    let ends = std::iter::once(&b""[..]).chain(OF_DATABASE);
    ends.map(move |end| {
        [&database, OsStr::from_bytes(end)].into_iter().collect::<OsString>().into()
    })
}

named! {
    /// Why something stays as the worktree has it, although the project has it otherwise.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum StayedReason {
        /// The worktree changed it, too.
        Changed = "changed",
        /// The worktree deleted it.
        Deleted = "deleted",
        /// It has files that no snapshot has, such as sockets and what `.calveignore` leaves out.
        Unseen = "unseen",
        /// A process works in it, or has it open for writing.
        Used = "used",
        /// git tracks files in it.
        Tracked = "tracked",
        /// It looks like a secret, and secrets are not to come along.
        Secret = "secret",
    }
}

/// Something that an update left as the worktree has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct StayedPath {
    /// A file, or a folder with all that is in it; from the worktree's root.
    pub path: PathBuf,
    /// Why it stays.
    pub why: StayedReason,
}

/// The paths that an update may touch.
#[derive(Debug, Default)]
pub(super) struct UpdateScope {
    /// Files, and folders with all that is in them. `None`: the whole tree.
    pub(super) roots: Option<BTreeSet<PathBuf>>,
    /// Files that git tracks, in the worktree or in the project.
    pub(super) tracked: BTreeSet<Vec<u8>>,
}

impl UpdateScope {
    fn has(&self, path: &Path) -> bool {
        let is_tracked = |it: &Path| self.tracked.contains(it.as_os_str().as_bytes());
        !path.as_os_str().is_empty()
            && self.roots.as_ref().is_none_or(|roots| path.ancestors().any(|it| roots.contains(it)))
            && (self.tracked.is_empty() || !path.ancestors().any(is_tracked))
    }

    fn tracks_in(&self, folder: &Path) -> bool {
        let within = [folder.as_os_str().as_bytes(), b"/"].concat();
        self.tracked.range(within.clone()..).next().is_some_and(|path| path.starts_with(&within))
    }
}

/// The three trees.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a> {
    /// What the worktree had from the project last.
    pub(super) base: &'a Manifest,
    /// The worktree's own base, if that is another tree.
    pub(super) own: Option<&'a Manifest>,
    pub(super) project: &'a Manifest,
    pub(super) worktree: &'a Manifest,
    /// Whether an update that was killed left the path as it is in the worktree.
    pub(super) is_unfinished: &'a dyn Fn(&Path) -> bool,
}

/// What an update does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct UpdateDecision {
    /// The paths at which the worktree's new base is as the project, and not as the old base.
    pub(super) brought: BTreeSet<PathBuf>,
    /// The folders that are replaced whole, and the paths in caches in them that stay as the
    /// worktree has them.
    pub(super) whole: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Sorted by path.
    pub(super) stayed: Vec<StayedPath>,
    /// Whether anything arrives that a build may have made of the project's sources.
    pub(super) brings_output: bool,
}

/// What has one answer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Whole(PathBuf),
    Paths(PathBuf),
}

/// The differences in one group.
#[derive(Default)]
struct Group {
    /// Between the base and the project.
    project: Vec<Delta>,
    /// Between the base and the worktree.
    worktree: Vec<Delta>,
    /// The folders that are replaced whole.
    folders: BTreeSet<PathBuf>,
}

/// Decides. `held` are folders that must stay, and why.
pub(super) fn decide(
    sides: Sides<'_>,
    scope: &UpdateScope,
    held: &BTreeMap<PathBuf, StayedReason>,
) -> UpdateDecision {
    let mut grouping = Grouping { sides, scope, whole: HashMap::new() };
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    let of = |base, with, counts| {
        let deltas = compare(base, with, counts).into_iter();
        deltas.filter(|delta| scope.has(&delta.path))
    };
    let project = of(sides.base, sides.project, Counts::Everything).map(|delta| (true, delta));
    let bases = [Some(sides.base), sides.own].into_iter().flatten();
    let worktree = bases
        .flat_map(|base| of(base, sides.worktree, Counts::Changes))
        .map(|delta| (false, delta));
    for (is_project, delta) in project.chain(worktree) {
        let folder = grouping.whole_above(&delta.path);
        let key = grouping.key(&delta.path, folder.as_deref());
        let group = groups.entry(key).or_default();
        group.folders.extend(folder);
        if is_project { &mut group.project } else { &mut group.worktree }.push(delta);
    }
    let mut decision = UpdateDecision::default();
    for (key, group) in groups {
        match key {
            Key::Whole(path) => decision.add_whole(path, group, sides, scope, held),
            Key::Paths(path) => decision.add_paths(path, group, sides, held),
        }
    }
    decision.stayed.sort();
    decision
}

impl UpdateDecision {
    fn add_whole(
        &mut self,
        path: PathBuf,
        group: Group,
        sides: Sides<'_>,
        scope: &UpdateScope,
        held: &BTreeMap<PathBuf, StayedReason>,
    ) {
        let is_gone = |folder: &Path| entry(sides.worktree, folder).is_none();
        let above = |path: &Path| {
            let above = |folder: &&PathBuf| path.starts_with(folder);
            group.folders.iter().find(above).cloned().unwrap_or_else(|| path.to_owned())
        };
        let (mut kept, mut is_changed, mut is_unfinished) = (BTreeSet::new(), false, false);
        for Delta { path, .. } in &group.worktree {
            let folder = above(path);
            if (sides.is_unfinished)(path) {
                is_unfinished = true;
            } else if is_in_cache(path, &folder, sides) {
                kept.insert(path.clone());
            } else {
                is_changed |= !is_gone(&folder);
            }
        }
        let is_out_of_reach =
            |folder: &PathBuf| entry(sides.project, folder).is_some() && is_blocked(folder, sides);
        let reason = match () {
            () if group.folders.iter().any(|folder| scope.tracks_in(folder)) => {
                Some(StayedReason::Tracked)
            }
            () if is_changed || group.folders.iter().any(is_out_of_reach) => {
                Some(StayedReason::Changed)
            }
            () => group.folders.iter().find_map(|folder| held.get(folder).copied()),
        };
        if let Some(why) = reason {
            if group.project.iter().any(|delta| is_other(delta, sides)) {
                self.stayed.push(StayedPath { path, why });
            }
            return;
        }
        let mut differs: BTreeSet<PathBuf> = BTreeSet::new();
        for Delta { path, .. } in group.project {
            let folder = above(&path);
            if !kept.contains(&path) || is_gone(&folder) {
                differs.insert(folder);
                self.brought.insert(path);
            }
        }
        for folder in group.folders {
            let has = |tree| entry(tree, &folder).is_some_and(Entry::is_directory);
            let comes_back = is_gone(&folder) && has(sides.project);
            if !(differs.contains(&folder) || comes_back || is_unfinished) {
                continue;
            }
            self.brings_output |= !has_dependencies(&folder, sides);
            let stays = kept.iter().filter(|path| path.starts_with(&folder) && !is_gone(&folder));
            self.whole.insert(folder.clone(), stays.cloned().collect());
        }
    }

    fn add_paths(
        &mut self,
        path: PathBuf,
        group: Group,
        sides: Sides<'_>,
        held: &BTreeMap<PathBuf, StayedReason>,
    ) {
        let is_changed = group.worktree.iter().any(|delta| !(sides.is_unfinished)(&delta.path))
            || group.project.iter().any(|delta| delta.new.is_some()) && is_blocked(&path, sides);
        let why = group.project.iter().find_map(|delta| held.get(&delta.path).copied());
        if !is_changed && why.is_none() {
            self.brings_output |= !group.project.is_empty();
            self.brought.extend(group.project.into_iter().map(|delta| delta.path));
        } else if group.project.iter().any(|delta| is_other(delta, sides)) {
            let is_gone = entry(sides.worktree, &path).is_none();
            let changed = if is_gone { StayedReason::Deleted } else { StayedReason::Changed };
            self.stayed.push(StayedPath { path, why: why.unwrap_or(changed) });
        }
    }
}

/// Whether the project changed a path otherwise than the worktree, in more than a time.
fn is_other(delta: &Delta, sides: Sides<'_>) -> bool {
    let same = |a: Option<&Entry>, b: Option<&Entry>| match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.same_content(b) && a.same_metadata(b),
        _ => false,
    };
    let project = delta.new.map(|at| sides.project.at(at));
    !same(delta.old.map(|at| sides.base.at(at)), project)
        && !same(entry(sides.worktree, &delta.path), project)
}

/// Whether something cannot arrive at a path, because the worktree deleted what was above it or has
/// something else there.
fn is_blocked(path: &Path, sides: Sides<'_>) -> bool {
    let mut above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
    above.any(|above| match entry(sides.worktree, above) {
        Some(there) => !there.is_directory(),
        None => entry(sides.base, above).is_some() && !(sides.is_unfinished)(above),
    })
}

/// Whether a path in a folder says nothing about the rest of it. cargo writes its `.d` files, which
/// name the tree's path, even if it compiles nothing.
fn is_in_cache(path: &Path, folder: &Path, sides: Sides<'_>) -> bool {
    let below = path.strip_prefix(folder).unwrap_or(path);
    below.iter().any(|name| CACHES.iter().any(|cache| name == *cache))
        || path.extension() == Some(OsStr::new("d"))
            && entry(sides.base, &folder.join(CARGO_MARK)).is_some()
}

fn has_dependencies(folder: &Path, sides: Sides<'_>) -> bool {
    let name = folder.file_name().unwrap_or_default();
    let has_mark = |tree| entry(tree, &folder.join(ENVIRONMENT_MARK)).is_some();
    DEPENDENCIES.iter().any(|it| name == *it) || has_mark(sides.base) || has_mark(sides.project)
}

/// Finds the group of a path.
struct Grouping<'a> {
    sides: Sides<'a>,
    scope: &'a UpdateScope,
    /// The folders that were asked about, and whether they are replaced whole.
    whole: HashMap<PathBuf, bool>,
}

impl Grouping<'_> {
    fn trees(&self) -> [&Manifest; 3] {
        [self.sides.base, self.sides.project, self.sides.worktree]
    }

    /// The outermost folder at a path, or above it, that is replaced whole. `None` also if one tree
    /// has a file there or above, and another one a folder.
    fn whole_above(&mut self, path: &Path) -> Option<PathBuf> {
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        let found = above.into_iter().skip(1).find(|it| self.is_clash(it) || self.is_whole(it))?;
        (!self.is_clash(found)).then(|| found.to_owned())
    }

    fn is_clash(&self, path: &Path) -> bool {
        let found = self.trees().map(|tree| entry(tree, path).map(Entry::is_directory));
        found.contains(&Some(true)) && found.contains(&Some(false))
    }

    fn is_whole(&mut self, folder: &Path) -> bool {
        if let Some(known) = self.whole.get(folder) {
            return *known;
        }
        let name = folder.file_name().unwrap_or_default();
        let is_named = WHOLE_NAMES.iter().any(|it| name == *it);
        let is_whole = self.scope.has(folder)
            && self.trees().into_iter().any(|tree| {
                entry(tree, folder).is_some_and(Entry::is_directory)
                    && (is_named
                        || WHOLE_MARKS.iter().any(|mark| entry(tree, &folder.join(mark)).is_some()))
            });
        // A path of a file would only fill the memory.
        if is_whole || self.trees().into_iter().any(|tree| is_folder(tree, folder)) {
            self.whole.insert(folder.to_owned(), is_whole);
        }
        is_whole
    }

    fn key(&self, path: &Path, whole: Option<&Path>) -> Key {
        if let Some(folder) = whole {
            return Key::Whole(self.of_workspace(folder));
        }
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        let clash = above.into_iter().skip(1).find(|path| self.is_clash(path));
        if let Some(clash) = clash {
            return Key::Paths(clash.to_owned());
        }
        Key::Paths(database_of(path))
    }

    /// The outermost `node_modules` that one installer writes together with this one.
    fn of_workspace(&self, folder: &Path) -> PathBuf {
        if folder.file_name() != Some(OsStr::new(NODE_MODULES)) {
            return folder.to_owned();
        }
        let mut above: Vec<&Path> = folder.ancestors().skip(1).collect();
        above.reverse();
        let beside = above.into_iter().map(|folder| folder.join(NODE_MODULES));
        let is_there = |it: &PathBuf| self.trees().into_iter().any(|tree| is_folder(tree, it));
        beside.into_iter().find(is_there).unwrap_or_else(|| folder.to_owned())
    }
}

pub(super) fn is_folder(tree: &Manifest, path: &Path) -> bool {
    entry(tree, path).is_some_and(Entry::is_directory)
}

#[cfg(test)]
mod tests;

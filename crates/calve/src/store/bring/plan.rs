//! Plans how a tree is brought to another snapshot: compares three trees and lists what must
//! change. A plan changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::super::at::{is_gone, last, open_parent};
use super::super::delta::{Counts, Delta, compare};
use super::super::manifest::{self, At, Manifest, ROOT, os};
use super::super::metadata::Maker;
use super::super::object::{Entry, Kind, Time};
use super::super::paths::local::Local;
use super::whole::WholeFolders;
use crate::error::IfThere as _;
use crate::reflink::meta::Meta;
use crate::reflink::rights;

mod look;

use look::look;
pub(crate) use look::{NamesOnDisk, learn, with_names_of};

/// How a plan treats changes by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// They stay. If one is in the way, nothing is done.
    Respect,
    /// They stay, but those in the way are moved aside.
    MoveAside,
    /// All of them are moved aside, so that the tree equals the target.
    Reset,
}

/// The trees that a plan compares: the base snapshot, the worktree as it is now, and the target
/// snapshot.
pub(crate) struct Trees<'a> {
    pub(crate) base: &'a Manifest,
    pub(crate) now: &'a Manifest,
    pub(crate) target: &'a Manifest,
    /// The target of an earlier switch that was interrupted.
    pub(crate) interrupted: Option<&'a Manifest>,
    /// The user who made the tree. Metadata that this user could not set counts as no difference.
    pub(crate) maker: Maker,
    /// Files whose metadata can be set without replacing the file, see [`Trees::find_in_place`].
    pub(crate) in_place: HashSet<PathBuf>,
    /// Set if files of the worktree name another root than the snapshots'.
    pub(crate) local: Option<&'a Local>,
    pub(crate) left_to_undo: Option<&'a LeftToUndo>,
}

/// Paths that an undo itself handles when the tree is at the target.
#[derive(Debug, Default)]
pub(crate) struct LeftToUndo {
    /// Paths that had been deleted by hand, and files that were moved aside and come back.
    pub(crate) files: BTreeSet<PathBuf>,
    /// The folders of these files, and folders that were in the way of the switch.
    pub(crate) folders: BTreeSet<PathBuf>,
}

/// What a switch must do. Paths are sorted, so a directory comes before its entries.
#[derive(Default)]
pub(crate) struct Moves {
    pub(crate) remove: BTreeSet<PathBuf>,
    /// Directories that the target has. Their metadata may have to be set.
    pub(crate) directories: BTreeMap<PathBuf, At>,
    pub(crate) put: BTreeMap<PathBuf, At>,
    /// Paths that were changed by hand. `conflicts` are those of them that are in the way.
    pub(crate) by_hand: HashSet<PathBuf>,
    pub(crate) conflicts: BTreeSet<PathBuf>,
    /// Paths that are in the way and that the scan did not see, because they are ignored.
    pub(crate) hidden: BTreeSet<PathBuf>,
    /// Entries that already have the target's content. The switch sets their metadata and keeps the
    /// entry.
    pub(crate) mend: BTreeMap<PathBuf, At>,
    /// Files that the switch replaces or removes and that have another name, perhaps one that
    /// stays. They are moved aside, too. So after an undo the names are one file again.
    pub(crate) linked: BTreeSet<PathBuf>,
    /// Folders that arrive whole: no other path of the plan is in one.
    pub(crate) whole: WholeFolders,
    /// Repositories of git that stay as they are.
    pub(crate) left: Vec<PathBuf>,
    pub(crate) times: Times,
}

impl Moves {
    /// Entries that may be given other metadata or another time, and those in the way. An undo must
    /// know what they had. A folder in the way is made again by an undo, even if it was empty.
    pub(crate) fn given_metadata(&self) -> BTreeSet<PathBuf> {
        let moved = self.put.keys().chain(&self.remove).chain(&self.conflicts);
        let above = moved.flat_map(|path| path.ancestors().skip(1));
        let folders = above.chain(self.directories.keys().map(PathBuf::as_path));
        folders
            .chain(self.mend.keys().map(PathBuf::as_path))
            .chain(self.conflicts.iter().map(PathBuf::as_path))
            .chain([Path::new("")])
            .map(Path::to_owned)
            .collect()
    }

    /// Whether the plan removes the entry at a path and puts nothing in its place.
    pub(crate) fn goes(&self, path: &Path) -> bool {
        self.remove.contains(path)
            && !self.put.contains_key(path)
            && !self.directories.contains_key(path)
    }
}

/// Which times the files get that get another content.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// The times of the snapshot. The whole tree goes back, so sources and build output are of the
    /// same moment.
    #[default]
    OfSnapshot,
    /// This time, which is now. A build compares times: it would take an old source with an old
    /// time for one that it has seen.
    New(Time),
}

/// Files that a build writes beside its output: cargo, CMake, and Ninja, which Meson uses.
const OF_BUILDS: [&[u8]; 3] = [b".rustc_info.json", b"CMakeCache.txt", b".ninja_log"];
/// The extensions of what compilers write.
const OUTPUTS: [&str; 5] = ["o", "obj", "class", "a", "so"];

/// Whether the tree has build output, which goes back with its sources.
fn has_build_output(tree: &Manifest) -> bool {
    let is_output = |name: &[u8]| {
        let extension = Path::new(os(name)).extension();
        extension.is_some_and(|extension| OUTPUTS.iter().any(|output| extension == *output))
    };
    tree.entries().any(|(_, _, entry)| OF_BUILDS.contains(&&*entry.name) || is_output(&entry.name))
}

impl Times {
    /// The time of `entry` if it is put where `now` is.
    pub(crate) fn of(self, entry: &Entry, now: Option<&Entry>) -> Time {
        match (self, now) {
            (Self::OfSnapshot, _) => entry.mtime,
            // A build that has seen this content need not see it again.
            (Self::New(_), Some(now)) if now.same_content(entry) => now.mtime,
            (Self::New(time), _) => time,
        }
    }
}

impl Trees<'_> {
    pub(crate) fn find(&self, of: &Manifest, path: &Path) -> Option<At> {
        of.find(path)
    }

    /// Whether the entry `now` is already as the target has it, in everything that counts as a
    /// change.
    fn is_done(&self, now: Option<At>, target: Option<At>) -> bool {
        match (now, target) {
            (None, None) => true,
            (Some(now), Some(target)) => {
                let (now, target) = (self.now.at(now), self.target.at(target));
                now.same_content(target) && self.maker.gave(now, target)
            }
            _ => false,
        }
    }

    /// Whether the interrupted switch left the path like this: with the entry that it was to put
    /// there, or with nothing.
    pub(crate) fn is_of_the_interrupted(&self, path: &Path) -> bool {
        let Some(interrupted) = self.interrupted else { return false };
        let was = self.find(self.base, path).map(|at| self.base.at(at));
        let to_be = self.find(interrupted, path).map(|at| interrupted.at(at));
        let Some(now) = self.find(self.now, path).map(|at| self.now.at(at)) else {
            // The interrupted switch removes no entry that is the same in both snapshots.
            return was.zip(to_be).is_none_or(|(was, to_be)| {
                !was.same_content(to_be)
                    || !was.same_metadata(to_be)
                    || (was.mtime, was.link()) != (to_be.mtime, to_be.link())
            });
        };
        if now.is_directory() && !path.as_os_str().is_empty() {
            // A directory may have any mode while a switch works in it.
            return [was, to_be].into_iter().flatten().any(Entry::is_directory);
        }
        to_be.is_some_and(|to_be| now.same_content(to_be) && self.maker.gave(now, to_be))
    }

    pub(crate) fn plan(&self, what: Changes) -> Moves {
        let mut moves = Moves::default();
        let (explained, by_hand): (Vec<PathBuf>, Vec<PathBuf>) =
            compare(self.base, self.now, Counts::Changes)
                .into_iter()
                .map(|delta| delta.path)
                .partition(|path| self.is_of_the_interrupted(path));
        moves.by_hand = by_hand.iter().cloned().collect();
        // The paths that must change, and whether more changes than their times and names.
        let mut wanted: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let mut root_differs = false;
        for delta in compare(self.base, self.target, Counts::Everything) {
            if delta.path.as_os_str().is_empty() {
                // The root is neither put nor removed, and always gets the target's metadata.
                root_differs = true;
                continue;
            }
            let differs = match (delta.old, delta.new) {
                (Some(old), Some(new)) => {
                    let (old, new) = (self.base.at(old), self.target.at(new));
                    !old.same_content(new) || !old.same_metadata(new)
                }
                _ => true,
            };
            wanted.insert(delta.path, differs);
        }
        // An undo of a switch must know what the tree had at a path, even if the target has the same
        // there. A reset to the base snapshot replaces nothing by the same.
        let notes_all = what == Changes::MoveAside
            || what == Changes::Reset && (root_differs || !wanted.is_empty());
        let is_below = |path: &PathBuf| !path.as_os_str().is_empty();
        let explained = explained.into_iter().filter(is_below);
        wanted.extend(explained.map(|path| (path, true)));
        let root = Path::new("");
        if moves.by_hand.contains(root)
            && (root_differs || what == Changes::Reset)
            && (notes_all || !self.is_done(Some(ROOT), Some(ROOT)))
        {
            moves.conflicts.insert(root.to_owned());
        }
        if what == Changes::Reset {
            for path in self.other_metadata().into_iter().chain(by_hand).filter(is_below) {
                match self.find(self.target, &path) {
                    Some(at) if self.in_place.contains(&path) && !wanted.contains_key(&path) => {
                        moves.mend.insert(path, at);
                    }
                    _ => drop(wanted.insert(path, true)),
                }
            }
        }
        wanted.retain(|path, _| !self.is_left_to_undo(path));
        self.add_linked(&mut wanted);
        wanted.retain(|path, _| !self.is_left_to_undo(path));
        moves.mend.retain(|path, _| !wanted.contains_key(path));
        for (path, differs) in &wanted {
            self.plan_path(path, *differs, notes_all, &mut moves);
        }
        self.add_folders_above(&mut moves);
        moves
    }

    /// What is to be done about one path. `differs`: the base and the target have other entries
    /// there. `notes_all`: each change by hand is a conflict.
    fn plan_path(&self, path: &PathBuf, differs: bool, notes_all: bool, moves: &mut Moves) {
        let (now, target) = (self.find(self.now, path), self.find(self.target, path));
        let changed = moves.by_hand.contains(path);
        if changed && !differs {
            // The snapshots agree on this path, so changes by hand stay.
            return;
        }
        // A path that already is as the target has it is not a conflict.
        if changed && (notes_all || !self.is_done(now, target)) && !self.takes_in(path) {
            moves.conflicts.insert(path.clone());
        }
        self.way_is_clear(path, target, moves);
        match target.map(|at| (at, self.target.at(at))) {
            None => {
                if now.is_some() {
                    moves.remove.insert(path.clone());
                }
            }
            Some((at, entry)) if entry.is_directory() => {
                if now.is_some_and(|at| !self.now.at(at).is_directory()) {
                    moves.remove.insert(path.clone());
                }
                moves.directories.insert(path.clone(), at);
            }
            Some((at, _)) => {
                if let Some(now) = now
                    && self.now.at(now).is_directory()
                {
                    self.clear_directory(path, now, moves);
                }
                moves.put.insert(path.clone(), at);
            }
        }
    }

    /// Adds the folders whose times have to be set again.
    fn add_folders_above(&self, moves: &mut Moves) {
        // A directory's times change when an entry in it is put or removed, or a directory is made
        // in it.
        let is_new = |path: &&PathBuf| self.find(self.now, path).is_none();
        let made = moves.directories.keys().filter(is_new);
        let paths: Vec<PathBuf> =
            moves.put.keys().chain(&moves.remove).chain(made).cloned().collect();
        for path in paths {
            for above in path.ancestors().skip(1) {
                if above.as_os_str().is_empty() || moves.directories.contains_key(above) {
                    continue;
                }
                if let Some(at) = self.find(self.target, above)
                    && self.target.at(at).is_directory()
                {
                    moves.directories.insert(above.to_owned(), at);
                }
            }
        }
    }

    /// How many entries the plan makes, replaces or gives other metadata. A directory whose time
    /// alone changes does not count.
    pub(crate) fn changed(&self, moves: &Moves) -> u64 {
        let counts = |(path, at): &(&PathBuf, &At)| self.changes_directory(moves, path, **at);
        let folders = moves.directories.iter().filter(counts).count();
        let root = usize::from(self.changes_directory(moves, Path::new(""), ROOT));
        (moves.put.len() + moves.mend.len() + moves.whole.len() + folders + root) as u64
    }

    /// Whether the plan makes this directory of the target, or gives it other metadata.
    pub(crate) fn changes_directory(&self, moves: &Moves, path: &Path, at: At) -> bool {
        let now = self.find(self.now, path).map(|at| self.now.at(at));
        let Some(now) = now.filter(|now| now.is_directory()) else { return true };
        // Metadata that was changed by hand and is not in the way stays.
        (!moves.by_hand.contains(path) || moves.conflicts.contains(path))
            && !self.maker.gave(now, self.target.at(at))
    }

    /// Decides which times files get. They get new times if files stay in the tree that no snapshot
    /// has, because these may be built from other content.
    ///
    /// `left_out` says whether ignore rules hide anything in the tree. `undone` is the time of the
    /// switch that an undo takes back: output that is older was built from the content that comes
    /// back.
    pub(crate) fn decide_times(
        &self,
        moves: &mut Moves,
        left_out: bool,
        undone: Option<Time>,
        now: Time,
    ) {
        let is_added_and_stays = |path: &PathBuf| {
            let may_be_built = |at| {
                let entry = self.now.at(at);
                !entry.is_directory() && undone.is_none_or(|undone| entry.mtime >= undone)
            };
            !moves.conflicts.contains(path)
                && !moves.put.contains_key(path)
                && !moves.remove.contains(path)
                && self.find(self.base, path).is_none()
                && self.find(self.now, path).is_some_and(may_be_built)
        };
        if !left_out && !moves.by_hand.iter().any(is_added_and_stays) {
            return;
        }
        moves.times = Times::New(now);
        // A file that has the right content keeps its time.
        moves.mend.retain(|path, at| {
            let now = self.find(self.now, path).map(|at| self.now.at(at));
            now.is_none_or(|now| !now.same_metadata(self.target.at(*at)))
        });
    }

    /// Whether files get other content without a new time, and their build output does not go back
    /// with them. Then it is outside of the tree, and newer than they are. `back` are files that come
    /// back from where they were aside.
    pub(crate) fn leaves_newer_output(&self, moves: &Moves, back: &BTreeSet<PathBuf>) -> bool {
        let is_file = |entry: &Entry| matches!(entry.kind, Kind::File { .. });
        let changes = |(path, at): (&PathBuf, &At)| {
            let (now, new) = (self.find(self.now, path), self.target.at(*at));
            now.map(|at| self.now.at(at))
                .is_some_and(|now| is_file(now) && is_file(new) && !now.same_content(new))
        };
        moves.times == Times::OfSnapshot
            && (moves.put.iter().any(changes) || back.iter().any(|path| self.now.has(path)))
            && !has_build_output(self.target)
    }

    /// The entry that the switch puts at a path, or mends there.
    pub(crate) fn given(&self, moves: &Moves, path: &Path, at: At) -> Entry {
        let entry = self.target.at(at);
        let now = self.find(self.now, path).map(|at| self.now.at(at));
        Entry { mtime: moves.times.of(entry, now), ..entry.clone() }
    }

    /// Paths that have the target's content, but another mode, owner, time or names, or other
    /// attributes.
    fn other_metadata(&self) -> Vec<PathBuf> {
        let is_other = |delta: &Delta| {
            delta
                .old
                .zip(delta.new)
                .is_some_and(|(now, target)| self.now.at(now).same_content(self.target.at(target)))
        };
        let deltas = compare(self.now, self.target, Counts::Everything);
        deltas.into_iter().filter(is_other).map(|delta| delta.path).collect()
    }

    /// Finds the files whose metadata a reset can set without replacing the file, so that programs
    /// that have the file open keep it. A file does not qualify if this would also change another
    /// file's metadata: the file must have exactly the names that the target gives it.
    pub(crate) fn find_in_place(&mut self, root: &OwnedFd) -> io::Result<()> {
        let me = rustix::process::geteuid();
        let found = with_names_of(self.target, root, self.other_metadata())?;
        let is_ours = |meta: &Meta| rights::can_give_to_all() || meta.uid == me.as_raw();
        let of = found.into_iter().filter(|it| it.2 == NamesOnDisk::Same && is_ours(&it.1));
        self.in_place = of.map(|(path, ..)| path).collect();
        Ok(())
    }

    /// Finds files that are replaced or removed and that have another name.
    pub(crate) fn find_linked(&self, root: &OwnedFd, moves: &mut Moves) -> io::Result<()> {
        for path in moves.put.keys().chain(&moves.remove) {
            if moves.conflicts.contains(path) || self.find(self.now, path).is_none() {
                continue;
            }
            if let Some(meta) = look(root, path)?
                && meta.file_type() != fs::FileType::Directory
                && meta.links > 1
            {
                moves.linked.insert(path.clone());
            }
        }
        Ok(())
    }

    /// Whether the undo puts what was at this path before the switch, and nothing else is there
    /// now.
    fn is_left_to_undo(&self, path: &Path) -> bool {
        let Some(left) = self.left_to_undo else { return false };
        if self.find(self.base, path).is_some() {
            return false;
        }
        let is_directory = |of: &Manifest| of.find(path).map(|at| of.at(at).is_directory());
        match is_directory(self.now) {
            // The way there may be blocked by what was there before the switch, and the file that
            // comes back may have other names, which have stayed.
            None if left.files.contains(path) => true,
            // The folder was made by hand in the place of a file. The switch left it there for the
            // sake of what else is in it.
            None | Some(true) => {
                left.folders.contains(path) && is_directory(self.target) == Some(false)
            }
            Some(false) => false,
        }
    }

    /// Whether an undo brings a folder back to where one is, which takes in what comes back. An
    /// update leaves the folder of a cache, for example.
    fn takes_in(&self, path: &Path) -> bool {
        let is_folder = |of: &Manifest| of.find(path).is_some_and(|at| of.at(at).is_directory());
        self.left_to_undo.is_some()
            && self.find(self.base, path).is_none()
            && is_folder(self.now)
            && is_folder(self.target)
    }

    /// Adds all names of each hard-linked file, because they must become one file.
    fn add_linked(&self, wanted: &mut BTreeMap<PathBuf, bool>) {
        let links: HashSet<u64> = wanted
            .keys()
            .filter_map(|path| self.find(self.target, path))
            .map(|at| self.target.at(at).link())
            .filter(|link| *link != 0)
            .collect();
        if links.is_empty() {
            return;
        }
        for (place, slot, entry) in self.target.entries() {
            if links.contains(&entry.link()) {
                wanted.entry(self.target.path_of(place, slot)).or_insert(true);
            }
        }
    }

    /// Makes sure that every folder above an entry of the target will be a directory.
    fn way_is_clear(&self, path: &Path, target: Option<At>, moves: &mut Moves) {
        if target.is_none() {
            return;
        }
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            let now = self.find(self.now, above);
            if now.is_some_and(|at| self.now.at(at).is_directory()) {
                continue;
            }
            if moves.by_hand.contains(above) {
                moves.conflicts.insert(above.to_owned());
                if now.is_some() {
                    moves.remove.insert(above.to_owned());
                }
            }
            if let Some(at) = self.find(self.target, above) {
                moves.directories.insert(above.to_owned(), at);
            }
        }
    }

    /// Removes a directory that gives way to another kind of entry. Entries in it that were changed
    /// by hand are conflicts.
    fn clear_directory(&self, path: &Path, now: At, moves: &mut Moves) {
        let Some(place) = self.now.directories[now.0 as usize].child(now.1) else { return };
        let mut below = vec![(place, path.to_owned())];
        while let Some((place, path)) = below.pop() {
            let directory = &self.now.directories[place as usize];
            for (slot, entry) in (0..).zip(&directory.entries) {
                let path = path.join(manifest::os(&entry.name));
                if moves.by_hand.contains(&path) {
                    moves.conflicts.insert(path.clone());
                }
                moves.remove.insert(path.clone());
                if let Some(child) = directory.child(slot) {
                    below.push((child, path));
                }
            }
        }
        moves.remove.insert(path.to_owned());
    }

    /// Finds entries that are in the way and that the scan did not see.
    pub(crate) fn find_hidden(&self, root: &OwnedFd, moves: &mut Moves) -> io::Result<()> {
        let is_there = |path: &Path| -> io::Result<Option<bool>> {
            let dir = open_parent(root, path).but_for(is_gone)?;
            let Some(dir) = dir else { return Ok(None) };
            let there = Meta::at(&dir, &last(path)?).if_there()?;
            Ok(there.map(|meta| meta.file_type() == fs::FileType::Directory))
        };
        let put = moves.put.keys().map(|path| (path, false));
        let wanted = put.chain(moves.directories.keys().map(|path| (path, true)));
        for (path, directory) in wanted {
            if self.find(self.now, path).is_none()
                && let Some(is_directory) = is_there(path)?
                && !(directory && is_directory)
            {
                moves.hidden.insert(path.clone());
                moves.conflicts.insert(path.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

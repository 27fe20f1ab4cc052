//! Folders that arrive whole. calve makes such a folder in the stage, with all that the target has
//! in it, and exchanges it with the one in the tree by one rename. So at each moment the tree has
//! the old folder or the new one, and never a part of each.
//!
//! What the old folder has beside the files of the scan would be lost. So calve looks at each of
//! its entries when no path leads to the folder any more, and exchanges the two again if anything
//! is not as the scan saw it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::plan::{Moves, Trees};
use super::{Bring, Staged, Translated, look_at, set_in_place};
use crate::error::{Context as _, Error, IfThere as _, Operation};
use crate::reflink::meta::{self, Meta};
use crate::store::at::{is_gone, last, make_parents, open_at, open_parent, remove_at};
use crate::store::files::listed;
use crate::store::manifest::{Builder, Manifest, os};
use crate::store::object::{Entry, Kind};
use crate::tree::staging::exchange_folders;

/// The folder of the stage that has the folders.
pub(super) const WHOLE: &str = "whole";

/// The folders that arrive whole, and the paths in them that stay as the tree has them.
pub(crate) type WholeFolders = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

impl Moves {
    /// Lets these folders arrive whole: nothing is planned for single paths in them any more. A
    /// path that was changed by hand, and is not one that stays, is a conflict.
    pub(crate) fn take_whole(&mut self, trees: &Trees<'_>, whole: WholeFolders) {
        let target = trees.target;
        // A folder that both trees have is not replaced. It keeps its changed mode and times, which
        // are no conflict.
        let is_folder = |of: &Manifest, path: &Path| {
            trees.find(of, path).is_some_and(|at| of.at(at).is_directory())
        };
        self.conflicts.retain(|path| !(is_folder(trees.now, path) && is_folder(target, path)));
        let above = |path: &Path| whole.keys().find(|folder| path.starts_with(folder));
        let is_other = |path: &PathBuf| above(path).is_none();
        self.put.retain(|path, _| is_other(path));
        self.mend.retain(|path, _| is_other(path));
        self.directories.retain(|path, _| is_other(path));
        for paths in [&mut self.remove, &mut self.conflicts, &mut self.linked, &mut self.hidden] {
            paths.retain(is_other);
        }
        for path in &self.by_hand {
            // Where the folder is gone, nothing in it can be lost.
            let is_there = |folder: &&PathBuf| trees.find(trees.now, folder).is_some();
            if let Some(folder) = above(path).filter(is_there)
                && !whole[folder].contains(path)
                && path != folder
            {
                self.conflicts.insert(path.clone());
            }
        }
        for path in whole.keys().flat_map(|folder| folder.ancestors().skip(1)) {
            if let Some(at) = target.find(path)
                && !path.as_os_str().is_empty()
                && target.at(at).is_directory()
            {
                self.directories.insert(path.to_owned(), at);
            }
        }
        self.whole = whole;
    }

    /// Whether a path is in a folder that arrives whole, or is one.
    pub(super) fn is_in_whole(&self, path: &Path) -> bool {
        !self.whole.is_empty() && path.ancestors().any(|above| self.whole.contains_key(above))
    }
}

/// The names of the staged folders in [`WHOLE`].
pub(super) fn names_in_stage(moves: &Moves) -> HashMap<PathBuf, String> {
    let names = (0_u32..).map(|number| format!("{number:08}"));
    moves.whole.keys().cloned().zip(names).collect()
}

/// The folders of the target, as a tree whose root has them by their names in the stage. `None`:
/// the target has none of them, or too many entries.
pub(super) fn manifest_of(
    target: &Manifest,
    root: Entry,
    names: &HashMap<PathBuf, String>,
) -> Option<Manifest> {
    let mut tops: Vec<(Entry, u32)> = Vec::new();
    for (path, name) in names {
        let Some(at) = target.find(path) else { continue };
        let Some(place) = target.directories[at.0 as usize].child(at.1) else { continue };
        let entry = target.at(at).clone();
        let name = name.clone().into_bytes().into();
        // The owner must be able to rename it.
        tops.push((Entry { name, mode: entry.mode | 0o700, ..entry }, place));
    }
    if tops.is_empty() {
        return None;
    }
    tops.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let (entries, places): (Vec<Entry>, VecDeque<u32>) = tops.into_iter().unzip();
    let mut builder = Builder::new(root);
    let mut fits = builder.add(entries);
    let mut queue = places;
    while let Some(place) = queue.pop_front() {
        let directory = &target.directories[place as usize];
        queue.extend(directory.children.iter().map(|(_, child)| *child));
        fits &= builder.add(directory.entries.clone());
    }
    fits.then(|| builder.finish())
}

/// The entries below a folder, from there, with what kind each is. Fails if something is mounted in
/// it.
fn all_below(folder: &OwnedFd) -> io::Result<Vec<(PathBuf, FileType)>> {
    let device = Meta::of(&fs::fstat(folder)?).dev;
    let (mut found, mut below) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(path) = below.pop() {
        let dir = open_at(folder, &path)?;
        if Meta::of(&fs::fstat(&dir)?).dev != device {
            return Err(Errno::XDEV.into());
        }
        for (name, kind) in listed(dir)? {
            let path = path.join(name);
            if kind == FileType::Directory {
                below.push(path.clone());
            }
            found.push((path, kind));
        }
    }
    Ok(found)
}

/// Whether a folder in the tree has an entry that the scan did not see, or something is mounted
/// in it.
///
/// # Errors
/// It could not be read. A folder that is not there has no such entry.
pub(crate) fn has_unseen(root: &OwnedFd, folder: &Path, now: &Manifest) -> io::Result<bool> {
    let opened = match open_at(root, folder) {
        Err(error) if is_gone(&error) => return Ok(false),
        opened => opened?,
    };
    match all_below(&opened) {
        Ok(found) => Ok(found.iter().any(|(path, _)| !now.has(&folder.join(path)))),
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Bring<'_> {
    /// Puts a staged folder in the place of the one that the tree has.
    ///
    /// # Errors
    /// The tree has the old folder, or, if the filesystem cannot exchange two folders, perhaps none.
    pub(super) fn put_whole(
        &self,
        staged: &Staged,
        folder: &Path,
        seen: &Translated,
        given: &mut HashMap<PathBuf, Entry>,
    ) -> Result<(), Error> {
        let Self { root, trees, moves, .. } = *self;
        let failed = || self.path.join(folder);
        let target = trees.find(trees.target, folder).map(|at| trees.target.at(at));
        let target = target.filter(|entry| entry.is_directory());
        let name = &staged.whole[folder];
        let stage = || open_at(staged.stage.dir(), Path::new(WHOLE));
        if target.is_some() {
            let place = open_at(staged.stage.dir(), &Path::new(WHOLE).join(name))
                .context(Operation::StageIn, failed)?;
            self.note_given(&place, folder, given).context(Operation::StageIn, failed)?;
            self.keep_in(&place, folder, &moves.whole[folder]).context(Operation::Put, failed)?;
        }
        let (parent, last) = open_parent(root, folder)
            .and_then(|parent| Ok((parent, last(folder)?)))
            .context(Operation::Put, failed)?;
        let there = Meta::at(&parent, &last).if_there().context(Operation::Put, failed)?;
        if there.is_some_and(|it| it.file_type() != FileType::Directory) {
            return Err(self.in_the_way(folder, "something else is in its place by now"));
        }
        let exchange = || -> io::Result<CString> {
            let stage = match stage() {
                Err(error) if is_gone(&error) => {
                    fs::mkdirat(staged.stage.dir(), WHOLE, Mode::RWXU)?;
                    stage()?
                }
                stage => stage?,
            };
            if let Some(there) = there
                && there.permissions() & 0o700 != 0o700
            {
                // Only who may write to a folder may give it another parent.
                let mode = meta::mode(there.permissions() | 0o700);
                meta::give_mode(open_at(root, folder)?, mode)?;
            }
            let name = CString::new(name.as_str())?;
            match (target.is_some(), there.is_some()) {
                (true, true) => exchange_folders(&stage, &name, &parent, &last)?,
                (true, false) => fs::renameat(&stage, &name, &parent, &last)?,
                (false, true) => fs::renameat(&parent, &last, &stage, &name)?,
                (false, false) => {}
            }
            Ok(name)
        };
        let name = exchange().context(Operation::Put, failed)?;
        if there.is_some() {
            let old = stage().and_then(|stage| open_at(&stage, Path::new(os(name.as_bytes()))));
            let changed = old.and_then(|old| self.changed_in(&old, folder, seen));
            if !matches!(changed, Ok(None)) {
                let back = || -> io::Result<()> {
                    match target {
                        Some(_) => exchange_folders(stage()?, &name, &parent, &last)?,
                        None => fs::renameat(stage()?, &name, &parent, &last)?,
                    }
                    Ok(())
                };
                back().context(Operation::BringBack, failed)?;
                let path = changed.context(Operation::Read, failed)?;
                let path = path.unwrap_or_else(|| folder.to_owned());
                return Err(self.in_the_way(&path, "it was changed while the update was under way"));
            }
        }
        match target {
            Some(entry) => {
                set_in_place(root, folder, entry).map(drop).context(Operation::SetMetadata, failed)
            }
            None => Ok(()),
        }
    }

    /// Notes what the staged files are, for the index.
    fn note_given(
        &self,
        place: &OwnedFd,
        folder: &Path,
        given: &mut HashMap<PathBuf, Entry>,
    ) -> io::Result<()> {
        for (path, kind) in all_below(place)? {
            if kind != FileType::Directory
                && let Some(entry) = look_at(place, &path)?
            {
                given.insert(folder.join(path), entry);
            }
        }
        Ok(())
    }

    /// Gives the staged folder the entries that stay as the tree has them, as further names of the
    /// same files.
    fn keep_in(&self, place: &OwnedFd, folder: &Path, stays: &BTreeSet<PathBuf>) -> io::Result<()> {
        let Self { root, trees, .. } = *self;
        for path in stays {
            let below = path.strip_prefix(folder).map_err(io::Error::other)?;
            let Some(at) = trees.find(trees.now, path) else {
                remove_at(place, below)?;
                continue;
            };
            let dir = make_parents(place, below)?;
            let name = last(path)?;
            let entry = trees.now.at(at);
            if entry.is_directory() {
                match fs::mkdirat(&dir, &name, meta::mode(entry.mode & 0o777 | 0o700)) {
                    Ok(()) | Err(Errno::EXIST) => continue,
                    Err(errno) => return Err(errno.into()),
                }
            }
            match open_parent(root, path) {
                Ok(from) => {
                    remove_at(place, below)?;
                    match fs::linkat(&from, &name, &dir, &name, AtFlags::empty()) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The first entry of the old folder that is not as the scan saw it.
    fn changed_in(
        &self,
        old: &OwnedFd,
        folder: &Path,
        seen: &Translated,
    ) -> io::Result<Option<PathBuf>> {
        let Self { trees, moves, .. } = *self;
        for (below, kind) in all_below(old)? {
            let path = folder.join(&below);
            let Some(at) = trees.find(trees.now, &path) else { return Ok(Some(path)) };
            // The same file has a name in the new folder, so nothing is lost with this one.
            if moves.whole[folder].contains(&path) {
                continue;
            }
            let is_it = match (&trees.now.at(at).kind, kind) {
                (Kind::Directory(_), FileType::Directory) => true,
                (Kind::Directory(_), _) | (_, FileType::Directory) => false,
                _ => {
                    let stat = fs::statat(
                        open_parent(old, &below)?,
                        last(&below)?,
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                    self.is_as_seen(&Meta::of(&stat), &path, seen)
                }
            };
            if !is_it {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

//! Moves files aside and brings them back.
//!
//! Another process that works in the tree may at any moment replace calve's own folder, or an entry
//! in it, by a link. So calve opens the folder where it is, without following a link, and reaches
//! everything else relative to that descriptor.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::io;
use std::mem::discriminant;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Passed, SwitchReport, Transit};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::{Meta, TIME_NOW, modified_at};
use crate::report::{SkipReason, Skipped};
use crate::store::at::{is_gone, last, make_parents, meta_at, open_at, open_parent, remove_at};
use crate::store::bring::plan::{
    Changes, LeftToUndo, Moves, NamesOnDisk, Times, Trees, with_names_of,
};
use crate::store::bring::{look_at, set_in_place};
use crate::store::catalog::Origin;
use crate::store::delta::{Counts, compare};
use crate::store::id::SnapshotId;
use crate::store::layout::{self, GIT_IGNORE, OWN, UNDO, UNDO_C, UNDO_FILES, UNDO_RECORD};
use crate::store::manifest::ROOT;
use crate::store::marker::{HIDES_ALL, give};
use crate::store::object::Entry;
use crate::store::undo::{Record, UndoStep, damaged, open_home};
use crate::store::{StoreOptions, listed};
use crate::tree::across::rename_entry;
use crate::tree::removal;
use crate::tree::running::Running;
use crate::tree::staging::{Stage, StagedFile, flush_filesystem, stage_name, sync_folder};
use crate::worktree::update::TwoTrees;
use crate::worktree::{Worktree, open_dir, shown};

/// What the snapshot of a base that an undo put together says.
const UNDONE: &str = "undo";

impl Worktree {
    /// Takes back the last forced switch, or the last reset. The worktree gets the snapshot that it
    /// was based on then, and the entries that were moved aside come back. If a snapshot was taken of
    /// the worktree since, what that has of its own stays.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if entries in the way were changed by hand since, as for
    /// [`Worktree::switch`]. [`ErrorKind::SnapshotNotFound`] if there is nothing to take back.
    pub fn undo(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        let operation = options.operation();
        self.alone(&operation, |this| this.undo_alone(false, &operation))
    }

    /// What [`Worktree::undo`] would do. Changes nothing.
    ///
    /// # Errors
    /// The same as for [`Worktree::undo`].
    pub fn would_undo(&self, options: &StoreOptions) -> Result<SwitchReport, Error> {
        let operation = options.operation();
        self.alone(&operation, |this| this.undo_alone(true, &operation))
    }

    fn undo_alone(&self, dry_run: bool, operation: &Running) -> Result<SwitchReport, Error> {
        self.must_be_there()?;
        let Some((record, noted)) = self.record()? else {
            let cause = io::Error::new(io::ErrorKind::NotFound, "there is nothing to undo");
            return Err(Error::new(
                ErrorKind::SnapshotNotFound,
                Operation::Undo,
                &self.path,
                cause,
            ));
        };
        let files = self.aside_files()?;
        let aside = match &files {
            Some(files) => list(files).context(Operation::Read, || self.undo_path())?,
            None => Aside::default(),
        };
        self.must_not_be_gits(&record, &aside)?;
        let undo = Undo { record, noted, aside };
        let record = &undo.record;
        let (to, what) = (self.taken_back(record)?, Changes::Respect);
        let undo = Some(&undo);
        let transit = Transit { to, what, undo, update: None, leave_secrets: None, dry_run };
        let Passed { mut report, times, .. } = self.transit(&transit, operation)?;
        if dry_run {
            return Ok(report);
        }
        let root = open_dir(&self.path)?;
        let mut back = || -> io::Result<Vec<PathBuf>> {
            let mut back = Vec::new();
            if let Some(files) = &files {
                put_back(&root, files, times, &mut back)?;
            }
            for path in record.deleted.iter().rev() {
                remove_at(&root, path)?;
            }
            // The entries of a folder come before the folder, because its mode may deny access to
            // them.
            for (path, entry) in record.metadata.iter().rev() {
                match set_in_place(&root, path, entry) {
                    Ok(refused) if refused.is_empty() => {}
                    Ok(refused) => report.skipped.push(Skipped {
                        path: path.clone(),
                        reason: SkipReason::Xattrs(refused.join(", ")),
                    }),
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(back)
        };
        report.kept = back().context(Operation::BringBack, || &self.path)?;
        // The record goes when the disk has everything that it was needed for.
        flush_filesystem(&root).context(Operation::Flush, || &self.path)?;
        self.discard_undo()?;
        Ok(report)
    }

    /// Refuses a record that names git's own files, which no calve notes: somebody else wrote it.
    fn must_not_be_gits(&self, record: &Record, aside: &Aside) -> Result<(), Error> {
        let noted = record.metadata.iter().map(|(path, _)| path).chain(&record.deleted);
        if !noted.chain(&aside.files).any(|path| path.starts_with(layout::GIT)) {
            return Ok(());
        }
        let cause = io::Error::other(format!(
            "it would change the files of .git as well, which calve does not touch; what was moved aside is in {}",
            self.undo_path().join(UNDO_FILES).display(),
        ));
        Err(Error::new(ErrorKind::StoreIncompatible, Operation::Undo, &self.path, cause))
    }

    /// The record of the last forced switch or reset, and its time.
    fn record(&self) -> Result<Option<NotedRecord>, Error> {
        let Some(undo) = self.open_undo()? else { return Ok(None) };
        let read = || -> io::Result<_> {
            let record = Record::read(&undo)?;
            let (seconds, nanoseconds) = Meta::at(&undo, UNDO_RECORD)?.modified();
            Ok(record.map(|it| (it, (seconds, u32::try_from(nanoseconds).unwrap_or(0)))))
        };
        let path = || self.undo_path().join(UNDO_RECORD);
        match read() {
            Ok(Some(record)) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.has_moved_aside()? => {
                Ok(None)
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(Operation::Read, path)
            }
            // Without it, nobody knows what the files were that are aside.
            _ => Err(Error::new(ErrorKind::Damaged, Operation::Undo, path(), damaged())),
        }
    }

    /// Whether there is something that [`Worktree::undo`] could take back.
    pub(super) fn has_undo(&self) -> Result<bool, Error> {
        Ok(self.open_undo()?.is_some_and(|undo| Meta::at(undo, UNDO_RECORD).is_ok()))
    }

    /// Fails if files that are moved aside would leave the tree. Another process may have replaced
    /// one of calve's own folders by a link. Only the project's own folder may be a link, to its
    /// store.
    pub(super) fn must_keep_to_itself(&self) -> Result<(), Error> {
        let own = self.undo_home();
        let is_store = self.is_project()
            && std::fs::canonicalize(&own).is_ok_and(|own| own == self.store.path());
        let undo = self.undo_path();
        for path in [&own, &undo, &undo.join(UNDO_FILES)] {
            let is_link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
            if is_link && !(path == &own && is_store) {
                let cause = io::Error::other(
                    "it is a symbolic link; calve follows no link when it moves files aside",
                );
                return Err(Error::new(
                    ErrorKind::Damaged,
                    Operation::RestoreWorktree,
                    path,
                    cause,
                ));
            }
        }
        Ok(())
    }

    /// The path of the undo data, for messages.
    fn undo_path(&self) -> PathBuf {
        self.undo_home().join(UNDO)
    }

    /// The folder with the undo data.
    fn undo_home(&self) -> PathBuf {
        self.store.registry().undo_home(&self.row)
    }

    /// Opens the folder with the undo data, if there is one.
    pub(super) fn open_home(&self) -> Result<Option<OwnedFd>, Error> {
        let home = self.undo_home();
        open_home(&home, self.is_project().then(|| self.store.path()))
            .if_there()
            .context(Operation::Open, || home)
    }

    fn open_undo(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(own) = self.open_home()? else { return Ok(None) };
        open_at(&own, Path::new(UNDO)).if_there().context(Operation::Open, || self.undo_path())
    }

    /// Opens the folder of the files that were moved aside.
    fn aside_files(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(undo) = self.open_undo()? else { return Ok(None) };
        open_at(&undo, Path::new(UNDO_FILES))
            .if_there()
            .context(Operation::Open, || self.undo_path().join(UNDO_FILES))
    }

    /// Whether there is work that a switch or a reset has moved aside.
    pub(in crate::worktree) fn has_moved_aside(&self) -> Result<bool, Error> {
        match self.aside_files()? {
            Some(files) => {
                Ok(!listed(files).context(Operation::Read, || self.undo_path())?.is_empty())
            }
            None => Ok(false),
        }
    }

    /// Deletes the undo data of an earlier switch.
    pub(super) fn discard_undo(&self) -> Result<(), Error> {
        let Some(dir) = self.open_home()? else {
            return Ok(());
        };
        let home = self.undo_home();
        if let Some(aside) = undo_aside(&dir).context(Operation::Remove, || home.join(UNDO))? {
            removal::remove(&dir, &aside).context(Operation::Remove, || &home)?;
            self.leave_tree(&home);
        }
        Ok(())
    }

    /// Removes calve's own folder from the tree of a worktree if that has nothing else any more. If
    /// it has, or if this fails, it stays: git ignores it.
    fn leave_tree(&self, home: &Path) {
        let names = std::fs::read_dir(home).map(|them| them.flatten().map(|it| it.file_name()));
        let is_left =
            |mut names: Vec<_>| names.pop().is_some_and(|it| it == GIT_IGNORE) && names.is_empty();
        if !self.is_project()
            && *home == layout::own(&self.path)
            && names.is_ok_and(|names| is_left(names.collect()))
        {
            let _ = std::fs::remove_file(home.join(GIT_IGNORE))
                .and_then(|()| std::fs::remove_dir(home));
        }
    }

    /// Mode, owner, attributes and time of the entries that stay and may be given others.
    pub(super) fn metadata_before(
        &self,
        root: &OwnedFd,
        moves: &Moves,
    ) -> Result<Vec<(PathBuf, Entry)>, Error> {
        let mut metadata = Vec::new();
        for path in moves.given_metadata() {
            match look_at(root, &path) {
                // A file that is moved aside keeps its metadata.
                Ok(Some(entry))
                    if !entry.is_directory()
                        && (moves.conflicts.contains(&path) || moves.linked.contains(&path)) => {}
                Ok(Some(entry)) => metadata.push((path, entry)),
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error).context(Operation::Read, || self.path.join(&path)),
            }
        }
        Ok(metadata)
    }

    /// Writes down what an undo of this switch needs. This replaces the undo data of an earlier
    /// switch, which is given up only when the new data is on the disk. `going_on`: this switch
    /// continues one that was interrupted, and adds to the record of that one.
    pub(super) fn note_undo(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
        step: UndoStep,
        going_on: bool,
        metadata: Vec<(PathBuf, Entry)>,
    ) -> Result<(), Error> {
        let own = self.undo_home();
        let undo = own.join(UNDO);
        let dir = match self.open_home()? {
            Some(dir) => dir,
            None => make_home(root, &own).context(Operation::MakeFolder, || &own)?,
        };
        let known = if going_on { self.record()? } else { None };
        let fresh = known.is_none();
        let mut record = known.map_or_else(|| Record::new(step.from), |(record, _)| record);
        record.add_step(step);
        for path in &moves.conflicts {
            if trees.find(trees.now, path).is_none()
                && !moves.hidden.contains(path)
                // If it is aside, the interrupted switch moved it there, and it was not deleted by
                // hand.
                && (fresh || !self.is_aside(path)?)
            {
                record.deleted.push(path.clone());
            }
        }
        // The interrupted switch noted older metadata, which must stay.
        let noted: BTreeSet<PathBuf> =
            record.metadata.iter().map(|(path, _)| path.clone()).collect();
        record.metadata.extend(metadata.into_iter().filter(|(path, _)| !noted.contains(path)));
        record.metadata.sort_by(|a, b| a.0.cmp(&b.0));
        if !fresh {
            return self.replace_record(&dir, &record);
        }
        let encoded = record.encode();
        let parent = dir.try_clone().context(Operation::Open, || &own)?;
        let mut stage = Stage::empty(parent, &own).context(Operation::StageIn, || &own)?;
        let fill = || -> io::Result<()> {
            fs::mkdirat(stage.dir(), UNDO_FILES, Mode::RWXU)?;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = fs::openat(stage.dir(), UNDO_RECORD, NEW_FILE_FLAGS, mode)?;
            give(&file, self.store.registry().believed());
            write_record(file, &encoded)?;
            self.give_folders(stage.dir(), Path::new(UNDO_FILES));
            sync_folder(stage.dir())
        };
        fill().context(Operation::Write, || undo.join(UNDO_RECORD))?;
        let earlier = undo_aside(&dir).context(Operation::Remove, || &undo)?;
        if let Err(error) = stage.publish(UNDO_C) {
            if let Some(earlier) = earlier {
                let _ = fs::renameat(&dir, &earlier, &dir, UNDO_C);
            }
            return Err(error).context(Operation::Write, || &undo);
        }
        sync_folder(&dir).context(Operation::Flush, || &own)?;
        // From here on the earlier data is a leftover. If we cannot remove it, the next operation
        // sweeps it.
        if let Some(earlier) = earlier {
            let _ = removal::remove(&dir, &earlier);
        }
        Ok(())
    }

    /// Notes that the worktree goes from one snapshot to another although nothing is moved aside. An
    /// undo takes back this step and those that were noted before.
    pub(super) fn note_step(&self, step: UndoStep) -> Result<(), Error> {
        if step.from == step.to {
            return Ok(());
        }
        let (Some(dir), Some((mut record, _))) = (self.open_home()?, self.record()?) else {
            return Ok(());
        };
        record.add_step(step);
        self.replace_record(&dir, &record)
    }

    /// Replaces the record as a whole: it is all that is known of the files that were moved aside.
    /// It keeps its time, which is that of the first switch.
    fn replace_record(&self, dir: &OwnedFd, record: &Record) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let undo = open_at(dir, Path::new(UNDO))?;
            let time = Meta::at(&undo, UNDO_RECORD)?.timestamps().last_modification;
            let mut staged = StagedFile::new(dir);
            let file = fs::openat(dir, &staged.path, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
            give(&file, self.store.registry().believed());
            write_record(file, &record.encode())?;
            fs::utimensat(dir, &staged.path, &modified_at(time), AtFlags::SYMLINK_NOFOLLOW)?;
            staged.place(&undo, layout::UNDO_RECORD_C)?;
            sync_folder(undo)
        };
        write().context(Operation::Write, || self.undo_path().join(UNDO_RECORD))
    }

    /// Gives the folder at `path` and those above it, up to `folder`, to whom the store belongs:
    /// root made them, and the user could not undo anything otherwise.
    fn give_folders(&self, folder: &OwnedFd, path: &Path) {
        let believed = self.store.registry().believed();
        if believed.keeps_marks() == (None, None) {
            return;
        }
        for path in path.ancestors() {
            if let Ok(made) = open_at(folder, path) {
                give(made, believed);
            }
        }
    }

    /// The snapshot that takes back the steps of a record, and nothing else. A snapshot that was
    /// taken of the worktree since has changes of its own, which stay.
    fn taken_back(&self, record: &Record) -> Result<SnapshotId, Error> {
        let mut id = self.based_on()?;
        for UndoStep { from, to } in record.steps.iter().rev() {
            if id == *to {
                id = *from;
            } else if id != *from && from != to {
                let read = |id: SnapshotId| -> Result<_, Error> {
                    let object = self.store.catalog().object(id)?;
                    let found = self.store.snapshots().found(id, &object)?;
                    Ok((self.store.catalog().manifest(id, &object)?, found))
                };
                let ((own, own_found), (was, was_found)) = (read(id)?, read(*from)?);
                let became = self.store.catalog().object(*to)?;
                let became = self.store.catalog().manifest(*to, &became)?;
                let deltas = compare(&was, &became, Counts::Everything);
                let paths = deltas.into_iter().map(|delta| delta.path);
                let paths = paths.filter(|path| !path.as_os_str().is_empty()).collect();
                let both = TwoTrees {
                    base: &own,
                    base_found: &own_found,
                    other: &was,
                    other_found: &was_found,
                };
                let origin = Origin { worktree: Some(self.row.name.clone()), branch: None };
                // An update compares with what came before the step, which is the parent then.
                id = self.record_with(&own, both, &paths, (*from, UNDONE), &origin)?;
            }
        }
        Ok(id)
    }

    /// Whether an entry was moved aside from this path.
    fn is_aside(&self, path: &Path) -> Result<bool, Error> {
        let Some(files) = self.aside_files()? else { return Ok(false) };
        match meta_at(&files, path) {
            Err(error) if is_gone(&error) => Ok(false),
            found => found
                .context(Operation::Read, || self.undo_path().join(UNDO_FILES).join(path))
                .map(|_| true),
        }
    }

    /// Moves the entries that were changed by hand and are in the way to the folder where `undo`
    /// finds them. `note_undo` has noted them before. An interrupted switch may have moved other
    /// entries aside from the same paths; returns the names under which those are kept now.
    pub(super) fn move_aside(
        &self,
        root: &OwnedFd,
        trees: &Trees<'_>,
        moves: &Moves,
    ) -> Result<Vec<PathBuf>, Error> {
        let files = || self.undo_path().join(UNDO_FILES);
        let own = self
            .open_home()?
            .ok_or_else(|| Error::io(Operation::Open, self.undo_home(), Errno::NOENT))?;
        let to = make_parents(&own, &Path::new(UNDO).join(UNDO_FILES).join("any"))
            .context(Operation::MakeFolder, files)?;
        let is_new = |path: &Path| {
            let in_no_tree = [trees.base, trees.now, trees.target]
                .iter()
                .all(|tree| trees.find(tree, path).is_none());
            in_no_tree && meta_at(root, path).is_err_and(|error| is_gone(&error))
        };
        let mut earlier = Vec::new();
        for path in moves.conflicts.iter().chain(&moves.linked) {
            if path.as_os_str().is_empty() {
                // The root stays. Its metadata is in the record.
                continue;
            }
            let is_dir = match trees.find(trees.now, path) {
                Some(at) => trees.now.at(at).is_directory(),
                None if moves.hidden.contains(path) => false,
                None => continue,
            };
            let mut moved = || -> io::Result<()> {
                let files = &to;
                let is_by_hand = moves.conflicts.contains(path);
                let folders = path.parent().unwrap_or(path);
                let (place, is_dir_there) =
                    if is_by_hand { (&**path, is_dir) } else { (folders, true) };
                earlier.extend(make_room(files, place, is_dir_there, is_new)?);
                let to = make_parents(files, path)?;
                let name = last(path)?;
                if is_dir {
                    match fs::mkdirat(&to, &name, Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                    self.give_folders(files, path);
                    return Ok(());
                }
                self.give_folders(files, folders);
                let dir = open_parent(root, path)?;
                match fs::statat(&to, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => Ok(rename_entry(&dir, &name, &to, &name)?),
                    // A file with other names that nobody changed by hand: what the interrupted
                    // switch put here, or what its base has.
                    Ok(_) if !is_by_hand => Ok(()),
                    Ok(_) => Err(Errno::EXIST.into()),
                    Err(errno) => Err(errno.into()),
                }
            };
            moved().context(Operation::MoveAside, || self.path.join(path))?;
        }
        Ok(earlier)
    }
}

/// The paths whose changes by hand a switch moves aside or notes. One that was deleted by hand is
/// not there to be kept, and a folder that was added counts by what is in it.
pub(super) fn kept(trees: &Trees<'_>, moves: &Moves) -> Vec<PathBuf> {
    let is_kept = |path: &&PathBuf| match trees.find(trees.now, path) {
        Some(at) => {
            let was = trees.find(trees.base, path).map(|at| trees.base.at(at));
            !trees.now.at(at).is_directory() || was.is_some_and(Entry::is_directory)
        }
        None => moves.hidden.contains(*path),
    };
    let mended = moves.mend.keys().filter(|path| moves.by_hand.contains(*path));
    let conflicts = moves.conflicts.iter().filter(is_kept);
    let mut kept: Vec<PathBuf> = conflicts.chain(mended).map(|path| shown(path)).collect();
    kept.sort();
    kept
}

/// Gives an entry another name that an interrupted switch moved aside from `path`, or from a folder
/// above it that was none then. Two folders are one. Returns the new name.
fn make_room(
    files: &OwnedFd,
    path: &Path,
    is_dir: bool,
    is_new: impl Fn(&Path) -> bool,
) -> io::Result<Option<PathBuf>> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.pop();
    for at in above.into_iter().rev() {
        match meta_at(files, at) {
            Ok(there) if there.file_type() == fs::FileType::Directory && (is_dir || at != path) => {
            }
            Ok(_) => {
                let name = at.file_name().unwrap_or_default().to_string_lossy();
                // The length of a name is limited.
                let name = if name.len() > 200 { "calve" } else { &name };
                let mut number = 1;
                let new = loop {
                    let new = at.with_file_name(format!("{name}.earlier-{number}"));
                    if is_new(&new) && meta_at(files, &new).is_err_and(|error| is_gone(&error)) {
                        break new;
                    }
                    number += 1;
                };
                let dir = open_parent(files, at)?;
                fs::renameat(&dir, last(at)?, &dir, last(&new)?)?;
                return Ok(Some(new));
            }
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Makes the folder with the undo data of the tree whose root is open. It is missing in a project
/// whose store is elsewhere, and in the tree of a worktree.
fn make_home(root: &OwnedFd, home: &Path) -> io::Result<OwnedFd> {
    let mode = Mode::from_raw_mode(0o755);
    if !home.ends_with(OWN) {
        std::fs::create_dir_all(home)?;
        return Ok(fs::open(home, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty())?);
    }
    fs::mkdirat(root, OWN, mode)?;
    let own = open_at(root, Path::new(OWN))?;
    let hides = fs::openat(&own, GIT_IGNORE, NEW_FILE_FLAGS, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut std::fs::File::from(hides), HIDES_ALL)?;
    Ok(own)
}

/// Renames the undo data, if there is any, to the name of a leftover. Returns that name.
fn undo_aside(own: &OwnedFd) -> io::Result<Option<CString>> {
    let aside = CString::new(stage_name())?;
    Ok(fs::renameat(own, UNDO_C, own, &aside).if_there()?.map(|()| aside))
}

/// Writes the record of a switch into a new file, and onto the disk: it is all that is known of the
/// files that are then moved aside.
fn write_record(file: OwnedFd, encoded: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::from(file);
    io::Write::write_all(&mut file, encoded)?;
    file.sync_all()
}

/// A record and the time at which it was written.
type NotedRecord = (Record, (i64, u32));

/// The switch that an undo takes back.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) record: Record,
    /// When the switch was made: the time of its record.
    pub(super) noted: (i64, u32),
    pub(super) aside: Aside,
}

impl Undo {
    /// How many entries it changes and removes itself, beside what the plan does.
    pub(super) fn counts(&self, trees: &Trees<'_>, moves: &Moves) -> (u64, u64) {
        let now = |path: &Path| trees.find(trees.now, path).map(|at| trees.now.at(at));
        let is_given = |(path, noted): &&(PathBuf, Entry)| {
            let is_other = |now: &Entry| {
                discriminant(&now.kind) == discriminant(&noted.kind)
                    && !trees.maker.gave(now, noted)
                    && !trees.maker.gave(noted, now)
            };
            let is_planned = moves.put.contains_key(path)
                || moves.mend.contains_key(path)
                || moves.remove.contains(path)
                || self.aside.files.contains(path)
                || moves
                    .directories
                    .get(path)
                    .or(path.as_os_str().is_empty().then_some(&ROOT))
                    .is_some_and(|at| trees.changes_directory(moves, path, *at));
            !is_planned && now(path).is_some_and(is_other)
        };
        let goes = |path: &&PathBuf| !moves.goes(path) && now(path).is_some();
        let changed = self.record.metadata.iter().filter(is_given).count();
        (changed as u64, self.record.deleted.iter().filter(goes).count() as u64)
    }

    /// The paths that it handles itself when the tree is at the target.
    pub(super) fn left(&self) -> LeftToUndo {
        LeftToUndo {
            files: self.record.deleted.iter().chain(&self.aside.files).cloned().collect(),
            folders: self.aside.directories.clone(),
        }
    }
}

/// The entries that were moved aside, by the paths that they had.
#[derive(Debug, Default)]
pub(super) struct Aside {
    pub(super) files: BTreeSet<PathBuf>,
    /// Directories that were moved aside, and directories that only hold an entry that was.
    pub(super) directories: BTreeSet<PathBuf>,
}

fn list(files: &OwnedFd) -> io::Result<Aside> {
    let mut aside = Aside::default();
    let mut stack = vec![PathBuf::new()];
    while let Some(below) = stack.pop() {
        let Some(dir) = open_at(files, &below).if_there()? else { continue };
        for (name, kind) in listed(&dir)? {
            let path = below.join(name);
            if kind == fs::FileType::Directory {
                stack.push(path.clone());
                aside.directories.insert(path);
            } else {
                aside.files.insert(path);
            }
        }
    }
    Ok(aside)
}

/// Moves every entry in `from` back to the path that it had.
fn put_back(
    root: &OwnedFd,
    from: &OwnedFd,
    times: Times,
    back: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let mut stack = vec![PathBuf::new()];
    while let Some(below) = stack.pop() {
        let Some(source) = open_at(from, &below).if_there()? else { continue };
        for (name, kind) in listed(&source)? {
            let path = below.join(name);
            let dir = make_parents(root, &path)?;
            let name = last(&path)?;
            if kind == fs::FileType::Directory {
                match fs::mkdirat(
                    &dir,
                    &name,
                    Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH,
                ) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        if Meta::at(&dir, &name)?.file_type() != fs::FileType::Directory {
                            fs::unlinkat(&dir, &name, AtFlags::empty())?;
                            fs::mkdirat(&dir, &name, Mode::RWXU)?;
                        }
                    }
                    Err(errno) => return Err(errno.into()),
                }
                stack.push(path);
                continue;
            }
            if times != Times::OfSnapshot && kind == fs::FileType::RegularFile {
                // The file comes back even if its time cannot be set, because it is another user's.
                let times = modified_at(TIME_NOW);
                let _ = fs::utimensat(&source, &name, &times, AtFlags::SYMLINK_NOFOLLOW);
            }
            match rename_entry(&source, &name, &dir, &name) {
                Ok(()) => {}
                // The directory that is there now is the snapshot's.
                Err(Errno::ISDIR) => {
                    removal::remove(&dir, &name)?;
                    rename_entry(&source, &name, &dir, &name)?;
                }
                Err(errno) => return Err(errno.into()),
            }
            back.push(path);
        }
    }
    back.sort();
    Ok(())
}

impl Trees<'_> {
    /// Makes a path a conflict if an undo will bring its old entry or metadata back and it was
    /// changed by hand since.
    pub(super) fn guard_from_undo(
        &self,
        root: &OwnedFd,
        undo: &Undo,
        moves: &mut Moves,
    ) -> io::Result<()> {
        let Undo { record, aside, .. } = undo;
        let noted: HashMap<&Path, &Entry> =
            record.metadata.iter().map(|(path, entry)| (path.as_path(), entry)).collect();
        for path in &moves.by_hand {
            let Some(now) = self.find(self.now, path).map(|at| self.now.at(at)) else { continue };
            // If the content is the base's and the metadata is as noted, an interrupted undo has
            // already brought the metadata back.
            let same_content = now.is_directory()
                || self.find(self.base, path).is_some_and(|at| self.base.at(at).same_content(now));
            // Either entry may have metadata that could not be set on the other. A file that was
            // not a conflict counts as noted, whatever its content is.
            let is_noted = |noted: &Entry| {
                (same_content || now.mtime == noted.mtime)
                    && (self.maker.gave(now, noted) || self.maker.gave(noted, now))
            };
            if noted.get(path.as_path()).is_some_and(|noted| !is_noted(noted)) {
                moves.conflicts.insert(path.clone());
            }
            let replaced = path.ancestors().any(|above| aside.files.contains(above));
            let blocked = !now.is_directory() && aside.directories.contains(path);
            if replaced || blocked || record.deleted.contains(path) {
                moves.conflicts.insert(path.clone());
            }
        }
        // The metadata is set in place, so another name that the file got since would have it, too.
        // An entry of another kind is not given any.
        let is_other = |(path, noted): (&&Path, &&Entry)| {
            let now = self.find(self.now, path).map(|at| self.now.at(at))?;
            let is_as_noted = self.maker.gave(now, noted) || self.maker.gave(noted, now);
            let is_same_kind = discriminant(&now.kind) == discriminant(&noted.kind);
            let is_given = is_same_kind && !is_as_noted && !moves.put.contains_key(*path);
            is_given.then(|| path.to_path_buf())
        };
        let paths = noted.iter().filter_map(is_other).collect();
        let files = with_names_of(self.base, root, paths)?;
        let others = files.into_iter().filter(|it| it.2 == NamesOnDisk::Others);
        moves.conflicts.extend(others.map(|(path, ..)| path));
        Ok(())
    }
}

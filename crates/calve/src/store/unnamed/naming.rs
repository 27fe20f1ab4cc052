//! Reads the contents of an unnamed snapshot, and names them.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{self, FileType, Mode};

use super::super::at::{is_gone, open_at};
use super::super::blobs::{Intake, IntakeOutcome, Noted};
use super::super::id::{BlobId, SnapshotId};
use super::super::index::{Index, Stat};
use super::super::manifest::{Builder, Entries, Manifest, os};
use super::super::object::{Attributes, Entry, Kind};
use super::super::paths::spelling::Spellings;
use super::super::scan::{self, Mentions, attributes, entry_of, group_of};
use super::super::{Store, bytes_of};
use super::record::{UNTRACED, Unnamed};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::tree::pool::{self, lock};
use crate::tree::read::open_unnoted;
use crate::tree::running::Running;

/// The number of files that a thread takes at once.
const BATCH: usize = 64;

/// A tree that may still have the content that was cloned.
pub(super) struct Holder<'a> {
    pub(super) root: OwnedFd,
    pub(super) index: &'a Index,
    pub(super) by: By,
}

/// Whose content was read, and whose index may vouch for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The project. With it the indexes of all trees vouch.
    Project,
    /// A tree, by the place of its index in the record.
    Tree(usize),
}

/// The result of naming the content of a file.
enum NamedFile {
    /// It has this name now.
    Content {
        blob: BlobId,
        attributes: Option<Box<Attributes>>,
        by: By,
    },
    /// Nobody has it any more. The project has this now.
    Instead(Box<Entry>, Stat),
    Nothing,
}

/// A file whose content was not read in the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exception {
    /// It was read in this tree, whose index alone may vouch for it.
    OfTree(usize),
    /// Nobody has it any more. The project has another one, with this stat.
    Instead(Stat),
    /// The snapshot has no such entry.
    Gone,
}

struct Naming<'a> {
    store: &'a Store,
    /// The directories, without their entries.
    manifest: &'a Manifest,
    /// The entries of the directories, which get their contents here.
    entries: &'a [Mutex<Entries>],
    holders: &'a [Holder<'a>],
    roots: &'a [Vec<u8>],
    spellings: &'a Spellings,
    noted: &'a Noted,
    /// Whether the store has the contents of the snapshot that the project was based on.
    has_base: bool,
    operation: &'a Running,
}

/// Reads the contents of all files, and gives the entries of the tree their names.
pub(super) fn read_contents(
    store: &Store,
    (manifest, base): (&mut Manifest, Option<SnapshotId>),
    holders: &[Holder<'_>],
    project: &Path,
    noted: &Noted,
    operation: &Running,
) -> Result<Files, Error> {
    let roots = vec![bytes_of(project)];
    let spellings = match fs::open(project, DIR_FLAGS, Mode::empty()) {
        Ok(root) => Spellings::of(&root, roots.clone()),
        Err(_) => Spellings::at(roots.clone()),
    };
    let (files, _) = manifest.files();
    let take = |entries: &mut Entries| std::mem::replace(entries, Vec::new().into());
    let entries = manifest.directories.iter_mut().map(|it| Mutex::new(take(&mut it.entries)));
    let entries: Vec<Mutex<Entries>> = entries.collect();
    let naming = Naming {
        store,
        manifest,
        entries: &entries,
        holders,
        roots: &roots,
        spellings: &spellings,
        noted,
        // Nobody collects contents as long as this process shares them.
        has_base: base.is_some_and(|base| store.catalog().object(base).is_ok()),
        operation,
    };
    let read = naming.run(files)?;
    for (directory, entries) in manifest.directories.iter_mut().zip(entries) {
        directory.entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    Ok(read)
}

/// The results of naming: files that were not read in the project, by the entries' numbers; mirrors
/// to seal; files that name the project.
pub(super) type Files = (HashMap<u32, Exception>, Vec<BlobId>, Mentions);

impl Naming<'_> {
    /// Names `files` files.
    fn run(&self, files: u64) -> Result<Files, Error> {
        // Files of one directory that a thread takes at once, by their slots.
        let mut batches: Vec<(u32, Range<u32>)> = Vec::new();
        for (place, entries) in (0..).zip(self.entries) {
            for (slot, entry) in (0..).zip(&*lock(entries)) {
                if !matches!(entry.kind, Kind::File { .. }) {
                    continue;
                }
                match batches.last_mut() {
                    Some((of, slots))
                        if *of == place && slots.end == slot && slots.len() < BATCH =>
                    {
                        slots.end += 1;
                    }
                    _ => batches.push((place, slot..slot + 1)),
                }
            }
        }
        self.operation.expect(files);
        let none = || Mentions { paths: Vec::new(), spellings: self.spellings.clone() };
        // Threads take tasks from the end. The disk is read in the order of the entries.
        batches.reverse();
        let what = (Operation::TakeSnapshot, self.store.path());
        let workers = pool::run(
            self.operation,
            what,
            batches,
            |_| (Intake::noting(self.noted).looking_for(self.roots), Vec::new(), none()),
            |(intake, exceptions, mentions), (place, slots), _| {
                self.files(intake, (place, slots), exceptions, mentions)
            },
        )?;
        let mut all = (HashMap::new(), Vec::new(), none());
        for (intake, exceptions, mentions) in workers {
            all.0.extend(exceptions);
            all.1.extend(intake.unsealed);
            all.2.extend(mentions);
        }
        Ok(all)
    }

    /// Names files of one directory.
    fn files(
        &self,
        intake: &mut Intake,
        (place, slots): (u32, Range<u32>),
        exceptions: &mut Vec<(u32, Exception)>,
        mentions: &mut Mentions,
    ) -> Result<(), Error> {
        let (path, first) = (self.path(place), self.manifest.directories[place as usize].first);
        let entries = &self.entries[place as usize];
        let mut opened: Vec<Option<Option<OwnedFd>>> = Vec::new();
        opened.resize_with(self.holders.len(), || None);
        for slot in slots {
            let (number, entry) = (first + slot, lock(entries)[slot as usize].clone());
            let of_file = || path.join(os(&entry.name));
            let named = self
                .file((intake, mentions), (&path, number, &entry), &mut opened)
                .context(Operation::TakeIn, of_file)?;
            self.operation.file_done(length(&entry));
            let (is, exception) = match named {
                NamedFile::Content { blob, attributes, by } => {
                    let Kind::File { size, link, .. } = entry.kind else { continue };
                    let exception = match by {
                        By::Project => None,
                        By::Tree(tree) => Some(Exception::OfTree(tree)),
                    };
                    let kind = Kind::File { size, link, blob };
                    (Entry { attributes, kind, ..entry }, exception)
                }
                NamedFile::Instead(other, stat) => (*other, Some(Exception::Instead(stat))),
                NamedFile::Nothing => (entry, Some(Exception::Gone)),
            };
            lock(entries)[slot as usize] = is;
            exceptions.extend(exception.map(|exception| (number, exception)));
        }
        Ok(())
    }

    /// The path of a directory.
    fn path(&self, mut place: u32) -> PathBuf {
        let mut names = Vec::new();
        while place != 0 {
            let directory = &self.manifest.directories[place as usize];
            let above = lock(&self.entries[directory.parent as usize]);
            names.push(above[directory.slot as usize].name.clone());
            place = directory.parent;
        }
        names.iter().rev().map(|name| os(name)).collect()
    }

    fn file(
        &self,
        (intake, mentions): (&mut Intake, &mut Mentions),
        (path, number, entry): (&Path, u32, &Entry),
        opened: &mut [Option<Option<OwnedFd>>],
    ) -> io::Result<NamedFile> {
        let stop = || self.operation.is_cancelled();
        let name = CString::new(&*entry.name)?;
        let mut in_project = None;
        for (at, holder) in self.holders.iter().enumerate() {
            let by = holder.by;
            if opened[at].is_none() {
                opened[at] = Some(witness(open_at(&holder.root, path))?);
            }
            let Some(Some(dir)) = &opened[at] else { continue };
            let Some(file) = witness(open_unnoted(dir, &name, SOURCE_FLAGS))? else {
                continue;
            };
            let meta = Meta::of_file(&file)?;
            if meta.file_type() != FileType::RegularFile {
                continue;
            }
            let stat = self.stat_of(holder, number);
            let stamp = (holder.index.stamp.0, i64::from(holder.index.stamp.1));
            if !is_as_recorded(entry, &stat, &meta) || meta.changed >= stamp {
                if by == By::Project {
                    in_project = Some((file, meta));
                }
                continue;
            }
            // The index of the base vouched for it, and it has not changed since.
            if let Kind::File { blob, .. } = entry.kind
                && blob != scan::UNKNOWN
                && by == By::Project
                && self.has_base
            {
                #[cfg(calve_check)]
                crate::check::known_file(dir, &name, &meta, blob);
                return Ok(NamedFile::Content { blob, attributes: entry.attributes.clone(), by });
            }
            match self.store.blobs().take_in(intake, &file, meta, stamp, &stop)? {
                IntakeOutcome::Stored { blob, size, meta: after, traced, .. }
                    if is_as_recorded(entry, &stat, &after)
                        && size == length(entry)
                        && (traced || by != By::Project) =>
                {
                    let path = path.join(os(&entry.name));
                    mentions.note(&path, intake.mentions_root, Some((&file, size)));
                    return Ok(NamedFile::Content { blob, attributes: attributes(&file)?, by });
                }
                _ if by == By::Project => in_project = Some((file, meta)),
                _ => {}
            }
        }
        let Some((file, _)) = in_project else { return Ok(NamedFile::Nothing) };
        // As it is now, by the rules of every snapshot.
        let (meta, stamp) = (Meta::of_file(&file)?, (i64::MIN, 0));
        Ok(match self.store.blobs().take_in(intake, &file, meta, stamp, &stop)? {
            IntakeOutcome::Stored { blob, size, meta, .. } => {
                let path = path.join(os(&entry.name));
                mentions.note(&path, intake.mentions_root, Some((&file, size)));
                let kind = Kind::File { size, link: 0, blob };
                let entry = entry_of(&entry.name, &meta, attributes(&file)?, kind);
                NamedFile::Instead(
                    Box::new(entry),
                    Stat { changed: UNTRACED.changed, ..Stat::of(&meta) },
                )
            }
            IntakeOutcome::Changing => NamedFile::Nothing,
        })
    }

    fn stat_of(&self, holder: &Holder<'_>, number: u32) -> Stat {
        holder.index.stats.get(number as usize).copied().unwrap_or(UNTRACED)
    }
}

/// The opened file. `None` if the file is gone, or we may not read it any more: then it has
/// changed.
pub(super) fn witness<T, E: Into<io::Error>>(opened: Result<T, E>) -> io::Result<Option<T>> {
    match opened.map_err(Into::into) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether a file is as it was when `stat` was taken of it and it had the size and the time of
/// `entry`.
fn is_as_recorded(entry: &Entry, stat: &Stat, meta: &Meta) -> bool {
    let (seconds, nanoseconds) = meta.modified();
    stat.ino != 0
        && Stat::of(meta) == *stat
        && meta.size == length(entry)
        && (seconds, nanoseconds) == (entry.mtime.0, i64::from(entry.mtime.1))
}

fn length(entry: &Entry) -> u64 {
    match entry.kind {
        Kind::File { size, .. } => size,
        _ => 0,
    }
}

/// Makes the record's tree that of the base snapshot, and its indexes the indexes of that: leaves
/// out what is gone. The entries have their contents already. Returns how many files nobody had any
/// more.
pub(super) fn settle(unnamed: &mut Unnamed, exceptions: &HashMap<u32, Exception>) -> u64 {
    let is_gone = |number: u32| exceptions.get(&number) == Some(&Exception::Gone);
    let settle = |index: &mut Index, is_it: &dyn Fn(Exception, Stat) -> Stat| {
        if exceptions.is_empty() {
            return;
        }
        let stats = (0..).zip(std::mem::take(&mut index.stats));
        let stats = stats.filter(|(number, _)| !is_gone(*number));
        let stats = stats.map(|(number, stat)| match exceptions.get(&number) {
            Some(exception) => is_it(*exception, stat),
            None => stat,
        });
        index.stats = stats.collect();
    };
    let nobody = |stat: Stat| Stat { changed: UNTRACED.changed, ..stat };
    settle(&mut unnamed.project, &|exception, stat| match exception {
        Exception::Instead(stat) => stat,
        Exception::OfTree(_) | Exception::Gone => nobody(stat),
    });
    for (tree, (_, index)) in unnamed.trees.iter_mut().enumerate() {
        settle(index, &|exception, stat| match exception {
            Exception::OfTree(by) if by == tree => stat,
            _ => nobody(stat),
        });
    }
    let of = |is: fn(&Exception) -> bool| {
        let numbers = exceptions.iter().filter(move |(_, it)| is(it)).map(|(number, _)| *number);
        numbers.collect::<Vec<u32>>()
    };
    let mut gone = of(|it| matches!(it, Exception::Gone));
    gone.sort_unstable();
    let instead = of(|it| matches!(it, Exception::Instead(_)));
    let changed = gone.len() + instead.len();
    if !gone.is_empty() {
        let mut builder = Builder::new(unnamed.manifest.root.clone());
        for directory in &unnamed.manifest.directories {
            let entries = (directory.first..).zip(&directory.entries);
            let kept = entries.filter(|(number, _)| !is_gone(*number));
            // This cannot fail: there are no more entries than before.
            let _ = builder.add(kept.map(|(_, entry)| entry.clone()).collect::<Vec<_>>());
        }
        unnamed.manifest = builder.finish();
    }
    // An entry's number is less now by the number of those before it that are gone.
    let now = |number: u32| number as usize - gone.partition_point(|it| *it < number);
    let instead = instead.into_iter().map(now).collect();
    link_names(&mut unnamed.manifest, &unnamed.trees[0].1, &instead);
    changed as u64
}

/// Makes names that were one file one file again. `made` is the index of a tree that nobody else
/// had when it was made: names with one inode are one file. The entries with the numbers `instead`
/// are not of that tree.
fn link_names(manifest: &mut Manifest, made: &Index, instead: &HashSet<usize>) {
    // The numbers, inodes and positions of all entries that may have several names.
    fn inodes<'a>(
        manifest: &'a Manifest,
        made: &'a Index,
    ) -> impl Iterator<Item = (usize, u64, (u32, u32))> + 'a {
        let entries = (1..).zip(manifest.entries());
        let entries = entries.filter(|(_, (_, _, entry))| !entry.is_directory());
        entries.map(|(number, (place, slot, _)): (usize, _)| {
            (number, made.stats.get(number).map_or(0, |stat| stat.ino), (place, slot))
        })
    }
    // Few files have more than one name. Only these get a group.
    let mut all: Vec<u64> = inodes(manifest, made).map(|(_, ino, _)| ino).collect();
    all.sort_unstable();
    let pairs = all.windows(2).filter(|pair| pair[0] == pair[1] && pair[0] != 0);
    let several: HashSet<u64> = pairs.map(|pair| pair[0]).collect();
    drop(all);
    if several.is_empty() {
        return;
    }
    let mut groups: HashMap<u64, Vec<(u32, u32)>> = HashMap::new();
    let mut lost = HashSet::new();
    for (number, ino, at) in inodes(manifest, made) {
        if several.contains(&ino) {
            groups.entry(ino).or_default().push(at);
            if instead.contains(&number) {
                lost.insert(ino);
            }
        }
    }
    for (ino, names) in groups {
        if lost.contains(&ino) {
            continue;
        }
        let entry = |(place, slot): (u32, u32)| {
            &manifest.directories[place as usize].entries[slot as usize]
        };
        let first = entry(names[0]);
        let is_one = names
            .iter()
            .all(|at| first.same_content(entry(*at)) && first.same_metadata(entry(*at)));
        if is_one {
            let group = group_of(manifest, &names);
            for (place, slot) in names {
                manifest.directories[place as usize].entries[slot as usize].set_link(group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::record;
    use super::*;

    #[test]
    fn what_nobody_has_any_more_takes_no_number_and_no_index_vouches_for_what_it_did_not_see() {
        // The numbers: the root, the folder `a`, the file `b`, the file `a/c`.
        let stat = |ino, second| Stat { ino, changed: (second, 0) };
        let nobody = |ino| Stat { ino, changed: UNTRACED.changed };
        let stats = |first: u64| (0..4).map(|at| stat(first + at, 8)).collect::<Vec<_>>();
        for (what, exceptions, paths, project, one, two) in [
            ("all were read in the project", vec![], 3, stats(10), stats(20), stats(30)),
            (
                "one was read in the second tree",
                vec![(2, Exception::OfTree(1))],
                3,
                vec![stat(10, 8), stat(11, 8), nobody(12), stat(13, 8)],
                vec![stat(20, 8), stat(21, 8), nobody(22), stat(23, 8)],
                stats(30),
            ),
            (
                "the project has another",
                vec![(3, Exception::Instead(stat(99, 9)))],
                3,
                vec![stat(10, 8), stat(11, 8), stat(12, 8), stat(99, 9)],
                vec![stat(20, 8), stat(21, 8), stat(22, 8), nobody(23)],
                vec![stat(30, 8), stat(31, 8), stat(32, 8), nobody(33)],
            ),
            (
                "one is gone",
                vec![(2, Exception::Gone)],
                2,
                vec![stat(10, 8), stat(11, 8), stat(13, 8)],
                vec![stat(20, 8), stat(21, 8), stat(23, 8)],
                vec![stat(30, 8), stat(31, 8), stat(33, 8)],
            ),
        ] {
            let mut unnamed = record();
            unnamed.project.stats = stats(10);
            unnamed.trees[0].1.stats = stats(20);
            unnamed.trees[1].1.stats = stats(30);
            let exceptions: HashMap<u32, Exception> = exceptions.into_iter().collect();
            let lost = exceptions.values().filter(|it| !matches!(it, Exception::OfTree(_))).count();
            assert_eq!(settle(&mut unnamed, &exceptions), lost as u64, "{what}");
            assert_eq!(unnamed.manifest.entries().count(), paths, "{what}");
            assert_eq!(unnamed.project.stats, project, "{what}");
            assert_eq!(unnamed.trees[0].1.stats, one, "{what}");
            assert_eq!(unnamed.trees[1].1.stats, two, "{what}");
        }
    }

    #[test]
    fn names_of_one_inode_become_one_file_unless_one_of_them_is_of_another_tree() {
        let stat = |ino| Stat { ino, changed: (8, 0) };
        for (what, inos, exception, are_one) in [
            ("two inodes", [1, 2, 3, 4], None, false),
            ("one inode", [1, 2, 3, 3], None, true),
            (
                "one of them is the project's",
                [1, 2, 3, 3],
                Some(Exception::Instead(stat(7))),
                false,
            ),
            ("none is known", [1, 2, 0, 0], None, false),
            ("a folder's", [1, 3, 3, 4], None, false),
        ] {
            let mut unnamed = record();
            for directory in &mut unnamed.manifest.directories {
                for entry in directory.entries.iter_mut().filter(|entry| !entry.is_directory()) {
                    entry.kind = Kind::File { size: 5, link: 0, blob: scan::UNKNOWN };
                }
            }
            unnamed.trees[0].1.stats = inos.into_iter().map(stat).collect();
            settle(&mut unnamed, &exception.map(|exception| (3, exception)).into_iter().collect());
            let links: Vec<u64> = unnamed.manifest.entries().map(|it| it.2.link()).collect();
            assert_eq!(links[1] != 0 && links[1] == links[2], are_one, "{what}: {links:?}");
        }
    }
}

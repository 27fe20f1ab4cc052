//! A list of files that are anywhere as the [`Source`] of a tree: the packages of a manager whose
//! store keeps each content in a file of its own.
//!
//! The list is whole before anything is made, so calve finds what is wrong with it first: a path
//! that leads out of the tree, two entries of one path. calve opens each file by its path, once for
//! all destinations. If a file of the list is missing, calve
//! reports that as an error at once.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, CWD, FileType};

use super::engine::Worker;
use super::file::Job;
use super::filter::{Decision, Filter};
use super::op::{NewNode, Op, OpenNode, Task};
use super::pool::lock;
use super::source::{NamedEntry, Opened, Original, Source};
use super::special::Special;
use super::staging::PREFIX;
use super::{LinkKind, inside_own};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::meta::{Attrs, Meta};

/// The mode of a directory for which the list has none.
const DIRECTORY_MODE: u32 = 0o755;

/// One entry of a tree that [`clone_list`](crate::clone_list) makes.
#[derive(Debug, Clone)]
pub struct TreeEntry {
    path: PathBuf,
    what: EntryKind,
    mode: Option<u32>,
}

#[derive(Debug, Clone)]
enum EntryKind {
    File(PathBuf),
    Directory,
    Symlink(PathBuf),
}

impl TreeEntry {
    /// A regular file at `path` in the tree, with the content of the file `from`. It also gets that
    /// file's mode, times, extended attributes, and its owner if that is allowed.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>, from: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), what: EntryKind::File(from.into()), mode: None }
    }

    /// A directory at `path`, with the mode 0755. Directories above other entries need no entry of
    /// their own; an empty path is the tree itself.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), what: EntryKind::Directory, mode: None }
    }

    /// A symbolic link at `path` to `target`, which need not exist.
    #[must_use]
    pub fn symlink(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), what: EntryKind::Symlink(target.into()), mode: None }
    }

    /// The permission bits of a file or directory, instead of those that it would have. The file
    /// then gets no ACL. In the link modes, a file that has other bits in its place is not linked
    /// but cloned or copied, as if it were [`mutable`](crate::CloneOptions::mutable).
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode & 0o7777);
        self
    }
}

/// The list of an operation, as a tree.
#[derive(Debug)]
pub(super) struct List {
    /// The first one is the root.
    folders: Vec<ListFolder>,
    /// The owner of directories and links.
    owner: (u32, u32),
    /// The devices of the folders that have the files.
    devices: Mutex<HashMap<PathBuf, u64>>,
}

#[derive(Debug, Default)]
struct ListFolder {
    path: PathBuf,
    mode: Option<u32>,
    children: Vec<(CString, u32)>,
    /// Sorted by their names. The index of an entry is its number.
    entries: Vec<ListedEntry>,
}

/// A file or a symbolic link.
#[derive(Debug)]
struct ListedEntry {
    name: CString,
    mode: Option<u32>,
    is_link: bool,
    /// Where the file is; the link's target.
    from: CString,
    mutable: bool,
}

impl ListedEntry {
    fn from(&self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(self.from.to_bytes()))
    }
}

/// The error for an entry that cannot be.
fn refused(kind: ErrorKind, path: &Path, why: &str) -> Error {
    Error::new(kind, Operation::Make, path, io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// The names on the way to an entry.
fn parts(path: &Path) -> Result<Vec<&OsStr>, Error> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) if name.as_bytes().starts_with(PREFIX.as_bytes()) => {
                let why = "this name is reserved for what calve is still making";
                return Err(refused(ErrorKind::InvalidName, path, why));
            }
            Component::Normal(name) => parts.push(name),
            _ => {
                let why = "the path of an entry must lead down from the tree's root";
                return Err(refused(ErrorKind::InvalidName, path, why));
            }
        }
    }
    Ok(parts)
}

/// Whether the patterns keep an entry.
fn keeps(filter: &Filter, parts: &[&OsStr], is_dir: bool) -> bool {
    let (mut path, mut entered) = (PathBuf::new(), false);
    for (at, part) in parts.iter().enumerate() {
        path.push(part);
        let is_last = at + 1 == parts.len();
        match filter.decide(&path, is_dir || !is_last, entered, None) {
            Decision::Leave => return false,
            Decision::Keep => entered = false,
            Decision::Enter if is_last => return false,
            Decision::Enter => entered = true,
        }
    }
    true
}

fn c_string(text: &OsStr, path: &Path) -> Result<CString, Error> {
    CString::new(text.as_bytes()).context(Operation::Make, || path)
}

impl List {
    /// # Errors
    /// An entry that cannot be, or two that cannot both be.
    pub(super) fn new(
        entries: impl Iterator<Item = TreeEntry>,
        filter: &Filter,
    ) -> Result<Self, Error> {
        let process = (rustix::process::geteuid(), rustix::process::getegid());
        let mut list = Self {
            folders: vec![ListFolder::default()],
            owner: (process.0.as_raw(), process.1.as_raw()),
            devices: Mutex::default(),
        };
        let mut places = HashMap::from([(Vec::new(), 0)]);
        for TreeEntry { path, what, mode } in entries {
            let parts = parts(&path)?;
            if !filter.keeps_everything()
                && !keeps(filter, &parts, matches!(what, EntryKind::Directory))
            {
                continue;
            }
            let (is_link, from) = match what {
                EntryKind::Directory => {
                    let folder = list.folder(&mut places, &parts, &path)?;
                    let had = &mut list.folders[folder as usize].mode;
                    *had = mode.or(*had);
                    continue;
                }
                EntryKind::File(from) => (false, from),
                EntryKind::Symlink(target) => (true, target),
            };
            let Some((name, above)) = parts.split_last() else {
                let why = "the tree itself can only be a directory";
                return Err(refused(ErrorKind::InvalidName, &path, why));
            };
            let folder = list.folder(&mut places, above, &path)?;
            // Links to these entries would turn one store of calve's into two with the same files.
            let path: PathBuf = parts.iter().collect();
            let mutable = !is_link && (filter.is_mutable(&path) || inside_own(&path).is_some());
            let name = c_string(name, &path)?;
            let from = c_string(from.as_os_str(), &path)?;
            let entry = ListedEntry { name, mode, is_link, from, mutable };
            list.folders[folder as usize].entries.push(entry);
        }
        list.folders.iter_mut().try_for_each(ListFolder::close)?;
        Ok(list)
    }

    /// The number of the directory with these names, which `path` needs.
    fn folder(
        &mut self,
        places: &mut HashMap<Vec<u8>, u32>,
        parts: &[&OsStr],
        path: &Path,
    ) -> Result<u32, Error> {
        let key = |parts: &[&OsStr]| parts.join(OsStr::new("/")).into_vec();
        if let Some(place) = places.get(&key(parts)) {
            return Ok(*place);
        }
        let mut at = 0;
        for end in 1..=parts.len() {
            let next = u32::try_from(self.folders.len())
                .map_err(|_| refused(ErrorKind::InvalidName, path, "too many directories"))?;
            let place = *places.entry(key(&parts[..end])).or_insert(next);
            if place == next {
                let name = c_string(parts[end - 1], path)?;
                self.folders[at as usize].children.push((name, next));
                let path = parts[..end].iter().collect();
                self.folders.push(ListFolder { path, ..ListFolder::default() });
            }
            at = place;
        }
        Ok(at)
    }

    /// The folders that have the files.
    pub(super) fn origins(&self) -> impl Iterator<Item = PathBuf> {
        let files = self.folders.iter().flat_map(|folder| &folder.entries);
        let mut folders: Vec<_> =
            files.filter(|entry| !entry.is_link).map(|entry| folder_of(&entry.from())).collect();
        folders.sort_unstable();
        folders.dedup();
        folders.into_iter()
    }

    /// The tree's root, as the engine wants it.
    pub(super) fn root(&self) -> Opened<Self> {
        self.opened(0, CString::default())
    }

    fn opened(&self, place: u32, name: CString) -> Opened<Self> {
        let mode = self.folders[place as usize].mode.unwrap_or(DIRECTORY_MODE);
        let meta = self.meta(FileType::Directory, mode);
        Opened { name, side: None, meta, attrs: None, own: place }
    }

    #[cfg_attr(
        any(target_os = "linux", target_os = "android"),
        expect(clippy::useless_conversion, reason = "16 bits elsewhere")
    )]
    fn meta(&self, kind: FileType, mode: u32) -> Meta {
        Meta::made_now(u32::from(kind.as_raw_mode()) | mode, self.owner)
    }

    fn listed(&self, node: &NewNode<Self>, number: u32) -> &ListedEntry {
        &self.folders[node.own as usize].entries[number as usize]
    }

    /// The device of a file, as that of its folder. Unknown folders count as one device: the link
    /// itself says what is wrong.
    fn device(&self, file: &Path) -> u64 {
        let folder = folder_of(file);
        *lock(&self.devices)
            .entry(folder)
            .or_insert_with_key(|folder| fs::stat(folder).map_or(0, |stat| Meta::of(&stat).dev))
    }
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl ListFolder {
    /// Sorts the entries.
    ///
    /// # Errors
    /// Two entries have one name.
    fn close(&mut self) -> Result<(), Error> {
        let shown = |name: &CStr| self.path.join(OsStr::from_bytes(name.to_bytes()));
        self.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some([a, b]) = self.entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let why = format!("the list has it twice: from {:?} and {:?}", a.from(), b.from());
            return Err(refused(ErrorKind::Conflict, &shown(&a.name), &why));
        }
        for (name, _) in &self.children {
            if let Ok(found) = self.entries.binary_search_by(|entry| entry.name.cmp(name)) {
                let from = self.entries[found].from();
                let why =
                    format!("the list has entries below it, and the file {from:?} in its place");
                return Err(refused(ErrorKind::Conflict, &shown(name), &why));
            }
        }
        Ok(())
    }
}

impl Source for List {
    /// The directory's place in the list.
    type Directory = u32;
    type Child = (CString, u32);
    type Thread = ();

    const OPERATION: Operation = Operation::Make;
    const SIDES: usize = 0;

    fn thread(&self) {}

    fn open(
        worker: &mut Worker<'_, '_, Self>,
        _: &OpenNode<Self>,
        (name, place): (CString, u32),
    ) -> Result<Option<Opened<Self>>, Error> {
        Ok(Some(worker.op.from.opened(place, name)))
    }

    fn read(worker: &mut Worker<'_, '_, Self>, node: &OpenNode<Self>) -> Result<(), Error> {
        let op = worker.op;
        let folder = &op.from.folders[node.own as usize];
        node.add_pending(folder.children.len());
        let children = folder.children.iter().cloned();
        op.queue.extend(children.map(|child| Task::Directory { parent: Arc::clone(node), child }));
        let mut batch = Vec::new();
        for (number, listed) in (0..).zip(&folder.entries) {
            op.check()?;
            let kind = if listed.is_link { FileType::Symlink } else { FileType::RegularFile };
            let entry = NamedEntry { name: &listed.name, kind, number };
            if listed.is_link {
                worker.link_of_list(node, entry, listed)?;
                continue;
            }
            if let Some(job) = worker.file_of_list(node, entry, listed)? {
                batch.push(job);
                if batch.len() == op.budget.batch {
                    worker.hand_over(node, std::mem::take(&mut batch))?;
                }
            }
        }
        worker.hand_over(node, batch)
    }

    fn file(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        entry: NamedEntry<'_>,
    ) -> Result<Option<Job<Self>>, Error> {
        let listed = worker.op.from.listed(node, entry.number);
        worker.open_listed(entry, listed).map(Some)
    }

    fn special(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        entry: NamedEntry<'_>,
    ) -> Result<Option<Special<Self>>, Error> {
        Ok(Some(worker.op.from.special(entry, worker.op.from.listed(node, entry.number))))
    }

    fn original<'h>(
        op: &'h Op<'_, Self>,
        node: &'h OpenNode<Self>,
        entry: NamedEntry<'h>,
    ) -> Option<Original<'h>> {
        let listed = op.from.listed(node, entry.number);
        let from = listed.from();
        let dev = op.from.device(&from);
        let absolute = match op.options.links().any(|kind| kind == LinkKind::Symbolic) {
            true => std::path::absolute(&from).unwrap_or(from),
            false => PathBuf::new(),
        };
        Some(Original { dir: CWD, name: &listed.from, dev, absolute })
    }

    /// The path of the listed file.
    fn path_of(op: &Op<'_, Self>, node: &NewNode<Self>, name: &CStr) -> PathBuf {
        let entries = &op.from.folders[node.own as usize].entries;
        match entries.binary_search_by(|entry| entry.name.as_c_str().cmp(name)) {
            Ok(found) => entries[found].from(),
            Err(_) => node.path_of(name),
        }
    }

    fn attributes(&self, node: &NewNode<Self>, job: &Job<Self>) -> io::Result<Option<Box<Attrs>>> {
        let attrs = job.source.as_ref().map_or(Ok(None), Attrs::read)?;
        Ok(match self.listed(node, job.number()).mode {
            Some(_) => attrs.and_then(|attrs| attrs.without_acls()),
            None => attrs,
        })
    }
}

impl List {
    fn special(&self, entry: NamedEntry<'_>, listed: &ListedEntry) -> Special<Self> {
        let target = Some(listed.from.clone());
        let meta = self.meta(FileType::Symlink, 0o777);
        Special { meta, target, number: entry.number, first: None }
    }
}

impl Worker<'_, '_, List> {
    /// Makes a symbolic link of the list at every destination.
    fn link_of_list(
        &mut self,
        node: &OpenNode<List>,
        entry: NamedEntry<'_>,
        listed: &ListedEntry,
    ) -> Result<(), Error> {
        if self.op.dests.is_empty() {
            self.tally_special(0, entry.kind);
        }
        let special = self.op.from.special(entry, listed);
        for dest in 0..self.op.dests.len() {
            self.special_at(dest, node, entry.name, &special)?;
        }
        Ok(())
    }

    /// Links a file of the list, or returns it as a job.
    fn file_of_list(
        &mut self,
        node: &OpenNode<List>,
        entry: NamedEntry<'_>,
        listed: &ListedEntry,
    ) -> Result<Option<Job<List>>, Error> {
        // A link has the mode that its file has. It is only made to a regular file; where there is
        // none, opening it is the error.
        let is_mutable = || {
            listed.mutable
                || fs::lstat(&listed.from).map_or(true, |stat| {
                    let meta = Meta::of(&stat);
                    meta.file_type() != FileType::RegularFile
                        || listed.mode.is_some_and(|mode| meta.permissions() != mode)
                })
        };
        let unlinked = self.unlinked(node, entry, is_mutable)?;
        if unlinked.as_ref().is_some_and(|unlinked| unlinked.iter().all(Option::is_none)) {
            return Ok(None);
        }
        let mut job = self.open_listed(entry, listed)?;
        job.may_be_link = !listed.mutable;
        if self.counts_only() {
            return Ok(None);
        }
        if let Some(unlinked) = unlinked {
            self.create_unlinked(node, &mut job, &unlinked)?;
        }
        Ok(Some(job))
    }

    fn open_listed(
        &mut self,
        entry: NamedEntry<'_>,
        listed: &ListedEntry,
    ) -> Result<Job<List>, Error> {
        let op = self.op;
        let Some((file, found)) = self.open_regular(CWD, &listed.from, || listed.from())? else {
            let cause = io::Error::new(io::ErrorKind::NotFound, "there is no regular file");
            let from = listed.from();
            return Err(Error::new(ErrorKind::SourceNotFound, Operation::Open, from, cause));
        };
        let meta = match listed.mode {
            Some(mode) => found.with_permissions(mode),
            None if op.options.xattrs => found,
            None => {
                found.leaving_acl(&file).context(Operation::ReadAttributes, || listed.from())?
            }
        };
        Ok(Job::new(entry, Some((file, found)), meta))
    }
}

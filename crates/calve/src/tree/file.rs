//! Makes one entry that is no directory: first creates it at every destination, then fills it.
//!
//! In a fresh tree calve creates the entry in its final place, because nobody sees the tree before
//! all of it is published. In a merge calve creates the entry in the stage. When the entry is
//! complete, calve renames it into place, which replaces a file of that name atomically.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::aside::{self, FileArrival};
use super::engine::Worker;
use super::links::{FileKey, LaterName};
use super::node::Handles;
use super::op::{Dir, FirstName, NewNode, Op, OpenNode};
use super::sharing::{NewFile, Tried};
use super::source::{NamedEntry, Source};
use super::staging::{self, stage_name};
use super::tally::{Because, FileLink};
use super::walk::Live;
use super::{
    Callback, CloneMode, Existing, FinishedFile, LinkKind, Reflink, listing, tally, two_names,
};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::copy::{CopiedFile, Copier, have_same_bytes};
use crate::reflink::imp::{NEW_FILE_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{self, Attrs, Meta};
use crate::reflink::refusal::SystemCall;
use crate::reflink::sys;
use crate::report::{Method, SkipReason};

/// How long calve waits for leases on files of the source: `/proc/sys/fs/lease-break-time` is 45 s
/// by default.
const LEASES_MOST: Duration = Duration::from_secs(60);
const LEASE_PAUSE: Duration = Duration::from_millis(10);

/// A file that was created everywhere and is still empty.
pub(crate) struct Job<S: Source> {
    name: CString,
    number: u32,
    /// The open file with the content. `None` if the content is empty.
    pub(super) source: Option<OwnedFd>,
    from: Meta,
    /// The metadata that the new file gets.
    meta: Meta,
    /// Set if this is the first name of a file that has several.
    first: Option<Arc<FirstName<S>>>,
    /// Whether the file may become a link to the source's file.
    pub(super) may_be_link: bool,
    outs: Vec<Out>,
}

impl<S: Source> Job<S> {
    /// An entry with the content of an open file, whose metadata comes with it; or without content.
    pub(crate) fn new(entry: NamedEntry<'_>, content: Option<(OwnedFd, Meta)>, meta: Meta) -> Self {
        let (source, from) = match content {
            Some((source, from)) => (Some(source), from),
            None => (None, meta),
        };
        let NamedEntry { name, number, .. } = entry;
        Self {
            name: name.to_owned(),
            number,
            source,
            from,
            meta,
            first: None,
            may_be_link: false,
            outs: Vec::new(),
        }
    }

    pub(crate) fn with_first(self, first: Option<Arc<FirstName<S>>>) -> Self {
        Self { first, ..self }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether the new file gets another mode than the source's file has.
    pub(super) fn has_another_mode(&self) -> bool {
        self.meta.mode != self.from.mode
    }

    /// The metadata that a copy gets. If the file changed before the copy, the copy has the new
    /// times, unless the caller or a snapshot gives others.
    fn meta_of(&self, copy: &CopiedFile) -> Meta {
        match self.meta.modified() == self.from.modified() {
            true => self.meta.with_times_of(&copy.from),
            false => self.meta,
        }
    }

    /// Whether the source's file is the one with this stat, and has not changed.
    fn is_still(&self, before: &Meta) -> io::Result<bool> {
        let Some(source) = &self.source else { return Ok(false) };
        Ok(Meta::of_file(source)?.is_still(before))
    }

    /// What identifies the file, if it has several names.
    fn key(&self, op: &Op<'_, S>) -> Option<FileKey> {
        let source = self.source.as_ref()?;
        let on = |meta: &Meta| op.operation.filesystems().of(source, meta.dev);
        let meta = Some(&self.from).filter(|meta| meta.links > 1)?;
        FileKey::of(meta, None, on(meta).inodes)
    }

    /// The size of the content.
    fn size(&self) -> u64 {
        self.source.as_ref().map_or(0, |_| self.from.size)
    }
}

/// The file at one destination.
struct Out {
    /// `None` if cloning makes the file, and if a link is already in place.
    fd: Option<OwnedFd>,
    /// In a merge: the name in the stage (or, on another device, in the directory itself).
    temporary: Option<Temporary>,
    /// In the link modes: why the file is not a link.
    because: Option<Because>,
    /// Nothing is left to do at this destination.
    done: bool,
}

/// How a file got its content.
enum FilledFile {
    /// `made_by_clone`: the clone also made the file, and gave it its metadata.
    Cloned {
        made_by_clone: bool,
    },
    Copied(Because, CopiedFile),
    Linked(FileLink),
}

/// What became of an entry that calve tried to rename into place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    Placed,
    /// The destination has an entry of that name, and keeps it.
    Kept,
    /// The entry cannot be renamed there from the stage. calve makes it again in the directory
    /// itself, and stages all later entries of that directory there, too.
    Unreachable,
}

/// The name of a staged file in a merge. If the file is in the stage, it is removed together with
/// the stage. If it is elsewhere, dropping this value removes it.
pub(super) struct Temporary {
    name: CString,
    /// If the file is not in the stage: the directories that contain it, and the destination's
    /// index among them.
    astray: Option<(Arc<Handles>, usize)>,
}

impl Temporary {
    /// Whether the file is outside of the stage.
    fn is_astray(&self) -> bool {
        self.astray.is_some()
    }
}

impl std::ops::Deref for Temporary {
    type Target = CStr;

    fn deref(&self) -> &CStr {
        &self.name
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some((handles, dest)) = &self.astray {
            let _ = fs::unlinkat(&handles.dests()[*dest], &self.name, AtFlags::empty());
        }
    }
}

impl Out {
    const DONE: Self = Self { fd: None, temporary: None, because: None, done: true };
}

/// What became of a regular file that calve was asked to make.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each file")]
enum FileOutcome<'a> {
    Job(Job<Live<'a>>),
    /// The file is complete at every destination.
    Done,
    /// The source's file is gone, or is no regular file any more.
    Changed,
}

/// For each destination: why the file is no link there; `None` where it is one.
pub(super) type Unlinked = Vec<Option<Because>>;

impl<'l> Worker<'_, '_, Live<'l>> {
    /// Handles an entry that is no directory. If the entry is a regular file to clone or copy, it
    /// is returned as a job.
    pub(super) fn entry(
        &mut self,
        node: &OpenNode<Live<'l>>,
        name: CString,
        mut kind: FileType,
        mutable: bool,
    ) -> Result<Option<Job<Live<'l>>>, Error> {
        // The entry may have changed its kind since the listing. calve looks again, three times at
        // most; then somebody is changing it all the time.
        for _ in 0..3 {
            let changed = match kind {
                FileType::RegularFile => {
                    let entry = NamedEntry { name: &name, kind, number: 0 };
                    let is_mutable = || mutable || self.op.changes_mode(node, &name);
                    let unlinked = self.unlinked(node, entry, is_mutable)?;
                    match self.create(node, &name, unlinked.as_deref())? {
                        FileOutcome::Job(job) => {
                            return Ok(Some(Job { may_be_link: !mutable, ..job }));
                        }
                        FileOutcome::Done => return Ok(None),
                        FileOutcome::Changed => true,
                    }
                }
                // A file that was to be replaced is another entry by now.
                FileType::Symlink | FileType::Fifo if self.replaces(node, &name).is_some() => false,
                FileType::Symlink | FileType::Fifo => {
                    let entry = NamedEntry { name: &name, kind, number: 0 };
                    self.special_entry(node, entry)?
                }
                FileType::Socket => {
                    self.op.skip(None, node.path_of(&name), SkipReason::Socket);
                    false
                }
                FileType::BlockDevice | FileType::CharacterDevice => {
                    self.op.skip(None, node.path_of(&name), SkipReason::Device);
                    false
                }
                _ => true,
            };
            if !changed {
                return Ok(None);
            }
            match Meta::at(node.source(), &name) {
                Ok(meta) => kind = meta.file_type(),
                Err(Errno::NOENT) => break,
                Err(errno) => {
                    return Err(Error::io(
                        Operation::Read,
                        self.op.source_path(node, &name),
                        errno,
                    ));
                }
            }
        }
        self.op.skip(None, node.path_of(&name), SkipReason::Vanished);
        Ok(None)
    }

    /// Opens the source's file and creates it at the destinations where it is not a link already.
    fn create(
        &mut self,
        node: &OpenNode<Live<'l>>,
        name: &CStr,
        unlinked: Option<&[Option<Because>]>,
    ) -> Result<FileOutcome<'l>, Error> {
        let op = self.op;
        if unlinked.is_some_and(|unlinked| unlinked.iter().all(Option::is_none)) {
            return Ok(FileOutcome::Done);
        }
        let Some(mut job) = self.open_file(node, name)? else {
            return Ok(FileOutcome::Changed);
        };
        if self.counts_only() {
            return Ok(FileOutcome::Done);
        }
        // calve does not link the file's other names to one that must be a copy of its own.
        let apart = job.has_another_mode()
            || unlinked.is_some_and(|unlinked| unlinked.contains(&Some(Because::Mutable)));
        if let Some(file) = job.key(op).filter(|_| !apart) {
            let entry = NamedEntry { name, kind: FileType::RegularFile, number: 0 };
            match self.first_name(node, entry, (file, job.meta.links), unlinked)? {
                Some(first) => job = job.with_first(Some(first)),
                None => return Ok(FileOutcome::Done),
            }
        }
        if let Some(unlinked) = unlinked {
            self.create_unlinked(node, &mut job, unlinked)?;
        }
        // Without links, `create_batch` creates the file together with its batch.
        Ok(FileOutcome::Job(job))
    }

    /// Opens a regular file of the source. `None` if it is gone, or is no regular file any more.
    pub(super) fn open_file(
        &mut self,
        node: &OpenNode<Live<'l>>,
        name: &CStr,
    ) -> Result<Option<Job<Live<'l>>>, Error> {
        let op = self.op;
        let path = || op.source_path(node, name);
        let source = node.source().as_fd();
        let Some((source, mut meta)) = self.open_regular(source, name, path)? else {
            return Ok(None);
        };
        if !op.options.xattrs && !op.dests.is_empty() {
            meta = meta.leaving_acl(&source).context(Operation::ReadAttributes, path)?;
        }
        let entry = NamedEntry { name, kind: FileType::RegularFile, number: 0 };
        let wanted = op.wanted(node, name, meta);
        Ok(Some(Job::new(entry, Some((source, meta)), wanted)))
    }
}

impl Op<'_, Live<'_>> {
    /// The metadata that the new file gets.
    fn wanted(&self, node: &NewNode<Live<'_>>, name: &CStr, meta: Meta) -> Meta {
        match &self.options.file_mode {
            Some(Callback(mode)) => {
                meta.with_permissions(mode(&node.path_of(name), meta.permissions()) & 0o7777)
            }
            None => meta,
        }
    }

    /// Whether the caller gives a file another mode than the source's file has.
    fn changes_mode(&self, node: &OpenNode<Live<'_>>, name: &CStr) -> bool {
        self.options.file_mode.is_some()
            && Meta::at(node.source(), name)
                .is_ok_and(|meta| self.wanted(node, name, meta).mode != meta.mode)
    }
}

impl<S: Source> Worker<'_, '_, S> {
    /// In the link modes: links the file where that is allowed, and says where it is no link.
    pub(super) fn unlinked(
        &mut self,
        node: &OpenNode<S>,
        entry: NamedEntry<'_>,
        is_mutable: impl Fn() -> bool,
    ) -> Result<Option<Unlinked>, Error> {
        let op = self.op;
        if op.dests.is_empty() {
            return Ok(None);
        }
        match op.options.mode {
            CloneMode::Hardlink | CloneMode::Symlink if is_mutable() => {
                Ok(Some(vec![Some(Because::Mutable); op.dests.len()]))
            }
            CloneMode::Hardlink | CloneMode::Symlink => self.link(node, entry).map(Some),
            CloneMode::Clone if self.refuses_all(node, entry) && !is_mutable() => {
                self.link(node, entry).map(Some)
            }
            CloneMode::Clone | CloneMode::Copy => Ok(None),
        }
    }

    /// Whether links stand in for clones, which no destination takes.
    fn refuses_all(&self, node: &OpenNode<S>, entry: NamedEntry<'_>) -> bool {
        let op = self.op;
        op.options.links_instead()
            && S::original(op, node, entry).is_some_and(|original| {
                op.dests.iter().all(|dest| dest.answers.sharing.known(original.dev).refused)
            })
    }

    /// Makes a link in the place of a file that could not be cloned, which is still empty. `None` if
    /// that is refused, too; then there is no file.
    fn link_instead(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        out: &mut Out,
    ) -> Result<Option<LinkKind>, Error> {
        let (op, kind) = (self.op, FileType::RegularFile);
        let entry = NamedEntry { name: &job.name, kind, number: job.number };
        if !job.may_be_link || job.has_another_mode() {
            return Ok(None);
        }
        let Some(original) = S::original(op, node, entry) else { return Ok(None) };
        let path = || op.dest_path(dest, node, &job.name);
        let mut because = None;
        for kind in op.options.links() {
            let answers = &op.dests[dest].answers;
            let links = answers.links(kind);
            if links.known(original.dev).refused {
                because = Some(Because::Filesystem);
                continue;
            }
            let made = out.fd.take();
            let NewFile { dir, name, .. } = self.new_at(dest, node, &job.name, out);
            if made.is_some() {
                fs::unlinkat(dir, name, AtFlags::empty()).context(Operation::Link, path)?;
            }
            let Err(errno) = answers.link(kind, &original, dir, name) else {
                links.worked(original.dev);
                return Ok(Some(kind));
            };
            let refused = self.link_refused(kind, dest, &original, errno);
            because = Some(refused.map_err(|error| {
                let from = op.source_path(node, &job.name);
                Error::io(Operation::Link, from, error).with_other(path())
            })?);
        }
        out.because = because;
        Ok(None)
    }

    /// Puts the link that stands in for a clone into its place.
    fn settle_link(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        (mut out, linked): (Out, FileLink),
    ) -> Result<Settled, Error> {
        let op = self.op;
        let first = job.first.as_ref().filter(|_| op.merges_into(dest, node));
        let found = match first {
            Some(_) => {
                let NewFile { dir, name, .. } = self.new_at(dest, node, &job.name, &out);
                Meta::at(dir, name)
                    .context(Operation::Read, || op.dest_path(dest, node, &job.name))?
            }
            None => job.from,
        };
        let settled = self.settle(dest, node, &job.name, out.temporary.take())?;
        match settled {
            Settled::Placed => {
                if let Some(first) = first {
                    first.was_put(dest, op.dests.len(), &found);
                }
                self.count_link(dest, node, &job.name, linked);
            }
            Settled::Kept => {}
            Settled::Unreachable => {
                let out = self.create_out(dest, node, job, out.because)?;
                return self.fill_file(dest, node, job, None, out);
            }
        }
        Ok(settled)
    }

    /// In a dry run: counts a file, and returns `true`.
    pub(super) fn counts_only(&mut self) -> bool {
        if self.op.dests.is_empty() {
            self.tallies[0].files += 1;
            self.op.operation.files_done(1);
        }
        self.op.dests.is_empty()
    }

    /// Opens a regular file of the source. `None` if it is gone, or is no regular file.
    pub(super) fn open_regular(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: impl Fn() -> PathBuf,
    ) -> Result<Option<(OwnedFd, Meta)>, Error> {
        let opened = loop {
            match fs::openat(dir, name, SOURCE_FLAGS, Mode::empty()) {
                Err(Errno::AGAIN) if self.waits_for_lease()? => {}
                opened => break opened,
            }
        };
        let source = match opened {
            Ok(source) => source,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(errno) => return Err(Error::io(Operation::Open, path(), errno)),
        };
        let meta = Meta::of_file(&source).context(Operation::Read, path)?;
        Ok((meta.file_type() == FileType::RegularFile).then_some((source, meta)))
    }

    /// Waits a moment for a process that has a lease on a file (Samba and NFS servers take leases).
    /// The kernel has just asked that process to give up the lease. Returns `false` when this
    /// thread's waits together took longer than the kernel lets anybody keep a lease.
    fn waits_for_lease(&mut self) -> Result<bool, Error> {
        self.op.check()?;
        std::thread::sleep(LEASE_PAUSE);
        self.lease_pauses += 1;
        Ok(LEASE_PAUSE * self.lease_pauses < LEASES_MOST)
    }

    /// Makes a further name of a file a separate file, at the destinations where it cannot be
    /// linked. `is_another`: it turned out to be another file.
    pub(super) fn file_apart(
        &mut self,
        node: &OpenNode<S>,
        name: &LaterName<Dir<S>>,
        (broken, is_another): (&[usize], bool),
    ) -> Result<(), Error> {
        let Some(mut job) = S::file(self, node, name.named())? else {
            self.op.skip(None, node.path_of(&name.name), SkipReason::Vanished);
            return Ok(());
        };
        for dest in 0..self.op.dests.len() {
            job.outs.push(if broken.contains(&dest) {
                if !is_another {
                    let path = node.path_of(&name.name);
                    self.op.skip(Some(dest), path, SkipReason::HardlinkBroken);
                }
                let because = name.unlinked.as_ref().and_then(|unlinked| unlinked[dest]);
                self.begin_out(dest, node, &job, because)?
            } else {
                Out::DONE
            });
        }
        self.fill_files(node, std::slice::from_mut(&mut job))
    }

    /// Counts a link.
    pub(super) fn count_link(
        &mut self,
        dest: usize,
        node: &NewNode<S>,
        name: &CStr,
        linked: FileLink,
    ) {
        self.note_arrived(dest, node, name, FileArrival::Linked(linked));
        tally::count_linked(&mut self.tallies[dest], linked);
        let method = match linked.kind {
            LinkKind::Hard => Method::Hardlink,
            LinkKind::Symbolic => Method::Symlink,
        };
        self.tell(dest, node, name, method, linked.instead);
        self.op.operation.files_done(1);
    }

    /// Notes how a file arrived in a folder that is made aside.
    fn note_arrived(&self, dest: usize, node: &NewNode<S>, name: &CStr, how: FileArrival) {
        if let Some(aside) = &node.dests[dest].aside {
            aside.arrived(self.op.options, || node.path_of(name), how);
        }
    }

    /// Creates the files of a batch that do not exist yet. It creates all of them at one
    /// destination before the next, because the filesystem then still has the directory's blocks at
    /// hand.
    pub(super) fn create_batch(
        &mut self,
        node: &OpenNode<S>,
        jobs: &mut [Job<S>],
    ) -> Result<(), Error> {
        for dest in 0..self.op.dests.len() {
            for job in jobs.iter_mut().filter(|job| job.outs.len() == dest) {
                self.op.check()?;
                let out = self.begin_out(dest, node, job, None)?;
                job.outs.push(out);
            }
        }
        Ok(())
    }

    /// Creates the file where it is no link.
    pub(super) fn create_unlinked(
        &mut self,
        node: &OpenNode<S>,
        job: &mut Job<S>,
        unlinked: &[Option<Because>],
    ) -> Result<(), Error> {
        for (dest, because) in unlinked.iter().enumerate() {
            job.outs.push(match because {
                None => Out::DONE,
                because => self.begin_out(dest, node, job, *because)?,
            });
        }
        Ok(())
    }

    /// Creates the file at one destination, unless the destination keeps an entry of that name.
    fn begin_out(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        because: Option<Because>,
    ) -> Result<Out, Error> {
        if self.is_kept(dest, node, &job.name)? {
            self.note_kept(dest, node, job)?;
            self.op.operation.files_done(1);
            return Ok(Out::DONE);
        }
        let refused = || self.op.dests[dest].answers.sharing.known(job.from.dev).refused;
        if self.replaces(node, &job.name).is_some() && refused() {
            return Ok(Out::DONE);
        }
        self.create_out(dest, node, job, because)
    }

    /// Lets a kept file stand for the first name of the source's file if it is the same in all that
    /// can be seen. An operation that was killed made it, and did not link the further names yet.
    fn note_kept(&self, dest: usize, node: &OpenNode<S>, job: &Job<S>) -> Result<(), Error> {
        let (op, Some(first)) = (self.op, &job.first) else { return Ok(()) };
        let path = || op.dest_path(dest, node, &job.name);
        let file = match fs::openat(node.at(dest), &job.name, SOURCE_FLAGS, Mode::empty()) {
            Ok(file) => file,
            // It is gone, is no file, or cannot be read: then the further names are files apart.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::ACCESS) => return Ok(()),
            Err(errno) => return Err(Error::io(Operation::Open, path(), errno)),
        };
        let found = Meta::of_file(&file).context(Operation::Read, path)?;
        if !found.is_like(&job.meta) {
            return Ok(());
        }
        let same = match &job.source {
            Some(source) => have_same_bytes(source, &file, || op.stopped()),
            None => Ok(true),
        };
        match same {
            Ok(true) => first.was_put(dest, op.dests.len(), &found),
            Ok(false) => {}
            Err(_) if op.stopped() => return Err(op.cancelled()),
            Err(error) => return Err(Error::io(Operation::Read, path(), error)),
        }
        Ok(())
    }

    /// Whether the destination keeps an existing entry of that name; if so, counts it. An entry
    /// that appears later is found by [`settle`](Self::settle).
    pub(super) fn is_kept(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        name: &CStr,
    ) -> Result<bool, Error> {
        // Where two names may be one, this operation may itself have made the entry that is there.
        if self.op.options.existing != Existing::Keep
            || !self.op.merges_into(dest, node)
            || node.dests[dest].folds
            || self.replaces(node, name).is_some()
        {
            return Ok(false);
        }
        match fs::statat(node.at(dest), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => {
                self.count_existing(dest, node, name);
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => {
                Err(Error::io(Operation::Read, self.op.dest_path(dest, node, name), errno))
            }
        }
    }

    /// The stats of a picked file that shall replace the destination's file.
    fn replaces(&self, node: &NewNode<S>, name: &CStr) -> Option<&[Meta; 2]> {
        self.op.options.picked.as_ref()?.replaces(&node.path_of(name))
    }

    /// Counts an entry that the merge replaced or kept.
    pub(super) fn count_existing(&mut self, dest: usize, node: &NewNode<S>, name: &CStr) {
        let options = self.op.options;
        let path = || node.path_of(name);
        tally::count_existing(
            &mut self.tallies[dest],
            options.existing,
            options.list_existing,
            path,
        );
    }

    fn create_out(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        because: Option<Because>,
    ) -> Result<Out, Error> {
        let temporary = self.temporary(dest, node)?;
        let mut out = Out { fd: None, temporary, because, done: false };
        if !sys::CLONE_MAKES_THE_FILE || job.source.is_none() {
            out.fd = Some(self.new_file(dest, node, job, &out)?);
        }
        Ok(out)
    }

    fn new_file(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        out: &Out,
    ) -> Result<OwnedFd, Error> {
        let op = self.op;
        let mode = meta::create_mode(&job.meta);
        let dir = self.place(dest, node, out.temporary.as_ref());
        let name = out.temporary.as_deref().unwrap_or(&job.name);
        let path = || op.dest_path(dest, node, &job.name);
        let shown = staging::os(name).as_ref();
        let fd = staging::make_file(dir, shown, NEW_FILE_FLAGS, mode).map_err(|errno| {
            if errno == Errno::EXIST {
                two_names(path())
            } else {
                Error::io(Operation::Make, path(), errno)
            }
        })?;
        if out.temporary.as_ref().is_some_and(Temporary::is_astray) {
            // The file is in an ordinary directory, which may have passed on an ACL. An inherited
            // ACL also replaces the umask.
            meta::strip_inherited_acls(&fd).context(Operation::SetMetadata, path)?;
            meta::give_mode(&fd, mode).context(Operation::SetMetadata, path)?;
        }
        Ok(fd)
    }

    /// In a merge: a name for a staged file.
    pub(super) fn temporary(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
    ) -> Result<Option<Temporary>, Error> {
        if !self.op.merges_into(dest, node) {
            return Ok(None);
        }
        if !node.dests[dest].stage_here.load(Ordering::Relaxed) {
            return Ok(Some(Temporary { name: self.staged_name(dest)?, astray: None }));
        }
        let name = CString::new(stage_name());
        let name = name.context(Operation::Stage, || self.op.dests[dest].path.clone())?;
        Ok(Some(Temporary { name, astray: Some((Arc::clone(&node.handles), dest)) }))
    }

    /// A new name in the stage.
    ///
    /// Each thread that creates entries has its own directory: with one for all, threads would wait
    /// for that directory's lock. The name includes the directory, because another thread may fill
    /// the entry and rename it.
    pub(super) fn staged_name(&mut self, dest: usize) -> Result<CString, Error> {
        if !self.stage_dirs[dest] {
            self.make_stage_dir(dest)?;
        }
        self.staged += 1;
        CString::new(format!("w{}/{}", self.index, self.staged))
            .context(Operation::Stage, || self.op.dests[dest].path.clone())
    }

    /// The directory that the file is created in.
    pub(super) fn place<'h>(
        &'h self,
        dest: usize,
        node: &'h OpenNode<S>,
        temporary: Option<&Temporary>,
    ) -> BorrowedFd<'h> {
        match (temporary, &self.op.dests[dest].merge_stage) {
            (Some(temporary), Some(stage)) if !temporary.is_astray() => stage.dir().as_fd(),
            _ => node.at(dest).as_fd(),
        }
    }

    fn make_stage_dir(&mut self, dest: usize) -> Result<(), Error> {
        if let Some(stage) = &self.op.dests[dest].merge_stage {
            let name = format!("w{}", self.index);
            fs::mkdirat(stage.dir(), name, Mode::RWXU)
                .context(Operation::StageIn, || self.op.dests[dest].path.clone())?;
        }
        self.stage_dirs[dest] = true;
        Ok(())
    }

    /// In a merge: renames a staged entry into place, and counts the entry that it replaced.
    pub(super) fn settle(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        name: &CStr,
        temporary: Option<Temporary>,
    ) -> Result<Settled, Error> {
        let Some(temporary) = temporary else { return Ok(Settled::Placed) };
        let op = self.op;
        let keeps = op.options.existing == Existing::Keep;
        if let Some([_, there]) = self.replaces(node, name).copied() {
            return self.swap(dest, node, (name, &there), temporary);
        }
        let dir = self.place(dest, node, Some(&temporary));
        let into = node.at(dest);
        let rename = || {
            if keeps {
                return staging::rename_new_or_link(dir, &temporary, into, name).map(|()| false);
            }
            // Only a rename that refuses to replace can tell whether there is something to replace.
            let replaces = match staging::rename_new(dir, &temporary, into, name) {
                Err(Errno::EXIST) => true,
                Err(errno) if SystemCall::RenameWithFlags.is_unavailable(errno) => {
                    fs::statat(into, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
                }
                result => return result.map(|()| false),
            };
            fs::renameat(dir, &*temporary, into, name).map(|()| replaces)
        };
        let result = match node.dests[dest].folds {
            true => node.placed.put(dest, into, name, rename),
            false => Ok(rename()),
        };
        let mut result = result.map_err(|first| op.one_place(node, &first, name))?;
        // rename(2) does nothing if both names are already the same inode.
        if result == Ok(true)
            && op.options.hard_links()
            && fs::unlinkat(dir, &*temporary, AtFlags::empty()).is_ok()
        {
            result = Ok(false);
        }
        if keeps && result == Err(Errno::EXIST) {
            // The staged entry is removed with the stage.
            self.count_existing(dest, node, name);
            return Ok(Settled::Kept);
        }
        if result == Err(Errno::XDEV) && !temporary.is_astray() {
            return Ok(stage_here::<S>(dest, node));
        }
        let replaced = result.map_err(|errno| match errno {
            Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR => {
                let roots = aside::MergeRoots { source: op.source, dest: &op.dests[dest].path };
                aside::conflict(FileType::RegularFile, &roots, &node.path_of(name))
            }
            errno => Error::io(Operation::RenameIntoPlace, op.dest_path(dest, node, name), errno),
        })?;
        if replaced {
            self.count_existing(dest, node, name);
        }
        Ok(Settled::Placed)
    }

    /// Renames a staged file to the place of a file that was `there`, unless that one has changed
    /// or is gone.
    fn swap(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        (name, there): (&CStr, &Meta),
        temporary: Temporary,
    ) -> Result<Settled, Error> {
        let dir = self.place(dest, node, Some(&temporary));
        match staging::swap(dir, &temporary, node.at(dest), name, there) {
            Ok(true) => {
                if let Some(picked) = &self.op.options.picked {
                    picked.count_replacement();
                }
                Ok(Settled::Placed)
            }
            Ok(false) => Ok(Settled::Kept),
            Err(Errno::XDEV) if !temporary.is_astray() => Ok(stage_here::<S>(dest, node)),
            Err(errno) => {
                let path = self.op.dest_path(dest, node, name);
                Err(Error::io(Operation::RenameIntoPlace, path, errno))
            }
        }
    }

    /// Gives created files their content and metadata, at one destination after the other.
    pub(super) fn fill_files(
        &mut self,
        node: &OpenNode<S>,
        jobs: &mut [Job<S>],
    ) -> Result<(), Error> {
        let op = self.op;
        // calve reads the attributes here and not when it creates the files, because filling is the
        // shorter half of the work.
        let mut attrs = Vec::with_capacity(jobs.len());
        for job in jobs.iter().take_while(|_| op.options.xattrs) {
            attrs.push(
                op.from
                    .attributes(node, job)
                    .context(Operation::ReadAttributes, || op.source_path(node, &job.name))?,
            );
        }
        for dest in 0..op.dests.len() {
            for (index, job) in jobs.iter_mut().enumerate() {
                op.check()?;
                if job.outs[dest].done {
                    continue;
                }
                let out = std::mem::replace(&mut job.outs[dest], Out::DONE);
                let attrs = attrs.get(index).and_then(Option::as_deref);
                self.fill_file(dest, node, job, attrs, out)?;
                op.operation.file_done(job.size());
            }
        }
        Ok(())
    }

    fn fill_file(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        attrs: Option<&Attrs>,
        mut out: Out,
    ) -> Result<Settled, Error> {
        let op = self.op;
        let (copied, made_by_clone, copy) = match self.content(dest, node, job, &mut out)? {
            FilledFile::Cloned { made_by_clone } => (None, made_by_clone, None),
            FilledFile::Copied(because, copy) => (Some(because), false, Some(copy)),
            FilledFile::Linked(linked) => {
                return self.settle_link(dest, node, job, (out, linked));
            }
        };
        let path = || op.dest_path(dest, node, &job.name);
        let fd = match out.fd.take() {
            Some(fd) => fd,
            None => {
                self.new_at(dest, node, &job.name, &out).reopen().context(Operation::Open, path)?
            }
        };
        let astray = out.temporary.as_ref().is_some_and(Temporary::is_astray);
        let created =
            self.created(dest, &fd, !astray && !made_by_clone).context(Operation::Read, path)?;
        let has_metadata = made_by_clone && S::CLONES_HAVE_METADATA;
        if has_metadata && !op.options.xattrs {
            meta::strip_attributes(&fd).context(Operation::SetMetadata, path)?;
        }
        let attrs = attrs.filter(|_| !has_metadata);
        let made_with = (!made_by_clone).then(|| meta::create_mode(&job.meta));
        let wanted = copy.as_ref().map_or(job.meta, |copy| job.meta_of(copy));
        let refused = meta::apply(&fd, &wanted, attrs, created, made_with)
            .context(Operation::SetMetadata, path)?;
        // In a merge another process may replace the file before calve links its further names to
        // it.
        let first = job.first.as_ref().filter(|_| op.merges_into(dest, node));
        let found = match S::NOTES || first.is_some() {
            true => Some(Meta::of_file(&fd).context(Operation::Read, path)?),
            false => None,
        };
        if copied.is_some() {
            sys::close_written(fd).context(Operation::Close, path)?;
        }
        // The next links to a file that can have no further names are made to this one.
        let copies = op.dests[dest].answers.copies();
        if copies.has(&job.from) == Some(false)
            && op.options.hard_links()
            && !job.has_another_mode()
            && refused.is_empty()
        {
            let NewFile { dir, name, .. } = self.new_at(dest, node, &job.name, &out);
            copies.keep(&job.from, dir, name);
        }
        if let Some([source, _]) = self.replaces(node, &job.name)
            && (copied.is_some()
                || !job
                    .is_still(source)
                    .context(Operation::Read, || op.source_path(node, &job.name))?)
        {
            // A copy of the same bytes is no gain. Or the source's file is another by now. The
            // staged file is removed with the stage.
            return Ok(Settled::Kept);
        }
        match self.settle(dest, node, &job.name, out.temporary.take())? {
            Settled::Placed => {
                if let Some(found) = found {
                    S::note(&mut self.own, dest, job.number, &found);
                    if let Some(first) = first {
                        first.was_put(dest, op.dests.len(), &found);
                    }
                }
            }
            Settled::Kept => return Ok(Settled::Kept),
            Settled::Unreachable => {
                let out = self.create_out(dest, node, job, out.because)?;
                return self.fill_file(dest, node, job, attrs, out);
            }
        }
        if !refused.is_empty() {
            let reason = SkipReason::Xattrs(refused.join(", "));
            op.skip(Some(dest), node.path_of(&job.name), reason);
        }
        self.count_filled(dest, node, job, (copied.zip(copy), out.because));
        Ok(Settled::Placed)
    }

    /// Counts a file that was cloned, or copied for a reason. In the link modes the last value says
    /// why it is no link.
    fn count_filled(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        (copied, unlinked): (Option<(Because, CopiedFile)>, Option<Because>),
    ) {
        let (copied, copy) = copied.unzip();
        if copy.as_ref().is_some_and(|copy| !copy.rested) {
            self.op.skip(Some(dest), node.path_of(&job.name), SkipReason::Torn);
        }
        self.note_arrived(dest, node, &job.name, FileArrival::Filled(copied, unlinked));
        let bytes = copy.map_or_else(|| job.size(), |copy| copy.bytes);
        tally::count(&mut self.tallies[dest], copied, bytes);
        if let Some(because) = unlinked {
            tally::count_unlinked(&mut self.tallies[dest], because);
        }
        let method = if copied.is_none() { Method::Reflink } else { Method::Copy };
        self.tell(dest, node, &job.name, method, copied);
    }

    /// Tells the caller of a file that has arrived.
    fn tell(
        &self,
        dest: usize,
        node: &NewNode<S>,
        name: &CStr,
        method: Method,
        because: Option<Because>,
    ) {
        if let Some(Callback(done)) = &self.op.options.on_file {
            let (destination, path) = (&*self.op.dests[dest].path, &*node.path_of(name));
            done(&FinishedFile { destination, path, method, because });
        }
    }

    /// Clones the file, or links or copies it and says why.
    fn content(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        job: &Job<S>,
        out: &mut Out,
    ) -> Result<FilledFile, Error> {
        let op = self.op;
        let Some(source) = &job.source else {
            return Ok(FilledFile::Cloned { made_by_clone: false });
        };
        // The file can have no further names, and since this one was created it got a copy.
        if out.because == Some(Because::File)
            && op.options.hard_links()
            && op.dests[dest].answers.copies().has(&job.from) == Some(true)
            && let Some(kind) = self.link_instead(dest, node, job, out)?
        {
            let instead = op.options.links_instead().then_some(Because::Filesystem);
            return Ok(FilledFile::Linked(FileLink { kind, instead }));
        }
        let failed = |error: io::Error| {
            if op.stopped() {
                // The operation was stopped between two calls. The error or the cancellation that
                // stopped it is reported as the cause.
                return op.cancelled();
            }
            S::failed(op.source_path(node, &job.name), op.dest_path(dest, node, &job.name), error)
        };
        let because = match self.try_clone(dest, node, (source, job), out).map_err(failed)? {
            Tried::Cloned => return Ok(FilledFile::Cloned { made_by_clone: out.fd.is_none() }),
            Tried::No(because, refusal) => {
                if op.options.reflink == Reflink::Always {
                    let error = refusal.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
                    let path = op.source_path(node, &job.name);
                    return Err(Error::new(
                        ErrorKind::ReflinkRefused,
                        Operation::Reflink,
                        path,
                        error,
                    )
                    .with_other(op.dest_path(dest, node, &job.name)));
                }
                because
            }
        };
        if op.options.links_instead()
            && out.because.is_none()
            && let Some(kind) = self.link_instead(dest, node, job, out)?
        {
            return Ok(FilledFile::Linked(FileLink { kind, instead: Some(because) }));
        }
        if out.fd.is_none() {
            out.fd = Some(self.new_file(dest, node, job, out)?);
        }
        let failed = |error| if op.stopped() { op.cancelled() } else { failed(error).into_copy() };
        let mut copier = std::mem::take(&mut self.copier);
        let copied = self.copy(&mut copier, dest, node, (source, job), out);
        self.copier = copier;
        let copy = copied.map_err(failed)?;
        let because = op.from.refused(because, &job.from);
        Ok(FilledFile::Copied(out.because.unwrap_or(because), copy))
    }

    /// Copies the file, whose new file is open.
    fn copy(
        &self,
        copier: &mut Copier,
        dest: usize,
        node: &OpenNode<S>,
        (source, job): (&OwnedFd, &Job<S>),
        out: &Out,
    ) -> io::Result<CopiedFile> {
        let op = self.op;
        let new = self.new_at(dest, node, &job.name, out);
        let fd = new.open.ok_or(Errno::BADF)?;
        // calve itself may have linked the file at an earlier destination.
        let from = if dest == 0 { job.from } else { Meta::of_file(source)? };
        listing::wait_for_tick_after(from.changed);
        let on = op.operation.filesystems().of(source, from.dev);
        let is_same = || match new.reopen() {
            Ok(copy) => have_same_bytes(source, copy, || op.stopped()),
            // This process may not read it.
            Err(Errno::ACCESS) => Ok(false),
            Err(errno) => Err(errno.into()),
        };
        copier.copy_at_rest(source, fd, &from, on, || op.stopped(), is_same)
    }

    fn try_clone(
        &self,
        dest: usize,
        node: &OpenNode<S>,
        (source, job): (&OwnedFd, &Job<S>),
        out: &Out,
    ) -> io::Result<Tried> {
        let op = self.op;
        if op.options.mode == CloneMode::Copy || op.options.reflink == Reflink::Never {
            return Ok(Tried::No(Because::Disabled, None));
        }
        let sharing = &op.dests[dest].answers.sharing;
        // With `Reflink::Always` a refusal is an error, which should have this file's own errno. So
        // calve tries each file then.
        if sharing.known(job.from.dev).refused && op.options.reflink != Reflink::Always {
            return Ok(Tried::No(Because::Filesystem, None));
        }
        let new = self.new_at(dest, node, &job.name, out);
        let known = (&**op.operation.patience(), &**op.operation.filesystems());
        sharing.try_clone(source, &job.from, new, known, || op.stopped())
    }

    /// The new file that will become `name`, at its temporary name in a merge.
    fn new_at<'h>(
        &'h self,
        dest: usize,
        node: &'h OpenNode<S>,
        name: &'h CStr,
        out: &'h Out,
    ) -> NewFile<'h> {
        let dir = self.place(dest, node, out.temporary.as_ref());
        NewFile { dir, name: out.temporary.as_deref().unwrap_or(name), open: out.fd.as_ref() }
    }
}

/// Lets the files of a directory be staged in the directory itself, because none can be renamed into
/// it from the stage.
fn stage_here<S: Source>(dest: usize, node: &OpenNode<S>) -> Settled {
    if !node.dests[dest].stage_here.swap(true, Ordering::Relaxed) {
        // A killed process may have left staged files here.
        staging::sweep(node.at(dest));
    }
    Settled::Unreachable
}

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

use super::aside;
use super::engine::Worker;
use super::links::FileKey;
use super::node::Handles;
use super::op::{FirstName, NewNode, Op, OpenNode};
use super::sharing::NewFile;
use super::source::{NamedEntry, Source};
use super::staging::{self, stage_name};
use super::tally::Because;
use super::{Existing, tally, two_names};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::copy::{CopiedFile, have_same_bytes};
use crate::reflink::imp::{NEW_FILE_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::{self, Meta};
use crate::reflink::refusal::SystemCall;
use crate::reflink::sys;

mod fill;
mod link;
mod live;

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

/// For each destination: why the file is no link there; `None` where it is one.
pub(super) type Unlinked = Vec<Option<Because>>;

impl<S: Source> Worker<'_, '_, S> {
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

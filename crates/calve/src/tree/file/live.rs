//! Opens the regular files of a live directory, and decides which metadata they get.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::super::Callback;
use super::super::engine::Worker;
use super::super::op::{NewNode, Op, OpenNode};
use super::super::source::NamedEntry;
use super::super::tally::Because;
use super::super::walk::Live;
use super::Job;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::meta::Meta;
use crate::report::SkipReason;

/// What became of a regular file that calve was asked to make.
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each file")]
enum FileOutcome<'a> {
    Job(Job<Live<'a>>),
    /// The file is complete at every destination.
    Done,
    /// The source's file is gone, or is no regular file any more.
    Changed,
}

impl<'l> Worker<'_, '_, Live<'l>> {
    /// Handles an entry that is no directory. If the entry is a regular file to clone or copy, it
    /// is returned as a job.
    pub(in crate::tree) fn entry(
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
    pub(in crate::tree) fn open_file(
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

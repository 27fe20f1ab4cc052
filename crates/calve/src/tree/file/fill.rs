//! Gives created files their content and metadata.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::super::aside::FileArrival;
use super::super::engine::Worker;
use super::super::op::{NewNode, OpenNode};
use super::super::sharing::{NewFile, Tried};
use super::super::source::Source;
use super::super::tally::{self, Because, FileLink};
use super::super::{Callback, CloneMode, FinishedFile, Reflink, listing};
use super::{Job, Out, Settled, Temporary};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::copy::{CopiedFile, Copier, have_same_bytes};
use crate::reflink::meta::{self, Attrs, Meta};
use crate::reflink::sys;
use crate::report::{Method, SkipReason};

/// How a file got its content.
enum FilledFile {
    /// `made_by_clone`: the clone also made the file, and gave it its metadata.
    Cloned {
        made_by_clone: bool,
    },
    Copied(Because, CopiedFile),
    Linked(FileLink),
}

impl<S: Source> Worker<'_, '_, S> {
    /// Gives created files their content and metadata, at one destination after the other.
    pub(in crate::tree) fn fill_files(
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

    pub(super) fn fill_file(
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
        if refused.is_empty() {
            self.offer_for_links(dest, node, job, &out);
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

    /// The next links to a file that can have no further names are made to this new one.
    fn offer_for_links(&self, dest: usize, node: &OpenNode<S>, job: &Job<S>, out: &Out) {
        let copies = self.op.dests[dest].answers.copies();
        if copies.has(&job.from) == Some(false)
            && self.op.options.hard_links()
            && !job.has_another_mode()
        {
            let NewFile { dir, name, .. } = self.new_at(dest, node, &job.name, out);
            copies.keep(&job.from, dir, name);
        }
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
    pub(super) fn tell(
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
}

//! Files that are links instead of clones, and further names of a file that cannot be links.

use std::ffi::CStr;

use rustix::fs::{self, AtFlags, FileType};

use super::super::aside::FileArrival;
use super::super::engine::Worker;
use super::super::links::LaterName;
use super::super::op::{Dir, NewNode, OpenNode};
use super::super::sharing::NewFile;
use super::super::source::{NamedEntry, Source};
use super::super::tally::{self, Because, FileLink};
use super::super::{CloneMode, LinkKind};
use super::{Job, Out, Settled, Unlinked};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::meta::Meta;
use crate::report::{Method, SkipReason};

impl<S: Source> Worker<'_, '_, S> {
    /// In the link modes: links the file where that is allowed, and says where it is no link.
    pub(in crate::tree) fn unlinked(
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
    pub(super) fn link_instead(
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
    pub(super) fn settle_link(
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

    /// Makes a further name of a file a separate file, at the destinations where it cannot be
    /// linked. `is_another`: it turned out to be another file.
    pub(in crate::tree) fn file_apart(
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
    pub(in crate::tree) fn count_link(
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
    pub(super) fn note_arrived(
        &self,
        dest: usize,
        node: &NewNode<S>,
        name: &CStr,
        how: FileArrival,
    ) {
        if let Some(aside) = &node.dests[dest].aside {
            aside.arrived(self.op.options, || node.path_of(name), how);
        }
    }
}

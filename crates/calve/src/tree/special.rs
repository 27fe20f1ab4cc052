//! Entries that need no filling: links to the source and within the tree, symbolic links, FIFOs.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::file::{Settled, Unlinked};
use super::links::{First, Seen};
use super::node::Handles;
use super::op::Node;
use super::tally::Because;
use super::walk::{Worker, two_names};
use super::{Existing, Mode as LinkMode};
use crate::error::{Context as _, Error};
use crate::reflink::meta::{self, Meta};
use crate::reflink::verdict::{Verdict, classify};
use crate::report::SkipReason;

impl Worker<'_, '_> {
    /// Makes an entry that needs no filling: at its place where that is free, else (in a merge) staged and renamed, unless what is
    /// there is kept; always that where two names may be one.
    fn make(
        &mut self,
        dest: usize,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
    ) -> Result<rustix::io::Result<Settled>, Error> {
        if !node.dests[dest].folds {
            match make(handles.dests()[dest].as_fd(), name) {
                Err(Errno::EXIST) if self.op.options.existing == Existing::Keep => {
                    self.count_existing(dest, node, name);
                    return Ok(Ok(Settled::Kept));
                }
                Err(Errno::EXIST) => {}
                result => return Ok(result.map(|()| Settled::Placed)),
            }
        }
        loop {
            let Some(temporary) = self.temporary(dest, node, handles)? else {
                return Err(two_names(self.op.dest_path(dest, node, name)));
            };
            if let Err(errno) = make(self.place(dest, handles, Some(&temporary)), &temporary) {
                return Ok(Err(errno));
            }
            match self.settle(dest, node, handles, name, Some(temporary))? {
                Settled::Unreachable => {}
                settled => return Ok(Ok(settled)),
            }
        }
    }

    /// A further name of a file that was made already; `None` where it cannot be linked, or is not that file any more.
    pub(super) fn link_to_first(
        &mut self,
        dest: usize,
        first: &First,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
    ) -> Result<Option<Settled>, Error> {
        let op = self.op;
        // Before it is told that a link is broken.
        if self.is_kept(dest, node, handles, name)? {
            return Ok(Some(Settled::Kept));
        }
        let Ok(from) = first.dir.handles(&op.dirs) else { return Ok(None) };
        if op.dests[dest].merge_stage.is_some() {
            let same = fs::statat(&from.dests()[dest], &first.name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| first.ids.get(dest) == Some(&Some(Meta::of(&stat).id())));
            // It is still staged, or another merge replaced it, or it was kept and is another file.
            if !same {
                return Ok(None);
            }
        }
        let made = self.make(dest, node, handles, name, |dir, name| {
            fs::linkat(&from.dests()[dest], &first.name, dir, name, AtFlags::empty())
        })?;
        match made {
            Ok(settled) => Ok(Some(settled)),
            Err(errno @ (Errno::IO | Errno::NOSPC | Errno::DQUOT | Errno::NOMEM)) => {
                Err(Error::io("link", op.dest_path(dest, node, name), errno))
            }
            Err(_) => Ok(None),
        }
    }

    /// The link modes: links the file wherever it can be.
    pub(super) fn link(
        &mut self,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
    ) -> Result<Unlinked, Error> {
        let op = self.op;
        let hard = op.options.mode == LinkMode::Hardlink;
        let target = (!hard).then(|| op.source_absolute.join(node.path_of(name)));
        let dev = node.meta.dev;
        let mut unlinked = Vec::with_capacity(op.dests.len());
        for (dest, at) in op.dests.iter().enumerate() {
            if hard && at.link_verdicts.known(dev).refused {
                unlinked.push(Some(Because::Filesystem));
                continue;
            }
            let made = self.make(dest, node, handles, name, |dir, place| match &target {
                Some(target) => fs::symlinkat(target, dir, place),
                None => fs::linkat(handles.source(), name, dir, place, AtFlags::empty()),
            })?;
            let errno = match made {
                Ok(Settled::Kept) => {
                    op.operation.files_done(1);
                    unlinked.push(None);
                    continue;
                }
                Ok(_) => {
                    if hard {
                        at.link_verdicts.worked(dev);
                    }
                    self.count_link(dest);
                    unlinked.push(None);
                    continue;
                }
                Err(errno) => errno,
            };
            let error = io::Error::from(errno);
            unlinked.push(Some(match classify(&error) {
                // It is gone; opening it will tell.
                _ if hard && errno == Errno::NOENT => Because::File,
                Verdict::Filesystem if hard => Because::Filesystem,
                Verdict::File if hard => Because::File,
                _ => {
                    return Err(Error::io("link", op.source_path(node, name), error)
                        .with_other(op.dest_path(dest, node, name)));
                }
            }));
            if errno != Errno::NOENT {
                // Of a file that belongs to another user it is about that file (protected_hardlinks, proc_sys_fs(5)), however
                // many of them there are.
                let counts = errno == Errno::ACCESS
                    || errno == Errno::PERM && is_own_file(handles.source(), name);
                at.link_verdicts.refused(dev, classify(&error), counts);
            }
        }
        Ok(unlinked)
    }

    /// Recreates a symbolic link; `true` where it is none any more.
    pub(super) fn symlink(
        &mut self,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
    ) -> Result<bool, Error> {
        let op = self.op;
        let path = || op.source_path(node, name);
        let target = match fs::readlinkat(handles.source(), name, Vec::new()) {
            Ok(target) => target,
            Err(Errno::NOENT | Errno::INVAL) => return Ok(true),
            Err(errno) => return Err(Error::io("read link", path(), errno)),
        };
        let Some(meta) = self.stat_again(node, handles, name, FileType::Symlink)? else {
            return Ok(true);
        };
        self.special(node, handles, name, &meta, None, |dir, name| {
            fs::symlinkat(&target, dir, name)
        })?;
        Ok(false)
    }

    /// Recreates a FIFO; `true` where it is none any more.
    pub(super) fn fifo(
        &mut self,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
    ) -> Result<bool, Error> {
        let Some(meta) = self.stat_again(node, handles, name, FileType::Fifo)? else {
            return Ok(true);
        };
        let meta = meta
            .leaving_acl_at(handles.source(), name)
            .context("read attributes of", || self.op.source_path(node, name))?;
        let mode = meta::mode(meta.permissions());
        self.special(node, handles, name, &meta, Some(mode), |dir, name| {
            make_fifo(dir, name, mode)
        })?;
        Ok(false)
    }

    fn stat_again(
        &self,
        node: &Node,
        handles: &Handles,
        name: &CStr,
        kind: FileType,
    ) -> Result<Option<Meta>, Error> {
        match fs::statat(handles.source(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Meta::of(&stat)).filter(|meta| meta.file_type() == kind)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io("read", self.op.source_path(node, name), errno)),
        }
    }

    /// Makes an entry without content, with its metadata, at every destination; or a hard link to it, where it is a further
    /// name.
    fn special(
        &mut self,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
        meta: &Meta,
        mode: Option<Mode>,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
    ) -> Result<(), Error> {
        let op = self.op;
        let dests = 0..op.dests.len();
        if op.dests.is_empty() {
            self.count_special(0, meta);
        }
        if meta.links <= 1 || op.dests.is_empty() {
            for dest in dests.clone() {
                self.special_at(dest, node, handles, name, meta, mode, &make)?;
            }
        } else {
            node.remember(handles).context("read directory", || op.source_path(node, name))?;
            let seen = op.links.first_or(meta, node, name, || {
                let mut ids = Vec::new();
                for dest in dests.clone() {
                    if self.special_at(dest, node, handles, name, meta, mode, &make)?
                        == Settled::Kept
                    {
                        ids.push(None);
                        continue;
                    }
                    let stat = fs::statat(&handles.dests()[dest], name, AtFlags::SYMLINK_NOFOLLOW)
                        .context("read", || op.dest_path(dest, node, name))?;
                    ids.push(Some(Meta::of(&stat).id()));
                }
                Ok(((), ids))
            })?;
            if let Seen::Before(first) = seen {
                for dest in dests.clone() {
                    match self.link_to_first(dest, &first, node, handles, name)? {
                        Some(Settled::Kept) => {}
                        Some(_) => self.count_special(dest, meta),
                        None => {
                            op.skip(Some(dest), node.path_of(name), SkipReason::HardlinkBroken);
                            self.special_at(dest, node, handles, name, meta, mode, &make)?;
                        }
                    }
                }
            }
        }
        op.operation.files_done(dests.len() as u64);
        Ok(())
    }

    /// At one destination. In a merge it is staged: its metadata is set by name, and a name in the destination may be
    /// anybody's a moment later.
    #[expect(clippy::too_many_arguments, reason = "the inner half of one function")]
    fn special_at(
        &mut self,
        dest: usize,
        node: &Arc<Node>,
        handles: &Arc<Handles>,
        name: &CStr,
        meta: &Meta,
        mode: Option<Mode>,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
    ) -> Result<Settled, Error> {
        let op = self.op;
        if self.is_kept(dest, node, handles, name)? {
            return Ok(Settled::Kept);
        }
        let path = || op.dest_path(dest, node, name);
        let created = meta::created_by_us(self.mode_is_exact);
        loop {
            let temporary = self.temporary(dest, node, handles)?;
            let dir = self.place(dest, handles, temporary.as_ref());
            let place = temporary.as_deref().unwrap_or(name);
            make(dir, place).map_err(|errno| match errno {
                Errno::EXIST => two_names(path()),
                errno => Error::io("make", path(), errno),
            })?;
            meta::apply_at(dir, place, meta, created, mode).context("set metadata of", path)?;
            let settled = self.settle(dest, node, handles, name, temporary)?;
            match settled {
                Settled::Placed => self.count_special(dest, meta),
                Settled::Kept => {}
                Settled::Unreachable => continue,
            }
            return Ok(settled);
        }
    }

    fn count_special(&mut self, dest: usize, meta: &Meta) {
        let tally = &mut self.tallies[dest];
        *match meta.file_type() {
            FileType::Symlink => &mut tally.symlinks,
            _ => &mut tally.fifos,
        } += 1;
    }
}

/// Whether a file belongs to who asks; also where that cannot be told.
fn is_own_file(dir: &OwnedFd, name: &CStr) -> bool {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(true, |stat| stat.st_uid == rustix::process::geteuid().as_raw())
}

#[cfg(not(target_vendor = "apple"))]
pub(crate) fn make_fifo(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> rustix::io::Result<()> {
    fs::mknodat(dir, name, FileType::Fifo, mode, 0)
}

#[cfg(target_vendor = "apple")]
pub(crate) fn make_fifo(dir: BorrowedFd<'_>, name: &CStr, mode: Mode) -> rustix::io::Result<()> {
    crate::reflink::sys::make_fifo(dir, name, mode)
}

//! Makes entries that need no filling: links to the source and within the tree, symbolic links,
//! FIFOs.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::engine::Worker;
use super::file::{Settled, Unlinked};
use super::links::{FileKey, Further, LaterName};
use super::op::{Dir, FirstName, OpenNode};
use super::source::{NamedEntry, Original, Source};
use super::tally::{Because, FileLink};
use super::walk::Live;
use super::{CloneMode, Existing, LinkKind, two_names};
use crate::error::{Context as _, Error, Operation};
use crate::reflink::meta::{self, Meta};
use crate::reflink::verdict::{Verdict, classify};
use crate::report::SkipReason;

impl<S: Source> Worker<'_, '_, S> {
    /// Makes an entry that needs no filling. If its name is free, calve makes it there. Otherwise,
    /// in a merge, it stages the entry and renames it, unless the destination keeps its own. Where
    /// two names may be one, calve always stages.
    fn make(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        name: &CStr,
        make: impl Fn(BorrowedFd<'_>, &CStr) -> rustix::io::Result<()>,
    ) -> Result<rustix::io::Result<Settled>, Error> {
        if !node.dests[dest].folds {
            match make(node.at(dest).as_fd(), name) {
                Err(Errno::EXIST) if self.op.options.existing == Existing::Keep => {
                    self.count_existing(dest, node, name);
                    return Ok(Ok(Settled::Kept));
                }
                Err(Errno::EXIST) => {}
                result => return Ok(result.map(|()| Settled::Placed)),
            }
        }
        loop {
            let Some(temporary) = self.temporary(dest, node)? else {
                return Err(two_names(self.op.dest_path(dest, node, name)));
            };
            if let Err(errno) = make(self.place(dest, node, Some(&temporary)), &temporary) {
                return Ok(Err(errno));
            }
            match self.settle(dest, node, name, Some(temporary))? {
                Settled::Unreachable => {}
                settled => return Ok(Ok(settled)),
            }
        }
    }

    /// Links a further name to a file's first name. `None` if that fails, or if the first name has
    /// another file now.
    pub(super) fn link_to_first(
        &mut self,
        dest: usize,
        first: &FirstName<S>,
        node: &OpenNode<S>,
        name: &CStr,
    ) -> Result<Option<Settled>, Error> {
        let op = self.op;
        // A kept entry comes first: it must not be reported as a broken link.
        if self.is_kept(dest, node, name)? {
            return Ok(Some(Settled::Kept));
        }
        let Ok(from) = first.dir.handles(&op.dirs) else { return Ok(None) };
        // Nobody else sees a folder that is made aside.
        if op.merges_into(dest, &first.dir) {
            let same =
                Meta::at(&from.dests()[dest], &first.name).is_ok_and(|meta| first.is(dest, &meta));
            // Another merge replaced the first name, or this merge kept another file there.
            if !same {
                return Ok(None);
            }
        }
        let made = self.make(dest, node, name, |dir, name| {
            fs::linkat(&from.dests()[dest], &first.name, dir, name, AtFlags::empty())
        })?;
        match made {
            Ok(settled) => Ok(Some(settled)),
            Err(errno @ (Errno::IO | Errno::NOSPC | Errno::DQUOT | Errno::NOMEM)) => {
                Err(Error::io(Operation::Link, op.dest_path(dest, node, name), errno))
            }
            Err(_) => Ok(None),
        }
    }

    /// Makes the further names in one directory. The files' first names are in place.
    pub(super) fn link_further(&mut self, further: &Further<Dir<S>>) -> Result<(), Error> {
        let op = self.op;
        let node = &op.open(&further.dir)?;
        for name in &further.names {
            let mut broken = Vec::new();
            let dests = (0..op.dests.len()).filter(|dest| !name.is_link_to_source(*dest));
            if name.kind == FileType::RegularFile
                && !name.is_certain
                && !S::is_same_file(self, node, name)?
            {
                let dests: Vec<_> = dests.collect();
                self.file_apart(node, name, (&dests, true))?;
                continue;
            }
            for dest in dests {
                op.check()?;
                match self.link_to_first(dest, &name.first, node, &name.name)? {
                    Some(Settled::Kept) => op.operation.files_done(1),
                    Some(_) if name.kind == FileType::RegularFile => {
                        self.count_link(dest, node, &name.name, FileLink::FURTHER);
                    }
                    Some(_) => self.count_special(dest, name.kind),
                    None => broken.push(dest),
                }
            }
            match name.kind {
                _ if broken.is_empty() => {}
                FileType::RegularFile => self.file_apart(node, name, (&broken, false))?,
                _ => self.special_apart(node, name, &broken)?,
            }
        }
        Ok(())
    }

    /// Makes a further name of an entry without content a separate entry, at the destinations where
    /// it cannot be linked.
    fn special_apart(
        &mut self,
        node: &OpenNode<S>,
        name: &LaterName<Dir<S>>,
        broken: &[usize],
    ) -> Result<(), Error> {
        let Some(special) = S::special(self, node, name.named())? else {
            self.op.skip(None, node.path_of(&name.name), SkipReason::Vanished);
            return Ok(());
        };
        for dest in broken {
            self.op.skip(Some(*dest), node.path_of(&name.name), SkipReason::HardlinkBroken);
            self.special_at(*dest, node, &name.name, &special)?;
        }
        Ok(())
    }

    /// Makes the entry at one destination. In a merge calve stages it: it sets the metadata by
    /// name, and a name in the destination may be somebody else's entry a moment later.
    pub(crate) fn special_at(
        &mut self,
        dest: usize,
        node: &OpenNode<S>,
        name: &CStr,
        special: &Special<S>,
    ) -> Result<(), Error> {
        let op = self.op;
        if self.is_kept(dest, node, name)? {
            if let Some(first) = &special.first {
                let dir = node.at(dest);
                let found = Meta::at(dir, name).ok().filter(|found| found.is_like(&special.meta));
                let target = fs::readlinkat(dir, name, Vec::new()).ok();
                if let Some(found) = found.filter(|_| target == special.target) {
                    first.was_put(dest, op.dests.len(), &found);
                }
            }
            op.operation.files_done(1);
            return Ok(());
        }
        let path = || op.dest_path(dest, node, name);
        let merging = op.merges_into(dest, node);
        let mut created = meta::created_by_us(self.mode_is_exact);
        if let Some(owner) = op.dests[dest].owner.get().filter(|_| !merging) {
            created.owner = *owner;
        }
        created.keeps_metadata = op.dests[dest].keeps_metadata(node.at(dest));
        let mode = special.target.is_none().then(|| meta::mode(special.meta.permissions()));
        loop {
            let temporary = self.temporary(dest, node)?;
            let dir = self.place(dest, node, temporary.as_ref());
            let place = temporary.as_deref().unwrap_or(name);
            special.make(dir, place).map_err(|errno| match errno {
                Errno::EXIST => two_names(path()),
                errno => Error::io(Operation::Make, path(), errno),
            })?;
            let refused = meta::apply_at(dir, place, &special.meta, created, mode)
                .context(Operation::SetMetadata, path)?;
            let first = special.first.as_ref().filter(|_| temporary.is_some());
            let found = match S::NOTES || first.is_some() {
                true => Some(Meta::at(dir, place).context(Operation::Read, path)?),
                false => None,
            };
            match self.settle(dest, node, name, temporary)? {
                Settled::Placed => {
                    if !refused.is_empty() {
                        let reason = SkipReason::Xattrs(refused.join(", "));
                        op.skip(Some(dest), node.path_of(name), reason);
                    }
                    if let Some(found) = found {
                        S::note(&mut self.own, dest, special.number, &found);
                        if let Some(first) = first {
                            first.was_put(dest, op.dests.len(), &found);
                        }
                    }
                    self.count_special(dest, special.meta.file_type());
                }
                Settled::Kept => op.operation.files_done(1),
                Settled::Unreachable => continue,
            }
            return Ok(());
        }
    }

    /// In the link modes: links the file at every destination that allows it.
    pub(super) fn link(
        &mut self,
        node: &OpenNode<S>,
        entry: NamedEntry<'_>,
    ) -> Result<Unlinked, Error> {
        let (op, name) = (self.op, entry.name);
        let Some(original) = S::original(op, node, entry) else {
            return Ok(vec![Some(Because::File); op.dests.len()]);
        };
        let mut unlinked = Vec::with_capacity(op.dests.len());
        for dest in 0..op.dests.len() {
            let mut instead = op.options.links_instead().then_some(Because::Filesystem);
            let mut because = None;
            for kind in op.options.links() {
                match self.link_as(kind, dest, node, name, &original)? {
                    Ok(Settled::Kept) => op.operation.files_done(1),
                    Ok(_) => self.count_link(dest, node, name, FileLink { kind, instead }),
                    Err(refused) => {
                        instead = instead.or(Some(refused));
                        because = Some(refused);
                        continue;
                    }
                }
                because = None;
                break;
            }
            unlinked.push(because);
        }
        Ok(unlinked)
    }

    /// Makes a link of one kind, or says why that is refused.
    fn link_as(
        &mut self,
        kind: LinkKind,
        dest: usize,
        node: &OpenNode<S>,
        name: &CStr,
        original: &Original<'_>,
    ) -> Result<Result<Settled, Because>, Error> {
        let op = self.op;
        let answers = &op.dests[dest].answers;
        let links = answers.links(kind);
        if links.known(original.dev).refused {
            return Ok(Err(Because::Filesystem));
        }
        let link = |dir: BorrowedFd<'_>, place: &CStr| answers.link(kind, original, dir, place);
        match self.make(dest, node, name, link)? {
            Ok(Settled::Kept) => Ok(Ok(Settled::Kept)),
            Ok(settled) => {
                links.worked(original.dev);
                Ok(Ok(settled))
            }
            Err(errno) => {
                self.link_refused(kind, dest, original, errno).map(Err).map_err(|error| {
                    Error::io(Operation::Link, op.source_path(node, name), error)
                        .with_other(op.dest_path(dest, node, name))
                })
            }
        }
    }

    /// Remembers that a link was refused, and returns why the file is no link.
    ///
    /// # Errors
    /// An error after which calve must not try another way.
    pub(super) fn link_refused(
        &self,
        kind: LinkKind,
        dest: usize,
        original: &Original<'_>,
        errno: Errno,
    ) -> io::Result<Because> {
        let error = io::Error::from(errno);
        if kind == LinkKind::Hard && errno == Errno::NOENT {
            // The file is gone. Opening it will report that.
            return Ok(Because::File);
        }
        let verdict = classify(&error);
        let because = match verdict {
            _ if self.op.options.mode == CloneMode::Symlink => return Err(error),
            Verdict::Filesystem => Because::Filesystem,
            Verdict::File => Because::File,
            _ => return Err(error),
        };
        // EPERM for another user's file concerns that file only (protected_hardlinks,
        // proc_sys_fs(5)), however many such files there are.
        let counts = errno == Errno::ACCESS
            || errno == Errno::PERM && (kind == LinkKind::Symbolic || is_own_file(original));
        self.op.dests[dest].answers.links(kind).refused(original.dev, verdict, counts);
        Ok(because)
    }

    fn count_special(&mut self, dest: usize, kind: FileType) {
        self.tally_special(dest, kind);
        self.op.operation.files_done(1);
    }

    pub(super) fn tally_special(&mut self, dest: usize, kind: FileType) {
        let tally = &mut self.tallies[dest];
        *match kind {
            FileType::Symlink => &mut tally.symlinks,
            _ => &mut tally.fifos,
        } += 1;
    }
}

/// A symbolic link or a FIFO.
pub(crate) struct Special<S: Source> {
    pub(crate) meta: Meta,
    /// The symbolic link's target. `None` for a FIFO.
    pub(crate) target: Option<CString>,
    pub(crate) number: u32,
    /// Set if this is the first name of an entry that has several.
    pub(crate) first: Option<Arc<FirstName<S>>>,
}

impl<S: Source> Special<S> {
    fn make(&self, dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        match &self.target {
            Some(target) => fs::symlinkat(target, dir, name),
            None => make_fifo(dir, name, meta::mode(self.meta.permissions())),
        }
    }
}

impl<'l> Worker<'_, '_, Live<'l>> {
    /// Reads a symbolic link or a FIFO of the source. `None` if the entry is neither any more.
    pub(super) fn look_at_special(
        &self,
        node: &OpenNode<Live<'l>>,
        NamedEntry { name, kind, number }: NamedEntry<'_>,
    ) -> Result<Option<Special<Live<'l>>>, Error> {
        let path = || self.op.source_path(node, name);
        let target = match kind {
            FileType::Symlink => match fs::readlinkat(node.source(), name, Vec::new()) {
                Ok(target) => Some(target),
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(Error::io(Operation::ReadLink, path(), errno)),
            },
            _ => None,
        };
        let meta = match Meta::at(node.source(), name) {
            Ok(meta) => meta,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::io(Operation::Read, path(), errno)),
        };
        if meta.file_type() != kind {
            return Ok(None);
        }
        let meta = match target {
            Some(_) => meta,
            None => {
                meta.leaving_acl_at(node.source(), name).context(Operation::ReadAttributes, path)?
            }
        };
        Ok(Some(Special { meta, target, number, first: None }))
    }

    /// Makes a symbolic link or a FIFO, with its metadata, at every destination. `true` if the
    /// source's entry is neither any more.
    pub(super) fn special_entry(
        &mut self,
        node: &OpenNode<Live<'l>>,
        entry: NamedEntry<'_>,
    ) -> Result<bool, Error> {
        let op = self.op;
        let Some(mut special) = self.look_at_special(node, entry)? else {
            return Ok(true);
        };
        if op.dests.is_empty() {
            self.tally_special(0, entry.kind);
            return Ok(false);
        }
        let meta = special.meta;
        let on = || op.operation.filesystems().of(node.source(), meta.dev);
        let believed = meta.links < 2 || on().inodes;
        if let Some(file) = FileKey::of(&meta, special.target.as_deref(), believed) {
            match self.first_name(node, entry, (file, meta.links), None)? {
                Some(first) => special.first = Some(first),
                None => return Ok(false),
            }
        }
        for dest in 0..op.dests.len() {
            self.special_at(dest, node, entry.name, &special)?;
        }
        Ok(false)
    }
}

/// Whether a file belongs to this process's user. In doubt the answer is yes.
fn is_own_file(file: &Original<'_>) -> bool {
    fs::statat(file.dir, file.name, AtFlags::SYMLINK_NOFOLLOW)
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

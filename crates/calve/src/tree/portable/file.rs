//! Makes one entry that is no directory: creates it, fills it and, in a merge, renames it into
//! place.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::windows::fs::{FileTypeExt, symlink_dir, symlink_file};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::tally::{self, Because};
use super::super::{CloneMode, Existing, Reflink};
use super::{Dest, Walk, lock, two_names};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::{self, Source};
use crate::reflink::sys;
use crate::reflink::verdict::{Verdict, classify};
use crate::report::SkipReason;

/// calve never follows links, so a tree is on one volume. All verdicts are about this one source.
const SOURCE_VOLUME: u64 = 0;

impl Walk<'_> {
    /// Handles an entry that is neither directory nor link.
    pub(super) fn file(&self, path: &Path) -> Result<(), Error> {
        if self.dests.is_empty() {
            lock(&self.dry).files += 1;
            self.options.progress.files.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let linking = matches!(self.options.mode, CloneMode::Hardlink | CloneMode::Symlink);
        let mut unlinked = vec![None; self.dests.len()];
        if linking {
            let mutable = self.filter.has_mutable() && self.filter.is_mutable(path);
            for (dest, because) in self.dests.iter().zip(&mut unlinked) {
                *because = if mutable { Some(Because::Mutable) } else { self.link(dest, path)? };
            }
            if unlinked.iter().all(Option::is_none) {
                return Ok(());
            }
        }
        let shown = || self.shown(path);
        let (source, meta) =
            match imp::open_source(&self.root.join(path)).context(Operation::Open, shown)? {
                Source::File(file, meta) => (file, meta),
                Source::Special => {
                    self.skip(None, path, SkipReason::Device);
                    return Ok(());
                }
                Source::Directory | Source::Link | Source::Vanished => {
                    self.skip(None, path, SkipReason::Vanished);
                    return Ok(());
                }
            };
        if linking {
            for (index, because) in unlinked.into_iter().enumerate() {
                if because.is_some() {
                    self.fill(index, path, &source, &meta, because, false)?;
                }
            }
            return Ok(());
        }
        let identity = sys::identity(&source).context(Operation::Read, shown)?;
        if identity.links < 2 {
            for index in 0..self.dests.len() {
                self.fill(index, path, &source, &meta, None, false)?;
            }
            return Ok(());
        }
        // A thread that comes to another name of the file waits until the file is in place.
        let entry = Arc::clone(lock(&self.links).entry(identity.id).or_default());
        let mut first = lock(&entry);
        let mut froms = Vec::with_capacity(self.dests.len());
        for (index, dest) in self.dests.iter().enumerate() {
            // A kept entry comes first: it must not be reported as a broken link.
            if self.is_kept(dest, path) {
                froms.push(None);
                continue;
            }
            let known = first.as_ref().and_then(|froms| froms[index].as_ref());
            if let Some(from) = known
                && self.link_to_first(dest, from, path)?
            {
                continue;
            }
            if first.is_some() {
                self.skip(Some(index), path, SkipReason::HardlinkBroken);
            }
            froms.push(self.fill(index, path, &source, &meta, None, first.is_none())?);
        }
        if first.is_none() {
            *first = Some(froms);
        }
        Ok(())
    }

    /// Links a further name to a file's first name. `false` if that fails.
    fn link_to_first(&self, dest: &Dest<'_>, from: &Path, path: &Path) -> Result<bool, Error> {
        let birthplace = dest.birthplace(path);
        match fs::hard_link(from, &birthplace) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(two_names(dest.place(path)));
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(Error::io(Operation::Link, dest.place(path), error));
            }
            Err(_) => return Ok(false),
        }
        if self.settle(dest, &birthplace, path)? {
            self.count_link(dest, false);
        }
        Ok(true)
    }

    fn count_link(&self, dest: &Dest<'_>, is_symbolic: bool) {
        let mut tally = lock(&dest.tally);
        tally.files += 1;
        tally.linked_files += 1;
        tally.symlinked_files += u64::from(is_symbolic);
        self.options.progress.files.fetch_add(1, Ordering::Relaxed);
    }

    /// In the link modes: links the file. `None` if that works, otherwise why not.
    fn link(&self, dest: &Dest<'_>, path: &Path) -> Result<Option<Because>, Error> {
        let hard = self.options.mode == CloneMode::Hardlink;
        if hard && dest.link_verdicts.known(SOURCE_VOLUME).refused {
            return Ok(Some(Because::Filesystem));
        }
        let birthplace = dest.birthplace(path);
        let result = match hard {
            true => fs::hard_link(self.root.join(path), &birthplace),
            false => symlink_file(self.absolute.join(path), &birthplace),
        };
        let Err(error) = result else {
            dest.link_verdicts.worked(SOURCE_VOLUME);
            if self.settle(dest, &birthplace, path)? {
                self.count_link(dest, !hard);
            }
            return Ok(None);
        };
        if error.kind() == io::ErrorKind::AlreadyExists {
            return Err(two_names(dest.place(path)));
        }
        // The file is gone. Opening it will report that.
        if hard && imp::is_gone(&error) {
            return Ok(Some(Because::File));
        }
        let verdict = classify(&error);
        if !hard || matches!(verdict, Verdict::Fatal | Verdict::Retry) {
            return Err(
                Error::io(Operation::Link, self.shown(path), error).with_other(dest.place(path))
            );
        }
        let counts = error.kind() == io::ErrorKind::PermissionDenied;
        dest.link_verdicts.refused(SOURCE_VOLUME, verdict, counts);
        Ok(Some(if verdict == Verdict::Filesystem { Because::Filesystem } else { Because::File }))
    }

    /// Makes a file with its content and metadata at one destination. If `kept`, returns the path
    /// from which further names can be linked.
    fn fill(
        &self,
        index: usize,
        path: &Path,
        source: &File,
        meta: &Metadata,
        unlinked: Option<Because>,
        kept: bool,
    ) -> Result<Option<PathBuf>, Error> {
        let dest = &self.dests[index];
        let shown = || dest.place(path);
        if self.is_kept(dest, path) {
            return Ok(None);
        }
        let birthplace = dest.birthplace(path);
        let mut file = imp::new_file(&birthplace).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => two_names(shown()),
            _ => Error::io(Operation::Make, shown(), error),
        })?;
        let copied = self.content(dest, path, source, meta, &mut file)?;
        if self.options.durable {
            file.sync_all().context(Operation::Flush, shown)?;
        }
        imp::finish(file, &birthplace, meta).context(Operation::SetMetadata, shown)?;
        let mut from = Some(birthplace.clone());
        if kept && dest.merging {
            // Somebody else may replace the file in its place a moment later. So further names are
            // linked from a second name in the stage.
            let other = dest.birthplace(path);
            from = fs::hard_link(&birthplace, &other).is_ok().then_some(other);
        }
        if !self.settle(dest, &birthplace, path)? {
            return Ok(None);
        }
        {
            let mut tally = lock(&dest.tally);
            tally::count(&mut tally, copied.map(|because| unlinked.unwrap_or(because)), meta.len());
            if let Some(because) = unlinked {
                tally::count_unlinked(&mut tally, because);
            }
        }
        self.options.progress.files.fetch_add(1, Ordering::Relaxed);
        self.options.progress.bytes.fetch_add(meta.len(), Ordering::Relaxed);
        Ok(from)
    }

    /// Clones the file, or copies it and says why.
    fn content(
        &self,
        dest: &Dest<'_>,
        path: &Path,
        mut source: &File,
        meta: &Metadata,
        file: &mut File,
    ) -> Result<Option<Because>, Error> {
        let failed = |error| {
            Error::io(Operation::Clone, self.shown(path), error).with_other(dest.place(path))
        };
        let because = match self.try_clone(dest, source, meta, file).map_err(failed)? {
            Ok(()) => return Ok(None),
            Err((_, error)) if self.options.reflink == Reflink::Always => {
                let error = error.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
                return Err(Error::new(
                    ErrorKind::ReflinkRefused,
                    Operation::Reflink,
                    self.shown(path),
                    error,
                )
                .with_other(dest.place(path)));
            }
            Err((because, _)) => because,
        };
        // A refused clone may have left content, which must not show where the copy has a hole. The
        // source may be at another position after copying to another destination.
        file.set_len(0).map_err(failed)?;
        io::Seek::rewind(&mut source).map_err(failed)?;
        imp::copy(source, meta, file, || self.stopped()).map_err(|error| {
            // The operation was stopped between two calls. The error or the cancellation that
            // stopped it is reported as the cause.
            if self.stopped() { self.cancelled() } else { failed(error).into_copy() }
        })?;
        Ok(Some(because))
    }

    /// The inner error is the reason to copy. It includes the system's error if this very clone was
    /// refused.
    fn try_clone(
        &self,
        dest: &Dest<'_>,
        source: &File,
        meta: &Metadata,
        file: &File,
    ) -> io::Result<Result<(), (Because, Option<io::Error>)>> {
        if self.options.mode == CloneMode::Copy || self.options.reflink == Reflink::Never {
            return Ok(Err((Because::Disabled, None)));
        }
        let known = dest.verdicts.known(SOURCE_VOLUME);
        if known.refused {
            return Ok(Err((Because::Filesystem, None)));
        }
        // An empty file has no blocks to share. But as long as nothing is known, cloning it tells
        // at no cost whether clones work.
        if meta.len() == 0 && known.works {
            return Ok(Ok(()));
        }
        let cloned = self.patience.retry(|| sys::clone_file(source, file));
        Ok(match dest.verdicts.judge(SOURCE_VOLUME, cloned)? {
            None => Ok(()),
            Some((Verdict::Filesystem, error)) => Err((Because::Filesystem, Some(error))),
            Some((_, error)) => Err((Because::File, Some(error))),
        })
    }

    /// Makes a symbolic link again, and a junction as a junction.
    pub(super) fn symlink(&self, path: &Path) -> Result<(), Error> {
        let from = self.root.join(path);
        let read = fs::read_link(&from).and_then(|target| {
            Ok((target, fs::symlink_metadata(&from)?.file_type().is_symlink_dir()))
        });
        let (target, is_dir) = match read {
            Ok(read) => read,
            Err(error) if imp::is_gone(&error) => {
                self.skip(None, path, SkipReason::Vanished);
                return Ok(());
            }
            Err(error) => return Err(Error::io(Operation::ReadLink, self.shown(path), error)),
        };
        if self.dests.is_empty() {
            lock(&self.dry).symlinks += 1;
        }
        for dest in &self.dests {
            if self.is_kept(dest, path) {
                continue;
            }
            let birthplace = dest.birthplace(path);
            let made = match is_dir {
                true => symlink_dir(&target, &birthplace),
                false => symlink_file(&target, &birthplace),
            };
            made.map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => two_names(dest.place(path)),
                _ => Error::io(Operation::MakeSymbolicLink, dest.place(path), error),
            })?;
            if self.settle(dest, &birthplace, path)? {
                lock(&dest.tally).symlinks += 1;
            }
        }
        self.options.progress.files.fetch_add(self.dests.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the destination keeps an existing entry of that name; if so, counts it.
    fn is_kept(&self, dest: &Dest<'_>, path: &Path) -> bool {
        let kept = self.options.existing == Existing::Keep
            && fs::symlink_metadata(dest.root.join(path)).is_ok();
        if kept {
            self.count_existing(dest, path);
        }
        kept
    }

    /// Counts an entry that the merge replaced or kept.
    fn count_existing(&self, dest: &Dest<'_>, path: &Path) {
        let Self { options, .. } = self;
        let path = || path.to_owned();
        let mut tally = lock(&dest.tally);
        tally::count_existing(&mut tally, options.existing, options.list_existing, path);
    }

    /// In a merge: renames a staged entry into place, and counts the entry that it replaced.
    /// `false` if the destination kept its own.
    fn settle(&self, dest: &Dest<'_>, birthplace: &Path, path: &Path) -> Result<bool, Error> {
        if !dest.merging {
            return Ok(true);
        }
        let place = dest.root.join(path);
        if self.options.existing == Existing::Keep {
            let renamed = imp::patiently(|| match sys::rename_new(birthplace, &place) {
                Err(_) if fs::symlink_metadata(&place).is_ok() => {
                    Err(io::ErrorKind::AlreadyExists.into())
                }
                result => result,
            });
            return match renamed {
                Ok(()) => Ok(true),
                // The staged entry is removed with the stage.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.count_existing(dest, path);
                    Ok(false)
                }
                Err(error) => Err(Error::io(Operation::RenameIntoPlace, dest.place(path), error)),
            };
        }
        let replaces = fs::symlink_metadata(&place).is_ok();
        imp::replace(birthplace, &place).map_err(|error| {
            if error.kind() != io::ErrorKind::IsADirectory {
                return Error::io(Operation::RenameIntoPlace, dest.place(path), error);
            }
            let cause =
                io::Error::new(error.kind(), "the destination has a directory of that name");
            Error::new(ErrorKind::Conflict, Operation::MergeFile, self.shown(path), cause)
                .with_other(dest.place(path))
        })?;
        if replaces {
            self.count_existing(dest, path);
        }
        Ok(true)
    }
}

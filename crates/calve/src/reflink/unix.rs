//! Reflinks and copies one file, by descriptors.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::copy::{Copier, have_same_bytes, have_same_sample};
use super::filesystem::{Filesystem, Filesystems};
use super::meta::{self, Attrs, Meta};
use super::{Patience, ReflinkOutcome, sys, temporary_name};

/// Never follows a link, never waits for a FIFO's writer, never becomes a controlling terminal.
pub(crate) const SOURCE_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// The flags for a new file.
pub(crate) const NEW_FILE_FLAGS: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// The same, for a file that is read back.
pub(crate) const NEW_READABLE_FLAGS: OFlags =
    NEW_FILE_FLAGS.difference(OFlags::WRONLY).union(OFlags::RDWR);
pub(crate) const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// For a directory that is only looked at: it may be closed to reading.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) const LOOK_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) const LOOK_FLAGS: OFlags = DIR_FLAGS;

/// How long calve tries again with one file.
const FILE_PATIENCE: Duration = Duration::from_millis(100);

struct Source {
    fd: OwnedFd,
    meta: Meta,
    attrs: Option<Box<Attrs>>,
}

/// The open source, or `None` if it is gone.
fn open_source(path: &Path) -> io::Result<Option<Source>> {
    let fd = match fs::open(path, SOURCE_FLAGS, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(not_regular("a symbolic link")),
        Err(Errno::NXIO) => return Err(not_regular("a socket or a device")),
        Err(errno) => return Err(errno.into()),
    };
    let meta = Meta::of_file(&fd)?;
    match meta.file_type() {
        fs::FileType::RegularFile => {}
        fs::FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Err(not_regular("a special file")),
    }
    let attrs = Attrs::read(&fd)?;
    Ok(Some(Source { fd, meta, attrs }))
}

fn not_regular(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the source is {what}, not a regular file"))
}

/// The folder that holds `path`, open, and the name in it.
fn open_parent(path: &Path) -> io::Result<(OwnedFd, CString)> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, "the destination's path does not end in a name")
    })?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok((fs::open(parent, DIR_FLAGS, Mode::empty())?, CString::new(name.as_bytes())?))
}

/// A file that calve removes unless it is kept.
struct UnfinishedFile<'a> {
    dir: BorrowedFd<'a>,
    name: CString,
    kept: bool,
}

impl Drop for UnfinishedFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::unlinkat(self.dir, &self.name, AtFlags::empty());
        }
    }
}

fn retry_of(sources: &Source, dest: impl AsFd) -> io::Result<(ReflinkOutcome, Option<io::Error>)> {
    let dest = dest.as_fd();
    super::outcome(Patience::new(FILE_PATIENCE).retry(|| clone_and_look(&sources.fd, dest)))
}

/// Clones `source` into the empty file `dest`, which can be read, and looks whether that was done.
///
/// # Errors
/// `EAGAIN` if the source changed meanwhile.
pub(crate) fn clone_and_look(source: impl AsFd, dest: impl AsFd) -> io::Result<()> {
    let before = Meta::of_file(&source)?;
    sys::clone_file(&source, &dest)?;
    if have_same_sample(&source, &dest)? {
        return Ok(());
    }
    fs::ftruncate(dest, 0)?;
    let rested = Meta::of_file(&source)?.is_still(&before);
    Err(if rested { Errno::OPNOTSUPP } else { Errno::AGAIN }.into())
}

/// Makes `name` in `dir` a clone, and returns the guard that removes it unless it is kept. If the
/// clone was refused, the open file is empty and ready for a copy.
fn clone_to<'a>(
    source: &Source,
    dir: BorrowedFd<'a>,
    name: CString,
) -> io::Result<(UnfinishedFile<'a>, ReflinkOutcome, Option<OwnedFd>)> {
    if sys::CLONE_MAKES_THE_FILE {
        let (outcome, _) = super::outcome(
            Patience::new(FILE_PATIENCE).retry(|| sys::clone_at(&source.fd, dir, &name)),
        )?;
        if outcome == ReflinkOutcome::Cloned {
            // The clone brought its metadata, except the set-ID bits. To restore these needs no
            // descriptor.
            let file = UnfinishedFile { dir, name, kept: false };
            let fd = fs::openat(dir, &file.name, SOURCE_FLAGS, Mode::empty())?;
            meta::apply(&fd, &source.meta, None, meta::created_by_us(false), None)?;
            return Ok((file, outcome, None));
        }
        let fd = fs::openat(dir, &name, NEW_FILE_FLAGS, Mode::RUSR | Mode::WUSR)?;
        return Ok((UnfinishedFile { dir, name, kept: false }, outcome, Some(fd)));
    }
    let fd = fs::openat(dir, &name, NEW_READABLE_FLAGS, Mode::RUSR | Mode::WUSR)?;
    let file = UnfinishedFile { dir, name, kept: false };
    let (outcome, _) = retry_of(source, &fd)?;
    if outcome == ReflinkOutcome::Cloned {
        finish(source, &fd)?;
        return Ok((file, outcome, None));
    }
    Ok((file, outcome, Some(fd)))
}

fn finish(source: &Source, dest: impl AsFd) -> io::Result<()> {
    let dest = dest.as_fd();
    // The file may have inherited the folder's group and default ACL.
    meta::strip_inherited_acls(dest)?;
    let stat = fs::fstat(dest)?;
    let created = meta::Created { owner: (stat.st_uid, stat.st_gid), ..meta::created_by_us(false) };
    meta::apply(dest, &source.meta, source.attrs.as_deref(), created, None).map(drop)
}

pub(crate) fn try_reflink(source: &Path, dest: &Path) -> io::Result<ReflinkOutcome> {
    let (dir, name) = open_parent(dest)?;
    let Some(source) = open_source(source)? else {
        return Ok(ReflinkOutcome::SourceVanished);
    };
    let (mut file, outcome, _) = clone_to(&source, dir.as_fd(), name)?;
    file.kept = outcome == ReflinkOutcome::Cloned;
    Ok(outcome)
}

pub(crate) fn clonefile_or_copy(source: &Path, dest: &Path) -> io::Result<bool> {
    let (dir, name) = open_parent(dest)?;
    let mut source = open_source(source)?.ok_or(Errno::NOENT)?;
    let temporary = CString::new(temporary_name())?;
    let (mut file, outcome, unfilled) = clone_to(&source, dir.as_fd(), temporary)?;
    if let Some(fd) = unfilled {
        let from = &source.meta;
        let is_same = || {
            let copy = fs::openat(dir.as_fd(), &file.name, SOURCE_FLAGS, Mode::empty())?;
            have_same_bytes(&source.fd, copy, || false)
        };
        let on = Filesystems::default().of(&source.fd, from.dev);
        let copied =
            Copier::new(false).copy_at_rest(&source.fd, &fd, from, on, || false, is_same)?;
        if !copied.rested {
            let why = "the source was written to each time it was copied";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        source.meta = copied.from;
        finish(&source, &fd)?;
        sys::close_written(fd)?;
    }
    fs::renameat(&dir, &file.name, &dir, &name)?;
    file.kept = true;
    Ok(outcome == ReflinkOutcome::Cloned)
}

/// A multiple of the block size of every filesystem.
const PROBE_BYTES: usize = 64 * 1024;

pub(crate) fn probe(source: &Path, dest: &Path) -> io::Result<(ReflinkOutcome, Option<io::Error>)> {
    let dest = fs::open(dest, DIR_FLAGS, Mode::empty())?;
    let dir = fs::open(source, DIR_FLAGS, Mode::empty());
    // The files lose their names as soon as they are open, so a killed process leaves nothing
    // behind. Some servers forget a file with its name, so elsewhere it has it until the end.
    let is_tested = |dir: &OwnedFd| Filesystem::of_file(dir).is_tested;
    let mut named = None;
    let fd = match &dir {
        Ok(dir) => {
            let name = CString::new(temporary_name())?;
            // A clone call reads the source, so this file is open for reading and writing.
            match fs::openat(dir, &name, NEW_READABLE_FLAGS, Mode::RUSR | Mode::WUSR) {
                Ok(fd) => {
                    let new = UnfinishedFile { dir: dir.as_fd(), name, kept: false };
                    named = (!is_tested(dir)).then_some(new);
                    let mut file = File::from(fd);
                    file.write_all(&[0xca; PROBE_BYTES])?;
                    file.sync_all()?;
                    OwnedFd::from(file)
                }
                Err(errno) => {
                    let open = |path: &Path| fs::open(path, SOURCE_FLAGS, Mode::empty()).ok();
                    super::some_file_below(source, 4096, open).ok_or(errno)?
                }
            }
        }
        Err(Errno::NOTDIR) => fs::open(source, SOURCE_FLAGS, Mode::empty())?,
        Err(errno) => return Err((*errno).into()),
    };
    let name = CString::new(temporary_name())?;
    let file = UnfinishedFile { dir: dest.as_fd(), name, kept: false };
    let result = if sys::CLONE_MAKES_THE_FILE {
        sys::clone_at(&fd, &dest, &file.name)
    } else {
        let new = fs::openat(&dest, &file.name, NEW_READABLE_FLAGS, Mode::RUSR | Mode::WUSR)?;
        let _named = (!is_tested(&dest)).then_some(file);
        clone_and_look(&fd, &new)
    };
    drop(named);
    super::outcome(result)
}

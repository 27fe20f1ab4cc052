//! Helpers for files and folders that may belong to someone else, and for paths as bytes.

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, Access, AtFlags, Mode};
use rustix::io::Errno;
use rustix::path::Arg;

use super::manifest::os;
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::reflink::refusal::SystemCall;

/// A file says its size before it is read, and may say too much.
const ROOM_MOST_BYTES: u64 = 1024 * 1024;

/// How much of a directory the system lists at once.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LISTING_BYTES: usize = 32 * 1024;

/// The content of a regular file of at most `most` bytes. This follows no link and waits for no
/// pipe, because a store, and calve's own folder in a worktree, may come from someone else.
pub(crate) fn read_plain(dir: impl AsFd, path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, size) = open_plain(dir, path, most)?;
    read_open(file, size, most)
}

/// The content of an open file of this size, which may grow to at most `most` bytes.
pub(crate) fn read_open(file: std::fs::File, size: u64, most: u64) -> io::Result<Vec<u8>> {
    // With room for one byte more, one read has it all and the next one says so.
    let room = usize::try_from(size.min(most).min(ROOM_MOST_BYTES)).unwrap_or(0);
    let mut content = Vec::with_capacity(room + 1);
    io::Read::read_to_end(&mut io::Read::take(file, most), &mut content)?;
    Ok(content)
}

/// The same file, open, and its size.
pub(crate) fn open_plain(
    dir: impl AsFd,
    path: &Path,
    most: u64,
) -> io::Result<(std::fs::File, u64)> {
    let file = fs::openat(dir, path, SOURCE_FLAGS, Mode::empty())?;
    let meta = Meta::of_file(&file)?;
    let not = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    if meta.file_type() != fs::FileType::RegularFile {
        return not("it is no regular file");
    }
    if meta.size > most {
        return not("it is larger than it can be");
    }
    Ok((std::fs::File::from(file), meta.size))
}

/// Whether a file is empty or begins with zeros, as a power cut may leave one that was not flushed.
/// `None` if nothing is there.
pub(crate) fn is_blank(path: &Path) -> io::Result<Option<bool>> {
    match open_plain(fs::CWD, path, u64::MAX) {
        Ok((mut file, _)) => {
            let mut start = [0; 64];
            let length = io::Read::read(&mut file, &mut start)?;
            Ok(Some(start[..length].iter().all(|byte| *byte == 0)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A link, a folder or a pipe was not left by a power cut.
        Err(error)
            if error.kind() == io::ErrorKind::InvalidData
                || Errno::from_io_error(&error) == Some(Errno::LOOP) =>
        {
            Ok(Some(false))
        }
        Err(error) => Err(error),
    }
}

/// The entries of a directory, with their kinds. The standard library is not used for this: it
/// aborts the process if a directory's descriptor cannot be closed.
pub(crate) fn listed(dir: impl AsFd) -> io::Result<Vec<(OsString, fs::FileType)>> {
    let mut found = Vec::new();
    each_entry(dir, |name, kind| {
        found.push((OsString::from_vec(name.to_bytes().to_vec()), kind));
        Ok(())
    })?;
    Ok(found)
}

/// Calls `each` for the entries of a directory, with their kinds.
pub(crate) fn each_entry(
    dir: impl AsFd,
    mut each: impl FnMut(&CStr, fs::FileType) -> io::Result<()>,
) -> io::Result<()> {
    each_in(&dir, |name, kind| {
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        let kind = match kind {
            fs::FileType::Unknown => Meta::at(&dir, name)?.file_type(),
            kind => kind,
        };
        each(name, kind)
    })
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn each_in(
    dir: impl AsFd,
    mut each: impl FnMut(&CStr, fs::FileType) -> io::Result<()>,
) -> io::Result<()> {
    fs::seek(&dir, fs::SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(LISTING_BYTES);
    let mut entries = fs::RawDir::new(&dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => each(entry.file_name(), entry.file_type())?,
            Err(Errno::INTR) => {}
            // The directory was removed, so it is empty.
            Err(Errno::NOENT) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn each_in(
    dir: impl AsFd,
    mut each: impl FnMut(&CStr, fs::FileType) -> io::Result<()>,
) -> io::Result<()> {
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        each(entry.file_name(), entry.file_type())?;
    }
    Ok(())
}

/// Makes a folder, unless something is there.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The entries of the folder at a path. Empty if there is no such folder.
pub(crate) fn listed_at(path: &Path) -> io::Result<Vec<(OsString, fs::FileType)>> {
    fs::open(path, DIR_FLAGS, Mode::empty()).if_there()?.map_or(Ok(Vec::new()), listed)
}

/// Whether this process may write to the file or folder at `path`.
///
/// # Errors
/// The system does not say.
pub(crate) fn may_write(path: &Path) -> io::Result<bool> {
    match ask_to_write(fs::CWD, path) {
        Ok(()) => Ok(true),
        // PERM: it is immutable.
        Err(Errno::ACCESS | Errno::ROFS | Errno::PERM) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Asks the system whether this process may write to what `path` is in `dir`.
pub(crate) fn ask_to_write(dir: impl AsFd, path: impl Arg + Copy) -> rustix::io::Result<()> {
    let ask = |flags| fs::accessat(&dir, path, Access::WRITE_OK, flags);
    // The older call asks for the real user, who is the effective one but for set-user-ID programs.
    match ask(AtFlags::EACCESS) {
        Err(errno) if SystemCall::AccessOfEffective.is_unavailable(errno) => ask(AtFlags::empty()),
        asked => asked,
    }
}

/// A file that no other process sees, and that disappears when it is closed.
pub(crate) fn unlinked_file() -> io::Result<std::fs::File> {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    let file = fs::memfd_create("calve", fs::MemfdFlags::CLOEXEC)?;
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    let file = {
        use crate::reflink::imp::NEW_FILE_FLAGS;
        let path = Path::new("/tmp").join(crate::tree::staging::stage_name());
        let mode = Mode::from_raw_mode(0o600);
        let flags = NEW_FILE_FLAGS.difference(fs::OFlags::WRONLY).union(fs::OFlags::RDWR);
        let file = fs::open(&path, flags, mode)?;
        fs::unlink(&path)?;
        file
    };
    Ok(file.into())
}

/// The folder that contains `path`, and the name of `path` in it.
pub(crate) fn parent_of(path: &Path) -> Result<(PathBuf, OsString), Error> {
    let name = path.file_name().ok_or_else(|| {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "it does not end in a name");
        Error::new(ErrorKind::InvalidName, Operation::Use, path, cause)
    })?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name.to_owned()))
}

/// Bytes of which each that is not kept is `%XX`. Only bytes of ASCII can be kept.
pub(crate) fn percent_encoded(bytes: &[u8], is_kept: impl Fn(u8) -> bool) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match is_kept(*byte) {
            true => text.push(char::from(*byte)),
            false => text += &format!("%{byte:02X}"),
        }
    }
    text
}

pub(crate) fn bytes_of(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes().to_vec()
}

pub(crate) fn path_from(bytes: &[u8]) -> PathBuf {
    os(bytes).into()
}

/// Opens a directory in which the caller makes or removes entries.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, Error> {
    fs::open(path, DIR_FLAGS, Mode::empty()).context(Operation::Open, || path)
}

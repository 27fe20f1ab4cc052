//! Reflinks and copies one file by its path. Windows has no descriptors of directories.
//!
//! A clone and a copy bring only the content. calve sets times and attributes (read-only, hidden,
//! …) in both cases. It does not carry over owner, ACL and alternate data streams: owner and ACL
//! come from the folder, as for any new file.

use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::windows::fs::{FileExt, FileTimesExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_CANT_ACCESS_FILE, ERROR_SHARING_VIOLATION};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_ATTRIBUTE_SPARSE_FILE, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_WRITE_ATTRIBUTES,
};

use super::{Patience, ReflinkOutcome, sys, temporary_name};

/// How long calve tries again with one file.
const FILE_PATIENCE: Duration = Duration::from_millis(100);

/// How long calve waits for a name that somebody has open.
const NAME_PATIENCE: Duration = Duration::from_secs(1);

/// The bytes that one call reads and writes, and the smallest hole that calve keeps.
const COPY_BYTES: usize = 1 << 20;
const HOLE_BYTES: usize = 64 * 1024;

/// The kinds of entries that calve finds at the path of a source.
pub(crate) enum Source {
    File(File, Metadata),
    Directory,
    Link,
    /// A reparse point that calve cannot read: a socket, or an alias of an app.
    Special,
    Vanished,
}

/// Opens a file for reading. It never follows a link.
pub(crate) fn open_source(path: &Path) -> io::Result<Source> {
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    // Without the first flag, a directory would be "access denied".
    let file = match open(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(Source::Vanished),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if meta.is_symlink() {
        return Ok(Source::Link);
    }
    if meta.is_dir() {
        return Ok(Source::Directory);
    }
    if meta.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT == 0 {
        return Ok(Source::File(file, meta));
    }
    // This is not a link. The filesystem provides its content (deduplicated, in the cloud, …).
    match open(0) {
        Ok(file) => {
            let meta = file.metadata()?;
            Ok(Source::File(file, meta))
        }
        Err(error) if error.raw_os_error() == Some(ERROR_CANT_ACCESS_FILE.cast_signed()) => {
            Ok(Source::Special)
        }
        Err(error) => Err(error),
    }
}

/// Whether nothing exists at the path: the name, or a folder above it, is missing.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The open source, or `None` if it is gone.
fn open_regular(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let what = match open_source(path)? {
        Source::File(file, meta) => return Ok(Some((file, meta))),
        Source::Vanished => return Ok(None),
        Source::Directory => return Err(io::ErrorKind::IsADirectory.into()),
        Source::Link => "a symbolic link",
        Source::Special => "a special file",
    };
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("the source is {what}, not a regular file"),
    ))
}

/// Makes a new file. It can also be read, because a clone call needs that.
pub(crate) fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// A file that calve removes unless it is kept.
struct NewFile {
    path: PathBuf,
    kept: bool,
}

impl NewFile {
    fn create(path: PathBuf) -> io::Result<(Self, File)> {
        let file = new_file(&path)?;
        Ok((Self { path, kept: false }, file))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            let _ = remove_file(&self.path);
        }
    }
}

/// The folder of a new file. It must exist.
fn parent_of(dest: &Path) -> io::Result<&Path> {
    if dest.file_name().is_none() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the destination's path does not end in a name",
        ));
    }
    let parent = match dest.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if fs::metadata(parent)?.is_dir() {
        Ok(parent)
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}

pub(crate) fn try_reflink(source: &Path, dest: &Path) -> io::Result<ReflinkOutcome> {
    parent_of(dest)?;
    let Some((source, meta)) = open_regular(source)? else {
        return Ok(ReflinkOutcome::SourceVanished);
    };
    let (mut made, file) = NewFile::create(dest.to_owned())?;
    let (outcome, _) = clone(&source, &file)?;
    if outcome == ReflinkOutcome::Cloned {
        finish(file, &made.path, &meta)?;
        made.kept = true;
    }
    Ok(outcome)
}

pub(crate) fn clonefile_or_copy(source: &Path, dest: &Path) -> io::Result<bool> {
    let parent = parent_of(dest)?;
    let (source, meta) = open_regular(source)?.ok_or(io::ErrorKind::NotFound)?;
    let (mut made, mut file) = NewFile::create(parent.join(temporary_name()))?;
    let (outcome, _) = clone(&source, &file)?;
    if outcome != ReflinkOutcome::Cloned {
        // A refused clone may have left bytes in it. A hole must not show them.
        file.set_len(0)?;
        copy(&source, &meta, &mut file, || false)?;
    }
    finish(file, &made.path, &meta)?;
    replace(&made.path, dest)?;
    made.kept = true;
    Ok(outcome == ReflinkOutcome::Cloned)
}

fn clone(source: &File, dest: &File) -> io::Result<(ReflinkOutcome, Option<io::Error>)> {
    super::outcome(Patience::new(FILE_PATIENCE).retry(|| sys::clone_file(source, dest)))
}

/// Copies the bytes of `source` into the new file `dest`, and keeps holes. Calls `stopped` between
/// two calls.
pub(crate) fn copy(
    mut source: &File,
    meta: &Metadata,
    dest: &mut File,
    stopped: impl Fn() -> bool,
) -> io::Result<()> {
    let sparse = meta.file_attributes() & FILE_ATTRIBUTE_SPARSE_FILE != 0
        && sys::set_sparse(dest, true).is_ok();
    let length = usize::try_from(meta.len()).unwrap_or(COPY_BYTES);
    // One byte more, so that a single read reaches the end of a file that fits.
    let mut buffer = vec![0; length.saturating_add(1).min(COPY_BYTES)];
    let mut offset = 0;
    loop {
        if stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if sparse {
            for part in buffer[..count].chunks(HOLE_BYTES) {
                if part.iter().any(|byte| *byte != 0) {
                    write_all_at(dest, part, offset)?;
                }
                offset += part.len() as u64;
            }
        } else {
            dest.write_all(&buffer[..count])?;
        }
    }
    if sparse { dest.set_len(offset) } else { Ok(()) }
}

fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.seek_write(bytes, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// Gives a filled file its times and attributes, and closes it.
pub(crate) fn finish(file: File, path: &Path, meta: &Metadata) -> io::Result<()> {
    file.set_times(times(meta)?)?;
    drop(file);
    set_attributes(path, meta)
}

/// Like [`finish`], for a directory.
pub(crate) fn finish_directory(path: &Path, meta: &Metadata) -> io::Result<()> {
    let dir = OpenOptions::new()
        .access_mode(FILE_WRITE_ATTRIBUTES)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)?;
    dir.set_times(times(meta)?)?;
    drop(dir);
    set_attributes(path, meta)
}

fn times(meta: &Metadata) -> io::Result<FileTimes> {
    Ok(FileTimes::new()
        .set_accessed(meta.accessed()?)
        .set_modified(meta.modified()?)
        .set_created(meta.created()?))
}

/// `std` only shows the read-only attribute, but Windows keeps all attributes. It sets them by
/// name, because that skips those that nobody can set (compressed, sparse, …).
fn set_attributes(path: &Path, meta: &Metadata) -> io::Result<()> {
    fs::set_permissions(path, meta.permissions())
}

/// Renames `from` to `to`. It replaces a file or a link there, but never a directory.
pub(crate) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    patiently(|| match fs::symlink_metadata(to) {
        Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // A rename does not replace a directory link.
        Ok(meta) if meta.file_type().is_symlink_dir() => {
            let aside = to.with_file_name(temporary_name());
            sys::rename_new(to, &aside)?;
            match sys::rename_new(from, to) {
                Ok(()) => fs::remove_dir(&aside),
                Err(error) => {
                    sys::rename_new(&aside, to)?;
                    Err(error)
                }
            }
        }
        Ok(meta) if meta.permissions().readonly() => {
            fs::set_permissions(to, writable(&meta))?;
            fs::rename(from, to).inspect_err(|_| {
                let _ = fs::set_permissions(to, meta.permissions());
            })
        }
        _ => fs::rename(from, to),
    })
}

/// Makes `call` again until nothing blocks it, or patience is at its end. On Windows a file that
/// somebody has open can make a rename or a removal of it, or of a folder above it, fail. A virus
/// scanner, for example, opens new files.
pub(crate) fn patiently(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    let mut waited = Duration::ZERO;
    loop {
        match call() {
            Err(error) if is_in_use(&error) && waited < NAME_PATIENCE => {
                std::thread::sleep(pause);
                waited += pause;
                pause *= 2;
            }
            result => return result,
        }
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
        || error.raw_os_error() == Some(ERROR_SHARING_VIOLATION.cast_signed())
}

/// Removes a file, even a read-only one. The attribute belongs to the file and not to the name, so
/// the file's other names get it back.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    let denied = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        result => return result,
    };
    let meta = fs::symlink_metadata(path)?;
    if !meta.permissions().readonly() {
        return Err(denied);
    }
    let file = OpenOptions::new()
        .access_mode(FILE_WRITE_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)?;
    file.set_permissions(writable(&meta))?;
    let result = fs::remove_file(path);
    let _ = file.set_permissions(meta.permissions());
    result
}

/// The attributes without read-only.
pub(crate) fn writable(meta: &Metadata) -> fs::Permissions {
    let mut permissions = meta.permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "that is about Unix")]
    permissions.set_readonly(false);
    permissions
}

/// A multiple of the block size of every filesystem.
const PROBE_BYTES: usize = 64 * 1024;

pub(crate) fn probe(source: &Path, dest: &Path) -> io::Result<(ReflinkOutcome, Option<io::Error>)> {
    if !fs::metadata(dest)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let mut made = None;
    let file = if fs::metadata(source)?.is_dir() {
        match NewFile::create(source.join(temporary_name())) {
            Ok((guard, mut file)) => {
                made = Some(guard);
                file.write_all(&[0xca; PROBE_BYTES])?;
                file.sync_all()?;
                file
            }
            Err(error) => {
                let open = |path: &Path| match open_source(path) {
                    Ok(Source::File(file, _)) => Some(file),
                    _ => None,
                };
                super::some_file_below(source, PROBE_BYTES as u64, open).ok_or(error)?
            }
        }
    } else {
        File::open(source)?
    };
    let (guard, new) = NewFile::create(dest.join(temporary_name()))?;
    let result = sys::clone_file(&file, &new);
    // Close both first: Windows keeps the name of an open file until it is closed.
    drop((file, new));
    drop((made, guard));
    super::outcome(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_file_is_replaced_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        fs::write(&old, "old").unwrap();
        fs::write(&new, "new").unwrap();
        let mut permissions = fs::metadata(&old).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&old, permissions.clone()).unwrap();
        replace(&new, &old).unwrap();
        assert_eq!(fs::read(&old).unwrap(), b"new");
        assert!(!new.try_exists().unwrap());
        fs::set_permissions(&old, permissions).unwrap();
        let other_name = folder.path().join("other name");
        fs::hard_link(&old, &other_name).unwrap();
        remove_file(&old).unwrap();
        assert!(!old.try_exists().unwrap());
        assert!(fs::metadata(&other_name).unwrap().permissions().readonly());
        remove_file(&other_name).unwrap();
    }

    #[test]
    fn a_directory_is_not_replaced_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, file) = (folder.path().join("directory"), folder.path().join("file"));
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "content").unwrap();
        assert_eq!(replace(&file, &directory).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(fs::read(&file).unwrap(), b"content");
    }

    #[test]
    fn a_copy_has_every_byte_at_every_size() {
        let folder = tempfile::tempdir().unwrap();
        for length in
            [0, 1, HOLE_BYTES, COPY_BYTES - 1, COPY_BYTES, COPY_BYTES + 1, 3 * COPY_BYTES + 7]
        {
            let content: Vec<u8> = (0..=250).cycle().take(length).collect();
            let path = folder.path().join("source");
            fs::write(&path, &content).unwrap();
            let source = File::open(&path).unwrap();
            let copied = folder.path().join(length.to_string());
            copy(&source, &source.metadata().unwrap(), &mut new_file(&copied).unwrap(), || false)
                .unwrap();
            assert!(fs::read(&copied).unwrap() == content, "{length}");
        }
    }
}

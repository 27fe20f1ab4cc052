//! The fallback: the bytes of one file, holes kept.
//!
//! `copy_file_range(2)` first (servers copy on their own side, and some filesystems share), then
//! read and write; every call may come short. Reading ends where the source ends, not at the size
//! it once had.
//!
//! Where a filesystem's holes and sizes are not believed ([`Filesystem`]), calve reads the whole
//! file, and runs of zeros become holes.
//!
//! A copy takes its time, and another process may write to the file meanwhile. Then the copy may be
//! of no moment at all. So calve looks at the file again afterwards ([`Copier::copy_at_rest`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{self, SeekFrom};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::filesystem::Filesystem;
use super::meta::Meta;
use super::refusal::SystemCall;
use super::sys;

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::fs::copy_file_range;

/// Not wrapped elsewhere.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn copy_file_range(
    _source: BorrowedFd<'_>,
    _from: Option<&mut u64>,
    _dest: BorrowedFd<'_>,
    _to: Option<&mut u64>,
    _length: usize,
) -> rustix::io::Result<usize> {
    Err(Errno::NOSYS)
}

/// What a worker keeps from file to file: its buffer, and what it learned of the pair of
/// filesystems.
#[derive(Debug, Default)]
pub(crate) struct Copier {
    buffer: Vec<u8>,
    /// Never share blocks: read and write only.
    plain: bool,
    /// `copy_file_range` said that it will never work here.
    ranged_refused: bool,
    /// `RLIMIT_FSIZE`: a write past it raises SIGXFSZ, which kills the process.
    limit: Option<u64>,
}

/// A file that was copied, perhaps several times.
#[derive(Debug)]
pub(crate) struct CopiedFile {
    /// The bytes of the copy.
    pub(crate) bytes: u64,
    /// The source's stat before these bytes were read.
    pub(crate) from: Meta,
    /// Whether the source had no change while these bytes were read.
    pub(crate) rested: bool,
}

/// How often calve reads a file that changes while it is read.
pub(crate) const TRIES: u32 = 5;
/// A file is not copied again after this time: a large one may change all the time.
const AGAIN_MOST: Duration = Duration::from_secs(10);
/// The longest tick of the clock that gives files their times: two changes in one tick may have the
/// same time.
const TICK: Duration = Duration::from_millis(10);
/// Below this size read and write take fewer and cheaper calls than `copy_file_range`'s detour
/// through a pipe.
const RANGED_MIN_BYTES: u64 = 64 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;
/// So many zeros in a row become a hole, where holes are not believed.
const HOLE_BYTES: usize = 64 * 1024;
/// One call's worth; short enough that a cancel is noticed between calls.
const RANGE_BYTES: u64 = 64 * 1024 * 1024;

impl Copier {
    pub(crate) fn new(plain: bool) -> Self {
        // If nobody says, a program that catches SIGXFSZ gets EFBIG.
        let limit = sys::soft_limit(sys::Limit::FileBytes).unwrap_or(None);
        Self { buffer: Vec::new(), plain, ranged_refused: false, limit }
    }

    /// Copies the content of `source`, on the filesystem `on`, into the new, empty `dest`; `from`
    /// is the source's stat. `stop` is asked between calls. On an error `dest` holds a part.
    pub(crate) fn copy(
        &mut self,
        source: impl AsFd,
        dest: impl AsFd,
        from: &Meta,
        on: &Filesystem,
        stop: impl Fn() -> bool,
    ) -> io::Result<u64> {
        let (source, dest) = (source.as_fd(), dest.as_fd());
        if !on.holes || !on.sizes {
            return self.read_through(source, dest, stop, |_| {});
        }
        let (size, blocks) = (from.size, from.blocks);
        if self.limit.is_some_and(|limit| size > limit) {
            return Err(Errno::FBIG.into());
        }
        if blocks.saturating_mul(512) >= size {
            return self.copy_range(source, dest, 0, u64::MAX, size, &stop);
        }
        let length = || fs::fstat(source).map(|stat| stat.st_size.unsigned_abs());
        let (mut offset, mut sized) = (0, false);
        let end = loop {
            // Before the question: what the file grows by meanwhile is data that was not asked for.
            let end = length()?;
            let data = match fs::seek(source, SeekFrom::Data(offset)) {
                Ok(data) => data,
                // No data from here on: what is left is a hole, or the end.
                Err(Errno::NXIO) => break end.min(length()?),
                // No such question on this filesystem.
                Err(Errno::INVAL | Errno::OPNOTSUPP) if offset == 0 => {
                    return self.copy_range(source, dest, 0, u64::MAX, size, &stop);
                }
                Err(errno) => return Err(errno.into()),
            };
            let hole = match fs::seek(source, SeekFrom::Hole(data)) {
                Ok(hole) => hole,
                // It is shorter by now.
                Err(Errno::NXIO) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if !sized {
                // Before the first write: XFS gives a file that grows more blocks than it asked
                // for, in the holes, too.
                fs::ftruncate(dest, size)?;
                sized = true;
            }
            offset = self.copy_range(source, dest, data, hole, size, &stop)?;
            if offset < hole {
                // It ended there, whatever its size says: sysfs has one page for files of a few
                // bytes.
                break offset;
            }
        };
        if self.limit.is_some_and(|limit| end > limit) {
            return Err(Errno::FBIG.into());
        }
        let end = end.max(offset);
        if !sized || end != size {
            fs::ftruncate(dest, end)?;
        }
        Ok(end)
    }

    /// Copies like [`Copier::copy`]. If the source changed meanwhile, empties `dest` and copies the
    /// source again, a few times. The caller has waited until a change would get another time than
    /// `from` has. Where times may go on by themselves, `is_same` tells whether the copy has the
    /// source's bytes.
    pub(crate) fn copy_at_rest(
        &mut self,
        source: impl AsFd,
        dest: impl AsFd,
        from: &Meta,
        on: &Filesystem,
        stop: impl Fn() -> bool,
        is_same: impl Fn() -> io::Result<bool>,
    ) -> io::Result<CopiedFile> {
        let (source, dest) = (source.as_fd(), dest.as_fd());
        let (start, mut from) = (Instant::now(), *from);
        let mut attempt = 1;
        loop {
            let bytes = self.copy(source, dest, &from, on, &stop)?;
            let now = Meta::of_file(source)?;
            let rested = now.has_content_of(&from) || !on.clock && is_same()?;
            if rested || attempt == TRIES || start.elapsed() > AGAIN_MOST {
                return Ok(CopiedFile { bytes, from, rested });
            }
            attempt += 1;
            fs::ftruncate(dest, 0)?;
            from = Meta::of_file(source)?;
            thread::sleep(TICK);
        }
    }

    /// Copies all that `source` gives when it is read, whatever its filesystem says of its size and
    /// its holes, and shows each piece to `each`.
    pub(crate) fn read_through(
        &mut self,
        source: impl AsFd,
        dest: impl AsFd,
        stop: impl Fn() -> bool,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<u64> {
        let (source, dest) = (source.as_fd(), dest.as_fd());
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER_BYTES, 0);
        }
        let (mut offset, mut written) = (0, 0);
        loop {
            if stop() {
                return Err(Errno::CANCELED.into());
            }
            let read = retry_on_intr(|| pread(source, &mut self.buffer[..], offset))?;
            if read == 0 {
                break;
            }
            if self.limit.is_some_and(|limit| offset + read as u64 > limit) {
                return Err(Errno::FBIG.into());
            }
            each(&self.buffer[..read]);
            // Pieces begin at multiples of a block as long as reads are whole.
            let mut at = offset;
            for piece in self.buffer[..read].chunks(HOLE_BYTES) {
                if piece.iter().any(|byte| *byte != 0) {
                    write_all_at(dest, piece, at)?;
                    written = at + piece.len() as u64;
                }
                at += piece.len() as u64;
            }
            offset = at;
        }
        if written < offset {
            fs::ftruncate(dest, offset)?;
        }
        Ok(offset)
    }

    /// Copies from `start` to `end`, or to the end of the file; returns where it came to.
    fn copy_range(
        &mut self,
        source: BorrowedFd<'_>,
        dest: BorrowedFd<'_>,
        start: u64,
        end: u64,
        size: u64,
        stop: &impl Fn() -> bool,
    ) -> io::Result<u64> {
        let mut offset = start;
        if !self.plain
            && !self.ranged_refused
            && size.min(end) - start.min(size) >= RANGED_MIN_BYTES
        {
            while offset < end {
                if stop() {
                    return Err(Errno::CANCELED.into());
                }
                let (mut from, mut to) = (offset, offset);
                let length = usize::try_from((end - offset).min(RANGE_BYTES)).unwrap_or(usize::MAX);
                match retry_on_intr(|| {
                    copy_file_range(source, Some(&mut from), dest, Some(&mut to), length)
                }) {
                    // The end; or a file that has bytes and no size, such as those of procfs: read
                    // on.
                    Ok(0) => break,
                    Ok(count) => offset += count as u64,
                    Err(errno) if SystemCall::CopyRange.is_unavailable(errno) => {
                        self.ranged_refused =
                            matches!(errno, Errno::NOSYS | Errno::XDEV | Errno::OPNOTSUPP);
                        break;
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        if self.buffer.is_empty() {
            self.buffer.resize(BUFFER_BYTES, 0);
        }
        while offset < end {
            if stop() {
                return Err(Errno::CANCELED.into());
            }
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let read = retry_on_intr(|| pread(source, &mut self.buffer[..want], offset))?;
            if read == 0 {
                break;
            }
            if self.limit.is_some_and(|limit| offset + read as u64 > limit) {
                return Err(Errno::FBIG.into());
            }
            write_all_at(dest, &self.buffer[..read], offset)?;
            offset += read as u64;
            // A short read of a file whose size is known ends at that size: one call fewer per
            // small file.
            if read < want && offset == size && size > 0 {
                break;
            }
        }
        Ok(offset)
    }
}

/// Whether two open files give the same bytes when they are read. `stop` is asked between calls.
pub(crate) fn have_same_bytes(
    one: impl AsFd,
    other: impl AsFd,
    stop: impl Fn() -> bool,
) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        if stop() {
            return Err(Errno::CANCELED.into());
        }
        let count = read_full_at(&one, &mut ours, offset)?;
        if read_full_at(&other, &mut theirs, offset)? != count || ours[..count] != theirs[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
        offset += count as u64;
    }
}

/// Like [`have_same_bytes`], but compares only the lengths, the first bytes and the last ones.
pub(crate) fn have_same_sample(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    const SAMPLE_BYTES: usize = 4096;
    let length = Meta::of_file(&one)?.size;
    if Meta::of_file(&other)?.size != length {
        return Ok(false);
    }
    let (mut ours, mut theirs) = ([0; SAMPLE_BYTES], [0; SAMPLE_BYTES]);
    for offset in [0, length.saturating_sub(SAMPLE_BYTES as u64)] {
        let count = read_full_at(&one, &mut ours, offset)?;
        if read_full_at(&other, &mut theirs, offset)? != count || ours[..count] != theirs[..count] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills the buffer, except at the end of the file.
fn read_full_at(file: impl AsFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match retry_on_intr(|| pread(&file, &mut buffer[done..], offset + done as u64))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

fn write_all_at(dest: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match retry_on_intr(|| pwrite(dest, &bytes[written..], offset + written as u64))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => written += count,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::{self, File, OpenOptions};
    use std::io::Write as _;
    use std::path::Path;

    use super::*;

    /// Once a file that was cut during its copy arrived with a length that it never had, and calve
    /// reported the length from before.
    #[test]
    fn a_file_that_changes_while_it_is_copied_is_copied_again_and_at_last_called_restless() {
        type Change = fn(&Path);
        let cut: Change = |path| {
            OpenOptions::new().write(true).open(path).unwrap().set_len(1000).unwrap();
        };
        let rewritten: Change = |path| fs::write(path, vec![b'N'; 2 * BUFFER_BYTES]).unwrap();
        let grown: Change = |path| {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b"more").unwrap();
        };
        let touched: Change = |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        // Each copy asks before each read whether it shall stop.
        for (row, change, at_questions, rested, attempts) in [
            ("nothing", touched, 0..0, true, 1),
            ("cut once", cut, 2..3, true, 2),
            ("rewritten once, shorter", rewritten, 2..3, true, 2),
            ("grown once", grown, 2..3, true, 2),
            ("touched once", touched, 1..2, true, 2),
            ("rewritten all the time", rewritten, 1..u32::MAX, false, TRIES),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
            fs::write(&from, vec![b'O'; 3 * BUFFER_BYTES]).unwrap();
            let (source, dest) = (File::open(&from).unwrap(), File::create_new(&to).unwrap());
            let meta = Meta::of_file(&source).unwrap();
            thread::sleep(2 * TICK);
            let (asked, begun) = (Cell::new(0), Cell::new(0));
            let stop = || {
                if dest.metadata().unwrap().len() == 0 {
                    begun.set(begun.get() + 1);
                }
                asked.set(asked.get() + 1);
                if at_questions.contains(&asked.get()) {
                    change(&from);
                }
                false
            };
            let mut copier = Copier::new(true);
            let on = Filesystem::named(Some("ext4"));
            let copied =
                copier.copy_at_rest(&source, &dest, &meta, on, stop, || Ok(false)).unwrap();
            assert_eq!(copied.rested, rested, "{row}");
            assert_eq!(begun.get(), attempts, "{row}");
            assert_eq!(copied.bytes, fs::metadata(&to).unwrap().len(), "{row}");
            if rested {
                assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap(), "{row}");
                let now = Meta::of_file(&source).unwrap();
                assert!(now.has_content_of(&copied.from), "{row}");
            }
        }
    }

    #[test]
    fn where_times_are_not_believed_the_same_bytes_prove_that_a_file_rested() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("from"), "content").unwrap();
        for (filesystem, same, rested) in
            [("fuse", true, true), ("fuse", false, false), ("ext4", true, false)]
        {
            let source = File::open(folder.path().join("from")).unwrap();
            let dest = tempfile::tempfile_in(folder.path()).unwrap();
            // The stat is of another moment each time.
            let stop = || {
                thread::sleep(TICK);
                source.set_modified(std::time::SystemTime::now()).unwrap();
                false
            };
            let meta = Meta::of_file(&source).unwrap();
            let on = Filesystem::named(Some(filesystem));
            let copied =
                Copier::new(true).copy_at_rest(&source, &dest, &meta, on, stop, || Ok(same));
            assert_eq!(copied.unwrap().rested, rested, "{filesystem} {same}");
        }
    }
}

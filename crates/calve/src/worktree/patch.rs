//! Writes changes as a patch that `git apply` accepts.
//!
//! The patch is the same as that of `git diff --binary --full-index --diff-algorithm=histogram`,
//! with two differences that git reads as well. No hunk names the function that it is in, and
//! changed binary files are whole literals, never deltas. Files of more than 64 MiB count as binary
//! whatever they hold, because their lines would take too long to compare.
//!
//! Such a patch holds what git knows about a file: its content, whether it is executable, and
//! whether it is a symbolic link. It does not hold other mode bits, times and empty directories.
//! `git apply` accepts no patch of a gigabyte or more.
//!
//! Content and names may be any bytes. The patch has both ids in full, so that `git apply` can tell
//! whether a binary file is the one that was changed. `git apply -R` undoes everything with one
//! exception, which git 2.47 makes for its own patches, too: a file that a patch deletes comes back
//! as a plain file.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use sha1_smol::Sha1;

use lines::LineDiff;

pub(crate) mod lines;
#[cfg(test)]
mod tests;

/// Larger files are not compared line by line. (The limit is smaller in tests, which would take
/// minutes otherwise.)
const LARGE_BYTES: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// How far git looks for the NUL byte that makes a file binary.
const BINARY_SEARCH_BYTES: usize = 8000;

/// How many unchanged lines a hunk has around a change.
const CONTEXT_LINES: u32 = 3;

const SYMLINK: u32 = 0o120_000;

/// One side of a change: a regular file, or a symbolic link whose content is its target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side<'a> {
    /// The mode in the format of `st_mode`. Only the type and the owner's execute bit count.
    pub(crate) mode: u32,
    pub(crate) content: &'a [u8],
}

impl Side<'_> {
    /// The mode as git has it: git knows three modes of files.
    fn git_mode(self) -> u32 {
        match self.mode {
            mode if mode & 0o170_000 == SYMLINK => SYMLINK,
            mode if mode & 0o100 != 0 => 0o100_755,
            _ => 0o100_644,
        }
    }

    fn is_symlink(self) -> bool {
        self.git_mode() == SYMLINK
    }
}

/// How one path changed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum PathChange<'a> {
    Added(Side<'a>),
    Deleted(Side<'a>),
    /// Content, mode or type changed, or several of these.
    Modified {
        old: Side<'a>,
        new: Side<'a>,
    },
    /// The file was at `from`, with the same content.
    Renamed {
        from: &'a [u8],
        old_mode: u32,
        new: Side<'a>,
    },
}

/// Appends the patch for `path`, which is relative, to `out`. Appends nothing if there is no change
/// that git knows.
pub(crate) fn write(out: &mut Vec<u8>, path: &[u8], change: &PathChange<'_>) {
    match *change {
        PathChange::Added(new) => write_file(out, path, None, Some(new)),
        PathChange::Deleted(old) => write_file(out, path, Some(old), None),
        // Git has no patch that changes one type to the other.
        PathChange::Modified { old, new } if old.is_symlink() != new.is_symlink() => {
            write_file(out, path, Some(old), None);
            write_file(out, path, None, Some(new));
        }
        PathChange::Modified { old, new } => {
            if old.git_mode() != new.git_mode() || old.content != new.content {
                write_file(out, path, Some(old), Some(new));
            }
        }
        PathChange::Renamed { from, old_mode, new } => {
            let old = Side { mode: old_mode, content: new.content };
            if old.is_symlink() != new.is_symlink() {
                write_file(out, from, Some(old), None);
                write_file(out, path, None, Some(new));
            } else {
                write_header(out, from, path);
                write_mode_change(out, old, new);
                out.extend(b"similarity index 100%\nrename from ");
                write_name(out, b"", from);
                out.extend(b"\nrename to ");
                write_name(out, b"", path);
                out.push(b'\n');
            }
        }
    }
}

/// How many lines were added and removed in the patch. `None` if the patch is binary.
pub(crate) fn stat_counts(old: &[u8], new: &[u8]) -> Option<(u64, u64)> {
    (!is_binary(old) && !is_binary(new)).then(|| LineDiff::new(old, new).counts())
}

fn is_binary(content: &[u8]) -> bool {
    content.len() > LARGE_BYTES || content[..content.len().min(BINARY_SEARCH_BYTES)].contains(&0)
}

/// Writes the patch of a path that exists on one side, or on both sides with the same type.
fn write_file(out: &mut Vec<u8>, path: &[u8], old: Option<Side<'_>>, new: Option<Side<'_>>) {
    write_header(out, path, path);
    match (old, new) {
        (Some(old), Some(new)) => write_mode_change(out, old, new),
        (Some(old), None) => push(out, format_args!("deleted file mode {:06o}\n", old.git_mode())),
        (None, Some(new)) => push(out, format_args!("new file mode {:06o}\n", new.git_mode())),
        (None, None) => {}
    }
    let (old_content, new_content) = (old.map(|side| side.content), new.map(|side| side.content));
    if old_content == new_content {
        return;
    }
    push(out, format_args!("index {}..{}", git_id(old_content), git_id(new_content)));
    match (old, new) {
        (Some(old), Some(new)) if old.git_mode() == new.git_mode() => {
            push(out, format_args!(" {:06o}\n", new.git_mode()));
        }
        _ => out.push(b'\n'),
    }
    let (old_content, new_content) =
        (old_content.unwrap_or_default(), new_content.unwrap_or_default());
    if is_binary(old_content) || is_binary(new_content) {
        out.extend(b"GIT binary patch\n");
        write_literal(out, new_content);
        write_literal(out, old_content);
    } else if old_content != new_content {
        // If an empty file is added or deleted, git writes no hunks, and no names for them either.
        write_label(out, b"--- ", b"a/", old.map(|_| path));
        write_label(out, b"+++ ", b"b/", new.map(|_| path));
        write_hunks(out, &LineDiff::new(old_content, new_content));
    }
}

fn push(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.extend(text.to_string().into_bytes());
}

fn write_header(out: &mut Vec<u8>, old_path: &[u8], new_path: &[u8]) {
    out.extend(b"diff --git ");
    write_name(out, b"a/", old_path);
    out.push(b' ');
    write_name(out, b"b/", new_path);
    out.push(b'\n');
}

fn write_mode_change(out: &mut Vec<u8>, old: Side<'_>, new: Side<'_>) {
    let (old, new) = (old.git_mode(), new.git_mode());
    if old != new {
        push(out, format_args!("old mode {old:06o}\nnew mode {new:06o}\n"));
    }
}

fn write_label(out: &mut Vec<u8>, sign: &[u8], prefix: &[u8], path: Option<&[u8]>) {
    out.extend(sign);
    match path {
        Some(path) => {
            write_name(out, prefix, path);
            // Without the tab, patch(1) would take the text after a space for a time.
            if path.contains(&b' ') {
                out.push(b'\t');
            }
        }
        None => out.extend(b"/dev/null"),
    }
    out.push(b'\n');
}

/// Writes a name like git with `core.quotePath`: as a C string, if it has bytes that could be
/// misread.
fn write_name(out: &mut Vec<u8>, prefix: &[u8], path: &[u8]) {
    let plain = |byte: &u8| matches!(byte, 0x20..0x7f) && !matches!(byte, b'"' | b'\\');
    if path.iter().all(plain) {
        out.extend(prefix);
        out.extend(path);
        return;
    }
    out.push(b'"');
    out.extend(prefix);
    for byte in path {
        let short = match byte {
            0x07 => b'a',
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0b => b'v',
            0x0c => b'f',
            b'\r' => b'r',
            b'"' | b'\\' => *byte,
            _ if plain(byte) => {
                out.push(*byte);
                continue;
            }
            _ => {
                push(out, format_args!("\\{byte:03o}"));
                continue;
            }
        };
        out.extend([b'\\', short]);
    }
    out.push(b'"');
}

/// The id that git has for a file with this content. All zeros if there is no file.
fn git_id(content: Option<&[u8]>) -> String {
    let Some(content) = content else { return "0".repeat(40) };
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", content.len()).as_bytes());
    hasher.update(content);
    hasher.digest().to_string()
}

/// Writes the hunks. Like in git, changes share a hunk if they are closer to each other than the
/// context of both.
fn write_hunks(out: &mut Vec<u8>, diff: &LineDiff<'_>) {
    let near =
        |pair: &[lines::Hunk]| pair[1].before.start - pair[0].before.end <= 2 * CONTEXT_LINES;
    let mut rest = diff.hunks();
    while let Some(first) = rest.first() {
        let count = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let (group, others) = rest.split_at(count);
        rest = others;
        let last = &group[count - 1];
        let lead = CONTEXT_LINES.min(first.before.start).min(first.after.start);
        let trail = CONTEXT_LINES
            .min(diff.before_lines() - last.before.end)
            .min(diff.after_lines() - last.after.end);
        let before = first.before.start - lead..last.before.end + trail;
        let after = first.after.start - lead..last.after.end + trail;
        out.extend(b"@@ -");
        write_range(out, diff, &before);
        out.extend(b" +");
        write_range(out, diff, &after);
        out.extend(b" @@\n");
        let mut at = before.start;
        for hunk in group {
            (at..hunk.before.start).for_each(|line| write_line(out, b' ', diff.before(line)));
            hunk.before.clone().for_each(|line| write_line(out, b'-', diff.before(line)));
            hunk.after.clone().for_each(|line| write_line(out, b'+', diff.after(line)));
            at = hunk.before.end;
        }
        (at..before.end).for_each(|line| write_line(out, b' ', diff.before(line)));
    }
}

fn write_range(out: &mut Vec<u8>, diff: &LineDiff<'_>, range: &std::ops::Range<u32>) {
    let start = u64::from(diff.lines_ahead()) + u64::from(range.start);
    match range.len() {
        // An empty range gives the number of the line before it.
        0 => push(out, format_args!("{start},0")),
        1 => push(out, format_args!("{}", start + 1)),
        count => push(out, format_args!("{},{count}", start + 1)),
    }
}

fn write_line(out: &mut Vec<u8>, sign: u8, line: &[u8]) {
    out.push(sign);
    out.extend(line);
    if !line.ends_with(b"\n") {
        out.extend(b"\n\\ No newline at end of file\n");
    }
}

/// Writes the whole content, compressed by zlib and encoded in git's base 85, and the empty line
/// that ends it.
fn write_literal(out: &mut Vec<u8>, content: &[u8]) {
    push(out, format_args!("literal {}\n", content.len()));
    let mut encoder = ZlibEncoder::new(Base85 { out, line: Vec::new() }, Compression::default());
    let written = encoder.write_all(content).and_then(|()| encoder.finish());
    let mut base85 = written.expect("a writer to memory refuses nothing");
    base85.end_line();
    out.push(b'\n');
}

/// Writes lines that encode up to 52 bytes each: a letter for the number of bytes, then five digits
/// for every four of them.
struct Base85<'a> {
    out: &'a mut Vec<u8>,
    /// The bytes of the next line, which is written when it is full.
    line: Vec<u8>,
}

impl Base85<'_> {
    const LINE_BYTES: usize = 52;
    const DIGITS: &'static [u8; 85] =
        b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    /// The letters for a line's length: A is 1, Z is 26, a is 27, z is 52.
    const LENGTHS: &'static [u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    fn end_line(&mut self) {
        let Some(length) = self.line.len().checked_sub(1) else { return };
        self.out.push(Self::LENGTHS[length]);
        for group in self.line.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..group.len()].copy_from_slice(group);
            let number = u32::from_be_bytes(bytes);
            let digit = |place: u32| Self::DIGITS[(number / 85u32.pow(place) % 85) as usize];
            self.out.extend([4, 3, 2, 1, 0].map(digit));
        }
        self.out.push(b'\n');
        self.line.clear();
    }
}

impl Write for Base85<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(Self::LINE_BYTES - self.line.len());
        self.line.extend(&bytes[..taken]);
        if self.line.len() == Self::LINE_BYTES {
            self.end_line();
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

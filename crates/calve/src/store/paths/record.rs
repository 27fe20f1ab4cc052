//! `RECORD` of a Python package: one line for each file, with its SHA-256 and its size. `pip`
//! compares them when it uninstalls, and tools that check an environment do, too. So when a file is
//! translated, its line is.

use std::path::{Path, PathBuf};

use super::{PathKind, in_environment, normal};
use crate::tree::git_index::sha256;

/// The hash and the size of a file, as `RECORD` spells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digest {
    hash: String,
    size: String,
}

impl Digest {
    pub(crate) fn of(content: &[u8]) -> Self {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut hash = String::from("sha256=");
        for bytes in sha256(content).chunks(3) {
            let byte = |at: usize| u32::from(bytes.get(at).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for letter in 0..=bytes.len() {
                let six = bits >> (18 - 6 * letter) & 63;
                hash.push(char::from(LETTERS[six as usize]));
            }
        }
        Self { hash, size: content.len().to_string() }
    }
}

/// The text with other digests. `change` gives, for a file that the text lists, the digest that it
/// had and the one that it has now. A line with neither is left alone: it was never true.
pub(crate) fn translate(
    path: &Path,
    text: &[u8],
    mut change: impl FnMut(&Path) -> Option<(Digest, Digest)>,
) -> Option<Vec<u8>> {
    let (mut made, mut changed) = (Vec::with_capacity(text.len()), false);
    let mut done = 0;
    for (start, line) in lines(text) {
        let Some(file) = named(path, line) else { continue };
        let Some((was, is)) = change(&file) else { continue };
        let Some([name, hash, size, end]) = fields(line) else { continue };
        if was == is
            || hash != was.hash.as_bytes()
            || !(size.is_empty() || size == was.size.as_bytes())
        {
            continue;
        }
        made.extend_from_slice(&text[done..start]);
        made.extend_from_slice(name);
        made.push(b',');
        made.extend_from_slice(is.hash.as_bytes());
        made.push(b',');
        if !size.is_empty() {
            made.extend_from_slice(is.size.as_bytes());
        }
        made.extend_from_slice(end);
        done = start + line.len();
        changed = true;
    }
    made.extend_from_slice(&text[done..]);
    changed.then_some(made)
}

/// The lines, with their ends, and where they start.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = 0;
    text.split_inclusive(|byte| *byte == b'\n').map(move |line| {
        let at = start;
        start += line.len();
        (at, line)
    })
}

/// Name, hash, size and end of a line.
fn fields(line: &[u8]) -> Option<[&[u8]; 4]> {
    let text = line.trim_ascii_end();
    let (rest, size) = split_last(text)?;
    let (name, hash) = split_last(rest)?;
    Some([name, hash, size, &line[text.len()..]])
}

fn split_last(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memrchr(b',', text)?;
    Some((&text[..at], &text[at + 1..]))
}

/// The file that a line lists, if it may have been translated.
fn named(path: &Path, line: &[u8]) -> Option<PathBuf> {
    // Most lines list modules, and are done with at once.
    let [name, ..] = fields(line)?;
    let name = name.strip_prefix(b"\"").and_then(|name| name.strip_suffix(b"\"")).unwrap_or(name);
    let ends = |end: &[u8]| name.ends_with(end);
    let may_be = name.starts_with(b"../")
        || ends(b".pth")
        || ends(b"direct_url.json")
        || (name.starts_with(b"_") && ends(b".py"));
    if !may_be {
        return None;
    }
    let packages = path.parent()?.parent()?;
    let file = normal(&packages.join(crate::store::manifest::os(name)))?;
    let kind = in_environment(&file)?.0;
    (kind != PathKind::Record).then_some(file)
}

//! The setting `core.worktree` in the text of a configuration file.

use std::ffi::{CStr, OsString};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use super::{CONFIG_MOST_BYTES, open_regular, read};

/// The setting `core.worktree` in a repository's configuration file, if there is one.
pub(crate) fn set_working_tree(git: &OwnedFd, file: &CStr) -> Option<PathBuf> {
    let (file, meta) = open_regular(git, file)?;
    let text = read(&file, meta.size.min(CONFIG_MOST_BYTES))?;
    let (at, quoted) = working_tree_line(&text)?;
    let value = &text[at];
    let value = if quoted { unquoted(value) } else { value.to_vec() };
    Some(PathBuf::from(OsString::from_vec(value)))
}

/// The text of a configuration file with another `core.worktree`. `None` if the file has none.
pub(crate) fn with_working_tree(text: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (at, was_quoted) = working_tree_line(text)?;
    let (start, end) = match was_quoted {
        true => (at.start - 1, at.end + 1),
        false => (at.start, at.end),
    };
    let mut made = text[..start].to_vec();
    made.push(b'"');
    for byte in value {
        match byte {
            b'"' | b'\\' => made.extend([b'\\', *byte]),
            b'\n' => made.extend(b"\\n"),
            byte => made.push(*byte),
        }
    }
    made.push(b'"');
    made.extend_from_slice(&text[end..]);
    Some(made)
}

/// The place of the value of `worktree` in a configuration file, and whether the value is in
/// quotes.
pub(super) fn working_tree_line(text: &[u8]) -> Option<(Range<usize>, bool)> {
    let (mut begin, mut is_in_core) = (0, false);
    for mut line in text.split(|byte| *byte == b'\n') {
        let end = begin + line.len();
        begin = end + 1;
        if let Some(header) = line.trim_ascii_start().strip_prefix(b"[") {
            let Some(close) = header.iter().position(|byte| *byte == b']') else { continue };
            is_in_core = header[..close].eq_ignore_ascii_case(b"core");
            // A key may be behind the section's name.
            line = &header[close + 1..];
        }
        let (at, whole) = (end - line.len(), line);
        let key = line.trim_ascii().split_at_checked(b"worktree".len()).filter(|_| is_in_core);
        let Some((key, value)) = key else {
            continue;
        };
        if !key.eq_ignore_ascii_case(b"worktree") {
            continue;
        }
        let Some(value) = value.trim_ascii_start().strip_prefix(b"=") else { continue };
        let value = value.trim_ascii();
        let end = at + whole.trim_ascii_end().len();
        let start = end - value.len();
        return Some(match value {
            [b'"', .., b'"'] if value.len() > 1 => (start + 1..end - 1, true),
            _ => (start..end, false),
        });
    }
    None
}

/// Whether no line of a configuration file can say where the working tree of its repository is, that
/// it has none, or that a further file says so. A file about which that is not plain is not silent.
#[cfg(feature = "store")]
pub(crate) fn is_silent_on_working_tree(text: &[u8]) -> bool {
    const SAYS_IT: [&[u8]; 2] = [b"bare", b"worktree"];
    text.to_ascii_lowercase().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).all(|line| {
        // Branches may have such names. A line may have several headers.
        let is_branch = line.starts_with(b"[branch \"")
            && line.ends_with(b"\"]")
            && memchr::memchr_iter(b'[', line).count() == 1;
        let key = match line.first() {
            Some(b'[') => line,
            _ => line.split(|byte| *byte == b'=').next().unwrap_or_default(),
        };
        is_branch
            || line == b"bare = false"
            || SAYS_IT.iter().all(|word| memchr::memmem::find(key, word).is_none())
    })
}

/// The text that a quoted value of a configuration file means.
pub(super) fn unquoted(value: &[u8]) -> Vec<u8> {
    let mut made = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        made.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(other) => *other,
                None => b'\\',
            },
            byte => *byte,
        });
    }
    made
}

/// The path that the relative path `value` leads to from the repository `git`, if it stays in the
/// tree.
pub(crate) fn resolved(git: &Path, value: &Path) -> Option<PathBuf> {
    let mut path = git.to_owned();
    for part in value.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => path.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

//! Absolute paths in a tree: finds those that name the tree's own root, and translates the files
//! whose format is known from one root to another.
//!
//! A Python environment names its own folder by its absolute path, in many files. In a worktree
//! these files would go on meaning the project's environment. So a snapshot holds each of them as
//! the project has it, and each worktree gets it with its own root (docs/design/paths.md).
//!
//! # There and back
//! [`Relocation::localize`] translates a file from the project's root to the worktree's, and
//! [`Relocation::canonical`] translates it back. `localize` gives nothing if the way back would not
//! give the same bytes. So a file is either translated in both directions, or in neither.
//!
//! A file that already names the root that it would get is left alone: afterwards nobody could tell
//! its two roots apart.
//!
//! # Several spellings
//! A root may be reached by several paths: through a symbolic link above it, through a bind mount,
//! or in other cases of its letters. Files may name it by each of them ([`spelling`]). Each
//! spelling has one of the worktree's own, so that the way back leads to the same bytes.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use memchr::memmem;

use super::files::percent_encoded;

pub use kinds::{PathKind, PathMeaning};

pub(crate) mod found;
pub(crate) mod kinds;
pub(crate) mod links;
pub(crate) mod living;
pub(crate) mod local;
pub(crate) mod record;
pub(crate) mod secrets;
pub(crate) mod spelling;
#[cfg(test)]
mod tests;

/// Larger files are not searched, and not translated.
pub(crate) const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Whether a text has a root, and not only a path that begins with the same letters. The text
/// before the root does not matter: a compiler's option may be (`-I/app/include`).
fn has_root(text: &[u8], finder: &memmem::Finder<'_>) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte) || *byte > 127;
    finder
        .find_iter(text)
        .any(|start| !text.get(start + finder.needle().len()).is_some_and(is_name))
}

/// A file with a zero in its first bytes is binary, as for git.
const TEXT_BYTES: usize = 8000;

/// The longest first line that every system in use passes to an interpreter as a whole.
const FIRST_LINE_MOST: usize = 127;

/// The file that makes a folder a Python environment.
const CONFIG: &str = "pyvenv.cfg";

/// The kind of a regular file at `path`, as far as its name says, and the folder of the Python
/// environment that it belongs to if that folder has a `pyvenv.cfg`. Only files of an environment
/// have a known format.
pub(crate) fn in_environment(path: &Path) -> Option<(PathKind, &Path)> {
    let name = path.file_name()?.as_bytes();
    let folder = path.parent()?;
    if name == CONFIG.as_bytes() {
        return Some((PathKind::EnvironmentConfig, folder));
    }
    let folder_name = folder.file_name()?.as_bytes();
    if folder_name == b"bin" {
        let activates = name.starts_with(b"activate")
            || name.starts_with(b"deactivate")
            || name == b"pydoc.bat";
        let kind = if activates { PathKind::Activation } else { PathKind::Script };
        return Some((kind, folder.parent()?));
    }
    if folder_name.ends_with(b".dist-info") {
        let kind = match name {
            b"direct_url.json" => PathKind::DirectUrl,
            b"RECORD" => PathKind::Record,
            _ => return None,
        };
        return Some((kind, environment_of(folder.parent()?)?));
    }
    let ends = |end: &[u8]| name.ends_with(end);
    let kind = if ends(b".pth") || ends(b".egg-link") {
        PathKind::PathFile
    } else if name.starts_with(b"_") && ends(b".py") && memmem::find(name, b"editable").is_some() {
        PathKind::EditableFinder
    } else {
        return None;
    };
    Some((kind, environment_of(folder)?))
}

/// The environment whose packages are in `folder`: `ENV/lib/python3.12/site-packages`.
fn environment_of(folder: &Path) -> Option<&Path> {
    let starts = |name: Option<&OsStr>, start: &[u8]| {
        name.is_some_and(|name| name.as_bytes().starts_with(start))
    };
    let version = folder.parent()?;
    let lib = version.parent()?;
    let is_it = matches!(folder.file_name()?.as_bytes(), b"site-packages" | b"dist-packages")
        && (starts(version.file_name(), b"python") || starts(version.file_name(), b"pypy"))
        && starts(lib.file_name(), b"lib");
    is_it.then(|| lib.parent()).flatten()
}

/// A tree's root and another tree's, in all the ways in which files spell them. Files that name the
/// first tree are translated to name the second, and back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relocation {
    /// Each spelling of the project's root, as snapshots have it, with one of the worktree's root.
    /// The first pair has both roots as they are without links. No two pairs have the same second
    /// path, so each file can be translated back.
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Relocation {
    pub(crate) fn new(from: Vec<u8>, to: Vec<u8>) -> Self {
        Self { pairs: vec![(from, to)] }
    }

    /// `None` if there is no pair.
    pub(crate) fn of(pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Option<Self> {
        (!pairs.is_empty()).then_some(Self { pairs })
    }

    /// From a tree whose root has the spellings `from`, to one at `to`.
    pub(crate) fn between(from: &[Vec<u8>], to: &Path) -> Option<Self> {
        let (first, others) = from.split_first()?;
        let mut roots = Self::new(first.clone(), to.as_os_str().as_bytes().to_vec());
        roots.add(others);
        Some(roots)
    }

    /// Adds further spellings of the first tree's root. Returns whether one of them was new.
    pub(crate) fn add(&mut self, spellings: &[Vec<u8>]) -> bool {
        let before = self.pairs.len();
        for spelling in spellings {
            if self.from().any(|from| from == spelling) {
                continue;
            }
            let (from, to) = &self.pairs[0];
            let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
            let beside = spelling::counterpart(&path(spelling), &path(from), &path(to));
            let mut to = beside.unwrap_or_else(|| [to, &b"/."[..]].concat());
            while self.to().any(|known| *known == to) {
                to.extend_from_slice(b"/.");
            }
            self.pairs.push((spelling.clone(), to));
        }
        self.pairs.len() > before
    }

    /// The same, with one more pair: another path that leads to the worktree.
    fn with(&self, from: Vec<u8>, to: Vec<u8>) -> Self {
        let mut pairs = self.pairs.clone();
        pairs.push((from, to));
        Self { pairs }
    }

    /// The same, for a tree whose files may name the root of `other` as well: both are roots of one
    /// worktree, which was moved, and its files are being translated from one to the other.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let mut pairs = self.pairs.clone();
        pairs.extend(other.pairs.iter().filter(|(_, to)| self.to().all(|it| it != to)).cloned());
        Self { pairs }
    }

    /// Whether this is of a tree whose files name one root or the other ([`or`](Self::or)).
    pub(crate) fn is_unfinished(&self) -> bool {
        let from = |at: usize| &self.pairs[at].0;
        (0..self.pairs.len()).any(|at| (0..at).any(|before| from(before) == from(at)))
    }

    /// From each root that the worktree's files may name to its root in `now`, which has the same
    /// spellings of the project's root. Each list has the pairs of one root, the latest root first.
    pub(crate) fn moves_to(&self, now: &Self) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut moves: Vec<Vec<(Vec<u8>, Vec<u8>)>> = Vec::new();
        let mut places: Vec<Vec<&[u8]>> = Vec::new();
        for (from, earlier) in &self.pairs {
            let Some((_, to)) = now.pairs.iter().find(|(known, _)| known == from) else { continue };
            let place = places.iter().position(|place| !place.contains(&&from[..]));
            let place = place.unwrap_or_else(|| {
                places.push(Vec::new());
                moves.push(Vec::new());
                places.len() - 1
            });
            places[place].push(from);
            if earlier != to {
                moves[place].push((earlier.clone(), to.clone()));
            }
        }
        moves
    }

    pub(crate) fn pairs(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.pairs
    }

    /// The project's root, in all its spellings.
    pub(crate) fn from(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.pairs.iter().map(|(from, _)| from)
    }

    /// The worktree's root, in all its spellings.
    pub(crate) fn to(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.pairs.iter().map(|(_, to)| to)
    }

    fn there(&self) -> Vec<RootPair<'_>> {
        self.pairs.iter().map(|(from, to)| (&from[..], &to[..])).collect()
    }

    fn back(&self) -> Vec<RootPair<'_>> {
        self.pairs.iter().map(|(from, to)| (&to[..], &from[..])).collect()
    }

    /// The bytes that a file of the project has in the worktree. `None` if they are the same, or if
    /// the file cannot be translated there and back.
    pub(crate) fn localize(&self, kind: PathKind, bytes: &[u8]) -> Option<Vec<u8>> {
        let local = translate(kind, bytes, &self.there())?;
        (translate(kind, &local, &self.back())? == bytes).then_some(local)
    }

    /// The bytes that a file of the worktree has in a snapshot. `None` if they are the same.
    pub(crate) fn canonical(&self, kind: PathKind, bytes: &[u8]) -> Option<Vec<u8>> {
        translate(kind, bytes, &self.back())
    }

    /// The target that the symbolic link at `path` has in the worktree. `None` if it is the same. A
    /// link that would name itself then is no link of the project: a worktree made it, to share
    /// what the project has at this path.
    pub(crate) fn localize_target(&self, path: &Path, target: &[u8]) -> Option<Vec<u8>> {
        let is_translated = !names_itself(path, target, self.from());
        is_translated.then(|| self.localize(PathKind::Link, target))?
    }

    /// The target that the symbolic link at `path` in the worktree has in a snapshot. `None` if it
    /// is the same.
    pub(crate) fn canonical_target(&self, path: &Path, target: &[u8]) -> Option<Vec<u8>> {
        let is_translated = !names_itself(path, target, self.to());
        is_translated.then(|| self.canonical(PathKind::Link, target))?
    }

    /// The seconds by which a file of the worktree is older than the project's.
    pub(crate) fn seconds_older(&self, kind: PathKind) -> i64 {
        seconds_older(kind, &self.pairs[0].1)
    }
}

/// The seconds by which a module that was translated to `root` is older than its original. Python
/// takes a compiled module for that of a source with the same size and the same second. Two
/// worktrees with paths of one length would take each other's.
pub(crate) fn seconds_older(kind: PathKind, root: &[u8]) -> i64 {
    if kind != PathKind::EditableFinder {
        return 0;
    }
    let hash = blake3::hash(root);
    let bytes = hash.as_bytes();
    1 + i64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]))
}

/// A root that is replaced, and the one that takes its place.
type RootPair<'a> = (&'a [u8], &'a [u8]);

/// Whether the text of a file of this kind can hold `root` without quoting it.
fn is_plain(kind: PathKind, root: &[u8]) -> bool {
    let never = |bytes: &[u8]| root.iter().any(|byte| bytes.contains(byte));
    match kind {
        PathKind::Link | PathKind::DirectUrl => true,
        PathKind::EnvironmentConfig | PathKind::PathFile => !never(b"\n\r"),
        PathKind::Script => !never(b"\n\r\"'\\$`"),
        PathKind::Activation => !never(b"\n\r\"'\\$`!%"),
        PathKind::EditableFinder => std::str::from_utf8(root)
            .is_ok_and(|text| !text.chars().any(char::is_control) && !never(b"\"'\\")),
        _ => false,
    }
}

/// The ways in which a text of this kind spells `root`.
fn spellings(kind: PathKind, root: &[u8]) -> Vec<Cow<'_, [u8]>> {
    if kind != PathKind::DirectUrl {
        return vec![Cow::Borrowed(root)];
    }
    // pip (urllib's `quote`) and uv (the URL standard) leave different characters as they are.
    let python = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-~".contains(&byte);
    let url = |byte: u8| byte.is_ascii_graphic() && !b"\"#%<>?`{}^".contains(&byte);
    let encoded = |is_kept: &dyn Fn(u8) -> bool| percent_encoded(root, is_kept).into_bytes();
    vec![Cow::Owned(encoded(&python)), Cow::Owned(encoded(&url))]
}

fn translate(kind: PathKind, bytes: &[u8], pairs: &[RootPair<'_>]) -> Option<Vec<u8>> {
    let can_be = |root: &[u8]| !root.is_empty() && is_plain(kind, root);
    let pairs: Vec<RootPair<'_>> =
        pairs.iter().copied().filter(|(from, to)| can_be(from) && can_be(to)).collect();
    match kind {
        PathKind::Link => renamed(bytes, &pairs, |rest| rest.is_empty() || rest[0] == b'/'),
        PathKind::Script => script(bytes, &pairs),
        _ => {
            if bytes.contains(&0) {
                return None;
            }
            replaced(kind, bytes, &pairs)
        }
    }
}

/// The text with each pair's second root in place of its first. `None` if nothing names a first
/// root, or something names a second one.
fn replaced(kind: PathKind, text: &[u8], pairs: &[RootPair<'_>]) -> Option<Vec<u8>> {
    let from = pairs.iter().flat_map(|(from, _)| spellings(kind, from));
    let to: Vec<_> = pairs.iter().flat_map(|(_, to)| spellings(kind, to)).collect();
    let mut names: Vec<(usize, usize, Option<usize>)> = Vec::new();
    for (at, root) in from.enumerate() {
        names.extend(mentions(text, &root).map(|start| (start, root.len(), Some(at))));
    }
    for root in &to {
        names.extend(mentions(text, root).map(|start| (start, root.len(), None)));
    }
    // The longer name comes first: a worktree may be inside its project, or the other way round.
    names.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
    let (mut made, mut done) = (Vec::with_capacity(text.len() + 64), 0);
    let mut found = false;
    for (start, length, which) in names {
        if start < done {
            continue;
        }
        let which = which?;
        made.extend_from_slice(&text[done..start]);
        made.extend_from_slice(&to[which]);
        done = start + length;
        found = true;
    }
    made.extend_from_slice(&text[done..]);
    found.then_some(made)
}

/// The bytes that end a path in a text, beside its end.
const ENDS: &[u8] = b"'\"\r\n:;),]}";

/// Whether an absolute path may begin after this text.
fn begins(before: &[u8]) -> bool {
    match before.last() {
        None => true,
        Some(b'/') => before.ends_with(b"file://"),
        Some(byte) => !(byte.is_ascii_alphanumeric() || b"_.-~".contains(byte) || *byte > 127),
    }
}

/// Where a text names `root`, and not a longer path that only begins, or ends, with the same
/// letters.
pub(crate) fn mentions<'t>(text: &'t [u8], root: &[u8]) -> impl Iterator<Item = usize> + use<'t> {
    let length = root.len();
    let starts: Vec<usize> = memmem::find_iter(text, root).collect();
    starts.into_iter().filter(move |start| {
        let after = text.get(start + length);
        begins(&text[..*start]) && after.is_none_or(|byte| *byte == b'/' || ENDS.contains(byte))
    })
}

/// Looks for roots in text that is read piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    finders: Vec<memmem::Finder<'static>>,
    /// One less than the length of the longest root.
    overlap: usize,
    /// The last bytes of the pieces that were looked at.
    tail: Vec<u8>,
    is_text: bool,
}

impl Roots {
    pub(crate) fn new(roots: &[Vec<u8>]) -> Self {
        let mut spelled: Vec<Vec<u8>> = roots.to_vec();
        for root in roots {
            spelled.extend(spellings(PathKind::DirectUrl, root).into_iter().map(Cow::into_owned));
        }
        spelled.retain(|root| root.len() > 1);
        spelled.sort();
        spelled.dedup();
        Self {
            overlap: spelled.iter().map(|root| root.len() - 1).max().unwrap_or(0),
            finders: spelled.iter().map(|root| memmem::Finder::new(root).into_owned()).collect(),
            tail: Vec::new(),
            is_text: false,
        }
    }

    /// Whether a file of this size is looked at.
    pub(crate) fn are_wanted(&self, size: u64) -> bool {
        !self.finders.is_empty() && size <= MOST_BYTES
    }

    /// Whether the next piece of a file, at `offset`, has one of the roots. Binary files have none.
    pub(crate) fn found_in(&mut self, offset: u64, piece: &[u8]) -> bool {
        if offset == 0 {
            self.tail.clear();
            self.is_text = memchr::memchr(0, &piece[..piece.len().min(TEXT_BYTES)]).is_none();
        }
        if !self.is_text {
            return false;
        }
        if self.finders.iter().any(|finder| has_root(piece, finder)) {
            return true;
        }
        // A root may begin in one piece and end in the next.
        let mut found = false;
        if !self.tail.is_empty() {
            self.tail.extend_from_slice(&piece[..piece.len().min(self.overlap)]);
            found = self.finders.iter().any(|finder| has_root(&self.tail, finder));
            self.tail.clear();
        }
        self.tail.extend_from_slice(&piece[piece.len() - piece.len().min(self.overlap)..]);
        found
    }
}

const SHELL_LINE: &[u8] = b"#!/bin/sh\n";
const EXEC: &[u8] = b"'''exec' ";
const ARGUMENTS: &[u8] = b" \"$0\" \"$@\"\n' '''\n";

/// A program whose first line names an interpreter. A path that is too long for a first line, or
/// has a space, takes the form that pip and uv use: three lines that are both shell and Python.
fn script(text: &[u8], pairs: &[RootPair<'_>]) -> Option<Vec<u8>> {
    let is_below = |rest: &[u8]| rest.starts_with(b"/");
    let end = memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1);
    if let Some(rest) = text.strip_prefix(SHELL_LINE).filter(|rest| rest.starts_with(EXEC)) {
        if let Some((interpreter, body)) = quoted(rest) {
            let interpreter = renamed(interpreter, pairs, is_below)?;
            return Some(with_interpreter(&interpreter, b"\n", body));
        }
        // Another form of the same: an unquoted path, or single quotes.
        let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..length];
        let is_quoted =
            line[EXEC.len()..].starts_with(b"'") || line[EXEC.len()..].starts_with(b"\"");
        if !is_quoted && pairs.iter().any(|(_, to)| has_space(to)) {
            return None;
        }
        let line = replaced(PathKind::Script, line, pairs)?;
        return Some([SHELL_LINE, &line, &rest[length..]].concat());
    }
    let line = text[..end].strip_prefix(b"#!")?;
    let (line, end_of_line): (&[u8], &[u8]) = match line {
        [line @ .., b'\r', b'\n'] => (line, b"\r\n"),
        [line @ .., b'\n'] => (line, b"\n"),
        line => (line, b""),
    };
    let body = &text[end..];
    let interpreter = line.split(|byte| matches!(byte, b' ' | b'\t')).next()?;
    if interpreter.len() == line.len() && end_of_line == b"\n" {
        return Some(with_interpreter(&renamed(interpreter, pairs, is_below)?, end_of_line, body));
    }
    // An interpreter with arguments, or the line of another system.
    let interpreter = renamed(interpreter, pairs, is_below)?;
    let arguments =
        &line[line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len())..];
    let first = [b"#!", &interpreter[..], arguments, end_of_line].concat();
    (first.len() <= FIRST_LINE_MOST && !has_space(&interpreter)).then(|| [&first, body].concat())
}

fn has_space(path: &[u8]) -> bool {
    path.iter().any(u8::is_ascii_whitespace)
}

/// The interpreter that [`with_interpreter`] wrote, and the text after it.
fn quoted(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let path = rest.strip_prefix(EXEC)?.strip_prefix(b"\"")?;
    let length = memchr::memchr(b'"', path)?;
    let body = path[length + 1..].strip_prefix(ARGUMENTS)?;
    Some((&path[..length], body))
}

fn with_interpreter(interpreter: &[u8], end_of_line: &[u8], body: &[u8]) -> Vec<u8> {
    if interpreter.len() + 3 <= FIRST_LINE_MOST && !has_space(interpreter) {
        return [b"#!", interpreter, end_of_line, body].concat();
    }
    [SHELL_LINE, EXEC, b"\"", interpreter, b"\"", ARGUMENTS, body].concat()
}

/// A path below a pair's first root, below its second root instead; `is_below` looks at the rest of
/// the path. `None` if the path is below none, or below a second root already.
fn renamed(
    path: &[u8],
    pairs: &[RootPair<'_>],
    is_below: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let is_below = |root: &[u8]| path.strip_prefix(root).is_some_and(&is_below);
    // The longer root counts: a worktree may be inside its project, or the other way round.
    let mut below: Option<RootPair<'_>> = None;
    for pair in pairs {
        if is_below(pair.0) && below.is_none_or(|(from, _)| pair.0.len() > from.len()) {
            below = Some(*pair);
        }
    }
    let (from, to) = below?;
    let is_there = pairs.iter().any(|(_, to)| is_below(to) && to.len() > from.len());
    (!is_there).then(|| [to, &path[from.len()..]].concat())
}

/// Whether a link at `path`, with this target, names itself in a tree with one of these roots.
fn names_itself<'a>(
    path: &Path,
    target: &[u8],
    mut roots: impl Iterator<Item = &'a Vec<u8>>,
) -> bool {
    let is_path = |rest: &[u8]| {
        let steps = Path::new(OsStr::from_bytes(rest)).strip_prefix("/");
        steps.is_ok_and(|steps| steps == path)
    };
    roots.any(|root| target.strip_prefix(&root[..]).is_some_and(is_path))
}

/// A path without `.` and `..` steps. `None` if it leads out of the tree.
pub(crate) fn normal(path: &Path) -> Option<PathBuf> {
    let mut steps = PathBuf::new();
    for step in path.components() {
        match step {
            Component::Normal(name) => steps.push(name),
            Component::ParentDir => {
                if !steps.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(steps)
}

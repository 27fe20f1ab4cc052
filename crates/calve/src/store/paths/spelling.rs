//! The paths that lead to one root. A file may name the root through a symbolic link above it
//! (`/home` → `/data/home`), through a bind mount, or in other cases of its letters. calve takes
//! the paths that files of a known format name, and asks the filesystem whether they lead to the
//! root.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::found::is_below_any;
use super::kinds::looked_at;
use super::{ENDS, PathKind, Relocation, Roots, begins, in_environment, mentions};
use crate::reflink::meta::Meta;

/// So many spellings of one root are learned. Each takes time for each file.
pub(crate) const SPELLINGS_MOST: usize = 64;

/// A file that names more folders than this is asked about no more of them.
const FOLDERS_MOST: usize = 4096;

/// The paths that lead to a tree's root, as far as they are known.
#[derive(Debug, Clone)]
pub(crate) struct Spellings {
    /// The root's device and inode. `None`: nothing new is learned.
    root: Option<(u64, u64)>,
    /// The first is the path without links.
    known: Vec<Vec<u8>>,
    /// Folders that do not lead to the root.
    others: HashSet<Vec<u8>>,
}

impl Spellings {
    /// The spellings of an open root, of which some are known. The first has no links.
    pub(crate) fn of(root: impl AsFd, known: Vec<Vec<u8>>) -> Self {
        let root = Meta::of_file(root).ok().map(|meta| meta.id());
        Self { root, known, others: HashSet::new() }
    }

    /// The spellings of a root, the first of which leads to it.
    pub(crate) fn at(known: Vec<Vec<u8>>) -> Self {
        let root = known.first().and_then(|path| fs::stat(OsStr::from_bytes(path)).ok());
        Self { root: root.map(|stat| Meta::of(&stat).id()), known, others: HashSet::new() }
    }

    /// Spellings that are all known. Whether their root is there does not matter.
    pub(crate) fn fixed(known: Vec<Vec<u8>>) -> Self {
        Self { root: None, known, others: HashSet::new() }
    }

    pub(crate) fn known(&self) -> &[Vec<u8>] {
        &self.known
    }

    /// Adds spellings that another scan learned.
    pub(crate) fn add(&mut self, spellings: &[Vec<u8>]) {
        for spelling in spellings {
            if self.known.len() < SPELLINGS_MOST && !self.known.contains(spelling) {
                self.known.push(spelling.clone());
            }
        }
    }

    /// Learns from the text of a file. Returns whether the text names the root. Nothing is looked
    /// at if nothing can be learned.
    pub(crate) fn learn(&mut self, kind: PathKind, text: &[u8]) -> bool {
        if self.root.is_none() {
            return false;
        }
        let text = match kind {
            PathKind::Link => return self.leads_to_root(text),
            // Below its first line, a script is not translated.
            PathKind::Script if !text.starts_with(b"#!") => return false,
            PathKind::Script => {
                let is_other = |line: &&[u8]| *line != b"#!/bin/sh";
                let line = text.split(|byte| *byte == b'\n').take(2).find(is_other);
                Cow::Borrowed(line.unwrap_or_default())
            }
            PathKind::DirectUrl => Cow::Owned(decoded(text)),
            _ => Cow::Borrowed(text),
        };
        let mut is_named = false;
        for start in memchr::memchr_iter(b'/', &text).filter(|start| begins(&text[..*start])) {
            let path = &text[start..];
            let end = path.iter().position(|byte| ENDS.contains(byte)).unwrap_or(path.len());
            is_named |= self.leads_to_root(&path[..end]);
        }
        is_named
    }

    /// Learns from the target of a link. Returns whether it is the root, or below it.
    pub(crate) fn names_in_link(&mut self, target: &[u8]) -> bool {
        self.learn(PathKind::Link, target) || is_below_any(target, &self.known)
    }

    /// Learns from the text of a file of this kind. Returns whether the text names the root.
    pub(crate) fn are_named_in(&mut self, kind: PathKind, text: &[u8]) -> bool {
        if self.learn(kind, text) {
            return true;
        }
        if !kind.is_known() {
            return Roots::new(&self.known).found_in(0, text);
        }
        Relocation::between(&self.known, Path::new("/x"))
            .is_some_and(|any| any.localize(kind, text).is_some())
            || self.known.iter().any(|root| mentions(text, root).next().is_some())
    }

    /// Whether a path is the root, or a folder on it is.
    fn leads_to_root(&mut self, path: &[u8]) -> bool {
        if !path.starts_with(b"/") {
            return false;
        }
        if is_below_any(path, &self.known) {
            return true;
        }
        for end in memchr::memchr_iter(b'/', path).skip(1).chain([path.len()]) {
            let folder = &path[..end];
            let name = folder.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            if matches!(name, b"" | b"." | b"..") || self.others.len() > FOLDERS_MOST {
                return false;
            }
            if self.others.contains(folder) {
                continue;
            }
            match fs::stat(OsStr::from_bytes(folder)) {
                Ok(stat) if Some(Meta::of(&stat).id()) == self.root => {
                    if self.known.len() < SPELLINGS_MOST {
                        self.known.push(folder.to_vec());
                    }
                    return true;
                }
                Ok(_) => {
                    self.others.insert(folder.to_vec());
                }
                // The folders below are not there, either.
                Err(_) => return false,
            }
        }
        false
    }
}

/// Whether a file at `path` is asked for spellings: it has a known format, or it is one of the few
/// files that name their project's root in one place and speak for many others.
pub(crate) fn kind_to_learn_from(path: &Path) -> Option<PathKind> {
    match in_environment(path) {
        Some((PathKind::Record, _)) => None,
        Some((kind, _)) => Some(kind),
        None => looked_at(path).filter(|(_, is_read)| *is_read).map(|(kind, _)| kind),
    }
}

/// The path that leads to `to` through the same link through which `spelling` leads to `from`.
/// `None` if `to` is not behind that link.
pub(crate) fn counterpart(spelling: &Path, from: &Path, to: &Path) -> Option<Vec<u8>> {
    counterpart_by(spelling, from, to, |a, b| {
        let id = |path: &Path| fs::stat(path).ok().map(|stat| Meta::of(&stat).id());
        id(a).is_some_and(|a| Some(a) == id(b))
    })
}

/// [`counterpart`]; `is_same` says whether two paths lead to one folder.
fn counterpart_by(
    spelling: &Path,
    from: &Path,
    to: &Path,
    is_same: impl Fn(&Path, &Path) -> bool,
) -> Option<Vec<u8>> {
    // As few steps as can be belong to the link, so that it leads to as much as can be.
    let pairs: Vec<(&Path, &Path)> = spelling
        .ancestors()
        .zip(from.ancestors())
        .scan(true, |is_common, (a, b)| {
            let pair = is_common.then_some((a, b));
            *is_common = *is_common && a.file_name().is_some() && a.file_name() == b.file_name();
            pair
        })
        .collect();
    let (a, below) = pairs
        .into_iter()
        .rev()
        .filter(|(a, b)| a != b && a.file_name().is_some())
        .find_map(|(a, b)| Some((a, to.strip_prefix(b).ok()?)).filter(|_| is_same(a, b)))?;
    let path: PathBuf = if below.as_os_str().is_empty() { a.to_owned() } else { a.join(below) };
    Some(path.into_os_string().into_encoded_bytes())
}

/// The text of a URL without its encoding.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = if byte.is_some() { &after[2..] } else { after };
        bytes.push(byte.unwrap_or(*first));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_above_the_project_leads_to_worktrees_behind_it_too() {
        // What leads where: a spelling of the project, its path, the link and what is behind it, a
        // worktree, and the worktree's path through the link.
        for (spelling, from, link, to, expected) in [
            (
                "/home/u/app",
                "/data/home/u/app",
                ("/home", "/data/home"),
                "/data/home/u/w/one",
                Some("/home/u/w/one"),
            ),
            (
                "/tmp/app",
                "/private/tmp/app",
                ("/tmp", "/private/tmp"),
                "/private/tmp/w",
                Some("/tmp/w"),
            ),
            ("/tmp/app", "/private/tmp/app", ("/tmp", "/private/tmp"), "/private/var/w", None),
            ("/u/app", "/data/app", ("/u/app", "/data/app"), "/data/app.worktrees/one", None),
            (
                "/u/app",
                "/data/app",
                ("/u/app", "/data/app"),
                "/data/app/.calve/w/one",
                Some("/u/app/.calve/w/one"),
            ),
            ("/u/x/app", "/data/x/app", ("/u/x", "/data/x"), "/data/x/one", Some("/u/x/one")),
            ("/u/x/app", "/data/x/app", ("/u/x", "/data/x"), "/data/y", None),
            ("/Data/App", "/data/app", ("/Data/App", "/data/app"), "/data/one", None),
        ] {
            let is_same = |a: &Path, b: &Path| {
                let below = a.strip_prefix(link.0).ok();
                below.is_some_and(|below| {
                    Path::new(link.1).join(below).components().eq(b.components())
                })
            };
            let found =
                counterpart_by(Path::new(spelling), Path::new(from), Path::new(to), is_same);
            let expected = expected.map(|path| path.as_bytes().to_vec());
            assert_eq!(found, expected, "{spelling} {to}");
        }
    }
}

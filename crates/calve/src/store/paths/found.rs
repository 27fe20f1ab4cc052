//! Which files of a snapshot name the project's root. A snapshot's file `found/ID` says so.
//! If that file is lost, only the files of Python environments are looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs;

use super::kinds::{self, PathMeaning, elsewhere, in_conda, looked_at, may_be_looked_at};
use super::links::{LinksOut, borrows_from_outside, may_lead_out};
use super::local::{Tree, tracked};
use super::secrets::{Secret, SecretKind, candidates, tracked_within};
use super::spelling::{SPELLINGS_MOST, Spellings};
use super::{CONFIG, MOST_BYTES, PathKind, in_environment, living};
use crate::macros::named;
use crate::store::files::{bytes_of, path_from, read_plain};
use crate::store::layout;
use crate::store::manifest::{Manifest, Number};
use crate::store::object::{Entry, Kind, with_hash, without_hash};

const MAGIC: &[u8] = b"calve found 1\0";
/// No list is longer, in a store and on a remote.
pub(crate) const FOUND_MOST_BYTES: u64 = 256 * 1024 * 1024;
/// No path that the system takes is longer.
const ROOT_MOST_BYTES: usize = 4096;
/// How many files are read where no other content is.
const READ_FIRST_MOST: usize = 256;

named! {
    /// Why a file keeps the path that it has.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum PathKept {
        /// calve does not know the format.
        UnknownFormat = "unknown_format",
        /// git tracks the file.
        Tracked = "tracked",
        /// The file is in another repository.
        OtherRepository = "other_repository",
        /// The file cannot be translated so that a snapshot gets it back as it was: it names the
        /// worktree already, it has several names, or its format cannot hold the worktree's path.
        /// Or it is a link of the worktree's own, which leads to the project on purpose.
        NotTranslatable = "not_translatable",
        /// The caller asked for it.
        Wanted = "wanted",
    }
}

/// A file that names the project's root by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct PathMention {
    /// The path from the tree's root.
    pub path: PathBuf,
    /// What kind of file it is.
    pub kind: PathKind,
    /// Why worktrees have the file as the project has it. `None`: each worktree gets it with its
    /// own path.
    pub kept: Option<PathKept>,
    /// The running process that the file names, if it is of that kind.
    pub process: Option<u32>,
}

impl PathMention {
    /// A file with the reason that its kind has. `None`: each worktree gets it with its own path.
    pub(crate) fn new(path: PathBuf, kind: PathKind) -> Self {
        let kept = (!kind.is_known()).then_some(PathKept::UnknownFormat);
        Self { path, kind, kept, process: None }
    }

    /// What the file means for a worktree.
    #[must_use]
    pub fn meaning(&self) -> PathMeaning {
        match self.kept {
            None => PathMeaning::Rewritten,
            Some(_) => kinds::meaning(&self.path, self.kind),
        }
    }

    /// The program that made the file, by its usual name, or the empty text. It says which of the
    /// files of one kind belong together, and how such files are made again.
    #[must_use]
    pub fn tool(&self) -> &'static str {
        kinds::tool(&self.path, self.kind)
    }
}

/// Keeps, of the files that may name a process, those whose process runs, and says which it is.
///
/// # Errors
/// A file could not be read.
pub(crate) fn keep_living(mentions: &mut Vec<PathMention>, tree: Tree<'_>) -> io::Result<()> {
    let mut kept = Vec::with_capacity(mentions.len());
    for mut mention in mentions.drain(..) {
        if mention.kind == PathKind::Process {
            mention.process = living::process_of(tree, &mention.path)?;
            if mention.process.is_none() {
                continue;
            }
        }
        kept.push(mention);
    }
    *mentions = kept;
    Ok(())
}

/// The findings in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The root that the files name, in all its spellings. The first has no links.
    pub(crate) roots: Vec<Vec<u8>>,
    /// Sorted by path.
    pub(crate) mentions: Vec<PathMention>,
    /// The files that looked like secrets, and that git did not track, when the snapshot was taken.
    pub(crate) secrets: Vec<Secret>,
}

impl Found {
    /// What is in the live tree `tree`, of which `manifest` knows no contents yet: calve reads the
    /// few files that speak for others.
    ///
    /// # Errors
    /// One of them could not be read.
    pub(crate) fn first(tree: Tree<'_>, manifest: &Manifest) -> io::Result<Self> {
        let mut spellings = Spellings::of(tree.root, vec![bytes_of(tree.path)]);
        let mut read = Vec::new();
        for path in Self::read_first(manifest) {
            let text = match tree.read(&path) {
                // It cannot be cloned either, and that is told.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                text => text?,
            };
            let kind = elsewhere(&path);
            if text.is_some_and(|text| counts(&path, kind, &text, &mut spellings)) {
                read.push(path);
            }
        }
        Ok(Self::of(tree.path, spellings, manifest, read, None))
    }

    /// What is in the tree `manifest`, whose files name a root with these spellings. `read` are
    /// files that were read now and name it; `known` is what was found in another tree, with that
    /// tree.
    pub(crate) fn of(
        tree: &Path,
        mut spellings: Spellings,
        manifest: &Manifest,
        read: impl IntoIterator<Item = PathBuf>,
        known: Option<(&Self, &Manifest)>,
    ) -> Self {
        let mut files: BTreeSet<PathBuf> = read.into_iter().collect();
        if let Some((known, other)) =
            known.filter(|(known, _)| known.roots.first() == spellings.known().first())
        {
            let paths = known.mentions.iter().map(|mention| &mention.path);
            let is_same = |path: &&PathBuf| {
                let entries = entry(manifest, path).zip(entry(other, path));
                entries.is_some_and(|(now, was)| now.same_content(was))
            };
            files.extend(paths.filter(is_same).cloned());
        }
        let has = |path: &Path| manifest.has(path);
        let (mut mentions, environments) = kinds_of(files, manifest);
        let (mut records, mut links) = (Vec::new(), LinksOut::of(tree));
        for (place, slot, entry) in manifest.entries() {
            match &entry.kind {
                Kind::Symlink { target, .. } => {
                    let path = || manifest.path_of(place, slot);
                    if spellings.names_in_link(target) {
                        mentions.insert(path(), PathKind::Link);
                    } else if may_lead_out(target)
                        && let Some(kind) = links.kind_of(&path(), target, spellings.known())
                    {
                        mentions.insert(path(), kind);
                    }
                }
                Kind::File { .. } if &*entry.name == b"RECORD" && !environments.is_empty() => {
                    records.push(manifest.path_of(place, slot));
                }
                Kind::File { size, .. } if may_be_looked_at(&entry.name) => {
                    let path = manifest.path_of(place, slot);
                    if let Some((kind, false)) = looked_at(&path)
                        && *size > 0
                    {
                        mentions.insert(path, kind);
                    }
                }
                _ => {}
            }
        }
        for path in records {
            if let Some((PathKind::Record, folder)) = in_environment(&path)
                && environments.contains(folder)
            {
                mentions.insert(path, PathKind::Record);
            }
        }
        let is_below_git = |path: &Path| {
            path.ancestors().skip(1).any(|above| {
                !above.as_os_str().is_empty() && manifest.has(&above.join(layout::GIT))
            })
        };
        let is_asked =
            |(path, kind): &(&PathBuf, &PathKind)| kind.is_known() && !is_below_git(path);
        let known = mentions.iter().filter(is_asked).map(|(path, _)| path.as_path());
        let mut secrets = secrets_in(tree, manifest);
        let asked = known.chain(secrets.iter().map(|it| it.path.as_path()));
        let tracked = tracked_within(tree, has, asked);
        let is_tracked = |path: &Path| tracked.as_ref().is_some_and(|it| it.contains(path));
        secrets.retain(|secret| !is_tracked(&secret.path));
        let mentions = mentions.into_iter().map(|(path, kind)| {
            let kept = match kind.is_known() {
                false => Some(PathKept::UnknownFormat),
                true if tracked.is_none() || is_tracked(&path) => Some(PathKept::Tracked),
                true if is_below_git(&path) => Some(PathKept::OtherRepository),
                true => None,
            };
            PathMention { path, kind, kept, process: None }
        });
        Self { roots: spellings.known().to_vec(), mentions: mentions.collect(), secrets }
    }

    /// Leaves the files as they are for which `which` says so.
    pub(crate) fn keep(&mut self, why: PathKept, which: impl Fn(&Path) -> bool) {
        for mention in &mut self.mentions {
            if mention.kept.is_none() && which(&mention.path) {
                mention.kept = Some(why);
            }
        }
    }

    /// Leaves the files as they are that git tracks in `tree` now. It may not have tracked them
    /// when they were found.
    pub(crate) fn keep_tracked(&mut self, tree: &Path) {
        let free = self.mentions.iter().filter(|mention| mention.kept.is_none());
        let free: Vec<&Path> = free.map(|mention| mention.path.as_path()).collect();
        if !free.is_empty() {
            let tracked = tracked(tree, &free);
            self.keep(PathKept::Tracked, |path| tracked.contains(path));
        }
    }

    /// The files of Python environments in `manifest` that may name the root.
    pub(crate) fn candidates(manifest: &Manifest) -> Vec<(PathBuf, Entry)> {
        let mut found = Vec::new();
        for (place, slot, entry) in manifest.entries() {
            if !matches!(entry.kind, Kind::File { .. }) {
                continue;
            }
            let path = manifest.path_of(place, slot);
            let is_it = in_environment(&path).is_some_and(|(kind, folder)| {
                kind != PathKind::Record && manifest.has(&folder.join(CONFIG))
            });
            if is_it {
                found.push((path, entry.clone()));
            }
        }
        found
    }

    /// The files in `manifest` that are read for their names, also where no other content is, with
    /// those first that speak for whole builds. A tree has few of them; no more than these are read.
    fn read_first(manifest: &Manifest) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for (place, slot, entry) in manifest.entries() {
            if let Kind::File { size: 1..=MOST_BYTES, .. } = entry.kind
                && may_be_looked_at(&entry.name)
            {
                let path = manifest.path_of(place, slot);
                if let Some((kind, true)) = looked_at(&path) {
                    found.push((kinds::meaning(&path, kind), path));
                }
            }
        }
        found.sort();
        found.truncate(READ_FIRST_MOST);
        found.into_iter().map(|(_, path)| path).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for root in self.roots.iter().take(SPELLINGS_MOST) {
            bytes.extend_from_slice(root);
            bytes.push(0);
        }
        bytes.push(0);
        for mention in &self.mentions {
            let kept = match mention.kept {
                None => 0,
                Some(PathKept::UnknownFormat) => 1,
                Some(PathKept::Tracked) => 2,
                Some(PathKept::OtherRepository) => 3,
                Some(PathKept::NotTranslatable | PathKept::Wanted) => 4,
            };
            bytes.extend([b'a' + mention.kind as u8, b'0' + kept]);
            bytes.extend(bytes_of(&mention.path));
            bytes.push(0);
        }
        for secret in &self.secrets {
            bytes.extend([b'A' + secret.kind as u8, b'1']);
            bytes.extend(bytes_of(&secret.path));
            bytes.push(0);
        }
        with_hash(bytes)
    }

    /// `None` if the bytes are damaged, or name more roots than calve ever writes: the time that
    /// they take grows faster than their number, and the list may come from someone else.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let body = without_hash(bytes).ok()?;
        let mut parts = body.strip_prefix(MAGIC)?.strip_suffix(b"\0")?.split(|byte| *byte == 0);
        let roots: Vec<Vec<u8>> =
            parts.by_ref().take_while(|root| !root.is_empty()).map(<[u8]>::to_vec).collect();
        let is_path = |root: &Vec<u8>| root[0] == b'/' && root.len() <= ROOT_MOST_BYTES;
        if roots.is_empty() || roots.len() > SPELLINGS_MOST || !roots.iter().all(is_path) {
            return None;
        }
        let (mut mentions, mut secrets) = (Vec::new(), Vec::new());
        for part in parts {
            let [kind, kept, path @ ..] = part else { return None };
            // The store may come from someone else, and the path must not lead out of a tree.
            let path = path_from(path);
            if super::normal(&path).as_deref() != Some(&path) {
                return None;
            }
            if kind.is_ascii_uppercase() {
                let kind = *SecretKind::ALL.get(usize::from(kind - b'A'))?;
                secrets.push(Secret { path, kind });
                continue;
            }
            let kind = PathKind::of_number(kind.checked_sub(b'a')?)?;
            let kept = match kept.checked_sub(b'0')? {
                0 => None,
                1 => Some(PathKept::UnknownFormat),
                2 => Some(PathKept::Tracked),
                3 => Some(PathKept::OtherRepository),
                _ => Some(PathKept::NotTranslatable),
            };
            mentions.push(PathMention { path, kind, kept, process: None });
        }
        Some(Self { roots, mentions, secrets })
    }
}

/// Whether the text of a file that calve looks at says that the file means another place in a copy.
pub(crate) fn counts(path: &Path, kind: PathKind, text: &[u8], spellings: &mut Spellings) -> bool {
    borrows_from_outside(path, text) || spellings.are_named_in(kind, text)
}

/// The kinds of regular files that name the project's root, and the Python environments in which
/// some of them are.
fn kinds_of(
    files: BTreeSet<PathBuf>,
    manifest: &Manifest,
) -> (BTreeMap<PathBuf, PathKind>, BTreeSet<PathBuf>) {
    let (mut mentions, mut environments) = (BTreeMap::new(), BTreeSet::new());
    for path in files {
        // Links are all looked at for themselves.
        let Some(Kind::File { .. }) = entry(manifest, &path).map(|entry| &entry.kind) else {
            continue;
        };
        let environment =
            in_environment(&path).filter(|(_, folder)| manifest.has(&folder.join(CONFIG)));
        let kind = match environment {
            // Each of these files is looked at, whether or not it names a root.
            Some((PathKind::Record, _)) => continue,
            Some((kind, folder)) => {
                environments.insert(folder.to_owned());
                kind
            }
            None if in_conda(&path, |path| manifest.has(path)) => PathKind::Conda,
            None => elsewhere(&path),
        };
        mentions.insert(path, kind);
    }
    (mentions, environments)
}

/// The files of `manifest` that look like secrets, by what the files of the live tree have now. One
/// that cannot be read counts.
fn secrets_in(tree: &Path, manifest: &Manifest) -> Vec<Secret> {
    let mut found: Vec<Secret> = candidates(manifest)
        .into_iter()
        .filter(|it| {
            let read = || Ok(read_plain(fs::CWD, &tree.join(&it.secret.path), it.size).ok());
            it.is_secret(read).unwrap_or_else(|never: Infallible| match never {})
        })
        .map(|it| it.secret)
        .collect();
    found.sort();
    found
}

/// Whether an absolute path is one of the roots, or is below one.
pub(crate) fn is_below_any(path: &[u8], roots: &[Vec<u8>]) -> bool {
    let is_below = |rest: &[u8]| rest.is_empty() || rest.starts_with(b"/");
    roots.iter().any(|root| path.strip_prefix(&root[..]).is_some_and(is_below))
}

/// The entry at a path, but for the root.
pub(crate) fn entry<'m>(manifest: &'m Manifest, path: &Path) -> Option<&'m Entry> {
    path.file_name()?;
    Some(manifest.at(manifest.find(path)?))
}

/// The number of the entry at a path.
pub(crate) fn number_at(manifest: &Manifest, path: &Path) -> Option<Number> {
    path.file_name()?;
    let (place, slot) = manifest.find(path)?;
    Some(manifest.directories[place as usize].first + slot)
}

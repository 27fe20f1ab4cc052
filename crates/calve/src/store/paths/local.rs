//! The paths that files of a worktree name in the place of the project's, and how calve reads these
//! files so that a snapshot gets them as the project has them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::record::{self, Digest};
use super::spelling::{SPELLINGS_MOST, Spellings, counterpart};
use super::{CONFIG, MOST_BYTES, PathKind, Relocation, in_environment};
use crate::error::IfThere as _;
use crate::reflink::imp::{DIR_FLAGS, SOURCE_FLAGS};
use crate::reflink::meta::Meta;
use crate::store::at::{is_gone, open_at};
use crate::store::files::{path_from, read_plain};
use crate::store::git::modules::{Modules, may_be_of_module};
use crate::store::git::{self, Failure};
use crate::store::layout::{self, PATHS};
use crate::tree::staging::write_whole;

const MAGIC: &[u8] = b"calve paths 1";

/// The file has two paths, and two more for each further spelling of the root.
const FILE_MOST_BYTES: u64 = 1024 * 1024;

/// How many paths git is asked about at once.
const ASKED_TOGETHER: usize = 500;

/// How a worktree's files differ from those of its snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    /// The roots that its files name. `None`: they name what the project's files name.
    pub(crate) roots: Option<Relocation>,
    /// `None`: its submodules have no repositories of their own.
    pub(crate) modules: Option<Modules>,
}

/// The roots of a worktree: the project's, which snapshots name, and its own, which its files name.
/// A worktree that was moved has files that name its earlier root, until they are translated again.
impl Relocation {
    /// The roots in the folder that the store keeps of a worktree's tree ([`Layout::tree`]). `None` if
    /// the worktree's files are as the project has them.
    ///
    /// [`Layout::tree`]: crate::store::layout::Layout::tree
    pub(crate) fn read(kept: &Path) -> Option<Self> {
        let own = fs::open(kept, DIR_FLAGS | OFlags::NOFOLLOW, Mode::empty()).ok()?;
        let text = read_plain(own, Path::new(PATHS), FILE_MOST_BYTES).ok()?;
        let text = text.strip_prefix(MAGIC)?.strip_prefix(b"\0")?;
        let parts: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
        let absolute = |path: &&[u8]| path.starts_with(b"/") && path.len() > 1;
        // A worktree that was moved has the pairs of two roots. Whoever works in it may write more.
        let is_long = parts.len() > 4 * (SPELLINGS_MOST + 1);
        if is_long || !parts.len().is_multiple_of(2) || !parts.iter().all(absolute) {
            return None;
        }
        let pairs = parts.chunks_exact(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec()));
        Self::of(pairs.collect())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for root in self.pairs().iter().flat_map(|(from, to)| [from, to]) {
            bytes.push(0);
            bytes.extend_from_slice(root);
        }
        bytes
    }

    /// Writes the roots of a worktree, or other ones.
    pub(crate) fn write(&self, kept: &Path) -> io::Result<()> {
        write_whole(kept, &kept.join(PATHS), &self.encode())
    }

    /// The roots, with those paths to the worktree that this file alone names.
    fn of_text(&self, tree: Tree<'_>, kind: PathKind, text: &[u8]) -> Cow<'_, Relocation> {
        let mut spellings = Spellings::of(tree.root, self.to().cloned().collect());
        let known = spellings.known().len();
        spellings.learn(kind, text);
        if spellings.known().len() == known {
            return Cow::Borrowed(self);
        }
        let (project, own) = &self.pairs()[0];
        let mut roots = self.clone();
        for spelling in &spellings.known()[known..] {
            // A file that names the worktree through a link names the project through it, too, if
            // the project is behind that link.
            let [at, own, project_path] = [spelling, own, project].map(|root| path_from(root));
            let beside = counterpart(&at, &own, &project_path);
            roots = roots.with(beside.unwrap_or_else(|| project.clone()), spelling.clone());
        }
        Cow::Owned(roots)
    }
}

impl Local {
    /// `None` if all files are as in a snapshot.
    pub(crate) fn new(roots: Option<Relocation>, modules: Option<Modules>) -> Option<Self> {
        (roots.is_some() || modules.is_some()).then_some(Self { roots, modules })
    }

    /// Whether the file at `path` may have another content here than in a snapshot, as far as its
    /// name says.
    pub(crate) fn may_differ(&self, path: &Path) -> bool {
        self.roots.is_some() && in_environment(path).is_some()
            || self.modules.is_some() && may_be_of_module(path)
    }

    /// The seconds by which the file at `path` is older here than in a snapshot.
    pub(crate) fn seconds_older(&self, path: &Path) -> i64 {
        let Some(roots) = &self.roots else { return 0 };
        in_environment(path).map_or(0, |(kind, _)| roots.seconds_older(kind))
    }

    /// Whether a symbolic link with this target in a snapshot may have another one here.
    pub(crate) fn differs_as_target(&self, target: &[u8]) -> bool {
        let roots = self.roots.as_ref();
        roots.is_some_and(|roots| roots.localize(PathKind::Link, target).is_some())
    }

    /// The target that a symbolic link of the worktree has in a snapshot. `None` if it is the same.
    pub(crate) fn canonical_target(
        &self,
        tree: Tree<'_>,
        path: &Path,
        target: &[u8],
    ) -> Option<Vec<u8>> {
        let roots = self.roots.as_ref()?.of_text(tree, PathKind::Link, target);
        let canonical = roots.canonical_target(path, target)?;
        (!tree.is_of_git(path)).then_some(canonical)
    }

    /// The bytes that a file of the worktree has in a snapshot. `None` if they are the same.
    pub(crate) fn canonical(
        &self,
        tree: Tree<'_>,
        path: &Path,
        bytes: &[u8],
    ) -> io::Result<Option<Vec<u8>>> {
        if let Some(modules) = &self.modules
            && let Some(canonical) = modules.canonical(path, bytes)
        {
            return Ok(Some(canonical));
        }
        let Some(roots) = &self.roots else { return Ok(None) };
        let Some((kind, environment)) = in_environment(path) else { return Ok(None) };
        let canonical = match kind {
            PathKind::Record => record::translate(path, bytes, |file| {
                let content = tree.read(file).ok()??;
                let (kind, _) = in_environment(file)?;
                let canonical = roots.of_text(tree, kind, &content).canonical(kind, &content)?;
                Some((Digest::of(&content), Digest::of(&canonical)))
            }),
            _ => roots.of_text(tree, kind, bytes).canonical(kind, bytes),
        };
        Ok(match canonical {
            Some(canonical) if tree.is_environment(environment)? && !tree.is_of_git(path) => {
                Some(canonical)
            }
            _ => None,
        })
    }
}

/// An open tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree<'a> {
    pub(crate) path: &'a Path,
    pub(crate) root: &'a OwnedFd,
}

impl Tree<'_> {
    /// The content of a regular file. `None` if there is none, or if it is larger than files that
    /// are translated.
    pub(crate) fn read(self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.read_up_to(path, MOST_BYTES)
    }

    /// The content of a regular file of at most `most` bytes.
    pub(crate) fn read_up_to(self, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
        let open = || {
            let dir = open_at(self.root, path.parent().unwrap_or(Path::new("")))?;
            let name = path.file_name().unwrap_or_default();
            Ok::<_, io::Error>(fs::openat(dir, name, SOURCE_FLAGS, Mode::empty())?)
        };
        let Some(file) = open().but_for(is_gone)? else { return Ok(None) };
        let meta = Meta::of_file(&file)?;
        if meta.file_type() != FileType::RegularFile || meta.size > most {
            return Ok(None);
        }
        let mut content = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(std::fs::File::from(file), most + 1),
            &mut content,
        )?;
        Ok((content.len() as u64 <= most).then_some(content))
    }

    pub(crate) fn is_environment(self, folder: &Path) -> io::Result<bool> {
        let look = || {
            let dir = open_at(self.root, folder)?;
            Ok::<_, io::Error>(Meta::at(dir, CONFIG)?)
        };
        let meta = look().but_for(is_gone)?;
        Ok(meta.is_some_and(|meta| meta.file_type() == FileType::RegularFile))
    }

    /// Whether git tracks the file, or the file is in a repository further down.
    fn is_of_git(self, path: &Path) -> bool {
        let above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        let has_git = |folder: &Path| {
            open_at(self.root, folder)
                .is_ok_and(|dir| fs::statat(dir, layout::GIT, AtFlags::SYMLINK_NOFOLLOW).is_ok())
        };
        let mut above = above;
        above.any(has_git) || tracked(self.path, &[path]).contains(path)
    }
}

/// Those of the paths that git tracks. If git cannot say it, all of them.
pub(crate) fn tracked(root: &Path, paths: &[&Path]) -> HashSet<PathBuf> {
    known_tracked(root, paths)
        .unwrap_or_else(|| paths.iter().map(|path| path.to_path_buf()).collect())
}

/// Those of the paths that git tracks. `None` if git cannot say it.
pub(crate) fn known_tracked(root: &Path, paths: &[&Path]) -> Option<HashSet<PathBuf>> {
    let mut tracked = HashSet::new();
    for paths in paths.chunks(ASKED_TOGETHER) {
        let asked = match git::Tree::at(root) {
            Ok(Some(tree)) => match tree.tracked_by_index(paths) {
                Some(known) => {
                    tracked.extend(known);
                    continue;
                }
                None => tree.tracked(paths),
            },
            // The tree may be a folder of a working tree.
            Ok(None) => match git::tracked_from_above(root, paths) {
                // Nothing is tracked where there is no repository.
                Err(Failure::NotInstalled | Failure::Refused(_)) => return Some(HashSet::new()),
                asked => asked,
            },
            Err(failure) => Err(failure),
        };
        match asked {
            Ok(output) if !output.is_cut => {
                let names = output.bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty());
                tracked.extend(names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name))));
            }
            _ => return None,
        }
    }
    Some(tracked)
}

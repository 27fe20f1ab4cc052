//! Gives a tree files that name its own root. The store's module [`paths`](crate::store::paths)
//! says which files, and how each kind is translated.
//!
//! Each file becomes a new one, which gets the old one's name by a rename. So nothing is written
//! through a hard link, and a program that runs the old file keeps it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode};

use super::Worktree;
use crate::error::{Context as _, Error, Operation};
use crate::reflink::imp::{DIR_FLAGS, NEW_FILE_FLAGS};
use crate::reflink::meta::{self, Meta};
use crate::report::CloneReport;
use crate::store::at::{is_gone, last, open_at, open_parent};
use crate::store::bring::{look_at, set_in_place};
use crate::store::catalog::WorktreeRow;
use crate::store::files::{is_blank, listed, read_plain};
use crate::store::layout::{self, PATHS, Within};
use crate::store::paths::found::{Found, PathKept, PathMention, counts, keep_living};
use crate::store::paths::kinds::looked_at;
use crate::store::paths::links::LinksOut;
use crate::store::paths::local::{Tree, tracked};
use crate::store::paths::record::{self, Digest};
use crate::store::paths::spelling::Spellings;
use crate::store::paths::{MOST_BYTES, PathKind, Relocation, in_environment, seconds_older};
use crate::store::snapshot::modules;
use crate::store::{Store, bytes_of, path_from};
use crate::tree::staging::{Stage, is_of_another_boot, stage_name};
use crate::tree::{CloneOptions, clone_tree_dressed};

/// Whose files are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Nobody else sees the tree. A file with several names has them all in this tree, and they
    /// must stay names of one file.
    Staged,
    /// Other processes use the tree.
    Live,
}

/// The files of a tree that are to be translated.
pub(super) struct Relocate<'a> {
    pub(super) tree: Tree<'a>,
    pub(super) roots: &'a Relocation,
    pub(super) whose: Whose,
    /// The root that the files were translated to before, if they were.
    pub(super) before: Option<&'a [u8]>,
    /// The place of a path's file in the tree. `None` if calve must not translate the file.
    pub(super) at: &'a dyn Fn(&Path) -> Option<PathBuf>,
    /// The digests of a file in the snapshot and now, for other files.
    pub(super) others: &'a dyn Fn(&Path) -> Option<(Digest, Digest)>,
}

impl Relocate<'_> {
    /// Translates the files of `found`. Returns all mentions with what became of them; those that
    /// are not to be translated are left out.
    pub(super) fn run(&self, found: &[PathMention]) -> io::Result<Vec<PathMention>> {
        let mut done: Vec<PathMention> = Vec::with_capacity(found.len());
        let mut digests: HashMap<PathBuf, (Digest, Digest)> = HashMap::new();
        let (records, files): (Vec<_>, Vec<_>) =
            found.iter().partition(|mention| mention.kind == PathKind::Record);
        let (project, own) = &self.roots.pairs()[0];
        let is_beside = path_from(project).parent() == path_from(own).parent();
        for mention in files {
            if mention.kind == PathKind::LinkOut && is_beside {
                continue;
            }
            let Some(at) = (self.at)(&mention.path) else { continue };
            let mut mention = mention.clone();
            if mention.kept.is_none() {
                let changed = match mention.kind {
                    PathKind::Link => self.link(&mention.path, &at)?,
                    kind => {
                        match self.content(kind, &at, |text| self.roots.localize(kind, text))? {
                            Some((was, is)) => {
                                digests.insert(mention.path.clone(), (was, is));
                                true
                            }
                            None => false,
                        }
                    }
                };
                if !changed {
                    mention.kept = Some(PathKept::NotTranslatable);
                }
            }
            done.push(mention);
        }
        for mention in records {
            let Some(at) = (self.at)(&mention.path) else { continue };
            if mention.kept.is_some() {
                continue;
            }
            let change = |file: &Path| digests.get(file).cloned().or_else(|| (self.others)(file));
            let back = |file: &Path| change(file).map(|(was, is)| (is, was));
            let translated = self.content(PathKind::Record, &at, |text| {
                let local = record::translate(&mention.path, text, change)?;
                let again = record::translate(&mention.path, &local, back)?;
                (again == text).then_some(local)
            })?;
            // A package without such files has nothing to say.
            if translated.is_some() {
                done.push(mention.clone());
            }
        }
        done.sort();
        Ok(done)
    }

    /// Replaces a file by what `translate` makes of it. Returns the digests of both.
    pub(super) fn content(
        &self,
        kind: PathKind,
        path: &Path,
        translate: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
    ) -> io::Result<Option<(Digest, Digest)>> {
        let Some(text) = self.tree.read(path)? else { return Ok(None) };
        let (dir, name) = (open_parent(self.tree.root, path)?, last(path)?);
        let meta = Meta::at(&dir, &name)?;
        if self.whose == Whose::Staged && meta.links > 1 {
            return Ok(None);
        }
        let Some(made) = translate(&text) else { return Ok(None) };
        let Some(mut entry) = look_at(self.tree.root, path)? else { return Ok(None) };
        let was_older = self.before.map_or(0, |root| seconds_older(kind, root));
        entry.mtime.0 += was_older - self.roots.seconds_older(kind);
        self.replace(path, &dir, |temporary| {
            let mode = Mode::RUSR | Mode::WUSR;
            let file = fs::openat(&dir, last(temporary)?, NEW_FILE_FLAGS, mode)?;
            io::Write::write_all(&mut std::fs::File::from(file), &made)?;
            set_in_place(self.tree.root, temporary, &entry)?;
            // A change by somebody else is not lost: the file stays as it is, and calve translates
            // it the next time.
            Ok(self.whose == Whose::Staged || self.tree.read(path)?.as_ref() == Some(&text))
        })
        .map(|replaced| replaced.then(|| (Digest::of(&text), Digest::of(&made))))
    }

    /// Gives the link `of` the snapshot, which is at `path` here, the worktree's root.
    fn link(&self, of: &Path, path: &Path) -> io::Result<bool> {
        let (dir, name) = (open_parent(self.tree.root, path)?, last(path)?);
        let target = match fs::readlinkat(&dir, &name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(errno) if is_gone(&errno.into()) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let meta = Meta::at(&dir, &name)?;
        if self.whose == Whose::Staged && meta.links > 1 {
            return Ok(false);
        }
        let Some(made) = self.roots.localize_target(of, &target) else { return Ok(false) };
        let Some(entry) = look_at(self.tree.root, path)? else { return Ok(false) };
        self.replace(path, &dir, |temporary| {
            fs::symlinkat(path_from(&made), &dir, last(temporary)?)?;
            set_in_place(self.tree.root, temporary, &entry)?;
            Ok(true)
        })
    }

    /// Lets `make` make an entry under a temporary path, and gives it the name of `path` unless
    /// `make` says no.
    fn replace(
        &self,
        path: &Path,
        dir: &OwnedFd,
        make: impl FnOnce(&Path) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let before = Meta::of_file(dir)?;
        let mode = before.permissions();
        let opened = self.whose == Whose::Staged && mode & 0o300 != 0o300;
        if opened {
            meta::give_mode(dir, meta::mode(mode | 0o700))?;
        }
        let temporary = path.with_file_name(stage_name());
        let made = make(&temporary).and_then(|wanted| {
            if wanted {
                fs::renameat(dir, last(&temporary)?, dir, last(path)?)?;
            }
            Ok(wanted)
        });
        if !matches!(made, Ok(true)) {
            let _ = fs::unlinkat(dir, last(&temporary)?, AtFlags::empty());
        }
        if opened {
            meta::give_mode(dir, meta::mode(mode))?;
        }
        if self.whose == Whose::Staged {
            meta::give_times(dir, &before.timestamps())?;
        }
        made
    }
}

/// The files of a live tree that name a root and that calve knows to translate, and the few that it
/// cannot translate and that speak for many others, such as `CMakeCache.txt`. The files may name
/// the root by more spellings than are known; these are known afterwards.
pub(super) fn find(tree: Tree<'_>, spellings: &mut Spellings) -> io::Result<Vec<PathMention>> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    let mut links = LinksOut::of(tree.path);
    while let Some(folder) = folders.pop() {
        let entries = match open_at(tree.root, &folder).and_then(listed) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let in_root = folder.as_os_str().is_empty();
        // Another repository is not calve's to change.
        if !in_root && entries.iter().any(|(name, _)| name == layout::GIT) {
            continue;
        }
        let names = entries.iter().map(|(name, _)| name.as_bytes());
        let within = if in_root { Within::root(names) } else { Within::below(names) };
        for (name, kind) in entries {
            if !layout::is_content(name.as_bytes(), within) {
                continue;
            }
            let path = folder.join(name);
            let names = match kind {
                FileType::Directory => {
                    folders.push(path);
                    continue;
                }
                FileType::Symlink => {
                    let target = open_parent(tree.root, &path)
                        .and_then(|dir| Ok(fs::readlinkat(dir, last(&path)?, Vec::new())?));
                    target.ok().and_then(|target| {
                        let target = target.to_bytes();
                        if spellings.names_in_link(target) {
                            return Some(PathKind::Link);
                        }
                        links.kind_of(&path, target, spellings.known())
                    })
                }
                FileType::RegularFile => named_by(tree, &path, spellings)?,
                _ => None,
            };
            found.extend(names.map(|kind| PathMention::new(path, kind)));
        }
    }
    if found.is_empty() {
        return Ok(found);
    }
    let paths: Vec<&Path> = found.iter().map(|mention| mention.path.as_path()).collect();
    let tracked = tracked(tree.path, &paths);
    for mention in &mut found {
        if tracked.contains(&mention.path) {
            mention.kept = Some(PathKept::Tracked);
        }
    }
    found.sort();
    Ok(found)
}

/// The kind of a regular file that calve looks at and that counts: because it names the root, or
/// because it is there.
fn named_by(
    tree: Tree<'_>,
    path: &Path,
    spellings: &mut Spellings,
) -> io::Result<Option<PathKind>> {
    let (kind, is_read) = match in_environment(path) {
        Some((kind, environment)) if tree.is_environment(environment)? => {
            (kind, kind != PathKind::Record)
        }
        _ => match looked_at(path) {
            Some(looked) => looked,
            None => return Ok(None),
        },
    };
    let is_it =
        !is_read || tree.read(path)?.is_some_and(|text| counts(path, kind, &text, spellings));
    Ok(is_it.then_some(kind))
}

/// Writes the roots of a worktree again, if a power cut left their file empty. Without them its
/// rewritten files would count as changed.
pub(super) fn heal_paths(store: &Store, row: &WorktreeRow, path: &Path) -> Result<(), Error> {
    let kept = store.layout().tree(&row.token);
    let file = kept.join(PATHS);
    let Some(id) = row.snapshot.filter(|_| !store.is_read_only()) else { return Ok(()) };
    if !is_of_another_boot(&row.maker)
        || is_blank(&file).context(Operation::Read, || &file)? != Some(true)
    {
        return Ok(());
    }
    let found = store.snapshots().found(id, &store.catalog().object(id)?)?;
    match Relocation::between(&found.roots, path) {
        Some(roots) => roots.write(&kept).context(Operation::Write, || file),
        None => Ok(()),
    }
}

impl Worktree {
    /// Translates the files of a worktree that was moved, so that they name its new path. If this
    /// process dies, the next command in the worktree goes on, also if it was moved again by then.
    pub(super) fn follow_move(&self) -> Result<(), Error> {
        let Some(roots) = Relocation::read(&self.kept()) else { return Ok(()) };
        let now = bytes_of(&self.path);
        let goes_on = roots.is_unfinished();
        if roots.to().next() == Some(&now) && !goes_on || self.store.is_read_only() {
            return Ok(());
        }
        let root = super::open_dir(&self.path)?;
        let from: Vec<Vec<u8>> = roots.from().cloned().collect();
        let Some(now) = Relocation::between(&from, &self.path) else { return Ok(()) };
        // Each earlier root is one translation: two together would not lead back.
        let moves: Vec<Relocation> =
            roots.moves_to(&now).into_iter().filter_map(Relocation::of).collect();
        let tree = Tree { path: &self.path, root: &root };
        let follow = || -> io::Result<()> {
            // Until the end, files may name the earlier root or the new one.
            roots.or(&now).write(&self.kept())?;
            if let Some(modules) = modules(&self.store, &self.row, &self.path) {
                for earlier in moves.iter().filter_map(|moved| moved.from().next()) {
                    modules.lead_as(&modules.at(&path_from(earlier)), &self.path)?;
                }
            }
            let named = moves.iter().flat_map(Relocation::from).cloned().collect();
            let found = find(tree, &mut Spellings::fixed(named))?;
            let (records, files): (Vec<_>, Vec<_>) =
                found.into_iter().partition(|mention| mention.kind == PathKind::Record);
            let all = |path: &Path| Some(path.to_owned());
            let relocate = |moved| Relocate {
                tree,
                roots: moved,
                before: Relocation::from(moved).next().map(Vec::as_slice),
                whose: Whose::Live,
                at: &all,
                others: &|_| None,
            };
            let relocations: Vec<Relocate<'_>> = moves.iter().map(relocate).collect();
            for relocation in &relocations {
                relocation.run(&files)?;
            }
            // All files name the new root by now, and it does not matter which process translated
            // them. A line may still have the hash that its file had under an earlier root.
            for relocation in &relocations {
                for mention in records.iter().filter(|mention| mention.kept.is_none()) {
                    let digests = |file: &Path| {
                        let is = tree.read(file).ok()??;
                        let was = relocation.roots.canonical(in_environment(file)?.0, &is)?;
                        Some((Digest::of(&was), Digest::of(&is)))
                    };
                    relocation.content(PathKind::Record, &mention.path, |text| {
                        record::translate(&mention.path, text, digests)
                    })?;
                }
            }
            now.write(&self.kept())
        };
        follow().context(Operation::RewritePaths, || &self.path)
    }
}

/// Gives the files of a tree that was copied from `from` the tree's own path, if calve knows their
/// format: Python environments, and absolute symbolic links that `from` has, too. Files that git
/// tracks, and files in other repositories below, stay as they are. Returns all these files, and also those that
/// [`path_mentions`] finds; each says whether calve rewrote it.
/// [`clone_with_own_paths`] does the same before a clone appears.
///
/// # Errors
/// Files could not be read or written. Each file is as it was, or rewritten as a whole.
pub fn rewrite_paths(tree: &Path, from: &Path) -> Result<Vec<PathMention>, Error> {
    rewrite_live(tree, from, |mention| mention.kind == PathKind::Link)
}

fn rewrite_live(
    tree: &Path,
    from: &Path,
    only_theirs: impl Fn(&PathMention) -> bool,
) -> Result<Vec<PathMention>, Error> {
    let rewrite = || -> io::Result<Vec<PathMention>> {
        let path = std::fs::canonicalize(tree)?;
        let root = fs::open(&path, DIR_FLAGS, Mode::empty())?;
        rewrite(Tree { path: &path, root: &root }, (from, &path), Whose::Live, only_theirs)
    };
    rewrite().context(Operation::RewritePaths, || tree)
}

/// Gives a copy of `from` the path `to`. Of the mentions that are `only_theirs`, those stay as they
/// are that `from` does not have.
fn rewrite(
    tree: Tree<'_>,
    (from, to): (&Path, &Path),
    whose: Whose,
    only_theirs: impl Fn(&PathMention) -> bool,
) -> io::Result<Vec<PathMention>> {
    let canonical = from.canonicalize().unwrap_or_else(|_| from.to_owned());
    let mut spellings = Spellings::at(vec![bytes_of(&canonical)]);
    if from.is_absolute() {
        spellings.add(&[bytes_of(from)]);
    }
    let mut found = find(tree, &mut spellings)?;
    for mention in found.iter_mut().filter(|it| it.kept.is_none() && only_theirs(it)) {
        // What `from` does not have is the user's own, and names it on purpose.
        let [theirs, ours] = [from, tree.path].map(|root| {
            let path = root.join(&mention.path);
            match mention.kind {
                PathKind::Link => std::fs::read_link(path).map(|it| bytes_of(&it)),
                _ => read_plain(fs::CWD, &path, MOST_BYTES),
            }
        });
        if theirs.ok() != ours.ok() {
            mention.kept = Some(PathKept::NotTranslatable);
        }
    }
    let Some(roots) = Relocation::between(spellings.known(), to) else {
        return Ok(Vec::new());
    };
    let all = |path: &Path| Some(path.to_owned());
    let relocate =
        Relocate { tree, roots: &roots, before: None, whose, at: &all, others: &|_| None };
    let mut done = relocate.run(&found)?;
    keep_living(&mut done, tree)?;
    Ok(done)
}

/// Clones a tree as [`clone_tree`](crate::clone_tree) does, and gives each clone its own path in
/// the files that [`rewrite_paths`] rewrites. Returns these files for each destination. A clone
/// appears when its files name it. In a merge, the files are rewritten after they arrived; those that
/// are not as `source` has them stay.
///
/// # Errors
/// Those of [`clone_tree`](crate::clone_tree) and of [`rewrite_paths`]. No destination exists that
/// did not before. After a merge, each file is as it arrived, or rewritten as a whole.
pub fn clone_with_own_paths<S: AsRef<Path>, D: AsRef<Path>>(
    source: S,
    destinations: &[D],
    options: &CloneOptions,
) -> Result<(CloneReport, Vec<Vec<PathMention>>), Error> {
    let source = source.as_ref();
    let destinations: Vec<&Path> = destinations.iter().map(AsRef::as_ref).collect();
    let from = std::path::absolute(source).context(Operation::Resolve, || source)?;
    let mentions = RefCell::new(vec![Vec::new(); destinations.len()]);
    let dress = |at: usize, stage: &Stage, path: &Path| {
        let rewrite = || -> io::Result<Vec<PathMention>> {
            let staged = std::fs::canonicalize(stage.path())?;
            let name = path.file_name().unwrap_or_default();
            let tree = Tree { path: &staged, root: stage.dir() };
            let to = staged.with_file_name(name);
            rewrite(tree, (&from, &to), Whose::Staged, |it| it.kind == PathKind::Link)
        };
        mentions.borrow_mut()[at] = rewrite().context(Operation::RewritePaths, || path)?;
        Ok(())
    };
    let report = clone_tree_dressed(source, &destinations, options, &dress)?;
    let mut mentions = mentions.into_inner();
    if options.existing.merges() && !options.dry_run {
        for (destination, mentions) in report.destinations.iter().zip(&mut mentions) {
            // The record of a package follows its files.
            let is_file = |it: &PathMention| it.kind != PathKind::Record;
            *mentions = rewrite_live(&destination.path, &from, is_file)?;
        }
    }
    Ok((report, mentions))
}

/// The files of a tree that name the tree's own root by its absolute path, and those that name a
/// process which runs. calve looks at Python environments, at symbolic links, and at files whose
/// names say that they speak for many others. Of a project with a store, this also has the other
/// files that named its root when the last snapshot read them.
///
/// # Errors
/// The tree, or its store, could not be read.
pub fn path_mentions(tree: &Path) -> Result<Vec<PathMention>, Error> {
    let path = std::fs::canonicalize(tree).context(Operation::Open, || tree)?;
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let root = fs::open(&path, DIR_FLAGS, Mode::empty()).context(Operation::Open, || tree)?;
    let live = Tree { path: &path, root: &root };
    let mut spellings = Spellings::of(&root, vec![bytes_of(&path)]);
    let mut found = find(live, &mut spellings).context(Operation::Read, || tree)?;
    found.retain(|mention| mention.kind != PathKind::Record);
    keep_living(&mut found, live).context(Operation::Read, || tree)?;
    if let Ok(discovered) = Store::discover(&path)
        && !discovered.is_worktree()
        && let Ok(project) = discovered.store.project_worktree()
        && project.path() == path
        && let Some(id) = project.snapshot()
    {
        let store = &discovered.store;
        let noted = store.snapshots().found(id, &store.catalog().object(id)?)?.mentions;
        // All others were found above, as they are now.
        let is_only_noted = |mention: &PathMention| {
            !mention.kind.is_known()
                && !matches!(mention.kind, PathKind::LinkBack | PathKind::LinkOut)
                && looked_at(&mention.path).is_none()
                && path.join(&mention.path).symlink_metadata().is_ok()
        };
        found.extend(noted.into_iter().filter(is_only_noted));
        found.sort();
    }
    Ok(found)
}

/// Mentions that keep the project's path because the caller asked for it.
pub(super) fn all_kept(found: &Found) -> Vec<PathMention> {
    let named = found.mentions.iter().filter(|mention| mention.kind != PathKind::Record);
    let keep = |mention: &PathMention| PathMention {
        kept: mention.kept.or(Some(PathKept::Wanted)),
        ..mention.clone()
    };
    named.map(keep).collect()
}

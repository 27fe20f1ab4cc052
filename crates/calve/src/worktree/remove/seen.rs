//! What git and the system say about a worktree before it is dropped, and whether a drop would lose
//! work.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use super::super::git::Loss;
use super::super::git::alike::Untouched;
use super::super::scope::{ChangeScope, Judge};
use super::super::{Worktree, shown};
use super::look::{Moment, Nested, nested_in};
use super::processes::{Depth, LivingProcess, living_in};
use super::{Attempt, Room};
use crate::error::{Context as _, Error, ErrorKind, IfThere as _, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::delta::{self, Counts};
use crate::store::files::listed;
use crate::store::git::{self, EditsSince, Resolver, Tree, Work};
use crate::store::manifest::Manifest;
use crate::store::scan::Near;
use crate::store::{PROJECT, StoreOptions, at, layout, path_from};
use crate::tree::mounts;
use crate::tree::pool::both;
use crate::tree::running::Running;
use crate::tree::staging::{self, stage_name};

/// What was seen of a worktree before it is dropped.
pub(super) struct Seen {
    /// The root of the project. The database cannot be asked for it while the row is deleted.
    pub(super) project: PathBuf,
    /// Before the first look.
    pub(super) since: Moment,
    pub(super) loss: Option<Loss>,
    pub(super) living: Vec<LivingProcess>,
    pub(super) nested: Nested,
    /// Nobody touched the tree until `since`.
    pub(super) untouched: Option<Untouched>,
}

impl Seen {
    /// Says which folders of the tree at `root` may have work.
    pub(super) fn work_at(&self, root: &Path) -> Result<Judge, Error> {
        ChangeScope::new().gitignore(self.loss.is_some()).at(root, Some(&self.project))
    }
}

impl Worktree {
    /// Fails if a drop without [`DropOptions::force`](super::DropOptions::force) would lose work.
    ///
    /// # Errors
    /// The same as for [`Worktree::drop`]. Nothing is changed.
    pub fn must_lose_nothing(&self, options: &StoreOptions) -> Result<(), Error> {
        let this = self.now()?;
        must_be_one_folder(&this.path)?;
        let seen = this.seen_since(Moment::now(), EditsSince::LookedFor)?;
        this.must_be_no_loss(&seen, &options.operation())
    }

    /// What git and the system say about a worktree whose folder is there. `edits` says who looks for
    /// those that git does not see.
    pub(super) fn seen_since(
        &self,
        since: Moment,
        edits: impl FnOnce(i64) -> EditsSince,
    ) -> Result<Seen, Error> {
        // A killed switch has left its stage there. That is no work, but git lists it. If the folder
        // cannot be opened, the look says so.
        if let Ok(root) = super::super::open_dir(&self.path) {
            staging::sweep(&root);
        }
        let look = || (living_in(&self.path, Depth::Thorough), nested_in(&self.path));
        // The other processor looks while git does.
        let git_loss = || self.git_loss(true, edits(self.row.created));
        let (loss, (living, nested)) = both(git_loss, look);
        let tree = (self.path.as_path(), self.row.created);
        let loss = loss.map(|loss| loss.with_nested(tree, &nested.repositories));
        Ok(Seen { project: self.store.project()?, since, loss, living, nested, untouched: None })
    }

    /// The same about a worktree that nobody touched until `since`. Another one that is alike has
    /// no work, and nothing of other tools.
    pub(super) fn seen_untouched(
        &self,
        since: Moment,
        untouched: Untouched,
    ) -> Result<Seen, Error> {
        let loss = self.git_loss_untouched(&untouched.head);
        let living = living_in(&self.path, Depth::Thorough);
        let (project, nested) = (self.store.project()?, Nested::default());
        Ok(Seen { project, since, loss, living, nested, untouched: Some(untouched) })
    }

    /// The error of a drop that is refused.
    pub(super) fn not_dropped(
        &self,
        kind: ErrorKind,
        cause: io::Error,
        details: Vec<PathBuf>,
    ) -> Error {
        Error::new(kind, Operation::DropWorktree, &self.path, cause).with_details(details)
    }

    /// The look at the worktree before an attempt to drop it. An earlier look, `checked`, is taken
    /// for it, unless a process works in the worktree since: it may change files through a mapping at
    /// any time.
    pub(super) fn seen_for(
        &self,
        attempt: &Attempt<'_>,
        checked: Option<Seen>,
        operation: &Running,
    ) -> Result<Seen, Error> {
        let Attempt { how, is_first, .. } = *attempt;
        let is_alone = |_: &Seen| living_in(&self.path, Depth::Thorough).is_empty();
        let mut seen = match checked.filter(is_alone) {
            Some(checked) => checked,
            None => {
                // The look after the rename sees the same files. What it finds begins the drop
                // again, and then git compares their content. A drop by force must know it before.
                let edits = if is_first && !how.force {
                    EditsSince::LookedForLater
                } else {
                    EditsSince::LookedFor
                };
                let seen = self.seen_since(Moment::now(), edits)?;
                if !how.force {
                    self.must_be_no_loss(&seen, operation)?;
                }
                seen
            }
        };
        if let (Some(loss), true) = (&mut seen.loss, how.force && !how.discard) {
            loss.add_staged_of_kept(&self.store.layout().stage().join(stage_name()));
        }
        Ok(seen)
    }

    pub(super) fn must_be_no_loss(&self, seen: &Seen, operation: &Running) -> Result<(), Error> {
        let refused = |kind, why: &str, details: Vec<PathBuf>| {
            Err(self.not_dropped(kind, io::Error::other(why.to_owned()), details))
        };
        let loss = seen.loss.as_ref();
        if loss.is_none() {
            self.must_be_unchanged(seen, operation)?;
        }
        if let Some(loss) = loss {
            let mut judge = seen.work_at(&self.path)?;
            let mut closed = Vec::new();
            for folder in &seen.nested.unreadable {
                if judge.may_have_work(folder)? {
                    closed.push(shown(folder));
                }
            }
            if !closed.is_empty() {
                let why = "it has folders that cannot be read";
                let cause = io::Error::new(io::ErrorKind::PermissionDenied, why);
                return Err(self.not_dropped(ErrorKind::Changed, cause, closed));
            }
            loss.must_be_nothing(self, |work| self.is_in_the_base_snapshot(work, operation))?;
        }
        if self.has_stray_work(seen, operation)? {
            let why =
                "it has folders .git that are no repositories, and git does not look into them";
            return refused(ErrorKind::Changed, why, seen.nested.strays.clone());
        }
        if self.has_foreign_work(seen, operation)? {
            let why = "it has repositories into which calve cannot look, and which its base snapshot lacks";
            return refused(ErrorKind::Changed, why, seen.nested.foreign.clone());
        }
        if !seen.nested.stores.is_empty() {
            let is_unread = |path: &PathBuf| path.ends_with(layout::FORMAT);
            let why = match seen.nested.stores.iter().any(is_unread) {
                true => "it may have stores of calve, because a file 'format' cannot be read",
                false => "it has stores or remotes of calve, which belong to no snapshot",
            };
            let cause = io::Error::new(io::ErrorKind::Unsupported, why);
            return Err(self.not_dropped(ErrorKind::Changed, cause, seen.nested.stores.clone()));
        }
        if !seen.living.is_empty() {
            let process = |it: &LivingProcess| format!("{} {}", it.pid, it.command).into();
            let processes = seen.living.iter().map(process).collect();
            return refused(ErrorKind::Busy, "processes work in it", processes);
        }
        Ok(())
    }

    /// Whether the dropped tree must be kept for a while.
    pub(super) fn must_be_kept(
        &self,
        seen: &Seen,
        attempt: &Attempt<'_>,
        operation: &Running,
    ) -> Result<bool, Error> {
        let Attempt { how, room, is_last, .. } = *attempt;
        Ok(seen.loss.as_ref().is_some_and(Loss::must_keep_the_tree)
            || !how.discard && self.has_moved_aside()?
            || how.force
                && !how.discard
                && (is_last
                    || !seen.nested.stores.is_empty()
                    || self.has_foreign_work(seen, operation)?
                    || self.has_stray_work(seen, operation)?
                    || self.would_lose_work(seen, room, operation)?))
    }

    /// Whether the tree has work that nothing else has. If calve cannot find out, it has.
    fn would_lose_work(&self, seen: &Seen, room: Room, operation: &Running) -> Result<bool, Error> {
        if self.row.snapshot.is_none() && room == Room::OfReserve {
            return Ok(true);
        }
        let known = seen.loss.as_ref().filter(|loss| loss.failure.is_none());
        let lost = match known.map(|loss| loss.work.as_ref()) {
            Some(Some(work)) if work.paths.is_empty() => Ok(false),
            Some(Some(work)) => self.is_in_the_base_snapshot(work, operation).map(|is| !is),
            Some(None) => Ok(false),
            None => self.must_be_unchanged(seen, operation).map(|()| false),
        };
        match lost {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            lost => Ok(lost.unwrap_or(true)),
        }
    }

    /// Whether a folder that git neither looks into nor ignores has what the base snapshot lacks.
    fn has_stray_work(&self, seen: &Seen, operation: &Running) -> Result<bool, Error> {
        // Without a repository, every change counts in any case.
        if seen.nested.strays.is_empty() || seen.loss.is_none() {
            return Ok(false);
        }
        let (mut judge, mut paths) = (seen.work_at(&self.path)?, Vec::new());
        for stray in &seen.nested.strays {
            if judge.may_have_work(stray.parent().unwrap_or(stray))? {
                paths.push(stray.clone());
            }
        }
        Ok(!paths.is_empty()
            && !self.is_in_the_base_snapshot(&Work { paths, ..Work::default() }, operation)?)
    }

    /// Whether repositories of other tools, in their working trees, have what the base snapshot
    /// lacks. calve cannot ask those tools. Where git tracks a part of such a repository, it is a
    /// folder like others.
    fn has_foreign_work(&self, seen: &Seen, operation: &Running) -> Result<bool, Error> {
        if seen.nested.foreign.is_empty() {
            return Ok(false);
        }
        let tracked = match Tree::at(&self.path) {
            Ok(Some(tree)) => git::all_tracked(&tree).unwrap_or_default(),
            _ => Vec::new(),
        };
        let tracked: Vec<PathBuf> = tracked.iter().map(|path| path_from(path)).collect();
        let is_tracked = |path: &PathBuf| tracked.iter().any(|it| it.starts_with(path));
        let repositories = seen.nested.foreign.iter().filter(|path| !is_tracked(path));
        // git says which files in the root are work, so of those in the root only the repository counts.
        let is_below = |folder: &&Path| !folder.as_os_str().is_empty();
        let paths = repositories
            .map(|path| path.parent().filter(is_below).unwrap_or(path).to_owned())
            .collect();
        let work = Work { paths, ..Work::default() };
        Ok(!work.paths.is_empty() && !self.is_in_the_base_snapshot(&work, operation)?)
    }

    /// Whether the base snapshot has all uncommitted work: it came from the project, or somebody
    /// captured it.
    fn is_in_the_base_snapshot(&self, work: &Work, operation: &Running) -> Result<bool, Error> {
        // A base that is made now is one of the tree as it is. So it would have what git ignores.
        let is_made_now = self.row.snapshot.is_none() && self.was_made_by_git();
        if work.is_cut || work.no_snapshot_has_it || is_made_now {
            return Ok(false);
        }
        let near = Arc::new(Near::of(work.paths.iter().cloned()));
        self.as_now(operation, |this| {
            let (base, now, skipped) = this.compare(Some(Arc::clone(&near)), operation)?;
            let changes = now.as_ref().map(|now| {
                // git lists nothing for the root's own mode.
                let is_work = |path: &Path| !path.as_os_str().is_empty() && near.has(path);
                let deltas = delta::compare_where(&base, now, Counts::Changes, is_work);
                super::super::changes(&base, now, &deltas)
            });
            if !skipped.is_empty() || changes.is_some_and(|changes| !changes.is_empty()) {
                return Ok(false);
            }
            // A scan leaves out what no snapshot has. That is no change, but it may be work.
            for path in &work.paths {
                if !has_all(&base, &this.path, path).context(Operation::Compare, || &this.path)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn must_be_unchanged(&self, seen: &Seen, operation: &Running) -> Result<(), Error> {
        // No snapshot has the working trees of other repositories.
        let others = seen.nested.repositories.iter().filter(|path| self.path.join(path).is_file());
        let others: Vec<PathBuf> = others.cloned().collect();
        Loss::default()
            .with_nested((&self.path, self.row.created), &others)
            .must_be_nothing(self, |_| Ok(false))?;
        let status = self.status_in(&ChangeScope::new(), operation)?;
        let why = match (status.changes.is_empty(), status.skipped.is_empty()) {
            (true, true) => return Ok(()),
            (false, _) => "it has changes since its base snapshot",
            // Another process works in the worktree, and calve may not have seen all files that it
            // made.
            (true, false) => "names in it kept changing while calve listed them",
        };
        let changed = status.changes.into_iter().map(|change| change.path);
        let restless = status.skipped.iter().map(|skipped| shown(&skipped.path));
        let mut paths: Vec<PathBuf> = changed.chain(restless).collect();
        paths.sort();
        paths.dedup();
        Err(self.not_dropped(ErrorKind::Changed, io::Error::other(why), paths))
    }

    /// Fails if other worktrees are inside. A drop would delete them too, and nobody checked them
    /// for changes.
    pub(super) fn must_hold_no_other(&self) -> Result<(), Error> {
        let root = std::fs::canonicalize(&self.path).context(Operation::Open, || &self.path)?;
        let rows = self.store.catalog().worktrees()?;
        let others = rows.iter().filter(|row| row.token != self.row.token && row.name != PROJECT);
        let gits = git::worktrees_inside(&self.path);
        let mut resolver = Resolver::default();
        let mut inside: Vec<PathBuf> = others
            .map(|row| path_from(&row.path))
            .filter(|path| resolver.resolve(path).is_ok_and(|path| path.starts_with(&root)))
            .chain(gits.context(Operation::Read, || git::git_of(&self.path))?)
            .collect();
        inside.sort();
        inside.dedup();
        if inside.is_empty() {
            return Ok(());
        }
        let cause = io::Error::other("other worktrees are inside it");
        Err(self.not_dropped(ErrorKind::Overlap, cause, inside))
    }
}

/// Fails for a link in the place of the worktree's folder, which would go alone, and for mounts.
pub(super) fn must_be_one_folder(path: &Path) -> Result<(), Error> {
    let found = std::fs::symlink_metadata(path).context(Operation::LookAt, || path)?;
    if !found.is_symlink() {
        return must_hold_no_mount(path);
    }
    let folder = std::fs::canonicalize(path).context(Operation::Open, || path)?;
    let cause = io::Error::new(io::ErrorKind::NotADirectory, "it is a link to a folder elsewhere");
    Err(Error::new(ErrorKind::Overlap, Operation::DropWorktree, path, cause).with_other(folder))
}

/// Mounts would go along to where nobody looks for them, or end with the subvolume.
pub(in crate::worktree) fn must_hold_no_mount(path: &Path) -> Result<(), Error> {
    let root = std::fs::canonicalize(path).context(Operation::Open, || path)?;
    let points = mounts::below(&root).unwrap_or_default();
    if points.is_empty() {
        return Ok(());
    }
    let cause = io::Error::new(io::ErrorKind::CrossesDevices, "something is mounted in it");
    Err(Error::new(ErrorKind::Overlap, Operation::DropWorktree, path, cause).with_details(points))
}

/// Whether a snapshot has an entry for everything at and below `path` in the tree at `root`.
/// Sockets, which have no content, do not count.
fn has_all(base: &Manifest, root: &Path, path: &Path) -> io::Result<bool> {
    let top = fs::open(root, DIR_FLAGS, Mode::empty())?;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        // A tree may be deeper than a path may be long.
        let look = || -> io::Result<_> {
            let (dir, name) = (at::open_parent(&top, &path)?, at::last(&path)?);
            let stat = fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((dir, name, Meta::of(&stat).file_type()))
        };
        let Some((dir, name, kind)) = look().but_for(at::is_gone)? else { continue };
        if kind != FileType::Socket && !base.has(&path) {
            return Ok(false);
        }
        if kind == FileType::Directory {
            let flags = DIR_FLAGS | OFlags::NOFOLLOW;
            let names = listed(fs::openat(&dir, &name, flags, Mode::empty())?)?;
            left.extend(names.into_iter().map(|(name, _)| path.join(name)));
        }
    }
    Ok(true)
}

//! Worktrees of the project's repository that git or another tool made.
//!
//! The store does not know them. The first command that works on one takes it into the registry
//! ([`Store::adopt`]). From then on it is a worktree like all others.
//!
//! # The base snapshot
//! A worktree that calve started has the snapshot for its base that its tree was made of. Nobody
//! made one of this tree. So the first operation that needs a base makes it of the tree as it is,
//! without its uncommitted work ([`Worktree::make_first_base`]): tracked files as the `HEAD` commit
//! has them, and files that git ignores as the tree has them. Files that git neither tracks nor
//! ignores are no part of it, and neither is uncommitted work in repositories inside. So the changes since the base are the work that `git status` lists.
//!
//! Tracked files that are the same in the project are not read: git's index of each tree vouches for
//! its file, both name the same content, and the store's index of the project knows that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{self, Mode};

use super::fill::compared;
use super::git::nested_work_in;
use super::start::base::at_commit;
use super::{DropOptions, Worktree};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::reflink::imp::DIR_FLAGS;
use crate::reflink::meta::Meta;
use crate::store::catalog::{Origin, WorktreeRow};
use crate::store::files::{bytes_of, path_from};
use crate::store::git::checkout::Checkout;
use crate::store::git::{
    self, EditsSince, Failure, Registration, Tree, branch_at, is_same, leads_to,
};
use crate::store::history::of_project;
use crate::store::id::SnapshotId;
use crate::store::index::{Boot, Index, Stat};
use crate::store::manifest::Manifest;
use crate::store::object::Kind;
use crate::store::overlay::{Overlaid, record_over};
use crate::store::registry::no_worktree;
use crate::store::scan::AlikeFiles;
use crate::store::snapshot::{Known, check_name};
use crate::store::{PROJECT, SnapshotOptions, Store, StoreOptions};
use crate::tree::running::Running;
use crate::tree::staging::Stage;

/// A linked worktree of the project's repository that calve did not make.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GitWorktree {
    /// The id of git's registration, which is the last part of the first path that it had.
    pub name: String,
    /// Its root.
    pub path: PathBuf,
    /// The branch that it is on. `None` if it is on none, or if that could not be read.
    pub branch: Option<String>,
    /// Whether it was started from an earlier store of the project at the same path, which is gone:
    /// `git clean -x` in the project deletes a store, but no worktree beside the project.
    pub is_of_lost_store: bool,
}

impl Store {
    /// The worktrees of the project's repository that git or another tool made, by name. The
    /// folder of one may be gone.
    ///
    /// # Errors
    /// The errors of every operation, see [`Store`]. Nothing is changed.
    pub fn worktrees_of_git(&self) -> Result<Vec<GitWorktree>, Error> {
        let others = self.registry().others()?.into_iter();
        let of_git = |entry: Registration| {
            let path = entry.git_file.as_deref()?.parent()?.to_owned();
            // A copy of a project has registrations of the original's worktrees.
            let leads_back = leads_to(&path).map_or(true, |to| is_same(&to, &entry.folder));
            leads_back.then(|| GitWorktree {
                name: entry.id().to_string_lossy().into_owned(),
                branch: branch_at(&entry.folder),
                is_of_lost_store: self.registry().is_of_lost_store(&path),
                path,
            })
        };
        Ok(others.filter_map(of_git).collect())
    }

    /// Takes a worktree that git or another tool made into the store, as one of its worktrees. It
    /// keeps its folder, its branch and its registration. Its name is that of its registration, or
    /// the last part of its path if another worktree has that name. `root` is its root. If nothing
    /// is there, it is a missing worktree of the store, which can be restored or dropped.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if there is no such worktree, or if it is the repository's
    /// main one. [`ErrorKind::WorktreeExists`] if other worktrees have both names;
    /// [`ErrorKind::InvalidName`] if it has none that a worktree can have.
    /// [`ErrorKind::StoreUntrusted`] if its folder belongs to another user, or if others may write
    /// there. [`ErrorKind::Git`]. Nothing is changed.
    pub fn adopt(&self, root: impl AsRef<Path>) -> Result<Worktree, Error> {
        let root = root.as_ref();
        self.must_be_writable(Operation::UseWorktree)?;
        if let Some(known) = self.known_at(root)? {
            return Ok(known);
        }
        let registry = self.registry();
        let is_gone = std::fs::symlink_metadata(root).is_err_and(|it| git::is_absent(&it));
        let is_it = |entry: &Registration| {
            let leads = || leads_to(root).is_ok_and(|to| is_same(&to, &entry.folder));
            entry.is_of(root) && (is_gone || leads())
        };
        let Some(entry) = registry.others()?.into_iter().find(is_it) else {
            // Another process may have taken it.
            if let Some(known) = self.known_at(root)? {
                return Ok(known);
            }
            let cause = match git::is_repository(root) {
                true => io::Error::other("it is a bare repository, which has no files"),
                false => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "it is a working tree of git that calve did not make",
                ),
            };
            let kind = ErrorKind::WorktreeNotFound;
            return Err(Error::new(kind, Operation::FindWorktree, root, cause));
        };
        let failed = |failure| Error::new(ErrorKind::Git, Operation::AskGit, root, failure);
        let project = self.repository().map_err(failed)?;
        let commit = project.map(|it| it.head_commit_of(&entry)).transpose().map_err(failed)?;
        let commit = commit.flatten();
        let commit = commit.as_deref().unwrap_or(git::NO_COMMIT);
        let names = [Some(entry.id()), root.file_name()].into_iter().flatten();
        let names: Vec<&str> = names
            .filter_map(|name| name.to_str())
            .filter(|name| *name != PROJECT && check_name(name).is_ok())
            .collect();
        match registry.adopt((&entry, &names), root, (commit, &self.project()?)) {
            // Another process was faster.
            Err(error) if error.kind() == ErrorKind::WorktreeExists => {
                self.known_at(root)?.ok_or(error)
            }
            row => self.follow(row?),
        }
    }

    /// The worktree that the store knows at this path.
    fn known_at(&self, root: &Path) -> Result<Option<Worktree>, Error> {
        let rows = self.catalog().worktrees()?;
        let Some(row) = rows.into_iter().find(|row| row.path == bytes_of(root)) else {
            return Ok(None);
        };
        match self.follow(row) {
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => Ok(None),
            // git moved it, and something else is here now.
            found => Ok(Some(found?).filter(|found| found.path == root)),
        }
    }

    /// The row, when no process takes it into the registry any more: that lasts moments, and until
    /// then it has no mark and can have no base.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeNotFound`] if the other process failed.
    pub(super) fn adopted_whole(&self, row: WorktreeRow) -> Result<WorktreeRow, Error> {
        let mut row = row;
        let begun = Instant::now();
        let is_adopted = row.git.as_ref().is_some_and(|git| git.is_adopted);
        while is_adopted && self.registry().is_being_started(&row) && begun.elapsed() < PATIENCE {
            std::thread::sleep(PATIENCE / 1000);
            let now = self.catalog().worktree(&row.name)?;
            row = now.filter(|now| now.token == row.token).ok_or_else(|| no_worktree(&row.name))?;
        }
        Ok(row)
    }

    /// Forgets a worktree that git has removed, if git has made another one in its place. Files that a
    /// restore moved aside keep it. Returns whether it is forgotten.
    pub(super) fn forget_replaced(&self, row: &WorktreeRow) -> Result<bool, Error> {
        if !self.registry().is_replaced(row)? {
            return Ok(false);
        }
        let path = path_from(&row.path);
        let gone = Worktree { store: self.clone(), path, row: row.clone(), registered_again: None };
        if gone.has_moved_aside()? {
            return Ok(false);
        }
        match self.registry().forget(row, || Ok(Some(()))) {
            // Another process did.
            Err(error) if error.kind() == ErrorKind::WorktreeNotFound => Ok(true),
            forgotten => forgotten.map(|_| true),
        }
    }

    /// Forgets a worktree that git had made and has removed, so that a new one can have its name.
    /// What a drop would refuse to lose, and files that a restore moved aside, keep it. Returns
    /// whether it is forgotten.
    pub(super) fn forget_removed_by_git(&self, row: &WorktreeRow) -> Result<bool, Error> {
        if !self.registry().is_removed_by_git(row)? {
            return Ok(false);
        }
        let worktree = self.follow(row.clone())?;
        if worktree.has_moved_aside()? {
            return Ok(false);
        }
        match worktree.drop(&DropOptions::new(), &StoreOptions::new()) {
            Ok(dropped) => dropped.delete().map(|_| true),
            Err(_) => Ok(false),
        }
    }
}

/// For how long a process waits for another one that takes a worktree into the registry.
const PATIENCE: Duration = Duration::from_secs(10);

impl Worktree {
    /// Makes the first base snapshot of a worktree that git made. If its folder is gone, this is the
    /// project at its commit.
    ///
    /// # Errors
    /// [`ErrorKind::Git`]; those of every operation, see [`Store`]. It has no base then.
    pub(super) fn make_first_base(&self, operation: &Running) -> Result<(), Error> {
        self.store.must_be_writable(Operation::TakeSnapshotWith)?;
        let failed = |failure| Error::new(ErrorKind::Git, Operation::AskGit, &self.path, failure);
        let project = self.store.repository().map_err(failed)?;
        let base = match (self.is_there()?, project, &self.row.git) {
            (false, Some(project), Some(linked)) => {
                let (taken, _) = of_project(&self.store, &SnapshotOptions::new(), None, operation)?;
                let commit = linked.commit.as_str();
                at_commit(&self.store, &project, (commit, commit), (taken.id, &[]), operation)?.id
            }
            _ => self.first_base(operation)?,
        };
        self.store.catalog().set_first_base(&self.row.token, base)
    }

    fn first_base(&self, operation: &Running) -> Result<SnapshotId, Error> {
        self.must_be_there()?;
        let failed = |failure| Error::new(ErrorKind::Git, Operation::AskGit, &self.path, failure);
        let alike = self.alike_in_project(operation)?;
        let known = Known { alike, ..self.known()? };
        let taking = SnapshotOptions::new().keeping_base();
        let (taken, manifest) = known.record(&self.store, &taking, operation)?;
        // Asked after the tree was read: of work that came in between, the base has nothing.
        let Some(tree) = Tree::at(&self.path).map_err(failed)? else { return Ok(taken.id) };
        let mut work =
            git::whole_work_in(&tree, EditsSince::LookedFor(self.row.created)).map_err(failed)?;
        // What the base has, a drop takes for work that came along from the project.
        work.paths.extend(nested_work_in((&self.path, self.row.created)));
        if work.is_cut {
            let why = "it has more uncommitted paths than calve reads";
            return Err(failed(Failure::Refused(why.to_owned())));
        }
        let (false, Some(read)) = (work.paths.is_empty(), manifest) else { return Ok(taken.id) };
        let commit = work.head.and_then(|head| head.commit);
        let made = self.without_work(&work.paths, commit.as_deref(), taken.id, operation)?;
        let index = self.store.registry().index(&self.row.token, taken.id, &read);
        if let Some(index) = index {
            let index = index_of(&made, &read, &index);
            // Without it the first look reads the tree once more.
            let _ = self.store.registry().write_index(&self.row.token, &index);
        }
        Ok(made.id)
    }

    /// The snapshot `taken` of this tree, with these paths as the commit has them. Those in a
    /// repository inside are as the commit has them that is checked out there.
    fn without_work(
        &self,
        paths: &[PathBuf],
        commit: Option<&str>,
        taken: SnapshotId,
        operation: &Running,
    ) -> Result<Overlaid, Error> {
        let failed = |failure| Error::new(ErrorKind::Git, Operation::CheckOut, &self.path, failure);
        let folder = self.store.layout().stage();
        let dir =
            fs::open(&folder, DIR_FLAGS, Mode::empty()).context(Operation::Open, || &folder)?;
        let stage = Stage::empty(dir, &folder).context(Operation::Stage, || &folder)?;
        let folder = stage.path();
        let plain = |path: &PathBuf| {
            let bytes = bytes_of(path);
            bytes.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(bytes)
        };
        let gone: HashSet<Vec<u8>> = paths.iter().map(plain).collect();
        let message = format!(
            "the worktree {} at {}",
            self.row.name,
            commit.and_then(|commit| commit.get(..12)).unwrap_or("no commit")
        );
        let over = folder.join("over");
        let mut by_repository: BTreeMap<PathBuf, HashSet<Vec<u8>>> = BTreeMap::new();
        for path in paths {
            let at = self.repository_around(path);
            let inside = path.strip_prefix(&at).unwrap_or(path).to_owned();
            by_repository.entry(at).or_default().insert(plain(&inside));
        }
        // The tree's own is the first one, if it has work at all.
        for (number, (at, inside)) in by_repository.iter().enumerate() {
            let is_own = at.as_os_str().is_empty();
            let commit = match is_own {
                true => commit.map(str::to_owned),
                // A repository inside of which git cannot tell its commit: the base lacks the files.
                false => Tree::at(&self.path.join(at))
                    .and_then(|tree| tree.map(|tree| tree.head_commit()).transpose())
                    .unwrap_or_default()
                    .flatten(),
            };
            let root = self.path.join(at);
            let repository = git::read(&root).context(Operation::Read, || &root)?;
            let (Some(commit), Some(repository)) = (commit, repository) else { continue };
            let part = folder.join(number.to_string());
            let checkout = Checkout { repository: &repository, folder: &part };
            std::fs::create_dir_all(checkout.tree()).context(Operation::MakeFolder, || &part)?;
            checkout.go_to(&commit).map_err(failed)?;
            let in_commit = checkout.tracked().map_err(failed)?;
            let wanted = in_commit.iter().filter(|path| inside.contains(*path));
            checkout.write(&commit, wanted.map(Vec::as_slice)).map_err(failed)?;
            let to = if is_own { over.clone() } else { over.join(at) };
            let moved = std::fs::create_dir_all(to.parent().unwrap_or(&folder))
                .and_then(|()| std::fs::rename(checkout.tree(), &to));
            moved.context(Operation::MakeFolder, || &to)?;
        }
        std::fs::create_dir_all(&over).context(Operation::MakeFolder, || &over)?;
        record_over(&self.store, taken, &gone, &over, (&message, &Origin::default()), operation)
    }

    /// The folder of the innermost repository in this tree that a path in it belongs to: a
    /// submodule, a clone, or the tree itself, which is the empty path.
    fn repository_around(&self, path: &Path) -> PathBuf {
        let is_one = |at: &&Path| git::git_of(&self.path.join(at)).symlink_metadata().is_ok();
        path.ancestors().skip(1).find(is_one).unwrap_or(Path::new("")).to_owned()
    }

    /// The tracked files of this tree of which the project's snapshot has the content.
    fn alike_in_project(&self, operation: &Running) -> Result<Option<AlikeFiles>, Error> {
        let (Some(row), Some(theirs)) =
            (self.store.catalog().worktree(PROJECT)?, git::read(&self.path).ok().flatten())
        else {
            return Ok(None);
        };
        let Ok(Some(ours)) = self.store.repository() else { return Ok(None) };
        // Damage of the project's base does not affect this tree: it is read.
        let Ok(Known { base: Some((of, _, base)), index: Some(index), .. }) =
            Known::of(&self.store, row)
        else {
            return Ok(None);
        };
        if index.boot != Boot::this() {
            return Ok(None);
        }
        let (compared, _) = compared(&theirs, &ours, operation)?;
        let Some(compared) = compared else { return Ok(None) };
        let mut files: HashMap<PathBuf, (Meta, _)> = HashMap::new();
        for (number, path, entry) in base.paths() {
            let Kind::File { size, blob, .. } = entry.kind else { continue };
            let Some(twin) = compared.twins.get(path.as_os_str().as_encoded_bytes()) else {
                continue;
            };
            let Some(stat) = index.stats.get(number as usize) else { continue };
            let changed = (stat.changed.0, i64::from(stat.changed.1));
            let is_known = (stat.ino, changed, size)
                == (twin.from.ino, twin.from.changed, twin.from.size)
                && stat.changed < index.stamp;
            if is_known && twin.there.size == size {
                files.insert(path, (twin.there, blob));
            }
        }
        Ok(Some(AlikeFiles { of, files }))
    }
}

/// The index of the tree that `read` is of, for the snapshot that was made of it. Files that this
/// snapshot has from elsewhere, and folders, are looked at.
fn index_of(made: &Overlaid, read: &Manifest, index: &Index) -> Index {
    let mut known = HashMap::new();
    for (number, path, entry) in read.paths() {
        if !entry.is_directory() {
            known.insert(path, index.stats.get(number as usize).copied());
        }
    }
    let mut stats = vec![Stat::default(); made.manifest.count as usize];
    for (number, path, _) in made.manifest.paths() {
        let stat = known.get(&path).copied().flatten();
        if let Some(stat) = stat.filter(|_| !made.brought.contains_key(&number)) {
            stats[number as usize] = stat;
        }
    }
    Index { snapshot: made.id, stats, ..index.clone() }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::store::StoreOptions;

    /// Files that git's indexes vouch for in both trees are not read, and all others are.
    #[test]
    fn what_the_indexes_vouch_for_is_known_without_a_look() {
        let scratch = tempfile::tempdir().unwrap();
        let (app, other) = (scratch.path().join("app"), scratch.path().join("other"));
        let sh = |script: &str| {
            let mut run = Command::new("sh");
            for name in git::GIT_VARIABLES {
                run.env_remove(name);
            }
            for name in ["GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "EMAIL"] {
                run.env(name, "a@b");
            }
            run.args(["-ec", script]).current_dir(&app).status().unwrap().success()
        };
        std::fs::create_dir(&app).unwrap();
        let made = "git init -q; mkdir d; echo same >d/same; echo x >link; echo one >changed; \
                    printf 'out\n' >.gitignore; git add .; git commit -qm 1; git worktree add -q ../other";
        if !sh(made) {
            eprintln!(
                "NOT RUN: what_the_indexes_vouch_for_is_known_without_a_look: there is no git"
            );
            return;
        }
        let store = Store::init(&app).unwrap();
        // git vouches for no file that is as young as its index.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(sh(
            "for at in . ../other; do git -C $at read-tree HEAD; git -C $at status -s; done"
        ));
        store.snapshot(&SnapshotOptions::new(), &StoreOptions::new()).unwrap();
        std::fs::write(other.join("changed"), "two\n").unwrap();
        std::fs::write(other.join("out"), "mine\n").unwrap();
        let other = std::fs::canonicalize(&other).unwrap();
        let worktree = store.adopt(&other).unwrap();
        let operation = StoreOptions::new().operation();
        let alike = worktree.alike_in_project(&operation).unwrap().unwrap();
        let mut found: Vec<&Path> = alike.files.keys().map(PathBuf::as_path).collect();
        found.sort();
        assert_eq!(found, [".gitignore", "d/same", "link"].map(Path::new));
        // With them the tree has the content that it has.
        let status = worktree.status(&StoreOptions::new()).unwrap();
        let changes: Vec<_> = status.changes.iter().map(|it| it.path.as_path()).collect();
        assert_eq!(changes, [Path::new("changed")]);
        let base = store.catalog().object(worktree.now().unwrap().row.snapshot.unwrap()).unwrap();
        let known = store.catalog().manifest(status.snapshot, &base).unwrap();
        assert!(known.has(Path::new("out")) && known.has(Path::new("d/same")));
    }
}

//! Worktrees of the project's repository that are not the store's: git made them, or another tool.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Registry, is_gone};
use crate::error::{Context as _, Error, ErrorKind, Operation};
use crate::store::catalog::{Linked, State, WorktreeRow};
use crate::store::files::{bytes_of, open_dir, path_from};
use crate::store::git::{self, Registration};
use crate::store::id::token;
use crate::store::marker::{MarkPlace, Marker};
use crate::store::ownership::must_be_believed_root;
use crate::store::paths::Relocation;
use crate::tree::staging::stage_name;

impl Registry<'_> {
    /// The registrations of linked worktrees that the store neither knows nor makes, by id. The
    /// project is none of them.
    ///
    /// # Errors
    /// The repository or the store could not be read.
    pub(crate) fn others(self) -> Result<Vec<Registration>, Error> {
        let Some(project) = self.repository()? else { return Ok(Vec::new()) };
        let rows = self.catalog.worktrees()?;
        let tokens: HashSet<&str> = rows.iter().map(|row| row.token.as_str()).collect();
        let is_known = |folder: &PathBuf| {
            let place = MarkPlace::of_git(folder.clone());
            let mark = Marker::believed(&place, self.believed()).ok().flatten();
            mark.is_some_and(|mark| tokens.contains(&*mark.token))
        };
        let is_other = |entry: &Registration| {
            let root = entry.git_file.as_deref().and_then(Path::parent);
            let is_at = |root: &Path| rows.iter().any(|row| git::is_same(&self.root_of(row), root));
            root.is_some_and(|root| !is_at(root))
                && !rows.iter().any(|row| entry.is_made_for(&row.token, &self.temporary(row)))
        };
        let read = || -> io::Result<Vec<Registration>> {
            // Of those that the store knows, only the mark is read.
            let folders = git::registration_folders(&project.common)?.filter(|it| !is_known(it));
            folders.map(Registration::read).filter_map(Result::transpose).collect()
        };
        let mut others = read().context(Operation::Read, || &project.common)?;
        others.retain(is_other);
        others.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(others)
    }

    /// Whether the tree at `root`, of which the store knows nothing, was started from a store at
    /// this place of which nothing is left, such as after `git clean -ffdx` in the project.
    pub(crate) fn is_of_lost_store(self, root: &Path) -> bool {
        // A mark that cannot be read says nothing about this store.
        self.mark_at(root).ok().flatten().is_some_and(|mark| mark.store == self.layout.0)
    }

    /// Whether git has removed a linked worktree, and has made another one at its path: that one has no
    /// mark yet, and the mark of the row is in no registration. If a mark cannot be read, it may be
    /// the row's.
    ///
    /// # Errors
    /// The repository could not be read.
    pub(crate) fn is_replaced(self, row: &WorktreeRow) -> Result<bool, Error> {
        let Some(project) = self.repository()?.filter(|_| row.git.is_some()) else {
            return Ok(false);
        };
        let root = path_from(&row.path);
        let entries = project.registrations().context(Operation::Read, || &project.common)?;
        let mut is_new = false;
        for entry in &entries {
            match self.mark_of(entry) {
                Ok(Some(marker)) if marker.token != row.token => {}
                Ok(None) => {
                    let leads = |to: PathBuf| git::is_same(&to, &entry.folder);
                    is_new |= entry.is_of(&root) && git::leads_to(&root).is_ok_and(leads);
                }
                Ok(Some(_)) | Err(_) => return Ok(false),
            }
        }
        Ok(is_new)
    }

    /// Whether git has removed a worktree that it had made: nothing is at its path, and it has no
    /// registration. The folder around it is there, so its filesystem is mounted.
    ///
    /// # Errors
    /// The repository could not be read.
    pub(crate) fn is_removed_by_git(self, row: &WorktreeRow) -> Result<bool, Error> {
        let root = path_from(&row.path);
        let is_gone = is_gone(&root) && root.parent().is_some_and(Path::is_dir);
        if !is_gone || row.git.as_ref().is_none_or(|git| !git.is_adopted) {
            return Ok(false);
        }
        let Some(project) = self.repository()? else { return Ok(false) };
        let entries = project.registrations().context(Operation::Read, || &project.common)?;
        let may_be_its = |entry: &Registration| {
            entry.is_of(&root)
                || self.mark_of(entry).map_or(true, |it| it.is_some_and(|it| it.token == row.token))
        };
        Ok(!entries.iter().any(may_be_its))
    }

    /// Takes a worktree that git or another tool made into the registry, at the commit `commit`. Its
    /// tree is at `root`, or nothing is there, and `entry` is its registration; `project` is the root of the project. It
    /// has no base snapshot yet. It gets the first of `names` that is free; they are names that a
    /// worktree can have.
    ///
    /// # Errors
    /// [`ErrorKind::WorktreeExists`] if all names are taken; [`ErrorKind::InvalidName`] if there is
    /// none; [`ErrorKind::StoreUntrusted`]. Nothing was made.
    pub(crate) fn adopt(
        self,
        (entry, names): (&Registration, &[&str]),
        root: &Path,
        (commit, project): (&str, &Path),
    ) -> Result<WorktreeRow, Error> {
        let dir = match is_gone(root) {
            true => None,
            false => {
                must_be_believed_root(self.believed(), root, Operation::UseWorktree)?;
                Some(open_dir(root)?)
            }
        };
        // git writes this file once.
        let made = std::fs::metadata(entry.folder.join(git::COMMONDIR));
        let made = made.map(|it| it.mtime()).context(Operation::Read, || &entry.folder)?;
        let branch = git::branch_at(&entry.folder);
        let linked =
            Linked { commit: commit.to_owned(), branch, head: entry.head(), is_adopted: true };
        for name in names {
            let row = WorktreeRow {
                name: (*name).to_owned(),
                token: token(),
                path: bytes_of(root),
                snapshot: None,
                state: State::Starting,
                target: None,
                maker: stage_name(),
                created: made,
                git: Some(linked.clone()),
                slot: None,
            };
            let mut claim = match self.claim(vec![row]) {
                Err(error) if error.kind() == ErrorKind::WorktreeExists => continue,
                claim => claim?,
            };
            let row = claim.rows()[0].clone();
            let mark = || -> io::Result<()> {
                let Some(dir) = &dir else {
                    let place = MarkPlace::of_git(entry.folder.clone());
                    return self.marker(&row).write(&place, self.believed());
                };
                let roots = Relocation::between(&[bytes_of(project)], root);
                self.note_tree(&row, dir, roots.as_ref())?;
                self.mark(&row, root)
            };
            mark().context(Operation::Mark, || root)?;
            claim.finish()?;
            return Ok(WorktreeRow { state: State::Ready, ..row });
        }
        let (kind, why) = match names.is_empty() {
            false => (ErrorKind::WorktreeExists, "another worktree has its name"),
            true => (ErrorKind::InvalidName, "its folder has no name that a worktree can have"),
        };
        Err(Error::new(kind, Operation::UseWorktree, root, io::Error::other(why)))
    }
}

//! Worktrees of the project's repository that are not the store's: git made them, or another tool.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::Registry;
use crate::error::{Context as _, Error, Operation};
use crate::store::git::{self, Registration};
use crate::store::marker::{MarkPlace, Marker};

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
        let roots: Vec<PathBuf> = rows.iter().map(|row| self.root_of(row)).collect();
        let is_other = |entry: &Registration| {
            let place = MarkPlace::of_git(entry.folder.clone());
            let mark = Marker::believed(&place, self.believed()).ok().flatten();
            let root = entry.git_file.as_deref().and_then(Path::parent);
            mark.is_none_or(|mark| !tokens.contains(&*mark.token))
                && root.is_some_and(|root| !roots.iter().any(|known| git::is_same(known, root)))
                && !rows.iter().any(|row| entry.is_made_for(&row.token, &self.temporary(row)))
        };
        let entries = project.registrations().context(Operation::Read, || &project.common)?;
        let mut others: Vec<Registration> = entries.into_iter().filter(is_other).collect();
        others.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(others)
    }
}
